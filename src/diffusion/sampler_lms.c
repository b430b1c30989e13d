/* sampler_lms.c - linear multistep on dx/dsigma = (x - x0)/sigma: the last four derivatives' polynomial in sigma is
   integrated over the step (Adams-Bashforth with unequal steps, as in k-diffusion). */
#include <math.h>

#include "core/core.h"
#include "diffusion/combo.h"

enum { ORDER = 4 };

/* Of the derivative k steps back: its Lagrange polynomial over the latest `order` levels, integrated from level i
   to i + 1. Gauss' rule with three points is exact up to degree 5. */
static double weight(const lgv_sampler_task *task, int64_t i, int64_t order, int64_t k)
{
    static const double point[3] = {-0.7745966692414834, 0, 0.7745966692414834},
                        mass[3] = {5.0 / 9, 8.0 / 9, 5.0 / 9};
    const double a = task->sigma[i], half = ((double)task->sigma[i + 1] - a) / 2;
    double sum = 0;
    for (int p = 0; p < 3; p++) {
        const double tau = a + half * (1 + point[p]);
        double product = 1;
        for (int64_t j = 0; j < order; j++)
            if (j != k)
                product *=
                    (tau - task->sigma[i - j]) / ((double)task->sigma[i - k] - task->sigma[i - j]);
        sum += mass[p] * product;
    }
    return half * sum;
}

static void coef(const lgv_sampler_task *task, int64_t i, lgv_step_coef *out)
{
    const double sigma = task->sigma[i];
    const lgv_level level = lgv_level_of(task, i);
    const int64_t order = lgv_min_i64(i - task->begin + 1, ORDER);
    lgv_predict_at(task, level, out);
    out->t = (float)task->time[i];
    out->in = (float)(1 / sqrt(sigma * sigma + 1));
    const lgv_combo d = lgv_noise_at(task, level, out);
    lgv_combo next = {.x = 1};
    lgv_combo_add(&next, weight(task, i, order, 0), &d);
    for (int64_t k = 1; k < order; k++) next.h[(i - k) % (ORDER - 1)] = weight(task, i, order, k);
    lgv_combo_next(&next, out);
    lgv_combo_keep(&d, (int)(i % (ORDER - 1)), out);
}

static lgv_status grid(lgv_sampler_task *task, lgv_error *err)
{
    return lgv_sigma_grid(task, 0, err);
}

const lgv_sampler_record lgv_sampler_lms = {
    {"lms", "LMSDiscreteScheduler", "linear multistep of fourth order", 20, 0, NULL},
    lgv_refuse_flow,
    grid,
    coef};
