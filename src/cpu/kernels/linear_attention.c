/* linear_attention.c - linear attention and its gradient, one row of the batch after the other. Each is a few products
   of two kinds: sums over positions of two operands' channels, whose result [C,C] lies in the panels of gemm.h, and
   positions times such panels.
   With c = p^T v and an upper case letter for the gradient of a lower case one:
     Q = Y c^T,   C = q^T Y,   V = p C,   P = v C^T,   K = p (P - sum over positions of p P),
   where that sum is, for channel d, the sum over e of c[d,e] C[d,e]. */
#include "attention.h"
#include "gemm.h"

enum {
    SUM_POSITIONS = 128, /* of one partial sum of the softmax */
    ROWS = 8 * GEMM_MR   /* positions of a task: few, so that 16x16 of them keep several threads busy */
};

typedef struct linear_run {
    const lgv_call *call;
    int64_t n;                       /* row at work */
    int64_t length, channels;        /* positions */
    int64_t tiles, panels;           /* of the channels */
    int64_t panel_size;              /* elements of a panel of a product */
    real *left, *right, *product[2]; /* packed operands, results */
} linear_run;

/* A task of one phase: operands and where results go. */
typedef struct phase {
    const linear_run *r;
    tokens a, b, y;
    real *panels;
    const real *c, *dc;
} phase;

static size_t part(size_t elements)
{
    return lgv_round_up(elements * sizeof(real));
}

static linear_run describe(const lgv_call *c)
{
    const tokens q = as_tokens(&c->in[0]);
    linear_run r = {.call = c, .length = q.length, .channels = lgv_as_nhwc(&c->in[0]).c};
    r.tiles = lgv_ceil_div(r.channels, GEMM_MR);
    r.panels = gemm_panels(r.channels);
    r.panel_size = r.tiles * GEMM_MR * GEMM_NR;
    char *p = c->workspace;
    r.left = (real *)(void *)p;
    p += part((size_t)(r.tiles * r.length * GEMM_MR));
    r.right = (real *)(void *)p;
    p += part((size_t)(r.panels * r.length * GEMM_NR));
    for (int i = 0; i < 2; i++, p += part((size_t)(r.panels * r.panel_size)))
        r.product[i] = (real *)(void *)p;
    return r;
}

static size_t bytes_of(const lgv_call *c, size_t products)
{
    const linear_run r = describe(c);
    return part((size_t)(r.tiles * r.length * GEMM_MR)) +
           part((size_t)(r.panels * r.length * GEMM_NR)) +
           products * part((size_t)(r.panels * r.panel_size));
}

static size_t workspace(const lgv_call *c)
{
    return bytes_of(c, 1);
}

static size_t grad_workspace(const lgv_call *c)
{
    return bytes_of(c, 2);
}

/* --- Products ------------------------------------------------------------------------------------- */
/* Channels [first, first + width) of all positions side by side, zeros beyond the last. */
static void pack(const linear_run *r, const tokens *x, int64_t first, int64_t width, real *to)
{
    const int64_t here = lgv_min_i64(width, r->channels - first);
    for (int64_t l = 0; l < r->length; l++, to += width) {
        memcpy(to, token(x, r->n, l, first), (size_t)here * sizeof *to);
        for (int64_t i = here; i < width; i++) to[i] = 0;
    }
}

static void pack_task(void *arg, int64_t i, int thread)
{
    const phase *f = arg;
    const linear_run *r = f->r;
    if (i < r->tiles)
        pack(r, &f->a, i * GEMM_MR, GEMM_MR, r->left + i * r->length * GEMM_MR);
    else
        pack(r, &f->b, (i - r->tiles) * GEMM_NR, GEMM_NR,
             r->right + (i - r->tiles) * r->length * GEMM_NR);
}

static void product_task(void *arg, int64_t i, int thread)
{
    const phase *f = arg;
    const linear_run *r = f->r;
    const int64_t tile = i % r->tiles, panel = i / r->tiles;
    const real *a = r->left + tile * r->length * GEMM_MR,
               *b = r->right + panel * r->length * GEMM_NR;
    real *to = f->panels + panel * r->panel_size + tile * GEMM_MR * GEMM_NR;
    for (int64_t l = 0; l < r->length; l += GEMM_KC)
        gemm_outer_tile_to(a + l * GEMM_MR, b + l * GEMM_NR, lgv_min_i64(GEMM_KC, r->length - l),
                           to, GEMM_NR, l > 0);
}

/* panels = a^T b: the sum over positions of a's channel (rows) times b's (columns). */
static void over_positions(const linear_run *r, tokens a, tokens b, real *panels)
{
    phase f = {.r = r, .a = a, .b = b, .panels = panels};
    lgv_parallel(r->call, r->tiles + r->panels, pack_task, &f);
    lgv_parallel(r->call, r->tiles * r->panels, product_task, &f);
}

static void rows_task(void *arg, int64_t i, int thread)
{
    const phase *f = arg;
    const linear_run *r = f->r;
    const int64_t first = i * ROWS, m = lgv_min_i64(ROWS, r->length - first);
    const real *table[ROWS];
    gemm_row row[ROWS];
    for (int64_t l = 0; l < ROWS; l++) {
        table[l] = token(&f->a, r->n, first + lgv_min_i64(l, m - 1), 0);
        row[l] = (gemm_row){token(&f->y, r->n, first + lgv_min_i64(l, m - 1), 0), NULL, 0};
    }
    const gemm_block b = {.m = m,
                          .taps = 1,
                          .c = r->channels,
                          .table = table,
                          .row = row,
                          .panels = f->panels,
                          .panel_size = r->panel_size,
                          .columns = r->channels};
    gemm_run_block(&b, 0, r->panels);
}

/* y = a panels, position by position. */
static void positions_times(const linear_run *r, tokens a, real *panels, tokens y)
{
    phase f = {.r = r, .a = a, .y = y, .panels = panels};
    lgv_parallel(r->call, lgv_ceil_div(r->length, ROWS), rows_task, &f);
}

/* --- Softmax -------------------------------------------------------------------------------------- */
/* VL channels of all positions. */
static void softmax_task(void *arg, int64_t i, int thread)
{
    const phase *f = arg;
    const linear_run *r = f->r;
    const int64_t c = i * VL, n = lgv_min_i64(VL, r->channels - c);
    vreal most = v_load_n(token(&f->a, r->n, 0, c), n), sum = v_zero();
    for (int64_t l = 1; l < r->length; l++)
        most = v_max(most, v_load_n(token(&f->a, r->n, l, c), n));
    for (int64_t from = 0; from < r->length; from += SUM_POSITIONS) {
        const int64_t end = lgv_min_i64(from + SUM_POSITIONS, r->length);
        vreal some = v_zero();
        for (int64_t l = from; l < end; l++) {
            const vreal e = v_exp(v_sub(v_load_n(token(&f->a, r->n, l, c), n), most));
            v_store_n(token(&f->y, r->n, l, c), e, n);
            some = v_add(some, e);
        }
        sum = v_add(sum, some);
    }
    for (int64_t l = 0; l < r->length; l++) {
        real *p = token(&f->y, r->n, l, c);
        v_store_n(p, v_div(v_load_n(p, n), sum), n);
    }
}

/* y holds P and becomes K, a is p. */
static void softmax_grad_task(void *arg, int64_t i, int thread)
{
    const phase *f = arg;
    const linear_run *r = f->r;
    const int64_t c = i * VL, n = lgv_min_i64(VL, r->channels - c),
                  at = c / GEMM_NR * r->panel_size + c % GEMM_NR;
    vreal sum = v_zero();
    for (int64_t e = 0; e < r->channels; e++)
        sum = v_fma(v_load(f->c + at + e * GEMM_NR), v_load(f->dc + at + e * GEMM_NR), sum);
    for (int64_t l = 0; l < r->length; l++) {
        real *y = token(&f->y, r->n, l, c);
        const vreal p = v_load_n(token(&f->a, r->n, l, c), n);
        v_store_n(y, v_mul(p, v_sub(v_load_n(y, n), sum)), n);
    }
}

/* --- The operators -------------------------------------------------------------------------------- */
static void run_linear_attention(const lgv_call *c)
{
    linear_run r = describe(c);
    const tokens q = as_tokens(&c->in[0]), k = as_tokens(&c->in[1]), v = as_tokens(&c->in[2]),
                 y = as_tokens(&c->out[0]), p = as_tokens(&c->out[1]);
    phase f = {.r = &r, .a = k, .y = p};
    for (r.n = 0; r.n < q.n; r.n++) {
        lgv_parallel(c, lgv_ceil_div(r.channels, VL), softmax_task, &f);
        over_positions(&r, p, v, r.product[0]);
        positions_times(&r, q, r.product[0], y);
    }
}

static void run_linear_attention_grad(const lgv_call *c)
{
    linear_run r = describe(c);
    const tokens q = as_tokens(&c->in[0]), p = as_tokens(&c->in[1]), v = as_tokens(&c->in[2]),
                 dy = as_tokens(&c->in[3]), dq = as_tokens(&c->out[0]),
                 dk = as_tokens(&c->out[1]), dv = as_tokens(&c->out[2]);
    phase f = {.r = &r, .a = p, .y = dk, .c = r.product[0], .dc = r.product[1]};
    for (r.n = 0; r.n < q.n; r.n++) {
        if (dq.data || dk.data) over_positions(&r, v, p, r.product[0]);
        if (dq.data) positions_times(&r, dy, r.product[0], dq);
        if (dk.data) {
            over_positions(&r, dy, q, r.product[1]);
            positions_times(&r, v, r.product[1], dk);
            lgv_parallel(c, lgv_ceil_div(r.channels, VL), softmax_grad_task, &f);
        }
        if (dv.data) {
            over_positions(&r, q, dy, r.product[1]);
            positions_times(&r, p, r.product[1], dv);
        }
    }
}

static const lgv_kernel kernels[] = {
    {.op = LGV_OP_linear_attention,
     .name = "plain",
     .workspace = workspace,
     .run = run_linear_attention},
    {.op = LGV_OP_linear_attention_grad,
     .name = "plain",
     .workspace = grad_workspace,
     .run = run_linear_attention_grad},
};
extern const lgv_kernel_list LGV_TABLE(linear_attention);
const lgv_kernel_list LGV_TABLE(linear_attention) = {kernels, sizeof kernels / sizeof *kernels};
