/* custom_op.c - an operator of one's own: the gated unit y = a * sigmoid(b) (arXiv 1612.08083), with its
   gradient as a second operator; then the gradient check, and a run on float32.
   Kernels come in two types: float for use, double for the check. */
#include <langevin/langevin.h>
#include <math.h>
#include <stdio.h>

enum { BLOCK = 1024 }; /* elements that one thread takes at once */

static int64_t count(const lgv_type *t)
{
    return t->dim[0] * t->dim[1] * t->dim[2] * t->dim[3];
}

/* Both operators: all operands, and all outputs, have the shape of input 0. */
static lgv_status same_shapes(const lgv_type *in, int n_in, lgv_type *out, int n_out,
                              lgv_error *err)
{
    for (int i = 1; i < n_in; i++)
        for (int k = 0; k < LGV_MAX_RANK; k++)
            if (in[i].rank != in[0].rank || in[i].dim[k] != in[0].dim[k]) {
                snprintf(err->text, sizeof err->text, "input %d has another shape than input 0", i);
                return LGV_ERR_SHAPE;
            }
    for (int k = 0; k < n_out; k++) out[k] = in[0];
    return LGV_OK;
}

/* ---- the gradient: da = dy*s, db = dy*a*s*(1-s) with s = sigmoid(b) ---- */
static lgv_status grad_infer(const lgv_type *in, const void *attr, lgv_type *out, lgv_error *err)
{
    (void)attr;
    return same_shapes(in, 3, out, 2, err);
}

static void grad_block(void *arg, int64_t block)
{
    const lgv_custom_call *c = arg;
    const float *dy = c->in[0], *a = c->in[1], *b = c->in[2];
    float *da = c->out[0], *db = c->out[1];
    const int64_t n = count(c->in_type), end = (block + 1) * BLOCK < n ? (block + 1) * BLOCK : n;
    for (int64_t i = block * BLOCK; i < end; i++) {
        const float s = 1 / (1 + expf(-b[i]));
        da[i] = dy[i] * s;
        db[i] = dy[i] * a[i] * s * (1 - s);
    }
}

static void grad_run(const lgv_custom_call *c)
{
    lgv_custom_parallel(c, (count(c->in_type) + BLOCK - 1) / BLOCK, grad_block, (void *)c);
}

static void grad_run_f64(const lgv_custom_call *c)
{
    const double *dy = c->in[0], *a = c->in[1], *b = c->in[2];
    double *da = c->out[0], *db = c->out[1];
    for (int64_t i = 0; i < count(c->in_type); i++) {
        const double s = 1 / (1 + exp(-b[i]));
        da[i] = dy[i] * s;
        db[i] = dy[i] * a[i] * s * (1 - s);
    }
}

static const lgv_custom_op gated_grad = {.name = "gated_unit_grad",
                                         .n_in = 3,
                                         .n_out = 2,
                                         .infer = grad_infer,
                                         .no_grad = "second derivatives are not supported",
                                         .run = grad_run,
                                         .run_f64 = grad_run_f64};

/* ---- the operator ---- */
static lgv_status gated_infer(const lgv_type *in, const void *attr, lgv_type *out, lgv_error *err)
{
    (void)attr;
    return same_shapes(in, 2, out, 1, err);
}

static void gated_gradient(lgv_graph *g, const lgv_custom_node *node, const lgv_id *dout,
                           lgv_id *din)
{
    const lgv_id in[] = {dout[0], node->in[0], node->in[1]};
    din[0] = lgv_custom(g, &gated_grad, in, NULL);
    din[1] = lgv_output_of(g, din[0], 1);
}

static double gated_flops(const lgv_type *in, const lgv_type *out, const void *attr)
{
    (void)in, (void)attr;
    return 4.0 * (double)count(out);
}

static void gated_block(void *arg, int64_t block)
{
    const lgv_custom_call *c = arg;
    const float *a = c->in[0], *b = c->in[1];
    float *y = c->out[0];
    const int64_t n = count(c->in_type), end = (block + 1) * BLOCK < n ? (block + 1) * BLOCK : n;
    for (int64_t i = block * BLOCK; i < end; i++) y[i] = a[i] / (1 + expf(-b[i]));
}

static void gated_run(const lgv_custom_call *c)
{
    lgv_custom_parallel(c, (count(c->in_type) + BLOCK - 1) / BLOCK, gated_block, (void *)c);
}

static void gated_run_f64(const lgv_custom_call *c)
{
    const double *a = c->in[0], *b = c->in[1];
    double *y = c->out[0];
    for (int64_t i = 0; i < count(c->in_type); i++) y[i] = a[i] / (1 + exp(-b[i]));
}

static const lgv_custom_op gated = {.name = "gated_unit",
                                    .n_in = 2,
                                    .n_out = 1,
                                    .infer = gated_infer,
                                    .grad = gated_gradient,
                                    .flops = gated_flops,
                                    .run = gated_run,
                                    .run_f64 = gated_run_f64};

/* The two halves of x's channels: x[N,H,W,2C] -> [N,H,W,C]. */
static lgv_id gated_unit(lgv_graph *g, lgv_id x)
{
    int64_t dim[LGV_MAX_RANK];
    const int64_t C = dim[lgv_shape(g, x, dim) - 1] / 2;
    const lgv_id halves[] = {lgv_slice(g, x, 0, C), lgv_slice(g, x, C, C)};
    return lgv_custom(g, &gated, halves, NULL);
}

/* ---- use ---- */
static lgv_id build(lgv_graph *g, void *user)
{
    const int64_t dim[] = {2, 3, 3, 10};
    (void)user;
    return gated_unit(g, lgv_input(g, "x", LGV_F32, 4, dim));
}

static lgv_status check(lgv_error *err)
{
    lgv_device *device = NULL;
    double error = 0;
    lgv_status status = lgv_device_new("cpu:f64", 1, &device, err);
    if (!status) status = lgv_gradient_check(device, build, NULL, &error, err);
    lgv_device_free(device);
    if (status) return status;
    printf("gradient: off by %.1e\n", error);
    if (error <= 1e-6) return LGV_OK;
    snprintf(err->text, sizeof err->text, "the gradient is wrong");
    return LGV_ERR_NUMERIC;
}

static lgv_status run(lgv_error *err)
{
    lgv_device *device = NULL;
    lgv_store *store = NULL;
    lgv_plan *plan = NULL;
    lgv_graph *g = lgv_graph_new();
    float x[180], y[90];
    for (int i = 0; i < 180; i++) x[i] = (float)(i % 10 - 5);
    if (!g) return LGV_ERR_MEMORY;
    lgv_graph_output(g, build(g, NULL), "y");
    const lgv_program program = {"only", g};
    lgv_status status = lgv_device_new("cpu", 0, &device, err);
    if (!status) status = lgv_store_new(device, &store, err);
    if (!status) status = lgv_plan_new(store, 1, &program, NULL, &plan, err);
    if (!status) status = lgv_plan_write(plan, "x", x, 180, err);
    if (!status) status = lgv_plan_run(plan, NULL, err);
    if (!status) status = lgv_plan_read(plan, "y", y, 90, err);
    if (!status) printf("-5 gated by 0: %g, -1 by 4: %.4f\n", (double)y[0], (double)y[4]);
    lgv_plan_free(plan);
    lgv_store_free(store);
    lgv_device_free(device);
    lgv_graph_free(g);
    return status;
}

int main(void)
{
    lgv_error err = {LGV_OK, ""};
    lgv_status status = check(&err);
    if (!status) status = run(&err);
    if (status) fprintf(stderr, "custom_op: %s\n", err.text);
    return status ? 1 : 0;
}
