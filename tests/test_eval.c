/* test_eval.c - figures of samples: eigenvalues, Frechet distance (against SciPy's number), manifolds,
   intervals, copies; and the classifier whose features they are taken in, as a model and as a task. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/file.h"
#include "eval/eval.h"
#include "langevin/rng.h"
#include "ok.h"
#include "scratch.h"
#include "train/trainer.h"

static lgv_error err;

static void near(const char *what, double a, double b, double tolerance)
{
    if (!(fabs(a - b) <= tolerance)) fail_msg("%s: %.17g, wanted %.17g", what, a, b);
}

static void says(const char *part)
{
    if (!strstr(err.text, part)) fail_msg("'%s' does not say '%s'", err.text, part);
}

/* ---- eigenvalues ---- */

static void check_eigen(const double *a, int64_t n)
{
    double *v = malloc((size_t)(n * n) * sizeof *v), *value = malloc((size_t)n * sizeof *value);
    double *only = malloc((size_t)(n * n) * sizeof *only),
           *again = malloc((size_t)n * sizeof *again);
    memcpy(v, a, (size_t)(n * n) * sizeof *v);
    memcpy(only, a, (size_t)(n * n) * sizeof *only);
    OK(lgv_symmetric_eigen(n, v, value, true, &err));
    OK(lgv_symmetric_eigen(n, only, again, false, &err));
    double scale = 1e-300, sum = 0, other = 0;
    for (int64_t i = 0; i < n * n; i++) scale = fmax(scale, fabs(a[i]));
    for (int64_t i = 0; i < n; i++) {
        sum += value[i];
        other += again[i];
        for (int64_t j = 0; j < n; j++) {
            double entry = 0, product = 0;
            for (int64_t k = 0; k < n; k++) {
                entry += value[k] * v[k * n + i] * v[k * n + j];
                product += v[i * n + k] * v[j * n + k];
            }
            near("A = sum of value v v^T", entry, a[i * n + j], 1e-12 * scale * (double)n);
            near("vectors are orthonormal", product, i == j, 1e-12 * (double)n);
        }
    }
    near("with and without vectors", sum, other, 1e-11 * scale * (double)n);
    free(v);
    free(value);
    free(only);
    free(again);
}

static void eigenvalues_give_the_matrix_back(void **state)
{
    static const int64_t sizes[] = {1, 2, 3, 8, 33};
    enum { MOST = 33 };
    double a[MOST * MOST];
    float r[MOST * MOST];
    for (int k = 0; k < 5; k++) {
        int64_t n = sizes[k];
        lgv_rng_normal(&(lgv_rng_key){.seed = (uint64_t)k}, 0, n * n, r);
        for (int64_t i = 0; i < n; i++)
            for (int64_t j = 0; j < n; j++)
                a[i * n + j] = (double)r[i * n + j] + (double)r[j * n + i];
        check_eigen(a, n);
        for (int64_t i = 0; i < n; i++) /* rank 1, with a multiple eigenvalue 0 */
            for (int64_t j = 0; j < n; j++) a[i * n + j] = (double)r[i] * (double)r[j];
        check_eigen(a, n);
        for (int64_t i = 0; i < n * n; i++) a[i] = i % (n + 1) == 0 ? 3 : 0;
        check_eigen(a, n);
        memset(a, 0, sizeof a);
        check_eigen(a, n);
    }
}

/* ---- figures ---- */

static void fill(float *x, int64_t n, int64_t d, int64_t s, double scale, double shift)
{
    for (int64_t i = 0; i < n; i++)
        for (int64_t k = 0; k < d; k++) {
            int64_t v = (i * 37 + k * 101 + i * i * 7 + k * k * i * s) % 997;
            x[i * d + k] = (float)((double)(float)((double)v / 500 - 1) * scale + shift);
        }
}

/* 0.65586...: scipy.linalg.sqrtm and numpy.cov (SciPy 1.17) on the same numbers. */
static void distance_is_scipys(void **state)
{
    float a[40 * 6], b[57 * 6];
    lgv_reference *r;
    lgv_figures f;
    fill(a, 40, 6, 3, 1, 0);
    fill(b, 57, 6, 5, 0.5, 0.1);
    OK(lgv_reference_new(57, 6, b, NULL, &r, &err));
    OK(lgv_reference_compare(r, 40, a, &f, &err));
    near("Frechet distance", f.frechet.value, 0.6558615996280437, 1e-9);
    assert_true(f.frechet.low < f.frechet.value && f.frechet.value < f.frechet.high);
    assert_true(f.precision.value >= 0 && f.precision.value <= 1);
    lgv_figures again;
    OK(lgv_reference_compare(r, 40, a, &again, &err));
    assert_memory_equal(&f, &again, sizeof f);
    lgv_reference_free(r);
    OK(lgv_reference_new(40, 6, a, NULL, &r, &err));
    OK(lgv_reference_compare(r, 40, a, &f, &err));
    near("a set and itself", f.frechet.value, 0, 1e-9);
    near("precision of a set and itself", f.precision.value, 1, 0);
    near("recall of a set and itself", f.recall.value, 1, 0);
    lgv_reference_free(r);
}

/* In one dimension: (m1 - m2)^2 + (s1 - s2)^2. */
static void distance_in_one_dimension(void **state)
{
    float a[] = {1, 2, 3, 4, 5, 6}, b[] = {10, 12, 14, 16, 18, 20};
    lgv_reference *r;
    lgv_figures f;
    OK(lgv_reference_new(6, 1, b, &(lgv_eval_options){.replicates = LGV_OFF}, &r, &err));
    OK(lgv_reference_compare(r, 6, a, &f, &err));
    near("Frechet distance", f.frechet.value, 11.5 * 11.5 + 3.5, 1e-9);
    near("no interval was asked for", f.frechet.high - f.frechet.low, 0, 0);
    near("the ball around 10 reaches to 4", f.precision.value, 0.5, 0);
    near("recall of distant sets", f.recall.value, 0, 0);
    lgv_reference_free(r);
}

/* Reference 0, 1, 2, 3, 10 with k = 1: radii 1, 1, 1, 1, 7; generated 0.5, 2.5, 8, 30, 31: radii 2, 2, 5.5, 1, 1. */
static void manifolds_by_hand(void **state)
{
    float reference[] = {0, 1, 2, 3, 10}, generated[] = {0.5f, 2.5f, 8, 30, 31};
    lgv_reference *r;
    lgv_figures f;
    OK(lgv_reference_new(5, 1, reference, &(lgv_eval_options){.neighbours = 1}, &r, &err));
    OK(lgv_reference_compare(r, 5, generated, &f, &err));
    near("precision", f.precision.value, 0.6, 1e-12);
    near("recall", f.recall.value, 1, 0);
    assert_true(f.precision.low < 0.6 && f.precision.high > 0.6 && f.precision.high <= 1);
    lgv_reference_free(r);
}

static void neighbours_at_odd_sizes(void **state)
{
    enum { N = 131, D = 5, K = 3 };
    float x[N * D], radius[N];
    lgv_rng_normal(&(lgv_rng_key){.seed = 9}, 0, N * D, x);
    OK(lgv_kth_neighbours(N, D, x, K, radius, &err));
    for (int i = 0; i < N; i++) {
        float all[N];
        int n = 0, smaller = 0;
        for (int j = 0; j < N; j++) {
            float sum = 0;
            for (int k = 0; k < D; k++)
                sum += (x[i * D + k] - x[j * D + k]) * (x[i * D + k] - x[j * D + k]);
            if (j != i) all[n++] = sum;
        }
        for (int j = 0; j < n; j++) smaller += all[j] < radius[i];
        assert_int_equal(smaller, K - 1);
    }
}

static void bad_features_are_refused(void **state)
{
    float x[12] = {0};
    lgv_reference *r = NULL;
    assert_int_equal(lgv_reference_new(4, 1, x, NULL, &r, &err), LGV_ERR_ARGUMENT);
    says("too few");
    x[7] = NAN;
    assert_int_equal(lgv_reference_new(6, 2, x, NULL, &r, &err), LGV_ERR_NUMERIC);
    says("feature 1 of reference picture 3");
    assert_int_equal(lgv_reference_new(6, 0, x, NULL, &r, &err), LGV_ERR_ARGUMENT);
    assert_null(r);
}

static void intervals_cover_the_share(void **state)
{
    uint8_t hit[400];
    lgv_interval v;
    for (int i = 0; i < 400; i++) hit[i] = i % 4 == 0;
    OK(lgv_share(400, hit, NULL, &v, &err));
    near("share", v.value, 0.25, 1e-12);
    /* 1.96 sqrt(p(1-p)/n) = 0.0424; a bootstrap of 100 is within a third of it. */
    near("reach", v.high - v.value, 0.0424, 0.014);
    memset(hit, 1, sizeof hit);
    OK(lgv_share(400, hit, NULL, &v, &err));
    near("certain", v.high - v.low, 0, 0);
}

/* ---- copies ---- */

static void copies_are_found(void **state)
{
    enum { SIDE = 8, BYTES = SIDE * SIDE, TRAINING = 150 };
    uint8_t training[TRAINING][BYTES], query[3][BYTES];
    lgv_copy_search *s;
    lgv_copy c;
    for (int i = 0; i < TRAINING; i++)
        for (int k = 0; k < BYTES; k++)
            training[i][k] =
                (uint8_t)lgv_rng_below(&(lgv_rng_key){.seed = (uint64_t)i}, (uint64_t)k, 256);
    memcpy(query[0], training[77], BYTES);
    memcpy(query[1], training[149], BYTES);
    for (int k = 0; k < BYTES; k++) query[1][k] ^= 8;
    memset(query[2], 128, BYTES);
    memcpy(training[3], training[77], BYTES); /* a copy of a picture that is there twice */
    OK(lgv_copy_search_new(3, BYTES, query[0], &s, &err));
    lgv_copy_search_add(s, 0, 100, training[0]);
    lgv_copy_search_add(s, 100, 50, training[100]);
    lgv_copy_search_result(s, 0, &c);
    assert_int_equal(c.index, 3);
    near("an exact copy", c.distance, 0, 0);
    assert_true(c.copy);
    lgv_copy_search_result(s, 1, &c);
    assert_int_equal(c.index, 149);
    near("off by 8 everywhere", c.distance, 8, 1e-6);
    assert_true(c.copy);
    lgv_copy_search_result(s, 2, &c);
    assert_false(c.copy);
    lgv_copy_search_free(s);
}

/* ---- classifiers ---- */

static lgv_model *tiny_classifier(int classes, const char *const *names)
{
    lgv_unet2d_config config;
    lgv_model *m;
    lgv_classifier_config_default(16, 1, &config);
    config.block_out_channels[0] = config.block_out_channels[1] = config.block_out_channels[2] = 8;
    config.norm_num_groups = 1; /* of its own, a channel would lose its brightness */
    OK(lgv_model_new_classifier(&config, classes, names, &m, &err));
    return m;
}

static void classifiers_are_saved_with_their_names(void **state)
{
    static const char *const names[] = {"shirt", "shoe \"left\"", "caf\xc3\xa9"};
    lgv_device *device;
    lgv_store *store;
    lgv_model *m = tiny_classifier(3, names), *again;
    lgv_graph *g = lgv_graph_new();
    lgv_model_inputs in;
    lgv_id logits;
    OK(lgv_device_new("cpu", 1, &device, &err));
    OK(lgv_store_new(device, &store, &err));
    lgv_model_inputs_none(&in);
    lgv_model_inputs_from_step(m, g, 2, &in);
    in.sample = lgv_input(g, "x", LGV_F32, 4, (int64_t[]){2, 16, 16, 1});
    OK(lgv_model_build(m, g, &in, &logits, &err));
    int64_t dim[LGV_MAX_RANK];
    assert_int_equal(lgv_shape(g, logits, dim), 2);
    assert_int_equal(dim[0], 2);
    assert_int_equal(dim[1], 3);
    OK(lgv_store_declare(store, g, &err));
    OK(lgv_model_init(m, store, "weight", NULL, 1, &err));
    OK(lgv_model_save(m, store, "weight", scratch_path("classifier"), &err));
    OK(lgv_model_open(scratch_path("classifier"), NULL, &again, &err));
    const lgv_model_info *info = lgv_model_describe(again);
    assert_string_equal(info->class_name, "UNet2DClassifier");
    assert_int_equal(info->labels, 3);
    assert_int_equal(info->features, 8);
    for (int i = 0; i < 3; i++) assert_string_equal(info->label[i], names[i]);
    assert_int_equal(info->parameters, lgv_model_describe(m)->parameters);
    lgv_pipeline *p = NULL;
    assert_int_equal(
        lgv_pipeline_open(device, scratch_path("classifier"), LGV_WEIGHTS_BEST, &p, &err),
        LGV_ERR_UNSUPPORTED);
    says("is a classifier");

    lgv_extractor *e;
    enum { N = 35 };
    uint8_t *grey = calloc(N, 20 * 20 * 3); /* of another size and kind */
    float *features = malloc(N * 8 * sizeof *features), *one = malloc(8 * sizeof *one);
    int32_t label[N];
    for (int i = 0; i < N * 1200; i++) grey[i] = (uint8_t)(i * 7 / 3);
    OK(lgv_extractor_open(device, scratch_path("classifier"), &e, &err));
    OK(lgv_extractor_run(e, N, 20, 20, 3, grey, features, label, &err));
    OK(lgv_extractor_run(e, 1, 20, 20, 3, grey + 34 * 1200, one, NULL, &err));
    assert_memory_equal(one, features + 34 * 8, 8 * sizeof *one); /* whatever the batch */
    for (int i = 0; i < N; i++) assert_in_range(label[i], 0, 2);
    free(grey);
    free(features);
    free(one);
    lgv_extractor_free(e);
    lgv_model_free(again);
    lgv_model_free(m);
    lgv_graph_free(g);
    lgv_store_free(store);
    lgv_device_free(device);
}

static void bad_classifiers_are_refused(void **state)
{
    static const char text[] =
        "{\"_class_name\": \"UNet2DClassifier\", \"id2label\": {\"0\": \"a\", \"2\": \"b\"}}";
    static const char none[] = "{\"_class_name\": \"UNet2DClassifier\"}";
    lgv_model *m = NULL;
    lgv_unet2d_config config;
    scratch_write(scratch_path("bad.json"), text, sizeof text - 1);
    assert_int_not_equal(lgv_model_open(scratch_path("bad.json"), NULL, &m, &err), LGV_OK);
    says("no name under \"1\"");
    scratch_write(scratch_path("none.json"), none, sizeof none - 1);
    assert_int_not_equal(lgv_model_open(scratch_path("none.json"), NULL, &m, &err), LGV_OK);
    says("id2label");
    lgv_classifier_config_default(32, 1, &config);
    assert_int_equal(lgv_model_new_classifier(&config, 1, NULL, &m, &err), LGV_ERR_ARGUMENT);
    says("2 to 65536");
}

/* Two classes, dark and light: a small network learns them in a few steps. */
static void idx_of_two_classes(const char *folder, int n)
{
    uint8_t *file = malloc(16 + (size_t)n * 256),
            labels[8 + 255] = {0, 0, 8, 1, 0, 0, 0, (uint8_t)n};
    uint8_t head[16] = {0, 0, 8, 3, 0, 0, 0, (uint8_t)n, 0, 0, 0, 16, 0, 0, 0, 16};
    char path[512];
    memcpy(file, head, 16);
    for (int i = 0; i < n; i++) {
        labels[8 + i] = (uint8_t)(i % 2);
        for (int k = 0; k < 256; k++)
            file[16 + i * 256 + k] = (uint8_t)(i % 2 * 120 + (i * 31 + k * 17) % 100);
    }
    snprintf(path, sizeof path, "%s", scratch_path(folder));
    OK(lgv_make_dir(path, &err));
    char name[600];
    snprintf(name, sizeof name, "%s/train-images-idx3-ubyte", path);
    scratch_write(name, file, 16 + (size_t)n * 256);
    snprintf(name, sizeof name, "%s/train-labels-idx1-ubyte", path);
    scratch_write(name, labels, 8 + (size_t)n);
    free(file);
}

static lgv_trainer *classifier_trainer(lgv_model *m, lgv_dataset *data, lgv_device *device,
                                       const char *output, lgv_checkpoint *resume, int64_t steps)
{
    lgv_scheduler_config cfg;
    lgv_trainer *t;
    lgv_train_options o = {.output_dir = output,
                           .max_train_steps = steps,
                           .train_batch_size = 16,
                           .lr_warmup_steps = LGV_OFF,
                           .lr_scheduler = LGV_LR_CONSTANT,
                           .learning_rate = 3e-3};
    OK(lgv_scheduler_config_init(&cfg, NULL, &err));
    OK(lgv_trainer_new(m, data, &cfg, device, &o, resume, &t, &err));
    lgv_scheduler_config_clear(&cfg);
    return t;
}

static void classes_are_learned_and_resumed(void **state)
{
    lgv_device *device;
    lgv_dataset *data;
    lgv_model *m = tiny_classifier(2, NULL), *again;
    lgv_train_report r = {0}, other = {0};
    lgv_checkpoint *c;
    idx_of_two_classes("two", 120);
    OK(lgv_device_new("cpu", 1, &device, &err));
    OK(lgv_dataset_open(scratch_path("two"),
                        &(lgv_dataset_options){.resolution = 16, .validation = 20}, &data, &err));
    char output[512];
    snprintf(output, sizeof output, "%s", scratch_path("classes"));
    lgv_trainer *t = classifier_trainer(m, data, device, output, NULL, 40);
    for (int i = 0; i < 30; i++) OK(lgv_trainer_step(t, &r, &err));
    OK(lgv_trainer_save(t, &err));
    for (int i = 0; i < 10; i++) OK(lgv_trainer_step(t, &r, &err));
    near("training accuracy", r.accuracy, 1, 0.07);
    lgv_validation v;
    OK(lgv_trainer_validate(t, &v, &err));
    assert_int_equal(v.pictures, 20);
    near("validation accuracy", v.accuracy, 1, 0.11);
    lgv_trainer_free(t);
    OK(lgv_checkpoint_find(output, "latest", 0, &c, &err));
    OK(lgv_model_open(lgv_checkpoint_network(c), NULL, &again, &err));
    t = classifier_trainer(again, data, device, output, c, 40);
    for (int i = 0; i < 10; i++) OK(lgv_trainer_step(t, &other, &err));
    assert_true(r.loss == other.loss && r.grad_norm == other.grad_norm); /* the same bits */
    lgv_trainer_free(t);
    lgv_checkpoint_free(c);
    lgv_model_free(again);
    lgv_model_free(m);
    lgv_dataset_free(data);
    lgv_device_free(device);
}

/* Told at the fifth rise in a row, and at the tenth; not when a fall lies between. */
static void rising_validation_losses_are_told(void **state)
{
    static const double loss[] = {1,   0.5, 0.6, 0.7, 0.8, 0.4, 0.5, 0.6,
                                  0.7, 0.8, 0.9, 1,   1.1, 1.2, 1.3, 1.4};
    lgv_train_state s = {0};
    for (int i = 0; i < 16; i++) {
        char *text = lgv_watch_validation(&s, loss[i]);
        assert_int_equal(text != NULL, i == 10 || i == 15);
        if (text)
            assert_non_null(
                strstr(text, i == 10 ? "5 times in a row, to 0.9 from 0.4" : "10 times"));
        lgv_free(text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(eigenvalues_give_the_matrix_back),
        cmocka_unit_test(distance_is_scipys),
        cmocka_unit_test(distance_in_one_dimension),
        cmocka_unit_test(manifolds_by_hand),
        cmocka_unit_test(neighbours_at_odd_sizes),
        cmocka_unit_test(bad_features_are_refused),
        cmocka_unit_test(intervals_cover_the_share),
        cmocka_unit_test(copies_are_found),
        cmocka_unit_test(classifiers_are_saved_with_their_names),
        cmocka_unit_test(bad_classifiers_are_refused),
        cmocka_unit_test(classes_are_learned_and_resumed),
        cmocka_unit_test(rising_validation_losses_are_told),
    };
    return cmocka_run_group_tests_name("eval", tests, NULL, scratch_remove);
}
