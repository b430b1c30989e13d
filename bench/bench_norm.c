/* bench_norm.c - normalisation, activation, elementwise and optimizer kernels beside the time that reading and
   writing the same bytes takes (the kernels copy: y = x, and add: y = a + b), on one thread and on several.
   bench_norm [DEVICE [THREADS [SHAPE]]]. Wall clock, best of several runs: measure on a quiet machine. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "plan/backend.h"

enum { TENSORS = 24 };

typedef struct shape {
    int64_t n, h, w, c;
    int groups;
} shape;

static const shape shapes[] = {{4, 128, 128, 128, 32}, {16, 32, 32, 256, 32}, {4, 64, 64, 256, 32},
                               {32, 28, 28, 32, 32},   {4, 16, 16, 256, 32},  {4, 4, 4, 512, 32},
                               {16, 1, 256, 384, 1}};

enum { SHAPES = sizeof shapes / sizeof *shapes };

typedef struct bench {
    lgv_device *d[2]; /* one thread, several */
    lgv_call c;
    void *owned[TENSORS];
    int n_owned;
    int64_t elements;
    double base[2]; /* seconds of the last reference */
} bench;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static lgv_tensor tensor_of(bench *b, lgv_dtype dtype, int rank, const int64_t *dim)
{
    lgv_tensor t = {.dtype = dtype, .rank = rank, .dim = {1, 1, 1, 1}};
    int64_t n = 1;
    for (int i = rank - 1; i >= 0; i--) {
        t.dim[i] = dim[i];
        t.stride[i] = n;
        n *= dim[i];
    }
    t.data = b->d[0]->alloc(b->d[0], (size_t)n * b->d[0]->element_size(b->d[0], dtype));
    if (!t.data) exit(1);
    b->owned[b->n_owned++] = t.data;
    float *v = malloc((size_t)n * sizeof *v);
    if (!v) exit(1);
    for (int64_t i = 0; i < n; i++) v[i] = (float)(i * 2654435761u % 1000) / 500.0f - 1.0f;
    b->d[0]->write(b->d[0], dtype, t.data, v, n);
    free(v);
    return t;
}

static lgv_tensor tensor(bench *b, int rank, const int64_t *dim)
{
    return tensor_of(b, LGV_F32, rank, dim);
}

static double time_call(bench *b, lgv_device *d)
{
    const lgv_kernel *k = d->kernel(d, b->c.op, 0);
    b->c.threads = d->threads;
    b->c.pool = d->pool;
    b->c.workspace = k->workspace ? d->alloc(d, k->workspace(&b->c)) : NULL;
    double best = 1e9, total = 0;
    for (int i = 0; i < 2000 && (i < 7 || total < 0.06); i++) {
        const double start = now();
        k->run(&b->c);
        const double t = now() - start;
        total += t;
        best = t < best ? t : best;
    }
    d->free(d, b->c.workspace);
    b->c.workspace = NULL;
    return best;
}

/* Runs the call on one and on several threads; bytes: what must be read and written once, per element. */
static void measure(bench *b, const char *what, double bytes, bool reference)
{
    printf("  %-14s", what);
    double t[2];
    for (int i = 0; i < 2; i++) {
        t[i] = time_call(b, b->d[i]);
        if (reference) b->base[i] = t[i];
        printf(" | %8.3f ms %6.2f ns/el %6.1f GB/s", t[i] * 1e3, t[i] * 1e9 / (double)b->elements,
               bytes * (double)b->elements / t[i] * 1e-9);
        if (!reference) printf(" %5.2f x", t[i] / b->base[i]);
        if (reference) printf("        ");
    }
    printf(" | %4.2f\n", t[0] / t[1]);
}

static void release(bench *b)
{
    for (int i = 0; i < b->n_owned; i++) b->d[0]->free(b->d[0], b->owned[i]);
    b->n_owned = 0;
}

static lgv_call call(lgv_opcode op, const void *attr)
{
    return (lgv_call){.op = op, .attr = attr};
}

static void bench_norm(bench *b, const shape *s, lgv_dtype dtype)
{
    const int64_t dim[4] = {s->n, s->h, s->w, s->c}, stats[2] = {s->n, s->groups};
    static const lgv_attr_affine affine = {1, 0};
    static const lgv_attr_act act = {LGV_ACT_SILU};
    const lgv_attr_norm norm = {s->groups, 1e-5, LGV_ACT_SILU};
    lgv_tensor x = tensor_of(b, dtype, 4, dim), dy = tensor_of(b, dtype, 4, dim),
               y = tensor_of(b, dtype, 4, dim), gamma = tensor(b, 1, &s->c),
               beta = tensor(b, 1, &s->c), row = tensor(b, 2, (int64_t[]){s->n, s->c}),
               mean = tensor(b, 2, stats), rstd = tensor(b, 2, stats), dgamma = tensor(b, 1, &s->c),
               dbeta = tensor(b, 1, &s->c);
    const double size = (double)b->d[0]->element_size(b->d[0], dtype);
    b->elements = s->n * s->h * s->w * s->c;
    printf("%lldx%lldx%lldx%lld, %s, %.1f MB\n", (long long)s->n, (long long)s->h, (long long)s->w,
           (long long)s->c, lgv_dtype_name(dtype), size * (double)b->elements * 1e-6);

    b->c = call(LGV_OP_affine, &affine);
    b->c.n_in = b->c.n_out = 1;
    b->c.in[0] = x;
    b->c.out[0] = y;
    measure(b, "copy", 2 * size, true);
    b->c.op = LGV_OP_act;
    b->c.attr = &act;
    measure(b, "silu", 2 * size, false);
    b->c.op = LGV_OP_add_row;
    b->c.n_in = 2;
    b->c.in[1] = row;
    measure(b, "add_row", 2 * size, false);
    b->c = call(LGV_OP_sum_rows, NULL);
    b->c.n_in = b->c.n_out = 1;
    b->c.in[0] = x;
    b->c.out[0] = dgamma;
    measure(b, "sum_rows", size, false);
    b->c = (lgv_call){.op = LGV_OP_group_norm,
                      .attr = &norm,
                      .n_in = 3,
                      .n_out = 3,
                      .in = {x, gamma, beta},
                      .out = {y, mean, rstd}};
    measure(b, "norm", 2 * size, false);
    b->c.op = LGV_OP_norm_modulate_act;
    measure(b, "norm+silu", 2 * size, false);

    b->c = (lgv_call){.op = LGV_OP_add, .n_in = 2, .n_out = 1, .in = {x, dy}, .out = {y}};
    measure(b, "add", 3 * size, true);
    b->c.op = LGV_OP_act_grad;
    b->c.attr = &act;
    measure(b, "silu'", 3 * size, false);
    b->c = (lgv_call){.op = LGV_OP_group_norm_grad,
                      .attr = &norm,
                      .n_in = 5,
                      .n_out = 3,
                      .in = {dy, x, gamma, mean, rstd},
                      .out = {y, dgamma, dbeta}};
    measure(b, "norm'", 3 * size, false);
    b->c = (lgv_call){.op = LGV_OP_norm_modulate_act_grad,
                      .attr = &norm,
                      .n_in = 6,
                      .n_out = 3,
                      .in = {dy, x, gamma, beta, mean, rstd},
                      .out = {y, dgamma, dbeta}};
    measure(b, "norm+silu'", 3 * size, false);
    release(b);
}

static void bench_adamw(bench *b)
{
    const int64_t count = 36 << 20;
    lgv_tensor t[5];
    lgv_device *d = b->d[0];
    b->elements = count;
    for (int i = 0; i < 5; i++) t[i] = tensor(b, 1, &count);
    /* second moments are not negative */
    memset(t[3].data, 0, (size_t)count * d->element_size(d, LGV_F32));
    lgv_tensor out = tensor(b, 1, (int64_t[]){2});
    lgv_step step = {.scalar = {1e-4, 0.95, 0.999, 1e-8, 1e-6, 0.5, 0.5, 1.0, 0.999}};
    printf("%lld parameters\n", (long long)count);
    b->c = (lgv_call){.op = LGV_OP_add, .n_in = 2, .n_out = 1, .in = {t[0], t[1]}, .out = {t[2]}};
    measure(b, "add", 12, true);
    b->c =
        (lgv_call){.op = LGV_OP_adamw,
                   .n_out = 1,
                   .out = {out},
                   .step = &step,
                   .range = {t[0].data, t[1].data, t[2].data, t[3].data, t[4].data, count, NULL}};
    measure(b, "adamw", 44, false);
    release(b);
}

int main(int argc, char **argv)
{
    bench b = {0};
    lgv_error err = {0};
    const char *device = argc > 1 ? argv[1] : "cpu";
    const int only = argc > 3 ? atoi(argv[3]) : -1; /* SHAPES: the optimizer; -1: everything */
    const int threads[2] = {1, argc > 2 ? atoi(argv[2]) : 2};
    for (int i = 0; i < 2; i++) {
        if (lgv_device_new(device, threads[i], &b.d[i], &err)) {
            fprintf(stderr, "%s\n", err.text);
            return 1;
        }
    }
    printf("%s; 1 | %d threads; x: times the copy (forward), the add (backward)\n", device,
           threads[1]);
    for (int i = 0; i < SHAPES; i++)
        if (only < 0 || only == i) bench_norm(&b, &shapes[i], LGV_F32);
    if (only < 0 || only == SHAPES) bench_adamw(&b);
    for (int i = 0; i < 2; i++) lgv_device_free(b.d[i]);
    return 0;
}
