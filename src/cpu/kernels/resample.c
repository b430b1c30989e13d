/* resample.c - resolution times 2 or 1/2. Every kind and every adjoint is one of two separable forms with
   four taps t:
     gather  y[o] = sum_k t[k] x[2o + k - 1]                              (large -> small)
     spread  y[2q] = t[1] x[q] + t[3] x[q-1],  y[2q+1] = t[2] x[q] + t[0] x[q+1]   (small -> large)
   with zeros outside, or with the border reflected: x[-1] = x[1], x[H] = x[H-2]. They are each other's adjoints, so
   only the taps differ; the adjoint of a reflection gives positions 1 and H-2 also what -1 and H would get. FIR: StyleGAN2
   (arXiv 1912.04958, app. B) with kernel [1,3,3,1]/8, times 2 a dimension when going up. */
#include "cpu/pointwise.h"

typedef struct resample_work {
    const lgv_call *call;
    pixels x, y;
    real tap[4];
    bool spread;
    bool reflect, unreflect; /* reads across the border; the adjoint of that */
} resample_work;

enum { MAX_TAPS = 8 }; /* 4, or with unreflect up to 2 more at each border */

/* Adds the taps of output position o (which unreflect asks for outside the output too); returns their number. */
static int add_taps(const resample_work *w, int64_t o, int64_t size, int64_t *at, real *weight,
                    int count)
{
    for (int k = 0; k < 4; k++) {
        int64_t source = 2 * o + k - 1;
        if (w->spread) {
            if ((o + k) % 2 == 0) continue; /* even o: taps 1 and 3, odd: 0 and 2 */
            source = (o + 1 - k) / 2;       /* exact */
        }
        if (w->reflect && source == -1)
            source = 1;
        else if (w->reflect && source == size)
            source = size - 2;
        if (w->tap[k] == 0 || source < 0 || source >= size) continue;
        at[count] = source;
        weight[count++] = w->tap[k];
    }
    return count;
}

/* Source positions and weights of output position o of `length` along one dimension of `size` sources. */
static int find_taps(const resample_work *w, int64_t o, int64_t length, int64_t size,
                     int64_t at[MAX_TAPS], real weight[MAX_TAPS])
{
    int count = add_taps(w, o, size, at, weight, 0);
    if (w->unreflect && o == 1) count = add_taps(w, -1, size, at, weight, count);
    if (w->unreflect && o == length - 2) count = add_taps(w, length, size, at, weight, count);
    return count;
}

/* y = sum of weight[i] * source[i] over channels. */
LGV_FOLD void combine(void *y, int64_t channels, int count, const void *const *source,
                      const real *weight, bool bf16)
{
    const int64_t size = bf16 ? (int64_t)sizeof(uint16_t) : (int64_t)sizeof(real);
    for (int64_t c = 0; c < channels; c += VL) {
        const int64_t n = channels - c;
        vreal sum = v_zero();
        for (int i = 0; i < count; i++) {
            const vreal x = v_get_typed((const char *)source[i] + c * size, n, bf16);
            sum = i ? v_fma(v_set1(weight[i]), x, sum) : v_mul(v_set1(weight[0]), x);
        }
        v_put_typed((char *)y + c * size, sum, n, bf16);
    }
}

/* One row of pixels of the output. */
static void resample_line(void *arg, int64_t line, int thread)
{
    const resample_work *w = arg;
    const lgv_nhwc *x = &w->x.a, *y = &w->y.a;
    const int64_t n = line / y->h, row = line % y->h;
    int64_t row_at[MAX_TAPS], column_at[MAX_TAPS];
    real row_weight[MAX_TAPS], column_weight[MAX_TAPS], weight[MAX_TAPS * MAX_TAPS];
    const void *source[MAX_TAPS * MAX_TAPS];
    const int64_t size = (int64_t)lgv_real_size(w->x.dtype);
    const int rows = find_taps(w, row, y->h, x->h, row_at, row_weight);
    for (int64_t column = 0; column < y->w; column++) {
        const int columns = find_taps(w, column, y->w, x->w, column_at, column_weight);
        int count = 0;
        for (int i = 0; i < rows; i++) {
            for (int j = 0; j < columns; j++) {
                source[count] = (const char *)w->x.data +
                                (n * x->sn + row_at[i] * x->sh + column_at[j] * x->sw) * size;
                weight[count++] = row_weight[i] * column_weight[j];
            }
        }
        void *to = (char *)w->y.data + (n * y->sn + row * y->sh + column * y->sw) * size;
        if (w->x.dtype == LGV_BF16)
            combine(to, y->c, count, source, weight, true);
        else
            combine(to, y->c, count, source, weight, false);
    }
}

static void run_taps(const lgv_call *c, bool spread, const real tap[4])
{
    const int kind = ((const lgv_attr_resample *)c->attr)->kind;
    const bool reflects = kind == LGV_UP_FIR_REFLECT || kind == LGV_DOWN_FIR_REFLECT,
               adjoint = c->op == LGV_OP_resample_grad;
    resample_work w = {.call = c,
                       .x = pixels_of(&c->in[0]),
                       .y = pixels_of(&c->out[0]),
                       .spread = spread,
                       .reflect = reflects && !adjoint,
                       .unreflect = reflects && adjoint};
    memcpy(w.tap, tap, sizeof w.tap);
    lgv_parallel(c, w.y.a.n * w.y.a.h, resample_line, &w);
}

static const real ones[4] = {0, 1, 1, 0}, halves[4] = {0, (real)0.5, (real)0.5, 0};
static const real fir[4] = {(real)0.125, (real)0.375, (real)0.375, (real)0.125};
static const real fir2[4] = {(real)0.25, (real)0.75, (real)0.75, (real)0.25};

static void run_resample(const lgv_call *c)
{
    switch (((const lgv_attr_resample *)c->attr)->kind) {
    case LGV_UP_NEAREST: run_taps(c, true, ones); break;
    case LGV_DOWN_AVERAGE: run_taps(c, false, halves); break;
    case LGV_UP_FIR:
    case LGV_UP_FIR_REFLECT: run_taps(c, true, fir2); break;
    default: run_taps(c, false, fir); break;
    }
}

static void run_resample_grad(const lgv_call *c)
{
    switch (((const lgv_attr_resample *)c->attr)->kind) {
    case LGV_UP_NEAREST: run_taps(c, false, ones); break;
    case LGV_DOWN_AVERAGE: run_taps(c, true, halves); break;
    case LGV_UP_FIR:
    case LGV_UP_FIR_REFLECT: run_taps(c, false, fir2); break;
    default: run_taps(c, true, fir); break;
    }
}

static const lgv_kernel kernels[] = {
    {.op = LGV_OP_resample, .name = "plain", .bf16 = true, .run = run_resample},
    {.op = LGV_OP_resample_grad, .name = "plain", .bf16 = true, .run = run_resample_grad},
};
const lgv_kernel_list LGV_TABLE(resample) = {kernels, sizeof kernels / sizeof kernels[0]};
