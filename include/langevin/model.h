/* model.h - a network described by a configuration, wherever that came from: a diffusers folder, a
   training output or checkpoint of ours, a config.json, or a preset.
   A model holds no weights: it builds graphs, and moves weights between files and a store whose
   buffers were declared (lgv_store_declare) from a graph it built. */
#ifndef LANGEVIN_MODEL_H
#define LANGEVIN_MODEL_H

#include <stdint.h>

#include "dit.h"
#include "graph.h"
#include "plan.h"
#include "rng.h"
#include "unet2d.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct lgv_model lgv_model;

/* What presets leave open. For a model that comes from a file, resolution replaces its sample size,
   and channels and classes, when given, must be the file's (a U-Net without weights and classes gets a table). */
typedef struct lgv_model_options {
    int channels;   /* in and out; 0: 3 (or the file's) */
    int resolution; /* height and width; 0: the preset's (or the file's) */
    int classes;    /* rows of the class table, the null label included; 0: the preset's (of a U-Net none, of DiT 1001) or
                       the file's; -1: none (or the file's) */
    lgv_condition condition; /* of a new network; or the file's */
    int condition_scale;     /* of super-resolution */
    int learned_variance; /* 1: twice the channels out, the second half a variance (arXiv 2102.09672, sec. 3.1);
                             0: as many as in (or the file's) */
} lgv_model_options;

/* what, in this order of preference:
   - a diffusers pipeline folder (model_index.json, the network in unet/), also with everything in
   one folder; a folder with one network (config.json); the output of `langevin train`, or one of
   its checkpoint-N folders (unet/, unet_ema/);
   - a config.json file (under any name): no weights;
   - a preset: see lgv_model_presets; '_', '/' and '-', upper and lower case are the same.
   options may be NULL. A name that is none of these is LGV_ERR_ARGUMENT and the text lists the
   presets. */
LGV_API lgv_status lgv_model_open(const char *what, const lgv_model_options *options,
                                  lgv_model **out, lgv_error *err);
LGV_API lgv_status lgv_model_new_preset(const char *name, const lgv_model_options *options,
                                        lgv_model **out, lgv_error *err);
LGV_API lgv_status lgv_model_new_unet2d(const lgv_unet2d_config *config, lgv_model **out,
                                        lgv_error *err);
LGV_API lgv_status lgv_model_new_dit(const lgv_dit_config *config, lgv_model **out,
                                     lgv_error *err);
/* A classifier: the encoder half of a UNet2DModel (first convolution, down blocks, middle), then GroupNorm, SiLU, the
   mean over positions (the features) and one linear layer to `classes` logits. config's up blocks and out_channels do not
   matter. names may be NULL ("0", "1" ...); copied. Its config.json is that of a UNet2DModel with _class_name
   "UNet2DClassifier" and id2label. */
LGV_API lgv_status lgv_model_new_classifier(const lgv_unet2d_config *config, int classes,
                                            const char *const *names, lgv_model **out,
                                            lgv_error *err);
/* One for pictures with noise, told its timestep, whose gradient guides sampling (arXiv 2105.05233, sec. 4): attention over
   the positions (AttentionPool2d of guided-diffusion) in the place of their mean, so pictures have one size, config's
   sample size. Its config.json says "pool": "attention" and "noisy": true. */
LGV_API lgv_status lgv_model_new_noisy_classifier(const lgv_unet2d_config *config, int classes,
                                                  const char *const *names, lgv_model **out,
                                                  lgv_error *err);
/* What `--noisy` takes when none is named: that below, with attention at the lowest resolution. */
LGV_API void lgv_noisy_classifier_config_default(int resolution, int channels,
                                                 lgv_unet2d_config *out);
/* The classifier `langevin train --task classifier` takes when none is named: channels 32, 64, 128 (and 128 more for
   each doubling above 32 pixels), no attention. */
LGV_API void lgv_classifier_config_default(int resolution, int channels, lgv_unet2d_config *out);
LGV_API void lgv_model_free(lgv_model *model);

/* Name of preset i ("unet-32" ...), NULL beyond the last; *summary (may be NULL): one line about
 * it. */
LGV_API const char *lgv_model_presets(int i, const char **summary);

/* Everything is owned by the model. */
typedef struct lgv_model_info {
    const char *class_name; /* "UNet2DModel", "UNet2DClassifier", "DiTTransformer2DModel" */
    const char *component;  /* its folder in a pipeline: "unet", "transformer" */
    const char *written_as; /* the class of the pipeline around it when it is trained; NULL: none */
    const char *source;     /* what it was opened from */
    int from_preset;        /* source is a preset's name */
    int height, width;      /* sample size, 0 when the configuration leaves it open */
    int in_channels, out_channels;
    int picture_channels;    /* in_channels without those of the condition */
    int learned_variance;    /* 1: twice as many channels out, the second half a variance */
    lgv_condition condition; /* what else the network sees */
    int condition_scale;
    int divisor; /* height and width must be multiples of it */
    lgv_time_embedding time_embedding;
    int num_train_timesteps; /* rows of a learned time embedding, else 0 */
    lgv_class_kind class_kind;
    int class_count;          /* LGV_CLASS_TABLE: labels are 0 .. class_count-1 */
    int null_label;           /* the label that stands for no class; -1: none */
    int class_names;          /* how many labels have names: 0 .. class_names-1; 0: none is known */
    const char *const *class_name_of; /* [class_names] */
    int class_width;          /* LGV_CLASS_IDENTITY: length of the class vector */
    int labels;               /* classes a classifier tells apart; 0: the network is none */
    const char *const *label; /* their names */
    int noisy;                /* a classifier of pictures with noise */
    int fixed_size;           /* pictures are height x width, no others */
    int features;             /* length of lgv_model_features' vectors */
    double dropout;
    int tensors;                /* parameters by name; frozen ones included */
    int64_t parameters;         /* their elements */
    const char *weights_raw;    /* folder with a weights file; NULL: none */
    const char *weights_ema;    /* the same of the averaged weights; NULL: none (weights_raw may be
                                   averages nobody named) */
    const char *scheduler;      /* folder or file's folder of scheduler_config.json; NULL: none */
    const char *pipeline;       /* pipeline folder (where model_index.json is); NULL: none */
    const char *pipeline_class; /* "DDPMPipeline"; NULL: unknown */
} lgv_model_info;
LGV_API const lgv_model_info *lgv_model_describe(const lgv_model *model);
/* NULL: it is no U-Net (no DiT). */
LGV_API const lgv_dit_config *lgv_model_dit(const lgv_model *model);
LGV_API const lgv_unet2d_config *lgv_model_unet2d(const lgv_model *model);
/* Folder i that networks have in pipelines, training outputs and checkpoints ("unet" ...; averaged weights stand in
   the same with _ema at its end); NULL beyond the last. */
LGV_API const char *lgv_model_components(int i);

/* Names for the labels 0 .. count-1 of a class-conditional network, and the label that stands for no class (-1: none).
   A network that was opened has those of langevin.json (a run of ours) or of id2label in model_index.json. Copied. */
LGV_API lgv_status lgv_model_name_classes(lgv_model *model, int count, const char *const *names,
                                          int null_label, lgv_error *err);

/* Parameter i < info.tensors in the order of diffusers' constructor: its rank, shape and name. */
LGV_API const char *lgv_model_parameter(const lgv_model *model, int i, int *rank, int64_t *dim,
                                        int *frozen);

/* Where the tensor `name` of a diffusers file of this model stands: rows [*row, *row + *rows) of the first axis of
   parameter *param; *copies: how many tensors hold the same. 0: it is none of the model's. */
LGV_API int lgv_model_file_tensor(const lgv_model *model, const char *name, int *param,
                                  int64_t *row, int64_t *rows, int *copies);

/* LGV_OK, or why an H x W sample is impossible and which sizes are near. */
LGV_API lgv_status lgv_model_check_size(const lgv_model *model, int64_t H, int64_t W,
                                        lgv_error *err);
/* LGV_OK, or that a learned table of timesteps has fewer rows than a schedule of T timesteps asks for. */
LGV_API lgv_status lgv_model_check_timesteps(const lgv_model *model, int64_t T, lgv_error *err);

/* --- Building --- */
/* Values of the graph; those the model has no use for are LGV_NONE. */
typedef struct lgv_model_inputs {
    lgv_id sample;    /* [N,H,W,C] */
    lgv_id t;         /* [N] f32 */
    lgv_id t_index;   /* [N] i32: the same for a learned time embedding, which takes nothing else */
    lgv_id label;     /* [N] i32: LGV_CLASS_TABLE (and TIMESTEP with a learned time embedding) */
    lgv_id label_f32; /* [N] f32: LGV_CLASS_TIMESTEP */
    lgv_id class_vector; /* [N,class_width]: LGV_CLASS_IDENTITY */
    int training;        /* dropout acts */
} lgv_model_inputs;
LGV_API void lgv_model_inputs_none(lgv_model_inputs *inputs); /* all LGV_NONE, training 0 */
/* Fills t and the label that this model needs from the step block (LGV_FIELD_T, _INDEX, _LABEL,
   _LABEL_F32), and class_vector as an input of that name. rows: N. Leaves sample and training. */
LGV_API void lgv_model_inputs_from_step(const lgv_model *model, lgv_graph *g, int64_t rows,
                                        lgv_model_inputs *inputs);
/* Adds the network to g under the open scope (which should be empty: parameters are named by it).
   Every module's output that is one tensor is noted with its diffusers path (lgv_graph_module).
   *out: [N,H,W,out_channels]; of a classifier the logits [N,labels]. Missing or superfluous class labels are LGV_ERR_ARGUMENT. */
LGV_API lgv_status lgv_model_build(const lgv_model *model, lgv_graph *g,
                                   const lgv_model_inputs *inputs, lgv_id *out, lgv_error *err);

/* The same up to the network's features [N,features]: of a classifier the vector before its last layer, of a UNet2DModel
   the mean over positions of what the middle block gives. logits (may be NULL): [N,labels], LGV_NONE without labels. */
LGV_API lgv_status lgv_model_features(const lgv_model *model, lgv_graph *g,
                                      const lgv_model_inputs *inputs, lgv_id *features,
                                      lgv_id *logits, lgv_error *err);

/* The stages of a forward pass, for `langevin info --trace`. Shapes are PyTorch's: N,C,H,W or N,C.
 */
typedef struct lgv_model_stage {
    char name[32];  /* "conv_in", "time_embedding", "down_blocks.0", "mid_block", "up_blocks.0",
                       "conv_out" */
    char title[64]; /* "first convolution", "down 0 (DownBlock2D), before down-sampling" ... */
    int rank;
    int64_t dim[LGV_MAX_RANK];
} lgv_model_stage;
/* Free *stages with lgv_model_stages_free. */
LGV_API lgv_status lgv_model_trace(const lgv_model *model, int64_t N, int64_t H, int64_t W,
                                   lgv_model_stage **stages, int *count, lgv_error *err);
LGV_API void lgv_model_stages_free(lgv_model_stage *stages);

/* --- Weights --- */
typedef enum lgv_model_weights {
    LGV_WEIGHTS_BEST = 0, /* averaged ones when there are any, else the raw ones */
    LGV_WEIGHTS_EMA,
    LGV_WEIGHTS_RAW
} lgv_model_weights;

/* Files into a set of the store. Names of old attention blocks (query, key, value, proj_attn) are
   understood. Missing and unexpected tensors and wrong shapes are LGV_ERR_FORMAT and named. */
LGV_API lgv_status lgv_model_load_weights(const lgv_model *model, lgv_store *store, const char *set,
                                          lgv_model_weights which, lgv_error *err);
/* The same from any folder or file, of safetensors or torch.save (torch_file.h). The network's tensors may stand in a
   dictionary ("model", "state_dict") and have a prefix ("module.", "model.diffusion_model."); averages ("ema",
   "model_ema") are preferred. */
LGV_API lgv_status lgv_model_load_weights_from(const lgv_model *model, lgv_store *store,
                                               const char *set, const char *path, lgv_error *err);
/* As lgv_model_load_weights, for weights that are only read: the set, which must not exist yet, is the mapped file
   itself where its numbers are f32 and the device takes them as they are; else it is made and loaded. */
LGV_API lgv_status lgv_model_map_weights(const lgv_model *model, lgv_store *store, const char *set,
                                         lgv_model_weights which, lgv_error *err);
/* Writes folder/config.json and folder/diffusion_pytorch_model.safetensors (f32), each atomically;
   the folder is made when missing. diffusers loads it. */
LGV_API lgv_status lgv_model_save(const lgv_model *model, const lgv_store *store, const char *set,
                                  const char *folder, lgv_error *err);
/* Writes a safetensors file with the tensors of the network's original code: of DiT those of facebookresearch/DiT.
   LGV_ERR_UNSUPPORTED: there is no such form of this network. */
LGV_API lgv_status lgv_model_save_original(const lgv_model *model, const lgv_store *store,
                                           const char *set, const char *path, lgv_error *err);

/* PyTorch's default initialisation: convolution and linear weights and biases U(-1/sqrt(fan_in),
   1/sqrt(fan_in)), tables N(0,1), Fourier frequencies 16 N(0,1), norms 1 and 0.
   With torch (seeded by lgv_torch_seed) the draws are those of torch.manual_seed(seed);
   UNet2DModel(**config), in constructor order, and torch moves on by them; with NULL they are
   Philox's of seed and each parameter's name. */
LGV_API lgv_status lgv_model_init(const lgv_model *model, lgv_store *store, const char *set,
                                  lgv_torch_rng *torch, uint64_t seed, lgv_error *err);

#ifdef __cplusplus
}
#endif
#endif
