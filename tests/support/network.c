/* network.c - golden networks on a device. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "langevin/ops.h"
#include "network.h"
#include "ok.h"
#include "scratch.h"

static void open_model(network *r, const char *file)
{
    r->file = golden_open(file);
    const char *config = golden_metadata(r->file, "config"), *path = scratch_path("network.json");
    scratch_write(path, config, strlen(config));
    MUST(lgv_model_open(path, NULL, &r->model, err));
    const lgv_tensor_info *sample = lgv_safetensors_find(r->file, "input.sample");
    assert_non_null(sample);
    r->N = sample->dim[0];
    r->H = sample->dim[2];
    r->W = sample->dim[3];
}

/* The network, its loss against input.target and the gradients of all trained parameters. */
static void build(network *r)
{
    const lgv_model_info *info = lgv_model_describe(r->model);
    lgv_graph *g = r->graph = lgv_graph_new();
    lgv_model_inputs in;
    lgv_id y;
    lgv_model_inputs_none(&in);
    in.sample =
        lgv_input(g, "sample", LGV_F32, 4, (int64_t[]){r->N, r->H, r->W, info->in_channels});
    lgv_model_inputs_from_step(r->model, g, r->N, &in);
    MUST(lgv_model_build(r->model, g, &in, &y, err));
    lgv_graph_output(g, y, "output");
    lgv_id target =
        lgv_input(g, "target", LGV_F32, 4, (int64_t[]){r->N, r->H, r->W, info->out_channels});
    lgv_id loss =
        lgv_weighted_sum(g, lgv_mse_rows(g, y, target), lgv_step_row(g, r->N, LGV_FIELD_WEIGHT));

    int n = lgv_graph_params(g);
    lgv_id *param = calloc((size_t)n, sizeof *param), *grad = calloc((size_t)n, sizeof *grad);
    for (int i = 0; i < n; i++) param[i] = lgv_graph_param_at(g, i, NULL, NULL);
    MUST(lgv_graph_grad(g, 1, &loss, NULL, n, param, grad, err));
    for (int i = 0; i < n; i++) {
        const char *name;
        int frozen;
        lgv_graph_param_at(g, i, &name, &frozen);
        if (!frozen && grad[i] != LGV_NONE) lgv_assign(g, "grad", name, grad[i]);
    }
    free(param);
    free(grad);
    MUST(lgv_graph_status(g, err));
}

void network_open_file(network *r, const char *file)
{
    *r = (network){0};
    open_model(r, file);
    build(r);
}

void network_open(network *r, const char *name)
{
    char file[64];
    snprintf(file, sizeof file, "unet2d_%s", name);
    network_open_file(r, file);
}

void network_plan(network *r, const char *device, int threads, const lgv_plan_options *options)
{
    MUST(lgv_device_new(device, threads, &r->device, err));
    MUST(lgv_store_new(r->device, &r->store, err));
    MUST(lgv_store_declare(r->store, r->graph, err));
    MUST(lgv_store_add_set(r->store, "weight", err));
    MUST(lgv_store_add_set(r->store, "grad", err));
    MUST(golden_fill(r->store, "weight", err));
    lgv_program program = {"all", r->graph};
    MUST(lgv_plan_new(r->store, 1, &program, options, &r->plan, err));
}

static void write_picture(network *r, const char *input, const char *tensor)
{
    int64_t count;
    float *x = golden_floats(r->file, tensor, &count);
    MUST(lgv_plan_write_nchw(r->plan, input, x, count, err));
    free(x);
}

void network_write_inputs(network *r)
{
    lgv_step *step = lgv_plan_step(r->plan);
    const lgv_tensor_info *labels = lgv_safetensors_find(r->file, "input.class_labels");
    float *t = golden_floats(r->file, "input.timestep", NULL);
    float *label = labels ? golden_floats(r->file, "input.class_labels", NULL) : NULL;
    assert_int_equal(step->rows, r->N);
    for (int64_t i = 0; i < r->N; i++) {
        step->row[i].t = t[i];
        step->row[i].index = (int32_t)t[i];
        step->row[i].weight = 1.0f / (float)r->N;
        if (labels && labels->rank == 1) step->row[i].label = (int32_t)label[i];
    }
    if (labels && labels->rank == 2)
        MUST(lgv_plan_write(r->plan, "class_vector", label, labels->count, err));
    write_picture(r, "sample", "input.sample");
    write_picture(r, "target", "input.target");
    free(t);
    free(label);
}

double network_output_error(network *r)
{
    int64_t count;
    float *want = golden_floats(r->file, "output", &count),
          *have = malloc((size_t)count * sizeof *have);
    MUST(lgv_plan_read_nchw(r->plan, "output", have, count, err));
    double error = golden_error(have, want, count, 0);
    free(want);
    free(have);
    return error;
}

void network_unplan(network *r)
{
    lgv_plan_free(r->plan);
    lgv_store_free(r->store);
    lgv_device_free(r->device);
    r->plan = NULL;
    r->store = NULL;
    r->device = NULL;
}

void network_close(network *r)
{
    network_unplan(r);
    lgv_graph_free(r->graph);
    lgv_model_free(r->model);
    lgv_safetensors_close(r->file);
}
