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
    int64_t unit, units, blocks;            /* channels of a unit, units of a row, blocks of pixels */
    pixels x, y, dy;                        /* y: the output, dx in the backward pass */
    const real *gamma, *beta;               /* beta NULL: backward without activation */
    const lgv_tensor *scale, *shift, *mean, *rstd; /* scale NULL: no modulation */
    real *scratch, *sums;                   /* sums[2][n][channels]: dgamma and dbeta of each row */
    int64_t scratch_size;                   /* reals of one thread */
} norm_work;

static int64_t greatest_divisor(int64_t a, int64_t b) { return b ? greatest_divisor(b, a % b) : a; }

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

static real *tensor_row(const lgv_tensor *t, int64_t n) { return (real *)t->data + n * t->stride[0]; }

/* The factor gamma*(1 + scale) and offset beta*(1 + scale) + shift of channel c of row n. */
static void channel_affine(const norm_work *w, int64_t n, int64_t c, real *factor, real *offset)
{
    const real one = w->scale ? 1 + tensor_row(w->scale, n)[c] : 1;
    *factor = w->gamma[c] * one;
    *offset = (w->beta ? w->beta[c] * one : 0) + (w->shift ? tensor_row(w->shift, n)[c] : 0);
}

/* --- Statistics ------------------------------------------------------------------------------------ */
/* Adds pixels [begin, end) to up to four vectors of sums: of x, or with centre of (x - centre)^2. */
static inline void add_pixels(const pixels *x, int64_t begin, int64_t end, int64_t c0, int64_t count,
                              const real *centre, real *sum)
{
    const bool whole = count == 4 * VL;
    for (int64_t i = begin; i < end;) {
        int64_t step, run = pixel_run(x, i, end - i, &step);
        const real *p = x->data + pixel_offset(x, i) + c0;
        if (whole) {
            vreal s0 = v_load(sum), s1 = v_load(sum + VL), s2 = v_load(sum + 2 * VL), s3 = v_load(sum + 3 * VL);
            const vreal m0 = v_load(centre), m1 = v_load(centre + VL), m2 = v_load(centre + 2 * VL), m3 = v_load(centre + 3 * VL);
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

static inline void sum_pixels(const pixels *x, int64_t begin, int64_t end, int64_t c0, int64_t count, real *sum)
{
    const bool whole = count == 4 * VL;
    for (int64_t i = begin; i < end;) {
        int64_t step, run = pixel_run(x, i, end - i, &step);
        const real *p = x->data + pixel_offset(x, i) + c0;
        if (whole) {
            vreal s0 = v_load(sum), s1 = v_load(sum + VL), s2 = v_load(sum + 2 * VL), s3 = v_load(sum + 3 * VL);
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
        const int64_t begin = n * w->hw + b * BLOCK_PIXELS, end = lgv_min_i64(begin + BLOCK_PIXELS, (n + 1) * w->hw);
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
static void merge_group(const norm_work *w, int64_t c, int64_t count, const real *mean, const real *m2, double *m, double *variance)
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
/* y = act((x - mean)*factor + offset) with mean, factor, offset per channel. */
static inline void write_pixels(const norm_work *w, int64_t n, int64_t c0, int64_t count, const real *mean, const real *factor,
                                const real *offset, int act)
{
    for (int64_t i = n * w->hw; i < (n + 1) * w->hw; i++) {
        const real *x = w->x.data + pixel_offset(&w->x, i) + c0;
        real *y = w->y.data + pixel_offset(&w->y, i) + c0;
        int64_t c = 0;
        for (; c + VL <= count; c += VL) {
            const vreal u = v_fma(v_sub(v_load(x + c), v_load(mean + c)), v_load(factor + c), v_load(offset + c));
            v_store(y + c, v_act(u, act));
        }
        if (c < count) {
            const int64_t k = count - c;
            const vreal u = v_fma(v_sub(v_load_n(x + c, k), v_load_n(mean + c, k)), v_load_n(factor + c, k), v_load_n(offset + c, k));
            v_store_n(y + c, v_act(u, act), k);
        }
    }
}

static void normalise(const norm_work *w, int64_t n, int64_t c0, int64_t count, const real *mean, const real *factor, const real *offset)
{
    switch (w->act) {
    case LGV_ACT_SILU: write_pixels(w, n, c0, count, mean, factor, offset, LGV_ACT_SILU); break;
    case LGV_ACT_MISH: write_pixels(w, n, c0, count, mean, factor, offset, LGV_ACT_MISH); break;
    case LGV_ACT_GELU: write_pixels(w, n, c0, count, mean, factor, offset, LGV_ACT_GELU); break;
    case LGV_ACT_RELU: write_pixels(w, n, c0, count, mean, factor, offset, LGV_ACT_RELU); break;
    default: write_pixels(w, n, c0, count, mean, factor, offset, LGV_ACT_NONE); break;
    }
}

static void forward_unit(void *arg, int64_t index, int thread)
{
    const norm_work *w = arg;
    const int64_t n = index / w->units, c0 = index % w->units * w->unit, count = lgv_min_i64(w->unit, w->channels - c0);
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
    norm_work w = {.gamma = c->in[1].data, .beta = c->in[2].data, .mean = &c->out[1], .rstd = &c->out[2], .scratch = c->workspace};
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

/* Sums of dv and dv*(x - mean) over pixels [begin, end) of up to two vectors of channels; keeps dv in dx
   for the second pass, unless it is dy itself. */
static inline void backward_pixels(const norm_work *w, int64_t begin, int64_t end, int64_t c0, int64_t count, const real *mean,
                                   const real *factor, const real *offset, real *s1, real *s2, int act)
{
    const int64_t k = count - VL; /* lanes of the second vector, none when <= 0 */
    const vreal m0 = v_get(mean, count), f0 = v_get(factor, count), o0 = v_get(offset, count);
    const vreal m1 = k > 0 ? v_get(mean + VL, k) : m0, f1 = k > 0 ? v_get(factor + VL, k) : f0, o1 = k > 0 ? v_get(offset + VL, k) : o0;
    vreal a0 = v_get(s1, count), b0 = v_get(s2, count), a1 = v_zero(), b1 = v_zero();
    if (k > 0) {
        a1 = v_get(s1 + VL, k);
        b1 = v_get(s2 + VL, k);
    }
    const bool keep = act != LGV_ACT_NONE && w->y.data;
    for (int64_t i = begin; i < end; i++) {
        const real *x = w->x.data + pixel_offset(&w->x, i) + c0, *dy = w->dy.data + pixel_offset(&w->dy, i) + c0;
        real *dx = keep ? w->y.data + pixel_offset(&w->y, i) + c0 : NULL;
        const vreal x0 = v_sub(v_get(x, count), m0);
        vreal d0 = v_get(dy, count);
        if (act != LGV_ACT_NONE) d0 = v_mul(d0, v_act_grad(v_fma(x0, f0, o0), act));
        a0 = v_add(a0, d0);
        b0 = v_fma(d0, x0, b0);
        if (dx) v_put(dx, d0, count);
        if (k <= 0) continue;
        const vreal x1 = v_sub(v_get(x + VL, k), m1);
        vreal d1 = v_get(dy + VL, k);
        if (act != LGV_ACT_NONE) d1 = v_mul(d1, v_act_grad(v_fma(x1, f1, o1), act));
        a1 = v_add(a1, d1);
        b1 = v_fma(d1, x1, b1);
        if (dx) v_put(dx + VL, d1, k);
    }
    v_put(s1, a0, count);
    v_put(s2, b0, count);
    if (k > 0) {
        v_put(s1 + VL, a1, k);
        v_put(s2 + VL, b1, k);
    }
}

static void backward_sums(const norm_work *w, int64_t n, int64_t c0, int64_t count, const real *mean, const real *factor,
                          const real *offset, real *s1, real *s2)
{
    memset(s1, 0, (size_t)count * sizeof(real));
    memset(s2, 0, (size_t)count * sizeof(real));
    for (int64_t i = n * w->hw; i < (n + 1) * w->hw; i += BLOCK_PIXELS) {
        const int64_t end = lgv_min_i64(i + BLOCK_PIXELS, (n + 1) * w->hw);
        for (int64_t c = 0; c < count; c += 2 * VL) {
            const int64_t some = lgv_min_i64(2 * VL, count - c);
            real p1[2 * VL] = {0}, p2[2 * VL] = {0};
            switch (w->act) {
            case LGV_ACT_SILU: backward_pixels(w, i, end, c0 + c, some, mean + c, factor + c, offset + c, p1, p2, LGV_ACT_SILU); break;
            case LGV_ACT_MISH: backward_pixels(w, i, end, c0 + c, some, mean + c, factor + c, offset + c, p1, p2, LGV_ACT_MISH); break;
            case LGV_ACT_GELU: backward_pixels(w, i, end, c0 + c, some, mean + c, factor + c, offset + c, p1, p2, LGV_ACT_GELU); break;
            case LGV_ACT_RELU: backward_pixels(w, i, end, c0 + c, some, mean + c, factor + c, offset + c, p1, p2, LGV_ACT_RELU); break;
            default: backward_pixels(w, i, end, c0 + c, some, mean + c, factor + c, offset + c, p1, p2, LGV_ACT_NONE); break;
            }
            for (int64_t k = 0; k < some; k++) {
                s1[c + k] += p1[k];
                s2[c + k] += p2[k];
            }
        }
    }
}

/* dx = dv*p - (x - mean)*q - r, each per channel. */
static void backward_write(const norm_work *w, int64_t n, int64_t c0, int64_t count, const real *mean, const real *p, const real *q, const real *r)
{
    const pixels *dv = w->act == LGV_ACT_NONE ? &w->dy : &w->y;
    for (int64_t i = n * w->hw; i < (n + 1) * w->hw; i++) {
        const real *x = w->x.data + pixel_offset(&w->x, i) + c0, *d = dv->data + pixel_offset(dv, i) + c0;
        real *dx = w->y.data + pixel_offset(&w->y, i) + c0;
        int64_t c = 0;
        for (; c + VL <= count; c += VL) {
            const vreal u = v_fma(v_load(d + c), v_load(p + c), v_neg(v_load(r + c)));
            v_store(dx + c, v_fnma(v_sub(v_load(x + c), v_load(mean + c)), v_load(q + c), u));
        }
        if (c < count) {
            const int64_t k = count - c;
            const vreal u = v_fma(v_load_n(d + c, k), v_load_n(p + c, k), v_neg(v_load_n(r + c, k)));
            v_store_n(dx + c, v_fnma(v_sub(v_load_n(x + c, k), v_load_n(mean + c, k)), v_load_n(q + c, k), u), k);
        }
    }
}

/* What the sums of a row say about scale, shift, gamma and beta. s2 already holds sum dv*xhat. */
static void keep_sums(const norm_work *w, int64_t n, int64_t c0, int64_t count, const real *s1, const real *s2)
{
    const lgv_tensor *dscale = &w->call->out[3], *dshift = &w->call->out[4];
    for (int64_t c = 0; c < count; c++) {
        const real one = w->scale ? 1 + tensor_row(w->scale, n)[c0 + c] : 1;
        w->sums[n * w->channels + c0 + c] = one * s2[c];
        w->sums[(w->n + n) * w->channels + c0 + c] = one * s1[c];
        if (!w->scale) continue;
        if (dscale->data) tensor_row(dscale, n)[c0 + c] = w->gamma[c0 + c] * s2[c] + w->beta[c0 + c] * s1[c];
        if (dshift->data) tensor_row(dshift, n)[c0 + c] = s1[c];
    }
}

static void backward_unit(void *arg, int64_t index, int thread)
{
    const norm_work *w = arg;
    const int64_t n = index / w->units, c0 = index % w->units * w->unit, count = lgv_min_i64(w->unit, w->channels - c0);
    real *centre = w->scratch + thread * w->scratch_size, *factor = centre + w->unit, *offset = factor + w->unit;
    real *s1 = offset + w->unit, *s2 = s1 + w->unit;
    for (int64_t c = 0; c < count; c++) {
        const int64_t group = (c0 + c) / w->width;
        channel_affine(w, n, c0 + c, &factor[c], &offset[c]);
        centre[c] = tensor_row(w->mean, n)[group];
        factor[c] *= tensor_row(w->rstd, n)[group];
    }
    backward_sums(w, n, c0, count, centre, factor, offset, s1, s2);
    for (int64_t c = 0; c < count; c++) s2[c] *= tensor_row(w->rstd, n)[(c0 + c) / w->width];
    keep_sums(w, n, c0, count, s1, s2);
    if (!w->y.data) return;
    /* factor holds gamma*(1 + scale)*rstd, which is dx's own factor of dv; s1 and s2 become its other two. */
    for (int64_t c = 0; c < count; c += w->width) {
        const double r = (double)tensor_row(w->rstd, n)[(c0 + c) / w->width], size = (double)(w->hw * w->width);
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
    const int64_t begin = block * REDUCE_CHANNELS, end = lgv_min_i64(begin + REDUCE_CHANNELS, w->channels);
    for (int k = 0; k < 2; k++) {
        real *y = w->call->out[1 + k].data;
        if (!y) continue;
        double total[REDUCE_CHANNELS] = {0};
        for (int64_t n = 0; n < w->n; n++)
            for (int64_t c = begin; c < end; c++) total[c - begin] += (double)w->sums[(k * w->n + n) * w->channels + c];
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
    w.scratch_size = lgv_ceil_div(5 * w.unit, 16) * 16;
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
    {.op = LGV_OP_norm_modulate_act, .name = "plain", .workspace = workspace_forward, .run = run_forward},
    {.op = LGV_OP_group_norm_grad, .name = "plain", .workspace = workspace_backward, .run = run_backward},
    {.op = LGV_OP_norm_modulate_act_grad, .name = "plain", .workspace = workspace_backward, .run = run_backward},
};
const lgv_kernel_list LGV_TABLE(norm) = {kernels, sizeof kernels / sizeof kernels[0]};
