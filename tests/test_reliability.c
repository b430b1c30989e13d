/* test_reliability.c - runs that go wrong: exploding losses, weights that are no numbers, a second trainer,
   leftovers of a kill, pictures that vanish, every bit of a checkpoint. */
#include <fcntl.h>
#include <math.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "core/file.h"
#include "langevin/rng.h"
#include "ok.h"
#include "scratch.h"
#include "train/trainer.h"
#include "training.h"

static lgv_error err;

static const char *inside(const char *folder, const char *name)
{
    static char path[700];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

static training_setup setup(const char *output)
{
    return (training_setup){.data = scratch_keep("pictures"),
                            .options = {.output_dir = output,
                                        .max_train_steps = 12,
                                        .train_batch_size = 2,
                                        .learning_rate = 1e-3,
                                        .lr_warmup_steps = LGV_OFF,
                                        .seed = 3,
                                        .sample_count = LGV_OFF}};
}

/* ---- the watch over the loss, on losses made up ---- */

/* Steps until the watch stops the run, at most n. Losses spread as real ones do: a factor of e^1.5 / sqrt(rows). */
static int64_t watched(double level(int64_t step), int64_t rows, double growth, int64_t n)
{
    lgv_trainer t = {.effective = rows, .options = {.max_loss_growth = growth}};
    for (int64_t i = 0; i < n; i++) {
        lgv_rng_key key = {.seed = 1, .step = (uint64_t)i};
        float z;
        lgv_rng_normal(&key, 0, 1, &z);
        t.state.step++;
        lgv_watch_loss(&t, level(i) * exp(1.5 / sqrt((double)rows) * z));
        if (lgv_watch_check(&t, &err)) return i + 1;
    }
    return n;
}

static double falling(int64_t i)
{
    return 0.02 + exp(-(double)i / 300);
}
static double bouncing(int64_t i)
{
    return falling(i) * (i % 2000 < 1000 ? 1 : 2.5);
}
static double spike(int64_t i)
{
    return i % 1000 == 500 ? 1e30 : falling(i);
}
static double burst(int64_t i)
{
    return i > 6000 && i <= 6060 ? 1.0 : falling(i);
}
static double plateau(int64_t i)
{
    return i < 6000 ? falling(i) : 1.0;
}
static double runaway(int64_t i)
{
    return i < 60 ? 1.0 : fmin(exp(0.2 * (double)(i - 60)), 1e30);
}

static void a_loss_that_leaves_its_course_is_told_from_bad_luck(void **state)
{
    for (int64_t rows = 1; rows <= 256; rows *= 4) {
        assert_int_equal(watched(falling, rows, 5, 50000), 50000);
        assert_int_equal(watched(bouncing, rows, 5, 50000), 50000);
        assert_int_equal(watched(spike, rows, 5, 50000), 50000);
        assert_int_equal(watched(plateau, rows, LGV_OFF, 20000), 20000);
        int64_t n = watched(plateau, rows, 5, 20000);
        assert_true(n > 6000 && n < 20000);
        assert_non_null(strstr(err.text, "the loss has exploded: "));
        assert_non_null(strstr(err.text, "--learning-rate"));
        if (rows >= 16) assert_true(n < 6400);
        n = watched(runaway, rows, 5, 20000);
        assert_true(n > 60 && n < 10000);
        if (rows >= 64) assert_true(n < 200);
    }
    assert_int_equal(watched(burst, 16, 5, 50000), 50000); /* it recovered */
}

static lgv_status no_number(void *arg, int64_t index, float *x0, lgv_error *e)
{
    const float *value = arg;
    for (int i = 0; i < TRAINING_SIDE * TRAINING_SIDE * TRAINING_CHANNELS; i++) x0[i] = *value;
    return LGV_OK;
}

static void losses_that_are_no_numbers_stop_the_run(void **state)
{
    const char *output = scratch_keep("nan");
    training_setup s = setup(output);
    s.options.checkpointing_steps = 1;
    float x = 0.5f;
    training *t = training_new(&s);
    lgv_trainer_set_source(t->trainer, no_number, &x, 1);
    training_steps(t, 2, NULL);
    OK(lgv_trainer_save(t->trainer, &err));
    uint64_t good = training_hash(t);
    x = NAN;
    s.options.max_train_steps = 40;
    assert_int_equal(lgv_trainer_run(t->trainer, NULL, NULL, &err), LGV_ERR_NUMERIC);
    if (!strstr(err.text, "not finite in 10 steps in a row (up to step 12)") ||
        !strstr(err.text, "checkpoint-2'"))
        fail_msg("%s", err.text);
    assert_true(training_hash(t) == good); /* nothing was written to the weights */
    assert_false(lgv_exists(inside(output, "checkpoint-3"))); /* though one was due at each step */
    training_free(t);
    /* Switched off, it goes on. */
    s.options.max_loss_growth = LGV_OFF;
    s.options.overwrite = 1;
    t = training_new(&s);
    lgv_trainer_set_source(t->trainer, no_number, &x, 1);
    training_steps(t, 15, NULL);
    training_free(t);
}

/* What is saved while the loss is too high replaces nothing. */
static void bad_weights_replace_nothing(void **state)
{
    const char *output = scratch_keep("bad");
    training_setup s = setup(output);
    s.options.checkpoints_total_limit = 1;
    training *t = training_new(&s);
    training_steps(t, 1, NULL);
    OK(lgv_trainer_save(t->trainer, &err));
    char before[65], after[65];
    OK(lgv_sha256_file(inside(output, "unet/diffusion_pytorch_model.safetensors"), before, &err));
    training_steps(t, 1, NULL);
    t->trainer->state.watch.high = 7;
    OK(lgv_trainer_save(t->trainer, &err));
    assert_true(lgv_exists(inside(output, "checkpoint-1")));
    assert_true(lgv_exists(inside(output, "checkpoint-2")));
    OK(lgv_sha256_file(inside(output, "unet/diffusion_pytorch_model.safetensors"), after, &err));
    assert_string_equal(before, after);
    char *good = lgv_checkpoint_last_good(output);
    assert_non_null(strstr(good, "checkpoint-1"));
    lgv_free(good);
    /* Weights that are no numbers are not saved at all. */
    t->trainer->state.watch.high = 0;
    training_steps(t, 1, NULL);
    lgv_store *store = lgv_trainer_store(t->trainer);
    int rank, frozen;
    int64_t dim[LGV_MAX_RANK], n = 1;
    lgv_store_at(store, 0, &rank, dim, &frozen);
    for (int i = 0; i < rank; i++) n *= dim[i];
    float *x = calloc((size_t)n, sizeof *x);
    x[n / 2] = INFINITY;
    OK(lgv_store_write(store, "ema", 0, x, n, &err));
    assert_int_equal(lgv_trainer_save(t->trainer, &err), LGV_ERR_NUMERIC);
    assert_non_null(strstr(err.text, "checkpoint 3 was not saved: "));
    assert_false(lgv_exists(inside(output, "checkpoint-3")));
    assert_true(lgv_exists(inside(output, "checkpoint-1")));
    free(x);
    training_free(t);
}

/* ---- two trainers, leftovers ---- */

static void hold_the_folder(const char *output, int ready)
{
    training_setup s = setup(output);
    training *t;
    if (training_try(&s, &t, NULL) || write(ready, "1", 1) != 1) _exit(1);
    for (;;) pause();
}

static void a_second_trainer_is_told_who_holds_the_folder(void **state)
{
    const char *output = scratch_keep("held");
    int ready[2];
    char byte, who[64], host[256] = "";
    assert_int_equal(pipe(ready), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) hold_the_folder(output, ready[1]);
    assert_int_equal(read(ready[0], &byte, 1), 1);
    training_setup s = setup(output);
    s.options.overwrite = 1; /* must not clear the other's folder */
    training *t = NULL;
    gethostname(host, sizeof host - 1);
    snprintf(who, sizeof who, "(process %ld on %.30s", (long)child, host);
    assert_int_equal(training_try(&s, &t, &err), LGV_ERR_EXISTS);
    if (!strstr(err.text, "another training run is writing to") || !strstr(err.text, who))
        fail_msg("%s", err.text);
    assert_true(lgv_exists(inside(output, "langevin.json")));
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    close(ready[0]);
    close(ready[1]);
    t = training_new(&s); /* the lock went with its process */
    training_free(t);
}

static void leftovers_of_a_kill_are_cleared(void **state)
{
    const char *output = scratch_keep("leftovers");
    training_setup s = setup(output);
    training *t = training_new(&s);
    training_steps(t, 1, NULL);
    OK(lgv_trainer_save(t->trainer, &err));
    training_free(t);
    static const char *const stale[] = {
        "unet/diffusion_pytorch_model.safetensors.tmp-123-0", "unet/config.json.tmp-4194304-12",
        "scheduler/scheduler_config.json.tmp-1-0", "langevin.json.tmp-77-1"};
    static const char *const mine[] = {"notes.tmp-old", "unet/a.tmp-1", ".tmp-1-1.txt"};
    OK(lgv_make_dir(inside(output, ".tmp-9/unet"), &err));
    for (size_t i = 0; i < 4; i++) scratch_write(inside(output, stale[i]), "x", 1);
    for (size_t i = 0; i < 2; i++) scratch_write(inside(output, mine[i]), "x", 1);
    /* A kill between checkpoint and refresh, or another program: the model is not that of the checkpoint. */
    char before[65], after[65];
    const char *model = scratch_keep("leftovers/unet/diffusion_pytorch_model.safetensors");
    OK(lgv_sha256_file(model, before, &err));
    scratch_write(model, "older", 5);
    s.resume = "latest";
    t = training_new(&s);
    training_free(t);
    for (size_t i = 0; i < 4; i++)
        if (lgv_exists(inside(output, stale[i]))) fail_msg("%s is still there", stale[i]);
    for (size_t i = 0; i < 2; i++)
        if (!lgv_exists(inside(output, mine[i]))) fail_msg("%s is gone", mine[i]);
    assert_false(lgv_exists(inside(output, ".tmp-9")));
    OK(lgv_sha256_file(model, after, &err));
    assert_string_equal(before, after);
}

/* A kill while an old run is removed: what lay half removed under its hidden name is no checkpoint and is cleared;
   a folder that only looks like a checkpoint is not ours. */
static void an_old_run_is_removed_safely(void **state)
{
    const char *output = scratch_keep("replaced");
    training_setup s = setup(output);
    training *t = training_new(&s);
    training_steps(t, 1, NULL);
    OK(lgv_trainer_save(t->trainer, &err));
    training_free(t);
    OK(lgv_rename(inside(output, "checkpoint-1"), scratch_keep("replaced/.tmp-old-checkpoint-1"),
                  &err));
    OK(lgv_make_dir(inside(output, "checkpoint-best"), &err));
    int64_t *step;
    size_t count;
    OK(lgv_checkpoints_list(output, &step, &count, &err));
    assert_int_equal(count, 0);
    lgv_free(step);
    s.options.overwrite = 1;
    t = training_new(&s);
    assert_false(lgv_exists(inside(output, ".tmp-old-checkpoint-1")));
    assert_true(lgv_exists(inside(output, "checkpoint-best")));
    training_steps(t, 1, NULL);
    OK(lgv_trainer_save(t->trainer, &err));
    training_free(t);
    /* Removing goes on where an earlier attempt stopped. */
    OK(lgv_make_dir(inside(output, ".tmp-old-checkpoint-1/unet"), &err));
    OK(lgv_output_remove(inside(output, "checkpoint-1"), &err));
    assert_false(lgv_exists(inside(output, "checkpoint-1")));
    assert_false(lgv_exists(inside(output, ".tmp-old-checkpoint-1")));
}

/* ---- every file of a checkpoint ---- */

static void flip(const char *path, long at, int bit)
{
    FILE *f = fopen(path, "r+b");
    assert_non_null(f);
    fseek(f, at, SEEK_SET);
    int c = fgetc(f);
    fseek(f, at, SEEK_SET);
    fputc(c ^ 1 << bit, f);
    fclose(f);
}

static long size_of(const char *path)
{
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    fseek(f, 0, SEEK_END);
    long n = ftell(f);
    fclose(f);
    return n;
}

static void one_bit_anywhere_is_found(void **state)
{
    const char *output = scratch_keep("bits");
    training_setup s = setup(output);
    training *t = training_new(&s);
    for (int i = 0; i < 2; i++) {
        training_steps(t, 1, NULL);
        OK(lgv_trainer_save(t->trainer, &err));
    }
    training_free(t);
    static const char *const files[] = {"trainer.json",
                                        "optimizer.safetensors",
                                        "model_index.json",
                                        "unet/config.json",
                                        "unet/diffusion_pytorch_model.safetensors",
                                        "unet_ema/config.json",
                                        "unet_ema/diffusion_pytorch_model.safetensors",
                                        "scheduler/scheduler_config.json"};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        char path[700];
        snprintf(path, sizeof path, "%s/checkpoint-2/%s", output, files[i]);
        long size = size_of(path);
        for (int k = 0; k < 8; k++) { /* spread over the file, each bit of a byte once */
            long at = (2 * k + 1) * size / 16;
            lgv_checkpoint *c = NULL;
            flip(path, at, k);
            if (lgv_checkpoint_find(output, "latest", 0, &c, &err) != LGV_ERR_FORMAT)
                fail_msg("%s: bit %d of byte %ld is not missed", files[i], k, at);
            if (!strstr(err.text, files[i]) || !strstr(err.text, "checkpoint-1'"))
                fail_msg("%s", err.text);
            flip(path, at, k);
        }
    }
    lgv_checkpoint *c = NULL;
    OK(lgv_checkpoint_find(output, "latest", 0, &c, &err)); /* all as before */
    assert_int_equal(lgv_checkpoint_step(c), 2);
    lgv_checkpoint_free(c);
}

static int make_pictures(void **state)
{
    training_pictures("pictures", 10, 20, 3);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_loss_that_leaves_its_course_is_told_from_bad_luck),
        cmocka_unit_test(losses_that_are_no_numbers_stop_the_run),
        cmocka_unit_test(bad_weights_replace_nothing),
        cmocka_unit_test(a_second_trainer_is_told_who_holds_the_folder),
        cmocka_unit_test(leftovers_of_a_kill_are_cleared),
        cmocka_unit_test(an_old_run_is_removed_safely),
        cmocka_unit_test(one_bit_anywhere_is_found),
    };
    return cmocka_run_group_tests(tests, make_pictures, scratch_remove);
}
