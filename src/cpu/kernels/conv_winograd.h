/* conv_winograd.h - Winograd's F(4x4,3x3) for 3x3 convolutions of stride 1: what the three passes share.
   The result falls into tiles of 4x4 pixels, each of which reads 6x6 source pixels d. With the matrices of
   Lavin and Gray (arXiv 1509.09308) for the points 0, +-5/8, +-3/2 and infinity,
       forward, gradient for data:  y = A^T [sum over c of (G g G^T)_c .* (B^T d_c B)] A
       gradient for weights:        dg = G^T [sum over tiles of (A dy A^T) .* (B^T d B)] G
   so each of the 36 planes is a matrix product over channels or over tiles, with 36 products a tile where
   the definition has 144. The textbook's points +-1, +-2 would cost twice the rounding error.
   Whatever decides the order of a sum is a function of the channels (forward) or of the shape (weights);
   blocking over tiles, outputs and threads is free. */
#ifndef LGV_CONV_WINOGRAD_H
#define LGV_CONV_WINOGRAD_H

#include "gemm.h"

#if LGV_VECTOR == 16
enum { WINO_MR = 12, WINO_NV = 2 }; /* 24 sums, 2 columns, 1 broadcast of 32 registers */
#elif LGV_VECTOR == 8
enum { WINO_MR = 6, WINO_NV = 2 }; /* 12 sums, 2 columns, 1 broadcast of 16 registers */
#else
enum { WINO_MR = 3, WINO_NV = 4 };
#endif
enum {
    WINO_PLANES = 36,
    WINO_NR = WINO_NV * VL,
    WINO_KC = 256, /* channels summed in registers: a panel of right columns is half of L1 */
    WINO_LINE = 64 / sizeof(real)
};

/* Where the 6x6 or 4x4 pixels of tiles lie: tile (n, i, j) begins at pixel (4i - top, 4j - left). */
typedef struct wino_picture {
    real *data;
    lgv_nhwc s;
    int64_t top, left, th, tw; /* th * tw tiles a picture */
} wino_picture;

static inline wino_picture wino_picture_of(real *data, lgv_nhwc s, int64_t top, int64_t left,
                                           const lgv_nhwc *result)
{
    return (wino_picture){
        data, s, top, left, lgv_ceil_div(result->h, 4), lgv_ceil_div(result->w, 4)};
}
static inline int64_t wino_tiles(const wino_picture *p)
{
    return p->s.n * p->th * p->tw;
}

/* Elements, rounded up to an odd number of cache lines: a step that spreads over all sets of a cache. */
static inline int64_t wino_odd_lines(int64_t elements)
{
    return (lgv_ceil_div(elements, WINO_LINE) | 1) * WINO_LINE;
}
static inline int64_t wino_round(int64_t n, int64_t to)
{
    return lgv_ceil_div(n, to) * to;
}

#define wino_accepts     LGV_AT(lgv_wino_accepts)
#define wino_source_tile LGV_AT(lgv_wino_source_tile)
#define wino_product     LGV_AT(lgv_wino_product)
#define wino_pack        LGV_AT(lgv_wino_pack)
#define wino_run_pack    LGV_AT(lgv_wino_run_pack)
#define wino_workspace   LGV_AT(lgv_wino_workspace)
#define wino_run         LGV_AT(lgv_wino_run)
#define wino_w_accepts   LGV_AT(lgv_wino_w_accepts)
#define wino_w_workspace LGV_AT(lgv_wino_w_workspace)
#define wino_w_run       LGV_AT(lgv_wino_w_run)

/* v[plane * step] = (B^T d B)_plane for the 6x6 pixels of a tile, zeros outside the picture; all channels,
   the last vector filled up with zeros. */
void wino_source_tile(const wino_picture *p, int64_t tile, real *v, int64_t step);

/* A matrix product on the way: m[r][WINO_NR] (+)= sum over k < n of a[r, k] b[k][WINO_NR]. */
typedef struct wino_factors {
    int64_t n;
    const real
        *a; /* forward: rows lead apart, k dense. Weight gradient: k lead apart, rows dense */
    int64_t lead;
    const real *b;
    real *m;
    int64_t m_step;
    bool add;                    /* to what m holds */
    const char *near, *far;      /* prefetched meanwhile into L1 and L2: n addresses each, */
    int64_t near_step, far_step; /* so many bytes apart */
} wino_factors;

/* rows (a multiple of WINO_MR / 3, at most WINO_MR) of a product; dense_rows: the weight gradient's a. */
void wino_product(const wino_factors *f, int rows, bool dense_rows);

/* The kernels "winograd" of the convolution and its gradients. */
bool wino_accepts(const lgv_call *c);
lgv_pack wino_pack(const lgv_call *c);
void wino_run_pack(const lgv_call *c, void *packed);
size_t wino_workspace(const lgv_call *c);
void wino_run(const lgv_call *c); /* forward and gradient for data */
bool wino_w_accepts(const lgv_call *c);
size_t wino_w_workspace(const lgv_call *c);
void wino_w_run(const lgv_call *c);

/* --- The matrices, applied to vectors ------------------------------------------------------------------ */
/* Points a = 5/8, b = 3/2; WINO_N*: the factors of G. */
#define WINO_A  0.625
#define WINO_B  1.5
#define WINO_A2 (WINO_A * WINO_A)
#define WINO_B2 (WINO_B * WINO_B)
#define WINO_N0 (1 / (WINO_A2 * WINO_B2))
#define WINO_NA (1 / (2 * WINO_A2 * (WINO_A2 - WINO_B2)))
#define WINO_NB (1 / (2 * WINO_B2 * (WINO_B2 - WINO_A2)))

LGV_FOLD vreal wino_c(double constant)
{
    return v_set1((real)constant);
}

/* t = B^T d; elements of d and t are `from` and `to` vectors apart. */
LGV_FOLD void wino_bt(const vreal *d, int from, vreal *t, int to)
{
    vreal d0 = d[0], d1 = d[from], d2 = d[2 * from], d3 = d[3 * from], d4 = d[4 * from],
          d5 = d[5 * from];
    vreal both = wino_c(WINO_A2 * WINO_B2), sum = wino_c(WINO_A2 + WINO_B2);
    t[0] = v_fma(both, d0, v_fnma(sum, d2, d4));
    t[5 * to] = v_fma(both, d1, v_fnma(sum, d3, d5));
    vreal even = v_fnma(wino_c(WINO_B2), d2, d4), odd = v_fnma(wino_c(WINO_B2), d1, d3);
    t[to] = v_fma(wino_c(WINO_A), odd, even);
    t[2 * to] = v_fnma(wino_c(WINO_A), odd, even);
    even = v_fnma(wino_c(WINO_A2), d2, d4);
    odd = v_fnma(wino_c(WINO_A2), d1, d3);
    t[3 * to] = v_fma(wino_c(WINO_B), odd, even);
    t[4 * to] = v_fnma(wino_c(WINO_B), odd, even);
}

/* y = A^T m */
LGV_FOLD void wino_at(const vreal *m, int from, vreal *y, int to)
{
    vreal s1 = v_add(m[from], m[2 * from]), d1 = v_sub(m[from], m[2 * from]);
    vreal s2 = v_add(m[3 * from], m[4 * from]), d2 = v_sub(m[3 * from], m[4 * from]);
    y[0] = v_add(v_add(m[0], s1), s2);
    y[to] = v_fma(wino_c(WINO_A), d1, v_mul(wino_c(WINO_B), d2));
    y[2 * to] = v_fma(wino_c(WINO_A2), s1, v_mul(wino_c(WINO_B2), s2));
    y[3 * to] =
        v_fma(wino_c(WINO_A2 * WINO_A), d1, v_fma(wino_c(WINO_B2 * WINO_B), d2, m[5 * from]));
}

/* t = A y */
LGV_FOLD void wino_a(const vreal *y, int from, vreal *t, int to)
{
    vreal y0 = y[0], y1 = y[from], y2 = y[2 * from], y3 = y[3 * from];
    t[0] = y0;
    t[5 * to] = y3;
    vreal even = v_fma(wino_c(WINO_A2), y2, y0), odd = v_fma(wino_c(WINO_A2), y3, y1);
    t[to] = v_fma(wino_c(WINO_A), odd, even);
    t[2 * to] = v_fnma(wino_c(WINO_A), odd, even);
    even = v_fma(wino_c(WINO_B2), y2, y0);
    odd = v_fma(wino_c(WINO_B2), y3, y1);
    t[3 * to] = v_fma(wino_c(WINO_B), odd, even);
    t[4 * to] = v_fnma(wino_c(WINO_B), odd, even);
}

/* u = G g */
LGV_FOLD void wino_g(const vreal *g, int from, vreal *u, int to)
{
    vreal g0 = g[0], g1 = g[from], g2 = g[2 * from];
    u[0] = v_mul(wino_c(WINO_N0), g0);
    u[5 * to] = g2;
    vreal even = v_mul(wino_c(WINO_NA), v_fma(wino_c(WINO_A2), g2, g0)),
          odd = v_mul(wino_c(WINO_NA * WINO_A), g1);
    u[to] = v_add(even, odd);
    u[2 * to] = v_sub(even, odd);
    even = v_mul(wino_c(WINO_NB), v_fma(wino_c(WINO_B2), g2, g0));
    odd = v_mul(wino_c(WINO_NB * WINO_B), g1);
    u[3 * to] = v_add(even, odd);
    u[4 * to] = v_sub(even, odd);
}

/* g = G^T u */
LGV_FOLD void wino_gt(const vreal *u, int from, vreal *g, int to)
{
    vreal s1 = v_add(u[from], u[2 * from]), d1 = v_sub(u[from], u[2 * from]);
    vreal s2 = v_add(u[3 * from], u[4 * from]), d2 = v_sub(u[3 * from], u[4 * from]);
    vreal last = v_fma(wino_c(WINO_NB * WINO_B2), s2, u[5 * from]);
    g[0] = v_fma(wino_c(WINO_N0), u[0], v_fma(wino_c(WINO_NA), s1, v_mul(wino_c(WINO_NB), s2)));
    g[to] = v_fma(wino_c(WINO_NA * WINO_A), d1, v_mul(wino_c(WINO_NB * WINO_B), d2));
    g[2 * to] = v_fma(wino_c(WINO_NA * WINO_A2), s1, last);
}

#endif
