/* sample.h - the parts of `langevin sample`: what was asked for, where the first x comes from, and
   where pictures go. */
#ifndef LANGEVIN_CLI_SAMPLE_H
#define LANGEVIN_CLI_SAMPLE_H

#include "guide.h"

typedef struct sample_args {
    const char *model, *output;
    const char *init_noise, *init_image, *mask, *save_tensors; /* paths; NULL: none */
    double strength;                                           /* of init_image; 0: not stated */
    int64_t num_images, batch_size, resolution;         /* 0: not stated */
    lgv_sampler_options sampler;
    const char *respacing; /* the chain of timesteps; NULL: by the sampler */
    lgv_model_weights weights;
    lgv_sample_rng rng;
    lgv_mixed_precision precision;
    uint64_t seed, seed_b; /* interpolation goes from seed to seed_b */
    const char *classes;             /* as typed; NULL: not stated */
    double guidance_scale;           /* 0: not stated */
    double guidance_rescale;
    double guidance_start, guidance_stop;
    int guidance_channels; /* 0: all */
    cli_guide guide;
    int64_t null_class; /* -1: not stated */
    bool interpolate, metadata, timings, preview;
    const char *animation;    /* path; NULL: none */
    int64_t animation_frames; /* 0: not stated */
    bool animation_noisy;     /* x_t, else the predicted x_0 */
    bool file;                /* output is one PNG, else a folder */
    cli_device_options device;
} sample_args;

/* -1 to go on, else the exit code. Everything points into the command line or to static memory. */
int sample_args_read(const cli_command *self, int argc, const char **argv, sample_args *out);

/* ---- the first x ---- */
typedef struct sample_input {
    int64_t n, channels, height, width; /* pictures and their shape */
    float *noise;                       /* [n,C,H,W]; NULL: drawn by the pipeline */
    float *step_noise;                  /* [calls,n,C,H,W]; NULL: drawn */
    float *image;                       /* [n,C,H,W] to be changed; NULL: none */
    float *condition;                   /* [n,K,H,W] of a model with an image condition */
    uint8_t *mask;                      /* [H,W], 1 where image is painted; NULL: none */
    double *weight;                     /* [n] of seed_b, with interpolation; else NULL */
    int32_t *label;                     /* [n]; NULL: there are no classes */
} sample_input;

/* Reads or makes what the options ask for. inverse: the sampler goes from a picture to noise. */
lgv_status sample_input_make(const sample_args *a, lgv_pipeline *pipeline, bool inverse,
                             sample_input *out, lgv_error *err);
/* Fills image, mask and condition (or noise, to be inverted) from init_image and mask; may change height and width. */
lgv_status sample_picture_make(const sample_args *a, const lgv_model *model, bool inverse,
                               sample_input *in, lgv_error *err);
void sample_input_free(sample_input *in);
/* Room for count floats; NULL, with *err filled, when there is none or the product is absurd. */
float *sample_floats(int64_t count, lgv_error *err);

/* ---- pictures ---- */
typedef struct sample_output {
    const sample_args *args;
    const sample_input *input;
    const lgv_model *model;        /* that names the classes: the network, or the classifier that guides it */
    const char *sampler, *weights; /* names for the text; weights may be "" */
    double guidance;               /* 0: the network has no classes */
    int64_t steps;
    char hash[65];
    int64_t number, written; /* next file number of a folder; pictures so far */
    uint8_t *pixels;         /* [n,H,W,C]: all pictures for the one file */
    char last[4352];         /* path of the newest picture */
    int table;               /* descriptor of metadata.csv; -1: the model has no classes, or one file is written */
} sample_output;

/* Checks that `path` can be written: its folder is there and takes files. */
lgv_status sample_check_parent(const char *path, lgv_error *err);
/* Checks that pictures can be written before time is spent on them; makes the folder. */
lgv_status sample_output_open(sample_output *o, lgv_error *err);
/* count pictures from number `first` on, x[count,C,H,W]. */
lgv_status sample_output_add(sample_output *o, int64_t first, int64_t count, const float *x,
                             lgv_error *err);
/* Writes the one file, when it is one. */
lgv_status sample_output_close(sample_output *o, lgv_error *err);
void sample_output_free(sample_output *o);
/* ---- the denoising ---- */
typedef struct sample_animation {
    const sample_args *args;
    int64_t steps, pictures, frames; /* network calls; what is shown, of them and of the pictures */
    int64_t channels, height, width;
    uint8_t *pixels; /* [frames][pictures][H,W,C]; NULL: nothing was asked for */
    int64_t bytes;   /* of the file, once written */
} sample_animation;

/* Checks path and sizes and takes memory for the frames; nothing when no animation was asked for. */
lgv_status sample_animation_open(sample_animation *a, const sample_args *args,
                                 const sample_input *in, int64_t steps, lgv_error *err);
/* Keeps the step when it is one of those shown. */
void sample_animation_add(sample_animation *a, const lgv_sample_progress *p);
lgv_status sample_animation_close(sample_animation *a, lgv_error *err);
void sample_animation_free(sample_animation *a);

/* sample and trajectory as safetensors; after an inversion the sample also as `noise`, which
   --init-noise reads. */
lgv_status sample_save_tensors(const char *path, const lgv_samples *s, bool inverse,
                               lgv_error *err);

#endif
