/* sampler_ddpm.c - ancestral sampling, the posterior q(x_prev | x_t, x0) (arXiv 2006.11239, eq.
   7) between any two timesteps of the list. beta is 1 - abar_t/abar_prev in float32, as
   diffusers has it: the cancellation loses up to 1e-3 of it at small t, and pictures are to
   agree. */
#include <math.h>

#include "core/core.h"
#include "core/elementary.h"
#include "diffusion/scheduler.h"

/* Standard deviation of the noise; the smallest variance is 1e-20 as in diffusers. */
static double deviation(const lgv_sampler_task *task, float abar, float before, float beta)
{
    double variance = (1.0f - before) / (1.0f - abar) * beta;
    switch (task->cfg->variance_type) {
    case LGV_VARIANCE_FIXED_LARGE_LOG:
        /* diffusers takes the root of ln(beta), which is not positive */
        if (task->options->compat_diffusers) return beta < 1 ? NAN : 0;
        return sqrt(beta);
    case LGV_VARIANCE_FIXED_LARGE: return sqrt(beta);
    default: return sqrt(variance < 1e-20 ? 1e-20 : variance);
    }
}

/* A network with a learned variance gives its logarithm as a place between those of the smallest and
   the largest (arXiv 2102.09672, eq. 15; -1 and 1 are the ends), or the variance itself. */
static void predicted(const lgv_sampler_task *task, double smallest, double largest,
                      lgv_step_coef *out)
{
    out->s = 1;
    if (task->cfg->variance_type == LGV_VARIANCE_LEARNED) {
        out->variance = LGV_PREDICTED_ITSELF;
        return;
    }
    double low = lgv_log(smallest < 1e-20 ? 1e-20 : smallest), high = lgv_log(largest);
    out->variance = LGV_PREDICTED_RANGE;
    out->v0 = (float)(0.25 * (high + low));
    out->v1 = (float)(0.25 * (high - low));
}

static void coef(const lgv_sampler_task *task, int64_t i, lgv_step_coef *out)
{
    int64_t t = task->t[i], prev = i + 1 < task->n ? task->t[i + 1] : -1;
    float abar = lgv_sampler_abar(task, t);
    float before = prev < 0 ? 1.0f : lgv_sampler_abar(task, prev);
    float alpha = abar / before, beta = 1.0f - alpha;
    lgv_sampler_predict(task, abar, out);
    out->c = sqrtf(before) * beta / (1.0f - abar);
    out->d = sqrtf(alpha) * (1.0f - before) / (1.0f - abar);
    out->e = 0;
    out->wants_noise = t > 0;
    if (t <= 0) return;
    if (task->cfg->variance_type >= LGV_VARIANCE_LEARNED)
        predicted(task, (1.0f - before) / (1.0f - abar) * beta, beta, out);
    else
        out->s = (float)deviation(task, abar, before, beta);
}

const lgv_sampler_record lgv_sampler_ddpm = {
    {"ddpm", "DDPMScheduler", "ancestral sampling (Ho et al. 2020), many steps", 0, 0, NULL},
    lgv_refuse_flow,
    NULL,
    coef};
