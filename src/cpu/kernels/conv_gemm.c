/* conv_gemm.c - convolution and its gradient for data as indirect matrix products.
   Both gather, for each result pixel, one source pixel per tap; the result of a strided gradient falls
   apart into stride*stride phases, each with its own taps. Sources with few channels are copied into
   rows of all taps first, since segments that short would leave the tile kernel no work between pointers. */
#include "gemm.h"

enum { SMALL_CHANNELS = 16, AHEAD = 8 };

typedef struct tap {
    int32_t y, x; /* source pixel = step * grid pixel + this */
} tap;

/* A phase: result pixels on a grid, each the sum over taps of source pixels times packed weights. */
typedef struct gather {
    int64_t n, gh, gw; /* the grid */
    const real *x;     /* the source */
    int64_t sn, sh, sw, ih, iw, c;
    int step, taps, window_h, window_w; /* taps are a window's, row by row */
    tap tap[GEMM_MAX_TAPS];
    real *y; /* the result: grid pixel (n, i, j) at y + n*yn + i*yh + j*yw */
    int64_t yn, yh, yw, k;
    const real *panels;
    int64_t panel_size;
    const conv_epilogue *epilogue;            /* NULL: none */
    bool copy;                                /* copy the taps into rows */
    int64_t rows, panels_a_task, panel_tasks; /* of a task */
    char *workspace;
    size_t thread_bytes;
} gather;

/* A thread's part of the workspace. */
typedef struct scratch {
    const real **table;
    gemm_row *row;
    real *copy;
} scratch;

static size_t thread_bytes(int taps, int64_t c)
{
    size_t bytes = lgv_round_up(GEMM_MB * (size_t)taps * sizeof(real *)) +
                   lgv_round_up(GEMM_MB * sizeof(gemm_row));
    if (c < SMALL_CHANNELS)
        bytes += lgv_round_up((GEMM_MB * (size_t)taps * (size_t)c + VL) * sizeof(real));
    return bytes;
}

static scratch scratch_of(const gather *g, int thread)
{
    char *p = g->workspace + (size_t)thread * g->thread_bytes;
    scratch s;
    s.table = (const real **)(void *)p;
    s.row = (gemm_row *)(void *)(p + lgv_round_up(GEMM_MB * (size_t)g->taps * sizeof(real *)));
    s.copy = (real *)(void *)((char *)s.row + lgv_round_up(GEMM_MB * sizeof(gemm_row)));
    return s;
}

static const real *source(const gather *g, int64_t n, int64_t i, int64_t j, tap t)
{
    int64_t y = i * g->step + t.y, x = j * g->step + t.x;
    if (y < 0 || y >= g->ih || x < 0 || x >= g->iw) return NULL;
    return g->x + n * g->sn + y * g->sh + x * g->sw;
}

/* Pointers of m pixels from pixel `first` on; the rows that fill up the last tile repeat the last pixel. */
static void fill(const gather *g, const scratch *s, int64_t first, int64_t m)
{
    int64_t j = first % g->gw, i = first / g->gw % g->gh, n = first / g->gw / g->gh,
            k = g->taps * g->c;
    int64_t filled = lgv_ceil_div(m, GEMM_MR) * GEMM_MR;
    const lgv_nhwc shape = {g->n, g->ih, g->iw, g->c, g->sn, g->sh, g->sw};
    const lgv_nhwc *rs = g->epilogue ? &g->epilogue->residual_shape : NULL;
    for (int64_t r = 0; r < filled; r++) {
        if (r < m) {
            const real *residual =
                rs && g->epilogue->residual
                    ? g->epilogue->residual + n * rs->sn + i * rs->sh + j * rs->sw
                    : NULL;
            s->row[r] = (gemm_row){g->y + n * g->yn + i * g->yh + j * g->yw, residual, n};
        }
        int64_t tile = r / GEMM_MR, lane = r % GEMM_MR;
        if (g->copy) {
            if (r < m)
                gemm_gather_window(g->x + n * g->sn, &shape, g->window_h, g->window_w,
                                   i * g->step + g->tap[0].y, j * g->step + g->tap[0].x,
                                   s->copy + r * k);
            s->table[r] = s->copy + lgv_min_i64(r, m - 1) * k;
        } else {
            for (int t = 0; t < g->taps; t++)
                s->table[(tile * g->taps + t) * GEMM_MR + lane] = source(g, n, i, j, g->tap[t]);
        }
        if (r + 1 < m && ++j == g->gw) {
            j = 0;
            if (++i == g->gh) {
                i = 0;
                n++;
            }
        }
    }
}

static void gather_task(void *arg, int64_t block, int thread)
{
    const gather *g = arg;
    scratch s = scratch_of(g, thread);
    int64_t first = block / g->panel_tasks * g->rows,
            panel = block % g->panel_tasks * g->panels_a_task;
    gemm_block b = {.m = lgv_min_i64(g->rows, g->n * g->gh * g->gw - first),
                    .taps = g->copy ? 1 : g->taps,
                    .c = g->copy ? g->taps * g->c : g->c,
                    .table = s.table,
                    .row = s.row,
                    .panels = g->panels,
                    .panel_size = g->panel_size,
                    .columns = g->k,
                    .epilogue = g->epilogue};
    fill(g, &s, first, b.m);
    gemm_run_block(&b, panel, lgv_min_i64(panel + g->panels_a_task, gemm_panels(g->k)));
}

/* Blocks of equal size. Few pixels: the panels are shared out too, so that every thread has work. */
static void run_gather(const lgv_call *c, gather *g)
{
    int64_t pixels = g->n * g->gh * g->gw, blocks = lgv_ceil_div(pixels, GEMM_MB),
            panels = gemm_panels(g->k);
    g->rows = lgv_ceil_div(lgv_ceil_div(pixels, blocks), GEMM_MR) * GEMM_MR;
    blocks = lgv_ceil_div(pixels, g->rows);
    int64_t widest = lgv_max_i64(1, 512 / GEMM_NR);
    int64_t tasks = c->threads == 1 ? 1 : lgv_ceil_div(4 * c->threads, blocks);
    tasks = lgv_max_i64(tasks, lgv_ceil_div(panels, widest));
    g->panels_a_task = lgv_ceil_div(panels, lgv_min_i64(tasks, panels));
    g->panel_tasks = lgv_ceil_div(panels, g->panels_a_task);
    g->copy = g->c < SMALL_CHANNELS && g->taps > 1;
    lgv_parallel(c, blocks * g->panel_tasks, gather_task, g);
}

/* --- Forward --------------------------------------------------------------------------------------- */
bool conv_gemm_accepts(const lgv_call *c)
{
    conv_problem p = conv_describe(c);
    return conv_accepts(c) && p.kh * p.kw <= GEMM_MAX_TAPS;
}

lgv_pack conv_gemm_pack(const lgv_call *c)
{
    conv_problem p = conv_describe(c);
    return (lgv_pack){"gemm",
                      (size_t)(gemm_panels(p.y.c) * GEMM_NR * p.kh * p.kw * p.x.c) * sizeof(real)};
}

typedef struct pack_run {
    conv_problem p;
    real *to;
} pack_run;

/* A panel of outputs whose filters are dense, VL filters by VL elements at a time: element c*taps + t of a
   filter belongs to line t*C + c. */
static void pack_dense(const conv_problem *p, const real *w, int64_t columns, real *to)
{
    int64_t taps = p->kh * p->kw, size = taps * p->x.c;
    for (int64_t k = 0; k < GEMM_NR; k += VL) {
        int64_t t = 0, c = 0;
        for (int64_t e = 0; e < size; e += VL) {
            vreal a[VL];
            LGV_UNROLL
            for (int r = 0; r < VL; r++) {
                const real *from = w + (k + r) * p->ws[0] + e;
                __builtin_prefetch(
                    (const void *)((uintptr_t)from + (size_t)(VL * p->ws[0]) * sizeof(real)));
                a[r] = k + r >= columns ? v_zero()
                       : size - e >= VL ? v_load(from)
                                        : v_load_n(from, size - e);
            }
            v_transpose(a);
            for (int r = 0; r < VL && e + r < size; r++) {
                v_store(to + (t * p->x.c + c) * GEMM_NR + k, a[r]);
                if (++t == taps) {
                    t = 0;
                    c++;
                }
            }
        }
    }
}

void conv_gemm_pack_panel(const conv_problem *p, int64_t panel, real *to)
{
    int64_t taps = p->kh * p->kw, columns = lgv_min_i64(GEMM_NR, p->y.c - panel * GEMM_NR);
    const real *w = p->wd + panel * GEMM_NR * p->ws[0];
    if (p->ws[1] == taps && (taps == 1 || (p->ws[2] == p->kw && p->ws[3] == 1))) {
        pack_dense(p, w, columns, to);
        return;
    }
    for (int64_t c = 0; c < p->x.c; c++)
        for (int64_t t = 0; t < taps; t++) {
            const real *from = w + c * p->ws[1] + t / p->kw * p->ws[2] + t % p->kw * p->ws[3];
            real *line = to + (t * p->x.c + c) * GEMM_NR;
            for (int64_t k = 0; k < GEMM_NR; k++) line[k] = k < columns ? from[k * p->ws[0]] : 0;
        }
}

static void pack_forward(void *arg, int64_t panel, int thread)
{
    const pack_run *r = arg;
    (void)thread;
    conv_gemm_pack_panel(&r->p, panel, r->to + panel * GEMM_NR * r->p.kh * r->p.kw * r->p.x.c);
}

void conv_gemm_run_pack(const lgv_call *c, void *packed)
{
    pack_run r = {conv_describe(c), packed};
    lgv_parallel(c, gemm_panels(r.p.y.c), pack_forward, &r);
}

size_t conv_gemm_workspace(const lgv_call *c)
{
    conv_problem p = conv_describe(c);
    return (size_t)c->threads * thread_bytes(p.kh * p.kw, p.x.c);
}

void conv_gemm(const lgv_call *c)
{
    conv_problem p = conv_describe(c);
    conv_epilogue e = conv_describe_epilogue(c);
    gather g = {.n = p.y.n,
                .gh = p.y.h,
                .gw = p.y.w,
                .x = p.xd,
                .sn = p.x.sn,
                .sh = p.x.sh,
                .sw = p.x.sw,
                .ih = p.x.h,
                .iw = p.x.w,
                .c = p.x.c,
                .step = p.stride,
                .taps = p.kh * p.kw,
                .window_h = p.kh,
                .window_w = p.kw,
                .y = p.yd,
                .yn = p.y.sn,
                .yh = p.y.sh,
                .yw = p.y.sw,
                .k = p.y.c,
                .panels = c->packed,
                .epilogue = &e,
                .workspace = c->workspace};
    for (int t = 0; t < g.taps; t++) g.tap[t] = (tap){t / p.kw - p.top, t % p.kw - p.left};
    g.panel_size = g.taps * g.c * GEMM_NR;
    g.thread_bytes = thread_bytes(g.taps, g.c);
    run_gather(c, &g);
}

/* --- Gradient for data ------------------------------------------------------------------------------ */
/* Pixels h = s*gy + a read dy at row (h + top - i) / s = gy + (a + top - i) / s, for the taps i where that
   is whole: those with i mod s = (a + top) mod s. Weights are packed class after class (of i and j mod s),
   so that the taps of a phase are contiguous whatever the padding. */
enum { MAX_STRIDE = 8 };

/* Window rows (or columns) of class a: a, a + s, ... below n. */
static int class_size(int n, int a, int s)
{
    return a < n ? (n - 1 - a) / s + 1 : 0;
}

/* The taps of class (a, b) of a window with stride s, as indices i*kw + j into list: last first, so that the pixels of
   dy they read come in order. Returns how many. */
static int class_taps(const conv_problem *p, int a, int b, int *list)
{
    int n = 0;
    for (int i = class_size(p->kh, a, p->stride) - 1; i >= 0; i--)
        for (int j = class_size(p->kw, b, p->stride) - 1; j >= 0; j--)
            list[n++] = (a + i * p->stride) * p->kw + b + j * p->stride;
    return n;
}

/* Number of taps in the classes before (a, b). */
static int taps_before(const conv_problem *p, int a, int b)
{
    int n = 0, list[GEMM_MAX_TAPS];
    for (int class = 0; class < a * p->stride + b; class ++)
        n += class_taps(p, class / p->stride, class % p->stride, list);
    return n;
}

bool conv_gemm_x_accepts(const lgv_call *c)
{
    return conv_gemm_accepts(c) && conv_describe(c).stride <= MAX_STRIDE;
}

lgv_pack conv_gemm_x_pack(const lgv_call *c)
{
    static const char *const kind[MAX_STRIDE + 1] = {"",         "gemm-dx",  "gemm-dx2",
                                                     "gemm-dx3", "gemm-dx4", "gemm-dx5",
                                                     "gemm-dx6", "gemm-dx7", "gemm-dx8"};
    conv_problem p = conv_describe(c);
    return (lgv_pack){kind[p.stride],
                      (size_t)(gemm_panels(p.x.c) * GEMM_NR * p.kh * p.kw * p.y.c) * sizeof(real)};
}

/* Where the taps' lines start in a panel of inputs, [tap, class after class][k][GEMM_NR]. */
static void tap_lines(const conv_problem *p, int64_t *at)
{
    int list[GEMM_MAX_TAPS], before = 0;
    for (int class = 0; class < p->stride * p->stride; class ++) {
        int taps = class_taps(p, class / p->stride, class % p->stride, list);
        for (int t = 0; t < taps; t++) at[list[t]] = (before + t) * p->y.c * GEMM_NR;
        before += taps;
    }
}

/* Lines of one output k, from dense taps w[c][taps], VL channels by VL taps at a time. */
static void pack_taps(const real *w, int64_t taps, int64_t columns, const int64_t *at, real *to)
{
    for (int64_t c = 0; c < GEMM_NR; c += VL)
        for (int64_t t = 0; t < taps; t += VL) {
            vreal a[VL];
            LGV_UNROLL
            for (int r = 0; r < VL; r++)
                a[r] = c + r < columns ? v_load_n(w + (c + r) * taps + t, taps - t) : v_zero();
            v_transpose(a);
            for (int r = 0; r < VL && t + r < taps; r++) v_store(to + at[t + r] + c, a[r]);
        }
}

void conv_gemm_x_pack_panel(const conv_problem *p, int64_t panel, real *to)
{
    int64_t columns = lgv_min_i64(GEMM_NR, p->x.c - panel * GEMM_NR), taps = p->kh * p->kw;
    bool dense = taps > 1 && p->ws[1] == taps && p->ws[2] == p->kw && p->ws[3] == 1;
    const real *w = p->wd + panel * GEMM_NR * p->ws[1];
    int64_t at[GEMM_MAX_TAPS];
    tap_lines(p, at);
    for (int64_t k = 0; k < p->y.c; k++, w += p->ws[0], to += GEMM_NR) {
        if (dense) {
            for (int64_t i = 0; i < columns * taps; i += 64 / (int64_t)sizeof(real))
                __builtin_prefetch(
                    (const void *)((uintptr_t)w + (size_t)(AHEAD * p->ws[0] + i) * sizeof(real)));
            pack_taps(w, taps, columns, at, to);
            continue;
        }
        for (int64_t t = 0; t < taps; t++) {
            const real *from = w + t / p->kw * p->ws[2] + t % p->kw * p->ws[3];
            __builtin_prefetch(
                (const void *)((uintptr_t)from + AHEAD * (uintptr_t)p->ws[0] * sizeof(real)));
            if (columns == GEMM_NR && p->ws[1] == 1)
                memcpy(to + at[t], from, GEMM_NR * sizeof(real));
            else
                for (int64_t c = 0; c < GEMM_NR; c++)
                    to[at[t] + c] = c < columns ? from[c * p->ws[1]] : 0;
        }
    }
}

static void pack_grad_x(void *arg, int64_t panel, int thread)
{
    const pack_run *r = arg;
    (void)thread;
    conv_gemm_x_pack_panel(&r->p, panel, r->to + panel * GEMM_NR * r->p.kh * r->p.kw * r->p.y.c);
}

void conv_gemm_x_run_pack(const lgv_call *c, void *packed)
{
    pack_run r = {conv_describe(c), packed};
    lgv_parallel(c, gemm_panels(r.p.x.c), pack_grad_x, &r);
}

size_t conv_gemm_x_workspace(const lgv_call *c)
{
    conv_problem p = conv_describe(c);
    return (size_t)c->threads * thread_bytes(p.kh * p.kw, p.y.c);
}

typedef struct zero_run {
    conv_problem p;
    int a, b;
} zero_run;

/* A phase that no output reads (the window is smaller than the stride). */
static void zero_row(void *arg, int64_t block, int thread)
{
    const zero_run *z = arg;
    const conv_problem *p = &z->p;
    int64_t rows = lgv_ceil_div(p->x.h - z->a, p->stride), n = block / rows,
            h = z->a + block % rows * p->stride;
    for (int64_t w = z->b; w < p->x.w; w += p->stride)
        memset(p->xd + n * p->x.sn + h * p->x.sh + w * p->x.sw, 0, (size_t)p->x.c * sizeof(real));
}

/* Phase (a, b): pixels h = a, a + s, ..., w = b, b + s, ... */
static void run_phase(const lgv_call *c, const conv_problem *p, int a, int b)
{
    int list[GEMM_MAX_TAPS], s = p->stride, class_a = (a + p->top) % s, class_b = (b + p->left) % s;
    gather g = {.n = p->x.n,
                .gh = (p->x.h - a + s - 1) / s,
                .gw = (p->x.w - b + s - 1) / s,
                .x = p->yd,
                .sn = p->y.sn,
                .sh = p->y.sh,
                .sw = p->y.sw,
                .ih = p->y.h,
                .iw = p->y.w,
                .c = p->y.c,
                .step = 1,
                .yn = p->x.sn,
                .yh = p->x.sh * s,
                .yw = p->x.sw * s,
                .k = p->x.c,
                .workspace = c->workspace};
    g.taps = class_taps(p, class_a, class_b, list);
    g.window_h = class_size(p->kh, class_a, s);
    g.window_w = class_size(p->kw, class_b, s);
    for (int t = 0; t < g.taps; t++) {
        int i = list[t] / p->kw, j = list[t] % p->kw;
        g.tap[t] = (tap){(a + p->top - i) / s, (b + p->left - j) / s};
    }
    g.y = p->xd + a * p->x.sh + b * p->x.sw;
    g.panels = (const real *)c->packed + taps_before(p, class_a, class_b) * p->y.c * GEMM_NR;
    g.panel_size = (int64_t)p->kh * p->kw * p->y.c * GEMM_NR;
    g.thread_bytes = thread_bytes(p->kh * p->kw, p->y.c);
    if (g.taps) {
        run_gather(c, &g);
    } else {
        zero_run z = {*p, a, b};
        lgv_parallel(c, g.n * g.gh, zero_row, &z);
    }
}

void conv_gemm_x(const lgv_call *c)
{
    conv_problem p = conv_describe(c);
    for (int a = 0; a < p.stride && a < p.x.h; a++)
        for (int b = 0; b < p.stride && b < p.x.w; b++) run_phase(c, &p, a, b);
}
