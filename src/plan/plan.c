/* plan.c - from graphs to programs: passes, a kernel for every node, a place for every byte.
   With a memory budget the whole is planned repeatedly, recomputing a little more each time. */
#include <stdio.h>
#include <string.h>

#include "planner.h"

/* --- Choosing kernels ------------------------------------------------------------------------------- */
static char present_marker; /* calls without memory yet point here: "there will be data" */

static void dense_tensor(const lgv_graph *g, lgv_id v, lgv_tensor *t)
{
    memset(t, 0, sizeof *t);
    if (v < 0) return;
    const lgv_value *value = &g->value[v];
    t->data = &present_marker;
    t->dtype = value->dtype;
    t->rank = value->rank;
    memcpy(t->dim, value->dim, sizeof t->dim);
    int64_t step = 1;
    for (int i = value->rank - 1; i >= 0; i--) {
        t->stride[i] = step;
        step *= value->dim[i];
    }
}

static void start_call(const lgv_plan *plan, const lgv_node *n, lgv_call *c)
{
    memset(c, 0, sizeof *c);
    c->op = n->op;
    c->name = n->name;
    c->attr = n->attr;
    c->n_in = n->n_in;
    c->n_out = n->n_out;
    c->threads = plan->device->threads;
    c->pool = plan->device->pool;
    c->step = &plan->step;
}

static void dense_call(const lgv_plan *plan, const lgv_graph *g, const lgv_node *n, lgv_call *c)
{
    start_call(plan, n, c);
    for (int k = 0; k < n->n_in; k++) dense_tensor(g, n->in[k], &c->in[k]);
    for (int k = 0; k < n->n_out; k++) dense_tensor(g, n->out[k], &c->out[k]);
}

static unsigned epilogue_of(const lgv_call *c)
{
    if (c->op != LGV_OP_conv2d && c->op != LGV_OP_linear) return 0;
    unsigned mask = 0;
    if (c->n_in > LGV_IN_BIAS && c->in[LGV_IN_BIAS].data) mask |= LGV_EPI_BIAS;
    if (c->n_in > LGV_IN_ROW && c->in[LGV_IN_ROW].data) mask |= LGV_EPI_ROW;
    if (c->n_in > LGV_IN_RESIDUAL && c->in[LGV_IN_RESIDUAL].data) mask |= LGV_EPI_RESIDUAL;
    if (c->n_in > LGV_IN_GATE && c->in[LGV_IN_GATE].data) mask |= LGV_EPI_GATE;
    int act = c->op == LGV_OP_conv2d ? ((const lgv_attr_conv *)c->attr)->act
                                     : ((const lgv_attr_linear *)c->attr)->act;
    return act ? mask | LGV_EPI_ACT : mask;
}

static bool takes(const lgv_kernel *k, const lgv_call *c)
{
    if (c->accumulate && !k->accumulates) return false;
    if (!k->bf16 && lgv_has_bf16(c)) return false;
    return !(epilogue_of(c) & ~k->epilogue) && (!k->accepts || k->accepts(c));
}

/* The first kernel that takes c and is called name (NULL: whatever its name). */
static const lgv_kernel *find_kernel(const lgv_device *d, const lgv_call *c, const char *name)
{
    const lgv_kernel *k;
    for (int i = 0; (k = d->kernel(d, c->op, i)); i++)
        if ((!name || !strcmp(k->name, name)) && takes(k, c)) return k;
    return NULL;
}

static const lgv_kernel *find_cast(const lgv_device *d)
{
    lgv_call c = {.op = LGV_OP_cast, .n_in = 1, .n_out = 1};
    c.in[0] = (lgv_tensor){.data = &present_marker, .dtype = LGV_BF16, .rank = 1};
    c.out[0] = (lgv_tensor){.data = &present_marker, .dtype = LGV_F32, .rank = 1};
    return find_kernel(d, &c, NULL);
}

/* The kernel for c; *widen: it takes only the widened form of c. */
static const lgv_kernel *choose(const lgv_plan *plan, const lgv_call *c, bool *widen)
{
    const char *forced = plan->kernel[0] ? plan->kernel : NULL;
    bool bf16 = lgv_has_bf16(c);
    lgv_call wide;
    if (bf16) lgv_widen(c, &wide);
    for (int any = !forced; any < 2; any++) {
        const char *name = any ? NULL : forced;
        const lgv_kernel *k = find_kernel(plan->device, c, name);
        *widen = !k && bf16;
        if (*widen) k = find_kernel(plan->device, &wide, name);
        if (k) return k;
    }
    return NULL;
}

/* What the kernel that would get this node can do besides. */
static unsigned supported_epilogue(void *arg, const lgv_node *n)
{
    void **both = arg;
    lgv_call c;
    bool widen;
    dense_call(both[0], both[1], n, &c);
    const lgv_kernel *k = choose(both[0], &c, &widen);
    return k ? k->epilogue : 0;
}

static lgv_status no_kernel(const lgv_plan *plan, const lgv_node *n, lgv_error *err)
{
    return lgv_fail(err, LGV_ERR_UNSUPPORTED, "device %s has no kernel for %s '%s'",
                    plan->device->name, lgv_op_name(n->op, n->attr), n->name);
}

/* --- One program ------------------------------------------------------------------------------------ */
static lgv_status instrument(lgv_graph *g, lgv_error *err)
{
    for (size_t i = 0; i < g->n_modules; i++) {
        bool known = false;
        for (size_t k = 0; k < g->n_outputs; k++)
            known |= !strcmp(g->output[k].name, g->module[i].name);
        if (!known) lgv_graph_output(g, g->module[i].value, g->module[i].name);
    }
    return lgv_graph_status(g, err);
}

static lgv_status run_passes(lgv_plan *plan, lgv_graph *g, const lgv_recompute *recompute,
                             int *n_units, lgv_error *err)
{
    if (plan->options.instrument) LGV_TRY(instrument(g, err));
    lgv_graph_compact(g);
    if (plan->options.mixed_precision == LGV_MIXED_BF16) {
        LGV_TRY(lgv_pass_mixed_precision(g, err));
        lgv_graph_compact(g);
    }
    if (!plan->options.no_fusion) {
        void *both[2] = {plan, g};
        LGV_TRY(lgv_pass_casts(g, err));
        LGV_TRY(lgv_pass_fuse_norm(g, err));
        lgv_graph_compact(g);
        LGV_TRY(lgv_pass_join_slices(g, err));
        lgv_graph_compact(g);
        LGV_TRY(lgv_pass_fuse_epilogue(g, supported_epilogue, both, err));
        lgv_graph_compact(g);
    }
    if (recompute->level) {
        int found = 0;
        LGV_TRY(lgv_pass_recompute(g, recompute, &found, err));
        *n_units += found;
        lgv_graph_compact(g);
    }
    return LGV_OK;
}

static void placed_call(const lgv_plan *plan, const lgv_prog *p, lgv_action *a)
{
    const lgv_node *n = &p->g->node[a->node];
    for (int k = 0; k < n->n_in; k++) {
        a->call.in[k] = lgv_place_tensor(plan, p, n->in[k]);
        if (n->in[k] >= 0 && !a->call.in[k].data) a->call.in[k].data = &present_marker;
    }
    for (int k = 0; k < n->n_out; k++) {
        a->call.out[k] = lgv_place_tensor(plan, p, n->out[k]);
        if (n->out[k] >= 0 && !a->call.out[k].data) a->call.out[k].data = &present_marker;
    }
}

static lgv_status check_assign(const lgv_plan *plan, const lgv_prog *p, const lgv_node *n,
                               lgv_error *err)
{
    const lgv_attr_assign *a = n->attr;
    int buffer = lgv_store_find(plan->store, a->name);
    if (lgv_store_find_set(plan->store, a->set) < 0)
        return lgv_fail(err, LGV_ERR_ARGUMENT, "assign to '%s': the store has no set '%s'", a->name,
                        a->set);
    if (buffer < 0)
        return lgv_fail(err, LGV_ERR_ARGUMENT, "assign: the store has no buffer '%s'", a->name);
    LGV_TRY(lgv_store_wants_writable(plan->store, lgv_store_find_set(plan->store, a->set), err));
    if (plan->store->buffer[buffer].count != lgv_elements(p->g, n->in[0]))
        return lgv_fail(err, LGV_ERR_SHAPE,
                        "assign to '%s': the value has %lld elements, the buffer %lld", a->name,
                        (long long)lgv_elements(p->g, n->in[0]),
                        (long long)plan->store->buffer[buffer].count);
    return LGV_OK;
}

static lgv_status first_kernels(lgv_plan *plan, lgv_prog *p, lgv_error *err)
{
    for (size_t i = 0; i < p->g->n_nodes; i++) {
        const lgv_node *n = &p->g->node[i];
        lgv_action *a = &p->action[i];
        a->node = (int32_t)i;
        a->scratch = -1;
        a->bumps_set = -1;
        if (n->op == LGV_OP_assign) LGV_TRY(check_assign(plan, p, n, err));
        dense_call(plan, p->g, n, &a->call);
        if (lgv_op_record(n->op)->flags & LGV_OP_LEAF) continue;
        bool widen;
        a->kernel = choose(plan, &a->call, &widen);
        if (!a->kernel) return no_kernel(plan, n, err);
    }
    return LGV_OK;
}

/* The kernel for the real strides. */
static lgv_status final_kernel(lgv_plan *plan, const lgv_node *n, lgv_action *a, lgv_error *err)
{
    bool widen;
    a->kernel = choose(plan, &a->call, &widen);
    if (!a->kernel) return no_kernel(plan, n, err);
    if (!widen) return LGV_OK;
    a->wide = lgv_zalloc(1, sizeof *a->wide);
    if (!a->wide) return lgv_fail(err, LGV_ERR_MEMORY, "out of memory while planning");
    lgv_widen(&a->call, &a->wide->call);
    a->wide->bytes = lgv_widened_bytes(plan->device, &a->call);
    snprintf(a->wide->kernel, sizeof a->wide->kernel, "%s (via f32)", a->kernel->name);
    return LGV_OK;
}

/* Kernels for the real strides, and what they need: packed weights, workspace. */
static lgv_status final_kernels(lgv_plan *plan, lgv_prog *p, lgv_error *err)
{
    for (size_t i = 0; i < p->g->n_nodes; i++) {
        const lgv_node *n = &p->g->node[i];
        lgv_action *a = &p->action[i];
        placed_call(plan, p, a);
        if (!a->kernel) continue;
        if (n->op == LGV_OP_assign) {
            const lgv_attr_assign *attr = n->attr;
            int set = lgv_store_find_set(plan->store, attr->set);
            a->call.accumulate = plan->options.accumulate_grads && !strcmp(attr->set, "grad");
            a->call.n_out = 1;
            a->call.out[0] = a->call.in[0];
            a->call.out[0].data =
                lgv_store_data(plan->store, set, lgv_store_find(plan->store, attr->name));
            if (!a->call.out[0].data) a->call.out[0].data = &present_marker;
            lgv_tensor *t = &a->call.out[0];
            int64_t step = 1;
            for (int k = t->rank - 1; k >= 0; k--) {
                t->stride[k] = step;
                step *= t->dim[k];
            }
            t->halo = 0;
        }
        LGV_TRY(final_kernel(plan, n, a, err));
        lgv_call *c = lgv_action_call(a);
        if (a->kernel->pack) {
            lgv_pack pack = a->kernel->pack(c);
            const lgv_place *w = &p->place[n->in[LGV_IN_W]];
            const lgv_root *r = &p->root[w->root];
            const bool optional = a->kernel->pack_optional;
            if (pack.bytes && plan->kept <= (optional ? LGV_KEPT_ALL : LGV_KEPT_NEEDED) &&
                r->kind == LGV_ROOT_STORE &&
                lgv_node_of(p->g, n->in[LGV_IN_W])->op == LGV_OP_param) {
                a->pack = lgv_store_get_pack(plan->store, r->set, r->buffer, pack.kind, pack.bytes);
                if (!a->pack)
                    return lgv_fail(err, LGV_ERR_MEMORY,
                                    "out of memory while packing weights of '%s'", n->name);
            } else if (!optional) {
                a->pack_bytes = lgv_round_up(pack.bytes);
            }
            if (a->pack || a->pack_bytes) c->packed = &present_marker;
        }
        a->workspace_bytes = a->kernel->workspace ? lgv_round_up(a->kernel->workspace(c)) : 0;
        size_t scratch = a->workspace_bytes + a->pack_bytes + (a->wide ? a->wide->bytes : 0);
        if (scratch) {
            LGV_TRY(lgv_grow(&p->root, &p->cap_roots, p->n_roots + 1, sizeof *p->root, err));
            p->root[p->n_roots] = (lgv_root){.kind = LGV_ROOT_ARENA,
                                             .first = (int32_t)i,
                                             .last = (int32_t)i,
                                             .owner = -1,
                                             .bytes = scratch};
            a->scratch = (int32_t)p->n_roots++;
        }
    }
    return LGV_OK;
}

static void note_costs(lgv_plan *plan, lgv_prog *p)
{
    for (size_t i = 0; i < p->g->n_nodes; i++) {
        lgv_action *a = &p->action[i];
        a->flops = lgv_node_flops(p->g, &p->g->node[i]);
        for (int k = 0; k < a->call.n_in; k++)
            if (a->call.in[k].data)
                a->bytes += (double)lgv_tensor_elements(&a->call.in[k]) *
                            (double)lgv_dtype_size(a->call.in[k].dtype);
        for (int k = 0; k < a->call.n_out; k++)
            if (a->call.out[k].data)
                a->bytes += (double)lgv_tensor_elements(&a->call.out[k]) *
                            (double)lgv_dtype_size(a->call.out[k].dtype);
        if (a->call.op == LGV_OP_adamw) {
            a->bytes =
                (double)plan->store->trained * 4 * (plan->options.accumulate_grads ? 11 : 10);
            a->flops = (double)plan->store->trained * 20;
        }
    }
}

static void prog_free(lgv_prog *p)
{
    for (size_t i = 0; p->g && p->action && i < p->g->n_nodes; i++) {
        lgv_action *a = &p->action[i];
        if (a->kernel && a->kernel->destroy && a->call.state) a->kernel->destroy(a->call.state);
        lgv_free(a->wide);
    }
    lgv_free(p->action);
    lgv_free(p->root);
    lgv_free(p->place);
    lgv_graph_free(p->g);
    lgv_free(p->name);
    memset(p, 0, sizeof *p);
}

static lgv_status prog_build(lgv_plan *plan, const lgv_program *src, lgv_prog *p,
                             const lgv_recompute *recompute, int *n_units, lgv_error *err)
{
    LGV_TRY(lgv_graph_status(src->graph, err));
    LGV_TRY(lgv_graph_clone(src->graph, &p->g, err));
    p->name = lgv_strdup(src->name ? src->name : "");
    LGV_TRY(run_passes(plan, p->g, recompute, n_units, err));
    p->place = lgv_zalloc(p->g->n_values + 1, sizeof *p->place);
    p->action = lgv_zalloc(p->g->n_nodes + 1, sizeof *p->action);
    if (!p->name || !p->place || !p->action)
        return lgv_fail(err, LGV_ERR_MEMORY, "out of memory while planning '%s'", src->name);
    LGV_TRY(first_kernels(plan, p, err));
    LGV_TRY(lgv_place_values(plan, p, err));
    LGV_TRY(final_kernels(plan, p, err));
    LGV_TRY(lgv_place_memory(plan, p, &plan->io_bytes, err));
    note_costs(plan, p);
    return LGV_OK;
}

/* --- All programs ----------------------------------------------------------------------------------- */
static void progs_free(lgv_plan *plan)
{
    for (int i = 0; i < plan->n_progs; i++) prog_free(&plan->prog[i]);
}

static lgv_status build_all(lgv_plan *plan, const lgv_program *programs,
                            const lgv_recompute *recompute, int *n_units, lgv_error *err)
{
    progs_free(plan);
    plan->io_bytes = plan->arena_bytes = 0;
    *n_units = 0;
    for (int i = 0; i < plan->n_progs; i++) {
        LGV_TRY(prog_build(plan, &programs[i], &plan->prog[i], recompute, n_units, err));
        if (plan->prog[i].arena_bytes > plan->arena_bytes)
            plan->arena_bytes = plan->prog[i].arena_bytes;
    }
    return LGV_OK;
}

/* Packed weights that this plan adds to those of other plans: all, or the optional ones. */
static size_t added_packs(const lgv_plan *plan, bool optional)
{
    const lgv_store *s = plan->store;
    size_t bytes = 0;
    for (size_t i = 0; i < s->n_packs; i++) s->pack[i]->counted = s->pack[i]->reserved;
    for (int i = 0; i < plan->n_progs; i++)
        for (size_t k = 0; k < plan->prog[i].g->n_nodes; k++) {
            const lgv_action *a = &plan->prog[i].action[k];
            if (!a->pack || a->pack->counted || (optional && !a->kernel->pack_optional)) continue;
            a->pack->counted = true;
            bytes += a->pack->bytes;
        }
    return bytes;
}

/* What the plan takes besides the sets of the store and what other plans have packed already. */
static size_t plan_bytes(const lgv_plan *plan)
{
    return plan->arena_bytes + plan->io_bytes + added_packs(plan, false);
}

/* An arena beyond this is worth a few percent of the time: without a budget, cheap nodes are then recomputed, and the blocks
   that save most for their arithmetic (attention), up to this share of all of it. */
static const size_t AMPLE_ARENA = (size_t)2 << 30;
static const double AMPLE_SHARE = 0.03;

/* Training: the weights change between runs, and copies of all of them packed once a run would go through main memory.
   Packed right before each use, in the same place, they stay in a cache. */
static bool weights_change(int n_programs, const lgv_program *programs)
{
    for (int i = 0; i < n_programs; i++)
        for (size_t k = 0; k < programs[i].graph->n_nodes; k++) {
            const lgv_node *n = &programs[i].graph->node[k];
            if (n->op == LGV_OP_adamw) return true;
            if (n->op == LGV_OP_assign && !strcmp(((const lgv_attr_assign *)n->attr)->set, "grad"))
                return true;
        }
    return false;
}

/* Copies that only save time (5 to 20 % of a U-Net's sampling step) are kept up to this size. */
static const size_t AMPLE_COPIES = (size_t)1 << 30;

/* The packed weights worth keeping where memory is ample. In a store that trains, optional ones would be made for a few
   runs each time (a preview, a validation). */
static lgv_kept kept_at_first(const lgv_plan *plan, const lgv_program *programs)
{
    if (weights_change(plan->n_progs, programs)) return LGV_KEPT_NONE;
    return lgv_store_find_set(plan->store, "grad") < 0 ? LGV_KEPT_ALL : LGV_KEPT_NEEDED;
}

/* The fewest recomputed units that fit the budget: cheap nodes first, then whole blocks. Before that, optional
   packed weights are left out, then none are kept: that costs a copy of the weights each run, and nothing where they
   change each run anyway. */
static lgv_status fit_budget(lgv_plan *plan, const lgv_program *programs, lgv_error *err)
{
    const size_t budget = plan->options.memory_budget;
    lgv_recompute what = {plan->options.recompute, 1, -1};
    size_t least = SIZE_MAX;
    int n = 0;
    plan->kept = kept_at_first(plan, programs);
    LGV_TRY(build_all(plan, programs, &what, &n, err));
    if (plan->kept == LGV_KEPT_ALL && added_packs(plan, true) > AMPLE_COPIES) {
        plan->kept = LGV_KEPT_NEEDED;
        LGV_TRY(build_all(plan, programs, &what, &n, err));
    }
    while (budget && plan_bytes(plan) > budget && plan->kept != LGV_KEPT_NONE) {
        plan->kept++;
        LGV_TRY(build_all(plan, programs, &what, &n, err));
    }
    if (budget ? plan_bytes(plan) <= budget : plan->arena_bytes <= AMPLE_ARENA) return LGV_OK;
    if (!budget) {
        if (plan->options.recompute) return LGV_OK;
        return build_all(plan, programs, &(lgv_recompute){2, AMPLE_SHARE, -1}, &n, err);
    }
    for (what.level = 1; what.level <= 2; what.level++) {
        if (what.level < plan->options.recompute) continue;
        what.max_units = -1;
        LGV_TRY(build_all(plan, programs, &what, &n, err));
        if (plan_bytes(plan) < least) least = plan_bytes(plan);
        if (plan_bytes(plan) > budget) continue;
        int low = 0, high = n, unused; /* high units fit, low do not */
        while (high - low > 1) {
            what.max_units = low + (high - low) / 2;
            LGV_TRY(build_all(plan, programs, &what, &unused, err));
            if (plan_bytes(plan) <= budget)
                high = what.max_units;
            else
                low = what.max_units;
        }
        what.max_units = high;
        return build_all(plan, programs, &what, &n, err);
    }
    return lgv_fail(err, LGV_ERR_MEMORY,
                    "the memory budget of %zu MiB is too small: with everything recomputed the "
                    "activations still need %zu MiB; use a smaller batch",
                    budget >> 20, (least >> 20) + 1);
}

static int64_t step_rows(const lgv_plan *plan)
{
    int64_t rows = 1;
    for (int i = 0; i < plan->n_progs; i++) {
        const lgv_graph *g = plan->prog[i].g;
        for (size_t k = 0; k < g->n_nodes; k++) {
            const lgv_node *n = &g->node[k];
            if (lgv_op_record(n->op)->flags & LGV_OP_STEP)
                rows = lgv_max_i64(rows, g->value[n->out[0]].dim[0]);
        }
    }
    return rows;
}

static lgv_status bind_optimizer(lgv_plan *plan, lgv_call *c, lgv_error *err)
{
    const char *names[] = {"weight", "grad", "exp_avg", "exp_avg_sq", "ema"};
    bool with_ema = ((const lgv_attr_adamw *)c->attr)->with_ema;
    void **slot[] = {&c->range.weight, &c->range.grad, &c->range.exp_avg, &c->range.exp_avg_sq,
                     &c->range.ema};
    for (int i = 0; i < 4 + with_ema; i++) {
        int set = lgv_store_find_set(plan->store, names[i]);
        if (set < 0)
            return lgv_fail(err, LGV_ERR_ARGUMENT, "adamw: the store has no set '%s'", names[i]);
        LGV_TRY(lgv_store_wants_writable(plan->store, set, err));
        *slot[i] = plan->store->set[set].data;
    }
    c->range.count = plan->store->trained;
    c->range.clears = plan->options.accumulate_grads;
    c->range.skipped = &plan->store->skipped;
    return LGV_OK;
}

static void *scratch_data(const lgv_plan *plan, const lgv_prog *p, const lgv_action *a)
{
    return a->scratch < 0 ? NULL : (char *)plan->store->arena + p->root[a->scratch].offset;
}

void lgv_plan_bind(lgv_plan *plan)
{
    for (int i = 0; i < plan->n_progs; i++) {
        lgv_prog *p = &plan->prog[i];
        for (size_t k = 0; k < p->g->n_nodes; k++) {
            lgv_action *a = &p->action[k];
            const lgv_tensor assigned = a->call.out[0];
            placed_call(plan, p, a);
            if (a->call.op == LGV_OP_assign) a->call.out[0] = assigned;
            a->call.workspace = scratch_data(plan, p, a);
            if (a->pack)
                a->call.packed = a->pack->data;
            else if (a->pack_bytes)
                a->call.packed = (char *)a->call.workspace + a->workspace_bytes;
            if (a->wide)
                lgv_widened_bind(plan->device, &a->call, a->wide,
                                 (char *)a->call.workspace + a->workspace_bytes + a->pack_bytes);
            for (int j = 0; j < p->g->node[k].n_out; j++) {
                lgv_id v = p->g->node[k].out[j];
                if (v < 0) continue;
                const lgv_root *r = &p->root[p->place[v].root];
                a->zero_halo[j] = r->halo && r->first == (int32_t)k;
            }
        }
    }
    plan->arena_generation = plan->store->arena_generation;
}

static lgv_status prepare(lgv_plan *plan, lgv_error *err)
{
    for (int i = 0; i < plan->n_progs; i++) {
        lgv_prog *p = &plan->prog[i];
        for (size_t k = 0; k < p->g->n_nodes; k++) {
            lgv_action *a = &p->action[k];
            if (!a->kernel) continue;
            if (a->call.op == LGV_OP_adamw) LGV_TRY(bind_optimizer(plan, &a->call, err));
            if (a->kernel->prepare)
                LGV_TRY(a->kernel->prepare(lgv_action_call(a), &a->call.state, err));
        }
    }
    return LGV_OK;
}

static lgv_status reserve_packs(lgv_plan *plan, lgv_error *err)
{
    size_t n = 0;
    for (int i = 0; i < plan->n_progs; i++) n += plan->prog[i].g->n_nodes;
    lgv_store_pack **packs = lgv_alloc(n, sizeof *packs);
    if (!packs) return lgv_fail(err, LGV_ERR_MEMORY, "out of memory while planning");
    n = 0;
    for (int i = 0; i < plan->n_progs; i++)
        for (size_t k = 0; k < plan->prog[i].g->n_nodes; k++)
            packs[n++] = plan->prog[i].action[k].pack;
    lgv_status status = lgv_store_reserve_packs(plan->store, packs, n, err);
    lgv_free(packs);
    return status;
}

static lgv_status allocate(lgv_plan *plan, lgv_error *err)
{
    lgv_device *d = plan->device;
    LGV_TRY(reserve_packs(plan, err));
    LGV_TRY(lgv_store_reserve(plan->store, plan->arena_bytes + LGV_ALIGN, err));
    if (!plan->store->dry) plan->io = d->alloc(d, plan->io_bytes + LGV_ALIGN);
    if (!plan->io && !plan->store->dry)
        return lgv_fail(err, LGV_ERR_MEMORY, "out of memory: inputs and outputs need %zu MiB",
                        plan->io_bytes >> 20);
    int64_t rows = step_rows(plan), largest = 1;
    plan->step.rows = (int32_t)rows;
    plan->step.row = lgv_zalloc((size_t)rows, sizeof *plan->step.row);
    if (!plan->step.row) return lgv_fail(err, LGV_ERR_MEMORY, "out of memory while planning");
    for (int64_t i = 0; i < rows; i++) plan->step.row[i].partner = -1;
    if (!plan->options.check) return LGV_OK;
    for (int i = 0; i < plan->n_progs; i++)
        for (size_t v = 0; v < plan->prog[i].g->n_values; v++)
            largest = lgv_max_i64(largest, lgv_value_elements(&plan->prog[i].g->value[v]));
    plan->check = lgv_alloc((size_t)largest, sizeof *plan->check);
    return plan->check
               ? LGV_OK
               : lgv_fail(err, LGV_ERR_MEMORY, "out of memory while planning the check mode");
}

static lgv_status plan_init(lgv_plan *plan, int n, const lgv_program *programs,
                            const lgv_plan_options *o, lgv_error *err)
{
    if (o) plan->options = *o;
    snprintf(plan->weights, sizeof plan->weights, "%s",
             plan->options.weights ? plan->options.weights : "weight");
    snprintf(plan->kernel, sizeof plan->kernel, "%s",
             plan->options.kernel ? plan->options.kernel : "");
    plan->options.weights = plan->options.kernel = NULL;
    plan->cast = find_cast(plan->device);
    plan->weights_set = lgv_store_find_set(plan->store, plan->weights);
    for (int i = 0; i < n && plan->weights_set < 0; i++)
        if (programs[i].graph->n_params)
            return lgv_fail(err, LGV_ERR_ARGUMENT,
                            "the store has no set '%s' for the weights: call lgv_store_add_set",
                            plan->weights);
    plan->prog = lgv_zalloc((size_t)n + 1, sizeof *plan->prog);
    if (!plan->prog) return lgv_fail(err, LGV_ERR_MEMORY, "out of memory while planning");
    plan->n_progs = n;
    LGV_TRY(fit_budget(plan, programs, err));
    for (int i = 0; i < n; i++)
        for (size_t k = 0; k < plan->prog[i].g->n_nodes; k++)
            plan->recomputed += plan->prog[i].g->node[k].clone;
    LGV_TRY(allocate(plan, err));
    if (plan->store->dry) return LGV_OK;
    LGV_TRY(prepare(plan, err));
    lgv_plan_bind(plan);
    return LGV_OK;
}

lgv_status lgv_plan_new(lgv_store *store, int n_programs, const lgv_program *programs,
                        const lgv_plan_options *options, lgv_plan **out, lgv_error *err)
{
    if (n_programs < 1) return lgv_fail(err, LGV_ERR_ARGUMENT, "a plan needs at least one program");
    lgv_plan *plan = lgv_zalloc(1, sizeof *plan);
    if (!plan) return lgv_fail(err, LGV_ERR_MEMORY, "out of memory while planning");
    plan->store = store;
    plan->device = store->device;
    lgv_status status = plan_init(plan, n_programs, programs, options, err);
    if (status) {
        lgv_plan_free(plan);
        return status;
    }
    *out = plan;
    return LGV_OK;
}

void lgv_plan_free(lgv_plan *plan)
{
    if (!plan) return;
    progs_free(plan);
    lgv_free(plan->prog);
    plan->device->free(plan->device, plan->io);
    lgv_free(plan->step.row);
    lgv_free(plan->check);
    lgv_free(plan);
}
