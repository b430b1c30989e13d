/* network.h - the networks of the golden files (tools/golden/unet2d.py) with their loss and gradients, planned on a
   device with the files' weights and inputs. A failing step ends the test. */
#ifndef LGV_TEST_NETWORK_H
#define LGV_TEST_NETWORK_H

#include "golden.h"
#include "langevin/model.h"

typedef struct network {
    lgv_safetensors *file;
    lgv_model *model;
    lgv_graph *graph; /* output "output"; assigns every trained parameter's gradient to "grad" */
    lgv_device *device;
    lgv_store *store;
    lgv_plan *plan; /* one program */
    int64_t N, H, W;
} network;

void network_open(network *r, const char *name); /* unet2d_NAME: model and graph */
void network_open_file(network *r, const char *file); /* the same of any golden file, by its name */
/* Device, store and plan. */
void network_plan(network *r, const char *device, int threads, const lgv_plan_options *options);
void network_write_inputs(network *r); /* and the step block */
/* Of the plan that has run, by golden_error. */
double network_output_error(network *r);
void network_unplan(network *r);       /* drops what network_plan made */
void network_close(network *r);

#endif
