/* rows.c - activations with per-row numbers and vectors, and the sums over positions.
   Sums run over chunks of SUM_PIXELS positions whose totals are then added in order, so that the error
   does not grow with the number of positions and the bits do not depend on threads or strides. */
#include "cpu/pointwise.h"

enum {
    SUM_PIXELS = 128,
    SUM_PARTS = 64,
    SUM_CHANNELS = 512, /* most of one task */
    SUM_QUANTUM = 32,   /* two cache lines */
    SUM_TASKS = 16,
    SUM_PIECE = 2048, /* elements: half of a first-level cache at most */
    GRAD_CHANNELS = 64,
    GATE_CHANNELS = 128
};

/* --- Elementwise with a row's numbers ------------------------------------------------------------- */
static inline real row_number(const span_work *w, int input, int64_t n)
{
    const lgv_tensor *t = &w->call->in[input];
    return ((const real *)t->data)[n * t->stride[0]];
}

static inline const real *row_vector(const span_work *w, int input, int64_t n)
{
    const lgv_tensor *t = &w->call->in[input];
    return (const real *)t->data + n * t->stride[0];
}

static void body_add_row(const span_work *w, const span *s)
{
    const real *v = row_vector(w, 1, s->n) + s->channel;
    for (int64_t i = 0; i < s->len; i += s->channels) {
        const real *x = (const real *)s->p[0] + i;
        real *y = (real *)s->p[1] + i;
        for (int64_t c = 0; c < s->channels; c += VL) {
            const int64_t n = s->channels - c;
            v_put(y + c, v_add(v_get(x + c, n), v_get(v + c, n)), n);
        }
    }
}

static void body_modulate(const span_work *w, const span *s)
{
    const real *scale = row_vector(w, 1, s->n) + s->channel,
               *shift = row_vector(w, 2, s->n) + s->channel;
    for (int64_t i = 0; i < s->len; i += s->channels) {
        const real *x = (const real *)s->p[0] + i;
        real *y = (real *)s->p[1] + i;
        for (int64_t c = 0; c < s->channels; c += VL) {
            const int64_t n = s->channels - c;
            v_put(
                y + c,
                v_fma(v_get(x + c, n), v_add(v_set1(1), v_get(scale + c, n)), v_get(shift + c, n)),
                n);
        }
    }
}

static void body_row_scale(const span_work *w, const span *s)
{
    const real *x = s->p[0];
    real *y = s->p[1];
    const vreal a = v_set1(row_number(w, 1, s->n));
    for (int64_t i = 0; i < s->len; i += VL)
        v_put(y + i, v_mul(a, v_get(x + i, s->len - i)), s->len - i);
}

static void body_row_divide(const span_work *w, const span *s)
{
    const real *x = s->p[0];
    real *y = s->p[1];
    const vreal a = v_set1(row_number(w, 1, s->n));
    for (int64_t i = 0; i < s->len; i += VL)
        v_put(y + i, v_div(v_get(x + i, s->len - i), a), s->len - i);
}

/* Two roundings, not a fused one: PyTorch's scheduler computes a*x + b*noise so. */
static void body_row_axpby(const span_work *w, const span *s)
{
    const real *x = s->p[0], *y = s->p[1];
    real *z = s->p[2];
    const vreal a = v_set1(row_number(w, 2, s->n)), b = v_set1(row_number(w, 3, s->n));
    for (int64_t i = 0; i < s->len; i += VL) {
        const int64_t n = s->len - i;
        v_put(z + i, v_add(v_mul(a, v_get(x + i, n)), v_mul(b, v_get(y + i, n))), n);
    }
}

/* x alone may be bf16; it is read as it is. */
LGV_FOLD void gate_span(const span_work *w, const span *s, bool bf16, bool add)
{
    const size_t size = bf16 ? sizeof(uint16_t) : sizeof(real);
    const real *gate = row_vector(w, 1, s->n) + s->channel, *h = s->p[1];
    real *y = s->p[w->count - 1];
    for (int64_t i = 0; i < s->len; i += s->channels) {
        const char *x = (const char *)s->p[0] + (size_t)i * size;
        for (int64_t c = 0; c < s->channels; c += VL) {
            const int64_t n = s->channels - c;
            const vreal a = v_get_typed(x + (size_t)c * size, n, bf16), b = v_get(gate + c, n);
            v_put(y + i + c, add ? v_fma(a, b, v_get(h + i + c, n)) : v_mul(a, b), n);
        }
    }
}

static void body_gate(const span_work *w, const span *s)
{
    const bool bf16 = w->operand[0]->dtype == LGV_BF16, add = w->count == 3;
    if (bf16)
        add ? gate_span(w, s, true, true) : gate_span(w, s, true, false);
    else
        add ? gate_span(w, s, false, true) : gate_span(w, s, false, false);
}

static void run_rows(const lgv_call *c, void (*body)(const span_work *, const span *))
{
    span_work w = {.call = c, .operand = {&c->in[0], &c->out[0]}, .count = 2, .body = body};
    run_spans(&w, true);
}

static void run_add_row(const lgv_call *c)
{
    run_rows(c, body_add_row);
}
static void run_modulate(const lgv_call *c)
{
    run_rows(c, body_modulate);
}
static void run_gate(const lgv_call *c)
{
    const bool add = c->n_in > 2;
    span_work w = {.call = c,
                   .operand = {&c->in[0], add ? &c->in[2] : &c->out[0], &c->out[0]},
                   .count = add ? 3 : 2,
                   .body = body_gate,
                   .raw = true};
    run_spans(&w, true);
}
static void run_row_scale(const lgv_call *c)
{
    run_rows(c, body_row_scale);
}
static void run_row_divide(const lgv_call *c)
{
    run_rows(c, body_row_divide);
}
static void run_row_axpby(const lgv_call *c)
{
    span_work w = {.call = c,
                   .operand = {&c->in[0], &c->in[1], &c->out[0]},
                   .count = 3,
                   .body = body_row_axpby};
    run_spans(&w, true);
}

/* --- Spreading ------------------------------------------------------------------------------------ */
static void body_spread(const span_work *w, const span *s)
{
    const real *v = w->kind ? row_vector(w, 0, s->n) : w->call->in[0].data;
    for (int64_t i = 0; i < s->len; i += s->channels)
        memcpy((real *)s->p[0] + i, v + s->channel, (size_t)s->channels * sizeof(real));
}

static void run_spread_rows(const lgv_call *c)
{
    span_work w = {.call = c, .operand = {&c->out[0]}, .count = 1, .body = body_spread, .kind = 0};
    run_spans(&w, true);
}

static void run_spread_hw(const lgv_call *c)
{
    span_work w = {.call = c, .operand = {&c->out[0]}, .count = 1, .body = body_spread, .kind = 1};
    run_spans(&w, true);
}

/* --- Sums ----------------------------------------------------------------------------------------- */
/* sum[0..channels) += a piece of pixels: four vectors of channels side by side hide the latency of the additions. */
static void sum_piece(const real *x, int64_t step, int64_t run, int64_t channels, real *sum)
{
    int64_t c = 0;
    for (; c + 4 * VL <= channels; c += 4 * VL) {
        vreal s[4];
        LGV_UNROLL
        for (int k = 0; k < 4; k++) s[k] = v_load(sum + c + k * VL);
        for (int64_t i = 0; i < run; i++) {
            LGV_UNROLL
            for (int k = 0; k < 4; k++) s[k] = v_add(s[k], v_load(x + i * step + c + k * VL));
        }
        LGV_UNROLL
        for (int k = 0; k < 4; k++) v_store(sum + c + k * VL, s[k]);
    }
    for (; c < channels; c += VL) {
        const int64_t n = channels - c;
        vreal s = v_get(sum + c, n);
        for (int64_t i = 0; i < run; i++) s = v_add(s, v_get(x + i * step + c, n));
        v_put(sum + c, s, n);
    }
}

/* sum[0..channels) += pixels [begin, end) of x from channel c0 on, in pieces that fit the first-level cache. */
static void sum_pixels(const pixels *x, int64_t begin, int64_t end, int64_t c0, int64_t channels,
                       real *sum)
{
    real buffer[SUM_PIECE];
    for (int64_t i = begin, run; i < end; i += run) {
        int64_t step;
        run = lgv_min_i64(end - i, lgv_max_i64(1, SUM_PIECE / channels));
        run = pixel_run(x, i, run, &step);
        const real *p = read_block(x, pixel_at(x, i, c0), &step, run, channels, buffer);
        sum_piece(p, step, run, channels, sum);
    }
}

/* total[0..channels) = the sum over pixels [begin, end), in chunks of SUM_PIXELS. channels <= SUM_CHANNELS. */
static void sum_chunks(const pixels *x, int64_t begin, int64_t end, int64_t c0, int64_t channels,
                       real *total)
{
    real part[SUM_CHANNELS];
    memset(total, 0, (size_t)channels * sizeof(real));
    for (int64_t i = begin; i < end; i += SUM_PIXELS) {
        memset(part, 0, (size_t)channels * sizeof(real));
        sum_pixels(x, i, lgv_min_i64(i + SUM_PIXELS, end), c0, channels, part);
        for (int64_t c = 0; c < channels; c++) total[c] += part[c];
    }
}

typedef struct sum_work {
    const lgv_call *call;
    pixels x;
    int64_t parts, part_pixels, width, chunks; /* chunks of `width` channels */
} sum_work;

/* Chunks as wide as possible, so that pixels are read from end to end, but at least SUM_TASKS units of work. */
static void set_chunks(sum_work *w, int64_t tasks)
{
    const int64_t vectors = lgv_ceil_div(w->x.a.c, SUM_QUANTUM);
    const int64_t chunks = lgv_min_i64(vectors, lgv_ceil_div(SUM_TASKS, tasks));
    w->width = lgv_min_i64(SUM_CHANNELS, lgv_ceil_div(vectors, chunks) * SUM_QUANTUM);
    w->chunks = lgv_ceil_div(w->x.a.c, w->width);
}

/* sum_rows: the positions are cut into parts, a function of the shape, whose sums wait in the workspace. */
static sum_work sum_rows_work(const lgv_call *c)
{
    sum_work w = {.call = c, .x = pixels_of(&c->in[0])};
    w.parts = lgv_min_i64(SUM_PARTS, lgv_ceil_div(w.x.count, SUM_PIXELS));
    w.part_pixels = lgv_ceil_div(lgv_ceil_div(w.x.count, w.parts), SUM_PIXELS) * SUM_PIXELS;
    set_chunks(&w, w.parts);
    return w;
}

static void sum_rows_part(void *arg, int64_t block, int thread)
{
    const sum_work *w = arg;
    const int64_t part = block / w->chunks, c0 = block % w->chunks * w->width;
    const int64_t begin = lgv_min_i64(part * w->part_pixels, w->x.count);
    const int64_t end = lgv_min_i64(begin + w->part_pixels, w->x.count);
    real *total = (real *)w->call->workspace + part * w->x.a.c + c0;
    sum_chunks(&w->x, begin, end, c0, lgv_min_i64(w->width, w->x.a.c - c0), total);
}

static void run_sum_rows(const lgv_call *c)
{
    sum_work w = sum_rows_work(c);
    real *y = c->out[0].data;
    const real *part = c->workspace;
    lgv_parallel(c, w.parts * w.chunks, sum_rows_part, &w);
    for (int64_t k = 0; k < w.x.a.c; k++) {
        double total = 0;
        for (int64_t p = 0; p < w.parts; p++) total += (double)part[p * w.x.a.c + k];
        y[k] = c->accumulate ? y[k] + (real)total : (real)total;
    }
}

static size_t workspace_sum_rows(const lgv_call *c)
{
    const sum_work w = sum_rows_work(c);
    return (size_t)(w.parts * w.x.a.c) * sizeof(real);
}

static void sum_hw_part(void *arg, int64_t block, int thread)
{
    const sum_work *w = arg;
    const int64_t n = block / w->chunks, c0 = block % w->chunks * w->width,
                  hw = w->x.a.h * w->x.a.w;
    const lgv_tensor *y = &w->call->out[0];
    sum_chunks(&w->x, n * hw, (n + 1) * hw, c0, lgv_min_i64(w->width, w->x.a.c - c0),
               (real *)y->data + n * y->stride[0] + c0);
}

static void run_sum_hw(const lgv_call *c)
{
    sum_work w = {.call = c, .x = pixels_of(&c->in[0])};
    set_chunks(&w, w.x.a.n);
    lgv_parallel(c, w.x.a.n * w.chunks, sum_hw_part, &w);
}

/* --- modulate_grad -------------------------------------------------------------------------------- */
typedef struct modulate_work {
    const lgv_call *call;
    pixels dy, x, dx;
    int64_t chunks;
} modulate_work;

/* dx of one chunk of channels of a pixel range, with sums of dy*x and dy. */
static void modulate_pixels(const modulate_work *w, int64_t begin, int64_t end, int64_t c0,
                            int64_t channels, const real *scale, real *dscale, real *dshift)
{
    real buffer[3][GRAD_CHANNELS];
    int64_t step = 0; /* of one pixel: not used */
    for (int64_t i = begin; i < end; i++) {
        const real *dy = read_block(&w->dy, pixel_at(&w->dy, i, c0), &step, 1, channels, buffer[0]),
                   *x = read_block(&w->x, pixel_at(&w->x, i, c0), &step, 1, channels, buffer[1]);
        void *to = w->dx.data ? pixel_at(&w->dx, i, c0) : NULL;
        real *dx = to && w->dx.dtype == LGV_BF16 ? buffer[2] : to;
        for (int64_t c = 0; c < channels; c += VL) {
            const int64_t n = channels - c;
            const vreal d = v_get(dy + c, n);
            v_put(dscale + c, v_fma(d, v_get(x + c, n), v_get(dscale + c, n)), n);
            v_put(dshift + c, v_add(d, v_get(dshift + c, n)), n);
            if (dx) v_put(dx + c, v_mul(d, v_add(v_set1(1), v_get(scale + c, n))), n);
        }
        if (dx) write_block(&w->dx, to, 0, 1, channels, buffer[2]);
    }
}

static void modulate_part(void *arg, int64_t block, int thread)
{
    const modulate_work *w = arg;
    const int64_t n = block / w->chunks, c0 = block % w->chunks * GRAD_CHANNELS,
                  hw = w->x.a.h * w->x.a.w;
    const int64_t channels = lgv_min_i64(GRAD_CHANNELS, w->x.a.c - c0);
    const lgv_tensor *scale = &w->call->in[2], *out1 = &w->call->out[1], *out2 = &w->call->out[2];
    real total[2][GRAD_CHANNELS] = {{0}}, part[2][GRAD_CHANNELS];
    for (int64_t i = n * hw; i < (n + 1) * hw; i += SUM_PIXELS) {
        memset(part, 0, sizeof part);
        modulate_pixels(w, i, lgv_min_i64(i + SUM_PIXELS, (n + 1) * hw), c0, channels,
                        (const real *)scale->data + n * scale->stride[0] + c0, part[0], part[1]);
        for (int64_t c = 0; c < channels; c++) {
            total[0][c] += part[0][c];
            total[1][c] += part[1][c];
        }
    }
    const size_t bytes = (size_t)channels * sizeof(real);
    if (out1->data) memcpy((real *)out1->data + n * out1->stride[0] + c0, total[0], bytes);
    if (out2->data) memcpy((real *)out2->data + n * out2->stride[0] + c0, total[1], bytes);
}

static void run_modulate_grad(const lgv_call *c)
{
    modulate_work w = {.call = c,
                       .dy = pixels_of(&c->in[0]),
                       .x = pixels_of(&c->in[1]),
                       .dx = pixels_of(&c->out[0])};
    w.chunks = lgv_ceil_div(w.x.a.c, GRAD_CHANNELS);
    lgv_parallel(c, w.x.a.n * w.chunks, modulate_part, &w);
}

/* --- gate_grad ------------------------------------------------------------------------------------ */
typedef struct gate_work {
    const lgv_call *call;
    pixels dy, x, dx;
    int64_t chunks;
} gate_work;

/* Pixels [begin, end) of `many` vectors of n channels from c on: sum += dy*x, dx = dy*gate; bf16: of x and dx. */
LGV_FOLD void gate_strip(const gate_work *w, int64_t begin, int64_t end, int64_t c, int many,
                         int64_t n, const real *gate, real *sum, bool bf16)
{
    const int64_t size = bf16 ? (int64_t)sizeof(uint16_t) : (int64_t)sizeof(real);
    vreal g[4], s[4];
    LGV_UNROLL
    for (int k = 0; k < many; k++) g[k] = v_get(gate + k * VL, n);
    LGV_UNROLL
    for (int k = 0; k < many; k++) s[k] = v_get(sum + k * VL, n);
    for (int64_t i = begin; i < end; i++) {
        const real *dy = pixel_at(&w->dy, i, c);
        const char *x = pixel_at(&w->x, i, c);
        char *dx = w->dx.data ? pixel_at(&w->dx, i, c) : NULL;
        LGV_UNROLL
        for (int k = 0; k < many; k++) {
            const vreal d = v_get(dy + k * VL, n);
            s[k] = v_fma(d, v_get_typed(x + k * VL * size, n, bf16), s[k]);
            if (dx) v_put_typed(dx + k * VL * size, v_mul(d, g[k]), n, bf16);
        }
    }
    LGV_UNROLL
    for (int k = 0; k < many; k++) v_put(sum + k * VL, s[k], n);
}

LGV_FOLD void gate_channels(const gate_work *w, int64_t begin, int64_t end, int64_t c0,
                            int64_t channels, const real *gate, real *sum, bool bf16)
{
    int64_t c = 0;
    for (; c + 4 * VL <= channels; c += 4 * VL)
        gate_strip(w, begin, end, c0 + c, 4, VL, gate + c, sum + c, bf16);
    for (; c < channels; c += VL)
        gate_strip(w, begin, end, c0 + c, 1, channels - c, gate + c, sum + c, bf16);
}

static void gate_part(void *arg, int64_t block, int thread)
{
    const gate_work *w = arg;
    const int64_t n = block / w->chunks, c0 = block % w->chunks * GATE_CHANNELS,
                  hw = w->x.a.h * w->x.a.w;
    const int64_t channels = lgv_min_i64(GATE_CHANNELS, w->x.a.c - c0);
    const lgv_tensor *t = &w->call->in[2], *out = &w->call->out[1];
    const real *gate = (const real *)t->data + n * t->stride[0] + c0;
    real total[GATE_CHANNELS] = {0}, part[GATE_CHANNELS];
    for (int64_t i = n * hw; i < (n + 1) * hw; i += SUM_PIXELS) {
        const int64_t end = lgv_min_i64(i + SUM_PIXELS, (n + 1) * hw);
        memset(part, 0, sizeof part);
        if (w->x.dtype == LGV_BF16)
            gate_channels(w, i, end, c0, channels, gate, part, true);
        else
            gate_channels(w, i, end, c0, channels, gate, part, false);
        for (int64_t c = 0; c < channels; c++) total[c] += part[c];
    }
    if (out->data)
        memcpy((real *)out->data + n * out->stride[0] + c0, total, (size_t)channels * sizeof(real));
}

static void run_gate_grad(const lgv_call *c)
{
    gate_work w = {.call = c,
                   .dy = pixels_of(&c->in[0]),
                   .x = pixels_of(&c->in[1]),
                   .dx = pixels_of(&c->out[0])};
    w.chunks = lgv_ceil_div(w.x.a.c, GATE_CHANNELS);
    lgv_parallel(c, w.x.a.n * w.chunks, gate_part, &w);
}

static const lgv_kernel kernels[] = {
    {.op = LGV_OP_add_row, .name = "plain", .bf16 = true, .run = run_add_row},
    {.op = LGV_OP_row_scale, .name = "plain", .run = run_row_scale},
    {.op = LGV_OP_row_divide, .name = "plain", .run = run_row_divide},
    {.op = LGV_OP_row_axpby, .name = "plain", .run = run_row_axpby},
    {.op = LGV_OP_modulate, .name = "plain", .bf16 = true, .run = run_modulate},
    {.op = LGV_OP_modulate_grad, .name = "plain", .bf16 = true, .run = run_modulate_grad},
    {.op = LGV_OP_gate, .name = "plain", .bf16 = true, .run = run_gate},
    {.op = LGV_OP_gate_grad, .name = "plain", .bf16 = true, .run = run_gate_grad},
    {.op = LGV_OP_sum_rows,
     .name = "plain",
     .bf16 = true,
     .accumulates = true,
     .workspace = workspace_sum_rows,
     .run = run_sum_rows},
    {.op = LGV_OP_sum_hw, .name = "plain", .bf16 = true, .run = run_sum_hw},
    {.op = LGV_OP_spread_rows, .name = "plain", .bf16 = true, .run = run_spread_rows},
    {.op = LGV_OP_spread_hw, .name = "plain", .bf16 = true, .run = run_spread_hw},
};
const lgv_kernel_list LGV_TABLE(rows) = {kernels, sizeof kernels / sizeof kernels[0]};
