/* peak.h - the loops with which a level measures what the machine does at best. */
#ifndef LGV_PEAK_H
#define LGV_PEAK_H

#include <stdint.h>

typedef struct lgv_peak_loops {
    /* Multiply-adds on registers only; each round is `flops` operations. The result depends on all of them. */
    double (*fma)(int64_t rounds);
    double flops;
    /* The same in bf16 on matrix units with sums in f32; NULL: the level has none. */
    double (*matrix)(int64_t rounds);
    double matrix_flops;
    /* y[i] = x[i] * 0.5 for n bytes, a multiple of 64. */
    void (*stream)(void *y, const void *x, int64_t bytes);
} lgv_peak_loops;

#endif
