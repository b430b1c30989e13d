/* bench_blocks.c - a training step (forward, gradients of all weights and of the input) of one DiT-shaped block of width 384
   with 6 heads, as a graph of the public interface.
   bench_blocks [DEVICE [THREADS [ROUNDS [bf16]]]]: seconds and share of the FMA peak for S/4 (64 tokens, batch 16) and S/2
   (256 tokens, batch 4), then the nodes that cost most.
   bench_blocks DEVICE THREADS --interactive s4|s2 [bf16]: says "ready"; answers each line of input with the seconds of a
   step (compare_blocks.py).
   A last norm follows the block, as another block's would: with bf16 it makes the block's result bf16. */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fma_peak.h"
#include "langevin/ops.h"
#include "langevin/plan.h"

enum { WIDTH = 384, HEADS = 6, HIDDEN = 4 * WIDTH };

typedef struct size {
    const char *name;
    int64_t n, tokens;
} size;
static const size sizes[] = {{"s4", 16, 64}, {"s2", 4, 256}};

static void must(lgv_status s, const lgv_error *err)
{
    if (!s) return;
    fprintf(stderr, "bench_blocks: %s\n", err->text);
    exit(1);
}

static lgv_id linear(lgv_graph *g, const char *name, lgv_id x, int64_t c, int64_t k)
{
    lgv_graph_push(g, "%s", name);
    lgv_id w = lgv_param(g, "weight", 2, (int64_t[]){k, c}), b = lgv_param(g, "bias", 1, &k);
    lgv_graph_pop(g);
    return lgv_linear(g, x, w, b);
}

/* The last one has weights, as in compare_blocks.py. */
static lgv_id norm(lgv_graph *g, const char *name, lgv_id x, bool weights)
{
    const int64_t c = WIDTH;
    if (!weights) return lgv_layer_norm(g, x, LGV_NONE, LGV_NONE, 1e-6);
    lgv_graph_push(g, "%s", name);
    lgv_id gamma = lgv_param(g, "weight", 1, &c), beta = lgv_param(g, "bias", 1, &c);
    lgv_graph_pop(g);
    return lgv_layer_norm(g, x, gamma, beta, 1e-5);
}

/* Peebles and Xie, arXiv 2212.09748, figure 3: adaLN-Zero. x [N,L,C], c [N,C]. */
static lgv_id block(lgv_graph *g, lgv_id x, lgv_id c)
{
    lgv_id six = linear(g, "adaln", lgv_act(g, c, LGV_ACT_SILU), WIDTH, 6 * WIDTH), part[6];
    for (int i = 0; i < 6; i++) part[i] = lgv_slice(g, six, (int64_t)i * WIDTH, WIDTH);
    lgv_id h = lgv_modulate(g, norm(g, "norm1", x, false), part[1], part[0]);
    lgv_id qkv = linear(g, "qkv", h, WIDTH, 3 * WIDTH), q = lgv_slice(g, qkv, 0, WIDTH),
           k = lgv_slice(g, qkv, WIDTH, WIDTH), v = lgv_slice(g, qkv, 2 * WIDTH, WIDTH);
    h = linear(g, "proj", lgv_attention(g, q, k, v, HEADS, 0.125), WIDTH, WIDTH);
    x = lgv_gate(g, h, part[2], x);
    h = lgv_modulate(g, norm(g, "norm2", x, false), part[4], part[3]);
    h = lgv_act(g, linear(g, "fc1", h, WIDTH, HIDDEN), LGV_ACT_GELU_TANH);
    return lgv_gate(g, linear(g, "fc2", h, HIDDEN, WIDTH), part[5], x);
}

typedef struct step {
    lgv_store *store;
    lgv_plan *plan;
    double flops; /* of matrix products */
} step;

static double product_flops(const lgv_plan *plan)
{
    double sum = 0;
    for (int i = 0; i < lgv_plan_nodes(plan); i++) {
        lgv_node_info info;
        lgv_plan_node_at(plan, i, &info);
        if (strstr(info.op, "linear") || strstr(info.op, "attention")) sum += info.flops;
    }
    return sum;
}

static void build(lgv_graph *g, const size *s, lgv_error *err)
{
    const int64_t dim[] = {s->n, s->tokens, WIDTH}, cond[] = {s->n, WIDTH};
    lgv_id x = lgv_input(g, "x", LGV_F32, 3, dim), c = lgv_input(g, "c", LGV_F32, 2, cond);
    lgv_id y = norm(g, "final", block(g, x, c), true), dy = lgv_input(g, "dy", LGV_F32, 3, dim);
    lgv_id wrt[64], grad[64];
    const char *name[64];
    int n = lgv_graph_params(g), frozen;
    for (int i = 0; i < n; i++) wrt[i] = lgv_graph_param_at(g, i, &name[i], &frozen);
    wrt[n] = x;
    must(lgv_graph_grad(g, 1, &y, &dy, n + 1, wrt, grad, err), err);
    for (int i = 0; i < n; i++) lgv_assign(g, "grad", name[i], grad[i]);
    lgv_graph_output(g, grad[n], "dx");
}

static void fill(const step *t, const char *input, int64_t n)
{
    lgv_error err = {0};
    float *p = malloc((size_t)n * sizeof *p);
    if (!p) exit(1);
    for (int64_t i = 0; i < n; i++) p[i] = (float)(i * 2654435761u % 1000) / 500.0f - 1;
    must(lgv_plan_write(t->plan, input, p, n, &err), &err);
    free(p);
}

static step new_step(lgv_device *d, const size *s, lgv_mixed_precision precision)
{
    lgv_error err = {0};
    step t = {0};
    lgv_graph *g = lgv_graph_new();
    if (!g) exit(1);
    build(g, s, &err);
    must(lgv_graph_status(g, &err), &err);
    must(lgv_store_new(d, &t.store, &err), &err);
    must(lgv_store_declare(t.store, g, &err), &err);
    must(lgv_store_add_set(t.store, "weight", &err), &err);
    must(lgv_store_add_set(t.store, "grad", &err), &err);
    const lgv_program program = {"step", g};
    const lgv_plan_options options = {.mixed_precision = precision};
    must(lgv_plan_new(t.store, 1, &program, &options, &t.plan, &err), &err);
    t.flops = product_flops(t.plan);
    for (int i = 0; i < lgv_store_count(t.store); i++) {
        int64_t dim[LGV_MAX_RANK], n = 1;
        int rank, frozen;
        lgv_store_at(t.store, i, &rank, dim, &frozen);
        for (int k = 0; k < rank; k++) n *= dim[k];
        float *w = malloc((size_t)n * sizeof *w);
        if (!w) exit(1);
        for (int64_t k = 0; k < n; k++) w[k] = (float)(k * 40503u % 1000) / 10000.0f - 0.05f;
        must(lgv_store_write(t.store, "weight", i, w, n, &err), &err);
        free(w);
    }
    fill(&t, "x", s->n * s->tokens * WIDTH);
    fill(&t, "dy", s->n * s->tokens * WIDTH);
    fill(&t, "c", s->n * WIDTH);
    lgv_graph_free(g);
    return t;
}

/* One step; in training the weights have changed since the last, so that packed copies are made anew. */
static double run(step *t)
{
    static const float zero[6 * WIDTH];
    lgv_error err = {0};
    must(lgv_store_write(t->store, "weight", lgv_store_find(t->store, "final.bias"), zero, WIDTH,
                         &err),
         &err);
    double start = bench_clock(CLOCK_MONOTONIC);
    must(lgv_plan_run(t->plan, NULL, &err), &err);
    return bench_clock(CLOCK_MONOTONIC) - start;
}

static int by_time(const void *a, const void *b)
{
    double x = ((const lgv_node_info *)a)->seconds, y = ((const lgv_node_info *)b)->seconds;
    return x < y ? 1 : x > y ? -1 : 0;
}

static void print_nodes(step *t)
{
    lgv_plan_profile(t->plan, 1);
    for (int i = 0; i < 5; i++) run(t);
    int n = lgv_plan_nodes(t->plan);
    lgv_node_info *info = calloc((size_t)n, sizeof *info);
    if (!info) exit(1);
    for (int i = 0; i < n; i++) lgv_plan_node_at(t->plan, i, &info[i]);
    qsort(info, (size_t)n, sizeof *info, by_time);
    for (int i = 0; i < n && i < 18; i++)
        printf("  %-28s %-22s %-8s %7.3f ms %6.1f GFLOP/s\n", info[i].name, info[i].op,
               info[i].kernel, 1e3 * info[i].seconds / 5,
               info[i].flops * 5 / info[i].seconds * 1e-9);
    free(info);
}

static void report(lgv_device *d, const size *s, lgv_mixed_precision precision, int rounds)
{
    step t = new_step(d, s, precision);
    double best = 1e9, peak = 0;
    for (int i = 0; i < rounds; i++) {
        double p = fma_peak(lgv_device_name(d)) * lgv_device_threads(d), seconds = run(&t);
        peak = p > peak ? p : peak;
        best = seconds < best ? seconds : best;
    }
    printf("%s: %.2f ms, %.1f GFLOP/s, %.2f of the FMA peak %.1f\n", s->name, best * 1e3,
           t.flops / best * 1e-9, t.flops / best / peak, peak * 1e-9);
    print_nodes(&t);
    lgv_plan_free(t.plan);
    lgv_store_free(t.store);
}

static void interactive(lgv_device *d, const size *s, lgv_mixed_precision precision)
{
    step t = new_step(d, s, precision);
    char line[64];
    run(&t);
    printf("ready %.0f\n", t.flops);
    fflush(stdout);
    while (fgets(line, sizeof line, stdin)) {
        printf("%.9f\n", run(&t));
        fflush(stdout);
    }
    lgv_plan_free(t.plan);
    lgv_store_free(t.store);
}

int main(int argc, char **argv)
{
    lgv_device *d = NULL;
    lgv_error err = {0};
    must(lgv_device_new(argc > 1 ? argv[1] : "cpu", argc > 2 ? atoi(argv[2]) : 1, &d, &err), &err);
    bool answer = argc > 4 && !strcmp(argv[3], "--interactive");
    const char *name = argc > 4 + answer ? argv[4 + answer] : "no";
    lgv_mixed_precision precision;
    must(lgv_mixed_precision_parse(name, &precision, &err), &err);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        if (!answer) report(d, &sizes[i], precision, argc > 3 ? atoi(argv[3]) : 20);
        if (answer && !strcmp(argv[4], sizes[i].name)) interactive(d, &sizes[i], precision);
    }
    lgv_device_free(d);
    return 0;
}
