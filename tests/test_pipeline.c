/* test_pipeline.c - whole sampling runs: equal to diffusers' with PyTorch's generators, independent
   of batches, cancellable, and clear about what does not fit.
   Tolerance 1e-4 of the largest value: the network's own 1e-5, carried through the steps. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/core.h"
#include "golden.h"
#include "langevin/ops.h"
#include "langevin/pipeline.h"
#include "model_folder.h"
#include "scratch.h"

enum { N = 3, IMAGE = 3 * 8 * 8 };

static void must(lgv_status status, const lgv_error *err)
{
    if (status) fail_msg("%s", err->text);
}

static const char *model_folder(const char *name, const char *config_key)
{
    return golden_model_folder(golden_device(), name, config_key);
}

static lgv_pipeline *open_golden(const char *config_key)
{
    lgv_error err = {0};
    lgv_pipeline *p;
    must(lgv_pipeline_open(golden_device(), model_folder(config_key, config_key), LGV_WEIGHTS_BEST, &p,
                           &err),
         &err);
    return p;
}

static lgv_samples *sample(lgv_pipeline *p, const lgv_sample_options *o)
{
    lgv_error err = {0};
    lgv_samples *s = NULL;
    must(lgv_pipeline_sample(p, o, &s, &err), &err);
    return s;
}

static void against(lgv_pipeline *p, const char *name, lgv_sample_options o)
{
    lgv_safetensors *f = golden_open("pipeline");
    int64_t count;
    float *want = golden_floats(f, name, &count);
    o.num_images = N;
    o.keep_trajectory = 1;
    lgv_samples *s = sample(p, &o);
    assert_int_equal(count, s->calls * N * IMAGE);
    double worst = 0;
    for (int64_t i = 0; i < s->calls; i++) {
        int64_t at = i * N * IMAGE;
        worst = fmax(worst, golden_error(s->trajectory + at, want + at, N * IMAGE, 0));
    }
    print_message("%s: error %.2g\n", name, worst);
    if (!(worst <= 1e-4)) fail_msg("%s differs by %g of its largest value", name, worst);
    assert_memory_equal(s->sample, s->trajectory + (s->calls - 1) * N * IMAGE,
                        sizeof(float) * N * IMAGE);
    lgv_samples_free(s);
    free(want);
    lgv_safetensors_close(f);
}

static void equals_diffusers(void **state)
{
    lgv_pipeline *p = open_golden("config");
    lgv_sample_options o = {.seed = 7,
                            .rng = LGV_SAMPLE_TORCH,
                            .sampler = {.sampler = "ddim", .num_inference_steps = 5}};
    against(p, "ddim", o);
    o.batch_size = 2; /* one generator per picture: batches do not matter */
    against(p, "ddim", o);
    o.sampler.eta = 0.7;
    o.sampler.use_clipped_model_output = 1;
    against(p, "ddim_eta", o);
    against(p, "ddpm",
            (lgv_sample_options){.seed = 7,
                                 .rng = LGV_SAMPLE_TORCH,
                                 .sampler = {.sampler = "model", .num_inference_steps = 12}});
    against(
        p, "ddim_batch",
        (lgv_sample_options){.seed = 7,
                             .rng = LGV_SAMPLE_TORCH_BATCH,
                             .sampler = {.sampler = "ddim", .num_inference_steps = 5, .eta = 0.7}});
    lgv_safetensors *f = golden_open("pipeline");
    float *noise = golden_floats(f, "noise", NULL),
          *step_noise = golden_floats(f, "step_noise", NULL);
    against(p, "given",
            (lgv_sample_options){.batch_size = 2,
                                 .init_noise = noise,
                                 .step_noise = step_noise,
                                 .sampler = {.sampler = "ddpm", .num_inference_steps = 12}});
    free(noise);
    free(step_noise);
    lgv_safetensors_close(f);
    lgv_pipeline_free(p);
}

static void labels(void **state)
{
    lgv_pipeline *p = open_golden("config_labels");
    lgv_error err = {0};
    lgv_samples *s = NULL;
    static const int32_t right[] = {4, 0, 2}, wrong[] = {4, 5, 0};
    lgv_sample_options o = {.num_images = N,
                            .seed = 7,
                            .rng = LGV_SAMPLE_TORCH,
                            .labels = right,
                            .sampler = {.sampler = "ddim", .num_inference_steps = 5}};
    against(p, "labels", o);
    o.labels = wrong;
    assert_int_equal(lgv_pipeline_sample(p, &o, &s, &err), LGV_ERR_ARGUMENT);
    assert_non_null(strstr(err.text, "5"));
    lgv_pipeline_free(p);
}

/* Eight bits as diffusers' PIL output; a difference of one may come from rounding at a half. */
static void pixels(void **state)
{
    static const float x[] = {-2, -1, -0.5f, 0, 0.5f, 1, 3, NAN};
    uint8_t out[8];
    lgv_images_u8(1, 1, 1, 8, x, out);
    static const uint8_t want_out[] = {0,   0,   64,  128,
                                       191, 255, 255, 0}; /* 63.75, 127.5 to even, 191.25 */
    assert_memory_equal(out, want_out, 8);

    lgv_pipeline *p = open_golden("config");
    lgv_safetensors *f = golden_open("pipeline");
    const lgv_tensor_info *t = lgv_safetensors_find(f, "pixels");
    assert_non_null(t);
    assert_int_equal(t->count, N * IMAGE);
    const uint8_t *want = t->data;
    uint8_t got[N * IMAGE];
    lgv_samples *s =
        sample(p, &(lgv_sample_options){.num_images = N,
                                        .seed = 7,
                                        .rng = LGV_SAMPLE_TORCH,
                                        .sampler = {.sampler = "ddim", .num_inference_steps = 5}});
    lgv_images_u8(N, 3, 8, 8, s->sample, got);
    for (int i = 0; i < N * IMAGE; i++) assert_true(abs(got[i] - want[i]) <= 1);
    lgv_samples_free(s);
    lgv_safetensors_close(f);
    lgv_pipeline_free(p);
}

/* A network that predicts its variance: ddpm draws with it, others leave it out. */
static void learned_variance(void **state)
{
    lgv_pipeline *p = open_golden("config_learned");
    lgv_sample_options o = {.seed = 7, .rng = LGV_SAMPLE_TORCH};
    o.sampler = (lgv_sampler_options){.sampler = "model", .num_inference_steps = 6};
    against(p, "learned", o);
    o.sampler.sampler = NULL;
    against(p, "learned_solver", o);
    lgv_pipeline_free(p);
}

/* Picture i is the same bits alone, in any batch, and with any number of threads. */
static void independent(void **state)
{
    static const char *const samplers[] = {"ddim", "ddpm", "ddim"};
    static const lgv_mixed_precision precisions[] = {LGV_MIXED_NO, LGV_MIXED_NO, LGV_MIXED_BF16};
    const char *folder = model_folder("config", "config");
    lgv_pipeline *p = open_golden("config"), *single;
    lgv_device *one;
    lgv_error err = {0};
    must(lgv_device_new("cpu", 1, &one, &err), &err);
    must(lgv_pipeline_open(one, folder, LGV_WEIGHTS_BEST, &single, &err), &err);
    for (int k = 0; k < 3; k++) {
        lgv_sample_options o = {
            .num_images = 5,
            .batch_size = 5,
            .seed = 40,
            .mixed_precision = precisions[k],
            .sampler = {.sampler = samplers[k], .num_inference_steps = 4, .eta = 0.5}};
        lgv_samples *all = sample(p, &o);
        o.batch_size = 4; /* 4 and 1 */
        lgv_samples *split = sample(p, &o);
        assert_memory_equal(all->sample, split->sample, sizeof(float) * 5 * IMAGE);
        lgv_samples *thread = sample(single, &o);
        assert_memory_equal(all->sample, thread->sample, sizeof(float) * 5 * IMAGE);
        lgv_samples *alone =
            sample(p, &(lgv_sample_options){
                          .seed = 43, .mixed_precision = precisions[k], .sampler = o.sampler});
        assert_memory_equal(all->sample + 3 * IMAGE, alone->sample, sizeof(float) * IMAGE);
        assert_int_equal(all->seeds[3], 43);
        uint64_t seeds[] = {43, 40};
        lgv_samples *listed = sample(p, &(lgv_sample_options){.num_images = 2,
                                                              .seeds = seeds,
                                                              .mixed_precision = precisions[k],
                                                              .sampler = o.sampler});
        assert_memory_equal(all->sample + 3 * IMAGE, listed->sample, sizeof(float) * IMAGE);
        assert_memory_equal(all->sample, listed->sample + IMAGE, sizeof(float) * IMAGE);
        assert_memory_not_equal(all->sample, all->sample + IMAGE, sizeof(float) * IMAGE);
        lgv_samples_free(all);
        lgv_samples_free(split);
        lgv_samples_free(thread);
        lgv_samples_free(alone);
        lgv_samples_free(listed);
    }
    lgv_pipeline_free(single);
    lgv_device_free(one);
    lgv_pipeline_free(p);
}

/* So it is with every sampler, also where calls share what earlier ones kept, or a Brownian path. */
static void every_sampler_is_independent(void **state)
{
    lgv_pipeline *p = open_golden("config");
    for (int k = 0; k < lgv_sampler_count(); k++) {
        const lgv_sampler_info *info = lgv_sampler_at(k);
        if (info->inverse || !strncmp(info->name, "edm_", 4) || !strncmp(info->name, "flow_", 5))
            continue;
        lgv_sample_options o = {.num_images = 3,
                                .batch_size = 3,
                                .seed = 40,
                                .sampler = {.sampler = info->name, .num_inference_steps = 4}};
        lgv_samples *all = sample(p, &o);
        o.batch_size = 2;
        lgv_samples *split = sample(p, &o);
        o.seed = 42;
        o.num_images = 1;
        lgv_samples *alone = sample(p, &o);
        if (memcmp(all->sample, split->sample, sizeof(float) * 3 * IMAGE) ||
            memcmp(all->sample + 2 * IMAGE, alone->sample, sizeof(float) * IMAGE))
            fail_msg("%s: a picture depends on its batch", info->name);
        for (int i = 0; i < 3 * IMAGE; i++) assert_true(isfinite(all->sample[i]));
        assert_memory_not_equal(all->sample, all->sample + IMAGE, sizeof(float) * IMAGE);
        lgv_samples_free(all);
        lgv_samples_free(split);
        lgv_samples_free(alone);
    }
    lgv_pipeline_free(p);
}

typedef struct watch {
    int64_t calls, last_total, pictures, stop_at;
} watch;

static int watched(void *user, const lgv_sample_progress *progress)
{
    watch *w = user;
    w->calls++;
    assert_int_equal(progress->done, w->calls);
    w->last_total = progress->total;
    assert_int_equal(progress->sample != NULL, progress->step == progress->steps);
    for (int64_t i = 0; i < progress->images * IMAGE; i++) {
        assert_true(fabsf(progress->x0[i]) <= 1); /* clipped */
        /* The last step of DDIM ends in the picture it predicts. */
        if (progress->sample) assert_true(fabsf(progress->x[i] - progress->x0[i]) < 1e-5f);
    }
    if (progress->sample) assert_ptr_equal(progress->sample, progress->x);
    if (progress->sample) w->pictures += progress->images;
    return w->calls == w->stop_at;
}

static void progress(void **state)
{
    lgv_pipeline *p = open_golden("config");
    lgv_error err = {0};
    lgv_samples *s = NULL;
    watch w = {0};
    lgv_sample_options o = {.num_images = 5,
                            .batch_size = 2,
                            .discard = 1,
                            .callback = watched,
                            .user = &w,
                            .sampler = {.sampler = "ddim", .num_inference_steps = 3}};
    must(lgv_pipeline_sample(p, &o, NULL, &err), &err);
    assert_int_equal(w.calls, 9);
    assert_int_equal(w.last_total, 9);
    assert_int_equal(w.pictures, 5);
    w = (watch){.stop_at = 4};
    o.discard = 0;
    assert_int_equal(lgv_pipeline_sample(p, &o, &s, &err), LGV_ERR_CANCELLED);
    assert_null(s);
    assert_int_equal(w.calls, 4);
    lgv_pipeline_free(p);
}

static void refusals(void **state)
{
    lgv_pipeline *p = open_golden("config");
    lgv_error err = {0};
    lgv_samples *s = NULL;
    static const int32_t label[] = {0};
    assert_int_equal(lgv_pipeline_sample(p, &(lgv_sample_options){.height = 9}, &s, &err),
                     LGV_ERR_SHAPE);
    assert_int_equal(lgv_pipeline_sample(p, &(lgv_sample_options){.labels = label}, &s, &err),
                     LGV_ERR_ARGUMENT);
    assert_int_equal(lgv_pipeline_sample(p, &(lgv_sample_options){.num_images = -1}, &s, &err),
                     LGV_ERR_ARGUMENT);
    assert_int_equal(
        lgv_pipeline_sample(p, &(lgv_sample_options){.sampler = {.sampler = "euler2"}}, &s, &err),
        LGV_ERR_ARGUMENT);
    assert_null(s);
    assert_int_equal(lgv_pipeline_check(p, &(lgv_sample_options){.height = 9}, &err),
                     LGV_ERR_SHAPE);
    must(lgv_pipeline_check(p, NULL, &err), &err);
    int64_t calls = 0;
    must(lgv_pipeline_calls(p, NULL, &calls, &err), &err);
    assert_int_equal(calls, 20);
    must(lgv_pipeline_calls(
             p, &(lgv_sample_options){.sampler = {.sampler = "model"}}, &calls, &err), &err);
    assert_int_equal(calls, 1000);
    lgv_pipeline_free(p);
    lgv_pipeline *none = NULL;
    assert_int_equal(lgv_pipeline_open(golden_device(), "unet-32", LGV_WEIGHTS_BEST, &none, &err),
                     LGV_ERR_ARGUMENT);
    assert_true(lgv_pipeline_open(golden_device(), "/nonexistent/model", LGV_WEIGHTS_BEST, &none, &err) !=
                LGV_OK);
    assert_null(none);
}

/* Rows that a learned table of timesteps lacks would be read as NaN. */
static void tables_of_timesteps(void **state)
{
    lgv_error err = {0};
    lgv_safetensors *f = golden_open("pipeline");
    const char *text = golden_metadata(f, "config"), *folder = model_folder("table", "config");
    char path[4096];
    lgv_unet2d_config c;
    lgv_scheduler_config cfg;
    lgv_model *m;
    lgv_store *store;
    lgv_pipeline *p = NULL;
    lgv_samples *s = NULL;
    must(lgv_unet2d_config_parse(text, strlen(text), "config", &c, &err), &err);
    c.time_embedding_type = LGV_TIME_LEARNED;
    c.class_embedding = LGV_CLASS_TIMESTEP;
    c.num_train_timesteps = 100;
    snprintf(path, sizeof path, "%s/config.json", folder);
    must(lgv_unet2d_config_save(&c, path, &err), &err);
    assert_int_equal(lgv_pipeline_open(golden_device(), folder, LGV_WEIGHTS_BEST, &p, &err),
                     LGV_ERR_ARGUMENT);
    assert_non_null(strstr(err.text, "has learned 100 timesteps"));
    assert_non_null(strstr(err.text, "the schedule has 1000; num_train_timesteps must be the same"));

    must(lgv_model_new_unet2d(&c, &m, &err), &err);
    must(lgv_store_new(golden_device(), &store, &err), &err);
    must(lgv_scheduler_config_init(&cfg, NULL, &err), &err);
    assert_int_equal(lgv_pipeline_new(m, store, "weight", &cfg, &p, &err), LGV_ERR_ARGUMENT);
    assert_non_null(strstr(err.text, "has learned 100 timesteps"));
    cfg.num_train_timesteps = 100;
    must(lgv_pipeline_new(m, store, "weight", &cfg, &p, &err), &err);
    assert_int_equal(
        lgv_pipeline_sample(p,
                            &(lgv_sample_options){.num_images = 2, .labels = (int32_t[]){99, 100}},
                            &s, &err),
        LGV_ERR_ARGUMENT);
    assert_non_null(strstr(err.text, "label 100 of picture 1 lies outside the model's table"));
    lgv_pipeline_free(p);
    lgv_store_free(store);
    lgv_model_free(m);
    lgv_scheduler_config_clear(&cfg);
    lgv_safetensors_close(f);
}

static void hash(void **state)
{
    lgv_pipeline *p = open_golden("config"), *q = open_golden("config_labels");
    lgv_error err = {0};
    char a[65], b[65];
    must(lgv_pipeline_hash(p, a, &err), &err);
    must(lgv_pipeline_hash(q, b, &err), &err);
    assert_int_equal(strlen(a), 64);
    assert_string_not_equal(a, b);
    assert_string_equal(lgv_pipeline_scheduler(p)->class_name, "DDPMScheduler");
    lgv_pipeline_free(p);
    lgv_pipeline_free(q);
}

/* Opening and sampling survive the failure of any allocation: an error, and nothing left behind. */
/* The plain level promises the same bits from every compiler and machine: a picture's are kept here. */
static void stored_bits(void **state)
{
    (void)state;
    lgv_error err = {0};
    lgv_device *scalar;
    lgv_pipeline *p;
    must(lgv_device_new("cpu:scalar", 2, &scalar, &err), &err);
    const char *folder = model_folder("stored", "config");
    must(lgv_pipeline_open(scalar, folder, LGV_WEIGHTS_BEST, &p, &err), &err);
    lgv_sample_options o = {.num_images = 2, .seed = 3};
    o.sampler.sampler = "ddim";
    o.sampler.num_inference_steps = 5;
    lgv_samples *s = sample(p, &o);
    assert_string_equal(test_fnv1a_hex(s->sample, sizeof(float) * 2 * IMAGE), "a429098c9c80c468");
    lgv_samples_free(s);
    lgv_pipeline_free(p);
    lgv_device_free(scalar);
}

static void out_of_memory(void **state)
{
    const char *folder = model_folder("config", "config");
    uint64_t nth = 1, total;
    lgv_alloc_fail_after(0);
    lgv_pipeline_free(open_golden("config"));
    total = lgv_alloc_fail_after(0);
    /* every one of the first 64, then a stride that keeps the test short */
    for (lgv_status status = LGV_ERR_MEMORY; status; nth += nth < 64 ? 1 : 1 + total / 40) {
        lgv_error err = {0};
        lgv_pipeline *p = NULL;
        lgv_samples *s = NULL;
        lgv_sample_options o = {.sampler = {.sampler = "ddpm", .num_inference_steps = 1}};
        lgv_alloc_fail_after(nth);
        status = lgv_pipeline_open(golden_device(), folder, LGV_WEIGHTS_BEST, &p, &err);
        if (!status) status = lgv_pipeline_sample(p, &o, &s, &err);
        lgv_alloc_fail_after(0);
        lgv_samples_free(s);
        lgv_pipeline_free(p);
        if (status && status != LGV_ERR_MEMORY) fail_msg("allocation %d: %s", (int)nth, err.text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equals_diffusers),
        cmocka_unit_test(labels),
        cmocka_unit_test(pixels),
        cmocka_unit_test(learned_variance),
        cmocka_unit_test(independent),
        cmocka_unit_test(every_sampler_is_independent),
        cmocka_unit_test(progress),
        cmocka_unit_test(refusals),
        cmocka_unit_test(tables_of_timesteps),
        cmocka_unit_test(hash),
        cmocka_unit_test(stored_bits),
        cmocka_unit_test(out_of_memory),
    };
    return cmocka_run_group_tests(tests, NULL, golden_device_free);
}
