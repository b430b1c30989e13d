/* fuzz_safetensors.c - a whole safetensors file; what it hands out is read to the last byte. */
#include <string.h>

#include "core/core.h"
#include "fuzz.h"
#include "langevin/safetensors.h"

static void read_tensor(const lgv_tensor_info *t, const uint8_t *data, size_t size)
{
    float value[64];
    const uint8_t *p = t->data;
    MUST(t->rank >= 0 && t->rank <= LGV_TENSOR_RANK && t->count >= 0);
    MUST(t->bytes == (size_t)t->count * lgv_dtype_size(t->dtype));
    MUST(p >= data && t->bytes <= (size_t)(data + size - p));
    fuzz_touch(p, t->bytes);
    if (t->count <= 64) (void)lgv_tensor_to_f32(t, value, NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    lgv_safetensors *f = NULL;
    lgv_error err = {0};
    lgv_status status = lgv_safetensors_open_memory(data, size, "input", &f, &err);
    MUST_SAY(status, err);
    if (status) return 0;
    size_t n = lgv_safetensors_count(f);
    for (size_t i = 0; i < n; i++) {
        const lgv_tensor_info *t = lgv_safetensors_at(f, i);
        MUST(lgv_safetensors_find(f, t->name) == t);
        read_tensor(t, data, size);
    }
    (void)lgv_safetensors_find(f, "no such tensor");
    (void)lgv_safetensors_metadata(f, "format");
    lgv_safetensors_close(f);
    return 0;
}
