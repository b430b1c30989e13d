/* ops.h - the builders: one function per operator a graph is made of.
   All return the node's first output (LGV_NONE after an error, which sticks to the graph). [..] gives
   shapes; where [N,H,W,C] stands, [N,L,C] and [N,C] are accepted too unless said otherwise.
   Each operator's record (src/op) holds its gradient; docs/ops.md is generated from there. */
#ifndef LANGEVIN_OPS_H
#define LANGEVIN_OPS_H

#include "graph.h"
#include "step.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum lgv_act_kind {
    LGV_ACT_NONE = 0,
    LGV_ACT_SILU, /* x * sigmoid(x), also called swish */
    LGV_ACT_MISH, /* x * tanh(log(1 + e^x)) */
    LGV_ACT_GELU, /* x * Phi(x), exact (erf) */
    LGV_ACT_RELU,
    LGV_ACT_GELU_TANH /* x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) (arXiv 1606.08415, sec. 2) */
} lgv_act_kind;

/* Elementwise. */
LGV_API lgv_id lgv_add(lgv_graph *g, lgv_id a, lgv_id b);                      /* same shape */
LGV_API lgv_id lgv_mul(lgv_graph *g, lgv_id a, lgv_id b);                      /* same shape */
LGV_API lgv_id lgv_affine(lgv_graph *g, lgv_id x, double scale, double shift); /* scale*x + shift */
LGV_API lgv_id lgv_act(lgv_graph *g, lgv_id x, lgv_act_kind kind);
LGV_API lgv_id lgv_cast(lgv_graph *g, lgv_id x,
                        lgv_dtype dtype); /* f32 <-> bf16, round to nearest even */
LGV_API lgv_id lgv_stop_gradient(lgv_graph *g, lgv_id x);

/* Per row of the batch. s, a, b are [N]; no gradient flows to them (they come from the step block). */
LGV_API lgv_id lgv_add_row(lgv_graph *g, lgv_id x, lgv_id v);    /* x[N,H,W,C] + v[N,C] */
LGV_API lgv_id lgv_row_scale(lgv_graph *g, lgv_id x, lgv_id s);  /* s[n]*x */
LGV_API lgv_id lgv_row_divide(lgv_graph *g, lgv_id x, lgv_id s); /* x/s[n] */
LGV_API lgv_id lgv_row_axpby(lgv_graph *g, lgv_id x, lgv_id y, lgv_id a,
                             lgv_id b); /* a[n]*x + b[n]*y */
LGV_API lgv_id lgv_modulate(lgv_graph *g, lgv_id x, lgv_id scale,
                            lgv_id shift); /* x*(1+scale[N,C]) + shift[N,C] */
LGV_API lgv_id lgv_gate(lgv_graph *g, lgv_id x, lgv_id gate,
                        lgv_id h); /* h + x*gate[N,C]; h LGV_NONE: without */

/* Reductions. */
LGV_API lgv_id lgv_sum_rows(lgv_graph *g, lgv_id x); /* [N,H,W,C] -> [C], over N,H,W */
LGV_API lgv_id lgv_sum_hw(lgv_graph *g, lgv_id x);   /* [N,H,W,C] -> [N,C] */

/* y[N,Ho,Wo,K] = x[N,H,W,C] * w[K,C,kh,kw] + bias[K] (LGV_NONE: none); cross-correlation as in PyTorch.
   pad: top, left, bottom, right zeros. */
typedef struct lgv_conv_attr {
    int stride;
    int pad[4];
} lgv_conv_attr;
LGV_API lgv_id lgv_conv2d(lgv_graph *g, lgv_id x, lgv_id w, lgv_id bias, lgv_conv_attr attr);
/* y[...,K] = x[...,C] w[K,C]^T + bias[K] */
LGV_API lgv_id lgv_linear(lgv_graph *g, lgv_id x, lgv_id w, lgv_id bias);

/* Each group of C/groups channels of a row has mean 0 and variance 1 (biased, + eps), then
   * gamma[C] + beta[C] (arXiv 1803.08494, eq. 7). Outputs: y, mean[N,groups], rstd[N,groups]. */
LGV_API lgv_id lgv_group_norm(lgv_graph *g, lgv_id x, lgv_id gamma, lgv_id beta, int groups,
                              double eps);

/* Each position's C channels have mean 0 and variance 1 (biased, + eps), then * gamma[C] + beta[C] where they are given
   (arXiv 1607.06450, eq. 4); both LGV_NONE: not. Outputs: y, mean[N,positions], rstd[N,positions]. */
LGV_API lgv_id lgv_layer_norm(lgv_graph *g, lgv_id x, lgv_id gamma, lgv_id beta, double eps);

/* softmax(scale q k^T) v per head (arXiv 1706.03762, eq. 1). q [N,H,W,heads*d] (or [N,L,.]), k and v of
   equal shape with any number of positions. Outputs: y like q, lse[N,heads,L] (log-sum-exp). */
LGV_API lgv_id lgv_attention(lgv_graph *g, lgv_id q, lgv_id k, lgv_id v, int heads, double scale);

/* q (p^T v) with p the softmax of k over the positions, channel by channel: attention of one head whose cost grows
   linearly with the positions (arXiv 1812.01243, sec. 3.2, without the softmax of q; LinearAttention of
   ldm/modules/attention.py in CompVis' latent diffusion). q, k, v of one shape [N,H,W,C] or [N,L,C]. Outputs: y, p. */
LGV_API lgv_id lgv_linear_attention(lgv_graph *g, lgv_id q, lgv_id k, lgv_id v);

typedef enum lgv_resample_kind {
    LGV_UP_NEAREST,   /* [N,H,W,C] -> [N,2H,2W,C] */
    LGV_DOWN_AVERAGE, /* -> [N,H/2,W/2,C] */
    LGV_UP_FIR, /* zeros inserted, kernel [1,3,3,1]x[1,3,3,1]/16, pad (2,1) (StyleGAN2, arXiv 1912.04958, app. B) */
    LGV_DOWN_FIR, /* kernel /64, pad (1,1), every second */
    LGV_UP_FIR_REFLECT, /* as the FIR ones, the border reflected (x[-1] = x[1], x[H] = x[H-2]) instead of zeros: */
    LGV_DOWN_FIR_REFLECT /* k-diffusion's samplers; H, W >= 2 */
} lgv_resample_kind;
LGV_API lgv_id lgv_resample(lgv_graph *g, lgv_id x, lgv_resample_kind kind);

/* Channels. */
LGV_API lgv_id lgv_concat(lgv_graph *g, lgv_id a, lgv_id b); /* [..,Ca] [..,Cb] -> [..,Ca+Cb] */
LGV_API lgv_id lgv_slice(lgv_graph *g, lgv_id x, int64_t start,
                         int64_t count); /* channels start.. */

/* Pictures as patches (arXiv 2212.09748). */
/* [N,H,W,p*p*C] -> [N,pH,pW,C]: channel (i*p + j)*C + c is the pixel i, j of the patch. */
LGV_API lgv_id lgv_unpatchify(lgv_graph *g, lgv_id x, int patch);
/* x[N,H,W,C] + a fixed table: of the position's column (first half of the channels) and row (second half) the sines
   and then the cosines of column*base_w/W (row*base_h/H) times 10000^(-4i/C). C is a multiple of 4; base 0: H, W. */
LGV_API lgv_id lgv_add_positions(lgv_graph *g, lgv_id x, int base_h, int base_w);
/* Positions as tokens. */
LGV_API lgv_id lgv_prepend_mean(lgv_graph *g, lgv_id x);   /* [N,H,W,C] -> [N,1+HW,C], first their mean */
LGV_API lgv_id lgv_first_position(lgv_graph *g, lgv_id x); /* [N,L,C] -> [N,C] */

/* Embeddings. */
/* [N] -> [N,dim]: sin and cos of t*exp(-ln(10000) i/(dim/2 - shift)) (arXiv 1706.03762, sec. 3.5); flip puts
   cos first; an odd dim ends in a zero. t is f32. */
LGV_API lgv_id lgv_timestep_embedding(lgv_graph *g, lgv_id t, int dim, int flip_sin_to_cos,
                                      double freq_shift);
/* [N], w[C] -> [N,2C]: sin, cos of 2 pi w ln(t) (flip: cos, sin) (arXiv 2006.10739). */
LGV_API lgv_id lgv_fourier_embedding(lgv_graph *g, lgv_id t, lgv_id w, int flip_sin_to_cos);
LGV_API lgv_id lgv_embedding(lgv_graph *g, lgv_id table,
                             lgv_id index); /* [K,C], i32 [N] -> [N,C] */

/* Random numbers, from each row's seed, sample and step and the stream (rng.h). */
LGV_API lgv_id lgv_random_normal(lgv_graph *g, int rank, const int64_t *dim, uint32_t stream);
LGV_API lgv_id lgv_dropout(lgv_graph *g, lgv_id x, double p, uint32_t stream); /* x/(1-p) or 0 */

/* The step block. */
LGV_API lgv_id lgv_step_row(lgv_graph *g, int64_t rows, int field); /* -> [N] */

/* Losses. */
LGV_API lgv_id lgv_mse_rows(lgv_graph *g, lgv_id pred, lgv_id target); /* -> [N], mean over H,W,C */
/* logits [N,K], label i32 [N] -> [N]: -log softmax(logits)[label]. A row whose label is outside 0 .. K-1 has
   loss and gradient 0. */
LGV_API lgv_id lgv_cross_entropy_rows(lgv_graph *g, lgv_id logits, lgv_id label);
/* One term of the variational bound, in bits per element, with the row's LGV_TRAIN_VB_* (step.h): out [N,H,W,C], or
   [N,H,W,2C] with the network's variance behind its prediction; x_t and x0 [N,H,W,C] -> [N].
   KL(q(x_{t-1}|x_t,x0) || p(x_{t-1}|x_t)) (arXiv 2006.11239, eq. 8), or -log p(x0|x_1) of 256 levels between -1 and 1 (eq. 13).
   detach_mean: the gradient reaches the variance only (arXiv 2102.09672, sec. 3.1). */
LGV_API lgv_id lgv_vb_rows(lgv_graph *g, lgv_id out, lgv_id x_t, lgv_id x0, int detach_mean);
LGV_API lgv_id lgv_weighted_sum(lgv_graph *g, lgv_id x, lgv_id w); /* [N],[N] -> [1] */

/* One sampler step with the row's LGV_SAMPLE_* coefficients. out[N,H,W,C or 2 C]: the second half is
   the predicted variance. z[N,H,W,C] and history[N,H,W,K C], K <= LGV_HISTORY slots side by side, may
   be LGV_NONE. Outputs: x', x0, kept. */
LGV_API lgv_id lgv_sampler_step(lgv_graph *g, lgv_id x, lgv_id out, lgv_id z, lgv_id history);
/* The same, guided by gradient[N,H,W,C] of log p(class | x) for x (arXiv 2105.05233, algorithms 1 and 2). */
LGV_API lgv_id lgv_sampler_step_guided(lgv_graph *g, lgv_id x, lgv_id out, lgv_id z, lgv_id history,
                                       lgv_id gradient);

/* Classifier-free guidance (arXiv 2207.12598, eq. 6): conditional and unconditional answers in one call of the
   network. The rows of x again and again: [N,..] -> [times*N,..]. */
LGV_API lgv_id lgv_repeat_rows(lgv_graph *g, lgv_id x, int64_t times);
/* out[R,..] -> [rows,..] by the records of the first `rows` rows: row n is u + guidance*(c - u) with c row n and u
   row `partner` of out (-1: c as it is), then rescaled by guidance_rescale (arXiv 2305.08891, eq. 15 and 16; 0: not).
   channels > 0: only the first so many are guided, the rest is c's. */
LGV_API lgv_id lgv_guide(lgv_graph *g, lgv_id out, int64_t rows, int64_t channels);

/* The optimizer: one node over the trained range of the sets weight, grad, exp_avg, exp_avg_sq and (with
   ema) ema. Reads LGV_SCALAR_*. Clips by global norm (as torch.nn.utils.clip_grad_norm_), AdamW (arXiv
   1711.05101, algorithm 2), EMA (shadow -= (1-decay)*(shadow - weight)). When the norm is not finite,
   no weight changes. A plan that accumulates gradients has them zeroed. Output: [2] = {norm before clipping, 1 when
   the update was skipped}. */
LGV_API lgv_id lgv_adamw(lgv_graph *g, int with_ema);

/* Output k of the node that made v (LGV_NONE when it has fewer). */
LGV_API lgv_id lgv_output_of(const lgv_graph *g, lgv_id v, int k);

#ifdef __cplusplus
}
#endif
#endif
