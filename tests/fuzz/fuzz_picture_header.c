/* fuzz_picture_header.c - what is known of a picture before it is decoded, mostly read without a
   library: the chunks of PNG, the header of BMP, the orientation in EXIF. */
#include "core/core.h"
#include "fuzz.h"
#include "io/image_internal.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    lgv_image_info info = {0};
    int orientation = lgv_exif_orientation(data, size);
    MUST(orientation >= 1 && orientation <= 8);
    lgv_error err = {0};
    lgv_status status = lgv_image_probe_memory(data, size, "input", &info, &err);
    MUST_SAY(status, err);
    if (status) return 0;
    MUST(info.width >= 1 && info.width <= LGV_IMAGE_SIDE);
    MUST(info.height >= 1 && info.height <= LGV_IMAGE_SIDE);
    MUST((int64_t)info.width * info.height <= LGV_IMAGE_PIXELS);
    MUST(info.channels >= 1 && info.channels <= 4 && (info.bits == 8 || info.bits == 16));
    return 0;
}
