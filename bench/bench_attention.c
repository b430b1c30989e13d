/* bench_attention.c - attention as a share of the FMA peak, forward and with its gradient.
   bench_attention [DEVICE [THREADS [KERNEL]]]. The peak of all threads' fused
   multiply-adds is measured between the cases. Best of several runs, in process CPU time for one
   thread (other programs may share the machine), elapsed time for more. */
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

static lgv_tensor tensor(lgv_device *d, int64_t n, int64_t l, int64_t c, int64_t width)
{
    lgv_tensor t = {
        .dtype = LGV_F32, .rank = 3, .dim = {n, l, c, 1}, .stride = {l * width, width, 1, 0}};
    size_t size = d->element_size(d, LGV_F32);
    t.data = d->alloc(d, (size_t)(n * l * width) * size);
    if (!t.data) exit(1);
    for (int64_t i = 0; i < n * l * width; i++) {
        float v = (float)(i * 2654435761u % 1000) / 250.0f - 2;
        d->write(d, LGV_F32, (char *)t.data + (size_t)i * size, &v, 1);
    }
    return t;
}

static lgv_tensor slice(const lgv_device *d, lgv_tensor t, int64_t c, int which)
{
    t.data = (char *)t.data + (size_t)(c * which) * d->element_size(d, LGV_F32);
    t.dim[2] = c;
    return t;
}

static const lgv_kernel *find(lgv_device *d, const lgv_call *c, const char *name)
{
    const lgv_kernel *k = NULL;
    for (int i = 0; (k = d->kernel(d, c->op, i)); i++)
        if (!name || !strcmp(k->name, name)) break;
    if (!k) exit(1);
    return k;
}

static double seconds(const lgv_kernel *k, lgv_call *c)
{
    double start = bench_clock(clock_kind);
    k->run(c);
    return bench_clock(clock_kind) - start;
}

/* q, k, v are slices of one projection, as in a network. rate[0]: forward, rate[1]: forward and gradient. */
static void measure(lgv_device *d, const shape *s, const char *name, double *rate)
{
    int64_t channels = s->heads * s->d;
    lgv_tensor qkv = tensor(d, s->n, s->length, 3 * channels, 3 * channels),
               dqkv = tensor(d, s->n, s->length, 3 * channels, 3 * channels),
               y = tensor(d, s->n, s->length, channels, channels),
               dy = tensor(d, s->n, s->length, channels, channels),
               lse = tensor(d, s->n, s->heads, s->length, s->length);
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
    double best[2] = {1e9, 1e9}, total = 0;
    for (int i = 0; i < 40 && (i < 3 || total < 0.15); i++) {
        double t[2] = {seconds(forward, &f), seconds(backward, &g)};
        total += t[0] + t[1];
        for (int j = 0; j < 2; j++) best[j] = t[j] < best[j] ? t[j] : best[j];
    }
    void *all[] = {qkv.data, dqkv.data, y.data, dy.data, lse.data, f.workspace};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) d->free(d, all[i]);
    double product = 2.0 * (double)(s->n * s->length * s->length * channels);
    rate[0] = 2 * product / best[0];
    rate[1] = 7 * product / (best[0] + best[1]);
}

int main(int argc, char **argv)
{
    lgv_device *d = NULL;
    lgv_error err = {0};
    if (lgv_device_new(argc > 1 ? argv[1] : "cpu", argc > 2 ? atoi(argv[2]) : 1, &d, &err)) {
        fprintf(stderr, "bench_attention: %s\n", err.text);
        return 1;
    }
    if (d->threads > 1) clock_kind = CLOCK_MONOTONIC;
    printf("%s, %d threads; GFLOP/s of all threads (share of the FMA peak): forward, "
           "forward and gradient\n",
           lgv_device_name(d), d->threads);
    double most = 0;
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        const shape *s = &shapes[i];
        double rate[2], top = fma_peak(d->name) * d->threads;
        most = top > most ? top : most;
        measure(d, s, argc > 3 ? argv[3] : NULL, rate);
        printf("%2d x %4d tokens, %d heads of %3d: %6.1f (%.2f) %6.1f (%.2f)\n", (int)s->n,
               (int)s->length, (int)s->heads, (int)s->d, rate[0] * 1e-9, rate[0] / most,
               rate[1] * 1e-9, rate[1] / most);
    }
    printf("FMA peak: %.1f GFLOP/s\n", most * 1e-9);
    lgv_device_free(d);
    return 0;
}
