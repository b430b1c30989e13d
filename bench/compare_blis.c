/* compare_blis.c - linear layers beside BLIS: forward, gradient for data, gradient for weights, in turns in one process.
   compare_blis [DEVICE [THREADS]], with BLIS_NUM_THREADS=THREADS. Shares of the FMA peak of all threads; ours includes packing the
   weights in each call (in training they are packed once a step), as BLIS does.
   Built by `make -C build compare_blis` where libblis is installed. */
#include <stdio.h>
#include <stdlib.h>

#include "fma_peak.h"
#include "plan/backend.h"

/* The interface of C BLAS, row major; its header has no standard place. */
void cblas_sgemm(int order, int ta, int tb, int m, int n, int k, float alpha, const float *a,
                 int lda, const float *b, int ldb, float beta, float *c, int ldc);
enum { ROW_MAJOR = 101, PLAIN = 111, TRANSPOSED = 112 };

typedef struct shape {
    int64_t m, c, k;
} shape;

static const shape shapes[] = {{4096, 384, 1536},  {4096, 1536, 384},  {1024, 384, 384},
                               {1024, 384, 1152},  {1024, 1152, 1152}, {1024, 512, 512},
                               {1024, 1024, 1024}, {4096, 128, 128}};

static lgv_tensor matrix(lgv_device *d, int64_t rows, int64_t columns)
{
    lgv_tensor t = {
        .dtype = LGV_F32, .rank = 2, .dim = {rows, columns, 1, 1}, .stride = {columns, 1}};
    float *p = t.data = d->alloc(d, (size_t)(rows * columns) * sizeof(float));
    if (!p) exit(1);
    for (int64_t i = 0; i < rows * columns; i++)
        p[i] = (float)(i * 2654435761u % 1000) / 1000.0f - 0.5f;
    return t;
}

typedef struct job {
    lgv_tensor x, w, y;
    int pass;
    lgv_call call;
    const lgv_kernel *kernel;
    void *packed;
} job;

static const char *const names[] = {"y = x w", "dx", "dw"};

static job new_job(lgv_device *d, const shape *s, int pass)
{
    static const lgv_opcode op[] = {LGV_OP_linear, LGV_OP_linear_grad_x, LGV_OP_linear_grad_w};
    static lgv_attr_linear attr;
    job j = {matrix(d, s->m, s->c), matrix(d, s->k, s->c), matrix(d, s->m, s->k), .pass = pass};
    lgv_call c = {.op = op[pass],
                  .attr = &attr,
                  .n_in = 2,
                  .n_out = 1,
                  .threads = d->threads,
                  .pool = d->pool};
    c.in[0] = pass == 1 ? j.y : j.x;
    c.in[1] = pass == 2 ? j.y : j.w;
    c.out[0] = pass == 0 ? j.y : pass == 1 ? j.x : j.w;
    for (int i = 0; (j.kernel = d->kernel(d, c.op, i)); i++)
        if (!j.kernel->accepts || j.kernel->accepts(&c)) break;
    if (!j.kernel) exit(1);
    if (j.kernel->pack) j.packed = d->alloc(d, j.kernel->pack(&c).bytes);
    c.packed = j.packed;
    c.workspace = j.kernel->workspace ? d->alloc(d, j.kernel->workspace(&c)) : NULL;
    j.call = c;
    return j;
}

static void run_ours(const job *j)
{
    if (j->packed) j->kernel->run_pack(&j->call, j->packed);
    j->kernel->run(&j->call);
}

static void run_blis(const job *j)
{
    int m = (int)j->x.dim[0], c = (int)j->x.dim[1], k = (int)j->y.dim[1];
    if (j->pass == 0)
        cblas_sgemm(ROW_MAJOR, PLAIN, TRANSPOSED, m, k, c, 1, j->x.data, c, j->w.data, c, 0,
                    j->y.data, k);
    else if (j->pass == 1)
        cblas_sgemm(ROW_MAJOR, PLAIN, PLAIN, m, c, k, 1, j->y.data, k, j->w.data, c, 0, j->x.data,
                    c);
    else
        cblas_sgemm(ROW_MAJOR, TRANSPOSED, PLAIN, k, c, m, 1, j->y.data, k, j->x.data, c, 0,
                    j->w.data, c);
}

static double timed(void (*run)(const job *), const job *j, int threads)
{
    clockid_t kind = threads > 1 ? CLOCK_MONOTONIC : CLOCK_PROCESS_CPUTIME_ID;
    double start = bench_clock(kind);
    run(j);
    return bench_clock(kind) - start;
}

static void compare(lgv_device *d, const shape *s)
{
    printf("%4d x %4d -> %4d:", (int)s->m, (int)s->c, (int)s->k);
    for (int pass = 0; pass < 3; pass++) {
        job j = new_job(d, s, pass);
        double ours = 1e9, blis = 1e9, peak = 0, total = 0;
        for (int i = 0; i < 60 && (i < 4 || total < 0.25); i++) {
            double a = timed(run_ours, &j, d->threads), b = timed(run_blis, &j, d->threads);
            if (i % 4 == 0) {
                double p = fma_peak(d->name) * d->threads;
                peak = p > peak ? p : peak;
            }
            total += a + b;
            ours = a < ours ? a : ours;
            blis = b < blis ? b : blis;
        }
        double flops = 2.0 * (double)(s->m * s->c * s->k);
        printf("  %s %.2f, BLIS %.2f (%.2fx)", names[pass], flops / ours / peak,
               flops / blis / peak, blis / ours);
        void *all[] = {j.x.data, j.w.data, j.y.data, j.packed, j.call.workspace};
        for (size_t i = 0; i < sizeof all / sizeof *all; i++) d->free(d, all[i]);
    }
    printf("\n");
    fflush(stdout);
}

int main(int argc, char **argv)
{
    lgv_device *d = NULL;
    lgv_error err = {0};
    if (lgv_device_new(argc > 1 ? argv[1] : "cpu", argc > 2 ? atoi(argv[2]) : 1, &d, &err)) {
        fprintf(stderr, "compare_blis: %s\n", err.text);
        return 1;
    }
    printf("%s, %d threads, FMA peak of one %.1f GFLOP/s; shares of the peak\n", lgv_device_name(d),
           d->threads, fma_peak(d->name) * 1e-9);
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) compare(d, &shapes[i]);
    lgv_device_free(d);
    return 0;
}
