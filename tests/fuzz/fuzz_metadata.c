/* fuzz_metadata.c - labels as people write them down; the first byte chooses metadata.csv, metadata.jsonl, or
   the .json or .cls member of a shard. */
#include <string.h>

#include "core/core.h"
#include "fuzz.h"
#include "io/metadata.h"

static lgv_status row(void *user, const char *file_name, const char *label, lgv_error *err)
{
    size_t *rows = user;
    MUST(file_name[0] && strlen(file_name) <= LGV_METADATA_ROW);
    MUST(!label || (label[0] && strlen(label) < LGV_LABEL_BYTES));
    ++*rows;
    return LGV_OK;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char label[LGV_LABEL_BYTES];
    bool found = false;
    size_t rows = 0;
    lgv_error err = {0};
    lgv_status status = LGV_OK;
    if (size < 1) return 0;
    const char *text = (const char *)data + 1;
    size--;
    switch (data[0] % 4) {
    case 0: status = lgv_metadata_csv(text, size, "input", row, &rows, &err); break;
    case 1: status = lgv_metadata_jsonl(text, size, "input", row, &rows, &err); break;
    case 2: status = lgv_metadata_json(text, size, "input", label, &found, &err); break;
    default: status = lgv_metadata_cls(text, size, "input", label, &err); found = !status;
    }
    MUST_SAY(status, err);
    MUST(rows <= size);
    if (!status && found) MUST(memchr(label, 0, sizeof label) && label[0]);
    return 0;
}
