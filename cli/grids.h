/* grids.h - the sample grids of a run as an animation. */
#ifndef LANGEVIN_CLI_GRIDS_H
#define LANGEVIN_CLI_GRIDS_H

#include "langevin/status.h"

/* FOLDER/samples/NNNNNN.png, each with its step below, into FOLDER/samples.gif: at most 32 of them,
   no wider than 512 pixels. Nothing is written before there are two. err is not NULL. */
lgv_status cli_grids_animate(const char *folder, lgv_error *err);

#endif
