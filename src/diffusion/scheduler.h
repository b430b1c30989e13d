/* scheduler.h - what the files of schedules and samplers share. Internal. */
#ifndef LGV_DIFFUSION_SCHEDULER_H
#define LGV_DIFFUSION_SCHEDULER_H

#include "langevin/sampler.h"

/* The version of diffusers whose files and numbers are matched. */

/* How x is made of image and noise. */
typedef enum lgv_scale {
    LGV_SCALE_BETAS, /* sqrt(abar) x0 + sqrt(1-abar) eps, sigma = sqrt((1-abar)/abar) */
    LGV_SCALE_K,     /* x0 + sigma eps of the same sigma; the network sees x/sqrt(sigma^2 + 1) */
    LGV_SCALE_EDM,   /* x0 + sigma eps, preconditioned */
    LGV_SCALE_FLOW   /* (1-sigma) x0 + sigma eps */
} lgv_scale;

/* What a sampler's coefficients are computed from. A sampler walks over integer timesteps (t) or over noise
   levels (sigma, time). */
typedef struct lgv_sampler_task {
    const lgv_scheduler_config *cfg; /* of the sampler's own class */
    const lgv_sampler_info *info;
    const lgv_schedule *schedule; /* NULL: the class has none */
    const lgv_sampler_options *options;
    int64_t n;      /* network calls */
    int64_t begin;  /* calls left out at the front: the history is empty there */
    int64_t *t;     /* [n] timesteps in the order of the calls */
    int64_t stride; /* T / num_inference_steps; 0: neighbours in t */
    lgv_scale scale;
    int64_t levels;           /* steps from noise level to noise level */
    float *sigma;             /* [levels + 1], descending; the last may be 0 */
    double *time;             /* [levels] what the network is told at sigma */
    double *middle;           /* [levels] and at the level between, for samplers of second order */
    float *table, *log_table; /* [T] sigma and ln sigma of every timestep */
    double init_sigma;
} lgv_sampler_task;

/* A sampler: one record, in a file of its own or of its family, listed in sampler.c. */
typedef struct lgv_sampler_record {
    lgv_sampler_info info;
    /* Refuses what the sampler cannot do; may replace fields as diffusers' class does. NULL: nothing. */
    lgv_status (*check)(lgv_scheduler_config *cfg, const lgv_sampler_options *options,
                        lgv_error *err);
    /* Fills t or the noise levels, and n; NULL: lgv_timesteps_grid. */
    lgv_status (*grid)(lgv_sampler_task *task, lgv_error *err);
    void (*coef)(const lgv_sampler_task *task, int64_t i, lgv_step_coef *out);
} lgv_sampler_record;

/* Repeats steps as jump_length and jump_n_sample say; *coef [*n] grows (resample.c). */
lgv_status lgv_resample_steps(const lgv_sampler_options *options, lgv_step_coef **coef, int64_t *n,
                              lgv_error *err);

/* --- integer timesteps (timesteps.c) --------------------------------------------------------------- */
lgv_status lgv_timesteps_grid(lgv_sampler_task *task, lgv_error *err);
/* 1 .. T, else a sentence. */
lgv_status lgv_check_steps(int64_t n, int64_t T, lgv_error *err);
/* The caller's own list: strictly descending (inverse: ascending), within 0 .. T-1. */
lgv_status lgv_check_list(const lgv_sampler_options *options, int inverse, int64_t T,
                          lgv_error *err);
/* i-th of n numbers from T-1 down to 0, not rounded. */
double lgv_linspace_at(int64_t T, int64_t n, int64_t i);
/* i-th of numpy.arange(from, 0, -T/n), rounded, less 1. */
int64_t lgv_trailing_at(int64_t from, int64_t T, int64_t n, int64_t i);

/* --- noise levels (sigmas.c) ------------------------------------------------------------------------ */
enum {
    LGV_GRID_SOLVER =
        1,              /* n of n+1 points, whole timesteps; other sigmas span the whole schedule */
    LGV_GRID_ROUND = 2, /* timesteps of Karras' sigmas are rounded */
    LGV_GRID_FINAL = 4, /* final_sigmas_type says the last level, else it is 0 */
    LGV_GRID_REPEAT = 8, /* and it repeats the one before where the sigmas are not the schedule's */
    LGV_GRID_NONZERO = 16, /* the last level is never 0 */
    LGV_GRID_TINY = 32     /* the schedule's last abar is 2^-24 rather than 0 */
};
lgv_status lgv_sigma_grid(lgv_sampler_task *task, int style, lgv_error *err);
/* Room for that many levels: sigma, time, middle. */
lgv_status lgv_grid_room(lgv_sampler_task *task, int64_t levels, lgv_error *err);
/* The number of steps: the caller's, or the sampler's default, at most T. */
int64_t lgv_grid_steps(const lgv_sampler_task *task);
/* The timestep, not rounded, at which the schedule has this noise level. */
double lgv_time_of_sigma(const lgv_sampler_task *task, double sigma);
/* Karras', exponential and beta spacing of n levels between two. use: of a configuration. */
int lgv_other_sigmas(const lgv_scheduler_config *cfg);
void lgv_space_sigmas(const lgv_scheduler_config *cfg, double low, double high, int64_t n,
                      double *sigma);
/* Flow matching's shift of a noise level towards noise. */
double lgv_shift_sigma(double shift, double sigma);
/* The shift itself: the constant one, or the one that follows from the picture's size. */
double lgv_flow_shift(const lgv_scheduler_config *cfg, const lgv_sampler_options *options,
                      double constant);
lgv_status lgv_check_shift(const lgv_scheduler_config *cfg, const lgv_sampler_options *options,
                           lgv_error *err);
/* torch.linspace in float32. */
float lgv_linspace_f32(float first, float last, int64_t n, int64_t i);

/* Checks: flow_prediction is not for samplers over the timesteps of betas; the network cannot predict x0. */
lgv_status lgv_refuse_flow(lgv_scheduler_config *cfg, const lgv_sampler_options *options,
                           lgv_error *err);
lgv_status lgv_refuse_sample(lgv_scheduler_config *cfg, const lgv_sampler_options *options,
                             lgv_error *err);

/* --- coefficients ------------------------------------------------------------------------------------ */
/* abar of a timestep of the list; -1 (only in compat mode) is the last one, as in Python. */
float lgv_sampler_abar(const lgv_sampler_task *task, int64_t t);
/* a, b, clip and thresholding for x0 predicted at noise level abar. */
void lgv_sampler_predict(const lgv_sampler_task *task, float abar, lgv_step_coef *out);
/* clip and thresholding alone. */
void lgv_sampler_limits(const lgv_scheduler_config *cfg, lgv_step_coef *out);

#define LGV_SAMPLER(name) extern const lgv_sampler_record lgv_sampler_##name;
#include "diffusion/samplers.def"
#undef LGV_SAMPLER

#endif
