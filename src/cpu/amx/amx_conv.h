/* amx_conv.h - the AMX kernels of the six operators conv2d, linear and their gradients. */
#ifndef LGV_AMX_CONV_H
#define LGV_AMX_CONV_H

#include "amx_product.h"

enum { AMX_MAX_TAPS = 64, AMX_MAX_STRIDE = 4 };

#define amx_conv_w_accepts     LGV_AT(lgv_amx_conv_w_accepts)
#define amx_conv_w_workspace   LGV_AT(lgv_amx_conv_w_workspace)
#define amx_conv_w             LGV_AT(lgv_amx_conv_w)
#define amx_matrix_w_accepts   LGV_AT(lgv_amx_matrix_w_accepts)
#define amx_matrix_w_workspace LGV_AT(lgv_amx_matrix_w_workspace)
#define amx_matrix_w           LGV_AT(lgv_amx_matrix_w)
#define amx_pack_weights       LGV_AT(lgv_amx_pack_weights)

/* The gradient for weights (amx_conv_w.c). */
bool amx_conv_w_accepts(const lgv_call *c);
size_t amx_conv_w_workspace(const lgv_call *c);
void amx_conv_w(const lgv_call *c);

/* The same where x and dy are matrices (amx_matrix_w.c). */
bool amx_matrix_w_accepts(const lgv_call *c);
size_t amx_matrix_w_workspace(const lgv_call *c);
void amx_matrix_w(const lgv_call *c);

/* How a weight becomes right operands: column o and inner row (tap t, channel c) hold w[o*so + c*sc + place[t]].
   Inner rows are steps of 32 channels and in each all taps (gathered: taps and in each all channels, with
   no gap between taps). */
typedef struct amx_weights {
    const float *w;
    int64_t columns, so, channels, sc;
    int taps, window; /* window: of the weight; taps may be a part of it */
    int64_t place[AMX_MAX_TAPS];
    bool gathered;
    int64_t steps; /* a block of 32 columns */
} amx_weights;

/* The columns' blocks one after another, block_stride elements apart. */
void amx_pack_weights(const lgv_call *c, const amx_weights *w, uint16_t *to, int64_t block_stride);

#endif
