/* amx_pack.c - weights as right operands of the block product (amx_product.h), f32 to bf16.
   Training packs every weight twice a step, so the common case (dense weights, whole steps of channels) goes
   through a transposed copy in L1: rows are read once, in order, the next ones fetched meanwhile. */
#include "amx_conv.h"

enum {
    FAST_WINDOW = 9,
    SIDE = TILE_BF16, /* inner rows of a part: all taps of 32 channels */
    PARTS = 4,        /* of a task */
    TURNED = (SIDE * FAST_WINDOW + TILE_ROWS) * TILE_F32
};

typedef struct pack_run {
    const amx_weights *w;
    uint16_t *to;
    int64_t block_stride, channel_steps;
    int64_t all, parts, tasks; /* of a block: parts (else steps), those of a task, tasks */
    bool fast;
} pack_run;

/* One step (32 inner rows) of the block of columns o0.., any layout. */
static void pack_step(const amx_weights *w, int64_t o0, int64_t step, uint16_t *to)
{
    int64_t columns = lgv_min_i64(BLOCK_COLUMNS, w->columns - o0);
    memset(to, 0, STEP_BYTES);
    for (int64_t row = 0; row < TILE_BF16; row++) {
        int64_t inner = step * TILE_BF16 + row, t, c;
        if (w->gathered) {
            t = inner / w->channels;
            c = inner % w->channels;
        } else {
            t = step % w->taps;
            c = step / w->taps * TILE_BF16 + row;
        }
        if (t >= w->taps || c >= w->channels) continue;
        const float *from = w->w + o0 * w->so + c * w->sc + w->place[t];
        uint16_t *line = to + row / 2 * TILE_BF16 + row % 2;
        for (int64_t o = 0; o < columns; o++)
            line[o / TILE_F32 * TILE_ELEMENTS + o % TILE_F32 * 2] = real_to_bf16(from[o * w->so]);
    }
}

static void fetch(const float *p, int64_t n)
{
    for (int64_t i = 0; i < n; i += 16) __builtin_prefetch(p + i, 0, 2);
}

/* to[i][column], i < SIDE * window, from rows that are one column's channels and taps; next: floats to the part
   that comes after this one. */
static void turn_columns(const float *from, int64_t stride, int window, int64_t next, float *to)
{
    for (int64_t i = 0; i < SIDE * window; i += TILE_ROWS, from += TILE_ROWS, to += 16 * TILE_F32) {
        for (int k = 0; k < TILE_F32; k++) fetch(from + k * stride + next, TILE_ROWS);
        transpose16(from, stride, to, TILE_F32);
    }
}

/* The same from rows that are one channel's columns and taps. */
static void turn_taps(const float *from, int64_t stride, int window, int64_t next, float *to)
{
    float row[TILE_F32 * FAST_WINDOW + TILE_ROWS] = {
        0}; /* the last rows are read beyond their end */
    const int64_t length = TILE_F32 * window;
    for (int k = 0; k < SIDE; k++, from += stride, to += length) {
        fetch(from + next, length);
        memcpy(row, from, (size_t)length * sizeof *row);
        transpose16(row, window, to, TILE_F32);
    }
}

/* 16 columns of all taps of 32 channels from c0 on, from turned[channel][tap][column]. */
static void pack_half(const pack_run *r, const float *turned, int64_t c0, int64_t half,
                      uint16_t *block)
{
    const amx_weights *w = r->w;
    for (int t = 0; t < w->taps; t++) {
        int64_t step =
            w->gathered ? t * r->channel_steps + c0 / TILE_BF16 : c0 / TILE_BF16 * w->taps + t;
        uint16_t *to = block + step * STEP_ELEMENTS + half * TILE_ELEMENTS;
        const float *from = turned + w->place[t] * TILE_F32;
        const int64_t channel = w->window * TILE_F32;
        for (int p = 0; p < TILE_ROWS; p++, to += TILE_BF16, from += 2 * channel)
            store_pairs(to, from, from + channel);
    }
}

/* One tap, rows are one column's channels: rounded first, then pairs of channels turned. */
static void pack_one_columns(const float *from, int64_t stride, int64_t next, uint16_t *tile)
{
    uint32_t pairs[TILE_ROWS][TILE_F32];
    for (int k = 0; k < TILE_F32; k++, from += stride) {
        vreal v[SIDE / VL];
        fetch(from + next, SIDE);
        LGV_UNROLL
        for (int i = 0; i < SIDE / VL; i++) v[i] = v_load(from + i * VL);
        store_row((uint16_t *)(void *)pairs[k], v);
    }
    transpose16(pairs, TILE_F32, tile, TILE_F32);
}

/* One tap, rows are one channel's columns. */
static void pack_one_rows(const float *from, int64_t stride, int64_t next, uint16_t *tile)
{
    for (int p = 0; p < TILE_ROWS; p++, from += 2 * stride, tile += TILE_BF16) {
        fetch(from + next, TILE_F32);
        fetch(from + stride + next, TILE_F32);
        store_pairs(tile, from, from + stride);
    }
}

static void pack_one(const pack_run *r, int64_t o0, int64_t c0, bool more, uint16_t *block)
{
    const amx_weights *w = r->w;
    uint16_t *to = block + c0 / TILE_BF16 * STEP_ELEMENTS;
    const int64_t next = more ? SIDE * w->sc : 0;
    for (int64_t o = o0; o < o0 + BLOCK_COLUMNS; o += TILE_F32, to += TILE_ELEMENTS) {
        const float *from = w->w + o * w->so + c0 * w->sc;
        if (o >= w->columns)
            memset(to, 0, TILE_ELEMENTS * sizeof *to);
        else if (w->sc == 1)
            pack_one_columns(from, w->so, next, to);
        else
            pack_one_rows(from, w->sc, next, to);
    }
}

/* c0: the part's first channel; more: another part follows. */
static void pack_part(const pack_run *r, int64_t o0, int64_t c0, bool more, uint16_t *block)
{
    const amx_weights *w = r->w;
    _Alignas(64) float turned[TURNED];
    for (int64_t half = 0; half < 2; half++) {
        const float *from = w->w + (o0 + half * TILE_F32) * w->so + c0 * w->sc;
        if (o0 + half * TILE_F32 >= w->columns)
            memset(turned, 0, sizeof turned);
        else if (w->sc == w->window)
            turn_columns(from, w->so, (int)w->window, more ? SIDE * w->sc : 0, turned);
        else
            turn_taps(from, w->sc, (int)w->window, more ? SIDE * w->sc : 0, turned);
        pack_half(r, turned, c0, half, block);
    }
}

static void pack_task(void *arg, int64_t task, int thread)
{
    const pack_run *r = arg;
    int64_t block = task / r->tasks, first = task % r->tasks * r->parts,
            last = lgv_min_i64(first + r->parts, r->all);
    uint16_t *to = r->to + block * r->block_stride;
    for (int64_t i = first; i < last; i++) {
        if (r->fast && r->w->window == 1)
            pack_one(r, block * BLOCK_COLUMNS, i * SIDE, i + 1 < last, to);
        else if (r->fast)
            pack_part(r, block * BLOCK_COLUMNS, i * SIDE, i + 1 < last, to);
        else
            pack_step(r->w, block * BLOCK_COLUMNS, i, to + i * STEP_ELEMENTS);
    }
}

void amx_pack_weights(const lgv_call *c, const amx_weights *w, uint16_t *to, int64_t block_stride)
{
    pack_run r = {.w = w, .to = to, .block_stride = block_stride};
    r.channel_steps = w->channels / TILE_BF16;
    bool dense = w->sc == w->window || (w->so == w->window && w->sc % w->window == 0);
    r.fast = dense && w->window <= FAST_WINDOW && w->channels % TILE_BF16 == 0 &&
             w->columns % TILE_F32 == 0;
    r.all = r.fast ? r.channel_steps : w->steps;
    r.parts = r.fast ? PARTS : 1;
    r.tasks = lgv_ceil_div(r.all, r.parts);
    lgv_parallel(c, lgv_ceil_div(w->columns, BLOCK_COLUMNS) * r.tasks, pack_task, &r);
}
