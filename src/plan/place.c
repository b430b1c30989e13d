/* place.c - the memory planner. Values become views of each other where that saves a copy (concat inputs write
   straight into the result, slices look into their source, gradients land in the store), elementwise
   results take their input's memory, and the rest is packed into one arena by lifetime. */
#include <stdlib.h>
#include <string.h>

#include "planner.h"

static lgv_status new_root(lgv_prog *p, lgv_root_kind kind, lgv_id owner, int32_t *out,
                           lgv_error *err)
{
    LGV_TRY(lgv_grow(&p->root, &p->cap_roots, p->n_roots + 1, sizeof *p->root, err));
    p->root[p->n_roots] = (lgv_root){
        .kind = kind, .first = INT32_MAX, .last = -1, .owner = owner, .set = -1, .buffer = -1};
    *out = (int32_t)p->n_roots++;
    return LGV_OK;
}

/* Dense strides of v, with `halo` zero rows and columns around H and W. */
static void lay_out(lgv_prog *p, lgv_id v, int halo)
{
    const lgv_value *value = &p->g->value[v];
    lgv_place *pl = &p->place[v];
    int64_t step = 1;
    for (int i = LGV_MAX_RANK - 1; i >= 0; i--) {
        if (i >= value->rank) {
            pl->stride[i] = 0;
            continue;
        }
        pl->stride[i] = step;
        step *= value->dim[i] + (halo && (i == 1 || i == 2) ? 2 * halo : 0);
    }
    pl->halo = halo;
    pl->offset = halo ? halo * (pl->stride[1] + pl->stride[2]) : 0;
}

static size_t layout_elements(const lgv_value *v, int halo)
{
    if (!halo) return (size_t)lgv_value_elements(v);
    return (size_t)(v->dim[0] * (v->dim[1] + 2 * halo) * (v->dim[2] + 2 * halo) * v->dim[3]);
}

static bool is_output(const lgv_graph *g, lgv_id v)
{
    for (size_t i = 0; i < g->n_outputs; i++)
        if (g->output[i].value == v) return true;
    return false;
}

static bool is_input_node(const lgv_node *n)
{
    return n->op == LGV_OP_input;
}

static lgv_status make_roots(lgv_plan *plan, lgv_prog *p, lgv_error *err)
{
    lgv_graph *g = p->g;
    for (size_t v = 0; v < g->n_values; v++) p->place[v].root = -1;
    for (size_t i = 0; i < g->n_nodes; i++) {
        const lgv_node *n = &g->node[i];
        for (int k = 0; k < n->n_out; k++) {
            lgv_id v = n->out[k];
            if (v < 0) continue;
            lgv_root_kind kind = n->op == LGV_OP_param ? LGV_ROOT_STORE
                                 : is_input_node(n)    ? LGV_ROOT_IO
                                                       : LGV_ROOT_ARENA;
            LGV_TRY(new_root(p, kind, v, &p->place[v].root, err));
            p->root[p->place[v].root].members = 1;
            lay_out(p, v, 0);
            if (n->op != LGV_OP_param) continue;
            const char *name = g->param[((lgv_attr_param *)n->attr)->param].name;
            lgv_root *r = &p->root[p->place[v].root];
            r->set = plan->weights_set;
            r->buffer = lgv_store_find(plan->store, name);
            if (r->buffer < 0)
                return lgv_fail(err, LGV_ERR_ARGUMENT,
                                "parameter '%s' is not in the store: call lgv_store_declare first",
                                name);
        }
    }
    return LGV_OK;
}

/* The halo the readers of a rank-4 value would like. */
static void apply_halos(lgv_prog *p)
{
    lgv_graph *g = p->g;
    for (size_t i = 0; i < g->n_nodes; i++) {
        const lgv_action *a = &p->action[i];
        if (!a->kernel || !a->kernel->halo) continue;
        for (int k = 0; k < g->node[i].n_in; k++) {
            lgv_id v = g->node[i].in[k];
            if (v < 0 || g->value[v].rank != 4) continue;
            int halo = a->kernel->halo(&a->call, k);
            lgv_root *r = &p->root[p->place[v].root];
            if (halo > p->place[v].halo && r->kind == LGV_ROOT_ARENA) {
                lay_out(p, v, halo);
                r->halo = halo;
            }
        }
    }
}

/* v becomes the channels start.. of whole. */
static void make_view(lgv_prog *p, lgv_id v, lgv_id whole, int64_t start)
{
    lgv_place *a = &p->place[v];
    const lgv_place *b = &p->place[whole];
    p->root[a->root].kind = LGV_ROOT_NONE;
    p->root[a->root].members = 0;
    a->root = b->root;
    a->offset = b->offset + start;
    memcpy(a->stride, b->stride, sizeof a->stride);
    a->halo = b->halo;
    a->view = true;
    p->root[b->root].members++;
}

static bool may_be_view(const lgv_prog *p, lgv_id v)
{
    const lgv_root *r = &p->root[p->place[v].root];
    return r->kind == LGV_ROOT_ARENA && !p->place[v].view && p->g->value[v].rank > 1 &&
           !is_input_node(lgv_node_of(p->g, v));
}

/* The inputs of a concat are written in place. Later concats first, so that a concat inside another finds its
   place before its own inputs do. */
static void alias_concats(lgv_prog *p)
{
    lgv_graph *g = p->g;
    for (size_t i = g->n_nodes; i-- > 0;) {
        const lgv_node *n = &g->node[i];
        if (n->op != LGV_OP_concat || p->root[p->place[n->out[0]].root].kind != LGV_ROOT_ARENA)
            continue;
        int64_t start = 0;
        bool all = true;
        for (int k = 0; k < n->n_in; k++) {
            bool twice = false;
            for (int earlier = 0; earlier < k; earlier++)
                twice = twice || n->in[earlier] == n->in[k];
            /* A slice result is cheaper as a view of its source, a value that is a container of views has to stay. */
            if (!twice && may_be_view(p, n->in[k]) &&
                p->root[p->place[n->in[k]].root].members == 1 && p->place[n->in[k]].halo == 0 &&
                lgv_node_of(g, n->in[k])->op != LGV_OP_slice)
                make_view(p, n->in[k], n->out[0], start);
            else
                all = false;
            start += lgv_channels(&g->value[n->in[k]]);
        }
        if (all) p->action[i].kernel = NULL;
    }
}

static void alias_slices(lgv_prog *p)
{
    lgv_graph *g = p->g;
    for (size_t i = 0; i < g->n_nodes; i++) {
        const lgv_node *n = &g->node[i];
        if (n->op != LGV_OP_slice || !may_be_view(p, n->out[0]) ||
            p->root[p->place[n->out[0]].root].members > 1)
            continue;
        lgv_root_kind kind = p->root[p->place[n->in[0]].root].kind;
        /* An output keeps its value when the host writes the next input. */
        if (kind == LGV_ROOT_STORE || (kind == LGV_ROOT_IO && is_output(g, n->out[0]))) continue;
        make_view(p, n->out[0], n->in[0], ((lgv_attr_slice *)n->attr)->start);
        p->action[i].kernel = NULL;
    }
}

/* Whether some other node of the program writes the buffer that node `assign` writes, in a way that shows when v is
   made in place: between v and the assign, or while v is still read. */
static bool written_besides(const lgv_graph *g, int32_t assign, lgv_id v, int32_t readers)
{
    const lgv_attr_assign *mine = g->node[assign].attr;
    for (int32_t i = 0; i < (int32_t)g->n_nodes; i++) {
        const lgv_node *n = &g->node[i];
        const lgv_attr_assign *other = n->attr;
        if (n->op == LGV_OP_assign && i != assign && !strcmp(other->name, mine->name) &&
            !strcmp(other->set, mine->set))
            return true;
        if (n->op == LGV_OP_adamw && i > g->value[v].node && (i < assign || readers != 1))
            return true;
    }
    return false;
}

/* assign(v): v's producer writes into the store itself. Not into the set that parameters are read from (the write
   would move before reads), and when adding only if the kernel can add and nobody else wants v. */
static void alias_assigns(lgv_plan *plan, lgv_prog *p, const int32_t *readers)
{
    lgv_graph *g = p->g;
    for (size_t i = 0; i < g->n_nodes; i++) {
        const lgv_node *n = &g->node[i];
        if (n->op != LGV_OP_assign) continue;
        lgv_action *a = &p->action[i];
        lgv_id v = n->in[0];
        lgv_root *r = &p->root[p->place[v].root];
        lgv_action *made = &p->action[g->value[v].node];
        const lgv_attr_assign *attr = n->attr;
        int set = lgv_store_find_set(plan->store, attr->set);
        bool adds = plan->options.accumulate_grads && !strcmp(attr->set, "grad");
        a->bumps_set = set;
        if (plan->options.check || set == plan->weights_set || r->kind != LGV_ROOT_ARENA ||
            r->members != 1 || r->halo || !made->kernel || is_input_node(lgv_node_of(g, v)) ||
            is_output(g, v) || written_besides(g, (int32_t)i, v, readers[v]))
            continue;
        if (adds && (!made->kernel->accumulates || readers[v] != 1 || g->value[v].out != 0))
            continue;
        r->kind = LGV_ROOT_STORE;
        r->set = set;
        r->buffer = lgv_store_find(plan->store, attr->name);
        made->call.accumulate = adds;
        a->kernel = NULL;
    }
}

lgv_status lgv_place_values(lgv_plan *plan, lgv_prog *p, lgv_error *err)
{
    int32_t *readers = lgv_alloc(p->g->n_values + 1, sizeof *readers);
    if (!readers) return lgv_fail(err, LGV_ERR_MEMORY, "out of memory while planning");
    lgv_graph_readers(p->g, readers);
    lgv_status status = make_roots(plan, p, err);
    if (!status) {
        apply_halos(p);
        alias_concats(p);
        alias_slices(p);
        alias_assigns(plan, p, readers);
    }
    lgv_free(readers);
    return status;
}

/* --- Lifetimes ------------------------------------------------------------------------------------ */
static void live(lgv_root *r, int32_t i)
{
    if (i < r->first) r->first = i;
    if (i > r->last) r->last = i;
}

static void find_lifetimes(lgv_prog *p)
{
    lgv_graph *g = p->g;
    for (size_t i = 0; i < g->n_nodes; i++) {
        const lgv_node *n = &g->node[i];
        for (int k = 0; k < n->n_out; k++)
            if (n->out[k] >= 0) live(&p->root[p->place[n->out[k]].root], (int32_t)i);
        for (int k = 0; k < n->n_in; k++)
            if (n->in[k] >= 0) live(&p->root[p->place[n->in[k]].root], (int32_t)i);
        if (p->action[i].scratch >= 0) live(&p->root[p->action[i].scratch], (int32_t)i);
    }
    for (size_t i = 0; i < g->n_outputs; i++) {
        lgv_root *r = &p->root[p->place[g->output[i].value].root];
        if (r->kind == LGV_ROOT_ARENA) r->kind = LGV_ROOT_IO;
    }
}

/* A kernel may write the result before it is done with the other uses of its input. */
static bool read_twice(const lgv_prog *p, const lgv_node *n, int k)
{
    for (int j = 0; j < n->n_in; j++)
        if (j != k && n->in[j] >= 0 && p->place[n->in[j]].root == p->place[n->in[k]].root)
            return true;
    return false;
}

/* What lies in one root (a value and the slices of it) lies in the other from now on. */
static void move_root(lgv_prog *p, int32_t from, int32_t to)
{
    lgv_root *a = &p->root[to], *b = &p->root[from];
    for (size_t v = 0; v < p->g->n_values; v++)
        if (p->place[v].root == from) p->place[v].root = to;
    a->last = b->last;
    a->members = b->members;
    b->kind = LGV_ROOT_NONE;
}

/* Output 0 of an elementwise node takes over the memory of an input that dies there. */
static void take_over(lgv_prog *p)
{
    lgv_graph *g = p->g;
    for (size_t i = 0; i < g->n_nodes; i++) {
        const lgv_node *n = &g->node[i];
        unsigned flags = lgv_op_record(n->op)->flags;
        for (int k = 0; k < 2; k++) {
            if (!(flags & (k ? LGV_OP_INPLACE1 : LGV_OP_INPLACE0)) || k >= n->n_in ||
                n->in[k] < 0 || n->n_out < 1)
                continue;
            lgv_id x = n->in[k], y = n->out[0];
            lgv_root *a = &p->root[p->place[x].root], *b = &p->root[p->place[y].root];
            if (a == b || a->kind != LGV_ROOT_ARENA || b->kind != LGV_ROOT_ARENA ||
                a->members != 1 || p->place[y].view || a->halo || b->halo ||
                a->last != (int32_t)i || read_twice(p, n, k) ||
                !lgv_same_shape(&g->value[x], &g->value[y]) ||
                g->value[x].dtype != g->value[y].dtype)
                continue;
            move_root(p, p->place[y].root, p->place[x].root);
            break;
        }
    }
}

typedef struct item {
    int32_t root;
    size_t bytes;
    int32_t first;
} item;

static int by_size(const void *x, const void *y)
{
    const item *a = x, *b = y;
    if (a->bytes != b->bytes) return a->bytes > b->bytes ? -1 : 1;
    if (a->first != b->first) return a->first < b->first ? -1 : 1;
    return a->root < b->root ? -1 : 1;
}

/* Largest first, each at the lowest offset that is free during its life. `placed` is kept sorted by offset. */
static size_t pack_arena(lgv_prog *p, item *items, size_t n, int32_t *placed)
{
    size_t top = 0, n_placed = 0;
    qsort(items, n, sizeof *items, by_size);
    for (size_t i = 0; i < n; i++) {
        lgv_root *r = &p->root[items[i].root];
        size_t offset = 0;
        for (size_t k = 0; k < n_placed; k++) {
            const lgv_root *q = &p->root[placed[k]];
            if (q->first > r->last || q->last < r->first) continue;
            if (q->offset >= offset + items[i].bytes) break;
            if (q->offset + q->bytes > offset) offset = q->offset + q->bytes;
        }
        r->offset = offset;
        r->bytes = items[i].bytes;
        if (offset + r->bytes > top) top = offset + r->bytes;
        size_t at = n_placed++;
        while (at > 0 && p->root[placed[at - 1]].offset > offset) {
            placed[at] = placed[at - 1];
            at--;
        }
        placed[at] = items[i].root;
    }
    return top;
}

lgv_status lgv_place_memory(lgv_plan *plan, lgv_prog *p, size_t *io_bytes, lgv_error *err)
{
    lgv_graph *g = p->g;
    find_lifetimes(p);
    if (!plan->options.check) take_over(p);
    item *items = lgv_alloc(p->n_roots + 1, sizeof *items);
    int32_t *placed = lgv_alloc(p->n_roots + 1, sizeof *placed);
    if (!items || !placed) {
        lgv_free(items);
        lgv_free(placed);
        return lgv_fail(err, LGV_ERR_MEMORY, "out of memory while planning %zu values", p->n_roots);
    }
    size_t n = 0;
    for (size_t i = 0; i < p->n_roots; i++) {
        lgv_root *r = &p->root[i];
        if (r->kind != LGV_ROOT_ARENA && r->kind != LGV_ROOT_IO) continue;
        if (r->owner >= 0) {
            const lgv_value *v = &g->value[r->owner];
            r->bytes =
                layout_elements(v, r->halo) * plan->device->element_size(plan->device, v->dtype);
        }
        r->bytes = lgv_round_up(r->bytes);
        if (r->kind == LGV_ROOT_IO) {
            r->offset = *io_bytes;
            *io_bytes += r->bytes;
        } else if (plan->options.check) { /* nothing shares memory */
            r->offset = p->arena_bytes;
            p->arena_bytes += r->bytes;
        } else if (r->last >= 0) {
            items[n++] = (item){(int32_t)i, r->bytes, r->first};
        }
    }
    if (n) p->arena_bytes = pack_arena(p, items, n, placed);
    lgv_free(items);
    lgv_free(placed);
    return LGV_OK;
}

lgv_tensor lgv_place_tensor(const lgv_plan *plan, const lgv_prog *p, lgv_id v)
{
    lgv_tensor t = {0};
    if (v < 0) return t;
    const lgv_value *value = &p->g->value[v];
    const lgv_place *pl = &p->place[v];
    t.dtype = value->dtype;
    t.rank = value->rank;
    memcpy(t.dim, value->dim, sizeof t.dim);
    memcpy(t.stride, pl->stride, sizeof t.stride);
    t.halo = pl->halo;
    const lgv_root *r = &p->root[pl->root];
    char *base = NULL;
    if (r->kind == LGV_ROOT_ARENA && plan->store->arena)
        base = (char *)plan->store->arena + r->offset;
    if (r->kind == LGV_ROOT_IO && plan->io) base = (char *)plan->io + r->offset;
    if (r->kind == LGV_ROOT_STORE) base = lgv_store_data(plan->store, r->set, r->buffer);
    if (base)
        t.data = base + (size_t)pl->offset * plan->device->element_size(plan->device, value->dtype);
    return t;
}
