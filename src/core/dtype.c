/* dtype.c - names and sizes of element types, names of mixed precision. */
#include "langevin/dtype.h"

#include <string.h>

#include "core.h"

static const struct {
    const char *name;
    size_t size;
} dtypes[LGV_DTYPES] = {
    [LGV_F32] = {"F32", 4},   [LGV_BF16] = {"BF16", 2}, [LGV_F16] = {"F16", 2},
    [LGV_F64] = {"F64", 8},   [LGV_I32] = {"I32", 4},   [LGV_I64] = {"I64", 8},
    [LGV_U8] = {"U8", 1},     [LGV_I8] = {"I8", 1},     [LGV_I16] = {"I16", 2},
    [LGV_BOOL] = {"BOOL", 1},
};

size_t lgv_dtype_size(lgv_dtype dtype)
{
    return (unsigned)dtype < LGV_DTYPES ? dtypes[dtype].size : 0;
}

const char *lgv_dtype_name(lgv_dtype dtype)
{
    return (unsigned)dtype < LGV_DTYPES ? dtypes[dtype].name : "?";
}

const char *lgv_mixed_precision_name(lgv_mixed_precision m)
{
    return m == LGV_MIXED_BF16 ? "bf16" : "no";
}

lgv_status lgv_mixed_precision_parse(const char *name, lgv_mixed_precision *out, lgv_error *err)
{
    for (int m = LGV_MIXED_NO; m <= LGV_MIXED_BF16; m++) {
        if (strcmp(name, lgv_mixed_precision_name((lgv_mixed_precision)m))) continue;
        *out = (lgv_mixed_precision)m;
        return LGV_OK;
    }
    return lgv_fail(err, LGV_ERR_ARGUMENT, "there is no mixed precision '%s': choose no or bf16",
                    name);
}
