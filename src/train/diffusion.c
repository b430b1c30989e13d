/* diffusion.c - the task of training a denoising network: pictures are noised to random timesteps, and
   the network predicts the noise (or what the prediction type says). */
#include "trainer.h"

#include <math.h>

#include "dataset.h"
#include "langevin/ops.h"

/* ---- model ---- */

/* A network that gives a variance is trained with one, between the posterior's and beta; the trainer has seen to
   the configuration. */
static lgv_status check_variance(const lgv_trainer *t, lgv_error *err)
{
    const lgv_model_info *m = lgv_model_describe(t->model);
    const lgv_train_options *o = &t->options;
    bool learned = t->cfg.variance_type == LGV_VARIANCE_LEARNED ||
                   t->cfg.variance_type == LGV_VARIANCE_LEARNED_RANGE;
    if (m->out_channels != m->picture_channels && !m->learned_variance)
        return lgv_fail(err, LGV_ERR_UNSUPPORTED,
                        "model '%s' gives %d channels for %d; it must be as many, or twice as many "
                        "for a learned variance",
                        m->source, m->out_channels, m->picture_channels);
    if (t->cfg.variance_type == LGV_VARIANCE_LEARNED)
        return lgv_fail(err, LGV_ERR_UNSUPPORTED,
                        "variance_type learned can be sampled but not trained; use learned_range");
    if (learned && !m->learned_variance)
        return lgv_fail(err, LGV_ERR_ARGUMENT,
                        "model '%s' gives no variance: variance_type learned_range needs a network "
                        "of %d output channels",
                        m->source, 2 * m->picture_channels);
    if (o->loss == LGV_LOSS_HYBRID && !m->learned_variance)
        return lgv_fail(err, LGV_ERR_ARGUMENT,
                        "the hybrid loss trains a variance, and model '%s' gives none; "
                        "use variance_type learned_range",
                        m->source);
    if (o->loss == LGV_LOSS_MSE && m->learned_variance)
        return lgv_fail(err, LGV_ERR_ARGUMENT,
                        "model '%s' gives a variance, which the mse loss would never train; "
                        "use the hybrid loss",
                        m->source);
    if (o->loss != LGV_LOSS_MSE && o->snr_gamma > 0)
        return lgv_fail(err, LGV_ERR_ARGUMENT,
                        "min-SNR weights (snr_gamma) belong to the mse loss, not to %s",
                        lgv_loss_name(o->loss));
    if (t->options.schedule_sampler != LGV_TIMESTEPS_UNIFORM && o->rng == LGV_RNG_TORCH)
        return lgv_fail(err, LGV_ERR_UNSUPPORTED,
                        "--rng torch repeats a script that draws timesteps uniformly");
    return LGV_OK;
}

/* What belongs to noise schedules with betas only. */
static lgv_status check_family(const lgv_trainer *t, lgv_error *err)
{
    const lgv_train_options *o = &t->options;
    if (t->schedule->family == LGV_FAMILY_BETAS && t->cfg.beta_schedule == LGV_BETA_EXP)
        return lgv_fail(err, LGV_ERR_ARGUMENT,
                        "beta schedule exp can be sampled but not trained: %s does not know it",
                        t->cfg.class_name);
    if (t->schedule->family == LGV_FAMILY_BETAS) return LGV_OK;
    if (o->loss != LGV_LOSS_MSE || o->snr_gamma > 0)
        return lgv_fail(err, LGV_ERR_ARGUMENT, "%s is trained with the plain mse loss: no %s there",
                        t->cfg.class_name, o->snr_gamma > 0 ? "snr_gamma" : lgv_loss_name(o->loss));
    if (t->schedule->family == LGV_FAMILY_EDM && o->rng == LGV_RNG_TORCH)
        return lgv_fail(err, LGV_ERR_UNSUPPORTED,
                        "--rng torch repeats a script that draws timesteps, which EDM has none of");
    if (lgv_model_describe(t->model)->time_embedding == LGV_TIME_LEARNED)
        return lgv_fail(err, LGV_ERR_ARGUMENT,
                        "model '%s' has a table of timesteps; %s gives it noise levels",
                        lgv_model_describe(t->model)->source, t->cfg.class_name);
    if (!(t->cfg.shift > 0) || !(t->cfg.sigma_data > 0))
        return lgv_fail(err, LGV_ERR_ARGUMENT, "shift %g and sigma_data %g must be positive",
                        t->cfg.shift, t->cfg.sigma_data);
    return LGV_OK;
}

static lgv_status check(const lgv_trainer *t, lgv_error *err)
{
    const lgv_model_info *m = lgv_model_describe(t->model);
    if (m->picture_channels != t->channels)
        return lgv_fail(
            err, LGV_ERR_SHAPE,
            "model '%s' takes %d channels, the pictures in '%s' have %d; use --channels %d",
            m->source, m->picture_channels, lgv_dataset_path(t->data), (int)t->channels,
            m->picture_channels);
    LGV_TRY(check_family(t, err));
    LGV_TRY(check_variance(t, err));
    LGV_TRY(lgv_model_check_timesteps(t->model, t->schedule->T, err));
    return lgv_model_check_size(t->model, t->side, t->side, err);
}

/* ---- graph ---- */

/* The noise of every row: drawn by the device, or given by the host (PyTorch's generator). */
static lgv_id noise_node(const lgv_trainer *t, lgv_graph *g, bool given)
{
    const int64_t dim[4] = {t->batch, t->side, t->side, t->channels};
    if (given) return lgv_input(g, "noise", LGV_F32, 4, dim);
    return lgv_random_normal(g, 4, dim, lgv_rng_stream("train.noise"));
}

static lgv_id offset_node(const lgv_trainer *t, lgv_graph *g, bool given)
{
    const int64_t dim[2] = {t->batch, t->channels};
    if (given) return lgv_input(g, "offset", LGV_F32, 2, dim);
    return lgv_random_normal(g, 2, dim, lgv_rng_stream("train.noise_offset"));
}

static lgv_id coef(lgv_graph *g, int64_t rows, int k)
{
    return lgv_step_row(g, rows, LGV_FIELD_COEF + k);
}

/* What the network sees: x_t, and behind it the channels of the image condition. */
static lgv_id with_condition(const lgv_trainer *t, lgv_graph *g, lgv_id x_t)
{
    const lgv_model_info *m = lgv_model_describe(t->model);
    const int channels = lgv_condition_channels(m->condition, m->picture_channels);
    const int64_t dim[4] = {t->batch, t->side, t->side, channels};
    return channels ? lgv_concat(g, x_t, lgv_input(g, "condition", LGV_F32, 4, dim)) : x_t;
}

/* lgv_loss_kind says what each is. */
static lgv_id loss_rows(const lgv_trainer *t, lgv_graph *g, lgv_id answer, lgv_id target,
                        lgv_id x_t, lgv_id x0)
{
    const double T = (double)t->schedule->T;
    if (t->options.loss == LGV_LOSS_VLB)
        return lgv_affine(g, lgv_vb_rows(g, answer, x_t, x0, 0), T, 0);
    if (t->options.loss == LGV_LOSS_MSE) return lgv_mse_rows(g, answer, target);
    lgv_id mean = lgv_slice(g, answer, 0, t->channels);
    return lgv_add(g, lgv_mse_rows(g, mean, target),
                   lgv_affine(g, lgv_vb_rows(g, answer, x_t, x0, 1), T / 1000, 0));
}

/* x_t = a x0 + b noise; the network's answer against c x0 + d noise. */
static lgv_status build(const lgv_trainer *t, bool training, lgv_graph *g, lgv_id *rows,
                        lgv_error *err)
{
    const int64_t N = t->batch, dim[4] = {N, t->side, t->side, t->channels};
    bool given = training && t->options.rng == LGV_RNG_TORCH;
    lgv_id x0 = lgv_input(g, "x0", LGV_F32, 4, dim);
    lgv_id noise = noise_node(t, g, given);
    /* The offset (https://www.crosslabs.org/blog/diffusion-with-offset-noise) is part of the noise,
       so the network is asked to predict it too. */
    if (training && t->options.noise_offset > 0)
        noise = lgv_add_row(g, noise,
                            lgv_affine(g, offset_node(t, g, given), t->options.noise_offset, 0));
    lgv_model_inputs in;
    lgv_model_inputs_none(&in);
    lgv_model_inputs_from_step(t->model, g, N, &in);
    in.sample = lgv_row_axpby(g, x0, noise, coef(g, N, LGV_TRAIN_X0), coef(g, N, LGV_TRAIN_NOISE));
    in.training = training;
    lgv_id x_t = in.sample, answer;
    in.sample = with_condition(t, g, x_t);
    LGV_TRY(lgv_model_build(t->model, g, &in, &answer, err));
    lgv_id target = lgv_row_axpby(g, x0, noise, coef(g, N, LGV_TRAIN_TARGET_X0),
                                  coef(g, N, LGV_TRAIN_TARGET_NOISE));
    *rows = loss_rows(t, g, answer, target, x_t, x0);
    return lgv_graph_status(g, err);
}

/* ---- draws ---- */

/* PyTorch's script: the order at each epoch's start, then per step the noise and the timesteps. */
static void draw_torch(lgv_trainer *t)
{
    lgv_train_state *s = &t->state;
    lgv_torch_randn(&s->torch, t->effective * t->pixels, t->noise);
    if (t->options.noise_offset > 0)
        lgv_torch_randn(&s->torch, t->effective * t->channels, t->offset);
    lgv_torch_randint(&s->torch, (uint64_t)t->schedule->T, t->effective, t->t);
    for (int64_t i = 0; i < t->effective; i++) t->t_weight[i] = 1;
}

static lgv_rng_key timestep_key(const lgv_trainer *t, int64_t i)
{
    return (lgv_rng_key){.seed = t->options.seed,
                         .stream = lgv_rng_stream("train.timestep"),
                         .step = (uint64_t)t->state.step,
                         .sample = (uint64_t)i};
}

/* Uniform in [0, 1); the timestep drawn with the same key is T times that, rounded down. */
static double timestep_place(const lgv_trainer *t, int64_t i)
{
    const lgv_rng_key key = timestep_key(t, i);
    return ldexp((double)lgv_rng_below(&key, 0, UINT64_C(1) << 53), -53);
}

static void draw_philox(lgv_trainer *t)
{
    if (t->importance) lgv_importance_update(t->importance);
    for (int64_t i = 0; i < t->effective; i++) {
        const lgv_rng_key key = timestep_key(t, i);
        t->t_weight[i] = 1;
        if (t->importance)
            t->t[i] = lgv_importance_draw(t->importance, timestep_place(t, i), &t->t_weight[i]);
        else
            t->t[i] = (int64_t)lgv_rng_below(&key, 0, (uint64_t)t->schedule->T);
    }
}

static void draw(lgv_trainer *t)
{
    if (t->options.rng == LGV_RNG_TORCH)
        draw_torch(t);
    else
        draw_philox(t);
    lgv_classes_draw(t);
}

/* ---- rows ---- */

static lgv_status fill_noise(lgv_trainer *t, int64_t first, lgv_error *err)
{
    if (t->options.rng != LGV_RNG_TORCH) return LGV_OK;
    LGV_TRY(lgv_plan_write_nchw(t->train, "noise", t->noise + first * t->pixels,
                                t->batch * t->pixels, err));
    if (!(t->options.noise_offset > 0)) return LGV_OK;
    return lgv_plan_write(t->train, "offset", t->offset + first * t->channels,
                          t->batch * t->channels, err);
}

/* The row's timestep and the coefficients of its noising and its target. */
static void noising_row(const lgv_trainer *t, int64_t timestep, double within, lgv_row *row)
{
    lgv_noising n;
    lgv_schedule_noising(t->schedule, timestep, within, &n);
    row->t = n.t;
    row->index = (int32_t)timestep;
    row->partner = -1;
    row->coef[LGV_TRAIN_X0] = n.x0;
    row->coef[LGV_TRAIN_NOISE] = n.noise;
    row->coef[LGV_TRAIN_TARGET_X0] = n.target_x0;
    row->coef[LGV_TRAIN_TARGET_NOISE] = n.target_noise;
    if (t->options.loss != LGV_LOSS_MSE)
        lgv_schedule_bound_coef(t->schedule, timestep, timestep - 1,
                                lgv_min_i64(timestep + 1, t->schedule->T - 1), t->cfg.variance_type,
                                INFINITY, row);
}

/* EDM's sigma is continuous: the same draw that chose the index says where in its part. */
static double place_within(const lgv_trainer *t, int64_t i)
{
    if (t->schedule->family != LGV_FAMILY_EDM || t->importance) return 0.5;
    const double u = timestep_place(t, i);
    const double within = u * (double)t->schedule->T - (double)t->t[i];
    return within > 0 && within < 1 ? within : 0.5; /* rounding at an end */
}

static void fill_rows(lgv_trainer *t, int64_t first)
{
    lgv_step *step = lgv_plan_step(t->train);
    for (int64_t i = 0; i < t->batch; i++) {
        lgv_row *row = &step->row[i];
        int64_t timestep = t->t[first + i];
        *row = (lgv_row){.seed = t->options.seed,
                         .sample = (uint64_t)(first + i),
                         .step = (uint64_t)t->state.step,
                         .label = lgv_classes_label(t, t->label[first + i])};
        noising_row(t, timestep, place_within(t, first + i), row);
        double weight = t->options.loss == LGV_LOSS_MSE
                            ? lgv_schedule_loss_weight(t->schedule, timestep, t->options.snr_gamma)
                            : 1;
        row->weight = (float)(weight * t->t_weight[first + i] / (double)t->effective);
    }
}

static lgv_status fill(lgv_trainer *t, int64_t first, lgv_error *err)
{
    fill_rows(t, first);
    return fill_noise(t, first, err);
}

/* The loss of each row, before its weight, into the bin of its timestep and into its history. */
static lgv_status bin_rows(lgv_trainer *t, int64_t first, lgv_error *err)
{
    float *rows = t->x0; /* at least one float a row; filled anew before each run */
    LGV_TRY(lgv_plan_read(t->train, "rows", rows, t->batch, err));
    for (int64_t i = 0; i < t->batch; i++) {
        int64_t bin = t->t[first + i] * LGV_LOSS_BINS / t->schedule->T;
        if (t->importance) lgv_importance_observe(t->importance, t->t[first + i], rows[i]);
        if (!isfinite(rows[i])) continue;
        t->bin_loss[bin] += rows[i];
        t->bin_rows[bin]++;
    }
    return LGV_OK;
}

/* ---- validation ---- */

/* Noise and timesteps are the same in every validation: picture i falls into quartile i mod 4. */
int64_t lgv_validation_timestep(const lgv_trainer *t, int64_t i)
{
    lgv_rng_key key = {.seed = lgv_validation_seed,
                       .stream = lgv_rng_stream("validate.timestep"),
                       .sample = (uint64_t)i};
    int64_t T = t->schedule->T, low = T * (i % 4) / 4, high = T * (i % 4 + 1) / 4;
    return high > low ? low + (int64_t)lgv_rng_below(&key, 0, (uint64_t)(high - low)) : low;
}

static void validation_row(const lgv_trainer *t, int64_t i, lgv_row *row)
{
    row->label = lgv_classes_label(t, row->label);
    noising_row(t, lgv_validation_timestep(t, i), 0.5, row);
}

const lgv_task lgv_task_diffusion = {.pipeline = true,
                                     .check = check,
                                     .build = build,
                                     .draw = draw,
                                     .fill = fill,
                                     .observe = bin_rows,
                                     .validation_row = validation_row};
