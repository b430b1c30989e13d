/* test_verify.c - langevin verify on a class-conditional network nobody tuned for: it passes what diffusers computed,
   and fails, with exit code 1, when one output value is off by ten times the tolerance. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "langevin/safetensors.h"

#define FOLDER LGV_SOURCE_DIR "/tests/golden/verify"

static int run(const char *reference, const char *more)
{
    char command[4096];
    snprintf(command, sizeof command, "'%s' verify '%s/model' --reference '%s' %s > /dev/null",
             LGV_PROGRAM, FOLDER, reference, more);
    int status = system(command);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void test_passes(void **state)
{
    (void)state;
    assert_int_equal(run(FOLDER "/reference.safetensors", ""), 0);
    assert_int_equal(run(FOLDER "/reference.safetensors", "--tolerance 1e-5 --json"), 0);
    assert_int_equal(run(FOLDER "/reference.safetensors", "--device cpu:scalar --threads 3"), 0);
    assert_int_equal(run(FOLDER "/reference.safetensors", "--mixed-precision bf16"), 0);
    assert_int_equal(
        run(FOLDER "/reference.safetensors", "--mixed-precision bf16 --tolerance 1e-4"), 1);
}

/* Copies the reference with element i of tensor `name` moved by `delta` times the tensor's largest value. */
static void damage(const char *path, const char *name, int64_t i, double delta)
{
    lgv_error err = {0};
    lgv_safetensors *f = NULL;
    lgv_safetensors_writer *w = NULL;
    float *changed = NULL;
    assert_int_equal(lgv_safetensors_open(FOLDER "/reference.safetensors", &f, &err), LGV_OK);
    assert_int_equal(lgv_safetensors_writer_new(&w, &err), LGV_OK);
    for (size_t k = 0; k < lgv_safetensors_count(f); k++) {
        const lgv_tensor_info *t = lgv_safetensors_at(f, k);
        const void *data = t->data;
        if (!strcmp(t->name, name)) {
            changed = malloc(t->bytes);
            assert_int_equal(lgv_tensor_to_f32(t, changed, &err), LGV_OK);
            float largest = 0;
            for (int64_t j = 0; j < t->count; j++) largest = fmaxf(largest, fabsf(changed[j]));
            changed[i] += (float)(delta * largest);
            data = changed;
        }
        assert_int_equal(lgv_safetensors_add(w, t->name, t->dtype, t->rank, t->dim, data, &err),
                         LGV_OK);
    }
    assert_non_null(changed);
    assert_int_equal(lgv_safetensors_write(w, path, &err), LGV_OK);
    lgv_safetensors_writer_free(w);
    lgv_safetensors_close(f);
    free(changed);
}

static void test_fails(void **state)
{
    (void)state;
    char path[] = "/tmp/langevin-verify-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    damage(path, "output", 17, 10 * 1e-4);
    assert_int_equal(run(path, ""), 1);
    assert_int_equal(run(path, "--tolerance 1e-2"), 0);
    damage(path, "grad.conv_in.weight", 3, 1);
    assert_int_equal(run(path, ""), 1);
    damage(path, "module.mid_block.attentions.0", 5, 10 * 1e-4);
    assert_int_equal(run(path, "--json"), 1);
    damage(path, "output", 0, NAN);
    assert_int_equal(run(path, ""), 1);
    unlink(path);
    assert_int_equal(run(path, "2>&1"), 1); /* no such file */
    assert_int_equal(run(path, "--tolerance -1 2>&1"), 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_passes), cmocka_unit_test(test_fails)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
