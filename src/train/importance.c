/* importance.c - timesteps drawn more often where the loss is large (arXiv 2102.09672, sec. 3.3, eq. 18).
   The last ten losses of every timestep are kept; p_t is proportional to the root of their mean square,
   mixed with a little of the uniform distribution, and the loss is weighted by 1/(T p_t), so that its
   expectation stays that of uniform draws. Until ten losses of every timestep are known, draws are uniform. */
#include "trainer.h"

#include <math.h>

#include "core/core.h"

static const double uniform_share = 0.001;

lgv_status lgv_importance_new(int64_t T, lgv_importance **out, lgv_error *err)
{
    lgv_importance *s = lgv_zalloc(1, sizeof *s);
    if (s) {
        s->T = T;
        s->history = lgv_alloc((size_t)T * LGV_LOSS_HISTORY, sizeof *s->history);
        s->cumulative = lgv_alloc((size_t)T, sizeof *s->cumulative);
    }
    if (!s || !s->history || !s->cumulative) {
        lgv_importance_free(s);
        return lgv_fail(err, LGV_ERR_MEMORY, "out of memory for the losses of %lld timesteps",
                        (long long)T);
    }
    for (int64_t i = 0; i < T * LGV_LOSS_HISTORY; i++) s->history[i] = NAN;
    lgv_importance_update(s);
    *out = s;
    return LGV_OK;
}

void lgv_importance_free(lgv_importance *s)
{
    if (!s) return;
    lgv_free(s->history);
    lgv_free(s->cumulative);
    lgv_free(s);
}

/* NaN until all are known. */
static double root_mean_square(const lgv_importance *s, int64_t t)
{
    double sum = 0;
    const float *loss = s->history + t * LGV_LOSS_HISTORY;
    for (int i = 0; i < LGV_LOSS_HISTORY; i++) sum += (double)loss[i] * (double)loss[i];
    return sqrt(sum / LGV_LOSS_HISTORY);
}

void lgv_importance_update(lgv_importance *s)
{
    double sum = 0, p = 0, even = 1.0 / (double)s->T;
    for (int64_t t = 0; t < s->T; t++) sum += root_mean_square(s, t);
    bool known = sum > 0 && isfinite(sum);
    for (int64_t t = 0; t < s->T; t++) {
        p += known ? root_mean_square(s, t) / sum * (1 - uniform_share) + uniform_share * even
                   : even;
        s->cumulative[t] = p;
    }
}

int64_t lgv_importance_draw(const lgv_importance *s, double u, double *weight)
{
    int64_t low = 0, high = s->T - 1;
    const double at = u * s->cumulative[high];
    while (low < high) { /* the first whose cumulative probability exceeds u */
        int64_t middle = low + (high - low) / 2;
        if (s->cumulative[middle] > at)
            high = middle;
        else
            low = middle + 1;
    }
    double p = s->cumulative[low] - (low ? s->cumulative[low - 1] : 0);
    *weight = 1 / ((double)s->T * p);
    return low;
}

void lgv_importance_observe(lgv_importance *s, int64_t t, float loss)
{
    float *known = s->history + t * LGV_LOSS_HISTORY;
    if (!isfinite(loss)) return;
    for (int i = 0; i + 1 < LGV_LOSS_HISTORY; i++) known[i] = known[i + 1];
    known[LGV_LOSS_HISTORY - 1] = loss;
}
