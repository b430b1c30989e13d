/* sampler_ddim.c - DDIM (arXiv 2010.02502, eq. 12 and 16) and its inverse, from image to noise.
   x' = sqrt(abar') x0 + dir eps + s z: eps is linear in x, out and (when derived again from the
   clipped x0) x0, so it folds into the coefficients. */
#include <math.h>

#include "core/core.h"
#include "diffusion/scheduler.h"

/* Adds dir * eps to c, d, e. eps_of_x0: from the clipped prediction, eps = (x - sqrt(abar)
   x0)/sqrt(1-abar). */
static void add_direction(lgv_prediction prediction, float abar, int eps_of_x0, double dir,
                          double *c, double *d, double *e)
{
    double signal = sqrtf(abar), noise = sqrtf(1.0f - abar);
    if (eps_of_x0) {
        *c -= dir * signal / noise;
        *d += dir / noise;
        return;
    }
    switch (prediction) {
    case LGV_PREDICT_EPSILON: *e += dir; break;
    case LGV_PREDICT_SAMPLE:
        *d += dir / noise;
        *e -= dir * signal / noise;
        break;
    case LGV_PREDICT_V:
        *d += dir * noise;
        *e += dir * signal;
        break;
    case LGV_PREDICT_FLOW: break;
    }
}

/* From noise level abar to level next. */
static void move(const lgv_sampler_task *task, float abar, float next, double dir, int eps_of_x0,
                 lgv_step_coef *out)
{
    double c = sqrtf(next), d = 0, e = 0;
    lgv_sampler_predict(task, abar, out);
    add_direction(task->cfg->prediction_type, abar, eps_of_x0, dir, &c, &d, &e);
    out->c = (float)c;
    out->d = (float)d;
    out->e = (float)e;
}

/* diffusers always goes T/n back. That is the next timestep for "leading", a choice of the
   method for "trailing", and a mistake for "linspace" and own lists: there the next timestep is
   taken. */
static int strides(const lgv_sampler_task *task)
{
    return task->stride &&
           (task->cfg->timestep_spacing != LGV_SPACING_LINSPACE || task->options->compat_diffusers);
}

static float edge(const lgv_sampler_task *task)
{
    return task->cfg->set_alpha_to_one ? 1.0f : task->schedule->alphas_cumprod[0];
}

static void ddim_coef(const lgv_sampler_task *task, int64_t i, lgv_step_coef *out)
{
    int64_t t = task->t[i], prev = i + 1 < task->n ? task->t[i + 1] : -1;
    if (strides(task)) prev = t - task->stride;
    float abar = lgv_sampler_abar(task, t),
          next = prev < 0 ? edge(task) : lgv_sampler_abar(task, prev);
    float variance = (1.0f - next) / (1.0f - abar) * (1.0f - abar / next);
    float s = (float)task->options->eta * sqrtf(variance);
    float rest = 1.0f - next - s * s;
    if (rest < 0 && rest > -1e-6f) rest = 0; /* rounding; a large eta makes it really negative */
    move(task, abar, next, sqrtf(rest), task->options->use_clipped_model_output, out);
    out->s = s;
    out->wants_noise = task->options->eta > 0;
}

/* t ascends. The network is asked at t about an image that is still at the timestep before; x0 is
   predicted with that earlier abar. */
static void inverse_coef(const lgv_sampler_task *task, int64_t i, lgv_step_coef *out)
{
    int64_t t = task->t[i], from = i > 0 ? task->t[i - 1] : -1;
    if (strides(task)) from = lgv_min_i64(t - task->stride, task->schedule->T - 1);
    float abar = from < 0 ? edge(task) : lgv_sampler_abar(task, from),
          next = lgv_sampler_abar(task, t);
    move(task, abar, next, sqrtf(1.0f - next), 0, out);
}

const lgv_sampler_record lgv_sampler_ddim = {
    {"ddim", "DDIMScheduler", "deterministic with eta 0 (Song et al. 2020), 20 to 100 steps", 50, 0,
     NULL},
    lgv_refuse_flow,
    NULL,
    ddim_coef};
const lgv_sampler_record lgv_sampler_ddim_inverse = {
    {"ddim_inverse", "DDIMInverseScheduler", "DDIM run backwards, from an image to its noise", 50,
     1, NULL},
    lgv_refuse_flow,
    NULL,
    inverse_coef};
