/* brownian.h - a Brownian path over noise levels. Internal. */
#ifndef LGV_DIFFUSION_BROWNIAN_H
#define LGV_DIFFUSION_BROWNIAN_H

#include <stdint.h>

/* w[0 .. n-1] = W(sigma), 0 <= sigma <= 32768. w: [2 n], scratch: [n]. */
void lgv_brownian(uint64_t seed, double sigma, int64_t n, float *scratch, double *w);
/* z[n] = (W(to) - W(from))/sqrt(|to - from|), each standard normal. w: [4 n], scratch: [n]. */
void lgv_brownian_step(uint64_t seed, double from, double to, int64_t n, float *scratch, double *w,
                       float *z);

#endif
