/* elementary.c - the vector functions of simd.h at one level, for tests: compiled once per level like the kernels. */
#include "cpu/simd.h"
#include "elementary_sweep.h"

#define SWEEP(name, call)                                                                          \
    static void name(const float *x, float *y, int64_t n)                                          \
    {                                                                                              \
        for (int64_t i = 0; i < n; i += VL) {                                                      \
            vreal v = v_load(x + i);                                                               \
            v_store(y + i, call);                                                                  \
        }                                                                                          \
    }
SWEEP(run_exp, v_exp(v))
SWEEP(run_exp2, v_exp2_normal(v))
SWEEP(run_exp2_rough, v_exp2_rough(v))
SWEEP(run_tanh, v_tanh(v))
SWEEP(run_erf, v_erf(v))
SWEEP(run_sigmoid, v_sigmoid(v))
SWEEP(run_silu, v_silu(v))
SWEEP(run_gelu, v_gelu(v))

#define TABLE2(level) sweep_functions_##level
#define TABLE(level)  TABLE2(level)
const sweep_function TABLE(LGV_LEVEL)[SWEEP_FUNCTIONS] = {
    run_exp, run_exp2, run_exp2_rough, run_tanh, run_erf, run_sigmoid, run_silu, run_gelu};
