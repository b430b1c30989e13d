/* linear_rows.c - linear layers of few positions (time and class embeddings): a panel of weights is packed into the
   thread's own cache and used at once, since a packed copy in memory would cost more than the product. The sums and
   so the bits are those of "gemm". */
#include "gemm.h"

typedef struct rows_run {
    const lgv_call *call;
    conv_problem p;
    conv_epilogue e;
    bool turned;  /* the gradient for x: rows of dy times w */
    int64_t m, c; /* rows, and the inner dimension */
    int64_t columns;
    size_t thread_bytes;
} rows_run;

typedef struct scratch {
    real *panel;
    const real **table;
    gemm_row *row;
} scratch;

static rows_run describe(const lgv_call *c)
{
    rows_run r = {.call = c, .p = conv_describe(c)};
    r.turned = c->op == LGV_OP_linear_grad_x;
    const lgv_nhwc *y = &r.p.y;
    r.m = y->n * y->h * y->w;
    r.c = r.turned ? y->c : r.p.x.c;
    r.columns = r.turned ? r.p.x.c : y->c;
    r.thread_bytes = lgv_round_up((size_t)(r.c * GEMM_NR) * sizeof(real)) +
                     lgv_round_up(GEMM_MB * sizeof(real *)) +
                     lgv_round_up(GEMM_MB * sizeof(gemm_row));
    return r;
}

static scratch scratch_of(const rows_run *r, int thread)
{
    char *p = (char *)r->call->workspace + (size_t)thread * r->thread_bytes;
    scratch s = {.panel = (real *)(void *)p};
    p += lgv_round_up((size_t)(r->c * GEMM_NR) * sizeof(real));
    s.table = (const real **)(void *)p;
    s.row = (gemm_row *)(void *)(p + lgv_round_up(GEMM_MB * sizeof(real *)));
    return s;
}

static real *pixel(real *data, const lgv_nhwc *s, int64_t n, int64_t i, int64_t j)
{
    return data ? data + n * s->sn + i * s->sh + j * s->sw : NULL;
}

/* Pointers of all rows, those of results moved to column k; rows that fill up the last tile repeat the last. */
static void fill(const rows_run *r, const scratch *s, int64_t k)
{
    const conv_problem *p = &r->p;
    const lgv_nhwc *from = r->turned ? &p->y : &p->x, *to = r->turned ? &p->x : &p->y;
    int64_t row = 0;
    for (int64_t n = 0; n < p->y.n; n++)
        for (int64_t i = 0; i < p->y.h; i++)
            for (int64_t j = 0; j < p->y.w; j++, row++) {
                const real *residual =
                    pixel((real *)(uintptr_t)r->e.residual, &r->e.residual_shape, n, i, j);
                s->table[row] = pixel(r->turned ? p->yd : p->xd, from, n, i, j);
                s->row[row] = (gemm_row){pixel(r->turned ? p->xd : p->yd, to, n, i, j) + k,
                                         residual ? residual + k : NULL, n};
            }
    for (; row % GEMM_MR; row++) s->table[row] = s->table[row - 1];
}

static void panel_task(void *arg, int64_t panel, int thread)
{
    const rows_run *r = arg;
    const int64_t k = panel * GEMM_NR;
    scratch s = scratch_of(r, thread);
    conv_epilogue e = r->e;
    if (e.bias) e.bias += k;
    if (e.row) e.row += k;
    if (e.gate) e.gate += k;
    fill(r, &s, k);
    if (r->turned)
        conv_gemm_x_pack_panel(&r->p, panel, s.panel);
    else
        conv_gemm_pack_panel(&r->p, panel, s.panel);
    const gemm_block b = {.m = r->m,
                          .taps = 1,
                          .c = r->c,
                          .table = s.table,
                          .row = s.row,
                          .panels = s.panel,
                          .panel_size = r->c * GEMM_NR,
                          .columns = lgv_min_i64(GEMM_NR, r->columns - k),
                          .epilogue = r->turned ? NULL : &e};
    gemm_run_block(&b, 0, 1);
}

bool linear_rows_accepts(const lgv_call *c)
{
    return conv_gemm_accepts(c) && describe(c).m <= GEMM_MB;
}

size_t linear_rows_workspace(const lgv_call *c)
{
    return (size_t)c->threads * describe(c).thread_bytes;
}

void linear_rows(const lgv_call *c)
{
    rows_run r = describe(c);
    if (!r.turned) r.e = conv_describe_epilogue(c);
    lgv_parallel(c, gemm_panels(r.columns), panel_task, &r);
}
