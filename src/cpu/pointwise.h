/* pointwise.h - walking over strided activations: equal-shaped operands as contiguous spans, pixels as
   addresses; bf16 storage; and the derivatives of the activations.
   Arithmetic is always on `real`: a bf16 operand is widened into a piece of first-level cache beforehand and rounded
   from there afterwards, which costs little beside the memory it saves.
   Work is cut into blocks of pixels by shape alone. A vector function gives each lane the same bits
   wherever its span begins or ends, so elementwise results depend on neither blocks nor strides. */
#ifndef LGV_POINTWISE_H
#define LGV_POINTWISE_H

#include "cpu/simd.h"
#include "plan/backend.h"

enum {
    SPAN_OPERANDS = 4,
    SPAN_ELEMENTS = 8192, /* of one block: 32 KiB a float operand */
    WIDE_ELEMENTS = 1024  /* of a bf16 operand widened at a time */
};

/* Vectors of n <= VL elements; whole ones take the unmasked instruction. */
static inline vreal v_get(const real *p, int64_t n)
{
    return n >= VL ? v_load(p) : v_load_n(p, n);
}
static inline void v_put(real *p, vreal a, int64_t n)
{
    if (n >= VL)
        v_store(p, a);
    else
        v_store_n(p, a, n);
}

static inline size_t lgv_real_size(lgv_dtype dtype)
{
    return dtype == LGV_F32 ? sizeof(real) : dtype == LGV_BF16 ? sizeof(uint16_t) : sizeof(int32_t);
}

/* --- bf16 storage ---------------------------------------------------------------------------------- */
static inline void widen(real *to, const uint16_t *from, int64_t n)
{
    const int64_t whole = n / VL * VL; /* the bf16 vectors have no masked form */
    for (int64_t i = 0; i < whole; i += VL) v_store(to + i, v_load_bf16(from + i));
    for (int64_t i = whole; i < n; i++) to[i] = bf16_to_real(from[i]);
}

static inline void narrow(uint16_t *to, const real *from, int64_t n)
{
    const int64_t whole = n / VL * VL;
    for (int64_t i = 0; i < whole; i += VL) v_store_bf16(to + i, v_load(from + i));
    for (int64_t i = whole; i < n; i++) to[i] = real_to_bf16(from[i]);
}

/* --- Pixels --------------------------------------------------------------------------------------- */
/* An activation as pixels of c contiguous elements; ld is the distance of pixels when that is fixed, else 0. */
typedef struct pixels {
    real *data;
    lgv_nhwc a;
    int64_t count, ld;
    lgv_dtype dtype; /* BF16: data points to uint16_t, see pixel_at */
} pixels;

static inline pixels pixels_of(const lgv_tensor *t)
{
    pixels p = {t->data, lgv_as_nhwc(t), 0, 0, t->dtype};
    int64_t rows;
    if (!lgv_as_matrix(t, &rows, &p.ld)) p.ld = 0;
    p.count = p.a.n * p.a.h * p.a.w;
    return p;
}

/* Offset of pixel i (counted over n, h, w) in elements. */
static inline int64_t pixel_offset(const pixels *p, int64_t i)
{
    if (p->ld || p->count == 1) return i * p->ld;
    const int64_t w = i % p->a.w, row = i / p->a.w;
    return row / p->a.h * p->a.sn + row % p->a.h * p->a.sh + w * p->a.sw;
}

/* Pixels from i on that lie a fixed distance *step apart, at most limit. */
static inline int64_t pixel_run(const pixels *p, int64_t i, int64_t limit, int64_t *step)
{
    if (p->ld) {
        *step = p->ld;
        return limit;
    }
    *step = p->a.sw;
    return lgv_min_i64(limit, p->a.w - i % p->a.w);
}

static inline void *pixel_at(const pixels *p, int64_t i, int64_t channel)
{
    return (char *)p->data + (size_t)(pixel_offset(p, i) + channel) * lgv_real_size(p->dtype);
}

/* A vector of n <= VL elements of either type. */
static inline vreal v_get_typed(const void *p, int64_t n, bool bf16)
{
    if (!bf16) return v_get(p, n);
    if (n >= VL) return v_load_bf16(p);
    real part[VL] = {0};
    widen(part, p, n);
    return v_load(part);
}
static inline void v_put_typed(void *p, vreal a, int64_t n, bool bf16)
{
    if (!bf16) {
        v_put(p, a, n);
    } else if (n >= VL) {
        v_store_bf16(p, a);
    } else {
        real part[VL];
        v_store(part, a);
        narrow(p, part, n);
    }
}

/* count channels of run pixels, step apart, as reals: in place, or widened into buffer[run][count]. */
static inline const real *read_block(const pixels *p, const void *at, int64_t *step, int64_t run,
                                     int64_t count, real *buffer)
{
    if (p->dtype != LGV_BF16) return at;
    const uint16_t *from = at;
    for (int64_t i = 0; i < run; i++) widen(buffer + i * count, from + i * *step, count);
    *step = count;
    return buffer;
}

/* Rounds buffer[run][count] into a bf16 block; nothing to do for reals, which were written in place. */
static inline void write_block(const pixels *p, void *at, int64_t step, int64_t run, int64_t count,
                               const real *buffer)
{
    if (p->dtype != LGV_BF16) return;
    uint16_t *to = at;
    for (int64_t i = 0; i < run; i++) narrow(to + i * step, buffer + i * count, count);
}

/* --- Spans ---------------------------------------------------------------------------------------- */
/* len elements of row n, the first of them element `first` of the row in [H,W,C] order; p[k] points into
   operand k. They are whole pixels of `channels` channels from `channel` on: all of them, unless a pixel is
   longer than what is widened at a time. */
typedef struct span {
    int64_t n, first, len;
    int64_t channel, channels;
    void *p[SPAN_OPERANDS];
} span;

typedef struct span_work {
    const lgv_call *call;
    const lgv_tensor *operand[SPAN_OPERANDS]; /* the last is the result */
    int count;
    void (*body)(const struct span_work *w, const span *s);
    double number[2]; /* constants of the operator */
    int kind;
    const void *data; /* anything else of it */
    bool raw; /* the body takes bf16 operands as they are */
    /* set by run_spans */
    bool dense; /* rows are contiguous in every operand */
    bool bf16;  /* there are bf16 operands to widen and round */
    int64_t row_pixels, channels, pixels, block;
} span_work;

/* The body over pieces of a span, with floats in the place of bf16 operands. */
static inline void run_wide_span(const span_work *w, const span *s)
{
    real buffer[SPAN_OPERANDS][WIDE_ELEMENTS];
    const int last = w->count - 1;
    span piece = *s;
    for (int64_t at = 0; at < s->len; at += piece.len) {
        if (w->channels <= WIDE_ELEMENTS) {
            piece.len = lgv_min_i64(s->len - at, WIDE_ELEMENTS / w->channels * w->channels);
        } else {
            piece.channel = at % w->channels;
            piece.len = lgv_min_i64(WIDE_ELEMENTS, w->channels - piece.channel);
            piece.channels = piece.len;
        }
        piece.first = s->first + at;
        for (int k = 0; k < w->count; k++) {
            const lgv_dtype dtype = w->operand[k]->dtype;
            void *p = (char *)s->p[k] + (size_t)at * lgv_real_size(dtype);
            piece.p[k] = dtype == LGV_BF16 ? buffer[k] : p;
            if (dtype == LGV_BF16 && k < last) widen(buffer[k], p, piece.len);
        }
        w->body(w, &piece);
        if (w->operand[last]->dtype == LGV_BF16)
            narrow((uint16_t *)s->p[last] + at, buffer[last], piece.len);
    }
}

static void run_span_block(void *arg, int64_t block, int thread)
{
    const span_work *w = arg;
    const int64_t end = lgv_min_i64((block + 1) * w->block, w->pixels);
    pixels view[SPAN_OPERANDS];
    (void)thread;
    for (int k = 0; k < w->count; k++) view[k] = pixels_of(w->operand[k]);
    for (int64_t i = block * w->block; i < end;) {
        span s = {.n = i / w->row_pixels, .channels = w->channels};
        const int64_t inside = i - s.n * w->row_pixels;
        const int64_t run = w->dense ? lgv_min_i64(end - i, w->row_pixels - inside) : 1;
        s.first = inside * w->channels;
        s.len = run * w->channels;
        for (int k = 0; k < w->count; k++) s.p[k] = pixel_at(&view[k], i, 0);
        if (w->bf16)
            run_wide_span(w, &s);
        else
            w->body(w, &s);
        i += run;
    }
}

static inline bool rows_dense(const lgv_tensor *t)
{
    const lgv_nhwc a = lgv_as_nhwc(t);
    return (a.w == 1 || a.sw == a.c) && (a.h == 1 || a.sh == a.w * a.c);
}

/* Calls w->body over all spans of the operands, which have one shape. by_row: the body looks at span.n or
   span.first; otherwise dense operands are one long row. */
static inline void run_spans(span_work *w, bool by_row)
{
    const lgv_nhwc a = lgv_as_nhwc(w->operand[0]);
    bool all_dense = true;
    w->dense = true;
    w->bf16 = false;
    for (int k = 0; k < w->count; k++) {
        w->bf16 = w->bf16 || (!w->raw && w->operand[k]->dtype == LGV_BF16);
        w->dense = w->dense && rows_dense(w->operand[k]);
        all_dense = all_dense && lgv_tensor_dense(w->operand[k]);
    }
    w->channels = a.c;
    w->pixels = a.n * a.h * a.w;
    w->row_pixels = !by_row && all_dense ? w->pixels : a.h * a.w;
    w->block = lgv_max_i64(1, SPAN_ELEMENTS / a.c);
    lgv_parallel(w->call, lgv_ceil_div(w->pixels, w->block), run_span_block, w);
}

/* --- Activations ---------------------------------------------------------------------------------- */
/* d silu(x) / dx with s = sigmoid(x). */
static inline vreal v_silu_slope(vreal x, vreal s)
{
    return v_mul(s, v_fma(x, v_sub(v_set1(1), s), v_set1(1)));
}

/* d gelu_tanh(x) / dx with s the sigmoid that x is multiplied with: s + x s (1 - s) u'. */
static inline vreal v_gelu_slope(vreal x, vreal s)
{
    const vreal one = v_set1(1);
    vreal u = v_fma(v_mul(x, x), v_set1((real)0.21406444881780074), v_set1((real)1.5957691216057308));
    return v_mul(s, v_fma(v_mul(x, v_sub(one, s)), u, one));
}

/* d act(x) / dx for lgv_act_kind. */
static inline vreal v_act_grad(vreal x, int kind)
{
    const vreal one = v_set1(1), zero = v_zero();
    switch (kind) {
    case LGV_ACT_SILU: return v_silu_slope(x, v_sigmoid(x));
    case LGV_ACT_MISH: { /* t + x t', t = u/(u + 2), u = e^x (e^x + 2), t' = 4 e^x (e^x + 1)/(u + 2)^2 */
        const vreal e = v_exp(v_min(v_set1(20), x)), u = v_mul(e, v_add(e, v_set1(2)));
        const vreal r = v_div(one, v_add(u, v_set1(2)));
        const vreal dt = v_mul(v_mul(v_mul(v_set1(4), e), v_add(e, one)), v_mul(r, r));
        return v_fma(x, dt, v_mul(u, r));
    }
    case LGV_ACT_GELU: { /* Phi(x) + x phi(x) */
        const vreal cdf =
            v_fma(v_set1((real)0.5), v_erf(v_mul(x, v_set1((real)0.70710678118654752440))),
                  v_set1((real)0.5));
        const vreal pdf = v_mul(v_set1((real)0.39894228040143267794),
                                v_exp(v_mul(v_set1((real)-0.5), v_mul(x, x))));
        return v_fma(x, pdf, cdf);
    }
    case LGV_ACT_RELU: return v_select(v_gt(x, zero), one, zero);
    case LGV_ACT_GELU_TANH: return v_gelu_slope(x, v_sigmoid(v_gelu_argument(x)));
    default: return one;
    }
}

/* x becomes act'(x) in `count` vectors; the same bits as v_act_grad, unless rough: for results rounded to bf16. */
LGV_FOLD void v_act_grad_many(vreal *x, int count, int kind, bool rough)
{
    vreal s[V_MANY];
    const bool silu = kind == LGV_ACT_SILU;
    if (!silu && kind != LGV_ACT_GELU_TANH) {
        LGV_UNROLL
        for (int k = 0; k < count; k++) x[k] = v_act_grad(x[k], kind);
        return;
    }
    LGV_UNROLL
    for (int k = 0; k < count; k++) s[k] = silu ? x[k] : v_gelu_argument(x[k]);
    if (rough)
        v_sigmoid_rough_many(s, s, count);
    else
        v_sigmoid_many(s, s, count);
    LGV_UNROLL
    for (int k = 0; k < count; k++) x[k] = silu ? v_silu_slope(x[k], s[k]) : v_gelu_slope(x[k], s[k]);
}

#endif
