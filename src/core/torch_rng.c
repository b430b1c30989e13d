/* torch_rng.c - PyTorch's CPU generator, call for call.
   MT19937 (Matsumoto, Nishimura 1998) seeded with 32 bits, and the way PyTorch spends its words:
   - float uniform: 24 low bits of one word; 64 bits: two words, the first is the high half.
   - normal, fewer than 16: Box-Muller in double from 53-bit uniforms, two words each; the sine is
   kept for the next such call. 16 and more: n uniforms, then Box-Muller in float over blocks of 16
   (element j with j + 8); a tail shorter than 16 redraws the last 16 elements, so those before it
   change too.
   - integers below 2^28: one word modulo the bound; above: 64 bits modulo the bound.
   The float normals follow the polynomials, the order of operations and the fused multiply-adds of
   PyTorch's AVX2 build, so they have its bits; its other builds differ from it in the last places.
 */
#include <math.h>
#include <string.h>

#include "bits.h"
#include "core.h"
#include "elementary.h"
#include "langevin/rng.h"

enum { words = 624, shift = 397 };

void lgv_torch_seed(lgv_torch_rng *rng, uint64_t seed)
{
    *rng = (lgv_torch_rng){.left = 1, .seed = seed};
    rng->mt[0] = (uint32_t)seed;
    for (uint32_t i = 1; i < words; i++)
        rng->mt[i] = 1812433253u * (rng->mt[i - 1] ^ rng->mt[i - 1] >> 30) + i;
}

static uint32_t twist(uint32_t high, uint32_t low)
{
    uint32_t mixed = (high & 0x80000000) | (low & 0x7fffffff);
    return mixed >> 1 ^ (0x9908b0df & -(low & 1));
}

static void regenerate(lgv_torch_rng *rng)
{
    uint32_t *mt = rng->mt;
    for (int i = 0; i < words - shift; i++) mt[i] = mt[i + shift] ^ twist(mt[i], mt[i + 1]);
    for (int i = words - shift; i < words - 1; i++)
        mt[i] = mt[i + shift - words] ^ twist(mt[i], mt[i + 1]);
    mt[words - 1] = mt[shift - 1] ^ twist(mt[words - 1], mt[0]);
    rng->left = words;
    rng->next = 0;
}

uint32_t lgv_torch_u32(lgv_torch_rng *rng)
{
    if (--rng->left <= 0) regenerate(rng);
    uint32_t y = rng->mt[rng->next++];
    y ^= y >> 11;
    y ^= y << 7 & 0x9d2c5680;
    y ^= y << 15 & 0xefc60000;
    return y ^ y >> 18;
}

uint64_t lgv_torch_u64(lgv_torch_rng *rng)
{
    uint64_t high = lgv_torch_u32(rng);
    return high << 32 | lgv_torch_u32(rng);
}

static float uniform_float(lgv_torch_rng *rng)
{
    return (float)(int32_t)(lgv_torch_u32(rng) & 0xffffff) * 0x1p-24f;
}

static double uniform_double(lgv_torch_rng *rng)
{
    return (double)(lgv_torch_u64(rng) & (((uint64_t)1 << 53) - 1)) * 0x1p-53;
}

void lgv_torch_rand(lgv_torch_rng *rng, int64_t n, float *out)
{
    for (int64_t i = 0; i < n; i++) out[i] = uniform_float(rng);
}

void lgv_torch_uniform(lgv_torch_rng *rng, int64_t n, float low, float high, float *out)
{
    double width = high - low; /* the difference is rounded to float, the rest is done in double */
    for (int64_t i = 0; i < n; i++) out[i] = (float)(uniform_float(rng) * width + low);
}

static double normal_double(lgv_torch_rng *rng)
{
    if (rng->has_cached) {
        rng->has_cached = 0;
        return rng->cached;
    }
    double u1 = uniform_double(rng), u2 = uniform_double(rng), s, c;
    double r = lgv_sqrt(-2 * lgv_log1p(-u2));
    lgv_sincos(6.283185307179586 * u1, &s, &c);
    rng->cached = r * s;
    rng->has_cached = 1;
    return r * c;
}

/* a * b + c rounded once, as the processors do on which PyTorch runs. The product of two floats is
   exact in double; rounding the sum to double first changes the result about once in 2^29. */
static inline float fused(float a, float b, float c)
{
    return (float)((double)a * b + c);
}

/* ln u for u in [2^-24, 1]: u = 2^e (1 + x); the polynomial of Cephes' logf (Moshier,
   "Methods and programs for mathematical functions", 1989) in the order in which PyTorch's AVX2
   build evaluates it. */
static inline float torch_log(float u)
{
    float e, x = lgv_split_power(u, &e), z = x * x;
    float y = 7.0376836292e-2f;
    y = fused(y, x, -1.1514610310e-1f);
    y = fused(y, x, 1.1676998740e-1f);
    y = fused(y, x, -1.2420140846e-1f);
    y = fused(y, x, 1.4249322787e-1f);
    y = fused(y, x, -1.6668057665e-1f);
    y = fused(y, x, 2.0000714765e-1f);
    y = fused(y, x, -2.4999993993e-1f);
    y = fused(y, x, 3.3333331174e-1f);
    y = fused(y * x, z, e * -2.12194440e-4f);
    y = y - 0.5f * z;
    return fused(e, 0.693359375f, x + y);
}

/* sin and cos of x in [0, 2 pi]: Cephes' sinf and cosf, likewise. */
static inline void torch_sincos(float x, float *sine, float *cosine)
{
    int32_t octant = ((int32_t)(x * 1.27323954473516f) + 1) & ~1;
    float y = (float)octant;
    x = fused(y, -0.78515625f, x);
    x = fused(y, -2.4187564849853515625e-4f, x);
    x = fused(y, -3.77489497744594108e-8f, x);
    float z = x * x;
    float c = fused(2.443315711809948e-5f, z, -1.388731625493765e-3f);
    c = fused(c, z, 4.166664568298827e-2f) * z;
    c = fused(c, z, -0.5f * z) + 1.0f;
    float s = fused(-1.9515295891e-4f, z, 8.3321608736e-3f);
    s = fused(s, z, -1.6666654611e-1f) * z;
    s = fused(s, x, x);
    lgv_turn_quarters(octant >> 1, s, c, sine, cosine);
}

/* Sixteen uniforms become sixteen normals. */
static void normal_block(float d[16], float mean, float std)
{
    float x[8], y[8];
    for (int j = 0; j < 8; j++) {
        float r = sqrtf(-2.0f * torch_log(1.0f - d[j])), s, c;
        torch_sincos(6.283185307179586f * d[j + 8], &s, &c);
        x[j] = fused(r * c, std, mean);
        y[j] = fused(r * s, std, mean);
    }
    memcpy(d, x, sizeof x);
    memcpy(d + 8, y, sizeof y);
}

void lgv_torch_normal(lgv_torch_rng *rng, int64_t n, float mean, float std, float *out)
{
    if (n < 16) {
        for (int64_t i = 0; i < n; i++) out[i] = (float)(normal_double(rng) * std + mean);
        return;
    }
    lgv_torch_rand(rng, n, out);
    for (int64_t i = 0; i + 16 <= n; i += 16) normal_block(out + i, mean, std);
    if (n % 16) {
        lgv_torch_rand(rng, 16, out + n - 16);
        normal_block(out + n - 16, mean, std);
    }
}

void lgv_torch_randn(lgv_torch_rng *rng, int64_t n, float *out)
{
    lgv_torch_normal(rng, n, 0, 1, out);
}

void lgv_torch_randint(lgv_torch_rng *rng, uint64_t bound, int64_t n, int64_t *out)
{
    if (bound < (uint64_t)1 << 28)
        for (int64_t i = 0; i < n; i++) out[i] = bound ? (int64_t)(lgv_torch_u32(rng) % bound) : 0;
    else
        for (int64_t i = 0; i < n; i++) out[i] = (int64_t)(lgv_torch_u64(rng) % bound);
}

void lgv_torch_randperm(lgv_torch_rng *rng, int64_t n, int64_t *out)
{
    if (n >= UINT32_MAX /
                 20) { /* 32 bits would be visibly uneven: 64 bits, and the inside-out shuffle */
        for (int64_t i = 0; i < n; i++) {
            int64_t z = (int64_t)(lgv_torch_u64(rng) % (uint64_t)(i + 1));
            out[i] = i;
            out[i] = out[z];
            out[z] = i;
        }
        return;
    }
    for (int64_t i = 0; i < n; i++) out[i] = i;
    for (int64_t i = 0; i < n - 1; i++) {
        int64_t z = i + (int64_t)(lgv_torch_u32(rng) % (uint64_t)(n - i)), t = out[i];
        out[i] = out[z];
        out[z] = t;
    }
}

void lgv_torch_loader_order(lgv_torch_rng *rng, int64_t n, int64_t *order)
{
    lgv_torch_rng sampler;
    (void)lgv_torch_u64(rng); /* the base seed of worker processes */
    lgv_torch_seed(&sampler, lgv_torch_u64(rng) & INT64_MAX);
    lgv_torch_randperm(&sampler, n, order);
}
