/* weights.c - the tensors of a model folder, whether they lie in one file or in shards.
   The names in an index file come from outside: a shard's name must be a plain file name, so that
   an index cannot make us open files elsewhere. */
#include <stdlib.h>
#include <string.h>

#include "core/file.h"
#include "json.h"
#include "langevin/safetensors.h"

typedef struct shard {
    char *name;
    lgv_safetensors *file;
} shard;

struct lgv_weights {
    shard *shard;
    size_t shards, shard_capacity;
    const lgv_tensor_info **tensor; /* sorted by name */
    size_t count;
};

static int compare_name(const void *a, const void *b)
{
    const lgv_tensor_info *const *s = a, *const *t = b;
    return strcmp((*s)->name, (*t)->name);
}

/* The shard `name` of the folder, opened the first time it is asked for. */
static lgv_status get_shard(lgv_weights *w, const char *folder, const char *name,
                            lgv_safetensors **out, lgv_error *err)
{
    for (size_t i = w->shards; i-- > 0;) { /* names mostly lie in the newest shard */
        if (strcmp(w->shard[i].name, name) == 0) {
            *out = w->shard[i].file;
            return LGV_OK;
        }
    }
    LGV_TRY(lgv_grow(&w->shard, &w->shard_capacity, w->shards + 1, sizeof *w->shard, err));
    shard *s = &w->shard[w->shards];
    *s = (shard){0};
    w->shards++;
    s->name = lgv_strdup(name);
    char *path = folder ? lgv_path_join(folder, name) : lgv_strdup(name);
    lgv_status status = s->name && path ? lgv_safetensors_open(path, &s->file, err)
                                        : lgv_fail(err, LGV_ERR_MEMORY,
                                                   "%s: out of memory while opening weights", name);
    lgv_free(path);
    if (status) {
        lgv_free(s->name);
        w->shards--;
        return status;
    }
    *out = s->file;
    return LGV_OK;
}

static bool plain_name(const char *name)
{
    return name && *name && *name != '.' && !strchr(name, '/') && !strchr(name, '\\');
}

/* Opens every shard of weight_map and takes exactly the tensors it lists. */
static lgv_status read_index(lgv_weights *w, const char *folder, const lgv_json *index,
                             lgv_error *err)
{
    json_t *map = json_object_get(index->root, "weight_map");
    if (!json_is_object(map))
        return lgv_json_wrong(index, "weight_map", "an object of tensor and file names", err);
    w->tensor = lgv_alloc(json_object_size(map), sizeof *w->tensor);
    if (!w->tensor) return lgv_fail(err, LGV_ERR_MEMORY, "%s: out of memory", index->name);
    for (void *it = json_object_iter(map); it; it = json_object_iter_next(map, it)) {
        const char *name = json_object_iter_key(it),
                   *file = json_string_value(json_object_iter_value(it));
        if (!plain_name(file))
            return lgv_fail(
                err, LGV_ERR_FORMAT,
                "%s: tensor '%.200s' is not mapped to a plain file name in the same folder",
                index->name, name);
        lgv_safetensors *f = NULL;
        LGV_TRY(get_shard(w, folder, file, &f, err));
        const lgv_tensor_info *t = lgv_safetensors_find(f, name);
        if (!t)
            return lgv_fail(err, LGV_ERR_FORMAT,
                            "%s: tensor '%.200s' should be in '%.200s', but is not there",
                            index->name, name, file);
        w->tensor[w->count++] = t;
    }
    if (w->count) qsort(w->tensor, w->count, sizeof *w->tensor, compare_name);
    return LGV_OK;
}

static lgv_status open_index(lgv_weights *w, const char *folder, const char *path, lgv_error *err)
{
    lgv_json index = {0};
    LGV_TRY(lgv_json_load(path, &index, err));
    lgv_status status = read_index(w, folder, &index, err);
    lgv_json_free(&index);
    return status;
}

static lgv_status open_single(lgv_weights *w, const char *path, lgv_error *err)
{
    lgv_safetensors *f = NULL;
    LGV_TRY(get_shard(w, NULL, path, &f, err));
    size_t n = lgv_safetensors_count(f);
    w->tensor = lgv_alloc(n, sizeof *w->tensor);
    if (!w->tensor) return lgv_fail(err, LGV_ERR_MEMORY, "%s: out of memory", path);
    for (size_t i = 0; i < n; i++) w->tensor[i] = lgv_safetensors_at(f, i);
    if (n) qsort(w->tensor, n, sizeof *w->tensor, compare_name);
    w->count = n;
    return LGV_OK;
}

static lgv_status open_folder(lgv_weights *w, const char *folder, const char *stem,
                              const char *base, lgv_error *err)
{
    enum { SINGLE, INDEX, PICKLE, PICKLE_INDEX, KINDS };
    static const char *const suffix[KINDS] = {".safetensors", ".safetensors.index.json", ".bin",
                                              ".bin.index.json"};
    int kind = 0;
    char *path = NULL;
    for (; kind < KINDS; kind++) {
        path = lgv_format("%s%s", base, suffix[kind]);
        if (!path) return lgv_fail(err, LGV_ERR_MEMORY, "%s: out of memory", folder);
        if (lgv_is_file(path)) break;
        lgv_free(path);
        path = NULL;
    }
    lgv_status status;
    switch (kind) {
    case SINGLE: status = open_single(w, path, err); break;
    case INDEX: status = open_index(w, folder, path, err); break;
    case PICKLE:
    case PICKLE_INDEX:
        status = lgv_fail(
            err, LGV_ERR_UNSUPPORTED,
            "%s: the weights are a pickle (%s%s), which is not read; convert it with diffusers: "
            "save_pretrained(..., safe_serialization=True)",
            folder, stem, suffix[kind]);
        break;
    default:
        status =
            lgv_fail(err, LGV_ERR_IO,
                     "%s: no weights here: neither %s.safetensors nor %s.safetensors.index.json",
                     folder, stem, stem);
    }
    lgv_free(path);
    return status;
}

lgv_status lgv_weights_open(const char *folder, const char *stem, lgv_weights **out, lgv_error *err)
{
    lgv_weights *w = lgv_zalloc(1, sizeof *w);
    char *base = lgv_path_join(folder, stem);
    lgv_status status = w && base ? open_folder(w, folder, stem, base, err)
                                  : lgv_fail(err, LGV_ERR_MEMORY, "%s: out of memory", folder);
    lgv_free(base);
    if (status)
        lgv_weights_close(w);
    else
        *out = w;
    return status;
}

lgv_status lgv_weights_open_file(const char *path, lgv_weights **out, lgv_error *err)
{
    lgv_weights *w = lgv_zalloc(1, sizeof *w);
    lgv_status status =
        w ? open_single(w, path, err) : lgv_fail(err, LGV_ERR_MEMORY, "%s: out of memory", path);
    if (status)
        lgv_weights_close(w);
    else
        *out = w;
    return status;
}

void lgv_weights_close(lgv_weights *w)
{
    if (!w) return;
    for (size_t i = 0; i < w->shards; i++) {
        lgv_free(w->shard[i].name);
        lgv_safetensors_close(w->shard[i].file);
    }
    lgv_free(w->shard);
    lgv_free(w->tensor);
    lgv_free(w);
}

size_t lgv_weights_count(const lgv_weights *w)
{
    return w->count;
}

const lgv_tensor_info *lgv_weights_at(const lgv_weights *w, size_t i)
{
    return w->tensor[i];
}

const lgv_tensor_info *lgv_weights_find(const lgv_weights *w, const char *name)
{
    if (!w->count) return NULL;
    const lgv_tensor_info key = {.name = name}, *p = &key;
    const lgv_tensor_info **hit = bsearch(&p, w->tensor, w->count, sizeof *w->tensor, compare_name);
    return hit ? *hit : NULL;
}

const char *lgv_weights_metadata(const lgv_weights *w, const char *key)
{
    for (size_t i = 0; i < w->shards; i++) {
        const char *text = lgv_safetensors_metadata(w->shard[i].file, key);
        if (text) return text;
    }
    return NULL;
}
