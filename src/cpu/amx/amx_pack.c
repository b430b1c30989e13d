/* amx_pack.c - weights as right operands of the block product (amx_product.h), f32 to bf16.
   Training packs every weight twice a step, so the common case (dense weights, whole steps of channels)
   goes through a copy in bf16 that fits L1: long rows are read once, in order. */
#include "amx_conv.h"

enum { FAST_WINDOW = 9, SIDE = 32 };

typedef struct pack_run {
    const amx_weights *w;
    uint16_t *to;
    int64_t block_stride, channel_steps;
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

/* rows[SIDE][length] in bf16 from rows `stride` apart. */
static void copy_rows(const float *from, int64_t stride, int64_t rows, int64_t length, uint16_t *to)
{
    for (int64_t i = 0; i < rows; i++, from += stride, to += length)
        for (int64_t k = 0; k < length; k += VL) v_store_bf16(to + k, v_load(from + k));
}

/* All taps of 32 channels from c0 on; o and c say how far apart columns and channels are in `square`. */
static void pack_square(const pack_run *r, const uint16_t *square, int64_t o, int64_t c,
                        int64_t columns, int64_t c0, uint16_t *block)
{
    const amx_weights *w = r->w;
    for (int t = 0; t < w->taps; t++) {
        int64_t step =
            w->gathered ? t * r->channel_steps + c0 / TILE_BF16 : c0 / TILE_BF16 * w->taps + t;
        uint32_t *to = (uint32_t *)(void *)(block + step * STEP_ELEMENTS);
        for (int64_t half = 0; half < 2; half++)
            for (int64_t p = 0; p < TILE_ROWS; p++, to += TILE_F32) {
                const uint16_t *from = square + w->place[t] + 2 * p * c + half * TILE_F32 * o;
                int64_t n = lgv_min_i64(TILE_F32, columns - half * TILE_F32);
                for (int64_t q = 0; q < n; q++)
                    to[q] = from[q * o] | (uint32_t)from[q * o + c] << 16;
                for (int64_t q = lgv_max_i64(n, 0); q < TILE_F32; q++) to[q] = 0;
            }
    }
}

static void pack_fast(const pack_run *r, int64_t o0, int64_t c0, uint16_t *block)
{
    const amx_weights *w = r->w;
    uint16_t square[SIDE * SIDE * FAST_WINDOW];
    const float *from = w->w + o0 * w->so + c0 * w->sc;
    int64_t columns = lgv_min_i64(BLOCK_COLUMNS, w->columns - o0);
    if (w->sc == w->window) { /* a row is one output's channels and taps */
        copy_rows(from, w->so, columns, SIDE * w->window, square);
        pack_square(r, square, SIDE * w->window, w->window, columns, c0, block);
    } else {
        copy_rows(from, w->sc, SIDE, columns * w->window, square);
        pack_square(r, square, w->window, columns * w->window, columns, c0, block);
    }
}

static void pack_task(void *arg, int64_t task, int thread)
{
    const pack_run *r = arg;
    const amx_weights *w = r->w;
    int64_t parts = r->fast ? r->channel_steps : w->steps;
    int64_t block = task / parts, part = task % parts;
    uint16_t *to = r->to + block * r->block_stride;
    if (r->fast)
        pack_fast(r, block * BLOCK_COLUMNS, part * TILE_BF16, to);
    else
        pack_step(w, block * BLOCK_COLUMNS, part, to + part * STEP_ELEMENTS);
}

void amx_pack_weights(const lgv_call *c, const amx_weights *w, uint16_t *to, int64_t block_stride)
{
    pack_run r = {w, to, block_stride, w->channels / TILE_BF16, false};
    bool dense = w->sc == w->window || (w->so == w->window && w->columns % BLOCK_COLUMNS == 0);
    r.fast = dense && w->window <= FAST_WINDOW && w->channels % TILE_BF16 == 0;
    lgv_parallel(c, lgv_ceil_div(w->columns, BLOCK_COLUMNS) * (r.fast ? r.channel_steps : w->steps),
                 pack_task, &r);
}
