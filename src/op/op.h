/* op.h - what operator records share: shape checks with their sentences, inputs of examples, and the
   builders of gradient and fused operators, which only gradient rules and passes use. */
#ifndef LGV_OP_H
#define LGV_OP_H

#include "graph/node.h"

/* --- Checks of infer. `what` names the input in the sentence ("input", "scale"). ------------------ */
/* v is present, f32 (float: or bf16), and its rank is in [lo, hi]. */
lgv_status lgv_want_f32(const lgv_value *v, const char *what, int lo, int hi, lgv_error *err);
lgv_status lgv_want_float(const lgv_value *v, const char *what, int lo, int hi, lgv_error *err);
/* b is present, a float, and has a's shape; lgv_want_same: and a's type. */
lgv_status lgv_want_same_shape(const lgv_value *a, const char *what_a, const lgv_value *b,
                               const char *what_b, lgv_error *err);
lgv_status lgv_want_same(const lgv_value *a, const char *what_a, const lgv_value *b,
                         const char *what_b, lgv_error *err);
/* f32 [n] or [n,c]; `reason` says where the size comes from ("one per row of the input"). */
lgv_status lgv_want_vector(const lgv_value *v, const char *what, int64_t n, const char *reason,
                           lgv_error *err);
lgv_status lgv_want_matrix(const lgv_value *v, const char *what, int64_t n, int64_t c,
                           const char *reason, lgv_error *err);

/* An f32 input of an example; dims beyond the rank are ignored. */
lgv_id lgv_example_input(lgv_graph *g, const char *name, int rank, int64_t d0, int64_t d1,
                         int64_t d2, int64_t d3);

#define LGV_EXAMPLES(array)                                                                        \
    .examples = (array), .n_examples = (int)(sizeof(array) / sizeof((array)[0]))
#define LGV_SECOND "second derivatives are not supported"

/* --- Builders of operators that are not public ----------------------------------------------------- */
lgv_id lgv_act_grad(lgv_graph *g, lgv_id dy, lgv_id x, int kind);             /* dy * act'(x) */
lgv_id lgv_spread_rows(lgv_graph *g, lgv_id v, int rank, const int64_t *dim); /* [C] -> dim */
lgv_id lgv_spread_hw(lgv_graph *g, lgv_id v, int rank, const int64_t *dim);   /* [N,C] -> dim */
lgv_id lgv_modulate_grad(lgv_graph *g, lgv_id dy, lgv_id x,
                         lgv_id scale); /* -> dx, dscale, dshift */
lgv_id lgv_gate_grad(lgv_graph *g, lgv_id dy, lgv_id x, lgv_id gate); /* -> dx, dgate */
/* -> dx, dgamma, dbeta */
lgv_id lgv_group_norm_grad(lgv_graph *g, lgv_id dy, lgv_id x, lgv_id gamma, lgv_id mean,
                           lgv_id rstd, int groups);
/* y = act((xhat*gamma + beta)*(1 + scale) + shift), scale and shift [N,C] or both LGV_NONE.
   -> y, mean[N,groups], rstd[N,groups] */
lgv_id lgv_norm_modulate_act(lgv_graph *g, lgv_id x, lgv_id gamma, lgv_id beta, lgv_id scale,
                             lgv_id shift, int groups, double eps, lgv_act_kind act);
/* Inputs dy, x, gamma, beta, mean, rstd, scale, shift -> dx, dgamma, dbeta and, with scale, dscale, dshift. */
lgv_id lgv_norm_modulate_act_grad(lgv_graph *g, const lgv_id in[8], const lgv_attr_norm *attr);
/* Inputs dy, x, mean, rstd, gamma, beta, scale (the last three or some of them LGV_NONE)
   -> dx, dgamma, dbeta, dscale, dshift */
lgv_id lgv_layer_norm_grad(lgv_graph *g, const lgv_id in[7]);
lgv_id lgv_patchify(lgv_graph *g, lgv_id x, int patch); /* undoes lgv_unpatchify */
/* kind and input size of the forward */
lgv_id lgv_resample_grad(lgv_graph *g, lgv_id dy, int kind, int64_t h, int64_t w);
lgv_id lgv_slice_grad(lgv_graph *g, lgv_id dy, int64_t start,
                      int64_t channels); /* zeros around dy */
lgv_id lgv_concat_many(lgv_graph *g, const lgv_id *in, int count); /* 2 to LGV_MAX_INPUTS */
lgv_id lgv_embedding_grad(lgv_graph *g, lgv_id dy, lgv_id index, int64_t rows); /* -> [rows,C] */
lgv_id lgv_mse_rows_grad(lgv_graph *g, lgv_id pred, lgv_id target, lgv_id dl);  /* -> dpred */
lgv_id lgv_cross_entropy_rows_grad(lgv_graph *g, lgv_id logits, lgv_id label,
                                   lgv_id dl);                   /* -> dlogits */
lgv_id lgv_vb_rows_grad(lgv_graph *g, lgv_id out, lgv_id x_t, lgv_id x0, lgv_id dl,
                        int detach_mean);                        /* -> dout */
/* [N,1+HW,C] -> the given shape [N,H,W,C] */
lgv_id lgv_prepend_mean_grad(lgv_graph *g, lgv_id dy, int rank, const int64_t *dim);
lgv_id lgv_first_position_grad(lgv_graph *g, lgv_id dy, int64_t positions); /* [N,C] -> [N,L,C] */
lgv_id lgv_fold_rows(lgv_graph *g, lgv_id x,
                     int64_t times); /* [times*N,..] -> [N,..], sums of equal rows */
lgv_id lgv_weighted_sum_grad(lgv_graph *g, lgv_id dl, lgv_id w); /* [1],[N] -> [N] */

#endif
