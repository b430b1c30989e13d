/* eval.h - the parts of `langevin eval`: what was asked for, the two sets of pictures, and what is told. */
#ifndef LANGEVIN_CLI_EVAL_H
#define LANGEVIN_CLI_EVAL_H

#include "guide.h"
#include "langevin/dataset.h"
#include "langevin/eval.h"

typedef struct eval_args {
    const char *what;                             /* model, pictures or features */
    const char *data, *features, *save, *nearest; /* paths; NULL where not stated */
    int64_t num_images, num_reference, batch_size, steps;
    const char *sampler;
    double guidance; /* 0: not stated */
    cli_guide guide;
    uint64_t seed;
    lgv_model_weights weights;
    lgv_mixed_precision precision;
    const char *respacing; /* of bpd: the chain; NULL: all timesteps */
    bool validation, json, bpd;
    cli_device_options device;
} eval_args;

/* Pictures as bytes, as features, or both. */
typedef struct eval_set {
    const char *path;
    int64_t n, width; /* pictures; numbers of a feature vector */
    int side, channels;
    uint8_t *pixels;    /* [n][side][side][channels]; NULL: features came from a file */
    float *features;    /* [n][width] */
    int32_t *predicted; /* [n] class by the classifier; NULL: it knows none */
    int32_t *label;     /* [n] class it should be, -1 unknown; NULL: none is known */
} eval_set;
void eval_set_free(eval_set *s);

typedef struct eval_job {
    const eval_args *args;
    lgv_device *device;
    lgv_extractor *extractor; /* NULL: no figures, or features from files */
    lgv_pipeline *pipeline;   /* NULL: pictures are given */
    lgv_dataset *data;        /* NULL: features from a file */
    eval_set generated, reference;
    bool has_figures, has_agreement;
    lgv_figures figures;
    lgv_interval agreement;
    int64_t known;  /* pictures of known class */
    lgv_copy *copy; /* [generated.n]; NULL without --nearest */
    lgv_interval copies;
    double seconds; /* in all */
} eval_job;

/* -1 to go on, else the exit code. */
int eval_args_read(const cli_command *self, int argc, const char **argv, eval_args *out);

/* eval_sets.c: opens everything and fills both sets. */
lgv_status eval_sets_make(eval_job *j, lgv_error *err);
lgv_status eval_save_features(const eval_job *j, lgv_error *err);

/* Up to `most` pictures of the data set (0: all), spread over it, with their classes. */
lgv_status eval_read_pictures(lgv_dataset *data, bool validation, int64_t most, eval_set *s,
                              lgv_error *err);

/* eval_bpd.c: the bound, told. The exit code. */
int eval_bpd(const cli_command *self, const eval_args *args);

/* eval_nearest.c: fills copy and copies, writes the sheet. */
lgv_status eval_nearest(eval_job *j, lgv_error *err);

/* eval_report.c */
void eval_print_text(const eval_job *j);
void eval_print_json(const eval_job *j);

#endif
