/* tokens.c - the mean put before the positions, the first position taken, and their gradients: one row of the batch
   after the other, sums in the order of the positions. */
#include "cpu/pointwise.h"

typedef struct token_work {
    pixels x, y;
    int64_t x_hw, y_hw; /* positions of a row */
} token_work;

static inline real *at(const pixels *p, int64_t i)
{
    return p->data + pixel_offset(p, i);
}

static void prepend_row(void *arg, int64_t n, int thread)
{
    const token_work *w = arg;
    const int64_t c = w->x.a.c;
    real *mean = at(&w->y, n * w->y_hw);
    for (int64_t k = 0; k < c; k++) mean[k] = 0;
    for (int64_t i = 0; i < w->x_hw; i++) {
        const real *x = at(&w->x, n * w->x_hw + i);
        memcpy(at(&w->y, n * w->y_hw + 1 + i), x, (size_t)c * sizeof(real));
        for (int64_t k = 0; k < c; k++) mean[k] += x[k];
    }
    for (int64_t k = 0; k < c; k++) mean[k] /= (real)w->x_hw;
}

static void prepend_grad_row(void *arg, int64_t n, int thread)
{
    const token_work *w = arg;
    const real *mean = at(&w->x, n * w->x_hw);
    for (int64_t i = 0; i < w->y_hw; i++) {
        const real *dy = at(&w->x, n * w->x_hw + 1 + i);
        real *dx = at(&w->y, n * w->y_hw + i);
        for (int64_t k = 0; k < w->x.a.c; k++) dx[k] = dy[k] + mean[k] / (real)w->y_hw;
    }
}

static void first_row(void *arg, int64_t n, int thread)
{
    const token_work *w = arg;
    memcpy(at(&w->y, n), at(&w->x, n * w->x_hw), (size_t)w->x.a.c * sizeof(real));
}

static void first_grad_row(void *arg, int64_t n, int thread)
{
    const token_work *w = arg;
    const size_t bytes = (size_t)w->x.a.c * sizeof(real);
    memcpy(at(&w->y, n * w->y_hw), at(&w->x, n), bytes);
    for (int64_t i = 1; i < w->y_hw; i++) memset(at(&w->y, n * w->y_hw + i), 0, bytes);
}

static void run_rows_of(const lgv_call *c, void (*row)(void *arg, int64_t n, int thread))
{
    token_work w = {.x = pixels_of(&c->in[0]), .y = pixels_of(&c->out[0])};
    w.x_hw = w.x.a.h * w.x.a.w;
    w.y_hw = w.y.a.h * w.y.a.w;
    lgv_parallel(c, w.x.a.n, row, &w);
}

static void run_prepend(const lgv_call *c)
{
    run_rows_of(c, prepend_row);
}
static void run_prepend_grad(const lgv_call *c)
{
    run_rows_of(c, prepend_grad_row);
}
static void run_first(const lgv_call *c)
{
    run_rows_of(c, first_row);
}
static void run_first_grad(const lgv_call *c)
{
    run_rows_of(c, first_grad_row);
}

static const lgv_kernel kernels[] = {
    {.op = LGV_OP_prepend_mean, .name = "plain", .run = run_prepend},
    {.op = LGV_OP_prepend_mean_grad, .name = "plain", .run = run_prepend_grad},
    {.op = LGV_OP_first_position, .name = "plain", .run = run_first},
    {.op = LGV_OP_first_position_grad, .name = "plain", .run = run_first_grad},
};
const lgv_kernel_list LGV_TABLE(tokens) = {kernels, sizeof kernels / sizeof kernels[0]};
