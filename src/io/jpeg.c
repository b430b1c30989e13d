/* jpeg.c - JPEG through libjpeg.
   libjpeg repairs damage silently (grey areas, invented ends); here damage that costs pixels is an
   error, because a training set should not contain invented pixels. All state that a jump must not
   lose lives in one struct outside the function that calls setjmp. */
#include <setjmp.h>
#include <stdio.h>
#include <string.h>

#include <jpeglib.h>

#include <jerror.h>

#include "image_internal.h"

/* A progressive file can ask for a pass over the picture with every few bytes. */
enum { MAX_SCANS = 500 };

typedef struct job {
    struct jpeg_error_mgr errors; /* first: libjpeg hands its address back */
    struct jpeg_progress_mgr progress;
    struct jpeg_decompress_struct c;
    jmp_buf jump;
    char message[JMSG_LENGTH_MAX];
    const uint8_t *data;
    size_t size;
    const char *name;
    lgv_error *err;
    lgv_status status; /* of our own failures inside */
    lgv_image image;
    uint8_t *row; /* one row of CMYK */
    int orientation;
} job;

static void on_error(j_common_ptr c)
{
    job *j = (job *)c->err;
    c->err->format_message(c, j->message);
    longjmp(j->jump, 1);
}

/* level -1 is a warning. Bytes too many are harmless and common; the rest means lost pixels. */
static void on_message(j_common_ptr c, int level)
{
    if (level < 0 && c->err->msg_code != JWRN_EXTRANEOUS_DATA &&
        c->err->msg_code != JWRN_ADOBE_XFORM && c->err->msg_code != JWRN_JFIF_MAJOR)
        on_error(c);
}

static void on_output(j_common_ptr c) {}

static void on_progress(j_common_ptr c)
{
    job *j = (job *)c->err;
    if (((j_decompress_ptr)c)->input_scan_number <= MAX_SCANS) return;
    snprintf(j->message, sizeof j->message, "more than %d scans", MAX_SCANS);
    longjmp(j->jump, 1);
}

static void find_orientation(job *j)
{
    j->orientation = 1;
    for (jpeg_saved_marker_ptr m = j->c.marker_list; m; m = m->next) {
        if (m->marker == JPEG_APP0 + 1 && m->data_length >= 6 &&
            memcmp(m->data, "Exif\0\0", 6) == 0) {
            j->orientation = lgv_exif_orientation(m->data, m->data_length);
            return;
        }
    }
}

/* Sets up, reads the header, chooses the output colours. Called inside setjmp. */
static lgv_status read_header(job *j)
{
    jpeg_create_decompress(&j->c);
    j->progress.progress_monitor = on_progress;
    j->c.progress = &j->progress;
    jpeg_save_markers(&j->c, JPEG_APP0 + 1, 0xffff);
    jpeg_mem_src(&j->c, j->data, (unsigned long)j->size);
    jpeg_read_header(&j->c, TRUE);
    find_orientation(j);
    switch (j->c.jpeg_color_space) {
    case JCS_GRAYSCALE: j->c.out_color_space = JCS_GRAYSCALE; break;
    case JCS_RGB:
    case JCS_YCbCr: j->c.out_color_space = JCS_RGB; break;
    case JCS_CMYK:
    case JCS_YCCK: j->c.out_color_space = JCS_CMYK; break;
    default:
        return lgv_fail(j->err, LGV_ERR_UNSUPPORTED,
                        "%s: a JPEG picture of %d unnamed components is not supported", j->name,
                        j->c.num_components);
    }
    return lgv_image_check_size(j->name, j->c.image_width, j->c.image_height, j->err);
}

/* raw[width][4] holds inverted CMYK (Adobe's habit, which PIL takes for granted) -> rgb[width][3];
   a product of bytes is divided by 255 with rounding, as PIL does. */
static void cmyk_to_rgb(const uint8_t *raw, int width, uint8_t *rgb)
{
    for (int x = 0; x < width; x++, raw += 4, rgb += 3) {
        int light = raw[3];
        for (int i = 0; i < 3; i++) {
            int t = (255 - raw[i]) * light + 128;
            rgb[i] = (uint8_t)(light - (((t >> 8) + t) >> 8));
        }
    }
}

static lgv_status read_pixels(job *j)
{
    bool cmyk = j->c.out_color_space == JCS_CMYK, grey = j->c.out_color_space == JCS_GRAYSCALE;
    /* Each 8x8 block costs a bit or so; a file far below that is cut off and not worth the
       memory. */
    if ((uint64_t)j->c.image_width * j->c.image_height / 4096 > j->size)
        return lgv_fail(j->err, LGV_ERR_FORMAT,
                        "%s: %zu bytes cannot hold %u x %u pixels; the file is truncated", j->name,
                        j->size, j->c.image_width, j->c.image_height);
    LGV_TRY(lgv_image_new((int)j->c.image_width, (int)j->c.image_height, grey ? 1 : 3, 8, &j->image,
                          j->err));
    size_t row = (size_t)j->image.width * (size_t)j->image.channels;
    if (cmyk) j->row = lgv_alloc((size_t)j->image.width, 4);
    if (cmyk && !j->row) return lgv_fail(j->err, LGV_ERR_MEMORY, "%s: out of memory", j->name);
    jpeg_start_decompress(&j->c);
    while (j->c.output_scanline < j->c.output_height) {
        uint8_t *dst = (uint8_t *)j->image.pixels + j->c.output_scanline * row;
        JSAMPROW line = cmyk ? j->row : dst;
        jpeg_read_scanlines(&j->c, &line, 1);
        if (cmyk) cmyk_to_rgb(j->row, j->image.width, dst);
    }
    jpeg_finish_decompress(&j->c);
    return LGV_OK;
}

/* Runs the header, and the pixels too when asked. Releases everything but j->image. */
static lgv_status run(job *j, bool pixels)
{
    j->c.err = jpeg_std_error(&j->errors);
    j->errors.error_exit = on_error;
    j->errors.emit_message = on_message;
    j->errors.output_message = on_output;
    if (setjmp(j->jump) == 0) {
        j->status = read_header(j);
        if (!j->status && pixels) j->status = read_pixels(j);
    } else {
        j->status = lgv_fail(
            j->err, j->errors.msg_code == JERR_OUT_OF_MEMORY ? LGV_ERR_MEMORY : LGV_ERR_FORMAT,
            "%s: the JPEG picture is damaged: %s", j->name, j->message);
    }
    jpeg_destroy_decompress(&j->c);
    lgv_free(j->row);
    if (j->status) lgv_image_free(&j->image);
    return j->status;
}

lgv_status lgv_jpeg_probe(const uint8_t *data, size_t size, const char *name, lgv_image_info *out,
                          int *orientation, lgv_error *err)
{
    job j = {.data = data, .size = size, .name = name, .err = err};
    LGV_TRY(run(&j, false));
    *out = (lgv_image_info){LGV_IMAGE_JPEG, (int)j.c.image_width, (int)j.c.image_height,
                            j.c.out_color_space == JCS_GRAYSCALE ? 1 : 3, 8};
    *orientation = j.orientation;
    return LGV_OK;
}

lgv_status lgv_jpeg_decode(const uint8_t *data, size_t size, const char *name, lgv_image *out,
                           int *orientation, lgv_error *err)
{
    job j = {.data = data, .size = size, .name = name, .err = err};
    LGV_TRY(run(&j, true));
    *out = j.image;
    *orientation = j.orientation;
    return LGV_OK;
}
