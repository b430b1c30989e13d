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
    uint64_t version; /* grows with every change */
} lgv_store_set;

/* A packed copy of one buffer of one set, shared by plans. */
typedef struct lgv_store_pack {
    int set, buffer;
    char kind[48];
    size_t bytes;
    void *data;
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
    void *arena;
    size_t arena_bytes;
    uint64_t arena_generation;
    int64_t skipped;
    bool dry; /* sets, packed copies and arena have sizes but no memory */
};

int lgv_store_find_set(const lgv_store *store, const char *set); /* -1 when there is none */
/* NULL in a dry store. */
void *lgv_store_data(const lgv_store *store, int set, int buffer);
/* LGV_OK, or an error when the store is dry. */
lgv_status lgv_store_wants_memory(const lgv_store *store, lgv_error *err);
/* The packed copy (set, buffer, kind), made when missing (not yet packed). NULL when out of memory. */
lgv_store_pack *lgv_store_get_pack(lgv_store *store, int set, int buffer, const char *kind,
                                   size_t bytes);
/* Makes the shared arena at least this large (its address may change: arena_generation grows). */
lgv_status lgv_store_reserve(lgv_store *store, size_t bytes, lgv_error *err);

#endif
