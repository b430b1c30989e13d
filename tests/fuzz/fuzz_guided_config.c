/* fuzz_guided_config.c - config.json of a UNetModel of guided-diffusion. */
#include "model_config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    lgv_model m;
    if (fuzz_model_config(&lgv_kind_guided, data, size, &m)) fuzz_model_free(&m);
    return 0;
}
