/* attention_tiles.h - the parts that attention_tiled.c and attention_tiled_grad.c are made of.
   One side of the score matrix lies in the lanes of LANE_VECTORS vectors (queries in the forward pass, keys in
   the gradient), the other streams past as rows. So the softmax of a query never crosses lanes, scores
   come out of one product in the order the next wants them, and only the lane side is ever transposed. */
#ifndef LGV_ATTENTION_TILES_H
#define LGV_ATTENTION_TILES_H

#include "attention.h"

/* A tile of the products is LANE_ROWS x LANE_VECTORS vectors of sums, or any other rows x vectors that
   makes TILE_SUMS. */
#if LGV_VECTOR == 16
enum { LANE_ROWS = 8 };
#else
enum { LANE_ROWS = 4 };
#endif
enum {
    LANE_VECTORS = 3,
    LANES = LANE_VECTORS * VL,
    TILE_SUMS = LANE_ROWS * LANE_VECTORS,
    STREAM = 96, /* rows that stream past at a time, at most */
    LINE = 64 / sizeof(real)
};

#define attention_lane_product         LGV_AT(lgv_attention_lane_product)
#define attention_row_product          LGV_AT(lgv_attention_row_product)
#define attention_copy_rows            LGV_AT(lgv_attention_copy_rows)
#define attention_load_lanes           LGV_AT(lgv_attention_load_lanes)
#define attention_store_lanes          LGV_AT(lgv_attention_store_lanes)
#define attention_tiled                LGV_AT(lgv_attention_tiled)
#define attention_tiled_workspace      LGV_AT(lgv_attention_tiled_workspace)
#define attention_tiled_grad           LGV_AT(lgv_attention_tiled_grad)
#define attention_tiled_grad_workspace LGV_AT(lgv_attention_tiled_grad_workspace)
size_t attention_tiled_workspace(const lgv_call *c);
void attention_tiled(const lgv_call *c);
size_t attention_tiled_grad_workspace(const lgv_call *c);
void attention_tiled_grad(const lgv_call *c);

/* The left matrix of a product: element (row r, inner k) at p + r*row + k*inner. */
typedef struct left {
    const real *p;
    int64_t row, inner;
} left;

/* y[rows][LANES] (+)= a b[count][LANES], nv vectors of each row. Rows are computed up to a multiple of
   LANE_ROWS: a must be readable and y have room. */
void attention_lane_product(int nv, left a, int64_t rows, int64_t count, const real *b, real *y,
                            bool add);

/* y[rows][width] += a b[count][width], rows ld apart, width a multiple of VL. Rows are computed up to a
   multiple of TILE_SUMS. */
void attention_row_product(left a, int64_t rows, int64_t count, const real *b, real *y,
                           int64_t width, int64_t ld);

/* Channels [offset, offset+d) of tokens [first, first+m), times factor, into rows ld apart; zeros in the rest
   of the row and in rows up to `filled`. */
void attention_copy_rows(const tokens *x, int64_t n, int64_t first, int64_t m, int64_t filled,
                         int64_t offset, int64_t d, real factor, real *to, int64_t ld);

/* The same as [channel][LANES]: token first+i in lane i; zeros in lanes m and on. Room for whole blocks of VL
   channels. */
void attention_load_lanes(const tokens *x, int64_t n, int64_t first, int64_t m, int64_t offset,
                          int64_t d, real factor, real *to);

/* The reverse: lane i times factor[i] becomes token first+i. from has room for whole blocks of VL channels. */
void attention_store_lanes(const real *from, const real *factor, const tokens *y, int64_t n,
                           int64_t first, int64_t m, int64_t offset, int64_t d);

/* Elements of a row of d channels in the scratch; long rows are kept off each other's cache sets. */
static inline int64_t attention_ld(int64_t d)
{
    int64_t unit = lgv_max_i64(VL, LANE_ROWS), ld = lgv_ceil_div(d, unit) * unit;
    return ld >= 128 && ld % (2 * LINE) == 0 ? ld + LINE : ld;
}

/* Rows streamed at a time: about 64 KiB. A function of d alone, because it groups the sums. */
static inline int64_t attention_stream(int64_t d)
{
    return lgv_max_i64(1, lgv_min_i64(STREAM, 16384 / d) / TILE_SUMS) * TILE_SUMS;
}

/* Vectors that hold m of the lanes. */
static inline int attention_vectors(int64_t m)
{
    return (int)lgv_min_i64(LANE_VECTORS, lgv_ceil_div(m, VL));
}

/* Elements of a part of the scratch, whole cache lines. */
static inline int64_t attention_room(int64_t elements)
{
    return lgv_ceil_div(elements, LINE) * LINE;
}
static inline real *attention_take(real **p, int64_t elements)
{
    real *q = *p;
    *p += attention_room(elements);
    return q;
}

static const real log2_e = (real)1.44269504088896340736, ln_2 = (real)0.69314718055994530942;

#endif
