/* dit.h - the inside of DiT: its configuration on disk and its tensors in files. Internal to src/model. */
#ifndef LGV_MODEL_DIT_H
#define LGV_MODEL_DIT_H

#include "kind.h"
#include "langevin/dit.h"

static inline int64_t lgv_dit_width(const lgv_dit_config *c)
{
    return (int64_t)c->num_attention_heads * c->attention_head_dim;
}
/* Rows of the class table; 0: there is none. */
static inline int64_t lgv_dit_rows(const lgv_dit_config *c)
{
    return c->num_embeds_ada_norm ? c->num_embeds_ada_norm + (c->class_dropout_prob > 0) : 0;
}

/* --- dit_config.c --- */
lgv_status lgv_dit_parse(const lgv_json *j, lgv_model *m, lgv_error *err);
json_t *lgv_dit_json(const lgv_model *m);
const char *lgv_dit_preset(int i, const char **summary);
lgv_status lgv_dit_from_preset(int i, const lgv_model_options *options, lgv_model *m,
                               lgv_error *err);

/* --- dit_files.c --- */
lgv_status lgv_dit_layout(const lgv_model *m, int format, lgv_layout *out, lgv_error *err);
const char *lgv_dit_differs(const lgv_model *m, int format);
lgv_status lgv_dit_same(const lgv_model *m, int format, lgv_model **same, lgv_error *err);
void lgv_dit_constant(const lgv_model *m, const lgv_file_tensor *t, float *out);

#endif
