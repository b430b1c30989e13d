/* events.h - event files that TensorBoard shows: numbers, pictures and text over steps.
   An own small writer of its two formats, TFRecord frames with masked CRC-32C around protocol
   buffers (tensorflow/core/util/event.proto, tensorflow/core/framework/summary.proto); neither
   TensorFlow nor protobuf is needed.

       lgv_events_open("run/tensorboard", 0, &e, &err);
       lgv_events_scalar(e, step, "loss", loss, &err);
       lgv_events_flush(e, &err);
       lgv_events_close(e);

   then: tensorboard --logdir run */
#ifndef LANGEVIN_EVENTS_H
#define LANGEVIN_EVENTS_H

#include <stddef.h>
#include <stdint.h>

#include "status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct lgv_events lgv_events;

/* Makes the folder (and its parents) and a new file in it,
   events.out.tfevents.SECONDS.HOST.PROCESS.N. Several files of one folder are one run: what earlier
   ones say about `first_step` and later steps is forgotten by the readers, so a run that is resumed
   opens the same folder again with the first step that is still to come. */
LGV_API lgv_status lgv_events_open(const char *folder, int64_t first_step, lgv_events **out,
                                   lgv_error *err);
/* Collected in memory until the next flush. tag: the name of the curve, UTF-8. */
LGV_API lgv_status lgv_events_scalar(lgv_events *e, int64_t step, const char *tag, double value,
                                     lgv_error *err);
/* An encoded picture, PNG or JPEG. */
LGV_API lgv_status lgv_events_image(lgv_events *e, int64_t step, const char *tag, const void *data,
                                    size_t size, lgv_error *err);
/* Shown as Markdown. */
LGV_API lgv_status lgv_events_text(lgv_events *e, int64_t step, const char *tag, const char *text,
                                   lgv_error *err);
/* Writes what was collected. After a failure (a full disk) the file must be closed: what was written
   up to there can be read. */
LGV_API lgv_status lgv_events_flush(lgv_events *e, lgv_error *err);
/* Without a flush. NULL is legal. */
LGV_API void lgv_events_close(lgv_events *e);

#ifdef __cplusplus
}
#endif
#endif
