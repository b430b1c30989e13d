/* animation.h - moving pictures out: GIF and animated WebP, one frame after the other.
   What is handed over is compressed at once, so an animation holds no frames. */
#ifndef LANGEVIN_ANIMATION_H
#define LANGEVIN_ANIMATION_H

#include <stddef.h>
#include <stdint.h>

#include "image.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct lgv_animation lgv_animation;

typedef enum lgv_animation_format {
    LGV_ANIMATION_NONE = 0,
    LGV_ANIMATION_GIF,
    LGV_ANIMATION_WEBP
} lgv_animation_format;

/* By the ending of a file's name, .gif or .webp in either case; LGV_ANIMATION_NONE for others. */
LGV_API lgv_animation_format lgv_animation_format_of(const char *path);

typedef struct lgv_animation_options {
    int plays;    /* how often it is shown; 0: for ever */
    int quality;  /* WebP, 1 to 100; 0: 90 */
    int lossless; /* WebP: every pixel as it is, in about five times the bytes */
} lgv_animation_options;

/* An animation of frames of width x height. GIF: up to 65535 pixels a side, a palette of its own for
   each frame: exact where a frame has at most 256 colours (grey ones always), else the best 256 with
   the error diffused (Floyd and Steinberg 1976). WebP: up to 16383 a side. options may be NULL. */
LGV_API lgv_status lgv_animation_new(lgv_animation_format format, int width, int height,
                                     const lgv_animation_options *options, lgv_animation **out,
                                     lgv_error *err);
LGV_API void lgv_animation_free(lgv_animation *a);
/* One more frame: 8 bits, 1 or 3 channels. GIF counts time in hundredths of a second, at least 2. */
LGV_API lgv_status lgv_animation_add(lgv_animation *a, const lgv_image *frame, int milliseconds,
                                     lgv_error *err);
/* Ends the animation; after it only lgv_animation_free is legal. The file is written atomically;
   *data is freed with lgv_image_free_data. */
LGV_API lgv_status lgv_animation_save(lgv_animation *a, const char *path, lgv_error *err);
LGV_API lgv_status lgv_animation_finish(lgv_animation *a, uint8_t **data, size_t *size,
                                        lgv_error *err);

#ifdef __cplusplus
}
#endif
#endif
