/* amx_product.c - the block product on tiles, and the epilogue that makes a result of its sums.
   A step is 4 tile loads for 4 products, so that loads and products take equally long. The right operand streams
   from L2, and prefetching it into L1 costs more load slots than it saves; the left one stays in L1. */
#include "amx_product.h"

/* What the epilogue of a block adds and multiplies with, from its first column on. Loops take it by value: a store of a
   result could change what lies in memory, for all the compiler knows. */
typedef struct operands {
    const float *bias, *row, *gate; /* NULL: none */
    int act;
    bool wide_residual;
} operands;

static inline operands find_operands(const amx_finishing *f)
{
    const conv_epilogue *e = &f->r->e;
    return (operands){.bias = e->bias ? e->bias + f->k0 : NULL,
                      .row = e->row ? e->row + f->n * e->row_stride + f->k0 : NULL,
                      .gate = e->gate ? e->gate + f->n * e->gate_stride + f->k0 : NULL,
                      .act = e->act,
                      .wide_residual = f->r->wide_residual};
}

/* Columns [k, k+n) of a block, n <= VL: the epilogue in the order of its formula. */
static inline vreal epilogue(operands o, vreal v, const void *residual, int64_t k, int64_t n)
{
    if (o.bias) v = v_add(v, v_load_n(o.bias + k, n));
    if (o.row) v = v_add(v, v_load_n(o.row + k, n));
    if (o.act) v = v_act(v, o.act);
    if (o.gate) v = v_mul(v, v_load_n(o.gate + k, n));
    if (residual) v = v_add(v, amx_load_n(residual, k, n, o.wide_residual));
    return v;
}

/* A row of the last block, which has fewer columns. */
static void finish_columns(const amx_finishing *f)
{
    const amx_result *r = f->r;
    const operands o = find_operands(f);
    const int64_t columns = r->k - f->k0;
    const char *residual = f->residual ? f->residual + f->k0 * (o.wide_residual ? 4 : 2) : NULL;
    char *y = f->y + f->k0 * (r->wide ? 4 : 2);
    for (int64_t k = 0; k < columns; k += VL)
        amx_store_n(y, k, columns - k, r->wide,
                    epilogue(o, v_load(f->sum + k), residual, k, columns - k));
}

/* All 32 columns of `rows` rows that lie a fixed step apart, of one picture. */
static inline void finish_full(const amx_finishing *f, int64_t rows, const bool wide)
{
    enum { VECTORS = BLOCK_COLUMNS / VL };
    const operands o = find_operands(f);
    const float *sum = f->sum;
    const char *residual = f->residual ? f->residual + f->k0 * (o.wide_residual ? 4 : 2) : NULL;
    char *y = f->y + f->k0 * (wide ? 4 : 2);
    for (; rows > 0; rows--) {
        __builtin_prefetch(y + f->y_ahead, 1);
        vreal v[VECTORS];
        LGV_UNROLL
        for (int i = 0; i < VECTORS; i++) {
            v[i] = epilogue(o, v_load(sum + i * VL), residual, i * VL, VL);
            if (wide) v_store((float *)(void *)y + i * VL, v[i]);
        }
        if (!wide) store_row((uint16_t *)(void *)y, v);
        if (residual) {
            __builtin_prefetch(residual + f->residual_ahead);
            residual += f->residual_step;
        }
        sum += BLOCK_COLUMNS;
        y += f->y_step;
    }
}

static void place(amx_finishing *f)
{
    const amx_result *r = f->r;
    const lgv_nhwc *s = &r->e.residual_shape;
    f->y = (char *)r->y + (f->n * r->sn + f->i * r->sh + f->j * r->sw) * (r->wide ? 4 : 2);
    if (r->e.residual)
        f->residual = (const char *)r->e.residual +
                      (f->n * s->sn + f->i * s->sh + f->j * s->sw) * (r->wide_residual ? 4 : 2);
}

/* Moves to the first row of f->tile, or to that of the next tile that has rows. */
static void start_tile(amx_finishing *f)
{
    while (f->tile < 2 && f->count[f->tile] == 0) {
        f->tile++;
        f->sum += TILE_ROWS * BLOCK_COLUMNS;
    }
    if (f->tile == 2) return;
    const amx_result *r = f->r;
    int64_t first = f->first[f->tile];
    f->row = 0;
    f->n = f->i = 0;
    f->j = first;
    if (first >= r->w) {
        f->n = first / r->w / r->h;
        f->i = first / r->w % r->h;
        f->j = first % r->w;
    }
    place(f);
}

/* The next rows, at most `rows`. */
static inline void finish_rows(amx_finishing *f, int64_t rows)
{
    const amx_result *r = f->r;
    while (rows > 0 && f->tile < 2) {
        int64_t n = lgv_min_i64(rows, lgv_min_i64(f->count[f->tile] - f->row, r->w - f->j));
        if (r->k - f->k0 < BLOCK_COLUMNS) {
            n = 1;
            finish_columns(f);
        } else if (r->wide) {
            finish_full(f, n, true);
        } else {
            finish_full(f, n, false);
        }
        rows -= n;
        f->sum += n * BLOCK_COLUMNS;
        f->row += n;
        if (f->row == f->count[f->tile]) {
            f->sum += (TILE_ROWS - f->row) * BLOCK_COLUMNS;
            f->tile++;
            start_tile(f);
            continue;
        }
        f->y += n * f->y_step;
        f->residual += n * f->residual_step;
        f->j += n;
        if (f->j < r->w) continue;
        f->j = 0;
        if (++f->i == r->h) {
            f->i = 0;
            f->n++;
        }
        place(f);
    }
}

amx_finishing amx_finish(const amx_result *r, const float *sum, const int64_t first[2],
                         const int64_t count[2], int64_t k0)
{
    amx_finishing f = {
        .r = r, .sum = sum, .count = {count[0], count[1]}, .k0 = k0, .first = {first[0], first[1]}};
    f.y_step = r->sw * (r->wide ? 4 : 2);
    f.residual_step = r->e.residual ? r->e.residual_shape.sw * (r->wide_residual ? 4 : 2) : 0;
    f.y_ahead = r->ahead ? r->ahead : BLOCK_ROWS * f.y_step;
    f.residual_ahead = r->ahead ? r->ahead : BLOCK_ROWS * f.residual_step;
    start_tile(&f);
    return f;
}

void amx_finish_rest(amx_finishing *f)
{
    finish_rows(f, BLOCK_ROWS);
}

void amx_product(tiles *s, const amx_inner *inner, const uint16_t *a0, const uint16_t *a1,
                 int64_t stride, amx_right right, amx_ahead ahead, bool add, float *sum,
                 amx_finishing *f)
{
    const uint16_t *b = right.b;
    tile_memory_ready();
    sums_begin(s, add, sum, BLOCK_COLUMNS);
    const int64_t rows = f && inner->steps ? lgv_ceil_div(BLOCK_ROWS, inner->steps) : 0;
    for (int64_t i = 0; i < inner->steps; i++) {
        for (int t = 0; t < inner->taps; t++) {
            const int64_t offset = inner->offset[t];
            for (int line = 0; line < ahead.p_lines; line++, ahead.p += 64)
                __builtin_prefetch(ahead.p, 0, 2);
            for (int line = 0; line < ahead.q_lines; line++, ahead.q += 64)
                __builtin_prefetch(ahead.q, 0, 2);
            tile_load(s, 4, a0 + offset, stride);
            tile_load(s, 6, b, TILE_BYTES);
            tile_dot(s, 0, 4, 6);
            tile_load(s, 7, b + right.half, TILE_BYTES);
            tile_dot(s, 1, 4, 7);
            tile_load(s, 5, a1 + offset, stride);
            tile_dot(s, 2, 5, 6);
            tile_dot(s, 3, 5, 7);
            b += right.step;
        }
        if (rows) finish_rows(f, rows);
        a0 += TILE_BF16;
        a1 += TILE_BF16;
    }
    sums_end(s, sum, BLOCK_COLUMNS);
}
