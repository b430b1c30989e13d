/* test_known.c - sampling that begins with a picture, beside diffusers: image-to-image for samplers of every family, masks,
   and resampling. Tolerance as in test_pipeline.c: the network's own 1e-5, carried through the steps. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "golden_pipeline.h"
#include "ok.h"

enum { N = 3, IMAGE = 3 * 8 * 8 };
static lgv_error err;

typedef struct known {
    golden_pipeline golden;
    float *image, *noise;
    const uint8_t *mask;
} known;

static void known_open(known *k)
{
    golden_pipeline_open(&k->golden, "known");
    k->image = golden_floats(k->golden.file, "image", NULL);
    k->noise = golden_floats(k->golden.file, "noise", NULL);
    k->mask = lgv_safetensors_find(k->golden.file, "mask")->data;
}

static void known_close(known *k)
{
    free(k->image);
    free(k->noise);
    golden_pipeline_close(&k->golden);
}

static void against(const known *k, const char *name, lgv_sample_options o)
{
    int64_t count, calls;
    lgv_samples *s = NULL;
    float *want = golden_floats(k->golden.file, name, &count);
    double worst = 0;
    o.num_images = N;
    o.keep_trajectory = 1;
    o.init_image = k->image;
    OK(lgv_pipeline_calls(k->golden.pipeline, &o, &calls, &err));
    OK(lgv_pipeline_sample(k->golden.pipeline, &o, &s, &err));
    assert_int_equal(s->calls, calls);
    assert_int_equal(count, calls * N * IMAGE);
    for (int64_t i = 0; i < calls; i++) {
        int64_t at = i * N * IMAGE;
        worst = fmax(worst, golden_error(s->trajectory + at, want + at, N * IMAGE, 0));
    }
    print_message("%s: error %.2g\n", name, worst);
    if (!(worst <= 1e-4)) fail_msg("%s differs by %g of its largest value", name, worst);
    lgv_samples_free(s);
    free(want);
}

/* The trajectory of dpmpp_2m is kept at unit scale on both sides; euler and heun at theirs. */
static void image_to_image_is_that_of_diffusers(void **state)
{
    static const struct {
        const char *name;
        double strength;
        int64_t steps;
    } cases[] = {{"ddim", 0.5, 10}, {"dpmpp_2m", 0.65, 10}, {"euler", 0.65, 10}, {"heun", 0.6, 5}};
    known k;
    known_open(&k);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        against(&k, cases[i].name,
                (lgv_sample_options){
                    .batch_size = 2,
                    .init_noise = k.noise,
                    .strength = cases[i].strength,
                    .sampler = {.sampler = cases[i].name, .num_inference_steps = cases[i].steps}});
    known_close(&k);
}

static void masks_keep_the_picture(void **state)
{
    known k;
    lgv_samples *s = NULL;
    known_open(&k);
    lgv_sample_options o = {.batch_size = 2,
                            .seed = 7,
                            .rng = LGV_SAMPLE_TORCH,
                            .mask = k.mask,
                            .sampler = {.sampler = "ddim", .num_inference_steps = 5}};
    against(&k, "masked", o);
    o.sampler.num_inference_steps = 6;
    o.sampler.jump_length = o.sampler.jump_n_sample = 2;
    against(&k, "repaint", o);
    o.num_images = N; /* what is kept is the picture, bit for bit, whatever the sampler */
    o.init_image = k.image;
    o.rng = LGV_SAMPLE_PHILOX;
    o.sampler = (lgv_sampler_options){.sampler = "dpmpp_2m_sde", .num_inference_steps = 4};
    OK(lgv_pipeline_sample(k.golden.pipeline, &o, &s, &err));
    for (int i = 0; i < N * IMAGE; i++) {
        if (k.mask[i % 64])
            assert_true(s->sample[i] != k.image[i]);
        else
            assert_true(s->sample[i] == k.image[i]);
    }
    lgv_samples_free(s);
    known_close(&k);
}

/* Bits of picture 2 alone and in the batch, all noise from its own seed. */
static void neighbours_change_nothing(void **state)
{
    known k;
    lgv_samples *all = NULL, *one = NULL;
    known_open(&k);
    lgv_sample_options o = {.num_images = N,
                            .seed = 3,
                            .init_image = k.image,
                            .mask = k.mask,
                            .sampler = {.sampler = "ddpm",
                                        .num_inference_steps = 6,
                                        .jump_length = 2,
                                        .jump_n_sample = 3}};
    OK(lgv_pipeline_sample(k.golden.pipeline, &o, &all, &err));
    o.num_images = 1;
    o.seed = 5;
    o.init_image = k.image + 2 * IMAGE;
    OK(lgv_pipeline_sample(k.golden.pipeline, &o, &one, &err));
    assert_memory_equal(all->sample + 2 * IMAGE, one->sample, IMAGE * sizeof(float));
    lgv_samples_free(all);
    lgv_samples_free(one);
    known_close(&k);
}

static void refuse(const known *k, lgv_sample_options o, const char *part)
{
    lgv_samples *s = NULL;
    int64_t calls;
    assert_int_not_equal(lgv_pipeline_sample(k->golden.pipeline, &o, &s, &err), LGV_OK);
    assert_null(s);
    if (!strstr(err.text, part)) fail_msg("'%s' does not say '%s'", err.text, part);
    assert_int_not_equal(lgv_pipeline_calls(k->golden.pipeline, &o, &calls, &err), LGV_OK);
}

static void what_does_not_fit_is_refused(void **state)
{
    known k;
    known_open(&k);
    refuse(&k, (lgv_sample_options){.mask = k.mask}, "needs the picture");
    refuse(&k, (lgv_sample_options){.strength = 0.5}, "there is none");
    refuse(&k, (lgv_sample_options){.init_image = k.image, .strength = 1.5}, "at most 1");
    refuse(&k, (lgv_sample_options){.init_image = k.image, .strength = NAN}, "at most 1");
    refuse(&k, (lgv_sample_options){.init_image = k.image, .sampler = {.sampler = "ddim_inverse"}},
           "inversion");
    refuse(&k,
           (lgv_sample_options){.init_image = k.image,
                                .mask = k.mask,
                                .sampler = {.sampler = "dpmpp_2m",
                                            .jump_length = 2,
                                            .jump_n_sample = 2}},
           "earlier steps");
    refuse(&k,
           (lgv_sample_options){.sampler = {.sampler = "ddim", .jump_length = 0, .jump_n_sample = 2}},
           "at least 1");
    refuse(&k,
           (lgv_sample_options){
               .sampler = {.sampler = "ddim", .jump_length = 1, .jump_n_sample = INT64_MAX}},
           "at least 1");
    refuse(&k,
           (lgv_sample_options){
               .sampler = {.sampler = "ddim", .jump_length = 1, .jump_n_sample = 9000000}},
           "too many");
    known_close(&k);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(image_to_image_is_that_of_diffusers),
        cmocka_unit_test(masks_keep_the_picture),
        cmocka_unit_test(neighbours_change_nothing),
        cmocka_unit_test(what_does_not_fit_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
