/* stages.c - the down, mid and up blocks of UNet2DModel, put together from residual blocks,
   attention and samplers as models/unets/unet_2d_blocks.py of diffusers does. */
#include <stdio.h>

#include "graph/node.h"
#include "parts.h"

void lgv_net_stage(lgv_net *n, lgv_id v, const char *name, const char *fmt, ...)
{
    if (!n->stage || n->n_stages >= n->cap_stages) return;
    lgv_model_stage *s = &n->stage[n->n_stages++];
    snprintf(s->name, sizeof s->name, "%s", name);
    va_list args;
    va_start(args, fmt);
    vsnprintf(s->title, sizeof s->title, fmt, args);
    va_end(args);
    int64_t d[LGV_MAX_RANK];
    s->rank = lgv_shape(n->g, v, d);
    for (int i = 0; i < LGV_MAX_RANK; i++) s->dim[i] = d[i];
    if (s->rank == 4) { /* [N,H,W,C] as N,C,H,W */
        s->dim[1] = d[3];
        s->dim[2] = d[1];
        s->dim[3] = d[2];
    }
}

static void skip_push(lgv_net *n, lgv_skips *s, lgv_id v)
{
    if (s->count < s->capacity)
        s->value[s->count++] = v;
    else
        lgv_graph_fail(n->g, LGV_ERR_ARGUMENT,
                       "the network has more skip connections than planned");
}

static lgv_id skip_pop(lgv_net *n, lgv_skips *s)
{
    if (s->count > 0) return s->value[--s->count];
    return lgv_graph_fail(n->g, LGV_ERR_ARGUMENT,
                          "the up path takes more skip connections than the down path makes");
}

static lgv_id resnet_at(lgv_net *n, const lgv_stage_plan *s, int layer, lgv_id x)
{
    lgv_resnet_plan r;
    lgv_plan_resnet(n->c, s, layer, &r);
    lgv_graph_push(n->g, "resnets.%d", layer);
    x = lgv_net_resnet(n, x, &r);
    lgv_graph_pop(n->g);
    return x;
}

static lgv_id attention_at(lgv_net *n, const lgv_stage_plan *s, int layer, lgv_id x)
{
    lgv_attention_plan a;
    if (!lgv_plan_attention(n->c, s, &a)) return x;
    lgv_graph_push(n->g, "attentions.%d", layer);
    x = lgv_net_attention(n, x, &a);
    lgv_graph_pop(n->g);
    return x;
}

static lgv_id sampler_resnet(lgv_net *n, const char *name, const lgv_stage_plan *s, lgv_id x)
{
    lgv_resnet_plan r;
    lgv_plan_sampler(n->c, s, &r);
    lgv_graph_push(n->g, "%s", name);
    x = lgv_net_resnet(n, x, &r);
    lgv_graph_pop(n->g);
    return x;
}

static lgv_id weightless(lgv_net *n, const char *name, lgv_id x, lgv_resample_kind kind)
{
    lgv_graph_push(n->g, "%s", name);
    x = lgv_net_module(n, "", lgv_resample(n->g, x, kind));
    lgv_graph_pop(n->g);
    return x;
}

/* --- Down --- */
static lgv_id conv_down(lgv_net *n, const lgv_stage_plan *s, lgv_id x)
{
    /* Padding 0 means one row and one column of zeros, at the bottom and right (downsampling.py).
     */
    static const int pads[2][4] = {{0, 0, 1, 1}, {1, 1, 1, 1}};
    if (n->variant.pooled) return weightless(n, "downsamplers.0", x, LGV_DOWN_AVERAGE);
    lgv_graph_push(n->g, "downsamplers.0");
    x = lgv_net_conv(n, "conv", x, s->out, s->out, 3, 2, pads[n->c->downsample_padding], true);
    x = lgv_net_module(n, "", x);
    lgv_graph_pop(n->g);
    return x;
}

/* NCSN++: the picture is halved beside the network and added through a 1x1 convolution. */
static lgv_id skip_down(lgv_net *n, const lgv_stage_plan *s, lgv_id x, lgv_id *picture)
{
    x = sampler_resnet(n, "resnet_down", s, x);
    *picture = weightless(n, "downsamplers.0", *picture, LGV_DOWN_FIR);
    return lgv_add(n->g, lgv_net_conv(n, "skip_conv", *picture, 3, s->out, 1, 1, NULL, true), x);
}

lgv_id lgv_net_down(lgv_net *n, int level, lgv_id x, lgv_skips *skips, lgv_id *picture)
{
    lgv_stage_plan s;
    char name[32];
    lgv_plan_down(n->c, n->variant, level, &s);
    snprintf(name, sizeof name, "down_blocks.%d", level);
    lgv_graph_push(n->g, "%s", name);
    for (int i = 0; i < s.layers; i++) {
        x = attention_at(n, &s, i, resnet_at(n, &s, i, x));
        skip_push(n, skips, x);
    }
    lgv_net_stage(n, x, name, s.resample ? "down %d (%s), before down-sampling" : "down %d (%s)",
                  level, lgv_block_name(s.kind, false));
    if (s.resample) {
        if (lgv_block_has_skip(s.kind))
            x = skip_down(n, &s, x, picture);
        else if (s.kind == LGV_BLOCK_K)
            x = weightless(n, "downsamplers.0", x, LGV_DOWN_FIR_REFLECT);
        else if (s.resnet_sampler)
            x = sampler_resnet(n, "downsamplers.0", &s, x);
        else
            x = conv_down(n, &s, x);
        if (s.kind != LGV_BLOCK_K) skip_push(n, skips, x);
    }
    lgv_graph_pop(n->g);
    return x;
}

/* --- Mid --- */
lgv_id lgv_net_mid(lgv_net *n, lgv_id x)
{
    lgv_resnet_plan r;
    lgv_attention_plan a;
    lgv_plan_mid_resnet(n->c, &r);
    lgv_plan_mid_attention(n->c, &a);
    lgv_graph_push(n->g, "mid_block");
    lgv_graph_push(n->g, "resnets.0");
    x = lgv_net_resnet(n, x, &r);
    lgv_graph_pop(n->g);
    if (n->c->add_attention) {
        lgv_graph_push(n->g, "attentions.0");
        x = lgv_net_attention(n, x, &a);
        lgv_graph_pop(n->g);
    }
    lgv_graph_push(n->g, "resnets.1");
    x = lgv_net_resnet(n, x, &r);
    lgv_graph_pop(n->g);
    x = lgv_net_module(n, "", x);
    lgv_graph_pop(n->g);
    return x;
}

/* --- Up --- */
static lgv_id conv_up(lgv_net *n, const lgv_stage_plan *s, lgv_id x)
{
    if (n->variant.pooled) return weightless(n, "upsamplers.0", x, LGV_UP_NEAREST);
    lgv_graph_push(n->g, "upsamplers.0");
    x = lgv_net_conv(n, "conv", lgv_resample(n->g, x, LGV_UP_NEAREST), s->out, s->out, 3, 1, NULL,
                     true);
    x = lgv_net_module(n, "", x);
    lgv_graph_pop(n->g);
    return x;
}

/* NCSN++: each level adds what it knows of the picture. resnet_up and skip_conv's parameters come
   before skip_norm because that is the order in which diffusers makes them. */
static lgv_id skip_up(lgv_net *n, const lgv_stage_plan *s, lgv_id x, lgv_id *picture)
{
    if (*picture != LGV_NONE) *picture = weightless(n, "upsampler", *picture, LGV_UP_FIR);
    if (!s->resample) return x;
    lgv_id y = sampler_resnet(n, "resnet_up", s, x);
    int groups = s->out / 4 < 32 ? s->out / 4 : 32;
    lgv_param(n->g, "skip_conv.weight", 4, (int64_t[]){3, s->out, 3, 3});
    lgv_param(n->g, "skip_conv.bias", 1, (int64_t[]){3});
    lgv_id h = lgv_net_norm(n, "skip_norm", x, s->out, groups);
    h = lgv_net_module(n, "act", lgv_act(n->g, h, LGV_ACT_SILU));
    h = lgv_net_conv(n, "skip_conv", h, s->out, 3, 3, 1, NULL, true);
    *picture = *picture == LGV_NONE ? h : lgv_add(n->g, *picture, h);
    return y;
}

lgv_id lgv_net_up(lgv_net *n, int level, lgv_id x, lgv_skips *skips, lgv_id *picture)
{
    lgv_stage_plan s;
    char name[32];
    lgv_plan_up(n->c, n->variant, level, &s);
    snprintf(name, sizeof name, "up_blocks.%d", level);
    lgv_graph_push(n->g, "%s", name);
    bool once = s.kind == LGV_BLOCK_ATTN_SKIP; /* one attention, after all resnets */
    for (int i = 0; i < s.layers; i++) {
        if (s.kind != LGV_BLOCK_K || i == 0) x = lgv_concat(n->g, x, skip_pop(n, skips));
        x = resnet_at(n, &s, i, x);
        if (!once) x = attention_at(n, &s, i, x);
    }
    if (once) x = attention_at(n, &s, 0, x);
    /* A K block concatenates its deepest skip only; the others of its level go unused. */
    for (int i = 1; s.kind == LGV_BLOCK_K && i < s.layers; i++) skip_pop(n, skips);
    if (lgv_block_has_skip(s.kind)) {
        x = skip_up(n, &s, x, picture);
    } else if (s.resample) {
        if (s.kind == LGV_BLOCK_K)
            x = weightless(n, "upsamplers.0", x, LGV_UP_FIR_REFLECT);
        else if (s.resnet_sampler)
            x = sampler_resnet(n, "upsamplers.0", &s, x);
        else
            x = conv_up(n, &s, x);
    }
    if (!lgv_block_has_skip(s.kind)) x = lgv_net_module(n, "", x);
    lgv_net_stage(n, x, name, "up %d (%s)", level, lgv_block_name(s.kind, true));
    lgv_graph_pop(n->g);
    return x;
}
