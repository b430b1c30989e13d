/* pipeline.h - from a model folder and a seed to pictures.
   A pipeline holds a network's weights on a device and its scheduler's configuration; plans are
   made once per batch shape and kept. Pictures are independent of each other: picture i depends
   on its seed and options only, whatever the batch size and its neighbours (rng torch_batch
   excepted). */
#ifndef LANGEVIN_PIPELINE_H
#define LANGEVIN_PIPELINE_H

#include <stddef.h>
#include <stdint.h>

#include "model.h"
#include "plan.h"
#include "sampler.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct lgv_pipeline lgv_pipeline;

/* Opens a model and its scheduler: whatever lgv_model_open (model.h) finds weights for. A folder
   without a scheduler_config.json gets DDPMScheduler's defaults. weights: LGV_WEIGHTS_BEST is
   the averaged ones where there is a choice. The device is borrowed and must outlive the
   pipeline. */
LGV_API lgv_status lgv_pipeline_open(lgv_device *device, const char *path,
                                     lgv_model_weights weights, lgv_pipeline **out, lgv_error *err);
/* A pipeline over a network that lives elsewhere (a training run): parameters are read from
   `set` of the store at each run. model and store are borrowed, cfg is copied. */
LGV_API lgv_status lgv_pipeline_new(const lgv_model *model, lgv_store *store, const char *set,
                                    const lgv_scheduler_config *cfg, lgv_pipeline **out,
                                    lgv_error *err);
LGV_API void lgv_pipeline_free(lgv_pipeline *pipeline);

/* Owned by the pipeline. */
LGV_API const lgv_model *lgv_pipeline_model(const lgv_pipeline *pipeline);
LGV_API const lgv_scheduler_config *lgv_pipeline_scheduler(const lgv_pipeline *pipeline);
/* "ema" or "raw", "" where the model has one set of weights only. */
LGV_API const char *lgv_pipeline_weights(const lgv_pipeline *pipeline);
/* Names the label that stands for no class, where the model's folder does not (LGV_CLASS_TABLE only). */
LGV_API lgv_status lgv_pipeline_set_null_label(lgv_pipeline *pipeline, int label, lgv_error *err);
LGV_API int lgv_pipeline_null_label(const lgv_pipeline *pipeline); /* -1: none is known */
/* A classifier of pictures with noise guides sampling with ddpm and ddim (arXiv 2105.05233), towards the class of each picture
   (lgv_sample_options.labels), by the gradient g of log p(class | x_t) for x_t:
     ddpm: x' ~ N(mean + scale Sigma g, Sigma)                 (algorithm 1)
     ddim: eps - scale sqrt(1-abar_t) g in the place of eps    (algorithm 2; a clip of x0 comes before)
   path: what `langevin train --task classifier --noisy` wrote, averaged weights before raw ones; NULL: none again. The network may be
   unconditional; where it has classes they are the classifier's, and classifier-free guidance goes on. Errors: no such classifier;
   one of other pictures, other classes or another noise schedule; then the one before stays. */
LGV_API lgv_status lgv_pipeline_set_classifier(lgv_pipeline *pipeline, const char *path,
                                               lgv_error *err);
/* Its network, owned by the pipeline; NULL: there is none. */
LGV_API const lgv_model *lgv_pipeline_classifier(const lgv_pipeline *pipeline);
/* SHA-256 over the parameters in order of name (name, shape, float32 values): 64 hex digits. */
LGV_API lgv_status lgv_pipeline_hash(const lgv_pipeline *pipeline, char hex[65], lgv_error *err);

typedef enum lgv_sample_rng {
    LGV_SAMPLE_PHILOX = 0, /* our own stream, picture i from its seed */
    LGV_SAMPLE_TORCH,      /* as diffusers with a list of generators, one per picture */
    LGV_SAMPLE_TORCH_BATCH /* as diffusers with one generator: drawn batch by batch */
} lgv_sample_rng;

/* Told after each network call. */
typedef struct lgv_sample_progress {
    int64_t done, total;         /* network calls over the whole job */
    int64_t step, steps;         /* of this batch; done with step (1 .. steps) */
    int64_t first_image, images; /* this batch: pictures first_image .. first_image+images-1 */
    /* [images,C,H,W], valid in the callback: x after the call, and the finished picture that the
       call predicts (x0, clipped where the scheduler clips) */
    const float *x, *x0;
    double spread;       /* of x: divided by it, image and noise have unit variance together */
    const float *sample; /* x with the last call of the batch, else NULL */
    double began;        /* when the first network call began, in seconds of CLOCK_MONOTONIC */
} lgv_sample_progress;
/* Returns not 0 to stop: lgv_pipeline_sample then returns LGV_ERR_CANCELLED. */
typedef int (*lgv_sample_callback)(void *user, const lgv_sample_progress *progress);

typedef struct lgv_sample_options {
    int64_t num_images;    /* 0: 1 */
    int64_t batch_size;    /* 0: num_images, at most 8 */
    int64_t height, width; /* 0: the network's sample_size */
    /* sampler.sampler NULL: "dpmpp_2m" with 20 steps for a network trained with betas (lgv_sampler_default); "model":
       the folder's own scheduler. With a classifier NULL is "ddim". */
    lgv_sampler_options sampler;
    uint64_t seed;         /* picture i: seed + i (wrapping) */
    const uint64_t *seeds; /* [num_images] instead; NULL: none */
    lgv_sample_rng rng;
    lgv_mixed_precision mixed_precision; /* of the network's activations; x stays float32 */
    /* [num_images] classes of the pictures, -1 for none; NULL: all classes in turn. Only where the network
       has classes, or a classifier is set. */
    const int32_t *labels;
    /* Classifier-free guidance (arXiv 2207.12598): the answer for the class, taken `scale` times as far from the
       answer for no class. 1 is off; 0: 3, or 1 where no label stands for no class. Both answers are rows of one
       batch of the network. */
    double guidance_scale;
    double guidance_rescale; /* 0 to 1 of the way to the unguided answer's contrast (arXiv 2305.08891, sec. 3.4) */
    /* Only the network calls from start to stop are guided, also by a classifier, as shares of them all
       (arXiv 2404.07724); stop 0: 1. The others cost half. */
    double guidance_start, guidance_stop;
    int guidance_channels; /* only the first so many channels are guided; 0: all of the picture's */
    double classifier_scale; /* of the gradient of lgv_pipeline_set_classifier; 0: 1 */
    /* [num_images,C,H,W]: pictures to begin with; NULL: none. They are noised as far as `strength` of the steps and denoised
       from there (arXiv 2108.01073). With a mask, what it leaves out stays theirs, noised to the level of each step
       (arXiv 2201.09865, eq. 8), and strength 1 begins with noise alone. */
    const float *init_image;
    double strength;     /* 0: 0.8, with a mask 1; at most 1 */
    const uint8_t *mask; /* [H,W], not 0 where init_image is painted anew; NULL: none */
    /* [num_images,K,H,W]: the image condition (condition.h), K its channels; given exactly when the network has one */
    const float *condition;
    /* [num_images,C,H,W]: standard normal noise, which lgv_sampler_init_sigma makes the first x (of
       ddim_inverse: the images); NULL: drawn */
    const float *init_noise;
    /* [network calls,num_images,C,H,W]: z of each step; NULL: drawn */
    const float *step_noise;
    int keep_trajectory; /* fill lgv_samples.trajectory */
    int discard;         /* no lgv_samples: pictures go to the callback only (out may be NULL) */
    lgv_sample_callback callback; /* NULL: none */
    void *user;
} lgv_sample_options;

typedef struct lgv_samples {
    int64_t n, channels, height, width, calls;
    float *sample;     /* [n,C,H,W], as the sampler left them (about -1 .. 1) */
    float *trajectory; /* [calls,n,C,H,W], x after each network call; NULL unless asked for */
    uint64_t *seeds;   /* [n] */
    int32_t *labels;   /* [n] as network and classifier were told; NULL: there are no classes */
} lgv_samples;

/* Samples. options NULL: one picture of seed 0. Plans are made for at most two batch shapes and
   kept for the next call (two plans for each where only some steps are guided). Errors: labels, size, sampler or noise that do not fit the model;
   LGV_ERR_CANCELLED. */
LGV_API lgv_status lgv_pipeline_sample(lgv_pipeline *pipeline, const lgv_sample_options *options,
                                       lgv_samples **out, lgv_error *err);
/* LGV_OK, or what lgv_pipeline_sample will refuse in these options; draws nothing. */
LGV_API lgv_status lgv_pipeline_check(lgv_pipeline *pipeline, const lgv_sample_options *options,
                                      lgv_error *err);
/* Network calls per picture of these options, that is the first axis of step_noise. Reads sampler, init_image (there or
   not), strength and mask. options NULL: all defaults. */
LGV_API lgv_status lgv_pipeline_calls(const lgv_pipeline *pipeline,
                                      const lgv_sample_options *options, int64_t *calls,
                                      lgv_error *err);
/* The sampler when these options name none: "ddim" where a classifier guides, else lgv_sampler_default. */
LGV_API const char *lgv_pipeline_default_sampler(const lgv_pipeline *pipeline,
                                                 const lgv_sampler_options *options);
/* The guidance scale of these options, the default filled in. */
LGV_API double lgv_pipeline_guidance(const lgv_pipeline *pipeline,
                                     const lgv_sample_options *options);
LGV_API void lgv_samples_free(lgv_samples *samples);

/* The noise that the picture of this seed begins with (one picture alone under TORCH_BATCH):
   out[C,H,W], standard normal; to be mixed (lgv_slerp) and given back as init_noise. */
LGV_API lgv_status lgv_noise_init(lgv_sample_rng rng, uint64_t seed, int64_t C, int64_t H,
                                  int64_t W, float *out, lgv_error *err);

/* 8-bit pictures of n images x[n,C,H,W]: clamp(x/2 + 0.5, 0, 1)*255 rounded half to even, to
   out[n,H,W,C]. */
LGV_API void lgv_images_u8(int64_t n, int64_t channels, int64_t height, int64_t width,
                           const float *x, uint8_t *out);

#ifdef __cplusplus
}
#endif
#endif
