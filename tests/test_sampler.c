/* test_sampler.c - timesteps and steps of the samplers against diffusers. Trajectories: every
   value within 1e-5 of the largest of its image; float32 rounding over ten steps with
   coefficients folded in another order stays well below. */
#define _POSIX_C_SOURCE 200809L
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "core/core.h"
#include "diffusion/brownian.h"
#include "io/json.h"
#include "langevin/ops.h"
#include "langevin/plan.h"
#include "langevin/rng.h"
#include "langevin/safetensors.h"
#include "langevin/sampler.h"

static void near(double got, double want, double absolute)
{
    if (fabs(got - want) <= absolute) return;
    fail_msg("%.9g, wanted %.9g", got, want);
}

/* These tests are about ddim unless they say otherwise. */
static lgv_sampler_options named(const lgv_sampler_options *o)
{
    lgv_sampler_options own = o ? *o : (lgv_sampler_options){0};
    if (!own.sampler) own.sampler = "ddim";
    return own;
}

static lgv_sampler *sampler_of(const char *json, const lgv_sampler_options *o)
{
    const lgv_sampler_options own = named(o);
    lgv_error err = {0};
    lgv_scheduler_config cfg;
    lgv_sampler *s = NULL;
    if (lgv_scheduler_config_parse(json, strlen(json), "test", &cfg, &err) ||
        lgv_sampler_new(&cfg, &own, &s, &err))
        fail_msg("%s: %s", json, err.text);
    lgv_scheduler_config_clear(&cfg);
    return s;
}

static lgv_status refuse(const char *json, const lgv_sampler_options *o)
{
    const lgv_sampler_options own = named(o);
    lgv_error err = {0};
    lgv_scheduler_config cfg;
    lgv_sampler *s = NULL;
    if (lgv_scheduler_config_parse(json, strlen(json), "test", &cfg, &err))
        fail_msg("%s", err.text);
    lgv_status status = lgv_sampler_new(&cfg, &own, &s, &err);
    lgv_scheduler_config_clear(&cfg);
    assert_null(s);
    assert_true(status != LGV_OK && err.status == status && err.text[0]);
    return status;
}

static void table(void **state)
{
    assert_string_equal(lgv_sampler_find("DDIM")->name, "ddim");
    assert_string_equal(lgv_sampler_find("DDIMScheduler")->name, "ddim");
    assert_string_equal(lgv_sampler_find("ddim-inverse")->class_name, "DDIMInverseScheduler");
    assert_string_equal(lgv_sampler_find("EulerDiscreteScheduler")->name, "euler");
    assert_string_equal(lgv_sampler_find("DPMSolverMultistepScheduler")->name, "dpmpp_2m");
    assert_null(lgv_sampler_find("euler2"));
    assert_null(lgv_sampler_find(NULL));
    assert_null(lgv_sampler_at(lgv_sampler_count()));
    for (int i = 0; i < lgv_sampler_count(); i++)
        assert_ptr_equal(lgv_sampler_find(lgv_sampler_at(i)->name), lgv_sampler_at(i));
}

static void defaults(void **state)
{
    static const struct {
        const char *json;
        lgv_sampler_options o;
        const char *name;
        int64_t steps;
    } want[] = {
        {"{}", {0}, "dpmpp_2m", 20},
        {"{\"_class_name\": \"PNDMScheduler\"}", {0}, "dpmpp_2m", 20},
        {"{}", {.eta = 0.5}, "ddim", 50},
        {"{}", {.sampler = "ddpm"}, "ddpm", 1000},
        {"{}", {.sampler = "plms"}, "pndm", 51}, /* has its class's first name */
        {"{\"_class_name\": \"EDMEulerScheduler\"}", {0}, "edm_euler", 20},
        {"{\"_class_name\": \"FlowMatchEulerDiscreteScheduler\"}", {0}, "flow_euler", 20},
    };
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
        lgv_error err = {0};
        lgv_scheduler_config cfg;
        lgv_sampler *s = NULL;
        const char *json = want[i].json;
        if (lgv_scheduler_config_parse(json, strlen(json), "test", &cfg, &err) ||
            lgv_sampler_new(&cfg, &want[i].o, &s, &err))
            fail_msg("%s: %s", json, err.text);
        assert_int_equal(lgv_sampler_steps(s), want[i].steps);
        assert_string_equal(lgv_sampler_find(lgv_sampler_kind(s)->class_name)->name, want[i].name);
        lgv_sampler_free(s);
        lgv_scheduler_config_clear(&cfg);
    }
}

/* A solver takes over a network of flow matching, with that network's noise levels. */
static void flow_to_solver(void **state)
{
    lgv_sampler_options o = {.sampler = "uni_pc", .num_inference_steps = 4};
    lgv_sampler *a =
        sampler_of("{\"_class_name\": \"FlowMatchEulerDiscreteScheduler\", \"shift\": 3}", &o);
    lgv_sampler *b =
        sampler_of("{\"_class_name\": \"UniPCMultistepScheduler\", \"flow_shift\": 3, "
                   "\"use_flow_sigmas\": true, \"prediction_type\": \"flow_prediction\"}",
                   &o);
    for (int64_t i = 0; i < 4; i++)
        assert_memory_equal(lgv_sampler_coef(a, i), lgv_sampler_coef(b, i), sizeof(lgv_step_coef));
    lgv_sampler_free(a);
    lgv_sampler_free(b);
}

/* reference/diffusers.md 3.3 */
static void known_timesteps(void **state)
{
    static const struct {
        const char *json;
        int n;
        int t[13];
    } want[] = {
        {"{\"timestep_spacing\": \"linspace\"}",
         10,
         {999, 888, 777, 666, 555, 444, 333, 222, 111, 0}},
        {"{}", 10, {900, 800, 700, 600, 500, 400, 300, 200, 100, 0}},
        {"{\"timestep_spacing\": \"trailing\"}",
         10,
         {999, 899, 799, 699, 599, 499, 399, 299, 199, 99}},
        {"{\"timestep_spacing\": \"trailing\"}", 7, {999, 856, 713, 570, 428, 285, 142}},
        {"{\"timestep_spacing\": \"linspace\"}", 7, {999, 832, 666, 500, 333, 166, 0}},
        {"{}", 13, {912, 836, 760, 684, 608, 532, 456, 380, 304, 228, 152, 76, 0}},
        {"{\"timestep_spacing\": \"trailing\"}",
         13,
         {999, 922, 845, 768, 691, 614, 537, 461, 384, 307, 230, 153, 76}},
    };
    for (size_t k = 0; k < sizeof want / sizeof want[0]; k++) {
        lgv_sampler *s =
            sampler_of(want[k].json, &(lgv_sampler_options){.num_inference_steps = want[k].n});
        assert_int_equal(lgv_sampler_steps(s), want[k].n);
        for (int i = 0; i < want[k].n; i++)
            assert_true(lgv_sampler_coef(s, i)->t == (float)want[k].t[i]);
        lgv_sampler_free(s);
    }
}

static uint64_t hash_of(const lgv_sampler *s)
{
    uint64_t h = 0xCBF29CE484222325;
    for (int64_t i = 0; i < lgv_sampler_steps(s); i++) {
        uint64_t t = (uint64_t)(int64_t)lgv_sampler_coef(s, i)->t;
        for (int b = 0; b < 8; b++) h = (h ^ (t >> 8 * b & 255)) * 0x100000001B3;
    }
    return h;
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

static const void *data_of(const lgv_safetensors *f, const char *name, int64_t count)
{
    const lgv_tensor_info *t = lgv_safetensors_find(f, name);
    assert_non_null(t);
    assert_true(count == 0 || t->count == count);
    return t->data;
}

/* Every n of T = 1000, 100 and 37 in each spacing: equal in compat mode; by default exactly n
   steps, all within 0 .. T-1, and equal wherever diffusers has n. */
static void all_timesteps(void **state)
{
    static const char *const spacing[] = {"leading", "linspace", "trailing"};
    static const int Ts[] = {1000, 100, 37};
    lgv_safetensors *f = golden();
    int differ = 0;
    for (int k = 0; k < 9; k++) {
        int T = Ts[k / 3];
        char name[64], json[128];
        snprintf(name, sizeof name, "timesteps.%s.%d", spacing[k % 3], T);
        snprintf(json, sizeof json, "{\"timestep_spacing\": \"%s\", \"num_train_timesteps\": %d}",
                 spacing[k % 3], T);
        const char *hashes = data_of(f, name, T);
        for (int n = 1; n <= T; n++) {
            lgv_sampler_options o = {.num_inference_steps = n, .compat_diffusers = 1};
            uint64_t want;
            memcpy(&want, hashes + 8 * (n - 1), 8);
            lgv_sampler *compat = sampler_of(json, &o);
            o.compat_diffusers = 0;
            lgv_sampler *fixed = sampler_of(json, &o);
            if (hash_of(compat) != want)
                fail_msg("%s n=%d: other timesteps than diffusers", json, n);
            assert_int_equal(lgv_sampler_steps(fixed), n);
            for (int i = 0; i < n; i++) {
                float t = lgv_sampler_coef(fixed, i)->t;
                assert_true(t >= 0 && t < (float)T && t == lgv_sampler_coef(compat, i)->t);
            }
            differ += lgv_sampler_steps(compat) != n;
            lgv_sampler_free(compat);
            lgv_sampler_free(fixed);
        }
    }
    print_message("%d lists of diffusers have an extra step\n", differ);
    assert_true(differ >= 62);
    lgv_safetensors_close(f);
}

static void apply_at(const lgv_sampler *s, int t, int n, const float *x, const float *out,
                     const float *z, float *next)
{
    for (int64_t i = 0; i < lgv_sampler_steps(s); i++) {
        const lgv_step_coef *k = lgv_sampler_coef(s, i);
        if (k->t != (float)t) continue;
        assert_int_equal(lgv_sampler_apply(k, n, x, out, z, NULL, next, NULL, NULL), LGV_OK);
        return;
    }
    fail_msg("no step at %d", t);
}

static void known_steps(void **state)
{
    static const float x[] = {.5f, -1, 2, .1f}, out[] = {.2f, -.3f, 1.1f, .7f},
                       one[] = {1, 1, 1, 1};
    static const struct {
        const char *json;
        double eta;
        int clipped;
        double want[4];
    } steps[] = {
        {"{}", 0, 0, {.619570851, -.709372163, 1.42778289, .188641191}},
        {"{\"prediction_type\": \"v_prediction\"}",
         0,
         0,
         {.458138913, -.933481097, 1.78094566, -.0219141841}},
        {"{\"clip_sample\": false}", 0, 0, {.665341496, -1.39236128, 2.47633147, -.274008155}},
        {"{}", 0, 1, {.646704972, -1.11426735, 2.04939175, -.0856302977}},
        {"{}", 1, 0, {1.26963806, .123517931, 1.74876857, .655885339}},
    };
    float next[4];
    for (size_t k = 0; k < sizeof steps / sizeof steps[0]; k++) {
        lgv_sampler_options o = {.num_inference_steps = 10,
                                 .eta = steps[k].eta,
                                 .use_clipped_model_output = steps[k].clipped};
        lgv_sampler *s = sampler_of(steps[k].json, &o);
        assert_int_equal(lgv_sampler_stochastic(s), steps[k].eta > 0);
        apply_at(s, 500, 4, x, out, one, next);
        for (int i = 0; i < 4; i++) near(next[i], steps[k].want[i], 2e-6);
        lgv_sampler_free(s);
    }
    lgv_sampler_options o = {.sampler = "ddpm", .num_inference_steps = 10};
    lgv_sampler *small = sampler_of("{}", &o),
                *large = sampler_of("{\"variance_type\": \"fixed_large\"}", &o);
    near(pow(lgv_sampler_coef(small, 4)->s, 2), .523012936, 1e-6);
    near(pow(lgv_sampler_coef(large, 4)->s, 2), .598099589, 1e-6);
    assert_int_equal(lgv_sampler_coef(small, 9)->wants_noise, 0);
    lgv_sampler_free(small);
    lgv_sampler_free(large);
}

enum { SIZE = 18 }; /* elements of the golden image */

static void analytic_model(const float *x, const float *q, float t, float *out)
{
    float ratio = t == -1 ? 0 : (float)((double)t / ((double)t + 1));
    for (int i = 0; i < SIZE; i++) out[i] = 0.9f * x[i] * ratio + 0.2f * q[i];
}

static double run_case(const json_t *c, const lgv_safetensors *f, int compat)
{
    char *config = json_dumps(json_object_get(c, "config"), JSON_COMPACT),
         *text = json_dumps(c, JSON_COMPACT);
    const json_t *list = json_object_get(c, "timesteps");
    int64_t own[16];
    for (size_t i = 0; i < json_array_size(list); i++)
        own[i] = json_integer_value(json_array_get(list, i));
    lgv_sampler_options o = {
        .sampler = json_string_value(json_object_get(c, "class")),
        .num_inference_steps = json_integer_value(json_object_get(c, "n")),
        .timesteps = list ? own : NULL,
        .timestep_count = (int64_t)json_array_size(list),
        .eta = json_number_value(json_object_get(c, "eta")),
        .use_clipped_model_output = json_is_true(json_object_get(c, "clipped")),
        .compat_diffusers = compat,
    };
    lgv_sampler *s = sampler_of(config, &o);
    int64_t steps = json_integer_value(json_object_get(c, "steps")),
            at = json_integer_value(json_object_get(c, "at"));
    if (lgv_sampler_steps(s) != steps) fail_msg("%s: %d steps", text, (int)lgv_sampler_steps(s));
    const float *want = (const float *)data_of(f, "trajectory", 0) + at * SIZE,
                *z = data_of(f, "z", 40 * SIZE);
    const float *q = data_of(f, "q", SIZE);
    float x[SIZE], out[SIZE];
    double worst = 0;
    memcpy(x, data_of(f, "x", SIZE), sizeof x);
    for (int64_t i = 0; i < steps; i++, want += SIZE, z += SIZE) {
        const lgv_step_coef *k = lgv_sampler_coef(s, i);
        double largest = 0, error = 0;
        analytic_model(x, q, k->t, out);
        assert_int_equal(
            lgv_sampler_apply(k, SIZE, x, out, k->wants_noise ? z : NULL, NULL, x, NULL, NULL),
            LGV_OK);
        for (int e = 0; e < SIZE; e++) {
            if (isnan(want[e]) != isnan(x[e]))
                fail_msg("%s compat %d step %d: %g, wanted %g", text, compat, (int)i, x[e],
                         want[e]);
            if (isnan(want[e])) continue;
            largest = fmax(largest, fabs(want[e]));
            error = fmax(error, fabs((double)x[e] - want[e]));
        }
        if (error > 1e-5 * largest)
            fail_msg("%s compat %d step %d: off by %g of %g", text, compat, (int)i, error, largest);
        if (largest > 0) worst = fmax(worst, error / largest);
    }
    lgv_sampler_free(s);
    free(config);
    free(text);
    return worst;
}

static void trajectories(void **state)
{
    lgv_safetensors *f = golden();
    lgv_error err = {0};
    lgv_json j;
    const char *text = lgv_safetensors_metadata(f, "cases");
    if (lgv_json_parse(text, strlen(text), "cases", &j, &err)) fail_msg("%s", err.text);
    const json_t *cases = json_object_get(j.root, "cases");
    double worst = 0;
    for (size_t k = 0; k < json_array_size(cases); k++) {
        const json_t *c = json_array_get(cases, k);
        const char *mode = json_string_value(json_object_get(c, "mode"));
        if (strcmp(mode, "fixed")) worst = fmax(worst, run_case(c, f, 1));
        if (strcmp(mode, "compat")) worst = fmax(worst, run_case(c, f, 0));
    }
    print_message("%d cases, largest difference %.2g of the image's largest value\n",
                  (int)json_array_size(cases), worst);
    assert_true(json_array_size(cases) > 500);
    lgv_json_free(&j);
    lgv_safetensors_close(f);
}

/* The loop of diffusers' own tests: x = arange/768 laid out (4,3,8,8), model x t/(t+1). */
enum { LOOP = 768 };

static void loop_start(float *x)
{
    for (int n = 0; n < 4; n++)
        for (int i = 0; i < 192; i++) x[n * 192 + i] = (float)(i * 4 + n) / 768.0f;
}

enum {
    ADD_NOISE = 1,
    KEEP_SCALED = 2
}; /* their loops for Euler and others go on with the scaled x */

static double loop_sum(const char *json, const lgv_sampler_options *o, int64_t first, int how,
                       lgv_torch_rng *rng)
{
    float x[LOOP], out[LOOP], z[LOOP], noise[LOOP];
    lgv_sampler *s = sampler_of(json, o);
    loop_start(x);
    if (how & ADD_NOISE) {
        lgv_error err = {0};
        lgv_scheduler_config cfg;
        lgv_schedule *schedule = NULL;
        if (lgv_scheduler_config_parse(json, strlen(json), "test", &cfg, &err) ||
            lgv_schedule_new(&cfg, &schedule, &err))
            fail_msg("%s", err.text);
        /* diffusers' dummy noise: the same numbers reversed */
        for (int n = 0; n < 4; n++)
            for (int i = 0; i < 192; i++) noise[n * 192 + i] = (float)(767 - (i * 4 + n)) / 768.0f;
        lgv_schedule_add_noise(schedule, (int64_t)lgv_sampler_coef(s, first)->t, LOOP, x, noise, x);
        lgv_schedule_free(schedule);
        lgv_scheduler_config_clear(&cfg);
    }
    float history[LGV_HISTORY * LOOP] = {0};
    const float sigma = (float)lgv_sampler_init_sigma(s);
    for (int e = 0; e < LOOP && !(how & ADD_NOISE); e++) x[e] *= sigma;
    for (int64_t i = first; i < lgv_sampler_steps(s); i++) {
        const lgv_step_coef *k = lgv_sampler_coef(s, i);
        for (int e = 0; e < LOOP; e++) {
            const float seen = k->in * x[e];
            out[e] = seen * k->t / (k->t + 1);
            if (how & KEEP_SCALED) x[e] = seen;
        }
        if (k->wants_noise) lgv_torch_randn(rng, LOOP, z);
        assert_int_equal(
            lgv_sampler_apply(k, LOOP, x, out, k->wants_noise ? z : NULL, history, x, NULL, NULL),
            LGV_OK);
    }
    lgv_sampler_free(s);
    double sum = 0;
    for (int e = 0; e < LOOP; e++) sum += fabs(x[e]);
    return sum;
}

/* The other samplers' loops, in the configurations of diffusers' tests: sums, or means of 768 values. */
static void published_sums_of_solvers(void **state)
{
#define CLASS(name, more) "{\"_class_name\": \"" name "\"" more "}"
#define LONG              ", \"num_train_timesteps\": 1100, \"beta_start\": 0.0001, \"beta_end\": 0.02"
#define SIGMA_MIN         ", \"final_sigmas_type\": \"sigma_min\""
    static const struct {
        const char *json;
        int n;
        double want, tolerance;
    } loop[] = {
        {CLASS("EulerDiscreteScheduler", LONG), 10, 10.0807, 1e-2},
        {CLASS("EulerDiscreteScheduler", LONG ", \"use_karras_sigmas\": true"), 10, 124.5230, 1e-2},
        {CLASS("EulerAncestralDiscreteScheduler", LONG), 10, 152.3192, 1e-2},
        {CLASS("HeunDiscreteScheduler", LONG), 10, 0.1233, 1e-2},
        {CLASS("LMSDiscreteScheduler", LONG), 10, 1006.388, 2},
        {CLASS("PNDMScheduler", ""), 10, 198.1318, 1e-2},
        {CLASS("DPMSolverMultistepScheduler", SIGMA_MIN ", \"lower_order_final\": false"), 10,
         0.3301 * LOOP, 1e-3 * LOOP},
        {CLASS("DPMSolverSinglestepScheduler", SIGMA_MIN), 10, 0.2791 * LOOP, 1e-3 * LOOP},
        {CLASS("UniPCMultistepScheduler", SIGMA_MIN), 10, 0.2464 * LOOP, 1e-3 * LOOP},
        {CLASS("DEISMultistepScheduler", ""), 10, 0.23916 * LOOP, 1e-3 * LOOP},
        {CLASS("LCMScheduler", ""), 1, 18.7097, 1e-2},
        {CLASS("LCMScheduler", ""), 10, 197.7616, 1e-2},
        {CLASS("EDMEulerScheduler", ", \"num_train_timesteps\": 256"), 10, 34.1855, 1e-2},
    };
    for (size_t i = 0; i < sizeof loop / sizeof *loop; i++) {
        lgv_error err = {0};
        lgv_scheduler_config cfg;
        lgv_torch_rng rng;
        if (lgv_scheduler_config_parse(loop[i].json, strlen(loop[i].json), "loop", &cfg, &err))
            fail_msg("%s", err.text);
        lgv_torch_seed(&rng, 0);
        lgv_sampler_options o = {.sampler = cfg.class_name, .num_inference_steps = loop[i].n};
        const int discrete = strstr(loop[i].json, "Discrete") != NULL ? KEEP_SCALED : 0;
        double sum = loop_sum(loop[i].json, &o, 0, discrete, &rng);
        if (!(fabs(sum - loop[i].want) <= loop[i].tolerance))
            fail_msg("%s: %.6g, diffusers has %.6g", loop[i].json, sum, loop[i].want);
        lgv_scheduler_config_clear(&cfg);
    }
}

/* The error of a solver on a problem with a known answer falls with its order: a network that knows pictures of one
   Gaussian, mean 0.3 and deviation 0.5, in exact arithmetic up to float32. */
static double gaussian_error(const char *name, int order, int n)
{
    lgv_sampler_options o = {.sampler = name,
                             .num_inference_steps = n,
                             .solver_order = order,
                             .sigma_schedule = LGV_SIGMAS_KARRAS};
    lgv_sampler *s = sampler_of("{\"beta_schedule\": \"scaled_linear\", \"beta_start\": 0.00085, "
                                "\"beta_end\": 0.012, \"timestep_spacing\": \"linspace\"}",
                                &o);
    float x = 1.3f * (float)lgv_sampler_init_sigma(s), history[LGV_HISTORY] = {0}, x_last = 0;
    double first_sigma = 0, last_sigma = 0, start = 0;
    for (int64_t i = 0; i + 1 < lgv_sampler_steps(s); i++) { /* not the step to noise 0 */
        const lgv_step_coef *k = lgv_sampler_coef(s, i), *after = lgv_sampler_coef(s, i + 1);
        const double sigma = k->noise / k->image, scaled = x / (double)k->image;
        const double x0 = (0.3 * sigma * sigma + 0.25 * scaled) / (sigma * sigma + 0.25);
        const float out = (float)((scaled - x0) / sigma);
        if (!i) first_sigma = sigma, start = scaled;
        lgv_sampler_apply(k, 1, &x, &out, NULL, history, &x, NULL, NULL);
        last_sigma = after->noise / after->image;
        x_last = x / after->image;
    }
    lgv_sampler_free(s);
    const double want = 0.3 + (start - 0.3) * sqrt((last_sigma * last_sigma + 0.25) /
                                                   (first_sigma * first_sigma + 0.25));
    return fabs((double)x_last - want);
}

static void orders_of_convergence(void **state)
{
    static const struct {
        const char *name;
        int order;
        double least; /* the error of n over that of 2n steps */
    } solver[] = {{"euler", 0, 1.7},  {"heun", 0, 3},   {"dpmpp_2m", 2, 3},
                  {"dpmpp_2m", 3, 3}, {"uni_pc", 2, 3}, {"deis", 2, 3}};
    for (size_t i = 0; i < sizeof solver / sizeof *solver; i++) {
        const double coarse = gaussian_error(solver[i].name, solver[i].order, 20),
                     fine = gaussian_error(solver[i].name, solver[i].order, 40);
        print_message("%s %d: error %.3g with 20 steps, %.3g with 40\n", solver[i].name,
                      solver[i].order, coarse, fine);
        if (!(coarse > solver[i].least * fine)) fail_msg("%s converges too slowly", solver[i].name);
    }
}

/* W(sigma) has variance sigma; what two intervals share is common; the path does not depend on who asks. */
static void brownian_path(void **state)
{
    enum { N = 4000 };
    static double a[2 * N], b[2 * N], w[4 * N];
    static float scratch[N], half[N], whole[N];
    lgv_brownian(7, 3.5, N, scratch, a);
    lgv_brownian(7, 3.5, N, scratch, b);
    assert_memory_equal(a, b, N * sizeof *a);
    lgv_brownian_step(7, 10, 4, N, scratch, w, half);
    lgv_brownian_step(7, 10, 1, N, scratch, w, whole);
    double square = 0, hh = 0, ww = 0, hw = 0;
    for (int i = 0; i < N; i++) {
        square += a[i] * a[i] / N;
        hh += (double)half[i] * half[i] / N;
        ww += (double)whole[i] * whole[i] / N;
        hw += (double)half[i] * whole[i] / N;
    }
    near(square, 3.5, 0.25);
    near(hh, 1, 0.08);
    near(ww, 1, 0.08);
    near(hw, sqrt(6.0 / 9), 0.08);
    lgv_brownian_step(7, 0.02, 0.01, N, scratch, w, half); /* near noise 0 */
    hh = 0;
    for (int i = 0; i < N; i++) hh += (double)half[i] * half[i] / N;
    near(hh, 1, 0.08);
}

static void published_sums(void **state)
{
    lgv_sampler_options ten = {.num_inference_steps = 10},
                        inverse = {.sampler = "ddim_inverse", .num_inference_steps = 10};
    near(loop_sum("{}", &ten, 0, 0, NULL), 172.0067, 1e-2);
    near(loop_sum("{\"prediction_type\": \"v_prediction\"}", &ten, 0, 0, NULL), 52.5302, 1e-2);
    near(loop_sum("{\"beta_start\": 0.01}", &ten, 0, 0, NULL), 149.8295, 1e-2);
    near(loop_sum("{\"beta_start\": 0.01, \"set_alpha_to_one\": false}", &ten, 0, 0, NULL),
         149.0784, 1e-2);
    near(loop_sum("{}", &ten, 8, 1, NULL), 354.5418, 1e-2);
    near(loop_sum("{}", &inverse, 0, 0, NULL), 671.6816, 1e-2);

    lgv_torch_rng rng;
    lgv_sampler_options ddpm = {.sampler = "ddpm", .num_inference_steps = LGV_STEPS_ALL};
    lgv_torch_seed(&rng, 0);
    near(loop_sum("{}", &ddpm, 0, 0, &rng), 258.9606, 1e-2);
    lgv_torch_seed(&rng, 0);
    near(loop_sum("{\"prediction_type\": \"v_prediction\"}", &ddpm, 0, 0, &rng), 202.0296, 1e-2);
}

static void defects(void **state)
{
    /* fixed_large_log is fixed_large; NaN in compat mode */
    lgv_sampler_options o = {.sampler = "ddpm", .num_inference_steps = 10};
    lgv_sampler *a = sampler_of("{\"variance_type\": \"fixed_large_log\"}", &o);
    lgv_sampler *b = sampler_of("{\"variance_type\": \"fixed_large\"}", &o);
    for (int i = 0; i < 10; i++)
        assert_true(lgv_sampler_coef(a, i)->s == lgv_sampler_coef(b, i)->s);
    lgv_sampler_free(a);
    lgv_sampler_free(b);
    o.compat_diffusers = 1;
    a = sampler_of("{\"variance_type\": \"fixed_large_log\"}", &o);
    assert_true(isnan(lgv_sampler_coef(a, 0)->s));
    lgv_sampler_free(a);

    /* index T through steps_offset */
    lgv_sampler_options all = {.num_inference_steps = 1000};
    a = sampler_of("{\"steps_offset\": 1}", &all);
    assert_true(lgv_sampler_coef(a, 0)->t == 999 && lgv_sampler_coef(a, 999)->t == 0);
    lgv_sampler_free(a);
    all.compat_diffusers = 1;
    assert_int_equal(refuse("{\"steps_offset\": 1}", &all), LGV_ERR_ARGUMENT);
}

static void refusals(void **state)
{
    int64_t rising[] = {1, 5}, high[] = {1000, 5}, negative[] = {5, -1}, falling[] = {5, 1};
    assert_int_equal(refuse("{}", &(lgv_sampler_options){.num_inference_steps = 1001}),
                     LGV_ERR_ARGUMENT);
    assert_int_equal(refuse("{}", &(lgv_sampler_options){.num_inference_steps = -7}),
                     LGV_ERR_ARGUMENT);
    assert_int_equal(refuse("{}", &(lgv_sampler_options){.sampler = "euler2"}), LGV_ERR_ARGUMENT);
    assert_int_equal(refuse("{}", &(lgv_sampler_options){.eta = -1}), LGV_ERR_ARGUMENT);
    assert_int_equal(refuse("{}", &(lgv_sampler_options){.eta = 3}), LGV_ERR_NUMERIC);
    assert_int_equal(refuse("{}", &(lgv_sampler_options){.timesteps = rising, .timestep_count = 2}),
                     LGV_ERR_ARGUMENT);
    assert_int_equal(refuse("{}", &(lgv_sampler_options){.timesteps = high, .timestep_count = 2}),
                     LGV_ERR_ARGUMENT);
    assert_int_equal(
        refuse("{}", &(lgv_sampler_options){.timesteps = negative, .timestep_count = 2}),
        LGV_ERR_ARGUMENT);
    assert_int_equal(refuse("{}", &(lgv_sampler_options){.timestep_count = 2}), LGV_ERR_ARGUMENT);
    assert_int_equal(refuse("{}", &(lgv_sampler_options){.timesteps = falling,
                                                         .timestep_count = 2,
                                                         .num_inference_steps = 2}),
                     LGV_ERR_ARGUMENT);
    assert_int_equal(refuse("{}", &(lgv_sampler_options){.sampler = "ddim_inverse",
                                                         .timesteps = falling,
                                                         .timestep_count = 2}),
                     LGV_ERR_ARGUMENT);
    /* noise prediction says nothing at zero SNR, unless a clip bounds it */
    assert_int_equal(refuse("{\"rescale_betas_zero_snr\": true, \"clip_sample\": false, "
                            "\"timestep_spacing\": \"trailing\"}",
                            NULL),
                     LGV_ERR_NUMERIC);
    /* so does a predicted image that is still at SNR infinity */
    assert_int_equal(refuse("{\"prediction_type\": \"sample\"}",
                            &(lgv_sampler_options){.sampler = "ddim_inverse"}),
                     LGV_ERR_NUMERIC);
    static const struct {
        const char *json;
        lgv_sampler_options o;
    } bad[] = {
        {"{}", {.sampler = "ddim", .sigma_schedule = LGV_SIGMAS_KARRAS}},
        {"{}", {.sampler = "euler", .sigma_schedule = LGV_SIGMAS_LU}},
        {"{}", {.sampler = "euler", .solver_order = 2}},
        {"{}", {.sampler = "dpmpp_2m", .solver_order = 4}},
        {"{}", {.sampler = "deis", .solver_order = 4}},
        {"{}", {.sampler = "uni_pc", .solver_order = 9}},
        {"{}", {.sampler = "euler", .s_churn = -1}},
        {"{}", {.sampler = "tcd", .eta = 1.5}},
        {"{}", {.sampler = "lcm", .num_inference_steps = 60}},
        {"{}", {.sampler = "pndm", .num_inference_steps = 3}},
        {"{}", {.sampler = "heun", .num_inference_steps = 5, .skip_steps = 5}},
        {"{}", {.sampler = "edm_euler"}},
        {"{}", {.sampler = "flow_euler"}},
        {"{\"_class_name\": \"EDMEulerScheduler\"}", {.sampler = "ddim"}},
        {"{\"_class_name\": \"FlowMatchEulerDiscreteScheduler\"}", {.sampler = "euler"}},
        {"{\"_class_name\": \"FlowMatchEulerDiscreteScheduler\", \"use_dynamic_shifting\": true}",
         {.sampler = "flow_euler"}},
        {"{\"_class_name\": \"DPMSolverMultistepScheduler\", \"algorithm_type\": \"dpmsolver\"}",
         {.sampler = "DPMSolverMultistepScheduler"}},
        {"{\"_class_name\": \"EulerDiscreteScheduler\", \"use_karras_sigmas\": true, "
         "\"use_beta_sigmas\": true}",
         {.sampler = "euler"}},
        {"{\"_class_name\": \"EulerDiscreteScheduler\", \"sigma_min\": -1}", {.sampler = "euler"}},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(refuse(bad[i].json, &bad[i].o), LGV_ERR_ARGUMENT);
    assert_int_equal(refuse("{\"prediction_type\": \"sample\"}",
                            &(lgv_sampler_options){.sampler = "euler_ancestral"}),
                     LGV_ERR_UNSUPPORTED);
    /* a default number of steps never exceeds T */
    lgv_sampler *s = sampler_of("{\"num_train_timesteps\": 20, \"beta_end\": 0.3}", NULL);
    assert_int_equal(lgv_sampler_steps(s), 20);
    lgv_sampler_free(s);
}

/* torch.quantile of |x0| 1 .. 5 at 0.83 (rank 3.32) is 4.32; kept below max 4. */
static void thresholding(void **state)
{
    float x[] = {1, -2, 3, -4, 5}, x0[5];
    lgv_step_coef k = {.a = 1,
                       .c = 1,
                       .clip = INFINITY,
                       .threshold = 1,
                       .threshold_ratio = 0.83f,
                       .threshold_max = 100};
    assert_int_equal(lgv_sampler_apply(&k, 5, x, x, NULL, NULL, x0, NULL, NULL), LGV_OK);
    near(x0[0], 1 / 4.32, 1e-6);
    near(x0[3], -4 / 4.32, 1e-6);
    near(x0[4], 1, 1e-6);
    k.threshold_max = 4;
    assert_int_equal(lgv_sampler_apply(&k, 5, x, x, NULL, NULL, x0, NULL, NULL), LGV_OK);
    near(x0[2], 0.75, 1e-6);
    near(x0[3], -1, 1e-6);
}

/* To noise and back with DDIM under a model that does not depend on x: the round trip is exact. */
static void inversion(void **state)
{
    lgv_sampler_options to = {.sampler = "ddim_inverse", .num_inference_steps = 20},
                        from = {.num_inference_steps = 20};
    const char *json = "{\"clip_sample\": false}";
    lgv_sampler *up = sampler_of(json, &to), *down = sampler_of(json, &from);
    float x[] = {.5f, -.8f, .1f}, eps[] = {1.2f, -.4f, .3f};
    const float start[] = {.5f, -.8f, .1f};
    for (int i = 0; i < 20; i++)
        lgv_sampler_apply(lgv_sampler_coef(up, i), 3, x, eps, NULL, NULL, x, NULL, NULL);
    assert_true(fabsf(x[0] - start[0]) > .3f);
    for (int i = 0; i < 20; i++)
        lgv_sampler_apply(lgv_sampler_coef(down, i), 3, x, eps, NULL, NULL, x, NULL, NULL);
    for (int i = 0; i < 3; i++) near(x[i], start[i], 1e-4);
    lgv_sampler_free(up);
    lgv_sampler_free(down);
}

static void slerp(void **state)
{
    float a[] = {1, 0}, b[] = {0, 2}, c[] = {3, 0}, d[] = {-1, 1e-3f}, out[2];
    lgv_slerp(2, a, b, 0, out);
    assert_true(out[0] == 1 && fabsf(out[1]) < 1e-7f);
    lgv_slerp(2, a, b, 0.5, out);
    near(out[0], sqrt(.5), 1e-6);
    near(out[1], 2 * sqrt(.5), 1e-6);
    lgv_slerp(2, a, c, 0.25, out); /* parallel: straight */
    near(out[0], 1.5, 1e-6);
    lgv_slerp(2, a, d, 0.5, out); /* nearly opposite: angle pi - 1e-3 */
    double angle = 3.14159265358979 - atan2(1e-3, 1), w = sin(angle / 2) / sin(angle);
    near(out[1], w * 1e-3, 1e-5);
    near(out[0], 0, 1e-3);
}

/* The device operation equals the host's, each row with coefficients of its own: clip, none,
   thresholding. */
enum { ROWS = 4, ROW = 5 * 7 * 3 };

static void run_on(const char *spec, const lgv_step_coef *k, const float *x, const float *out,
                   const float *z, float *next, float *x0)
{
    lgv_error err = {0};
    lgv_device *device = NULL;
    lgv_store *store = NULL;
    lgv_plan *plan = NULL;
    lgv_graph *g = lgv_graph_new();
    const int64_t dim[] = {ROWS, 5, 7, 3};
    lgv_id ix = lgv_input(g, "x", LGV_F32, 4, dim), io = lgv_input(g, "out", LGV_F32, 4, dim);
    lgv_id step = lgv_sampler_step(g, ix, io, lgv_input(g, "z", LGV_F32, 4, dim), LGV_NONE);
    lgv_graph_output(g, step, "next");
    lgv_graph_output(g, lgv_output_of(g, step, 1), "x0");
    lgv_program program = {"step", g};
    if (lgv_device_new(spec, 2, &device, &err) || lgv_store_new(device, &store, &err) ||
        lgv_plan_new(store, 1, &program, NULL, &plan, &err))
        fail_msg("%s", err.text);
    for (int r = 0; r < ROWS; r++) lgv_step_coef_row(&k[r], &lgv_plan_step(plan)->row[r]);
    const int64_t n = ROWS * ROW;
    if (lgv_plan_write(plan, "x", x, n, &err) || lgv_plan_write(plan, "out", out, n, &err) ||
        lgv_plan_write(plan, "z", z, n, &err) || lgv_plan_run(plan, NULL, &err) ||
        lgv_plan_read(plan, "next", next, n, &err) || lgv_plan_read(plan, "x0", x0, n, &err))
        fail_msg("%s", err.text);
    lgv_plan_free(plan);
    lgv_store_free(store);
    lgv_graph_free(g);
    lgv_device_free(device);
}

static void device_step(void **state)
{
    static const char *const levels[] = {"scalar", "avx2", "avx512"};
    static const lgv_step_coef k[ROWS] = {
        {.a = 3.1f, .b = -2.9f, .clip = 1, .c = .3f, .d = .6f, .e = .2f, .s = .4f},
        {.a = 1, .b = -.5f, .clip = INFINITY, .c = .9f, .d = 0, .e = .1f, .s = 0},
        {.a = 2,
         .b = -1,
         .clip = INFINITY,
         .c = .5f,
         .d = .5f,
         .e = 0,
         .s = .1f,
         .threshold = 1,
         .threshold_ratio = .995f,
         .threshold_max = 3},
        {.a = 2, .b = -1, .c = 1, .threshold = 1, .threshold_ratio = .5f, .threshold_max = .8f},
    };
    static float x[ROWS * ROW], out[ROWS * ROW], z[ROWS * ROW], want[ROWS * ROW], want0[ROWS * ROW],
        next[ROWS * ROW], x0[ROWS * ROW];
    lgv_torch_rng rng;
    lgv_torch_seed(&rng, 3);
    lgv_torch_randn(&rng, ROWS * ROW, x);
    lgv_torch_randn(&rng, ROWS * ROW, out);
    lgv_torch_randn(&rng, ROWS * ROW, z);
    for (int r = 0; r < ROWS; r++)
        lgv_sampler_apply(&k[r], ROW, x + r * ROW, out + r * ROW, z + r * ROW, NULL, want + r * ROW,
                          want0 + r * ROW, NULL);
    for (size_t l = 0; l < sizeof levels / sizeof levels[0]; l++) {
        if (!lgv_cpu_has(levels[l])) continue;
        char spec[32];
        snprintf(spec, sizeof spec, "cpu:%s", levels[l]);
        run_on(spec, k, x, out, z, next, x0);
        for (int i = 0; i < ROWS * ROW; i++) {
            near(next[i], want[i], 2e-6 * (1 + fabs(want[i])));
            near(x0[i], want0[i], 2e-6 * (1 + fabs(want0[i])));
        }
    }
}

/* And so with a predicted variance, a history that is read, and a value that goes to it: planes in files and
   on the host, channels last on the device. */
static void device_step_with_history(void **state)
{
    enum { N = 2, C = 3, HW = 5 * 7, IMG = C * HW, SLOTS = 3 };
    static const int64_t dim[] = {N, 5, 7, C}, wide[] = {N, 5, 7, 2 * C},
                         past[] = {N, 5, 7, SLOTS * C};
    static const lgv_step_coef k[N] = {{.a = 1,
                                        .b = -.5f,
                                        .clip = 1,
                                        .c = .5f,
                                        .d = .1f,
                                        .e = .2f,
                                        .s = 1,
                                        .h = {.3f, 0, -.7f},
                                        .keep = 2,
                                        .keep_x0 = .4f,
                                        .keep_x = -.3f,
                                        .keep_out = .2f,
                                        .variance = LGV_PREDICTED_RANGE,
                                        .v0 = -1,
                                        .v1 = .5f},
                                       {.a = 1,
                                        .b = -.5f,
                                        .clip = INFINITY,
                                        .c = .5f,
                                        .s = .5f,
                                        .h = {0, 2, 0},
                                        .keep = 1,
                                        .keep_out = 1,
                                        .keep_sample = 3,
                                        .variance = LGV_PREDICTED_ITSELF}};
    static float x[N * IMG], out[N * 2 * IMG], z[N * IMG], history[N * SLOTS * IMG],
        host[N * SLOTS * IMG], want[N * IMG], next[N * IMG], kept[N * IMG];
    lgv_torch_rng rng;
    lgv_error err = {0};
    lgv_torch_seed(&rng, 5);
    lgv_torch_randn(&rng, N * IMG, x);
    lgv_torch_randn(&rng, N * 2 * IMG, out);
    lgv_torch_randn(&rng, N * IMG, z);
    lgv_torch_randn(&rng, N * SLOTS * IMG, history);
    for (int i = 0; i < IMG; i++) out[3 * IMG + i] = fabsf(out[3 * IMG + i]); /* a variance */
    memcpy(host, history, sizeof host);
    for (int n = 0; n < N; n++)
        assert_int_equal(lgv_sampler_apply(&k[n], IMG, x + n * IMG, out + n * 2 * IMG, z + n * IMG,
                                           host + n * SLOTS * IMG, want + n * IMG, NULL, NULL),
                         LGV_OK);
    lgv_graph *g = lgv_graph_new();
    lgv_id step = lgv_sampler_step(
        g, lgv_input(g, "x", LGV_F32, 4, dim), lgv_input(g, "out", LGV_F32, 4, wide),
        lgv_input(g, "z", LGV_F32, 4, dim), lgv_input(g, "history", LGV_F32, 4, past));
    lgv_graph_output(g, step, "next");
    lgv_graph_output(g, lgv_output_of(g, step, 2), "kept");
    lgv_program program = {"step", g};
    lgv_device *device = NULL;
    lgv_store *store = NULL;
    lgv_plan *plan = NULL;
    if (lgv_device_new("cpu", 2, &device, &err) || lgv_store_new(device, &store, &err) ||
        lgv_plan_new(store, 1, &program, NULL, &plan, &err))
        fail_msg("%s", err.text);
    for (int n = 0; n < N; n++) lgv_step_coef_row(&k[n], &lgv_plan_step(plan)->row[n]);
    if (lgv_plan_write_nchw(plan, "x", x, N * IMG, &err) ||
        lgv_plan_write_nchw(plan, "out", out, N * 2 * IMG, &err) ||
        lgv_plan_write_nchw(plan, "z", z, N * IMG, &err) ||
        lgv_plan_write_nchw(plan, "history", history, N * SLOTS * IMG, &err) ||
        lgv_plan_run(plan, NULL, &err) || lgv_plan_read_nchw(plan, "next", next, N * IMG, &err) ||
        lgv_plan_read_nchw(plan, "kept", kept, N * IMG, &err))
        fail_msg("%s", err.text);
    for (int i = 0; i < N * IMG; i++) {
        const int n = i / IMG, slot = k[n].keep - 1;
        near(next[i], want[i], 4e-6 * (1 + fabs(want[i])));
        near(kept[i], host[(n * SLOTS + slot) * IMG + i % IMG], 4e-6);
    }
    assert_memory_equal(host + (SLOTS + 2) * IMG, x + IMG, sizeof(float) * IMG); /* keep_sample */
    lgv_plan_free(plan);
    lgv_store_free(store);
    lgv_graph_free(g);
    lgv_device_free(device);
}

/* Whatever allocation fails, making a sampler reports it and leaves nothing behind (sanitizers
   watch). */
static void out_of_memory(void **state)
{
    static const char json[] = "{\"trained_betas\": [0.1, 0.2, 0.3], \"num_train_timesteps\": 3}";
    for (uint64_t nth = 1;; nth++) {
        lgv_error err = {0};
        lgv_scheduler_config cfg = {0}, copy = {0};
        lgv_sampler *s = NULL;
        lgv_alloc_fail_after(nth);
        lgv_status status = lgv_scheduler_config_parse(json, strlen(json), "test", &cfg, &err);
        if (!status) status = lgv_scheduler_config_copy(&cfg, &copy, &err);
        if (!status) status = lgv_sampler_new(&cfg, NULL, &s, &err);
        lgv_alloc_fail_after(0);
        lgv_sampler_free(s);
        lgv_scheduler_config_clear(&copy);
        lgv_scheduler_config_clear(&cfg);
        if (!status) {
            assert_true(nth > 5);
            return;
        }
        assert_int_equal(status, LGV_ERR_MEMORY);
        assert_true(err.text[0]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(published_sums_of_solvers),
        cmocka_unit_test(orders_of_convergence),
        cmocka_unit_test(brownian_path),
        cmocka_unit_test(device_step_with_history),
        cmocka_unit_test(defaults),
        cmocka_unit_test(flow_to_solver),
        cmocka_unit_test(table),
        cmocka_unit_test(known_timesteps),
        cmocka_unit_test(all_timesteps),
        cmocka_unit_test(known_steps),
        cmocka_unit_test(trajectories),
        cmocka_unit_test(published_sums),
        cmocka_unit_test(defects),
        cmocka_unit_test(refusals),
        cmocka_unit_test(thresholding),
        cmocka_unit_test(inversion),
        cmocka_unit_test(slerp),
        cmocka_unit_test(device_step),
        cmocka_unit_test(out_of_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
