/* fuzz_idx.c - IDX files, plain and gzip; the first byte chooses images or labels. */
#include "core/core.h"
#include "fuzz.h"
#include "io/idx.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    lgv_idx idx = {0};
    lgv_error err = {0};
    if (size < 1) return 0;
    int dims = data[0] & 1 ? 1 : 3;
    lgv_status status = lgv_idx_parse(data + 1, size - 1, "input", dims, &idx, &err);
    MUST_SAY(status, err);
    if (status) return 0;
    fuzz_touch(idx.data, (size_t)(idx.n * idx.height * idx.width));
    lgv_idx_free(&idx);
    return 0;
}
