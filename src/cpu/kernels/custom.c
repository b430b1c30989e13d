/* custom.c - runs the kernels of operators that users bring along. They see dense operands only: a strided one is
   copied, into and out of the workspace. */
#include "cpu/pointwise.h"
#include "langevin/custom.h"

static size_t element_size(const lgv_tensor *t)
{
    return t->dtype == LGV_I32 ? sizeof(int32_t) : sizeof(real);
}

static size_t dense_bytes(const lgv_tensor *t)
{
    return lgv_round_up((size_t)lgv_tensor_elements(t) * element_size(t));
}

static size_t workspace_custom(const lgv_call *c)
{
    size_t bytes = 0;
    for (int k = 0; k < c->n_in; k++)
        if (!lgv_tensor_dense(&c->in[k])) bytes += dense_bytes(&c->in[k]);
    for (int k = 0; k < c->n_out; k++)
        if (!lgv_tensor_dense(&c->out[k])) bytes += dense_bytes(&c->out[k]);
    return bytes;
}

/* Between t and dense memory. */
static void copy_rows(const lgv_tensor *t, char *dense, bool back)
{
    const size_t size = element_size(t);
    const int last = t->rank - 1;
    const size_t row = (size_t)t->dim[last] * size;
    const int64_t rows = lgv_tensor_elements(t) / t->dim[last];
    for (int64_t r = 0; r < rows; r++) {
        int64_t offset = 0, rest = r;
        for (int k = last - 1; k >= 0; rest /= t->dim[k], k--)
            offset += rest % t->dim[k] * t->stride[k];
        char *strided = (char *)t->data + (size_t)offset * size, *flat = dense + (size_t)r * row;
        memcpy(back ? strided : flat, back ? flat : strided, row);
    }
}

static void describe(const lgv_tensor *t, lgv_type *type)
{
    type->dtype = t->dtype;
    type->rank = t->rank;
    memcpy(type->dim, t->dim, sizeof type->dim);
}

static void run_custom(const lgv_call *c)
{
    const lgv_attr_custom *a = c->attr;
    lgv_type in_type[LGV_MAX_INPUTS], out_type[LGV_MAX_OUTPUTS];
    const void *in[LGV_MAX_INPUTS];
    void *out[LGV_MAX_OUTPUTS];
    char *at = c->workspace;
    for (int k = 0; k < c->n_in; k++) {
        describe(&c->in[k], &in_type[k]);
        in[k] = c->in[k].data;
        if (lgv_tensor_dense(&c->in[k])) continue;
        copy_rows(&c->in[k], at, false);
        in[k] = at;
        at += dense_bytes(&c->in[k]);
    }
    for (int k = 0; k < c->n_out; k++) {
        describe(&c->out[k], &out_type[k]);
        out[k] = c->out[k].data;
        if (lgv_tensor_dense(&c->out[k])) continue;
        out[k] = at;
        at += dense_bytes(&c->out[k]);
    }
    const lgv_custom_call call = {a->attr, c->n_in, c->n_out, in_type, out_type, in, out, c->pool};
#ifdef LGV_LEVEL_F64
    a->op->run_f64(&call);
#else
    a->op->run(&call);
#endif
    for (int k = 0; k < c->n_out; k++)
        if (out[k] != c->out[k].data) copy_rows(&c->out[k], out[k], true);
}

#ifdef LGV_LEVEL_F64
static bool accepts_custom(const lgv_call *c)
{
    return ((const lgv_attr_custom *)c->attr)->op->run_f64 != NULL;
}
#else
#define accepts_custom NULL
#endif

static const lgv_kernel kernels[] = {{.op = LGV_OP_custom,
                                      .name = "plain",
                                      .accepts = accepts_custom,
                                      .workspace = workspace_custom,
                                      .run = run_custom}};
const lgv_kernel_list LGV_TABLE(custom) = {kernels, 1};
