/* tokens.c - positions as tokens: their mean put before them, and the first of them taken, for attention pooling
   (guided-diffusion's classifier, arXiv 2105.05233, sec. 4; CLIP, arXiv 2103.00020, sec. 2.4). */
#include "op.h"

/* --- prepend_mean --------------------------------------------------------------------------------- */
static lgv_status infer_prepend(lgv_infer *c, lgv_error *err)
{
    LGV_TRY(lgv_want_f32(c->in[0], "input", 3, 4, err));
    lgv_set_shape(&c->out[0], LGV_F32, 3, c->in[0]->dim[0], 1 + lgv_positions(c->in[0]),
                  lgv_channels(c->in[0]), 1);
    return LGV_OK;
}

static void grad_prepend(lgv_graph *g, lgv_id y, const lgv_id *dout, const bool *need, lgv_id *din)
{
    const lgv_value x = *lgv_val(g, lgv_node_of(g, y)->in[0]);
    din[0] = lgv_prepend_mean_grad(g, dout[0], x.rank, x.dim);
}

static lgv_id example_prepend4(lgv_graph *g)
{
    return lgv_prepend_mean(g, lgv_example_input(g, "x", 4, 2, 3, 5, 7));
}
static lgv_id example_prepend3(lgv_graph *g)
{
    return lgv_prepend_mean(g, lgv_example_input(g, "x", 3, 3, 4, 19, 0));
}
static const lgv_example examples_prepend[] = {{"4d", example_prepend4}, {"3d", example_prepend3}};

const lgv_op lgv_op_prepend_mean = {
    .name = "prepend_mean",
    .doc = "[N,H,W,C] -> [N,1+HW,C]: the mean over positions, then the positions",
    .min_in = 1,
    .max_in = 1,
    .n_out = 1,
    .infer = infer_prepend,
    .grad = grad_prepend,
    LGV_EXAMPLES(examples_prepend)};

lgv_id lgv_prepend_mean(lgv_graph *g, lgv_id x)
{
    return lgv_node_new(g, LGV_OP_prepend_mean, "prepend_mean", 1, &x, NULL);
}

/* --- prepend_mean_grad ---------------------------------------------------------------------------- */
static lgv_status infer_prepend_grad(lgv_infer *c, lgv_error *err)
{
    const lgv_attr_shape *a = c->attr;
    const lgv_value *dy = c->in[0];
    LGV_TRY(lgv_want_f32(dy, "dy", 3, 3, err));
    lgv_set_shape(&c->out[0], LGV_F32, a->rank, a->dim[0], a->dim[1], a->dim[2],
                  a->rank > 3 ? a->dim[3] : 1);
    if (lgv_positions(&c->out[0]) == dy->dim[1] - 1 && lgv_channels(&c->out[0]) == dy->dim[2] &&
        a->dim[0] == dy->dim[0])
        return LGV_OK;
    return lgv_fail(err, LGV_ERR_SHAPE, "dy does not have one position more than x");
}

static void grad_prepend_grad(lgv_graph *g, lgv_id y, const lgv_id *dout, const bool *need,
                              lgv_id *din)
{
    din[0] = lgv_prepend_mean(g, dout[0]);
}

static lgv_id example_prepend_grad(lgv_graph *g)
{
    return lgv_prepend_mean_grad(g, lgv_example_input(g, "dy", 3, 2, 7, 9, 0), 4,
                                 (const int64_t[]){2, 2, 3, 9});
}
static const lgv_example examples_prepend_grad[] = {{"2x2x3x9", example_prepend_grad}};

const lgv_op lgv_op_prepend_mean_grad = {
    .name = "prepend_mean_grad",
    .doc = "dy[N,1+HW,C] -> [N,H,W,C]: dy of the position plus 1/HW of the first",
    .attr_size = sizeof(lgv_attr_shape),
    .min_in = 1,
    .max_in = 1,
    .n_out = 1,
    .infer = infer_prepend_grad,
    .grad = grad_prepend_grad,
    LGV_EXAMPLES(examples_prepend_grad)};

lgv_id lgv_prepend_mean_grad(lgv_graph *g, lgv_id dy, int rank, const int64_t *dim)
{
    lgv_attr_shape attr = {.rank = rank};
    for (int i = 0; i < 4; i++) attr.dim[i] = i < rank ? dim[i] : 1;
    return lgv_node_new(g, LGV_OP_prepend_mean_grad, "prepend_mean_grad", 1, &dy, &attr);
}

/* --- first_position ------------------------------------------------------------------------------- */
static lgv_status infer_first(lgv_infer *c, lgv_error *err)
{
    LGV_TRY(lgv_want_f32(c->in[0], "input", 3, 3, err));
    lgv_set_shape(&c->out[0], LGV_F32, 2, c->in[0]->dim[0], c->in[0]->dim[2], 1, 1);
    return LGV_OK;
}

static void grad_first(lgv_graph *g, lgv_id y, const lgv_id *dout, const bool *need, lgv_id *din)
{
    din[0] = lgv_first_position_grad(g, dout[0], lgv_val(g, lgv_node_of(g, y)->in[0])->dim[1]);
}

static double flops_none(const lgv_graph *g, const lgv_node *n)
{
    return 0;
}

static lgv_id example_first(lgv_graph *g)
{
    return lgv_first_position(g, lgv_example_input(g, "x", 3, 3, 5, 11, 0));
}
static const lgv_example examples_first[] = {{"3x5x11", example_first}};

const lgv_op lgv_op_first_position = {.name = "first_position",
                                      .doc = "[N,L,C] -> [N,C]: position 0",
                                      .min_in = 1,
                                      .max_in = 1,
                                      .n_out = 1,
                                      .infer = infer_first,
                                      .grad = grad_first,
                                      .flops = flops_none,
                                      LGV_EXAMPLES(examples_first)};

lgv_id lgv_first_position(lgv_graph *g, lgv_id x)
{
    return lgv_node_new(g, LGV_OP_first_position, "first_position", 1, &x, NULL);
}

/* --- first_position_grad -------------------------------------------------------------------------- */
static lgv_status infer_first_grad(lgv_infer *c, lgv_error *err)
{
    const lgv_attr_embedding *a = c->attr;
    LGV_TRY(lgv_want_f32(c->in[0], "dy", 2, 2, err));
    if (a->rows < 1)
        return lgv_fail(err, LGV_ERR_SHAPE, "%lld positions are too few", (long long)a->rows);
    lgv_set_shape(&c->out[0], LGV_F32, 3, c->in[0]->dim[0], a->rows, c->in[0]->dim[1], 1);
    return LGV_OK;
}

static void grad_first_grad(lgv_graph *g, lgv_id y, const lgv_id *dout, const bool *need,
                            lgv_id *din)
{
    din[0] = lgv_first_position(g, dout[0]);
}

static lgv_id example_first_grad(lgv_graph *g)
{
    return lgv_first_position_grad(g, lgv_example_input(g, "dy", 2, 3, 7, 0, 0), 4);
}
static const lgv_example examples_first_grad[] = {{"3x7 of 4", example_first_grad}};

const lgv_op lgv_op_first_position_grad = {.name = "first_position_grad",
                                           .doc = "dy[N,C] -> [N,L,C]: zeros behind dy",
                                           .attr_size = sizeof(lgv_attr_embedding),
                                           .min_in = 1,
                                           .max_in = 1,
                                           .n_out = 1,
                                           .infer = infer_first_grad,
                                           .grad = grad_first_grad,
                                           .flops = flops_none,
                                           LGV_EXAMPLES(examples_first_grad)};

lgv_id lgv_first_position_grad(lgv_graph *g, lgv_id dy, int64_t positions)
{
    const lgv_attr_embedding attr = {positions};
    return lgv_node_new(g, LGV_OP_first_position_grad, "first_position_grad", 1, &dy, &attr);
}
