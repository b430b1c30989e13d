/* test_guidance.c - classifier-free guidance: equal to diffusers' terms, the same bits alone and in a batch, no wasted
   rows, names and null labels from the files beside a network, and clear about what does not fit.
   Tolerance as in test_pipeline.c: 1e-4 of the largest value. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "diffusion/pipeline_internal.h"
#include "golden.h"
#include "model_folder.h"
#include "ok.h"
#include "scratch.h"

enum { N = 3, IMAGE = 3 * 8 * 8, NULL_LABEL = 4 };

static lgv_error err;
static const int32_t three[] = {1, 0, 2};

/* langevin.json beside the network; NULL: none. */
static lgv_pipeline *open_with(const char *name, const char *run)
{
    char path[4096];
    lgv_pipeline *p;
    const char *folder = golden_model_folder(golden_device(), name, "config_labels");
    snprintf(path, sizeof path, "%s/langevin.json", folder);
    if (run) scratch_write(path, run, strlen(run));
    OK(lgv_pipeline_open(golden_device(), folder, LGV_WEIGHTS_BEST, &p, &err));
    return p;
}

static lgv_pipeline *open_named(void)
{
    return open_with("named", "{\"class_names\": [\"a\", \"b\", \"c\", \"d\"], \"null_label\": 4}");
}

static lgv_samples *sample(lgv_pipeline *p, lgv_sample_options o)
{
    lgv_samples *s = NULL;
    OK(lgv_pipeline_sample(p, &o, &s, &err));
    return s;
}

static void refuse(lgv_pipeline *p, lgv_sample_options o, const char *part)
{
    lgv_samples *s = NULL;
    assert_int_equal(lgv_pipeline_sample(p, &o, &s, &err), LGV_ERR_ARGUMENT);
    if (!strstr(err.text, part)) fail_msg("'%s' does not say '%s'", err.text, part);
}

static void against(lgv_pipeline *p, const char *name, lgv_sample_options o)
{
    lgv_safetensors *f = golden_open("guidance");
    int64_t count;
    float *want = golden_floats(f, name, &count);
    double worst = 0;
    o.num_images = N;
    o.keep_trajectory = 1;
    o.seed = 7;
    o.rng = LGV_SAMPLE_TORCH;
    if (!o.labels) o.labels = three;
    lgv_samples *s = sample(p, o);
    assert_int_equal(count, s->calls * N * IMAGE);
    for (int64_t i = 0; i < s->calls; i++)
        worst = fmax(
            worst, golden_error(s->trajectory + i * N * IMAGE, want + i * N * IMAGE, N * IMAGE, 0));
    print_message("%s: error %.2g\n", name, worst);
    if (!(worst <= 1e-4)) fail_msg("%s differs by %g of its largest value", name, worst);
    lgv_samples_free(s);
    free(want);
    lgv_safetensors_close(f);
}

static void equals_diffusers(void **state)
{
    static const int32_t mixed[] = {1, -1, 2};
    lgv_pipeline *p = open_named();
    lgv_sample_options o = {.sampler = {.sampler = "ddim", .num_inference_steps = 5}};
    against(p, "guided", o); /* 3 is the default where a null label is known */
    o.guidance_scale = 3;
    against(p, "guided", o);
    o.guidance_rescale = 0.7;
    against(p, "rescaled", o);
    o.guidance_rescale = 0;
    o.labels = mixed;
    against(p, "mixed", o);
    against(p, "ddpm",
            (lgv_sample_options){.guidance_scale = 1.5,
                                 .batch_size = 2,
                                 .sampler = {.sampler = "model", .num_inference_steps = 12}});
    against(p, "interval",
            (lgv_sample_options){.guidance_start = 0.3,
                                 .guidance_stop = 0.7,
                                 .sampler = {.sampler = "ddim", .num_inference_steps = 10}});
    lgv_pipeline_free(p);
}

/* Image-to-image of a class. */
static void begins_with_a_picture(void **state)
{
    float image[N * IMAGE];
    lgv_pipeline *p = open_named();
    golden_unit("guidance.image", N * IMAGE, image);
    lgv_sample_options o = {.init_image = image,
                            .strength = 0.5,
                            .sampler = {.sampler = "ddim", .num_inference_steps = 10}};
    against(p, "image", o);
    o.batch_size = 2;
    against(p, "image", o);
    lgv_pipeline_free(p);
}

/* Rows that the plans of a pipeline have given the network, by the largest. */
static int64_t most_rows(const lgv_pipeline *p)
{
    int64_t rows = 0;
    for (int i = 0; i < LGV_BATCH_PLANS; i++)
        if (p->plans[i].plan && lgv_plan_step(p->plans[i].plan)->rows > rows)
            rows = lgv_plan_step(p->plans[i].plan)->rows;
    return rows;
}

static int plans_of(const lgv_pipeline *p)
{
    int n = 0;
    for (int i = 0; i < LGV_BATCH_PLANS; i++) n += p->plans[i].plan != NULL;
    return n;
}

/* Scale 1, pictures of no class and steps outside the interval cost one row a picture. */
static void nothing_is_wasted(void **state)
{
    static const int32_t none[] = {-1, -1, -1};
    lgv_pipeline *p = open_named();
    lgv_sample_options o = {.num_images = N,
                            .labels = three,
                            .guidance_scale = 1,
                            .sampler = {.sampler = "ddim", .num_inference_steps = 4}};
    lgv_samples_free(sample(p, o));
    assert_int_equal(most_rows(p), N);
    o.guidance_scale = 3;
    o.labels = none;
    lgv_samples *s = sample(p, o);
    assert_int_equal(s->labels[1], NULL_LABEL);
    lgv_samples_free(s);
    assert_int_equal(most_rows(p), N);
    assert_int_equal(plans_of(p), 1);
    o.labels = three;
    o.guidance_start = 0.5;
    lgv_samples_free(sample(p, o));
    assert_int_equal(most_rows(p), 2 * N);
    assert_int_equal(plans_of(p), 2);
    lgv_pipeline_free(p);
}

/* Picture i is the same bits alone and in any batch, guided with whatever neighbours. */
static void independent(void **state)
{
    static const int32_t labels[] = {3, -1, 0, 2, 2};
    static const char *const samplers[] = {"ddim", "ddpm"};
    lgv_pipeline *p = open_named();
    for (int k = 0; k < 2; k++) {
        lgv_sample_options o = {.num_images = 5,
                                .batch_size = 5,
                                .seed = 40,
                                .labels = labels,
                                .guidance_rescale = 0.5,
                                .guidance_stop = 0.8,
                                .sampler = {.sampler = samplers[k], .num_inference_steps = 5}};
        lgv_samples *all = sample(p, o);
        o.batch_size = 3;
        lgv_samples *split = sample(p, o);
        assert_memory_equal(all->sample, split->sample, sizeof(float) * 5 * IMAGE);
        for (int i = 0; i < 5; i++) {
            o.num_images = o.batch_size = 1;
            o.seed = 40 + (uint64_t)i;
            o.labels = &labels[i];
            lgv_samples *alone = sample(p, o);
            assert_memory_equal(all->sample + i * IMAGE, alone->sample, sizeof(float) * IMAGE);
            lgv_samples_free(alone);
        }
        assert_memory_not_equal(all->sample + 3 * IMAGE, all->sample + 4 * IMAGE,
                                sizeof(float) * IMAGE);
        lgv_samples_free(all);
        lgv_samples_free(split);
    }
    lgv_pipeline_free(p);
}

/* Without labels the classes come in turn. */
static void classes_in_turn(void **state)
{
    lgv_pipeline *p = open_named();
    lgv_samples *s =
        sample(p, (lgv_sample_options){.num_images = 6,
                                       .sampler = {.sampler = "ddim", .num_inference_steps = 1}});
    for (int i = 0; i < 6; i++) assert_int_equal(s->labels[i], i % 4);
    lgv_samples_free(s);
    lgv_pipeline_free(p);
    p = open_with("nameless", NULL); /* all five rows may be classes */
    s = sample(p, (lgv_sample_options){.num_images = 6,
                                       .sampler = {.sampler = "ddim", .num_inference_steps = 1}});
    for (int i = 0; i < 6; i++) assert_int_equal(s->labels[i], i % 5);
    lgv_samples_free(s);
    lgv_pipeline_free(p);
}

/* Where nothing names the null label, guidance must be told. */
static void null_label_is_named(void **state)
{
    lgv_pipeline *p = open_with("nameless", NULL);
    lgv_sample_options o = {.num_images = N,
                            .labels = three,
                            .guidance_scale = 3,
                            .sampler = {.sampler = "ddim", .num_inference_steps = 5}};
    refuse(p, o, "name it (null class)");
    assert_int_equal(lgv_pipeline_set_null_label(p, 5, &err), LGV_ERR_ARGUMENT);
    OK(lgv_pipeline_set_null_label(p, NULL_LABEL, &err));
    against(p, "guided", o);
    lgv_pipeline_free(p);
}

static void opened_names(const char *folder, int count, const char *last, int null)
{
    lgv_model *m;
    OK(lgv_model_open(folder, NULL, &m, &err));
    const lgv_model_info *info = lgv_model_describe(m);
    assert_int_equal(info->class_names, count);
    if (count) assert_string_equal(info->class_name_of[count - 1], last);
    assert_int_equal(info->null_label, null);
    lgv_model_free(m);
}

static void bad_names(const char *name, const char *file, const char *text, const char *part)
{
    char path[4096];
    lgv_model *m = NULL;
    const char *folder = golden_model_folder(golden_device(), name, "config_labels");
    snprintf(path, sizeof path, "%s/%s", folder, file);
    scratch_write(path, text, strlen(text));
    assert_int_equal(lgv_model_open(folder, NULL, &m, &err), LGV_ERR_FORMAT);
    if (!strstr(err.text, part)) fail_msg("'%s' does not say '%s'", err.text, part);
    assert_null(m);
}

static void names_come_from_files(void **state)
{
    char path[4096];
    static const char index[] = "{\"_class_name\": \"DiTPipeline\", \"id2label\": {\"0\": \"x\", "
                                "\"1\": \"y\", \"2\": \"z, zed\"}}";
    opened_names(golden_model_folder(golden_device(), "plain", "config_labels"), 0, NULL, -1);
    lgv_pipeline_free(open_named());
    opened_names(scratch_path("named"), 4, "d", NULL_LABEL);
    /* An unconditional network has no use for the names of its pictures' folders. */
    const char *folder = golden_model_folder(golden_device(), "unconditional", "config");
    snprintf(path, sizeof path, "%s/langevin.json", folder);
    scratch_write(path, "{\"class_names\": [\"a\", \"b\"]}", 27);
    opened_names(folder, 0, NULL, -1);
    folder = golden_model_folder(golden_device(), "indexed", "config_labels");
    snprintf(path, sizeof path, "%s/model_index.json", folder);
    scratch_write(path, index, strlen(index));
    opened_names(folder, 3, "z, zed", -1);

    bad_names("bad0", "langevin.json", "{\"class_names\": [\"a\", 3]}", "class_names");
    bad_names("bad1", "langevin.json", "{\"null_label\": 5}", "labels 0 to 4");
    bad_names("bad2", "langevin.json", "{\"class_names\": [\"a\",\"b\",\"c\",\"d\",\"e\",\"f\"]}",
              "labels 0 to 4");
    bad_names("bad3", "langevin.json", "{\"null_label\": \"none\"}", "null_label");
    bad_names("bad4", "model_index.json", "{\"id2label\": {\"0\": \"a\", \"2\": \"b\"}}", "\"1\"");
}

static void refusals(void **state)
{
    static const int32_t beyond[] = {5}, below[] = {-2}, none[] = {-1};
    lgv_pipeline *p = open_named();
    refuse(p, (lgv_sample_options){.labels = beyond}, "outside 0 .. 4");
    refuse(p, (lgv_sample_options){.labels = below}, "outside 0 .. 4");
    refuse(p, (lgv_sample_options){.guidance_scale = -1}, "guidance scale");
    refuse(p, (lgv_sample_options){.guidance_scale = NAN}, "guidance scale");
    refuse(p, (lgv_sample_options){.guidance_rescale = 1.5}, "guidance_rescale");
    refuse(p, (lgv_sample_options){.guidance_start = 0.6, .guidance_stop = 0.4}, "interval");
    refuse(p, (lgv_sample_options){.guidance_stop = 1.1}, "interval");
    refuse(p, (lgv_sample_options){.guidance_channels = 4}, "4 channels");
    lgv_pipeline_free(p);
    p = open_with("nameless", NULL);
    refuse(p, (lgv_sample_options){.labels = none}, "stands for none");
    lgv_pipeline_free(p);
    OK(lgv_pipeline_open(golden_device(),
                         golden_model_folder(golden_device(), "unconditional", "config"),
                         LGV_WEIGHTS_BEST, &p, &err));
    refuse(p, (lgv_sample_options){.guidance_scale = 3}, "nothing to guide");
    refuse(p, (lgv_sample_options){.labels = three, .num_images = N}, "no class labels");
    assert_int_equal(lgv_pipeline_set_null_label(p, 0, &err), LGV_ERR_ARGUMENT);
    lgv_pipeline_free(p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equals_diffusers),
        cmocka_unit_test(begins_with_a_picture),
        cmocka_unit_test(nothing_is_wasted),
        cmocka_unit_test(independent),
        cmocka_unit_test(classes_in_turn),
        cmocka_unit_test(null_label_is_named),
        cmocka_unit_test(names_come_from_files),
        cmocka_unit_test(refusals),
    };
    return cmocka_run_group_tests(tests, NULL, golden_device_free);
}
