/* precision.c - mixed precision: which values become bf16, and the casts at the borders.
   The rules look at operators' records (bf16_in, bf16_out), never at models. Going back from the end, a
   forward value of rank 3 or 4 is bf16 when its producer can write that and something that computes in
   bf16 reads it. So what only the loss or the sampler reads (the output convolution) stays float32, and
   so does what leads there, up to the first norm, which reads bf16 and writes float32. A gradient has the
   type of its value. Parameters, their gradients, statistics and vectors per row are never bf16, nor is what a
   gate adds to: roundings of the sum through a transformer's blocks would add up with the blocks. */
#include <string.h>

#include "node.h"

static bool may_be_bf16(const lgv_graph *g, lgv_id v)
{
    const lgv_value *value = &g->value[v];
    const lgv_op *r = lgv_op_record(g->node[value->node].op);
    return value->rank >= 3 && value->dtype == LGV_F32 && r->bf16_out >> value->out & 1;
}

/* The type in which n computes, for an operator that has one: that of its output, else bf16 where any of its
   inputs is. */
static lgv_dtype type_of(const lgv_graph *g, const lgv_node *n)
{
    const lgv_op *r = lgv_op_record(n->op);
    if (r->bf16_out & 1) return g->value[n->out[0]].dtype;
    for (int k = 0; k < n->n_in; k++)
        if (n->in[k] >= 0 && r->bf16_in >> k & 1 && g->value[n->in[k]].dtype == LGV_BF16)
            return LGV_BF16;
    return LGV_F32;
}

/* Marks what n, whose outputs are decided, would read as bf16. */
static void mark_reads(const lgv_graph *g, const lgv_node *n, bool *read)
{
    const lgv_op *r = lgv_op_record(n->op);
    bool takes = r->flags & LGV_OP_MIXED || !r->bf16_out || type_of(g, n) == LGV_BF16;
    for (int k = 0; k < n->n_in; k++)
        if (takes && n->in[k] >= 0 && r->bf16_in >> k & 1) read[n->in[k]] = true;
}

/* The other outputs of an operator that has one type follow the first. */
static void unify_outputs(lgv_graph *g, const lgv_node *n)
{
    if (lgv_op_record(n->op)->flags & LGV_OP_MIXED) return;
    for (int k = 1; k < n->n_out; k++)
        if (n->out[k] >= 0 && lgv_op_record(n->op)->bf16_out >> k & 1)
            g->value[n->out[k]].dtype = g->value[n->out[0]].dtype;
}

/* Outputs that are nobody's gradient, by their readers. Backward nodes follow those they serve, so one sweep
   over either kind from the end meets readers first. */
static void decide_by_readers(lgv_graph *g, bool backward, bool *read)
{
    for (size_t i = g->n_nodes; i-- > 0;) {
        const lgv_node *n = &g->node[i];
        if (n->dead || n->backward != backward) continue;
        for (int k = 0; k < n->n_out; k++) {
            lgv_id v = n->out[k];
            if (v >= 0 && g->value[v].gradient_of == LGV_NONE && read[v] && may_be_bf16(g, v))
                g->value[v].dtype = LGV_BF16;
        }
        unify_outputs(g, n);
        mark_reads(g, n, read);
    }
}

static void decide_gradients(lgv_graph *g)
{
    for (size_t i = 0; i < g->n_nodes; i++) {
        const lgv_node *n = &g->node[i];
        for (int k = 0; k < n->n_out && !n->dead; k++) {
            lgv_id v = n->out[k], of = v < 0 ? LGV_NONE : g->value[v].gradient_of;
            if (of >= 0 && g->value[of].dtype == LGV_BF16 && may_be_bf16(g, v))
                g->value[v].dtype = LGV_BF16;
        }
        unify_outputs(g, n);
    }
}

/* The type in which n wants input k; the value's own where either will do. */
static lgv_dtype wanted_type(const lgv_graph *g, const lgv_node *n, int k)
{
    const lgv_op *r = lgv_op_record(n->op);
    lgv_dtype now = g->value[n->in[k]].dtype;
    if (!(r->bf16_in >> k & 1)) return now == LGV_BF16 ? LGV_F32 : now;
    return r->flags & LGV_OP_MIXED ? now : type_of(g, n);
}

/* A node of its own for v in another type, read by `reader`. */
static lgv_status new_cast(lgv_graph *g, const lgv_node *reader, lgv_id v, lgv_dtype dtype,
                           lgv_node *out, lgv_error *err)
{
    lgv_attr_cast *attr = lgv_graph_new_attr(g, sizeof *attr);
    LGV_TRY(lgv_graph_status(g, err));
    LGV_TRY(lgv_grow(&g->value, &g->cap_values, g->n_values + 1, sizeof *g->value, err));
    lgv_value *made = &g->value[g->n_values];
    *made = g->value[v];
    made->dtype = dtype;
    made->out = 0;
    attr->dtype = dtype;
    *out = (lgv_node){.op = LGV_OP_cast,
                      .name = lgv_node_of(g, v)->name,
                      .n_in = 1,
                      .n_out = 1,
                      .attr = attr,
                      .block = reader->block,
                      .backward = reader->backward};
    for (int k = 0; k < LGV_MAX_INPUTS; k++) out->in[k] = LGV_NONE;
    for (int k = 0; k < LGV_MAX_OUTPUTS; k++) out->out[k] = LGV_NONE;
    out->in[0] = v;
    out->out[0] = (lgv_id)g->n_values++;
    return LGV_OK;
}

/* Copies g's nodes to `node`, each after the casts that it needs. */
static lgv_status insert_casts(lgv_graph *g, lgv_node *node, size_t *count, lgv_error *err)
{
    *count = 0;
    for (size_t i = 0; i < g->n_nodes; i++) {
        lgv_node n = g->node[i];
        for (int k = 0; k < n.n_in && !n.dead; k++) {
            if (n.in[k] < 0) continue;
            lgv_dtype dtype = wanted_type(g, &n, k);
            if (dtype == g->value[n.in[k]].dtype) continue;
            LGV_TRY(new_cast(g, &n, n.in[k], dtype, &node[*count], err));
            n.in[k] = node[(*count)++].out[0];
        }
        node[(*count)++] = n;
    }
    return LGV_OK;
}

static lgv_status add_casts(lgv_graph *g, lgv_error *err)
{
    size_t count, room = 0;
    for (size_t i = 0; i < g->n_nodes; i++) room += 1 + (size_t)g->node[i].n_in;
    lgv_node *node = lgv_alloc(room + 1, sizeof *node);
    if (!node) return lgv_fail(err, LGV_ERR_MEMORY, "out of memory in the mixed precision pass");
    lgv_status status = insert_casts(g, node, &count, err);
    if (status) {
        lgv_free(node);
        return status;
    }
    lgv_free(g->node);
    g->node = node;
    g->n_nodes = count;
    g->cap_nodes = room + 1;
    for (size_t i = 0; i < count; i++)
        for (int k = 0; k < node[i].n_out; k++)
            if (node[i].out[k] >= 0) g->value[node[i].out[k]].node = (int32_t)i;
    return LGV_OK;
}

lgv_status lgv_pass_mixed_precision(lgv_graph *g, lgv_error *err)
{
    bool *read = lgv_zalloc(g->n_values + 1, sizeof *read);
    if (!read) return lgv_fail(err, LGV_ERR_MEMORY, "out of memory in the mixed precision pass");
    decide_by_readers(g, false, read);
    decide_gradients(g);
    memset(read, 0, g->n_values * sizeof *read);
    decide_by_readers(g, true, read);
    lgv_free(read);
    LGV_TRY(add_casts(g, err));
    return lgv_pass_casts(g, err);
}
