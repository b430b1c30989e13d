/* conv.c - convolutions: the plain kernels, and the table of all.
   The plain kernels are the definition written as loops: any shape, stride, padding and layout. Sums run
   over channels, then taps, in a fixed order; the weight gradient adds one partial sum per row of
   pixels, which keeps float sums over large batches accurate. */
#include "conv_winograd.h"

typedef struct plain_run {
    conv_problem p;
    conv_epilogue e;
    bool accumulate;
} plain_run;

/* The sum over taps and input channels for output pixel (n, ho, wo), channel k. */
static real conv_sum(const conv_problem *p, int64_t n, int64_t ho, int64_t wo, int64_t k)
{
    real sum = 0;
    for (int i = 0; i < p->kh; i++) {
        int64_t h = ho * p->stride - p->top + i;
        if (h < 0 || h >= p->x.h) continue;
        for (int j = 0; j < p->kw; j++) {
            int64_t w = wo * p->stride - p->left + j;
            if (w < 0 || w >= p->x.w) continue;
            const real *x = p->xd + n * p->x.sn + h * p->x.sh + w * p->x.sw;
            const real *f = p->wd + k * p->ws[0] + i * p->ws[2] + j * p->ws[3];
            for (int64_t c = 0; c < p->x.c; c++) sum += x[c] * f[c * p->ws[1]];
        }
    }
    return sum;
}

static void plain_row(void *arg, int64_t block, int thread)
{
    const plain_run *r = arg;
    const conv_problem *p = &r->p;
    const conv_epilogue *e = &r->e;
    int64_t n = block / p->y.h, ho = block % p->y.h;
    for (int64_t wo = 0; wo < p->y.w; wo++) {
        real *y = p->yd + n * p->y.sn + ho * p->y.sh + wo * p->y.sw;
        const lgv_nhwc *s = &e->residual_shape;
        const real *residual =
            e->residual ? e->residual + n * s->sn + ho * s->sh + wo * s->sw : NULL;
        for (int64_t k = 0; k < p->y.c; k++) {
            real v = conv_sum(p, n, ho, wo, k);
            if (e->bias) v += e->bias[k];
            if (e->row) v += e->row[n * e->row_stride + k];
            v = v_first(v_act(v_set1(v), e->act));
            if (e->gate) v *= e->gate[n * e->gate_stride + k];
            if (residual) v += residual[k];
            y[k] = v;
        }
    }
}

void conv_plain(const lgv_call *c)
{
    plain_run r = {conv_describe(c), conv_describe_epilogue(c), false};
    lgv_parallel(c, r.p.y.n * r.p.y.h, plain_row, &r);
}

/* dx[n,h,w,c]: the outputs that read pixel (h, w) through tap (i, j) are those with ho*stride = h + top - i. */
static real grad_x_sum(const conv_problem *p, int64_t n, int64_t h, int64_t w, int64_t c)
{
    real sum = 0;
    for (int i = 0; i < p->kh; i++) {
        int64_t up = h + p->top - i;
        if (up < 0 || up % p->stride || up / p->stride >= p->y.h) continue;
        for (int j = 0; j < p->kw; j++) {
            int64_t across = w + p->left - j;
            if (across < 0 || across % p->stride || across / p->stride >= p->y.w) continue;
            const real *dy =
                p->yd + n * p->y.sn + up / p->stride * p->y.sh + across / p->stride * p->y.sw;
            const real *f = p->wd + c * p->ws[1] + i * p->ws[2] + j * p->ws[3];
            for (int64_t k = 0; k < p->y.c; k++) sum += dy[k] * f[k * p->ws[0]];
        }
    }
    return sum;
}

static void plain_grad_x_row(void *arg, int64_t block, int thread)
{
    const conv_problem *p = &((const plain_run *)arg)->p;
    int64_t n = block / p->x.h, h = block % p->x.h;
    for (int64_t w = 0; w < p->x.w; w++) {
        real *dx = p->xd + n * p->x.sn + h * p->x.sh + w * p->x.sw;
        for (int64_t c = 0; c < p->x.c; c++) dx[c] = grad_x_sum(p, n, h, w, c);
    }
}

void conv_plain_grad_x(const lgv_call *c)
{
    plain_run r = {.p = conv_describe(c)};
    lgv_parallel(c, r.p.x.n * r.p.x.h, plain_grad_x_row, &r);
}

static real grad_w_sum(const conv_problem *p, int64_t k, int64_t c, int i, int j)
{
    real total = 0;
    for (int64_t n = 0; n < p->y.n; n++) {
        for (int64_t ho = 0; ho < p->y.h; ho++) {
            int64_t h = ho * p->stride - p->top + i;
            if (h < 0 || h >= p->x.h) continue;
            const real *x = p->xd + n * p->x.sn + h * p->x.sh + c;
            const real *dy = p->yd + n * p->y.sn + ho * p->y.sh + k;
            real sum = 0;
            for (int64_t wo = 0; wo < p->y.w; wo++) {
                int64_t w = wo * p->stride - p->left + j;
                if (w >= 0 && w < p->x.w) sum += x[w * p->x.sw] * dy[wo * p->y.sw];
            }
            total += sum;
        }
    }
    return total;
}

static void plain_grad_w_output(void *arg, int64_t k, int thread)
{
    const plain_run *r = arg;
    const conv_problem *p = &r->p;
    for (int64_t c = 0; c < p->x.c; c++)
        for (int i = 0; i < p->kh; i++)
            for (int j = 0; j < p->kw; j++) {
                real *dw = p->wd + k * p->ws[0] + c * p->ws[1] + i * p->ws[2] + j * p->ws[3];
                real sum = grad_w_sum(p, k, c, i, j);
                *dw = r->accumulate ? *dw + sum : sum;
            }
}

void conv_plain_grad_w(const lgv_call *c)
{
    plain_run r = {.p = conv_describe(c), .accumulate = c->accumulate};
    lgv_parallel(c, r.p.y.c, plain_grad_w_output, &r);
}

static const lgv_kernel kernels[] = {
    {.op = LGV_OP_conv2d,
     .name = "few",
     .accepts = conv_few_accepts,
     .epilogue = CONV_EPILOGUE,
     .pack = conv_few_pack,
     .run_pack = conv_few_run_pack,
     .workspace = conv_few_workspace,
     .run = conv_few},
    {.op = LGV_OP_conv2d_grad_x,
     .name = "few",
     .accepts = conv_few_accepts,
     .pack = conv_few_pack,
     .run_pack = conv_few_run_pack,
     .workspace = conv_few_workspace,
     .run = conv_few},
    {.op = LGV_OP_conv2d_grad_w,
     .name = "few",
     .accepts = conv_few_w_accepts,
     .accumulates = true,
     .workspace = conv_few_w_workspace,
     .run = conv_few_w},
    {.op = LGV_OP_conv2d,
     .name = "winograd",
     .accepts = wino_accepts,
     .epilogue = CONV_EPILOGUE,
     .pack = wino_pack,
     .run_pack = wino_run_pack,
     .pack_optional = true,
     .workspace = wino_workspace,
     .run = wino_run},
    {.op = LGV_OP_conv2d_grad_x,
     .name = "winograd",
     .accepts = wino_accepts,
     .pack = wino_pack,
     .run_pack = wino_run_pack,
     .pack_optional = true,
     .workspace = wino_workspace,
     .run = wino_run},
    {.op = LGV_OP_conv2d_grad_w,
     .name = "winograd",
     .accepts = wino_w_accepts,
     .accumulates = true,
     .workspace = wino_w_workspace,
     .run = wino_w_run},
    {.op = LGV_OP_conv2d,
     .name = "gemm",
     .accepts = conv_gemm_accepts,
     .epilogue = CONV_EPILOGUE,
     .pack = conv_gemm_pack,
     .run_pack = conv_gemm_run_pack,
     .workspace = conv_gemm_workspace,
     .run = conv_gemm},
    {.op = LGV_OP_conv2d_grad_x,
     .name = "gemm",
     .accepts = conv_gemm_x_accepts,
     .pack = conv_gemm_x_pack,
     .run_pack = conv_gemm_x_run_pack,
     .workspace = conv_gemm_x_workspace,
     .run = conv_gemm_x},
    {.op = LGV_OP_conv2d_grad_w,
     .name = "gemm",
     .accepts = conv_gemm_accepts,
     .accumulates = true,
     .workspace = conv_gemm_w_workspace,
     .run = conv_gemm_w},
    {.op = LGV_OP_conv2d,
     .name = "plain",
     .accepts = conv_accepts,
     .epilogue = CONV_EPILOGUE,
     .run = conv_plain},
    {.op = LGV_OP_conv2d_grad_x,
     .name = "plain",
     .accepts = conv_accepts,
     .run = conv_plain_grad_x},
    {.op = LGV_OP_conv2d_grad_w,
     .name = "plain",
     .accepts = conv_accepts,
     .accumulates = true,
     .run = conv_plain_grad_w},
};
extern const lgv_kernel_list LGV_TABLE(conv);
const lgv_kernel_list LGV_TABLE(conv) = {kernels, sizeof kernels / sizeof *kernels};
