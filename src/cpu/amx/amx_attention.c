/* amx_attention.c - scaled dot-product attention in bf16 on AMX tiles, forward and gradient.
   Scores of 32 queries against a block of keys are tiles of sums, softmax works on them in f32, and what it makes is
   the left operand of the next product; the score matrix never exists as a whole. Keys and values of a head are packed
   once, as columns (for scores) or as rows (for weighted sums), and used by all blocks of queries.
   The gradient takes queries against keys for dq, and keys against queries for dk and dv: scores are computed
   twice, so that nobody adds to what another task owns. */
#include "amx_product.h"

enum {
    BLOCK = 32, /* rows of a block of scores, and tokens of a packed step */
    TASK_BLOCKS =
        4, /* blocks of rows of a task: they share the packed operands' way through the caches */
    KEYS = 128, /* scores of a row at a time */
    KEY_BLOCKS = KEYS / BLOCK
};
#define LOG2_E 1.44269504f

/* Rows of one operand: token l of batch row n, head h starts at data + n*sn + l/w*sh + l%w*sw + h*d. */
typedef struct tokens {
    uint16_t *data; /* NULL: absent */
    int64_t length, sn, w, sh, sw;
} tokens;

typedef struct pack {
    const tokens *t;
    uint16_t *columns, *rows; /* NULL: not wanted */
} pack;

typedef struct run {
    tokens q, k, v, y, dy, dq, dk, dv;
    float *lse; /* of copy n*heads + h at lse + n*lse_n + h*lse_head; NULL: not wanted */
    int64_t lse_n, lse_head;
    int64_t n, heads, d, width; /* width: d in whole steps */
    float scale;
    pack pack_q, pack_k, pack_v, pack_dy;
    float *delta,
        *lse_padded; /* gradient: [copy][queries, padded]: <dy, y> of each query; log-sum-exp / ln 2, inf beyond */
    int64_t padded_queries;
    char *scratch;
} run;

static tokens tokens_of(const lgv_tensor *t)
{
    lgv_nhwc a = lgv_as_nhwc(t);
    if (a.h == 1 || a.sh == a.w * a.sw) { /* a fixed distance apart */
        a.w *= a.h;
        a.h = 1;
    }
    return (tokens){t->data, a.h * a.w, a.sn, a.w, a.sh, a.sw};
}

/* The tokens of one copy; found once, since divisions for each token would cost as much as the products. */
typedef struct rows {
    uint16_t *first;
    int64_t length, w, sh, sw;
} rows;

static rows rows_of(const run *r, const tokens *t, int64_t copy)
{
    return (rows){t->data + copy / r->heads * t->sn + copy % r->heads * r->d, t->length, t->w,
                  t->sh, t->sw};
}

/* NULL beyond the last token. */
static inline uint16_t *token(const rows *t, int64_t l)
{
    if (l >= t->length) return NULL;
    return t->first + (l < t->w ? l * t->sw : l / t->w * t->sh + l % t->w * t->sw);
}

static int64_t blocks_of(const tokens *t)
{
    return lgv_ceil_div(t->length, BLOCK);
}

static int64_t packed_elements(const run *r, const tokens *t)
{
    return blocks_of(t) * BLOCK * r->width;
}

/* --- Packed operands ---------------------------------------------------------------------------------- */
/* Tokens as columns, the inner dimension is d: [block of 32 tokens][step of d]. */
static void pack_columns(const run *r, const tokens *t, int64_t copy, int64_t block, uint16_t *to)
{
    uint32_t pairs[16][16];
    const rows all = rows_of(r, t, copy);
    for (int64_t c = 0; c < r->width; c += TILE_BF16)
        for (int half = 0; half < 2; half++, to += TILE_ELEMENTS) {
            for (int i = 0; i < 16; i++) {
                const uint16_t *x = token(&all, block * BLOCK + half * 16 + i);
                amx_copy((uint16_t *)(void *)pairs[i], x ? x + c : NULL,
                         x ? lgv_min_i64(TILE_BF16, r->d - c) : 0, TILE_BF16);
            }
            transpose16(pairs, 16, to, 16);
        }
}

/* Tokens as rows, the inner dimension is tokens: [block of 32 columns of d][step of 32 tokens]. */
static void pack_rows(const run *r, const tokens *t, int64_t copy, int64_t block, uint16_t *to)
{
    static const uint16_t zeros[16];
    const rows all = rows_of(r, t, copy);
    for (int p = 0; p < TILE_ROWS; p++) {
        const uint16_t *a = token(&all, block * BLOCK + 2 * p),
                       *b = token(&all, block * BLOCK + 2 * p + 1);
        for (int64_t c = 0; c < r->width; c += 16) {
            uint16_t *step = to + (c / BLOCK * blocks_of(t) + block) * STEP_ELEMENTS;
            amx_interleave(a ? a + c : zeros, b ? b + c : zeros, r->d - c,
                           (uint32_t *)(void *)(step + c % BLOCK / 16 * TILE_ELEMENTS + p * BLOCK));
        }
    }
}

typedef struct pack_run {
    const run *r;
    const pack *p;
} pack_run;

static void pack_task(void *arg, int64_t task, int thread)
{
    const pack_run *p = arg;
    const tokens *t = p->p->t;
    int64_t blocks = blocks_of(t), copy = task / blocks, block = task % blocks;
    int64_t size = packed_elements(p->r, t);
    if (p->p->columns)
        pack_columns(p->r, t, copy, block,
                     p->p->columns + copy * size + block * BLOCK * p->r->width);
    if (p->p->rows) pack_rows(p->r, t, copy, block, p->p->rows + copy * size);
}

static void pack_all(const lgv_call *c, const run *r, const pack *p)
{
    pack_run job = {r, p};
    lgv_parallel(c, r->n * r->heads * blocks_of(p->t), pack_task, &job);
}

static amx_right columns_at(const run *r, const pack *p, int64_t copy, int64_t block)
{
    const uint16_t *all = p->columns + copy * packed_elements(r, p->t);
    return (amx_right){all + block * BLOCK * r->width, TILE_ELEMENTS, STEP_ELEMENTS};
}

static amx_right rows_at(const run *r, const pack *p, int64_t copy, int64_t block, int64_t c)
{
    const uint16_t *all = p->rows + copy * packed_elements(r, p->t);
    return (amx_right){all + (c * blocks_of(p->t) + block) * STEP_ELEMENTS, TILE_ELEMENTS,
                       STEP_ELEMENTS};
}

/* --- Products over blocks ------------------------------------------------------------------------------- */
/* 32 tokens as left rows, zeros beyond the last. */
static void load_left(const run *r, const tokens *t, int64_t copy, int64_t first, uint16_t *left)
{
    const rows all = rows_of(r, t, copy);
    for (int64_t i = 0; i < BLOCK; i++) {
        const uint16_t *x = token(&all, first + i);
        amx_copy(left + i * r->width, x, x ? r->d : 0, r->width);
    }
}

/* s[block][32][32] = left rows times tokens of blocks [block, block+count). */
static void scores(const run *r, tiles *t, const uint16_t *left, const pack *p, int64_t copy,
                   int64_t block, int64_t count, float *s)
{
    const int64_t none = 0;
    const amx_inner inner = {1, r->width / TILE_BF16, &none};
    for (int64_t b = 0; b < count; b++)
        amx_product(t, &inner, left, left + TILE_ROWS * r->width, r->width * 2,
                    columns_at(r, p, copy, block + b), (amx_ahead){NULL, NULL, 0, 0}, false,
                    s + b * BLOCK_ELEMENTS, NULL);
}

/* sum[block of d][32][32] (+)= weights[32][KEYS] times tokens of blocks [block, block+count). */
static void weighted_sum(const run *r, tiles *t, const uint16_t *weights, const pack *p,
                         int64_t copy, int64_t block, int64_t count, bool add, float *sum)
{
    const int64_t none = 0;
    const amx_inner inner = {1, count, &none};
    for (int64_t c = 0; c < r->width / BLOCK; c++)
        amx_product(t, &inner, weights, weights + TILE_ROWS * KEYS, KEYS * 2,
                    rows_at(r, p, copy, block, c), (amx_ahead){NULL, NULL, 0, 0}, add,
                    sum + c * BLOCK_ELEMENTS, NULL);
}

/* Scores of tokens that do not exist become -inf: `valid` of count * 32 columns do. */
static void mask_scores(float *s, int64_t count, int64_t valid)
{
    for (int64_t j = valid; j < count * BLOCK; j++)
        for (int64_t i = 0; i < BLOCK; i++)
            s[j / BLOCK * BLOCK_ELEMENTS + i * BLOCK_COLUMNS + j % BLOCK] = -INFINITY;
}

/* Rows of sums become tokens first.. of t, each times factor[row] (NULL: 1). */
static void store_tokens(const run *r, const tokens *t, int64_t copy, int64_t first,
                         const float *sum, const float *factor)
{
    const rows all = rows_of(r, t, copy);
    for (int64_t i = 0; i < BLOCK; i++) {
        uint16_t *y = token(&all, first + i);
        if (!y) return;
        vreal f = v_set1(factor ? factor[i] : 1);
        for (int64_t c = 0; c < r->d; c += VL)
            amx_store_n(
                y, c, r->d - c, false,
                v_mul(f, v_load(sum + c / BLOCK * BLOCK_ELEMENTS + i * BLOCK_COLUMNS + c % BLOCK)));
    }
}

/* --- Forward ---------------------------------------------------------------------------------------------- */
/* A thread's buffers. */
typedef struct scratch {
    uint16_t *left, *left2; /* [TASK_BLOCKS][32][width] */
    float *s, *s2;          /* [KEY_BLOCKS][32][32] */
    uint16_t *p, *p2;       /* [32][KEYS] */
    float *sum, *sum2;      /* [TASK_BLOCKS][width / 32][32][32] */
    float *max, *total;     /* [TASK_BLOCKS][32] */
} scratch;

static void *take(char **p, size_t bytes)
{
    void *q = *p;
    *p += lgv_round_up(bytes);
    return q;
}

enum {
    SCORE_BYTES = KEY_BLOCKS * BLOCK_ELEMENTS * sizeof(float),
    WEIGHT_BYTES = BLOCK * KEYS * sizeof(uint16_t),
    ROW_BYTES = TASK_BLOCKS * BLOCK * sizeof(float)
};

static size_t left_bytes(const run *r)
{
    return (size_t)(TASK_BLOCKS * BLOCK * r->width) * sizeof(uint16_t);
}

static size_t scratch_bytes(const run *r)
{
    return 2 * (3 * left_bytes(r) + SCORE_BYTES + WEIGHT_BYTES + ROW_BYTES);
}

static scratch scratch_of(const run *r, int thread)
{
    char *p = r->scratch + (size_t)thread * scratch_bytes(r);
    const size_t left = left_bytes(r);
    scratch s;
    s.left = take(&p, left);
    s.left2 = take(&p, left);
    s.sum = take(&p, 2 * left);
    s.sum2 = take(&p, 2 * left);
    s.s = take(&p, SCORE_BYTES);
    s.s2 = take(&p, SCORE_BYTES);
    s.p = take(&p, WEIGHT_BYTES);
    s.p2 = take(&p, WEIGHT_BYTES);
    s.max = take(&p, ROW_BYTES);
    s.total = take(&p, ROW_BYTES);
    return s;
}

/* One row of scores becomes weights 2^(scale2 s - max) in bf16, where scale2 = scale log2 e; returns what earlier sums
   shrink by. */
static float softmax_row(const run *r, const float *s, int64_t blocks, uint16_t *p, float *max,
                         float *total)
{
    enum { VECTORS = BLOCK / VL };
    const vreal scale = v_set1(r->scale * LOG2_E);
    vreal largest = v_set1(-INFINITY);
    for (int64_t b = 0; b < blocks; b++)
        for (int64_t i = 0; i < VECTORS; i++)
            largest = v_max(largest, v_mul(scale, v_load(s + b * BLOCK_ELEMENTS + i * VL)));
    float top = v_hmax(largest), old = *max;
    if (top < old) top = old;
    const vreal m = v_set1(top);
    vreal sum = v_zero();
    for (int64_t b = 0; b < blocks; b++) {
        vreal e[VECTORS];
        LGV_UNROLL
        for (int64_t i = 0; i < VECTORS; i++) {
            e[i] = v_exp2_normal(v_sub(v_mul(scale, v_load(s + b * BLOCK_ELEMENTS + i * VL)), m));
            sum = v_add(sum, e[i]);
        }
        store_row(p + b * BLOCK, e);
    }
    float shrink = old == -INFINITY ? 0 : v_first(v_exp2_normal(v_set1(old - top)));
    *max = top;
    *total = *total * shrink + v_sum(sum);
    return shrink;
}

static void shrink_row(const run *r, float *sum, float factor)
{
    vreal f = v_set1(factor);
    for (int64_t c = 0; c < r->width / BLOCK; c++, sum += BLOCK_ELEMENTS)
        for (int64_t i = 0; i < BLOCK; i += VL) v_store(sum + i, v_mul(f, v_load(sum + i)));
}

/* Keys of blocks [block, block+count) for one block of queries. */
static void attend(const run *r, const scratch *s, tiles *t, int64_t copy, int64_t i, int64_t block,
                   int64_t count)
{
    int64_t size = BLOCK * r->width;
    float *sum = s->sum + i * size;
    scores(r, t, s->left + i * size, &r->pack_k, copy, block, count, s->s);
    mask_scores(s->s, count, r->k.length - block * BLOCK);
    for (int64_t row = 0; row < BLOCK; row++) {
        float shrink = softmax_row(r, s->s + row * BLOCK_COLUMNS, count, s->p + row * KEYS,
                                   &s->max[i * BLOCK + row], &s->total[i * BLOCK + row]);
        if (block && shrink != 1) shrink_row(r, sum + row * BLOCK_COLUMNS, shrink);
    }
    weighted_sum(r, t, s->p, &r->pack_v, copy, block, count, block > 0, sum);
}

static void forward_task(void *arg, int64_t task, int thread)
{
    const run *r = arg;
    int64_t tasks = lgv_ceil_div(blocks_of(&r->q), TASK_BLOCKS), copy = task / tasks;
    int64_t first = task % tasks * TASK_BLOCKS,
            blocks = lgv_min_i64(TASK_BLOCKS, blocks_of(&r->q) - first);
    int64_t keys = blocks_of(&r->k), size = BLOCK * r->width;
    scratch s = scratch_of(r, thread);
    for (int64_t i = 0; i < blocks; i++)
        load_left(r, &r->q, copy, (first + i) * BLOCK, s.left + i * size);
    for (int64_t i = 0; i < blocks * BLOCK; i++) {
        s.max[i] = -INFINITY;
        s.total[i] = 0;
    }
    tiles t;
    tile_begin(&t);
    for (int64_t b = 0; b < keys; b += KEY_BLOCKS)
        for (int64_t i = 0; i < blocks; i++)
            attend(r, &s, &t, copy, i, b, lgv_min_i64(KEY_BLOCKS, keys - b));
    tile_end(&t);
    float *lse =
        r->lse ? r->lse + copy / r->heads * r->lse_n + copy % r->heads * r->lse_head : NULL;
    for (int64_t i = 0; i < blocks * BLOCK; i++) {
        int64_t l = first * BLOCK + i;
        if (lse && l < r->q.length) lse[l] = s.max[i] / LOG2_E + r_log(s.total[i]);
        s.total[i] = 1 / s.total[i];
    }
    for (int64_t i = 0; i < blocks; i++)
        store_tokens(r, &r->y, copy, (first + i) * BLOCK, s.sum + i * size, s.total + i * BLOCK);
}

static run describe(const lgv_call *c)
{
    const lgv_attr_attention *a = c->attr;
    run r = {.q = tokens_of(&c->in[0]),
             .k = tokens_of(&c->in[1]),
             .v = tokens_of(&c->in[2]),
             .n = c->in[0].dim[0],
             .heads = a->heads,
             .d = c->in[0].dim[c->in[0].rank - 1] / a->heads,
             .scale = (float)a->scale};
    r.width = amx_round(r.d, TILE_BF16);
    return r;
}

static bool all_bf16(const lgv_tensor *t, int n)
{
    for (int i = 0; i < n; i++)
        if (t[i].data && t[i].dtype != LGV_BF16) return false;
    return true;
}

static bool accepts(const lgv_call *c)
{
    return all_bf16(c->in, 3) && all_bf16(c->out, 1) &&
           ((const lgv_attr_attention *)c->attr)->scale > 0;
}

static size_t packed_bytes(const run *r, const tokens *t)
{
    return lgv_round_up((size_t)(r->n * r->heads * packed_elements(r, t)) * sizeof(uint16_t));
}

static size_t workspace(const lgv_call *c)
{
    run r = describe(c);
    return 2 * packed_bytes(&r, &r.k) + (size_t)c->threads * scratch_bytes(&r);
}

static void forward(const lgv_call *c)
{
    run r = describe(c);
    char *p = c->workspace;
    r.y = tokens_of(&c->out[0]);
    r.lse = c->out[1].data;
    r.lse_n = c->out[1].stride[0];
    r.lse_head = c->out[1].stride[1];
    r.pack_k = (pack){&r.k, take(&p, packed_bytes(&r, &r.k)), NULL};
    r.pack_v = (pack){&r.v, NULL, take(&p, packed_bytes(&r, &r.v))};
    r.scratch = p;
    pack_all(c, &r, &r.pack_k);
    pack_all(c, &r, &r.pack_v);
    lgv_parallel(c, r.n * r.heads * lgv_ceil_div(blocks_of(&r.q), TASK_BLOCKS), forward_task, &r);
}

/* --- Gradient ----------------------------------------------------------------------------------------------- */
/* <dy, y> of 32 queries, and their log-sum-exp; beyond the last, values that make weights 0. */
static void delta_task(void *arg, int64_t task, int thread)
{
    const run *r = arg;
    int64_t blocks = blocks_of(&r->q), copy = task / blocks, first = task % blocks * BLOCK;
    const float *lse = r->lse + copy / r->heads * r->lse_n + copy % r->heads * r->lse_head;
    float *delta = r->delta + copy * r->padded_queries,
          *padded = r->lse_padded + copy * r->padded_queries;
    const rows all_y = rows_of(r, &r->y, copy), all_dy = rows_of(r, &r->dy, copy);
    for (int64_t l = first; l < first + BLOCK; l++) {
        const uint16_t *y = token(&all_y, l), *dy = token(&all_dy, l);
        vreal sum = v_zero();
        for (int64_t c = 0; y && c < r->d; c += VL)
            sum = v_fma(amx_load_n(y, c, r->d - c, false), amx_load_n(dy, c, r->d - c, false), sum);
        delta[l] = v_sum(sum);
        padded[l] = y ? lse[l] * LOG2_E : INFINITY;
    }
}

/* Scores s and products dp of a row become weights e^(scale s - lse) and their gradients times scale; lse comes in
   units of ln 2. Either lse and delta are one number for the row, or (columns) vectors along it. */
LGV_FOLD void grad_row(const run *r, bool columns, const float *s, const float *dp, int64_t blocks,
                       const float *lse, const float *delta, uint16_t *p, uint16_t *ds)
{
    enum { VECTORS = BLOCK / VL };
    const vreal scale = v_set1(r->scale), scale2 = v_set1(r->scale * LOG2_E),
                row_lse = v_set1(*lse), row_delta = v_set1(*delta);
    for (int64_t b = 0; b < blocks; b++, s += BLOCK_ELEMENTS, dp += BLOCK_ELEMENTS) {
        vreal w[VECTORS], g[VECTORS];
        LGV_UNROLL
        for (int64_t i = 0; i < VECTORS; i++) {
            vreal l = columns ? v_load(lse + b * BLOCK + i * VL) : row_lse,
                  d = columns ? v_load(delta + b * BLOCK + i * VL) : row_delta;
            w[i] = v_exp2_normal(v_sub(v_mul(scale2, v_load(s + i * VL)), l));
            g[i] = v_mul(v_mul(w[i], v_sub(v_load(dp + i * VL), d)), scale);
        }
        store_row(p + b * BLOCK, w);
        store_row(ds + b * BLOCK, g);
    }
}

/* dq of a task's queries: over all keys. */
static void grad_q_task(void *arg, int64_t task, int thread)
{
    const run *r = arg;
    int64_t tasks = lgv_ceil_div(blocks_of(&r->q), TASK_BLOCKS), copy = task / tasks;
    int64_t first = task % tasks * TASK_BLOCKS,
            blocks = lgv_min_i64(TASK_BLOCKS, blocks_of(&r->q) - first);
    int64_t keys = blocks_of(&r->k), size = BLOCK * r->width;
    scratch s = scratch_of(r, thread);
    for (int64_t i = 0; i < blocks; i++) {
        load_left(r, &r->q, copy, (first + i) * BLOCK, s.left + i * size);
        load_left(r, &r->dy, copy, (first + i) * BLOCK, s.left2 + i * size);
    }
    tiles t;
    tile_begin(&t);
    for (int64_t b = 0; b < keys; b += KEY_BLOCKS)
        for (int64_t i = 0; i < blocks; i++) {
            int64_t count = lgv_min_i64(KEY_BLOCKS, keys - b),
                    at = copy * r->padded_queries + (first + i) * BLOCK;
            scores(r, &t, s.left + i * size, &r->pack_k, copy, b, count, s.s);
            scores(r, &t, s.left2 + i * size, &r->pack_v, copy, b, count, s.s2);
            mask_scores(s.s, count, r->k.length - b * BLOCK);
            for (int64_t row = 0; row < BLOCK; row++)
                grad_row(r, false, s.s + row * BLOCK_COLUMNS, s.s2 + row * BLOCK_COLUMNS, count,
                         r->lse_padded + at + row, r->delta + at + row, s.p + row * KEYS,
                         s.p2 + row * KEYS);
            weighted_sum(r, &t, s.p2, &r->pack_k, copy, b, count, b > 0, s.sum + i * size);
        }
    tile_end(&t);
    for (int64_t i = 0; i < blocks; i++)
        store_tokens(r, &r->dq, copy, (first + i) * BLOCK, s.sum + i * size, NULL);
}

/* dk and dv of a task's keys: over all queries. */
static void grad_kv_task(void *arg, int64_t task, int thread)
{
    const run *r = arg;
    int64_t tasks = lgv_ceil_div(blocks_of(&r->k), TASK_BLOCKS), copy = task / tasks;
    int64_t first = task % tasks * TASK_BLOCKS,
            blocks = lgv_min_i64(TASK_BLOCKS, blocks_of(&r->k) - first);
    int64_t queries = blocks_of(&r->q), size = BLOCK * r->width;
    scratch s = scratch_of(r, thread);
    for (int64_t i = 0; i < blocks; i++) {
        load_left(r, &r->k, copy, (first + i) * BLOCK, s.left + i * size);
        load_left(r, &r->v, copy, (first + i) * BLOCK, s.left2 + i * size);
    }
    tiles t;
    tile_begin(&t);
    for (int64_t b = 0; b < queries; b += KEY_BLOCKS)
        for (int64_t i = 0; i < blocks; i++) {
            int64_t count = lgv_min_i64(KEY_BLOCKS, queries - b),
                    at = copy * r->padded_queries + b * BLOCK;
            scores(r, &t, s.left + i * size, &r->pack_q, copy, b, count, s.s);
            scores(r, &t, s.left2 + i * size, &r->pack_dy, copy, b, count, s.s2);
            for (int64_t row = 0; row < BLOCK; row++)
                grad_row(r, true, s.s + row * BLOCK_COLUMNS, s.s2 + row * BLOCK_COLUMNS, count,
                         r->lse_padded + at, r->delta + at, s.p + row * KEYS, s.p2 + row * KEYS);
            weighted_sum(r, &t, s.p2, &r->pack_q, copy, b, count, b > 0, s.sum + i * size);
            weighted_sum(r, &t, s.p, &r->pack_dy, copy, b, count, b > 0, s.sum2 + i * size);
        }
    tile_end(&t);
    for (int64_t i = 0; i < blocks; i++) {
        if (r->dk.data) store_tokens(r, &r->dk, copy, (first + i) * BLOCK, s.sum + i * size, NULL);
        if (r->dv.data) store_tokens(r, &r->dv, copy, (first + i) * BLOCK, s.sum2 + i * size, NULL);
    }
}

static bool grad_accepts(const lgv_call *c)
{
    return all_bf16(c->in, 4) && all_bf16(&c->in[5], 1) && all_bf16(c->out, 3) &&
           c->in[4].dtype == LGV_F32 && ((const lgv_attr_attention *)c->attr)->scale > 0;
}

static size_t query_bytes(const run *r)
{
    return lgv_round_up((size_t)(r->n * r->heads * blocks_of(&r->q) * BLOCK) * sizeof(float));
}

static size_t grad_workspace(const lgv_call *c)
{
    run r = describe(c);
    return 4 * packed_bytes(&r, &r.q) + 3 * packed_bytes(&r, &r.k) + 2 * query_bytes(&r) +
           (size_t)c->threads * scratch_bytes(&r);
}

static void grad(const lgv_call *c)
{
    run r = describe(c);
    char *p = c->workspace;
    r.y = tokens_of(&c->in[3]);
    r.lse = c->in[4].data;
    r.lse_n = c->in[4].stride[0];
    r.lse_head = c->in[4].stride[1];
    r.dy = tokens_of(&c->in[5]);
    r.dq = tokens_of(&c->out[0]);
    r.dk = tokens_of(&c->out[1]);
    r.dv = tokens_of(&c->out[2]);
    size_t q = packed_bytes(&r, &r.q), k = packed_bytes(&r, &r.k);
    r.pack_q = (pack){&r.q, take(&p, q), take(&p, q)};
    r.pack_dy = (pack){&r.dy, take(&p, q), take(&p, q)};
    r.pack_k = (pack){&r.k, take(&p, k), take(&p, k)};
    r.pack_v = (pack){&r.v, take(&p, k), NULL};
    r.padded_queries = blocks_of(&r.q) * BLOCK;
    r.delta = take(&p, query_bytes(&r));
    r.lse_padded = take(&p, query_bytes(&r));
    r.scratch = p;
    const pack *all[] = {&r.pack_q, &r.pack_dy, &r.pack_k, &r.pack_v};
    for (int i = 0; i < 4; i++) pack_all(c, &r, all[i]);
    int64_t copies = r.n * r.heads;
    lgv_parallel(c, copies * blocks_of(&r.q), delta_task, &r);
    if (r.dq.data)
        lgv_parallel(c, copies * lgv_ceil_div(blocks_of(&r.q), TASK_BLOCKS), grad_q_task, &r);
    if (r.dk.data || r.dv.data)
        lgv_parallel(c, copies * lgv_ceil_div(blocks_of(&r.k), TASK_BLOCKS), grad_kv_task, &r);
}

static const lgv_kernel kernels[] = {
    {.op = LGV_OP_attention,
     .name = "amx",
     .bf16 = true,
     .accepts = accepts,
     .workspace = workspace,
     .run = forward},
    {.op = LGV_OP_attention_grad,
     .name = "amx",
     .bf16 = true,
     .accepts = grad_accepts,
     .workspace = grad_workspace,
     .run = grad},
};
extern const lgv_kernel_list LGV_TABLE(amx_attention);
const lgv_kernel_list LGV_TABLE(amx_attention) = {kernels, sizeof kernels / sizeof *kernels};
