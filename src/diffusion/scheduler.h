/* scheduler.h - what the files of schedules and samplers share. Internal. */
#ifndef LGV_DIFFUSION_SCHEDULER_H
#define LGV_DIFFUSION_SCHEDULER_H

#include "langevin/sampler.h"

/* The version of diffusers whose files and numbers are matched. */
#define LGV_DIFFUSERS_VERSION "0.42.1"

/* What a sampler's coefficients are computed from. */
typedef struct lgv_sampler_task {
    const lgv_scheduler_config *cfg; /* of the sampler's own class */
    const lgv_schedule *schedule;
    const lgv_sampler_options *options;
    const int64_t *t; /* [n] timesteps in the order of the calls */
    int64_t n;
    int64_t stride; /* T / num_inference_steps; 0: neighbours in t */
} lgv_sampler_task;

/* A sampler: one record, in a file of its own, listed in sampler.c. */
typedef struct lgv_sampler_record {
    lgv_sampler_info info;
    lgv_status (*check)(const lgv_scheduler_config *cfg, const lgv_sampler_options *options,
                        lgv_error *err);
    void (*coef)(const lgv_sampler_task *task, int64_t i, lgv_step_coef *out);
} lgv_sampler_record;

extern const lgv_sampler_record lgv_sampler_ddpm, lgv_sampler_ddim, lgv_sampler_ddim_inverse;

/* The timesteps of the sampler in the order of the calls, and the stride of lgv_sampler_task. */
lgv_status lgv_timesteps(const lgv_scheduler_config *cfg, const lgv_sampler_options *options,
                         const lgv_sampler_info *info, int64_t **t, int64_t *n, int64_t *stride,
                         lgv_error *err);

/* abar of a timestep of the list; -1 (only in compat mode) is the last one, as in Python. */
float lgv_sampler_abar(const lgv_sampler_task *task, int64_t t);
/* a, b, clip and thresholding for x0 predicted at noise level abar. */
void lgv_sampler_predict(const lgv_sampler_task *task, float abar, lgv_step_coef *out);

#endif
