/* sampler.h - samplers: which timesteps the network is asked for, and what is done with its
   answers. A sampler is a host record. It turns a scheduler configuration and options into a list
   of steps, each a timestep for the network and the coefficients of the one device operation
   lgv_sampler_step:
       x0 = clip(a*x + b*out)      x' = c*x0 + d*x + e*out + s*z + sum h[i]*history[i]
   where x is the current image, out the network's output for in*x, z fresh standard normal noise, and
   history what earlier calls kept. A step is one call of the network: methods that ask twice between
   two noise levels have two steps there. */
#ifndef LANGEVIN_SAMPLER_H
#define LANGEVIN_SAMPLER_H

#include <stdint.h>

#include "schedule.h"
#include "step.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum lgv_predicted_variance {
    LGV_PREDICTED_NONE = 0,
    LGV_PREDICTED_RANGE, /* between two logarithms (arXiv 2102.09672, eq. 15) */
    LGV_PREDICTED_ITSELF
} lgv_predicted_variance;

typedef struct lgv_step_coef {
    float t;            /* given to the network */
    float image, noise; /* x before this call is about image*x0 + noise*eps */
    float after_image, after_noise; /* the same after it; 1 and 0 after the last */
    float in;           /* and in*x */
    float a, b;         /* predicted x0 */
    float clip;         /* x0 to +- clip; INFINITY: none */
    float c, d, e, s;   /* next x */
    float h[LGV_HISTORY];
    /* 1 + the slot of the history that takes keep_x0*x0 + keep_x*x + keep_out*out after this call, and
       1 + the one that takes x; 0: none */
    int keep, keep_sample;
    float keep_x0, keep_x, keep_out;
    int threshold; /* dynamic thresholding instead of the clip */
    float threshold_ratio, threshold_max;
    /* z is the increment of a Brownian path between these noise levels, divided by the root of their
       distance, so that other steps with the same seed walk along the same path; equal: independent */
    float path_from, path_to;
    /* After the step x becomes jump_x*x + jump_z*z with more fresh noise (resampling); jump_x 0: it stays. */
    float jump_x, jump_z;
    int wants_noise; /* this step draws z (also where s is 0, as diffusers does) */
    /* The network predicts the variance too, v: s*exp(v0 + v1*v) or s*sqrt(v) instead of s. */
    lgv_predicted_variance variance;
    float v0, v1;
} lgv_step_coef;

/* One record per sampler. */
typedef struct lgv_sampler_info {
    const char *name;       /* "ddim" */
    const char *class_name; /* "DDIMScheduler", also accepted where a name is */
    const char *summary;    /* one line for people */
    int64_t default_steps;  /* 0: all T timesteps */
    int inverse;            /* goes from an image to noise */
    /* Fields that the name stands for beside its class, "solver_order=2 algorithm_type=dpmsolver++";
       NULL: none. A class name stands for the configuration as it is. */
    const char *implies;
} lgv_sampler_info;

LGV_API int lgv_sampler_count(void);
LGV_API const lgv_sampler_info *lgv_sampler_at(int i);
/* By name or class name; upper and lower case, '-' and '_' are the same. NULL when unknown. */
LGV_API const lgv_sampler_info *lgv_sampler_find(const char *name);

enum { LGV_STEPS_ALL = -1 };

/* How noise levels are spaced (use_karras_sigmas ... of the configuration). */
typedef enum lgv_sigma_schedule {
    LGV_SIGMAS_CONFIGURED = 0,
    LGV_SIGMAS_KARRAS,      /* arXiv 2206.00364, eq. 5 */
    LGV_SIGMAS_EXPONENTIAL, /* evenly in ln sigma */
    LGV_SIGMAS_BETA,        /* quantiles of the beta distribution (arXiv 2407.12173) */
    LGV_SIGMAS_LU           /* evenly in ln SNR (arXiv 2206.00927) */
} lgv_sigma_schedule;

typedef struct lgv_sampler_options {
    const char *sampler; /* name or class name; NULL: lgv_sampler_default */
    /* 0: the sampler's default (at most T); LGV_STEPS_ALL: T-1 .. 0 whatever the spacing */
    int64_t num_inference_steps;
    /* own list, strictly descending (inverse: ascending), within 0 .. T-1; borrowed */
    const int64_t *timesteps;
    int64_t timestep_count; /* 0: none; with a list num_inference_steps must be 0 */
    /* RePaint's resampling (arXiv 2201.09865): after every jump_length steps the picture is noised again by as many,
       jump_n_sample - 1 times. For samplers without a history. Both 0: none. */
    int64_t jump_length, jump_n_sample;
    int64_t skip_steps;     /* begin that many steps later, at an image with that much noise */
    lgv_sigma_schedule sigma_schedule;
    int64_t solver_order; /* 0: the configuration's */
    /* of euler and edm_euler (arXiv 2206.00364, algorithm 2): noise added at levels from s_tmin to s_tmax
       (0: any), s_noise (0: 1) times */
    double s_churn, s_tmin, s_tmax, s_noise;
    /* of flow matching with use_dynamic_shifting: the shift itself (0: none), or the number of the
       network's tokens from which it follows */
    double mu;
    int64_t image_seq_len;
    int eta_stated; /* eta counts although it is 0: tcd's default is 0.3 */
    double eta;     /* of ddim: 0 deterministic, 1 like ddpm (arXiv 2010.02502, eq. 16) */
    int use_clipped_model_output; /* of ddim: eps is derived again from the clipped x0 */
    int compat_diffusers;         /* keep four defects of diffusers, see lgv_sampler_new */
} lgv_sampler_options;

/* The sampler for a network of this configuration when nobody names one: "dpmpp_2m", "ddim" where its
   options are given (eta, use_clipped_model_output), or the one that belongs to the networks of EDM and
   of flow matching. options NULL: none. */
LGV_API const char *lgv_sampler_default(const lgv_scheduler_config *cfg,
                                        const lgv_sampler_options *options);

typedef struct lgv_sampler lgv_sampler;

/* Makes the list of steps. cfg is read as diffusers' from_config would for the sampler's class.
   options NULL: all defaults. Errors: more steps than T, a list that does not descend, a sampler for
   another kind of network, options that the sampler does not have, steps that would divide by zero.
   Equal to diffusers but for four defects, which compat_diffusers keeps: variance
   fixed_large_log is NaN there (here sqrt(beta_t)); ddim under linspace steps back by T/n
   instead of to the next timestep; trailing sometimes ends in an extra timestep -1; steps_offset
   can reach index T (here the offset is lowered until the list fits; in compat mode an error). */
LGV_API lgv_status lgv_sampler_new(const lgv_scheduler_config *cfg,
                                   const lgv_sampler_options *options, lgv_sampler **out,
                                   lgv_error *err);
LGV_API void lgv_sampler_free(lgv_sampler *sampler);

LGV_API const lgv_sampler_info *lgv_sampler_kind(const lgv_sampler *sampler);
LGV_API int64_t lgv_sampler_steps(const lgv_sampler *sampler); /* network calls */
/* Step i; NULL when i is out of range. Lives as long as the sampler. */
LGV_API const lgv_step_coef *lgv_sampler_coef(const lgv_sampler *sampler, int64_t i);
LGV_API int lgv_sampler_stochastic(const lgv_sampler *sampler); /* some step wants noise */
/* Slots of history, at most LGV_HISTORY. */
LGV_API int lgv_sampler_history(const lgv_sampler *sampler);
/* Some step's noise has the standard deviation that the network predicts: it gives 2 C channels. */
LGV_API int lgv_sampler_predicts_variance(const lgv_sampler *sampler);
/* Standard deviation of the first x. */
LGV_API double lgv_sampler_init_sigma(const lgv_sampler *sampler);
/* Writes t and coef (LGV_SAMPLE_*) of a row of the step block. */
LGV_API void lgv_step_coef_row(const lgv_step_coef *coef, lgv_row *row);

/* The operation on the host: one image of n float32 elements. out[n], [2 n] where the step's variance is
   predicted. z may be NULL when s is 0; x0 (the predicted image) may be NULL. history
   [lgv_sampler_history][n] is read and written; NULL when there is none. x_next may be x. Fails only for
   want of memory (thresholding sorts). */
LGV_API lgv_status lgv_sampler_apply(const lgv_step_coef *coef, int64_t n, const float *x,
                                     const float *out, const float *z, float *history,
                                     float *x_next, float *x0, lgv_error *err);

/* Spherical interpolation between two latents (arXiv 2010.02502, eq. 67): weight 0 gives a, 1
   gives b; straight when they are parallel. out may be a or b. */
LGV_API void lgv_slerp(int64_t n, const float *a, const float *b, double weight, float *out);

#ifdef __cplusplus
}
#endif
#endif
