/* peak.c - the best a level can do: multiply-adds that touch no memory, and a stream that does nothing else.
   Shares of a peak are shares of these. */
#include "cpu/peak.h"
#include "cpu/simd.h"

/* Independent sums, enough to fill two units with a latency of four or five cycles. */
enum { CHAINS = 12 };

static double fma_loop(int64_t rounds)
{
    vreal sum[CHAINS];
    const vreal x = v_set1((real)0.999), y = v_set1((real)0.001);
    LGV_UNROLL
    for (int c = 0; c < CHAINS; c++) sum[c] = v_set1((real)c);
    for (int64_t i = 0; i < rounds; i++) {
        LGV_UNROLL
        for (int c = 0; c < CHAINS; c++) sum[c] = v_fma(sum[c], x, y);
    }
    real lanes[VL], total = 0;
    LGV_UNROLL
    for (int c = 1; c < CHAINS; c++) sum[0] = v_add(sum[0], sum[c]);
    v_store(lanes, sum[0]);
    for (int i = 0; i < VL; i++) total += lanes[i];
    return (double)total;
}

static void stream(void *y, const void *x, int64_t bytes)
{
    real *out = y;
    const real *in = x;
    const vreal half = v_set1((real)0.5);
    for (int64_t i = 0; i < bytes / (int64_t)sizeof(real); i += VL)
        v_store(out + i, v_mul(v_load(in + i), half));
}

extern const lgv_peak_loops LGV_TABLE(peak);
const lgv_peak_loops LGV_TABLE(peak) = {
    .fma = fma_loop, .flops = 2.0 * CHAINS * VL, .stream = stream};
