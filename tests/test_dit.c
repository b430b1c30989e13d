/* test_dit.c - DiT against diffusers' DiTTransformer2DModel and against the original's formulas (tools/golden/dit.py):
   outputs and gradients on every level of this machine's processor; files of both, in and out; initial values; the
   shapes of the article (design.md, mission 6.4); configurations that are refused.
   Tolerances as in test_unet2d_golden.c. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "langevin/convert.h"
#include "langevin/torch_file.h"
#include "model/dit.h"
#include "network.h"
#include "ok.h"
#include "scratch.h"

static const char *const names[] = {"diffusers", "diffusers_4", "diffusers_8",  "s_4",
                                    "stretched", "wide",        "tall_8",       "unconditional"};
static const char *const levels[] = {"scalar", "avx2", "avx512"};
enum {
    NAMES = sizeof names / sizeof names[0],
    LEVELS = sizeof levels / sizeof levels[0],
    CASES = NAMES * (LEVELS + 1),
    OTHERS = 9
};

typedef struct one_case {
    const char *name, *level;
    int no_fusion;
    char title[64];
} one_case;

static void open_case(network *r, const char *name, const char *level, int no_fusion)
{
    char file[64], spec[32];
    snprintf(file, sizeof file, "dit_%s", name);
    snprintf(spec, sizeof spec, "cpu:%s", level);
    network_open_file(r, file);
    network_plan(r, spec, 1, &(lgv_plan_options){.no_fusion = no_fusion});
}

static void golden(void **state)
{
    const one_case *c = *state;
    network r;
    char worst[128];
    if (!lgv_cpu_has(c->level)) {
        print_message("this processor has no %s\n", c->level);
        skip();
    }
    open_case(&r, c->name, c->level, c->no_fusion);
    network_write_inputs(&r);
    MUST(lgv_plan_run(r.plan, NULL, err));
    double out = network_output_error(&r), grad = network_gradient_error(&r, worst);
    print_message("%s: output %.1e, gradients %.1e (%s)\n", c->title, out, grad, worst);
    assert_true(out <= 1e-5);
    assert_true(grad <= 1e-4);
    network_close(&r);
}

/* --- Files --- */
static lgv_store *store_of(const lgv_model *m, lgv_device *device)
{
    lgv_store *store;
    lgv_model_inputs in;
    lgv_id y;
    lgv_graph *g = lgv_graph_new();
    const lgv_model_info *info = lgv_model_describe(m);
    lgv_model_inputs_none(&in);
    in.sample = lgv_input(g, "sample", LGV_F32, 4,
                          (int64_t[]){1, info->height, info->width, info->in_channels});
    lgv_model_inputs_from_step(m, g, 1, &in);
    MUST(lgv_model_build(m, g, &in, &y, err));
    MUST(lgv_store_new(device, &store, err));
    MUST(lgv_store_declare(store, g, err));
    lgv_graph_free(g);
    return store;
}

static void same_weights(const lgv_store *a, const lgv_store *b)
{
    assert_int_equal(lgv_store_count(a), lgv_store_count(b));
    for (int i = 0; i < lgv_store_count(a); i++) {
        int rank, frozen;
        int64_t dim[LGV_MAX_RANK], n = 1;
        const char *name = lgv_store_at(a, i, &rank, dim, &frozen);
        for (int k = 0; k < rank; k++) n *= dim[k];
        float *x = malloc((size_t)n * sizeof *x), *y = malloc((size_t)n * sizeof *y);
        MUST(lgv_store_read(a, "weight", i, x, n, err));
        MUST(lgv_store_read(b, "weight", lgv_store_find(b, name), y, n, err));
        assert_memory_equal(x, y, (size_t)n * sizeof *x);
        free(x);
        free(y);
    }
}

/* Saved as a folder of diffusers and opened again: configuration and weights are the same. */
static void test_round_trip(void **state)
{
    (void)state;
    for (int i = 0; i < NAMES; i++) {
        network r;
        lgv_model *again;
        if (!strcmp(names[i], "s_4")) continue; /* as the others, and large */
        open_case(&r, names[i], "scalar", 0);
        const char *folder = scratch_keep(names[i]);
        MUST(lgv_model_save(r.model, r.store, "weight", folder, err));
        MUST(lgv_model_open(folder, NULL, &again, err));
        assert_memory_equal(lgv_model_dit(again), lgv_model_dit(r.model), sizeof(lgv_dit_config));
        lgv_store *store = store_of(again, r.device);
        MUST(lgv_model_load_weights(again, store, "weight", LGV_WEIGHTS_BEST, err));
        same_weights(r.store, store);
        lgv_store_free(store);
        store = store_of(again, r.device);
        MUST(lgv_model_map_weights(again, store, "weight", LGV_WEIGHTS_BEST, err));
        same_weights(r.store, store);
        lgv_store_free(store);
        lgv_model_free(again);
        network_close(&r);
    }
}

/* The original's file: the same weights under other names, the table of positions among them. */
static void test_original_file(void **state)
{
    (void)state;
    network r;
    lgv_safetensors *f;
    open_case(&r, "wide", "scalar", 0);
    const char *path = scratch_keep("original.safetensors");
    MUST(lgv_model_save_original(r.model, r.store, "weight", path, err));
    MUST(lgv_safetensors_open(path, &f, err));
    const lgv_tensor_info *qkv = lgv_safetensors_find(f, "blocks.1.attn.qkv.weight"),
                          *table = lgv_safetensors_find(f, "pos_embed");
    assert_int_equal(qkv->dim[0], 192);
    assert_int_equal(table->rank, 3);
    assert_int_equal(table->dim[1], 4 * 12);
    const float *x = (const float *)(const void *)table->data;
    assert_true(x[0] == 0 && x[16] == 1);               /* column 0: sine 0, cosine 1 */
    assert_true(fabs(x[64] - sin(1)) < 1e-7);           /* position 1 is column 1 */
    assert_true(fabs(x[12 * 64 + 32] - sin(1)) < 1e-7); /* position 12 is row 1 */
    lgv_safetensors_close(f);
    lgv_store *store = store_of(r.model, r.device);
    MUST(lgv_model_load_weights_from(r.model, store, "weight", path, err));
    same_weights(r.store, store);
    lgv_store_free(store);
    network_close(&r);

    open_case(&r, "diffusers", "scalar", 0);
    FAILS(LGV_ERR_UNSUPPORTED, "its freq_shift is not 0",
          lgv_model_save_original(r.model, r.store, "weight", scratch_path("never"), err));
    network_close(&r);
}

static void same_tensors(const char *a, const char *b)
{
    lgv_weights *x = NULL, *y = NULL;
    MUST(lgv_weights_open_file(a, &x, err));
    MUST(lgv_weights_open_file(b, &y, err));
    assert_int_equal(lgv_weights_count(x), lgv_weights_count(y));
    for (size_t i = 0; i < lgv_weights_count(x); i++) {
        const lgv_tensor_info *t = lgv_weights_at(x, i), *u = lgv_weights_find(y, t->name);
        if (!u) fail_msg("'%s' is missing", t->name);
        assert_int_equal(t->rank, u->rank);
        assert_int_equal(t->bytes, u->bytes);
        assert_memory_equal(t->data, u->data, t->bytes);
    }
    lgv_weights_close(x);
    lgv_weights_close(y);
}

/* The original's .pt becomes a folder of diffusers with the original's constants, though the configuration named is one of
   diffusers without them, and the folder's network gives the original's output; back again, no bit is different. */
static void test_convert(void **state)
{
    static const char plain[] =
        "{\"_class_name\": \"DiTTransformer2DModel\", \"sample_size\": [8, 24], \"patch_size\": 2, "
        "\"in_channels\": 4, \"out_channels\": 8, \"num_layers\": 2, \"num_attention_heads\": 4, "
        "\"attention_head_dim\": 16, \"num_embeds_ada_norm\": 10}";
    (void)state;
    network r;
    lgv_model *m;
    char config[512], safe[512], first[512], back[512], folder[512];
    snprintf(config, sizeof config, "%s", scratch_path("plain.json"));
    snprintf(safe, sizeof safe, "%s", scratch_path("wide.safetensors"));
    snprintf(first, sizeof first, "%s", scratch_path("first.pt"));
    snprintf(back, sizeof back, "%s", scratch_path("back.pt"));
    snprintf(folder, sizeof folder, "%s", scratch_path("converted"));
    scratch_write(config, plain, strlen(plain));
    open_case(&r, "wide", "scalar", 0);
    MUST(lgv_model_save_original(r.model, r.store, "weight", safe, err));
    MUST(lgv_convert(safe, first, NULL, NULL, err));
    MUST(lgv_convert(first, folder, &(lgv_convert_options){.model = config}, NULL, err));
    MUST(lgv_convert(folder, back, NULL, NULL, err));
    same_tensors(first, back);

    MUST(lgv_model_open(folder, NULL, &m, err));
    assert_memory_equal(lgv_model_dit(m), lgv_model_dit(r.model), sizeof(lgv_dit_config));
    MUST(lgv_store_zero(r.store, "weight", err));
    MUST(lgv_model_load_weights(m, r.store, "weight", LGV_WEIGHTS_BEST, err));
    lgv_model_free(m);
    network_write_inputs(&r);
    MUST(lgv_plan_run(r.plan, NULL, err));
    assert_true(network_output_error(&r) <= 1e-5);

    MUST(lgv_model_open(config, NULL, &m, err)); /* without the conversion it would give something else */
    lgv_store *store = store_of(m, r.device);
    FAILS(LGV_ERR_FORMAT, "its freq_shift is not 0; `langevin convert",
          lgv_model_load_weights_from(m, store, "weight", first, err));
    lgv_store_free(store);
    lgv_model_free(m);
    network_close(&r);
}

/* Files whose embeddings differ are no network that shares one. */
static void test_differing_copies(void **state)
{
    (void)state;
    network r;
    lgv_model *shared;
    open_case(&r, "diffusers", "scalar", 0);
    const char *folder = scratch_keep("differing");
    MUST(lgv_model_save(r.model, r.store, "weight", folder, err));
    lgv_dit_config c = *lgv_model_dit(r.model);
    c.shared_embedding = 1;
    MUST(lgv_model_new_dit(&c, &shared, err));
    lgv_store *store = store_of(shared, r.device);
    FAILS(LGV_ERR_FORMAT, "remove shared_embedding",
          lgv_model_load_weights_from(shared, store, "weight", folder, err));
    lgv_store_free(store);
    lgv_model_free(shared);
    network_close(&r);
}

static lgv_id module_of(const lgv_graph *g, const char *name)
{
    const char *path;
    for (int i = 0; i < lgv_graph_modules(g); i++) {
        lgv_id v = lgv_graph_module_at(g, i, &path);
        if (!strcmp(path, name)) return v;
    }
    fail_msg("there is no module '%s'", name);
    return LGV_NONE;
}

/* References of diffusers (langevin verify) have the embedding's modules in each block, so a shared one has them too. */
static void test_modules(void **state)
{
    static const char *const modules[] = {"emb.timestep_embedder.linear_2", "emb.time_proj", "emb",
                                          "emb.class_embedder.embedding_table", "silu"};
    (void)state;
    network r;
    open_case(&r, "wide", "scalar", 0);
    for (size_t i = 0; i < sizeof modules / sizeof modules[0]; i++) {
        char first[128], second[128];
        snprintf(first, sizeof first, "transformer_blocks.0.norm1.%s", modules[i]);
        snprintf(second, sizeof second, "transformer_blocks.1.norm1.%s", modules[i]);
        assert_int_equal(module_of(r.graph, first), module_of(r.graph, second));
    }
    network_close(&r);
}

/* --- Presets, shapes, initial values --- */
static void test_article(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        int64_t dim[4];
    } want[] = {{"pos_embed", {16, 64, 384, 1}},
                {"time_embedding", {16, 384, 1, 1}},
                {"class_embedding", {16, 384, 1, 1}},
                {"transformer_blocks.11", {16, 64, 384, 1}},
                {"proj_out_2", {16, 64, 128, 1}},
                {"unpatchify", {16, 8, 32, 32}}};
    lgv_model *m;
    lgv_model_stage *stages;
    int count, found = 0;
    MUST(lgv_model_open("DiT-S/4", NULL, &m, err));
    assert_int_equal(lgv_model_describe(m)->null_label, 1000);
    assert_int_equal(lgv_model_describe(m)->class_count, 1001);
    MUST(lgv_model_trace(m, 16, 32, 32, &stages, &count, err));
    for (int i = 0; i < count; i++)
        for (size_t k = 0; k < sizeof want / sizeof want[0]; k++)
            if (!strcmp(stages[i].name, want[k].name)) {
                assert_memory_equal(stages[i].dim, want[k].dim, sizeof want[k].dim);
                found++;
            }
    assert_int_equal(found, 6);
    lgv_model_stages_free(stages);
    lgv_model_free(m);
}

/* The original's counts, less its tables of positions, which are no parameters here. */
static void test_presets(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        int64_t parameters;
    } want[] = {{"dit-s-2", 32963360 - 256 * 384}, {"DIT_XL/2", 675129632 - 256 * 1152}};
    const char *name;
    int sizes = 0;
    for (int i = 0; (name = lgv_model_presets(i, NULL)) != NULL; i++) sizes += !strncmp(name, "dit-", 4);
    assert_int_equal(sizes, 12);
    for (size_t i = 0; i < sizeof want / sizeof want[0]; i++) {
        lgv_model *m;
        MUST(lgv_model_open(want[i].name, NULL, &m, err));
        assert_int_equal(lgv_model_describe(m)->parameters, want[i].parameters);
        lgv_model_free(m);
    }
}

static double deviation_of(const lgv_store *store, const char *name, double *largest)
{
    int rank, frozen, index = lgv_store_find(store, name);
    int64_t dim[LGV_MAX_RANK], n = 1;
    double square = 0;
    assert_true(index >= 0);
    lgv_store_at(store, index, &rank, dim, &frozen);
    for (int k = 0; k < rank; k++) n *= dim[k];
    float *x = malloc((size_t)n * sizeof *x);
    MUST(lgv_store_read(store, "weight", index, x, n, err));
    *largest = 0;
    for (int64_t i = 0; i < n; i++) {
        square += (double)x[i] * x[i];
        *largest = fmax(*largest, fabs((double)x[i]));
    }
    free(x);
    return sqrt(square / (double)n);
}

/* adaLN-Zero, and PyTorch's layers elsewhere. */
static void test_init(void **state)
{
    (void)state;
    lgv_model *m;
    lgv_device *device;
    double largest, bound;
    MUST(lgv_model_open("dit-s-4", NULL, &m, err));
    MUST(lgv_device_new("cpu:scalar", 1, &device, err));
    lgv_store *store = store_of(m, device);
    MUST(lgv_model_init(m, store, "weight", NULL, 7, err));
    static const char *const zeros[] = {"transformer_blocks.3.norm1.linear.weight",
                                        "transformer_blocks.3.norm1.linear.bias",
                                        "transformer_blocks.3.attn1.to_qkv.bias",
                                        "proj_out_1.weight", "proj_out_2.weight", "pos_embed.proj.bias"};
    for (size_t i = 0; i < sizeof zeros / sizeof zeros[0]; i++) {
        deviation_of(store, zeros[i], &largest);
        assert_true(largest == 0);
    }
    static const struct {
        const char *name;
        double in;
    } uniform[] = {{"transformer_blocks.0.attn1.to_qkv.weight", 384},
                   {"transformer_blocks.11.ff.net.2.weight", 1536},
                   {"transformer_blocks.0.norm1.emb.timestep_embedder.linear_1.weight", 256},
                   {"pos_embed.proj.weight", 64}};
    for (size_t i = 0; i < sizeof uniform / sizeof uniform[0]; i++) {
        bound = 1 / sqrt(uniform[i].in);
        double d = deviation_of(store, uniform[i].name, &largest);
        assert_true(largest <= bound && largest > 0.99 * bound);
        assert_true(fabs(d / (bound / sqrt(3)) - 1) < 0.02);
    }
    double d = deviation_of(
        store, "transformer_blocks.0.norm1.emb.class_embedder.embedding_table.weight", &largest);
    assert_true(fabs(d - 1) < 0.02);
    lgv_store_free(store);
    lgv_device_free(device);
    lgv_model_free(m);
}

/* --- Bad input --- */
static void refuses(lgv_status status, const char *part, const char *fields)
{
    lgv_model *m;
    const char *path = scratch_keep("bad.json");
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fprintf(f, "{\"_class_name\": \"DiTTransformer2DModel\", %s}", fields);
    fclose(f);
    FAILS(status, part, lgv_model_open(path, NULL, &m, err));
}

static void test_refused(void **state)
{
    (void)state;
    refuses(LGV_ERR_ARGUMENT, "must be multiples of 8", "\"patch_size\": 8, \"sample_size\": 20");
    refuses(LGV_ERR_ARGUMENT, "a multiple of 4",
            "\"num_attention_heads\": 3, \"attention_head_dim\": 7");
    refuses(LGV_ERR_FORMAT, "'patch_size'", "\"patch_size\": 0");
    refuses(LGV_ERR_FORMAT, "gelu-approximate or gelu", "\"activation_fn\": \"geglu\"");
    refuses(LGV_ERR_FORMAT, "'norm_elementwise_affine'", "\"norm_elementwise_affine\": true");
    refuses(LGV_ERR_UNSUPPORTED, "norm_type is 'layer_norm'", "\"norm_type\": \"layer_norm\"");
    refuses(LGV_ERR_ARGUMENT, "num_layers is 4000", "\"num_layers\": 4000, \"dropout\": 0");
    refuses(LGV_ERR_ARGUMENT, "dropout is 1", "\"dropout\": 1.0");
    refuses(LGV_ERR_ARGUMENT, "class_dropout_prob is -1", "\"class_dropout_prob\": -1");
    lgv_model *m;
    FAILS(LGV_ERR_ARGUMENT, "multiples of 4",
          lgv_model_open("dit-s-4", &(lgv_model_options){.resolution = 30}, &m, err));
    FAILS(LGV_ERR_ARGUMENT, "dit-xl-8", lgv_model_open("dit-s-3", NULL, &m, err));
    MUST(lgv_model_open("dit-s-8", NULL, &m, err));
    FAILS(LGV_ERR_SHAPE, "with patches of 8x8 height and width must be multiples of 8",
          lgv_model_check_size(m, 32, 36, err));
    lgv_model_free(m);
}

int main(void)
{
    static one_case cases[CASES];
    static struct CMUnitTest tests[CASES + OTHERS];
    for (int i = 0; i < CASES; i++) {
        one_case *c = &cases[i];
        c->name = names[i % NAMES];
        c->no_fusion = i / NAMES == LEVELS;
        c->level = levels[c->no_fusion ? 0 : i / NAMES];
        snprintf(c->title, sizeof c->title, "%s, %s%s", c->name, c->level,
                 c->no_fusion ? ", passes off" : "");
        tests[i] = (struct CMUnitTest){.name = c->title, .test_func = golden, .initial_state = c};
    }
    const struct CMUnitTest others[] = {
        cmocka_unit_test(test_round_trip),       cmocka_unit_test(test_original_file),
        cmocka_unit_test(test_convert),          cmocka_unit_test(test_modules),
        cmocka_unit_test(test_differing_copies), cmocka_unit_test(test_article),
        cmocka_unit_test(test_presets),          cmocka_unit_test(test_init),
        cmocka_unit_test(test_refused)};
    memcpy(tests + CASES, others, sizeof others);
    return _cmocka_run_group_tests("dit", tests, CASES + OTHERS, NULL, scratch_remove);
}
