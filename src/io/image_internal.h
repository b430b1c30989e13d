/* image_internal.h - what the picture files of this folder share. */
#ifndef LGV_IMAGE_INTERNAL_H
#define LGV_IMAGE_INTERNAL_H

#include "core/core.h"
#include "langevin/image.h"

/* LGV_ERR_UNSUPPORTED beyond the limits of image.h, LGV_ERR_FORMAT for an empty picture. */
lgv_status lgv_image_check_size(const char *name, int64_t width, int64_t height, lgv_error *err);
/* A header is only a claim: a picture of more than 2^24 pixels in a file of `size` bytes must have a byte for
   4,096 of them, else it is LGV_ERR_FORMAT before memory is taken. */
lgv_status lgv_image_check_claim(const char *name, int64_t width, int64_t height, size_t size,
                                 lgv_error *err);

/* The readers, one file a format. All take (bytes, length) and trust nothing in them; `name` stands in
   messages. A probe gives width and height as stored and *orientation 1 to 8 as in EXIF, 1 when there is
   none; decoding gives the pixels as stored, before the rotation. lgv_image_probe_memory and
   lgv_image_decode choose among them by content. */
#define LGV_IMAGE_READER(format)                                                                   \
    lgv_status lgv_##format##_probe(const uint8_t *data, size_t size, const char *name,            \
                                    lgv_image_info *out, int *orientation, lgv_error *err);        \
    lgv_status lgv_##format##_decode(const uint8_t *data, size_t size, const char *name,           \
                                     lgv_image *out, int *orientation, lgv_error *err)
LGV_IMAGE_READER(png);
LGV_IMAGE_READER(jpeg);
LGV_IMAGE_READER(webp);
LGV_IMAGE_READER(gif);
LGV_IMAGE_READER(bmp);

/* The orientation tag of an EXIF block (a TIFF header follows an optional "Exif\0\0"), 1 when there
   is none. */
int lgv_exif_orientation(const uint8_t *data, size_t size);

#endif
