/* fuzz_bmp.c - BMP pictures through our reading of them. */
#include "fuzz.h"
#include "picture.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_picture(data, size, LGV_IMAGE_BMP);
    return 0;
}
