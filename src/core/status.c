/* status.c - error texts. */
#include <stdio.h>
#include <string.h>

#include "core.h"

const char *lgv_status_name(lgv_status status)
{
    switch (status) {
    case LGV_OK: return "ok";
    case LGV_ERR_ARGUMENT: return "invalid argument";
    case LGV_ERR_SHAPE: return "wrong shape";
    case LGV_ERR_MEMORY: return "out of memory";
    case LGV_ERR_IO: return "input/output error";
    case LGV_ERR_FORMAT: return "invalid format";
    case LGV_ERR_UNSUPPORTED: return "not supported";
    case LGV_ERR_NUMERIC: return "not a finite number";
    case LGV_ERR_EXISTS: return "already exists";
    case LGV_ERR_CANCELLED: return "cancelled";
    }
    return "unknown status";
}

lgv_status lgv_fail(lgv_error *err, lgv_status status, const char *fmt, ...)
{
    if (err) {
        va_list args;
        va_start(args, fmt);
        err->status = status;
        vsnprintf(err->text, sizeof err->text, fmt, args);
        va_end(args);
    }
    return status;
}

lgv_status lgv_fail_prefix(lgv_error *err, lgv_status status, const char *fmt, ...)
{
    if (!err) return status;
    char prefix[LGV_ERROR_TEXT / 2];
    char rest[LGV_ERROR_TEXT];
    va_list args;
    va_start(args, fmt);
    vsnprintf(prefix, sizeof prefix, fmt, args);
    va_end(args);
    memcpy(rest, err->text, sizeof rest);
    rest[sizeof rest - 1] = 0;
    snprintf(err->text, sizeof err->text, "%s: %.*s", prefix,
             (int)(sizeof err->text - strlen(prefix) - 3), rest);
    err->status = status;
    return status;
}
