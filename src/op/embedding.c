/* embedding.c - numbers per row into vectors per row: sinusoids of the timestep, random Fourier
   features, and rows of a table. */
#include "op.h"

/* --- timestep_embedding -------------------------------------------------------------------------- */
static lgv_status infer_timestep(lgv_infer *c, lgv_error *err)
{
    const lgv_attr_time *a = c->attr;
    LGV_TRY(lgv_want_f32(c->in[0], "the timesteps", 1, 1, err));
    if (a->dim < 2)
        return lgv_fail(err, LGV_ERR_ARGUMENT,
                        "an embedding of %d channels is too small, at least 2 are needed", a->dim);
    if (a->dim / 2 - a->shift == 0) {
        return lgv_fail(err, LGV_ERR_ARGUMENT,
                        "frequency shift %g equals half of the %d channels, which divides by zero",
                        a->shift, a->dim);
    }
    lgv_set_shape(&c->out[0], LGV_F32, 2, c->in[0]->dim[0], a->dim, 1, 1);
    return LGV_OK;
}

static double flops_trigonometry(const lgv_graph *g, const lgv_node *n)
{
    return 20.0 * (double)lgv_value_elements(lgv_val(g, n->out[0]));
}

static lgv_id example_time(lgv_graph *g)
{
    return lgv_timestep_embedding(g, lgv_example_input(g, "t", 1, 3, 0, 0, 0), 32, 1, 0);
}
static lgv_id example_time_odd(lgv_graph *g)
{
    return lgv_timestep_embedding(g, lgv_example_input(g, "t", 1, 5, 0, 0, 0), 9, 0, 1);
}
static const lgv_example examples_time[] = {{"32 flipped", example_time},
                                            {"9 shifted", example_time_odd}};

const lgv_op lgv_op_timestep_embedding = {
    .name = "timestep_embedding",
    .doc = "[N] -> [N,dim]: sin and cos of t*exp(-ln(10000) i/(dim/2 - shift))",
    .attr_size = sizeof(lgv_attr_time),
    .min_in = 1,
    .max_in = 1,
    .n_out = 1,
    .infer = infer_timestep,
    .no_grad = "timesteps are data, nothing upstream is trained",
    .const_inputs = 1,
    .flops = flops_trigonometry,
    LGV_EXAMPLES(examples_time)};

lgv_id lgv_timestep_embedding(lgv_graph *g, lgv_id t, int dim, int flip_sin_to_cos,
                              double freq_shift)
{
    const lgv_attr_time attr = {dim, flip_sin_to_cos != 0, freq_shift};
    return lgv_node_new(g, LGV_OP_timestep_embedding, "timestep_embedding", 1, &t, &attr);
}

/* --- fourier_embedding --------------------------------------------------------------------------- */
static lgv_status infer_fourier(lgv_infer *c, lgv_error *err)
{
    LGV_TRY(lgv_want_f32(c->in[0], "the timesteps", 1, 1, err));
    LGV_TRY(lgv_want_f32(c->in[1], "the frequencies", 1, 1, err));
    lgv_set_shape(&c->out[0], LGV_F32, 2, c->in[0]->dim[0], 2 * c->in[1]->dim[0], 1, 1);
    return LGV_OK;
}

static lgv_id example_fourier(lgv_graph *g)
{
    return lgv_fourier_embedding(g, lgv_example_input(g, "p_t", 1, 3, 0, 0, 0),
                                 lgv_example_input(g, "w", 1, 7, 0, 0, 0), 0);
}
static lgv_id example_fourier_flip(lgv_graph *g)
{
    return lgv_fourier_embedding(g, lgv_example_input(g, "p_t", 1, 2, 0, 0, 0),
                                 lgv_example_input(g, "w", 1, 16, 0, 0, 0), 1);
}
static const lgv_example examples_fourier[] = {{"7", example_fourier},
                                               {"16 flipped", example_fourier_flip}};

const lgv_op lgv_op_fourier_embedding = {.name = "fourier_embedding",
                                         .doc = "[N], w[C] -> [N,2C]: sin and cos of 2 pi w ln(t)",
                                         .attr_size = sizeof(lgv_attr_time),
                                         .min_in = 2,
                                         .max_in = 2,
                                         .n_out = 1,
                                         .infer = infer_fourier,
                                         .no_grad =
                                             "timesteps are data and the frequencies are fixed",
                                         .const_inputs = 1 | 2,
                                         .flops = flops_trigonometry,
                                         LGV_EXAMPLES(examples_fourier)};

lgv_id lgv_fourier_embedding(lgv_graph *g, lgv_id t, lgv_id w, int flip_sin_to_cos)
{
    const lgv_attr_time attr = {.flip = flip_sin_to_cos != 0};
    return lgv_node_new(g, LGV_OP_fourier_embedding, "fourier_embedding", 2, (const lgv_id[]){t, w},
                        &attr);
}

/* --- embedding ----------------------------------------------------------------------------------- */
static lgv_status want_index(const lgv_value *v, lgv_error *err)
{
    char text[96];
    if (!v) return lgv_fail(err, LGV_ERR_ARGUMENT, "the index is missing");
    if (v->dtype == LGV_I32 && v->rank == 1) return LGV_OK;
    return lgv_fail(err, LGV_ERR_ARGUMENT, "the index is %s %s, wants I32 of rank 1",
                    lgv_dtype_name(v->dtype), lgv_shape_text(v, text));
}

static lgv_status infer_embedding(lgv_infer *c, lgv_error *err)
{
    LGV_TRY(lgv_want_f32(c->in[0], "the table", 2, 2, err));
    LGV_TRY(want_index(c->in[1], err));
    lgv_set_shape(&c->out[0], LGV_F32, 2, c->in[1]->dim[0], c->in[0]->dim[1], 1, 1);
    return LGV_OK;
}

static void grad_embedding(lgv_graph *g, lgv_id y, const lgv_id *dout, const bool *need,
                           lgv_id *din)
{
    const lgv_node n = *lgv_node_of(g, y);
    if (need[0]) din[0] = lgv_embedding_grad(g, dout[0], n.in[1], lgv_val(g, n.in[0])->dim[0]);
}

static double flops_copy(const lgv_graph *g, const lgv_node *n)
{
    return 0;
}

static lgv_id example_index(lgv_graph *g, int64_t n)
{
    return lgv_input(g, "index", LGV_I32, 1, &n);
}
static lgv_id example_embedding(lgv_graph *g)
{
    return lgv_embedding(g, lgv_example_input(g, "table", 2, 3, 13, 0, 0), example_index(g, 5));
}
static lgv_id example_embedding_wide(lgv_graph *g)
{
    return lgv_embedding(g, lgv_example_input(g, "table", 2, 7, 64, 0, 0), example_index(g, 2));
}
static const lgv_example examples_embedding[] = {{"3x13", example_embedding},
                                                 {"7x64", example_embedding_wide}};

const lgv_op lgv_op_embedding = {
    .name = "embedding",
    .doc = "table[K,C], index[N] -> rows of the table [N,C]; an index outside gives NaN",
    .min_in = 2,
    .max_in = 2,
    .n_out = 1,
    .infer = infer_embedding,
    .grad = grad_embedding,
    .const_inputs = 2,
    .flops = flops_copy,
    LGV_EXAMPLES(examples_embedding)};

lgv_id lgv_embedding(lgv_graph *g, lgv_id table, lgv_id index)
{
    return lgv_node_new(g, LGV_OP_embedding, "embedding", 2, (const lgv_id[]){table, index}, NULL);
}

/* --- embedding_grad ------------------------------------------------------------------------------ */
static lgv_status infer_embedding_grad(lgv_infer *c, lgv_error *err)
{
    LGV_TRY(lgv_want_f32(c->in[0], "dy", 2, 2, err));
    LGV_TRY(want_index(c->in[1], err));
    if (c->in[1]->dim[0] != c->in[0]->dim[0]) {
        return lgv_fail(err, LGV_ERR_SHAPE,
                        "dy has %lld rows and the index %lld; they must be equal",
                        (long long)c->in[0]->dim[0], (long long)c->in[1]->dim[0]);
    }
    lgv_set_shape(&c->out[0], LGV_F32, 2, ((const lgv_attr_embedding *)c->attr)->rows,
                  c->in[0]->dim[1], 1, 1);
    return LGV_OK;
}

static void grad_embedding_grad(lgv_graph *g, lgv_id y, const lgv_id *dout, const bool *need,
                                lgv_id *din)
{
    if (need[0]) din[0] = lgv_embedding(g, dout[0], lgv_node_of(g, y)->in[1]);
}

static lgv_id example_embedding_grad(lgv_graph *g)
{
    return lgv_embedding_grad(g, lgv_example_input(g, "dy", 2, 6, 11, 0, 0), example_index(g, 6),
                              4);
}
static const lgv_example examples_embedding_grad[] = {{"6x11", example_embedding_grad}};

const lgv_op lgv_op_embedding_grad = {.name = "embedding_grad",
                                      .doc = "dy[N,C] added into rows index[N] of zeros [K,C]",
                                      .attr_size = sizeof(lgv_attr_embedding),
                                      .min_in = 2,
                                      .max_in = 2,
                                      .n_out = 1,
                                      .infer = infer_embedding_grad,
                                      .grad = grad_embedding_grad,
                                      .const_inputs = 2,
                                      LGV_EXAMPLES(examples_embedding_grad)};

lgv_id lgv_embedding_grad(lgv_graph *g, lgv_id dy, lgv_id index, int64_t rows)
{
    const lgv_attr_embedding attr = {rows};
    return lgv_node_new(g, LGV_OP_embedding_grad, "embedding_grad", 2, (const lgv_id[]){dy, index},
                        &attr);
}
