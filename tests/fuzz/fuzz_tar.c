/* fuzz_tar.c - a shard of pictures, plain or compressed, read member by member. */
#include <string.h>

#include "core/core.h"
#include "fuzz.h"
#include "io/shard.h"

enum {
    MOST_BYTES = 1 << 16
}; /* larger members are passed over, as their content is nobody's matter */

static lgv_status members(lgv_shard *shard, bool places, lgv_error *err)
{
    lgv_shard_member m;
    bool more = false;
    const uint8_t *content;
    int64_t at;
    for (;;) {
        LGV_TRY(lgv_shard_next(shard, &m, &more, err));
        if (!more) return LGV_OK;
        MUST(m.path[0] && strlen(m.path) < LGV_SHARD_PATH);
        MUST(m.size >= 0 && m.size <= LGV_SHARD_BYTES);
        MUST(lgv_shard_key(m.path) <= strlen(m.path));
        (void)lgv_shard_named(m.path);
        if (m.size > MOST_BYTES) continue;
        if (places && lgv_shard_is_plain(shard)) {
            LGV_TRY(lgv_shard_place(shard, &at, err));
            MUST(at >= 0);
        } else {
            LGV_TRY(lgv_shard_read(shard, &content, err));
            fuzz_touch(content, (size_t)m.size);
        }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    lgv_shard *shard = NULL;
    lgv_error err = {0};
    if (size < 1) return 0;
    lgv_status status = lgv_shard_open_memory(data + 1, size - 1, "input", &shard, &err);
    MUST_SAY(status, err);
    if (status) return 0;
    status = members(shard, data[0] & 1, &err);
    MUST_SAY(status, err);
    lgv_shard_close(shard);
    return 0;
}
