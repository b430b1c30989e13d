/* test_json_output.c - what --json prints is one JSON document and nothing else, with the keys that
   docs/json.md names. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include <cmocka.h>
#include <jansson.h>

#include "langevin/rng.h"
#include "langevin/safetensors.h"
#include "scratch.h"
#include "training.h"

/* The document that the program prints with these arguments; the exit code must be `want`. */
static json_t *document(int want, const char *fmt, ...)
{
    char arguments[2048], command[3072], *text = NULL;
    size_t size = 0, room = 0;
    va_list list;
    va_start(list, fmt);
    vsnprintf(arguments, sizeof arguments, fmt, list);
    va_end(list);
    snprintf(command, sizeof command, "'%s' %s --json --threads 1", LGV_PROGRAM, arguments);
    FILE *f = popen(command, "r");
    assert_non_null(f);
    for (size_t n = 1; n; size += n) {
        if (room < size + 4096) assert_non_null(text = realloc(text, room = size * 2 + 8192));
        n = fread(text + size, 1, 4096, f);
    }
    int status = pclose(f);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != want)
        fail_msg("%s: status %d, wanted %d", arguments, status, want);
    json_error_t why;
    json_t *root = json_loadb(text, size, JSON_REJECT_DUPLICATES, &why);
    if (!root)
        fail_msg("%s: %s in line %d of:\n%.*s", arguments, why.text, why.line, (int)size, text);
    free(text);
    return root;
}

/* keys: "a b c"; "a.b" is b of the object a. */
static void has(json_t *root, const char *keys)
{
    char copy[1024], *save = NULL;
    snprintf(copy, sizeof copy, "%s", keys);
    for (char *key = strtok_r(copy, " ", &save); key; key = strtok_r(NULL, " ", &save)) {
        char *dot = strchr(key, '.');
        if (dot) *dot = 0;
        json_t *v = json_object_get(root, key);
        if (!v || (dot && !json_object_get(v, dot + 1)))
            fail_msg("no key '%s%s%s'", key, dot ? "." : "", dot ? dot + 1 : "");
    }
    json_decref(root);
}

static const char *config(void)
{
    const char *path = scratch_path("tiny.json");
    scratch_write(path, training_config, strlen(training_config));
    return path;
}

static void plan_prints_a_document(void **state)
{
    has(document(0, "plan '%s' --mode train --batch-size 2 --resolution 16", config()),
        "source mode mixed_precision batch_size size device threads parameters store_bytes sets "
        "packed_bytes "
        "arena_bytes workspace_bytes io_bytes total_bytes nodes recomputed flops expected_seconds "
        "floor_seconds "
        "peaks.flops peaks.matrix_flops peaks.bytes");
    has(document(0, "plan '%s' --mode sample --resolution 16", config()), "mode total_bytes");
}

static void bench_prints_a_document(void **state)
{
    has(document(0, "bench '%s' --resolution 16 --batch-size 1 --rounds 1", config()),
        "seconds_per_step source mode batch_size size parameters flops planned_bytes "
        "resident_bytes device "
        "mixed_precision threads");
    has(document(0, "bench '%s' --resolution 16 --batch-size 1 --rounds 1 --mode sample --profile",
                 config()),
        "profile.peaks profile.all profile.operators");
}

static void info_prints_a_document(void **state)
{
    has(document(0, "info '%s' --trace --plan --resolution 16", config()),
        "source class in_channels out_channels size divisor parameters tensors weights scheduler "
        "classes class_names labels "
        "batch_size device threads mixed_precision sample.flops train.activation_bytes stages "
        "plan");
    training_pictures("shown", 12, 20, 3);
    has(document(0, "info '%s'", scratch_path("shown")),
        "source pictures validation median_short_side resolution channels fingerprint classes");
}

/* A network's output and a reference that says something else: a document all the same. */
static void verify_prints_a_document(void **state)
{
    lgv_error err;
    lgv_safetensors_writer *w;
    training_pictures("verified", 6, 16, 3);
    const training_setup setup = {.data = scratch_path("verified"),
                                  .options = {.output_dir = scratch_path("run"),
                                              .max_train_steps = 1,
                                              .train_batch_size = 2,
                                              .sample_count = LGV_OFF}};
    training *t = training_new(&setup);
    training_steps(t, 1, NULL);
    assert_int_equal(lgv_trainer_save(t->trainer, &err), LGV_OK);
    training_free(t);
    float x[3 * 256] = {0}, step = 5;
    assert_int_equal(lgv_safetensors_writer_new(&w, &err), LGV_OK);
    lgv_safetensors_add(w, "input.sample", LGV_F32, 4, (int64_t[]){1, 3, 16, 16}, x, &err);
    lgv_safetensors_add(w, "input.timestep", LGV_F32, 1, (int64_t[]){1}, &step, &err);
    lgv_safetensors_add(w, "output", LGV_F32, 4, (int64_t[]){1, 3, 16, 16}, x, &err);
    assert_int_equal(lgv_safetensors_write(w, scratch_path("ref.safetensors"), &err), LGV_OK);
    lgv_safetensors_writer_free(w);
    has(document(1, "verify '%s' --reference '%s'", scratch_path("run"),
                 scratch_path("ref.safetensors")),
        "model reference device mixed_precision tolerance passed checked failed tensors");
}

static void save_features(const char *path, int n, int seed)
{
    lgv_error err;
    lgv_safetensors_writer *w;
    float x[40 * 4];
    lgv_rng_normal(&(lgv_rng_key){.seed = (uint64_t)seed}, 0, 40 * 4, x);
    assert_int_equal(lgv_safetensors_writer_new(&w, &err), LGV_OK);
    lgv_safetensors_add(w, "features", LGV_F32, 2, (int64_t[]){n, 4}, x, &err);
    assert_int_equal(lgv_safetensors_write(w, path, &err), LGV_OK);
    lgv_safetensors_writer_free(w);
}

static void eval_prints_a_document(void **state)
{
    save_features(scratch_path("a.safetensors"), 30, 1);
    save_features(scratch_path("b.safetensors"), 40, 2);
    has(document(0, "eval '%s' --data '%s'", scratch_path("a.safetensors"),
                 scratch_path("b.safetensors")),
        "source kind data generated reference feature_width frechet_distance.value "
        "frechet_distance.low "
        "precision.value recall.high device seconds");
    training_pictures("judged", 12, 16, 3);
    has(document(0, "eval '%s' --data '%s' --nearest '%s'", scratch_path("judged"),
                 scratch_path("judged"), scratch_path("sheet.png")),
        "source kind data generated copies.value nearest");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(plan_prints_a_document), cmocka_unit_test(bench_prints_a_document),
        cmocka_unit_test(info_prints_a_document), cmocka_unit_test(verify_prints_a_document),
        cmocka_unit_test(eval_prints_a_document),
    };
    return cmocka_run_group_tests_name("json output", tests, NULL, scratch_remove);
}
