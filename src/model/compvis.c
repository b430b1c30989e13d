/* compvis.c - `Model`, the U-Net of DDPM (arXiv 2006.11239) as ermongroup/ddim, pesser/pytorch_diffusion and CompVis
   (ldm/modules/diffusionmodules/model.py) have it. It is a UNet2DModel under other names: sines before cosines with
   half - 1 frequencies, norms with eps 1e-6, zeros at the bottom and right before a stride of 2, one attention head. So
   a configuration with the original's fields becomes one of UNet2DModel, and original names are found by a map; what
   is saved is a folder of diffusers. */
#include <stdio.h>
#include <string.h>

#include "layout.h"
#include "parts.h"

/* --- Configuration --- */
static lgv_status unsupported(const lgv_json *j, const char *what, lgv_error *err)
{
    return lgv_fail(err, LGV_ERR_UNSUPPORTED, "%s: Model with %s is not supported", j->name, what);
}

/* The options that no UNet2DModel has. */
static lgv_status check_options(const lgv_json *j, const char **attention, lgv_error *err)
{
    bool resamp_with_conv, conv_shortcut, use_timestep, linear;
    LGV_TRY(lgv_json_bool(j, "resamp_with_conv", true, &resamp_with_conv, err));
    LGV_TRY(lgv_json_bool(j, "conv_shortcut", false, &conv_shortcut, err));
    LGV_TRY(lgv_json_bool(j, "use_timestep", true, &use_timestep, err));
    LGV_TRY(lgv_json_bool(j, "use_linear_attn", false, &linear, err));
    LGV_TRY(lgv_json_string(j, "attn_type", "vanilla", attention, err));
    if (!resamp_with_conv) return unsupported(j, "resamp_with_conv false (pooling)", err);
    if (conv_shortcut) return unsupported(j, "conv_shortcut (3x3 shortcuts)", err);
    if (!use_timestep) return unsupported(j, "use_timestep false", err);
    if (linear || !strcmp(*attention, "linear")) return unsupported(j, "linear attention", err);
    if (strcmp(*attention, "vanilla") && strcmp(*attention, "none"))
        return lgv_json_wrong(j, "attn_type", "\"vanilla\" or \"none\"", err);
    return LGV_OK;
}

enum { MOST = 65536, RESOLUTIONS = 64 };

static lgv_status read_int(const lgv_json *j, const char *key, int64_t high, int *out,
                           lgv_error *err)
{
    int64_t value = 0;
    LGV_TRY(lgv_json_int(j, key, 1, high, 0, &value, err));
    if (!value) return lgv_json_wrong(j, key, "a number of at least 1", err);
    *out = (int)value;
    return LGV_OK;
}

static void set_level(lgv_unet2d_config *c, int level, int channels, bool attention)
{
    c->block_out_channels[level] = channels;
    c->down_block_types[level] = attention ? LGV_BLOCK_ATTN : LGV_BLOCK_PLAIN;
    c->up_block_types[c->levels - 1 - level] = c->down_block_types[level];
}

/* What all of them have in common. */
static void common_config(lgv_unet2d_config *c)
{
    lgv_unet2d_config_default(c);
    c->flip_sin_to_cos = 0;
    c->freq_shift = 1;
    c->downsample_padding = 0;
    c->norm_eps = 1e-6;
    c->attention_head_dim = 0;
}

static lgv_status read_levels(const lgv_json *j, int ch, bool attention, lgv_unet2d_config *c,
                              lgv_error *err)
{
    int64_t mult[LGV_UNET2D_LEVELS] = {1, 2, 4, 8}, at[RESOLUTIONS];
    size_t levels = 4, n = 0;
    LGV_TRY(lgv_json_ints(j, "ch_mult", 1, MOST, mult, LGV_UNET2D_LEVELS, &levels, err));
    LGV_TRY(lgv_json_ints(j, "attn_resolutions", 1, MOST, at, RESOLUTIONS, &n, err));
    c->levels = (int)levels;
    for (int i = 0; i < c->levels; i++) {
        bool here = false;
        for (size_t k = 0; k < n; k++) here = here || at[k] == c->sample_height >> i;
        int64_t channels = ch * mult[i];
        if (channels > MOST) return lgv_json_wrong(j, "ch_mult", "at most 65536 channels", err);
        set_level(c, i, (int)channels, here && attention);
    }
    return LGV_OK;
}

static lgv_status parse(const lgv_json *j, lgv_model *m, lgv_error *err)
{
    lgv_unet2d_config *c = m->config;
    const char *attention;
    int ch;
    common_config(c);
    LGV_TRY(check_options(j, &attention, err));
    LGV_TRY(read_int(j, "ch", MOST, &ch, err));
    LGV_TRY(read_int(j, "in_channels", MOST, &c->in_channels, err));
    LGV_TRY(read_int(j, "out_ch", MOST, &c->out_channels, err));
    LGV_TRY(read_int(j, "num_res_blocks", 64, &c->layers_per_block, err));
    LGV_TRY(read_int(j, "resolution", MOST, &c->sample_height, err));
    c->sample_width = c->sample_height;
    LGV_TRY(lgv_json_double(j, "dropout", 0, &c->dropout, err));
    c->add_attention = !strcmp(attention, "vanilla");
    LGV_TRY(read_levels(j, ch, c->add_attention, c, err));
    if (c->levels && c->block_out_channels[0] != ch)
        return unsupported(j, "a ch_mult that does not begin with 1", err);
    lgv_status status = lgv_unet2d_config_check(c, err);
    return status ? lgv_fail_prefix(err, status, "%s (as a UNet2DModel)", j->name) : LGV_OK;
}

/* --- Presets --- */
static const char *preset(int i, const char **summary)
{
    if (i) return NULL;
    if (summary)
        *summary =
            "CompVis' U-Net for 128x128 pictures: channels 64, 128, 256, attention in the middle";
    return "compvis-128";
}

static lgv_status from_preset(int i, const lgv_model_options *o, lgv_model *m, lgv_error *err)
{
    lgv_unet2d_config *c = m->config;
    (void)i;
    common_config(c);
    c->levels = 3;
    c->dropout = 0.1;
    c->sample_height = c->sample_width = o && o->resolution ? o->resolution : 128;
    c->in_channels = c->out_channels = o && o->channels ? o->channels : 3;
    for (int k = 0; k < c->levels; k++) set_level(c, k, 64 << k, c->sample_height >> k == 16);
    if (o && o->classes) {
        c->class_embedding = LGV_CLASS_TABLE;
        c->num_class_embeds = o->classes;
    }
    return lgv_unet2d_config_check(c, err);
}

/* --- Names --- */
/* The original's word for a module of diffusers, in a block or at the end of a name. */
static const char *const words[][2] = {
    {"time_emb_proj", "temb_proj"},
    {"conv_shortcut", "nin_shortcut"},
    {"group_norm", "norm"},
    {"to_q", "q"},
    {"to_k", "k"},
    {"to_v", "v"},
    {"to_out.0", "proj_out"},
};

static const char *const tops[][2] = {
    {"time_embedding.linear_1.", "temb.dense.0."}, {"time_embedding.linear_2.", "temb.dense.1."},
    {"mid_block.resnets.0.", "mid.block_1."},      {"mid_block.resnets.1.", "mid.block_2."},
    {"mid_block.attentions.0.", "mid.attn_1."},    {"conv_norm_out.", "norm_out."},
};

/* head and then rest with its first word translated. */
static const char *join(const char *head, const char *rest, char *text, size_t size)
{
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
        size_t n = strlen(words[i][0]);
        if (strncmp(rest, words[i][0], n) || rest[n] != '.') continue;
        snprintf(text, size, "%s%s%s", head, words[i][1], rest + n);
        return text;
    }
    snprintf(text, size, "%s%s", head, rest);
    return text;
}

/* "down_blocks.2.resnets.1.conv1.weight" is "down.2.block.1.conv1.weight"; up blocks are counted from the other end. */
static const char *in_block(const char *name, int levels, char *text, size_t size)
{
    bool up = !strncmp(name, "up_blocks.", 10);
    int level, layer, used = 0;
    char kind[16], head[64];
    if (!up && strncmp(name, "down_blocks.", 12)) return NULL;
    if (sscanf(name + (up ? 10 : 12), "%d.%15[a-z].%d.%n", &level, kind, &layer, &used) != 3 ||
        !used)
        return NULL;
    const char *rest = name + (up ? 10 : 12) + used;
    if (up) level = levels - 1 - level;
    if (!strcmp(kind, "resnets"))
        snprintf(head, sizeof head, "%s.%d.block.%d.", up ? "up" : "down", level, layer);
    else if (!strcmp(kind, "attentions"))
        snprintf(head, sizeof head, "%s.%d.attn.%d.", up ? "up" : "down", level, layer);
    else
        snprintf(head, sizeof head, "%s.%d.%s.", up ? "up" : "down", level,
                 up ? "upsample" : "downsample");
    return join(head, rest, text, size);
}

static const char *original_name(const lgv_model *m, const char *name, char *text, size_t size)
{
    const lgv_unet2d_config *c = m->config;
    for (size_t i = 0; i < sizeof tops / sizeof tops[0]; i++)
        if (!strncmp(name, tops[i][0], strlen(tops[i][0])))
            return join(tops[i][1], name + strlen(tops[i][0]), text, size);
    const char *in = in_block(name, c->levels, text, size);
    return in ? in : name;
}

/* Format 0 is diffusers'. In the original's files q, k, v and proj_out are 1x1 convolutions. */
static lgv_status layout(const lgv_model *m, int format, lgv_layout *out, lgv_error *err)
{
    for (size_t i = 0; i < m->n_params; i++) {
        char text[512];
        const lgv_model_param *p = &m->param[i];
        const char *name = format ? original_name(m, p->name, text, sizeof text) : p->name;
        LGV_TRY(lgv_layout_add_param(out, m, i, lgv_strdup(name), err));
        if (format && p->rank == 2 && strstr(p->name, "attentions."))
            out->tensor[out->count - 1].rank = 4;
    }
    return LGV_OK;
}

/* --- The kind of network --- */
const lgv_model_kind lgv_kind_compvis = {
    .class_name = "Model",
    .component = "unet",
    .pipeline = "DDPMPipeline",
    .config_size = sizeof(lgv_unet2d_config),
    .parse = parse,
    .preset = preset,
    .from_preset = from_preset,
    .resize = lgv_unet2d_resize,
    .check = lgv_unet2d_check,
    .describe = lgv_unet2d_describe,
    .divisor_reason = lgv_unet2d_divisor_reason,
    .json = lgv_unet2d_json,
    .build = lgv_unet2d_build_model,
    .features = lgv_unet2d_features,
    .init = lgv_unet2d_init,
    .formats = 2,
    .original_files = true,
    .layout = layout,
    .old_name = lgv_unet2d_old_name,
};
