/* attention_gemm.c - attention as packed matrix products over blocks of query (or key) rows.
   A block's scores against all keys live in a thread's scratch: exact softmax, no N x N matrix. The gradient
   recomputes them from the log-sum-exp, once per block of queries (for dq) and once per block of keys (for
   dk and dv), so that every result is one sum in a fixed order. */
#include "attention.h"
#include "gemm.h"

enum { ROWS = 8 * GEMM_MR, MAX_PACKS = 4 };

/* A packed operand, one copy for each row and head. Transposed: columns are tokens, else channels. */
typedef struct operand {
    tokens x;
    bool transposed;
    size_t at;    /* where in the workspace */
    int64_t size; /* elements of one copy */
} operand;

typedef struct blocks {
    attention_run a;
    operand pack[MAX_PACKS];
    int packs;
    int64_t pack_panels[MAX_PACKS]; /* panels of one copy */
    real *delta; /* [N,heads,Lq]: <dy, y>; starts the workspace of the gradient */
    char *workspace;
    size_t threads_at, thread_bytes; /* the threads' scratch in the workspace */
    int64_t ld;                      /* of a block of scores */
} blocks;

static real *panels_of(const blocks *b, const operand *o, int64_t copy)
{
    return (real *)(void *)(b->workspace + o->at) + copy * o->size;
}

/* --- Packing ---------------------------------------------------------------------------------------- */
static int64_t operand_panels(const operand *o, int64_t d)
{
    return gemm_panels(o->transposed ? o->x.length : d);
}
static int64_t operand_size(const operand *o, int64_t d)
{
    return operand_panels(o, d) * GEMM_NR * (o->transposed ? d : o->x.length);
}

/* Panel of tokens: [channel][GEMM_NR]. */
static void pack_transposed(const operand *o, int64_t n, int64_t offset, int64_t d, int64_t panel,
                            real *to)
{
    for (int64_t j = 0; j < GEMM_NR; j++) {
        int64_t l = panel * GEMM_NR + j;
        const real *x = l < o->x.length ? token(&o->x, n, l, offset) : NULL;
        for (int64_t i = 0; i < d; i++) to[i * GEMM_NR + j] = x ? x[i] : 0;
    }
}

/* Panel of channels: [token][GEMM_NR]. */
static void pack_rows(const operand *o, int64_t n, int64_t offset, int64_t d, int64_t panel,
                      real *to)
{
    int64_t c = panel * GEMM_NR, columns = lgv_min_i64(GEMM_NR, d - c);
    for (int64_t l = 0; l < o->x.length; l++, to += GEMM_NR) {
        const real *x = token(&o->x, n, l, offset + c);
        for (int64_t v = 0; v < GEMM_NR; v += VL) v_store(to + v, v_load_n(x + v, columns - v));
    }
}

static void pack_task(void *arg, int64_t block, int thread)
{
    const blocks *b = arg;
    int64_t copies = b->a.q.n * b->a.heads;
    int which = 0;
    while (block >= copies * b->pack_panels[which]) block -= copies * b->pack_panels[which++];
    const operand *o = &b->pack[which];
    int64_t panel = block % b->pack_panels[which], copy = block / b->pack_panels[which], d = b->a.d;
    real *to = panels_of(b, o, copy) + panel * GEMM_NR * (o->transposed ? d : o->x.length);
    (o->transposed ? pack_transposed : pack_rows)(o, copy / b->a.heads, copy % b->a.heads * d, d,
                                                  panel, to);
}

/* Takes room for an operand behind the *used bytes. */
static void add_pack(blocks *b, tokens x, bool transposed, size_t *used)
{
    operand *o = &b->pack[b->packs];
    *o = (operand){.x = x, .transposed = transposed};
    o->size = operand_size(o, b->a.d);
    b->pack_panels[b->packs++] = operand_panels(o, b->a.d);
    o->at = *used;
    *used += gemm_lines((size_t)(o->size * x.n * b->a.heads) * sizeof(real));
}

static void run_packs(const lgv_call *c, blocks *b)
{
    int64_t tasks = 0;
    for (int i = 0; i < b->packs; i++) tasks += b->a.q.n * b->a.heads * b->pack_panels[i];
    lgv_parallel(c, tasks, pack_task, b);
}

/* --- Products ---------------------------------------------------------------------------------------- */
/* A block of m rows of pointers. */
typedef struct rows {
    int64_t m;
    const real *from[ROWS];
    gemm_row to[ROWS];
} rows;

static void rows_of_tokens(const real **from, const tokens *x, int64_t n, int64_t first, int64_t m,
                           int64_t offset)
{
    for (int64_t r = 0; r < ROWS; r++) from[r] = token(x, n, first + lgv_min_i64(r, m - 1), offset);
}

static void rows_of_matrix(const real **from, const real *x, int64_t ld, int64_t m)
{
    for (int64_t r = 0; r < ROWS; r++) from[r] = x + lgv_min_i64(r, m - 1) * ld;
}

static void to_matrix(rows *r, real *y, int64_t ld)
{
    for (int64_t i = 0; i < r->m; i++) r->to[i] = (gemm_row){y + i * ld, NULL, 0};
}

static void to_tokens(rows *r, const tokens *y, int64_t n, int64_t first, int64_t offset)
{
    for (int64_t i = 0; i < r->m; i++)
        r->to[i] = (gemm_row){token(y, n, first + i, offset), NULL, 0};
}

/* r->to = r->from (inner elements each) times copy `copy` of an operand. */
static void product(const blocks *b, const rows *r, const operand *o, int64_t copy)
{
    int64_t inner = o->transposed ? b->a.d : o->x.length,
            columns = o->transposed ? o->x.length : b->a.d;
    gemm_block g = {.m = r->m,
                    .taps = 1,
                    .c = inner,
                    .table = r->from,
                    .row = r->to,
                    .panels = panels_of(b, o, copy),
                    .panel_size = inner * GEMM_NR,
                    .columns = columns};
    gemm_run_block(&g, 0, gemm_panels(columns));
}

static inline vreal load(const real *p, int64_t n)
{
    return n >= VL ? v_load(p) : v_load_n(p, n);
}

/* Scores s[n] (room to a multiple of VL) become exp(scale*s - max); returns their sum, and max. */
static real softmax_row(real *s, int64_t n, real scale, real *max)
{
    vreal f = v_set1(scale), largest = v_set1(-INFINITY), sum = v_zero();
    for (int64_t i = 0; i < n; i += VL) v_store(s + i, v_mul(f, load(s + i, n - i)));
    for (int64_t i = n; i % VL; i++) s[i] = -INFINITY;
    for (int64_t i = 0; i < n; i += VL) largest = v_max(largest, v_load(s + i));
    *max = v_hmax(largest);
    vreal m = v_set1(*max);
    for (int64_t i = 0; i < n; i += VL) {
        vreal p = v_exp(v_sub(v_load(s + i), m));
        v_store(s + i, p);
        sum = v_add(sum, p);
    }
    return v_sum(sum);
}

static void scale_row(real *y, int64_t n, real factor)
{
    for (int64_t i = 0; i < n; i += VL)
        v_store_n(y + i, v_mul(v_set1(factor), load(y + i, n - i)), n - i);
}

/* --- Forward ------------------------------------------------------------------------------------------ */
typedef struct place { /* of a task: which rows of which copy */
    int64_t copy, n, offset, first, m;
} place;

static place place_of(const blocks *b, int64_t length, int64_t block)
{
    int64_t a_copy = lgv_ceil_div(length, ROWS);
    place p = {.copy = block / a_copy, .first = block % a_copy * ROWS};
    p.n = p.copy / b->a.heads;
    p.offset = p.copy % b->a.heads * b->a.d;
    p.m = lgv_min_i64(ROWS, length - p.first);
    return p;
}

static real *scores_of(const blocks *b, int thread)
{
    return (real *)(void *)(b->workspace + b->threads_at + (size_t)thread * b->thread_bytes);
}

enum { K_COLUMNS = 0, V_ROWS };

static void forward_task(void *arg, int64_t block, int thread)
{
    const blocks *b = arg;
    const attention_run *a = &b->a;
    place p = place_of(b, a->q.length, block);
    real *s = scores_of(b, thread), sum[ROWS];
    rows r = {.m = p.m};
    rows_of_tokens(r.from, &a->q, p.n, p.first, p.m, p.offset);
    to_matrix(&r, s, b->ld);
    product(b, &r, &b->pack[K_COLUMNS], p.copy);
    for (int64_t i = 0; i < p.m; i++) {
        real max;
        sum[i] = softmax_row(s + i * b->ld, a->k.length, a->scale, &max);
        if (a->lse) attention_lse(a, p.copy)[p.first + i] = max + r_log(sum[i]);
    }
    rows_of_matrix(r.from, s, b->ld, p.m);
    to_tokens(&r, &a->y, p.n, p.first, p.offset);
    product(b, &r, &b->pack[V_ROWS], p.copy);
    for (int64_t i = 0; i < p.m; i++) scale_row(r.to[i].y, a->d, 1 / sum[i]);
}

static int64_t padded(int64_t length)
{
    return lgv_ceil_div(length, 16) * 16 + 16;
}

/* Returns the bytes of the workspace. */
static size_t plan_forward(const lgv_call *c, blocks *b)
{
    size_t used = 0;
    attention_describe(c, &b->a);
    b->workspace = c->workspace;
    add_pack(b, b->a.k, true, &used);
    add_pack(b, b->a.v, false, &used);
    b->ld = padded(b->a.k.length);
    b->threads_at = used;
    b->thread_bytes = gemm_lines((size_t)(ROWS * b->ld) * sizeof(real));
    return used + (size_t)c->threads * b->thread_bytes;
}

size_t attention_gemm_workspace(const lgv_call *c)
{
    blocks b = {0};
    return plan_forward(c, &b);
}

void attention_gemm(const lgv_call *c)
{
    blocks b = {0};
    plan_forward(c, &b);
    b.a.y = as_tokens(&c->out[0]);
    attention_set_lse(&b.a, &c->out[1]);
    run_packs(c, &b);
    lgv_parallel(c, b.a.q.n * b.a.heads * lgv_ceil_div(b.a.q.length, ROWS), forward_task, &b);
}

/* --- Gradient ----------------------------------------------------------------------------------------- */
/* p = exp(scale*s - lse), ds = p (dp - delta) scale, delta = <dy, y>. Along a row of queries' scores lse and
   delta are constant, along a row of keys' scores they vary. */
enum { GRAD_K_COLUMNS = 0, GRAD_V_COLUMNS, GRAD_K_ROWS };
enum { GRAD_Q_COLUMNS = 0, GRAD_DY_COLUMNS, GRAD_Q_ROWS, GRAD_DY_ROWS };

static void delta_task(void *arg, int64_t block, int thread)
{
    const blocks *b = arg;
    const attention_run *a = &b->a;
    place p = place_of(b, a->q.length, block);
    for (int64_t i = 0; i < p.m; i++)
        b->delta[p.copy * a->q.length + p.first + i] =
            attention_dot(token(&a->dy, p.n, p.first + i, p.offset),
                          token(&a->y, p.n, p.first + i, p.offset), a->d);
}

static void grad_q_task(void *arg, int64_t block, int thread)
{
    const blocks *b = arg;
    const attention_run *a = &b->a;
    place p = place_of(b, a->q.length, block);
    real *s = scores_of(b, thread), *dp = s + ROWS * b->ld;
    rows r = {.m = p.m};
    rows_of_tokens(r.from, &a->q, p.n, p.first, p.m, p.offset);
    to_matrix(&r, s, b->ld);
    product(b, &r, &b->pack[GRAD_K_COLUMNS], p.copy);
    rows_of_tokens(r.from, &a->dy, p.n, p.first, p.m, p.offset);
    to_matrix(&r, dp, b->ld);
    product(b, &r, &b->pack[GRAD_V_COLUMNS], p.copy);
    vreal scale = v_set1(a->scale);
    for (int64_t i = 0; i < p.m; i++) {
        vreal lse = v_set1(attention_lse(a, p.copy)[p.first + i]),
              delta = v_set1(b->delta[p.copy * a->q.length + p.first + i]);
        for (int64_t j = 0, at = i * b->ld; j < a->k.length; j += VL, at += VL) {
            vreal e = v_exp(v_sub(v_mul(scale, v_load(s + at)), lse));
            v_store(s + at, v_mul(v_mul(e, v_sub(v_load(dp + at), delta)), scale));
        }
    }
    rows_of_matrix(r.from, s, b->ld, p.m);
    to_tokens(&r, &a->dq, p.n, p.first, p.offset);
    product(b, &r, &b->pack[GRAD_K_ROWS], p.copy);
}

static void grad_k_task(void *arg, int64_t block, int thread)
{
    const blocks *b = arg;
    const attention_run *a = &b->a;
    place p = place_of(b, a->k.length, block);
    real *s = scores_of(b, thread), *dp = s + ROWS * b->ld;
    const real *lse = attention_lse(a, p.copy), *delta = b->delta + p.copy * a->q.length;
    rows r = {.m = p.m};
    rows_of_tokens(r.from, &a->k, p.n, p.first, p.m, p.offset);
    to_matrix(&r, s, b->ld);
    product(b, &r, &b->pack[GRAD_Q_COLUMNS], p.copy);
    rows_of_tokens(r.from, &a->v, p.n, p.first, p.m, p.offset);
    to_matrix(&r, dp, b->ld);
    product(b, &r, &b->pack[GRAD_DY_COLUMNS], p.copy);
    vreal scale = v_set1(a->scale);
    for (int64_t i = 0; i < p.m; i++)
        for (int64_t j = 0, at = i * b->ld; j < a->q.length; j += VL, at += VL) {
            int64_t n = a->q.length - j;
            vreal e = v_exp(v_sub(v_mul(scale, v_load(s + at)), load(lse + j, n)));
            v_store(s + at, e);
            v_store(dp + at, v_mul(v_mul(e, v_sub(v_load(dp + at), load(delta + j, n))), scale));
        }
    if (a->dv.data) {
        rows_of_matrix(r.from, s, b->ld, p.m);
        to_tokens(&r, &a->dv, p.n, p.first, p.offset);
        product(b, &r, &b->pack[GRAD_DY_ROWS], p.copy);
    }
    if (a->dk.data) {
        rows_of_matrix(r.from, dp, b->ld, p.m);
        to_tokens(&r, &a->dk, p.n, p.first, p.offset);
        product(b, &r, &b->pack[GRAD_Q_ROWS], p.copy);
    }
}

/* The two passes use one workspace in turn; returns its bytes. */
static size_t plan_grad(const lgv_call *c, blocks *q, blocks *k)
{
    attention_run a = {0};
    attention_describe_grad(c, &a);
    size_t used = gemm_lines((size_t)(a.q.n * a.heads * a.q.length) * sizeof(real));
    int64_t ld = padded(lgv_max_i64(a.q.length, a.k.length));
    *q = *k = (blocks){.a = a,
                       .delta = c->workspace,
                       .workspace = c->workspace,
                       .ld = ld,
                       .threads_at = used,
                       .thread_bytes = gemm_lines((size_t)(2 * ROWS * ld) * sizeof(real))};
    used += (size_t)c->threads * q->thread_bytes;
    size_t q_end = used, k_end = used;
    add_pack(q, a.k, true, &q_end);
    add_pack(q, a.v, true, &q_end);
    add_pack(q, a.k, false, &q_end);
    add_pack(k, a.q, true, &k_end);
    add_pack(k, a.dy, true, &k_end);
    add_pack(k, a.q, false, &k_end);
    add_pack(k, a.dy, false, &k_end);
    return q_end > k_end ? q_end : k_end;
}

size_t attention_gemm_grad_workspace(const lgv_call *c)
{
    blocks q, k;
    return plan_grad(c, &q, &k);
}

void attention_gemm_grad(const lgv_call *c)
{
    blocks q, k;
    plan_grad(c, &q, &k);
    int64_t copies = q.a.q.n * q.a.heads, q_tasks = copies * lgv_ceil_div(q.a.q.length, ROWS);
    lgv_parallel(c, q_tasks, delta_task, &q);
    if (q.a.dq.data) {
        run_packs(c, &q);
        lgv_parallel(c, q_tasks, grad_q_task, &q);
    }
    if (k.a.dk.data || k.a.dv.data) {
        run_packs(c, &k);
        lgv_parallel(c, copies * lgv_ceil_div(k.a.k.length, ROWS), grad_k_task, &k);
    }
}
