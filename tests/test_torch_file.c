/* test_torch_file.c - files of torch.save: those of tools/golden/torch_files.py in every form, real ones where a
   checkout has them, hostile ones, and what is written here and read again. */
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/core.h"
#include "core/file.h"
#include "golden.h"
#include "io/pickle.h"
#include "io/zip.h"
#include "langevin/torch_file.h"
#include "ok.h"
#include "scratch.h"

static lgv_error err;
static json_t *golden; /* torch_files.json */

static char *golden_path(const char *name)
{
    return lgv_format("%s/tests/golden/torch/%s", LGV_SOURCE_DIR, name);
}

/* --- What is in a file --- */
static double element(const lgv_tensor_info *t, int64_t i)
{
    const uint8_t *p = (const uint8_t *)t->data + (size_t)i * lgv_dtype_size(t->dtype);
    int64_t wide = 0;
    lgv_tensor_info one = *t;
    float value;
    double precise;
    switch (t->dtype) {
    case LGV_I64: memcpy(&wide, p, 8); return (double)wide;
    case LGV_I32: return (double)(int32_t)(p[0] | p[1] << 8 | p[2] << 16 | (uint32_t)p[3] << 24);
    case LGV_I16: return (double)(int16_t)(p[0] | p[1] << 8);
    case LGV_I8: return (double)(int8_t)p[0];
    case LGV_U8:
    case LGV_BOOL: return (double)p[0];
    case LGV_F64: memcpy(&precise, p, 8); return precise;
    default: break;
    }
    one.data = p;
    one.count = 1;
    OK(lgv_tensor_to_f32(&one, &value, &err));
    return (double)value;
}

static void check_tensor(const lgv_torch_file *f, const json_t *row)
{
    const char *name = json_string_value(json_array_get(row, 0));
    const lgv_tensor_info *t = lgv_torch_file_find(f, name);
    if (!t) fail_msg("'%s' is missing", name);
    assert_string_equal(lgv_dtype_name(t->dtype), json_string_value(json_array_get(row, 1)));
    json_t *shape = json_array_get(row, 2);
    assert_int_equal(t->rank, json_array_size(shape));
    for (int i = 0; i < t->rank; i++)
        assert_int_equal(t->dim[i], json_integer_value(json_array_get(shape, (size_t)i)));
    float *r = malloc(((size_t)t->count + 1) * sizeof *r);
    double sum = 0, hashed = 0;
    golden_unit(name, t->count, r);
    for (int64_t i = 0; i < t->count; i++) {
        sum += element(t, i);
        hashed += element(t, i) * (double)r[i];
    }
    free(r);
    if (fabs(sum - json_number_value(json_array_get(row, 3))) > 1e-9 ||
        fabs(hashed - json_number_value(json_array_get(row, 4))) > 1e-9)
        fail_msg("'%s' has sums %.12g and %.12g", name, sum, hashed);
}

static void check_note(const lgv_torch_file *f, const char *name, const char *want)
{
    const char *n, *text;
    for (size_t i = 0; lgv_torch_file_note(f, i, &n, &text); i++) {
        if (strcmp(n, name)) continue;
        assert_string_equal(text, want);
        return;
    }
    fail_msg("there is no note '%s'", name);
}

static void golden_file(void **state)
{
    json_t *entry = json_object_get(json_object_get(golden, "files"), *state), *value;
    json_t *tensors = json_object_get(entry, "tensors"), *notes = json_object_get(entry, "notes");
    const char *key;
    char *name = lgv_format("%s.pt", (const char *)*state), *path = golden_path(name);
    lgv_torch_file *f = NULL;
    OK(lgv_torch_file_open(path, &f, &err));
    assert_int_equal(lgv_torch_file_count(f), json_array_size(tensors));
    for (size_t i = 0; i < json_array_size(tensors); i++) {
        assert_string_equal(lgv_torch_file_at(f, i, NULL)->name,
                            json_string_value(json_array_get(json_array_get(tensors, i), 0)));
        check_tensor(f, json_array_get(tensors, i));
    }
    json_object_foreach(notes, key, value) check_note(f, key, json_string_value(value));
    lgv_torch_file_close(f);
    lgv_free(path);
    lgv_free(name);
}

static void stems(void **state)
{
    char *path = golden_path("nested.pt");
    lgv_weights *w = NULL;
    OK(lgv_weights_open_file(path, &w, &err));
    for (size_t i = 0; i < lgv_weights_count(w); i++) {
        const char *name = lgv_weights_at(w, i)->name;
        size_t want = strstr(name, "conv.")  ? (size_t)(strstr(name, "conv.") - name)
                      : strstr(name, "deep") ? strlen("list.1.")
                      : strstr(name, "list") ? 0
                                             : strlen("opt.state.0.");
        assert_int_equal(lgv_weights_stem(w, i), want);
    }
    lgv_weights_close(w);
    lgv_free(path);
}

/* --- Real files --- */
static void real_files(void **state)
{
    json_t *weights = json_object_get(golden, "weights"), *row;
    const char *key;
    int missing = 0;
    json_object_foreach(weights, key, row)
    {
        char *path = lgv_format("%s/../shared/weights/%s", LGV_SOURCE_DIR, key);
        lgv_torch_file *f = NULL;
        double sum = 0;
        if (!lgv_is_file(path)) {
            missing++;
            lgv_free(path);
            continue;
        }
        OK(lgv_torch_file_open(path, &f, &err));
        assert_int_equal(lgv_torch_file_count(f), json_integer_value(json_array_get(row, 0)));
        for (size_t i = 0; i < lgv_torch_file_count(f); i++) {
            const lgv_tensor_info *t = lgv_torch_file_at(f, i, NULL);
            for (int64_t k = 0; k < t->count; k++) sum += element(t, k);
        }
        double want = json_real_value(json_array_get(row, 1));
        assert_true(fabs(sum - want) < 1e-6 * fabs(want));
        lgv_torch_file_close(f);
        lgv_free(path);
    }
    print_message("%d of %zu real files are not here\n", missing, json_object_size(weights));
    if (missing == (int)json_object_size(weights)) skip();
}

/* --- Hostile files --- */
/* Every prefix and every changed byte: a sentence or a file, and never a read outside. */
static void try_bytes(const uint8_t *data, size_t size)
{
    uint8_t *copy = malloc(size + 1); /* as large as the file, so that a sanitizer sees more */
    memcpy(copy, data, size);
    lgv_torch_file *f = NULL;
    err = (lgv_error){0};
    if (lgv_torch_file_open_memory(copy, size, "hostile", &f, &err)) assert_true(err.text[0]);
    for (size_t i = 0; f && i < lgv_torch_file_count(f); i++) {
        const lgv_tensor_info *t = lgv_torch_file_at(f, i, NULL);
        volatile uint8_t last = t->bytes ? ((const uint8_t *)t->data)[t->bytes - 1] : 0;
        (void)last;
    }
    lgv_torch_file_close(f);
    free(copy);
}

static void damaged(void **state)
{
    static const char *const names[] = {"nested.pt", "stream_views.pt", "old_views.pt",
                                        "nochecksum.pt"};
    for (int n = 0; n < 4; n++) {
        char *path = golden_path(names[n]), *data;
        size_t size;
        OK(lgv_file_read(path, 1 << 20, &data, &size, &err));
        for (size_t i = 0; i < size; i++) try_bytes((uint8_t *)data, i);
        for (size_t i = 0; i < size; i++)
            for (int bit = 0; bit < 8; bit += 3) {
                data[i] = (char)(data[i] ^ 1 << bit);
                try_bytes((uint8_t *)data, size);
                data[i] = (char)(data[i] ^ 1 << bit);
            }
        lgv_free(data);
        lgv_free(path);
    }
}

/* A flipped bit of a tensor is found by its checksum. */
static void checksum(void **state)
{
    char *path = golden_path("zip.pt"), *data;
    size_t size, at = 0;
    lgv_zip zip = {0};
    lgv_torch_file *f = NULL;
    OK(lgv_file_read(path, 1 << 20, &data, &size, &err));
    OK(lgv_zip_read((uint8_t *)data, size, "zip.pt", &zip, &err));
    at = (size_t)(lgv_zip_find(&zip, "zip/data/0")->data - (uint8_t *)data);
    lgv_zip_free(&zip);
    data[at] ^= 1;
    assert_int_equal(lgv_torch_file_open_memory(data, size, "zip.pt", &f, &err), LGV_ERR_FORMAT);
    assert_non_null(strstr(err.text, "the checksum of 'zip/data/0' is wrong"));
    lgv_free(data);
    lgv_free(path);
}

#define HEAD                  "\200\2\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\200\2M\xe9\x03.\200\2}."
#define STORAGE(count)        "(X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\0kX\3\0\0\0cpu" count "NtQ"
#define TENSOR(storage, rest) "ctorch._utils\n_rebuild_tensor_v2\n(" storage rest "\211}tR."
#define DATA                                                                                       \
    "\200\2]X\1\0\0\0ka.\4\0\0\0\0\0\0\0"                                                          \
    "0123456789abcdef"
#define BYTES(text) text, sizeof text - 1

static const struct hostile {
    const char *bytes;
    size_t size;
    const char *says;
} hostile[] = {
    {BYTES("hello, I am no file of torch"), "neither a zip archive nor a pickle"},
    {BYTES(""), "neither a zip archive nor a pickle"},
    {BYTES("\200\2N."), "a pickle that torch.save did not write"},
    {BYTES("PK\3\4 and nothing more of a zip archive"), "it has no end record"},
    {BYTES(HEAD "\x80\x09."), "pickle protocol 9"},
    {BYTES(HEAD "\200\2\xff"), "opcode 0xff"},
    {BYTES(HEAD "\200\2i"), "opcode 0x69"},
    {BYTES(HEAD "\200\2R."), "too few values"},
    {BYTES(HEAD "\200\2t."), "a mark is missing"},
    {BYTES(HEAD "\200\2h\5."), "a memo is used before it is there"},
    {BYTES(HEAD "\200\2Nr\xff\xff\xff\x7f."), "a memo's number makes no sense"},
    {BYTES(HEAD "\200\2X\xff\xff\xff\xff"
                "abc"),
     "a text is longer than the file"},
    {BYTES(HEAD "\200\2(Nd."), "a key has no value"},
    {BYTES(HEAD "\200\2NNa."), "no collection is added to"},
    {BYTES(HEAD "\200\2NQ.\200\2]."), "a storage is described wrongly"},
    {BYTES(HEAD "\200\2" TENSOR(STORAGE("K\4"), "K\0K\5\205K\1\205") DATA),
     "lies outside of its storage"},
    {BYTES(HEAD "\200\2" TENSOR(STORAGE("K\4"), "K\1K\4\205K\1\205") DATA),
     "lies outside of its storage"},
    {BYTES(HEAD "\200\2" TENSOR(STORAGE("K\4"), "K\0K\2\205K\4\205") DATA),
     "lies outside of its storage"},
    {BYTES(HEAD "\200\2" TENSOR(STORAGE("K\4"), "J\xff\xff\xff\xffK\2\205K\1\205") DATA), "offset"},
    {BYTES(HEAD "\200\2" TENSOR(STORAGE("K\4"), "K\0J\xff\xff\xff\xff\205K\1\205") DATA),
     "a dimension or stride"},
    {BYTES(HEAD "\200\2" TENSOR(STORAGE("K\4"), "K\0K\2\205K\1K\1\206") DATA),
     "more dimensions than strides"},
    {BYTES(HEAD "\200\2" TENSOR(STORAGE("K\4"), "K\0(K\1K\1K\1K\1K\1K\1K\1K\1K\1tK\1\205") DATA),
     "9 dimensions"},
    {BYTES(HEAD "\200\2" TENSOR(
         STORAGE("K\4"), "K\0\212\10\0\0\0\0\0\0\0\x40\212\10\0\0\0\0\0\0\0\x40\206K\0K\0\206")
               DATA),
     "too large to be real"},
    {BYTES(HEAD "\200\2" TENSOR(STORAGE("K\4"), "K\0\212\10\0\0\0\0\0\0\0\x08\205K\0\205") DATA),
     "repeats elements"},
    {BYTES(HEAD "\200\2" TENSOR(STORAGE("K\5"), "K\0K\4\205K\1\205") DATA), "a storage's length"},
    {BYTES(HEAD "\200\2" TENSOR(STORAGE("K\4"), "K\0K\4\205K\1\205") "\200\2]."),
     "a tensor's bytes are missing"},
    {BYTES(HEAD "\200\2" TENSOR(STORAGE("K\4"),
                                "K\0K\4\205K\1\205") "\200\2]X\1\0\0\0ka.\4\0\0\0\0\0\0\0"
                                                     "0123"),
     "it ends before its last tensor"},
    {BYTES(HEAD "\200\2]q\0h\0a.\200\2]."), "again and again"},
    {BYTES(HEAD "\200\2}X\2\0\0\0a\0Ns.\200\2]."), "a zero byte"},
    {BYTES("\200\2\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\200\2M\xe9\x03.\200\2}"
           "X\x0d\0\0\0little_endian\211s."),
     "big-endian"},
};

static void hostile_files(void **state)
{
    for (size_t i = 0; i < sizeof hostile / sizeof hostile[0]; i++) {
        lgv_torch_file *f = NULL;
        err = (lgv_error){0};
        lgv_status status =
            lgv_torch_file_open_memory(hostile[i].bytes, hostile[i].size, "hostile", &f, &err);
        if (!status || !strstr(err.text, hostile[i].says))
            fail_msg("case %zu says '%s', not '%s'", i, err.text, hostile[i].says);
        lgv_torch_file_close(f);
    }
}

/* What a pickle would call stays a name: the file opens, and the name is shown. */
static void nothing_is_called(void **state)
{
    static const char bytes[] =
        HEAD "\200\2}X\1\0\0\0xcposix\nsystem\nX\6\0\0\0rm -rf\205Rs.\200\2].";
    lgv_torch_file *f = NULL;
    OK(lgv_torch_file_open_memory(bytes, sizeof bytes - 1, "hostile", &f, &err));
    assert_int_equal(lgv_torch_file_count(f), 0);
    check_note(f, "x", "posix.system('rm -rf')");
    lgv_torch_file_close(f);
}

/* Nested lists that double at each level: a few bytes that would be a tree of 2^40 parts. */
static void doubling(void **state)
{
    char bytes[1024];
    size_t n = sizeof HEAD - 1;
    memcpy(bytes, HEAD "\200\2]q\0", n + 5);
    n += 5;
    for (char level = 1; level <= 40; level++) {
        const char more[] = {'(', 'h', (char)(level - 1), 'h', (char)(level - 1), 'l', 'q', level};
        memcpy(bytes + n, more, sizeof more);
        n += sizeof more;
    }
    memcpy(bytes + n, ".\200\2].", 5);
    lgv_torch_file *f = NULL;
    assert_int_equal(lgv_torch_file_open_memory(bytes, n + 5, "hostile", &f, &err),
                     LGV_ERR_UNSUPPORTED);
    assert_non_null(strstr(err.text, "again and again"));
}

/* A folder of diffusers without safetensors: one .bin, and shards with their index. */
static void folders(void **state)
{
    char *path = golden_path("nochecksum.pt"), *data;
    size_t size;
    OK(lgv_file_read(path, 1 << 20, &data, &size, &err));
    scratch_put("one/m.bin", data, size);
    scratch_put("shards/m-1.bin", data, size);
    static const char index[] = "{\"weight_map\": {\"x\": \"m-1.bin\"}}";
    scratch_put("shards/m.bin.index.json", index, sizeof index - 1);
    for (int i = 0; i < 2; i++) {
        lgv_weights *w = NULL;
        OK(lgv_weights_open(scratch_path(i ? "shards" : "one"), "m", &w, &err));
        assert_int_equal(lgv_weights_count(w), 1);
        assert_int_equal(lgv_weights_find(w, "x")->count, 4);
        assert_null(lgv_weights_find(w, "y"));
        lgv_weights_close(w);
    }
    lgv_free(data);
    lgv_free(path);
}

/* --- Writing --- */
static lgv_status fill(void *arg, void *dst, size_t bytes, lgv_error *e)
{
    golden_unit(arg, (int64_t)(bytes / sizeof(float)), dst);
    return LGV_OK;
}

static lgv_safetensors_writer *some_tensors(void)
{
    static const int64_t counts[] = {(int64_t)1 << 40, -3};
    static const uint16_t halves[] = {0x3c00, 0xc000, 0x7bff};
    lgv_safetensors_writer *w = NULL;
    OK(lgv_safetensors_writer_new(&w, &err));
    OK(lgv_safetensors_add_source(w, "a.weight", LGV_F32, 2, (int64_t[]){3, 5}, fill, "a.weight",
                                  &err));
    OK(lgv_safetensors_add(w, "count", LGV_I64, 1, (int64_t[]){2}, counts, &err));
    OK(lgv_safetensors_add(w, "half", LGV_F16, 2, (int64_t[]){3, 1}, halves, &err));
    OK(lgv_safetensors_add(w, "scalar", LGV_BOOL, 0, NULL, "\1", &err));
    OK(lgv_safetensors_add(w, "empty", LGV_BF16, 2, (int64_t[]){0, 7}, NULL, &err));
    OK(lgv_safetensors_add_source(w, "long", LGV_F32, 1, (int64_t[]){70000}, fill, "long", &err));
    return w;
}

static void check_same(const lgv_tensor_info *a, const lgv_tensor_info *b)
{
    assert_non_null(b);
    assert_int_equal(a->dtype, b->dtype);
    assert_int_equal(a->rank, b->rank);
    for (int i = 0; i < a->rank; i++) assert_int_equal(a->dim[i], b->dim[i]);
    assert_int_equal(a->bytes, b->bytes);
    if (a->bytes) assert_memory_equal(a->data, b->data, a->bytes);
}

static void round_trip(void **state)
{
    const char *pt = scratch_keep("some.pt"), *st = scratch_keep("some.safetensors");
    lgv_safetensors_writer *w = some_tensors();
    OK(lgv_torch_file_write(w, pt, &err));
    OK(lgv_safetensors_write(w, st, &err));
    lgv_safetensors_writer_free(w);
    lgv_torch_file *f = NULL;
    lgv_safetensors *s = NULL;
    assert_true(lgv_torch_file_is(pt));
    assert_false(lgv_torch_file_is(st));
    assert_false(lgv_torch_file_is(scratch_path("nothing here")));
    OK(lgv_torch_file_open(pt, &f, &err));
    OK(lgv_safetensors_open(st, &s, &err));
    assert_int_equal(lgv_torch_file_count(f), 6);
    for (size_t i = 0; i < 6; i++)
        check_same(lgv_torch_file_at(f, i, NULL),
                   lgv_safetensors_find(s, lgv_torch_file_at(f, i, NULL)->name));
    lgv_torch_file_close(f);
    lgv_safetensors_close(s);
}

/* These bytes are known: torch 2.15 reads them with weights_only=True to the same tensors
   (tools/golden/torch_files.py --check). */
static void written_bytes(void **state)
{
    char *data;
    size_t size;
    OK(lgv_file_read(scratch_path("some.pt"), 1 << 20, &data, &size, &err));
    assert_string_equal(test_fnv1a_hex(data, size), "2087ec53d0518ddc");
    lgv_free(data);
}

/* Fails the nth allocation for every n until the file opens. */
static void allocation_failures(void **state)
{
    static const char *const names[] = {"nested.pt", "stream_views.pt"};
    for (int k = 0; k < 2; k++) {
        char *path = golden_path(names[k]);
        for (uint64_t n = 1;; n++) {
            lgv_torch_file *f = NULL;
            lgv_alloc_fail_after(n);
            lgv_status status = lgv_torch_file_open(path, &f, NULL);
            lgv_alloc_fail_after(0);
            lgv_torch_file_close(f);
            if (!status) break;
            assert_int_equal(status, LGV_ERR_MEMORY);
        }
        lgv_free(path);
    }
    for (uint64_t n = 1;; n++) {
        lgv_safetensors_writer *w = some_tensors();
        lgv_alloc_fail_after(n);
        lgv_status status = lgv_torch_file_write(w, scratch_path("short.pt"), NULL);
        lgv_alloc_fail_after(0);
        lgv_safetensors_writer_free(w);
        if (!status) break;
        assert_int_equal(status, LGV_ERR_MEMORY);
    }
}

static int load_golden(void **state)
{
    char *path = golden_path("torch_files.json");
    golden = json_load_file(path, 0, NULL);
    lgv_free(path);
    return !golden;
}

static int finish(void **state)
{
    json_decref(golden);
    return scratch_remove(state);
}

#define GOLDEN(name)                                                                               \
    {                                                                                              \
        "golden " name, golden_file, NULL, NULL, name                                              \
    }

int main(void)
{
    const struct CMUnitTest tests[] = {
        GOLDEN("zip"),
        GOLDEN("protocol4"),
        GOLDEN("protocol5"),
        GOLDEN("stream"),
        GOLDEN("views"),
        GOLDEN("stream_views"),
        GOLDEN("old_views"),
        GOLDEN("nested"),
        GOLDEN("compvis"),
        GOLDEN("tensor"),
        GOLDEN("module"),
        GOLDEN("nochecksum"),
        cmocka_unit_test(stems),
        cmocka_unit_test(real_files),
        cmocka_unit_test(damaged),
        cmocka_unit_test(checksum),
        cmocka_unit_test(hostile_files),
        cmocka_unit_test(nothing_is_called),
        cmocka_unit_test(doubling),
        cmocka_unit_test(round_trip),
        cmocka_unit_test(written_bytes),
        cmocka_unit_test(folders),
        cmocka_unit_test(allocation_failures),
    };
    return cmocka_run_group_tests(tests, load_golden, finish);
}
