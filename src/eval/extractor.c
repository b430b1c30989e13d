/* extractor.c - pictures to features: the encoder of a network, planned once for a fixed batch. */
#include <string.h>

#include "eval.h"

enum { BATCH = 32 };

struct lgv_extractor {
    lgv_model *model;
    lgv_store *store;
    lgv_plan *plan;
    int side, channels, width, labels;
    float *x;     /* [BATCH][side][side][channels] */
    uint8_t *own; /* the same of pictures that were converted */
    float *out;   /* [BATCH][width or labels] */
};

static size_t own_bytes(const lgv_extractor *e)
{
    return (size_t)e->side * (size_t)e->side * (size_t)e->channels;
}

static lgv_status build(const lgv_extractor *e, lgv_graph *g, lgv_error *err)
{
    const int64_t dim[4] = {BATCH, e->side, e->side, e->channels};
    lgv_model_inputs in;
    lgv_id features, logits;
    lgv_model_inputs_none(&in);
    lgv_model_inputs_from_step(e->model, g, BATCH, &in);
    in.sample = lgv_input(g, "x", LGV_F32, 4, dim);
    LGV_TRY(lgv_model_features(e->model, g, &in, &features, &logits, err));
    lgv_graph_output(g, features, "features");
    if (logits != LGV_NONE) lgv_graph_output(g, logits, "logits");
    return lgv_graph_status(g, err);
}

/* All of the network's parameters: those the features do not need are not read. */
static lgv_status declare(const lgv_extractor *e, lgv_graph *g, lgv_error *err)
{
    const lgv_model_info *m = lgv_model_describe(e->model);
    const int64_t side = m->fixed_size ? m->height : m->divisor,
                  dim[4] = {1, side, side, e->channels};
    lgv_model_inputs in;
    lgv_id out;
    lgv_model_inputs_none(&in);
    lgv_model_inputs_from_step(e->model, g, 1, &in);
    in.sample = lgv_input(g, "x", LGV_F32, 4, dim);
    LGV_TRY(lgv_model_build(e->model, g, &in, &out, err));
    return lgv_store_declare(e->store, g, err);
}

static lgv_status plan(lgv_extractor *e, lgv_device *device, lgv_error *err)
{
    lgv_graph *whole = lgv_graph_new(), *g = lgv_graph_new();
    lgv_status s = whole && g ? lgv_store_new(device, &e->store, err)
                              : lgv_fail(err, LGV_ERR_MEMORY, "out of memory for a graph");
    if (!s) s = declare(e, whole, err);
    if (!s) s = lgv_model_map_weights(e->model, e->store, "weight", LGV_WEIGHTS_BEST, err);
    if (!s) s = build(e, g, err);
    const lgv_program program = {"features", g};
    if (!s) s = lgv_plan_new(e->store, 1, &program, NULL, &e->plan, err);
    lgv_graph_free(whole);
    lgv_graph_free(g);
    return s;
}

static lgv_status open_into(lgv_extractor *e, lgv_device *device, const char *path, lgv_error *err)
{
    LGV_TRY(lgv_model_open(path, NULL, &e->model, err));
    const lgv_model_info *info = lgv_model_describe(e->model);
    if (info->class_kind == LGV_CLASS_IDENTITY)
        return lgv_fail(err, LGV_ERR_UNSUPPORTED,
                        "'%s' wants class vectors, which features have none of", path);
    if (info->height < 1 || info->height != info->width)
        return lgv_fail(err, LGV_ERR_UNSUPPORTED,
                        "'%s' says no square sample_size: features need one size of picture", path);
    if (info->in_channels != 1 && info->in_channels != 3)
        return lgv_fail(err, LGV_ERR_UNSUPPORTED, "'%s' takes %d channels; pictures have 1 or 3",
                        path, info->in_channels);
    e->side = info->height;
    e->channels = info->in_channels;
    e->width = info->features;
    e->labels = info->labels;
    e->x = lgv_alloc(BATCH, own_bytes(e) * sizeof *e->x);
    e->out =
        lgv_alloc(BATCH, (size_t)(e->labels > e->width ? e->labels : e->width) * sizeof *e->out);
    e->own = lgv_alloc(BATCH, own_bytes(e));
    if (!e->x || !e->out || !e->own)
        return lgv_fail(err, LGV_ERR_MEMORY, "out of memory for pictures of %dx%d", e->side,
                        e->side);
    return plan(e, device, err);
}

lgv_status lgv_extractor_open(lgv_device *device, const char *path, lgv_extractor **out,
                              lgv_error *err)
{
    lgv_extractor *e = lgv_zalloc(1, sizeof *e);
    if (!e) return lgv_fail(err, LGV_ERR_MEMORY, "out of memory for a feature network");
    lgv_status s = open_into(e, device, path, err);
    if (s) {
        lgv_extractor_free(e);
        return s;
    }
    *out = e;
    return LGV_OK;
}

void lgv_extractor_free(lgv_extractor *e)
{
    if (!e) return;
    lgv_plan_free(e->plan);
    lgv_store_free(e->store);
    lgv_model_free(e->model);
    lgv_free(e->x);
    lgv_free(e->own);
    lgv_free(e->out);
    lgv_free(e);
}

const lgv_model *lgv_extractor_model(const lgv_extractor *e)
{
    return e->model;
}
int lgv_extractor_width(const lgv_extractor *e)
{
    return e->width;
}
int lgv_extractor_side(const lgv_extractor *e)
{
    return e->side;
}
int lgv_extractor_channels(const lgv_extractor *e)
{
    return e->channels;
}

static lgv_status prepare(const lgv_extractor *e, const lgv_image *picture, uint8_t *pixels,
                          lgv_error *err)
{
    lgv_image plain = {0}, small = {0}, square = {0};
    int w, h;
    lgv_status s = lgv_image_convert(picture, e->channels, NULL, &plain, err);
    lgv_image_short_side(picture->width, picture->height, e->side, &w, &h);
    if (!s) s = lgv_image_resize(&plain, w, h, &small, err);
    if (!s) s = lgv_image_center_crop(&small, e->side, e->side, &square, err);
    if (!s) memcpy(pixels, square.pixels, own_bytes(e));
    lgv_image_free(&plain);
    lgv_image_free(&small);
    lgv_image_free(&square);
    return s;
}

static int32_t largest(const float *logits, int n)
{
    int best = 0;
    for (int i = 1; i < n; i++)
        if (logits[i] > logits[best]) best = i;
    return n ? best : -1;
}

/* count <= BATCH pictures; the rows beyond are grey. */
static lgv_status run_batch(lgv_extractor *e, int64_t count, const uint8_t *pixels, float *features,
                            int32_t *label, lgv_error *err)
{
    const int64_t one = (int64_t)e->side * e->side * e->channels;
    lgv_pixels_to_f32(count * one, pixels, e->x);
    for (int64_t i = count * one; i < BATCH * one; i++) e->x[i] = 0;
    LGV_TRY(lgv_plan_write(e->plan, "x", e->x, BATCH * one, err));
    LGV_TRY(lgv_plan_run(e->plan, NULL, err));
    if (e->labels)
        LGV_TRY(lgv_plan_read(e->plan, "logits", e->out, (int64_t)BATCH * e->labels, err));
    for (int64_t i = 0; label && i < count; i++)
        label[i] = largest(e->out + i * e->labels, e->labels);
    LGV_TRY(lgv_plan_read(e->plan, "features", e->out, (int64_t)BATCH * e->width, err));
    memcpy(features, e->out, (size_t)(count * e->width) * sizeof *features);
    return LGV_OK;
}

/* The pictures first .. first+count-1 as they are taken: where they lie, or converted in e->own. */
static lgv_status batch_of(lgv_extractor *e, const lgv_image *kind, int64_t count,
                           const uint8_t *pictures, const uint8_t **out, lgv_error *err)
{
    size_t own = own_bytes(e),
           each = (size_t)kind->height * (size_t)kind->width * (size_t)kind->channels;
    *out = pictures;
    if (kind->height == e->side && kind->width == e->side && kind->channels == e->channels)
        return LGV_OK;
    for (int64_t i = 0; i < count; i++) {
        lgv_image picture = *kind;
        picture.pixels = (void *)(uintptr_t)(pictures + (size_t)i * each); /* only read */
        LGV_TRY(prepare(e, &picture, e->own + (size_t)i * own, err));
    }
    *out = e->own;
    return LGV_OK;
}

lgv_status lgv_extractor_run(lgv_extractor *e, int64_t n, int height, int width, int channels,
                             const uint8_t *pixels, float *features, int32_t *label, lgv_error *err)
{
    const lgv_image kind = {.width = width, .height = height, .channels = channels, .bits = 8};
    const int64_t each = (int64_t)height * width * channels;
    if (height < 1 || width < 1 || (channels != 1 && channels != 3))
        return lgv_fail(err, LGV_ERR_ARGUMENT,
                        "pictures of %dx%d with %d channels have no features", width, height,
                        channels);
    for (int64_t i = 0; i < n; i += BATCH) {
        const uint8_t *batch;
        int64_t count = lgv_min_i64(BATCH, n - i);
        LGV_TRY(batch_of(e, &kind, count, pixels + i * each, &batch, err));
        LGV_TRY(run_batch(e, count, batch, features + i * e->width, label ? label + i : NULL, err));
    }
    return LGV_OK;
}
