/* sampler_edm.h - what the samplers of EDM's networks share (arXiv 2206.00364). Internal. */
#ifndef LGV_DIFFUSION_SAMPLER_EDM_H
#define LGV_DIFFUSION_SAMPLER_EDM_H

#include "diffusion/combo.h"

lgv_status lgv_edm_check(lgv_scheduler_config *cfg, const lgv_sampler_options *options,
                         lgv_error *err);
/* Levels from sigma_max to sigma_min, then 0 or the last one again. */
lgv_status lgv_edm_grid(lgv_sampler_task *task, lgv_error *err);
/* What x is multiplied with before the network sees it: 1/sqrt(sigma^2 + sigma_data^2). */
double lgv_edm_input(const lgv_scheduler_config *cfg, double sigma);
/* x moves along its derivative (x-x0)/sigma from level sigma to next, with the churn of the options. */
void lgv_euler_step(const lgv_sampler_task *task, int64_t i, lgv_step_coef *out);

#endif
