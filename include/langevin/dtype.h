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

/* What activations and their gradients are kept in while a network runs. Parameters, their gradients and
   every sum are float32 in any case; so are the time embedding, statistics, the output convolution and
   the loss. */
typedef enum lgv_mixed_precision {
    LGV_MIXED_DEFAULT = 0, /* not stated: as LGV_MIXED_NO, on resume as before */
    LGV_MIXED_NO,          /* float32 */
    LGV_MIXED_BF16
} lgv_mixed_precision;

LGV_API const char *lgv_mixed_precision_name(lgv_mixed_precision m); /* "no", "bf16"; never NULL */
LGV_API lgv_status lgv_mixed_precision_parse(const char *name, lgv_mixed_precision *out,
                                             lgv_error *err);

#ifdef __cplusplus
}
#endif
#endif
