/* network.h - a network with random weights and its plan, for info and bench. */
#ifndef LANGEVIN_CLI_NETWORK_H
#define LANGEVIN_CLI_NETWORK_H

#include "langevin/model.h"

/* Training: programs "forward_backward" (mean squared error against Philox noise) and "update" (clip, AdamW, EMA).
   Sampling: one program, network and one DDIM step; guided: with two rows of the network for each picture. Gradient: of
   a classifier, for its pictures, as it guides. Inputs "x"; the step block is filled so that it can run.
   The memory budget of options includes the sets of the store here.
   A dry network takes no memory and cannot run: it is there to be described. */
typedef enum cli_network_kind {
    CLI_SAMPLING,
    CLI_TRAINING,
    CLI_GUIDED,
    CLI_GRADIENT
} cli_network_kind;

typedef struct cli_network {
    lgv_device *device; /* borrowed */
    lgv_store *store;
    lgv_plan *plan;
    int training, dry;
} cli_network;

lgv_status cli_network_new(const lgv_model *model, lgv_device *device, cli_network_kind kind,
                           int dry, int64_t batch, int64_t h, int64_t w,
                           const lgv_plan_options *options, cli_network *out, lgv_error *err);
void cli_network_free(cli_network *n);
/* One training or sampling step. */
lgv_status cli_network_step(cli_network *n, lgv_error *err);

#endif
