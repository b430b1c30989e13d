/* test_unet2d_golden.c - outputs and parameter gradients of UNet2DModel against diffusers, for
   every configuration of tools/golden/unet2d.py, on every level of this machine's processor.
   Tolerances: output 1e-5 of its largest entry (float32 sums in another order: PyTorch's own
   float32 run is that far from float64); gradients 1e-4 by verify's rule (design.md 7). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "golden.h"
#include "langevin/model.h"
#include "langevin/ops.h"
#include "langevin/safetensors.h"

static const char *const names[] = {
    "plain",
    "ddpm_cifar10",
    "demo",
    "attention",
    "head_dim",
    "resnet_samplers",
    "resnet_samplers_default",
    "skip",
    "skip_nogroups",
    "skip_mixed",
    "learned",
    "class_table",
    "class_timestep",
    "class_identity",
    "fourier_class",
    "scale_shift",
    "scale_shift_norm",
    "no_mid",
    "odd_channels",
    "one_level",
    "k_blocks",
};
static const char *const levels[] = {"scalar", "avx2", "avx512"};
enum {
    NAMES = sizeof names / sizeof names[0],
    LEVELS = sizeof levels / sizeof levels[0],
    TESTS = NAMES * (LEVELS + 1)
};

typedef struct one_case {
    const char *name, *level;
    int no_fusion;
    char title[64];
} one_case;

#define OK(call)                                                                                   \
    do {                                                                                           \
        lgv_error error_ = {0};                                                                    \
        lgv_error *err = &error_;                                                                  \
        if ((call) != LGV_OK) fail_msg("%s: %s", #call, error_.text);                              \
    } while (0)

/* What one case runs with. */
typedef struct rig {
    lgv_safetensors *file;
    lgv_model *model;
    lgv_graph *graph;
    lgv_device *device;
    lgv_store *store;
    lgv_plan *plan;
    int64_t N, H, W;
} rig;

static void open_model(rig *r, const char *name)
{
    char file[64];
    lgv_unet2d_config c;
    snprintf(file, sizeof file, "unet2d_%s", name);
    r->file = golden_open(file);
    const char *config = golden_metadata(r->file, "config");
    OK(lgv_unet2d_config_parse(config, strlen(config), name, &c, err));
    OK(lgv_model_new_unet2d(&c, &r->model, err));
    const lgv_tensor_info *sample = lgv_safetensors_find(r->file, "input.sample");
    assert_non_null(sample);
    r->N = sample->dim[0];
    r->H = sample->dim[2];
    r->W = sample->dim[3];
}

/* The network, its loss against input.target and the gradients of all trained parameters. */
static void build(rig *r)
{
    const lgv_model_info *info = lgv_model_describe(r->model);
    lgv_graph *g = r->graph = lgv_graph_new();
    lgv_model_inputs in;
    lgv_id y;
    lgv_model_inputs_none(&in);
    in.sample =
        lgv_input(g, "sample", LGV_F32, 4, (int64_t[]){r->N, r->H, r->W, info->in_channels});
    lgv_model_inputs_from_step(r->model, g, r->N, &in);
    OK(lgv_model_build(r->model, g, &in, &y, err));
    lgv_graph_output(g, y, "output");
    lgv_id target =
        lgv_input(g, "target", LGV_F32, 4, (int64_t[]){r->N, r->H, r->W, info->out_channels});
    lgv_id loss =
        lgv_weighted_sum(g, lgv_mse_rows(g, y, target), lgv_step_row(g, r->N, LGV_FIELD_WEIGHT));

    int n = lgv_graph_params(g);
    lgv_id *param = calloc((size_t)n, sizeof *param), *grad = calloc((size_t)n, sizeof *grad);
    for (int i = 0; i < n; i++) param[i] = lgv_graph_param_at(g, i, NULL, NULL);
    OK(lgv_graph_grad(g, 1, &loss, NULL, n, param, grad, err));
    for (int i = 0; i < n; i++) {
        const char *name;
        int frozen;
        lgv_graph_param_at(g, i, &name, &frozen);
        if (!frozen && grad[i] != LGV_NONE) lgv_assign(g, "grad", name, grad[i]);
    }
    free(param);
    free(grad);
    OK(lgv_graph_status(g, err));
}

static void make_plan(rig *r, const one_case *c)
{
    char spec[32];
    snprintf(spec, sizeof spec, "cpu:%s", c->level);
    OK(lgv_device_new(spec, 1, &r->device, err));
    OK(lgv_store_new(r->device, &r->store, err));
    OK(lgv_store_declare(r->store, r->graph, err));
    OK(lgv_store_add_set(r->store, "weight", err));
    OK(lgv_store_add_set(r->store, "grad", err));
    OK(golden_fill(r->store, "weight", err));
    lgv_program program = {"all", r->graph};
    lgv_plan_options options = {.no_fusion = c->no_fusion};
    OK(lgv_plan_new(r->store, 1, &program, &options, &r->plan, err));
}

static void write_picture(rig *r, const char *input, const char *tensor)
{
    int64_t count;
    float *x = golden_floats(r->file, tensor, &count);
    OK(lgv_plan_write_nchw(r->plan, input, x, count, err));
    free(x);
}

static void write_inputs(rig *r)
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
        OK(lgv_plan_write(r->plan, "class_vector", label, labels->count, err));
    write_picture(r, "sample", "input.sample");
    write_picture(r, "target", "input.target");
    free(t);
    free(label);
}

static double output_error(rig *r)
{
    int64_t count;
    float *want = golden_floats(r->file, "output", &count),
          *have = malloc((size_t)count * sizeof *have);
    OK(lgv_plan_read_nchw(r->plan, "output", have, count, err));
    double error = golden_error(have, want, count, 0);
    free(want);
    free(have);
    return error;
}

/* The largest error over all recorded gradients; every trained parameter must have one. */
static double gradient_error(rig *r, const char **worst)
{
    float *G = golden_floats(r->file, "grad_max", NULL);
    double largest = 0;
    for (int i = 0; i < lgv_store_count(r->store); i++) {
        int rank, frozen;
        int64_t dim[LGV_MAX_RANK], n = 1;
        char text[512];
        const char *name = lgv_store_at(r->store, i, &rank, dim, &frozen);
        if (frozen) continue;
        for (int k = 0; k < rank; k++) n *= dim[k];
        snprintf(text, sizeof text, "grad.%s", name);
        float *g = malloc((size_t)n * sizeof *g), *b = golden_floats(r->file, text, NULL);
        OK(lgv_store_read(r->store, "grad", i, g, n, err));
        double error = golden_gradient_error(name, g, n, b, G[0]);
        if (!(error <= largest)) {
            largest = error;
            *worst = name;
        }
        free(g);
        free(b);
    }
    free(G);
    return largest;
}

static void close_rig(rig *r)
{
    lgv_plan_free(r->plan);
    lgv_store_free(r->store);
    lgv_device_free(r->device);
    lgv_graph_free(r->graph);
    lgv_model_free(r->model);
    lgv_safetensors_close(r->file);
}

static void golden(void **state)
{
    const one_case *c = *state;
    rig r = {0};
    const char *worst = "-";
    if (!lgv_cpu_has(c->level)) {
        print_message("this processor has no %s\n", c->level);
        skip();
    }
    open_model(&r, c->name);
    build(&r);
    make_plan(&r, c);
    write_inputs(&r);
    OK(lgv_plan_run(r.plan, NULL, err));
    double out = output_error(&r), grad = gradient_error(&r, &worst);
    print_message("%s: output %.1e, gradients %.1e (%s)\n", c->title, out, grad, worst);
    assert_true(out <= 1e-5);
    assert_true(grad <= 1e-4);
    close_rig(&r);
}

int main(void)
{
    static one_case cases[TESTS];
    static struct CMUnitTest tests[TESTS];
    for (int i = 0; i < TESTS; i++) {
        one_case *c = &cases[i];
        c->name = names[i % NAMES];
        c->no_fusion = i / NAMES == LEVELS;
        c->level = levels[c->no_fusion ? 0 : i / NAMES];
        snprintf(c->title, sizeof c->title, "%s, %s%s", c->name, c->level,
                 c->no_fusion ? ", passes off" : "");
        tests[i] = (struct CMUnitTest){.name = c->title, .test_func = golden, .initial_state = c};
    }
    return _cmocka_run_group_tests("unet2d_golden", tests, TESTS, NULL, NULL);
}
