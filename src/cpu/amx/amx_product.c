/* amx_product.c - the block product on tiles, and the epilogue that makes a result of its sums.
   A step is 4 tile loads for 4 products, so that loads and products take equally long; the right operand
   streams from L2 and is prefetched, the left one stays in L1 while the right one's blocks pass. */
#include "amx_product.h"

enum {
    NEAR = 2, /* steps that the right operand is fetched into L1 ahead */
    ROW_BYTES = BLOCK_COLUMNS * 4
};

static inline void prefetch_tile(const uint16_t *tile)
{
    LGV_UNROLL
    for (int line = 0; line < TILE_ROWS; line++) __builtin_prefetch(tile + 32 * line, 0, 3);
}

void amx_product(tiles *s, const amx_inner *inner, const uint16_t *a0, const uint16_t *a1,
                 int64_t stride, amx_right right, amx_ahead ahead, bool add, float *sum)
{
    const uint16_t *b = right.b;
    float *low = sum + TILE_ROWS * BLOCK_COLUMNS;
    tile_memory_ready();
    if (add) {
        tile_load(s, 0, sum, ROW_BYTES);
        tile_load(s, 1, sum + TILE_F32, ROW_BYTES);
        tile_load(s, 2, low, ROW_BYTES);
        tile_load(s, 3, low + TILE_F32, ROW_BYTES);
    } else {
        tile_zero(s, 0);
        tile_zero(s, 1);
        tile_zero(s, 2);
        tile_zero(s, 3);
    }
    for (int64_t i = 0; i < inner->steps; i++) {
        for (int t = 0; t < inner->taps; t++) {
            const int64_t offset = inner->offset[t];
            for (int line = 0; line < ahead.lines; line++) {
                __builtin_prefetch(ahead.p, 0, 2);
                ahead.p += 64;
            }
            tile_load(s, 4, a0 + offset, stride);
            tile_load(s, 6, b, TILE_BYTES);
            tile_dot(s, 0, 4, 6);
            prefetch_tile(b + NEAR * right.step);
            tile_load(s, 7, b + right.half, TILE_BYTES);
            tile_dot(s, 1, 4, 7);
            prefetch_tile(b + right.half + NEAR * right.step);
            tile_load(s, 5, a1 + offset, stride);
            tile_dot(s, 2, 5, 6);
            tile_dot(s, 3, 5, 7);
            b += right.step;
        }
        a0 += TILE_BF16;
        a1 += TILE_BF16;
    }
    tile_store(s, 0, sum, ROW_BYTES);
    tile_store(s, 1, sum + TILE_F32, ROW_BYTES);
    tile_store(s, 2, low, ROW_BYTES);
    tile_store(s, 3, low + TILE_F32, ROW_BYTES);
}

/* Columns [k, k+n) of a pixel, n <= VL: the epilogue in the order of its formula. */
static inline vreal epilogue(const amx_result *r, vreal v, const void *residual, int64_t picture,
                             int64_t k, int64_t n)
{
    const conv_epilogue *e = &r->e;
    if (e->bias) v = v_add(v, v_load_n(e->bias + k, n));
    if (e->row) v = v_add(v, v_load_n(e->row + picture * e->row_stride + k, n));
    if (residual) v = v_add(v, amx_load_n(residual, k, n, r->wide_residual));
    if (e->act) v = v_act(v, e->act);
    if (e->gate) v = v_mul(v, v_load_n(e->gate + picture * e->gate_stride + k, n));
    return v;
}

/* Walks over the result's pixels row by row. */
typedef struct pixel {
    int64_t n, i, j;
} pixel;

static inline void next_pixel(const amx_result *r, pixel *p)
{
    if (++p->j < r->w) return;
    p->j = 0;
    if (++p->i < r->h) return;
    p->i = 0;
    p->n++;
}

static inline char *at_pixel(const void *data, const pixel *p, int64_t sn, int64_t sh, int64_t sw,
                             bool wide)
{
    return (char *)data + (p->n * sn + p->i * sh + p->j * sw) * (wide ? 4 : 2);
}

/* The common case: 32 columns in bf16, no activation, no gate. */
static void finish_simple(const amx_result *r, const float *sum, pixel at, int64_t count,
                          int64_t k0)
{
    enum { VECTORS = BLOCK_COLUMNS / VL };
    const conv_epilogue *e = &r->e;
    const lgv_nhwc *rs = &e->residual_shape;
    vreal bias[VECTORS], row[VECTORS], v[VECTORS];
    LGV_UNROLL
    for (int i = 0; i < VECTORS; i++) {
        bias[i] = e->bias ? v_load(e->bias + k0 + i * VL) : v_zero();
        row[i] = v_zero();
    }
    int64_t n = -1;
    for (; count > 0; count--, sum += BLOCK_COLUMNS) {
        if (e->row && at.n != n) {
            n = at.n;
            LGV_UNROLL
            for (int i = 0; i < VECTORS; i++)
                row[i] = v_load(e->row + n * e->row_stride + k0 + i * VL);
        }
        LGV_UNROLL
        for (int i = 0; i < VECTORS; i++)
            v[i] = v_add(v_add(v_load(sum + i * VL), bias[i]), row[i]);
        if (e->residual) {
            const char *x = at_pixel(e->residual, &at, rs->sn, rs->sh, rs->sw, r->wide_residual);
            LGV_UNROLL
            for (int i = 0; i < VECTORS; i++)
                v[i] = v_add(v[i], amx_load_n(x, k0 + i * VL, VL, r->wide_residual));
        }
        store_row((uint16_t *)(void *)at_pixel(r->y, &at, r->sn, r->sh, r->sw, false) + k0, v);
        next_pixel(r, &at);
    }
}

void amx_finish(const amx_result *r, const float *sum, int64_t first, int64_t count, int64_t k0)
{
    const conv_epilogue *e = &r->e;
    const lgv_nhwc *rs = &e->residual_shape;
    pixel at = {first / r->w / r->h, first / r->w % r->h, first % r->w};
    int64_t columns = lgv_min_i64(BLOCK_COLUMNS, r->k - k0);
    if (columns == BLOCK_COLUMNS && !r->wide && !e->act && !e->gate) {
        finish_simple(r, sum, at, count, k0);
        return;
    }
    for (; count > 0; count--, sum += BLOCK_COLUMNS) {
        char *y = at_pixel(r->y, &at, r->sn, r->sh, r->sw, r->wide);
        const char *residual = NULL;
        if (e->residual)
            residual = at_pixel(e->residual, &at, rs->sn, rs->sh, rs->sw, r->wide_residual);
        for (int64_t k = 0; k < columns; k += VL) {
            vreal v = epilogue(r, v_load(sum + k), residual, at.n, k0 + k, columns - k);
            amx_store_n(y, k0 + k, columns - k, r->wide, v);
        }
        next_pixel(r, &at);
    }
}
