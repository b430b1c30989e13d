/* test_plan.c - the memory planner and the passes where they could change what a program means: writes to the
   store against reads and other writes, views, results in place, and unusual outputs. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "graph/node.h"
#include "langevin/ops.h"
#include "langevin/plan.h"
#include "langevin/rng.h"
#include "ok.h"
#include "types.h"

static lgv_error err;

/* A device with a store of the parameters of g and the usual sets, all zero. */
typedef struct bench {
    lgv_device *device;
    lgv_store *store;
} bench;

static bench bench_make(const lgv_graph *g)
{
    static const char *const sets[] = {"weight", "grad", "exp_avg", "exp_avg_sq", "ema"};
    bench b;
    OK(lgv_device_new(NULL, 2, &b.device, &err));
    OK(lgv_store_new(b.device, &b.store, &err));
    OK(lgv_store_declare(b.store, g, &err));
    for (int i = 0; i < 5; i++) OK(lgv_store_add_set(b.store, sets[i], &err));
    return b;
}

static void bench_drop(bench *b)
{
    lgv_store_free(b->store);
    lgv_device_free(b->device);
}

static lgv_plan *plan_make(const bench *b, const lgv_graph *g, const lgv_plan_options *options)
{
    lgv_program program = {"only", g};
    lgv_plan *plan = NULL;
    OK(lgv_graph_status(g, &err));
    OK(lgv_plan_new(b->store, 1, &program, options, &plan, &err));
    return plan;
}

/* Values 1/4, 2/4, ... */
static void ramp(float *x, int n)
{
    for (int i = 0; i < n; i++) x[i] = (float)((i * 7) % 23 - 11) / 4;
}

static void write_ramp(lgv_plan *plan, const char *input, int n)
{
    float x[512];
    assert_true(n <= 512);
    ramp(x, n);
    OK(lgv_plan_write(plan, input, x, n, &err));
}

static lgv_id matrix(lgv_graph *g, const char *name, int64_t n, int64_t c)
{
    return lgv_input(g, name, LGV_F32, 2, (int64_t[]){n, c});
}

/* --- Writes to the store --------------------------------------------------------------------------- */
/* A plan that reads a set sees what another plan's program wrote there, packed copies too. */
static void test_write_makes_packs_stale(void **state)
{
    (void)state;
    lgv_graph *reader = lgv_graph_new(), *writer = lgv_graph_new();
    lgv_id w = lgv_param(reader, "w", 2, (int64_t[]){4, 4});
    lgv_graph_output(reader, lgv_linear(reader, matrix(reader, "x", 3, 4), w, LGV_NONE), "y");
    lgv_assign(writer, "ema", "w", lgv_affine(writer, matrix(writer, "v", 4, 4), 2, 0));
    bench b = bench_make(reader);
    lgv_plan *read = plan_make(&b, reader, &(lgv_plan_options){.weights = "ema"}),
             *write = plan_make(&b, writer, NULL);
    float y[12], identity[16] = {0};
    for (int i = 0; i < 4; i++) identity[5 * i] = 1;
    write_ramp(read, "x", 12);
    OK(lgv_plan_run(read, NULL, &err));
    OK(lgv_plan_write(write, "v", identity, 16, &err));
    OK(lgv_plan_run(write, NULL, &err));
    OK(lgv_plan_run(read, NULL, &err));
    OK(lgv_plan_read(read, "y", y, 12, &err));
    float x[12];
    ramp(x, 12);
    for (int i = 0; i < 12; i++) assert_true(y[i] == 2 * x[i]);
    lgv_plan_free(read);
    lgv_plan_free(write);
    bench_drop(&b);
    lgv_graph_free(reader);
    lgv_graph_free(writer);
}

/* A 3x3 convolution of random numbers, planned in a store of its own, which trains or not. */
static lgv_plan_info run_conv(bool trains, size_t budget, float *y)
{
    enum { H = 8, C = 16, N = H * H * C, W = C * C * 9 };
    static const char *const sets[] = {"weight", "grad"};
    float x[N], w[W];
    lgv_rng_normal(&(lgv_rng_key){.seed = 4}, 0, N, x);
    lgv_rng_normal(&(lgv_rng_key){.seed = 5}, 0, W, w);
    lgv_graph *g = lgv_graph_new();
    const lgv_id in = lgv_input(g, "x", LGV_F32, 4, (int64_t[]){1, H, H, C}),
                 filters = lgv_param(g, "w", 4, (int64_t[]){C, C, 3, 3});
    const lgv_conv_attr attr = {.stride = 1, .pad = {1, 1, 1, 1}};
    lgv_graph_output(g, lgv_conv2d(g, in, filters, LGV_NONE, attr), "y");
    bench b;
    OK(lgv_device_new("cpu:f64", 1, &b.device, &err)); /* has Winograd kernels on every machine */
    OK(lgv_store_new(b.device, &b.store, &err));
    OK(lgv_store_declare(b.store, g, &err));
    for (int i = 0; i <= trains; i++) OK(lgv_store_add_set(b.store, sets[i], &err));
    OK(lgv_store_write(b.store, "weight", 0, w, W, &err));
    lgv_plan *plan = plan_make(&b, g, &(lgv_plan_options){.memory_budget = budget});
    OK(lgv_plan_write(plan, "x", x, N, &err));
    OK(lgv_plan_run(plan, NULL, &err));
    OK(lgv_plan_read(plan, "y", y, N, &err));
    lgv_plan_info info;
    lgv_plan_describe(plan, &info);
    lgv_plan_free(plan);
    bench_drop(&b);
    lgv_graph_free(g);
    return info;
}

/* Transformed weights of a convolution are kept where the store does not train and the budget has room; the same bits. */
static void test_optional_packs(void **state)
{
    (void)state;
    float y[8 * 8 * 16], other[8 * 8 * 16];
    const lgv_plan_info kept = run_conv(false, 0, y);
    assert_true(kept.packed_bytes > 0);
    const size_t all = kept.packed_bytes + kept.arena_bytes + kept.io_bytes;
    assert_int_equal(run_conv(false, all, other).packed_bytes, kept.packed_bytes);
    assert_memory_equal(other, y, sizeof y);
    assert_int_equal(run_conv(false, all - 1, other).packed_bytes, 0);
    assert_memory_equal(other, y, sizeof y);
    assert_int_equal(run_conv(true, 0, other).packed_bytes, 0);
    assert_memory_equal(other, y, sizeof y);
}

static void count_release(void *owner)
{
    ++*(int *)owner;
}

/* A set in the caller's memory, at an address that is a multiple of 4 only: plans read it, nothing writes it. */
static void test_mapped_set(void **state)
{
    (void)state;
    lgv_graph *reader = lgv_graph_new(), *writer = lgv_graph_new(), *update = lgv_graph_new();
    lgv_id w = lgv_param(reader, "w", 2, (int64_t[]){4, 4});
    lgv_graph_output(reader, lgv_linear(reader, matrix(reader, "x", 3, 4), w, LGV_NONE), "y");
    lgv_assign(writer, "file", "w", lgv_affine(writer, matrix(writer, "v", 4, 4), 2, 0));
    lgv_graph_output(update, lgv_adamw(update, 0), "norm");
    bench b;
    int released = 0;
    float memory[20] = {0}, *numbers = memory + 1, y[12], x[12], back[16];
    for (int i = 0; i < 4; i++) numbers[5 * i] = 3;
    const float *data[] = {numbers};
    OK(lgv_device_new(NULL, 2, &b.device, &err));
    OK(lgv_store_new(b.device, &b.store, &err));
    OK(lgv_store_declare(b.store, reader, &err));
    OK(lgv_store_map_set(b.store, "file", data, &released, count_release, &err));
    assert_int_equal(lgv_store_map_set(b.store, "file", data, &released, count_release, &err),
                     LGV_ERR_ARGUMENT);
    OK(lgv_store_add_set(b.store, "weight", &err));
    lgv_plan *plan = plan_make(&b, reader, &(lgv_plan_options){.weights = "file"});
    write_ramp(plan, "x", 12);
    OK(lgv_plan_run(plan, NULL, &err));
    OK(lgv_plan_read(plan, "y", y, 12, &err));
    ramp(x, 12);
    for (int i = 0; i < 12; i++) assert_true(y[i] == 3 * x[i]);
    OK(lgv_store_copy(b.store, "file", "weight", &err));
    OK(lgv_store_read(b.store, "weight", 0, back, 16, &err));
    assert_memory_equal(back, numbers, sizeof back);
    OK(lgv_store_read(b.store, "file", 0, back, 16, &err));
    assert_memory_equal(back, numbers, sizeof back);
    assert_int_equal(lgv_store_write(b.store, "file", 0, back, 16, &err), LGV_ERR_ARGUMENT);
    assert_int_equal(lgv_store_zero(b.store, "file", &err), LGV_ERR_ARGUMENT);
    assert_int_equal(lgv_store_copy(b.store, "weight", "file", &err), LGV_ERR_ARGUMENT);
    lgv_plan *none = NULL;
    assert_int_equal(lgv_plan_new(b.store, 1, &(lgv_program){"w", writer}, NULL, &none, &err),
                     LGV_ERR_ARGUMENT);
    assert_non_null(strstr(err.text, "only read"));
    OK(lgv_store_map_set(b.store, "grad", data, NULL, NULL, &err));
    OK(lgv_store_add_set(b.store, "exp_avg", &err));
    OK(lgv_store_add_set(b.store, "exp_avg_sq", &err));
    assert_int_equal(lgv_plan_new(b.store, 1, &(lgv_program){"u", update}, NULL, &none, &err),
                     LGV_ERR_ARGUMENT);
    lgv_plan_free(plan);
    assert_int_equal(released, 0);
    bench_drop(&b);
    assert_int_equal(released, 1);
    OK(lgv_device_new("cpu:f64", 1, &b.device, &err));
    OK(lgv_store_new(b.device, &b.store, &err));
    OK(lgv_store_declare(b.store, reader, &err));
    assert_int_equal(lgv_store_map_set(b.store, "file", data, &released, count_release, &err),
                     LGV_ERR_UNSUPPORTED);
    bench_drop(&b);
    assert_int_equal(released, 1);
    lgv_graph_free(reader);
    lgv_graph_free(writer);
    lgv_graph_free(update);
}

/* Of two writes to one buffer the later one stays, whichever value was made first; and a value that was written
   keeps its own meaning for later readers. */
static void test_writes_in_order(void **state)
{
    (void)state;
    lgv_graph *g = lgv_graph_new();
    lgv_param(g, "w", 2, (int64_t[]){2, 4});
    lgv_id x = matrix(g, "x", 2, 4), first = lgv_affine(g, x, 1, 1),
           second = lgv_affine(g, x, 2, 0);
    lgv_assign(g, "grad", "w", second);
    lgv_assign(g, "grad", "w", first);
    lgv_graph_output(g, lgv_affine(g, second, 1, 0), "second");
    bench b = bench_make(g);
    lgv_plan *plan = plan_make(&b, g, NULL);
    float want[8], got[8];
    ramp(want, 8);
    write_ramp(plan, "x", 8);
    OK(lgv_plan_run(plan, NULL, &err));
    OK(lgv_store_read(b.store, "grad", 0, got, 8, &err));
    for (int i = 0; i < 8; i++) assert_true(got[i] == want[i] + 1);
    OK(lgv_plan_read(plan, "second", got, 8, &err));
    for (int i = 0; i < 8; i++) assert_true(got[i] == 2 * want[i]);
    lgv_plan_free(plan);
    bench_drop(&b);
    lgv_graph_free(g);
}

/* The optimizer clears the gradients in the store, not the value that a later node reads. */
static void test_value_outlives_update(void **state)
{
    (void)state;
    lgv_graph *g = lgv_graph_new();
    lgv_param(g, "w", 2, (int64_t[]){2, 4});
    lgv_id v = lgv_affine(g, matrix(g, "x", 2, 4), 2, 0);
    lgv_assign(g, "grad", "w", v);
    lgv_graph_output(g, lgv_adamw(g, 0), "norm");
    lgv_graph_output(g, lgv_affine(g, v, 1, 1), "y");
    bench b = bench_make(g);
    lgv_plan *plan = plan_make(&b, g, NULL);
    for (int i = 0; i < LGV_SCALARS; i++) lgv_plan_step(plan)->scalar[i] = 0.5;
    float want[8], got[8];
    ramp(want, 8);
    write_ramp(plan, "x", 8);
    OK(lgv_plan_run(plan, NULL, &err));
    OK(lgv_plan_read(plan, "y", got, 8, &err));
    for (int i = 0; i < 8; i++) assert_true(got[i] == 2 * want[i] + 1);
    lgv_plan_free(plan);
    bench_drop(&b);
    lgv_graph_free(g);
}

static void test_assign_wants_f32(void **state)
{
    (void)state;
    lgv_graph *g = lgv_graph_new();
    lgv_assign(g, "grad", "w", lgv_cast(g, matrix(g, "x", 2, 4), LGV_BF16));
    assert_int_not_equal(lgv_graph_status(g, &err), LGV_OK);
    lgv_graph_free(g);
}

/* Reads weights, writes them, then uses what was read: fusion must not move the read behind the write. */
static lgv_graph *read_write_graph(bool norm)
{
    lgv_graph *g = lgv_graph_new();
    lgv_id x = matrix(g, "x", 4, 4), y;
    if (norm) {
        lgv_id gamma = lgv_param(g, "w", 1, (int64_t[]){4}),
               beta = lgv_param(g, "b", 1, (int64_t[]){4});
        y = lgv_group_norm(g, x, gamma, beta, 2, 1e-5);
        lgv_assign(g, "weight", "w", lgv_affine(g, gamma, 3, 1));
        y = lgv_act(g, y, LGV_ACT_SILU);
    } else {
        lgv_id w = lgv_param(g, "w", 2, (int64_t[]){4, 4});
        y = lgv_linear(g, x, w, LGV_NONE);
        lgv_assign(g, "weight", "w", lgv_affine(g, w, 3, 1));
        y = lgv_add(g, y, x);
    }
    lgv_graph_output(g, y, "y");
    return g;
}

/* The gradient of an activation is taken after gamma was written; what the forward pass read stays. */
static lgv_graph *recompute_graph(void)
{
    lgv_graph *g = lgv_graph_new();
    lgv_id gamma = lgv_param(g, "w", 1, (int64_t[]){4}),
           beta = lgv_param(g, "b", 1, (int64_t[]){4});
    lgv_id v = lgv_param(g, "v", 2, (int64_t[]){4, 4}), grad;
    lgv_id h = lgv_group_norm(g, matrix(g, "x", 4, 4), gamma, beta, 2, 1e-5);
    lgv_id y = lgv_linear(g, h, v, LGV_NONE), seed = matrix(g, "seed", 4, 4);
    lgv_assign(g, "weight", "w", lgv_affine(g, gamma, 3, 1));
    OK(lgv_graph_grad(g, 1, &y, &seed, 1, &v, &grad, &err));
    lgv_graph_output(g, grad, "y");
    return g;
}

static void run_read_write(lgv_graph *g, const lgv_plan_options *options, float y[16])
{
    bench b = bench_make(g);
    float w[16];
    ramp(w, 16);
    int64_t dim[4];
    for (int i = 0; i < lgv_store_count(b.store); i++) {
        lgv_store_at(b.store, i, NULL, dim, NULL);
        OK(lgv_store_write(b.store, "weight", i, w, dim[0] * dim[1], &err));
    }
    lgv_plan *plan = plan_make(&b, g, options);
    write_ramp(plan, "x", 16);
    (void)lgv_plan_write(plan, "seed", w, 16, NULL);
    OK(lgv_plan_run(plan, NULL, &err));
    OK(lgv_plan_read(plan, "y", y, 16, &err));
    lgv_plan_free(plan);
    bench_drop(&b);
    lgv_graph_free(g);
}

static void assert_close(const float *a, const float *b, int n)
{
    for (int i = 0; i < n; i++)
        if (!(a[i] - b[i] < 1e-4f && b[i] - a[i] < 1e-4f))
            fail_msg("element %d is %g, not %g", i, (double)a[i], (double)b[i]);
}

static void test_reads_before_writes(void **state)
{
    (void)state;
    float want[16], got[16];
    for (int norm = 0; norm < 2; norm++) {
        run_read_write(read_write_graph(norm), &(lgv_plan_options){.no_fusion = 1}, want);
        run_read_write(read_write_graph(norm), NULL, got);
        assert_close(got, want, 16);
    }
    run_read_write(recompute_graph(), NULL, want);
    run_read_write(recompute_graph(), &(lgv_plan_options){.recompute = 1}, got);
    assert_close(got, want, 16);
}

/* --- Views and places ------------------------------------------------------------------------------ */
/* Outputs keep the values of the last run, whatever is written to the inputs since. */
static void test_output_of_input_slice(void **state)
{
    (void)state;
    lgv_graph *g = lgv_graph_new();
    lgv_id x = matrix(g, "x", 2, 8);
    lgv_graph_output(g, lgv_slice(g, x, 2, 3), "part");
    bench b = bench_make(g);
    lgv_plan *plan = plan_make(&b, g, NULL);
    float all[16], got[6], zero[16] = {0};
    ramp(all, 16);
    write_ramp(plan, "x", 16);
    OK(lgv_plan_run(plan, NULL, &err));
    OK(lgv_plan_write(plan, "x", zero, 16, &err));
    OK(lgv_plan_read(plan, "part", got, 6, &err));
    for (int i = 0; i < 6; i++) assert_true(got[i] == all[i / 3 * 8 + 2 + i % 3]);
    lgv_plan_free(plan);
    bench_drop(&b);
    lgv_graph_free(g);
}

/* The gradient that comes in is the very value that was normalised: the result must not take its place. */
static void run_self_gradient(const lgv_plan_options *options, float y[128])
{
    lgv_graph *g = lgv_graph_new();
    int64_t c = 8, dim[] = {2, 2, 4, 8};
    lgv_id gamma = lgv_param(g, "w", 1, &c), beta = lgv_param(g, "b", 1, &c), dx;
    lgv_id x = lgv_affine(g, lgv_input(g, "x", LGV_F32, 4, dim), 2, 1);
    lgv_id z = lgv_act(g, lgv_group_norm(g, x, gamma, beta, 2, 1e-5), LGV_ACT_SILU);
    OK(lgv_graph_grad(g, 1, &z, &x, 1, &x, &dx, &err));
    lgv_graph_output(g, lgv_affine(g, dx, 2, 0), "y");
    bench b = bench_make(g);
    float ones[8] = {1, 1, 1, 1, 1, 1, 1, 1};
    for (int i = 0; i < 2; i++) OK(lgv_store_write(b.store, "weight", i, ones, 8, &err));
    lgv_plan *plan = plan_make(&b, g, options);
    write_ramp(plan, "x", 128);
    OK(lgv_plan_run(plan, NULL, &err));
    OK(lgv_plan_read(plan, "y", y, 128, &err));
    lgv_plan_free(plan);
    bench_drop(&b);
    lgv_graph_free(g);
}

static void test_value_in_two_places(void **state)
{
    (void)state;
    float want[128], got[128];
    run_self_gradient(&(lgv_plan_options){.check = 1}, want);
    run_self_gradient(NULL, got);
    assert_close(got, want, 128);
}

/* Statistics as a channel slice of a wider buffer, written and read. */
static void test_strided_statistics(void **state)
{
    (void)state;
    enum { N = 2, L = 5, HEADS = 2 };
    float want[N * HEADS * L], got[2 * N * HEADS * L];
    lgv_graph *g = lgv_graph_new();
    lgv_id q = lgv_input(g, "x", LGV_F32, 3, (int64_t[]){N, L, 8});
    lgv_id y = lgv_attention(g, q, q, q, HEADS, 0.5), lse = lgv_output_of(g, y, 1);
    lgv_id y2 = lgv_attention(g, y, q, q, HEADS, 0.5), lse2 = lgv_output_of(g, y2, 1);
    lgv_graph_output(g, lgv_concat(g, lse2, lse), "both");
    bench b = bench_make(g);
    for (int kernel = 0; kernel < 2; kernel++) {
        lgv_plan_options options = {.kernel = kernel ? "plain" : "gemm"};
        lgv_plan *plan = plan_make(&b, g, &options);
        write_ramp(plan, "x", N * L * 8);
        OK(lgv_plan_run(plan, NULL, &err));
        OK(lgv_plan_read(plan, "both", got, 2 * N * HEADS * L, &err));
        lgv_plan_free(plan);
        lgv_graph *alone = lgv_graph_new();
        q = lgv_input(alone, "x", LGV_F32, 3, (int64_t[]){N, L, 8});
        y = lgv_attention(alone, q, q, q, HEADS, 0.5);
        lgv_graph_output(alone, lgv_output_of(alone, y, 1), "lse");
        plan = plan_make(&b, alone, &options);
        write_ramp(plan, "x", N * L * 8);
        OK(lgv_plan_run(plan, NULL, &err));
        OK(lgv_plan_read(plan, "lse", want, N * HEADS * L, &err));
        for (int i = 0; i < N * HEADS; i++) assert_close(got + (2 * i + 1) * L, want + i * L, L);
        lgv_plan_free(plan);
        lgv_graph_free(alone);
    }
    bench_drop(&b);
    lgv_graph_free(g);
}

/* --- Unusual programs ------------------------------------------------------------------------------- */
static void test_unusual_outputs(void **state)
{
    (void)state;
    lgv_graph *g = lgv_graph_new();
    lgv_id x = matrix(g, "x", 2, 4), w = lgv_param(g, "w", 2, (int64_t[]){2, 4});
    lgv_id y = lgv_affine(g, x, 1, 1), both = lgv_concat(g, y, x);
    lgv_graph_output(g, x, "input");
    lgv_graph_output(g, w, "parameter");
    lgv_graph_output(g, y, "twice");
    lgv_graph_output(g, y, "again");
    lgv_graph_output(g, both, "both");
    lgv_graph_output(g, lgv_slice(g, both, 3, 2), "across");
    bench b = bench_make(g);
    float a[8], weights[8], got[16];
    ramp(a, 8);
    for (int i = 0; i < 8; i++) weights[i] = (float)i;
    OK(lgv_store_write(b.store, "weight", 0, weights, 8, &err));
    for (int check = 0; check < 2; check++) {
        lgv_plan *plan = plan_make(&b, g, &(lgv_plan_options){.check = check});
        write_ramp(plan, "x", 8);
        OK(lgv_plan_run(plan, NULL, &err));
        OK(lgv_plan_read(plan, "input", got, 8, &err));
        assert_close(got, a, 8);
        OK(lgv_plan_read(plan, "parameter", got, 8, &err));
        assert_close(got, weights, 8);
        for (int k = 0; k < 2; k++) {
            OK(lgv_plan_read(plan, k ? "again" : "twice", got, 8, &err));
            for (int i = 0; i < 8; i++) assert_true(got[i] == a[i] + 1);
        }
        OK(lgv_plan_read(plan, "both", got, 16, &err));
        for (int i = 0; i < 16; i++)
            assert_true(got[i] == (i % 8 < 4 ? a[i / 8 * 4 + i % 4] + 1 : a[i / 8 * 4 + i % 4]));
        OK(lgv_plan_read(plan, "across", got, 4, &err));
        for (int n = 0; n < 2; n++)
            assert_true(got[2 * n] == a[4 * n + 3] + 1 && got[2 * n + 1] == a[4 * n]);
        lgv_plan_free(plan);
    }
    bench_drop(&b);
    lgv_graph_free(g);
}

static void test_empty_program(void **state)
{
    (void)state;
    lgv_graph *g = lgv_graph_new();
    bench b = bench_make(g);
    for (int level = 0; level < 3; level++) {
        lgv_plan_options options = {.recompute = level, .check = level == 2};
        lgv_plan *plan = plan_make(&b, g, &options);
        OK(lgv_plan_run(plan, NULL, &err));
        lgv_plan_free(plan);
    }
    bench_drop(&b);
    lgv_graph_free(g);
}

/* Sizes whose sums could wrap around are refused when the graph is built. */
static void test_huge(void **state)
{
    (void)state;
    lgv_graph *g = lgv_graph_new();
    lgv_id x = lgv_input(g, "x", LGV_F32, 2, (int64_t[]){1, 1 << 20});
    lgv_id y = lgv_input(g, "y", LGV_F32, 2, (int64_t[]){INT64_C(1) << 36, 1 << 20});
    assert_true(x >= 0);
    assert_int_equal(y, LGV_NONE);
    assert_int_equal(lgv_graph_status(g, &err), LGV_ERR_SHAPE);
    lgv_graph_free(g);
}

/* --- Random graphs ----------------------------------------------------------------------------------- */
enum { FN = 2, FH = 4, VALUES = 24, SEEDS = 300 };

typedef struct dice {
    uint64_t state;
} dice;

static int roll(dice *d, int sides)
{
    d->state = d->state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (int)((d->state >> 33) % (uint64_t)sides);
}

static int64_t channels_of(const lgv_graph *g, lgv_id v)
{
    int64_t dim[4];
    int rank = lgv_shape(g, v, dim);
    return dim[rank - 1];
}

/* One of the values made so far, with the channels of `like` if like >= 0. */
static lgv_id any(dice *d, const lgv_graph *g, const lgv_id *v, int n, lgv_id like)
{
    for (int tries = 0; tries < 20; tries++) {
        lgv_id x = v[roll(d, n)];
        if (like < 0 || channels_of(g, x) == channels_of(g, like)) return x;
    }
    return like;
}

static lgv_id random_layer(dice *d, lgv_graph *g, int i, lgv_id x, lgv_id row)
{
    int64_t c = channels_of(g, x), out = 4 * (1 + roll(d, 3)), k = roll(d, 2) ? 3 : 1;
    int kind = roll(d, 4);
    lgv_graph_push(g, roll(d, 4) ? "l%d" : "shared%d", kind == 0 ? i : i % 2);
    lgv_id y = x;
    if (kind == 0) {
        lgv_id w = lgv_param(g, "conv", 4, (int64_t[]){out, c, k, k});
        y = lgv_conv2d(g, x, w, lgv_param(g, "bias", 1, &out),
                       (lgv_conv_attr){1, {k / 2, k / 2, k / 2, k / 2}});
    } else if (kind == 1) {
        char name[16];
        snprintf(name, sizeof name, "w%d", (int)c);
        y = lgv_linear(g, x, lgv_param(g, name, 2, (int64_t[]){c, c}), LGV_NONE);
    } else {
        char name[2][16];
        for (int j = 0; j < 2; j++) snprintf(name[j], sizeof name[j], "n%d%d", j, (int)c);
        y = lgv_group_norm(g, x, lgv_param(g, name[0], 1, &c), lgv_param(g, name[1], 1, &c), 2,
                           1e-3);
        if (kind == 3) {
            snprintf(name[0], sizeof name[0], "m%d", (int)c);
            lgv_id both =
                lgv_linear(g, row, lgv_param(g, name[0], 2, (int64_t[]){2 * c, 8}), LGV_NONE);
            y = lgv_modulate(g, y, lgv_slice(g, both, 0, c), lgv_slice(g, both, c, c));
        }
        if (roll(d, 3)) y = lgv_act(g, y, LGV_ACT_SILU);
    }
    lgv_graph_pop(g);
    return y;
}

static lgv_id random_node(dice *d, lgv_graph *g, int i, const lgv_id *v, int n, lgv_id row)
{
    lgv_id x = any(d, g, v, n, LGV_NONE);
    int64_t c = channels_of(g, x);
    switch (roll(d, 10)) {
    case 0: return lgv_affine(g, x, 0.5, 0.25);
    case 1: return lgv_add(g, x, any(d, g, v, n, x));
    case 2: return lgv_mul(g, lgv_affine(g, x, 0.25, 0), any(d, g, v, n, x));
    case 3: {
        lgv_id y = any(d, g, v, n, LGV_NONE);
        return c + channels_of(g, y) <= 16 ? lgv_concat(g, x, y) : x;
    }
    case 4:
        return c > 4 ? lgv_slice(g, x, 4 * roll(d, (int)(c / 4) - 1), 4)
                     : lgv_act(g, x, LGV_ACT_SILU);
    case 5: {
        lgv_id r = lgv_slice(g, row, 0, 4);
        return c == 4 ? lgv_add_row(g, x, r) : c == 8 ? lgv_add_row(g, x, row) : x;
    }
    case 6: return lgv_dropout(g, x, 0.2, (uint32_t)i);
    default: return random_layer(d, g, i, x, row);
    }
}

static lgv_graph *random_graph(uint64_t seed)
{
    dice d = {seed * 2 + 1};
    lgv_graph *g = lgv_graph_new();
    lgv_id v[VALUES] = {lgv_input(g, "x", LGV_F32, 4, (int64_t[]){FN, FH, FH, 4})};
    lgv_id row = lgv_input(g, "row", LGV_F32, 2, (int64_t[]){FN, 8});
    v[0] = random_layer(&d, g, 99, v[0], row);
    for (int i = 1; i < VALUES; i++) {
        if (!roll(&d, 4)) lgv_graph_block_begin(g);
        if (!roll(&d, 4)) lgv_graph_block_end(g);
        v[i] = random_node(&d, g, i, v, i, row);
    }
    lgv_graph_block_end(g);
    lgv_id last = v[VALUES - 1], sum = lgv_mse_rows(g, last, lgv_affine(g, last, 0.5, 1));
    for (int i = 0; i < 3; i++) {
        lgv_id y = v[roll(&d, VALUES)];
        sum = lgv_add(g, sum, lgv_mse_rows(g, y, lgv_affine(g, y, 0, 1)));
    }
    lgv_id weight = lgv_input(g, "weight", LGV_F32, 1, (int64_t[]){FN});
    lgv_id loss = lgv_weighted_sum(g, sum, weight);
    lgv_graph_output(g, loss, "loss");
    for (int i = 0; i < 3; i++) {
        char name[16];
        snprintf(name, sizeof name, "y%d", i);
        lgv_graph_output(g, v[roll(&d, VALUES)], name);
    }
    OK(lgv_graph_status(g, &err));
    OK(lgv_graph_grad_params(g, loss, "grad", &err));
    return g;
}

/* All outputs and gradients of a run, *n of them. */
static float *run_random(const lgv_graph *g, const lgv_plan_options *options, int runs, size_t *n)
{
    bench b = bench_make(g);
    float x[512], *all = malloc(1 << 20);
    for (int i = 0; i < lgv_store_count(b.store); i++) {
        int64_t dim[4], count;
        int rank;
        const char *name = lgv_store_at(b.store, i, &rank, dim, NULL);
        count = dim[0] * dim[1] * dim[2] * dim[3];
        float *w = malloc((size_t)count * sizeof *w);
        for (int64_t k = 0; k < count; k++)
            w[k] = (float)((k * 37 + name[0] + 5 * i) % 101 - 50) / (rank > 1 ? 300.0f : 60.0f);
        OK(lgv_store_write(b.store, "weight", i, w, count, &err));
        free(w);
    }
    lgv_plan *plan = plan_make(&b, g, options);
    ramp(x, 512);
    OK(lgv_plan_write(plan, "x", x, FN * FH * FH * 4, &err));
    OK(lgv_plan_write(plan, "row", x + 3, FN * 8, &err));
    OK(lgv_plan_write(plan, "weight", (float[]){0.25f, 0.75f}, FN, &err));
    for (int i = 0; i < runs; i++) OK(lgv_plan_run(plan, NULL, &err));
    *n = 0;
    for (int i = 0; i < 4; i++) {
        int64_t dim[4];
        const char *name = lgv_plan_output_at(plan, i, NULL, dim);
        int64_t count = dim[0] * dim[1] * dim[2] * dim[3];
        OK(lgv_plan_read(plan, name, all + *n, count, &err));
        *n += (size_t)count;
    }
    for (int i = 0; i < lgv_store_count(b.store); i++) {
        int64_t dim[4];
        lgv_store_at(b.store, i, NULL, dim, NULL);
        int64_t count = dim[0] * dim[1] * dim[2] * dim[3];
        OK(lgv_store_read(b.store, "grad", i, all + *n, count, &err));
        *n += (size_t)count;
    }
    lgv_plan_free(plan);
    bench_drop(&b);
    return all;
}

static void check_types(const lgv_graph *g)
{
    lgv_graph *low;
    OK(lgv_graph_clone(g, &low, &err));
    OK(lgv_pass_mixed_precision(low, &err));
    types_check(low);
    lgv_graph_free(low);
}

/* Memory, recomputation and passes do not change results; check mode shares no memory at all. In bf16 the passes
   change roundings: tolerance is what they may. */
static void check_random_graphs(lgv_mixed_precision precision, int seeds, double tolerance)
{
    for (int seed = 0; seed < seeds; seed++) {
        lgv_graph *g = random_graph((uint64_t)seed);
        lgv_plan_options alone = {.check = 1, .mixed_precision = precision};
        lgv_plan_options other[] = {{0},
                                    {.recompute = 1},
                                    {.recompute = 2},
                                    {.check = 1, .recompute = 2},
                                    {.accumulate_grads = 1},
                                    {.no_fusion = 1},
                                    {.no_fusion = 1, .recompute = 2}};
        size_t n, m;
        check_types(g);
        float *want = run_random(g, &alone, 1, &n);
        for (size_t k = 0; k < sizeof other / sizeof *other; k++) {
            other[k].mixed_precision = precision;
            float *got = run_random(g, &other[k], other[k].accumulate_grads ? 1 : 2, &m),
                  largest = 1e-3f;
            assert_int_equal(n, m);
            if (!other[k].no_fusion && memcmp(got, want, n * sizeof *got))
                fail_msg("graph %d, options %zu: other bits", seed, k);
            for (size_t i = 0; i < n; i++) largest = fmaxf(largest, fabsf(want[i]));
            for (size_t i = 0; i < n; i++)
                if (!(fabs((double)(got[i] - want[i])) <= tolerance * (double)largest))
                    fail_msg("graph %d, options %zu: value %zu is %g, not %g", seed, k, i,
                             (double)got[i], (double)want[i]);
            free(got);
        }
        free(want);
        lgv_graph_free(g);
    }
}

static void test_random_graphs(void **state)
{
    (void)state;
    check_random_graphs(LGV_MIXED_NO, SEEDS, 1e-4);
}

static void test_random_graphs_bf16(void **state)
{
    (void)state;
    check_random_graphs(LGV_MIXED_BF16, SEEDS / 3, 0.1);
}

/* --- Memory runs out ---------------------------------------------------------------------------------- */
static lgv_status small_network(lgv_graph *g)
{
    int64_t c = 8;
    lgv_id x = lgv_input(g, "x", LGV_F32, 4, (int64_t[]){2, 4, 4, 8});
    lgv_graph_block_begin(g);
    lgv_id h =
        lgv_group_norm(g, x, lgv_param(g, "gamma", 1, &c), lgv_param(g, "beta", 1, &c), 2, 1e-5);
    h = lgv_act(g, h, LGV_ACT_SILU);
    h = lgv_conv2d(g, h, lgv_param(g, "conv", 4, (int64_t[]){8, 8, 3, 3}), LGV_NONE,
                   (lgv_conv_attr){1, {1, 1, 1, 1}});
    h = lgv_attention(g, h, x, lgv_add(g, h, x), 2, 0.5);
    lgv_graph_block_end(g);
    lgv_graph_module(g, h, "attention");
    h = lgv_slice(g, lgv_concat(g, h, x), 4, 8);
    lgv_id rows = lgv_mse_rows(g, h, x);
    lgv_id loss = lgv_weighted_sum(g, rows, lgv_step_row(g, 2, LGV_FIELD_WEIGHT));
    lgv_graph_output(g, loss, "loss");
    return lgv_graph_grad_params(g, loss, "grad", &err);
}

static lgv_status try_all(lgv_graph *g, const lgv_plan_options *options)
{
    bench b = {NULL, NULL};
    lgv_plan *plan = NULL;
    lgv_program program = {"only", g};
    lgv_status s = small_network(g);
    if (!s) s = lgv_device_new("cpu", 2, &b.device, &err);
    if (!s) s = lgv_store_new(b.device, &b.store, &err);
    if (!s) s = lgv_store_declare(b.store, g, &err);
    if (!s) s = lgv_store_add_set(b.store, "weight", &err);
    if (!s) s = lgv_store_add_set(b.store, "grad", &err);
    if (!s) s = lgv_plan_new(b.store, 1, &program, options, &plan, &err);
    if (!s) s = lgv_plan_run(plan, NULL, &err);
    lgv_plan_free(plan);
    lgv_store_free(b.store);
    if (b.device) lgv_device_free(b.device);
    return s;
}

/* Every allocation fails in turn: the failure is reported, and nothing is lost (the sanitizers look). */
static void test_out_of_memory(void **state)
{
    (void)state;
    const lgv_plan_options options[] = {{.recompute = 2, .instrument = 1},
                                        {.recompute = 1, .accumulate_grads = 1},
                                        {.check = 1, .no_fusion = 1},
                                        {.recompute = 1, .mixed_precision = LGV_MIXED_BF16}};
    for (int k = 0; k < 4; k++) {
        uint64_t count = 1;
        for (uint64_t nth = 0; nth <= count; nth++) { /* 0: none fails, which counts them */
            lgv_graph *g = lgv_graph_new();
            (void)lgv_alloc_fail_after(nth);
            lgv_status s = try_all(g, &options[k]);
            uint64_t made = lgv_alloc_fail_after(0);
            if (!nth) count = made;
            lgv_graph_free(g);
            if (s != (nth ? LGV_ERR_MEMORY : LGV_OK))
                fail_msg("options %d, allocation %d: status %d: %s", k, (int)nth, s, err.text);
        }
        assert_true(count > 100);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_write_makes_packs_stale),
        cmocka_unit_test(test_optional_packs),
        cmocka_unit_test(test_writes_in_order),
        cmocka_unit_test(test_mapped_set),
        cmocka_unit_test(test_value_outlives_update),
        cmocka_unit_test(test_assign_wants_f32),
        cmocka_unit_test(test_reads_before_writes),
        cmocka_unit_test(test_output_of_input_slice),
        cmocka_unit_test(test_value_in_two_places),
        cmocka_unit_test(test_strided_statistics),
        cmocka_unit_test(test_unusual_outputs),
        cmocka_unit_test(test_empty_program),
        cmocka_unit_test(test_huge),
        cmocka_unit_test(test_random_graphs),
        cmocka_unit_test(test_random_graphs_bf16),
        cmocka_unit_test(test_out_of_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
