/* fuzz_cifar.c - CIFAR's binary files; the first byte chooses one or two label bytes, and whether the
   same file is appended twice. Records are 3 KiB, so the input is repeated to the length of some. */
#include <string.h>

#include "core/core.h"
#include "fuzz.h"
#include "io/cifar.h"

enum { RECORD = LGV_CIFAR_BYTES + 1 };

static uint8_t *stretch(const uint8_t *data, size_t size, size_t length)
{
    uint8_t *out = malloc(length ? length : 1);
    MUST(out);
    for (size_t i = 0; i < length; i++) out[i] = size ? data[i % size] : 0;
    return out;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    lgv_cifar c = {0};
    lgv_error err = {0};
    if (size < 2) return 0;
    int labels = data[0] % 4, twice = data[0] & 4;
    size_t length = data[0] & 8 ? size - 2 : data[1] % 3u * (RECORD + (data[0] >> 4 & 1u));
    uint8_t *file = stretch(data + 2, size - 2, length);
    lgv_status status = lgv_cifar_append(file, length, labels, "input", &c, &err);
    MUST_SAY(status, err);
    if (!status && twice) status = lgv_cifar_append(file, length, labels, "input", &c, &err);
    if (!status) {
        MUST(c.n >= 1);
        fuzz_touch(c.pixels, (size_t)c.n * LGV_CIFAR_BYTES);
        fuzz_touch(c.labels, (size_t)c.n);
    }
    free(file);
    lgv_cifar_free(&c);
    return 0;
}
