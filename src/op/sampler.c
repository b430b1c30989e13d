/* sampler.c - one step of a sampler as a linear combination with each row's own coefficients, which the
   host computed in double: rows of one batch may stand at different steps of different samplers. */
#include "op.h"

/* v has x's shape with 1 to most times the channels. */
static lgv_status want_times(const lgv_value *x, const lgv_value *v, const char *what, int most,
                             lgv_error *err)
{
    char text_x[96], text_v[96];
    LGV_TRY(lgv_want_f32(v, what, 2, 4, err));
    const int64_t C = lgv_channels(x), wide = lgv_channels(v);
    bool same = x->rank == v->rank && C > 0 && wide % C == 0 && wide / C >= 1 && wide / C <= most;
    for (int i = 0; same && i < x->rank - 1; i++) same = x->dim[i] == v->dim[i];
    if (same) return LGV_OK;
    return lgv_fail(err, LGV_ERR_SHAPE,
                    "x is %s and %s is %s; it must be as large with 1 to %d times the channels",
                    lgv_shape_text(x, text_x), what, lgv_shape_text(v, text_v), most);
}

static lgv_status infer_sampler_step(lgv_infer *c, lgv_error *err)
{
    LGV_TRY(lgv_want_f32(c->in[0], "x", 2, 4, err));
    LGV_TRY(want_times(c->in[0], c->in[1], "the network's output", 2, err));
    if (c->n_in > 2 && c->in[2]) LGV_TRY(lgv_want_same(c->in[0], "x", c->in[2], "the noise", err));
    if (c->n_in > 3 && c->in[3])
        LGV_TRY(want_times(c->in[0], c->in[3], "the history", LGV_HISTORY, err));
    if (c->n_in > 4) LGV_TRY(lgv_want_same(c->in[0], "x", c->in[4], "the gradient", err));
    for (int i = 0; i < 3; i++) lgv_like(&c->out[i], c->in[0]);
    return LGV_OK;
}

static double flops_sampler_step(const lgv_graph *g, const lgv_node *n)
{
    double flops = 10.0 * (double)lgv_value_elements(lgv_val(g, n->in[0]));
    if (n->n_in > 3 && n->in[3] != LGV_NONE)
        flops += 2.0 * (double)lgv_value_elements(lgv_val(g, n->in[3]));
    if (n->n_in > 4) flops += 4.0 * (double)lgv_value_elements(lgv_val(g, n->in[0]));
    return flops;
}

static lgv_id example_step_with(lgv_graph *g, int64_t c, int64_t out, bool noise, int64_t slots)
{
    return lgv_sampler_step(g, lgv_example_input(g, "x", 4, 2, 3, 5, c),
                            lgv_example_input(g, out > c ? "p_out" : "out", 4, 2, 3, 5, out),
                            noise ? lgv_example_input(g, "z", 4, 2, 3, 5, c) : LGV_NONE,
                            slots ? lgv_example_input(g, "history", 4, 2, 3, 5, slots * c)
                                  : LGV_NONE);
}
static lgv_id example_step(lgv_graph *g)
{
    return example_step_with(g, 3, 3, true, 0);
}
static lgv_id example_step_plain(lgv_graph *g)
{
    return example_step_with(g, 1, 1, false, 0);
}
static lgv_id example_step_history(lgv_graph *g)
{
    return example_step_with(g, 3, 3, false, 3);
}
static lgv_id example_step_variance(lgv_graph *g)
{
    return example_step_with(g, 9, 18, true, 8);
}
static lgv_id example_step_guided(lgv_graph *g)
{
    return lgv_sampler_step_guided(g, lgv_example_input(g, "x", 4, 2, 3, 5, 9),
                                   lgv_example_input(g, "p_out", 4, 2, 3, 5, 18),
                                   lgv_example_input(g, "z", 4, 2, 3, 5, 9), LGV_NONE,
                                   lgv_example_input(g, "gradient", 4, 2, 3, 5, 9));
}
static const lgv_example examples_step[] = {
    {"with noise", example_step},
    {"without noise", example_step_plain},
    {"history of 3", example_step_history},
    {"predicted variance, history of 8", example_step_variance},
    {"predicted variance, gradient", example_step_guided}};

const lgv_op lgv_op_sampler_step = {
    .name = "sampler_step",
    .doc = "x0 = clip(A*x + B*out); x' = C*x0 + D*x + E*out + S*z + sum H[i]*history[i]; what the "
           "history keeps; coefficients per row: x', x0, kept. With a classifier's gradient g: x' + "
           "(GUIDE + GUIDE_VARIANCE*S*S)*g",
    .min_in = 2,
    .max_in = 5,
    .n_out = 3,
    .flags = LGV_OP_INPLACE0 | LGV_OP_STEP,
    .infer = infer_sampler_step,
    .no_grad = "sampling is not differentiated",
    .flops = flops_sampler_step,
    LGV_EXAMPLES(examples_step)};

lgv_id lgv_sampler_step(lgv_graph *g, lgv_id x, lgv_id out, lgv_id z, lgv_id history)
{
    const int inputs = history != LGV_NONE ? 4 : z != LGV_NONE ? 3 : 2;
    return lgv_node_new(g, LGV_OP_sampler_step, "sampler_step", inputs,
                        (const lgv_id[]){x, out, z, history}, NULL);
}

lgv_id lgv_sampler_step_guided(lgv_graph *g, lgv_id x, lgv_id out, lgv_id z, lgv_id history,
                               lgv_id gradient)
{
    return lgv_node_new(g, LGV_OP_sampler_step, "sampler_step", 5,
                        (const lgv_id[]){x, out, z, history, gradient}, NULL);
}
