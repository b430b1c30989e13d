/* simd.h - one vector abstraction over the levels a kernel file is compiled for.
   A kernel is written once with `real`, `vreal` (VL lanes) and the v_ functions; CMakeLists.txt compiles
   it once per level with LGV_LEVEL (the name) and LGV_LEVEL_<NAME> defined. At one level every function
   gives the same bits always: sums have a fixed tree, elementary functions are our own polynomials
   (f64, the reference of the gradient checks, uses libm).
   The element type of LGV_F32 values is `real`: double at level f64. */
#ifndef LGV_SIMD_H
#define LGV_SIMD_H

#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "core/elementary.h"

/* Tables of a kernel file: const lgv_kernel_list LGV_TABLE(linear) = {kernels, count}; */
#define LGV_PASTE2(family, level) lgv_kernels_##family##_##level
#define LGV_PASTE(family, level)  LGV_PASTE2(family, level)
#define LGV_TABLE(family)         LGV_PASTE(family, LGV_LEVEL)

#if defined(LGV_LEVEL_AVX2) || defined(LGV_LEVEL_AMX_EMULATED)
#define LGV_VECTOR 8
#elif defined(LGV_LEVEL_AVX512) || defined(LGV_LEVEL_AMX)
#define LGV_VECTOR 16
#elif defined(LGV_LEVEL_NEON)
#error "simd.h: the NEON level is not written yet"
#else
#define LGV_VECTOR 1
#endif

#ifdef LGV_LEVEL_F64
typedef double real;
#else
typedef float real;
#endif

enum { VL = LGV_VECTOR };

/* Small constant loops whose arrays must live in registers; functions whose constant arguments must fold. */
#if defined(__clang__)
#define LGV_UNROLL _Pragma("clang loop unroll(full)")
#else
#define LGV_UNROLL _Pragma("GCC unroll 64")
#endif
#define LGV_FOLD static inline __attribute__((always_inline))

static inline real bf16_to_real(uint16_t b)
{
    uint32_t u = (uint32_t)b << 16;
    float f;
    memcpy(&f, &u, sizeof f);
    return (real)f;
}

/* Round to nearest even; NaN stays NaN. */
static inline uint16_t real_to_bf16(real x)
{
    float f = (float)x;
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    if ((u & 0x7fffffff) > 0x7f800000) return (uint16_t)((u >> 16) | 0x40);
    return (uint16_t)((u + 0x7fff + ((u >> 16) & 1)) >> 16);
}

/* =================================== one lane: scalar and f64 =================================== */
#if LGV_VECTOR == 1
typedef real vreal;
typedef bool vmask;

static inline vreal v_load(const real *p)
{
    return *p;
}
static inline void v_store(real *p, vreal a)
{
    *p = a;
}
/* A store past the caches, to an aligned address; v_stream_end before other threads may read. */
static inline void v_stream(real *p, vreal a)
{
    *p = a;
}
static inline void v_stream_end(void) {}
static inline vreal v_load_n(const real *p, int64_t n)
{
    return n > 0 ? *p : 0;
}
static inline void v_store_n(real *p, vreal a, int64_t n)
{
    if (n > 0) *p = a;
}
static inline vreal v_zero(void)
{
    return 0;
}
static inline vreal v_set1(real a)
{
    return a;
}
static inline vreal v_add(vreal a, vreal b)
{
    return a + b;
}
static inline vreal v_sub(vreal a, vreal b)
{
    return a - b;
}
static inline vreal v_mul(vreal a, vreal b)
{
    return a * b;
}
static inline vreal v_div(vreal a, vreal b)
{
    return a / b;
}
static inline vreal v_fma(vreal a, vreal b, vreal c)
{
    return a * b + c;
}
static inline vreal v_fnma(vreal a, vreal b, vreal c)
{
    return c - a * b;
}
static inline vreal v_max(vreal a, vreal b)
{
    return a > b ? a : b;
}
static inline vreal v_min(vreal a, vreal b)
{
    return a < b ? a : b;
}
static inline vreal v_neg(vreal a)
{
    return -a;
}
static inline vmask v_lt(vreal a, vreal b)
{
    return a < b;
}
static inline vmask v_le(vreal a, vreal b)
{
    return a <= b;
}
static inline vmask v_gt(vreal a, vreal b)
{
    return a > b;
}
static inline vmask v_ge(vreal a, vreal b)
{
    return a >= b;
}
static inline vmask v_eq(vreal a, vreal b)
{
    return a == b;
}
static inline vmask m_and(vmask a, vmask b)
{
    return a && b;
}
static inline vmask m_or(vmask a, vmask b)
{
    return a || b;
}
static inline vmask m_not(vmask a)
{
    return !a;
}
static inline bool m_any(vmask a)
{
    return a;
}
static inline vreal v_select(vmask m, vreal a, vreal b)
{
    return m ? a : b;
}
static inline real v_sum(vreal a)
{
    return a;
}
static inline real v_hmax(vreal a)
{
    return a;
}
static inline real v_first(vreal a)
{
    return a;
}
static inline vreal v_load_bf16(const uint16_t *p)
{
    return bf16_to_real(*p);
}
static inline void v_store_bf16(uint16_t *p, vreal a)
{
    *p = real_to_bf16(a);
}
static inline vreal v_load_i32(const int32_t *p)
{
    return (real)*p;
}
/* Row i of a VL x VL block becomes column i. */
static inline void v_transpose(vreal a[VL])
{
    (void)a;
}
#ifdef LGV_LEVEL_F64
static inline vreal v_sqrt(vreal a)
{
    return sqrt(a);
}
static inline vreal v_abs(vreal a)
{
    return fabs(a);
}
static inline vreal v_copysign(vreal a, vreal sign)
{
    return copysign(a, sign);
}
static inline vreal v_round(vreal a)
{
    return nearbyint(a);
}
#else
static inline vreal v_sqrt(vreal a)
{
    return sqrtf(a);
}
static inline vreal v_abs(vreal a)
{
    return fabsf(a);
}
static inline vreal v_copysign(vreal a, vreal sign)
{
    return copysignf(a, sign);
}
/* To the nearest integer, ties to even, for |a| < 2^22. */
static inline vreal v_round(vreal a)
{
    return (a + 12582912.0f) - 12582912.0f;
}
/* a * 2^n for integral n in [-252, 254]: two factors, so that denormal results round once at most twice. */
static inline vreal v_scale2(vreal a, vreal n)
{
    if (!(n >= -252.0f && n <= 254.0f)) return a * n; /* NaN only: callers clamp */
    int32_t whole = (int32_t)n, half = whole / 2;
    uint32_t u1 = (uint32_t)(half + 127) << 23, u2 = (uint32_t)(whole - half + 127) << 23;
    float f1, f2;
    memcpy(&f1, &u1, sizeof f1);
    memcpy(&f2, &u2, sizeof f2);
    return a * f1 * f2;
}
/* a * 2^n where a and the result are normal, n integral; NaN stays NaN. */
static inline vreal v_add_exponent(vreal a, vreal n)
{
    if (!(n >= -126.0f && n <= 127.0f)) return a;
    uint32_t u;
    memcpy(&u, &a, sizeof u);
    u += (uint32_t)(int32_t)n << 23;
    memcpy(&a, &u, sizeof a);
    return a;
}
/* 2^n from 12583039 + n, n in [-126, 127] integral: the low bits of that float are n + 127. */
static inline vreal v_pow2_low(vreal z)
{
    uint32_t u;
    float f;
    memcpy(&u, &z, sizeof u);
    u <<= 23;
    memcpy(&f, &u, sizeof f);
    return f;
}
/* 1/a for 1 <= a < 2^126 within 5.1 %. */
static inline vreal v_reciprocal_guess(vreal a)
{
    uint32_t u;
    float f;
    memcpy(&u, &a, sizeof u);
    u = 0x7ef311c7 - u;
    memcpy(&f, &u, sizeof f);
    return f;
}
#endif

/* ============================================ AVX2 =============================================== */
#elif LGV_VECTOR == 8
#include <immintrin.h>
typedef __m256 vreal;
typedef __m256 vmask;

static inline __m256i v_lanes_below(int64_t n)
{
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), lane);
}
static inline vreal v_load(const real *p)
{
    return _mm256_loadu_ps(p);
}
static inline void v_store(real *p, vreal a)
{
    _mm256_storeu_ps(p, a);
}
static inline void v_stream(real *p, vreal a)
{
    _mm256_stream_ps(p, a);
}
static inline void v_stream_end(void)
{
    _mm_sfence();
}
static inline vreal v_load_n(const real *p, int64_t n)
{
    return _mm256_maskload_ps(p, v_lanes_below(n));
}
static inline void v_store_n(real *p, vreal a, int64_t n)
{
    _mm256_maskstore_ps(p, v_lanes_below(n), a);
}
static inline vreal v_zero(void)
{
    return _mm256_setzero_ps();
}
static inline vreal v_set1(real a)
{
    return _mm256_set1_ps(a);
}
static inline vreal v_add(vreal a, vreal b)
{
    return _mm256_add_ps(a, b);
}
static inline vreal v_sub(vreal a, vreal b)
{
    return _mm256_sub_ps(a, b);
}
static inline vreal v_mul(vreal a, vreal b)
{
    return _mm256_mul_ps(a, b);
}
static inline vreal v_div(vreal a, vreal b)
{
    return _mm256_div_ps(a, b);
}
static inline vreal v_fma(vreal a, vreal b, vreal c)
{
    return _mm256_fmadd_ps(a, b, c);
}
static inline vreal v_fnma(vreal a, vreal b, vreal c)
{
    return _mm256_fnmadd_ps(a, b, c);
}
static inline vreal v_max(vreal a, vreal b)
{
    return _mm256_max_ps(a, b);
}
static inline vreal v_min(vreal a, vreal b)
{
    return _mm256_min_ps(a, b);
}
static inline vreal v_sqrt(vreal a)
{
    return _mm256_sqrt_ps(a);
}
static inline vreal v_neg(vreal a)
{
    return _mm256_xor_ps(a, _mm256_set1_ps(-0.0f));
}
static inline vreal v_abs(vreal a)
{
    return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a);
}
static inline vreal v_copysign(vreal a, vreal sign)
{
    return _mm256_or_ps(v_abs(a), _mm256_and_ps(sign, _mm256_set1_ps(-0.0f)));
}
static inline vreal v_round(vreal a)
{
    return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
static inline vmask v_lt(vreal a, vreal b)
{
    return _mm256_cmp_ps(a, b, _CMP_LT_OQ);
}
static inline vmask v_le(vreal a, vreal b)
{
    return _mm256_cmp_ps(a, b, _CMP_LE_OQ);
}
static inline vmask v_gt(vreal a, vreal b)
{
    return _mm256_cmp_ps(a, b, _CMP_GT_OQ);
}
static inline vmask v_ge(vreal a, vreal b)
{
    return _mm256_cmp_ps(a, b, _CMP_GE_OQ);
}
static inline vmask v_eq(vreal a, vreal b)
{
    return _mm256_cmp_ps(a, b, _CMP_EQ_OQ);
}
static inline vmask m_and(vmask a, vmask b)
{
    return _mm256_and_ps(a, b);
}
static inline vmask m_or(vmask a, vmask b)
{
    return _mm256_or_ps(a, b);
}
static inline vmask m_not(vmask a)
{
    return _mm256_xor_ps(a, _mm256_castsi256_ps(_mm256_set1_epi32(-1)));
}
static inline bool m_any(vmask a)
{
    return _mm256_movemask_ps(a) != 0;
}
static inline vreal v_select(vmask m, vreal a, vreal b)
{
    return _mm256_blendv_ps(b, a, m);
}
static inline real v_sum(vreal a)
{
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
static inline real v_hmax(vreal a)
{
    __m128 s = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    s = _mm_max_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
}
static inline real v_first(vreal a)
{
    return _mm256_cvtss_f32(a);
}
static inline vreal v_load_bf16(const uint16_t *p)
{
    __m256i u = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(const void *)p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(u, 16));
}
static inline void v_store_bf16(uint16_t *p, vreal a)
{
    __m256i u = _mm256_castps_si256(a);
    __m256i odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
    __m256i r = _mm256_srli_epi32(
        _mm256_add_epi32(u, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff))), 16);
    __m256i q = _mm256_or_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(0x40));
    r = _mm256_blendv_epi8(r, q, _mm256_castps_si256(_mm256_cmp_ps(a, a, _CMP_UNORD_Q)));
    r = _mm256_permute4x64_epi64(_mm256_packus_epi32(r, r), 0x08);
    _mm_storeu_si128((__m128i *)(void *)p, _mm256_castsi256_si128(r));
}
static inline vreal v_load_i32(const int32_t *p)
{
    return _mm256_cvtepi32_ps(_mm256_loadu_si256((const __m256i *)(const void *)p));
}
static inline void v_transpose(vreal a[VL])
{
    vreal b[8];
    LGV_UNROLL
    for (int i = 0; i < 8; i += 4) { /* 2x2 blocks of pairs, in halves */
        vreal x = _mm256_unpacklo_ps(a[i], a[i + 1]), y = _mm256_unpackhi_ps(a[i], a[i + 1]);
        vreal z = _mm256_unpacklo_ps(a[i + 2], a[i + 3]),
              w = _mm256_unpackhi_ps(a[i + 2], a[i + 3]);
        b[i] = _mm256_shuffle_ps(x, z, 0x44);
        b[i + 1] = _mm256_shuffle_ps(x, z, 0xee);
        b[i + 2] = _mm256_shuffle_ps(y, w, 0x44);
        b[i + 3] = _mm256_shuffle_ps(y, w, 0xee);
    }
    LGV_UNROLL
    for (int i = 0; i < 4; i++) {
        a[i] = _mm256_permute2f128_ps(b[i], b[i + 4], 0x20);
        a[i + 4] = _mm256_permute2f128_ps(b[i], b[i + 4], 0x31);
    }
}
static inline vreal v_scale2(vreal a, vreal n)
{
    __m256i whole = _mm256_cvtps_epi32(n), half = _mm256_srai_epi32(whole, 1),
            bias = _mm256_set1_epi32(127);
    __m256i u1 = _mm256_slli_epi32(_mm256_add_epi32(half, bias), 23);
    __m256i u2 = _mm256_slli_epi32(_mm256_add_epi32(_mm256_sub_epi32(whole, half), bias), 23);
    return _mm256_mul_ps(_mm256_mul_ps(a, _mm256_castsi256_ps(u1)), _mm256_castsi256_ps(u2));
}
static inline vreal v_add_exponent(vreal a, vreal n)
{
    __m256i up = _mm256_slli_epi32(_mm256_cvtps_epi32(n), 23);
    return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(a), up));
}
static inline vreal v_pow2_low(vreal z)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(z), 23));
}

/* 1/a for 1 <= a < 2^126 within 5.1 %. */
static inline vreal v_reciprocal_guess(vreal a)
{
    return _mm256_castsi256_ps(
        _mm256_sub_epi32(_mm256_set1_epi32(0x7ef311c7), _mm256_castps_si256(a)));
}

/* =========================================== AVX-512 ============================================= */
#elif LGV_VECTOR == 16
#include <immintrin.h>
typedef __m512 vreal;
typedef __mmask16 vmask;

static inline __mmask16 v_lanes_below(int64_t n)
{
    return n >= 16 ? (__mmask16)0xffff : n <= 0 ? (__mmask16)0 : (__mmask16)((1u << n) - 1);
}
static inline vreal v_load(const real *p)
{
    return _mm512_loadu_ps(p);
}
static inline void v_store(real *p, vreal a)
{
    _mm512_storeu_ps(p, a);
}
static inline void v_stream(real *p, vreal a)
{
    _mm512_stream_ps(p, a);
}
static inline void v_stream_end(void)
{
    _mm_sfence();
}
static inline vreal v_load_n(const real *p, int64_t n)
{
    return _mm512_maskz_loadu_ps(v_lanes_below(n), p);
}
static inline void v_store_n(real *p, vreal a, int64_t n)
{
    _mm512_mask_storeu_ps(p, v_lanes_below(n), a);
}
static inline vreal v_zero(void)
{
    return _mm512_setzero_ps();
}
static inline vreal v_set1(real a)
{
    return _mm512_set1_ps(a);
}
static inline vreal v_add(vreal a, vreal b)
{
    return _mm512_add_ps(a, b);
}
static inline vreal v_sub(vreal a, vreal b)
{
    return _mm512_sub_ps(a, b);
}
static inline vreal v_mul(vreal a, vreal b)
{
    return _mm512_mul_ps(a, b);
}
static inline vreal v_div(vreal a, vreal b)
{
    return _mm512_div_ps(a, b);
}
static inline vreal v_fma(vreal a, vreal b, vreal c)
{
    return _mm512_fmadd_ps(a, b, c);
}
static inline vreal v_fnma(vreal a, vreal b, vreal c)
{
    return _mm512_fnmadd_ps(a, b, c);
}
static inline vreal v_max(vreal a, vreal b)
{
    return _mm512_max_ps(a, b);
}
static inline vreal v_min(vreal a, vreal b)
{
    return _mm512_min_ps(a, b);
}
static inline vreal v_sqrt(vreal a)
{
    return _mm512_sqrt_ps(a);
}
static inline vreal v_neg(vreal a)
{
    return _mm512_xor_ps(a, _mm512_set1_ps(-0.0f));
}
static inline vreal v_abs(vreal a)
{
    return _mm512_andnot_ps(_mm512_set1_ps(-0.0f), a);
}
static inline vreal v_copysign(vreal a, vreal sign)
{
    return _mm512_or_ps(v_abs(a), _mm512_and_ps(sign, _mm512_set1_ps(-0.0f)));
}
static inline vreal v_round(vreal a)
{
    return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
static inline vmask v_lt(vreal a, vreal b)
{
    return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ);
}
static inline vmask v_le(vreal a, vreal b)
{
    return _mm512_cmp_ps_mask(a, b, _CMP_LE_OQ);
}
static inline vmask v_gt(vreal a, vreal b)
{
    return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ);
}
static inline vmask v_ge(vreal a, vreal b)
{
    return _mm512_cmp_ps_mask(a, b, _CMP_GE_OQ);
}
static inline vmask v_eq(vreal a, vreal b)
{
    return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ);
}
static inline vmask m_and(vmask a, vmask b)
{
    return (vmask)(a & b);
}
static inline vmask m_or(vmask a, vmask b)
{
    return (vmask)(a | b);
}
static inline vmask m_not(vmask a)
{
    return (vmask)~a;
}
static inline bool m_any(vmask a)
{
    return a != 0;
}
static inline vreal v_select(vmask m, vreal a, vreal b)
{
    return _mm512_mask_blend_ps(m, b, a);
}
static inline __m256 v_high(vreal a)
{
    return _mm512_extractf32x8_ps(a, 1);
}
static inline real v_sum(vreal a)
{
    __m256 h = _mm256_add_ps(_mm512_castps512_ps256(a), v_high(a));
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
static inline real v_hmax(vreal a)
{
    __m256 h = _mm256_max_ps(_mm512_castps512_ps256(a), v_high(a));
    __m128 s = _mm_max_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
    s = _mm_max_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
}
static inline real v_first(vreal a)
{
    return _mm512_cvtss_f32(a);
}
static inline vreal v_load_bf16(const uint16_t *p)
{
    __m512i u = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(const void *)p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(u, 16));
}
#ifdef __AVX512BF16__ /* the levels with AMX; denormals become 0 */
static inline void v_store_bf16(uint16_t *p, vreal a)
{
    _mm256_storeu_si256((__m256i *)(void *)p, (__m256i)_mm512_cvtneps_pbh(a));
}
#else
static inline void v_store_bf16(uint16_t *p, vreal a)
{
    __m512i u = _mm512_castps_si512(a);
    __m512i odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
    __m512i r = _mm512_srli_epi32(
        _mm512_add_epi32(u, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff))), 16);
    __m512i q = _mm512_or_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(0x40));
    r = _mm512_mask_blend_epi32(_mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q), r, q);
    _mm256_storeu_si256((__m256i *)(void *)p, _mm512_cvtepi32_epi16(r));
}
#endif
static inline vreal v_load_i32(const int32_t *p)
{
    return _mm512_cvtepi32_ps(_mm512_loadu_si512(p));
}
static inline void v_transpose(vreal a[VL])
{
    vreal b[16];
    LGV_UNROLL
    for (int i = 0; i < 16;
         i += 4) { /* within quarters: b[i+c] holds columns c, 4+c, 8+c, 12+c of rows i.. */
        vreal x = _mm512_unpacklo_ps(a[i], a[i + 1]), y = _mm512_unpackhi_ps(a[i], a[i + 1]);
        vreal z = _mm512_unpacklo_ps(a[i + 2], a[i + 3]),
              w = _mm512_unpackhi_ps(a[i + 2], a[i + 3]);
        b[i] = _mm512_shuffle_ps(x, z, 0x44);
        b[i + 1] = _mm512_shuffle_ps(x, z, 0xee);
        b[i + 2] = _mm512_shuffle_ps(y, w, 0x44);
        b[i + 3] = _mm512_shuffle_ps(y, w, 0xee);
    }
    LGV_UNROLL
    for (int c = 0; c < 4; c++) { /* then the quarters themselves */
        vreal x = _mm512_shuffle_f32x4(b[c], b[4 + c], 0x88),
              y = _mm512_shuffle_f32x4(b[c], b[4 + c], 0xdd);
        vreal z = _mm512_shuffle_f32x4(b[8 + c], b[12 + c], 0x88),
              w = _mm512_shuffle_f32x4(b[8 + c], b[12 + c], 0xdd);
        a[c] = _mm512_shuffle_f32x4(x, z, 0x88);
        a[8 + c] = _mm512_shuffle_f32x4(x, z, 0xdd);
        a[4 + c] = _mm512_shuffle_f32x4(y, w, 0x88);
        a[12 + c] = _mm512_shuffle_f32x4(y, w, 0xdd);
    }
}
static inline vreal v_scale2(vreal a, vreal n)
{
    return _mm512_scalef_ps(a, n);
}
static inline vreal v_add_exponent(vreal a, vreal n)
{
    return _mm512_scalef_ps(a, n);
}
static inline vreal v_pow2_low(vreal z)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(z), 23));
}
/* 1/a for 1 <= a < 2^126 within 5.1 %. */
static inline vreal v_reciprocal_guess(vreal a)
{
    return _mm512_castsi512_ps(
        _mm512_sub_epi32(_mm512_set1_epi32(0x7ef311c7), _mm512_castps_si512(a)));
}
#endif

/* ==================================== elementary functions ======================================= */
enum { V_MANY = 4 }; /* vectors that the functions named _many take at most */

#ifdef LGV_LEVEL_F64
static inline vreal v_exp(vreal x)
{
    return exp(x);
}
static inline vreal v_exp2_normal(vreal x)
{
    return exp2(x);
}
static inline vreal v_tanh(vreal x)
{
    return tanh(x);
}
static inline vreal v_erf(vreal x)
{
    return erf(x);
}
LGV_FOLD void v_logistic_many(vreal *d, const vreal *x, int count)
{
    for (int k = 0; k < count; k++) d[k] = 1.0 + exp(-x[k]);
}
static inline real r_log(real x)
{
    return log(x);
}
#else
/* e^x = p*2^n: x = n ln 2 + r, |r| <= ln 2 / 2, p the minimax polynomial of e^r (error 3e-9). z = 12583039 + n:
   adding so large a number rounds to an integer. Several vectors at once, because one alone waits for its own
   chain of operations most of the time. */
LGV_FOLD void v_exp_parts(vreal *p, vreal *z, const vreal *x, int count)
{
    vreal r[V_MANY];
    LGV_UNROLL
    for (int k = 0; k < count; k++) z[k] = v_fma(x[k], v_set1(1.44269504f), v_set1(12583039.0f));
    LGV_UNROLL
    for (int k = 0; k < count; k++) p[k] = v_sub(z[k], v_set1(12583039.0f));
    LGV_UNROLL
    for (int k = 0; k < count; k++) /* 9 bits: exact products */
        r[k] = v_fma(p[k], v_set1(-0.693359375f), x[k]);
    LGV_UNROLL
    for (int k = 0; k < count; k++) r[k] = v_fma(p[k], v_set1(2.12194440e-4f), r[k]);
    LGV_UNROLL
    for (int k = 0; k < count; k++)
        p[k] = v_fma(v_set1(1.38145394e-3f), r[k], v_set1(8.36874545e-3f));
    LGV_UNROLL
    for (int k = 0; k < count; k++) p[k] = v_fma(p[k], r[k], v_set1(4.16683890e-2f));
    LGV_UNROLL
    for (int k = 0; k < count; k++) p[k] = v_fma(p[k], r[k], v_set1(1.66665211e-1f));
    LGV_UNROLL
    for (int k = 0; k < count; k++) p[k] = v_fma(p[k], r[k], v_set1(4.99999940e-1f));
    LGV_UNROLL
    for (int k = 0; k < count; k++) p[k] = v_fma(p[k], r[k], v_set1(1.0f));
    LGV_UNROLL
    for (int k = 0; k < count; k++) p[k] = v_fma(p[k], r[k], v_set1(1.0f));
}

/* Error <= 1 ulp (2 without fused multiply-adds); -inf gives 0, above 88.73 inf, NaN NaN (max and min return
   their second operand when one is NaN). */
static inline vreal v_exp(vreal x)
{
    vreal p, z;
    x = v_min(v_set1(89.0f), v_max(v_set1(-104.0f), x));
    v_exp_parts(&p, &z, &x, 1);
    return v_scale2(p, v_sub(z, v_set1(12583039.0f)));
}

/* 2^x for x < 127; 0 for x < -87, NaN stays NaN. For the weights of a softmax, whose sum is at least 1: what is left out
   is nothing beside that, and what is kept is so far from the denormals that no product with it becomes one, each of which
   would take the processor a hundred cycles. Half the instructions of v_exp. x = n + r, 2^r a minimax
   polynomial (1.1e-7) that is 1 at 0; error <= 2.1 ulp. */
static inline vreal v_exp2_normal(vreal x)
{
    const vmask nothing = v_lt(x, v_set1(-87.0f));
    vreal n = v_round(x), r = v_sub(x, n);
    vreal p = v_set1(1.326472877e-3f);
    p = v_fma(p, r, v_set1(9.671513183e-3f));
    p = v_fma(p, r, v_set1(5.550733744e-2f));
    p = v_fma(p, r, v_set1(2.402224208e-1f));
    p = v_fma(p, r, v_set1(6.931469776e-1f));
    p = v_fma(p, r, v_set1(1.0f));
    return v_select(nothing, v_zero(), v_add_exponent(p, n));
}

/* 1 + e^-x for |x| clamped to 87, where the power of two needs one step only: what lies beyond changes
   a sigmoid by less than 1e-37. Sigmoid and silu are within 2.7 ulp. count <= V_MANY; d may be x. */
LGV_FOLD void v_logistic_many(vreal *d, const vreal *x, int count)
{
    vreal t[V_MANY], z[V_MANY];
    LGV_UNROLL
    for (int k = 0; k < count; k++) t[k] = v_neg(v_min(v_set1(87.0f), v_max(v_set1(-87.0f), x[k])));
    v_exp_parts(d, z, t, count);
    LGV_UNROLL
    for (int k = 0; k < count; k++) d[k] = v_fma(d[k], v_pow2_low(z[k]), v_set1(1.0f));
}

/* |x| < 0.632: odd minimax polynomial; else 1 - 2/(e^2|x| + 1). Error <= 1.5 ulp. */
static inline vreal v_tanh(vreal x)
{
    vreal a = v_abs(x), u = v_mul(x, x), one = v_set1(1.0f);
    vreal p = v_set1(-5.6027360e-3f);
    p = v_fma(p, u, v_set1(2.0539934e-2f));
    p = v_fma(p, u, v_set1(-5.3705320e-2f));
    p = v_fma(p, u, v_set1(1.3330932e-1f));
    p = v_fma(p, u, v_set1(-3.3333251e-1f));
    p = v_fma(v_mul(p, u), x, x);
    vreal e = v_exp(v_add(a, a));
    vreal t = v_sub(one, v_div(v_set1(2.0f), v_add(e, one)));
    return v_select(v_lt(a, v_set1(0.632f)), p, v_copysign(t, x));
}

/* |x| < 1: odd minimax polynomial; else 1 - e^-g with g = -ln erfc as a minimax polynomial on [1, 4.1]
   weighted by erfc. Error <= 2.8 ulp. */
static inline vreal v_erf(vreal x)
{
    vreal a = v_abs(x), u = v_mul(x, x);
    vreal p = v_set1(7.853857824e-5f);
    p = v_fma(p, u, v_set1(-8.010192541e-4f));
    p = v_fma(p, u, v_set1(5.188327748e-3f));
    p = v_fma(p, u, v_set1(-2.685381100e-2f));
    p = v_fma(p, u, v_set1(1.128358543e-1f));
    p = v_fma(p, u, v_set1(-3.761262596e-1f));
    p = v_fma(p, u, v_set1(1.128379107e+0f));
    p = v_mul(p, x);
    vreal b = v_min(v_set1(4.1f), a);
    vreal q = v_set1(2.168643005e-5f);
    q = v_fma(q, b, v_set1(-4.413313582e-4f));
    q = v_fma(q, b, v_set1(4.204536323e-3f));
    q = v_fma(q, b, v_set1(-2.520818636e-2f));
    q = v_fma(q, b, v_set1(1.084184647e-1f));
    q = v_fma(q, b, v_set1(6.332200170e-1f));
    q = v_fma(q, b, v_set1(1.129578352e+0f));
    q = v_fma(q, b, v_set1(-1.880274212e-4f));
    vreal t = v_sub(v_set1(1.0f), v_exp(v_neg(q)));
    return v_select(v_lt(a, v_set1(1.0f)), p, v_copysign(t, x));
}

/* ln x in double, rounded: x = 2^n m with m around 1, ln m = 2 artanh((m - 1)/(m + 1)) as a series whose rest is below
   2e-11 of it. */
static inline real r_log(real x)
{
    uint32_t bits;
    if (!(x >= 1.17549435e-38f && x < 3.4e38f)) return (real)lgv_log((double)x);
    memcpy(&bits, &x, sizeof bits);
    const int32_t n = ((int32_t)bits - 0x3f3504f3) >> 23;
    bits -= (uint32_t)n << 23;
    memcpy(&x, &bits, sizeof x);
    const double s = ((double)x - 1) / ((double)x + 1), u = s * s;
    const double p = 2.0 / 3 + u * (2.0 / 5 + u * (2.0 / 7 + u * (2.0 / 9 + u * (2.0 / 11))));
    return (real)(n * 0.69314718055994530942 + (2 * s + s * u * p));
}
#endif

/* 2^x for x < 127, for what is rounded to bf16 afterwards: relative error 3e-6 (bf16: 2e-3), 0 below -126.5. x is not NaN. */
static inline vreal v_exp2_rough(vreal x)
{
#ifdef LGV_LEVEL_F64
    return exp2(x);
#else
    x = v_max(v_set1(-127.0f), x);
    const vreal z = v_add(x, v_set1(12583039.0f)), r = v_sub(x, v_sub(z, v_set1(12583039.0f)));
    vreal p = v_fma(v_set1(9.5701e-3f), r, v_set1(5.591786e-2f));
    p = v_fma(p, r, v_set1(2.4024745e-1f));
    p = v_fma(p, r, v_set1(6.9312181e-1f));
    p = v_fma(p, r, v_set1(9.9999926e-1f));
    return v_mul(p, v_pow2_low(z));
#endif
}

/* 1/(1 + e^-x) */
LGV_FOLD void v_sigmoid_many(vreal *y, const vreal *x, int count)
{
    v_logistic_many(y, x, count);
    LGV_UNROLL
    for (int k = 0; k < count; k++) y[k] = v_div(v_set1(1), y[k]);
}
static inline vreal v_sigmoid(vreal x)
{
    v_sigmoid_many(&x, &x, 1);
    return x;
}

/* The same for what is rounded to bf16 afterwards: relative error 3e-6 (bf16: 2e-3) for |x| <= 80, no division. */
LGV_FOLD void v_sigmoid_rough_many(vreal *y, const vreal *x, int count)
{
#ifdef LGV_LEVEL_F64
    v_sigmoid_many(y, x, count);
#else
    vreal t[V_MANY], z[V_MANY], p[V_MANY];
    LGV_UNROLL
    for (int k = 0; k < count; k++) t[k] = v_min(v_set1(80.0f), v_max(v_set1(-80.0f), x[k]));
    LGV_UNROLL
    for (int k = 0; k < count; k++) z[k] = v_fma(t[k], v_set1(-1.44269504f), v_set1(12583039.0f));
    LGV_UNROLL
    for (int k = 0; k < count; k++) p[k] = v_sub(v_set1(12583039.0f), z[k]);
    LGV_UNROLL
    for (int k = 0; k < count; k++) t[k] = v_fma(t[k], v_set1(-1.44269504f), p[k]);
    LGV_UNROLL
    for (int k = 0; k < count; k++) p[k] = v_fma(v_set1(9.5701e-3f), t[k], v_set1(5.591786e-2f));
    LGV_UNROLL
    for (int k = 0; k < count; k++) p[k] = v_fma(p[k], t[k], v_set1(2.4024745e-1f));
    LGV_UNROLL
    for (int k = 0; k < count; k++) p[k] = v_fma(p[k], t[k], v_set1(6.9312181e-1f));
    LGV_UNROLL
    for (int k = 0; k < count; k++) p[k] = v_fma(p[k], t[k], v_set1(9.9999926e-1f));
    LGV_UNROLL
    for (int k = 0; k < count; k++) p[k] = v_fma(p[k], v_pow2_low(z[k]), v_set1(1.0f));
    LGV_UNROLL
    for (int k = 0; k < count; k++) y[k] = v_reciprocal_guess(p[k]);
    LGV_UNROLL
    for (int k = 0; k < count; k++) z[k] = v_fnma(p[k], y[k], v_set1(1.0f));
    LGV_UNROLL
    for (int k = 0; k < count; k++) y[k] = v_fma(y[k], z[k], y[k]); /* Newton's step */
    LGV_UNROLL
    for (int k = 0; k < count; k++) z[k] = v_fnma(p[k], y[k], v_set1(1.0f));
    LGV_UNROLL
    for (int k = 0; k < count; k++) z[k] = v_fma(z[k], z[k], z[k]); /* one of third order */
    LGV_UNROLL
    for (int k = 0; k < count; k++) y[k] = v_fma(y[k], z[k], y[k]);
#endif
}

/* One value at a time, the same bits as a lane of the vector function. */
static inline real r_exp(real x)
{
    return v_first(v_exp(v_set1(x)));
}
static inline real r_sigmoid(real x)
{
    return v_first(v_sigmoid(v_set1(x)));
}
static inline real r_tanh(real x)
{
    return v_first(v_tanh(v_set1(x)));
}
static inline real r_erf(real x)
{
    return v_first(v_erf(v_set1(x)));
}
static inline real r_sqrt(real x)
{
    return v_first(v_sqrt(v_set1(x)));
}

/* Activations (lgv_act_kind; written here because the epilogues and the elementwise family share them). */
static inline vreal v_silu(vreal x)
{
    vreal d;
    v_logistic_many(&d, &x, 1);
    return v_div(x, d);
}
/* x tanh(ln(1 + e^x)) = x u/(u + 2), u = e^x (e^x + 2); above 20 the ratio is 1 in float. */
static inline vreal v_mish(vreal x)
{
    vreal e = v_exp(v_min(v_set1(20), x)), u = v_mul(e, v_add(e, v_set1(2)));
    return v_mul(x, v_div(u, v_add(u, v_set1(2))));
}
static inline vreal v_gelu(vreal x)
{
    vreal t = v_erf(v_mul(x, v_set1((real)0.70710678118654752440)));
    return v_mul(v_mul(x, v_set1((real)0.5)), v_add(v_set1(1), t));
}
static inline vreal v_relu(vreal x)
{
    return v_max(v_zero(), x);
}
/* 2 sqrt(2/pi) (x + 0.044715 x^3): GELU with tanh is x sigmoid of that. */
static inline vreal v_gelu_argument(vreal x)
{
    vreal u = v_mul(x, x);
    return v_mul(x, v_fma(u, v_set1((real)0.071354816272600247), v_set1((real)1.5957691216057308)));
}
static inline vreal v_gelu_tanh(vreal x)
{
    vreal u = v_gelu_argument(x), d;
    v_logistic_many(&d, &u, 1);
    return v_div(x, d);
}
/* kind: LGV_ACT_* of ops.h (0 none, 1 silu, 2 mish, 3 gelu, 4 relu, 5 gelu_tanh). */
static inline vreal v_act(vreal x, int kind)
{
    switch (kind) {
    case 1: return v_silu(x);
    case 2: return v_mish(x);
    case 3: return v_gelu(x);
    case 4: return v_relu(x);
    case 5: return v_gelu_tanh(x);
    default: return x;
    }
}

/* x becomes act(x) in `count` vectors; the same bits as v_act, unless rough: for results rounded to bf16. */
LGV_FOLD void v_act_many(vreal *x, int count, int kind, bool rough)
{
    vreal d[V_MANY];
    if (kind != 1 && kind != 5) {
        LGV_UNROLL
        for (int k = 0; k < count; k++) x[k] = v_act(x[k], kind);
        return;
    }
    LGV_UNROLL
    for (int k = 0; k < count; k++) d[k] = kind == 5 ? v_gelu_argument(x[k]) : x[k];
    if (rough) {
        v_sigmoid_rough_many(d, d, count);
        LGV_UNROLL
        for (int k = 0; k < count; k++) x[k] = v_mul(x[k], d[k]);
    } else {
        v_logistic_many(d, d, count);
        LGV_UNROLL
        for (int k = 0; k < count; k++) x[k] = v_div(x[k], d[k]);
    }
}

#endif
