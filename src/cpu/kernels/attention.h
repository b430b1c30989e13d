/* attention.h - one view of attention's operands for the kernels of attention*.c. */
#ifndef LGV_ATTENTION_H
#define LGV_ATTENTION_H

#include "conv.h"

/* Rows of one operand: position l of row n, head h starts at data + n*sn + l*sl + h*d. */
typedef struct tokens {
    real *data;
    int64_t n, length, sn, w, sh, sw;
} tokens;

/* Rows of a picture that follow each other without gaps are one long row. */
static inline tokens as_tokens(const lgv_tensor *t)
{
    lgv_nhwc a = lgv_as_nhwc(t);
    if (a.h == 1 || a.sh == a.w * a.sw) {
        a.w *= a.h;
        a.h = 1;
    }
    return (tokens){t->data, a.n, a.h * a.w, a.sn, a.w, a.sh, a.sw};
}

static inline real *token(const tokens *t, int64_t n, int64_t l, int64_t offset)
{
    real *row = t->data + n * t->sn + offset;
    if (l < t->w)
        return row +
               l * t->sw; /* the common case: divisions cost more than a product of short rows */
    return row + l / t->w * t->sh + l % t->w * t->sw;
}

/* Everything a task needs; kernels fill what they use. */
typedef struct attention_run {
    tokens q, k, v, y, dy, dq, dk, dv; /* data NULL: not wanted */
    real *lse;                         /* [N,heads,Lq]; NULL: not wanted */
    int64_t lse_n, lse_head;           /* its strides */
    int64_t heads, d;
    real scale;
    real *scratch; /* plain: a row of scores a thread */
    int64_t scratch_row;
} attention_run;

static inline void attention_set_lse(attention_run *r, const lgv_tensor *lse)
{
    r->lse = lse->data;
    r->lse_n = lse->stride[0];
    r->lse_head = lse->stride[1];
}

/* The log-sum-exp of the queries of row and head number n*heads + h. */
static inline real *attention_lse(const attention_run *r, int64_t copy)
{
    return r->lse + copy / r->heads * r->lse_n + copy % r->heads * r->lse_head;
}

#define attention_describe      LGV_AT(lgv_attention_describe)
#define attention_describe_grad LGV_AT(lgv_attention_describe_grad)
#define attention_dot           LGV_AT(lgv_attention_dot)
void attention_describe(const lgv_call *c, attention_run *r);
void attention_describe_grad(const lgv_call *c, attention_run *r);
real attention_dot(const real *a, const real *b, int64_t n);

#endif
