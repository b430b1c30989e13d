/* picture.c - the way of a picture file into a training set, for all picture formats. */
#include "picture.h"

#include "core/core.h"
#include "fuzz.h"

enum { MOST_PIXELS = 1 << 10, MOST_RESIZED = 64 };

static void prepare(const lgv_image *image)
{
    lgv_image flat = {0}, small = {0};
    int width, height;
    int channels = image->channels < 3 ? 1 : 3;
    MUST(!lgv_image_convert(image, channels, NULL, &flat, NULL));
    lgv_image_short_side(flat.width, flat.height, 8, &width, &height);
    if (width <= MOST_RESIZED && height <= MOST_RESIZED)
        MUST(!lgv_image_resize(&flat, width, height, &small, NULL));
    lgv_image_free(&small);
    lgv_image_free(&flat);
}

void fuzz_picture(const uint8_t *data, size_t size, lgv_image_type type)
{
    lgv_image_info info;
    lgv_image image = {0};
    lgv_error err = {0};
    if (lgv_image_type_of(data, size) != type) return;
    lgv_status status = lgv_image_probe_memory(data, size, "input", &info, &err);
    MUST_SAY(status, err);
    if (status || (int64_t)info.width * info.height > MOST_PIXELS) return;
    status = lgv_image_decode(data, size, "input", &image, &err);
    MUST_SAY(status, err);
    if (status) {
        MUST(!image.pixels);
        return;
    }
    MUST(image.width == info.width && image.height == info.height);
    MUST(image.channels == info.channels && image.bits == info.bits);
    if (image.width * image.height <= 256) prepare(&image);
    lgv_image_free(&image);
}
