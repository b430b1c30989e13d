/* bootstrap.c - how far a figure would move had other pictures of the same kind been drawn. */
#include <math.h>
#include <string.h>

#include "eval.h"
#include "langevin/dataset.h"
#include "langevin/rng.h"

enum { REPLICATES = 100 };

int lgv_replicates(const lgv_eval_options *o)
{
    int n = o ? o->replicates : 0;
    return n == LGV_OFF ? 0 : n ? n : REPLICATES;
}

void lgv_bootstrap_counts(uint64_t seed, int replicate, int64_t n, int32_t *count)
{
    lgv_rng_key key = {
        .seed = seed, .stream = lgv_rng_stream("eval.bootstrap"), .step = (uint64_t)replicate};
    memset(count, 0, (size_t)n * sizeof *count);
    for (int64_t i = 0; i < n; i++) count[lgv_rng_below(&key, (uint64_t)i, (uint64_t)n)]++;
}

lgv_interval lgv_bootstrap_interval(double value, const double *v, int n, double least, double most)
{
    double mean = 0, square = 0;
    for (int i = 0; i < n; i++) mean += v[i];
    mean /= n > 0 ? n : 1;
    for (int i = 0; i < n; i++) square += (v[i] - mean) * (v[i] - mean);
    double reach = n > 1 ? 1.96 * sqrt(square / (n - 1)) : 0;
    return (lgv_interval){value, fmax(value - reach, least), fmin(value + reach, most)};
}

lgv_status lgv_share(int64_t n, const uint8_t *hit, const lgv_eval_options *options,
                     lgv_interval *out, lgv_error *err)
{
    int replicates = lgv_replicates(options);
    int32_t *count = lgv_alloc((size_t)n, sizeof *count);
    double *v = lgv_alloc((size_t)replicates, sizeof *v), value = 0;
    lgv_status status =
        count && v ? LGV_OK : lgv_fail(err, LGV_ERR_MEMORY, "out of memory for a bootstrap");
    for (int64_t i = 0; i < n; i++) value += hit[i] != 0;
    for (int r = 0; r < replicates && !status; r++) {
        int64_t sum = 0;
        lgv_bootstrap_counts(options ? options->seed : 0, r, n, count);
        for (int64_t i = 0; i < n; i++) sum += hit[i] ? count[i] : 0;
        v[r] = (double)sum / (double)n;
    }
    if (!status) *out = lgv_bootstrap_interval(value / (double)n, v, replicates, 0, 1);
    lgv_free(count);
    lgv_free(v);
    return status;
}
