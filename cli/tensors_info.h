/* tensors_info.h - what a file of safetensors or torch.save holds, for `langevin info`. */
#ifndef LANGEVIN_CLI_TENSORS_INFO_H
#define LANGEVIN_CLI_TENSORS_INFO_H

#include <stdbool.h>

#include "langevin/status.h"

/* Whether a path is such a file. */
bool tensors_is(const char *path);
lgv_status tensors_info(const char *path, int json, lgv_error *err);

#endif
