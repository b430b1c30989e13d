/* metadata.c - reading metadata.csv, metadata.jsonl, .json and .cls.
   A mistake names the file and the line, because such files are written by hand and by scripts. */
#include "metadata.h"

#include <ctype.h>
#include <string.h>

#include "json.h"

static const char *const label_keys[] = {"label", "class", "class_name", "cls"};
enum { LABEL_KEYS = sizeof label_keys / sizeof *label_keys };

static lgv_status too_long(const char *name, int64_t line, lgv_error *err)
{
    return lgv_fail(err, LGV_ERR_FORMAT, "%s, line %lld: a label has at most %d bytes", name,
                    (long long)line, LGV_LABEL_BYTES - 1);
}

/* ---- CSV ---- */

typedef struct csv {
    const char *data;
    size_t size, at;
    const char *name;
    int64_t line;
    char *text; /* the row's fields, each with a final NUL */
    size_t used, capacity;
    size_t field[LGV_METADATA_COLUMNS]; /* where each begins in text */
    int fields;
    lgv_error *err;
} csv;

static lgv_status csv_wrong(const csv *c, const char *what)
{
    return lgv_fail(c->err, LGV_ERR_FORMAT, "%s, line %lld: %s", c->name, (long long)c->line, what);
}

static lgv_status csv_put(csv *c, char byte)
{
    if (c->used >= LGV_METADATA_ROW) return csv_wrong(c, "the row is longer than 1 MiB");
    LGV_TRY(lgv_grow(&c->text, &c->capacity, c->used + 1, 1, c->err));
    c->text[c->used++] = byte;
    return LGV_OK;
}

/* A field in quotes; the first one is already taken. */
static lgv_status csv_quoted(csv *c)
{
    for (;;) {
        if (c->at >= c->size) return csv_wrong(c, "a quote is never closed");
        char byte = c->data[c->at++];
        if (byte == '"') {
            if (c->at >= c->size || c->data[c->at] != '"') break;
            c->at++;
        }
        if (byte == '\n') c->line++;
        if (!byte) return csv_wrong(c, "a zero byte; is this a text file?");
        LGV_TRY(csv_put(c, byte));
    }
    if (c->at < c->size && !memchr(",\r\n", c->data[c->at], 3))
        return csv_wrong(c, "text follows a closing quote");
    return LGV_OK;
}

/* One row; false in *any at the end of the file. Leaves c->line at the row that follows. */
static lgv_status csv_row(csv *c, bool *any)
{
    c->used = 0;
    c->fields = 0;
    *any = c->at < c->size;
    for (bool more = *any; more;) {
        if (c->fields == LGV_METADATA_COLUMNS) return csv_wrong(c, "more than 1,024 columns");
        c->field[c->fields++] = c->used;
        if (c->at < c->size && c->data[c->at] == '"') {
            c->at++;
            LGV_TRY(csv_quoted(c));
        }
        while (c->at < c->size && c->data[c->at] != ',' && c->data[c->at] != '\n') {
            char byte = c->data[c->at++];
            if (!byte) return csv_wrong(c, "a zero byte; is this a text file?");
            if (byte != '\r') LGV_TRY(csv_put(c, byte));
        }
        LGV_TRY(csv_put(c, 0));
        more = c->at < c->size && c->data[c->at] == ',';
        if (c->at < c->size) c->at++;
    }
    return LGV_OK;
}

static const char *csv_field(const csv *c, int i)
{
    return i >= 0 && i < c->fields ? c->text + c->field[i] : "";
}

static int csv_column(const csv *c, const char *key)
{
    for (int i = 0; i < c->fields; i++)
        if (!strcmp(csv_field(c, i), key)) return i;
    return -1;
}

static lgv_status csv_rows(csv *c, lgv_metadata_row row, void *user)
{
    bool any;
    LGV_TRY(csv_row(c, &any));
    int file = any ? csv_column(c, "file_name") : -1, label = -1;
    for (int i = 0; i < LABEL_KEYS && label < 0; i++) label = csv_column(c, label_keys[i]);
    if (file < 0) return csv_wrong(c, "the first row names no column file_name");
    for (;;) {
        c->line++;
        LGV_TRY(csv_row(c, &any));
        if (!any) return LGV_OK;
        const char *name = csv_field(c, file), *text = csv_field(c, label);
        if (c->fields == 1 && !c->text[0]) continue; /* an empty line */
        if (!name[0]) return csv_wrong(c, "file_name is empty");
        if (strlen(text) >= LGV_LABEL_BYTES) return too_long(c->name, c->line, c->err);
        LGV_TRY(row(user, name, text[0] ? text : NULL, c->err));
    }
}

lgv_status lgv_metadata_csv(const char *data, size_t size, const char *name, lgv_metadata_row row,
                            void *user, lgv_error *err)
{
    csv *c = lgv_zalloc(1, sizeof *c);
    if (!c) return lgv_fail(err, LGV_ERR_MEMORY, "out of memory while reading '%s'", name);
    *c = (csv){.data = data, .size = size, .name = name, .line = 1, .err = err};
    if (size >= 3 && !memcmp(data, "\xef\xbb\xbf", 3)) c->at = 3; /* as spreadsheets write it */
    lgv_status s = csv_rows(c, row, user);
    lgv_free(c->text);
    lgv_free(c);
    return s;
}

/* ---- JSON ---- */

/* The first label key of the object -> label. */
static lgv_status take_label(const json_t *root, const char *name, int64_t line,
                             char label[LGV_LABEL_BYTES], bool *found, lgv_error *err)
{
    *found = false;
    for (int i = 0; i < LABEL_KEYS && !*found; i++) {
        const json_t *v = json_object_get(root, label_keys[i]);
        if (json_is_string(v)) {
            const char *text = json_string_value(v);
            if (strlen(text) >= LGV_LABEL_BYTES) return too_long(name, line, err);
            memcpy(label, text, strlen(text) + 1);
            *found = text[0] != 0;
        } else if (json_is_integer(v)) {
            char *text = lgv_format("%lld", (long long)json_integer_value(v));
            if (!text)
                return lgv_fail(err, LGV_ERR_MEMORY, "out of memory while reading '%s'", name);
            memcpy(label, text, strlen(text) + 1);
            lgv_free(text);
            *found = true;
        } else if (v && !json_is_null(v)) {
            return lgv_fail(err, LGV_ERR_FORMAT,
                            "%s, line %lld: '%s' must be a text or a whole number", name,
                            (long long)line, label_keys[i]);
        }
    }
    return LGV_OK;
}

static lgv_status load_object(const char *data, size_t size, const char *name, int64_t line,
                              json_t **out, lgv_error *err)
{
    json_error_t e;
    json_t *root = lgv_json_read(data, size, 0, &e);
    if (!root && lgv_json_short_of_memory(&e))
        return lgv_fail(err, LGV_ERR_MEMORY, "%s: out of memory", name);
    if (!root)
        return lgv_fail(err, LGV_ERR_FORMAT, "%s, line %lld: %s", name, (long long)line, e.text);
    if (!json_is_object(root)) {
        json_decref(root);
        return lgv_fail(err, LGV_ERR_FORMAT, "%s, line %lld: not a JSON object", name,
                        (long long)line);
    }
    *out = root;
    return LGV_OK;
}

static lgv_status jsonl_row(const char *data, size_t size, const char *name, int64_t line,
                            lgv_metadata_row row, void *user, lgv_error *err)
{
    json_t *root = NULL;
    char label[LGV_LABEL_BYTES];
    bool found;
    LGV_TRY(load_object(data, size, name, line, &root, err));
    const char *file = json_string_value(json_object_get(root, "file_name"));
    lgv_status s = LGV_OK;
    if (!file || !file[0])
        s = lgv_fail(err, LGV_ERR_FORMAT, "%s, line %lld: there is no file_name", name,
                     (long long)line);
    if (!s) s = take_label(root, name, line, label, &found, err);
    if (!s) s = row(user, file, found ? label : NULL, err);
    json_decref(root);
    return s;
}

lgv_status lgv_metadata_jsonl(const char *data, size_t size, const char *name, lgv_metadata_row row,
                              void *user, lgv_error *err)
{
    int64_t line = 1;
    for (size_t at = 0; at < size; line++) {
        const char *end = memchr(data + at, '\n', size - at);
        size_t n = (end ? (size_t)(end - data) : size) - at, blank = 0;
        if (n > LGV_METADATA_ROW)
            return lgv_fail(err, LGV_ERR_FORMAT, "%s, line %lld: the row is longer than 1 MiB",
                            name, (long long)line);
        while (blank < n && memchr(" \t\r", data[at + blank], 3)) blank++;
        if (blank < n) LGV_TRY(jsonl_row(data + at, n, name, line, row, user, err));
        at += n + 1;
    }
    return LGV_OK;
}

lgv_status lgv_metadata_json(const char *data, size_t size, const char *name,
                             char label[LGV_LABEL_BYTES], bool *found, lgv_error *err)
{
    *found = false;
    json_error_t e;
    json_t *root = lgv_json_read(data, size, JSON_DECODE_ANY, &e);
    if (!root)
        return lgv_json_short_of_memory(&e)
                   ? lgv_fail(err, LGV_ERR_MEMORY, "%s: out of memory", name)
                   : lgv_fail(err, LGV_ERR_FORMAT, "%s: %s", name, e.text);
    lgv_status s = LGV_OK;
    if (json_is_object(root)) s = take_label(root, name, 1, label, found, err);
    json_decref(root);
    return s;
}

lgv_status lgv_metadata_cls(const char *data, size_t size, const char *name,
                            char label[LGV_LABEL_BYTES], lgv_error *err)
{
    while (size && isspace((unsigned char)data[size - 1])) size--;
    while (size && isspace((unsigned char)*data)) data++, size--;
    if (!size || memchr(data, 0, size))
        return lgv_fail(err, LGV_ERR_FORMAT, "%s: a label is a number or a name", name);
    if (size >= LGV_LABEL_BYTES) return too_long(name, 1, err);
    memcpy(label, data, size);
    label[size] = 0;
    return LGV_OK;
}
