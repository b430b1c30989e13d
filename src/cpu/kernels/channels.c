/* channels.c - concat, slice and slice_grad as copies, for when the planner could not make them views. */
#include "cpu/pointwise.h"

/* Copies the inputs into channels of out[0], or channels of in[0] into out[0]. */
typedef struct channel_copy {
    pixels from[LGV_MAX_INPUTS], to;
    int inputs;
    int64_t read_at, write_at[LGV_MAX_INPUTS], count[LGV_MAX_INPUTS]; /* channels */
    bool clear;                             /* the rest of the output is zero */
    int64_t block;
} channel_copy;

static void copy_block(void *arg, int64_t block, int thread)
{
    const channel_copy *w = arg;
    const int64_t end = lgv_min_i64((block + 1) * w->block, w->to.count);
    const size_t size = lgv_real_size(w->to.dtype);
    for (int64_t i = block * w->block; i < end; i++) {
        char *to = pixel_at(&w->to, i, 0);
        if (w->clear) memset(to, 0, (size_t)w->to.a.c * size);
        for (int k = 0; k < w->inputs; k++) {
            const void *from = pixel_at(&w->from[k], i, w->read_at);
            memcpy(to + (size_t)w->write_at[k] * size, from, (size_t)w->count[k] * size);
        }
    }
}

static void run_copy(const lgv_call *c, channel_copy *w)
{
    for (int k = 0; k < w->inputs; k++) w->from[k] = pixels_of(&c->in[k]);
    w->to = pixels_of(&c->out[0]);
    w->block = lgv_max_i64(1, SPAN_ELEMENTS / w->to.a.c);
    lgv_parallel(c, lgv_ceil_div(w->to.count, w->block), copy_block, w);
}

static void run_concat(const lgv_call *c)
{
    channel_copy w = {.inputs = c->n_in};
    int64_t at = 0;
    for (int k = 0; k < c->n_in; k++) {
        w.write_at[k] = at;
        w.count[k] = lgv_as_nhwc(&c->in[k]).c;
        at += w.count[k];
    }
    run_copy(c, &w);
}

static void run_slice(const lgv_call *c)
{
    const lgv_attr_slice *a = c->attr;
    channel_copy w = {.inputs = 1, .read_at = a->start, .count = {a->count}};
    run_copy(c, &w);
}

static void run_slice_grad(const lgv_call *c)
{
    const lgv_attr_slice *a = c->attr;
    channel_copy w = {.inputs = 1,
                      .write_at = {a->start},
                      .count = {lgv_as_nhwc(&c->in[0]).c},
                      .clear = true};
    run_copy(c, &w);
}

static const lgv_kernel kernels[] = {
    {.op = LGV_OP_concat, .name = "plain", .bf16 = true, .run = run_concat},
    {.op = LGV_OP_slice, .name = "plain", .bf16 = true, .run = run_slice},
    {.op = LGV_OP_slice_grad, .name = "plain", .bf16 = true, .run = run_slice_grad},
};
const lgv_kernel_list LGV_TABLE(channels) = {kernels, sizeof kernels / sizeof kernels[0]};
