/* test_noisy_classifier.c - the classifier of pictures with noise: features, logits and the gradient of log p(class | x) for x
   are those of PyTorch; its folder comes back as it was; it takes pictures of its own size only. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "golden.h"
#include "langevin/model.h"
#include "langevin/ops.h"
#include "ok.h"
#include "scratch.h"

enum { N = 3, SIDE = 16, CLASSES = 5, WIDTH = 32, IMAGE = 3 * SIDE * SIDE };

static lgv_error err;

static lgv_model *make(const lgv_safetensors *f)
{
    const char *text = golden_metadata(f, "config");
    lgv_unet2d_config config;
    lgv_model *m;
    OK(lgv_unet2d_config_parse(text, strlen(text), "config", &config, &err));
    OK(lgv_model_new_noisy_classifier(&config, CLASSES, NULL, &m, &err));
    return m;
}

/* features, logits and "grad" of an input x[N,SIDE,SIDE,3]. */
static lgv_graph *graph_of(const lgv_model *m)
{
    lgv_graph *g = lgv_graph_new();
    lgv_model_inputs in;
    lgv_id features, logits, grad;
    lgv_model_inputs_none(&in);
    lgv_model_inputs_from_step(m, g, N, &in);
    in.sample = lgv_input(g, "x", LGV_F32, 4, (const int64_t[]){N, SIDE, SIDE, 3});
    OK(lgv_model_features(m, g, &in, &features, &logits, &err));
    lgv_id rows = lgv_cross_entropy_rows(g, logits, lgv_step_row(g, N, LGV_FIELD_LABEL));
    lgv_id weight = lgv_step_row(g, N, LGV_FIELD_WEIGHT);
    OK(lgv_graph_grad(g, 1, &rows, &weight, 1, &in.sample, &grad, &err));
    lgv_graph_output(g, features, "features");
    lgv_graph_output(g, logits, "logits");
    lgv_graph_output(g, grad, "grad");
    return g;
}

static void near(const lgv_safetensors *f, const char *name, const float *have, int64_t n,
                 double tolerance)
{
    float *want = golden_floats(f, name, NULL);
    double e = golden_error(have, want, n, 0);
    print_message("%s: error %.2g\n", name, e);
    if (!(e <= tolerance)) fail_msg("%s differs by %g of its largest value", name, e);
    free(want);
}

static void equals_pytorch(void **state)
{
    static const float t[N] = {3, 250, 900};
    static const int32_t label[N] = {2, 0, 4};
    lgv_safetensors *f = golden_open("noisy_classifier");
    lgv_model *m = make(f);
    lgv_graph *g = graph_of(m);
    lgv_device *device;
    lgv_store *store;
    lgv_plan *plan;
    const lgv_program program = {"all", g};
    OK(lgv_device_new("cpu", 2, &device, &err));
    OK(lgv_store_new(device, &store, &err));
    OK(lgv_store_declare(store, g, &err));
    OK(lgv_store_add_set(store, "weight", &err));
    OK(golden_fill(store, "weight", &err));
    OK(lgv_plan_new(store, 1, &program, NULL, &plan, &err));
    for (int i = 0; i < N; i++) /* the loss is -log p */
        lgv_plan_step(plan)->row[i] =
            (lgv_row){.t = t[i], .index = (int32_t)t[i], .label = label[i], .weight = -1};
    float *x = golden_floats(f, "sample", NULL), features[N * WIDTH], logits[N * CLASSES];
    OK(lgv_plan_write_nchw(plan, "x", x, N * IMAGE, &err));
    OK(lgv_plan_run(plan, NULL, &err));
    OK(lgv_plan_read(plan, "features", features, N * WIDTH, &err));
    OK(lgv_plan_read(plan, "logits", logits, N * CLASSES, &err));
    OK(lgv_plan_read_nchw(plan, "grad", x, N * IMAGE, &err));
    near(f, "features", features, N * WIDTH, 1e-5);
    near(f, "logits", logits, N * CLASSES, 1e-5);
    near(f, "grad", x, N * IMAGE, 1e-4);

    /* Saved and opened again. */
    lgv_model *again;
    OK(lgv_model_save(m, store, "weight", scratch_path("saved"), &err));
    OK(lgv_model_open(scratch_path("saved"), NULL, &again, &err));
    assert_true(lgv_model_describe(again)->noisy && lgv_model_describe(again)->fixed_size);
    assert_int_equal(lgv_model_describe(again)->parameters, lgv_model_describe(m)->parameters);
    OK(lgv_model_load_weights(again, store, "weight", LGV_WEIGHTS_BEST, &err));
    lgv_model_free(again);
    free(x);
    lgv_plan_free(plan);
    lgv_store_free(store);
    lgv_graph_free(g);
    lgv_model_free(m);
    lgv_device_free(device);
    lgv_safetensors_close(f);
}

static void other_configurations_are_refused(void **state)
{
    lgv_safetensors *f = golden_open("noisy_classifier");
    lgv_model *m = make(f), *none = NULL;
    lgv_unet2d_config config = *lgv_model_unet2d(m);
    assert_int_equal(lgv_model_check_size(m, 32, 32, &err), LGV_ERR_SHAPE);
    assert_non_null(strstr(err.text, "16x16 only"));
    OK(lgv_model_check_size(m, 16, 16, &err));
    config.sample_height = config.sample_width = 0;
    assert_int_equal(lgv_model_new_noisy_classifier(&config, CLASSES, NULL, &none, &err),
                     LGV_ERR_ARGUMENT);
    config = *lgv_model_unet2d(m);
    config.class_embedding = LGV_CLASS_TABLE;
    config.num_class_embeds = 5;
    assert_int_equal(lgv_model_new_noisy_classifier(&config, CLASSES, NULL, &none, &err),
                     LGV_ERR_ARGUMENT);
    assert_non_null(strstr(err.text, "takes no class labels"));
    assert_null(none);
    lgv_model_free(m);
    lgv_safetensors_close(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equals_pytorch),
        cmocka_unit_test(other_configurations_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, scratch_remove);
}
