/* blocks.c - the parts every block of a U-Net is made of: convolution, linear, norm, residual
   block, self-attention. Parameters are asked for in the order in which PyTorch's constructors make
   them, so that the graph's parameter order is the one default initialisation draws in. */
#include <math.h>

#include "parts.h"

lgv_id lgv_net_module(lgv_net *n, const char *name, lgv_id v)
{
    lgv_graph_module(n->g, v, lgv_graph_path(n->g, name));
    return v;
}

lgv_id lgv_net_conv(lgv_net *n, const char *name, lgv_id x, int64_t in, int64_t out, int kernel,
                    int stride, const int pad[4], bool bias)
{
    lgv_graph_push(n->g, "%s", name);
    lgv_id w = lgv_param(n->g, "weight", 4, (int64_t[]){out, in, kernel, kernel});
    lgv_id b = bias ? lgv_param(n->g, "bias", 1, &out) : LGV_NONE;
    int p = kernel / 2;
    lgv_conv_attr attr = {.stride = stride, .pad = {p, p, p, p}};
    for (int i = 0; pad && i < 4; i++) attr.pad[i] = pad[i];
    lgv_id y = lgv_net_module(n, "", lgv_conv2d(n->g, x, w, b, attr));
    lgv_graph_pop(n->g);
    return y;
}

lgv_id lgv_net_linear(lgv_net *n, const char *name, lgv_id x, int64_t in, int64_t out)
{
    lgv_graph_push(n->g, "%s", name);
    lgv_id w = lgv_param(n->g, "weight", 2, (int64_t[]){out, in});
    lgv_id b = lgv_param(n->g, "bias", 1, &out);
    lgv_id y = lgv_net_module(n, "", lgv_linear(n->g, x, w, b));
    lgv_graph_pop(n->g);
    return y;
}

lgv_id lgv_net_norm(lgv_net *n, const char *name, lgv_id x, int64_t channels, int groups)
{
    lgv_graph_push(n->g, "%s", name);
    lgv_id gamma = lgv_param(n->g, "weight", 1, &channels);
    lgv_id beta = lgv_param(n->g, "bias", 1, &channels);
    lgv_id y = lgv_net_module(n, "", lgv_group_norm(n->g, x, gamma, beta, groups, n->c->norm_eps));
    lgv_graph_pop(n->g);
    return y;
}

static lgv_id scale_by(lgv_net *n, lgv_id x, double divisor)
{
    return divisor == 1 ? x : lgv_affine(n->g, x, 1 / divisor, 0);
}

static lgv_id act(lgv_net *n, lgv_id x)
{
    return lgv_act(n->g, x, (lgv_act_kind)n->c->act_fn);
}

/* x * (1 + scale) + shift with [scale | shift] = v[N,2C]. */
static lgv_id modulate(lgv_net *n, lgv_id x, lgv_id v, int64_t channels)
{
    return lgv_modulate(n->g, x, lgv_slice(n->g, v, 0, channels),
                        lgv_slice(n->g, v, channels, channels));
}

/* AdaGroupNorm: a norm without parameters, modulated by a projection of the embedding itself (no
   activation before it). The norm's gamma and beta are constants, made from a vector of that
   length. */
static lgv_id ada_norm(lgv_net *n, const char *name, lgv_id x, int64_t channels, int groups)
{
    lgv_graph_push(n->g, "%s", name);
    lgv_id v = lgv_net_linear(n, "linear", n->emb, lgv_unet2d_embedding(n->c), 2 * channels);
    lgv_id any = lgv_stop_gradient(n->g, lgv_sum_rows(n->g, lgv_slice(n->g, v, 0, channels)));
    lgv_id one = lgv_affine(n->g, any, 0, 1), zero = lgv_affine(n->g, any, 0, 0);
    lgv_id y = lgv_group_norm(n->g, x, one, zero, groups, n->c->norm_eps);
    y = lgv_net_module(n, "", modulate(n, y, v, channels));
    lgv_graph_pop(n->g);
    return y;
}

static lgv_id resize(lgv_net *n, lgv_id x, lgv_resize kind)
{
    switch (kind) {
    case LGV_RESIZE_UP: return lgv_resample(n->g, x, LGV_UP_NEAREST);
    case LGV_RESIZE_DOWN: return lgv_resample(n->g, x, LGV_DOWN_AVERAGE);
    case LGV_RESIZE_UP_FIR: return lgv_resample(n->g, x, LGV_UP_FIR);
    case LGV_RESIZE_DOWN_FIR: return lgv_resample(n->g, x, LGV_DOWN_FIR);
    case LGV_RESIZE_NONE: break;
    }
    return x;
}

static lgv_id dropout(lgv_net *n, lgv_id x)
{
    if (!n->training || n->c->dropout <= 0) return x;
    return lgv_dropout(n->g, x, n->c->dropout, lgv_rng_stream(lgv_graph_path(n->g, "dropout")));
}

/* norm2 and what the time embedding does around it: added before (default), or scale and shift
 * after. */
static lgv_id second_norm(lgv_net *n, lgv_id h, const lgv_resnet_plan *r)
{
    if (r->ada) return ada_norm(n, "norm2", h, r->out, r->groups_out);
    lgv_id v = lgv_net_linear(n, "time_emb_proj", n->emb_act, lgv_unet2d_embedding(n->c),
                              r->scale_shift ? 2 * (int64_t)r->out : r->out);
    if (!r->scale_shift) h = lgv_add_row(n->g, h, v);
    h = lgv_net_norm(n, "norm2", h, r->out, r->groups_out);
    return r->scale_shift ? modulate(n, h, v, r->out) : h;
}

lgv_id lgv_net_resnet(lgv_net *n, lgv_id x, const lgv_resnet_plan *r)
{
    lgv_graph_block_begin(n->g);
    lgv_id h = r->ada ? ada_norm(n, "norm1", x, r->in, r->groups)
                      : lgv_net_norm(n, "norm1", x, r->in, r->groups);
    h = resize(n, act(n, h), r->resize);
    x = resize(n, x, r->resize);
    h = lgv_net_conv(n, "conv1", h, r->in, r->out, 3, 1, NULL, true);
    h = dropout(n, act(n, second_norm(n, h, r)));
    h = lgv_net_conv(n, "conv2", h, r->out, r->out, 3, 1, NULL, true);
    if (r->shortcut)
        x = lgv_net_conv(n, "conv_shortcut", x, r->in, r->out, n->variant.wide_shortcut ? 3 : 1, 1,
                         NULL, !r->ada);
    lgv_id y = lgv_net_module(n, "", scale_by(n, lgv_add(n->g, x, h), r->scale));
    lgv_graph_block_end(n->g);
    return y;
}

/* LinAttnBlock of CompVis (ldm/modules/diffusionmodules/model.py, attention.py): one head of all channels, no norm before
   and no sum after, q, k and v from one layer without bias. */
static lgv_id linear_attention(lgv_net *n, lgv_id x, int64_t channels)
{
    lgv_graph_block_begin(n->g);
    lgv_id w = lgv_param(n->g, "to_qkv.weight", 2, (int64_t[]){3 * channels, channels});
    lgv_id h = lgv_net_module(n, "to_qkv", lgv_linear(n->g, x, w, LGV_NONE));
    h = lgv_linear_attention(n->g, lgv_slice(n->g, h, 0, channels),
                             lgv_slice(n->g, h, channels, channels),
                             lgv_slice(n->g, h, 2 * channels, channels));
    lgv_id y = lgv_net_module(n, "", lgv_net_linear(n, "to_out", h, channels, channels));
    lgv_graph_block_end(n->g);
    return y;
}

lgv_id lgv_net_attention(lgv_net *n, lgv_id x, const lgv_attention_plan *a)
{
    if (n->variant.linear_attention) return linear_attention(n, x, a->channels);
    int64_t inner = (int64_t)a->heads * a->head_dim;
    lgv_graph_block_begin(n->g);
    lgv_id h = a->groups ? lgv_net_norm(n, "group_norm", x, a->channels, a->groups) : x;
    lgv_id q = lgv_net_linear(n, "to_q", h, a->channels, inner);
    lgv_id k = lgv_net_linear(n, "to_k", h, a->channels, inner);
    lgv_id v = lgv_net_linear(n, "to_v", h, a->channels, inner);
    h = lgv_attention(n->g, q, k, v, a->heads, 1 / sqrt((double)a->head_dim));
    h = lgv_net_linear(n, "to_out.0", h, inner, a->channels);
    lgv_id y = lgv_net_module(n, "", scale_by(n, lgv_add(n->g, x, h), a->scale));
    lgv_graph_block_end(n->g);
    return y;
}
