/* image_internal.h - what the picture files of this folder share. */
#ifndef LGV_IMAGE_INTERNAL_H
#define LGV_IMAGE_INTERNAL_H

#include "core/core.h"
#include "langevin/image.h"

/* LGV_ERR_UNSUPPORTED beyond the limits of image.h, LGV_ERR_FORMAT for an empty picture. */
lgv_status lgv_image_check_size(const char *name, int64_t width, int64_t height, lgv_error *err);

/* Width and height as stored; *orientation 1 to 8 as in EXIF, 1 when there is none. */
lgv_status lgv_png_probe(const uint8_t *data, size_t size, const char *name, lgv_image_info *out,
                         int *orientation, lgv_error *err);
lgv_status lgv_jpeg_probe(const uint8_t *data, size_t size, const char *name, lgv_image_info *out,
                          int *orientation, lgv_error *err);
/* Pixels as stored, before the rotation. */
lgv_status lgv_png_decode(const uint8_t *data, size_t size, const char *name, lgv_image *out,
                          int *orientation, lgv_error *err);
lgv_status lgv_jpeg_decode(const uint8_t *data, size_t size, const char *name, lgv_image *out,
                           int *orientation, lgv_error *err);

/* The orientation tag of an EXIF block (a TIFF header follows an optional "Exif\0\0"), 1 when there
   is none. */
int lgv_exif_orientation(const uint8_t *data, size_t size);

#endif
