/* dataset.h - pictures to train on: a folder of picture files, or IDX files of the MNIST family.
   Pictures become square uint8 [resolution][resolution][channels]; the network sees x/127.5 - 1.
   A folder is listed recursively, links to folders followed once (a loop ends), files taken by their
   content and not by their name, sorted by the bytes of their path: the same folder gives the same
   numbering everywhere. A picture that cannot be decoded is never fatal (unless strict): its place is
   taken by the next readable one, and it is named and counted. */
#ifndef LANGEVIN_DATASET_H
#define LANGEVIN_DATASET_H

#include <stddef.h>
#include <stdint.h>

#include "image.h"
#include "status.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { LGV_OFF = -1 }; /* in options where 0 means "the default": switches the thing off */

typedef struct lgv_dataset lgv_dataset;

typedef struct lgv_dataset_options {
    int resolution; /* 0: 32 when the median short side of up to 256 sampled pictures is <= 48, else 64 */
    int channels;          /* 1 or 3; 0: 1 when all sampled pictures are grey, else 3 */
    int center_crop;       /* the middle of the picture; else a random square of each */
    int random_flip;       /* mirror each with probability 1/2 */
    uint8_t background[3]; /* under transparent pixels, when background_set */
    int background_set;    /* 0: white */
    int strict;            /* a picture that cannot be decoded is an error */
    size_t
        memory_limit; /* bytes of resized pictures to keep; 0: 1 GiB. The rest is kept in a temporary file */
    const char *
        cache_dir; /* keeps resized pictures there from run to run (lgv_dataset_save_cache); NULL: no */
    int64_t
        validation; /* pictures held back; 0: none below 1,000, else about min(5 %, 500); LGV_OFF: none.
                           Chosen by a hash of the name: adding pictures never moves one from training to
                           validation. Where t10k-* or test_batch.bin exist, these are used instead */
} lgv_dataset_options;

/* path: a folder of pictures, of tar shards or with metadata.csv/.jsonl; a tar (.tar, .tar.gz ...), or
   several as "shards/{000..012}.tar"; a folder of IDX files (train-images-idx3-ubyte[.gz]) or one IDX images
   file; a folder of CIFAR-10/100 binary files or one of them. docs/data.md describes them all.
   options NULL: all defaults. Errors: nothing there, no pictures (says what was found), bad options. */
LGV_API lgv_status lgv_dataset_open(const char *path, const lgv_dataset_options *options,
                                    lgv_dataset **out, lgv_error *err);

/* Several of them as one data set. A picture of a source of weight w is shown w times an epoch: 2 twice, 0.5
   in every other epoch; exactly, not by chance. */
typedef struct lgv_data_source {
    const char *path;
    double weight; /* 0.001 to 1000; 0: 1 */
} lgv_data_source;
LGV_API lgv_status lgv_dataset_open_sources(const lgv_data_source *sources, int n,
                                            const lgv_dataset_options *options, lgv_dataset **out,
                                            lgv_error *err);
LGV_API void lgv_dataset_free(lgv_dataset *data); /* after its trainers */

LGV_API const char *lgv_dataset_path(const lgv_dataset *data); /* all sources, for messages */
/* The sources; *out is valid while data lives. */
LGV_API int lgv_dataset_sources(const lgv_dataset *data, const lgv_data_source **out);
LGV_API int lgv_dataset_resolution(const lgv_dataset *data);
LGV_API int lgv_dataset_channels(const lgv_dataset *data);
/* What was decided, defaults filled in. */
LGV_API void lgv_dataset_settings(const lgv_dataset *data, lgv_dataset_options *out);
LGV_API int64_t lgv_dataset_count(const lgv_dataset *data);            /* to train on, at least 1 */
LGV_API int64_t lgv_dataset_validation_count(const lgv_dataset *data); /* held back */
/* Draws that make an epoch: the pictures to train on, times the weights of their sources. */
LGV_API int64_t lgv_dataset_epoch_length(const lgv_dataset *data);
/* Sentences that a person should read, such as names in metadata.csv that are not there. */
LGV_API int lgv_dataset_notes(const lgv_dataset *data);
LGV_API const char *lgv_dataset_note_at(const lgv_dataset *data, int i);

/* Classes: the labels that metadata files, shards, IDX and CIFAR files bring; else the folders, when every
   picture lies in one (folders common to all do not count). Names stand in byte order; when all labels are
   whole numbers, class i is the number i. 0: there are none. */
LGV_API int lgv_dataset_classes(const lgv_dataset *data);
LGV_API const char *lgv_dataset_class_name(const lgv_dataset *data, int i);
/* Class of picture i (numbered as for lgv_dataset_read), -1 none. */
LGV_API int lgv_dataset_label(const lgv_dataset *data, int validation, int64_t i);

/* What the sampled headers said. */
typedef struct lgv_dataset_probe {
    int sampled;           /* pictures looked at, at most 256 */
    int grey;              /* of these, how many are grey */
    int median_short_side; /* pixels */
    int smallest_side, largest_side;
} lgv_dataset_probe;
LGV_API void lgv_dataset_probed(const lgv_dataset *data, lgv_dataset_probe *out);

/* 64 hex digits that name the pictures: SHA-256 over every path, size, first and last 64 bytes, and the
   labels and weights that files and options bring. */
LGV_API const char *lgv_dataset_fingerprint(const lgv_dataset *data);

/* Picture i < count (validation != 0: i < validation count) as uint8 HWC. `seed` and `sample` name the
   random crop and flip (Philox); validation pictures are cropped in the middle and never flipped. A
   broken picture is replaced by the next readable one. *used (may be NULL) is the picture taken.
   Safe from several threads. */
LGV_API lgv_status lgv_dataset_read(lgv_dataset *data, int validation, int64_t i, uint64_t seed,
                                    uint64_t sample, uint8_t *pixels, int64_t *used,
                                    lgv_error *err);
/* Broken pictures found so far, each with the sentence that says why. Text is valid while data lives. */
LGV_API int64_t lgv_dataset_skipped(lgv_dataset *data);
LGV_API const char *lgv_dataset_skipped_at(lgv_dataset *data, int64_t i);

/* Pictures found in cache_dir, and writing there what was decoded since: one file for these pictures,
   resolution, channels and background, replaced atomically. Does nothing without cache_dir or news. */
LGV_API int64_t lgv_dataset_cached(const lgv_dataset *data);
LGV_API lgv_status lgv_dataset_save_cache(lgv_dataset *data, lgv_error *err);

/* ---- looking at every picture ---- */
typedef struct lgv_survey lgv_survey;

typedef struct lgv_survey_options {
    int headers_only; /* nothing is decoded: faster, but damage behind the header and copies stay unseen */
    int threads; /* 0: as many as the processor has cores */
    int (*progress)(void *user, int64_t done, int64_t total); /* may be NULL; nonzero: stop */
    void *user;
} lgv_survey_options;

typedef struct lgv_survey_picture {
    const char *name;    /* path, or archive and path; valid while the survey lives */
    const char *broken;  /* why it cannot be read; NULL: it can */
    lgv_image_info info; /* before resizing; type LGV_IMAGE_UNKNOWN for IDX and CIFAR */
    int64_t bytes;
    int label;       /* class, -1 none */
    int validation;  /* held back */
    int64_t copy_of; /* the first picture with the same bytes, -1 none */
} lgv_survey_picture;

/* Reads (unless headers_only) and decodes every picture, of training and validation. Errors: memory, an
   archive that has changed, LGV_ERR_CANCELLED. The survey borrows data. */
LGV_API lgv_status lgv_dataset_survey(lgv_dataset *data, const lgv_survey_options *options,
                                      lgv_survey **out, lgv_error *err);
LGV_API void lgv_survey_free(lgv_survey *survey);
LGV_API int64_t lgv_survey_count(const lgv_survey *survey);
LGV_API void lgv_survey_at(const lgv_survey *survey, int64_t i, lgv_survey_picture *out);

#ifdef __cplusplus
}
#endif
#endif
