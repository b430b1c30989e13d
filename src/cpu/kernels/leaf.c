/* leaf.c - reading the step block, writing the store, and the copy that stops gradients. */
#include "cpu/pointwise.h"

static void run_step_row(const lgv_call *c)
{
    const int field = ((const lgv_attr_step_row *)c->attr)->field;
    const int64_t stride = c->out[0].stride[0];
    for (int64_t n = 0; n < c->out[0].dim[0]; n++) {
        const lgv_row *row = &c->step->row[n];
        if (field == LGV_FIELD_LABEL || field == LGV_FIELD_INDEX) {
            ((int32_t *)c->out[0].data)[n * stride] =
                field == LGV_FIELD_LABEL ? row->label : row->index;
            continue;
        }
        ((real *)c->out[0].data)[n * stride] = field == LGV_FIELD_T           ? (real)row->t
                                               : field == LGV_FIELD_WEIGHT    ? (real)row->weight
                                               : field == LGV_FIELD_LABEL_F32 ? (real)row->label
                                               : field == LGV_FIELD_GUIDANCE
                                                   ? (real)row->guidance
                                                   : (real)row->coef[field - LGV_FIELD_COEF];
    }
}

static void body_copy(const span_work *w, const span *s)
{
    if (s->p[0] != s->p[1])
        memmove(s->p[1], s->p[0], (size_t)s->len * lgv_real_size(w->operand[0]->dtype));
}

static void body_accumulate(const span_work *w, const span *s)
{
    const real *x = s->p[0];
    real *y = s->p[1];
    for (int64_t i = 0; i < s->len; i += VL) {
        const int64_t n = s->len - i;
        v_put(y + i, v_add(v_get(y + i, n), v_get(x + i, n)), n);
    }
}

static void run_copy(const lgv_call *c)
{
    span_work w = {.call = c,
                   .operand = {&c->in[0], &c->out[0]},
                   .count = 2,
                   .body = c->accumulate ? body_accumulate : body_copy,
                   .raw = true};
    run_spans(&w, false);
}

static const lgv_kernel kernels[] = {
    {.op = LGV_OP_step_row, .name = "plain", .run = run_step_row},
    {.op = LGV_OP_assign,
     .name = "plain",
     .accumulates = true,
     .run = run_copy}, /* out[0]: the buffer of the store */
    {.op = LGV_OP_stop_gradient, .name = "plain", .bf16 = true, .run = run_copy},
};
const lgv_kernel_list LGV_TABLE(leaf) = {kernels, sizeof kernels / sizeof kernels[0]};
