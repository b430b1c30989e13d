/* test_model.c - presets, folders in every layout, weights in and out, default initialisation,
 * traces. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/file.h"
#include "golden.h"
#include "io/json.h"
#include "langevin/model.h"
#include "langevin/ops.h"
#include "langevin/safetensors.h"
#include "langevin/torch_file.h"
#include "ok.h"
#include "scratch.h"

static const char small_config[] =
    "{\"_class_name\": \"UNet2DModel\", \"sample_size\": 16, \"block_out_channels\": [8, 16], "
    "\"norm_num_groups\": 4,"
    " \"layers_per_block\": 1, \"down_block_types\": [\"DownBlock2D\", \"AttnDownBlock2D\"],"
    " \"up_block_types\": [\"AttnUpBlock2D\", \"UpBlock2D\"]}";

static lgv_model *model_from(const char *config)
{
    lgv_unet2d_config c;
    lgv_model *m = NULL;
    MUST(lgv_unet2d_config_parse(config, strlen(config), "config.json", &c, err));
    MUST(lgv_model_new_unet2d(&c, &m, err));
    return m;
}

/* A store that knows the model's parameters. */
typedef struct stock {
    lgv_device *device;
    lgv_store *store;
} stock;

static lgv_graph *graph_of(const lgv_model *m)
{
    const lgv_model_info *info = lgv_model_describe(m);
    int64_t size = 2 * (int64_t)info->divisor;
    lgv_graph *g = lgv_graph_new();
    lgv_model_inputs in;
    lgv_id y;
    lgv_model_inputs_none(&in);
    in.sample = lgv_input(g, "sample", LGV_F32, 4, (int64_t[]){2, size, size, info->in_channels});
    lgv_model_inputs_from_step(m, g, 2, &in);
    MUST(lgv_model_build(m, g, &in, &y, err));
    return g;
}

static stock stock_new(const lgv_model *m)
{
    stock s = {NULL, NULL};
    lgv_graph *g = graph_of(m);
    MUST(lgv_device_new("cpu:scalar", 1, &s.device, err));
    MUST(lgv_store_new(s.device, &s.store, err));
    MUST(lgv_store_declare(s.store, g, err));
    lgv_graph_free(g);
    return s;
}

static void stock_free(stock s)
{
    lgv_store_free(s.store);
    lgv_device_free(s.device);
}

static float *values(const stock *s, const char *set, const char *name, int64_t *count)
{
    int rank, index = lgv_store_find(s->store, name);
    int64_t dim[LGV_MAX_RANK], n = 1;
    if (index < 0) fail_msg("the store has no '%s'", name);
    lgv_store_at(s->store, index, &rank, dim, NULL);
    for (int k = 0; k < rank; k++) n *= dim[k];
    float *v = malloc((size_t)n * sizeof *v);
    MUST(lgv_store_read(s->store, set, index, v, n, err));
    *count = n;
    return v;
}

static void assert_same_sets(const lgv_model *m, const stock *a, const char *set_a, const stock *b,
                             const char *set_b)
{
    const char *name;
    for (int i = 0; (name = lgv_model_parameter(m, i, NULL, NULL, NULL)); i++) {
        int64_t na, nb;
        float *va = values(a, set_a, name, &na), *vb = values(b, set_b, name, &nb);
        assert_int_equal(na, nb);
        assert_memory_equal(va, vb, (size_t)na * sizeof *va);
        free(va);
        free(vb);
    }
}

static void write_text(const char *path, const char *text)
{
    scratch_write(path, text, strlen(text));
}

static void make_folder(const char *path)
{
    MUST(lgv_make_dir(path, err));
}

static const char *in_folder(const char *folder, const char *name)
{
    static char path[4][1024];
    static int turn;
    char *p = path[turn++ % 4];
    snprintf(p, 1024, "%s/%s", folder, name);
    return p;
}

/* --- Presets and known sizes --- */
static void presets(void **state)
{
    lgv_model *m = NULL;
    const char *summary;
    assert_string_equal(lgv_model_presets(0, &summary), "unet-32");
    for (int i = 0; lgv_model_presets(i, NULL); i++) {
        MUST(lgv_model_open(lgv_model_presets(i, NULL), NULL, &m, err));
        assert_true(lgv_model_describe(m)->from_preset);
        lgv_model_free(m);
        for (int classes = -1; classes <= 5;
             classes += 6) { /* without, with, as training opens them */
            MUST(lgv_model_open(
                lgv_model_presets(i, NULL),
                &(lgv_model_options){
                    .channels = 1, .resolution = 32, .classes = classes, .learned_variance = 1},
                &m, err));
            const lgv_model_info *made = lgv_model_describe(m);
            assert_int_equal(made->in_channels, 1);
            assert_int_equal(made->out_channels, 2);
            assert_int_equal(made->width, 32);
            assert_int_equal(made->class_count, classes > 0 ? classes : 0);
            lgv_model_free(m);
        }
    }
    MUST(lgv_model_open(
        "UNET_64", &(lgv_model_options){.channels = 1, .resolution = 48, .classes = 10}, &m, err));
    const lgv_model_info *info = lgv_model_describe(m);
    assert_int_equal(info->in_channels, 1);
    assert_int_equal(info->out_channels, 1);
    assert_int_equal(info->height, 48);
    assert_int_equal(info->class_kind, LGV_CLASS_TABLE);
    assert_int_equal(info->class_count, 10);
    assert_null(info->weights_raw);
    lgv_model_free(m);
    FAILS(LGV_ERR_ARGUMENT, "unet-32, unet-64, unet-128", lgv_model_open("unet-33", NULL, &m, err));
    FAILS(LGV_ERR_ARGUMENT, "multiples of 8",
          lgv_model_open("unet-64", &(lgv_model_options){.resolution = 28}, &m, err));
}

static const char article[] =
    "{\"sample_size\": 128, \"layers_per_block\": 2, \"block_out_channels\": "
    "[128,128,256,256,512,512],"
    "\"down_block_types\": "
    "[\"DownBlock2D\",\"DownBlock2D\",\"DownBlock2D\",\"DownBlock2D\",\"DownBlock2D\","
    "\"DownBlock2D\"],"
    "\"up_block_types\": "
    "[\"UpBlock2D\",\"UpBlock2D\",\"UpBlock2D\",\"UpBlock2D\",\"UpBlock2D\",\"UpBlock2D\"]}";

/* Counts known from diffusers: the article's network, train_unconditional.py's default,
 * ddpm-cifar10-32. */
static void known_networks(void **state)
{
    static const struct {
        const char *config;
        int tensors;
        int64_t parameters;
    } known[] = {
        {article, 400, 108414979},
        {"{\"sample_size\": 128, \"layers_per_block\": 2, \"block_out_channels\": "
         "[128,128,256,256,512,512],"
         "\"down_block_types\": "
         "[\"DownBlock2D\",\"DownBlock2D\",\"DownBlock2D\",\"DownBlock2D\",\"AttnDownBlock2D\","
         "\"DownBlock2D\"],"
         "\"up_block_types\": "
         "[\"UpBlock2D\",\"AttnUpBlock2D\",\"UpBlock2D\",\"UpBlock2D\",\"UpBlock2D\",\"UpBlock2D\"]"
         "}",
         450, 113673219},
        {"{\"attention_head_dim\": null, \"block_out_channels\": [128,256,256,256], "
         "\"downsample_padding\": 0,"
         "\"flip_sin_to_cos\": false, \"freq_shift\": 1, \"norm_eps\": 1e-6, \"sample_size\": 32,"
         "\"down_block_types\": "
         "[\"DownBlock2D\",\"AttnDownBlock2D\",\"DownBlock2D\",\"DownBlock2D\"],"
         "\"up_block_types\": [\"UpBlock2D\",\"UpBlock2D\",\"AttnUpBlock2D\",\"UpBlock2D\"]}",
         328, 35746307},
    };
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        lgv_model *m = model_from(known[i].config);
        assert_int_equal(lgv_model_describe(m)->tensors, known[i].tensors);
        assert_int_equal(lgv_model_describe(m)->parameters, known[i].parameters);
        lgv_model_free(m);
    }
}

/* Mission 6.2: the article's shapes for input (32,3,128,128). */
static void trace(void **state)
{
    static const int64_t want[][4] = {{32, 128, 128, 128}, {32, 512, 1, 1},     {32, 128, 128, 128},
                                      {32, 128, 64, 64},   {32, 256, 32, 32},   {32, 256, 16, 16},
                                      {32, 512, 8, 8},     {32, 512, 4, 4},     {32, 512, 4, 4},
                                      {32, 512, 8, 8},     {32, 512, 16, 16},   {32, 256, 32, 32},
                                      {32, 256, 64, 64},   {32, 128, 128, 128}, {32, 128, 128, 128},
                                      {32, 128, 128, 128}, {32, 128, 128, 128}, {32, 3, 128, 128}};
    lgv_model *m = model_from(article);
    lgv_model_stage *stages = NULL;
    int count = 0;
    MUST(lgv_model_trace(m, 32, 128, 128, &stages, &count, err));
    assert_int_equal(count, sizeof want / sizeof want[0]);
    for (int i = 0; i < count; i++) {
        assert_int_equal(stages[i].rank, i == 1 ? 2 : 4);
        for (int k = 0; k < stages[i].rank; k++) assert_int_equal(stages[i].dim[k], want[i][k]);
    }
    assert_string_equal(stages[0].name, "conv_in");
    assert_string_equal(stages[1].title, "time embedding");
    assert_string_equal(stages[2].title, "down 0 (DownBlock2D), before down-sampling");
    assert_string_equal(stages[8].name, "mid_block");
    assert_string_equal(stages[17].name, "conv_out");
    lgv_model_stages_free(stages);
    FAILS(LGV_ERR_SHAPE, "for instance 96x32",
          lgv_model_trace(m, 1, 100, 20, &stages, &count, err));
    lgv_model_free(m);
}

/* --- Modules --- */
static void modules(void **state)
{
    static const char *const wanted[] = {"conv_in",
                                         "time_proj",
                                         "time_embedding.linear_1",
                                         "time_embedding",
                                         "down_blocks.0.resnets.0.norm1",
                                         "down_blocks.0.resnets.0.conv1",
                                         "down_blocks.0.resnets.0.time_emb_proj",
                                         "down_blocks.0.resnets.0",
                                         "down_blocks.0.downsamplers.0",
                                         "down_blocks.1.attentions.0.group_norm",
                                         "down_blocks.1.attentions.0.to_q",
                                         "down_blocks.1.attentions.0.to_out.0",
                                         "down_blocks.1.attentions.0",
                                         "mid_block.resnets.1",
                                         "mid_block",
                                         "up_blocks.0.upsamplers.0.conv",
                                         "up_blocks.1.resnets.1.conv_shortcut",
                                         "up_blocks.1",
                                         "conv_norm_out",
                                         "conv_act",
                                         "conv_out"};
    lgv_model *m = model_from(small_config);
    lgv_graph *g = graph_of(m);
    for (size_t k = 0; k < sizeof wanted / sizeof wanted[0]; k++) {
        int found = 0;
        for (int i = 0; i < lgv_graph_modules(g); i++) {
            const char *path;
            lgv_graph_module_at(g, i, &path);
            found += !strcmp(path, wanted[k]);
        }
        if (found != 1) fail_msg("module '%s' is noted %d times", wanted[k], found);
    }
    lgv_graph_free(g);
    lgv_model_free(m);
}

/* --- Weights --- */
static void save_and_load(void **state)
{
    const char *folder = scratch_path("saved");
    lgv_model *m = model_from(small_config), *again = NULL;
    stock a = stock_new(m), b;
    MUST(lgv_model_init(m, a.store, "weight", NULL, 5, err));
    MUST(lgv_model_save(m, a.store, "weight", folder, err));

    MUST(lgv_model_open(folder, NULL, &again, err));
    assert_string_equal(lgv_model_describe(again)->weights_raw, folder);
    assert_memory_equal(lgv_model_unet2d(again), lgv_model_unet2d(m), sizeof(lgv_unet2d_config));
    b = stock_new(again);
    MUST(lgv_model_load_weights(again, b.store, "weight", LGV_WEIGHTS_BEST, err));
    assert_same_sets(m, &a, "weight", &b, "weight");
    FAILS(LGV_ERR_ARGUMENT, "no averaged (EMA) weights",
          lgv_model_load_weights(again, b.store, "weight", LGV_WEIGHTS_EMA, err));

    lgv_safetensors *f = NULL; /* in the order of the safetensors package: by name */
    MUST(lgv_safetensors_open(in_folder(folder, "diffusion_pytorch_model.safetensors"), &f, err));
    assert_string_equal(lgv_safetensors_metadata(f, "format"), "pt");
    for (size_t i = 1; i < lgv_safetensors_count(f); i++)
        assert_true(strcmp(lgv_safetensors_at(f, i - 1)->name, lgv_safetensors_at(f, i)->name) < 0);
    lgv_safetensors_close(f);
    stock_free(a);
    stock_free(b);
    lgv_model_free(m);
    lgv_model_free(again);
}

/* Writes the model's weights under the names and into the folder given, by hand. */
typedef struct rewrite {
    const char *drop, *add;  /* a name to leave out, one to add */
    int old_names;           /* query, key, value, proj_attn as 1x1 convolutions */
    const char *wrong_shape; /* a name to write with one row more */
} rewrite;

static void old_name_of(const char *name, char out[256])
{
    static const char *const pairs[][2] = {{".to_q.", ".query."},
                                           {".to_k.", ".key."},
                                           {".to_v.", ".value."},
                                           {".to_out.0.", ".proj_attn."}};
    snprintf(out, 256, "%s", name);
    for (int i = 0; i < 4; i++) {
        const char *at = strstr(name, pairs[i][0]);
        if (at)
            snprintf(out, 256, "%.*s%s%s", (int)(at - name), name, pairs[i][1],
                     at + strlen(pairs[i][0]));
    }
}

static void write_weights(const lgv_model *m, const stock *s, const char *path, const rewrite *how,
                          int first, int last)
{
    lgv_safetensors_writer *w = NULL;
    float *kept[512];
    int n_kept = 0;
    MUST(lgv_safetensors_writer_new(&w, err));
    for (int i = first; i < last; i++) {
        int rank;
        int64_t dim[LGV_MAX_RANK], n;
        const char *name = lgv_model_parameter(m, i, &rank, dim, NULL);
        char text[256];
        if (how->drop && !strcmp(name, how->drop)) continue;
        float *v = values(s, "weight", name, &n);
        if (how->wrong_shape && !strcmp(name, how->wrong_shape)) {
            dim[0]++;
            v = realloc(v, (size_t)(2 * n) * sizeof *v);
            memset(v + n, 0, (size_t)n * sizeof *v);
        }
        snprintf(text, sizeof text, "%s", name);
        if (how->old_names) old_name_of(name, text);
        if (strcmp(text, name) && rank == 2) rank = 4;
        MUST(lgv_safetensors_add(w, text, LGV_F32, rank, dim, v, err));
        kept[n_kept++] = v;
    }
    static const float one = 1;
    if (how->add) MUST(lgv_safetensors_add(w, how->add, LGV_F32, 1, (int64_t[]){1}, &one, err));
    MUST(lgv_safetensors_write(w, path, err));
    lgv_safetensors_writer_free(w);
    for (int i = 0; i < n_kept; i++) free(kept[i]);
}

static void other_files(void **state)
{
    const char *folder = scratch_path("other");
    lgv_model *m = model_from(small_config), *opened = NULL;
    int count = lgv_model_describe(m)->tensors;
    stock a = stock_new(m), b = stock_new(m);
    MUST(lgv_model_init(m, a.store, "weight", NULL, 9, err));
    make_folder(folder);
    write_text(in_folder(folder, "config.json"), small_config);
    MUST(lgv_model_open(folder, NULL, &opened, err));
    FAILS(LGV_ERR_ARGUMENT, "holds no weights",
          lgv_model_load_weights(opened, b.store, "weight", LGV_WEIGHTS_BEST, err));
    lgv_model_free(opened);

    char file[1024];
    snprintf(file, sizeof file, "%s/diffusion_pytorch_model.safetensors", folder);
    write_weights(m, &a, file, &(rewrite){.old_names = 1}, 0, count);
    MUST(lgv_model_open(folder, NULL, &opened, err));
    MUST(lgv_model_load_weights(opened, b.store, "weight", LGV_WEIGHTS_RAW, err));
    assert_same_sets(m, &a, "weight", &b, "weight");

    write_weights(m, &a, file, &(rewrite){.drop = "conv_in.bias"}, 0, count);
    FAILS(LGV_ERR_FORMAT, "1 of 144 tensors are missing ('conv_in.bias')",
          lgv_model_load_weights(opened, b.store, "weight", LGV_WEIGHTS_BEST, err));
    write_weights(m, &a, file, &(rewrite){.add = "conv_extra.bias"}, 0, count);
    FAILS(LGV_ERR_FORMAT, "'conv_extra.bias'",
          lgv_model_load_weights(opened, b.store, "weight", LGV_WEIGHTS_BEST, err));
    write_weights(m, &a, file, &(rewrite){.wrong_shape = "conv_in.weight"}, 0, count);
    FAILS(LGV_ERR_FORMAT, "'conv_in.weight' is [9,3,3,3], the network wants [8,3,3,3]",
          lgv_model_load_weights(opened, b.store, "weight", LGV_WEIGHTS_BEST, err));
    write_text(file, "not a safetensors file at all");
    FAILS(LGV_ERR_FORMAT, "diffusion_pytorch_model.safetensors",
          lgv_model_load_weights(opened, b.store, "weight", LGV_WEIGHTS_BEST, err));
    MUST(lgv_remove_tree(file, err));

    write_weights(m, &a, in_folder(folder, "one.safetensors"), &(rewrite){0}, 0, count / 2);
    write_weights(m, &a, in_folder(folder, "two.safetensors"), &(rewrite){0}, count / 2, count);
    char *index = malloc(1 << 16);
    size_t used = (size_t)sprintf(index, "{\"metadata\": {}, \"weight_map\": {");
    for (int i = 0; i < count; i++)
        used += (size_t)snprintf(index + used, (1 << 16) - used, "%s\"%s\": \"%s.safetensors\"",
                                 i ? ", " : "", lgv_model_parameter(m, i, NULL, NULL, NULL),
                                 i < count / 2 ? "one" : "two");
    snprintf(index + used, (1 << 16) - used, "}}");
    write_text(in_folder(folder, "diffusion_pytorch_model.safetensors.index.json"), index);
    free(index);
    MUST(lgv_store_zero(b.store, "weight", err));
    lgv_model_free(opened);
    MUST(lgv_model_open(folder, NULL, &opened, err));
    MUST(lgv_model_load_weights(opened, b.store, "weight", LGV_WEIGHTS_BEST, err));
    assert_same_sets(m, &a, "weight", &b, "weight");
    lgv_model_free(opened);
    lgv_model_free(m);
    stock_free(a);
    stock_free(b);
}

/* Adds the set's tensors under other names; dots after the prefix are left out with `dotless`. The values are kept. */
static void add_prefixed(lgv_safetensors_writer *w, const lgv_model *m, const stock *s,
                         const char *set, const char *prefix, int dotless, float **kept)
{
    for (int i = 0; i < lgv_model_describe(m)->tensors; i++) {
        int rank;
        int64_t dim[LGV_MAX_RANK], n;
        char text[512];
        const char *name = lgv_model_parameter(m, i, &rank, dim, NULL);
        size_t used = (size_t)snprintf(text, sizeof text, "%s", prefix);
        for (const char *c = name; *c; c++)
            if (*c != '.' || !dotless) text[used++] = *c;
        text[used] = 0;
        kept[i] = values(s, set, name, &n);
        MUST(lgv_safetensors_add(w, text, LGV_F32, rank, dim, kept[i], err));
    }
}

static void load_prefixed(const lgv_model *m, const stock *weights, const char *raw,
                          const char *ema, int dotless, const stock *into)
{
    static const float one = 1;
    float *kept[2][256] = {{NULL}};
    lgv_safetensors_writer *w = NULL;
    const char *path = scratch_path("prefixed.pt");
    MUST(lgv_safetensors_writer_new(&w, err));
    add_prefixed(w, m, weights, "weight", raw, 0, kept[0]);
    if (ema) add_prefixed(w, m, weights, "ema", ema, dotless, kept[1]);
    if (ema) MUST(lgv_safetensors_add(w, "other.weight", LGV_F32, 1, (int64_t[]){1}, &one, err));
    MUST(lgv_torch_file_write(w, path, err));
    lgv_safetensors_writer_free(w);
    for (int i = 0; i < 512; i++) free(kept[i / 256][i % 256]);
    MUST(lgv_model_load_weights_from(m, into->store, "weight", path, err));
    assert_same_sets(m, weights, ema ? "ema" : "weight", into, "weight");
}

/* Where programs of others put a network's weights. */
static void prefixes(void **state)
{
    lgv_model *m = model_from(small_config);
    stock a = stock_new(m), b = stock_new(m);
    MUST(lgv_model_init(m, a.store, "weight", NULL, 9, err));
    MUST(lgv_model_init(m, a.store, "ema", NULL, 10, err));
    load_prefixed(m, &a, "", NULL, 0, &b);
    load_prefixed(m, &a, "module.", NULL, 0, &b);
    load_prefixed(m, &a, "model.", "ema.", 0, &b);
    load_prefixed(m, &a, "state_dict.model.diffusion_model.",
                  "state_dict.model_ema.diffusion_model", 1, &b);
    load_prefixed(m, &a, "0.module.", "4.module.", 0, &b); /* ermongroup/ddim: a list */
    lgv_model_free(m);
    stock_free(a);
    stock_free(b);
}

/* --- Folders --- */
static void layouts(void **state)
{
    char root[512];
    lgv_model *m = model_from(small_config), *o = NULL;
    const lgv_model_info *info;
    stock a = stock_new(m), b = stock_new(m);
    snprintf(root, sizeof root, "%s", scratch_path("pipeline"));
    MUST(lgv_model_init(m, a.store, "weight", NULL, 1, err));
    MUST(lgv_model_init(m, a.store, "ema", NULL, 2, err));

    /* A pipeline. */
    MUST(lgv_model_save(m, a.store, "weight", in_folder(root, "unet"), err));
    make_folder(in_folder(root, "scheduler"));
    write_text(in_folder(root, "scheduler/scheduler_config.json"),
               "{\"_class_name\": \"DDPMScheduler\"}");
    write_text(in_folder(root, "model_index.json"),
               "{\"_class_name\": \"DDPMPipeline\", \"unet\": [\"diffusers\", \"UNet2DModel\"]}");
    MUST(lgv_model_open(root, NULL, &o, err));
    info = lgv_model_describe(o);
    assert_string_equal(info->weights_raw, in_folder(root, "unet"));
    assert_null(info->weights_ema);
    assert_string_equal(info->scheduler, in_folder(root, "scheduler"));
    assert_string_equal(info->pipeline, root);
    assert_string_equal(info->pipeline_class, "DDPMPipeline");
    lgv_model_free(o);

    /* Its network alone still finds the scheduler. */
    MUST(lgv_model_open(in_folder(root, "unet"), NULL, &o, err));
    assert_string_equal(lgv_model_describe(o)->scheduler, in_folder(root, "scheduler"));
    lgv_model_free(o);

    /* The output of a run: unet/ holds averages, the newest checkpoint both. */
    MUST(lgv_model_save(m, a.store, "weight", in_folder(root, "checkpoint-9/unet"), err));
    MUST(lgv_model_save(m, a.store, "ema", in_folder(root, "checkpoint-9/unet_ema"), err));
    MUST(lgv_model_save(m, a.store, "weight", in_folder(root, "checkpoint-10/unet"), err));
    MUST(lgv_model_save(m, a.store, "ema", in_folder(root, "checkpoint-10/unet_ema"), err));
    write_text(in_folder(root, "checkpoint-10/trainer.json"), "{}");
    MUST(lgv_model_save(m, a.store, "ema", in_folder(root, "unet"), err));
    MUST(lgv_model_open(root, NULL, &o, err));
    info = lgv_model_describe(o);
    assert_string_equal(info->weights_raw, in_folder(root, "checkpoint-10/unet"));
    assert_string_equal(info->weights_ema, in_folder(root, "unet"));
    MUST(lgv_model_load_weights(o, b.store, "weight", LGV_WEIGHTS_RAW, err));
    assert_same_sets(m, &a, "weight", &b, "weight");
    MUST(lgv_model_load_weights(o, b.store, "weight", LGV_WEIGHTS_BEST, err));
    assert_same_sets(m, &a, "ema", &b, "weight");
    lgv_model_free(o);

    /* A checkpoint. */
    MUST(lgv_model_open(in_folder(root, "checkpoint-10"), NULL, &o, err));
    info = lgv_model_describe(o);
    assert_string_equal(info->weights_raw, in_folder(root, "checkpoint-10/unet"));
    assert_string_equal(info->weights_ema, in_folder(root, "checkpoint-10/unet_ema"));
    assert_string_equal(info->scheduler, in_folder(root, "scheduler"));
    lgv_model_free(o);

    /* Everything in one folder, as google/ddpm-cifar10-32. */
    snprintf(root, sizeof root, "%s", scratch_path("flat"));
    MUST(lgv_model_save(m, a.store, "weight", root, err));
    write_text(in_folder(root, "scheduler_config.json"), "{\"_class_name\": \"DDPMScheduler\"}");
    write_text(in_folder(root, "model_index.json"), "{\"_class_name\": \"DDPMPipeline\"}");
    MUST(lgv_model_open(root, NULL, &o, err));
    info = lgv_model_describe(o);
    assert_string_equal(info->weights_raw, root);
    assert_string_equal(info->scheduler, root);
    lgv_model_free(o);

    /* A configuration alone; options that fit and options that do not. */
    MUST(lgv_model_open(in_folder(root, "config.json"),
                        &(lgv_model_options){.channels = 3, .resolution = 24}, &o, err));
    assert_null(lgv_model_describe(o)->weights_raw);
    assert_int_equal(lgv_model_describe(o)->width, 24);
    lgv_model_free(o);
    FAILS(LGV_ERR_ARGUMENT, "takes 3 channels",
          lgv_model_open(root, &(lgv_model_options){.channels = 1}, &o, err));
    FAILS(LGV_ERR_ARGUMENT, "num_class_embeds",
          lgv_model_open(root, &(lgv_model_options){.classes = 4}, &o, err));
    make_folder(scratch_path("empty"));
    FAILS(LGV_ERR_ARGUMENT, "holds no network",
          lgv_model_open(scratch_path("empty"), NULL, &o, err));
    FAILS(LGV_ERR_ARGUMENT, "give the folder",
          lgv_model_open(in_folder(root, "diffusion_pytorch_model.safetensors"), NULL, &o, err));
    lgv_model_free(m);
    stock_free(a);
    stock_free(b);
}

/* --- Building --- */
static void labels(void **state)
{
    lgv_model *plain = model_from(small_config);
    char config[1024];
    snprintf(config, sizeof config, "%.*s, \"num_class_embeds\": 3}", (int)strlen(small_config) - 1,
             small_config);
    lgv_model *classes = model_from(config);
    lgv_graph *g = lgv_graph_new();
    lgv_model_inputs in;
    lgv_id y;
    lgv_model_inputs_none(&in);
    in.sample = lgv_input(g, "sample", LGV_F32, 4, (int64_t[]){2, 16, 16, 3});
    FAILS(LGV_ERR_ARGUMENT, "needs the timestep", lgv_model_build(plain, g, &in, &y, err));
    in.t = lgv_step_row(g, 2, LGV_FIELD_T);
    FAILS(LGV_ERR_ARGUMENT, "class labels should be provided",
          lgv_model_build(classes, g, &in, &y, err));
    in.label = lgv_step_row(g, 2, LGV_FIELD_LABEL);
    FAILS(LGV_ERR_ARGUMENT, "no class embedding", lgv_model_build(plain, g, &in, &y, err));
    MUST(lgv_model_build(classes, g, &in, &y, err));
    in.sample = lgv_input(g, "odd", LGV_F32, 4, (int64_t[]){2, 16, 15, 3});
    FAILS(LGV_ERR_SHAPE, "multiples of 2", lgv_model_build(classes, g, &in, &y, err));
    in.sample = lgv_input(g, "grey", LGV_F32, 4, (int64_t[]){2, 16, 16, 1});
    FAILS(LGV_ERR_SHAPE, "in_channels = 3", lgv_model_build(classes, g, &in, &y, err));
    lgv_graph_free(g);
    lgv_model_free(plain);
    lgv_model_free(classes);
}

/* --- Initialisation --- */
static void check_tensor(const stock *s, const json_t *t)
{
    const char *name = json_string_value(json_array_get(t, 0)),
               *hash = json_string_value(json_array_get(t, 1));
    const json_t *first = json_array_get(t, 2);
    int64_t n;
    float *v = values(s, "weight", name, &n);
    /* Normal draws agree to 2 ulp, the rest bit for bit. */
    int normal = !strcmp(name, "time_proj.weight") || !strcmp(name, "class_embedding.weight");
    for (size_t k = 0; k < json_array_size(first); k++) {
        double want = json_number_value(json_array_get(first, k)), have = (double)v[k];
        if (!(have - want <= 3e-7 * (want < 0 ? -want : want) &&
              want - have <= 3e-7 * (want < 0 ? -want : want)))
            fail_msg("'%s'[%zu] is %.9g, PyTorch has %.9g", name, k, have, want);
    }
    if (!normal && strcmp(test_fnv1a_hex(v, (size_t)n * sizeof *v), hash))
        fail_msg("'%s' differs from PyTorch's", name);
    free(v);
}

static void check_initialisation(const json_t *entry)
{
    char *text = json_dumps(json_object_get(entry, "config"), 0);
    const json_t *tensors = json_object_get(entry, "tensors");
    lgv_model *m = model_from(text);
    stock s = stock_new(m);
    lgv_torch_rng rng;
    lgv_torch_seed(&rng, (uint64_t)json_integer_value(json_object_get(entry, "seed")));
    MUST(lgv_model_init(m, s.store, "weight", &rng, 0, err));
    assert_int_equal(json_array_size(tensors), lgv_model_describe(m)->tensors);
    for (size_t i = 0; i < json_array_size(tensors); i++) {
        const json_t *t = json_array_get(tensors, i);
        assert_string_equal(json_string_value(json_array_get(t, 0)),
                            lgv_model_parameter(m, (int)i, NULL, NULL, NULL));
        check_tensor(&s, t);
    }
    float after;
    lgv_torch_rand(&rng, 1, &after);
    assert_true((double)after == json_number_value(json_object_get(entry, "after")));
    stock_free(s);
    lgv_model_free(m);
    free(text);
}

static void initialisation(void **state)
{
    lgv_json j;
    MUST(lgv_json_load(LGV_SOURCE_DIR "/tests/golden/init_unet2d.json", &j, err));
    const json_t *models = json_object_get(j.root, "models");
    assert_true(json_array_size(models) >= 4);
    for (size_t i = 0; i < json_array_size(models); i++) {
        print_message("%s\n",
                      json_string_value(json_object_get(json_array_get(models, i), "name")));
        check_initialisation(json_array_get(models, i));
    }
    lgv_json_free(&j);
}

/* Philox: a function of seed and name, with the same distribution. */
static void philox_initialisation(void **state)
{
    lgv_model *m = model_from(small_config);
    stock a = stock_new(m), b = stock_new(m);
    int64_t n;
    MUST(lgv_model_init(m, a.store, "weight", NULL, 3, err));
    MUST(lgv_model_init(m, b.store, "weight", NULL, 3, err));
    assert_same_sets(m, &a, "weight", &b, "weight");
    float *v = values(&a, "weight", "down_blocks.1.resnets.0.conv2.weight", &n);
    double bound = 1 / 12.0, squares = 0; /* fan_in 16*3*3 */
    for (int64_t i = 0; i < n; i++) {
        assert_true(v[i] >= -bound && v[i] <= bound);
        squares += (double)v[i] * v[i];
    }
    assert_true(squares / (double)n > 0.9 * bound * bound / 3 &&
                squares / (double)n < 1.1 * bound * bound / 3);
    free(v);
    v = values(&a, "weight", "conv_norm_out.weight", &n);
    for (int64_t i = 0; i < n; i++) assert_true(v[i] == 1);
    free(v);
    MUST(lgv_model_init(m, b.store, "weight", NULL, 4, err));
    float *x = values(&a, "weight", "conv_in.weight", &n),
          *y = values(&b, "weight", "conv_in.weight", &n);
    assert_true(memcmp(x, y, (size_t)n * sizeof *x) != 0);
    free(x);
    free(y);
    stock_free(a);
    stock_free(b);
    lgv_model_free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(presets),
        cmocka_unit_test(known_networks),
        cmocka_unit_test(trace),
        cmocka_unit_test(modules),
        cmocka_unit_test(save_and_load),
        cmocka_unit_test(other_files),
        cmocka_unit_test(prefixes),
        cmocka_unit_test(layouts),
        cmocka_unit_test(labels),
        cmocka_unit_test(initialisation),
        cmocka_unit_test(philox_initialisation),
    };
    return cmocka_run_group_tests(tests, NULL, scratch_remove);
}
