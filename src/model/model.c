/* model.c - a network opened by name: its description, its parameters, its graph and its trace.
   The list of parameters comes from a graph built once and thrown away, so that names, shapes and
   order have a single source: the builder. */
#include <stdio.h>
#include <string.h>

#include "core/file.h"
#include "kind.h"
#include "langevin/ops.h"

void lgv_model_free(lgv_model *m)
{
    if (!m) return;
    for (size_t i = 0; i < m->n_params; i++) lgv_free(m->param[i].name);
    lgv_free(m->param);
    lgv_free(m->config);
    lgv_class_names_free(&m->labels);
    lgv_class_names_free(&m->classes);
    lgv_free(m->source);
    lgv_free(m->raw);
    lgv_free(m->ema);
    lgv_free(m->scheduler);
    lgv_free(m->pipeline);
    lgv_free(m->pipeline_class);
    lgv_free(m);
}

/* A graph of the network with inputs of the given size. */
static lgv_status scratch_graph(const lgv_model *m, int64_t N, int64_t H, int64_t W,
                                lgv_model_stage *stages, int *n_stages, lgv_graph **out,
                                lgv_error *err)
{
    lgv_graph *g = lgv_graph_new();
    if (!g) return lgv_fail(err, LGV_ERR_MEMORY, "out of memory while building a network");
    lgv_model_inputs in;
    lgv_id y;
    lgv_model_inputs_none(&in);
    in.sample = lgv_input(g, "sample", LGV_F32, 4, (int64_t[]){N, H, W, m->info.in_channels});
    lgv_model_inputs_from_step(m, g, N, &in);
    lgv_status status = m->kind->build(m, g, &in, stages, n_stages, &y, err);
    if (status)
        lgv_graph_free(g);
    else
        *out = g;
    return status;
}

static lgv_status add_param(lgv_model *m, const lgv_graph *g, int i, lgv_error *err)
{
    const char *name;
    int frozen;
    lgv_id v = lgv_graph_param_at(g, i, &name, &frozen);
    LGV_TRY(lgv_grow(&m->param, &m->cap_params, m->n_params + 1, sizeof *m->param, err));
    lgv_model_param *p = &m->param[m->n_params];
    p->rank = lgv_shape(g, v, p->dim);
    p->frozen = frozen;
    p->name = lgv_strdup(name);
    if (!p->name)
        return lgv_fail(err, LGV_ERR_MEMORY, "out of memory while listing a network's parameters");
    m->n_params++;
    m->info.parameters += lgv_elements(g, v);
    return LGV_OK;
}

static lgv_status list_params(lgv_model *m, lgv_error *err)
{
    lgv_graph *g = NULL;
    int64_t size = 2 * (int64_t)m->info.divisor;
    int64_t H = m->info.fixed_size ? m->info.height : size,
            W = m->info.fixed_size ? m->info.width : size;
    LGV_TRY(scratch_graph(m, 1, H, W, NULL, NULL, &g, err));
    lgv_status status = LGV_OK;
    for (int i = 0; !status && i < lgv_graph_params(g); i++) status = add_param(m, g, i, err);
    lgv_graph_free(g);
    return status;
}

static void describe_config(lgv_model *m)
{
    lgv_model_info *info = &m->info;
    info->picture_channels = 0;
    m->kind->describe(m);
    if (!info->picture_channels) info->picture_channels = info->in_channels;
    info->learned_variance = info->out_channels == 2 * info->picture_channels;
}

static lgv_status apply_options(lgv_model *m, const lgv_model_options *o, lgv_error *err)
{
    lgv_model_info *info = &m->info;
    describe_config(m);
    if (!o) return LGV_OK;
    const int given = info->out_channels / (info->learned_variance ? 2 : 1);
    if (o->channels && (info->picture_channels != o->channels || given != o->channels))
        return lgv_fail(err, LGV_ERR_ARGUMENT, "'%s' takes %d channels and gives %d, not %d",
                        m->source, info->picture_channels, given, o->channels);
    if (o->learned_variance && !info->learned_variance)
        return lgv_fail(err, LGV_ERR_ARGUMENT,
                        "'%s' gives %d channels and no variance; set out_channels to %d in its "
                        "config.json",
                        m->source, info->out_channels, 2 * info->picture_channels);
    if (o->condition && o->condition != info->condition)
        return lgv_fail(err, LGV_ERR_ARGUMENT,
                        "'%s' is no network for %s; a new one needs a preset, or \"_condition\" and "
                        "more in_channels in its config.json",
                        m->source, lgv_condition_name(o->condition));
    if (o->classes > 0 && info->class_kind == LGV_CLASS_NONE && !m->raw && !m->ema &&
        m->kind->add_classes) {
        m->kind->add_classes(m, o->classes);
        describe_config(m);
    }
    if (o->classes > 0 && info->class_kind != LGV_CLASS_TABLE)
        return lgv_fail(
            err, LGV_ERR_ARGUMENT,
            "'%s' has no table of class embeddings; set num_class_embeds to %d in its config.json",
            m->source, o->classes);
    if (o->classes > 0 && info->class_count != o->classes)
        return lgv_fail(err, LGV_ERR_ARGUMENT, "'%s' knows %d classes (num_class_embeds), not %d",
                        m->source, info->class_count, o->classes);
    if (o->resolution) m->kind->resize(m, o->resolution, o->resolution);
    lgv_status status = m->kind->check(m, err);
    return status ? lgv_fail_prefix(err, status, "'%s'", m->source) : LGV_OK;
}

static void describe(lgv_model *m)
{
    lgv_model_info *info = &m->info;
    info->class_name = m->kind->class_name;
    info->component = m->kind->component;
    info->written_as = m->kind->pipeline;
    info->source = m->source;
    info->labels = m->labels.count;
    info->label = (const char *const *)m->labels.name;
    info->weights_raw = m->raw;
    info->weights_ema = m->ema;
    info->scheduler = m->scheduler;
    info->pipeline = m->pipeline;
    info->pipeline_class = m->pipeline_class;
    describe_config(m);
    lgv_model_describe_classes(m);
}

/* Takes m, whose configuration is set; frees it on failure. */
static lgv_status finish(lgv_model *m, lgv_status status, lgv_model **out, lgv_error *err)
{
    if (!status) {
        describe(m);
        status = list_params(m, err);
        m->info.tensors = (int)m->n_params;
    }
    if (status)
        lgv_model_free(m);
    else
        *out = m;
    return status;
}

static lgv_status model_new(const char *source, lgv_model **out, lgv_error *err)
{
    lgv_model *m = lgv_zalloc(1, sizeof *m);
    if (m) m->null_label = -1;
    if (m) m->source = lgv_strdup(source);
    if (m && m->source) {
        *out = m;
        return LGV_OK;
    }
    lgv_free(m);
    return lgv_fail(err, LGV_ERR_MEMORY, "out of memory while opening '%s'", source);
}

static lgv_status set_kind(lgv_model *m, const lgv_model_kind *kind, lgv_error *err)
{
    m->kind = kind;
    m->config = lgv_zalloc(1, kind->config_size);
    return m->config ? LGV_OK
                     : lgv_fail(err, LGV_ERR_MEMORY, "out of memory while opening '%s'", m->source);
}

static lgv_status read_config(lgv_model *m, const char *path, lgv_error *err)
{
    const lgv_model_kind *kind;
    lgv_json j = {0};
    LGV_TRY(lgv_json_load(path, &j, err));
    lgv_status status = lgv_model_kind_of(&j, &kind, err);
    if (!status) status = set_kind(m, kind, err);
    if (!status) status = kind->parse(&j, m, err);
    lgv_json_free(&j);
    return status;
}

lgv_status lgv_model_open(const char *what, const lgv_model_options *options, lgv_model **out,
                          lgv_error *err)
{
    if (!lgv_exists(what)) return lgv_model_new_preset(what, options, out, err);
    lgv_model *m;
    char *config = NULL;
    LGV_TRY(model_new(what, &m, err));
    lgv_status status = lgv_model_locate(m, what, &config, err);
    if (!status) status = read_config(m, config, err);
    if (!status) status = apply_options(m, options, err);
    if (!status) status = lgv_model_find_classes(m, what, err);
    lgv_free(config);
    return finish(m, status, out, err);
}

lgv_status lgv_model_new_preset(const char *name, const lgv_model_options *options, lgv_model **out,
                                lgv_error *err)
{
    lgv_model *m;
    const lgv_model_kind *kind = NULL;
    int i = 0;
    LGV_TRY(model_new(name, &m, err));
    m->info.from_preset = 1;
    lgv_status status = lgv_preset_find(name, &kind, &i, err);
    if (!status) status = set_kind(m, kind, err);
    if (!status) {
        status = kind->from_preset(i, options, m, err);
        if (status) lgv_fail_prefix(err, status, "preset '%s'", kind->preset(i, NULL));
    }
    return finish(m, status, out, err);
}

/* A model of a configuration that passed its check, copied. labels NULL: none. */
static lgv_status new_from(const lgv_model_kind *kind, const void *config, lgv_model **out,
                           lgv_error *err)
{
    lgv_model *m;
    LGV_TRY(model_new(kind->class_name, &m, err));
    lgv_status status = set_kind(m, kind, err);
    if (!status) memcpy(m->config, config, kind->config_size);
    if (status)
        lgv_model_free(m);
    else
        *out = m;
    return status;
}

lgv_status lgv_model_new_unet2d(const lgv_unet2d_config *config, lgv_model **out, lgv_error *err)
{
    lgv_model *m;
    LGV_TRY(lgv_unet2d_config_check(config, err));
    LGV_TRY(new_from(&lgv_kind_unet2d, config, &m, err));
    return finish(m, LGV_OK, out, err);
}

lgv_status lgv_model_new_dit(const lgv_dit_config *config, lgv_model **out, lgv_error *err)
{
    lgv_model *m;
    LGV_TRY(lgv_dit_config_check(config, err));
    LGV_TRY(new_from(&lgv_kind_dit, config, &m, err));
    return finish(m, LGV_OK, out, err);
}

static lgv_status new_classifier(const lgv_unet2d_config *config, bool noisy, int classes,
                                 const char *const *names, lgv_model **out, lgv_error *err)
{
    lgv_model *m;
    if (classes < 2 || classes > 65536)
        return lgv_fail(err, LGV_ERR_ARGUMENT,
                        "a classifier tells 2 to 65536 classes apart, not %d", classes);
    LGV_TRY(lgv_unet2d_config_check(config, err));
    LGV_TRY(model_new(lgv_kind_classifier.class_name, &m, err));
    lgv_status status = set_kind(m, &lgv_kind_classifier, err);
    if (!status) status = lgv_classifier_set(m, config, noisy, err);
    if (!status) status = lgv_class_names_new(classes, names, &m->labels, err);
    return finish(m, status, out, err);
}

lgv_status lgv_model_new_classifier(const lgv_unet2d_config *config, int classes,
                                    const char *const *names, lgv_model **out, lgv_error *err)
{
    return new_classifier(config, false, classes, names, out, err);
}

lgv_status lgv_model_new_noisy_classifier(const lgv_unet2d_config *config, int classes,
                                          const char *const *names, lgv_model **out,
                                          lgv_error *err)
{
    return new_classifier(config, true, classes, names, out, err);
}

const lgv_model_info *lgv_model_describe(const lgv_model *model)
{
    return &model->info;
}
const lgv_unet2d_config *lgv_model_unet2d(const lgv_model *model)
{
    bool unet = model->kind == &lgv_kind_unet2d || model->kind == &lgv_kind_classifier ||
                (model->kind == &lgv_kind_compvis && !lgv_compvis_differs(model));
    return unet ? model->config : NULL;
}

const lgv_dit_config *lgv_model_dit(const lgv_model *model)
{
    return model->kind == &lgv_kind_dit ? model->config : NULL;
}

const char *lgv_model_parameter(const lgv_model *model, int i, int *rank, int64_t *dim, int *frozen)
{
    if (i < 0 || (size_t)i >= model->n_params) return NULL;
    const lgv_model_param *p = &model->param[i];
    if (rank) *rank = p->rank;
    for (int k = 0; dim && k < LGV_MAX_RANK; k++) dim[k] = p->dim[k];
    if (frozen) *frozen = p->frozen;
    return p->name;
}

lgv_status lgv_model_check_timesteps(const lgv_model *model, int64_t T, lgv_error *err)
{
    const int rows = model->info.num_train_timesteps;
    if (!rows || T <= rows) return LGV_OK;
    return lgv_fail(err, LGV_ERR_ARGUMENT,
                    "'%s' has learned %d timesteps (num_train_timesteps of its config.json), the "
                    "schedule has %lld; num_train_timesteps must be the same in both",
                    model->info.source, rows, (long long)T);
}

lgv_status lgv_model_check_size(const lgv_model *model, int64_t H, int64_t W, lgv_error *err)
{
    int64_t d = model->info.divisor;
    if (model->info.fixed_size && (H != model->info.height || W != model->info.width))
        return lgv_fail(err, LGV_ERR_SHAPE, "'%s' takes pictures of %dx%d only, not of %lldx%lld",
                        model->info.source, model->info.height, model->info.width, (long long)H,
                        (long long)W);
    if (H >= d && W >= d && H % d == 0 && W % d == 0) return LGV_OK;
    int64_t h = lgv_max_i64(d, (H + d / 2) / d * d), w = lgv_max_i64(d, (W + d / 2) / d * d);
    char reason[64];
    model->kind->divisor_reason(model, reason);
    return lgv_fail(
        err, LGV_ERR_SHAPE,
        "a sample of %lldx%lld does not fit: with %s height and width must be multiples of "
        "%lld, for instance %lldx%lld",
        (long long)H, (long long)W, reason, (long long)d, (long long)h, (long long)w);
}

/* --- Building --- */
void lgv_model_inputs_none(lgv_model_inputs *inputs)
{
    *inputs = (lgv_model_inputs){LGV_NONE, LGV_NONE, LGV_NONE, LGV_NONE, LGV_NONE, LGV_NONE, 0};
}

void lgv_model_inputs_from_step(const lgv_model *model, lgv_graph *g, int64_t rows,
                                lgv_model_inputs *in)
{
    const lgv_model_info *info = &model->info;
    bool learned = info->time_embedding == LGV_TIME_LEARNED,
         as_time = info->class_kind == LGV_CLASS_TIMESTEP;
    in->t = learned ? LGV_NONE : lgv_step_row(g, rows, LGV_FIELD_T);
    in->t_index = learned ? lgv_step_row(g, rows, LGV_FIELD_INDEX) : LGV_NONE;
    in->label = in->label_f32 = in->class_vector = LGV_NONE;
    if (info->class_kind == LGV_CLASS_TABLE || (as_time && learned))
        in->label = lgv_step_row(g, rows, LGV_FIELD_LABEL);
    else if (as_time)
        in->label_f32 = lgv_step_row(g, rows, LGV_FIELD_LABEL_F32);
    else if (info->class_kind == LGV_CLASS_IDENTITY)
        in->class_vector =
            lgv_input(g, "class_vector", LGV_F32, 2, (int64_t[]){rows, info->class_width});
}

lgv_status lgv_model_build(const lgv_model *model, lgv_graph *g, const lgv_model_inputs *inputs,
                           lgv_id *out, lgv_error *err)
{
    int64_t d[LGV_MAX_RANK];
    LGV_TRY(lgv_graph_status(g, err));
    if (lgv_shape(g, inputs->sample, d) == 4) LGV_TRY(lgv_model_check_size(model, d[1], d[2], err));
    return model->kind->build(model, g, inputs, NULL, NULL, out, err);
}

lgv_status lgv_model_features(const lgv_model *model, lgv_graph *g, const lgv_model_inputs *inputs,
                              lgv_id *features, lgv_id *logits, lgv_error *err)
{
    int64_t d[LGV_MAX_RANK];
    lgv_id unused;
    LGV_TRY(lgv_graph_status(g, err));
    if (lgv_shape(g, inputs->sample, d) == 4) LGV_TRY(lgv_model_check_size(model, d[1], d[2], err));
    return model->kind->features(model, g, inputs, features, logits ? logits : &unused, err);
}

lgv_status lgv_model_trace(const lgv_model *model, int64_t N, int64_t H, int64_t W,
                           lgv_model_stage **stages, int *count, lgv_error *err)
{
    LGV_TRY(lgv_model_check_size(model, H, W, err));
    lgv_graph *g = NULL;
    lgv_model_stage *list = lgv_zalloc(LGV_MAX_STAGES, sizeof *list);
    if (!list) return lgv_fail(err, LGV_ERR_MEMORY, "out of memory while tracing a network");
    lgv_status status = scratch_graph(model, N, H, W, list, count, &g, err);
    lgv_graph_free(g);
    if (status)
        lgv_free(list);
    else
        *stages = list;
    return status;
}

void lgv_model_stages_free(lgv_model_stage *stages)
{
    lgv_free(stages);
}
