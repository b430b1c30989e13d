/* elementary.c - exp, log, pow, sin, cos, tanh and erf from sums and products only.
   libm's last bits differ between machines; these use nothing but correctly rounded additions,
   multiplications, divisions and square roots, in a written order, so their bits do not.
   Method: reduce the argument, then the Taylor series of the reduced one; where one double is too
   short (logarithms, reduced angles) the value is carried as an unevaluated sum hi + lo
   (Dekker, "A floating-point technique for extending the available precision", 1971). */
#include <float.h>
#include <math.h>
#include <string.h>

#include "elementary.h"
#include "core.h"

_Static_assert(FLT_EVAL_METHOD == 0, "double arithmetic must round to double after each operation");

/* Adding and subtracting this rounds |x| < 2^51 to the nearest integer. */
static const double round_magic = 0x1.8p52;

static const double ln2_hi = 0x1.62e42fefa3p-1; /* 41 bits: k * ln2_hi is exact for |k| < 4096 */
static const double ln2_lo = 0x1.3de6af278ece6p-42;
static const double inv_ln2 = 0x1.71547652b82fep+0;

/* hi + lo, |lo| <= ulp(hi) / 2. */
typedef struct pair {
    double hi, lo;
} pair;

/* a + b exactly. */
static inline pair two_sum(double a, double b)
{
    double s = a + b, t = s - a;
    return (pair){s, (a - (s - t)) + (b - t)};
}

/* a + b exactly when |a| >= |b|. */
static inline pair quick_sum(double a, double b)
{
    double s = a + b;
    return (pair){s, b - (s - a)};
}

/* a * b exactly, for factors below 2^990. */
static inline pair two_product(double a, double b)
{
    const double splitter = 0x1p27 + 1;
    double p = a * b, t = splitter * a, u = splitter * b;
    double ah = t - (t - a), al = a - ah, bh = u - (u - b), bl = b - bh;
    return (pair){p, ((ah * bh - p) + ah * bl + al * bh) + al * bl};
}

static inline pair pair_product(pair a, pair b)
{
    pair p = two_product(a.hi, b.hi);
    return quick_sum(p.hi, p.lo + (a.hi * b.lo + a.lo * b.hi));
}

/* a + b for |a| >= |b|. */
static inline pair pair_sum(pair a, pair b)
{
    pair s = two_sum(a.hi, b.hi);
    return quick_sum(s.hi, s.lo + (a.lo + b.lo));
}

static double from_bits(uint64_t bits)
{
    double x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static uint64_t to_bits(double x)
{
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

/* x * 2^k for |k| <= 2044; the exponent is applied in two steps, of which at most the last rounds.
 */
static double scale(double x, int k)
{
    int half = k / 2;
    return x * from_bits((uint64_t)(1023 + half) << 52) *
           from_bits((uint64_t)(1023 + k - half) << 52);
}

/* (e^r - 1 - r) / r^2 for |r| <= ln2 / 2 (Taylor to r^15 / 15!). */
static double exp_tail(double r)
{
    double p = 1.0 / 1307674368000.0;
    p = p * r + 1.0 / 87178291200.0;
    p = p * r + 1.0 / 6227020800.0;
    p = p * r + 1.0 / 479001600.0;
    p = p * r + 1.0 / 39916800.0;
    p = p * r + 1.0 / 3628800.0;
    p = p * r + 1.0 / 362880.0;
    p = p * r + 1.0 / 40320.0;
    p = p * r + 1.0 / 5040.0;
    p = p * r + 1.0 / 720.0;
    p = p * r + 1.0 / 120.0;
    p = p * r + 1.0 / 24.0;
    p = p * r + 1.0 / 6.0;
    return p * r + 0.5;
}

/* e^(x.hi + x.lo) = 2^*k * (1 + result), for |x| < 800. */
static pair exp_reduced(pair x, int *k)
{
    double n = (x.hi * inv_ln2 + round_magic) - round_magic;
    double r_hi = x.hi - n * ln2_hi, r_lo = x.lo - n * ln2_lo; /* r_hi is exact */
    double r = r_hi + r_lo;
    *k = (int)n;
    return two_sum(r_hi, r_lo + r * r * exp_tail(r));
}

static double exp_pair(pair x)
{
    if (!(x.hi < 710)) return x.hi >= 710 ? INFINITY : x.hi + x.lo;
    if (x.hi < -746) return 0;
    int k;
    pair e = exp_reduced(x, &k);
    pair one = quick_sum(1, e.hi);
    return scale(one.hi + (one.lo + e.lo), k);
}

double lgv_exp(double x)
{
    return exp_pair((pair){x, 0});
}

/* e^x - 1 for 2^-54 <= |x| <= 44. */
static pair expm1_pair(double x)
{
    int k;
    pair e = exp_reduced((pair){x, 0}, &k);
    if (k == 0) return e;
    pair one = quick_sum(1, e.hi);
    pair d = two_sum(scale(one.hi, k), -1);
    return quick_sum(d.hi, d.lo + scale(one.lo + e.lo, k));
}

double lgv_expm1(double x)
{
    if (!(x > -40)) return x != x ? x : -1;
    if (x > 40) return lgv_exp(x);
    if (fabs(x) < 0x1p-54) return x;
    pair e = expm1_pair(x);
    return e.hi + e.lo;
}

/* ln x as a pair, relative error about 2^-66; x finite, positive.
   With x = 2^k m, m near 1, s = (m-1)/(m+1): ln m = 2 atanh s = 2s + s (2/3 s^2 + 2/5 s^4 + ...).
 */
static pair log_pair(double x)
{
    int k = 0;
    if (x < DBL_MIN) {
        x *= 0x1p54;
        k = -54;
    }
    uint64_t bits = to_bits(x);
    k += (int)(bits >> 52) - 1023;
    double m = from_bits((bits & 0xfffffffffffff) | (uint64_t)1023 << 52);
    if (m > 0x1.6a09e667f3bcdp+0) { /* sqrt 2 */
        m *= 0.5;
        k++;
    }
    double f = m - 1; /* exact */
    pair d = two_sum(m, 1);
    pair s;
    s.hi = f / d.hi;
    pair back = two_product(s.hi, d.hi);
    s.lo = ((f - back.hi) - back.lo - s.hi * d.lo) / d.hi;
    s = quick_sum(s.hi, s.lo);
    pair z = pair_product(s, s);
    double q = 2.0 / 27;
    for (int i = 25; i >= 7; i -= 2) q = q * z.hi + 2.0 / i;
    pair t = pair_sum((pair){0x1.999999999999ap-2, -0x1.999999999999ap-56}, two_product(z.hi, q));
    t = pair_sum((pair){0x1.5555555555555p-1, 0x1.5555555555555p-55}, pair_product(z, t));
    pair log_m = pair_sum((pair){2 * s.hi, 2 * s.lo}, pair_product(s, pair_product(z, t)));
    if (k == 0) return log_m;
    pair log_k = two_sum(k * ln2_hi, k * ln2_lo);
    return pair_sum(log_k, log_m);
}

double lgv_log(double x)
{
    if (!(x > 0) || x == INFINITY) return x == 0 ? -INFINITY : x > 0 ? x : x != x ? x : NAN;
    pair l = log_pair(x);
    return l.hi + l.lo;
}

double lgv_log1p(double x)
{
    if (!(x > -1) || x == INFINITY) return x == -1 ? -INFINITY : x > 0 ? x : x != x ? x : NAN;
    if (fabs(x) < 0x1p-54) return x;
    pair u = two_sum(1, x);
    pair l = log_pair(u.hi);
    l = two_sum(l.hi, u.lo / u.hi + l.lo); /* ln(u + du) = ln u + du / u, du <= 2^-53 u */
    return l.hi + l.lo;
}

double lgv_pow(double x, double y)
{
    if (y == 0 || x == 1) return 1;
    if (x != x || y != y) return x + y;
    if (x < 0) return NAN;
    if (x == 0) return y > 0 ? 0 : INFINITY;
    if (x == INFINITY) return y > 0 ? INFINITY : 0;
    pair l = log_pair(x);
    double estimate = y * l.hi;
    if (!(fabs(estimate) < 800)) return estimate > 0 ? INFINITY : 0;
    pair p = two_product(y, l.hi);
    return exp_pair(quick_sum(p.hi, p.lo + y * l.lo));
}

/* x = *quadrant * pi/2 + result, |result| <= pi/4. pi/2 is cut into pieces of 33 bits whose
   products with a quadrant below 2^20 are exact. */
static pair reduce_angle(double x, int *quadrant)
{
    double n = (x * 0x1.45f306dc9c883p-1 + round_magic) - round_magic;
    double a = x - n * 0x1.921fb544p+0;
    pair r = two_sum(a, -n * 0x1.0b4611a6p-34);
    r = pair_sum(r, (pair){-n * 0x1.3198a2ep-69, 0});
    r = quick_sum(r.hi, r.lo - n * 0x1.b839a252049c1p-104);
    *quadrant = (int)n & 3;
    return r;
}

static double sin_reduced(pair r)
{
    double z = r.hi * r.hi;
    double p = 1.0 / 355687428096000.0;
    p = p * z - 1.0 / 1307674368000.0;
    p = p * z + 1.0 / 6227020800.0;
    p = p * z - 1.0 / 39916800.0;
    p = p * z + 1.0 / 362880.0;
    p = p * z - 1.0 / 5040.0;
    p = p * z + 1.0 / 120.0;
    p = p * z - 1.0 / 6.0;
    return r.hi + (r.lo * (1 - 0.5 * z) + r.hi * z * p);
}

static double cos_reduced(pair r)
{
    double z = r.hi * r.hi, half = 0.5 * z;
    double p = -1.0 / 6402373705728000.0;
    p = p * z + 1.0 / 20922789888000.0;
    p = p * z - 1.0 / 87178291200.0;
    p = p * z + 1.0 / 479001600.0;
    p = p * z - 1.0 / 3628800.0;
    p = p * z + 1.0 / 40320.0;
    p = p * z - 1.0 / 720.0;
    p = p * z + 1.0 / 24.0;
    double w = 1 - half;
    return w + (((1 - w) - half) + (z * z * p - r.hi * r.lo));
}

void lgv_sincos(double x, double *s, double *c)
{
    if (!(fabs(x) <= 1e6)) {
        *s = *c = NAN;
        return;
    }
    int quadrant;
    pair r = reduce_angle(x, &quadrant);
    double sine = fabs(x) < 0x1p-27 ? x : sin_reduced(r), cosine = cos_reduced(r);
    if (quadrant & 1) {
        double t = sine;
        sine = cosine;
        cosine = -t;
    }
    *s = quadrant & 2 ? -sine : sine;
    *c = quadrant & 2 ? -cosine : cosine;
}

double lgv_sin(double x)
{
    double s, c;
    lgv_sincos(x, &s, &c);
    return s;
}

double lgv_cos(double x)
{
    double s, c;
    lgv_sincos(x, &s, &c);
    return c;
}

double lgv_tanh(double x)
{
    double a = fabs(x), t;
    if (a > 22) {
        t = 1;
    } else if (a < 0x1p-28) {
        return x;
    } else if (a < 0.5) {
        pair e = expm1_pair(2 * a), d = two_sum(2, e.hi);
        t = e.hi / d.hi;
        t += (e.lo - t * (d.lo + e.lo)) / d.hi;
    } else {
        t = 1 - 2 / (lgv_exp(2 * a) + 1);
    }
    return x != x ? x : copysign(t, x);
}

/* erf and its first derivative 2/sqrt(pi) exp(-x^2) at x = k/4 (computed with 300 bits). */
static const double erf_table[25][2] = {
    {0x0.0p+0, 0x1.20dd750429b6dp+0},
    {0x1.1af54e232d609p-2, 0x1.0f5d1602f7e41p+0},
    {0x1.0a7ef5c18edd2p-1, 0x1.c1efca49a5011p-1},
    {0x1.6c1c9759d0e5fp-1, 0x1.492e42d78d2c5p-1},
    {0x1.af767a741088bp-1, 0x1.a911f096fbc26p-2},
    {0x1.d8865d98abe01p-1, 0x1.e4652fadcb6b2p-3},
    {0x1.eea5557137ae0p-1, 0x1.e723726b824a9p-4},
    {0x1.f92d077f8d56dp-1, 0x1.b055303221015p-5},
    {0x1.fd9ae142795e3p-1, 0x1.529b9e8cf9a1ep-6},
    {0x1.ff404760319b4p-1, 0x1.d4143a9dfe965p-8},
    {0x1.ffcaa8f4c9beap-1, 0x1.1d83170fbf6fbp-9},
    {0x1.fff2cfb0453d9p-1, 0x1.3360ccd23db3ap-11},
    {0x1.fffd1ac4135f9p-1, 0x1.2408e9ba3327fp-13},
    {0x1.ffff6f9f67e55p-1, 0x1.e9b5e8d00ce77p-16},
    {0x1.ffffe710d565ep-1, 0x1.6a597219a93dap-18},
    {0x1.fffffc2f171e3p-1, 0x1.d9371e2ff7c35p-21},
    {0x1.ffffff7b91176p-1, 0x1.10b1488aeb235p-23},
    {0x1.fffffff01a8b6p-1, 0x1.155a09065d4f7p-26},
    {0x1.fffffffe4fa30p-1, 0x1.f1e3523b41d7dp-30},
    {0x1.ffffffffd759dp-1, 0x1.8a61745ec7d1dp-33},
    {0x1.fffffffffc9e8p-1, 0x1.13af4f04f9998p-36},
    {0x1.ffffffffffc05p-1, 0x1.5422ef5d8949dp-40},
    {0x1.fffffffffffbep-1, 0x1.7258610b3b233p-44},
    {0x1.ffffffffffffcp-1, 0x1.63daf8b4b1e0cp-48},
    {0x1.0000000000000p+0, 0x1.2dc119095729fp-52},
};

/* Near 0: 2/sqrt(pi) (x - x^3/3 + x^5/10 - ...), the factor written as 1 + 0.128... to save its
   rounding error. Elsewhere the Taylor series at the nearest k/4, whose coefficients follow from
   erf'' = -2 x erf': (n+2)(n+1) a[n+2] = -2 (c (n+1) a[n+1] + n a[n]). */
double lgv_erf(double x)
{
    double a = fabs(x), y;
    if (x != x) return x;
    if (a < 0.125) {
        /* terms (-1)^n z^n / (n! (2n+1)) */
        double z = x * x, p = 1.0 / 685440;
        p = p * z - 1.0 / 75600;
        p = p * z + 1.0 / 9360;
        p = p * z - 1.0 / 1320;
        p = p * z + 1.0 / 216;
        p = p * z - 1.0 / 42;
        p = p * z + 1.0 / 10;
        p = p * z - 1.0 / 3;
        return x + x * (0x1.06eba8214db69p-3 + 0x1.20dd750429b6dp+0 * (z * p));
    }
    if (a >= 6) {
        y = 1;
    } else {
        double k = floor(4 * a + 0.5), c = 0.25 * k, d = a - c;
        const double *at = erf_table[(int)k];
        double coefficient[18];
        coefficient[1] = at[1];
        coefficient[0] = 0;
        for (int n = 0; n < 16; n++)
            coefficient[n + 2] = -2 * (c * (n + 1) * coefficient[n + 1] + n * coefficient[n]) /
                                 ((n + 2.0) * (n + 1));
        double p = coefficient[17];
        for (int n = 16; n >= 1; n--) p = p * d + coefficient[n];
        y = at[0] + d * p;
    }
    return copysign(y, x);
}

double lgv_sqrt(double x)
{
    return sqrt(x);
}
