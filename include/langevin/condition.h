/* condition.h - image conditions: what a network sees beside the noisy picture, as more channels of its input
   (arXiv 2104.07636 for super-resolution; arXiv 2112.10752, sec. 4.4 and 4.5, for both).
   Pictures are float HWC, -1 .. 1. */
#ifndef LANGEVIN_CONDITION_H
#define LANGEVIN_CONDITION_H

#include <stdint.h>

#include "status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum lgv_condition {
    LGV_CONDITION_NONE = 0,
    LGV_CONDITION_SUPER_RESOLUTION, /* the small picture, enlarged: as many channels as the picture */
    LGV_CONDITION_INPAINTING        /* the mask (1: to paint), then the picture with 0 there: one channel more */
} lgv_condition;

LGV_API const char *lgv_condition_name(lgv_condition c); /* "none", "super-resolution", "inpainting" */
LGV_API lgv_status lgv_condition_parse(const char *name, lgv_condition *out, lgv_error *err);
/* Channels of the condition of a picture of so many. */
LGV_API int lgv_condition_channels(lgv_condition c, int picture);

/* The condition of a super-resolution network from small[h][w][c]: enlarged to out[H][W][c] by linear interpolation between
   the centres of pixels (torch's interpolate, bilinear, align_corners False). */
LGV_API void lgv_condition_enlarge(int64_t h, int64_t w, int64_t c, const float *small, int64_t H,
                                   int64_t W, float *out);
/* What training shows: x0[H][W][c] made smaller by means over scale x scale pixels, then enlarged again. H and W are multiples
   of scale. Fails only for want of memory. */
LGV_API lgv_status lgv_condition_degrade(int64_t H, int64_t W, int64_t c, const float *x0,
                                         int scale, float *out, lgv_error *err);

/* The condition of an inpainting network: out[H][W][1 + c] from x0[H][W][c] and mask[H][W], not 0 where it is painted. */
LGV_API void lgv_condition_mask(int64_t H, int64_t W, int64_t c, const float *x0,
                                const uint8_t *mask, float *out);
/* A mask for training, a function of (seed, sample, step): a rectangle (half of the time), one to four thick strokes, or
   now and then the whole picture. */
LGV_API void lgv_condition_random_mask(uint64_t seed, uint64_t sample, uint64_t step, int64_t H,
                                       int64_t W, uint8_t *mask);

#ifdef __cplusplus
}
#endif
#endif
