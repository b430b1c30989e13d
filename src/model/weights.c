/* weights.c - parameters between files and a store. Names and layouts in files are PyTorch's; the
   store converts where a kernel wants another. A file's tensors must be exactly the model's: a
   silent leftover would mean that the configuration is not the file's. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/file.h"
#include "select.h"

/* --- Store --- */
static int64_t largest(const lgv_model *m)
{
    int64_t n = 1;
    for (size_t i = 0; i < m->n_params; i++) n = lgv_max_i64(n, lgv_param_elements(&m->param[i]));
    return n;
}

static lgv_status buffer_of(const lgv_store *store, const lgv_model_param *p, int *index,
                            lgv_error *err)
{
    *index = lgv_store_find(store, p->name);
    if (*index >= 0) return LGV_OK;
    return lgv_fail(err, LGV_ERR_ARGUMENT,
                    "the store has no buffer '%s'; declare it from a graph of this model first "
                    "(lgv_store_declare)",
                    p->name);
}

static lgv_status buffer_new(const lgv_model *m, float **out, lgv_error *err)
{
    *out = lgv_alloc((size_t)largest(m), sizeof **out);
    return *out ? LGV_OK
                : lgv_fail(err, LGV_ERR_MEMORY, "out of memory for a tensor of %lld numbers",
                           (long long)largest(m));
}

/* --- Loading --- */
static lgv_status copy_in(const lgv_selection *s, lgv_store *store, const char *set, float *buffer,
                          lgv_error *err)
{
    const lgv_model *m = s->model;
    for (size_t i = 0; i < m->n_params; i++) {
        const lgv_model_param *p = &m->param[i];
        int index;
        LGV_TRY(buffer_of(store, p, &index, err));
        LGV_TRY(lgv_tensor_to_f32(lgv_selected(s, p->name), buffer, err));
        LGV_TRY(lgv_store_write(store, set, index, buffer, lgv_param_elements(p), err));
    }
    return LGV_OK;
}

static lgv_status load(const lgv_selection *s, lgv_store *store, const char *set, lgv_error *err)
{
    float *buffer;
    LGV_TRY(lgv_store_add_set(store, set, err));
    LGV_TRY(buffer_new(s->model, &buffer, err));
    lgv_status status = copy_in(s, store, set, buffer, err);
    lgv_free(buffer);
    return status;
}

/* Whether folder/STEM.safetensors, STEM.bin or an index of either is there. */
static bool holds(const char *folder, const char *stem, lgv_status *status)
{
    static const char *const ends[] = {".safetensors", ".safetensors.index.json", ".bin",
                                       ".bin.index.json"};
    for (int i = 0; i < 4; i++) {
        char *path = lgv_format("%s/%s%s", folder, stem, ends[i]);
        bool there = path && lgv_is_file(path);
        if (!path) *status = LGV_ERR_MEMORY;
        lgv_free(path);
        if (there) return true;
    }
    return false;
}

static const char stem_full[] = "diffusion_pytorch_model",
                  stem_half[] = "diffusion_pytorch_model.fp16";

bool lgv_model_has_weights(const char *folder, lgv_status *status)
{
    return holds(folder, stem_full, status) || holds(folder, stem_half, status);
}

lgv_status lgv_model_open_weights(const char *path, lgv_weights **out, lgv_error *err)
{
    if (!lgv_is_dir(path)) return lgv_weights_open_file(path, out, err);
    lgv_status status = LGV_OK;
    bool half = !holds(path, stem_full, &status) && holds(path, stem_half, &status);
    if (status) return lgv_fail(err, status, "out of memory for a path");
    return lgv_weights_open(path, half ? stem_half : stem_full, out, err);
}

lgv_status lgv_model_load_weights_from(const lgv_model *model, lgv_store *store, const char *set,
                                       const char *path, lgv_error *err)
{
    lgv_weights *w = NULL;
    lgv_selection s;
    LGV_TRY(lgv_model_open_weights(path, &w, err));
    lgv_status status = lgv_select(model, w, LGV_WEIGHTS_BEST, path, &s, err);
    if (!status) status = load(&s, store, set, err);
    lgv_weights_close(w);
    return status;
}

lgv_status lgv_model_weights_path(const lgv_model *model, lgv_model_weights which,
                                  const char **path, lgv_error *err)
{
    *path = which == LGV_WEIGHTS_RAW || (which == LGV_WEIGHTS_BEST && !model->ema) ? model->raw
                                                                                   : model->ema;
    if (*path) return LGV_OK;
    if (which == LGV_WEIGHTS_EMA && model->raw)
        return lgv_fail(err, LGV_ERR_ARGUMENT,
                        "'%s' holds no averaged (EMA) weights; ask for the raw ones",
                        model->source);
    return lgv_fail(err, LGV_ERR_ARGUMENT,
                    model->info.from_preset
                        ? "the preset '%s' has no weights: it must be trained first"
                        : "'%s' holds no weights (diffusion_pytorch_model.safetensors or .bin)",
                    model->source);
}

lgv_status lgv_model_load_weights(const lgv_model *model, lgv_store *store, const char *set,
                                  lgv_model_weights which, lgv_error *err)
{
    const char *path;
    LGV_TRY(lgv_model_weights_path(model, which, &path, err));
    return lgv_model_load_weights_from(model, store, set, path, err);
}

static void release(void *owner)
{
    lgv_weights_close(owner);
}

/* *mapped: the set is the file, and the store owns w. Where that cannot be, nothing has happened. */
static lgv_status map(const lgv_selection *s, lgv_weights *w, lgv_store *store, const char *set,
                      bool *mapped, lgv_error *err)
{
    const lgv_model *m = s->model;
    const float **data = lgv_zalloc((size_t)lgv_store_count(store), sizeof *data);
    if (!data) return lgv_fail(err, LGV_ERR_MEMORY, "out of memory while mapping weights");
    lgv_status status = LGV_OK;
    *mapped = lgv_store_count(store) == (int)m->n_params;
    for (size_t i = 0; i < m->n_params && !status && *mapped; i++) {
        const lgv_tensor_info *t = lgv_selected(s, m->param[i].name);
        int index;
        status = buffer_of(store, &m->param[i], &index, err);
        *mapped = t->dtype == LGV_F32 && (uintptr_t)t->data % sizeof(float) == 0;
        if (!status && *mapped) data[index] = (const float *)(const void *)t->data;
    }
    if (!status && *mapped) {
        status = lgv_store_map_set(store, set, data, w, release, err);
        if (status) *mapped = false;
        if (status == LGV_ERR_UNSUPPORTED) status = LGV_OK;
    }
    lgv_free(data);
    return status;
}

lgv_status lgv_model_map_weights(const lgv_model *model, lgv_store *store, const char *set,
                                 lgv_model_weights which, lgv_error *err)
{
    const char *path;
    lgv_weights *w = NULL;
    bool mapped = false;
    LGV_TRY(lgv_model_weights_path(model, which, &path, err));
    lgv_selection s;
    LGV_TRY(lgv_model_open_weights(path, &w, err));
    lgv_status status = lgv_select(model, w, LGV_WEIGHTS_BEST, path, &s, err);
    if (!status) status = map(&s, w, store, set, &mapped, err);
    if (mapped) return LGV_OK;
    if (!status) status = load(&s, store, set, err);
    lgv_weights_close(w);
    return status;
}

/* --- Saving --- */
typedef struct source {
    const lgv_store *store;
    const char *set;
    const lgv_model_param *param;
    int index;
} source;

static lgv_status read_source(void *arg, void *dst, size_t bytes, lgv_error *err)
{
    const source *s = arg;
    return lgv_store_read(s->store, s->set, s->index, dst, (int64_t)(bytes / sizeof(float)), err);
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const source *)a)->param->name, ((const source *)b)->param->name);
}

/* In the order of the safetensors package: by name. */
static lgv_status add_tensors(const lgv_model *m, const lgv_store *store, const char *set,
                              source *s, lgv_safetensors_writer *w, lgv_error *err)
{
    for (size_t i = 0; i < m->n_params; i++) {
        s[i] = (source){store, set, &m->param[i], 0};
        LGV_TRY(buffer_of(store, &m->param[i], &s[i].index, err));
    }
    qsort(s, m->n_params, sizeof *s, by_name);
    for (size_t i = 0; i < m->n_params; i++)
        LGV_TRY(lgv_safetensors_add_source(w, s[i].param->name, LGV_F32, s[i].param->rank,
                                           s[i].param->dim, read_source, &s[i], err));
    return LGV_OK;
}

static lgv_status save_weights(const lgv_model *m, const lgv_store *store, const char *set,
                               const char *path, lgv_error *err)
{
    lgv_safetensors_writer *w = NULL;
    source *sources = lgv_alloc(m->n_params, sizeof *sources);
    if (!sources) return lgv_fail(err, LGV_ERR_MEMORY, "out of memory while saving '%s'", path);
    lgv_status status = lgv_safetensors_writer_new(&w, err);
    if (!status) status = add_tensors(m, store, set, sources, w, err);
    if (!status) status = lgv_safetensors_write(w, path, err);
    lgv_safetensors_writer_free(w);
    lgv_free(sources);
    return status;
}

lgv_status lgv_model_save_config(const lgv_model *m, const char *path, lgv_error *err)
{
    json_t *root = m->kind->json(m);
    if (!root) return lgv_fail(err, LGV_ERR_MEMORY, "out of memory while writing '%s'", path);
    lgv_status status = lgv_json_save(path, root, true, err);
    json_decref(root);
    return status;
}

lgv_status lgv_model_save(const lgv_model *model, const lgv_store *store, const char *set,
                          const char *folder, lgv_error *err)
{
    LGV_TRY(lgv_make_dir(folder, err));
    char *config = lgv_path_join(folder, "config.json"),
         *weights = lgv_path_join(folder, "diffusion_pytorch_model.safetensors");
    lgv_status status = config && weights ? LGV_OK
                                          : lgv_fail(err, LGV_ERR_MEMORY,
                                                     "out of memory while saving '%s'", folder);
    if (!status) status = lgv_model_save_config(model, config, err);
    if (!status) status = save_weights(model, store, set, weights, err);
    lgv_free(config);
    lgv_free(weights);
    return status;
}
