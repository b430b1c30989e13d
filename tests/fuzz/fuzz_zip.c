/* fuzz_zip.c - the directory of a zip archive; members are read to the last byte. */
#include <string.h>

#include "fuzz.h"
#include "io/zip.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    lgv_zip zip = {0};
    lgv_error err = {0};
    lgv_status status = lgv_zip_read(data, size, "input", &zip, &err);
    MUST_SAY(status, err);
    MUST(!status || (!zip.entry && !zip.count));
    for (size_t i = 0; i < zip.count; i++) {
        const lgv_zip_entry *e = &zip.entry[i];
        MUST(e->begin >= data && e->data > e->begin && e->size <= (size_t)(data + size - e->data));
        MUST(strlen(e->name) <= LGV_ZIP_NAME && lgv_zip_find(&zip, e->name) == e);
        fuzz_touch(e->data, e->size);
        MUST_SAY(lgv_zip_check(e, "input", &err), err);
    }
    lgv_zip_free(&zip);
    return 0;
}
