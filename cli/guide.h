/* guide.h - a classifier that guides a model, on the command line of `sample` and `eval`. */
#ifndef LANGEVIN_CLI_GUIDE_H
#define LANGEVIN_CLI_GUIDE_H

#include "cli.h"
#include "langevin/pipeline.h"

typedef struct cli_guide {
    char *path;   /* NULL: none guides */
    double scale; /* 1 unless stated */
} cli_guide;

/* Rows of an option table; scale_id is the val that tells that the scale was stated. */
#define CLI_GUIDE_OPTIONS(guide, scale_id)                                                         \
    {"classifier",                                                                                 \
     0,                                                                                            \
     POPT_ARG_STRING,                                                                              \
     &(guide).path,                                                                                \
     0,                                                                                            \
     "a classifier trained on noisy pictures (docs/conditional.md) that draws them towards "       \
     "their class, also those of a model without classes; for the samplers ddim (then the "        \
     "default) and ddpm",                                                                          \
     "DIR"},                                                                                       \
    {                                                                                              \
        "classifier-scale", 0, POPT_ARG_DOUBLE, &(guide).scale, scale_id,                          \
            "how strongly --classifier draws (default: 1)", "F"                                    \
    }
/* -1 to go on, else the exit code. */
int cli_read_guide(const cli_command *self, const cli_guide *given, bool scale_stated,
                   cli_guide *out);

/* A model's folder, guided where a classifier is given. */
lgv_status cli_open_guided(lgv_device *device, const char *model, lgv_model_weights weights,
                           const cli_guide *guide, lgv_pipeline **out, lgv_error *err);
/* What names the classes: the classifier that guides, else the network. */
const lgv_model *cli_class_model(const lgv_pipeline *pipeline);

#endif
