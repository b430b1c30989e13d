/* rows.c - operators between activations and something smaller: one number per row of the batch [N],
   one vector per row [N,C], one vector for all [C]; and the sums that are their gradients.
   Per-row numbers come from the step block, so no gradient flows to them. */
#include "op.h"

/* --- add_row ------------------------------------------------------------------------------------ */
static lgv_status infer_add_row(lgv_infer *c, lgv_error *err)
{
    LGV_TRY(lgv_want_float(c->in[0], "input", 2, 4, err));
    LGV_TRY(lgv_want_matrix(c->in[1], "the row vector", c->in[0]->dim[0], lgv_channels(c->in[0]),
                            "rows and channels of the input", err));
    lgv_like(&c->out[0], c->in[0]);
    return LGV_OK;
}

static void grad_add_row(lgv_graph *g, lgv_id y, const lgv_id *dout, const bool *need, lgv_id *din)
{
    din[0] = dout[0];
    if (need[1]) din[1] = lgv_sum_hw(g, dout[0]);
}

static lgv_id example_add_row4(lgv_graph *g)
{
    return lgv_add_row(g, lgv_example_input(g, "x", 4, 3, 4, 5, 7),
                       lgv_example_input(g, "v", 2, 3, 7, 0, 0));
}
static lgv_id example_add_row3(lgv_graph *g)
{
    return lgv_add_row(g, lgv_example_input(g, "x", 3, 2, 9, 33, 0),
                       lgv_example_input(g, "v", 2, 2, 33, 0, 0));
}
static lgv_id example_add_row2(lgv_graph *g)
{
    return lgv_add_row(g, lgv_example_input(g, "x", 2, 3, 5, 0, 0),
                       lgv_example_input(g, "v", 2, 3, 5, 0, 0));
}
static const lgv_example examples_add_row[] = {
    {"3x4x5x7", example_add_row4}, {"2x9x33", example_add_row3}, {"3x5", example_add_row2}};

const lgv_op lgv_op_add_row = {.name = "add_row",
                               .doc = "x[N,H,W,C] + v[N,C]",
                               .min_in = 2,
                               .max_in = 2,
                               .n_out = 1,
                               .flags = LGV_OP_INPLACE0,
                               .bf16_in = 1,
                               .bf16_out = 1,
                               .infer = infer_add_row,
                               .grad = grad_add_row,
                               LGV_EXAMPLES(examples_add_row)};

lgv_id lgv_add_row(lgv_graph *g, lgv_id x, lgv_id v)
{
    return lgv_node_new(g, LGV_OP_add_row, "add_row", 2, (const lgv_id[]){x, v}, NULL);
}

/* --- row_scale, row_divide ---------------------------------------------------------------------- */
static lgv_status infer_row_number(lgv_infer *c, lgv_error *err)
{
    LGV_TRY(lgv_want_f32(c->in[0], "input", 1, 4, err));
    LGV_TRY(lgv_want_vector(c->in[1], "the per-row number", c->in[0]->dim[0],
                            "one per row of the input", err));
    lgv_like(&c->out[0], c->in[0]);
    return LGV_OK;
}

static void grad_row_scale(lgv_graph *g, lgv_id y, const lgv_id *dout, const bool *need,
                           lgv_id *din)
{
    din[0] = lgv_row_scale(g, dout[0], lgv_node_of(g, y)->in[1]);
}

static void grad_row_divide(lgv_graph *g, lgv_id y, const lgv_id *dout, const bool *need,
                            lgv_id *din)
{
    din[0] = lgv_row_divide(g, dout[0], lgv_node_of(g, y)->in[1]);
}

static lgv_id example_row_scale4(lgv_graph *g)
{
    return lgv_row_scale(g, lgv_example_input(g, "x", 4, 3, 2, 5, 3),
                         lgv_example_input(g, "s", 1, 3, 0, 0, 0));
}
static lgv_id example_row_scale1(lgv_graph *g)
{
    return lgv_row_scale(g, lgv_example_input(g, "x", 1, 7, 0, 0, 0),
                         lgv_example_input(g, "s", 1, 7, 0, 0, 0));
}
static const lgv_example examples_row_scale[] = {{"3x2x5x3", example_row_scale4},
                                                 {"7", example_row_scale1}};

const lgv_op lgv_op_row_scale = {.name = "row_scale",
                                 .doc = "s[n] * x",
                                 .min_in = 2,
                                 .max_in = 2,
                                 .n_out = 1,
                                 .flags = LGV_OP_INPLACE0,
                                 .infer = infer_row_number,
                                 .grad = grad_row_scale,
                                 .const_inputs = 2,
                                 LGV_EXAMPLES(examples_row_scale)};

lgv_id lgv_row_scale(lgv_graph *g, lgv_id x, lgv_id s)
{
    return lgv_node_new(g, LGV_OP_row_scale, "row_scale", 2, (const lgv_id[]){x, s}, NULL);
}

static lgv_id example_row_divide4(lgv_graph *g)
{
    return lgv_row_divide(g, lgv_example_input(g, "x", 4, 2, 3, 3, 5),
                          lgv_example_input(g, "p_s", 1, 2, 0, 0, 0));
}
static lgv_id example_row_divide2(lgv_graph *g)
{
    return lgv_row_divide(g, lgv_example_input(g, "x", 2, 3, 17, 0, 0),
                          lgv_example_input(g, "p_s", 1, 3, 0, 0, 0));
}
static const lgv_example examples_row_divide[] = {{"2x3x3x5", example_row_divide4},
                                                  {"3x17", example_row_divide2}};

const lgv_op lgv_op_row_divide = {.name = "row_divide",
                                  .doc = "x / s[n]",
                                  .min_in = 2,
                                  .max_in = 2,
                                  .n_out = 1,
                                  .flags = LGV_OP_INPLACE0,
                                  .infer = infer_row_number,
                                  .grad = grad_row_divide,
                                  .const_inputs = 2,
                                  LGV_EXAMPLES(examples_row_divide)};

lgv_id lgv_row_divide(lgv_graph *g, lgv_id x, lgv_id s)
{
    return lgv_node_new(g, LGV_OP_row_divide, "row_divide", 2, (const lgv_id[]){x, s}, NULL);
}

/* --- row_axpby ---------------------------------------------------------------------------------- */
static lgv_status infer_row_axpby(lgv_infer *c, lgv_error *err)
{
    LGV_TRY(lgv_want_f32(c->in[0], "x", 1, 4, err));
    LGV_TRY(lgv_want_same(c->in[0], "x", c->in[1], "y", err));
    LGV_TRY(lgv_want_vector(c->in[2], "a", c->in[0]->dim[0], "one per row of x", err));
    LGV_TRY(lgv_want_vector(c->in[3], "b", c->in[0]->dim[0], "one per row of x", err));
    lgv_like(&c->out[0], c->in[0]);
    return LGV_OK;
}

static void grad_row_axpby(lgv_graph *g, lgv_id y, const lgv_id *dout, const bool *need,
                           lgv_id *din)
{
    const lgv_id a = lgv_node_of(g, y)->in[2], b = lgv_node_of(g, y)->in[3];
    if (need[0]) din[0] = lgv_row_scale(g, dout[0], a);
    if (need[1]) din[1] = lgv_row_scale(g, dout[0], b);
}

static lgv_id example_axpby(lgv_graph *g, int rank, int64_t d0, int64_t d1, int64_t d2, int64_t d3)
{
    return lgv_row_axpby(g, lgv_example_input(g, "x", rank, d0, d1, d2, d3),
                         lgv_example_input(g, "y", rank, d0, d1, d2, d3),
                         lgv_example_input(g, "a", 1, d0, 0, 0, 0),
                         lgv_example_input(g, "b", 1, d0, 0, 0, 0));
}
static lgv_id example_axpby4(lgv_graph *g)
{
    return example_axpby(g, 4, 3, 3, 4, 3);
}
static lgv_id example_axpby3(lgv_graph *g)
{
    return example_axpby(g, 3, 2, 7, 9, 0);
}
static const lgv_example examples_row_axpby[] = {{"3x3x4x3", example_axpby4},
                                                 {"2x7x9", example_axpby3}};

const lgv_op lgv_op_row_axpby = {.name = "row_axpby",
                                 .doc = "a[n]*x + b[n]*y",
                                 .min_in = 4,
                                 .max_in = 4,
                                 .n_out = 1,
                                 .flags = LGV_OP_INPLACE0 | LGV_OP_INPLACE1,
                                 .infer = infer_row_axpby,
                                 .grad = grad_row_axpby,
                                 .const_inputs = 4 | 8,
                                 LGV_EXAMPLES(examples_row_axpby)};

lgv_id lgv_row_axpby(lgv_graph *g, lgv_id x, lgv_id y, lgv_id a, lgv_id b)
{
    return lgv_node_new(g, LGV_OP_row_axpby, "row_axpby", 4, (const lgv_id[]){x, y, a, b}, NULL);
}

/* --- modulate ----------------------------------------------------------------------------------- */
static lgv_status infer_modulate(lgv_infer *c, lgv_error *err)
{
    LGV_TRY(lgv_want_float(c->in[0], "input", 2, 4, err));
    const int64_t n = c->in[0]->dim[0], k = lgv_channels(c->in[0]);
    LGV_TRY(lgv_want_matrix(c->in[1], "scale", n, k, "rows and channels of the input", err));
    LGV_TRY(lgv_want_matrix(c->in[2], "shift", n, k, "rows and channels of the input", err));
    lgv_like(&c->out[0], c->in[0]);
    return LGV_OK;
}

static void grad_modulate(lgv_graph *g, lgv_id y, const lgv_id *dout, const bool *need, lgv_id *din)
{
    const lgv_id x = lgv_node_of(g, y)->in[0], scale = lgv_node_of(g, y)->in[1];
    const lgv_id dx = lgv_modulate_grad(g, dout[0], x, scale);
    for (int i = 0; i < 3; i++) din[i] = need[i] ? lgv_output_of(g, dx, i) : LGV_NONE;
}

static lgv_id example_modulate(lgv_graph *g, int rank, int64_t d0, int64_t d1, int64_t d2,
                               int64_t d3)
{
    const int64_t dim[4] = {d0, d1, d2, d3};
    return lgv_modulate(g, lgv_example_input(g, "x", rank, d0, d1, d2, d3),
                        lgv_example_input(g, "scale", 2, d0, dim[rank - 1], 0, 0),
                        lgv_example_input(g, "shift", 2, d0, dim[rank - 1], 0, 0));
}
static lgv_id example_modulate4(lgv_graph *g)
{
    return example_modulate(g, 4, 2, 3, 5, 7);
}
static lgv_id example_modulate3(lgv_graph *g)
{
    return example_modulate(g, 3, 3, 4, 19, 0);
}
static const lgv_example examples_modulate[] = {{"2x3x5x7", example_modulate4},
                                                {"3x4x19", example_modulate3}};

static double flops_modulate(const lgv_graph *g, const lgv_node *n)
{
    return 3.0 * (double)lgv_value_elements(lgv_val(g, n->in[0]));
}

const lgv_op lgv_op_modulate = {.name = "modulate",
                                .doc = "x*(1 + scale[N,C]) + shift[N,C]",
                                .min_in = 3,
                                .max_in = 3,
                                .n_out = 1,
                                .flags = LGV_OP_INPLACE0 | LGV_OP_CHEAP,
                                .bf16_in = 1,
                                .bf16_out = 1,
                                .infer = infer_modulate,
                                .grad = grad_modulate,
                                .flops = flops_modulate,
                                LGV_EXAMPLES(examples_modulate)};

lgv_id lgv_modulate(lgv_graph *g, lgv_id x, lgv_id scale, lgv_id shift)
{
    return lgv_node_new(g, LGV_OP_modulate, "modulate", 3, (const lgv_id[]){x, scale, shift}, NULL);
}

static lgv_status infer_modulate_grad(lgv_infer *c, lgv_error *err)
{
    LGV_TRY(lgv_want_float(c->in[0], "dy", 2, 4, err));
    LGV_TRY(lgv_want_same(c->in[0], "dy", c->in[1], "x", err));
    LGV_TRY(lgv_want_matrix(c->in[2], "scale", c->in[0]->dim[0], lgv_channels(c->in[0]),
                            "rows and channels of x", err));
    lgv_like(&c->out[0], c->in[0]);
    lgv_like(&c->out[1], c->in[2]);
    lgv_like(&c->out[2], c->in[2]);
    return LGV_OK;
}

static lgv_id example_modulate_grad4(lgv_graph *g)
{
    return lgv_modulate_grad(g, lgv_example_input(g, "dy", 4, 2, 5, 5, 11),
                             lgv_example_input(g, "x", 4, 2, 5, 5, 11),
                             lgv_example_input(g, "scale", 2, 2, 11, 0, 0));
}
static const lgv_example examples_modulate_grad[] = {{"2x5x5x11", example_modulate_grad4}};

static double flops_modulate_grad(const lgv_graph *g, const lgv_node *n)
{
    return 5.0 * (double)lgv_value_elements(lgv_val(g, n->in[0]));
}

const lgv_op lgv_op_modulate_grad = {.name = "modulate_grad",
                                     .doc = "gradient of modulate: dx, dscale[N,C], dshift[N,C]",
                                     .min_in = 3,
                                     .max_in = 3,
                                     .n_out = 3,
                                     .bf16_in = 1 | 2,
                                     .bf16_out = 1,
                                     .infer = infer_modulate_grad,
                                     .no_grad = LGV_SECOND,
                                     .flops = flops_modulate_grad,
                                     LGV_EXAMPLES(examples_modulate_grad)};

lgv_id lgv_modulate_grad(lgv_graph *g, lgv_id dy, lgv_id x, lgv_id scale)
{
    return lgv_node_new(g, LGV_OP_modulate_grad, "modulate_grad", 3, (const lgv_id[]){dy, x, scale},
                        NULL);
}

/* --- gate --------------------------------------------------------------------------------------- */
static lgv_status infer_gate(lgv_infer *c, lgv_error *err)
{
    LGV_TRY(lgv_want_float(c->in[0], "input", 2, 4, err));
    LGV_TRY(lgv_want_matrix(c->in[1], "the gate", c->in[0]->dim[0], lgv_channels(c->in[0]),
                            "rows and channels of the input", err));
    if (c->n_in > 2) {
        LGV_TRY(lgv_want_f32(c->in[2], "what is added", 2, 4, err));
        LGV_TRY(lgv_want_same_shape(c->in[0], "the input", c->in[2], "what is added", err));
    }
    lgv_like(&c->out[0], c->in[0]);
    c->out[0].dtype = LGV_F32;
    return LGV_OK;
}

static void grad_gate(lgv_graph *g, lgv_id y, const lgv_id *dout, const bool *need, lgv_id *din)
{
    const lgv_node n = *lgv_node_of(g, y);
    if (need[0] || need[1]) {
        const lgv_id d = lgv_gate_grad(g, dout[0], n.in[0], n.in[1]);
        for (int i = 0; i < 2; i++) din[i] = need[i] ? lgv_output_of(g, d, i) : LGV_NONE;
    }
    if (n.n_in > 2) din[2] = dout[0];
}

static lgv_id example_gate(lgv_graph *g, int rank, int64_t d0, int64_t d1, int64_t d2, int64_t d3,
                           bool add)
{
    const int64_t dim[4] = {d0, d1, d2, d3};
    return lgv_gate(g, lgv_example_input(g, "x", rank, d0, d1, d2, d3),
                    lgv_example_input(g, "gate", 2, d0, dim[rank - 1], 0, 0),
                    add ? lgv_example_input(g, "h", rank, d0, d1, d2, d3) : LGV_NONE);
}
static lgv_id example_gate4(lgv_graph *g)
{
    return example_gate(g, 4, 2, 3, 5, 7, false);
}
static lgv_id example_gate3(lgv_graph *g)
{
    return example_gate(g, 3, 3, 4, 67, 0, true);
}
static const lgv_example examples_gate[] = {{"2x3x5x7", example_gate4},
                                            {"3x4x67 added", example_gate3}};

static double flops_gate(const lgv_graph *g, const lgv_node *n)
{
    return 2.0 * (double)lgv_value_elements(lgv_val(g, n->in[0]));
}

const lgv_op lgv_op_gate = {.name = "gate",
                            .doc = "x*gate[N,C], or h + x*gate[N,C]",
                            .min_in = 2,
                            .max_in = 3,
                            .n_out = 1,
                            .flags = LGV_OP_INPLACE0 | LGV_OP_CHEAP,
                            .bf16_in = 1, /* the sum through a network's blocks is float32 */
                            .infer = infer_gate,
                            .grad = grad_gate,
                            .flops = flops_gate,
                            LGV_EXAMPLES(examples_gate)};

lgv_id lgv_gate(lgv_graph *g, lgv_id x, lgv_id gate, lgv_id h)
{
    return lgv_node_new(g, LGV_OP_gate, "gate", h == LGV_NONE ? 2 : 3,
                        (const lgv_id[]){x, gate, h}, NULL);
}

static lgv_status infer_gate_grad(lgv_infer *c, lgv_error *err)
{
    LGV_TRY(lgv_want_f32(c->in[0], "dy", 2, 4, err));
    LGV_TRY(lgv_want_same_shape(c->in[0], "dy", c->in[1], "x", err));
    LGV_TRY(lgv_want_matrix(c->in[2], "the gate", c->in[0]->dim[0], lgv_channels(c->in[0]),
                            "rows and channels of x", err));
    lgv_like(&c->out[0], c->in[1]);
    lgv_like(&c->out[1], c->in[2]);
    return LGV_OK;
}

static lgv_id example_gate_grad(lgv_graph *g, int64_t w, int64_t c)
{
    return lgv_gate_grad(g, lgv_example_input(g, "dy", 4, 2, 5, w, c),
                         lgv_example_input(g, "x", 4, 2, 5, w, c),
                         lgv_example_input(g, "gate", 2, 2, c, 0, 0));
}
static lgv_id example_gate_grad_small(lgv_graph *g)
{
    return example_gate_grad(g, 3, 11);
}
static lgv_id example_gate_grad_wide(lgv_graph *g)
{
    return example_gate_grad(g, 29, 83);
}
static const lgv_example examples_gate_grad[] = {{"2x5x3x11", example_gate_grad_small},
                                                 {"2x5x29x83", example_gate_grad_wide}};

const lgv_op lgv_op_gate_grad = {.name = "gate_grad",
                                 .doc = "gradient of gate: dx, dgate[N,C]",
                                 .min_in = 3,
                                 .max_in = 3,
                                 .n_out = 2,
                                 .bf16_in = 2,
                                 .bf16_out = 1,
                                 .infer = infer_gate_grad,
                                 .no_grad = LGV_SECOND,
                                 .flops = flops_modulate_grad,
                                 LGV_EXAMPLES(examples_gate_grad)};

lgv_id lgv_gate_grad(lgv_graph *g, lgv_id dy, lgv_id x, lgv_id gate)
{
    return lgv_node_new(g, LGV_OP_gate_grad, "gate_grad", 3, (const lgv_id[]){dy, x, gate}, NULL);
}

/* --- sum_rows, spread_rows ---------------------------------------------------------------------- */
static lgv_status infer_sum_rows(lgv_infer *c, lgv_error *err)
{
    LGV_TRY(lgv_want_float(c->in[0], "input", 2, 4, err));
    lgv_set_shape(&c->out[0], LGV_F32, 1, lgv_channels(c->in[0]), 1, 1, 1);
    return LGV_OK;
}

static double flops_sum(const lgv_graph *g, const lgv_node *n)
{
    return (double)lgv_value_elements(lgv_val(g, n->in[0]));
}

static void grad_sum_rows(lgv_graph *g, lgv_id y, const lgv_id *dout, const bool *need, lgv_id *din)
{
    const lgv_value x = *lgv_val(g, lgv_node_of(g, y)->in[0]);
    din[0] = lgv_spread_rows(g, dout[0], x.rank, x.dim);
}

static lgv_id example_sum_rows4(lgv_graph *g)
{
    return lgv_sum_rows(g, lgv_example_input(g, "x", 4, 3, 5, 7, 9));
}
static lgv_id example_sum_rows3(lgv_graph *g)
{
    return lgv_sum_rows(g, lgv_example_input(g, "x", 3, 2, 11, 67, 0));
}
static lgv_id example_sum_rows2(lgv_graph *g)
{
    return lgv_sum_rows(g, lgv_example_input(g, "x", 2, 5, 18, 0, 0));
}
static const lgv_example examples_sum_rows[] = {
    {"3x5x7x9", example_sum_rows4}, {"2x11x67", example_sum_rows3}, {"5x18", example_sum_rows2}};

const lgv_op lgv_op_sum_rows = {.name = "sum_rows",
                                .doc = "[N,H,W,C] -> [C], the sum over N, H and W",
                                .min_in = 1,
                                .max_in = 1,
                                .n_out = 1,
                                .bf16_in = 1,
                                .infer = infer_sum_rows,
                                .grad = grad_sum_rows,
                                .flops = flops_sum,
                                LGV_EXAMPLES(examples_sum_rows)};

lgv_id lgv_sum_rows(lgv_graph *g, lgv_id x)
{
    return lgv_node_new(g, LGV_OP_sum_rows, "sum_rows", 1, &x, NULL);
}

static lgv_status infer_spread_rows(lgv_infer *c, lgv_error *err)
{
    const lgv_attr_shape *a = c->attr;
    LGV_TRY(lgv_want_vector(c->in[0], "input", a->dim[a->rank - 1], "one per channel", err));
    lgv_set_shape(&c->out[0], LGV_F32, a->rank, a->dim[0], a->dim[1], a->dim[2], a->dim[3]);
    return LGV_OK;
}

static void grad_spread_rows(lgv_graph *g, lgv_id y, const lgv_id *dout, const bool *need,
                             lgv_id *din)
{
    din[0] = lgv_sum_rows(g, dout[0]);
}

static lgv_id example_spread_rows(lgv_graph *g)
{
    return lgv_spread_rows(g, lgv_example_input(g, "v", 1, 7, 0, 0, 0), 4,
                           (const int64_t[]){2, 3, 5, 7});
}
static lgv_id example_spread_rows2(lgv_graph *g)
{
    return lgv_spread_rows(g, lgv_example_input(g, "v", 1, 19, 0, 0, 0), 2,
                           (const int64_t[]){3, 19, 1, 1});
}
static const lgv_example examples_spread_rows[] = {{"2x3x5x7", example_spread_rows},
                                                   {"3x19", example_spread_rows2}};

const lgv_op lgv_op_spread_rows = {.name = "spread_rows",
                                   .doc = "v[C] repeated over N, H and W",
                                   .attr_size = sizeof(lgv_attr_shape),
                                   .min_in = 1,
                                   .max_in = 1,
                                   .n_out = 1,
                                   .flags = LGV_OP_CHEAP,
                                   .bf16_out = 1,
                                   .infer = infer_spread_rows,
                                   .grad = grad_spread_rows,
                                   LGV_EXAMPLES(examples_spread_rows)};

static lgv_attr_shape shape_attr(int rank, const int64_t *dim)
{
    lgv_attr_shape a = {.rank = rank};
    for (int i = 0; i < LGV_MAX_RANK; i++) a.dim[i] = i < rank ? dim[i] : 1;
    return a;
}

lgv_id lgv_spread_rows(lgv_graph *g, lgv_id v, int rank, const int64_t *dim)
{
    const lgv_attr_shape attr = shape_attr(rank, dim);
    return lgv_node_new(g, LGV_OP_spread_rows, "spread_rows", 1, &v, &attr);
}

/* --- sum_hw, spread_hw -------------------------------------------------------------------------- */
static lgv_status infer_sum_hw(lgv_infer *c, lgv_error *err)
{
    LGV_TRY(lgv_want_float(c->in[0], "input", 2, 4, err));
    lgv_set_shape(&c->out[0], LGV_F32, 2, c->in[0]->dim[0], lgv_channels(c->in[0]), 1, 1);
    return LGV_OK;
}

static void grad_sum_hw(lgv_graph *g, lgv_id y, const lgv_id *dout, const bool *need, lgv_id *din)
{
    const lgv_value x = *lgv_val(g, lgv_node_of(g, y)->in[0]);
    din[0] = lgv_spread_hw(g, dout[0], x.rank, x.dim);
}

static lgv_id example_sum_hw4(lgv_graph *g)
{
    return lgv_sum_hw(g, lgv_example_input(g, "x", 4, 3, 7, 5, 9));
}
static lgv_id example_sum_hw3(lgv_graph *g)
{
    return lgv_sum_hw(g, lgv_example_input(g, "x", 3, 2, 13, 66, 0));
}
static lgv_id example_sum_hw2(lgv_graph *g)
{
    return lgv_sum_hw(g, lgv_example_input(g, "x", 2, 3, 5, 0, 0));
}
static const lgv_example examples_sum_hw[] = {
    {"3x7x5x9", example_sum_hw4}, {"2x13x66", example_sum_hw3}, {"3x5", example_sum_hw2}};

const lgv_op lgv_op_sum_hw = {.name = "sum_hw",
                              .doc = "[N,H,W,C] -> [N,C], the sum over H and W",
                              .min_in = 1,
                              .max_in = 1,
                              .n_out = 1,
                              .bf16_in = 1,
                              .infer = infer_sum_hw,
                              .grad = grad_sum_hw,
                              .flops = flops_sum,
                              LGV_EXAMPLES(examples_sum_hw)};

lgv_id lgv_sum_hw(lgv_graph *g, lgv_id x)
{
    return lgv_node_new(g, LGV_OP_sum_hw, "sum_hw", 1, &x, NULL);
}

static lgv_status infer_spread_hw(lgv_infer *c, lgv_error *err)
{
    const lgv_attr_shape *a = c->attr;
    LGV_TRY(lgv_want_matrix(c->in[0], "input", a->dim[0], a->dim[a->rank - 1],
                            "rows and channels of the output", err));
    lgv_set_shape(&c->out[0], LGV_F32, a->rank, a->dim[0], a->dim[1], a->dim[2], a->dim[3]);
    return LGV_OK;
}

static void grad_spread_hw(lgv_graph *g, lgv_id y, const lgv_id *dout, const bool *need,
                           lgv_id *din)
{
    din[0] = lgv_sum_hw(g, dout[0]);
}

static lgv_id example_spread_hw(lgv_graph *g)
{
    return lgv_spread_hw(g, lgv_example_input(g, "v", 2, 2, 7, 0, 0), 4,
                         (const int64_t[]){2, 3, 5, 7});
}
static lgv_id example_spread_hw3(lgv_graph *g)
{
    return lgv_spread_hw(g, lgv_example_input(g, "v", 2, 3, 19, 0, 0), 3,
                         (const int64_t[]){3, 4, 19, 1});
}
static const lgv_example examples_spread_hw[] = {{"2x3x5x7", example_spread_hw},
                                                 {"3x4x19", example_spread_hw3}};

const lgv_op lgv_op_spread_hw = {.name = "spread_hw",
                                 .doc = "v[N,C] repeated over H and W",
                                 .attr_size = sizeof(lgv_attr_shape),
                                 .min_in = 1,
                                 .max_in = 1,
                                 .n_out = 1,
                                 .flags = LGV_OP_CHEAP,
                                 .bf16_out = 1,
                                 .infer = infer_spread_hw,
                                 .grad = grad_spread_hw,
                                 LGV_EXAMPLES(examples_spread_hw)};

lgv_id lgv_spread_hw(lgv_graph *g, lgv_id v, int rank, const int64_t *dim)
{
    const lgv_attr_shape attr = shape_attr(rank, dim);
    return lgv_node_new(g, LGV_OP_spread_hw, "spread_hw", 1, &v, &attr);
}
