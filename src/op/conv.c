/* conv.c - two-dimensional convolution: shapes, gradients, examples.
   The gradients are operators of their own, so that each device can bring a kernel for each of the three. */
#include <string.h>

#include "graph/node.h"

static lgv_status check_window(const lgv_attr_conv *a, const lgv_value *w, lgv_error *err)
{
    if (a->stride < 1)
        return lgv_fail(err, LGV_ERR_ARGUMENT, "the stride is %d; it must be at least 1",
                        a->stride);
    for (int i = 0; i < 4; i++)
        if (a->pad[i] < 0)
            return lgv_fail(err, LGV_ERR_ARGUMENT, "the padding is %d; it must not be negative",
                            a->pad[i]);
    if (w->rank != 4) {
        char text[96];
        return lgv_fail(err, LGV_ERR_SHAPE,
                        "the weight has shape %s; it must be [out,in,height,width]",
                        lgv_shape_text(w, text));
    }
    return LGV_OK;
}

static lgv_status check_float(const char *what, const lgv_value *v, lgv_error *err)
{
    if (v->dtype == LGV_F32 || v->dtype == LGV_BF16) return LGV_OK;
    return lgv_fail(err, LGV_ERR_ARGUMENT, "%s is %s; it must be F32 or BF16", what,
                    lgv_dtype_name(v->dtype));
}

static lgv_status check_shape(const char *what, const lgv_value *v, int rank, int64_t d0,
                              int64_t d1, lgv_error *err)
{
    if (!v || (v->rank == rank && v->dim[0] == d0 && v->dim[1] == d1)) return LGV_OK;
    char text[96], wanted[96];
    lgv_value like = {.rank = rank, .dim = {d0, d1, 1, 1}};
    return lgv_fail(err, LGV_ERR_SHAPE, "%s has shape %s; it must be %s", what,
                    lgv_shape_text(v, text), lgv_shape_text(&like, wanted));
}

/* Extent of the output along one axis. */
static lgv_status out_extent(const char *axis, int64_t in, int64_t before, int64_t after,
                             int64_t window, int stride, int64_t *out, lgv_error *err)
{
    int64_t room = in + before + after - window;
    if (room < 0)
        return lgv_fail(
            err, LGV_ERR_SHAPE,
            "the input's %s of %lld plus a padding of %lld and %lld is less than the window's %lld",
            axis, (long long)in, (long long)before, (long long)after, (long long)window);
    *out = room / stride + 1;
    return LGV_OK;
}

/* Shape of y for input shape x and weights w. */
static lgv_status conv_shape(const lgv_attr_conv *a, const int64_t *x, const lgv_value *w,
                             int64_t y[4], lgv_error *err)
{
    if (x[3] != w->dim[1])
        return lgv_fail(err, LGV_ERR_SHAPE, "the input has %lld channels, the weight wants %lld",
                        (long long)x[3], (long long)w->dim[1]);
    y[0] = x[0];
    y[3] = w->dim[0];
    LGV_TRY(out_extent("height", x[1], a->pad[0], a->pad[2], w->dim[2], a->stride, &y[1], err));
    return out_extent("width", x[2], a->pad[1], a->pad[3], w->dim[3], a->stride, &y[2], err);
}

static lgv_status conv2d_infer(lgv_infer *c, lgv_error *err)
{
    const lgv_value *x = c->in[LGV_IN_X], *w = c->in[LGV_IN_W];
    char text[96];
    int64_t y[4];
    LGV_TRY(check_window(c->attr, w, err));
    LGV_TRY(check_float("the input", x, err));
    if (x->rank != 4)
        return lgv_fail(err, LGV_ERR_SHAPE, "the input has shape %s; it must be [N,H,W,C]",
                        lgv_shape_text(x, text));
    LGV_TRY(conv_shape(c->attr, x->dim, w, y, err));
    LGV_TRY(check_shape("the bias", c->in[LGV_IN_BIAS], 1, y[3], 1, err));
    LGV_TRY(check_shape("the row vector", c->in[LGV_IN_ROW], 2, y[0], y[3], err));
    LGV_TRY(check_shape("the gate", c->in[LGV_IN_GATE], 2, y[0], y[3], err));
    lgv_set_shape(&c->out[0], x->dtype, 4, y[0], y[1], y[2], y[3]);
    const lgv_value *residual = c->in[LGV_IN_RESIDUAL];
    if (residual && !lgv_same_shape(residual, &c->out[0]))
        return lgv_fail(err, LGV_ERR_SHAPE, "the residual has shape %s; it must be the output's",
                        lgv_shape_text(residual, text));
    return LGV_OK;
}

/* dy must have the shape that x and w give. */
static lgv_status check_dy(const lgv_attr_conv *a, const int64_t *x, const lgv_value *w,
                           const lgv_value *dy, lgv_error *err)
{
    int64_t y[4];
    char text[96];
    LGV_TRY(check_window(a, w, err));
    LGV_TRY(check_float("the output's gradient", dy, err));
    LGV_TRY(conv_shape(a, x, w, y, err));
    if (dy->rank == 4 && !memcmp(dy->dim, y, sizeof y)) return LGV_OK;
    return lgv_fail(err, LGV_ERR_SHAPE,
                    "the output's gradient has shape %s; it must be [%lld,%lld,%lld,%lld]",
                    lgv_shape_text(dy, text), (long long)y[0], (long long)y[1], (long long)y[2],
                    (long long)y[3]);
}

static lgv_status grad_x_infer(lgv_infer *c, lgv_error *err)
{
    const lgv_attr_conv *a = c->attr;
    LGV_TRY(check_dy(a, a->dim, c->in[1], c->in[0], err));
    lgv_set_shape(&c->out[0], c->in[0]->dtype, 4, a->dim[0], a->dim[1], a->dim[2], a->dim[3]);
    return LGV_OK;
}

static lgv_status grad_w_infer(lgv_infer *c, lgv_error *err)
{
    const lgv_attr_conv *a = c->attr;
    const lgv_value *x = c->in[0];
    char text[96];
    lgv_set_shape(&c->out[0], LGV_F32, 4, a->dim[0], a->dim[1], a->dim[2], a->dim[3]);
    if (x->rank != 4)
        return lgv_fail(err, LGV_ERR_SHAPE, "the input has shape %s; it must be [N,H,W,C]",
                        lgv_shape_text(x, text));
    return check_dy(a, x->dim, &c->out[0], c->in[1], err);
}

static lgv_attr_conv make_attr(const lgv_attr_conv *like, const int64_t *dim)
{
    lgv_attr_conv a;
    memset(&a, 0, sizeof a);
    a.stride = like->stride;
    memcpy(a.pad, like->pad, sizeof a.pad);
    if (dim) memcpy(a.dim, dim, sizeof a.dim);
    return a;
}

lgv_id lgv_conv2d(lgv_graph *g, lgv_id x, lgv_id w, lgv_id bias, lgv_conv_attr attr)
{
    lgv_attr_conv like = {.stride = attr.stride};
    memcpy(like.pad, attr.pad, sizeof like.pad);
    lgv_attr_conv a = make_attr(&like, NULL);
    lgv_id in[] = {x, w, bias};
    return lgv_node_new(g, LGV_OP_conv2d, "", bias == LGV_NONE ? 2 : 3, in, &a);
}

static lgv_id conv2d_grad_x(lgv_graph *g, lgv_id dy, lgv_id w, const lgv_attr_conv *attr,
                            const int64_t *x_dim)
{
    lgv_attr_conv a = make_attr(attr, x_dim);
    return lgv_node_new(g, LGV_OP_conv2d_grad_x, "grad_x", 2, (lgv_id[]){dy, w}, &a);
}

static lgv_id conv2d_grad_w(lgv_graph *g, lgv_id x, lgv_id dy, const lgv_attr_conv *attr,
                            const int64_t *w_dim)
{
    lgv_attr_conv a = make_attr(attr, w_dim);
    return lgv_node_new(g, LGV_OP_conv2d_grad_w, "grad_w", 2, (lgv_id[]){x, dy}, &a);
}

static void conv2d_grad(lgv_graph *g, lgv_id y, const lgv_id *dout, const bool *need, lgv_id *din)
{
    const lgv_node n = *lgv_node_of(g, y); /* a copy: emitting nodes may move the array */
    lgv_id x = n.in[LGV_IN_X], w = n.in[LGV_IN_W];
    int64_t x_dim[4], w_dim[4];
    lgv_shape(g, x, x_dim);
    lgv_shape(g, w, w_dim);
    if (need[LGV_IN_X]) din[LGV_IN_X] = conv2d_grad_x(g, dout[0], w, n.attr, x_dim);
    if (need[LGV_IN_W]) din[LGV_IN_W] = conv2d_grad_w(g, x, dout[0], n.attr, w_dim);
    if (need[LGV_IN_BIAS]) din[LGV_IN_BIAS] = lgv_sum_rows(g, dout[0]);
}

/* 2 per multiply-add; the window's work on padding counts, as is usual. */
static double conv_flops(const lgv_value *y, const lgv_value *w)
{
    return 2.0 * (double)lgv_value_elements(y) * (double)w->dim[1] *
           (double)(w->dim[2] * w->dim[3]);
}

static double conv2d_flops(const lgv_graph *g, const lgv_node *n)
{
    return conv_flops(lgv_val(g, n->out[0]), lgv_val(g, n->in[1]));
}

static double grad_x_flops(const lgv_graph *g, const lgv_node *n)
{
    return conv_flops(lgv_val(g, n->in[0]), lgv_val(g, n->in[1]));
}

static double grad_w_flops(const lgv_graph *g, const lgv_node *n)
{
    return conv_flops(lgv_val(g, n->in[1]), lgv_val(g, n->out[0]));
}

/* --- Examples ------------------------------------------------------------------------------------- */
typedef struct conv_case {
    int64_t x[4], w[4];
    lgv_conv_attr attr;
    bool bias;
} conv_case;

static const conv_case same3 = {{2, 5, 7, 6}, {9, 6, 3, 3}, {1, {1, 1, 1, 1}}, true};
static const conv_case one_channel = {{2, 6, 5, 1}, {19, 1, 3, 3}, {1, {1, 1, 1, 1}}, true};
static const conv_case three_out = {{1, 6, 6, 17}, {3, 17, 3, 3}, {1, {1, 1, 1, 1}}, true};
static const conv_case three_in = {{2, 7, 6, 3}, {20, 3, 3, 3}, {1, {1, 1, 1, 1}}, false};
static const conv_case pointwise = {{3, 3, 5, 18}, {7, 18, 1, 1}, {1, {0, 0, 0, 0}}, true};
static const conv_case stride2 = {{2, 8, 6, 5}, {6, 5, 3, 3}, {2, {1, 1, 1, 1}}, true};
static const conv_case asymmetric = {{1, 7, 9, 4}, {5, 4, 3, 3}, {2, {0, 0, 1, 1}}, true};
static const conv_case patches = {{2, 6, 9, 4}, {11, 4, 3, 3}, {3, {0, 0, 0, 0}}, true};
static const conv_case oblong = {{1, 5, 8, 3}, {4, 3, 2, 4}, {1, {1, 0, 0, 2}}, false};
static const conv_case tiny = {{1, 1, 1, 2}, {3, 2, 3, 3}, {1, {1, 1, 1, 1}}, true};
static const conv_case wide = {{1, 4, 4, 40}, {34, 40, 3, 3}, {1, {1, 1, 1, 1}}, true};
static const conv_case tiles = {{2, 5, 9, 33}, {34, 33, 3, 3}, {1, {1, 1, 1, 1}}, true};

static lgv_id build_forward(lgv_graph *g, const conv_case *c)
{
    lgv_id x = lgv_input(g, "x", LGV_F32, 4, c->x), w = lgv_input(g, "w", LGV_F32, 4, c->w);
    lgv_id bias = c->bias ? lgv_input(g, "bias", LGV_F32, 1, &c->w[0]) : LGV_NONE;
    return lgv_conv2d(g, x, w, bias, c->attr);
}

static lgv_attr_conv case_attr(const conv_case *c)
{
    lgv_attr_conv a = {.stride = c->attr.stride};
    memcpy(a.pad, c->attr.pad, sizeof a.pad);
    return a;
}

static lgv_id dy_input(lgv_graph *g, const conv_case *c)
{
    int64_t y[4];
    lgv_attr_conv a = case_attr(c);
    lgv_value w = {.rank = 4};
    memcpy(w.dim, c->w, sizeof w.dim);
    if (conv_shape(&a, c->x, &w, y, NULL)) return LGV_NONE;
    return lgv_input(g, "dy", LGV_F32, 4, y);
}

static lgv_id build_grad_x(lgv_graph *g, const conv_case *c)
{
    lgv_attr_conv a = case_attr(c);
    return conv2d_grad_x(g, dy_input(g, c), lgv_input(g, "w", LGV_F32, 4, c->w), &a, c->x);
}

static lgv_id build_grad_w(lgv_graph *g, const conv_case *c)
{
    lgv_attr_conv a = case_attr(c);
    lgv_id x = lgv_input(g, "x", LGV_F32, 4, c->x);
    return conv2d_grad_w(g, x, dy_input(g, c), &a, c->w);
}

#define CASES(X)                                                                                   \
    X(same3)                                                                                       \
    X(one_channel)                                                                                 \
    X(three_out)                                                                                   \
    X(three_in) X(pointwise) X(stride2) X(asymmetric) X(patches) X(oblong) X(tiny) X(wide) X(tiles)
#define BUILD(name)                                                                                \
    static lgv_id forward_##name(lgv_graph *g)                                                     \
    {                                                                                              \
        return build_forward(g, &name);                                                            \
    }                                                                                              \
    static lgv_id grad_x_##name(lgv_graph *g)                                                      \
    {                                                                                              \
        return build_grad_x(g, &name);                                                             \
    }                                                                                              \
    static lgv_id grad_w_##name(lgv_graph *g)                                                      \
    {                                                                                              \
        return build_grad_w(g, &name);                                                             \
    }
CASES(BUILD)
#define FORWARD(name) {#name, forward_##name},
#define GRAD_X(name)  {#name, grad_x_##name},
#define GRAD_W(name)  {#name, grad_w_##name},
static const lgv_example forward_examples[] = {CASES(FORWARD)};
static const lgv_example grad_x_examples[] = {CASES(GRAD_X)};
static const lgv_example grad_w_examples[] = {CASES(GRAD_W)};
enum { EXAMPLES = sizeof forward_examples / sizeof *forward_examples };

const lgv_op lgv_op_conv2d = {
    .name = "conv2d",
    .doc = "y[N,Ho,Wo,K] = act(x[N,H,W,C] * w[K,C,kh,kw] + bias[K] + row[N,K] + residual) * "
           "gate[N,K], cross-correlation.",
    .attr_size = sizeof(lgv_attr_conv),
    .min_in = 2,
    .max_in = LGV_EPILOGUE_INPUTS,
    .n_out = 1,
    .bf16_in = 1 << LGV_IN_X | 1 << LGV_IN_RESIDUAL,
    .bf16_out = 1,
    .infer = conv2d_infer,
    .grad = conv2d_grad,
    .flops = conv2d_flops,
    .examples = forward_examples,
    .n_examples = EXAMPLES,
};

const lgv_op lgv_op_conv2d_grad_x = {
    .name = "conv2d_grad_x",
    .doc = "dx[N,H,W,C] of conv2d from dy[N,Ho,Wo,K] and w[K,C,kh,kw].",
    .attr_size = sizeof(lgv_attr_conv),
    .min_in = 2,
    .max_in = 2,
    .n_out = 1,
    .bf16_in = 1,
    .bf16_out = 1,
    .infer = grad_x_infer,
    .no_grad = "it is itself a gradient; second derivatives are not needed",
    .flops = grad_x_flops,
    .examples = grad_x_examples,
    .n_examples = EXAMPLES,
};

const lgv_op lgv_op_conv2d_grad_w = {
    .name = "conv2d_grad_w",
    .doc = "dw[K,C,kh,kw] of conv2d from x[N,H,W,C] and dy[N,Ho,Wo,K].",
    .attr_size = sizeof(lgv_attr_conv),
    .min_in = 2,
    .max_in = 2,
    .n_out = 1,
    .bf16_in = 1 | 2,
    .infer = grad_w_infer,
    .no_grad = "it is itself a gradient; second derivatives are not needed",
    .flops = grad_w_flops,
    .examples = grad_w_examples,
    .n_examples = EXAMPLES,
};
