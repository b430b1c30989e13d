/* reference.c - the figures of a set of generated pictures against a reference set. What depends on the
   reference alone (moments, root, radii) is computed once: training compares again and again. */
#include <math.h>
#include <string.h>

#include "eval.h"

enum { NEIGHBOURS = 3 };

struct lgv_reference {
    int64_t m, d;
    lgv_eval_options options;
    float *features;            /* [m][d] */
    float *radius;              /* [m] */
    double *mean, *root, trace; /* [d], [d][d], of the covariance */
};

static lgv_status check_features(const char *what, int64_t n, int64_t d, const float *x, int k,
                                 lgv_error *err)
{
    if (n < k + 2)
        return lgv_fail(err, LGV_ERR_ARGUMENT,
                        "%lld %s pictures are too few for figures; %d are the least, 1,000 or more "
                        "are meaningful",
                        (long long)n, what, k + 2);
    for (int64_t i = 0; i < n * d; i++)
        if (!isfinite(x[i]))
            return lgv_fail(err, LGV_ERR_NUMERIC,
                            "feature %lld of %s picture %lld is not a finite number",
                            (long long)(i % d), what, (long long)(i / d));
    return LGV_OK;
}

static lgv_status prepare(lgv_reference *r, lgv_error *err)
{
    double *covariance = lgv_alloc((size_t)(r->d * r->d), sizeof *covariance);
    if (!covariance || !r->features || !r->radius || !r->mean || !r->root) {
        lgv_free(covariance);
        return lgv_fail(err, LGV_ERR_MEMORY, "out of memory for %lld reference pictures",
                        (long long)r->m);
    }
    lgv_moments(r->m, r->d, r->features, NULL, r->mean, covariance);
    for (int64_t i = 0; i < r->d; i++) r->trace += covariance[i * r->d + i];
    lgv_status status = lgv_symmetric_root(r->d, covariance, r->root, err);
    if (!status)
        status = lgv_kth_neighbours(r->m, r->d, r->features, r->options.neighbours, r->radius, err);
    lgv_free(covariance);
    return status;
}

lgv_status lgv_reference_new(int64_t m, int64_t width, const float *features,
                             const lgv_eval_options *options, lgv_reference **out, lgv_error *err)
{
    enum { WIDEST = 8192 };
    lgv_eval_options o = options ? *options : (lgv_eval_options){0};
    if (!o.neighbours) o.neighbours = NEIGHBOURS;
    if (o.neighbours < 1 || o.neighbours > 1000 || o.replicates < -1 || o.replicates > 100000)
        return lgv_fail(err, LGV_ERR_ARGUMENT,
                        "neighbours must be 1 to 1000 and replicates at most 100000, not %d and %d",
                        o.neighbours, o.replicates);
    if (width < 1 || width > WIDEST)
        return lgv_fail(err, LGV_ERR_ARGUMENT, "features must be 1 to %d numbers wide, not %lld",
                        WIDEST, (long long)width);
    LGV_TRY(check_features("reference", m, width, features, o.neighbours, err));
    lgv_reference *r = lgv_zalloc(1, sizeof *r);
    if (!r) return lgv_fail(err, LGV_ERR_MEMORY, "out of memory for a reference");
    *r = (lgv_reference){.m = m, .d = width, .options = o};
    r->features = lgv_alloc((size_t)m, (size_t)width * sizeof *r->features);
    r->radius = lgv_alloc((size_t)m, sizeof *r->radius);
    r->mean = lgv_alloc((size_t)width, sizeof *r->mean);
    r->root = lgv_alloc((size_t)(width * width), sizeof *r->root);
    if (r->features) memcpy(r->features, features, (size_t)(m * width) * sizeof *features);
    lgv_status status = prepare(r, err);
    if (status)
        lgv_reference_free(r);
    else
        *out = r;
    return status;
}

void lgv_reference_free(lgv_reference *r)
{
    if (!r) return;
    lgv_free(r->features);
    lgv_free(r->radius);
    lgv_free(r->mean);
    lgv_free(r->root);
    lgv_free(r);
}

/* count NULL: every picture once. scratch: [d] and [d][d]. */
static lgv_status frechet_of(const lgv_reference *r, int64_t n, const float *x,
                             const int32_t *count, double *scratch, double *out, lgv_error *err)
{
    double *mean = scratch, *covariance = scratch + r->d;
    lgv_moments(n, r->d, x, count, mean, covariance);
    return lgv_frechet(r->d, mean, covariance, r->mean, r->root, r->trace, out, err);
}

static lgv_status frechet(const lgv_reference *r, int64_t n, const float *x, lgv_interval *out,
                          lgv_error *err)
{
    int replicates = lgv_replicates(&r->options);
    double *scratch = lgv_alloc((size_t)(r->d * r->d + r->d), sizeof *scratch), value = 0;
    double *v = lgv_alloc((size_t)replicates, sizeof *v);
    int32_t *count = lgv_alloc((size_t)n, sizeof *count);
    lgv_status status = scratch && v && count
                            ? LGV_OK
                            : lgv_fail(err, LGV_ERR_MEMORY, "out of memory for a bootstrap");
    if (!status) status = frechet_of(r, n, x, NULL, scratch, &value, err);
    for (int k = 0; k < replicates && !status; k++) {
        lgv_bootstrap_counts(r->options.seed, k, n, count);
        status = frechet_of(r, n, x, count, scratch, &v[k], err);
    }
    if (!status) *out = lgv_bootstrap_interval(value, v, replicates, 0, INFINITY);
    lgv_free(scratch);
    lgv_free(v);
    lgv_free(count);
    return status;
}

static lgv_status manifolds(const lgv_reference *r, int64_t n, const float *x, lgv_figures *out,
                            lgv_error *err)
{
    float *radius = lgv_alloc((size_t)n, sizeof *radius);
    uint8_t *inside = lgv_alloc((size_t)n, 1), *covered = lgv_alloc((size_t)r->m, 1);
    lgv_status status =
        radius && inside && covered
            ? LGV_OK
            : lgv_fail(err, LGV_ERR_MEMORY, "out of memory for precision and recall");
    if (!status) status = lgv_kth_neighbours(n, r->d, x, r->options.neighbours, radius, err);
    if (!status)
        status = lgv_inside(n, x, radius, r->m, r->features, r->radius, r->d, inside, covered, err);
    if (!status) status = lgv_share(n, inside, &r->options, &out->precision, err);
    if (!status) status = lgv_share(r->m, covered, &r->options, &out->recall, err);
    lgv_free(radius);
    lgv_free(inside);
    lgv_free(covered);
    return status;
}

lgv_status lgv_reference_compare(const lgv_reference *r, int64_t n, const float *generated,
                                 lgv_figures *out, lgv_error *err)
{
    lgv_figures f = {.generated = n, .reference = r->m};
    LGV_TRY(check_features("generated", n, r->d, generated, r->options.neighbours, err));
    LGV_TRY(frechet(r, n, generated, &f.frechet, err));
    LGV_TRY(manifolds(r, n, generated, &f, err));
    *out = f;
    return LGV_OK;
}
