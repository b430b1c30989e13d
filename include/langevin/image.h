/* image.h - pictures: PNG, JPEG, WebP, GIF and BMP in, PNG out, and the changes of size and shape that training
   needs. Where Pillow (PIL) and torchvision have a rule, it is theirs, bit for bit, so that a data
   set looks the same here and in a PyTorch script. */
#ifndef LANGEVIN_IMAGE_H
#define LANGEVIN_IMAGE_H

#include <stddef.h>
#include <stdint.h>

#include "status.h"

#ifdef __cplusplus
extern "C" {
#endif

enum {
    LGV_IMAGE_SIDE = 16384,               /* a longer side is refused */
    LGV_IMAGE_PIXELS = 256 * 1024 * 1024, /* more pixels are refused */
};

/* Rows from top to bottom, dense: pixels[height][width][channels]. Owned by whoever filled it in;
   zero-initialise, release with lgv_image_free. */
typedef struct lgv_image {
    int width, height;
    int channels; /* 1 grey, 2 grey and alpha, 3 RGB, 4 RGB and alpha (alpha not premultiplied) */
    int bits;     /* 8: pixels are uint8_t; 16: uint16_t in the machine's byte order */
    void *pixels;
} lgv_image;

/* An image filled with zeros. */
LGV_API lgv_status lgv_image_new(int width, int height, int channels, int bits, lgv_image *out,
                                 lgv_error *err);
/* Frees the pixels and clears *image; NULL is legal. */
LGV_API void lgv_image_free(lgv_image *image);

/* ---- reading ---- */
typedef enum lgv_image_type {
    LGV_IMAGE_UNKNOWN = 0,
    LGV_IMAGE_PNG,
    LGV_IMAGE_JPEG,
    LGV_IMAGE_WEBP,
    LGV_IMAGE_GIF,
    LGV_IMAGE_BMP
} lgv_image_type;
LGV_API const char *lgv_image_type_name(lgv_image_type type); /* "JPEG"; never NULL */

typedef struct lgv_image_info {
    lgv_image_type type;
    int width, height, channels, bits; /* what decoding gives (after the EXIF rotation) */
} lgv_image_info;

/* The type by content: `size` bytes from the start of a file (18 are enough). */
LGV_API lgv_image_type lgv_image_type_of(const void *data, size_t size);
/* Header only, without decoding: for listing data sets. */
LGV_API lgv_status lgv_image_probe(const char *path, lgv_image_info *out, lgv_error *err);
LGV_API lgv_status lgv_image_probe_memory(const void *data, size_t size, const char *name,
                                          lgv_image_info *out, lgv_error *err);
/* Decodes PNG (all colour types and depths; palettes become RGB, tRNS becomes alpha, gAMA is
   ignored as PIL does), JPEG (grey, RGB, CMYK and YCCK as PIL converts them), WebP and GIF (of an
   animation the first frame), BMP (1 to 32 bits, run-length too); applies the EXIF orientation.
   A truncated or damaged file is LGV_ERR_FORMAT. `name` is what messages call the data. */
LGV_API lgv_status lgv_image_load(const char *path, lgv_image *out, lgv_error *err);
LGV_API lgv_status lgv_image_decode(const void *data, size_t size, const char *name, lgv_image *out,
                                    lgv_error *err);

/* ---- changing; each `out` is a new image ---- */
/* To 8 bits and 1 or 3 channels, in this order: 16 bits to 8 by (v*255 + 32767) / 65535; alpha over
   `background` (3 values, NULL: white) by round((a*c + (255-a)*b) / 255); grey to RGB by repeating;
   RGB to grey as PIL, (19595 R + 38470 G + 7471 B + 32768) >> 16. */
LGV_API lgv_status lgv_image_convert(const lgv_image *in, int channels, const uint8_t background[3],
                                     lgv_image *out, lgv_error *err);
/* PIL's Image.resize((width, height), BILINEAR), bit for bit: triangle filter whose support grows
   with the reduction, 22-bit fixed-point weights, 8 bits between the two axes. The order is that of
   Pillow 13: horizontal first unless the height loses more than twice as many pixels as the width
   (older versions: always). `in` has 8 bits and 1 or 3 channels. */
LGV_API lgv_status lgv_image_resize(const lgv_image *in, int width, int height, lgv_image *out,
                                    lgv_error *err);
/* torchvision's Resize(size): the short side becomes `size`, the long one
   int(size * long / short). */
LGV_API void lgv_image_short_side(int width, int height, int size, int *out_width, int *out_height);
/* torchvision's CenterCrop: offset round-half-even((side - crop) / 2); a smaller image is padded
   with zeros first. */
LGV_API lgv_status lgv_image_center_crop(const lgv_image *in, int width, int height, lgv_image *out,
                                         lgv_error *err);
/* The rectangle with top left corner (x, y), which must lie inside. */
LGV_API lgv_status lgv_image_crop(const lgv_image *in, int x, int y, int width, int height,
                                  lgv_image *out, lgv_error *err);
/* Mirrors left and right, in place. */
LGV_API void lgv_image_flip(lgv_image *image);
/* Tiles n images of one size, channels and 8 bits into rows of `columns` (0: the smallest square
   that holds them), 2 black pixels between and around, as torchvision's make_grid. */
LGV_API lgv_status lgv_image_grid(const lgv_image *images, size_t n, int columns, lgv_image *out,
                                  lgv_error *err);

/* ---- writing ---- */
typedef struct lgv_png_text {
    const char *key;   /* 1 to 79 Latin-1 characters, such as "parameters" */
    const char *value; /* UTF-8; written as tEXt when it is ASCII, else as iTXt */
} lgv_png_text;

/* Writes an 8-bit image (1 to 4 channels) as PNG, atomically. text may be NULL when texts is 0. */
LGV_API lgv_status lgv_image_save_png(const char *path, const lgv_image *image,
                                      const lgv_png_text *text, size_t texts, lgv_error *err);
/* The same into memory; *data is freed with lgv_image_free_data. */
LGV_API lgv_status lgv_image_encode_png(const lgv_image *image, const lgv_png_text *text,
                                        size_t texts, uint8_t **data, size_t *size, lgv_error *err);
LGV_API void lgv_image_free_data(uint8_t *data);

#ifdef __cplusplus
}
#endif
#endif
