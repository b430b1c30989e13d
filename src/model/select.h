/* select.h - which tensors of a file are a network's. A file of torch.save often holds more: optimizer, averages, other
   networks; and the names of what is wanted begin with where it stands: "state_dict.model.diffusion_model.",
   "module.". Internal to src/model. */
#ifndef LGV_MODEL_SELECT_H
#define LGV_MODEL_SELECT_H

#include "kind.h"
#include "langevin/safetensors.h"

typedef struct lgv_selection {
    const lgv_model *model;
    const lgv_weights *w;
    int format; /* of the layout */
    lgv_layout layout;
    char prefix[LGV_TENSOR_NAME + 1]; /* of every name */
    bool dotless;                     /* and the rest without its dots */
} lgv_selection;

/* Finds the place where all of the network's tensors stand and checks their shapes. Where there are several, which
   decides: averages or not. Missing tensors, unexpected ones beside them and wrong shapes are LGV_ERR_FORMAT.
   source: what messages call the file. Free with lgv_selection_free, also after an error. */
lgv_status lgv_select(const lgv_model *m, const lgv_weights *w, lgv_model_weights which,
                      const char *source, lgv_selection *out, lgv_error *err);
void lgv_selection_free(lgv_selection *s);
/* Tensor i of the layout; after lgv_select NULL only for an optional one. It may be [out,in,1,1] where the layout has
   [out,in]. */
const lgv_tensor_info *lgv_selected(const lgv_selection *s, size_t i);

/* Whether a folder holds weights in any of the forms diffusers writes (weights.c). */
bool lgv_model_has_weights(const char *folder, lgv_status *status);
/* The weights in a folder (the half-precision variant when it holds nothing else) or file (weights.c). */
lgv_status lgv_model_open_weights(const char *path, lgv_weights **out, lgv_error *err);
/* The folder of the weights asked for (weights.c). */
lgv_status lgv_model_weights_path(const lgv_model *model, lgv_model_weights which,
                                  const char **path, lgv_error *err);
/* config.json (weights.c). */
lgv_status lgv_model_save_config(const lgv_model *m, const char *path, lgv_error *err);

#endif
