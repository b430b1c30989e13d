/* gemm.c - the tile kernels of the packed matrix product, and the loop over blocks around them.
   A tile is GEMM_MR rows by GEMM_NR columns of sums in registers. The loop keeps a panel's block
   (GEMM_KC x GEMM_NR) in L1 while the rows of the block, which fit L2, stream past it. */
#include "gemm.h"

static const real zeros[GEMM_KC + 16];

/* One product of the tile: column vectors of line b times element k of each row. */
LGV_FOLD void tile_step(int nv, const real *const row[GEMM_MR], int64_t k, const real *b,
                        vreal sum[GEMM_MR][GEMM_NV])
{
    vreal column[GEMM_NV];
    LGV_UNROLL
    for (int v = 0; v < nv; v++) column[v] = v_load(b + v * VL);
    LGV_UNROLL
    for (int r = 0; r < GEMM_MR; r++) {
        vreal x = v_set1(row[r][k]);
        LGV_UNROLL
        for (int v = 0; v < nv; v++) sum[r][v] = v_fma(x, column[v], sum[r][v]);
    }
}

/* What a tile does: `taps` segments of n products each. Row r's elements of a tap are at a[tap][r] + offset,
   the packed lines at b; sums start at `start` (a row of columns; NULL: zeros) and go to to[r], added to what is
   there if `add`. */
typedef struct tile {
    int taps;
    int64_t n, offset;
    const real *const *a;
    const real *b, *start;
    bool add;
    real *to[GEMM_MR];
} tile;

/* nv (constant) vectors of columns; elements of a row are step (constant) apart. */
LGV_FOLD void tile_sums(int nv, int step, const tile *t)
{
    vreal sum[GEMM_MR][GEMM_NV];
    LGV_UNROLL
    for (int v = 0; v < nv; v++) {
        sum[0][v] = t->start ? v_load(t->start + v * VL) : v_zero();
        LGV_UNROLL
        for (int r = 1; r < GEMM_MR; r++) sum[r][v] = sum[0][v];
    }
    const real *b = t->b;
    const int64_t offset = t->offset, end = t->n * step;
    for (int tap = 0; tap < t->taps; tap++) {
        const real *row[GEMM_MR];
        LGV_UNROLL
        for (int r = 0; r < GEMM_MR; r++) {
            const real *a = t->a[tap * GEMM_MR + r];
            row[r] = a ? a + offset : zeros;
        }
        int64_t k = 0;
        for (; k + step < end; k += 2 * step, b += 2 * GEMM_NR) {
            tile_step(nv, row, k, b, sum);
            tile_step(nv, row, k + step, b + GEMM_NR, sum);
        }
        if (k < end) {
            tile_step(nv, row, k, b, sum);
            b += GEMM_NR;
        }
    }
    if (t->add) {
        LGV_UNROLL
        for (int r = 0; r < GEMM_MR; r++) {
            LGV_UNROLL
            for (int v = 0; v < nv; v++) sum[r][v] = v_add(v_load(t->to[r] + v * VL), sum[r][v]);
        }
    }
    LGV_UNROLL
    for (int r = 0; r < GEMM_MR; r++) {
        LGV_UNROLL
        for (int v = 0; v < nv; v++) v_store(t->to[r] + v * VL, sum[r][v]);
    }
}

static void tile_1(const tile *t)
{
    tile_sums(1, 1, t);
}
static void tile_2(const tile *t)
{
    tile_sums(2, 1, t);
}
#if LGV_VECTOR != 8
static void tile_3(const tile *t)
{
    tile_sums(3, 1, t);
}
static void tile_4(const tile *t)
{
    tile_sums(4, 1, t);
}
#endif
typedef void tile_fn(const tile *t);
static tile_fn *const tile_kernels[GEMM_NV] = {tile_1, tile_2,
#if LGV_VECTOR != 8
                                               tile_3, tile_4
#endif
};

void gemm_outer_tile(const real *a, const real *b, int64_t count, real *sum)
{
    gemm_outer_tile_to(a, b, count, sum, GEMM_NR, false);
}

void gemm_outer_tile_to(const real *a, const real *b, int64_t count, real *y, int64_t ld, bool add)
{
    const real *row[GEMM_MR];
    tile t = {.taps = 1, .n = count, .a = row, .b = b, .add = add};
    for (int r = 0; r < GEMM_MR; r++) {
        row[r] = a + r;
        t.to[r] = y + r * ld;
    }
    tile_sums(GEMM_NV, GEMM_MR, &t);
}

/* Adds the sums of a tile to the rows it belongs to. first: they hold nothing yet; epilogue NULL: none, or more
   to come. */
static void finish_tile(const real *sums, const gemm_row *row, int64_t rows, int64_t k,
                        int64_t columns, bool first, const conv_epilogue *epilogue)
{
    for (int64_t r = 0; r < rows; r++)
        for (int64_t v = 0; v < columns; v += VL) {
            int64_t n = lgv_min_i64(VL, columns - v);
            real *y = row[r].y + k + v;
            vreal sum = v_load(sums + r * GEMM_NR + v);
            if (!first) sum = v_add(n == VL ? v_load(y) : v_load_n(y, n), sum);
            if (epilogue) sum = gemm_epilogue(epilogue, &row[r], k + v, n, sum);
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

/* Panel p. Whole panels start their sums at the bias and go straight to their rows when nothing but the bias is
   to be done; others pass through `sums`, as do the rows that only fill up a tile. */
static void run_panel(const gemm_block *g, const inner_block *i, int64_t p, bool more)
{
    _Alignas(64) real sums[GEMM_MR * GEMM_NR] = {0};
    int64_t k = p * GEMM_NR, columns = lgv_min_i64(GEMM_NR, g->columns - k);
    bool whole = columns == GEMM_NR;
    conv_epilogue e = g->epilogue ? *g->epilogue : (conv_epilogue){0};
    tile t = {.taps = i->taps, .n = i->n, .offset = i->c};
    t.b = g->panels + p * g->panel_size + (i->tap * g->c + i->c) * GEMM_NR;
    if (whole && i->first && e.bias) t.start = e.bias + k;
    if (whole) e.bias = NULL;
    bool finish = i->last && (e.bias || e.row || e.residual || e.act || e.gate),
         direct = whole && !finish;
    t.add = direct && !i->first;
    tile_fn *kernel = tile_kernels[lgv_ceil_div(columns, VL) - 1];
    const char *next = (const char *)(t.b + g->panel_size);
    const int64_t lines =
        more ? lgv_ceil_div(i->taps * i->n * GEMM_NR * (int64_t)sizeof(real), 64) : 0;
    for (int64_t m = 0; m < g->m; m += GEMM_MR) {
        int64_t rows = lgv_min_i64(GEMM_MR, g->m - m), tiles = lgv_ceil_div(g->m, GEMM_MR);
        t.a = g->table + m * g->taps + i->tap * GEMM_MR;
        for (int r = 0; r < GEMM_MR; r++) {
            if (r < rows) __builtin_prefetch(g->row[m + r].y + k, 1);
            t.to[r] = direct && r < rows ? g->row[m + r].y + k : sums + r * GEMM_NR;
        }
        for (int64_t l = m / GEMM_MR * lines / tiles; l < (m / GEMM_MR + 1) * lines / tiles; l++)
            __builtin_prefetch(next + l * 64, 0, 2);
        kernel(&t);
        if (!direct) finish_tile(sums, g->row + m, rows, k, columns, i->first, finish ? &e : NULL);
    }
}

static void run_inner(const gemm_block *g, const inner_block *i, int64_t first, int64_t last)
{
    for (int64_t p = first; p < last; p++) run_panel(g, i, p, p + 1 < last);
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
