/* test_safetensors.c - round trips, every fault the format can have, truncation and bit flips. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/core.h"
#include "core/file.h"
#include "langevin/safetensors.h"
#include "scratch.h"

/* Writes length, header and data_size zero bytes; returns its path. */
static const char *craft(const char *header, size_t data_size)
{
    static uint8_t buffer[4096];
    uint64_t length = strlen(header);
    const char *path = scratch_path("crafted.safetensors");
    memset(buffer, 0, sizeof buffer);
    memcpy(buffer, &length, 8);
    memcpy(buffer + 8, header, length);
    scratch_write(path, buffer, 8 + length + data_size);
    return path;
}

static void expect_fault(const char *header, size_t data_size, lgv_status status, const char *words)
{
    lgv_safetensors *f = NULL;
    lgv_error err = {0};
    assert_int_equal(lgv_safetensors_open(craft(header, data_size), &f, &err), status);
    assert_null(f);
    if (!strstr(err.text, words))
        fail_msg("header %s: message '%s' lacks '%s'", header, err.text, words);
}

static lgv_status fill_ramp(void *arg, void *dst, size_t bytes, lgv_error *err)
{
    int16_t *p = dst;
    for (size_t i = 0; i < bytes / 2; i++) p[i] = (int16_t)((int)i + *(int *)arg);
    return LGV_OK;
}

static lgv_status refuse(void *arg, void *dst, size_t bytes, lgv_error *err)
{
    return lgv_fail(err, LGV_ERR_NUMERIC, "not today");
}

static const float a_data[6] = {1, -2, 3.5f, 0, INFINITY, -0.0f};
static const uint8_t b_data[3] = {7, 8, 255};
static int ramp_start = 40;

static lgv_safetensors_writer *make_writer(void)
{
    lgv_safetensors_writer *w = NULL;
    assert_int_equal(lgv_safetensors_writer_new(&w, NULL), LGV_OK);
    assert_int_equal(lgv_safetensors_add(w, "z.a", LGV_F32, 2, (int64_t[]){2, 3}, a_data, NULL),
                     LGV_OK);
    assert_int_equal(
        lgv_safetensors_add(w, "b \"q\" \xc3\xa9", LGV_U8, 1, (int64_t[]){3}, b_data, NULL),
        LGV_OK);
    assert_int_equal(lgv_safetensors_add_source(w, "c", LGV_I16, 3, (int64_t[]){2, 1, 2}, fill_ramp,
                                                &ramp_start, NULL),
                     LGV_OK);
    assert_int_equal(lgv_safetensors_add(w, "empty", LGV_F64, 2, (int64_t[]){0, 5}, NULL, NULL),
                     LGV_OK);
    assert_int_equal(lgv_safetensors_add(w, "scalar", LGV_F32, 0, NULL, a_data + 2, NULL), LGV_OK);
    assert_int_equal(lgv_safetensors_set_metadata(w, "note", "hello", NULL), LGV_OK);
    return w;
}

static const char *write_sample(void)
{
    const char *path = scratch_path("sample.safetensors");
    lgv_safetensors_writer *w = make_writer();
    assert_int_equal(lgv_safetensors_write(w, path, NULL), LGV_OK);
    lgv_safetensors_writer_free(w);
    return path;
}

static void round_trip(void **state)
{
    lgv_safetensors *f = NULL;
    const char *path = write_sample();
    assert_int_equal(lgv_safetensors_open(path, &f, NULL), LGV_OK);
    assert_int_equal(lgv_safetensors_count(f), 5);
    assert_string_equal(lgv_safetensors_at(f, 0)->name, "z.a");
    const lgv_tensor_info *t = lgv_safetensors_find(f, "z.a");
    assert_int_equal(t->rank, 2);
    assert_int_equal(t->dim[1], 3);
    assert_int_equal(t->count, 6);
    assert_memory_equal(t->data, a_data, sizeof a_data);
    t = lgv_safetensors_find(f, "b \"q\" \xc3\xa9");
    assert_int_equal(t->dtype, LGV_U8);
    assert_memory_equal(t->data, b_data, 3);
    t = lgv_safetensors_find(f, "c");
    int16_t c[4];
    assert_int_equal(t->bytes, 8);
    memcpy(c, t->data, 8);
    assert_int_equal(c[3], 43);
    assert_int_equal(lgv_safetensors_find(f, "empty")->count, 0);
    assert_int_equal(lgv_safetensors_find(f, "scalar")->count, 1);
    assert_null(lgv_safetensors_find(f, "absent"));
    assert_null(lgv_safetensors_find(f, "__metadata__"));
    assert_string_equal(lgv_safetensors_metadata(f, "format"), "pt");
    assert_string_equal(lgv_safetensors_metadata(f, "note"), "hello");
    assert_null(lgv_safetensors_metadata(f, "other"));
    lgv_safetensors_close(f);
    lgv_map map;
    assert_int_equal(lgv_map_open(path, &map, NULL), LGV_OK);
    assert_int_equal(map.data[0] % 8, 0); /* the header's length keeps the data aligned */
    lgv_map_close(&map);
}

static void writer_faults(void **state)
{
    lgv_error err = {0};
    lgv_safetensors_writer *w = make_writer();
    assert_int_equal(lgv_safetensors_add(w, "c", LGV_F32, 0, NULL, a_data, &err), LGV_ERR_ARGUMENT);
    assert_int_equal(lgv_safetensors_add(w, "__metadata__", LGV_F32, 0, NULL, a_data, &err),
                     LGV_ERR_ARGUMENT);
    assert_int_equal(lgv_safetensors_add(w, "r9", LGV_F32, 9, (int64_t[9]){0}, a_data, &err),
                     LGV_ERR_ARGUMENT);
    assert_int_equal(lgv_safetensors_add(w, "neg", LGV_F32, 1, (int64_t[]){-1}, a_data, &err),
                     LGV_ERR_ARGUMENT);
    assert_int_equal(
        lgv_safetensors_add(w, "big", LGV_F32, 2, (int64_t[]){INT64_MAX / 4, 4}, a_data, &err),
        LGV_ERR_ARGUMENT);
    assert_int_equal(lgv_safetensors_add(w, "bad \xff", LGV_F32, 0, NULL, a_data, &err),
                     LGV_ERR_ARGUMENT);
    assert_int_equal(lgv_safetensors_add_source(w, "late", LGV_F32, 0, NULL, refuse, NULL, &err),
                     LGV_OK);
    const char *path = scratch_path("never.safetensors");
    assert_int_equal(lgv_safetensors_write(w, path, &err), LGV_ERR_NUMERIC);
    assert_non_null(strstr(err.text, "late"));
    assert_false(lgv_is_file(path));
    lgv_safetensors_writer_free(w);
    lgv_safetensors_writer_free(NULL);
    lgv_safetensors_close(NULL);
    lgv_weights_close(NULL);
}

static void header_faults(void **state)
{
    lgv_safetensors *f = NULL;
    assert_int_equal(lgv_safetensors_open(craft("{}", 0), &f, NULL), LGV_OK);
    assert_int_equal(lgv_safetensors_count(f), 0);
    assert_null(lgv_safetensors_find(f, "x"));
    assert_null(lgv_safetensors_metadata(f, "format"));
    lgv_safetensors_close(f);
    f = NULL;
    assert_int_equal(lgv_safetensors_open(scratch_path("absent"), &f, NULL), LGV_ERR_IO);

    expect_fault("[]", 0, LGV_ERR_FORMAT, "'{'");
    expect_fault("{", 0, LGV_ERR_FORMAT, "header is not valid");
    expect_fault("{} x", 0, LGV_ERR_FORMAT, "header is not valid");
    expect_fault("{}", 1, LGV_ERR_FORMAT, "no tensor");
    expect_fault("{\"a\":1}", 0, LGV_ERR_FORMAT, "dtype");
    expect_fault("{\"a\":{\"dtype\":\"F32\"}}", 0, LGV_ERR_FORMAT, "shape");
    expect_fault("{\"a\":{\"dtype\":\"F8_E4M3\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1,
                 LGV_ERR_UNSUPPORTED, "F8_E4M3");
    expect_fault("{\"a\":{\"dtype\":\"F32\",\"shape\":[-1],\"data_offsets\":[0,4]}}", 4,
                 LGV_ERR_FORMAT, "dimension");
    expect_fault("{\"a\":{\"dtype\":\"F32\",\"shape\":[1.0],\"data_offsets\":[0,4]}}", 4,
                 LGV_ERR_FORMAT, "dimension");
    expect_fault("{\"a\":{\"dtype\":\"F32\",\"shape\":[1,1,1,1,1,1,1,1,1],\"data_offsets\":[0,4]}}",
                 4, LGV_ERR_UNSUPPORTED, "9 dimensions");
    expect_fault(
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[4611686018427387904,4],\"data_offsets\":[0,4]}}", 4,
        LGV_ERR_FORMAT, "too large");
    expect_fault(
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[4611686018427387904],\"data_offsets\":[0,4]}}", 4,
        LGV_ERR_FORMAT, "bytes");
    expect_fault("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0]}}", 4,
                 LGV_ERR_FORMAT, "data_offsets");
    expect_fault("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,0]}}", 4,
                 LGV_ERR_FORMAT, "lies at");
    expect_fault("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[-4,0]}}", 4,
                 LGV_ERR_FORMAT, "lies at");
    expect_fault("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}", 4,
                 LGV_ERR_FORMAT, "truncated");
    expect_fault("{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,4]}}", 4,
                 LGV_ERR_FORMAT, "want 8");
    expect_fault("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}", 8,
                 LGV_ERR_FORMAT, "gap");
    expect_fault("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},"
                 "\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}",
                 4, LGV_ERR_FORMAT, "overlaps");
    expect_fault("{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},"
                 "\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,2]}}",
                 2, LGV_ERR_FORMAT, "duplicate");
    expect_fault("{\"__metadata__\":[]}", 0, LGV_ERR_FORMAT, "__metadata__");
    expect_fault("{\"__metadata__\":{\"a\":1}}", 0, LGV_ERR_FORMAT, "metadata 'a'");
    expect_fault("{\"a\\u0000b\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1,
                 LGV_ERR_FORMAT, "not valid");
    uint8_t huge[16] = {0, 0, 0, 0, 0, 0, 0, 0x80, '{', '}'};
    scratch_write(scratch_path("huge"), huge, sizeof huge);
    lgv_error err = {0};
    assert_int_equal(lgv_safetensors_open(scratch_path("huge"), &f, &err), LGV_ERR_FORMAT);
    assert_non_null(strstr(err.text, "header's length"));
}

/* Opens and reads every byte, which the sanitizers watch. */
static lgv_status read_everything(const char *path)
{
    lgv_safetensors *f = NULL;
    lgv_error err = {0};
    lgv_status status = lgv_safetensors_open(path, &f, &err);
    if (status) {
        assert_true(err.text[0]);
        return status;
    }
    volatile uint8_t sum = 0;
    for (size_t i = 0; i < lgv_safetensors_count(f); i++) {
        const lgv_tensor_info *t = lgv_safetensors_at(f, i);
        for (size_t k = 0; k < t->bytes; k++) sum ^= ((const uint8_t *)t->data)[k];
    }
    (void)sum;
    lgv_safetensors_close(f);
    return LGV_OK;
}

static void truncated_and_flipped(void **state)
{
    char *data = NULL;
    size_t size = 0;
    assert_int_equal(lgv_file_read(write_sample(), 1 << 20, &data, &size, NULL), LGV_OK);
    const char *path = scratch_path("hostile.safetensors");
    for (size_t n = 0; n < size; n++) {
        scratch_write(path, data, n);
        assert_int_equal(read_everything(path), LGV_ERR_FORMAT);
    }
    srand(1);
    for (int i = 0; i < 3000; i++) {
        size_t at = (size_t)rand() % size;
        char was = data[at];
        data[at] = (char)(was ^ 1 << rand() % 8);
        scratch_write(path, data, size);
        read_everything(path);
        data[at] = was;
    }
    lgv_free(data);
}

static void conversion(void **state)
{
    uint16_t *half = malloc(65536 * 2 + 1);
    float *got = malloc(65536 * 4);
    uint8_t *odd = (uint8_t *)half + 1; /* data may lie at any address */
    for (int i = 0; i < 65536; i++) {
        uint16_t h = (uint16_t)i;
        memcpy(odd + 2 * i, &h, 2);
    }
    lgv_tensor_info t = {
        .name = "h", .dtype = LGV_F16, .rank = 1, .count = 65536, .data = odd, .bytes = 131072};
    assert_int_equal(lgv_tensor_to_f32(&t, got, NULL), LGV_OK);
    for (int i = 0; i < 65536; i++) {
        int exponent = i >> 10 & 31, mantissa = i & 1023;
        double want = exponent ? ldexp(1024 + mantissa, exponent - 25) : ldexp(mantissa, -24);
        if (i & 0x8000) want = -want;
        if (exponent < 31)
            assert_true(got[i] == want && !signbit(got[i]) == !(i & 0x8000));
        else
            assert_true(mantissa ? isnan(got[i])
                                 : isinf(got[i]) && !signbit(got[i]) == !(i & 0x8000));
    }
    t.dtype = LGV_BF16;
    assert_int_equal(lgv_tensor_to_f32(&t, got, NULL), LGV_OK);
    for (uint32_t i = 0; i < 65536; i++) {
        uint32_t bits;
        memcpy(&bits, &got[i], 4);
        assert_int_equal(bits, i << 16);
    }
    double d[3] = {1.0 / 3, 1e300, -0.0};
    t = (lgv_tensor_info){
        .name = "d", .dtype = LGV_F64, .rank = 1, .count = 3, .data = d, .bytes = 24};
    assert_int_equal(lgv_tensor_to_f32(&t, got, NULL), LGV_OK);
    assert_true(got[0] == (float)(1.0 / 3) && isinf(got[1]) && signbit(got[2]));
    t.dtype = LGV_I64;
    lgv_error err = {0};
    assert_int_equal(lgv_tensor_to_f32(&t, got, &err), LGV_ERR_UNSUPPORTED);
    assert_non_null(strstr(err.text, "'d' has type I64"));
    free(half);
    free(got);
}

/* ---- sets ---- */

static void write_one(const char *path, const char *name, const float *value)
{
    lgv_safetensors_writer *w = NULL;
    assert_int_equal(lgv_safetensors_writer_new(&w, NULL), LGV_OK);
    assert_int_equal(lgv_safetensors_add(w, name, LGV_F32, 1, (int64_t[]){1}, value, NULL), LGV_OK);
    assert_int_equal(lgv_safetensors_add(w, "extra", LGV_F32, 1, (int64_t[]){1}, value, NULL),
                     LGV_OK);
    assert_int_equal(lgv_safetensors_write(w, path, NULL), LGV_OK);
    lgv_safetensors_writer_free(w);
}

static void expect_open_fault(const char *folder, lgv_status status, const char *words)
{
    lgv_weights *w = NULL;
    lgv_error err = {0};
    assert_int_equal(lgv_weights_open(folder, "m", &w, &err), status);
    assert_null(w);
    if (!strstr(err.text, words)) fail_msg("message '%s' lacks '%s'", err.text, words);
}

static void write_index(const char *text)
{
    scratch_write(scratch_path("set/m.safetensors.index.json"), text, strlen(text));
}

static void sets(void **state)
{
    char folder[512];
    snprintf(folder, sizeof folder, "%s", scratch_path("set"));
    assert_int_equal(lgv_make_dir(folder, NULL), LGV_OK);
    expect_open_fault(folder, LGV_ERR_IO, "no weights");
    scratch_write(scratch_path("set/m.bin"), "x", 1);
    expect_open_fault(folder, LGV_ERR_FORMAT, "m.bin");

    write_one(scratch_path("set/one.safetensors"), "b", &a_data[0]);
    write_one(scratch_path("set/two.safetensors"), "a", &a_data[1]);
    write_index("{\"metadata\":{\"total_size\":8},\"weight_map\":{\"b\":\"one.safetensors\",\"a\":"
                "\"two.safetensors\"}}");
    lgv_weights *w = NULL;
    assert_int_equal(lgv_weights_open(folder, "m", &w, NULL), LGV_OK);
    assert_int_equal(lgv_weights_count(w), 2);
    assert_string_equal(lgv_weights_at(w, 0)->name, "a");
    float v;
    memcpy(&v, lgv_weights_find(w, "b")->data, 4);
    assert_true(v == a_data[0]);
    memcpy(&v, lgv_weights_find(w, "a")->data, 4);
    assert_true(v == a_data[1]);
    assert_null(lgv_weights_find(w, "extra"));
    assert_string_equal(lgv_weights_metadata(w, "format"), "pt");
    lgv_weights_close(w);

    write_index("{\"weight_map\":{\"c\":\"one.safetensors\"}}");
    expect_open_fault(folder, LGV_ERR_FORMAT, "'c' should be in");
    write_index("{\"weight_map\":{\"c\":\"../one.safetensors\"}}");
    expect_open_fault(folder, LGV_ERR_FORMAT, "plain file name");
    write_index("{\"weight_map\":{\"c\":7}}");
    expect_open_fault(folder, LGV_ERR_FORMAT, "plain file name");
    write_index("{\"weight_map\":{\"c\":\"absent.safetensors\"}}");
    expect_open_fault(folder, LGV_ERR_IO, "absent.safetensors");
    write_index("{\"weight_map\":[]}");
    expect_open_fault(folder, LGV_ERR_FORMAT, "weight_map");
    write_index("{");
    expect_open_fault(folder, LGV_ERR_FORMAT, "not valid JSON");

    write_one(scratch_path("set/m.safetensors"), "single", &a_data[2]);
    assert_int_equal(lgv_weights_open(folder, "m", &w, NULL), LGV_OK);
    assert_int_equal(lgv_weights_count(w), 2);
    assert_non_null(lgv_weights_find(w, "single"));
    lgv_weights_close(w);
    assert_int_equal(lgv_weights_open_file(scratch_path("set/one.safetensors"), &w, NULL), LGV_OK);
    assert_non_null(lgv_weights_find(w, "extra"));
    lgv_weights_close(w);
}

/* Fails the nth allocation for every n until the work gets through. */
static void allocation_failures(void **state)
{
    const char *path = write_sample(), *copy = scratch_path("copy.safetensors");
    for (uint64_t n = 1;; n++) {
        lgv_weights *w = NULL;
        lgv_alloc_fail_after(n);
        lgv_status status = lgv_weights_open_file(path, &w, NULL);
        lgv_alloc_fail_after(0);
        lgv_weights_close(w);
        if (!status) break;
        assert_int_equal(status, LGV_ERR_MEMORY);
    }
    for (uint64_t n = 1;; n++) {
        lgv_safetensors_writer *w = NULL;
        lgv_alloc_fail_after(n);
        lgv_status status = lgv_safetensors_writer_new(&w, NULL);
        if (!status) status = lgv_safetensors_add(w, "a", LGV_F32, 1, (int64_t[]){6}, a_data, NULL);
        if (!status) status = lgv_safetensors_write(w, copy, NULL);
        lgv_alloc_fail_after(0);
        lgv_safetensors_writer_free(w);
        if (!status) break;
        assert_int_equal(status, LGV_ERR_MEMORY);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(round_trip),          cmocka_unit_test(writer_faults),
        cmocka_unit_test(header_faults),       cmocka_unit_test(truncated_and_flipped),
        cmocka_unit_test(conversion),          cmocka_unit_test(sets),
        cmocka_unit_test(allocation_failures),
    };
    return cmocka_run_group_tests_name("safetensors", tests, NULL, scratch_remove);
}
