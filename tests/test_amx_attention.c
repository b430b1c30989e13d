/* test_amx_attention.c - attention in bf16 on AMX tiles against the plain kernels in double on the same rounded
   operands: channel slices, heads, cross lengths, threads and batches. Natively where the processor has AMX,
   and with tile operations in C. Tolerance: 2e-2 of the largest value. Weights, their gradients and the result
   are rounded to bf16 (2^-9 of each), and <dy, y> takes the rounded y; the log-sum-exp is f32 throughout (2e-5). */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernel_value.h"

typedef struct shape {
    int64_t n, lq, lk, heads, d;
    bool picture; /* [N,H,W,C] with H = 3 */
} shape;

static const shape shapes[] = {
    {2, 9, 9, 1, 12, true},     {1, 19, 19, 3, 8, false},    {2, 7, 5, 2, 5, false},
    {1, 64, 77, 2, 40, false},  {1, 300, 130, 1, 16, false}, {1, 1, 1, 1, 4, false},
    {2, 48, 48, 1, 320, true},  {3, 50, 33, 4, 64, false},   {1, 200, 300, 2, 32, false},
    {1, 33, 40, 1, 512, false},
};
enum { SHAPES = sizeof shapes / sizeof *shapes };
static const char *const specs[] = {"cpu:amx", "cpu:amx-emulated"};
enum { SPECS = sizeof specs / sizeof *specs };
static bool runs(const char *spec)
{
    return lgv_cpu_has(spec + 4);
}

static int make_dim(const shape *s, int64_t length, int64_t *dim)
{
    int64_t c = s->heads * s->d;
    if (s->picture) {
        memcpy(dim, (int64_t[]){s->n, 3, length / 3, c}, 4 * sizeof *dim);
        return 4;
    }
    memcpy(dim, (int64_t[]){s->n, length, c, 1}, 4 * sizeof *dim);
    return 3;
}

typedef struct result {
    float *y, *lse, *dq, *dk, *dv;
    int64_t q_size, k_size, lse_size;
} result;

static void free_result(result *r)
{
    free(r->y);
    free(r->lse);
    free(r->dq);
    free(r->dk);
    free(r->dv);
}

static result run_case(const char *spec, int threads, const char *kernel, const shape *s, int slice)
{
    lgv_device *d = NULL;
    assert_int_equal(lgv_device_new(spec, threads, &d, NULL), LGV_OK);
    int64_t q_dim[4], k_dim[4], lse_dim[] = {s->n, s->heads, s->lq};
    lgv_dtype type = strcmp(spec, "cpu:f64") ? LGV_BF16 : LGV_F32;
    int rank = make_dim(s, s->lq, q_dim);
    make_dim(s, s->lk, k_dim);
    kernel_value q = kernel_value_of(d, type, true, rank, q_dim, slice, 0, 1),
                 k = kernel_value_of(d, type, true, rank, k_dim, slice, 0, 2);
    kernel_value v = kernel_value_of(d, type, true, rank, k_dim, slice, 0, 3),
                 y = kernel_value_of(d, type, true, rank, q_dim, slice, 0, 4);
    kernel_value dy = kernel_value_of(d, type, true, rank, q_dim, slice, 0, 5),
                 lse = kernel_value_new(d, 3, lse_dim, 0, 0, 6);
    kernel_value dq = kernel_value_of(d, type, true, rank, q_dim, slice, 0, 7),
                 dk = kernel_value_of(d, type, true, rank, k_dim, slice, 0, 8);
    kernel_value dv = kernel_value_of(d, type, true, rank, k_dim, 2 * slice, 0, 9);
    lgv_attr_attention attr = {.heads = (int)s->heads, .scale = 3 / sqrt((double)s->d)};
    lgv_call c = {.op = LGV_OP_attention,
                  .attr = &attr,
                  .n_in = 3,
                  .n_out = 2,
                  .threads = threads,
                  .pool = d->pool};
    c.in[0] = q.t;
    c.in[1] = k.t;
    c.in[2] = v.t;
    c.out[0] = y.t;
    c.out[1] = lse.t;
    const lgv_kernel *forward = kernel_find(d, &c, kernel);
    assert_non_null(forward);
    kernel_run(d, forward, &c);
    lgv_call g = {.op = LGV_OP_attention_grad,
                  .attr = &attr,
                  .n_in = 6,
                  .n_out = 3,
                  .threads = threads,
                  .pool = d->pool};
    lgv_tensor in[] = {q.t, k.t, v.t, y.t, lse.t, dy.t}, out[] = {dq.t, dk.t, dv.t};
    memcpy(g.in, in, sizeof in);
    memcpy(g.out, out, sizeof out);
    const lgv_kernel *backward = kernel_find(d, &g, kernel);
    assert_non_null(backward);
    kernel_run(d, backward, &g);
    result r = {kernel_value_read(&y),     kernel_value_read(&lse),    kernel_value_read(&dq),
                kernel_value_read(&dk),    kernel_value_read(&dv),     lgv_tensor_elements(&q.t),
                lgv_tensor_elements(&k.t), lgv_tensor_elements(&lse.t)};
    kernel_value *all[] = {&q, &k, &v, &y, &dy, &lse, &dq, &dk, &dv};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) kernel_value_free(all[i]);
    lgv_device_free(d);
    return r;
}

static void assert_near(const char *what, const float *a, const float *b, int64_t n,
                        double tolerance)
{
    double largest = 0, worst = 0;
    for (int64_t i = 0; i < n; i++) {
        double e = fabs((double)a[i] - (double)b[i]);
        worst = e > worst || isnan(e) ? e : worst;
        largest = fmax(largest, fabs((double)a[i]));
    }
    if (!(worst <= tolerance * largest))
        print_error("%s: error %g, largest %g\n", what, worst, largest);
    assert_true(worst <= tolerance * largest);
}

static void test_shapes(void **state)
{
    (void)state;
    for (int i = 0; i < SHAPES; i++) {
        result want = run_case("cpu:f64", 1, "plain", &shapes[i], 0);
        for (int d = 0; d < SPECS; d++)
            for (int slice = 0; slice < 6 && runs(specs[d]); slice += 3) {
                result got = run_case(specs[d], 2, "amx", &shapes[i], slice);
                const double tolerance = 2e-2;
                assert_near("y", want.y, got.y, want.q_size, tolerance);
                assert_near("lse", want.lse, got.lse, want.lse_size, 2e-5);
                /* One key: probabilities are 1, so that dq and dk are zero but for rounding. */
                if (shapes[i].lk > 1) assert_near("dq", want.dq, got.dq, want.q_size, tolerance);
                if (shapes[i].lk > 1) assert_near("dk", want.dk, got.dk, want.k_size, tolerance);
                assert_near("dv", want.dv, got.dv, want.k_size, tolerance);
                free_result(&got);
            }
        free_result(&want);
    }
}

static void assert_equal(const result *a, const result *b, const shape *s, int64_t pictures)
{
    size_t q = (size_t)(a->q_size / s->n * pictures) * sizeof(float),
           k = (size_t)(a->k_size / s->n * pictures) * sizeof(float);
    assert_memory_equal(a->y, b->y, q);
    assert_memory_equal(a->dq, b->dq, q);
    assert_memory_equal(a->dk, b->dk, k);
    assert_memory_equal(a->dv, b->dv, k);
    assert_memory_equal(a->lse, b->lse, (size_t)(a->lse_size / s->n * pictures) * sizeof(float));
}

static void test_bits(void **state)
{
    (void)state;
    for (int d = 0; d < SPECS; d++)
        for (int i = 0; i < SHAPES && runs(specs[d]); i++) {
            shape single = shapes[i];
            single.n = 1;
            result one = run_case(specs[d], 1, "amx", &shapes[i], 0),
                   two = run_case(specs[d], 2, "amx", &shapes[i], 0);
            result seven = run_case(specs[d], 7, "amx", &shapes[i], 0),
                   alone = run_case(specs[d], 2, "amx", &single, 0);
            assert_equal(&one, &two, &shapes[i], shapes[i].n);
            assert_equal(&one, &seven, &shapes[i], shapes[i].n);
            assert_equal(&one, &alone, &shapes[i], 1);
            result *all[] = {&one, &two, &seven, &alone};
            for (int k = 0; k < 4; k++) free_result(all[k]);
        }
}

int main(void)
{
    bool any = false;
    for (int d = 0; d < SPECS; d++) any = any || runs(specs[d]);
    if (!any) return 77;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_shapes),
        cmocka_unit_test(test_bits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
