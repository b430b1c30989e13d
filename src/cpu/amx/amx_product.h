/* amx_product.h - the one product under all bf16 kernels, and the packed layout of its right operand.
   A block of 32 rows by 32 columns of f32 sums lives in four tiles. Left rows are read where they lie, 16
   rows a fixed stride apart: 16 neighbouring pixels, whatever the window's offset. A sum runs over steps of 32
   channels and, within, over taps, whose left rows largely coincide and so come from L1. Nothing else
   decides its order. */
#ifndef LGV_AMX_PRODUCT_H
#define LGV_AMX_PRODUCT_H

#include "cpu/kernels/conv.h"
#include "tile.h"

/* The right operand of a block of 32 columns is a list of steps, one for each 32 rows of the inner dimension:
   two tiles (columns 0-15, 16-31) of [row pair p][column q][2], the pair's rows 2p and 2p+1. */
enum { STEP_ELEMENTS = 2 * TILE_ELEMENTS, STEP_BYTES = 2 * STEP_ELEMENTS };

/* The inner dimension: `steps` times along the left rows, and in each for every tap its offset. */
typedef struct amx_inner {
    int taps;
    int64_t steps;
    const int64_t *offset; /* elements */
} amx_inner;

/* Where the steps of a right operand lie: elements from a step's first tile to its second, and to the next step. */
typedef struct amx_right {
    const uint16_t *b;
    int64_t half, step;
} amx_right;

/* What to bring into L2 for later, a few lines a step: right operands p, left rows q; no lines: nothing. */
typedef struct amx_ahead {
    const char *p, *q;
    int p_lines, q_lines;
} amx_ahead;

#define amx_product     LGV_AT(lgv_amx_product)
#define amx_finish      LGV_AT(lgv_amx_finish)
#define amx_finish_rest LGV_AT(lgv_amx_finish_rest)

/* A forward operator's result [n,h,w,k] with its epilogue; wide: f32, else bf16. */
typedef struct amx_result {
    void *y;
    bool wide, wide_residual;
    int64_t h, w, k, sn, sh, sw; /* pixel (n,i,j) starts sn*n + sh*i + sw*j elements on */
    conv_epilogue e;             /* all absent for a gradient */
    int64_t ahead; /* bytes to the results that will be written soon; 0: the pixel 32 on */
} amx_result;

/* A block of sums on its way to the result: its two tiles of rows become pixels first[i].. (count[i] of them), its
   columns k0... The rows are finished one by one between the tile operations of the next block, whose time they
   would add to otherwise. */
typedef struct amx_finishing {
    const amx_result *r;
    int parts; /* of the epilogue */
    int tile;  /* 0, 1; 2: done */
    int64_t count[2], first[2], k0;
    int64_t n, i, j;   /* the next row's pixel */
    int64_t left, run; /* rows of its tile, and those that lie a fixed step apart, from it on */
    /* The next row of sums, its result, and what is added to it; NULL: absent. */
    const float *sum, *bias, *row, *gate;
    char *y;
    const char *residual;
    int64_t y_step, residual_step; /* bytes to the pixel on the right */
    /* Bytes to the line that the next block of these columns, or one of the same rows, will touch: fetched meanwhile. */
    int64_t y_ahead, residual_ahead;
} amx_finishing;

amx_finishing amx_finish(const amx_result *r, const float *sum, const int64_t first[2],
                         const int64_t count[2], int64_t k0);
/* Finishes what is left. */
void amx_finish_rest(amx_finishing *f);

/* sum[32][32] = left rows times right (add: plus what was there). a0, a1: the first and second 16 rows, `stride`
   bytes apart. f: the block to finish meanwhile, NULL: none. */
void amx_product(tiles *s, const amx_inner *inner, const uint16_t *a0, const uint16_t *a1,
                 int64_t stride, amx_right right, amx_ahead ahead, bool add, float *sum,
                 amx_finishing *f);

/* to[0..width) = from[0..n), then zeros. */
static inline void amx_copy(uint16_t *to, const uint16_t *from, int64_t n, int64_t width)
{
    int64_t i = 0;
    for (; i + 32 <= n; i += 32) memcpy(to + i, from + i, 64);
    if (i < n) memcpy(to + i, from + i, (size_t)(n - i) * 2);
    if (n < width) memset(to + n, 0, (size_t)(width - n) * 2);
}

/* Row pairs of right operands: to[i] holds a[i] and b[i], zeros from n (<= 16) on. */
static inline void amx_interleave(const uint16_t *a, const uint16_t *b, int64_t n, uint32_t to[16])
{
    if (n >= 16) {
        for (int i = 0; i < 16; i++) to[i] = a[i] | (uint32_t)b[i] << 16;
        return;
    }
    for (int i = 0; i < 16; i++) to[i] = i < n ? a[i] | (uint32_t)b[i] << 16 : 0;
}

/* VL elements at p[i], zeros from n on. wide: f32, else bf16. */
static inline vreal amx_load_n(const void *p, int64_t i, int64_t n, bool wide)
{
    if (wide) return v_load_n((const float *)p + i, n);
    const uint16_t *from = (const uint16_t *)p + i;
    if (n >= VL) return v_load_bf16(from);
    uint16_t line[VL] = {0};
    memcpy(line, from, (size_t)(n > 0 ? n : 0) * 2);
    return v_load_bf16(line);
}

static inline void amx_store_n(void *p, int64_t i, int64_t n, bool wide, vreal v)
{
    if (wide) {
        v_store_n((float *)p + i, v, n);
        return;
    }
    uint16_t *to = (uint16_t *)p + i;
    if (n >= VL) {
        v_store_bf16(to, v);
        return;
    }
    uint16_t line[VL];
    v_store_bf16(line, v);
    memcpy(to, line, (size_t)(n > 0 ? n : 0) * 2);
}

static inline int64_t amx_round(int64_t n, int64_t unit)
{
    return (n + unit - 1) / unit * unit;
}

#endif
