/* step.h - the step block: everything that changes from run to run, written by the host before it.
   One record per row of the batch, so rows are independent: different timesteps, seeds and steps may
   share a batch. */
#ifndef LANGEVIN_STEP_H
#define LANGEVIN_STEP_H

#include <stdint.h>

#include "status.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { LGV_COEFS = 32, LGV_SCALARS = 16 };

/* What lgv_step_row reads of a row. COEF + k is coef[k]. */
typedef enum lgv_field {
    LGV_FIELD_T,         /* f32 */
    LGV_FIELD_WEIGHT,    /* f32 */
    LGV_FIELD_LABEL,     /* i32 */
    LGV_FIELD_INDEX,     /* i32 */
    LGV_FIELD_LABEL_F32, /* the label as a number */
    LGV_FIELD_GUIDANCE,  /* f32 */
    LGV_FIELD_COEF       /* f32, plus k */
} lgv_field;

typedef struct lgv_row {
    uint64_t seed, sample, step; /* name the random numbers of this row (rng.h) */
    float t;                     /* timestep given to the network */
    float weight;                /* of this row's loss; 0 for a masked row */
    int32_t label;               /* class label */
    int32_t index;               /* timestep as a table index */
    float guidance;         /* scale of lgv_guide, 1: none */
    float guidance_rescale; /* 0: none */
    int32_t partner;        /* the row with the unconditional answer, -1 none */
    float coef[LGV_COEFS]; /* of the noising (LGV_TRAIN_*) or of the sampler (LGV_SAMPLE_*) */
} lgv_row;

/* coef in training: x_t = coef[0]*x0 + coef[1]*noise, target = coef[2]*x0 + coef[3]*noise. */
enum { LGV_TRAIN_X0 = 0, LGV_TRAIN_NOISE, LGV_TRAIN_TARGET_X0, LGV_TRAIN_TARGET_NOISE };
/* And of a term of the variational bound (lgv_vb_rows): predicted x0 = clip(A*x_t + B*out); the means of posterior and
   step differ by MEAN*(x0 - predicted x0); LOG_VAR is the posterior's, LOG_VAR_SCALE*v + LOG_VAR_SHIFT the step's. */
enum {
    LGV_TRAIN_VB_DECODER = 7, /* not 0: the discretised likelihood of x0 */
    LGV_TRAIN_VB_A = 10,
    LGV_TRAIN_VB_B,
    LGV_TRAIN_VB_CLIP, /* INFINITY: none */
    LGV_TRAIN_VB_MEAN,
    LGV_TRAIN_VB_LOG_VAR,
    LGV_TRAIN_VB_LOG_VAR_SCALE,
    LGV_TRAIN_VB_LOG_VAR_SHIFT
};
/* coef in sampling: the network sees IN*x; x0 = clip(A*x + B*out);
   x' = C*x0 + D*x + E*out + S*z + sum H[i]*history[i]; kept = KEEP_X0*x0 + KEEP_X*x + KEEP_OUT*out.
   VARIANCE 1 or 2: the network has 2 C outputs a pixel, out and v, and the standard deviation of the
   noise is S*exp(V0 + V1*v) or S*sqrt(v) instead of S.
   With a gradient g (lgv_sampler_step_guided) x' gets GUIDE*g, and GUIDE_VARIANCE*g times the square of that deviation. */
enum {
    LGV_SAMPLE_A = 0,
    LGV_SAMPLE_B,
    LGV_SAMPLE_CLIP,
    LGV_SAMPLE_C,
    LGV_SAMPLE_D,
    LGV_SAMPLE_E,
    LGV_SAMPLE_S,
    LGV_SAMPLE_THRESHOLD, /* not 0: dynamic thresholding instead of the clip */
    LGV_SAMPLE_THRESHOLD_RATIO,
    LGV_SAMPLE_THRESHOLD_MAX,
    LGV_SAMPLE_H, /* first of LGV_HISTORY */
    LGV_SAMPLE_IN = LGV_SAMPLE_H + 8,
    LGV_SAMPLE_KEEP_X0,
    LGV_SAMPLE_KEEP_X,
    LGV_SAMPLE_KEEP_OUT,
    LGV_SAMPLE_VARIANCE, /* 0: none, 1: exp(V0 + V1*v), 2: sqrt(v) */
    LGV_SAMPLE_V0,
    LGV_SAMPLE_V1,
    LGV_SAMPLE_GUIDE,
    LGV_SAMPLE_GUIDE_VARIANCE
};
enum { LGV_HISTORY = LGV_SAMPLE_IN - LGV_SAMPLE_H }; /* slots of a sampler's memory */

/* Scalars of the optimizer (lgv_adamw). */
enum {
    LGV_SCALAR_LR = 0,
    LGV_SCALAR_BETA1,
    LGV_SCALAR_BETA2,
    LGV_SCALAR_EPS,
    LGV_SCALAR_WEIGHT_DECAY,
    LGV_SCALAR_BIAS1,    /* 1 - beta1^n */
    LGV_SCALAR_BIAS2,    /* 1 - beta2^n */
    LGV_SCALAR_MAX_NORM, /* 0: no clipping */
    LGV_SCALAR_EMA_DECAY
};

typedef struct lgv_step {
    double scalar[LGV_SCALARS];
    int32_t rows;
    lgv_row *row; /* rows records, owned by the plan */
} lgv_step;

#ifdef __cplusplus
}
#endif
#endif
