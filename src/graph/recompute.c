/* recompute.c - trading arithmetic for memory: forward values that only the backward pass still needs are
   dropped and computed again before their first backward reader. A repeated node has the same operator,
   attributes and random stream, so results are the same bits. */
#include <stdlib.h>
#include <string.h>

#include "node.h"

/* Something that is recomputed as a whole: one cheap node (block 0) or a block of the builder. */
typedef struct unit {
    int32_t node;  /* cheap unit: index; block unit: -1 */
    int32_t block; /* block unit */
    double saved, flops;
} unit;

typedef struct pass {
    lgv_graph *g;
    unit *unit;
    size_t n_units, cap_units;
    bool *taken;             /* per block: recomputed as a whole */
    int32_t *first_backward; /* per value: first backward node that reads it, INT32_MAX none */
    bool *kept;              /* per value: read by a forward node of another block, or an output */
    int32_t first_write;     /* the first node that may write weights, INT32_MAX none */
    lgv_id *copy;            /* per value: its repetition within the unit at hand */
    lgv_node *added;
    int32_t *where;
    size_t n_added, cap_added, cap_where;
} pass;

static bool is_cheap(const lgv_node *n)
{
    return (lgv_op_record(n->op)->flags & LGV_OP_CHEAP) && !n->backward && !n->dead;
}

static bool is_leaf(const lgv_node *n)
{
    return lgv_op_record(n->op)->flags & (LGV_OP_LEAF | LGV_OP_EFFECT);
}

/* Whether node i may be repeated as part of unit u. */
static bool member(const pass *p, const unit *u, int32_t i)
{
    const lgv_node *n = &p->g->node[i];
    if (n->backward || n->dead || is_leaf(n)) return false;
    return u->block ? n->block == u->block : is_cheap(n);
}

static double bytes_of(const lgv_graph *g, lgv_id v)
{
    return (double)lgv_value_elements(&g->value[v]) * (double)lgv_dtype_size(g->value[v].dtype);
}

static void scan_readers(pass *p)
{
    const lgv_graph *g = p->g;
    for (size_t v = 0; v < g->n_values; v++) {
        p->first_backward[v] = INT32_MAX;
        p->kept[v] = false;
    }
    for (size_t i = 0; i < g->n_nodes; i++) {
        const lgv_node *n = &g->node[i];
        for (int k = 0; k < n->n_in && !n->dead; k++) {
            lgv_id v = n->in[k];
            if (v < 0) continue;
            if (n->backward) {
                if (p->first_backward[v] == INT32_MAX) p->first_backward[v] = (int32_t)i;
            } else if (n->block != lgv_node_of(g, v)->block) {
                p->kept[v] = true;
            }
        }
    }
    for (size_t i = 0; i < g->n_outputs; i++) p->kept[g->output[i].value] = true;
    int32_t n = (int32_t)g->n_nodes;
    p->first_write = 0;
    while (p->first_write < n &&
           !lgv_graph_writes_between(g, p->first_write - 1, p->first_write + 1))
        p->first_write++;
}

static lgv_status add_unit(pass *p, unit u, lgv_error *err)
{
    LGV_TRY(lgv_grow(&p->unit, &p->cap_units, p->n_units + 1, sizeof *p->unit, err));
    p->unit[p->n_units++] = u;
    return LGV_OK;
}

static lgv_status find_units(pass *p, int level, lgv_error *err)
{
    const lgv_graph *g = p->g;
    for (int32_t b = 1; level >= 2 && b <= g->n_blocks; b++) {
        unit u = {.node = -1, .block = b};
        for (size_t i = 0; i < g->n_nodes; i++) {
            const lgv_node *n = &g->node[i];
            if (!member(p, &u, (int32_t)i)) continue;
            u.flops += lgv_node_flops(g, n);
            for (int k = 0; k < n->n_out; k++)
                if (n->out[k] >= 0 && p->first_backward[n->out[k]] != INT32_MAX &&
                    !p->kept[n->out[k]])
                    u.saved += bytes_of(g, n->out[k]);
        }
        if (u.saved > 0) LGV_TRY(add_unit(p, u, err));
    }
    for (size_t i = 0; i < g->n_nodes; i++) {
        const lgv_node *n = &g->node[i];
        if (!is_cheap(n) || n->out[0] < 0 || p->first_backward[n->out[0]] == INT32_MAX) continue;
        unit u = {
            .node = (int32_t)i, .saved = bytes_of(g, n->out[0]), .flops = lgv_node_flops(g, n)};
        bool output = false;
        for (size_t k = 0; k < g->n_outputs; k++) output |= g->output[k].value == n->out[0];
        if (!output) LGV_TRY(add_unit(p, u, err));
    }
    return LGV_OK;
}

/* Cheap nodes before blocks; in each kind by bytes saved per FLOP. */
static int by_worth(const void *a, const void *b)
{
    const unit *x = a, *y = b;
    if (!x->block != !y->block) return x->block ? 1 : -1;
    double wx = x->saved / (x->flops + 1), wy = y->saved / (y->flops + 1);
    if (wx != wy) return wx > wy ? -1 : 1;
    if (x->block != y->block) return x->block < y->block ? -1 : 1;
    return x->node < y->node ? -1 : x->node > y->node;
}

/* Sorts the units, without blocks beyond those that make up `share` of the graph's arithmetic. */
static void choose_units(pass *p, double share)
{
    double rest = 0;
    size_t n = 0;
    for (size_t i = 0; i < p->g->n_nodes; i++)
        if (!p->g->node[i].dead) rest += share * lgv_node_flops(p->g, &p->g->node[i]);
    if (p->n_units) qsort(p->unit, p->n_units, sizeof *p->unit, by_worth);
    for (size_t i = 0; i < p->n_units; i++) {
        const unit u = p->unit[i];
        if (u.block && u.flops > rest) continue;
        if (u.block) rest -= u.flops;
        p->unit[n++] = u;
    }
    p->n_units = n;
}

/* Repeats the node that made v (and, before it, what it needs within the unit) for readers from `where` on. */
static lgv_status repeat(pass *p, const unit *u, lgv_id v, int32_t where, bool root, lgv_error *err)
{
    lgv_graph *g = p->g;
    int32_t index = g->value[v].node;
    if (p->copy[v] != LGV_NONE || !member(p, u, index)) return LGV_OK;
    if (!root && u->block && p->kept[v]) return LGV_OK;
    lgv_node n = g->node[index];
    for (int k = 0; k < n.n_in; k++)
        if (n.in[k] >= 0) {
            LGV_TRY(repeat(p, u, n.in[k], where, false, err));
            if (p->copy[n.in[k]] != LGV_NONE) n.in[k] = p->copy[n.in[k]];
        }
    for (int k = 0; k < n.n_out; k++) {
        if (n.out[k] < 0) continue;
        LGV_TRY(lgv_grow(&g->value, &g->cap_values, g->n_values + 1, sizeof *g->value, err));
        lgv_id c = (lgv_id)g->n_values++;
        g->value[c] = g->value[n.out[k]];
        p->copy[n.out[k]] = c;
        n.out[k] = c;
    }
    n.clone = n.backward = true;
    LGV_TRY(lgv_grow(&p->added, &p->cap_added, p->n_added + 1, sizeof *p->added, err));
    LGV_TRY(lgv_grow(&p->where, &p->cap_where, p->n_added + 1, sizeof *p->where, err));
    p->added[p->n_added] = n;
    p->where[p->n_added++] = where;
    return LGV_OK;
}

static bool is_target(const pass *p, const unit *u, lgv_id v)
{
    if (v < 0 || p->first_backward[v] == INT32_MAX || p->first_backward[v] < 0) return false;
    return u->block ? !p->kept[v] : true;
}

static lgv_status apply(pass *p, const unit *u, size_t n_values, lgv_error *err)
{
    lgv_graph *g = p->g;
    int32_t where = INT32_MAX;
    for (size_t v = 0; v < n_values; v++) p->copy[v] = LGV_NONE;
    for (size_t v = 0; v < n_values; v++) {
        int32_t i = g->value[v].node;
        bool mine = u->block ? member(p, u, i) : i == u->node;
        if (mine && is_target(p, u, (lgv_id)v) && p->first_backward[v] < where)
            where = p->first_backward[v];
    }
    if (where > p->first_write) return LGV_OK; /* the parameters may be others by then */
    for (size_t v = 0; v < n_values; v++) {
        int32_t i = g->value[v].node;
        bool mine = u->block ? member(p, u, i) : i == u->node;
        if (mine && is_target(p, u, (lgv_id)v)) LGV_TRY(repeat(p, u, (lgv_id)v, where, true, err));
    }
    /* Backward readers take the repetition of what this unit gives up; intermediate copies serve only it. */
    for (size_t i = 0; i < g->n_nodes; i++) {
        lgv_node *n = &g->node[i];
        if (!n->backward) continue;
        for (int k = 0; k < n->n_in; k++) {
            lgv_id v = n->in[k];
            if (v < 0 || (size_t)v >= n_values || p->copy[v] == LGV_NONE || !is_target(p, u, v))
                continue;
            if (!u->block && g->value[v].node != u->node) continue;
            n->in[k] = p->copy[v];
        }
    }
    return LGV_OK;
}

/* Puts the added nodes in front of the nodes they serve, keeping everyone's order. */
static lgv_status merge(pass *p, lgv_error *err)
{
    lgv_graph *g = p->g;
    size_t total = g->n_nodes + p->n_added, out = 0;
    lgv_node *node = lgv_alloc(total, sizeof *node);
    if (!node) return lgv_fail(err, LGV_ERR_MEMORY, "out of memory in the recompute pass");
    for (size_t i = 0; i < g->n_nodes; i++) {
        for (size_t a = 0; a < p->n_added; a++)
            if (p->where[a] == (int32_t)i) node[out++] = p->added[a];
        node[out++] = g->node[i];
    }
    lgv_free(g->node);
    g->node = node;
    g->n_nodes = g->cap_nodes = out;
    for (size_t i = 0; i < out; i++)
        for (int k = 0; k < node[i].n_out; k++)
            if (node[i].out[k] >= 0) g->value[node[i].out[k]].node = (int32_t)i;
    return LGV_OK;
}

static lgv_status apply_units(pass *p, size_t count, size_t n_values, lgv_error *err)
{
    for (size_t i = 0; i < count; i++) p->taken[p->unit[i].block] = p->unit[i].block > 0;
    for (size_t i = 0; i < count; i++) {
        const unit *u = &p->unit[i];
        if (u->node >= 0 && p->taken[p->g->node[u->node].block]) continue;
        LGV_TRY(apply(p, u, n_values, err));
    }
    return LGV_OK;
}

lgv_status lgv_pass_recompute(lgv_graph *g, const lgv_recompute *what, int *n_units, lgv_error *err)
{
    size_t n_values = g->n_values;
    pass p = {.g = g};
    lgv_status status = LGV_ERR_MEMORY;
    p.first_backward = lgv_alloc(n_values, sizeof *p.first_backward);
    p.kept = lgv_alloc(n_values, sizeof *p.kept);
    p.copy = lgv_alloc(n_values, sizeof *p.copy);
    p.taken = lgv_zalloc((size_t)g->n_blocks + 1, sizeof *p.taken);
    if (!p.first_backward || !p.kept || !p.copy || !p.taken) {
        lgv_fail(err, status, "out of memory in the recompute pass");
        goto done;
    }
    scan_readers(&p);
    if ((status = find_units(&p, what->level, err))) goto done;
    choose_units(&p, what->block_share);
    *n_units = (int)p.n_units;
    size_t count = p.n_units;
    if (what->max_units >= 0 && (size_t)what->max_units < count) count = (size_t)what->max_units;
    if ((status = apply_units(&p, count, n_values, err))) goto done;
    status = merge(&p, err);
done:
    lgv_free(p.unit);
    lgv_free(p.taken);
    lgv_free(p.first_backward);
    lgv_free(p.kept);
    lgv_free(p.copy);
    lgv_free(p.added);
    lgv_free(p.where);
    return status;
}
