/* eval.h - how good generated pictures are: distances between two sets of pictures in the feature
   space of a network, each with a confidence interval, and the search for copies.
   Features come from a network of ours (lgv_extractor) or from anywhere else; the figures only see
   arrays of float. All sums are in double and in a fixed order: the same bits for any number of
   threads. */
#ifndef LANGEVIN_EVAL_H
#define LANGEVIN_EVAL_H

#include <stdint.h>

#include "image.h"
#include "model.h"
#include "plan.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A figure and its 95 % interval: value -/+ 1.96 standard errors, these from a bootstrap (Efron and
   Tibshirani, An Introduction to the Bootstrap, 1993, sections 6.2 and 13.3). */
typedef struct lgv_interval {
    double value, low, high;
} lgv_interval;

typedef struct lgv_eval_options {
    int neighbours; /* k of precision and recall; 0: 3 */
    int replicates; /* of the bootstrap; 0: 100; LGV_OFF: none, low = high = value */
    uint64_t seed;  /* of the bootstrap's draws */
} lgv_eval_options;

/* ---- features ---- */
typedef struct lgv_extractor lgv_extractor;

/* path: whatever lgv_model_open finds weights for; a classifier of ours (train --task classifier), or
   a UNet2DModel, whose features are the mean over positions after its middle block at t = 0. The
   device is borrowed. */
LGV_API lgv_status lgv_extractor_open(lgv_device *device, const char *path, lgv_extractor **out,
                                      lgv_error *err);
LGV_API void lgv_extractor_free(lgv_extractor *e);
LGV_API const lgv_model *lgv_extractor_model(const lgv_extractor *e);
LGV_API int lgv_extractor_width(const lgv_extractor *e); /* numbers per picture */
/* The pictures it takes: [side][side][channels]. */
LGV_API int lgv_extractor_side(const lgv_extractor *e);
LGV_API int lgv_extractor_channels(const lgv_extractor *e);
/* pixels[n][height][width][channels] -> features[n][width]. Pictures of another size or kind are converted as
   lgv_dataset does it: short side resized, middle cut out. label (may be NULL): the class the classifier takes
   each for; -1 of a network without classes. */
LGV_API lgv_status lgv_extractor_run(lgv_extractor *e, int64_t n, int height, int width,
                                     int channels, const uint8_t *pixels, float *features,
                                     int32_t *label, lgv_error *err);

/* ---- figures ---- */
/* What generated pictures are compared with. */
typedef struct lgv_reference lgv_reference;

/* features[m][width] are copied. Errors: fewer than 2 + neighbours rows, numbers that are not finite. */
LGV_API lgv_status lgv_reference_new(int64_t m, int64_t width, const float *features,
                                     const lgv_eval_options *options, lgv_reference **out,
                                     lgv_error *err);
LGV_API void lgv_reference_free(lgv_reference *r);

typedef struct lgv_figures {
    int64_t generated, reference; /* pictures */
    /* |mu1 - mu2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)) of normal distributions with the sets' means and
       (unbiased) covariances: Dowson and Landau, J. Multivariate Analysis 12 (1982), eq. 4; arXiv
       1706.08500, eq. 6. The interval is over the generated pictures; the reference counts as given.
       It falls with more pictures even when nothing else changes (arXiv 1911.07023): compare equal
       numbers only. */
    lgv_interval frechet;
    /* arXiv 1904.06991, eq. 1 and 2: the share of generated pictures inside the reference's manifold,
       and of reference pictures inside the generated one. A manifold is the union of balls around its
       pictures that reach to the k-th nearest other one. The intervals are over the pictures counted. */
    lgv_interval precision, recall;
} lgv_figures;
LGV_API lgv_status lgv_reference_compare(const lgv_reference *r, int64_t n, const float *generated,
                                         lgv_figures *out, lgv_error *err);

/* The share of hit[n] that are not 0. */
LGV_API lgv_status lgv_share(int64_t n, const uint8_t *hit, const lgv_eval_options *options,
                             lgv_interval *out, lgv_error *err);

/* ---- copies ---- */
/* The nearest of many training pictures to each of n pictures, by the distance of their pixels. */
typedef struct lgv_copy_search lgv_copy_search;

typedef struct lgv_copy {
    int64_t index;   /* the nearest training picture, -1 before any was added */
    double distance; /* root mean square difference of pixels, 0 to 255 */
    double second;   /* the same of the second nearest */
    /* distance < second / 3 (the criterion of arXiv 2310.02664, section 2), or distance < 3: of a
       picture that is twice in the training set the second nearest is as near as the nearest. */
    int copy;
} lgv_copy;

/* pixels[n][count] are copied. */
LGV_API lgv_status lgv_copy_search_new(int64_t n, int64_t count, const uint8_t *pixels,
                                       lgv_copy_search **out, lgv_error *err);
LGV_API void lgv_copy_search_free(lgv_copy_search *s);
/* `pictures` more training pictures[.][count], numbered from `first`. */
LGV_API void lgv_copy_search_add(lgv_copy_search *s, int64_t first, int64_t pictures,
                                 const uint8_t *pixels);
LGV_API void lgv_copy_search_result(const lgv_copy_search *s, int64_t i, lgv_copy *out);

#ifdef __cplusplus
}
#endif
#endif
