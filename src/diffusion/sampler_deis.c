/* sampler_deis.c - DEIS (arXiv 2204.13902): with rho = sigma/alpha, x/alpha changes by the integral of the noise over rho,
   and the noise is a polynomial in ln rho through the latest predictions. */
#include <math.h>

#include "core/core.h"
#include "core/elementary.h"
#include "diffusion/combo.h"

static float rho_of(lgv_level level)
{
    return (float)level.sigma / (float)level.alpha;
}

static float log_of(float x)
{
    return (float)lgv_log(x);
}

/* Antiderivatives of the Lagrange polynomials in ln t that are 1 at b and 0 at c (and d), which are logarithms. In
   float32, in this order: they cancel, and diffusers' error is part of its pictures. */
static float second(float t, float b, float c)
{
    return t * (-c + log_of(t) - 1) / (b - c);
}

static float third(float t, float b, float c, float d)
{
    const float l = log_of(t);
    return t * (c * (d - l + 1) - d * l + d + l * l - 2 * l + 2) / ((b - c) * (b - d));
}

static int64_t order_at(const lgv_sampler_task *task, int64_t i)
{
    const int64_t left = task->levels - i;
    const int few = task->cfg->lower_order_final && task->levels < 15;
    const int64_t order = lgv_min_i64(task->cfg->solver_order, i - task->begin + 1);
    return few ? lgv_min_i64(order, left) : order;
}

static void coef(const lgv_sampler_task *task, int64_t i, lgv_step_coef *out)
{
    const int64_t order = order_at(task, i), slots = task->cfg->solver_order - 1;
    const lgv_level s = lgv_level_of(task, i), t = lgv_level_of(task, i + 1);
    lgv_predict_at(task, s, out);
    out->t = (float)task->time[i];
    const lgv_combo m0 = lgv_noise_at(task, s, out);
    const float from = rho_of(s), to = rho_of(t), l0 = log_of(from);
    lgv_combo next = {.x = t.alpha / s.alpha};
    if (order == 1) {
        lgv_combo_add(&next, -t.sigma * lgv_expm1((float)(t.lambda - s.lambda)), &m0);
    } else if (order == 2) {
        const float l1 = log_of(rho_of(lgv_level_of(task, i - 1)));
        lgv_combo_add(&next, t.alpha * (double)(second(to, l0, l1) - second(from, l0, l1)), &m0);
        next.h[(i - 1) % slots] = t.alpha * (double)(second(to, l1, l0) - second(from, l1, l0));
    } else {
        const float l1 = log_of(rho_of(lgv_level_of(task, i - 1))),
                    l2 = log_of(rho_of(lgv_level_of(task, i - 2)));
        lgv_combo_add(&next, t.alpha * (double)(third(to, l0, l1, l2) - third(from, l0, l1, l2)),
                      &m0);
        next.h[(i - 1) % slots] =
            t.alpha * (double)(third(to, l1, l2, l0) - third(from, l1, l2, l0));
        next.h[(i - 2) % slots] =
            t.alpha * (double)(third(to, l2, l0, l1) - third(from, l2, l0, l1));
    }
    lgv_combo_next(&next, out);
    if (slots) lgv_combo_keep(&m0, (int)(i % slots), out);
}

static lgv_status check(lgv_scheduler_config *cfg, const lgv_sampler_options *options,
                        lgv_error *err)
{
    cfg->solver_type = LGV_SOLVER_LOGRHO;
    if (cfg->algorithm_type == LGV_ALGORITHM_SDE_DPM ||
        cfg->algorithm_type == LGV_ALGORITHM_SDE_DPMPP)
        return lgv_fail(err, LGV_ERR_ARGUMENT,
                        "deis has no SDE form; take dpmpp_2m_sde, or algorithm_type deis");
    if (cfg->solver_order >= 1 && cfg->solver_order <= 3) return LGV_OK;
    return lgv_fail(err, LGV_ERR_ARGUMENT, "solver_order of %s is 1, 2 or 3, not %lld",
                    cfg->class_name, (long long)cfg->solver_order);
}

static lgv_status grid(lgv_sampler_task *task, lgv_error *err)
{
    return lgv_sigma_grid(
        task, LGV_GRID_SOLVER | LGV_GRID_ROUND | LGV_GRID_NONZERO | LGV_GRID_REPEAT, err);
}

const lgv_sampler_record lgv_sampler_deis = {
    {"deis", "DEISMultistepScheduler",
     "exponential integrator (Zhang and Chen 2022), 15 to 25 steps", 20, 0, NULL},
    check,
    grid,
    coef};
