/* test_bound.c - the variational bound: its terms, gradients and sums against PyTorch in float64, chains of
   fewer timesteps, and timesteps drawn by importance.
   Tolerance 1e-4 bits, as published figures are given to two or three decimals; what is asserted is tighter
   where only the float32 of coefficients and inputs stands between. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "golden_pipeline.h"
#include "langevin/bpd.h"
#include "langevin/ops.h"
#include "ok.h"
#include "scratch.h"
#include "train/trainer.h"
#include "training.h"

static lgv_error err;

static const double *doubles(const lgv_safetensors *f, const char *name)
{
    const lgv_tensor_info *t = lgv_safetensors_find(f, name);
    if (!t || t->dtype != LGV_F64) fail_msg("no float64 tensor '%s'", name);
    double *out = malloc(t->bytes);
    memcpy(out, t->data, t->bytes);
    return out;
}

/* ---- terms ---- */

enum { ROWS = 6, SIDE = 4, CHANNELS = 3 };

typedef struct bound_case {
    const char *bits, *grad;
    lgv_variance variance;
    double clip;
    int detach;
} bound_case;

static void write_picture(lgv_plan *plan, const lgv_safetensors *f, const char *name, int channels)
{
    const int all = ROWS * SIDE * SIDE * 2 * CHANNELS, hw = SIDE * SIDE;
    float *x = golden_floats(f, name, NULL), given[ROWS * SIDE * SIDE * 2 * CHANNELS];
    int have = !strcmp(name, "out") ? 2 * CHANNELS : CHANNELS;
    for (int i = 0; i < all / 2 / CHANNELS * channels; i++)
        given[i] = x[i / (channels * hw) * have * hw + i % (channels * hw)];
    OK(lgv_plan_write_nchw(plan, name, given, (int64_t)ROWS * channels * hw, &err));
    free(x);
}

static void check_case(const lgv_safetensors *f, const bound_case *c)
{
    lgv_scheduler_config cfg;
    lgv_schedule *schedule;
    lgv_device *device;
    lgv_store *store;
    lgv_plan *plan;
    lgv_graph *g = lgv_graph_new();
    const int channels = c->variance == LGV_VARIANCE_LEARNED_RANGE ? 2 * CHANNELS : CHANNELS;
    const int64_t dim[4] = {ROWS, SIDE, SIDE, CHANNELS};
    lgv_id out = lgv_input(g, "out", LGV_F32, 4, (const int64_t[]){ROWS, SIDE, SIDE, channels});
    lgv_id x_t = lgv_input(g, "x_t", LGV_F32, 4, dim), x0 = lgv_input(g, "x0", LGV_F32, 4, dim);
    lgv_id bits = lgv_vb_rows(g, out, x_t, x0, c->detach), grad;
    lgv_id sum = lgv_weighted_sum(g, bits, lgv_step_row(g, ROWS, LGV_FIELD_WEIGHT));
    OK(lgv_graph_grad(g, 1, &sum, NULL, 1, &out, &grad, &err));
    lgv_graph_output(g, bits, "bits");
    lgv_graph_output(g, grad, "grad");
    OK(lgv_device_new("cpu", 2, &device, &err));
    OK(lgv_store_new(device, &store, &err));
    OK(lgv_plan_new(store, 1, &(lgv_program){"bound", g}, NULL, &plan, &err));
    OK(lgv_scheduler_config_init(&cfg, NULL, &err));
    OK(lgv_schedule_new(&cfg, &schedule, &err));
    write_picture(plan, f, "out", channels);
    write_picture(plan, f, "x_t", CHANNELS);
    write_picture(plan, f, "x0", CHANNELS);
    float *t = golden_floats(f, "t", NULL);
    for (int i = 0; i < ROWS; i++) {
        lgv_row *row = &lgv_plan_step(plan)->row[i];
        int64_t at = (int64_t)t[i];
        *row = (lgv_row){.weight = 1};
        lgv_schedule_bound_coef(schedule, at, at - 1, at < 999 ? at + 1 : at, c->variance, c->clip,
                                row);
    }
    OK(lgv_plan_run(plan, NULL, &err));
    float have[ROWS], have_grad[ROWS * SIDE * SIDE * 2 * CHANNELS];
    OK(lgv_plan_read(plan, "bits", have, ROWS, &err));
    const double *want = doubles(f, c->bits);
    for (int i = 0; i < ROWS; i++)
        if (!(fabs(have[i] - want[i]) <= 1e-5 * (1 + want[i])))
            fail_msg("%s at t = %g: %.9g bits, wanted %.9g", c->bits, (double)t[i], (double)have[i],
                     want[i]);
    if (c->grad) {
        int64_t n;
        float *want_grad = golden_floats(f, c->grad, &n);
        OK(lgv_plan_read_nchw(plan, "grad", have_grad, n, &err));
        double e = golden_error(have_grad, want_grad, n, 0);
        if (!(e <= 1e-4)) fail_msg("%s is off by %.2g", c->grad, e);
        free(want_grad);
    }
    free(t);
    free((void *)(uintptr_t)want);
    lgv_plan_free(plan);
    lgv_store_free(store);
    lgv_device_free(device);
    lgv_graph_free(g);
    lgv_schedule_free(schedule);
    lgv_scheduler_config_clear(&cfg);
}

static void terms_are_those_of_pytorch(void **state)
{
    static const bound_case cases[] = {
        {"learned", "grad", LGV_VARIANCE_LEARNED_RANGE, INFINITY, 0},
        {"learned", "grad_detached", LGV_VARIANCE_LEARNED_RANGE, INFINITY, 1},
        {"clipped", NULL, LGV_VARIANCE_LEARNED_RANGE, 1, 0},
        {"small", NULL, LGV_VARIANCE_FIXED_SMALL, INFINITY, 0},
        {"large", NULL, LGV_VARIANCE_FIXED_LARGE, INFINITY, 0},
    };
    lgv_safetensors *f = golden_open("bound_terms");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) check_case(f, &cases[i]);
    lgv_safetensors_close(f);
}

static void shapes_that_do_not_fit_are_refused(void **state)
{
    lgv_graph *g = lgv_graph_new();
    lgv_id x = lgv_input(g, "x", LGV_F32, 4, (const int64_t[]){2, 4, 4, 3});
    lgv_id out = lgv_input(g, "out", LGV_F32, 4, (const int64_t[]){2, 4, 4, 5});
    assert_int_equal(lgv_vb_rows(g, out, x, x, 0), LGV_NONE);
    assert_int_not_equal(lgv_graph_status(g, &err), LGV_OK);
    assert_non_null(strstr(err.text, "3 channels, or 6 with a variance, not 5"));
    lgv_graph_free(g);
}

/* ---- a network ---- */

static void near(const char *what, double have, double want)
{
    if (!(fabs(have - want) <= 1e-4)) fail_msg("%s: %.9g bits, wanted %.9g", what, have, want);
}

static void bits_per_dimension_are_those_of_pytorch(void **state)
{
    golden_pipeline b;
    lgv_bpd *whole, *again, *part;
    golden_pipeline_open(&b, "bound_network");
    const uint8_t *pixels = lgv_safetensors_find(b.file, "pixels")->data;
    float *noise = golden_floats(b.file, "noise", NULL);
    const double *terms = doubles(b.file, "terms"), *prior = doubles(b.file, "prior"),
                 *picture = doubles(b.file, "picture"), *few = doubles(b.file, "short.terms");
    lgv_bpd_options o = {.noise = noise};
    OK(lgv_pipeline_bpd(b.pipeline, 2, 8, 8, pixels, &o, &whole, &err));
    assert_int_equal(whole->steps, 12);
    double total = whole->prior;
    for (int i = 0; i < 12; i++) {
        near("a term", whole->term[i], terms[i]);
        total += whole->term[i];
    }
    near("the prior", whole->prior, prior[0]);
    near("the first picture", whole->picture[0], picture[0]);
    near("the second picture", whole->picture[1], picture[1]);
    assert_true(fabs(total - whole->total) < 1e-12);
    o.batch_size = 5; /* rows are independent */
    OK(lgv_pipeline_bpd(b.pipeline, 2, 8, 8, pixels, &o, &again, &err));
    assert_memory_equal(whole->term, again->term, 12 * sizeof(double));
    int64_t chain[] = {0, 5, 11};
    o.timesteps = chain;
    o.timestep_count = 3;
    OK(lgv_pipeline_bpd(b.pipeline, 2, 8, 8, pixels, &o, &part, &err));
    for (int i = 0; i < 3; i++) near("a term of the short chain", part->term[i], few[i]);
    lgv_bpd_free(whole);
    lgv_bpd_free(again);
    lgv_bpd_free(part);
    chain[1] = 0;
    assert_int_equal(lgv_pipeline_bpd(b.pipeline, 2, 8, 8, pixels, &o, &part, &err),
                     LGV_ERR_ARGUMENT);
    assert_non_null(strstr(err.text, "must ascend"));
    free(noise);
    free((void *)(uintptr_t)terms);
    free((void *)(uintptr_t)prior);
    free((void *)(uintptr_t)picture);
    free((void *)(uintptr_t)few);
    golden_pipeline_close(&b);
}

/* ---- chains ---- */

static void chain_is(int64_t T, const char *spec, int64_t n, const int64_t *want)
{
    int64_t t[2000], have;
    OK(lgv_timesteps_respace(T, spec, t, &have, &err));
    assert_int_equal(have, n);
    for (int64_t i = 0; want && i < n; i++) assert_int_equal(t[i], want[i]);
}

static void no_chain(int64_t T, const char *spec, const char *part)
{
    int64_t t[2000], n;
    assert_int_equal(lgv_timesteps_respace(T, spec, t, &n, &err), LGV_ERR_ARGUMENT);
    if (!strstr(err.text, part)) fail_msg("'%s' does not say '%s'", err.text, part);
}

static void timesteps_are_respaced(void **state)
{
    chain_is(10, "10", 10, (const int64_t[]){0, 1, 2, 3, 4, 5, 6, 7, 8, 9});
    chain_is(10, "3", 3, (const int64_t[]){0, 4, 9}); /* 4.5 rounds to even */
    chain_is(10, "1", 1, (const int64_t[]){0});
    chain_is(10, "2,3", 5, (const int64_t[]){0, 4, 5, 7, 9});
    chain_is(11, "2,2", 4, (const int64_t[]){0, 5, 6, 10}); /* the first section is longer */
    chain_is(10, "ddim5", 5, (const int64_t[]){0, 2, 4, 6, 8});
    chain_is(10, "ddim4", 4, (const int64_t[]){0, 3, 6, 9});
    chain_is(1000, "250", 250, NULL);
    chain_is(300, "10,15,20", 45, NULL);
    no_chain(10, "", "makes no chain");
    no_chain(10, "3,", "makes no chain");
    no_chain(10, "x", "makes no chain");
    no_chain(10, "0", "makes no chain");
    no_chain(10, "-3", "makes no chain");
    no_chain(10, "99999999999999999999", "makes no chain");
    no_chain(10, "11", "of a section of 10");
    no_chain(10, "5,6", "of a section of 5");
    no_chain(10, "ddim6", "no whole stride");
    no_chain(10, "ddim", "makes no chain");
}

/* ---- importance ---- */

static void fill_history(lgv_importance *s)
{
    for (int64_t t = 0; t < s->T; t++)
        for (int k = 0; k < LGV_LOSS_HISTORY; k++)
            lgv_importance_observe(s, t, 0.1f + (float)(t % 7));
}

static void timesteps_are_drawn_by_importance(void **state)
{
    enum { T = 50, DRAWS = 200000 };
    lgv_importance *s;
    double weight, mean = 0, sum = 0;
    int64_t count[T] = {0};
    OK(lgv_importance_new(T, &s, &err));
    assert_int_equal(lgv_importance_draw(s, 0.999, &weight), 49); /* nothing known: uniform */
    assert_true(fabs(weight - 1) < 1e-9);
    for (int k = 0; k < LGV_LOSS_HISTORY; k++) lgv_importance_observe(s, 3, 5);
    lgv_importance_update(s);
    lgv_importance_draw(s, 0.5, &weight);
    assert_true(fabs(weight - 1) < 1e-9); /* one timestep is not all */
    fill_history(s);
    lgv_importance_observe(s, 0, NAN); /* does not count */
    lgv_importance_update(s);
    for (int i = 0; i < DRAWS; i++) {
        int64_t t = lgv_importance_draw(s, (i + 0.5) / DRAWS, &weight);
        count[t]++;
        mean += weight / DRAWS;
    }
    for (int t = 0; t < T; t++) sum += 0.1 + t % 7;
    for (int t = 0; t < T; t++) {
        double p = 0.999 * (0.1 + t % 7) / sum + 0.001 / T;
        if (!(fabs((double)count[t] / DRAWS - p) < 2.0 / DRAWS + 1e-6)) fail_msg("t = %d", t);
    }
    assert_true(fabs(mean - 1) < 1e-3);
    lgv_importance_free(s);
}

static const char variance_config[] =
    "{\"_class_name\": \"UNet2DModel\", \"sample_size\": 16, \"in_channels\": 3, \"out_channels\": 6, "
    "\"block_out_channels\": [8, 8], \"down_block_types\": [\"DownBlock2D\", \"DownBlock2D\"], "
    "\"up_block_types\": [\"UpBlock2D\", \"UpBlock2D\"], \"layers_per_block\": 1, "
    "\"norm_num_groups\": 4, \"add_attention\": false}";

static training_setup importance_setup(const char *output)
{
    return (training_setup){.data = scratch_path("pictures"),
                            .config = variance_config,
                            .options = {.output_dir = output,
                                        .max_train_steps = 6,
                                        .train_batch_size = 2,
                                        .gradient_accumulation_steps = 2,
                                        .schedule_sampler = LGV_TIMESTEPS_LOSS_SECOND_MOMENT,
                                        .sample_count = LGV_OFF}};
}

static void losses_of_timesteps_survive_a_checkpoint(void **state)
{
    training_pictures("pictures", 10, 16, 3);
    double loss[6], again[6];
    training_setup s = importance_setup(scratch_path("importance"));
    training *t = training_new(&s);
    assert_int_equal(t->trainer->options.loss, LGV_LOSS_HYBRID);
    assert_int_equal(t->trainer->cfg.variance_type, LGV_VARIANCE_LEARNED_RANGE);
    fill_history(t->trainer->importance);
    training_steps(t, 3, loss);
    OK(lgv_trainer_save(t->trainer, &err));
    training_steps(t, 3, loss + 3);
    uint64_t want = training_hash(t);
    training_free(t);
    t = training_new(&(training_setup){.data = scratch_path("pictures"),
                                       .config = variance_config,
                                       .threads = 2,
                                       .resume = "latest",
                                       .options = {.output_dir = scratch_path("importance")}});
    assert_int_equal(t->trainer->options.schedule_sampler, LGV_TIMESTEPS_LOSS_SECOND_MOMENT);
    training_steps(t, 3, again + 3);
    assert_memory_equal(loss + 3, again + 3, 3 * sizeof *loss);
    assert_true(training_hash(t) == want);
    training_free(t);
}

static void refuse(training_setup setup, const char *part)
{
    training *t = NULL;
    setup.options.output_dir = NULL;
    assert_int_not_equal(training_try(&setup, &t, &err), LGV_OK);
    assert_null(t);
    if (!strstr(err.text, part)) fail_msg("'%s' does not say '%s'", err.text, part);
}

static void losses_that_do_not_fit_are_refused(void **state)
{
    training_pictures("pictures", 10, 16, 3);
    training_setup s = importance_setup(NULL);
    s.options.snr_gamma = 5;
    refuse(s, "min-SNR");
    s = importance_setup(NULL);
    s.options.loss = LGV_LOSS_MSE;
    refuse(s, "never train");
    s = importance_setup(NULL);
    s.options.rng = LGV_RNG_TORCH;
    refuse(s, "uniformly");
    s = importance_setup(NULL);
    s.config = NULL;
    s.options.loss = LGV_LOSS_HYBRID;
    refuse(s, "gives none");
}

/* The bound alone, of a network without a variance: an estimate in bits, finite, with a gradient. */
static void the_bound_alone_trains(void **state)
{
    training_pictures("pictures", 10, 16, 3);
    training_setup s = importance_setup(NULL);
    s.config = NULL;
    s.options.loss = LGV_LOSS_VLB;
    double loss[6];
    training *t = training_new(&s);
    training_steps(t, 6, loss);
    for (int i = 0; i < 6; i++) assert_true(loss[i] > 0 && isfinite(loss[i]));
    training_free(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(terms_are_those_of_pytorch),
        cmocka_unit_test(shapes_that_do_not_fit_are_refused),
        cmocka_unit_test(bits_per_dimension_are_those_of_pytorch),
        cmocka_unit_test(timesteps_are_respaced),
        cmocka_unit_test(timesteps_are_drawn_by_importance),
        cmocka_unit_test(losses_of_timesteps_survive_a_checkpoint),
        cmocka_unit_test(losses_that_do_not_fit_are_refused),
        cmocka_unit_test(the_bound_alone_trains),
    };
    return cmocka_run_group_tests(tests, NULL, scratch_remove);
}
