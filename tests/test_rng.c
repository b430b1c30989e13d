/* test_rng.c - the counter-based generator: published vectors, independence of chunking, every part
   of the key, the transform against double precision, and the first moments. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <string.h>

#include "core/core.h"
#include "core/file.h"
#include "core/philox.h"
#include "langevin/rng.h"

static const lgv_rng_key base = {.seed = 0x123456789abcdef0, .stream = 77, .sample = 5, .step = 9};

/* Random123's kat_vectors, lines "philox4x32 10". */
static void test_vectors(void **state)
{
    static const uint32_t vectors[3][10] = {
        {0, 0, 0, 0, 0, 0, 0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8},
        {0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0x408f276d,
         0x41c83b0e, 0xa20bc7c6, 0x6d5451fd},
        {0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344, 0xa4093822, 0x299f31d0, 0xd16cfe09,
         0x94fdcceb, 0x5001e420, 0x24126ea1},
    };
    for (int i = 0; i < 3; i++) {
        uint32_t out[4];
        lgv_philox(vectors[i], vectors[i] + 4, out);
        assert_memory_equal(out, vectors[i] + 6, sizeof out);
    }
}

/* The packing that the header of rng.c documents. */
static void test_packing(void **state)
{
    lgv_rng_key key = {
        .seed = 0x299f31d0a4093822, .stream = 0x85a308d3, .sample = 0x0313198a2e, .step = 0x707344};
    assert_int_equal(lgv_rng_u32(&key, (uint64_t)0x243f6a88 * 4), 0xd16cfe09);
    assert_int_equal(lgv_rng_u32(&key, (uint64_t)0x243f6a88 * 4 + 3), 0x24126ea1);
}

static void test_chunks(void **state)
{
    enum { n = 1000 };
    static float whole[n], part[n];
    void (*draw[2])(const lgv_rng_key *, uint64_t, int64_t, float *) = {lgv_rng_uniform,
                                                                        lgv_rng_normal};
    for (int kind = 0; kind < 2; kind++) {
        for (uint64_t origin = 0; origin < 3; origin++) {
            uint64_t start = origin == 2 ? ((uint64_t)1 << 34) - 500 : origin * 1234567;
            draw[kind](&base, start, n, whole);
            for (int64_t chunk = 1; chunk < 300; chunk += chunk < 20 ? 1 : 37) {
                for (int64_t at = 0; at < n; at += chunk)
                    draw[kind](&base, start + (uint64_t)at, lgv_min_i64(chunk, n - at), part + at);
                assert_memory_equal(part, whole, sizeof whole);
            }
        }
        draw[kind](&base, 0, 0, NULL);
    }
    lgv_rng_uniform(&base, 3, n, whole);
    for (int i = 0; i < n; i++)
        assert_true(whole[i] == (float)(lgv_rng_u32(&base, 3 + (uint64_t)i) >> 8) * 0x1p-24f);
}

/* Each part of the key, also its high bits, gives an unrelated sequence. */
static void test_key_parts(void **state)
{
    enum { n = 64, variants = 14 };
    lgv_rng_key keys[variants];
    for (int i = 0; i < variants; i++) keys[i] = base;
    keys[1].seed ^= 1;
    keys[2].seed ^= (uint64_t)1 << 63;
    keys[3].stream ^= 1;
    keys[4].stream ^= 1u << 31;
    keys[5].sample ^= 1;
    keys[6].sample ^= (uint64_t)1 << 39;
    keys[7].sample ^= (uint64_t)1 << 40;
    keys[8].sample ^= (uint64_t)1 << 63;
    keys[9].step ^= 1;
    keys[10].step ^= 1 << 23;
    keys[11].step ^= 1 << 24;
    keys[12].step ^= (uint64_t)1 << 63;
    for (int i = 0; i < variants; i++) {
        uint64_t far = i == variants - 1 ? (uint64_t)1 << 40 : 0;
        for (int j = 0; j < i; j++) {
            int equal_bits = 0;
            for (uint64_t e = 0; e < n; e++)
                equal_bits += __builtin_popcount(
                    ~(lgv_rng_u32(&keys[i], far + e) ^ lgv_rng_u32(&keys[j], e)));
            assert_in_range(equal_bits, n * 16 - 160, n * 16 + 160); /* 1024 expected, sigma 22.6 */
        }
    }
    assert_int_not_equal(lgv_rng_stream("a.0"), lgv_rng_stream("a.1"));
    assert_int_not_equal(lgv_rng_stream(""), lgv_rng_stream("a"));
}

/* The float transform against Box-Muller in double from the same words. */
static void test_normal_values(void **state)
{
    enum { n = 200000 };
    float *out = lgv_alloc(n, sizeof *out);
    lgv_rng_normal(&base, 0, n, out);
    double worst = 0;
    for (int i = 0; i < n; i += 2) {
        double u = ((lgv_rng_u32(&base, (uint64_t)i) >> 8) + 1) * 0x1p-24,
               v = (lgv_rng_u32(&base, (uint64_t)i + 1) >> 8) * 0x1p-24;
        double r = sqrt(-2 * log(u)), x = r * cos(2 * M_PI * v), y = r * sin(2 * M_PI * v);
        worst = fmax(worst, fmax(fabs(out[i] - x), fabs(out[i + 1] - y)) / fmax(r, 1e-3));
    }
    print_message("normal: worst error %.3g of the radius\n", worst);
    assert_true(worst < 2.5e-7);
    lgv_free(out);
}

/* Mean, variance, skewness, kurtosis and the correlation of neighbours within 5 sigma. */
static void test_moments(void **state)
{
    enum { n = 1 << 20 };
    float *out = lgv_alloc(n, sizeof *out);
    for (uint64_t sample = 0; sample < 4; sample++) {
        lgv_rng_key key = base;
        key.sample = sample;
        lgv_rng_normal(&key, 0, n, out);
        double m[5] = {0}, neighbours = 0;
        for (int i = 0; i < n; i++) {
            double p = 1;
            for (int j = 0; j < 5; j++, p *= out[i]) m[j] += p / n;
            neighbours += out[i] * out[(i + 1) % n] / n;
        }
        double sigma = 1 / sqrt(n);
        assert_true(fabs(m[1]) < 5 * sigma && fabs(m[2] - 1) < 5 * sqrt(2) * sigma);
        assert_true(fabs(m[3]) < 5 * sqrt(15) * sigma && fabs(m[4] - 3) < 5 * sqrt(96) * sigma);
        assert_true(fabs(neighbours) < 5 * sigma);
        lgv_rng_uniform(&key, 0, n, out);
        double bins[64] = {0}, chi = 0;
        for (int i = 0; i < n; i++) {
            assert_true(out[i] >= 0 && out[i] < 1);
            bins[(int)(out[i] * 64)]++;
        }
        for (int i = 0; i < 64; i++) chi += pow(bins[i] - n / 64, 2) / (n / 64);
        assert_true(chi > 20 && chi < 130); /* 63 +- 11 */
    }
    lgv_free(out);
}

static void test_below(void **state)
{
    static const uint64_t bounds[] = {1, 2, 7, 1000, 60000, ((uint64_t)1 << 33) + 5, UINT64_MAX};
    for (size_t b = 0; b < sizeof bounds / sizeof *bounds; b++) {
        double mean = 0;
        for (uint64_t i = 0; i < 20000; i++) {
            uint64_t v = lgv_rng_below(&base, i, bounds[b]);
            assert_true(v < bounds[b]);
            mean += ((double)v + 0.5) / (double)bounds[b] / 20000;
        }
        assert_true(fabs(mean - 0.5) < 5 * 0.29 / sqrt(20000));
    }
    uint64_t wide =
        (uint64_t)lgv_rng_u32(&base, 6) << 32 | lgv_rng_u32(&base, 7); /* words of index 3 */
    assert_true(lgv_rng_below(&base, 3, UINT64_MAX) ==
                (uint64_t)((unsigned __int128)wide * UINT64_MAX >> 64));
    assert_true(lgv_rng_below(&base, 3, 12345678901) ==
                (uint64_t)((unsigned __int128)wide * 12345678901 >> 64));
}

/* The bits, as every compiler and machine must give them. */
static void test_bits(void **state)
{
    enum { n = 100000 };
    float *out = lgv_alloc(n, sizeof *out);
    lgv_rng_normal(&base, 0, n, out);
    uint64_t hash = 0xcbf29ce484222325;
    for (int i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, &out[i], 4);
        hash = (hash ^ bits) * 0x100000001b3;
    }
    print_message("hash %016llx\n", (unsigned long long)hash);
    assert_true(hash == 0x593a6183bd578d8c);
    double start = lgv_now();
    for (int i = 0; i < 100; i++) lgv_rng_normal(&base, (uint64_t)i * n, n, out);
    print_message("%.0f million normals per second\n", 100e-6 * n / (lgv_now() - start));
    lgv_free(out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_vectors),       cmocka_unit_test(test_packing),
        cmocka_unit_test(test_chunks),        cmocka_unit_test(test_key_parts),
        cmocka_unit_test(test_normal_values), cmocka_unit_test(test_moments),
        cmocka_unit_test(test_below),         cmocka_unit_test(test_bits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
