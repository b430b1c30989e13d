/* sample_picture.c - a picture that sampling begins with: to be inverted, changed, painted anew where a mask says so, or
   enlarged. The model's folder says which of these it is made for; any other model takes the rest. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "langevin/condition.h"
#include "langevin/image.h"
#include "sample.h"

/* Scaled to cover width x height, the middle cut out. */
static lgv_status fit(lgv_image *image, const char *what, int width, int height, lgv_error *err)
{
    lgv_image scaled = {0}, cut = {0};
    if (image->width == width && image->height == height) return LGV_OK;
    double s = fmax((double)width / image->width, (double)height / image->height);
    int w = (int)fmax(width, rint(s * image->width)),
        h = (int)fmax(height, rint(s * image->height));
    printf("note: the %s is %dx%d; it is scaled and cut to %dx%d\n", what, image->width,
           image->height, width, height);
    lgv_status status = lgv_image_resize(image, w, h, &scaled, err);
    if (!status) status = lgv_image_center_crop(&scaled, width, height, &cut, err);
    lgv_image_free(&scaled);
    if (status) return status;
    lgv_image_free(image);
    *image = cut;
    return LGV_OK;
}

/* The file as an image of so many channels; width 0: as large as it is. */
static lgv_status load(const char *path, const char *what, int channels, int width, int height,
                       lgv_image *out, lgv_error *err)
{
    lgv_image file = {0}, image = {0};
    lgv_status status = lgv_image_load(path, &file, err);
    if (!status) status = lgv_image_convert(&file, channels, NULL, &image, err);
    if (!status && width) status = fit(&image, what, width, height, err);
    lgv_image_free(&file);
    if (status)
        lgv_image_free(&image);
    else
        *out = image;
    return status;
}

/* Bytes HWC as floats -1 .. 1 of the same order. */
static float *as_floats(const lgv_image *image, lgv_error *err)
{
    const int64_t n = (int64_t)image->width * image->height * image->channels;
    const uint8_t *from = image->pixels;
    float *x = sample_floats(n, err);
    for (int64_t i = 0; x && i < n; i++) x[i] = (float)from[i] / 127.5f - 1;
    return x;
}

/* x[H][W][C] as n planes-first pictures, all the same. */
static float *repeated(const float *x, int64_t n, int64_t C, int64_t HW, lgv_error *err)
{
    float *out = sample_floats(n * C * HW, err);
    for (int64_t i = 0; out && i < n; i++)
        for (int64_t c = 0; c < C; c++)
            for (int64_t p = 0; p < HW; p++) out[(i * C + c) * HW + p] = x[p * C + c];
    return out;
}

/* ---- what the model sees beside the noise ---- */

/* The longest side, at most this one, that the network takes once it is enlarged. */
static int fitting(int side, const lgv_model_info *m)
{
    int unit = 1;
    while (unit * m->condition_scale % m->divisor) unit++;
    return side < unit ? unit : side - side % unit;
}

/* A small picture, enlarged. */
static lgv_status enlarge(const sample_args *a, const lgv_model *model, sample_input *in,
                          lgv_error *err)
{
    const lgv_model_info *m = lgv_model_describe(model);
    const int scale = m->condition_scale;
    lgv_image image = {0};
    int side = (int)(a->resolution / scale);
    if (a->resolution % scale)
        return cli_status(err, LGV_ERR_ARGUMENT,
                          "the model enlarges %d times: --resolution must be a multiple of that",
                          scale);
    lgv_status status =
        load(a->init_image, "picture", m->picture_channels, side, side, &image, err);
    if (!status)
        status = fit(&image, "picture", fitting(image.width, m), fitting(image.height, m), err);
    if (status) {
        lgv_image_free(&image);
        return status;
    }
    in->height = (int64_t)image.height * scale;
    in->width = (int64_t)image.width * scale;
    status = lgv_model_check_size(model, in->height, in->width, err);
    const int64_t C = in->channels, HW = in->height * in->width;
    float *small = status ? NULL : as_floats(&image, err), *large = small ? sample_floats(HW * C, err) : NULL;
    if (large) {
        lgv_condition_enlarge(image.height, image.width, C, small, in->height, in->width, large);
        in->condition = repeated(large, in->n, C, HW, err);
    }
    if (!status && !in->condition) status = err->status;
    free(small);
    free(large);
    lgv_image_free(&image);
    return status;
}

/* ---- masks ---- */

/* White is painted, black is kept. */
static lgv_status read_mask(const sample_args *a, sample_input *in, lgv_error *err)
{
    const int64_t HW = in->height * in->width;
    lgv_image image = {0};
    lgv_status status =
        load(a->mask, "mask", 1, (int)in->width, (int)in->height, &image, err);
    if (status) return status;
    int64_t painted = 0;
    in->mask = malloc((size_t)HW);
    for (int64_t i = 0; in->mask && i < HW; i++)
        painted += in->mask[i] = ((const uint8_t *)image.pixels)[i] >= 128;
    lgv_image_free(&image);
    if (!in->mask) return cli_status(err, LGV_ERR_MEMORY, "out of memory for a mask");
    if (painted) return LGV_OK;
    return cli_status(err, LGV_ERR_ARGUMENT,
                      "'%s' has no white: nothing would be painted (white is painted, black kept)",
                      a->mask);
}

static lgv_status masked_condition(const float *x, sample_input *in, lgv_error *err)
{
    const int64_t C = in->channels, HW = in->height * in->width;
    float *beside = sample_floats((C + 1) * HW, err);
    if (beside) {
        lgv_condition_mask(in->height, in->width, C, x, in->mask, beside);
        in->condition = repeated(beside, in->n, C + 1, HW, err);
        free(beside);
    }
    return in->condition ? LGV_OK : err->status;
}

/* ---- both ---- */

lgv_status sample_picture_make(const sample_args *a, const lgv_model *model, bool inverse,
                               sample_input *in, lgv_error *err)
{
    const lgv_model_info *m = lgv_model_describe(model);
    lgv_image image = {0};
    lgv_status status = LGV_OK;
    if (in->channels != 1 && in->channels != 3)
        return cli_status(err, LGV_ERR_UNSUPPORTED,
                          "the model has %lld channels; a picture has 1 or 3",
                          (long long)in->channels);
    if (m->condition == LGV_CONDITION_INPAINTING && !a->mask)
        return cli_status(err, LGV_ERR_ARGUMENT,
                          "the model is one for inpainting: say what is painted with --mask FILE");
    if (m->condition == LGV_CONDITION_SUPER_RESOLUTION && (a->mask || a->strength != 0))
        return cli_status(err, LGV_ERR_ARGUMENT,
                          "the model enlarges pictures: --mask and --strength have no meaning");
    if (m->condition == LGV_CONDITION_SUPER_RESOLUTION) return enlarge(a, model, in, err);
    status = load(a->init_image, "picture", (int)in->channels, (int)in->width, (int)in->height,
                  &image, err);
    if (!status && a->mask) status = read_mask(a, in, err);
    float *x = status ? NULL : as_floats(&image, err);
    if (!status && !x) status = err->status;
    if (!status && m->condition) status = masked_condition(x, in, err);
    if (!status) {
        float *given = repeated(x, in->n, in->channels, in->height * in->width, err);
        *(inverse ? &in->noise : &in->image) = given;
        if (!given) status = err->status;
    }
    free(x);
    lgv_image_free(&image);
    return status;
}
