/* bench_norm.c - GB/s of the normalisation, activation, elementwise and optimizer kernels beside a plain copy.
   bench_norm [DEVICE [THREADS]]. Bytes are those that must be read and written once. Process CPU time of the
   best of several runs decides, because other programs may share the machine; rates are per thread. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "plan/backend.h"

enum { TENSORS = 16 };

typedef struct shape {
    int64_t n, hw, c;
    int groups;
} shape;

static const shape shapes[] = {{32, 28, 32, 32},  {32, 32, 64, 32}, {32, 32, 128, 32},
                               {32, 16, 256, 32}, {4, 64, 128, 32}, {1, 128, 128, 32},
                               {32, 8, 512, 32},  {32, 32, 96, 32}};

typedef struct bench {
    lgv_device *d;
    lgv_call c;
    void *owned[TENSORS];
    int n_owned;
    int64_t elements;
} bench;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static lgv_tensor tensor(bench *b, int rank, const int64_t *dim)
{
    lgv_tensor t = {.dtype = LGV_F32, .rank = rank, .dim = {1, 1, 1, 1}};
    int64_t n = 1;
    for (int i = rank - 1; i >= 0; i--) {
        t.dim[i] = dim[i];
        t.stride[i] = n;
        n *= dim[i];
    }
    const size_t size = b->d->element_size(b->d, LGV_F32);
    t.data = b->d->alloc(b->d, (size_t)n * size);
    if (!t.data) exit(1);
    b->owned[b->n_owned++] = t.data;
    float *v = malloc((size_t)n * sizeof *v);
    if (!v) exit(1);
    for (int64_t i = 0; i < n; i++) v[i] = (float)(i * 2654435761u % 1000) / 500.0f - 1.0f;
    b->d->write(b->d, LGV_F32, t.data, v, n);
    free(v);
    return t;
}

/* Runs the op until its time is known and prints it; memory counts the tensors that must move. */
static void measure(bench *b, const char *what, double memory)
{
    const lgv_kernel *k = b->d->kernel(b->d, b->c.op, 0);
    b->c.threads = b->d->threads;
    b->c.pool = b->d->pool;
    b->c.workspace = k->workspace ? b->d->alloc(b->d, k->workspace(&b->c)) : NULL;
    double best = 1e9, total = 0;
    for (int i = 0; i < 200 && (i < 5 || total < 0.15); i++) {
        const double start = now();
        k->run(&b->c);
        const double t = now() - start;
        total += t;
        best = t < best ? t : best;
    }
    const double bytes = memory * (double)b->elements * 4;
    printf(" %s %5.1f GB/s %5.2f ns/el |", what, bytes / best * 1e-9,
           best * 1e9 / (double)b->elements);
    b->d->free(b->d, b->c.workspace);
    b->c.workspace = NULL;
}

static void release(bench *b)
{
    for (int i = 0; i < b->n_owned; i++) b->d->free(b->d, b->owned[i]);
    b->n_owned = 0;
}

static void bench_shape(lgv_device *d, const shape *s)
{
    bench b = {.d = d, .elements = s->n * s->hw * s->hw * s->c};
    const int64_t dim[4] = {s->n, s->hw, s->hw, s->c}, stats[2] = {s->n, s->groups};
    const lgv_attr_norm norm = {s->groups, 1e-5, LGV_ACT_SILU};
    const lgv_attr_act act = {LGV_ACT_SILU};
    lgv_tensor x = tensor(&b, 4, dim), dy = tensor(&b, 4, dim), y = tensor(&b, 4, dim);
    lgv_tensor gamma = tensor(&b, 1, &s->c), beta = tensor(&b, 1, &s->c),
               row = tensor(&b, 2, (int64_t[]){s->n, s->c});
    lgv_tensor mean = tensor(&b, 2, stats), rstd = tensor(&b, 2, stats),
               dgamma = tensor(&b, 1, &s->c), dbeta = tensor(&b, 1, &s->c);
    printf("%3lldx%lldx%lldx%lld:", (long long)s->n, (long long)s->hw, (long long)s->hw,
           (long long)s->c);
    b.c = (lgv_call){.op = LGV_OP_affine,
                     .attr = &(lgv_attr_affine){1, 0},
                     .n_in = 1,
                     .n_out = 1,
                     .in = {x},
                     .out = {y}};
    measure(&b, "copy", 2);
    b.c = (lgv_call){.op = LGV_OP_add, .n_in = 2, .n_out = 1, .in = {x, dy}, .out = {y}};
    measure(&b, "add", 3);
    b.c = (lgv_call){.op = LGV_OP_add_row, .n_in = 2, .n_out = 1, .in = {x, row}, .out = {y}};
    measure(&b, "add_row", 2);
    b.c = (lgv_call){.op = LGV_OP_sum_rows, .n_in = 1, .n_out = 1, .in = {x}, .out = {dgamma}};
    measure(&b, "sum_rows", 1);
    b.c = (lgv_call){.op = LGV_OP_act, .attr = &act, .n_in = 1, .n_out = 1, .in = {x}, .out = {y}};
    measure(&b, "silu", 2);
    b.c = (lgv_call){
        .op = LGV_OP_act_grad, .attr = &act, .n_in = 2, .n_out = 1, .in = {dy, x}, .out = {y}};
    measure(&b, "silu'", 3);
    b.c = (lgv_call){.op = LGV_OP_group_norm,
                     .attr = &norm,
                     .n_in = 3,
                     .n_out = 3,
                     .in = {x, gamma, beta},
                     .out = {y, mean, rstd}};
    measure(&b, "norm", 2);
    b.c.op = LGV_OP_norm_modulate_act;
    measure(&b, "norm+silu", 2);
    b.c = (lgv_call){.op = LGV_OP_group_norm_grad,
                     .attr = &norm,
                     .n_in = 5,
                     .n_out = 3,
                     .in = {dy, x, gamma, mean, rstd},
                     .out = {y, dgamma, dbeta}};
    measure(&b, "norm'", 3);
    b.c = (lgv_call){.op = LGV_OP_norm_modulate_act_grad,
                     .attr = &norm,
                     .n_in = 6,
                     .n_out = 3,
                     .in = {dy, x, gamma, beta, mean, rstd},
                     .out = {y, dgamma, dbeta}};
    measure(&b, "norm+silu'", 3);
    printf("\n");
    release(&b);
}

static void bench_adamw(lgv_device *d)
{
    bench b = {.d = d, .elements = 4 << 20};
    const int64_t count = b.elements;
    lgv_tensor t[5];
    for (int i = 0; i < 5; i++) t[i] = tensor(&b, 1, &count);
    memset(t[3].data, 0,
           (size_t)count * d->element_size(d, LGV_F32)); /* second moments are not negative */
    lgv_tensor out = tensor(&b, 1, (int64_t[]){2});
    lgv_step step = {.scalar = {1e-4, 0.95, 0.999, 1e-8, 1e-6, 0.5, 0.5, 1.0, 0.999}};
    b.c = (lgv_call){.op = LGV_OP_adamw,
                     .n_out = 1,
                     .out = {out},
                     .step = &step,
                     .range = {t[0].data, t[1].data, t[2].data, t[3].data, t[4].data, count, NULL}};
    printf("%lld parameters:", (long long)count);
    measure(&b, "adamw", 11);
    printf("\n");
    release(&b);
}

int main(int argc, char **argv)
{
    lgv_device *d = NULL;
    lgv_error err = {0};
    if (lgv_device_new(argc > 1 ? argv[1] : "cpu", argc > 2 ? atoi(argv[2]) : 1, &d, &err)) {
        fprintf(stderr, "%s\n", err.text);
        return 1;
    }
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) bench_shape(d, &shapes[i]);
    bench_adamw(d);
    lgv_device_free(d);
    return 0;
}
