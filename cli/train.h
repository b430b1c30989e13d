/* train.h - the command line of `langevin train` as the library's options. */
#ifndef LANGEVIN_CLI_TRAIN_H
#define LANGEVIN_CLI_TRAIN_H

#include "cli.h"
#include "langevin/train.h"

typedef struct train_args {
    const lgv_data_source *data; /* n_data of them */
    int n_data;
    const char *output; /* NULL where not stated */
    const char *model, *resume;
    lgv_train_options train; /* zero where not stated */
    lgv_dataset_options pictures;
    cli_device_options device;
    lgv_condition condition; /* of a new network */
    int condition_scale;
    bool learned_variance; /* a new network gives a variance, too */
    bool class_conditional;
    bool noisy; /* a classifier of pictures with noise */
    bool preview; /* show new sample grids in the terminal */
} train_args;

/* -1 to go on, else the exit code. Everything points into the command line or to static memory. */
int train_args_read(const cli_command *self, int argc, const char **argv, train_args *out);

/* What the command line says about the noise schedule and the prediction, into cfg. */
lgv_status train_args_schedule(lgv_scheduler_config *cfg, lgv_error *err);

/* A stated 0 looks unstated to lgv_checkpoint_merge where 0 is a value of its own (seed, snr_gamma,
   noise_offset). Puts it back and prints what changed. Call after the merge. */
void train_args_zeros(lgv_train_options *merged);

#endif
