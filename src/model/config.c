/* config.c - config.json of UNet2DModel: defaults, reading, writing.
   null and absent differ here: a field that is null means None, which for some fields is not the
   default (mid_block_type, attention_head_dim, norm_num_groups). */
#include <limits.h>
#include <string.h>
#include <strings.h>

#include "io/json.h"
#include "parts.h"

static const char *const act_names[] = {[LGV_ACT_SILU] = "silu",
                                        [LGV_ACT_MISH] = "mish",
                                        [LGV_ACT_GELU] = "gelu",
                                        [LGV_ACT_RELU] = "relu"};
static const char *const time_names[] = {"positional", "fourier", "learned"};

void lgv_unet2d_config_default(lgv_unet2d_config *config)
{
    *config = (lgv_unet2d_config){
        .in_channels = 3,
        .out_channels = 3,
        .flip_sin_to_cos = 1,
        .levels = 4,
        .down_block_types = {LGV_BLOCK_PLAIN, LGV_BLOCK_ATTN, LGV_BLOCK_ATTN, LGV_BLOCK_ATTN},
        .up_block_types = {LGV_BLOCK_ATTN, LGV_BLOCK_ATTN, LGV_BLOCK_ATTN, LGV_BLOCK_PLAIN},
        .block_out_channels = {224, 448, 672, 896},
        .mid_block = 1,
        .layers_per_block = 2,
        .mid_block_scale_factor = 1,
        .downsample_padding = 1,
        .act_fn = LGV_ACT_SILU,
        .attention_head_dim = 8,
        .norm_num_groups = 32,
        .norm_eps = 1e-5,
        .add_attention = 1,
        .condition_scale = 4,
    };
}

int lgv_unet2d_divisor(const lgv_unet2d_config *config)
{
    return 1 << (config->levels - 1);
}

int lgv_unet2d_embedding(const lgv_unet2d_config *config)
{
    return config->time_embedding_dim ? config->time_embedding_dim
                                      : 4 * config->block_out_channels[0];
}

/* --- Reading --- */
static bool is_null(const lgv_json *j, const char *key)
{
    return json_is_null(json_object_get(j->root, key));
}

/* An int field; null means none when `none` >= 0, else the default that *out holds. */
static lgv_status read_int(const lgv_json *j, const char *key, int64_t low, int none, int *out,
                           lgv_error *err)
{
    int64_t value = *out;
    if (none >= 0 && is_null(j, key))
        value = none;
    else
        LGV_TRY(lgv_json_int(j, key, low, INT_MAX, value, &value, err));
    *out = (int)value;
    return LGV_OK;
}

/* Text that must be one of two: *out becomes 1 for `yes`, 0 for `no` (and null). */
static lgv_status read_choice(const lgv_json *j, const char *key, const char *no, const char *yes,
                              int *out, lgv_error *err)
{
    const char *text;
    LGV_TRY(lgv_json_string(j, key, no, &text, err));
    *out = !strcmp(text, yes);
    if (*out || !strcmp(text, no)) return LGV_OK;
    char wanted[64];
    snprintf(wanted, sizeof wanted, "\"%s\" or \"%s\"", no, yes);
    return lgv_json_wrong(j, key, wanted, err);
}

static lgv_status read_sample_size(const lgv_json *j, lgv_unet2d_config *c, lgv_error *err)
{
    int64_t size[2] = {0, 0};
    size_t count = 0;
    if (json_is_array(json_object_get(j->root, "sample_size"))) {
        LGV_TRY(lgv_json_ints(j, "sample_size", 1, INT_MAX, size, 2, &count, err));
        if (count != 2) return lgv_json_wrong(j, "sample_size", "a number or [height, width]", err);
    } else {
        LGV_TRY(lgv_json_int(j, "sample_size", 1, INT_MAX, 0, &size[0], err));
        size[1] = size[0];
    }
    c->sample_height = (int)size[0];
    c->sample_width = (int)size[1];
    return LGV_OK;
}

/* Blocks diffusers' constructors know but no UNet2DModel can use. */
static lgv_status foreign_block(const lgv_json *j, const char *key, const char *name,
                                lgv_error *err)
{
    if (strstr(name, "CrossAttn"))
        return lgv_fail(
            err, LGV_ERR_UNSUPPORTED,
            "%s: %s names '%s', which needs an encoder's hidden states and is no block of "
            "UNet2DModel (but of UNet2DConditionModel)",
            j->name, key, name);
    if (strstr(name, "EncoderBlock2D") || strstr(name, "DecoderBlock2D"))
        return lgv_fail(
            err, LGV_ERR_UNSUPPORTED,
            "%s: %s names '%s', a block of autoencoders that diffusers' UNet2DModel cannot "
            "run either",
            j->name, key, name);
    return LGV_OK;
}

static lgv_status read_block(const lgv_json *j, const char *key, const char *name, bool up,
                             lgv_unet2d_block *out, lgv_error *err)
{
    const char *candidates[LGV_BLOCK_K + 1];
    const char *bare = strncmp(name, "UNetRes", 7) ? name : name + 7; /* of old configurations */
    for (int k = 0; k <= LGV_BLOCK_K; k++) {
        candidates[k] = lgv_block_name((lgv_unet2d_block)k, up);
        if (strcmp(bare, candidates[k])) continue;
        *out = (lgv_unet2d_block)k;
        return LGV_OK;
    }
    LGV_TRY(foreign_block(j, key, name, err));
    const char *near = lgv_nearest(bare, candidates, LGV_BLOCK_K + 1);
    return lgv_fail(err, LGV_ERR_ARGUMENT, "%s: %s names '%s', which does not exist%s%s%s", j->name,
                    key, name, near ? "; did you mean '" : "", near ? near : "", near ? "'?" : "");
}

static lgv_status read_blocks(const lgv_json *j, const char *key, bool up, lgv_unet2d_block *blocks,
                              int *levels, lgv_error *err)
{
    const char *name[LGV_UNET2D_LEVELS];
    size_t count = 0;
    if (!lgv_json_has(j, key)) return LGV_OK;
    LGV_TRY(lgv_json_strings(j, key, name, LGV_UNET2D_LEVELS, &count, err));
    for (size_t i = 0; i < count; i++) LGV_TRY(read_block(j, key, name[i], up, &blocks[i], err));
    *levels = (int)count;
    return LGV_OK;
}

static lgv_status read_levels(const lgv_json *j, lgv_unet2d_config *c, lgv_error *err)
{
    int down = c->levels, up = c->levels, channels = c->levels;
    LGV_TRY(read_blocks(j, "down_block_types", false, c->down_block_types, &down, err));
    LGV_TRY(read_blocks(j, "up_block_types", true, c->up_block_types, &up, err));
    if (lgv_json_has(j, "block_out_channels")) {
        int64_t value[LGV_UNET2D_LEVELS];
        size_t count = 0;
        LGV_TRY(lgv_json_ints(j, "block_out_channels", 1, INT_MAX, value, LGV_UNET2D_LEVELS, &count,
                              err));
        for (size_t i = 0; i < count; i++) c->block_out_channels[i] = (int)value[i];
        channels = (int)count;
    }
    if (down != up)
        return lgv_fail(
            err, LGV_ERR_ARGUMENT,
            "%s: down_block_types has %d entries and up_block_types %d; they must be as many",
            j->name, down, up);
    if (down != channels)
        return lgv_fail(
            err, LGV_ERR_ARGUMENT,
            "%s: down_block_types has %d entries and block_out_channels %d; they must be as many",
            j->name, down, channels);
    c->levels = down;
    return LGV_OK;
}

static lgv_status read_act(const lgv_json *j, lgv_unet2d_config *c, lgv_error *err)
{
    const char *text;
    LGV_TRY(lgv_json_string(j, "act_fn", "silu", &text, err));
    if (!strcasecmp(text, "swish")) text = "silu";
    for (int k = LGV_ACT_SILU; k <= LGV_ACT_RELU; k++)
        if (!strcasecmp(text, act_names[k])) {
            c->act_fn = k;
            return LGV_OK;
        }
    return lgv_json_wrong(j, "act_fn", "silu, swish, mish, gelu or relu", err);
}

static lgv_status read_embeddings(const lgv_json *j, lgv_unet2d_config *c, lgv_error *err)
{
    const char *text;
    int k = 0;
    LGV_TRY(lgv_json_string(j, "time_embedding_type", "positional", &text, err));
    while (k < 3 && strcmp(text, time_names[k])) k++;
    if (k == 3)
        return lgv_json_wrong(j, "time_embedding_type", "positional, fourier or learned", err);
    c->time_embedding_type = (lgv_time_embedding)k;
    LGV_TRY(read_int(j, "time_embedding_dim", 0, 0, &c->time_embedding_dim, err));
    LGV_TRY(lgv_json_double(j, "freq_shift", c->freq_shift, &c->freq_shift, err));
    LGV_TRY(lgv_json_flag(j, "flip_sin_to_cos", &c->flip_sin_to_cos, err));
    LGV_TRY(read_int(j, "num_train_timesteps", 1, 0, &c->num_train_timesteps, err));
    LGV_TRY(read_int(j, "num_class_embeds", 1, 0, &c->num_class_embeds, err));
    /* A class_embed_type diffusers does not know means no class embedding, whatever
     * num_class_embeds is. */
    LGV_TRY(lgv_json_string(j, "class_embed_type", NULL, &text, err));
    if (!text)
        c->class_embedding = c->num_class_embeds ? LGV_CLASS_TABLE : LGV_CLASS_NONE;
    else if (!strcmp(text, "timestep"))
        c->class_embedding = LGV_CLASS_TIMESTEP;
    else if (!strcmp(text, "identity"))
        c->class_embedding = LGV_CLASS_IDENTITY;
    else
        c->class_embedding = LGV_CLASS_NONE;
    return LGV_OK;
}

static lgv_status read_class_name(const lgv_json *j, lgv_error *err)
{
    const lgv_model_kind *kind;
    LGV_TRY(lgv_model_kind_of(j, &kind, err));
    if (kind == &lgv_kind_unet2d || kind == &lgv_kind_classifier) return LGV_OK;
    return lgv_fail(err, LGV_ERR_ARGUMENT, "%s is the configuration of a %s, not of a UNet2DModel",
                    j->name, kind->class_name);
}

static lgv_status read_condition(const lgv_json *j, lgv_unet2d_config *c, lgv_error *err)
{
    const char *name;
    if (!lgv_json_has(j, "_condition")) return LGV_OK;
    LGV_TRY(lgv_json_string(j, "_condition", "none", &name, err));
    lgv_status status = lgv_condition_parse(name, &c->condition, err);
    if (status) return lgv_fail_prefix(err, status, "%s: _condition", j->name);
    return read_int(j, "_condition_scale", 1, -1, &c->condition_scale, err);
}

static lgv_status read_config(const lgv_json *j, lgv_unet2d_config *c, lgv_error *err)
{
    LGV_TRY(read_class_name(j, err));
    LGV_TRY(read_sample_size(j, c, err));
    LGV_TRY(read_int(j, "in_channels", 1, -1, &c->in_channels, err));
    LGV_TRY(read_int(j, "out_channels", 1, -1, &c->out_channels, err));
    LGV_TRY(lgv_json_flag(j, "center_input_sample", &c->center_input_sample, err));
    LGV_TRY(read_embeddings(j, c, err));
    LGV_TRY(read_levels(j, c, err));
    if (is_null(j, "mid_block_type")) c->mid_block = 0; /* any text means UNetMidBlock2D */
    LGV_TRY(read_int(j, "layers_per_block", 1, -1, &c->layers_per_block, err));
    LGV_TRY(lgv_json_double(j, "mid_block_scale_factor", c->mid_block_scale_factor,
                            &c->mid_block_scale_factor, err));
    LGV_TRY(read_int(j, "downsample_padding", 0, -1, &c->downsample_padding, err));
    LGV_TRY(read_choice(j, "downsample_type", "conv", "resnet", &c->downsample_resnet, err));
    LGV_TRY(read_choice(j, "upsample_type", "conv", "resnet", &c->upsample_resnet, err));
    LGV_TRY(lgv_json_double(j, "dropout", c->dropout, &c->dropout, err));
    LGV_TRY(read_act(j, c, err));
    LGV_TRY(read_int(j, "attention_head_dim", 1, 0, &c->attention_head_dim, err));
    LGV_TRY(read_int(j, "norm_num_groups", 1, 0, &c->norm_num_groups, err));
    LGV_TRY(read_int(j, "attn_norm_num_groups", 1, 0, &c->attn_norm_num_groups, err));
    LGV_TRY(lgv_json_double(j, "norm_eps", c->norm_eps, &c->norm_eps, err));
    LGV_TRY(
        read_choice(j, "resnet_time_scale_shift", "default", "scale_shift", &c->scale_shift, err));
    LGV_TRY(lgv_json_flag(j, "add_attention", &c->add_attention, err));
    LGV_TRY(read_condition(j, c, err));
    lgv_status status = lgv_unet2d_config_check(c, err);
    return status ? lgv_fail_prefix(err, status, "%s", j->name) : LGV_OK;
}

lgv_status lgv_unet2d_config_read(const lgv_json *j, lgv_unet2d_config *out, lgv_error *err)
{
    lgv_unet2d_config c;
    lgv_unet2d_config_default(&c);
    LGV_TRY(read_config(j, &c, err));
    *out = c;
    return LGV_OK;
}

static lgv_status finish(lgv_json *j, lgv_status status, lgv_unet2d_config *out, lgv_error *err)
{
    if (status) return status;
    status = lgv_unet2d_config_read(j, out, err);
    lgv_json_free(j);
    return status;
}

lgv_status lgv_unet2d_config_parse(const char *text, size_t size, const char *name,
                                   lgv_unet2d_config *out, lgv_error *err)
{
    lgv_json j = {0};
    lgv_status status = lgv_json_parse(text, size, name, &j, err);
    return finish(&j, status, out, err);
}

lgv_status lgv_unet2d_config_load(const char *path, lgv_unet2d_config *out, lgv_error *err)
{
    lgv_json j = {0};
    lgv_status status = lgv_json_load(path, &j, err);
    return finish(&j, status, out, err);
}

/* --- Writing --- */
static json_t *int_or_null(int value)
{
    return value ? json_integer(value) : json_null();
}

static json_t *sample_size(const lgv_unet2d_config *c)
{
    if (c->sample_height == c->sample_width) return int_or_null(c->sample_height);
    return json_pack("[i,i]", c->sample_height, c->sample_width);
}

static json_t *block_list(const lgv_unet2d_block *blocks, int count, bool up)
{
    json_t *list = json_array();
    for (int i = 0; i < count; i++)
        lgv_json_append(&list, json_string(lgv_block_name(blocks[i], up)));
    return list;
}

static json_t *channel_list(const lgv_unet2d_config *c)
{
    json_t *list = json_array();
    for (int i = 0; i < c->levels; i++)
        lgv_json_append(&list, json_integer(c->block_out_channels[i]));
    return list;
}

/* Whole numbers as integers, as the configurations of diffusers have them
 * ("mid_block_scale_factor": 1). */
static json_t *number(double value)
{
    return value == (double)(int)value ? json_integer((int)value) : json_real(value);
}

static json_t *class_type(const lgv_unet2d_config *c)
{
    if (c->class_embedding == LGV_CLASS_TIMESTEP) return json_string("timestep");
    if (c->class_embedding == LGV_CLASS_IDENTITY) return json_string("identity");
    return json_null();
}

json_t *lgv_unet2d_config_json(const lgv_unet2d_config *c)
{
    const struct {
        const char *key;
        json_t *value;
    } fields[] = {
        {"_class_name", json_string("UNet2DModel")},
        {"_diffusers_version", json_string(LGV_DIFFUSERS_VERSION)},
        {"act_fn", json_string(act_names[c->act_fn])},
        {"add_attention", json_boolean(c->add_attention)},
        {"attention_head_dim", int_or_null(c->attention_head_dim)},
        {"attn_norm_num_groups", int_or_null(c->attn_norm_num_groups)},
        {"block_out_channels", channel_list(c)},
        {"center_input_sample", json_boolean(c->center_input_sample)},
        {"class_embed_type", class_type(c)},
        {"down_block_types", block_list(c->down_block_types, c->levels, false)},
        {"downsample_padding", json_integer(c->downsample_padding)},
        {"downsample_type", json_string(c->downsample_resnet ? "resnet" : "conv")},
        {"dropout", json_real(c->dropout)},
        {"flip_sin_to_cos", json_boolean(c->flip_sin_to_cos)},
        {"freq_shift", number(c->freq_shift)},
        {"in_channels", json_integer(c->in_channels)},
        {"layers_per_block", json_integer(c->layers_per_block)},
        {"mid_block_scale_factor", number(c->mid_block_scale_factor)},
        {"mid_block_type", c->mid_block ? json_string("UNetMidBlock2D") : json_null()},
        {"norm_eps", json_real(c->norm_eps)},
        {"norm_num_groups", int_or_null(c->norm_num_groups)},
        {"num_class_embeds",
         c->class_embedding == LGV_CLASS_TABLE ? json_integer(c->num_class_embeds) : json_null()},
        {"num_train_timesteps", int_or_null(c->num_train_timesteps)},
        {"out_channels", json_integer(c->out_channels)},
        {"resnet_time_scale_shift", json_string(c->scale_shift ? "scale_shift" : "default")},
        {"sample_size", sample_size(c)},
        {"time_embedding_dim", int_or_null(c->time_embedding_dim)},
        {"time_embedding_type", json_string(time_names[c->time_embedding_type])},
        {"up_block_types", block_list(c->up_block_types, c->levels, true)},
        {"upsample_type", json_string(c->upsample_resnet ? "resnet" : "conv")},
    };
    json_t *root = json_object();
    bool ok = root != NULL;
    if (ok && c->condition)
        ok = !json_object_set_new(root, "_condition",
                                  json_string(lgv_condition_name(c->condition))) &&
             !json_object_set_new(root, "_condition_scale", json_integer(c->condition_scale));
    for (size_t i = 0; i < sizeof fields / sizeof fields[0];
         i++) { /* all, so that each value finds an owner */
        if (ok)
            ok = json_object_set_new(root, fields[i].key, fields[i].value) ==
                 0; /* frees the value on failure */
        else
            json_decref(fields[i].value);
    }
    if (ok) return root;
    json_decref(root);
    return NULL;
}

lgv_status lgv_unet2d_config_save(const lgv_unet2d_config *config, const char *path, lgv_error *err)
{
    LGV_TRY(lgv_unet2d_config_check(config, err));
    json_t *root = lgv_unet2d_config_json(config);
    if (!root) return lgv_fail(err, LGV_ERR_MEMORY, "out of memory while writing '%s'", path);
    lgv_status status = lgv_json_save(path, root, true, err);
    json_decref(root);
    return status;
}
