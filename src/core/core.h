/* core.h - what every other folder stands on: error text, allocation, strings.
   Internal. The allocation hook exists so that tests can make the Nth allocation fail. */
#ifndef LGV_CORE_H
#define LGV_CORE_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "langevin/status.h"

/* Writes the formatted sentence into err (which may be NULL) and returns status. */
lgv_status lgv_fail(lgv_error *err, lgv_status status, const char *fmt, ...) LGV_PRINTF(3, 4);

/* Puts "prefix: " before the text err already holds; returns err's status (status when err is NULL). */
lgv_status lgv_fail_prefix(lgv_error *err, lgv_status status, const char *fmt, ...)
    LGV_PRINTF(3, 4);

/* The one control-flow macro: leave the function with the failure of a call. */
#define LGV_TRY(call)                                                                              \
    do {                                                                                           \
        lgv_status lgv_try_status = (call);                                                        \
        if (lgv_try_status) return lgv_try_status;                                                 \
    } while (0)

/* Memory. count*size is checked for overflow; NULL on failure (and for a product of zero: a unique
   non-NULL pointer). lgv_free(NULL) is legal. Memory from lgv_alloc* is freed by lgv_free only. */
void *lgv_alloc(size_t count, size_t size);  /* uninitialised */
void *lgv_zalloc(size_t count, size_t size); /* zeroed */
void *lgv_realloc(void *p, size_t count, size_t size);
void *lgv_alloc_aligned(size_t align, size_t bytes); /* align: power of two >= 64; zeroed */
void lgv_free(void *p);                              /* frees any of the above */
/* Memory of devices: zeroed, 64-byte aligned; from 4 MiB on in huge pages that the kernel gives at the
   first touch. Freed by lgv_block_free only; NULL is legal there. */
void *lgv_block_alloc(size_t bytes);
void lgv_block_free(void *p);
char *lgv_strdup(const char *s);
char *lgv_format(const char *fmt, ...) LGV_PRINTF(1, 2); /* NULL on failure; free with lgv_free */

/* Grows *items (element size `size`) so that it holds at least `need`; doubles the capacity. */
lgv_status lgv_grow(void *items_ptr, size_t *capacity, size_t need, size_t size, lgv_error *err);

/* Bytes that grow; freed with lgv_free(data). */
typedef struct lgv_bytes {
    uint8_t *data;
    size_t size, capacity;
    bool failed; /* one found no memory: nothing is added from then on */
} lgv_bytes;
bool lgv_bytes_put(lgv_bytes *b, const void *data, size_t size); /* !b->failed */

/* Whether `bytes` cannot be had just now. Asked when another library has failed without saying why, before a file is
   called damaged. */
bool lgv_out_of_memory(size_t bytes);

/* Tests only: makes the nth (1-based) allocation from now on fail; 0 turns it off. Returns how many
   allocations were made since the last call. The counter is atomic; it is not part of the API. */
uint64_t lgv_alloc_fail_after(uint64_t nth);

/* a*b in *out; false when it does not fit. */
static inline bool lgv_mul_i64(int64_t a, int64_t b, int64_t *out)
{
    return !__builtin_mul_overflow(a, b, out);
}
static inline bool lgv_mul_size(size_t a, size_t b, size_t *out)
{
    return !__builtin_mul_overflow(a, b, out);
}

static inline int64_t lgv_min_i64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}
static inline int64_t lgv_max_i64(int64_t a, int64_t b)
{
    return a > b ? a : b;
}
/* Bytes of a picture as numbers from -1 to 1. */
static inline void lgv_pixels_to_f32(int64_t n, const uint8_t *from, float *to)
{
    for (int64_t i = 0; i < n; i++) to[i] = (float)(from[i] / 127.5 - 1.0);
}
/* [HW][C] as [C][HW]. */
static inline void lgv_to_planes(int64_t C, int64_t HW, const float *from, float *to)
{
    for (int64_t i = 0; i < HW; i++)
        for (int64_t c = 0; c < C; c++) to[c * HW + i] = from[i * C + c];
}
static inline int64_t lgv_ceil_div(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

#endif
