/* resize.c - PIL's 8-bit bilinear resize, bit for bit.
   Diffusion models are compared to a digit (Frechet distance moves with the resize filter), so the
   filter of the scripts people know is the one to have: a triangle whose support grows with the
   reduction, weights in 22-bit fixed point, one axis after the other, 8 bits between. */
#include <math.h>
#include <string.h>

#include "image_internal.h"

enum { PRECISION_BITS = 32 - 8 - 2 }; /* 8 bits of result, 2 of headroom for the sum */

/* For each output position: the first input, how many, and their weights (`width` places each). */
typedef struct weights {
    int width;
    int *first, *count; /* [out] */
    int32_t *weight;    /* [out][width] */
} weights;

static void weights_free(weights *w)
{
    lgv_free(w->first);
    lgv_free(w->count);
    lgv_free(w->weight);
}

static double triangle(double x)
{
    x = fabs(x);
    return x < 1 ? 1 - x : 0;
}

/* One output position; tmp holds w->width doubles. */
static void fill_weights(const weights *w, int out, int in_size, double scale, double filter_scale,
                         double *tmp)
{
    double support = filter_scale, center = (out + 0.5) * scale, inverse = 1 / filter_scale,
           sum = 0;
    int first = (int)(center - support + 0.5), end = (int)(center + support + 0.5);
    if (first < 0) first = 0;
    if (end > in_size) end = in_size;
    int count = end - first;
    for (int i = 0; i < count; i++) {
        tmp[i] = triangle((i + first - center + 0.5) * inverse);
        sum += tmp[i];
    }
    for (int i = 0; i < count; i++) {
        if (sum != 0) tmp[i] /= sum;
        w->weight[(size_t)out * (size_t)w->width + (size_t)i] =
            (int32_t)(0.5 + tmp[i] * (1 << PRECISION_BITS));
    }
    w->first[out] = first;
    w->count[out] = count;
}

static lgv_status weights_new(int in_size, int out_size, weights *out, lgv_error *err)
{
    double scale = (double)in_size / out_size, filter_scale = scale < 1 ? 1 : scale;
    weights w = {.width = (int)ceil(filter_scale) * 2 + 1};
    size_t n = (size_t)out_size, places = 0;
    bool fits = lgv_mul_size(n, (size_t)w.width, &places);
    double *tmp = lgv_alloc((size_t)w.width, sizeof *tmp);
    w.first = lgv_alloc(n, sizeof *w.first);
    w.count = lgv_alloc(n, sizeof *w.count);
    w.weight = fits ? lgv_zalloc(places, sizeof *w.weight) : NULL;
    if (!tmp || !w.first || !w.count || !w.weight) {
        lgv_free(tmp);
        weights_free(&w);
        return lgv_fail(err, LGV_ERR_MEMORY, "image resize: out of memory");
    }
    for (int i = 0; i < out_size; i++) fill_weights(&w, i, in_size, scale, filter_scale, tmp);
    lgv_free(tmp);
    *out = w;
    return LGV_OK;
}

static uint8_t rounded(int32_t sum)
{
    int32_t v = sum >> PRECISION_BITS;
    return (uint8_t)(v < 0 ? 0 : v > 255 ? 255 : v);
}

/* in[height][in_width][c] -> out[height][out_width][c]. Inlined with c a constant: the sums are registers. */
static inline void pass_horizontal(const uint8_t *in, int in_width, int height, int c,
                                   const weights *w, int out_width, uint8_t *out)
{
    for (int y = 0; y < height; y++) {
        const uint8_t *row = in + (size_t)y * (size_t)in_width * (size_t)c;
        for (int x = 0; x < out_width; x++) {
            const int32_t *k = w->weight + (size_t)x * (size_t)w->width;
            const uint8_t *src = row + (size_t)w->first[x] * (size_t)c;
            int32_t sum[3] = {1 << (PRECISION_BITS - 1), 1 << (PRECISION_BITS - 1),
                              1 << (PRECISION_BITS - 1)};
            for (int i = 0; i < w->count[x]; i++, src += c)
                for (int ch = 0; ch < c; ch++) sum[ch] += src[ch] * k[i];
            for (int ch = 0; ch < c; ch++) *out++ = rounded(sum[ch]);
        }
    }
}

/* n <= STRIP columns of one output row: row after row, so that memory is read in order. */
enum { STRIP = 64 };
static void strip_vertical(const uint8_t *src, size_t row, const int32_t *k, int count, size_t n,
                           uint8_t *out)
{
    int32_t sum[STRIP];
    for (size_t x = 0; x < n; x++) sum[x] = 1 << (PRECISION_BITS - 1);
    for (int i = 0; i < count; i++, src += row)
        for (size_t x = 0; x < n; x++) sum[x] += src[x] * k[i];
    for (size_t x = 0; x < n; x++) out[x] = rounded(sum[x]);
}

/* in[in_height][row] -> out[out_height][row] */
static void pass_vertical(const uint8_t *in, size_t row, const weights *w, int out_height,
                          uint8_t *out)
{
    for (int y = 0; y < out_height; y++, out += row) {
        const int32_t *k = w->weight + (size_t)y * (size_t)w->width;
        const uint8_t *src = in + (size_t)w->first[y] * row;
        for (size_t x = 0; x < row; x += STRIP)
            strip_vertical(src + x, row, k, w->count[y], row - x < STRIP ? row - x : STRIP,
                           out + x);
    }
}

/* Along one axis; *out is set also on failure, for the caller to free. */
static lgv_status resize_axis(const lgv_image *in, bool vertical, int size, lgv_image *out,
                              lgv_error *err)
{
    weights w = {0};
    int width = vertical ? in->width : size, height = vertical ? size : in->height;
    LGV_TRY(lgv_image_new(width, height, in->channels, 8, out, err));
    lgv_status status = weights_new(vertical ? in->height : in->width, size, &w, err);
    if (status) return status;
    if (vertical)
        pass_vertical(in->pixels, (size_t)width * (size_t)in->channels, &w, height, out->pixels);
    else if (in->channels == 3)
        pass_horizontal(in->pixels, in->width, height, 3, &w, width, out->pixels);
    else
        pass_horizontal(in->pixels, in->width, height, 1, &w, width, out->pixels);
    weights_free(&w);
    return LGV_OK;
}

lgv_status lgv_image_resize(const lgv_image *in, int width, int height, lgv_image *out,
                            lgv_error *err)
{
    if (in->bits != 8 || in->channels % 2 == 0)
        return lgv_fail(
            err, LGV_ERR_ARGUMENT,
            "image resize: %d channels of %d bits; convert to 1 or 3 channels of 8 bits first",
            in->channels, in->bits);
    LGV_TRY(lgv_image_check_size("image resize", width, height, err));
    if (width == in->width && height == in->height)
        return lgv_image_crop(in, 0, 0, width, height, out, err);
    if (width == in->width || height == in->height) {
        lgv_image image = {0};
        bool vertical = width == in->width;
        lgv_status status = resize_axis(in, vertical, vertical ? height : width, &image, err);
        if (status)
            lgv_image_free(&image);
        else
            *out = image;
        return status;
    }
    /* PIL goes horizontally first, except (since 13.0) where the height shrinks by much more. */
    bool vertical = height < in->height && in->height - height > 2 * (in->width - width);
    lgv_image middle = {0}, image = {0};
    lgv_status status = resize_axis(in, vertical, vertical ? height : width, &middle, err);
    if (!status) status = resize_axis(&middle, !vertical, vertical ? width : height, &image, err);
    lgv_image_free(&middle);
    if (status)
        lgv_image_free(&image);
    else
        *out = image;
    return status;
}
