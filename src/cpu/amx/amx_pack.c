/* amx_pack.c - weights as right operands of the block product (amx_product.h), f32 to bf16. */
#include "amx_conv.h"

typedef struct pack_run {
    const amx_weights *w;
    uint16_t *to;
    int64_t block_stride;
} pack_run;

/* One step (32 inner rows) of the block of columns o0.. . */
static void pack_step(const amx_weights *w, int64_t o0, int64_t step, uint16_t *to)
{
    int64_t columns = lgv_min_i64(BLOCK_COLUMNS, w->columns - o0);
    memset(to, 0, STEP_BYTES);
    for (int64_t row = 0; row < TILE_BF16; row++) {
        int64_t t = (step * TILE_BF16 + row) / w->pitch, c = (step * TILE_BF16 + row) % w->pitch;
        if (t >= w->taps || c >= w->channels) continue;
        const float *from = w->w + o0 * w->so + c * w->sc + w->place[t];
        uint16_t *line = to + row / 2 * TILE_BF16 + row % 2;
        for (int64_t o = 0; o < columns; o++)
            line[o / TILE_F32 * TILE_ELEMENTS + o % TILE_F32 * 2] = real_to_bf16(from[o * w->so]);
    }
}

static void pack_block(void *arg, int64_t task, int thread)
{
    const pack_run *r = arg;
    int64_t block = task / r->w->steps, step = task % r->w->steps;
    pack_step(r->w, block * BLOCK_COLUMNS, step,
              r->to + block * r->block_stride + step * STEP_ELEMENTS);
}

void amx_pack_weights(const lgv_call *c, const amx_weights *w, uint16_t *to, int64_t block_stride)
{
    pack_run r = {w, to, block_stride};
    lgv_parallel(c, lgv_ceil_div(w->columns, BLOCK_COLUMNS) * w->steps, pack_block, &r);
}
