/* idx.h - the IDX files of the MNIST family (http://yann.lecun.com/exdb/mnist/), plain or gzip.
   Magic 00 00 08 <dimensions>, big-endian 32-bit extents, then bytes. Everything is checked against
   the file's real length before memory is taken, so that a small hostile file cannot ask for
   much. */
#ifndef LGV_IDX_H
#define LGV_IDX_H

#include "core/core.h"

/* Images: pixels[n][height][width]. Labels: height = width = 1. */
typedef struct lgv_idx {
    int64_t n;
    int height, width;
    uint8_t *data; /* owned */
} lgv_idx;

/* Whether the file begins like IDX (magic of unsigned bytes with 1 or 3 dimensions), also inside
   gzip. Errors: it cannot be opened, or memory. */
lgv_status lgv_idx_is(const char *path, bool *is, lgv_error *err);
/* Header only: out->data is NULL. */
lgv_status lgv_idx_probe(const char *path, int dims, lgv_idx *out, lgv_error *err);
lgv_status lgv_idx_images(const char *path, lgv_idx *out, lgv_error *err); /* 3 dimensions */
lgv_status lgv_idx_labels(const char *path, lgv_idx *out, lgv_error *err); /* 1 dimension */
/* The same from memory, dims 1 or 3; `name` is what messages call the data. */
lgv_status lgv_idx_parse(const void *bytes, size_t size, const char *name, int dims, lgv_idx *out,
                         lgv_error *err);
void lgv_idx_free(lgv_idx *idx); /* clears *idx; NULL is legal */

#endif
