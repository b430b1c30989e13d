/* dit.c - DiT, the diffusion transformer with adaLN-Zero blocks (arXiv 2212.09748, sec. 3; facebookresearch/DiT,
   models.py; diffusers, models/transformers/dit_transformer_2d.py). Pictures or latents are cut into patches, which
   keep their place in [N,H,W,C]; modules have diffusers' paths. Parameters are the original's: queries, keys and values
   are one layer, and with shared_embedding the embeddings of timestep and class are those of block 0 for all blocks. */
#include "dit.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "parts.h"

enum { FREQUENCIES = 256 }; /* numbers a timestep is told in */
static const double EPS = 1e-6;

typedef struct net {
    lgv_net n; /* graph, trace */
    const lgv_dit_config *c;
    const lgv_model_inputs *in;
    int64_t width;
    lgv_id time;  /* sines and cosines */
    lgv_id first; /* SiLU of block 0's embedding */
    int modules[2]; /* those of that embedding, from and to, among the graph's */
    size_t scope;   /* characters of their names that say where they stand */
    int64_t rows, positions;
} net;

static lgv_id linear(net *d, const char *name, lgv_id x, int64_t in, int64_t out, bool bias)
{
    if (bias) return lgv_net_linear(&d->n, name, x, in, out);
    lgv_graph_push(d->n.g, "%s", name);
    lgv_id w = lgv_param(d->n.g, "weight", 2, (int64_t[]){out, in});
    lgv_id y = lgv_net_module(&d->n, "", lgv_linear(d->n.g, x, w, LGV_NONE));
    lgv_graph_pop(d->n.g);
    return y;
}

static lgv_id dropout(net *d, const char *name, lgv_id x)
{
    if (!d->n.training || d->c->dropout <= 0) return x;
    return lgv_dropout(d->n.g, x, d->c->dropout, lgv_rng_stream(lgv_graph_path(d->n.g, name)));
}

/* A stage of tokens: (N,L,C), or (N,C) of vectors. */
static void stage(net *d, lgv_id v, const char *name, const char *title)
{
    lgv_net_stage(&d->n, v, name, "%s", title);
    if (!d->n.stage || lgv_shape(d->n.g, v, (int64_t[LGV_MAX_RANK]){0}) != 4) return;
    lgv_model_stage *s = &d->n.stage[d->n.n_stages - 1];
    s->rank = 3;
    const int64_t dim[LGV_MAX_RANK] = {s->dim[0], s->dim[2] * s->dim[3], s->dim[1], 1};
    memcpy(s->dim, dim, sizeof dim);
}

/* Timestep and class as one vector [N,width], in the open scope "norm1.emb"; its SiLU. */
static lgv_id embedding(net *d, bool traced)
{
    lgv_graph *g = d->n.g;
    lgv_net_module(&d->n, "time_proj", d->time);
    lgv_graph_push(g, "timestep_embedder");
    lgv_id e = lgv_net_linear(&d->n, "linear_1", d->time, FREQUENCIES, d->width);
    e = lgv_net_module(&d->n, "act", lgv_act(g, e, LGV_ACT_SILU));
    e = lgv_net_module(&d->n, "", lgv_net_linear(&d->n, "linear_2", e, d->width, d->width));
    lgv_graph_pop(g);
    if (traced) stage(d, e, "time_embedding", "time embedding");
    if (d->c->num_embeds_ada_norm) {
        lgv_graph_push(g, "class_embedder");
        lgv_id table = lgv_param(g, "embedding_table.weight", 2,
                                 (int64_t[]){lgv_dit_rows(d->c), d->width});
        lgv_id label = lgv_net_module(&d->n, "embedding_table", lgv_embedding(g, table, d->in->label));
        lgv_net_module(&d->n, "", label);
        lgv_graph_pop(g);
        if (traced) stage(d, label, "class_embedding", "class embedding");
        e = lgv_add(g, e, label);
    }
    return lgv_act(g, lgv_net_module(&d->n, "", e), LGV_ACT_SILU);
}

/* Chunk k of a vector of modulations. */
static lgv_id chunk(net *d, lgv_id v, int k)
{
    return lgv_slice(d->n.g, v, k * d->width, d->width);
}

static lgv_id norm(net *d, const char *name, lgv_id x, double eps)
{
    return lgv_net_module(&d->n, name, lgv_layer_norm(d->n.g, x, LGV_NONE, LGV_NONE, eps));
}

static lgv_id attention(net *d, lgv_id x)
{
    static const char *const names[] = {"to_q", "to_k", "to_v"};
    lgv_graph *g = d->n.g;
    lgv_id qkv[3];
    lgv_graph_push(g, "attn1");
    lgv_id all = linear(d, "to_qkv", x, d->width, 3 * d->width, d->c->attention_bias);
    for (int k = 0; k < 3; k++) qkv[k] = lgv_net_module(&d->n, names[k], chunk(d, all, k));
    x = lgv_attention(g, qkv[0], qkv[1], qkv[2], d->c->num_attention_heads,
                      1 / sqrt((double)d->c->attention_head_dim));
    x = dropout(d, "to_out.1", lgv_net_linear(&d->n, "to_out.0", x, d->width, d->width));
    lgv_net_module(&d->n, "", x);
    lgv_graph_pop(g);
    return x;
}

static lgv_id feed_forward(net *d, lgv_id x)
{
    lgv_graph *g = d->n.g;
    lgv_graph_push(g, "ff");
    lgv_graph_push(g, "net.0");
    x = lgv_net_linear(&d->n, "proj", x, d->width, 4 * d->width);
    x = lgv_net_module(&d->n, "", lgv_act(g, x, (lgv_act_kind)d->c->activation_fn));
    lgv_graph_pop(g);
    x = lgv_net_linear(&d->n, "net.2", dropout(d, "net.1", x), 4 * d->width, d->width);
    lgv_net_module(&d->n, "", x);
    lgv_graph_pop(g);
    return x;
}

/* SiLU(embedding) of block i, in the open scope "transformer_blocks.i.norm1". With one embedding for all, a block's modules
   are block 0's under its own name. */
static lgv_id block_embedding(net *d, int i)
{
    lgv_graph *g = d->n.g;
    if (i && d->c->shared_embedding) {
        for (int k = d->modules[0]; k < d->modules[1]; k++) {
            const char *path;
            const lgv_id v = lgv_graph_module_at(g, k, &path);
            lgv_net_module(&d->n, path + d->scope, v);
        }
        return d->first;
    }
    if (i == 0) {
        d->modules[0] = lgv_graph_modules(g);
        d->scope = strlen(lgv_graph_path(g, "")) + 1;
    }
    lgv_graph_push(g, "emb");
    lgv_id e = embedding(d, i == 0);
    lgv_graph_pop(g);
    lgv_net_module(&d->n, "silu", e);
    if (i == 0) {
        d->modules[1] = lgv_graph_modules(g);
        d->first = e;
    }
    return e;
}

/* adaLN-Zero (sec. 3.2, fig. 3): shift, scale and gate of both halves come from the embedding. */
static lgv_id block(net *d, int i, lgv_id x)
{
    lgv_graph *g = d->n.g;
    char name[32], title[48];
    lgv_graph_push(g, "transformer_blocks.%d", i);
    lgv_graph_push(g, "norm1");
    lgv_id e = block_embedding(d, i);
    lgv_graph_block_begin(g);
    lgv_id v = lgv_net_linear(&d->n, "linear", e, d->width, 6 * d->width);
    lgv_id h = lgv_modulate(g, norm(d, "norm", x, EPS), chunk(d, v, 1), chunk(d, v, 0));
    lgv_graph_pop(g);
    x = lgv_gate(g, attention(d, h), chunk(d, v, 2), x);
    h = lgv_modulate(g, norm(d, "norm3", x, d->c->norm_eps), chunk(d, v, 4), chunk(d, v, 3));
    x = lgv_net_module(&d->n, "", lgv_gate(g, feed_forward(d, h), chunk(d, v, 5), x));
    lgv_graph_block_end(g);
    lgv_graph_pop(g);
    snprintf(name, sizeof name, "transformer_blocks.%d", i);
    snprintf(title, sizeof title, "block %d: attention and MLP", i);
    stage(d, x, name, title);
    return x;
}

static lgv_id patches(net *d)
{
    const lgv_dit_config *c = d->c;
    const lgv_conv_attr attr = {.stride = c->patch_size};
    lgv_graph *g = d->n.g;
    lgv_graph_push(g, "pos_embed");
    lgv_graph_push(g, "proj");
    lgv_id w = lgv_param(g, "weight", 4,
                         (int64_t[]){d->width, c->in_channels, c->patch_size, c->patch_size});
    lgv_id b = lgv_param(g, "bias", 1, &d->width);
    lgv_id x = lgv_net_module(&d->n, "", lgv_conv2d(g, d->in->sample, w, b, attr));
    lgv_graph_pop(g);
    x = lgv_add_positions(g, x, c->sample_height / c->patch_size, c->sample_width / c->patch_size);
    lgv_net_module(&d->n, "", x);
    lgv_graph_pop(g);
    stage(d, x, "pos_embed", "patch embedding with positions");
    return x;
}

static lgv_id network(net *d)
{
    lgv_graph *g = d->n.g;
    lgv_id x = patches(d);
    d->time = lgv_timestep_embedding(g, d->in->t, FREQUENCIES, 1, d->c->freq_shift);
    for (int i = 0; i < d->c->num_layers; i++) x = block(d, i, x);
    lgv_id v = lgv_net_linear(&d->n, "proj_out_1", d->first, d->width, 2 * d->width);
    x = lgv_modulate(g, norm(d, "norm_out", x, EPS), chunk(d, v, 1), chunk(d, v, 0));
    const int64_t out = (int64_t)d->c->patch_size * d->c->patch_size * d->c->out_channels;
    x = lgv_net_linear(&d->n, "proj_out_2", x, d->width, out);
    stage(d, x, "proj_out_2", "output layer");
    x = lgv_unpatchify(g, x, d->c->patch_size);
    lgv_net_stage(&d->n, x, "unpatchify", "patches to pixels");
    return x;
}

static lgv_status check_inputs(const lgv_dit_config *c, const lgv_graph *g,
                               const lgv_model_inputs *in, lgv_error *err)
{
    int64_t d[LGV_MAX_RANK];
    if (lgv_shape(g, in->sample, d) != 4)
        return lgv_fail(err, LGV_ERR_SHAPE, "DiT wants a sample of shape [N,H,W,C]");
    if (d[3] != c->in_channels)
        return lgv_fail(err, LGV_ERR_SHAPE,
                        "the sample has %lld channels, the network wants in_channels = %d",
                        (long long)d[3], c->in_channels);
    if (in->t == LGV_NONE) return lgv_fail(err, LGV_ERR_ARGUMENT, "DiT needs the timestep (t)");
    const bool given =
        in->label != LGV_NONE || in->label_f32 != LGV_NONE || in->class_vector != LGV_NONE;
    if (!c->num_embeds_ada_norm && given)
        return lgv_fail(err, LGV_ERR_ARGUMENT,
                        "class labels were given, but this network has no classes");
    if (c->num_embeds_ada_norm && in->label == LGV_NONE)
        return lgv_fail(err, LGV_ERR_ARGUMENT,
                        "this network is class-conditional: class labels should be provided");
    return LGV_OK;
}

/* --- The kind of network --- */
static lgv_status begin(const lgv_model *m, lgv_graph *g, const lgv_model_inputs *in,
                        lgv_model_stage *stages, net *d, lgv_error *err)
{
    LGV_TRY(lgv_graph_status(g, err));
    LGV_TRY(check_inputs(m->config, g, in, err));
    *d = (net){.c = m->config, .in = in, .width = lgv_dit_width(m->config)};
    d->n.g = g;
    d->n.training = in->training != 0;
    d->n.stage = stages;
    d->n.cap_stages = stages ? LGV_MAX_STAGES : 0;
    return LGV_OK;
}

static lgv_status build(const lgv_model *m, lgv_graph *g, const lgv_model_inputs *in,
                        lgv_model_stage *stages, int *n_stages, lgv_id *out, lgv_error *err)
{
    net d;
    LGV_TRY(begin(m, g, in, stages, &d, err));
    const lgv_id y = network(&d);
    LGV_TRY(lgv_graph_status(g, err));
    if (n_stages) *n_stages = d.n.n_stages;
    *out = y;
    return LGV_OK;
}

/* The mean over positions of what the last block gives. */
static lgv_status features(const lgv_model *m, lgv_graph *g, const lgv_model_inputs *in,
                           lgv_id *out, lgv_id *logits, lgv_error *err)
{
    net d;
    int64_t dim[LGV_MAX_RANK];
    LGV_TRY(begin(m, g, in, NULL, &d, err));
    lgv_id x = patches(&d);
    d.time = lgv_timestep_embedding(g, in->t, FREQUENCIES, 1, d.c->freq_shift);
    for (int i = 0; i < d.c->num_layers; i++) x = block(&d, i, x);
    lgv_shape(g, x, dim);
    const double positions = (double)(dim[1] * dim[2]);
    *out = lgv_affine(g, lgv_sum_hw(g, x), positions > 0 ? 1 / positions : 1, 0);
    *logits = LGV_NONE;
    return lgv_graph_status(g, err);
}

static void resize(lgv_model *m, int height, int width)
{
    lgv_dit_config *c = m->config;
    c->sample_height = height;
    c->sample_width = width;
}

static lgv_status check(const lgv_model *m, lgv_error *err)
{
    return lgv_dit_config_check(m->config, err);
}

static void describe(lgv_model *m)
{
    const lgv_dit_config *c = m->config;
    lgv_model_info *info = &m->info;
    info->height = c->sample_height;
    info->width = c->sample_width;
    info->in_channels = c->in_channels;
    info->out_channels = c->out_channels;
    info->divisor = c->patch_size;
    info->time_embedding = LGV_TIME_POSITIONAL;
    info->class_kind = c->num_embeds_ada_norm ? LGV_CLASS_TABLE : LGV_CLASS_NONE;
    info->class_count = (int)lgv_dit_rows(c);
    info->null_label =
        c->num_embeds_ada_norm && c->class_dropout_prob > 0 ? c->num_embeds_ada_norm : -1;
    info->features = (int)lgv_dit_width(c);
    info->dropout = c->dropout;
}

static void divisor_reason(const lgv_model *m, char text[64])
{
    const lgv_dit_config *c = m->config;
    snprintf(text, 64, "patches of %dx%d", c->patch_size, c->patch_size);
}

static bool has(const lgv_model_param *p, const char *text)
{
    return strstr(p->name, text) != NULL;
}

/* adaLN-Zero (arXiv 2212.09748, section 3.2): every block begins as the identity, the network as zero. The other weights
   are those of PyTorch's layers, with a loud class table: in short runs of 32x32 pixels that learns much faster than the
   original's small embeddings and Xavier matrices (docs/conditional.md). */
static lgv_init_rule init(const lgv_model *m, const lgv_model_param *p, int64_t *fan_in)
{
    (void)m;
    if (p->rank == 1 || has(p, "norm1.linear") || has(p, "proj_out"))
        return (lgv_init_rule){LGV_INIT_CONSTANT, 0};
    if (has(p, "class_embedder")) return (lgv_init_rule){LGV_INIT_NORMAL, 1};
    return lgv_init_layer(p, fan_in);
}

const lgv_model_kind lgv_kind_dit = {
    .class_name = "DiTTransformer2DModel",
    .alias = "Transformer2DModel",
    .component = "transformer",
    .pipeline = "DiTPipeline",
    .config_size = sizeof(lgv_dit_config),
    .parse = lgv_dit_parse,
    .preset = lgv_dit_preset,
    .from_preset = lgv_dit_from_preset,
    .resize = resize,
    .check = check,
    .describe = describe,
    .divisor_reason = divisor_reason,
    .json = lgv_dit_json,
    .build = build,
    .features = features,
    .init = init,
    .formats = 2,
    .layout = lgv_dit_layout,
    .differs = lgv_dit_differs,
    .same = lgv_dit_same,
    .constant = lgv_dit_constant,
};
