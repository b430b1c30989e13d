/* optimizer.c - the update in two passes over memory: the squares of the gradients (partial sums of fixed
   blocks, added in order, in double), then clipping, AdamW, EMA and (where gradients accumulate) zeroing together.
   The order of operations is torch.optim.AdamW's (single tensor), so that ten steps agree to rounding. */
#include "cpu/pointwise.h"

enum { PARTS = 1024, PART_MINIMUM = 16384, FLUSH = 64 /* vectors summed before going to double */ };

typedef struct adamw_work {
    const lgv_call *call;
    const lgv_range *range;
    int64_t part; /* elements of a block */
    double *squares;
    real clip, decay, lerp, beta2, rest2, sqrt_bias2, eps, step_size, ema;
    bool skip;
} adamw_work;

static void square_part(void *arg, int64_t block, int thread)
{
    const adamw_work *w = arg;
    const real *g = (const real *)w->range->grad;
    const int64_t end = lgv_min_i64((block + 1) * w->part, w->range->count);
    double total = 0;
    for (int64_t i = block * w->part; i < end;) {
        const int64_t stop = lgv_min_i64(end, i + FLUSH * 4 * VL);
        vreal s0 = v_zero(), s1 = v_zero(), s2 = v_zero(), s3 = v_zero();
        for (; i + 4 * VL <= stop; i += 4 * VL) {
            const vreal a = v_load(g + i), b = v_load(g + i + VL), c = v_load(g + i + 2 * VL),
                        d = v_load(g + i + 3 * VL);
            s0 = v_fma(a, a, s0);
            s1 = v_fma(b, b, s1);
            s2 = v_fma(c, c, s2);
            s3 = v_fma(d, d, s3);
        }
        for (; i < stop; i += VL) {
            const vreal a = v_get(g + i, stop - i);
            s0 = v_fma(a, a, s0);
        }
        i = stop;
        total += (double)v_sum(v_add(v_add(s0, s1), v_add(s2, s3)));
    }
    w->squares[block] = total;
}

static inline void update_vector(const adamw_work *w, int64_t i, int64_t n)
{
    const lgv_range *r = w->range;
    real *p = (real *)r->weight + i, *g = (real *)r->grad + i, *m = (real *)r->exp_avg + i,
         *v = (real *)r->exp_avg_sq + i;
    const vreal grad = v_mul(v_get(g, n), v_set1(w->clip));
    vreal weight = v_mul(v_get(p, n), v_set1(w->decay));
    const vreal m0 = v_get(m, n), m1 = v_add(m0, v_mul(v_set1(w->lerp), v_sub(grad, m0)));
    const vreal v1 =
        v_add(v_mul(v_get(v, n), v_set1(w->beta2)), v_mul(v_mul(v_set1(w->rest2), grad), grad));
    const vreal root = v_add(v_div(v_sqrt(v1), v_set1(w->sqrt_bias2)), v_set1(w->eps));
    weight = v_sub(weight, v_div(v_mul(v_set1(w->step_size), m1), root));
    v_put(p, weight, n);
    v_put(m, m1, n);
    v_put(v, v1, n);
    if (r->clears) v_put(g, v_zero(), n);
    if (r->ema) {
        real *e = (real *)r->ema + i;
        const vreal shadow = v_get(e, n);
        v_put(e, v_sub(shadow, v_mul(v_set1(w->ema), v_sub(shadow, weight))), n);
    }
}

static void update_part(void *arg, int64_t block, int thread)
{
    const adamw_work *w = arg;
    const int64_t begin = block * w->part, end = lgv_min_i64(begin + w->part, w->range->count);
    if (w->skip) {
        if (w->range->clears)
            memset((real *)w->range->grad + begin, 0, (size_t)(end - begin) * sizeof(real));
        return;
    }
    for (int64_t i = begin; i < end; i += VL) update_vector(w, i, end - i);
}

static void set_numbers(adamw_work *w, const double *s, double norm)
{
    const double most = s[LGV_SCALAR_MAX_NORM], clip = most > 0 ? most / (norm + 1e-6) : 1;
    w->clip = (real)(clip < 1 ? clip : 1);
    w->decay = (real)(1 - s[LGV_SCALAR_LR] * s[LGV_SCALAR_WEIGHT_DECAY]);
    w->lerp = (real)(1 - s[LGV_SCALAR_BETA1]);
    w->beta2 = (real)s[LGV_SCALAR_BETA2];
    w->rest2 = (real)(1 - s[LGV_SCALAR_BETA2]);
    w->sqrt_bias2 = (real)sqrt(s[LGV_SCALAR_BIAS2]);
    w->eps = (real)s[LGV_SCALAR_EPS];
    w->step_size = (real)(s[LGV_SCALAR_LR] / s[LGV_SCALAR_BIAS1]);
    w->ema = (real)(1 - s[LGV_SCALAR_EMA_DECAY]);
}

static void run_adamw(const lgv_call *c)
{
    adamw_work w = {.call = c, .range = &c->range, .squares = c->workspace};
    real *out = c->out[0].data;
    w.part = lgv_max_i64(PART_MINIMUM, lgv_ceil_div(lgv_ceil_div(c->range.count, PARTS), 64) * 64);
    const int64_t parts = lgv_ceil_div(c->range.count, w.part);
    lgv_parallel(c, parts, square_part, &w);
    double total = 0;
    for (int64_t i = 0; i < parts; i++) total += w.squares[i];
    const double norm = sqrt(total);
    w.skip = !isfinite(norm);
    set_numbers(&w, c->step->scalar, norm);
    lgv_parallel(c, parts, update_part, &w);
    if (w.skip && c->range.skipped) ++*c->range.skipped;
    if (out) {
        out[0] = (real)norm;
        out[1] = w.skip ? 1 : 0;
    }
}

static size_t workspace_adamw(const lgv_call *c)
{
    return PARTS * sizeof(double);
}

static const lgv_kernel kernels[] = {
    {.op = LGV_OP_adamw, .name = "plain", .workspace = workspace_adamw, .run = run_adamw}};
const lgv_kernel_list LGV_TABLE(optimizer) = {kernels, 1};
