/* norm.c - group normalisation forward and backward, with modulation and activation fused in.
   One unit of work is a row and a range of whole groups, small enough to stay in the second-level cache
   between the pass that measures and the pass that writes, so memory is read once.
   Statistics: mean and M2 (the sum of squared deviations) of every channel over fixed blocks of pixels,
   in float about the block's own mean, merged into groups in double in fixed order. The bits therefore
   depend on the shape alone: not on threads, strides, or the size of the batch. */
#include "cpu/pointwise.h"

enum { BLOCK_PIXELS = 128, UNIT_ELEMENTS = 65536, UNIT_CHANNELS = 32, REDUCE_CHANNELS = 64 };

typedef struct norm_work {
    const lgv_call *call;
    int act;
    double eps;
    int64_t n, hw, channels, groups, width; /* width: channels of a group */
    int64_t unit, units, blocks; /* channels of a unit, units of a row, blocks of pixels */
    pixels x, y, dy;             /* y: the output, dx in the backward pass */
    const real *gamma, *beta;    /* beta NULL: backward without activation */
    const lgv_tensor *scale, *shift, *mean, *rstd; /* scale NULL: no modulation */
    real *scratch, *sums; /* sums[2][n][channels]: dgamma and dbeta of each row */
    int64_t scratch_size; /* reals of one thread */
} norm_work;

static int64_t greatest_divisor(int64_t a, int64_t b)
{
    return b ? greatest_divisor(b, a % b) : a;
}

/* Whole groups, whole cache lines where that fits; small units when the batch alone gives too few. */
static int64_t unit_channels(int64_t n, int64_t hw, int64_t channels, int64_t width, int64_t arrays)
{
    int64_t want = lgv_max_i64(UNIT_CHANNELS, UNIT_ELEMENTS / (arrays * hw));
    if (n * lgv_ceil_div(channels, want) < 8) want = UNIT_CHANNELS;
    if (want >= channels) return channels;
    const int64_t quantum = width * (16 / greatest_divisor(width, 16));
    const int64_t step = quantum <= 2 * want ? quantum : width;
    return lgv_min_i64(channels, lgv_ceil_div(want, step) * step);
}

static void set_shape(norm_work *w, const lgv_call *c, const lgv_tensor *x, int64_t arrays)
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
    w->unit = unit_channels(w->n, w->hw, w->channels, w->width, arrays);
    w->units = lgv_ceil_div(w->channels, w->unit);
    w->blocks = lgv_ceil_div(w->hw, BLOCK_PIXELS);
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

/* --- Statistics ------------------------------------------------------------------------------------ */
/* Adds pixels [begin, end) to up to four vectors of sums: of x, or with centre of (x - centre)^2. */
static inline void add_pixels(const pixels *x, int64_t begin, int64_t end, int64_t c0,
                              int64_t count, const real *centre, real *sum)
{
    const bool whole = count == 4 * VL;
    for (int64_t i = begin; i < end;) {
        int64_t step, run = pixel_run(x, i, end - i, &step);
        const real *p = x->data + pixel_offset(x, i) + c0;
        if (whole) {
            vreal s0 = v_load(sum), s1 = v_load(sum + VL), s2 = v_load(sum + 2 * VL),
                  s3 = v_load(sum + 3 * VL);
            const vreal m0 = v_load(centre), m1 = v_load(centre + VL), m2 = v_load(centre + 2 * VL),
                        m3 = v_load(centre + 3 * VL);
            for (int64_t k = 0; k < run; k++, p += step) {
                const vreal d0 = v_sub(v_load(p), m0), d1 = v_sub(v_load(p + VL), m1);
                const vreal d2 = v_sub(v_load(p + 2 * VL), m2), d3 = v_sub(v_load(p + 3 * VL), m3);
                s0 = v_fma(d0, d0, s0);
                s1 = v_fma(d1, d1, s1);
                s2 = v_fma(d2, d2, s2);
                s3 = v_fma(d3, d3, s3);
            }
            v_store(sum, s0);
            v_store(sum + VL, s1);
            v_store(sum + 2 * VL, s2);
            v_store(sum + 3 * VL, s3);
        } else {
            for (int64_t c = 0; c < count; c += VL) {
                vreal s = v_get(sum + c, count - c);
                const vreal m = v_get(centre + c, count - c);
                for (int64_t k = 0; k < run; k++) {
                    const vreal d = v_sub(v_get(p + k * step + c, count - c), m);
                    s = v_fma(d, d, s);
                }
                v_put(sum + c, s, count - c);
            }
        }
        i += run;
    }
}

static inline void sum_pixels(const pixels *x, int64_t begin, int64_t end, int64_t c0,
                              int64_t count, real *sum)
{
    const bool whole = count == 4 * VL;
    for (int64_t i = begin; i < end;) {
        int64_t step, run = pixel_run(x, i, end - i, &step);
        const real *p = x->data + pixel_offset(x, i) + c0;
        if (whole) {
            vreal s0 = v_load(sum), s1 = v_load(sum + VL), s2 = v_load(sum + 2 * VL),
                  s3 = v_load(sum + 3 * VL);
            for (int64_t k = 0; k < run; k++, p += step) {
                s0 = v_add(s0, v_load(p));
                s1 = v_add(s1, v_load(p + VL));
                s2 = v_add(s2, v_load(p + 2 * VL));
                s3 = v_add(s3, v_load(p + 3 * VL));
            }
            v_store(sum, s0);
            v_store(sum + VL, s1);
            v_store(sum + 2 * VL, s2);
            v_store(sum + 3 * VL, s3);
        } else {
            for (int64_t c = 0; c < count; c += VL) {
                vreal s = v_get(sum + c, count - c);
                for (int64_t k = 0; k < run; k++) s = v_add(s, v_get(p + k * step + c, count - c));
                v_put(sum + c, s, count - c);
            }
        }
        i += run;
    }
}

/* mean[blocks][count] and m2[blocks][count] of row n, channels c0... A block of four vectors of channels
   fits the first-level cache, so its second pass is nearly free. */
static void measure(const norm_work *w, int64_t n, int64_t c0, int64_t count, real *mean, real *m2)
{
    memset(mean, 0, (size_t)(w->blocks * count) * sizeof(real));
    memset(m2, 0, (size_t)(w->blocks * count) * sizeof(real));
    for (int64_t b = 0; b < w->blocks; b++) {
        const int64_t begin = n * w->hw + b * BLOCK_PIXELS,
                      end = lgv_min_i64(begin + BLOCK_PIXELS, (n + 1) * w->hw);
        const real inverse = 1 / (real)(end - begin);
        for (int64_t c = 0; c < count; c += 4 * VL) {
            const int64_t some = lgv_min_i64(4 * VL, count - c);
            real *centre = mean + b * count + c;
            sum_pixels(&w->x, begin, end, c0 + c, some, centre);
            for (int64_t k = 0; k < some; k++) centre[k] *= inverse;
            add_pixels(&w->x, begin, end, c0 + c, some, centre, m2 + b * count + c);
        }
    }
}

/* Merges the channels [c, c + width) of all blocks (Chan, Golub, LeVeque 1979, eq. 2.1, for many parts at once). */
static void merge_group(const norm_work *w, int64_t c, int64_t count, const real *mean,
                        const real *m2, double *m, double *variance)
{
    const double size = (double)(w->hw * w->width);
    double sum = 0, deviation = 0;
    for (int64_t b = 0; b < w->blocks; b++) {
        const double pixels_here = (double)lgv_min_i64(BLOCK_PIXELS, w->hw - b * BLOCK_PIXELS);
        double part = 0;
        for (int64_t k = 0; k < w->width; k++) part += (double)mean[b * count + c + k];
        sum += pixels_here * part;
    }
    *m = sum / size;
    for (int64_t b = 0; b < w->blocks; b++) {
        const double pixels_here = (double)lgv_min_i64(BLOCK_PIXELS, w->hw - b * BLOCK_PIXELS);
        double part = 0, square = 0;
        for (int64_t k = 0; k < w->width; k++) {
            const double d = (double)mean[b * count + c + k] - *m;
            part += (double)m2[b * count + c + k];
            square += d * d;
        }
        deviation += part + pixels_here * square;
    }
    *variance = deviation / size;
}

/* --- Forward --------------------------------------------------------------------------------------- */
/* Up to two vectors of channels over a run of pixels: constants stay in registers, and a pixel's cache line
   is used whole. */
typedef struct lanes {
    int64_t count; /* channels, at most 2*VL */
    const real *mean, *factor, *offset;
} lanes;

static inline vreal get(const real *p, int64_t n, bool whole)
{
    return whole ? v_load(p) : v_get(p, n);
}
static inline void put(real *p, vreal a, int64_t n, bool whole)
{
    if (whole)
        v_store(p, a);
    else
        v_put(p, a, n);
}

/* y = act((x - mean)*factor + offset) with mean, factor, offset per channel. */
static inline void write_run(const real *x, int64_t x_step, real *y, int64_t y_step, int64_t run,
                             const lanes *l, int act, bool whole)
{
    const int64_t n = l->count, k = n - VL; /* lanes of the second vector, none when <= 0 */
    const vreal m0 = get(l->mean, n, whole), f0 = get(l->factor, n, whole),
                o0 = get(l->offset, n, whole);
    if (k <= 0) {
        for (int64_t i = 0; i < run; i++, x += x_step, y += y_step)
            put(y, v_act(v_fma(v_sub(get(x, n, whole), m0), f0, o0), act), n, whole);
        return;
    }
    const vreal m1 = get(l->mean + VL, k, whole), f1 = get(l->factor + VL, k, whole),
                o1 = get(l->offset + VL, k, whole);
    for (int64_t i = 0; i < run; i++, x += x_step, y += y_step) {
        const vreal u0 = v_fma(v_sub(get(x, n, whole), m0), f0, o0),
                    u1 = v_fma(v_sub(get(x + VL, k, whole), m1), f1, o1);
        put(y, v_act(u0, act), n, whole);
        put(y + VL, v_act(u1, act), k, whole);
    }
}

static void write_act(const real *x, int64_t x_step, real *y, int64_t y_step, int64_t run,
                      const lanes *l, int act)
{
    const bool whole = l->count == 2 * VL;
    switch (act) {
    case LGV_ACT_SILU:
        if (whole)
            write_run(x, x_step, y, y_step, run, l, LGV_ACT_SILU, true);
        else
            write_run(x, x_step, y, y_step, run, l, LGV_ACT_SILU, false);
        break;
    case LGV_ACT_MISH: write_run(x, x_step, y, y_step, run, l, LGV_ACT_MISH, false); break;
    case LGV_ACT_GELU: write_run(x, x_step, y, y_step, run, l, LGV_ACT_GELU, false); break;
    case LGV_ACT_RELU: write_run(x, x_step, y, y_step, run, l, LGV_ACT_RELU, false); break;
    default:
        if (whole)
            write_run(x, x_step, y, y_step, run, l, LGV_ACT_NONE, true);
        else
            write_run(x, x_step, y, y_step, run, l, LGV_ACT_NONE, false);
        break;
    }
}

static void normalise(const norm_work *w, int64_t n, int64_t c0, int64_t count, const real *mean,
                      const real *factor, const real *offset)
{
    const int64_t last = (n + 1) * w->hw;
    for (int64_t i = n * w->hw; i < last;) {
        int64_t x_step, y_step,
            run = pixel_run(&w->x, i, lgv_min_i64(BLOCK_PIXELS, last - i), &x_step);
        run = pixel_run(&w->y, i, run, &y_step);
        const real *x = w->x.data + pixel_offset(&w->x, i) + c0;
        real *y = w->y.data + pixel_offset(&w->y, i) + c0;
        for (int64_t c = 0; c < count; c += 2 * VL) {
            const lanes l = {lgv_min_i64(2 * VL, count - c), mean + c, factor + c, offset + c};
            write_act(x + c, x_step, y + c, y_step, run, &l, w->act);
        }
        i += run;
    }
}

static void forward_unit(void *arg, int64_t index, int thread)
{
    const norm_work *w = arg;
    const int64_t n = index / w->units, c0 = index % w->units * w->unit,
                  count = lgv_min_i64(w->unit, w->channels - c0);
    real *mean = w->scratch + thread * w->scratch_size, *m2 = mean + w->blocks * w->unit;
    real *centre = m2 + w->blocks * w->unit, *factor = centre + w->unit, *offset = factor + w->unit;
    measure(w, n, c0, count, mean, m2);
    for (int64_t c = 0; c < count; c += w->width) {
        double m, variance;
        merge_group(w, c, count, mean, m2, &m, &variance);
        const real r = (real)(1 / sqrt(variance + w->eps));
        const int64_t group = (c0 + c) / w->width;
        if (w->mean->data) tensor_row(w->mean, n)[group] = (real)m;
        if (w->rstd->data) tensor_row(w->rstd, n)[group] = r;
        for (int64_t k = c; k < c + w->width; k++) {
            channel_affine(w, n, c0 + k, &factor[k], &offset[k]);
            centre[k] = (real)m;
            factor[k] *= r;
        }
    }
    normalise(w, n, c0, count, centre, factor, offset);
}

static norm_work forward_work(const lgv_call *c)
{
    norm_work w = {.gamma = c->in[1].data,
                   .beta = c->in[2].data,
                   .mean = &c->out[1],
                   .rstd = &c->out[2],
                   .scratch = c->workspace};
    if (c->op == LGV_OP_norm_modulate_act && c->n_in > 3 && c->in[3].data) {
        w.scale = &c->in[3];
        w.shift = &c->in[4];
    }
    set_shape(&w, c, &c->in[0], 1);
    if (c->op == LGV_OP_group_norm) w.act = LGV_ACT_NONE;
    w.scratch_size = lgv_ceil_div((2 * w.blocks + 3) * w.unit, 16) * 16;
    return w;
}

static size_t workspace_forward(const lgv_call *c)
{
    return (size_t)(forward_work(c).scratch_size * c->threads) * sizeof(real);
}

static void run_forward(const lgv_call *c)
{
    norm_work w = forward_work(c);
    lgv_parallel(c, w.n * w.units, forward_unit, &w);
}

/* --- Backward --------------------------------------------------------------------------------------
   With v = xhat*factor + offset, y = act(v), dv = dy*act'(v), S1 = sum dv, S2 = sum dv*xhat over the pixels of
   a channel: dshift = S1, dscale = gamma*S2 + beta*S1, dbeta = sum_n (1 + scale)*S1, dgamma = sum_n (1 + scale)*S2,
   dx = rstd*(factor*dv - mean(factor*dv) - xhat*mean(factor*dv*xhat)), the means over the group. */

/* A run of pixels of the three tensors. */
typedef struct run3 {
    const real *x, *dy;
    real *dx;
    int64_t x_step, dy_step, dx_step, count;
} run3;

/* The run from pixel i on, at most limit pixels; dx stays NULL where there is none. */
static run3 run_at(const norm_work *w, int64_t i, int64_t limit, int64_t c0)
{
    run3 r = {0};
    r.count = pixel_run(&w->dy, i, pixel_run(&w->x, i, limit, &r.x_step), &r.dy_step);
    r.x = w->x.data + pixel_offset(&w->x, i) + c0;
    r.dy = w->dy.data + pixel_offset(&w->dy, i) + c0;
    if (!w->y.data) return r;
    r.count = pixel_run(&w->y, i, r.count, &r.dx_step);
    r.dx = w->y.data + pixel_offset(&w->y, i) + c0;
    return r;
}

/* Adds dv and dv*(x - mean) of a run to s1 and s2; keeps dv in dx for the second pass, unless it is dy itself. */
static inline void sums_run(run3 r, const lanes *l, real *s1, real *s2, int act, bool whole)
{
    const int64_t n = l->count, k = n - VL; /* lanes of the second vector, none when <= 0 */
    const bool two = whole || k > 0;
    const vreal m0 = get(l->mean, n, whole), f0 = get(l->factor, n, whole),
                o0 = get(l->offset, n, whole);
    const vreal m1 = two ? get(l->mean + VL, k, whole) : m0,
                f1 = two ? get(l->factor + VL, k, whole) : f0;
    const vreal o1 = two ? get(l->offset + VL, k, whole) : o0;
    vreal a0 = get(s1, n, whole), b0 = get(s2, n, whole);
    vreal a1 = two ? get(s1 + VL, k, whole) : a0, b1 = two ? get(s2 + VL, k, whole) : b0;
    const bool keep = act != LGV_ACT_NONE && r.dx;
    for (int64_t i = 0; i < r.count; i++, r.x += r.x_step, r.dy += r.dy_step) {
        real *dx = keep ? r.dx + i * r.dx_step : NULL;
        const vreal x0 = v_sub(get(r.x, n, whole), m0);
        vreal d0 = get(r.dy, n, whole);
        if (act != LGV_ACT_NONE) d0 = v_mul(d0, v_act_grad(v_fma(x0, f0, o0), act));
        a0 = v_add(a0, d0);
        b0 = v_fma(d0, x0, b0);
        if (keep) put(dx, d0, n, whole);
        if (!two) continue;
        const vreal x1 = v_sub(get(r.x + VL, k, whole), m1);
        vreal d1 = get(r.dy + VL, k, whole);
        if (act != LGV_ACT_NONE) d1 = v_mul(d1, v_act_grad(v_fma(x1, f1, o1), act));
        a1 = v_add(a1, d1);
        b1 = v_fma(d1, x1, b1);
        if (keep) put(dx + VL, d1, k, whole);
    }
    put(s1, a0, n, whole);
    put(s2, b0, n, whole);
    if (!two) return;
    put(s1 + VL, a1, k, whole);
    put(s2 + VL, b1, k, whole);
}

static void sums_act(run3 r, const lanes *l, real *s1, real *s2, int act)
{
    const bool whole = l->count == 2 * VL;
    switch (act) {
    case LGV_ACT_SILU:
        if (whole)
            sums_run(r, l, s1, s2, LGV_ACT_SILU, true);
        else
            sums_run(r, l, s1, s2, LGV_ACT_SILU, false);
        break;
    case LGV_ACT_MISH: sums_run(r, l, s1, s2, LGV_ACT_MISH, false); break;
    case LGV_ACT_GELU: sums_run(r, l, s1, s2, LGV_ACT_GELU, false); break;
    case LGV_ACT_RELU: sums_run(r, l, s1, s2, LGV_ACT_RELU, false); break;
    default:
        if (whole)
            sums_run(r, l, s1, s2, LGV_ACT_NONE, true);
        else
            sums_run(r, l, s1, s2, LGV_ACT_NONE, false);
        break;
    }
}

/* s1, s2 of a row: the sums of blocks of pixels, added in order. part: 2*count reals. */
static void backward_sums(const norm_work *w, int64_t n, int64_t c0, int64_t count,
                          const real *mean, const real *factor, const real *offset, real *s1,
                          real *s2, real *part)
{
    const int64_t last = (n + 1) * w->hw;
    memset(s1, 0, (size_t)count * sizeof(real));
    memset(s2, 0, (size_t)count * sizeof(real));
    for (int64_t begin = n * w->hw; begin < last; begin += BLOCK_PIXELS) {
        const int64_t end = lgv_min_i64(begin + BLOCK_PIXELS, last);
        memset(part, 0, (size_t)(2 * count) * sizeof(real));
        for (int64_t i = begin; i < end;) {
            const run3 r = run_at(w, i, end - i, c0);
            for (int64_t c = 0; c < count; c += 2 * VL) {
                const lanes l = {lgv_min_i64(2 * VL, count - c), mean + c, factor + c, offset + c};
                run3 here = r;
                here.x += c;
                here.dy += c;
                if (here.dx) here.dx += c;
                sums_act(here, &l, part + c, part + count + c, w->act);
            }
            i += r.count;
        }
        for (int64_t c = 0; c < count; c++) {
            s1[c] += part[c];
            s2[c] += part[count + c];
        }
    }
}

/* dx = dv*p - (x - mean)*q - o, each per channel (p is lanes' factor, o its offset). */
static inline void dx_run(run3 r, const lanes *l, const real *q, bool whole)
{
    const int64_t n = l->count, k = n - VL;
    const bool two = whole || k > 0;
    const vreal m0 = get(l->mean, n, whole), p0 = get(l->factor, n, whole),
                o0 = v_neg(get(l->offset, n, whole)), q0 = get(q, n, whole);
    const vreal m1 = two ? get(l->mean + VL, k, whole) : m0,
                p1 = two ? get(l->factor + VL, k, whole) : p0;
    const vreal o1 = two ? v_neg(get(l->offset + VL, k, whole)) : o0,
                q1 = two ? get(q + VL, k, whole) : q0;
    for (int64_t i = 0; i < r.count; i++, r.x += r.x_step, r.dy += r.dy_step, r.dx += r.dx_step) {
        put(r.dx, v_fnma(v_sub(get(r.x, n, whole), m0), q0, v_fma(get(r.dy, n, whole), p0, o0)), n,
            whole);
        if (two)
            put(r.dx + VL,
                v_fnma(v_sub(get(r.x + VL, k, whole), m1), q1,
                       v_fma(get(r.dy + VL, k, whole), p1, o1)),
                k, whole);
    }
}

static void backward_write(const norm_work *w, int64_t n, int64_t c0, int64_t count,
                           const real *mean, const real *p, const real *q, const real *o)
{
    const int64_t last = (n + 1) * w->hw;
    for (int64_t i = n * w->hw; i < last;) {
        run3 r = run_at(w, i, lgv_min_i64(BLOCK_PIXELS, last - i), c0);
        if (w->act != LGV_ACT_NONE) { /* the first pass left dv in dx */
            r.dy = r.dx;
            r.dy_step = r.dx_step;
        }
        for (int64_t c = 0; c < count; c += 2 * VL) {
            const lanes l = {lgv_min_i64(2 * VL, count - c), mean + c, p + c, o + c};
            run3 here = r;
            here.x += c;
            here.dy += c;
            here.dx += c;
            if (l.count == 2 * VL)
                dx_run(here, &l, q + c, true);
            else
                dx_run(here, &l, q + c, false);
        }
        i += r.count;
    }
}

/* What the sums of a row say about scale, shift, gamma and beta. s2 already holds sum dv*xhat. */
static void keep_sums(const norm_work *w, int64_t n, int64_t c0, int64_t count, const real *s1,
                      const real *s2)
{
    const lgv_tensor *dscale = &w->call->out[3], *dshift = &w->call->out[4];
    for (int64_t c = 0; c < count; c++) {
        const real one = w->scale ? 1 + tensor_row(w->scale, n)[c0 + c] : 1;
        w->sums[n * w->channels + c0 + c] = one * s2[c];
        w->sums[(w->n + n) * w->channels + c0 + c] = one * s1[c];
        if (!w->scale) continue;
        if (dscale->data)
            tensor_row(dscale, n)[c0 + c] = w->gamma[c0 + c] * s2[c] + w->beta[c0 + c] * s1[c];
        if (dshift->data) tensor_row(dshift, n)[c0 + c] = s1[c];
    }
}

static void backward_unit(void *arg, int64_t index, int thread)
{
    const norm_work *w = arg;
    const int64_t n = index / w->units, c0 = index % w->units * w->unit,
                  count = lgv_min_i64(w->unit, w->channels - c0);
    real *centre = w->scratch + thread * w->scratch_size, *factor = centre + w->unit,
         *offset = factor + w->unit;
    real *s1 = offset + w->unit, *s2 = s1 + w->unit, *part = s2 + w->unit;
    for (int64_t c = 0; c < count; c++) {
        const int64_t group = (c0 + c) / w->width;
        channel_affine(w, n, c0 + c, &factor[c], &offset[c]);
        centre[c] = tensor_row(w->mean, n)[group];
        factor[c] *= tensor_row(w->rstd, n)[group];
    }
    backward_sums(w, n, c0, count, centre, factor, offset, s1, s2, part);
    for (int64_t c = 0; c < count; c++) s2[c] *= tensor_row(w->rstd, n)[(c0 + c) / w->width];
    keep_sums(w, n, c0, count, s1, s2);
    if (!w->y.data) return;
    /* factor holds gamma*(1 + scale)*rstd, which is dx's own factor of dv; s1 and s2 become its other two. */
    for (int64_t c = 0; c < count; c += w->width) {
        const double r = (double)tensor_row(w->rstd, n)[(c0 + c) / w->width],
                     size = (double)(w->hw * w->width);
        double a = 0, b = 0;
        for (int64_t k = c; k < c + w->width; k++) {
            a += (double)factor[k] * (double)s1[k];
            b += (double)factor[k] * (double)s2[k];
        }
        for (int64_t k = c; k < c + w->width; k++) {
            s1[k] = (real)(a / size);
            s2[k] = (real)(b * r / size);
        }
    }
    backward_write(w, n, c0, count, centre, factor, s2, s1);
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

static norm_work backward_work(const lgv_call *c)
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
    set_shape(&w, c, &c->in[1], 3);
    if (mean == 3) w.act = LGV_ACT_NONE;
    w.dy = pixels_of(&c->in[0]);
    w.scratch_size = lgv_ceil_div(7 * w.unit, 16) * 16;
    w.scratch = c->workspace;
    w.sums = w.scratch + w.scratch_size * c->threads;
    return w;
}

static size_t workspace_backward(const lgv_call *c)
{
    const norm_work w = backward_work(c);
    return (size_t)(w.scratch_size * c->threads + 2 * w.n * w.channels) * sizeof(real);
}

static void run_backward(const lgv_call *c)
{
    norm_work w = backward_work(c);
    lgv_parallel(c, w.n * w.units, backward_unit, &w);
    lgv_parallel(c, lgv_ceil_div(w.channels, REDUCE_CHANNELS), reduce_rows, &w);
}

static const lgv_kernel kernels[] = {
    {.op = LGV_OP_group_norm, .name = "plain", .workspace = workspace_forward, .run = run_forward},
    {.op = LGV_OP_norm_modulate_act,
     .name = "plain",
     .workspace = workspace_forward,
     .run = run_forward},
    {.op = LGV_OP_group_norm_grad,
     .name = "plain",
     .workspace = workspace_backward,
     .run = run_backward},
    {.op = LGV_OP_norm_modulate_act_grad,
     .name = "plain",
     .workspace = workspace_backward,
     .run = run_backward},
};
const lgv_kernel_list LGV_TABLE(norm) = {kernels, sizeof kernels / sizeof kernels[0]};
