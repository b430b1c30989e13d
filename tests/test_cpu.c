/* test_cpu.c - the CPU device: levels, errors, memory, conversion. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "plan/backend.h"

static void test_specs(void **state)
{
    (void)state;
    static const char *const good[] = {NULL, "cpu", "cpu:scalar", "cpu:f64"};
    lgv_error err = {0};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        lgv_device *d = NULL;
        assert_int_equal(lgv_device_new(good[i], 2, &d, &err), LGV_OK);
        assert_int_equal(lgv_device_threads(d), 2);
        assert_int_equal(strncmp(lgv_device_name(d), "cpu:", 4), 0);
        lgv_device_free(d);
    }
    lgv_device *d = NULL;
    assert_int_equal(lgv_device_new("gpu", 1, &d, &err), LGV_ERR_ARGUMENT);
    assert_non_null(strstr(err.text, "'gpu'"));
    assert_int_equal(lgv_device_new("cpu:mmx", 1, &d, &err), LGV_ERR_ARGUMENT);
    assert_int_equal(lgv_device_new("cpu", -1, &d, &err), LGV_ERR_ARGUMENT);
    assert_null(d);
    assert_true(lgv_cpu_has("scalar"));
    assert_false(lgv_cpu_has("mmx"));
    static const char *const specs[] = {"cpu:avx2", "cpu:avx512", "cpu:amx", "cpu:amx-emulated"};
    for (size_t i = 0; i < sizeof specs / sizeof *specs; i++) {
        const char *level = specs[i] + 4, *spec = specs[i];
        lgv_status status = lgv_device_new(spec, 1, &d, &err);
        assert_int_equal(status, lgv_cpu_has(level) ? LGV_OK : LGV_ERR_UNSUPPORTED);
        if (!status) lgv_device_free(d);
    }
    lgv_device_free(NULL);
}

static void test_environment(void **state)
{
    (void)state;
    lgv_error err = {0};
    lgv_device *d = NULL;
    setenv("LANGEVIN_CPU", "scalar", 1);
    assert_int_equal(lgv_device_new("cpu", 1, &d, &err), LGV_OK);
    assert_string_equal(lgv_device_name(d), "cpu:scalar");
    lgv_device_free(d);
    setenv("LANGEVIN_CPU", "fast", 1);
    assert_int_equal(lgv_device_new("cpu", 1, &d, &err), LGV_ERR_ARGUMENT);
    assert_non_null(strstr(err.text, "LANGEVIN_CPU"));
    unsetenv("LANGEVIN_CPU");
}

static const lgv_kernel *first_kernel(lgv_device *d, lgv_opcode op, lgv_dtype dtype)
{
    lgv_attr_conv attr = {.stride = 1, .pad = {1, 1, 1, 1}};
    lgv_tensor x = {.data = d, .dtype = dtype, .rank = 4, .dim = {1, 8, 8, 32}};
    lgv_tensor w = {.data = d, .dtype = LGV_F32, .rank = 4, .dim = {32, 32, 3, 3}};
    lgv_call c = {.op = op, .attr = &attr, .n_in = 2, .n_out = 1, .in = {x, w}, .out = {x}};
    const lgv_kernel *k;
    for (int i = 0; (k = d->kernel(d, op, i)); i++)
        if (!k->accepts || k->accepts(&c)) return k;
    return NULL;
}

/* bf16 goes to the tiles; f32 never does, and gets the kernels of the level below. */
static void test_amx_takes_bf16_only(void **state)
{
    (void)state;
    static const char *const pairs[][2] = {{"cpu:amx", "cpu:avx512"},
                                           {"cpu:amx-emulated", "cpu:avx2"}};
    for (int i = 0; i < 2; i++) {
        lgv_device *amx = NULL, *below = NULL;
        if (!lgv_cpu_has(pairs[i][0] + 4)) continue;
        assert_int_equal(lgv_device_new(pairs[i][0], 1, &amx, NULL), LGV_OK);
        assert_int_equal(lgv_device_new(pairs[i][1], 1, &below, NULL), LGV_OK);
        const lgv_opcode op = LGV_OP_conv2d;
        assert_string_equal(first_kernel(amx, op, LGV_BF16)->name, "amx");
        assert_ptr_equal(first_kernel(amx, op, LGV_F32), first_kernel(below, op, LGV_F32));
        lgv_device_free(amx);
        lgv_device_free(below);
    }
}

static void test_memory(void **state)
{
    (void)state;
    static const char *const spec[] = {"cpu:scalar", "cpu:f64"};
    for (int i = 0; i < 2; i++) {
        lgv_device *d = NULL;
        assert_int_equal(lgv_device_new(spec[i], 1, &d, NULL), LGV_OK);
        assert_int_equal(d->element_size(d, LGV_F32), i ? 8 : 4);
        assert_int_equal(d->element_size(d, LGV_I32), 4);
        unsigned char *p = d->alloc(d, 1000);
        assert_non_null(p);
        assert_int_equal((uintptr_t)p % 64, 0);
        for (int k = 0; k < 1000; k++) assert_int_equal(p[k], 0);
        const float from[5] = {1.0f, -2.5f, 0.1f, INFINITY, 3.0f};
        float back[5];
        d->write(d, LGV_F32, p, from, 5);
        d->read(d, LGV_F32, back, p, 5);
        assert_memory_equal(from, back, sizeof from);
        d->write(d, LGV_BF16, p, from, 5);
        d->read(d, LGV_BF16, back, p, 5);
        assert_true(back[0] == 1.0f && back[1] == -2.5f && fabsf(back[2] - 0.1f) < 4e-4f &&
                    isinf(back[3]));
        d->free(d, p);
        lgv_device_free(d);
    }
}

/* The tests of kernels go through the levels of this machine; a level that it lacks is counted here. */
static void test_level_is_here(void **state)
{
    const char *level = *state;
    if (!lgv_cpu_has(level)) {
        print_message(
            "skipped: no kernel of level %s was tested, this processor or build lacks it\n", level);
        skip();
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_prestate(test_level_is_here, "avx2"),
        cmocka_unit_test_prestate(test_level_is_here, "avx512"),
        cmocka_unit_test_prestate(test_level_is_here, "amx"),
        cmocka_unit_test(test_specs),
        cmocka_unit_test(test_environment),
        cmocka_unit_test(test_amx_takes_bf16_only),
        cmocka_unit_test(test_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
