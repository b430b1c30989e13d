/* patches.c - pictures as rows of patches (arXiv 2212.09748, sec. 3.2): patches to pixels and back, and the fixed table
   of positions. */
#include "op.h"

/* [N,H,W,p*p*C] -> [N,pH,pW,C], or with back the other way. */
static lgv_status infer_patches(lgv_infer *c, bool back, lgv_error *err)
{
    const int p = ((const lgv_attr_patch *)c->attr)->patch;
    const lgv_value *x = c->in[0];
    LGV_TRY(lgv_want_float(x, "input", 4, 4, err));
    if (p < 1 || p > 1024)
        return lgv_fail(err, LGV_ERR_ARGUMENT, "patches of %d pixels; 1 to 1024 are possible", p);
    if (back ? x->dim[1] % p || x->dim[2] % p : x->dim[3] % ((int64_t)p * p) != 0) {
        char text[96];
        return lgv_fail(err, LGV_ERR_SHAPE, "the input %s cannot be cut into patches of %dx%d",
                        lgv_shape_text(x, text), p, p);
    }
    lgv_like(&c->out[0], x);
    for (int i = 1; i < 3; i++)
        c->out[0].dim[i] = back ? x->dim[i] / p : x->dim[i] * p;
    c->out[0].dim[3] = back ? x->dim[3] * p * p : x->dim[3] / ((int64_t)p * p);
    return LGV_OK;
}

static double flops_none(const lgv_graph *g, const lgv_node *n)
{
    (void)g;
    (void)n;
    return 0;
}

/* --- unpatchify --------------------------------------------------------------------------------- */
static lgv_status infer_unpatchify(lgv_infer *c, lgv_error *err)
{
    return infer_patches(c, false, err);
}

static void grad_unpatchify(lgv_graph *g, lgv_id y, const lgv_id *dout, const bool *need,
                            lgv_id *din)
{
    (void)need;
    din[0] = lgv_patchify(g, dout[0], ((const lgv_attr_patch *)lgv_node_of(g, y)->attr)->patch);
}

static lgv_id example_unpatchify2(lgv_graph *g)
{
    return lgv_unpatchify(g, lgv_example_input(g, "x", 4, 2, 3, 5, 12), 2);
}
static lgv_id example_unpatchify3(lgv_graph *g)
{
    return lgv_unpatchify(g, lgv_example_input(g, "x", 4, 1, 2, 3, 63), 3);
}
static const lgv_example examples_unpatchify[] = {{"2x3x5x12", example_unpatchify2},
                                                  {"1x2x3x63", example_unpatchify3}};

const lgv_op lgv_op_unpatchify = {.name = "unpatchify",
                                  .doc = "[N,H,W,p*p*C] -> [N,pH,pW,C]: channel (i*p + j)*C + c "
                                         "becomes pixel i, j of the patch",
                                  .attr_size = sizeof(lgv_attr_patch),
                                  .min_in = 1,
                                  .max_in = 1,
                                  .n_out = 1,
                                  .bf16_in = 1,
                                  .bf16_out = 1,
                                  .infer = infer_unpatchify,
                                  .grad = grad_unpatchify,
                                  .flops = flops_none,
                                  LGV_EXAMPLES(examples_unpatchify)};

lgv_id lgv_unpatchify(lgv_graph *g, lgv_id x, int patch)
{
    const lgv_attr_patch attr = {patch};
    return lgv_node_new(g, LGV_OP_unpatchify, "unpatchify", 1, &x, &attr);
}

/* --- patchify ----------------------------------------------------------------------------------- */
static lgv_status infer_patchify(lgv_infer *c, lgv_error *err)
{
    return infer_patches(c, true, err);
}

static void grad_patchify(lgv_graph *g, lgv_id y, const lgv_id *dout, const bool *need, lgv_id *din)
{
    (void)need;
    din[0] = lgv_unpatchify(g, dout[0], ((const lgv_attr_patch *)lgv_node_of(g, y)->attr)->patch);
}

static lgv_id example_patchify(lgv_graph *g)
{
    return lgv_patchify(g, lgv_example_input(g, "x", 4, 2, 6, 4, 5), 2);
}
static const lgv_example examples_patchify[] = {{"2x6x4x5", example_patchify}};

const lgv_op lgv_op_patchify = {.name = "patchify",
                                .doc = "[N,pH,pW,C] -> [N,H,W,p*p*C], undoes unpatchify",
                                .attr_size = sizeof(lgv_attr_patch),
                                .min_in = 1,
                                .max_in = 1,
                                .n_out = 1,
                                .bf16_in = 1,
                                .bf16_out = 1,
                                .infer = infer_patchify,
                                .grad = grad_patchify,
                                .flops = flops_none,
                                LGV_EXAMPLES(examples_patchify)};

lgv_id lgv_patchify(lgv_graph *g, lgv_id x, int patch)
{
    const lgv_attr_patch attr = {patch};
    return lgv_node_new(g, LGV_OP_patchify, "patchify", 1, &x, &attr);
}

/* --- add_positions ------------------------------------------------------------------------------ */
static lgv_status infer_add_positions(lgv_infer *c, lgv_error *err)
{
    const lgv_attr_positions *a = c->attr;
    LGV_TRY(lgv_want_float(c->in[0], "input", 4, 4, err));
    if (lgv_channels(c->in[0]) % 4)
        return lgv_fail(err, LGV_ERR_SHAPE,
                        "the input has %lld channels; positions need a multiple of 4",
                        (long long)lgv_channels(c->in[0]));
    if (a->base_h < 0 || a->base_w < 0)
        return lgv_fail(err, LGV_ERR_ARGUMENT, "a base of %dx%d positions is negative", a->base_h,
                        a->base_w);
    lgv_like(&c->out[0], c->in[0]);
    return LGV_OK;
}

static void grad_add_positions(lgv_graph *g, lgv_id y, const lgv_id *dout, const bool *need,
                               lgv_id *din)
{
    (void)g;
    (void)y;
    (void)need;
    din[0] = dout[0];
}

static lgv_id example_positions(lgv_graph *g)
{
    return lgv_add_positions(g, lgv_example_input(g, "x", 4, 2, 3, 5, 20), 0, 0);
}
static lgv_id example_positions_scaled(lgv_graph *g)
{
    return lgv_add_positions(g, lgv_example_input(g, "x", 4, 1, 4, 7, 8), 3, 5);
}
static const lgv_example examples_add_positions[] = {{"2x3x5x20", example_positions},
                                                     {"scaled", example_positions_scaled}};

const lgv_op lgv_op_add_positions = {
    .name = "add_positions",
    .doc = "x[N,H,W,C] + sines and cosines of the column (first half of the channels) and the row",
    .attr_size = sizeof(lgv_attr_positions),
    .min_in = 1,
    .max_in = 1,
    .n_out = 1,
    .flags = LGV_OP_INPLACE0,
    .bf16_in = 1,
    .bf16_out = 1,
    .infer = infer_add_positions,
    .grad = grad_add_positions,
    LGV_EXAMPLES(examples_add_positions)};

lgv_id lgv_add_positions(lgv_graph *g, lgv_id x, int base_h, int base_w)
{
    const lgv_attr_positions attr = {base_h, base_w};
    return lgv_node_new(g, LGV_OP_add_positions, "add_positions", 1, &x, &attr);
}
