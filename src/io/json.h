/* json.h - typed access to JSON configuration files, on jansson.
   Configurations are written by people and by other programs: every getter says which file and
   which key is wrong, what was wanted and what stands there. A key that is absent and one that is
   null are the same, as in diffusers' configurations. */
#ifndef LGV_JSON_H
#define LGV_JSON_H

#include <jansson.h>

#include "core/core.h"

/* An object from a file. root may be read with jansson directly where the getters do not fit. */
#define LGV_DIFFUSERS_VERSION "0.42.1" /* whose behaviour is copied; diffusers accepts any */

typedef struct lgv_json {
    json_t *root; /* owned; always an object */
    char *name;   /* what messages call it: the last two parts of the path, "unet/config.json" */
} lgv_json;

enum { LGV_JSON_BYTES = 64 * 1024 * 1024, LGV_JSON_DEPTH = 64 }; /* more is refused */

/* json_loadb with its flags and the limit of depth; NULL: not JSON, or no memory to tell, which is the next question. */
json_t *lgv_json_read(const char *text, size_t size, size_t flags, json_error_t *why);
bool lgv_json_short_of_memory(const json_error_t *why);
/* Duplicate keys, a top level that is no object, and NaN or Infinity are LGV_ERR_FORMAT. */
lgv_status lgv_json_load(const char *path, lgv_json *out, lgv_error *err);
lgv_status lgv_json_parse(const char *text, size_t size, const char *name, lgv_json *out,
                          lgv_error *err);
const char *lgv_json_name_of(const char *path); /* its last two parts, what messages call a file */
void lgv_json_free(lgv_json *j); /* clears *j; NULL is legal */

/* Text that JSON can hold. jansson takes no other and does not tell that from having no memory. */
bool lgv_json_is_utf8(const char *text);
/* The text, or `instead` where it is not UTF-8; NULL: out of memory. */
json_t *lgv_json_text_or(const char *text, const char *instead);
/* Appends value, which it takes, to *list. When there is no memory, also none for value (NULL), *list is dropped and
   becomes NULL and stays that, so that one look at the end is enough. */
void lgv_json_append(json_t **list, json_t *value);

bool lgv_json_has(const lgv_json *j, const char *key);      /* present and not null */
size_t lgv_json_length(const lgv_json *j, const char *key); /* of a list, else 0 */

/* Each writes the value, or `fallback` when the key is absent or null. */
lgv_status lgv_json_int(const lgv_json *j, const char *key, int64_t low, int64_t high,
                        int64_t fallback, int64_t *out, lgv_error *err);
lgv_status lgv_json_double(const lgv_json *j, const char *key, double fallback, double *out,
                           lgv_error *err);
lgv_status lgv_json_bool(const lgv_json *j, const char *key, bool fallback, bool *out,
                         lgv_error *err);
/* The same as 0 or 1; *out keeps its value where the key is absent. */
lgv_status lgv_json_flag(const lgv_json *j, const char *key, int *out, lgv_error *err);
/* The text belongs to j (or is fallback, which may be NULL). */
lgv_status lgv_json_string(const lgv_json *j, const char *key, const char *fallback,
                           const char **out, lgv_error *err);

/* Lists: at most `capacity` entries go to out, their number to *count. When the key is absent or
   null, out and *count stay as they are, so that callers put the default there first. */
lgv_status lgv_json_ints(const lgv_json *j, const char *key, int64_t low, int64_t high,
                         int64_t *out, size_t capacity, size_t *count, lgv_error *err);
lgv_status lgv_json_doubles(const lgv_json *j, const char *key, double *out, size_t capacity,
                            size_t *count, lgv_error *err);
lgv_status lgv_json_strings(const lgv_json *j, const char *key, const char **out, size_t capacity,
                            size_t *count, lgv_error *err);

/* A failure about a key for callers' own checks: "unet/config.json: 'key' must be <wanted>, is
   <value>". */
lgv_status lgv_json_wrong(const lgv_json *j, const char *key, const char *wanted, lgv_error *err);

/* The text as Python's json.dumps(indent=2, sort_keys=True) + "\n" writes it (shortest numbers that
   round-trip), so that a file saved here and one saved by diffusers differ only where the values
   do. Free with lgv_free. sort = false keeps the order of insertion. */
lgv_status lgv_json_text(const json_t *root, bool sort, char **text, size_t *size, lgv_error *err);
lgv_status lgv_json_save(const char *path, const json_t *root, bool sort,
                         lgv_error *err); /* atomically */
/* The same on one line, for JSON-lines logs, without the final newline. */
lgv_status lgv_json_line(const json_t *root, char **text, size_t *size, lgv_error *err);

#endif
