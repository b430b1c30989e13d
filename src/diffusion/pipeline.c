/* pipeline.c - a network with its scheduler, and the plans of its denoising step. A plan holds
   one step, not the loop: every step is the same computation with another step block. */
#include <stdlib.h>
#include <string.h>

#include "core/core.h"
#include "core/file.h"
#include "diffusion/pipeline_internal.h"
#include "langevin/ops.h"

/* ---- plans ---- */

/* x' of one step for rows pictures of H x W, and the picture it predicts. */
static lgv_status build_step(const lgv_pipeline *p, lgv_graph *g, int64_t rows, int64_t H,
                             int64_t W, lgv_step_kind kind, lgv_error *err)
{
    const lgv_model_info *info = lgv_model_describe(p->model);
    const int64_t C = info->picture_channels, K = info->in_channels - C, dim[] = {rows, H, W, C};
    lgv_model_inputs inputs;
    lgv_id x = lgv_input(g, "x", LGV_F32, 4, dim), out, z = LGV_NONE, history = LGV_NONE;
    lgv_model_inputs_none(&inputs);
    inputs.sample = x;
    if (kind.scaled)
        inputs.sample =
            lgv_row_scale(g, x, lgv_step_row(g, rows, LGV_FIELD_COEF + LGV_SAMPLE_IN));
    if (K)
        inputs.sample = lgv_concat(g, inputs.sample, lgv_input(g, "condition", LGV_F32, 4,
                                                               (const int64_t[]){rows, H, W, K}));
    if (kind.guided) inputs.sample = lgv_repeat_rows(g, inputs.sample, 2);
    lgv_model_inputs_from_step(p->model, g, kind.guided ? 2 * rows : rows, &inputs);
    LGV_TRY(lgv_model_build(p->model, g, &inputs, &out, err));
    if (kind.guided) out = lgv_guide(g, out, rows, kind.guided);
    if (kind.noise == LGV_NOISE_NODE)
        z = lgv_random_normal(g, 4, dim, lgv_rng_stream("sample.step"));
    if (kind.noise == LGV_NOISE_INPUT) z = lgv_input(g, "z", LGV_F32, 4, dim);
    if (kind.history)
        history =
            lgv_input(g, "history", LGV_F32, 4, (const int64_t[]){rows, H, W, kind.history * C});
    lgv_id x_next =
        kind.gradient
            ? lgv_sampler_step_guided(g, x, out, z, history, lgv_input(g, "gradient", LGV_F32, 4, dim))
            : lgv_sampler_step(g, x, out, z, history);
    lgv_graph_output(g, x_next, "x_next");
    lgv_graph_output(g, lgv_output_of(g, x_next, 1), "x0");
    if (kind.history) lgv_graph_output(g, lgv_output_of(g, x_next, 2), "kept");
    return lgv_graph_status(g, err);
}

static lgv_status make_plan(const lgv_pipeline *p, lgv_batch_plan *slot, lgv_error *err)
{
    lgv_graph *g = lgv_graph_new();
    if (!g) return lgv_fail(err, LGV_ERR_MEMORY, "out of memory for the graph of a sampling step");
    lgv_plan_options options = {.weights = p->set, .mixed_precision = slot->precision};
    lgv_program program = {"sample", g};
    lgv_status status = build_step(p, g, slot->rows, slot->H, slot->W, slot->kind, err);
    if (!status) status = lgv_plan_new(p->store, 1, &program, &options, &slot->plan, err);
    lgv_graph_free(g);
    return status;
}

static int same_kind(lgv_step_kind a, lgv_step_kind b)
{
    return a.noise == b.noise && a.history == b.history && a.scaled == b.scaled &&
           a.guided == b.guided && a.gradient == b.gradient;
}

lgv_status lgv_pipeline_plan(lgv_pipeline *p, int64_t rows, int64_t H, int64_t W,
                             lgv_step_kind kind, lgv_mixed_precision precision, lgv_plan **out,
                             lgv_error *err)
{
    for (int i = 0; i < LGV_BATCH_PLANS; i++) {
        const lgv_batch_plan *have = &p->plans[i];
        if (have->plan && have->rows == rows && have->H == H && have->W == W &&
            same_kind(have->kind, kind) && have->precision == precision) {
            *out = have->plan;
            return LGV_OK;
        }
    }
    lgv_batch_plan made = {rows, H, W, kind, precision, NULL}, *slot = &p->plans[p->next_slot];
    LGV_TRY(make_plan(p, &made, err));
    lgv_plan_free(slot->plan);
    *slot = made;
    p->next_slot = (p->next_slot + 1) % LGV_BATCH_PLANS;
    *out = made.plan;
    return LGV_OK;
}

/* ---- making ---- */

static lgv_status check_model(const lgv_model *model, lgv_error *err)
{
    const lgv_model_info *info = lgv_model_describe(model);
    if (info->labels)
        return lgv_fail(
            err, LGV_ERR_UNSUPPORTED,
            "'%s' is a classifier (UNet2DClassifier): it tells pictures apart and draws "
            "none; use it with %s",
            info->source,
            info->noisy ? "'langevin sample MODEL --classifier'" : "'langevin eval --features'");
    if (info->out_channels != info->picture_channels && !info->learned_variance)
        return lgv_fail(
            err, LGV_ERR_UNSUPPORTED,
            "the network takes %d channels and gives %d; sampling needs as many out as in, or twice "
            "as many with a predicted variance",
            info->in_channels, info->out_channels);
    if (info->class_kind == LGV_CLASS_IDENTITY)
        return lgv_fail(err, LGV_ERR_UNSUPPORTED,
                        "the network wants class vectors (class_embed_type \"identity\"), which "
                        "sampling cannot make");
    return LGV_OK;
}

static lgv_status fill(lgv_pipeline *p, const lgv_model *model, lgv_store *store, const char *set,
                       lgv_error *err)
{
    p->model = model;
    p->store = store;
    p->set = lgv_strdup(set);
    p->weights = "";
    p->null_label = lgv_model_describe(model)->null_label;
    if (!p->set) return lgv_fail(err, LGV_ERR_MEMORY, "out of memory for a pipeline");
    return check_model(model, err);
}

lgv_status lgv_pipeline_new(const lgv_model *model, lgv_store *store, const char *set,
                            const lgv_scheduler_config *cfg, lgv_pipeline **out, lgv_error *err)
{
    lgv_pipeline *p = lgv_zalloc(1, sizeof *p);
    if (!p) return lgv_fail(err, LGV_ERR_MEMORY, "out of memory for a pipeline");
    lgv_status status = fill(p, model, store, set, err);
    if (!status) status = lgv_model_check_timesteps(model, cfg->num_train_timesteps, err);
    if (!status) status = lgv_scheduler_config_copy(cfg, &p->cfg, err);
    if (status)
        lgv_pipeline_free(p);
    else
        *out = p;
    return status;
}

/* The store's buffers are those of any graph of the network. */
static lgv_status declare(const lgv_pipeline *p, lgv_store *store, lgv_error *err)
{
    const int64_t side = lgv_model_describe(p->model)->divisor;
    lgv_graph *g = lgv_graph_new();
    if (!g) return lgv_fail(err, LGV_ERR_MEMORY, "out of memory for the graph of a network");
    lgv_status status = build_step(p, g, 1, side, side, (lgv_step_kind){0}, err);
    if (!status) status = lgv_store_declare(store, g, err);
    lgv_graph_free(g);
    return status;
}

lgv_status lgv_pipeline_load_scheduler(const lgv_model_info *info, lgv_scheduler_config *cfg,
                                       lgv_error *err)
{
    if (!info->scheduler) return lgv_scheduler_config_init(cfg, NULL, err);
    char *path = lgv_path_join(info->scheduler, "scheduler_config.json");
    if (!path) return lgv_fail(err, LGV_ERR_MEMORY, "out of memory for a path");
    lgv_status status = lgv_scheduler_config_load(path, cfg, err);
    lgv_free(path);
    return status;
}

static lgv_status open_into(lgv_pipeline *p, lgv_device *device, const char *path,
                            lgv_model_weights weights, lgv_error *err)
{
    LGV_TRY(lgv_model_open(path, NULL, &p->own_model, err));
    const lgv_model_info *info = lgv_model_describe(p->own_model);
    if (!info->weights_raw && !info->weights_ema)
        return lgv_fail(
            err, LGV_ERR_ARGUMENT,
            "'%s' is a network without weights; train it first, or give a folder that has them",
            path);
    LGV_TRY(lgv_store_new(device, &p->own_store, err));
    LGV_TRY(fill(p, p->own_model, p->own_store, "weight", err));
    if (info->weights_ema) p->weights = weights == LGV_WEIGHTS_RAW ? "raw" : "ema";
    LGV_TRY(lgv_pipeline_load_scheduler(info, &p->cfg, err));
    LGV_TRY(lgv_model_check_timesteps(p->own_model, p->cfg.num_train_timesteps, err));
    LGV_TRY(declare(p, p->own_store, err));
    return lgv_model_map_weights(p->own_model, p->own_store, p->set, weights, err);
}

lgv_status lgv_pipeline_open(lgv_device *device, const char *path, lgv_model_weights weights,
                             lgv_pipeline **out, lgv_error *err)
{
    lgv_pipeline *p = lgv_zalloc(1, sizeof *p);
    if (!p) return lgv_fail(err, LGV_ERR_MEMORY, "out of memory for a pipeline");
    lgv_status status = open_into(p, device, path, weights, err);
    if (status)
        lgv_pipeline_free(p);
    else
        *out = p;
    return status;
}

void lgv_pipeline_free(lgv_pipeline *p)
{
    if (!p) return;
    for (int i = 0; i < LGV_BATCH_PLANS; i++) lgv_plan_free(p->plans[i].plan);
    lgv_classifier_free(p->classifier);
    lgv_scheduler_config_clear(&p->cfg);
    lgv_store_free(p->own_store);
    lgv_model_free(p->own_model);
    lgv_free(p->set);
    lgv_free(p);
}

const lgv_model *lgv_pipeline_model(const lgv_pipeline *p)
{
    return p->model;
}

const lgv_scheduler_config *lgv_pipeline_scheduler(const lgv_pipeline *p)
{
    return &p->cfg;
}

const char *lgv_pipeline_weights(const lgv_pipeline *p)
{
    return p->weights;
}

lgv_status lgv_pipeline_set_null_label(lgv_pipeline *p, int label, lgv_error *err)
{
    const lgv_model_info *info = lgv_model_describe(p->model);
    if (info->class_kind != LGV_CLASS_TABLE)
        return lgv_fail(err, LGV_ERR_ARGUMENT, "the model has no table of classes, so none of its "
                                               "labels can stand for no class");
    if (label < 0 || label >= info->class_count)
        return lgv_fail(err, LGV_ERR_ARGUMENT, "the model's labels are 0 to %d; %d is none",
                        info->class_count - 1, label);
    p->null_label = label;
    return LGV_OK;
}

int lgv_pipeline_null_label(const lgv_pipeline *p)
{
    return p->null_label;
}

const char *lgv_pipeline_default_sampler(const lgv_pipeline *p, const lgv_sampler_options *o)
{
    return p->classifier ? "ddim" : lgv_sampler_default(&p->cfg, o);
}

lgv_status lgv_pipeline_sampler(const lgv_pipeline *p, const lgv_sampler_options *options,
                                lgv_sampler **out, lgv_error *err)
{
    const lgv_model_info *info = lgv_model_describe(p->model);
    lgv_sampler_options o = *options;
    if (!o.sampler) o.sampler = lgv_pipeline_default_sampler(p, &o);
    /* Transformers for flow matching see patches of 2x2. */
    if (!o.image_seq_len) o.image_seq_len = (int64_t)(info->height / 2) * (info->width / 2);
    if (!strcmp(o.sampler, "model")) {
        o.sampler = p->cfg.class_name;
        if (!lgv_sampler_find(o.sampler))
            return lgv_fail(err, LGV_ERR_UNSUPPORTED,
                            "the model's scheduler is %s, which this build has no sampler for; "
                            "choose another, such as dpmpp_2m",
                            o.sampler);
    }
    return lgv_sampler_new(&p->cfg, &o, out, err);
}

lgv_status lgv_pipeline_calls(const lgv_pipeline *p, const lgv_sample_options *options,
                              int64_t *calls, lgv_error *err)
{
    static const lgv_sample_options none = {0};
    const lgv_sample_options *o = options ? options : &none;
    lgv_sampler_options steps = o->sampler;
    lgv_sampler *sampler;
    bool from_noise;
    LGV_TRY(lgv_known_skip(p, o, &steps, &from_noise, err));
    LGV_TRY(lgv_pipeline_sampler(p, &steps, &sampler, err));
    *calls = lgv_sampler_steps(sampler);
    lgv_sampler_free(sampler);
    return LGV_OK;
}

/* ---- digest of the weights ---- */

typedef struct named {
    const char *name;
    int index;
} named;

static int by_name(const void *a, const void *b)
{
    return strcmp(((const named *)a)->name, ((const named *)b)->name);
}

static lgv_status hash_parameter(const lgv_pipeline *p, const named *item, lgv_sha256 *sha,
                                 lgv_error *err)
{
    int rank, frozen;
    int64_t dim[LGV_MAX_RANK], count = 1;
    lgv_store_at(p->store, item->index, &rank, dim, &frozen);
    for (int i = 0; i < rank; i++) count *= dim[i];
    float *data = lgv_alloc((size_t)count, sizeof *data);
    if (!data) return lgv_fail(err, LGV_ERR_MEMORY, "out of memory to hash '%s'", item->name);
    lgv_status status = lgv_store_read(p->store, p->set, item->index, data, count, err);
    if (!status) {
        lgv_sha256_update(sha, item->name, strlen(item->name) + 1);
        lgv_sha256_update(sha, dim, (size_t)rank * sizeof *dim);
        lgv_sha256_update(sha, data, (size_t)count * sizeof *data);
    }
    lgv_free(data);
    return status;
}

lgv_status lgv_pipeline_hash(const lgv_pipeline *p, char hex[65], lgv_error *err)
{
    int count = lgv_store_count(p->store);
    named *list = lgv_alloc((size_t)count, sizeof *list);
    if (!list) return lgv_fail(err, LGV_ERR_MEMORY, "out of memory to hash %d parameters", count);
    for (int i = 0; i < count; i++) {
        int rank, frozen;
        int64_t dim[LGV_MAX_RANK];
        list[i] = (named){lgv_store_at(p->store, i, &rank, dim, &frozen), i};
    }
    qsort(list, (size_t)count, sizeof *list, by_name);
    lgv_sha256 sha;
    lgv_status status = LGV_OK;
    lgv_sha256_init(&sha);
    for (int i = 0; i < count && !status; i++) status = hash_parameter(p, &list[i], &sha, err);
    if (!status) lgv_sha256_hex(&sha, hex);
    lgv_free(list);
    return status;
}
