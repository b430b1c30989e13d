/* conv_few.c - convolutions from or to a few channels (pictures, latents), where the tiles of conv_gemm.c would
   stand mostly empty.
   To few channels ("narrow"): a product of each source pixel with the taps of all results, [pixels][C] times
   [C][taps*K], then each result pixel adds what its window's pixels hold for it: the source is read once instead of once
   a tap, and columns are full.
   Weights: the side with few channels is gathered into rows of all taps, the other is read as it lies;
   r[tap, few][many] = sum over positions of the wide side. */
#include "gemm.h"

enum { FEW = 4, ENOUGH = 16, MAX_WINDOW = 8, MAX_GATHERED = 64, BLOCK = GEMM_KC, MAX_PIECES = 8 };

/* --- To few channels: forward and the gradient for data, stride 1 ------------------------------------------- */
/* result[h][w][k] = sum over taps of source[h + i - top][w + j - left] * weight; the gradient has the window turned. */
typedef struct narrow {
    lgv_nhwc x, y; /* source and result */
    const real *from;
    real *to;
    int kh, kw, top, left;
    const real *panels;
    const conv_epilogue *epilogue; /* NULL: none */
    int64_t band, bands;           /* result rows of a task, tasks of a picture */
    int64_t chunk, ring;           /* source rows computed at a time, rows kept */
    int64_t ld; /* of a pixel's products: taps*K and room to read a vector behind them */
    char *workspace;
    size_t thread_bytes;
} narrow;

static narrow describe_narrow(const lgv_call *c)
{
    conv_problem p = conv_describe(c);
    bool grad = c->op == LGV_OP_conv2d_grad_x;
    narrow n = {.x = grad ? p.y : p.x,
                .y = grad ? p.x : p.y,
                .from = grad ? p.yd : p.xd,
                .to = grad ? p.xd : p.yd,
                .kh = p.kh,
                .kw = p.kw,
                .top = grad ? p.kh - 1 - p.top : p.top,
                .left = grad ? p.kw - 1 - p.left : p.left,
                .panels = c->packed,
                .workspace = c->workspace};
    n.band = lgv_min_i64(n.y.h, 64);
    n.bands = lgv_ceil_div(n.y.h, n.band);
    n.band = lgv_ceil_div(n.y.h, n.bands);
    n.chunk = lgv_max_i64(1, GEMM_MB / n.x.w);
    n.ring = n.chunk + n.kh - 1;
    n.ld = gemm_panels(n.kh * n.kw * n.y.c) * GEMM_NR;
    n.thread_bytes = lgv_round_up((size_t)(n.ring * n.x.w * n.ld + VL) * sizeof(real)) +
                     lgv_round_up(GEMM_MB * sizeof(real *)) +
                     lgv_round_up(GEMM_MB * sizeof(gemm_row));
    return n;
}

static bool few(int64_t channels, int taps)
{
    return channels <= FEW && taps > 1 && channels * taps <= MAX_GATHERED;
}

bool conv_few_accepts(const lgv_call *c)
{
    conv_problem p = conv_describe(c);
    int64_t k = c->op == LGV_OP_conv2d ? p.y.c : p.x.c,
            from = c->op == LGV_OP_conv2d ? p.x.c : p.y.c;
    return conv_accepts(c) && few(k, p.kh * p.kw) && from >= ENOUGH && p.stride == 1 &&
           p.kh <= MAX_WINDOW;
}

lgv_pack conv_few_pack(const lgv_call *c)
{
    narrow n = describe_narrow(c);
    return (lgv_pack){c->op == LGV_OP_conv2d ? "few" : "few-dx",
                      (size_t)(n.ld * n.x.c) * sizeof(real)};
}

/* Columns (tap, k), inner dimension the source's channels. */
void conv_few_run_pack(const lgv_call *c, void *packed)
{
    conv_problem p = conv_describe(c);
    narrow n = describe_narrow(c);
    bool grad = c->op == LGV_OP_conv2d_grad_x;
    real *to = packed;
    memset(packed, 0, (size_t)(n.ld * n.x.c) * sizeof(real));
    for (int t = 0; t < n.kh * n.kw; t++) {
        int tap = grad ? n.kh * n.kw - 1 - t : t;
        const real *w = p.wd + tap / n.kw * p.ws[2] + tap % n.kw * p.ws[3];
        for (int64_t k = 0; k < n.y.c; k++) {
            int64_t column = t * n.y.c + k, panel = column / GEMM_NR;
            for (int64_t i = 0; i < n.x.c; i++)
                to[(panel * n.x.c + i) * GEMM_NR + column % GEMM_NR] =
                    w[grad ? i * p.ws[0] + k * p.ws[1] : k * p.ws[0] + i * p.ws[1]];
        }
    }
}

/* Products of source rows [first, last) of picture `picture` into the ring. */
static void narrow_products(const narrow *n, int64_t picture, int64_t first, int64_t last,
                            int thread)
{
    char *p = n->workspace + (size_t)thread * n->thread_bytes;
    real *products = (real *)(void *)p;
    p += lgv_round_up((size_t)(n->ring * n->x.w * n->ld + VL) * sizeof(real));
    const real **table = (const real **)(void *)p;
    gemm_row *row = (gemm_row *)(void *)(p + lgv_round_up(GEMM_MB * sizeof(real *)));
    int64_t pixels = (last - first) * n->x.w, h = first, w = 0, slot = first % n->ring;
    for (int64_t done = 0; done < pixels; done += GEMM_MB) {
        int64_t m = lgv_min_i64(GEMM_MB, pixels - done),
                filled = lgv_ceil_div(m, GEMM_MR) * GEMM_MR;
        for (int64_t i = 0; i < m; i++) {
            table[i] = n->from + picture * n->x.sn + h * n->x.sh + w * n->x.sw;
            row[i] = (gemm_row){products + (slot * n->x.w + w) * n->ld, NULL, 0};
            if (++w == n->x.w) {
                w = 0;
                h++;
                slot = slot + 1 == n->ring ? 0 : slot + 1;
            }
        }
        for (int64_t i = m; i < filled; i++) table[i] = table[m - 1];
        gemm_block b = {.m = m,
                        .taps = 1,
                        .c = n->x.c,
                        .table = table,
                        .row = row,
                        .panels = n->panels,
                        .panel_size = n->x.c * GEMM_NR,
                        .columns = n->kh * n->kw * n->y.c};
        gemm_run_block(&b, 0, gemm_panels(b.columns));
    }
}

/* Result row h from the products of its window's rows. */
static void narrow_row(const narrow *n, int64_t picture, int64_t h, int thread)
{
    const real *products =
        (const real *)(const void *)(n->workspace + (size_t)thread * n->thread_bytes);
    const real *line[MAX_WINDOW]; /* of each window row; NULL outside the source */
    for (int i = 0; i < n->kh; i++) {
        int64_t r = h + i - n->top;
        line[i] = r < 0 || r >= n->x.h
                      ? NULL
                      : products + r % n->ring * n->x.w * n->ld + i * n->kw * n->y.c;
    }
    const lgv_nhwc *s = n->epilogue ? &n->epilogue->residual_shape : NULL;
    for (int64_t w = 0; w < n->y.w; w++) {
        gemm_row row = {n->to + picture * n->y.sn + h * n->y.sh + w * n->y.sw, NULL, picture};
        if (s && n->epilogue->residual)
            row.residual = n->epilogue->residual + picture * s->sn + h * s->sh + w * s->sw;
        int64_t first = lgv_max_i64(0, n->left - w),
                last = lgv_min_i64(n->kw, n->x.w + n->left - w);
        real lanes[VL];
        for (int64_t k = 0; k < n->y.c; k += VL) {
            vreal sum = v_zero();
            for (int i = 0; i < n->kh; i++)
                for (int64_t j = first; line[i] && j < last; j++)
                    sum = v_add(sum, v_load(line[i] + (w + j - n->left) * n->ld + j * n->y.c + k));
            if (n->epilogue) sum = gemm_epilogue(n->epilogue, &row, k, n->y.c - k, sum);
            v_store(lanes, sum); /* a masked store is slow on some processors */
            for (int64_t i = 0; i < VL && k + i < n->y.c; i++) row.y[k + i] = lanes[i];
        }
    }
}

static void narrow_task(void *arg, int64_t task, int thread)
{
    const narrow *n = arg;
    int64_t picture = task / n->bands, h = task % n->bands * n->band,
            end = lgv_min_i64(h + n->band, n->y.h);
    int64_t last_row = lgv_min_i64(n->x.h, end - 1 - n->top + n->kh);
    for (int64_t r = lgv_max_i64(0, h - n->top); h < end;) {
        int64_t next = lgv_min_i64(r + n->chunk, last_row);
        if (r < next) narrow_products(n, picture, r, next, thread);
        r = next;
        /* rows whose window is complete */
        for (; h < end && (r == last_row || h - n->top + n->kh <= r); h++)
            narrow_row(n, picture, h, thread);
    }
}

size_t conv_few_workspace(const lgv_call *c)
{
    return (size_t)c->threads * describe_narrow(c).thread_bytes;
}

void conv_few(const lgv_call *c)
{
    narrow n = describe_narrow(c);
    conv_epilogue e;
    if (c->op == LGV_OP_conv2d) {
        e = conv_describe_epilogue(c);
        n.epilogue = &e;
    }
    lgv_parallel(c, n.y.n * n.bands, narrow_task, &n);
}

/* --- Weights ------------------------------------------------------------------------------------------------ */
/* Positions are the pixels of the wide side. A position's gathered row is, for each tap, the pixel of the few side at
   (h*step + i - top, w*step + j - left): taps in order for few inputs, turned for few outputs. */
typedef struct weights {
    conv_problem p;
    lgv_nhwc few, wide;
    const real *few_data, *wide_data;
    bool outputs_few;
    int step, top, left;
    int64_t gathered, tiles; /* columns of a gathered row, tiles of GEMM_MR of them */
    int64_t positions, pieces, piece;
    real *partial; /* [piece][tiles*GEMM_MR][wide.c, whole panels] */
    int64_t ld, partial_size;
    real *workspace;
    int64_t thread_size;
    bool accumulate;
} weights;

static weights describe_weights(const lgv_call *c)
{
    weights w = {.p = conv_describe(c), .accumulate = c->accumulate};
    const conv_problem *p = &w.p;
    w.outputs_few = p->y.c < p->x.c;
    w.few = w.outputs_few ? p->y : p->x;
    w.wide = w.outputs_few ? p->x : p->y;
    w.few_data = w.outputs_few ? p->yd : p->xd;
    w.wide_data = w.outputs_few ? p->xd : p->yd;
    w.step = w.outputs_few ? 1 : p->stride;
    w.top = w.outputs_few ? p->kh - 1 - p->top : p->top;
    w.left = w.outputs_few ? p->kw - 1 - p->left : p->left;
    w.gathered = p->kh * p->kw * w.few.c;
    w.tiles = lgv_ceil_div(w.gathered, GEMM_MR);
    w.positions = w.wide.n * w.wide.h * w.wide.w;
    w.pieces = lgv_min_i64(MAX_PIECES, lgv_ceil_div(w.positions, 4 * BLOCK));
    w.piece = lgv_ceil_div(lgv_ceil_div(w.positions, w.pieces), BLOCK) * BLOCK;
    w.pieces = lgv_ceil_div(w.positions, w.piece);
    w.ld = gemm_panels(w.wide.c) * GEMM_NR;
    w.partial_size = w.tiles * GEMM_MR * w.ld;
    w.thread_size = (w.tiles * GEMM_MR + GEMM_NR) * BLOCK;
    w.partial = c->workspace;
    w.workspace = w.partial ? w.partial + w.pieces * w.partial_size : NULL;
    return w;
}

bool conv_few_w_accepts(const lgv_call *c)
{
    conv_problem p = conv_describe(c);
    int64_t less = lgv_min_i64(p.x.c, p.y.c), more = lgv_max_i64(p.x.c, p.y.c);
    return conv_accepts(c) && few(less, p.kh * p.kw) && more >= ENOUGH &&
           (p.x.c < p.y.c || p.stride == 1);
}

/* Positions [first, first+count): gathered rows as tiles a[tile][position][GEMM_MR]; where the wide side lies. */
static void gather_block(const weights *w, int64_t first, int64_t count, real *a, const real **wide)
{
    real row[MAX_GATHERED + GEMM_MR + VL] = {0};
    int64_t x = first % w->wide.w, h = first / w->wide.w % w->wide.h,
            n = first / w->wide.w / w->wide.h;
    for (int64_t q = 0; q < count; q++) {
        gemm_gather_window(w->few_data + n * w->few.sn, &w->few, w->p.kh, w->p.kw,
                           h * w->step - w->top, x * w->step - w->left, row);
        for (int64_t t = 0; t < w->tiles; t++)
            memcpy(a + (t * BLOCK + q) * GEMM_MR, row + t * GEMM_MR, GEMM_MR * sizeof(real));
        wide[q] = w->wide_data + n * w->wide.sn + h * w->wide.sh + x * w->wide.sw;
        if (++x == w->wide.w) {
            x = 0;
            if (++h == w->wide.h) {
                h = 0;
                n++;
            }
        }
    }
}

static void pack_wide(const real *const *wide, int64_t count, int64_t j, int64_t columns, real *b)
{
    for (int64_t q = 0; q < count; q++, b += GEMM_NR)
        for (int64_t v = 0; v < GEMM_NR; v += VL)
            v_store(b + v, columns >= v + VL ? v_load(wide[q] + j + v)
                                             : v_load_n(wide[q] + j + v, columns - v));
}

static void weights_task(void *arg, int64_t piece, int thread)
{
    const weights *w = arg;
    real *a = w->workspace + thread * w->thread_size, *b = a + w->tiles * GEMM_MR * BLOCK;
    const real *wide[BLOCK];
    int64_t start = piece * w->piece, end = lgv_min_i64(start + w->piece, w->positions);
    for (int64_t q = start; q < end; q += BLOCK) {
        int64_t count = lgv_min_i64(BLOCK, end - q);
        gather_block(w, q, count, a, wide);
        for (int64_t j = 0; j < w->wide.c; j += GEMM_NR) {
            pack_wide(wide, count, j, w->wide.c - j, b);
            for (int64_t t = 0; t < w->tiles; t++)
                gemm_outer_tile_to(a + t * BLOCK * GEMM_MR, b, count,
                                   w->partial + piece * w->partial_size + t * GEMM_MR * w->ld + j,
                                   w->ld, q > start);
        }
    }
}

/* Gathered column g of all wide channels: the pieces in order, into the weights' layout. */
static void weights_combine(void *arg, int64_t g, int thread)
{
    const weights *w = arg;
    const conv_problem *p = &w->p;
    int64_t tap = g / w->few.c, few_channel = g % w->few.c;
    if (w->outputs_few) tap = p->kh * p->kw - 1 - tap;
    real *to = p->wd + tap / p->kw * p->ws[2] + tap % p->kw * p->ws[3] +
               few_channel * p->ws[w->outputs_few ? 0 : 1];
    const real *from = w->partial + g * w->ld;
    for (int64_t c = 0; c < w->wide.c; c++) {
        real sum = from[c], *dw = to + c * p->ws[w->outputs_few ? 1 : 0];
        for (int64_t i = 1; i < w->pieces; i++) sum += from[i * w->partial_size + c];
        *dw = w->accumulate ? *dw + sum : sum;
    }
}

size_t conv_few_w_workspace(const lgv_call *c)
{
    weights w = describe_weights(c);
    return (size_t)(w.pieces * w.partial_size + c->threads * w.thread_size) * sizeof(real);
}

void conv_few_w(const lgv_call *c)
{
    weights w = describe_weights(c);
    lgv_parallel(c, w.pieces, weights_task, &w);
    lgv_parallel(c, w.gathered, weights_combine, &w);
}
