/* custom.c - operators that users of the library bring along (langevin/custom.h): one record that asks theirs. */
#include <string.h>

#include "core/pool.h"
#include "langevin/custom.h"
#include "op.h"

_Static_assert((int)LGV_CUSTOM_INPUTS == (int)LGV_MAX_INPUTS &&
                   (int)LGV_CUSTOM_OUTPUTS == (int)LGV_MAX_OUTPUTS,
               "custom nodes have as many operands as any");

const char *lgv_op_name(lgv_opcode op, const void *attr)
{
    if (op == LGV_OP_custom) return ((const lgv_attr_custom *)attr)->op->name;
    return lgv_op_record(op)->name;
}

static void type_of(const lgv_value *v, lgv_type *t)
{
    t->dtype = v->dtype;
    t->rank = v->rank;
    memcpy(t->dim, v->dim, sizeof t->dim);
}

static lgv_status check_type(const lgv_type *t, const char *what, int k, lgv_error *err)
{
    if (t->dtype != LGV_F32 && t->dtype != LGV_I32)
        return lgv_fail(err, LGV_ERR_SHAPE, "%s %d is %s; operators of one's own take F32 and I32",
                        what, k, lgv_dtype_name(t->dtype));
    if (t->rank < 1 || t->rank > LGV_MAX_RANK)
        return lgv_fail(err, LGV_ERR_SHAPE, "%s %d has rank %d", what, k, t->rank);
    return LGV_OK;
}

static lgv_status infer_custom(lgv_infer *c, lgv_error *err)
{
    const lgv_attr_custom *a = c->attr;
    const lgv_custom_op *op = a->op;
    lgv_type in[LGV_MAX_INPUTS], out[LGV_MAX_OUTPUTS] = {{LGV_F32, 0, {0}}};
    for (int i = 0; i < op->n_in; i++) {
        if (!c->in[i]) return lgv_fail(err, LGV_ERR_ARGUMENT, "input %d is missing", i);
        type_of(c->in[i], &in[i]);
        LGV_TRY(check_type(&in[i], "input", i, err));
    }
    lgv_status status = op->infer(in, a->attr, out, err);
    if (status) return err->text[0] ? status : lgv_fail(err, status, "its inputs do not fit");
    c->n_out = op->n_out;
    for (int k = 0; k < op->n_out; k++) {
        const lgv_type *t = &out[k];
        LGV_TRY(check_type(t, "output", k, err));
        lgv_set_shape(&c->out[k], t->dtype, t->rank, t->dim[0], t->dim[1], t->dim[2], t->dim[3]);
    }
    return LGV_OK;
}

static void grad_custom(lgv_graph *g, lgv_id y, const lgv_id *dout, const bool *need, lgv_id *din)
{
    const lgv_node n = *lgv_node_of(g, y); /* a copy: emitting nodes may move the array */
    const lgv_attr_custom *a = n.attr;
    if (!a->op->grad) {
        lgv_graph_fail(g, LGV_ERR_UNSUPPORTED, "%s '%s' has no gradient: %s", a->op->name, n.name,
                       a->op->no_grad ? a->op->no_grad : "its record gives none");
        return;
    }
    const lgv_custom_node node = {a->attr, n.n_in, n.n_out, n.in, n.out};
    a->op->grad(g, &node, dout, din);
    for (int i = 0; i < n.n_in && !g->error.status; i++) {
        if (din[i] == LGV_NONE || !need[i]) continue;
        if (din[i] < 0 || (size_t)din[i] >= g->n_values ||
            !lgv_same_shape(lgv_val(g, din[i]), lgv_val(g, n.in[i])))
            lgv_graph_fail(g, LGV_ERR_SHAPE,
                           "%s '%s': the gradient of input %d does not have its shape", a->op->name,
                           n.name, i);
    }
}

static double flops_custom(const lgv_graph *g, const lgv_node *n)
{
    const lgv_attr_custom *a = n->attr;
    lgv_type in[LGV_MAX_INPUTS], out[LGV_MAX_OUTPUTS];
    double elements = 0;
    for (int i = 0; i < n->n_in; i++) type_of(lgv_val(g, n->in[i]), &in[i]);
    for (int k = 0; k < n->n_out; k++) {
        type_of(lgv_val(g, n->out[k]), &out[k]);
        elements += (double)lgv_value_elements(lgv_val(g, n->out[k]));
    }
    return a->op->flops ? a->op->flops(in, out, a->attr) : elements;
}

static lgv_id bad_record(lgv_graph *g, const lgv_custom_op *op, const char *what)
{
    return lgv_graph_fail(g, LGV_ERR_ARGUMENT, "the record of operator '%s' %s",
                          op && op->name ? op->name : "", what);
}

lgv_id lgv_custom(lgv_graph *g, const lgv_custom_op *op, const lgv_id *in, const void *attr)
{
    if (g->error.status) return LGV_NONE;
    if (!op || !op->name || !op->infer || !op->run)
        return bad_record(g, op, "lacks name, infer or run");
    if (op->n_in < 0 || op->n_in > LGV_CUSTOM_INPUTS || op->n_out < 1 ||
        op->n_out > LGV_CUSTOM_OUTPUTS)
        return bad_record(g, op, "has too many or too few inputs or outputs");
    if (op->attr_size && !attr) return bad_record(g, op, "wants attributes, and none are given");
    lgv_attr_custom a = {.op = op};
    if (op->attr_size) {
        a.attr = lgv_graph_new_attr(g, op->attr_size);
        if (!a.attr) return LGV_NONE;
        memcpy(a.attr, attr, op->attr_size);
    }
    return lgv_node_new(g, LGV_OP_custom, op->name, op->n_in, in, &a);
}

/* --- For kernels ------------------------------------------------------------------------------------------ */
typedef struct blocks {
    void (*fn)(void *arg, int64_t block);
    void *arg;
} blocks;

static void run_block(void *arg, int64_t block, int thread)
{
    const blocks *b = arg;
    b->fn(b->arg, block);
}

void lgv_custom_parallel(const lgv_custom_call *c, int64_t n, void (*fn)(void *arg, int64_t block),
                         void *arg)
{
    blocks b = {fn, arg};
    lgv_pool_run(c->internal, n, run_block, &b);
}

/* --- The example: y[n,...] = scale * a * b --------------------------------------------------------------- */
static const lgv_custom_op product;

static lgv_status product_infer(const lgv_type *in, const void *attr, lgv_type *out, lgv_error *err)
{
    out[0] = in[0];
    return memcmp(&in[0], &in[1], sizeof in[0])
               ? lgv_fail(err, LGV_ERR_SHAPE, "its inputs have different shapes")
               : LGV_OK;
}

static void product_grad(lgv_graph *g, const lgv_custom_node *node, const lgv_id *dout, lgv_id *din)
{
    din[0] = lgv_custom(g, &product, (const lgv_id[]){dout[0], node->in[1]}, node->attr);
    din[1] = lgv_custom(g, &product, (const lgv_id[]){dout[0], node->in[0]}, node->attr);
}

static int64_t elements(const lgv_type *t)
{
    return t->dim[0] * t->dim[1] * t->dim[2] * t->dim[3];
}

static void product_run(const lgv_custom_call *c)
{
    const float *a = c->in[0], *b = c->in[1], scale = (float)*(const double *)c->attr;
    float *y = c->out[0];
    for (int64_t i = 0; i < elements(&c->out_type[0]); i++) y[i] = scale * a[i] * b[i];
}

static void product_run_f64(const lgv_custom_call *c)
{
    const double *a = c->in[0], *b = c->in[1], scale = *(const double *)c->attr;
    double *y = c->out[0];
    for (int64_t i = 0; i < elements(&c->out_type[0]); i++) y[i] = scale * a[i] * b[i];
}

static const lgv_custom_op product = {.name = "scaled_product",
                                      .n_in = 2,
                                      .n_out = 1,
                                      .attr_size = sizeof(double),
                                      .infer = product_infer,
                                      .grad = product_grad,
                                      .run = product_run,
                                      .run_f64 = product_run_f64};

static lgv_id example_product(lgv_graph *g)
{
    const double scale = 0.75;
    const lgv_id in[] = {lgv_example_input(g, "a", 4, 2, 3, 3, 5),
                         lgv_example_input(g, "b", 4, 2, 3, 3, 5)};
    return lgv_custom(g, &product, in, &scale);
}

static const lgv_example examples_custom[] = {{"scaled product", example_product}};

const lgv_op lgv_op_custom = {.name = "custom",
                              .doc = "an operator of the caller's (custom.h), such as scale*a*b",
                              .attr_size = sizeof(lgv_attr_custom),
                              .min_in = 0,
                              .max_in = LGV_MAX_INPUTS,
                              .n_out = 1,
                              .infer = infer_custom,
                              .grad = grad_custom,
                              .flops = flops_custom,
                              LGV_EXAMPLES(examples_custom)};
