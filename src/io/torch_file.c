/* torch_file.c - what torch.save wrote: storages (raw bytes) and a pickle that says which tensors lie in them
   (torch/serialization.py, torch/_utils.py). In a zip archive a storage is the member data/KEY; in the older stream
   five pickles (magic, protocol, system, object, keys) are followed by the storages in the order of the keys, each with
   its length before it.
   The names that mean something are those of this file: storage types, the rebuild functions of tensors and
   parameters. Everything else in a pickle is an opaque value that is shown and never used. */
#include "langevin/torch_file.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/core.h"
#include "core/file.h"
#include "pickle.h"
#include "tensor_writer.h"
#include "zip.h"

typedef lgv_pickle_value value;

enum { DEPTH = 64, VISITS = 1 << 22, NOTES = 1 << 18, NOTE_TEXT = 200, COPIES = 16 << 20 };

typedef struct tensor {
    lgv_tensor_info info;
    size_t stem;
} tensor;

typedef struct note {
    char *name, *text;
} note;

/* Bytes that tensors are views of. */
typedef struct storage {
    const value *key;
    lgv_dtype dtype;
    bool known; /* dtype is one of ours */
    int64_t count;
    const uint8_t *data;
} storage;

struct lgv_torch_file {
    lgv_map map;
    lgv_zip zip;
    char *top; /* folder of the archive's members, with its slash */
    lgv_pickle *pickle;
    storage *storage; /* of the stream form, sorted by key */
    size_t storages;
    tensor *tensor;
    size_t tensors, tensor_capacity;
    const lgv_tensor_info **by_name; /* sorted */
    note *note;
    size_t notes, note_capacity;
    void **copy;
    size_t copies, copy_capacity;
};

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

static bool element_type(const value *v, lgv_dtype *out)
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

static lgv_status find_in_zip(const lgv_torch_file *f, const char *path, storage *s, lgv_error *err)
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

static lgv_status find_in_stream(const lgv_torch_file *f, const char *path, storage *s,
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

static lgv_status find_storage(const lgv_torch_file *f, const char *path, const value *v,
                               storage *s, lgv_error *err)
{
    LGV_TRY(read_storage_id(path, v, s, err));
    if (!s->known) return LGV_OK;
    if (f->top) return find_in_zip(f, path, s, err);
    LGV_TRY(find_in_stream(f, path, s, err));
    return apply_view(path, v->item[0], s, err);
}

/* --- Tensors --- */
typedef struct walk {
    lgv_torch_file *f;
    const char *path; /* of the file */
    char name[LGV_TENSOR_NAME + 1];
    size_t length, stem; /* of name; of its dictionary's part */
    int depth;
    size_t visits, copied; /* bytes */
    lgv_error *err;
} walk;

static lgv_status bad_tensor(const walk *w, const char *what)
{
    return lgv_fail(w->err, LGV_ERR_FORMAT, "%s: tensor '%.200s' %s", w->path, w->name, what);
}

/* A tuple of integers of at least 0. */
static lgv_status read_tuple(const walk *w, const value *v, int64_t out[LGV_TENSOR_RANK], int *n)
{
    if (v->kind != LGV_PICKLE_TUPLE) return bad_tensor(w, "has a shape that is no tuple");
    if (v->count > LGV_TENSOR_RANK)
        return lgv_fail(w->err, LGV_ERR_UNSUPPORTED,
                        "%s: tensor '%.200s' has %zu dimensions, at most %d are read", w->path,
                        w->name, v->count, LGV_TENSOR_RANK);
    *n = (int)v->count;
    for (int i = 0; i < *n; i++) {
        if (v->item[i]->kind != LGV_PICKLE_INT || v->item[i]->integer < 0)
            return bad_tensor(w, "has a dimension or stride that is no integer of at least 0");
        out[i] = v->item[i]->integer;
    }
    return LGV_OK;
}

/* offset + sum (dim - 1) stride, the last element touched, must lie in the storage. */
static bool inside(const lgv_tensor_info *t, const int64_t *stride, int64_t offset, int64_t count)
{
    int64_t last = offset, step;
    if (!t->count) return offset <= count;
    for (int i = 0; i < t->rank; i++)
        if (!lgv_mul_i64(t->dim[i] - 1, stride[i], &step) ||
            __builtin_add_overflow(last, step, &last))
            return false;
    return last < count;
}

static bool contiguous(const lgv_tensor_info *t, const int64_t *stride)
{
    int64_t want = 1;
    for (int i = t->rank - 1; i >= 0; i--) {
        if (t->dim[i] != 1 && stride[i] != want) return false;
        want *= t->dim[i];
    }
    return true;
}

static void gather(const lgv_tensor_info *t, const int64_t *stride, const uint8_t *from,
                   uint8_t *to)
{
    int64_t index[LGV_TENSOR_RANK] = {0};
    size_t size = lgv_dtype_size(t->dtype);
    for (int64_t i = 0; i < t->count; i++, to += size) {
        int64_t at = 0;
        for (int k = 0; k < t->rank; k++) at += index[k] * stride[k];
        memcpy(to, from + (size_t)at * size, size);
        for (int k = t->rank - 1; k >= 0 && ++index[k] == t->dim[k]; k--) index[k] = 0;
    }
}

/* Copies may be as large as the file together: an expanded or shared view is small in it and could be anything here. */
static lgv_status copy_view(walk *w, lgv_tensor_info *t, const int64_t *stride, const uint8_t *from)
{
    lgv_torch_file *f = w->f;
    if (t->bytes > f->map.size + COPIES - w->copied)
        return lgv_fail(
            w->err, LGV_ERR_UNSUPPORTED,
            "%s: tensor '%.200s' repeats elements until it is larger than the file; save it "
            "with .contiguous()",
            w->path, w->name);
    w->copied += t->bytes;
    LGV_TRY(lgv_grow(&f->copy, &f->copy_capacity, f->copies + 1, sizeof *f->copy, w->err));
    uint8_t *to = lgv_alloc(t->bytes, 1);
    if (!to)
        return lgv_fail(w->err, LGV_ERR_MEMORY, "%s: out of memory for tensor '%.200s'", w->path,
                        w->name);
    f->copy[f->copies++] = to;
    gather(t, stride, from, to);
    t->data = to;
    return LGV_OK;
}

static lgv_status place_tensor(walk *w, lgv_tensor_info *t, const storage *s, int64_t offset,
                               const int64_t *stride)
{
    t->dtype = s->dtype;
    t->count = 1;
    for (int i = 0; i < t->rank; i++)
        if (!lgv_mul_i64(t->count, t->dim[i], &t->count))
            return bad_tensor(w, "has a shape too large to be real");
    int64_t bytes;
    if (!lgv_mul_i64(t->count, (int64_t)lgv_dtype_size(t->dtype), &bytes))
        return bad_tensor(w, "has a shape too large to be real");
    if (!inside(t, stride, offset, s->count)) return bad_tensor(w, "lies outside of its storage");
    t->bytes = (size_t)bytes;
    const uint8_t *from = s->data + (size_t)offset * lgv_dtype_size(t->dtype);
    if (!t->count || contiguous(t, stride)) {
        t->data = from;
        return LGV_OK;
    }
    return copy_view(w, t, stride, from);
}

/* What a value must be to be a tensor: the arguments of a rebuild function, below any number of wrappers. */
typedef struct description {
    const value *arguments; /* storage, offset, size, stride ... */
    bool typed;             /* arguments[6] is the element type */
} description;

static const value *arguments_of(const value *v, size_t least)
{
    if (v->kind != LGV_PICKLE_OBJECT) return NULL;
    const value *a = v->item[LGV_PICKLE_ARGUMENTS];
    return a->count >= least ? a : NULL;
}

static bool describes(const value *function, const value *a, description *out)
{
    *out = (description){a, lgv_pickle_is_global(function, "torch._utils", "_rebuild_tensor_v3")};
    if (out->typed) return a->count >= 7;
    return (lgv_pickle_is_global(function, "torch._utils", "_rebuild_tensor") ||
            lgv_pickle_is_global(function, "torch._utils", "_rebuild_tensor_v2")) &&
           a->count >= 4;
}

static bool is_tensor(const value *v, description *out)
{
    enum { WRAPPERS = 4 };
    for (int i = 0; i < WRAPPERS; i++) {
        const value *a = arguments_of(v, 1);
        if (!a) return false;
        const value *function = v->item[LGV_PICKLE_CALLABLE];
        if (describes(function, a, out)) return true;
        if (lgv_pickle_is_global(function, "torch._tensor", "_rebuild_from_type_v2") &&
            a->count >= 3)
            return a->item[2]->kind == LGV_PICKLE_TUPLE && describes(a->item[0], a->item[2], out);
        if (!lgv_pickle_is_global(function, "torch._utils", "_rebuild_parameter") &&
            !lgv_pickle_is_global(function, "torch._utils", "_rebuild_parameter_with_state"))
            return false;
        v = a->item[0];
    }
    return false;
}

/* *known: the element type is one of ours, and *t a tensor. */
static lgv_status read_tensor(walk *w, const description *d, lgv_tensor_info *t, bool *known)
{
    int64_t stride[LGV_TENSOR_RANK];
    int strides;
    storage s;
    const value *const *a = (const value *const *)d->arguments->item;
    LGV_TRY(find_storage(w->f, w->path, a[0], &s, w->err));
    *known = s.known;
    if (s.known && d->typed) { /* the storage counts bytes */
        *known = element_type(a[6], &s.dtype);
        if (*known) s.count /= (int64_t)lgv_dtype_size(s.dtype);
    }
    if (!*known) return LGV_OK;
    if (a[1]->kind != LGV_PICKLE_INT || a[1]->integer < 0)
        return bad_tensor(w, "has an offset that is no integer of at least 0");
    LGV_TRY(read_tuple(w, a[2], t->dim, &t->rank));
    LGV_TRY(read_tuple(w, a[3], stride, &strides));
    if (strides != t->rank) return bad_tensor(w, "has more dimensions than strides, or fewer");
    return place_tensor(w, t, &s, a[1]->integer, stride);
}

/* --- Notes --- */
static lgv_status add_note(walk *w, const value *v)
{
    lgv_torch_file *f = w->f;
    char text[NOTE_TEXT];
    if (f->notes == NOTES) return LGV_OK; /* for people to read: nobody misses the rest */
    lgv_pickle_show(v, text, sizeof text);
    LGV_TRY(lgv_grow(&f->note, &f->note_capacity, f->notes + 1, sizeof *f->note, w->err));
    note *n = &f->note[f->notes];
    *n = (note){lgv_strdup(w->name), lgv_strdup(text)};
    if (n->name && n->text) {
        f->notes++;
        return LGV_OK;
    }
    lgv_free(n->name);
    lgv_free(n->text);
    return lgv_fail(w->err, LGV_ERR_MEMORY, "%s: out of memory", w->path);
}

/* --- The tree --- */
static lgv_status visit(walk *w, const value *v);

static lgv_status add_tensor(walk *w, const description *d, const value *v)
{
    lgv_torch_file *f = w->f;
    bool known;
    tensor t = {.stem = w->stem};
    LGV_TRY(read_tensor(w, d, &t.info, &known));
    if (!known) return add_note(w, v);
    if (f->tensors == LGV_TENSORS)
        return lgv_fail(w->err, LGV_ERR_UNSUPPORTED, "%s: more than %d tensors", w->path,
                        LGV_TENSORS);
    LGV_TRY(lgv_grow(&f->tensor, &f->tensor_capacity, f->tensors + 1, sizeof *f->tensor, w->err));
    t.info.name = lgv_strdup(w->length ? w->name : "tensor");
    if (!t.info.name) return lgv_fail(w->err, LGV_ERR_MEMORY, "%s: out of memory", w->path);
    f->tensor[f->tensors++] = t;
    return LGV_OK;
}

/* Visits v under name.key. keyed: the key is a dictionary's, so the dictionary is what lies before it. */
static lgv_status visit_under(walk *w, const char *key, size_t size, bool keyed, const value *v)
{
    size_t length = w->length, stem = w->stem, dot = length > 0;
    if (size > LGV_TENSOR_NAME || length + dot + size > LGV_TENSOR_NAME)
        return lgv_fail(w->err, LGV_ERR_UNSUPPORTED, "%s: a path of keys has more than %d bytes",
                        w->path, LGV_TENSOR_NAME);
    if (memchr(key, 0, size))
        return lgv_fail(w->err, LGV_ERR_FORMAT, "%s: a key holds a zero byte", w->path);
    if (dot) w->name[w->length++] = '.';
    if (keyed) w->stem = w->length;
    memcpy(w->name + w->length, key, size);
    w->length += size;
    w->name[w->length] = 0;
    lgv_status status = visit(w, v);
    w->length = length;
    w->stem = stem;
    w->name[length] = 0;
    return status;
}

/* items: key, value, key, value ...; keys that are neither texts nor numbers are written as notes are. */
static lgv_status visit_pairs(walk *w, value *const *items, size_t n)
{
    for (size_t i = 0; i + 1 < n; i += 2) {
        char text[NOTE_TEXT];
        if (items[i]->kind == LGV_PICKLE_TEXT) {
            LGV_TRY(visit_under(w, items[i]->text, items[i]->size, true, items[i + 1]));
            continue;
        }
        lgv_pickle_show(items[i], text, sizeof text);
        LGV_TRY(visit_under(w, text, strlen(text), true, items[i + 1]));
    }
    return LGV_OK;
}

static bool holds_more(const value *v)
{
    return v->kind == LGV_PICKLE_DICT || v->kind == LGV_PICKLE_LIST ||
           v->kind == LGV_PICKLE_TUPLE || v->kind == LGV_PICKLE_OBJECT;
}

/* A list of plain values is one note. */
static lgv_status visit_list(walk *w, const value *v)
{
    bool plain = true;
    for (size_t i = 0; i < v->count && plain; i++) plain = !holds_more(v->item[i]);
    if (plain) return add_note(w, v);
    for (size_t i = 0; i < v->count; i++) {
        char text[24];
        int n = snprintf(text, sizeof text, "%zu", i);
        LGV_TRY(visit_under(w, text, (size_t)n, false, v->item[i]));
    }
    return LGV_OK;
}

/* An object of unknown class: its attributes, when it has any, as keys. */
static lgv_status visit_object(walk *w, const value *v)
{
    const value *state = v->item[LGV_PICKLE_STATE];
    LGV_TRY(add_note(w, v));
    if (state->kind == LGV_PICKLE_DICT) LGV_TRY(visit_pairs(w, state->item, state->count));
    return visit_pairs(w, v->item + LGV_PICKLE_PAIRS, v->count - LGV_PICKLE_PAIRS);
}

static lgv_status visit(walk *w, const value *v)
{
    description d;
    if (++w->visits > VISITS || w->depth == DEPTH)
        return lgv_fail(
            w->err, LGV_ERR_UNSUPPORTED,
            "%s: dictionaries are nested more than %d deep, or hold each other again and again",
            w->path, DEPTH);
    w->depth++;
    lgv_status status = LGV_OK;
    if (is_tensor(v, &d))
        status = add_tensor(w, &d, v);
    else if (v->kind == LGV_PICKLE_DICT)
        status = visit_pairs(w, v->item, v->count);
    else if (v->kind == LGV_PICKLE_LIST || v->kind == LGV_PICKLE_TUPLE)
        status = visit_list(w, v);
    else if (v->kind == LGV_PICKLE_OBJECT)
        status = visit_object(w, v);
    else
        status = add_note(w, v);
    w->depth--;
    return status;
}

/* --- The zip form --- */
/* The one member NAME/data.pkl; NAME is the file's when it was written. */
static lgv_status find_pickle(lgv_torch_file *f, const char *path, const lgv_zip_entry **out,
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

static lgv_status check_byte_order(const lgv_torch_file *f, const char *path, lgv_error *err)
{
    char *name = lgv_format("%sbyteorder", f->top);
    if (!name) return lgv_fail(err, LGV_ERR_MEMORY, "%s: out of memory", path);
    const lgv_zip_entry *e = lgv_zip_find(&f->zip, name);
    lgv_free(name);
    if (!e || (e->size == 6 && !memcmp(e->data, "little", 6))) return LGV_OK; /* before 2.1 none */
    return lgv_fail(err, LGV_ERR_UNSUPPORTED, "%s: its numbers are big-endian, which is not read",
                    path);
}

static lgv_status open_zip(lgv_torch_file *f, const char *path, lgv_error *err)
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
static lgv_status next_pickle(const lgv_torch_file *f, const char *path, size_t *at,
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
static lgv_status read_preamble(const lgv_torch_file *f, const char *path, size_t *at,
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
static lgv_status collect_storages(lgv_torch_file *f, const char *path, lgv_error *err)
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
static lgv_status read_storages(lgv_torch_file *f, const value *keys, size_t at, const char *path,
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

static lgv_status open_stream(lgv_torch_file *f, const char *path, lgv_error *err)
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

/* --- The file --- */
static bool begins_as_zip(const uint8_t *p, size_t size)
{
    return size >= 4 && !memcmp(p, "PK\3\4", 4);
}

static bool begins_as_pickle(const uint8_t *p, size_t size)
{
    return size >= 2 && p[0] == 0x80 && p[1] >= 2 && p[1] <= 5;
}

static int compare_name(const void *a, const void *b)
{
    const lgv_tensor_info *const *s = a, *const *t = b;
    return strcmp((*s)->name, (*t)->name);
}

static lgv_status sort_names(lgv_torch_file *f, const char *path, lgv_error *err)
{
    f->by_name = lgv_alloc(f->tensors, sizeof *f->by_name);
    if (!f->by_name) return lgv_fail(err, LGV_ERR_MEMORY, "%s: out of memory", path);
    for (size_t i = 0; i < f->tensors; i++) f->by_name[i] = &f->tensor[i].info;
    if (f->tensors) qsort(f->by_name, f->tensors, sizeof *f->by_name, compare_name);
    for (size_t i = 1; i < f->tensors; i++)
        if (!strcmp(f->by_name[i]->name, f->by_name[i - 1]->name))
            return lgv_fail(err, LGV_ERR_FORMAT, "%s: two tensors are called '%.200s'", path,
                            f->by_name[i]->name);
    return LGV_OK;
}

static lgv_status read_file(lgv_torch_file *f, const char *path, lgv_error *err)
{
    if (begins_as_zip(f->map.data, f->map.size))
        LGV_TRY(open_zip(f, path, err));
    else if (begins_as_pickle(f->map.data, f->map.size))
        LGV_TRY(open_stream(f, path, err));
    else
        return lgv_fail(err, LGV_ERR_FORMAT,
                        "%s: not a file of torch.save: neither a zip archive nor a pickle", path);
    walk w = {.f = f, .path = path, .err = err};
    LGV_TRY(visit(&w, lgv_pickle_root(f->pickle)));
    return sort_names(f, path, err);
}

/* Takes map over, also on failure. */
static lgv_status open_map(lgv_map map, const char *path, lgv_torch_file **out, lgv_error *err)
{
    lgv_torch_file *f = lgv_zalloc(1, sizeof *f);
    if (!f) {
        lgv_map_close(&map);
        return lgv_fail(err, LGV_ERR_MEMORY, "%s: out of memory", path);
    }
    f->map = map;
    lgv_status status = read_file(f, path, err);
    lgv_pickle_free(f->pickle); /* everything of it that lasts was copied */
    f->pickle = NULL;
    if (status)
        lgv_torch_file_close(f);
    else
        *out = f;
    return status;
}

lgv_status lgv_torch_file_open(const char *path, lgv_torch_file **out, lgv_error *err)
{
    lgv_map map;
    LGV_TRY(lgv_map_open(path, &map, err));
    return open_map(map, path, out, err);
}

lgv_status lgv_torch_file_open_memory(const void *data, size_t size, const char *name,
                                      lgv_torch_file **out, lgv_error *err)
{
    return open_map((lgv_map){.data = data, .size = size}, name, out, err);
}

void lgv_torch_file_close(lgv_torch_file *f)
{
    if (!f) return;
    for (size_t i = 0; i < f->tensors; i++) lgv_free((void *)(uintptr_t)f->tensor[i].info.name);
    for (size_t i = 0; i < f->notes; i++) {
        lgv_free(f->note[i].name);
        lgv_free(f->note[i].text);
    }
    for (size_t i = 0; i < f->copies; i++) lgv_free(f->copy[i]);
    lgv_free(f->by_name);
    lgv_free(f->tensor);
    lgv_free(f->note);
    lgv_free(f->copy);
    lgv_free(f->storage);
    lgv_free(f->top);
    lgv_zip_free(&f->zip);
    lgv_map_close(&f->map);
    lgv_free(f);
}

size_t lgv_torch_file_count(const lgv_torch_file *f)
{
    return f->tensors;
}

const lgv_tensor_info *lgv_torch_file_at(const lgv_torch_file *f, size_t i, size_t *stem)
{
    if (stem) *stem = f->tensor[i].stem;
    return &f->tensor[i].info;
}

const lgv_tensor_info *lgv_torch_file_find(const lgv_torch_file *f, const char *name)
{
    const lgv_tensor_info key = {.name = name}, *p = &key;
    const lgv_tensor_info **hit =
        f->tensors ? bsearch(&p, f->by_name, f->tensors, sizeof *f->by_name, compare_name) : NULL;
    return hit ? *hit : NULL;
}

int lgv_torch_file_note(const lgv_torch_file *f, size_t i, const char **name, const char **text)
{
    if (i >= f->notes) return 0;
    *name = f->note[i].name;
    *text = f->note[i].text;
    return 1;
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
