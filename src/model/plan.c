/* plan.c - channels, groups and heads of every block of a UNet2DModel configuration.
   The rules are diffusers' (models/unets/unet_2d_blocks.py), oddities included: checkpoints depend
   on them. */
#include "parts.h"

#include <math.h>

static const char *const names[2][6] = {
    {"DownBlock2D", "AttnDownBlock2D", "ResnetDownsampleBlock2D", "SkipDownBlock2D",
     "AttnSkipDownBlock2D", "KDownBlock2D"},
    {"UpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D", "SkipUpBlock2D", "AttnSkipUpBlock2D",
     "KUpBlock2D"},
};

const char *lgv_block_name(lgv_unet2d_block kind, bool up)
{
    return names[up][kind];
}

static int at_most_32(int n)
{
    return n < 32 ? n : 32;
}

void lgv_plan_down(const lgv_unet2d_config *c, lgv_unet2d_variant v, int level, lgv_stage_plan *s)
{
    *s = (lgv_stage_plan){
        .kind = c->down_block_types[level],
        .in = level > 0 ? c->block_out_channels[level - 1] : lgv_unet2d_first(c, v),
        .out = c->block_out_channels[level],
        .layers = c->layers_per_block,
        .resample = level < c->levels - 1,
    };
    s->resnet_sampler =
        s->kind == LGV_BLOCK_RESNET || (s->kind == LGV_BLOCK_ATTN && c->downsample_resnet);
}

void lgv_plan_up(const lgv_unet2d_config *c, lgv_unet2d_variant v, int level, lgv_stage_plan *s)
{
    int last = c->levels - 1;
    const int *channels = c->block_out_channels;
    *s = (lgv_stage_plan){
        .kind = c->up_block_types[level],
        .up = true,
        .in = level < last ? channels[last - level - 1] : lgv_unet2d_first(c, v),
        .out = channels[last - level],
        .previous = channels[level > 0 ? last - level + 1 : last],
        .layers = c->layers_per_block + 1,
        .resample = level < last,
    };
    if (s->kind == LGV_BLOCK_K) s->layers--; /* it takes one skip for all its layers */
    s->resnet_sampler =
        s->kind == LGV_BLOCK_RESNET || (s->kind == LGV_BLOCK_ATTN && c->upsample_resnet);
}

void lgv_plan_resnet(const lgv_unet2d_config *c, const lgv_stage_plan *s, int layer,
                     lgv_resnet_plan *r)
{
    bool first = layer == 0, last = layer == s->layers - 1;
    int arriving = first ? (s->up ? s->previous : s->in) : s->out;
    int skip = !s->up ? 0 : last ? s->in : s->out;
    *r = (lgv_resnet_plan){
        .in = arriving + skip, .out = s->out, .scale = 1, .scale_shift = c->scale_shift};
    if (s->kind == LGV_BLOCK_K) {
        if (s->up) {
            r->in = first ? 2 * s->out : s->out;
            r->out = last ? s->in : s->out;
        }
        r->ada = true;
        r->groups = r->in / 32;
        r->groups_out =
            s->out / 32; /* of the stage's width, also where the last layer is narrower */
    } else if (lgv_block_has_skip(s->kind)) {
        /* AttnSkipUpBlock2D divides only the skip's channels by four; its checkpoints need that. */
        bool quirk = s->up && s->kind == LGV_BLOCK_ATTN_SKIP;
        r->groups = at_most_32(quirk ? arriving + skip / 4 : r->in / 4);
        r->groups_out = at_most_32(s->out / 4);
        r->scale = sqrt(2.0);
    } else {
        r->groups = r->groups_out = c->norm_num_groups;
    }
    r->shortcut = r->in != r->out;
}

void lgv_plan_sampler(const lgv_unet2d_config *c, const lgv_stage_plan *s, lgv_resnet_plan *r)
{
    bool fir = lgv_block_has_skip(s->kind);
    *r = (lgv_resnet_plan){
        .in = s->out,
        .out = s->out,
        .groups = fir ? at_most_32(s->out / 4) : c->norm_num_groups,
        .scale = fir ? sqrt(2.0) : 1,
        .scale_shift = c->scale_shift,
        .shortcut = fir,
    };
    r->groups_out = r->groups;
    if (s->up)
        r->resize = fir ? LGV_RESIZE_UP_FIR : LGV_RESIZE_UP;
    else
        r->resize = fir ? LGV_RESIZE_DOWN_FIR : LGV_RESIZE_DOWN;
}

static void heads(const lgv_unet2d_config *c, lgv_attention_plan *a)
{
    a->head_dim = c->attention_head_dim > 0 ? c->attention_head_dim : a->channels;
    a->heads =
        a->channels / a->head_dim; /* the rest of the channels has no head: to_q is narrower then */
}

bool lgv_plan_attention(const lgv_unet2d_config *c, const lgv_stage_plan *s, lgv_attention_plan *a)
{
    if (s->kind != LGV_BLOCK_ATTN && s->kind != LGV_BLOCK_ATTN_SKIP) return false;
    bool skip = s->kind == LGV_BLOCK_ATTN_SKIP;
    *a = (lgv_attention_plan){.channels = s->out,
                              .groups = skip ? 32 : c->norm_num_groups,
                              .scale = skip ? sqrt(2.0) : 1};
    heads(c, a);
    return true;
}

static int mid_groups(const lgv_unet2d_config *c)
{
    return c->norm_num_groups ? c->norm_num_groups
                              : at_most_32(c->block_out_channels[c->levels - 1] / 4);
}

void lgv_plan_mid_resnet(const lgv_unet2d_config *c, lgv_resnet_plan *r)
{
    int channels = c->block_out_channels[c->levels - 1], groups = mid_groups(c);
    *r = (lgv_resnet_plan){.in = channels,
                           .out = channels,
                           .groups = groups,
                           .groups_out = groups,
                           .scale = c->mid_block_scale_factor,
                           .scale_shift = c->scale_shift};
}

void lgv_plan_mid_attention(const lgv_unet2d_config *c, lgv_attention_plan *a)
{
    /* With scale_shift and no attn_norm_num_groups this attention has no norm at all. */
    int groups = c->attn_norm_num_groups ? c->attn_norm_num_groups
                 : c->scale_shift        ? 0
                                         : mid_groups(c);
    *a = (lgv_attention_plan){.channels = c->block_out_channels[c->levels - 1],
                              .groups = groups,
                              .scale = c->mid_block_scale_factor};
    heads(c, a);
}

int lgv_plan_out_groups(const lgv_unet2d_config *c)
{
    return c->norm_num_groups ? c->norm_num_groups : at_most_32(c->block_out_channels[0] / 4);
}
