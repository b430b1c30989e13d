/* test_condition.c - image conditions: what super-resolution and inpainting networks see, beside PyTorch; what may not
   change its bits; and what is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "golden.h"
#include "langevin/condition.h"
#include "ok.h"
#include "scratch.h"
#include "train/trainer.h"
#include "training.h"

static lgv_error err;

/* ---- pictures ---- */

/* [1,C,H,W] of the file as HWC; dim: C, H, W. */
static float *picture(const lgv_safetensors *f, const char *name, const char *part, int64_t dim[3])
{
    char text[32];
    snprintf(text, sizeof text, "%s.%s", name, part);
    const lgv_tensor_info *t = lgv_safetensors_find(f, text);
    assert_non_null(t);
    for (int i = 0; i < 3; i++) dim[i] = t->dim[i + 1];
    float *nchw = golden_floats(f, text, NULL), *out = malloc(t->bytes);
    for (int64_t p = 0; p < dim[1] * dim[2]; p++)
        for (int64_t c = 0; c < dim[0]; c++) out[p * dim[0] + c] = nchw[c * dim[1] * dim[2] + p];
    free(nchw);
    return out;
}

/* 1e-6: the weights are float32 there and here. */
static void close_to(const char *what, const float *have, const float *want, int64_t n)
{
    double e = golden_error(have, want, n, 0);
    if (!(e <= 1e-6)) fail_msg("%s is off by %.2g", what, e);
}

static void enlarged_pictures_are_those_of_pytorch(void **state)
{
    static const char *const names[] = {"a", "b", "c"};
    lgv_safetensors *f = golden_open("condition");
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        int64_t small[3], large[3];
        float *x = picture(f, names[i], "small", small), *want = picture(f, names[i], "large", large);
        int64_t n = large[0] * large[1] * large[2];
        float *have = malloc((size_t)n * sizeof *have);
        lgv_condition_enlarge(small[1], small[2], small[0], x, large[1], large[2], have);
        close_to(names[i], have, want, n);
        free(x);
        free(want);
        free(have);
    }
    int64_t dim[3];
    float *x0 = picture(f, "d", "x0", dim), *want = picture(f, "d", "condition", dim);
    float have[3 * 8 * 12];
    OK(lgv_condition_degrade(8, 12, 3, x0, 4, have, &err));
    close_to("d", have, want, 3 * 8 * 12);
    free(x0);
    free(want);
    lgv_safetensors_close(f);
}

static void a_mask_hides_what_is_painted(void **state)
{
    const float x0[] = {.1f, .2f, .3f, .4f, .5f, .6f};
    const uint8_t mask[] = {0, 7, 0};
    const float want[] = {0, .1f, .2f, 1, 0, 0, 0, .5f, .6f};
    float have[9];
    lgv_condition_mask(1, 3, 2, x0, mask, have);
    assert_memory_equal(have, want, sizeof want);
}

static void random_masks_cover_some(void **state)
{
    enum { H = 24, W = 16, N = 2000 };
    uint8_t mask[H * W], again[H * W];
    int whole = 0;
    double covered = 0;
    for (int i = 0; i < N; i++) {
        int sum = 0;
        lgv_condition_random_mask(5, (uint64_t)i, 9, H, W, mask);
        lgv_condition_random_mask(5, (uint64_t)i, 9, H, W, again);
        assert_memory_equal(mask, again, sizeof mask);
        for (int p = 0; p < H * W; p++) sum += mask[p];
        assert_true(sum > 0);
        whole += sum == H * W;
        covered += (double)sum / (H * W) / N;
    }
    print_message("masks cover %.3f on average, %d of %d all\n", covered, whole, N);
    assert_true(whole > N / 40 && whole < N / 10);
    assert_true(covered > 0.15 && covered < 0.6);
    lgv_condition_random_mask(1, 2, 3, 1, 1, mask); /* the smallest picture */
}

/* ---- configurations ---- */

#define TINY(in, out, condition)                                                                   \
    "{\"_class_name\": \"UNet2DModel\", \"sample_size\": 16, \"in_channels\": " in                 \
    ", \"out_channels\": " out ", \"block_out_channels\": [8, 8], \"down_block_types\": "          \
    "[\"DownBlock2D\", \"DownBlock2D\"], \"up_block_types\": [\"UpBlock2D\", \"UpBlock2D\"], "     \
    "\"layers_per_block\": 1, \"norm_num_groups\": 4, \"add_attention\": false" condition "}"
static const char super[] = TINY("6", "3", ", \"_condition\": \"super-resolution\"");
static const char inpaint[] = TINY("7", "3", ", \"_condition\": \"inpainting\"");

static void configuration(const char *text, const char *refusal)
{
    lgv_unet2d_config c;
    lgv_status s = lgv_unet2d_config_parse(text, strlen(text), "test", &c, &err);
    if (!refusal && s) fail_msg("%s", err.text);
    if (refusal && (!s || !strstr(err.text, refusal)))
        fail_msg("'%s' does not say '%s'", s ? err.text : "no error", refusal);
}

static void configurations_are_checked(void **state)
{
    configuration(super, NULL);
    configuration(inpaint, NULL);
    configuration(TINY("6", "6", ", \"_condition\": \"super-resolution\""), NULL); /* and variance */
    configuration(TINY("5", "3", ", \"_condition\": \"super-resolution\""), "as many again");
    configuration(TINY("6", "3", ", \"_condition\": \"inpainting\""), "one more");
    configuration(TINY("6", "3", ", \"_condition\": \"colour\""), "no image condition");
    configuration(TINY("6", "3", ", \"_condition\": \"super-resolution\", \"_condition_scale\": 0"),
                  "_condition_scale");
}

/* ---- training ---- */

static training_setup setup(const char *config, int batch, int accumulation)
{
    return (training_setup){.data = scratch_path("pictures"),
                            .config = config,
                            .threads = batch,
                            .options = {.max_train_steps = 4,
                                        .train_batch_size = batch,
                                        .gradient_accumulation_steps = accumulation,
                                        .lr_warmup_steps = LGV_OFF,
                                        .sample_count = LGV_OFF}};
}

/* Micro-batches see the same conditions: their losses differ in rounding only. */
static void conditions_do_not_depend_on_micro_batches(void **state)
{
    static const char *const configs[] = {super, inpaint};
    training_pictures("pictures", 10, 16, 3);
    for (int k = 0; k < 2; k++) {
        double whole[4], parts[4], again[4];
        training_setup a = setup(configs[k], 4, 1), b = setup(configs[k], 2, 2);
        training *t = training_new(&a);
        training_steps(t, 4, whole);
        uint64_t hash = training_hash(t);
        training_free(t);
        a.threads = 1;
        t = training_new(&a);
        training_steps(t, 4, again);
        assert_true(training_hash(t) == hash);
        training_free(t);
        t = training_new(&b);
        training_steps(t, 4, parts);
        training_free(t);
        for (int i = 0; i < 4; i++)
            if (!(parts[i] > whole[i] * (1 - 1e-4) && parts[i] < whole[i] * (1 + 1e-4)))
                fail_msg("step %d: %.9g and %.9g", i, whole[i], parts[i]);
    }
}

static void grids_have_their_conditions(void **state)
{
    training_pictures("pictures", 10, 16, 3);
    training_setup s = setup(super, 2, 1);
    s.options.sample_count = 3;
    s.options.sample_steps = 2;
    training *t = training_new(&s);
    training_steps(t, 1, NULL);
    OK(lgv_trainer_sample(t->trainer, scratch_path("grid.png"), &err));
    training_free(t);
}

static void refuse(const training_setup *s, const char *part)
{
    training *t = NULL;
    assert_int_not_equal(training_try(s, &t, &err), LGV_OK);
    assert_null(t);
    if (!strstr(err.text, part)) fail_msg("'%s' does not say '%s'", err.text, part);
}

static void runs_that_do_not_fit_are_refused(void **state)
{
    training_pictures("pictures", 10, 16, 3);
    training_setup s = setup(TINY("6", "3", ", \"_condition\": \"super-resolution\", "
                                            "\"_condition_scale\": 3"), 2, 1);
    refuse(&s, "3 times smaller");
    s = setup(inpaint, 2, 1);
    s.options.rng = LGV_RNG_TORCH;
    refuse(&s, "no masks");
    s = setup(TINY("6", "3", ""), 2, 1);
    refuse(&s, "channels");
}

/* ---- sampling ---- */

static void sampling_wants_the_condition(void **state)
{
    training_pictures("pictures", 10, 16, 3);
    training_setup s = setup(super, 2, 1);
    lgv_samples *samples = NULL, *again = NULL;
    float condition[3 * 3 * 16 * 16];
    training *t = training_new(&s);
    OK(lgv_trainer_pipeline(t->trainer, &err));
    OK(lgv_conditions_example(t->trainer, 3, condition, &err));
    lgv_sample_options o = {.num_images = 3,
                            .sampler = {.sampler = "ddim", .num_inference_steps = 2}};
    assert_int_equal(lgv_pipeline_sample(t->trainer->pipeline, &o, &samples, &err),
                     LGV_ERR_ARGUMENT);
    assert_non_null(strstr(err.text, "super-resolution"));
    o.condition = condition;
    OK(lgv_pipeline_sample(t->trainer->pipeline, &o, &samples, &err));
    o.batch_size = 2; /* a picture's neighbours change nothing */
    OK(lgv_pipeline_sample(t->trainer->pipeline, &o, &again, &err));
    assert_memory_equal(samples->sample, again->sample, 3 * 3 * 16 * 16 * sizeof(float));
    condition[0] += 1; /* and the condition matters */
    lgv_samples_free(again);
    OK(lgv_pipeline_sample(t->trainer->pipeline, &o, &again, &err));
    assert_memory_not_equal(samples->sample, again->sample, 3 * 16 * 16 * sizeof(float));
    lgv_samples_free(samples);
    lgv_samples_free(again);
    training_free(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(enlarged_pictures_are_those_of_pytorch),
        cmocka_unit_test(a_mask_hides_what_is_painted),
        cmocka_unit_test(random_masks_cover_some),
        cmocka_unit_test(configurations_are_checked),
        cmocka_unit_test(conditions_do_not_depend_on_micro_batches),
        cmocka_unit_test(grids_have_their_conditions),
        cmocka_unit_test(runs_that_do_not_fit_are_refused),
        cmocka_unit_test(sampling_wants_the_condition),
    };
    return cmocka_run_group_tests(tests, NULL, scratch_remove);
}
