/* rng.c - counter-based random numbers.
   Packing: key = seed. Counter words: 0 = element block (bits 0..31), 1 = stream, 2 = sample (bits
   0..31), 3 = sample (bits 32..39) << 24 | step (bits 0..23). What does not fit (block >> 32,
   sample >> 40, step >> 24; all zero in practice) is hashed into the key.
   A block is four 32-bit words. Words 4b .. 4b+3 of the u32 and uniform sequences, and the four
   normals 4b .. 4b+3 (one Box-Muller pair from words 0, 1 and one from 2, 3), come from block b; so
   element i depends on the key and i only, not on where a call starts. The transform uses float
   additions, multiplications, divisions and square roots in a written order: the same bits
   everywhere, whether the compiler vectorises the loops or not. */
#include <math.h>
#include <string.h>

#include "bits.h"
#include "core.h"
#include "philox.h"
#include "langevin/rng.h"

enum { batch_blocks = 16, batch = 4 * batch_blocks };

/* Steele, Lea, Flood, "Fast splittable pseudorandom number generators" (2014), the finaliser. */
static uint64_t mix(uint64_t z)
{
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9;
    z = (z ^ z >> 27) * 0x94D049BB133111EB;
    return z ^ z >> 31;
}

static void block_words(const lgv_rng_key *key, uint64_t block, uint32_t out[4])
{
    uint64_t seed = key->seed;
    uint64_t over[3] = {block >> 32, key->sample >> 40, key->step >> 24};
    if (over[0] | over[1] | over[2])
        for (int i = 0; i < 3; i++) seed = mix(seed + 0x9E3779B97F4A7C15) ^ over[i];
    uint32_t counter[4] = {(uint32_t)block, key->stream, (uint32_t)key->sample,
                           (uint32_t)(key->sample >> 32 & 0xff) << 24 |
                               (uint32_t)(key->step & 0xffffff)};
    uint32_t k[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};
    lgv_philox(counter, k, out);
}

uint32_t lgv_rng_stream(const char *name)
{
    uint32_t h = 0x811c9dc5; /* FNV-1a, then a finaliser because short names differ in few bits */
    for (; *name; name++) h = (h ^ (unsigned char)*name) * 0x01000193;
    h = (h ^ h >> 16) * 0x85ebca6b;
    h = (h ^ h >> 13) * 0xc2b2ae35;
    return h ^ h >> 16;
}

uint32_t lgv_rng_u32(const lgv_rng_key *key, uint64_t index)
{
    uint32_t words[4];
    block_words(key, index / 4, words);
    return words[index % 4];
}

uint64_t lgv_rng_below(const lgv_rng_key *key, uint64_t index, uint64_t bound)
{
    uint32_t words[4];
    block_words(key, index / 2, words);
    const uint32_t *w = words + 2 * (index % 2);
    uint64_t high = w[0], low = w[1];
    /* (high:low) * bound >> 64 from 32-bit halves: no 128-bit type needed. */
    uint64_t b1 = bound >> 32, b0 = bound & 0xffffffff;
    uint64_t middle = high * b0 + (low * b0 >> 32);
    uint64_t cross = low * b1 + (middle & 0xffffffff);
    return high * b1 + (middle >> 32) + (cross >> 32);
}

/* sqrt(-2 ln u), u = (word >> 8 + 1) 2^-24 in (0, 1]. With u = 2^k (1 + f),
   s = f / (2 + f): ln(1 + f) = f - (f^2/2 - s (f^2/2 + R)), R = 2/3 s^2 + 2/5 s^4 + ... */
static inline float radius(uint32_t word)
{
    float u = (float)(int32_t)((word >> 8) + 1) * 0x1p-24f;
    float k, f = lgv_split_power(u, &k);
    float s = f / (2.0f + f), z = s * s, h = 0.5f * f * f;
    float r =
        z * (0x1.555556p-1f + z * (0x1.99999ap-2f + z * (0x1.24924ap-2f + z * 0x1.c71c72p-3f)));
    float log_m = f - (h - s * (h + r));
    /* ln 2 = 0x1.62e4p-1 + 0x1.7f7d1cp-20; the first product is exact */
    float log_u = k * 0x1.62e4p-1f + (k * 0x1.7f7d1cp-20f + log_m);
    return sqrtf(0.0f - 2.0f * log_u);
}

/* sine and cosine of 2 pi (word >> 8) 2^-24: the nearest quarter turn is taken off in integers, the
   rest (at most pi/4) goes into the Taylor series; quarters swap and negate. */
static inline void turn(uint32_t word, float *sine, float *cosine)
{
    int32_t a = (int32_t)(word >> 8), quarter = (a + (1 << 21)) >> 22;
    float x = (float)(a - (quarter << 22)) * 0x1.921fb6p-22f, z = x * x;
    float s = x + x * z *
                      (-0x1.555556p-3f +
                       z * (0x1.111112p-7f + z * (-0x1.a01a02p-13f + z * 0x1.71de3ap-19f)));
    float c =
        1.0f - (0.5f * z - z * z * (0x1.555556p-5f + z * (-0x1.6c16c2p-10f + z * 0x1.a01a02p-16f)));
    lgv_turn_quarters(quarter, s, c, sine, cosine);
}

/* The 64 normals of 16 blocks. Separate loops of constant length, so that they vectorise. */
static void normal_batch(const lgv_rng_key *key, uint64_t block, float out[batch])
{
    uint32_t a[batch / 2], b[batch / 2];
    float x[batch / 2], y[batch / 2];
    for (int i = 0; i < batch_blocks; i++) {
        uint32_t words[4];
        block_words(key, block + (uint64_t)i, words);
        a[2 * i] = words[0];
        b[2 * i] = words[1];
        a[2 * i + 1] = words[2];
        b[2 * i + 1] = words[3];
    }
    for (int i = 0; i < batch / 2; i++) {
        float r = radius(a[i]), s, c;
        turn(b[i], &s, &c);
        x[i] = r * c;
        y[i] = r * s;
    }
    for (int i = 0; i < batch / 2; i++) {
        out[2 * i] = x[i];
        out[2 * i + 1] = y[i];
    }
}

static void uniform_batch(const lgv_rng_key *key, uint64_t block, float out[batch])
{
    for (int i = 0; i < batch_blocks; i++) {
        uint32_t words[4];
        block_words(key, block + (uint64_t)i, words);
        for (int j = 0; j < 4; j++) out[4 * i + j] = (float)(int32_t)(words[j] >> 8) * 0x1p-24f;
    }
}

/* Elements first .. first+n-1 from batches that start at multiples of a block. */
static void fill(const lgv_rng_key *key, uint64_t first, int64_t n, float *out,
                 void (*make)(const lgv_rng_key *, uint64_t, float *))
{
    float values[batch];
    while (n > 0) {
        int64_t skip = (int64_t)(first % 4), take = lgv_min_i64(n, batch - skip);
        make(key, first / 4, values);
        memcpy(out, values + skip, (size_t)take * sizeof *out);
        out += take;
        first += (uint64_t)take;
        n -= take;
    }
}

void lgv_rng_uniform(const lgv_rng_key *key, uint64_t first, int64_t n, float *out)
{
    fill(key, first, n, out, uniform_batch);
}

void lgv_rng_normal(const lgv_rng_key *key, uint64_t first, int64_t n, float *out)
{
    fill(key, first, n, out, normal_batch);
}
