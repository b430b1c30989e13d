/* bmp.c - Windows and OS/2 bitmaps: 1, 4, 8 (plain and run-length), 16, 24 and 32 bits.
   Own code because Debian has no light library for it and the format is small. Every read goes through a
   check against the end of the data; pixels are those that PIL gives. A file that ends early is an
   error, as for the other formats. */
#include <string.h>

#include "image_internal.h"

enum { RAW = 0, RLE8 = 1, RLE4 = 2, BITFIELDS = 3, FILE_HEADER = 14 };

typedef struct bmp {
    const uint8_t *data;
    size_t size;
    const char *name;
    lgv_error *err;
    int64_t width, height;
    bool top_down;
    int bits;
    uint32_t compression;
    uint32_t mask[4]; /* red, green, blue, alpha */
    size_t pixels_at;
    uint8_t palette[256][3];
    int colours;
    bool grey; /* all colours of the palette are */
} bmp;

static uint32_t le16(const uint8_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8;
}

static uint32_t le32(const uint8_t *p)
{
    return le16(p) | le16(p + 2) << 16;
}

static lgv_status truncated(const bmp *b)
{
    return lgv_fail(b->err, LGV_ERR_FORMAT, "%s: the BMP picture is truncated", b->name);
}

static lgv_status unsupported(const bmp *b)
{
    return lgv_fail(b->err, LGV_ERR_UNSUPPORTED,
                    "%s: a BMP picture of %d bits and compression %u is not supported", b->name,
                    b->bits, (unsigned)b->compression);
}

/* ---- the header ---- */

/* The palette stands after the header; `entry` is 3 or 4 bytes of blue, green, red. */
static lgv_status read_palette(bmp *b, size_t at, size_t entry, uint32_t declared)
{
    uint32_t most = 1u << b->bits, n = declared && declared < most ? declared : most;
    if (at > b->size || n * entry > b->size - at) return truncated(b);
    b->grey = true;
    b->colours = (int)n;
    for (uint32_t i = 0; i < n; i++) {
        const uint8_t *p = b->data + at + i * entry;
        uint8_t *c = b->palette[i];
        c[0] = p[2];
        c[1] = p[1];
        c[2] = p[0];
        b->grey = b->grey && c[0] == c[1] && c[1] == c[2];
    }
    return LGV_OK;
}

/* Masks of whole bytes for 32 bits, 5-5-5 or 5-6-5 for 16. */
static lgv_status check_masks(const bmp *b)
{
    const uint32_t *m = b->mask;
    bool ok = b->bits == 16 ? (m[0] == 0xf800 && m[1] == 0x7e0 && m[2] == 0x1f) ||
                                  (m[0] == 0x7c00 && m[1] == 0x3e0 && m[2] == 0x1f)
                            : b->bits == 32 || b->bits == 24;
    for (int i = 0; b->bits != 16 && i < 4; i++) {
        bool byte = m[i] == 0xff || m[i] == 0xff00 || m[i] == 0xff0000 || m[i] == 0xff000000;
        ok = ok && (byte || (i == 3 && !m[i]));
    }
    if (b->bits == 24) ok = ok && m[0] == 0xff0000 && m[1] == 0xff00 && m[2] == 0xff && !m[3];
    return ok ? LGV_OK : unsupported(b);
}

static lgv_status read_masks(bmp *b, size_t header)
{
    static const uint32_t five[4] = {0x7c00, 0x3e0, 0x1f, 0},
                          eight[4] = {0xff0000, 0xff00, 0xff, 0};
    memcpy(b->mask, b->bits == 16 ? five : eight, sizeof b->mask);
    if (b->compression != BITFIELDS) return LGV_OK;
    /* They stand in the longer headers, and behind the one of 40 bytes, which has no alpha. */
    const uint8_t *p = b->data + FILE_HEADER + 40;
    if (b->size < FILE_HEADER + 52) return truncated(b);
    for (int i = 0; i < 3; i++) b->mask[i] = le32(p + 4 * i);
    if (header >= 56 && header != 64 && b->size >= FILE_HEADER + 56) b->mask[3] = le32(p + 12);
    static const uint32_t none[4] = {0};
    if (b->bits == 32 && !memcmp(b->mask, none, sizeof none)) /* seen in the wild: means BGRA */
        memcpy(b->mask, ((const uint32_t[4]){0xff0000, 0xff00, 0xff, 0xff000000}), sizeof none);
    return check_masks(b);
}

static lgv_status check_kind(const bmp *b)
{
    bool ok = false;
    switch (b->compression) {
    case RAW:
        ok = b->bits == 1 || b->bits == 4 || b->bits == 8 || b->bits == 16 || b->bits == 24 ||
             b->bits == 32;
        break;
    case RLE8: ok = b->bits == 8 && !b->top_down; break;
    case RLE4: ok = b->bits == 4 && !b->top_down; break;
    case BITFIELDS: ok = b->bits == 16 || b->bits == 24 || b->bits == 32; break;
    default: break;
    }
    return ok ? LGV_OK : unsupported(b);
}

static lgv_status read_header(bmp *b)
{
    const uint8_t *d = b->data;
    if (b->size < FILE_HEADER + 12) return truncated(b);
    size_t header = le32(d + 14);
    if (header != 12 && header != 40 && header != 52 && header != 56 && header != 64 &&
        header != 108 && header != 124)
        return lgv_fail(b->err, LGV_ERR_UNSUPPORTED, "%s: a BMP header of %zu bytes is unknown",
                        b->name, header);
    if (b->size - FILE_HEADER < header) return truncated(b);
    uint32_t declared = 0;
    b->pixels_at = le32(d + 10);
    if (header == 12) {
        b->width = le16(d + 18);
        b->height = le16(d + 20);
        b->bits = (int)le16(d + 24);
    } else {
        b->width = (int32_t)le32(d + 18);
        b->height = (int32_t)le32(d + 22);
        b->top_down = b->height < 0;
        if (b->top_down) b->height = -b->height;
        b->bits = (int)le16(d + 28);
        b->compression = le32(d + 30);
        declared = le32(d + 46);
    }
    LGV_TRY(lgv_image_check_size(b->name, b->width, b->height, b->err));
    LGV_TRY(check_kind(b));
    if (b->bits > 8) return read_masks(b, header);
    return read_palette(b, FILE_HEADER + header, header == 12 ? 3 : 4, declared);
}

static int channels_of(const bmp *b)
{
    if (b->bits <= 8) return b->grey ? 1 : 3;
    return b->mask[3] ? 4 : 3;
}

/* ---- pixels ---- */

static void put_index(const bmp *b, int index, uint8_t *to)
{
    static const uint8_t black[3] = {0};
    const uint8_t *c = index < b->colours ? b->palette[index] : black;
    if (b->grey)
        to[0] = c[0];
    else
        memcpy(to, c, 3);
}

static uint8_t masked(uint32_t v, uint32_t mask)
{
    int shift = __builtin_ctz(mask);
    return (uint8_t)((v & mask) >> shift) * 255u / (mask >> shift);
}

/* One uncompressed row. */
static void put_row(const bmp *b, const uint8_t *from, int channels, uint8_t *to)
{
    int bytes = b->bits / 8;
    for (int64_t x = 0; x < b->width; x++, to += channels) {
        if (b->bits <= 8) {
            int per = 8 / b->bits, place = (int)(x % per);
            put_index(b, from[x / per] >> (8 - b->bits * (place + 1)) & ((1 << b->bits) - 1), to);
            continue;
        }
        const uint8_t *p = from + x * bytes;
        uint32_t v = b->bits == 16 ? le16(p) : le16(p) | (uint32_t)p[2] << 16;
        if (b->bits == 32) v |= (uint32_t)p[3] << 24;
        for (int c = 0; c < channels; c++) to[c] = masked(v, b->mask[c]);
    }
}

static uint8_t *row_at(const bmp *b, lgv_image *image, int64_t y)
{
    int64_t line = b->top_down ? y : b->height - 1 - y;
    return (uint8_t *)image->pixels + (size_t)(line * b->width * image->channels);
}

static size_t row_bytes(const bmp *b)
{
    return (size_t)((b->width * b->bits + 31) / 32 * 4);
}

static void read_plain(const bmp *b, lgv_image *image)
{
    for (int64_t y = 0; y < b->height; y++)
        put_row(b, b->data + b->pixels_at + row_bytes(b) * (size_t)y, image->channels,
                row_at(b, image, y));
}

/* n pixels of a run-length picture beginning at (x, y), cut at the row's end. from: one byte repeated
   (RLE4: its two halves in turn), or n packed values. */
static void put_run(const bmp *b, lgv_image *image, int64_t x, int64_t y, int n,
                    const uint8_t *from, bool repeated)
{
    uint8_t *to = row_at(b, image, y) + x * image->channels;
    for (int i = 0; i < n && x + i < b->width; i++, to += image->channels) {
        uint8_t v = b->bits == 8 ? from[repeated ? 0 : i] : from[repeated ? 0 : i / 2];
        put_index(b, b->bits == 8 ? v : i % 2 ? v & 15 : v >> 4, to);
    }
}

static lgv_status read_runs(const bmp *b, lgv_image *image)
{
    int64_t x = 0, y = 0;
    for (int64_t r = 0; r < b->height; r++) /* what no run covers has colour 0 */
        for (int64_t c = 0; c < b->width; c++)
            put_index(b, 0, row_at(b, image, r) + c * image->channels);
    for (size_t at = b->pixels_at; y < b->height;) {
        if (b->size - at < 2) return truncated(b);
        int n = b->data[at], code = b->data[at + 1];
        at += 2;
        if (n) {
            put_run(b, image, x, y, n, b->data + at - 1, true);
            x = lgv_min_i64(x + n, b->width);
        } else if (code == 0) {
            x = 0;
            y++;
        } else if (code == 1) {
            return LGV_OK;
        } else if (code == 2) {
            if (b->size - at < 2) return truncated(b);
            x = lgv_min_i64(x + b->data[at], b->width);
            y += b->data[at + 1];
            at += 2;
        } else {
            size_t bytes = b->bits == 8 ? (size_t)code : ((size_t)code + 1) / 2;
            if (b->size - at < bytes + bytes % 2) return truncated(b);
            put_run(b, image, x, y, code, b->data + at, false);
            x = lgv_min_i64(x + code, b->width);
            at += bytes + bytes % 2;
        }
    }
    return LGV_OK;
}

/* Plain pixels must all be there; runs may leave many out, but not most of a large picture. */
static lgv_status check_room(const bmp *b)
{
    if (b->pixels_at > b->size) return truncated(b);
    if (b->compression == RLE8 || b->compression == RLE4)
        return lgv_image_check_claim(b->name, b->width, b->height, b->size, b->err);
    return (b->size - b->pixels_at) / row_bytes(b) < (size_t)b->height ? truncated(b) : LGV_OK;
}

lgv_status lgv_bmp_probe(const uint8_t *data, size_t size, const char *name, lgv_image_info *out,
                         int *orientation, lgv_error *err)
{
    bmp b = {.data = data, .size = size, .name = name, .err = err};
    LGV_TRY(read_header(&b));
    *out = (lgv_image_info){LGV_IMAGE_BMP, (int)b.width, (int)b.height, channels_of(&b), 8};
    *orientation = 1;
    return LGV_OK;
}

lgv_status lgv_bmp_decode(const uint8_t *data, size_t size, const char *name, lgv_image *out,
                          int *orientation, lgv_error *err)
{
    bmp b = {.data = data, .size = size, .name = name, .err = err};
    lgv_image image = {0};
    LGV_TRY(read_header(&b));
    LGV_TRY(check_room(&b));
    LGV_TRY(lgv_image_new((int)b.width, (int)b.height, channels_of(&b), 8, &image, err));
    lgv_status s = LGV_OK;
    if (b.compression == RLE8 || b.compression == RLE4)
        s = read_runs(&b, &image);
    else
        read_plain(&b, &image);
    if (s)
        lgv_image_free(&image);
    else
        *out = image;
    *orientation = 1;
    return s;
}
