/* passes.c - fusion of norm + modulate + activation and of convolution epilogues, and removal of casts
   that do nothing. Gradients were taken before; a pass never removes a value that has another reader. */
#include <string.h>

#include "node.h"

/* Re-points value v to output k of node index i. */
static void repoint(lgv_graph *g, lgv_id v, size_t i, int k)
{
    g->node[i].out[k] = v;
    if (v >= 0) {
        g->value[v].node = (int32_t)i;
        g->value[v].out = k;
    }
}

static lgv_node *producer(lgv_graph *g, lgv_id v, lgv_opcode op)
{
    if (v < 0) return NULL;
    lgv_node *n = lgv_node_of(g, v);
    return n->op == op && !n->dead ? n : NULL;
}

/* The only live node that reads v, NULL when there are none or several or v is an output. */
static lgv_node *only_reader(lgv_graph *g, lgv_id v, const int32_t *readers)
{
    if (v < 0 || readers[v] != 1) return NULL;
    for (size_t i = (size_t)g->value[v].node + 1; i < g->n_nodes; i++)
        for (int k = 0; k < g->node[i].n_in; k++)
            if (!g->node[i].dead && g->node[i].in[k] == v) return &g->node[i];
    return NULL;
}

/* The group_norm, with or without a modulate, that made z. */
typedef struct norm_chain {
    lgv_node *norm, *modulate;
} norm_chain;

static norm_chain find_chain(lgv_graph *g, lgv_id z)
{
    norm_chain c = {NULL, NULL};
    c.modulate = producer(g, z, LGV_OP_modulate);
    c.norm = producer(g, c.modulate ? c.modulate->in[0] : z, LGV_OP_group_norm);
    if (c.norm && c.norm->out[0] != (c.modulate ? c.modulate->in[0] : z)) c.norm = NULL;
    return c;
}

static void *norm_attr(lgv_graph *g, const lgv_node *norm, int act)
{
    lgv_attr_norm *a = lgv_graph_new_attr(g, sizeof *a);
    if (!a) return NULL;
    *a = *(const lgv_attr_norm *)norm->attr;
    a->act = act;
    return a;
}

/* act_grad(dy, z) -> [modulate_grad ->] group_norm_grad becomes one node in the place of act_grad: everything it
   reads existed before the backward pass, and all its readers come later. */
static bool fuse_backward(lgv_graph *g, size_t index, const int32_t *readers)
{
    lgv_node *act = &g->node[index];
    if (act->dead || act->op != LGV_OP_act_grad) return false;
    norm_chain c = find_chain(g, act->in[1]);
    if (!c.norm) return false;
    lgv_node *mod = NULL, *gn = only_reader(g, act->out[0], readers);
    if (c.modulate) {
        mod = gn;
        if (!mod || mod->op != LGV_OP_modulate_grad || mod->in[0] != act->out[0] ||
            mod->in[1] != c.norm->out[0] || mod->in[2] != c.modulate->in[1])
            return false;
        gn = only_reader(g, mod->out[0], readers);
    }
    if (!gn || gn->op != LGV_OP_group_norm_grad || gn->in[0] != (mod ? mod->out[0] : act->out[0]) ||
        gn->in[3] != c.norm->out[1] ||
        lgv_graph_writes_between(g, (int32_t)index, (int32_t)(gn - g->node)))
        return false;
    void *attr = norm_attr(g, c.norm, ((lgv_attr_act *)act->attr)->kind);
    if (!attr) return false;
    lgv_node f = *gn;
    f.op = LGV_OP_norm_modulate_act_grad;
    f.attr = attr;
    f.n_in = 8;
    f.in[0] = act->in[0];
    f.in[1] = c.norm->in[0];
    f.in[2] = c.norm->in[1];
    f.in[3] = c.norm->in[2];
    f.in[4] = c.norm->out[1];
    f.in[5] = c.norm->out[2];
    f.in[6] = c.modulate ? c.modulate->in[1] : LGV_NONE;
    f.in[7] = c.modulate ? c.modulate->in[2] : LGV_NONE;
    f.n_out = mod ? 5 : 3;
    gn->dead = true;
    lgv_id dscale = mod ? mod->out[1] : LGV_NONE, dshift = mod ? mod->out[2] : LGV_NONE;
    if (mod) mod->dead = true;
    *act = f;
    act->dead = false;
    for (int k = 0; k < 3; k++) repoint(g, f.out[k], index, k);
    if (mod) {
        repoint(g, dscale, index, 3);
        repoint(g, dshift, index, 4);
    }
    return true;
}

/* group_norm -> [modulate ->] act becomes one node in the place of act. */
static bool fuse_forward(lgv_graph *g, size_t index, const int32_t *readers)
{
    lgv_node *act = &g->node[index];
    if (act->dead || act->op != LGV_OP_act) return false;
    norm_chain c = find_chain(g, act->in[0]);
    if (!c.norm || readers[act->in[0]] != 1) return false;
    if (c.modulate && readers[c.norm->out[0]] != 1) return false;
    if (lgv_graph_writes_between(g, (int32_t)(c.norm - g->node), (int32_t)index)) return false;
    /* Statistics move to the later place: nobody may read them before. */
    for (size_t i = (size_t)(c.norm - g->node) + 1; i <= index; i++)
        for (int k = 0; k < g->node[i].n_in; k++)
            if (!g->node[i].dead && g->node[i].in[k] >= 0 &&
                (g->node[i].in[k] == c.norm->out[1] || g->node[i].in[k] == c.norm->out[2]))
                return false;
    void *attr = norm_attr(g, c.norm, ((lgv_attr_act *)act->attr)->kind);
    if (!attr) return false;
    lgv_id in[5] = {c.norm->in[0], c.norm->in[1], c.norm->in[2],
                    c.modulate ? c.modulate->in[1] : LGV_NONE,
                    c.modulate ? c.modulate->in[2] : LGV_NONE};
    act->op = LGV_OP_norm_modulate_act;
    act->attr = attr;
    act->n_in = 5;
    memcpy(act->in, in, sizeof in);
    act->n_out = 3;
    act->name = c.norm->name;
    repoint(g, c.norm->out[1], index, 1);
    repoint(g, c.norm->out[2], index, 2);
    c.norm->dead = true;
    if (c.modulate) c.modulate->dead = true;
    return true;
}

lgv_status lgv_pass_fuse_norm(lgv_graph *g, lgv_error *err)
{
    int32_t *readers = lgv_alloc(g->n_values, sizeof *readers);
    if (!readers) return lgv_fail(err, LGV_ERR_MEMORY, "out of memory in the fusion pass");
    lgv_graph_readers(g, readers);
    for (size_t i = 0; i < g->n_nodes; i++)
        if (fuse_backward(g, i, readers)) lgv_graph_readers(g, readers);
    for (size_t i = 0; i < g->n_nodes; i++)
        if (fuse_forward(g, i, readers)) lgv_graph_readers(g, readers);
    lgv_free(readers);
    return lgv_graph_status(g, err);
}

/* conv2d or linear followed by add_row or add: the later node takes the whole of it. */
static bool fuse_add(lgv_graph *g, size_t index, const int32_t *readers,
                     unsigned (*epilogue)(void *arg, const lgv_node *n), void *arg)
{
    lgv_node *add = &g->node[index];
    bool row = add->op == LGV_OP_add_row;
    if (add->dead || (!row && add->op != LGV_OP_add)) return false;
    for (int side = 0; side < (row ? 1 : 2); side++) {
        lgv_node *conv = producer(g, add->in[side], LGV_OP_conv2d);
        if (!conv) conv = producer(g, add->in[side], LGV_OP_linear);
        if (!conv || readers[add->in[side]] != 1 ||
            lgv_graph_writes_between(g, (int32_t)(conv - g->node), (int32_t)index))
            continue;
        int slot = row ? LGV_IN_ROW : LGV_IN_RESIDUAL;
        /* The order of the sums is fixed: row before residual. */
        if (conv->in[slot] >= 0 || conv->in[LGV_IN_RESIDUAL] >= 0) continue;
        if (!(epilogue(arg, conv) & (row ? LGV_EPI_ROW : LGV_EPI_RESIDUAL))) continue;
        lgv_node f = *conv;
        f.n_in = LGV_EPILOGUE_INPUTS;
        f.in[slot] = add->in[1 - side];
        conv->dead = true;
        f.out[0] = add->out[0];
        f.block = add->block;
        *add = f;
        add->dead = false;
        repoint(g, f.out[0], index, 0);
        return true;
    }
    return false;
}

lgv_status lgv_pass_fuse_epilogue(lgv_graph *g, unsigned (*epilogue)(void *arg, const lgv_node *n),
                                  void *arg, lgv_error *err)
{
    int32_t *readers = lgv_alloc(g->n_values, sizeof *readers);
    if (!readers) return lgv_fail(err, LGV_ERR_MEMORY, "out of memory in the fusion pass");
    lgv_graph_readers(g, readers);
    for (size_t i = 0; i < g->n_nodes; i++) fuse_add(g, i, readers, epilogue, arg);
    lgv_free(readers);
    return LGV_OK;
}

/* Makes every reader of `from` read `to`. */
static void replace_value(lgv_graph *g, lgv_id from, lgv_id to)
{
    for (size_t i = 0; i < g->n_nodes; i++)
        for (int k = 0; k < g->node[i].n_in; k++)
            if (g->node[i].in[k] == from) g->node[i].in[k] = to;
    for (size_t i = 0; i < g->n_outputs; i++)
        if (g->output[i].value == from) g->output[i].value = to;
}

/* An earlier cast of what node i casts, to the same type; a parameter may have been written since. */
static lgv_id earlier_cast(const lgv_graph *g, size_t i)
{
    const lgv_node *n = &g->node[i];
    bool parameter = lgv_node_of(g, n->in[0])->op == LGV_OP_param;
    for (size_t j = 0; j < i; j++) {
        const lgv_node *m = &g->node[j];
        if (!m->dead && m->op == LGV_OP_cast && m->in[0] == n->in[0] &&
            g->value[m->out[0]].dtype == g->value[n->out[0]].dtype &&
            !(parameter && lgv_graph_writes_between(g, (int32_t)j, (int32_t)i)))
            return m->out[0];
    }
    return LGV_NONE;
}

/* Removes a cast to the type a value already has, a bf16 -> f32 -> bf16 round trip (exact), and a second cast
   of one value to one type. f32 -> bf16 -> f32 rounds and stays. */
lgv_status lgv_pass_casts(lgv_graph *g, lgv_error *err)
{
    for (size_t i = 0; i < g->n_nodes; i++) {
        lgv_node *n = &g->node[i];
        if (n->dead || n->op != LGV_OP_cast) continue;
        lgv_dtype to = g->value[n->out[0]].dtype;
        lgv_id same = LGV_NONE;
        if (g->value[n->in[0]].dtype == to) same = n->in[0];
        const lgv_node *inner = producer(g, n->in[0], LGV_OP_cast);
        if (inner && to == LGV_BF16 && g->value[inner->in[0]].dtype == LGV_BF16)
            same = inner->in[0];
        if (same == LGV_NONE) same = earlier_cast(g, i);
        if (same == LGV_NONE) continue;
        replace_value(g, n->out[0], same);
        n->dead = true;
    }
    return lgv_graph_status(g, err);
}
