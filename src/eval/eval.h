/* eval.h - what the files of src/eval share. */
#ifndef LGV_EVAL_EVAL_H
#define LGV_EVAL_EVAL_H

#include "core/core.h"
#include "langevin/eval.h"

/* ---- eigen.c ---- */
/* Eigenvalues of the symmetric a[n][n] (destroyed), in no order. With vectors, row i of a becomes the
   unit eigenvector of value[i]. LGV_ERR_NUMERIC when the iteration does not end. */
lgv_status lgv_symmetric_eigen(int64_t n, double *a, double *value, bool vectors, lgv_error *err);

/* ---- moments.c ---- */
/* Mean and unbiased covariance of rows x[n][d], row i counted count[i] times (NULL: once). */
void lgv_moments(int64_t n, int64_t d, const float *x, const int32_t *count, double *mean,
                 double *covariance);
/* The symmetric square root of a covariance. */
lgv_status lgv_symmetric_root(int64_t d, const double *a, double *root, lgv_error *err);
/* Between a set with mean and covariance and one with mean and root (of its covariance); trace: that of
   the second covariance. */
lgv_status lgv_frechet(int64_t d, const double *mean1, const double *covariance1,
                       const double *mean2, const double *root2, double trace2, double *out,
                       lgv_error *err);

/* ---- neighbours.c ---- */
/* radius[i] = squared distance of row i of x[n][d] to its k-th nearest other row. */
lgv_status lgv_kth_neighbours(int64_t n, int64_t d, const float *x, int k, float *radius,
                              lgv_error *err);
/* inside_a[i] = 1 when row i of a[n][d] lies within radius_b[j] of some row j of b[m][d], and inside_b
   the other way round. */
lgv_status lgv_inside(int64_t n, const float *a, const float *radius_a, int64_t m, const float *b,
                      const float *radius_b, int64_t d, uint8_t *inside_a, uint8_t *inside_b,
                      lgv_error *err);

/* ---- bootstrap.c ---- */
/* How often each of n pictures is drawn in a replicate. */
void lgv_bootstrap_counts(uint64_t seed, int replicate, int64_t n, int32_t *count);
/* value -/+ 1.96 standard deviations of v[n], within [least, most]. */
lgv_interval lgv_bootstrap_interval(double value, const double *v, int n, double least,
                                    double most);
int lgv_replicates(const lgv_eval_options *o);

#endif
