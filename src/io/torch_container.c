/* torch_container.c - the two containers of torch.save (torch/serialization.py, torch/_utils.py): bytes of storages and a
   pickle that speaks of them. In a zip archive a storage is the member data/KEY; in the older stream five pickles (magic,
   protocol, system, object, keys) are followed by the storages in the order of the keys, each with its length before
   it. */
#include "torch_container.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/core.h"
#include "langevin/torch_file.h"
#include "tensor_writer.h"

typedef lgv_pickle_value value;
typedef lgv_torch_storage_bytes storage;

/* --- Names that mean something --- */
static const struct {
    const char *storage, *name; /* "FloatStorage", "float32" */
    lgv_dtype dtype;
} types[] = {
    {"FloatStorage", "float32", LGV_F32},      {"HalfStorage", "float16", LGV_F16},
    {"BFloat16Storage", "bfloat16", LGV_BF16}, {"DoubleStorage", "float64", LGV_F64},
    {"LongStorage", "int64", LGV_I64},         {"IntStorage", "int32", LGV_I32},
    {"ShortStorage", "int16", LGV_I16},        {"CharStorage", "int8", LGV_I8},
    {"ByteStorage", "uint8", LGV_U8},          {"BoolStorage", "bool", LGV_BOOL},
    {"UntypedStorage", "uint8", LGV_U8},
};
enum { TYPES = sizeof types / sizeof types[0] };

static bool storage_type(const value *v, lgv_dtype *out)
{
    for (int i = 0; i < TYPES; i++) {
        const char *name = types[i].storage;
        if (!lgv_pickle_is_global(v, "torch", name) &&
            !lgv_pickle_is_global(v, "torch.cuda", name) &&
            !lgv_pickle_is_global(v, "torch.storage", name))
            continue;
        *out = types[i].dtype;
        return true;
    }
    return false;
}

const char *lgv_torch_storage(lgv_dtype dtype)
{
    for (int i = 0; i < TYPES; i++)
        if (types[i].dtype == dtype) return types[i].storage;
    return NULL;
}

bool lgv_torch_element_type(const lgv_pickle_value *v, lgv_dtype *out)
{
    for (int i = 0; i < TYPES; i++) {
        if (!lgv_pickle_is_global(v, "torch", types[i].name)) continue;
        *out = types[i].dtype;
        return true;
    }
    return false;
}

static lgv_status wrong(const char *path, const char *what, lgv_error *err)
{
    return lgv_fail(err, LGV_ERR_FORMAT,
                    "%s: %s; the file is damaged or torch.save did not write it", path, what);
}

/* --- Storages --- */
/* ("storage", type, key, place, count [, view]): everything but data. */
static lgv_status read_storage_id(const char *path, const value *v, storage *s, lgv_error *err)
{
    const value *id = v->kind == LGV_PICKLE_PERSISTENT ? v->item[0] : NULL;
    if (!id || id->kind != LGV_PICKLE_TUPLE || id->count < 5 ||
        !lgv_pickle_is_text(id->item[0], "storage") || id->item[1]->kind != LGV_PICKLE_GLOBAL ||
        id->item[2]->kind != LGV_PICKLE_TEXT || id->item[4]->kind != LGV_PICKLE_INT ||
        id->item[4]->integer < 0)
        return wrong(path, "a storage is described wrongly", err);
    *s = (storage){.key = id->item[2], .count = id->item[4]->integer};
    s->known = storage_type(id->item[1], &s->dtype);
    return LGV_OK;
}

static lgv_status find_in_zip(const lgv_torch_container *f, const char *path, storage *s, lgv_error *err)
{
    char *name = lgv_format("%sdata/%.*s", f->top, (int)(s->key->size < 200 ? s->key->size : 200),
                            s->key->text);
    if (!name) return lgv_fail(err, LGV_ERR_MEMORY, "%s: out of memory", path);
    const lgv_zip_entry *e = lgv_zip_find(&f->zip, name);
    lgv_free(name);
    int64_t bytes;
    if (!e) return wrong(path, "a tensor's bytes are missing", err);
    if (!lgv_mul_i64(s->count, (int64_t)lgv_dtype_size(s->dtype), &bytes) ||
        (uint64_t)bytes > e->size)
        return wrong(path, "a storage is shorter than it claims", err);
    s->data = e->data;
    return LGV_OK;
}

static int compare_text(const value *a, const value *b)
{
    size_t n = a->size < b->size ? a->size : b->size;
    int c = n ? memcmp(a->text, b->text, n) : 0;
    return c ? c : a->size < b->size ? -1 : a->size > b->size;
}

static int by_key(const void *a, const void *b)
{
    return compare_text(((const storage *)a)->key, ((const storage *)b)->key);
}

static lgv_status find_in_stream(const lgv_torch_container *f, const char *path, storage *s,
                                 lgv_error *err)
{
    const storage *hit =
        f->storages ? bsearch(s, f->storage, f->storages, sizeof *s, by_key) : NULL;
    if (!hit || !hit->data) return wrong(path, "a tensor's bytes are missing", err);
    if (hit->dtype != s->dtype || s->count > hit->count)
        return wrong(path, "a storage is described in two ways", err);
    s->data = hit->data;
    return LGV_OK;
}

/* The stream form's sixth entry: (key, offset, count) of a view into the storage. */
static lgv_status apply_view(const char *path, const value *id, storage *s, lgv_error *err)
{
    const value *view = id->count > 5 ? id->item[5] : NULL;
    if (!view || view->kind == LGV_PICKLE_NONE) return LGV_OK;
    if (view->kind != LGV_PICKLE_TUPLE || view->count != 3 ||
        view->item[1]->kind != LGV_PICKLE_INT || view->item[2]->kind != LGV_PICKLE_INT ||
        view->item[1]->integer < 0 || view->item[2]->integer < 0 ||
        view->item[1]->integer > s->count ||
        view->item[2]->integer > s->count - view->item[1]->integer)
        return wrong(path, "a view of a storage lies outside of it", err);
    s->data += (size_t)view->item[1]->integer * lgv_dtype_size(s->dtype);
    s->count = view->item[2]->integer;
    return LGV_OK;
}

lgv_status lgv_torch_find_storage(const lgv_torch_container *f, const char *path, const value *v,
                                  storage *s, lgv_error *err)
{
    LGV_TRY(read_storage_id(path, v, s, err));
    if (!s->known) return LGV_OK;
    if (f->top) return find_in_zip(f, path, s, err);
    LGV_TRY(find_in_stream(f, path, s, err));
    return apply_view(path, v->item[0], s, err);
}

/* --- The zip form --- */
/* The one member NAME/data.pkl; NAME is the file's when it was written. */
static lgv_status find_pickle(lgv_torch_container *f, const char *path, const lgv_zip_entry **out,
                              lgv_error *err)
{
    const lgv_zip_entry *found = NULL;
    for (size_t i = 0; i < f->zip.count; i++) {
        const char *slash = strchr(f->zip.entry[i].name, '/');
        if (!slash || strcmp(slash, "/data.pkl")) continue;
        if (found) return wrong(path, "the archive holds two pickles", err);
        found = &f->zip.entry[i];
    }
    if (!found)
        return lgv_fail(err, LGV_ERR_FORMAT,
                        "%s: a zip archive without data.pkl; torch.save did not write it", path);
    f->top = lgv_format("%.*s/", (int)(strlen(found->name) - strlen("/data.pkl")), found->name);
    *out = found;
    return f->top ? LGV_OK : lgv_fail(err, LGV_ERR_MEMORY, "%s: out of memory", path);
}

static lgv_status check_byte_order(const lgv_torch_container *f, const char *path, lgv_error *err)
{
    char *name = lgv_format("%sbyteorder", f->top);
    if (!name) return lgv_fail(err, LGV_ERR_MEMORY, "%s: out of memory", path);
    const lgv_zip_entry *e = lgv_zip_find(&f->zip, name);
    lgv_free(name);
    if (!e || (e->size == 6 && !memcmp(e->data, "little", 6))) return LGV_OK; /* before 2.1 none */
    return lgv_fail(err, LGV_ERR_UNSUPPORTED, "%s: its numbers are big-endian, which is not read",
                    path);
}

static lgv_status open_zip(lgv_torch_container *f, const char *path, lgv_error *err)
{
    const lgv_zip_entry *pickle = NULL;
    LGV_TRY(lgv_zip_read(f->map.data, f->map.size, path, &f->zip, err));
    LGV_TRY(find_pickle(f, path, &pickle, err));
    LGV_TRY(check_byte_order(f, path, err));
    for (size_t i = 0; i < f->zip.count; i++) LGV_TRY(lgv_zip_check(&f->zip.entry[i], path, err));
    return lgv_pickle_read(pickle->data, pickle->size, path, &f->pickle, NULL, err);
}

/* --- The stream form --- */
static const uint8_t magic[] = {0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19};

/* The next pickle of the stream; the caller frees it. */
static lgv_status next_pickle(const lgv_torch_container *f, const char *path, size_t *at,
                              lgv_pickle **out, lgv_error *err)
{
    size_t end;
    LGV_TRY(lgv_pickle_read(f->map.data + *at, f->map.size - *at, path, out, &end, err));
    *at += end;
    return LGV_OK;
}

static lgv_status check_magic(const value *v, const char *path, lgv_error *err)
{
    if (v->kind == LGV_PICKLE_LONG && v->size == sizeof magic && !memcmp(v->text, magic, v->size))
        return LGV_OK;
    return lgv_fail(err, LGV_ERR_FORMAT, "%s: a pickle that torch.save did not write", path);
}

static lgv_status check_protocol(const value *v, const char *path, lgv_error *err)
{
    if (v->kind == LGV_PICKLE_INT && v->integer == 1001) return LGV_OK;
    return lgv_fail(err, LGV_ERR_UNSUPPORTED, "%s: an unknown version of torch.save's format",
                    path);
}

static lgv_status check_system(const value *v, const char *path, lgv_error *err)
{
    for (size_t i = 0; v->kind == LGV_PICKLE_DICT && i + 1 < v->count; i += 2)
        if (lgv_pickle_is_text(v->item[i], "little_endian") &&
            v->item[i + 1]->kind == LGV_PICKLE_BOOL && !v->item[i + 1]->integer)
            return lgv_fail(err, LGV_ERR_UNSUPPORTED,
                            "%s: its numbers are big-endian, which is not read", path);
    return LGV_OK;
}

/* The pickles before the object: magic number, protocol version, system. */
static lgv_status read_preamble(const lgv_torch_container *f, const char *path, size_t *at,
                                lgv_error *err)
{
    lgv_status (*const check[])(const value *, const char *,
                                lgv_error *) = {check_magic, check_protocol, check_system};
    for (int i = 0; i < 3; i++) {
        lgv_pickle *p = NULL;
        LGV_TRY(next_pickle(f, path, at, &p, err));
        lgv_status status = check[i](lgv_pickle_root(p), path, err);
        lgv_pickle_free(p);
        if (status) return status;
    }
    return LGV_OK;
}

/* The element type of a storage stands only where it is used: all storages the object names. */
static lgv_status collect_storages(lgv_torch_container *f, const char *path, lgv_error *err)
{
    size_t n = 0, all = lgv_pickle_count(f->pickle);
    for (size_t i = 0; i < all; i++)
        n += lgv_pickle_at(f->pickle, i)->kind == LGV_PICKLE_PERSISTENT;
    f->storage = lgv_zalloc(n, sizeof *f->storage);
    if (!f->storage) return lgv_fail(err, LGV_ERR_MEMORY, "%s: out of memory", path);
    for (size_t i = 0; i < all; i++) {
        const value *v = lgv_pickle_at(f->pickle, i);
        if (v->kind != LGV_PICKLE_PERSISTENT) continue;
        LGV_TRY(read_storage_id(path, v, &f->storage[f->storages], err));
        if (!f->storage[f->storages].known)
            return lgv_fail(
                err, LGV_ERR_UNSUPPORTED,
                "%s: holds a storage of a type whose size is not known here; save it with "
                "torch 1.6 or later",
                path);
        f->storages++;
    }
    if (f->storages) qsort(f->storage, f->storages, sizeof *f->storage, by_key);
    size_t kept = 0; /* one each */
    for (size_t i = 0; i < f->storages; i++)
        if (!kept || by_key(&f->storage[kept - 1], &f->storage[i]))
            f->storage[kept++] = f->storage[i];
    f->storages = kept;
    return LGV_OK;
}

/* Each storage: its number of elements in 8 bytes, then the elements. */
static lgv_status read_storages(lgv_torch_container *f, const value *keys, size_t at, const char *path,
                                lgv_error *err)
{
    if (keys->kind != LGV_PICKLE_LIST) return wrong(path, "its list of storages is none", err);
    for (size_t i = 0; i < keys->count; i++) {
        if (keys->item[i]->kind != LGV_PICKLE_TEXT) return wrong(path, "a storage has no key", err);
        storage want = {.key = keys->item[i]}, *s = NULL;
        if (f->storages) s = bsearch(&want, f->storage, f->storages, sizeof want, by_key);
        int64_t count, bytes;
        if (!s || s->data) return wrong(path, "its list of storages does not fit the tensors", err);
        if (f->map.size - at < 8) return wrong(path, "it ends before its last tensor", err);
        memcpy(&count, f->map.data + at, 8);
        at += 8;
        if (count != s->count || !lgv_mul_i64(count, (int64_t)lgv_dtype_size(s->dtype), &bytes))
            return wrong(path, "a storage's length is not the one described", err);
        if ((uint64_t)bytes > f->map.size - at)
            return wrong(path, "it ends before its last tensor", err);
        s->data = f->map.data + at;
        at += (size_t)bytes;
    }
    return LGV_OK;
}

static lgv_status open_stream(lgv_torch_container *f, const char *path, lgv_error *err)
{
    size_t at = 0;
    lgv_pickle *keys = NULL;
    LGV_TRY(read_preamble(f, path, &at, err));
    LGV_TRY(next_pickle(f, path, &at, &f->pickle, err));
    LGV_TRY(collect_storages(f, path, err));
    LGV_TRY(next_pickle(f, path, &at, &keys, err));
    lgv_status status = read_storages(f, lgv_pickle_root(keys), at, path, err);
    lgv_pickle_free(keys);
    return status;
}

/* --- Either --- */
static bool begins_as_zip(const uint8_t *p, size_t size)
{
    return size >= 4 && !memcmp(p, "PK\3\4", 4);
}

static bool begins_as_pickle(const uint8_t *p, size_t size)
{
    return size >= 2 && p[0] == 0x80 && p[1] >= 2 && p[1] <= 5;
}

lgv_status lgv_torch_container_open(lgv_map map, const char *path, lgv_torch_container *f,
                                    lgv_error *err)
{
    *f = (lgv_torch_container){.map = map};
    if (begins_as_zip(f->map.data, f->map.size)) return open_zip(f, path, err);
    if (begins_as_pickle(f->map.data, f->map.size)) return open_stream(f, path, err);
    return lgv_fail(err, LGV_ERR_FORMAT,
                    "%s: not a file of torch.save: neither a zip archive nor a pickle", path);
}

void lgv_torch_container_drop_pickle(lgv_torch_container *f)
{
    lgv_pickle_free(f->pickle);
    lgv_free(f->storage);
    f->pickle = NULL;
    f->storage = NULL;
    f->storages = 0;
}

void lgv_torch_container_close(lgv_torch_container *f)
{
    lgv_torch_container_drop_pickle(f);
    lgv_free(f->top);
    lgv_zip_free(&f->zip);
    lgv_map_close(&f->map);
}

int lgv_torch_file_is(const char *path)
{
    uint8_t head[4];
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return 0;
    ssize_t n = lgv_is_file(path) ? read(fd, head, sizeof head) : 0;
    close(fd);
    return n > 0 && (begins_as_zip(head, (size_t)n) || begins_as_pickle(head, (size_t)n));
}
