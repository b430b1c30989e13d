/* test_schedule.c - noise schedules, what training takes from them, and scheduler_config.json.
   Tables are compared with diffusers' at 2e-6 relative. The rescaled ones pass through
   torch.sqrt, whose last bit depends on the machine (MKL): there a beta may be off by 4e-6 (two
   near values are subtracted), abar by 1e-5 of it. */
#define _POSIX_C_SOURCE 200809L
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "core/core.h"
#include "io/json.h"
#include "langevin/safetensors.h"
#include "langevin/schedule.h"

static void near(double got, double want, double relative)
{
    if (fabs(got - want) <= relative * fabs(want)) return;
    fail_msg("%.9g, wanted %.9g", got, want);
}

static lgv_schedule *schedule_of(const char *json)
{
    lgv_error err = {0};
    lgv_scheduler_config cfg;
    lgv_schedule *s = NULL;
    if (lgv_scheduler_config_parse(json, strlen(json), "test", &cfg, &err) ||
        lgv_schedule_new(&cfg, &s, &err))
        fail_msg("%s: %s", json, err.text);
    lgv_scheduler_config_clear(&cfg);
    return s;
}

/* Mission 1.1: x0 = [1,2], eps = [0.5,-0.3], abar = 0.8 gives [1.118, 1.655]. */
static void worked_example(void **state)
{
    lgv_schedule *s = schedule_of("{\"num_train_timesteps\": 1, \"trained_betas\": [0.2]}");
    float x0[] = {1, 2}, eps[] = {0.5f, -0.3f}, x[2];
    lgv_schedule_add_noise(s, 0, 2, x0, eps, x);
    assert_int_equal((int)rint(x[0] * 1000), 1118);
    assert_int_equal((int)rint(x[1] * 1000), 1655);
    lgv_schedule_free(s);
}

static void known_values(void **state)
{
    static const struct {
        const char *json;
        int t;
        double abar;
    } want[] = {
        {"{}", 0, .999899983},
        {"{}", 500, .0777966604},
        {"{}", 999, 4.03583e-05},
        {"{\"beta_schedule\": \"scaled_linear\"}", 500, .331274629},
        {"{\"beta_schedule\": \"scaled_linear\", \"beta_start\": 0.00085, \"beta_end\": 0.012}",
         999, .00466009602},
        {"{\"beta_schedule\": \"squaredcos_cap_v2\"}", 500, .492285043},
        {"{\"beta_schedule\": \"squaredcos_cap_v2\"}", 999, 2.42873e-09},
        {"{\"beta_schedule\": \"sigmoid\"}", 500, .298887581},
        {"{\"beta_schedule\": \"laplace\"}", 999, .0316227749},
        {"{\"rescale_betas_zero_snr\": true}", 500, .0752462298},
        {"{\"rescale_betas_zero_snr\": true}", 999, 0},
    };
    for (size_t i = 0; i < sizeof want / sizeof want[0]; i++) {
        lgv_schedule *s = schedule_of(want[i].json);
        near(s->alphas_cumprod[want[i].t], want[i].abar, 3e-6); /* printed with six digits */
        lgv_schedule_free(s);
    }
    float x0[] = {.5f, -1, 2, .1f}, eps[] = {.2f, -.3f, 1.1f, .7f}, out[4];
    static const double noised[] = {.33152312, -.567014813, 1.61418676, .700111985};
    static const double velocity[] = {-.424373001, .876638055, -1.61381578, .099212952};
    lgv_schedule *s = schedule_of("{}");
    lgv_schedule_add_noise(s, 500, 4, x0, eps, out);
    for (int i = 0; i < 4; i++) near(out[i], noised[i], 1e-6);
    lgv_schedule_velocity(s, 500, 4, x0, eps, out);
    for (int i = 0; i < 4; i++) near(out[i], velocity[i], 1e-6);
    lgv_schedule_free(s);
}

static lgv_safetensors *golden(void)
{
    lgv_error err = {0};
    lgv_safetensors *f = NULL;
    const char *path = LGV_SOURCE_DIR "/tests/golden/schedulers.safetensors";
    if (access(path, R_OK)) {
        print_message("skipped: %s is missing (tools/golden/schedulers.py makes it)\n", path);
        skip();
    }
    if (lgv_safetensors_open(path, &f, &err)) fail_msg("%s", err.text);
    return f;
}

static double at(const lgv_safetensors *f, const char *name, int64_t i)
{
    const lgv_tensor_info *t = lgv_safetensors_find(f, name);
    float v;
    assert_non_null(t);
    assert_true(i < t->count);
    memcpy(&v, (const char *)t->data + i * 4, 4);
    return v;
}

static void tables(void **state)
{
    lgv_safetensors *f = golden();
    lgv_error err = {0};
    lgv_json j;
    const char *text = lgv_safetensors_metadata(f, "schedules");
    assert_int_equal(lgv_json_parse(text, strlen(text), "schedules", &j, &err), LGV_OK);
    json_t *list = json_object_get(j.root, "schedules");
    for (size_t k = 0; k < json_array_size(list); k++) {
        char *one = json_dumps(json_array_get(list, k), JSON_COMPACT);
        lgv_schedule *s = schedule_of(one);
        double worst = 0;
        for (int64_t t = 0; t < s->T; t++) {
            double beta = at(f, "betas", (int64_t)k * 1000 + t),
                   abar = at(f, "alphas_cumprod", (int64_t)k * 1000 + t);
            int rescaled = strstr(one, "rescale") != NULL;
            if (fabs(s->betas[t] - beta) > (rescaled ? 4e-6 : 2e-6 * beta))
                fail_msg("%s: beta[%d] is %.9g, wanted %.9g", one, (int)t, s->betas[t], beta);
            near(s->alphas_cumprod[t], abar, rescaled ? 1e-5 : 2e-6);
            if (abar > 0) worst = fmax(worst, fabs(s->alphas_cumprod[t] / abar - 1));
        }
        print_message("%s: largest relative difference of abar %.2g\n", one, worst);
        lgv_schedule_free(s);
        free(one);
    }
    lgv_json_free(&j);
    lgv_safetensors_close(f);
}

static void loss_weights(void **state)
{
    static const char *const names[] = {"epsilon", "v_prediction", "sample"};
    lgv_safetensors *f = golden();
    for (int p = 0; p < 3; p++) {
        char json[64];
        snprintf(json, sizeof json, "{\"prediction_type\": \"%s\"}", names[p]);
        lgv_schedule *s = schedule_of(json);
        for (int k = 0; k < 50; k++) {
            near(lgv_schedule_loss_weight(s, 20 * k, 0), at(f, "weights", p * 100 + k), 2e-6);
            near(lgv_schedule_loss_weight(s, 20 * k, 5), at(f, "weights", p * 100 + 50 + k), 2e-6);
        }
        float a, b, ta, tb;
        lgv_schedule_noise_coef(s, 500, &a, &b);
        lgv_schedule_target_coef(s, 500, &ta, &tb);
        assert_true(ta == (p == 0 ? 0 : p == 1 ? -b : 1));
        assert_true(tb == (p == 0 ? 1 : p == 1 ? a : 0));
        lgv_schedule_free(s);
    }
    lgv_safetensors_close(f);
    lgv_schedule *zero = schedule_of("{\"rescale_betas_zero_snr\": true}");
    assert_true(lgv_schedule_loss_weight(zero, 999, 5) == 1); /* not 0/0 */
    lgv_schedule_free(zero);
}

static void config_files(void **state)
{
    lgv_error err = {0};
    lgv_scheduler_config cfg, back, ddim;
    char path[] = "/tmp/lgv-scheduler-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);

    assert_int_equal(lgv_scheduler_config_init(&cfg, "DDPMScheduler", &err), LGV_OK);
    assert_int_equal(lgv_scheduler_config_set(&cfg, "prediction_type", "v_prediction", &err),
                     LGV_OK);
    assert_int_equal(lgv_scheduler_config_set(&cfg, "num_train_timesteps", "500", &err), LGV_OK);
    assert_int_equal(lgv_scheduler_config_set(&cfg, "clip_sample", "false", &err), LGV_OK);
    assert_int_equal(lgv_scheduler_config_set(&cfg, "variance_type", "fixed_large", &err), LGV_OK);
    assert_int_equal(lgv_scheduler_config_set(&cfg, "prediction_type", "noise", &err),
                     LGV_ERR_FORMAT);
    assert_non_null(strstr(err.text, "prediction_type"));
    assert_int_equal(lgv_scheduler_config_set(&cfg, "clip", "false", &err), LGV_ERR_ARGUMENT);
    assert_int_equal(lgv_scheduler_config_set(&cfg, "beta_start", "small", &err), LGV_ERR_ARGUMENT);
    if (lgv_scheduler_config_save(&cfg, path, &err)) fail_msg("%s", err.text);
    if (lgv_scheduler_config_load(path, &back, &err)) fail_msg("%s", err.text);
    assert_string_equal(back.class_name, "DDPMScheduler");
    assert_int_equal(back.num_train_timesteps, 500);
    assert_int_equal(back.prediction_type, LGV_PREDICT_V);
    assert_int_equal(back.variance_type, LGV_VARIANCE_FIXED_LARGE);
    assert_int_equal(back.clip_sample, 0);

    /* DDIM keeps what both classes have; variance_type is not DDIM's, set_alpha_to_one was not
       given */
    if (lgv_scheduler_config_switch(&back, "DDIMScheduler", &ddim, &err)) fail_msg("%s", err.text);
    assert_int_equal(ddim.num_train_timesteps, 500);
    assert_int_equal(ddim.prediction_type, LGV_PREDICT_V);
    assert_int_equal(ddim.variance_type, LGV_VARIANCE_FIXED_SMALL);
    assert_int_equal(ddim.set_alpha_to_one, 1);
    if (lgv_scheduler_config_save(&ddim, path, &err)) fail_msg("%s", err.text);
    lgv_json j;
    assert_int_equal(lgv_json_load(path, &j, &err), LGV_OK);
    assert_int_equal(json_object_size(j.root), 17); /* 15 fields, class and version */
    assert_null(json_object_get(j.root, "variance_type"));
    lgv_json_free(&j);
    lgv_scheduler_config_clear(&ddim);
    lgv_scheduler_config_clear(&back);
    lgv_scheduler_config_clear(&cfg);
    unlink(path);
}

/* Stable Diffusion's PNDM folder: its schedule and set_alpha_to_one serve DDIM. */
static void foreign_class(void **state)
{
    static const char pndm[] = "{\"_class_name\": \"PNDMScheduler\", \"_diffusers_version\": "
                               "\"0.8.0.dev0\", \"beta_end\": 0.012,"
                               "\"beta_schedule\": \"scaled_linear\", \"beta_start\": 0.00085, "
                               "\"num_train_timesteps\": 1000,"
                               "\"set_alpha_to_one\": false, \"skip_prk_steps\": true, "
                               "\"steps_offset\": 1, \"trained_betas\": null}";
    lgv_error err = {0};
    lgv_scheduler_config cfg, ddim;
    if (lgv_scheduler_config_parse(pndm, strlen(pndm), "pndm", &cfg, &err))
        fail_msg("%s", err.text);
    assert_string_equal(cfg.class_name, "PNDMScheduler");
    if (lgv_scheduler_config_switch(&cfg, "DDIMScheduler", &ddim, &err)) fail_msg("%s", err.text);
    assert_int_equal(ddim.set_alpha_to_one, 0);
    assert_int_equal(ddim.steps_offset, 1);
    assert_int_equal(ddim.clip_sample, 1); /* DDIM's default: PNDM has no such field */
    assert_int_equal(ddim.beta_schedule, LGV_BETA_SCALED_LINEAR);
    lgv_scheduler_config_clear(&ddim);
    assert_int_equal(cfg.skip_prk_steps, 1);
    snprintf(cfg.class_name, sizeof cfg.class_name, "RePaintScheduler"); /* none of ours */
    assert_int_equal(lgv_scheduler_config_switch(&cfg, "RePaintScheduler", &ddim, &err),
                     LGV_ERR_UNSUPPORTED);
    assert_int_equal(lgv_scheduler_config_save(&cfg, "/tmp/never", &err), LGV_ERR_UNSUPPORTED);
    lgv_scheduler_config_clear(&cfg);
}

static void bad_configs(void **state)
{
    static const char *const parse[] = {"{\"num_train_timesteps\": 0}",
                                        "{\"num_train_timesteps\": 99999999}",
                                        "{\"num_train_timesteps\": \"many\"}",
                                        "{\"beta_schedule\": \"steep\"}",
                                        "{\"trained_betas\": []}",
                                        "{\"trained_betas\": [\"x\"]}",
                                        "{\"steps_offset\": -1}",
                                        "{\"clip_sample\": 3}",
                                        "[1]",
                                        "{\"beta_start\":"};
    static const char *const make[] = {"{\"trained_betas\": [0.1, 0.2]}", "{\"beta_end\": 2}",
                                       "{\"beta_start\": -0.1}",
                                       "{\"num_train_timesteps\": 1, \"trained_betas\": [1.5]}"};
    lgv_scheduler_config cfg;
    for (size_t i = 0; i < sizeof parse / sizeof parse[0]; i++) {
        lgv_error err = {0};
        if (!lgv_scheduler_config_parse(parse[i], strlen(parse[i]), "bad.json", &cfg, &err))
            fail_msg("accepted %s", parse[i]);
        assert_true(err.text[0]);
    }
    for (size_t i = 0; i < sizeof make / sizeof make[0]; i++) {
        lgv_error err = {0};
        lgv_schedule *s = NULL;
        if (lgv_scheduler_config_parse(make[i], strlen(make[i]), "bad.json", &cfg, &err))
            fail_msg("%s", err.text);
        assert_int_equal(lgv_schedule_new(&cfg, &s, &err), LGV_ERR_ARGUMENT);
        assert_null(s);
        lgv_scheduler_config_clear(&cfg);
    }
}

/* What the network of flow matching and of EDM is asked for gives the picture back, and EDM's sigmas are log-normal. */
static void noising(void **state)
{
    const double image = 0.4, eps = -1.3;
    lgv_noising n;
    lgv_schedule *flow =
        schedule_of("{\"_class_name\": \"FlowMatchEulerDiscreteScheduler\", \"shift\": 3}");
    lgv_schedule *edm = schedule_of("{\"_class_name\": \"EDMEulerScheduler\"}");
    assert_int_equal(flow->family, LGV_FAMILY_FLOW);
    assert_int_equal(edm->family, LGV_FAMILY_EDM);
    lgv_schedule_noising(flow, 999, 0.5, &n);
    assert_true(n.t == 1000 && n.x0 == 0 && n.noise == 1);
    lgv_schedule_noising(flow, 499, 0.5, &n); /* sigma 0.5, shifted by 3 */
    near(n.noise, 0.75, 1e-6);
    double mean = 0, square = 0;
    for (int t = 0; t < 1000; t++) {
        lgv_schedule_noising(flow, t, 0.5, &n);
        const double x = n.x0 * image + n.noise * eps;
        const double v = n.target_x0 * image + n.target_noise * eps;
        assert_true(fabs(x - n.noise * v - image) < 2e-6);
        lgv_schedule_noising(edm, t, 0.5, &n);
        const double sigma = exp(4.0 * (double)n.t), total = sigma * sigma + 0.25;
        const double seen = n.x0 * image + n.noise * eps;
        const double F = n.target_x0 * image + n.target_noise * eps;
        const double noisy = image + sigma * eps;
        assert_true(fabs(seen * sqrt(total) - noisy) < 1e-5 * (1 + sigma));
        assert_true(fabs(0.25 / total * noisy + sigma * 0.5 / sqrt(total) * F - image) < 1e-5);
        mean += log(sigma) / 1000;
        square += log(sigma) * log(sigma) / 1000;
        assert_true(lgv_schedule_loss_weight(edm, t, 0) == 1);
    }
    near(mean, -1.2, 1e-4);
    near(sqrt(square - mean * mean), 1.2, 2e-3);
    lgv_schedule_free(flow);
    lgv_schedule_free(edm);
}

/* Files of solvers as diffusers writes them, Python's -Infinity included; written back, they load the same. */
static void solver_files(void **state)
{
    static const char dpm[] =
        "{\"_class_name\": \"DPMSolverMultistepScheduler\", \"lambda_min_clipped\": -Infinity, "
        "\"algorithm_type\": \"sde-dpmsolver++\", \"solver_order\": 3, \"variance_type\": null, "
        "\"note\": \"say -Infinity\", \"use_karras_sigmas\": true}";
    static const char pc[] =
        "{\"_class_name\": \"UniPCMultistepScheduler\", \"disable_corrector\": [0, 3], "
        "\"sigma_min\": null, \"solver_p\": null, \"solver_type\": \"bh1\"}";
    static const char *const wrong[] = {"{\"solver_order\": 0}",
                                        "{\"algorithm_type\": \"dpm\"}",
                                        "{\"disable_corrector\": [64]}",
                                        "{\"disable_corrector\": 1}",
                                        "{\"lambda_min_clipped\": Infinity}",
                                        "{\"rho\": \"7\"}"};
    lgv_error err = {0};
    lgv_scheduler_config cfg, back;
    char path[] = "/tmp/lgv-scheduler-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    for (int k = 0; k < 2; k++) {
        const char *text = k ? pc : dpm;
        if (lgv_scheduler_config_parse(text, strlen(text), "file", &cfg, &err))
            fail_msg("%s", err.text);
        if (lgv_scheduler_config_save(&cfg, path, &err) ||
            lgv_scheduler_config_load(path, &back, &err))
            fail_msg("%s", err.text);
        back.given = cfg.given;
        assert_memory_equal(&cfg, &back, sizeof cfg);
        if (!k)
            assert_true(isinf(cfg.lambda_min_clipped) && cfg.solver_order == 3 &&
                        cfg.use_karras_sigmas);
        if (k)
            assert_true(cfg.disable_corrector == 9 && cfg.sigma_min == 0 &&
                        cfg.solver_type == LGV_SOLVER_BH1);
        lgv_scheduler_config_clear(&cfg);
        lgv_scheduler_config_clear(&back);
    }
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        assert_int_equal(lgv_scheduler_config_parse(wrong[i], strlen(wrong[i]), "file", &cfg, &err),
                         LGV_ERR_FORMAT);
    unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(worked_example), cmocka_unit_test(known_values),
        cmocka_unit_test(tables),         cmocka_unit_test(loss_weights),
        cmocka_unit_test(config_files),   cmocka_unit_test(foreign_class),
        cmocka_unit_test(bad_configs),    cmocka_unit_test(noising),
        cmocka_unit_test(solver_files),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
