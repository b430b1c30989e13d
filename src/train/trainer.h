/* trainer.h - inside a trainer: what it holds, and how its files share the work.
   trainer.c makes one and steps, a task (diffusion.c, classifier.c) says what is learned, programs.c builds its graphs, state.c turns its state into JSON
   and back, save.c writes checkpoints, checkpoint.c finds and checks them, output.c keeps the run's
   folder, log.c tells the log and TensorBoard, run.c is the loop around. */
#ifndef LGV_TRAIN_TRAINER_H
#define LGV_TRAIN_TRAINER_H

#include <jansson.h>

#include "core/core.h"
#include "langevin/events.h"
#include "langevin/model.h"
#include "langevin/pipeline.h"
#include "langevin/rng.h"
#include "langevin/train.h"
#include "langevin/version.h"
#include "loader.h"

enum { LGV_BAD_STEPS = 10 }; /* steps in a row, loss or gradient not finite, that end a run */
enum { LGV_VALIDATION_MOST = 500 }; /* pictures of one validation */
enum { LGV_LOSS_HISTORY = 10 };     /* losses kept of each timestep, for importance sampling */
enum { LGV_LOSS_BINS = 20 };        /* of t, in the log */

/* The course of the loss (watch.c); means are those of its logarithm. */
typedef struct lgv_loss_watch {
    double sum, weight; /* exponentially weighted: the mean is sum / weight */
    double best;        /* lowest mean so far */
    int64_t best_step;
    int64_t seen; /* steps in it */
    int64_t high; /* steps in a row whose mean lies too far above the best */
} lgv_loss_watch;

/* Everything a checkpoint must bring back besides weights, optimizer and options. */
typedef struct lgv_train_state {
    int64_t step;     /* optimizer steps done */
    int64_t updates;  /* of these, those that changed the weights */
    int64_t position; /* samples consumed */
    int64_t skipped;  /* non-finite gradients so far */
    int64_t bad;      /* steps in a row just now whose loss or gradient was not finite */
    lgv_loss_watch watch;
    double seconds;           /* spent in steps */
    double sample_seconds;    /* spent in sample grids */
    double validation_loss;   /* of the last validation; 0 none */
    double validation_best;   /* the lowest so far */
    int64_t validation_rises; /* validations in a row, each worse than the one before */
    lgv_torch_rng torch,
        torch_epoch; /* LGV_RNG_TORCH: now, and before this epoch's order was drawn */
} lgv_train_state;

/* Tests feed pictures of their own: picture `index` as floats HWC. */
typedef lgv_status (*lgv_train_source)(void *arg, int64_t index, float *x0, lgv_error *err);

/* A training task: what is computed from a batch of pictures. All else (batches, optimizer, averages,
   checkpoints, log) is the trainer's. */
typedef struct lgv_task {
    bool pipeline; /* the network draws pictures: OUTPUT is a diffusers pipeline */
    /* Whether model and data fit the task. */
    lgv_status (*check)(const lgv_trainer *t, lgv_error *err);
    /* The graph from the input "x0" to *rows, the loss [N] of each row, for training or for validation. */
    lgv_status (*build)(const lgv_trainer *t, bool training, lgv_graph *g, lgv_id *rows,
                        lgv_error *err);
    /* Draws what a step needs besides pictures; NULL: nothing. */
    void (*draw)(lgv_trainer *t);
    /* The step block, and inputs besides x0, for rows first .. first+batch-1 of the effective batch. */
    lgv_status (*fill)(lgv_trainer *t, int64_t first, lgv_error *err);
    /* Looks at what a run of the training program left beside the loss; NULL: nothing. */
    lgv_status (*observe)(lgv_trainer *t, int64_t first, lgv_error *err);
    /* The row of picture i in a validation. */
    void (*validation_row)(const lgv_trainer *t, int64_t i, lgv_row *row);
    /* Adds how many of the first `rows` rows of the plan that has just run were named right. NULL: no names. */
    lgv_status (*hits)(lgv_trainer *t, lgv_plan *plan, int64_t rows, int64_t *hits, lgv_error *err);
} lgv_task;
extern const lgv_task lgv_task_diffusion, lgv_task_classifier; /* diffusion.c, classifier.c */

struct lgv_trainer {
    const lgv_task *task;
    lgv_model *model;   /* borrowed */
    lgv_dataset *data;  /* borrowed */
    lgv_device *device; /* borrowed */
    lgv_scheduler_config cfg;
    lgv_schedule *schedule;
    lgv_train_options options;
    char *output;       /* options.output_dir; NULL: none */
    int lock;           /* descriptor that holds the lock of output, -1 none */
    int log;            /* descriptor of log.jsonl, -1 none */
    lgv_events *events; /* OUTPUT/tensorboard; NULL: none, or a write failed */
    int ema;            /* the set "ema" exists */

    int64_t batch;                  /* rows of a run of the plan */
    int64_t effective;              /* rows of a step */
    int64_t side, channels, pixels; /* pixels: of one row, channels included */
    int64_t per_epoch;              /* samples */

    lgv_store *store;
    lgv_plan *train, *validate;
    lgv_pipeline *pipeline;            /* of sample grids, made when first needed */
    struct lgv_evaluation *evaluation; /* likewise; evaluate.c */
    lgv_loader *loader;
    int64_t loaded_epoch; /* LGV_RNG_TORCH: whose order the loader has, -1 none */
    uint8_t *bytes;       /* [effective][side][side][channels] */
    float *x0;            /* [batch][side][side][channels] */
    int64_t condition_channels;
    float *condition;     /* [batch][side][side][condition_channels]; NULL: the network sees none */
    uint8_t *mask;        /* [side][side], scratch */
    float *noise;         /* LGV_RNG_TORCH: [effective][channels][side][side] */
    float *offset;        /* LGV_RNG_TORCH with noise_offset: [effective][channels] */
    int64_t *t;           /* [effective] */
    double *t_weight;     /* [effective] what the draw of t asks of the loss: 1 for uniform draws */
    struct lgv_importance *importance; /* NULL: uniform draws */
    int32_t *label;       /* [effective], -1 none */
    int32_t null_label;   /* of a class-conditional network: stands for no class; -1 none */
    float *logits;        /* [batch][classes]; NULL without */
    int64_t *order;       /* LGV_RNG_TORCH: [pictures] */

    lgv_train_state state;
    double
        bin_loss[LGV_LOSS_BINS]; /* unweighted loss by timestep since the log last told, summed */
    int64_t bin_rows[LGV_LOSS_BINS];
    double rate;           /* samples per second, smoothed */
    int64_t saved;         /* step of the newest checkpoint, -1 none */
    int64_t refreshed;     /* step of the weights in OUTPUT's model, -1 unknown */
    char *last_saved;      /* path of the newest checkpoint */
    char *last_checkpoint; /* of the newest that was saved in good health */
    char **note;
    size_t notes, note_capacity;

    lgv_train_source source; /* tests */
    void *source_arg;
    int64_t source_count; /* pictures 0 .. source_count-1 in turn; 0: the order of the data set */
};

/* ---- programs.c ---- */
/* Makes store and plans: program "forward_backward" and "update" of t->train; t->validate. */
lgv_status lgv_trainer_plan(lgv_trainer *t, lgv_error *err);

/* ---- diffusion.c ---- */
int64_t lgv_validation_timestep(const lgv_trainer *t, int64_t i); /* of picture i */

/* ---- classes.c: nothing without a class-conditional network ---- */
/* Checks that network and pictures have the same classes, names them, and sets the options' default. */
lgv_status lgv_classes_prepare(lgv_trainer *t, lgv_error *err);
/* The labels of the pictures just fetched: some are dropped. */
void lgv_classes_draw(lgv_trainer *t);
/* What the network is told of a picture of this class (-1: none). */
int32_t lgv_classes_label(const lgv_trainer *t, int32_t label);
/* The pictures of a sample grid, about (and at most) so many, and their classes: label[about], left alone without. */
int64_t lgv_classes_of_grid(const lgv_trainer *t, int64_t about, int32_t *label);
bool lgv_classes_used(const lgv_trainer *t);

/* ---- trainer.c ---- */
extern const uint64_t lgv_validation_seed; /* of everything drawn for validations */
lgv_status lgv_trainer_note(lgv_trainer *t, lgv_error *err, const char *fmt, ...) LGV_PRINTF(3, 4);
/* Tests: pictures come from `read` instead of the data set. count > 0: they are taken in turn, and
   LGV_RNG_TORCH draws no order. Before the first step. */
void lgv_trainer_set_source(lgv_trainer *t, lgv_train_source read, void *arg, int64_t count);

/* ---- condition.c ---- */
lgv_status lgv_conditions_new(lgv_trainer *t, lgv_error *err); /* nothing without a condition */
/* Writes the input "condition" of the plan from t->x0 and the rows of its step block. */
lgv_status lgv_conditions_fill(lgv_trainer *t, lgv_plan *plan, lgv_error *err);
/* Of n pictures held back for validation (or of the first ones), out [n][condition_channels][side][side]. */
lgv_status lgv_conditions_example(lgv_trainer *t, int64_t n, float *out, lgv_error *err);

/* ---- importance.c ---- */
typedef struct lgv_importance {
    int64_t T;
    float *history; /* [T][LGV_LOSS_HISTORY], oldest first, NaN before there were so many; kept in checkpoints */
    double *cumulative; /* [T] probabilities, summed up */
} lgv_importance;
lgv_status lgv_importance_new(int64_t T, lgv_importance **out, lgv_error *err);
void lgv_importance_free(lgv_importance *s);
/* After history has changed. */
void lgv_importance_update(lgv_importance *s);
/* A timestep from u, uniform in [0,1), and the weight 1/(T p) of its loss. */
int64_t lgv_importance_draw(const lgv_importance *s, double u, double *weight);
void lgv_importance_observe(lgv_importance *s, int64_t t, float loss);

/* ---- watch.c ---- */
void lgv_watch_loss(lgv_trainer *t, double loss); /* of the step just done */
/* Nothing speaks against these weights: automatic checkpoints wait for it. */
bool lgv_watch_healthy(const lgv_train_state *s);
/* LGV_ERR_NUMERIC when the run is not worth going on; names the last good checkpoint. */
lgv_status lgv_watch_check(lgv_trainer *t, lgv_error *err);

/* Takes note of a validation; a sentence to tell (lgv_free) each time its loss has risen five times in a row,
   else NULL. */
char *lgv_watch_validation(lgv_train_state *s, double loss);

/* ---- state.c ---- */
json_t *lgv_train_state_json(const lgv_trainer *t);
lgv_status lgv_train_state_parse(const json_t *root, bool torch, lgv_train_state *out,
                                 lgv_error *err);

/* ---- checkpoint.c, save.c ---- */
struct lgv_checkpoint {
    char *path;
    const char *component; /* "unet": where its networks lie, raw and with _ema averaged */
    char *network;         /* folder of the raw one */
    json_t *root;            /* trainer.json */
    lgv_data_source *source; /* sources of them; the paths belong to root */
    int sources;
    int64_t step;
    char **change;
    size_t changes, change_capacity;
};
/* Checkpoints of a folder, ascending. Free *step with lgv_free. */
lgv_status lgv_checkpoints_list(const char *output, int64_t **step, size_t *count, lgv_error *err);
/* The N of "checkpoint-N", -1 when the name is another. */
int64_t lgv_checkpoint_named(const char *name);
char *lgv_checkpoint_folder(const char *output, int64_t step); /* OUTPUT/checkpoint-N */
/* The newest whole checkpoint of the folder that was saved in good health; NULL: none. lgv_free. */
char *lgv_checkpoint_last_good(const char *output);
/* Hash of trainer.json's content, in which the field "checksum" is not yet, or no longer. */
lgv_status lgv_checkpoint_checksum(const json_t *root, char hex[65], lgv_error *err);
/* OUTPUT's model is what the checkpoint resumed from says it must be. */
lgv_status lgv_trainer_repair(lgv_trainer *t, const lgv_checkpoint *from, lgv_error *err);
/* Weights, optimizer and state into the trainer, with notes about what is not bit-exact. */
lgv_status lgv_checkpoint_restore(const lgv_checkpoint *c, lgv_trainer *t, lgv_error *err);

/* ---- evaluate.c ---- */
lgv_status lgv_evaluation_open(lgv_trainer *t, lgv_error *err); /* checks eval_features */
void lgv_evaluation_free(struct lgv_evaluation *e);
/* callback NULL, or told between network calls. */
lgv_status lgv_evaluate(lgv_trainer *t, lgv_sample_callback callback, void *user, lgv_figures *out,
                        lgv_error *err);
/* The pipeline over the averaged weights. */
const char *lgv_trainer_sampler(const lgv_trainer *t); /* of grids and figures */
lgv_status lgv_trainer_pipeline(lgv_trainer *t, lgv_error *err);

/* ---- output.c ---- */
/* Takes the lock of the run's folder; a folder that does not exist yet is left so. */
lgv_status lgv_output_lock(lgv_trainer *t, lgv_error *err);
/* Prepares the folder of a run. Called last in making a trainer. */
lgv_status lgv_output_open(lgv_trainer *t, const lgv_checkpoint *resume, lgv_error *err);
void lgv_output_close(lgv_trainer *t);
/* Removes a file or folder of the run. It leaves its name first, for one that the next start clears: half a checkpoint
   must not look like a whole one. */
lgv_status lgv_output_remove(const char *path, lgv_error *err);
lgv_status lgv_output_write_index(const lgv_trainer *t, const char *folder,
                                  lgv_error *err); /* model_index.json, scheduler/ */
lgv_status lgv_output_log(lgv_trainer *t, json_t *line, lgv_error *err); /* takes line over */

/* ---- log.c ---- */
/* A line of log.jsonl and the same for TensorBoard; nothing without an output folder. */
lgv_status lgv_log_options(lgv_trainer *t, lgv_error *err); /* TensorBoard only */
lgv_status lgv_log_step(lgv_trainer *t, const lgv_train_report *p, lgv_error *err);
lgv_status lgv_log_timesteps(lgv_trainer *t, lgv_error *err); /* since the last time */
lgv_status lgv_log_validation(lgv_trainer *t, const lgv_validation *v, lgv_error *err);
lgv_status lgv_log_figures(lgv_trainer *t, const lgv_figures *f, double seconds, lgv_error *err);
lgv_status lgv_log_grid(lgv_trainer *t, const char *png, lgv_error *err); /* TensorBoard only */

#endif
