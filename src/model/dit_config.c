/* dit_config.c - config.json of DiTTransformer2DModel, and the named sizes of DiT (arXiv 2212.09748, table 1). */
#include "dit.h"

#include <ctype.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "langevin/ops.h"

enum { MAX_WIDTH = 1 << 16, MAX_LAYERS = 128, MAX_ROWS = 1 << 24 };

void lgv_dit_config_default(lgv_dit_config *config)
{
    *config = (lgv_dit_config){
        .sample_height = 32,
        .sample_width = 32,
        .in_channels = 4,
        .out_channels = 4,
        .patch_size = 2,
        .num_layers = 28,
        .num_attention_heads = 16,
        .attention_head_dim = 72,
        .attention_bias = 1,
        .activation_fn = LGV_ACT_GELU_TANH,
        .norm_eps = 1e-5,
        .num_embeds_ada_norm = 1000,
        .class_dropout_prob = 0.1,
        .freq_shift = 1,
    };
}

/* --- Check --- */
static lgv_status check_sizes(const lgv_dit_config *c, lgv_error *err)
{
    const int p = c->patch_size, h = c->sample_height, w = c->sample_width;
    LGV_TRY(lgv_check_range(err, "patch_size", p, 1, 1024));
    LGV_TRY(lgv_check_range(err, "sample_size", h, 1, MAX_WIDTH));
    LGV_TRY(lgv_check_range(err, "sample_size", w, 1, MAX_WIDTH));
    if (h % p || w % p)
        return lgv_fail(err, LGV_ERR_ARGUMENT,
                        "sample_size is %dx%d; with patches of %d height and width must be "
                        "multiples of %d",
                        h, w, p, p);
    return LGV_OK;
}

lgv_status lgv_dit_config_check(const lgv_dit_config *c, lgv_error *err)
{
    LGV_TRY(lgv_check_range(err, "in_channels", c->in_channels, 1, MAX_WIDTH));
    LGV_TRY(lgv_check_range(err, "out_channels", c->out_channels, 1, MAX_WIDTH));
    LGV_TRY(lgv_check_range(err, "num_layers", c->num_layers, 1, MAX_LAYERS));
    LGV_TRY(lgv_check_range(err, "num_attention_heads", c->num_attention_heads, 1, 1024));
    LGV_TRY(lgv_check_range(err, "attention_head_dim", c->attention_head_dim, 1, 1024));
    LGV_TRY(lgv_check_range(err, "num_embeds_ada_norm", c->num_embeds_ada_norm, 0, MAX_ROWS));
    LGV_TRY(check_sizes(c, err));
    const int64_t width = lgv_dit_width(c);
    if (width > MAX_WIDTH || width % 4)
        return lgv_fail(err, LGV_ERR_ARGUMENT,
                        "num_attention_heads times attention_head_dim is %lld; it must be a "
                        "multiple of 4 (sines and cosines of two coordinates) up to %d",
                        (long long)width, MAX_WIDTH);
    if (c->activation_fn != LGV_ACT_GELU_TANH && c->activation_fn != LGV_ACT_GELU)
        return lgv_fail(err, LGV_ERR_ARGUMENT, "activation_fn must be gelu-approximate or gelu");
    if (!(c->dropout >= 0 && c->dropout < 1))
        return lgv_fail(err, LGV_ERR_ARGUMENT, "dropout is %g, it must be at least 0 and below 1",
                        c->dropout);
    if (!(c->class_dropout_prob >= 0 && c->class_dropout_prob < 1))
        return lgv_fail(err, LGV_ERR_ARGUMENT,
                        "class_dropout_prob is %g, it must be at least 0 and below 1",
                        c->class_dropout_prob);
    if (!(c->norm_eps >= 0 && c->norm_eps <= 1))
        return lgv_fail(err, LGV_ERR_ARGUMENT, "norm_eps is %g, it must be between 0 and 1",
                        c->norm_eps);
    if (!(c->freq_shift >= 0 && c->freq_shift < 128))
        return lgv_fail(err, LGV_ERR_ARGUMENT, "freq_shift is %g, it must be 0 to 127",
                        c->freq_shift);
    return LGV_OK;
}

/* --- Reading --- */
static lgv_status read_int(const lgv_json *j, const char *key, int64_t low, int *out,
                           lgv_error *err)
{
    int64_t value = *out;
    LGV_TRY(lgv_json_int(j, key, low, INT_MAX, value, &value, err));
    *out = (int)value;
    return LGV_OK;
}

static lgv_status read_sample_size(const lgv_json *j, lgv_dit_config *c, lgv_error *err)
{
    int64_t size[2] = {0, 0};
    size_t count = 0;
    if (!json_is_array(json_object_get(j->root, "sample_size"))) {
        LGV_TRY(read_int(j, "sample_size", 1, &c->sample_height, err));
        c->sample_width = c->sample_height;
        return LGV_OK;
    }
    LGV_TRY(lgv_json_ints(j, "sample_size", 1, INT_MAX, size, 2, &count, err));
    if (count != 2) return lgv_json_wrong(j, "sample_size", "a number or [height, width]", err);
    c->sample_height = (int)size[0];
    c->sample_width = (int)size[1];
    return LGV_OK;
}

/* What DiTTransformer2DModel refuses or cannot mean. Old files are of Transformer2DModel, which is many networks. */
static lgv_status read_variant(const lgv_json *j, lgv_dit_config *c, lgv_error *err)
{
    const char *norm, *act, *name;
    bool affine;
    LGV_TRY(lgv_json_string(j, "_class_name", "DiTTransformer2DModel", &name, err));
    LGV_TRY(lgv_json_string(
        j, "norm_type", strcmp(name, "Transformer2DModel") ? "ada_norm_zero" : "layer_norm", &norm,
        err));
    if (strcmp(norm, "ada_norm_zero"))
        return lgv_fail(err, LGV_ERR_UNSUPPORTED,
                        "%s: norm_type is '%s'; this version knows transformers with "
                        "ada_norm_zero (DiT)",
                        j->name, norm);
    LGV_TRY(lgv_json_bool(j, "norm_elementwise_affine", false, &affine, err));
    if (affine) return lgv_json_wrong(j, "norm_elementwise_affine", "false", err);
    LGV_TRY(lgv_json_string(j, "activation_fn", "gelu-approximate", &act, err));
    if (!strcmp(act, "gelu-approximate"))
        c->activation_fn = LGV_ACT_GELU_TANH;
    else if (!strcmp(act, "gelu"))
        c->activation_fn = LGV_ACT_GELU;
    else
        return lgv_json_wrong(j, "activation_fn", "gelu-approximate or gelu", err);
    return LGV_OK;
}

static lgv_status read_classes(const lgv_json *j, lgv_dit_config *c, lgv_error *err)
{
    bool conditional;
    LGV_TRY(read_int(j, "num_embeds_ada_norm", 1, &c->num_embeds_ada_norm, err));
    LGV_TRY(lgv_json_double(j, "class_dropout_prob", c->class_dropout_prob, &c->class_dropout_prob,
                            err));
    LGV_TRY(lgv_json_bool(j, "class_conditional", true, &conditional, err));
    if (!conditional) c->num_embeds_ada_norm = 0;
    return LGV_OK;
}

lgv_status lgv_dit_parse(const lgv_json *j, lgv_model *m, lgv_error *err)
{
    lgv_dit_config c;
    lgv_dit_config_default(&c);
    LGV_TRY(read_variant(j, &c, err));
    LGV_TRY(read_sample_size(j, &c, err));
    LGV_TRY(read_int(j, "in_channels", 1, &c.in_channels, err));
    c.out_channels = c.in_channels;
    LGV_TRY(read_int(j, "out_channels", 1, &c.out_channels, err));
    LGV_TRY(read_int(j, "patch_size", 1, &c.patch_size, err));
    LGV_TRY(read_int(j, "num_layers", 1, &c.num_layers, err));
    LGV_TRY(read_int(j, "num_attention_heads", 1, &c.num_attention_heads, err));
    LGV_TRY(read_int(j, "attention_head_dim", 1, &c.attention_head_dim, err));
    LGV_TRY(lgv_json_flag(j, "attention_bias", &c.attention_bias, err));
    LGV_TRY(lgv_json_double(j, "dropout", c.dropout, &c.dropout, err));
    LGV_TRY(lgv_json_double(j, "norm_eps", c.norm_eps, &c.norm_eps, err));
    LGV_TRY(read_classes(j, &c, err));
    LGV_TRY(lgv_json_flag(j, "shared_embedding", &c.shared_embedding, err));
    LGV_TRY(lgv_json_double(j, "freq_shift", c.freq_shift, &c.freq_shift, err));
    lgv_status status = lgv_dit_config_check(&c, err);
    if (status) return lgv_fail_prefix(err, status, "%s", j->name);
    *(lgv_dit_config *)m->config = c;
    return LGV_OK;
}

/* --- Writing --- */
/* What diffusers does not know stands in the file only where it says something. */
static bool add_own(json_t *root, const lgv_dit_config *c)
{
    bool ok = !json_object_set_new(root, "shared_embedding", json_boolean(c->shared_embedding));
    if (c->class_dropout_prob != 0.1)
        ok = ok && !json_object_set_new(root, "class_dropout_prob", json_real(c->class_dropout_prob));
    if (!c->num_embeds_ada_norm)
        ok = ok && !json_object_set_new(root, "class_conditional", json_false());
    if (c->freq_shift != 1)
        ok = ok && !json_object_set_new(root, "freq_shift", json_real(c->freq_shift));
    if (c->sample_width != c->sample_height)
        ok = ok && !json_object_set_new(root, "sample_size",
                                        json_pack("[i,i]", c->sample_height, c->sample_width));
    return ok;
}

json_t *lgv_dit_json(const lgv_model *m)
{
    const lgv_dit_config *c = m->config;
    const char *act = c->activation_fn == LGV_ACT_GELU ? "gelu" : "gelu-approximate";
    json_t *root = json_pack(
        "{s:s, s:s, s:s, s:b, s:i, s:f, s:i, s:b, s:f, s:s, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:b}",
        "_class_name", "DiTTransformer2DModel", "_diffusers_version", LGV_DIFFUSERS_VERSION,
        "activation_fn", act, "attention_bias", c->attention_bias, "attention_head_dim",
        c->attention_head_dim, "dropout", c->dropout, "in_channels", c->in_channels,
        "norm_elementwise_affine", 0, "norm_eps", c->norm_eps, "norm_type", "ada_norm_zero",
        "num_attention_heads", c->num_attention_heads, "num_embeds_ada_norm",
        c->num_embeds_ada_norm ? c->num_embeds_ada_norm : 1, "norm_num_groups", 32, "num_layers",
        c->num_layers, "out_channels", c->out_channels, "patch_size", c->patch_size, "sample_size",
        c->sample_height, "upcast_attention", 0);
    if (root && add_own(root, c)) return root;
    json_decref(root);
    return NULL;
}

/* --- Presets --- */
typedef struct size {
    const char *name;
    int layers, width, heads;
} size;
static const size sizes[] = {
    {"s", 12, 384, 6}, {"b", 12, 768, 12}, {"l", 24, 1024, 16}, {"xl", 28, 1152, 16}};
static const int patches[] = {2, 4, 8};
static const char *const names[] = {"dit-s-2", "dit-s-4",  "dit-s-8",  "dit-b-2",
                                    "dit-b-4", "dit-b-8",  "dit-l-2",  "dit-l-4",
                                    "dit-l-8", "dit-xl-2", "dit-xl-4", "dit-xl-8"};
static const char *const summaries[] = {
    "transformer (DiT): 12 blocks of 384, patches of 2x2",
    "transformer (DiT): 12 blocks of 384, patches of 4x4",
    "transformer (DiT): 12 blocks of 384, patches of 8x8",
    "transformer (DiT): 12 blocks of 768, patches of 2x2",
    "transformer (DiT): 12 blocks of 768, patches of 4x4",
    "transformer (DiT): 12 blocks of 768, patches of 8x8",
    "transformer (DiT): 24 blocks of 1024, patches of 2x2",
    "transformer (DiT): 24 blocks of 1024, patches of 4x4",
    "transformer (DiT): 24 blocks of 1024, patches of 8x8",
    "transformer (DiT): 28 blocks of 1152, patches of 2x2",
    "transformer (DiT): 28 blocks of 1152, patches of 4x4",
    "transformer (DiT): 28 blocks of 1152, patches of 8x8"};
enum { PRESETS = sizeof names / sizeof names[0], PATCHES = sizeof patches / sizeof patches[0] };

const char *lgv_dit_preset(int i, const char **summary)
{
    if (i < 0 || i >= PRESETS) return NULL;
    if (summary) *summary = summaries[i];
    return names[i];
}

/* Latents of 32x32 and 4 channels, 1000 classes, the variance learned (facebookresearch/DiT, models.py); pictures of 1
   or 3 channels are predicted without a variance. */
lgv_status lgv_dit_from_preset(int i, const lgv_model_options *options, lgv_model *m,
                               lgv_error *err)
{
    const size *s = &sizes[i / PATCHES];
    const lgv_model_options none = {0}, *o = options ? options : &none;
    lgv_dit_config c;
    lgv_dit_config_default(&c);
    c.patch_size = patches[i % PATCHES];
    c.num_layers = s->layers;
    c.num_attention_heads = s->heads;
    c.attention_head_dim = s->width / s->heads;
    c.norm_eps = 1e-6;
    c.shared_embedding = 1;
    c.sample_height = c.sample_width = o->resolution ? o->resolution : 32;
    c.in_channels = o->channels ? o->channels : 4;
    c.out_channels = o->channels && !o->learned_variance ? o->channels : 2 * c.in_channels;
    if (o->classes > 1) c.num_embeds_ada_norm = o->classes - 1; /* and the label for no class */
    if (o->classes == 1) c.class_dropout_prob = 0;
    if (o->classes == 1) c.num_embeds_ada_norm = 1;
    if (o->classes < 0) c.num_embeds_ada_norm = 0;
    if (o->condition)
        return lgv_fail(err, LGV_ERR_UNSUPPORTED, "a DiT takes no image condition");
    LGV_TRY(lgv_dit_config_check(&c, err));
    *(lgv_dit_config *)m->config = c;
    return LGV_OK;
}
