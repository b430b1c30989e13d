/* attention_tiled_grad.c - the gradient of attention in blocks. With p = exp(scale q k - lse), delta = <dy, y>:
       dv = p dy,  ds = p (v dy - delta),  dk = scale ds q,  dq = scale ds k.
   Keys lie in lanes and queries stream past them, so dk and dv are finished block by block and each
   product is done once. dq is a sum over blocks of keys in a fixed order; where heads are few, the keys are cut into
   at most MAX_PIECES pieces with a dq of their own, added in order. */
#include "attention_tiles.h"

enum { MAX_BLOCKS = 4, CHANNELS = 128, MAX_PIECES = 8, PIECE_KEYS = 192 };

typedef struct backward {
    attention_run a;
    int64_t ld, stream;
    int64_t blocks, pieces,
        piece;       /* blocks of LANES keys taken at a time; pieces of the keys, keys of each */
    int64_t dq_size; /* elements of [Lq][ld] */
    real *dq;        /* [copy][piece] when there are several pieces, else [thread] */
    real *workspace; /* the threads' */
    int64_t thread_size; /* elements */
} backward;

/* LANES keys: k and v with keys in lanes, k also as rows, and the sums dk and dv. */
typedef struct key_block {
    int64_t m;
    int nv;
    real *k, *v, *rows, *dk, *dv; /* [d][LANES], [d][LANES], [LANES][ld], [d][LANES], [d][LANES] */
} key_block;

typedef struct scratch {
    real *q, *dy, *p, *ds; /* [stream][ld] twice, [stream][LANES] twice */
    real *lse, *delta;     /* [stream] */
    key_block block[MAX_BLOCKS];
} scratch;

static scratch scratch_of(const backward *b, int thread)
{
    real *p = b->workspace + thread * b->thread_size;
    scratch s;
    s.q = attention_take(&p, b->stream * b->ld);
    s.dy = attention_take(&p, b->stream * b->ld);
    s.p = attention_take(&p, b->stream * LANES);
    s.ds = attention_take(&p, b->stream * LANES);
    s.lse = attention_take(&p, b->stream);
    s.delta = attention_take(&p, b->stream);
    for (int64_t i = 0; i < b->blocks; i++) {
        key_block *k = &s.block[i];
        k->k = attention_take(&p, b->ld * LANES);
        k->v = attention_take(&p, b->ld * LANES);
        k->rows = attention_take(&p, b->ld * LANES);
        k->dk = attention_take(&p, b->ld * LANES);
        k->dv = attention_take(&p, b->ld * LANES);
    }
    return s;
}

static void start_keys(const backward *b, const key_block *k, int64_t n, int64_t first,
                       int64_t offset)
{
    const attention_run *a = &b->a;
    attention_load_lanes(&a->k, n, first, k->m, offset, a->d, 1, k->k);
    attention_load_lanes(&a->v, n, first, k->m, offset, a->d, 1, k->v);
    attention_copy_rows(&a->k, n, first, k->m, k->m, offset, a->d, 1, k->rows, b->ld);
    memset(k->dk, 0, (size_t)(b->ld * LANES) * sizeof(real));
    memset(k->dv, 0, (size_t)(b->ld * LANES) * sizeof(real));
}

/* dk is summed over q that carry scale log2 e. */
static void finish_keys(const backward *b, const key_block *k, int64_t n, int64_t first,
                        int64_t offset)
{
    const attention_run *a = &b->a;
    real one[LANES], ln2[LANES];
    for (int i = 0; i < LANES; i++) {
        one[i] = 1;
        ln2[i] = ln_2;
    }
    if (a->dk.data) attention_store_lanes(k->dk, ln2, &a->dk, n, first, k->m, offset, a->d);
    if (a->dv.data) attention_store_lanes(k->dv, one, &a->dv, n, first, k->m, offset, a->d);
}

/* Queries [first, first+m): copies, log-sum-exp in powers of two, delta. */
static void start_queries(const backward *b, const scratch *t, int64_t copy, int64_t first,
                          int64_t m, int64_t filled)
{
    const attention_run *a = &b->a;
    int64_t n = copy / a->heads, offset = copy % a->heads * a->d;
    const real *lse = attention_lse(a, copy) + first;
    attention_copy_rows(&a->q, n, first, m, filled, offset, a->d, a->scale * log2_e, t->q, b->ld);
    attention_copy_rows(&a->dy, n, first, m, filled, offset, a->d, 1, t->dy, b->ld);
    for (int64_t i = 0; i < m; i++) {
        t->lse[i] = lse[i] * log2_e;
        t->delta[i] = attention_dot(t->dy + i * b->ld, token(&a->y, n, first + i, offset), a->d);
    }
}

/* p and v dy become p and ds; rows that only fill up a tile become zeros. */
LGV_FOLD void scores_to_gradients(int nv, const scratch *t, int64_t m, int64_t filled)
{
    for (int64_t i = 0; i < m; i++) {
        const vreal lse = v_set1(t->lse[i]), delta = v_set1(t->delta[i]);
        real *p = t->p + i * LANES, *ds = t->ds + i * LANES;
        for (int v = 0; v < nv * VL; v += VL) {
            vreal e = v_exp2_normal(v_sub(v_load(p + v), lse));
            v_store(p + v, e);
            v_store(ds + v, v_mul(e, v_sub(v_load(ds + v), delta)));
        }
    }
    memset(t->ds + m * LANES, 0, (size_t)((filled - m) * LANES) * sizeof(real));
}

/* One block of keys and the m queries in the scratch, whose sums dq are. */
static void block_gradient(const backward *b, const scratch *t, const key_block *k, int64_t m,
                           real *dq)
{
    int64_t d = b->a.d, filled = lgv_ceil_div(m, TILE_SUMS) * TILE_SUMS;
    for (int64_t c = 0; c < d; c += CHANNELS) {
        int64_t n = lgv_min_i64(CHANNELS, d - c);
        attention_lane_product(k->nv, (left){t->q + c, b->ld, 1}, m, n, k->k + c * LANES, t->p,
                               c > 0);
        attention_lane_product(k->nv, (left){t->dy + c, b->ld, 1}, m, n, k->v + c * LANES, t->ds,
                               c > 0);
    }
    if (k->nv == LANE_VECTORS)
        scores_to_gradients(LANE_VECTORS, t, m, filled);
    else
        scores_to_gradients(k->nv, t, m, filled);
    if (b->a.dv.data)
        attention_lane_product(k->nv, (left){t->dy, 1, b->ld}, d, m, t->p, k->dv, true);
    if (b->a.dk.data)
        attention_lane_product(k->nv, (left){t->q, 1, b->ld}, d, m, t->ds, k->dk, true);
    if (b->a.dq.data)
        attention_row_product((left){t->ds, LANES, 1}, m, k->m, k->rows, dq,
                              lgv_ceil_div(d, VL) * VL, b->ld);
}

/* Keys [first, last) of copy `copy`, at most `blocks` blocks of them. */
static void run_keys(const backward *b, scratch *t, int64_t copy, int64_t first, int64_t last,
                     real *dq)
{
    const attention_run *a = &b->a;
    int64_t n = copy / a->heads, offset = copy % a->heads * a->d, blocks = 0;
    for (int64_t j = first; j < last; j += LANES) {
        key_block *k = &t->block[blocks++];
        k->m = lgv_min_i64(LANES, last - j);
        k->nv = attention_vectors(k->m);
        start_keys(b, k, n, j, offset);
    }
    for (int64_t l = 0; l < a->q.length; l += b->stream) {
        int64_t m = lgv_min_i64(b->stream, a->q.length - l);
        start_queries(b, t, copy, l, m, lgv_ceil_div(m, LANE_ROWS) * LANE_ROWS);
        for (int64_t i = 0; i < blocks; i++) block_gradient(b, t, &t->block[i], m, dq + l * b->ld);
    }
    for (int64_t i = 0; i < blocks; i++) finish_keys(b, &t->block[i], n, first + i * LANES, offset);
}

/* Rows of dq, the sum of the pieces. */
static void write_dq(const backward *b, int64_t copy, const real *dq, int64_t first, int64_t last)
{
    const attention_run *a = &b->a;
    const vreal scale = v_set1(a->scale);
    for (int64_t l = first; l < last; l++) {
        real *to = token(&a->dq, copy / a->heads, l, copy % a->heads * a->d);
        const real *from = dq + l * b->ld;
        for (int64_t c = 0; c < a->d; c += VL) {
            vreal sum = v_load(from + c);
            for (int64_t p = 1; p < b->pieces; p++)
                sum = v_add(sum, v_load(from + p * b->dq_size + c));
            if (a->d - c >= VL)
                v_store(to + c, v_mul(scale, sum));
            else
                v_store_n(to + c, v_mul(scale, sum), a->d - c);
        }
    }
}

static void piece_task(void *arg, int64_t task, int thread)
{
    const backward *b = arg;
    scratch t = scratch_of(b, thread);
    int64_t copy = task / b->pieces, first = task % b->pieces * b->piece,
            last = lgv_min_i64(first + b->piece, b->a.k.length), step = b->blocks * LANES;
    real *dq = b->dq + (b->pieces > 1 ? task : thread) * b->dq_size;
    if (b->a.dq.data) memset(dq, 0, (size_t)b->dq_size * sizeof(real));
    for (int64_t j = first; j < last; j += step)
        run_keys(b, &t, copy, j, lgv_min_i64(j + step, last), dq);
    if (b->a.dq.data && b->pieces == 1) write_dq(b, copy, dq, 0, b->a.q.length);
}

static void combine_task(void *arg, int64_t task, int thread)
{
    const backward *b = arg;
    int64_t blocks = lgv_ceil_div(b->a.q.length, STREAM), first = task % blocks * STREAM,
            copy = task / blocks;
    write_dq(b, copy, b->dq + copy * b->pieces * b->dq_size, first,
             lgv_min_i64(first + STREAM, b->a.q.length));
}

/* Returns the elements of the workspace. */
static int64_t plan_backward(const lgv_call *c, backward *b)
{
    attention_describe_grad(c, &b->a);
    const attention_run *a = &b->a;
    b->ld = attention_ld(a->d);
    b->stream = attention_stream(a->d);
    b->blocks = lgv_max_i64(1, lgv_min_i64(MAX_BLOCKS, 4096 / (b->ld * VL)));
    int64_t pieces = lgv_min_i64(lgv_ceil_div(MAX_PIECES, a->heads), a->k.length / PIECE_KEYS),
            unit = b->blocks * LANES;
    b->piece = lgv_ceil_div(lgv_ceil_div(a->k.length, lgv_max_i64(1, pieces)), unit) * unit;
    b->pieces = lgv_ceil_div(a->k.length, b->piece);
    b->dq_size = attention_room(lgv_ceil_div(a->q.length, TILE_SUMS) * TILE_SUMS * b->ld);
    b->thread_size = 2 * attention_room(b->stream * b->ld) + 2 * attention_room(b->stream * LANES) +
                     2 * attention_room(b->stream) + b->blocks * 5 * attention_room(b->ld * LANES);
    int64_t dqs = b->pieces > 1 ? a->q.n * a->heads * b->pieces : c->threads;
    b->dq = c->workspace;
    b->workspace = b->dq ? b->dq + dqs * b->dq_size : NULL;
    return dqs * b->dq_size + c->threads * b->thread_size;
}

size_t attention_tiled_grad_workspace(const lgv_call *c)
{
    backward b = {0};
    return (size_t)plan_backward(c, &b) * sizeof(real);
}

void attention_tiled_grad(const lgv_call *c)
{
    backward b = {0};
    plan_backward(c, &b);
    int64_t copies = b.a.q.n * b.a.heads;
    lgv_parallel(c, copies * b.pieces, piece_task, &b);
    if (b.a.dq.data && b.pieces > 1)
        lgv_parallel(c, copies * lgv_ceil_div(b.a.q.length, STREAM), combine_task, &b);
}
