/* norm.c - group normalisation, alone and fused with scale-shift modulation and an activation.
   Statistics are outputs (mean, rstd: [N,groups]) that the backward pass reads; they are always f32.
   Formula: arXiv 1803.08494, eq. 1 and 7, biased variance. */
#include "op.h"

static lgv_status want_groups(const lgv_value *x, int groups, lgv_error *err)
{
    const int64_t c = lgv_channels(x);
    if (groups < 1)
        return lgv_fail(err, LGV_ERR_ARGUMENT, "%d groups were asked for, at least 1 is needed",
                        groups);
    if (c % groups == 0) return LGV_OK;
    return lgv_fail(err, LGV_ERR_SHAPE, "input has %lld channels, which %d groups do not divide",
                    (long long)c, groups);
}

/* x, gamma and beta of the forward operators, and their three outputs. */
static lgv_status infer_norm(lgv_infer *c, lgv_error *err)
{
    const lgv_attr_norm *a = c->attr;
    const lgv_value *x = c->in[0];
    LGV_TRY(lgv_want_float(x, "input", 2, 4, err));
    LGV_TRY(want_groups(x, a->groups, err));
    LGV_TRY(
        lgv_want_vector(c->in[1], "gamma", lgv_channels(x), "one per channel of the input", err));
    LGV_TRY(
        lgv_want_vector(c->in[2], "beta", lgv_channels(x), "one per channel of the input", err));
    if (!(a->eps >= 0))
        return lgv_fail(err, LGV_ERR_ARGUMENT, "eps is %g, it must not be negative", a->eps);
    lgv_like(&c->out[0], x);
    lgv_set_shape(&c->out[1], LGV_F32, 2, x->dim[0], a->groups, 1, 1);
    lgv_set_shape(&c->out[2], LGV_F32, 2, x->dim[0], a->groups, 1, 1);
    return LGV_OK;
}

/* dy, x, gamma, (beta,) mean and rstd of the backward operators; the first three outputs. */
static lgv_status infer_norm_grad(lgv_infer *c, int mean, lgv_error *err)
{
    const lgv_attr_norm *a = c->attr;
    const lgv_value *x = c->in[1];
    LGV_TRY(lgv_want_float(x, "x", 2, 4, err));
    LGV_TRY(lgv_want_same_shape(x, "x", c->in[0], "dy", err));
    LGV_TRY(want_groups(x, a->groups, err));
    for (int i = 2; i < mean; i++)
        LGV_TRY(lgv_want_vector(c->in[i], i == 2 ? "gamma" : "beta", lgv_channels(x),
                                "one per channel", err));
    LGV_TRY(lgv_want_matrix(c->in[mean], "mean", x->dim[0], a->groups, "rows and groups", err));
    LGV_TRY(lgv_want_matrix(c->in[mean + 1], "rstd", x->dim[0], a->groups, "rows and groups", err));
    lgv_like(&c->out[0], x);
    lgv_like(&c->out[1], c->in[2]);
    lgv_like(&c->out[2], c->in[2]);
    return LGV_OK;
}

static double flops_norm(const lgv_graph *g, const lgv_node *n)
{
    const lgv_attr_norm *a = n->attr;
    return (a->act ? 17.0 : 7.0) * (double)lgv_value_elements(lgv_val(g, n->in[0]));
}

static double flops_norm_grad(const lgv_graph *g, const lgv_node *n)
{
    const lgv_attr_norm *a = n->attr;
    return (a->act ? 24.0 : 12.0) * (double)lgv_value_elements(lgv_val(g, n->in[0]));
}

/* The statistics are for this operator's own backward pass; a gradient that comes in through them has no rule. */
static bool has_statistics_gradient(lgv_graph *g, const lgv_id *dout)
{
    if (dout[1] == LGV_NONE && dout[2] == LGV_NONE) return false;
    lgv_graph_fail(g, LGV_ERR_UNSUPPORTED, "gradients through mean and rstd are not supported");
    return true;
}

/* --- group_norm --------------------------------------------------------------------------------- */
static void grad_group_norm(lgv_graph *g, lgv_id y, const lgv_id *dout, const bool *need,
                            lgv_id *din)
{
    const lgv_node n = *lgv_node_of(g, y);
    if (has_statistics_gradient(g, dout) || dout[0] == LGV_NONE) return;
    const int groups = ((const lgv_attr_norm *)n.attr)->groups;
    lgv_id d = lgv_group_norm_grad(g, dout[0], n.in[0], n.in[1], n.out[1], n.out[2], groups);
    for (int i = 0; i < 3; i++) din[i] = need[i] ? lgv_output_of(g, d, i) : LGV_NONE;
}

static lgv_id example_norm(lgv_graph *g, int rank, int64_t d0, int64_t d1, int64_t d2, int64_t d3,
                           int groups)
{
    const int64_t dim[4] = {d0, d1, d2, d3};
    return lgv_group_norm(g, lgv_example_input(g, "x", rank, d0, d1, d2, d3),
                          lgv_example_input(g, "gamma", 1, dim[rank - 1], 0, 0, 0),
                          lgv_example_input(g, "beta", 1, dim[rank - 1], 0, 0, 0), groups, 1e-5);
}
static lgv_id example_norm4(lgv_graph *g)
{
    return example_norm(g, 4, 2, 5, 3, 12, 4);
}
static lgv_id example_norm_one(lgv_graph *g)
{
    return example_norm(g, 4, 3, 3, 3, 7, 1);
}
static lgv_id example_norm_each(lgv_graph *g)
{
    return example_norm(g, 4, 2, 3, 5, 19, 19);
}
static lgv_id example_norm3(lgv_graph *g)
{
    return example_norm(g, 3, 2, 9, 66, 0, 3);
}
static lgv_id example_norm2(lgv_graph *g)
{
    return example_norm(g, 2, 3, 20, 0, 0, 4);
}
static lgv_id example_norm_large(lgv_graph *g)
{
    return example_norm(g, 4, 1, 17, 9, 32, 8);
}
static const lgv_example examples_group_norm[] = {{"2x5x3x12 in 4", example_norm4},
                                                  {"one group", example_norm_one},
                                                  {"a group a channel", example_norm_each},
                                                  {"2x9x66 in 3", example_norm3},
                                                  {"3x20 in 4", example_norm2},
                                                  {"1x17x9x32 in 8", example_norm_large}};

const lgv_op lgv_op_group_norm = {
    .name = "group_norm",
    .doc = "each group of C/groups channels of a row to mean 0, variance 1, then *gamma[C] + "
           "beta[C]; also mean, rstd [N,groups]",
    .attr_size = sizeof(lgv_attr_norm),
    .min_in = 3,
    .max_in = 3,
    .n_out = 3,
    .flags = LGV_OP_INPLACE0 | LGV_OP_CHEAP | LGV_OP_MIXED,
    .bf16_in = 1,
    .bf16_out = 1,
    .infer = infer_norm,
    .grad = grad_group_norm,
    .flops = flops_norm,
    LGV_EXAMPLES(examples_group_norm)};

lgv_id lgv_group_norm(lgv_graph *g, lgv_id x, lgv_id gamma, lgv_id beta, int groups, double eps)
{
    const lgv_attr_norm attr = {groups, eps, LGV_ACT_NONE};
    return lgv_node_new(g, LGV_OP_group_norm, "group_norm", 3, (const lgv_id[]){x, gamma, beta},
                        &attr);
}

static lgv_status infer_group_norm_grad(lgv_infer *c, lgv_error *err)
{
    return infer_norm_grad(c, 3, err);
}

/* The statistics are made by the forward operator, so that the example is a true gradient. */
static lgv_id example_norm_grad(lgv_graph *g, int64_t h, int64_t w, int64_t c, int groups)
{
    lgv_id y = example_norm(g, 4, 2, h, w, c, groups);
    const lgv_node n = y < 0 ? (lgv_node){0} : *lgv_node_of(g, y);
    return lgv_group_norm_grad(g, lgv_example_input(g, "dy", 4, 2, h, w, c), n.in[0], n.in[1],
                               n.out[1], n.out[2], groups);
}
static lgv_id example_norm_grad4(lgv_graph *g)
{
    return example_norm_grad(g, 5, 3, 12, 4);
}
static lgv_id example_norm_grad_odd(lgv_graph *g)
{
    return example_norm_grad(g, 7, 5, 21, 3);
}
static const lgv_example examples_group_norm_grad[] = {{"2x5x3x12 in 4", example_norm_grad4},
                                                       {"2x7x5x21 in 3", example_norm_grad_odd}};

const lgv_op lgv_op_group_norm_grad = {
    .name = "group_norm_grad",
    .doc = "gradient of group_norm from dy, x, gamma, mean, rstd: dx, dgamma[C], dbeta[C]",
    .attr_size = sizeof(lgv_attr_norm),
    .min_in = 5,
    .max_in = 5,
    .n_out = 3,
    .flags = LGV_OP_INPLACE0 | LGV_OP_MIXED,
    .bf16_in = 1 | 2,
    .bf16_out = 1,
    .infer = infer_group_norm_grad,
    .no_grad = LGV_SECOND,
    .flops = flops_norm_grad,
    LGV_EXAMPLES(examples_group_norm_grad)};

lgv_id lgv_group_norm_grad(lgv_graph *g, lgv_id dy, lgv_id x, lgv_id gamma, lgv_id mean,
                           lgv_id rstd, int groups)
{
    const lgv_attr_norm attr = {groups, 0, LGV_ACT_NONE};
    return lgv_node_new(g, LGV_OP_group_norm_grad, "group_norm_grad", 5,
                        (const lgv_id[]){dy, x, gamma, mean, rstd}, &attr);
}

/* --- norm_modulate_act --------------------------------------------------------------------------- */
static lgv_status want_modulation(const lgv_value *x, const lgv_value *scale,
                                  const lgv_value *shift, lgv_error *err)
{
    if (!scale && !shift) return LGV_OK;
    LGV_TRY(lgv_want_matrix(scale, "scale", x->dim[0], lgv_channels(x),
                            "rows and channels of the input", err));
    return lgv_want_matrix(shift, "shift", x->dim[0], lgv_channels(x),
                           "rows and channels of the input", err);
}

static lgv_status infer_norm_modulate_act(lgv_infer *c, lgv_error *err)
{
    LGV_TRY(infer_norm(c, err));
    return want_modulation(c->in[0], c->n_in > 3 ? c->in[3] : NULL, c->n_in > 4 ? c->in[4] : NULL,
                           err);
}

static void grad_norm_modulate_act(lgv_graph *g, lgv_id y, const lgv_id *dout, const bool *need,
                                   lgv_id *din)
{
    const lgv_node n = *lgv_node_of(g, y);
    const lgv_id scale = n.n_in > 3 ? n.in[3] : LGV_NONE, shift = n.n_in > 4 ? n.in[4] : LGV_NONE;
    if (has_statistics_gradient(g, dout) || dout[0] == LGV_NONE) return;
    const lgv_id in[8] = {dout[0], n.in[0], n.in[1], n.in[2], n.out[1], n.out[2], scale, shift};
    lgv_id d = lgv_norm_modulate_act_grad(g, in, n.attr);
    for (int i = 0; i < n.n_in; i++) din[i] = need[i] ? lgv_output_of(g, d, i) : LGV_NONE;
}

static lgv_id example_fused(lgv_graph *g, int rank, int64_t d0, int64_t d1, int64_t d2, int64_t d3,
                            int groups, bool modulated, lgv_act_kind act)
{
    const int64_t dim[4] = {d0, d1, d2, d3}, c = dim[rank - 1];
    lgv_id x = lgv_example_input(g, "x", rank, d0, d1, d2, d3);
    lgv_id gamma = lgv_example_input(g, "gamma", 1, c, 0, 0, 0),
           beta = lgv_example_input(g, "beta", 1, c, 0, 0, 0);
    lgv_id scale = modulated ? lgv_example_input(g, "scale", 2, d0, c, 0, 0) : LGV_NONE;
    lgv_id shift = modulated ? lgv_example_input(g, "shift", 2, d0, c, 0, 0) : LGV_NONE;
    return lgv_norm_modulate_act(g, x, gamma, beta, scale, shift, groups, 1e-5, act);
}
static lgv_id example_fused_silu(lgv_graph *g)
{
    return example_fused(g, 4, 2, 5, 3, 12, 4, false, LGV_ACT_SILU);
}
static lgv_id example_fused_all(lgv_graph *g)
{
    return example_fused(g, 4, 3, 3, 5, 10, 5, true, LGV_ACT_SILU);
}
static lgv_id example_fused_mish(lgv_graph *g)
{
    return example_fused(g, 3, 2, 7, 33, 0, 3, true, LGV_ACT_MISH);
}
static lgv_id example_fused_gelu(lgv_graph *g)
{
    return example_fused(g, 4, 1, 4, 5, 18, 2, false, LGV_ACT_GELU);
}
static lgv_id example_fused_none(lgv_graph *g)
{
    return example_fused(g, 2, 3, 24, 0, 0, 3, true, LGV_ACT_NONE);
}
static const lgv_example examples_fused[] = {{"silu", example_fused_silu},
                                             {"modulated silu", example_fused_all},
                                             {"modulated mish", example_fused_mish},
                                             {"gelu", example_fused_gelu},
                                             {"modulated only", example_fused_none}};

const lgv_op lgv_op_norm_modulate_act = {.name = "norm_modulate_act",
                                         .doc =
                                             "act(group_norm(x)*(1 + scale[N,C]) + shift[N,C]); "
                                             "scale and shift may both be absent; also mean, rstd",
                                         .attr_size = sizeof(lgv_attr_norm),
                                         .min_in = 3,
                                         .max_in = 5,
                                         .n_out = 3,
                                         .flags = LGV_OP_INPLACE0 | LGV_OP_CHEAP | LGV_OP_MIXED,
                                         .bf16_in = 1,
                                         .bf16_out = 1,
                                         .infer = infer_norm_modulate_act,
                                         .grad = grad_norm_modulate_act,
                                         .flops = flops_norm,
                                         LGV_EXAMPLES(examples_fused)};

lgv_id lgv_norm_modulate_act(lgv_graph *g, lgv_id x, lgv_id gamma, lgv_id beta, lgv_id scale,
                             lgv_id shift, int groups, double eps, lgv_act_kind act)
{
    const lgv_attr_norm attr = {groups, eps, (int)act};
    const int n_in = scale == LGV_NONE && shift == LGV_NONE ? 3 : 5;
    return lgv_node_new(g, LGV_OP_norm_modulate_act, "norm_modulate_act", n_in,
                        (const lgv_id[]){x, gamma, beta, scale, shift}, &attr);
}

static lgv_status infer_norm_modulate_act_grad(lgv_infer *c, lgv_error *err)
{
    const lgv_value *scale = c->n_in > 6 ? c->in[6] : NULL, *shift = c->n_in > 7 ? c->in[7] : NULL;
    LGV_TRY(infer_norm_grad(c, 4, err));
    LGV_TRY(want_modulation(c->in[1], scale, shift, err));
    c->n_out = scale ? 5 : 3;
    for (int i = 3; i < c->n_out; i++) lgv_like(&c->out[i], scale);
    return LGV_OK;
}

static lgv_id example_fused_grad(lgv_graph *g, lgv_id y, int rank, int64_t d0, int64_t d1,
                                 int64_t d2, int64_t d3)
{
    if (y < 0) return y;
    const lgv_node n = *lgv_node_of(g, y);
    const lgv_id dy = lgv_example_input(g, "dy", rank, d0, d1, d2, d3);
    const lgv_id in[8] = {dy,
                          n.in[0],
                          n.in[1],
                          n.in[2],
                          n.out[1],
                          n.out[2],
                          n.n_in > 3 ? n.in[3] : LGV_NONE,
                          n.n_in > 4 ? n.in[4] : LGV_NONE};
    return lgv_norm_modulate_act_grad(g, in, n.attr);
}
static lgv_id example_fused_grad_silu(lgv_graph *g)
{
    return example_fused_grad(g, example_fused_silu(g), 4, 2, 5, 3, 12);
}
static lgv_id example_fused_grad_all(lgv_graph *g)
{
    return example_fused_grad(g, example_fused_all(g), 4, 3, 3, 5, 10);
}
static const lgv_example examples_fused_grad[] = {{"silu", example_fused_grad_silu},
                                                  {"modulated silu", example_fused_grad_all}};

const lgv_op lgv_op_norm_modulate_act_grad = {
    .name = "norm_modulate_act_grad",
    .doc = "gradient of norm_modulate_act from dy, x, gamma, beta, mean, rstd, scale, shift: dx, "
           "dgamma, dbeta, dscale, dshift",
    .attr_size = sizeof(lgv_attr_norm),
    .min_in = 6,
    .max_in = 8,
    .n_out = 5,
    .flags = LGV_OP_INPLACE0 | LGV_OP_MIXED,
    .bf16_in = 1 | 2,
    .bf16_out = 1,
    .infer = infer_norm_modulate_act_grad,
    .no_grad = LGV_SECOND,
    .flops = flops_norm_grad,
    LGV_EXAMPLES(examples_fused_grad)};

lgv_id lgv_norm_modulate_act_grad(lgv_graph *g, const lgv_id in[8], const lgv_attr_norm *attr)
{
    const lgv_attr_norm copy = *attr; /* attr may belong to a node of g */
    return lgv_node_new(g, LGV_OP_norm_modulate_act_grad, "norm_modulate_act_grad",
                        in[6] == LGV_NONE ? 6 : 8, in, &copy);
}
