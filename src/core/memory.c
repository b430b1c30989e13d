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
/* Blocks from this size on are mappings. The address sanitizer watches only malloc's blocks. */
#ifdef __SANITIZE_ADDRESS__
static const size_t large_block = SIZE_MAX;
#else
static const size_t large_block = (size_t)4 << 20;
#endif

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
    void *p = NULL;
    if (posix_memalign(&p, align, bytes ? bytes : 1)) return NULL;
    memset(p, 0, bytes);
    return p;
}

bool lgv_out_of_memory(size_t bytes)
{
    void *probe = lgv_alloc(bytes, 1);
    lgv_free(probe);
    return !probe;
}

void lgv_free(void *p)
{
    free(p);
}

/* --- Blocks ------------------------------------------------------------------------------------------ */
enum { BLOCK_ALIGN = 64 };

/* Lies in the BLOCK_ALIGN bytes before a block. */
typedef struct block_head {
    void *base;    /* what malloc or mmap gave */
    size_t mapped; /* bytes of the mapping; 0: base is malloc's */
} block_head;

static void *block_at(char *p, void *base, size_t mapped)
{
    block_head head = {base, mapped};
    memcpy(p - BLOCK_ALIGN, &head, sizeof head);
    return p;
}

/* Fresh pages of the kernel are zero already, so a block costs nothing until it is touched. The block starts at
   a huge page and is a whole number of them, its tail included; the page in front holds the head. */
static void *map_block(size_t bytes)
{
    if (bytes > SIZE_MAX - 3 * huge_page) return NULL;
    size_t whole = (bytes + huge_page - 1) & ~(huge_page - 1), mapped = whole + 2 * huge_page;
    char *base = mmap(NULL, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED) return NULL;
    char *p = base + huge_page + (-(uintptr_t)base & (huge_page - 1));
#ifdef MADV_HUGEPAGE
    (void)madvise(p, whole, MADV_HUGEPAGE); /* a kernel without them refuses, which is fine */
#endif
    return block_at(p, base, mapped);
}

void *lgv_block_alloc(size_t bytes)
{
    if (!alloc_allowed()) return NULL;
    if (bytes >= large_block) return map_block(bytes);
    if (bytes > SIZE_MAX - 2 * BLOCK_ALIGN) return NULL;
    char *base = calloc(bytes + 2 * BLOCK_ALIGN, 1);
    if (!base) return NULL;
    return block_at(base + BLOCK_ALIGN + (-(uintptr_t)base & (BLOCK_ALIGN - 1)), base, 0);
}

void lgv_block_free(void *p)
{
    if (!p) return;
    block_head head;
    memcpy(&head, (char *)p - BLOCK_ALIGN, sizeof head);
    if (head.mapped)
        (void)munmap(head.base, head.mapped);
    else
        free(head.base);
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

bool lgv_bytes_put(lgv_bytes *b, const void *data, size_t size)
{
    if (size > SIZE_MAX - b->size) b->failed = true;
    if (!b->failed && lgv_grow(&b->data, &b->capacity, b->size + size, 1, NULL)) b->failed = true;
    if (b->failed) return false;
    if (size) memcpy(b->data + b->size, data, size);
    b->size += size;
    return true;
}
