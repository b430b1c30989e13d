/* sampler_consistency.c - few steps with networks distilled for them: LCM (arXiv 2310.04378) and TCD (arXiv 2402.19159).
   Both jump to the picture and noise it again. */
#include <math.h>

#include "core/core.h"
#include "diffusion/combo.h"

/* lgv_noise_at for an x of unit variance. */
static lgv_combo noise_of(const lgv_sampler_task *task, float abar, lgv_step_coef *out)
{
    const lgv_level level = {sqrtf(abar), sqrtf(1.0f - abar), 0};
    return lgv_noise_at(task, level, out);
}

static int64_t next_time(const lgv_sampler_task *task, int64_t i, int64_t after_last)
{
    return i + 1 < task->n ? task->t[i + 1] : after_last;
}

/* x0 mixed with x so that at t = 0 the function is the identity (eq. 8 with sigma_data 0.5). */
static void lcm(const lgv_sampler_task *task, int64_t i, lgv_step_coef *out)
{
    const int64_t t = task->t[i], last = i + 1 == task->n;
    const double scaled = (double)t * task->cfg->timestep_scaling, total = scaled * scaled + 0.25;
    const float to = lgv_sampler_abar(task, next_time(task, i, t));
    const double keep = last ? 1 : sqrtf(to);
    lgv_sampler_predict(task, lgv_sampler_abar(task, t), out);
    lgv_combo next = {.x0 = keep * scaled / sqrt(total), .x = keep * 0.25 / total};
    if (!last) next.z = sqrtf(1.0f - to);
    out->wants_noise = !last;
    lgv_combo_next(&next, out);
}

/* DDIM to s between the next timestep and 0, and noise back to the next timestep; gamma of the paper is eta. */
static void tcd(const lgv_sampler_task *task, int64_t i, lgv_step_coef *out)
{
    const lgv_sampler_options *o = task->options;
    const double eta = o->eta_stated || o->eta > 0 ? o->eta : 0.3;
    const int64_t to_time = next_time(task, i, 0);
    const int64_t s = (int64_t)floorf((float)(1 - eta) * (float)to_time);
    const float abar = lgv_sampler_abar(task, task->t[i]), to = lgv_sampler_abar(task, to_time),
                at = lgv_sampler_abar(task, s);
    lgv_sampler_predict(task, abar, out);
    out->clip = INFINITY; /* diffusers' TCD has the fields and does not use them */
    out->threshold = 0;
    const lgv_combo eps = noise_of(task, abar, out);
    const int noised = eta > 0 && i + 1 < task->n;
    const double back = noised ? sqrtf(to / at) : 1;
    lgv_combo next = {.x0 = back * sqrtf(at)};
    lgv_combo_add(&next, back * sqrtf(1.0f - at), &eps);
    if (noised) next.z = sqrtf(1.0f - to / at);
    out->wants_noise = noised;
    lgv_combo_next(&next, out);
}

/* n of the timesteps that the network was distilled on. */
static lgv_status grid(lgv_sampler_task *task, lgv_error *err)
{
    const int64_t T = task->cfg->num_train_timesteps, from = task->cfg->original_inference_steps;
    if (task->options->timestep_count) return lgv_timesteps_grid(task, err);
    const int64_t n = lgv_grid_steps(task);
    LGV_TRY(lgv_check_steps(n, T, err));
    if (from > T || n > from)
        return lgv_fail(err, LGV_ERR_ARGUMENT,
                        "%lld steps of the %lld that the network was distilled on "
                        "(original_inference_steps), of %lld timesteps: the numbers must ascend",
                        (long long)n, (long long)from, (long long)T);
    task->t = lgv_alloc((size_t)n, sizeof *task->t);
    if (!task->t)
        return lgv_fail(err, LGV_ERR_MEMORY, "out of memory for %lld timesteps", (long long)n);
    const double step = (double)from / (double)n;
    for (int64_t i = 0; i < n; i++)
        task->t[i] = (from - (int64_t)floor((double)i * step)) * (T / from) - 1;
    task->n = n;
    return LGV_OK;
}

static lgv_status check_tcd(lgv_scheduler_config *cfg, const lgv_sampler_options *o, lgv_error *err)
{
    LGV_TRY(lgv_refuse_flow(cfg, o, err));
    if (o->eta <= 1) return LGV_OK;
    return lgv_fail(err, LGV_ERR_ARGUMENT, "eta of tcd lies between 0 and 1, not %g", o->eta);
}

const lgv_sampler_record lgv_sampler_lcm = {
    {"lcm", "LCMScheduler", "latent consistency, for networks distilled for it, 1 to 8 steps", 4, 0,
     NULL},
    lgv_refuse_flow,
    grid,
    lcm};
const lgv_sampler_record lgv_sampler_tcd = {
    {"tcd", "TCDScheduler", "trajectory consistency, for networks distilled for it; eta 0.3", 4, 0,
     NULL},
    check_tcd,
    grid,
    tcd};
