/* fma_peak.h - the fused multiply-adds of one thread, in FLOP/s, at the level of a device: chains in
   registers, no memory. Best of a few short runs, since clocks rise under load. */
#ifndef LGV_BENCH_FMA_PEAK_H
#define LGV_BENCH_FMA_PEAK_H

#include <immintrin.h>
#include <string.h>
#include <time.h>

static inline double bench_clock(clockid_t kind)
{
    struct timespec t;
    clock_gettime(kind, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

enum { FMA_CHAINS = 12, FMA_ROUNDS = 400000 };

__attribute__((target("avx2,fma"))) static inline float fma_avx2(void)
{
    __m256 a[FMA_CHAINS], x = _mm256_set1_ps(0.5f), y = _mm256_set1_ps(0.25f);
    for (int i = 0; i < FMA_CHAINS; i++) a[i] = _mm256_set1_ps((float)i);
    for (int k = 0; k < FMA_ROUNDS; k++) {
#pragma GCC unroll 16
        for (int i = 0; i < FMA_CHAINS; i++) a[i] = _mm256_fmadd_ps(a[i], x, y);
    }
    for (int i = 1; i < FMA_CHAINS; i++) a[0] = _mm256_add_ps(a[0], a[i]);
    return _mm256_cvtss_f32(a[0]);
}

__attribute__((target("avx512f"))) static inline float fma_avx512(void)
{
    __m512 a[FMA_CHAINS], x = _mm512_set1_ps(0.5f), y = _mm512_set1_ps(0.25f);
    for (int i = 0; i < FMA_CHAINS; i++) a[i] = _mm512_set1_ps((float)i);
    for (int k = 0; k < FMA_ROUNDS; k++) {
#pragma GCC unroll 16
        for (int i = 0; i < FMA_CHAINS; i++) a[i] = _mm512_fmadd_ps(a[i], x, y);
    }
    for (int i = 1; i < FMA_CHAINS; i++) a[0] = _mm512_add_ps(a[0], a[i]);
    return _mm512_cvtss_f32(a[0]);
}

/* device: "cpu:avx2" ... */
static inline double fma_peak(const char *device)
{
    int wide = strstr(device, "avx512") || strstr(device, "amx");
    double best = 0;
    volatile float sink;
    for (int i = 0; i < 3; i++) {
        double start = bench_clock(CLOCK_PROCESS_CPUTIME_ID);
        sink = wide ? fma_avx512() : fma_avx2();
        double rate = (wide ? 32.0 : 16.0) * FMA_CHAINS * FMA_ROUNDS /
                      (bench_clock(CLOCK_PROCESS_CPUTIME_ID) - start);
        best = rate > best ? rate : best;
    }
    (void)sink;
    return best;
}

#endif
