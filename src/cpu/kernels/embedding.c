/* embedding.c - sinusoids of the timestep, Fourier features, table rows.
   The arithmetic is PyTorch's (every product and quotient rounded to float), so that embeddings agree to
   the last bits of sin and cos; those come from the library's own functions in double. */
#include "cpu/pointwise.h"

/* Where sine and cosine of frequency i go: [sin, cos], or [cos, sin] when flipped. */
static void put_angle(real *y, int64_t i, int64_t half, bool flip, real angle)
{
    double s, c;
    lgv_sincos((double)angle, &s, &c);
    y[i] = (real)(flip ? c : s);
    y[half + i] = (real)(flip ? s : c);
}

static void run_timestep(const lgv_call *c)
{
    const lgv_attr_time *a = c->attr;
    const lgv_tensor *t = &c->in[0], *out = &c->out[0];
    const int64_t half = a->dim / 2;
    for (int64_t i = 0; i < half; i++) {
        const real exponent =
            (real)-9.210340371976184 * (real)i / (real)((double)half - a->shift); /* -ln 10000 */
        const real frequency = (real)lgv_exp((double)exponent);
        for (int64_t n = 0; n < t->dim[0]; n++) {
            real *y = (real *)out->data + n * out->stride[0];
            put_angle(y, i, half, a->flip, ((const real *)t->data)[n * t->stride[0]] * frequency);
            if (a->dim % 2) y[a->dim - 1] = 0;
        }
    }
}

static void run_fourier(const lgv_call *c)
{
    const lgv_tensor *t = &c->in[0], *out = &c->out[0];
    const real *w = c->in[1].data, pi = (real)3.14159265358979323846;
    const int64_t half = c->in[1].dim[0];
    for (int64_t n = 0; n < t->dim[0]; n++) {
        const real logarithm = r_log(((const real *)t->data)[n * t->stride[0]]);
        for (int64_t i = 0; i < half; i++) {
            put_angle((real *)out->data + n * out->stride[0], i, half,
                      ((const lgv_attr_time *)c->attr)->flip,
                      logarithm * w[i * c->in[1].stride[0]] * 2 * pi);
        }
    }
}

/* The host checks labels; an index outside the table must still read nothing there, and must show. */
static void run_embedding(const lgv_call *c)
{
    const lgv_tensor *table = &c->in[0], *index = &c->in[1], *out = &c->out[0];
    for (int64_t n = 0; n < out->dim[0]; n++) {
        const int64_t k = ((const int32_t *)index->data)[n * index->stride[0]];
        real *y = (real *)out->data + n * out->stride[0];
        if (k >= 0 && k < table->dim[0]) {
            memcpy(y, (const real *)table->data + k * table->stride[0],
                   (size_t)out->dim[1] * sizeof(real));
        } else {
            for (int64_t i = 0; i < out->dim[1]; i++) y[i] = (real)NAN;
        }
    }
}

/* Rows are added in the order of the batch; each block owns some channels. */
enum { GRAD_CHANNELS = 64 };

static void embedding_grad_part(void *arg, int64_t block, int thread)
{
    const lgv_call *c = arg;
    const lgv_tensor *dy = &c->in[0], *index = &c->in[1], *out = &c->out[0];
    const int64_t c0 = block * GRAD_CHANNELS, count = lgv_min_i64(GRAD_CHANNELS, out->dim[1] - c0);
    for (int64_t k = 0; k < out->dim[0] && !c->accumulate; k++)
        memset((real *)out->data + k * out->stride[0] + c0, 0, (size_t)count * sizeof(real));
    for (int64_t n = 0; n < dy->dim[0]; n++) {
        const int64_t k = ((const int32_t *)index->data)[n * index->stride[0]];
        if (k < 0 || k >= out->dim[0]) continue;
        const real *d = (const real *)dy->data + n * dy->stride[0] + c0;
        real *y = (real *)out->data + k * out->stride[0] + c0;
        for (int64_t i = 0; i < count; i++) y[i] += d[i];
    }
}

static void run_embedding_grad(const lgv_call *c)
{
    lgv_parallel(c, lgv_ceil_div(c->out[0].dim[1], GRAD_CHANNELS), embedding_grad_part,
                 (void *)(uintptr_t)c);
}

static const lgv_kernel kernels[] = {
    {.op = LGV_OP_timestep_embedding, .name = "plain", .run = run_timestep},
    {.op = LGV_OP_fourier_embedding, .name = "plain", .run = run_fourier},
    {.op = LGV_OP_embedding, .name = "plain", .run = run_embedding},
    {.op = LGV_OP_embedding_grad, .name = "plain", .accumulates = true, .run = run_embedding_grad},
};
const lgv_kernel_list LGV_TABLE(embedding) = {kernels, sizeof kernels / sizeof kernels[0]};
