/* test_bf16_kernels.c - the plain kernels on bf16 operands give the bits of the same kernel on float operands of the
   same values, rounded once where the result is bf16: storage is narrow, arithmetic is not. Norms with SiLU
   have a sigmoid of their own for bf16, so that a result may fall to the neighbour. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernel_value.h"
#include "langevin/plan.h"
#include "op/op.h"

static const char *const levels[] = {"cpu:scalar", "cpu:f64", "cpu:avx2", "cpu:avx512", "cpu:amx"};
enum { LEVELS = 5 };

static const lgv_opcode ops[] = {LGV_OP_group_norm,
                                 LGV_OP_group_norm_grad,
                                 LGV_OP_norm_modulate_act,
                                 LGV_OP_norm_modulate_act_grad,
                                 LGV_OP_add,
                                 LGV_OP_mul,
                                 LGV_OP_affine,
                                 LGV_OP_act,
                                 LGV_OP_act_grad,
                                 LGV_OP_cast,
                                 LGV_OP_add_row,
                                 LGV_OP_modulate,
                                 LGV_OP_modulate_grad,
                                 LGV_OP_sum_rows,
                                 LGV_OP_sum_hw,
                                 LGV_OP_spread_rows,
                                 LGV_OP_spread_hw,
                                 LGV_OP_resample,
                                 LGV_OP_resample_grad,
                                 LGV_OP_concat,
                                 LGV_OP_slice,
                                 LGV_OP_slice_grad,
                                 LGV_OP_dropout};

/* One node with its operands in memory; narrow: those that may be bf16 are. */
typedef struct instance {
    lgv_device *d;
    lgv_call c;
    kernel_value value[LGV_MAX_INPUTS + LGV_MAX_OUTPUTS];
    int count;
    lgv_step step;
    lgv_row row[64];
} instance;

static lgv_tensor operand(instance *t, const lgv_graph *g, lgv_id v, bool may, bool narrow,
                          int slice, uint32_t seed)
{
    const lgv_value *value = lgv_val(g, v);
    const lgv_dtype dtype = may && narrow ? LGV_BF16 : LGV_F32;
    const int pad = value->rank > 2 ? slice : 0;
    kernel_value *k = &t->value[t->count++];
    *k = kernel_value_of(t->d, dtype, may, value->rank, value->dim, pad, 0, seed);
    return k->t;
}

static void make(instance *t, lgv_device *d, const lgv_graph *g, const lgv_node *n, bool narrow,
                 int slice)
{
    const lgv_op *r = lgv_op_record(n->op);
    memset(t, 0, sizeof *t);
    t->d = d;
    t->c = (lgv_call){.op = n->op, .name = n->name, .attr = n->attr, .n_in = n->n_in};
    t->c.n_out = n->n_out;
    t->c.threads = d->threads;
    t->c.pool = d->pool;
    t->c.step = &t->step;
    t->step.row = t->row;
    for (int i = 0; i < 64; i++) t->row[i] = (lgv_row){.seed = 5, .sample = (uint64_t)i};
    for (int i = 0; i < n->n_in; i++) {
        if (n->in[i] == LGV_NONE) continue;
        t->c.in[i] = operand(t, g, n->in[i], r->bf16_in >> i & 1, narrow, slice, (uint32_t)i + 1);
    }
    for (int i = 0; i < n->n_out; i++)
        t->c.out[i] = operand(t, g, n->out[i], r->bf16_out >> i & 1, narrow, slice, 99);
}

static void drop(instance *t)
{
    for (int i = 0; i < t->count; i++) kernel_value_free(&t->value[i]);
}

static float rounded(lgv_device *d, float x)
{
    uint16_t bits;
    d->write(d, LGV_BF16, &bits, &x, 1);
    d->read(d, LGV_BF16, &x, &bits, 1);
    return x;
}

/* How far a result may lie from that of float storage. */
static double slack(const instance *narrow, bool bf16, double want, double largest)
{
    const lgv_opcode op = narrow->c.op;
    if (op != LGV_OP_norm_modulate_act && op != LGV_OP_norm_modulate_act_grad) return 0;
    return bf16 ? 0x1p-7 * fabs(want) + 1e-6 * largest : 1e-5 * largest;
}

static void compare(instance *narrow, instance *wide, const char *what)
{
    const int outputs = narrow->c.n_out;
    for (int k = 0; k < outputs; k++) {
        const kernel_value *a = &narrow->value[narrow->count - outputs + k],
                           *b = &wide->value[wide->count - outputs + k];
        float *x = kernel_value_read(a), *y = kernel_value_read(b);
        const bool bf16 = a->t.dtype == LGV_BF16;
        double largest = 0;
        for (int64_t i = 0; i < lgv_tensor_elements(&a->t); i++)
            largest = fmax(largest, fabs((double)y[i]));
        for (int64_t i = 0; i < lgv_tensor_elements(&a->t); i++) {
            const float want = bf16 ? rounded(wide->d, y[i]) : y[i];
            /* The inputs are finite, so there is no NaN. */
            if (!(fabs((double)x[i] - (double)want) <= slack(narrow, bf16, want, largest)))
                fail_msg("%s output %d: element %lld is %.9g, float storage gives %.9g", what, k,
                         (long long)i, (double)x[i], (double)want);
        }
        free(x);
        free(y);
    }
}

static int check_node(const char *level, const lgv_graph *g, const lgv_node *n, int threads)
{
    lgv_error err;
    lgv_device *d;
    char what[160];
    int ran = 0;
    if (lgv_device_new(level, threads, &d, &err)) fail_msg("%s", err.text);
    for (int slice = 0; slice < 9; slice += 8) {
        instance narrow, wide;
        make(&narrow, d, g, n, true, slice);
        make(&wide, d, g, n, false, slice);
        const lgv_kernel *k = kernel_find(d, &narrow.c, "plain");
        snprintf(what, sizeof what, "%s '%s' slice %d", level, n->name, slice);
        if (!k || !k->bf16) fail_msg("%s: no kernel for bf16", what);
        kernel_run(d, k, &narrow.c);
        kernel_run(d, k, &wide.c);
        compare(&narrow, &wide, what);
        drop(&narrow);
        drop(&wide);
        ran++;
    }
    lgv_device_free(d);
    return ran;
}

static void check_graph(const lgv_graph *g, lgv_id y)
{
    const lgv_node *n = lgv_node_of(g, y);
    int ran = 0;
    for (int i = 0; i < LEVELS; i++)
        if (i < 2 || lgv_cpu_has(levels[i] + 4))
            ran += check_node(levels[i], g, n, 1 + 2 * (i % 2));
    assert_true(ran >= 4);
}

static void examples(void **state)
{
    for (size_t i = 0; i < sizeof ops / sizeof *ops; i++) {
        const lgv_op *r = lgv_op_record(ops[i]);
        for (int e = 0; e < r->n_examples; e++) {
            lgv_graph *g = lgv_graph_new();
            lgv_id y = r->examples[e].build(g);
            assert_true(y >= 0);
            check_graph(g, y);
            lgv_graph_free(g);
        }
    }
}

/* Rows that are shared by the threads, slabs of a few channels, groups wider than a piece, pixels longer than
   what is widened at a time. */
static void norm_shapes(void **state)
{
    static const int64_t dims[][5] = {
        {2, 40, 41, 64, 32}, {1, 9, 9, 2100, 3}, {3, 17, 3, 96, 4}, {9, 20, 20, 48, 8}};
    for (size_t i = 0; i < sizeof dims / sizeof *dims; i++) {
        const int64_t *dim = dims[i];
        lgv_graph *g = lgv_graph_new();
        lgv_id x = lgv_input(g, "x", LGV_F32, 4, dim), dy = lgv_input(g, "dy", LGV_F32, 4, dim);
        lgv_id gamma = lgv_input(g, "gamma", LGV_F32, 1, &dim[3]),
               beta = lgv_input(g, "beta", LGV_F32, 1, &dim[3]);
        lgv_id y = lgv_norm_modulate_act(g, x, gamma, beta, LGV_NONE, LGV_NONE, (int)dim[4], 1e-5,
                                         LGV_ACT_SILU);
        check_graph(g, y);
        const lgv_node n = *lgv_node_of(g, y);
        const lgv_id in[8] = {dy, x, gamma, beta, n.out[1], n.out[2], LGV_NONE, LGV_NONE};
        check_graph(g, lgv_norm_modulate_act_grad(g, in, n.attr));
        lgv_id row = lgv_input(g, "row", LGV_F32, 2, (const int64_t[]){dim[0], dim[3]});
        check_graph(g, lgv_add_row(g, x, row));
        lgv_graph_free(g);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(examples), cmocka_unit_test(norm_shapes)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
