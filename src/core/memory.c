/* memory.c - allocation behind one hook, and the strings made with it.
   Everything in the library allocates here, so that a test can make any single allocation fail and
   see that the failure is reported and nothing leaks. */
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "core.h"

/* The only mutable state of the library; two counters of the test hook. */
static atomic_uint_fast64_t alloc_count;
static atomic_uint_fast64_t alloc_fail_at; /* value of alloc_count that fails; 0: none */

static const size_t huge_page = (size_t)2 << 20;

static bool alloc_allowed(void)
{
    uint_fast64_t n = atomic_fetch_add_explicit(&alloc_count, 1, memory_order_relaxed) + 1;
    return n != atomic_load_explicit(&alloc_fail_at, memory_order_relaxed);
}

uint64_t lgv_alloc_fail_after(uint64_t nth)
{
    uint64_t made = atomic_exchange(&alloc_count, 0);
    atomic_store(&alloc_fail_at, nth);
    return made;
}

void *lgv_alloc(size_t count, size_t size)
{
    size_t bytes;
    if (!lgv_mul_size(count, size, &bytes) || !alloc_allowed()) return NULL;
    return malloc(bytes ? bytes : 1);
}

void *lgv_zalloc(size_t count, size_t size)
{
    size_t bytes;
    if (!lgv_mul_size(count, size, &bytes) || !alloc_allowed()) return NULL;
    return calloc(bytes ? bytes : 1, 1);
}

void *lgv_realloc(void *p, size_t count, size_t size)
{
    size_t bytes;
    if (!lgv_mul_size(count, size, &bytes) || !alloc_allowed()) return NULL;
    return realloc(p, bytes ? bytes : 1);
}

void *lgv_alloc_aligned(size_t align, size_t bytes)
{
    if (align < sizeof(void *) || (align & (align - 1)) || !alloc_allowed()) return NULL;
    bool huge = bytes >= 2 * huge_page;
    if (huge && align < huge_page) align = huge_page;
    void *p = NULL;
    if (posix_memalign(&p, align, bytes ? bytes : 1)) return NULL;
#ifdef MADV_HUGEPAGE
    /* Before the first touch, whole huge pages only; a kernel without them refuses, which is fine.
     */
    if (huge) (void)madvise(p, bytes & ~(huge_page - 1), MADV_HUGEPAGE);
#endif
    memset(p, 0, bytes);
    return p;
}

void lgv_free(void *p)
{
    free(p);
}

char *lgv_strdup(const char *s)
{
    size_t bytes = strlen(s) + 1;
    char *copy = lgv_alloc(bytes, 1);
    if (copy) memcpy(copy, s, bytes);
    return copy;
}

char *lgv_format(const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    int length = vsnprintf(NULL, 0, fmt, args);
    va_end(args);
    if (length < 0) return NULL;
    char *text = lgv_alloc((size_t)length + 1, 1);
    if (!text) return NULL;
    va_start(args, fmt);
    vsnprintf(text, (size_t)length + 1, fmt, args);
    va_end(args);
    return text;
}

lgv_status lgv_grow(void *items_ptr, size_t *capacity, size_t need, size_t size, lgv_error *err)
{
    if (need <= *capacity) return LGV_OK;
    size_t wanted = *capacity > SIZE_MAX / 2 ? need : 2 * *capacity;
    if (wanted < need) wanted = need;
    if (wanted < 8) wanted = 8;
    void *items; /* items_ptr points to a pointer of any object type, hence the copies */
    memcpy(&items, items_ptr, sizeof items);
    items = lgv_realloc(items, wanted, size);
    if (!items)
        return lgv_fail(err, LGV_ERR_MEMORY, "out of memory: a list of %zu items of %zu bytes",
                        wanted, size);
    memcpy(items_ptr, &items, sizeof items);
    *capacity = wanted;
    return LGV_OK;
}
