/* test_torch_rng.c - PyTorch's generator against draws recorded from the real one.
   tests/golden/torch_rng.txt (tools/golden/rng.py) is a script of calls with their results; it is
   played here call by call, so a wrong number of words in any call shows in all that follow. Every
   value must be equal bit for bit, the normal ones too (the issue asks for 2 units in the last
   place). */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/core.h"
#include "core/file.h"
#include "langevin/rng.h"

enum { max_n = 5000 };

typedef struct player {
    lgv_torch_rng rng;
    char *save; /* strtok_r's position in the line */
    int line;
    float f[max_n];
    int64_t i[max_n];
} player;

static const char *word(player *p)
{
    const char *w = strtok_r(NULL, " \n", &p->save);
    if (!w) fail_msg("line %d is too short", p->line);
    return w;
}
static int64_t count(player *p)
{
    int64_t n = strtoll(word(p), NULL, 10);
    assert_true(n >= 0 && n <= max_n);
    return n;
}
static float real(player *p)
{
    return strtof(word(p), NULL);
}

static uint64_t fnv(const void *data, size_t size)
{
    uint64_t h = 0xcbf29ce484222325;
    for (size_t i = 0; i < size; i++) h = (h ^ ((const unsigned char *)data)[i]) * 0x100000001b3;
    return h;
}

/* True when the line holds a hash instead of values; then it is compared. */
static bool compare_hash(player *p, const void *data, size_t size)
{
    while (*p->save == ' ') p->save++;
    if (*p->save != '#') return false;
    uint64_t want = strtoull(word(p) + 1, NULL, 16);
    if (want != fnv(data, size)) fail_msg("line %d: the hash differs", p->line);
    return true;
}

static void compare_floats(player *p, int64_t n)
{
    if (compare_hash(p, p->f, (size_t)n * sizeof(float))) return;
    for (int64_t j = 0; j < n; j++) {
        uint32_t bits = (uint32_t)strtoul(word(p), NULL, 16);
        float want;
        memcpy(&want, &bits, 4);
        if (memcmp(&want, &p->f[j], 4))
            fail_msg("line %d, element %d: %.9g, PyTorch has %.9g", p->line, (int)j, p->f[j], want);
    }
}

static void compare_integers(player *p, int64_t n)
{
    if (compare_hash(p, p->i, (size_t)n * sizeof(int64_t))) return;
    for (int64_t j = 0; j < n; j++) {
        int64_t want = strtoll(word(p), NULL, 10);
        if (want != p->i[j])
            fail_msg("line %d, element %d: %" PRId64 ", PyTorch has %" PRId64, p->line, (int)j,
                     p->i[j], want);
    }
}

static void play(player *p, char *text)
{
    const char *call = strtok_r(text, " \n", &p->save);
    if (!call || *call == '#') return;
    if (!strcmp(call, "seed")) {
        lgv_torch_seed(&p->rng, strtoull(word(p), NULL, 10));
    } else if (!strcmp(call, "rand")) {
        int64_t n = count(p);
        lgv_torch_rand(&p->rng, n, p->f);
        compare_floats(p, n);
    } else if (!strcmp(call, "uniform")) {
        int64_t n = count(p);
        float low = real(p), high = real(p);
        lgv_torch_uniform(&p->rng, n, low, high, p->f);
        compare_floats(p, n);
    } else if (!strcmp(call, "randn")) {
        int64_t n = count(p);
        lgv_torch_randn(&p->rng, n, p->f);
        compare_floats(p, n);
    } else if (!strcmp(call, "normal")) {
        int64_t n = count(p);
        float mean = real(p), std = real(p);
        lgv_torch_normal(&p->rng, n, mean, std, p->f);
        compare_floats(p, n);
    } else if (!strcmp(call, "randint")) {
        uint64_t bound = strtoull(word(p), NULL, 10);
        int64_t n = count(p);
        lgv_torch_randint(&p->rng, bound, n, p->i);
        compare_integers(p, n);
    } else if (!strcmp(call, "randperm")) {
        int64_t n = count(p);
        lgv_torch_randperm(&p->rng, n, p->i);
        compare_integers(p, n);
    } else if (!strcmp(call, "loader")) {
        int64_t n = count(p);
        lgv_torch_loader_order(&p->rng, n, p->i);
        compare_integers(p, n);
    } else {
        fail_msg("line %d: unknown call %s", p->line, call);
    }
}

static void test_recorded(void **state)
{
    char *text = NULL;
    size_t size = 0;
    lgv_error err = {0};
    if (lgv_file_read(LGV_SOURCE_DIR "/tests/golden/torch_rng.txt", 1 << 22, &text, &size, &err))
        fail_msg("%s", err.text);
    player *p = lgv_zalloc(1, sizeof *p);
    for (char *line = text; *line;) {
        char *end = strchr(line, '\n');
        assert_non_null(end);
        *end = 0;
        p->line++;
        play(p, line);
        line = end + 1;
    }
    assert_true(p->line > 250);
    lgv_free(p);
    lgv_free(text);
}

/* The MT19937 reference: the 10000th output of seed 5489 (as the C++ standard states it). */
static void test_mt(void **state)
{
    lgv_torch_rng rng;
    lgv_torch_seed(&rng, 5489);
    uint32_t last = 0;
    for (int i = 0; i < 10000; i++) last = lgv_torch_u32(&rng);
    assert_true(last == 4123659995u);
}

/* A copy is the saved state, the cached normal included. */
static void test_copy(void **state)
{
    lgv_torch_rng a, b;
    float x[40], y[40];
    lgv_torch_seed(&a, 3);
    lgv_torch_randn(&a, 3, x);
    b = a;
    lgv_torch_randn(&a, 5, x);
    lgv_torch_randn(&a, 30, x + 5);
    lgv_torch_randn(&b, 5, y);
    lgv_torch_randn(&b, 30, y + 5);
    assert_memory_equal(x, y, 35 * sizeof *x);
    assert_memory_equal(&a, &b, sizeof a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_mt),
        cmocka_unit_test(test_recorded),
        cmocka_unit_test(test_copy),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
