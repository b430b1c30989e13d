/* dtype.h - element types of tensors in graphs and files. */
#ifndef LANGEVIN_DTYPE_H
#define LANGEVIN_DTYPE_H

#include <stddef.h>

#include "status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum lgv_dtype {
    LGV_F32 = 0,
    LGV_BF16,
    LGV_F16,
    LGV_F64,
    LGV_I32,
    LGV_I64,
    LGV_U8,
    LGV_I8,
    LGV_I16,
    LGV_BOOL,
    LGV_DTYPES
} lgv_dtype;

/* Bytes of one element in a file. (A device may hold LGV_F32 wider: "cpu:f64" does.) */
LGV_API size_t lgv_dtype_size(lgv_dtype dtype);
/* The safetensors name: "F32", "BF16", ... Never NULL. */
LGV_API const char *lgv_dtype_name(lgv_dtype dtype);

#ifdef __cplusplus
}
#endif
#endif
