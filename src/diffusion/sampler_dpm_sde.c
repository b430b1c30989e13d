/* sampler_dpm_sde.c - DPM-Solver++ of second order as an SDE, two calls a step (arXiv 2211.01095, as in k-diffusion's
   dpmpp_sde). Both calls' noise comes from one Brownian path over the noise levels: the second call's interval
   contains the first's. */
#include <math.h>

#include "core/core.h"
#include "diffusion/combo.h"

/* The level between, evenly in ln sigma. */
static double middle_of(const lgv_sampler_task *task, int64_t k)
{
    return sqrt((double)task->sigma[k] * task->sigma[k + 1]);
}

static void coef(const lgv_sampler_task *task, int64_t i, lgv_step_coef *out)
{
    const int64_t k = i / 2, second = i % 2;
    const double from = task->sigma[k], last = task->sigma[k + 1];
    const double at = second ? middle_of(task, k) : from;
    const lgv_level level = {1, at, 0};
    lgv_predict_at(task, level, out);
    out->t = (float)(second ? task->middle[k] : task->time[k]);
    out->in = (float)(1 / sqrt(at * at + 1));
    if (last == 0) {
        out->c = 1;
        return;
    }
    const double to = second ? last : middle_of(task, k);
    double up;
    const double ratio = lgv_level_down((float)from, (float)to, &up) / from;
    lgv_combo next = {.x0 = 1 - ratio, .z = up};
    *(second ? &next.h[0] : &next.x) = ratio; /* both steps begin at the first call's x */
    lgv_combo_next(&next, out);
    out->wants_noise = 1;
    out->path_from = (float)from;
    out->path_to = (float)to;
    if (!second) out->keep_sample = 1;
}

static lgv_status grid(lgv_sampler_task *task, lgv_error *err)
{
    LGV_TRY(lgv_sigma_grid(task, 0, err));
    task->n = 2 * task->levels - 1;
    for (int64_t k = 0; k + 1 < task->levels; k++)
        task->middle[k] = lgv_time_of_sigma(task, middle_of(task, k));
    return LGV_OK;
}

const lgv_sampler_record lgv_sampler_dpmpp_sde = {
    {"dpmpp_sde", "DPMSolverSDEScheduler",
     "DPM-Solver++ as an SDE on a Brownian path, two calls a step", 20, 0, NULL},
    lgv_refuse_sample,
    grid,
    coef};
