/* loss.c - squared error and cross-entropy per row, and the weighted sum of rows.
   The lanes of a vector sum over pixels in order and go to a double every 64 pixels: the bits depend on
   neither strides nor threads, and the error not on the size of the picture. */
#include "cpu/pointwise.h"

enum { FLUSH_PIXELS = 64 };

typedef struct mse_work {
    const lgv_call *call;
    pixels pred, target;
} mse_work;

static void mse_row(void *arg, int64_t n, int thread)
{
    const mse_work *w = arg;
    const int64_t c = w->pred.a.c, hw = w->pred.a.h * w->pred.a.w;
    double total = 0;
    for (int64_t i = n * hw; i < (n + 1) * hw;) {
        const int64_t end = lgv_min_i64(i + FLUSH_PIXELS, (n + 1) * hw);
        vreal sum = v_zero();
        for (; i < end; i++) {
            const real *a = w->pred.data + pixel_offset(&w->pred, i),
                       *b = w->target.data + pixel_offset(&w->target, i);
            for (int64_t k = 0; k < c; k += VL) {
                const vreal d = v_sub(v_get(a + k, c - k), v_get(b + k, c - k));
                sum = v_fma(d, d, sum);
            }
        }
        total += (double)v_sum(sum);
    }
    const lgv_tensor *y = &w->call->out[0];
    ((real *)y->data)[n * y->stride[0]] = (real)(total / (double)(hw * c));
}

static void run_mse_rows(const lgv_call *c)
{
    mse_work w = {c, pixels_of(&c->in[0]), pixels_of(&c->in[1])};
    lgv_parallel(c, w.pred.a.n, mse_row, &w);
}

static void body_mse_grad(const span_work *w, const span *s)
{
    const real *a = s->p[0], *b = s->p[1];
    real *d = s->p[2];
    const lgv_tensor *dl = &w->call->in[2];
    const vreal scale =
        v_set1((real)(2.0 / w->number[0] * (double)((const real *)dl->data)[s->n * dl->stride[0]]));
    for (int64_t i = 0; i < s->len; i += VL) {
        const int64_t n = s->len - i;
        v_put(d + i, v_mul(scale, v_sub(v_get(a + i, n), v_get(b + i, n))), n);
    }
}

static void run_mse_rows_grad(const lgv_call *c)
{
    const lgv_nhwc a = lgv_as_nhwc(&c->in[0]);
    span_work w = {.call = c,
                   .operand = {&c->in[0], &c->in[1], &c->out[0]},
                   .count = 3,
                   .body = body_mse_grad,
                   .number = {(double)(a.h * a.w * a.c), 0}};
    run_spans(&w, true);
}

/* Sum of exp(x - largest) over a row; whole vectors first. A NaN in x is one in the sum. */
static real sum_of_exp(const real *x, int64_t k, real *largest)
{
    vreal sum = v_zero();
    *largest = x[0];
    for (int64_t i = 1; i < k; i++)
        if (x[i] > *largest) *largest = x[i];
    const int64_t whole = k / VL * VL;
    for (int64_t i = 0; i < whole; i += VL)
        sum = v_add(sum, v_exp(v_sub(v_load(x + i), v_set1(*largest))));
    real total = v_sum(sum);
    for (int64_t i = whole; i < k; i++) total += r_exp(x[i] - *largest);
    return total;
}

/* A row of logits x[k] with its label, -1 for one outside of them. */
typedef struct labelled {
    const real *x;
    int64_t k;
    int32_t label;
} labelled;

static labelled labelled_row(const lgv_call *c, int64_t n)
{
    const labelled r = {.x = (const real *)c->in[0].data + n * c->in[0].stride[0],
                        .k = c->in[0].dim[1],
                        .label = ((const int32_t *)c->in[1].data)[n * c->in[1].stride[0]]};
    return r.label < r.k ? r : (labelled){r.x, r.k, -1};
}

static void cross_entropy_row(void *arg, int64_t n, int thread)
{
    const lgv_call *c = arg;
    const labelled r = labelled_row(c, n);
    real *y = (real *)c->out[0].data + n * c->out[0].stride[0], largest;
    *y = 0;
    if (r.label < 0) return;
    const real sum = sum_of_exp(r.x, r.k, &largest);
    *y = (real)lgv_log((double)sum) + (largest - r.x[r.label]);
}

static void run_cross_entropy(const lgv_call *c)
{
    lgv_parallel(c, c->in[0].dim[0], cross_entropy_row, (void *)(uintptr_t)c);
}

static void cross_entropy_grad_row(void *arg, int64_t n, int thread)
{
    const lgv_call *c = arg;
    const labelled r = labelled_row(c, n);
    const real dl = ((const real *)c->in[2].data)[n * c->in[2].stride[0]];
    real *d = (real *)c->out[0].data + n * c->out[0].stride[0], largest = 0;
    const bool outside = r.label < 0;
    const real scale = outside ? 0 : dl / sum_of_exp(r.x, r.k, &largest);
    for (int64_t i = 0; i < r.k; i += VL) {
        const vreal e = v_exp(v_sub(v_get(r.x + i, r.k - i), v_set1(largest)));
        v_put(d + i, outside ? v_zero() : v_mul(v_set1(scale), e), r.k - i);
    }
    if (!outside) d[r.label] -= dl;
}

static void run_cross_entropy_grad(const lgv_call *c)
{
    lgv_parallel(c, c->in[0].dim[0], cross_entropy_grad_row, (void *)(uintptr_t)c);
}

/* A row of weight 0 is masked: whatever it holds (NaN too) does not count. */
static void run_weighted_sum(const lgv_call *c)
{
    const real *x = c->in[0].data, *w = c->in[1].data;
    double total = 0;
    for (int64_t n = 0; n < c->in[0].dim[0]; n++) {
        const real weight = w[n * c->in[1].stride[0]];
        if (weight != 0) total += (double)weight * (double)x[n * c->in[0].stride[0]];
    }
    *(real *)c->out[0].data = (real)total;
}

static void run_weighted_sum_grad(const lgv_call *c)
{
    const real dl = *(const real *)c->in[0].data, *w = c->in[1].data;
    real *d = c->out[0].data;
    for (int64_t n = 0; n < c->in[1].dim[0]; n++)
        d[n * c->out[0].stride[0]] = dl * w[n * c->in[1].stride[0]];
}

static const lgv_kernel kernels[] = {
    {.op = LGV_OP_mse_rows, .name = "plain", .run = run_mse_rows},
    {.op = LGV_OP_mse_rows_grad, .name = "plain", .run = run_mse_rows_grad},
    {.op = LGV_OP_cross_entropy_rows, .name = "plain", .run = run_cross_entropy},
    {.op = LGV_OP_cross_entropy_rows_grad, .name = "plain", .run = run_cross_entropy_grad},
    {.op = LGV_OP_weighted_sum, .name = "plain", .run = run_weighted_sum},
    {.op = LGV_OP_weighted_sum_grad, .name = "plain", .run = run_weighted_sum_grad},
};
const lgv_kernel_list LGV_TABLE(loss) = {kernels, sizeof kernels / sizeof kernels[0]};
