/* resample.c - changes of resolution by 2 without weights, and their adjoints.
   Every kind is linear, so the gradient is the adjoint operator, and the adjoint's gradient is the kind itself. */
#include "op.h"

static bool goes_up(int kind)
{
    return kind == LGV_UP_NEAREST || kind == LGV_UP_FIR || kind == LGV_UP_FIR_REFLECT;
}

static lgv_status infer_resample(lgv_infer *c, lgv_error *err)
{
    const int kind = ((const lgv_attr_resample *)c->attr)->kind;
    const lgv_value *x = c->in[0];
    LGV_TRY(lgv_want_float(x, "input", 4, 4, err));
    const int64_t h = x->dim[1], w = x->dim[2];
    if (kind < LGV_UP_NEAREST || kind > LGV_DOWN_FIR_REFLECT) {
        return lgv_fail(err, LGV_ERR_ARGUMENT,
                        "resampling %d does not exist; see lgv_resample_kind", kind);
    }
    const bool up = goes_up(kind);
    if ((!up || kind == LGV_UP_FIR_REFLECT) && (h < 2 || w < 2)) {
        return lgv_fail(
            err, LGV_ERR_SHAPE,
            "input is %lldx%lld, which is too small: halving and reflecting need at least 2x2",
            (long long)h, (long long)w);
    }
    lgv_set_shape(&c->out[0], x->dtype, 4, x->dim[0], up ? 2 * h : h / 2, up ? 2 * w : w / 2,
                  x->dim[3]);
    return LGV_OK;
}

/* Per element of the low resolution: 4 additions, or the filter's 4 or 16 products over both. */
static double flops_resample(const lgv_graph *g, const lgv_node *n)
{
    const int kind = ((const lgv_attr_resample *)n->attr)->kind;
    const int64_t a = lgv_value_elements(lgv_val(g, n->in[0])),
                  b = lgv_value_elements(lgv_val(g, n->out[0]));
    return (kind == LGV_UP_NEAREST || kind == LGV_DOWN_AVERAGE ? 4.0 : 32.0) *
           (double)lgv_min_i64(a, b);
}

static void grad_resample(lgv_graph *g, lgv_id y, const lgv_id *dout, const bool *need, lgv_id *din)
{
    const lgv_node n = *lgv_node_of(g, y);
    const lgv_value x = *lgv_val(g, n.in[0]);
    din[0] = lgv_resample_grad(g, dout[0], ((const lgv_attr_resample *)n.attr)->kind, x.dim[1],
                               x.dim[2]);
}

static lgv_id example_resample(lgv_graph *g, lgv_resample_kind kind, int64_t h, int64_t w,
                               int64_t c)
{
    return lgv_resample(g, lgv_example_input(g, "x", 4, 2, h, w, c), kind);
}
static lgv_id example_nearest(lgv_graph *g)
{
    return example_resample(g, LGV_UP_NEAREST, 3, 5, 7);
}
static lgv_id example_average(lgv_graph *g)
{
    return example_resample(g, LGV_DOWN_AVERAGE, 6, 4, 9);
}
static lgv_id example_average_odd(lgv_graph *g)
{
    return example_resample(g, LGV_DOWN_AVERAGE, 5, 7, 3);
}
static lgv_id example_up_fir(lgv_graph *g)
{
    return example_resample(g, LGV_UP_FIR, 3, 4, 17);
}
static lgv_id example_down_fir(lgv_graph *g)
{
    return example_resample(g, LGV_DOWN_FIR, 6, 8, 5);
}
static lgv_id example_down_fir_odd(lgv_graph *g)
{
    return example_resample(g, LGV_DOWN_FIR, 7, 5, 3);
}
static lgv_id example_up_reflect(lgv_graph *g)
{
    return example_resample(g, LGV_UP_FIR_REFLECT, 2, 5, 3);
}
static lgv_id example_down_reflect(lgv_graph *g)
{
    return example_resample(g, LGV_DOWN_FIR_REFLECT, 6, 2, 9);
}
static lgv_id example_down_reflect_odd(lgv_graph *g)
{
    return example_resample(g, LGV_DOWN_FIR_REFLECT, 3, 7, 2);
}
static const lgv_example examples_resample[] = {
    {"nearest", example_nearest},
    {"average", example_average},
    {"average of odd sizes", example_average_odd},
    {"up fir", example_up_fir},
    {"down fir", example_down_fir},
    {"down fir of odd sizes", example_down_fir_odd},
    {"up fir, reflected", example_up_reflect},
    {"down fir, reflected", example_down_reflect},
    {"down fir of odd sizes, reflected", example_down_reflect_odd}};

const lgv_op lgv_op_resample = {
    .name = "resample",
    .doc = "twice or half the resolution: nearest, average, or the FIR filter [1,3,3,1]",
    .attr_size = sizeof(lgv_attr_resample),
    .min_in = 1,
    .max_in = 1,
    .n_out = 1,
    .flags = LGV_OP_CHEAP,
    .bf16_in = 1,
    .bf16_out = 1,
    .infer = infer_resample,
    .grad = grad_resample,
    .flops = flops_resample,
    LGV_EXAMPLES(examples_resample)};

lgv_id lgv_resample(lgv_graph *g, lgv_id x, lgv_resample_kind kind)
{
    const lgv_attr_resample attr = {.kind = (int)kind};
    return lgv_node_new(g, LGV_OP_resample, "resample", 1, &x, &attr);
}

/* --- resample_grad ------------------------------------------------------------------------------- */
static lgv_status infer_resample_grad(lgv_infer *c, lgv_error *err)
{
    const lgv_attr_resample *a = c->attr;
    LGV_TRY(lgv_want_float(c->in[0], "dy", 4, 4, err));
    lgv_set_shape(&c->out[0], c->in[0]->dtype, 4, c->in[0]->dim[0], a->h, a->w, c->in[0]->dim[3]);
    return LGV_OK;
}

static void grad_resample_grad(lgv_graph *g, lgv_id y, const lgv_id *dout, const bool *need,
                               lgv_id *din)
{
    const int kind = ((const lgv_attr_resample *)lgv_node_of(g, y)->attr)->kind;
    din[0] = lgv_resample(g, dout[0], (lgv_resample_kind)kind);
}

static lgv_id example_adjoint(lgv_graph *g, int kind, int64_t h, int64_t w, int64_t c)
{
    const bool up = goes_up(kind);
    return lgv_resample_grad(
        g, lgv_example_input(g, "dy", 4, 2, up ? 2 * h : h / 2, up ? 2 * w : w / 2, c), kind, h, w);
}
static lgv_id example_nearest_adjoint(lgv_graph *g)
{
    return example_adjoint(g, LGV_UP_NEAREST, 3, 5, 7);
}
static lgv_id example_average_adjoint(lgv_graph *g)
{
    return example_adjoint(g, LGV_DOWN_AVERAGE, 5, 4, 9);
}
static lgv_id example_up_fir_adjoint(lgv_graph *g)
{
    return example_adjoint(g, LGV_UP_FIR, 4, 3, 17);
}
static lgv_id example_down_fir_adjoint(lgv_graph *g)
{
    return example_adjoint(g, LGV_DOWN_FIR, 7, 6, 5);
}
static lgv_id example_up_reflect_adjoint(lgv_graph *g)
{
    return example_adjoint(g, LGV_UP_FIR_REFLECT, 3, 2, 5);
}
static lgv_id example_down_reflect_adjoint(lgv_graph *g)
{
    return example_adjoint(g, LGV_DOWN_FIR_REFLECT, 4, 5, 3);
}
static const lgv_example examples_resample_grad[] = {
    {"nearest", example_nearest_adjoint},
    {"average", example_average_adjoint},
    {"up fir", example_up_fir_adjoint},
    {"down fir", example_down_fir_adjoint},
    {"up fir, reflected", example_up_reflect_adjoint},
    {"down fir, reflected", example_down_reflect_adjoint}};

const lgv_op lgv_op_resample_grad = {
    .name = "resample_grad",
    .doc = "the adjoint of resample: dy at the new resolution -> dx at the old",
    .attr_size = sizeof(lgv_attr_resample),
    .min_in = 1,
    .max_in = 1,
    .n_out = 1,
    .bf16_in = 1,
    .bf16_out = 1,
    .infer = infer_resample_grad,
    .grad = grad_resample_grad,
    .flops = flops_resample,
    LGV_EXAMPLES(examples_resample_grad)};

lgv_id lgv_resample_grad(lgv_graph *g, lgv_id dy, int kind, int64_t h, int64_t w)
{
    const lgv_attr_resample attr = {kind, h, w};
    return lgv_node_new(g, LGV_OP_resample_grad, "resample_grad", 1, &dy, &attr);
}
