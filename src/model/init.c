/* init.c - default initialisation as PyTorch's layers do it in their constructors
   (torch/nn/modules: Conv and Linear call kaiming_uniform_(weight, a=sqrt(5)), that is a bound of
   1/sqrt(fan_in), then draw the bias from the same interval; arXiv 1502.01852, eq. 10). */
#include <math.h>
#include <string.h>

#include "kind.h"

typedef struct init {
    lgv_torch_rng *torch; /* NULL: Philox */
    uint64_t seed;
    int64_t fan_in; /* of the layer whose weight came last; 0: a norm */
} init;

static lgv_rng_key key_of(const init *s, const lgv_model_param *p)
{
    return (lgv_rng_key){.seed = s->seed, .stream = lgv_rng_stream(p->name)};
}

static void uniform(init *s, const lgv_model_param *p, double bound, float *out)
{
    int64_t n = lgv_param_elements(p);
    if (s->torch) {
        lgv_torch_uniform(s->torch, n, (float)-bound, (float)bound, out);
        return;
    }
    lgv_rng_key key = key_of(s, p);
    lgv_rng_uniform(&key, 0, n, out);
    for (int64_t i = 0; i < n; i++) out[i] = (float)bound * (2 * out[i] - 1);
}

static void normal(init *s, const lgv_model_param *p, float *out)
{
    lgv_rng_key key = key_of(s, p);
    if (s->torch)
        lgv_torch_randn(s->torch, lgv_param_elements(p), out);
    else
        lgv_rng_normal(&key, 0, lgv_param_elements(p), out);
}

static void scale(const lgv_model_param *p, double factor, float *out)
{
    for (int64_t i = 0; factor != 1 && i < lgv_param_elements(p); i++) out[i] *= (float)factor;
}

static void fill(init *s, const lgv_model_param *p, lgv_init_rule rule, float *out)
{
    switch (rule.law) {
    case LGV_INIT_CONSTANT:
        for (int64_t i = 0; i < lgv_param_elements(p); i++) out[i] = (float)rule.value;
        break;
    case LGV_INIT_UNIFORM: uniform(s, p, rule.value, out); break;
    case LGV_INIT_FOURIER:
        if (s->torch) normal(s, p, out);
        /* fallthrough */
    case LGV_INIT_NORMAL:
        normal(s, p, out);
        scale(p, rule.value, out);
        break;
    }
}

static bool is_bias(const lgv_model_param *p)
{
    size_t n = strlen(p->name);
    return n > 5 && !strcmp(p->name + n - 5, ".bias");
}

lgv_init_rule lgv_init_layer(const lgv_model_param *p, int64_t *fan_in)
{
    if (is_bias(p) && *fan_in)
        return (lgv_init_rule){LGV_INIT_UNIFORM, 1 / sqrt((double)*fan_in)};
    if (is_bias(p)) return (lgv_init_rule){LGV_INIT_CONSTANT, 0};
    if (p->rank == 1) {
        *fan_in = 0;
        return (lgv_init_rule){LGV_INIT_CONSTANT, 1};
    }
    *fan_in = lgv_param_elements(p) / p->dim[0];
    /* sqrt(3) * gain / sqrt(fan_in), gain = sqrt(2 / (1 + 5)), in the order in which PyTorch
     * rounds it */
    return (lgv_init_rule){LGV_INIT_UNIFORM,
                           sqrt(3.0) * (sqrt(2.0 / 6.0) / sqrt((double)*fan_in))};
}

static lgv_status fill_all(const lgv_model *m, lgv_store *store, const char *set, init *s,
                           float *buffer, lgv_error *err)
{
    for (size_t i = 0; i < m->n_params; i++) {
        const lgv_model_param *p = &m->param[i];
        int index = lgv_store_find(store, p->name);
        if (index < 0)
            return lgv_fail(
                err, LGV_ERR_ARGUMENT,
                "the store has no buffer '%s'; declare it from a graph of this model first "
                "(lgv_store_declare)",
                p->name);
        fill(s, p, m->kind->init(m, p, &s->fan_in), buffer);
        LGV_TRY(lgv_store_write(store, set, index, buffer, lgv_param_elements(p), err));
    }
    return LGV_OK;
}

lgv_status lgv_model_init(const lgv_model *model, lgv_store *store, const char *set,
                          lgv_torch_rng *torch, uint64_t seed, lgv_error *err)
{
    int64_t n = 1;
    for (size_t i = 0; i < model->n_params; i++) n = lgv_max_i64(n, lgv_param_elements(&model->param[i]));
    LGV_TRY(lgv_store_add_set(store, set, err));
    float *buffer = lgv_alloc((size_t)n, sizeof *buffer);
    if (!buffer)
        return lgv_fail(err, LGV_ERR_MEMORY, "out of memory for a tensor of %lld numbers",
                        (long long)n);
    init s = {.torch = torch, .seed = seed};
    lgv_status status = fill_all(model, store, set, &s, buffer, err);
    lgv_free(buffer);
    return status;
}
