/* kernel_value.h - values laid out in odd ways on a device, for tests that call kernels directly. */
#ifndef KERNEL_VALUE_H
#define KERNEL_VALUE_H

#include "plan/backend.h"

/* A value inside a larger memory: channel slices and halos, guarded by a pattern that must survive. */
typedef struct kernel_value {
    lgv_device *device;
    char *memory;
    int64_t elements; /* of the whole memory */
    lgv_tensor t;
} kernel_value;

/* slice: channels left and right of the value's own; halo: zeros around H and W. Elements are uniform in
   [-1,1), from the seed in logical order. Aborts the test when memory is short. */
kernel_value kernel_value_new(lgv_device *d, int rank, const int64_t *dim, int slice, int halo,
                              uint32_t seed);
/* The same in another element type. rounded: F32 elements are rounded to bf16, so that both types hold the same. */
kernel_value kernel_value_of(lgv_device *d, lgv_dtype dtype, bool rounded, int rank,
                             const int64_t *dim, int slice, int halo, uint32_t seed);
void kernel_value_free(kernel_value *v);
/* The elements in logical order (free with free()); fails the test when the guard has changed. */
float *kernel_value_read(const kernel_value *v);
/* Every element becomes x. */
void kernel_value_fill(const kernel_value *v, float x);
/* The kernel of this name that takes the call, NULL when there is none. */
const lgv_kernel *kernel_find(lgv_device *d, const lgv_call *c, const char *name);
/* Packs, gives a workspace, runs. */
void kernel_run(lgv_device *d, const lgv_kernel *k, lgv_call *c);
/* The same without the packed weights that the kernel can do without. */
void kernel_run_unpacked(lgv_device *d, const lgv_kernel *k, lgv_call *c);

#endif
