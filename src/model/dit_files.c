/* dit_files.c - the tensors of DiT in files: those of diffusers' DiTTransformer2DModel (format 0), where each block
   has embeddings of its own and queries, keys and values are three layers; and those of facebookresearch/DiT
   (format 1), where there is one embedding and the table of positions stands beside the weights. */
#include <stdio.h>
#include <string.h>

#include "core/elementary.h"
#include "dit.h"
#include "langevin/ops.h"
#include "layout.h"

typedef struct files {
    const lgv_model *m;
    const lgv_dit_config *c;
    lgv_layout *l;
    lgv_error *err;
} files;

static int param_of(const lgv_model *m, const char *name)
{
    for (size_t i = 0; i < m->n_params; i++)
        if (!strcmp(m->param[i].name, name)) return (int)i;
    return -1;
}

/* The whole parameter `ours` under the name `theirs`. */
static lgv_status whole(files *f, const char *ours, const char *theirs)
{
    const int param = param_of(f->m, ours);
    if (param < 0) return LGV_OK; /* a bias that this network has not */
    return lgv_layout_add_param(f->l, f->m, (size_t)param, lgv_strdup(theirs), f->err);
}

/* Weight and bias of a layer; %d: the block. */
static lgv_status layer(files *f, int block, const char *ours, const char *theirs)
{
    static const char *const parts[] = {"weight", "bias"};
    for (int i = 0; i < 2; i++) {
        char a[160], b[160], own[200], file[200];
        snprintf(a, sizeof a, ours, block);
        snprintf(b, sizeof b, theirs, block);
        snprintf(own, sizeof own, "%s.%s", a, parts[i]);
        snprintf(file, sizeof file, "%s.%s", b, parts[i]);
        LGV_TRY(whole(f, own, file));
    }
    return LGV_OK;
}

/* A third of the layer of queries, keys and values. */
static lgv_status third(files *f, int block, int which)
{
    static const char *const names[] = {"to_q", "to_k", "to_v"};
    static const char *const parts[] = {"weight", "bias"};
    for (int i = 0; i < 2; i++) {
        char own[160];
        snprintf(own, sizeof own, "transformer_blocks.%d.attn1.to_qkv.%s", block, parts[i]);
        const int param = param_of(f->m, own);
        if (param < 0) continue;
        LGV_TRY(lgv_layout_add_param(
            f->l, f->m, (size_t)param,
            lgv_format("transformer_blocks.%d.attn1.%s.%s", block, names[which], parts[i]),
            f->err));
        lgv_file_tensor *t = &f->l->tensor[f->l->count - 1];
        t->rows = t->dim[0] = t->dim[0] / 3;
        t->row = which * t->rows;
    }
    return LGV_OK;
}

/* The table of block `from` (the network's own may be that of block 0). diffusers' has a row for no class always, and
   a network without classes has one there all the same, of zeros. */
static lgv_status table(files *f, int block, int from, bool padded, const char *theirs)
{
    char own[160];
    snprintf(own, sizeof own,
             "transformer_blocks.%d.norm1.emb.class_embedder.embedding_table.weight", from);
    const int param = param_of(f->m, own);
    if (param < 0 && !padded) return LGV_OK;
    char name[160];
    snprintf(name, sizeof name, theirs, block);
    lgv_file_tensor *t = lgv_layout_add(f->l, lgv_strdup(name), f->err);
    if (!t) return LGV_ERR_MEMORY;
    t->param = param;
    t->rank = 2;
    t->rows = param < 0 ? 0 : f->m->param[param].dim[0];
    t->dim[0] = !padded                       ? t->rows
                : f->c->num_embeds_ada_norm ? f->c->num_embeds_ada_norm + 1
                                            : 2;
    t->dim[1] = lgv_dit_width(f->c);
    return LGV_OK;
}

static lgv_status diffusers_block(files *f, int i)
{
    static const char embedder[] = "transformer_blocks.%d.norm1.emb.timestep_embedder.linear_1";
    static const char second[] = "transformer_blocks.%d.norm1.emb.timestep_embedder.linear_2";
    const int from = f->c->shared_embedding ? 0 : i;
    char own[2][128];
    snprintf(own[0], sizeof own[0], embedder, from);
    snprintf(own[1], sizeof own[1], second, from);
    LGV_TRY(layer(f, i, own[0], embedder));
    LGV_TRY(layer(f, i, own[1], second));
    LGV_TRY(table(f, i, from, true,
                  "transformer_blocks.%d.norm1.emb.class_embedder.embedding_table.weight"));
    static const char *const rest[] = {
        "transformer_blocks.%d.norm1.linear", "transformer_blocks.%d.attn1.to_out.0",
        "transformer_blocks.%d.ff.net.0.proj", "transformer_blocks.%d.ff.net.2"};
    for (int k = 0; k < 3; k++) LGV_TRY(third(f, i, k));
    for (int k = 0; k < 4; k++) LGV_TRY(layer(f, i, rest[k], rest[k]));
    return LGV_OK;
}

static lgv_status diffusers_layout(files *f)
{
    LGV_TRY(layer(f, 0, "pos_embed.proj", "pos_embed.proj"));
    for (int i = 0; i < f->c->num_layers; i++) LGV_TRY(diffusers_block(f, i));
    LGV_TRY(layer(f, 0, "proj_out_1", "proj_out_1"));
    return layer(f, 0, "proj_out_2", "proj_out_2");
}

static lgv_status original_positions(files *f)
{
    lgv_file_tensor *t = lgv_layout_add(f->l, lgv_strdup("pos_embed"), f->err);
    if (!t) return LGV_ERR_MEMORY;
    const int64_t p = f->c->patch_size;
    t->optional = true;
    t->rank = 3;
    t->dim[1] = (f->c->sample_height / p) * (f->c->sample_width / p);
    t->dim[2] = lgv_dit_width(f->c);
    return LGV_OK;
}

static lgv_status original_layout(files *f)
{
    static const char *const blocks[][2] = {
        {"transformer_blocks.%d.attn1.to_qkv", "blocks.%d.attn.qkv"},
        {"transformer_blocks.%d.attn1.to_out.0", "blocks.%d.attn.proj"},
        {"transformer_blocks.%d.ff.net.0.proj", "blocks.%d.mlp.fc1"},
        {"transformer_blocks.%d.ff.net.2", "blocks.%d.mlp.fc2"},
        {"transformer_blocks.%d.norm1.linear", "blocks.%d.adaLN_modulation.1"}};
    LGV_TRY(layer(f, 0, "pos_embed.proj", "x_embedder.proj"));
    LGV_TRY(original_positions(f));
    for (int i = 0; i < (f->c->shared_embedding ? 1 : f->c->num_layers); i++) {
        static const char time[] = "transformer_blocks.%d.norm1.emb.timestep_embedder.linear_%d";
        char own[2][128];
        for (int k = 0; k < 2; k++) snprintf(own[k], sizeof own[k], time, i, k + 1);
        LGV_TRY(layer(f, 0, own[0], "t_embedder.mlp.0"));
        LGV_TRY(layer(f, 0, own[1], "t_embedder.mlp.2"));
        LGV_TRY(table(f, 0, i, false, "y_embedder.embedding_table.weight"));
    }
    for (int i = 0; i < f->c->num_layers; i++)
        for (size_t k = 0; k < sizeof blocks / sizeof blocks[0]; k++)
            LGV_TRY(layer(f, i, blocks[k][0], blocks[k][1]));
    LGV_TRY(layer(f, 0, "proj_out_1", "final_layer.adaLN_modulation.1"));
    return layer(f, 0, "proj_out_2", "final_layer.linear");
}

lgv_status lgv_dit_layout(const lgv_model *m, int format, lgv_layout *out, lgv_error *err)
{
    files f = {m, m->config, out, err};
    return format == 0 ? diffusers_layout(&f) : original_layout(&f);
}

/* The constants of facebookresearch/DiT, models.py. */
static lgv_dit_config original_config(const lgv_dit_config *c)
{
    lgv_dit_config o = *c;
    o.freq_shift = 0;
    o.norm_eps = 1e-6;
    o.activation_fn = LGV_ACT_GELU_TANH;
    o.shared_embedding = 1;
    return o;
}

const char *lgv_dit_differs(const lgv_model *m, int format)
{
    const lgv_dit_config *c = m->config, o = original_config(c);
    if (format == 0) return NULL;
    if (c->freq_shift != o.freq_shift) return "its freq_shift is not 0";
    if (c->norm_eps != o.norm_eps) return "its norm_eps is not 1e-6";
    if (c->activation_fn != o.activation_fn) return "its activation_fn is not gelu-approximate";
    return c->shared_embedding ? NULL : "each of its blocks has an embedding of its own";
}

lgv_status lgv_dit_same(const lgv_model *m, int format, lgv_model **same, lgv_error *err)
{
    const lgv_dit_config o = original_config(m->config);
    (void)format;
    return lgv_model_new_dit(&o, same, err);
}

/* The original's table of positions; everything else that is no parameter is zeros. */
void lgv_dit_constant(const lgv_model *m, const lgv_file_tensor *t, float *out)
{
    const lgv_dit_config *c = m->config;
    const int64_t width = lgv_dit_width(c), quarter = width / 4, columns = c->sample_width / c->patch_size;
    const bool positions = t->rank == 3;
    for (int64_t l = 0; l < (positions ? t->dim[1] : 0); l++)
        for (int64_t i = 0; i < quarter; i++) {
            double frequency = 1 / lgv_pow(10000, (double)i / (double)quarter), s, k;
            for (int axis = 0; axis < 2; axis++) {
                const int64_t at = axis ? l / columns : l % columns;
                lgv_sincos((double)at * frequency, &s, &k);
                out[l * width + axis * 2 * quarter + i] = (float)s;
                out[l * width + axis * 2 * quarter + quarter + i] = (float)k;
            }
        }
    if (!positions) memset(out, 0, (size_t)(t->dim[0] * t->dim[1]) * sizeof *out);
}
