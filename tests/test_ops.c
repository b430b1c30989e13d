/* test_ops.c - the tests every operator's record generates: the record is complete; gradients equal central
   differences on cpu:f64 through the planned arena; every kernel at every level equals the scalar reference, with
   odd sizes, strided views and NaN; likewise with bf16 operands; any number of threads gives the same bits. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "langevin/rng.h"
#include "ok.h"
#include "plan/planner.h"

enum { MAX_IN = 24 };

/* One instance of an example: the graph, its inputs, a plan on some device. */
typedef struct instance {
    lgv_graph *g;
    lgv_id y, input[MAX_IN];
    const char *name[MAX_IN];
    int n_inputs, n_outputs;
    lgv_device *device;
    lgv_store *store;
    lgv_plan *plan;
} instance;

static lgv_error err;

static void graph_make(instance *t, const lgv_example *e, bool widen)
{
    memset(t, 0, sizeof *t);
    t->g = lgv_graph_new();
    t->g->widen = widen;
    t->y = e->build(t->g);
    OK(lgv_graph_status(t->g, &err));
    for (size_t i = 0; i < t->g->n_nodes; i++) {
        const lgv_node *n = &t->g->node[i];
        if (n->op != LGV_OP_input) continue;
        t->name[t->n_inputs] = ((lgv_attr_input *)n->attr)->name;
        t->input[t->n_inputs++] = n->out[0];
    }
    t->n_outputs = lgv_node_of(t->g, t->y)->n_out;
}

static void outputs_make(instance *t, bool widen)
{
    for (int k = 0; k < t->n_outputs; k++) {
        char name[16];
        snprintf(name, sizeof name, "y%d", k);
        lgv_id v = lgv_output_of(t->g, t->y, k);
        if (widen && lgv_val(t->g, v)->rank > 1) {
            lgv_id other = lgv_affine(t->g, v, 0, 1);
            lgv_graph_output(t->g, lgv_concat(t->g, other, v),
                             name); /* v is written into a wider buffer */
        } else {
            lgv_graph_output(t->g, v, name);
        }
    }
    OK(lgv_graph_status(t->g, &err));
}

static void fill_step(lgv_step *s)
{
    for (int n = 0; n < s->rows; n++) {
        lgv_row *r = &s->row[n];
        *r = (lgv_row){.seed = 7 + (uint64_t)n,
                       .sample = (uint64_t)n,
                       .step = 3,
                       .t = 5.0f + 31.0f * (float)n,
                       .weight = 0.5f,
                       .label = n % 3,
                       .index = (n + 1) % 3,
                       .guidance = 2.0f + (float)n,
                       .guidance_rescale = n % 2 ? 0.7f : 0.0f,
                       .partner = n % 3 == 2 ? -1 : s->rows + n};
        for (int k = 0; k < LGV_COEFS; k++) r->coef[k] = 0.3f + 0.1f * (float)k + 0.05f * (float)n;
        r->coef[LGV_SAMPLE_THRESHOLD] = n % 2 ? 1.0f : 0.0f;
        r->coef[LGV_SAMPLE_THRESHOLD_RATIO] = 0.9f;
        r->coef[LGV_SAMPLE_THRESHOLD_MAX] = 1.5f;
        r->coef[LGV_SAMPLE_VARIANCE] = (float)(1 + n % 2);
        r->coef[LGV_SAMPLE_V0] = -1;
        r->coef[LGV_SAMPLE_V1] = 0.4f;
    }
}

static void fill_inputs(instance *t, bool nan)
{
    for (int i = 0; i < t->n_inputs; i++) {
        lgv_tensor x;
        OK(lgv_plan_tensor(t->plan, t->name[i], &x, &err));
        int64_t n = lgv_tensor_elements(&x);
        lgv_rng_key key = {.seed = 11, .stream = lgv_rng_stream(t->name[i])};
        if (x.dtype == LGV_I32) {
            int32_t *data = malloc((size_t)n * sizeof *data);
            for (int64_t k = 0; k < n; k++) data[k] = (int32_t)lgv_rng_below(&key, (uint64_t)k, 3);
            OK(lgv_plan_write_i32(t->plan, t->name[i], data, n, &err));
            free(data);
            continue;
        }
        float *data = malloc((size_t)n * sizeof *data);
        if (!strncmp(t->name[i], "p_", 2)) {
            lgv_rng_uniform(&key, 0, n, data);
            for (int64_t k = 0; k < n; k++) data[k] += 0.5f;
        } else {
            lgv_rng_normal(&key, 0, n, data);
        }
        if (nan && i == 0) data[n / 2] = NAN;
        OK(lgv_plan_write(t->plan, t->name[i], data, n, &err));
        free(data);
    }
    fill_step(lgv_plan_step(t->plan));
}

static void plan_make(instance *t, const char *device, int threads, const char *kernel)
{
    lgv_program program = {"only", t->g};
    lgv_plan_options options = {.kernel = kernel, .no_fusion = 1};
    OK(lgv_device_new(device, threads, &t->device, &err));
    OK(lgv_store_new(t->device, &t->store, &err));
    OK(lgv_plan_new(t->store, 1, &program, &options, &t->plan, &err));
}

static void plan_drop(instance *t)
{
    lgv_plan_free(t->plan);
    lgv_store_free(t->store);
    lgv_device_free(t->device);
    t->plan = NULL;
}

static void instance_drop(instance *t)
{
    if (t->plan) plan_drop(t);
    lgv_graph_free(t->g);
}

/* --- Records ------------------------------------------------------------------------------------------ */
static void test_records(void **state)
{
    (void)state;
    for (int op = 0; op < LGV_OPS; op++) {
        const lgv_op *r = lgv_op_record((lgv_opcode)op);
        assert_non_null(r->name);
        if (!r->doc || !r->doc[0]) fail_msg("%s has no doc line", r->name);
        if (!r->grad && !(r->no_grad && r->no_grad[0]))
            fail_msg("%s has no gradient and does not say why", r->name);
        if (r->grad && r->no_grad)
            fail_msg("%s has a gradient and a reason for having none", r->name);
        bool exempt = (r->flags & (LGV_OP_LEAF | LGV_OP_EFFECT)) != 0;
        if (!exempt && !r->n_examples) fail_msg("%s has no examples", r->name);
    }
}

/* --- Gradients ---------------------------------------------------------------------------------------- */
static void check_gradient(const lgv_op *r, const lgv_example *e)
{
    instance t;
    graph_make(&t, e, false);
    const lgv_value *y = lgv_val(t.g, t.y);
    lgv_id seed = lgv_input(t.g, "seed", LGV_F32, y->rank, y->dim);
    lgv_id wrt[MAX_IN], grads[MAX_IN], *out_grad = grads;
    char name[MAX_IN][16];
    int n = 0, which[MAX_IN];
    const lgv_node *node = lgv_node_of(t.g, t.y);
    for (int i = 0; i < t.n_inputs; i++) {
        bool constant = false;
        for (int k = 0; k < node->n_in; k++)
            if (node->in[k] == t.input[i] && (r->const_inputs >> k & 1)) constant = true;
        if (constant || lgv_val(t.g, t.input[i])->dtype != LGV_F32) continue;
        which[n] = i;
        wrt[n++] = t.input[i];
    }
    lgv_id y_id = t.y;
    OK(lgv_graph_grad(t.g, 1, &y_id, &seed, n, wrt, out_grad, &err));
    lgv_graph_output(t.g, t.y, "y0");
    for (int i = 0; i < n; i++) {
        if (grads[i] == LGV_NONE)
            fail_msg("%s (%s): no gradient reaches '%s'", r->name, e->name, t.name[which[i]]);
        if (!lgv_same_shape(lgv_val(t.g, grads[i]), lgv_val(t.g, wrt[i])))
            fail_msg("%s (%s): the gradient of '%s' has another shape", r->name, e->name,
                     t.name[which[i]]);
        snprintf(name[i], sizeof name[i], "grad%d", i);
        lgv_graph_output(t.g, lgv_affine(t.g, grads[i], 1, 0), name[i]);
    }
    t.name[t.n_inputs++] = "seed";
    plan_make(&t, "cpu:f64", 2, NULL);
    fill_inputs(&t, false);
    for (int i = 0; i < n; i++) {
        double error;
        OK(lgv_plan_gradient_error(t.plan, t.name[which[i]], name[i], &error, &err));
        if (!(error <= 1e-6))
            fail_msg("%s (%s): gradient of '%s' is off by %.2e", r->name, e->name, t.name[which[i]],
                     error);
    }
    instance_drop(&t);
}

static void test_gradients(void **state)
{
    const lgv_op *r = lgv_op_record(*(lgv_opcode *)*state);
    if (!r->grad || !r->n_examples) {
        print_message("%s: %s\n", r->name, r->grad ? "no examples" : r->no_grad);
        return;
    }
    for (int i = 0; i < r->n_examples; i++) check_gradient(r, &r->examples[i]);
}

/* --- Levels and kernels -------------------------------------------------------------------------------- */
static float *run_outputs(instance *t, int64_t *total)
{
    OK(lgv_plan_run(t->plan, NULL, &err));
    *total = 0;
    for (int i = 0; i < lgv_plan_outputs(t->plan); i++) {
        int64_t dim[4];
        lgv_plan_output_at(t->plan, i, NULL, dim);
        *total += dim[0] * dim[1] * dim[2] * dim[3];
    }
    float *data = malloc((size_t)*total * sizeof *data + 4);
    int64_t at = 0;
    for (int i = 0; i < lgv_plan_outputs(t->plan); i++) {
        int64_t dim[4];
        const char *name = lgv_plan_output_at(t->plan, i, NULL, dim);
        int64_t n = dim[0] * dim[1] * dim[2] * dim[3];
        OK(lgv_plan_read(t->plan, name, data + at, n, &err));
        at += n;
    }
    return data;
}

static double tolerance_of(const lgv_op *r)
{
    return r->tolerance > 0 ? r->tolerance : 1e-5;
}

/* tolerance 0: equal bits. */
static void compare(const char *what, const float *a, const float *b, int64_t n, double tolerance)
{
    double largest = 0, worst = 0;
    for (int64_t i = 0; i < n; i++) {
        if (isnan(b[i])) {
            if (!isnan(a[i])) fail_msg("%s: a NaN at %lld was lost", what, (long long)i);
            continue;
        }
        if (isnan(a[i])) continue; /* a superset of the NaNs is allowed */
        if (a[i] == b[i]) continue;
        largest = fmax(largest, fabs((double)b[i]));
        worst = fmax(worst, fabs((double)a[i] - (double)b[i]));
    }
    if (!(worst <= tolerance * fmax(largest, 1e-3)))
        fail_msg("%s: differs by %.2e of %.2e", what, worst, largest);
}

static void check_levels(const lgv_op *r, lgv_opcode op, const lgv_example *e, bool widen, bool nan)
{
    static const char *const levels[] = {"scalar", "avx2", "avx512"};
    instance t;
    graph_make(&t, e, widen);
    outputs_make(&t, widen);
    plan_make(&t, "cpu:scalar", 1, "plain");
    fill_inputs(&t, nan);
    int64_t n;
    float *want = run_outputs(&t, &n);
    plan_drop(&t);
    for (size_t l = 0; l < sizeof levels / sizeof *levels; l++) {
        if (!lgv_cpu_has(levels[l])) continue;
        char spec[32], what[160];
        snprintf(spec, sizeof spec, "cpu:%s", levels[l]);
        lgv_device *probe = NULL;
        OK(lgv_device_new(spec, 1, &probe, &err));
        const lgv_kernel *k;
        for (int i = 0; (k = probe->kernel(probe, op, i)); i++) {
            float *first = NULL;
            for (int threads = 1; threads <= 7; threads = threads == 1 ? 2 : threads + 5) {
                plan_make(&t, spec, threads, k->name);
                fill_inputs(&t, nan);
                int64_t m;
                float *got = run_outputs(&t, &m);
                snprintf(what, sizeof what, "%s (%s), %s kernel %s, %d threads%s%s", r->name,
                         e->name, spec, k->name, threads, widen ? ", strided" : "",
                         nan ? ", NaN" : "");
                if (first)
                    compare(what, got, first, n, 0);
                else
                    compare(what, got, want, n, tolerance_of(r));
                plan_drop(&t);
                if (first)
                    free(got);
                else
                    first = got;
            }
            free(first);
        }
        lgv_device_free(probe);
    }
    free(want);
    instance_drop(&t);
}

static void test_levels(void **state)
{
    lgv_opcode op = *(lgv_opcode *)*state;
    const lgv_op *r = lgv_op_record(op);
    for (int i = 0; i < r->n_examples; i++) {
        check_levels(r, op, &r->examples[i], false, false);
        check_levels(r, op, &r->examples[i], true, false);
        check_levels(r, op, &r->examples[i], false, true);
    }
}

/* --- bf16 ---------------------------------------------------------------------------------------------- */
/* Which operands of the node under test are bf16. */
typedef struct narrowing {
    unsigned in, out;
    bool reference; /* the inputs are rounded to bf16 but float, and so are the outputs */
} narrowing;

/* x rounded to bf16; as a channel slice of a wider bf16 value where asked for. */
static lgv_id rounded(lgv_graph *g, lgv_id x, const narrowing *w, bool widen)
{
    lgv_id v = lgv_cast(g, x, LGV_BF16);
    if (w->reference) return lgv_cast(g, v, LGV_F32);
    if (!widen || lgv_val(g, v)->rank < 2) return v;
    int64_t channels = lgv_channels(lgv_val(g, v));
    return lgv_slice(g, lgv_concat(g, lgv_affine(g, v, 0, 1), v), channels, channels);
}

/* The node under test is the last: it is taken off, its inputs are rounded, and it comes back. */
static void narrow(instance *t, const narrowing *w, bool widen)
{
    lgv_graph *g = t->g;
    assert_int_equal(g->value[t->y].node, g->n_nodes - 1);
    lgv_node n = g->node[--g->n_nodes];
    for (int k = 0; k < n.n_in; k++)
        if (n.in[k] >= 0 && w->in >> k & 1) n.in[k] = rounded(g, n.in[k], w, widen);
    OK(lgv_graph_status(g, &err));
    for (int k = 0; k < n.n_out; k++) {
        g->value[n.out[k]].node = (int32_t)g->n_nodes;
        if (w->out >> k & 1 && !w->reference) g->value[n.out[k]].dtype = LGV_BF16;
    }
    OK(lgv_grow(&g->node, &g->cap_nodes, g->n_nodes + 1, sizeof n, &err));
    g->node[g->n_nodes++] = n;
}

static void narrow_make(instance *t, const lgv_example *e, narrowing w, bool widen)
{
    graph_make(t, e, widen);
    narrow(t, &w, widen);
    outputs_make(t, widen);
}

/* A bf16 output is rounded once at the end, by 2^-9 of its value; a kernel may round what it multiplies on the way
   (probabilities of attention and their gradients) once more, each by 2^-9 of terms that may cancel, hence 2^-7 of
   the largest value. Sums are float inside, so a float output
   of bf16 inputs is as close as with float inputs. Output k of all has n[k] elements. */
static void compare_outputs(instance *t, const lgv_op *r, const narrowing *w, const char *what,
                            const float *got, const float *want)
{
    int64_t at = 0;
    for (int k = 0; k < t->n_outputs; k++) {
        int64_t dim[4];
        lgv_plan_output_at(t->plan, k, NULL, dim);
        int64_t n = dim[0] * dim[1] * dim[2] * dim[3];
        compare(what, got + at, want + at, n, w->out >> k & 1 ? 0x1p-7 : tolerance_of(r));
        at += n;
    }
}

static void check_narrow_level(const lgv_op *r, const lgv_example *e, const narrowing *w,
                               const char *level, const float *want, bool widen, bool nan)
{
    char spec[32], what[200];
    lgv_device *probe = NULL;
    const lgv_kernel *k;
    snprintf(spec, sizeof spec, "cpu:%s", level);
    OK(lgv_device_new(spec, 1, &probe, &err));
    instance t;
    narrow_make(&t, e, *w, widen);
    lgv_opcode op = lgv_node_of(t.g, t.y)->op;
    for (int i = 0; (k = probe->kernel(probe, op, i)); i++) {
        float *first = NULL;
        for (int threads = 1; threads <= 7; threads = threads == 1 ? 2 : threads + 5) {
            int64_t n;
            plan_make(&t, spec, threads, k->name);
            fill_inputs(&t, nan);
            float *got = run_outputs(&t, &n);
            snprintf(what, sizeof what, "%s (%s), bf16 in %x out %x, %s kernel %s, %d threads%s%s",
                     r->name, e->name, w->in, w->out, spec, k->name, threads,
                     widen ? ", strided" : "", nan ? ", NaN" : "");
            if (first)
                compare(what, got, first, n, 0);
            else
                compare_outputs(&t, r, w, what, got, want);
            plan_drop(&t);
            if (first)
                free(got);
            else
                first = got;
        }
        free(first);
    }
    instance_drop(&t);
    lgv_device_free(probe);
}

static void check_narrow(const lgv_op *r, const lgv_example *e, narrowing w, bool widen, bool nan)
{
    static const char *const levels[] = {"scalar", "avx2", "avx512", "amx", "amx-emulated", "f64"};
    instance t;
    int64_t n;
    w.reference = true;
    narrow_make(&t, e, w, widen);
    plan_make(&t, "cpu:f64", 1, "plain");
    fill_inputs(&t, nan);
    float *want = run_outputs(&t, &n);
    instance_drop(&t);
    w.reference = false;
    for (size_t l = 0; l < sizeof levels / sizeof *levels; l++)
        if (!strcmp(levels[l], "f64") || lgv_cpu_has(levels[l]))
            check_narrow_level(r, e, &w, levels[l], want, widen, nan);
    free(want);
}

/* Everything that may be bf16, or (LGV_OP_MIXED) every choice of it. */
static void test_bf16(void **state)
{
    const lgv_op *r = lgv_op_record(*(lgv_opcode *)*state);
    bool mixed = r->flags & LGV_OP_MIXED;
    for (int i = 0; i < r->n_examples; i++)
        for (unsigned in = 0; in <= r->bf16_in; in++)
            for (unsigned out = 0; out <= r->bf16_out; out++) {
                narrowing w = {in & r->bf16_in, out & r->bf16_out, false};
                bool all = in == r->bf16_in && out == r->bf16_out;
                if (w.in != in || w.out != out || (!in && !out) || !(all || mixed)) continue;
                check_narrow(r, &r->examples[i], w, false, false);
                if (!all) continue;
                check_narrow(r, &r->examples[i], w, true, false);
                check_narrow(r, &r->examples[i], w, false, true);
            }
}

int main(void)
{
    static lgv_opcode ops[LGV_OPS];
    static char names[3 * LGV_OPS][64];
    static struct CMUnitTest tests[3 * LGV_OPS + 1];
    int n = 0;
    tests[n++] = (struct CMUnitTest){"every record is complete", test_records, NULL, NULL, NULL};
    for (int op = 0; op < LGV_OPS; op++) {
        const lgv_op *r = lgv_op_record((lgv_opcode)op);
        ops[op] = (lgv_opcode)op;
        if (!r->n_examples) continue;
        char(*name)[64] = &names[3 * op];
        snprintf(name[0], sizeof *name, "%s: gradient", r->name);
        snprintf(name[1], sizeof *name, "%s: levels and kernels", r->name);
        snprintf(name[2], sizeof *name, "%s: bf16", r->name);
        tests[n++] = (struct CMUnitTest){name[0], test_gradients, NULL, NULL, &ops[op]};
        tests[n++] = (struct CMUnitTest){name[1], test_levels, NULL, NULL, &ops[op]};
        if (r->bf16_in | r->bf16_out)
            tests[n++] = (struct CMUnitTest){name[2], test_bf16, NULL, NULL, &ops[op]};
    }
    return _cmocka_run_group_tests("operators", tests, (size_t)n, NULL, NULL);
}
