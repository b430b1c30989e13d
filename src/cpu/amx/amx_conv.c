/* amx_conv.c - convolutions and linear layers in bf16, forward and gradient for data, and their table.
   A task takes a band of result pixels and makes its left rows: in place where the source is a matrix; as a copy
   with zero borders for windows of stride 1 (a tap is then only an offset); gathered tap by tap otherwise.
   Where 16 neighbouring pixels do not lie in one row of the picture, the copy is made once for each column
   of the window, without gaps between rows. How pixels fall into bands never changes a sum. */
#include "amx_conv.h"

/* LEFT_BYTES of a band's left rows stay in L2 while all right operands pass, ALL_LEFT_BYTES where one band is all, so
   that each right operand is read once. RIGHT_BYTES of right operands stay there instead, half as much beside a
   copied band. */
enum {
    LEFT_BYTES = 384 << 10,
    ALL_LEFT_BYTES = 1 << 20,
    RIGHT_BYTES = 1280 << 10,
    AHEAD = 4, /* blocks of columns to the results that are fetched */
    MAX_PIXELS = 1024,
    TASKS = 4,       /* of each thread, wanted at least; else columns are shared out too */
    HELD_BYTES = 64, /* before a thread's left rows: the band that they are of */
    SMALL_CHANNELS = 16
};

typedef enum left_kind { IN_PLACE, COPIED, GATHERED } left_kind;

typedef struct tap {
    int32_t y, x; /* source pixel = step * result pixel + this */
} tap;

typedef struct run {
    int64_t n, gh, gw; /* result pixels */
    const uint16_t *x; /* the source */
    int64_t sn, sh, sw, ih, iw, c;
    int step, taps, kw; /* COPIED: tap t is (t / kw, t % kw) from tap 0 */
    tap tap[AMX_MAX_TAPS];
    amx_result y;
    const uint16_t *right;
    int64_t block_stride; /* elements from one block of 32 columns to the next */
    left_kind kind;
    int64_t pitch; /* elements from one left row to the next */
    int copies;    /* COPIED: 1, or one for each column of the window */
    /* COPIED: elements from one row of a picture, one copy, one picture to the next. */
    int64_t row_pitch, copy_size, picture_size;
    int64_t offset[AMX_MAX_TAPS];
    amx_inner inner;
    int64_t pixels;                        /* of a band: IN_PLACE, GATHERED */
    int64_t rows, pictures, picture_bands; /* of a band: COPIED */
    int64_t bands, splits, blocks;         /* splits: of the columns */
    bool rows_first;                       /* the order of a task's products */
    char *workspace;
    size_t thread_bytes;
    int threads;
} run;

/* Part of the result: pictures from n0, rows [h0, h0+rows) of each (COPIED), or pixels from `first`. */
typedef struct band {
    int64_t n0, pictures, h0, rows;
    int64_t first, pixels;
    int64_t picture_tiles, tiles;
    uint16_t *buffer;
    const uint16_t *left;
} band;

/* --- Layout: a function of shapes and threads -------------------------------------------------------- */
static void choose_kind(run *r, bool matrix)
{
    bool aligned = r->c % TILE_BF16 == 0;
    if (matrix && aligned)
        r->kind = IN_PLACE;
    else if (r->kw && r->step == 1 && r->taps > 1 && r->c >= SMALL_CHANNELS)
        r->kind = COPIED;
    else
        r->kind = GATHERED;
    int64_t width =
        r->kind == GATHERED ? amx_round(r->taps * r->c, TILE_BF16) : amx_round(r->c, TILE_BF16);
    if (r->kind != IN_PLACE)
        r->pitch = width + (width % 64 ? 0 : TILE_BF16); /* off each other's sets */
    r->inner.taps = r->kind == COPIED ? r->taps : 1;
    r->inner.steps = width / TILE_BF16;
    r->block_stride = r->inner.taps * r->inner.steps * STEP_ELEMENTS;
}

/* Pixels whose left rows take `bytes`. */
static int64_t fitting_pixels(const run *r, int64_t bytes)
{
    int64_t pixels = lgv_min_i64(bytes / 2 / r->pitch, MAX_PIXELS);
    return lgv_max_i64(BLOCK_ROWS, pixels) / BLOCK_ROWS * BLOCK_ROWS;
}

static void cut_copied(run *r)
{
    const int64_t halo = r->tap[r->taps - 1].y - r->tap[0].y;
    r->copies = r->gw % TILE_ROWS ? r->kw : 1;
    r->row_pitch = (r->copies > 1 ? r->gw : r->gw + r->kw - 1) * r->pitch;
    /* Pictures so small that there are more right operands than pixels: all of them in one band. */
    const int64_t all = r->n * r->copies * (r->gh + halo) * r->row_pitch;
    const bool one_band =
        r->blocks * r->block_stride >= 4 * r->n * r->ih * r->iw * r->c && all * 2 <= ALL_LEFT_BYTES;
    int64_t pixels = fitting_pixels(r, one_band ? ALL_LEFT_BYTES : LEFT_BYTES);
    if (r->copies > 1) pixels = lgv_max_i64(BLOCK_ROWS, pixels / r->copies);
    if (r->gh * r->gw > pixels) {
        int64_t bands = lgv_ceil_div(r->gh, lgv_max_i64(1, pixels / r->gw));
        r->rows = amx_round(lgv_ceil_div(r->gh, bands), r->gw % BLOCK_ROWS ? 2 : 1);
        r->pictures = 1;
    } else {
        r->rows = r->gh;
        int64_t bands = lgv_ceil_div(r->n, pixels / (r->gh * r->gw));
        r->pictures = lgv_ceil_div(r->n, bands);
    }
    r->copy_size = (r->rows + halo) * r->row_pitch;
    r->picture_size = r->copy_size * r->copies;
    r->picture_bands = lgv_ceil_div(r->gh, r->rows);
    r->bands = r->picture_bands * lgv_ceil_div(r->n, r->pictures);
}

static void cut(run *r)
{
    r->blocks = lgv_ceil_div(r->y.k, BLOCK_COLUMNS);
    if (r->kind == COPIED) {
        cut_copied(r);
    } else {
        int64_t all = r->n * r->gh * r->gw,
                fair = amx_round(lgv_ceil_div(all, TASKS * r->threads), BLOCK_ROWS);
        r->pixels = lgv_min_i64(fitting_pixels(r, LEFT_BYTES), fair);
        r->bands = lgv_ceil_div(all, r->pixels);
    }
    r->splits = lgv_min_i64(r->blocks, lgv_ceil_div(TASKS * r->threads, r->bands));
    r->rows_first = lgv_ceil_div(r->blocks, r->splits) * r->block_stride * 2 <=
                    (r->kind == IN_PLACE ? RIGHT_BYTES : RIGHT_BYTES / 2);
    r->y.ahead = r->rows_first ? AHEAD * BLOCK_COLUMNS * (r->y.wide ? 4 : 2) : 0;
}

static size_t left_bytes(const run *r)
{
    int64_t rows = TILE_ROWS; /* past the end: the last tile may be partly empty */
    if (r->kind == GATHERED) rows += r->pixels;
    int64_t elements = rows * r->pitch;
    if (r->kind == COPIED) elements += r->pictures * r->picture_size;
    return HELD_BYTES + lgv_round_up((size_t)elements * 2);
}

static char *thread_memory(const run *r, int thread)
{
    return r->workspace + (size_t)thread * r->thread_bytes;
}

/* The band whose left rows a thread has: tasks that share a band's columns need them once. */
static int64_t *held_band(const run *r, int thread)
{
    return (int64_t *)(void *)thread_memory(r, thread);
}

static band find_band(const run *r, int64_t index, int thread)
{
    band b = {.buffer = (uint16_t *)(void *)(thread_memory(r, thread) + HELD_BYTES)};
    b.left = b.buffer;
    if (r->kind != COPIED) {
        b.first = index * r->pixels;
        b.pixels = lgv_min_i64(r->pixels, r->n * r->gh * r->gw - b.first);
        b.tiles = lgv_ceil_div(b.pixels, TILE_ROWS);
        if (r->kind == IN_PLACE) b.left = r->x + b.first * r->pitch;
        return b;
    }
    b.n0 = index / r->picture_bands * r->pictures;
    b.pictures = lgv_min_i64(r->pictures, r->n - b.n0);
    b.h0 = index % r->picture_bands * r->rows;
    b.rows = lgv_min_i64(r->rows, r->gh - b.h0);
    b.picture_tiles = lgv_ceil_div(b.rows * r->gw, TILE_ROWS);
    b.tiles = b.pictures * b.picture_tiles;
    return b;
}

/* The first result pixel of a tile and how many of its rows are pixels. */
static int64_t tile_pixels(const run *r, const band *b, int64_t tile, int64_t *count)
{
    if (r->kind != COPIED) {
        *count = lgv_min_i64(TILE_ROWS, b->pixels - tile * TILE_ROWS);
        return b->first + tile * TILE_ROWS;
    }
    int64_t p = tile % b->picture_tiles * TILE_ROWS, n = b->n0 + tile / b->picture_tiles;
    *count = lgv_min_i64(TILE_ROWS, b->rows * r->gw - p);
    return (n * r->gh + b->h0) * r->gw + p;
}

static const uint16_t *tile_left(const run *r, const band *b, int64_t tile)
{
    if (r->kind == IN_PLACE && b->pixels - tile * TILE_ROWS < TILE_ROWS) return b->buffer;
    if (r->kind != COPIED) return b->left + tile * TILE_ROWS * r->pitch;
    const uint16_t *picture = b->left + tile / b->picture_tiles * r->picture_size;
    int64_t p = tile % b->picture_tiles * TILE_ROWS;
    if (r->copies > 1) return picture + p * r->pitch;
    return picture + p / r->gw * r->row_pitch + p % r->gw * r->pitch;
}

/* --- Left rows ---------------------------------------------------------------------------------------- */
/* Row y of picture n, from column x0 on (both may lie outside), `count` pixels. */
static void copy_row(const run *r, int64_t n, int64_t y, int64_t x0, int64_t count, uint16_t *to)
{
    int64_t width = r->inner.steps * TILE_BF16;
    int64_t from = lgv_min_i64(count, lgv_max_i64(0, -x0)),
            end = lgv_max_i64(from, lgv_min_i64(count, r->iw - x0));
    if (y < 0 || y >= r->ih) from = end = count;
    for (int64_t i = 0; i < from; i++) memset(to + i * r->pitch, 0, (size_t)width * 2);
    const uint16_t *x = r->x + n * r->sn + y * r->sh + x0 * r->sw;
    for (int64_t i = from; i < end; i++) amx_copy(to + i * r->pitch, x + i * r->sw, r->c, width);
    for (int64_t i = end; i < count; i++) memset(to + i * r->pitch, 0, (size_t)width * 2);
}

static void copy_band(const run *r, const band *b)
{
    int64_t rows = b->rows + r->tap[r->taps - 1].y - r->tap[0].y, count = r->row_pitch / r->pitch;
    for (int64_t n = 0; n < b->pictures; n++)
        for (int d = 0; d < r->copies; d++)
            for (int64_t i = 0; i < rows; i++)
                copy_row(r, b->n0 + n, b->h0 + i + r->tap[0].y, r->tap[0].x + d, count,
                         b->buffer + n * r->picture_size + d * r->copy_size + i * r->row_pitch);
}

static void gather_band(const run *r, const band *b)
{
    int64_t j = b->first % r->gw, i = b->first / r->gw % r->gh, n = b->first / r->gw / r->gh;
    int64_t width = r->inner.steps * TILE_BF16, length = r->taps * r->c;
    uint16_t *row = b->buffer;
    for (int64_t q = 0; q < b->pixels; q++, row += r->pitch) {
        uint16_t *to = row;
        for (int t = 0; t < r->taps; t++, to += r->c) {
            int64_t y = i * r->step + r->tap[t].y, x = j * r->step + r->tap[t].x;
            if (y < 0 || y >= r->ih || x < 0 || x >= r->iw)
                memset(to, 0, (size_t)r->c * 2);
            else
                amx_copy(to, r->x + n * r->sn + y * r->sh + x * r->sw, r->c, r->c);
        }
        memset(to, 0, (size_t)(width - length) * 2);
        if (++j == r->gw) {
            j = 0;
            if (++i == r->gh) {
                i = 0;
                n++;
            }
        }
    }
}

static void make_left(const run *r, const band *b)
{
    if (r->kind == COPIED) copy_band(r, b);
    if (r->kind == GATHERED) gather_band(r, b);
    if (r->kind != IN_PLACE) return;
    int64_t rest = b->pixels % TILE_ROWS; /* the last tile may not read beyond the source */
    for (int64_t i = 0; i < rest; i++)
        memcpy(b->buffer + i * r->pitch, b->left + (b->pixels - rest + i) * r->pitch,
               (size_t)r->c * 2);
}

/* --- Products ----------------------------------------------------------------------------------------- */
/* Two blocks of sums in turn: one is computed while the other is finished. */
typedef struct sums {
    _Alignas(64) float block[2][BLOCK_ELEMENTS];
    int next;
    amx_finishing f;
} sums;

/* Two tiles of rows times block k of the columns. ahead: what comes into L2 meanwhile. */
static void run_pair(const run *r, const band *b, tiles *s, sums *u, int64_t tile, int64_t k,
                     amx_ahead ahead)
{
    int64_t count[2] = {0, 0}, pixel[2] = {tile_pixels(r, b, tile, &count[0]), 0};
    const uint16_t *a0 = tile_left(r, b, tile), *a1 = a0;
    if (tile + 1 < b->tiles) {
        pixel[1] = tile_pixels(r, b, tile + 1, &count[1]);
        a1 = tile_left(r, b, tile + 1);
    }
    amx_right right = {r->right + k * r->block_stride, TILE_ELEMENTS, STEP_ELEMENTS};
    float *sum = u->block[u->next];
    amx_product(s, &r->inner, a0, a1, r->pitch * 2, right, ahead, false, sum, &u->f);
    amx_finish_rest(&u->f);
    u->f = amx_finish(&r->y, sum, pixel, count, k * BLOCK_COLUMNS);
    u->next = !u->next;
}

/* The source of the band that this thread takes next: where it begins, and its lines for each of `steps`
   steps. Only where it is one piece of memory. */
static int next_lines(const run *r, int64_t task, bool more, int64_t steps, const char **q)
{
    int64_t index = (task + 1) / r->splits;
    if (!more || index == task / r->splits || r->kind == GATHERED) return 0;
    const band b = find_band(r, index, 0);
    int64_t elements = b.pixels * r->pitch;
    if (r->kind == IN_PLACE) {
        *q = (const char *)b.left;
    } else {
        if (r->sw != r->c || r->sh != r->iw * r->sw) return 0;
        *q = (const char *)(r->x + b.n0 * r->sn + b.h0 * r->sh);
        elements = b.rows * r->sh;
        if (b.pictures > 1) elements = r->sn == r->ih * r->sh ? b.pictures * r->sn : 0;
    }
    return (int)lgv_ceil_div(elements / 32, steps);
}

/* The same for right operands that stay in L2 all together: pair of tiles by pair, so that left rows come from L1 and
   results are written from end to end, which the processor fetches ahead by itself. */
static void run_rows(const run *r, const band *b, tiles *s, sums *u, int64_t first, int64_t last,
                     amx_ahead ahead)
{
    const int64_t steps = r->block_stride / STEP_ELEMENTS;
    for (int64_t tile = 0; tile < b->tiles; tile += 2)
        for (int64_t k = first; k < last; k++) {
            run_pair(r, b, s, u, tile, k, ahead);
            ahead.q += ahead.q_lines * 64 * steps;
        }
}

/* A band times its share of the columns, block by block, so that a block's right operands pass the whole band
   from L2; the next block's and the next band's rows are fetched meanwhile. */
static void run_task(void *arg, int64_t task, int thread)
{
    const run *r = arg;
    int64_t split = task % r->splits, first = split * r->blocks / r->splits,
            last = (split + 1) * r->blocks / r->splits;
    const int64_t index = task / r->splits;
    const band b = find_band(r, index, thread);
    int64_t *held = held_band(r, thread);
    if (*held != index) make_left(r, &b);
    *held = index;
    const int64_t pairs = lgv_ceil_div(b.tiles, 2), steps = r->block_stride / STEP_ELEMENTS;
    amx_ahead ahead = {NULL, NULL, 0, 0};
    const bool more = task + 1 < lgv_pool_share(r->bands * r->splits, r->threads, thread + 1);
    ahead.q_lines = next_lines(r, task, more, pairs * (last - first) * steps, &ahead.q);
    tiles s;
    sums u;
    u.next = 0;
    u.f.tile = 2; /* nothing to finish yet */
    tile_begin(&s);
    if (r->rows_first) run_rows(r, &b, &s, &u, first, last, ahead);
    for (int64_t k = r->rows_first ? last : first; k < last; k++) {
        int64_t next = k + 1 < last || more ? (k + 1) % r->blocks : k;
        ahead.p = (const char *)(r->right + next * r->block_stride);
        ahead.p_lines = next == k ? 0 : (int)lgv_ceil_div(STEP_BYTES / 64, pairs);
        for (int64_t pair = 0; pair < pairs; pair++) {
            run_pair(r, &b, &s, &u, 2 * pair, k, ahead);
            ahead.p += ahead.p_lines * 64 * steps;
            ahead.q += ahead.q_lines * 64 * steps;
        }
    }
    tile_end(&s);
    amx_finish_rest(&u.f);
}

static void run_all(const lgv_call *c, run *r)
{
    r->inner.offset = r->offset;
    for (int t = 0; t < r->taps && r->kind == COPIED; t++) {
        int64_t column = r->copies > 1 ? r->copy_size : r->pitch;
        r->offset[t] = t / r->kw * r->row_pitch + t % r->kw * column;
    }
    r->workspace = c->workspace;
    r->thread_bytes = left_bytes(r);
    for (int t = 0; t < r->threads; t++) *held_band(r, t) = -1;
    lgv_parallel(c, r->bands * r->splits, run_task, r);
}

/* --- Forward -------------------------------------------------------------------------------------------- */
static bool is_bf16_or_f32(const lgv_tensor *t)
{
    return t->dtype == LGV_BF16 || t->dtype == LGV_F32;
}

/* Values in bf16, weights and the small operands of the epilogue in f32. */
static bool accepts(const lgv_call *c)
{
    conv_problem p = conv_describe(c);
    if (c->in[0].dtype != LGV_BF16 || c->in[1].dtype != LGV_F32 || !is_bf16_or_f32(&c->out[0]))
        return false;
    for (int i = LGV_IN_BIAS; i < c->n_in; i++) {
        if (!c->in[i].data) continue;
        if (i == LGV_IN_RESIDUAL ? !is_bf16_or_f32(&c->in[i]) : c->in[i].dtype != LGV_F32)
            return false;
    }
    return p.kh * p.kw <= AMX_MAX_TAPS && p.stride <= AMX_MAX_STRIDE;
}

/* A result whose rows lie a fixed step apart, like those of what is added, as one row of pixels. */
static void flatten(amx_result *y, const lgv_tensor *out, const lgv_tensor *residual)
{
    int64_t pixels, pitch, residual_pitch = 0;
    if (y->e.row || y->e.gate || !lgv_as_matrix(out, &pixels, &pitch)) return;
    if (y->e.residual && !lgv_as_matrix(residual, &pixels, &residual_pitch)) return;
    y->w = pixels;
    y->h = 1;
    y->sw = pitch;
    y->e.residual_shape.sw = residual_pitch;
}

static run describe_forward(const lgv_call *c)
{
    conv_problem p = conv_describe(c);
    run r = {.n = p.y.n,
             .gh = p.y.h,
             .gw = p.y.w,
             .x = (const uint16_t *)p.xd,
             .sn = p.x.sn,
             .sh = p.x.sh,
             .sw = p.x.sw,
             .ih = p.x.h,
             .iw = p.x.w,
             .c = p.x.c,
             .step = p.stride,
             .taps = p.kh * p.kw,
             .kw = p.kw,
             .threads = c->threads};
    for (int t = 0; t < r.taps; t++) r.tap[t] = (tap){t / p.kw - p.top, t % p.kw - p.left};
    r.y = (amx_result){.y = p.yd,
                       .wide = c->out[0].dtype == LGV_F32,
                       .wide_residual = c->in[LGV_IN_RESIDUAL].dtype == LGV_F32,
                       .h = p.y.h,
                       .w = p.y.w,
                       .k = p.y.c,
                       .sn = p.y.sn,
                       .sh = p.y.sh,
                       .sw = p.y.sw,
                       .e = conv_describe_epilogue(c)};
    int64_t pixels;
    bool matrix = r.taps == 1 && r.step == 1 && r.gh == r.ih && r.gw == r.iw &&
                  lgv_as_matrix(&c->in[0], &pixels, &r.pitch);
    choose_kind(&r, matrix);
    if (matrix) flatten(&r.y, &c->out[0], &c->in[LGV_IN_RESIDUAL]);
    cut(&r);
    return r;
}

static lgv_pack forward_pack(const lgv_call *c)
{
    run r = describe_forward(c);
    return (lgv_pack){r.kind == GATHERED && r.taps > 1 ? "amx gathered" : "amx",
                      (size_t)(r.blocks * r.block_stride) * 2};
}

static void forward_run_pack(const lgv_call *c, void *packed)
{
    conv_problem p = conv_describe(c);
    run r = describe_forward(c);
    amx_weights w = {.w = p.wd,
                     .columns = p.y.c,
                     .so = p.ws[0],
                     .channels = p.x.c,
                     .sc = p.ws[1],
                     .taps = r.taps,
                     .window = r.taps,
                     .gathered = r.kind == GATHERED,
                     .steps = r.inner.taps * r.inner.steps};
    for (int t = 0; t < r.taps; t++) w.place[t] = t / p.kw * p.ws[2] + t % p.kw * p.ws[3];
    amx_pack_weights(c, &w, packed, r.block_stride);
}

static size_t forward_workspace(const lgv_call *c)
{
    run r = describe_forward(c);
    return (size_t)c->threads * left_bytes(&r);
}

static void forward(const lgv_call *c)
{
    run r = describe_forward(c);
    r.right = c->packed;
    run_all(c, &r);
}

/* --- Gradient for data ------------------------------------------------------------------------------------ */
/* Pixels h = s*i + a read dy at row i + (a + top - tap) / s for the taps where that is whole: a strided
   window falls apart into classes of taps (modulo s), each with a phase (a, b) of pixels. In a class the taps are
   taken last first, so that rows of dy ascend as those of x do in the forward pass. */
static int phase(int class_, int pad, int s)
{
    return ((class_ - pad) % s + s) % s;
}

static run describe_class(const lgv_call *c, int class_, amx_weights *w)
{
    conv_problem p = conv_describe(c);
    int s = p.stride, a = phase(class_ / s, p.top, s), b = phase(class_ % s, p.left, s);
    run r = {.n = p.x.n,
             .gh = (p.x.h - a + s - 1) / s,
             .gw = (p.x.w - b + s - 1) / s,
             .x = (const uint16_t *)p.yd,
             .sn = p.y.sn,
             .sh = p.y.sh,
             .sw = p.y.sw,
             .ih = p.y.h,
             .iw = p.y.w,
             .c = p.y.c,
             .step = 1,
             .threads = c->threads};
    *w =
        (amx_weights){.w = p.wd, .columns = p.x.c, .so = p.ws[1], .channels = p.y.c, .sc = p.ws[0]};
    for (int i = p.kh - 1; i >= 0; i--)
        for (int j = p.kw - 1; j >= 0; j--) {
            if ((a + p.top - i) % s || (b + p.left - j) % s) continue;
            if (r.taps == 0 || r.tap[0].y * s == a + p.top - i) r.kw++;
            r.tap[r.taps] = (tap){(a + p.top - i) / s, (b + p.left - j) / s};
            w->place[r.taps++] = i * p.ws[2] + j * p.ws[3];
        }
    bool wide = c->out[0].dtype == LGV_F32;
    r.y = (amx_result){.y = (char *)p.xd + (a * p.x.sh + b * p.x.sw) * (wide ? 4 : 2),
                       .wide = wide,
                       .h = r.gh,
                       .w = r.gw,
                       .k = p.x.c,
                       .sn = p.x.sn,
                       .sh = p.x.sh * s,
                       .sw = p.x.sw * s};
    int64_t pixels;
    bool matrix = r.taps == 1 && r.tap[0].y == 0 && r.tap[0].x == 0 && r.gh == r.ih &&
                  r.gw == r.iw && lgv_as_matrix(&c->in[0], &pixels, &r.pitch);
    choose_kind(&r, matrix);
    w->taps = r.taps;
    w->window = p.kh * p.kw;
    w->gathered = r.kind == GATHERED;
    w->steps = r.inner.taps * r.inner.steps;
    if (r.gh > 0 && r.gw > 0) cut(&r);
    return r;
}

static int64_t packed_elements(const run *r)
{
    return lgv_ceil_div(r->y.k, BLOCK_COLUMNS) * r->block_stride;
}

static bool has_pixels(const run *r)
{
    return r->gh > 0 && r->gw > 0;
}

static int classes(const lgv_call *c)
{
    int stride = conv_describe(c).stride;
    return stride * stride;
}

static lgv_pack grad_x_pack(const lgv_call *c)
{
    static const char *const kind[AMX_MAX_STRIDE + 1] = {"amx dx gathered", "amx dx", "amx dx2",
                                                         "amx dx3", "amx dx4"};
    lgv_pack pack = {kind[conv_describe(c).stride], 0};
    for (int i = 0; i < classes(c); i++) {
        amx_weights w;
        run r = describe_class(c, i, &w);
        pack.bytes += (size_t)packed_elements(&r) * 2;
        if (classes(c) == 1 && r.kind == GATHERED && r.taps > 1) pack.kind = kind[0];
    }
    return pack;
}

static void grad_x_run_pack(const lgv_call *c, void *packed)
{
    uint16_t *to = packed;
    for (int i = 0; i < classes(c); i++) {
        amx_weights w;
        run r = describe_class(c, i, &w);
        amx_pack_weights(c, &w, to, r.block_stride);
        to += packed_elements(&r);
    }
}

static size_t grad_x_workspace(const lgv_call *c)
{
    size_t most = 0;
    for (int i = 0; i < classes(c); i++) {
        amx_weights w;
        run r = describe_class(c, i, &w);
        size_t bytes = has_pixels(&r) ? left_bytes(&r) : 0;
        most = bytes > most ? bytes : most;
    }
    return (size_t)c->threads * most;
}

static void grad_x(const lgv_call *c)
{
    const uint16_t *right = c->packed;
    for (int i = 0; i < classes(c); i++) {
        amx_weights w;
        run r = describe_class(c, i, &w);
        r.right = right;
        right += packed_elements(&r);
        if (has_pixels(&r)) run_all(c, &r);
    }
}

/* --- The table -------------------------------------------------------------------------------------------- */
#define FORWARD(name_)                                                                             \
    {                                                                                              \
        .op = name_, .name = "amx", .bf16 = true, .accepts = accepts, .epilogue = CONV_EPILOGUE,   \
        .pack = forward_pack, .run_pack = forward_run_pack, .workspace = forward_workspace,        \
        .run = forward                                                                             \
    }
#define GRAD_X(name_)                                                                              \
    {                                                                                              \
        .op = name_, .name = "amx", .bf16 = true, .accepts = accepts, .pack = grad_x_pack,         \
        .run_pack = grad_x_run_pack, .workspace = grad_x_workspace, .run = grad_x                  \
    }
#define GRAD_W(name_)                                                                              \
    {                                                                                              \
        .op = name_, .name = "amx", .bf16 = true, .accepts = amx_conv_w_accepts,                   \
        .accumulates = true, .workspace = amx_conv_w_workspace, .run = amx_conv_w                  \
    }

static const lgv_kernel kernels[] = {
    FORWARD(LGV_OP_conv2d),       FORWARD(LGV_OP_linear),       GRAD_X(LGV_OP_conv2d_grad_x),
    GRAD_X(LGV_OP_linear_grad_x), GRAD_W(LGV_OP_conv2d_grad_w), GRAD_W(LGV_OP_linear_grad_w),
};
extern const lgv_kernel_list LGV_TABLE(amx_conv);
const lgv_kernel_list LGV_TABLE(amx_conv) = {kernels, sizeof kernels / sizeof *kernels};
