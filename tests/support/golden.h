/* golden.h - the C side of tools/golden/common.py: hash values for weights and inputs, reading
   golden files, and the measures by which results are compared with them.
   The formulas and the layout of a gradient summary stand in common.py's docstring. */
#ifndef LGV_TEST_GOLDEN_H
#define LGV_TEST_GOLDEN_H

#include <stdint.h>

#include "langevin/plan.h"
#include "langevin/safetensors.h"

enum { GOLDEN_SUMMARY = 20 }; /* entries of a gradient summary */

uint64_t golden_bits(const char *name, int64_t i);
void golden_unit(const char *name, int64_t count, float *x); /* x[i] = r(name, i), in [-1, 1) */
/* The value of a whole parameter in PyTorch's order. */
void golden_parameter(const char *name, int rank, const int64_t *dim, float *x);
/* Every parameter of a set of the store, frozen ones included. */
lgv_status golden_fill(lgv_store *store, const char *set, lgv_error *err);

/* Opens tests/golden/NAME.safetensors; a missing file skips the running test, a bad one fails. */
lgv_safetensors *golden_open(const char *name);
/* A tensor of the file as floats (integers converted); fails the test when it is missing. Free with
   free(). count may be NULL. */
float *golden_floats(const lgv_safetensors *f, const char *name, int64_t *count);
/* A metadata text; fails the test when it is missing. */
const char *golden_metadata(const lgv_safetensors *f, const char *key);

/* max|a - b| / max(max|b|, floor), b the reference; infinite when a has a NaN, 0 when nothing
   differs. */
double golden_error(const float *a, const float *b, int64_t n, double floor);
/* The same from a summary of the reference gradient of parameter `name`; largest: G, the file's
   grad_max. Entries, largest magnitude and root mean square count as they are, projections divided
   by sqrt(n). Compare the result with the tolerance. */
double golden_gradient_error(const char *name, const float *g, int64_t n, const float *summary,
                             double largest);
/* Root mean square of a - b divided by that of b (of the difference alone when b is zero). */
double golden_rms_error(const float *a, const float *b, int64_t n);

#endif
