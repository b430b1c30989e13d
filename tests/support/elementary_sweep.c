/* elementary_sweep.c - errors in units of the last place against libm in double, over bit patterns. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "core/pool.h"
#include "elementary_sweep.h"
#include "langevin/plan.h"

enum { BLOCK = 1 << 14, MOST_THREADS = 256 };

extern const sweep_function sweep_functions_scalar[SWEEP_FUNCTIONS];
#ifdef LGV_HAVE_AVX2
extern const sweep_function sweep_functions_avx2[SWEEP_FUNCTIONS];
#endif
#ifdef LGV_HAVE_AVX512
extern const sweep_function sweep_functions_avx512[SWEEP_FUNCTIONS];
#endif

static const struct {
    const char *name;
    const sweep_function *function;
} levels[] = {
    {"scalar", sweep_functions_scalar},
#ifdef LGV_HAVE_AVX2
    {"avx2", sweep_functions_avx2},
#endif
#ifdef LGV_HAVE_AVX512
    {"avx512", sweep_functions_avx512},
#endif
};

/* NaN stays NaN, which fmin and fmax do not promise. */
static double clamp(double x, double lo, double hi)
{
    return x < lo ? lo : x > hi ? hi : x;
}

static double exp_of(double x)
{
    return exp(x);
}
static double exp2_of(double x)
{
    return x < -87 ? 0 : exp2(x);
}
static double exp2_rough_of(double x)
{
    return x <= -126.5 ? 0 : exp2(x);
}
static double sigmoid_of(double x)
{
    return 1 / (1 + exp(-clamp(x, -87, 87)));
}
static double silu_of(double x)
{
    return x / (1 + exp(-clamp(x, -87, 87)));
}
static double gelu_of(double x)
{
    return 0.5 * x * erfc(-x * 0.70710678118654752440);
}

/* bound: of the error in ulp of the result, and without fused multiply-adds; of_x: in ulp of x instead, for gelu, which
   is x times something that cancels. */
static const struct function {
    const char *name;
    double (*reference)(double x);
    double bound, bound_scalar;
    bool of_x;
    float below; /* only arguments below this */
} functions[SWEEP_FUNCTIONS] = {
    {"exp", exp_of, 1, 1.25, false, INFINITY},
    {"exp2_normal", exp2_of, 2.1, 2.5, false, 127},
    {"exp2_rough", exp2_rough_of, 40, 40, false, 127},
    {"tanh", tanh, 1.5, 1.5, false, INFINITY},
    {"erf", erf, 2.8, 2.8, false, INFINITY},
    {"sigmoid", sigmoid_of, 2.7, 2.7, false, INFINITY},
    {"silu", silu_of, 2.7, 2.7, false, INFINITY},
    {"gelu", gelu_of, 2, 2, true, INFINITY},
};

typedef struct worst {
    double error;
    float at;
    uint64_t broken; /* NaN without NaN, or the other way round */
} worst;

typedef struct sweep {
    const struct function *f;
    sweep_function run;
    uint64_t stride, count;
    worst worst[MOST_THREADS];
} sweep;

static float from_bits(uint32_t u)
{
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

/* The distance of floats around x (of the smallest normal ones for what is below). */
static double ulp(float x)
{
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    u = u >> 23 & 255;
    if (u < 1) u = 1;
    if (u == 255) u = 254; /* infinity */
    const uint64_t bits = (uint64_t)(u + 1023 - 127 - 23) << 52;
    double d;
    memcpy(&d, &bits, sizeof d);
    return d;
}

static void check(const struct function *f, float x, float y, worst *w)
{
    const double want = f->reference((double)x);
    const float nearest = (float)want;
    if (y == nearest) return;
    if (isnan(want) || isnan(y)) { /* gelu has one at -inf, as PyTorch's */
        w->broken += !(isnan(want) && isnan(y));
        return;
    }
    const double limit = 0x1p128; /* what the next float would be: infinity is one ulp away */
    const double a = fmax(-limit, fmin(limit, (double)y)), b = fmax(-limit, fmin(limit, want));
    const double error = fabs(a - b) / ulp(f->of_x ? x : nearest);
    if (error > w->error) {
        w->error = error;
        w->at = x;
    }
}

static void sweep_block(void *arg, int64_t block, int thread)
{
    sweep *s = arg;
    float x[BLOCK], y[BLOCK];
    uint64_t first = (uint64_t)block * BLOCK;
    int n = 0;
    for (; n < BLOCK && first + (uint64_t)n < s->count; n++)
        x[n] = from_bits((uint32_t)((first + (uint64_t)n) * s->stride));
    for (int i = n; i < BLOCK; i++) x[i] = 0;
    s->run(x, y, BLOCK);
    for (int i = 0; i < n; i++)
        if (!(x[i] >= s->f->below)) check(s->f, x[i], y[i], &s->worst[thread]);
}

static void sweep_one(lgv_pool *pool, int level, int function, uint64_t stride)
{
    static const float special[16] = {INFINITY, -INFINITY, 0, -0.0f, NAN};
    sweep s = {&functions[function],
               levels[level].function[function],
               stride,
               ((uint64_t)1 << 32) / stride,
               {{0, 0, 0}}};
    worst all = {0, 0, 0};
    float y[16];
    const bool scalar = !strcmp(levels[level].name, "scalar");
    const double bound = scalar ? s.f->bound_scalar : s.f->bound;
    lgv_pool_run(pool, (int64_t)((s.count + BLOCK - 1) / BLOCK), sweep_block, &s);
    s.run(special, y, 16);
    for (int i = 0; i < 5; i++)
        if (!(special[i] >= s.f->below)) check(s.f, special[i], y[i], &all);
    for (int i = 0; i < MOST_THREADS; i++) {
        all.broken += s.worst[i].broken;
        if (s.worst[i].error > all.error) {
            all.error = s.worst[i].error;
            all.at = s.worst[i].at;
        }
    }
    print_message("%-6s %-11s %.3f ulp at %a (%.8g)\n", levels[level].name, s.f->name, all.error,
                  (double)all.at, (double)all.at);
    if (all.broken || !(all.error <= bound))
        fail_msg("%s %s: %.3f ulp at %a, %g promised; %llu NaNs wrong", levels[level].name,
                 s.f->name, all.error, (double)all.at, bound, (unsigned long long)all.broken);
}

void sweep_floats(uint64_t stride)
{
    lgv_error err;
    lgv_pool *pool;
    const int threads = lgv_default_threads();
    if (lgv_pool_new(threads < MOST_THREADS ? threads : MOST_THREADS, &pool, &err))
        fail_msg("%s", err.text);
    for (int level = 0; level < (int)(sizeof levels / sizeof *levels); level++) {
        if (level && !lgv_cpu_has(levels[level].name)) continue;
        for (int f = 0; f < SWEEP_FUNCTIONS; f++) sweep_one(pool, level, f, stride);
    }
    lgv_pool_free(pool);
}
