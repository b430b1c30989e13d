/* tensor_writer.h - the inside of lgv_safetensors_writer: a list of tensors, whichever format they are written in. */
#ifndef LGV_TENSOR_WRITER_H
#define LGV_TENSOR_WRITER_H

#include <jansson.h>

#include "core/core.h"
#include "langevin/safetensors.h"

typedef struct lgv_writer_entry {
    const char *name; /* belongs to the header */
    lgv_dtype dtype;
    int rank;
    int64_t dim[LGV_TENSOR_RANK];
    size_t bytes;
    const void *data; /* NULL: source */
    lgv_tensor_source source;
    void *arg;
} lgv_writer_entry;

struct lgv_safetensors_writer {
    json_t *header;
    lgv_writer_entry *entry;
    size_t count, capacity;
    int64_t total; /* bytes of data so far */
};

/* Memory for the largest tensor that comes from a source; free with lgv_free. */
lgv_status lgv_writer_buffer(const lgv_safetensors_writer *w, const char *path, void **out,
                             lgv_error *err);
/* The tensor's bytes: its data, or buffer, filled. */
lgv_status lgv_writer_bytes(const lgv_writer_entry *e, void *buffer, const void **out,
                            lgv_error *err);

/* The name of a type's storage class in torch (torch_container.c): "FloatStorage". NULL: it has none. */
const char *lgv_torch_storage(lgv_dtype dtype);

#endif
