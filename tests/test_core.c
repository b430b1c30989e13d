/* test_core.c - allocation, strings, error texts and the thread pool. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>

#include "core/core.h"
#include "core/pool.h"
#include "core/file.h"

static void test_alloc(void **state)
{
    void *p = lgv_alloc(0, 8), *q = lgv_zalloc(8, 0);
    assert_non_null(p);
    assert_non_null(q);
    assert_ptr_not_equal(p, q);
    lgv_free(p);
    lgv_free(q);
    lgv_free(NULL);
    assert_null(lgv_alloc(SIZE_MAX / 2, 3));
    assert_null(lgv_zalloc(SIZE_MAX / 2, 3));
    assert_null(lgv_realloc(NULL, SIZE_MAX / 2, 3));
    assert_null(lgv_alloc_aligned(96, 10));
    for (size_t bytes = 1; bytes < (size_t)20 << 20; bytes = bytes * 3 + 1) {
        unsigned char *a = lgv_alloc_aligned(64, bytes);
        assert_non_null(a);
        assert_int_equal((uintptr_t)a % 64, 0);
        for (size_t i = 0; i < bytes; i += 97) assert_int_equal(a[i], 0);
        assert_int_equal(a[bytes - 1], 0);
        memset(a, 255, bytes); /* a later allocation that reuses the memory must be zeroed */
        lgv_free(a);
    }
}

/* Bytes of the block at p that are resident, and how many of them in huge pages; from /proc/self/smaps. */
static void resident(const void *p, size_t *all, size_t *huge)
{
    unsigned long long from, to, kib;
    bool inside = false;
    char line[512];
    FILE *f = fopen("/proc/self/smaps", "r");
    *all = *huge = 0;
    while (f && fgets(line, sizeof line, f)) {
        if (sscanf(line, "%llx-%llx", &from, &to) == 2)
            inside = (uintptr_t)p >= from && (uintptr_t)p < to;
        if (inside && sscanf(line, "Rss: %llu kB", &kib) == 1) *all = (size_t)kib << 10;
        if (inside && sscanf(line, "AnonHugePages: %llu kB", &kib) == 1) *huge = (size_t)kib << 10;
    }
    if (f) fclose(f);
}

static void test_blocks(void **state)
{
    lgv_block_free(NULL);
    assert_null(lgv_block_alloc(SIZE_MAX - 5));
    for (size_t bytes = 0; bytes < (size_t)40 << 20; bytes = bytes * 3 + 1) {
        unsigned char *a = lgv_block_alloc(bytes);
        assert_non_null(a);
        assert_int_equal((uintptr_t)a % 64, 0);
        for (size_t i = 0; i < bytes; i += 97) assert_int_equal(a[i], 0);
        memset(a, 255, bytes);
        lgv_block_free(a);
    }
}

/* Under the address sanitizer blocks come from its malloc. */
#ifdef __SANITIZE_ADDRESS__
enum { SANITIZED = 1 };
#else
enum { SANITIZED = 0 };
#endif

/* A large block takes no memory before it is touched, then only where it is touched, and in huge pages where the
   kernel has some to give. */
static void test_large_block_is_lazy(void **state)
{
    if (SANITIZED) skip();
    const size_t bytes = ((size_t)64 << 20) + 12345, huge_page = (size_t)2 << 20;
    size_t all, huge;
    unsigned char *a = lgv_block_alloc(bytes);
    assert_non_null(a);
    assert_int_equal((uintptr_t)a % huge_page, 0);
    resident(a, &all, &huge);
    assert_true(all < huge_page);
    a[bytes / 2] = 1;
    resident(a, &all, &huge);
    assert_true(all > 0 && all <= 2 * huge_page);
    memset(a, 1, bytes);
    resident(a, &all, &huge);
    assert_true(all >= bytes && all <= bytes + huge_page);
    print_message("%zu of %zu MiB in huge pages\n", huge >> 20, all >> 20);
    lgv_block_free(a);
}

static void test_fail_after(void **state)
{
    lgv_alloc_fail_after(3);
    void *a = lgv_alloc(1, 1), *b = lgv_zalloc(1, 1), *c = lgv_alloc_aligned(64, 1),
         *d = lgv_alloc(1, 1);
    assert_int_equal(lgv_alloc_fail_after(0), 4);
    assert_true(a && b && !c && d);
    lgv_free(a);
    lgv_free(b);
    lgv_free(d);
    lgv_alloc_fail_after(1);
    assert_null(lgv_strdup("x"));
    lgv_alloc_fail_after(1);
    assert_null(lgv_format("%d", 1));
    lgv_alloc_fail_after(1);
    int *items = NULL;
    size_t capacity = 0;
    lgv_error err;
    assert_int_equal(lgv_grow(&items, &capacity, 1, sizeof *items, &err), LGV_ERR_MEMORY);
    assert_true(!items && !capacity && strlen(err.text) > 10);
    lgv_alloc_fail_after(0);
}

static void test_strings(void **state)
{
    char *a = lgv_strdup("down.0"), *b = lgv_format("%s.%d", a, 7);
    assert_string_equal(b, "down.0.7");
    lgv_free(a);
    lgv_free(b);
    int *items = NULL;
    size_t capacity = 0;
    for (size_t i = 0; i < 1000; i++) {
        assert_int_equal(lgv_grow(&items, &capacity, i + 1, sizeof *items, NULL), LGV_OK);
        items[i] = (int)i;
    }
    for (int i = 0; i < 1000; i++) assert_int_equal(items[i], i);
    assert_int_equal(lgv_grow(&items, &capacity, SIZE_MAX, sizeof *items, NULL), LGV_ERR_MEMORY);
    assert_int_equal(items[999], 999);
    lgv_free(items);
}

static void test_errors(void **state)
{
    lgv_error err;
    assert_int_equal(lgv_fail(NULL, LGV_ERR_IO, "x"), LGV_ERR_IO);
    assert_int_equal(lgv_fail(&err, LGV_ERR_SHAPE, "has %d", 3), LGV_ERR_SHAPE);
    assert_int_equal(lgv_fail_prefix(&err, LGV_ERR_SHAPE, "conv '%s'", "a"), LGV_ERR_SHAPE);
    assert_string_equal(err.text, "conv 'a': has 3");
    memset(err.text, 'x', sizeof err.text - 1);
    err.text[sizeof err.text - 1] = 0;
    lgv_fail_prefix(&err, LGV_ERR_IO, "p");
    assert_true(strlen(err.text) < sizeof err.text);
}

typedef struct counts {
    atomic_int hits[5000];
    int64_t by_thread[64][8]; /* padded; checked for use by one thread at a time */
    atomic_int inside[64];
    int threads;
    atomic_int bad;
} counts;

static void count_block(void *arg, int64_t block, int thread)
{
    counts *c = arg;
    if (thread < 0 || thread >= c->threads || atomic_fetch_add(&c->inside[thread], 1))
        atomic_fetch_add(&c->bad, 1);
    atomic_fetch_add(&c->hits[block], 1);
    c->by_thread[thread][0]++;
    atomic_fetch_sub(&c->inside[thread], 1);
}

static void test_pool_blocks(void **state)
{
    static const int threads[] = {1, 2, 3, 7};
    static const int64_t blocks[] = {0, 1, 2, 3, 8, 100, 5000};
    counts *c = lgv_alloc(1, sizeof *c);
    for (size_t t = 0; t < 4; t++) {
        lgv_pool *pool = NULL;
        assert_int_equal(lgv_pool_new(threads[t], &pool, NULL), LGV_OK);
        assert_int_equal(lgv_pool_threads(pool), threads[t]);
        for (int repeat = 0; repeat < 200; repeat++) {
            int64_t n = blocks[repeat % 7];
            memset(c, 0, sizeof *c);
            c->threads = threads[t];
            lgv_pool_run(pool, n, count_block, c);
            for (int64_t i = 0; i < 5000; i++) assert_int_equal(c->hits[i], i < n);
            int64_t sum = 0;
            for (int i = 0; i < 64; i++) sum += c->by_thread[i][0];
            assert_int_equal(sum, n);
            assert_int_equal(c->bad, 0);
        }
        lgv_pool_free(pool);
    }
    lgv_free(c);
    lgv_pool_free(NULL);
}

static void add_block(void *arg, int64_t block, int thread)
{
    ((int64_t *)arg)[block * 8] += block;
}

/* Many tiny runs back to back, the pattern of a plan, also with more threads than CPUs. */
static void test_pool_short_runs(void **state)
{
    int64_t sums[16 * 8] = {0};
    for (int threads = 2; threads <= 7; threads += 5) {
        lgv_pool *pool = NULL;
        assert_int_equal(lgv_pool_new(threads, &pool, NULL), LGV_OK);
        memset(sums, 0, sizeof sums);
        for (int i = 0; i < 20000; i++) lgv_pool_run(pool, 2 + i % 15, add_block, sums);
        for (int64_t b = 0; b < 16; b++) {
            int64_t runs = 0;
            for (int i = 0; i < 20000; i++) runs += b < 2 + i % 15;
            assert_int_equal(sums[b * 8], b * runs);
        }
        lgv_pool_free(pool);
    }
}

/* An idle pool must sleep: 50 ms of waiting may cost only the spin at its start. */
static void test_pool_idle(void **state)
{
    lgv_pool *pool = NULL;
    int64_t sums[16 * 8] = {0};
    assert_int_equal(lgv_pool_new(7, &pool, NULL), LGV_OK);
    lgv_pool_run(pool, 16, add_block, sums);
    clock_t before = clock();
    nanosleep(&(struct timespec){.tv_nsec = 50 * 1000 * 1000}, NULL);
    assert_true((double)(clock() - before) / CLOCKS_PER_SEC < 0.02);
    lgv_pool_free(pool);
}

static void test_pool_faults(void **state)
{
    lgv_pool *pool = NULL;
    lgv_error err;
    assert_int_equal(lgv_pool_new(0, &pool, &err), LGV_ERR_ARGUMENT);
    for (uint64_t n = 1; n <= 2; n++) {
        lgv_alloc_fail_after(n);
        assert_int_equal(lgv_pool_new(3, &pool, &err), LGV_ERR_MEMORY);
        assert_null(pool);
    }
    lgv_alloc_fail_after(0);
    assert_true(lgv_default_threads() >= 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_alloc),
        cmocka_unit_test(test_blocks),
        cmocka_unit_test(test_large_block_is_lazy),
        cmocka_unit_test(test_fail_after),
        cmocka_unit_test(test_strings),
        cmocka_unit_test(test_errors),
        cmocka_unit_test(test_pool_blocks),
        cmocka_unit_test(test_pool_short_runs),
        cmocka_unit_test(test_pool_idle),
        cmocka_unit_test(test_pool_faults),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
