/* elementwise.c - add, mul, affine, activations and casts: one output element from the input elements
   at the same place. The derivative of an activation is taken from its input, not its output, so that
   one rule serves all of them. */
#include "op.h"

static lgv_status infer_pair(lgv_infer *c, lgv_error *err)
{
    LGV_TRY(lgv_want_float(c->in[0], "the first input", 1, 4, err));
    LGV_TRY(lgv_want_same(c->in[0], "the first input", c->in[1], "the second", err));
    lgv_like(&c->out[0], c->in[0]);
    return LGV_OK;
}

static lgv_status infer_one(lgv_infer *c, lgv_error *err)
{
    LGV_TRY(lgv_want_float(c->in[0], "input", 1, 4, err));
    lgv_like(&c->out[0], c->in[0]);
    return LGV_OK;
}

/* --- add ---------------------------------------------------------------------------------------- */
static void grad_add(lgv_graph *g, lgv_id y, const lgv_id *dout, const bool *need, lgv_id *din)
{
    din[0] = din[1] = dout[0];
}

static lgv_id example_add4(lgv_graph *g)
{
    return lgv_add(g, lgv_example_input(g, "a", 4, 2, 3, 5, 7),
                   lgv_example_input(g, "b", 4, 2, 3, 5, 7));
}
static lgv_id example_add2(lgv_graph *g)
{
    return lgv_add(g, lgv_example_input(g, "a", 2, 3, 33, 0, 0),
                   lgv_example_input(g, "b", 2, 3, 33, 0, 0));
}
static lgv_id example_add1(lgv_graph *g)
{
    return lgv_add(g, lgv_example_input(g, "a", 1, 5, 0, 0, 0),
                   lgv_example_input(g, "b", 1, 5, 0, 0, 0));
}
static const lgv_example examples_add[] = {
    {"2x3x5x7", example_add4}, {"3x33", example_add2}, {"5", example_add1}};

const lgv_op lgv_op_add = {.name = "add",
                           .doc = "a + b, equal shapes",
                           .min_in = 2,
                           .max_in = 2,
                           .n_out = 1,
                           .flags = LGV_OP_INPLACE0 | LGV_OP_INPLACE1,
                           .bf16_in = 1 | 2,
                           .bf16_out = 1,
                           .infer = infer_pair,
                           .grad = grad_add,
                           LGV_EXAMPLES(examples_add)};

lgv_id lgv_add(lgv_graph *g, lgv_id a, lgv_id b)
{
    return lgv_node_new(g, LGV_OP_add, "add", 2, (const lgv_id[]){a, b}, NULL);
}

/* --- mul ---------------------------------------------------------------------------------------- */
static void grad_mul(lgv_graph *g, lgv_id y, const lgv_id *dout, const bool *need, lgv_id *din)
{
    const lgv_id a = lgv_node_of(g, y)->in[0], b = lgv_node_of(g, y)->in[1];
    if (need[0]) din[0] = lgv_mul(g, dout[0], b);
    if (need[1]) din[1] = lgv_mul(g, dout[0], a);
}

static lgv_id example_mul4(lgv_graph *g)
{
    return lgv_mul(g, lgv_example_input(g, "a", 4, 1, 4, 3, 9),
                   lgv_example_input(g, "b", 4, 1, 4, 3, 9));
}
static lgv_id example_mul3(lgv_graph *g)
{
    return lgv_mul(g, lgv_example_input(g, "a", 3, 2, 5, 17, 0),
                   lgv_example_input(g, "b", 3, 2, 5, 17, 0));
}
static lgv_id example_mul_square(lgv_graph *g)
{
    lgv_id a = lgv_example_input(g, "a", 2, 3, 5, 0, 0);
    return lgv_mul(g, a, a);
}
static const lgv_example examples_mul[] = {
    {"1x4x3x9", example_mul4}, {"2x5x17", example_mul3}, {"square", example_mul_square}};

const lgv_op lgv_op_mul = {.name = "mul",
                           .doc = "a * b elementwise, equal shapes",
                           .min_in = 2,
                           .max_in = 2,
                           .n_out = 1,
                           .flags = LGV_OP_INPLACE0 | LGV_OP_INPLACE1,
                           .bf16_in = 1 | 2,
                           .bf16_out = 1,
                           .infer = infer_pair,
                           .grad = grad_mul,
                           LGV_EXAMPLES(examples_mul)};

lgv_id lgv_mul(lgv_graph *g, lgv_id a, lgv_id b)
{
    return lgv_node_new(g, LGV_OP_mul, "mul", 2, (const lgv_id[]){a, b}, NULL);
}

/* --- affine ------------------------------------------------------------------------------------- */
static void grad_affine(lgv_graph *g, lgv_id y, const lgv_id *dout, const bool *need, lgv_id *din)
{
    const lgv_attr_affine *a = lgv_node_of(g, y)->attr;
    din[0] = a->scale == 1 ? dout[0] : lgv_affine(g, dout[0], a->scale, 0);
}

static lgv_id example_affine4(lgv_graph *g)
{
    return lgv_affine(g, lgv_example_input(g, "x", 4, 2, 3, 3, 5), 2.0, -1.0);
}
static lgv_id example_affine2(lgv_graph *g)
{
    return lgv_affine(g, lgv_example_input(g, "x", 2, 2, 19, 0, 0), 0.70710678118654752, 0.0);
}
static const lgv_example examples_affine[] = {{"2x3x3x5", example_affine4},
                                              {"scale", example_affine2}};

const lgv_op lgv_op_affine = {.name = "affine",
                              .doc = "scale*x + shift with two numbers",
                              .attr_size = sizeof(lgv_attr_affine),
                              .min_in = 1,
                              .max_in = 1,
                              .n_out = 1,
                              .flags = LGV_OP_INPLACE0 | LGV_OP_CHEAP,
                              .bf16_in = 1,
                              .bf16_out = 1,
                              .infer = infer_one,
                              .grad = grad_affine,
                              LGV_EXAMPLES(examples_affine)};

lgv_id lgv_affine(lgv_graph *g, lgv_id x, double scale, double shift)
{
    const lgv_attr_affine attr = {scale, shift};
    return lgv_node_new(g, LGV_OP_affine, "affine", 1, &x, &attr);
}

/* --- act ---------------------------------------------------------------------------------------- */
static lgv_status want_kind(int kind, lgv_error *err)
{
    if (kind >= LGV_ACT_NONE && kind <= LGV_ACT_GELU_TANH) return LGV_OK;
    return lgv_fail(err, LGV_ERR_ARGUMENT, "activation %d does not exist; see lgv_act_kind", kind);
}

static lgv_status infer_act(lgv_infer *c, lgv_error *err)
{
    LGV_TRY(want_kind(((const lgv_attr_act *)c->attr)->kind, err));
    return infer_one(c, err);
}

static void grad_act(lgv_graph *g, lgv_id y, const lgv_id *dout, const bool *need, lgv_id *din)
{
    const int kind = ((const lgv_attr_act *)lgv_node_of(g, y)->attr)->kind;
    din[0] = lgv_act_grad(g, dout[0], lgv_node_of(g, y)->in[0], kind);
}

static double flops_act(const lgv_graph *g, const lgv_node *n)
{
    return 10.0 *
           (double)lgv_value_elements(lgv_val(g, n->in[0])); /* an exponential and a division */
}

static lgv_id example_silu(lgv_graph *g)
{
    return lgv_act(g, lgv_example_input(g, "x", 4, 2, 3, 5, 7), LGV_ACT_SILU);
}
static lgv_id example_silu2(lgv_graph *g)
{
    return lgv_act(g, lgv_example_input(g, "x", 2, 3, 37, 0, 0), LGV_ACT_SILU);
}
static lgv_id example_mish(lgv_graph *g)
{
    return lgv_act(g, lgv_example_input(g, "x", 3, 2, 7, 11, 0), LGV_ACT_MISH);
}
static lgv_id example_gelu(lgv_graph *g)
{
    return lgv_act(g, lgv_example_input(g, "x", 2, 5, 33, 0, 0), LGV_ACT_GELU);
}
static lgv_id example_gelu_tanh(lgv_graph *g)
{
    return lgv_act(g, lgv_example_input(g, "x", 3, 2, 9, 67, 0), LGV_ACT_GELU_TANH);
}
static lgv_id example_relu(lgv_graph *g) /* mirrored halves keep clear of the kink at 0 */
{
    lgv_id p = lgv_example_input(g, "p_x", 2, 3, 17, 0, 0);
    return lgv_act(g, lgv_concat(g, p, lgv_affine(g, p, -1, 0)), LGV_ACT_RELU);
}
static lgv_id example_none(lgv_graph *g)
{
    return lgv_act(g, lgv_example_input(g, "x", 1, 9, 0, 0, 0), LGV_ACT_NONE);
}
static const lgv_example examples_act[] = {{"silu", example_silu}, {"silu 3x37", example_silu2},
                                           {"mish", example_mish}, {"gelu", example_gelu},
                                           {"relu", example_relu}, {"none", example_none},
                                           {"gelu_tanh", example_gelu_tanh}};

const lgv_op lgv_op_act = {.name = "act",
                           .doc = "an activation: SiLU, Mish, GELU (exact, or with tanh), ReLU",
                           .attr_size = sizeof(lgv_attr_act),
                           .min_in = 1,
                           .max_in = 1,
                           .n_out = 1,
                           .flags = LGV_OP_INPLACE0 | LGV_OP_CHEAP,
                           .bf16_in = 1,
                           .bf16_out = 1,
                           .infer = infer_act,
                           .grad = grad_act,
                           .flops = flops_act,
                           LGV_EXAMPLES(examples_act)};

lgv_id lgv_act(lgv_graph *g, lgv_id x, lgv_act_kind kind)
{
    const lgv_attr_act attr = {(int)kind};
    return lgv_node_new(g, LGV_OP_act, "act", 1, &x, &attr);
}

/* --- act_grad ----------------------------------------------------------------------------------- */
static lgv_status infer_act_grad(lgv_infer *c, lgv_error *err)
{
    LGV_TRY(want_kind(((const lgv_attr_act *)c->attr)->kind, err));
    return infer_pair(c, err);
}

static lgv_id example_act_grad(lgv_graph *g, int kind)
{
    return lgv_act_grad(g, lgv_example_input(g, "dy", 3, 2, 5, 13, 0),
                        lgv_example_input(g, "x", 3, 2, 5, 13, 0), kind);
}
static lgv_id example_silu_grad(lgv_graph *g)
{
    return example_act_grad(g, LGV_ACT_SILU);
}
static lgv_id example_mish_grad(lgv_graph *g)
{
    return example_act_grad(g, LGV_ACT_MISH);
}
static lgv_id example_gelu_grad(lgv_graph *g)
{
    return example_act_grad(g, LGV_ACT_GELU);
}
static lgv_id example_relu_grad(lgv_graph *g)
{
    return example_act_grad(g, LGV_ACT_RELU);
}
static lgv_id example_gelu_tanh_grad(lgv_graph *g)
{
    return example_act_grad(g, LGV_ACT_GELU_TANH);
}
static const lgv_example examples_act_grad[] = {{"silu", example_silu_grad},
                                                {"mish", example_mish_grad},
                                                {"gelu", example_gelu_grad},
                                                {"relu", example_relu_grad},
                                                {"gelu_tanh", example_gelu_tanh_grad}};

const lgv_op lgv_op_act_grad = {.name = "act_grad",
                                .doc = "dy times the derivative of the activation at x",
                                .attr_size = sizeof(lgv_attr_act),
                                .min_in = 2,
                                .max_in = 2,
                                .n_out = 1,
                                .flags = LGV_OP_INPLACE0 | LGV_OP_INPLACE1,
                                .bf16_in = 1 | 2,
                                .bf16_out = 1,
                                .infer = infer_act_grad,
                                .no_grad = LGV_SECOND,
                                .flops = flops_act,
                                LGV_EXAMPLES(examples_act_grad)};

lgv_id lgv_act_grad(lgv_graph *g, lgv_id dy, lgv_id x, int kind)
{
    const lgv_attr_act attr = {kind};
    return lgv_node_new(g, LGV_OP_act_grad, "act_grad", 2, (const lgv_id[]){dy, x}, &attr);
}

/* --- cast --------------------------------------------------------------------------------------- */
static lgv_status infer_cast(lgv_infer *c, lgv_error *err)
{
    const lgv_dtype to = ((const lgv_attr_cast *)c->attr)->dtype;
    const lgv_value *x = c->in[0];
    if (!x) return lgv_fail(err, LGV_ERR_ARGUMENT, "input is missing");
    if ((x->dtype != LGV_F32 && x->dtype != LGV_BF16) || (to != LGV_F32 && to != LGV_BF16)) {
        return lgv_fail(err, LGV_ERR_UNSUPPORTED,
                        "casts go between F32 and BF16, not from %s to %s",
                        lgv_dtype_name(x->dtype), lgv_dtype_name(to));
    }
    lgv_like(&c->out[0], x);
    c->out[0].dtype = to;
    return LGV_OK;
}

static void grad_cast(lgv_graph *g, lgv_id y, const lgv_id *dout, const bool *need, lgv_id *din)
{
    din[0] = lgv_cast(g, dout[0], lgv_val(g, lgv_node_of(g, y)->in[0])->dtype);
}

/* Rounding has no derivative that central differences could see, so the round trip is not an example of
   the gradient check; f32 to f32 is. */
static lgv_id example_cast_same(lgv_graph *g)
{
    return lgv_cast(g, lgv_example_input(g, "x", 2, 3, 9, 0, 0), LGV_F32);
}
static const lgv_example examples_cast[] = {{"f32", example_cast_same}};

const lgv_op lgv_op_cast = {.name = "cast",
                            .doc = "x in another element type (F32, BF16), rounded to nearest even",
                            .attr_size = sizeof(lgv_attr_cast),
                            .min_in = 1,
                            .max_in = 1,
                            .n_out = 1,
                            .flags = LGV_OP_CHEAP | LGV_OP_MIXED,
                            .bf16_in = 1,
                            .infer = infer_cast,
                            .grad = grad_cast,
                            LGV_EXAMPLES(examples_cast)};

lgv_id lgv_cast(lgv_graph *g, lgv_id x, lgv_dtype dtype)
{
    const lgv_attr_cast attr = {dtype};
    return lgv_node_new(g, LGV_OP_cast, "cast", 1, &x, &attr);
}
