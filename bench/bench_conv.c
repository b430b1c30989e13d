/* bench_conv.c - GFLOP/s of the convolution and linear kernels on typical shapes.
   bench_conv [DEVICE [THREADS [KERNEL|any [f32|bf16 [COUNT]]]]]. bf16: values in bf16, weights and their gradients
   in f32; COUNT: only the first shapes (6: those of the bars). The best of several runs, by the clock, since the
   time that the threads wait for each other counts; rates are per thread. "any" is the kernel that a plan
   would take. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "plan/backend.h"

typedef struct shape {
    int64_t n, hw, c, k;
    int window, stride;
} shape;

static const shape shapes[] = {
    {4, 128, 128, 128, 3, 1}, {16, 32, 256, 256, 3, 1}, {4, 64, 128, 128, 3, 1},
    {16, 16, 256, 256, 3, 1}, {4, 32, 256, 256, 3, 1},  {4, 16, 512, 512, 3, 1},
    {4, 32, 128, 128, 3, 1},  {4, 16, 256, 256, 3, 1},  {32, 32, 64, 64, 3, 1},
    {4, 8, 512, 512, 3, 1},   {4, 4, 256, 256, 3, 1},   {4, 32, 3, 128, 3, 1},
    {4, 32, 128, 3, 3, 1},    {4, 32, 128, 128, 3, 2},  {4, 16, 512, 256, 1, 1},
    {64, 8, 384, 1536, 1, 1}, {32, 28, 1, 32, 3, 1},    {32, 28, 32, 32, 3, 1},
    {32, 14, 64, 64, 3, 1},   {32, 1, 128, 512, 1, 1},
};

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static lgv_tensor tensor(lgv_device *d, lgv_dtype dtype, const int64_t *dim)
{
    lgv_tensor t = {.dtype = dtype, .rank = 4};
    int64_t n = 1;
    for (int i = 3; i >= 0; i--) {
        t.dim[i] = dim[i];
        t.stride[i] = n;
        n *= dim[i];
    }
    size_t size = d->element_size(d, dtype);
    t.data = d->alloc(d, (size_t)n * size);
    if (!t.data) exit(1);
    for (int64_t i = 0; i < n; i++) {
        float v = (float)(i * 2654435761u % 1000) / 1000.0f - 0.5f;
        d->write(d, dtype, (char *)t.data + (size_t)i * size, &v, 1);
    }
    return t;
}

static double rate(lgv_device *d, const shape *s, int pass, const char *name, lgv_dtype dtype)
{
    static const lgv_opcode ops[] = {LGV_OP_conv2d, LGV_OP_conv2d_grad_x, LGV_OP_conv2d_grad_w};
    int64_t out = (s->hw + 2 * (s->window / 2) - s->window) / s->stride + 1;
    lgv_tensor x = tensor(d, dtype, (int64_t[]){s->n, s->hw, s->hw, s->c}),
               y = tensor(d, dtype, (int64_t[]){s->n, out, out, s->k});
    lgv_tensor w = tensor(d, LGV_F32, (int64_t[]){s->k, s->c, s->window, s->window});
    int p = s->window / 2;
    lgv_attr_conv attr = {.stride = s->stride, .pad = {p, p, p, p}};
    lgv_call c = {.op = ops[pass],
                  .attr = &attr,
                  .n_in = 2,
                  .n_out = 1,
                  .threads = d->threads,
                  .pool = d->pool};
    c.in[0] = pass == 1 ? y : x;
    c.in[1] = pass == 2 ? y : w;
    c.out[0] = pass == 0 ? y : pass == 1 ? x : w;
    const lgv_kernel *k = NULL;
    for (int i = 0; (k = d->kernel(d, c.op, i)); i++)
        if ((!name || !strcmp(k->name, name)) && (!k->accepts || k->accepts(&c))) break;
    if (!k) return 0;
    void *packed = k->pack ? d->alloc(d, k->pack(&c).bytes) : NULL;
    c.workspace = k->workspace ? d->alloc(d, k->workspace(&c)) : NULL;
    if (packed) k->run_pack(&c, packed);
    c.packed = packed;
    double best = 1e9, total = 0;
    for (int i = 0; i < 40 && (i < 5 || total < 0.3); i++) {
        double start = now();
        k->run(&c);
        double t = now() - start;
        total += t;
        best = t < best ? t : best;
    }
    void *all[] = {x.data, y.data, w.data, packed, c.workspace};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) d->free(d, all[i]);
    double flops = 2.0 * (double)(s->n * out * out) * (double)(s->c * s->k) * s->window * s->window;
    return flops / best * 1e-9 / d->threads;
}

int main(int argc, char **argv)
{
    lgv_device *d = NULL;
    lgv_error err = {0};
    if (lgv_device_new(argc > 1 ? argv[1] : "cpu", argc > 2 ? atoi(argv[2]) : 1, &d, &err)) {
        fprintf(stderr, "bench_conv: %s\n", err.text);
        return 1;
    }
    const char *kernel = argc > 3 && strcmp(argv[3], "any") ? argv[3] : NULL;
    lgv_dtype dtype = argc > 4 && !strcmp(argv[4], "bf16") ? LGV_BF16 : LGV_F32;
    printf("%s, %d threads; GFLOP/s per thread: forward, gradient for x, for w, all\n",
           lgv_device_name(d), d->threads);
    size_t all = sizeof shapes / sizeof *shapes, count = argc > 5 ? (size_t)atoi(argv[5]) : all;
    for (size_t i = 0; i < count && i < all; i++) {
        const shape *s = &shapes[i];
        printf("%3d x %4d -> %4d @ %3d, %dx%d/%d:", (int)s->n, (int)s->c, (int)s->k, (int)s->hw,
               s->window, s->window, s->stride);
        double seconds = 0; /* per GFLOP of a pass */
        for (int pass = 0; pass < 3; pass++) {
            double r = rate(d, s, pass, kernel, dtype);
            printf(" %7.1f", r);
            seconds += r > 0 ? 1 / r : 0;
        }
        printf(" %7.1f\n", seconds > 0 ? 3 / seconds : 0.0);
    }
    lgv_device_free(d);
    return 0;
}
