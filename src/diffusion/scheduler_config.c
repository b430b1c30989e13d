/* scheduler_config.c - scheduler_config.json: fields, defaults, loading, saving, switching
   classes. One table names every field with its JSON key, its type and the classes that have it,
   so that all five operations follow from one line per field. Which fields were stated is
   remembered, because diffusers' from_config lets only those survive a change of class. */
#include <math.h>
#include <stddef.h>
#include <string.h>

#include "core/core.h"
#include "core/file.h"
#include "diffusion/scheduler.h"
#include "diffusion/scheduler_fields.h"
#include "io/json.h"

enum { MAX_T = 1000000 };

typedef lgv_scheduler_field field;

static void *at(lgv_scheduler_config *cfg, const field *f)
{
    return (char *)cfg + f->at;
}

static const void *at_const(const lgv_scheduler_config *cfg, const field *f)
{
    return (const char *)cfg + f->at;
}

static lgv_status need_class(const char *name, unsigned *bit, lgv_error *err)
{
    *bit = lgv_scheduler_class(name);
    if (*bit) return LGV_OK;
    return lgv_fail(err, LGV_ERR_UNSUPPORTED,
                    "scheduler class '%s' is not one that this build knows; name a sampler such as "
                    "'dpmpp_2m' instead",
                    name);
}

lgv_status lgv_scheduler_config_init(lgv_scheduler_config *cfg, const char *class_name,
                                     lgv_error *err)
{
    unsigned bit;
    if (!class_name) class_name = lgv_scheduler_first_class();
    LGV_TRY(need_class(class_name, &bit, err));
    lgv_scheduler_defaults(bit, cfg);
    memcpy(cfg->class_name, class_name, strlen(class_name) + 1);
    for (int i = 0; i < lgv_scheduler_field_count; i++)
        if (lgv_scheduler_fields[i].classes & bit) cfg->given |= UINT64_C(1) << i;
    return LGV_OK;
}

void lgv_scheduler_config_clear(lgv_scheduler_config *cfg)
{
    if (!cfg) return;
    lgv_free(cfg->trained_betas);
    memset(cfg, 0, sizeof *cfg);
}

static lgv_status read_enum(const lgv_json *j, const field *f, int *value, lgv_error *err)
{
    const char *text;
    LGV_TRY(lgv_json_string(j, f->key, f->names[*value], &text, err));
    for (int i = 0; f->names[i]; i++) {
        if (!strcmp(text, f->names[i])) {
            *value = i;
            return LGV_OK;
        }
    }
    char wanted[256] = "one of";
    for (int i = 0; f->names[i]; i++) {
        strncat(wanted, i ? ", " : " ", sizeof wanted - strlen(wanted) - 1);
        strncat(wanted, f->names[i], sizeof wanted - strlen(wanted) - 1);
    }
    return lgv_json_wrong(j, f->key, wanted, err);
}

static lgv_status read_betas(const lgv_json *j, const field *f, lgv_scheduler_config *cfg,
                             lgv_error *err)
{
    size_t n = lgv_json_length(j, f->key);
    if (n < 1 || n > MAX_T) return lgv_json_wrong(j, f->key, "a list of 1 to 1000000 numbers", err);
    double *betas = lgv_alloc(n, sizeof *betas);
    if (!betas) return lgv_fail(err, LGV_ERR_MEMORY, "out of memory for %zu trained betas", n);
    size_t count = n;
    lgv_status status = lgv_json_doubles(j, f->key, betas, n, &count, err);
    if (status) {
        lgv_free(betas);
        return status;
    }
    lgv_free(cfg->trained_betas);
    cfg->trained_betas = betas;
    cfg->trained_beta_count = (int64_t)count;
    return LGV_OK;
}

/* A list of steps 0 .. 63 as bits. */
static lgv_status read_steps(const lgv_json *j, const field *f, uint64_t *steps, lgv_error *err)
{
    int64_t list[64];
    size_t count = 0;
    LGV_TRY(lgv_json_ints(j, f->key, 0, 63, list, 64, &count, err));
    *steps = 0;
    for (size_t i = 0; i < count; i++) *steps |= UINT64_C(1) << list[i];
    return LGV_OK;
}

static lgv_status read_field(const lgv_json *j, const field *f, lgv_scheduler_config *cfg,
                             lgv_error *err)
{
    void *p = at(cfg, f);
    switch (f->type) {
    case LGV_SCHEDULER_COUNT: return lgv_json_int(j, f->key, 1, MAX_T, *(int64_t *)p, p, err);
    case LGV_SCHEDULER_OFFSET: return lgv_json_int(j, f->key, 0, MAX_T, *(int64_t *)p, p, err);
    case LGV_SCHEDULER_OPTIONAL:
    case LGV_SCHEDULER_DOUBLE: return lgv_json_double(j, f->key, *(double *)p, p, err);
    case LGV_SCHEDULER_BOOL: {
        bool value;
        LGV_TRY(lgv_json_bool(j, f->key, *(int *)p != 0, &value, err));
        *(int *)p = value;
        return LGV_OK;
    }
    case LGV_SCHEDULER_ENUM: return read_enum(j, f, p, err);
    case LGV_SCHEDULER_STEPS: return read_steps(j, f, p, err);
    case LGV_SCHEDULER_BETAS: return read_betas(j, f, cfg, err);
    }
    return LGV_OK;
}

static lgv_status read_all(const lgv_json *j, const char *name, lgv_scheduler_config *cfg,
                           lgv_error *err)
{
    if (strlen(name) >= sizeof cfg->class_name)
        return lgv_json_wrong(j, "_class_name", "a class name of at most 63 bytes", err);
    memcpy(cfg->class_name, name, strlen(name) + 1);
    for (int i = 0; i < lgv_scheduler_field_count; i++) {
        if (!lgv_json_has(j, lgv_scheduler_fields[i].key)) continue;
        LGV_TRY(read_field(j, &lgv_scheduler_fields[i], cfg, err));
        cfg->given |= UINT64_C(1) << i;
    }
    return LGV_OK;
}

static lgv_status from_json(const lgv_json *j, lgv_scheduler_config *out, lgv_error *err)
{
    lgv_scheduler_config cfg;
    const char *name;
    LGV_TRY(lgv_json_string(j, "_class_name", lgv_scheduler_first_class(), &name, err));
    lgv_scheduler_defaults(lgv_scheduler_class(name), &cfg);
    lgv_status status = read_all(j, name, &cfg, err);
    if (status)
        lgv_free(cfg.trained_betas);
    else
        *out = cfg;
    return status;
}

/* Python writes -Infinity where lambda_min_clipped has its default; JSON does not know it. */
static void blank_infinity(char *text, size_t size)
{
    static const char word[] = "-Infinity", blank[] = "null     ";
    const size_t length = sizeof word - 1;
    bool quoted = false;
    for (size_t i = 0; i < size; i++) {
        if (quoted && text[i] == '\\')
            i++;
        else if (text[i] == '"')
            quoted = !quoted;
        else if (!quoted && size - i >= length && !memcmp(text + i, word, length))
            memcpy(text + i, blank, length);
    }
}

static lgv_status from_text(char *text, size_t size, const char *where, lgv_scheduler_config *out,
                            lgv_error *err)
{
    lgv_json j;
    blank_infinity(text, size);
    LGV_TRY(lgv_json_parse(text, size, where, &j, err));
    lgv_status status = from_json(&j, out, err);
    lgv_json_free(&j);
    return status;
}

lgv_status lgv_scheduler_config_load(const char *path, lgv_scheduler_config *out, lgv_error *err)
{
    char *text = NULL;
    size_t size = 0;
    LGV_TRY(lgv_file_read(path, LGV_JSON_BYTES, &text, &size, err));
    lgv_status status = from_text(text, size, lgv_json_name_of(path), out, err);
    lgv_free(text);
    return status;
}

lgv_status lgv_scheduler_config_parse(const char *text, size_t size, const char *where,
                                      lgv_scheduler_config *out, lgv_error *err)
{
    char *copy = lgv_alloc(size + 1, 1);
    if (!copy) return lgv_fail(err, LGV_ERR_MEMORY, "%s: out of memory", where);
    memcpy(copy, text, size);
    lgv_status status = from_text(copy, size, where, out, err);
    lgv_free(copy);
    return status;
}

static json_t *betas_value(const lgv_scheduler_config *cfg)
{
    if (!cfg->trained_betas) return json_null();
    json_t *list = json_array();
    for (int64_t i = 0; i < cfg->trained_beta_count; i++)
        lgv_json_append(&list, json_real(cfg->trained_betas[i]));
    return list;
}

static json_t *steps_value(uint64_t steps)
{
    json_t *list = json_array();
    for (int i = 0; i < 64; i++)
        if (steps >> i & 1) lgv_json_append(&list, json_integer(i));
    return list;
}

/* A solver's variance_type is null unless the network predicts it. */
static json_t *enum_value(const lgv_scheduler_config *cfg, const field *f)
{
    const int *value = at_const(cfg, f);
    if (value == (const int *)&cfg->variance_type && *value < LGV_VARIANCE_LEARNED &&
        strcmp(cfg->class_name, lgv_scheduler_first_class()))
        return json_null();
    return json_string(f->names[*value]);
}

static json_t *field_value(const lgv_scheduler_config *cfg, const field *f)
{
    const void *p = at_const(cfg, f);
    switch (f->type) {
    case LGV_SCHEDULER_COUNT:
    case LGV_SCHEDULER_OFFSET: return json_integer(*(const int64_t *)p);
    case LGV_SCHEDULER_OPTIONAL:
        if (*(const double *)p == 0) return json_null();
        return json_real(*(const double *)p);
    case LGV_SCHEDULER_DOUBLE: return json_real(*(const double *)p);
    case LGV_SCHEDULER_BOOL: return json_boolean(*(const int *)p);
    case LGV_SCHEDULER_ENUM: return enum_value(cfg, f);
    case LGV_SCHEDULER_STEPS: return steps_value(*(const uint64_t *)p);
    case LGV_SCHEDULER_BETAS: return betas_value(cfg);
    }
    return NULL;
}

/* JSON has no infinity; the class's default is one. */
static bool left_out(const lgv_scheduler_config *cfg, const field *f)
{
    const double *value = at_const(cfg, f);
    return value == &cfg->lambda_min_clipped && isinf(*value);
}

lgv_status lgv_scheduler_config_save(const lgv_scheduler_config *cfg, const char *path,
                                     lgv_error *err)
{
    unsigned bit;
    LGV_TRY(need_class(cfg->class_name, &bit, err));
    json_t *root = json_object();
    int bad = !root || json_object_set_new(root, "_class_name", json_string(cfg->class_name)) ||
              json_object_set_new(root, "_diffusers_version", json_string(LGV_DIFFUSERS_VERSION));
    for (int i = 0; !bad && i < lgv_scheduler_field_count; i++)
        if (lgv_scheduler_fields[i].classes & bit && !left_out(cfg, &lgv_scheduler_fields[i]))
            bad = json_object_set_new(root, lgv_scheduler_fields[i].key, field_value(cfg, &lgv_scheduler_fields[i]));
    lgv_status status = bad ? lgv_fail(err, LGV_ERR_MEMORY,
                                       "%s: cannot build the scheduler's configuration "
                                       "(out of memory, or a number that is not finite)",
                                       path)
                            : lgv_json_save(path, root, true, err);
    json_decref(root);
    return status;
}

static lgv_status copy_betas(const lgv_scheduler_config *cfg, lgv_scheduler_config *to,
                             lgv_error *err)
{
    if (!cfg->trained_betas) return LGV_OK;
    size_t n = (size_t)cfg->trained_beta_count;
    to->trained_betas = lgv_alloc(n, sizeof(double));
    if (!to->trained_betas)
        return lgv_fail(err, LGV_ERR_MEMORY, "out of memory for %zu trained betas", n);
    memcpy(to->trained_betas, cfg->trained_betas, n * sizeof(double));
    to->trained_beta_count = cfg->trained_beta_count;
    return LGV_OK;
}

lgv_status lgv_scheduler_config_copy(const lgv_scheduler_config *cfg, lgv_scheduler_config *out,
                                     lgv_error *err)
{
    lgv_scheduler_config copy = *cfg;
    copy.trained_betas = NULL;
    LGV_TRY(copy_betas(cfg, &copy, err));
    *out = copy;
    return LGV_OK;
}

lgv_status lgv_scheduler_config_switch(const lgv_scheduler_config *cfg, const char *class_name,
                                       lgv_scheduler_config *out, lgv_error *err)
{
    unsigned bit;
    lgv_scheduler_config to;
    LGV_TRY(need_class(class_name, &bit, err));
    lgv_scheduler_defaults(bit, &to);
    memcpy(to.class_name, class_name, strlen(class_name) + 1);
    to.given = cfg->given;
    for (int i = 0; i < lgv_scheduler_field_count; i++) {
        const field *f = &lgv_scheduler_fields[i];
        if (!(f->classes & bit) || !(cfg->given >> i & 1)) continue;
        if (f->type == LGV_SCHEDULER_BETAS) continue;
        size_t size = f->type == LGV_SCHEDULER_BOOL || f->type == LGV_SCHEDULER_ENUM ? sizeof(int) : 8;
        memcpy(at(&to, f), at_const(cfg, f), size);
    }
    LGV_TRY(copy_betas(cfg, &to, err));
    *out = to;
    return LGV_OK;
}

/* The text of one value as JSON: names are quoted, the rest is JSON already. */
static json_t *text_value(const field *f, const char *value)
{
    if (f->type == LGV_SCHEDULER_ENUM) return json_string(value);
    return json_loads(value, JSON_DECODE_ANY, NULL);
}

lgv_status lgv_scheduler_config_set(lgv_scheduler_config *cfg, const char *key, const char *value,
                                    lgv_error *err)
{
    for (int i = 0; i < lgv_scheduler_field_count; i++) {
        const field *f = &lgv_scheduler_fields[i];
        if (strcmp(key, f->key) || f->type == LGV_SCHEDULER_BETAS) continue;
        json_t *v = text_value(f, value);
        if (!v || json_is_null(v)) {
            json_decref(v);
            return lgv_fail(err, LGV_ERR_ARGUMENT, "scheduler field '%s' cannot be '%s'", key,
                            value);
        }
        lgv_json j = {json_object(), NULL};
        j.name = lgv_strdup("the scheduler's options");
        lgv_status status = LGV_ERR_MEMORY;
        if (j.root && j.name && !json_object_set(j.root, key, v))
            status = read_field(&j, f, cfg, err);
        else
            lgv_fail(err, status, "out of memory for scheduler field '%s'", key);
        json_decref(v);
        lgv_json_free(&j);
        if (status == LGV_OK) cfg->given |= UINT64_C(1) << i;
        return status;
    }
    return lgv_fail(err, LGV_ERR_ARGUMENT, "there is no scheduler field '%s'", key);
}
