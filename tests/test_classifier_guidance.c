/* test_classifier_guidance.c - guidance by a classifier of pictures with noise: equal to the paper's algorithms over diffusers'
   steps, the same bits alone and in a batch and whatever the threads, together with classifier-free guidance and pictures to
   begin with, and a sentence for each classifier that does not fit.
   Tolerance as in test_pipeline.c, 1e-4 of the largest value: the networks' own 1e-5 carried through the steps. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "golden.h"
#include "langevin/pipeline.h"
#include "model_folder.h"
#include "ok.h"
#include "scratch.h"

enum { N = 3, IMAGE = 3 * 8 * 8, CLASSES = 4 };

static lgv_error err;
static const int32_t three[] = {1, 0, 2};
static const char *const letters[] = {"a", "b", "c", "d", "e"};
static const char schedule[] = "{\"_class_name\": \"DDPMScheduler\"}";

static void encoder(lgv_unet2d_config *out)
{
    lgv_safetensors *f = golden_open("classifier_guidance");
    const char *text = golden_metadata(f, "config");
    OK(lgv_unet2d_config_parse(text, strlen(text), "config", out, &err));
    lgv_safetensors_close(f);
}

static const char *classifier(void)
{
    static const char *path;
    lgv_unet2d_config c;
    encoder(&c);
    if (!path)
        path = golden_classifier_folder(golden_device(), "classifier", &c, CLASSES, letters, 1,
                                        schedule);
    return path;
}

/* The network of pipeline.safetensors with another scheduler_config.json (NULL: its own). */
static lgv_pipeline *open_model(lgv_device *d, const char *name, const char *config,
                                const char *scheduler)
{
    char path[4096];
    lgv_pipeline *p;
    const char *folder = golden_model_folder(d, name, config);
    snprintf(path, sizeof path, "%s/scheduler_config.json", folder);
    if (scheduler) scratch_write(path, scheduler, strlen(scheduler));
    snprintf(path, sizeof path, "%s/langevin.json", folder);
    if (!strcmp(config, "config_labels")) {
        static const char run[] = "{\"class_names\": [\"a\", \"b\", \"c\", \"d\"], "
                                  "\"null_label\": 4}";
        scratch_write(path, run, strlen(run));
    }
    OK(lgv_pipeline_open(d, folder, LGV_WEIGHTS_BEST, &p, &err));
    return p;
}

static lgv_pipeline *open_guided(const char *name, const char *config, const char *scheduler)
{
    lgv_pipeline *p = open_model(golden_device(), name, config, scheduler);
    OK(lgv_pipeline_set_classifier(p, classifier(), &err));
    return p;
}

static lgv_samples *sample(lgv_pipeline *p, lgv_sample_options o)
{
    lgv_samples *s = NULL;
    OK(lgv_pipeline_sample(p, &o, &s, &err));
    return s;
}

static lgv_sample_options options(const char *sampler, int64_t steps)
{
    return (lgv_sample_options){.num_images = N,
                                .seed = 7,
                                .rng = LGV_SAMPLE_TORCH,
                                .labels = three,
                                .guidance_scale = 1,
                                .classifier_scale = 20,
                                .sampler = {.sampler = sampler, .num_inference_steps = steps}};
}

/* How far guidance moves what is compared, so that a test without it would fail. */
static double moved(lgv_pipeline *p, lgv_sample_options o, const float *want, int64_t count)
{
    o.classifier_scale = 1e-30;
    lgv_samples *s = sample(p, o);
    double e = golden_error(s->trajectory, want, count, 0);
    lgv_samples_free(s);
    return e;
}

static void against(lgv_pipeline *p, const char *name, lgv_sample_options o)
{
    lgv_safetensors *f = golden_open("classifier_guidance");
    int64_t count;
    float *want = golden_floats(f, name, &count);
    double worst = 0;
    o.keep_trajectory = 1;
    lgv_samples *s = sample(p, o);
    assert_int_equal(count, s->calls * N * IMAGE);
    for (int64_t i = 0; i < s->calls; i++)
        worst = fmax(
            worst, golden_error(s->trajectory + i * N * IMAGE, want + i * N * IMAGE, N * IMAGE, 0));
    double without = moved(p, o, want, count);
    print_message("%s: error %.2g, without guidance %.2g\n", name, worst, without);
    assert_true(without > 1e-2);
    if (!(worst <= 1e-4)) fail_msg("%s differs by %g of its largest value", name, worst);
    assert_memory_equal(s->labels, o.labels, sizeof three);
    lgv_samples_free(s);
    free(want);
    lgv_safetensors_close(f);
}

/* ---- the paper's algorithms ---- */

static void algorithm_2(void **state)
{
    static const int32_t mixed[] = {1, -1, 2};
    float image[N * IMAGE];
    lgv_pipeline *p = open_guided("plain", "config", NULL);
    lgv_sample_options o = options("ddim", 5);
    against(p, "ddim", o);
    o.batch_size = 2;
    against(p, "ddim", o);
    o.sampler.sampler = NULL; /* where a classifier guides it is the default */
    against(p, "ddim", o);
    o.sampler.eta = 0.7;
    against(p, "ddim_eta", o);
    o = options("ddim", 5);
    o.sampler.use_clipped_model_output = 1;
    against(p, "ddim_clipped_eps", o);
    o = options("ddim", 5);
    o.labels = mixed;
    against(p, "ddim_mixed", o);
    o = options("ddim", 10);
    o.guidance_start = 0.3;
    o.guidance_stop = 0.7;
    against(p, "ddim_interval", o);
    o = options("ddim", 10);
    golden_unit("guidance.image", N * IMAGE, image);
    o.init_image = image;
    o.strength = 0.5;
    against(p, "ddim_image", o);
    OK(lgv_pipeline_set_classifier(p, NULL, &err));
    assert_null(lgv_pipeline_classifier(p));
    lgv_pipeline_free(p);
}

static void other_configurations(void **state)
{
    lgv_pipeline *p = open_guided("v", "config",
                                  "{\"_class_name\": \"DDPMScheduler\", \"prediction_type\": "
                                  "\"v_prediction\", \"variance_type\": \"fixed_large\"}");
    against(p, "ddim_v", options("ddim", 5));
    against(p, "ddpm_v", options("ddpm", 6));
    lgv_pipeline_free(p);
    p = open_guided("sample", "config",
                    "{\"_class_name\": \"DDPMScheduler\", \"prediction_type\": \"sample\"}");
    against(p, "ddim_sample", options("ddim", 5));
    lgv_pipeline_free(p);
    p = open_guided("free", "config",
                    "{\"_class_name\": \"DDPMScheduler\", \"clip_sample\": false}");
    against(p, "ddim_unclipped", options("ddim", 5));
    lgv_pipeline_free(p);
}

static void algorithm_1(void **state)
{
    lgv_pipeline *p = open_guided("large", "config", NULL);
    against(p, "ddpm", options("model", 6));
    lgv_pipeline_free(p);
    p = open_guided("small", "config", schedule);
    against(p, "ddpm_small", options("ddpm", 6));
    lgv_pipeline_free(p);
    p = open_guided("learned", "config_learned", NULL);
    against(p, "ddpm_learned", options("ddpm", 6));
    lgv_pipeline_free(p);
}

static void beside_classifier_free_guidance(void **state)
{
    lgv_pipeline *p = open_guided("labels", "config_labels", NULL);
    lgv_sample_options o = options("ddim", 5);
    o.guidance_scale = 2;
    against(p, "ddim_free", o);
    o.batch_size = 2;
    against(p, "ddim_free", o);
    lgv_pipeline_free(p);
}

/* ---- bits ---- */

static lgv_samples *on_threads(int threads, const char *sampler, lgv_mixed_precision precision,
                               int64_t batch)
{
    static const int32_t labels[] = {3, -1, 0, 2, 2};
    lgv_device *d;
    OK(lgv_device_new("cpu", threads, &d, &err));
    lgv_pipeline *p = open_model(d, "labels", "config_labels", NULL);
    OK(lgv_pipeline_set_classifier(p, classifier(), &err));
    lgv_samples *s = sample(p, (lgv_sample_options){.num_images = 5,
                                                    .batch_size = batch,
                                                    .seed = 40,
                                                    .labels = labels,
                                                    .mixed_precision = precision,
                                                    .guidance_scale = 2,
                                                    .classifier_scale = 20,
                                                    .sampler = {.sampler = sampler,
                                                                .num_inference_steps = 4}});
    lgv_pipeline_free(p);
    lgv_device_free(d);
    return s;
}

static void independent(void **state)
{
    static const char *const samplers[] = {"ddim", "ddpm"};
    for (int k = 0; k < 2; k++)
        for (int bf16 = 0; bf16 < 2; bf16++) {
            lgv_mixed_precision precision = bf16 ? LGV_MIXED_BF16 : LGV_MIXED_NO;
            lgv_samples *all = on_threads(1, samplers[k], precision, 5);
            for (int64_t batch = 1; batch <= 4; batch++) {
                lgv_samples *split = on_threads(1 + batch % 3, samplers[k], precision, batch);
                assert_memory_equal(all->sample, split->sample, sizeof(float) * 5 * IMAGE);
                lgv_samples_free(split);
            }
            for (int i = 0; i < 5 * IMAGE; i++) assert_true(isfinite(all->sample[i]));
            lgv_samples_free(all);
        }
}

/* bf16 is float32 but for rounding, and is used: not the same bits. */
static void bf16_is_near(void **state)
{
    lgv_samples *a = on_threads(2, "ddim", LGV_MIXED_NO, 5),
                *b = on_threads(2, "ddim", LGV_MIXED_BF16, 5);
    double e = golden_rms_error(b->sample, a->sample, 5 * IMAGE);
    print_message("bf16: rms error %.2g\n", e);
    assert_true(e > 0 && e < 0.1);
    lgv_samples_free(a);
    lgv_samples_free(b);
}

/* Without labels the classifier's classes come in turn. */
static void classes_in_turn(void **state)
{
    lgv_pipeline *p = open_guided("plain", "config", NULL);
    lgv_sample_options o = options("ddim", 1);
    o.num_images = 6;
    o.labels = NULL;
    lgv_samples *s = sample(p, o);
    for (int i = 0; i < 6; i++) assert_int_equal(s->labels[i], i % CLASSES);
    lgv_samples_free(s);
    lgv_pipeline_free(p);
}

/* ---- refusals ---- */

static void refuse(lgv_pipeline *p, lgv_sample_options o, const char *part)
{
    lgv_samples *s = NULL;
    assert_int_not_equal(lgv_pipeline_sample(p, &o, &s, &err), LGV_OK);
    if (!strstr(err.text, part)) fail_msg("'%s' does not say '%s'", err.text, part);
    assert_null(s);
}

static void refused_options(void **state)
{
    static const int32_t beyond[] = {1, 4, 0}, below[] = {1, -2, 0};
    lgv_pipeline *p = open_guided("plain", "config", NULL);
    refuse(p, options("dpmpp_2m", 5), "guides the samplers ddpm and ddim, not dpmpp_2m");
    refuse(p, options("euler", 5), "ddpm and ddim, not euler");
    lgv_sample_options o = options("ddim", 5);
    o.labels = beyond;
    refuse(p, o, "class label 4 of picture 1 is none of the 4 classes");
    o.labels = below;
    refuse(p, o, "class label -2 of picture 1");
    o = options("ddim", 5);
    o.classifier_scale = -1;
    refuse(p, o, "classifier scale must be a number above 0");
    o.classifier_scale = NAN;
    refuse(p, o, "classifier scale must be a number above 0");
    o = options("ddim", 5);
    o.height = o.width = 16;
    refuse(p, o, "takes pictures of 8x8 only, not of 16x16; train one with --resolution 16");
    o = options("ddim", 5);
    o.guidance_scale = 3; /* classifier-free guidance of a network without classes */
    refuse(p, o, "nothing to guide");
    OK(lgv_pipeline_set_classifier(p, NULL, &err));
    o = options("ddim", 5);
    o.labels = NULL;
    refuse(p, o, "no classifier that it could scale");
    lgv_pipeline_free(p);
}

static void refuse_folder(lgv_pipeline *p, const char *path, const char *part)
{
    const lgv_model *before = lgv_pipeline_classifier(p);
    assert_int_not_equal(lgv_pipeline_set_classifier(p, path, &err), LGV_OK);
    if (!strstr(err.text, part)) fail_msg("'%s' does not say '%s'", err.text, part);
    assert_ptr_equal(lgv_pipeline_classifier(p), before);
}

static const char *folder(const char *name, const lgv_unet2d_config *c, int classes,
                          const char *const *names, int noisy, const char *scheduler)
{
    return golden_classifier_folder(golden_device(), name, c, classes, names, noisy, scheduler);
}

static void refused_classifiers(void **state)
{
    lgv_unet2d_config c, grey;
    encoder(&c);
    grey = c;
    grey.in_channels = grey.out_channels = 1;
    lgv_pipeline *p = open_guided("plain", "config", NULL);
    refuse_folder(p, scratch_path("nowhere"), "nowhere");
    refuse_folder(p, golden_model_folder(golden_device(), "network", "config"),
                  "holds a UNet2DModel, which tells no classes apart");
    refuse_folder(p, folder("clean", &c, CLASSES, letters, 0, schedule),
                  "knows pictures without noise only; train one with --task classifier --noisy");
    refuse_folder(p, folder("grey", &grey, CLASSES, letters, 1, schedule),
                  "takes pictures of 1 channels");
    refuse_folder(p, folder("mute", &c, CLASSES, letters, 1, NULL),
                  "does not say how its pictures were noised");
    refuse_folder(p,
                  folder("short", &c, CLASSES, letters, 1,
                         "{\"_class_name\": \"DDPMScheduler\", \"num_train_timesteps\": 500}"),
                  "trained for 500 timesteps of its schedule");
    refuse_folder(p,
                  folder("cosine", &c, CLASSES, letters, 1,
                         "{\"_class_name\": \"DDPMScheduler\", \"beta_schedule\": "
                         "\"squaredcos_cap_v2\"}"),
                  "another noise schedule than the model");
    refuse_folder(p,
                  folder("flowing", &c, CLASSES, letters, 1,
                         "{\"_class_name\": \"FlowMatchEulerDiscreteScheduler\"}"),
                  "another kind of noise");
    lgv_pipeline_free(p);

    p = open_model(golden_device(), "flow", "config",
                   "{\"_class_name\": \"FlowMatchEulerDiscreteScheduler\"}");
    refuse_folder(p, classifier(), "guides networks trained with betas");
    lgv_pipeline_free(p);
}

static void refused_classes(void **state)
{
    static const char *const other[] = {"a", "b", "x", "d"};
    lgv_unet2d_config c;
    encoder(&c);
    lgv_pipeline *p = open_model(golden_device(), "labels", "config_labels", NULL);
    refuse_folder(p, folder("fifth", &c, 5, letters, 1, schedule), "knows 4 classes, the classifier");
    refuse_folder(p, folder("renamed", &c, CLASSES, other, 1, schedule), "class 2 is 'c' to the model");
    lgv_pipeline_free(p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(algorithm_2),
        cmocka_unit_test(other_configurations),
        cmocka_unit_test(algorithm_1),
        cmocka_unit_test(beside_classifier_free_guidance),
        cmocka_unit_test(independent),
        cmocka_unit_test(bf16_is_near),
        cmocka_unit_test(classes_in_turn),
        cmocka_unit_test(refused_options),
        cmocka_unit_test(refused_classifiers),
        cmocka_unit_test(refused_classes),
    };
    return cmocka_run_group_tests(tests, NULL, golden_device_free);
}
