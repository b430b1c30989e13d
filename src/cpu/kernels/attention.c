/* attention.c - scaled dot-product attention and its gradient: the plain kernels, and the table of all.
   The plain kernels work one query (or key) at a time with an exact softmax; the score matrix never
   exists as a whole. */
#include "attention_tiles.h"

real attention_dot(const real *a, const real *b, int64_t n)
{
    vreal s = v_zero();
    for (int64_t i = 0; i < n; i += VL)
        s = v_fma(v_load_n(a + i, n - i), v_load_n(b + i, n - i), s);
    return v_sum(s);
}

static void add_scaled(real *y, const real *x, real a, int64_t n)
{
    vreal f = v_set1(a);
    for (int64_t i = 0; i < n; i += VL)
        v_store_n(y + i, v_fma(f, v_load_n(x + i, n - i), v_load_n(y + i, n - i)), n - i);
}

static bool accepts(const lgv_call *c)
{
    for (int i = 0; i < c->n_in; i++)
        if (c->in[i].dtype != LGV_F32) return false;
    return true;
}

static size_t plain_workspace(const lgv_call *c)
{
    int64_t lq = lgv_as_nhwc(&c->in[0]).h * lgv_as_nhwc(&c->in[0]).w;
    int64_t lk = lgv_as_nhwc(&c->in[1]).h * lgv_as_nhwc(&c->in[1]).w;
    return (size_t)c->threads * (size_t)lgv_max_i64(lq, lk) * sizeof(real);
}

void attention_describe(const lgv_call *c, attention_run *r)
{
    const lgv_attr_attention *a = c->attr;
    r->q = as_tokens(&c->in[0]);
    r->k = as_tokens(&c->in[1]);
    r->v = as_tokens(&c->in[2]);
    r->heads = a->heads;
    r->scale = (real)a->scale;
    r->d = c->in[0].dim[c->in[0].rank - 1] / a->heads;
    r->scratch = c->workspace;
    r->scratch_row = lgv_max_i64(r->q.length, r->k.length);
}

void attention_describe_grad(const lgv_call *c, attention_run *r)
{
    attention_describe(c, r);
    r->y = as_tokens(&c->in[3]);
    attention_set_lse(r, &c->in[4]);
    r->dy = as_tokens(&c->in[5]);
    r->dq = as_tokens(&c->out[0]);
    r->dk = as_tokens(&c->out[1]);
    r->dv = as_tokens(&c->out[2]);
}

/* One query: scores, softmax, weighted sum of v. */
static void plain_query(void *arg, int64_t block, int thread)
{
    const attention_run *r = arg;
    int64_t l = block % r->q.length, h = block / r->q.length % r->heads,
            n = block / r->q.length / r->heads;
    real *s = r->scratch + thread * r->scratch_row, *y = token(&r->y, n, l, h * r->d);
    const real *q = token(&r->q, n, l, h * r->d);
    real max = -INFINITY, sum = 0;
    for (int64_t j = 0; j < r->k.length; j++) {
        s[j] = r->scale * attention_dot(q, token(&r->k, n, j, h * r->d), r->d);
        max = s[j] > max || s[j] != s[j] ? s[j] : max;
    }
    for (int64_t j = 0; j < r->k.length; j++) sum += s[j] = r_exp(s[j] - max);
    for (int64_t i = 0; i < r->d; i++) y[i] = 0;
    for (int64_t j = 0; j < r->k.length; j++)
        add_scaled(y, token(&r->v, n, j, h * r->d), s[j] / sum, r->d);
    if (r->lse) attention_lse(r, block / r->q.length)[l] = max + r_log(sum);
}

static void run_plain(const lgv_call *c)
{
    attention_run r = {0};
    attention_describe(c, &r);
    r.y = as_tokens(&c->out[0]);
    attention_set_lse(&r, &c->out[1]);
    lgv_parallel(c, r.q.n * r.heads * r.q.length, plain_query, &r);
}

/* With P = exp(s - lse) and D = sum_j P_j dP_j = <dy, y>: ds = P (dP - D), where dP_j = <dy, v_j>. */
static void plain_grad_query(void *arg, int64_t block, int thread)
{
    const attention_run *r = arg;
    int64_t l = block % r->q.length, h = block / r->q.length % r->heads,
            n = block / r->q.length / r->heads;
    int64_t o = h * r->d;
    const real *q = token(&r->q, n, l, o), *dy = token(&r->dy, n, l, o);
    real *dq = token(&r->dq, n, l, o);
    real d = attention_dot(dy, token(&r->y, n, l, o), r->d);
    real lse = attention_lse(r, block / r->q.length)[l];
    for (int64_t i = 0; i < r->d; i++) dq[i] = 0;
    for (int64_t j = 0; j < r->k.length; j++) {
        const real *k = token(&r->k, n, j, o);
        real p = r_exp(r->scale * attention_dot(q, k, r->d) - lse);
        real ds = p * (attention_dot(dy, token(&r->v, n, j, o), r->d) - d) * r->scale;
        add_scaled(dq, k, ds, r->d);
    }
}

static void plain_grad_key(void *arg, int64_t block, int thread)
{
    const attention_run *r = arg;
    int64_t j = block % r->k.length, h = block / r->k.length % r->heads,
            n = block / r->k.length / r->heads;
    int64_t o = h * r->d;
    const real *k = token(&r->k, n, j, o), *v = token(&r->v, n, j, o);
    real *dk = r->dk.data ? token(&r->dk, n, j, o) : NULL,
         *dv = r->dv.data ? token(&r->dv, n, j, o) : NULL;
    const real *lse = attention_lse(r, n * r->heads + h);
    for (int64_t i = 0; i < r->d && dk; i++) dk[i] = 0;
    for (int64_t i = 0; i < r->d && dv; i++) dv[i] = 0;
    for (int64_t l = 0; l < r->q.length; l++) {
        const real *q = token(&r->q, n, l, o), *dy = token(&r->dy, n, l, o);
        real d = attention_dot(dy, token(&r->y, n, l, o), r->d);
        real p = r_exp(r->scale * attention_dot(q, k, r->d) - lse[l]);
        if (dk) add_scaled(dk, q, p * (attention_dot(dy, v, r->d) - d) * r->scale, r->d);
        if (dv) add_scaled(dv, dy, p, r->d);
    }
}

static void run_plain_grad(const lgv_call *c)
{
    attention_run r = {0};
    attention_describe_grad(c, &r);
    if (r.dq.data) lgv_parallel(c, r.q.n * r.heads * r.q.length, plain_grad_query, &r);
    if (r.dk.data || r.dv.data) lgv_parallel(c, r.q.n * r.heads * r.k.length, plain_grad_key, &r);
}

static const lgv_kernel kernels[] = {
    {.op = LGV_OP_attention,
     .name = "tiled",
     .accepts = accepts,
     .workspace = attention_tiled_workspace,
     .run = attention_tiled},
    {.op = LGV_OP_attention_grad,
     .name = "tiled",
     .accepts = accepts,
     .workspace = attention_tiled_grad_workspace,
     .run = attention_tiled_grad},
    {.op = LGV_OP_attention,
     .name = "plain",
     .accepts = accepts,
     .workspace = plain_workspace,
     .run = run_plain},
    {.op = LGV_OP_attention_grad, .name = "plain", .accepts = accepts, .run = run_plain_grad},
};
extern const lgv_kernel_list LGV_TABLE(attention);
const lgv_kernel_list LGV_TABLE(attention) = {kernels, sizeof kernels / sizeof *kernels};
