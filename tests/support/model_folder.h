/* model_folder.h - the network of tools/golden/scheduler_pipeline.py as a folder on disk. */
#ifndef LGV_TEST_MODEL_FOLDER_H
#define LGV_TEST_MODEL_FOLDER_H

#include "langevin/plan.h"

/* Writes it to the scratch folder `name` (configuration from metadata config_key, golden weights, scheduler) and
   returns the path. */
const char *golden_model_folder(lgv_device *device, const char *name, const char *config_key);

#endif
