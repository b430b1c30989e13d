/* gemm.h - the packed matrix product under convolutions, linear layers and attention.
   A product's left rows are read in place through pointers (an indirect GEMM: for a convolution, one
   pointer per output pixel and tap, so no im2col copy); its right matrix is packed into panels of
   GEMM_NR columns: panel p holds [rows][GEMM_NR], zero filled on the right.
   Each result is one sum in a fixed order (k ascending, one partial sum per block of about GEMM_KC), whatever
   the tile, block or thread that computes it. */
#ifndef LGV_GEMM_H
#define LGV_GEMM_H

#include "conv.h"

#if LGV_VECTOR == 1
enum { GEMM_MR = 3, GEMM_NV = 4, GEMM_KC = 256 };
#elif LGV_VECTOR == 8
enum {
    GEMM_MR = 6,
    GEMM_NV = 2,
    GEMM_KC = 256
}; /* 12 sums of 8; a panel's block fills half of L1 */
#else
enum { GEMM_MR = 6, GEMM_NV = 4, GEMM_KC = 128 }; /* 24 sums of 16 */
#endif
enum {
    GEMM_NR = GEMM_NV * VL,
    GEMM_TILES = 32,
    GEMM_MB = GEMM_TILES * GEMM_MR,
    GEMM_MAX_TAPS = 256
};

/* Where one row of the result goes. */
typedef struct gemm_row {
    real *y;              /* first column */
    const real *residual; /* epilogue; NULL: none */
    int64_t n;            /* batch row, for row[n] and gate[n] */
} gemm_row;

/* A block of rows times a packed matrix. */
typedef struct gemm_block {
    int64_t m; /* rows, at most GEMM_MB */
    int taps;  /* the inner dimension is taps * c */
    int64_t c;
    const real *const *table; /* [tile][tap][GEMM_MR] pointers to c elements; NULL: zeros */
    const gemm_row *row;      /* [m] */
    const real *panels;       /* panel p starts panel_size elements after panel p-1 */
    int64_t panel_size, columns;
    const conv_epilogue *epilogue; /* NULL: none */
} gemm_block;

#define gemm_run_block     LGV_AT(lgv_gemm_run_block)
#define gemm_outer_tile    LGV_AT(lgv_gemm_outer_tile)
#define gemm_outer_tile_to LGV_AT(lgv_gemm_outer_tile_to)

static inline int64_t gemm_panels(int64_t columns)
{
    return lgv_ceil_div(columns, GEMM_NR);
}

/* Computes columns of panels [first, last) of all rows. */
void gemm_run_block(const gemm_block *g, int64_t first, int64_t last);

/* sum[GEMM_MR][GEMM_NR] = sum over p < count of a[p][GEMM_MR] outer b[p][GEMM_NR], both packed. */
void gemm_outer_tile(const real *a, const real *b, int64_t count, real *sum);

/* The same into rows ld apart, added to what is there if `add`. */
void gemm_outer_tile_to(const real *a, const real *b, int64_t count, real *y, int64_t ld, bool add);

/* Columns [k, k+n) of one row, n <= VL or more: the epilogue on v. */
static inline vreal gemm_epilogue(const conv_epilogue *e, const gemm_row *row, int64_t k, int64_t n,
                                  vreal v)
{
    if (e->bias) v = v_add(v, v_load_n(e->bias + k, n));
    if (e->row) v = v_add(v, v_load_n(e->row + row->n * e->row_stride + k, n));
    if (e->act) v = v_act(v, e->act);
    if (e->gate) v = v_mul(v, v_load_n(e->gate + row->n * e->gate_stride + k, n));
    if (row->residual) v = v_add(v, v_load_n(row->residual + k, n));
    return v;
}

/* The window of kh x kw pixels of s from (y, x) on into one row, zeros outside. Writes up to VL elements behind it. */
static inline void gemm_gather_window(const real *picture, const lgv_nhwc *s, int kh, int kw,
                                      int64_t y, int64_t x, real *row)
{
    int64_t width = kw * s->c;
    bool whole = x >= 0 && x + kw <= s->w && s->sw == s->c;
    for (int i = 0; i < kh; i++, y++, row += width) {
        const real *from = picture + y * s->sh + x * s->sw;
        if (y < 0 || y >= s->h) {
            for (int64_t v = 0; v < width; v += VL) v_store(row + v, v_zero());
        } else if (whole) {
            for (int64_t v = 0; v < width; v += VL) v_store(row + v, v_load_n(from + v, width - v));
        } else {
            for (int j = 0; j < kw; j++)
                for (int64_t c = 0; c < s->c; c++)
                    row[j * s->c + c] = x + j >= 0 && x + j < s->w ? from[j * s->sw + c] : 0;
        }
    }
}

/* The kernels "gemm" of the six operators (conv_gemm.c, conv_gemm_w.c). */
#define conv_gemm_accepts      LGV_AT(lgv_conv_gemm_accepts)
#define conv_gemm_pack         LGV_AT(lgv_conv_gemm_pack)
#define conv_gemm_run_pack     LGV_AT(lgv_conv_gemm_run_pack)
#define conv_gemm_workspace    LGV_AT(lgv_conv_gemm_workspace)
#define conv_gemm              LGV_AT(lgv_conv_gemm)
#define conv_gemm_x_accepts    LGV_AT(lgv_conv_gemm_x_accepts)
#define conv_gemm_x_pack       LGV_AT(lgv_conv_gemm_x_pack)
#define conv_gemm_x_run_pack   LGV_AT(lgv_conv_gemm_x_run_pack)
#define conv_gemm_x_workspace  LGV_AT(lgv_conv_gemm_x_workspace)
#define conv_gemm_x            LGV_AT(lgv_conv_gemm_x)
#define conv_gemm_w_workspace  LGV_AT(lgv_conv_gemm_w_workspace)
#define conv_gemm_w            LGV_AT(lgv_conv_gemm_w)
#define conv_gemm_pack_panel   LGV_AT(lgv_conv_gemm_pack_panel)
#define conv_gemm_x_pack_panel LGV_AT(lgv_conv_gemm_x_pack_panel)
#define linear_rows_accepts    LGV_AT(lgv_linear_rows_accepts)
#define linear_rows_workspace  LGV_AT(lgv_linear_rows_workspace)
#define linear_rows            LGV_AT(lgv_linear_rows)
/* One panel of outputs, [tap][c][GEMM_NR], or for the gradient of inputs, [tap][k][GEMM_NR]. */
void conv_gemm_pack_panel(const conv_problem *p, int64_t panel, real *to);
void conv_gemm_x_pack_panel(const conv_problem *p, int64_t panel, real *to);
/* The kernel "rows" of linear layers and their gradient for x: few positions (linear_rows.c). */
bool linear_rows_accepts(const lgv_call *c);
size_t linear_rows_workspace(const lgv_call *c);
void linear_rows(const lgv_call *c);
bool conv_gemm_accepts(const lgv_call *c);
lgv_pack conv_gemm_pack(const lgv_call *c);
void conv_gemm_run_pack(const lgv_call *c, void *packed);
size_t conv_gemm_workspace(const lgv_call *c);
void conv_gemm(const lgv_call *c);
bool conv_gemm_x_accepts(const lgv_call *c);
lgv_pack conv_gemm_x_pack(const lgv_call *c);
void conv_gemm_x_run_pack(const lgv_call *c, void *packed);
size_t conv_gemm_x_workspace(const lgv_call *c);
void conv_gemm_x(const lgv_call *c);
size_t conv_gemm_w_workspace(const lgv_call *c);
void conv_gemm_w(const lgv_call *c);

/* The kernels "few" (conv_few.c): from or to a few channels. */
#define conv_few_accepts     LGV_AT(lgv_conv_few_accepts)
#define conv_few_pack        LGV_AT(lgv_conv_few_pack)
#define conv_few_run_pack    LGV_AT(lgv_conv_few_run_pack)
#define conv_few_workspace   LGV_AT(lgv_conv_few_workspace)
#define conv_few             LGV_AT(lgv_conv_few)
#define conv_few_w_accepts   LGV_AT(lgv_conv_few_w_accepts)
#define conv_few_w_workspace LGV_AT(lgv_conv_few_w_workspace)
#define conv_few_w           LGV_AT(lgv_conv_few_w)
bool conv_few_accepts(const lgv_call *c);
lgv_pack conv_few_pack(const lgv_call *c);
void conv_few_run_pack(const lgv_call *c, void *packed);
size_t conv_few_workspace(const lgv_call *c);
void conv_few(const lgv_call *c);
bool conv_few_w_accepts(const lgv_call *c);
size_t conv_few_w_workspace(const lgv_call *c);
void conv_few_w(const lgv_call *c);

#endif
