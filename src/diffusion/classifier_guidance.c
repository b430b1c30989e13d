/* classifier_guidance.c - guidance by a classifier of pictures with noise (arXiv 2105.05233, section 4.1 and 4.2): the gradient
   of log p(class | x_t) for x_t changes each step.
   Algorithm 1 (ddpm): x' ~ N(mean + scale Sigma gradient, Sigma). Where the last step draws no noise, Sigma is 0.
   Algorithm 2 (ddim): eps - scale sqrt(1-abar) gradient stands for eps, in the predicted picture as well as in the
   direction. Where the scheduler clips the predicted picture, it clips that of the network alone: clipped afterwards, a pixel at
   the bound would keep only what guidance takes from the direction, and go away from the class. guided-diffusion has the same
   order (gaussian_diffusion.py, condition_mean and condition_score). */
#include <math.h>
#include <string.h>

#include "core/core.h"
#include "diffusion/pipeline_internal.h"
#include "langevin/ops.h"
#include "plan/store.h"

enum { PLANS = 4, NAME_SHOWN = 40 };

typedef struct gradient_plan {
    int64_t rows, H, W;
    lgv_mixed_precision precision;
    lgv_plan *plan; /* NULL: free slot */
} gradient_plan;

struct lgv_classifier {
    lgv_model *model;
    lgv_store *store;
    gradient_plan plans[PLANS];
    int next_slot; /* gives way when all are taken */
};

static const lgv_model_info *info_of(const lgv_classifier *c)
{
    return lgv_model_describe(c->model);
}

/* ---- the gradient ---- */

/* Input "x", output "gradient" of the sum over rows of -weight log p(label | x, t). */
static lgv_status build(const lgv_classifier *c, lgv_graph *g, int64_t rows, int64_t H, int64_t W,
                        lgv_error *err)
{
    const int64_t dim[] = {rows, H, W, info_of(c)->in_channels};
    lgv_model_inputs in;
    lgv_id logits, gradient;
    lgv_model_inputs_none(&in);
    lgv_model_inputs_from_step(c->model, g, rows, &in);
    in.sample = lgv_input(g, "x", LGV_F32, 4, dim);
    LGV_TRY(lgv_model_build(c->model, g, &in, &logits, err));
    lgv_id loss = lgv_cross_entropy_rows(g, logits, lgv_step_row(g, rows, LGV_FIELD_LABEL)),
           weight = lgv_step_row(g, rows, LGV_FIELD_WEIGHT);
    LGV_TRY(lgv_graph_grad(g, 1, &loss, &weight, 1, &in.sample, &gradient, err));
    lgv_graph_output(g, gradient, "gradient");
    return lgv_graph_status(g, err);
}

static lgv_status plan_of(lgv_classifier *c, int64_t rows, int64_t H, int64_t W,
                          lgv_mixed_precision precision, lgv_plan **out, lgv_error *err)
{
    for (int i = 0; i < PLANS; i++) {
        const gradient_plan *have = &c->plans[i];
        if (!have->plan || have->rows != rows || have->H != H || have->W != W ||
            have->precision != precision)
            continue;
        *out = have->plan;
        return LGV_OK;
    }
    gradient_plan *slot = &c->plans[c->next_slot], made = {rows, H, W, precision, NULL};
    const lgv_plan_options options = {.weights = "weight", .mixed_precision = precision};
    lgv_graph *g = lgv_graph_new();
    if (!g) return lgv_fail(err, LGV_ERR_MEMORY, "out of memory for the graph of a classifier");
    const lgv_program program = {"gradient", g};
    lgv_status status = build(c, g, rows, H, W, err);
    if (!status) status = lgv_plan_new(c->store, 1, &program, &options, &made.plan, err);
    lgv_graph_free(g);
    if (status) return status;
    lgv_plan_free(slot->plan);
    *slot = made;
    c->next_slot = (c->next_slot + 1) % PLANS;
    *out = made.plan;
    return LGV_OK;
}

lgv_status lgv_gradient_at(const lgv_gradient *j, float t, int64_t rows, const float *x,
                           lgv_error *err)
{
    const int64_t elements = rows * j->C * j->H * j->W;
    lgv_plan *plan = NULL;
    LGV_TRY(plan_of(j->classifier, rows, j->H, j->W, j->precision, &plan, err));
    for (int64_t r = 0; r < rows; r++)
        lgv_plan_step(plan)->row[r] = (lgv_row){
            .t = t, .index = (int32_t)t, .label = j->label[r], .weight = -1, .partner = -1};
    LGV_TRY(lgv_plan_write_nchw(plan, "x", x, elements, err));
    LGV_TRY(lgv_plan_run(plan, NULL, err));
    return lgv_plan_read_nchw(plan, "gradient", j->values, elements, err);
}

/* What algorithm 2 adds to x' for each unit of the gradient, whatever the network predicts: its eps loses scale noise, so its
   x0 = a x + b out gains scale noise^2/signal, out that divided by b, and x' c b + e times as much. Where nothing of the
   picture is left in x, there is nothing that a class could say about it. */
static double algorithm_2(const lgv_step_coef *k, double scale)
{
    const double gain = scale * k->noise * k->noise / k->image;
    return k->image == 0 ? 0 : (k->c + k->e / (double)k->b) * gain;
}

void lgv_gradient_row(const lgv_gradient *j, const lgv_step_coef *k, int32_t label, lgv_row *row)
{
    if (label < 0) return;
    if (j->ancestral)
        row->coef[LGV_SAMPLE_GUIDE_VARIANCE] = (float)j->scale;
    else
        row->coef[LGV_SAMPLE_GUIDE] = (float)algorithm_2(k, j->scale);
}

/* ---- a job ---- */

static lgv_status check_size(const lgv_classifier *c, int64_t H, int64_t W, lgv_error *err)
{
    const lgv_model_info *info = info_of(c);
    if (!info->fixed_size) return lgv_model_check_size(c->model, H, W, err);
    if (H == info->height && W == info->width) return LGV_OK;
    return lgv_fail(err, LGV_ERR_SHAPE,
                    "the classifier '%s' takes pictures of %dx%d only, not of %lldx%lld; train one "
                    "with --resolution %lld",
                    info->source, info->width, info->height, (long long)W, (long long)H,
                    (long long)H);
}

static lgv_status check_labels(const lgv_gradient *j, const lgv_guidance *guidance, int64_t n,
                               lgv_error *err)
{
    const lgv_model_info *info = info_of(j->classifier);
    for (int64_t i = 0; i < n; i++) {
        int label = lgv_guidance_class(guidance, i);
        if (label >= info->labels)
            return lgv_fail(err, LGV_ERR_ARGUMENT,
                            "class label %d of picture %lld is none of the %d classes of the "
                            "classifier '%s'",
                            label, (long long)i, info->labels, info->source);
    }
    return LGV_OK;
}

lgv_status lgv_gradient_make(const lgv_pipeline *p, const lgv_sample_options *o,
                             const lgv_sampler *sampler, const lgv_guidance *guidance, int64_t n,
                             int64_t batch, int64_t H, int64_t W, lgv_gradient *out, lgv_error *err)
{
    const char *kind = lgv_sampler_kind(sampler)->name;
    lgv_gradient j = {.classifier = p->classifier,
                      .scale = o->classifier_scale == 0 ? 1 : o->classifier_scale,
                      .precision = o->mixed_precision,
                      .C = lgv_model_describe(p->model)->picture_channels,
                      .H = H,
                      .W = W};
    if (!p->classifier && o->classifier_scale != 0)
        return lgv_fail(err, LGV_ERR_ARGUMENT,
                        "a classifier scale is given, and no classifier that it could scale");
    if (!p->classifier) return LGV_OK;
    if (!(j.scale > 0 && j.scale <= 10000))
        return lgv_fail(err, LGV_ERR_ARGUMENT,
                        "the classifier scale must be a number above 0, at most 10000, is %g",
                        j.scale);
    j.ancestral = !strcmp(kind, "ddpm");
    if (!j.ancestral && strcmp(kind, "ddim"))
        return lgv_fail(err, LGV_ERR_UNSUPPORTED,
                        "a classifier guides the samplers ddpm and ddim, not %s; take one of them",
                        kind);
    LGV_TRY(check_size(p->classifier, H, W, err));
    LGV_TRY(check_labels(&j, guidance, n, err));
    j.values = lgv_alloc((size_t)(batch * j.C * H * W), sizeof *j.values);
    j.label = lgv_alloc((size_t)batch, sizeof *j.label);
    *out = j;
    if (j.values && j.label) return LGV_OK;
    return lgv_fail(err, LGV_ERR_MEMORY, "out of memory for gradients of %lld pictures",
                    (long long)batch);
}

void lgv_gradient_free(lgv_gradient *j)
{
    lgv_free(j->values);
    lgv_free(j->label);
}

/* ---- does the classifier fit the model? ---- */

static lgv_status check_kind(const lgv_model_info *c, lgv_error *err)
{
    if (!c->labels)
        return lgv_fail(err, LGV_ERR_ARGUMENT,
                        "'%s' holds a %s, which tells no classes apart; give a folder of 'langevin "
                        "train --task classifier --noisy'",
                        c->source, c->class_name);
    if (!c->noisy)
        return lgv_fail(err, LGV_ERR_ARGUMENT,
                        "the classifier '%s' knows pictures without noise only; train one with "
                        "--task classifier --noisy",
                        c->source);
    if (!c->weights_raw && !c->weights_ema)
        return lgv_fail(err, LGV_ERR_ARGUMENT,
                        "'%s' is a classifier without weights; train it first, or give a folder "
                        "that has them",
                        c->source);
    return LGV_OK;
}

static lgv_status check_pictures(const lgv_model_info *m, const lgv_model_info *c, lgv_error *err)
{
    if (c->in_channels == m->picture_channels) return LGV_OK;
    return lgv_fail(err, LGV_ERR_SHAPE,
                    "the classifier '%s' takes pictures of %d channels, the model '%s' draws them "
                    "with %d; train a classifier with --channels %d",
                    c->source, c->in_channels, m->source, m->picture_channels, m->picture_channels);
}

/* Model and classifier number their classes alike. Where nothing names the model's null label, one row more than the classifier
   knows may be it. */
static lgv_status check_classes(const lgv_pipeline *p, const lgv_model_info *c, lgv_error *err)
{
    const lgv_model_info *m = lgv_model_describe(p->model);
    if (m->class_kind == LGV_CLASS_NONE) return LGV_OK;
    if (m->class_kind != LGV_CLASS_TABLE)
        return lgv_fail(err, LGV_ERR_UNSUPPORTED,
                        "the model '%s' takes its class as a number, not from a list that it could "
                        "share with a classifier",
                        m->source);
    int knows = m->class_names ? m->class_names : m->class_count - (p->null_label >= 0);
    bool spare = !m->class_names && p->null_label < 0 && knows == c->labels + 1;
    if (knows != c->labels && !spare)
        return lgv_fail(err, LGV_ERR_ARGUMENT,
                        "the model '%s' knows %d classes, the classifier '%s' %d; train both on "
                        "the same pictures",
                        m->source, knows, c->source, c->labels);
    for (int i = 0; i < m->class_names; i++)
        if (strcmp(m->class_name_of[i], c->label[i]))
            return lgv_fail(err, LGV_ERR_ARGUMENT,
                            "class %d is '%.*s' to the model '%s' and '%.*s' to the classifier "
                            "'%s'; the classes must be the same, in the same order",
                            i, NAME_SHOWN, m->class_name_of[i], m->source, NAME_SHOWN, c->label[i],
                            c->source);
    return LGV_OK;
}

static lgv_status compare(const lgv_pipeline *p, const lgv_model_info *c, const lgv_schedule *mine,
                          const lgv_schedule *theirs, lgv_error *err)
{
    const char *model = lgv_model_describe(p->model)->source;
    if (mine->family != LGV_FAMILY_BETAS)
        return lgv_fail(err, LGV_ERR_UNSUPPORTED,
                        "a classifier guides networks trained with betas, and '%s' was trained for "
                        "%s",
                        model, p->cfg.class_name);
    if (mine->T != theirs->T || theirs->family != mine->family)
        return lgv_fail(err, LGV_ERR_ARGUMENT,
                        "the classifier '%s' was trained for %lld timesteps of %s, the model '%s' "
                        "for %lld; train one with --num-train-timesteps %lld",
                        c->source, (long long)theirs->T,
                        theirs->family == mine->family ? "its schedule" : "another kind of noise",
                        model, (long long)mine->T, (long long)mine->T);
    for (int64_t t = 0; t < mine->T; t++)
        if (fabs(mine->abar[t] - theirs->abar[t]) > 1e-6)
            return lgv_fail(err, LGV_ERR_ARGUMENT,
                            "the classifier '%s' was trained on another noise schedule than the "
                            "model '%s' (alpha_bar %.4g and %.4g at timestep %lld); train one with "
                            "the model's --beta-schedule, which is %s",
                            c->source, model, theirs->abar[t], mine->abar[t], (long long)t,
                            lgv_beta_schedule_name(p->cfg.beta_schedule));
    return LGV_OK;
}

static lgv_status check_schedule(const lgv_pipeline *p, const lgv_model *classifier, lgv_error *err)
{
    const lgv_model_info *c = lgv_model_describe(classifier);
    lgv_scheduler_config cfg;
    lgv_schedule *mine = NULL, *theirs = NULL;
    if (!c->scheduler)
        return lgv_fail(err, LGV_ERR_ARGUMENT,
                        "the classifier '%s' does not say how its pictures were noised: "
                        "scheduler/scheduler_config.json is missing",
                        c->source);
    LGV_TRY(lgv_pipeline_load_scheduler(c, &cfg, err));
    lgv_status status = lgv_model_check_timesteps(classifier, cfg.num_train_timesteps, err);
    if (!status) status = lgv_schedule_new(&p->cfg, &mine, err);
    if (!status) status = lgv_schedule_new(&cfg, &theirs, err);
    if (!status) status = compare(p, c, mine, theirs, err);
    lgv_schedule_free(mine);
    lgv_schedule_free(theirs);
    lgv_scheduler_config_clear(&cfg);
    return status;
}

/* ---- opening ---- */

static lgv_status load(lgv_classifier *c, lgv_device *device, lgv_error *err)
{
    const lgv_model_info *info = info_of(c);
    const int64_t H = info->fixed_size ? info->height : info->divisor,
                  W = info->fixed_size ? info->width : info->divisor;
    lgv_graph *g = lgv_graph_new();
    if (!g) return lgv_fail(err, LGV_ERR_MEMORY, "out of memory for the graph of a classifier");
    lgv_status status = build(c, g, 1, H, W, err);
    if (!status) status = lgv_store_new(device, &c->store, err);
    if (!status) status = lgv_store_declare(c->store, g, err);
    if (!status)
        status = lgv_model_map_weights(c->model, c->store, "weight", LGV_WEIGHTS_BEST, err);
    lgv_graph_free(g);
    return status;
}

static lgv_status open_into(const lgv_pipeline *p, const char *path, lgv_classifier *c,
                            lgv_error *err)
{
    LGV_TRY(lgv_model_open(path, NULL, &c->model, err));
    const lgv_model_info *info = info_of(c);
    LGV_TRY(check_kind(info, err));
    LGV_TRY(check_pictures(lgv_model_describe(p->model), info, err));
    LGV_TRY(check_classes(p, info, err));
    LGV_TRY(check_schedule(p, c->model, err));
    return load(c, p->store->device, err);
}

void lgv_classifier_free(lgv_classifier *c)
{
    if (!c) return;
    for (int i = 0; i < PLANS; i++) lgv_plan_free(c->plans[i].plan);
    lgv_store_free(c->store);
    lgv_model_free(c->model);
    lgv_free(c);
}

lgv_status lgv_pipeline_set_classifier(lgv_pipeline *p, const char *path, lgv_error *err)
{
    lgv_classifier *c = NULL;
    lgv_status status = LGV_OK;
    if (path) {
        if (!(c = lgv_zalloc(1, sizeof *c)))
            return lgv_fail(err, LGV_ERR_MEMORY, "out of memory for a classifier");
        status = open_into(p, path, c, err);
    }
    lgv_classifier_free(status ? c : p->classifier);
    if (!status) p->classifier = c;
    return status;
}

const lgv_model *lgv_pipeline_classifier(const lgv_pipeline *p)
{
    return p->classifier ? p->classifier->model : NULL;
}
