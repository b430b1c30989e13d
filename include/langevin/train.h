/* train.h - training a denoising network: the optimizer step, and the run around it with its
   checkpoints, samples and log.
   One optimizer step (arXiv 2006.11239, algorithm 1): pictures x0, t uniform in 0 .. T-1, noise eps,
   loss = mean over the batch of w(t) * mean (target - network(x_t, t))^2, AdamW, moving average (EMA).
   All numbers drawn are a function of (seed, step, place in the effective batch), so micro-batches,
   threads and recomputation change none of them. "Steps" are optimizer steps everywhere. */
#ifndef LANGEVIN_TRAIN_H
#define LANGEVIN_TRAIN_H

#include <stddef.h>
#include <stdint.h>

#include "dataset.h"
#include "eval.h"
#include "model.h"
#include "pipeline.h"
#include "plan.h"
#include "schedule.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct lgv_trainer lgv_trainer;

/* What is learned. */
typedef enum lgv_task_kind {
    LGV_TASK_DEFAULT = 0, /* that of the model: a classifier's, else diffusion */
    LGV_TASK_DIFFUSION,
    LGV_TASK_CLASSIFIER /* the classes of the pictures: cross-entropy; model.h, lgv_model_new_classifier */
} lgv_task_kind;

/* What the error of a row is. */
typedef enum lgv_loss_kind {
    LGV_LOSS_DEFAULT = 0, /* hybrid for a network that gives a variance, else mse */
    LGV_LOSS_MSE,         /* mean squared error (arXiv 2006.11239, eq. 14) */
    /* mse + T/1000 * the term of the variational bound in bits, whose gradient reaches the variance only
       (arXiv 2102.09672, eq. 16) */
    LGV_LOSS_HYBRID,
    LGV_LOSS_VLB /* T * that term: an estimate of the whole bound, in bits per dimension */
} lgv_loss_kind;

/* How the timesteps of training are drawn. */
typedef enum lgv_schedule_sampler {
    LGV_TIMESTEPS_UNIFORM = 0,
    LGV_TIMESTEPS_LOSS_SECOND_MOMENT /* p_t proportional to the root mean square of the last ten losses at t
                                        (arXiv 2102.09672, eq. 18) */
} lgv_schedule_sampler;

typedef enum lgv_rng_kind { LGV_RNG_PHILOX = 0, LGV_RNG_TORCH } lgv_rng_kind;

/* How the learning rate goes; multiplied by a linear warm-up except for "constant". The formulas are
   those of diffusers' optimization.py. */
typedef enum lgv_lr_scheduler {
    LGV_LR_DEFAULT = 0, /* constant_with_warmup */
    LGV_LR_CONSTANT,
    LGV_LR_CONSTANT_WITH_WARMUP,
    LGV_LR_LINEAR,
    LGV_LR_COSINE,
    LGV_LR_COSINE_WITH_RESTARTS,
    LGV_LR_POLYNOMIAL
} lgv_lr_scheduler;

LGV_API const char *
lgv_lr_scheduler_name(lgv_lr_scheduler s); /* "cosine_with_restarts"; never NULL */
LGV_API lgv_status lgv_lr_scheduler_parse(const char *name, lgv_lr_scheduler *out, lgv_error *err);
/* Factor on the learning rate of step n (0 is the first). horizon: steps the schedule is laid out for.
   cycles and power 0: diffusers' defaults (cosine 0.5, restarts 1; polynomial power 1, end lr 1e-7). */
LGV_API double lgv_lr_factor(lgv_lr_scheduler s, int64_t n, int64_t warmup, int64_t horizon,
                             double cycles, double power, double learning_rate);
/* Decay of the moving average at its n-th update (n from 0): min(max, 1 - (1+n)^-0.75), so that the first
   update copies. */
LGV_API double lgv_ema_decay(int64_t n, double max_decay);

/* Zero is the default; LGV_OFF (-1) switches off. */
typedef struct lgv_train_options {
    const char *output_dir;   /* NULL: nothing is written (lgv_trainer_step only) */
    lgv_task_kind task;       /* changes defaults, given here as diffusion / classifier */
    int64_t max_train_steps;  /* 20,000 / 4,000 */
    int64_t num_train_epochs; /* instead: ceil(epochs * pictures / effective batch) steps */
    int64_t
        train_batch_size; /* rows of one micro-batch; 32, 16 or 8 for a resolution up to 32, 64, more */
    int64_t gradient_accumulation_steps; /* 1; the effective batch is the product */
    double learning_rate;                /* 1e-4 / 1e-3 */
    lgv_lr_scheduler lr_scheduler;       /* constant_with_warmup / cosine */
    int64_t lr_warmup_steps;             /* 500 / 100; LGV_OFF: none */
    int64_t lr_schedule_steps; /* horizon of the schedule: the run's length when it started */
    double lr_num_cycles, lr_power;
    double adam_beta1, adam_beta2, adam_epsilon; /* 0.95 / 0.9, 0.999, 1e-8; LGV_OFF: 0 */
    double adam_weight_decay;                    /* 1e-6 / 0.01; LGV_OFF: 0 */
    double max_grad_norm;                        /* 1; LGV_OFF: no clipping */
    double
        max_loss_growth; /* 5: the run stops when its smoothed loss has stayed above 5 times its best,
                               or after ten non-finite losses or gradients in a row; LGV_OFF: never */
    double ema_decay;    /* largest decay, 0.9999 / 0.999; LGV_OFF: no EMA */
    double snr_gamma;    /* min-SNR weighting (schedule.h); 0: none */
    lgv_loss_kind loss;
    lgv_schedule_sampler schedule_sampler;
    double noise_offset; /* noise += noise_offset * one normal number per row and channel */
    double class_dropout_prob; /* of a class-conditional network: share of the pictures that lose their label
                               in a step, 0.1; LGV_OFF: none, and no guidance later */
    uint64_t seed;             /* 0 */
    lgv_rng_kind rng;
    lgv_mixed_precision mixed_precision; /* no; the saved weights are float32 in any case */
    size_t
        memory_budget; /* bytes of weights, optimizer and activations to stay below, by recomputation,
                                     then by smaller micro-batches (train_batch_size halves); 0: none */
    int recompute;     /* plan.h */
    int loader_threads;              /* 2; never changes a result */
    int64_t checkpointing_steps;     /* every 500 steps or 10 minutes; LGV_OFF: only at the end */
    int64_t checkpoints_total_limit; /* 3; LGV_OFF: keep all */
    int64_t sample_count;            /* pictures in a sample grid, 16 / none; LGV_OFF: no grids */
    int64_t sample_steps;            /* DDIM steps of a grid, 50 */
    int64_t
        eval_steps; /* figures of samples every so many steps and at the end, none; needs eval_features */
    const char *eval_features;    /* path for lgv_extractor_open (eval.h) */
    int64_t eval_samples;         /* pictures drawn for each evaluation, 500 */
    int64_t eval_inference_steps; /* DDIM steps of these, 20 */
    int64_t log_steps;            /* a line of log.jsonl every so many steps, 1 */
    int allow_data_change;        /* resume with other pictures */
    int overwrite;                /* replace a run in output_dir */
    const char *kernel;           /* tests: forces kernels (plan.h) */
    int no_fusion;                /* tests */
} lgv_train_options;

LGV_API const char *lgv_loss_name(lgv_loss_kind loss); /* "mse", "hybrid", "vlb"; never NULL */
LGV_API lgv_status lgv_loss_parse(const char *name, lgv_loss_kind *out, lgv_error *err);
/* "uniform", "loss-second-moment"; '_' and '-' are the same. */
LGV_API const char *lgv_schedule_sampler_name(lgv_schedule_sampler sampler);
LGV_API lgv_status lgv_schedule_sampler_parse(const char *name, lgv_schedule_sampler *out,
                                              lgv_error *err);
/* Fills every zero field by its default for this data set. Errors: values that make no sense. */
LGV_API lgv_status lgv_train_options_resolve(lgv_train_options *options, const lgv_dataset *data,
                                             lgv_error *err);

/* ---- a run's folder, before the trainer exists ---- */
typedef struct lgv_checkpoint lgv_checkpoint;

/* from NULL: a fresh start; LGV_ERR_EXISTS when output_dir already holds a run and overwrite is 0.
   from "latest": the newest complete checkpoint of output_dir, *out NULL when there is none. Else a
   checkpoint folder. Everything in it is checked against the SHA-256 in trainer.json; when it is damaged
   the error names the newest earlier checkpoint that is whole. */
LGV_API lgv_status lgv_checkpoint_find(const char *output_dir, const char *from, int overwrite,
                                       lgv_checkpoint **out, lgv_error *err);
LGV_API void lgv_checkpoint_free(lgv_checkpoint *c);
LGV_API const char *lgv_checkpoint_path(const lgv_checkpoint *c);
LGV_API int64_t lgv_checkpoint_step(const lgv_checkpoint *c);
/* Folder of the network's weights (not averaged), to load the model from. */
LGV_API const char *lgv_checkpoint_network(const lgv_checkpoint *c);
/* The data sources and the scheduler configuration the run was started with; *out is valid while c lives. */
LGV_API int lgv_checkpoint_sources(const lgv_checkpoint *c, const lgv_data_source **out);
LGV_API lgv_status lgv_checkpoint_scheduler(const lgv_checkpoint *c, lgv_scheduler_config *out,
                                            lgv_error *err);
/* Puts the run's value where the caller's option is zero. Options the caller stated otherwise are kept;
   lgv_checkpoint_changes then has a line for each ("learning_rate: 1e-4, was 2e-4"; "not bit-exact: ..."
   for those that change results other than by intent). Call before opening the data set and the trainer. */
LGV_API lgv_status lgv_checkpoint_merge(lgv_checkpoint *c, lgv_train_options *options,
                                        lgv_dataset_options *data, lgv_error *err);
LGV_API int lgv_checkpoint_changes(const lgv_checkpoint *c);
LGV_API const char *lgv_checkpoint_change_at(const lgv_checkpoint *c, int i);

/* ---- the trainer ---- */
/* Everything passed in is borrowed until lgv_trainer_free (cfg and options are copied). With
   resume NULL the weights are the model's (loaded or freshly initialised from the seed). With a
   checkpoint the run goes on bit for bit where it was. Writes to output_dir: checks that there is
   room, langevin.json, scheduler/, model_index.json. */
LGV_API lgv_status lgv_trainer_new(lgv_model *model, lgv_dataset *data,
                                   const lgv_scheduler_config *cfg, lgv_device *device,
                                   const lgv_train_options *options, lgv_checkpoint *resume,
                                   lgv_trainer **out, lgv_error *err);
LGV_API void lgv_trainer_free(lgv_trainer *t);

typedef struct lgv_trainer_info {
    lgv_train_options options; /* defaults filled in */
    int64_t step;              /* optimizer steps done */
    int64_t position;          /* samples consumed */
    int64_t pictures, validation_pictures;
    int64_t effective_batch;
    int64_t parameters;
    double epochs; /* the run's length in passes over the data */
    size_t arena_bytes, store_bytes,
        data_bytes; /* activations; weights, gradients, optimizer; pictures once all were read */
    double flops_per_step;
    int64_t skipped_updates; /* non-finite gradients so far */
    int64_t lr_horizon;
    int64_t next_checkpoint;     /* step */
    const char *last_checkpoint; /* path of the newest good one, NULL when none */
} lgv_trainer_info;
LGV_API void lgv_trainer_describe(const lgv_trainer *t, lgv_trainer_info *out);
/* The store (sets weight, grad, exp_avg, exp_avg_sq and ema), for reading and for plans of one's own. */
LGV_API lgv_store *lgv_trainer_store(lgv_trainer *t);
/* Sentences for the start of a run that a person should see (few pictures, "not bit-exact: ..."). */
LGV_API int lgv_trainer_notes(const lgv_trainer *t);
LGV_API const char *lgv_trainer_note_at(const lgv_trainer *t, int i);

typedef struct lgv_train_report {
    int64_t step;    /* after this one */
    double loss;     /* of the effective batch */
    double accuracy; /* of a classifier: share of the batch that it named right; else 0 */
    double lr, grad_norm, ema_decay;
    int skipped; /* 1: the gradient was not finite and nothing was written */
    int64_t skipped_updates, broken_pictures;
    double seconds;            /* of this step */
    double samples_per_second; /* smoothed */
    double loader_wait;        /* seconds this step waited for pictures */
    double epoch;              /* passes over the data, with fraction */
} lgv_train_report;

/* One optimizer step. LGV_ERR_NUMERIC when the loss has exploded (max_loss_growth); the sentence names the
   last good checkpoint. After another error the step has not been done and may be tried again. */
LGV_API lgv_status lgv_trainer_step(lgv_trainer *t, lgv_train_report *report, lgv_error *err);

/* Loss (unweighted mean squared error) on the EMA weights over the validation pictures (up to 500; a classifier's:
   cross-entropy over up to 500, at the end of a run over all), with fixed noise and timesteps, also by quartile of t. pictures 0: there are none and nothing was computed. */
typedef struct lgv_validation {
    int64_t pictures;
    double loss, quartile[4];
    double accuracy; /* of a classifier; its quartiles mean nothing */
} lgv_validation;
LGV_API lgv_status lgv_trainer_validate(lgv_trainer *t, lgv_validation *out, lgv_error *err);

/* Draws eval_samples pictures (EMA weights, DDIM, fixed seeds) and compares them with up to 10,000 training pictures in
   the feature space of eval_features. */
LGV_API lgv_status lgv_trainer_evaluate(lgv_trainer *t, lgv_figures *out, lgv_error *err);

/* Writes OUTPUT/checkpoint-N, refreshes the pipeline in OUTPUT, deletes checkpoints beyond the limit; only the
   first while the loss is not finite or too high, so that nothing good is replaced. LGV_ERR_NUMERIC, and
   nothing is written, when weights are not finite. After a failure everything saved before is still there,
   and the call may be tried again. */
LGV_API lgv_status lgv_trainer_save(lgv_trainer *t, lgv_error *err);
/* Draws the sample grid (EMA weights, DDIM, fixed noise) and writes it as PNG; NULL: OUTPUT/samples/STEP.png. */
LGV_API lgv_status lgv_trainer_sample(lgv_trainer *t, const char *path, lgv_error *err);

/* ---- the whole run ---- */
typedef enum lgv_train_event_kind {
    LGV_TRAIN_STEPPED = 0, /* report */
    LGV_TRAIN_NOTE,        /* text: something a person should read */
    LGV_TRAIN_SAVED,       /* text: the checkpoint's folder */
    LGV_TRAIN_SAMPLED,     /* text: the grid's file */
    LGV_TRAIN_VALIDATED,   /* validation */
    LGV_TRAIN_EVALUATED,   /* figures */
    LGV_TRAIN_SAMPLING /* told between the steps of a sample grid, so that the caller can stop it */
} lgv_train_event_kind;

typedef struct lgv_train_event {
    lgv_train_event_kind kind;
    const char *text;
    const lgv_train_report *report;
    const lgv_validation *validation;
    const lgv_figures *figures;
    const lgv_samples *samples; /* LGV_TRAIN_SAMPLED: what the grid shows */
} lgv_train_event;

/* Return nonzero to stop: the step is finished, a checkpoint is saved, and lgv_trainer_run returns
   LGV_ERR_CANCELLED. */
typedef int (*lgv_train_callback)(void *user, const lgv_train_event *event);

/* Steps until max_train_steps: log.jsonl; grids at 100, 300, 1000, 3000 and at each checkpoint after that
   (together at most 5 % of the time); checkpoints and with each a validation; all three at the end. */
LGV_API lgv_status lgv_trainer_run(lgv_trainer *t, lgv_train_callback callback, void *user,
                                   lgv_error *err);

#ifdef __cplusplus
}
#endif
#endif
