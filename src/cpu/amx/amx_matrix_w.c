/* amx_matrix_w.c - the gradient for weights in bf16 where x and dy are matrices (linear layers, 1x1 windows):
   dw[k, c] = sum over positions of dy[., k] x[., c].
   A band of positions at a time. The narrower of dy and x becomes operands in shared memory first, by all threads; then
   each task makes operands of a group of columns of the other, which stay in its L2, and multiplies them with all of
   the shared ones. So either is read once from where it lies, and sums go straight from tiles to dw. They run over
   positions in order, whatever the band and the task. */
#include "amx_conv.h"

enum {
    BAND_STEPS = 32, /* of 32 positions */
    GROUP = 8        /* blocks of 32 columns of a task, at most: 512 KB */
};

/* dy as left operand, a block's tiles being rows of 32 outputs, or x as right operand. */
typedef struct operand {
    const uint16_t *from;
    int64_t ld, columns, blocks; /* ld: elements from one position to the next */
    bool left;
} operand;

typedef struct run {
    operand shared, other;
    int64_t positions;
    float *dw;
    int64_t ld;
    bool accumulate;
    int64_t groups, group; /* tasks, and blocks of each */
    int64_t first, steps;  /* of the band: its first position, steps of 32 */
    uint16_t *packed; /* of the shared operand: [block][step][2 tiles]; then each thread's group */
    int64_t packed_size, group_size;
} run;

static const uint16_t zeros[BLOCK_COLUMNS];

static run describe(const lgv_call *c, bool *matrices)
{
    conv_problem p = conv_describe(c);
    run r = {.dw = p.wd, .ld = p.ws[0], .accumulate = c->accumulate};
    operand x = {.from = (const uint16_t *)p.xd, .columns = p.x.c},
            dy = {.from = (const uint16_t *)p.yd, .columns = p.y.c, .left = true};
    *matrices = p.kh * p.kw == 1 && p.stride == 1 && !p.top && !p.left && p.ws[1] == 1 &&
                p.x.h == p.y.h && p.x.w == p.y.w && lgv_as_matrix(&c->in[0], &r.positions, &x.ld) &&
                lgv_as_matrix(&c->in[1], &r.positions, &dy.ld);
    x.blocks = lgv_ceil_div(x.columns, BLOCK_COLUMNS);
    dy.blocks = lgv_ceil_div(dy.columns, BLOCK_ROWS);
    r.shared = x.blocks < dy.blocks ? x : dy;
    r.other = x.blocks < dy.blocks ? dy : x;
    const int64_t tasks =
        lgv_max_i64(lgv_ceil_div(r.other.blocks, GROUP), c->threads > 1 ? 2 * c->threads : 1);
    r.group = lgv_ceil_div(r.other.blocks, lgv_ceil_div(tasks, c->threads) * c->threads);
    r.groups = lgv_ceil_div(r.other.blocks, r.group);
    r.steps = lgv_min_i64(BAND_STEPS, lgv_ceil_div(r.positions, TILE_BF16));
    r.packed_size = r.shared.blocks * r.steps * STEP_ELEMENTS;
    r.group_size = r.group * r.steps * STEP_ELEMENTS;
    return r;
}

/* --- Operands --------------------------------------------------------------------------------------- */
/* Columns [i, i+16) of a position; zeros for what does not exist. */
static inline const uint16_t *row_at(const operand *o, int64_t position, int64_t end, int64_t i)
{
    return position < end ? o->from + position * o->ld + i : zeros;
}

/* Columns of blocks [b0, b1) at a step's positions; the next step's are fetched meanwhile. */
static void pack_step(const run *r, const operand *o, int64_t b0, int64_t b1, int64_t step,
                      uint16_t *to)
{
    uint32_t pairs[TILE_ROWS][TILE_F32];
    const int64_t q = r->first + step * TILE_BF16, end = r->positions;
    to += step * STEP_ELEMENTS;
    for (int64_t i = b0 * BLOCK_COLUMNS; i < b1 * BLOCK_COLUMNS; i += TILE_F32) {
        const int64_t half = i / TILE_F32 % 2, ahead = q + TILE_BF16 + half * TILE_ROWS;
        uint16_t *tile = to + half * TILE_ELEMENTS;
        for (int64_t p = ahead; p < lgv_min_i64(ahead + TILE_ROWS, end); p++)
            __builtin_prefetch(o->from + p * o->ld + (i - half * TILE_F32));
        uint32_t(*rows)[TILE_F32] = o->left ? pairs : (uint32_t(*)[TILE_F32])(void *)tile;
        for (int k = 0; k < TILE_ROWS; k++)
            amx_interleave(row_at(o, q + 2 * k, end, i), row_at(o, q + 2 * k + 1, end, i),
                           o->columns - i, rows[k]);
        if (o->left) transpose16(pairs, TILE_F32, tile, TILE_F32);
        to += half * r->steps * STEP_ELEMENTS;
    }
}

static void pack_task(void *arg, int64_t step, int thread)
{
    const run *r = arg;
    (void)thread;
    pack_step(r, &r->shared, 0, r->shared.blocks, step, r->packed);
}

/* --- Products --------------------------------------------------------------------------------------- */
/* y[32][32] (+)= left times right. */
static void multiply(tiles *s, const uint16_t *a, const uint16_t *b, int64_t steps, bool add,
                     float *y, int64_t ld)
{
    tile_memory_ready();
    sums_begin(s, add, y, ld);
    for (int64_t i = 0; i < steps; i++, a += STEP_ELEMENTS, b += STEP_ELEMENTS) {
        tile_load(s, 4, a, TILE_BYTES);
        tile_load(s, 6, b, TILE_BYTES);
        tile_dot(s, 0, 4, 6);
        tile_load(s, 7, b + TILE_ELEMENTS, TILE_BYTES);
        tile_dot(s, 1, 4, 7);
        tile_load(s, 5, a + TILE_ELEMENTS, TILE_BYTES);
        tile_dot(s, 2, 5, 6);
        tile_dot(s, 3, 5, 7);
    }
    sums_end(s, y, ld);
    tile_memory_ready();
}

/* The same where the block reaches beyond dw. */
static void multiply_edge(tiles *s, const uint16_t *a, const uint16_t *b, int64_t steps, bool add,
                          float *y, int64_t ld, int64_t rows, int64_t columns)
{
    _Alignas(64) float sum[BLOCK_ELEMENTS] = {0};
    for (int64_t i = 0; i < rows && add; i++)
        memcpy(sum + i * BLOCK_COLUMNS, y + i * ld, (size_t)columns * sizeof *y);
    multiply(s, a, b, steps, add, sum, BLOCK_COLUMNS);
    for (int64_t i = 0; i < rows; i++)
        memcpy(y + i * ld, sum + i * BLOCK_COLUMNS, (size_t)columns * sizeof *y);
}

static void multiply_task(void *arg, int64_t task, int thread)
{
    const run *r = arg;
    const operand *dy = r->shared.left ? &r->shared : &r->other,
                  *x = r->shared.left ? &r->other : &r->shared;
    const int64_t b0 = task * r->group, b1 = lgv_min_i64(b0 + r->group, r->other.blocks),
                  size = r->steps * STEP_ELEMENTS;
    uint16_t *group = r->packed + r->packed_size + thread * r->group_size;
    for (int64_t step = 0; step < r->steps; step++) pack_step(r, &r->other, b0, b1, step, group);
    tiles s;
    tile_begin(&s);
    for (int64_t i = 0; i < r->shared.blocks; i++)
        for (int64_t b = b0; b < b1; b++) {
            const uint16_t *one = r->packed + i * size, *two = group + (b - b0) * size;
            const int64_t k = BLOCK_ROWS * (dy == &r->shared ? i : b),
                          c = BLOCK_COLUMNS * (dy == &r->shared ? b : i);
            const uint16_t *left = dy == &r->shared ? one : two,
                           *right = dy == &r->shared ? two : one;
            const int64_t rows = lgv_min_i64(dy->columns - k, BLOCK_ROWS),
                          columns = lgv_min_i64(x->columns - c, BLOCK_COLUMNS);
            const bool add = r->accumulate || r->first > 0;
            float *y = r->dw + k * r->ld + c;
            if (rows == BLOCK_ROWS && columns == BLOCK_COLUMNS)
                multiply(&s, left, right, r->steps, add, y, r->ld);
            else
                multiply_edge(&s, left, right, r->steps, add, y, r->ld, rows, columns);
        }
    tile_end(&s);
}

bool amx_matrix_w_accepts(const lgv_call *c)
{
    bool matrices;
    describe(c, &matrices);
    return matrices;
}

size_t amx_matrix_w_workspace(const lgv_call *c)
{
    bool matrices;
    const run r = describe(c, &matrices);
    return (size_t)(r.packed_size + c->threads * r.group_size) * sizeof(uint16_t);
}

void amx_matrix_w(const lgv_call *c)
{
    bool matrices;
    run r = describe(c, &matrices);
    const int64_t most = r.steps;
    r.packed = c->workspace;
    for (; r.first < r.positions; r.first += most * TILE_BF16) {
        r.steps = lgv_min_i64(most, lgv_ceil_div(r.positions - r.first, TILE_BF16));
        lgv_parallel(c, r.steps, pack_task, &r);
        lgv_parallel(c, r.groups, multiply_task, &r);
    }
}
