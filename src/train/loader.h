/* loader.h - pictures decoded ahead of the training step by threads of their own.
   Samples are numbered from 0 over the whole run; sample s belongs to epoch s / per_epoch. What a
   sample is depends on the seed, the order and s only, never on which thread made it. */
#ifndef LGV_TRAIN_LOADER_H
#define LGV_TRAIN_LOADER_H

#include "core/core.h"
#include "langevin/dataset.h"

typedef struct lgv_loader lgv_loader;

typedef struct lgv_loader_options {
    uint64_t seed;     /* of the crops, flips and (unless given_orders) the order */
    int64_t first;     /* the sample to begin with */
    int64_t per_epoch; /* samples per epoch, <= pictures; 0: all */
    int64_t ahead;     /* samples kept ready */
    int threads;
    int given_orders; /* epochs come from lgv_loader_epoch; samples beyond the last wait for it */
} lgv_loader_options;

lgv_status lgv_loader_new(lgv_dataset *data, const lgv_loader_options *options, lgv_loader **out,
                          lgv_error *err);
void lgv_loader_free(lgv_loader *loader);
/* given_orders: the order of the next epoch (all pictures; copied). Only when every sample before
   it has been taken. `epoch` is its number. */
void lgv_loader_epoch(lgv_loader *loader, int64_t epoch, const int64_t *order);
/* The next n samples as uint8 HWC, one after another, and their classes (label may be NULL; -1: none); adds the
   seconds waited to *waited. */
lgv_status lgv_loader_next(lgv_loader *loader, int64_t n, uint8_t *pixels, int32_t *label,
                           double *waited, lgv_error *err);

#endif
