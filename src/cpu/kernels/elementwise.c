/* elementwise.c - add, mul, affine, activations, casts. Bound by memory, except the activations. */
#include "cpu/pointwise.h"

static void body_add(const span_work *w, const span *s)
{
    const real *a = s->p[0], *b = s->p[1];
    real *y = s->p[2];
    for (int64_t i = 0; i < s->len; i += VL) {
        const int64_t n = s->len - i;
        v_put(y + i, v_add(v_get(a + i, n), v_get(b + i, n)), n);
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

static inline void act_span(const span *s, int kind)
{
    const real *x = s->p[0];
    real *y = s->p[1];
    int64_t i = 0;
    for (; i + V_MANY * VL <= s->len; i += V_MANY * VL) {
        vreal u[V_MANY];
        LGV_UNROLL
        for (int k = 0; k < V_MANY; k++) u[k] = v_load(x + i + k * VL);
        v_act_many(u, V_MANY, kind, false);
        LGV_UNROLL
        for (int k = 0; k < V_MANY; k++) v_store(y + i + k * VL, u[k]);
    }
    for (; i < s->len; i += VL) v_put(y + i, v_act(v_get(x + i, s->len - i), kind), s->len - i);
}

/* One loop per kind, so that the choice is not made for every vector. */
static void body_act(const span_work *w, const span *s)
{
    switch (w->kind) {
    case LGV_ACT_SILU: act_span(s, LGV_ACT_SILU); break;
    case LGV_ACT_MISH: act_span(s, LGV_ACT_MISH); break;
    case LGV_ACT_GELU: act_span(s, LGV_ACT_GELU); break;
    case LGV_ACT_RELU: act_span(s, LGV_ACT_RELU); break;
    default: act_span(s, LGV_ACT_NONE); break;
    }
}

static inline void act_grad_span(const span *s, int kind)
{
    const real *dy = s->p[0], *x = s->p[1];
    real *dx = s->p[2];
    int64_t i = 0;
    for (; i + V_MANY * VL <= s->len; i += V_MANY * VL) {
        vreal u[V_MANY];
        LGV_UNROLL
        for (int k = 0; k < V_MANY; k++) u[k] = v_load(x + i + k * VL);
        v_act_grad_many(u, V_MANY, kind, false);
        LGV_UNROLL
        for (int k = 0; k < V_MANY; k++)
            v_store(dx + i + k * VL, v_mul(v_load(dy + i + k * VL), u[k]));
    }
    for (; i < s->len; i += VL) {
        const int64_t n = s->len - i;
        v_put(dx + i, v_mul(v_get(dy + i, n), v_act_grad(v_get(x + i, n), kind)), n);
    }
}

static void body_act_grad(const span_work *w, const span *s)
{
    switch (w->kind) {
    case LGV_ACT_SILU: act_grad_span(s, LGV_ACT_SILU); break;
    case LGV_ACT_MISH: act_grad_span(s, LGV_ACT_MISH); break;
    case LGV_ACT_GELU: act_grad_span(s, LGV_ACT_GELU); break;
    case LGV_ACT_RELU: act_grad_span(s, LGV_ACT_RELU); break;
    default: act_grad_span(s, LGV_ACT_NONE); break;
    }
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

static void run_binary(const lgv_call *c, void (*body)(const span_work *, const span *), int kind)
{
    span_work w = {.call = c,
                   .operand = {&c->in[0], &c->in[1], &c->out[0]},
                   .count = 3,
                   .body = body,
                   .kind = kind};
    run_spans(&w, false);
}

static void run_unary(const lgv_call *c, void (*body)(const span_work *, const span *), int kind,
                      double a, double b)
{
    span_work w = {.call = c,
                   .operand = {&c->in[0], &c->out[0]},
                   .count = 2,
                   .body = body,
                   .kind = kind,
                   .number = {a, b}};
    run_spans(&w, false);
}

static void run_add(const lgv_call *c)
{
    run_binary(c, body_add, 0);
}
static void run_mul(const lgv_call *c)
{
    run_binary(c, body_mul, 0);
}
static void run_act_grad(const lgv_call *c)
{
    run_binary(c, body_act_grad, ((const lgv_attr_act *)c->attr)->kind);
}
static void run_act(const lgv_call *c)
{
    run_unary(c, body_act, ((const lgv_attr_act *)c->attr)->kind, 0, 0);
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
    run_unary(c, body_affine, 0, a->scale, a->shift);
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
