/* test_amx_kernels.c - the bf16 kernels on AMX tiles against the plain kernels in double, on the same rounded
   operands: odd shapes, channel slices, haloed values, epilogues, accumulation, threads and batches. Where
   the processor has AMX they run natively; everywhere (with AVX2) with tile operations in C.
   Tolerance: a bf16 result is rounded once, at most 2^-9 of its value (2^-8 is allowed); before that, sums in f32
   are within 2e-6 of the largest value times the square root of the number of products over 16. */
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
    bool accumulate, wide; /* wide: results and residual in f32 */
    bool nan;              /* one element of each operand is not a number */
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

static void spoil(const kernel_value *v)
{
    const float nan = NAN;
    int64_t at = (v->t.dim[0] - 1) * v->t.stride[0] + (v->t.dim[1] / 2) * v->t.stride[1];
    v->device->write(
        v->device, v->t.dtype,
        (char *)v->t.data + (size_t)at * v->device->element_size(v->device, v->t.dtype), &nan, 1);
}

/* Runs one pass with one kernel on one device and returns the result in logical order. The reference gets the
   same numbers in double. */
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
    bool reference = !strcmp(spec, "cpu:f64");
    lgv_dtype narrow = reference ? LGV_F32 : LGV_BF16;
    lgv_dtype tx = pass == 1 && o->wide ? LGV_F32 : narrow,
              ty = pass == 0 && o->wide ? LGV_F32 : narrow;
    int halo = pass == 1 ? 0 : o->halo;
    kernel_value bx = kernel_value_of(d, tx, true, 4, x, o->slice, halo, 1),
                 by = kernel_value_of(d, ty, true, 4, y, o->slice, 0, 2);
    kernel_value bw = kernel_value_of(d, LGV_F32, pass != 2, s->linear ? 2 : 4, w, 0, 0, 3);
    kernel_value bias = kernel_value_new(d, 1, &s->k, 0, 0, 4),
                 row = kernel_value_new(d, 2, (int64_t[]){s->n, s->k}, o->slice, 0, 5);
    kernel_value residual = kernel_value_of(d, ty, true, 4, y, 2 * o->slice, 0, 6),
                 gate = kernel_value_new(d, 2, (int64_t[]){s->n, s->k}, 0, 0, 7);
    kernel_value *result = pass == 0 ? &by : pass == 1 ? &bx : &bw;
    if (o->nan && pass != 1) spoil(&bx);
    if (o->nan && pass != 0) spoil(&by);
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
        kernel_run(d, k, &c);
        out = kernel_value_read(result);
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

static void compare(const char *spec, const shape *s, int pass, const options *o)
{
    float *want = run_case("cpu:f64", 2, "plain", s, pass, o),
          *got = run_case(spec, 2, "amx", s, pass, o);
    assert_non_null(want);
    assert_non_null(got);
    int64_t n = result_size(s, pass), at = -1;
    double largest = 0, worst = 0;
    for (int64_t i = 0; i < n; i++) largest = fmax(largest, fabs((double)want[i]));
    double products = pass == 0   ? (double)(s->c * s->kh * s->kw)
                      : pass == 1 ? (double)(s->k * s->kh * s->kw)
                                  : (double)(s->n * s->h * s->w);
    double sum = 2e-6 * fmax(1, sqrt(products / 16)) * largest;
    for (int64_t i = 0; i < n; i++) {
        if (o->nan && !isnan(want[i])) continue; /* a tile may spread it */
        if (o->nan && isnan(want[i]) && isnan(got[i])) continue;
        double rounding = o->wide || pass == 2 ? 0 : fabs((double)want[i]) / 256;
        double e = fabs((double)want[i] - (double)got[i]) - rounding;
        if (e > worst || isnan(e)) at = i;
        worst = e > worst || isnan(e) ? e : worst;
    }
    if (!(worst <= sum))
        print_error("%s pass %d [%d,%d,%d,%d]->%d %dx%d/%d: error %g at %lld, largest %g\n", spec,
                    pass, (int)s->n, (int)s->h, (int)s->w, (int)s->c, (int)s->k, s->kh, s->kw,
                    s->stride, worst, (long long)at, largest);
    assert_true(worst <= sum);
    free(want);
    free(got);
}

static const char *const specs[] = {"cpu:amx", "cpu:amx-emulated"};
static bool runs(const char *spec)
{
    return lgv_cpu_has(spec + 4);
}

static const shape shapes[] = {
    {2, 5, 7, 6, 9, 3, 3, 1, {1, 1, 1, 1}, false},
    {2, 5, 7, 40, 33, 3, 3, 1, {1, 1, 1, 1}, false},
    {3, 4, 4, 64, 96, 3, 3, 1, {1, 1, 1, 1}, false},
    {1, 3, 16, 32, 32, 3, 3, 1, {1, 1, 1, 1}, false},
    {2, 5, 32, 20, 35, 3, 3, 1, {1, 1, 1, 1}, false},
    {1, 45, 32, 64, 5, 3, 3, 1, {1, 1, 1, 1}, false},
    {1, 41, 37, 48, 24, 3, 3, 1, {1, 1, 1, 1}, false},
    {9, 8, 8, 256, 32, 3, 3, 1, {1, 1, 1, 1}, false},
    {1, 5, 18, 24, 4, 2, 4, 1, {1, 0, 0, 2}, false},
    {1, 9, 9, 16, 40, 5, 5, 1, {2, 2, 2, 2}, false},
    {4, 72, 64, 16, 8, 3, 3, 1, {1, 1, 1, 1}, false},
    {3, 7, 6, 3, 20, 3, 3, 1, {1, 1, 1, 1}, false},
    {1, 6, 6, 70, 3, 3, 3, 1, {1, 1, 1, 1}, false},
    {2, 8, 6, 18, 33, 3, 3, 2, {1, 1, 1, 1}, false},
    {2, 9, 7, 4, 5, 3, 3, 2, {0, 0, 1, 1}, false},
    {2, 8, 8, 32, 16, 3, 3, 2, {0, 1, 1, 0}, false},
    {2, 6, 9, 4, 11, 3, 3, 3, {0, 0, 0, 0}, false},
    {1, 9, 8, 5, 4, 2, 2, 3, {0, 0, 0, 0}, false},
    {3, 3, 5, 18, 7, 1, 1, 1, {0, 0, 0, 0}, false},
    {2, 40, 30, 64, 8, 1, 1, 1, {0, 0, 0, 0}, false},
    {1, 1, 1, 2, 3, 3, 3, 1, {1, 1, 1, 1}, false},
    {5, 1, 1, 19, 18, 1, 1, 1, {0, 0, 0, 0}, true},
    {2, 3, 5, 33, 35, 1, 1, 1, {0, 0, 0, 0}, true},
    {3, 1, 7, 520, 260, 1, 1, 1, {0, 0, 0, 0}, true},
    {2, 1, 600, 96, 64, 1, 1, 1, {0, 0, 0, 0}, true},
    {2, 37, 31, 40, 70, 1, 1, 1, {0, 0, 0, 0}, true},  /* several bands of positions */
    {2, 4, 4, 272, 112, 3, 3, 1, {1, 1, 1, 1}, false}, /* dw past the caches */
};
enum { SHAPES = sizeof shapes / sizeof *shapes, SPECS = sizeof specs / sizeof *specs, PASSES = 3 };

static void test_shapes(void **state)
{
    (void)state;
    for (int d = 0; d < SPECS; d++)
        for (int i = 0; i < SHAPES && runs(specs[d]); i++)
            for (int pass = 0; pass < PASSES; pass++) {
                options plain = {.epilogue = LGV_EPI_BIAS},
                        odd = {.slice = 3, .accumulate = true, .wide = true},
                        halo = {.slice = 1, .halo = 1, .epilogue = LGV_EPI_RESIDUAL};
                compare(specs[d], &shapes[i], pass, &plain);
                compare(specs[d], &shapes[i], pass, &odd);
                compare(specs[d], &shapes[i], pass, &halo);
            }
}

static void test_epilogues(void **state)
{
    (void)state;
    static const int chosen[] = {1, 13, 19, 22};
    for (int d = 0; d < SPECS; d++)
        for (unsigned mask = 0; mask < 32 && runs(specs[d]); mask++)
            for (size_t i = 0; i < sizeof chosen / sizeof *chosen; i++) {
                options o = {.epilogue = mask,
                             .slice = (int)(mask % 3),
                             .act = mask & LGV_EPI_ACT ? 1 + (int)(mask % 4) : 0,
                             .wide = mask % 5 == 0};
                compare(specs[d], &shapes[chosen[i]], 0, &o);
            }
}

static void test_nan(void **state)
{
    (void)state;
    options o = {.nan = true};
    for (int d = 0; d < SPECS; d++)
        for (int i = 0; i < SHAPES && runs(specs[d]); i++)
            for (int pass = 0; pass < PASSES; pass++) compare(specs[d], &shapes[i], pass, &o);
}

static void test_threads(void **state)
{
    (void)state;
    options o = {.epilogue = LGV_EPI_BIAS | LGV_EPI_ROW};
    for (int d = 0; d < SPECS; d++)
        for (int i = 0; i < SHAPES && runs(specs[d]); i++)
            for (int pass = 0; pass < PASSES; pass++) {
                size_t bytes = (size_t)result_size(&shapes[i], pass) * sizeof(float);
                float *one = run_case(specs[d], 1, "amx", &shapes[i], pass, &o);
                float *two = run_case(specs[d], 2, "amx", &shapes[i], pass, &o);
                float *seven = run_case(specs[d], 7, "amx", &shapes[i], pass, &o);
                assert_memory_equal(one, two, bytes);
                assert_memory_equal(one, seven, bytes);
                free(one);
                free(two);
                free(seven);
            }
}

/* The first picture's result does not depend on how many follow: forward, and the gradient for data. */
static void test_batches(void **state)
{
    (void)state;
    options o = {.epilogue = LGV_EPI_BIAS};
    for (int d = 0; d < SPECS; d++)
        for (int i = 0; i < SHAPES && runs(specs[d]); i++)
            for (int pass = 0; pass < 2; pass++) {
                shape one = shapes[i], many = shapes[i];
                one.n = 1;
                many.n = 4;
                float *a = run_case(specs[d], 2, "amx", &one, pass, &o),
                      *b = run_case(specs[d], 2, "amx", &many, pass, &o);
                assert_memory_equal(a, b, (size_t)result_size(&one, pass) * sizeof(float));
                free(a);
                free(b);
            }
}

int main(void)
{
    bool any = false;
    for (int d = 0; d < SPECS; d++) any = any || runs(specs[d]);
    if (!any) return 77;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_shapes),  cmocka_unit_test(test_epilogues),
        cmocka_unit_test(test_nan),     cmocka_unit_test(test_threads),
        cmocka_unit_test(test_batches),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
