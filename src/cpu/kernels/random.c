/* random.c - normal noise and dropout from the counter-based generator. The generator makes the same
   floats on every level, so noise and masks are the same bits everywhere. */
#include "cpu/pointwise.h"
#include "langevin/rng.h"

enum { DRAWS = 512 };

static lgv_rng_key row_key(const span_work *w, int64_t n)
{
    const lgv_row *row = &w->call->step->row[n];
    return (lgv_rng_key){row->seed, ((const lgv_attr_random *)w->call->attr)->stream, row->sample,
                         row->step};
}

static void body_normal(const span_work *w, const span *s)
{
    const lgv_rng_key key = row_key(w, s->n);
    float draw[DRAWS];
    real *y = s->p[0];
    for (int64_t i = 0; i < s->len; i += DRAWS) {
        const int64_t n = lgv_min_i64(DRAWS, s->len - i);
        lgv_rng_normal(&key, (uint64_t)(s->first + i), n, draw);
        for (int64_t k = 0; k < n; k++) y[i + k] = (real)draw[k];
    }
}

static void run_random_normal(const lgv_call *c)
{
    span_work w = {.call = c, .operand = {&c->out[0]}, .count = 1, .body = body_normal};
    run_spans(&w, true);
}

static void body_dropout(const span_work *w, const span *s)
{
    const lgv_rng_key key = row_key(w, s->n);
    const float p = (float)w->number[0];
    const real scale = (real)(1.0 / (1.0 - w->number[0]));
    float draw[DRAWS];
    const real *x = s->p[0];
    real *y = s->p[1];
    for (int64_t i = 0; i < s->len; i += DRAWS) {
        const int64_t n = lgv_min_i64(DRAWS, s->len - i);
        lgv_rng_uniform(&key, (uint64_t)(s->first + i), n, draw);
        for (int64_t k = 0; k < n; k++) y[i + k] = draw[k] >= p ? x[i + k] * scale : 0;
    }
}

static void run_dropout(const lgv_call *c)
{
    span_work w = {.call = c,
                   .operand = {&c->in[0], &c->out[0]},
                   .count = 2,
                   .body = body_dropout,
                   .number = {((const lgv_attr_random *)c->attr)->p, 0}};
    run_spans(&w, true);
}

static const lgv_kernel kernels[] = {
    {.op = LGV_OP_random_normal, .name = "plain", .run = run_random_normal},
    {.op = LGV_OP_dropout, .name = "plain", .bf16 = true, .run = run_dropout},
};
const lgv_kernel_list LGV_TABLE(random) = {kernels, sizeof kernels / sizeof kernels[0]};
