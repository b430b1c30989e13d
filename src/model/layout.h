/* layout.h - the tensors of a file of weights, in terms of a network's parameters. Internal to src/model. */
#ifndef LGV_MODEL_LAYOUT_H
#define LGV_MODEL_LAYOUT_H

#include "kind.h"

/* Adds a tensor under `name`, which it takes (NULL: that was no memory); the caller fills in the rest. NULL after an error. */
lgv_file_tensor *lgv_layout_add(lgv_layout *l, char *name, lgv_error *err);
/* The whole of a parameter. */
lgv_status lgv_layout_add_param(lgv_layout *l, const lgv_model *m, size_t param, char *name,
                                lgv_error *err);
/* format: one of the kind's; 0 is that of diffusers. Free with lgv_layout_free. */
lgv_status lgv_layout_make(const lgv_model *m, int format, lgv_layout *out, lgv_error *err);
void lgv_layout_free(lgv_layout *l);
/* How many there are. */
int lgv_layout_formats(const lgv_model *m);
/* Why the network cannot stand in a file of the original program, as the end of a sentence; NULL: it can. */
const char *lgv_layout_not_original(const lgv_model *m);

#endif
