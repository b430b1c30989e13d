/* fuzz_pickle.c - a pickle, read and shown value by value. */
#include <string.h>

#include "fuzz.h"
#include "io/pickle.h"

static void check_value(const lgv_pickle_value *v, const uint8_t *data, size_t size)
{
    char text[48];
    MUST(v->count <= v->capacity && (v->item || !v->count));
    if (v->kind == LGV_PICKLE_TEXT || v->kind == LGV_PICKLE_BINARY || v->kind == LGV_PICKLE_LONG) {
        const uint8_t *p = (const uint8_t *)v->text;
        MUST(p >= data && v->size <= (size_t)(data + size - p));
        fuzz_touch(p, v->size);
    }
    MUST(v->kind != LGV_PICKLE_DICT || v->count % 2 == 0);
    MUST(v->kind != LGV_PICKLE_GLOBAL || v->count == 2);
    MUST(v->kind != LGV_PICKLE_PERSISTENT || v->count == 1);
    MUST(v->kind != LGV_PICKLE_OBJECT || v->count >= LGV_PICKLE_PAIRS);
    for (size_t i = 0; i < v->count; i++) MUST(v->item[i]);
    lgv_pickle_show(v, text, sizeof text);
    MUST(memchr(text, 0, sizeof text));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    lgv_pickle *p = NULL;
    lgv_error err = {0};
    size_t end = 0;
    lgv_status status = lgv_pickle_read(data, size, "input", &p, &end, &err);
    MUST_SAY(status, err);
    if (status) return 0;
    MUST(end <= size && lgv_pickle_root(p));
    for (size_t i = 0; i < lgv_pickle_count(p); i++) check_value(lgv_pickle_at(p, i), data, size);
    lgv_pickle_free(p);
    return 0;
}
