/* bound.c - one term of the variational bound for each row: how far the network's step from x_t to
   x_{t-1} is from the true posterior, in bits per element. It needs the network's variance, so it is
   what trains that (arXiv 2102.09672, sec. 3.1), and its sum over t is the bound on the likelihood. */
#include "op.h"

static lgv_status infer_vb(lgv_infer *c, lgv_error *err)
{
    LGV_TRY(lgv_want_f32(c->in[1], "x_t", 2, 4, err));
    LGV_TRY(lgv_want_same(c->in[1], "x_t", c->in[2], "x0", err));
    LGV_TRY(lgv_want_f32(c->in[0], "the network's output", 2, 4, err));
    const lgv_value *out = c->in[0], *x = c->in[1];
    bool fits = out->rank == x->rank;
    for (int i = 0; fits && i < x->rank - 1; i++) fits = out->dim[i] == x->dim[i];
    const int64_t channels = x->dim[x->rank - 1], given = out->dim[out->rank - 1];
    if (!fits || (given != channels && given != 2 * channels))
        return lgv_fail(err, LGV_ERR_SHAPE,
                        "the network's output must be as large as x_t, with %lld channels, or "
                        "%lld with a variance, not %lld",
                        (long long)channels, (long long)(2 * channels), (long long)given);
    lgv_set_shape(&c->out[0], LGV_F32, 1, x->dim[0], 1, 1, 1);
    return LGV_OK;
}

static void grad_vb(lgv_graph *g, lgv_id y, const lgv_id *dout, const bool *need, lgv_id *din)
{
    const lgv_node n = *lgv_node_of(g, y);
    const lgv_attr_vb *a = n.attr;
    if (need[0]) din[0] = lgv_vb_rows_grad(g, n.in[0], n.in[1], n.in[2], dout[0], a->detach_mean);
}

/* Two exponentials and a logarithm of a row's elements count as one each. */
static double flops_vb(const lgv_graph *g, const lgv_node *n)
{
    return 16.0 * (double)lgv_value_elements(lgv_val(g, n->in[1]));
}

static lgv_id example(lgv_graph *g, int rank, int64_t n, int64_t h, int64_t w, int64_t c, int64_t k)
{
    int64_t last[4] = {n, h, w, k};
    if (rank == 2) last[1] = k;
    return lgv_vb_rows(g, lgv_example_input(g, "out", rank, last[0], last[1], last[2], last[3]),
                       lgv_example_input(g, "x_t", rank, n, rank == 2 ? c : h, w, c),
                       lgv_example_input(g, "x0", rank, n, rank == 2 ? c : h, w, c), 0);
}
static lgv_id example_vb(lgv_graph *g)
{
    return example(g, 4, 3, 3, 5, 3, 6);
}
static lgv_id example_vb_fixed(lgv_graph *g)
{
    return example(g, 4, 2, 4, 3, 5, 5);
}
static lgv_id example_vb_flat(lgv_graph *g)
{
    return example(g, 2, 2, 1, 1, 19, 38);
}
static const lgv_example examples_vb[] = {{"learned variance", example_vb},
                                          {"fixed variance", example_vb_fixed},
                                          {"2x19", example_vb_flat}};

const lgv_op lgv_op_vb_rows = {
    .name = "vb_rows",
    .doc = "out[N,H,W,C or 2C], x_t, x0 -> [N]: mean bits of KL(q(x_{t-1}|x_t,x0) || p), or of the "
           "discretised -log p(x0|x_1); LGV_TRAIN_VB_* of each row",
    .attr_size = sizeof(lgv_attr_vb),
    .min_in = 3,
    .max_in = 3,
    .n_out = 1,
    .flags = LGV_OP_STEP,
    .infer = infer_vb,
    .grad = grad_vb,
    .const_inputs = 6,
    .flops = flops_vb,
    LGV_EXAMPLES(examples_vb)};

lgv_id lgv_vb_rows(lgv_graph *g, lgv_id out, lgv_id x_t, lgv_id x0, int detach_mean)
{
    const lgv_attr_vb a = {.detach_mean = detach_mean != 0};
    return lgv_node_new(g, LGV_OP_vb_rows, "vb_rows", 3, (const lgv_id[]){out, x_t, x0}, &a);
}

static lgv_status infer_vb_grad(lgv_infer *c, lgv_error *err)
{
    LGV_TRY(infer_vb(c, err));
    LGV_TRY(lgv_want_vector(c->in[3], "the loss gradient", c->in[1]->dim[0],
                            "one per row of x_t", err));
    lgv_like(&c->out[0], c->in[0]);
    return LGV_OK;
}

static lgv_id example_vb_grad(lgv_graph *g)
{
    return lgv_vb_rows_grad(g, lgv_example_input(g, "out", 4, 3, 3, 5, 4),
                            lgv_example_input(g, "x_t", 4, 3, 3, 5, 2),
                            lgv_example_input(g, "x0", 4, 3, 3, 5, 2),
                            lgv_example_input(g, "dl", 1, 3, 0, 0, 0), 1);
}
static const lgv_example examples_vb_grad[] = {{"mean detached", example_vb_grad}};

const lgv_op lgv_op_vb_rows_grad = {
    .name = "vb_rows_grad",
    .doc = "gradient of vb_rows for the network's output; 0 for its mean when that is detached",
    .attr_size = sizeof(lgv_attr_vb),
    .min_in = 4,
    .max_in = 4,
    .n_out = 1,
    .flags = LGV_OP_STEP,
    .infer = infer_vb_grad,
    .no_grad = LGV_SECOND,
    .flops = flops_vb,
    LGV_EXAMPLES(examples_vb_grad)};

lgv_id lgv_vb_rows_grad(lgv_graph *g, lgv_id out, lgv_id x_t, lgv_id x0, lgv_id dl, int detach_mean)
{
    const lgv_attr_vb a = {.detach_mean = detach_mean};
    return lgv_node_new(g, LGV_OP_vb_rows_grad, "vb_rows_grad", 4,
                        (const lgv_id[]){out, x_t, x0, dl}, &a);
}
