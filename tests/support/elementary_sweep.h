/* elementary_sweep.h - the vector functions of every level over the floats, against double precision. */
#ifndef ELEMENTARY_SWEEP_H
#define ELEMENTARY_SWEEP_H

#include <stdint.h>

/* exp, exp2_normal, exp2_rough, tanh, erf, sigmoid, silu, gelu; n is a multiple of 16. */
enum { SWEEP_FUNCTIONS = 8 };
typedef void (*sweep_function)(const float *x, float *y, int64_t n);

/* Every stride-th of the 2^32 bit patterns through every function of every level that the machine has. Fails the
   test when an error or a special value is not what simd.h promises. */
void sweep_floats(uint64_t stride);

#endif
