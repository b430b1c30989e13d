/* combo.h - sums over image, answer, noise and history, from which the coefficients of a step are made.
   Internal. */
#ifndef LGV_DIFFUSION_COMBO_H
#define LGV_DIFFUSION_COMBO_H

#include "diffusion/scheduler.h"

/* x0*x0 + x*x + out*out + z*z + sum h[i]*history[i] */
typedef struct lgv_combo {
    double x0, x, out, z, h[LGV_HISTORY];
} lgv_combo;

void lgv_combo_add(lgv_combo *sum, double weight, const lgv_combo *term); /* sum += weight*term */
void lgv_combo_next(const lgv_combo *next, lgv_step_coef *out);           /* is the next x */
/* Goes to a slot of the history after the step; z and history cannot. */
void lgv_combo_keep(const lgv_combo *kept, int slot, lgv_step_coef *out);

/* x = alpha x0 + sigma eps; lambda = ln(alpha/sigma), infinite at sigma 0. */
typedef struct lgv_level {
    double alpha, sigma, lambda;
} lgv_level;

/* The level that an ancestral step from one to another goes down to; *up: the noise that brings it back. In float32,
   as diffusers has it: the difference cancels. */
double lgv_level_down(float from, float to, double *up);
/* The level halfway between two in the logarithm, as diffusers rounds it. */
double lgv_level_between(double a, double b);
/* Of task->sigma[i]. */
lgv_level lgv_level_of(const lgv_sampler_task *task, int64_t i);
/* a, b, limits, and the level itself. */
void lgv_predict_at(const lgv_sampler_task *task, lgv_level level, lgv_step_coef *out);
/* The predicted noise (x - alpha x0)/sigma, without the detour over x0 where no limit changes it. out: after
   lgv_predict_at. */
lgv_combo lgv_noise_at(const lgv_sampler_task *task, lgv_level level, const lgv_step_coef *out);

#endif
