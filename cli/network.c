/* network.c - a network with random weights and its plan, for info and bench. */
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "langevin/ops.h"
#include "langevin/rng.h"
#include "network.h"

static lgv_status build_network(const lgv_model *model, lgv_graph *g, lgv_id x, int64_t rows,
                                int training, lgv_id *out, lgv_error *err)
{
    lgv_model_inputs in;
    lgv_model_inputs_none(&in);
    lgv_model_inputs_from_step(model, g, rows, &in);
    in.sample = x;
    in.training = training;
    return lgv_model_build(model, g, &in, out, err);
}

static lgv_status training_graph(const lgv_model *model, lgv_graph *g, int64_t n, int64_t h,
                                 int64_t w, lgv_error *err)
{
    const lgv_model_info *info = lgv_model_describe(model);
    int64_t dim[4] = {n, h, w, info->in_channels};
    lgv_id x0 = lgv_input(g, "x", LGV_F32, 4, dim), pred;
    lgv_id noise = lgv_random_normal(g, 4, dim, lgv_rng_stream("noise"));
    lgv_id xt = lgv_row_axpby(g, x0, noise, lgv_step_row(g, n, LGV_FIELD_COEF),
                              lgv_step_row(g, n, LGV_FIELD_COEF + 1));
    lgv_status status = build_network(model, g, xt, n, 1, &pred, err);
    if (status) return status;
    int64_t odim[4] = {n, h, w, info->out_channels};
    lgv_id target = noise, rows;
    if (info->in_channels != info->out_channels && !info->labels)
        target = lgv_random_normal(g, 4, odim, lgv_rng_stream("target"));
    if (info->labels)
        rows = lgv_cross_entropy_rows(g, pred, lgv_step_row(g, n, LGV_FIELD_LABEL));
    else
        rows = lgv_mse_rows(g, pred, target);
    lgv_id loss = lgv_weighted_sum(g, rows, lgv_step_row(g, n, LGV_FIELD_WEIGHT));
    lgv_graph_output(g, loss, "loss");
    return lgv_graph_grad_params(g, loss, "grad", err);
}

static lgv_status sampling_graph(const lgv_model *model, lgv_graph *g, bool guided, int64_t n,
                                 int64_t h, int64_t w, lgv_error *err)
{
    const lgv_model_info *info = lgv_model_describe(model);
    lgv_id x = lgv_input(g, "x", LGV_F32, 4, (int64_t[]){n, h, w, info->in_channels}), out;
    lgv_status status = build_network(model, g, guided ? lgv_repeat_rows(g, x, 2) : x,
                                      guided ? 2 * n : n, 0, &out, err);
    if (status) return status;
    if (guided) out = lgv_guide(g, out, n, info->picture_channels);
    if (info->in_channels == info->out_channels && !info->labels)
        out = lgv_sampler_step(g, x, out, LGV_NONE, LGV_NONE);
    lgv_graph_output(g, out, "y");
    return lgv_graph_status(g, err);
}

static lgv_status gradient_graph(const lgv_model *model, lgv_graph *g, int64_t n, int64_t h,
                                 int64_t w, lgv_error *err)
{
    lgv_id x = lgv_input(g, "x", LGV_F32, 4,
                         (int64_t[]){n, h, w, lgv_model_describe(model)->in_channels}),
           logits, gradient;
    lgv_status status = build_network(model, g, x, n, 0, &logits, err);
    if (status) return status;
    lgv_id loss = lgv_cross_entropy_rows(g, logits, lgv_step_row(g, n, LGV_FIELD_LABEL)),
           weight = lgv_step_row(g, n, LGV_FIELD_WEIGHT);
    status = lgv_graph_grad(g, 1, &loss, &weight, 1, &x, &gradient, err);
    if (status) return status;
    lgv_graph_output(g, gradient, "y");
    return lgv_graph_status(g, err);
}

static lgv_status make_graph(const lgv_model *model, lgv_graph *g, cli_network_kind kind, int64_t n,
                             int64_t h, int64_t w, lgv_error *err)
{
    switch (kind) {
    case CLI_TRAINING: return training_graph(model, g, n, h, w, err);
    case CLI_GRADIENT: return gradient_graph(model, g, n, h, w, err);
    case CLI_SAMPLING:
    case CLI_GUIDED: break;
    }
    return sampling_graph(model, g, kind == CLI_GUIDED, n, h, w, err);
}

static void fill_step(cli_network *n, int64_t batch)
{
    lgv_step *s = lgv_plan_step(n->plan);
    for (int32_t i = 0; i < s->rows; i++) {
        lgv_row *r = &s->row[i];
        *r = (lgv_row){.seed = 1,
                       .sample = (uint64_t)i,
                       .t = 500,
                       .weight = 1.0f / (float)batch,
                       .index = 500,
                       .partner = -1};
        r->coef[0] = 0.8f; /* training: noising; sampling: predicted picture */
        r->coef[1] = n->training ? 0.6f : -0.6f;
        if (!n->training) {
            r->coef[LGV_SAMPLE_CLIP] = 1;
            r->coef[LGV_SAMPLE_C] = 0.8f;
            r->coef[LGV_SAMPLE_E] = 0.6f;
        }
    }
    const double scalar[] = {1e-4, 0.95, 0.999, 1e-8, 1e-6, 0.05, 0.001, 1, 0.999};
    memcpy(s->scalar, scalar, sizeof scalar);
}

/* What a budget for everything leaves for the plan. */
static lgv_status take_sets_off(const cli_network *n, size_t *budget, lgv_error *err)
{
    size_t sets = lgv_store_bytes(n->store);
    if (!*budget || *budget > sets) {
        *budget -= *budget ? sets : 0;
        return LGV_OK;
    }
    snprintf(err->text, sizeof err->text,
             "the memory budget of %zu MiB is too small: %s alone take %zu MiB", *budget >> 20,
             n->training ? "weights, gradients and the optimizer's state" : "the weights",
             (sets >> 20) + 1);
    return err->status = LGV_ERR_ARGUMENT;
}

static lgv_status make_plan(cli_network *n, const lgv_model *model, lgv_graph *g, lgv_graph *update,
                            const lgv_plan_options *options, lgv_error *err)
{
    static const char *const sets[] = {"weight", "grad", "exp_avg", "exp_avg_sq", "ema"};
    lgv_status status = n->dry ? lgv_store_new_dry(n->device, &n->store, err)
                               : lgv_store_new(n->device, &n->store, err);
    if (!status) status = lgv_store_declare(n->store, g, err);
    for (int i = 0; i < (n->training ? 5 : 1) && !status; i++)
        status = lgv_store_add_set(n->store, sets[i], err);
    if (!status && !n->dry) status = lgv_model_init(model, n->store, "weight", NULL, 0, err);
    lgv_plan_options left = options ? *options : (lgv_plan_options){0};
    if (!status) status = take_sets_off(n, &left.memory_budget, err);
    if (n->training) lgv_graph_output(update, lgv_adamw(update, 1), "norm");
    lgv_program programs[] = {{"forward_backward", g}, {"update", update}};
    if (!status)
        status = lgv_plan_new(n->store, n->training ? 2 : 1, programs, &left, &n->plan, err);
    return status;
}

lgv_status cli_network_new(const lgv_model *model, lgv_device *device, cli_network_kind kind,
                           int dry, int64_t batch, int64_t h, int64_t w,
                           const lgv_plan_options *options, cli_network *out, lgv_error *err)
{
    cli_network n = {.device = device, .training = kind == CLI_TRAINING, .dry = dry};
    lgv_graph *g = lgv_graph_new(), *update = lgv_graph_new();
    lgv_status status = g && update ? LGV_OK : LGV_ERR_MEMORY;
    if (!status) status = lgv_model_check_size(model, h, w, err);
    if (!status) status = make_graph(model, g, kind, batch, h, w, err);
    if (!status) status = make_plan(&n, model, g, update, options, err);
    if (!status && !dry) {
        int64_t count = batch * h * w * lgv_model_describe(model)->in_channels;
        float *x = malloc((size_t)count * sizeof *x);
        if (x) {
            lgv_rng_normal(&(lgv_rng_key){.seed = 2}, 0, count, x);
            status = lgv_plan_write(n.plan, "x", x, count, err);
            free(x);
        } else {
            status = LGV_ERR_MEMORY;
        }
        fill_step(&n, batch);
    }
    lgv_graph_free(g);
    lgv_graph_free(update);
    if (status)
        cli_network_free(&n);
    else
        *out = n;
    return status;
}

void cli_network_free(cli_network *n)
{
    lgv_plan_free(n->plan);
    lgv_store_free(n->store);
    memset(n, 0, sizeof *n);
}

lgv_status cli_network_step(cli_network *n, lgv_error *err)
{
    lgv_status status = lgv_plan_run(n->plan, "forward_backward", err);
    return status || !n->training ? status : lgv_plan_run(n->plan, "update", err);
}
