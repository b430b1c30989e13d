/* unet2d.h - the configuration of diffusers' UNet2DModel (https://github.com/huggingface/diffusers,
   models/unets/unet_2d.py; the network of arXiv 2006.11239 and arXiv 2011.13456).
   Every field of its config.json stands here under its own name; where None is legal there, 0
   stands for it unless said otherwise. */
#ifndef LANGEVIN_UNET2D_H
#define LANGEVIN_UNET2D_H

#include <stddef.h>
#include <stdint.h>

#include "condition.h"
#include "status.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { LGV_UNET2D_LEVELS = 16 }; /* most entries of block_out_channels */

typedef enum lgv_time_embedding {
    LGV_TIME_POSITIONAL, /* sines and cosines of t */
    LGV_TIME_FOURIER,    /* of ln t at fixed random frequencies; t is a noise level, the output is
                            divided by it */
    LGV_TIME_LEARNED     /* a table of num_train_timesteps rows */
} lgv_time_embedding;

/* XDownBlock2D and XUpBlock2D (ResnetDownsampleBlock2D and ResnetUpsampleBlock2D for RESNET). */
typedef enum lgv_unet2d_block {
    LGV_BLOCK_PLAIN,
    LGV_BLOCK_ATTN,
    LGV_BLOCK_RESNET, /* resampling by a residual block */
    LGV_BLOCK_SKIP,   /* NCSN++: a pyramid of the picture runs beside (arXiv 2011.13456, app. H) */
    LGV_BLOCK_ATTN_SKIP,
    LGV_BLOCK_K /* of k-diffusion */
} lgv_unet2d_block;

typedef enum lgv_class_kind {
    LGV_CLASS_NONE,
    LGV_CLASS_TABLE,    /* labels are rows of a table of num_class_embeds */
    LGV_CLASS_TIMESTEP, /* labels are numbers, embedded as timesteps are */
    LGV_CLASS_IDENTITY  /* the caller gives the vector [N, time_embedding_dim] itself */
} lgv_class_kind;

typedef struct lgv_unet2d_config {
    int sample_height,
        sample_width; /* sample_size; 0: None (any size; nothing to sample by default) */
    int in_channels, out_channels;
    int center_input_sample; /* the network sees 2x - 1 */
    lgv_time_embedding time_embedding_type;
    int time_embedding_dim; /* 0: 4 * block_out_channels[0] */
    double freq_shift;
    int flip_sin_to_cos;
    int levels; /* entries of the three lists */
    lgv_unet2d_block down_block_types[LGV_UNET2D_LEVELS], up_block_types[LGV_UNET2D_LEVELS];
    int block_out_channels[LGV_UNET2D_LEVELS];
    int mid_block;        /* mid_block_type: 0 None, 1 "UNetMidBlock2D" */
    int layers_per_block; /* up blocks have one more */
    double mid_block_scale_factor;
    int downsample_padding; /* 1: all around; 0: one row and column, at the bottom and right */
    int downsample_resnet,
        upsample_resnet; /* downsample_type, upsample_type: 1 "resnet", 0 "conv" */
    double dropout;
    int act_fn;               /* lgv_act_kind (ops.h): silu (or swish), mish, gelu, relu */
    int attention_head_dim;   /* channels per head; 0: one head */
    int norm_num_groups;      /* 0: None, legal when all blocks are Skip or K blocks */
    int attn_norm_num_groups; /* of the mid block's attention; 0: None */
    double norm_eps;
    int scale_shift;                /* resnet_time_scale_shift: 1 "scale_shift", 0 "default" */
    int add_attention;              /* in the mid block */
    lgv_class_kind class_embedding; /* class_embed_type and num_class_embeds together */
    int num_class_embeds;
    int num_train_timesteps; /* for LGV_TIME_LEARNED */
    /* Ours, "_condition" and "_condition_scale" in config.json, which diffusers passes over: in_channels counts the picture's
       channels and behind them the condition's (condition.h). */
    lgv_condition condition;
    int condition_scale; /* how many times smaller the pictures are that a super-resolution network enlarges */
} lgv_unet2d_config;

/* diffusers' defaults: channels 224, 448, 672, 896, attention at all levels but the first. */
LGV_API void lgv_unet2d_config_default(lgv_unet2d_config *config);
/* LGV_OK when the network can be built and run; else a sentence that names the field. diffusers
   builds some networks that it cannot run; they are refused here. */
LGV_API lgv_status lgv_unet2d_config_check(const lgv_unet2d_config *config, lgv_error *err);
/* From the text of a config.json (name is used in messages) or from such a file; missing fields get
   diffusers' defaults, unknown ones are ignored as there. Checked. */
LGV_API lgv_status lgv_unet2d_config_parse(const char *text, size_t size, const char *name,
                                           lgv_unet2d_config *out, lgv_error *err);
LGV_API lgv_status lgv_unet2d_config_load(const char *path, lgv_unet2d_config *out, lgv_error *err);
/* Writes config.json with every field, as diffusers does; atomic. */
LGV_API lgv_status lgv_unet2d_config_save(const lgv_unet2d_config *config, const char *path,
                                          lgv_error *err);

/* Height and width must be multiples of this: 2^(levels-1). */
LGV_API int lgv_unet2d_divisor(const lgv_unet2d_config *config);
/* Width of the time embedding and of class vectors. */
LGV_API int lgv_unet2d_embedding(const lgv_unet2d_config *config);

#ifdef __cplusplus
}
#endif
#endif
