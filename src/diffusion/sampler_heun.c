/* sampler_heun.c - second-order methods on dx/dsigma = (x - x0)/sigma that ask the network twice a step:
   Heun's (trapezoid) and, at the geometric mean of the levels, DPM-Solver-2 (arXiv 2206.00364, sec. 3 and 2206.00927,
   algorithm 1, as in k-diffusion). Call 2k is the first of step k, call 2k+1 the second; the last step, to noise 0, has only one. */
#include <math.h>

#include "core/core.h"
#include "core/elementary.h"
#include "diffusion/combo.h"

static int64_t step_of(int64_t i)
{
    return i / 2;
}

static int is_second(int64_t i)
{
    return i % 2 == 1;
}

/* x0 from the x at level sigma, and what the network sees; returns the derivative (x - x0)/sigma. */
static lgv_combo ask(const lgv_sampler_task *task, double sigma, double time, lgv_step_coef *out)
{
    const lgv_level level = {1, sigma, 0};
    lgv_predict_at(task, level, out);
    out->t = (float)time;
    out->in = (float)(1 / sqrt(sigma * sigma + 1));
    return lgv_noise_at(task, level, out);
}

static void heun(const lgv_sampler_task *task, int64_t i, lgv_step_coef *out)
{
    const int64_t k = step_of(i), at = k + is_second(i);
    const double dt = (double)task->sigma[k + 1] - task->sigma[k];
    const lgv_combo d = ask(task, task->sigma[at], task->time[at], out);
    lgv_combo next = {0};
    if (!is_second(i)) {
        next.x = 1;
        lgv_combo_add(&next, dt, &d);
        if (task->sigma[k + 1] != 0) lgv_combo_keep(&d, 0, out);
        if (task->sigma[k + 1] != 0) out->keep_sample = 2;
    } else { /* from the first call's x, with the mean of both derivatives */
        next.h[0] = 0.5 * dt;
        next.h[1] = 1;
        lgv_combo_add(&next, 0.5 * dt, &d);
    }
    lgv_combo_next(&next, out);
}

/* The level a step goes down to; the rest comes back as noise. */
static double level_down(const lgv_sampler_task *task, int64_t k, double *up)
{
    *up = 0;
    if (task->info != &lgv_sampler_dpm_2_ancestral.info) return task->sigma[k + 1];
    return lgv_level_down(task->sigma[k], task->sigma[k + 1], up);
}

static double middle_of(const lgv_sampler_task *task, int64_t k)
{
    double up, down = level_down(task, k, &up);
    return task->sigma[k + 1] == 0 ? 0 : lgv_level_between(task->sigma[k], down);
}

static void dpm_2(const lgv_sampler_task *task, int64_t i, lgv_step_coef *out)
{
    const int64_t k = step_of(i);
    const double sigma = task->sigma[k], middle = middle_of(task, k);
    double up, down = level_down(task, k, &up);
    lgv_combo next = {0}, d;
    if (!is_second(i)) {
        d = ask(task, sigma, task->time[k], out);
        next.x = 1;
        lgv_combo_add(&next, middle - sigma, &d);
        if (task->sigma[k + 1] != 0) out->keep_sample = 1;
    } else {
        d = ask(task, middle, task->middle[k], out);
        next.h[0] = 1;
        lgv_combo_add(&next, down - sigma, &d);
        next.z = up;
        out->wants_noise = task->info == &lgv_sampler_dpm_2_ancestral.info;
    }
    lgv_combo_next(&next, out);
}

static lgv_status grid_heun(lgv_sampler_task *task, lgv_error *err)
{
    LGV_TRY(lgv_sigma_grid(task, 0, err));
    task->n = 2 * task->levels - 1;
    return LGV_OK;
}

static lgv_status grid_dpm_2(lgv_sampler_task *task, lgv_error *err)
{
    LGV_TRY(lgv_sigma_grid(task, LGV_GRID_ROUND, err));
    task->n = 2 * task->levels - 1;
    for (int64_t k = 0; k + 1 < task->levels; k++)
        task->middle[k] = lgv_time_of_sigma(task, middle_of(task, k));
    return LGV_OK;
}

const lgv_sampler_record
    lgv_sampler_heun = {{"heun", "HeunDiscreteScheduler",
                         "Heun's method, two calls a step (Karras et al. 2022)", 20, 0, NULL},
                        lgv_refuse_flow,
                        grid_heun,
                        heun},
    lgv_sampler_dpm_2 = {{"dpm_2", "KDPM2DiscreteScheduler", "DPM-Solver-2, two calls a step", 20,
                          0, NULL},
                         lgv_refuse_sample,
                         grid_dpm_2,
                         dpm_2},
    lgv_sampler_dpm_2_ancestral = {{"dpm_2_ancestral", "KDPM2AncestralDiscreteScheduler",
                                    "the same with ancestral noise", 20, 0, NULL},
                                   lgv_refuse_sample,
                                   grid_dpm_2,
                                   dpm_2};
