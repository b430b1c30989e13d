/* safetensors.c - reading one safetensors file.
   The header is parsed once and everything in it is checked against the file's length there, so
   that a tensor handed out can be read without any further check. */
#include "langevin/safetensors.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/bits.h"
#include "core/core.h"
#include "core/file.h"
#include "json.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
               "tensor data is used in place as little-endian");

enum { HEADER_BYTES = 100 * 1000 * 1000 }; /* the format's own limit */

struct lgv_safetensors {
    lgv_map map;
    json_t *root;                    /* owns the names */
    lgv_tensor_info *tensor;         /* in data order */
    const lgv_tensor_info **by_name; /* sorted */
    size_t count;
};

/* ---- element types ---- */

static bool dtype_from_name(const char *name, lgv_dtype *out)
{
    for (int d = 0; d < LGV_DTYPES; d++) {
        if (strcmp(name, lgv_dtype_name((lgv_dtype)d)) == 0) {
            *out = (lgv_dtype)d;
            return true;
        }
    }
    return false;
}

static float f16_to_f32(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = h >> 10 & 31, mantissa = h & 0x3ff,
             bits;
    float f;
    if (exponent == 0) { /* zero and subnormal: mantissa * 2^-24, exact */
        f = (float)mantissa * 0x1p-24f;
        memcpy(&bits, &f, 4);
        bits |= sign;
    } else if (exponent == 31) {
        bits = sign | 0x7f800000 | mantissa << 13;
    } else {
        bits = sign | (exponent + 112) << 23 | mantissa << 13;
    }
    memcpy(&f, &bits, 4);
    return f;
}

lgv_status lgv_tensor_to_f32(const lgv_tensor_info *t, float *dst, lgv_error *err)
{
    const uint8_t *src = t->data;
    size_t n = (size_t)t->count;
    switch (t->dtype) {
    case LGV_F32:
        if (n) memcpy(dst, src, n * 4);
        return LGV_OK;
    case LGV_BF16:
        for (size_t i = 0; i < n; i++) {
            uint32_t bits = (uint32_t)src[2 * i] << 16 | (uint32_t)src[2 * i + 1] << 24;
            memcpy(dst + i, &bits, 4);
        }
        return LGV_OK;
    case LGV_F16:
        for (size_t i = 0; i < n; i++)
            dst[i] = f16_to_f32((uint16_t)(src[2 * i] | src[2 * i + 1] << 8));
        return LGV_OK;
    case LGV_F64:
        for (size_t i = 0; i < n; i++) {
            double v;
            memcpy(&v, src + 8 * i, 8);
            dst[i] = (float)v;
        }
        return LGV_OK;
    default:
        return lgv_fail(err, LGV_ERR_UNSUPPORTED,
                        "tensor '%.200s' has type %s, a floating-point type is needed", t->name,
                        lgv_dtype_name(t->dtype));
    }
}

/* n floats to F16 or BF16. */
static lgv_status narrow(const lgv_tensor_info *t, const float *x, size_t n, lgv_dtype dtype,
                         uint8_t *dst, lgv_error *err)
{
    for (size_t i = 0; i < n; i++) {
        uint16_t half = dtype == LGV_F16 ? lgv_f16_from(x[i]) : lgv_bf16_from(x[i]);
        if (dtype == LGV_F16 && (half & 0x7fff) == 0x7c00 && isfinite(x[i]))
            return lgv_fail(
                err, LGV_ERR_NUMERIC,
                "tensor '%.200s' has the number %g, which is too large for f16; use bf16", t->name,
                (double)x[i]);
        dst[2 * i] = (uint8_t)half;
        dst[2 * i + 1] = (uint8_t)(half >> 8);
    }
    return LGV_OK;
}

lgv_status lgv_tensor_convert(const lgv_tensor_info *t, lgv_dtype dtype, void *dst, lgv_error *err)
{
    enum { BLOCK = 4096 };
    float buffer[BLOCK];
    if (dtype == t->dtype) {
        if (t->bytes) memcpy(dst, t->data, t->bytes);
        return LGV_OK;
    }
    if (dtype == LGV_F32) return lgv_tensor_to_f32(t, dst, err);
    if (dtype != LGV_F16 && dtype != LGV_BF16)
        return lgv_fail(err, LGV_ERR_UNSUPPORTED, "tensor '%.200s' cannot become %s", t->name,
                        lgv_dtype_name(dtype));
    lgv_tensor_info part = *t;
    for (int64_t i = 0; i < t->count; i += BLOCK) {
        part.count = lgv_min_i64(BLOCK, t->count - i);
        part.data = (const uint8_t *)t->data + (size_t)i * lgv_dtype_size(t->dtype);
        LGV_TRY(lgv_tensor_to_f32(&part, buffer, err));
        LGV_TRY(narrow(t, buffer, (size_t)part.count, dtype, (uint8_t *)dst + 2 * i, err));
    }
    return LGV_OK;
}

/* ---- the header ---- */

/* shape -> rank, dim, count. */
static lgv_status read_shape(const char *path, const json_t *shape, lgv_tensor_info *t,
                             lgv_error *err)
{
    if (!json_is_array(shape))
        return lgv_fail(err, LGV_ERR_FORMAT, "%s: tensor '%.200s' has no list 'shape'", path,
                        t->name);
    if (json_array_size(shape) > LGV_TENSOR_RANK)
        return lgv_fail(err, LGV_ERR_UNSUPPORTED,
                        "%s: tensor '%.200s' has %zu dimensions, at most %d are read", path,
                        t->name, json_array_size(shape), LGV_TENSOR_RANK);
    t->rank = (int)json_array_size(shape);
    t->count = 1;
    for (int i = 0; i < t->rank; i++) {
        const json_t *d = json_array_get(shape, (size_t)i);
        if (!json_is_integer(d) || json_integer_value(d) < 0)
            return lgv_fail(err, LGV_ERR_FORMAT,
                            "%s: tensor '%.200s' has a dimension that is no integer of at least 0",
                            path, t->name);
        t->dim[i] = json_integer_value(d);
        if (!lgv_mul_i64(t->count, t->dim[i], &t->count))
            return lgv_fail(err, LGV_ERR_FORMAT,
                            "%s: tensor '%.200s' has a shape too large to be real", path, t->name);
    }
    return LGV_OK;
}

/* data_offsets -> data, bytes; they must lie in the file and fit the shape. */
static lgv_status read_offsets(const char *path, const json_t *offsets, const uint8_t *data,
                               size_t data_size, lgv_tensor_info *t, lgv_error *err)
{
    const json_t *begin = json_array_get(offsets, 0), *end = json_array_get(offsets, 1);
    if (json_array_size(offsets) != 2 || !json_is_integer(begin) || !json_is_integer(end))
        return lgv_fail(err, LGV_ERR_FORMAT,
                        "%s: tensor '%.200s' has no 'data_offsets' [begin, end]", path, t->name);
    json_int_t b = json_integer_value(begin), e = json_integer_value(end);
    if (b < 0 || e < b || (uint64_t)e > data_size)
        return lgv_fail(err, LGV_ERR_FORMAT,
                        "%s: tensor '%.200s' lies at bytes %lld to %lld, the file holds %zu bytes "
                        "of data; it is truncated or damaged",
                        path, t->name, (long long)b, (long long)e, data_size);
    t->data = data + b;
    t->bytes = (size_t)(e - b);
    int64_t want;
    if (!lgv_mul_i64(t->count, (int64_t)lgv_dtype_size(t->dtype), &want) || want != e - b)
        return lgv_fail(err, LGV_ERR_FORMAT,
                        "%s: tensor '%.200s' has %lld bytes, its shape and type %s want %lld", path,
                        t->name, (long long)(e - b), lgv_dtype_name(t->dtype), (long long)want);
    return LGV_OK;
}

static lgv_status read_tensor(const char *path, const json_t *entry, const uint8_t *data,
                              size_t data_size, lgv_tensor_info *t, lgv_error *err)
{
    const char *dtype = json_string_value(json_object_get(entry, "dtype"));
    if (!dtype)
        return lgv_fail(err, LGV_ERR_FORMAT, "%s: tensor '%.200s' has no 'dtype'", path, t->name);
    if (!dtype_from_name(dtype, &t->dtype))
        return lgv_fail(err, LGV_ERR_UNSUPPORTED,
                        "%s: tensor '%.200s' has element type '%.40s', which is not supported; "
                        "convert it to F32, F16 or BF16",
                        path, t->name, dtype);
    LGV_TRY(read_shape(path, json_object_get(entry, "shape"), t, err));
    return read_offsets(path, json_object_get(entry, "data_offsets"), data, data_size, t, err);
}

static int compare_data(const void *a, const void *b)
{
    const lgv_tensor_info *s = a, *t = b;
    if (s->data != t->data) return (const uint8_t *)s->data < (const uint8_t *)t->data ? -1 : 1;
    if (s->bytes != t->bytes) return s->bytes < t->bytes ? -1 : 1;
    return strcmp(s->name, t->name);
}

static int compare_name(const void *a, const void *b)
{
    const lgv_tensor_info *const *s = a, *const *t = b;
    return strcmp((*s)->name, (*t)->name);
}

/* The format wants every byte of the data to belong to exactly one tensor. */
static lgv_status check_cover(const char *path, const lgv_safetensors *f, const uint8_t *data,
                              size_t data_size, lgv_error *err)
{
    const uint8_t *end = data;
    for (size_t i = 0; i < f->count; i++) {
        const lgv_tensor_info *t = &f->tensor[i];
        if ((const uint8_t *)t->data != end)
            return lgv_fail(
                err, LGV_ERR_FORMAT, "%s: the data of tensor '%.200s' %s", path, t->name,
                (const uint8_t *)t->data < end ? "overlaps the tensor before it"
                                               : "begins after a gap; the format allows none");
        end += t->bytes;
    }
    if (end != data + data_size)
        return lgv_fail(err, LGV_ERR_FORMAT,
                        "%s: %zu bytes after the last tensor belong to no tensor", path,
                        (size_t)(data + data_size - end));
    return LGV_OK;
}

static lgv_status check_metadata(const char *path, json_t *metadata, lgv_error *err)
{
    if (!json_is_object(metadata))
        return lgv_fail(err, LGV_ERR_FORMAT, "%s: '__metadata__' must be an object of texts", path);
    for (void *it = json_object_iter(metadata); it; it = json_object_iter_next(metadata, it)) {
        if (!json_is_string(json_object_iter_value(it)))
            return lgv_fail(err, LGV_ERR_FORMAT, "%s: metadata '%.200s' must be a text", path,
                            json_object_iter_key(it));
    }
    return LGV_OK;
}

/* Fills f->tensor and f->by_name from f->root. */
static lgv_status read_entries(const char *path, lgv_safetensors *f, const uint8_t *data,
                               size_t data_size, lgv_error *err)
{
    size_t n = json_object_size(f->root);
    if (n > LGV_TENSORS)
        return lgv_fail(err, LGV_ERR_UNSUPPORTED, "%s: %zu tensors, at most %d are read", path, n,
                        LGV_TENSORS);
    f->tensor = lgv_zalloc(n, sizeof *f->tensor);
    f->by_name = lgv_alloc(n, sizeof *f->by_name);
    if (!f->tensor || !f->by_name)
        return lgv_fail(err, LGV_ERR_MEMORY, "%s: out of memory for %zu tensors", path, n);
    for (void *it = json_object_iter(f->root); it; it = json_object_iter_next(f->root, it)) {
        const char *name = json_object_iter_key(it);
        json_t *entry = json_object_iter_value(it);
        if (strcmp(name, "__metadata__") == 0) {
            LGV_TRY(check_metadata(path, entry, err));
            continue;
        }
        if (strlen(name) > LGV_TENSOR_NAME)
            return lgv_fail(err, LGV_ERR_UNSUPPORTED,
                            "%s: a tensor's name has %zu bytes, at most %d are read", path,
                            strlen(name), LGV_TENSOR_NAME);
        f->tensor[f->count].name = name;
        LGV_TRY(read_tensor(path, entry, data, data_size, &f->tensor[f->count], err));
        f->count++;
    }
    if (f->count) qsort(f->tensor, f->count, sizeof *f->tensor, compare_data);
    for (size_t i = 0; i < f->count; i++) f->by_name[i] = &f->tensor[i];
    if (f->count) qsort(f->by_name, f->count, sizeof *f->by_name, compare_name);
    return check_cover(path, f, data, data_size, err);
}

static lgv_status read_header(const char *path, lgv_safetensors *f, lgv_error *err)
{
    const uint8_t *base = f->map.data;
    uint64_t length = 0;
    if (f->map.size < 8)
        return lgv_fail(err, LGV_ERR_FORMAT, "%s: only %zu bytes long, not a safetensors file",
                        path, f->map.size);
    memcpy(&length, base, 8);
    if (length > HEADER_BYTES || length > f->map.size - 8)
        return lgv_fail(err, LGV_ERR_FORMAT,
                        "%s: the header's length (%llu) does not fit the file (%zu bytes); it is "
                        "truncated or not a safetensors file",
                        path, (unsigned long long)length, f->map.size);
    if (length == 0 || base[8] != '{')
        return lgv_fail(err, LGV_ERR_FORMAT,
                        "%s: the header must begin with '{'; not a safetensors file", path);
    json_error_t e;
    f->root = lgv_json_read((const char *)base + 8, (size_t)length, JSON_REJECT_DUPLICATES, &e);
    if (!f->root && lgv_json_short_of_memory(&e))
        return lgv_fail(err, LGV_ERR_MEMORY, "%s: out of memory for the header", path);
    if (!f->root)
        return lgv_fail(err, LGV_ERR_FORMAT, "%s: the header is not valid: %s", path, e.text);
    return read_entries(path, f, base + 8 + length, f->map.size - 8 - (size_t)length, err);
}

/* ---- the file ---- */

/* Takes map over, also on failure. */
static lgv_status open_map(lgv_map map, const char *name, lgv_safetensors **out, lgv_error *err)
{
    lgv_safetensors *f = lgv_zalloc(1, sizeof *f);
    if (!f) {
        lgv_map_close(&map);
        return lgv_fail(err, LGV_ERR_MEMORY, "%s: out of memory", name);
    }
    f->map = map;
    lgv_status status = read_header(name, f, err);
    if (status)
        lgv_safetensors_close(f);
    else
        *out = f;
    return status;
}

lgv_status lgv_safetensors_open(const char *path, lgv_safetensors **out, lgv_error *err)
{
    lgv_map map;
    LGV_TRY(lgv_map_open(path, &map, err));
    return open_map(map, path, out, err);
}

lgv_status lgv_safetensors_open_memory(const void *data, size_t size, const char *name,
                                       lgv_safetensors **out, lgv_error *err)
{
    return open_map((lgv_map){.data = data, .size = size}, name, out, err);
}

void lgv_safetensors_close(lgv_safetensors *f)
{
    if (!f) return;
    lgv_free(f->tensor);
    lgv_free(f->by_name);
    json_decref(f->root);
    lgv_map_close(&f->map);
    lgv_free(f);
}

size_t lgv_safetensors_count(const lgv_safetensors *f)
{
    return f->count;
}

const lgv_tensor_info *lgv_safetensors_at(const lgv_safetensors *f, size_t i)
{
    return &f->tensor[i];
}

const lgv_tensor_info *lgv_safetensors_find(const lgv_safetensors *f, const char *name)
{
    if (!f->count) return NULL;
    const lgv_tensor_info key = {.name = name}, *p = &key;
    const lgv_tensor_info **hit =
        bsearch(&p, f->by_name, f->count, sizeof *f->by_name, compare_name);
    return hit ? *hit : NULL;
}

const char *lgv_safetensors_metadata(const lgv_safetensors *f, const char *key)
{
    return json_string_value(json_object_get(json_object_get(f->root, "__metadata__"), key));
}

int lgv_safetensors_note(const lgv_safetensors *f, size_t i, const char **name, const char **text)
{
    json_t *metadata = json_object_get(f->root, "__metadata__");
    enum { SHOWN = 4096 }; /* each is found by counting */
    void *it = i < SHOWN ? json_object_iter(metadata) : NULL;
    while (it && i--) it = json_object_iter_next(metadata, it);
    if (!it) return 0;
    *name = json_object_iter_key(it);
    *text = json_string_value(json_object_iter_value(it));
    return 1;
}
