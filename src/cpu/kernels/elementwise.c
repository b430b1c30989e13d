/* elementwise.c - add, mul, affine, activations, casts. Bound by memory, except the activations. */
#include "cpu/pointwise.h"

/* The loops below take bf16 operands as they lie, which types they have being constants, so that nothing is
   copied to floats and back. */
LGV_FOLD vreal get(const void *p, int64_t i, int64_t n, bool bf16)
{
    return bf16 ? v_get_typed((const uint16_t *)p + i, n, true) : v_get((const real *)p + i, n);
}
LGV_FOLD void put(void *p, int64_t i, vreal a, int64_t n, bool bf16)
{
    if (bf16)
        v_put_typed((uint16_t *)p + i, a, n, true);
    else
        v_put((real *)p + i, a, n);
}

LGV_FOLD void add_span(const span *s, bool a, bool b, bool y)
{
    for (int64_t i = 0; i < s->len; i += VL) {
        const int64_t n = s->len - i;
        put(s->p[2], i, v_add(get(s->p[0], i, n, a), get(s->p[1], i, n, b)), n, y);
    }
}

static void body_add(const span_work *w, const span *s)
{
    int types = 0;
    for (int k = 0; k < 3; k++) types |= (w->operand[k]->dtype == LGV_BF16) << k;
    switch (types) {
    case 0: add_span(s, false, false, false); break;
    case 1: add_span(s, true, false, false); break;
    case 2: add_span(s, false, true, false); break;
    case 3: add_span(s, true, true, false); break;
    case 4: add_span(s, false, false, true); break;
    case 5: add_span(s, true, false, true); break;
    case 6: add_span(s, false, true, true); break;
    default: add_span(s, true, true, true); break;
    }
}

static void body_mul(const span_work *w, const span *s)
{
    const real *a = s->p[0], *b = s->p[1];
    real *y = s->p[2];
    for (int64_t i = 0; i < s->len; i += VL) {
        const int64_t n = s->len - i;
        v_put(y + i, v_mul(v_get(a + i, n), v_get(b + i, n)), n);
    }
}

static void body_affine(const span_work *w, const span *s)
{
    const real *x = s->p[0];
    real *y = s->p[1];
    const vreal scale = v_set1((real)w->number[0]), shift = v_set1((real)w->number[1]);
    for (int64_t i = 0; i < s->len; i += VL)
        v_put(y + i, v_fma(v_get(x + i, s->len - i), scale, shift), s->len - i);
}

/* Four vectors at a time; `rounded` results allow the rough sigmoid. */
LGV_FOLD void act_span(const span *s, int kind, bool from, bool rounded)
{
    int64_t i = 0;
    for (; i + V_MANY * VL <= s->len; i += V_MANY * VL) {
        vreal u[V_MANY];
        LGV_UNROLL
        for (int k = 0; k < V_MANY; k++) u[k] = get(s->p[0], i + k * VL, VL, from);
        v_act_many(u, V_MANY, kind, rounded);
        LGV_UNROLL
        for (int k = 0; k < V_MANY; k++) put(s->p[1], i + k * VL, u[k], VL, rounded);
    }
    for (; i < s->len; i += VL) {
        vreal u = get(s->p[0], i, s->len - i, from);
        v_act_many(&u, 1, kind, rounded);
        put(s->p[1], i, u, s->len - i, rounded);
    }
}

LGV_FOLD void act_grad_span(const span *s, int kind, bool from, bool rounded)
{
    int64_t i = 0;
    for (; i + V_MANY * VL <= s->len; i += V_MANY * VL) {
        vreal u[V_MANY];
        LGV_UNROLL
        for (int k = 0; k < V_MANY; k++) u[k] = get(s->p[1], i + k * VL, VL, from);
        v_act_grad_many(u, V_MANY, kind, rounded);
        LGV_UNROLL
        for (int k = 0; k < V_MANY; k++)
            put(s->p[2], i + k * VL, v_mul(get(s->p[0], i + k * VL, VL, from), u[k]), VL, rounded);
    }
    for (; i < s->len; i += VL) {
        const int64_t n = s->len - i;
        vreal u = get(s->p[1], i, n, from);
        v_act_grad_many(&u, 1, kind, rounded);
        put(s->p[2], i, v_mul(get(s->p[0], i, n, from), u), n, rounded);
    }
}

/* One loop per kind, so that the choice is not made for every vector. */
#define LGV_EACH_KIND(loop, kind, from, rounded)                                                   \
    switch (kind) {                                                                                \
    case LGV_ACT_SILU: loop(s, LGV_ACT_SILU, from, rounded); break;                                \
    case LGV_ACT_MISH: loop(s, LGV_ACT_MISH, from, rounded); break;                                \
    case LGV_ACT_GELU: loop(s, LGV_ACT_GELU, from, rounded); break;                                \
    case LGV_ACT_RELU: loop(s, LGV_ACT_RELU, from, rounded); break;                                \
    case LGV_ACT_GELU_TANH: loop(s, LGV_ACT_GELU_TANH, from, rounded); break;                      \
    default: loop(s, LGV_ACT_NONE, from, rounded); break;                                          \
    }

static void body_act(const span_work *w, const span *s)
{
    LGV_EACH_KIND(act_span, w->kind, false, false)
}
static void body_act_bf16(const span_work *w, const span *s)
{
    LGV_EACH_KIND(act_span, w->kind, true, true)
}
static void body_act_grad(const span_work *w, const span *s)
{
    LGV_EACH_KIND(act_grad_span, w->kind, false, false)
}
static void body_act_grad_bf16(const span_work *w, const span *s)
{
    LGV_EACH_KIND(act_grad_span, w->kind, true, true)
}

static void body_cast(const span_work *w, const span *s)
{
    const lgv_dtype from = w->operand[0]->dtype, to = w->operand[1]->dtype;
    if (from == to)
        memmove(s->p[1], s->p[0], (size_t)s->len * lgv_real_size(to));
    else if (to == LGV_BF16)
        narrow(s->p[1], s->p[0], s->len);
    else
        widen(s->p[1], s->p[0], s->len);
}

/* raw: the body takes bf16 operands as they are. */
static void run_binary(const lgv_call *c, void (*body)(const span_work *, const span *), int kind,
                       bool raw)
{
    span_work w = {.call = c,
                   .operand = {&c->in[0], &c->in[1], &c->out[0]},
                   .count = 3,
                   .body = body,
                   .kind = kind,
                   .raw = raw};
    run_spans(&w, false);
}

static void run_unary(const lgv_call *c, void (*body)(const span_work *, const span *), int kind,
                      double a, double b, bool raw)
{
    span_work w = {.call = c,
                   .operand = {&c->in[0], &c->out[0]},
                   .count = 2,
                   .body = body,
                   .kind = kind,
                   .number = {a, b},
                   .raw = raw};
    run_spans(&w, false);
}

static void run_add(const lgv_call *c)
{
    run_binary(c, body_add, 0, true);
}
static void run_mul(const lgv_call *c)
{
    run_binary(c, body_mul, 0, false);
}
static void run_act_grad(const lgv_call *c)
{
    const bool raw =
        c->in[0].dtype == LGV_BF16 && c->in[1].dtype == LGV_BF16 && c->out[0].dtype == LGV_BF16;
    run_binary(c, raw ? body_act_grad_bf16 : body_act_grad, ((const lgv_attr_act *)c->attr)->kind,
               raw);
}
static void run_act(const lgv_call *c)
{
    const bool raw = c->in[0].dtype == LGV_BF16 && c->out[0].dtype == LGV_BF16;
    run_unary(c, raw ? body_act_bf16 : body_act, ((const lgv_attr_act *)c->attr)->kind, 0, 0, raw);
}
static void run_cast(const lgv_call *c)
{
    span_work w = {
        .call = c, .operand = {&c->in[0], &c->out[0]}, .count = 2, .body = body_cast, .raw = true};
    run_spans(&w, false);
}
static void run_affine(const lgv_call *c)
{
    const lgv_attr_affine *a = c->attr;
    run_unary(c, body_affine, 0, a->scale, a->shift, false);
}

static const lgv_kernel kernels[] = {
    {.op = LGV_OP_add, .name = "plain", .bf16 = true, .run = run_add},
    {.op = LGV_OP_mul, .name = "plain", .bf16 = true, .run = run_mul},
    {.op = LGV_OP_affine, .name = "plain", .bf16 = true, .run = run_affine},
    {.op = LGV_OP_act, .name = "plain", .bf16 = true, .run = run_act},
    {.op = LGV_OP_act_grad, .name = "plain", .bf16 = true, .run = run_act_grad},
    {.op = LGV_OP_cast, .name = "plain", .bf16 = true, .run = run_cast},
};
const lgv_kernel_list LGV_TABLE(elementwise) = {kernels, sizeof kernels / sizeof kernels[0]};
