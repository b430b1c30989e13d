/* sampler.c - one step of a sampler as a linear combination with each row's own coefficients, which the
   host computed in double: rows of one batch may stand at different steps of different samplers. */
#include "op.h"

static lgv_status infer_sampler_step(lgv_infer *c, lgv_error *err)
{
    LGV_TRY(lgv_want_f32(c->in[0], "x", 2, 4, err));
    LGV_TRY(lgv_want_same(c->in[0], "x", c->in[1], "the network's output", err));
    if (c->n_in > 2 && c->in[2]) LGV_TRY(lgv_want_same(c->in[0], "x", c->in[2], "the noise", err));
    lgv_like(&c->out[0], c->in[0]);
    lgv_like(&c->out[1], c->in[0]);
    return LGV_OK;
}

static double flops_sampler_step(const lgv_graph *g, const lgv_node *n)
{
    return 10.0 * (double)lgv_value_elements(lgv_val(g, n->in[0]));
}

static lgv_id example_step_with(lgv_graph *g, int64_t c, bool noise)
{
    return lgv_sampler_step(g, lgv_example_input(g, "x", 4, 2, 3, 5, c),
                            lgv_example_input(g, "out", 4, 2, 3, 5, c),
                            noise ? lgv_example_input(g, "z", 4, 2, 3, 5, c) : LGV_NONE);
}
static lgv_id example_step(lgv_graph *g)
{
    return example_step_with(g, 3, true);
}
static lgv_id example_step_plain(lgv_graph *g)
{
    return example_step_with(g, 1, false);
}
static const lgv_example examples_step[] = {{"with noise", example_step},
                                            {"without noise", example_step_plain}};

const lgv_op lgv_op_sampler_step = {
    .name = "sampler_step",
    .doc = "x0 = clip(A*x + B*out); x' = C*x0 + D*x + E*out + S*z, coefficients per row: x', x0",
    .min_in = 2,
    .max_in = 3,
    .n_out = 2,
    .flags = LGV_OP_INPLACE0 | LGV_OP_STEP,
    .infer = infer_sampler_step,
    .no_grad = "sampling is not differentiated",
    .flops = flops_sampler_step,
    LGV_EXAMPLES(examples_step)};

lgv_id lgv_sampler_step(lgv_graph *g, lgv_id x, lgv_id out, lgv_id z)
{
    return lgv_node_new(g, LGV_OP_sampler_step, "sampler_step", z == LGV_NONE ? 2 : 3,
                        (const lgv_id[]){x, out, z}, NULL);
}
