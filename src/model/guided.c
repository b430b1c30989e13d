/* guided.c - `UNetModel` of improved-diffusion (arXiv 2102.09672) and guided-diffusion (arXiv 2105.05233), under its own
   parameter names: cosines before sines with half frequencies, norms of 32 groups with eps 1e-5, resampling by
   convolutions, pooling or residual blocks, the embedding added or scaling and shifting, attention at downsampling
   factors with the channels of q, k and v in either of two orders, channels that are any multiple of model_channels. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "layout.h"
#include "parts.h"

enum { LEVELS = LGV_UNET2D_LEVELS, MOST = 65536, GROUPS = 32 };

typedef struct config {
    int image_size, in_channels, model_channels, out_channels, num_res_blocks;
    int attention[LEVELS], attentions; /* downsampling factors */
    double channel_mult[LEVELS];
    int levels;
    double dropout;
    int num_classes;                                      /* 0: none */
    int num_heads, num_head_channels, num_heads_upsample; /* the last two: -1 None */
    bool conv_resample, scale_shift, updown, new_order;
} config;

static int channels_at(const config *c, int level)
{
    return (int)(c->channel_mult[level] * c->model_channels); /* truncated, as int() does */
}

static bool attends(const config *c, int level)
{
    for (int i = 0; i < c->attentions; i++)
        if (c->attention[i] == 1 << level) return true;
    return false;
}

static int heads_of(const config *c, int channels, bool up)
{
    if (c->num_head_channels > 0) return channels / c->num_head_channels;
    return up && c->num_heads_upsample > 0 ? c->num_heads_upsample : c->num_heads;
}

/* --- Check --- */
static lgv_status check_attention(const config *c, int channels, bool up, lgv_error *err)
{
    int heads = heads_of(c, channels, up);
    if (heads >= 1 && channels % heads == 0 &&
        (c->num_head_channels < 1 || channels % c->num_head_channels == 0))
        return LGV_OK;
    return lgv_fail(err, LGV_ERR_ARGUMENT,
                    "%d channels with attention cannot be split into heads; change num_heads or "
                    "num_head_channels",
                    channels);
}

static lgv_status check_level(const config *c, int level, lgv_error *err)
{
    double exact = c->channel_mult[level] * c->model_channels;
    if (!(exact >= GROUPS && exact <= MOST) || channels_at(c, level) % GROUPS)
        return lgv_fail(
            err, LGV_ERR_ARGUMENT,
            "channel_mult[%d] * model_channels is %g; it must be a multiple of 32 up to %d", level,
            exact, MOST);
    if (!attends(c, level)) return LGV_OK;
    LGV_TRY(check_attention(c, channels_at(c, level), false, err));
    return check_attention(c, channels_at(c, level), true, err);
}

static lgv_status check_config(const config *c, lgv_error *err)
{
    for (int i = 0; i < c->levels; i++) LGV_TRY(check_level(c, i, err));
    LGV_TRY(check_attention(c, channels_at(c, c->levels - 1), false, err)); /* in the middle */
    if (c->image_size % (1 << (c->levels - 1)))
        return lgv_fail(err, LGV_ERR_ARGUMENT,
                        "image_size is %d; with %d levels it must be a multiple of %d",
                        c->image_size, c->levels, 1 << (c->levels - 1));
    if (!(c->dropout >= 0 && c->dropout < 1))
        return lgv_fail(err, LGV_ERR_ARGUMENT, "dropout is %g, it must be at least 0 and below 1",
                        c->dropout);
    return LGV_OK;
}

static lgv_status check(const lgv_model *m, lgv_error *err)
{
    return check_config(m->config, err);
}

/* --- config.json --- */
static lgv_status read_int(const lgv_json *j, const char *key, int64_t low, int64_t high,
                           int64_t fallback, int *out, lgv_error *err)
{
    int64_t value = fallback;
    LGV_TRY(lgv_json_int(j, key, low, high, fallback, &value, err));
    if (value < low) return lgv_json_wrong(j, key, "there", err);
    *out = (int)value;
    return LGV_OK;
}

static lgv_status read_lists(const lgv_json *j, config *c, lgv_error *err)
{
    int64_t factor[LEVELS];
    size_t factors = 0, levels = 4;
    for (int i = 0; i < 4; i++) c->channel_mult[i] = 1 << i;
    LGV_TRY(lgv_json_ints(j, "attention_resolutions", 1, MOST, factor, LEVELS, &factors, err));
    LGV_TRY(lgv_json_doubles(j, "channel_mult", c->channel_mult, LEVELS, &levels, err));
    if (!levels) return lgv_json_wrong(j, "channel_mult", "a list of numbers", err);
    for (size_t i = 0; i < factors; i++) c->attention[i] = (int)factor[i];
    c->attentions = (int)factors;
    c->levels = (int)levels;
    return LGV_OK;
}

static lgv_status read_heads(const lgv_json *j, config *c, lgv_error *err)
{
    int64_t value = -1;
    LGV_TRY(read_int(j, "num_heads", 1, MOST, 1, &c->num_heads, err));
    LGV_TRY(lgv_json_int(j, "num_head_channels", -1, MOST, -1, &value, err));
    c->num_head_channels = (int)value;
    LGV_TRY(lgv_json_int(j, "num_heads_upsample", -1, MOST, -1, &value, err));
    c->num_heads_upsample = (int)value;
    return LGV_OK;
}

static lgv_status parse(const lgv_json *j, lgv_model *m, lgv_error *err)
{
    config *c = m->config;
    int dims = 0;
    LGV_TRY(read_int(j, "dims", 1, 3, 2, &dims, err));
    if (dims != 2) return lgv_json_wrong(j, "dims", "2 (pictures)", err);
    LGV_TRY(read_int(j, "image_size", 1, MOST, 0, &c->image_size, err));
    LGV_TRY(read_int(j, "in_channels", 1, MOST, 0, &c->in_channels, err));
    LGV_TRY(read_int(j, "model_channels", 1, MOST, 0, &c->model_channels, err));
    LGV_TRY(read_int(j, "out_channels", 1, MOST, 0, &c->out_channels, err));
    LGV_TRY(read_int(j, "num_res_blocks", 1, 64, 0, &c->num_res_blocks, err));
    int64_t classes = 0;
    LGV_TRY(lgv_json_int(j, "num_classes", 1, 1 << 24, 0, &classes, err));
    c->num_classes = (int)classes;
    LGV_TRY(read_lists(j, c, err));
    LGV_TRY(read_heads(j, c, err));
    LGV_TRY(lgv_json_double(j, "dropout", 0, &c->dropout, err));
    LGV_TRY(lgv_json_bool(j, "conv_resample", true, &c->conv_resample, err));
    LGV_TRY(lgv_json_bool(j, "use_scale_shift_norm", false, &c->scale_shift, err));
    LGV_TRY(lgv_json_bool(j, "resblock_updown", false, &c->updown, err));
    LGV_TRY(lgv_json_bool(j, "use_new_attention_order", false, &c->new_order, err));
    lgv_status status = check_config(c, err);
    return status ? lgv_fail_prefix(err, status, "%s", j->name) : LGV_OK;
}

static json_t *to_json(const lgv_model *m)
{
    const config *c = m->config;
    json_t *mult = json_array(), *attention = json_array();
    for (int i = 0; i < c->levels; i++) {
        double x = c->channel_mult[i];
        lgv_json_append(&mult, x == floor(x) ? json_integer((json_int_t)x) : json_real(x));
    }
    for (int i = 0; i < c->attentions; i++)
        lgv_json_append(&attention, json_integer(c->attention[i]));
    return json_pack(
        "{s:s, s:i, s:i, s:i, s:i, s:i, s:o, s:f, s:o, s:b, s:o, s:i, s:i, s:i, s:b, s:b, s:b}",
        "_class_name", "UNetModel", "image_size", c->image_size, "in_channels", c->in_channels,
        "model_channels", c->model_channels, "out_channels", c->out_channels, "num_res_blocks",
        c->num_res_blocks, "attention_resolutions", attention, "dropout", c->dropout,
        "channel_mult", mult, "conv_resample", (int)c->conv_resample, "num_classes",
        c->num_classes ? json_integer(c->num_classes) : json_null(), "num_heads", c->num_heads,
        "num_head_channels", c->num_head_channels, "num_heads_upsample", c->num_heads_upsample,
        "use_scale_shift_norm", (int)c->scale_shift, "resblock_updown", (int)c->updown,
        "use_new_attention_order", (int)c->new_order);
}

/* --- Blocks --- */
typedef struct net {
    lgv_net n;
    const config *c;
    lgv_id *skip;
    int skips;
} net;

static lgv_id norm(net *b, const char *name, lgv_id x, int channels)
{
    return lgv_net_norm(&b->n, name, x, channels, GROUPS);
}

static lgv_id silu(net *b, lgv_id x)
{
    return lgv_act(b->n.g, x, LGV_ACT_SILU);
}

typedef enum way { STAY, DOWN, UP } way;

static lgv_id resize(net *b, lgv_id x, way w)
{
    if (w == STAY) return x;
    return lgv_resample(b->n.g, x, w == UP ? LGV_UP_NEAREST : LGV_DOWN_AVERAGE);
}

/* out_layers: norm, the embedding around it, SiLU, dropout, convolution. */
static lgv_id out_layers(net *b, lgv_id h, int out)
{
    lgv_graph *g = b->n.g;
    int width = b->c->scale_shift ? 2 * out : out;
    lgv_id v = lgv_net_linear(&b->n, "emb_layers.1", b->n.emb_act,
                              4 * (int64_t)b->c->model_channels, width);
    if (!b->c->scale_shift) h = lgv_add_row(g, h, v);
    h = norm(b, "out_layers.0", h, out);
    if (b->c->scale_shift)
        h = lgv_modulate(g, h, lgv_slice(g, v, 0, out), lgv_slice(g, v, out, out));
    h = silu(b, h);
    if (b->n.training && b->c->dropout > 0)
        h = lgv_dropout(g, h, b->c->dropout, lgv_rng_stream(lgv_graph_path(g, "out_layers.2")));
    return lgv_net_conv(&b->n, "out_layers.3", h, out, out, 3, 1, NULL, true);
}

static lgv_id res_block(net *b, lgv_id x, int in, int out, way w)
{
    lgv_graph_block_begin(b->n.g);
    lgv_id h = resize(b, silu(b, norm(b, "in_layers.0", x, in)), w);
    x = resize(b, x, w);
    h = lgv_net_conv(&b->n, "in_layers.2", h, in, out, 3, 1, NULL, true);
    h = out_layers(b, h, out);
    if (in != out) x = lgv_net_conv(&b->n, "skip_connection", x, in, out, 1, 1, NULL, true);
    lgv_id y = lgv_net_module(&b->n, "", lgv_add(b->n.g, x, h));
    lgv_graph_block_end(b->n.g);
    return y;
}

/* Part 0, 1, 2 (q, k, v) of qkv[..., 3 C]: side by side, or (the older order) side by side in each head. */
static lgv_id part_of(net *b, lgv_id qkv, int part, int channels, int heads)
{
    if (b->c->new_order) return lgv_slice(b->n.g, qkv, (int64_t)part * channels, channels);
    int d = channels / heads;
    lgv_id y = lgv_slice(b->n.g, qkv, (int64_t)part * d, d);
    for (int h = 1; h < heads; h++)
        y = lgv_concat(b->n.g, y, lgv_slice(b->n.g, qkv, ((int64_t)3 * h + part) * d, d));
    return y;
}

/* q and k are each scaled by d^-1/4 there. */
static lgv_id attention(net *b, lgv_id x, int channels, bool up)
{
    int heads = heads_of(b->c, channels, up);
    lgv_graph_block_begin(b->n.g);
    lgv_id h =
        lgv_net_linear(&b->n, "qkv", norm(b, "norm", x, channels), channels, 3 * (int64_t)channels);
    h = lgv_attention(b->n.g, part_of(b, h, 0, channels, heads), part_of(b, h, 1, channels, heads),
                      part_of(b, h, 2, channels, heads), heads, sqrt((double)heads / channels));
    h = lgv_net_linear(&b->n, "proj_out", h, channels, channels);
    lgv_id y = lgv_net_module(&b->n, "", lgv_add(b->n.g, x, h));
    lgv_graph_block_end(b->n.g);
    return y;
}

/* Downsample and Upsample, or a residual block in their place. */
static lgv_id resample(net *b, lgv_id x, int channels, way w)
{
    if (b->c->updown) return res_block(b, x, channels, channels, w);
    if (!b->c->conv_resample) return resize(b, x, w);
    if (w == DOWN) return lgv_net_conv(&b->n, "op", x, channels, channels, 3, 2, NULL, true);
    return lgv_net_conv(&b->n, "conv", resize(b, x, UP), channels, channels, 3, 1, NULL, true);
}

/* --- The network --- */
static void embed(net *b, const lgv_model_inputs *in)
{
    int64_t C = b->c->model_channels;
    lgv_id x = lgv_timestep_embedding(b->n.g, in->t, (int)C, 1, 0);
    x = lgv_net_linear(&b->n, "time_embed.0", x, C, 4 * C);
    x = lgv_net_linear(&b->n, "time_embed.2", silu(b, x), 4 * C, 4 * C);
    lgv_net_stage(&b->n, x, "time_embed", "time embedding");
    if (b->c->num_classes) {
        lgv_id table =
            lgv_param(b->n.g, "label_emb.weight", 2, (int64_t[]){b->c->num_classes, 4 * C});
        x = lgv_add(b->n.g, x, lgv_embedding(b->n.g, table, in->label));
    }
    b->n.emb = x;
    b->n.emb_act = silu(b, x);
}

static lgv_id in_scope(net *b, int index, lgv_id (*make)(net *, lgv_id, int, int, way), lgv_id x,
                       int in, int out, way w)
{
    lgv_graph_push(b->n.g, "%d", index);
    x = make(b, x, in, out, w);
    lgv_graph_pop(b->n.g);
    return x;
}

static lgv_id attend(net *b, lgv_id x, int channels, int up, way w)
{
    (void)w;
    return attention(b, x, channels, up != 0);
}

static lgv_id resample_block(net *b, lgv_id x, int channels, int out, way w)
{
    (void)out;
    return resample(b, x, channels, w);
}

static lgv_id first_convolution(net *b, lgv_id x, int in, int out, way w)
{
    (void)w;
    return lgv_net_conv(&b->n, "0", x, in, out, 3, 1, NULL, true);
}

static lgv_id down_path(net *b, lgv_id x)
{
    const config *c = b->c;
    int channels = channels_at(c, 0), block = 0;
    char name[32];
    lgv_graph_push(b->n.g, "input_blocks");
    x = in_scope(b, block++, first_convolution, x, c->in_channels, channels, STAY);
    lgv_net_stage(&b->n, x, "input_blocks.0", "first convolution");
    b->skip[b->skips++] = x;
    for (int level = 0; level < c->levels; level++) {
        for (int i = 0; i < c->num_res_blocks; i++) {
            lgv_graph_push(b->n.g, "%d", block++);
            x = in_scope(b, 0, res_block, x, channels, channels_at(c, level), STAY);
            channels = channels_at(c, level);
            if (attends(c, level)) x = in_scope(b, 1, attend, x, channels, 0, STAY);
            lgv_graph_pop(b->n.g);
            b->skip[b->skips++] = x;
        }
        snprintf(name, sizeof name, "input_blocks.%d", block - 1);
        lgv_net_stage(&b->n, x, name, "down %d", level);
        if (level == c->levels - 1) break;
        lgv_graph_push(b->n.g, "%d", block++);
        x = in_scope(b, 0, resample_block, x, channels, channels, DOWN);
        lgv_graph_pop(b->n.g);
        b->skip[b->skips++] = x;
    }
    lgv_graph_pop(b->n.g);
    return x;
}

static lgv_id middle(net *b, lgv_id x)
{
    int channels = channels_at(b->c, b->c->levels - 1);
    lgv_graph_push(b->n.g, "middle_block");
    x = in_scope(b, 0, res_block, x, channels, channels, STAY);
    x = in_scope(b, 1, attend, x, channels, 0, STAY);
    x = in_scope(b, 2, res_block, x, channels, channels, STAY);
    lgv_graph_pop(b->n.g);
    lgv_net_stage(&b->n, x, "middle_block", "middle");
    return x;
}

/* Channels of the skip that output block `block` takes: those of the input blocks, from the end. */
static lgv_id join_skip(net *b, lgv_id x, int *channels)
{
    int64_t d[LGV_MAX_RANK];
    lgv_id skip = b->skip[--b->skips];
    if (lgv_shape(b->n.g, skip, d) == 4) *channels += (int)d[3];
    return lgv_concat(b->n.g, x, skip);
}

static lgv_id up_path(net *b, lgv_id x)
{
    const config *c = b->c;
    int channels = channels_at(c, c->levels - 1), block = 0;
    char name[32];
    lgv_graph_push(b->n.g, "output_blocks");
    for (int level = c->levels - 1; level >= 0; level--) {
        for (int i = 0; i <= c->num_res_blocks; i++) {
            int layer = 1;
            x = join_skip(b, x, &channels);
            lgv_graph_push(b->n.g, "%d", block++);
            x = in_scope(b, 0, res_block, x, channels, channels_at(c, level), STAY);
            channels = channels_at(c, level);
            if (attends(c, level)) x = in_scope(b, layer++, attend, x, channels, 1, STAY);
            if (level && i == c->num_res_blocks)
                x = in_scope(b, layer, resample_block, x, channels, channels, UP);
            lgv_graph_pop(b->n.g);
        }
        snprintf(name, sizeof name, "output_blocks.%d", block - 1);
        lgv_net_stage(&b->n, x, name, "up %d", c->levels - 1 - level);
    }
    lgv_graph_pop(b->n.g);
    return x;
}

static lgv_id output(net *b, lgv_id x)
{
    int channels = channels_at(b->c, 0);
    x = silu(b, norm(b, "out.0", x, channels));
    x = lgv_net_conv(&b->n, "out.2", x, channels, b->c->out_channels, 3, 1, NULL, true);
    lgv_net_stage(&b->n, x, "out", "output convolution");
    return x;
}

static lgv_status check_inputs(const config *c, const lgv_graph *g, const lgv_model_inputs *in,
                               lgv_error *err)
{
    int64_t d[LGV_MAX_RANK];
    if (lgv_shape(g, in->sample, d) != 4 || d[3] != c->in_channels)
        return lgv_fail(err, LGV_ERR_SHAPE, "UNetModel wants a sample [N,H,W,%d]", c->in_channels);
    if (in->t == LGV_NONE)
        return lgv_fail(err, LGV_ERR_ARGUMENT, "UNetModel needs the timestep (t)");
    if ((in->label == LGV_NONE) == (c->num_classes == 0)) return LGV_OK;
    return lgv_fail(err, LGV_ERR_ARGUMENT,
                    c->num_classes
                        ? "this network is class-conditional: class labels should be provided"
                        : "class labels were given, but this network has no class embedding "
                          "(num_classes is null)");
}

/* What lgv_net takes of a UNet2DModel's configuration. */
static const lgv_unet2d_config constants = {.norm_eps = 1e-5, .act_fn = LGV_ACT_SILU};

static lgv_status begin(const lgv_model *m, lgv_graph *g, const lgv_model_inputs *in,
                        lgv_model_stage *stages, net *b, lgv_error *err)
{
    const config *c = m->config;
    LGV_TRY(lgv_graph_status(g, err));
    LGV_TRY(check_inputs(c, g, in, err));
    *b = (net){.n = {.g = g,
                     .c = &constants,
                     .training = in->training != 0,
                     .stage = stages,
                     .cap_stages = stages ? LGV_MAX_STAGES : 0},
               .c = c};
    b->skip = lgv_alloc((size_t)(1 + c->levels * (c->num_res_blocks + 1)), sizeof *b->skip);
    return b->skip ? LGV_OK
                   : lgv_fail(err, LGV_ERR_MEMORY, "out of memory while building a UNetModel");
}

static lgv_status build(const lgv_model *m, lgv_graph *g, const lgv_model_inputs *in,
                        lgv_model_stage *stages, int *n_stages, lgv_id *out, lgv_error *err)
{
    net b;
    LGV_TRY(begin(m, g, in, stages, &b, err));
    embed(&b, in);
    lgv_id y = output(&b, up_path(&b, middle(&b, down_path(&b, in->sample))));
    lgv_free(b.skip);
    LGV_TRY(lgv_graph_status(g, err));
    if (n_stages) *n_stages = b.n.n_stages;
    *out = y;
    return LGV_OK;
}

static lgv_status features(const lgv_model *m, lgv_graph *g, const lgv_model_inputs *in,
                           lgv_id *out, lgv_id *logits, lgv_error *err)
{
    net b;
    LGV_TRY(begin(m, g, in, NULL, &b, err));
    embed(&b, in);
    lgv_id x = middle(&b, down_path(&b, in->sample));
    lgv_free(b.skip);
    *out = lgv_net_mean(&b.n, x);
    *logits = LGV_NONE;
    return lgv_graph_status(g, err);
}

/* --- The kind of network --- */
static void resize_model(lgv_model *m, int height, int width)
{
    config *c = m->config;
    c->image_size = height > width ? height : width;
}

static void describe(lgv_model *m)
{
    const config *c = m->config;
    lgv_model_info *info = &m->info;
    info->height = info->width = c->image_size;
    info->in_channels = c->in_channels;
    info->out_channels = c->out_channels;
    info->divisor = 1 << (c->levels - 1);
    info->class_kind = c->num_classes ? LGV_CLASS_TABLE : LGV_CLASS_NONE;
    info->class_count = c->num_classes;
    info->null_label = -1;
    info->features = channels_at(c, c->levels - 1);
    info->dropout = c->dropout;
}

static void divisor_reason(const lgv_model *m, char text[64])
{
    snprintf(text, 64, "%d levels", ((const config *)m->config)->levels);
}

static bool begins_layer(const char *name, const char *layer)
{
    const char *at = strstr(name, layer);
    return at && (at == name || at[-1] == '.');
}

/* The last convolution of a residual block, of an attention block and of the network start at zero (zero_module). */
static lgv_init_rule init(const lgv_model *m, const lgv_model_param *p, int64_t *fan_in)
{
    (void)m;
    if (begins_layer(p->name, "out_layers.3.") || begins_layer(p->name, "proj_out.") ||
        !strncmp(p->name, "out.2.", 6))
        return (lgv_init_rule){LGV_INIT_CONSTANT, 0};
    if (!strcmp(p->name, "label_emb.weight")) return (lgv_init_rule){LGV_INIT_NORMAL, 1};
    return lgv_init_layer(p, fan_in);
}

/* qkv and proj_out are convolutions over one dimension in files. */
static lgv_status layout(const lgv_model *m, int format, lgv_layout *out, lgv_error *err)
{
    (void)format;
    for (size_t i = 0; i < m->n_params; i++) {
        const char *name = m->param[i].name;
        LGV_TRY(lgv_layout_add_param(out, m, i, lgv_strdup(name), err));
        if (begins_layer(name, "qkv.weight") || begins_layer(name, "proj_out.weight"))
            out->tensor[out->count - 1].rank = 3;
    }
    return LGV_OK;
}

const lgv_model_kind lgv_kind_guided = {
    .class_name = "UNetModel",
    .component = "unet",
    .pipeline = "DDPMPipeline",
    .config_size = sizeof(config),
    .parse = parse,
    .resize = resize_model,
    .check = check,
    .describe = describe,
    .divisor_reason = divisor_reason,
    .json = to_json,
    .build = build,
    .features = features,
    .init = init,
    .formats = 1,
    .layout = layout,
};
