/* channels.c - joining and cutting along the channels. The planner usually makes these views of one
   buffer; the kernels copy when it cannot. */
#include "op.h"

/* --- concat ------------------------------------------------------------------------------------- */
static lgv_status infer_concat(lgv_infer *c, lgv_error *err)
{
    const lgv_value *a = c->in[0];
    char text_a[96], text_b[96];
    LGV_TRY(lgv_want_float(a, "the first input", 2, 4, err));
    lgv_like(&c->out[0], a);
    for (int k = 1; k < c->n_in; k++) {
        const lgv_value *b = c->in[k];
        LGV_TRY(lgv_want_float(b, k == 1 ? "the second input" : "a later input", 2, 4, err));
        bool fits = a->rank == b->rank && a->dtype == b->dtype;
        for (int i = 0; fits && i + 1 < a->rank; i++) fits = a->dim[i] == b->dim[i];
        if (!fits)
            return lgv_fail(
                err, LGV_ERR_SHAPE,
                "the first input is %s %s and the %s %s %s; all but the channels must be equal",
                lgv_dtype_name(a->dtype), lgv_shape_text(a, text_a), k == 1 ? "second" : "later",
                lgv_dtype_name(b->dtype), lgv_shape_text(b, text_b));
        c->out[0].dim[a->rank - 1] += lgv_channels(b);
    }
    return LGV_OK;
}

static void grad_concat(lgv_graph *g, lgv_id y, const lgv_id *dout, const bool *need, lgv_id *din)
{
    const lgv_node n = *lgv_node_of(g, y);
    int64_t start = 0;
    for (int k = 0; k < n.n_in; k++) {
        const int64_t channels = lgv_channels(lgv_val(g, n.in[k]));
        if (need[k]) din[k] = lgv_slice(g, dout[0], start, channels);
        start += channels;
    }
}

static double flops_none(const lgv_graph *g, const lgv_node *n)
{
    return 0;
}

static lgv_id example_concat4(lgv_graph *g)
{
    return lgv_concat(g, lgv_example_input(g, "a", 4, 2, 3, 4, 5),
                      lgv_example_input(g, "b", 4, 2, 3, 4, 7));
}
static lgv_id example_concat3(lgv_graph *g)
{
    return lgv_concat(g, lgv_example_input(g, "a", 3, 2, 5, 16, 0),
                      lgv_example_input(g, "b", 3, 2, 5, 3, 0));
}
static lgv_id example_concat2(lgv_graph *g)
{
    return lgv_concat(g, lgv_example_input(g, "a", 2, 3, 1, 0, 0),
                      lgv_example_input(g, "b", 2, 3, 9, 0, 0));
}
static lgv_id example_concat_twice(lgv_graph *g) /* one value in both places */
{
    lgv_id a = lgv_example_input(g, "a", 4, 2, 3, 3, 3);
    return lgv_concat(g, a, a);
}
static lgv_id example_concat_many(lgv_graph *g)
{
    const lgv_id in[] = {lgv_example_input(g, "a", 3, 2, 3, 5, 0),
                         lgv_example_input(g, "b", 3, 2, 3, 1, 0),
                         lgv_example_input(g, "c", 3, 2, 3, 17, 0)};
    return lgv_concat_many(g, in, 3);
}
static const lgv_example examples_concat[] = {{"4d", example_concat4},
                                              {"many", example_concat_many},
                                              {"3d", example_concat3},
                                              {"2d", example_concat2},
                                              {"twice the same", example_concat_twice}};

const lgv_op lgv_op_concat = {.name = "concat",
                              .doc = "[..,Ca], [..,Cb] and more -> [..,Ca+Cb+...]",
                              .min_in = 2,
                              .max_in = LGV_MAX_INPUTS,
                              .n_out = 1,
                              .bf16_in = (1 << LGV_MAX_INPUTS) - 1,
                              .bf16_out = 1,
                              .infer = infer_concat,
                              .grad = grad_concat,
                              .flops = flops_none,
                              LGV_EXAMPLES(examples_concat)};

lgv_id lgv_concat(lgv_graph *g, lgv_id a, lgv_id b)
{
    return lgv_node_new(g, LGV_OP_concat, "concat", 2, (const lgv_id[]){a, b}, NULL);
}

lgv_id lgv_concat_many(lgv_graph *g, const lgv_id *in, int count)
{
    return lgv_node_new(g, LGV_OP_concat, "concat", count, in, NULL);
}

/* --- slice -------------------------------------------------------------------------------------- */
static lgv_status infer_slice(lgv_infer *c, lgv_error *err)
{
    const lgv_attr_slice *a = c->attr;
    LGV_TRY(lgv_want_float(c->in[0], "input", 2, 4, err));
    const int64_t channels = lgv_channels(c->in[0]);
    if (a->start < 0 || a->count < 1 || a->start > channels || a->count > channels - a->start) {
        return lgv_fail(err, LGV_ERR_SHAPE,
                        "%lld channels from %lld on were asked for, the input has %lld",
                        (long long)a->count, (long long)a->start, (long long)channels);
    }
    lgv_like(&c->out[0], c->in[0]);
    c->out[0].dim[c->in[0]->rank - 1] = a->count;
    return LGV_OK;
}

static void grad_slice(lgv_graph *g, lgv_id y, const lgv_id *dout, const bool *need, lgv_id *din)
{
    const lgv_node n = *lgv_node_of(g, y);
    din[0] = lgv_slice_grad(g, dout[0], ((const lgv_attr_slice *)n.attr)->start,
                            lgv_channels(lgv_val(g, n.in[0])));
}

static lgv_id example_slice_first(lgv_graph *g)
{
    return lgv_slice(g, lgv_example_input(g, "x", 4, 2, 3, 2, 9), 0, 4);
}
static lgv_id example_slice_last(lgv_graph *g)
{
    return lgv_slice(g, lgv_example_input(g, "x", 3, 2, 5, 21, 0), 16, 5);
}
static lgv_id example_slice_mid(lgv_graph *g)
{
    return lgv_slice(g, lgv_example_input(g, "x", 2, 3, 40, 0, 0), 3, 17);
}
static const lgv_example examples_slice[] = {
    {"first", example_slice_first}, {"last", example_slice_last}, {"middle", example_slice_mid}};

const lgv_op lgv_op_slice = {.name = "slice",
                             .doc = "count channels from start on",
                             .attr_size = sizeof(lgv_attr_slice),
                             .min_in = 1,
                             .max_in = 1,
                             .n_out = 1,
                             .bf16_in = 1,
                             .bf16_out = 1,
                             .infer = infer_slice,
                             .grad = grad_slice,
                             .flops = flops_none,
                             LGV_EXAMPLES(examples_slice)};

lgv_id lgv_slice(lgv_graph *g, lgv_id x, int64_t start, int64_t count)
{
    const lgv_attr_slice attr = {.start = start, .count = count};
    return lgv_node_new(g, LGV_OP_slice, "slice", 1, &x, &attr);
}

/* --- slice_grad --------------------------------------------------------------------------------- */
static lgv_status infer_slice_grad(lgv_infer *c, lgv_error *err)
{
    const lgv_attr_slice *a = c->attr;
    LGV_TRY(lgv_want_float(c->in[0], "dy", 2, 4, err));
    const int64_t count = lgv_channels(c->in[0]);
    if (a->start < 0 || a->start > a->channels || count > a->channels - a->start) {
        return lgv_fail(err, LGV_ERR_SHAPE, "%lld channels from %lld on do not fit into %lld",
                        (long long)count, (long long)a->start, (long long)a->channels);
    }
    lgv_like(&c->out[0], c->in[0]);
    c->out[0].dim[c->in[0]->rank - 1] = a->channels;
    return LGV_OK;
}

static void grad_slice_grad(lgv_graph *g, lgv_id y, const lgv_id *dout, const bool *need,
                            lgv_id *din)
{
    const lgv_node n = *lgv_node_of(g, y);
    din[0] = lgv_slice(g, dout[0], ((const lgv_attr_slice *)n.attr)->start,
                       lgv_channels(lgv_val(g, n.in[0])));
}

static lgv_id example_slice_grad4(lgv_graph *g)
{
    return lgv_slice_grad(g, lgv_example_input(g, "dy", 4, 2, 3, 3, 5), 2, 11);
}
static lgv_id example_slice_grad2(lgv_graph *g)
{
    return lgv_slice_grad(g, lgv_example_input(g, "dy", 2, 3, 17, 0, 0), 0, 18);
}
static const lgv_example examples_slice_grad[] = {{"middle", example_slice_grad4},
                                                  {"first", example_slice_grad2}};

const lgv_op lgv_op_slice_grad = {.name = "slice_grad",
                                  .doc = "zeros [..,channels] with dy at start",
                                  .attr_size = sizeof(lgv_attr_slice),
                                  .min_in = 1,
                                  .max_in = 1,
                                  .n_out = 1,
                                  .bf16_in = 1,
                                  .bf16_out = 1,
                                  .infer = infer_slice_grad,
                                  .grad = grad_slice_grad,
                                  .flops = flops_none,
                                  LGV_EXAMPLES(examples_slice_grad)};

lgv_id lgv_slice_grad(lgv_graph *g, lgv_id dy, int64_t start, int64_t channels)
{
    const lgv_attr_slice attr = {.start = start, .channels = channels};
    return lgv_node_new(g, LGV_OP_slice_grad, "slice_grad", 1, &dy, &attr);
}
