/* test_json.c - typed getters and their sentences; text equal to Python's json.dumps. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <string.h>

#include "core/core.h"
#include "io/json.h"
#include "scratch.h"

static lgv_json parse(const char *text)
{
    lgv_json j = {0};
    lgv_error err = {0};
    if (lgv_json_parse(text, strlen(text), "unet/config.json", &j, &err)) fail_msg("%s", err.text);
    return j;
}

static void getters(void **state)
{
    lgv_json j =
        parse("{\"i\": 7, \"d\": 0.5, \"b\": true, \"s\": \"hi\", \"n\": null, \"li\": [1, 2, 3], "
              "\"ld\": [1, 0.25], \"ls\": [\"x\", \"y\"], \"e\": []}");
    int64_t i = 0, li[4] = {9, 9, 9, 9};
    double d = 0, ld[2] = {0};
    bool b = false;
    const char *s = NULL, *ls[2] = {0};
    size_t n = 99;
    assert_int_equal(lgv_json_int(&j, "i", 1, 10, 3, &i, NULL), LGV_OK);
    assert_int_equal(i, 7);
    assert_int_equal(lgv_json_int(&j, "n", 1, 10, 3, &i, NULL), LGV_OK);
    assert_int_equal(i, 3);
    assert_int_equal(lgv_json_int(&j, "absent", 1, 10, 4, &i, NULL), LGV_OK);
    assert_int_equal(i, 4);
    assert_int_equal(lgv_json_double(&j, "d", 0, &d, NULL), LGV_OK);
    assert_true(d == 0.5);
    assert_int_equal(lgv_json_double(&j, "i", 0, &d, NULL), LGV_OK);
    assert_true(d == 7);
    assert_int_equal(lgv_json_bool(&j, "b", false, &b, NULL), LGV_OK);
    assert_true(b);
    assert_int_equal(lgv_json_string(&j, "s", NULL, &s, NULL), LGV_OK);
    assert_string_equal(s, "hi");
    assert_int_equal(lgv_json_string(&j, "n", "default", &s, NULL), LGV_OK);
    assert_string_equal(s, "default");
    assert_int_equal(lgv_json_ints(&j, "absent", 1, 9, li, 4, &n, NULL), LGV_OK);
    assert_int_equal(n, 99);
    assert_int_equal(lgv_json_ints(&j, "li", 1, 9, li, 4, &n, NULL), LGV_OK);
    assert_int_equal(n, 3);
    assert_int_equal(li[2], 3);
    assert_int_equal(lgv_json_doubles(&j, "ld", ld, 2, &n, NULL), LGV_OK);
    assert_true(n == 2 && ld[0] == 1 && ld[1] == 0.25);
    assert_int_equal(lgv_json_strings(&j, "ls", ls, 2, &n, NULL), LGV_OK);
    assert_string_equal(ls[1], "y");
    assert_int_equal(lgv_json_ints(&j, "e", 1, 9, li, 4, &n, NULL), LGV_OK);
    assert_int_equal(n, 0);
    assert_true(lgv_json_has(&j, "i") && !lgv_json_has(&j, "n") && !lgv_json_has(&j, "absent"));
    assert_int_equal(lgv_json_length(&j, "li"), 3);
    assert_int_equal(lgv_json_length(&j, "i"), 0);
    lgv_json_free(&j);
    lgv_json_free(NULL);
}

static void sentences(void **state)
{
    lgv_json j =
        parse("{\"block_out_channels\": \"abc\", \"layers\": 0, \"x\": [1, 2, 3], \"f\": 1.5}");
    lgv_error err = {0};
    int64_t v[2] = {5, 6};
    double d;
    bool b;
    size_t n = 2;
    assert_int_equal(lgv_json_ints(&j, "block_out_channels", 1, INT64_MAX, v, 2, &n, &err),
                     LGV_ERR_FORMAT);
    assert_string_equal(
        err.text,
        "unet/config.json: 'block_out_channels' must be a list of positive integers, is \"abc\"");
    assert_int_equal(lgv_json_int(&j, "layers", 1, INT64_MAX, 1, v, &err), LGV_ERR_FORMAT);
    assert_string_equal(err.text, "unet/config.json: 'layers' must be a positive integer, is 0");
    assert_int_equal(lgv_json_int(&j, "f", 0, 9, 1, v, &err), LGV_ERR_FORMAT);
    assert_string_equal(err.text, "unet/config.json: 'f' must be an integer from 0 to 9, is 1.5");
    assert_int_equal(lgv_json_ints(&j, "x", 1, 9, v, 2, &n, &err), LGV_ERR_FORMAT);
    assert_string_equal(err.text, "unet/config.json: 'x' has 3 entries, at most 2 are possible");
    assert_int_equal(lgv_json_double(&j, "x", 0, &d, &err), LGV_ERR_FORMAT);
    assert_string_equal(err.text, "unet/config.json: 'x' must be a number, is [1,2,3]");
    assert_int_equal(lgv_json_bool(&j, "layers", false, &b, &err), LGV_ERR_FORMAT);
    assert_string_equal(err.text, "unet/config.json: 'layers' must be true or false, is 0");
    assert_true(v[0] == 5 && v[1] == 6 && n == 2);
    lgv_json_free(&j);
}

static void bad_files(void **state)
{
    static const char *const text[] = {"",
                                       "{",
                                       "[1]",
                                       "{\"a\": 1, \"a\": 2}",
                                       "{\"a\": NaN}",
                                       "{\"a\": 1} x",
                                       "{\"a\": \"\xff\"}",
                                       "{\"a\": 1e999}"};
    for (size_t i = 0; i < sizeof text / sizeof *text; i++) {
        lgv_json j = {0};
        lgv_error err = {0};
        assert_int_equal(lgv_json_parse(text[i], strlen(text[i]), "c.json", &j, &err),
                         LGV_ERR_FORMAT);
        assert_non_null(strstr(err.text, "c.json: "));
        assert_null(j.root);
    }
    lgv_json j = {0};
    assert_int_equal(lgv_json_load(scratch_path("absent.json"), &j, NULL), LGV_ERR_IO);
}

static void writing(void **state)
{
    /* json.dumps({"b": [1, 2.5], "a": {}, "c": 1e-06, "d": 0.0001, "e": [], "f": "é\n", "g": 1e16,
       "h": 10.0, "i": 0.1, "j": None, "k": True, "l": {"z": -0.0}, "m": 123456.789, "n": 5e-324,
                   "o": 1.7976931348623157e+308, "p": 0.02, "q": 1e22}, indent=2, sort_keys=True) */
    static const char want[] =
        "{\n  \"a\": {},\n  \"b\": [\n    1,\n    2.5\n  ],\n  \"c\": 1e-06,\n  \"d\": 0.0001,\n"
        "  \"e\": [],\n  \"f\": \"\\u00E9\\n\",\n  \"g\": 1e+16,\n  \"h\": 10.0,\n  \"i\": 0.1,\n"
        "  \"j\": null,\n  \"k\": true,\n  \"l\": {\n    \"z\": -0.0\n  },\n  \"m\": 123456.789,\n"
        "  \"n\": 5e-324,\n  \"o\": 1.7976931348623157e+308,\n  \"p\": 0.02,\n  \"q\": 1e+22\n}\n";
    lgv_json j = parse(
        "{\"b\": [1, 2.5], \"a\": {}, \"c\": 1e-6, \"d\": 0.0001, \"e\": [], \"f\": "
        "\"\xc3\xa9\\n\", "
        "\"g\": 1e16, \"h\": 10.0, \"i\": 0.1, \"j\": null, \"k\": true, \"l\": {\"z\": -0.0}, "
        "\"m\": 123456.789, \"n\": 5e-324, \"o\": 1.7976931348623157e308, \"p\": 2e-2, \"q\": "
        "1e22}");
    char *text = NULL;
    size_t size = 0;
    assert_int_equal(lgv_json_text(j.root, true, &text, &size, NULL), LGV_OK);
    assert_string_equal(text, want);
    assert_int_equal(size, strlen(want));
    lgv_free(text);
    const char *path = scratch_path("saved.json");
    assert_int_equal(lgv_json_save(path, j.root, true, NULL), LGV_OK);
    lgv_json again = {0};
    assert_int_equal(lgv_json_load(path, &again, NULL), LGV_OK);
    assert_true(json_equal(j.root, again.root));
    assert_non_null(strstr(again.name, "/saved.json"));
    lgv_json_free(&again);
    lgv_json_free(&j);
    j = parse("{\"step\": 3, \"loss\": 0.25, \"l\": [1, 2]}");
    assert_int_equal(lgv_json_line(j.root, &text, &size, NULL), LGV_OK);
    assert_string_equal(text, "{\"step\": 3, \"loss\": 0.25, \"l\": [1, 2]}");
    lgv_free(text);
    lgv_json_free(&j);
}

static void texts_that_json_can_hold(void **state)
{
    static const char *const good[] = {"",
                                       "a",
                                       "\xc3\xa9",
                                       "\xe2\x82\xac.",
                                       "\xed\x9f\xbf",
                                       "\xf0\x9f\x98\x80",
                                       "\xf4\x8f\xbf\xbf"};
    static const char *const bad[] = {
        "\x80",  "\xc3",         "\xc0\x80",         "\xe0\x9f\xbf",     "\xe2\x82",
        "a\xff", "\xed\xa0\x80", "\xf0\x8f\xbf\xbf", "\xf4\x90\x80\x80", "\xf8\x88\x80\x80\x80"};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        json_t *v = lgv_json_text_or(good[i], "other");
        assert_string_equal(json_string_value(v), good[i]);
        json_decref(v);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        json_t *v = json_string(bad[i]);
        assert_null(v); /* jansson agrees */
        v = lgv_json_text_or(bad[i], "other");
        assert_string_equal(json_string_value(v), "other");
        json_decref(v);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(getters),
        cmocka_unit_test(sentences),
        cmocka_unit_test(bad_files),
        cmocka_unit_test(writing),
        cmocka_unit_test(texts_that_json_can_hold),
    };
    return cmocka_run_group_tests_name("json", tests, NULL, scratch_remove);
}
