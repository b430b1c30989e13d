/* loss.c - the squared error and the cross-entropy of each row, and the weighted sum of rows. Losses are kept per row until the
   last step, so that timesteps can be weighted (min-SNR) and rows masked. */
#include "op.h"

/* --- mse_rows ------------------------------------------------------------------------------------ */
static lgv_status infer_mse(lgv_infer *c, lgv_error *err)
{
    LGV_TRY(lgv_want_f32(c->in[0], "the prediction", 2, 4, err));
    LGV_TRY(lgv_want_same(c->in[0], "the prediction", c->in[1], "the target", err));
    lgv_set_shape(&c->out[0], LGV_F32, 1, c->in[0]->dim[0], 1, 1, 1);
    return LGV_OK;
}

static void grad_mse(lgv_graph *g, lgv_id y, const lgv_id *dout, const bool *need, lgv_id *din)
{
    const lgv_node n = *lgv_node_of(g, y);
    const lgv_id d = lgv_mse_rows_grad(g, n.in[0], n.in[1], dout[0]);
    if (need[0]) din[0] = d;
    if (need[1]) din[1] = lgv_affine(g, d, -1, 0);
}

static double flops_mse(const lgv_graph *g, const lgv_node *n)
{
    return 3.0 * (double)lgv_value_elements(lgv_val(g, n->in[0]));
}

static lgv_id example_mse4(lgv_graph *g)
{
    return lgv_mse_rows(g, lgv_example_input(g, "pred", 4, 3, 5, 7, 3),
                        lgv_example_input(g, "target", 4, 3, 5, 7, 3));
}
static lgv_id example_mse3(lgv_graph *g)
{
    return lgv_mse_rows(g, lgv_example_input(g, "pred", 3, 2, 9, 19, 0),
                        lgv_example_input(g, "target", 3, 2, 9, 19, 0));
}
static lgv_id example_mse2(lgv_graph *g)
{
    return lgv_mse_rows(g, lgv_example_input(g, "pred", 2, 1, 33, 0, 0),
                        lgv_example_input(g, "target", 2, 1, 33, 0, 0));
}
static const lgv_example examples_mse[] = {
    {"3x5x7x3", example_mse4}, {"2x9x19", example_mse3}, {"1x33", example_mse2}};

const lgv_op lgv_op_mse_rows = {.name = "mse_rows",
                                .doc = "[N]: mean of (pred - target)^2 over a row's elements",
                                .min_in = 2,
                                .max_in = 2,
                                .n_out = 1,
                                .infer = infer_mse,
                                .grad = grad_mse,
                                .flops = flops_mse,
                                LGV_EXAMPLES(examples_mse)};

lgv_id lgv_mse_rows(lgv_graph *g, lgv_id pred, lgv_id target)
{
    return lgv_node_new(g, LGV_OP_mse_rows, "mse_rows", 2, (const lgv_id[]){pred, target}, NULL);
}

static lgv_status infer_mse_grad(lgv_infer *c, lgv_error *err)
{
    LGV_TRY(infer_mse(c, err));
    LGV_TRY(lgv_want_vector(c->in[2], "the loss gradient", c->in[0]->dim[0],
                            "one per row of the prediction", err));
    lgv_like(&c->out[0], c->in[0]);
    return LGV_OK;
}

static lgv_id example_mse_grad(lgv_graph *g)
{
    return lgv_mse_rows_grad(g, lgv_example_input(g, "pred", 4, 3, 3, 5, 3),
                             lgv_example_input(g, "target", 4, 3, 3, 5, 3),
                             lgv_example_input(g, "dl", 1, 3, 0, 0, 0));
}
static const lgv_example examples_mse_grad[] = {{"3x3x5x3", example_mse_grad}};

const lgv_op lgv_op_mse_rows_grad = {
    .name = "mse_rows_grad",
    .doc = "gradient of mse_rows for the prediction: 2 dl[n] (pred - target)/elements of a row",
    .min_in = 3,
    .max_in = 3,
    .n_out = 1,
    .flags = LGV_OP_INPLACE0 | LGV_OP_INPLACE1,
    .infer = infer_mse_grad,
    .no_grad = LGV_SECOND,
    .flops = flops_mse,
    LGV_EXAMPLES(examples_mse_grad)};

lgv_id lgv_mse_rows_grad(lgv_graph *g, lgv_id pred, lgv_id target, lgv_id dl)
{
    return lgv_node_new(g, LGV_OP_mse_rows_grad, "mse_rows_grad", 3,
                        (const lgv_id[]){pred, target, dl}, NULL);
}

/* --- cross_entropy_rows -------------------------------------------------------------------------- */
static lgv_status want_labels(const lgv_value *v, int64_t rows, lgv_error *err)
{
    if (v && v->dtype == LGV_I32 && v->rank == 1 && v->dim[0] == rows) return LGV_OK;
    return lgv_fail(err, LGV_ERR_SHAPE, "the labels must be i32 [%lld], one per row of the logits",
                    (long long)rows);
}

static lgv_status infer_cross_entropy(lgv_infer *c, lgv_error *err)
{
    LGV_TRY(lgv_want_f32(c->in[0], "the logits", 2, 2, err));
    LGV_TRY(want_labels(c->in[1], c->in[0]->dim[0], err));
    lgv_set_shape(&c->out[0], LGV_F32, 1, c->in[0]->dim[0], 1, 1, 1);
    return LGV_OK;
}

static void grad_cross_entropy(lgv_graph *g, lgv_id y, const lgv_id *dout, const bool *need,
                               lgv_id *din)
{
    const lgv_node n = *lgv_node_of(g, y);
    if (need[0]) din[0] = lgv_cross_entropy_rows_grad(g, n.in[0], n.in[1], dout[0]);
}

/* An exponential counts as one. */
static double flops_cross_entropy(const lgv_graph *g, const lgv_node *n)
{
    return 4.0 * (double)lgv_value_elements(lgv_val(g, n->in[0]));
}

static lgv_id example_labels(lgv_graph *g, int64_t n)
{
    return lgv_input(g, "label", LGV_I32, 1, &n);
}
static lgv_id example_cross_entropy(lgv_graph *g)
{
    return lgv_cross_entropy_rows(g, lgv_example_input(g, "logits", 2, 5, 10, 0, 0),
                                  example_labels(g, 5));
}
static lgv_id example_cross_entropy_outside(lgv_graph *g) /* label 2 is no class of two */
{
    return lgv_cross_entropy_rows(g, lgv_example_input(g, "logits", 2, 7, 2, 0, 0),
                                  example_labels(g, 7));
}
static lgv_id example_cross_entropy_wide(lgv_graph *g)
{
    return lgv_cross_entropy_rows(g, lgv_example_input(g, "logits", 2, 1, 133, 0, 0),
                                  example_labels(g, 1));
}
static const lgv_example examples_cross_entropy[] = {{"5x10", example_cross_entropy},
                                                     {"7x2", example_cross_entropy_outside},
                                                     {"1x133", example_cross_entropy_wide}};

const lgv_op lgv_op_cross_entropy_rows = {
    .name = "cross_entropy_rows",
    .doc = "logits[N,K], label[N] -> [N]: log(sum_k exp(logits)) - logits[label]; 0 for a label "
           "outside",
    .min_in = 2,
    .max_in = 2,
    .n_out = 1,
    .infer = infer_cross_entropy,
    .grad = grad_cross_entropy,
    .const_inputs = 2,
    .flops = flops_cross_entropy,
    LGV_EXAMPLES(examples_cross_entropy)};

lgv_id lgv_cross_entropy_rows(lgv_graph *g, lgv_id logits, lgv_id label)
{
    return lgv_node_new(g, LGV_OP_cross_entropy_rows, "cross_entropy_rows", 2,
                        (const lgv_id[]){logits, label}, NULL);
}

static lgv_status infer_cross_entropy_grad(lgv_infer *c, lgv_error *err)
{
    LGV_TRY(infer_cross_entropy(c, err));
    LGV_TRY(lgv_want_vector(c->in[2], "the loss gradient", c->in[0]->dim[0],
                            "one per row of the logits", err));
    lgv_like(&c->out[0], c->in[0]);
    return LGV_OK;
}

static lgv_id example_cross_entropy_grad(lgv_graph *g)
{
    return lgv_cross_entropy_rows_grad(g, lgv_example_input(g, "logits", 2, 5, 11, 0, 0),
                                       example_labels(g, 5),
                                       lgv_example_input(g, "dl", 1, 5, 0, 0, 0));
}
static const lgv_example examples_cross_entropy_grad[] = {{"5x11", example_cross_entropy_grad}};

const lgv_op lgv_op_cross_entropy_rows_grad = {
    .name = "cross_entropy_rows_grad",
    .doc = "gradient of cross_entropy_rows for the logits: dl[n] (softmax(logits) - onehot(label))",
    .min_in = 3,
    .max_in = 3,
    .n_out = 1,
    .infer = infer_cross_entropy_grad,
    .no_grad = LGV_SECOND,
    .flops = flops_cross_entropy,
    LGV_EXAMPLES(examples_cross_entropy_grad)};

lgv_id lgv_cross_entropy_rows_grad(lgv_graph *g, lgv_id logits, lgv_id label, lgv_id dl)
{
    return lgv_node_new(g, LGV_OP_cross_entropy_rows_grad, "cross_entropy_rows_grad", 3,
                        (const lgv_id[]){logits, label, dl}, NULL);
}

/* --- weighted_sum -------------------------------------------------------------------------------- */
static lgv_status infer_weighted_sum(lgv_infer *c, lgv_error *err)
{
    LGV_TRY(lgv_want_f32(c->in[0], "input", 1, 1, err));
    LGV_TRY(lgv_want_vector(c->in[1], "the weights", c->in[0]->dim[0], "one per row of the input",
                            err));
    lgv_set_shape(&c->out[0], LGV_F32, 1, 1, 1, 1, 1);
    return LGV_OK;
}

static void grad_weighted_sum(lgv_graph *g, lgv_id y, const lgv_id *dout, const bool *need,
                              lgv_id *din)
{
    if (need[0]) din[0] = lgv_weighted_sum_grad(g, dout[0], lgv_node_of(g, y)->in[1]);
}

static double flops_weighted_sum(const lgv_graph *g, const lgv_node *n)
{
    return 2.0 * (double)lgv_value_elements(lgv_val(g, n->in[0]));
}

static lgv_id example_weighted_sum(lgv_graph *g)
{
    return lgv_weighted_sum(g, lgv_example_input(g, "x", 1, 7, 0, 0, 0),
                            lgv_example_input(g, "w", 1, 7, 0, 0, 0));
}
static const lgv_example examples_weighted_sum[] = {{"7", example_weighted_sum}};

const lgv_op lgv_op_weighted_sum = {
    .name = "weighted_sum",
    .doc = "x[N], w[N] -> [1]: the sum of w[n]*x[n] over rows with w[n] != 0",
    .min_in = 2,
    .max_in = 2,
    .n_out = 1,
    .infer = infer_weighted_sum,
    .grad = grad_weighted_sum,
    .const_inputs = 2,
    .flops = flops_weighted_sum,
    LGV_EXAMPLES(examples_weighted_sum)};

lgv_id lgv_weighted_sum(lgv_graph *g, lgv_id x, lgv_id w)
{
    return lgv_node_new(g, LGV_OP_weighted_sum, "weighted_sum", 2, (const lgv_id[]){x, w}, NULL);
}

static lgv_status infer_weighted_sum_grad(lgv_infer *c, lgv_error *err)
{
    LGV_TRY(lgv_want_vector(c->in[0], "the loss gradient", 1, "one number", err));
    LGV_TRY(lgv_want_f32(c->in[1], "the weights", 1, 1, err));
    lgv_like(&c->out[0], c->in[1]);
    return LGV_OK;
}

static void grad_weighted_sum_grad(lgv_graph *g, lgv_id y, const lgv_id *dout, const bool *need,
                                   lgv_id *din)
{
    if (need[0]) din[0] = lgv_weighted_sum(g, dout[0], lgv_node_of(g, y)->in[1]);
}

static lgv_id example_weighted_sum_grad(lgv_graph *g)
{
    return lgv_weighted_sum_grad(g, lgv_example_input(g, "dl", 1, 1, 0, 0, 0),
                                 lgv_example_input(g, "w", 1, 5, 0, 0, 0));
}
static const lgv_example examples_weighted_sum_grad[] = {{"5", example_weighted_sum_grad}};

const lgv_op lgv_op_weighted_sum_grad = {.name = "weighted_sum_grad",
                                         .doc = "dl[1], w[N] -> [N]: dl*w[n]",
                                         .min_in = 2,
                                         .max_in = 2,
                                         .n_out = 1,
                                         .infer = infer_weighted_sum_grad,
                                         .grad = grad_weighted_sum_grad,
                                         .const_inputs = 2,
                                         LGV_EXAMPLES(examples_weighted_sum_grad)};

lgv_id lgv_weighted_sum_grad(lgv_graph *g, lgv_id dl, lgv_id w)
{
    return lgv_node_new(g, LGV_OP_weighted_sum_grad, "weighted_sum_grad", 2,
                        (const lgv_id[]){dl, w}, NULL);
}
