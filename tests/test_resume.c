/* test_resume.c - checkpoints: a run that was stopped goes on bit for bit, damage is found and
   named, a kill at any moment leaves whole checkpoints, and folders are not overwritten. */
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>
#include <jansson.h>

#include "core/file.h"
#include "ok.h"
#include "scratch.h"
#include "train/trainer.h"
#include "training.h"

static lgv_error err;

static bool exists(const char *folder, const char *name)
{
    char path[600];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return lgv_exists(path);
}

/* 4-picture batches of 10 pictures: epochs end inside batches (philox) or drop two (torch). */
static training_setup setup(const char *output, lgv_rng_kind rng)
{
    return (training_setup){.data = scratch_keep("pictures"),
                            .data_options = {.random_flip = 1},
                            .options = {.output_dir = output,
                                        .max_train_steps = 8,
                                        .train_batch_size = 2,
                                        .gradient_accumulation_steps = 2,
                                        .learning_rate = 1e-3,
                                        .lr_scheduler = LGV_LR_COSINE,
                                        .lr_warmup_steps = 2,
                                        .noise_offset = 0.1,
                                        .seed = 11,
                                        .rng = rng,
                                        .sample_count = LGV_OFF}};
}

static void unbroken(training_setup s, uint64_t *hash, double loss[8])
{
    s.options.output_dir = NULL;
    training *t = training_new(&s);
    training_steps(t, 8, loss);
    *hash = training_hash(t);
    training_free(t);
}

static void resumes(lgv_rng_kind rng, lgv_mixed_precision precision, const char *output, int at)
{
    uint64_t want;
    double whole[8], part[8];
    training_setup s = setup(output, rng);
    s.options.mixed_precision = precision;
    unbroken(s, &want, whole);
    training *t = training_new(&s);
    training_steps(t, at, part);
    OK(lgv_trainer_save(t->trainer, &err));
    training_steps(t, 1, part + at); /* lost by the "kill" */
    training_free(t);
    /* Only the folder is stated: everything else comes from the checkpoint. */
    training *u = training_new(&(training_setup){.data = scratch_keep("pictures"),
                                                 .threads = 2,
                                                 .resume = "latest",
                                                 .options = {.output_dir = output}});
    assert_int_equal(lgv_checkpoint_step(u->resume), at);
    assert_int_equal(lgv_checkpoint_changes(u->resume), 0);
    for (int i = 0; i < lgv_trainer_notes(u->trainer); i++)
        if (strstr(lgv_trainer_note_at(u->trainer, i), "bit-exact"))
            fail_msg("%s", lgv_trainer_note_at(u->trainer, i));
    training_steps(u, 8 - at, part + at);
    assert_memory_equal(whole, part, sizeof whole);
    assert_true(training_hash(u) == want);
    training_free(u);
}

static void philox_run_resumes_bit_for_bit(void **state)
{
    resumes(LGV_RNG_PHILOX, LGV_MIXED_DEFAULT, scratch_keep("philox3"), 3);
    resumes(LGV_RNG_PHILOX, LGV_MIXED_DEFAULT, scratch_keep("philox5"), 5);
}

static void torch_run_resumes_bit_for_bit(void **state)
{
    resumes(LGV_RNG_TORCH, LGV_MIXED_DEFAULT, scratch_keep("torch3"),
            3); /* in the middle of an epoch */
    resumes(LGV_RNG_TORCH, LGV_MIXED_DEFAULT, scratch_keep("torch4"), 4); /* at its end */
}

static void bf16_run_resumes_bit_for_bit(void **state)
{
    resumes(LGV_RNG_PHILOX, LGV_MIXED_BF16, scratch_keep("bf16"), 3);
}

/* ---- the whole loop ---- */

typedef struct seen {
    int steps, saved, validated, stop_at;
} seen;

static int watch(void *user, const lgv_train_event *event)
{
    seen *s = user;
    s->saved += event->kind == LGV_TRAIN_SAVED;
    s->validated += event->kind == LGV_TRAIN_VALIDATED;
    if (event->kind == LGV_TRAIN_STEPPED) s->steps++;
    return event->kind == LGV_TRAIN_STEPPED && event->report->step == s->stop_at;
}

/* Lines of the log that belong to steps; fails when a line is no JSON or a step comes twice. */
static int log_lines(const char *output)
{
    char path[600], line[2000];
    snprintf(path, sizeof path, "%s/log.jsonl", output);
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    int n = 0;
    json_int_t last = 0;
    while (fgets(line, sizeof line, f)) {
        json_t *root = json_loads(line, 0, NULL);
        assert_non_null(root);
        if (json_object_get(root, "loss")) {
            json_int_t step = json_integer_value(json_object_get(root, "step"));
            assert_int_equal(step, last + 1);
            last = step;
            n++;
        }
        json_decref(root);
    }
    fclose(f);
    return n;
}

static void a_run_that_is_stopped_goes_on(void **state)
{
    const char *output = scratch_keep("run");
    uint64_t want;
    double loss[8];
    training_setup s = setup(output, LGV_RNG_PHILOX);
    unbroken(s, &want, loss);
    s.options.checkpointing_steps = 2;
    s.options.checkpoints_total_limit = 2;
    s.data_options.validation = LGV_OFF;
    seen w = {.stop_at = 5};
    training *t = training_new(&s);
    assert_int_equal(lgv_trainer_run(t->trainer, watch, &w, &err), LGV_ERR_CANCELLED);
    assert_non_null(strstr(err.text, "checkpoint-5"));
    training_free(t);
    assert_int_equal(w.steps, 5);
    assert_int_equal(w.saved, 3); /* 2, 4 and the stop */
    assert_false(exists(output, "checkpoint-2"));
    assert_true(exists(output, "checkpoint-4/unet_ema/diffusion_pytorch_model.safetensors"));
    assert_true(exists(output, "checkpoint-5/trainer.json"));
    assert_int_equal(log_lines(output), 5);
    /* Go on from an earlier one: the log is cut back. */
    w = (seen){0};
    char from[600];
    snprintf(from, sizeof from, "%s/checkpoint-4", output);
    t = training_new(
        &(training_setup){.data = s.data, .resume = from, .options = {.output_dir = output}});
    OK(lgv_trainer_run(t->trainer, watch, &w, &err));
    assert_true(training_hash(t) == want);
    training_free(t);
    assert_int_equal(w.steps, 4);
    assert_int_equal(log_lines(output), 8);
    assert_true(exists(output, "unet/config.json"));
    assert_true(exists(output, "unet/diffusion_pytorch_model.safetensors"));
    assert_true(exists(output, "scheduler/scheduler_config.json"));
    assert_true(exists(output, "model_index.json"));
    assert_true(exists(output, "langevin.json"));
    assert_true(exists(output, "checkpoint-8"));
    assert_false(exists(output, "checkpoint-4"));
}

static void validation_is_repeatable(void **state)
{
    training_setup s = setup(NULL, LGV_RNG_PHILOX);
    s.data_options.validation = 3;
    training *t = training_new(&s);
    lgv_validation a, b;
    training_steps(t, 1, NULL);
    uint64_t before = training_hash(t);
    OK(lgv_trainer_validate(t->trainer, &a, &err));
    OK(lgv_trainer_validate(t->trainer, &b, &err));
    assert_memory_equal(&a, &b, sizeof a);
    assert_int_equal(a.pictures, 3);
    assert_true(a.loss > 0.1 && a.loss < 10);
    assert_true(training_hash(t) == before);
    training_free(t);
}

/* ---- options on resume ---- */

static void changed_options_are_named(void **state)
{
    const char *output = scratch_keep("changed");
    training_setup s = setup(output, LGV_RNG_PHILOX);
    training *t = training_new(&s);
    training_steps(t, 2, NULL);
    OK(lgv_trainer_save(t->trainer, &err));
    training_free(t);
    training_setup more = {.data = s.data,
                           .resume = "latest",
                           .options = {.output_dir = output,
                                       .max_train_steps = 20,
                                       .learning_rate = 5e-4,
                                       .train_batch_size = 4,
                                       .gradient_accumulation_steps = 1}};
    t = training_new(&more);
    lgv_trainer_info info;
    lgv_trainer_describe(t->trainer, &info);
    assert_int_equal(info.options.max_train_steps, 20);
    assert_int_equal(info.lr_horizon, 8); /* the schedule keeps the length it started with */
    assert_int_equal(info.options.seed, 11);
    assert_true(info.options.noise_offset == 0.1);
    int rate = 0, inexact = 0;
    for (int i = 0; i < lgv_checkpoint_changes(t->resume); i++) {
        const char *line = lgv_checkpoint_change_at(t->resume, i);
        rate += !strncmp(line, "learning_rate: 0.0005, was 0.001", 32);
        inexact += !strncmp(line, "not bit-exact: train_batch_size", 31);
    }
    assert_int_equal(rate, 1);
    assert_int_equal(inexact, 1);
    training_steps(t, 1, NULL);
    training_free(t);
    /* Other pictures are an error unless allowed. */
    training_pictures("others", 10, 16, 3);
    training_setup other = {
        .data = scratch_keep("others"), .resume = "latest", .options = {.output_dir = output}};
    scratch_write(scratch_path("others/extra.png"), "\x89PNG\r\n\x1a\n", 8);
    assert_int_not_equal(training_try(&other, &t, &err), LGV_OK);
    assert_non_null(strstr(err.text, "--allow-data-change"));
    other.options.allow_data_change = 1;
    t = training_new(&other);
    assert_non_null(strstr(lgv_trainer_note_at(t->trainer, 0), "not bit-exact: the pictures"));
    training_free(t);
    other.options.rng = LGV_RNG_TORCH;
    assert_int_not_equal(training_try(&other, &t, &err), LGV_OK);
    assert_non_null(strstr(err.text, "philox"));
}

/* Weights do not depend on it, so a run may go on in the other precision, which says so. */
static void another_precision_is_named(void **state)
{
    const char *output = scratch_keep("precision");
    training_setup s = setup(output, LGV_RNG_PHILOX);
    s.options.mixed_precision = LGV_MIXED_BF16;
    training *t = training_new(&s);
    training_steps(t, 2, NULL);
    OK(lgv_trainer_save(t->trainer, &err));
    training_free(t);
    training_setup more = {.data = s.data,
                           .resume = "latest",
                           .options = {.output_dir = output, .mixed_precision = LGV_MIXED_NO}};
    t = training_new(&more);
    assert_int_equal(lgv_checkpoint_changes(t->resume), 1);
    assert_string_equal(lgv_checkpoint_change_at(t->resume, 0),
                        "not bit-exact: mixed_precision: \"no\", was \"bf16\"");
    int kernels = 0;
    for (int i = 0; i < lgv_trainer_notes(t->trainer); i++)
        kernels += !!strstr(lgv_trainer_note_at(t->trainer, i), "other kernels or shapes");
    assert_int_equal(kernels, 1); /* the plan's digest knows element types */
    training_steps(t, 1, NULL);
    training_free(t);
}

/* ---- damage ---- */

static void cut_short(const char *path)
{
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(truncate(path, st.st_size / 2), 0);
}

static void flip_bit(const char *path)
{
    FILE *f = fopen(path, "r+b");
    assert_non_null(f);
    fseek(f, -20, SEEK_END);
    int c = fgetc(f);
    fseek(f, -20, SEEK_END);
    fputc(c ^ 1, f);
    fclose(f);
}

static void damage(const char *file, void (*how)(const char *path), const char *part)
{
    const char *output = scratch_keep("damage");
    lgv_remove_tree(output, NULL);
    training_setup s = setup(output, LGV_RNG_PHILOX);
    training *t = training_new(&s);
    for (int i = 0; i < 2; i++) {
        training_steps(t, 1, NULL);
        OK(lgv_trainer_save(t->trainer, &err));
    }
    training_free(t);
    char path[700];
    snprintf(path, sizeof path, "%s/checkpoint-2/%s", output, file);
    how(path);
    lgv_checkpoint *c = NULL;
    assert_int_equal(lgv_checkpoint_find(output, "latest", 0, &c, &err), LGV_ERR_FORMAT);
    assert_null(c);
    if (!strstr(err.text, part) || !strstr(err.text, "checkpoint-1'")) fail_msg("%s", err.text);
    snprintf(path, sizeof path, "%s/checkpoint-1", output);
    OK(lgv_checkpoint_find(output, path, 0, &c, &err));
    assert_int_equal(lgv_checkpoint_step(c), 1);
    lgv_checkpoint_free(c);
}

static void damage_is_found_and_the_good_one_named(void **state)
{
    damage("optimizer.safetensors", cut_short, "optimizer.safetensors");
    damage("unet/diffusion_pytorch_model.safetensors", flip_bit,
           "unet/diffusion_pytorch_model.safetensors");
    damage("trainer.json", cut_short, "trainer.json");
    damage("trainer.json", flip_bit, "trainer.json");
}

/* ---- kill ---- */

static void run_until_killed(const char *output)
{
    training_setup s = setup(output, LGV_RNG_PHILOX);
    s.options.checkpointing_steps = 1;
    s.options.max_train_steps = 100000;
    s.options.lr_schedule_steps = 8;
    s.resume = "latest";
    training *t;
    if (training_try(&s, &t, NULL)) _exit(1);
    lgv_trainer_run(t->trainer, NULL, NULL, NULL);
    _exit(2);
}

static void wait_beyond(const char *output, int64_t step)
{
    for (int tries = 0; tries < 3000; tries++, usleep(10000)) {
        int64_t *list;
        size_t count;
        OK(lgv_checkpoints_list(output, &list, &count, &err));
        bool beyond = count && list[count - 1] > step;
        lgv_free(list);
        if (beyond) return;
    }
    fail_msg("no new checkpoint within 30 seconds");
}

/* A child that does little else than save is killed at random moments; whatever it left must open.
 */
static void kill_leaves_whole_checkpoints(void **state)
{
    const char *output = scratch_keep("killed");
    int64_t last = 0;
    for (int k = 0; k < 6; k++) {
        pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0) run_until_killed(output);
        wait_beyond(output, last);
        usleep((unsigned)k * 7123);
        kill(child, SIGKILL);
        int status;
        waitpid(child, &status, 0);
        assert_true(WIFSIGNALED(status));
        lgv_checkpoint *c = NULL;
        OK(lgv_checkpoint_find(output, "latest", 0, &c, &err));
        if (!c) continue; /* killed before the first */
        assert_true(lgv_checkpoint_step(c) >= last);
        last = lgv_checkpoint_step(c);
        lgv_checkpoint_free(c);
    }
    training_setup s = {
        .data = scratch_keep("pictures"), .resume = "latest", .options = {.output_dir = output}};
    training *t = training_new(&s);
    training_steps(t, 1, NULL);
    training_free(t);
    lgv_names names;
    OK(lgv_list_dir(output, &names, &err));
    for (size_t i = 0; i < names.count; i++) assert_null(strstr(names.name[i], ".tmp-"));
    lgv_names_free(&names);
    print_message("killed six times, reached step %lld\n", (long long)last);
}

/* ---- a full disk ---- */

/* The child may write no file larger than a few bytes, as on a full disk. */
static void save_without_room(const char *output)
{
    training_setup s = setup(output, LGV_RNG_PHILOX);
    training *t;
    if (training_try(&s, &t, NULL)) _exit(1);
    lgv_error e = {0};
    if (lgv_trainer_step(t->trainer, NULL, &e) || lgv_trainer_save(t->trainer, &e)) _exit(2);
    if (lgv_trainer_step(t->trainer, NULL, &e)) _exit(3);
    signal(SIGXFSZ, SIG_IGN);
    if (setrlimit(RLIMIT_FSIZE, &(struct rlimit){4096, 4096})) _exit(4);
    if (lgv_trainer_save(t->trainer, &e) != LGV_ERR_IO) _exit(5);
    if (!strstr(e.text, "checkpoint 2 was not saved")) _exit(6);
    _exit(0);
}

static void a_full_disk_loses_nothing(void **state)
{
    const char *output = scratch_keep("full");
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) save_without_room(output);
    int status;
    waitpid(child, &status, 0);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
    assert_false(exists(output, "checkpoint-2"));
    assert_false(exists(output, ".tmp-2"));
    lgv_checkpoint *c = NULL;
    OK(lgv_checkpoint_find(output, "latest", 0, &c, &err));
    assert_int_equal(lgv_checkpoint_step(c), 1);
    lgv_checkpoint_free(c);
}

/* ---- no memory ---- */

static lgv_status whole_life(const char *output)
{
    training_setup s = setup(output, LGV_RNG_TORCH);
    s.options.overwrite = 1;
    s.options.loader_threads = 1;
    training *t = NULL;
    lgv_error e;
    LGV_TRY(training_try(&s, &t, &e));
    lgv_status status = lgv_trainer_step(t->trainer, NULL, &e);
    if (!status) status = lgv_trainer_save(t->trainer, &e);
    training_free(t);
    return status;
}

/* Making a trainer, a step and a checkpoint with the Nth allocation failing, N spread over all of
   them: either the failure is reported, or it did not matter; never a crash. */
static void failing_allocations_are_reported(void **state)
{
    const char *output = scratch_keep("memory");
    lgv_alloc_fail_after(0);
    assert_int_equal(whole_life(output), LGV_OK);
    uint64_t all = lgv_alloc_fail_after(0), failures = 0;
    for (uint64_t n = 1; n <= all; n += 1 + all / 60) {
        lgv_alloc_fail_after(n);
        failures += whole_life(output) != LGV_OK;
        lgv_alloc_fail_after(0);
    }
    print_message("%llu allocations; %llu of about 60 failures reported\n", (unsigned long long)all,
                  (unsigned long long)failures);
    assert_true(failures >= 40);
    assert_int_equal(whole_life(output), LGV_OK);
}

/* ---- folders ---- */

static void folders_are_not_overwritten(void **state)
{
    const char *output = scratch_keep("taken");
    lgv_checkpoint *c = NULL;
    OK(lgv_checkpoint_find(output, NULL, 0, &c, &err));
    OK(lgv_checkpoint_find(output, "latest", 0, &c, &err));
    assert_null(c); /* starts fresh */
    training_setup s = setup(output, LGV_RNG_PHILOX);
    s.resume = "latest";
    training *t = training_new(&s), *second = NULL;
    assert_int_equal(training_try(&s, &second, &err), LGV_ERR_EXISTS);
    assert_non_null(strstr(err.text, "another training run"));
    training_steps(t, 1, NULL);
    OK(lgv_trainer_save(t->trainer, &err));
    training_free(t);
    s.resume = NULL;
    assert_int_equal(training_try(&s, &t, &err), LGV_ERR_EXISTS);
    assert_non_null(strstr(err.text, "--overwrite"));
    s.options.overwrite = 1;
    t = training_new(&s);
    assert_false(exists(output, "checkpoint-1"));
    training_free(t);
    assert_int_equal(lgv_checkpoint_find(output, scratch_keep("nowhere"), 0, &c, &err), LGV_ERR_IO);
    assert_int_equal(lgv_checkpoint_find(output, scratch_keep("pictures"), 0, &c, &err),
                     LGV_ERR_FORMAT);
}

static int make_pictures(void **state)
{
    training_pictures("pictures", 10, 20, 3);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(philox_run_resumes_bit_for_bit),
        cmocka_unit_test(torch_run_resumes_bit_for_bit),
        cmocka_unit_test(bf16_run_resumes_bit_for_bit),
        cmocka_unit_test(another_precision_is_named),
        cmocka_unit_test(a_run_that_is_stopped_goes_on),
        cmocka_unit_test(validation_is_repeatable),
        cmocka_unit_test(changed_options_are_named),
        cmocka_unit_test(damage_is_found_and_the_good_one_named),
        cmocka_unit_test(kill_leaves_whole_checkpoints),
        cmocka_unit_test(a_full_disk_loses_nothing),
        cmocka_unit_test(failing_allocations_are_reported),
        cmocka_unit_test(folders_are_not_overwritten),
    };
    return cmocka_run_group_tests(tests, make_pictures, scratch_remove);
}
