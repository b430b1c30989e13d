/* weights.c - parameters between files and a store. Names and shapes in files are PyTorch's (layout.c tells which
   tensors there are, select.c where they stand); the store converts where a kernel wants another. */
#include <stdlib.h>
#include <string.h>

#include "core/file.h"
#include "layout.h"
#include "select.h"

/* --- Store --- */
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

/* --- Loading --- */
/* The tensors that hold parameter `index`, all into buffer[elements]; `other` is as large. */
static lgv_status gather(const lgv_selection *f, const lgv_model_param *p, int index, float *buffer,
                         float *other, const char *source, lgv_error *err)
{
    const int64_t width = p->dim[0] ? lgv_param_elements(p) / p->dim[0] : 0;
    int64_t filled = 0;
    for (size_t i = 0; i < f->layout.count; i++) {
        const lgv_file_tensor *t = &f->layout.tensor[i];
        if (t->param != index) continue;
        const bool copy = t->row < filled; /* an earlier tensor holds the same rows */
        const size_t bytes = (size_t)(t->rows * width) * sizeof *buffer;
        LGV_TRY(lgv_tensor_to_f32(lgv_selected(f, i), other, err));
        if (copy && memcmp(buffer + t->row * width, other, bytes))
            return lgv_fail(err, LGV_ERR_FORMAT,
                            "'%s': '%s' differs from the tensors that should equal it; the "
                            "network's blocks do not share an embedding: remove "
                            "shared_embedding from config.json",
                            source, t->name);
        memcpy(buffer + t->row * width, other, bytes);
        filled = lgv_max_i64(filled, t->row + t->rows);
    }
    return LGV_OK;
}

static lgv_status copy_in(const lgv_selection *f, lgv_store *store, const char *set, float *buffer,
                          float *other, const char *source, lgv_error *err)
{
    const lgv_model *m = f->model;
    for (size_t i = 0; i < m->n_params; i++) {
        const lgv_model_param *p = &m->param[i];
        int index;
        LGV_TRY(buffer_of(store, p, &index, err));
        LGV_TRY(gather(f, p, (int)i, buffer, other, source, err));
        LGV_TRY(lgv_store_write(store, set, index, buffer, lgv_param_elements(p), err));
    }
    return LGV_OK;
}

/* Room for the largest tensor of a layout and the largest parameter. */
static lgv_status buffer_new(const lgv_model *m, const lgv_layout *l, float **out, lgv_error *err)
{
    int64_t n = 1;
    for (size_t i = 0; i < m->n_params; i++) n = lgv_max_i64(n, lgv_param_elements(&m->param[i]));
    for (size_t i = 0; i < l->count; i++) {
        const int64_t *d = l->tensor[i].dim;
        n = lgv_max_i64(n, d[0] * d[1] * d[2] * d[3]);
    }
    *out = lgv_alloc((size_t)n, sizeof **out);
    return *out ? LGV_OK
                : lgv_fail(err, LGV_ERR_MEMORY, "out of memory for a tensor of %lld numbers",
                           (long long)n);
}

static lgv_status load(const lgv_selection *s, lgv_store *store, const char *set,
                       const char *source, lgv_error *err)
{
    float *buffer = NULL, *other = NULL;
    LGV_TRY(lgv_store_add_set(store, set, err));
    lgv_status status = buffer_new(s->model, &s->layout, &buffer, err);
    if (!status) status = buffer_new(s->model, &s->layout, &other, err);
    if (!status) status = copy_in(s, store, set, buffer, other, source, err);
    lgv_free(buffer);
    lgv_free(other);
    return status;
}

/* Weights of a network that computes otherwise would load and give wrong results. */
static lgv_status check_format(const lgv_selection *s, const char *source, lgv_error *err)
{
    const lgv_model_kind *kind = s->model->kind;
    const char *why = kind->differs ? kind->differs(s->model, s->format) : NULL;
    if (!why) return LGV_OK;
    return lgv_fail(err, LGV_ERR_FORMAT,
                    "'%s' holds tensors of the original code, and the configuration is of another "
                    "network: %s; `langevin convert '%s' FOLDER --model CONFIG` writes the right "
                    "one",
                    source, why, source);
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
    if (!status) status = check_format(&s, path, err);
    if (!status) status = load(&s, store, set, path, err);
    lgv_selection_free(&s);
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

/* The one tensor that is the whole of a parameter as it stands in the file, NULL: there is none. */
static const lgv_tensor_info *sole(const lgv_selection *f, const lgv_model_param *p, int index)
{
    const lgv_tensor_info *found = NULL;
    for (size_t i = 0; i < f->layout.count; i++) {
        const lgv_file_tensor *t = &f->layout.tensor[i];
        if (t->param != index) continue;
        if (found || t->rows != p->dim[0] || t->dim[0] != p->dim[0]) return NULL;
        found = lgv_selected(f, i);
    }
    return found && found->dtype == LGV_F32 && (uintptr_t)found->data % sizeof(float) == 0 ? found
                                                                                          : NULL;
}

/* *mapped: the set is the file, and the store owns w. Where that cannot be, nothing has happened. */
static lgv_status map(const lgv_selection *f, lgv_weights *w, lgv_store *store, const char *set,
                      bool *mapped, lgv_error *err)
{
    const lgv_model *m = f->model;
    const float **data = lgv_zalloc((size_t)lgv_store_count(store), sizeof *data);
    if (!data) return lgv_fail(err, LGV_ERR_MEMORY, "out of memory while mapping weights");
    lgv_status status = LGV_OK;
    *mapped = lgv_store_count(store) == (int)m->n_params;
    for (size_t i = 0; i < m->n_params && !status && *mapped; i++) {
        const lgv_tensor_info *t = sole(f, &m->param[i], (int)i);
        int index;
        status = buffer_of(store, &m->param[i], &index, err);
        *mapped = t != NULL;
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
    lgv_selection s;
    bool mapped = false;
    LGV_TRY(lgv_model_weights_path(model, which, &path, err));
    LGV_TRY(lgv_model_open_weights(path, &w, err));
    lgv_status status = lgv_select(model, w, LGV_WEIGHTS_BEST, path, &s, err);
    if (!status) status = check_format(&s, path, err);
    if (!status) status = map(&s, w, store, set, &mapped, err);
    if (!status && !mapped) status = load(&s, store, set, path, err);
    lgv_selection_free(&s);
    if (!mapped) lgv_weights_close(w);
    return status;
}

/* --- Saving --- */
typedef struct source {
    const lgv_model *model;
    const lgv_store *store;
    const char *set;
    const lgv_file_tensor *tensor;
    int index;      /* of the parameter in the store */
    float *scratch; /* [elements of the largest parameter] */
} source;

static lgv_status read_source(void *arg, void *dst, size_t bytes, lgv_error *err)
{
    const source *s = arg;
    const lgv_file_tensor *t = s->tensor;
    if (t->param < 0) {
        s->model->kind->constant(s->model, t, dst);
        return LGV_OK;
    }
    const lgv_model_param *p = &s->model->param[t->param];
    const int64_t n = lgv_param_elements(p), width = n / p->dim[0];
    if (t->rows == p->dim[0] && t->dim[0] == p->dim[0])
        return lgv_store_read(s->store, s->set, s->index, dst, n, err);
    LGV_TRY(lgv_store_read(s->store, s->set, s->index, s->scratch, n, err));
    memset(dst, 0, bytes);
    memcpy(dst, s->scratch + t->row * width, (size_t)(t->rows * width) * sizeof(float));
    return LGV_OK;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const source *)a)->tensor->name, ((const source *)b)->tensor->name);
}

/* In the order of the safetensors package: by name. */
static lgv_status add_tensors(const lgv_model *m, const lgv_layout *l, const lgv_store *store,
                              const char *set, float *scratch, source *s,
                              lgv_safetensors_writer *w, lgv_error *err)
{
    for (size_t i = 0; i < l->count; i++) {
        s[i] = (source){m, store, set, &l->tensor[i], 0, scratch};
        if (l->tensor[i].param >= 0)
            LGV_TRY(buffer_of(store, &m->param[l->tensor[i].param], &s[i].index, err));
    }
    qsort(s, l->count, sizeof *s, by_name);
    for (size_t i = 0; i < l->count; i++)
        LGV_TRY(lgv_safetensors_add_source(w, s[i].tensor->name, LGV_F32, s[i].tensor->rank,
                                           s[i].tensor->dim, read_source, &s[i], err));
    return LGV_OK;
}

static lgv_status save_weights(const lgv_model *m, int format, const lgv_store *store,
                               const char *set, const char *path, lgv_error *err)
{
    lgv_safetensors_writer *w = NULL;
    lgv_layout l = {0};
    float *scratch = NULL;
    source *sources = NULL;
    lgv_status status = lgv_layout_make(m, format, &l, err);
    if (!status) status = buffer_new(m, &l, &scratch, err);
    if (!status && !(sources = lgv_alloc(l.count, sizeof *sources)))
        status = lgv_fail(err, LGV_ERR_MEMORY, "out of memory while saving '%s'", path);
    if (!status) status = lgv_safetensors_writer_new(&w, err);
    if (!status) status = add_tensors(m, &l, store, set, scratch, sources, w, err);
    if (!status) status = lgv_safetensors_write(w, path, err);
    lgv_safetensors_writer_free(w);
    lgv_free(sources);
    lgv_free(scratch);
    lgv_layout_free(&l);
    return status;
}

lgv_status lgv_model_save_original(const lgv_model *model, const lgv_store *store, const char *set,
                                   const char *path, lgv_error *err)
{
    const char *why = lgv_layout_not_original(model);
    if (!why) return save_weights(model, 1, store, set, path, err);
    return lgv_fail(err, LGV_ERR_UNSUPPORTED,
                    "'%s' (%s) cannot be written as the original code's tensors: %s", model->source,
                    model->kind->class_name, why);
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
    if (!status) status = save_weights(model, 0, store, set, weights, err);
    lgv_free(config);
    lgv_free(weights);
    return status;
}
