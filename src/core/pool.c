/* pool.c - the thread pool.
   One 64-bit word tells the state of the current run: its number, whether it is open, and how many
   workers are inside. The caller closes the run once every block is taken and waits only for the
   workers inside, so a worker that slept through a short run costs nothing. */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "file.h"
#include "pool.h"

#define RUN_OPEN          ((uint64_t)1 << 31)
#define RUN_INSIDE        (RUN_OPEN - 1)
#define RUN_NUMBER(state) ((uint32_t)((state) >> 32))

/* Long enough to bridge the gap between two nodes of a plan, short enough not to be felt as load.
 */
static const double spin_seconds = 40e-6;

typedef struct worker {
    lgv_pool *pool;
    pthread_t id;
    int index;
} worker;

/* Blocks [next, end) of a thread are not yet taken. A cache line of its own. */
typedef struct share {
    _Alignas(64) atomic_int_fast64_t next;
    int64_t end;
} share;

struct lgv_pool {
    _Alignas(64) atomic_uint_fast64_t state; /* number << 32 | open << 31 | workers inside */
    _Alignas(64) void (*fn)(void *arg, int64_t block, int thread);
    void *arg;
    int threads, started;
    bool spin;
    atomic_bool stop;
    atomic_int sleepers;     /* workers asleep or about to be */
    atomic_bool owner_waits; /* the caller is asleep until the last worker leaves */
    pthread_mutex_t lock;
    pthread_cond_t wake, done;
    worker *workers; /* [threads - 1] */
    share *shares;   /* [threads] */
};

static inline void cpu_relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* The thread's own blocks, then what the others have left. */
static void work(lgv_pool *pool, int thread)
{
    for (int i = 0; i < pool->threads; i++) {
        share *s = &pool->shares[(thread + i) % pool->threads];
        while (atomic_load_explicit(&s->next, memory_order_relaxed) < s->end) {
            int64_t block = atomic_fetch_add_explicit(&s->next, 1, memory_order_relaxed);
            if (block < s->end) pool->fn(pool->arg, block, thread);
        }
    }
}

static bool has_new_run(lgv_pool *pool, uint32_t last)
{
    return RUN_NUMBER(atomic_load(&pool->state)) != last || atomic_load(&pool->stop);
}

/* Returns when the run number differs from `last` or the pool stops. */
static void wait_for_run(lgv_pool *pool, uint32_t last)
{
    if (pool->spin) {
        double end = lgv_now() + spin_seconds;
        do {
            for (int i = 0; i < 32; i++) {
                if (has_new_run(pool, last)) return;
                cpu_relax();
            }
        } while (lgv_now() < end);
    }
    pthread_mutex_lock(&pool->lock);
    /* The caller changes the state first and reads `sleepers` after; here it is the other way
       round, so one of the two sees the other (both are sequentially consistent). */
    atomic_fetch_add(&pool->sleepers, 1);
    while (!has_new_run(pool, last)) pthread_cond_wait(&pool->wake, &pool->lock);
    atomic_fetch_sub(&pool->sleepers, 1);
    pthread_mutex_unlock(&pool->lock);
}

/* Enters the current run if it is still open; its number goes to *last either way. */
static bool enter_run(lgv_pool *pool, uint32_t *last)
{
    uint_fast64_t state = atomic_load(&pool->state);
    for (;;) {
        *last = RUN_NUMBER(state);
        if (!(state & RUN_OPEN)) return false;
        if (atomic_compare_exchange_weak(&pool->state, &state, state + 1)) return true;
    }
}

static void leave_run(lgv_pool *pool)
{
    uint64_t state = atomic_fetch_sub(&pool->state, 1) - 1;
    if ((state & (RUN_OPEN | RUN_INSIDE)) || !atomic_load(&pool->owner_waits)) return;
    pthread_mutex_lock(&pool->lock);
    pthread_cond_signal(&pool->done);
    pthread_mutex_unlock(&pool->lock);
}

static void *worker_main(void *arg)
{
    worker *self = arg;
    lgv_pool *pool = self->pool;
    uint32_t last = 0;
    for (;;) {
        wait_for_run(pool, last);
        if (atomic_load(&pool->stop)) return NULL;
        if (!enter_run(pool, &last)) continue;
        work(pool, self->index);
        leave_run(pool);
    }
}

static bool workers_inside(lgv_pool *pool)
{
    return atomic_load(&pool->state) & RUN_INSIDE;
}

static void wait_for_workers(lgv_pool *pool)
{
    if (pool->spin) {
        double end = lgv_now() + spin_seconds;
        do {
            for (int i = 0; i < 32; i++) {
                if (!workers_inside(pool)) return;
                cpu_relax();
            }
        } while (lgv_now() < end);
    }
    if (!workers_inside(pool)) return;
    pthread_mutex_lock(&pool->lock);
    atomic_store(&pool->owner_waits, true);
    while (workers_inside(pool)) pthread_cond_wait(&pool->done, &pool->lock);
    atomic_store(&pool->owner_waits, false);
    pthread_mutex_unlock(&pool->lock);
}

void lgv_pool_run(lgv_pool *pool, int64_t blocks, void (*fn)(void *arg, int64_t block, int thread),
                  void *arg)
{
    if (pool->threads == 1 || blocks <= 1) {
        for (int64_t block = 0; block < blocks; block++) fn(arg, block, 0);
        return;
    }
    pool->fn = fn;
    pool->arg = arg;
    for (int i = 0; i < pool->threads; i++) {
        pool->shares[i].end = lgv_pool_share(blocks, pool->threads, i + 1);
        atomic_store_explicit(&pool->shares[i].next, lgv_pool_share(blocks, pool->threads, i),
                              memory_order_relaxed);
    }
    uint64_t number = RUN_NUMBER(atomic_load(&pool->state)) + (uint64_t)1;
    atomic_store(&pool->state, (number & UINT32_MAX) << 32 | RUN_OPEN);
    int sleepers = atomic_load(&pool->sleepers);
    if (sleepers > 0) {
        pthread_mutex_lock(&pool->lock);
        if (blocks > sleepers)
            pthread_cond_broadcast(&pool->wake);
        else
            for (int64_t i = 1; i < blocks; i++) pthread_cond_signal(&pool->wake);
        pthread_mutex_unlock(&pool->lock);
    }
    work(pool, 0);
    atomic_fetch_and(&pool->state, ~RUN_OPEN);
    wait_for_workers(pool);
}

int lgv_pool_threads(const lgv_pool *pool)
{
    return pool->threads;
}

void lgv_pool_free(lgv_pool *pool)
{
    if (!pool) return;
    pthread_mutex_lock(&pool->lock);
    atomic_store(&pool->stop, true);
    pthread_cond_broadcast(&pool->wake);
    pthread_mutex_unlock(&pool->lock);
    for (int i = 0; i < pool->started; i++) pthread_join(pool->workers[i].id, NULL);
    pthread_cond_destroy(&pool->wake);
    pthread_cond_destroy(&pool->done);
    pthread_mutex_destroy(&pool->lock);
    lgv_free(pool->workers);
    lgv_free(pool->shares);
    lgv_free(pool);
}

/* CPUs this process may run on. */
static int usable_cpus(void)
{
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    return online > 0 && online < 1 << 20 ? (int)online : 1;
}

lgv_status lgv_pool_new(int threads, lgv_pool **out, lgv_error *err)
{
    if (threads < 1 || threads > 4096)
        return lgv_fail(err, LGV_ERR_ARGUMENT, "thread pool: %d threads; give 1 to 4096", threads);
    lgv_pool *pool = lgv_alloc_aligned(64, sizeof *pool);
    if (!pool) return lgv_fail(err, LGV_ERR_MEMORY, "thread pool: out of memory");
    pool->threads = threads;
    pool->spin = threads <= usable_cpus();
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->wake, NULL);
    pthread_cond_init(&pool->done, NULL);
    pool->workers = lgv_zalloc((size_t)threads - 1, sizeof *pool->workers);
    pool->shares = lgv_alloc_aligned(64, (size_t)threads * sizeof *pool->shares);
    if (!pool->workers || !pool->shares) {
        lgv_pool_free(pool);
        return lgv_fail(err, LGV_ERR_MEMORY, "thread pool: out of memory");
    }
    for (int i = 0; i < threads - 1; i++) {
        worker *w = &pool->workers[i];
        *w = (worker){.pool = pool, .index = i + 1};
        int code = pthread_create(&w->id, NULL, worker_main, w);
        if (code) {
            lgv_pool_free(pool);
            return lgv_fail(
                err, LGV_ERR_MEMORY,
                "thread pool: thread %d of %d cannot be started (%s); use fewer threads", i + 1,
                threads, strerror(code));
        }
        pool->started = i + 1;
    }
    *out = pool;
    return LGV_OK;
}
