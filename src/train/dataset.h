/* dataset.h - inside a data set: its sources, its list of pictures, and the cache of what was decoded.
   A picture is kept as it is after resizing and before cropping: the crop and the flip are drawn
   anew for every use.
     dataset.c   opening, and what is decided from what lies there    source.c   folders, and which kind a path is
     listing.c   the files of a folder                                raw.c      IDX and CIFAR arrays
     shards.c    tar archives                                         labels.c   classes
     order.c     the order of an epoch                                pictures.c from a file to the network's square
     cache.c     decoded pictures kept from run to run                loader.c   the threads
     survey.c    looking at every picture (langevin info) */
#ifndef LGV_TRAIN_DATASET_H
#define LGV_TRAIN_DATASET_H

#include <pthread.h>

#include "core/core.h"
#include "core/file.h"
#include "langevin/dataset.h"
#include "langevin/image.h"

typedef enum lgv_picture_kind {
    LGV_PICTURE_FILE = 0,
    LGV_PICTURE_MEMBER, /* of an archive */
    LGV_PICTURE_RAW     /* of an array in memory (IDX, CIFAR) */
} lgv_picture_kind;

typedef enum lgv_picture_state {
    LGV_PICTURE_UNSEEN = 0,
    LGV_PICTURE_RAM,
    LGV_PICTURE_SPILLED,
    LGV_PICTURE_STORED, /* in the cache file of an earlier run */
    LGV_PICTURE_BROKEN
} lgv_picture_state;

typedef struct lgv_picture {
    char *path;      /* relative to the folder, or inside the archive; owned; raw: NULL */
    int64_t size;    /* bytes of the file */
    uint64_t digest; /* of its first and last bytes */
    int64_t
        at; /* raw: its number; plain tar: place of its bytes; compressed: number of the member */
    int32_t source, part; /* part: the archive or array it lies in, -1 a file of its own */
    int32_t label;        /* class, -1 none; while opening, an entry of the label table */
    uint8_t kind, type;   /* lgv_picture_kind, lgv_image_type */
    uint8_t held;         /* its file says that it is for validation */
    uint8_t channels, bits;
    int32_t full_width, full_height; /* before resizing; 0 until a header was read */
    /* Under the data set's lock: */
    int state;
    int width, height; /* resized */
    uint8_t *pixels;   /* LGV_PICTURE_RAM; owned; never changes once set */
    int64_t offset;    /* LGV_PICTURE_SPILLED, STORED: in the temporary file, in the cache file */
    uint8_t written;   /* stands in the cache file that this run wrote */
} lgv_picture;

typedef struct lgv_picture_list {
    lgv_picture *item;
    size_t count, capacity;
    size_t others; /* files that are no pictures */
    char *other;   /* one of them; owned */
} lgv_picture_list;

/* Takes p over, its path too, also on failure. */
lgv_status lgv_pictures_add(lgv_picture_list *list, lgv_picture p, lgv_error *err);
/* Counts a file that is no picture; takes `path` over. */
void lgv_pictures_other(lgv_picture_list *list, char *path);
void lgv_pictures_free(lgv_picture_list *list);

/* A file that holds many pictures. */
typedef struct lgv_part {
    char *path; /* owned */
    /* an archive */
    bool plain;       /* its pictures can be read one by one */
    int64_t first, n; /* its pictures in the list */
    int filled;       /* compressed: 0 not yet, 1 a thread is at it, 2 done. Under the lock */
    /* an array */
    uint8_t *pixels; /* [n][height][width][channels]; owned */
    int width, height, channels;
    bool pad; /* smaller than the resolution: framed with 0, not enlarged */
} lgv_part;

/* Everything that lies below a folder. */
typedef struct lgv_listing {
    lgv_names archives, metadata; /* paths relative to the folder, sorted */
    size_t archives_capacity, metadata_capacity;
} lgv_listing;

/* Appends to `list` every file below the folder whose content is a picture, sorted by path bytes. Names that
   begin with a dot are left out. */
lgv_status lgv_listing_read(const char *folder, int source, lgv_picture_list *list,
                            lgv_listing *out, lgv_error *err);
void lgv_listing_free(lgv_listing *l);
/* First and last 64 bytes of a file and its size. */
lgv_status lgv_file_digest(const char *path, int64_t *size, uint64_t *digest, uint8_t head[64],
                           size_t *head_bytes, lgv_error *err);
/* The same of bytes in memory. */
uint64_t lgv_bytes_digest(const uint8_t *data, size_t size);

/* A picture in the cache file; width 0: it is not there. */
typedef struct lgv_stored {
    uint64_t at;
    uint32_t width, height;
    uint64_t check;
} lgv_stored;

/* Labels as they are met, each text once. */
typedef struct lgv_labels {
    char **name;
    int count;
    size_t capacity;
    int32_t *sorted; /* of name, by bytes */
    size_t sorted_capacity;
    bool words; /* some are no numbers */
} lgv_labels;

typedef struct lgv_source {
    char *path; /* owned */
    double weight;
    int64_t first, n;             /* its pictures in the list */
    int64_t train_first, train_n; /* its part of `train` */
    bool labelled;                /* labels come from files, not from folders */
} lgv_source;

struct lgv_dataset {
    char *path;                  /* for messages: all sources */
    char *cache_dir;             /* options.cache_dir's own copy */
    lgv_dataset_options options; /* resolved */
    lgv_source *source;
    int sources;
    lgv_data_source *public_source; /* borrows from source */
    lgv_picture_list list;
    lgv_part *part;
    size_t parts, part_capacity;
    int64_t *train, *validation; /* picture numbers */
    int64_t train_count, validation_count, epoch_count;
    size_t raw_bytes, to_decode; /* of arrays in memory; pictures that are in files */
    lgv_labels labels;           /* while opening */
    char **class_name;
    int classes;
    lgv_dataset_probe probe;
    lgv_sha256 sha; /* while opening */
    char fingerprint[65];
    char **note;
    size_t notes, note_capacity;

    pthread_mutex_t lock;  /* of all below, and of the pictures' states */
    pthread_cond_t filled; /* an archive was */
    int lock_ready;
    size_t kept;   /* bytes in memory */
    int spill;     /* descriptor of the temporary file, -1 none */
    int spill_off; /* spilling failed or the disk is nearly full */
    int64_t spill_end;
    int store;          /* descriptor of the cache file, -1 none */
    lgv_stored *stored; /* its table, one entry a picture; NULL without a cache folder */
    int64_t stored_count;
    char **skipped;
    size_t skipped_count, skipped_capacity;
};

/* source.c: appends the pictures of source i. */
lgv_status lgv_source_open(lgv_dataset *d, int i, lgv_error *err);
/* raw.c */
lgv_status lgv_idx_source(lgv_dataset *d, int source, const char *images, const char *validation,
                          lgv_error *err);
lgv_status lgv_cifar_source(lgv_dataset *d, int source, const char *path, bool *found,
                            lgv_error *err);
/* *out NULL: none; else lgv_free. */
lgv_status lgv_find_idx(const char *folder, const char *prefix, char **out, lgv_error *err);
/* shards.c: appends the pictures of an archive; `inside` is put before their paths ("" or "folder/"). */
lgv_status lgv_archive_add(lgv_dataset *d, int source, const char *path, const char *inside,
                           lgv_error *err);
/* One pass over an archive that hands the bytes of each picture to `each`. */
typedef lgv_status (*lgv_archive_each)(lgv_dataset *d, void *user, lgv_picture *p,
                                       const uint8_t *data, lgv_error *err);
lgv_status lgv_archive_stream(lgv_dataset *d, const lgv_part *part, lgv_archive_each each,
                              void *user, lgv_error *err);

/* labels.c */
lgv_status lgv_labels_id(lgv_labels *t, const char *text, size_t n, int32_t *id, lgv_error *err);
void lgv_labels_free(lgv_labels *t);
/* Classes from the folders of a source's pictures, when each lies in one. */
lgv_status lgv_labels_from_folders(lgv_dataset *d, const lgv_source *s, lgv_error *err);
/* The table becomes d->class_name, the pictures' entries become classes. */
lgv_status lgv_labels_finish(lgv_dataset *d, lgv_error *err);

/* dataset.c */
lgv_status lgv_dataset_add_note(lgv_dataset *d, lgv_error *err, const char *fmt, ...)
    LGV_PRINTF(3, 4);
void lgv_dataset_hash(lgv_dataset *d, const char *name, int64_t size, uint64_t digest);
lgv_status lgv_dataset_add_part(lgv_dataset *d, lgv_part part, lgv_error *err); /* takes it over */

/* pictures.c */
char *lgv_picture_name(const lgv_dataset *d, const lgv_picture *p); /* free with lgv_free */
/* The bytes of a file or of a member of a plain tar; name: lgv_picture_name's. Free *data with lgv_free. */
lgv_status lgv_picture_bytes(const lgv_dataset *d, const lgv_picture *p, const char *name,
                             char **data, size_t *size, lgv_error *err);
/* Header of a picture, from its file or as it was noted. */
lgv_status lgv_picture_probe(const lgv_dataset *d, const lgv_picture *p, lgv_image_info *out,
                             lgv_error *err);
/* Bytes of decoded pictures in memory once all were read; those not seen yet count as squares. */
size_t lgv_dataset_memory(lgv_dataset *data);

/* cache.c: after everything is decided, and for a STORED picture (false: damaged). */
lgv_status lgv_cache_open(lgv_dataset *d, lgv_error *err);
bool lgv_cache_read(const lgv_dataset *d, const lgv_picture *p, uint8_t *pixels, size_t bytes);

/* order.c: draws in an epoch; kept as epoch_count. */
int64_t lgv_dataset_epoch(const lgv_dataset *d);
/* A permutation of 0 .. n-1 that is a function of (seed, epoch) only. */
void lgv_epoch_order(uint64_t seed, int64_t epoch, int64_t n, int64_t *order);
/* The training pictures in the order of an epoch, epoch_count numbers. scratch: room for
   lgv_dataset_order_scratch numbers (none is needed without weights). */
void lgv_dataset_order(const lgv_dataset *d, uint64_t seed, int64_t epoch, int64_t *order,
                       int64_t *scratch);
size_t lgv_dataset_order_scratch(const lgv_dataset *d);

#endif
