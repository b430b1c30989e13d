/* dataset.h - inside a data set: its list of pictures, and the cache of what was decoded.
   A picture is kept as it is after resizing and before cropping: the crop and the flip are drawn
   anew for every use. */
#ifndef LGV_TRAIN_DATASET_H
#define LGV_TRAIN_DATASET_H

#include <pthread.h>

#include "core/core.h"
#include "io/idx.h"
#include "langevin/dataset.h"

typedef enum lgv_picture_state {
    LGV_PICTURE_UNSEEN = 0,
    LGV_PICTURE_RAM,
    LGV_PICTURE_SPILLED,
    LGV_PICTURE_BROKEN
} lgv_picture_state;

typedef struct lgv_picture {
    char *path;      /* relative to the folder; owned */
    int64_t size;    /* bytes of the file */
    uint64_t digest; /* of its first and last bytes */
    int32_t label;   /* class, -1 none */
    /* Under the data set's lock: */
    int state;
    int width, height; /* resized */
    uint8_t *pixels;   /* LGV_PICTURE_RAM; owned; never changes once set */
    int64_t offset;    /* LGV_PICTURE_SPILLED: in the temporary file */
} lgv_picture;

typedef struct lgv_picture_list {
    lgv_picture *item;
    size_t count, capacity;
    size_t others; /* files that are no pictures */
    char *other;   /* one of them; owned */
} lgv_picture_list;

/* Everything below the folder whose content is a picture, sorted by path bytes. Names that begin
   with a dot are left out. */
lgv_status lgv_pictures_list(const char *folder, lgv_picture_list *out, lgv_error *err);
void lgv_pictures_free(lgv_picture_list *list);
/* First and last 64 bytes of a file and its size. */
lgv_status lgv_file_digest(const char *path, int64_t *size, uint64_t *digest, uint8_t head[64],
                           size_t *head_bytes, lgv_error *err);

struct lgv_dataset {
    char *path;
    lgv_dataset_options options; /* resolved */
    int is_idx;
    lgv_picture_list list;       /* of a folder */
    lgv_idx idx, idx_validation; /* of IDX files */
    int64_t *train, *validation; /* picture numbers; NULL: all of idx, idx_validation */
    int64_t train_count, validation_count;
    char **class_name;
    int classes;
    lgv_dataset_probe probe;
    char fingerprint[65];

    pthread_mutex_t lock; /* of all below, and of the pictures' states */
    int lock_ready;
    size_t kept;   /* bytes in memory */
    int spill;     /* descriptor of the temporary file, -1 none */
    int spill_off; /* spilling failed or the disk is nearly full */
    int64_t spill_end;
    char **skipped;
    size_t skipped_count, skipped_capacity;
};

/* Bytes of decoded pictures in memory once all were read; those not seen yet count as squares. */
size_t lgv_dataset_memory(lgv_dataset *data);
/* Order of an epoch: a permutation of 0 .. n-1 that is a function of (seed, epoch) only. */
void lgv_epoch_order(uint64_t seed, int64_t epoch, int64_t n, int64_t *order);

#endif
