/* norm.c - group normalisation forward and backward, with modulation and activation fused in.
   Work goes in steps (measure, merge, write; sum, finish, write) over a slab: a row and a range of whole groups.
   A slab that stays in the second-level cache between its steps belongs to one thread; where not even a few channels
   do, the slab is the whole row, each step is shared by all threads, and pixels are read from end to end.
   Statistics: mean and M2 (the sum of squared deviations) of every channel over fixed blocks of pixels,
   in float about the block's own mean, merged into groups in double in fixed order. The bits therefore
   depend on the shape alone: not on threads, strides, slabs, or the size of the batch.
   x, y, dy, dx may be bf16; arithmetic, parameters and statistics are `real`. Where all of them are bf16 the
   loops read and write them directly; a mixture goes through pieces of float. */
#include "cpu/pointwise.h"

enum {
    BLOCK_PIXELS = 128,
    PIECE = 2048,   /* elements worked on at a time: a few such arrays fit the first-level cache */
    STRIP = 4 * VL, /* channels whose sums stay in registers */
    SLAB_BYTES = 256 << 10, /* half of the smallest second-level cache */
    SLAB_CHANNELS = 64,     /* fewest of a slab: whole cache lines, several from a pixel */
    ROW_BYTES = 2 << 20,    /* of a row that one thread keeps in the last-level cache */
    MANY_ROWS = 8,          /* enough of them to keep the threads busy without sharing rows */
    STREAM_BYTES = 8 << 20, /* an output that no cache will keep until it is read */
    PART_BYTES = 256 << 10, /* of a shared step's unit of work */
    MERGE_PARTS = 16,
    REDUCE_CHANNELS = 64
};

typedef struct norm_work {
    const lgv_call *call;
    int act;
    double eps;
    int64_t n, hw, channels, groups, width; /* width: channels of a group */
    int64_t blocks;                         /* of pixels of a row */
    int64_t unit, units;                    /* channels of a slab, slabs of a row */
    bool shared;                            /* one slab at a time, all threads work on it */
    int64_t part_blocks, parts;             /* shared: blocks of a unit of work, units of a step */
    int64_t row;                            /* shared: the slab's row */
    pixels x, y, dy;                        /* y: the output, dx in the backward pass */
    bool direct;                            /* x, y, dy are all bf16 */
    bool stream;                            /* output past the caches */
    bool keep;                /* backward: the first step leaves dy*act' in dx for the last one */
    const real *gamma, *beta; /* beta NULL: backward without activation */
    const lgv_tensor *scale, *shift, *mean, *rstd; /* scale NULL: no modulation */
    real *scratch, *sums;          /* sums[2][n][channels]: dgamma and dbeta of each row */
    int64_t slab_size, piece_size; /* reals of a slab and of a thread's buffers */
} norm_work;

/* Where the steps leave things for each other. a and b: [blocks][count], mean and M2 or the two backward sums. */
typedef struct slab {
    int64_t n, c0, count; /* row, first channel, channels */
    real *a, *b;
    real *centre, *factor, *offset, *s1, *s2; /* [count] */
    real *piece;                              /* of this thread */
} slab;

static int64_t greatest_divisor(int64_t a, int64_t b)
{
    return b ? greatest_divisor(b, a % b) : a;
}

/* Chooses slabs; bytes: what an element takes in all arrays that should stay in the cache. */
static void set_slabs(norm_work *w, int64_t bytes)
{
    const int64_t row = bytes * w->hw * w->channels, fits = SLAB_BYTES / (bytes * w->hw);
    w->unit = w->channels;
    w->units = 1;
    if (w->n >= MANY_ROWS && row <= ROW_BYTES) return;
    w->shared = fits < lgv_min_i64(SLAB_CHANNELS, w->channels);
    if (w->shared) {
        w->part_blocks = lgv_max_i64(1, PART_BYTES / (BLOCK_PIXELS * bytes * w->channels));
        w->parts = lgv_ceil_div(w->blocks, w->part_blocks);
        return;
    }
    /* Whole groups and cache lines; smaller slabs when the batch alone gives too few. */
    const int64_t quantum = w->width * (16 / greatest_divisor(w->width, 16));
    const int64_t want = lgv_min_i64(fits, lgv_ceil_div(w->channels * w->n, MANY_ROWS));
    if (want >= w->channels) return;
    const int64_t units = lgv_ceil_div(w->channels, want);
    w->unit = lgv_ceil_div(lgv_ceil_div(w->channels, units), quantum) * quantum;
    w->unit = lgv_min_i64(w->unit, w->channels);
    w->units = lgv_ceil_div(w->channels, w->unit);
}

static void set_shape(norm_work *w, const lgv_call *c, const lgv_tensor *x)
{
    const lgv_attr_norm *a = c->attr;
    w->call = c;
    w->act = a->act;
    w->eps = a->eps;
    w->x = pixels_of(x);
    w->y = pixels_of(&c->out[0]);
    w->n = w->x.a.n;
    w->hw = w->x.a.h * w->x.a.w;
    w->channels = w->x.a.c;
    w->groups = a->groups;
    w->width = w->channels / w->groups;
    w->blocks = lgv_ceil_div(w->hw, BLOCK_PIXELS);
    w->scratch = c->workspace;
}

/* Returns the reals of the workspace. buffers: pieces of a thread. */
static int64_t set_scratch(norm_work *w, int64_t buffers)
{
    const int64_t output = w->n * w->hw * w->channels * (int64_t)lgv_real_size(w->y.dtype);
    w->stream = !w->keep && w->y.dtype == LGV_F32 && output >= STREAM_BYTES;
    w->slab_size = lgv_ceil_div((2 * w->blocks + 5) * w->unit, 16) * 16;
    w->piece_size = buffers * PIECE;
    const int64_t slabs = w->shared ? 1 : w->call->threads;
    w->sums = w->scratch + slabs * w->slab_size + w->call->threads * w->piece_size;
    return slabs * w->slab_size + w->call->threads * w->piece_size;
}

static slab slab_at(const norm_work *w, int64_t n, int64_t c0, int thread)
{
    slab s = {.n = n, .c0 = c0, .count = lgv_min_i64(w->unit, w->channels - c0)};
    const int64_t slabs = w->shared ? 1 : w->call->threads;
    s.a = w->scratch + (w->shared ? 0 : thread) * w->slab_size;
    s.b = s.a + w->blocks * w->unit;
    s.centre = s.b + w->blocks * w->unit;
    s.factor = s.centre + w->unit;
    s.offset = s.factor + w->unit;
    s.s1 = s.offset + w->unit;
    s.s2 = s.s1 + w->unit;
    s.piece = w->scratch + slabs * w->slab_size + thread * w->piece_size;
    return s;
}

/* First pixel of a block; that of block `blocks` is the row's end. */
static int64_t block_begin(const norm_work *w, const slab *s, int64_t block)
{
    return s->n * w->hw + lgv_min_i64(block * BLOCK_PIXELS, w->hw);
}

static real *tensor_row(const lgv_tensor *t, int64_t n)
{
    return (real *)t->data + n * t->stride[0];
}

/* The factor gamma*(1 + scale) and offset beta*(1 + scale) + shift of channel c of row n. */
static void channel_affine(const norm_work *w, int64_t n, int64_t c, real *factor, real *offset)
{
    const real one = w->scale ? 1 + tensor_row(w->scale, n)[c] : 1;
    *factor = w->gamma[c] * one;
    *offset = (w->beta ? w->beta[c] * one : 0) + (w->shift ? tensor_row(w->shift, n)[c] : 0);
}

/* The steps of a slab, all in one task or, shared, as tasks of their own; begin may be NULL. */
typedef struct steps {
    void (*whole)(void *arg, int64_t index, int thread);
    void (*begin)(void *arg, int64_t part, int thread);
    void (*measure)(void *arg, int64_t part, int thread);
    void (*merge)(void *arg, int64_t part, int thread);
    void (*write)(void *arg, int64_t part, int thread);
} steps;

static void run_slabs(norm_work *w, const steps *s, bool write)
{
    if (!w->shared) {
        lgv_parallel(w->call, w->n * w->units, s->whole, w);
        return;
    }
    for (w->row = 0; w->row < w->n; w->row++) {
        if (s->begin) lgv_parallel(w->call, MERGE_PARTS, s->begin, w);
        lgv_parallel(w->call, w->parts, s->measure, w);
        lgv_parallel(w->call, MERGE_PARTS, s->merge, w);
        if (write) lgv_parallel(w->call, w->parts, s->write, w);
    }
}

/* Groups of one of MERGE_PARTS tasks, as channels [*begin, *end) of the slab. */
static void merge_range(const norm_work *w, int64_t part, int64_t *begin, int64_t *end)
{
    *begin = w->groups * part / MERGE_PARTS * w->width;
    *end = w->groups * (part + 1) / MERGE_PARTS * w->width;
}

/* --- Statistics ------------------------------------------------------------------------------------ */
/* n <= VL elements from i on of an array of either type. */
LGV_FOLD vreal get(const void *p, int64_t i, int64_t n, bool bf16)
{
    return bf16 ? v_get_typed((const uint16_t *)p + i, n, true) : v_get((const real *)p + i, n);
}

/* sum += the pixels, or with centre their (x - centre)^2; `many` vectors of n channels. */
LGV_FOLD void sum_channels(const void *x, int64_t c, int64_t step, int64_t run, int many, int64_t n,
                           const real *centre, real *sum, bool bf16)
{
    vreal s[4], m[4];
    LGV_UNROLL
    for (int k = 0; k < many; k++) s[k] = v_get(sum + c + k * VL, n);
    LGV_UNROLL
    for (int k = 0; k < many; k++) m[k] = centre ? v_get(centre + c + k * VL, n) : v_zero();
    for (int64_t i = 0; i < run; i++, c += step) {
        LGV_UNROLL
        for (int k = 0; k < many; k++) {
            const vreal v = get(x, c + k * VL, n, bf16);
            if (centre) {
                const vreal d = v_sub(v, m[k]);
                s[k] = v_fma(d, d, s[k]);
            } else {
                s[k] = v_add(s[k], v);
            }
        }
    }
    c -= run * step;
    LGV_UNROLL
    for (int k = 0; k < many; k++) v_put(sum + c + k * VL, s[k], n);
}

/* count <= STRIP channels. */
LGV_FOLD void sum_run(const void *x, int64_t step, int64_t run, int64_t count, const real *centre,
                      real *sum, bool bf16)
{
    if (count == STRIP) {
        sum_channels(x, 0, step, run, 4, VL, centre, sum, bf16);
        return;
    }
    for (int64_t c = 0; c < count; c += VL)
        sum_channels(x, c, step, run, 1, count - c, centre, sum, bf16);
}

/* A strip of pixels [first, last): both passes; x of either type where it lies. */
LGV_FOLD void measure_strip(const norm_work *w, const slab *s, int64_t first, int64_t last,
                            int64_t c, int64_t some, real *mean, real *m2, bool bf16)
{
    const real inverse = 1 / (real)(last - first);
    for (int pass = 0; pass < 2; pass++) {
        for (int64_t i = first, run, step; i < last; i += run) {
            run = pixel_run(&w->x, i, last - i, &step);
            const void *x = pixel_at(&w->x, i, s->c0 + c);
            if (pass == 0)
                sum_run(x, step, run, some, NULL, mean, bf16);
            else
                sum_run(x, step, run, some, mean, m2, bf16);
        }
        for (int64_t k = 0; k < some && pass == 0; k++) mean[k] *= inverse;
    }
}

/* Mean and M2 of blocks [begin, end). A strip of a block fits the first-level cache, so its second pass is
   nearly free. */
static void measure(const norm_work *w, const slab *s, int64_t begin, int64_t end)
{
    memset(s->a + begin * s->count, 0, (size_t)((end - begin) * s->count) * sizeof(real));
    memset(s->b + begin * s->count, 0, (size_t)((end - begin) * s->count) * sizeof(real));
    for (int64_t b = begin; b < end; b++) {
        const int64_t first = block_begin(w, s, b), last = block_begin(w, s, b + 1);
        for (int64_t c = 0; c < s->count; c += STRIP) {
            const int64_t some = lgv_min_i64(STRIP, s->count - c);
            real *mean = s->a + b * s->count + c, *m2 = s->b + b * s->count + c;
            if (w->x.dtype == LGV_BF16)
                measure_strip(w, s, first, last, c, some, mean, m2, true);
            else
                measure_strip(w, s, first, last, c, some, mean, m2, false);
        }
    }
}

/* Merges the channels [c, c + width) of all blocks (Chan, Golub, LeVeque 1979, eq. 2.1, for many parts at once). */
static void merge_group(const norm_work *w, const slab *s, int64_t c, double *m, double *variance)
{
    const double size = (double)(w->hw * w->width);
    double sum = 0, deviation = 0;
    for (int64_t b = 0; b < w->blocks; b++) {
        const double pixels_here = (double)lgv_min_i64(BLOCK_PIXELS, w->hw - b * BLOCK_PIXELS);
        double part = 0;
        for (int64_t k = 0; k < w->width; k++) part += (double)s->a[b * s->count + c + k];
        sum += pixels_here * part;
    }
    *m = sum / size;
    for (int64_t b = 0; b < w->blocks; b++) {
        const double pixels_here = (double)lgv_min_i64(BLOCK_PIXELS, w->hw - b * BLOCK_PIXELS);
        double part = 0, square = 0;
        for (int64_t k = 0; k < w->width; k++) {
            const double d = (double)s->a[b * s->count + c + k] - *m;
            part += (double)s->b[b * s->count + c + k];
            square += d * d;
        }
        deviation += part + pixels_here * square;
    }
    *variance = deviation / size;
}

/* Statistics of the groups in channels [begin, end), and what they make of gamma, beta, scale and shift. */
static void merge_groups(const norm_work *w, const slab *s, int64_t begin, int64_t end)
{
    for (int64_t c = begin; c < end; c += w->width) {
        double m, variance;
        merge_group(w, s, c, &m, &variance);
        const real r = (real)(1 / sqrt(variance + w->eps));
        const int64_t group = (s->c0 + c) / w->width;
        if (w->mean->data) tensor_row(w->mean, s->n)[group] = (real)m;
        if (w->rstd->data) tensor_row(w->rstd, s->n)[group] = r;
        for (int64_t k = c; k < c + w->width; k++) {
            channel_affine(w, s->n, s->c0 + k, &s->factor[k], &s->offset[k]);
            s->centre[k] = (real)m;
            s->factor[k] *= r;
        }
    }
}

/* --- Pieces ------------------------------------------------------------------------------------------ */
/* A rectangle of at most PIECE elements (inner loops take it by value: vector stores may alias anything in
   memory): `run` pixels of `count` channels (mean, factor, offset of the first of them), in every array a fixed step
   apart. The loops' argument bf16 says that x, dy, y are bf16 and not real. */
typedef struct piece {
    int64_t run, count;
    const void *x, *dy;
    void *y; /* y, dx or dv */
    int64_t x_step, dy_step, y_step;
    const real *mean, *factor, *offset;
    bool stream; /* y goes past the caches: it is large, aligned, and not to be read again here */
} piece;

static inline void put(void *y, int64_t i, vreal a, int64_t n, bool stream, bool bf16)
{
    if (bf16)
        v_put_typed((uint16_t *)y + i, a, n, true);
    else if (stream && n >= VL)
        v_stream((real *)y + i, a);
    else
        v_put((real *)y + i, a, n);
}

/* v = (x - mean)*factor + offset of `many` vectors; d = x - mean where wanted. */
LGV_FOLD void affine_vectors(const piece *p, int64_t i, int64_t c, int many, int64_t n, bool bf16,
                             vreal *v, vreal *d)
{
    LGV_UNROLL
    for (int k = 0; k < many; k++, c += VL) {
        const vreal e = v_sub(get(p->x, i * p->x_step + c, n, bf16), v_get(p->mean + c, n));
        v[k] = v_fma(e, v_get(p->factor + c, n), v_get(p->offset + c, n));
        if (d) d[k] = e;
    }
}

/* dv = dy*act'(v); with LGV_ACT_NONE dv = dy. */
LGV_FOLD void slope_vectors(const piece *p, int64_t i, int64_t c, int many, int64_t n, int act,
                            bool bf16, vreal *dv, vreal *d)
{
    affine_vectors(p, i, c, many, n, bf16, dv, d);
    if (act != LGV_ACT_NONE) v_act_grad_many(dv, many, act, bf16);
    LGV_UNROLL
    for (int k = 0; k < many; k++) {
        const vreal dy = get(p->dy, i * p->dy_step + c + k * VL, n, bf16);
        dv[k] = act == LGV_ACT_NONE ? dy : v_mul(dy, dv[k]);
    }
}

/* y = act(v), or with slope dv. */
LGV_FOLD void act_vectors(const piece *p, int64_t i, int64_t c, int many, int64_t n, int act,
                          bool slope, bool bf16)
{
    vreal u[V_MANY];
    if (slope) {
        slope_vectors(p, i, c, many, n, act, bf16, u, NULL);
    } else {
        affine_vectors(p, i, c, many, n, bf16, u, NULL);
        v_act_many(u, many, act, bf16);
    }
    LGV_UNROLL
    for (int k = 0; k < many; k++) put(p->y, i * p->y_step + c + k * VL, u[k], n, p->stream, bf16);
}

LGV_FOLD void act_rows(const piece p, int act, bool slope, bool bf16)
{
    for (int64_t i = 0; i < p.run; i++) {
        int64_t c = 0;
        for (; c + V_MANY * VL <= p.count; c += V_MANY * VL)
            act_vectors(&p, i, c, V_MANY, VL, act, slope, bf16);
        for (; c < p.count; c += VL) act_vectors(&p, i, c, 1, p.count - c, act, slope, bf16);
    }
}

/* One loop per kind, so that the choice is not made for every vector. */
LGV_FOLD void apply_typed(const piece *p, int act, bool bf16)
{
    switch (act) {
    case LGV_ACT_SILU: act_rows(*p, LGV_ACT_SILU, false, bf16); break;
    case LGV_ACT_MISH: act_rows(*p, LGV_ACT_MISH, false, bf16); break;
    case LGV_ACT_GELU: act_rows(*p, LGV_ACT_GELU, false, bf16); break;
    case LGV_ACT_RELU: act_rows(*p, LGV_ACT_RELU, false, bf16); break;
    default: act_rows(*p, LGV_ACT_NONE, false, bf16); break;
    }
}

static void apply_piece(const piece *p, int act, bool bf16)
{
    if (bf16)
        apply_typed(p, act, true);
    else
        apply_typed(p, act, false);
}

static void slope_piece(const piece *p, int act)
{
    switch (act) {
    case LGV_ACT_SILU: act_rows(*p, LGV_ACT_SILU, true, false); break;
    case LGV_ACT_MISH: act_rows(*p, LGV_ACT_MISH, true, false); break;
    case LGV_ACT_GELU: act_rows(*p, LGV_ACT_GELU, true, false); break;
    default: act_rows(*p, LGV_ACT_RELU, true, false); break;
    }
}

/* Pixels from i on, at most up to last, that make one piece with `count` channels. */
static int64_t piece_run(const norm_work *w, int64_t i, int64_t last, int64_t count)
{
    int64_t step, run = lgv_min_i64(last - i, lgv_max_i64(1, PIECE / count));
    run = pixel_run(&w->x, i, run, &step);
    if (w->dy.data) run = pixel_run(&w->dy, i, run, &step);
    return w->y.data ? pixel_run(&w->y, i, run, &step) : run;
}

/* The piece of channels [c, c + some) of the slab and `run` pixels from i on: x, and dy where there is one. */
static piece piece_at(const norm_work *w, const slab *s, int64_t i, int64_t run, int64_t c)
{
    piece p = {.run = run, .count = lgv_min_i64(PIECE, s->count - c)};
    pixel_run(&w->x, i, run, &p.x_step);
    p.x = pixel_at(&w->x, i, s->c0 + c);
    if (!w->direct) p.x = read_block(&w->x, p.x, &p.x_step, run, p.count, s->piece);
    p.mean = s->centre + c;
    p.factor = s->factor + c;
    p.offset = s->offset + c;
    if (!w->dy.data) return p;
    pixel_run(&w->dy, i, run, &p.dy_step);
    p.dy = pixel_at(&w->dy, i, s->c0 + c);
    if (!w->direct) p.dy = read_block(&w->dy, p.dy, &p.dy_step, run, p.count, s->piece + PIECE);
    return p;
}

/* Where y of a piece is written: in place, or for bf16 the last buffer, which write_block rounds from. */
static void *aim_output(const norm_work *w, const slab *s, int64_t i, int64_t c, piece *p)
{
    void *at = pixel_at(&w->y, i, s->c0 + c);
    pixel_run(&w->y, i, p->run, &p->y_step);
    p->y = at;
    p->stream = w->stream && (uintptr_t)at % (VL * sizeof(real)) == 0 && p->y_step % VL == 0;
    if (w->y.dtype == LGV_BF16 && !w->direct) {
        p->y = s->piece + 2 * PIECE;
        p->y_step = p->count;
    }
    return at;
}

static void finish_output(const norm_work *w, int64_t i, void *at, const piece *p)
{
    int64_t step;
    if (w->direct) return;
    pixel_run(&w->y, i, p->run, &step);
    write_block(&w->y, at, step, p->run, p->count, p->y);
}

/* --- Forward --------------------------------------------------------------------------------------- */
static void normalise(const norm_work *w, const slab *s, int64_t begin, int64_t end)
{
    const int64_t last = block_begin(w, s, end);
    for (int64_t i = block_begin(w, s, begin), run; i < last; i += run) {
        run = piece_run(w, i, last, s->count);
        for (int64_t c = 0; c < s->count; c += PIECE) {
            piece p = piece_at(w, s, i, run, c);
            void *at = aim_output(w, s, i, c, &p);
            apply_piece(&p, w->act, w->direct);
            finish_output(w, i, at, &p);
        }
    }
    if (w->stream) v_stream_end();
}

static void forward_slab(void *arg, int64_t index, int thread)
{
    const norm_work *w = arg;
    const slab s = slab_at(w, index / w->units, index % w->units * w->unit, thread);
    measure(w, &s, 0, w->blocks);
    merge_groups(w, &s, 0, s.count);
    normalise(w, &s, 0, w->blocks);
}

static void forward_measure(void *arg, int64_t part, int thread)
{
    const norm_work *w = arg;
    const slab s = slab_at(w, w->row, 0, thread);
    measure(w, &s, part * w->part_blocks, lgv_min_i64((part + 1) * w->part_blocks, w->blocks));
}

static void forward_merge(void *arg, int64_t part, int thread)
{
    const norm_work *w = arg;
    const slab s = slab_at(w, w->row, 0, thread);
    int64_t begin, end;
    merge_range(w, part, &begin, &end);
    merge_groups(w, &s, begin, end);
}

static void forward_write(void *arg, int64_t part, int thread)
{
    const norm_work *w = arg;
    const slab s = slab_at(w, w->row, 0, thread);
    normalise(w, &s, part * w->part_blocks, lgv_min_i64((part + 1) * w->part_blocks, w->blocks));
}

static norm_work forward_work(const lgv_call *c, int64_t *scratch)
{
    norm_work w = {
        .gamma = c->in[1].data, .beta = c->in[2].data, .mean = &c->out[1], .rstd = &c->out[2]};
    if (c->op == LGV_OP_norm_modulate_act && c->n_in > 3 && c->in[3].data) {
        w.scale = &c->in[3];
        w.shift = &c->in[4];
    }
    set_shape(&w, c, &c->in[0]);
    if (c->op == LGV_OP_group_norm) w.act = LGV_ACT_NONE;
    w.direct = w.x.dtype == LGV_BF16 && w.y.dtype == LGV_BF16;
    set_slabs(&w, (int64_t)lgv_real_size(w.x.dtype));
    *scratch = set_scratch(&w, 3);
    return w;
}

static size_t workspace_forward(const lgv_call *c)
{
    int64_t scratch;
    (void)forward_work(c, &scratch);
    return (size_t)scratch * sizeof(real);
}

static void run_forward(const lgv_call *c)
{
    static const steps forward = {forward_slab, NULL, forward_measure, forward_merge,
                                  forward_write};
    int64_t scratch;
    norm_work w = forward_work(c, &scratch);
    run_slabs(&w, &forward, true);
}

/* --- Backward --------------------------------------------------------------------------------------
   With v = xhat*factor + offset, y = act(v), dv = dy*act'(v), S1 = sum dv, S2 = sum dv*xhat over the pixels of
   a channel: dshift = S1, dscale = gamma*S2 + beta*S1, dbeta = sum_n (1 + scale)*S1, dgamma = sum_n (1 + scale)*S2,
   dx = rstd*(factor*dv - mean(factor*dv) - xhat*mean(factor*dv*xhat)), the means over the group. */

/* s1 += dv, s2 += dv*(x - mean) of `many` vectors of a piece. */
LGV_FOLD void sum_vectors(const piece *p, int64_t c, int many, int64_t n, real *s1, real *s2,
                          int act, bool bf16)
{
    vreal a[4], b[4], dv[4], d[4];
    LGV_UNROLL
    for (int k = 0; k < many; k++) a[k] = v_get(s1 + c + k * VL, n);
    LGV_UNROLL
    for (int k = 0; k < many; k++) b[k] = v_get(s2 + c + k * VL, n);
    for (int64_t i = 0; i < p->run; i++) {
        slope_vectors(p, i, c, many, n, act, bf16, dv, d);
        LGV_UNROLL
        for (int k = 0; k < many; k++) {
            a[k] = v_add(a[k], dv[k]);
            b[k] = v_fma(dv[k], d[k], b[k]);
        }
    }
    LGV_UNROLL
    for (int k = 0; k < many; k++) v_put(s1 + c + k * VL, a[k], n);
    LGV_UNROLL
    for (int k = 0; k < many; k++) v_put(s2 + c + k * VL, b[k], n);
}

LGV_FOLD void sum_rows(const piece p, real *s1, real *s2, int act, bool bf16)
{
    enum { MANY = 4 };
    int64_t c = 0;
    for (; c + MANY * VL <= p.count; c += MANY * VL)
        sum_vectors(&p, c, MANY, VL, s1, s2, act, bf16);
    for (; c < p.count; c += VL) sum_vectors(&p, c, 1, p.count - c, s1, s2, act, bf16);
}

/* dx = dv*factor - (x - mean)*q - o of a piece. */
LGV_FOLD void dx_vectors(const piece *p, int64_t i, int64_t c, int many, int64_t n, const real *q,
                         const real *o, int act, bool bf16)
{
    vreal dv[4], d[4];
    slope_vectors(p, i, c, many, n, act, bf16, dv, d);
    LGV_UNROLL
    for (int k = 0; k < many; k++, c += VL) {
        const vreal u = v_fma(dv[k], v_get(p->factor + c, n), v_neg(v_get(o + c, n)));
        put(p->y, i * p->y_step + c, v_fnma(d[k], v_get(q + c, n), u), n, false, bf16);
    }
}

LGV_FOLD void dx_rows(const piece p, const real *q, const real *o, int act, bool bf16)
{
    for (int64_t i = 0; i < p.run; i++) {
        int64_t c = 0;
        for (; c + 4 * VL <= p.count; c += 4 * VL) dx_vectors(&p, i, c, 4, VL, q, o, act, bf16);
        for (; c < p.count; c += VL) dx_vectors(&p, i, c, 1, p.count - c, q, o, act, bf16);
    }
}

/* Pieces whose dy is dv already (act NONE), or bf16 ones, where it is made on the way, twice: rounding it in between
   would cost digits. */
static void sum_piece(const piece *p, real *s1, real *s2, int act, bool bf16)
{
    if (!bf16) {
        sum_rows(*p, s1, s2, LGV_ACT_NONE, false);
        return;
    }
    switch (act) {
    case LGV_ACT_SILU: sum_rows(*p, s1, s2, LGV_ACT_SILU, true); break;
    case LGV_ACT_MISH: sum_rows(*p, s1, s2, LGV_ACT_MISH, true); break;
    case LGV_ACT_GELU: sum_rows(*p, s1, s2, LGV_ACT_GELU, true); break;
    case LGV_ACT_RELU: sum_rows(*p, s1, s2, LGV_ACT_RELU, true); break;
    default: sum_rows(*p, s1, s2, LGV_ACT_NONE, true); break;
    }
}

static void dx_piece(const piece *p, const real *q, const real *o, int act, bool bf16)
{
    if (!bf16) {
        dx_rows(*p, q, o, LGV_ACT_NONE, false);
        return;
    }
    switch (act) {
    case LGV_ACT_SILU: dx_rows(*p, q, o, LGV_ACT_SILU, true); break;
    case LGV_ACT_MISH: dx_rows(*p, q, o, LGV_ACT_MISH, true); break;
    case LGV_ACT_GELU: dx_rows(*p, q, o, LGV_ACT_GELU, true); break;
    case LGV_ACT_RELU: dx_rows(*p, q, o, LGV_ACT_RELU, true); break;
    default: dx_rows(*p, q, o, LGV_ACT_NONE, true); break;
    }
}

/* A piece with dv in the place of dy, unless direct. first: made from dy; else, when the first step kept it, taken
   from dx. */
static piece dv_piece(const norm_work *w, const slab *s, int64_t i, int64_t run, int64_t c,
                      bool first)
{
    piece p = piece_at(w, s, i, run, c);
    if (w->act == LGV_ACT_NONE || w->direct) return p;
    if (w->keep) {
        (void)aim_output(w, s, i, c, &p);
    } else {
        p.y = s->piece + 2 * PIECE;
        p.y_step = p.count;
    }
    if (first || !w->keep) slope_piece(&p, w->act);
    p.dy = p.y;
    p.dy_step = p.y_step;
    return p;
}

static void backward_sums(const norm_work *w, const slab *s, int64_t begin, int64_t end)
{
    for (int64_t b = begin; b < end; b++) {
        const int64_t last = block_begin(w, s, b + 1);
        real *s1 = s->a + b * s->count, *s2 = s->b + b * s->count;
        memset(s1, 0, (size_t)s->count * sizeof(real));
        memset(s2, 0, (size_t)s->count * sizeof(real));
        for (int64_t i = block_begin(w, s, b), run; i < last; i += run) {
            run = piece_run(w, i, last, s->count);
            for (int64_t c = 0; c < s->count; c += PIECE) {
                const piece p = dv_piece(w, s, i, run, c, true);
                sum_piece(&p, s1 + c, s2 + c, w->act, w->direct);
            }
        }
    }
}

static void backward_write(const norm_work *w, const slab *s, int64_t begin, int64_t end)
{
    const int64_t last = block_begin(w, s, end);
    for (int64_t i = block_begin(w, s, begin), run; i < last; i += run) {
        run = piece_run(w, i, last, s->count);
        for (int64_t c = 0; c < s->count; c += PIECE) {
            piece p = dv_piece(w, s, i, run, c, false);
            void *at = aim_output(w, s, i, c, &p);
            dx_piece(&p, s->s2 + c, s->s1 + c, w->act, w->direct);
            finish_output(w, i, at, &p);
        }
    }
    if (w->stream) v_stream_end();
}

/* What the sums of a row say about scale, shift, gamma and beta. s2 already holds sum dv*xhat. */
static void keep_sums(const norm_work *w, const slab *s, int64_t begin, int64_t end)
{
    const lgv_tensor *dscale = &w->call->out[3], *dshift = &w->call->out[4];
    const int64_t n = s->n;
    for (int64_t k = begin; k < end; k++) {
        const int64_t c = s->c0 + k;
        const real one = w->scale ? 1 + tensor_row(w->scale, n)[c] : 1;
        w->sums[n * w->channels + c] = one * s->s2[k];
        w->sums[(w->n + n) * w->channels + c] = one * s->s1[k];
        if (!w->scale) continue;
        if (dscale->data) tensor_row(dscale, n)[c] = w->gamma[c] * s->s2[k] + w->beta[c] * s->s1[k];
        if (dshift->data) tensor_row(dshift, n)[c] = s->s1[k];
    }
}

/* centre, factor and offset as the forward pass had them. */
static void backward_begin(const norm_work *w, const slab *s, int64_t begin, int64_t end)
{
    for (int64_t c = begin; c < end; c++) {
        const int64_t group = (s->c0 + c) / w->width;
        channel_affine(w, s->n, s->c0 + c, &s->factor[c], &s->offset[c]);
        s->centre[c] = tensor_row(w->mean, s->n)[group];
        s->factor[c] *= tensor_row(w->rstd, s->n)[group];
    }
}

/* Adds the blocks' sums in order; then factor, which is gamma*(1 + scale)*rstd, is dx's own factor of dv, and
   s1 and s2 become its other two. */
static void backward_merge(const norm_work *w, const slab *s, int64_t begin, int64_t end)
{
    memset(s->s1 + begin, 0, (size_t)(end - begin) * sizeof(real));
    memset(s->s2 + begin, 0, (size_t)(end - begin) * sizeof(real));
    for (int64_t b = 0; b < w->blocks; b++) {
        for (int64_t c = begin; c < end; c++) {
            s->s1[c] += s->a[b * s->count + c];
            s->s2[c] += s->b[b * s->count + c];
        }
    }
    for (int64_t c = begin; c < end; c++)
        s->s2[c] *= tensor_row(w->rstd, s->n)[(s->c0 + c) / w->width];
    keep_sums(w, s, begin, end);
    for (int64_t c = begin; c < end; c += w->width) {
        const double r = (double)tensor_row(w->rstd, s->n)[(s->c0 + c) / w->width],
                     size = (double)(w->hw * w->width);
        double a = 0, b = 0;
        for (int64_t k = c; k < c + w->width; k++) {
            a += (double)s->factor[k] * (double)s->s1[k];
            b += (double)s->factor[k] * (double)s->s2[k];
        }
        for (int64_t k = c; k < c + w->width; k++) {
            s->s1[k] = (real)(a / size);
            s->s2[k] = (real)(b * r / size);
        }
    }
}

static void backward_slab(void *arg, int64_t index, int thread)
{
    const norm_work *w = arg;
    const slab s = slab_at(w, index / w->units, index % w->units * w->unit, thread);
    backward_begin(w, &s, 0, s.count);
    backward_sums(w, &s, 0, w->blocks);
    backward_merge(w, &s, 0, s.count);
    if (w->y.data) backward_write(w, &s, 0, w->blocks);
}

static void backward_start(void *arg, int64_t part, int thread)
{
    const norm_work *w = arg;
    const slab s = slab_at(w, w->row, 0, thread);
    int64_t begin, end;
    merge_range(w, part, &begin, &end);
    backward_begin(w, &s, begin, end);
}

static void backward_sum_part(void *arg, int64_t part, int thread)
{
    const norm_work *w = arg;
    const slab s = slab_at(w, w->row, 0, thread);
    backward_sums(w, &s, part * w->part_blocks,
                  lgv_min_i64((part + 1) * w->part_blocks, w->blocks));
}

static void backward_merge_part(void *arg, int64_t part, int thread)
{
    const norm_work *w = arg;
    const slab s = slab_at(w, w->row, 0, thread);
    int64_t begin, end;
    merge_range(w, part, &begin, &end);
    backward_merge(w, &s, begin, end);
}

static void backward_write_part(void *arg, int64_t part, int thread)
{
    const norm_work *w = arg;
    const slab s = slab_at(w, w->row, 0, thread);
    backward_write(w, &s, part * w->part_blocks,
                   lgv_min_i64((part + 1) * w->part_blocks, w->blocks));
}

static void reduce_rows(void *arg, int64_t block, int thread)
{
    const norm_work *w = arg;
    const int64_t begin = block * REDUCE_CHANNELS,
                  end = lgv_min_i64(begin + REDUCE_CHANNELS, w->channels);
    for (int k = 0; k < 2; k++) {
        real *y = w->call->out[1 + k].data;
        if (!y) continue;
        double total[REDUCE_CHANNELS] = {0};
        for (int64_t n = 0; n < w->n; n++)
            for (int64_t c = begin; c < end; c++)
                total[c - begin] += (double)w->sums[(k * w->n + n) * w->channels + c];
        for (int64_t c = begin; c < end; c++) y[c] = (real)total[c - begin];
    }
}

static norm_work backward_work(const lgv_call *c, int64_t *scratch)
{
    norm_work w = {.gamma = c->in[2].data};
    const int mean = c->op == LGV_OP_group_norm_grad ? 3 : 4;
    if (mean == 4) w.beta = c->in[3].data;
    w.mean = &c->in[mean];
    w.rstd = &c->in[mean + 1];
    if (mean == 4 && c->n_in > 6 && c->in[6].data) {
        w.scale = &c->in[6];
        w.shift = &c->in[7];
    }
    set_shape(&w, c, &c->in[1]);
    if (mean == 3) w.act = LGV_ACT_NONE;
    w.dy = pixels_of(&c->in[0]);
    w.direct = w.x.dtype == LGV_BF16 && w.dy.dtype == LGV_BF16 && w.y.dtype == LGV_BF16;
    w.keep = w.y.data && w.y.dtype == LGV_F32 && w.act != LGV_ACT_NONE;
    set_slabs(&w, (int64_t)(lgv_real_size(w.x.dtype) + lgv_real_size(w.dy.dtype) +
                            (w.y.data ? lgv_real_size(w.y.dtype) : 0)));
    *scratch = set_scratch(&w, 3) + 2 * w.n * w.channels;
    return w;
}

static size_t workspace_backward(const lgv_call *c)
{
    int64_t scratch;
    (void)backward_work(c, &scratch);
    return (size_t)scratch * sizeof(real);
}

static void run_backward(const lgv_call *c)
{
    static const steps backward = {backward_slab, backward_start, backward_sum_part,
                                   backward_merge_part, backward_write_part};
    int64_t scratch;
    norm_work w = backward_work(c, &scratch);
    run_slabs(&w, &backward, w.y.data);
    lgv_parallel(c, lgv_ceil_div(w.channels, REDUCE_CHANNELS), reduce_rows, &w);
}

static const lgv_kernel kernels[] = {
    {.op = LGV_OP_group_norm,
     .name = "plain",
     .bf16 = true,
     .workspace = workspace_forward,
     .run = run_forward},
    {.op = LGV_OP_norm_modulate_act,
     .name = "plain",
     .bf16 = true,
     .workspace = workspace_forward,
     .run = run_forward},
    {.op = LGV_OP_group_norm_grad,
     .name = "plain",
     .bf16 = true,
     .workspace = workspace_backward,
     .run = run_backward},
    {.op = LGV_OP_norm_modulate_act_grad,
     .name = "plain",
     .bf16 = true,
     .workspace = workspace_backward,
     .run = run_backward},
};
const lgv_kernel_list LGV_TABLE(norm) = {kernels, sizeof kernels / sizeof kernels[0]};
