/* cifar.h - the binary files of CIFAR-10 and CIFAR-100 (https://www.cs.toronto.edu/~kriz/cifar.html).
   Records of one label byte (CIFAR-100: coarse, then fine) and 32 x 32 x 3 bytes, plane after plane. The
   length of a file must be a whole number of records, at most LGV_CIFAR_RECORDS. */
#ifndef LGV_CIFAR_H
#define LGV_CIFAR_H

#include "core/core.h"

enum { LGV_CIFAR_SIDE = 32, LGV_CIFAR_BYTES = 3 * 32 * 32, LGV_CIFAR_RECORDS = 1 << 22 };

typedef struct lgv_cifar {
    int64_t n;
    uint8_t *pixels; /* [n][32][32][3]; owned */
    uint8_t *labels; /* [n]; owned */
} lgv_cifar;

/* Label bytes of a file by its name: data_batch_*.bin and test_batch.bin have 1, train.bin and test.bin 2;
   0 for other names. */
int lgv_cifar_label_bytes(const char *path);
/* (bytes, length) of a file -> pictures behind those `out` already holds. */
lgv_status lgv_cifar_append(const uint8_t *data, size_t size, int label_bytes, const char *name,
                            lgv_cifar *out, lgv_error *err);
lgv_status lgv_cifar_append_file(const char *path, lgv_cifar *out, lgv_error *err);
void lgv_cifar_free(lgv_cifar *c); /* clears *c */

#endif
