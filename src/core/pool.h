/* pool.h - a thread pool that hands numbered blocks to threads.
   A thread takes the blocks of its own share in their order, then what others have left: with blocks in the order of
   memory, what a thread reads is what it wrote in the run before and still has in its cache. Which thread runs a
   block never changes a result: a block writes only to its own place. */
#ifndef LGV_POOL_H
#define LGV_POOL_H

#include "core.h"

typedef struct lgv_pool lgv_pool;

/* threads >= 1; the calling thread is thread 0, so threads-1 are started. */
lgv_status lgv_pool_new(int threads, lgv_pool **out, lgv_error *err);
void lgv_pool_free(lgv_pool *pool);
int lgv_pool_threads(const lgv_pool *pool);

/* Thread t's share of the blocks begins at lgv_pool_share(blocks, threads, t) and ends where the next one's begins. */
static inline int64_t lgv_pool_share(int64_t blocks, int threads, int thread)
{
    return blocks / threads * thread + blocks % threads * thread / threads;
}

/* Calls fn(arg, block, thread) once for each block in [0, blocks), thread in [0, threads); returns
   when all are done. One run at a time per pool. No allocation. Workers spin briefly, then sleep. */
void lgv_pool_run(lgv_pool *pool, int64_t blocks, void (*fn)(void *arg, int64_t block, int thread),
                  void *arg);

/* min(physical cores, affinity mask, cgroup CPU quota), at least 1. */
int lgv_default_threads(void);

#endif
