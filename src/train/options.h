/* options.h - the options of a run as JSON, for checkpoints and langevin.json. */
#ifndef LGV_TRAIN_OPTIONS_H
#define LGV_TRAIN_OPTIONS_H

#include <jansson.h>

#include "langevin/train.h"

/* New references; NULL when out of memory. */
json_t *lgv_train_options_json(const lgv_train_options *options);
json_t *lgv_dataset_options_json(const lgv_dataset_options *options);

/* Puts the stored value where the caller's is zero; calls changed(arg, line) for each that differs.
 */
typedef lgv_status (*lgv_option_changed)(void *arg, char *line,
                                         lgv_error *err); /* takes line over */
lgv_status lgv_train_options_merge(const json_t *stored, lgv_train_options *options,
                                   lgv_option_changed changed, void *arg, lgv_error *err);
lgv_status lgv_dataset_options_merge(const json_t *stored, lgv_dataset_options *options,
                                     lgv_option_changed changed, void *arg, lgv_error *err);

#endif
