/* optimizer.c - the whole update as one node over flat ranges of the store: global norm, clipping, AdamW,
   EMA and, where gradients accumulate, zeroing them in two passes over memory. */
#include "op.h"

static lgv_status infer_adamw(lgv_infer *c, lgv_error *err)
{
    lgv_set_shape(&c->out[0], LGV_F32, 1, 2, 1, 1, 1);
    return LGV_OK;
}

static double flops_adamw(const lgv_graph *g, const lgv_node *n)
{
    double count = 0;
    for (size_t i = 0; i < g->n_params; i++) {
        if (!g->param[i].frozen) count += (double)lgv_value_elements(lgv_val(g, g->param[i].value));
    }
    return 18.0 * count;
}

const lgv_op lgv_op_adamw = {
    .name = "adamw",
    .doc =
        "clipping by the global norm, AdamW and EMA over the trained range: [norm, 1 when skipped]",
    .attr_size = sizeof(lgv_attr_adamw),
    .min_in = 0,
    .max_in = 0,
    .n_out = 1,
    .flags = LGV_OP_EFFECT,
    .infer = infer_adamw,
    .no_grad = "it is an effect on the store",
    .flops = flops_adamw};

lgv_id lgv_adamw(lgv_graph *g, int with_ema)
{
    const lgv_attr_adamw attr = {with_ema != 0};
    return lgv_node_new(g, LGV_OP_adamw, "adamw", 0, NULL, &attr);
}
