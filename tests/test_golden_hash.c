/* test_golden_hash.c - the golden values made here equal those of tools/golden/common.py. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "golden.h"

/* Inputs in the files are hash values of their own names: both sides must make the same bits. */
static void inputs_are_the_file_s(void **state)
{
    static const char *const names[] = {"input.sample", "input.target"};
    lgv_safetensors *f = golden_open("unet2d_plain");
    for (int k = 0; k < 2; k++) {
        int64_t count = 0;
        float *stored = golden_floats(f, names[k], &count);
        float *made = malloc((size_t)count * sizeof *made);
        assert_non_null(made);
        golden_unit(names[k], count, made);
        assert_memory_equal(made, stored, (size_t)count * sizeof *made);
        free(stored);
        free(made);
    }
    lgv_safetensors_close(f);
}

/* Parameters, by the initial values of the optimizer case (0.5 r) and by figures from common.py. */
static void parameters_of_every_kind(void **state)
{
    lgv_safetensors *f = golden_open("optimizer_default");
    float *stored = golden_floats(f, "param.c", NULL), made[54];
    golden_unit("param.c", 54, made);
    for (int i = 0; i < 54; i++) made[i] *= 0.5f;
    assert_memory_equal(made, stored, sizeof made);
    free(stored);
    lgv_safetensors_close(f);

    struct {
        const char *name;
        int rank;
        int64_t dim[4];
        float last;
    } cases[] = {
        {"conv_in.weight", 4, {2, 3, 3, 3}, -0.0499589741f},
        {"mid_block.attentions.0.to_k.weight", 2, {6, 5}, -0.178100571f},
        {"conv_norm_out.weight", 1, {7}, 0.966815472f},
        {"conv_in.bias", 1, {3}, -0.115596771f},
        {"time_proj.weight", 1, {9}, -3.21255875f},
        {"time_proj.weight", 2, {4, 5}, -0.953084707f},
        {"class_embedding.weight", 2, {3, 8}, 0.518232584f},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        float x[64];
        int64_t count = 1;
        for (int k = 0; k < cases[i].rank; k++) count *= cases[i].dim[k];
        golden_parameter(cases[i].name, cases[i].rank, cases[i].dim, x);
        if (x[count - 1] != cases[i].last)
            fail_msg("%s: %.9g, expected %.9g", cases[i].name, x[count - 1], cases[i].last);
    }
}

/* A summary of a gradient made here has no error against itself, and a changed entry shows. */
static void summaries_measure(void **state)
{
    lgv_safetensors *f = golden_open("train_plain");
    int64_t n = 0;
    float *start = golden_floats(f, "init.conv_in.weight", NULL);
    float *end = golden_floats(f, "final.conv_in.weight", &n);
    float *ema = golden_floats(f, "ema.conv_in.weight", NULL);
    assert_int_equal(n, 16 * 3 * 9);
    /* Ten steps of 1e-4 at most: the summaries of start, end and average lie close, but
       are not the same. */
    double from_start = golden_gradient_error("conv_in.weight", end, n, start, 0);
    double from_ema = golden_gradient_error("conv_in.weight", end, n, ema, 0);
    assert_true(from_start > 1e-4 && from_start < 1e-2);
    assert_true(from_ema > 1e-6 && from_ema < from_start);
    assert_true(golden_error(end, end, n, 0) == 0);
    end[5] = NAN;
    assert_true(isinf(golden_gradient_error("conv_in.weight", end, n, start, 0)));
    assert_true(isinf(golden_error(end, end, n, 0)));
    free(start);
    free(end);
    free(ema);
    lgv_safetensors_close(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(inputs_are_the_file_s),
        cmocka_unit_test(parameters_of_every_kind),
        cmocka_unit_test(summaries_measure),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
