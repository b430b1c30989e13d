/* fuzz_gif.c - GIF pictures through our reading of them. */
#include "fuzz.h"
#include "picture.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_picture(data, size, LGV_IMAGE_GIF);
    return 0;
}
