/* network.h - the networks of the golden files (tools/golden/unet2d.py, dit.py, originals.py) with their loss and
   gradients, planned on a device with the files' weights and inputs. Weights and gradients go by the names of one of the
   network's formats: the first whose names the file's gradients have. A failing step ends the test. */
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
    int format; /* of the names in the file */
} network;

void network_open(network *r, const char *name); /* unet2d_NAME: model and graph */
void network_open_file(network *r, const char *file); /* the same of any golden file, by its name */
/* Device, store and plan. */
void network_plan(network *r, const char *device, int threads, const lgv_plan_options *options);
void network_write_inputs(network *r); /* and the step block */
void network_fill(const network *r, lgv_store *store); /* the set "weight" with hash weights */
/* Of the plan that has run, by golden_error and golden_gradient_error; worst: the tensor whose gradient is farthest. */
double network_output_error(network *r);
double network_gradient_error(network *r, char worst[128]);
void network_unplan(network *r);       /* drops what network_plan made */
void network_close(network *r);

#endif
