/* store.h - the inside of a store. Internal to src/plan. */
#ifndef LGV_STORE_H
#define LGV_STORE_H

#include "backend.h"

typedef struct lgv_store_buffer {
    char *name;
    int rank;
    int64_t dim[LGV_MAX_RANK];
    int64_t count, offset; /* elements; offset within every set */
    bool frozen;
} lgv_store_buffer;

typedef struct lgv_store_set {
    char name[32];
    void *data;
    const float *
        *mapped; /* per buffer, in memory of `owner` that is only read; NULL: they lie in data */
    void *owner;
    void (*release)(void *owner);
    uint64_t version; /* grows with every change */
} lgv_store_set;

/* A packed copy of one buffer of one set, shared by plans. */
typedef struct lgv_store_pack {
    int set, buffer;
    char kind[48];
    size_t bytes;
    void *data;    /* NULL until a plan that uses it is made (always in a dry store) */
    bool reserved; /* a plan uses it: it takes memory */
    bool
        counted; /* scratch of sums over a plan's packed copies, where one may stand several times */
    uint64_t version; /* of the set when packed; 0: never */
} lgv_store_pack;

enum { LGV_MAX_SETS = 8 };

struct lgv_store {
    lgv_device *device;
    lgv_store_buffer *buffer;
    size_t n_buffers, cap_buffers;
    bool sealed;
    int64_t trained,
        total; /* elements of the trained range, and of a whole set, padding included */
    lgv_store_set set[LGV_MAX_SETS];
    int n_sets;
    lgv_store_pack **pack;
    size_t n_packs, cap_packs; /* pointers stay valid */
    void **slab;               /* what the packed copies lie in */
    size_t n_slabs, cap_slabs;
    void *arena;
    size_t arena_bytes;
    uint64_t arena_generation;
    int64_t skipped;
    bool dry; /* sets, packed copies and arena have sizes but no memory */
};

int lgv_store_find_set(const lgv_store *store, const char *set); /* -1 when there is none */
/* NULL in a dry store. */
void *lgv_store_data(const lgv_store *store, int set, int buffer);
/* LGV_OK, or an error when the set is only read. */
lgv_status lgv_store_wants_writable(const lgv_store *store, int set, lgv_error *err);
/* LGV_OK, or an error when the store is dry. */
lgv_status lgv_store_wants_memory(const lgv_store *store, lgv_error *err);
/* The packed copy (set, buffer, kind), noted when missing (without memory yet). NULL when out of memory. */
lgv_store_pack *lgv_store_get_pack(lgv_store *store, int set, int buffer, const char *kind,
                                   size_t bytes);
size_t lgv_store_packed_bytes(const lgv_store *store); /* of those in use */
/* Gives memory to those of the n packed copies (some may be NULL) that have none yet, all in one block: huge pages
   then hold them without a remainder each. */
lgv_status lgv_store_reserve_packs(lgv_store *store, lgv_store_pack *const *packs, size_t n,
                                   lgv_error *err);
/* Makes the shared arena at least this large (its address may change: arena_generation grows). */
lgv_status lgv_store_reserve(lgv_store *store, size_t bytes, lgv_error *err);

#endif
