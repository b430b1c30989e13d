/* fuzz_jpeg.c - JPEG pictures through our reading of them. */
#include "fuzz.h"
#include "picture.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_picture(data, size, LGV_IMAGE_JPEG);
    return 0;
}
