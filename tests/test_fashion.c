/* test_fashion.c - end to end on real pictures: a tiny network learns Fashion-MNIST, its grid is
   drawn, and the folder it leaves opens as a pipeline. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/file.h"
#include "langevin/image.h"
#include "langevin/pipeline.h"
#include "scratch.h"
#include "training.h"

static const char folder[] = "/usr/share/datasets/fashion-mnist";
enum { STEPS = 100 };

static const char config[] = "{\"_class_name\": \"UNet2DModel\", \"sample_size\": 32, "
                             "\"in_channels\": 1, \"out_channels\": 1,"
                             " \"block_out_channels\": [16, 32, 32], \"down_block_types\": "
                             "[\"DownBlock2D\", \"DownBlock2D\", \"AttnDownBlock2D\"],"
                             " \"up_block_types\": [\"AttnUpBlock2D\", \"UpBlock2D\", "
                             "\"UpBlock2D\"], \"layers_per_block\": 1,"
                             " \"norm_num_groups\": 8, \"attention_head_dim\": 16}";

typedef struct progress {
    double loss[STEPS];
    int grids;
    lgv_validation validation;
} progress;

static int watch(void *user, const lgv_train_event *event)
{
    progress *p = user;
    if (event->kind == LGV_TRAIN_STEPPED) p->loss[event->report->step - 1] = event->report->loss;
    if (event->kind == LGV_TRAIN_VALIDATED) p->validation = *event->validation;
    p->grids += event->kind == LGV_TRAIN_SAMPLED;
    return 0;
}

static double mean(const double *x, int n)
{
    double sum = 0;
    for (int i = 0; i < n; i++) sum += x[i];
    return sum / n;
}

static void the_folder_is_a_pipeline(const char *output, lgv_device *device)
{
    lgv_error err = {0};
    lgv_pipeline *pipeline = NULL;
    lgv_samples *samples = NULL;
    if (lgv_pipeline_open(device, output, LGV_WEIGHTS_BEST, &pipeline, &err))
        fail_msg("%s", err.text);
    lgv_sample_options o = {.num_images = 2, .sampler = {.num_inference_steps = 4}};
    if (lgv_pipeline_sample(pipeline, &o, &samples, &err)) fail_msg("%s", err.text);
    assert_int_equal(samples->height, 32);
    lgv_samples_free(samples);
    lgv_pipeline_free(pipeline);
}

static void fashion_mnist_is_learned(void **state)
{
    if (!lgv_is_dir(folder)) {
        print_message("skipped: %s is missing (apt-get install dataset-fashion-mnist)\n", folder);
        skip();
    }
    const char *output = scratch_path("fashion");
    training *t = training_new(&(training_setup){.data = folder,
                                                 .config = config,
                                                 .threads = 2,
                                                 .data_options = {.resolution = 32},
                                                 .options = {.output_dir = output,
                                                             .max_train_steps = STEPS,
                                                             .train_batch_size = 16,
                                                             .learning_rate = 2e-3,
                                                             .lr_warmup_steps = 20,
                                                             .sample_count = 4,
                                                             .sample_steps = 10}});
    assert_int_equal(lgv_dataset_count(t->data), 60000);
    assert_int_equal(lgv_dataset_validation_count(t->data), 10000);
    progress *p = calloc(1, sizeof *p);
    lgv_error err = {0};
    if (lgv_trainer_run(t->trainer, watch, p, &err)) fail_msg("%s", err.text);
    double first = mean(p->loss, 10), last = mean(p->loss + STEPS - 30, 30);
    print_message(
        "loss %.3f, after %d steps %.4f; averaged weights on t10k %.4f (%.3f %.3f %.3f %.3f)\n",
        first, STEPS, last, p->validation.loss, p->validation.quartile[0],
        p->validation.quartile[1], p->validation.quartile[2], p->validation.quartile[3]);
    assert_true(first > 0.5);
    assert_true(last <
                0.12); /* predicting nothing gives 1, the mean of the noise given x_t about 0.25 */
    assert_true(p->validation.loss < 0.2);
    assert_true(p->validation.quartile[0] >
                p->validation.quartile[3]); /* little noise is hard to see */
    assert_int_equal(p->validation.pictures, 500);
    assert_true(p->grids >= 1);
    lgv_image grid = {0};
    if (lgv_image_load(scratch_path("fashion/samples/000100.png"), &grid, &err))
        fail_msg("%s", err.text);
    assert_int_equal(grid.width, 2 * 34 + 2);
    lgv_image_free(&grid);
    the_folder_is_a_pipeline(output, t->device);
    free(p);
    training_free(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(fashion_mnist_is_learned)};
    return cmocka_run_group_tests(tests, NULL, scratch_remove);
}
