/* conv_winograd.c - Winograd convolution: forward and gradient for data.
   The gradient for data is the forward pass on dy with the weights rotated and transposed. Two schedules
   give the same bits. Many tiles: the weights are transformed once; then each task takes some tiles through all
   three steps in memory of its own. Few tiles: they are transformed by all threads into shared memory; then each
   task takes a group of outputs, transforms its weights, multiplies and transforms back, so that the
   transformed weights (four times their size) never go through main memory. In both, the products of some tiles with
   a group of outputs stay in L2 until they are transformed back. Transformed weights are four times the weights; where
   the plan keeps them (call.packed), both schedules read them instead of making them. */
#include "conv_winograd.h"

enum {
    PANELS = 2,               /* of WINO_NR outputs, a group */
    GROUP = PANELS * WINO_NR, /* outputs of a task */
    ROWS = 48,                /* tiles between two transforms back */
    BLOCK_BYTES = 8 << 20,    /* of transformed tiles: a part of L3 */
    TILES = 4                 /* of a source transform task */
};

typedef struct run {
    wino_picture from, to; /* source and result; `to` begins at pixel 4i, 4j */
    int64_t c, k;          /* channels of source and result */
    const real *w; /* w[k,c,3,3] by strides of k and c; taps dense, turned round for gradients */
    int64_t wk, wc;
    bool turned;
    const conv_epilogue *e; /* NULL: none */
    int64_t tiles, groups;
    bool many;                   /* the first schedule */
    int64_t block, first, count; /* few: tiles of a block; those of the current one */
    int64_t ranges, range;       /* few: tasks are groups x ranges of the block's tiles */
    real *v;                     /* few: [36][block][channels], transformed tiles */
    int64_t v_row, v_plane;
    real *u;          /* many: [group][36][PANELS][c][WINO_NR], transformed weights */
    const real *kept; /* the same, made before; NULL: not */
    int64_t u_plane, m_plane;
    char *threads; /* each thread's part, after shared_bytes */
    size_t shared_bytes, thread_bytes;
} run;

/* What a task works on: the shared parts and those of its thread. */
typedef struct scratch {
    real *v;       /* many: [36][ROWS][channels] */
    real *made;    /* few, not kept: [36][PANELS][c][WINO_NR] */
    const real *u; /* transformed weights of the group at hand */
    real *m;       /* [36][ROWS][GROUP]: products */
} scratch;

static scratch scratch_of(const run *r, int thread)
{
    real *own = (real *)(void *)(r->threads + (size_t)thread * r->thread_bytes);
    scratch s = {.v = r->v, .m = own};
    own += WINO_PLANES * r->m_plane;
    if (r->many)
        s.v = own;
    else
        s.made = own;
    return s;
}

/* --- Source ---------------------------------------------------------------------------------------- */
typedef struct tile_pixels {
    const real *first; /* pixel (0, 0); may lie outside */
    int64_t sh, sw;
    int h0, h1, w0, w1; /* rows and columns inside the picture */
} tile_pixels;

/* One vector of channels of a tile. whole (constant): all pixels are inside; n < VL: the last ones. */
LGV_FOLD void source_vector(const tile_pixels *p, int64_t c, int64_t n, bool whole, bool full,
                            real *v, int64_t step)
{
    vreal t[36];
    LGV_UNROLL
    for (int j = 0; j < 6; j++) {
        vreal d[6];
        LGV_UNROLL
        for (int i = 0; i < 6; i++) {
            const real *x = p->first + i * p->sh + j * p->sw + c;
            bool inside = whole || (i >= p->h0 && i < p->h1 && j >= p->w0 && j < p->w1);
            d[i] = !inside ? v_zero() : full ? v_load(x) : v_load_n(x, n);
        }
        wino_bt(d, 1, t + j, 6);
    }
    LGV_UNROLL
    for (int i = 0; i < 6; i++) {
        vreal o[6];
        wino_bt(t + 6 * i, 1, o, 1);
        LGV_UNROLL
        for (int j = 0; j < 6; j++) v_store(v + c + (6 * i + j) * step, o[j]);
    }
}

void wino_source_tile(const wino_picture *p, int64_t tile, real *v, int64_t step)
{
    int64_t j = tile % p->tw, i = tile / p->tw % p->th, n = tile / p->tw / p->th;
    int64_t h = 4 * i - p->top, w = 4 * j - p->left, c = 0;
    tile_pixels t = {.first = p->data + n * p->s.sn + h * p->s.sh + w * p->s.sw,
                     .sh = p->s.sh,
                     .sw = p->s.sw,
                     .h0 = (int)lgv_max_i64(0, -h),
                     .h1 = (int)lgv_min_i64(6, p->s.h - h),
                     .w0 = (int)lgv_max_i64(0, -w),
                     .w1 = (int)lgv_min_i64(6, p->s.w - w)};
    bool whole = t.h0 == 0 && t.w0 == 0 && t.h1 == 6 && t.w1 == 6;
    if (whole)
        for (; c + VL <= p->s.c; c += VL) source_vector(&t, c, VL, true, true, v, step);
    else
        for (; c + VL <= p->s.c; c += VL) source_vector(&t, c, VL, false, true, v, step);
    if (c < p->s.c) source_vector(&t, c, p->s.c - c, false, false, v, step);
}

/* Tiles [t, stop) of those that begin at tile `first`, of which `count` exist; the rest, which fills up the
   last tile of products, becomes zeros. */
static void source_tiles(const run *r, int64_t first, int64_t count, int64_t t, int64_t stop,
                         real *v)
{
    for (; t < stop; t++) {
        if (t < count) {
            wino_source_tile(&r->from, first + t, v + t * r->v_row, r->v_plane);
        } else {
            for (int p = 0; p < WINO_PLANES; p++)
                memset(v + t * r->v_row + p * r->v_plane, 0, (size_t)r->c * sizeof(real));
        }
    }
}

static void source_task(void *arg, int64_t task, int thread)
{
    const run *r = arg;
    int64_t stop = lgv_min_i64((task + 1) * TILES, wino_round(r->count, WINO_MR));
    source_tiles(r, r->first, r->count, task * TILES, stop, r->v);
}

/* --- Weights ---------------------------------------------------------------------------------------- */
/* to[j] lane l = from[l * step + j] for j < count; lanes from `lanes` on are zero. */
static void load_transposed(const real *from, int64_t step, int64_t lanes, int64_t count, vreal *to)
{
    for (int64_t j = 0; j < count; j += VL) {
        int64_t n = count - j;
        for (int64_t l = 0; l < VL; l++)
            to[j + l] = l >= lanes ? v_zero()
                        : n >= VL  ? v_load(from + l * step + j)
                                   : v_load_n(from + l * step + j, n);
        v_transpose(to + j);
    }
}

/* U = G g G^T of one vector of outputs and one source channel; turned (constant): the taps in reverse. */
LGV_FOLD void transform_weights(const vreal *g, bool turned, real *u, int64_t step)
{
    vreal t[18], o[6];
    LGV_UNROLL
    for (int j = 0; j < 3; j++) wino_g(turned ? g + 8 - j : g + j, turned ? -3 : 3, t + j, 3);
    LGV_UNROLL
    for (int i = 0; i < 6; i++) {
        wino_g(t + 3 * i, 1, o, 1);
        LGV_UNROLL
        for (int j = 0; j < 6; j++) v_store(u + (6 * i + j) * step, o[j]);
    }
}

/* VL channels of the source from c on, for the outputs [k, k+VL). Forward, a lane's taps of all channels
   lie in one piece; in a gradient the lanes are the convolution's input channels and the taps turn round. */
static void weights_block(const run *r, int64_t k, int64_t c, real *u, int64_t step)
{
    vreal g[9 * VL + VL];
    int64_t n = lgv_min_i64(VL, r->c - c), lanes = r->k - k;
    const real *w = r->w + k * r->wk + c * r->wc;
    if (!r->turned) {
        load_transposed(w, r->wk, lanes, 9 * n, g);
        for (int64_t i = 0; i < n; i++) transform_weights(g + 9 * i, false, u + i * WINO_NR, step);
        return;
    }
    for (int64_t i = 0; i < n; i++, w += r->wc) {
        load_transposed(w, r->wk, lanes, VL == 8 ? 8 : 9, g);
        if (VL == 8) { /* the ninth tap alone */
            real last[VL];
            for (int l = 0; l < VL; l++) last[l] = l < lanes ? w[l * r->wk + 8] : 0;
            g[8] = v_load(last);
        }
        transform_weights(g, true, u + i * WINO_NR, step);
    }
}

/* Panel `panel` of all outputs, of the group at u. */
static void panel_weights(const run *r, int64_t panel, real *u)
{
    u += panel % PANELS * WINO_NR * r->c;
    for (int64_t c = 0; c < r->c; c += VL)
        for (int64_t k = 0; k < WINO_NR; k += VL)
            weights_block(r, panel * WINO_NR + k, c, u + c * WINO_NR + k, r->u_plane);
}

static void weights_task(void *arg, int64_t panel, int thread)
{
    const run *r = arg;
    panel_weights(r, panel, r->u + panel / PANELS * WINO_PLANES * r->u_plane);
}

/* --- Products --------------------------------------------------------------------------------------- */
/* step_r, step_k: of a's rows and of k; one of them is the constant 1. */
LGV_FOLD void product(const wino_factors *f, int rows, int64_t step_r, int64_t step_k)
{
    vreal sum[WINO_MR][WINO_NV];
    const real *a[WINO_MR / 3 + 1], *b = f->b;
    const char *near = f->near, *far = f->far;
    const int64_t near_step = f->near_step, far_step = f->far_step, m_step = f->m_step;
    const bool add = f->add;
    real *m = f->m;
    LGV_UNROLL
    for (int i = 0; i * 3 < rows; i++) a[i] = f->a + 3 * i * step_r;
    LGV_UNROLL
    for (int r = 0; r < rows; r++) {
        LGV_UNROLL
        for (int v = 0; v < WINO_NV; v++) sum[r][v] = v_zero();
    }
    for (int64_t k = f->n; k > 0; k--) {
        vreal column[WINO_NV];
        LGV_UNROLL
        for (int v = 0; v < WINO_NV; v++) column[v] = v_load(b + v * VL);
        __builtin_prefetch(near);
        __builtin_prefetch(far, 0, 2);
        near += near_step;
        far += far_step;
        b += WINO_NR;
        LGV_UNROLL
        for (int r = 0; r < rows; r++) {
            vreal x = v_set1(a[r / 3][r % 3 * step_r]);
            LGV_UNROLL
            for (int v = 0; v < WINO_NV; v++) sum[r][v] = v_fma(x, column[v], sum[r][v]);
        }
        LGV_UNROLL
        for (int i = 0; i * 3 < rows; i++) a[i] += step_k;
    }
    LGV_UNROLL
    for (int r = 0; r < rows; r++) {
        real *to = m + r * m_step;
        LGV_UNROLL
        for (int v = 0; v < WINO_NV; v++)
            v_store(to + v * VL, add ? v_add(v_load(to + v * VL), sum[r][v]) : sum[r][v]);
    }
}

void wino_product(const wino_factors *f, int rows, bool dense_rows)
{
    enum { THIRD = WINO_MR / 3 };
    int thirds = rows / THIRD;
    if (dense_rows) {
        if (thirds == 3)
            product(f, 3 * THIRD, 1, f->lead);
        else if (thirds == 2)
            product(f, 2 * THIRD, 1, f->lead);
        else
            product(f, THIRD, 1, f->lead);
    } else {
        if (thirds == 3)
            product(f, 3 * THIRD, f->lead, 1);
        else if (thirds == 2)
            product(f, 2 * THIRD, f->lead, 1);
        else
            product(f, THIRD, f->lead, 1);
    }
}

/* Tiles [t, t + rows) of the block times one panel of one plane. Meanwhile the next piece of weights comes
   to L1 and the next plane's tiles come to L2. */
static void multiply_panel(const run *r, const scratch *s, int plane, int64_t panel, int64_t t,
                           int64_t rows)
{
    const real *v = s->v + plane * r->v_plane + t * r->v_row,
               *u = s->u + plane * r->u_plane + panel * WINO_NR * r->c;
    real *m = s->m + plane * r->m_plane + panel * WINO_NR;
    int64_t pieces = lgv_ceil_div(r->c, WINO_KC), piece = lgv_ceil_div(r->c, pieces);
    for (int64_t c = 0; c < r->c; c += piece) {
        wino_factors f = {.n = lgv_min_i64(piece, r->c - c),
                          .lead = r->v_row,
                          .b = u + c * WINO_NR,
                          .m_step = GROUP,
                          .add = c > 0};
        f.near = (const char *)(f.b + f.n * WINO_NR);
        f.near_step = lgv_ceil_div(WINO_NR * (int64_t)sizeof(real) * WINO_MR, rows);
        f.far_step = WINO_MR * r->v_row * (int64_t)sizeof(real) / r->c;
        for (int64_t i = 0; i < rows; i += WINO_MR) {
            int64_t left = wino_round(lgv_min_i64(WINO_MR, rows - i), WINO_MR / 3);
            f.a = v + i * r->v_row + c;
            f.m = m + i * GROUP;
            f.far = (const char *)(v + r->v_plane + i * r->v_row) + c * f.far_step;
            wino_product(&f, (int)left, false);
            f.near += f.n * f.near_step;
        }
    }
}

/* --- Result ----------------------------------------------------------------------------------------- */
typedef struct result_tile {
    real *y; /* pixel (0, 0) */
    const real *residual;
    int64_t n;
    int h, w; /* pixels that exist */
} result_tile;

static result_tile locate_result(const run *r, int64_t tile)
{
    const wino_picture *p = &r->to;
    int64_t j = tile % p->tw, i = tile / p->tw % p->th, n = tile / p->tw / p->th;
    result_tile t = {.y = p->data + n * p->s.sn + 4 * i * p->s.sh + 4 * j * p->s.sw,
                     .n = n,
                     .h = (int)lgv_min_i64(4, p->s.h - 4 * i),
                     .w = (int)lgv_min_i64(4, p->s.w - 4 * j)};
    if (r->e && r->e->residual) {
        const lgv_nhwc *s = &r->e->residual_shape;
        t.residual = r->e->residual + n * s->sn + 4 * i * s->sh + 4 * j * s->sw;
    }
    return t;
}

/* Outputs [k, k+n), n <= VL, of a tile from its products m. */
LGV_FOLD void result_vector(const run *r, const result_tile *t, int64_t k, int64_t n, bool full,
                            const real *m, int64_t step)
{
    const conv_epilogue *e = r->e;
    vreal s[24], o[4], offset = v_zero(), gate = v_set1(1);
    LGV_UNROLL
    for (int j = 0; j < 6; j++) {
        vreal d[6];
        LGV_UNROLL
        for (int i = 0; i < 6; i++) d[i] = v_load(m + (6 * i + j) * step);
        wino_at(d, 1, s + j, 6);
    }
    if (e && e->bias) offset = v_load_n(e->bias + k, n);
    if (e && e->row) offset = v_add(offset, v_load_n(e->row + t->n * e->row_stride + k, n));
    if (e && e->gate) gate = v_load_n(e->gate + t->n * e->gate_stride + k, n);
    for (int i = 0; i < t->h; i++) {
        real *y = t->y + i * r->to.s.sh + k;
        wino_at(s + 6 * i, 1, o, 1);
        for (int j = 0; j < t->w; j++, y += r->to.s.sw) {
            vreal sum = v_add(o[j], offset);
            if (e && e->act) sum = v_act(sum, e->act);
            if (e && e->gate) sum = v_mul(sum, gate);
            if (t->residual)
                sum = v_add(sum, v_load_n(t->residual + i * e->residual_shape.sh +
                                              j * e->residual_shape.sw + k,
                                          n));
            if (full)
                v_store(y, sum);
            else
                v_store_n(y, sum, n);
        }
    }
}

static void result_group(const run *r, const scratch *s, int64_t tile, int64_t row, int64_t k0)
{
    result_tile t = locate_result(r, tile);
    for (int64_t k = 0; k < GROUP && k0 + k < r->k; k += VL) {
        const real *m = s->m + row * GROUP + k;
        int64_t n = r->k - k0 - k;
        if (n >= VL)
            result_vector(r, &t, k0 + k, VL, true, m, r->m_plane);
        else
            result_vector(r, &t, k0 + k, n, false, m, r->m_plane);
    }
}

/* Tiles [t, t+rows) of s->v, which are the picture's from `tile` on, times one group of outputs. */
static void multiply_group(const run *r, const scratch *s, int64_t group, int64_t t, int64_t rows,
                           int64_t tile)
{
    int64_t panels = lgv_min_i64(PANELS, lgv_ceil_div(r->k - group * GROUP, WINO_NR));
    for (int plane = 0; plane < WINO_PLANES; plane++)
        for (int64_t panel = 0; panel < panels; panel++)
            multiply_panel(r, s, plane, panel, t, rows);
    for (int64_t i = 0; i < rows; i++) result_group(r, s, tile + i, i, group * GROUP);
}

/* Many tiles: ROWS of them through all steps. */
static void tiles_task(void *arg, int64_t task, int thread)
{
    const run *r = arg;
    scratch s = scratch_of(r, thread);
    int64_t first = task * ROWS, rows = lgv_min_i64(ROWS, r->tiles - first);
    source_tiles(r, first, rows, 0, wino_round(rows, WINO_MR), s.v);
    for (int64_t group = 0; group < r->groups; group++) {
        s.u = (r->kept ? r->kept : r->u) + group * WINO_PLANES * r->u_plane;
        multiply_group(r, &s, group, 0, rows, first);
    }
}

/* Few tiles: a range of the block times one group. */
static void group_task(void *arg, int64_t task, int thread)
{
    const run *r = arg;
    scratch s = scratch_of(r, thread);
    int64_t group = task / r->ranges, start = task % r->ranges * r->range,
            stop = lgv_min_i64(start + r->range, r->count);
    s.u = r->kept ? r->kept + group * WINO_PLANES * r->u_plane : s.made;
    for (int64_t panel = group * PANELS; !r->kept && panel < (group + 1) * PANELS; panel++)
        if (panel * WINO_NR < r->k) panel_weights(r, panel, s.made);
    for (int64_t t = start; t < stop; t += ROWS)
        multiply_group(r, &s, group, t, lgv_min_i64(ROWS, stop - t), r->first + t);
}

/* --- The kernel ------------------------------------------------------------------------------------- */
static run describe(const lgv_call *c)
{
    conv_problem p = conv_describe(c);
    run r = {.turned = c->op == LGV_OP_conv2d_grad_x, .w = p.wd, .kept = c->packed};
    if (r.turned) {
        r.from = wino_picture_of(p.yd, p.y, 2 - p.top, 2 - p.left, &p.x);
        r.to = wino_picture_of(p.xd, p.x, 0, 0, &p.x);
        r.wk = p.ws[1];
        r.wc = p.ws[0];
    } else {
        r.from = wino_picture_of(p.xd, p.x, p.top, p.left, &p.y);
        r.to = wino_picture_of(p.yd, p.y, 0, 0, &p.y);
        r.wk = p.ws[0];
        r.wc = p.ws[1];
    }
    r.c = r.from.s.c;
    r.k = r.to.s.c;
    r.tiles = wino_tiles(&r.to);
    r.groups = lgv_ceil_div(r.k, GROUP);
    r.v_row = wino_odd_lines(wino_round(r.c, VL));
    r.u_plane = wino_odd_lines(GROUP * r.c);
    r.m_plane = wino_odd_lines(ROWS * GROUP);
    int64_t parts = lgv_ceil_div(r.tiles, ROWS);
    r.many = parts >= 4 * c->threads;
    if (r.many) {
        r.block = ROWS;
    } else {
        int64_t part_bytes = (int64_t)sizeof(real) * WINO_PLANES * r.v_row * ROWS,
                blocks = lgv_ceil_div(parts, lgv_max_i64(1, BLOCK_BYTES / part_bytes));
        r.block = lgv_ceil_div(parts, blocks) * ROWS;
    }
    r.v_plane = wino_odd_lines(lgv_min_i64(r.block, wino_round(r.tiles, WINO_MR)) * r.v_row);
    int64_t v = WINO_PLANES * r.v_plane, u = WINO_PLANES * r.u_plane;
    if (r.kept) u = 0;
    int64_t shared = r.many ? r.groups * u : v, own = WINO_PLANES * r.m_plane + (r.many ? v : u);
    r.shared_bytes = (size_t)shared * sizeof(real);
    r.thread_bytes = (size_t)own * sizeof(real);
    return r;
}

/* Measured against "gemm" (AVX2): ahead from 6x6 pixels on, where more than half of the pixels of the tiles
   exist, and from two vectors of channels on. The choice looks at one picture, never at the number of
   them. Weights lie as in a store: the nine taps of a channel in one piece. */
bool wino_accepts(const lgv_call *c)
{
    conv_problem p = conv_describe(c);
    if (VL == 1 && sizeof(real) == 4) return false; /* the scalar level is the plain reference */
    if (!conv_accepts(c) || p.kh != 3 || p.kw != 3 || p.stride != 1) return false;
    if (p.ws[3] != 1 || p.ws[2] != 3 || p.ws[1] != 9) return false;
    const lgv_nhwc *result = c->op == LGV_OP_conv2d_grad_x ? &p.x : &p.y;
    int64_t pixels = result->h * result->w;
    return p.x.c >= 2 * VL && p.y.c >= 2 * VL && pixels > 16 &&
           2 * pixels > 16 * lgv_ceil_div(result->h, 4) * lgv_ceil_div(result->w, 4);
}

size_t wino_workspace(const lgv_call *c)
{
    run r = describe(c);
    return r.shared_bytes + (size_t)c->threads * r.thread_bytes;
}

lgv_pack wino_pack(const lgv_call *c)
{
    run r = describe(c);
    return (lgv_pack){r.turned ? "winograd-dx" : "winograd",
                      (size_t)(r.groups * WINO_PLANES * r.u_plane) * sizeof(real)};
}

void wino_run_pack(const lgv_call *c, void *packed)
{
    run r = describe(c);
    r.u = packed;
    lgv_parallel(c, lgv_ceil_div(r.k, WINO_NR), weights_task, &r);
}

void wino_run(const lgv_call *c)
{
    run r = describe(c);
    r.v = r.u = c->workspace; /* one of the two is shared, and only that is used so */
    r.threads = (char *)c->workspace + r.shared_bytes;
    conv_epilogue e;
    if (!r.turned) {
        e = conv_describe_epilogue(c);
        r.e = &e;
    }
    if (r.many) {
        if (!r.kept) lgv_parallel(c, lgv_ceil_div(r.k, WINO_NR), weights_task, &r);
        lgv_parallel(c, lgv_ceil_div(r.tiles, ROWS), tiles_task, &r);
        return;
    }
    for (r.first = 0; r.first < r.tiles; r.first += r.block) {
        r.count = lgv_min_i64(r.block, r.tiles - r.first);
        int64_t parts = lgv_ceil_div(r.count, ROWS);
        r.ranges = lgv_min_i64(parts, lgv_ceil_div(2 * c->threads, r.groups));
        r.range = lgv_ceil_div(parts, r.ranges) * ROWS;
        r.ranges = lgv_ceil_div(r.count, r.range);
        lgv_parallel(c, lgv_ceil_div(wino_round(r.count, WINO_MR), TILES), source_task, &r);
        lgv_parallel(c, r.groups * r.ranges, group_task, &r);
    }
}
