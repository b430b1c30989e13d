/* cifar.c - reading CIFAR's binary files. The planes are interleaved at once: everything behind this wants
   pixels. */
#include "cifar.h"

#include <string.h>

#include "core/file.h"

int lgv_cifar_label_bytes(const char *path)
{
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    size_t n = strlen(name);
    if (n < 4 || strcmp(name + n - 4, ".bin")) return 0;
    if (!strncmp(name, "data_batch", 10) || !strcmp(name, "test_batch.bin")) return 1;
    return !strcmp(name, "train.bin") || !strcmp(name, "test.bin") ? 2 : 0;
}

static lgv_status grow(lgv_cifar *c, int64_t n, const char *name, lgv_error *err)
{
    size_t total = (size_t)(c->n + n);
    uint8_t *pixels = lgv_realloc(c->pixels, total, LGV_CIFAR_BYTES);
    if (pixels) c->pixels = pixels;
    uint8_t *labels = pixels ? lgv_realloc(c->labels, total, 1) : NULL;
    if (labels) c->labels = labels;
    return labels
               ? LGV_OK
               : lgv_fail(err, LGV_ERR_MEMORY, "%s: out of memory for %zu pictures", name, total);
}

lgv_status lgv_cifar_append(const uint8_t *data, size_t size, int label_bytes, const char *name,
                            lgv_cifar *out, lgv_error *err)
{
    size_t record = LGV_CIFAR_BYTES + (size_t)label_bytes;
    if (label_bytes < 1 || label_bytes > 2 || !size || size % record)
        return lgv_fail(err, LGV_ERR_FORMAT,
                        "%s: %zu bytes are no whole number of CIFAR records of %zu bytes; is the "
                        "file complete?",
                        name, size, record);
    if (size / record > LGV_CIFAR_RECORDS || out->n > LGV_CIFAR_RECORDS)
        return lgv_fail(err, LGV_ERR_UNSUPPORTED, "%s: more than %d pictures", name,
                        LGV_CIFAR_RECORDS);
    int64_t n = (int64_t)(size / record);
    LGV_TRY(grow(out, n, name, err));
    for (int64_t i = 0; i < n; i++, data += record) {
        const uint8_t *plane = data + label_bytes;
        uint8_t *to = out->pixels + (size_t)(out->n + i) * LGV_CIFAR_BYTES;
        out->labels[out->n + i] = data[label_bytes - 1];
        for (int k = 0; k < 1024; k++)
            for (int c = 0; c < 3; c++) to[3 * k + c] = plane[1024 * c + k];
    }
    out->n += n;
    return LGV_OK;
}

lgv_status lgv_cifar_append_file(const char *path, lgv_cifar *out, lgv_error *err)
{
    lgv_map map = {0};
    LGV_TRY(lgv_map_open(path, &map, err));
    lgv_status s =
        lgv_cifar_append(map.data, map.size, lgv_cifar_label_bytes(path), path, out, err);
    lgv_map_close(&map);
    return s;
}

void lgv_cifar_free(lgv_cifar *c)
{
    lgv_free(c->pixels);
    lgv_free(c->labels);
    *c = (lgv_cifar){0};
}
