/* torch_container.h - what a file of torch.save consists of, before anything is made of it: its pickle as a value, and
   the bytes that the pickle's storages are. Internal to src/io. */
#ifndef LGV_IO_TORCH_CONTAINER_H
#define LGV_IO_TORCH_CONTAINER_H

#include "core/file.h"
#include "langevin/safetensors.h"
#include "pickle.h"
#include "zip.h"

/* Bytes that tensors are views of. */
typedef struct lgv_torch_storage_bytes {
    const lgv_pickle_value *key;
    lgv_dtype dtype;
    bool known; /* dtype is one of ours */
    int64_t count;
    const uint8_t *data;
} lgv_torch_storage_bytes;

typedef struct lgv_torch_container {
    lgv_map map;
    lgv_zip zip;
    char *top;          /* folder of the archive's members, with its slash; NULL: a stream */
    lgv_pickle *pickle; /* the object */
    lgv_torch_storage_bytes *storage; /* of the stream form, sorted by key */
    size_t storages;
} lgv_torch_container;

/* Takes map over; to be closed also after a failure. */
lgv_status lgv_torch_container_open(lgv_map map, const char *path, lgv_torch_container *out,
                                    lgv_error *err);
/* The pickle and what points into it; the bytes stay. */
void lgv_torch_container_drop_pickle(lgv_torch_container *c);
void lgv_torch_container_close(lgv_torch_container *c);

/* The storage that a value of the pickle names. When its type is not known, without data. */
lgv_status lgv_torch_find_storage(const lgv_torch_container *c, const char *path,
                                  const lgv_pickle_value *v, lgv_torch_storage_bytes *out,
                                  lgv_error *err);
/* torch.float32 ... False: none of ours. */
bool lgv_torch_element_type(const lgv_pickle_value *v, lgv_dtype *out);

#endif
