/* peak.c - measures the peaks that shares and floors refer to, on all threads of a device at once. */
#include "cpu.h"

#include <string.h>

#include "core/file.h"

enum {
    STREAM_MIB = 32, /* for each of the two streams of a thread: beyond the caches */
    TRIES = 12
};

typedef struct measured {
    const lgv_peak_loops *loops;
    int64_t rounds;
    bool matrix;
    char *from, *to;
    double *sink; /* per block, so that no loop can be left out */
} measured;

static void run_fma(void *arg, int64_t block, int thread)
{
    const measured *m = arg;
    (void)thread;
    m->sink[block] = (m->matrix ? m->loops->matrix : m->loops->fma)(m->rounds);
}

static void run_stream(void *arg, int64_t block, int thread)
{
    const measured *m = arg;
    const int64_t bytes = (int64_t)STREAM_MIB << 20;
    (void)thread;
    m->loops->stream(m->to + block * bytes, m->from + block * bytes, bytes);
}

static double seconds(const lgv_device *d, void (*fn)(void *arg, int64_t block, int thread),
                      measured *m)
{
    double start = lgv_now();
    lgv_pool_run(d->pool, d->threads, fn, m);
    return lgv_now() - start;
}

static double best(const lgv_device *d, void (*fn)(void *arg, int64_t block, int thread),
                   measured *m)
{
    double least = 1e30;
    for (int i = 0; i < TRIES; i++) {
        double s = seconds(d, fn, m);
        if (s < least) least = s;
    }
    return least;
}

/* The rounds are doubled until they take long enough for the clock. */
static double flops(const lgv_device *d, measured *m, double per_round)
{
    m->rounds = 1 << 10;
    while (seconds(d, run_fma, m) < 5e-3 && m->rounds < (int64_t)1 << 40) m->rounds *= 2;
    return per_round * (double)m->rounds * d->threads / best(d, run_fma, m);
}

lgv_status lgv_cpu_peaks(lgv_device *d, const lgv_peak_loops *loops, lgv_peaks *out, lgv_error *err)
{
    const size_t bytes = ((size_t)STREAM_MIB << 20) * (size_t)d->threads;
    measured m = {.loops = loops};
    lgv_status status = LGV_OK;
    m.from = lgv_block_alloc(bytes);
    m.to = lgv_block_alloc(bytes);
    m.sink = lgv_zalloc((size_t)d->threads, sizeof *m.sink);
    if (m.from && m.to && m.sink) {
        *out = (lgv_peaks){.flops = flops(d, &m, loops->flops)};
        m.matrix = loops->matrix != NULL;
        if (m.matrix) out->matrix_flops = flops(d, &m, loops->matrix_flops);
        memset(m.from, 1, bytes); /* untouched pages would all be the one page of zeros */
        out->bytes = 2.0 * (double)bytes / best(d, run_stream, &m);
    } else {
        status =
            lgv_fail(err, LGV_ERR_MEMORY, "out of memory while measuring the peaks of %s", d->name);
    }
    lgv_block_free(m.from);
    lgv_block_free(m.to);
    lgv_free(m.sink);
    return status;
}
