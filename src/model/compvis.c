/* compvis.c - `Model`, the U-Net of DDPM (arXiv 2006.11239) as ermongroup/ddim, pesser/pytorch_diffusion and CompVis
   (ldm/modules/diffusionmodules/model.py) have it. It is a UNet2DModel under other names: sines before cosines with
   half - 1 frequencies, norms with eps 1e-6, zeros at the bottom and right before a stride of 2, one attention head. So
   a configuration with the original's fields becomes one of UNet2DModel, and original names are found by a map; what
   is saved is a folder of diffusers.
   Linear attention, resampling without convolutions, 3x3 shortcuts and a first level with other channels than the first
   convolution (a ch_mult that does not begin with 1) are in no UNet2DModel: a network with any of them is saved under the
   original's fields and names.

   Linear attention (LinAttnBlock): with q, k, v [positions, channels] of one layer without bias,
     y[n,e] = sum over d of q[n,d] sum over m of softmax(k[.,d])[m] v[m,e], then a layer with bias,
   in place of the whole attention block, its norm and its sum with the input included. */
#include <stdio.h>
#include <string.h>

#include "layout.h"
#include "parts.h"

/* --- Configuration --- */
typedef struct config {
    lgv_unet2d_config unet; /* first, because the U-Net's functions take a model's configuration for theirs */
    lgv_unet2d_variant variant;
} config;

static bool differs(const config *c)
{
    const lgv_unet2d_variant *v = &c->variant;
    return v->linear_attention || v->pooled || v->wide_shortcut || v->first_channels;
}

bool lgv_compvis_differs(const lgv_model *m)
{
    return differs(m->config);
}

static lgv_status unsupported(const lgv_json *j, const char *what, lgv_error *err)
{
    return lgv_fail(err, LGV_ERR_UNSUPPORTED, "%s: Model with %s is not supported", j->name, what);
}

/* The options that no UNet2DModel has, and whether there is attention at all. */
static lgv_status read_options(const lgv_json *j, config *c, lgv_error *err)
{
    const char *attention;
    bool convolutions, use_timestep, linear;
    LGV_TRY(lgv_json_bool(j, "resamp_with_conv", true, &convolutions, err));
    LGV_TRY(lgv_json_bool(j, "conv_shortcut", false, &c->variant.wide_shortcut, err));
    LGV_TRY(lgv_json_bool(j, "use_timestep", true, &use_timestep, err));
    LGV_TRY(lgv_json_bool(j, "use_linear_attn", false, &linear, err));
    LGV_TRY(lgv_json_string(j, "attn_type", "vanilla", &attention, err));
    if (linear) attention = "linear"; /* whatever attn_type says */
    if (!use_timestep)
        return unsupported(j, "use_timestep false (which does not see how noisy a picture is)", err);
    if (strcmp(attention, "vanilla") && strcmp(attention, "linear") && strcmp(attention, "none"))
        return lgv_json_wrong(j, "attn_type", "\"vanilla\", \"linear\" or \"none\"", err);
    c->variant.pooled = !convolutions;
    c->unet.add_attention = strcmp(attention, "none") != 0;
    c->variant.linear_attention = !strcmp(attention, "linear");
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

static lgv_status read_levels(const lgv_json *j, int ch, lgv_unet2d_config *c, lgv_error *err)
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
        set_level(c, i, (int)channels, here && c->add_attention);
    }
    return LGV_OK;
}

static lgv_status parse(const lgv_json *j, lgv_model *m, lgv_error *err)
{
    config *own = m->config;
    lgv_unet2d_config *c = &own->unet;
    int ch;
    common_config(c);
    LGV_TRY(read_options(j, own, err));
    LGV_TRY(read_int(j, "ch", MOST, &ch, err));
    LGV_TRY(read_int(j, "in_channels", MOST, &c->in_channels, err));
    LGV_TRY(read_int(j, "out_ch", MOST, &c->out_channels, err));
    LGV_TRY(read_int(j, "num_res_blocks", 64, &c->layers_per_block, err));
    LGV_TRY(read_int(j, "resolution", MOST, &c->sample_height, err));
    c->sample_width = c->sample_height;
    LGV_TRY(lgv_json_double(j, "dropout", 0, &c->dropout, err));
    LGV_TRY(read_levels(j, ch, c, err));
    if (c->levels && c->block_out_channels[0] != ch) {
        own->variant.first_channels = ch;
        c->time_embedding_dim = 4 * ch;
    }
    lgv_status status = lgv_unet2d_variant_check(c, own->variant, err);
    return status ? lgv_fail_prefix(err, status, "%s (as a UNet2DModel)", j->name) : LGV_OK;
}

/* The original's fields; a picture that is not square is one of its longer side. */
static json_t *original_json(const config *own)
{
    const lgv_unet2d_config *c = &own->unet;
    const char *attention = !c->add_attention               ? "none"
                            : own->variant.linear_attention ? "linear"
                                                            : "vanilla";
    const int resolution = c->sample_height > c->sample_width ? c->sample_height : c->sample_width;
    const int ch = lgv_unet2d_first(c, own->variant);
    json_t *mult = json_array(), *at = json_array();
    for (int i = 0; i < c->levels; i++) {
        lgv_json_append(&mult, json_integer(c->block_out_channels[i] / ch));
        if (c->down_block_types[i] == LGV_BLOCK_ATTN)
            lgv_json_append(&at, json_integer(resolution >> i));
    }
    return json_pack("{s:s, s:i, s:i, s:o, s:i, s:o, s:f, s:b, s:b, s:i, s:i, s:s}", "_class_name",
                     "Model", "ch", ch, "out_ch", c->out_channels, "ch_mult",
                     mult, "num_res_blocks", c->layers_per_block, "attn_resolutions", at,
                     "dropout", c->dropout, "resamp_with_conv", (int)!own->variant.pooled,
                     "conv_shortcut", (int)own->variant.wide_shortcut, "in_channels",
                     c->in_channels, "resolution", resolution, "attn_type", attention);
}

static json_t *to_json(const lgv_model *m)
{
    const config *c = m->config;
    return differs(c) ? original_json(c) : lgv_unet2d_config_json(&c->unet);
}

static lgv_status check(const lgv_model *m, lgv_error *err)
{
    const config *c = m->config;
    return lgv_unet2d_variant_check(&c->unet, c->variant, err);
}

/* --- The graph --- */
static lgv_status build(const lgv_model *m, lgv_graph *g, const lgv_model_inputs *in,
                        lgv_model_stage *stages, int *n_stages, lgv_id *out, lgv_error *err)
{
    const config *c = m->config;
    return lgv_unet2d_build(&c->unet, c->variant, g, in, stages, n_stages, out, err);
}

static lgv_status features(const lgv_model *m, lgv_graph *g, const lgv_model_inputs *in,
                           lgv_id *out, lgv_id *logits, lgv_error *err)
{
    const config *c = m->config;
    return lgv_unet2d_encode(&c->unet, c->variant, 0, false, g, in, NULL, NULL, out, logits, err);
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
    lgv_unet2d_preset_options(o, 128, c);
    for (int k = 0; k < c->levels; k++) set_level(c, k, 64 << k, c->sample_height >> k == 16);
    return lgv_unet2d_config_check(c, err);
}

/* --- Names --- */
/* The original's word for a module of diffusers, in a block or at the end of a name. */
static const char *const words[][2] = {
    {"time_emb_proj", "temb_proj"},
    {"conv_shortcut", "nin_shortcut"}, /* 1x1; a 3x3 one has diffusers' name there too */
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
static const char *join(const config *c, const char *head, const char *rest, char *text,
                        size_t size)
{
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
        size_t n = strlen(words[i][0]);
        if (strncmp(rest, words[i][0], n) || rest[n] != '.') continue;
        if (c->variant.wide_shortcut && !strcmp(words[i][0], "conv_shortcut")) break;
        snprintf(text, size, "%s%s%s", head, words[i][1], rest + n);
        return text;
    }
    snprintf(text, size, "%s%s", head, rest);
    return text;
}

/* "down_blocks.2.resnets.1.conv1.weight" is "down.2.block.1.conv1.weight"; up blocks are counted from the other end. */
static const char *in_block(const config *c, const char *name, char *text, size_t size)
{
    bool up = !strncmp(name, "up_blocks.", 10);
    int level, layer, used = 0;
    char kind[16], head[64];
    if (!up && strncmp(name, "down_blocks.", 12)) return NULL;
    if (sscanf(name + (up ? 10 : 12), "%d.%15[a-z].%d.%n", &level, kind, &layer, &used) != 3 ||
        !used)
        return NULL;
    const char *rest = name + (up ? 10 : 12) + used;
    if (up) level = c->unet.levels - 1 - level;
    if (!strcmp(kind, "resnets"))
        snprintf(head, sizeof head, "%s.%d.block.%d.", up ? "up" : "down", level, layer);
    else if (!strcmp(kind, "attentions"))
        snprintf(head, sizeof head, "%s.%d.attn.%d.", up ? "up" : "down", level, layer);
    else
        snprintf(head, sizeof head, "%s.%d.%s.", up ? "up" : "down", level,
                 up ? "upsample" : "downsample");
    return join(c, head, rest, text, size);
}

static const char *original_name(const lgv_model *m, const char *name, char *text, size_t size)
{
    const config *c = m->config;
    for (size_t i = 0; i < sizeof tops / sizeof tops[0]; i++)
        if (!strncmp(name, tops[i][0], strlen(tops[i][0])))
            return join(c, tops[i][1], name + strlen(tops[i][0]), text, size);
    const char *in = in_block(c, name, text, size);
    return in ? in : name;
}

/* Format 0 is diffusers', of networks that are a UNet2DModel. In the original's files all of attention's layers are 1x1
   convolutions. */
static lgv_status layout(const lgv_model *m, int format, lgv_layout *out, lgv_error *err)
{
    const bool original = format || lgv_compvis_differs(m);
    for (size_t i = 0; i < m->n_params; i++) {
        char text[512];
        const lgv_model_param *p = &m->param[i];
        const char *name = original ? original_name(m, p->name, text, sizeof text) : p->name;
        LGV_TRY(lgv_layout_add_param(out, m, i, lgv_strdup(name), err));
        if (original && p->rank == 2 && strstr(p->name, "attentions."))
            out->tensor[out->count - 1].rank = 4;
    }
    return LGV_OK;
}

/* --- The kind of network --- */
const lgv_model_kind lgv_kind_compvis = {
    .class_name = "Model",
    .component = "unet",
    .pipeline = "DDPMPipeline",
    .config_size = sizeof(config),
    .parse = parse,
    .preset = preset,
    .from_preset = from_preset,
    .resize = lgv_unet2d_resize,
    .check = check,
    .describe = lgv_unet2d_describe,
    .divisor_reason = lgv_unet2d_divisor_reason,
    .json = to_json,
    .build = build,
    .features = features,
    .init = lgv_unet2d_init,
    .formats = 2,
    .layout = layout,
    .old_name = lgv_unet2d_old_name,
};
