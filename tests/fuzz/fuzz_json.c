/* fuzz_json.c - the getters that read model_index.json and every other configuration, and the writer:
   what it writes reads back equal. */
#include "core/core.h"
#include "fuzz.h"
#include "io/json.h"

static void get_all(const lgv_json *j, const char *key)
{
    int64_t i, list[4];
    double d, reals[4];
    bool b;
    const char *text, *texts[4];
    size_t n = 0;
    lgv_error err = {0};
    (void)lgv_json_has(j, key);
    MUST_SAY(lgv_json_int(j, key, -5, 1000, 7, &i, &err), err);
    (void)lgv_json_double(j, key, 1, &d, NULL);
    (void)lgv_json_bool(j, key, true, &b, NULL);
    (void)lgv_json_string(j, key, NULL, &text, NULL);
    (void)lgv_json_ints(j, key, 1, INT64_MAX, list, 4, &n, NULL);
    (void)lgv_json_doubles(j, key, reals, 4, &n, NULL);
    (void)lgv_json_strings(j, key, texts, 4, &n, NULL);
    MUST(n <= 4);
}

static void write_and_read(const lgv_json *j, bool sort)
{
    char *text = NULL, *line = NULL;
    size_t size = 0, length = 0;
    lgv_json again = {0};
    MUST(!lgv_json_text(j->root, sort, &text, &size, NULL));
    MUST(!lgv_json_parse(text, size, "written", &again, NULL));
    MUST(json_equal(j->root, again.root));
    lgv_json_free(&again);
    MUST(!lgv_json_line(j->root, &line, &length, NULL));
    for (size_t i = 0; i < length; i++) MUST(line[i] != '\n');
    lgv_free(text);
    lgv_free(line);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    lgv_json j = {0};
    lgv_error err = {0};
    lgv_status status = lgv_json_parse((const char *)data, size, "input", &j, &err);
    MUST_SAY(status, err);
    if (status) return 0;
    get_all(&j, "_class_name");
    get_all(&j, "unet");
    write_and_read(&j, size & 1);
    lgv_json_free(&j);
    return 0;
}
