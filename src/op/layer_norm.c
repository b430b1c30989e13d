/* layer_norm.c - layer normalisation over the channels of each position, with the affine parameters of a layer or the
   modulation of adaLN (arXiv 2212.09748, sec. 3.2), which the pass lgv_pass_fuse_norm puts into it.
   Statistics are outputs (mean, rstd: [N,positions]) that the backward pass reads; they are always f32.
   Formula: arXiv 1607.06450, eq. 4, biased variance. */
#include "op.h"

enum { X, GAMMA, BETA, SCALE, SHIFT };

static lgv_status want_parameters(const lgv_value *x, const lgv_value *gamma, const lgv_value *beta,
                                  lgv_error *err)
{
    if (!gamma && !beta) return LGV_OK;
    LGV_TRY(
        lgv_want_vector(gamma, "gamma", lgv_channels(x), "one per channel of the input", err));
    return lgv_want_vector(beta, "beta", lgv_channels(x), "one per channel of the input", err);
}

static lgv_status infer_layer_norm(lgv_infer *c, lgv_error *err)
{
    const lgv_attr_layer_norm *a = c->attr;
    const lgv_value *x = c->in[X];
    LGV_TRY(lgv_want_float(x, "input", 2, 4, err));
    LGV_TRY(want_parameters(x, c->in[GAMMA], c->in[BETA], err));
    for (int i = SCALE; i <= SHIFT; i++)
        if (c->in[i])
            LGV_TRY(lgv_want_matrix(c->in[i], i == SCALE ? "scale" : "shift", x->dim[0],
                                    lgv_channels(x), "rows and channels of the input", err));
    if (!(a->eps >= 0))
        return lgv_fail(err, LGV_ERR_ARGUMENT, "eps is %g, it must not be negative", a->eps);
    lgv_like(&c->out[0], x);
    lgv_set_shape(&c->out[1], LGV_F32, 2, x->dim[0], lgv_positions(x), 1, 1);
    lgv_set_shape(&c->out[2], LGV_F32, 2, x->dim[0], lgv_positions(x), 1, 1);
    return LGV_OK;
}

static void grad_layer_norm(lgv_graph *g, lgv_id y, const lgv_id *dout, const bool *need,
                            lgv_id *din)
{
    const lgv_node n = *lgv_node_of(g, y);
    if (dout[1] != LGV_NONE || dout[2] != LGV_NONE) {
        lgv_graph_fail(g, LGV_ERR_UNSUPPORTED, "gradients through mean and rstd are not supported");
        return;
    }
    const lgv_id in[7] = {dout[0],     n.in[X],    n.out[1],  n.out[2],
                          n.in[GAMMA], n.in[BETA], n.in[SCALE]};
    const lgv_id d = lgv_layer_norm_grad(g, in);
    for (int i = 0; i < n.n_in; i++) din[i] = need[i] ? lgv_output_of(g, d, i) : LGV_NONE;
}

static double flops_layer_norm(const lgv_graph *g, const lgv_node *n)
{
    return 8.0 * (double)lgv_value_elements(lgv_val(g, n->in[0]));
}

static double flops_layer_norm_grad(const lgv_graph *g, const lgv_node *n)
{
    return 16.0 * (double)lgv_value_elements(lgv_val(g, n->in[0]));
}

/* parameters, modulation: with them. */
static lgv_id example(lgv_graph *g, int rank, int64_t d0, int64_t d1, int64_t d2, int64_t d3,
                      bool parameters, bool modulation)
{
    const lgv_attr_layer_norm attr = {1e-5};
    const int64_t dim[4] = {d0, d1, d2, d3}, c = dim[rank - 1];
    lgv_id in[5] = {lgv_example_input(g, "x", rank, d0, d1, d2, d3), LGV_NONE, LGV_NONE, LGV_NONE,
                    LGV_NONE};
    if (parameters) in[GAMMA] = lgv_example_input(g, "gamma", 1, c, 0, 0, 0);
    if (parameters) in[BETA] = lgv_example_input(g, "beta", 1, c, 0, 0, 0);
    if (modulation) in[SCALE] = lgv_example_input(g, "scale", 2, d0, c, 0, 0);
    if (modulation) in[SHIFT] = lgv_example_input(g, "shift", 2, d0, c, 0, 0);
    return lgv_node_new(g, LGV_OP_layer_norm, "layer_norm", modulation ? 5 : parameters ? 3 : 1, in,
                        &attr);
}
static lgv_id example_bare(lgv_graph *g)
{
    return example(g, 4, 2, 3, 5, 67, false, false);
}
static lgv_id example_parameters(lgv_graph *g)
{
    return example(g, 3, 2, 7, 33, 0, true, false);
}
static lgv_id example_modulated(lgv_graph *g)
{
    return example(g, 4, 3, 5, 8, 24, false, true);
}
static lgv_id example_all(lgv_graph *g)
{
    return example(g, 3, 2, 9, 19, 0, true, true);
}
static lgv_id example_rows(lgv_graph *g)
{
    return example(g, 2, 3, 20, 0, 0, false, false);
}
static lgv_id example_many(lgv_graph *g)
{
    return example(g, 3, 2, 77, 130, 0, false, true);
}
static const lgv_example examples_layer_norm[] = {
    {"2x3x5x67", example_bare},     {"with parameters", example_parameters},
    {"modulated", example_modulated}, {"both", example_all},
    {"3x20", example_rows},         {"2x77x130 modulated", example_many}};

const lgv_op lgv_op_layer_norm = {
    .name = "layer_norm",
    .doc = "each position's channels to mean 0, variance 1, then *gamma[C] + beta[C] and *(1 + "
           "scale[N,C]) + shift[N,C], either absent or not; also mean, rstd [N,positions]",
    .attr_size = sizeof(lgv_attr_layer_norm),
    .min_in = 1,
    .max_in = 5,
    .n_out = 3,
    .flags = LGV_OP_INPLACE0 | LGV_OP_CHEAP | LGV_OP_MIXED,
    .bf16_in = 1,
    .bf16_out = 1,
    .infer = infer_layer_norm,
    .grad = grad_layer_norm,
    .flops = flops_layer_norm,
    LGV_EXAMPLES(examples_layer_norm)};

lgv_id lgv_layer_norm(lgv_graph *g, lgv_id x, lgv_id gamma, lgv_id beta, double eps)
{
    const lgv_attr_layer_norm attr = {eps};
    return lgv_node_new(g, LGV_OP_layer_norm, "layer_norm", gamma == LGV_NONE ? 1 : 3,
                        (const lgv_id[]){x, gamma, beta}, &attr);
}

/* --- layer_norm_grad ---------------------------------------------------------------------------- */
static lgv_status infer_layer_norm_grad(lgv_infer *c, lgv_error *err)
{
    const lgv_value *x = c->in[1], *scale = c->in[6];
    LGV_TRY(lgv_want_float(x, "x", 2, 4, err));
    LGV_TRY(lgv_want_same_shape(x, "x", c->in[0], "dy", err));
    LGV_TRY(lgv_want_matrix(c->in[2], "mean", x->dim[0], lgv_positions(x), "rows and positions",
                            err));
    LGV_TRY(lgv_want_matrix(c->in[3], "rstd", x->dim[0], lgv_positions(x), "rows and positions",
                            err));
    LGV_TRY(want_parameters(x, c->in[4], c->in[5], err));
    if (scale)
        LGV_TRY(lgv_want_matrix(scale, "scale", x->dim[0], lgv_channels(x),
                                "rows and channels of x", err));
    lgv_like(&c->out[0], x);
    for (int i = 1; i <= 2; i++) lgv_set_shape(&c->out[i], LGV_F32, 1, lgv_channels(x), 1, 1, 1);
    for (int i = 3; i <= 4; i++)
        lgv_set_shape(&c->out[i], LGV_F32, 2, x->dim[0], lgv_channels(x), 1, 1);
    return LGV_OK;
}

/* The statistics are made by the forward operator, so that the example is a true gradient. */
static lgv_id example_grad(lgv_graph *g, lgv_id y, int rank, int64_t d0, int64_t d1, int64_t d2,
                           int64_t d3)
{
    if (y < 0) return y;
    const lgv_node n = *lgv_node_of(g, y);
    const lgv_id in[7] = {lgv_example_input(g, "dy", rank, d0, d1, d2, d3),
                          n.in[X],
                          n.out[1],
                          n.out[2],
                          n.in[GAMMA],
                          n.in[BETA],
                          n.in[SCALE]};
    return lgv_layer_norm_grad(g, in);
}
static lgv_id example_grad_bare(lgv_graph *g)
{
    return example_grad(g, example_bare(g), 4, 2, 3, 5, 67);
}
static lgv_id example_grad_all(lgv_graph *g)
{
    return example_grad(g, example_all(g), 3, 2, 9, 19, 0);
}
static lgv_id example_grad_many(lgv_graph *g)
{
    return example_grad(g, example_many(g), 3, 2, 77, 130, 0);
}
static const lgv_example examples_layer_norm_grad[] = {{"2x3x5x67", example_grad_bare},
                                                       {"both", example_grad_all},
                                                       {"2x77x130 modulated", example_grad_many}};

const lgv_op lgv_op_layer_norm_grad = {
    .name = "layer_norm_grad",
    .doc = "gradient of layer_norm from dy, x, mean, rstd, gamma, beta, scale: dx, dgamma[C], "
           "dbeta[C], dscale[N,C], dshift[N,C]",
    .attr_size = 0,
    .min_in = 4,
    .max_in = 7,
    .n_out = 5,
    .flags = LGV_OP_INPLACE0 | LGV_OP_MIXED,
    .bf16_in = 1 | 2,
    .bf16_out = 1,
    .infer = infer_layer_norm_grad,
    .no_grad = LGV_SECOND,
    .flops = flops_layer_norm_grad,
    LGV_EXAMPLES(examples_layer_norm_grad)};

lgv_id lgv_layer_norm_grad(lgv_graph *g, const lgv_id in[7])
{
    return lgv_node_new(g, LGV_OP_layer_norm_grad, "layer_norm_grad", 7, in, NULL);
}
