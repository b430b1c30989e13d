/* combo.c - sums of what a step has at hand, and how noise, image and answer follow from each other at
   a noise level. Sums are in double and rounded once, when the coefficients are written; levels are rounded to float32
   as diffusers' tensors are, because steps are differences of their logarithms, and pictures are to agree. */
#include "diffusion/combo.h"

#include <math.h>

#include "core/elementary.h"

void lgv_combo_add(lgv_combo *sum, double weight, const lgv_combo *term)
{
    if (weight == 0) return;
    sum->x0 += weight * term->x0;
    sum->x += weight * term->x;
    sum->out += weight * term->out;
    sum->z += weight * term->z;
    for (int i = 0; i < LGV_HISTORY; i++) sum->h[i] += weight * term->h[i];
}

void lgv_combo_next(const lgv_combo *next, lgv_step_coef *out)
{
    out->c = (float)next->x0;
    out->d = (float)next->x;
    out->e = (float)next->out;
    out->s = (float)next->z;
    for (int i = 0; i < LGV_HISTORY; i++) out->h[i] = (float)next->h[i];
}

void lgv_combo_keep(const lgv_combo *kept, int slot, lgv_step_coef *out)
{
    out->keep = slot + 1;
    out->keep_x0 = (float)kept->x0;
    out->keep_x = (float)kept->x;
    out->keep_out = (float)kept->out;
}

lgv_level lgv_level_of(const lgv_sampler_task *task, int64_t i)
{
    const float sigma = task->sigma[i];
    float alpha = 1, noise = sigma;
    if (task->scale == LGV_SCALE_BETAS) {
        alpha = 1 / sqrtf(sigma * sigma + 1);
        noise = sigma * alpha;
    } else if (task->scale == LGV_SCALE_FLOW) {
        alpha = 1 - sigma;
    }
    if (sigma == 0) return (lgv_level){alpha, 0, INFINITY};
    const float lambda = (float)lgv_log(alpha) - (float)lgv_log(noise);
    return (lgv_level){alpha, noise, lambda};
}

double lgv_level_down(float from, float to, double *up)
{
    const float noise = sqrtf(to * to * (from * from - to * to) / (from * from));
    *up = noise;
    return sqrtf(to * to - noise * noise);
}

double lgv_level_between(double a, double b)
{
    const float low = (float)lgv_log(a), high = (float)lgv_log(b);
    return (float)lgv_exp(high - (high - low) * 0.5f);
}

/* EDM's network answers in units of its data (arXiv 2206.00364, eq. 7 and table 1). */
static void predict_edm(const lgv_scheduler_config *cfg, double sigma, lgv_step_coef *out)
{
    const double data = cfg->sigma_data, total = sigma * sigma + data * data;
    const double sign = cfg->prediction_type == LGV_PREDICT_V ? -1 : 1;
    out->a = (float)(data * data / total);
    out->b = (float)(sign * sigma * data / sqrt(total));
}

void lgv_predict_at(const lgv_sampler_task *task, lgv_level level, lgv_step_coef *out)
{
    const lgv_scheduler_config *cfg = task->cfg;
    if (task->scale == LGV_SCALE_EDM) {
        predict_edm(cfg, level.sigma, out);
    } else {
        /* x = alpha x0 + sigma eps; v belongs to the x of unit variance */
        const double unit = sqrt(level.alpha * level.alpha + level.sigma * level.sigma);
        switch (cfg->prediction_type) {
        case LGV_PREDICT_EPSILON:
            out->a = (float)(1 / level.alpha);
            out->b = (float)(-level.sigma / level.alpha);
            break;
        case LGV_PREDICT_SAMPLE:
            out->a = 0;
            out->b = 1;
            break;
        case LGV_PREDICT_V:
            out->a = (float)(level.alpha / (unit * unit));
            out->b = (float)(-level.sigma / unit);
            break;
        case LGV_PREDICT_FLOW:
            out->a = 1;
            out->b = (float)-level.sigma;
            break;
        }
    }
    lgv_sampler_limits(cfg, out);
    out->image = (float)level.alpha;
    out->noise = (float)level.sigma;
}

lgv_combo lgv_noise_at(const lgv_sampler_task *task, lgv_level level, const lgv_step_coef *out)
{
    const double a = level.alpha, s = level.sigma;
    /* A limit changes x0, and the noise with it. */
    if (out->threshold || isfinite(out->clip) || task->scale == LGV_SCALE_EDM)
        return (lgv_combo){.x0 = -a / s, .x = 1 / s};
    const double unit = sqrt(a * a + s * s);
    switch (task->cfg->prediction_type) {
    case LGV_PREDICT_EPSILON: return (lgv_combo){.out = 1};
    case LGV_PREDICT_SAMPLE: return (lgv_combo){.x = 1 / s, .out = -a / s};
    case LGV_PREDICT_V: return (lgv_combo){.x = s / (unit * unit), .out = a / unit};
    case LGV_PREDICT_FLOW: return (lgv_combo){.x = 1, .out = 1 - s};
    }
    return (lgv_combo){.out = NAN};
}
