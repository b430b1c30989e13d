/* schedule.h - the noise schedule beta_1 .. beta_T, the configuration it comes from, and what
   training derives from it.
   Notation: T training timesteps (index 0 .. T-1), beta_t, abar_t = prod_{s<=t} (1 - beta_s),
   image x0, standard normal noise eps. Configurations have the names, defaults and file of
   diffusers' schedulers. */
#ifndef LANGEVIN_SCHEDULE_H
#define LANGEVIN_SCHEDULE_H

#include <stddef.h>
#include <stdint.h>

#include "status.h"
#include "step.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum lgv_beta_schedule {
    LGV_BETA_LINEAR = 0,    /* evenly spaced beta (arXiv 2006.11239, sec. 4) */
    LGV_BETA_SCALED_LINEAR, /* evenly spaced sqrt(beta) (arXiv 2112.10752) */
    LGV_BETA_COSINE,        /* "squaredcos_cap_v2" (arXiv 2102.09672, eq. 17) */
    LGV_BETA_SIGMOID,       /* sigmoid(-6 .. 6) scaled to beta_start .. beta_end */
    LGV_BETA_LAPLACE,       /* abar from a Laplace distribution of log SNR (arXiv 2407.03297) */
    LGV_BETA_EXP            /* abar = exp(-12 t) */
} lgv_beta_schedule;

/* The network predicts eps, x0 or v = sqrt(abar) eps - sqrt(1-abar) x0 (arXiv 2202.00512); or the flow
   eps - x0 between image and noise (arXiv 2210.02747). */
typedef enum lgv_prediction {
    LGV_PREDICT_EPSILON = 0,
    LGV_PREDICT_SAMPLE,
    LGV_PREDICT_V,
    LGV_PREDICT_FLOW
} lgv_prediction;

/* Sigma of the ancestral step; the learned ones (arXiv 2102.09672) come from the network. */
typedef enum lgv_variance {
    LGV_VARIANCE_FIXED_SMALL = 0, /* posterior variance (1-abar_prev)/(1-abar_t) beta_t */
    LGV_VARIANCE_FIXED_SMALL_LOG, /* the same, by way of its logarithm */
    LGV_VARIANCE_FIXED_LARGE,     /* beta_t */
    LGV_VARIANCE_FIXED_LARGE_LOG, /* the same */
    LGV_VARIANCE_LEARNED,
    LGV_VARIANCE_LEARNED_RANGE
} lgv_variance;

/* How n sampling timesteps are spread over T (arXiv 2305.08891, table 2). */
typedef enum lgv_spacing {
    LGV_SPACING_LEADING = 0,
    LGV_SPACING_LINSPACE,
    LGV_SPACING_TRAILING
} lgv_spacing;

/* DPM-Solver (arXiv 2206.00927), DPM-Solver++ (2211.01095), their stochastic forms, DEIS (2204.13902). */
typedef enum lgv_algorithm {
    LGV_ALGORITHM_DPMPP = 0,
    LGV_ALGORITHM_DPM,
    LGV_ALGORITHM_SDE_DPMPP,
    LGV_ALGORITHM_SDE_DPM,
    LGV_ALGORITHM_DEIS
} lgv_algorithm;

/* Variants of a solver's second order; a class takes its own for one that belongs to another. */
typedef enum lgv_solver {
    LGV_SOLVER_MIDPOINT = 0,
    LGV_SOLVER_HEUN,
    LGV_SOLVER_BH1,
    LGV_SOLVER_BH2,
    LGV_SOLVER_LOGRHO
} lgv_solver;

typedef enum lgv_final_sigmas { LGV_FINAL_ZERO = 0, LGV_FINAL_SIGMA_MIN } lgv_final_sigmas;
typedef enum lgv_interpolation { LGV_INTERPOLATE = 0, LGV_INTERPOLATE_LOG } lgv_interpolation;
typedef enum lgv_timestep_type { LGV_TIME_DISCRETE = 0, LGV_TIME_CONTINUOUS } lgv_timestep_type;
typedef enum lgv_edm_sigmas { LGV_EDM_KARRAS = 0, LGV_EDM_EXPONENTIAL } lgv_edm_sigmas;
typedef enum lgv_time_shift { LGV_SHIFT_EXPONENTIAL = 0, LGV_SHIFT_LINEAR } lgv_time_shift;

enum { LGV_CLASS_NAME = 64 };

/* scheduler_config.json. Start with lgv_scheduler_config_init or _load, end with _clear. */
typedef struct lgv_scheduler_config {
    char class_name[LGV_CLASS_NAME]; /* "DDPMScheduler"; kept when the class is not one of ours */
    int64_t num_train_timesteps;     /* T, 1 .. 1000000 */
    double beta_start, beta_end;
    lgv_beta_schedule beta_schedule;
    double *trained_betas; /* owned; NULL: none. As many as num_train_timesteps */
    int64_t trained_beta_count;
    int rescale_betas_zero_snr; /* abar_{T-1} = 0 (arXiv 2305.08891, algorithm 1) */
    lgv_prediction prediction_type;
    lgv_variance variance_type;
    int clip_sample; /* predicted x0 to +- clip_sample_range */
    double clip_sample_range;
    int thresholding; /* dynamic thresholding instead (arXiv 2205.11487, sec. 2.3) */
    double dynamic_thresholding_ratio, sample_max_value;
    lgv_spacing timestep_spacing;
    int64_t steps_offset;             /* added to the timesteps of "leading" */
    int set_alpha_to_one;             /* abar before timestep 0 is 1, else abar_0 */
    int skip_prk_steps;               /* PNDM without the Runge-Kutta calls of its beginning */
    int64_t original_inference_steps; /* of LCM and TCD: steps of the distillation */
    double timestep_scaling;
    int64_t solver_order;
    lgv_algorithm algorithm_type;
    lgv_solver solver_type;
    int lower_order_final, euler_at_final;
    /* Noise levels other than those of evenly spaced timesteps; at most one is set. */
    int use_karras_sigmas, use_exponential_sigmas, use_beta_sigmas, use_lu_lambdas;
    int use_flow_sigmas; /* those of flow matching */
    double flow_shift;
    lgv_final_sigmas final_sigmas_type;
    double lambda_min_clipped; /* -INFINITY: none */
    int use_dynamic_shifting;
    lgv_time_shift time_shift_type;
    lgv_interpolation interpolation_type;
    lgv_timestep_type timestep_type;
    double sigma_min, sigma_max; /* 0: those of the schedule */
    double sigma_data, rho;      /* of EDM (arXiv 2206.00364) */
    lgv_edm_sigmas sigma_schedule;
    int predict_x0;             /* of UniPC */
    uint64_t disable_corrector; /* of UniPC: bit i is step i */
    double shift_terminal;      /* of flow matching: the last noise level; 0: none */
    double shift, base_shift, max_shift;
    int64_t base_image_seq_len, max_image_seq_len;
    int invert_sigmas, stochastic_sampling;
    uint64_t given; /* which fields a file or the caller stated (internal bits) */
} lgv_scheduler_config;

/* The defaults of a scheduler class ("DDPMScheduler", any class that a sampler names; NULL is the
   first); every field of the class counts as given. */
LGV_API lgv_status lgv_scheduler_config_init(lgv_scheduler_config *cfg, const char *class_name,
                                             lgv_error *err);
/* Frees what it owns; NULL is legal. */
LGV_API void lgv_scheduler_config_clear(lgv_scheduler_config *cfg);
/* Reads a scheduler_config.json. Keys that are missing get the class's default, unknown keys are
   left out. A class that is not ours is read for the fields it shares with ours. */
LGV_API lgv_status lgv_scheduler_config_load(const char *path, lgv_scheduler_config *out,
                                             lgv_error *err);
/* The same from JSON text (size bytes); `where` names it in errors. */
LGV_API lgv_status lgv_scheduler_config_parse(const char *text, size_t size, const char *where,
                                              lgv_scheduler_config *out, lgv_error *err);
/* Writes every field of the class, with _class_name and _diffusers_version; atomic. Only classes
   of ours. */
LGV_API lgv_status lgv_scheduler_config_save(const lgv_scheduler_config *cfg, const char *path,
                                             lgv_error *err);
/* A deep copy; out must be uninitialised or cleared. */
LGV_API lgv_status lgv_scheduler_config_copy(const lgv_scheduler_config *cfg,
                                             lgv_scheduler_config *out, lgv_error *err);
/* A copy for another class, as diffusers' from_config: fields given and known to the class keep
   their values, all others get its defaults. */
LGV_API lgv_status lgv_scheduler_config_switch(const lgv_scheduler_config *cfg,
                                               const char *class_name, lgv_scheduler_config *out,
                                               lgv_error *err);
/* Sets one field (not trained_betas) by its JSON name from text: ("clip_sample", "false"). */
LGV_API lgv_status lgv_scheduler_config_set(lgv_scheduler_config *cfg, const char *field,
                                            const char *value, lgv_error *err);
LGV_API const char *lgv_prediction_name(lgv_prediction prediction); /* "epsilon" ...; never NULL */
LGV_API const char *lgv_beta_schedule_name(lgv_beta_schedule beta_schedule); /* "linear" ... */

/* What a network is trained for; the samplers of one kind make no sense for another's. */
typedef enum lgv_noise_family {
    LGV_FAMILY_BETAS = 0, /* x_t = sqrt(abar) x0 + sqrt(1-abar) eps */
    LGV_FAMILY_EDM,       /* x = x0 + sigma eps, preconditioned (arXiv 2206.00364) */
    LGV_FAMILY_FLOW       /* x = (1-sigma) x0 + sigma eps (arXiv 2210.02747) */
} lgv_noise_family;
/* By the configuration's class, or its prediction type. */
LGV_API lgv_noise_family lgv_scheduler_family(const lgv_scheduler_config *cfg);

/* The tables, as diffusers has them (betas to 1 ulp; abar: products in double of float32 1-beta,
   stored float32). */
typedef struct lgv_schedule {
    int64_t T;
    float *betas;          /* [T] */
    float *alphas_cumprod; /* [T] */
    double *abar;          /* [T] the same products in double of exact 1-beta */
    lgv_prediction prediction;
    lgv_noise_family family; /* of the others the tables of betas mean nothing */
    double sigma_data;       /* of EDM */
    double shift;            /* of flow matching */
} lgv_schedule;

/* One row of training: the network sees x0*image + noise*eps at time t and is to answer
   target_x0*image + target_noise*eps. */
typedef struct lgv_noising {
    float t, x0, noise, target_x0, target_noise;
} lgv_noising;

/* Of index t in 0 .. T-1, all of which are equally likely. betas: timestep t. Flow matching: noise level
   (t+1)/T, shifted. EDM: the t-th of T equal parts of the log-normal distribution of sigma, at `within`
   (0 to 1, not the ends) of it; 0.5 for the others. */
LGV_API void lgv_schedule_noising(const lgv_schedule *s, int64_t t, double within,
                                  lgv_noising *out);

LGV_API lgv_status lgv_schedule_new(const lgv_scheduler_config *cfg, lgv_schedule **out,
                                    lgv_error *err);
LGV_API void lgv_schedule_free(lgv_schedule *s);

/* All of the following take t in 0 .. T-1. */

/* x_t = *x0 * x0 + *noise * eps: sqrt(abar_t), sqrt(1-abar_t) (arXiv 2006.11239, eq. 4). */
LGV_API void lgv_schedule_noise_coef(const lgv_schedule *s, int64_t t, float *x0, float *noise);
/* What the network is trained to output, = *x0 * x0 + *noise * eps, by the configuration's
   prediction type. */
LGV_API void lgv_schedule_target_coef(const lgv_schedule *s, int64_t t, float *x0, float *noise);
/* Signal-to-noise ratio abar_t / (1-abar_t). */
LGV_API double lgv_schedule_snr(const lgv_schedule *s, int64_t t);
/* Weight of the squared error at t. snr_gamma 0: 1 for epsilon and v, the SNR for sample (as
   diffusers' unconditional script). snr_gamma > 0, min-SNR (arXiv 2303.09556, eq. 5): m =
   min(SNR, gamma) divided by SNR (epsilon), SNR + 1 (v) or 1 (sample). */
LGV_API double lgv_schedule_loss_weight(const lgv_schedule *s, int64_t t, double snr_gamma);
/* The step from t to prev (-1: to the picture) as a term of the variational bound: fills LGV_TRAIN_VB_* of the row
   (step.h) for lgv_vb_rows. Posterior q(x_prev|x_t,x0): arXiv 2006.11239, eq. 6 and 7, with beta derived from the ratio of
   the two abar, so that any subset of the timesteps makes a chain; variance of the step by `variance`, learned ones between
   the posterior's and beta (arXiv 2102.09672, eq. 15). Where the posterior's variance is 0 (prev -1) that of the step from
   `next` to t stands for it; next is read only there and may be t when there is none. clip: limit of the predicted x0, INFINITY none. */
LGV_API void lgv_schedule_bound_coef(const lgv_schedule *s, int64_t t, int64_t prev, int64_t next,
                                     lgv_variance variance, double clip, lgv_row *row);
/* KL(q(x_{T-1}|x0) || N(0,1)) of n elements, mean, in bits (arXiv 2006.11239, eq. 5, first term). */
LGV_API double lgv_schedule_prior_bits(const lgv_schedule *s, int64_t n, const float *x0);

/* A subset of the timesteps 0 .. T-1 in ascending order, from a text as improved-diffusion takes it: "250" spreads that many
   evenly, first and last included; "10,15,20" cuts the range into equal sections with so many each; "ddim50" takes every
   k-th, k the stride that gives exactly that many. t has room for T. */
LGV_API lgv_status lgv_timesteps_respace(int64_t T, const char *spec, int64_t *t, int64_t *n,
                                         lgv_error *err);

/* n elements of one image in float32; out may be an input. */
LGV_API void lgv_schedule_add_noise(const lgv_schedule *s, int64_t t, int64_t n, const float *x0,
                                    const float *noise, float *out);
/* v of the definition above. */
LGV_API void lgv_schedule_velocity(const lgv_schedule *s, int64_t t, int64_t n, const float *x0,
                                   const float *noise, float *out);

#ifdef __cplusplus
}
#endif
#endif
