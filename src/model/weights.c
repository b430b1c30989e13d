/* weights.c - parameters between files and a store. Names and layouts in files are PyTorch's; the
   store converts where a kernel wants another. A file's tensors must be exactly the model's: a
   silent leftover would mean that the configuration is not the file's. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/file.h"
#include "langevin/safetensors.h"
#include "kind.h"

/* --- Names --- */
static const lgv_tensor_info *find_tensor(const lgv_model *m, const lgv_weights *w,
                                          const char *name)
{
    char text[512];
    const lgv_tensor_info *t = lgv_weights_find(w, name);
    if (t || !m->kind->old_name) return t;
    name = m->kind->old_name(name, text, sizeof text);
    return name ? lgv_weights_find(w, name) : NULL;
}

/* Very old attention blocks were 1x1 convolutions: [out,in,1,1] is then [out,in]. */
static bool fits(const lgv_model_param *p, const lgv_tensor_info *t)
{
    if (t->rank != p->rank && !(t->rank == 4 && p->rank == 2 && t->dim[2] == 1 && t->dim[3] == 1))
        return false;
    for (int i = 0; i < p->rank; i++)
        if (t->dim[i] != p->dim[i]) return false;
    return true;
}

static void dims_text(int rank, const int64_t *dim, char text[96])
{
    size_t used = (size_t)snprintf(text, 96, "[");
    for (int i = 0; i < rank && used < 90; i++)
        used += (size_t)snprintf(text + used, 96 - used, i ? ",%lld" : "%lld", (long long)dim[i]);
    if (used < 95) snprintf(text + used, 96 - used, "]");
}

/* --- Complaints: the first few names and how many there are --- */
typedef struct complaint {
    char text[400];
    size_t used;
    int count;
} complaint;

static void complain(complaint *c, const char *name)
{
    enum { NAMED = 3 };
    if (c->count++ >= NAMED) return;
    int n = snprintf(c->text + c->used, sizeof c->text - c->used, "%s'%.100s'", c->used ? ", " : "",
                     name);
    if (n > 0) c->used += (size_t)n;
}

static bool expected(const lgv_model *m, const lgv_weights *w, const lgv_tensor_info *t)
{
    for (size_t i = 0; i < m->n_params; i++)
        if (find_tensor(m, w, m->param[i].name) == t) return true;
    return false;
}

static lgv_status check_names(const lgv_model *m, const lgv_weights *w, const char *source,
                              lgv_error *err)
{
    complaint missing = {.count = 0}, extra = {.count = 0};
    for (size_t i = 0; i < m->n_params; i++)
        if (!find_tensor(m, w, m->param[i].name)) complain(&missing, m->param[i].name);
    if (missing.count)
        return lgv_fail(err, LGV_ERR_FORMAT,
                        "the weights in '%s' do not fit its configuration: %d of %zu tensors are "
                        "missing (%s%s)",
                        source, missing.count, m->n_params, missing.text,
                        missing.count > 3 ? ", ..." : "");
    if (lgv_weights_count(w) == m->n_params) return LGV_OK;
    for (size_t i = 0; i < lgv_weights_count(w); i++)
        if (!expected(m, w, lgv_weights_at(w, i))) complain(&extra, lgv_weights_at(w, i)->name);
    return lgv_fail(err, LGV_ERR_FORMAT,
                    "the weights in '%s' do not fit its configuration: %d tensors are not part of "
                    "the network (%s%s)",
                    source, extra.count, extra.text, extra.count > 3 ? ", ..." : "");
}

static lgv_status check_shapes(const lgv_model *m, const lgv_weights *w, const char *source,
                               lgv_error *err)
{
    for (size_t i = 0; i < m->n_params; i++) {
        const lgv_tensor_info *t = find_tensor(m, w, m->param[i].name);
        if (fits(&m->param[i], t)) continue;
        char have[96], want[96];
        dims_text(t->rank, t->dim, have);
        dims_text(m->param[i].rank, m->param[i].dim, want);
        return lgv_fail(
            err, LGV_ERR_FORMAT,
            "the weights in '%s' do not fit its configuration: '%s' is %s, the network wants %s",
            source, t->name, have, want);
    }
    return LGV_OK;
}

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
static lgv_status copy_in(const lgv_model *m, const lgv_weights *w, lgv_store *store,
                          const char *set, float *buffer, lgv_error *err)
{
    for (size_t i = 0; i < m->n_params; i++) {
        const lgv_model_param *p = &m->param[i];
        int index;
        LGV_TRY(buffer_of(store, p, &index, err));
        LGV_TRY(lgv_tensor_to_f32(find_tensor(m, w, p->name), buffer, err));
        LGV_TRY(lgv_store_write(store, set, index, buffer, lgv_param_elements(p), err));
    }
    return LGV_OK;
}

static lgv_status load(const lgv_model *m, const lgv_weights *w, lgv_store *store, const char *set,
                       const char *source, lgv_error *err)
{
    float *buffer;
    LGV_TRY(check_names(m, w, source, err));
    LGV_TRY(check_shapes(m, w, source, err));
    LGV_TRY(lgv_store_add_set(store, set, err));
    LGV_TRY(buffer_new(m, &buffer, err));
    lgv_status status = copy_in(m, w, store, set, buffer, err);
    lgv_free(buffer);
    return status;
}

/* The half-precision variant is taken when a folder holds nothing else. */
static lgv_status open_weights(const char *path, lgv_weights **out, lgv_error *err)
{
    if (!lgv_is_dir(path)) return lgv_weights_open_file(path, out, err);
    char *file = lgv_path_join(path, "diffusion_pytorch_model.fp16.safetensors");
    char *full = lgv_path_join(path, "diffusion_pytorch_model.safetensors");
    char *shards = lgv_path_join(path, "diffusion_pytorch_model.safetensors.index.json");
    bool memory = file && full && shards;
    bool half = memory && lgv_is_file(file) && !lgv_is_file(full) && !lgv_is_file(shards);
    lgv_free(file);
    lgv_free(full);
    lgv_free(shards);
    if (!memory) return lgv_fail(err, LGV_ERR_MEMORY, "out of memory for a path");
    return lgv_weights_open(path, half ? "diffusion_pytorch_model.fp16" : "diffusion_pytorch_model",
                            out, err);
}

lgv_status lgv_model_load_weights_from(const lgv_model *model, lgv_store *store, const char *set,
                                       const char *path, lgv_error *err)
{
    lgv_weights *w = NULL;
    LGV_TRY(open_weights(path, &w, err));
    lgv_status status = load(model, w, store, set, path, err);
    lgv_weights_close(w);
    return status;
}

/* The folder or file of the weights asked for. */
static lgv_status path_of(const lgv_model *model, lgv_model_weights which, const char **path,
                          lgv_error *err)
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
                        : "'%s' holds no weights (diffusion_pytorch_model.safetensors)",
                    model->source);
}

lgv_status lgv_model_load_weights(const lgv_model *model, lgv_store *store, const char *set,
                                  lgv_model_weights which, lgv_error *err)
{
    const char *path;
    LGV_TRY(path_of(model, which, &path, err));
    return lgv_model_load_weights_from(model, store, set, path, err);
}

static void release(void *owner)
{
    lgv_weights_close(owner);
}

/* *mapped: the set is the file, and the store owns w. Where that cannot be, nothing has happened. */
static lgv_status map(const lgv_model *m, lgv_weights *w, lgv_store *store, const char *set,
                      bool *mapped, lgv_error *err)
{
    const float **data = lgv_zalloc((size_t)lgv_store_count(store), sizeof *data);
    if (!data) return lgv_fail(err, LGV_ERR_MEMORY, "out of memory while mapping weights");
    lgv_status status = LGV_OK;
    *mapped = lgv_store_count(store) == (int)m->n_params;
    for (size_t i = 0; i < m->n_params && !status && *mapped; i++) {
        const lgv_tensor_info *t = find_tensor(m, w, m->param[i].name);
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
    LGV_TRY(path_of(model, which, &path, err));
    LGV_TRY(open_weights(path, &w, err));
    lgv_status status = check_names(model, w, path, err);
    if (!status) status = check_shapes(model, w, path, err);
    if (!status) status = map(model, w, store, set, &mapped, err);
    if (mapped) return LGV_OK;
    if (!status) status = load(model, w, store, set, path, err);
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

static lgv_status save_config(const lgv_model *m, const char *path, lgv_error *err)
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
    if (!status) status = save_config(model, config, err);
    if (!status) status = save_weights(model, store, set, weights, err);
    lgv_free(config);
    lgv_free(weights);
    return status;
}
