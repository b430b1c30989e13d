/* golden_pipeline.h - a pipeline over the network and the scheduler that a golden file's metadata describe ("config",
   "scheduler"), with hash weights, on two threads. A failing step ends the test. */
#ifndef LGV_TEST_GOLDEN_PIPELINE_H
#define LGV_TEST_GOLDEN_PIPELINE_H

#include "golden.h"
#include "langevin/pipeline.h"

typedef struct golden_pipeline {
    lgv_safetensors *file;
    lgv_device *device;
    lgv_model *model;
    lgv_store *store;
    lgv_pipeline *pipeline;
} golden_pipeline;

void golden_pipeline_open(golden_pipeline *b, const char *file);
void golden_pipeline_close(golden_pipeline *b);

#endif
