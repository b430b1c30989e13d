/* compare_onednn.c - our 3x3 convolutions against oneDNN's, pass by pass, in one run.
   compare_onednn [DEVICE [THREADS [ROUNDS [COUNT]]]]. oneDNN may choose every layout of every pass, and reorders into
   it are not timed; ours is NHWC throughout, weights packed beforehand where a kernel packs (Winograd's transform
   of the weights is part of its run, and timed). A round runs each contender once; printed are GFLOP/s of all
   threads from the medians, and the ratio of the times with the smallest and largest of the rounds. COUNT: only the
   first shapes (6: those of the bars). Written for oneDNN 2 (Debian's libdnnl-dev), whose threads are OpenMP's. */
#include <dnnl.h>
#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "plan/backend.h"

typedef struct shape {
    int64_t n, hw, c, k;
} shape;

/* The six of the reference, then others of common networks. */
static const shape shapes[] = {
    {4, 128, 128, 128}, {16, 32, 256, 256}, {4, 64, 128, 128}, {16, 16, 256, 256},
    {4, 32, 256, 256},  {4, 16, 512, 512},  {4, 32, 128, 128}, {16, 8, 512, 512},
    {4, 8, 256, 256},   {4, 4, 256, 256},   {32, 32, 64, 64},
};
enum { SHAPES = sizeof shapes / sizeof *shapes, PASSES = 3, MAX_ROUNDS = 101 };
static const char *const pass_name[PASSES] = {"forward", "gradient for x", "gradient for w"};

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Threads of the one that just ran may spin for a while; the next starts on a quiet machine. */
static void rest(void)
{
    nanosleep(&(struct timespec){0, 8000000}, NULL);
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static double median(const double *x, int n)
{
    double sorted[MAX_ROUNDS];
    memcpy(sorted, x, (size_t)n * sizeof *x);
    qsort(sorted, (size_t)n, sizeof *sorted, by_value);
    return sorted[n / 2];
}

static void fail(const char *what)
{
    fprintf(stderr, "compare_onednn: %s\n", what);
    exit(1);
}

/* --- oneDNN ------------------------------------------------------------------------------------------ */
typedef struct onednn {
    dnnl_engine_t engine;
    dnnl_stream_t stream;
    dnnl_primitive_t primitive;
    dnnl_memory_t memory[4];
    dnnl_exec_arg_t arg[4];
    int args;
} onednn;

static void must(dnnl_status_t status, const char *what)
{
    if (status != dnnl_success) fail(what);
}

static void add_memory(onednn *o, const_dnnl_primitive_desc_t pd, dnnl_query_t query, int arg)
{
    const dnnl_memory_desc_t *md = dnnl_primitive_desc_query_md(pd, query, 0);
    size_t bytes = dnnl_memory_desc_get_size(md);
    dnnl_memory_t *m = &o->memory[o->args];
    void *data;
    must(dnnl_memory_create(m, md, o->engine, DNNL_MEMORY_ALLOCATE), "out of memory");
    must(dnnl_memory_get_data_handle(*m, &data), "no handle of a memory");
    for (size_t i = 0; i < bytes / sizeof(float); i++)
        ((float *)data)[i] = (float)(i * 2654435761u % 1000) / 1000.0f - 0.5f;
    o->arg[o->args++] = (dnnl_exec_arg_t){arg, *m};
}

static dnnl_memory_desc_t any_layout(int64_t a, int64_t b, int64_t c, int64_t d)
{
    dnnl_memory_desc_t md;
    must(dnnl_memory_desc_init_by_tag(&md, 4, (dnnl_dims_t){a, b, c, d}, dnnl_f32,
                                      dnnl_format_tag_any),
         "a memory description was refused");
    return md;
}

static void onednn_open(onednn *o, const shape *s, int pass)
{
    dnnl_memory_desc_t x = any_layout(s->n, s->c, s->hw, s->hw), w = any_layout(s->k, s->c, 3, 3),
                       y = any_layout(s->n, s->k, s->hw, s->hw);
    const dnnl_dims_t one = {1, 1};
    dnnl_convolution_desc_t d, forward;
    dnnl_primitive_desc_t hint = NULL, pd;
    memset(o, 0, sizeof *o);
    must(dnnl_engine_create(&o->engine, dnnl_cpu, 0), "no engine");
    must(dnnl_stream_create(&o->stream, o->engine, dnnl_stream_default_flags), "no stream");
    must(dnnl_convolution_forward_desc_init(&forward, dnnl_forward_training,
                                            dnnl_convolution_direct, &x, &w, NULL, &y, one, one,
                                            one),
         "the convolution was refused");
    d = forward;
    if (pass)
        must(dnnl_primitive_desc_create(&hint, &forward, NULL, o->engine, NULL), "no forward pass");
    if (pass == 1)
        must(dnnl_convolution_backward_data_desc_init(&d, dnnl_convolution_direct, &x, &w, &y, one,
                                                      one, one),
             "the gradient for x was refused");
    if (pass == 2)
        must(dnnl_convolution_backward_weights_desc_init(&d, dnnl_convolution_direct, &x, &w, NULL,
                                                         &y, one, one, one),
             "the gradient for w was refused");
    must(dnnl_primitive_desc_create(&pd, &d, NULL, o->engine, hint), "no implementation");
    must(dnnl_primitive_create(&o->primitive, pd), "no primitive");
    if (pass == 1)
        add_memory(o, pd, dnnl_query_diff_src_md, DNNL_ARG_DIFF_SRC);
    else
        add_memory(o, pd, dnnl_query_src_md, DNNL_ARG_SRC);
    if (pass == 2)
        add_memory(o, pd, dnnl_query_diff_weights_md, DNNL_ARG_DIFF_WEIGHTS);
    else
        add_memory(o, pd, dnnl_query_weights_md, DNNL_ARG_WEIGHTS);
    if (pass == 0)
        add_memory(o, pd, dnnl_query_dst_md, DNNL_ARG_DST);
    else
        add_memory(o, pd, dnnl_query_diff_dst_md, DNNL_ARG_DIFF_DST);
    dnnl_primitive_desc_destroy(pd);
    dnnl_primitive_desc_destroy(hint);
}

static double onednn_run(onednn *o)
{
    double start = now();
    must(dnnl_primitive_execute(o->primitive, o->stream, o->args, o->arg), "a pass failed");
    must(dnnl_stream_wait(o->stream), "a pass failed");
    return now() - start;
}

static void onednn_close(onednn *o)
{
    for (int i = 0; i < o->args; i++) dnnl_memory_destroy(o->memory[i]);
    dnnl_primitive_destroy(o->primitive);
    dnnl_stream_destroy(o->stream);
    dnnl_engine_destroy(o->engine);
}

/* --- Ours -------------------------------------------------------------------------------------------- */
typedef struct ours {
    lgv_device *device;
    const lgv_kernel *kernel;
    lgv_attr_conv attr;
    lgv_call call;
    void *packed;
    lgv_step step;
} ours;

static lgv_tensor tensor(lgv_device *d, int64_t a, int64_t b, int64_t c, int64_t e)
{
    lgv_tensor t = {
        .dtype = LGV_F32, .rank = 4, .dim = {a, b, c, e}, .stride = {b * c * e, c * e, e, 1}};
    t.data = d->alloc(d, (size_t)lgv_tensor_elements(&t) * sizeof(float));
    if (!t.data) fail("out of memory");
    for (int64_t i = 0; i < lgv_tensor_elements(&t); i++)
        ((float *)t.data)[i] = (float)(i * 2654435761u % 1000) / 1000.0f - 0.5f;
    return t;
}

static void ours_open(ours *o, lgv_device *d, const shape *s, int pass)
{
    static const lgv_opcode ops[] = {LGV_OP_conv2d, LGV_OP_conv2d_grad_x, LGV_OP_conv2d_grad_w};
    lgv_tensor x = tensor(d, s->n, s->hw, s->hw, s->c), y = tensor(d, s->n, s->hw, s->hw, s->k),
               w = tensor(d, s->k, s->c, 3, 3);
    memset(o, 0, sizeof *o);
    o->device = d;
    o->attr = (lgv_attr_conv){.stride = 1, .pad = {1, 1, 1, 1}};
    lgv_call *c = &o->call;
    *c = (lgv_call){.op = ops[pass],
                    .attr = &o->attr,
                    .n_in = 2,
                    .n_out = 1,
                    .threads = d->threads,
                    .step = &o->step,
                    .pool = d->pool};
    c->in[0] = pass == 1 ? y : x;
    c->in[1] = pass == 2 ? y : w;
    c->out[0] = pass == 0 ? y : pass == 1 ? x : w;
    for (int i = 0; (o->kernel = d->kernel(d, c->op, i)); i++)
        if (!o->kernel->accepts || o->kernel->accepts(c)) break;
    if (!o->kernel) fail("no kernel takes the convolution");
    size_t pack = o->kernel->pack ? o->kernel->pack(c).bytes : 0;
    if (pack) {
        o->packed = d->alloc(d, pack);
        if (!o->packed) fail("out of memory");
        o->kernel->run_pack(c, o->packed);
        c->packed = o->packed;
    }
    if (o->kernel->workspace) c->workspace = d->alloc(d, o->kernel->workspace(c) + 64);
}

static double ours_run(ours *o)
{
    double start = now();
    o->kernel->run(&o->call);
    return now() - start;
}

static void ours_close(ours *o)
{
    lgv_device *d = o->device;
    d->free(d, o->call.in[0].data);
    d->free(d, o->call.in[1].data);
    d->free(d, o->call.out[0].data);
    d->free(d, o->packed);
    d->free(d, o->call.workspace);
}

/* Prints the line of one pass and adds both medians. */
static void compare(lgv_device *d, const shape *s, int pass, int rounds, double *sum_ours,
                    double *sum_theirs)
{
    static ours a;
    onednn b;
    double mine[MAX_ROUNDS], theirs[MAX_ROUNDS], ratio[MAX_ROUNDS];
    ours_open(&a, d, s, pass);
    onednn_open(&b, s, pass);
    ours_run(&a);
    onednn_run(&b);
    for (int i = 0; i < rounds; i++) {
        rest();
        mine[i] = ours_run(&a);
        rest();
        theirs[i] = onednn_run(&b);
        ratio[i] = theirs[i] / mine[i];
    }
    double m = median(mine, rounds), t = median(theirs, rounds);
    double flops = 18.0 * (double)(s->n * s->hw * s->hw) * (double)(s->c * s->k);
    qsort(ratio, (size_t)rounds, sizeof *ratio, by_value);
    printf("  %-15s %-10s %8.0f  oneDNN %8.0f  ratio %5.2f (%.2f to %.2f)\n", pass_name[pass],
           a.kernel->name, flops / m * 1e-9, flops / t * 1e-9, t / m, ratio[0], ratio[rounds - 1]);
    fflush(stdout);
    *sum_ours += m;
    *sum_theirs += t;
    ours_close(&a);
    onednn_close(&b);
}

int main(int argc, char **argv)
{
    lgv_device *d = NULL;
    lgv_error err = {0};
    int rounds = argc > 3 ? atoi(argv[3]) : 7, count = argc > 4 ? atoi(argv[4]) : SHAPES;
    if (rounds < 1 || rounds > MAX_ROUNDS || count < 1 || count > SHAPES)
        fail("ROUNDS is 1 to 101, COUNT 1 to the number of shapes");
    if (lgv_device_new(argc > 1 ? argv[1] : "cpu", argc > 2 ? atoi(argv[2]) : 0, &d, &err))
        fail(err.text);
    omp_set_num_threads(d->threads);
    const dnnl_version_t *v = dnnl_version();
    printf(
        "%s, %d threads; oneDNN %d.%d.%d; GFLOP/s of direct arithmetic, all threads; %d rounds\n",
        lgv_device_name(d), d->threads, v->major, v->minor, v->patch, rounds);
    double log_sum = 0;
    for (int i = 0; i < count; i++) {
        const shape *s = &shapes[i];
        double mine = 0, theirs = 0;
        printf("%d x %d -> %d @ %d\n", (int)s->n, (int)s->c, (int)s->k, (int)s->hw);
        for (int pass = 0; pass < PASSES; pass++) compare(d, s, pass, rounds, &mine, &theirs);
        printf("  all three                                                ratio %5.2f\n",
               theirs / mine);
        log_sum += log(theirs / mine);
        if (i == 5 || i == count - 1)
            printf("geometric mean of %d shapes, all passes: %.2f\n", i + 1,
                   exp(log_sum / (i + 1)));
    }
    lgv_device_free(d);
    return 0;
}
