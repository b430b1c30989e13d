/* moments.c - the Fréchet distance between two sets of vectors, each taken for a normal distribution. */
#include <math.h>
#include <string.h>

#include "eval.h"

static void mean_of(int64_t n, int64_t d, const float *x, const int32_t *count, double *mean)
{
    memset(mean, 0, (size_t)d * sizeof *mean);
    for (int64_t i = 0; i < n; i++) {
        double weight = count ? count[i] : 1;
        for (int64_t k = 0; weight > 0 && k < d; k++) mean[k] += weight * (double)x[i * d + k];
    }
    for (int64_t k = 0; k < d; k++) mean[k] /= (double)n;
}

void lgv_moments(int64_t n, int64_t d, const float *x, const int32_t *count, double *mean,
                 double *covariance)
{
    mean_of(n, d, x, count, mean);
    memset(covariance, 0, (size_t)(d * d) * sizeof *covariance);
    for (int64_t i = 0; i < n; i++) {
        double weight = count ? count[i] : 1;
        for (int64_t k = 0; weight > 0 && k < d; k++) {
            double a = weight * ((double)x[i * d + k] - mean[k]), *row = covariance + k * d;
            for (int64_t j = 0; j <= k; j++) row[j] += a * ((double)x[i * d + j] - mean[j]);
        }
    }
    for (int64_t k = 0; k < d; k++)
        for (int64_t j = 0; j <= k; j++) {
            covariance[k * d + j] /= (double)(n - 1);
            covariance[j * d + k] = covariance[k * d + j];
        }
}

/* c = a b, all [d][d]. */
static void multiply(int64_t d, const double *a, const double *b, double *c)
{
    memset(c, 0, (size_t)(d * d) * sizeof *c);
    for (int64_t i = 0; i < d; i++)
        for (int64_t k = 0; k < d; k++)
            for (int64_t j = 0; j < d; j++) c[i * d + j] += a[i * d + k] * b[k * d + j];
}

static lgv_status out_of_memory(int64_t d, lgv_error *err)
{
    return lgv_fail(err, LGV_ERR_MEMORY, "out of memory for covariances of %lld features",
                    (long long)d);
}

lgv_status lgv_symmetric_root(int64_t d, const double *a, double *root, lgv_error *err)
{
    double *vector = lgv_alloc((size_t)(d * d), sizeof *vector);
    double *value = lgv_alloc((size_t)d, sizeof *value);
    lgv_status status = vector && value ? LGV_OK : out_of_memory(d, err);
    if (!status) {
        memcpy(vector, a, (size_t)(d * d) * sizeof *vector);
        status = lgv_symmetric_eigen(d, vector, value, true, err);
    }
    if (!status) memset(root, 0, (size_t)(d * d) * sizeof *root);
    for (int64_t i = 0; i < d && !status; i++) {
        double s = value[i] > 0 ? sqrt(value[i]) : 0; /* below 0: rounding of a 0 */
        const double *v = vector + i * d;
        for (int64_t k = 0; k < d; k++)
            for (int64_t j = 0; j < d; j++) root[k * d + j] += s * v[k] * v[j];
    }
    lgv_free(vector);
    lgv_free(value);
    return status;
}

/* tr (C1 C2)^(1/2) = tr (R2 C1 R2)^(1/2), R2 the root of C2: that matrix is symmetric. */
lgv_status lgv_frechet(int64_t d, const double *mean1, const double *covariance1,
                       const double *mean2, const double *root2, double trace2, double *out,
                       lgv_error *err)
{
    double *a = lgv_alloc((size_t)(d * d), 2 * sizeof *a);
    double *value = lgv_alloc((size_t)d, sizeof *value);
    lgv_status status = a && value ? LGV_OK : out_of_memory(d, err);
    if (!status) {
        double *b = a + d * d;
        multiply(d, root2, covariance1, b);
        multiply(d, b, root2, a);
        for (int64_t i = 0; i < d; i++)
            for (int64_t j = 0; j < i; j++)
                a[i * d + j] = a[j * d + i] = (a[i * d + j] + a[j * d + i]) / 2;
        status = lgv_symmetric_eigen(d, a, value, false, err);
    }
    double sum = trace2;
    for (int64_t i = 0; i < d && !status; i++) {
        double gap = mean1[i] - mean2[i];
        sum += gap * gap + covariance1[i * d + i] - 2 * (value[i] > 0 ? sqrt(value[i]) : 0);
    }
    lgv_free(a);
    lgv_free(value);
    if (!status) *out = sum > 0 ? sum : 0;
    return status;
}
