/* animation_internal.h - an animation's two formats behind one face, and the palette of GIF frames. */
#ifndef LGV_ANIMATION_INTERNAL_H
#define LGV_ANIMATION_INTERNAL_H

#include "core/core.h"
#include "langevin/animation.h"

typedef struct lgv_gif lgv_gif;
lgv_status lgv_gif_open(int width, int height, const lgv_animation_options *o, lgv_bytes *to,
                        lgv_gif **out, lgv_error *err);
lgv_status lgv_gif_add(lgv_gif *g, const lgv_image *frame, int milliseconds, lgv_error *err);
lgv_status lgv_gif_close(lgv_gif *g, lgv_error *err);
void lgv_gif_free(lgv_gif *g);

typedef struct lgv_webp_animation lgv_webp_animation;
lgv_status lgv_webp_open(int width, int height, const lgv_animation_options *o,
                         lgv_webp_animation **out, lgv_error *err);
lgv_status lgv_webp_add(lgv_webp_animation *w, const lgv_image *frame, int milliseconds,
                        lgv_error *err);
lgv_status lgv_webp_close(lgv_webp_animation *w, lgv_bytes *to, lgv_error *err);
void lgv_webp_free(lgv_webp_animation *w);

/* ---- palette.c ---- */
typedef struct lgv_palette {
    int count;
    uint8_t rgb[256][3];
} lgv_palette;

/* Up to 256 colours for a frame of 8 bits and 1 or 3 channels, and for each pixel the index of one:
   exact where 256 are enough. index[height*width]. */
lgv_status lgv_palette_make(const lgv_image *frame, lgv_palette *out, uint8_t *index,
                            lgv_error *err);

#endif
