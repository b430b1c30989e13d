/* eigen.c - eigenvalues of a symmetric matrix of a few hundred rows: Householder's reduction to
   tridiagonal form, then QR steps with Wilkinson's shift (Golub and Van Loan, Matrix Computations, 4th
   edition, algorithms 8.3.1 and 8.3.3). A hundred lines here instead of LAPACK, which would be the only
   reason to depend on it. */
#include <float.h>
#include <math.h>
#include <string.h>

#include "eval.h"

/* One Householder reflection I - beta v v^T that clears column k below the subdiagonal; v is left in that
   column, *beta beside it. */
static void reflect(int64_t n, int64_t k, double *a, double *v, double *w, double *beta,
                    double *subdiagonal)
{
    double norm = 0;
    for (int64_t i = k + 1; i < n; i++) norm += a[i * n + k] * a[i * n + k];
    norm = sqrt(norm);
    *beta = 0;
    *subdiagonal = a[(k + 1) * n + k];
    if (norm == 0) return;
    *subdiagonal = a[(k + 1) * n + k] > 0 ? -norm : norm;
    double square = 0, half = 0;
    for (int64_t i = k + 1; i < n; i++) {
        v[i] = a[i * n + k] - (i == k + 1 ? *subdiagonal : 0);
        square += v[i] * v[i];
    }
    *beta = 2 / square;
    for (int64_t i = k + 1; i < n; i++) {
        double sum = 0;
        for (int64_t j = k + 1; j < n; j++) sum += a[i * n + j] * v[j];
        w[i] = *beta * sum;
        half += w[i] * v[i];
    }
    half *= *beta / 2;
    for (int64_t i = k + 1; i < n; i++) w[i] -= half * v[i];
    for (int64_t i = k + 1; i < n; i++)
        for (int64_t j = k + 1; j < n; j++) a[i * n + j] -= v[i] * w[j] + w[i] * v[j];
    for (int64_t i = k + 1; i < n; i++) a[i * n + k] = v[i];
}

/* a becomes the transposed product of the reflections whose vectors stand in its columns. */
static void accumulate(int64_t n, double *a, const double *beta, double *q, double *t)
{
    memset(q, 0, (size_t)(n * n) * sizeof *q);
    for (int64_t i = 0; i < n; i++) q[i * n + i] = 1;
    for (int64_t k = n - 3; k >= 0; k--) {
        memset(t, 0, (size_t)n * sizeof *t);
        for (int64_t i = k + 1; i < n; i++)
            for (int64_t j = k + 1; j < n; j++) t[j] += a[i * n + k] * q[i * n + j];
        for (int64_t i = k + 1; i < n; i++)
            for (int64_t j = k + 1; j < n; j++) q[i * n + j] -= beta[k] * a[i * n + k] * t[j];
    }
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < n; j++) a[i * n + j] = q[j * n + i];
}

static void rotate_rows(int64_t n, double *a, double *b, double c, double s)
{
    for (int64_t i = 0; i < n; i++) {
        double x = a[i], y = b[i];
        a[i] = c * x + s * y;
        b[i] = c * y - s * x;
    }
}

/* One implicit QR step on rows low .. high of the tridiagonal (d, e). z (may be NULL): rows to rotate along. */
static void qr_step(int64_t n, int64_t low, int64_t high, double *d, double *e, double *z)
{
    double delta = (d[high - 1] - d[high]) / 2, last = e[high - 1];
    double shift = d[high] - last * last / (delta + copysign(hypot(delta, last), delta));
    double x = d[low] - shift, y = e[low];
    for (int64_t k = low; k < high; k++) {
        double r = hypot(x, y), c = r > 0 ? x / r : 1, s = r > 0 ? y / r : 0;
        double p = d[k], q = d[k + 1], off = e[k];
        if (k > low) e[k - 1] = r;
        d[k] = c * c * p + 2 * c * s * off + s * s * q;
        d[k + 1] = s * s * p - 2 * c * s * off + c * c * q;
        e[k] = c * s * (q - p) + (c * c - s * s) * off;
        x = e[k];
        if (k < high - 1) {
            y = s * e[k + 1];
            e[k + 1] *= c;
        }
        if (z) rotate_rows(n, z + k * n, z + (k + 1) * n, c, s);
    }
}

static lgv_status diagonalise(int64_t n, double *d, double *e, double *z, lgv_error *err)
{
    int64_t steps = 0;
    for (int64_t high = n - 1; high > 0;) {
        for (int64_t i = 0; i < high; i++)
            if (fabs(e[i]) <= DBL_EPSILON * (fabs(d[i]) + fabs(d[i + 1]))) e[i] = 0;
        if (e[high - 1] == 0) {
            high--;
            continue;
        }
        int64_t low = high - 1;
        while (low > 0 && e[low - 1] != 0) low--;
        if (steps++ > 60 * n)
            return lgv_fail(err, LGV_ERR_NUMERIC,
                            "the eigenvalues of a covariance of %lld rows do not converge",
                            (long long)n);
        qr_step(n, low, high, d, e, z);
    }
    return LGV_OK;
}

lgv_status lgv_symmetric_eigen(int64_t n, double *a, double *value, bool vectors, lgv_error *err)
{
    double *scratch = lgv_zalloc((size_t)(4 * n), sizeof *scratch);
    double *q = vectors ? lgv_alloc((size_t)(n * n), sizeof *q) : NULL;
    lgv_status status = LGV_OK;
    if (!scratch || (vectors && !q)) {
        status =
            lgv_fail(err, LGV_ERR_MEMORY, "out of memory for a matrix of %lld rows", (long long)n);
    } else {
        double *e = scratch, *beta = e + n, *v = beta + n, *w = v + n;
        for (int64_t k = 0; k < n - 1; k++) {
            value[k] = a[k * n + k];
            if (k < n - 2)
                reflect(n, k, a, v, w, &beta[k], &e[k]);
            else
                e[k] = a[(k + 1) * n + k];
        }
        value[n - 1] = a[n * n - 1];
        if (vectors) accumulate(n, a, beta, q, w);
        status = diagonalise(n, value, e, vectors ? a : NULL, err);
    }
    lgv_free(q);
    lgv_free(scratch);
    return status;
}
