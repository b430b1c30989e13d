/* test_elementary.c - the own elementary functions against libm in long double, in ulps.
   x87 long double has 11 more bits, so the comparison measures errors to about 0.001 ulp; where
   long double is double, libm's own error (below 1 ulp) is added to the bound. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/elementary.h"

static const double slack = LDBL_MANT_DIG > 60 ? 0.001 : 1;

static uint64_t random_state = 1;
static uint64_t next_random(void)
{
    uint64_t z = random_state += 0x9E3779B97F4A7C15;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9;
    z = (z ^ z >> 27) * 0x94D049BB133111EB;
    return z ^ z >> 31;
}
static double uniform(double a, double b)
{
    return a + (b - a) * ((double)(next_random() >> 11) * 0x1p-53);
}
/* Sign and exponent random as well, |x| in [2^from, 2^to). */
static double any_size(int from, int to)
{
    double m = 1 + (double)(next_random() >> 12) * 0x1p-52;
    return ldexp(next_random() & 1 ? m : -m, from + (int)(next_random() % (uint64_t)(to - from)));
}

static double ulps(double got, long double want)
{
    double rounded = (double)want;
    if (isnan(rounded) || isinf(rounded) || isnan(got) || isinf(got))
        return (isnan(rounded) && isnan(got)) || rounded == got ? 0 : 1e9;
    double size = fabs(rounded) < DBL_MIN ? DBL_MIN : fabs(rounded);
    double ulp = ldexp(1, ilogb(size) - 52);
    return (double)(fabsl((long double)got - want) / (long double)ulp);
}

typedef struct range {
    double worst, at;
} range;
static void note(range *r, double got, long double want, double x)
{
    double u = ulps(got, want);
    if (u > r->worst) *r = (range){u, x};
}
#define CHECK(name, r, bound)                                                                      \
    do {                                                                                           \
        print_message("%-7s worst %.3f ulp at %a\n", name, (r).worst, (r).at);                     \
        assert_true((r).worst <= (bound) + slack);                                                 \
    } while (0)

enum { draws = 300000 };

static void test_exp(void **state)
{
    range e = {0, 0}, m = {0, 0}, big = {0, 0};
    for (int i = 0; i < draws; i++) {
        double x = i % 3 == 0   ? uniform(-708, 709.7)
                   : i % 3 == 1 ? uniform(-2, 2)
                                : any_size(-60, 9);
        note(&e, lgv_exp(x), expl(x), x);
        note(&m, lgv_expm1(x), expm1l(x), x);
        x = uniform(-750, -700); /* subnormal results round twice */
        note(&big, lgv_exp(x), expl(x), x);
    }
    CHECK("exp", e, 1);
    CHECK("exp sub", big, 1);
    CHECK("expm1", m, 2);
    static const double edge[] = {0,
                                  -0.0,
                                  1,
                                  -1,
                                  709.782712893384,
                                  709.79,
                                  710,
                                  1e308,
                                  -745.13,
                                  -745.2,
                                  -800,
                                  5e-324,
                                  INFINITY,
                                  -INFINITY,
                                  0.34657359027997,
                                  -0.34657359027998};
    for (size_t i = 0; i < sizeof edge / sizeof *edge; i++) {
        assert_true(ulps(lgv_exp(edge[i]), (long double)exp(edge[i])) <= 1);
        assert_true(ulps(lgv_expm1(edge[i]), (long double)expm1(edge[i])) <= 2);
    }
    assert_true(isnan(lgv_exp(NAN)) && isnan(lgv_expm1(NAN)));
    assert_true(lgv_exp(0) == 1 && lgv_expm1(0) == 0);
}

static void test_log(void **state)
{
    range l = {0, 0}, p = {0, 0};
    for (int i = 0; i < draws; i++) {
        double x = i % 3 == 0   ? fabs(any_size(-1022, 1024))
                   : i % 3 == 1 ? uniform(0.5, 2)
                                : 1 + any_size(-52, -1);
        note(&l, lgv_log(x), logl(x), x);
        x = i % 3 == 0   ? fabs(any_size(-60, 1024))
            : i % 3 == 1 ? uniform(-1, 2)
                         : any_size(-70, -1);
        note(&p, lgv_log1p(x), log1pl(x), x);
    }
    CHECK("log", l, 1);
    CHECK("log1p", p, 2);
    assert_true(lgv_log(0) == -INFINITY && lgv_log(INFINITY) == INFINITY && isnan(lgv_log(-1)) &&
                isnan(lgv_log(NAN)));
    assert_true(ulps(lgv_log(5e-324), logl(5e-324)) <= 1 && lgv_log(1) == 0);
    assert_true(lgv_log1p(-1) == -INFINITY && lgv_log1p(INFINITY) == INFINITY &&
                isnan(lgv_log1p(-2)));
    assert_true(isnan(lgv_log1p(NAN)) && lgv_log1p(0) == 0 && signbit(lgv_log1p(-0.0)));
}

static void test_pow(void **state)
{
    range p = {0, 0};
    for (int i = 0; i < draws; i++) {
        double x = i % 2 ? fabs(any_size(-300, 300)) : uniform(0.1, 3), y;
        y = i % 3 == 0   ? uniform(-5, 5)
            : i % 3 == 1 ? uniform(-1, 1) * 705 / (fabs(log(x)) + 1e-9)
                         : (double)(int)(next_random() % 21) - 10;
        if (fabs(y * log(x)) > 707) continue;
        note(&p, lgv_pow(x, y), powl(x, y), x);
    }
    CHECK("pow", p, 2);
    static const double xs[] = {0,      1,        2,      0.5,         1e300,
                                1e-300, INFINITY, 5e-324, 1 + 0x1p-52, 1 - 0x1p-53};
    static const double ys[] = {0, 1, -1, 0.5, 1e300, -1e300, INFINITY, -INFINITY, 5e-324, 4e18, 3};
    for (size_t i = 0; i < sizeof xs / sizeof *xs; i++)
        for (size_t j = 0; j < sizeof ys / sizeof *ys; j++)
            assert_true(ulps(lgv_pow(xs[i], ys[j]), (long double)pow(xs[i], ys[j])) <= 2);
    assert_true(isnan(lgv_pow(NAN, 1)) && isnan(lgv_pow(2, NAN)) && lgv_pow(NAN, 0) == 1 &&
                isnan(lgv_pow(-2, 2)));
    assert_true(lgv_pow(10, 4) == 10000 && lgv_pow(7, 2) == 49);
}

static void test_sincos(void **state)
{
    range s = {0, 0}, c = {0, 0};
    for (int i = 0; i < draws; i++) {
        double x = i % 4 == 0   ? uniform(-1e6, 1e6)
                   : i % 4 == 1 ? uniform(-7, 7)
                                : any_size(-60, 19);
        if (i % 4 == 3)
            x = (double)(next_random() % 600000) * 1.5707963267948966; /* near the zeros */
        note(&s, lgv_sin(x), sinl(x), x);
        note(&c, lgv_cos(x), cosl(x), x);
    }
    CHECK("sin", s, 1);
    CHECK("cos", c, 1);
    assert_true(lgv_sin(0) == 0 && lgv_cos(0) == 1 && isnan(lgv_sin(INFINITY)) &&
                isnan(lgv_cos(NAN)));
}

static void test_tanh_erf(void **state)
{
    range t = {0, 0}, e = {0, 0};
    for (int i = 0; i < draws; i++) {
        double x = i % 3 == 0 ? uniform(-23, 23) : i % 3 == 1 ? uniform(-1, 1) : any_size(-70, 6);
        note(&t, lgv_tanh(x), tanhl(x), x);
        x = i % 3 == 0 ? uniform(-6.5, 6.5) : x;
        note(&e, lgv_erf(x), erfl(x), x);
    }
    CHECK("tanh", t, 2);
    CHECK("erf", e, 2);
    assert_true(lgv_tanh(INFINITY) == 1 && lgv_tanh(-INFINITY) == -1 && isnan(lgv_tanh(NAN)));
    assert_true(lgv_erf(INFINITY) == 1 && lgv_erf(-INFINITY) == -1 && isnan(lgv_erf(NAN)) &&
                lgv_erf(0) == 0);
}

/* The bits themselves: a hash over many results, the same with every compiler and machine. */
static void test_bits(void **state)
{
    uint64_t hash = 0xcbf29ce484222325;
    random_state = 42;
    for (int i = 0; i < 20000; i++) {
        double x = uniform(-20, 20), y = uniform(0, 5), r[10];
        r[0] = lgv_exp(x);
        r[1] = lgv_expm1(x);
        r[2] = lgv_log(y);
        r[3] = lgv_log1p(y);
        r[4] = lgv_pow(y, x);
        lgv_sincos(1000 * x, &r[5], &r[6]);
        r[7] = lgv_tanh(0.1 * x);
        r[8] = lgv_erf(0.3 * x);
        r[9] = lgv_sqrt(y);
        for (int j = 0; j < 10; j++) {
            uint64_t bits;
            memcpy(&bits, &r[j], 8);
            hash = (hash ^ bits) * 0x100000001b3;
        }
    }
    print_message("hash %016llx\n", (unsigned long long)hash);
    assert_true(hash == 0x6ffdaabce7a2f21b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_exp),    cmocka_unit_test(test_log),      cmocka_unit_test(test_pow),
        cmocka_unit_test(test_sincos), cmocka_unit_test(test_tanh_erf), cmocka_unit_test(test_bits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
