/* linear.c - linear layers: convolutions of one tap over positions (conv.h). */
#include "conv.h"

static const lgv_kernel kernels[] = {
    {.op = LGV_OP_linear, .name = "plain", .accepts = conv_accepts, .epilogue = CONV_EPILOGUE, .run = conv_plain},
    {.op = LGV_OP_linear_grad_x, .name = "plain", .accepts = conv_accepts, .run = conv_plain_grad_x},
    {.op = LGV_OP_linear_grad_w, .name = "plain", .accepts = conv_accepts, .accumulates = true, .run = conv_plain_grad_w},
};
extern const lgv_kernel_list LGV_TABLE(linear);
const lgv_kernel_list LGV_TABLE(linear) = {kernels, sizeof kernels / sizeof *kernels};
