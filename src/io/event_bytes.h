/* event_bytes.h - the bytes of event files, apart from clock and file, so that tests can compare them
   with TensorBoard's own. Each function appends one framed record. */
#ifndef LGV_EVENT_BYTES_H
#define LGV_EVENT_BYTES_H

#include "core/core.h"

/* "brain.Event:2", the first record of a file. */
void lgv_event_version(lgv_bytes *b, double time);
/* SessionLog.START: what was said before about this step and later ones is void. */
void lgv_event_start(lgv_bytes *b, double time, int64_t step);
void lgv_event_scalar(lgv_bytes *b, double time, int64_t step, const char *tag, double value);
void lgv_event_image(lgv_bytes *b, double time, int64_t step, const char *tag, int width,
                     int height, int channels, const void *data, size_t size);
void lgv_event_text(lgv_bytes *b, double time, int64_t step, const char *tag, const char *text);

/* CRC-32C (Castagnoli), as in RFC 3720. */
uint32_t lgv_crc32c(const void *data, size_t size);

#endif
