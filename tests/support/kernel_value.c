/* kernel_value.c - values laid out in odd ways on a device. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernel_value.h"

static const float guard = 12352.0f; /* exact in bf16 */

static uint32_t next_random(uint32_t *s)
{
    *s = *s * 1664525u + 1013904223u;
    return *s >> 8;
}

/* Of the i-th element in logical order. */
static int64_t offset_of(const lgv_tensor *t, int64_t i)
{
    int64_t at = 0;
    for (int k = 3; k >= 0; k--) {
        at += i % t->dim[k] * t->stride[k];
        i /= t->dim[k];
    }
    return at;
}

static float round_to_bf16(lgv_device *d, float v)
{
    uint16_t bits;
    d->write(d, LGV_BF16, &bits, &v, 1);
    d->read(d, LGV_BF16, &v, &bits, 1);
    return v;
}

kernel_value kernel_value_new(lgv_device *d, int rank, const int64_t *dim, int slice, int halo,
                              uint32_t seed)
{
    return kernel_value_of(d, LGV_F32, false, rank, dim, slice, halo, seed);
}

kernel_value kernel_value_of(lgv_device *d, lgv_dtype dtype, bool rounded, int rank,
                             const int64_t *dim, int slice, int halo, uint32_t seed)
{
    kernel_value b = {.device = d, .t.dtype = dtype};
    lgv_tensor *t = &b.t;
    t->rank = rank;
    for (int i = 0; i < 4; i++) t->dim[i] = i < rank ? dim[i] : 1;
    int64_t stride = 1, offset = slice;
    for (int i = rank - 1; i >= 0; i--) {
        t->stride[i] = stride;
        int64_t pad = i == rank - 1 && rank > 1         ? slice
                      : rank == 4 && (i == 1 || i == 2) ? halo
                                                        : 0;
        if (rank == 4 && (i == 1 || i == 2)) offset += halo * stride;
        stride *= t->dim[i] + 2 * pad;
    }
    if (rank == 1) offset = 0;
    t->halo = halo;
    b.elements = stride + 2 * slice;
    size_t size = d->element_size(d, dtype);
    b.memory = d->alloc(d, (size_t)b.elements * size);
    assert_non_null(b.memory);
    float fill = halo ? 0 : guard;
    for (int64_t i = 0; i < b.elements; i++)
        d->write(d, dtype, b.memory + (size_t)i * size, &fill, 1);
    t->data = b.memory + (size_t)offset * size;
    for (int64_t i = 0; i < lgv_tensor_elements(t); i++) {
        int64_t at = offset_of(t, i);
        float v = (float)next_random(&seed) / (float)(1 << 23) - 1.0f;
        if (rounded) v = round_to_bf16(d, v);
        d->write(d, dtype, (char *)t->data + (size_t)at * size, &v, 1);
    }
    return b;
}

float *kernel_value_read(const kernel_value *b)
{
    const lgv_tensor *t = &b->t;
    lgv_device *d = b->device;
    size_t size = d->element_size(d, t->dtype);
    int64_t n = lgv_tensor_elements(t);
    float *out = malloc((size_t)n * sizeof *out), *all = malloc((size_t)b->elements * sizeof *all);
    char *seen = calloc((size_t)b->elements, 1);
    assert_true(out && all && seen);
    d->read(d, t->dtype, all, b->memory, b->elements);
    int64_t first = (int64_t)((size_t)((char *)t->data - b->memory) / size);
    for (int64_t i = 0; i < n; i++) {
        int64_t at = offset_of(t, i);
        out[i] = all[first + at];
        seen[first + at] = 1;
    }
    for (int64_t i = 0; i < b->elements; i++)
        if (!seen[i]) assert_true(all[i] == (t->halo ? 0 : guard));
    free(all);
    free(seen);
    return out;
}

void kernel_value_fill(const kernel_value *b, float x)
{
    const lgv_tensor *t = &b->t;
    lgv_device *d = b->device;
    for (int64_t i = 0; i < lgv_tensor_elements(t); i++)
        d->write(d, t->dtype,
                 (char *)t->data + (size_t)offset_of(t, i) * d->element_size(d, t->dtype), &x, 1);
}

void kernel_value_free(kernel_value *v)
{
    v->device->free(v->device, v->memory);
}

const lgv_kernel *kernel_find(lgv_device *d, const lgv_call *c, const char *name)
{
    const lgv_kernel *k;
    for (int i = 0; (k = d->kernel(d, c->op, i)); i++)
        if (!strcmp(k->name, name) && (!k->accepts || k->accepts(c))) return k;
    return NULL;
}

static void run(lgv_device *d, const lgv_kernel *k, lgv_call *c, bool pack)
{
    void *packed = pack ? d->alloc(d, k->pack(c).bytes) : NULL;
    c->packed = packed;
    c->workspace = k->workspace ? d->alloc(d, k->workspace(c)) : NULL;
    if (packed) k->run_pack(c, packed);
    k->run(c);
    d->free(d, packed);
    d->free(d, c->workspace);
}

void kernel_run(lgv_device *d, const lgv_kernel *k, lgv_call *c)
{
    run(d, k, c, k->pack != NULL);
}

void kernel_run_unpacked(lgv_device *d, const lgv_kernel *k, lgv_call *c)
{
    run(d, k, c, k->pack && !k->pack_optional);
}
