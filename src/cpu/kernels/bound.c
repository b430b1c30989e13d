/* bound.c - the terms of the variational bound and their gradient (arXiv 2006.11239, eq. 5, 8 and 13).
   All in double with the library's own elementary functions, one element after the other: bits are a
   small number divided by many, and the picture is small beside the network that made `out`. */
#include "core/elementary.h"
#include "cpu/pointwise.h"

static const double ln2 = 0.693147180559945309417;

typedef struct vb_work {
    const lgv_call *call;
    pixels out, x_t, x0, d; /* d: of the gradient only */
    bool learned, detach_mean;
} vb_work;

/* One element: its term in nats and the derivatives for the predicted x0 and the log variance. */
typedef struct term {
    double nats, d_x0, d_log_var;
} term;

/* KL divergence of two normal distributions whose means differ by c1 (x0 - predicted). */
static term kl(const float *k, double difference, double log_var)
{
    const double c1 = (double)k[LGV_TRAIN_VB_MEAN], truth = (double)k[LGV_TRAIN_VB_LOG_VAR];
    const double inverse = lgv_exp(-log_var), ratio = lgv_exp(truth - log_var);
    const double square = c1 * c1 * difference * difference * inverse;
    return (term){.nats = 0.5 * (-1 + log_var - truth + ratio + square),
                  .d_x0 = -c1 * c1 * difference * inverse,
                  .d_log_var = 0.5 * (1 - ratio - square)};
}

/* The normal distribution function by its tanh approximation (Page, Applied Statistics 26 (1977)), as in the
   codes whose figures are compared, and its derivative. */
static double normal_cdf(double u, double *derivative)
{
    const double slope = 0.797884560802865356; /* sqrt(2/pi) */
    const double t = lgv_tanh(slope * (u + 0.044715 * u * u * u));
    *derivative = 0.5 * (1 - t * t) * slope * (1 + 3 * 0.044715 * u * u);
    return 0.5 * (1 + t);
}

/* -log of the probability of x0's level, 1/255 to either side of it; the outermost levels reach to infinity. */
static term decoder(const float *k, double x0, double difference, double log_var)
{
    const double c1 = (double)k[LGV_TRAIN_VB_MEAN], least = 1e-12;
    const double inverse = lgv_exp(-0.5 * log_var), middle = c1 * difference;
    const double high = (middle + 1.0 / 255) * inverse, low = (middle - 1.0 / 255) * inverse;
    double d_high, d_low, p_high = normal_cdf(high, &d_high), p_low = normal_cdf(low, &d_low);
    if (x0 < -0.999) p_low = d_low = 0;
    if (x0 > 0.999) p_high = 1, d_high = 0;
    const double p = p_high - p_low;
    if (!(p > least)) return (term){.nats = p <= least ? -lgv_log(least) : p};
    return (term){.nats = -lgv_log(p),
                  .d_x0 = (d_high - d_low) * inverse * c1 / p,
                  .d_log_var = 0.5 * (d_high * high - d_low * low) / p};
}

/* Element j of a pixel, *inside: whether the predicted x0 was not clipped. */
static term element(const vb_work *w, const float *k, const real *out, const real *x_t,
                    const real *x0, int64_t j, bool *inside)
{
    const double clip = (double)k[LGV_TRAIN_VB_CLIP];
    double predicted =
        (double)k[LGV_TRAIN_VB_A] * (double)x_t[j] + (double)k[LGV_TRAIN_VB_B] * (double)out[j];
    double log_var = (double)k[LGV_TRAIN_VB_LOG_VAR_SHIFT];
    *inside = !(predicted > clip || predicted < -clip);
    if (!*inside) predicted = predicted > 0 ? clip : -clip;
    if (w->learned)
        log_var += (double)k[LGV_TRAIN_VB_LOG_VAR_SCALE] * (double)out[w->x_t.a.c + j];
    const double difference = (double)x0[j] - predicted;
    return k[LGV_TRAIN_VB_DECODER] != 0 ? decoder(k, (double)x0[j], difference, log_var)
                                        : kl(k, difference, log_var);
}

static vb_work work_of(const lgv_call *c)
{
    const lgv_attr_vb *a = c->attr;
    vb_work w = {.call = c,
                 .out = pixels_of(&c->in[0]),
                 .x_t = pixels_of(&c->in[1]),
                 .x0 = pixels_of(&c->in[2]),
                 .detach_mean = a->detach_mean};
    w.learned = w.out.a.c != w.x_t.a.c;
    return w;
}

static void vb_row(void *arg, int64_t n, int thread)
{
    const vb_work *w = arg;
    const float *k = w->call->step->row[n].coef;
    const int64_t c = w->x_t.a.c, hw = w->x_t.a.h * w->x_t.a.w;
    double total = 0;
    bool inside;
    for (int64_t i = n * hw; i < (n + 1) * hw; i++)
        for (int64_t j = 0; j < c; j++)
            total += element(w, k, pixel_at(&w->out, i, 0), pixel_at(&w->x_t, i, 0),
                             pixel_at(&w->x0, i, 0), j, &inside)
                         .nats;
    const lgv_tensor *y = &w->call->out[0];
    ((real *)y->data)[n * y->stride[0]] = (real)(total / (double)(hw * c) / ln2);
}

static void run_vb_rows(const lgv_call *c)
{
    vb_work w = work_of(c);
    lgv_parallel(c, w.x_t.a.n, vb_row, &w);
}

static void vb_grad_row(void *arg, int64_t n, int thread)
{
    const vb_work *w = arg;
    const float *k = w->call->step->row[n].coef;
    const int64_t c = w->x_t.a.c, hw = w->x_t.a.h * w->x_t.a.w;
    const lgv_tensor *dl = &w->call->in[3];
    const double scale = (double)((const real *)dl->data)[n * dl->stride[0]] / ((double)(hw * c) * ln2);
    const double to_mean = w->detach_mean ? 0 : scale * (double)k[LGV_TRAIN_VB_B],
                 to_variance = scale * (double)k[LGV_TRAIN_VB_LOG_VAR_SCALE];
    for (int64_t i = n * hw; i < (n + 1) * hw; i++) {
        const real *out = pixel_at(&w->out, i, 0);
        real *d = pixel_at(&w->d, i, 0);
        for (int64_t j = 0; j < c; j++) {
            bool inside;
            const term t = element(w, k, out, pixel_at(&w->x_t, i, 0), pixel_at(&w->x0, i, 0), j,
                                   &inside);
            d[j] = inside && to_mean != 0 ? (real)(to_mean * t.d_x0) : 0;
            if (w->learned) d[c + j] = (real)(to_variance * t.d_log_var);
        }
    }
}

static void run_vb_rows_grad(const lgv_call *c)
{
    vb_work w = work_of(c);
    w.d = pixels_of(&c->out[0]);
    lgv_parallel(c, w.x_t.a.n, vb_grad_row, &w);
}

static const lgv_kernel kernels[] = {
    {.op = LGV_OP_vb_rows, .name = "plain", .run = run_vb_rows},
    {.op = LGV_OP_vb_rows_grad, .name = "plain", .run = run_vb_rows_grad},
};
const lgv_kernel_list LGV_TABLE(bound) = {kernels, sizeof kernels / sizeof kernels[0]};
