/* plot.h - the curves of a training run, drawn from its log. */
#ifndef LANGEVIN_CLI_PLOT_H
#define LANGEVIN_CLI_PLOT_H

#include "langevin/status.h"

typedef struct cli_plot cli_plot;

/* folder: of the run; copied. NULL when there is no memory. */
cli_plot *cli_plot_new(const char *folder);
void cli_plot_free(cli_plot *p);
/* Reads what log.jsonl has gained since the last call, and draws, as PNG and SVG each: loss (raw,
   smoothed, validation), gradient norm and learning rate; timesteps, the loss by timestep in the
   course of the run. err is not NULL. Nothing is written for an empty log. */
lgv_status cli_plot_write(cli_plot *p, lgv_error *err);

#endif
