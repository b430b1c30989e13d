/* linear_attention.c - attention whose cost grows linearly with the positions: shapes, gradient, examples.
   The weights are an output, so that the gradient needs k no more. */
#include "op.h"

static lgv_status infer_linear_attention(lgv_infer *c, lgv_error *err)
{
    const lgv_value *q = c->in[0];
    static const char *const names[] = {"q", "k", "v"};
    for (int i = 0; i < 3; i++) {
        LGV_TRY(lgv_want_float(c->in[i], names[i], 3, 4, err));
        if (lgv_same_shape(q, c->in[i])) continue;
        char text[96], other[96];
        return lgv_fail(err, LGV_ERR_SHAPE, "q has shape %s and %s %s; they must be equal",
                        lgv_shape_text(q, text), names[i], lgv_shape_text(c->in[i], other));
    }
    lgv_like(&c->out[0], q);
    lgv_like(&c->out[1], c->in[1]);
    return LGV_OK;
}

static lgv_status infer_linear_attention_grad(lgv_infer *c, lgv_error *err)
{
    for (int i = 0; i < 4; i++) {
        LGV_TRY(lgv_want_float(c->in[i], "an operand", 3, 4, err));
        if (!lgv_same_shape(c->in[0], c->in[i]))
            return lgv_fail(err, LGV_ERR_SHAPE, "q, p, v and dy must have one shape");
    }
    for (int i = 0; i < 3; i++) lgv_like(&c->out[i], c->in[i]);
    return LGV_OK;
}

static lgv_id linear_attention_grad(lgv_graph *g, lgv_id q, lgv_id p, lgv_id v, lgv_id dy)
{
    return lgv_node_new(g, LGV_OP_linear_attention_grad, "grad", 4, (const lgv_id[]){q, p, v, dy},
                        NULL);
}

static void grad_linear_attention(lgv_graph *g, lgv_id y, const lgv_id *dout, const bool *need,
                                  lgv_id *din)
{
    const lgv_node n = *lgv_node_of(g, y);
    if (dout[0] == LGV_NONE || dout[1] != LGV_NONE) {
        lgv_graph_fail(g, LGV_ERR_UNSUPPORTED,
                       "linear_attention '%s': no gradient flows through its weights", n.name);
        return;
    }
    lgv_id dq = linear_attention_grad(g, n.in[0], n.out[1], n.in[2], dout[0]);
    for (int i = 0; i < 3; i++)
        if (need[i]) din[i] = lgv_output_of(g, dq, i);
}

/* Products of L x C x C: two, and six. */
static double flops_products(const lgv_graph *g, const lgv_node *n, double products)
{
    const lgv_value *q = lgv_val(g, n->in[0]);
    return products * 2 * (double)lgv_value_elements(q) * (double)lgv_channels(q);
}
static double flops_linear_attention(const lgv_graph *g, const lgv_node *n)
{
    return flops_products(g, n, 2);
}
static double flops_linear_attention_grad(const lgv_graph *g, const lgv_node *n)
{
    return flops_products(g, n, 6);
}

static lgv_id example(lgv_graph *g, int rank, int64_t a, int64_t b, int64_t c, int64_t d)
{
    lgv_id q = lgv_example_input(g, "q", rank, a, b, c, d);
    lgv_id k = lgv_example_input(g, "k", rank, a, b, c, d);
    return lgv_linear_attention(g, q, k, lgv_example_input(g, "v", rank, a, b, c, d));
}
static lgv_id example_picture(lgv_graph *g)
{
    return example(g, 4, 2, 3, 5, 7);
}
static lgv_id example_tokens(lgv_graph *g)
{
    return example(g, 3, 1, 11, 37, 0);
}
static lgv_id example_single(lgv_graph *g)
{
    return example(g, 3, 2, 1, 3, 0);
}
static const lgv_example examples_linear_attention[] = {
    {"picture", example_picture}, {"tokens", example_tokens}, {"one position", example_single}};

static lgv_id example_grad(lgv_graph *g, int rank, int64_t a, int64_t b, int64_t c, int64_t d)
{
    lgv_id q = lgv_example_input(g, "q", rank, a, b, c, d);
    lgv_id p = lgv_example_input(g, "p_weights", rank, a, b, c, d);
    lgv_id v = lgv_example_input(g, "v", rank, a, b, c, d);
    return linear_attention_grad(g, q, p, v, lgv_example_input(g, "dy", rank, a, b, c, d));
}
static lgv_id example_grad_picture(lgv_graph *g)
{
    return example_grad(g, 4, 2, 3, 5, 7);
}
static lgv_id example_grad_tokens(lgv_graph *g)
{
    return example_grad(g, 3, 1, 11, 37, 0);
}
static const lgv_example examples_linear_attention_grad[] = {{"picture", example_grad_picture},
                                                             {"tokens", example_grad_tokens}};

const lgv_op lgv_op_linear_attention = {
    .name = "linear_attention",
    .doc = "y = q (p^T v), p the softmax of k over the positions, channel by channel; outputs y, p",
    .min_in = 3,
    .max_in = 3,
    .n_out = 2,
    .bf16_in = 1 | 2 | 4,
    .bf16_out = 1 | 2,
    .infer = infer_linear_attention,
    .grad = grad_linear_attention,
    .flops = flops_linear_attention,
    LGV_EXAMPLES(examples_linear_attention)};

const lgv_op lgv_op_linear_attention_grad = {
    .name = "linear_attention_grad",
    .doc = "dq, dk, dv of linear_attention from q, p, v, dy",
    .min_in = 4,
    .max_in = 4,
    .n_out = 3,
    .bf16_in = 1 | 2 | 4 | 8,
    .bf16_out = 1 | 2 | 4,
    .infer = infer_linear_attention_grad,
    .no_grad = "second derivatives are not supported",
    .flops = flops_linear_attention_grad,
    LGV_EXAMPLES(examples_linear_attention_grad)};

lgv_id lgv_linear_attention(lgv_graph *g, lgv_id q, lgv_id k, lgv_id v)
{
    return lgv_node_new(g, LGV_OP_linear_attention, "linear_attention", 3,
                        (const lgv_id[]){q, k, v}, NULL);
}
