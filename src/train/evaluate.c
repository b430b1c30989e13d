/* evaluate.c - figures of a run's samples: the averaged weights draw pictures of fixed seeds, which are
   compared with training pictures in the feature space of a classifier. The reference is taken once. */
#include "trainer.h"

#include "dataset.h"

enum { REFERENCE_MOST = 10000, CHUNK = 64 };

struct lgv_evaluation {
    lgv_extractor *extractor;
    lgv_reference *reference; /* NULL until first needed */
};

lgv_status lgv_evaluation_open(lgv_trainer *t, lgv_error *err)
{
    const lgv_train_options *o = &t->options;
    if (o->eval_steps == LGV_OFF && !o->eval_features) return LGV_OK;
    if (!o->eval_features && t->state.step) { /* the path is not in the checkpoint */
        t->options.eval_steps = LGV_OFF;
        return lgv_trainer_note(t, err, "no figures of samples: state --eval-features again");
    }
    if (!o->eval_features)
        return lgv_fail(err, LGV_ERR_ARGUMENT,
                        "evaluation needs the feature space: a classifier as eval_features "
                        "(--eval-features)");
    if (!t->task->pipeline)
        return lgv_fail(err, LGV_ERR_ARGUMENT, "a classifier draws no pictures to evaluate");
    if (lgv_model_describe(t->model)->condition)
        return lgv_fail(err, LGV_ERR_UNSUPPORTED,
                        "figures of samples are not offered for networks with an image condition");
    if (!(t->evaluation = lgv_zalloc(1, sizeof *t->evaluation)))
        return lgv_fail(err, LGV_ERR_MEMORY, "out of memory for evaluations");
    lgv_status s = lgv_extractor_open(t->device, o->eval_features, &t->evaluation->extractor, err);
    return s ? lgv_fail_prefix(err, s, "eval_features") : LGV_OK;
}

void lgv_evaluation_free(struct lgv_evaluation *e)
{
    if (!e) return;
    lgv_extractor_free(e->extractor);
    lgv_reference_free(e->reference);
    lgv_free(e);
}

/* Features of n training pictures in the order of an epoch of its own: some of every class. */
static lgv_status reference_features(lgv_trainer *t, int64_t n, float *features, lgv_error *err)
{
    lgv_extractor *e = t->evaluation->extractor;
    int64_t all = lgv_dataset_count(t->data), width = lgv_extractor_width(e);
    int64_t *order = lgv_alloc((size_t)all, sizeof *order);
    uint8_t *pixels = lgv_alloc(CHUNK, (size_t)t->pixels);
    lgv_status s =
        order && pixels ? LGV_OK : lgv_fail(err, LGV_ERR_MEMORY, "out of memory for a reference");
    if (!s) lgv_epoch_order(lgv_validation_seed, 0, all, order);
    for (int64_t first = 0; first < n && !s; first += CHUNK) {
        int64_t count = lgv_min_i64(CHUNK, n - first);
        for (int64_t i = 0; i < count && !s; i++)
            s = lgv_dataset_read(t->data, 0, order[first + i], lgv_validation_seed,
                                 (uint64_t)(first + i), pixels + i * t->pixels, NULL, err);
        if (!s)
            s = lgv_extractor_run(e, count, (int)t->side, (int)t->side, (int)t->channels, pixels,
                                  features + first * width, NULL, err);
    }
    lgv_free(order);
    lgv_free(pixels);
    return s;
}

static lgv_status make_reference(lgv_trainer *t, lgv_error *err)
{
    struct lgv_evaluation *e = t->evaluation;
    int64_t n = lgv_min_i64(lgv_dataset_count(t->data), REFERENCE_MOST);
    int64_t width = lgv_extractor_width(e->extractor);
    if (e->reference) return LGV_OK;
    float *features = lgv_alloc((size_t)n, (size_t)width * sizeof *features);
    if (!features) return lgv_fail(err, LGV_ERR_MEMORY, "out of memory for a reference");
    lgv_status s = reference_features(t, n, features, err);
    if (!s) s = lgv_reference_new(n, width, features, NULL, &e->reference, err);
    lgv_free(features);
    return s;
}

static lgv_status compare(lgv_trainer *t, const lgv_samples *s, lgv_figures *out, lgv_error *err)
{
    struct lgv_evaluation *e = t->evaluation;
    float *features =
        lgv_alloc((size_t)s->n, (size_t)lgv_extractor_width(e->extractor) * sizeof *features);
    uint8_t *pixels = lgv_alloc((size_t)s->n, (size_t)t->pixels);
    lgv_status status =
        features && pixels
            ? LGV_OK
            : lgv_fail(err, LGV_ERR_MEMORY, "out of memory for %lld features", (long long)s->n);
    if (!status) {
        lgv_images_u8(s->n, s->channels, s->height, s->width, s->sample, pixels);
        status = lgv_extractor_run(e->extractor, s->n, (int)t->side, (int)t->side, (int)t->channels,
                                   pixels, features, NULL, err);
    }
    if (!status) status = lgv_reference_compare(e->reference, s->n, features, out, err);
    lgv_free(features);
    lgv_free(pixels);
    return status;
}

lgv_status lgv_evaluate(lgv_trainer *t, lgv_sample_callback callback, void *user, lgv_figures *out,
                        lgv_error *err)
{
    if (!t->evaluation)
        return lgv_fail(err, LGV_ERR_ARGUMENT, "the trainer was made without eval_features");
    LGV_TRY(lgv_trainer_pipeline(t, err));
    LGV_TRY(make_reference(t, err));
    int64_t steps = lgv_min_i64(t->options.eval_inference_steps, t->schedule->T);
    lgv_sample_options o = {.num_images = t->options.eval_samples,
                            .batch_size = lgv_min_i64(t->options.eval_samples, 16),
                            .height = t->side,
                            .width = t->side,
                            .sampler = {.sampler = lgv_trainer_sampler(t), .num_inference_steps = steps},
                            .mixed_precision = t->options.mixed_precision,
                            .callback = callback,
                            .user = user};
    lgv_samples *samples = NULL;
    LGV_TRY(lgv_pipeline_sample(t->pipeline, &o, &samples, err));
    lgv_status s = compare(t, samples, out, err);
    lgv_samples_free(samples);
    return s;
}

lgv_status lgv_trainer_evaluate(lgv_trainer *t, lgv_figures *out, lgv_error *err)
{
    return lgv_evaluate(t, NULL, NULL, out, err);
}
