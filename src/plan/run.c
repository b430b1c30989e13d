/* run.c - running a plan, and the host's access to its inputs, outputs and figures. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/file.h"
#include "planner.h"

static const lgv_prog *find_program(const lgv_plan *plan, const char *name)
{
    if (!name) return plan->n_progs == 1 ? &plan->prog[0] : NULL;
    for (int i = 0; i < plan->n_progs; i++)
        if (!strcmp(plan->prog[i].name, name)) return &plan->prog[i];
    return NULL;
}

/* Zeros around the whole of the root that output k lies in. */
static void zero_halo(const lgv_plan *plan, const lgv_prog *p, lgv_id v)
{
    const lgv_root *r = &p->root[p->place[v].root];
    lgv_tensor t = lgv_place_tensor(plan, p, r->owner);
    size_t size = plan->device->element_size(plan->device, t.dtype);
    int64_t h = r->halo, line = (t.dim[2] + 2 * h) * t.stride[2];
    for (int64_t n = 0; n < t.dim[0]; n++) {
        char *image = (char *)t.data +
                      (ptrdiff_t)size * (n * t.stride[0] - h * t.stride[1] - h * t.stride[2]);
        for (int64_t y = 0; y < t.dim[1] + 2 * h; y++) {
            char *row = image + (ptrdiff_t)size * y * t.stride[1];
            if (y < h || y >= t.dim[1] + h) {
                memset(row, 0, size * (size_t)line);
            } else {
                memset(row, 0, size * (size_t)(h * t.stride[2]));
                memset(row + size * (size_t)((t.dim[2] + h) * t.stride[2]), 0,
                       size * (size_t)(h * t.stride[2]));
            }
        }
    }
}

/* Copies a placed tensor to dense host memory (f32, i32), pixel by pixel where it is strided. */
static void gather(const lgv_plan *plan, const lgv_tensor *t, void *to)
{
    lgv_device *d = plan->device;
    size_t size = d->element_size(d, t->dtype);
    if (lgv_tensor_dense(t)) {
        d->read(d, t->dtype, to, t->data, lgv_tensor_elements(t));
        return;
    }
    lgv_nhwc a = lgv_as_nhwc(t);
    char *out = to;
    for (int64_t n = 0; n < a.n; n++)
        for (int64_t y = 0; y < a.h; y++)
            for (int64_t x = 0; x < a.w; x++, out += a.c * 4)
                d->read(d, t->dtype, out,
                        (char *)t->data + (size_t)(n * a.sn + y * a.sh + x * a.sw) * size, a.c);
}

static lgv_status check_action(const lgv_plan *plan, const lgv_action *a, lgv_error *err)
{
    for (int k = 0; k < a->call.n_out; k++) {
        const lgv_tensor *t = &a->call.out[k];
        if (!t->data || (t->dtype != LGV_F32 && t->dtype != LGV_BF16)) continue;
        gather(plan, t, plan->check);
        for (int64_t i = 0; i < lgv_tensor_elements(t); i++)
            if (!isfinite(plan->check[i]))
                return lgv_fail(err, LGV_ERR_NUMERIC,
                                "%s '%s' (kernel %s) made %s at element %lld of output %d, the "
                                "first bad value of the run",
                                lgv_op_name(a->call.op, a->call.attr), a->call.name,
                                lgv_action_kernel(a),
                                isnan(plan->check[i]) ? "a NaN" : "an infinity", (long long)i, k);
    }
    return LGV_OK;
}

/* Weights that changed since they were packed are packed again. */
static void refresh_pack(lgv_plan *plan, lgv_action *a)
{
    lgv_call *c = lgv_action_call(a);
    if (a->pack) {
        uint64_t version = plan->store->set[a->pack->set].version;
        if (a->pack->version == version) return;
        a->kernel->run_pack(c, a->pack->data);
        a->pack->version = version;
    } else if (a->pack_bytes) {
        a->kernel->run_pack(c, (char *)c->workspace + a->workspace_bytes);
    }
}

static void bump(lgv_store *s, const char *name)
{
    int set = lgv_store_find_set(s, name);
    if (set >= 0) s->set[set].version++;
}

static lgv_status run_action(lgv_plan *plan, const lgv_prog *p, lgv_action *a, lgv_error *err)
{
    double start = plan->profile ? lgv_now() : 0;
    for (int k = 0; k < a->call.n_out; k++)
        if (a->zero_halo[k]) zero_halo(plan, p, p->g->node[a->node].out[k]);
    if (a->wide) lgv_widened_run(plan->cast, &a->call, a->wide, false);
    refresh_pack(plan, a);
    a->kernel->run(lgv_action_call(a));
    if (a->wide) lgv_widened_run(plan->cast, &a->call, a->wide, true);
    if (a->call.op == LGV_OP_adamw) {
        bump(plan->store, "weight");
        bump(plan->store, "ema");
    }
    if (plan->profile) {
        a->seconds += lgv_now() - start;
        a->runs++;
    }
    return plan->options.check ? check_action(plan, a, err) : LGV_OK;
}

lgv_status lgv_plan_run(lgv_plan *plan, const char *program, lgv_error *err)
{
    const lgv_prog *p = find_program(plan, program);
    if (!p)
        return lgv_fail(err, LGV_ERR_ARGUMENT, "the plan has no program '%s'",
                        program ? program : "(the only one)");
    LGV_TRY(lgv_store_wants_memory(plan->store, err));
    if (plan->arena_generation != plan->store->arena_generation) lgv_plan_bind(plan);
    if (plan->options.check) memset(plan->store->arena, 0xff, plan->store->arena_bytes);
    for (size_t i = 0; i < p->g->n_nodes; i++) {
        lgv_action *a = &p->action[i];
        lgv_status status = a->kernel ? run_action(plan, p, a, err) : LGV_OK;
        /* Also where the value's producer wrote into the store itself. */
        if (a->bumps_set >= 0) plan->store->set[a->bumps_set].version++;
        LGV_TRY(status);
    }
    return LGV_OK;
}

lgv_step *lgv_plan_step(lgv_plan *plan)
{
    return &plan->step;
}

/* --- Host access ------------------------------------------------------------------------------------ */
static lgv_status host_shape(const lgv_value *v, const char *name, lgv_dtype dtype, int64_t count,
                             lgv_error *err)
{
    char text[96];
    bool rounded = dtype == LGV_F32 && v->dtype == LGV_BF16; /* the host's side is float */
    if (v->dtype != dtype && !rounded)
        return lgv_fail(err, LGV_ERR_ARGUMENT, "'%s' holds %s, not %s", name,
                        lgv_dtype_name(v->dtype), lgv_dtype_name(dtype));
    if (lgv_value_elements(v) != count)
        return lgv_fail(err, LGV_ERR_SHAPE, "'%s' has shape %s, %lld elements were given", name,
                        lgv_shape_text(v, text), (long long)count);
    return LGV_OK;
}

/* Scatters dense host elements into channel-last memory; nchw: the host's are [N,C,H,W]. */
static void scatter(const lgv_plan *plan, const lgv_tensor *t, const void *from, bool nchw)
{
    lgv_device *d = plan->device;
    size_t size = d->element_size(d, t->dtype);
    lgv_nhwc a = lgv_as_nhwc(t);
    if (!nchw && lgv_tensor_dense(t)) {
        d->write(d, t->dtype, t->data, from, lgv_tensor_elements(t));
        return;
    }
    const char *in = from;
    for (int64_t n = 0; n < a.n; n++)
        for (int64_t y = 0; y < a.h; y++)
            for (int64_t x = 0; x < a.w; x++) {
                char *pixel = (char *)t->data + (size_t)(n * a.sn + y * a.sh + x * a.sw) * size;
                if (!nchw) {
                    d->write(d, t->dtype, pixel, in + ((n * a.h + y) * a.w + x) * a.c * 4, a.c);
                    continue;
                }
                for (int64_t c = 0; c < a.c; c++)
                    d->write(d, t->dtype, pixel + (size_t)c * size,
                             in + (((n * a.c + c) * a.h + y) * a.w + x) * 4, 1);
            }
}

static lgv_status write_input(lgv_plan *plan, const char *input, lgv_dtype dtype, const void *data,
                              int64_t count, bool nchw, lgv_error *err)
{
    bool found = false;
    LGV_TRY(lgv_store_wants_memory(plan->store, err));
    for (int i = 0; i < plan->n_progs; i++) {
        const lgv_prog *p = &plan->prog[i];
        for (size_t k = 0; k < p->g->n_nodes; k++) {
            const lgv_node *n = &p->g->node[k];
            if (n->op != LGV_OP_input || strcmp(((const lgv_attr_input *)n->attr)->name, input))
                continue;
            const lgv_value *v = &p->g->value[n->out[0]];
            LGV_TRY(host_shape(v, input, dtype, count, err));
            lgv_tensor t = lgv_place_tensor(plan, p, n->out[0]);
            scatter(plan, &t, data, nchw && v->rank == 4);
            found = true;
        }
    }
    return found ? LGV_OK : lgv_fail(err, LGV_ERR_ARGUMENT, "the plan has no input '%s'", input);
}

lgv_status lgv_plan_write(lgv_plan *plan, const char *input, const float *data, int64_t count,
                          lgv_error *err)
{
    return write_input(plan, input, LGV_F32, data, count, false, err);
}

lgv_status lgv_plan_write_i32(lgv_plan *plan, const char *input, const int32_t *data, int64_t count,
                              lgv_error *err)
{
    return write_input(plan, input, LGV_I32, data, count, false, err);
}

lgv_status lgv_plan_write_nchw(lgv_plan *plan, const char *input, const float *data, int64_t count,
                               lgv_error *err)
{
    return write_input(plan, input, LGV_F32, data, count, true, err);
}

static lgv_status find_output(const lgv_plan *plan, const char *output, const lgv_prog **p,
                              lgv_id *v, lgv_error *err)
{
    LGV_TRY(lgv_store_wants_memory(plan->store, err));
    for (int i = 0; i < plan->n_progs; i++) {
        const lgv_graph *g = plan->prog[i].g;
        for (size_t k = 0; k < g->n_outputs; k++)
            if (!strcmp(g->output[k].name, output)) {
                *p = &plan->prog[i];
                *v = g->output[k].value;
                return LGV_OK;
            }
    }
    return lgv_fail(err, LGV_ERR_ARGUMENT, "the plan has no output '%s'", output);
}

lgv_status lgv_plan_tensor(const lgv_plan *plan, const char *name, lgv_tensor *out, lgv_error *err)
{
    for (int i = 0; i < plan->n_progs; i++) {
        const lgv_prog *p = &plan->prog[i];
        for (size_t k = 0; k < p->g->n_nodes; k++) {
            const lgv_node *n = &p->g->node[k];
            if (n->op != LGV_OP_input || strcmp(((const lgv_attr_input *)n->attr)->name, name))
                continue;
            *out = lgv_place_tensor(plan, p, n->out[0]);
            return LGV_OK;
        }
    }
    const lgv_prog *p = NULL;
    lgv_id v = LGV_NONE;
    LGV_TRY(find_output(plan, name, &p, &v, err));
    *out = lgv_place_tensor(plan, p, v);
    return LGV_OK;
}

lgv_status lgv_plan_read(lgv_plan *plan, const char *output, float *data, int64_t count,
                         lgv_error *err)
{
    const lgv_prog *p = NULL;
    lgv_id v = LGV_NONE;
    LGV_TRY(find_output(plan, output, &p, &v, err));
    LGV_TRY(host_shape(&p->g->value[v], output, LGV_F32, count, err));
    lgv_tensor t = lgv_place_tensor(plan, p, v);
    gather(plan, &t, data);
    return LGV_OK;
}

lgv_status lgv_plan_read_nchw(lgv_plan *plan, const char *output, float *data, int64_t count,
                              lgv_error *err)
{
    const lgv_prog *p = NULL;
    lgv_id v = LGV_NONE;
    LGV_TRY(find_output(plan, output, &p, &v, err));
    if (p->g->value[v].rank != 4) return lgv_plan_read(plan, output, data, count, err);
    LGV_TRY(host_shape(&p->g->value[v], output, LGV_F32, count, err));
    lgv_tensor t = lgv_place_tensor(plan, p, v);
    lgv_nhwc a = lgv_as_nhwc(&t);
    lgv_device *d = plan->device;
    size_t size = d->element_size(d, t.dtype);
    for (int64_t n = 0; n < a.n; n++)
        for (int64_t y = 0; y < a.h; y++)
            for (int64_t x = 0; x < a.w; x++)
                for (int64_t c = 0; c < a.c; c++)
                    d->read(d, t.dtype, &data[((n * a.c + c) * a.h + y) * a.w + x],
                            (char *)t.data + (size_t)(n * a.sn + y * a.sh + x * a.sw + c) * size,
                            1);
    return LGV_OK;
}

/* --- Figures ---------------------------------------------------------------------------------------- */
int lgv_plan_outputs(const lgv_plan *plan)
{
    size_t n = 0;
    for (int i = 0; i < plan->n_progs; i++) n += plan->prog[i].g->n_outputs;
    return (int)n;
}

const char *lgv_plan_output_at(const lgv_plan *plan, int i, int *rank, int64_t *dim)
{
    for (int k = 0; k < plan->n_progs && i >= 0; k++) {
        const lgv_graph *g = plan->prog[k].g;
        if ((size_t)i >= g->n_outputs) {
            i -= (int)g->n_outputs;
            continue;
        }
        const lgv_value *v = &g->value[g->output[i].value];
        if (rank) *rank = v->rank;
        if (dim) memcpy(dim, v->dim, sizeof v->dim);
        return g->output[i].name;
    }
    return NULL;
}

void lgv_plan_describe(const lgv_plan *plan, lgv_plan_info *info)
{
    const lgv_store *s = plan->store;
    *info = (lgv_plan_info){.arena_bytes = plan->arena_bytes,
                            .io_bytes = plan->io_bytes,
                            .recomputed = plan->recomputed};
    info->weight_bytes =
        (size_t)s->n_sets * (size_t)s->total * plan->device->element_size(plan->device, LGV_F32);
    info->packed_bytes = lgv_store_packed_bytes(s);
    for (int i = 0; i < plan->n_progs; i++) {
        const lgv_prog *p = &plan->prog[i];
        info->nodes += (int)p->g->n_nodes;
        for (size_t k = 0; k < p->g->n_nodes; k++) {
            const lgv_action *a = &p->action[k];
            info->flops += a->flops;
            size_t bytes = a->workspace_bytes + a->pack_bytes + (a->wide ? a->wide->bytes : 0);
            if (bytes > info->workspace_bytes) info->workspace_bytes = bytes;
        }
    }
}

int lgv_plan_nodes(const lgv_plan *plan)
{
    size_t n = 0;
    for (int i = 0; i < plan->n_progs; i++) n += plan->prog[i].g->n_nodes;
    return (int)n;
}

void lgv_plan_node_at(const lgv_plan *plan, int i, lgv_node_info *info)
{
    memset(info, 0, sizeof *info);
    for (int k = 0; k < plan->n_progs && i >= 0; k++) {
        const lgv_prog *p = &plan->prog[k];
        if ((size_t)i >= p->g->n_nodes) {
            i -= (int)p->g->n_nodes;
            continue;
        }
        const lgv_action *a = &p->action[i];
        const lgv_node *n = &p->g->node[i];
        info->program = p->name;
        info->name = n->name;
        info->op = lgv_op_name(n->op, n->attr);
        info->kernel = a->kernel                                   ? lgv_action_kernel(a)
                       : lgv_op_record(n->op)->flags & LGV_OP_LEAF ? ""
                                                                   : "view";
        if (n->n_out && n->out[0] >= 0) info->rank = lgv_shape(p->g, n->out[0], info->dim);
        lgv_id x = n->n_in && n->in[0] >= 0 ? n->in[0] : n->n_out ? n->out[0] : LGV_NONE;
        info->dtype = x >= 0 ? p->g->value[x].dtype : LGV_F32;
        info->flops = a->flops;
        info->bytes = a->bytes;
        info->seconds = a->seconds;
        info->runs = a->runs;
        return;
    }
}

void lgv_plan_profile(lgv_plan *plan, int on)
{
    plan->profile = on != 0;
    for (int k = 0; on && k < plan->n_progs; k++)
        for (size_t i = 0; i < plan->prog[k].g->n_nodes; i++) {
            plan->prog[k].action[i].seconds = 0;
            plan->prog[k].action[i].runs = 0;
        }
}

static void digest_bytes(uint64_t *h, const void *data, size_t n)
{
    const unsigned char *p = data;
    for (size_t i = 0; i < n; i++) *h = (*h ^ p[i]) * 0x100000001b3u;
}

/* Where operands are bf16; float alone adds nothing. */
static void digest_types(uint64_t *h, const lgv_call *c)
{
    for (int k = 0; k < c->n_in; k++)
        if (c->in[k].dtype == LGV_BF16) digest_bytes(h, &k, sizeof k);
    for (int k = LGV_MAX_INPUTS; k < LGV_MAX_INPUTS + c->n_out; k++)
        if (c->out[k - LGV_MAX_INPUTS].dtype == LGV_BF16) digest_bytes(h, &k, sizeof k);
}

void lgv_plan_digest(const lgv_plan *plan, char digest[17])
{
    uint64_t h = 0xcbf29ce484222325u;
    digest_bytes(&h, plan->device->name, strlen(plan->device->name));
    for (int i = 0; i < plan->n_progs; i++) {
        const lgv_prog *p = &plan->prog[i];
        for (size_t k = 0; k < p->g->n_nodes; k++) {
            const lgv_node *n = &p->g->node[k];
            /* Views and repeated nodes change no bits, so recomputation is not part of the digest. */
            if (!p->action[k].kernel || n->clone) continue;
            const char *op = lgv_op_name(n->op, n->attr);
            const char *kernel = lgv_action_kernel(&p->action[k]);
            digest_bytes(&h, op, strlen(op));
            digest_bytes(&h, kernel, strlen(kernel));
            digest_types(&h, &p->action[k].call);
            if (n->n_out && n->out[0] >= 0)
                digest_bytes(&h, p->g->value[n->out[0]].dim, sizeof p->g->value[0].dim);
        }
    }
    snprintf(digest, 17, "%016llx", (unsigned long long)h);
}
