/* safetensors_write.c - writing a safetensors file.
   Offsets follow from the order of adding, so the JSON header is built while tensors are added and
   doubles as the set of names. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "core/file.h"
#include "json.h"
#include "tensor_writer.h"

lgv_status lgv_safetensors_writer_new(lgv_safetensors_writer **out, lgv_error *err)
{
    lgv_safetensors_writer *w = lgv_zalloc(1, sizeof *w);
    if (w) w->header = json_pack("{s:{s:s}}", "__metadata__", "format", "pt");
    if (!w || !w->header) {
        lgv_free(w);
        return lgv_fail(err, LGV_ERR_MEMORY, "out of memory for a safetensors writer");
    }
    *out = w;
    return LGV_OK;
}

void lgv_safetensors_writer_free(lgv_safetensors_writer *w)
{
    if (!w) return;
    json_decref(w->header);
    lgv_free(w->entry);
    lgv_free(w);
}

static lgv_status tensor_bytes(const char *name, lgv_dtype dtype, int rank, const int64_t *dim,
                               int64_t *bytes, lgv_error *err)
{
    if (rank < 0 || rank > LGV_TENSOR_RANK)
        return lgv_fail(err, LGV_ERR_ARGUMENT,
                        "tensor '%.200s' has rank %d, 0 to %d can be written", name, rank,
                        LGV_TENSOR_RANK);
    int64_t n = (int64_t)lgv_dtype_size(dtype);
    for (int i = 0; i < rank; i++) {
        if (dim[i] < 0 || !lgv_mul_i64(n, dim[i], &n))
            return lgv_fail(err, LGV_ERR_ARGUMENT,
                            "tensor '%.200s' has an impossible dimension %" PRId64, name, dim[i]);
    }
    *bytes = n;
    return LGV_OK;
}

static json_t *describe(lgv_dtype dtype, int rank, const int64_t *dim, int64_t begin, int64_t end)
{
    json_t *shape = json_array();
    for (int i = 0; shape && i < rank; i++) {
        if (json_array_append_new(shape, json_integer(dim[i]))) {
            json_decref(shape);
            shape = NULL;
        }
    }
    if (!shape) return NULL;
    return json_pack("{s:s, s:o, s:[I,I]}", "dtype", lgv_dtype_name(dtype), "shape", shape,
                     "data_offsets", (json_int_t)begin,
                     (json_int_t)end); /* takes shape, also when it fails */
}

static lgv_status add(lgv_safetensors_writer *w, const char *name, lgv_dtype dtype, int rank,
                      const int64_t *dim, lgv_writer_entry e, lgv_error *err)
{
    int64_t bytes = 0, end;
    LGV_TRY(tensor_bytes(name, dtype, rank, dim, &bytes, err));
    if (json_object_get(w->header, name))
        return lgv_fail(err, LGV_ERR_ARGUMENT,
                        "tensor '%.200s' was already added, or is a reserved name", name);
    if (__builtin_add_overflow(w->total, bytes, &end))
        return lgv_fail(err, LGV_ERR_ARGUMENT, "tensor '%.200s' makes the file too large", name);
    if (!lgv_json_is_utf8(name))
        return lgv_fail(err, LGV_ERR_ARGUMENT,
                        "tensor '%.200s' cannot be named so: the name is not UTF-8", name);
    LGV_TRY(lgv_grow(&w->entry, &w->capacity, w->count + 1, sizeof *w->entry, err));
    json_t *description = describe(dtype, rank, dim, w->total, end);
    if (!description || json_object_set_new(w->header, name, description))
        return lgv_fail(err, LGV_ERR_MEMORY, "tensor '%.200s': out of memory", name);
    e.name = json_object_iter_key(json_object_iter_at(w->header, name));
    e.bytes = (size_t)bytes;
    e.dtype = dtype;
    e.rank = rank;
    for (int i = 0; i < rank; i++) e.dim[i] = dim[i];
    w->entry[w->count++] = e;
    w->total = end;
    return LGV_OK;
}

lgv_status lgv_safetensors_add(lgv_safetensors_writer *w, const char *name, lgv_dtype dtype,
                               int rank, const int64_t *dim, const void *data, lgv_error *err)
{
    return add(w, name, dtype, rank, dim, (lgv_writer_entry){.data = data}, err);
}

lgv_status lgv_safetensors_add_source(lgv_safetensors_writer *w, const char *name, lgv_dtype dtype,
                                      int rank, const int64_t *dim, lgv_tensor_source source,
                                      void *arg, lgv_error *err)
{
    return add(w, name, dtype, rank, dim, (lgv_writer_entry){.source = source, .arg = arg}, err);
}

lgv_status lgv_safetensors_set_metadata(lgv_safetensors_writer *w, const char *key,
                                        const char *value, lgv_error *err)
{
    if (!lgv_json_is_utf8(key) || !lgv_json_is_utf8(value))
        return lgv_fail(err, LGV_ERR_ARGUMENT, "metadata '%.200s' cannot be set: it is not UTF-8",
                        key);
    if (json_object_set_new(json_object_get(w->header, "__metadata__"), key, json_string(value)))
        return lgv_fail(err, LGV_ERR_MEMORY, "metadata '%.200s': out of memory", key);
    return LGV_OK;
}

/* Length, header, and spaces up to a multiple of 8. */
static lgv_status write_header(const lgv_safetensors_writer *w, lgv_atomic *f, const char *path,
                               lgv_error *err)
{
    static const char spaces[] = "        ";
    char *text = json_dumps(w->header, JSON_COMPACT);
    if (!text) return lgv_fail(err, LGV_ERR_MEMORY, "%s: out of memory for the header", path);
    size_t size = strlen(text), padding = (8 - size % 8) % 8;
    uint64_t length = size + padding;
    lgv_status status = lgv_atomic_write(f, &length, 8, err);
    if (!status) status = lgv_atomic_write(f, text, size, err);
    if (!status && padding) status = lgv_atomic_write(f, spaces, padding, err);
    free(text);
    return status;
}

lgv_status lgv_writer_buffer(const lgv_safetensors_writer *w, const char *path, void **out,
                             lgv_error *err)
{
    size_t largest = 0;
    for (size_t i = 0; i < w->count; i++) {
        if (w->entry[i].source && w->entry[i].bytes > largest) largest = w->entry[i].bytes;
    }
    *out = lgv_alloc(largest, 1);
    return *out ? LGV_OK
                : lgv_fail(err, LGV_ERR_MEMORY, "%s: out of memory for a tensor of %zu bytes", path,
                           largest);
}

lgv_status lgv_writer_bytes(const lgv_writer_entry *e, void *buffer, const void **out,
                            lgv_error *err)
{
    *out = e->source ? buffer : e->data;
    if (!e->bytes || !e->source) return LGV_OK;
    lgv_status status = e->source(e->arg, buffer, e->bytes, err);
    return status ? lgv_fail_prefix(err, status, "tensor '%.200s'", e->name) : LGV_OK;
}

static lgv_status write_tensor(const lgv_writer_entry *e, void *buffer, lgv_atomic *f,
                               lgv_error *err)
{
    const void *bytes;
    LGV_TRY(lgv_writer_bytes(e, buffer, &bytes, err));
    return e->bytes ? lgv_atomic_write(f, bytes, e->bytes, err) : LGV_OK;
}

lgv_status lgv_safetensors_write(lgv_safetensors_writer *w, const char *path, lgv_error *err)
{
    lgv_atomic *f = NULL;
    void *buffer;
    LGV_TRY(lgv_writer_buffer(w, path, &buffer, err));
    lgv_status status = lgv_atomic_open(path, &f, err);
    if (!status) status = write_header(w, f, path, err);
    for (size_t i = 0; !status && i < w->count; i++)
        status = write_tensor(&w->entry[i], buffer, f, err);
    lgv_free(buffer);
    if (status) {
        lgv_atomic_abort(f);
        return status;
    }
    return lgv_atomic_commit(f, err);
}
