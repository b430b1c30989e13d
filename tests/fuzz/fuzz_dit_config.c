/* fuzz_dit_config.c - config.json of a DiTTransformer2DModel. */
#include "model_config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    lgv_model m;
    if (fuzz_model_config(&lgv_kind_dit, data, size, &m)) fuzz_model_free(&m);
    return 0;
}
