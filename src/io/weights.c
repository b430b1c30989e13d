/* weights.c - the tensors of a model folder, whether they lie in one file or in shards, in files of safetensors or of
   torch.save. What a file is, its first bytes tell: names end in .bin, .pt, .ckpt and more.
   The names in an index file come from outside: a shard's name must be a plain file name, so that
   an index cannot make us open files elsewhere. */
#include <stdlib.h>
#include <string.h>

#include "core/file.h"
#include "json.h"
#include "langevin/torch_file.h"

typedef struct shard {
    char *name;
    lgv_safetensors *file; /* one of these two */
    lgv_torch_file *torch;
} shard;

typedef struct tensor {
    const lgv_tensor_info *info;
    size_t stem;
} tensor;

struct lgv_weights {
    shard *shard;
    size_t shards, shard_capacity;
    tensor *tensor; /* sorted by name */
    size_t count;
};

static int compare_name(const void *a, const void *b)
{
    return strcmp(((const tensor *)a)->info->name, ((const tensor *)b)->info->name);
}

static lgv_status open_shard(shard *s, const char *path, lgv_error *err)
{
    if (lgv_torch_file_is(path)) return lgv_torch_file_open(path, &s->torch, err);
    return lgv_safetensors_open(path, &s->file, err);
}

static void close_shard(shard *s)
{
    lgv_free(s->name);
    lgv_safetensors_close(s->file);
    lgv_torch_file_close(s->torch);
}

static const lgv_tensor_info *find_in(const shard *s, const char *name)
{
    return s->torch ? lgv_torch_file_find(s->torch, name) : lgv_safetensors_find(s->file, name);
}

/* The shard `name` of the folder, opened the first time it is asked for. */
static lgv_status get_shard(lgv_weights *w, const char *folder, const char *name, const shard **out,
                            lgv_error *err)
{
    for (size_t i = w->shards; i-- > 0;) { /* names mostly lie in the newest shard */
        if (strcmp(w->shard[i].name, name) == 0) {
            *out = &w->shard[i];
            return LGV_OK;
        }
    }
    LGV_TRY(lgv_grow(&w->shard, &w->shard_capacity, w->shards + 1, sizeof *w->shard, err));
    shard *s = &w->shard[w->shards];
    *s = (shard){0};
    w->shards++;
    s->name = lgv_strdup(name);
    char *path = folder ? lgv_path_join(folder, name) : lgv_strdup(name);
    lgv_status status = s->name && path ? open_shard(s, path, err)
                                        : lgv_fail(err, LGV_ERR_MEMORY,
                                                   "%s: out of memory while opening weights", name);
    lgv_free(path);
    if (status) {
        lgv_free(s->name);
        w->shards--;
        return status;
    }
    *out = s;
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
        const shard *s = NULL;
        LGV_TRY(get_shard(w, folder, file, &s, err));
        const lgv_tensor_info *t = find_in(s, name);
        if (!t)
            return lgv_fail(err, LGV_ERR_FORMAT,
                            "%s: tensor '%.200s' should be in '%.200s', but is not there",
                            index->name, name, file);
        w->tensor[w->count++] = (tensor){t, 0};
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
    const shard *s = NULL;
    LGV_TRY(get_shard(w, NULL, path, &s, err));
    size_t n = s->torch ? lgv_torch_file_count(s->torch) : lgv_safetensors_count(s->file);
    w->tensor = lgv_alloc(n, sizeof *w->tensor);
    if (!w->tensor) return lgv_fail(err, LGV_ERR_MEMORY, "%s: out of memory", path);
    for (size_t i = 0; i < n; i++) {
        tensor *t = &w->tensor[i];
        t->stem = 0;
        t->info =
            s->torch ? lgv_torch_file_at(s->torch, i, &t->stem) : lgv_safetensors_at(s->file, i);
    }
    if (n) qsort(w->tensor, n, sizeof *w->tensor, compare_name);
    w->count = n;
    return LGV_OK;
}

static lgv_status open_folder(lgv_weights *w, const char *folder, const char *stem,
                              const char *base, lgv_error *err)
{
    enum { SINGLE, INDEX, TORCH, TORCH_INDEX, KINDS };
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
    if (kind == KINDS)
        status = lgv_fail(err, LGV_ERR_IO,
                          "%s: no weights here: %s.safetensors, %s.bin or an index of either",
                          folder, stem, stem);
    else if (kind == INDEX || kind == TORCH_INDEX)
        status = open_index(w, folder, path, err);
    else
        status = open_single(w, path, err);
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
    for (size_t i = 0; i < w->shards; i++) close_shard(&w->shard[i]);
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
    return w->tensor[i].info;
}

size_t lgv_weights_stem(const lgv_weights *w, size_t i)
{
    return w->tensor[i].stem;
}

const lgv_tensor_info *lgv_weights_find(const lgv_weights *w, const char *name)
{
    if (!w->count) return NULL;
    const lgv_tensor_info key = {.name = name};
    const tensor *hit =
        bsearch(&(tensor){&key, 0}, w->tensor, w->count, sizeof *w->tensor, compare_name);
    return hit ? hit->info : NULL;
}

const char *lgv_weights_metadata(const lgv_weights *w, const char *key)
{
    for (size_t i = 0; i < w->shards; i++) {
        const char *text =
            w->shard[i].file ? lgv_safetensors_metadata(w->shard[i].file, key) : NULL;
        if (text) return text;
    }
    return NULL;
}

int lgv_weights_note(const lgv_weights *w, size_t i, const char **name, const char **text)
{
    const shard *s = w->shards == 1 ? &w->shard[0] : NULL;
    if (!s) return 0;
    return s->torch ? lgv_torch_file_note(s->torch, i, name, text)
                    : lgv_safetensors_note(s->file, i, name, text);
}
