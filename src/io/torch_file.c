/* torch_file.c - the tensors of what torch.save wrote: storages (torch_container.c) and a pickle that says which tensors lie
   in them. The names that mean something are those of the rebuild functions of tensors and parameters here, and of
   storage types there. Everything else in a pickle is an opaque value that is shown and never used. */
#include "langevin/torch_file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/core.h"
#include "torch_container.h"

typedef lgv_pickle_value value;

enum { DEPTH = 64, VISITS = 1 << 22, NOTES = 1 << 18, NOTE_TEXT = 200, COPIES = 16 << 20 };

typedef struct tensor {
    lgv_tensor_info info;
    size_t stem;
} tensor;

typedef struct note {
    char *name, *text;
} note;

struct lgv_torch_file {
    lgv_torch_container in;
    tensor *tensor;
    size_t tensors, tensor_capacity;
    const lgv_tensor_info **by_name; /* sorted */
    note *note;
    size_t notes, note_capacity;
    void **copy;
    size_t copies, copy_capacity;
};

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
    if (t->bytes > f->in.map.size + COPIES - w->copied)
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

static lgv_status place_tensor(walk *w, lgv_tensor_info *t, const lgv_torch_storage_bytes *s, int64_t offset,
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
    lgv_torch_storage_bytes s;
    const value *const *a = (const value *const *)d->arguments->item;
    LGV_TRY(lgv_torch_find_storage(&w->f->in, w->path, a[0], &s, w->err));
    *known = s.known;
    if (s.known && d->typed) { /* the storage counts bytes */
        *known = lgv_torch_element_type(a[6], &s.dtype);
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

/* --- The file --- */
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

static lgv_status read_file(lgv_torch_file *f, lgv_map map, const char *path, lgv_error *err)
{
    walk w = {.f = f, .path = path, .err = err};
    LGV_TRY(lgv_torch_container_open(map, path, &f->in, err));
    LGV_TRY(visit(&w, lgv_pickle_root(f->in.pickle)));
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
    lgv_status status = read_file(f, map, path, err);
    lgv_torch_container_drop_pickle(&f->in); /* everything of it that lasts was copied */
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
    lgv_torch_container_close(&f->in);
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

