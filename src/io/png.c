/* png.c - PNG through libpng.
   What decoding will give is read by an own walk over the chunks, so that a probe decodes nothing
   and all memory is taken before libpng may jump: nothing that a jump could leak is held inside.
   libpng is told to skip every chunk but those the pixels need, which also keeps compressed text
   and profiles shut. */
#include <png.h>
#include <setjmp.h>
#include <string.h>

#include "core/file.h"
#include "image_internal.h"

static uint32_t be32(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

/* ---- the header ---- */

typedef struct header {
    int64_t width, height;
    int depth, colour; /* as in IHDR */
    bool transparent;  /* a usable tRNS chunk */
    int64_t palette;   /* entries */
    int orientation;
} header;

static bool depth_allowed(int colour, int depth)
{
    switch (colour) {
    case PNG_COLOR_TYPE_GRAY:
        return depth == 1 || depth == 2 || depth == 4 || depth == 8 || depth == 16;
    case PNG_COLOR_TYPE_PALETTE: return depth == 1 || depth == 2 || depth == 4 || depth == 8;
    case PNG_COLOR_TYPE_RGB:
    case PNG_COLOR_TYPE_GRAY_ALPHA:
    case PNG_COLOR_TYPE_RGB_ALPHA: return depth == 8 || depth == 16;
    default: return false;
    }
}

/* libpng drops a tRNS chunk of the wrong length, so it must not be counted here either. */
static bool usable_trns(const header *h, int64_t length)
{
    switch (h->colour) {
    case PNG_COLOR_TYPE_GRAY: return length == 2;
    case PNG_COLOR_TYPE_RGB: return length == 6;
    case PNG_COLOR_TYPE_PALETTE: return length >= 1 && length <= h->palette;
    default: return false;
    }
}

/* Walks the chunks up to IEND or the end of the data; a truncated file is noticed when it is
   decoded. */
static lgv_status read_header(const uint8_t *data, size_t size, const char *name, header *out,
                              lgv_error *err)
{
    header h = {.orientation = 1};
    bool pixels_seen = false;
    if (size < 33 || memcmp(data + 8, "\0\0\0\rIHDR", 8) != 0)
        return lgv_fail(err, LGV_ERR_FORMAT, "%s: truncated or not a PNG picture: it has no header",
                        name);
    h.width = be32(data + 16);
    h.height = be32(data + 20);
    h.depth = data[24];
    h.colour = data[25];
    if (!depth_allowed(h.colour, h.depth))
        return lgv_fail(err, LGV_ERR_FORMAT, "%s: a PNG has no colour type %d of %d bits", name,
                        h.colour, h.depth);
    LGV_TRY(lgv_image_check_size(name, h.width, h.height, err));
    for (size_t at = 33; size - at >= 12;) {
        size_t length = be32(data + at);
        const uint8_t *type = data + at + 4, *body = data + at + 8;
        if (length > size - at - 12 || memcmp(type, "IEND", 4) == 0) break;
        if (memcmp(type, "PLTE", 4) == 0) h.palette = (int64_t)length / 3;
        if (memcmp(type, "IDAT", 4) == 0) pixels_seen = true;
        if (memcmp(type, "tRNS", 4) == 0 && !pixels_seen && usable_trns(&h, (int64_t)length))
            h.transparent = true;
        if (memcmp(type, "eXIf", 4) == 0) h.orientation = lgv_exif_orientation(body, length);
        at += length + 12;
    }
    *out = h;
    return LGV_OK;
}

static int channels_of(const header *h)
{
    int colours = h->colour & PNG_COLOR_MASK_COLOR ? 3 : 1;
    return colours + (h->colour & PNG_COLOR_MASK_ALPHA || h->transparent);
}

static int bits_of(const header *h)
{
    return h->depth == 16 ? 16 : 8;
}

lgv_status lgv_png_probe(const uint8_t *data, size_t size, const char *name, lgv_image_info *out,
                         int *orientation, lgv_error *err)
{
    header h;
    LGV_TRY(read_header(data, size, name, &h, err));
    *out =
        (lgv_image_info){LGV_IMAGE_PNG, (int)h.width, (int)h.height, channels_of(&h), bits_of(&h)};
    *orientation = h.orientation;
    return LGV_OK;
}

/* ---- libpng's hooks ---- */

/* Everything libpng's callbacks touch. Lives outside the functions that call setjmp. */
typedef struct job {
    jmp_buf jump;
    char message[128];
    bool no_memory;      /* libpng then says no more than "insufficient memory" of some chunk */
    const uint8_t *data; /* reading */
    size_t size, at;
    lgv_bytes out; /* writing */
} job;

static void on_error(png_structp png, png_const_charp message)
{
    job *j = png_get_error_ptr(png);
    strncpy(j->message, message, sizeof j->message - 1);
    longjmp(j->jump, 1);
}

static void on_warning(png_structp png, png_const_charp message) {}

static png_voidp on_alloc(png_structp png, png_alloc_size_t size)
{
    job *j = png_get_mem_ptr(png);
    void *p = lgv_alloc(size, 1);
    j->no_memory |= !p;
    return p;
}

static void on_free(png_structp png, png_voidp p)
{
    lgv_free(p);
}

static void on_read(png_structp png, png_bytep dst, size_t size)
{
    job *j = png_get_io_ptr(png);
    if (size > j->size - j->at) png_error(png, "the file is truncated");
    memcpy(dst, j->data + j->at, size);
    j->at += size;
}

static void on_write(png_structp png, png_bytep src, size_t size)
{
    job *j = png_get_io_ptr(png);
    if (!lgv_bytes_put(&j->out, src, size)) png_error(png, "out of memory");
}

static void on_flush(png_structp png) {}

/* Row pointers into image, freed by the caller. */
static uint8_t **row_pointers(const lgv_image *image, lgv_error *err)
{
    uint8_t **rows = lgv_alloc((size_t)image->height, sizeof *rows);
    if (!rows) {
        lgv_fail(err, LGV_ERR_MEMORY, "image: out of memory for %d rows", image->height);
        return NULL;
    }
    size_t row = (size_t)image->width * (size_t)image->channels * (size_t)image->bits / 8;
    for (int y = 0; y < image->height; y++) rows[y] = (uint8_t *)image->pixels + (size_t)y * row;
    return rows;
}

/* ---- decoding ---- */

/* False when libpng gave up; j->message then says why. */
static bool read_pixels(job *j, png_structp png, png_infop info, const lgv_image *image,
                        uint8_t **rows)
{
    if (setjmp(j->jump)) return false;
    png_set_read_fn(png, j, on_read);
    png_set_user_limits(png, LGV_IMAGE_SIDE, LGV_IMAGE_SIDE);
    png_set_keep_unknown_chunks(png, PNG_HANDLE_CHUNK_NEVER, NULL, -1);
    png_read_info(png, info);
    png_set_expand(png);
    if (__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__) png_set_swap(png);
    png_set_interlace_handling(png);
    png_read_update_info(png, info);
    if (png_get_rowbytes(png, info) !=
        (size_t)image->width * (size_t)image->channels * (size_t)image->bits / 8)
        png_error(png, "a damaged tRNS or PLTE chunk");
    png_read_image(png, rows);
    png_read_end(png, NULL);
    return true;
}

/* Deflate shrinks at most 1032-fold: a picture that would need more is cut off, whatever its header
   says. */
static lgv_status check_plausible(const header *h, size_t size, const char *name, lgv_error *err)
{
    static const int samples[7] = {1, 0, 3, 1, 2, 0, 4};
    int64_t row = (h->width * h->depth * samples[h->colour] + 7) / 8;
    if (row * h->height / 1032 > (int64_t)size)
        return lgv_fail(err, LGV_ERR_FORMAT,
                        "%s: %zu bytes cannot hold %lld x %lld pixels; the file is truncated", name,
                        size, (long long)h->width, (long long)h->height);
    return LGV_OK;
}

static lgv_status decode_into(job *j, const char *name, const lgv_image *image, lgv_error *err)
{
    uint8_t **rows = row_pointers(image, err);
    if (!rows) return LGV_ERR_MEMORY;
    png_infop info = NULL;
    png_structp png = png_create_read_struct_2(PNG_LIBPNG_VER_STRING, j, on_error, on_warning, j,
                                               on_alloc, on_free);
    if (png) info = png_create_info_struct(png);
    lgv_status status = LGV_OK;
    if (!info)
        status = lgv_fail(err, LGV_ERR_MEMORY, "%s: out of memory", name);
    else if (!read_pixels(j, png, info, image, rows))
        status = j->no_memory ? lgv_fail(err, LGV_ERR_MEMORY, "%s: out of memory", name)
                              : lgv_fail(err, LGV_ERR_FORMAT, "%s: the PNG picture is damaged: %s",
                                         name, j->message);
    png_destroy_read_struct(&png, &info, NULL);
    lgv_free(rows);
    return status;
}

lgv_status lgv_png_decode(const uint8_t *data, size_t size, const char *name, lgv_image *out,
                          int *orientation, lgv_error *err)
{
    header h;
    LGV_TRY(read_header(data, size, name, &h, err));
    LGV_TRY(check_plausible(&h, size, name, err));
    lgv_image image = {0};
    LGV_TRY(lgv_image_new((int)h.width, (int)h.height, channels_of(&h), bits_of(&h), &image, err));
    job j = {.data = data, .size = size};
    lgv_status status = decode_into(&j, name, &image, err);
    if (status) {
        lgv_image_free(&image);
        return status;
    }
    *out = image;
    *orientation = h.orientation;
    return LGV_OK;
}

/* ---- encoding ---- */

static bool is_ascii(const char *s)
{
    for (; *s; s++) {
        if ((unsigned char)*s >= 0x80) return false;
    }
    return true;
}

static bool write_pixels(job *j, png_structp png, png_infop info, const lgv_image *image,
                         uint8_t **rows, const png_text *text, int texts)
{
    static const int colour[5] = {0, PNG_COLOR_TYPE_GRAY, PNG_COLOR_TYPE_GRAY_ALPHA,
                                  PNG_COLOR_TYPE_RGB, PNG_COLOR_TYPE_RGB_ALPHA};
    if (setjmp(j->jump)) return false;
    png_set_write_fn(png, j, on_write, on_flush);
    png_set_IHDR(png, info, (png_uint_32)image->width, (png_uint_32)image->height, 8,
                 colour[image->channels], PNG_INTERLACE_NONE, PNG_COMPRESSION_TYPE_DEFAULT,
                 PNG_FILTER_TYPE_DEFAULT);
    if (texts) png_set_text(png, info, text, texts);
    png_write_info(png, info);
    png_write_image(png, rows);
    png_write_end(png, NULL);
    return true;
}

static lgv_status encode_with(job *j, const lgv_image *image, const png_text *text, int texts,
                              lgv_error *err)
{
    uint8_t **rows = row_pointers(image, err);
    if (!rows) return LGV_ERR_MEMORY;
    png_infop info = NULL;
    png_structp png = png_create_write_struct_2(PNG_LIBPNG_VER_STRING, j, on_error, on_warning, j,
                                                on_alloc, on_free);
    if (png) info = png_create_info_struct(png);
    lgv_status status = LGV_OK;
    if (!info)
        status = lgv_fail(err, LGV_ERR_MEMORY, "image: out of memory");
    else if (!write_pixels(j, png, info, image, rows, text, texts))
        status = lgv_fail(err, LGV_ERR_MEMORY, "image: the PNG picture cannot be written: %s",
                          j->message);
    png_destroy_write_struct(&png, &info);
    lgv_free(rows);
    return status;
}

lgv_status lgv_image_encode_png(const lgv_image *image, const lgv_png_text *text, size_t texts,
                                uint8_t **data, size_t *size, lgv_error *err)
{
    if (image->bits != 8 || image->channels < 1 || image->channels > 4 || !image->pixels ||
        texts > 1000)
        return lgv_fail(err, LGV_ERR_ARGUMENT,
                        "image: only 8-bit pictures of 1 to 4 channels are written, not %d x %d",
                        image->channels, image->bits);
    png_text *entry = lgv_zalloc(texts, sizeof *entry);
    if (!entry) return lgv_fail(err, LGV_ERR_MEMORY, "image: out of memory");
    lgv_status status = LGV_OK;
    for (size_t i = 0; i < texts && !status; i++) {
        size_t length = strlen(text[i].key);
        if (length < 1 || length > 79)
            status = lgv_fail(err, LGV_ERR_ARGUMENT,
                              "image: a PNG text key has 1 to 79 characters, not %zu", length);
        /* libpng takes these pointers as not const and only reads them. */
        memcpy(&entry[i].key, &text[i].key, sizeof(char *));
        memcpy(&entry[i].text, &text[i].value, sizeof(char *));
        entry[i].compression =
            is_ascii(text[i].value) ? PNG_TEXT_COMPRESSION_NONE : PNG_ITXT_COMPRESSION_NONE;
    }
    job j = {0};
    if (!status) status = encode_with(&j, image, entry, (int)texts, err);
    lgv_free(entry);
    if (status) {
        lgv_free(j.out.data);
        return status;
    }
    *data = j.out.data;
    *size = j.out.size;
    return LGV_OK;
}

void lgv_image_free_data(uint8_t *data)
{
    lgv_free(data);
}

lgv_status lgv_image_save_png(const char *path, const lgv_image *image, const lgv_png_text *text,
                              size_t texts, lgv_error *err)
{
    uint8_t *data = NULL;
    size_t size = 0;
    lgv_status status = lgv_image_encode_png(image, text, texts, &data, &size, err);
    if (status) return lgv_fail_prefix(err, status, "%s", path);
    status = lgv_file_write(path, data, size, err);
    lgv_free(data);
    return status;
}
