/* test_custom.c - operators of one's own (langevin/custom.h): attributes and plans that outlive the graph, several
   outputs, integers, strided operands, threads; every mistake in a record is a sentence; the gradient check finds
   a wrong gradient. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "langevin/langevin.h"
#include "ok.h"

static lgv_error err;

enum { ROWS = 3, C = 5 };

/* y = factor * x * index[n], and the sum of each row; index is i32 [N]. */
typedef struct attributes {
    double factor;
} attributes;

static lgv_status infer(const lgv_type *in, const void *attr, lgv_type *out, lgv_error *e)
{
    if (in[0].rank != 2 || in[1].dtype != LGV_I32) {
        snprintf(e->text, sizeof e->text, "wants x[N,C] and integers");
        return LGV_ERR_SHAPE;
    }
    out[0] = in[0];
    out[1] = (lgv_type){LGV_F32, 1, {in[0].dim[0], 1, 1, 1}};
    return LGV_OK;
}

static void row(void *arg, int64_t n)
{
    const lgv_custom_call *c = arg;
    const float *x = c->in[0], factor = (float)((const attributes *)c->attr)->factor;
    const int32_t *index = c->in[1];
    float *y = c->out[0], *sum = c->out[1], total = 0;
    const int64_t width = c->in_type[0].dim[1];
    for (int64_t i = n * width; i < (n + 1) * width; i++)
        total += y[i] = factor * x[i] * (float)index[n];
    if (sum) sum[n] = total;
}

static void run(const lgv_custom_call *c)
{
    lgv_custom_parallel(c, c->in_type[0].dim[0], row, (void *)c);
}

/* dx = the operator again, with dy */
static const lgv_custom_op scaled;
static void grad(lgv_graph *g, const lgv_custom_node *n, const lgv_id *dout, lgv_id *din)
{
    if (dout[0] != LGV_NONE)
        din[0] = lgv_custom(g, &scaled, (const lgv_id[]){dout[0], n->in[1]}, n->attr);
}

static const lgv_custom_op scaled = {.name = "scaled",
                                     .n_in = 2,
                                     .n_out = 2,
                                     .attr_size = sizeof(attributes),
                                     .infer = infer,
                                     .grad = grad,
                                     .run = run};

static lgv_id input(lgv_graph *g, const char *name, lgv_dtype dtype, int rank, int64_t a, int64_t b)
{
    const int64_t dim[] = {a, b};
    return lgv_input(g, name, dtype, rank, dim);
}

/* The middle channels of a wider value, so that the operand is strided. */
static lgv_id build(lgv_graph *g, void *user)
{
    const attributes attr = {user ? *(double *)user : 2};
    lgv_id x = lgv_slice(g, input(g, "x", LGV_F32, 2, ROWS, C + 4), 2, C);
    return lgv_custom(g, &scaled, (const lgv_id[]){x, input(g, "i", LGV_I32, 1, ROWS, 1)}, &attr);
}

static void test_runs(void **state)
{
    float x[ROWS * (C + 4)], y[ROWS * C], sum[ROWS];
    const int32_t index[ROWS] = {1, 0, 3};
    for (int i = 0; i < ROWS * (C + 4); i++) x[i] = (float)i;
    for (int threads = 1; threads <= 3; threads++) {
        lgv_device *device;
        lgv_store *store;
        lgv_plan *plan;
        lgv_graph *g = lgv_graph_new();
        lgv_id v = build(g, NULL);
        lgv_graph_output(g, v, "y");
        lgv_graph_output(g, lgv_output_of(g, v, 1), "sum");
        char *text = lgv_graph_text(g);
        assert_non_null(strstr(text, "scaled("));
        lgv_string_free(text);
        const lgv_program program = {"only", g};
        OK(lgv_device_new("cpu", threads, &device, &err));
        OK(lgv_store_new(device, &store, &err));
        OK(lgv_plan_new(store, 1, &program, NULL, &plan, &err));
        lgv_graph_free(g); /* attributes were copied */
        OK(lgv_plan_write(plan, "x", x, ROWS * (C + 4), &err));
        OK(lgv_plan_write_i32(plan, "i", index, ROWS, &err));
        OK(lgv_plan_run(plan, NULL, &err));
        OK(lgv_plan_read(plan, "y", y, ROWS * C, &err));
        OK(lgv_plan_read(plan, "sum", sum, ROWS, &err));
        for (int n = 0; n < ROWS; n++) {
            float total = 0;
            for (int c = 0; c < C; c++) {
                float want = 2 * x[n * (C + 4) + 2 + c] * (float)index[n];
                assert_true(y[n * C + c] == want);
                total += want;
            }
            assert_true(sum[n] == total);
        }
        lgv_plan_free(plan);
        lgv_store_free(store);
        lgv_device_free(device);
    }
}

/* The sentence that building with this record (and inputs of these ranks) ends in. */
static void refused(const lgv_custom_op *op, int rank, const void *attr, const char *sentence)
{
    lgv_graph *g = lgv_graph_new();
    lgv_id x = input(g, "x", LGV_F32, rank, ROWS, C), i = input(g, "i", LGV_I32, 1, ROWS, 1);
    assert_int_equal(lgv_custom(g, op, (const lgv_id[]){x, i}, attr), LGV_NONE);
    assert_true(lgv_graph_status(g, &err) != LGV_OK);
    if (!strstr(err.text, sentence)) fail_msg("'%s' does not say '%s'", err.text, sentence);
    lgv_graph_free(g);
}

static lgv_status infer_silent(const lgv_type *in, const void *attr, lgv_type *out, lgv_error *e)
{
    return LGV_ERR_ARGUMENT;
}

static lgv_status infer_nothing(const lgv_type *in, const void *attr, lgv_type *out, lgv_error *e)
{
    return LGV_OK;
}

static void test_mistakes(void **state)
{
    const attributes attr = {1};
    lgv_custom_op op = scaled;
    refused(&op, 1, &attr, "scaled 'scaled': wants x[N,C] and integers");
    refused(&op, 2, NULL, "'scaled' wants attributes");
    op.infer = infer_silent;
    refused(&op, 2, &attr, "its inputs do not fit");
    op.infer = infer_nothing;
    refused(&op, 2, &attr, "output 0 has rank 0");
    op.n_in = LGV_CUSTOM_INPUTS + 1;
    refused(&op, 2, &attr, "too many");
    op.run = NULL;
    refused(&op, 2, &attr, "lacks name, infer or run");
}

static void wrong_grad(lgv_graph *g, const lgv_custom_node *n, const lgv_id *dout, lgv_id *din)
{
    din[0] = lgv_affine(g, dout[0], 2, 0);
}

static void misshapen_grad(lgv_graph *g, const lgv_custom_node *n, const lgv_id *dout, lgv_id *din)
{
    din[0] = lgv_slice(g, dout[0], 0, 1);
}

static lgv_id build_with(lgv_graph *g, void *user)
{
    const attributes attr = {2};
    lgv_id x = input(g, "x", LGV_F32, 2, ROWS, C);
    return lgv_custom(g, user, (const lgv_id[]){x, input(g, "i", LGV_I32, 1, ROWS, 1)}, &attr);
}

static void test_gradient(void **state)
{
    lgv_device *device, *f64;
    lgv_custom_op op = scaled;
    double factor = 0.5, error = 1;
    OK(lgv_device_new("cpu", 2, &device, &err));
    OK(lgv_device_new("cpu:f64", 1, &f64, &err));
    OK(lgv_gradient_check(device, build, &factor, &error, &err));
    assert_true(error < 1e-3);
    assert_int_equal(lgv_gradient_check(f64, build, &factor, &error, &err), LGV_ERR_UNSUPPORTED);
    assert_non_null(strstr(err.text, "no kernel for scaled"));
    op.grad = wrong_grad;
    OK(lgv_gradient_check(device, build_with, &op, &error, &err));
    assert_true(error > 0.1);
    op.grad = misshapen_grad;
    assert_int_equal(lgv_gradient_check(device, build_with, &op, &error, &err), LGV_ERR_SHAPE);
    op.grad = NULL;
    op.no_grad = "it is a test";
    assert_int_equal(lgv_gradient_check(device, build_with, &op, &error, &err),
                     LGV_ERR_UNSUPPORTED);
    assert_non_null(strstr(err.text, "scaled 'scaled' has no gradient: it is a test"));
    lgv_device_free(f64);
    lgv_device_free(device);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_runs),
        cmocka_unit_test(test_mistakes),
        cmocka_unit_test(test_gradient),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
