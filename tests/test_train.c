/* test_train.c - the optimizer step: golden values of PyTorch and diffusers, and what may not
   change its bits (threads, recomputation) or more than rounding (micro-batches). */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

#include "core/file.h"
#include "golden.h"
#include "langevin/ops.h"
#include "ok.h"
#include "scratch.h"
#include "train/trainer.h"
#include "training.h"

static lgv_error err;

static void near(const char *what, double a, double b, double tolerance)
{
    if (!(fabs(a - b) <= tolerance)) fail_msg("%s: %.17g, wanted %.17g", what, a, b);
}

static void refuse(const training_setup *setup, const char *part)
{
    training *t = NULL;
    assert_int_not_equal(training_try(setup, &t, &err), LGV_OK);
    assert_null(t);
    if (!strstr(err.text, part)) fail_msg("'%s' does not say '%s'", err.text, part);
}

/* ---- learning rates ---- */

static const double *doubles(const lgv_safetensors *f, const char *name, int64_t *n)
{
    const lgv_tensor_info *t = lgv_safetensors_find(f, name);
    if (!t || t->dtype != LGV_F64) fail_msg("no float64 tensor '%s'", name);
    double *out = malloc(t->bytes);
    memcpy(out, t->data, t->bytes);
    *n = t->count;
    return out;
}

/* 1e-12 relative: the same formulas in double, other cosines and powers. */
static void learning_rates_are_those_of_diffusers(void **state)
{
    static const struct {
        const char *name;
        lgv_lr_scheduler kind;
        double cycles, power;
    } cases[] = {{"constant", LGV_LR_CONSTANT, 0, 0},
                 {"constant_with_warmup", LGV_LR_CONSTANT_WITH_WARMUP, 0, 0},
                 {"linear", LGV_LR_LINEAR, 0, 0},
                 {"cosine", LGV_LR_COSINE, 0, 0},
                 {"cosine_with_restarts", LGV_LR_COSINE_WITH_RESTARTS, 3, 0},
                 {"polynomial", LGV_LR_POLYNOMIAL, 0, 0},
                 {"polynomial_power2", LGV_LR_POLYNOMIAL, 0, 2}};
    lgv_safetensors *f = golden_open("lr_schedules");
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        int64_t n;
        const double *want = doubles(f, cases[k].name, &n);
        for (int64_t i = 0; i < n; i++)
            near(cases[k].name,
                 1e-4 * lgv_lr_factor(cases[k].kind, i, 10, 100, cases[k].cycles, cases[k].power,
                                      1e-4),
                 want[i], 1e-16);
        free((void *)(uintptr_t)want);
    }
    lgv_safetensors_close(f);
    lgv_lr_scheduler s;
    OK(lgv_lr_scheduler_parse("cosine-with-restarts", &s, &err));
    assert_int_equal(s, LGV_LR_COSINE_WITH_RESTARTS);
    assert_int_equal(lgv_lr_scheduler_parse("cosin", &s, &err), LGV_ERR_ARGUMENT);
}

/* ---- optimizer ---- */

static const char *const parameter[4] = {"a", "b", "c", "d"};

typedef struct optimizer {
    lgv_device *device;
    lgv_store *store;
    lgv_plan *plan;
} optimizer;

static optimizer optimizer_new(void)
{
    static const int64_t dim[4][4] = {{5, 7}, {3}, {2, 3, 3, 3}, {1}};
    static const int rank[4] = {2, 1, 4, 1};
    static const char *const sets[] = {"weight", "grad", "exp_avg", "exp_avg_sq", "ema"};
    optimizer o = {0};
    lgv_graph *g = lgv_graph_new();
    for (int i = 0; i < 4; i++) lgv_param(g, parameter[i], rank[i], dim[i]);
    lgv_graph_output(g, lgv_adamw(g, 1), "update");
    OK(lgv_graph_status(g, &err));
    OK(lgv_device_new(NULL, 2, &o.device, &err));
    OK(lgv_store_new(o.device, &o.store, &err));
    OK(lgv_store_declare(o.store, g, &err));
    for (int i = 0; i < 5; i++) OK(lgv_store_add_set(o.store, sets[i], &err));
    const lgv_program program = {"update", g};
    OK(lgv_plan_new(o.store, 1, &program, NULL, &o.plan, &err));
    lgv_graph_free(g);
    return o;
}

/* Row k of tensor "KIND.X" to or against a set. */
static void put_row(const optimizer *o, const lgv_safetensors *f, const char *kind, const char *set,
                    int k)
{
    for (int i = 0; i < 4; i++) {
        char name[32];
        int64_t count;
        snprintf(name, sizeof name, "%s.%s", kind, parameter[i]);
        float *x = golden_floats(f, name, &count);
        int64_t n = count / (strcmp(kind, "grad") ? 11 : 10);
        OK(lgv_store_write(o->store, set, lgv_store_find(o->store, parameter[i]), x + k * n, n,
                           &err));
        free(x);
    }
}

/* Largest |difference| to row k, relative to the largest entry the tensor has in any row: a moment
   that crosses zero keeps the rounding of the terms that cancel. */
static void check_row(const optimizer *o, const lgv_safetensors *f, const char *kind,
                      const char *set, int k, double tolerance)
{
    for (int i = 0; i < 4; i++) {
        char name[32];
        int64_t count;
        float have[64];
        snprintf(name, sizeof name, "%s.%s", kind, parameter[i]);
        float *x = golden_floats(f, name, &count);
        int64_t n = count / 11;
        OK(lgv_store_read(o->store, set, lgv_store_find(o->store, parameter[i]), have, n, &err));
        double largest = 0;
        for (int64_t j = 0; j < count; j++) largest = fmax(largest, fabs(x[j]));
        double e = golden_error(have, x + k * n, n, largest);
        if (e > tolerance) fail_msg("%s, step %d: error %g", name, k, e);
        free(x);
    }
}

static void optimizer_case(const char *file)
{
    lgv_safetensors *f = golden_open(file);
    json_t *options = json_loads(golden_metadata(f, "options"), 0, NULL);
    assert_non_null(options);
    json_t *betas = json_object_get(options, "betas");
    double beta1 = json_number_value(json_array_get(betas, 0)),
           beta2 = json_number_value(json_array_get(betas, 1));
    int64_t n;
    const double *lr = doubles(f, "lr", &n), *decay = doubles(f, "ema_decay", &n);
    float *norm = golden_floats(f, "norm", NULL);
    optimizer o = optimizer_new();
    put_row(&o, f, "param", "weight", 0);
    put_row(&o, f, "ema", "ema", 0);
    for (int k = 0; k < 10; k++) {
        double *scalar = lgv_plan_step(o.plan)->scalar;
        float out[2];
        scalar[LGV_SCALAR_LR] = lr[k];
        scalar[LGV_SCALAR_BETA1] = beta1;
        scalar[LGV_SCALAR_BETA2] = beta2;
        scalar[LGV_SCALAR_EPS] = json_number_value(json_object_get(options, "eps"));
        scalar[LGV_SCALAR_WEIGHT_DECAY] =
            json_number_value(json_object_get(options, "weight_decay"));
        scalar[LGV_SCALAR_MAX_NORM] = json_number_value(json_object_get(options, "max_grad_norm"));
        scalar[LGV_SCALAR_BIAS1] = 1 - pow(beta1, k + 1);
        scalar[LGV_SCALAR_BIAS2] = 1 - pow(beta2, k + 1);
        scalar[LGV_SCALAR_EMA_DECAY] = decay[k];
        put_row(&o, f, "grad", "grad", k);
        OK(lgv_plan_run(o.plan, NULL, &err));
        OK(lgv_plan_read(o.plan, "update", out, 2, &err));
        near("norm", out[0], norm[k], 1e-6 * norm[k]);
        assert_true(out[1] == 0);
        check_row(&o, f, "param", "weight", k + 1, 1e-6);
        check_row(&o, f, "exp_avg", "exp_avg", k + 1, 1e-6);
        check_row(&o, f, "exp_avg_sq", "exp_avg_sq", k + 1, 1e-6);
        check_row(&o, f, "ema", "ema", k + 1, 1e-6);
    }
    if (!strcmp(file, "optimizer_default"))
        for (int k = 0; k < 10; k++) near("ema decay", lgv_ema_decay(k, 0.9999), decay[k], 1e-12);
    free((void *)(uintptr_t)lr);
    free((void *)(uintptr_t)decay);
    free(norm);
    json_decref(options);
    lgv_plan_free(o.plan);
    lgv_store_free(o.store);
    lgv_device_free(o.device);
    lgv_safetensors_close(f);
}

static void optimizer_steps_are_those_of_pytorch(void **state)
{
    optimizer_case("optimizer_default");
    optimizer_case("optimizer_other");
}

/* ---- ten whole steps ---- */

typedef struct pictures {
    int count;
    float *nchw;
} pictures;

static lgv_status read_picture(void *arg, int64_t index, float *x0, lgv_error *e)
{
    const pictures *p = arg;
    const int n = TRAINING_SIDE * TRAINING_SIDE;
    const float *from = p->nchw + index * n * TRAINING_CHANNELS;
    for (int i = 0; i < n; i++)
        for (int c = 0; c < TRAINING_CHANNELS; c++) x0[i * TRAINING_CHANNELS + c] = from[c * n + i];
    return LGV_OK;
}

static float *parameter_of(lgv_store *store, const char *set, int i, const char **name, int64_t *n)
{
    int rank, frozen;
    int64_t dim[LGV_MAX_RANK];
    *name = lgv_store_at(store, i, &rank, dim, &frozen);
    *n = 1;
    for (int k = 0; k < rank; k++) *n *= dim[k];
    float *x = malloc((size_t)*n * sizeof *x);
    OK(lgv_store_read(store, set, i, x, *n, &err));
    return x;
}

/* The bound of the issue, 1e-5 of the RMS; tensors whose gradient is mathematically zero are moved
   by rounding alone and listed in the file. */
static void compare_parameters(const lgv_safetensors *f, lgv_store *store)
{
    const char *zero = golden_metadata(f, "zero_gradients");
    double worst = 0, worst_ema = 0;
    for (int i = 0; i < lgv_store_count(store); i++) {
        const char *name;
        char key[160], quoted[160];
        int64_t n, count;
        float *x = parameter_of(store, "weight", i, &name, &n);
        snprintf(key, sizeof key, "final.%s", name);
        snprintf(quoted, sizeof quoted, "\"%s\"", name);
        float *want = golden_floats(f, key, &count);
        assert_int_equal(n, count);
        double e = golden_rms_error(x, want, n);
        free(x);
        free(want);
        if (strstr(zero, quoted)) continue;
        if (e > 1e-5) print_error("%s: RMS error %g\n", name, e);
        if (e > worst) worst = e;
        x = parameter_of(store, "ema", i, &name, &n);
        snprintf(key, sizeof key, "ema.%s", name);
        want = golden_floats(f, key, &count);
        e = golden_gradient_error(name, x, n, want, 0);
        if (e > worst_ema) worst_ema = e;
        free(x);
        free(want);
    }
    print_message("parameters: largest RMS error %.2g; averages: %.2g\n", worst, worst_ema);
    assert_true(worst <= 1e-5);
    assert_true(worst_ema <= 1e-4); /* single entries, not root mean squares */
}

static void compare_init(const lgv_safetensors *f, lgv_store *store)
{
    for (int i = 0; i < lgv_store_count(store); i++) {
        const char *name;
        char key[160];
        int64_t n;
        float *x = parameter_of(store, "weight", i, &name, &n);
        snprintf(key, sizeof key, "init.%s", name);
        float *want = golden_floats(f, key, NULL);
        double e = golden_gradient_error(name, x, n, want, 0);
        if (e > 1e-5) fail_msg("initial %s: error %g", name, e);
        free(x);
        free(want);
    }
}

/* train_classes has three classes of four pictures, and loses labels. */
static void write_pictures(const char *file, int count, bool classes)
{
    char name[64];
    if (!classes) training_pictures(file, count, TRAINING_SIDE, TRAINING_CHANNELS);
    OK(lgv_make_dir(scratch_path(file), &err));
    for (int k = 0; classes && k < 3; k++) {
        snprintf(name, sizeof name, "%s/%c", file, 'a' + k);
        training_pictures(name, count / 3, TRAINING_SIDE, TRAINING_CHANNELS);
    }
}

static void ten_steps(const char *file, bool loader, bool classes)
{
    lgv_safetensors *f = golden_open(file);
    pictures p = {.count = loader ? 20 : 12};
    int64_t size = p.count * TRAINING_CHANNELS * TRAINING_SIDE * TRAINING_SIDE;
    p.nchw = malloc((size_t)size * sizeof(float));
    golden_unit("train.data", size, p.nchw);
    write_pictures(file, (int)p.count, classes);
    training *t = training_new(
        &(training_setup){.data = scratch_path(file),
                          .config = golden_metadata(f, "config"),
                          .options = {.max_train_steps = 10,
                                      .train_batch_size = 4,
                                      .lr_warmup_steps = 3,
                                      .class_dropout_prob = classes ? 0.3 : 0,
                                      .rng = LGV_RNG_TORCH,
                                      .seed = strtoull(golden_metadata(f, "seed"), NULL, 10)}});
    lgv_trainer_set_source(t->trainer, read_picture, &p, loader ? 0 : p.count);
    compare_init(f, lgv_trainer_store(t->trainer));
    int64_t n;
    const double *loss = doubles(f, "loss", &n), *norm = doubles(f, "norm", &n);
    float *times = golden_floats(f, "timesteps", NULL),
          *indices = golden_floats(f, "indices", NULL),
          *labels = classes ? golden_floats(f, "labels", NULL) : NULL;
    double worst = 0, worst_norm = 0;
    for (int k = 0; k < 10; k++) {
        lgv_train_report r;
        OK(lgv_trainer_step(t->trainer, &r, &err));
        for (int i = 0; i < 4; i++) {
            assert_int_equal(t->trainer->t[i], (int64_t)times[k * 4 + i]);
            if (classes) assert_int_equal(t->trainer->label[i], (int)labels[k * 4 + i]);
            if (loader)
                assert_int_equal(t->trainer->order[k % 5 * 4 + i], (int64_t)indices[k * 4 + i]);
        }
        worst = fmax(worst, fabs(r.loss / loss[k] - 1));
        worst_norm = fmax(worst_norm, fabs(r.grad_norm / norm[k] - 1));
    }
    print_message("%s: losses to %.2g, norms to %.2g\n", file, worst, worst_norm);
    assert_true(worst <= 1e-5);
    assert_true(worst_norm <= 1e-4);
    compare_parameters(f, lgv_trainer_store(t->trainer));
    free((void *)(uintptr_t)loss);
    free((void *)(uintptr_t)norm);
    free(times);
    free(indices);
    free(labels);
    free(p.nchw);
    training_free(t);
    lgv_safetensors_close(f);
}

static void ten_steps_are_those_of_diffusers(void **state)
{
    ten_steps("train_plain", false, false);
}
static void ten_steps_with_a_learned_variance(void **state)
{
    ten_steps("train_hybrid", false, false);
}
static void ten_steps_with_a_loader(void **state)
{
    ten_steps("train_loader", true, false);
}
static void ten_steps_with_classes(void **state)
{
    ten_steps("train_classes", false, true);
}

/* ---- bits ---- */

static uint64_t bits(int threads, int recompute, lgv_rng_kind rng, double *loss)
{
    training *t = training_new(&(training_setup){.data = scratch_path("bits"),
                                                 .threads = threads,
                                                 .options = {.max_train_steps = 3,
                                                             .train_batch_size = 6,
                                                             .lr_warmup_steps = LGV_OFF,
                                                             .learning_rate = 1e-3,
                                                             .rng = rng,
                                                             .recompute = recompute,
                                                             .noise_offset = 0.1,
                                                             .loader_threads = threads}});
    training_steps(t, 3, loss);
    uint64_t h = training_hash(t);
    training_free(t);
    return h;
}

static void bits_do_not_depend_on_threads_and_recompute(void **state)
{
    double a[3], b[3];
    training_pictures("bits", 10, 20, 3);
    uint64_t one = bits(1, 0, LGV_RNG_PHILOX, a);
    assert_true(bits(2, 0, LGV_RNG_PHILOX, b) == one);
    assert_memory_equal(a, b, sizeof a);
    assert_true(bits(7, 1, LGV_RNG_PHILOX, b) == one);
    assert_true(bits(2, 2, LGV_RNG_PHILOX, b) == one);
    assert_memory_equal(a, b, sizeof a);
    one = bits(1, 0, LGV_RNG_TORCH, a);
    assert_true(bits(3, 2, LGV_RNG_TORCH, b) == one);
}

typedef struct split_result {
    double loss;
    float *grad; /* [n] */
    int64_t n;
} split_result;

/* Loss and gradients of the first step, before the optimizer: a rate of (nearly) 0 leaves exp_avg =
   (1 - beta1) times the clipped gradient, so clipping is off and beta1 0. */
static split_result split(int batch, int accumulation, lgv_rng_kind rng)
{
    split_result out = {0};
    training *t =
        training_new(&(training_setup){.data = scratch_path("split"),
                                       .options = {.max_train_steps = 1,
                                                   .train_batch_size = batch,
                                                   .gradient_accumulation_steps = accumulation,
                                                   .adam_beta1 = LGV_OFF,
                                                   .max_grad_norm = LGV_OFF,
                                                   .rng = rng,
                                                   .noise_offset = 0.2,
                                                   .snr_gamma = 5}});
    training_steps(t, 1, &out.loss);
    lgv_store *store = lgv_trainer_store(t->trainer);
    out.grad = malloc((size_t)lgv_store_parameters(store) * sizeof(float));
    for (int i = 0; i < lgv_store_count(store); i++) {
        const char *name;
        int64_t n;
        float *x = parameter_of(store, "exp_avg", i, &name, &n);
        memcpy(out.grad + out.n, x, (size_t)n * sizeof *x);
        out.n += n;
        free(x);
    }
    training_free(t);
    return out;
}

static void micro_batches_change_rounding_only(void **state)
{
    training_pictures("split", 14, 16, 3);
    for (int rng = 0; rng < 2; rng++) {
        split_result whole = split(8, 1, (lgv_rng_kind)rng);
        double largest = 0;
        for (int64_t i = 0; i < whole.n; i++) largest = fmax(largest, fabs(whole.grad[i]));
        assert_true(largest > 0);
        static const int parts[] = {2, 4, 8};
        for (int k = 0; k < 3; k++) {
            split_result part = split(8 / parts[k], parts[k], (lgv_rng_kind)rng);
            near("loss", part.loss, whole.loss, 1e-6 * whole.loss);
            double e = golden_error(part.grad, whole.grad, whole.n, 0);
            if (e > 1e-6) fail_msg("%d micro-batches: gradient error %g", parts[k], e);
            free(part.grad);
        }
        free(whole.grad);
    }
}

/* A budget is kept by recomputing, then by smaller micro-batches; the loss stays within rounding.
 */
static void a_memory_budget_is_kept(void **state)
{
    training_pictures("split", 14, 16, 3);
    training_setup s = {.data = scratch_path("split"),
                        .options = {.max_train_steps = 1, .train_batch_size = 16}};
    lgv_trainer_info info;
    double free_loss, loss;
    training *t = training_new(&s);
    lgv_trainer_describe(t->trainer, &info);
    training_steps(t, 1, &free_loss);
    training_free(t);
    s.options.memory_budget = info.store_bytes + info.arena_bytes / 6;
    t = training_new(&s);
    lgv_trainer_describe(t->trainer, &info);
    training_steps(t, 1, &loss);
    assert_int_equal(info.effective_batch, 16);
    if (info.arena_bytes + info.store_bytes > s.options.memory_budget)
        fail_msg("%zu bytes, budget %zu", info.arena_bytes + info.store_bytes,
                 s.options.memory_budget);
    near("loss", loss, free_loss, 1e-6 * free_loss);
    training_free(t);
    s.options.memory_budget = 1000;
    refuse(&s, "memory budget");
}

/* ---- everything that can be predicted, weighted and drawn ---- */

static void every_prediction_learns(void **state)
{
    static const char *const kinds[] = {"epsilon", "sample", "v_prediction", "epsilon",
                                        "flow_prediction"};
    training_pictures("kinds", 6, 16, 3);
    for (int k = 0; k < 5; k++) {
        double loss[40], first = 0, last = 0;
        training *t =
            training_new(&(training_setup){.data = scratch_path("kinds"),
                                           .prediction = kinds[k],
                                           .options = {.max_train_steps = 40,
                                                       .train_batch_size = 8,
                                                       .lr_warmup_steps = LGV_OFF,
                                                       .learning_rate = 3e-3,
                                                       .snr_gamma = k == 3 || k == 1 ? 5 : 0}});
        training_steps(t, 40, loss);
        for (int i = 0; i < 10; i++) {
            first += loss[i] / 10;
            last += loss[30 + i] / 10;
        }
        if (!(last < 0.8 * first)) fail_msg("%s: loss %g, then %g", kinds[k], first, last);
        training_free(t);
    }
}

/* ---- numbers that are no numbers ---- */

static void non_finite_gradients_change_nothing(void **state)
{
    training_pictures("bits", 10, 20, 3);
    training *t = training_new(&(training_setup){
        .data = scratch_path("bits"), .options = {.max_train_steps = 30, .train_batch_size = 4}});
    lgv_store *store = lgv_trainer_store(t->trainer);
    training_steps(t, 2, NULL);
    uint64_t before = training_hash(t);
    float bad = INFINITY, good;
    int norm = lgv_store_find(store, "conv_norm_out.bias");
    const char *name;
    int64_t n;
    float *whole = parameter_of(store, "weight", norm, &name, &n);
    good = whole[0];
    whole[0] = bad;
    OK(lgv_store_write(store, "weight", norm, whole, n, &err));
    lgv_train_report r;
    for (int k = 0; k < 3; k++) {
        OK(lgv_trainer_step(t->trainer, &r, &err));
        assert_int_equal(r.skipped, 1);
        assert_int_equal(r.skipped_updates, k + 1);
    }
    whole[0] = good;
    OK(lgv_store_write(store, "weight", norm, whole, n, &err));
    assert_true(training_hash(t) == before);
    OK(lgv_trainer_step(t->trainer, &r, &err));
    assert_int_equal(r.skipped, 0);
    assert_true(training_hash(t) != before);
    whole[0] = bad;
    OK(lgv_store_write(store, "weight", norm, whole, n, &err));
    lgv_status s = LGV_OK;
    int steps = 0;
    while (!s && steps < 20) {
        s = lgv_trainer_step(t->trainer, &r, &err);
        steps++;
    }
    assert_int_equal(steps, 10);
    assert_int_equal(s, LGV_ERR_NUMERIC);
    assert_non_null(strstr(err.text, "10 steps in a row"));
    assert_int_equal(lgv_trainer_step(t->trainer, &r, &err), LGV_ERR_NUMERIC);
    free(whole);
    training_free(t);
}

/* ---- impossible things ---- */

static void impossible_runs_are_refused(void **state)
{
    training_pictures("few", 3, 16, 3);
    const char *few = scratch_path("few");
    refuse(&(training_setup){.data = few, .options = {.rng = LGV_RNG_TORCH, .train_batch_size = 4}},
           "drops incomplete");
    refuse(&(training_setup){.data = few, .options = {.learning_rate = -2}}, "learning_rate");
    refuse(&(training_setup){.data = few, .options = {.ema_decay = 1.5}}, "ema_decay");
    refuse(&(training_setup){.data = few, .options = {.train_batch_size = -3}}, "train_batch_size");
    refuse(&(training_setup){.data = few, .data_options = {.channels = 1}}, "channels");
    refuse(&(training_setup){.data = few, .data_options = {.resolution = 17}}, "17");
    refuse(&(training_setup){.data = few,
                             .config = "{\"sample_size\": 16, \"block_out_channels\": [8], "
                                       "\"down_block_types\": [\"DownBlock2D\"], "
                                       "\"up_block_types\": [\"UpBlock2D\"], "
                                       "\"norm_num_groups\": 4, \"num_train_timesteps\": 999, "
                                       "\"time_embedding_type\": \"learned\"}"},
           "has learned 999 timesteps (num_train_timesteps of its config.json), the schedule has "
           "1000");
    training *t = training_new(
        &(training_setup){.data = few, .options = {.train_batch_size = 8, .num_train_epochs = 4}});
    lgv_trainer_info info;
    lgv_trainer_describe(t->trainer, &info);
    assert_int_equal(info.options.max_train_steps, 2); /* 12 samples in batches of 8 */
    assert_int_equal(info.effective_batch, 8);
    assert_int_equal(info.pictures, 3);
    assert_true(info.arena_bytes > 0 && info.flops_per_step > 0);
    assert_non_null(strstr(lgv_trainer_note_at(t->trainer, 0), "expect near copies"));
    training_steps(t, 2, NULL);
    training_free(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(learning_rates_are_those_of_diffusers),
        cmocka_unit_test(optimizer_steps_are_those_of_pytorch),
        cmocka_unit_test(ten_steps_are_those_of_diffusers),
        cmocka_unit_test(ten_steps_with_a_loader),
        cmocka_unit_test(ten_steps_with_a_learned_variance),
        cmocka_unit_test(ten_steps_with_classes),
        cmocka_unit_test(bits_do_not_depend_on_threads_and_recompute),
        cmocka_unit_test(micro_batches_change_rounding_only),
        cmocka_unit_test(a_memory_budget_is_kept),
        cmocka_unit_test(every_prediction_learns),
        cmocka_unit_test(non_finite_gradients_change_nothing),
        cmocka_unit_test(impossible_runs_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, scratch_remove);
}
