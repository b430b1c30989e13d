/* linear.c - linear layers over the channels of any value: shapes, gradients, examples. */
#include <string.h>

#include "graph/node.h"

static lgv_status check_matrix(const lgv_value *w, lgv_error *err)
{
    char text[96];
    if (w->rank == 2) return LGV_OK;
    return lgv_fail(err, LGV_ERR_SHAPE, "the weight has shape %s; it must be [out,in]",
                    lgv_shape_text(w, text));
}

static lgv_status check_operand(const char *what, const lgv_value *v, lgv_error *err)
{
    char text[96];
    if (v->dtype != LGV_F32 && v->dtype != LGV_BF16)
        return lgv_fail(err, LGV_ERR_ARGUMENT, "%s is %s; it must be F32 or BF16", what,
                        lgv_dtype_name(v->dtype));
    if (v->rank < 2)
        return lgv_fail(err, LGV_ERR_SHAPE,
                        "%s has shape %s; it must be [N,C], [N,L,C] or [N,H,W,C]", what,
                        lgv_shape_text(v, text));
    return LGV_OK;
}

static lgv_status check_rows(const char *what, const lgv_value *v, int64_t n, int64_t k,
                             lgv_error *err)
{
    char text[96];
    if (!v || (v->rank == 2 && v->dim[0] == n && v->dim[1] == k)) return LGV_OK;
    return lgv_fail(err, LGV_ERR_SHAPE, "%s has shape %s; it must be [%lld,%lld]", what,
                    lgv_shape_text(v, text), (long long)n, (long long)k);
}

/* out = like with `channels` channels. */
static void set_channels(lgv_value *out, const lgv_value *like, int64_t channels)
{
    lgv_like(out, like);
    out->dim[out->rank - 1] = channels;
}

static lgv_status linear_infer(lgv_infer *c, lgv_error *err)
{
    const lgv_value *x = c->in[LGV_IN_X], *w = c->in[LGV_IN_W], *bias = c->in[LGV_IN_BIAS];
    char text[96];
    LGV_TRY(check_matrix(w, err));
    LGV_TRY(check_operand("the input", x, err));
    if (lgv_channels(x) != w->dim[1])
        return lgv_fail(err, LGV_ERR_SHAPE, "the input has %lld channels, the weight wants %lld",
                        (long long)lgv_channels(x), (long long)w->dim[1]);
    if (bias && (bias->rank != 1 || bias->dim[0] != w->dim[0]))
        return lgv_fail(err, LGV_ERR_SHAPE, "the bias has shape %s; it must be [%lld]",
                        lgv_shape_text(bias, text), (long long)w->dim[0]);
    LGV_TRY(check_rows("the row vector", c->in[LGV_IN_ROW], x->dim[0], w->dim[0], err));
    LGV_TRY(check_rows("the gate", c->in[LGV_IN_GATE], x->dim[0], w->dim[0], err));
    set_channels(&c->out[0], x, w->dim[0]);
    const lgv_value *residual = c->in[LGV_IN_RESIDUAL];
    if (residual && !lgv_same_shape(residual, &c->out[0]))
        return lgv_fail(err, LGV_ERR_SHAPE, "the residual has shape %s; it must be the output's",
                        lgv_shape_text(residual, text));
    return LGV_OK;
}

static lgv_status grad_x_infer(lgv_infer *c, lgv_error *err)
{
    const lgv_value *dy = c->in[0], *w = c->in[1];
    LGV_TRY(check_matrix(w, err));
    LGV_TRY(check_operand("the output's gradient", dy, err));
    if (lgv_channels(dy) != w->dim[0])
        return lgv_fail(err, LGV_ERR_SHAPE,
                        "the output's gradient has %lld channels, the weight makes %lld",
                        (long long)lgv_channels(dy), (long long)w->dim[0]);
    set_channels(&c->out[0], dy, w->dim[1]);
    return LGV_OK;
}

static lgv_status grad_w_infer(lgv_infer *c, lgv_error *err)
{
    const lgv_value *x = c->in[0], *dy = c->in[1];
    LGV_TRY(check_operand("the input", x, err));
    LGV_TRY(check_operand("the output's gradient", dy, err));
    lgv_value rows;
    set_channels(&rows, x, lgv_channels(dy));
    if (!lgv_same_shape(&rows, dy)) {
        char a[96], b[96];
        return lgv_fail(err, LGV_ERR_SHAPE,
                        "the input %s and the output's gradient %s have different rows",
                        lgv_shape_text(x, a), lgv_shape_text(dy, b));
    }
    lgv_set_shape(&c->out[0], LGV_F32, 2, lgv_channels(dy), lgv_channels(x), 1, 1);
    return LGV_OK;
}

lgv_id lgv_linear(lgv_graph *g, lgv_id x, lgv_id w, lgv_id bias)
{
    lgv_attr_linear attr = {0};
    return lgv_node_new(g, LGV_OP_linear, "", bias == LGV_NONE ? 2 : 3, (lgv_id[]){x, w, bias},
                        &attr);
}

static lgv_id linear_grad_x(lgv_graph *g, lgv_id dy, lgv_id w)
{
    return lgv_node_new(g, LGV_OP_linear_grad_x, "grad_x", 2, (lgv_id[]){dy, w}, NULL);
}

static lgv_id linear_grad_w(lgv_graph *g, lgv_id x, lgv_id dy)
{
    return lgv_node_new(g, LGV_OP_linear_grad_w, "grad_w", 2, (lgv_id[]){x, dy}, NULL);
}

static void linear_grad(lgv_graph *g, lgv_id y, const lgv_id *dout, const bool *need, lgv_id *din)
{
    const lgv_node n = *lgv_node_of(g, y); /* a copy: emitting nodes may move the array */
    if (need[LGV_IN_X]) din[LGV_IN_X] = linear_grad_x(g, dout[0], n.in[LGV_IN_W]);
    if (need[LGV_IN_W]) din[LGV_IN_W] = linear_grad_w(g, n.in[LGV_IN_X], dout[0]);
    if (need[LGV_IN_BIAS]) din[LGV_IN_BIAS] = lgv_sum_rows(g, dout[0]);
}

static double flops_of(const lgv_value *rows, const lgv_value *w)
{
    return 2.0 * (double)(rows->dim[0] * lgv_positions(rows)) * (double)w->dim[0] *
           (double)w->dim[1];
}

static double linear_flops(const lgv_graph *g, const lgv_node *n) /* of grad_x too */
{
    return flops_of(lgv_val(g, n->in[0]), lgv_val(g, n->in[1]));
}

static double grad_w_flops(const lgv_graph *g, const lgv_node *n)
{
    return flops_of(lgv_val(g, n->in[0]), lgv_val(g, n->out[0]));
}

/* --- Examples ------------------------------------------------------------------------------------- */
static lgv_id build_forward(lgv_graph *g, int rank, const int64_t *x, int64_t k, bool bias)
{
    int64_t w[2] = {k, x[rank - 1]};
    lgv_id in = lgv_input(g, "x", LGV_F32, rank, x), weight = lgv_input(g, "w", LGV_F32, 2, w);
    return lgv_linear(g, in, weight, bias ? lgv_input(g, "bias", LGV_F32, 1, w) : LGV_NONE);
}

static lgv_id build_grad(lgv_graph *g, int rank, const int64_t *x, int64_t k, bool of_w)
{
    int64_t w[2] = {k, x[rank - 1]}, y[4];
    memcpy(y, x, (size_t)rank * sizeof *y);
    y[rank - 1] = k;
    lgv_id dy = lgv_input(g, "dy", LGV_F32, rank, y);
    return of_w ? linear_grad_w(g, lgv_input(g, "x", LGV_F32, rank, x), dy)
                : linear_grad_x(g, dy, lgv_input(g, "w", LGV_F32, 2, w));
}

static const int64_t rows[] = {5, 19}, tokens[] = {2, 7, 12}, picture[] = {2, 3, 5, 33},
                     single[] = {1, 1};
static lgv_id forward_rows(lgv_graph *g)
{
    return build_forward(g, 2, rows, 18, true);
}
static lgv_id forward_tokens(lgv_graph *g)
{
    return build_forward(g, 3, tokens, 7, false);
}
static lgv_id forward_picture(lgv_graph *g)
{
    return build_forward(g, 4, picture, 35, true);
}
static lgv_id forward_single(lgv_graph *g)
{
    return build_forward(g, 2, single, 1, true);
}
static lgv_id grad_x_rows(lgv_graph *g)
{
    return build_grad(g, 2, rows, 18, false);
}
static lgv_id grad_x_tokens(lgv_graph *g)
{
    return build_grad(g, 3, tokens, 7, false);
}
static lgv_id grad_x_picture(lgv_graph *g)
{
    return build_grad(g, 4, picture, 35, false);
}
static lgv_id grad_w_rows(lgv_graph *g)
{
    return build_grad(g, 2, rows, 18, true);
}
static lgv_id grad_w_tokens(lgv_graph *g)
{
    return build_grad(g, 3, tokens, 7, true);
}
static lgv_id grad_w_picture(lgv_graph *g)
{
    return build_grad(g, 4, picture, 35, true);
}

const lgv_op lgv_op_linear = {
    .name = "linear",
    .doc = "y[..,K] = act(x[..,C] w[K,C]^T + bias[K] + row[N,K] + residual) * gate[N,K].",
    .attr_size = sizeof(lgv_attr_linear),
    .min_in = 2,
    .max_in = LGV_EPILOGUE_INPUTS,
    .n_out = 1,
    .bf16_in = 1 << LGV_IN_X | 1 << LGV_IN_RESIDUAL,
    .bf16_out = 1,
    .infer = linear_infer,
    .grad = linear_grad,
    .flops = linear_flops,
    .examples = (const lgv_example[]){{"rows", forward_rows},
                                      {"tokens", forward_tokens},
                                      {"picture", forward_picture},
                                      {"single", forward_single}},
    .n_examples = 4,
};

const lgv_op lgv_op_linear_grad_x = {
    .name = "linear_grad_x",
    .doc = "dx[..,C] of linear from dy[..,K] and w[K,C].",
    .min_in = 2,
    .max_in = 2,
    .n_out = 1,
    .bf16_in = 1,
    .bf16_out = 1,
    .infer = grad_x_infer,
    .no_grad = "it is itself a gradient; second derivatives are not needed",
    .flops = linear_flops,
    .examples = (const lgv_example[]){{"rows", grad_x_rows},
                                      {"tokens", grad_x_tokens},
                                      {"picture", grad_x_picture}},
    .n_examples = 3,
};

const lgv_op lgv_op_linear_grad_w = {
    .name = "linear_grad_w",
    .doc = "dw[K,C] of linear from x[..,C] and dy[..,K].",
    .min_in = 2,
    .max_in = 2,
    .n_out = 1,
    .bf16_in = 1 | 2,
    .infer = grad_w_infer,
    .no_grad = "it is itself a gradient; second derivatives are not needed",
    .flops = grad_w_flops,
    .examples = (const lgv_example[]){{"rows", grad_w_rows},
                                      {"tokens", grad_w_tokens},
                                      {"picture", grad_w_picture}},
    .n_examples = 3,
};
