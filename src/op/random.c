/* random.c - noise and dropout. Row n of the batch draws from the key {row[n].seed, stream, row[n].sample,
   row[n].step} of the step block, element index counted within the row in [H,W,C] order (C fastest), so a
   row's numbers depend on nothing but its own record: not on its place in the batch, not on threads. */
#include "op.h"

/* --- random_normal ------------------------------------------------------------------------------- */
static lgv_status infer_random(lgv_infer *c, lgv_error *err)
{
    const lgv_attr_random *a = c->attr;
    if (a->rank < 1 || a->rank > LGV_MAX_RANK) {
        return lgv_fail(err, LGV_ERR_ARGUMENT, "rank %d was asked for, it must be 1 to %d", a->rank,
                        LGV_MAX_RANK);
    }
    int64_t total = 1;
    for (int i = 0; i < a->rank; i++) {
        if (a->dim[i] < 1 || !lgv_mul_i64(total, a->dim[i], &total)) {
            return lgv_fail(err, LGV_ERR_SHAPE, "extent %lld of dimension %d is not possible",
                            (long long)a->dim[i], i);
        }
    }
    lgv_set_shape(&c->out[0], LGV_F32, a->rank, a->dim[0], a->dim[1], a->dim[2], a->dim[3]);
    return LGV_OK;
}

static double flops_normal(const lgv_graph *g, const lgv_node *n)
{
    return 60.0 * (double)lgv_value_elements(lgv_val(g, n->out[0]));
}

static lgv_id example_normal4(lgv_graph *g)
{
    return lgv_random_normal(g, 4, (const int64_t[]){2, 3, 5, 7}, 11);
}
static lgv_id example_normal2(lgv_graph *g)
{
    return lgv_random_normal(g, 2, (const int64_t[]){3, 33}, 12);
}
static const lgv_example examples_normal[] = {{"2x3x5x7", example_normal4},
                                              {"3x33", example_normal2}};

const lgv_op lgv_op_random_normal = {
    .name = "random_normal",
    .doc = "standard normal numbers from each row's seed, sample and step",
    .attr_size = sizeof(lgv_attr_random),
    .min_in = 0,
    .max_in = 0,
    .n_out = 1,
    .flags = LGV_OP_STEP,
    .infer = infer_random,
    .no_grad = "it has no inputs",
    .flops = flops_normal,
    LGV_EXAMPLES(examples_normal)};

lgv_id lgv_random_normal(lgv_graph *g, int rank, const int64_t *dim, uint32_t stream)
{
    lgv_attr_random attr = {.stream = stream, .rank = rank};
    for (int i = 0; i < LGV_MAX_RANK; i++) attr.dim[i] = i < rank ? dim[i] : 1;
    return lgv_node_new(g, LGV_OP_random_normal, "random_normal", 0, NULL, &attr);
}

/* --- dropout ------------------------------------------------------------------------------------- */
static lgv_status infer_dropout(lgv_infer *c, lgv_error *err)
{
    const lgv_attr_random *a = c->attr;
    if (!(a->p >= 0 && a->p < 1)) {
        return lgv_fail(err, LGV_ERR_ARGUMENT,
                        "the probability of dropping is %g, it must be at least 0 and below 1",
                        a->p);
    }
    LGV_TRY(lgv_want_float(c->in[0], "input", 1, 4, err));
    lgv_like(&c->out[0], c->in[0]);
    return LGV_OK;
}

/* The same stream gives the same mask, and the operator is linear: its gradient is itself. */
static void grad_dropout(lgv_graph *g, lgv_id y, const lgv_id *dout, const bool *need, lgv_id *din)
{
    const lgv_attr_random *a = lgv_node_of(g, y)->attr;
    din[0] = lgv_dropout(g, dout[0], a->p, a->stream);
}

static double flops_dropout(const lgv_graph *g, const lgv_node *n)
{
    return 20.0 * (double)lgv_value_elements(lgv_val(g, n->out[0]));
}

static lgv_id example_dropout4(lgv_graph *g)
{
    return lgv_dropout(g, lgv_example_input(g, "x", 4, 2, 3, 5, 7), 0.1, 5);
}
static lgv_id example_dropout2(lgv_graph *g)
{
    return lgv_dropout(g, lgv_example_input(g, "x", 2, 3, 41, 0, 0), 0.5, 6);
}
static lgv_id example_dropout0(lgv_graph *g)
{
    return lgv_dropout(g, lgv_example_input(g, "x", 3, 2, 3, 9, 0), 0.0, 7);
}
static const lgv_example examples_dropout[] = {
    {"0.1", example_dropout4}, {"0.5", example_dropout2}, {"0", example_dropout0}};

const lgv_op lgv_op_dropout = {.name = "dropout",
                               .doc = "x/(1-p), or 0 with probability p",
                               .attr_size = sizeof(lgv_attr_random),
                               .min_in = 1,
                               .max_in = 1,
                               .n_out = 1,
                               .flags = LGV_OP_INPLACE0 | LGV_OP_CHEAP | LGV_OP_STEP,
                               .bf16_in = 1,
                               .bf16_out = 1,
                               .infer = infer_dropout,
                               .grad = grad_dropout,
                               .flops = flops_dropout,
                               LGV_EXAMPLES(examples_dropout)};

lgv_id lgv_dropout(lgv_graph *g, lgv_id x, double p, uint32_t stream)
{
    const lgv_attr_random attr = {.p = p, .stream = stream};
    return lgv_node_new(g, LGV_OP_dropout, "dropout", 1, &x, &attr);
}
