/* test_samplers_golden.c - every sampler's trajectory against diffusers' over its options, on a small picture with a linear
   model (tools/golden/samplers.py). Every value lies within 1e-5 of the largest of its picture, or, where float32 cannot hold
   that, within sixteen times what it loses (shaken_step). A few cases have a tolerance of their own (samplers.py, ill). */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/core.h"
#include "golden.h"
#include "io/json.h"
#include "langevin/sampler.h"

enum { SIZE = 6 };

static const float *floats_of(const lgv_safetensors *f, const char *name)
{
    const lgv_tensor_info *t = lgv_safetensors_find(f, name);
    assert_non_null(t);
    return (const float *)t->data;
}

static void model(const float *x, const float *q, const lgv_step_coef *k, float *out)
{
    const double t = k->t;
    const float r = (float)(t >= 0 ? t / (t + 1) : 0.3 + 0.1 * t);
    for (int i = 0; i < SIZE; i++) {
        out[i] = 0.9f * (k->in * x[i]) * r + 0.2f * q[i];
        out[SIZE + i] = 0.5f + 0.4f * q[i];
    }
}

static double number(const json_t *options, const char *key)
{
    return json_number_value(json_object_get(options, key));
}

static lgv_sampler *sampler_of(const json_t *c, lgv_error *err)
{
    const json_t *list = json_object_get(c, "timesteps"), *o = json_object_get(c, "options");
    json_t *config = json_deep_copy(json_object_get(c, "config"));
    json_object_set(config, "_class_name", json_object_get(c, "class"));
    char *text = json_dumps(config, JSON_COMPACT);
    int64_t own[16];
    for (size_t i = 0; i < json_array_size(list); i++)
        own[i] = json_integer_value(json_array_get(list, i));
    lgv_sampler_options options = {
        .sampler = json_string_value(json_object_get(c, "class")),
        .num_inference_steps = json_integer_value(json_object_get(c, "n")),
        .timesteps = list ? own : NULL,
        .timestep_count = (int64_t)json_array_size(list),
        .skip_steps = (int64_t)number(o, "skip"),
        .eta = number(o, "eta"),
        .eta_stated = json_object_get(o, "eta") != NULL,
        .s_churn = number(o, "s_churn"),
        .s_tmin = number(o, "s_tmin"),
        .s_tmax = number(o, "s_tmax"),
        .s_noise = number(o, "s_noise"),
        .mu = number(o, "mu"),
    };
    lgv_scheduler_config cfg;
    lgv_sampler *s = NULL;
    if (!lgv_scheduler_config_parse(text, strlen(text), "case", &cfg, err)) {
        (void)lgv_sampler_new(&cfg, &options, &s, err);
        lgv_scheduler_config_clear(&cfg);
    }
    free(text);
    json_decref(config);
    return s;
}

/* The same steps in double, where every x is off by a unit of float32's last place of the largest x of the call, up or
   down as the pattern says: how far that moves the trajectory is what float32 itself loses in this case. A picture may
   come out of noise of 20000, differences cancel, and a second call divides by a small noise level. */
enum { RUNS = 4 };
typedef struct shaken {
    double x[SIZE], history[LGV_HISTORY][SIZE];
    unsigned pattern; /* 0: not at all */
} shaken;

static void shaken_step(shaken *e, const lgv_step_coef *k, const float *q, const float *z)
{
    const double t = k->t, r = t >= 0 ? t / (t + 1) : 0.3 + 0.1 * t;
    double largest = 0;
    for (int i = 0; i < SIZE; i++) largest = fmax(largest, fabs(e->x[i]));
    for (int i = 0; i < SIZE; i++) {
        const double x = e->x[i], out = 0.9 * (double)k->in * x * r + 0.2 * (double)q[i];
        const double p = fmax(-k->clip, fmin(k->clip, k->a * x + k->b * out));
        double next = k->c * p + k->d * x + k->e * out + (k->wants_noise ? k->s * z[i] : 0);
        for (int s = 0; s < LGV_HISTORY; s++) next += k->h[s] * e->history[s][i];
        if (k->keep)
            e->history[k->keep - 1][i] = k->keep_x0 * p + k->keep_x * x + k->keep_out * out;
        if (k->keep_sample) e->history[k->keep_sample - 1][i] = x;
        e->pattern = e->pattern * 1103515245 + (e->pattern ? 12345 : 0);
        if (e->pattern)
            next += (e->pattern >> 16 & 1 ? 0x1p-23 : -0x1p-23) * fmax(largest, fabs(next));
        e->x[i] = next;
    }
}

static double spread(const shaken *run)
{
    double most = 0;
    for (int r = 1; r < RUNS; r++)
        for (int i = 0; i < SIZE; i++) most = fmax(most, fabs(run[r].x[i] - run[0].x[i]));
    return most;
}

/* The largest difference of a case, in its picture's largest value, beyond SLACK times what float32 loses; a
   negative number: what is wrong stands in why. */
static double run_case(const json_t *c, const lgv_safetensors *f, char *why, size_t room)
{
    enum { SLACK = 16 };
    lgv_error err = {0};
    lgv_sampler *s = sampler_of(c, &err);
    if (!s) return snprintf(why, room, "%.1000s", err.text), -1;
    const int64_t calls = json_integer_value(json_object_get(c, "calls")),
                  at = json_integer_value(json_object_get(c, "at"));
    const float *want = floats_of(f, "trajectory") + at * SIZE, *time = floats_of(f, "time") + at;
    const float *q = floats_of(f, "q"), *z = floats_of(f, "z");
    float x[SIZE], out[2 * SIZE], history[LGV_HISTORY * SIZE] = {0};
    shaken run[RUNS] = {{.pattern = 0}, {.pattern = 1}, {.pattern = 2}, {.pattern = 3}};
    double worst = 0, lost = 0;
    if (lgv_sampler_steps(s) != calls)
        worst = -1, snprintf(why, room, "%d calls", (int)lgv_sampler_steps(s));
    const double sigma = lgv_sampler_init_sigma(s);
    for (int i = 0; i < SIZE; i++) x[i] = floats_of(f, "x")[i] * (float)sigma;
    for (int r = 0; r < RUNS * SIZE; r++) run[r / SIZE].x[r % SIZE] = x[r % SIZE];
    for (int64_t i = 0; i < calls && worst >= 0; i++, want += SIZE, z += SIZE) {
        const lgv_step_coef *k = lgv_sampler_coef(s, i);
        if (fabs((double)k->t - time[i]) > 1e-5 * fabs((double)time[i]) + 1e-3) {
            snprintf(why, room, "call %d at timestep %.9g, wanted %.9g", (int)i, (double)k->t,
                     (double)time[i]);
            worst = -1;
            break;
        }
        double largest = 0, error = 0;
        model(x, q, k, out);
        assert_int_equal(
            lgv_sampler_apply(k, SIZE, x, out, k->wants_noise ? z : NULL, history, x, NULL, NULL),
            LGV_OK);
        for (int n = 0; n < SIZE; n++) {
            largest = fmax(largest, fabs((double)want[n]));
            error = fmax(error, fabs((double)x[n] - want[n]));
            if (isnan(x[n])) error = INFINITY;
        }
        for (int r = 0; r < RUNS; r++) shaken_step(&run[r], k, q, z);
        if (!k->threshold) lost = fmax(lost, spread(run));
        worst = fmax(worst, (error - (error > 1e-5 * largest ? SLACK * lost : 0)) / largest);
    }
    lgv_sampler_free(s);
    return worst;
}

static void trajectories(void **state)
{
    enum { CLASSES = 32 };
    const char *name[CLASSES] = {NULL};
    double worst[CLASSES] = {0};
    int count[CLASSES] = {0}, failed = 0;
    lgv_safetensors *f = golden_open("samplers");
    lgv_error err = {0};
    lgv_json j;
    const char *text = golden_metadata(f, "cases");
    if (lgv_json_parse(text, strlen(text), "cases", &j, &err)) fail_msg("%s", err.text);
    const json_t *cases = json_object_get(j.root, "cases");
    for (size_t i = 0; i < json_array_size(cases); i++) {
        const json_t *c = json_array_get(cases, i);
        const char *class_name = json_string_value(json_object_get(c, "class"));
        char why[1100] = "";
        int k = 0;
        while (k < CLASSES - 1 && name[k] && strcmp(name[k], class_name)) k++;
        name[k] = class_name;
        count[k]++;
        const double error = run_case(c, f, why, sizeof why);
        const double stated = number(c, "tolerance"), tolerance = stated > 0 ? stated : 1e-5;
        if (!(error >= 0 && error <= tolerance)) {
            char *shown = json_dumps(c, JSON_COMPACT);
            if (failed++ < 40) print_message("%s: %g %s\n", shown, error, why);
            free(shown);
        }
        if (!(stated > 0)) worst[k] = fmax(worst[k], error);
    }
    for (int k = 0; k < CLASSES && name[k]; k++)
        print_message("%-34s %4d cases, largest difference %.2g\n", name[k], count[k], worst[k]);
    if (failed) fail_msg("%d of %d cases differ", failed, (int)json_array_size(cases));
    assert_true(json_array_size(cases) > 1500);
    lgv_json_free(&j);
    lgv_safetensors_close(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(trajectories)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
