/* test_classes.c - class-conditional training: which labels are dropped is a function of seed, sample and step alone,
   names and null label reach the run's folder, a resumed run goes on bit for bit, and classes that do not fit are refused.
   (Ten steps against PyTorch: test_train.c; guidance: test_guidance.c.) */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/file.h"
#include "ok.h"
#include "scratch.h"
#include "train/trainer.h"
#include "training.h"

enum { CLASSES = 3, EACH = 4, BATCH = 12, STEPS = 40 };

static lgv_error err;

/* The network of training.c with a table of so many labels. */
static const char *config(int rows)
{
    static char text[2][1024];
    static int k;
    k ^= 1;
    snprintf(text[k], sizeof text[k], "%.*s, \"num_class_embeds\": %d}",
             (int)strlen(training_config) - 1, training_config, rows);
    return text[k];
}

/* Folders of pictures, named by the letters of `names`. */
static const char *folders(const char *name, const char *names)
{
    char sub[64];
    OK(lgv_make_dir(scratch_path(name), &err));
    for (; *names; names++) {
        snprintf(sub, sizeof sub, "%s/%c", name, *names);
        training_pictures(sub, EACH, TRAINING_SIDE, TRAINING_CHANNELS);
    }
    return scratch_path(name);
}

static training *start(const char *data, int64_t batch, int64_t accumulation, uint64_t seed)
{
    return training_new(&(training_setup){.data = data,
                                          .config = config(CLASSES + 1),
                                          .options = {.max_train_steps = STEPS,
                                                      .train_batch_size = batch,
                                                      .gradient_accumulation_steps = accumulation,
                                                      .class_dropout_prob = 0.25,
                                                      .seed = seed}});
}

static void dropped_labels_depend_on_seed_sample_and_step(void **state)
{
    const char *data = folders("three", "abc");
    training *whole = start(data, BATCH, 1, 3), *parts = start(data, BATCH / 3, 3, 3),
             *other = start(data, BATCH, 1, 4);
    int dropped = 0, differ = 0, seen[CLASSES + 1] = {0};
    assert_int_equal(whole->trainer->null_label, CLASSES);
    for (int i = 0; i < STEPS; i++) {
        training_steps(whole, 1, NULL);
        if (i < 4) training_steps(parts, 1, NULL);
        if (i < 4) training_steps(other, 1, NULL);
        const int32_t *label = whole->trainer->label;
        if (i < 4) assert_memory_equal(label, parts->trainer->label, BATCH * sizeof *label);
        for (int k = 0; k < BATCH; k++) {
            assert_in_range(label[k], 0, CLASSES);
            seen[label[k]]++;
            dropped += label[k] == CLASSES;
            differ += i < 4 && label[k] != other->trainer->label[k];
        }
    }
    assert_in_range(dropped, STEPS * BATCH / 4 - 40, STEPS * BATCH / 4 + 40); /* four deviations */
    assert_true(differ > 0 && seen[0] > 0 && seen[1] > 0 && seen[2] > 0);
    training_free(whole);
    training_free(parts);
    training_free(other);
}

static void off_drops_nothing(void **state)
{
    const char *data = folders("three", "abc");
    training_setup s = {.data = data,
                        .config = config(CLASSES),
                        .options = {.max_train_steps = 4, .train_batch_size = BATCH}};
    training *t = training_new(&s); /* no label for none: nothing can be dropped */
    assert_true(t->trainer->options.class_dropout_prob == LGV_OFF);
    training_steps(t, 1, NULL);
    for (int k = 0; k < BATCH; k++) assert_in_range(t->trainer->label[k], 0, CLASSES - 1);
    training_free(t);
    s.config = config(CLASSES + 1);
    s.options.class_dropout_prob = LGV_OFF;
    t = training_new(&s);
    assert_int_equal(lgv_model_describe(t->model)->null_label, -1); /* nothing trains it */
    assert_int_equal(lgv_model_describe(t->model)->class_names, CLASSES);
    training_free(t);
}

static uint64_t run(const char *output, const char *data, int64_t steps, const char *resume)
{
    training_setup s = {.data = data,
                        .config = config(CLASSES + 1),
                        .resume = resume,
                        .options = {.output_dir = scratch_path(output),
                                    .max_train_steps = steps,
                                    .train_batch_size = 5,
                                    .sample_steps = 2}};
    training *t = training_new(&s);
    OK(lgv_trainer_run(t->trainer, NULL, NULL, &err));
    uint64_t hash = training_hash(t);
    training_free(t);
    return hash;
}

static void resumed_run_is_the_unbroken_one(void **state)
{
    char path[4096];
    lgv_model *m;
    lgv_pipeline *p;
    lgv_device *device;
    const char *data = folders("three", "abc");
    uint64_t whole = run("whole", data, 6, NULL);
    run("broken", data, 3, NULL);
    assert_true(run("broken", data, 6, "latest") == whole);
    /* Names and null label are found from the run's folder and from each network in it. */
    static const char *const inside[] = {"", "/checkpoint-6", "/checkpoint-6/unet", "/unet/"};
    for (int i = 0; i < 4; i++) {
        snprintf(path, sizeof path, "%s%s", scratch_path("whole"), inside[i]);
        OK(lgv_model_open(path, NULL, &m, &err));
        const lgv_model_info *info = lgv_model_describe(m);
        assert_int_equal(info->class_names, CLASSES);
        assert_string_equal(info->class_name_of[1], "b");
        assert_int_equal(info->null_label, CLASSES);
        lgv_model_free(m);
    }
    OK(lgv_device_new(NULL, 1, &device, &err));
    OK(lgv_pipeline_open(device, scratch_path("whole"), LGV_WEIGHTS_BEST, &p, &err));
    lgv_samples *s = NULL;
    OK(lgv_pipeline_sample(p, &(lgv_sample_options){.sampler.num_inference_steps = 2}, &s, &err));
    assert_int_equal(s->labels[0], 0);
    lgv_samples_free(s);
    lgv_pipeline_free(p);
    lgv_device_free(device);
}

static void refuse(const char *data, const char *text, double dropout, const char *part)
{
    training *t = NULL;
    assert_int_not_equal(training_try(&(training_setup){.data = data,
                                                        .config = text,
                                                        .options = {.class_dropout_prob = dropout}},
                                      &t, &err),
                         LGV_OK);
    assert_null(t);
    if (!strstr(err.text, part)) fail_msg("'%s' does not say '%s'", err.text, part);
}

static void what_does_not_fit_is_refused(void **state)
{
    folders("three", "abc");
    folders("two", "ab");
    training_pictures("flat", 4, TRAINING_SIDE, TRAINING_CHANNELS);
    refuse(scratch_path("two"), config(4), 0, "knows 4 classes");
    refuse(scratch_path("flat"), config(4), 0, "has no classes");
    refuse(scratch_path("three"), config(3), 0.1, "--class-dropout-prob 0");
    refuse(scratch_path("three"), config(4), 1.5, "class_dropout_prob");
    refuse(scratch_path("three"), NULL, 0.1, "unconditional");

    /* Fine-tuning on pictures whose classes have other names. */
    training_setup s = {.data = scratch_path("three"), .config = config(4)};
    training *t = training_new(&s);
    lgv_model *model = t->model;
    static const char *const names[] = {"a", "b", "d"};
    OK(lgv_model_name_classes(model, 3, names, 3, &err));
    lgv_trainer *again = NULL;
    assert_int_equal(lgv_trainer_new(model, t->data, &t->cfg, t->device, NULL, NULL, &again, &err),
                     LGV_ERR_ARGUMENT);
    assert_non_null(strstr(err.text, "class 2 is 'd'"));
    assert_null(again);
    training_free(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(dropped_labels_depend_on_seed_sample_and_step),
        cmocka_unit_test(off_drops_nothing),
        cmocka_unit_test(resumed_run_is_the_unbroken_one),
        cmocka_unit_test(what_does_not_fit_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, scratch_remove);
}
