/* sampler_euler.c - Euler's method on dx/dsigma = (x - x0)/sigma, with churn (arXiv 2206.00364, algorithm 2) or
   ancestral noise; over levels of the betas and for EDM's networks. */
#include <math.h>

#include "core/core.h"
#include "core/elementary.h"
#include "diffusion/sampler_edm.h"

/* What the network sees of an x = x0 + sigma eps. */
static void prepare(const lgv_sampler_task *task, int64_t i, lgv_step_coef *out)
{
    const double sigma = task->sigma[i];
    lgv_predict_at(task, lgv_level_of(task, i), out);
    out->t = (float)task->time[i];
    out->in = (float)(task->scale == LGV_SCALE_EDM ? lgv_edm_input(task->cfg, sigma)
                                                   : 1 / sqrt(sigma * sigma + 1));
}

/* Levels of churn: sigma grows to sigma(1 + gamma). */
static double churn(const lgv_sampler_task *task, double sigma)
{
    const lgv_sampler_options *o = task->options;
    const double most = o->s_tmax > 0 ? o->s_tmax : INFINITY;
    if (sigma < o->s_tmin || sigma > most) return 0;
    const int64_t n = task->levels + (task->cfg->interpolation_type == LGV_INTERPOLATE_LOG &&
                                      !lgv_other_sigmas(task->cfg));
    return fmin(o->s_churn / (double)n, sqrt(2) - 1);
}

/* The noise comes after the network has answered, as in diffusers: its answer belongs to sigma, the step to
   sigma_hat. x0 = a x + b out has them in a, b, of the noisier x + k z. */
void lgv_euler_step(const lgv_sampler_task *task, int64_t i, lgv_step_coef *out)
{
    const double sigma = task->sigma[i], gamma = churn(task, sigma), hat = sigma * (1 + gamma);
    const double s_noise = task->options->s_noise > 0 ? task->options->s_noise : 1;
    prepare(task, i, out);
    if (gamma > 0) {
        lgv_level level = {1, hat, 0};
        float image = out->image, noise = out->noise;
        if (task->cfg->prediction_type != LGV_PREDICT_V || task->scale == LGV_SCALE_EDM)
            lgv_predict_at(task, level, out);
        out->image = image;
        out->noise = noise;
    }
    const double ratio = task->sigma[i + 1] / hat; /* x' = ratio x + (1-ratio) x0 */
    lgv_combo next = {.x0 = 1 - ratio, .x = ratio};
    out->wants_noise = gamma > 0;
    if (gamma > 0)
        next.z = (ratio + (1 - ratio) * (double)out->a) * s_noise * sqrt(hat * hat - sigma * sigma);
    if (task->scale == LGV_SCALE_K && task->cfg->prediction_type == LGV_PREDICT_EPSILON) {
        next.x0 = 0; /* x + out (sigma' - sigma): nothing cancels */
        next.x = 1;
        next.out = task->sigma[i + 1] - hat;
        if (gamma > 0) next.z = s_noise * sqrt(hat * hat - sigma * sigma);
    }
    lgv_combo_next(&next, out);
}

static void ancestral(const lgv_sampler_task *task, int64_t i, lgv_step_coef *out)
{
    double up;
    const double ratio = lgv_level_down(task->sigma[i], task->sigma[i + 1], &up) / task->sigma[i];
    prepare(task, i, out);
    lgv_combo next = {.x0 = 1 - ratio, .x = ratio, .z = up};
    lgv_combo_next(&next, out);
    out->wants_noise = 1;
}

/* Continuous time is ln(sigma)/4, as EDM's. */
static lgv_status grid(lgv_sampler_task *task, lgv_error *err)
{
    LGV_TRY(lgv_sigma_grid(task, LGV_GRID_FINAL | LGV_GRID_TINY, err));
    if (task->cfg->timestep_type == LGV_TIME_CONTINUOUS &&
        task->cfg->prediction_type == LGV_PREDICT_V)
        for (int64_t i = 0; i < task->levels; i++) task->time[i] = 0.25 * lgv_log(task->sigma[i]);
    return LGV_OK;
}

static lgv_status grid_ancestral(lgv_sampler_task *task, lgv_error *err)
{
    return lgv_sigma_grid(task, LGV_GRID_TINY, err);
}

const lgv_sampler_record lgv_sampler_euler = {
    {"euler", "EulerDiscreteScheduler", "Euler's method, with noise by s_churn", 20, 0, NULL},
    lgv_refuse_flow,
    grid,
    lgv_euler_step};
const lgv_sampler_record lgv_sampler_euler_ancestral = {
    {"euler_ancestral", "EulerAncestralDiscreteScheduler", "Euler's method with ancestral noise",
     20, 0, NULL},
    lgv_refuse_sample,
    grid_ancestral,
    ancestral};
