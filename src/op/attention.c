/* attention.c - multi-head scaled dot-product attention: shapes, gradient, examples.
   The log-sum-exp of each query is an output, so that the gradient can recompute the probabilities
   block by block instead of keeping them. */
#include <string.h>

#include "graph/node.h"

static lgv_status check_tokens(const char *what, const lgv_value *v, lgv_error *err)
{
    char text[96];
    if (v->dtype != LGV_F32 && v->dtype != LGV_BF16)
        return lgv_fail(err, LGV_ERR_ARGUMENT, "%s is %s; it must be F32 or BF16", what,
                        lgv_dtype_name(v->dtype));
    if (v->rank < 3)
        return lgv_fail(err, LGV_ERR_SHAPE, "%s has shape %s; it must be [N,L,C] or [N,H,W,C]",
                        what, lgv_shape_text(v, text));
    return LGV_OK;
}

static lgv_status check_qkv(const lgv_attr_attention *a, const lgv_value *q, const lgv_value *k,
                            const lgv_value *v, lgv_error *err)
{
    char text[96], other[96];
    LGV_TRY(check_tokens("q", q, err));
    LGV_TRY(check_tokens("k", k, err));
    if (!lgv_same_shape(k, v) || k->dtype != v->dtype)
        return lgv_fail(err, LGV_ERR_SHAPE, "k has shape %s and v %s; they must be equal",
                        lgv_shape_text(k, text), lgv_shape_text(v, other));
    if (q->dim[0] != k->dim[0] || lgv_channels(q) != lgv_channels(k))
        return lgv_fail(err, LGV_ERR_SHAPE,
                        "q has shape %s and k %s; rows and channels must be equal",
                        lgv_shape_text(q, text), lgv_shape_text(k, other));
    if (a->heads < 1 || lgv_channels(q) % a->heads)
        return lgv_fail(err, LGV_ERR_SHAPE, "%lld channels cannot be split into %d heads",
                        (long long)lgv_channels(q), a->heads);
    return LGV_OK;
}

static lgv_status attention_infer(lgv_infer *c, lgv_error *err)
{
    const lgv_attr_attention *a = c->attr;
    const lgv_value *q = c->in[0];
    LGV_TRY(check_qkv(a, q, c->in[1], c->in[2], err));
    lgv_like(&c->out[0], q);
    lgv_set_shape(&c->out[1], LGV_F32, 3, q->dim[0], a->heads, lgv_positions(q), 1);
    return LGV_OK;
}

static lgv_status attention_grad_infer(lgv_infer *c, lgv_error *err)
{
    const lgv_attr_attention *a = c->attr;
    const lgv_value *q = c->in[0], *lse = c->in[4];
    LGV_TRY(check_qkv(a, q, c->in[1], c->in[2], err));
    if (!lgv_same_shape(q, c->in[3]) || !lgv_same_shape(q, c->in[5]))
        return lgv_fail(err, LGV_ERR_SHAPE, "the output and its gradient must have the shape of q");
    if (lse->rank != 3 || lse->dim[0] != q->dim[0] || lse->dim[1] != a->heads ||
        lse->dim[2] != lgv_positions(q))
        return lgv_fail(err, LGV_ERR_SHAPE, "the log-sum-exp must be [N,heads,L]");
    for (int i = 0; i < 3; i++) lgv_like(&c->out[i], c->in[i]);
    return LGV_OK;
}

static lgv_attr_attention make_attr(int heads, double scale)
{
    lgv_attr_attention a;
    memset(&a, 0, sizeof a);
    a.heads = heads;
    a.scale = scale;
    return a;
}

lgv_id lgv_attention(lgv_graph *g, lgv_id q, lgv_id k, lgv_id v, int heads, double scale)
{
    lgv_attr_attention a = make_attr(heads, scale);
    return lgv_node_new(g, LGV_OP_attention, "attention", 3, (lgv_id[]){q, k, v}, &a);
}

static void attention_grad(lgv_graph *g, lgv_id y, const lgv_id *dout, const bool *need,
                           lgv_id *din)
{
    const lgv_node n = *lgv_node_of(g, y); /* a copy: emitting nodes may move the array */
    if (dout[0] == LGV_NONE || dout[1] != LGV_NONE) {
        lgv_graph_fail(g, LGV_ERR_UNSUPPORTED,
                       "attention '%s': no gradient flows through its log-sum-exp", n.name);
        return;
    }
    lgv_id in[] = {n.in[0], n.in[1], n.in[2], y, n.out[1], dout[0]};
    lgv_id dq = lgv_node_new(g, LGV_OP_attention_grad, "grad", 6, in, n.attr);
    for (int i = 0; i < 3; i++)
        if (need[i]) din[i] = lgv_output_of(g, dq, i);
}

/* q k^T and p v: 2 products of Lq x Lk x C. */
static double attention_flops(const lgv_graph *g, const lgv_node *n)
{
    const lgv_value *q = lgv_val(g, n->in[0]), *k = lgv_val(g, n->in[1]);
    return 4.0 * (double)lgv_value_elements(q) * (double)lgv_positions(k);
}

/* The scores again, dp, dq, dk, dv: 5 products. */
static double attention_grad_flops(const lgv_graph *g, const lgv_node *n)
{
    return 2.5 * attention_flops(g, n);
}

/* --- Examples ------------------------------------------------------------------------------------- */
static lgv_id build_forward(lgv_graph *g, int rank, const int64_t *q, const int64_t *k, int heads,
                            double scale)
{
    lgv_id a = lgv_input(g, "q", LGV_F32, rank, q);
    lgv_id b = lgv_input(g, "k", LGV_F32, rank, k), c = lgv_input(g, "v", LGV_F32, rank, k);
    return lgv_attention(g, a, b, c, heads, scale);
}

static lgv_id build_grad(lgv_graph *g, int rank, const int64_t *q, const int64_t *k, int heads,
                         double scale)
{
    lgv_attr_attention a = make_attr(heads, scale);
    lgv_value value = {.rank = rank, .dim = {1, 1, 1, 1}};
    memcpy(value.dim, q, (size_t)rank * sizeof *q);
    int64_t lse[3] = {q[0], heads, lgv_positions(&value)};
    lgv_id in[6] = {lgv_input(g, "q", LGV_F32, rank, q),  lgv_input(g, "k", LGV_F32, rank, k),
                    lgv_input(g, "v", LGV_F32, rank, k),  lgv_input(g, "y", LGV_F32, rank, q),
                    lgv_input(g, "lse", LGV_F32, 3, lse), lgv_input(g, "dy", LGV_F32, rank, q)};
    return lgv_node_new(g, LGV_OP_attention_grad, "grad", 6, in, &a);
}

static const int64_t square[] = {2, 3, 3, 12}, tokens[] = {1, 19, 24}, queries[] = {2, 7, 10},
                     keys[] = {2, 5, 10};
static lgv_id forward_picture(lgv_graph *g)
{
    return build_forward(g, 4, square, square, 1, 0.28);
}
static lgv_id forward_heads(lgv_graph *g)
{
    return build_forward(g, 3, tokens, tokens, 3, 0.35);
}
static lgv_id forward_cross(lgv_graph *g)
{
    return build_forward(g, 3, queries, keys, 2, 0.45);
}
static lgv_id grad_picture(lgv_graph *g)
{
    return build_grad(g, 4, square, square, 1, 0.28);
}
static lgv_id grad_heads(lgv_graph *g)
{
    return build_grad(g, 3, tokens, tokens, 3, 0.35);
}
static lgv_id grad_cross(lgv_graph *g)
{
    return build_grad(g, 3, queries, keys, 2, 0.45);
}

const lgv_op lgv_op_attention = {
    .name = "attention",
    .doc = "y = softmax(scale q k^T) v per head; outputs y like q and lse[N,heads,L].",
    .attr_size = sizeof(lgv_attr_attention),
    .min_in = 3,
    .max_in = 3,
    .n_out = 2,
    .bf16_in = 1 | 2 | 4,
    .bf16_out = 1,
    .infer = attention_infer,
    .grad = attention_grad,
    .flops = attention_flops,
    .examples = (const lgv_example[]){{"picture", forward_picture},
                                      {"heads", forward_heads},
                                      {"cross", forward_cross}},
    .n_examples = 3,
};

const lgv_op lgv_op_attention_grad = {
    .name = "attention_grad",
    .doc = "dq, dk, dv of attention from q, k, v, y, lse, dy.",
    .attr_size = sizeof(lgv_attr_attention),
    .min_in = 6,
    .max_in = 6,
    .n_out = 3,
    .bf16_in = 1 | 2 | 4 | 8 | 32,
    .bf16_out = 1 | 2 | 4,
    .infer = attention_grad_infer,
    .no_grad = "it is itself a gradient; second derivatives are not needed",
    .flops = attention_grad_flops,
    .examples = (const lgv_example[]){{"picture", grad_picture},
                                      {"heads", grad_heads},
                                      {"cross", grad_cross}},
    .n_examples = 3,
};
