/* linear.c - linear layers: convolutions of one tap over positions (conv.h). */
#include "gemm.h"

static const lgv_kernel kernels[] = {
    {.op = LGV_OP_linear, .name = "gemm", .accepts = conv_gemm_accepts, .epilogue = CONV_EPILOGUE, .pack = conv_gemm_pack,
     .run_pack = conv_gemm_run_pack, .workspace = conv_gemm_workspace, .run = conv_gemm},
    {.op = LGV_OP_linear_grad_x, .name = "gemm", .accepts = conv_gemm_x_accepts, .pack = conv_gemm_x_pack,
     .run_pack = conv_gemm_x_run_pack, .workspace = conv_gemm_x_workspace, .run = conv_gemm_x},
    {.op = LGV_OP_linear_grad_w, .name = "gemm", .accepts = conv_gemm_accepts, .accumulates = true,
     .workspace = conv_gemm_w_workspace, .run = conv_gemm_w},
    {.op = LGV_OP_linear, .name = "plain", .accepts = conv_accepts, .epilogue = CONV_EPILOGUE, .run = conv_plain},
    {.op = LGV_OP_linear_grad_x, .name = "plain", .accepts = conv_accepts, .run = conv_plain_grad_x},
    {.op = LGV_OP_linear_grad_w, .name = "plain", .accepts = conv_accepts, .accumulates = true, .run = conv_plain_grad_w},
};
extern const lgv_kernel_list LGV_TABLE(linear);
const lgv_kernel_list LGV_TABLE(linear) = {kernels, sizeof kernels / sizeof *kernels};
