/* conv_gemm_w.c - the gradient for weights as a matrix product over positions:
   dw[k, (tap, c)] = sum over positions p of dy[p, k] x[p at tap, c].
   Work is shared out by blocks of outputs; only when these are few are the positions cut too, into
   at most 8 pieces (a function of the shape), whose sums are added in order. Blocks of GEMM_KC
   positions of dy and of x are packed as tiles want them. */
#include "gemm.h"

enum {
    BLOCK = GEMM_KC,
    K_TILES = (VL == 16 ? 384 : 264) / GEMM_MR, /* of a block, at most: L2 holds its dy */
    J_COLUMNS = 576,
    PACKING = 40, /* products that take as long as packing one element */
    MAX_PIECES = 8,
    MIN_COLUMNS = 128, /* of a block: fewer would spend their time on packing */
    MIN_OUTPUTS = 96,
    ENOUGH = 8, /* such blocks: several threads share them without cutting the positions */
    LINE = 64 / sizeof(real),
    COPIED = GEMM_MR == 6 ? 8 : GEMM_MR, /* of dy at once; the next row overwrites the rest */
    AHEAD = 24
};
/* Elements of a packed tile of dy; the extra line keeps tiles off each other's cache sets. */
enum { A_TILE = BLOCK * GEMM_MR + LINE };

/* How the work is cut. The pieces, which are added up, follow from the shape alone. */
typedef struct cut {
    int64_t positions, columns; /* columns: taps * C */
    int64_t k_blocks, k_tiles;  /* blocks of outputs, tiles of each */
    int64_t j_blocks, j_panels; /* blocks of columns, panels of each */
    int64_t pieces, piece;      /* of the positions */
    bool direct;                /* one tap, one piece: sums go where they belong at once */
    size_t thread_bytes;
} cut;

typedef struct run_w {
    conv_problem p;
    cut c;
    real *partial; /* [piece][k][columns], or dw itself */
    int64_t ld;    /* from one output to the next */
    char *workspace;
    bool accumulate;
} run_w;

/* A thread's part of the workspace. */
typedef struct scratch {
    real *a, *b; /* dy [tile][position][GEMM_MR]; x of one panel [position][GEMM_NR] */
    const real **dy,
        **x0;       /* of each position: its dy, and the x that tap (0,0) reads (may lie outside) */
    const real **x; /* at the current tap; NULL outside; AHEAD more are read for prefetching */
    int32_t *h, *w; /* of x0 */
} scratch;

/* Cuts outputs and columns into blocks for the threads; which block computes an output does not change its sum. A
   thread takes as long as its blocks, and a quarter of one that it waits for at the end. A block's time is its products
   of one position, and PACKING of them for each of its elements of dy and x, which come from L3. */
static void share_out(cut *c, int64_t tiles, int64_t panels, int threads)
{
    const int64_t k_most = lgv_max_i64(c->k_blocks, tiles * GEMM_MR / MIN_OUTPUTS),
                  j_least = c->j_blocks,
                  j_most = lgv_max_i64(j_least, panels * GEMM_NR / MIN_COLUMNS);
    int64_t best = INT64_MAX;
    for (int64_t k = c->k_blocks; k <= k_most; k++)
        for (int64_t j = j_least; j <= j_most; j++) {
            int64_t k_tiles = lgv_ceil_div(tiles, k), j_panels = lgv_ceil_div(panels, j),
                    k_blocks = lgv_ceil_div(tiles, k_tiles),
                    j_blocks = lgv_ceil_div(panels, j_panels),
                    rounds = lgv_ceil_div(k_blocks * j_blocks * c->pieces, threads),
                    outputs = k_tiles * GEMM_MR, columns = j_panels * GEMM_NR,
                    time = (4 * rounds + (threads > 1)) *
                           (outputs * columns + PACKING * (outputs + columns));
            if (time >= best) continue;
            best = time;
            c->k_tiles = k_tiles;
            c->k_blocks = k_blocks;
            c->j_panels = j_panels;
            c->j_blocks = j_blocks;
        }
}

static cut make_cut(const conv_problem *p, int threads)
{
    cut c = {.positions = p->y.n * p->y.h * p->y.w, .columns = p->kh * p->kw * p->x.c};
    int64_t tiles = lgv_ceil_div(p->y.c, GEMM_MR), panels = gemm_panels(c.columns);
    c.k_tiles = lgv_ceil_div(tiles, lgv_ceil_div(tiles, K_TILES));
    c.k_blocks = lgv_ceil_div(tiles, c.k_tiles);
    c.j_panels = lgv_ceil_div(panels, lgv_ceil_div(panels, lgv_max_i64(1, J_COLUMNS / GEMM_NR)));
    c.j_blocks = lgv_ceil_div(panels, c.j_panels);
    int64_t tasks = c.k_blocks * c.j_blocks;
    c.pieces = tasks >= 16 ? 1
                           : lgv_min_i64(lgv_min_i64(MAX_PIECES, lgv_ceil_div(16, tasks)),
                                         lgv_ceil_div(c.positions, 4 * BLOCK));
    bool one_tap = p->kh * p->kw == 1 && p->ws[1] == 1;
    if (one_tap && p->y.c / MIN_OUTPUTS * (c.columns / MIN_COLUMNS) >= ENOUGH) c.pieces = 1;
    c.piece = lgv_ceil_div(lgv_ceil_div(c.positions, c.pieces), BLOCK) * BLOCK;
    c.pieces = lgv_ceil_div(c.positions, c.piece);
    c.direct = one_tap && c.pieces == 1;
    share_out(&c, tiles, panels, threads);
    c.thread_bytes = lgv_round_up((size_t)(c.k_tiles * A_TILE) * sizeof(real)) +
                     lgv_round_up(BLOCK * GEMM_NR * sizeof(real)) +
                     3 * lgv_round_up((BLOCK + AHEAD) * sizeof(real *)) +
                     2 * lgv_round_up(BLOCK * sizeof(int32_t));
    return c;
}

static void *take(char **p, size_t bytes)
{
    void *q = *p;
    *p += lgv_round_up(bytes);
    return q;
}

static scratch scratch_of(const run_w *r, int thread)
{
    char *p = r->workspace + (size_t)thread * r->c.thread_bytes;
    scratch s;
    s.a = take(&p, (size_t)(r->c.k_tiles * A_TILE) * sizeof(real));
    s.b = take(&p, BLOCK * GEMM_NR * sizeof(real));
    s.dy = take(&p, (BLOCK + AHEAD) * sizeof(real *));
    s.x0 = take(&p, (BLOCK + AHEAD) * sizeof(real *));
    s.x = take(&p, (BLOCK + AHEAD) * sizeof(real *));
    s.h = take(&p, BLOCK * sizeof(int32_t));
    s.w = take(&p, BLOCK * sizeof(int32_t));
    return s;
}

static void locate(const conv_problem *p, const scratch *s, int64_t first, int64_t count)
{
    int64_t j = first % p->y.w, i = first / p->y.w % p->y.h, n = first / p->y.w / p->y.h;
    for (int64_t q = 0; q < count; q++) {
        int64_t h = i * p->stride - p->top, w = j * p->stride - p->left;
        s->dy[q] = p->yd + n * p->y.sn + i * p->y.sh + j * p->y.sw;
        s->x0[q] = p->xd + n * p->x.sn; /* the row's picture: taps add their pixel */
        s->h[q] = (int32_t)h;
        s->w[q] = (int32_t)w;
        if (++j == p->y.w) {
            j = 0;
            if (++i == p->y.h) {
                i = 0;
                n++;
            }
        }
    }
}

static void locate_tap(const conv_problem *p, const scratch *s, int64_t tap, int64_t count)
{
    int64_t i = tap / p->kw, j = tap % p->kw;
    for (int64_t q = 0; q < count; q++) {
        int64_t h = s->h[q] + i, w = s->w[q] + j;
        bool inside = (uint64_t)h < (uint64_t)p->x.h && (uint64_t)w < (uint64_t)p->x.w;
        s->x[q] = inside ? s->x0[q] + h * p->x.sh + w * p->x.sw : NULL;
    }
}

/* 16 positions at a time, so that their rows of dy stay in L1 over the tiles. */
static void pack_dy(const scratch *s, int64_t k0, int64_t k1, int64_t count)
{
    for (int64_t q0 = 0; q0 < count; q0 += 16) {
        int64_t q1 = lgv_min_i64(q0 + 16, count), q2 = lgv_min_i64(q1 + 16, count);
        real *tile = s->a;
        for (int64_t q = q1; q < q2; q++)
            for (int64_t k = k0; k < k1; k += LINE) __builtin_prefetch(s->dy[q] + k);
        for (int64_t k = k0; k < k1; k += GEMM_MR, tile += A_TILE) {
            if (k + COPIED <= k1) {
                for (int64_t q = q0; q < q1; q++)
                    memcpy(tile + q * GEMM_MR, s->dy[q] + k, COPIED * sizeof(real));
            } else if (k + GEMM_MR <= k1) {
                for (int64_t q = q0; q < q1; q++)
                    memcpy(tile + q * GEMM_MR, s->dy[q] + k, GEMM_MR * sizeof(real));
            } else {
                for (int64_t q = q0; q < q1; q++)
                    for (int r = 0; r < GEMM_MR; r++)
                        tile[q * GEMM_MR + r] = k + r < k1 ? s->dy[q][k + r] : 0;
            }
        }
    }
}

/* Columns [j, j+n) of one tap's channels [c, c+n) into the panel at column `at`. */
static void pack_segment(const scratch *s, int64_t c, int64_t n, int64_t at, int64_t count)
{
    real *to = s->b + at;
    if (n == GEMM_NR) {
        for (int64_t q = 0; q < count; q++, to += GEMM_NR) {
            const real *x = s->x[q];
            LGV_UNROLL
            for (int v = 0; v < GEMM_NR; v += LINE)
                __builtin_prefetch(
                    (const void *)((uintptr_t)s->x[q + AHEAD] + (size_t)(c + v) * sizeof(real)));
            LGV_UNROLL
            for (int v = 0; v < GEMM_NV; v++)
                v_store(to + v * VL, x ? v_load(x + c + v * VL) : v_zero());
        }
        return;
    }
    for (int64_t q = 0; q < count; q++, to += GEMM_NR) {
        const real *x = s->x[q];
        for (int64_t i = 0; i < n; i++) to[i] = x ? x[c + i] : 0;
    }
}

/* tap: the one s->x is set to, -1 none. */
static void pack_x(const conv_problem *p, const scratch *s, int64_t j0, int64_t j1, int64_t count,
                   int64_t *tap)
{
    for (int64_t j = j0; j < j1;) {
        int64_t t = j / p->x.c, c = j % p->x.c, n = lgv_min_i64(j1 - j, p->x.c - c);
        if (t != *tap) locate_tap(p, s, t, count);
        *tap = t;
        pack_segment(s, c, n, j - j0, count);
        j += n;
    }
    for (int64_t q = 0; q < count && j1 - j0 < GEMM_NR; q++)
        for (int64_t i = j1 - j0; i < GEMM_NR; i++) s->b[q * GEMM_NR + i] = 0;
}

static void add_tile(const run_w *r, real *partial, const real *tile, int64_t k, int64_t k1,
                     int64_t j, int64_t j1, bool first)
{
    for (int i = 0; i < GEMM_MR && k + i < k1; i++) {
        real *to = partial + (k + i) * r->ld + j;
        for (int64_t v = 0; v < j1 - j; v += VL) {
            int64_t n = j1 - j - v;
            vreal sum = v_load(tile + i * GEMM_NR + v);
            if (n >= VL)
                v_store(to + v, first ? sum : v_add(v_load(to + v), sum));
            else
                v_store_n(to + v, first ? sum : v_add(v_load_n(to + v, n), sum), n);
        }
    }
}

/* Outputs [k, k+GEMM_MR) by columns [j, j1) of the block of `count` positions in the scratch. */
static void add_product(const run_w *r, const scratch *s, real *partial, int64_t k0, int64_t k,
                        int64_t k1, int64_t j, int64_t j1, int64_t count, bool first)
{
    const real *a = s->a + (k - k0) / GEMM_MR * A_TILE;
    int64_t ld = r->ld;
    real *to = partial + k * ld + j;
    for (int i = 0; i < GEMM_MR; i++)
        for (int64_t v = 0; v < GEMM_NR; v += LINE) __builtin_prefetch(to + i * ld + v, 1);
    if (k + GEMM_MR <= k1 && j + GEMM_NR <= j1) {
        gemm_outer_tile_to(a, s->b, count, to, ld, !first);
    } else {
        _Alignas(64) real tile[GEMM_MR * GEMM_NR];
        gemm_outer_tile(a, s->b, count, tile);
        add_tile(r, partial, tile, k, k1, j, j1, first);
    }
}

static void sum_task(void *arg, int64_t block, int thread)
{
    const run_w *r = arg;
    const conv_problem *p = &r->p;
    const cut *c = &r->c;
    scratch s = scratch_of(r, thread);
    int64_t j_block = block % c->j_blocks, k_block = block / c->j_blocks % c->k_blocks,
            piece = block / c->j_blocks / c->k_blocks;
    int64_t k0 = k_block * c->k_tiles * GEMM_MR,
            k1 = lgv_min_i64(k0 + c->k_tiles * GEMM_MR, p->y.c);
    int64_t j0 = j_block * c->j_panels * GEMM_NR,
            j1 = lgv_min_i64(j0 + c->j_panels * GEMM_NR, c->columns);
    int64_t start = piece * c->piece, end = lgv_min_i64(start + c->piece, c->positions);
    real *partial = r->partial + piece * p->y.c * c->columns;
    for (int64_t q = start; q < end; q += BLOCK) {
        int64_t count = lgv_min_i64(BLOCK, end - q), tap = -1;
        bool first = q == start && !(c->direct && r->accumulate);
        locate(p, &s, q, count);
        pack_dy(&s, k0, k1, count);
        for (int64_t j = j0; j < j1; j += GEMM_NR) {
            int64_t stop = lgv_min_i64(j + GEMM_NR, j1);
            pack_x(p, &s, j, stop, count, &tap);
            for (int64_t k = k0; k < k1; k += GEMM_MR)
                add_product(r, &s, partial, k0, k, k1, j, stop, count, first);
        }
    }
}

/* to[c][tap] (+)= sum[tap][c] */
LGV_FOLD void transpose_taps(const real *sum, int64_t taps, int64_t channels, real *to,
                             bool accumulate)
{
    for (int64_t c = 0; c < channels; c++, to += taps)
        for (int64_t t = 0; t < taps; t++) {
            real v = sum[t * channels + c];
            to[t] = accumulate ? to[t] + v : v;
        }
}

/* dw[k] of all taps and channels: the pieces added in order, then transposed to the weights' layout. */
static void combine_task(void *arg, int64_t k, int thread)
{
    const run_w *r = arg;
    const conv_problem *p = &r->p;
    int64_t taps = p->kh * p->kw, columns = r->c.columns;
    real *sum = r->partial + k * columns, *to = p->wd + k * p->ws[0];
    for (int64_t s = 1; s < r->c.pieces; s++) {
        const real *from = sum + s * p->y.c * columns;
        for (int64_t j = 0; j < columns; j++) sum[j] += from[j];
    }
    if (p->ws[1] == taps && (taps == 1 || (p->ws[2] == p->kw && p->ws[3] == 1))) {
        switch (taps) { /* constants, so that the loops are worth compiling */
        case 1: transpose_taps(sum, 1, p->x.c, to, r->accumulate); break;
        case 9: transpose_taps(sum, 9, p->x.c, to, r->accumulate); break;
        default: transpose_taps(sum, taps, p->x.c, to, r->accumulate); break;
        }
        return;
    }
    for (int64_t c = 0; c < p->x.c; c++)
        for (int64_t t = 0; t < taps; t++) {
            real *dw = to + c * p->ws[1] + t / p->kw * p->ws[2] + t % p->kw * p->ws[3],
                 v = sum[t * p->x.c + c];
            *dw = r->accumulate ? *dw + v : v;
        }
}

static size_t partial_bytes(const conv_problem *p, const cut *c)
{
    if (c->direct) return 0;
    return lgv_round_up((size_t)(c->pieces * p->y.c * c->columns) * sizeof(real));
}

size_t conv_gemm_w_workspace(const lgv_call *c)
{
    conv_problem p = conv_describe(c);
    cut t = make_cut(&p, c->threads);
    return partial_bytes(&p, &t) + (size_t)c->threads * t.thread_bytes;
}

void conv_gemm_w(const lgv_call *c)
{
    run_w r = {.p = conv_describe(c), .accumulate = c->accumulate};
    r.c = make_cut(&r.p, c->threads);
    r.partial = r.c.direct ? r.p.wd : c->workspace;
    r.ld = r.c.direct ? r.p.ws[0] : r.c.columns;
    r.workspace = (char *)c->workspace + partial_bytes(&r.p, &r.c);
    lgv_parallel(c, r.c.pieces * r.c.k_blocks * r.c.j_blocks, sum_task, &r);
    if (r.c.direct) return;
    lgv_parallel(c, r.p.y.c, combine_task, &r);
}
