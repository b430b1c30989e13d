/* fuzz_torch_file.c - a whole file of torch.save; what it hands out is read to the last byte. */
#include <string.h>

#include "core/core.h"
#include "fuzz.h"
#include "langevin/torch_file.h"

static void check_tensor(const lgv_torch_file *f, size_t i)
{
    size_t stem;
    float value[64];
    const lgv_tensor_info *t = lgv_torch_file_at(f, i, &stem);
    MUST(t->rank >= 0 && t->rank <= LGV_TENSOR_RANK && t->count >= 0);
    MUST(t->bytes == (size_t)t->count * lgv_dtype_size(t->dtype));
    MUST(stem <= strlen(t->name) && strlen(t->name) <= LGV_TENSOR_NAME);
    MUST(lgv_torch_file_find(f, t->name) == t);
    fuzz_touch(t->data, t->bytes);
    if (t->count <= 64) (void)lgv_tensor_to_f32(t, value, NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    lgv_torch_file *f = NULL;
    lgv_error err = {0};
    const char *name, *text;
    lgv_status status = lgv_torch_file_open_memory(data, size, "input", &f, &err);
    MUST_SAY(status, err);
    if (status) return 0;
    for (size_t i = 0; i < lgv_torch_file_count(f); i++) check_tensor(f, i);
    for (size_t i = 0; lgv_torch_file_note(f, i, &name, &text); i++) MUST(name && text);
    lgv_torch_file_close(f);
    return 0;
}
