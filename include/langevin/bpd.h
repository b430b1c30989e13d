/* bpd.h - how well a model would compress pictures: the variational bound on their likelihood, in bits
   per dimension (arXiv 2006.11239, eq. 5; arXiv 2102.09672, eq. 4 to 7). */
#ifndef LANGEVIN_BPD_H
#define LANGEVIN_BPD_H

#include "pipeline.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Returns not 0 to stop: lgv_pipeline_bpd then returns LGV_ERR_CANCELLED. done, total: rows, a row being one
   picture at one timestep. */
typedef int (*lgv_bpd_callback)(void *user, int64_t done, int64_t total);

typedef struct lgv_bpd_options {
    int64_t batch_size; /* rows of one network call; 0: 16. Changes no result */
    /* The chain: ascending timesteps (lgv_timesteps_respace); NULL: all T. A shorter one costs less and its bound is looser. */
    const int64_t *timesteps;
    int64_t timestep_count;
    uint64_t seed;         /* picture i at timestep t is noised by (seed, i, t) */
    const float *noise;    /* [steps,n,C,H,W] instead; NULL: drawn */
    const int32_t *labels; /* [n]; given exactly when the network has classes */
    int unclipped;         /* the predicted picture is not clipped to -1 .. 1 */
    lgv_mixed_precision mixed_precision;
    lgv_bpd_callback callback; /* NULL: none */
    void *user;
} lgv_bpd_options;

/* Bits per dimension, means over the pictures. */
typedef struct lgv_bpd {
    int64_t n, steps;
    int64_t *t;      /* [steps] ascending */
    double *term;    /* [steps] KL(q(x_{t-1}|x_t,x0) || p); of the first the discretised -log p(x0|x_1) */
    double *mse;     /* [steps] mean squared error of what the network predicts */
    double prior;    /* KL(q(x_T|x0) || N(0,1)) */
    double total;    /* the sum of the terms and prior */
    double *picture; /* [n] total of each picture */
} lgv_bpd;

/* pixels[n][H][W][C] as bytes. The variance is that of the pipeline's scheduler configuration, learned where the network
   gives one. options NULL: all defaults. */
LGV_API lgv_status lgv_pipeline_bpd(lgv_pipeline *pipeline, int64_t n, int64_t H, int64_t W,
                                    const uint8_t *pixels, const lgv_bpd_options *options,
                                    lgv_bpd **out, lgv_error *err);
LGV_API void lgv_bpd_free(lgv_bpd *b);

#ifdef __cplusplus
}
#endif
#endif
