/* amx_product.c - the block product on tiles, and the epilogue that makes a result of its sums.
   A step is 4 tile loads for 4 products, so that loads and products take equally long. The right operand streams
   from L2, and prefetching it into L1 costs more load slots than it saves; the left one stays in L1. */
#include "amx_product.h"

enum { DELAY = 2 }; /* steps of one tap after which rows are finished */

/* What an epilogue consists of, in the order of its formula; NARROW: bf16 comes out, and what is added is bf16. */
enum { BIAS = 1, ROW = 2, ACT = 4, GATE = 8, RESIDUAL = 16, NARROW = 32 };

static int parts_of(const amx_result *r)
{
    const conv_epilogue *e = &r->e;
    return (e->bias ? BIAS : 0) | (e->row ? ROW : 0) | (e->act ? ACT : 0) | (e->gate ? GATE : 0) |
           (e->residual ? RESIDUAL : 0) |
           (r->wide || (e->residual && r->wide_residual) ? 0 : NARROW);
}

/* The epilogue of `count` vectors; rough: they are rounded to bf16 next. What `parts` lacks is not read. */
LGV_FOLD void epilogue(vreal *v, int count, const int parts, int act, bool rough, const vreal *bias,
                       const vreal *row, const vreal *gate, const vreal *residual)
{
    LGV_UNROLL
    for (int i = 0; i < count; i++) {
        if (parts & BIAS) v[i] = v_add(v[i], bias[i]);
        if (parts & ROW) v[i] = v_add(v[i], row[i]);
    }
    if (parts & ACT) v_act_many(v, count, act, rough);
    LGV_UNROLL
    for (int i = 0; i < count; i++) {
        if (parts & GATE) v[i] = v_mul(v[i], gate[i]);
        if (parts & RESIDUAL) v[i] = v_add(v[i], residual[i]);
    }
}

/* A row of the last block, which has fewer columns. */
static void finish_columns(const amx_finishing *f)
{
    const amx_result *r = f->r;
    const int64_t columns = r->k - f->k0;
    for (int64_t k = 0; k < columns; k += VL) {
        const int64_t n = columns - k;
        const vreal none = v_zero(), bias = f->bias ? v_load_n(f->bias + k, n) : none,
                    row = f->row ? v_load_n(f->row + k, n) : none,
                    gate = f->gate ? v_load_n(f->gate + k, n) : none,
                    residual = f->residual ? amx_load_n(f->residual, k, n, r->wide_residual) : none;
        vreal v = v_load(f->sum + k);
        epilogue(&v, 1, f->parts, r->e.act, !r->wide, &bias, &row, &gate, &residual);
        amx_store_n(f->y, k, n, r->wide, v);
    }
}

/* All 32 columns of `rows` rows that lie a fixed step apart, of one picture. Parts that are known when this is compiled cost
   nothing where they are absent. */
LGV_FOLD void finish_full(const amx_finishing *f, int64_t rows, const int parts)
{
    enum { VECTORS = BLOCK_COLUMNS / VL };
    const amx_result *r = f->r;
    const bool wide = !(parts & NARROW) && r->wide,
               wide_residual = !(parts & NARROW) && r->wide_residual;
    const int act = r->e.act;
    const float *sum = f->sum;
    const char *residual = f->residual;
    char *y = f->y;
    vreal bias[VECTORS], row[VECTORS], gate[VECTORS];
    LGV_UNROLL
    for (int i = 0; i < VECTORS; i++) {
        bias[i] = parts & BIAS ? v_load(f->bias + i * VL) : v_zero();
        row[i] = parts & ROW ? v_load(f->row + i * VL) : v_zero();
        gate[i] = parts & GATE ? v_load(f->gate + i * VL) : v_zero();
    }
    for (; rows > 0; rows--) {
        __builtin_prefetch(y + f->y_ahead, 1);
        vreal v[VECTORS], added[VECTORS];
        LGV_UNROLL
        for (int i = 0; i < VECTORS; i++) {
            v[i] = v_load(sum + i * VL);
            added[i] =
                parts & RESIDUAL ? amx_load_n(residual, i * VL, VL, wide_residual) : v_zero();
        }
        epilogue(v, VECTORS, parts, act, !wide, bias, row, gate, added);
        LGV_UNROLL
        for (int i = 0; wide && i < VECTORS; i++) v_store((float *)(void *)y + i * VL, v[i]);
        if (!wide) store_row((uint16_t *)(void *)y, v);
        if (parts & RESIDUAL) {
            __builtin_prefetch(residual + f->residual_ahead);
            residual += f->residual_step;
        }
        sum += BLOCK_COLUMNS;
        y += f->y_step;
    }
}

/* The epilogues of the networks' layers, then any other. */
static void finish_run(const amx_finishing *f, int64_t rows)
{
    switch (f->parts) {
    case NARROW: finish_full(f, rows, NARROW); break;
    case NARROW | BIAS: finish_full(f, rows, NARROW | BIAS); break;
    case NARROW | BIAS | ROW: finish_full(f, rows, NARROW | BIAS | ROW); break;
    case NARROW | BIAS | ACT: finish_full(f, rows, NARROW | BIAS | ACT); break;
    case NARROW | BIAS | RESIDUAL: finish_full(f, rows, NARROW | BIAS | RESIDUAL); break;
    case NARROW | BIAS | GATE | RESIDUAL:
        finish_full(f, rows, NARROW | BIAS | GATE | RESIDUAL);
        break;
    default: finish_full(f, rows, f->parts); break;
    }
}

/* Where the next row of f goes and what is added to it. */
static void place(amx_finishing *f)
{
    const amx_result *r = f->r;
    const conv_epilogue *e = &r->e;
    const lgv_nhwc *s = &e->residual_shape;
    f->y = (char *)r->y + (f->n * r->sn + f->i * r->sh + f->j * r->sw + f->k0) * (r->wide ? 4 : 2);
    if (e->residual)
        f->residual =
            (const char *)e->residual +
            (f->n * s->sn + f->i * s->sh + f->j * s->sw + f->k0) * (r->wide_residual ? 4 : 2);
    if (e->row) f->row = e->row + f->n * e->row_stride + f->k0;
    if (e->gate) f->gate = e->gate + f->n * e->gate_stride + f->k0;
    f->run = lgv_min_i64(f->left, r->w - f->j);
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
    f->left = f->count[f->tile];
    f->n = f->i = 0;
    f->j = first;
    if (first >= r->w) {
        f->n = first / r->w / r->h;
        f->i = first / r->w % r->h;
        f->j = first % r->w;
    }
    place(f);
}

/* A run of rows has ended: on to the picture's next row, or to the next tile. */
static void next_run(amx_finishing *f)
{
    const amx_result *r = f->r;
    if (f->left == 0) {
        f->sum += (TILE_ROWS - f->count[f->tile]) * BLOCK_COLUMNS;
        f->tile++;
        start_tile(f);
        return;
    }
    f->j = 0;
    if (++f->i == r->h) {
        f->i = 0;
        f->n++;
    }
    place(f);
}

/* The next rows, at most `rows`. */
static inline void finish_rows(amx_finishing *f, int64_t rows)
{
    while (rows > 0 && f->tile < 2) {
        int64_t n = lgv_min_i64(rows, f->run);
        if (f->r->k - f->k0 < BLOCK_COLUMNS) {
            n = 1;
            finish_columns(f);
        } else {
            finish_run(f, n);
        }
        rows -= n;
        f->sum += n * BLOCK_COLUMNS;
        f->y += n * f->y_step;
        f->residual += n * f->residual_step;
        f->j += n;
        f->left -= n;
        f->run -= n;
        if (f->run == 0) next_run(f);
    }
}

amx_finishing amx_finish(const amx_result *r, const float *sum, const int64_t first[2],
                         const int64_t count[2], int64_t k0)
{
    amx_finishing f = {.r = r,
                       .sum = sum,
                       .count = {count[0], count[1]},
                       .k0 = k0,
                       .first = {first[0], first[1]},
                       .parts = parts_of(r),
                       .bias = r->e.bias ? r->e.bias + k0 : NULL};
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
    /* Sums that have just been stored cannot be read at once; few calls cost less than many. */
    const int64_t delay = inner->taps == 1 && inner->steps > 2 * DELAY ? DELAY : 0;
    const int64_t rows =
        f && inner->steps ? lgv_max_i64(4, lgv_ceil_div(BLOCK_ROWS, inner->steps - delay)) : 0;
    for (int64_t i = 0; i < inner->steps; i++) {
        for (int t = 0; t < inner->taps; t++) {
            const int64_t offset = inner->offset[t];
            for (int line = 0; line < ahead.p_lines; line++, ahead.p += 64)
                __builtin_prefetch(ahead.p, 0, 2);
            for (int line = 0; line < ahead.q_lines; line++, ahead.q += 64)
                __builtin_prefetch(ahead.q, 0, 2);
            sums_add(s, a0 + offset, a1 + offset, stride, b, right.half);
            b += right.step;
        }
        if (rows && i >= delay) finish_rows(f, rows);
        a0 += TILE_BF16;
        a1 += TILE_BF16;
    }
    sums_end(s, sum, BLOCK_COLUMNS);
}
