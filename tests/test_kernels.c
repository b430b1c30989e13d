/* test_kernels.c - what the generated operator tests cannot know: values against their definitions
   (embeddings, FIR resampling, quantiles), robustness (large means, indices outside, non-finite
   gradients), and that a row's bits depend on nothing but the row. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "langevin/plan.h"
#include "langevin/rng.h"
#include "ok.h"
#include "op/op.h"

static lgv_error err;

typedef struct rig {
    lgv_graph *g;
    lgv_device *device;
    lgv_store *store;
    lgv_plan *plan;
} rig;

/* Plans the graph on a device; outputs were named by the caller. */
static void rig_plan(rig *t, const char *device, int threads)
{
    const lgv_program program = {"only", t->g};
    OK(lgv_graph_status(t->g, &err));
    OK(lgv_device_new(device, threads, &t->device, &err));
    OK(lgv_store_new(t->device, &t->store, &err));
    OK(lgv_plan_new(t->store, 1, &program, NULL, &t->plan, &err));
}

static void rig_drop(rig *t)
{
    lgv_plan_free(t->plan);
    lgv_store_free(t->store);
    lgv_device_free(t->device);
    lgv_graph_free(t->g);
}

/* Numbers in [-1,1) that depend on a seed and their index. */
static void fill(float *x, int64_t n, uint64_t seed)
{
    const lgv_rng_key key = {.seed = seed, .stream = 1};
    lgv_rng_uniform(&key, 0, n, x);
    for (int64_t i = 0; i < n; i++) x[i] = 2 * x[i] - 1;
}

static const char *const levels[] = {"cpu:scalar", "cpu:avx2", "cpu:avx512", "cpu:f64"};
enum { LEVELS = 4 };
static bool has_level(int i)
{
    return i == 0 || i == 3 || lgv_cpu_has(levels[i] + 4);
}

/* --- Embeddings ------------------------------------------------------------------------------------ */
/* diffusers 0.40 get_timestep_embedding(37, 8) with flip and shift 0, and without flip and shift 1. */
static void timestep_embedding_is_diffusers(void **state)
{
    static const float flipped[8] = {.7654141f,  -.8481001f, .9323273f, .9993156f,
                                     -.6435381f, -.529836f,  .3616154f, .03699156f};
    static const float plain[8] = {-.6435381f, .9892747f, .0796297f, .003699991f,
                                   .7654141f,  -.146067f, .9968245f, .9999931f};
    for (int level = 0; level < LEVELS; level++) {
        if (!has_level(level)) continue;
        rig t = {.g = lgv_graph_new()};
        const int64_t one = 1;
        lgv_id x = lgv_input(t.g, "t", LGV_F32, 1, &one);
        lgv_graph_output(t.g, lgv_timestep_embedding(t.g, x, 8, 1, 0), "flipped");
        lgv_graph_output(t.g, lgv_timestep_embedding(t.g, x, 8, 0, 1), "plain");
        rig_plan(&t, levels[level], 1);
        float y[8];
        OK(lgv_plan_write(t.plan, "t", (const float[]){37}, 1, &err));
        OK(lgv_plan_run(t.plan, NULL, &err));
        OK(lgv_plan_read(t.plan, "flipped", y, 8, &err));
        for (int i = 0; i < 8; i++)
            assert_true(fabsf(y[i] - flipped[i]) <= 2e-6f); /* 37 radians in float: 4e-6 apart */
        OK(lgv_plan_read(t.plan, "plain", y, 8, &err));
        for (int i = 0; i < 8; i++) assert_true(fabsf(y[i] - plain[i]) <= 2e-6f);
        rig_drop(&t);
    }
}

static void index_outside_is_nan(void **state)
{
    rig t = {.g = lgv_graph_new()};
    const int64_t table[2] = {3, 5}, n = 4;
    lgv_id y = lgv_embedding(t.g, lgv_input(t.g, "table", LGV_F32, 2, table),
                             lgv_input(t.g, "index", LGV_I32, 1, &n));
    lgv_graph_output(t.g, y, "y");
    rig_plan(&t, "cpu", 1);
    float rows[15], out[20];
    fill(rows, 15, 1);
    OK(lgv_plan_write(t.plan, "table", rows, 15, &err));
    OK(lgv_plan_write_i32(t.plan, "index", (const int32_t[]){2, -1, 3, INT32_MIN}, 4, &err));
    OK(lgv_plan_run(t.plan, NULL, &err));
    OK(lgv_plan_read(t.plan, "y", out, 20, &err));
    assert_memory_equal(out, rows + 10, 5 * sizeof(float));
    for (int i = 5; i < 20; i++) assert_true(isnan(out[i]));
    rig_drop(&t);
}

/* --- FIR resampling against its definition (upfirdn2d with up, down and pad) ------------------------- */
static double fir_direct(const float *x, int64_t h, int64_t w, int up, int down, int pad,
                         double gain, int64_t oy, int64_t ox)
{
    static const double k[4] = {1, 3, 3, 1};
    double sum = 0;
    for (int a = 0; a < 4; a++) {
        for (int b = 0; b < 4; b++) {
            const int64_t y = oy * down + a - pad, z = ox * down + b - pad;
            if (y < 0 || z < 0 || y % up || z % up || y / up >= h || z / up >= w) continue;
            sum += k[3 - a] * k[3 - b] / 64 * gain * (double)x[y / up * w + z / up];
        }
    }
    return sum;
}

static void fir_is_upfirdn(void **state)
{
    const int64_t h = 6, w = 5, dim[4] = {1, h, w, 1};
    float x[30], up[120], down[6];
    fill(x, 30, 2);
    for (int level = 0; level < LEVELS; level++) {
        if (!has_level(level)) continue;
        rig t = {.g = lgv_graph_new()};
        lgv_id in = lgv_input(t.g, "x", LGV_F32, 4, dim);
        lgv_graph_output(t.g, lgv_resample(t.g, in, LGV_UP_FIR), "up");
        lgv_graph_output(t.g, lgv_resample(t.g, in, LGV_DOWN_FIR), "down");
        rig_plan(&t, levels[level], 1);
        OK(lgv_plan_write(t.plan, "x", x, 30, &err));
        OK(lgv_plan_run(t.plan, NULL, &err));
        OK(lgv_plan_read(t.plan, "up", up, 120, &err));
        OK(lgv_plan_read(t.plan, "down", down, 6, &err));
        for (int64_t i = 0; i < 120; i++) {
            assert_true(fabs((double)up[i] - fir_direct(x, h, w, 2, 1, 2, 4, i / 10, i % 10)) <=
                        1e-6);
        }
        for (int64_t i = 0; i < 6; i++) {
            assert_true(fabs((double)down[i] - fir_direct(x, h, w, 1, 2, 1, 1, i / 2, i % 2)) <=
                        1e-6);
        }
        rig_drop(&t);
    }
}

/* --- Normalisation ----------------------------------------------------------------------------------- */
/* A mean 1000 times the deviation: sums of squares in float would lose every digit of the variance. */
static void large_mean_keeps_variance(void **state)
{
    enum { HW = 20, C = 12, COUNT = HW * HW * C };
    const int64_t dim[4] = {1, HW, HW, C}, c = C;
    float *x = malloc(COUNT * sizeof *x), *y = malloc(COUNT * sizeof *y), gamma[C], beta[C] = {0};
    fill(x, COUNT, 3);
    for (int i = 0; i < COUNT; i++) x[i] += 1000;
    for (int i = 0; i < C; i++) gamma[i] = 1;
    for (int level = 0; level < LEVELS; level++) {
        if (!has_level(level)) continue;
        rig t = {.g = lgv_graph_new()};
        lgv_id in = lgv_input(t.g, "x", LGV_F32, 4, dim);
        lgv_id out = lgv_group_norm(t.g, in, lgv_input(t.g, "gamma", LGV_F32, 1, &c),
                                    lgv_input(t.g, "beta", LGV_F32, 1, &c), 3, 0);
        lgv_graph_output(t.g, out, "y");
        rig_plan(&t, levels[level], 2);
        OK(lgv_plan_write(t.plan, "x", x, COUNT, &err));
        OK(lgv_plan_write(t.plan, "gamma", gamma, C, &err));
        OK(lgv_plan_write(t.plan, "beta", beta, C, &err));
        OK(lgv_plan_run(t.plan, NULL, &err));
        OK(lgv_plan_read(t.plan, "y", y, COUNT, &err));
        for (int g = 0; g < 3; g++) {
            double mean = 0, square = 0;
            for (int i = 0; i < COUNT; i++) mean += i % C / 4 == g ? (double)x[i] : 0;
            mean /= COUNT / 3;
            for (int i = 0; i < COUNT; i++)
                square += i % C / 4 == g ? ((double)x[i] - mean) * ((double)x[i] - mean) : 0;
            const double rstd = 1 / sqrt(square / (COUNT / 3));
            for (int i = 0; i < COUNT; i++) {
                if (i % C / 4 != g)
                    continue; /* the mean itself is a float: 1000 * 2^-24 = 6e-5, over 0.58 */
                assert_true(fabs((double)y[i] - ((double)x[i] - mean) * rstd) <= 2e-4);
            }
        }
        rig_drop(&t);
    }
    free(x);
    free(y);
}

/* A row alone and inside a batch of five, on 1 and 3 threads: the same bits through norm, noise and dropout. */
static void run_rows(int64_t n, int threads, const char *level, const float *x, uint64_t first,
                     float *y)
{
    enum { HW = 13, C = 40, ROW = HW * HW * C };
    const int64_t dim[4] = {n, HW, HW, C}, c = C;
    rig t = {.g = lgv_graph_new()};
    float gamma[C], beta[C];
    fill(gamma, C, 4);
    fill(beta, C, 5);
    lgv_id v = lgv_input(t.g, "x", LGV_F32, 4, dim);
    lgv_id w = lgv_input(t.g, "gamma", LGV_F32, 1, &c), b = lgv_input(t.g, "beta", LGV_F32, 1, &c);
    v = lgv_act(t.g, lgv_group_norm(t.g, v, w, b, 4, 1e-5), LGV_ACT_SILU);
    v = lgv_add(t.g, lgv_dropout(t.g, v, 0.3, 7), lgv_random_normal(t.g, 4, dim, 8));
    v = lgv_add_row(t.g, v, lgv_sum_hw(t.g, v));
    lgv_graph_output(t.g, v, "y");
    rig_plan(&t, level, threads);
    for (int64_t i = 0; i < n; i++) {
        lgv_plan_step(t.plan)->row[i] =
            (lgv_row){.seed = 11, .sample = first + (uint64_t)i, .step = 3};
    }
    OK(lgv_plan_write(t.plan, "x", x, n * ROW, &err));
    OK(lgv_plan_write(t.plan, "gamma", gamma, C, &err));
    OK(lgv_plan_write(t.plan, "beta", beta, C, &err));
    OK(lgv_plan_run(t.plan, NULL, &err));
    OK(lgv_plan_read(t.plan, "y", y, n * ROW, &err));
    rig_drop(&t);
}

static void row_does_not_depend_on_batch(void **state)
{
    enum { ROW = 13 * 13 * 40 };
    float *x = malloc(5 * ROW * sizeof *x), *all = malloc(5 * ROW * sizeof *all),
          *other = malloc(5 * ROW * sizeof *other);
    fill(x, 5 * ROW, 6);
    for (int level = 0; level < 3; level++) {
        if (!has_level(level)) continue;
        run_rows(5, 3, levels[level], x, 0, all);
        run_rows(5, 1, levels[level], x, 0, other);
        assert_memory_equal(all, other, 5 * ROW * sizeof(float));
        run_rows(1, 1, levels[level], x + 2 * ROW, 2, other);
        assert_memory_equal(all + 2 * ROW, other, ROW * sizeof(float));
    }
    free(x);
    free(all);
    free(other);
}

/* --- Sampler ----------------------------------------------------------------------------------------- */
static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* torch.quantile with linear interpolation, by sorting. */
static double sorted_quantile(const double *v, int n, double q)
{
    double s[300];
    memcpy(s, v, (size_t)n * sizeof *s);
    qsort(s, (size_t)n, sizeof *s, by_value);
    const double position = q * (n - 1);
    const int low = (int)position, high = low + 1 < n ? low + 1 : low;
    return s[low] + (position - low) * (s[high] - s[low]);
}

/* guided: with a gradient, alone in rows 0 and 3 and with the variance in row 1. */
static void check_sampler_step(bool guided)
{
    enum { N = 4, ROW = 105 };
    const int64_t dim[4] = {N, 5, 7, 3};
    float x[N * ROW], out[N * ROW], z[N * ROW], next[N * ROW], x0[N * ROW], gradient[N * ROW];
    fill(x, N * ROW, 7);
    fill(gradient, N * ROW, 10);
    fill(out, N * ROW, 8);
    fill(z, N * ROW, 9);
    for (int i = 0; i < ROW; i++) /* row 2 takes neither noise nor gradient */
        z[2 * ROW + i] = gradient[2 * ROW + i] = (float)NAN;
    for (int level = 0; level < LEVELS; level++) {
        if (!has_level(level)) continue;
        rig t = {.g = lgv_graph_new()};
        lgv_id ix = lgv_input(t.g, "x", LGV_F32, 4, dim), io = lgv_input(t.g, "out", LGV_F32, 4, dim),
               iz = lgv_input(t.g, "z", LGV_F32, 4, dim), y;
        y = guided ? lgv_sampler_step_guided(t.g, ix, io, iz, LGV_NONE,
                                             lgv_input(t.g, "gradient", LGV_F32, 4, dim))
                   : lgv_sampler_step(t.g, ix, io, iz, LGV_NONE);
        lgv_graph_output(t.g, y, "next");
        lgv_graph_output(t.g, lgv_output_of(t.g, y, 1), "x0");
        rig_plan(&t, levels[level], 2);
        lgv_step *step = lgv_plan_step(t.plan);
        for (int n = 0; n < N; n++) {
            float *k = step->row[n].coef;
            memset(k, 0, sizeof step->row[n].coef);
            k[LGV_SAMPLE_A] = 2.5f;
            k[LGV_SAMPLE_B] = -0.5f;
            k[LGV_SAMPLE_CLIP] = n == 0 ? INFINITY : 1;
            k[LGV_SAMPLE_C] = 0.75f;
            k[LGV_SAMPLE_D] = 0.25f;
            k[LGV_SAMPLE_E] = 0.125f;
            k[LGV_SAMPLE_S] = n == 2 ? 0 : 0.5f;
            k[LGV_SAMPLE_THRESHOLD] = n == 3;
            k[LGV_SAMPLE_THRESHOLD_RATIO] = 0.875f;
            k[LGV_SAMPLE_THRESHOLD_MAX] = 10;
            k[LGV_SAMPLE_GUIDE] = n == 0 || n == 3 ? 0.5f : 0;
            k[LGV_SAMPLE_GUIDE_VARIANCE] = n == 1 ? 2 : 0;
        }
        if (guided) OK(lgv_plan_write(t.plan, "gradient", gradient, N * ROW, &err));
        OK(lgv_plan_write(t.plan, "x", x, N * ROW, &err));
        OK(lgv_plan_write(t.plan, "out", out, N * ROW, &err));
        OK(lgv_plan_write(t.plan, "z", z, N * ROW, &err));
        OK(lgv_plan_run(t.plan, NULL, &err));
        OK(lgv_plan_read(t.plan, "next", next, N * ROW, &err));
        OK(lgv_plan_read(t.plan, "x0", x0, N * ROW, &err));
        for (int n = 0; n < N; n++) {
            double magnitude[ROW], limit = n == 0 ? 1e30 : 1, divisor = 1;
            for (int i = 0; i < ROW; i++)
                magnitude[i] = fabs(2.5 * (double)x[n * ROW + i] - 0.5 * (double)out[n * ROW + i]);
            if (n == 3) limit = divisor = fmax(1, sorted_quantile(magnitude, ROW, 0.875));
            if (n == 3) assert_true(limit > 1.2); /* else the case shows nothing */
            for (int i = n * ROW; i < (n + 1) * ROW; i++) {
                const double p =
                    fmax(-limit, fmin(limit, 2.5 * (double)x[i] - 0.5 * (double)out[i])) / divisor;
                const double want = 0.75 * p + 0.25 * (double)x[i] + 0.125 * (double)out[i] +
                                    (n == 2 ? 0 : 0.5 * (double)z[i]) +
                                    (guided && n != 2 ? 0.5 * (double)gradient[i] : 0);
                assert_true(fabs((double)x0[i] - p) <= 1e-6);
                assert_true(fabs((double)next[i] - want) <= 1e-6);
            }
        }
        rig_drop(&t);
    }
}

static void sampler_step_follows_its_formula(void **state)
{
    check_sampler_step(false);
    check_sampler_step(true);
}

/* --- Guidance ----------------------------------------------------------------------------------------- */
static double deviation_of(const double *v, int n)
{
    double mean = 0, sum = 0;
    for (int i = 0; i < n; i++) mean += v[i] / n;
    for (int i = 0; i < n; i++) sum += (v[i] - mean) * (v[i] - mean);
    return sqrt(sum / (n - 1)); /* unbiased, as torch.std */
}

/* Row 0 guided, row 1 without a partner, row 2 guided and rescaled; of five channels three are guided. */
static void guidance_follows_its_formula(void **state)
{
    enum { N = 3, PIXELS = 12, C = 5, GUIDED = 3, ROW = PIXELS * C };
    const int64_t dim[4] = {2 * N, 3, 4, C};
    float out[2 * N * ROW], y[N * ROW];
    fill(out, 2 * N * ROW, 21);
    for (int level = 0; level < LEVELS; level++) {
        if (!has_level(level)) continue;
        rig t = {.g = lgv_graph_new()};
        lgv_graph_output(t.g, lgv_guide(t.g, lgv_input(t.g, "out", LGV_F32, 4, dim), N, GUIDED),
                         "y");
        rig_plan(&t, levels[level], 2);
        for (int n = 0; n < N; n++)
            lgv_plan_step(t.plan)->row[n] = (lgv_row){.guidance = 2.5f,
                                                      .guidance_rescale = n == 2 ? 0.75f : 0,
                                                      .partner = n == 1 ? -1 : N + n};
        OK(lgv_plan_write(t.plan, "out", out, 2 * N * ROW, &err));
        OK(lgv_plan_run(t.plan, NULL, &err));
        OK(lgv_plan_read(t.plan, "y", y, N * ROW, &err));
        for (int n = 0; n < N; n++) {
            double c[PIXELS * GUIDED], v[PIXELS * GUIDED], factor = 1;
            for (int i = 0; i < PIXELS * GUIDED; i++) {
                const int at = i / GUIDED * C + i % GUIDED;
                const double u = (double)out[(N + n) * ROW + at];
                c[i] = (double)out[n * ROW + at];
                v[i] = n == 1 ? c[i] : u + 2.5 * (c[i] - u);
            }
            if (n == 2)
                factor =
                    0.75 * deviation_of(c, PIXELS * GUIDED) / deviation_of(v, PIXELS * GUIDED) +
                    0.25;
            for (int i = 0; i < ROW; i++) {
                const int k = i % C;
                const double want =
                    k < GUIDED ? factor * v[i / C * GUIDED + k] : (double)out[n * ROW + i];
                assert_true(fabs((double)y[n * ROW + i] - want) <= 1e-6);
            }
        }
        rig_drop(&t);
    }
}

/* --- Optimizer ---------------------------------------------------------------------------------------- */
static void check_non_finite_gradient(int accumulates)
{
    enum { COUNT = 40000 }; /* more than one block */
    static const char *const sets[] = {"weight", "grad", "exp_avg", "exp_avg_sq", "ema"};
    const int64_t dim = COUNT;
    float *before = malloc(COUNT * sizeof *before), *after = malloc(COUNT * sizeof *after);
    rig t = {.g = lgv_graph_new()};
    lgv_graph *user = lgv_graph_new();
    lgv_graph_output(user, lgv_affine(user, lgv_param(user, "w", 1, &dim), 1, 0), "y");
    lgv_graph_output(t.g, lgv_adamw(t.g, 1), "norm");
    OK(lgv_device_new("cpu", 2, &t.device, &err));
    OK(lgv_store_new(t.device, &t.store, &err));
    OK(lgv_store_declare(t.store, user, &err));
    for (int i = 0; i < 5; i++) OK(lgv_store_add_set(t.store, sets[i], &err));
    const lgv_program program = {"update", t.g};
    const lgv_plan_options options = {.accumulate_grads = accumulates};
    OK(lgv_plan_new(t.store, 1, &program, &options, &t.plan, &err));
    for (int i = 0; i < 5; i++) {
        fill(before, COUNT, (uint64_t)i);
        for (int k = 0; k < COUNT && i == 3; k++) before[k] = fabsf(before[k]);
        if (i == 1) before[COUNT - 3] = (float)INFINITY;
        OK(lgv_store_write(t.store, sets[i], 0, before, COUNT, &err));
    }
    lgv_step *step = lgv_plan_step(t.plan);
    memcpy(step->scalar, (const double[]){1e-3, 0.9, 0.999, 1e-8, 1e-2, 0.1, 0.001, 1.0, 0.9},
           9 * sizeof(double));
    float norm[2];
    OK(lgv_plan_run(t.plan, NULL, &err));
    OK(lgv_plan_read(t.plan, "norm", norm, 2, &err));
    assert_true(isinf(norm[0]) && norm[1] == 1);
    for (int i = 0; i < 5; i++) {
        fill(before, COUNT, (uint64_t)i);
        for (int k = 0; k < COUNT && i == 3; k++) before[k] = fabsf(before[k]);
        if (i == 1) before[COUNT - 3] = (float)INFINITY;
        if (i == 1 && accumulates) memset(before, 0, COUNT * sizeof *before); /* sums start anew */
        OK(lgv_store_read(t.store, sets[i], 0, after, COUNT, &err));
        assert_memory_equal(before, after, COUNT * sizeof *before);
    }
    rig_drop(&t);
    lgv_graph_free(user);
    free(before);
    free(after);
}

static void non_finite_gradient_changes_nothing(void **state)
{
    check_non_finite_gradient(0);
    check_non_finite_gradient(1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(timestep_embedding_is_diffusers),
        cmocka_unit_test(index_outside_is_nan),
        cmocka_unit_test(fir_is_upfirdn),
        cmocka_unit_test(large_mean_keeps_variance),
        cmocka_unit_test(row_does_not_depend_on_batch),
        cmocka_unit_test(sampler_step_follows_its_formula),
        cmocka_unit_test(guidance_follows_its_formula),
        cmocka_unit_test(non_finite_gradient_changes_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
