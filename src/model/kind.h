/* kind.h - what the library knows about a kind of network: one record for each in the table of kinds.c. A record says how a
   configuration is read, checked and written, how the graph is built and described, and where such a network lies on disk;
   opening, weights, initialisation and traces are the same for all. Internal to src/model. */
#ifndef LGV_MODEL_KIND_H
#define LGV_MODEL_KIND_H

#include <jansson.h>

#include "core/core.h"
#include "io/json.h"
#include "langevin/model.h"

typedef struct lgv_model_param {
    char *name;
    int rank;
    int64_t dim[LGV_MAX_RANK];
    int frozen;
} lgv_model_param;
static inline int64_t lgv_param_elements(const lgv_model_param *p)
{
    return p->dim[0] * p->dim[1] * p->dim[2] * p->dim[3];
}

/* How a parameter starts. */
typedef enum lgv_init_law {
    LGV_INIT_CONSTANT, /* value */
    LGV_INIT_UNIFORM,  /* [-value, value] */
    LGV_INIT_NORMAL,   /* mean 0, deviation value */
    LGV_INIT_FOURIER   /* the same, drawn twice by PyTorch's constructors; the second draw stays */
} lgv_init_law;
typedef struct lgv_init_rule {
    lgv_init_law law;
    double value;
} lgv_init_rule;
/* PyTorch's rule for the weight or bias of a convolution, linear layer or norm; *fan_in is that of the layer whose weight
   came last (0: a norm) and is kept by it. */
lgv_init_rule lgv_init_layer(const lgv_model_param *p, int64_t *fan_in);

typedef struct lgv_class_names {
    char **name;
    int count; /* 0: no names */
} lgv_class_names;
/* names NULL: "0", "1" ... */
lgv_status lgv_class_names_new(int count, const char *const *names, lgv_class_names *out,
                               lgv_error *err);
void lgv_class_names_free(lgv_class_names *labels);
/* transformers' id2label: {"0": name, ...}. */
lgv_status lgv_class_names_read(const lgv_json *j, lgv_class_names *out, lgv_error *err);
json_t *lgv_class_names_json(const char *const *name, int count); /* NULL: out of memory */

struct lgv_model {
    const struct lgv_model_kind *kind;
    void *config;           /* the kind's own, config_size bytes without pointers */
    lgv_class_names labels; /* of a classifier */
    lgv_class_names classes; /* of a class-conditional network, where they have names */
    int null_label;          /* that a file or trainer named; -1: the kind knows */
    lgv_model_info info;    /* its strings are those below or constants */
    char *source, *raw, *ema, *scheduler, *pipeline, *pipeline_class;
    lgv_model_param *param; /* in constructor order */
    size_t n_params, cap_params;
};

enum { LGV_MAX_STAGES = 160 }; /* of a trace */

/* A tensor of a file of weights: rows [row, row + rows) of a parameter's first axis, then rows of zeros up to dim[0]. */
typedef struct lgv_file_tensor {
    char *name;
    int rank;
    int64_t dim[LGV_MAX_RANK];
    int param; /* -1: no parameter, see lgv_model_kind.constant */
    int64_t row, rows;
    bool optional; /* in files that are read */
} lgv_file_tensor;
/* All tensors of a file. A parameter may stand in several, which then are equal. */
typedef struct lgv_layout {
    lgv_file_tensor *tensor;
    size_t count, capacity;
} lgv_layout;

typedef struct lgv_model_kind {
    const char *class_name; /* _class_name in config.json */
    const char *alias;      /* an older one; NULL: none */
    const char *component;  /* its folder in a pipeline: "unet" */
    const char *pipeline;   /* the diffusers pipeline that a trained one is written as */
    size_t config_size;

    /* Both leave a configuration that passed its check. m->config is there and zero. Other things than the configuration
       that config.json says go to m. */
    lgv_status (*parse)(const lgv_json *j, lgv_model *m, lgv_error *err);
    /* Preset i's name and one line about it, NULL beyond the last; NULL: this kind has none. */
    const char *(*preset)(int i, const char **summary);
    lgv_status (*from_preset)(int i, const lgv_model_options *options, lgv_model *m,
                              lgv_error *err);

    /* Another sample size, unchecked. */
    void (*resize)(lgv_model *m, int height, int width);
    /* A table of so many classes for a network that has none, unchecked; NULL: this kind cannot be without or with. */
    void (*add_classes)(lgv_model *m, int rows);
    lgv_status (*check)(const lgv_model *m, lgv_error *err);
    /* Fills everything in m->info that the configuration tells. */
    void (*describe)(lgv_model *m);
    /* Why sizes are multiples of info.divisor, after "with": "3 levels". */
    void (*divisor_reason)(const lgv_model *m, char text[64]);
    json_t *(*json)(const lgv_model *m); /* config.json; NULL: out of memory */

    /* As lgv_model_build and lgv_model_features; stages NULL or room for LGV_MAX_STAGES. */
    lgv_status (*build)(const lgv_model *m, lgv_graph *g, const lgv_model_inputs *in,
                        lgv_model_stage *stages, int *n_stages, lgv_id *out, lgv_error *err);
    lgv_status (*features)(const lgv_model *m, lgv_graph *g, const lgv_model_inputs *in,
                           lgv_id *features, lgv_id *logits, lgv_error *err);

    /* Asked for one parameter after the other; fan_in as in lgv_init_layer. */
    lgv_init_rule (*init)(const lgv_model *m, const lgv_model_param *p, int64_t *fan_in);
    /* Files in which parameters do not simply stand under their names, in the order in which they are tried; format 0
       is diffusers'. The members may be NULL. */
    int formats; /* 2: the second is the original program's, in which lgv_convert writes single files */
    lgv_status (*layout)(const lgv_model *m, int format, lgv_layout *out, lgv_error *err);
    /* What is different in the networks that files of a format are of, as the end of a sentence; NULL: nothing. *same, when
       something is: such a network of this one's sizes. The member may be NULL. */
    const char *(*differs)(const lgv_model *m, int format);
    lgv_status (*same)(const lgv_model *m, int format, lgv_model **same, lgv_error *err);
    void (*constant)(const lgv_model *m, const lgv_file_tensor *t, float *out);
    /* The name a tensor had in older files, in text or constant; NULL: never another. The member may be NULL. */
    const char *(*old_name)(const char *name, char *text, size_t size);
} lgv_model_kind;

/* Of a configuration's field (check.c). */
lgv_status lgv_check_range(lgv_error *err, const char *field, int64_t value, int64_t low,
                           int64_t high);

/* The table (kinds.c); NULL beyond the last. */
const lgv_model_kind *lgv_model_kind_at(int i);
extern const lgv_model_kind lgv_kind_unet2d, lgv_kind_classifier, lgv_kind_dit, lgv_kind_compvis,
    lgv_kind_guided;
/* Of a config.json: by _class_name; absent: UNet2DModel. LGV_ERR_UNSUPPORTED lists what is known. */
lgv_status lgv_model_kind_of(const lgv_json *j, const lgv_model_kind **out, lgv_error *err);

/* A Model that is no UNet2DModel (compvis.c). */
bool lgv_compvis_differs(const lgv_model *m);
/* The configuration of a new classifier, checked; noisy: with attention pooling. */
lgv_status lgv_classifier_set(lgv_model *m, const lgv_unet2d_config *config, bool noisy,
                              lgv_error *err);
/* Names of classes and null label from the files beside the network (names.c); then into m->info. */
lgv_status lgv_model_find_classes(lgv_model *m, const char *folder, lgv_error *err);
void lgv_model_describe_classes(lgv_model *m);
/* Writes them beside a network without a run: class_names and null_label of langevin.json; nothing where there are none. */
lgv_status lgv_model_save_classes(const lgv_model *m, const char *folder, lgv_error *err);

/* A folder of one network inside a pipeline, or a checkpoint of a run: what belongs to it stands one folder up. */
bool lgv_folder_inside(const char *folder, lgv_status *status);
char *lgv_folder_parent(const char *folder); /* NULL: out of memory */
/* Finds the folders of a network on disk and its config.json (locate.c). config_path: free with
 * lgv_free. */
lgv_status lgv_model_locate(lgv_model *m, const char *path, char **config_path, lgv_error *err);
/* The preset of that name: its kind and its number there. LGV_ERR_ARGUMENT lists them. */
lgv_status lgv_preset_find(const char *name, const lgv_model_kind **kind, int *i, lgv_error *err);
/* The candidate nearest to word by edit distance, NULL when none is near. */
const char *lgv_nearest(const char *word, const char *const *candidates, int count);

#endif
