/* test_faults.c - every allocation and every file call of a small graph, of data, configurations and pictures
   fails in turn; of training and sampling, where there are thousands, some spread over all of them
   (tests/long_faults.c: every one). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "inject.h"
#include "scenes.h"
#include "scratch.h"
#include "training.h"

static const char config[] =
    "{\"_class_name\": \"UNet2DModel\", \"sample_size\": 8, \"in_channels\": 3, \"out_channels\": "
    "3, "
    "\"block_out_channels\": [8], \"down_block_types\": [\"AttnDownBlock2D\"], \"up_block_types\": "
    "[\"UpBlock2D\"], \"layers_per_block\": 1, \"norm_num_groups\": 4, \"attention_head_dim\": 8, "
    "\"dropout\": 0.1}";
static const scale small = {.config = config, .side = 8, .most = 60};

static void failing_allocations_are_reported(void **state)
{
    scenes_memory(&small);
}

static void failing_file_calls_are_reported(void **state)
{
    scenes_files(&small);
}

/* Rates, times and the ten minutes between checkpoints are those of the monotonic clock. */
static int count_saved(void *user, const lgv_train_event *event)
{
    *(int *)user += event->kind == LGV_TRAIN_SAVED;
    if (event->kind == LGV_TRAIN_STEPPED) {
        assert_true(event->report->seconds >= 0 && event->report->seconds < 600);
        assert_true(event->report->samples_per_second > 0);
    }
    return 0;
}

static void a_clock_that_jumps_changes_nothing(void **state)
{
    int saved = 0;
    lgv_error err = {0};
    training_pictures("clock", 10, 20, 3);
    char data[600], output[600];
    snprintf(data, sizeof data, "%s", scratch_path("clock"));
    snprintf(output, sizeof output, "%s", scratch_path("jumps"));
    training *t = training_new(&(training_setup){.data = data,
                                                 .config = config,
                                                 .data_options = {.resolution = 8},
                                                 .options = {.output_dir = output,
                                                             .max_train_steps = 40,
                                                             .train_batch_size = 2,
                                                             .sample_count = LGV_OFF}});
    inject_wild_clock(true);
    lgv_status s = lgv_trainer_run(t->trainer, count_saved, &saved, &err);
    inject_wild_clock(false);
    if (s) fail_msg("%s", err.text);
    assert_int_equal(saved, 1); /* the one at the end */
    training_free(t);
}

static int prepare(void **state)
{
    scenes_prepare(&small);
    return 0;
}

static int end(void **state)
{
    scenes_end();
    return scratch_remove(state);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(failing_allocations_are_reported),
                                       cmocka_unit_test(failing_file_calls_are_reported),
                                       cmocka_unit_test(a_clock_that_jumps_changes_nothing)};
    return cmocka_run_group_tests(tests, prepare, end);
}
