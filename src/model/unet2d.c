/* unet2d.c - the whole UNet2DModel: embeddings, down path, middle, up path, output (diffusers,
   models/unets/unet_2d.py; arXiv 2006.11239 app. B, arXiv 2011.13456 app. H). */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "parts.h"

static int64_t first_channels(const lgv_net *n)
{
    return lgv_unet2d_first(n->c, n->variant);
}

static lgv_id learned_rows(lgv_net *n, lgv_id index)
{
    lgv_id table = lgv_param(n->g, "time_proj.weight", 2,
                             (int64_t[]){n->c->num_train_timesteps, first_channels(n)});
    return lgv_embedding(n->g, table, index);
}

/* time_proj: what the timestep (or a class label taken as one) looks like to time_embedding. */
static lgv_id project(lgv_net *n, lgv_id t, lgv_id index)
{
    int64_t channels = first_channels(n);
    switch (n->c->time_embedding_type) {
    case LGV_TIME_LEARNED: return learned_rows(n, index);
    case LGV_TIME_FOURIER:
        return lgv_fourier_embedding(n->g, t,
                                     lgv_param_frozen(n->g, "time_proj.weight", 1, &channels), 0);
    case LGV_TIME_POSITIONAL: break;
    }
    return lgv_timestep_embedding(n->g, t, (int)channels, n->c->flip_sin_to_cos, n->c->freq_shift);
}

/* TimestepEmbedding: linear, SiLU (whatever act_fn is), linear. */
static lgv_id embed(lgv_net *n, const char *name, lgv_id x)
{
    int64_t C = first_channels(n), E = lgv_unet2d_embedding(n->c);
    lgv_graph_push(n->g, "%s", name);
    x = lgv_net_linear(n, "linear_1", x, n->c->time_embedding_type == LGV_TIME_FOURIER ? 2 * C : C,
                       E);
    x = lgv_net_module(n, "act", lgv_act(n->g, x, LGV_ACT_SILU));
    x = lgv_net_module(n, "", lgv_net_linear(n, "linear_2", x, E, E));
    lgv_graph_pop(n->g);
    return x;
}

static lgv_id class_embedding(lgv_net *n, const lgv_model_inputs *in)
{
    int64_t E = lgv_unet2d_embedding(n->c);
    switch (n->c->class_embedding) {
    case LGV_CLASS_TABLE: {
        lgv_id table =
            lgv_param(n->g, "class_embedding.weight", 2, (int64_t[]){n->c->num_class_embeds, E});
        return lgv_net_module(n, "class_embedding", lgv_embedding(n->g, table, in->label));
    }
    case LGV_CLASS_TIMESTEP:
        return embed(n, "class_embedding", project(n, in->label_f32, in->label));
    case LGV_CLASS_IDENTITY: return in->class_vector;
    case LGV_CLASS_NONE: break;
    }
    return LGV_NONE;
}

static void embeddings(lgv_net *n, const lgv_model_inputs *in)
{
    lgv_id t = project(n, in->t, in->t_index);
    /* For TIMESTEP classes time_proj runs twice: no module value of its own. */
    if (n->c->class_embedding != LGV_CLASS_TIMESTEP) lgv_net_module(n, "time_proj", t);
    n->emb = embed(n, "time_embedding", t);
    lgv_net_stage(n, n->emb, "time_embedding", "time embedding");
    lgv_id label = class_embedding(n, in);
    if (label != LGV_NONE) n->emb = lgv_add(n->g, n->emb, label);
    n->emb_act = lgv_act(n->g, n->emb, (lgv_act_kind)n->c->act_fn);
}

static lgv_status check_inputs(const lgv_unet2d_config *c, const lgv_graph *g,
                               const lgv_model_inputs *in, lgv_error *err)
{
    int64_t d[LGV_MAX_RANK];
    if (lgv_shape(g, in->sample, d) != 4)
        return lgv_fail(err, LGV_ERR_SHAPE, "UNet2DModel wants a sample of shape [N,H,W,C]");
    if (d[3] != c->in_channels)
        return lgv_fail(err, LGV_ERR_SHAPE,
                        "the sample has %lld channels, the network wants in_channels = %d",
                        (long long)d[3], c->in_channels);
    bool learned = c->time_embedding_type == LGV_TIME_LEARNED;
    if ((learned ? in->t_index : in->t) == LGV_NONE)
        return lgv_fail(err, LGV_ERR_ARGUMENT,
                        learned
                            ? "a learned time embedding needs the timestep as an index (t_index)"
                            : "UNet2DModel needs the timestep (t)");
    lgv_id wanted[] = {[LGV_CLASS_NONE] = 0,
                       [LGV_CLASS_TABLE] = in->label,
                       [LGV_CLASS_TIMESTEP] = learned ? in->label : in->label_f32,
                       [LGV_CLASS_IDENTITY] = in->class_vector};
    bool given = in->label != LGV_NONE || in->label_f32 != LGV_NONE || in->class_vector != LGV_NONE;
    if (c->class_embedding == LGV_CLASS_NONE && given)
        return lgv_fail(err, LGV_ERR_ARGUMENT,
                        "class labels were given, but this network has no class embedding "
                        "(class_embed_type and num_class_embeds are null)");
    if (c->class_embedding != LGV_CLASS_NONE && wanted[c->class_embedding] == LGV_NONE)
        return lgv_fail(err, LGV_ERR_ARGUMENT,
                        "this network is class-conditional: class labels should be provided");
    return LGV_OK;
}

/* NCSN++ on noise levels: the network's output is divided by the level. */
static lgv_id output(lgv_net *n, lgv_id x, lgv_id picture, lgv_id t)
{
    int64_t C = n->c->block_out_channels[0];
    x = lgv_net_norm(n, "conv_norm_out", x, C, lgv_plan_out_groups(n->c));
    lgv_net_stage(n, x, "conv_norm_out", "output GroupNorm");
    x = lgv_net_module(n, "conv_act", lgv_act(n->g, x, LGV_ACT_SILU));
    lgv_net_stage(n, x, "conv_act", "output SiLU");
    x = lgv_net_conv(n, "conv_out", x, C, n->c->out_channels, 3, 1, NULL, true);
    lgv_net_stage(n, x, "conv_out", "output convolution");
    if (picture != LGV_NONE) x = lgv_add(n->g, x, picture);
    return n->c->time_embedding_type == LGV_TIME_FOURIER ? lgv_row_divide(n->g, x, t) : x;
}

/* First convolution, embeddings, down path and middle. */
static lgv_id encode(lgv_net *n, const lgv_model_inputs *in, lgv_skips *skips)
{
    const lgv_unet2d_config *c = n->c;
    lgv_id x = in->sample;
    if (c->center_input_sample) x = lgv_affine(n->g, x, 2, -1);
    lgv_id picture = x;
    x = lgv_net_conv(n, "conv_in", x, c->in_channels, first_channels(n), 3, 1, NULL, true);
    lgv_net_stage(n, x, "conv_in", "first convolution");
    embeddings(n, in);
    skips->value[skips->count++] = x;
    for (int i = 0; i < c->levels; i++) x = lgv_net_down(n, i, x, skips, &picture);
    if (c->mid_block) {
        x = lgv_net_mid(n, x);
        lgv_net_stage(n, x, "mid_block", "middle");
    }
    return x;
}

static lgv_id network(lgv_net *n, const lgv_model_inputs *in, lgv_skips *skips)
{
    lgv_id x = encode(n, in, skips), picture = LGV_NONE;
    for (int i = 0; i < n->c->levels; i++) x = lgv_net_up(n, i, x, skips, &picture);
    return output(n, x, picture, in->t);
}

static lgv_status skips_new(const lgv_unet2d_config *c, lgv_skips *out, lgv_error *err)
{
    *out = (lgv_skips){.capacity = 1 + c->levels * (c->layers_per_block + 1)};
    out->value = lgv_alloc((size_t)out->capacity, sizeof *out->value);
    return out->value ? LGV_OK
                      : lgv_fail(err, LGV_ERR_MEMORY, "out of memory while building a UNet2DModel");
}

static lgv_status begin(const lgv_unet2d_config *c, lgv_unet2d_variant variant, lgv_graph *g,
                        const lgv_model_inputs *in, lgv_model_stage *stages, lgv_net *n,
                        lgv_skips *skips, lgv_error *err)
{
    LGV_TRY(lgv_graph_status(g, err));
    LGV_TRY(check_inputs(c, g, in, err));
    *n = (lgv_net){.g = g,
                   .c = c,
                   .variant = variant,
                   .training = in->training != 0,
                   .stage = stages,
                   .cap_stages = stages ? LGV_MAX_STAGES : 0};
    return skips_new(c, skips, err);
}

lgv_status lgv_unet2d_build(const lgv_unet2d_config *c, lgv_unet2d_variant variant, lgv_graph *g,
                            const lgv_model_inputs *in, lgv_model_stage *stages, int *n_stages,
                            lgv_id *out, lgv_error *err)
{
    lgv_net n;
    lgv_skips skips;
    LGV_TRY(begin(c, variant, g, in, stages, &n, &skips, err));
    lgv_id y = network(&n, in, &skips);
    lgv_free(skips.value);
    LGV_TRY(lgv_graph_status(g, err));
    if (n_stages) *n_stages = n.n_stages;
    *out = y;
    return LGV_OK;
}

/* [N,H,W,C] -> [N,C], the mean over positions. */
lgv_id lgv_net_mean(lgv_net *n, lgv_id x)
{
    int64_t d[LGV_MAX_RANK];
    lgv_shape(n->g, x, d);
    double positions = (double)(d[1] * d[2]);
    return lgv_affine(n->g, lgv_sum_hw(n->g, x), positions > 0 ? 1 / positions : 1, 0);
}

/* AttentionPool2d of guided-diffusion (unet.py; CLIP, arXiv 2103.00020): the mean and the positions, each with an
   embedding of its own, attend to each other; the answer for the mean is the vector. */
static void attention_pool(lgv_net *n, int labels, lgv_id x, lgv_id *features, lgv_id *logits)
{
    int64_t d[LGV_MAX_RANK], C = n->c->block_out_channels[n->c->levels - 1];
    int head = n->c->attention_head_dim, heads = head && C % head == 0 ? (int)(C / head) : 1;
    lgv_shape(n->g, x, d);
    lgv_graph_push(n->g, "pool");
    lgv_id place =
        lgv_param(n->g, "positional_embedding", 3, (int64_t[]){1, 1 + d[1] * d[2], C});
    lgv_id t = lgv_add(n->g, lgv_prepend_mean(n->g, x), lgv_repeat_rows(n->g, place, d[0]));
    t = lgv_net_linear(n, "qkv_proj", t, C, 3 * C);
    t = lgv_attention(n->g, lgv_slice(n->g, t, 0, C), lgv_slice(n->g, t, C, C),
                      lgv_slice(n->g, t, 2 * C, C), heads, sqrt((double)heads / (double)C));
    *features = lgv_first_position(n->g, t);
    lgv_net_stage(n, *features, "pool", "features: attention over positions");
    *logits = lgv_net_linear(n, "c_proj", *features, C, labels);
    lgv_graph_pop(n->g);
    lgv_net_stage(n, *logits, "classifier", "logits");
}

static void head(lgv_net *n, int labels, bool attention, lgv_id x, lgv_id *features,
                 lgv_id *logits)
{
    int64_t C = n->c->block_out_channels[n->c->levels - 1];
    *logits = LGV_NONE;
    if (labels) {
        x = lgv_net_norm(n, "conv_norm_out", x, C, lgv_plan_out_groups(n->c));
        x = lgv_net_module(n, "conv_act", lgv_act(n->g, x, LGV_ACT_SILU));
        lgv_net_stage(n, x, "conv_act", "output GroupNorm and SiLU");
    }
    if (attention) {
        attention_pool(n, labels, x, features, logits);
        return;
    }
    *features = lgv_net_module(n, "pool", lgv_net_mean(n, x));
    lgv_net_stage(n, *features, "pool", "features: mean over positions");
    if (!labels) return;
    *logits = lgv_net_linear(n, "classifier", *features, C, labels);
    lgv_net_stage(n, *logits, "classifier", "logits");
}

lgv_status lgv_unet2d_encode(const lgv_unet2d_config *c, lgv_unet2d_variant variant, int labels,
                             bool attention, lgv_graph *g, const lgv_model_inputs *in,
                             lgv_model_stage *stages, int *n_stages, lgv_id *features,
                             lgv_id *logits, lgv_error *err)
{
    lgv_net n;
    lgv_skips skips;
    LGV_TRY(begin(c, variant, g, in, stages, &n, &skips, err));
    lgv_id x = encode(&n, in, &skips);
    lgv_free(skips.value);
    head(&n, labels, attention, x, features, logits);
    LGV_TRY(lgv_graph_status(g, err));
    if (n_stages) *n_stages = n.n_stages;
    return LGV_OK;
}

/* --- The kind of network --- */
void lgv_unet2d_resize(lgv_model *m, int height, int width)
{
    lgv_unet2d_config *c = m->config;
    c->sample_height = height;
    c->sample_width = width;
}

static void add_classes(lgv_model *m, int rows)
{
    lgv_unet2d_config *c = m->config;
    c->class_embedding = LGV_CLASS_TABLE;
    c->num_class_embeds = rows;
}

lgv_status lgv_unet2d_check(const lgv_model *m, lgv_error *err)
{
    return lgv_unet2d_config_check(m->config, err);
}

void lgv_unet2d_describe(lgv_model *m)
{
    const lgv_unet2d_config *c = m->config;
    lgv_model_info *info = &m->info;
    info->height = c->sample_height;
    info->width = c->sample_width;
    info->in_channels = c->in_channels;
    info->out_channels = c->out_channels;
    info->picture_channels = lgv_unet2d_picture(c);
    info->condition = c->condition;
    info->condition_scale = c->condition_scale;
    info->divisor = lgv_unet2d_divisor(c);
    info->time_embedding = c->time_embedding_type;
    info->num_train_timesteps =
        c->time_embedding_type == LGV_TIME_LEARNED ? c->num_train_timesteps : 0;
    info->class_kind = c->class_embedding;
    info->class_count = c->class_embedding == LGV_CLASS_TABLE ? c->num_class_embeds : 0;
    info->class_width = c->class_embedding == LGV_CLASS_IDENTITY ? lgv_unet2d_embedding(c) : 0;
    info->null_label = -1;
    info->features = c->block_out_channels[c->levels - 1];
    info->dropout = c->dropout;
}

void lgv_unet2d_divisor_reason(const lgv_model *m, char text[64])
{
    const lgv_unet2d_config *c = m->config;
    snprintf(text, 64, "%d levels", c->levels);
}

lgv_init_rule lgv_unet2d_init(const lgv_model *m, const lgv_model_param *p, int64_t *fan_in)
{
    (void)m;
    bool table = p->rank == 2 && (!strcmp(p->name, "time_proj.weight") ||
                                  !strcmp(p->name, "class_embedding.weight"));
    if (p->frozen) return (lgv_init_rule){LGV_INIT_FOURIER, 16};
    if (table) return (lgv_init_rule){LGV_INIT_NORMAL, 1};
    return lgv_init_layer(p, fan_in);
}

/* The names of attention blocks before diffusers 0.12. */
const char *lgv_unet2d_old_name(const char *name, char *text, size_t size)
{
    static const char *const pairs[][2] = {{".to_q.", ".query."},
                                           {".to_k.", ".key."},
                                           {".to_v.", ".value."},
                                           {".to_out.0.", ".proj_attn."}};
    for (int i = 0; i < 4; i++) {
        const char *at = strstr(name, pairs[i][0]);
        if (!at || !strstr(name, "attentions.")) continue;
        snprintf(text, size, "%.*s%s%s", (int)(at - name), name, pairs[i][1],
                 at + strlen(pairs[i][0]));
        return text;
    }
    return NULL;
}

static lgv_status parse(const lgv_json *j, lgv_model *m, lgv_error *err)
{
    return lgv_unet2d_config_read(j, m->config, err);
}

static json_t *to_json(const lgv_model *m)
{
    return lgv_unet2d_config_json(m->config);
}

static lgv_status build(const lgv_model *m, lgv_graph *g, const lgv_model_inputs *in,
                        lgv_model_stage *stages, int *n_stages, lgv_id *out, lgv_error *err)
{
    return lgv_unet2d_build(m->config, (lgv_unet2d_variant){0}, g, in, stages, n_stages, out, err);
}

static lgv_status features(const lgv_model *m, lgv_graph *g, const lgv_model_inputs *in,
                           lgv_id *out, lgv_id *logits, lgv_error *err)
{
    return lgv_unet2d_encode(m->config, (lgv_unet2d_variant){0}, 0, false, g, in, NULL, NULL, out,
                             logits, err);
}

const lgv_model_kind lgv_kind_unet2d = {
    .class_name = "UNet2DModel",
    .component = "unet",
    .pipeline = "DDPMPipeline",
    .config_size = sizeof(lgv_unet2d_config),
    .parse = parse,
    .preset = lgv_unet2d_preset,
    .from_preset = lgv_unet2d_from_preset,
    .resize = lgv_unet2d_resize,
    .add_classes = add_classes,
    .check = lgv_unet2d_check,
    .describe = lgv_unet2d_describe,
    .divisor_reason = lgv_unet2d_divisor_reason,
    .json = to_json,
    .build = build,
    .features = features,
    .init = lgv_unet2d_init,
    .old_name = lgv_unet2d_old_name,
};
