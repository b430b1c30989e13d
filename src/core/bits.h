/* bits.h - floats as integers, for code without branches that the compiler can vectorise. */
#ifndef LGV_BITS_H
#define LGV_BITS_H

#include <stdint.h>
#include <string.h>

static inline float lgv_float_from(int32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static inline int32_t lgv_bits_from(float x)
{
    int32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

/* Positive u = 2^*k * (1 + result), 1 + result in [sqrt(1/2), sqrt 2); the result is exact. */
static inline float lgv_split_power(float u, float *k)
{
    const int32_t root_half = 0x3f3504f3;
    int32_t i = lgv_bits_from(u) - root_half;
    *k = (float)(i >> 23);
    return lgv_float_from((i & 0x7fffff) + root_half) - 1.0f;
}

/* Sine and cosine of r + quarter * pi/2 from those of r. */
static inline void lgv_turn_quarters(int32_t quarter, float s, float c, float *sine, float *cosine)
{
    int32_t si = lgv_bits_from(s), ci = lgv_bits_from(c), exchange = (si ^ ci) & -(quarter & 1);
    int32_t negate_sine = (int32_t)((uint32_t)(quarter & 2) << 30);
    int32_t negate_cosine = (int32_t)((uint32_t)((quarter + 1) & 2) << 30);
    *sine = lgv_float_from(si ^ exchange ^ negate_sine);
    *cosine = lgv_float_from(ci ^ exchange ^ negate_cosine);
}

/* The nearest bf16 and f16, ties to even; NaN stays NaN, and beyond the largest f16 lies infinity. */
static inline uint16_t lgv_bf16_from(float x)
{
    uint32_t bits = (uint32_t)lgv_bits_from(x);
    if ((bits & 0x7fffffff) > 0x7f800000) return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static inline uint16_t lgv_f16_from(float x)
{
    uint32_t bits = (uint32_t)lgv_bits_from(x), sign = bits >> 16 & 0x8000,
             rest = bits & 0x7fffffff;
    if (rest > 0x7f800000) return (uint16_t)(sign | 0x7e00);
    if (rest >= 0x47800000) return (uint16_t)(sign | 0x7c00); /* 65536 and more */
    if (rest < 0x38800000) { /* subnormal: a multiple of 2^-24, by one addition */
        float shifted = lgv_float_from((int32_t)rest) + 0.5f; /* whose last bit is 2^-24 */
        return (uint16_t)(sign | ((uint32_t)lgv_bits_from(shifted) - 0x3f000000));
    }
    return (uint16_t)(sign | ((rest - 0x38000000 + 0xfff + (rest >> 13 & 1)) >> 13));
}

#endif
