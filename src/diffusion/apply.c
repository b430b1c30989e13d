/* apply.c - one sampler step on the host, and interpolation of latents. The plain statement of
   what the device operation lgv_sampler_step computes, without a classifier's gradient. */
#include <math.h>
#include <stdlib.h>

#include "core/core.h"
#include "core/elementary.h"
#include "langevin/sampler.h"

static int compare(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

/* torch.quantile(v, ratio), linear between neighbours, of n >= 1 values that get sorted. NaN
   when any is. */
static float quantile(float *v, int64_t n, float ratio)
{
    for (int64_t i = 0; i < n; i++)
        if (isnan(v[i])) return NAN;
    qsort(v, (size_t)n, sizeof *v, compare);
    float rank = ratio * (float)(n - 1);
    int64_t low = lgv_min_i64((int64_t)rank, n - 1), high = lgv_min_i64(low + 1, n - 1);
    float w = rank - (float)low, span = v[high] - v[low];
    if (high == low || v[high] == v[low]) return v[low];
    return w < 0.5f ? v[low] + w * span : v[high] - span * (1.0f - w);
}

/* Dynamic thresholding: s = quantile of |x0|, at least 1, at most max; x0 = clamp(x0, -s, s)/s. */
static lgv_status threshold_of(const lgv_step_coef *k, int64_t n, const float *x, const float *out,
                               float *s, lgv_error *err)
{
    float *v = lgv_alloc((size_t)n, sizeof *v);
    if (!v)
        return lgv_fail(err, LGV_ERR_MEMORY, "out of memory to threshold %lld values",
                        (long long)n);
    for (int64_t i = 0; i < n; i++) v[i] = fabsf(k->a * x[i] + k->b * out[i]);
    *s = quantile(v, n, k->threshold_ratio);
    lgv_free(v);
    if (*s < 1) *s = 1;
    if (*s > k->threshold_max) *s = k->threshold_max;
    return LGV_OK;
}

/* NaN stays NaN. */
static float clamp(float v, float bound)
{
    return v < -bound ? -bound : v > bound ? bound : v;
}

static float deviation(const lgv_step_coef *k, const float *v)
{
    if (k->variance == LGV_PREDICTED_RANGE)
        return k->s * (float)lgv_exp((double)(k->v0 + k->v1 * *v));
    return k->variance == LGV_PREDICTED_ITSELF ? k->s * sqrtf(*v) : k->s;
}

lgv_status lgv_sampler_apply(const lgv_step_coef *k, int64_t n, const float *x, const float *out,
                             const float *z, float *history, float *x_next, float *x0,
                             lgv_error *err)
{
    float bound = k->clip, divisor = 1;
    if (n < 1) return LGV_OK;
    if (k->threshold) {
        LGV_TRY(threshold_of(k, n, x, out, &bound, err));
        divisor = bound;
    }
    for (int64_t i = 0; i < n; i++) {
        float sample = x[i], p = clamp(k->a * sample + k->b * out[i], bound) / divisor;
        float next = k->c * p + k->d * sample + k->e * out[i];
        if (z && k->s != 0) next += deviation(k, &out[k->variance ? n + i : i]) * z[i];
        for (int s = 0; s < LGV_HISTORY; s++)
            if (k->h[s] != 0) next += k->h[s] * history[s * n + i];
        if (k->keep)
            history[(k->keep - 1) * n + i] =
                k->keep_x0 * p + k->keep_x * sample + k->keep_out * out[i];
        if (k->keep_sample) history[(k->keep_sample - 1) * n + i] = sample;
        if (x0) x0[i] = p;
        x_next[i] = next;
    }
    return LGV_OK;
}

/* The angle whose cosine and sine are c and s (s >= 0), by steps of sin(angle - a) = s cos a - c
   sin a, which converge cubically; our own, because libm's acos differs between machines. */
static double angle_of(double c, double s)
{
    double a = 1.5707963267948966 * (1 - c), sin_a, cos_a;
    for (int i = 0; i < 6; i++) {
        lgv_sincos(a, &sin_a, &cos_a);
        double step = s * cos_a - c * sin_a;
        a += step + step * step * step / 6;
    }
    return a;
}

void lgv_slerp(int64_t n, const float *a, const float *b, double weight, float *out)
{
    double aa = 0, bb = 0, ab = 0, wa = 1 - weight, wb = weight;
    for (int64_t i = 0; i < n; i++) {
        aa += (double)a[i] * a[i];
        bb += (double)b[i] * b[i];
        ab += (double)a[i] * b[i];
    }
    double c = ab / sqrt(aa * bb), s = sqrt(c * c < 1 ? 1 - c * c : 0);
    if (aa > 0 && bb > 0 && s > 1e-6) {
        double angle = angle_of(c, s), all, cos_unused;
        lgv_sincos((1 - weight) * angle, &wa, &cos_unused);
        lgv_sincos(weight * angle, &wb, &cos_unused);
        lgv_sincos(angle, &all, &cos_unused);
        wa /= all;
        wb /= all;
    }
    for (int64_t i = 0; i < n; i++) out[i] = (float)(wa * a[i] + wb * b[i]);
}
