/* picture.h - the way of a picture file into a training set: header, pixels, conversion, resizing. */
#ifndef LGV_FUZZ_PICTURE_H
#define LGV_FUZZ_PICTURE_H

#include "langevin/image.h"

/* Inputs of another type are left out. Pictures of more than 2^10 pixels are only looked at, so that
   the time goes into unusual ones and not into large ones. */
void fuzz_picture(const uint8_t *data, size_t size, lgv_image_type type);

#endif
