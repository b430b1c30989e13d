/* tile.h - the tile operations of AMX: eight registers of 16 rows by 64 bytes.
   At level amx they are the instructions; at level amx_emulated the same in C over a struct, so that all
   index arithmetic of these kernels is tested on every machine. Tile numbers are literals 0 to 7.
   Tiles are configured in each task and released at its end: pool threads run other code too, and
   a thread with live tiles costs every context switch 8 KiB. */
#ifndef LGV_TILE_H
#define LGV_TILE_H

#include "cpu/simd.h"

enum {
    TILE_ROWS = 16,                        /* of every tile */
    TILE_BYTES = 64,                       /* of a row */
    TILE_F32 = 16,                         /* columns of a sum */
    TILE_BF16 = 32,                        /* columns of a left operand: the inner dimension */
    TILE_ELEMENTS = TILE_ROWS * TILE_BF16, /* bf16 in a tile */
    BLOCK_ROWS = 2 * TILE_ROWS,            /* a block of sums is 2x2 tiles */
    BLOCK_COLUMNS = 2 * TILE_F32,
    BLOCK_ELEMENTS = BLOCK_ROWS * BLOCK_COLUMNS
};

/* tile_dot(s, c, a, b): c[m][n] += sum over p < 16 of a[m][2p] b[p][2n] + a[m][2p+1] b[p][2n+1]. */
#ifdef LGV_LEVEL_AMX
#include <immintrin.h>

typedef struct tiles {
    char unused;
} tiles;

static inline void tile_begin(tiles *s)
{
    struct {
        uint8_t palette, start_row, reserved[14];
        uint16_t row_bytes[16];
        uint8_t rows[16];
    } config = {.palette = 1};
    (void)s;
    for (int i = 0; i < 8; i++) {
        config.row_bytes[i] = TILE_BYTES;
        config.rows[i] = TILE_ROWS;
    }
    _tile_loadconfig(&config);
}
static inline void tile_end(tiles *s)
{
    (void)s;
    _tile_release();
}
/* gcc does not know that tile loads read memory: what was stored before must be there. */
static inline void tile_memory_ready(void)
{
    __asm__ volatile("" ::: "memory");
}
#define tile_zero(s, t)             _tile_zero(t)
#define tile_load(s, t, p, stride)  _tile_loadd(t, p, stride)
#define tile_store(s, t, p, stride) _tile_stored(t, p, stride)
#define tile_dot(s, c, a, b)        _tile_dpbf16ps(c, a, b)

/* 32 sums to bf16, rounded to nearest even. */
static inline void store_row(uint16_t *to, const vreal v[BLOCK_COLUMNS / VL])
{
    _mm512_storeu_si512(to, (__m512i)_mm512_cvtne2ps_pbh(v[1], v[0]));
}

/* A row pair of a right operand: columns 0-15 of rows a and b, rounded. */
static inline void store_pairs(uint16_t *to, const float *a, const float *b)
{
    static const uint16_t order[32] = {0,  16, 1,  17, 2,  18, 3,  19, 4,  20, 5,
                                       21, 6,  22, 7,  23, 8,  24, 9,  25, 10, 26,
                                       11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
    __m512i v = (__m512i)_mm512_cvtne2ps_pbh(_mm512_loadu_ps(b), _mm512_loadu_ps(a));
    _mm512_storeu_si512(to, _mm512_permutexvar_epi16(_mm512_loadu_si512(order), v));
}

/* to[i][j] = from[j][i], 16 by 16 elements of 4 bytes; rows start a stride of elements apart. */
static inline void transpose16(const void *from, int64_t from_stride, void *to, int64_t to_stride)
{
    const uint32_t *rows = from;
    uint32_t *columns = to;
    __m512i r[16], t[16];
    LGV_UNROLL
    for (int i = 0; i < 16; i++) r[i] = _mm512_loadu_si512(rows + i * from_stride);
    LGV_UNROLL
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
    LGV_UNROLL
    for (int i = 0; i < 16; i += 4) {
        r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    LGV_UNROLL
    for (int i = 0; i < 4; i++) {
        t[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
        t[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xdd);
        t[i + 8] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
        t[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xdd);
    }
    LGV_UNROLL
    for (int i = 0; i < 8; i++) {
        _mm512_storeu_si512(columns + i * to_stride, _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88));
        _mm512_storeu_si512(columns + (i + 8) * to_stride,
                            _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd));
    }
}
#else

typedef struct tiles {
    _Alignas(64) uint8_t byte[8][TILE_ROWS][TILE_BYTES];
} tiles;

static inline void tile_begin(tiles *s)
{
    memset(s, 0, sizeof *s);
}
static inline void tile_end(tiles *s)
{
    (void)s;
}
static inline void tile_memory_ready(void) {}
static inline void tile_zero(tiles *s, int t)
{
    memset(s->byte[t], 0, sizeof s->byte[t]);
}
static inline void tile_load(tiles *s, int t, const void *p, int64_t stride)
{
    for (int r = 0; r < TILE_ROWS; r++)
        memcpy(s->byte[t][r], (const char *)p + r * stride, TILE_BYTES);
}
static inline void tile_store(const tiles *s, int t, void *p, int64_t stride)
{
    for (int r = 0; r < TILE_ROWS; r++) memcpy((char *)p + r * stride, s->byte[t][r], TILE_BYTES);
}
/* The halves of 16 pairs as floats. */
static inline void split_pairs(const uint8_t *from, float even[TILE_F32], float odd[TILE_F32])
{
    uint32_t pair[TILE_F32];
    memcpy(pair, from, sizeof pair);
    for (int i = 0; i < TILE_F32; i++) {
        even[i] = bf16_to_real((uint16_t)pair[i]);
        odd[i] = bf16_to_real((uint16_t)(pair[i] >> 16));
    }
}
static inline void tile_dot(tiles *s, int c, int a, int b)
{
    enum { VECTORS = TILE_F32 / VL };
    float even[TILE_ROWS][TILE_F32], odd[TILE_ROWS][TILE_F32], x[TILE_F32], y[TILE_F32];
    for (int p = 0; p < TILE_ROWS; p++) split_pairs(s->byte[b][p], even[p], odd[p]);
    for (int m = 0; m < TILE_ROWS; m++) {
        float *row = (float *)(void *)s->byte[c][m];
        vreal sum[VECTORS];
        split_pairs(s->byte[a][m], x, y);
        for (int v = 0; v < VECTORS; v++) sum[v] = v_load(row + v * VL);
        for (int p = 0; p < TILE_ROWS; p++) {
            const vreal x0 = v_set1(x[p]), y0 = v_set1(y[p]);
            LGV_UNROLL
            for (int v = 0; v < VECTORS; v++) {
                sum[v] = v_fma(x0, v_load(even[p] + v * VL), sum[v]);
                sum[v] = v_fma(y0, v_load(odd[p] + v * VL), sum[v]);
            }
        }
        for (int v = 0; v < VECTORS; v++) v_store(row + v * VL, sum[v]);
    }
}
static inline void store_row(uint16_t *to, const vreal v[BLOCK_COLUMNS / VL])
{
    for (int i = 0; i < BLOCK_COLUMNS / VL; i++) v_store_bf16(to + i * VL, v[i]);
}
static inline void store_pairs(uint16_t *to, const float *a, const float *b)
{
    for (int i = 0; i < TILE_F32; i++) {
        to[2 * i] = real_to_bf16(a[i]);
        to[2 * i + 1] = real_to_bf16(b[i]);
    }
}
static inline void transpose16(const void *from, int64_t from_stride, void *to, int64_t to_stride)
{
    uint32_t r[16][16];
    for (int i = 0; i < 16; i++)
        memcpy(r[i], (const uint32_t *)from + i * from_stride, sizeof r[i]);
    for (int i = 0; i < 16; i++)
        for (int j = 0; j < 16; j++) memcpy((uint32_t *)to + i * to_stride + j, &r[j][i], 4);
}
#endif

/* A block of sums y[32][32], rows of ld floats, lies in tiles 0 to 3 while products are added. */
static inline void sums_begin(tiles *s, bool add, const float *y, int64_t ld)
{
    const float *low = y + TILE_ROWS * ld;
    const int64_t bytes = ld * (int64_t)sizeof(float);
    if (add) {
        tile_load(s, 0, y, bytes);
        tile_load(s, 1, y + TILE_F32, bytes);
        tile_load(s, 2, low, bytes);
        tile_load(s, 3, low + TILE_F32, bytes);
    } else {
        tile_zero(s, 0);
        tile_zero(s, 1);
        tile_zero(s, 2);
        tile_zero(s, 3);
    }
}
static inline void sums_end(tiles *s, float *y, int64_t ld)
{
    float *low = y + TILE_ROWS * ld;
    const int64_t bytes = ld * (int64_t)sizeof(float);
    tile_store(s, 0, y, bytes);
    tile_store(s, 1, y + TILE_F32, bytes);
    tile_store(s, 2, low, bytes);
    tile_store(s, 3, low + TILE_F32, bytes);
}

/* Tiles 0 to 3 += left rows a0 and a1 (16 each, `stride` bytes apart) times the two right tiles b and b + half. */
static inline void sums_add(tiles *s, const uint16_t *a0, const uint16_t *a1, int64_t stride,
                            const uint16_t *b, int64_t half)
{
    tile_load(s, 4, a0, stride);
    tile_load(s, 6, b, TILE_BYTES);
    tile_dot(s, 0, 4, 6);
    tile_load(s, 7, b + half, TILE_BYTES);
    tile_dot(s, 1, 4, 7);
    tile_load(s, 5, a1, stride);
    tile_dot(s, 2, 5, 6);
    tile_dot(s, 3, 5, 7);
}

#endif
