/* image.c - pictures in memory: reading by content, rotation, conversion, cropping, tiling.
   The formats are in png.c, jpeg.c, webp.c, gif.c and bmp.c, resizing in resize.c. */
#include "langevin/image.h"

#include <string.h>

#include "core/file.h"
#include "image_internal.h"

enum { FILE_BYTES = 1 << 30 }; /* a larger picture file is refused */

static size_t pixel_bytes(const lgv_image *image)
{
    return (size_t)image->channels * (size_t)image->bits / 8;
}

static uint8_t *pixel_at(const lgv_image *image, int x, int y)
{
    return (uint8_t *)image->pixels +
           ((size_t)y * (size_t)image->width + (size_t)x) * pixel_bytes(image);
}

lgv_status lgv_image_check_size(const char *name, int64_t width, int64_t height, lgv_error *err)
{
    if (width < 1 || height < 1)
        return lgv_fail(err, LGV_ERR_FORMAT, "%s: a picture of %lld x %lld pixels is empty", name,
                        (long long)width, (long long)height);
    if (width > LGV_IMAGE_SIDE || height > LGV_IMAGE_SIDE || width * height > LGV_IMAGE_PIXELS)
        return lgv_fail(err, LGV_ERR_UNSUPPORTED,
                        "%s: %lld x %lld pixels is too large; at most %d a side and %d in all",
                        name, (long long)width, (long long)height, LGV_IMAGE_SIDE,
                        LGV_IMAGE_PIXELS);
    return LGV_OK;
}

lgv_status lgv_image_check_claim(const char *name, int64_t width, int64_t height, size_t size,
                                 lgv_error *err)
{
    int64_t pixels = width * height;
    if (pixels <= 1 << 24 || (uint64_t)pixels / 4096 <= size) return LGV_OK;
    return lgv_fail(err, LGV_ERR_FORMAT,
                    "%s: %zu bytes claim to hold %lld x %lld pixels; the file is damaged", name,
                    size, (long long)width, (long long)height);
}

lgv_status lgv_image_new(int width, int height, int channels, int bits, lgv_image *out,
                         lgv_error *err)
{
    LGV_TRY(lgv_image_check_size("image", width, height, err));
    if (channels < 1 || channels > 4 || (bits != 8 && bits != 16))
        return lgv_fail(err, LGV_ERR_ARGUMENT,
                        "image: %d channels of %d bits; 1 to 4 channels of 8 or 16 are possible",
                        channels, bits);
    lgv_image image = {width, height, channels, bits, NULL};
    image.pixels = lgv_zalloc((size_t)width * (size_t)height, pixel_bytes(&image));
    if (!image.pixels)
        return lgv_fail(err, LGV_ERR_MEMORY, "image: out of memory for %d x %d pixels", width,
                        height);
    *out = image;
    return LGV_OK;
}

void lgv_image_free(lgv_image *image)
{
    if (!image) return;
    lgv_free(image->pixels);
    *image = (lgv_image){0};
}

/* ---- reading ---- */

typedef struct format {
    lgv_image_type type;
    const char *name;
    lgv_status (*probe)(const uint8_t *data, size_t size, const char *name, lgv_image_info *out,
                        int *orientation, lgv_error *err);
    lgv_status (*decode)(const uint8_t *data, size_t size, const char *name, lgv_image *out,
                         int *orientation, lgv_error *err);
} format;

static const format formats[] = {
    {LGV_IMAGE_UNKNOWN, "unknown", NULL, NULL},
    {LGV_IMAGE_PNG, "PNG", lgv_png_probe, lgv_png_decode},
    {LGV_IMAGE_JPEG, "JPEG", lgv_jpeg_probe, lgv_jpeg_decode},
    {LGV_IMAGE_WEBP, "WebP", lgv_webp_probe, lgv_webp_decode},
    {LGV_IMAGE_GIF, "GIF", lgv_gif_probe, lgv_gif_decode},
    {LGV_IMAGE_BMP, "BMP", lgv_bmp_probe, lgv_bmp_decode},
};

/* "BM" alone would take a text for a picture: the header's length must be one that exists. */
static bool is_bmp(const uint8_t *p, size_t size)
{
    static const uint8_t lengths[] = {12, 40, 52, 56, 64, 108, 124};
    return size >= 18 && p[0] == 'B' && p[1] == 'M' && !p[15] && !p[16] && !p[17] &&
           memchr(lengths, p[14], sizeof lengths);
}

lgv_image_type lgv_image_type_of(const void *data, size_t size)
{
    static const uint8_t png[8] = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n'},
                         jpeg[3] = {0xff, 0xd8, 0xff};
    const uint8_t *p = data;
    if (size >= 8 && memcmp(p, png, 8) == 0) return LGV_IMAGE_PNG;
    if (size >= 3 && memcmp(p, jpeg, 3) == 0) return LGV_IMAGE_JPEG;
    if (size >= 12 && memcmp(p, "RIFF", 4) == 0 && memcmp(p + 8, "WEBP", 4) == 0)
        return LGV_IMAGE_WEBP;
    if (size >= 6 && (memcmp(p, "GIF87a", 6) == 0 || memcmp(p, "GIF89a", 6) == 0))
        return LGV_IMAGE_GIF;
    return is_bmp(p, size) ? LGV_IMAGE_BMP : LGV_IMAGE_UNKNOWN;
}

const char *lgv_image_type_name(lgv_image_type type)
{
    size_t n = sizeof formats / sizeof *formats;
    return formats[(size_t)type < n ? (size_t)type : 0].name;
}

static lgv_status unknown_type(const char *name, lgv_error *err)
{
    return lgv_fail(err, LGV_ERR_FORMAT,
                    "%s: not a PNG, JPEG, WebP, GIF or BMP picture (by its content)", name);
}

lgv_status lgv_image_probe_memory(const void *data, size_t size, const char *name,
                                  lgv_image_info *out, lgv_error *err)
{
    int orientation = 1;
    lgv_image_info info = {0};
    const format *f = &formats[lgv_image_type_of(data, size)];
    if (!f->probe) return unknown_type(name, err);
    LGV_TRY(f->probe(data, size, name, &info, &orientation, err));
    if (orientation >= 5) {
        int width = info.width;
        info.width = info.height;
        info.height = width;
    }
    *out = info;
    return LGV_OK;
}

lgv_status lgv_image_probe(const char *path, lgv_image_info *out, lgv_error *err)
{
    lgv_map map = {0};
    LGV_TRY(lgv_map_open(path, &map, err));
    lgv_status status = lgv_image_probe_memory(map.data, map.size, path, out, err);
    lgv_map_close(&map);
    return status;
}

/* Where pixel (x, y) of the upright picture lies in the stored one of w x h (EXIF 2.3, 4.6.4 A). */
static void stored_place(int orientation, int w, int h, int x, int y, int *sx, int *sy)
{
    bool swap = orientation >= 5;
    int u = swap ? y : x, v = swap ? x : y;
    bool mirror_x = orientation == 2 || orientation == 3 || orientation == 7 || orientation == 8;
    bool mirror_y = orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7;
    *sx = mirror_x ? w - 1 - u : u;
    *sy = mirror_y ? h - 1 - v : v;
}

static lgv_status turn_upright(lgv_image *image, int orientation, lgv_error *err)
{
    if (orientation == 1) return LGV_OK;
    bool swap = orientation >= 5;
    int width = swap ? image->height : image->width, height = swap ? image->width : image->height;
    lgv_image up = {0};
    LGV_TRY(lgv_image_new(width, height, image->channels, image->bits, &up, err));
    size_t size = pixel_bytes(image);
    for (int y = 0; y < height; y++) {
        for (int x = 0; x < width; x++) {
            int sx, sy;
            stored_place(orientation, image->width, image->height, x, y, &sx, &sy);
            memcpy(pixel_at(&up, x, y), pixel_at(image, sx, sy), size);
        }
    }
    lgv_image_free(image);
    *image = up;
    return LGV_OK;
}

lgv_status lgv_image_decode(const void *data, size_t size, const char *name, lgv_image *out,
                            lgv_error *err)
{
    int orientation = 1;
    lgv_image image = {0};
    const format *f = &formats[lgv_image_type_of(data, size)];
    if (!f->decode) return unknown_type(name, err);
    LGV_TRY(f->decode(data, size, name, &image, &orientation, err));
    lgv_status status = turn_upright(&image, orientation, err);
    if (status)
        lgv_image_free(&image);
    else
        *out = image;
    return status;
}

lgv_status lgv_image_load(const char *path, lgv_image *out, lgv_error *err)
{
    char *data = NULL;
    size_t size = 0;
    LGV_TRY(lgv_file_read(path, FILE_BYTES, &data, &size, err));
    lgv_status status = lgv_image_decode(data, size, path, out, err);
    lgv_free(data);
    return status;
}

static unsigned read_uint(const uint8_t *p, int bytes, bool little)
{
    unsigned v = 0;
    for (int i = 0; i < bytes; i++) v |= (unsigned)p[i] << 8 * (little ? i : bytes - 1 - i);
    return v;
}

/* TIFF 6.0: byte order, 42, offset of the first directory; entries of 12 bytes {tag, type, count,
   value}. */
int lgv_exif_orientation(const uint8_t *data, size_t size)
{
    enum { ORIENTATION = 0x0112, SHORT = 3 };
    if (size >= 6 && memcmp(data, "Exif\0\0", 6) == 0) data += 6, size -= 6;
    if (size < 8 || (memcmp(data, "II*\0", 4) != 0 && memcmp(data, "MM\0*", 4) != 0)) return 1;
    bool little = data[0] == 'I';
    size_t at = read_uint(data + 4, 4, little);
    if (at > size - 2) return 1;
    unsigned entries = read_uint(data + at, 2, little);
    for (at += 2; entries > 0 && size - at >= 12; entries--, at += 12) {
        const uint8_t *p = data + at;
        if (read_uint(p, 2, little) != ORIENTATION || read_uint(p + 2, 2, little) != SHORT)
            continue;
        unsigned value = read_uint(p + 8, 2, little);
        return value >= 1 && value <= 8 ? (int)value : 1;
    }
    return 1;
}

/* ---- conversion ---- */

static uint8_t to_8bit(const lgv_image *in, size_t i)
{
    if (in->bits == 8) return ((const uint8_t *)in->pixels)[i];
    return (uint8_t)((((const uint16_t *)in->pixels)[i] * 255u + 32767u) / 65535u);
}

lgv_status lgv_image_convert(const lgv_image *in, int channels, const uint8_t background[3],
                             lgv_image *out, lgv_error *err)
{
    static const uint8_t white[3] = {255, 255, 255};
    if (channels != 1 && channels != 3)
        return lgv_fail(err, LGV_ERR_ARGUMENT,
                        "image: conversion to %d channels; 1 and 3 are possible", channels);
    const uint8_t *under = background ? background : white;
    lgv_image image = {0};
    LGV_TRY(lgv_image_new(in->width, in->height, channels, 8, &image, err));
    bool colour = in->channels >= 3, alpha = in->channels % 2 == 0;
    size_t n = (size_t)in->width * (size_t)in->height, step = (size_t)in->channels;
    uint8_t *dst = image.pixels;
    if (in->bits == 8 && in->channels == channels) {
        memcpy(dst, in->pixels, n * step);
        *out = image;
        return LGV_OK;
    }
    for (size_t i = 0; i < n; i++) {
        unsigned rgb[3];
        for (size_t c = 0; c < 3; c++) {
            rgb[c] = to_8bit(in, i * step + (colour ? c : 0));
            if (alpha) {
                unsigned a = to_8bit(in, i * step + step - 1);
                rgb[c] = (a * rgb[c] + (255 - a) * under[c] + 127) / 255;
            }
        }
        if (channels == 3) {
            for (size_t c = 0; c < 3; c++) dst[3 * i + c] = (uint8_t)rgb[c];
        } else { /* ITU-R 601 as PIL rounds it; equal channels keep their value */
            dst[i] =
                (uint8_t)((rgb[0] * 19595u + rgb[1] * 38470u + rgb[2] * 7471u + 0x8000u) >> 16);
        }
    }
    *out = image;
    return LGV_OK;
}

/* ---- cropping, mirroring, tiling ---- */

/* Copies w x h pixels; both rectangles lie inside. */
static void blit(lgv_image *dst, int dx, int dy, const lgv_image *src, int sx, int sy, int w, int h)
{
    for (int y = 0; y < h; y++)
        memcpy(pixel_at(dst, dx, dy + y), pixel_at(src, sx, sy + y), (size_t)w * pixel_bytes(src));
}

lgv_status lgv_image_crop(const lgv_image *in, int x, int y, int width, int height, lgv_image *out,
                          lgv_error *err)
{
    if (x < 0 || y < 0 || width < 1 || height < 1 || width > in->width - x ||
        height > in->height - y)
        return lgv_fail(err, LGV_ERR_ARGUMENT,
                        "image: the rectangle %d x %d at (%d, %d) is not inside %d x %d", width,
                        height, x, y, in->width, in->height);
    lgv_image image = {0};
    LGV_TRY(lgv_image_new(width, height, in->channels, in->bits, &image, err));
    blit(&image, 0, 0, in, x, y, width, height);
    *out = image;
    return LGV_OK;
}

/* Python's round(d / 2): halves go to the even neighbour. */
static int half_even(int d)
{
    return d / 2 + (d % 2 && d / 2 % 2);
}

lgv_status lgv_image_center_crop(const lgv_image *in, int width, int height, lgv_image *out,
                                 lgv_error *err)
{
    lgv_image image = {0};
    LGV_TRY(lgv_image_new(width, height, in->channels, in->bits, &image, err));
    int dx = width > in->width ? (width - in->width) / 2 : 0;
    int dy = height > in->height ? (height - in->height) / 2 : 0;
    int sx = in->width > width ? half_even(in->width - width) : 0;
    int sy = in->height > height ? half_even(in->height - height) : 0;
    blit(&image, dx, dy, in, sx, sy, in->width < width ? in->width : width,
         in->height < height ? in->height : height);
    *out = image;
    return LGV_OK;
}

void lgv_image_flip(lgv_image *image)
{
    size_t size = pixel_bytes(image);
    uint8_t tmp[8];
    for (int y = 0; y < image->height; y++) {
        for (int a = 0, b = image->width - 1; a < b; a++, b--) {
            memcpy(tmp, pixel_at(image, a, y), size);
            memcpy(pixel_at(image, a, y), pixel_at(image, b, y), size);
            memcpy(pixel_at(image, b, y), tmp, size);
        }
    }
}

static lgv_status check_tiles(const lgv_image *images, size_t n, int columns, lgv_error *err)
{
    if (n < 1 || n > LGV_IMAGE_PIXELS || columns < 0)
        return lgv_fail(err, LGV_ERR_ARGUMENT, "image grid: %zu images in %d columns", n, columns);
    for (size_t i = 0; i < n; i++) {
        const lgv_image *a = &images[0], *b = &images[i];
        if (b->width != a->width || b->height != a->height || b->channels != a->channels ||
            b->bits != 8)
            return lgv_fail(err, LGV_ERR_ARGUMENT,
                            "image grid: image %zu is %d x %d x %d of %d bits, image 0 is "
                            "%d x %d x %d; all must be alike and of 8 bits",
                            i, b->width, b->height, b->channels, b->bits, a->width, a->height,
                            a->channels);
    }
    return LGV_OK;
}

lgv_status lgv_image_grid(const lgv_image *images, size_t n, int columns, lgv_image *out,
                          lgv_error *err)
{
    enum { PADDING = 2 };
    LGV_TRY(check_tiles(images, n, columns, err));
    int64_t across = columns;
    if (!columns) {
        while (across * across < (int64_t)n) across++;
    }
    across = lgv_min_i64(across, (int64_t)n);
    int64_t down = lgv_ceil_div((int64_t)n, across);
    int64_t step_x = images[0].width + PADDING, step_y = images[0].height + PADDING;
    int64_t width = across * step_x + PADDING, height = down * step_y + PADDING;
    LGV_TRY(lgv_image_check_size("image grid", width, height, err));
    lgv_image image = {0};
    LGV_TRY(lgv_image_new((int)width, (int)height, images[0].channels, 8, &image, err));
    for (int64_t i = 0; i < (int64_t)n; i++) {
        blit(&image, (int)(i % across * step_x) + PADDING, (int)(i / across * step_y) + PADDING,
             &images[i], 0, 0, images[i].width, images[i].height);
    }
    *out = image;
    return LGV_OK;
}

void lgv_image_short_side(int width, int height, int size, int *out_width, int *out_height)
{
    int shorter = width <= height ? width : height, longer = width <= height ? height : width;
    int64_t stretched = (int64_t)size * longer / shorter;
    int other = (int)lgv_min_i64(stretched, INT32_MAX);
    *out_width = width <= height ? size : other;
    *out_height = width <= height ? other : size;
}
