/* programs.c - the graphs of training: one that computes loss and gradients of a micro-batch, one
   that updates the weights, and one that measures the loss on the averaged weights. */
#include "trainer.h"

#include "langevin/ops.h"

static lgv_status build_training(const lgv_trainer *t, lgv_graph *g, lgv_error *err)
{
    lgv_id rows;
    LGV_TRY(t->task->build(t, true, g, &rows, err));
    lgv_id loss = lgv_weighted_sum(g, rows, lgv_step_row(g, t->batch, LGV_FIELD_WEIGHT));
    lgv_graph_output(g, loss, "loss");
    lgv_graph_output(g, rows, "rows");
    return lgv_graph_grad_params(g, loss, "grad", err);
}

static lgv_status build_validation(const lgv_trainer *t, lgv_graph *g, lgv_error *err)
{
    lgv_id rows;
    LGV_TRY(t->task->build(t, false, g, &rows, err));
    lgv_graph_output(g, rows, "rows");
    return lgv_graph_status(g, err);
}

static lgv_status build_update(const lgv_trainer *t, lgv_graph *g, lgv_error *err)
{
    lgv_graph_output(g, lgv_adamw(g, t->ema), "update");
    return lgv_graph_status(g, err);
}

static lgv_status make_store(lgv_trainer *t, const lgv_graph *g, lgv_error *err)
{
    LGV_TRY(lgv_store_new(t->device, &t->store, err));
    LGV_TRY(lgv_store_declare(t->store, g, err));
    static const char *const sets[] = {"weight", "grad", "exp_avg", "exp_avg_sq", "ema"};
    for (int i = 0; i < (t->ema ? 5 : 4); i++) LGV_TRY(lgv_store_add_set(t->store, sets[i], err));
    return LGV_OK;
}

/* What the budget leaves for activations once the sets of the store are paid for; 0 is no limit. */
static lgv_status activation_budget(const lgv_trainer *t, size_t *out, lgv_error *err)
{
    size_t budget = t->options.memory_budget, store = lgv_store_bytes(t->store);
    *out = 0;
    if (!budget) return LGV_OK;
    if (budget <= store)
        return lgv_fail(err, LGV_ERR_ARGUMENT,
                        "the memory budget of %zu MiB is too small: weights, gradients and the "
                        "optimizer's state alone "
                        "take %zu MiB",
                        budget >> 20, (store >> 20) + 1);
    *out = budget - store;
    return LGV_OK;
}

static lgv_status make_training(lgv_trainer *t, lgv_graph *g, lgv_graph *update, lgv_error *err)
{
    LGV_TRY(build_training(t, g, err));
    LGV_TRY(build_update(t, update, err));
    if (!t->store) LGV_TRY(make_store(t, g, err));
    size_t budget;
    LGV_TRY(activation_budget(t, &budget, err));
    const lgv_program programs[] = {{"forward_backward", g}, {"update", update}};
    lgv_plan_options options = {.accumulate_grads = t->options.gradient_accumulation_steps > 1,
                                .recompute = t->options.recompute,
                                .memory_budget = budget,
                                .mixed_precision = t->options.mixed_precision,
                                .kernel = t->options.kernel,
                                .no_fusion = t->options.no_fusion};
    return lgv_plan_new(t->store, 2, programs, &options, &t->train, err);
}

static lgv_status make_validation(lgv_trainer *t, lgv_graph *g, lgv_error *err)
{
    LGV_TRY(build_validation(t, g, err));
    const lgv_program program = {"validate", g};
    lgv_plan_options options = {.weights = t->ema ? "ema" : "weight",
                                .mixed_precision = t->options.mixed_precision,
                                .kernel = t->options.kernel,
                                .no_fusion = t->options.no_fusion};
    return lgv_plan_new(t->store, 1, &program, &options, &t->validate, err);
}

static lgv_status with_graphs(lgv_trainer *t, bool training, lgv_error *err)
{
    lgv_graph *g = lgv_graph_new(), *update = lgv_graph_new();
    lgv_status s = LGV_OK;
    if (!g || !update) s = lgv_fail(err, LGV_ERR_MEMORY, "out of memory for the training graph");
    if (!s) s = training ? make_training(t, g, update, err) : make_validation(t, g, err);
    lgv_graph_free(g);
    lgv_graph_free(update);
    return s;
}

/* Halves the micro-batch where recomputation alone cannot keep the budget. */
static lgv_status plan_within_budget(lgv_trainer *t, lgv_error *err)
{
    lgv_status s = with_graphs(t, true, err);
    while (s == LGV_ERR_MEMORY && t->options.memory_budget && t->batch % 2 == 0) {
        t->batch /= 2;
        t->options.train_batch_size = t->batch;
        t->options.gradient_accumulation_steps *= 2;
        s = with_graphs(t, true, err);
        if (!s)
            s = lgv_trainer_note(
                t, err,
                "to stay within the memory budget a batch is computed in %lld parts of %lld",
                (long long)t->options.gradient_accumulation_steps, (long long)t->batch);
    }
    return s;
}

lgv_status lgv_trainer_plan(lgv_trainer *t, lgv_error *err)
{
    LGV_TRY(plan_within_budget(t, err));
    if (!lgv_dataset_validation_count(t->data)) return LGV_OK;
    return with_graphs(t, false, err);
}
