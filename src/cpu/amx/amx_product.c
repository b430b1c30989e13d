/* amx_product.c - the block product on tiles, and the epilogue that makes a result of its sums.
   A step is 4 tile loads for 4 products, so that loads and products take equally long; the right operand
   streams from L2 and is prefetched, the left one stays in L1 while the right one's blocks pass. */
#include "amx_product.h"

enum {
    NEAR = 2, /* steps that the right operand is fetched into L1 ahead */
    ROW_BYTES = BLOCK_COLUMNS * 4
};

void amx_product(tiles *s, const amx_inner *inner, const uint16_t *a0, const uint16_t *a1,
                 int64_t stride, const uint16_t *b, amx_ahead ahead, bool add, float *sum)
{
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
    for (int t = 0; t < inner->taps; t++) {
        const int64_t offset = inner->offset[t];
        const uint16_t *left0 = a0 + offset, *left1 = a1 + offset;
        for (int64_t i = 0; i < inner->steps; i++) {
            const char *near = (const char *)(b + NEAR * STEP_ELEMENTS);
            for (int line = 0; line < ahead.lines; line++) {
                __builtin_prefetch(ahead.p, 0, 2);
                ahead.p += 64;
            }
            tile_load(s, 4, left0, stride);
            tile_load(s, 6, b, TILE_BYTES);
            tile_dot(s, 0, 4, 6);
            LGV_UNROLL
            for (int line = 0; line < 16; line++) __builtin_prefetch(near + 64 * line, 0, 3);
            tile_load(s, 7, b + TILE_ELEMENTS, TILE_BYTES);
            tile_dot(s, 1, 4, 7);
            LGV_UNROLL
            for (int line = 16; line < 32; line++) __builtin_prefetch(near + 64 * line, 0, 3);
            tile_load(s, 5, left1, stride);
            tile_dot(s, 2, 5, 6);
            tile_dot(s, 3, 5, 7);
            left0 += TILE_BF16;
            left1 += TILE_BF16;
            b += STEP_ELEMENTS;
        }
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

void amx_finish(const amx_result *r, const float *sum, int64_t first, int64_t count, int64_t k0)
{
    const lgv_nhwc *rs = &r->e.residual_shape;
    int64_t j = first % r->w, i = first / r->w % r->h, n = first / r->w / r->h;
    int64_t columns = lgv_min_i64(BLOCK_COLUMNS, r->k - k0);
    for (int64_t row = 0; row < count; row++, sum += BLOCK_COLUMNS) {
        char *y = (char *)r->y + (n * r->sn + i * r->sh + j * r->sw) * (r->wide ? 4 : 2);
        const char *residual = (const char *)r->e.residual;
        if (residual)
            residual += (n * rs->sn + i * rs->sh + j * rs->sw) * (r->wide_residual ? 4 : 2);
        for (int64_t k = 0; k < columns; k += VL) {
            int64_t left = columns - k;
            vreal v = epilogue(r, v_load(sum + k), residual, n, k0 + k, left);
            amx_store_n(y, k0 + k, left, r->wide, v);
        }
        if (++j == r->w) {
            j = 0;
            if (++i == r->h) {
                i = 0;
                n++;
            }
        }
    }
}
