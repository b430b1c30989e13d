/* attention_tiles.c - products, copies and transposes of small blocks for tiled attention. */
#include "attention_tiles.h"

/* y[rows][nv*VL] (+)= a b; rows and nv are constants. Sums of one call start at zero, so that a long sum is
   one of partial sums. */
LGV_FOLD void tile(int rows, int nv, left a, int64_t count, const real *b, int64_t b_row, real *y,
                   int64_t y_row, bool add)
{
    vreal sum[TILE_SUMS][LANE_VECTORS];
    LGV_UNROLL
    for (int r = 0; r < rows; r++) {
        LGV_UNROLL
        for (int v = 0; v < nv; v++) sum[r][v] = v_zero();
    }
    const real *p = a.p;
    for (int64_t k = 0; k < count; k++, p += a.inner, b += b_row) {
        vreal column[LANE_VECTORS];
        LGV_UNROLL
        for (int v = 0; v < nv; v++) column[v] = v_load(b + v * VL);
        LGV_UNROLL
        for (int r = 0; r < rows; r++) {
            vreal x = v_set1(p[r * a.row]);
            LGV_UNROLL
            for (int v = 0; v < nv; v++) sum[r][v] = v_fma(x, column[v], sum[r][v]);
        }
    }
    LGV_UNROLL
    for (int r = 0; r < rows; r++) {
        LGV_UNROLL
        for (int v = 0; v < nv; v++) {
            real *to = y + r * y_row + v * VL;
            v_store(to, add ? v_add(v_load(to), sum[r][v]) : sum[r][v]);
        }
    }
}

/* One of the strides of a is 1: tokens as rows, or channels as rows. */
LGV_FOLD void lane_tile(int nv, left a, int64_t count, const real *b, real *y, bool add)
{
    if (a.inner == 1)
        tile(LANE_ROWS, nv, (left){a.p, a.row, 1}, count, b, LANES, y, LANES, add);
    else
        tile(LANE_ROWS, nv, (left){a.p, 1, a.inner}, count, b, LANES, y, LANES, add);
}

void attention_lane_product(int nv, left a, int64_t rows, int64_t count, const real *b, real *y,
                            bool add)
{
    for (int64_t r = 0; r < rows; r += LANE_ROWS, a.p += LANE_ROWS * a.row, y += LANE_ROWS * LANES)
        switch (nv) {
        case 1: lane_tile(1, a, count, b, y, add); break;
        case 2: lane_tile(2, a, count, b, y, add); break;
        default: lane_tile(3, a, count, b, y, add); break;
        }
}

LGV_FOLD void row_tiles(int nv, left a, int64_t rows, int64_t count, const real *b, real *y,
                        int64_t ld)
{
    const int height = TILE_SUMS / nv;
    for (int64_t r = 0; r < rows; r += height)
        tile(height, nv, (left){a.p + r * LANES, LANES, 1}, count, b, ld, y + r * ld, ld, true);
}

void attention_row_product(left a, int64_t rows, int64_t count, const real *b, real *y,
                           int64_t width, int64_t ld)
{
    for (int64_t left_over = width / VL; left_over > 0;) {
        int nv = left_over == 1 ? 1 : left_over == 2 || left_over == 4 ? 2 : 3;
        switch (nv) {
        case 1: row_tiles(1, a, rows, count, b, y, ld); break;
        case 2: row_tiles(2, a, rows, count, b, y, ld); break;
        default: row_tiles(3, a, rows, count, b, y, ld); break;
        }
        left_over -= nv;
        b += nv * VL;
        y += nv * VL;
    }
}

void attention_copy_rows(const tokens *x, int64_t n, int64_t first, int64_t m, int64_t filled,
                         int64_t offset, int64_t d, real factor, real *to, int64_t ld)
{
    const vreal f = v_set1(factor);
    for (int64_t i = 0; i < m; i++, to += ld) {
        const real *from = token(x, n, first + i, offset);
        int64_t c = 0;
        for (; c + VL <= d; c += VL) v_store(to + c, v_mul(f, v_load(from + c)));
        for (; c < ld; c += VL)
            v_store(to + c, c < d ? v_mul(f, v_load_n(from + c, d - c)) : v_zero());
    }
    for (int64_t i = m; i < filled; i++, to += ld) memset(to, 0, (size_t)ld * sizeof(real));
}

void attention_load_lanes(const tokens *x, int64_t n, int64_t first, int64_t m, int64_t offset,
                          int64_t d, real factor, real *to)
{
    const vreal f = v_set1(factor);
    for (int64_t i = 0; i < LANES; i += VL) {
        const real *row[VL];
        for (int r = 0; r < VL; r++) row[r] = i + r < m ? token(x, n, first + i + r, offset) : NULL;
        for (int64_t c = 0; c < d; c += VL) {
            vreal a[VL];
            LGV_UNROLL
            for (int r = 0; r < VL; r++)
                a[r] = !row[r]       ? v_zero()
                       : d - c >= VL ? v_load(row[r] + c)
                                     : v_load_n(row[r] + c, d - c);
            v_transpose(a);
            LGV_UNROLL
            for (int r = 0; r < VL; r++) v_store(to + (c + r) * LANES + i, v_mul(f, a[r]));
        }
    }
}

void attention_store_lanes(const real *from, const real *factor, const tokens *y, int64_t n,
                           int64_t first, int64_t m, int64_t offset, int64_t d)
{
    for (int64_t i = 0; i < m; i += VL) {
        const vreal f = v_load(factor + i);
        real *row[VL] = {0};
        for (int r = 0; r < VL && i + r < m; r++) row[r] = token(y, n, first + i + r, offset);
        for (int64_t c = 0; c < d; c += VL) {
            vreal a[VL];
            LGV_UNROLL
            for (int r = 0; r < VL; r++) a[r] = v_mul(f, v_load(from + (c + r) * LANES + i));
            v_transpose(a);
            for (int r = 0; r < VL && i + r < m; r++) {
                if (d - c >= VL)
                    v_store(row[r] + c, a[r]);
                else
                    v_store_n(row[r] + c, a[r], d - c);
            }
        }
    }
}
