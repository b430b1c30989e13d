/* training.h - small training runs for tests: a folder of pictures, a tiny network, a trainer. */
#ifndef LGV_TEST_TRAINING_H
#define LGV_TEST_TRAINING_H

#include "langevin/train.h"

enum { TRAINING_SIDE = 16, TRAINING_CHANNELS = 3 };

/* Writes n PNG pictures (random rectangles, a function of their number) to the scratch folder
 * `name`. */
void training_pictures(const char *name, int n, int side, int channels);

/* Everything a trainer borrows, and the trainer. */
typedef struct training {
    lgv_device *device;
    lgv_dataset *data;
    lgv_model *model;
    lgv_scheduler_config cfg;
    lgv_checkpoint *resume;
    lgv_trainer *trainer;
} training;

/* A network of two levels with attention and dropout, 16 channels. */
extern const char *const training_config;

typedef struct training_setup {
    const char *data;       /* folder of training_pictures */
    const char *config;     /* config.json text; NULL: training_config */
    const char *device;     /* NULL: "cpu" */
    int threads;            /* 0: 1 */
    const char *resume;     /* lgv_checkpoint_find's `from`; NULL: fresh */
    const char *prediction; /* NULL: epsilon */
    lgv_dataset_options data_options;
    lgv_train_options options;
} training_setup;

/* Fails the test when something goes wrong, except: */
training *training_new(const training_setup *setup);
/* this one, which returns the status of the first failing call and then no training. */
lgv_status training_try(const training_setup *setup, training **out, lgv_error *err);
void training_free(training *t);

/* A hash of the sets weight, exp_avg, exp_avg_sq and (if there) ema. */
uint64_t training_hash(const training *t);
/* n steps; loss[i] may be NULL. Fails the test when a step fails. */
void training_steps(training *t, int n, double *loss);

#endif
