/* leaf.c - where values come from and where they go: inputs, parameters, the step block, the store. */
#include "op.h"

static lgv_status input_infer(lgv_infer *c, lgv_error *err)
{
    const lgv_attr_input *a = c->attr;
    lgv_set_shape(&c->out[0], a->dtype, a->rank, a->dim[0], a->dim[1], a->dim[2], a->dim[3]);
    return LGV_OK;
}

const lgv_op lgv_op_input = {
    .name = "input",
    .doc = "A value the host writes before each run.",
    .attr_size = sizeof(lgv_attr_input),
    .n_out = 1,
    .flags = LGV_OP_LEAF,
    .infer = input_infer,
    .no_grad = "it has no inputs",
};

/* The builder knows the shape and sets it right after (graph.c). */
static lgv_status param_infer(lgv_infer *c, lgv_error *err)
{
    lgv_set_shape(&c->out[0], LGV_F32, 1, 1, 1, 1, 1);
    return LGV_OK;
}

const lgv_op lgv_op_param = {
    .name = "param",
    .doc = "A buffer of the store, read from the set the plan binds as weights.",
    .attr_size = sizeof(lgv_attr_param),
    .n_out = 1,
    .flags = LGV_OP_LEAF,
    .infer = param_infer,
    .no_grad = "it has no inputs",
};

static lgv_status step_row_infer(lgv_infer *c, lgv_error *err)
{
    const lgv_attr_step_row *a = c->attr;
    bool integer = a->field == LGV_FIELD_LABEL || a->field == LGV_FIELD_INDEX;
    if (a->field < 0 || a->field >= LGV_FIELD_COEF + LGV_COEFS)
        return lgv_fail(err, LGV_ERR_ARGUMENT, "the step block has no field %d", a->field);
    lgv_set_shape(&c->out[0], integer ? LGV_I32 : LGV_F32, 1, a->rows, 1, 1, 1);
    return LGV_OK;
}

lgv_id lgv_step_row(lgv_graph *g, int64_t rows, int field)
{
    lgv_attr_step_row attr = {field, rows};
    return lgv_node_new(g, LGV_OP_step_row, "step_row", 0, NULL, &attr);
}

static lgv_id step_row_t(lgv_graph *g)
{
    return lgv_step_row(g, 5, LGV_FIELD_T);
}
static lgv_id step_row_label(lgv_graph *g)
{
    return lgv_step_row(g, 3, LGV_FIELD_LABEL_F32);
}
static lgv_id step_row_coef(lgv_graph *g)
{
    return lgv_step_row(g, 17, LGV_FIELD_COEF + 4);
}
static const lgv_example step_row_examples[] = {
    {"timestep", step_row_t}, {"label", step_row_label}, {"coefficient", step_row_coef}};

const lgv_op lgv_op_step_row = {
    .name = "step_row",
    .doc = "One field of the step block's rows, [N].",
    .attr_size = sizeof(lgv_attr_step_row),
    .n_out = 1,
    .flags = LGV_OP_STEP,
    .infer = step_row_infer,
    .no_grad = "it has no inputs",
    .examples = step_row_examples,
    .n_examples = 3,
};

static lgv_status assign_infer(lgv_infer *c, lgv_error *err)
{
    return lgv_want_f32(c->in[0], "the value", 1, LGV_MAX_RANK, err);
}

const lgv_op lgv_op_assign = {
    .name = "assign",
    .doc = "Writes a value to a buffer of the store (adds, where the plan accumulates gradients).",
    .attr_size = sizeof(lgv_attr_assign),
    .min_in = 1,
    .max_in = 1,
    .n_out = 0,
    .flags = LGV_OP_EFFECT,
    .infer = assign_infer,
    .no_grad = "it has no outputs",
};

static lgv_status stop_gradient_infer(lgv_infer *c, lgv_error *err)
{
    lgv_like(&c->out[0], c->in[0]);
    return LGV_OK;
}

lgv_id lgv_stop_gradient(lgv_graph *g, lgv_id x)
{
    return lgv_node_new(g, LGV_OP_stop_gradient, "stop_gradient", 1, &x, NULL);
}

static lgv_id stop_gradient_example(lgv_graph *g)
{
    return lgv_stop_gradient(g, lgv_input(g, "x", LGV_F32, 3, (int64_t[]){2, 3, 5}));
}

const lgv_op lgv_op_stop_gradient = {
    .name = "stop_gradient",
    .doc = "y = x, through which no gradient flows.",
    .min_in = 1,
    .max_in = 1,
    .n_out = 1,
    .flags = LGV_OP_INPLACE0 | LGV_OP_CHEAP,
    .bf16_in = 1,
    .bf16_out = 1,
    .infer = stop_gradient_infer,
    .no_grad = "stopping the gradient is what it is for",
    .examples = (const lgv_example[]){{"3d", stop_gradient_example}},
    .n_examples = 1,
};
