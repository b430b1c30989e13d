/* classes.c - class-conditional training: the classes of network and pictures agree, and in each step some
   pictures lose their label (arXiv 2207.12598, algorithm 1), so that the network also learns to do without.
   The mask is drawn once for a sample and step, on the host: micro-batches, devices and recomputation see the same. */
#include "trainer.h"

#include <string.h>

#include "dataset.h"

enum { NAME_SHOWN = 40 };

bool lgv_classes_used(const lgv_trainer *t)
{
    return t->task->pipeline && lgv_model_describe(t->model)->class_kind != LGV_CLASS_NONE;
}

/* ---- do they fit? ---- */

static lgv_status check_count(const lgv_trainer *t, lgv_error *err)
{
    const lgv_model_info *m = lgv_model_describe(t->model);
    int have = lgv_dataset_classes(t->data), knows = m->class_count - (m->null_label >= 0);
    if (m->class_kind != LGV_CLASS_TABLE)
        return lgv_fail(err, LGV_ERR_UNSUPPORTED,
                        "model '%s' takes its classes as %s; only a table of classes "
                        "(num_class_embeds) can be trained",
                        m->source, m->class_kind == LGV_CLASS_TIMESTEP ? "timesteps" : "vectors");
    if (have < 1)
        return lgv_fail(err, LGV_ERR_ARGUMENT,
                        "model '%s' is class-conditional, and '%s' has no classes: put the "
                        "pictures of each class into a folder of its own, or labels beside the "
                        "pictures",
                        m->source, lgv_dataset_path(t->data));
    if (have == knows || (m->null_label < 0 && have == knows - 1)) return LGV_OK;
    return lgv_fail(err, LGV_ERR_ARGUMENT, "model '%s' knows %d classes, '%s' has %d", m->source,
                    m->class_names ? m->class_names : knows, lgv_dataset_path(t->data), have);
}

/* Where the network's classes have names, they are those of the pictures. */
static lgv_status check_names(const lgv_trainer *t, lgv_error *err)
{
    const lgv_model_info *m = lgv_model_describe(t->model);
    for (int i = 0; i < m->class_names; i++) {
        const char *name = lgv_dataset_class_name(t->data, i);
        if (name && !strcmp(m->class_name_of[i], name)) continue;
        return lgv_fail(err, LGV_ERR_ARGUMENT,
                        "class %d is '%.*s' to the model '%s' and '%.*s' in '%s'; the classes must "
                        "be the same, in the same order",
                        i, NAME_SHOWN, m->class_name_of[i], m->source, NAME_SHOWN,
                        name ? name : "none", lgv_dataset_path(t->data));
    }
    return LGV_OK;
}

/* The one label beyond the classes of the pictures stands for no class. */
static int find_null_label(const lgv_trainer *t)
{
    const lgv_model_info *m = lgv_model_describe(t->model);
    int count = lgv_dataset_classes(t->data);
    return m->null_label >= 0 ? m->null_label : count < m->class_count ? count : -1;
}

static lgv_status choose_dropout(lgv_trainer *t, lgv_error *err)
{
    double *p = &t->options.class_dropout_prob;
    if (*p == 0) *p = t->null_label >= 0 ? 0.1 : LGV_OFF;
    if (t->null_label >= 0 || *p == LGV_OFF) return LGV_OK;
    return lgv_fail(err, LGV_ERR_ARGUMENT,
                    "model '%s' has a label for each of the %d classes and none for no class, so "
                    "labels cannot be dropped; use --class-dropout-prob 0",
                    lgv_model_describe(t->model)->source, lgv_dataset_classes(t->data));
}

static lgv_status check_labels(lgv_trainer *t, int64_t *unlabelled, lgv_error *err)
{
    int64_t n = 0;
    for (int64_t i = 0; i < lgv_dataset_count(t->data); i++)
        n += lgv_dataset_label(t->data, 0, i) < 0;
    *unlabelled = n;
    if (!n) return LGV_OK;
    if (t->null_label < 0)
        return lgv_fail(err, LGV_ERR_ARGUMENT, "%lld pictures of '%s' have no class", (long long)n,
                        lgv_dataset_path(t->data));
    return lgv_trainer_note(t, err, "%lld pictures have no class: they train what is drawn without",
                            (long long)n);
}

/* Gives the network the names of the data set. A null label that no picture trains is none. */
static lgv_status name_classes(lgv_trainer *t, bool trained, lgv_error *err)
{
    int count = lgv_dataset_classes(t->data);
    const char **names = lgv_alloc((size_t)count, sizeof *names);
    if (!names) return lgv_fail(err, LGV_ERR_MEMORY, "out of memory for %d class names", count);
    for (int i = 0; i < count; i++) names[i] = lgv_dataset_class_name(t->data, i);
    lgv_status s =
        lgv_model_name_classes(t->model, count, names, trained ? t->null_label : -1, err);
    lgv_free(names);
    return s;
}

lgv_status lgv_classes_prepare(lgv_trainer *t, lgv_error *err)
{
    int64_t unlabelled;
    double *p = &t->options.class_dropout_prob;
    t->null_label = -1;
    if (!lgv_classes_used(t)) {
        if (*p > 0)
            return lgv_fail(err, LGV_ERR_ARGUMENT,
                            "the model '%s' is unconditional: it has no labels to drop; train a "
                            "new one with --class-conditional",
                            lgv_model_describe(t->model)->source);
        *p = LGV_OFF;
        return LGV_OK;
    }
    LGV_TRY(check_count(t, err));
    LGV_TRY(check_names(t, err));
    t->null_label = find_null_label(t);
    LGV_TRY(choose_dropout(t, err));
    LGV_TRY(check_labels(t, &unlabelled, err));
    return name_classes(t, *p > 0 || unlabelled, err);
}

/* ---- the labels of a step ---- */

/* PyTorch's script: torch.rand(batch) < p after the timesteps, as the label embedding of DiT draws it. */
static bool drop_torch(lgv_trainer *t, double p)
{
    float u;
    lgv_torch_rand(&t->state.torch, 1, &u);
    return u < (float)p;
}

static bool drop_philox(const lgv_trainer *t, int64_t i, double p)
{
    const lgv_rng_key key = {.seed = t->options.seed,
                             .stream = lgv_rng_stream("train.class_dropout"),
                             .sample = (uint64_t)i,
                             .step = (uint64_t)t->state.step};
    float u;
    lgv_rng_uniform(&key, 0, 1, &u);
    return (double)u < p;
}

void lgv_classes_draw(lgv_trainer *t)
{
    double p = t->options.class_dropout_prob;
    bool torch = t->options.rng == LGV_RNG_TORCH;
    if (!lgv_classes_used(t)) return;
    for (int64_t i = 0; i < t->effective; i++) {
        bool drop = p > 0 && (torch ? drop_torch(t, p) : drop_philox(t, i, p));
        if (drop || t->label[i] < 0) t->label[i] = t->null_label;
    }
}

int32_t lgv_classes_label(const lgv_trainer *t, int32_t label)
{
    return !lgv_classes_used(t) ? 0 : label < 0 ? t->null_label : label;
}

/* ---- samples ---- */

/* Pictures of a grid, and their classes one after the other: as many of each as come to about `about`; when there are
   more classes than that, some of them. */
int64_t lgv_classes_of_grid(const lgv_trainer *t, int64_t about, int32_t *label)
{
    int64_t classes = lgv_dataset_classes(t->data);
    if (!lgv_classes_used(t)) return about;
    int64_t each = about / classes;
    if (!each) {
        for (int64_t i = 0; i < about; i++) label[i] = (int32_t)(i * classes / about);
        return about;
    }
    for (int64_t i = 0; i < each * classes; i++) label[i] = (int32_t)(i / each);
    return each * classes;
}
