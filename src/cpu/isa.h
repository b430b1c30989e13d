/* isa.h - which instruction sets this processor and operating system offer. */
#ifndef LGV_ISA_H
#define LGV_ISA_H

#include <stdbool.h>

/* Levels of the CPU device in rising order. f64 stands apart (scalar code in double), and amx-emulated, for
   tests (the AMX kernels with tile operations in C, over avx2). */
typedef enum lgv_level {
    LGV_SCALAR = 0,
    LGV_AVX2,
    LGV_AVX512,
    LGV_AMX,
    LGV_F64_LEVEL,
    LGV_AMX_EMULATED,
    LGV_LEVELS
} lgv_level;

/* "scalar", "avx2", "avx512", "amx", "f64", "amx-emulated"; -1 when the name is none of them. */
int lgv_level_find(const char *name);
const char *lgv_level_name(lgv_level level);
/* The machine can run the level. For amx this asks the kernel for the tile registers, once granted for good. */
bool lgv_level_runs(lgv_level level);
/* This build holds kernels of the level. */
bool lgv_level_built(lgv_level level);

#endif
