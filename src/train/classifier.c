/* classifier.c - the task of training a classifier: the class of a picture, by cross-entropy. Pictures are
   shown as they are, at t = 0, or (noisy) noised to any timestep. */
#include "trainer.h"

#include "langevin/ops.h"

/* Where pictures get noise, it is that of betas. */
static lgv_status check_noise(const lgv_trainer *t, lgv_error *err)
{
    if (!lgv_model_describe(t->model)->noisy) return LGV_OK;
    if (t->schedule->family == LGV_FAMILY_BETAS)
        return lgv_model_check_timesteps(t->model, t->schedule->T, err);
    return lgv_fail(err, LGV_ERR_UNSUPPORTED,
                    "a classifier of noisy pictures is trained with betas, not with those of %s; "
                    "leave --prediction-type out",
                    t->cfg.class_name);
}

static lgv_status check_labels(const lgv_trainer *t, lgv_error *err)
{
    int classes = lgv_dataset_classes(t->data), labels = lgv_model_describe(t->model)->labels;
    if (classes < 2)
        return lgv_fail(
            err, LGV_ERR_ARGUMENT,
            "'%s' has no classes to learn: put the pictures of each class into a folder "
            "of its own, or labels beside the pictures",
            lgv_dataset_path(t->data));
    if (classes != labels)
        return lgv_fail(err, LGV_ERR_ARGUMENT, "the classifier knows %d classes, '%s' has %d",
                        labels, lgv_dataset_path(t->data), classes);
    return LGV_OK;
}

static lgv_status check(const lgv_trainer *t, lgv_error *err)
{
    const lgv_model_info *m = lgv_model_describe(t->model);
    if (t->options.rng == LGV_RNG_TORCH)
        return lgv_fail(
            err, LGV_ERR_UNSUPPORTED,
            "--rng torch repeats a script that trains denoisers; classifiers are trained "
            "with philox");
    if (m->in_channels != t->channels)
        return lgv_fail(err, LGV_ERR_SHAPE,
                        "the classifier '%s' takes %d channels, the pictures in '%s' have %d; use "
                        "--channels %d",
                        m->source, m->in_channels, lgv_dataset_path(t->data), (int)t->channels,
                        m->in_channels);
    LGV_TRY(check_noise(t, err));
    LGV_TRY(check_labels(t, err));
    return lgv_model_check_size(t->model, t->side, t->side, err);
}

static lgv_status build(const lgv_trainer *t, bool training, lgv_graph *g, lgv_id *rows,
                        lgv_error *err)
{
    const int64_t N = t->batch, dim[4] = {N, t->side, t->side, t->channels};
    lgv_model_inputs in;
    lgv_id logits;
    lgv_model_inputs_none(&in);
    lgv_model_inputs_from_step(t->model, g, N, &in);
    in.sample = lgv_input(g, "x0", LGV_F32, 4, dim);
    if (lgv_model_describe(t->model)->noisy)
        in.sample =
            lgv_row_axpby(g, in.sample, lgv_random_normal(g, 4, dim, lgv_rng_stream("train.noise")),
                          lgv_step_row(g, N, LGV_FIELD_COEF + LGV_TRAIN_X0),
                          lgv_step_row(g, N, LGV_FIELD_COEF + LGV_TRAIN_NOISE));
    in.training = training;
    LGV_TRY(lgv_model_build(t->model, g, &in, &logits, err));
    lgv_graph_output(g, logits, "logits");
    *rows = lgv_cross_entropy_rows(g, logits, lgv_step_row(g, N, LGV_FIELD_LABEL));
    return lgv_graph_status(g, err);
}

/* Timesteps are uniform over the schedule (guided-diffusion, scripts/classifier_train.py). */
static void draw(lgv_trainer *t)
{
    lgv_rng_key key = {.seed = t->options.seed,
                       .stream = lgv_rng_stream("train.timestep"),
                       .step = (uint64_t)t->state.step};
    for (int64_t i = 0; i < t->effective; i++) {
        key.sample = (uint64_t)i;
        t->t[i] = (int64_t)lgv_rng_below(&key, 0, (uint64_t)t->schedule->T);
    }
}

static void noising_row(const lgv_trainer *t, int64_t timestep, lgv_row *row)
{
    if (!lgv_model_describe(t->model)->noisy) return;
    row->t = (float)timestep;
    row->index = (int32_t)timestep;
    lgv_schedule_noise_coef(t->schedule, timestep, &row->coef[LGV_TRAIN_X0],
                            &row->coef[LGV_TRAIN_NOISE]);
}

static lgv_status fill(lgv_trainer *t, int64_t first, lgv_error *err)
{
    lgv_step *step = lgv_plan_step(t->train);
    for (int64_t i = 0; i < t->batch; i++) {
        step->row[i] = (lgv_row){.seed = t->options.seed,
                                 .sample = (uint64_t)(first + i),
                                 .step = (uint64_t)t->state.step,
                                 .weight = (float)(1.0 / (double)t->effective),
                                 .label = t->label[first + i],
                                 .partner = -1};
        noising_row(t, t->t[first + i], &step->row[i]);
    }
    return LGV_OK;
}

static void validation_row(const lgv_trainer *t, int64_t i, lgv_row *row)
{
    row->partner = -1;
    noising_row(t, lgv_validation_timestep(t, i), row);
}

static lgv_status hits(lgv_trainer *t, lgv_plan *plan, int64_t rows, int64_t *sum, lgv_error *err)
{
    const int64_t classes = lgv_model_describe(t->model)->labels;
    if (!t->logits && !(t->logits = lgv_alloc((size_t)t->batch, (size_t)classes * sizeof(float))))
        return lgv_fail(err, LGV_ERR_MEMORY, "out of memory for logits");
    LGV_TRY(lgv_plan_read(plan, "logits", t->logits, t->batch * classes, err));
    for (int64_t i = 0; i < rows; i++) {
        const float *x = t->logits + i * classes;
        int64_t best = 0;
        for (int64_t k = 1; k < classes; k++)
            if (x[k] > x[best]) best = k;
        *sum += best == lgv_plan_step(plan)->row[i].label;
    }
    return LGV_OK;
}

const lgv_task lgv_task_classifier = {.check = check,
                                      .build = build,
                                      .draw = draw,
                                      .fill = fill,
                                      .validation_row = validation_row,
                                      .hits = hits};
