/* sampler_flow.c - flow matching (arXiv 2210.02747, 2403.03206): x = (1-sigma) x0 + sigma eps, the network predicts
   eps - x0 = dx/dsigma, and a step follows it. */
#include <math.h>

#include "core/core.h"
#include "core/elementary.h"
#include "diffusion/combo.h"

/* Larger pictures need more noise to hide them: mu grows with the number of tokens. */
double lgv_flow_shift(const lgv_scheduler_config *cfg, const lgv_sampler_options *o,
                      double constant)
{
    double mu = o->mu;
    if (!cfg->use_dynamic_shifting) return constant;
    if (mu == 0) {
        const double slope = (cfg->max_shift - cfg->base_shift) /
                             (double)(cfg->max_image_seq_len - cfg->base_image_seq_len);
        mu = cfg->base_shift + slope * (double)(o->image_seq_len - cfg->base_image_seq_len);
    }
    return cfg->time_shift_type == LGV_SHIFT_LINEAR ? mu : lgv_exp(mu);
}

lgv_status lgv_check_shift(const lgv_scheduler_config *cfg, const lgv_sampler_options *o,
                           lgv_error *err)
{
    if (!cfg->use_dynamic_shifting || o->mu != 0) return LGV_OK;
    if (o->image_seq_len > 0 && cfg->max_image_seq_len != cfg->base_image_seq_len) return LGV_OK;
    return lgv_fail(
        err, LGV_ERR_ARGUMENT,
        "use_dynamic_shifting needs the picture's number of tokens (image_seq_len), or mu");
}

static lgv_status check(lgv_scheduler_config *cfg, const lgv_sampler_options *o, lgv_error *err)
{
    if (!(cfg->shift > 0))
        return lgv_fail(err, LGV_ERR_ARGUMENT, "shift must be positive, is %g", cfg->shift);
    if (!(cfg->shift_terminal >= 0 && cfg->shift_terminal < 1))
        return lgv_fail(err, LGV_ERR_ARGUMENT, "shift_terminal lies between 0 and 1, not %g",
                        cfg->shift_terminal);
    return lgv_check_shift(cfg, o, err);
}

static lgv_status check_own(const lgv_sampler_task *task, lgv_error *err)
{
    if (lgv_other_sigmas(task->cfg) || task->cfg->invert_sigmas)
        return lgv_fail(err, LGV_ERR_ARGUMENT,
                        "own timesteps and a sigma schedule exclude each other");
    return lgv_check_list(task->options, 0, task->cfg->num_train_timesteps + 1, err);
}

/* Evenly from sigma_max to sigma_min of the shifted schedule, and shifted again, as diffusers does. */
static void spread(const lgv_sampler_task *task, int64_t n, double *sigma)
{
    const lgv_scheduler_config *cfg = task->cfg;
    const double T = (double)cfg->num_train_timesteps;
    const float first = cfg->use_dynamic_shifting ? 1 : (float)cfg->shift;
    const float tiny = (float)(1 / T);
    const double low = (double)(first * tiny / (1 + (first - 1) * tiny)) * T, high = T;
    const double shift = lgv_flow_shift(cfg, task->options, cfg->shift);
    for (int64_t i = 0; i < n; i++) {
        double t = n > 1 && i == n - 1 ? low : high + (double)i * ((low - high) / (double)(n - 1));
        if (n == 1) t = high;
        if (task->options->timestep_count) t = (double)task->options->timesteps[i];
        task->time[i] = t;
        sigma[i] = lgv_shift_sigma(shift, t / T);
    }
}

static void stretch(const lgv_scheduler_config *cfg, int64_t n, double *sigma)
{
    const double scale = (1 - sigma[n - 1]) / (1 - cfg->shift_terminal);
    for (int64_t i = 0; i < n && cfg->shift_terminal != 0; i++)
        sigma[i] = 1 - (1 - sigma[i]) / scale;
}

static lgv_status grid(lgv_sampler_task *task, lgv_error *err)
{
    const lgv_scheduler_config *cfg = task->cfg;
    const int64_t n = lgv_grid_steps(task);
    if (task->options->timestep_count) LGV_TRY(check_own(task, err));
    LGV_TRY(lgv_check_steps(n, cfg->num_train_timesteps, err));
    LGV_TRY(lgv_grid_room(task, n, err));
    task->scale = LGV_SCALE_FLOW;
    double *sigma = lgv_zalloc((size_t)n, sizeof *sigma);
    if (!sigma)
        return lgv_fail(err, LGV_ERR_MEMORY, "out of memory for %lld noise levels", (long long)n);
    spread(task, n, sigma);
    stretch(cfg, n, sigma);
    if (lgv_other_sigmas(cfg)) lgv_space_sigmas(cfg, sigma[n - 1], sigma[0], n, sigma);
    for (int64_t i = 0; i < n; i++) {
        task->sigma[i] = cfg->invert_sigmas ? 1.0f - (float)sigma[i] : (float)sigma[i];
        if (!task->options->timestep_count)
            task->time[i] = task->sigma[i] * (float)cfg->num_train_timesteps;
    }
    task->sigma[n] = cfg->invert_sigmas ? 1 : 0;
    lgv_free(sigma);
    return LGV_OK;
}

static lgv_status grid_heun(lgv_sampler_task *task, lgv_error *err)
{
    LGV_TRY(grid(task, err));
    task->n = 2 * task->levels - 1;
    return LGV_OK;
}

static void prepare(const lgv_sampler_task *task, int64_t level, lgv_step_coef *out)
{
    lgv_predict_at(task, lgv_level_of(task, level), out);
    out->t = (float)task->time[level];
}

static void euler(const lgv_sampler_task *task, int64_t i, lgv_step_coef *out)
{
    const double next = task->sigma[i + 1];
    prepare(task, i, out);
    out->d = 1;
    out->e = (float)(next - task->sigma[i]);
    if (!task->cfg->stochastic_sampling) return;
    out->c = (float)(1 - next); /* the predicted picture, noised anew */
    out->d = out->e = 0;
    out->s = (float)next;
    out->wants_noise = 1;
}

/* Two calls a step; the last step, to noise 0, has one. */
static void heun(const lgv_sampler_task *task, int64_t i, lgv_step_coef *out)
{
    const int64_t k = i / 2, second = i % 2;
    const double dt = (double)task->sigma[k + 1] - task->sigma[k];
    prepare(task, k + second, out);
    out->e = (float)(second ? 0.5 * dt : dt);
    if (second) { /* from the first call's x, with the mean of both answers */
        out->h[0] = (float)(0.5 * dt);
        out->h[1] = 1;
        return;
    }
    out->d = 1;
    if (i + 1 == task->n) return;
    out->keep = 1;
    out->keep_out = 1;
    out->keep_sample = 2;
}

const lgv_sampler_record lgv_sampler_flow_euler = {{"flow_euler", "FlowMatchEulerDiscreteScheduler",
                                                    "Euler's method for flow matching", 20, 0,
                                                    NULL},
                                                   check,
                                                   grid,
                                                   euler};
const lgv_sampler_record lgv_sampler_flow_heun = {
    {"flow_heun", "FlowMatchHeunDiscreteScheduler",
     "Heun's method for flow matching, two calls a step", 20, 0, NULL},
    check,
    grid_heun,
    heun};
