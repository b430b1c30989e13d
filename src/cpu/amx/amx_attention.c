/* amx_attention.c - scaled dot-product attention in bf16 on AMX tiles, forward and gradient.
   Scores of 32 queries against a chunk of keys are tiles of sums, softmax works on them in f32, and what it makes is
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
    KEY_BLOCKS = KEYS / BLOCK,
    GROUP_ROWS = 4 /* of a chunk, whose weights are made between tile operations */
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
    const pack *const *packs;
    int count;
    int64_t blocks; /* of one copy, of all packs */
} pack_run;

static void pack_task(void *arg, int64_t task, int thread)
{
    const pack_run *job = arg;
    const run *r = job->r;
    int64_t copy = task / job->blocks, block = task % job->blocks;
    int i = 0;
    (void)thread;
    while (block >= blocks_of(job->packs[i]->t)) block -= blocks_of(job->packs[i++]->t);
    const pack *p = job->packs[i];
    int64_t size = packed_elements(r, p->t);
    if (p->columns)
        pack_columns(r, p->t, copy, block, p->columns + copy * size + block * BLOCK * r->width);
    if (p->rows) pack_rows(r, p->t, copy, block, p->rows + copy * size);
}

static void pack_all(const lgv_call *c, const run *r, const pack *const *packs, int count)
{
    pack_run job = {r, packs, count, 0};
    for (int i = 0; i < count; i++) job.blocks += blocks_of(packs[i]->t);
    lgv_parallel(c, r->n * r->heads * job.blocks, pack_task, &job);
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

/* --- Chunks ----------------------------------------------------------------------------------------------- */
/* A thread's buffers; those of chunks twice, for one chunk and the next. */
typedef struct scratch {
    uint16_t *left, *left2; /* [TASK_BLOCKS][32][width] */
    float *s[2], *s2[2];    /* [KEY_BLOCKS][32][32] */
    uint16_t *p[2], *p2[2]; /* [32][KEYS] */
    float *shrink;          /* [32] what earlier sums are multiplied with: forward */
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
    return 2 * (3 * left_bytes(r) + 2 * SCORE_BYTES + 2 * WEIGHT_BYTES) + 3 * ROW_BYTES;
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
    for (int i = 0; i < 2; i++) {
        s.s[i] = take(&p, SCORE_BYTES);
        s.s2[i] = take(&p, SCORE_BYTES);
        s.p[i] = take(&p, WEIGHT_BYTES);
        s.p2[i] = take(&p, WEIGHT_BYTES);
    }
    s.shrink = take(&p, ROW_BYTES);
    s.max = take(&p, ROW_BYTES);
    s.total = take(&p, ROW_BYTES);
    return s;
}

/* Scores of left rows against tokens, and weights times tokens; `weights` and `s` are those of chunks in turns. */
typedef struct score_product {
    const uint16_t *left;
    const pack *p;
    float *const *s;
} score_product;

typedef struct sum_product {
    uint16_t *const *weights;
    const pack *p;
    float *sum;
    const float *shrink; /* of each row of what earlier chunks added up to; NULL: nothing shrinks */
} sum_product;

/* A task's blocks of rows against all tokens of the other side, chunk by chunk: KEYS tokens against one block after the
   other, then the next tokens. A chunk takes three stages: scores, weights (a group of rows at a time) and sums. */
typedef struct pass {
    const run *r;
    scratch s;
    tiles tiles;
    int64_t copy, first, blocks,
        others; /* the first block of rows, how many, and blocks of tokens */
    score_product score[2];
    sum_product sum[2];
    int scores, sums;
    void (*weights)(const struct pass *p, int64_t chunk, int64_t row); /* of a group of rows */
} pass;

static int64_t chunk_row_block(const pass *p, int64_t chunk)
{
    return chunk % p->blocks;
}

static int64_t chunk_token_block(const pass *p, int64_t chunk)
{
    return chunk / p->blocks * KEY_BLOCKS;
}

static int64_t chunk_token_blocks(const pass *p, int64_t chunk)
{
    return lgv_min_i64(KEY_BLOCKS, p->others - chunk_token_block(p, chunk));
}

/* s[32][32] (+)= 32 left rows times `steps` of the right operand. */
static void block_product(tiles *t, const uint16_t *left, int64_t pitch, amx_right right,
                          int64_t steps, bool add, float *s)
{
    tile_memory_ready();
    sums_begin(t, add, s, BLOCK_COLUMNS);
    for (int64_t i = 0; i < steps; i++)
        sums_add(t, left + i * TILE_BF16, left + TILE_ROWS * pitch + i * TILE_BF16, pitch * 2,
                 right.b + i * right.step, right.half);
    sums_end(t, s, BLOCK_COLUMNS);
}

/* One block of tokens of one of the chunk's score products. */
static void score_unit(pass *p, int64_t chunk, int64_t unit)
{
    const run *r = p->r;
    const int64_t count = chunk_token_blocks(p, chunk), block = unit % count;
    const score_product *q = &p->score[unit / count];
    block_product(&p->tiles, q->left + chunk_row_block(p, chunk) * BLOCK * r->width, r->width,
                  columns_at(r, q->p, p->copy, chunk_token_block(p, chunk) + block),
                  r->width / TILE_BF16, false, q->s[chunk % 2] + block * BLOCK_ELEMENTS);
}

/* 32 columns of one of the chunk's sums. */
static void sum_unit(pass *p, int64_t chunk, int64_t unit)
{
    const run *r = p->r;
    const int64_t columns = r->width / BLOCK, c = unit % columns;
    const sum_product *q = &p->sum[unit / columns];
    float *sum = q->sum + (chunk_row_block(p, chunk) * columns + c) * BLOCK_ELEMENTS;
    const bool add = chunk >= p->blocks;
    for (int64_t i = 0; add && q->shrink && i < BLOCK; i++) {
        if (q->shrink[i] == 1) continue;
        for (int64_t k = 0; k < BLOCK_COLUMNS; k += VL) {
            float *x = sum + i * BLOCK_COLUMNS + k;
            v_store(x, v_mul(v_set1(q->shrink[i]), v_load(x)));
        }
    }
    block_product(&p->tiles, q->weights[chunk % 2], KEYS,
                  rows_at(r, q->p, p->copy, chunk_token_block(p, chunk), c),
                  chunk_token_blocks(p, chunk), add, sum);
}

/* One chunk after the other, each in its buffers: the forward pass, whose weights wait for each other's maxima. */
static void run_in_turn(pass *p)
{
    const int64_t chunks = p->blocks * lgv_ceil_div(p->others, KEY_BLOCKS);
    tile_begin(&p->tiles);
    for (int64_t k = 0; k < chunks; k++) {
        const int64_t scores = p->scores * chunk_token_blocks(p, k);
        for (int64_t u = 0; u < scores; u++) score_unit(p, k, u);
        for (int64_t row = 0; row < BLOCK; row += VL) p->weights(p, k, row);
        for (int64_t u = 0; u < p->sums * (p->r->width / BLOCK); u++) sum_unit(p, k, u);
    }
    tile_end(&p->tiles);
}

/* Weights of a chunk while the tile unit computes the scores of the next one and the sums of the one before. */
static void run_side_by_side(pass *p)
{
    enum { GROUPS = BLOCK / GROUP_ROWS };
    const int64_t chunks = p->blocks * lgv_ceil_div(p->others, KEY_BLOCKS);
    const int64_t sums = p->sums * (p->r->width / BLOCK);
    tile_begin(&p->tiles);
    for (int64_t k = -1; k <= chunks; k++) {
        const int64_t scores = k + 1 < chunks ? p->scores * chunk_token_blocks(p, k + 1) : 0;
        for (int64_t g = 0; g < GROUPS; g++) {
            if (k >= 0 && k < chunks) p->weights(p, k, g * GROUP_ROWS);
            for (int64_t u = g * scores / GROUPS; u < (g + 1) * scores / GROUPS; u++)
                score_unit(p, k + 1, u);
            for (int64_t u = g * sums / GROUPS; k > 0 && u < (g + 1) * sums / GROUPS; u++)
                sum_unit(p, k - 1, u);
        }
    }
    tile_end(&p->tiles);
}

/* --- Forward ---------------------------------------------------------------------------------------------- */
/* The sum, or the largest, of each of VL vectors, as one vector. */
LGV_FOLD vreal total_of_each(vreal a[VL], const bool largest)
{
    v_transpose(a);
    LGV_UNROLL
    for (int half = VL / 2; half > 0; half /= 2)
        for (int i = 0; i < half; i++)
            a[i] = largest ? v_max(a[i], a[i + half]) : v_add(a[i], a[i + half]);
    return a[0];
}

/* VL rows of scores become weights 2^(scale2 s - max) in bf16, where scale2 = scale log2 e; max and total of each row go
   on from earlier chunks, whose sums shrink by shrink. */
LGV_FOLD void softmax_group(float scale2, const float *s, int64_t blocks, uint16_t *p, float *max,
                            float *total, float *shrink)
{
    enum { VECTORS = BLOCK / VL };
    const vreal scale = v_set1(scale2), old = v_load(max);
    vreal each[VL];
    for (int64_t row = 0; row < VL; row++) {
        vreal largest = v_set1(-INFINITY);
        for (int64_t b = 0; b < blocks; b++) LGV_UNROLL
        for (int64_t i = 0; i < VECTORS; i++)
            largest = v_max(largest, v_load(s + b * BLOCK_ELEMENTS + row * BLOCK_COLUMNS + i * VL));
        each[row] = largest;
    }
    const vreal top = v_max(old, v_mul(scale, total_of_each(each, true))),
                smaller = v_exp2_rough(v_sub(old, top));
    v_store(max, top);
    v_store(shrink, smaller);
    for (int64_t row = 0; row < VL; row++) {
        const vreal m = v_set1(max[row]);
        vreal sum[VECTORS];
        LGV_UNROLL
        for (int64_t i = 0; i < VECTORS; i++) sum[i] = v_zero();
        for (int64_t b = 0; b < blocks; b++) {
            vreal e[VECTORS];
            LGV_UNROLL
            for (int64_t i = 0; i < VECTORS; i++) {
                vreal x = v_load(s + b * BLOCK_ELEMENTS + row * BLOCK_COLUMNS + i * VL);
                e[i] = v_exp2_rough(v_sub(v_mul(scale, x), m));
                sum[i] = v_add(sum[i], e[i]);
            }
            store_row(p + row * KEYS + b * BLOCK, e);
        }
        each[row] = sum[0];
        LGV_UNROLL
        for (int64_t i = 1; i < VECTORS; i++) each[row] = v_add(each[row], sum[i]);
    }
    v_store(total, v_fma(v_load(total), smaller, total_of_each(each, false)));
}

static void softmax_rows(const pass *p, int64_t chunk, int64_t row)
{
    const run *r = p->r;
    const int64_t count = chunk_token_blocks(p, chunk), k = chunk % 2,
                  at = chunk_row_block(p, chunk) * BLOCK + row;
    const float scale2 = r->scale * LOG2_E;
    float *s = p->s.s[k];
    if (row == 0) mask_scores(s, count, r->k.length - chunk_token_block(p, chunk) * BLOCK);
    if (count == KEY_BLOCKS)
        softmax_group(scale2, s + row * BLOCK_COLUMNS, KEY_BLOCKS, p->s.p[k] + row * KEYS,
                      p->s.max + at, p->s.total + at, p->s.shrink + row);
    else
        softmax_group(scale2, s + row * BLOCK_COLUMNS, count, p->s.p[k] + row * KEYS, p->s.max + at,
                      p->s.total + at, p->s.shrink + row);
}

/* The blocks of rows of a task, out of all of t. */
static pass start_pass(const run *r, const tokens *mine, const tokens *others, int64_t task,
                       int thread)
{
    const int64_t tasks = lgv_ceil_div(blocks_of(mine), TASK_BLOCKS);
    pass p = {.r = r, .copy = task / tasks, .first = task % tasks * TASK_BLOCKS};
    p.s = scratch_of(r, thread);
    p.blocks = lgv_min_i64(TASK_BLOCKS, blocks_of(mine) - p.first);
    p.others = blocks_of(others);
    return p;
}

static void load_blocks(const pass *p, const tokens *t, uint16_t *left)
{
    for (int64_t i = 0; i < p->blocks; i++)
        load_left(p->r, t, p->copy, (p->first + i) * BLOCK, left + i * BLOCK * p->r->width);
}

/* factor: of each row, NULL: 1. */
static void store_blocks(const pass *p, const tokens *t, const float *sum, const float *factor)
{
    for (int64_t i = 0; i < p->blocks; i++)
        store_tokens(p->r, t, p->copy, (p->first + i) * BLOCK, sum + i * BLOCK * p->r->width,
                     factor ? factor + i * BLOCK : NULL);
}

static void forward_task(void *arg, int64_t task, int thread)
{
    const run *r = arg;
    pass p = start_pass(r, &r->q, &r->k, task, thread);
    p.s.s[1] = p.s.s[0]; /* one buffer for all chunks stays in L1 */
    p.s.p[1] = p.s.p[0];
    p.score[0] = (score_product){p.s.left, &r->pack_k, p.s.s};
    p.sum[0] = (sum_product){p.s.p, &r->pack_v, p.s.sum, p.s.shrink};
    p.scores = p.sums = 1;
    p.weights = softmax_rows;
    load_blocks(&p, &r->q, p.s.left);
    for (int64_t i = 0; i < p.blocks * BLOCK; i++) {
        p.s.max[i] = -INFINITY;
        p.s.total[i] = 0;
    }
    run_in_turn(&p);
    float *lse =
        r->lse ? r->lse + p.copy / r->heads * r->lse_n + p.copy % r->heads * r->lse_head : NULL;
    for (int64_t i = 0; i < p.blocks * BLOCK; i++) {
        int64_t l = p.first * BLOCK + i;
        if (lse && l < r->q.length) lse[l] = p.s.max[i] / LOG2_E + r_log(p.s.total[i]);
        p.s.total[i] = 1 / p.s.total[i];
    }
    store_blocks(&p, &r->y, p.s.sum, p.s.total);
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
    pack_all(c, &r, (const pack *[]){&r.pack_k, &r.pack_v}, 2);
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
            w[i] = v_exp2_rough(v_sub(v_mul(scale2, v_load(s + i * VL)), l));
            g[i] = v_mul(v_mul(w[i], v_sub(v_load(dp + i * VL), d)), scale);
        }
        store_row(p + b * BLOCK, w);
        store_row(ds + b * BLOCK, g);
    }
}

static void grad_q_rows(const pass *p, int64_t chunk, int64_t row)
{
    const run *r = p->r;
    const int64_t count = chunk_token_blocks(p, chunk), k = chunk % 2;
    const int64_t at = p->copy * r->padded_queries + (p->first + chunk_row_block(p, chunk)) * BLOCK;
    if (row == 0) mask_scores(p->s.s[k], count, r->k.length - chunk_token_block(p, chunk) * BLOCK);
    for (int64_t i = row; i < row + GROUP_ROWS; i++)
        grad_row(r, false, p->s.s[k] + i * BLOCK_COLUMNS, p->s.s2[k] + i * BLOCK_COLUMNS, count,
                 r->lse_padded + at + i, r->delta + at + i, p->s.p[k] + i * KEYS,
                 p->s.p2[k] + i * KEYS);
}

/* dq of a task's queries: over all keys. */
static void grad_q_task(void *arg, int64_t task, int thread)
{
    const run *r = arg;
    pass p = start_pass(r, &r->q, &r->k, task, thread);
    p.score[0] = (score_product){p.s.left, &r->pack_k, p.s.s};
    p.score[1] = (score_product){p.s.left2, &r->pack_v, p.s.s2};
    p.sum[0] = (sum_product){p.s.p2, &r->pack_k, p.s.sum, NULL};
    p.scores = 2;
    p.sums = 1;
    p.weights = grad_q_rows;
    load_blocks(&p, &r->q, p.s.left);
    load_blocks(&p, &r->dy, p.s.left2);
    run_side_by_side(&p);
    store_blocks(&p, &r->dq, p.s.sum, NULL);
}

static void grad_kv_rows(const pass *p, int64_t chunk, int64_t row)
{
    const run *r = p->r;
    const int64_t k = chunk % 2,
                  at = p->copy * r->padded_queries + chunk_token_block(p, chunk) * BLOCK;
    for (int64_t i = row; i < row + GROUP_ROWS; i++)
        grad_row(r, true, p->s.s[k] + i * BLOCK_COLUMNS, p->s.s2[k] + i * BLOCK_COLUMNS,
                 chunk_token_blocks(p, chunk), r->lse_padded + at, r->delta + at,
                 p->s.p[k] + i * KEYS, p->s.p2[k] + i * KEYS);
}

/* dk and dv of a task's keys: over all queries. */
static void grad_kv_task(void *arg, int64_t task, int thread)
{
    const run *r = arg;
    pass p = start_pass(r, &r->k, &r->q, task, thread);
    p.score[0] = (score_product){p.s.left, &r->pack_q, p.s.s};
    p.score[1] = (score_product){p.s.left2, &r->pack_dy, p.s.s2};
    p.sum[0] = (sum_product){p.s.p2, &r->pack_q, p.s.sum, NULL};
    p.sum[1] = (sum_product){p.s.p, &r->pack_dy, p.s.sum2, NULL};
    p.scores = p.sums = 2;
    p.weights = grad_kv_rows;
    load_blocks(&p, &r->k, p.s.left);
    load_blocks(&p, &r->v, p.s.left2);
    run_side_by_side(&p);
    if (r->dk.data) store_blocks(&p, &r->dk, p.s.sum, NULL);
    if (r->dv.data) store_blocks(&p, &r->dv, p.s.sum2, NULL);
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
    pack_all(c, &r, (const pack *[]){&r.pack_q, &r.pack_dy, &r.pack_k, &r.pack_v}, 4);
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
