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
#include "model/layout.h"
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

/* The entry of the file for a tensor's gradient. */
static const char *gradient_entry(const lgv_file_tensor *t, char text[600])
{
    snprintf(text, 600, "grad.%s", t->name);
    return text;
}

static int find_format(const network *r)
{
    char text[600];
    for (int format = 0; format < lgv_layout_formats(r->model); format++) {
        lgv_layout l;
        MUST(lgv_layout_make(r->model, format, &l, err));
        bool found = true;
        for (size_t i = 0; i < l.count && found; i++)
            if (l.tensor[i].param >= 0 && !r->model->param[l.tensor[i].param].frozen)
                found = lgv_safetensors_find(r->file, gradient_entry(&l.tensor[i], text)) != NULL;
        lgv_layout_free(&l);
        if (found) return format;
    }
    fail_msg("the file lacks gradients of this network");
    return -1;
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
    r->format = find_format(r);
}

void network_open(network *r, const char *name)
{
    char file[64];
    snprintf(file, sizeof file, "unet2d_%s", name);
    network_open_file(r, file);
}

/* Layers of a DiT whose output scales and gates others; with whole hash weights the network would explode. */
static bool is_modulation(const char *name)
{
    return strstr(name, "norm1.linear") || strstr(name, "adaLN_modulation") ||
           strstr(name, "proj_out_1");
}

/* What the tensors of the layout make of parameter `index`. */
static void fill_param(const lgv_model *m, const lgv_layout *l, int index, float *out)
{
    const lgv_model_param *p = &m->param[index];
    const int64_t width = lgv_param_elements(p) / p->dim[0];
    for (size_t i = 0; i < l->count; i++) {
        const lgv_file_tensor *t = &l->tensor[i];
        if (t->param != index) continue;
        const float factor = lgv_model_dit(m) && is_modulation(t->name) ? 0.1f : 1;
        float *x = malloc((size_t)(t->dim[0] * t->dim[1] * t->dim[2] * t->dim[3]) * sizeof *x);
        golden_parameter(t->name, t->rank, t->dim, x);
        for (int64_t k = 0; k < t->rows * width; k++) out[t->row * width + k] = x[k] * factor;
        free(x);
    }
}

void network_fill(const network *r, lgv_store *store)
{
    lgv_layout l;
    MUST(lgv_layout_make(r->model, r->format, &l, err));
    for (size_t i = 0; i < r->model->n_params; i++) {
        const lgv_model_param *p = &r->model->param[i];
        const int64_t n = lgv_param_elements(p);
        float *x = calloc((size_t)n, sizeof *x);
        fill_param(r->model, &l, (int)i, x);
        MUST(lgv_store_write(store, "weight", lgv_store_find(store, p->name), x, n, err));
        free(x);
    }
    lgv_layout_free(&l);
}

void network_plan(network *r, const char *device, int threads, const lgv_plan_options *options)
{
    MUST(lgv_device_new(device, threads, &r->device, err));
    MUST(lgv_store_new(r->device, &r->store, err));
    MUST(lgv_store_declare(r->store, r->graph, err));
    MUST(lgv_store_add_set(r->store, "weight", err));
    MUST(lgv_store_add_set(r->store, "grad", err));
    network_fill(r, r->store);
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

/* Rows [row, row + rows) of the parameter's gradient are the tensor's. */
static double tensor_error(const network *r, const lgv_file_tensor *t, double largest)
{
    const lgv_model_param *p = &r->model->param[t->param];
    const int64_t n = lgv_param_elements(p), width = n / p->dim[0];
    char text[600];
    float *g = malloc((size_t)n * sizeof *g),
          *b = golden_floats(r->file, gradient_entry(t, text), NULL);
    MUST(lgv_store_read(r->store, "grad", lgv_store_find(r->store, p->name), g, n, err));
    double error =
        golden_gradient_error(t->name, g + t->row * width, t->rows * width, b, largest);
    free(g);
    free(b);
    return error;
}

double network_gradient_error(network *r, char worst[128])
{
    lgv_layout l;
    float *G = golden_floats(r->file, "grad_max", NULL);
    double most = 0;
    snprintf(worst, 128, "-");
    MUST(lgv_layout_make(r->model, r->format, &l, err));
    for (size_t i = 0; i < l.count; i++) {
        const lgv_file_tensor *t = &l.tensor[i];
        if (t->param < 0 || r->model->param[t->param].frozen) continue;
        double error = tensor_error(r, t, (double)G[0]);
        if (error <= most) continue;
        most = error;
        snprintf(worst, 128, "%s", t->name);
    }
    lgv_layout_free(&l);
    free(G);
    return most;
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
