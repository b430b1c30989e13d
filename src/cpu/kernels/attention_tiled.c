/* attention_tiled.c - attention with an online softmax (flash attention, arXiv:2205.14135): keys and values
   stream past blocks of queries, the matrix of scores never exists.
   Scores are kept in powers of two (log2 e is part of the scale), so that exp is 2^x. A query's result
   depends on the stream's blocks alone, not on how queries are shared out. */
#include "attention_tiles.h"

enum { MAX_BLOCKS = 16, CHANNELS = 128 };

typedef struct forward {
    attention_run a;
    int64_t ld, stream;
    int64_t blocks, tasks; /* of a copy: blocks of LANES queries in a task, tasks */
    real *workspace;
    int64_t thread_size; /* elements of it for a thread */
} forward;

/* LANES queries. max and sum are the softmax's so far, y the weighted sum of v under them. */
typedef struct query_block {
    int64_t m;
    int nv;
    real *q, *y, *max, *sum; /* [d][LANES], [d][LANES], [LANES], [LANES] */
} query_block;

typedef struct scratch {
    real *k, *v, *s; /* [stream][ld] twice, [stream][LANES] */
    query_block block[MAX_BLOCKS];
} scratch;

static scratch scratch_of(const forward *f, int thread)
{
    real *p = f->workspace + thread * f->thread_size;
    scratch s;
    s.k = attention_take(&p, f->stream * f->ld);
    s.v = attention_take(&p, f->stream * f->ld);
    s.s = attention_take(&p, f->stream * LANES);
    for (int64_t i = 0; i < f->blocks; i++) {
        query_block *b = &s.block[i];
        b->q = attention_take(&p, f->ld * LANES);
        b->y = attention_take(&p, f->ld * LANES);
        b->max = attention_take(&p, LANES);
        b->sum = attention_take(&p, LANES);
    }
    return s;
}

/* The new maxima over m rows of scores; what was summed under the old ones is scaled down to them. */
static void raise_max(const query_block *b, const real *s, int64_t m, int64_t ld, vreal *max)
{
    bool higher = false;
    for (int v = 0; v < b->nv; v++) {
        vreal old = v_load(b->max + v * VL), most = old;
        for (int64_t j = 0; j < m; j++) most = v_max(v_load(s + j * LANES + v * VL), most);
        max[v] = most;
        higher = higher || m_any(v_gt(most, old));
    }
    if (!higher) return;
    for (int v = 0; v < b->nv; v++) {
        vreal factor = v_exp2_normal(v_sub(v_load(b->max + v * VL), max[v]));
        v_store(b->max + v * VL, max[v]);
        v_store(b->sum + v * VL, v_mul(factor, v_load(b->sum + v * VL)));
        for (int64_t c = 0; c < ld; c++) {
            real *y = b->y + c * LANES + v * VL;
            v_store(y, v_mul(factor, v_load(y)));
        }
    }
}

/* Scores become probabilities, not yet divided by their sum. */
LGV_FOLD void exponentials(int nv, const query_block *b, real *s, int64_t m, const vreal *max)
{
    vreal sum[LANE_VECTORS];
    for (int v = 0; v < nv; v++) sum[v] = v_zero();
    for (int64_t j = 0; j < m; j++)
        for (int v = 0; v < nv; v++) {
            vreal p = v_exp2_normal(v_sub(v_load(s + j * LANES + v * VL), max[v]));
            v_store(s + j * LANES + v * VL, p);
            sum[v] = v_add(sum[v], p);
        }
    for (int v = 0; v < nv; v++) v_store(b->sum + v * VL, v_add(v_load(b->sum + v * VL), sum[v]));
}

/* Takes m keys and values into account. */
static void attend(const forward *f, const scratch *t, const query_block *b, int64_t m)
{
    int64_t d = f->a.d;
    vreal max[LANE_VECTORS];
    for (int64_t c = 0; c < d; c += CHANNELS)
        attention_lane_product(b->nv, (left){t->k + c, f->ld, 1}, m, lgv_min_i64(CHANNELS, d - c),
                               b->q + c * LANES, t->s, c > 0);
    raise_max(b, t->s, m, d, max);
    if (b->nv == LANE_VECTORS)
        exponentials(LANE_VECTORS, b, t->s, m, max);
    else
        exponentials(b->nv, b, t->s, m, max);
    attention_lane_product(b->nv, (left){t->v, 1, f->ld}, d, m, t->s, b->y, true);
}

static void start(const forward *f, const query_block *b, int64_t n, int64_t first, int64_t offset)
{
    attention_load_lanes(&f->a.q, n, first, b->m, offset, f->a.d, f->a.scale * log2_e, b->q);
    memset(b->y, 0, (size_t)(f->ld * LANES) * sizeof(real));
    for (int i = 0; i < LANES; i++) {
        b->max[i] = (real)-3e38; /* not -inf: a first block of -inf scores then leaves zeros */
        b->sum[i] = 0;
    }
}

static void finish(const forward *f, const query_block *b, int64_t copy, int64_t first)
{
    const attention_run *a = &f->a;
    if (a->lse)
        for (int64_t i = 0; i < b->m; i++)
            attention_lse(a, copy)[first + i] = b->max[i] * ln_2 + r_log(b->sum[i]);
    for (int v = 0; v < b->nv; v++)
        v_store(b->sum + v * VL, v_div(v_set1(1), v_load(b->sum + v * VL)));
    attention_store_lanes(b->y, b->sum, &a->y, copy / a->heads, first, b->m, copy % a->heads * a->d,
                          a->d);
}

static void forward_task(void *arg, int64_t task, int thread)
{
    const forward *f = arg;
    const attention_run *a = &f->a;
    scratch t = scratch_of(f, thread);
    int64_t copy = task / f->tasks, n = copy / a->heads, offset = copy % a->heads * a->d;
    int64_t first = task % f->tasks * f->blocks * LANES, blocks = 0;
    for (; blocks < f->blocks && first + blocks * LANES < a->q.length; blocks++) {
        query_block *b = &t.block[blocks];
        b->m = lgv_min_i64(LANES, a->q.length - first - blocks * LANES);
        b->nv = attention_vectors(b->m);
        start(f, b, n, first + blocks * LANES, offset);
    }
    for (int64_t j = 0; j < a->k.length; j += f->stream) {
        int64_t m = lgv_min_i64(f->stream, a->k.length - j),
                filled = lgv_min_i64(f->stream, lgv_ceil_div(m, LANE_ROWS) * LANE_ROWS);
        attention_copy_rows(&a->k, n, j, m, filled, offset, a->d, 1, t.k, f->ld);
        attention_copy_rows(&a->v, n, j, m, m, offset, a->d, 1, t.v, f->ld);
        for (int64_t i = 0; i < blocks; i++) attend(f, &t, &t.block[i], m);
    }
    for (int64_t i = 0; i < blocks; i++) finish(f, &t.block[i], copy, first + i * LANES);
}

/* Blocks to a task: what fits L2 beside the stream, fewer when threads would be idle. */
static forward plan_forward(const lgv_call *c)
{
    forward f = {.workspace = c->workspace};
    attention_describe(c, &f.a);
    f.ld = attention_ld(f.a.d);
    f.stream = attention_stream(f.a.d);
    int64_t blocks = lgv_ceil_div(f.a.q.length, LANES), copies = f.a.q.n * f.a.heads;
    int64_t fit = lgv_max_i64(1, lgv_min_i64(MAX_BLOCKS, 12288 / (f.ld * VL)));
    int64_t wanted = c->threads == 1 ? 1 : lgv_ceil_div(4 * c->threads, copies);
    f.tasks = lgv_min_i64(blocks, lgv_max_i64(wanted, lgv_ceil_div(blocks, fit)));
    f.blocks = lgv_ceil_div(blocks, f.tasks);
    f.tasks = lgv_ceil_div(blocks, f.blocks);
    f.thread_size = 2 * attention_room(f.stream * f.ld) + attention_room(f.stream * LANES) +
                    f.blocks * 2 * (attention_room(f.ld * LANES) + attention_room(LANES));
    return f;
}

size_t attention_tiled_workspace(const lgv_call *c)
{
    return (size_t)c->threads * (size_t)plan_forward(c).thread_size * sizeof(real);
}

void attention_tiled(const lgv_call *c)
{
    forward f = plan_forward(c);
    f.a.y = as_tokens(&c->out[0]);
    attention_set_lse(&f.a, &c->out[1]);
    lgv_parallel(c, f.a.q.n * f.a.heads * f.tasks, forward_task, &f);
}
