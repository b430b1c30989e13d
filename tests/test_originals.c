/* test_originals.c - `Model` of DDPM and CompVis and `UNetModel` of guided-diffusion: outputs and gradients against
   tools/golden/originals.py, files under the original names, what their configurations refuse.
   Tolerances as in test_unet2d_golden.c: output 1e-5, gradients 1e-4. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/core.h"
#include "core/file.h"
#include "langevin/convert.h"
#include "langevin/torch_file.h"
#include "network.h"
#include "ok.h"
#include "scratch.h"

static const char *const names[] = {
    "compvis_article", "ddpm_cifar10", "compvis_small",   "compvis_linear", "compvis_pooled",
    "compvis_wide",    "guided_legacy", "guided_new",      "guided_pooled",  "guided_fraction"};
static const char *const levels[] = {"scalar", "avx2", "avx512"};
enum { NAMES = sizeof names / sizeof names[0], LEVELS = 3 };

static void open_original(network *r, const char *name)
{
    char file[64];
    snprintf(file, sizeof file, "original_%s", name);
    network_open_file(r, file);
}

static void golden(void **state)
{
    const char *name = *state;
    for (int k = 0; k < LEVELS; k++) {
        network r;
        char spec[32], worst[128];
        if (!lgv_cpu_has(levels[k])) continue;
        snprintf(spec, sizeof spec, "cpu:%s", levels[k]);
        open_original(&r, name);
        network_plan(&r, spec, 2, NULL);
        network_write_inputs(&r);
        MUST(lgv_plan_run(r.plan, NULL, err));
        double out = network_output_error(&r), grad = network_gradient_error(&r, worst);
        print_message("%s, %s: output %.1e, gradients %.1e (%s)\n", name, levels[k], out, grad,
                      worst);
        assert_true(out <= 1e-5);
        assert_true(grad <= 1e-4);
        network_close(&r);
    }
}

/* --- Files --- */
static void write_original(const network *r, const char *path)
{
    char folder[512];
    snprintf(folder, sizeof folder, "%s", scratch_path("saved"));
    MUST(lgv_model_save(r->model, r->store, "weight", folder, err));
    const char *config = golden_metadata(r->file, "config"), *file = scratch_path("original.json");
    scratch_write(file, config, strlen(config));
    MUST(lgv_convert(folder, path, &(lgv_convert_options){.model = file}, NULL, err));
}

/* Every tensor of a file is one of the original's, with its shape and value. */
static void check_original(const network *r, const char *path)
{
    lgv_torch_file *f = NULL;
    MUST(lgv_torch_file_open(path, &f, err));
    assert_int_equal(lgv_torch_file_count(f), lgv_model_describe(r->model)->tensors);
    for (size_t i = 0; i < lgv_torch_file_count(f); i++) {
        const lgv_tensor_info *t = lgv_torch_file_at(f, i, NULL);
        char entry[600];
        snprintf(entry, sizeof entry, "grad.%s", t->name);
        if (!lgv_safetensors_find(r->file, entry)) fail_msg("the original has no '%s'", t->name);
        float *x = malloc(t->bytes);
        golden_parameter(t->name, t->rank, t->dim, x);
        assert_memory_equal(x, t->data, t->bytes);
        free(x);
        if (strstr(t->name, ".qkv.weight")) assert_int_equal(t->rank, 3);
        if (strstr(t->name, "mid.attn_1.q.weight")) assert_int_equal(t->rank, 4);
        if (strstr(t->name, "mid.attn_1.to_qkv.weight")) assert_int_equal(t->rank, 4);
    }
    lgv_torch_file_close(f);
}

/* What a saved network is: diffusers' where there is such a network. */
static const char *saved_class(const char *name)
{
    if (!strncmp(name, "guided", 6)) return "UNetModel";
    static const char *const own[] = {"compvis_linear", "compvis_pooled", "compvis_wide"};
    for (size_t i = 0; i < sizeof own / sizeof own[0]; i++)
        if (!strcmp(name, own[i])) return "Model";
    return "UNet2DModel";
}

/* Saved, written under the original names, loaded from there: nothing changes. */
static void files(void **state)
{
    network r;
    char path[512];
    snprintf(path, sizeof path, "%s", scratch_path("original.pt"));
    open_original(&r, *state);
    network_plan(&r, "cpu:scalar", 1, NULL);
    write_original(&r, path);
    check_original(&r, path);
    MUST(lgv_store_zero(r.store, "weight", err));
    MUST(lgv_model_load_weights_from(r.model, r.store, "weight", path, err));
    network_write_inputs(&r);
    MUST(lgv_plan_run(r.plan, NULL, err));
    assert_true(network_output_error(&r) <= 1e-5);

    lgv_model *saved = NULL; /* the folder describes itself */
    MUST(lgv_model_open(scratch_path("saved"), NULL, &saved, err));
    assert_string_equal(lgv_model_describe(saved)->class_name, saved_class(*state));
    assert_int_equal(lgv_model_describe(saved)->parameters,
                     lgv_model_describe(r.model)->parameters);
    MUST(lgv_model_load_weights(saved, r.store, "weight", LGV_WEIGHTS_BEST, err));
    lgv_model_free(saved);
    network_close(&r);
}

/* --- Configurations --- */
static void preset(void **state)
{
    lgv_model *m = NULL;
    MUST(lgv_model_open("CompVis-128", NULL, &m, err));
    const lgv_model_info *info = lgv_model_describe(m);
    assert_string_equal(info->class_name, "Model");
    assert_int_equal(info->parameters, 14406531);
    assert_int_equal(info->tensors, 220);
    assert_int_equal(info->height, 128);
    assert_non_null(lgv_model_unet2d(m));
    lgv_model_free(m);
}

#define MODEL                                                                                      \
    "{\"_class_name\": \"Model\", \"ch\": 32, \"out_ch\": 3, \"num_res_blocks\": 1, "              \
    "\"in_channels\": 3"
#define GUIDED                                                                                     \
    "{\"_class_name\": \"UNetModel\", \"image_size\": 16, \"in_channels\": 3, \"out_channels\": "  \
    "3, "                                                                                          \
    "\"num_res_blocks\": 1, \"model_channels\": 32"

static void refusals(void **state)
{
    static const struct {
        const char *config, *says;
    } cases[] = {
        {MODEL "}", "'resolution' must be"},
        {MODEL ", \"resolution\": 15}", "sample_size is 15x15"},
        {MODEL ", \"resolution\": 16, \"ch_mult\": [1, 0]}", "ch_mult"},
        {MODEL ", \"resolution\": 16, \"ch_mult\": [3000, 1]}", "at most 65536 channels"},
        {"{\"_class_name\": \"Model\", \"ch\": 16, \"out_ch\": 3, \"num_res_blocks\": 1, "
         "\"in_channels\": 3, \"resolution\": 16, \"ch_mult\": [2, 2]}",
         "has 16 channels"},
        {MODEL ", \"resolution\": 16, \"use_linear_attn\": 1}", "use_linear_attn"},
        {MODEL ", \"resolution\": 16, \"attn_type\": \"flash\"}", "attn_type"},
        {MODEL ", \"resolution\": 16, \"conv_shortcut\": \"yes\"}", "conv_shortcut"},
        {MODEL ", \"resolution\": 16, \"resamp_with_conv\": 0}", "resamp_with_conv"},
        {MODEL ", \"resolution\": 16, \"use_timestep\": false}", "how noisy a picture is"},
        {GUIDED ", \"channel_mult\": [1, 1.1]}", "channel_mult[1] * model_channels is 35.2"},
        {GUIDED ", \"channel_mult\": []}", "channel_mult"},
        {GUIDED ", \"channel_mult\": [1, 1e9]}", "channel_mult[1]"},
        {GUIDED ", \"channel_mult\": [1, 2, 1, 1, 1, 1]}", "image_size is 16"},
        {GUIDED ", \"channel_mult\": [1], \"num_heads\": 5}", "cannot be split into heads"},
        {GUIDED ", \"channel_mult\": [1], \"num_head_channels\": 64}",
         "cannot be split into heads"},
        {GUIDED ", \"dims\": 3}", "dims"},
        {GUIDED ", \"dropout\": 1.5}", "dropout is 1.5"},
        {GUIDED ", \"num_classes\": 0}", "num_classes"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        lgv_model *m = NULL;
        lgv_error err = {0};
        const char *path = scratch_path("refused.json");
        scratch_write(path, cases[i].config, strlen(cases[i].config));
        if (!lgv_model_open(path, NULL, &m, &err) || !strstr(err.text, cases[i].says))
            fail_msg("case %zu says '%s'", i, err.text);
    }
}

/* A guided network starts by giving nothing: its last convolution is zero. */
static void initialisation(void **state)
{
    network r;
    open_original(&r, "guided_new");
    network_plan(&r, "cpu:scalar", 1, NULL);
    MUST(lgv_model_init(r.model, r.store, "weight", NULL, 3, err));
    network_write_inputs(&r);
    MUST(lgv_plan_run(r.plan, NULL, err));
    int64_t count = r.N * r.H * r.W * 6;
    float *y = malloc((size_t)count * sizeof *y);
    MUST(lgv_plan_read_nchw(r.plan, "output", y, count, err));
    for (int64_t i = 0; i < count; i++) assert_true(y[i] == 0);
    free(y);
    network_close(&r);
}

int main(void)
{
    static struct CMUnitTest tests[2 * NAMES + 3];
    int n = 0;
    for (int i = 0; i < NAMES; i++) {
        void *name = (void *)(uintptr_t)names[i];
        tests[n++] = (struct CMUnitTest){names[i], golden, NULL, NULL, name};
        tests[n++] = (struct CMUnitTest){names[i], files, NULL, NULL, name};
    }
    tests[n++] = (struct CMUnitTest)cmocka_unit_test(preset);
    tests[n++] = (struct CMUnitTest)cmocka_unit_test(refusals);
    tests[n++] = (struct CMUnitTest)cmocka_unit_test(initialisation);
    return _cmocka_run_group_tests("originals", tests, (size_t)n, NULL, scratch_remove);
}
