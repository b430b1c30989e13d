/* dit.h - the configuration of a diffusion transformer (DiT, arXiv 2212.09748), as facebookresearch/DiT and diffusers'
   DiTTransformer2DModel have it. Fields stand under the names of diffusers' config.json; those that only we
   write are marked, and diffusers ignores them. */
#ifndef LANGEVIN_DIT_H
#define LANGEVIN_DIT_H

#include <stddef.h>

#include "status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct lgv_dit_config {
    int sample_height, sample_width; /* sample_size; one number when they are equal */
    int in_channels;
    int out_channels; /* twice in_channels: the network predicts the variance too */
    int patch_size;
    int num_layers, num_attention_heads, attention_head_dim; /* width: heads * attention_head_dim */
    int attention_bias;                                      /* of queries, keys and values */
    int activation_fn;                                       /* LGV_ACT_GELU_TANH or LGV_ACT_GELU */
    double dropout;
    double norm_eps;         /* of the norm before the MLP; the others have 1e-6 */
    int num_embeds_ada_norm; /* classes; 0 (ours): the network has none */
    /* Ours from here on. */
    double class_dropout_prob; /* above 0: the table has one row more, of the label for no class */
    int shared_embedding;      /* one embedding for all blocks (the original), not one in each */
    double freq_shift;         /* of the timestep's frequencies: 1 as diffusers has it, 0 the original */
} lgv_dit_config;

/* diffusers' defaults: DiT-XL/2 for 32x32 latents of 4 channels, 1000 classes. */
LGV_API void lgv_dit_config_default(lgv_dit_config *config);
/* LGV_OK when the network can be built; else a sentence that names the field. */
LGV_API lgv_status lgv_dit_config_check(const lgv_dit_config *config, lgv_error *err);

#ifdef __cplusplus
}
#endif
#endif
