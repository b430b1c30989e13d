/* convert.h - weights from one format into another: safetensors, torch.save, folders of diffusers. */
#ifndef LANGEVIN_CONVERT_H
#define LANGEVIN_CONVERT_H

#include "model.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct lgv_convert_options {
    /* What network the input's weights are of: as lgv_model_open's `what`. NULL: the input is a model folder itself, or
       one file becomes another with the names it has. */
    const char *model;
    lgv_model_weights weights; /* which, where the input has averaged ones, too */
    const char *dtype; /* "f32", "f16", "bf16"; NULL: as they are. Integers stay what they are. */
} lgv_convert_options;

typedef struct lgv_convert_report {
    int tensors;
    int64_t elements, bytes;
    char from[256]; /* dictionary in the input, with its last dot; "": all of it */
} lgv_convert_report;

/* input: a file of safetensors or torch.save, or a model folder. output: a file by its ending (.safetensors; .pt, .pth, .th,
   .ckpt, .bin: torch.save's), else a folder, which gets config.json, diffusion_pytorch_model.safetensors and, when
   the model has them, scheduler_config.json and the names of its classes (langevin.json). A file from a file without a model is the dictionary of weights in it: the
   averages ("ema", "model_ema") or the weights ("model", "state_dict"), else the largest; "module." before all names is
   removed. Files are replaced atomically. options and report may be NULL. */
LGV_API lgv_status lgv_convert(const char *input, const char *output,
                               const lgv_convert_options *options, lgv_convert_report *report,
                               lgv_error *err);

#ifdef __cplusplus
}
#endif
#endif
