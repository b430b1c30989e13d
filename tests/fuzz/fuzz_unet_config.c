/* fuzz_unet_config.c - config.json of a network: fields, ranges, and whether the blocks fit each other. */
#include "core/core.h"
#include "fuzz.h"
#include "langevin/unet2d.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    lgv_unet2d_config config;
    lgv_error err = {0};
    lgv_status status = lgv_unet2d_config_parse((const char *)data, size, "input", &config, &err);
    MUST_SAY(status, err);
    if (status) return 0;
    MUST(!lgv_unet2d_config_check(&config, NULL));
    MUST(lgv_unet2d_divisor(&config) >= 1 && lgv_unet2d_embedding(&config) >= 1);
    return 0;
}
