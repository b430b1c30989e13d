/* grad.c - reverse-mode differentiation: a sweep from the seeds back, in which each operator's record
   emits the nodes of its gradient. Nothing is recorded at run time; the result is just more graph. */
#include <string.h>

#include "node.h"

typedef struct sweep {
    lgv_graph *g;
    size_t n_values; /* values that existed before the sweep */
    bool *wanted;    /* value depends on something in wrt */
    lgv_id *grad;    /* gradient so far, LGV_NONE for zero */
} sweep;

/* Notes that d, unless it came from outside, is a gradient of value. */
static void note(lgv_graph *g, lgv_id value, lgv_id d)
{
    if (d >= 0 && lgv_node_of(g, d)->backward && g->value[d].gradient_of == LGV_NONE)
        g->value[d].gradient_of = value;
}

static void accumulate(sweep *s, lgv_id value, lgv_id d)
{
    if (d == LGV_NONE) return;
    note(s->g, value, d);
    if (s->grad[value] != LGV_NONE) d = lgv_add(s->g, s->grad[value], d);
    note(s->g, value, d);
    s->grad[value] = d;
}

static void mark_wanted(sweep *s, int n_wrt, const lgv_id *wrt)
{
    const lgv_graph *g = s->g;
    for (int i = 0; i < n_wrt; i++) s->wanted[wrt[i]] = true;
    for (size_t i = 0; i < g->n_nodes; i++) {
        const lgv_node *n = &g->node[i];
        const lgv_op *r = lgv_op_record(n->op);
        bool any = false;
        for (int k = 0; k < n->n_in; k++)
            if (n->in[k] >= 0 && !(r->const_inputs >> k & 1)) any |= s->wanted[n->in[k]];
        /* An operator without a gradient that says so (stop_gradient) cuts the path here. */
        if (any && (r->grad || n->op != LGV_OP_stop_gradient))
            for (int k = 0; k < n->n_out; k++)
                if (n->out[k] >= 0) s->wanted[n->out[k]] = true;
    }
}

static void visit(sweep *s, size_t index)
{
    lgv_graph *g = s->g;
    const lgv_node n = g->node[index]; /* a copy: emitting nodes may move the array */
    const lgv_op *r = lgv_op_record(n.op);
    lgv_id dout[LGV_MAX_OUTPUTS], din[LGV_MAX_INPUTS];
    bool need[LGV_MAX_INPUTS] = {false};
    bool reached = false, any = false;
    for (int k = 0; k < n.n_out; k++) {
        dout[k] = n.out[k] >= 0 ? s->grad[n.out[k]] : LGV_NONE;
        reached |= dout[k] != LGV_NONE;
    }
    for (int k = n.n_out; k < LGV_MAX_OUTPUTS; k++) dout[k] = LGV_NONE;
    for (int k = 0; k < LGV_MAX_INPUTS; k++) {
        din[k] = LGV_NONE;
        need[k] = k < n.n_in && n.in[k] >= 0 && s->wanted[n.in[k]] && !(r->const_inputs >> k & 1);
        any |= need[k];
    }
    if (!reached || !any || n.op == LGV_OP_stop_gradient) return;
    if (!r->grad) {
        lgv_graph_fail(g, LGV_ERR_UNSUPPORTED, "%s '%s' has no gradient: %s", r->name, n.name,
                       r->no_grad);
        return;
    }
    g->inherit_name = n.name;
    g->block = n.block;
    r->grad(g, n.out[0], dout, need, din);
    for (int k = 0; k < n.n_in; k++)
        if (need[k]) accumulate(s, n.in[k], din[k]);
    g->inherit_name = NULL;
    g->block = 0;
}

static lgv_status check_ids(const lgv_graph *g, const char *what, int n, const lgv_id *id,
                            lgv_error *err)
{
    for (int i = 0; i < n; i++)
        if (id[i] < 0 || (size_t)id[i] >= g->n_values)
            return lgv_fail(err, LGV_ERR_ARGUMENT, "gradient: %s %d is not a value of this graph",
                            what, i);
    return LGV_OK;
}

/* A one that depends on nothing, shaped like a one-element seed. */
static lgv_id ones_like(lgv_graph *g, lgv_id seed)
{
    if (lgv_elements(g, seed) != 1)
        return lgv_graph_fail(g, LGV_ERR_SHAPE,
                              "gradient: a seed without seed_grads must have one element");
    return lgv_affine(g, seed, 0, 1);
}

lgv_status lgv_graph_grad(lgv_graph *g, int n_seeds, const lgv_id *seeds, const lgv_id *seed_grads,
                          int n_wrt, const lgv_id *wrt, lgv_id *grads, lgv_error *err)
{
    LGV_TRY(lgv_graph_status(g, err));
    LGV_TRY(check_ids(g, "seed", n_seeds, seeds, err));
    LGV_TRY(check_ids(g, "wrt", n_wrt, wrt, err));
    sweep s = {.g = g, .n_values = g->n_values};
    size_t n_nodes = g->n_nodes;
    lgv_status status = LGV_ERR_MEMORY;
    s.wanted = lgv_zalloc(s.n_values, sizeof *s.wanted);
    s.grad = lgv_alloc(s.n_values, sizeof *s.grad);
    if (!s.wanted || !s.grad) {
        lgv_fail(err, status, "out of memory while taking gradients");
        goto done;
    }
    for (size_t i = 0; i < s.n_values; i++) s.grad[i] = LGV_NONE;
    mark_wanted(&s, n_wrt, wrt);
    for (int i = 0; i < n_seeds; i++) {
        lgv_id d = seed_grads ? seed_grads[i] : ones_like(g, seeds[i]);
        if (seed_grads && d != LGV_NONE && !lgv_same_shape(lgv_val(g, d), lgv_val(g, seeds[i])))
            lgv_graph_fail(g, LGV_ERR_SHAPE,
                           "gradient: seed %d and its gradient have different shapes", i);
        if (g->error.status) break;
        accumulate(&s, seeds[i], d);
    }
    for (size_t i = n_nodes; i-- > 0 && !g->error.status;) visit(&s, i);
    status = lgv_graph_status(g, err);
    for (int i = 0; i < n_wrt && !status; i++) grads[i] = s.grad[wrt[i]];
done:
    lgv_free(s.wanted);
    lgv_free(s.grad);
    return status;
}

lgv_status lgv_graph_grad_params(lgv_graph *g, lgv_id loss, const char *set, lgv_error *err)
{
    size_t n = g->n_params;
    int count = 0;
    lgv_id *wrt = lgv_alloc(n + 1, sizeof *wrt), *grad = lgv_alloc(n + 1, sizeof *grad);
    const char **name = lgv_alloc(n + 1, sizeof *name);
    lgv_status status = LGV_OK;
    if (!wrt || !grad || !name)
        status =
            lgv_fail(err, LGV_ERR_MEMORY, "out of memory for the gradients of %zu parameters", n);
    for (size_t i = 0; i < n && !status; i++) {
        if (g->param[i].frozen) continue;
        name[count] = g->param[i].name;
        wrt[count++] = g->param[i].value;
    }
    if (!status) status = lgv_graph_grad(g, 1, &loss, NULL, count, wrt, grad, err);
    for (int i = 0; i < count && !status; i++)
        if (grad[i] != LGV_NONE) lgv_assign(g, set, name[i], grad[i]);
    lgv_free(wrt);
    lgv_free(grad);
    lgv_free(name);
    return status ? status : lgv_graph_status(g, err);
}
