/* conv.h - one view of the six operators conv2d, linear and their gradients, for the kernels of conv.c,
   linear.c and gemm.c: a linear layer is a 1x1 convolution over positions. */
#ifndef LGV_CONV_H
#define LGV_CONV_H

#include "cpu/simd.h"
#include "plan/backend.h"

/* Functions shared between kernel files carry the level in their name. */
#define LGV_AT(name)             LGV_PASTE2_(name, LGV_LEVEL)
#define LGV_PASTE2_(name, level) LGV_PASTE3_(name, level)
#define LGV_PASTE3_(name, level) name##_##level

/* y[n,ho,wo,k] = sum over i,j,c of x[n, ho*stride - top + i, wo*stride - left + j, c] w[k,c,i,j].
   Which of x, y, w is the result depends on the operator. */
typedef struct conv_problem {
    lgv_nhwc x, y; /* shapes and strides; x.c = C, y.c = K */
    real *xd, *yd, *wd;
    int64_t ws[4]; /* strides of w[k,c,i,j] */
    int kh, kw, stride, top, left;
} conv_problem;

/* The epilogue of the forward operators; absent parts are NULL. */
typedef struct conv_epilogue {
    const real *bias;       /* [K] */
    const real *row, *gate; /* [N,K], rows row_stride and gate_stride apart */
    int64_t row_stride, gate_stride;
    const real *residual; /* like y */
    lgv_nhwc residual_shape;
    int act;
} conv_epilogue;

#define conv_describe          LGV_AT(lgv_conv_describe)
#define conv_describe_epilogue LGV_AT(lgv_conv_describe_epilogue)
#define conv_accepts           LGV_AT(lgv_conv_accepts)
#define conv_plain             LGV_AT(lgv_conv_plain)
#define conv_plain_grad_x      LGV_AT(lgv_conv_plain_grad_x)
#define conv_plain_grad_w      LGV_AT(lgv_conv_plain_grad_w)

conv_problem conv_describe(const lgv_call *c);
conv_epilogue conv_describe_epilogue(const lgv_call *c);
bool conv_accepts(const lgv_call *c); /* all values f32 */
void conv_plain(const lgv_call *c);
void conv_plain_grad_x(const lgv_call *c);
void conv_plain_grad_w(const lgv_call *c);

enum { CONV_EPILOGUE = LGV_EPI_BIAS | LGV_EPI_ROW | LGV_EPI_RESIDUAL | LGV_EPI_GATE | LGV_EPI_ACT };

#endif
