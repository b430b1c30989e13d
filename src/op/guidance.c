/* guidance.c - classifier-free guidance (arXiv 2207.12598): the batch is repeated, so that one call of the
   network gives the conditional and the unconditional answer of every picture, and both are combined. */
#include "op.h"

/* --- repeat_rows, fold_rows ---------------------------------------------------------------------- */
static int64_t times_of(const void *attr)
{
    return ((const lgv_attr_repeat *)attr)->times;
}

static lgv_status want_times(int64_t times, lgv_error *err)
{
    if (times >= 1 && times <= 65536) return LGV_OK;
    return lgv_fail(err, LGV_ERR_ARGUMENT, "rows can be repeated 1 to 65536 times, not %lld",
                    (long long)times);
}

static lgv_status infer_repeat(lgv_infer *c, lgv_error *err)
{
    LGV_TRY(lgv_want_float(c->in[0], "input", 2, 4, err));
    LGV_TRY(want_times(times_of(c->attr), err));
    lgv_like(&c->out[0], c->in[0]);
    if (lgv_mul_i64(c->in[0]->dim[0], times_of(c->attr), &c->out[0].dim[0])) return LGV_OK;
    return lgv_fail(err, LGV_ERR_SHAPE, "%lld rows repeated %lld times are too many",
                    (long long)c->in[0]->dim[0], (long long)times_of(c->attr));
}

static lgv_status infer_fold(lgv_infer *c, lgv_error *err)
{
    const int64_t times = times_of(c->attr);
    LGV_TRY(lgv_want_float(c->in[0], "input", 2, 4, err));
    LGV_TRY(want_times(times, err));
    if (c->in[0]->dim[0] % times)
        return lgv_fail(err, LGV_ERR_SHAPE, "%lld rows are no multiple of %lld",
                        (long long)c->in[0]->dim[0], (long long)times);
    lgv_like(&c->out[0], c->in[0]);
    c->out[0].dim[0] /= times;
    return LGV_OK;
}

static void grad_repeat(lgv_graph *g, lgv_id y, const lgv_id *dout, const bool *need, lgv_id *din)
{
    din[0] = lgv_fold_rows(g, dout[0], times_of(lgv_node_of(g, y)->attr));
}

static void grad_fold(lgv_graph *g, lgv_id y, const lgv_id *dout, const bool *need, lgv_id *din)
{
    din[0] = lgv_repeat_rows(g, dout[0], times_of(lgv_node_of(g, y)->attr));
}

static double flops_none(const lgv_graph *g, const lgv_node *n)
{
    return 0;
}

static double flops_fold(const lgv_graph *g, const lgv_node *n)
{
    return (double)lgv_value_elements(lgv_val(g, n->in[0]));
}

static lgv_id example_repeat4(lgv_graph *g)
{
    return lgv_repeat_rows(g, lgv_example_input(g, "x", 4, 2, 3, 5, 7), 2);
}
static lgv_id example_repeat2(lgv_graph *g)
{
    return lgv_repeat_rows(g, lgv_example_input(g, "x", 2, 3, 19, 0, 0), 3);
}
static const lgv_example examples_repeat[] = {{"twice", example_repeat4},
                                              {"three times", example_repeat2}};

const lgv_op lgv_op_repeat_rows = {.name = "repeat_rows",
                                   .doc = "[N,..] -> [times*N,..]: all rows, again and again",
                                   .attr_size = sizeof(lgv_attr_repeat),
                                   .min_in = 1,
                                   .max_in = 1,
                                   .n_out = 1,
                                   .bf16_in = 1,
                                   .bf16_out = 1,
                                   .infer = infer_repeat,
                                   .grad = grad_repeat,
                                   .flops = flops_none,
                                   LGV_EXAMPLES(examples_repeat)};

lgv_id lgv_repeat_rows(lgv_graph *g, lgv_id x, int64_t times)
{
    const lgv_attr_repeat attr = {times};
    return lgv_node_new(g, LGV_OP_repeat_rows, "repeat_rows", 1, &x, &attr);
}

static lgv_id example_fold4(lgv_graph *g)
{
    return lgv_fold_rows(g, lgv_example_input(g, "dy", 4, 4, 3, 3, 5), 2);
}
static lgv_id example_fold3(lgv_graph *g)
{
    return lgv_fold_rows(g, lgv_example_input(g, "dy", 3, 6, 5, 9, 0), 3);
}
static const lgv_example examples_fold[] = {{"in two", example_fold4}, {"in three", example_fold3}};

const lgv_op lgv_op_fold_rows = {.name = "fold_rows",
                                 .doc = "[times*N,..] -> [N,..]: sums of the rows n, N+n, 2N+n ..",
                                 .attr_size = sizeof(lgv_attr_repeat),
                                 .min_in = 1,
                                 .max_in = 1,
                                 .n_out = 1,
                                 .bf16_in = 1,
                                 .bf16_out = 1,
                                 .infer = infer_fold,
                                 .grad = grad_fold,
                                 .flops = flops_fold,
                                 LGV_EXAMPLES(examples_fold)};

lgv_id lgv_fold_rows(lgv_graph *g, lgv_id x, int64_t times)
{
    const lgv_attr_repeat attr = {times};
    return lgv_node_new(g, LGV_OP_fold_rows, "fold_rows", 1, &x, &attr);
}

/* --- guide --------------------------------------------------------------------------------------- */
static lgv_status infer_guide(lgv_infer *c, lgv_error *err)
{
    const lgv_attr_guide *a = c->attr;
    const lgv_value *out = c->in[0];
    LGV_TRY(lgv_want_f32(out, "the network's output", 2, 4, err));
    if (a->rows < 1 || a->rows > out->dim[0])
        return lgv_fail(err, LGV_ERR_SHAPE, "%lld guided rows do not lie among %lld",
                        (long long)a->rows, (long long)out->dim[0]);
    if (a->channels < 0 || a->channels > lgv_channels(out))
        return lgv_fail(err, LGV_ERR_SHAPE, "%lld guided channels are not among %lld",
                        (long long)a->channels, (long long)lgv_channels(out));
    lgv_like(&c->out[0], out);
    c->out[0].dim[0] = a->rows;
    return LGV_OK;
}

static double flops_guide(const lgv_graph *g, const lgv_node *n)
{
    return 8.0 * (double)lgv_value_elements(lgv_val(g, n->out[0]));
}

static lgv_id example_guide4(lgv_graph *g)
{
    return lgv_guide(g, lgv_example_input(g, "out", 4, 6, 3, 5, 7), 3, 0);
}
static lgv_id example_guide_some(lgv_graph *g)
{
    return lgv_guide(g, lgv_example_input(g, "out", 4, 4, 4, 3, 8), 2, 3);
}
static const lgv_example examples_guide[] = {{"all channels", example_guide4},
                                             {"three of eight", example_guide_some}};

const lgv_op lgv_op_guide = {
    .name = "guide",
    .doc =
        "out[R,..] -> y[rows,..]: u + guidance*(c - u) with c row n of out and u its partner, then "
        "rescaled; from each row's guidance, partner and guidance_rescale",
    .attr_size = sizeof(lgv_attr_guide),
    .flags = LGV_OP_STEP,
    .min_in = 1,
    .max_in = 1,
    .n_out = 1,
    .infer = infer_guide,
    .no_grad = "sampling is not differentiated",
    .flops = flops_guide,
    LGV_EXAMPLES(examples_guide)};

lgv_id lgv_guide(lgv_graph *g, lgv_id out, int64_t rows, int64_t channels)
{
    const lgv_attr_guide attr = {rows, channels};
    return lgv_node_new(g, LGV_OP_guide, "guide", 1, &out, &attr);
}
