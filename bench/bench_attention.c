/* bench_attention.c - attention as a share of the FMA peak, forward and with its gradient.
   bench_attention [DEVICE [THREADS [KERNEL|any [f32|bf16]]]]. The peak of all threads' fused
   multiply-adds is measured between the cases. Best of several runs, in process CPU time for one
   thread (other programs may share the machine), elapsed time for more. "any" is the kernel that a plan
   would take. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fma_peak.h"
#include "plan/backend.h"

typedef struct shape {
    int64_t n, length, heads, d;
} shape;

static const shape shapes[] = {
    {16, 64, 8, 8},   {16, 64, 6, 64},  {8, 256, 8, 8},   {4, 256, 8, 32}, {4, 256, 8, 40},
    {4, 256, 6, 64},  {4, 256, 8, 80},  {4, 256, 1, 256}, {1, 1024, 8, 8}, {1, 1024, 8, 32},
    {1, 1024, 8, 40}, {1, 1024, 8, 64}, {1, 1024, 8, 80}, {1, 4096, 2, 8}, {1, 4096, 1, 40},
    {1, 4096, 1, 64}, {1, 4096, 1, 80},
};

static clockid_t clock_kind = CLOCK_PROCESS_CPUTIME_ID;

static lgv_tensor tensor(lgv_device *d, lgv_dtype dtype, int64_t n, int64_t l, int64_t c,
                         int64_t width)
{
    lgv_tensor t = {
        .dtype = dtype, .rank = 3, .dim = {n, l, c, 1}, .stride = {l * width, width, 1, 0}};
    size_t size = d->element_size(d, dtype);
    t.data = d->alloc(d, (size_t)(n * l * width) * size);
    if (!t.data) exit(1);
    for (int64_t i = 0; i < n * l * width; i++) {
        float v = (float)(i * 2654435761u % 1000) / 250.0f - 2;
        d->write(d, dtype, (char *)t.data + (size_t)i * size, &v, 1);
    }
    return t;
}

static lgv_tensor slice(const lgv_device *d, lgv_tensor t, int64_t c, int which)
{
    t.data = (char *)t.data + (size_t)(c * which) * d->element_size(d, t.dtype);
    t.dim[2] = c;
    return t;
}

static const lgv_kernel *find(lgv_device *d, const lgv_call *c, const char *name)
{
    const lgv_kernel *k = NULL;
    for (int i = 0; (k = d->kernel(d, c->op, i)); i++)
        if ((!name || !strcmp(k->name, name)) && (!k->accepts || k->accepts(c))) break;
    if (!k) exit(1);
    return k;
}

static double seconds(const lgv_kernel *k, lgv_call *c)
{
    double start = bench_clock(clock_kind);
    k->run(c);
    return bench_clock(clock_kind) - start;
}

/* q, k, v are slices of one projection, as in a network. best: seconds of the forward pass and of the gradient. */
static void measure(lgv_device *d, const shape *s, const char *name, lgv_dtype dtype, double *best)
{
    int64_t channels = s->heads * s->d;
    lgv_tensor qkv = tensor(d, dtype, s->n, s->length, 3 * channels, 3 * channels),
               dqkv = tensor(d, dtype, s->n, s->length, 3 * channels, 3 * channels),
               y = tensor(d, dtype, s->n, s->length, channels, channels),
               dy = tensor(d, dtype, s->n, s->length, channels, channels),
               lse = tensor(d, LGV_F32, s->n, s->heads, s->length, s->length);
    lgv_attr_attention a = {.heads = (int)s->heads, .scale = 1 / sqrt((double)s->d)};
    lgv_call f = {.op = LGV_OP_attention,
                  .attr = &a,
                  .n_in = 3,
                  .n_out = 2,
                  .threads = d->threads,
                  .pool = d->pool};
    lgv_call g = f;
    g.op = LGV_OP_attention_grad;
    g.n_in = 6;
    g.n_out = 3;
    for (int i = 0; i < 3; i++) {
        f.in[i] = g.in[i] = slice(d, qkv, channels, i);
        g.out[i] = slice(d, dqkv, channels, i);
    }
    f.out[0] = g.in[3] = y;
    f.out[1] = g.in[4] = lse;
    g.in[5] = dy;
    const lgv_kernel *forward = find(d, &f, name), *backward = find(d, &g, name);
    size_t one = forward->workspace ? forward->workspace(&f) : 0,
           two = backward->workspace ? backward->workspace(&g) : 0;
    f.workspace = g.workspace = d->alloc(d, one > two ? one : two);
    double total = 0;
    best[0] = best[1] = 1e9;
    for (int i = 0; i < 40 && (i < 3 || total < 0.15); i++) {
        double t[2] = {seconds(forward, &f), seconds(backward, &g)};
        total += t[0] + t[1];
        for (int j = 0; j < 2; j++) best[j] = t[j] < best[j] ? t[j] : best[j];
    }
    void *all[] = {qkv.data, dqkv.data, y.data, dy.data, lse.data, f.workspace};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) d->free(d, all[i]);
}

int main(int argc, char **argv)
{
    lgv_device *d = NULL;
    lgv_error err = {0};
    if (lgv_device_new(argc > 1 ? argv[1] : "cpu", argc > 2 ? atoi(argv[2]) : 1, &d, &err)) {
        fprintf(stderr, "bench_attention: %s\n", err.text);
        return 1;
    }
    const char *name = argc > 3 && strcmp(argv[3], "any") ? argv[3] : NULL;
    const lgv_dtype dtype = argc > 4 && !strcmp(argv[4], "bf16") ? LGV_BF16 : LGV_F32;
    if (d->threads > 1) clock_kind = CLOCK_MONOTONIC;
    printf("%s, %d threads; GFLOP/s of all threads (share of the FMA peak): forward, "
           "forward and gradient; and times of the forward pass and the gradient\n",
           lgv_device_name(d), d->threads);
    double most = 0;
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        const shape *s = &shapes[i];
        double best[2], top = fma_peak(d->name) * d->threads;
        most = top > most ? top : most;
        measure(d, s, name, dtype, best);
        const double product = 2e-9 * (double)(s->n * s->length * s->length * s->heads * s->d);
        const double rate[2] = {2 * product / best[0], 7 * product / (best[0] + best[1])};
        printf("%2d x %4d tokens, %d heads of %3d: %6.1f (%.2f) %6.1f (%.2f), %.3f and %.3f ms\n",
               (int)s->n, (int)s->length, (int)s->heads, (int)s->d, rate[0], rate[0] * 1e9 / most,
               rate[1], rate[1] * 1e9 / most, best[0] * 1e3, best[1] * 1e3);
    }
    printf("FMA peak: %.1f GFLOP/s\n", most * 1e-9);
    lgv_device_free(d);
    return 0;
}
