/* eval_sets.c - the pictures that eval judges and those it judges by: drawn from a model, read from a
   folder, or taken as features from a file. */
#include <stdlib.h>
#include <string.h>

#include "classes.h"
#include "eval.h"
#include "langevin/safetensors.h"
#include "progress.h"

enum { CHUNK = 64, DEFAULT_SAMPLES = 1000, MOST_PICTURES = 10000 };

void eval_set_free(eval_set *s)
{
    free(s->pixels);
    free(s->features);
    free(s->predicted);
    free(s->label);
    *s = (eval_set){0};
}

static lgv_status pixels_new(eval_set *s, lgv_error *err)
{
    size_t each = (size_t)s->side * (size_t)s->side * (size_t)s->channels;
    s->pixels = s->n > 0 && (size_t)s->n < SIZE_MAX / 2 / each ? malloc((size_t)s->n * each) : NULL;
    if (s->pixels) return LGV_OK;
    return cli_status(err, LGV_ERR_MEMORY, "out of memory for %lld pictures of %dx%d",
                      (long long)s->n, s->side, s->side);
}

/* ---- features from a file ---- */

static lgv_status load_features(const char *path, const char *other, eval_set *s, lgv_error *err)
{
    lgv_safetensors *f = NULL;
    lgv_status status = lgv_safetensors_open(path, &f, err);
    if (status) return status;
    const lgv_tensor_info *t = lgv_safetensors_find(f, "features");
    if (!t) t = lgv_safetensors_find(f, other);
    if (!t || t->rank != 2 || t->count < 1) {
        status = cli_status(err, LGV_ERR_FORMAT,
                            "'%s' holds no tensor 'features' of shape (pictures, numbers)", path);
    } else if (!(s->features = malloc((size_t)t->count * sizeof *s->features))) {
        status = cli_status(err, LGV_ERR_MEMORY, "out of memory for '%s'", path);
    } else {
        status = lgv_tensor_to_f32(t, s->features, err);
        s->n = t->dim[0];
        s->width = t->dim[1];
    }
    lgv_safetensors_close(f);
    return status;
}

/* ---- features of pictures ---- */

static lgv_status extract(eval_job *j, eval_set *s, const char *label, lgv_error *err)
{
    lgv_extractor *e = j->extractor;
    if (!e || s->features) return LGV_OK;
    cli_progress bar = {0}; /* --json: it never begins */
    size_t each = (size_t)s->side * (size_t)s->side * (size_t)s->channels;
    s->width = lgv_extractor_width(e);
    s->features = malloc((size_t)s->n * (size_t)s->width * sizeof *s->features);
    bool classes = lgv_model_describe(lgv_extractor_model(e))->labels > 0;
    if (classes) s->predicted = malloc((size_t)s->n * sizeof *s->predicted);
    if (!s->features || (classes && !s->predicted))
        return cli_status(err, LGV_ERR_MEMORY, "out of memory for the features of %lld pictures",
                          (long long)s->n);
    lgv_status status = LGV_OK;
    if (!j->args->json) cli_progress_begin(&bar, label, "pictures/s", 1, 0, s->n);
    for (int64_t i = 0; i < s->n && !status; i += CHUNK) {
        int64_t count = s->n - i < CHUNK ? s->n - i : CHUNK;
        status = lgv_extractor_run(e, count, s->side, s->side, s->channels,
                                   s->pixels + (size_t)i * each, s->features + i * s->width,
                                   s->predicted ? s->predicted + i : NULL, err);
        cli_progress_show(&bar, i + count, NULL);
        if (cli_signal()) status = cli_status(err, LGV_ERR_CANCELLED, "stopped");
    }
    cli_progress_clear(&bar);
    return status;
}

/* ---- pictures of a data set ---- */

/* Picture k of n is number k * all / n: spread over classes that lie one behind the other. */
lgv_status eval_read_pictures(lgv_dataset *data, bool validation, int64_t most, eval_set *s,
                              lgv_error *err)
{
    int64_t all = validation ? lgv_dataset_validation_count(data) : lgv_dataset_count(data);
    s->n = most && most < all ? most : all;
    s->side = lgv_dataset_resolution(data);
    s->channels = lgv_dataset_channels(data);
    if (!s->n)
        return cli_status(err, LGV_ERR_ARGUMENT, "'%s' holds no pictures back for validation",
                          lgv_dataset_path(data));
    lgv_status status = pixels_new(s, err);
    size_t each = (size_t)s->side * (size_t)s->side * (size_t)s->channels;
    if (!status && lgv_dataset_classes(data) > 1) {
        s->label = malloc((size_t)s->n * sizeof *s->label);
        if (!s->label) status = cli_status(err, LGV_ERR_MEMORY, "out of memory for classes");
    }
    for (int64_t k = 0; k < s->n && !status; k++) {
        int64_t i = k * all / s->n, used = i;
        status = lgv_dataset_read(data, validation, i, 0, (uint64_t)i, s->pixels + (size_t)k * each,
                                  &used, err);
        if (!status && s->label) s->label[k] = lgv_dataset_label(data, validation, used);
        if (!status && cli_signal()) status = cli_status(err, LGV_ERR_CANCELLED, "stopped");
    }
    return status;
}

/* Labels become the classifier's by their names; those it does not know become -1. */
static lgv_status rename_labels(const eval_job *j, const lgv_dataset *data, eval_set *s,
                                lgv_error *err)
{
    int classes = lgv_dataset_classes(data);
    if (!s->label || !j->extractor) return LGV_OK;
    const lgv_model_info *m = lgv_model_describe(lgv_extractor_model(j->extractor));
    int32_t *to = malloc((size_t)classes * sizeof *to);
    if (!to) return cli_status(err, LGV_ERR_MEMORY, "out of memory for classes");
    for (int c = 0; c < classes; c++) {
        to[c] = -1;
        for (int k = 0; k < m->labels && to[c] < 0; k++)
            if (!strcmp(m->label[k], lgv_dataset_class_name(data, c))) to[c] = k;
    }
    for (int64_t i = 0; i < s->n; i++) s->label[i] = s->label[i] < 0 ? -1 : to[s->label[i]];
    free(to);
    return LGV_OK;
}

static lgv_status open_pictures(const char *path, int side, int channels, bool whole,
                                lgv_dataset **out, lgv_error *err)
{
    lgv_dataset_options o = {.resolution = side, .channels = channels, .center_crop = 1};
    if (whole) o.validation = LGV_OFF;
    return lgv_dataset_open(path, &o, out, err);
}

static lgv_status judged_pictures(eval_job *j, lgv_error *err)
{
    lgv_dataset *data = NULL;
    eval_set *s = &j->generated;
    int side = j->extractor ? lgv_extractor_side(j->extractor) : 0, channels = 0;
    if (j->extractor) channels = lgv_extractor_channels(j->extractor);
    if (!j->extractor && j->data) {
        side = lgv_dataset_resolution(j->data);
        channels = lgv_dataset_channels(j->data);
    }
    int64_t most = j->args->num_images ? j->args->num_images : MOST_PICTURES;
    lgv_status status = open_pictures(j->args->what, side, channels, true, &data, err);
    if (!status) status = eval_read_pictures(data, false, most, s, err);
    if (!status) status = rename_labels(j, data, s, err);
    lgv_dataset_free(data);
    return status;
}

/* ---- samples of a model ---- */

static int on_progress(void *user, const lgv_sample_progress *p)
{
    cli_progress_show(user, p->done, NULL);
    return cli_signal() != 0;
}

/* The classifier's label for a class of what the pictures are drawn by: by name, where its classes have names. */
static int32_t classifier_label(const lgv_model *model, const lgv_model *classifier, int class)
{
    const lgv_model_info *m = lgv_model_describe(model), *c = lgv_model_describe(classifier);
    char number[32];
    if (!m->class_names && !m->labels) return class < c->labels ? class : -1;
    for (int k = 0; k < c->labels; k++)
        if (!strcmp(c->label[k], cli_class_name(model, class, number))) return k;
    return -1;
}

/* The classes of a class-conditional network, or of the classifier that guides, are drawn in turn: told[n], and s->label
   as the classifier that judges counts. */
static lgv_status class_labels(eval_job *j, int32_t **told, lgv_error *err)
{
    const lgv_model *model = cli_class_model(j->pipeline);
    const lgv_model_info *m = lgv_model_describe(model);
    const lgv_model *classifier = j->extractor ? lgv_extractor_model(j->extractor) : NULL;
    int labels = classifier ? lgv_model_describe(classifier)->labels : 0;
    eval_set *s = &j->generated;
    if (m->class_kind != LGV_CLASS_TABLE && !m->labels) return LGV_OK;
    int classes = cli_class_count(model);
    /* Without names, one class more than the classifier knows is the null label of guidance. */
    if (!m->class_names && !m->labels && labels && labels < classes) classes = labels;
    *told = malloc((size_t)s->n * sizeof **told);
    s->label = malloc((size_t)s->n * sizeof *s->label);
    if (!*told || !s->label) return cli_status(err, LGV_ERR_MEMORY, "out of memory for classes");
    for (int64_t i = 0; i < s->n; i++) {
        (*told)[i] = (int32_t)(i % classes);
        s->label[i] = labels ? classifier_label(model, classifier, (*told)[i]) : (*told)[i];
    }
    return LGV_OK;
}

static lgv_status draw_samples(eval_job *j, lgv_error *err)
{
    const eval_args *a = j->args;
    eval_set *s = &j->generated;
    lgv_samples *samples = NULL;
    cli_progress bar = {0}; /* --json: it never begins */
    int64_t calls = 0;
    lgv_sample_options o = {
        .num_images = s->n,
        .batch_size = a->batch_size,
        .sampler = {.sampler = a->sampler, .num_inference_steps = a->steps},
        .seed = a->seed,
        .mixed_precision = a->precision,
        .guidance_scale = a->guidance,
        .classifier_scale = a->guide.path ? a->guide.scale : 0,
        .callback = on_progress,
        .user = &bar,
    };
    int32_t *told = NULL;
    lgv_status status = class_labels(j, &told, err);
    o.labels = told;
    if (!status) status = lgv_pipeline_calls(j->pipeline, &o, &calls, err);
    int64_t total = (s->n + a->batch_size - 1) / a->batch_size * calls;
    if (!status && !a->json)
        cli_progress_begin(&bar, "sampling", "pictures/s", (double)s->n / (double)total, 0, total);
    if (!status) status = lgv_pipeline_sample(j->pipeline, &o, &samples, err);
    if (!status) cli_progress_clear(&bar);
    if (!status && samples->height != samples->width)
        status = cli_status(err, LGV_ERR_UNSUPPORTED,
                            "figures need square pictures, the model draws %lldx%lld",
                            (long long)samples->width, (long long)samples->height);
    if (!status) {
        s->side = (int)samples->width;
        s->channels = (int)samples->channels;
        if (s->channels != 1 && s->channels != 3)
            status = cli_status(err, LGV_ERR_UNSUPPORTED,
                                "the model draws %d channels; pictures have 1 or 3", s->channels);
    }
    if (!status) status = pixels_new(s, err);
    if (!status) lgv_images_u8(s->n, s->channels, s->side, s->side, samples->sample, s->pixels);
    lgv_samples_free(samples);
    free(told);
    return status;
}

/* ---- both ---- */

static lgv_status open_reference(eval_job *j, lgv_error *err)
{
    const eval_args *a = j->args;
    int side = j->extractor ? lgv_extractor_side(j->extractor) : 0;
    int channels = j->extractor ? lgv_extractor_channels(j->extractor) : 0;
    if (j->pipeline) {
        const lgv_model_info *m = lgv_model_describe(lgv_pipeline_model(j->pipeline));
        side = m->height;
        channels = m->picture_channels;
    }
    return open_pictures(a->data, side, channels, false, &j->data, err);
}

lgv_status eval_sets_make(eval_job *j, lgv_error *err)
{
    const eval_args *a = j->args;
    eval_set *g = &j->generated, *r = &j->reference;
    bool judged_file = cli_ends_in(a->what, ".safetensors"),
         data_file = cli_ends_in(a->data, ".safetensors"), model = cli_is_model(a->what);
    lgv_status status = LGV_OK;
    g->path = a->what;
    r->path = a->data;
    if (a->nearest && (judged_file || data_file))
        return cli_status(err, LGV_ERR_ARGUMENT,
                          "--nearest needs pictures on both sides, not features");
    if (a->features) status = lgv_extractor_open(j->device, a->features, &j->extractor, err);
    if (!status && model)
        status = cli_open_guided(j->device, a->what, a->weights, &a->guide, &j->pipeline, err);
    if (!status && !data_file) status = open_reference(j, err);
    g->n = a->num_images ? a->num_images : DEFAULT_SAMPLES;
    if (!status)
        status = judged_file ? load_features(a->what, "generated.features", g, err)
                 : model     ? draw_samples(j, err)
                             : judged_pictures(j, err);
    if (!status) status = extract(j, g, "features", err);
    if (!status && data_file) status = load_features(a->data, "reference.features", r, err);
    if (!status && !data_file && j->extractor)
        status = eval_read_pictures(j->data, a->validation, a->num_reference, r, err);
    if (!status && r->pixels) status = extract(j, r, "reference", err);
    if (!status && g->features && r->features && g->width != r->width)
        status = cli_status(err, LGV_ERR_SHAPE, "'%s' has features of %lld numbers, '%s' of %lld",
                            a->what, (long long)g->width, a->data, (long long)r->width);
    return status;
}

/* ---- writing ---- */

static lgv_status add_set(lgv_safetensors_writer *w, const char *name, const eval_set *s,
                          lgv_error *err)
{
    char text[32];
    const int64_t dim[2] = {s->n, s->width};
    snprintf(text, sizeof text, "%s.features", name);
    lgv_status status = lgv_safetensors_add(w, text, LGV_F32, 2, dim, s->features, err);
    snprintf(text, sizeof text, "%s.predicted", name);
    if (!status && s->predicted)
        status = lgv_safetensors_add(w, text, LGV_I32, 1, dim, s->predicted, err);
    snprintf(text, sizeof text, "%s.labels", name);
    if (!status && s->label) status = lgv_safetensors_add(w, text, LGV_I32, 1, dim, s->label, err);
    return status;
}

lgv_status eval_save_features(const eval_job *j, lgv_error *err)
{
    lgv_safetensors_writer *w = NULL;
    if (!j->generated.features || !j->reference.features)
        return cli_status(err, LGV_ERR_ARGUMENT,
                          "there are no features to save: give the network with --features");
    lgv_status status = lgv_safetensors_writer_new(&w, err);
    if (!status) status = add_set(w, "generated", &j->generated, err);
    if (!status) status = add_set(w, "reference", &j->reference, err);
    if (!status) status = lgv_safetensors_write(w, j->args->save, err);
    lgv_safetensors_writer_free(w);
    return status;
}
