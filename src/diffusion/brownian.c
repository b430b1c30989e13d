/* brownian.c - a Brownian path over noise levels for samplers that are SDEs: W(sigma) of every element, W(0) = 0. It is
   a function of seed, element and sigma alone, so pictures of one seed with other numbers of steps walk along the same
   path. W(ROOT) is drawn first, then the middle of every interval that holds sigma, conditioned on its ends (Levy's
   construction); within the last one, far below the distance of any two levels, the path is straight. */
#include "diffusion/brownian.h"

#include <math.h>

#include "core/core.h"
#include "langevin/rng.h"

static const double root = 32768, finest = 0x1p-14;

void lgv_brownian(uint64_t seed, double sigma, int64_t n, float *scratch, double *w)
{
    lgv_rng_key key = {.seed = seed, .stream = lgv_rng_stream("sample.brownian"), .step = 1};
    double low = 0, high = root, *at_low = w, *at_high = w + n;
    lgv_rng_normal(&key, 0, n, scratch);
    for (int64_t i = 0; i < n; i++) {
        at_low[i] = 0;
        at_high[i] = sqrt(root) * (double)scratch[i];
    }
    for (uint64_t node = 2; high - low > finest; node *= 2) { /* numbered like a heap, from 2 on */
        const double middle = (low + high) / 2, deviation = sqrt((high - low) / 4);
        const int right = sigma >= middle;
        double *moved = right ? at_low : at_high;
        key.step = node;
        lgv_rng_normal(&key, 0, n, scratch);
        for (int64_t i = 0; i < n; i++)
            moved[i] = (at_low[i] + at_high[i]) / 2 + deviation * (double)scratch[i];
        *(right ? &low : &high) = middle;
        node += (uint64_t)right;
    }
    const double part = (sigma - low) / (high - low);
    for (int64_t i = 0; i < n; i++) w[i] = at_low[i] + part * (at_high[i] - at_low[i]);
}

void lgv_brownian_step(uint64_t seed, double from, double to, int64_t n, float *scratch, double *w,
                       float *z)
{
    const double scale = 1 / sqrt(fabs(to - from));
    lgv_brownian(seed, from, n, scratch, w);
    lgv_brownian(seed, to, n, scratch, w + 2 * n);
    for (int64_t i = 0; i < n; i++) z[i] = (float)((w[2 * n + i] - w[i]) * scale);
}
