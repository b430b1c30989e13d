/* sampler.c - one sampler step with each row's own coefficients, and dynamic thresholding
   (arXiv 2205.11487, sec. 2.3): x0 is clipped to the q-quantile s of |x0| of its row and divided by s. */
#include "cpu/pointwise.h"

typedef struct step_work {
    const lgv_call *call;
    pixels x, out, z, history, gradient, next, x0, kept;
} step_work;

static inline vreal predict(vreal x, vreal out, const float *k)
{
    return v_add(v_mul(v_set1((real)k[LGV_SAMPLE_A]), x),
                 v_mul(v_set1((real)k[LGV_SAMPLE_B]), out));
}

/* The gradient at pixel i; NULL: the row has none (0 * a masked row's NaN would be NaN). */
static const real *gradient_at(const step_work *w, int64_t i, const float *k)
{
    const bool used = k[LGV_SAMPLE_GUIDE] != 0 || k[LGV_SAMPLE_GUIDE_VARIANCE] != 0;
    return used && w->gradient.data ? w->gradient.data + pixel_offset(&w->gradient, i) : NULL;
}

/* --- Quantile ------------------------------------------------------------------------------------- */
/* How many |x0| of row n are <= limit, and the smallest one above it. */
static int64_t count_below(const step_work *w, int64_t n, const float *k, real limit, real *above)
{
    const int64_t hw = w->x.a.h * w->x.a.w, c = w->x.a.c;
    int64_t count = 0;
    *above = (real)INFINITY;
    for (int64_t i = n * hw; i < (n + 1) * hw; i++) {
        const real *x = w->x.data + pixel_offset(&w->x, i),
                   *out = w->out.data + pixel_offset(&w->out, i);
        for (int64_t j = 0; j < c; j++) {
            const real a = (real)k[LGV_SAMPLE_A] * x[j] + (real)k[LGV_SAMPLE_B] * out[j],
                       v = a < 0 ? -a : a;
            if (v <= limit)
                count++;
            else if (v < *above)
                *above = v;
        }
    }
    return count;
}

#ifdef LGV_LEVEL_F64
typedef uint64_t real_bits;
static const real_bits largest_bits = 0x7ff0000000000000u;
#else
typedef uint32_t real_bits;
static const real_bits largest_bits = 0x7f800000u;
#endif

static real real_of(real_bits bits)
{
    real v;
    memcpy(&v, &bits, sizeof v);
    return v;
}

/* torch.quantile(|x0|, q) with linear interpolation. Numbers that are not negative order as their bits do,
   so the k-th smallest is found by bisection on bits: no scratch memory, no sorting. */
static real quantile(const step_work *w, int64_t n, const float *k)
{
    const int64_t count = w->x.a.h * w->x.a.w * w->x.a.c;
    const double position = (double)k[LGV_SAMPLE_THRESHOLD_RATIO] * (double)(count - 1);
    const int64_t rank = lgv_max_i64(0, lgv_min_i64(count - 1, (int64_t)position));
    real_bits low = 0, high = largest_bits;
    real above;
    while (low < high) {
        const real_bits middle = low + (high - low) / 2;
        if (count_below(w, n, k, real_of(middle), &above) > rank)
            high = middle;
        else
            low = middle + 1;
    }
    const real first = real_of(low);
    const bool repeated = count_below(w, n, k, first, &above) > rank + 1;
    const real second = repeated || rank + 1 >= count ? first : above;
    return first + (real)(position - (double)rank) * (second - first);
}

/* --- The step -------------------------------------------------------------------------------------- */
/* What is the same for all pixels of a row. */
typedef struct step_coef {
    vreal limit, divisor, c, d, e, s, keep[3], v0, v1, guide, guide_variance;
    int slots, variance; /* 0: s, 1: s*exp(v0 + v1*v), 2: s*sqrt(v) */
    bool noise;
} step_coef;

static step_coef step_coef_of(const step_work *w, const float *k, real limit, real divisor)
{
    const int64_t c = w->x.a.c;
    const float variance = k[LGV_SAMPLE_VARIANCE];
    step_coef f = {.limit = v_set1(limit),
                   .divisor = v_set1(divisor),
                   .c = v_set1((real)k[LGV_SAMPLE_C]),
                   .d = v_set1((real)k[LGV_SAMPLE_D]),
                   .e = v_set1((real)k[LGV_SAMPLE_E]),
                   .s = v_set1((real)k[LGV_SAMPLE_S]),
                   .v0 = v_set1((real)k[LGV_SAMPLE_V0]),
                   .v1 = v_set1((real)k[LGV_SAMPLE_V1]),
                   .guide = v_set1((real)k[LGV_SAMPLE_GUIDE]),
                   .guide_variance = v_set1((real)k[LGV_SAMPLE_GUIDE_VARIANCE])};
    for (int i = 0; i < 3; i++) f.keep[i] = v_set1((real)k[LGV_SAMPLE_KEEP_X0 + i]);
    f.slots = w->history.data ? (int)(w->history.a.c / c) : 0;
    f.noise = w->z.data && k[LGV_SAMPLE_S] != 0; /* 0 * a masked row's NaN would be NaN */
    if (w->out.a.c == 2 * c) f.variance = variance > 1 ? 2 : variance > 0;
    return f;
}

/* Standard deviation of the noise; v: the network's second half. */
static inline vreal deviation(const step_coef *f, const real *v, int64_t n)
{
    if (f->variance == 1) return v_mul(f->s, v_exp(v_add(f->v0, v_mul(f->v1, v_get(v, n)))));
    return f->variance == 2 ? v_mul(f->s, v_sqrt(v_get(v, n))) : f->s;
}

static void step_pixels(const step_work *w, int64_t begin, int64_t end, const float *k,
                        const step_coef *f)
{
    const int64_t c = w->x.a.c;
    for (int64_t i = begin; i < end; i++) {
        const real *x = w->x.data + pixel_offset(&w->x, i),
                   *out = w->out.data + pixel_offset(&w->out, i);
        const real *z = f->noise ? w->z.data + pixel_offset(&w->z, i) : NULL;
        const real *past = f->slots ? w->history.data + pixel_offset(&w->history, i) : NULL,
                   *g = gradient_at(w, i, k);
        real *next = w->next.data ? w->next.data + pixel_offset(&w->next, i) : NULL;
        real *x0 = w->x0.data ? w->x0.data + pixel_offset(&w->x0, i) : NULL;
        real *kept = w->kept.data ? w->kept.data + pixel_offset(&w->kept, i) : NULL;
        for (int64_t j = 0; j < c; j += VL) {
            const int64_t n = c - j;
            const vreal vx = v_get(x + j, n), vo = v_get(out + j, n);
            vreal p = v_max(v_neg(f->limit), v_min(f->limit, predict(vx, vo, k))); /* NaN passes */
            p = v_div(p, f->divisor);
            vreal y = v_add(v_add(v_mul(f->c, p), v_mul(f->d, vx)), v_mul(f->e, vo));
            if (z) y = v_add(y, v_mul(deviation(f, out + c + j, n), v_get(z + j, n)));
            if (g) {
                const vreal s = deviation(f, out + c + j, n);
                y = v_add(y, v_mul(v_add(f->guide, v_mul(f->guide_variance, v_mul(s, s))),
                                   v_get(g + j, n)));
            }
            for (int s = 0; s < f->slots; s++) {
                const real h = (real)k[LGV_SAMPLE_H + s];
                if (h != 0) y = v_add(y, v_mul(v_set1(h), v_get(past + s * c + j, n)));
            }
            if (kept)
                v_put(kept + j,
                      v_add(v_add(v_mul(f->keep[0], p), v_mul(f->keep[1], vx)),
                            v_mul(f->keep[2], vo)),
                      n);
            if (next) v_put(next + j, y, n);
            if (x0) v_put(x0 + j, p, n);
        }
    }
}

static void step_row(void *arg, int64_t n, int thread)
{
    const step_work *w = arg;
    const float *k = w->call->step->row[n].coef;
    const int64_t hw = w->x.a.h * w->x.a.w;
    real limit = (real)k[LGV_SAMPLE_CLIP], divisor = 1;
    if (k[LGV_SAMPLE_THRESHOLD] != 0) {
        const real s = quantile(w, n, k), most = (real)k[LGV_SAMPLE_THRESHOLD_MAX];
        limit = s < 1 ? 1 : s;
        if (limit > most) limit = most; /* also when it is below 1, as torch.clamp */
        divisor = limit;
    }
    const step_coef f = step_coef_of(w, k, limit, divisor);
    step_pixels(w, n * hw, (n + 1) * hw, k, &f);
}

static void run_sampler_step(const lgv_call *c)
{
    step_work w = {.call = c,
                   .x = pixels_of(&c->in[0]),
                   .out = pixels_of(&c->in[1]),
                   .next = pixels_of(&c->out[0]),
                   .x0 = pixels_of(&c->out[1]),
                   .kept = pixels_of(&c->out[2])};
    if (c->n_in > 2 && c->in[2].data) w.z = pixels_of(&c->in[2]);
    if (c->n_in > 3 && c->in[3].data) w.history = pixels_of(&c->in[3]);
    if (c->n_in > 4) w.gradient = pixels_of(&c->in[4]);
    lgv_parallel(c, w.x.a.n, step_row, &w);
}

static const lgv_kernel kernels[] = {
    {.op = LGV_OP_sampler_step, .name = "plain", .run = run_sampler_step}};
const lgv_kernel_list LGV_TABLE(sampler) = {kernels, 1};
