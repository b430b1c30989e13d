/* bound.c - the variational bound on the likelihood of pictures: what each of its terms needs to know about
   the schedule, and the chains of fewer steps it may be taken over. */
#include <math.h>
#include <string.h>

#include "core/core.h"
#include "core/elementary.h"
#include "diffusion/scheduler.h"

static double abar_at(const lgv_schedule *s, int64_t t)
{
    return t < 0 ? 1 : s->abar[t];
}

/* Of the step from t to prev. */
static double step_beta(const lgv_schedule *s, int64_t t, int64_t prev)
{
    return 1 - abar_at(s, t) / abar_at(s, prev);
}
static double posterior_variance(const lgv_schedule *s, int64_t t, int64_t prev)
{
    return step_beta(s, t, prev) * (1 - abar_at(s, prev)) / (1 - abar_at(s, t));
}

/* x0 = a x_t + b out. */
static void prediction_coef(const lgv_schedule *s, int64_t t, lgv_row *row)
{
    double a = 0, b = 1, abar = s->abar[t];
    if (s->prediction == LGV_PREDICT_EPSILON) {
        a = sqrt(1 / abar);
        b = -sqrt(1 / abar - 1);
    } else if (s->prediction == LGV_PREDICT_V) {
        a = sqrt(abar);
        b = -sqrt(1 - abar);
    }
    row->coef[LGV_TRAIN_VB_A] = (float)a;
    row->coef[LGV_TRAIN_VB_B] = (float)b;
}

void lgv_schedule_bound_coef(const lgv_schedule *s, int64_t t, int64_t prev, int64_t next,
                             lgv_variance variance, double clip, lgv_row *row)
{
    double beta = step_beta(s, t, prev), small = posterior_variance(s, t, prev);
    if (prev < 0) small = next > t ? posterior_variance(s, next, t) : beta;
    double least = lgv_log(small), most = lgv_log(beta), scale = 0, shift = least;
    switch (variance) {
    case LGV_VARIANCE_FIXED_SMALL:
    case LGV_VARIANCE_FIXED_SMALL_LOG: break;
    case LGV_VARIANCE_FIXED_LARGE:
    case LGV_VARIANCE_FIXED_LARGE_LOG: shift = prev < 0 ? least : most; break;
    case LGV_VARIANCE_LEARNED:
    case LGV_VARIANCE_LEARNED_RANGE: /* v from -1 to 1 */
        scale = (most - least) / 2;
        shift = (most + least) / 2;
        break;
    }
    prediction_coef(s, t, row);
    row->coef[LGV_TRAIN_VB_DECODER] = prev < 0;
    row->coef[LGV_TRAIN_VB_CLIP] = (float)clip;
    row->coef[LGV_TRAIN_VB_MEAN] =
        (float)(sqrt(abar_at(s, prev)) * beta / (1 - abar_at(s, t)));
    row->coef[LGV_TRAIN_VB_LOG_VAR] = (float)least;
    row->coef[LGV_TRAIN_VB_LOG_VAR_SCALE] = (float)scale;
    row->coef[LGV_TRAIN_VB_LOG_VAR_SHIFT] = (float)shift;
}

double lgv_schedule_prior_bits(const lgv_schedule *s, int64_t n, const float *x0)
{
    double abar = s->abar[s->T - 1], variance = 1 - abar, squares = 0;
    for (int64_t i = 0; i < n; i++) squares += (double)x0[i] * (double)x0[i];
    return 0.5 * (abar * squares / (double)n + variance - 1 - lgv_log(variance)) /
           0.693147180559945309417;
}

/* ---- chains of fewer steps ---- */

static lgv_status no_spec(const char *spec, int64_t T, lgv_error *err)
{
    return lgv_fail(err, LGV_ERR_ARGUMENT,
                    "timestep respacing '%s' makes no chain of %lld timesteps: give a count "
                    "(\"250\"), counts of equal sections (\"10,15,20\") or \"ddim50\"",
                    spec, (long long)T);
}

/* A number of 1 to 1000000; *end is what follows it. */
static bool read_count(const char *s, int64_t *n, const char **end)
{
    for (*n = 0; *s >= '0' && *s <= '9' && *n <= 1000000; s++) *n = *n * 10 + (*s - '0');
    *end = s;
    return *n >= 1 && *n <= 1000000;
}

static lgv_status respace_stride(int64_t T, const char *spec, int64_t *t, int64_t *n,
                                 lgv_error *err)
{
    int64_t count;
    const char *end;
    if (!read_count(spec + 4, &count, &end) || *end) return no_spec(spec, T, err);
    for (int64_t stride = 1; stride < T; stride++) {
        if (lgv_ceil_div(T, stride) != count) continue;
        for (int64_t i = 0; i < count; i++) t[i] = i * stride;
        *n = count;
        return LGV_OK;
    }
    return lgv_fail(err, LGV_ERR_ARGUMENT,
                    "no whole stride takes exactly %lld of %lld timesteps ('%s')",
                    (long long)count, (long long)T, spec);
}

lgv_status lgv_timesteps_respace(int64_t T, const char *spec, int64_t *t, int64_t *n,
                                 lgv_error *err)
{
    const char *at = spec;
    int64_t sections = 1, start = 0;
    if (!strncmp(spec, "ddim", 4)) return respace_stride(T, spec, t, n, err);
    for (const char *s = spec; *s; s++) sections += *s == ',';
    *n = 0;
    for (int64_t i = 0; i < sections; i++) {
        int64_t size = T / sections + (i < T % sections), count;
        if (!read_count(at, &count, &at) || *at++ != (i + 1 < sections ? ',' : 0))
            return no_spec(spec, T, err);
        if (count > size)
            return lgv_fail(err, LGV_ERR_ARGUMENT,
                            "timestep respacing wants %lld timesteps of a section of %lld",
                            (long long)count, (long long)size);
        double stride = count > 1 ? (double)(size - 1) / (double)(count - 1) : 1, place = 0;
        for (int64_t k = 0; k < count; k++, place += stride)
            t[(*n)++] = start + (int64_t)rint(place);
        start += size;
    }
    return LGV_OK;
}
