/* amx_peak.c - what the tiles do at best: products of tiles that stay in their registers. */
#include "cpu/peak.h"
#include "tile.h"

static double tile_loop(int64_t rounds)
{
    tiles s;
    uint16_t ones[TILE_ELEMENTS];
    float sum[TILE_ROWS * TILE_F32];
    for (int i = 0; i < TILE_ELEMENTS; i++) ones[i] = real_to_bf16(1);
    tile_begin(&s);
    tile_memory_ready();
    tile_zero(&s, 0);
    tile_zero(&s, 1);
    tile_zero(&s, 2);
    tile_zero(&s, 3);
    tile_load(&s, 4, ones, TILE_BYTES);
    tile_load(&s, 5, ones, TILE_BYTES);
    tile_load(&s, 6, ones, TILE_BYTES);
    tile_load(&s, 7, ones, TILE_BYTES);
    for (int64_t i = 0; i < rounds; i++) {
        tile_dot(&s, 0, 4, 6);
        tile_dot(&s, 1, 4, 7);
        tile_dot(&s, 2, 5, 6);
        tile_dot(&s, 3, 5, 7);
    }
    tile_store(&s, 0, sum, TILE_BYTES);
    tile_end(&s);
    return (double)sum[0];
}

extern const lgv_peak_loops LGV_TABLE(amx_peak);
const lgv_peak_loops LGV_TABLE(amx_peak) = {
    .matrix = tile_loop, .matrix_flops = 4.0 * 2 * TILE_ROWS * TILE_F32 * TILE_BF16};
