/* model_folder.h - the networks of tools/golden/scheduler_pipeline.py, and classifiers, as folders on disk. */
#ifndef LGV_TEST_MODEL_FOLDER_H
#define LGV_TEST_MODEL_FOLDER_H

#include "langevin/model.h"

/* The processor with two threads, one for the whole program. */
lgv_device *golden_device(void);
/* Teardown of a group: frees it and removes the scratch folder. */
int golden_device_free(void **state);
/* Writes it to the scratch folder `name` (configuration from metadata config_key, golden weights, scheduler) and
   returns the path. */
const char *golden_model_folder(lgv_device *device, const char *name, const char *config_key);
/* The same of a classifier with golden weights. scheduler: text of a scheduler_config.json, NULL: there is none. */
const char *golden_classifier_folder(lgv_device *device, const char *name,
                                     const lgv_unet2d_config *config, int classes,
                                     const char *const *names, int noisy, const char *scheduler);

#endif
