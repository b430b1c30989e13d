/* passes.c - fusion of norm + modulate + activation and of convolution epilogues, joining of slices' gradients, and
   removal of casts that do nothing. Gradients were taken before; a pass never removes a value that has another reader. */
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

/* The kernels of norm_modulate_act know the activations of convolutional networks. */
static bool fuses(const lgv_node *act)
{
    return ((const lgv_attr_act *)act->attr)->kind != LGV_ACT_GELU_TANH;
}

/* act_grad(dy, z) -> [modulate_grad ->] group_norm_grad becomes one node in the place of act_grad: everything it
   reads existed before the backward pass, and all its readers come later. */
static bool fuse_backward(lgv_graph *g, size_t index, const int32_t *readers)
{
    lgv_node *act = &g->node[index];
    if (act->dead || act->op != LGV_OP_act_grad || !fuses(act)) return false;
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

/* A norm's statistics that move to a later place, `index`: whether somebody reads them before. */
static bool reads_statistics(const lgv_graph *g, const lgv_node *norm, size_t index)
{
    for (size_t i = (size_t)(norm - g->node) + 1; i <= index; i++)
        for (int k = 0; k < g->node[i].n_in; k++)
            if (!g->node[i].dead && g->node[i].in[k] >= 0 &&
                (g->node[i].in[k] == norm->out[1] || g->node[i].in[k] == norm->out[2]))
                return true;
    return false;
}

/* group_norm -> [modulate ->] act becomes one node in the place of act. */
static bool fuse_forward(lgv_graph *g, size_t index, const int32_t *readers)
{
    lgv_node *act = &g->node[index];
    if (act->dead || act->op != LGV_OP_act || !fuses(act)) return false;
    norm_chain c = find_chain(g, act->in[0]);
    if (!c.norm || readers[act->in[0]] != 1) return false;
    if (c.modulate && readers[c.norm->out[0]] != 1) return false;
    if (lgv_graph_writes_between(g, (int32_t)(c.norm - g->node), (int32_t)index)) return false;
    if (reads_statistics(g, c.norm, index)) return false;
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

/* layer_norm -> modulate becomes one layer_norm in the place of modulate. */
static bool fuse_layer_norm(lgv_graph *g, size_t index, const int32_t *readers)
{
    lgv_node *mod = &g->node[index];
    if (mod->dead || mod->op != LGV_OP_modulate) return false;
    lgv_node *norm = producer(g, mod->in[0], LGV_OP_layer_norm);
    if (!norm || norm->out[0] != mod->in[0] || readers[mod->in[0]] != 1 || norm->n_in > 3 ||
        reads_statistics(g, norm, index) ||
        lgv_graph_writes_between(g, (int32_t)(norm - g->node), (int32_t)index))
        return false;
    lgv_node f = *norm;
    for (int k = f.n_in; k < 3; k++) f.in[k] = LGV_NONE;
    f.n_in = 5;
    f.in[3] = mod->in[1];
    f.in[4] = mod->in[2];
    f.out[0] = mod->out[0];
    norm->dead = true;
    *mod = f;
    mod->dead = false;
    for (int k = 0; k < 3; k++) repoint(g, f.out[k], index, k);
    return true;
}

/* modulate_grad -> layer_norm_grad becomes one layer_norm_grad in the place of modulate_grad, which makes dscale and
   dshift too. It needs the norm's input and statistics, no longer its result. */
static bool fuse_layer_norm_grad(lgv_graph *g, size_t index, const int32_t *readers)
{
    lgv_node *mod = &g->node[index];
    if (mod->dead || mod->op != LGV_OP_modulate_grad) return false;
    const lgv_node *norm = producer(g, mod->in[1], LGV_OP_layer_norm);
    lgv_node *ln = only_reader(g, mod->out[0], readers);
    if (!norm || norm->out[0] != mod->in[1] || !ln || ln->op != LGV_OP_layer_norm_grad ||
        ln->in[0] != mod->out[0] || ln->in[2] != norm->out[1] || ln->in[6] >= 0 ||
        lgv_graph_writes_between(g, (int32_t)index, (int32_t)(ln - g->node)))
        return false;
    lgv_node f = *ln;
    f.in[0] = mod->in[0];
    f.in[6] = mod->in[2];
    f.out[3] = mod->out[1];
    f.out[4] = mod->out[2];
    ln->dead = true;
    *mod = f;
    mod->dead = false;
    for (int k = 0; k < 5; k++) repoint(g, f.out[k], index, k);
    return true;
}

lgv_status lgv_pass_fuse_norm(lgv_graph *g, lgv_error *err)
{
    int32_t *readers = lgv_alloc(g->n_values, sizeof *readers);
    if (!readers) return lgv_fail(err, LGV_ERR_MEMORY, "out of memory in the fusion pass");
    lgv_graph_readers(g, readers);
    for (size_t i = 0; i < g->n_nodes; i++)
        if (fuse_backward(g, i, readers) || fuse_layer_norm_grad(g, i, readers))
            lgv_graph_readers(g, readers);
    for (size_t i = 0; i < g->n_nodes; i++)
        if (fuse_forward(g, i, readers) || fuse_layer_norm(g, i, readers))
            lgv_graph_readers(g, readers);
    lgv_free(readers);
    return lgv_graph_status(g, err);
}

/* --- Epilogues --- */
/* What a node that may move into the convolution or linear layer before it would fill there. */
typedef struct epilogue_part {
    int side;           /* its input that is the layer's result */
    unsigned mask;      /* LGV_EPI_* it needs */
    lgv_id row, gate, residual;
    int act;
} epilogue_part;

/* The ways in which node n could be a part; returns their number, at most 2. */
static int epilogue_parts(const lgv_node *n, epilogue_part part[2])
{
    const epilogue_part none = {0, 0, LGV_NONE, LGV_NONE, LGV_NONE, LGV_ACT_NONE};
    part[0] = part[1] = none;
    switch (n->op) {
    case LGV_OP_add_row:
        part[0].mask = LGV_EPI_ROW;
        part[0].row = n->in[1];
        return 1;
    case LGV_OP_add:
        for (int side = 0; side < 2; side++) {
            part[side].side = side;
            part[side].mask = LGV_EPI_RESIDUAL;
            part[side].residual = n->in[1 - side];
        }
        return 2;
    case LGV_OP_act:
        part[0].act = ((const lgv_attr_act *)n->attr)->kind;
        part[0].mask = LGV_EPI_ACT;
        return part[0].act == LGV_ACT_NONE ? 0 : 1;
    case LGV_OP_gate:
        part[0].gate = n->in[1];
        part[0].residual = n->n_in > 2 ? n->in[2] : LGV_NONE;
        part[0].mask = LGV_EPI_GATE | (n->n_in > 2 ? LGV_EPI_RESIDUAL : 0);
        return 1;
    default: return 0;
    }
}

static int layer_act(const lgv_node *layer)
{
    return layer->op == LGV_OP_conv2d ? ((const lgv_attr_conv *)layer->attr)->act
                                      : ((const lgv_attr_linear *)layer->attr)->act;
}

/* The order is fixed: row, activation, gate, residual. */
static bool has_place(const lgv_node *layer, const epilogue_part *part)
{
    const bool gate = layer->in[LGV_IN_GATE] >= 0, residual = layer->in[LGV_IN_RESIDUAL] >= 0,
               act = layer_act(layer) != LGV_ACT_NONE;
    if (residual) return false;
    if (part->gate >= 0 || part->act) return !gate && !(part->act && act);
    if (part->row >= 0) return !gate && !act && layer->in[LGV_IN_ROW] < 0;
    return true;
}

static void *act_attr(lgv_graph *g, const lgv_node *layer, int act)
{
    const size_t size =
        layer->op == LGV_OP_conv2d ? sizeof(lgv_attr_conv) : sizeof(lgv_attr_linear);
    void *attr = lgv_graph_new_attr(g, size);
    if (!attr) return NULL;
    memcpy(attr, layer->attr, size);
    if (layer->op == LGV_OP_conv2d)
        ((lgv_attr_conv *)attr)->act = act;
    else
        ((lgv_attr_linear *)attr)->act = act;
    return attr;
}

/* The layer with the part in it; false: no memory. */
static bool with_part(lgv_graph *g, const lgv_node *layer, const epilogue_part *part, lgv_node *out)
{
    *out = *layer;
    out->n_in = LGV_EPILOGUE_INPUTS;
    if (part->row >= 0) out->in[LGV_IN_ROW] = part->row;
    if (part->gate >= 0) out->in[LGV_IN_GATE] = part->gate;
    if (part->residual >= 0) out->in[LGV_IN_RESIDUAL] = part->residual;
    if (part->act) out->attr = act_attr(g, layer, part->act);
    return out->attr != NULL;
}

/* The layer may write what n does: its own type, or float32, which a gate makes of either. */
static bool same_result(const lgv_graph *g, const lgv_node *n, lgv_id result)
{
    return n->op == LGV_OP_gate || g->value[result].dtype == g->value[n->out[0]].dtype;
}

/* conv2d or linear followed by add_row, an activation, gate or add: the later node takes the whole of it. */
static bool fuse_part(lgv_graph *g, size_t index, const int32_t *readers,
                      unsigned (*epilogue)(void *arg, const lgv_node *n), void *arg)
{
    lgv_node *n = &g->node[index];
    epilogue_part part[2];
    const int parts = n->dead ? 0 : epilogue_parts(n, part);
    for (int i = 0; i < parts; i++) {
        const lgv_id result = n->in[part[i].side];
        lgv_node *layer = producer(g, result, LGV_OP_conv2d), f;
        if (!layer) layer = producer(g, result, LGV_OP_linear);
        if (!layer || readers[result] != 1 || !same_result(g, n, result) ||
            lgv_graph_writes_between(g, (int32_t)(layer - g->node), (int32_t)index) ||
            !has_place(layer, &part[i]) || (epilogue(arg, layer) & part[i].mask) != part[i].mask ||
            !with_part(g, layer, &part[i], &f))
            continue;
        layer->dead = true;
        f.out[0] = n->out[0];
        f.block = n->block;
        *n = f;
        n->dead = false;
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
    for (size_t i = 0; i < g->n_nodes; i++) fuse_part(g, i, readers, epilogue, arg);
    lgv_free(readers);
    return lgv_graph_status(g, err);
}

/* --- Slices --- */
/* The leaves of a tree of adds: slice_grads nobody else reads. count LGV_MAX_INPUTS + 1: it is no such tree. */
typedef struct slice_leaves {
    int32_t node[LGV_MAX_INPUTS];
    int count;
} slice_leaves;

static void find_leaves(lgv_graph *g, lgv_id v, const int32_t *readers, slice_leaves *l)
{
    const lgv_node *n = lgv_node_of(g, v);
    if (n->op == LGV_OP_slice_grad && readers[v] == 1 && l->count < LGV_MAX_INPUTS) {
        l->node[l->count++] = g->value[v].node;
    } else if (n->op == LGV_OP_add && readers[v] == 1 && l->count < LGV_MAX_INPUTS) {
        find_leaves(g, n->in[0], readers, l);
        find_leaves(g, n->in[1], readers, l);
    } else {
        l->count = LGV_MAX_INPUTS + 1;
    }
}

/* Sorts the leaves by their place and tells whether they are the whole, each channel once. */
static bool make_whole(const lgv_graph *g, slice_leaves *l, int64_t channels)
{
    int64_t at = 0;
    for (int i = 0; i < l->count; i++) {
        int k = i;
        while (k < l->count &&
               ((const lgv_attr_slice *)g->node[l->node[k]].attr)->start != at)
            k++;
        if (k == l->count) return false;
        const int32_t found = l->node[k];
        l->node[k] = l->node[i];
        l->node[i] = found;
        at += lgv_channels(&g->value[g->node[found].in[0]]);
    }
    return at == channels;
}

static bool join_slices(lgv_graph *g, size_t index, const int32_t *readers)
{
    lgv_node *add = &g->node[index];
    slice_leaves l = {.count = 0};
    if (add->dead || add->op != LGV_OP_add) return false;
    find_leaves(g, add->in[0], readers, &l);
    if (l.count <= LGV_MAX_INPUTS) find_leaves(g, add->in[1], readers, &l);
    if (l.count > LGV_MAX_INPUTS || !make_whole(g, &l, lgv_channels(&g->value[add->out[0]])))
        return false;
    add->op = LGV_OP_concat;
    add->n_in = l.count;
    for (int i = 0; i < l.count; i++) add->in[i] = g->node[l.node[i]].in[0];
    return true; /* what is read no more goes with lgv_graph_compact */
}

lgv_status lgv_pass_join_slices(lgv_graph *g, lgv_error *err)
{
    int32_t *readers = lgv_alloc(g->n_values, sizeof *readers);
    if (!readers) return lgv_fail(err, LGV_ERR_MEMORY, "out of memory in the fusion pass");
    lgv_graph_readers(g, readers);
    for (size_t i = g->n_nodes; i-- > 0;) join_slices(g, i, readers);
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
