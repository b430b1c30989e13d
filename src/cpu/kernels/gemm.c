/* gemm.c - the tile kernels of the packed matrix product, and the loop over blocks around them.
   A tile is GEMM_MR rows by GEMM_NR columns of sums in registers. The loop keeps a panel's block
   (GEMM_KC x GEMM_NR) in L1 while the rows of the block, which fit L2, stream past it. */
#include "gemm.h"

static const real zeros[GEMM_KC + 16];

/* tile[GEMM_MR][GEMM_NR]: over `taps` segments of `length` products each. nv (constant) vectors of
   columns; a[tap][row] + offset points to a row's segment, step (constant) elements apart. */
LGV_FOLD void tile_sums(int nv, int step, int taps, int64_t length, const real *const *a,
                        int64_t offset, const real *b, real *tile)
{
    vreal sum[GEMM_MR][GEMM_NV];
    LGV_UNROLL
    for (int r = 0; r < GEMM_MR; r++) {
        LGV_UNROLL
        for (int v = 0; v < nv; v++) sum[r][v] = v_zero();
    }
    for (int t = 0; t < taps; t++) {
        const real *row[GEMM_MR];
        LGV_UNROLL
        for (int r = 0; r < GEMM_MR; r++)
            row[r] = a[t * GEMM_MR + r] ? a[t * GEMM_MR + r] + offset : zeros;
        for (int64_t k = 0; k < length * step; k += step) {
            vreal column[GEMM_NV];
            LGV_UNROLL
            for (int v = 0; v < nv; v++) column[v] = v_load(b + v * VL);
            b += GEMM_NR;
            LGV_UNROLL
            for (int r = 0; r < GEMM_MR; r++) {
                vreal x = v_set1(row[r][k]);
                LGV_UNROLL
                for (int v = 0; v < nv; v++) sum[r][v] = v_fma(x, column[v], sum[r][v]);
            }
        }
    }
    LGV_UNROLL
    for (int r = 0; r < GEMM_MR; r++) {
        LGV_UNROLL
        for (int v = 0; v < nv; v++) v_store(tile + r * GEMM_NR + v * VL, sum[r][v]);
    }
}

static void tile_1(int taps, int64_t n, const real *const *a, int64_t o, const real *b, real *tile)
{
    tile_sums(1, 1, taps, n, a, o, b, tile);
}
static void tile_2(int taps, int64_t n, const real *const *a, int64_t o, const real *b, real *tile)
{
    tile_sums(2, 1, taps, n, a, o, b, tile);
}
#if LGV_VECTOR != 8
static void tile_3(int taps, int64_t n, const real *const *a, int64_t o, const real *b, real *tile)
{
    tile_sums(3, 1, taps, n, a, o, b, tile);
}
static void tile_4(int taps, int64_t n, const real *const *a, int64_t o, const real *b, real *tile)
{
    tile_sums(4, 1, taps, n, a, o, b, tile);
}
#endif
typedef void tile_fn(int taps, int64_t n, const real *const *a, int64_t offset, const real *b,
                     real *tile);
static tile_fn *const tile_kernels[GEMM_NV] = {tile_1, tile_2,
#if LGV_VECTOR != 8
                                               tile_3, tile_4
#endif
};

void gemm_outer_tile(const real *a, const real *b, int64_t count, real *sum)
{
    const real *row[GEMM_MR];
    for (int r = 0; r < GEMM_MR; r++) row[r] = a + r;
    tile_sums(GEMM_NV, GEMM_MR, 1, count, row, 0, b, sum);
}

/* Columns [k, k+n) of one row, n <= VL: the epilogue on v. */
static inline vreal apply_epilogue(const conv_epilogue *e, const gemm_row *row, int64_t k,
                                   int64_t n, vreal v)
{
    if (e->bias) v = v_add(v, v_load_n(e->bias + k, n));
    if (e->row) v = v_add(v, v_load_n(e->row + row->n * e->row_stride + k, n));
    if (row->residual) v = v_add(v, v_load_n(row->residual + k, n));
    if (e->act) v = v_act(v, e->act);
    if (e->gate) v = v_mul(v, v_load_n(e->gate + row->n * e->gate_stride + k, n));
    return v;
}

/* A whole tile without an epilogue, the common case. */
static void add_whole_tile(const real *tile, const gemm_row *row, int64_t k, bool first)
{
    for (int r = 0; r < GEMM_MR; r++) {
        real *y = row[r].y + k;
        LGV_UNROLL
        for (int v = 0; v < GEMM_NR; v += VL) {
            vreal sum = v_load(tile + r * GEMM_NR + v);
            v_store(y + v, first ? sum : v_add(v_load(y + v), sum));
        }
    }
}

/* Adds a tile to the rows it belongs to. first: they hold nothing yet; epilogue NULL: none, or more to come. */
static void finish_tile(const real *tile, const gemm_row *row, int64_t rows, int64_t k,
                        int64_t columns, bool first, const conv_epilogue *epilogue)
{
    if (rows == GEMM_MR && columns == GEMM_NR && !epilogue) {
        add_whole_tile(tile, row, k, first);
        return;
    }
    for (int64_t r = 0; r < rows; r++)
        for (int64_t v = 0; v < columns; v += VL) {
            int64_t n = lgv_min_i64(VL, columns - v);
            real *y = row[r].y + k + v;
            vreal sum = v_load(tile + r * GEMM_NR + v);
            if (!first) sum = v_add(n == VL ? v_load(y) : v_load_n(y, n), sum);
            if (epilogue) sum = apply_epilogue(epilogue, &row[r], k + v, n, sum);
            if (n == VL)
                v_store(y, sum);
            else
                v_store_n(y, sum, n);
        }
}

/* One block of the inner dimension, taps [tap, tap+taps) and channels [c, c+n), for panels [first, last). */
typedef struct inner_block {
    int tap, taps;
    int64_t c, n;
    bool first, last;
} inner_block;

static void run_inner(const gemm_block *g, const inner_block *i, int64_t first, int64_t last)
{
    _Alignas(64) real tile[GEMM_MR * GEMM_NR];
    for (int64_t p = first; p < last; p++) {
        int64_t columns = lgv_min_i64(GEMM_NR, g->columns - p * GEMM_NR);
        tile_fn *kernel = tile_kernels[lgv_ceil_div(columns, VL) - 1];
        const real *b = g->panels + p * g->panel_size + (i->tap * g->c + i->c) * GEMM_NR;
        for (int64_t m = 0; m < g->m; m += GEMM_MR) {
            const real *const *a = g->table + m * g->taps + i->tap * GEMM_MR;
            int64_t rows = lgv_min_i64(GEMM_MR, g->m - m);
            for (int64_t r = 0; r < rows; r++) __builtin_prefetch(g->row[m + r].y + p * GEMM_NR, 1);
            kernel(i->taps, i->n, a, i->c, b, tile);
            finish_tile(tile, g->row + m, rows, p * GEMM_NR, columns, i->first,
                        i->last ? g->epilogue : NULL);
        }
    }
}

/* Wide taps are cut into equal pieces, narrow ones taken several at a time; taps and c alone decide. */
void gemm_run_block(const gemm_block *g, int64_t first, int64_t last)
{
    int64_t pieces = lgv_ceil_div(g->c, GEMM_KC), piece = lgv_ceil_div(g->c, pieces);
    int64_t groups = lgv_ceil_div(g->taps, lgv_max_i64(1, GEMM_KC / g->c)),
            group = lgv_ceil_div(g->taps, groups);
    for (int64_t t = 0; t < g->taps; t += group)
        for (int64_t c = 0; c < g->c; c += piece) {
            inner_block i = {.tap = (int)t,
                             .taps = (int)lgv_min_i64(group, g->taps - t),
                             .c = c,
                             .n = lgv_min_i64(piece, g->c - c)};
            i.first = t == 0 && c == 0;
            i.last = t + group >= g->taps && c + piece >= g->c;
            run_inner(g, &i, first, last);
        }
}
