/* graph.c - building graphs: values, nodes, scopes, leaves, outputs.
   The first mistake sticks to the graph, so that builders need no error handling of their own. */
#include <stdio.h>
#include <string.h>

#include "langevin/custom.h"
#include "node.h"

static const lgv_op *const records[LGV_OPS] = {
#define LGV_OP(name, family) &lgv_op_##name,
#include "ops.def"
#undef LGV_OP
};

const lgv_op *lgv_op_record(lgv_opcode op)
{
    return records[op];
}

lgv_graph *lgv_graph_new(void)
{
    return lgv_zalloc(1, sizeof(lgv_graph));
}

void lgv_graph_free(lgv_graph *g)
{
    if (!g) return;
    for (size_t i = 0; i < g->n_owned; i++) lgv_free(g->owned[i]);
    lgv_free(g->owned);
    lgv_free(g->node);
    lgv_free(g->value);
    lgv_free(g->param);
    lgv_free(g->output);
    lgv_free(g->module);
    lgv_free(g);
}

lgv_status lgv_graph_status(const lgv_graph *g, lgv_error *err)
{
    if (g->error.status && err) *err = g->error;
    return g->error.status;
}

lgv_id lgv_graph_fail(lgv_graph *g, lgv_status status, const char *fmt, ...)
{
    if (g->error.status) return LGV_NONE;
    va_list args;
    va_start(args, fmt);
    g->error.status = status;
    vsnprintf(g->error.text, sizeof g->error.text, fmt, args);
    va_end(args);
    return LGV_NONE;
}

static lgv_id out_of_memory(lgv_graph *g)
{
    return lgv_graph_fail(g, LGV_ERR_MEMORY, "out of memory while building a graph of %zu nodes",
                          g->n_nodes);
}

/* Makes the graph own p (allocated with lgv_alloc); frees it and returns NULL when that fails. */
static void *own(lgv_graph *g, void *p)
{
    if (p && lgv_grow(&g->owned, &g->cap_owned, g->n_owned + 1, sizeof *g->owned, NULL) == LGV_OK) {
        g->owned[g->n_owned++] = p;
        return p;
    }
    lgv_free(p);
    out_of_memory(g);
    return NULL;
}

const char *lgv_graph_strdup(lgv_graph *g, const char *s)
{
    return own(g, lgv_strdup(s));
}

void *lgv_graph_new_attr(lgv_graph *g, size_t size)
{
    return own(g, lgv_zalloc(1, size));
}

const char *lgv_shape_text(const lgv_value *v, char text[96])
{
    size_t used = (size_t)snprintf(text, 96, "[");
    for (int i = 0; i < v->rank; i++)
        used +=
            (size_t)snprintf(text + used, 96 - used, i ? ",%lld" : "%lld", (long long)v->dim[i]);
    snprintf(text + used, 96 - used, "]");
    return text;
}

/* --- Scopes ------------------------------------------------------------------------------------- */
void lgv_graph_push(lgv_graph *g, const char *fmt, ...)
{
    char part[256];
    va_list args;
    va_start(args, fmt);
    vsnprintf(part, sizeof part, fmt, args);
    va_end(args);
    size_t used = strlen(g->scope);
    int n = snprintf(g->scope + used, sizeof g->scope - used, "%s%s", used ? "/" : "", part);
    if (n < 0 || (size_t)n >= sizeof g->scope - used)
        lgv_graph_fail(g, LGV_ERR_ARGUMENT, "the scope '%s' is nested too deeply", part);
}

/* Scopes are kept separated by '/', so that one push of "down_blocks.0" is one pop. */
void lgv_graph_pop(lgv_graph *g)
{
    char *last = strrchr(g->scope, '/');
    if (last)
        *last = 0;
    else if (g->scope[0])
        g->scope[0] = 0;
    else
        lgv_graph_fail(g, LGV_ERR_ARGUMENT, "lgv_graph_pop without an open scope");
}

enum { PATH = 1024 };

static void join_path(const lgv_graph *g, const char *name, char path[PATH])
{
    snprintf(path, PATH, "%s%s%s", g->scope, g->scope[0] && name[0] ? "." : "", name);
    for (char *p = path, *end = path + strlen(g->scope); p < end; p++)
        if (*p == '/') *p = '.';
}

const char *lgv_graph_path(lgv_graph *g, const char *name)
{
    char path[PATH];
    join_path(g, name, path);
    const char *s = lgv_graph_strdup(g, path);
    return s ? s : "";
}

void lgv_graph_block_begin(lgv_graph *g)
{
    g->block = ++g->n_blocks;
}

void lgv_graph_block_end(lgv_graph *g)
{
    g->block = 0;
}

/* --- Nodes -------------------------------------------------------------------------------------- */
bool lgv_same_shape(const lgv_value *a, const lgv_value *b)
{
    return a->rank == b->rank && !memcmp(a->dim, b->dim, sizeof a->dim);
}

void lgv_like(lgv_value *out, const lgv_value *a)
{
    out->dtype = a->dtype;
    out->rank = a->rank;
    memcpy(out->dim, a->dim, sizeof out->dim);
}

void lgv_set_shape(lgv_value *out, lgv_dtype dtype, int rank, int64_t d0, int64_t d1, int64_t d2,
                   int64_t d3)
{
    out->dtype = dtype;
    out->rank = rank;
    out->dim[0] = d0;
    out->dim[1] = rank > 1 ? d1 : 1;
    out->dim[2] = rank > 2 ? d2 : 1;
    out->dim[3] = rank > 3 ? d3 : 1;
}

/* So small that no sum of sizes of a graph, its workspaces and its parameters can overflow. */
static const int64_t most_elements = (int64_t)1 << 44;

static lgv_status check_value(const lgv_value *v, lgv_error *err)
{
    int64_t n = 1;
    for (int i = 0; i < LGV_MAX_RANK; i++)
        if (v->dim[i] < 1 || !lgv_mul_i64(n, v->dim[i], &n) || n > most_elements) {
            char text[96];
            return lgv_fail(err, LGV_ERR_SHAPE, "the output shape %s is empty or too large",
                            lgv_shape_text(v, text));
        }
    return LGV_OK;
}

static lgv_id value_new(lgv_graph *g, int32_t node, int k, const lgv_value *like)
{
    if (lgv_grow(&g->value, &g->cap_values, g->n_values + 1, sizeof *g->value, NULL))
        return out_of_memory(g);
    lgv_value *v = &g->value[g->n_values];
    *v = *like;
    v->node = node;
    v->out = k;
    v->gradient_of = LGV_NONE;
    return (lgv_id)g->n_values++;
}

/* Checks the inputs of a node and asks its operator for the outputs. */
static lgv_status infer(lgv_graph *g, const lgv_op *r, int n_in, const lgv_id *in, const void *attr,
                        lgv_infer *c, lgv_error *err)
{
    if (n_in < r->min_in || n_in > r->max_in)
        return lgv_fail(err, LGV_ERR_ARGUMENT, "takes %d to %d inputs, not %d", r->min_in,
                        r->max_in, n_in);
    for (int i = 0; i < n_in; i++) {
        if (in[i] == LGV_NONE && i >= r->min_in) continue;
        if (in[i] < 0 || (size_t)in[i] >= g->n_values)
            return lgv_fail(err, LGV_ERR_ARGUMENT, "input %d is not a value of this graph", i);
        c->in[i] = &g->value[in[i]];
    }
    c->n_in = n_in;
    c->attr = attr;
    c->n_out = r->n_out;
    LGV_TRY(r->infer(c, err));
    for (int k = 0; k < c->n_out; k++) LGV_TRY(check_value(&c->out[k], err));
    return LGV_OK;
}

lgv_id lgv_node_new(lgv_graph *g, lgv_opcode op, const char *name, int n_in, const lgv_id *in,
                    const void *attr)
{
    if (g->error.status) return LGV_NONE;
    const lgv_op *r = lgv_op_record(op);
    lgv_infer c = {0};
    lgv_error err = {0};
    char path[PATH];
    if (g->inherit_name)
        snprintf(path, sizeof path, "%s.%s", g->inherit_name, name);
    else
        join_path(g, name, path);
    lgv_status status = infer(g, r, n_in, in, attr, &c, &err);
    if (status)
        return lgv_graph_fail(g, status, "%s '%s': %s", lgv_op_name(op, attr), path, err.text);

    if (lgv_grow(&g->node, &g->cap_nodes, g->n_nodes + 1, sizeof *g->node, NULL))
        return out_of_memory(g);
    lgv_node n = {.op = op,
                  .n_in = n_in,
                  .n_out = c.n_out,
                  .block = g->block,
                  .backward = g->inherit_name != NULL};
    for (int i = 0; i < LGV_MAX_INPUTS; i++) n.in[i] = i < n_in ? in[i] : LGV_NONE;
    for (int k = 0; k < LGV_MAX_OUTPUTS; k++) n.out[k] = LGV_NONE;
    n.name = lgv_graph_strdup(g, path);
    if (r->attr_size) {
        n.attr = own(g, lgv_alloc(1, r->attr_size));
        if (n.attr) memcpy(n.attr, attr, r->attr_size);
    }
    for (int k = 0; k < c.n_out; k++) n.out[k] = value_new(g, (int32_t)g->n_nodes, k, &c.out[k]);
    if (g->error.status) return LGV_NONE;
    g->node[g->n_nodes++] = n;
    return n.n_out ? n.out[0] : LGV_NONE;
}

lgv_id lgv_output_of(const lgv_graph *g, lgv_id v, int k)
{
    if (v < 0 || g->error.status) return LGV_NONE;
    const lgv_node *n = lgv_node_of(g, v);
    return k >= 0 && k < n->n_out ? n->out[k] : LGV_NONE;
}

int lgv_shape(const lgv_graph *g, lgv_id value, int64_t *dim)
{
    const lgv_value *v = lgv_val(g, value);
    for (int i = 0; i < LGV_MAX_RANK; i++) dim[i] = v ? v->dim[i] : 0;
    return v ? v->rank : 0;
}

int64_t lgv_elements(const lgv_graph *g, lgv_id value)
{
    return value < 0 ? 0 : lgv_value_elements(&g->value[value]);
}

/* --- Leaves, outputs, modules --------------------------------------------------------------------- */
static lgv_id find_named(const lgv_named *list, size_t n, const char *name)
{
    for (size_t i = 0; i < n; i++)
        if (!strcmp(list[i].name, name)) return list[i].value;
    return LGV_NONE;
}

static lgv_id param_new(lgv_graph *g, const char *name, int rank, const int64_t *dim, bool frozen)
{
    if (g->error.status) return LGV_NONE;
    const char *path = lgv_graph_path(g, name);
    for (size_t i = 0; i < g->n_params; i++) {
        const lgv_param_info *p = &g->param[i];
        if (strcmp(p->name, path)) continue;
        if (p->rank == rank && !memcmp(p->dim, dim, (size_t)rank * sizeof *dim)) return p->value;
        return lgv_graph_fail(g, LGV_ERR_SHAPE,
                              "parameter '%s' is asked for with two different shapes", path);
    }
    if (rank < 1 || rank > LGV_MAX_RANK)
        return lgv_graph_fail(g, LGV_ERR_SHAPE, "parameter '%s' has rank %d", path, rank);
    if (lgv_grow(&g->param, &g->cap_params, g->n_params + 1, sizeof *g->param, NULL))
        return out_of_memory(g);
    lgv_param_info *p = &g->param[g->n_params];
    *p = (lgv_param_info){.name = path, .rank = rank, .frozen = frozen, .dim = {1, 1, 1, 1}};
    memcpy(p->dim, dim, (size_t)rank * sizeof *dim);
    lgv_attr_param attr = {(int32_t)g->n_params};
    g->n_params++;
    lgv_id v = lgv_node_new(g, LGV_OP_param, name, 0, NULL, &attr);
    if (v < 0) return LGV_NONE;
    lgv_value *value = &g->value[v];
    lgv_set_shape(value, LGV_F32, rank, g->param[attr.param].dim[0], g->param[attr.param].dim[1],
                  g->param[attr.param].dim[2], g->param[attr.param].dim[3]);
    lgv_error err;
    if (check_value(value, &err))
        return lgv_graph_fail(g, err.status, "parameter '%s': %s", path, err.text);
    g->param[attr.param].value = v;
    return v;
}

lgv_id lgv_param(lgv_graph *g, const char *name, int rank, const int64_t *dim)
{
    return param_new(g, name, rank, dim, false);
}

lgv_id lgv_param_frozen(lgv_graph *g, const char *name, int rank, const int64_t *dim)
{
    return param_new(g, name, rank, dim, true);
}

lgv_id lgv_input(lgv_graph *g, const char *name, lgv_dtype dtype, int rank, const int64_t *dim)
{
    if (g->error.status) return LGV_NONE;
    for (size_t i = 0; i < g->n_nodes; i++)
        if (g->node[i].op == LGV_OP_input &&
            !strcmp(((lgv_attr_input *)g->node[i].attr)->name, name))
            return lgv_graph_fail(g, LGV_ERR_ARGUMENT, "there are two inputs called '%s'", name);
    if (rank < 1 || rank > LGV_MAX_RANK)
        return lgv_graph_fail(g, LGV_ERR_SHAPE, "input '%s' has rank %d", name, rank);
    lgv_attr_input attr = {
        .name = lgv_graph_strdup(g, name), .dtype = dtype, .rank = rank, .dim = {1, 1, 1, 1}};
    memcpy(attr.dim, dim, (size_t)rank * sizeof *dim);
    if (!g->widen || rank < 2 || name[0] == 'w')
        return lgv_node_new(g, LGV_OP_input, name, 0, NULL, &attr);
    attr.dim[rank - 1] += 3;
    return lgv_slice(g, lgv_node_new(g, LGV_OP_input, name, 0, NULL, &attr), 2, dim[rank - 1]);
}

void lgv_graph_output(lgv_graph *g, lgv_id value, const char *name)
{
    if (g->error.status) return;
    if (value < 0 || (size_t)value >= g->n_values) {
        lgv_graph_fail(g, LGV_ERR_ARGUMENT, "output '%s' is not a value of this graph", name);
        return;
    }
    if (find_named(g->output, g->n_outputs, name) != LGV_NONE) {
        lgv_graph_fail(g, LGV_ERR_ARGUMENT, "there are two outputs called '%s'", name);
        return;
    }
    const char *own_name = lgv_graph_strdup(g, name);
    if (lgv_grow(&g->output, &g->cap_outputs, g->n_outputs + 1, sizeof *g->output, NULL)) {
        out_of_memory(g);
        return;
    }
    g->output[g->n_outputs++] = (lgv_named){own_name, value};
}

void lgv_graph_module(lgv_graph *g, lgv_id value, const char *path)
{
    if (g->error.status || value < 0) return;
    const char *own_path = lgv_graph_strdup(g, path);
    if (lgv_grow(&g->module, &g->cap_modules, g->n_modules + 1, sizeof *g->module, NULL)) {
        out_of_memory(g);
        return;
    }
    g->module[g->n_modules++] = (lgv_named){own_path, value};
}

int lgv_graph_modules(const lgv_graph *g)
{
    return (int)g->n_modules;
}

lgv_id lgv_graph_module_at(const lgv_graph *g, int i, const char **path)
{
    if (i < 0 || (size_t)i >= g->n_modules) return LGV_NONE;
    if (path) *path = g->module[i].name;
    return g->module[i].value;
}

void lgv_assign(lgv_graph *g, const char *set, const char *name, lgv_id value)
{
    lgv_attr_assign attr = {lgv_graph_strdup(g, set), lgv_graph_strdup(g, name)};
    lgv_node_new(g, LGV_OP_assign, "assign", 1, &value, &attr);
}

int lgv_graph_params(const lgv_graph *g)
{
    return (int)g->n_params;
}

lgv_id lgv_graph_param_at(const lgv_graph *g, int i, const char **name, int *frozen)
{
    if (i < 0 || (size_t)i >= g->n_params) return LGV_NONE;
    if (name) *name = g->param[i].name;
    if (frozen) *frozen = g->param[i].frozen;
    return g->param[i].value;
}

double lgv_node_flops(const lgv_graph *g, const lgv_node *n)
{
    const lgv_op *r = lgv_op_record(n->op);
    if (r->flags & LGV_OP_LEAF) return 0;
    if (r->flops) return r->flops(g, n);
    return n->n_out && n->out[0] >= 0 ? (double)lgv_value_elements(&g->value[n->out[0]]) : 0;
}

double lgv_graph_flops(const lgv_graph *g)
{
    double sum = 0;
    for (size_t i = 0; i < g->n_nodes; i++)
        if (!g->node[i].dead) sum += lgv_node_flops(g, &g->node[i]);
    return sum;
}

/* --- Whole graphs --------------------------------------------------------------------------------- */
static void *copy_array(const void *p, size_t n, size_t size)
{
    void *q = lgv_alloc(n ? n : 1, size);
    if (q && n) memcpy(q, p, n * size);
    return q;
}

lgv_status lgv_graph_clone(const lgv_graph *g, lgv_graph **out, lgv_error *err)
{
    lgv_graph *c = lgv_graph_new();
    if (!c) return lgv_fail(err, LGV_ERR_MEMORY, "out of memory while copying a graph");
    c->node = copy_array(g->node, g->n_nodes, sizeof *g->node);
    c->value = copy_array(g->value, g->n_values, sizeof *g->value);
    c->param = copy_array(g->param, g->n_params, sizeof *g->param);
    c->output = copy_array(g->output, g->n_outputs, sizeof *g->output);
    c->module = copy_array(g->module, g->n_modules, sizeof *g->module);
    if (!c->node || !c->value || !c->param || !c->output || !c->module) goto fail;
    c->n_nodes = c->cap_nodes = g->n_nodes;
    c->n_values = c->cap_values = g->n_values;
    c->n_params = c->cap_params = g->n_params;
    c->n_outputs = c->cap_outputs = g->n_outputs;
    c->n_modules = c->cap_modules = g->n_modules;
    c->n_blocks = g->n_blocks;
    for (size_t i = 0; i < c->n_nodes; i++) {
        lgv_node *n = &c->node[i];
        size_t size = lgv_op_record(n->op)->attr_size;
        n->name = lgv_graph_strdup(c, n->name);
        if (size) {
            n->attr = own(c, copy_array(n->attr, 1, size));
            if (!n->attr) goto fail;
        }
        if (n->op == LGV_OP_assign) {
            lgv_attr_assign *a = n->attr;
            a->set = lgv_graph_strdup(c, a->set);
            a->name = lgv_graph_strdup(c, a->name);
        }
        if (n->op == LGV_OP_custom) {
            lgv_attr_custom *a = n->attr;
            size = a->op->attr_size;
            if (size && !(a->attr = own(c, copy_array(a->attr, 1, size)))) goto fail;
        }
        if (n->op == LGV_OP_input)
            ((lgv_attr_input *)n->attr)->name =
                lgv_graph_strdup(c, ((lgv_attr_input *)n->attr)->name);
    }
    for (size_t i = 0; i < c->n_params; i++)
        c->param[i].name = lgv_graph_strdup(c, c->param[i].name);
    for (size_t i = 0; i < c->n_outputs; i++)
        c->output[i].name = lgv_graph_strdup(c, c->output[i].name);
    for (size_t i = 0; i < c->n_modules; i++)
        c->module[i].name = lgv_graph_strdup(c, c->module[i].name);
    if (c->error.status) goto fail;
    *out = c;
    return LGV_OK;
fail:
    lgv_graph_free(c);
    return lgv_fail(err, LGV_ERR_MEMORY, "out of memory while copying a graph of %zu nodes",
                    g->n_nodes);
}

void lgv_graph_readers(const lgv_graph *g, int32_t *count)
{
    memset(count, 0, g->n_values * sizeof *count);
    for (size_t i = 0; i < g->n_nodes; i++) {
        const lgv_node *n = &g->node[i];
        if (n->dead) continue;
        for (int k = 0; k < n->n_in; k++)
            if (n->in[k] >= 0) count[n->in[k]]++;
    }
    for (size_t i = 0; i < g->n_outputs; i++) count[g->output[i].value]++;
}

bool lgv_graph_writes_between(const lgv_graph *g, int32_t from, int32_t to)
{
    for (int32_t i = from + 1; i < to; i++) {
        const lgv_node *n = &g->node[i];
        if (n->dead || !(lgv_op_record(n->op)->flags & LGV_OP_EFFECT)) continue;
        if (n->op != LGV_OP_assign || strcmp(((const lgv_attr_assign *)n->attr)->set, "grad"))
            return true;
    }
    return false;
}

/* Nodes are in execution order, so one backward sweep finds everything that is needed. Inputs stay: the
   host writes them whether or not they are read. */
void lgv_graph_compact(lgv_graph *g)
{
    for (size_t i = 0; i < g->n_values; i++) g->value[i].needed = false;
    for (size_t i = 0; i < g->n_outputs; i++) g->value[g->output[i].value].needed = true;
    for (size_t i = g->n_nodes; i-- > 0;) {
        lgv_node *n = &g->node[i];
        bool needed = (lgv_op_record(n->op)->flags & LGV_OP_EFFECT) || n->op == LGV_OP_input;
        for (int k = 0; k < n->n_out; k++)
            if (n->out[k] >= 0 && g->value[n->out[k]].needed) needed = true;
        if (!needed) n->dead = true;
        if (n->dead) continue;
        for (int k = 0; k < n->n_in; k++)
            if (n->in[k] >= 0) g->value[n->in[k]].needed = true;
    }
    size_t kept = 0;
    for (size_t i = 0; i < g->n_nodes; i++) {
        if (g->node[i].dead) continue;
        for (int k = 0; k < g->node[i].n_out; k++)
            if (g->node[i].out[k] >= 0) g->value[g->node[i].out[k]].node = (int32_t)kept;
        g->node[kept++] = g->node[i];
    }
    g->n_nodes = kept;
}
