/* conv_winograd_w.c - Winograd convolution: gradient for weights.
   A block of tiles of x and of dy is transformed at a time; then a task multiplies them for a rectangle of the
   weights (inputs x outputs) in all 36 planes, and after the last block transforms its rectangle back into dw. Sums
   run over at most SUM tiles in registers, then over these sums in order: one long running sum would lose digits.
   Two schedules; the channels decide. Many: all threads transform a block, as much as L3 holds, which all rectangles
   read; with one block of tiles the products stay in a thread's own memory. Few, where products take little longer than
   that reading: each task transforms what its rectangle needs, a block so small that it stays in L2 with its sums. */
#include "conv_winograd.h"

enum {
    PANELS = 2,                     /* of outputs of a task, at most */
    INPUTS = 128,                   /* channels of x of a task, at most */
    SUM = 96,                       /* tiles summed in registers */
    FEW = 128,                      /* channels of x and of dy, at most, for the schedule of few */
    FEW_TILES = VL == 16 ? 32 : 24, /* of a block, there */
    FEW_CHANNELS = 64,              /* inputs and outputs of a task there, at most */
    FEW_LEAST = 32,                 /* and as few as this for more threads */
    BLOCK_BYTES = VL == 16 ? 16 << 20 : 8 << 20, /* of transformed tiles */
    TILES = 4                                    /* of a transform task */
};

typedef struct run {
    wino_picture x, dy;
    int64_t c, k;
    real *dw;
    int64_t wk; /* dw[k,c,3,3] by its stride of k; the rest is dense */
    bool accumulate;
    int64_t tiles, block, first, count; /* all; of a block; those of the current block */
    int64_t inputs, panels;             /* of a task */
    int64_t c_tasks, k_tasks;           /* tasks along c and k */
    real *v;                            /* [36][block][c]: transformed x */
    int64_t v_row, v_plane;
    real *d; /* [36][panel][block][WINO_NR]: transformed dy */
    int64_t d_panel, d_plane;
    real *u; /* [task or thread][36][panel][inputs][WINO_NR]: sums of products */
    int64_t u_plane;
    bool own; /* u is the thread's own: one block, or few channels */
    bool few; /* so are v and d, for the task's channels alone */
} run;

/* --- dy --------------------------------------------------------------------------------------------- */
/* One vector of channels of a tile: A dy A^T, pixels outside are zero. */
LGV_FOLD void dy_vector(const real *y, const lgv_nhwc *s, int h, int w, int64_t n, bool full,
                        real *d, int64_t step)
{
    vreal t[24];
    LGV_UNROLL
    for (int j = 0; j < 4; j++) {
        vreal q[4];
        LGV_UNROLL
        for (int i = 0; i < 4; i++) {
            const real *from = y + i * s->sh + j * s->sw;
            q[i] = i >= h || j >= w ? v_zero() : full ? v_load(from) : v_load_n(from, n);
        }
        wino_a(q, 1, t + j, 4);
    }
    LGV_UNROLL
    for (int i = 0; i < 6; i++) {
        vreal o[6];
        wino_a(t + 4 * i, 1, o, 1);
        LGV_UNROLL
        for (int j = 0; j < 6; j++) v_store(d + (6 * i + j) * step, o[j]);
    }
}

static void dy_tile(const run *r, int64_t tile, real *d)
{
    const wino_picture *p = &r->dy;
    int64_t j = tile % p->tw, i = tile / p->tw % p->th, n = tile / p->tw / p->th;
    const real *y = p->data + n * p->s.sn + 4 * i * p->s.sh + 4 * j * p->s.sw;
    int h = (int)lgv_min_i64(4, p->s.h - 4 * i), w = (int)lgv_min_i64(4, p->s.w - 4 * j);
    for (int64_t k = 0; k < wino_round(r->k, WINO_NR); k += VL) {
        real *to = d + k / WINO_NR * r->d_panel + k % WINO_NR;
        if (h == 4 && w == 4 && k + VL <= r->k)
            dy_vector(y + k, &p->s, 4, 4, VL, true, to, r->d_plane);
        else
            dy_vector(y + k, &p->s, h, w, r->k - k, false, to, r->d_plane);
    }
}

/* Tiles [t, stop) of the block. */
static void transform_tiles(const run *r, int64_t t, int64_t stop)
{
    for (; t < stop; t++) {
        wino_source_tile(&r->x, r->first + t, r->v + t * r->v_row, r->v_plane);
        dy_tile(r, r->first + t, r->d + t * WINO_NR);
    }
}

static void tile_task(void *arg, int64_t task, int thread)
{
    const run *r = arg;
    transform_tiles(r, task * TILES, lgv_min_i64((task + 1) * TILES, r->count));
}

/* --- Products --------------------------------------------------------------------------------------- */
/* Tiles [t, t+n) of one plane: inputs [c0, c1) times one panel. */
static void multiply_panel(const run *r, real *u, int plane, int64_t panel, int64_t c0, int64_t c1,
                           int64_t t, int64_t n)
{
    const real *v = r->v + plane * r->v_plane + t * r->v_row;
    wino_factors f = {.n = n,
                      .lead = r->v_row,
                      .b = r->d + plane * r->d_plane + panel * r->d_panel + t * WINO_NR,
                      .m_step = WINO_NR,
                      .add = t > 0 || r->first > 0,
                      .near_step = r->v_row * (int64_t)sizeof(real)};
    for (int64_t c = c0; c < c1; c += WINO_MR) {
        int64_t rows = wino_round(lgv_min_i64(WINO_MR, c1 - c), WINO_MR / 3);
        f.a = v + c;
        f.m = u + (c - c0) * WINO_NR;
        f.near = f.far = (const char *)(f.a + WINO_MR + WINO_LINE);
        wino_product(&f, (int)rows, true);
    }
}

/* --- Weights ---------------------------------------------------------------------------------------- */
/* G^T u G of one vector of outputs and one input. */
LGV_FOLD void weights_vector(const real *u, int64_t step, vreal *g)
{
    vreal t[18];
    LGV_UNROLL
    for (int j = 0; j < 6; j++) {
        vreal q[6];
        LGV_UNROLL
        for (int i = 0; i < 6; i++) q[i] = v_load(u + (6 * i + j) * step);
        wino_gt(q, 1, t + j, 6);
    }
    LGV_UNROLL
    for (int i = 0; i < 3; i++) wino_gt(t + 6 * i, 1, g + 3 * i, 1);
}

/* to[l * step + j] (+)= from[j] lane l, for j < count; changes from. */
static void store_transposed(vreal *from, real *to, int64_t step, int64_t lanes, int64_t count,
                             bool add)
{
    for (int64_t j = 0; j < count; j += VL) {
        int64_t n = lgv_min_i64(VL, count - j);
        v_transpose(from + j);
        for (int64_t l = 0; l < lgv_min_i64(VL, lanes); l++) {
            real *w = to + l * step + j;
            vreal g = from[j + l];
            if (n == VL)
                v_store(w, add ? v_add(v_load(w), g) : g);
            else
                v_store_n(w, add ? v_add(v_load_n(w, n), g) : g, n);
        }
    }
}

static void write_weights(const run *r, const real *u, int64_t k0, int64_t c0, int64_t c1)
{
    vreal g[9 * VL + VL];
    for (int64_t k = 0; k < r->panels * WINO_NR && k0 + k < r->k; k += VL) {
        const real *from = u + k / WINO_NR * r->inputs * WINO_NR + k % WINO_NR;
        for (int64_t c = c0; c < c1; c += VL) {
            int64_t n = lgv_min_i64(VL, c1 - c);
            for (int64_t i = 0; i < n; i++)
                weights_vector(from + (c - c0 + i) * WINO_NR, r->u_plane, g + 9 * i);
            store_transposed(g, r->dw + (k0 + k) * r->wk + c * 9, r->wk, r->k - k0 - k, 9 * n,
                             r->accumulate);
        }
    }
}

/* The products of a block for the rectangle of inputs [c0, c1) and outputs from k0 on. */
static void multiply(const run *r, real *u, int64_t k0, int64_t c0, int64_t c1)
{
    int64_t panels = lgv_min_i64(r->panels, lgv_ceil_div(r->k - k0, WINO_NR));
    for (int plane = 0; plane < WINO_PLANES; plane++)
        for (int64_t t = 0; t < r->count; t += SUM)
            for (int64_t panel = 0; panel < panels; panel++)
                multiply_panel(r, u + plane * r->u_plane + panel * r->inputs * WINO_NR, plane,
                               k0 / WINO_NR + panel, c0, c1, t, lgv_min_i64(SUM, r->count - t));
}

static void weights_task(void *arg, int64_t task, int thread)
{
    const run *r = arg;
    int64_t k0 = task / r->c_tasks * r->panels * WINO_NR, c0 = task % r->c_tasks * r->inputs,
            c1 = lgv_min_i64(c0 + r->inputs, r->c);
    real *u = r->u + (r->own ? thread : task) * WINO_PLANES * r->u_plane;
    multiply(r, u, k0, c0, c1);
    if (r->first + r->count == r->tiles) write_weights(r, u, k0, c0, c1);
}

/* A rectangle by itself: a run over its channels alone, in the thread's part of v. */
static void few_task(void *arg, int64_t task, int thread)
{
    run r = *(const run *)arg;
    int64_t k0 = task / r.c_tasks * r.panels * WINO_NR, c0 = task % r.c_tasks * r.inputs;
    r.x.data += c0;
    r.dy.data += k0;
    r.dw += k0 * r.wk + c0 * 9;
    r.c = r.x.s.c = lgv_min_i64(r.inputs, r.c - c0);
    r.k = r.dy.s.c = lgv_min_i64(r.panels * WINO_NR, r.k - k0);
    r.v += thread * WINO_PLANES * (r.v_plane + r.d_plane + r.u_plane);
    r.d = r.v + WINO_PLANES * r.v_plane;
    real *u = r.d + WINO_PLANES * r.d_plane;
    for (; r.first < r.tiles; r.first += r.block) {
        r.count = lgv_min_i64(r.block, r.tiles - r.first);
        transform_tiles(&r, 0, r.count);
        multiply(&r, u, 0, 0, r.c);
    }
    write_weights(&r, u, 0, 0, r.c);
}

/* --- The kernel ------------------------------------------------------------------------------------- */
/* Rectangles of few channels, so many that every thread has one where FEW_LEAST allows it. */
static void describe_few(run *r, int threads)
{
    r->own = true;
    r->block = lgv_min_i64(r->tiles, FEW_TILES);
    r->inputs = lgv_min_i64(FEW_CHANNELS, wino_round(r->c, VL));
    r->panels = lgv_min_i64(FEW_CHANNELS / WINO_NR, lgv_ceil_div(r->k, WINO_NR));
    for (;;) {
        r->c_tasks = lgv_ceil_div(r->c, r->inputs);
        r->k_tasks = lgv_ceil_div(r->k, r->panels * WINO_NR);
        if (r->c_tasks * r->k_tasks >= threads) return;
        if (r->panels * WINO_NR > FEW_LEAST && r->panels * WINO_NR >= r->inputs)
            r->panels = lgv_ceil_div(r->panels, 2);
        else if (r->inputs > FEW_LEAST)
            r->inputs = wino_round(r->inputs / 2, VL);
        else
            return;
    }
}

/* Rectangles of many channels. Every thread wants two tasks: first by fewer outputs, since halves of x's rows are read
   less well. */
static void describe_many(run *r, int threads)
{
    int64_t columns = wino_round(r->k, WINO_NR), row = wino_round(r->c, VL) + WINO_MR;
    int64_t most = BLOCK_BYTES / ((int64_t)sizeof(real) * WINO_PLANES * SUM * (row + columns));
    int64_t parts = lgv_ceil_div(r->tiles, SUM);
    int64_t blocks = lgv_ceil_div(parts, lgv_max_i64(1, most));
    r->block = lgv_min_i64(r->tiles, lgv_ceil_div(parts, blocks) * SUM);
    r->own = r->block == r->tiles;
    r->inputs = lgv_min_i64(INPUTS, wino_round(r->c, VL));
    r->c_tasks = lgv_ceil_div(r->c, r->inputs);
    r->panels = lgv_ceil_div(r->k, PANELS * WINO_NR) * r->c_tasks < 2 * threads ? 1 : PANELS;
    r->k_tasks = lgv_ceil_div(r->k, r->panels * WINO_NR);
    while (r->inputs > 2 * VL && r->k_tasks * lgv_ceil_div(r->c, r->inputs) < 2 * threads)
        r->inputs = wino_round(r->inputs / 2, VL);
    r->c_tasks = lgv_ceil_div(r->c, r->inputs);
}

static run describe(const lgv_call *c)
{
    conv_problem p = conv_describe(c);
    run r = {.x = wino_picture_of(p.xd, p.x, p.top, p.left, &p.y),
             .dy = wino_picture_of(p.yd, p.y, 0, 0, &p.y),
             .c = p.x.c,
             .k = p.y.c,
             .dw = p.wd,
             .wk = p.ws[0],
             .accumulate = c->accumulate,
             .few = p.x.c <= FEW && p.y.c <= FEW};
    r.tiles = wino_tiles(&r.dy);
    if (r.few)
        describe_few(&r, c->threads);
    else
        describe_many(&r, c->threads);
    int64_t inputs = r.few ? r.inputs : r.c,
            panels = r.few ? r.panels : lgv_ceil_div(r.k, WINO_NR); /* of v and d */
    r.v_row = wino_odd_lines(wino_round(inputs, VL) + WINO_MR);
    r.v_plane = wino_odd_lines(r.block * r.v_row);
    r.d_panel = wino_odd_lines(r.block * WINO_NR);
    r.d_plane = wino_odd_lines(panels * r.d_panel);
    r.u_plane = wino_odd_lines(r.panels * wino_round(r.inputs, WINO_MR) * WINO_NR);
    return r;
}

/* Fewer channels of x leave too little work between the transforms of dy. */
bool wino_w_accepts(const lgv_call *c)
{
    return wino_accepts(c) && (VL == 1 || c->in[0].dim[3] >= 32);
}

size_t wino_w_workspace(const lgv_call *c)
{
    run r = describe(c);
    int64_t u = r.own ? c->threads : r.c_tasks * r.k_tasks, v = r.few ? c->threads : 1;
    return (size_t)(WINO_PLANES * (v * (r.v_plane + r.d_plane) + u * r.u_plane)) * sizeof(real);
}

void wino_w_run(const lgv_call *c)
{
    run r = describe(c);
    r.v = c->workspace;
    if (r.few) {
        lgv_parallel(c, r.c_tasks * r.k_tasks, few_task, &r);
        return;
    }
    r.d = r.v + WINO_PLANES * r.v_plane;
    r.u = r.d + WINO_PLANES * r.d_plane;
    for (r.first = 0; r.first < r.tiles; r.first += r.block) {
        r.count = lgv_min_i64(r.block, r.tiles - r.first);
        lgv_parallel(c, lgv_ceil_div(r.count, TILES), tile_task, &r);
        lgv_parallel(c, r.c_tasks * r.k_tasks, weights_task, &r);
    }
}
