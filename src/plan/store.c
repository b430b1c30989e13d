/* store.c - everything that outlives a run: parameters, gradients, optimizer state, averages.
   Trained buffers come first and frozen ones last, so that the optimizer is one node over one range. */
#include <stdio.h>
#include <string.h>

#include "store.h"

enum { PAD = 16 }; /* buffers start at multiples of 16 elements: 64 bytes in f32 */

lgv_status lgv_store_new(lgv_device *device, lgv_store **out, lgv_error *err)
{
    lgv_store *s = lgv_zalloc(1, sizeof *s);
    if (!s) return lgv_fail(err, LGV_ERR_MEMORY, "out of memory while making a store");
    s->device = device;
    *out = s;
    return LGV_OK;
}

lgv_status lgv_store_new_dry(lgv_device *device, lgv_store **out, lgv_error *err)
{
    LGV_TRY(lgv_store_new(device, out, err));
    (*out)->dry = true;
    return LGV_OK;
}

lgv_status lgv_store_wants_memory(const lgv_store *s, lgv_error *err)
{
    if (!s->dry) return LGV_OK;
    return lgv_fail(err, LGV_ERR_ARGUMENT,
                    "the store was made by lgv_store_new_dry: it holds no numbers and its plans "
                    "cannot run; use lgv_store_new");
}

void lgv_store_free(lgv_store *s)
{
    if (!s) return;
    for (size_t i = 0; i < s->n_buffers; i++) lgv_free(s->buffer[i].name);
    for (int i = 0; i < s->n_sets; i++) {
        s->device->free(s->device, s->set[i].data);
        if (s->set[i].release) s->set[i].release(s->set[i].owner);
        lgv_free(s->set[i].mapped);
    }
    for (size_t i = 0; i < s->n_packs; i++) lgv_free(s->pack[i]);
    for (size_t i = 0; i < s->n_slabs; i++) s->device->free(s->device, s->slab[i]);
    lgv_free(s->slab);
    s->device->free(s->device, s->arena);
    lgv_free(s->pack);
    lgv_free(s->buffer);
    lgv_free(s);
}

static lgv_status declare_one(lgv_store *s, const lgv_param_info *p, lgv_error *err)
{
    int known = lgv_store_find(s, p->name);
    if (known >= 0) {
        const lgv_store_buffer *b = &s->buffer[known];
        if (b->rank == p->rank && !memcmp(b->dim, p->dim, sizeof b->dim)) return LGV_OK;
        return lgv_fail(err, LGV_ERR_SHAPE,
                        "parameter '%s' is in the store already, with another shape", p->name);
    }
    if (s->sealed)
        return lgv_fail(err, LGV_ERR_ARGUMENT,
                        "parameter '%s' is declared after the store's first set was made", p->name);
    LGV_TRY(lgv_grow(&s->buffer, &s->cap_buffers, s->n_buffers + 1, sizeof *s->buffer, err));
    lgv_store_buffer b = {.rank = p->rank, .frozen = p->frozen, .count = 1};
    memcpy(b.dim, p->dim, sizeof b.dim);
    for (int i = 0; i < LGV_MAX_RANK; i++)
        if (!lgv_mul_i64(b.count, b.dim[i], &b.count) || b.count > INT64_MAX / 64)
            return lgv_fail(err, LGV_ERR_SHAPE, "parameter '%s' is too large", p->name);
    b.name = lgv_strdup(p->name);
    if (!b.name)
        return lgv_fail(err, LGV_ERR_MEMORY, "out of memory while declaring '%s'", p->name);
    s->buffer[s->n_buffers++] = b;
    return LGV_OK;
}

lgv_status lgv_store_declare(lgv_store *s, const lgv_graph *g, lgv_error *err)
{
    for (size_t i = 0; i < g->n_params; i++) LGV_TRY(declare_one(s, &g->param[i], err));
    return LGV_OK;
}

static void seal(lgv_store *s)
{
    int64_t offset = 0;
    for (int frozen = 0; frozen < 2; frozen++) {
        for (size_t i = 0; i < s->n_buffers; i++) {
            lgv_store_buffer *b = &s->buffer[i];
            if (b->frozen != frozen) continue;
            b->offset = offset;
            offset += (b->count + PAD - 1) / PAD * PAD;
        }
        if (!frozen) s->trained = offset;
    }
    s->total = offset;
    s->sealed = true;
}

int lgv_store_find_set(const lgv_store *s, const char *set)
{
    for (int i = 0; i < s->n_sets; i++)
        if (!strcmp(s->set[i].name, set)) return i;
    return -1;
}

static lgv_status start_set(lgv_store *s, const char *set, lgv_error *err)
{
    if (s->n_sets == LGV_MAX_SETS || strlen(set) >= sizeof s->set[0].name)
        return lgv_fail(err, LGV_ERR_ARGUMENT, "the store cannot hold another set called '%s'",
                        set);
    if (!s->sealed) seal(s);
    return LGV_OK;
}

lgv_status lgv_store_add_set(lgv_store *s, const char *set, lgv_error *err)
{
    if (lgv_store_find_set(s, set) >= 0) return LGV_OK;
    LGV_TRY(start_set(s, set, err));
    size_t bytes = (size_t)(s->total ? s->total : 1) * s->device->element_size(s->device, LGV_F32);
    void *data = s->dry ? NULL : s->device->alloc(s->device, bytes);
    if (!data && !s->dry)
        return lgv_fail(err, LGV_ERR_MEMORY, "out of memory: set '%s' needs %zu MiB", set,
                        bytes >> 20);
    lgv_store_set *n = &s->set[s->n_sets++];
    snprintf(n->name, sizeof n->name, "%s", set);
    n->data = data;
    n->version = 1;
    return LGV_OK;
}

lgv_status lgv_store_map_set(lgv_store *s, const char *set, const float *const *data, void *owner,
                             void (*release)(void *owner), lgv_error *err)
{
    if (lgv_store_find_set(s, set) >= 0)
        return lgv_fail(err, LGV_ERR_ARGUMENT, "the store has a set '%s' already", set);
    if (s->device->element_size(s->device, LGV_F32) != sizeof(float))
        return lgv_fail(err, LGV_ERR_UNSUPPORTED, "device %s does not keep f32 values as floats",
                        s->device->name);
    LGV_TRY(lgv_store_wants_memory(s, err));
    LGV_TRY(start_set(s, set, err));
    const float **mapped = lgv_alloc(s->n_buffers, sizeof *mapped);
    if (!mapped) return lgv_fail(err, LGV_ERR_MEMORY, "out of memory for set '%s'", set);
    if (s->n_buffers) memcpy(mapped, data, s->n_buffers * sizeof *mapped);
    lgv_store_set *n = &s->set[s->n_sets++];
    snprintf(n->name, sizeof n->name, "%s", set);
    n->mapped = mapped;
    n->owner = owner;
    n->release = release;
    n->version = 1;
    return LGV_OK;
}

lgv_status lgv_store_wants_writable(const lgv_store *s, int set, lgv_error *err)
{
    if (!s->set[set].mapped) return LGV_OK;
    return lgv_fail(err, LGV_ERR_ARGUMENT,
                    "set '%s' lies in memory that is only read (lgv_store_map_set)",
                    s->set[set].name);
}

int lgv_store_has_set(const lgv_store *s, const char *set)
{
    return lgv_store_find_set(s, set) >= 0;
}

int lgv_store_count(const lgv_store *s)
{
    return (int)s->n_buffers;
}

const char *lgv_store_at(const lgv_store *s, int i, int *rank, int64_t *dim, int *frozen)
{
    if (i < 0 || (size_t)i >= s->n_buffers) return NULL;
    const lgv_store_buffer *b = &s->buffer[i];
    if (rank) *rank = b->rank;
    if (dim) memcpy(dim, b->dim, sizeof b->dim);
    if (frozen) *frozen = b->frozen;
    return b->name;
}

int lgv_store_find(const lgv_store *s, const char *name)
{
    for (size_t i = 0; i < s->n_buffers; i++)
        if (!strcmp(s->buffer[i].name, name)) return (int)i;
    return -1;
}

void *lgv_store_data(const lgv_store *s, int set, int buffer)
{
    size_t size = s->device->element_size(s->device, LGV_F32);
    if (s->dry) return NULL;
    if (s->set[set].mapped) return (void *)(uintptr_t)s->set[set].mapped[buffer];
    return (char *)s->set[set].data + (size_t)s->buffer[buffer].offset * size;
}

static lgv_status locate(const lgv_store *s, const char *set, int i, int64_t count, int *k,
                         lgv_error *err)
{
    LGV_TRY(lgv_store_wants_memory(s, err));
    *k = lgv_store_find_set(s, set);
    if (*k < 0) return lgv_fail(err, LGV_ERR_ARGUMENT, "the store has no set '%s'", set);
    if (i < 0 || (size_t)i >= s->n_buffers)
        return lgv_fail(err, LGV_ERR_ARGUMENT, "the store has no buffer %d", i);
    if (count != s->buffer[i].count)
        return lgv_fail(err, LGV_ERR_SHAPE, "'%s' has %lld elements, not %lld", s->buffer[i].name,
                        (long long)s->buffer[i].count, (long long)count);
    return LGV_OK;
}

lgv_status lgv_store_write(lgv_store *s, const char *set, int i, const float *data, int64_t count,
                           lgv_error *err)
{
    int k;
    LGV_TRY(locate(s, set, i, count, &k, err));
    LGV_TRY(lgv_store_wants_writable(s, k, err));
    s->device->write(s->device, LGV_F32, lgv_store_data(s, k, i), data, count);
    s->set[k].version++;
    return LGV_OK;
}

lgv_status lgv_store_read(const lgv_store *s, const char *set, int i, float *data, int64_t count,
                          lgv_error *err)
{
    int k;
    LGV_TRY(locate(s, set, i, count, &k, err));
    s->device->read(s->device, LGV_F32, data, lgv_store_data(s, k, i), count);
    return LGV_OK;
}

lgv_status lgv_store_zero(lgv_store *s, const char *set, lgv_error *err)
{
    LGV_TRY(lgv_store_wants_memory(s, err));
    int k = lgv_store_find_set(s, set);
    if (k < 0) return lgv_fail(err, LGV_ERR_ARGUMENT, "the store has no set '%s'", set);
    LGV_TRY(lgv_store_wants_writable(s, k, err));
    memset(s->set[k].data, 0, (size_t)s->total * s->device->element_size(s->device, LGV_F32));
    s->set[k].version++;
    return LGV_OK;
}

lgv_status lgv_store_copy(lgv_store *s, const char *from, const char *to, lgv_error *err)
{
    LGV_TRY(lgv_store_wants_memory(s, err));
    int a = lgv_store_find_set(s, from), b = lgv_store_find_set(s, to);
    if (a < 0 || b < 0)
        return lgv_fail(err, LGV_ERR_ARGUMENT, "the store has no set '%s'", a < 0 ? from : to);
    LGV_TRY(lgv_store_wants_writable(s, b, err));
    size_t size = s->device->element_size(s->device, LGV_F32);
    if (!s->set[a].mapped) {
        memcpy(s->set[b].data, s->set[a].data, (size_t)s->total * size);
    } else {
        for (int i = 0; i < (int)s->n_buffers; i++)
            memcpy(lgv_store_data(s, b, i), lgv_store_data(s, a, i),
                   (size_t)s->buffer[i].count * size);
    }
    s->set[b].version++;
    return LGV_OK;
}

size_t lgv_store_packed_bytes(const lgv_store *s)
{
    size_t bytes = 0;
    for (size_t i = 0; i < s->n_packs; i++)
        if (s->pack[i]->reserved) bytes += s->pack[i]->bytes;
    return bytes;
}

size_t lgv_store_bytes(const lgv_store *s)
{
    size_t bytes = s->arena_bytes;
    bytes += (size_t)s->n_sets * (size_t)s->total * s->device->element_size(s->device, LGV_F32);
    return bytes + lgv_store_packed_bytes(s);
}

int64_t lgv_store_skipped(const lgv_store *s)
{
    return s->skipped;
}

int64_t lgv_store_parameters(const lgv_store *s)
{
    int64_t n = 0;
    for (size_t i = 0; i < s->n_buffers; i++) n += s->buffer[i].count;
    return n;
}

lgv_store_pack *lgv_store_get_pack(lgv_store *s, int set, int buffer, const char *kind,
                                   size_t bytes)
{
    for (size_t i = 0; i < s->n_packs; i++) {
        lgv_store_pack *p = s->pack[i];
        if (p->set == set && p->buffer == buffer && p->bytes == bytes && !strcmp(p->kind, kind))
            return p;
    }
    if (lgv_grow(&s->pack, &s->cap_packs, s->n_packs + 1, sizeof *s->pack, NULL)) return NULL;
    lgv_store_pack *p = lgv_zalloc(1, sizeof *p);
    if (!p) return NULL;
    p->set = set;
    p->buffer = buffer;
    p->bytes = bytes;
    snprintf(p->kind, sizeof p->kind, "%s", kind);
    s->pack[s->n_packs++] = p;
    return p;
}

lgv_status lgv_store_reserve_packs(lgv_store *s, lgv_store_pack *const *packs, size_t n,
                                   lgv_error *err)
{
    size_t bytes = 0;
    for (size_t i = 0; i < n; i++) {
        if (!packs[i] || packs[i]->reserved) continue;
        packs[i]->reserved = true; /* the same copy may stand in the list again */
        bytes += lgv_round_up(packs[i]->bytes);
    }
    if (!bytes || s->dry) return LGV_OK;
    lgv_status status = lgv_grow(&s->slab, &s->cap_slabs, s->n_slabs + 1, sizeof *s->slab, err);
    char *slab = status ? NULL : s->device->alloc(s->device, bytes);
    if (!slab) {
        for (size_t i = 0; i < n; i++)
            if (packs[i] && !packs[i]->data) packs[i]->reserved = false;
        return lgv_fail(err, LGV_ERR_MEMORY, "out of memory: packed weights need %zu MiB",
                        bytes >> 20);
    }
    s->slab[s->n_slabs++] = slab;
    for (size_t i = 0; i < n; i++) {
        if (!packs[i] || packs[i]->data) continue;
        packs[i]->data = slab;
        slab += lgv_round_up(packs[i]->bytes);
    }
    return LGV_OK;
}

lgv_status lgv_store_reserve(lgv_store *s, size_t bytes, lgv_error *err)
{
    if (bytes <= s->arena_bytes) return LGV_OK;
    void *arena = s->dry ? NULL : s->device->alloc(s->device, bytes);
    if (!arena && !s->dry)
        return lgv_fail(err, LGV_ERR_MEMORY, "out of memory: the arena needs %zu MiB", bytes >> 20);
    s->device->free(s->device, s->arena);
    s->arena = arena;
    s->arena_bytes = bytes;
    s->arena_generation++;
    return LGV_OK;
}
