/* test_engine.c - the bits of the engine, on a small U-Net with every kind of edge (skip, attention, dropout,
   resampling): threads, recomputation, micro-batches, plans on one store, passes and check mode may not change
   what is computed. */
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

enum { H = 8, C = 16, BATCH = 4, STEPS = 4 };

static lgv_error err;

static lgv_id conv(lgv_graph *g, const char *name, lgv_id x, int out, int k, int stride)
{
    int64_t dim[4];
    int rank = lgv_shape(g, x, dim);
    lgv_graph_push(g, "%s", name);
    lgv_id w = lgv_param(g, "weight", 4, (int64_t[]){out, dim[rank - 1], k, k});
    lgv_id b = lgv_param(g, "bias", 1, (int64_t[]){out});
    int pad = k / 2;
    lgv_id y = lgv_conv2d(g, x, w, b, (lgv_conv_attr){stride, {pad, pad, pad, pad}});
    lgv_graph_pop(g);
    return y;
}

static lgv_id linear(lgv_graph *g, const char *name, lgv_id x, int out)
{
    int64_t dim[4];
    int rank = lgv_shape(g, x, dim);
    lgv_graph_push(g, "%s", name);
    lgv_id y = lgv_linear(g, x, lgv_param(g, "weight", 2, (int64_t[]){out, dim[rank - 1]}),
                          lgv_param(g, "bias", 1, (int64_t[]){out}));
    lgv_graph_pop(g);
    return y;
}

static lgv_id norm(lgv_graph *g, const char *name, lgv_id x)
{
    int64_t dim[4];
    int rank = lgv_shape(g, x, dim);
    int64_t c = dim[rank - 1];
    lgv_graph_push(g, "%s", name);
    lgv_id y =
        lgv_group_norm(g, x, lgv_param(g, "weight", 1, &c), lgv_param(g, "bias", 1, &c), 4, 1e-5);
    lgv_graph_pop(g);
    return y;
}

static lgv_id resnet(lgv_graph *g, const char *name, lgv_id x, lgv_id temb, int out,
                     bool scale_shift, bool train)
{
    lgv_graph_push(g, "%s", name);
    lgv_graph_block_begin(g);
    lgv_id h = conv(g, "conv1", lgv_act(g, norm(g, "norm1", x), LGV_ACT_SILU), out, 3, 1);
    lgv_id t =
        linear(g, "time_emb_proj", lgv_act(g, temb, LGV_ACT_SILU), scale_shift ? 2 * out : out);
    if (!scale_shift) h = lgv_add_row(g, h, t);
    h = norm(g, "norm2", h);
    if (scale_shift) h = lgv_modulate(g, h, lgv_slice(g, t, 0, out), lgv_slice(g, t, out, out));
    h = lgv_act(g, h, LGV_ACT_SILU);
    if (train) h = lgv_dropout(g, h, 0.1, lgv_rng_stream(lgv_graph_path(g, "dropout")));
    h = conv(g, "conv2", h, out, 3, 1);
    int64_t dim[4];
    lgv_shape(g, x, dim);
    if (dim[3] != out) x = conv(g, "conv_shortcut", x, out, 1, 1);
    h = lgv_add(g, x, h);
    lgv_graph_block_end(g);
    lgv_graph_pop(g);
    return h;
}

static lgv_id attention(lgv_graph *g, lgv_id x)
{
    lgv_graph_push(g, "attn");
    lgv_graph_block_begin(g);
    lgv_id h = norm(g, "group_norm", x);
    lgv_id y = lgv_attention(g, linear(g, "to_q", h, C), linear(g, "to_k", h, C),
                             linear(g, "to_v", h, C), 2, 1 / sqrt(8.0));
    y = lgv_add(g, linear(g, "to_out", y, C), x);
    lgv_graph_block_end(g);
    lgv_graph_pop(g);
    return y;
}

static lgv_id network(lgv_graph *g, lgv_id x, int n, bool train)
{
    lgv_id temb = lgv_timestep_embedding(g, lgv_step_row(g, n, LGV_FIELD_T), C, 1, 0);
    temb =
        linear(g, "linear_2", lgv_act(g, linear(g, "linear_1", temb, 2 * C), LGV_ACT_SILU), 2 * C);
    lgv_id skip = conv(g, "conv_in", x, C, 3, 1);
    lgv_id h = resnet(g, "down", skip, temb, C, false, train);
    lgv_id skip2 = h;
    h = conv(g, "downsample", h, C, 3, 2);
    h = attention(g, resnet(g, "mid", h, temb, C, true, train));
    h = conv(g, "upsample", lgv_resample(g, h, LGV_UP_NEAREST), C, 3, 1);
    h = resnet(g, "up0", lgv_concat(g, h, skip2), temb, C, false, train);
    h = resnet(g, "up1", lgv_concat(g, h, skip), temb, C, true, train);
    return conv(g, "conv_out", lgv_act(g, norm(g, "norm_out", h), LGV_ACT_SILU), 3, 3, 1);
}

static lgv_graph *training_graph(int n)
{
    lgv_graph *g = lgv_graph_new();
    lgv_id x0 = lgv_input(g, "x0", LGV_F32, 4, (int64_t[]){n, H, H, 3});
    lgv_id noise = lgv_random_normal(g, 4, (int64_t[]){n, H, H, 3}, lgv_rng_stream("noise"));
    lgv_id xt = lgv_row_axpby(g, x0, noise, lgv_step_row(g, n, LGV_FIELD_COEF),
                              lgv_step_row(g, n, LGV_FIELD_COEF + 1));
    lgv_id pred = network(g, xt, n, true);
    lgv_id rows = lgv_mse_rows(g, pred, noise);
    lgv_id loss = lgv_weighted_sum(g, rows, lgv_step_row(g, n, LGV_FIELD_WEIGHT));
    lgv_graph_output(g, loss, "loss");
    OK(lgv_graph_grad_params(g, loss, "grad", &err));
    OK(lgv_graph_status(g, &err));
    return g;
}

typedef struct trainer {
    lgv_device *device;
    lgv_store *store;
    lgv_plan *plan;
    int rows;
} trainer;

static void init_weights(lgv_store *store)
{
    for (int i = 0; i < lgv_store_count(store); i++) {
        int64_t dim[4];
        int rank;
        const char *name = lgv_store_at(store, i, &rank, dim, NULL);
        int64_t n = dim[0] * dim[1] * dim[2] * dim[3];
        float *data = malloc((size_t)n * sizeof *data);
        lgv_rng_key key = {.seed = 5, .stream = lgv_rng_stream(name)};
        lgv_rng_uniform(&key, 0, n, data);
        float scale = rank > 1 ? 1.0f / sqrtf((float)(n / dim[0])) : 0.1f;
        bool gamma = rank == 1 && strstr(name, "weight");
        for (int64_t k = 0; k < n; k++) data[k] = (2 * data[k] - 1) * scale + (gamma ? 1.0f : 0.0f);
        OK(lgv_store_write(store, "weight", i, data, n, &err));
        free(data);
    }
    OK(lgv_store_copy(store, "weight", "ema", &err));
}

static const char *device_name; /* where trainer_make computes; NULL: the best here */

static void trainer_make(trainer *t, int threads, int rows, const lgv_plan_options *options)
{
    lgv_graph *g = training_graph(rows), *update = lgv_graph_new();
    lgv_graph_output(update, lgv_adamw(update, 1), "norm");
    lgv_program programs[] = {{"forward_backward", g}, {"update", update}};
    OK(lgv_device_new(device_name, threads, &t->device, &err));
    OK(lgv_store_new(t->device, &t->store, &err));
    OK(lgv_store_declare(t->store, g, &err));
    const char *sets[] = {"weight", "grad", "exp_avg", "exp_avg_sq", "ema"};
    for (int i = 0; i < 5; i++) OK(lgv_store_add_set(t->store, sets[i], &err));
    init_weights(t->store);
    OK(lgv_plan_new(t->store, 2, programs, options, &t->plan, &err));
    lgv_graph_free(g);
    lgv_graph_free(update);
    t->rows = rows;
}

static void trainer_drop(trainer *t)
{
    lgv_plan_free(t->plan);
    lgv_store_free(t->store);
    lgv_device_free(t->device);
}

/* Rows first .. first+rows-1 of the effective batch of step `step`. */
static double micro_step(trainer *t, int step, int first, float poison)
{
    float x[BATCH * H * H * 3];
    lgv_step *s = lgv_plan_step(t->plan);
    for (int n = 0; n < t->rows; n++) {
        lgv_rng_key key = {
            .seed = 1, .stream = 77, .sample = (uint64_t)(first + n), .step = (uint64_t)step};
        lgv_rng_normal(&key, 0, H * H * 3, x + n * H * H * 3);
        s->row[n] = (lgv_row){.seed = 3,
                              .sample = (uint64_t)(first + n),
                              .step = (uint64_t)step,
                              .t = (float)((first + n) * 200 + step),
                              .weight = 1.0f / BATCH,
                              .partner = -1,
                              .coef = {0.8f, 0.6f}};
    }
    x[5] += poison;
    OK(lgv_plan_write(t->plan, "x0", x, (int64_t)t->rows * H * H * 3, &err));
    OK(lgv_plan_run(t->plan, "forward_backward", &err));
    float loss;
    OK(lgv_plan_read(t->plan, "loss", &loss, 1, &err));
    return loss;
}

static double update(trainer *t, int step)
{
    lgv_step *s = lgv_plan_step(t->plan);
    s->scalar[LGV_SCALAR_LR] = 1e-3;
    s->scalar[LGV_SCALAR_BETA1] = 0.95;
    s->scalar[LGV_SCALAR_BETA2] = 0.999;
    s->scalar[LGV_SCALAR_EPS] = 1e-8;
    s->scalar[LGV_SCALAR_WEIGHT_DECAY] = 1e-6;
    s->scalar[LGV_SCALAR_BIAS1] = 1 - pow(0.95, step + 1);
    s->scalar[LGV_SCALAR_BIAS2] = 1 - pow(0.999, step + 1);
    s->scalar[LGV_SCALAR_MAX_NORM] = 1;
    s->scalar[LGV_SCALAR_EMA_DECAY] = 0.9;
    OK(lgv_plan_run(t->plan, "update", &err));
    float norm[2];
    OK(lgv_plan_read(t->plan, "norm", norm, 2, &err));
    return norm[0];
}

/* All of a set, in store order; *n elements. Free it. */
static float *read_set(lgv_store *store, const char *set, int64_t *n)
{
    *n = lgv_store_parameters(store);
    float *data = malloc((size_t)*n * sizeof *data);
    int64_t at = 0;
    for (int i = 0; i < lgv_store_count(store); i++) {
        int64_t dim[4];
        lgv_store_at(store, i, NULL, dim, NULL);
        int64_t k = dim[0] * dim[1] * dim[2] * dim[3];
        OK(lgv_store_read(store, set, i, data + at, k, &err));
        at += k;
    }
    return data;
}

/* Trains STEPS steps and returns the EMA weights. */
static float *train(int threads, int rows, const lgv_plan_options *options, int64_t *n)
{
    trainer t;
    trainer_make(&t, threads, rows, options);
    for (int step = 0; step < STEPS; step++) {
        for (int first = 0; first < BATCH; first += rows)
            assert_true(isfinite(micro_step(&t, step, first, 0)));
        assert_true(update(&t, step) > 0);
    }
    float *ema = read_set(t.store, "ema", n);
    trainer_drop(&t);
    return ema;
}

static float *reference(int64_t *n)
{
    lgv_plan_options options = {0};
    return train(1, BATCH, &options, n);
}

static void test_threads(void **state)
{
    (void)state;
    int64_t n, m;
    float *want = reference(&n);
    for (int threads = 2; threads <= 7; threads += 5) {
        lgv_plan_options options = {0};
        float *got = train(threads, BATCH, &options, &m);
        assert_int_equal(n, m);
        assert_memory_equal(got, want, (size_t)n * sizeof *want);
        free(got);
    }
    free(want);
}

static void test_recompute(void **state)
{
    (void)state;
    int64_t n, m;
    float *want = reference(&n);
    for (int level = 1; level <= 2; level++) {
        lgv_plan_options options = {.recompute = level};
        float *got = train(2, BATCH, &options, &m);
        assert_memory_equal(got, want, (size_t)n * sizeof *want);
        free(got);
    }
    free(want);
}

static void test_check_mode(void **state)
{
    (void)state;
    int64_t n, m;
    float *want = reference(&n);
    lgv_plan_options options = {.check = 1};
    float *got = train(2, BATCH, &options, &m);
    assert_memory_equal(got, want, (size_t)n * sizeof *want);
    free(got);
    free(want);
}

static double distance(const float *a, const float *b, int64_t n)
{
    double worst = 0, largest = 0;
    for (int64_t i = 0; i < n; i++) {
        worst = fmax(worst, fabs((double)a[i] - b[i]));
        largest = fmax(largest, fabs((double)b[i]));
    }
    return worst / largest;
}

/* Gradients of one step, summed over micro-batches of `rows`. */
static float *gradients(int rows, const lgv_plan_options *options, double *loss, int64_t *n)
{
    trainer t;
    trainer_make(&t, 2, rows, options);
    *loss = 0;
    for (int first = 0; first < BATCH; first += rows) *loss += micro_step(&t, 0, first, 0);
    float *grad = read_set(t.store, "grad", n);
    trainer_drop(&t);
    return grad;
}

static void test_accumulation(void **state)
{
    (void)state;
    int64_t n;
    double want_loss, loss;
    lgv_plan_options whole = {0}, parts = {.accumulate_grads = 1};
    float *want = gradients(BATCH, &whole, &want_loss, &n);
    for (int rows = 1; rows <= BATCH; rows *= 2) {
        float *got = gradients(rows, &parts, &loss, &n);
        assert_true(fabs(loss - want_loss) <= 1e-6 * want_loss);
        double d = distance(got, want, n);
        if (d > 1e-6) fail_msg("gradients of micro-batches of %d differ by %.2e", rows, d);
        free(got);
    }
    free(want);
}

static void test_passes(void **state)
{
    (void)state;
    int64_t n;
    double a, b;
    lgv_plan_options on = {0}, off = {.no_fusion = 1}, plain = {.kernel = "plain"};
    float *want = gradients(BATCH, &on, &a, &n), *got = gradients(BATCH, &off, &b, &n);
    assert_true(fabs(a - b) <= 1e-6 * a);
    assert_true(distance(got, want, n) <= 1e-5);
    free(got);
    got = gradients(BATCH, &plain, &b, &n);
    assert_true(distance(got, want, n) <= 1e-5);
    free(got);
    free(want);
}

static void test_not_finite(void **state)
{
    (void)state;
    trainer t;
    lgv_plan_options options = {0};
    trainer_make(&t, 2, BATCH, &options);
    micro_step(&t, 0, 0, 0);
    update(&t, 0);
    const char *sets[] = {"weight", "exp_avg", "exp_avg_sq", "ema"};
    float *before[4];
    int64_t n;
    for (int i = 0; i < 4; i++) before[i] = read_set(t.store, sets[i], &n);
    micro_step(&t, 1, 0, NAN);
    assert_false(isfinite(update(&t, 1)));
    assert_int_equal(lgv_store_skipped(t.store), 1);
    for (int i = 0; i < 4; i++) {
        float *after = read_set(t.store, sets[i], &n);
        assert_memory_equal(after, before[i], (size_t)n * sizeof *after);
        free(after);
        free(before[i]);
    }
    micro_step(&t, 1, 0, 0);
    assert_true(update(&t, 1) > 0); /* gradients were cleared: the next step is sound */
    assert_int_equal(lgv_store_skipped(t.store), 1);
    trainer_drop(&t);
}

static void test_first_bad_node(void **state)
{
    (void)state;
    trainer t;
    lgv_plan_options options = {.check = 1};
    trainer_make(&t, 1, BATCH, &options);
    float x[BATCH * H * H * 3] = {0};
    x[7] = NAN;
    OK(lgv_plan_write(t.plan, "x0", x, BATCH * H * H * 3, &err));
    assert_int_equal(lgv_plan_run(t.plan, "forward_backward", &err), LGV_ERR_NUMERIC);
    assert_non_null(strstr(err.text, "row_axpby"));
    trainer_drop(&t);
}

/* A sampling plan of the EMA weights on the trainer's store: runs of either leave the other alone, and a row's
   result does not depend on its neighbours. */
static void test_two_plans(void **state)
{
    (void)state;
    int64_t n, m;
    float *want = reference(&n);
    trainer t;
    lgv_plan_options options = {0}, ema = {.weights = "ema"};
    trainer_make(&t, 2, BATCH, &options);
    lgv_plan *sampler[2];
    for (int i = 0; i < 2; i++) {
        int rows = i ? 1 : BATCH;
        lgv_graph *g = lgv_graph_new();
        lgv_graph_output(
            g, network(g, lgv_input(g, "x", LGV_F32, 4, (int64_t[]){rows, H, H, 3}), rows, false),
            "y");
        lgv_program program = {"sample", g};
        OK(lgv_plan_new(t.store, 1, &program, &ema, &sampler[i], &err));
        lgv_graph_free(g);
    }
    float x[BATCH * H * H * 3], y[BATCH * H * H * 3], one[H * H * 3];
    lgv_rng_normal(&(lgv_rng_key){.seed = 9}, 0, BATCH * H * H * 3, x);
    for (int step = 0; step < STEPS; step++) {
        micro_step(&t, step, 0, 0);
        for (int i = 0; i < BATCH; i++) lgv_plan_step(sampler[0])->row[i].t = (float)(100 * i);
        OK(lgv_plan_write(sampler[0], "x", x, BATCH * H * H * 3, &err));
        OK(lgv_plan_run(sampler[0], NULL, &err));
        OK(lgv_plan_read(sampler[0], "y", y, BATCH * H * H * 3, &err));
        for (int i = 0; i < BATCH; i++) {
            lgv_plan_step(sampler[1])->row[0].t = (float)(100 * i);
            OK(lgv_plan_write(sampler[1], "x", x + i * H * H * 3, H * H * 3, &err));
            OK(lgv_plan_run(sampler[1], NULL, &err));
            OK(lgv_plan_read(sampler[1], "y", one, H * H * 3, &err));
            assert_memory_equal(one, y + i * H * H * 3, sizeof one);
        }
        update(&t, step);
    }
    float *got = read_set(t.store, "ema", &m);
    assert_memory_equal(got, want, (size_t)n * sizeof *want);
    free(got);
    free(want);
    lgv_plan_free(sampler[0]);
    lgv_plan_free(sampler[1]);
    trainer_drop(&t);
}

static void test_budget(void **state)
{
    (void)state;
    trainer t;
    lgv_plan_options options = {0};
    trainer_make(&t, 1, BATCH, &options);
    lgv_plan_info free_info, tight_info;
    lgv_plan_describe(t.plan, &free_info);
    trainer_drop(&t);
    options.memory_budget = free_info.arena_bytes * 9 / 10;
    trainer_make(&t, 1, BATCH, &options);
    lgv_plan_describe(t.plan, &tight_info);
    assert_true(tight_info.arena_bytes <= options.memory_budget);
    assert_true(tight_info.recomputed > 0);
    trainer_drop(&t);

    lgv_graph *g = training_graph(BATCH);
    lgv_program program = {"forward_backward", g};
    lgv_plan *plan = NULL;
    options.memory_budget = 1000;
    OK(lgv_device_new(NULL, 1, &t.device, &err));
    OK(lgv_store_new(t.device, &t.store, &err));
    OK(lgv_store_declare(t.store, g, &err));
    OK(lgv_store_add_set(t.store, "weight", &err));
    OK(lgv_store_add_set(t.store, "grad", &err));
    assert_int_equal(lgv_plan_new(t.store, 1, &program, &options, &plan, &err), LGV_ERR_MEMORY);
    assert_non_null(strstr(err.text, "budget"));
    assert_null(plan);
    lgv_graph_free(g);
    lgv_store_free(t.store);
    lgv_device_free(t.device);
}

static size_t activations(int recompute)
{
    trainer t;
    lgv_plan_info info;
    trainer_make(&t, 2, BATCH, &(lgv_plan_options){.recompute = recompute});
    lgv_plan_describe(t.plan, &info);
    trainer_drop(&t);
    return info.arena_bytes + info.io_bytes;
}

/* A budget between all cheap nodes and all blocks: some blocks as a whole, the cheap nodes of the others. On the scalar
   kernels: in a network as small as this the workspaces of other levels outweigh what blocks save. */
static void test_recompute_of_some_blocks(void **state)
{
    (void)state;
    int64_t n, m;
    device_name = "cpu:scalar";
    float *want = reference(&n);
    const size_t cheap = activations(1), blocks = activations(2);
    assert_true(blocks < cheap && cheap < activations(0));
    for (int part = 1; part <= 3; part++) {
        lgv_plan_options options = {.memory_budget = blocks + (cheap - blocks) * (size_t)part / 4};
        float *got = train(2, BATCH, &options, &m);
        assert_memory_equal(got, want, (size_t)n * sizeof *want);
        free(got);
    }
    free(want);
    device_name = NULL;
}

static int recompute_units(int level, double block_share)
{
    lgv_graph *g = training_graph(BATCH);
    int n = 0;
    OK(lgv_pass_recompute(g, &(lgv_recompute){level, block_share, -1}, &n, &err));
    lgv_graph_free(g);
    return n;
}

static void test_recompute_share(void **state)
{
    (void)state;
    const int cheap = recompute_units(1, 1), all = recompute_units(2, 1);
    assert_true(cheap > 0 && all > cheap + 1);
    assert_int_equal(recompute_units(2, 0), cheap);
    bool some = false;
    for (int percent = 0, before = cheap; percent <= 100; percent += 2) {
        const int n = recompute_units(2, percent / 100.0);
        assert_true(n >= before && n <= all);
        some = some || (n > cheap && n < all);
        before = n;
    }
    assert_true(some);
}

/* A dry store: the figures of a real plan, no memory, no runs. */
static void test_dry(void **state)
{
    (void)state;
    trainer t;
    lgv_plan_options options = {0};
    trainer_make(&t, 1, BATCH, &options);
    lgv_plan_info real, dry;
    lgv_plan_describe(t.plan, &real);
    int nodes = lgv_plan_nodes(t.plan);
    trainer_drop(&t);

    lgv_graph *g = training_graph(BATCH), *update_graph = lgv_graph_new();
    lgv_graph_output(update_graph, lgv_adamw(update_graph, 1), "norm");
    lgv_program programs[] = {{"forward_backward", g}, {"update", update_graph}};
    lgv_plan *plan = NULL;
    const char *const sets[] = {"weight", "grad", "exp_avg", "exp_avg_sq", "ema"};
    OK(lgv_device_new(NULL, 1, &t.device, &err));
    OK(lgv_store_new_dry(t.device, &t.store, &err));
    OK(lgv_store_declare(t.store, g, &err));
    for (int i = 0; i < 5; i++) OK(lgv_store_add_set(t.store, sets[i], &err));
    OK(lgv_plan_new(t.store, 2, programs, &options, &plan, &err));
    lgv_plan_describe(plan, &dry);
    assert_int_equal(dry.arena_bytes, real.arena_bytes);
    assert_int_equal(dry.weight_bytes, real.weight_bytes);
    assert_int_equal(dry.packed_bytes, real.packed_bytes);
    assert_int_equal(lgv_plan_nodes(plan), nodes);
    float x[BATCH * H * H * 3] = {0}, y;
    assert_int_equal(lgv_plan_run(plan, "update", &err), LGV_ERR_ARGUMENT);
    assert_int_equal(lgv_plan_write(plan, "x0", x, BATCH * H * H * 3, &err), LGV_ERR_ARGUMENT);
    assert_int_equal(lgv_plan_read(plan, "loss", &y, 1, &err), LGV_ERR_ARGUMENT);
    assert_int_equal(lgv_store_zero(t.store, "grad", &err), LGV_ERR_ARGUMENT);
    assert_int_equal(lgv_store_copy(t.store, "weight", "ema", &err), LGV_ERR_ARGUMENT);
    lgv_plan_free(plan);
    lgv_graph_free(g);
    lgv_graph_free(update_graph);
    lgv_store_free(t.store);
    lgv_device_free(t.device);
}

static void test_errors(void **state)
{
    (void)state;
    lgv_graph *g = lgv_graph_new();
    lgv_graph_push(g, "mid");
    lgv_id x = lgv_input(g, "x", LGV_F32, 4, (int64_t[]){1, 4, 4, 8});
    conv(g, "conv1", x, 8, 3, 1);
    lgv_id w = lgv_param(g, "other", 4, (int64_t[]){8, 7, 3, 3});
    assert_int_equal(lgv_conv2d(g, x, w, LGV_NONE, (lgv_conv_attr){1, {1, 1, 1, 1}}), LGV_NONE);
    assert_int_equal(lgv_graph_status(g, &err), LGV_ERR_SHAPE);
    assert_non_null(strstr(err.text, "conv2d 'mid'"));
    assert_int_equal(lgv_add(g, x, x), LGV_NONE); /* the error sticks */
    lgv_graph_free(g);
    lgv_device *d = NULL;
    assert_int_equal(lgv_device_new("cpu:nonsense", 1, &d, &err), LGV_ERR_ARGUMENT);
    assert_null(d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_threads),
        cmocka_unit_test(test_recompute),
        cmocka_unit_test(test_recompute_of_some_blocks),
        cmocka_unit_test(test_recompute_share),
        cmocka_unit_test(test_check_mode),
        cmocka_unit_test(test_accumulation),
        cmocka_unit_test(test_passes),
        cmocka_unit_test(test_not_finite),
        cmocka_unit_test(test_first_bad_node),
        cmocka_unit_test(test_two_plans),
        cmocka_unit_test(test_budget),
        cmocka_unit_test(test_dry),
        cmocka_unit_test(test_errors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
