/* gradient_check.c - emitted gradients beside central differences of <y, seed>. Reads and writes the plan's values
   in place, which only a device in host memory allows: float would be too coarse on cpu:f64. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "langevin/custom.h"
#include "langevin/rng.h"
#include "planner.h"

/* Element i in the order of a dense tensor; a slice is a view. */
static int64_t offset_of(const lgv_tensor *t, int64_t i)
{
    int64_t offset = 0;
    for (int k = t->rank - 1; k >= 0; i /= t->dim[k], k--) offset += i % t->dim[k] * t->stride[k];
    return offset;
}

static double get(const lgv_plan *plan, const lgv_tensor *t, int64_t i)
{
    const int64_t at = offset_of(t, i);
    if (plan->device->element_size(plan->device, LGV_F32) == sizeof(double))
        return ((const double *)t->data)[at];
    return (double)((const float *)t->data)[at];
}

static void set(const lgv_plan *plan, const lgv_tensor *t, int64_t i, double value)
{
    const int64_t at = offset_of(t, i);
    if (plan->device->element_size(plan->device, LGV_F32) == sizeof(double))
        ((double *)t->data)[at] = value;
    else
        ((float *)t->data)[at] = (float)value;
}

static lgv_status objective(lgv_plan *plan, double *sum, lgv_error *err)
{
    lgv_tensor y, s;
    LGV_TRY(lgv_plan_run(plan, NULL, err));
    LGV_TRY(lgv_plan_tensor(plan, "y0", &y, err));
    LGV_TRY(lgv_plan_tensor(plan, "seed", &s, err));
    *sum = 0;
    for (int64_t i = 0; i < lgv_tensor_elements(&y); i++)
        *sum += get(plan, &y, i) * get(plan, &s, i);
    return LGV_OK;
}

lgv_status lgv_plan_gradient_error(lgv_plan *plan, const char *input, const char *grad,
                                   double *error, lgv_error *err)
{
    const bool f64 = plan->device->element_size(plan->device, LGV_F32) == sizeof(double);
    const double h = f64 ? 1e-5 : 1e-2;
    lgv_tensor x, g;
    LGV_TRY(lgv_plan_run(plan, NULL, err));
    LGV_TRY(lgv_plan_tensor(plan, input, &x, err));
    LGV_TRY(lgv_plan_tensor(plan, grad, &g, err));
    const int64_t n = lgv_tensor_elements(&x), step = n > 60 ? n / 53 : 1;
    double worst = 0, largest = 1;
    double *emitted = lgv_alloc((size_t)n, sizeof *emitted);
    if (!emitted) return lgv_fail(err, LGV_ERR_MEMORY, "out of memory while checking gradients");
    lgv_status status = LGV_OK;
    for (int64_t i = 0; i < n; i++) emitted[i] = get(plan, &g, i);
    for (int64_t i = 0; i < n && !status; i += step) {
        const double keep = get(plan, &x, i);
        double up = 0, down = 0;
        set(plan, &x, i, keep + h);
        status = objective(plan, &up, err);
        set(plan, &x, i, keep - h);
        if (!status) status = objective(plan, &down, err);
        set(plan, &x, i, keep);
        const double measured = (up - down) / (2 * h);
        if (fabs(measured) > largest) largest = fabs(measured);
        if (!(fabs(emitted[i] - measured) <= worst)) worst = fabs(emitted[i] - measured);
    }
    lgv_free(emitted);
    *error = worst / largest;
    return status;
}

/* --- The public check ------------------------------------------------------------------------------------- */
enum { MOST = 64 }; /* inputs */

typedef struct checked {
    lgv_graph *g;
    lgv_store *store;
    lgv_plan *plan;
    int n;
    const char *input[MOST]; /* inputs that a gradient reaches */
    char grad[MOST][16];     /* and what the outputs with these are called */
} checked;

static lgv_status emit(checked *c, lgv_build build, void *user, lgv_error *err)
{
    lgv_graph *g = c->g;
    const char *name[MOST];
    lgv_id wrt[MOST], grad[MOST], y = build(g, user);
    int n = 0;
    LGV_TRY(lgv_graph_status(g, err));
    if (y < 0 || (size_t)y >= g->n_values || g->value[y].dtype != LGV_F32)
        return lgv_fail(err, LGV_ERR_ARGUMENT, "gradient check: build returned no float value");
    if (g->n_params)
        return lgv_fail(err, LGV_ERR_ARGUMENT,
                        "gradient check: '%s' is a parameter; make it an input", g->param[0].name);
    for (size_t i = 0; i < g->n_nodes; i++) {
        const lgv_node *node = &g->node[i];
        if (node->op != LGV_OP_input || g->value[node->out[0]].dtype != LGV_F32) continue;
        if (n == MOST)
            return lgv_fail(err, LGV_ERR_ARGUMENT, "gradient check: more than %d inputs", n);
        name[n] = ((const lgv_attr_input *)node->attr)->name;
        wrt[n++] = node->out[0];
    }
    const lgv_value shape = g->value[y];
    const lgv_id seed = lgv_input(g, "seed", LGV_F32, shape.rank, shape.dim);
    LGV_TRY(lgv_graph_grad(g, 1, &y, &seed, n, wrt, grad, err));
    lgv_graph_output(g, y, "y0");
    for (int i = 0; i < n; i++) {
        if (grad[i] == LGV_NONE) continue;
        snprintf(c->grad[c->n], sizeof *c->grad, "grad%d", i);
        lgv_graph_output(g, lgv_affine(g, grad[i], 1, 0), c->grad[c->n]);
        c->input[c->n++] = name[i];
    }
    if (!c->n)
        return lgv_fail(err, LGV_ERR_ARGUMENT, "gradient check: no gradient reaches an input");
    return lgv_graph_status(g, err);
}

static lgv_status fill(lgv_plan *plan, const char *name, lgv_error *err)
{
    lgv_tensor x;
    LGV_TRY(lgv_plan_tensor(plan, name, &x, err));
    const int64_t n = lgv_tensor_elements(&x);
    const lgv_rng_key key = {.seed = 11, .stream = lgv_rng_stream(name)};
    for (int64_t k = 0; k < n; k++) {
        float value;
        if (x.dtype == LGV_I32) {
            ((int32_t *)x.data)[offset_of(&x, k)] = (int32_t)lgv_rng_below(&key, (uint64_t)k, 3);
            continue;
        }
        if (!strncmp(name, "p_", 2)) {
            lgv_rng_uniform(&key, (uint64_t)k, 1, &value);
            value += 0.5f;
        } else {
            lgv_rng_normal(&key, (uint64_t)k, 1, &value);
        }
        set(plan, &x, k, (double)value);
    }
    return LGV_OK;
}

static lgv_status measure(checked *c, lgv_device *device, double *error, lgv_error *err)
{
    const lgv_program program = {"gradient check", c->g};
    LGV_TRY(lgv_store_new(device, &c->store, err));
    LGV_TRY(lgv_plan_new(c->store, 1, &program, NULL, &c->plan, err));
    for (size_t i = 0; i < c->g->n_nodes; i++)
        if (c->g->node[i].op == LGV_OP_input)
            LGV_TRY(fill(c->plan, ((const lgv_attr_input *)c->g->node[i].attr)->name, err));
    *error = 0;
    for (int i = 0; i < c->n; i++) {
        double e = 0;
        LGV_TRY(lgv_plan_gradient_error(c->plan, c->input[i], c->grad[i], &e, err));
        if (!(e <= *error)) *error = e;
    }
    return LGV_OK;
}

lgv_status lgv_gradient_check(lgv_device *device, lgv_build build, void *user, double *error,
                              lgv_error *err)
{
    checked c = {.g = lgv_graph_new()};
    if (!c.g) return lgv_fail(err, LGV_ERR_MEMORY, "out of memory while checking gradients");
    lgv_status status = emit(&c, build, user, err);
    if (!status) status = measure(&c, device, error, err);
    lgv_plan_free(c.plan);
    lgv_store_free(c.store);
    lgv_graph_free(c.g);
    return status;
}
