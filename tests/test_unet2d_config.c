/* test_unet2d_config.c - config.json of UNet2DModel: defaults, what diffusers writes, what is
 * refused and how. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/core.h"
#include "golden.h"
#include "io/json.h"
#include "langevin/model.h"
#include "langevin/ops.h"
#include "ok.h"
#include "scratch.h"

/* A network with two levels and the given fields; later keys win over none: each key stands once.
 */
static const char *with(const char *fields)
{
    static char text[2048];
    const char *base[][2] = {{"block_out_channels", "[16, 32]"},
                             {"down_block_types", "[\"DownBlock2D\", \"DownBlock2D\"]"},
                             {"up_block_types", "[\"UpBlock2D\", \"UpBlock2D\"]"},
                             {"norm_num_groups", "8"}};
    size_t used = (size_t)snprintf(text, sizeof text, "{");
    for (int i = 0; i < 4; i++)
        if (!strstr(fields, base[i][0]))
            used += (size_t)snprintf(text + used, sizeof text - used, "\"%s\": %s, ", base[i][0],
                                     base[i][1]);
    snprintf(text + used, sizeof text - used, "%s%s}", fields,
             fields[0] ? "" : "\"layers_per_block\": 2");
    return text;
}

static lgv_status parse(const char *text, lgv_unet2d_config *c, lgv_error *err)
{
    return lgv_unet2d_config_parse(text, strlen(text), "config.json", c, err);
}

static void accepts(const char *fields, lgv_unet2d_config *c)
{
    MUST(parse(with(fields), c, err));
}

static void refuses(const char *part, const char *fields)
{
    lgv_unet2d_config c;
    lgv_error err = {0};
    if (parse(with(fields), &c, &err) == LGV_OK) fail_msg("%s was accepted", fields);
    if (!strstr(err.text, part)) fail_msg("%s: '%s' does not say '%s'", fields, err.text, part);
    if (!strstr(err.text, "config.json")) fail_msg("'%s' does not name the file", err.text);
}

static void defaults(void **state)
{
    lgv_unet2d_config c, d;
    lgv_unet2d_config_default(&d);
    MUST(parse("{}", &c, err));
    assert_memory_equal(&c, &d, sizeof c);
    assert_int_equal(lgv_unet2d_divisor(&c), 8);
    assert_int_equal(lgv_unet2d_embedding(&c), 896);
    MUST(lgv_unet2d_config_check(&d, err));
}

static void forms(void **state)
{
    lgv_unet2d_config c;
    accepts("\"sample_size\": [16, 24]", &c);
    assert_int_equal(c.sample_height, 16);
    assert_int_equal(c.sample_width, 24);
    accepts("\"sample_size\": null, \"attention_head_dim\": null, \"mid_block_type\": null, "
            "\"unknown_key\": 7",
            &c);
    assert_int_equal(c.sample_height, 0);
    assert_int_equal(c.attention_head_dim, 0);
    assert_int_equal(c.mid_block, 0);
    accepts("\"mid_block_type\": \"UNetMidBlock2DCrossAttn\"",
            &c); /* diffusers builds UNetMidBlock2D for any text */
    assert_int_equal(c.mid_block, 1);
    accepts("\"act_fn\": \"Swish\", \"downsample_type\": null, \"upsample_type\": \"resnet\"", &c);
    assert_int_equal(c.act_fn, LGV_ACT_SILU);
    assert_int_equal(c.downsample_resnet, 0);
    assert_int_equal(c.upsample_resnet, 1);
    accepts("\"down_block_types\": [\"UNetResDownBlock2D\", \"UNetResAttnDownBlock2D\"]", &c);
    assert_int_equal(c.down_block_types[1], LGV_BLOCK_ATTN);
    accepts("\"class_embed_type\": \"projection\", \"num_class_embeds\": 4",
            &c); /* unknown there: no embedding */
    assert_int_equal(c.class_embedding, LGV_CLASS_NONE);
    accepts("\"class_embed_type\": null, \"num_class_embeds\": 4", &c);
    assert_int_equal(c.class_embedding, LGV_CLASS_TABLE);
    accepts("\"down_block_types\": [\"DownBlock2D\", \"KDownBlock2D\"], \"block_out_channels\": "
            "[32, 64]",
            &c); /* K alone, lowest */
}

static void refusals(void **state)
{
    refuses("down_block_types has 3 entries and up_block_types 2",
            "\"down_block_types\": [\"DownBlock2D\", \"DownBlock2D\", \"DownBlock2D\"]");
    refuses("block_out_channels 3", "\"block_out_channels\": [16, 32, 64]");
    refuses("did you mean 'AttnDownBlock2D'",
            "\"down_block_types\": [\"DownBlock2D\", \"AtnDownBlock2d\"]");
    refuses("'Quux', which does not exist", "\"up_block_types\": [\"UpBlock2D\", \"Quux\"]");
    refuses("UNet2DConditionModel",
            "\"down_block_types\": [\"DownBlock2D\", \"CrossAttnDownBlock2D\"]");
    refuses("UNet2DConditionModel", "\"up_block_types\": [\"KCrossAttnUpBlock2D\", \"UpBlock2D\"]");
    refuses("cannot run either", "\"down_block_types\": [\"DownEncoderBlock2D\", \"DownBlock2D\"]");
    refuses("cannot run either", "\"up_block_types\": [\"AttnUpDecoderBlock2D\", \"UpBlock2D\"]");
    refuses("this version knows UNet2DModel", "\"_class_name\": \"UNet2DConditionModel\"");
    refuses("16 channels, which cannot be split into 32 groups", "\"norm_num_groups\": 32");
    refuses("norm_num_groups is null", "\"norm_num_groups\": null");
    refuses("multiples of 2", "\"sample_size\": 15");
    refuses("multiples of 2", "\"sample_size\": [16, 9]");
    refuses("sample_size", "\"sample_size\": [16, 16, 16]");
    refuses("[height, width]", "\"sample_size\": [16]");
    refuses("more than the 32 channels of the mid block", "\"attention_head_dim\": 64");
    refuses("attention_head_dim", "\"attention_head_dim\": 0");
    refuses("num_train_timesteps", "\"time_embedding_type\": \"learned\"");
    refuses("positional, fourier or learned", "\"time_embedding_type\": \"rotary\"");
    refuses("freq_shift", "\"freq_shift\": 8");
    refuses("silu, swish, mish, gelu or relu", "\"act_fn\": \"tanh\"");
    refuses("\"conv\" or \"resnet\"", "\"downsample_type\": \"pool\"");
    refuses("\"default\" or \"scale_shift\"", "\"resnet_time_scale_shift\": \"spatial\"");
    refuses("layers_per_block", "\"layers_per_block\": 0");
    refuses("layers_per_block", "\"layers_per_block\": \"two\"");
    refuses("layers_per_block", "\"layers_per_block\": 1000000");
    refuses("dropout", "\"dropout\": 1.0");
    refuses("downsample_padding", "\"downsample_padding\": 2");
    refuses("norm_eps", "\"norm_eps\": -1");
    refuses("mid_block_scale_factor", "\"mid_block_scale_factor\": 0");
    refuses("block_out_channels", "\"block_out_channels\": [16, -32]");
    refuses("block_out_channels", "\"block_out_channels\": [16, 4000000000]");
    refuses("in_channels", "\"in_channels\": 0");
}

/* NCSN++ and k-diffusion blocks that diffusers builds and then cannot run, or refuses. */
static void block_combinations(void **state)
{
    lgv_unet2d_config c;
    refuses("in_channels is 1 and must be 3",
            "\"in_channels\": 1, \"down_block_types\": [\"SkipDownBlock2D\", \"DownBlock2D\"]");
    refuses("out_channels is 1 and must be 3",
            "\"out_channels\": 1, \"up_block_types\": [\"SkipUpBlock2D\", \"SkipUpBlock2D\"]");
    refuses("must be a Skip block too", "\"up_block_types\": [\"SkipUpBlock2D\", \"UpBlock2D\"]");
    refuses("AttnSkipDownBlock2D", "\"down_block_types\": [\"DownBlock2D\", "
                                   "\"AttnSkipDownBlock2D\"], \"block_out_channels\": [16, 48]");
    refuses("without the picture",
            "\"down_block_types\": [\"DownBlock2D\", \"SkipDownBlock2D\", \"DownBlock2D\"], "
            "\"block_out_channels\":"
            " [16, 16, 16], \"up_block_types\": [\"UpBlock2D\", \"UpBlock2D\", \"UpBlock2D\"]");
    accepts("\"down_block_types\": [\"SkipDownBlock2D\", \"DownBlock2D\"]", &c);
    accepts("\"up_block_types\": [\"UpBlock2D\", \"SkipUpBlock2D\"], \"out_channels\": 1",
            &c); /* nothing collected yet */
    refuses("K blocks", "\"down_block_types\": [\"KDownBlock2D\", \"DownBlock2D\"], "
                        "\"block_out_channels\": [32, 64]");
    refuses(
        "K blocks",
        "\"up_block_types\": [\"KUpBlock2D\", \"KUpBlock2D\"], \"block_out_channels\": [32, 64]");
    refuses("KDownBlock2D",
            "\"down_block_types\": [\"DownBlock2D\", \"KDownBlock2D\"]"); /* no 32 channels */
}

/* --- What diffusers writes --- */
static const char *const golden[] = {
    "plain",         "ddpm_cifar10",     "head_dim",    "resnet_samplers", "skip",
    "skip_nogroups", "learned",          "class_table", "class_timestep",  "class_identity",
    "fourier_class", "scale_shift_norm", "no_mid",      "odd_channels",    "k_blocks"};

static bool same_value(const json_t *a, const json_t *b)
{
    if (json_is_number(a) && json_is_number(b)) return json_number_value(a) == json_number_value(b);
    if (json_is_array(a) && json_is_array(b) && json_array_size(a) == json_array_size(b)) {
        for (size_t i = 0; i < json_array_size(a); i++)
            if (!same_value(json_array_get(a, i), json_array_get(b, i))) return false;
        return true;
    }
    return json_equal(a, b);
}

/* Read and written again, every field is what diffusers had: but for old prefixes and synonyms of a
 * value. */
static void round_trip(void **state)
{
    for (size_t i = 0; i < sizeof golden / sizeof golden[0]; i++) {
        char file[64];
        lgv_unet2d_config c, again;
        lgv_json ours = {0}, theirs = {0};
        snprintf(file, sizeof file, "unet2d_%s", golden[i]);
        lgv_safetensors *f = golden_open(file);
        const char *text = golden_metadata(f, "config"), *path = scratch_path("config.json"), *key;
        json_t *value;
        MUST(parse(text, &c, err));
        MUST(lgv_unet2d_config_save(&c, path, err));
        MUST(lgv_unet2d_config_load(path, &again, err));
        assert_memory_equal(&c, &again, sizeof c);
        MUST(lgv_json_load(path, &ours, err));
        MUST(lgv_json_parse(text, strlen(text), golden[i], &theirs, err));
        json_object_foreach(theirs.root, key, value)
        {
            bool prefixed = !strcmp(golden[i], "no_mid") && strstr(key, "_block_types"),
                 synonym = !strcmp(golden[i], "class_identity") && !strcmp(key, "act_fn");
            bool square = !strcmp(key, "sample_size") &&
                          c.sample_height == c.sample_width; /* written as one number */
            if (!prefixed && !synonym && !square &&
                !same_value(value, json_object_get(ours.root, key)))
                fail_msg("%s: '%s' is not what diffusers wrote", golden[i], key);
        }
        assert_int_equal(json_object_size(ours.root),
                         json_object_size(theirs.root) + 1); /* _diffusers_version */
        lgv_json_free(&ours);
        lgv_json_free(&theirs);
        lgv_safetensors_close(f);
    }
}

static void bad_files(void **state)
{
    lgv_unet2d_config c;
    lgv_error err = {0};
    assert_int_equal(lgv_unet2d_config_load(scratch_path("missing.json"), &c, &err), LGV_ERR_IO);
    assert_non_null(strstr(err.text, "missing.json"));
    assert_int_equal(parse("{\"in_channels\": ", &c, &err), LGV_ERR_FORMAT);
    assert_int_equal(parse("[1, 2]", &c, &err), LGV_ERR_FORMAT);
    lgv_unet2d_config_default(&c);
    c.layers_per_block = 0;
    assert_int_equal(lgv_unet2d_config_save(&c, scratch_path("never.json"), &err),
                     LGV_ERR_ARGUMENT);
    lgv_model *m = NULL;
    assert_int_equal(lgv_model_new_unet2d(&c, &m, &err), LGV_ERR_ARGUMENT);
}

/* Every allocation of opening, building and saving fails once; nothing leaks, everything is
 * reported. */
static void allocation_failures(void **state)
{
    const char *path = scratch_path("alloc.json");
    lgv_unet2d_config c;
    accepts("\"sample_size\": 16", &c);
    MUST(lgv_unet2d_config_save(&c, path, err));
    lgv_alloc_fail_after(0);
    lgv_model *m = NULL;
    MUST(lgv_model_open(path, NULL, &m, err));
    lgv_model_free(m);
    uint64_t count = lgv_alloc_fail_after(0);
    assert_true(count > 10);
    for (uint64_t n = 1; n <= count; n += 1 + count / 300) {
        lgv_error err = {0};
        m = NULL;
        lgv_alloc_fail_after(n);
        lgv_status status = lgv_model_open(path, NULL, &m, &err);
        lgv_alloc_fail_after(0);
        if (status == LGV_OK) fail_msg("allocation %llu failed unnoticed", (unsigned long long)n);
        assert_null(m);
        if (status != LGV_ERR_MEMORY)
            fail_msg("allocation %llu: %s (%s)", (unsigned long long)n, lgv_status_name(status),
                     err.text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults),
        cmocka_unit_test(forms),
        cmocka_unit_test(refusals),
        cmocka_unit_test(block_combinations),
        cmocka_unit_test(round_trip),
        cmocka_unit_test(bad_files),
        cmocka_unit_test(allocation_failures),
    };
    return cmocka_run_group_tests(tests, NULL, scratch_remove);
}
