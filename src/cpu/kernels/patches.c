/* patches.c - patches to pixels and back as copies of whole lines of a patch, and the table of positions, which is
   made anew in each run: H + W vectors, whose sums over rows and columns it is. */
#include "cpu/pointwise.h"

/* --- Copies ----------------------------------------------------------------------------------------- */
typedef struct patch_work {
    const lgv_call *call;
    pixels patch, picture;
    int64_t p;
    bool back; /* picture to patches */
} patch_work;

/* Line `block` of all patches: row block % p of the pixels of patch row block / p. */
static void patch_line(void *arg, int64_t block, int thread)
{
    const patch_work *w = arg;
    const int64_t c = w->picture.a.c, width = w->patch.a.w, row = block / w->p, i = block % w->p;
    const size_t size = lgv_real_size(w->picture.dtype) * (size_t)c;
    (void)thread;
    for (int64_t x = 0; x < width; x++) {
        char *patch = pixel_at(&w->patch, row * width + x, i * w->p * c);
        for (int64_t j = 0; j < w->p; j++) {
            char *pixel = pixel_at(&w->picture, (block * width + x) * w->p + j, 0);
            memcpy(w->back ? patch + (size_t)j * size : pixel,
                   w->back ? pixel : patch + (size_t)j * size, size);
        }
    }
}

static void run_patches(const lgv_call *c)
{
    const bool back = c->op == LGV_OP_patchify;
    patch_work w = {.call = c, .p = ((const lgv_attr_patch *)c->attr)->patch, .back = back};
    w.patch = pixels_of(back ? &c->out[0] : &c->in[0]);
    w.picture = pixels_of(back ? &c->in[0] : &c->out[0]);
    lgv_parallel(c, w.picture.a.n * w.picture.a.h, patch_line, &w);
}

/* --- Positions --------------------------------------------------------------------------------------- */
typedef struct position_work {
    const lgv_call *call;
    int64_t h, w, quarter;
    double step_h, step_w; /* from one position to the next */
    real *table;           /* [w + h][2 quarter] */
} position_work;

/* Vector `index` of the table: columns first, then rows; all in double as NumPy's float64. */
static void position_vector(void *arg, int64_t index, int thread)
{
    const position_work *w = arg;
    const double at =
        index < w->w ? (double)index * w->step_w : (double)(index - w->w) * w->step_h;
    real *to = w->table + index * 2 * w->quarter;
    (void)thread;
    for (int64_t i = 0; i < w->quarter; i++) {
        double s, c, frequency = 1 / lgv_pow(10000, (double)i / (double)w->quarter);
        lgv_sincos(at * frequency, &s, &c);
        to[i] = (real)s;
        to[w->quarter + i] = (real)c;
    }
}

/* The vectors of a position lie side by side in its channels: those of the column, those of the row. */
static void body_positions(const span_work *w, const span *s)
{
    const position_work *p = (const position_work *)w->data;
    const int64_t half = 2 * p->quarter;
    for (int64_t i = 0; i < s->len; i += s->channels) {
        const int64_t position = (s->first + i) / (2 * half);
        const real *x = (const real *)s->p[0] + i,
                   *column = p->table + position % p->w * half,
                   *row = p->table + (p->w + position / p->w) * half;
        real *y = (real *)s->p[1] + i;
        for (int64_t c = 0; c < s->channels;) {
            const int64_t channel = s->channel + c;
            const real *t = channel < half ? column + channel : row + channel - half;
            const int64_t n = lgv_min_i64((channel < half ? half : 2 * half) - channel,
                                          lgv_min_i64(VL, s->channels - c));
            v_put(y + c, v_add(v_get(x + c, n), v_get(t, n)), n);
            c += n;
        }
    }
}

static size_t workspace_positions(const lgv_call *c)
{
    const lgv_nhwc a = lgv_as_nhwc(&c->in[0]);
    return (size_t)((a.h + a.w) * (a.c / 2)) * sizeof(real);
}

static void run_positions(const lgv_call *c)
{
    const lgv_attr_positions *attr = c->attr;
    const lgv_nhwc a = lgv_as_nhwc(&c->in[0]);
    position_work p = {.call = c, .h = a.h, .w = a.w, .quarter = a.c / 4, .table = c->workspace};
    p.step_h = attr->base_h ? (double)attr->base_h / (double)a.h : 1;
    p.step_w = attr->base_w ? (double)attr->base_w / (double)a.w : 1;
    lgv_parallel(c, a.h + a.w, position_vector, &p);
    span_work w = {.call = c,
                   .operand = {&c->in[0], &c->out[0]},
                   .count = 2,
                   .body = body_positions,
                   .data = &p};
    run_spans(&w, true);
}

static const lgv_kernel kernels[] = {
    {.op = LGV_OP_unpatchify, .name = "plain", .bf16 = true, .run = run_patches},
    {.op = LGV_OP_patchify, .name = "plain", .bf16 = true, .run = run_patches},
    {.op = LGV_OP_add_positions,
     .name = "plain",
     .bf16 = true,
     .workspace = workspace_positions,
     .run = run_positions},
};
const lgv_kernel_list LGV_TABLE(patches) = {kernels, sizeof kernels / sizeof kernels[0]};
