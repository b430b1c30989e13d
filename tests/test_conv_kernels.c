/* test_conv_kernels.c - every convolution and linear kernel of every level against the plain one in
   double: odd shapes, channel slices, haloed values, epilogues, accumulation, threads and batches.
   Tolerance: 2e-6 of the largest value times the square root of the number of products over 16 for float
   (rounding of a sum grows about so), 1e-7 for double (values are read as float). Winograd convolution is
   allowed twice that: its error is 1.1e-6 where a plain sum has 6e-7 (RMS, test_winograd_error). */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernel_value.h"

typedef struct shape {
    int64_t n, h, w, c, k;
    int kh, kw, stride, pad[4];
    bool linear;
} shape;

typedef struct options {
    int slice, halo, act;
    unsigned epilogue;
    bool accumulate;
} options;

/* pass 0: forward, 1: gradient for x, 2: gradient for w. */
static void dims(const shape *s, int64_t *x, int64_t *y, int64_t *w)
{
    int64_t ho = (s->h + s->pad[0] + s->pad[2] - s->kh) / s->stride + 1;
    int64_t wo = (s->w + s->pad[1] + s->pad[3] - s->kw) / s->stride + 1;
    memcpy(x, (int64_t[]){s->n, s->h, s->w, s->c}, 4 * sizeof *x);
    memcpy(y, (int64_t[]){s->n, ho, wo, s->k}, 4 * sizeof *y);
    memcpy(w, (int64_t[]){s->k, s->c, s->kh, s->kw}, 4 * sizeof *w);
}

/* Runs one pass with one kernel on one device and returns the result in logical order. Packed weights that the kernel can
   do without do not change its bits. */
static float *run_case(const char *spec, int threads, const char *kernel, const shape *s, int pass,
                       const options *o)
{
    static const lgv_opcode conv[] = {LGV_OP_conv2d, LGV_OP_conv2d_grad_x, LGV_OP_conv2d_grad_w};
    static const lgv_opcode linear[] = {LGV_OP_linear, LGV_OP_linear_grad_x, LGV_OP_linear_grad_w};
    lgv_device *d = NULL;
    assert_int_equal(lgv_device_new(spec, threads, &d, NULL), LGV_OK);
    int64_t x[4], y[4], w[4];
    dims(s, x, y, w);
    lgv_attr_conv attr = {.stride = s->stride, .act = pass ? 0 : o->act};
    lgv_attr_linear linear_attr = {.act = pass ? 0 : o->act};
    memcpy(attr.pad, s->pad, sizeof attr.pad);
    memcpy(attr.dim, pass == 1 ? x : w, sizeof attr.dim);
    lgv_call c = {.op = (s->linear ? linear : conv)[pass],
                  .attr = s->linear ? (void *)&linear_attr : (void *)&attr,
                  .n_in = 2,
                  .n_out = 1,
                  .threads = threads,
                  .pool = d->pool,
                  .accumulate = o->accumulate && pass == 2};
    kernel_value bx = kernel_value_new(d, 4, x, o->slice, o->halo, 1),
                 by = kernel_value_new(d, 4, y, o->slice, 0, 2);
    kernel_value bw = kernel_value_new(d, s->linear ? 2 : 4, w, 0, 0, 3);
    kernel_value bias = kernel_value_new(d, 1, &s->k, 0, 0, 4),
                 row = kernel_value_new(d, 2, (int64_t[]){s->n, s->k}, o->slice, 0, 5);
    kernel_value residual = kernel_value_new(d, 4, y, 2 * o->slice, 0, 6),
                 gate = kernel_value_new(d, 2, (int64_t[]){s->n, s->k}, 0, 0, 7);
    kernel_value *result = pass == 0 ? &by : pass == 1 ? &bx : &bw;
    c.in[0] = pass == 1 ? by.t : bx.t;
    c.in[1] = pass == 2 ? by.t : bw.t;
    c.out[0] = result->t;
    if (pass == 0) {
        c.n_in = LGV_EPILOGUE_INPUTS;
        if (o->epilogue & LGV_EPI_BIAS) c.in[LGV_IN_BIAS] = bias.t;
        if (o->epilogue & LGV_EPI_ROW) c.in[LGV_IN_ROW] = row.t;
        if (o->epilogue & LGV_EPI_RESIDUAL) c.in[LGV_IN_RESIDUAL] = residual.t;
        if (o->epilogue & LGV_EPI_GATE) c.in[LGV_IN_GATE] = gate.t;
    }
    const lgv_kernel *k = kernel_find(d, &c, kernel);
    float *out = NULL;
    if (k) {
        float *unpacked = NULL;
        if (k->pack_optional) {
            kernel_run_unpacked(d, k, &c);
            unpacked = kernel_value_read(result);
            kernel_value_fill(result, 0);
        }
        kernel_run(d, k, &c);
        out = kernel_value_read(result);
        if (unpacked)
            assert_memory_equal(out, unpacked,
                                (size_t)lgv_tensor_elements(&result->t) * sizeof *out);
        free(unpacked);
    }
    kernel_value *all[] = {&bx, &by, &bw, &bias, &row, &residual, &gate};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) kernel_value_free(all[i]);
    lgv_device_free(d);
    return out;
}

static int64_t result_size(const shape *s, int pass)
{
    int64_t x[4], y[4], w[4];
    dims(s, x, y, w);
    const int64_t *r = pass == 0 ? y : pass == 1 ? x : w;
    return r[0] * r[1] * r[2] * r[3];
}

static void compare(const char *spec, const char *kernel, const shape *s, int pass,
                    const options *o)
{
    float *got = run_case(spec, 2, kernel, s, pass, o);
    if (!got && strcmp(kernel, "gemm") && strcmp(kernel, "plain"))
        return; /* not for this shape or level */
    float *want = run_case("cpu:f64", 2, "plain", s, pass, o);
    assert_non_null(want);
    assert_non_null(got);
    int64_t n = result_size(s, pass);
    double largest = 0, worst = 0;
    for (int64_t i = 0; i < n; i++) {
        largest = fmax(largest, fabs((double)want[i]));
        double e = fabs((double)want[i] - (double)got[i]);
        worst = e > worst || isnan(e) ? e : worst;
    }
    double products = pass == 0   ? (double)(s->c * s->kh * s->kw)
                      : pass == 1 ? (double)(s->k * s->kh * s->kw)
                                  : (double)(s->n * s->h * s->w);
    double unit = strcmp(kernel, "winograd") ? 2e-6 : 4e-6;
    double tolerance =
        (strcmp(spec, "cpu:f64") ? unit * fmax(1, sqrt(products / 16)) : 1e-7) * largest;
    if (!(worst <= tolerance))
        print_error("%s %s pass %d [%d,%d,%d,%d]->%d %dx%d/%d: error %g, largest %g\n", spec,
                    kernel, pass, (int)s->n, (int)s->h, (int)s->w, (int)s->c, (int)s->k, s->kh,
                    s->kw, s->stride, worst, largest);
    assert_true(worst <= tolerance);
    free(want);
    free(got);
}

static const char *const specs[] = {"cpu:scalar", "cpu:avx2", "cpu:avx512", "cpu:f64"};
static bool runs(const char *spec)
{
    return !strcmp(spec, "cpu:f64") || lgv_cpu_has(spec + 4);
}

static const shape shapes[] = {
    {2, 5, 7, 6, 9, 3, 3, 1, {1, 1, 1, 1}, false},
    {1, 6, 5, 1, 19, 3, 3, 1, {1, 1, 1, 1}, false},
    {3, 7, 6, 3, 20, 3, 3, 1, {1, 1, 1, 1}, false},
    {1, 6, 6, 17, 3, 3, 3, 1, {1, 1, 1, 1}, false},
    {2, 8, 6, 18, 33, 3, 3, 2, {1, 1, 1, 1}, false},
    {2, 9, 7, 4, 5, 3, 3, 2, {0, 0, 1, 1}, false},
    {2, 8, 8, 20, 16, 3, 3, 2, {0, 1, 1, 0}, false},
    {2, 6, 9, 4, 11, 3, 3, 3, {0, 0, 0, 0}, false},
    {1, 9, 8, 5, 4, 2, 2, 3, {0, 0, 0, 0}, false},
    {1, 5, 8, 3, 4, 2, 4, 1, {1, 0, 0, 2}, false},
    {1, 5, 5, 2, 70, 5, 5, 1, {2, 2, 2, 2}, false},
    {3, 3, 5, 18, 7, 1, 1, 1, {0, 0, 0, 0}, false},
    {1, 1, 1, 2, 3, 3, 3, 1, {1, 1, 1, 1}, false},
    {2, 4, 4, 300, 34, 3, 3, 1, {1, 1, 1, 1}, false},
    {1, 10, 11, 64, 80, 3, 3, 1, {1, 1, 1, 1}, false},
    {2, 40, 30, 16, 8, 1, 1, 1, {0, 0, 0, 0}, false},
    {1, 40, 37, 8, 24, 3, 3, 1, {1, 1, 1, 1}, false},
    {3, 7, 9, 1, 33, 3, 3, 1, {1, 1, 1, 1}, false},
    {2, 70, 5, 40, 3, 3, 3, 1, {1, 1, 1, 1}, false},
    {2, 6, 40, 32, 1, 3, 3, 1, {1, 1, 1, 1}, false},
    {1, 5, 6, 17, 4, 2, 4, 1, {1, 0, 0, 2}, false},
    {1, 6, 7, 16, 2, 5, 5, 1, {2, 2, 2, 2}, false},
    {1, 4, 5, 16, 1, 3, 3, 1, {3, 0, 1, 4}, false},
    {1, 9, 8, 3, 20, 3, 3, 2, {0, 0, 1, 1}, false},
    {2, 33, 40, 3, 18, 3, 3, 1, {1, 1, 1, 1}, false},
    {3, 9, 14, 40, 37, 3, 3, 1, {1, 1, 1, 1}, false}, /* from here on Winograd's */
    {2, 8, 7, 64, 96, 3, 3, 1, {1, 0, 1, 2}, false},
    {2, 13, 5, 270, 33, 3, 3, 1, {2, 2, 0, 1}, false},
    {1, 27, 30, 32, 130, 3, 3, 1, {0, 0, 0, 0}, false},
    {1, 22, 25, 100, 34, 3, 3, 1, {1, 1, 1, 1}, false},
    {5, 1, 1, 19, 18, 1, 1, 1, {0, 0, 0, 0}, true},
    {2, 3, 5, 33, 35, 1, 1, 1, {0, 0, 0, 0}, true},
    {1, 1, 1, 1, 1, 1, 1, 1, {0, 0, 0, 0}, true},
    {3, 1, 7, 520, 260, 1, 1, 1, {0, 0, 0, 0}, true},
};
enum { SHAPES = sizeof shapes / sizeof *shapes, SPECS = sizeof specs / sizeof *specs };

static void test_shapes(void **state)
{
    (void)state;
    for (int d = 0; d < SPECS; d++) {
        if (!runs(specs[d])) continue;
        for (int i = 0; i < SHAPES; i++)
            for (int pass = 0; pass < 3; pass++) {
                options plain = {.epilogue = LGV_EPI_BIAS},
                        odd = {.epilogue = LGV_EPI_BIAS, .slice = 3, .accumulate = true};
                compare(specs[d], "plain", &shapes[i], pass, &odd);
                compare(specs[d], "gemm", &shapes[i], pass, &plain);
                compare(specs[d], "gemm", &shapes[i], pass, &odd);
                options halo = {.slice = 1, .halo = 1};
                compare(specs[d], "gemm", &shapes[i], pass, &halo);
                compare(specs[d], "few", &shapes[i], pass, &plain);
                compare(specs[d], "few", &shapes[i], pass, &odd);
                compare(specs[d], "few", &shapes[i], pass, &halo);
                compare(specs[d], "rows", &shapes[i], pass, &plain);
                compare(specs[d], "rows", &shapes[i], pass, &odd);
                compare(specs[d], "rows", &shapes[i], pass, &halo);
                compare(specs[d], "winograd", &shapes[i], pass, &plain);
                compare(specs[d], "winograd", &shapes[i], pass, &odd);
                compare(specs[d], "winograd", &shapes[i], pass, &halo);
            }
    }
}

static void test_epilogues(void **state)
{
    (void)state;
    static const int chosen[] = {0, 4, 11, 17, 22, 30, 32};
    for (int d = 0; d < SPECS; d++)
        for (unsigned mask = 0; mask < 32 && runs(specs[d]); mask++)
            for (size_t i = 0; i < sizeof chosen / sizeof *chosen; i++) {
                options o = {.epilogue = mask,
                             .slice = (int)(mask % 3),
                             .act = mask & LGV_EPI_ACT ? 1 + (int)(mask % 4) : 0};
                compare(specs[d], "gemm", &shapes[chosen[i]], 0, &o);
                compare(specs[d], "few", &shapes[chosen[i]], 0, &o);
                compare(specs[d], "rows", &shapes[chosen[i]], 0, &o);
                compare(specs[d], "winograd", &shapes[chosen[i]], 0, &o);
                if (mask % 7 == 0) compare(specs[d], "plain", &shapes[chosen[i]], 0, &o);
            }
}

static const char *const kernels[] = {"gemm", "winograd", "few", "rows"};
enum { KERNELS = sizeof kernels / sizeof *kernels };

/* Equal bits for 1, 2 and 7 threads; NULL all along where the kernel does not take the shape. */
static void check_threads(const char *spec, const char *kernel, const shape *s, int pass)
{
    options o = {.epilogue = LGV_EPI_BIAS | LGV_EPI_ROW};
    size_t bytes = (size_t)result_size(s, pass) * sizeof(float);
    float *one = run_case(spec, 1, kernel, s, pass, &o);
    float *two = run_case(spec, 2, kernel, s, pass, &o);
    float *seven = run_case(spec, 7, kernel, s, pass, &o);
    if (one) {
        assert_memory_equal(one, two, bytes);
        assert_memory_equal(one, seven, bytes);
    }
    free(one);
    free(two);
    free(seven);
}

/* "rows" is chosen by the number of positions, so its bits are those of "gemm". */
static void test_rows(void **state)
{
    (void)state;
    const options o = {.epilogue = LGV_EPI_BIAS | LGV_EPI_ROW | LGV_EPI_RESIDUAL, .slice = 2};
    for (int d = 0; d < SPECS; d++)
        for (int i = 0; i < SHAPES && runs(specs[d]); i++)
            for (int pass = 0; pass < 2 && shapes[i].linear; pass++) {
                float *rows = run_case(specs[d], 2, "rows", &shapes[i], pass, &o),
                      *gemm = run_case(specs[d], 2, "gemm", &shapes[i], pass, &o);
                assert_non_null(rows);
                assert_memory_equal(rows, gemm,
                                    (size_t)result_size(&shapes[i], pass) * sizeof(float));
                free(rows);
                free(gemm);
            }
}

static void test_threads(void **state)
{
    (void)state;
    for (int d = 0; d < SPECS; d++)
        for (int i = 0; i < SHAPES && runs(specs[d]); i++)
            for (int pass = 0; pass < 3; pass++)
                for (int k = 0; k < KERNELS; k++)
                    check_threads(specs[d], kernels[k], &shapes[i], pass);
    if (lgv_cpu_has("avx2")) { /* several blocks of tiles */
        const shape large = {1, 50, 50, 272, 40, 3, 3, 1, {1, 1, 1, 1}, false};
        for (int pass = 0; pass < 3; pass++) check_threads("cpu:avx2", "winograd", &large, pass);
    }
}

/* The first picture's result does not depend on how many follow: forward, and the gradient for data. */
static void check_batches(const char *spec, const char *kernel, const shape *s, int pass)
{
    options o = {.epilogue = LGV_EPI_BIAS};
    shape one = *s, many = *s;
    one.n = 1;
    many.n = 4;
    float *a = run_case(spec, 2, kernel, &one, pass, &o),
          *b = run_case(spec, 2, kernel, &many, pass, &o);
    if (a) assert_memory_equal(a, b, (size_t)result_size(&one, pass) * sizeof(float));
    free(a);
    free(b);
}

static void test_batches(void **state)
{
    (void)state;
    for (int d = 0; d < SPECS; d++)
        for (int i = 0; i < SHAPES && runs(specs[d]); i++)
            for (int pass = 0; pass < 2; pass++)
                for (int k = 0; k < KERNELS; k++)
                    check_batches(specs[d], kernels[k], &shapes[i], pass);
}

/* RMS error relative to the RMS of the result in double. */
static double rms_error(const char *spec, const char *kernel, const shape *s, int pass)
{
    options o = {.epilogue = 0};
    float *want = run_case("cpu:f64", 2, "gemm", s, pass, &o),
          *got = run_case(spec, 2, kernel, s, pass, &o);
    assert_non_null(got);
    double error = 0, size = 0;
    for (int64_t i = 0; i < result_size(s, pass); i++) {
        double d = (double)got[i] - (double)want[i];
        error += d * d;
        size += (double)want[i] * (double)want[i];
    }
    free(want);
    free(got);
    return sqrt(error / size);
}

/* The bars of Winograd convolution: 2.5e-6 forward and for data, 1.5e-6 for weights. */
static void test_winograd_error(void **state)
{
    (void)state;
    static const shape large[] = {
        {1, 32, 32, 128, 128, 3, 3, 1, {1, 1, 1, 1}, false},
        {2, 16, 16, 320, 96, 3, 3, 1, {1, 1, 1, 1}, false},
        {12, 30, 30, 64, 64, 3, 3, 1, {1, 1, 1, 1}, false},
    };
    static const double bars[] = {2.5e-6, 2.5e-6, 1.5e-6};
    for (int d = 1; d < 3; d++) {
        for (size_t i = 0; i < sizeof large / sizeof *large && runs(specs[d]); i++)
            for (int pass = 0; pass < 3; pass++) {
                double e = rms_error(specs[d], "winograd", &large[i], pass);
                print_message("%s %d->%d pass %d: RMS error %.2e\n", specs[d], (int)large[i].c,
                              (int)large[i].k, pass, e);
                assert_true(e <= bars[pass]);
            }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_shapes),  cmocka_unit_test(test_epilogues),
        cmocka_unit_test(test_rows),    cmocka_unit_test(test_threads),
        cmocka_unit_test(test_batches), cmocka_unit_test(test_winograd_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
