/* layer_norm.c - layer normalisation of positions, forward and backward.
   A position's channels fit the first-level cache, so mean, variance and result are three walks over what is there.
   The backward pass takes TOKENS positions at a time: each gives dx, and the sums over them that become the gradients of
   gamma, beta, scale and shift, which are added up afterwards in fixed order. */
#include "cpu/pointwise.h"

enum { TOKENS = 32, TASK_ELEMENTS = 8192, REDUCE_CHANNELS = 64, LANES = 4 };

typedef struct work {
    const lgv_call *call;
    double eps;
    int64_t n, hw, channels, tasks, task;    /* task: positions of one */
    pixels x, y, dy;                         /* y: the output, dx in the backward pass */
    const real *gamma, *beta;                /* NULL: none */
    const lgv_tensor *scale, *shift;         /* NULL: none */
    const lgv_tensor *mean, *rstd;
    real *sums;                              /* [n][tasks][2][channels] */
    real *piece;                             /* of each thread */
    int64_t piece_size;
} work;

static const real *row_of(const lgv_tensor *t, int64_t n)
{
    return t ? (const real *)t->data + n * t->stride[0] : NULL;
}

/* The sum of the lanes, in fixed order. */
static double lanes_sum(const vreal s[LANES])
{
    real part[VL];
    double total = 0;
    v_store(part, v_add(v_add(s[0], s[1]), v_add(s[2], s[3])));
    for (int i = 0; i < VL; i++) total += (double)part[i];
    return total;
}

/* The sum of x, or with square of (x - m)^2; lanes beyond the channels count nothing. */
LGV_FOLD double sum_of(const real *x, int64_t count, real m, bool square)
{
    vreal s[LANES], centre = v_set1(m);
    LGV_UNROLL
    for (int k = 0; k < LANES; k++) s[k] = v_zero();
    int64_t c = 0;
    for (; c + LANES * VL <= count; c += LANES * VL) {
        LGV_UNROLL
        for (int k = 0; k < LANES; k++) {
            const vreal v = v_load(x + c + k * VL), d = v_sub(v, centre);
            s[k] = square ? v_fma(d, d, s[k]) : v_add(s[k], v);
        }
    }
    for (; c + VL <= count; c += VL) {
        const vreal v = v_load(x + c), d = v_sub(v, centre);
        s[0] = square ? v_fma(d, d, s[0]) : v_add(s[0], v);
    }
    double total = lanes_sum(s);
    for (; c < count; c++) {
        const double d = (double)x[c] - (double)m;
        total += square ? d * d : (double)x[c];
    }
    return total;
}

/* --- Forward --------------------------------------------------------------------------------------- */
/* factor and offset of row n: gamma*(1 + scale), beta*(1 + scale) + shift. */
static void row_affine(const work *w, int64_t n, real *factor, real *offset)
{
    const real *scale = row_of(w->scale, n), *shift = row_of(w->shift, n);
    for (int64_t c = 0; c < w->channels; c++) {
        const real one = scale ? 1 + scale[c] : 1;
        factor[c] = w->gamma ? w->gamma[c] * one : one;
        offset[c] = (w->beta ? w->beta[c] * one : 0) + (shift ? shift[c] : 0);
    }
}

static void token(const work *w, int64_t i, const real *factor, const real *offset, real *buffer)
{
    const int64_t count = w->channels, n = i / w->hw, p = i % w->hw;
    int64_t step = 0;
    const real *x = read_block(&w->x, pixel_at(&w->x, i, 0), &step, 1, count, buffer);
    void *to = pixel_at(&w->y, i, 0);
    real *y = w->y.dtype == LGV_BF16 ? buffer + count : to;
    const real m = (real)(sum_of(x, count, 0, false) / (double)count);
    const double variance = sum_of(x, count, m, true) / (double)count;
    const real r = (real)(1 / sqrt(variance + w->eps));
    if (w->mean->data) ((real *)w->mean->data)[n * w->mean->stride[0] + p * w->mean->stride[1]] = m;
    if (w->rstd->data) ((real *)w->rstd->data)[n * w->rstd->stride[0] + p * w->rstd->stride[1]] = r;
    const vreal centre = v_set1(m), deviation = v_set1(r);
    for (int64_t c = 0; c < count; c += VL) {
        const vreal e = v_mul(v_sub(v_get(x + c, count - c), centre), deviation);
        v_put(y + c, v_fma(e, v_get(factor + c, count - c), v_get(offset + c, count - c)), count - c);
    }
    write_block(&w->y, to, 0, 1, count, y);
}

static void forward_task(void *arg, int64_t index, int thread)
{
    const work *w = arg;
    const int64_t n = index / w->tasks, first = index % w->tasks * w->task,
                  last = lgv_min_i64(first + w->task, w->hw);
    real *factor = w->piece + thread * w->piece_size, *offset = factor + w->channels;
    row_affine(w, n, factor, offset);
    for (int64_t i = n * w->hw + first; i < n * w->hw + last; i++)
        token(w, i, factor, offset, offset + w->channels);
}

static work new_work(const lgv_call *c, const lgv_tensor *x)
{
    work w = {.call = c, .x = pixels_of(x), .y = pixels_of(&c->out[0])};
    w.n = w.x.a.n;
    w.hw = w.x.a.h * w.x.a.w;
    w.channels = w.x.a.c;
    w.piece = c->workspace;
    w.piece_size = lgv_ceil_div(4 * w.channels, 16) * 16;
    return w;
}

static size_t workspace_forward(const lgv_call *c)
{
    const work w = new_work(c, &c->in[0]);
    return (size_t)(c->threads * w.piece_size) * sizeof(real);
}

static const lgv_tensor *optional(const lgv_call *c, int i)
{
    return i < c->n_in && c->in[i].data ? &c->in[i] : NULL;
}

static const real *vector_of(const lgv_call *c, int i)
{
    const lgv_tensor *t = optional(c, i);
    return t ? t->data : NULL;
}

static void run_forward(const lgv_call *c)
{
    work w = new_work(c, &c->in[0]);
    w.eps = ((const lgv_attr_layer_norm *)c->attr)->eps;
    w.gamma = vector_of(c, 1);
    w.beta = vector_of(c, 2);
    w.scale = optional(c, 3);
    w.shift = optional(c, 4);
    w.mean = &c->out[1];
    w.rstd = &c->out[2];
    w.task = lgv_max_i64(1, TASK_ELEMENTS / w.channels);
    w.tasks = lgv_ceil_div(w.hw, w.task);
    lgv_parallel(c, w.n * w.tasks, forward_task, &w);
}

/* --- Backward --------------------------------------------------------------------------------------- */
/* One position: a += dy*e, b += dy with e the normalised x; dx = r (g - mean(g) - e mean(g e)), g = dy*factor. */
static void token_grad(const work *w, int64_t i, const real *factor, real *a, real *b, real *buffer)
{
    const int64_t count = w->channels, n = i / w->hw, p = i % w->hw;
    int64_t step = 0;
    const real *x = read_block(&w->x, pixel_at(&w->x, i, 0), &step, 1, count, buffer);
    const real *dy = read_block(&w->dy, pixel_at(&w->dy, i, 0), &step, 1, count, buffer + count);
    const real m = ((const real *)w->mean->data)[n * w->mean->stride[0] + p * w->mean->stride[1]];
    const real r = ((const real *)w->rstd->data)[n * w->rstd->stride[0] + p * w->rstd->stride[1]];
    const vreal centre = v_set1(m), deviation = v_set1(r);
    vreal s[2][LANES];
    for (int k = 0; k < LANES; k++) s[0][k] = s[1][k] = v_zero();
    for (int64_t c = 0, k = 0; c < count; c += VL, k = (k + 1) % LANES) {
        const int64_t some = count - c;
        const vreal e = v_mul(v_sub(v_get(x + c, some), centre), deviation), d = v_get(dy + c, some);
        const vreal g = v_mul(d, v_get(factor + c, some));
        v_put(a + c, v_fma(d, e, v_get(a + c, some)), some);
        v_put(b + c, v_add(d, v_get(b + c, some)), some);
        s[0][k] = v_add(s[0][k], g);
        s[1][k] = v_fma(g, e, s[1][k]); /* lanes beyond the channels: g is zero */
    }
    if (!w->y.data) return;
    const vreal mg = v_set1((real)(lanes_sum(s[0]) / (double)count)),
                mge = v_set1((real)(lanes_sum(s[1]) / (double)count));
    void *to = pixel_at(&w->y, i, 0);
    real *dx = w->y.dtype == LGV_BF16 ? buffer + 2 * count : to;
    for (int64_t c = 0; c < count; c += VL) {
        const int64_t some = count - c;
        const vreal e = v_mul(v_sub(v_get(x + c, some), centre), deviation);
        const vreal g = v_mul(v_get(dy + c, some), v_get(factor + c, some));
        v_put(dx + c, v_mul(deviation, v_sub(v_sub(g, mg), v_mul(e, mge))), some);
    }
    write_block(&w->y, to, 0, 1, count, dx);
}

static void backward_task(void *arg, int64_t index, int thread)
{
    const work *w = arg;
    const int64_t n = index / w->tasks, first = index % w->tasks * w->task,
                  last = lgv_min_i64(first + w->task, w->hw), channels = w->channels;
    const real *scale = row_of(w->scale, n);
    real *factor = w->piece + thread * w->piece_size, *a = w->sums + index * 2 * channels;
    memset(a, 0, (size_t)(2 * channels) * sizeof(real));
    for (int64_t c = 0; c < channels; c++)
        factor[c] = (w->gamma ? w->gamma[c] : 1) * (scale ? 1 + scale[c] : 1);
    for (int64_t i = n * w->hw + first; i < n * w->hw + last; i++)
        token_grad(w, i, factor, a, a + channels, factor + channels);
}

/* Sums over a row's tasks: dscale = a*gamma + b*beta, dshift = b; over rows dgamma = a*(1 + scale), dbeta likewise. */
static void reduce(void *arg, int64_t block, int thread)
{
    const work *w = arg;
    const lgv_tensor *out = w->call->out;
    (void)thread;
    for (int64_t c = block * REDUCE_CHANNELS;
         c < lgv_min_i64((block + 1) * REDUCE_CHANNELS, w->channels); c++) {
        double dgamma = 0, dbeta = 0;
        for (int64_t n = 0; n < w->n; n++) {
            const real *scale = row_of(w->scale, n);
            const double one = scale ? 1 + (double)scale[c] : 1;
            double a = 0, b = 0;
            for (int64_t t = n * w->tasks; t < (n + 1) * w->tasks; t++) {
                a += (double)w->sums[(2 * t) * w->channels + c];
                b += (double)w->sums[(2 * t + 1) * w->channels + c];
            }
            dgamma += a * one;
            dbeta += b * one;
            if (w->gamma) a = a * (double)w->gamma[c] + b * (double)w->beta[c];
            if (out[3].data) ((real *)out[3].data)[n * out[3].stride[0] + c] = (real)a;
            if (out[4].data) ((real *)out[4].data)[n * out[4].stride[0] + c] = (real)b;
        }
        if (out[1].data) ((real *)out[1].data)[c] = (real)dgamma;
        if (out[2].data) ((real *)out[2].data)[c] = (real)dbeta;
    }
}

static work backward_work(const lgv_call *c, int64_t *scratch)
{
    work w = new_work(c, &c->in[1]);
    w.dy = pixels_of(&c->in[0]);
    w.mean = &c->in[2];
    w.rstd = &c->in[3];
    w.gamma = vector_of(c, 4);
    w.beta = vector_of(c, 5);
    w.scale = optional(c, 6);
    w.task = TOKENS;
    w.tasks = lgv_ceil_div(w.hw, w.task);
    w.sums = w.piece + c->threads * w.piece_size;
    *scratch = c->threads * w.piece_size + w.n * w.tasks * 2 * w.channels;
    return w;
}

static size_t workspace_backward(const lgv_call *c)
{
    int64_t scratch;
    (void)backward_work(c, &scratch);
    return (size_t)scratch * sizeof(real);
}

static void run_backward(const lgv_call *c)
{
    int64_t scratch;
    work w = backward_work(c, &scratch);
    lgv_parallel(c, w.n * w.tasks, backward_task, &w);
    bool sums = false;
    for (int k = 1; k < 5; k++) sums = sums || c->out[k].data;
    if (sums) lgv_parallel(c, lgv_ceil_div(w.channels, REDUCE_CHANNELS), reduce, &w);
}

static const lgv_kernel kernels[] = {
    {.op = LGV_OP_layer_norm,
     .name = "plain",
     .bf16 = true,
     .workspace = workspace_forward,
     .run = run_forward},
    {.op = LGV_OP_layer_norm_grad,
     .name = "plain",
     .bf16 = true,
     .workspace = workspace_backward,
     .run = run_backward},
};
const lgv_kernel_list LGV_TABLE(layer_norm) = {kernels, sizeof kernels / sizeof kernels[0]};
