/* pipeline_internal.h - a pipeline's parts: what pipeline.c makes and sample.c uses. Internal. */
#ifndef LGV_PIPELINE_INTERNAL_H
#define LGV_PIPELINE_INTERNAL_H

#include <stdbool.h>

#include "langevin/pipeline.h"

/* Where a plan's step noise comes from. */
typedef enum lgv_noise_source { LGV_NOISE_NONE, LGV_NOISE_NODE, LGV_NOISE_INPUT } lgv_noise_source;

/* What a sampler's steps need of the plan beside the network. */
typedef struct lgv_step_kind {
    lgv_noise_source noise;
    int history; /* slots */
    int scaled;  /* some step gives the network x times a number that is not 1 */
    int guided;  /* channels of its output that guidance combines; 0: one row of the network for a picture, else two */
    int gradient; /* a classifier's gradient is an input */
} lgv_step_kind;

/* One denoising step of `rows` pictures: inputs "x" (and "z", "history", "gradient"), outputs "x_next", "x0" and
   "kept". */
typedef struct lgv_batch_plan {
    int64_t rows, H, W;
    lgv_step_kind kind;
    lgv_mixed_precision precision;
    lgv_plan *plan; /* NULL: free slot */
} lgv_batch_plan;

enum { LGV_BATCH_PLANS = 6 };

typedef struct lgv_classifier lgv_classifier; /* that guides (classifier_guidance.c) */

struct lgv_pipeline {
    lgv_model *own_model; /* NULL when borrowed */
    lgv_store *own_store;
    const lgv_model *model;
    lgv_store *store;
    char *set;
    const char *weights;
    lgv_scheduler_config cfg;
    lgv_batch_plan plans[LGV_BATCH_PLANS];
    int next_slot; /* the slot that gives way to a new shape when all are taken */
    int null_label; /* stands for no class; -1: unknown, or there is none */
    lgv_classifier *classifier; /* NULL: none */
};

/* What the pictures of a job show (guidance.c). */
typedef struct lgv_guidance {
    const int32_t *labels; /* borrowed; NULL: all classes in turn */
    int classes, null_label, channels;
    double scale, rescale;
    int64_t first, end; /* guided steps */
} lgv_guidance;
/* n pictures in `steps` network calls. */
lgv_status lgv_guidance_make(const lgv_pipeline *p, const lgv_sample_options *o, int64_t n,
                             int64_t steps, lgv_guidance *out, lgv_error *err);
int32_t lgv_guidance_label(const lgv_guidance *g, int64_t image);
int32_t lgv_guidance_class(const lgv_guidance *g, int64_t image); /* the same; -1: no class */
/* Is a step of these pictures guided at all? */
bool lgv_guidance_within(const lgv_guidance *g, int64_t step, int64_t first, int64_t count);
/* lgv_step_kind.guided of a step of these pictures. */
int lgv_guidance_at(const lgv_guidance *g, int64_t step, int64_t first, int64_t count);
/* The row of a picture whose unconditional answer stands in row `partner`, -1: in none. */
void lgv_guidance_row(const lgv_guidance *g, int64_t image, int32_t partner, lgv_row *row);

/* Guidance of a job by the gradient of a classifier (classifier_guidance.c). */
typedef struct lgv_gradient {
    lgv_classifier *classifier; /* borrowed; NULL: none guides */
    double scale;
    bool ancestral; /* algorithm 1 (ddpm), else 2 (ddim) */
    lgv_mixed_precision precision;
    int64_t C, H, W;
    float *values;  /* [rows,C,H,W] */
    int32_t *label; /* [rows] */
} lgv_gradient;
/* n pictures in batches; free also after a failure. */
lgv_status lgv_gradient_make(const lgv_pipeline *p, const lgv_sample_options *o,
                             const lgv_sampler *sampler, const lgv_guidance *guidance, int64_t n,
                             int64_t batch, int64_t H, int64_t W, lgv_gradient *out,
                             lgv_error *err);
void lgv_gradient_free(lgv_gradient *j);
/* Fills values for x[rows,C,H,W] at timestep t, of the classes in label (-1: 0). */
lgv_status lgv_gradient_at(const lgv_gradient *j, float t, int64_t rows, const float *x,
                           lgv_error *err);
/* The coefficients of a row of the step. */
void lgv_gradient_row(const lgv_gradient *j, const lgv_step_coef *k, int32_t label, lgv_row *row);
void lgv_classifier_free(lgv_classifier *c);

/* The configuration of the scheduler beside a network; without one DDPMScheduler's defaults. */
lgv_status lgv_pipeline_load_scheduler(const lgv_model_info *info, lgv_scheduler_config *cfg,
                                       lgv_error *err);
/* A cached or new plan; it belongs to the pipeline. */
lgv_status lgv_pipeline_plan(lgv_pipeline *p, int64_t rows, int64_t H, int64_t W,
                             lgv_step_kind kind, lgv_mixed_precision precision, lgv_plan **out,
                             lgv_error *err);
/* The sampler of these options: none named is lgv_sampler_default, "model" the class of the scheduler's
   configuration. */
lgv_status lgv_pipeline_sampler(const lgv_pipeline *p, const lgv_sampler_options *options,
                                lgv_sampler **out, lgv_error *err);

/* --- pictures to begin with (known.c) --- */
/* Fills skip_steps of the sampler's options from strength. *from_noise: the first x is noise all the same. */
lgv_status lgv_known_skip(const lgv_pipeline *p, const lgv_sample_options *o,
                          lgv_sampler_options *sampler, bool *from_noise, lgv_error *err);
/* x[n], noise, becomes the picture at the level of this step. */
void lgv_known_begin(const lgv_step_coef *k, int64_t n, const float *image, float *x);
/* Where mask[HW] is 0, x [planes][HW] after this step becomes the picture at that level. */
void lgv_known_keep(const lgv_step_coef *k, int64_t planes, int64_t HW, const uint8_t *mask,
                    const float *image, const float *noise, float *x);

#endif
