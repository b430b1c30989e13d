/* guidance.c - repeated rows, their sums, and the combination of conditional and unconditional answers.
   These are small beside the network: plain loops, whose bits are the same at every level but f64. */
#include "cpu/pointwise.h"

#include <math.h>

/* --- repeat_rows, fold_rows ---------------------------------------------------------------------- */
typedef struct repeat_work {
    pixels from, to;
    int64_t times, block;
} repeat_work;

static void repeat_block(void *arg, int64_t block, int thread)
{
    const repeat_work *w = arg;
    const int64_t end = lgv_min_i64((block + 1) * w->block, w->to.count);
    const size_t bytes = (size_t)w->to.a.c * lgv_real_size(w->to.dtype);
    for (int64_t i = block * w->block; i < end; i++)
        memcpy(pixel_at(&w->to, i, 0), pixel_at(&w->from, i % w->from.count, 0), bytes);
}

static void run_repeat(const lgv_call *c)
{
    repeat_work w = {.from = pixels_of(&c->in[0]), .to = pixels_of(&c->out[0])};
    w.block = lgv_max_i64(1, SPAN_ELEMENTS / w.to.a.c);
    lgv_parallel(c, lgv_ceil_div(w.to.count, w.block), repeat_block, &w);
}

static void fold_block(void *arg, int64_t block, int thread)
{
    const repeat_work *w = arg;
    const int64_t end = lgv_min_i64((block + 1) * w->block, w->to.count);
    for (int64_t i = block * w->block; i < end; i++) {
        real *to = w->to.data + pixel_offset(&w->to, i);
        for (int64_t j = 0; j < w->to.a.c; j += VL) {
            const int64_t n = w->to.a.c - j;
            vreal sum = v_get(w->from.data + pixel_offset(&w->from, i) + j, n);
            for (int64_t k = 1; k < w->times; k++)
                sum = v_add(
                    sum, v_get(w->from.data + pixel_offset(&w->from, k * w->to.count + i) + j, n));
            v_put(to + j, sum, n);
        }
    }
}

static void run_fold(const lgv_call *c)
{
    repeat_work w = {.from = pixels_of(&c->in[0]),
                     .to = pixels_of(&c->out[0]),
                     .times = ((const lgv_attr_repeat *)c->attr)->times};
    w.block = lgv_max_i64(1, SPAN_ELEMENTS / w.to.a.c);
    lgv_parallel(c, lgv_ceil_div(w.to.count, w.block), fold_block, &w);
}

/* --- guide --------------------------------------------------------------------------------------- */
typedef struct guide_work {
    const lgv_call *call;
    pixels out, y;
    int64_t channels; /* that are guided */
} guide_work;

/* Sums of a row's guided channels, for its standard deviation. */
typedef struct moments {
    double sum, squares;
} moments;

static void add_moment(moments *m, double v)
{
    m->sum += v;
    m->squares += v * v;
}

static double deviation(const moments *m, double count)
{
    const double variance = (m->squares - m->sum * m->sum / count) / (count - 1);
    return variance > 0 ? sqrt(variance) : variance < 0 ? 0 : variance; /* NaN passes */
}

/* y = u + g (c - u); the channels that are not guided are c's. */
static void combine(const guide_work *w, int64_t n, int64_t partner, real guidance, moments *cond,
                    moments *guided)
{
    const int64_t hw = w->y.a.h * w->y.a.w;
    for (int64_t i = 0; i < hw; i++) {
        const real *c = w->out.data + pixel_offset(&w->out, n * hw + i);
        const real *u = w->out.data + pixel_offset(&w->out, partner * hw + i);
        real *y = w->y.data + pixel_offset(&w->y, n * hw + i);
        for (int64_t k = 0; k < w->channels; k++) {
            const real from = c[k], v = u[k] + guidance * (from - u[k]);
            add_moment(cond, (double)from);
            add_moment(guided, (double)v);
            y[k] = v;
        }
        for (int64_t k = w->channels; k < w->y.a.c; k++) y[k] = c[k];
    }
}

static void scale(const guide_work *w, int64_t n, real factor)
{
    const int64_t hw = w->y.a.h * w->y.a.w;
    for (int64_t i = n * hw; i < (n + 1) * hw; i++) {
        real *y = w->y.data + pixel_offset(&w->y, i);
        for (int64_t k = 0; k < w->channels; k++) y[k] *= factor;
    }
}

static void copy_row(const guide_work *w, int64_t n)
{
    const int64_t hw = w->y.a.h * w->y.a.w;
    for (int64_t i = n * hw; i < (n + 1) * hw; i++)
        memcpy(w->y.data + pixel_offset(&w->y, i), w->out.data + pixel_offset(&w->out, i),
               (size_t)w->y.a.c * sizeof(real));
}

/* Rescaling (arXiv 2305.08891, eq. 15 and 16): y gets the standard deviation of c, then
   phi of that is mixed with 1 - phi of what it was, which is one factor on y. */
static void guide_row(void *arg, int64_t n, int thread)
{
    const guide_work *w = arg;
    const lgv_row *row = &w->call->step->row[n];
    moments cond = {0}, guided = {0};
    if (row->partner < 0 || row->partner >= w->out.a.n) {
        copy_row(w, n);
        return;
    }
    combine(w, n, row->partner, (real)row->guidance, &cond, &guided);
    if (row->guidance_rescale == 0) return;
    const double count = (double)(w->y.a.h * w->y.a.w * w->channels), phi = row->guidance_rescale;
    const double before = deviation(&guided, count);
    if (before > 0) scale(w, n, (real)(phi * (deviation(&cond, count) / before) + (1 - phi)));
}

static void run_guide(const lgv_call *c)
{
    const int64_t channels = ((const lgv_attr_guide *)c->attr)->channels;
    guide_work w = {.call = c, .out = pixels_of(&c->in[0]), .y = pixels_of(&c->out[0])};
    w.channels = channels ? channels : w.y.a.c;
    lgv_parallel(c, w.y.a.n, guide_row, &w);
}

static const lgv_kernel kernels[] = {
    {.op = LGV_OP_repeat_rows, .name = "plain", .bf16 = true, .run = run_repeat},
    {.op = LGV_OP_fold_rows, .name = "plain", .run = run_fold},
    {.op = LGV_OP_guide, .name = "plain", .run = run_guide},
};
const lgv_kernel_list LGV_TABLE(guidance) = {kernels, sizeof kernels / sizeof kernels[0]};
