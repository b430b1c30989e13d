/* json.c - reading values out of configurations and writing JSON as Python writes it.
   jansson prints reals with 17 digits (1e-4 becomes 0.0001000...); the writer here prints the
   shortest text that reads back equal, so that files stay readable and compare equal with
   diffusers' own. */
#include "json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/file.h"

/* ---- loading ---- */

const char *lgv_json_name_of(const char *path)
{
    const char *p = path + strlen(path);
    int slashes = 0;
    while (p > path) {
        if (p[-1] == '/' && ++slashes == 2) break;
        p--;
    }
    return p;
}

/* jansson's own limit is 2,048 levels, more than any configuration has and than recursion should follow. */
static bool too_deep(const char *text, size_t size, json_error_t *why)
{
    bool quoted = false;
    int depth = 0, line = 1;
    for (size_t i = 0; i < size; i++) {
        char c = text[i];
        if (c == '\n') line++;
        if (quoted && c == '\\')
            i++;
        else if (c == '"')
            quoted = !quoted;
        else if (!quoted && (c == '}' || c == ']'))
            depth--;
        else if (!quoted && (c == '{' || c == '[') && ++depth > LGV_JSON_DEPTH) {
            *why = (json_error_t){.line = line};
            snprintf(why->text, sizeof why->text, "nested deeper than %d levels", LGV_JSON_DEPTH);
            return true;
        }
    }
    return false;
}

json_t *lgv_json_read(const char *text, size_t size, size_t flags, json_error_t *why)
{
    if (too_deep(text, size, why)) return NULL;
    json_t *root = json_loadb(text, size, flags, why);
    /* jansson takes a token it had no memory for to be a wrong one. Ask again before blaming the file. */
    return root ? root : json_loadb(text, size, flags, why);
}

bool lgv_json_short_of_memory(const json_error_t *why)
{
    return lgv_out_of_memory(4096) || json_error_code(why) == json_error_out_of_memory ||
           !why->text[0];
}

lgv_status lgv_json_parse(const char *text, size_t size, const char *name, lgv_json *out,
                          lgv_error *err)
{
    json_error_t e;
    json_t *root = lgv_json_read(text, size, JSON_REJECT_DUPLICATES, &e);
    if (!root) {
        if (lgv_json_short_of_memory(&e))
            return lgv_fail(err, LGV_ERR_MEMORY, "%s: out of memory while parsing", name);
        return lgv_fail(err, LGV_ERR_FORMAT, "%s: not valid JSON: %s (line %d, column %d)", name,
                        e.text, e.line, e.column);
    }
    if (!json_is_object(root)) {
        json_decref(root);
        return lgv_fail(err, LGV_ERR_FORMAT, "%s: the top level must be a JSON object {...}", name);
    }
    char *copy = lgv_strdup(name);
    if (!copy) {
        json_decref(root);
        return lgv_fail(err, LGV_ERR_MEMORY, "%s: out of memory", name);
    }
    *out = (lgv_json){root, copy};
    return LGV_OK;
}

lgv_status lgv_json_load(const char *path, lgv_json *out, lgv_error *err)
{
    char *text = NULL;
    size_t size = 0;
    LGV_TRY(lgv_file_read(path, LGV_JSON_BYTES, &text, &size, err));
    lgv_status status = lgv_json_parse(text, size, lgv_json_name_of(path), out, err);
    lgv_free(text);
    return status;
}

void lgv_json_free(lgv_json *j)
{
    if (!j) return;
    json_decref(j->root);
    lgv_free(j->name);
    *j = (lgv_json){0};
}

/* ---- texts ---- */

/* How many bytes the character at s has, 0 when it is none (RFC 3629: no surrogates, nothing longer than needed). */
static int character(const unsigned char *s)
{
    if (s[0] < 0x80) return 1;
    int n = s[0] >= 0xf0 ? 4 : s[0] >= 0xe0 ? 3 : 2;
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    uint32_t c = s[0] & (0x7fu >> n);
    for (int i = 1; i < n; i++) {
        if ((s[i] & 0xc0) != 0x80) return 0;
        c = c << 6 | (s[i] & 0x3f);
    }
    bool fits = s[0] >= 0xc0 && s[0] < 0xf8 && c >= least[n] && c <= 0x10ffff;
    return fits && (c < 0xd800 || c > 0xdfff) ? n : 0;
}

bool lgv_json_is_utf8(const char *text)
{
    for (const unsigned char *s = (const unsigned char *)text; *s;) {
        int n = character(s);
        if (!n) return false;
        s += n;
    }
    return true;
}

json_t *lgv_json_text_or(const char *text, const char *instead)
{
    return json_string(lgv_json_is_utf8(text) ? text : instead);
}

void lgv_json_append(json_t **list, json_t *value)
{
    if (!*list) {
        json_decref(value);
        return;
    }
    if (!json_array_append_new(*list, value)) return;
    json_decref(*list);
    *list = NULL;
}

/* ---- reading ---- */

/* NULL when absent or null. */
static json_t *value_of(const lgv_json *j, const char *key)
{
    json_t *v = json_object_get(j->root, key);
    return json_is_null(v) ? NULL : v;
}

bool lgv_json_has(const lgv_json *j, const char *key)
{
    return value_of(j, key) != NULL;
}

size_t lgv_json_length(const lgv_json *j, const char *key)
{
    return json_array_size(value_of(j, key));
}

lgv_status lgv_json_wrong(const lgv_json *j, const char *key, const char *wanted, lgv_error *err)
{
    json_t *v = json_object_get(j->root, key);
    if (!v)
        return lgv_fail(err, LGV_ERR_FORMAT, "%s: '%s' must be %s, is missing", j->name, key,
                        wanted);
    char *text = json_dumps(v, JSON_ENCODE_ANY | JSON_COMPACT);
    size_t length = text ? strlen(text) : 0;
    lgv_status status =
        lgv_fail(err, LGV_ERR_FORMAT, "%s: '%s' must be %s, is %.80s%s", j->name, key, wanted,
                 text ? text : "something else", length > 80 ? "..." : "");
    free(text);
    return status;
}

static bool int_in_range(const json_t *v, int64_t low, int64_t high)
{
    return json_is_integer(v) && json_integer_value(v) >= low && json_integer_value(v) <= high;
}

static lgv_status wrong_int(const lgv_json *j, const char *key, int64_t low, int64_t high,
                            bool list, lgv_error *err)
{
    char wanted[128];
    const char *lead = list ? "a list of" : low == 1 && high == INT64_MAX ? "a" : "an";
    const char *s = list ? "s" : "";
    if (low == INT64_MIN && high == INT64_MAX) {
        snprintf(wanted, sizeof wanted, "%s integer%s", lead, s);
    } else if (low == 1 && high == INT64_MAX) {
        snprintf(wanted, sizeof wanted, "%s positive integer%s", lead, s);
    } else if (high == INT64_MAX) {
        snprintf(wanted, sizeof wanted, "%s integer%s of at least %lld", lead, s, (long long)low);
    } else {
        snprintf(wanted, sizeof wanted, "%s integer%s from %lld to %lld", lead, s, (long long)low,
                 (long long)high);
    }
    return lgv_json_wrong(j, key, wanted, err);
}

lgv_status lgv_json_int(const lgv_json *j, const char *key, int64_t low, int64_t high,
                        int64_t fallback, int64_t *out, lgv_error *err)
{
    const json_t *v = value_of(j, key);
    if (v && !int_in_range(v, low, high)) return wrong_int(j, key, low, high, false, err);
    *out = v ? json_integer_value(v) : fallback;
    return LGV_OK;
}

lgv_status lgv_json_double(const lgv_json *j, const char *key, double fallback, double *out,
                           lgv_error *err)
{
    const json_t *v = value_of(j, key);
    if (v && !json_is_number(v)) return lgv_json_wrong(j, key, "a number", err);
    *out = v ? json_number_value(v) : fallback;
    return LGV_OK;
}

lgv_status lgv_json_bool(const lgv_json *j, const char *key, bool fallback, bool *out,
                         lgv_error *err)
{
    const json_t *v = value_of(j, key);
    if (v && !json_is_boolean(v)) return lgv_json_wrong(j, key, "true or false", err);
    *out = v ? json_is_true(v) : fallback;
    return LGV_OK;
}

lgv_status lgv_json_flag(const lgv_json *j, const char *key, int *out, lgv_error *err)
{
    bool value = *out;
    LGV_TRY(lgv_json_bool(j, key, value, &value, err));
    *out = value;
    return LGV_OK;
}

lgv_status lgv_json_string(const lgv_json *j, const char *key, const char *fallback,
                           const char **out, lgv_error *err)
{
    const json_t *v = value_of(j, key);
    if (v && !json_is_string(v)) return lgv_json_wrong(j, key, "a text", err);
    *out = v ? json_string_value(v) : fallback;
    return LGV_OK;
}

static lgv_status too_long(const lgv_json *j, const char *key, size_t capacity, lgv_error *err)
{
    return lgv_fail(err, LGV_ERR_FORMAT, "%s: '%s' has %zu entries, at most %zu are possible",
                    j->name, key, lgv_json_length(j, key), capacity);
}

/* The list getters check every entry before they write the first. */
lgv_status lgv_json_ints(const lgv_json *j, const char *key, int64_t low, int64_t high,
                         int64_t *out, size_t capacity, size_t *count, lgv_error *err)
{
    json_t *list = value_of(j, key);
    if (!list) return LGV_OK;
    size_t n = json_array_size(list);
    bool good = json_is_array(list);
    for (size_t i = 0; i < n; i++) good = good && int_in_range(json_array_get(list, i), low, high);
    if (!good) return wrong_int(j, key, low, high, true, err);
    if (n > capacity) return too_long(j, key, capacity, err);
    for (size_t i = 0; i < n; i++) out[i] = json_integer_value(json_array_get(list, i));
    *count = n;
    return LGV_OK;
}

lgv_status lgv_json_doubles(const lgv_json *j, const char *key, double *out, size_t capacity,
                            size_t *count, lgv_error *err)
{
    json_t *list = value_of(j, key);
    if (!list) return LGV_OK;
    size_t n = json_array_size(list);
    bool good = json_is_array(list);
    for (size_t i = 0; i < n; i++) good = good && json_is_number(json_array_get(list, i));
    if (!good) return lgv_json_wrong(j, key, "a list of numbers", err);
    if (n > capacity) return too_long(j, key, capacity, err);
    for (size_t i = 0; i < n; i++) out[i] = json_number_value(json_array_get(list, i));
    *count = n;
    return LGV_OK;
}

lgv_status lgv_json_strings(const lgv_json *j, const char *key, const char **out, size_t capacity,
                            size_t *count, lgv_error *err)
{
    json_t *list = value_of(j, key);
    if (!list) return LGV_OK;
    size_t n = json_array_size(list);
    bool good = json_is_array(list);
    for (size_t i = 0; i < n; i++) good = good && json_is_string(json_array_get(list, i));
    if (!good) return lgv_json_wrong(j, key, "a list of texts", err);
    if (n > capacity) return too_long(j, key, capacity, err);
    for (size_t i = 0; i < n; i++) out[i] = json_string_value(json_array_get(list, i));
    *count = n;
    return LGV_OK;
}

/* ---- writing ---- */

enum { ONE_LINE = -1 }; /* instead of an indentation depth */

typedef struct writer {
    char *data;
    size_t size, capacity;
    bool sort;
    lgv_error *err;
} writer;

static lgv_status put(writer *w, const char *text, size_t size)
{
    LGV_TRY(lgv_grow(&w->data, &w->capacity, w->size + size + 1, 1, w->err));
    memcpy(w->data + w->size, text, size);
    w->size += size;
    w->data[w->size] = '\0';
    return LGV_OK;
}

static lgv_status put_text(writer *w, const char *text)
{
    return put(w, text, strlen(text));
}

static lgv_status put_break(writer *w, int depth)
{
    if (depth == ONE_LINE) return LGV_OK;
    LGV_TRY(put(w, "\n", 1));
    for (int i = 0; i < depth; i++) LGV_TRY(put(w, "  ", 2));
    return LGV_OK;
}

/* Python's repr(float): the fewest digits that read back equal; an exponent below 1e-4 and from
   1e16. */
static lgv_status put_real(writer *w, double v)
{
    char text[64];
    int precision = 0;
    do {
        snprintf(text, sizeof text, "%.*e", precision, v);
    } while (strtod(text, NULL) != v && ++precision < 17);
    int exponent = (int)strtol(strchr(text, 'e') + 1, NULL, 10);
    if (exponent >= -4 && exponent < 16)
        snprintf(text, sizeof text, "%.*f", precision > exponent ? precision - exponent : 1, v);
    for (char *p = text; *p; p++) /* the locale's decimal mark, whatever it is */
        if (!strchr("0123456789+-e", *p)) *p = '.';
    return put_text(w, text);
}

static lgv_status put_string(writer *w, json_t *v)
{
    char *text = json_dumps(v, JSON_ENCODE_ANY | JSON_ENSURE_ASCII);
    if (!text) return lgv_fail(w->err, LGV_ERR_MEMORY, "out of memory while writing JSON");
    lgv_status status = put_text(w, text);
    free(text);
    return status;
}

static lgv_status put_value(writer *w, json_t *v, int depth);

static lgv_status put_array(writer *w, json_t *v, int depth)
{
    size_t n = json_array_size(v);
    int inner = depth == ONE_LINE ? ONE_LINE : depth + 1;
    LGV_TRY(put(w, "[", 1));
    for (size_t i = 0; i < n; i++) {
        if (i) LGV_TRY(put_text(w, depth == ONE_LINE ? ", " : ","));
        LGV_TRY(put_break(w, inner));
        LGV_TRY(put_value(w, json_array_get(v, i), inner));
    }
    if (n) LGV_TRY(put_break(w, depth));
    return put(w, "]", 1);
}

static int compare_keys(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static lgv_status put_members(writer *w, json_t *v, const char **keys, size_t n, int depth)
{
    int inner = depth == ONE_LINE ? ONE_LINE : depth + 1;
    LGV_TRY(put(w, "{", 1));
    for (size_t i = 0; i < n; i++) {
        if (i) LGV_TRY(put_text(w, depth == ONE_LINE ? ", " : ","));
        LGV_TRY(put_break(w, inner));
        json_t *name = json_string(keys[i]);
        if (!name) return lgv_fail(w->err, LGV_ERR_MEMORY, "out of memory while writing JSON");
        lgv_status status = put_string(w, name);
        json_decref(name);
        LGV_TRY(status);
        LGV_TRY(put(w, ": ", 2));
        LGV_TRY(put_value(w, json_object_get(v, keys[i]), inner));
    }
    if (n) LGV_TRY(put_break(w, depth));
    return put(w, "}", 1);
}

static lgv_status put_object(writer *w, json_t *v, int depth)
{
    size_t n = 0;
    const char **keys = lgv_alloc(json_object_size(v), sizeof *keys);
    if (!keys) return lgv_fail(w->err, LGV_ERR_MEMORY, "out of memory while writing JSON");
    for (void *it = json_object_iter(v); it; it = json_object_iter_next(v, it))
        keys[n++] = json_object_iter_key(it);
    if (w->sort && n) qsort(keys, n, sizeof *keys, compare_keys);
    lgv_status status = put_members(w, v, keys, n, depth);
    lgv_free(keys);
    return status;
}

static lgv_status put_value(writer *w, json_t *v, int depth)
{
    char number[32];
    switch (json_typeof(v)) {
    case JSON_OBJECT: return put_object(w, v, depth);
    case JSON_ARRAY: return put_array(w, v, depth);
    case JSON_STRING: return put_string(w, v);
    case JSON_REAL: return put_real(w, json_real_value(v));
    case JSON_INTEGER:
        snprintf(number, sizeof number, "%lld", (long long)json_integer_value(v));
        return put_text(w, number);
    case JSON_TRUE: return put_text(w, "true");
    case JSON_FALSE: return put_text(w, "false");
    case JSON_NULL: break;
    }
    return put_text(w, "null");
}

static lgv_status text_of(const json_t *root, bool sort, int depth, char **text, size_t *size,
                          lgv_error *err)
{
    writer w = {.sort = sort, .err = err};
    /* jansson's iterators take no const object, though they change nothing. */
    union {
        const json_t *in;
        json_t *out;
    } cast = {root};
    lgv_status status = put_value(&w, cast.out, depth);
    if (!status && depth != ONE_LINE) status = put(&w, "\n", 1);
    if (status) {
        lgv_free(w.data);
        return status;
    }
    *text = w.data;
    *size = w.size;
    return LGV_OK;
}

lgv_status lgv_json_text(const json_t *root, bool sort, char **text, size_t *size, lgv_error *err)
{
    return text_of(root, sort, 0, text, size, err);
}

lgv_status lgv_json_line(const json_t *root, char **text, size_t *size, lgv_error *err)
{
    return text_of(root, false, ONE_LINE, text, size, err);
}

lgv_status lgv_json_save(const char *path, const json_t *root, bool sort, lgv_error *err)
{
    char *text = NULL;
    size_t size = 0;
    LGV_TRY(lgv_json_text(root, sort, &text, &size, err));
    lgv_status status = lgv_file_write(path, text, size, err);
    lgv_free(text);
    return status;
}
