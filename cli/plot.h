/* plot.h - the curves of a training run, drawn from its log. */
#ifndef LANGEVIN_CLI_PLOT_H
#define LANGEVIN_CLI_PLOT_H

#include "langevin/status.h"

typedef struct cli_plot cli_plot;

/* log: path of a log.jsonl; copied. NULL when there is no memory. */
cli_plot *cli_plot_new(const char *log);
void cli_plot_free(cli_plot *p);
/* Reads what the log has gained since the last call, and draws loss (raw, smoothed, validation) and
   learning rate into a PNG, which is replaced atomically. Nothing is written for an empty log. */
lgv_status cli_plot_write(cli_plot *p, const char *title, const char *png, lgv_error *err);

#endif
