/* amx_conv_w.c - the gradient for weights in bf16: dw[k, tap, c] = sum over positions of dy[., k] x[., c].
   The inner dimension is positions, so dy is transposed (left rows are outputs k) and x becomes right operands of
   position pairs. For windows of stride 1 positions are (row of dy, column of x), flat, with zero rows between
   pictures: a tap's row is then an offset into x's pairs (rows have an even length) and its column one of
   kw shifted copies of dy. So every tile load is aligned; loads across cache lines halve the speed.
   Other windows gather x first.
   A task owns a group of outputs and channels and walks over bands of positions, whose copies and sums fit L2.
   Where groups are few, positions are cut into at most 8 pieces by shape, added in order at the end. */
#include "amx_conv.h"

enum {
    GROUP = 128, /* outputs and channels of a group */
    BAND = 768,  /* positions, about */
    MAX_PIECES = 8,
    PIECE = 8192, /* positions at least: a piece's sums are written and read once more */
    HALF = 1024, /* positions at least of a single group for two pieces, so that two threads work */
    FAR = 16,    /* positions to fetch ahead while packing */
    TASKS = 8,   /* wanted at least; else positions are cut */
    PART = 12,   /* steps of a band that all taps use while they are in L1 */
    PAST = 1 << 18, /* weights from which on dw goes past the caches */
    SUM = BLOCK_ELEMENTS,
    TAPS = 9 /* of the window that has loops of its own */
};

typedef enum kind { SHIFTED, DIRECT, GATHERED } kind;

typedef struct run {
    conv_problem p;
    const uint16_t *x, *dy;
    kind kind;
    int taps, copies;     /* sums of a pair of blocks, and copies of dy: 1 unless SHIFTED */
    int64_t columns;      /* channels, GATHERED: of all taps */
    int64_t column_group; /* columns of a group */
    int64_t k_groups, j_groups;
    int64_t pitch;          /* SHIFTED: positions from one row to the next, even */
    int64_t rows, pictures; /* of a band (SHIFTED) */
    int64_t picture_rows;   /* rows from one picture to the next */
    int64_t picture_bands;
    int64_t bands, pieces;
    int64_t x_length, dy_length; /* positions of a band, at most */
    int64_t slots;               /* partial results in memory */
    size_t slot_bytes, thread_bytes;
    char *sums, *workspace;
    bool accumulate;
    bool past; /* dw is not read before the whole backward pass is done: past the caches */
} run;

/* A thread's buffers for one band. */
typedef struct scratch {
    const uint16_t **x,
        **dy;        /* of each position, at the group's first channel; zeros where there is none */
    uint16_t *right; /* x: [block of 32 columns][step] */
    uint16_t *left;  /* dy: [copy][output][dy_length] */
    uint16_t *rows;  /* GATHERED: [position][column_group] */
    uint16_t *inside; /* SHIFTED: [copy][position], all ones where the moved column exists */
} scratch;

typedef struct group {
    int64_t k0, k, j0, j; /* outputs and columns: first, how many */
} group;

static const uint16_t zeros[GROUP];

/* --- Layout: a function of shapes --------------------------------------------------------------------- */
static void cut_shifted(run *r)
{
    const conv_problem *p = &r->p;
    int64_t rows = lgv_max_i64(1, BAND / r->pitch);
    if (rows >= p->y.h) {
        r->rows = p->y.h;
        r->pictures = lgv_max_i64(1, lgv_min_i64(p->y.n, BAND / (r->picture_rows * r->pitch)));
    } else {
        r->rows = lgv_ceil_div(p->y.h, lgv_ceil_div(p->y.h, rows));
        r->pictures = 1;
    }
    r->picture_bands = lgv_ceil_div(p->y.h, r->rows);
    r->bands = r->picture_bands * lgv_ceil_div(p->y.n, r->pictures);
    int64_t all = ((r->pictures - 1) * r->picture_rows + r->rows) * r->pitch;
    r->dy_length = amx_round(all, TILE_BF16);
    r->x_length = r->dy_length + amx_round((p->kh - 1) * r->pitch, TILE_BF16);
}

/* Zero rows between pictures must cover what a window reads above and below. */
static bool can_shift(const conv_problem *p, int64_t *pitch, int64_t *picture_rows)
{
    int64_t below = p->y.h - 1 - p->top + p->kh - p->x.h;
    *pitch = amx_round(lgv_max_i64(p->x.w, p->y.w), 2);
    *picture_rows = lgv_max_i64(p->y.h, p->x.h + lgv_max_i64(p->top, lgv_max_i64(0, below)));
    return p->stride == 1 && p->kh * p->kw > 1 && p->kw <= TILE_BF16 && p->x.c >= 16;
}

static run describe(const lgv_call *c)
{
    run r = {.p = conv_describe(c), .taps = 1, .copies = 1, .accumulate = c->accumulate};
    const conv_problem *p = &r.p;
    r.x = (const uint16_t *)p->xd;
    r.dy = (const uint16_t *)p->yd;
    int window = p->kh * p->kw;
    r.kind = window == 1 && p->stride == 1 && !p->top && !p->left ? DIRECT : GATHERED;
    if (can_shift(p, &r.pitch, &r.picture_rows)) r.kind = SHIFTED;
    r.columns = r.kind == GATHERED ? window * p->x.c : p->x.c;
    if (r.kind == SHIFTED) {
        r.taps = window;
        r.copies = p->kw;
        cut_shifted(&r);
    } else {
        r.bands = lgv_ceil_div(p->y.n * p->y.h * p->y.w, BAND);
        r.x_length = r.dy_length = BAND;
    }
    r.x_length += TILE_BF16;
    r.dy_length += TILE_BF16; /* off each other's cache sets */
    r.column_group = r.kind == SHIFTED ? GROUP : 4 * GROUP;
    r.column_group = lgv_min_i64(r.column_group, amx_round(r.columns, BLOCK_COLUMNS));
    r.past = r.taps == TAPS && !r.accumulate && p->y.c * p->x.c * TAPS >= PAST &&
             (uintptr_t)p->wd % 64 == 0 && p->ws[0] % 16 == 0;
    r.k_groups = lgv_ceil_div(p->y.c, GROUP);
    r.j_groups = lgv_ceil_div(r.columns, r.column_group);
    int64_t groups = r.k_groups * r.j_groups;
    int64_t positions = p->y.n * p->y.h * p->y.w, least = groups == 1 && positions >= HALF ? 2 : 1;
    r.pieces = lgv_min_i64(lgv_min_i64(MAX_PIECES, lgv_ceil_div(TASKS, groups)),
                           lgv_min_i64(r.bands, lgv_max_i64(least, positions / PIECE)));
    r.slots = r.pieces > 1 ? r.pieces * groups : c->threads;
    int64_t k = lgv_min_i64(GROUP, amx_round(p->y.c, BLOCK_ROWS));
    r.slot_bytes = (size_t)(r.taps * k * r.column_group) * sizeof(float);
    r.thread_bytes = lgv_round_up((size_t)r.x_length * sizeof(void *)) +
                     lgv_round_up((size_t)r.dy_length * sizeof(void *)) +
                     lgv_round_up((size_t)(r.x_length * r.column_group) * 2) +
                     lgv_round_up((size_t)(r.copies * r.dy_length * k) * 2);
    if (r.kind == GATHERED) r.thread_bytes += lgv_round_up((size_t)(BAND * r.column_group) * 2);
    if (r.kind == SHIFTED) r.thread_bytes += lgv_round_up((size_t)(r.copies * r.dy_length) * 2);
    return r;
}

static void *take(char **p, size_t bytes)
{
    void *q = *p;
    *p += lgv_round_up(bytes);
    return q;
}

static scratch scratch_of(const run *r, int thread)
{
    char *p = r->workspace + (size_t)thread * r->thread_bytes;
    int64_t k = lgv_min_i64(GROUP, amx_round(r->p.y.c, BLOCK_ROWS));
    scratch s;
    s.x = take(&p, (size_t)r->x_length * sizeof(void *));
    s.dy = take(&p, (size_t)r->dy_length * sizeof(void *));
    s.right = take(&p, (size_t)(r->x_length * r->column_group) * 2);
    s.left = take(&p, (size_t)(r->copies * r->dy_length * k) * 2);
    s.rows = s.inside = (uint16_t *)(void *)p;
    return s;
}

static group find_group(const run *r, int64_t index)
{
    group g = {.k0 = index / r->j_groups * GROUP, .j0 = index % r->j_groups * r->column_group};
    g.k = lgv_min_i64(GROUP, r->p.y.c - g.k0);
    g.j = lgv_min_i64(r->column_group, r->columns - g.j0);
    return g;
}

/* --- Where the positions of a band lie ----------------------------------------------------------------- */
static void clear(const uint16_t **p, int64_t n)
{
    for (int64_t i = 0; i < n; i++) p[i] = zeros;
}

/* Rows [h0, h0+rows) of `pictures` pictures; returns the steps. x stands `top` rows later than dy, so that tap row i of
   a position is x's i rows on. */
static int64_t locate_shifted(const run *r, const group *g, int64_t band, const scratch *s)
{
    const conv_problem *p = &r->p;
    int64_t n0 = band / r->picture_bands * r->pictures, h0 = band % r->picture_bands * r->rows;
    int64_t pictures = lgv_min_i64(r->pictures, p->y.n - n0),
            rows = lgv_min_i64(r->rows, p->y.h - h0);
    clear(s->x, r->x_length);
    clear(s->dy, r->dy_length);
    for (int64_t n = 0; n < pictures; n++) {
        const uint16_t *x = r->x + (n0 + n) * p->x.sn + g->j0,
                       *dy = r->dy + (n0 + n) * p->y.sn + g->k0;
        int64_t first = n * r->picture_rows;
        for (int64_t i = 0; i < rows; i++)
            for (int64_t j = 0; j < p->y.w; j++)
                s->dy[(first + i) * r->pitch + j] = dy + (h0 + i) * p->y.sh + j * p->y.sw;
        for (int64_t i = 0; i < rows + p->kh - 1; i++) {
            int64_t row = h0 + i - p->top;
            if (row < 0 || row >= p->x.h) continue;
            for (int64_t j = 0; j < p->x.w; j++)
                s->x[(first + i) * r->pitch + j] = x + row * p->x.sh + j * p->x.sw;
        }
    }
    return lgv_ceil_div(((pictures - 1) * r->picture_rows + rows) * r->pitch, TILE_BF16);
}

/* Columns [j0, j0+j) of x under the window of output (n, h, w), tap after tap. */
static void gather_row(const run *r, const group *g, int64_t n, int64_t h, int64_t w, uint16_t *to)
{
    const conv_problem *p = &r->p;
    for (int64_t j = g->j0; j < g->j0 + g->j;) {
        int64_t t = j / p->x.c, c = j % p->x.c, count = lgv_min_i64(p->x.c - c, g->j0 + g->j - j);
        int64_t y = h * p->stride - p->top + t / p->kw, x = w * p->stride - p->left + t % p->kw;
        if (y < 0 || y >= p->x.h || x < 0 || x >= p->x.w)
            memset(to, 0, (size_t)count * 2);
        else
            amx_copy(to, r->x + n * p->x.sn + y * p->x.sh + x * p->x.sw + c, count, count);
        to += count;
        j += count;
    }
}

static int64_t locate_direct(const run *r, const group *g, int64_t band, const scratch *s)
{
    const conv_problem *p = &r->p;
    int64_t first = band * BAND, count = lgv_min_i64(BAND, p->y.n * p->y.h * p->y.w - first);
    int64_t j = first % p->y.w, i = first / p->y.w % p->y.h, n = first / p->y.w / p->y.h;
    clear(s->x, BAND);
    clear(s->dy, BAND);
    for (int64_t q = 0; q < count; q++) {
        s->dy[q] = r->dy + n * p->y.sn + i * p->y.sh + j * p->y.sw + g->k0;
        s->x[q] = r->x + n * p->x.sn + i * p->x.sh + j * p->x.sw + g->j0;
        if (r->kind == GATHERED) {
            uint16_t *row = s->rows + q * r->column_group;
            gather_row(r, g, n, i, j, row);
            s->x[q] = row;
        }
        if (++j == p->y.w) {
            j = 0;
            if (++i == p->y.h) {
                i = 0;
                n++;
            }
        }
    }
    return lgv_ceil_div(count, TILE_BF16);
}

/* --- Operands ------------------------------------------------------------------------------------------- */
static void mark_inside(const run *r, uint16_t *inside)
{
    for (int copy = 0; copy < r->copies; copy++)
        for (int64_t q = 0, column = r->p.left - copy; q < r->dy_length; q++, column++) {
            if (q % r->pitch == 0) column = r->p.left - copy;
            *inside++ = column >= 0 && column < r->p.y.w ? 0xffff : 0;
        }
}

/* The copy that tap column j reads: dy's columns moved by left - j, zeros where there are none. What is read before
   or behind a row of `from` is not inside. */
static void shift_left(const run *r, int64_t outputs, int64_t length, const uint16_t *from,
                       int64_t shift, const uint16_t *restrict inside, uint16_t *restrict to)
{
    for (int64_t k = 0; k < outputs; k++, from += r->dy_length, to += r->dy_length) {
        for (int64_t q = 0; q < length; q++) to[q] = from[q + shift] & inside[q];
        for (int64_t q = length - lgv_max_i64(shift, 0); q < length; q++) to[q] = 0;
    }
}

/* dy at 32 positions a time, transposed to rows of outputs, and its shifted copies. */
static void make_left(const run *r, const group *g, const scratch *s, int64_t length)
{
    const conv_problem *p = &r->p;
    uint32_t pairs[16][16];
    int64_t outputs = amx_round(g->k, BLOCK_ROWS), size = outputs * r->dy_length;
    int own = r->copies > 1 ? p->left : 0;
    uint16_t *left = s->left + own * size;
    for (int64_t q = 0; q < length; q += TILE_BF16) {
        for (int64_t i = q + TILE_BF16; i < lgv_min_i64(q + 2 * TILE_BF16, length); i++)
            for (int64_t k = 0; k < g->k; k += 32) __builtin_prefetch(s->dy[i] + k);
        for (int64_t k = 0; k < outputs; k += 16) {
            for (int i = 0; i < 16; i++)
                amx_interleave(s->dy[q + 2 * i] + k, s->dy[q + 2 * i + 1] + k, g->k - k, pairs[i]);
            transpose16(pairs, 16, left + k * r->dy_length + q, r->dy_length / 2);
        }
    }
    for (int copy = 0; copy < r->copies; copy++)
        if (copy != own)
            shift_left(r, outputs, length, left, p->left - copy, s->inside + copy * r->dy_length,
                       s->left + copy * size);
}

/* x as right operands: for 16 columns each, [position pair][column][2]. */
static void make_right(const run *r, const group *g, const scratch *s, int64_t length)
{
    int64_t columns = amx_round(g->j, BLOCK_COLUMNS);
    for (int64_t q = 0; q < length; q += 2) {
        const uint16_t *a = s->x[q], *b = s->x[q + 1];
        for (int64_t j = 0; q + FAR < length && j < g->j; j += 32) {
            __builtin_prefetch(s->x[q + FAR] + j);
            __builtin_prefetch(s->x[q + FAR + 1] + j);
        }
        for (int64_t j = 0; j < columns; j += 16)
            amx_interleave(a == zeros ? a : a + j, b == zeros ? b : b + j, g->j - j,
                           (uint32_t *)(void *)(s->right + j * r->x_length + q * 16));
    }
}

/* --- Sums ------------------------------------------------------------------------------------------------ */
/* The block of sums of a slot: outputs 32*k, columns 32*j, tap. */
static float *sum_at(const run *r, int64_t slot, int64_t k, int64_t j, int64_t tap)
{
    float *sums = (float *)(void *)(r->sums + (size_t)slot * r->slot_bytes);
    return sums + ((k * (r->column_group / BLOCK_COLUMNS) + j) * r->taps + tap) * SUM;
}

/* Steps [from, to) of a band: into all sums of a group. Copies outside, so that a block of one stays in L1 while
   all columns and tap rows use it. */
static void add_part(const run *r, const group *g, const scratch *s, tiles *t, int64_t slot,
                     int64_t from, int64_t to, bool first)
{
    const int64_t none = 0, size = amx_round(g->k, BLOCK_ROWS) * r->dy_length;
    const amx_inner inner = {1, to - from, &none};
    for (int64_t k = 0; k * BLOCK_ROWS < g->k; k++)
        for (int copy = 0; copy < r->copies; copy++) {
            const uint16_t *left =
                s->left + copy * size + k * BLOCK_ROWS * r->dy_length + from * TILE_BF16;
            for (int64_t j = 0; j * BLOCK_COLUMNS < g->j; j++)
                for (int i = 0; i < r->taps / r->copies; i++) {
                    amx_right right = {s->right + j * BLOCK_COLUMNS * r->x_length +
                                           (from * TILE_BF16 + i * r->pitch) * 16,
                                       16 * r->x_length, TILE_ELEMENTS};
                    amx_product(t, &inner, left, left + TILE_ROWS * r->dy_length, r->dy_length * 2,
                                right, (amx_ahead){NULL, NULL, 0, 0}, !first,
                                sum_at(r, slot, k, j, i * r->copies + copy), NULL);
                }
        }
}

static void add_band(const run *r, const group *g, const scratch *s, int64_t slot, int64_t steps,
                     bool first)
{
    tiles t;
    tile_begin(&t);
    int64_t parts = lgv_ceil_div(steps, PART);
    for (int64_t i = 0; i < parts; i++)
        add_part(r, g, s, &t, slot, i * steps / parts, (i + 1) * steps / parts, first && i == 0);
    tile_end(&t);
}

/* Sums of 16 columns, SUM apart for each tap, as [column][tap]; taps from TAPS on are 0. */
static inline void turn_window(const float *sum, float to[16][16])
{
    _Alignas(64) float rows[16][16] = {{0}};
    for (int t = 0; t < TAPS; t++) memcpy(rows[t], sum + t * SUM, sizeof rows[t]);
    transpose16(rows, 16, to, 16);
}

/* dw[32 columns][9] of one output past the caches; a column is laid over the zeros of the one before. */
static void stream_windows(const float *sum, float *dw)
{
    enum { ALL = BLOCK_COLUMNS * TAPS };
    _Alignas(64) float turned[BLOCK_COLUMNS][16], line[ALL + 16];
    for (int i = 0; i < BLOCK_COLUMNS; i += 16) turn_window(sum + i, turned + i);
    for (int i = 0; i < BLOCK_COLUMNS; i++) memcpy(line + i * TAPS, turned[i], sizeof turned[i]);
    for (int i = 0; i < ALL; i += VL) v_stream(dw + i, v_load(line + i));
}

/* dw[16 columns][9] of one output. */
static void write_window(const float *sum, bool add, float *dw)
{
    _Alignas(64) float turned[16][16];
    turn_window(sum, turned);
    for (int i = 0; i < 16; i++, dw += TAPS)
        for (int k = 0; k < TAPS; k += VL) {
            const int n = TAPS - k < VL ? TAPS - k : VL;
            const vreal v = v_load(turned[i] + k);
            v_store_n(dw + k, add ? v_add(v, v_load_n(dw + k, n)) : v, n);
        }
}

static void write_row(const float *sum, int64_t columns, bool add, float *dw)
{
    for (int64_t i = 0; i < columns; i++) dw[i] = add ? dw[i] + sum[i] : sum[i];
}

/* Columns of taps and channels from `column` on; with several taps a sum, all taps of channels. */
static void write_any(const run *r, const float *sum, int64_t column, int64_t columns, float *dw)
{
    const conv_problem *p = &r->p;
    int64_t tap = column / p->x.c, c = column % p->x.c;
    for (int64_t i = 0; i < columns; i++) {
        for (int64_t t = tap; t < tap + r->taps; t++) {
            float *to = dw + c * p->ws[1] + t / p->kw * p->ws[2] + t % p->kw * p->ws[3];
            float v = sum[(t - tap) * SUM + i];
            *to = r->accumulate ? *to + v : v;
        }
        if (++c == p->x.c) {
            c = 0;
            tap++;
        }
    }
}

/* dw of blocks (k, j) of a group from the sums of a slot. */
static void write_block(const run *r, const group *g, int64_t slot, int64_t k, int64_t j)
{
    const conv_problem *p = &r->p;
    const float *sum = sum_at(r, slot, k, j, 0);
    int64_t outputs = lgv_min_i64(BLOCK_ROWS, g->k - k * BLOCK_ROWS),
            j0 = g->j0 + j * BLOCK_COLUMNS,
            columns = lgv_min_i64(BLOCK_COLUMNS, g->j - j * BLOCK_COLUMNS);
    bool dense = r->kind != GATHERED && p->ws[1] == r->taps;
    for (int64_t o = 0; o < outputs; o++, sum += BLOCK_COLUMNS) {
        float *dw = p->wd + (g->k0 + k * BLOCK_ROWS + o) * p->ws[0];
        if (dense && r->past && columns == BLOCK_COLUMNS)
            stream_windows(sum, dw + j0 * TAPS);
        else if (dense && r->taps == TAPS && columns % 16 == 0)
            for (int64_t i = 0; i < columns; i += 16)
                write_window(sum + i, r->accumulate, dw + (j0 + i) * TAPS);
        else if (dense && r->taps == 1)
            write_row(sum, columns, r->accumulate, dw + j0);
        else
            write_any(r, sum, j0, columns, dw);
    }
}

static void write_group(const run *r, const group *g, int64_t slot)
{
    for (int64_t k = 0; k * BLOCK_ROWS < g->k; k++)
        for (int64_t j = 0; j * BLOCK_COLUMNS < g->j; j++) write_block(r, g, slot, k, j);
    if (r->past) v_stream_end();
}

static void sum_task(void *arg, int64_t task, int thread)
{
    const run *r = arg;
    int64_t groups = r->k_groups * r->j_groups, piece = task / groups;
    int64_t slot = r->pieces > 1 ? task : thread;
    int64_t first = piece * r->bands / r->pieces, last = (piece + 1) * r->bands / r->pieces;
    group g = find_group(r, task % groups);
    scratch s = scratch_of(r, thread);
    if (r->kind == SHIFTED) mark_inside(r, s.inside);
    for (int64_t band = first; band < last; band++) {
        int64_t steps =
            r->kind == SHIFTED ? locate_shifted(r, &g, band, &s) : locate_direct(r, &g, band, &s);
        make_left(r, &g, &s, steps * TILE_BF16);
        make_right(r, &g, &s, steps * TILE_BF16 + r->x_length - r->dy_length);
        add_band(r, &g, &s, slot, steps, band == first);
    }
    if (r->pieces == 1) write_group(r, &g, slot);
}

/* The pieces of one block of outputs and columns, in order. */
static void combine_task(void *arg, int64_t task, int thread)
{
    const run *r = arg;
    int64_t groups = r->k_groups * r->j_groups, columns = r->column_group / BLOCK_COLUMNS;
    int64_t blocks = GROUP / BLOCK_ROWS * columns;
    int64_t index = task / blocks, k = task % blocks / columns, j = task % columns;
    group g = find_group(r, index);
    if (k * BLOCK_ROWS >= g.k || j * BLOCK_COLUMNS >= g.j) return;
    float *sum = sum_at(r, index, k, j, 0);
    for (int64_t piece = 1; piece < r->pieces; piece++) {
        const float *from = sum_at(r, piece * groups + index, k, j, 0);
        for (int64_t i = 0; i < r->taps * SUM; i++) sum[i] += from[i];
    }
    write_block(r, &g, index, k, j);
    if (r->past) v_stream_end();
}

bool amx_conv_w_accepts(const lgv_call *c)
{
    conv_problem p = conv_describe(c);
    return c->in[0].dtype == LGV_BF16 && c->in[1].dtype == LGV_BF16 && c->out[0].dtype == LGV_F32 &&
           p.kh * p.kw <= AMX_MAX_TAPS;
}

size_t amx_conv_w_workspace(const lgv_call *c)
{
    if (amx_matrix_w_accepts(c)) return amx_matrix_w_workspace(c);
    run r = describe(c);
    return (size_t)r.slots * lgv_round_up(r.slot_bytes) + (size_t)c->threads * r.thread_bytes;
}

void amx_conv_w(const lgv_call *c)
{
    if (amx_matrix_w_accepts(c)) {
        amx_matrix_w(c);
        return;
    }
    run r = describe(c);
    int64_t groups = r.k_groups * r.j_groups;
    r.sums = c->workspace;
    r.workspace = r.sums + (size_t)r.slots * lgv_round_up(r.slot_bytes);
    lgv_parallel(c, r.pieces * groups, sum_task, &r);
    if (r.pieces == 1) return;
    lgv_parallel(c, groups * (GROUP / BLOCK_ROWS) * (r.column_group / BLOCK_COLUMNS), combine_task,
                 &r);
}
