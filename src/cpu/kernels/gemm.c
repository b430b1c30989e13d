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
   the packed lines at b; sums start at `start` (a row of columns; NULL: zeros), then the rows plus[0..pluses) are
   added in order, and the result goes to to[r]. */
typedef struct tile {
    int taps, pluses;
    int64_t n, offset;
    const real *const *a;
    const real *b, *start;
    const real *plus[3][GEMM_MR];
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
    for (int i = 0; i < t->pluses; i++) {
        LGV_UNROLL
        for (int r = 0; r < GEMM_MR; r++) {
            LGV_UNROLL
            for (int v = 0; v < nv; v++)
                sum[r][v] = v_add(v_load(t->plus[i][r] + v * VL), sum[r][v]);
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
    tile t = {.taps = 1, .n = count, .a = row, .b = b, .pluses = add};
    for (int r = 0; r < GEMM_MR; r++) {
        row[r] = a + r;
        t.plus[0][r] = t.to[r] = y + r * ld;
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

/* Sets what is added to the sums of whole panels, row after row: earlier partial sums, the epilogue's row vector and
   residual. Rows that only fill up the tile go to `spare`. */
static void set_rows(tile *t, const gemm_row *row, int64_t rows, int64_t k, bool add,
                     const conv_epilogue *e, real *spare)
{
    t->pluses = add + (e && e->row) + (e && e->residual);
    for (int r = 0; r < GEMM_MR; r++, spare += GEMM_NR) {
        int i = 0;
        t->to[r] = r < rows ? row[r].y + k : spare;
        if (add) t->plus[i++][r] = t->to[r];
        if (e && e->row) t->plus[i++][r] = r < rows ? e->row + row[r].n * e->row_stride + k : spare;
        if (e && e->residual) t->plus[i][r] = r < rows ? row[r].residual + k : spare;
    }
}

/* Fetches a later tile's results, residuals and, for the first panel of one tap, its left rows. */
static void fetch_rows(const gemm_block *g, const inner_block *i, int64_t m, int64_t k, bool left)
{
    const int64_t stop = lgv_min_i64(m + GEMM_MR, g->m);
    for (int64_t r = m; r < stop; r++) {
        __builtin_prefetch(g->row[r].y + k, 1);
        if (g->row[r].residual) __builtin_prefetch(g->row[r].residual + k);
    }
    if (!left || m >= stop) return;
    for (int r = 0; r < GEMM_MR; r++) {
        const real *a = g->table[m * g->taps + r];
        for (int64_t c = 0; a && c < i->n; c += 64 / (int64_t)sizeof(real))
            __builtin_prefetch(a + i->c + c);
    }
}

/* Panel p. Whole panels start their sums at the bias and go straight to their rows when no function is
   to be applied; others pass through `sums`. more: another panel follows, and its lines are fetched. */
static void run_panel(const gemm_block *g, const inner_block *i, int64_t p, bool fresh, bool more)
{
    _Alignas(64) real sums[GEMM_MR * GEMM_NR] = {0};
    int64_t k = p * GEMM_NR, columns = lgv_min_i64(GEMM_NR, g->columns - k);
    bool whole = columns == GEMM_NR, left = fresh && g->taps == 1;
    conv_epilogue e = g->epilogue ? *g->epilogue : (conv_epilogue){0};
    tile t = {.taps = i->taps, .n = i->n, .offset = i->c};
    t.b = g->panels + p * g->panel_size + (i->tap * g->c + i->c) * GEMM_NR;
    if (whole && i->first && e.bias) t.start = e.bias + k;
    if (whole) e.bias = NULL;
    bool direct = whole && !(i->last && (e.act || e.gate));
    tile_fn *kernel = tile_kernels[lgv_ceil_div(columns, VL) - 1];
    const char *next = (const char *)(t.b + g->panel_size);
    const int64_t bytes = more ? i->taps * i->n * GEMM_NR * (int64_t)sizeof(real) : 0,
                  lines = lgv_ceil_div(bytes, 64 * lgv_ceil_div(g->m, GEMM_MR)); /* a tile */
    fetch_rows(g, i, 0, k, left);
    for (int64_t m = 0; m < g->m; m += GEMM_MR) {
        int64_t rows = lgv_min_i64(GEMM_MR, g->m - m);
        t.a = g->table + m * g->taps + i->tap * GEMM_MR;
        if (direct)
            set_rows(&t, g->row + m, rows, k, !i->first, i->last ? &e : NULL, sums);
        else
            for (int r = 0; r < GEMM_MR; r++) t.to[r] = sums + r * GEMM_NR;
        fetch_rows(g, i, m + GEMM_MR, k, left);
        for (int64_t l = 0; l < lines; l++, next += 64) __builtin_prefetch(next, 0, 2);
        kernel(&t);
        if (!direct) finish_tile(sums, g->row + m, rows, k, columns, i->first, i->last ? &e : NULL);
    }
}

static void run_inner(const gemm_block *g, const inner_block *i, int64_t first, int64_t last)
{
    for (int64_t p = first; p < last; p++) run_panel(g, i, p, p == first, p + 1 < last);
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
