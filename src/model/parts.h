/* parts.h - the inside of the U-Net builder: what each block of a configuration consists of, and
   the functions that emit it. Internal to src/model. Channel counts and group counts are computed
   in one place (plan of a stage) and used by both the check of a configuration and the builder, so
   that what passes the check can be built. */
#ifndef LGV_MODEL_PARTS_H
#define LGV_MODEL_PARTS_H

#include "kind.h"
#include "langevin/ops.h"

/* What `Model` of CompVis may have and no UNet2DModel has (compvis.c). */
typedef struct lgv_unet2d_variant {
    bool linear_attention; /* y = to_out(q (softmax over positions of k)^T v), instead of a norm, softmax(q k^T) v and a sum */
    bool pooled;           /* averages of 2x2 pixels down, nearest neighbours up, without convolutions */
    bool wide_shortcut;    /* 3x3 convolutions where channels change, not 1x1 */
    int first_channels;    /* of the first convolution and of the timestep's sines; 0: the first level's */
} lgv_unet2d_variant;

static inline int lgv_unet2d_first(const lgv_unet2d_config *c, lgv_unet2d_variant v)
{
    return v.first_channels ? v.first_channels : c->block_out_channels[0];
}

/* --- Plans of blocks (plan.c) --- */
typedef enum lgv_resize {
    LGV_RESIZE_NONE,
    LGV_RESIZE_UP,
    LGV_RESIZE_DOWN,
    LGV_RESIZE_UP_FIR,
    LGV_RESIZE_DOWN_FIR
} lgv_resize;

typedef struct lgv_resnet_plan {
    int in, out;
    int groups, groups_out; /* of the two norms */
    double scale;           /* the sum of branch and shortcut is divided by it */
    bool scale_shift; /* the time embedding scales and shifts after norm2 instead of being added
                         before */
    bool shortcut;    /* 1x1 convolution on the shortcut */
    bool ada; /* ResnetBlockCondNorm2D: norms without parameters, both modulated by the embedding */
    lgv_resize resize;
} lgv_resnet_plan;

typedef struct lgv_attention_plan {
    int channels, heads, head_dim;
    int groups; /* 0: no norm */
    double scale;
} lgv_attention_plan;

/* A down, mid or up block of the network. */
typedef struct lgv_stage_plan {
    lgv_unet2d_block kind;
    bool up;
    int in, out;   /* down: channels in and out; up: in is the channels of the deepest skip, out its
                      own */
    int previous;  /* up: channels that arrive */
    int layers;    /* resnets */
    bool resample; /* all but the last level */
    bool resnet_sampler; /* resampling by a residual block */
} lgv_stage_plan;

void lgv_plan_down(const lgv_unet2d_config *c, lgv_unet2d_variant v, int level, lgv_stage_plan *s);
void lgv_plan_up(const lgv_unet2d_config *c, lgv_unet2d_variant v, int level, lgv_stage_plan *s);
void lgv_plan_resnet(const lgv_unet2d_config *c, const lgv_stage_plan *s, int layer,
                     lgv_resnet_plan *r);
/* The residual block that resamples (resnet_sampler, or a Skip block's resnet_down and resnet_up).
 */
void lgv_plan_sampler(const lgv_unet2d_config *c, const lgv_stage_plan *s, lgv_resnet_plan *r);
/* False: the stage has no attention. */
bool lgv_plan_attention(const lgv_unet2d_config *c, const lgv_stage_plan *s, lgv_attention_plan *a);
void lgv_plan_mid_resnet(const lgv_unet2d_config *c, lgv_resnet_plan *r);
void lgv_plan_mid_attention(const lgv_unet2d_config *c, lgv_attention_plan *a);
int lgv_plan_out_groups(const lgv_unet2d_config *c);
static inline bool lgv_block_has_skip(lgv_unet2d_block kind)
{
    return kind == LGV_BLOCK_SKIP || kind == LGV_BLOCK_ATTN_SKIP;
}
/* "AttnDownBlock2D" ... */
const char *lgv_block_name(lgv_unet2d_block kind, bool up);

/* --- Blocks (blocks.c) --- */
typedef struct lgv_net {
    lgv_graph *g;
    const lgv_unet2d_config *c;
    lgv_unet2d_variant variant;
    bool training;
    lgv_id emb;             /* [N,E] time (and class) embedding */
    lgv_id emb_act;         /* act_fn(emb), shared by all residual blocks */
    lgv_model_stage *stage; /* NULL: no trace wanted */
    int n_stages, cap_stages;
} lgv_net;

/* Each builds a module named `name` in the open scope from [N,H,W,in] and notes its output. */
lgv_id lgv_net_conv(lgv_net *n, const char *name, lgv_id x, int64_t in, int64_t out, int kernel,
                    int stride, const int pad[4], bool bias);
lgv_id lgv_net_linear(lgv_net *n, const char *name, lgv_id x, int64_t in, int64_t out);
lgv_id lgv_net_norm(lgv_net *n, const char *name, lgv_id x, int64_t channels, int groups);
lgv_id lgv_net_resnet(lgv_net *n, lgv_id x, const lgv_resnet_plan *r); /* module = the open scope */
lgv_id lgv_net_attention(lgv_net *n, lgv_id x,
                         const lgv_attention_plan *a); /* module = the open scope */
lgv_id lgv_net_mean(lgv_net *n, lgv_id x); /* [N,H,W,C] -> [N,C], over positions (unet2d.c) */
/* Notes the value as the output of module `name` ("" the open scope itself) and returns it. */
lgv_id lgv_net_module(lgv_net *n, const char *name, lgv_id v);

/* --- Stages (stages.c) --- */
/* The skips: outputs of the down path, consumed from the end by the up path. */
typedef struct lgv_skips {
    lgv_id *value;
    int count, capacity;
} lgv_skips;
/* picture: NCSN++'s pyramid; LGV_NONE when there is none. */
lgv_id lgv_net_down(lgv_net *n, int level, lgv_id x, lgv_skips *skips, lgv_id *picture);
lgv_id lgv_net_mid(lgv_net *n, lgv_id x);
lgv_id lgv_net_up(lgv_net *n, int level, lgv_id x, lgv_skips *skips, lgv_id *picture);
/* Adds a stage to the trace. */
void lgv_net_stage(lgv_net *n, lgv_id v, const char *name, const char *fmt, ...) LGV_PRINTF(4, 5);

/* --- The network (unet2d.c) --- */
lgv_status lgv_unet2d_build(const lgv_unet2d_config *c, lgv_unet2d_variant variant, lgv_graph *g,
                            const lgv_model_inputs *inputs, lgv_model_stage *stages, int *n_stages,
                            lgv_id *out, lgv_error *err);
/* The encoder half and its mean over positions, or with `attention` what attention pooling makes of them; with labels the classifier's norm before and its logits, else
   *logits is LGV_NONE. */
lgv_status lgv_unet2d_encode(const lgv_unet2d_config *c, lgv_unet2d_variant variant, int labels,
                             bool attention, lgv_graph *g, const lgv_model_inputs *inputs,
                             lgv_model_stage *stages, int *n_stages, lgv_id *features,
                             lgv_id *logits, lgv_error *err);

/* --- Configuration (config.c) --- */
/* From a config.json of either class. Checked. */
lgv_status lgv_unet2d_config_read(const lgv_json *j, lgv_unet2d_config *out, lgv_error *err);
json_t *lgv_unet2d_config_json(const lgv_unet2d_config *config); /* NULL when out of memory */

/* --- What the two kinds of U-Net have in common (unet2d.c) --- */
void lgv_unet2d_resize(lgv_model *m, int height, int width);
lgv_status lgv_unet2d_check(const lgv_model *m, lgv_error *err);
lgv_status lgv_unet2d_variant_check(const lgv_unet2d_config *c, lgv_unet2d_variant v,
                                    lgv_error *err); /* check.c */
void lgv_unet2d_describe(lgv_model *m);
int lgv_unet2d_picture(const lgv_unet2d_config *c); /* channels of the picture; 0: none fit */
void lgv_unet2d_divisor_reason(const lgv_model *m, char text[64]);
lgv_init_rule lgv_unet2d_init(const lgv_model *m, const lgv_model_param *p, int64_t *fan_in);
const char *lgv_unet2d_old_name(const char *name, char *text, size_t size);
/* presets.c */
const char *lgv_unet2d_preset(int i, const char **summary);
/* Size, channels and classes: the options', else the preset's. */
void lgv_unet2d_preset_options(const lgv_model_options *options, int resolution,
                               lgv_unet2d_config *c);
lgv_status lgv_unet2d_from_preset(int i, const lgv_model_options *options, lgv_model *m,
                                  lgv_error *err);

#endif
