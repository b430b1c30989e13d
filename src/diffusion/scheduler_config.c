/* scheduler_config.c - scheduler_config.json: fields, defaults, loading, saving, switching
   classes. One table names every field with its JSON key, its type and the classes that have it,
   so that all five operations follow from one line per field. Which fields were stated is
   remembered, because diffusers' from_config lets only those survive a change of class. */
#include <stddef.h>
#include <string.h>

#include "core/core.h"
#include "diffusion/scheduler.h"
#include "io/json.h"
#include "langevin/schedule.h"

enum { DDPM = 1, DDIM = 2, INVERSE = 4, ALL = DDPM | DDIM | INVERSE };
enum { MAX_T = 1000000 };

static const struct {
    const char *name;
    unsigned bit;
} classes[] = {{"DDPMScheduler", DDPM}, {"DDIMScheduler", DDIM}, {"DDIMInverseScheduler", INVERSE}};

typedef enum field_type {
    FIELD_COUNT,
    FIELD_OFFSET,
    FIELD_DOUBLE,
    FIELD_BOOL,
    FIELD_ENUM,
    FIELD_BETAS
} field_type;

static const char *const beta_names[] = {"linear",  "scaled_linear", "squaredcos_cap_v2",
                                         "sigmoid", "laplace",       NULL};
static const char *const prediction_names[] = {"epsilon", "sample", "v_prediction", NULL};
static const char *const variance_names[] = {
    "fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log",
    "learned",     "learned_range",   NULL};
static const char *const spacing_names[] = {"leading", "linspace", "trailing", NULL};

typedef struct field {
    const char *key;
    field_type type;
    unsigned classes;
    size_t at;
    const char *const *names; /* of FIELD_ENUM */
} field;

#define AT(member) offsetof(lgv_scheduler_config, member)
static const field fields[] = {
    {"num_train_timesteps", FIELD_COUNT, ALL, AT(num_train_timesteps), NULL},
    {"beta_start", FIELD_DOUBLE, ALL, AT(beta_start), NULL},
    {"beta_end", FIELD_DOUBLE, ALL, AT(beta_end), NULL},
    {"beta_schedule", FIELD_ENUM, ALL, AT(beta_schedule), beta_names},
    {"trained_betas", FIELD_BETAS, ALL, AT(trained_betas), NULL},
    {"rescale_betas_zero_snr", FIELD_BOOL, ALL, AT(rescale_betas_zero_snr), NULL},
    {"prediction_type", FIELD_ENUM, ALL, AT(prediction_type), prediction_names},
    {"variance_type", FIELD_ENUM, DDPM, AT(variance_type), variance_names},
    {"clip_sample", FIELD_BOOL, ALL, AT(clip_sample), NULL},
    {"clip_sample_range", FIELD_DOUBLE, ALL, AT(clip_sample_range), NULL},
    {"thresholding", FIELD_BOOL, DDPM | DDIM, AT(thresholding), NULL},
    {"dynamic_thresholding_ratio", FIELD_DOUBLE, DDPM | DDIM, AT(dynamic_thresholding_ratio), NULL},
    {"sample_max_value", FIELD_DOUBLE, DDPM | DDIM, AT(sample_max_value), NULL},
    {"timestep_spacing", FIELD_ENUM, ALL, AT(timestep_spacing), spacing_names},
    {"steps_offset", FIELD_OFFSET, ALL, AT(steps_offset), NULL},
    {"set_alpha_to_one", FIELD_BOOL, DDIM | INVERSE, AT(set_alpha_to_one), NULL},
};
enum { FIELDS = sizeof fields / sizeof fields[0] };

/* The defaults of our classes agree wherever they share a field. */
static const lgv_scheduler_config defaults = {
    .num_train_timesteps = 1000,
    .beta_start = 0.0001,
    .beta_end = 0.02,
    .clip_sample = 1,
    .clip_sample_range = 1.0,
    .dynamic_thresholding_ratio = 0.995,
    .sample_max_value = 1.0,
    .set_alpha_to_one = 1,
};

static void *at(lgv_scheduler_config *cfg, const field *f)
{
    return (char *)cfg + f->at;
}

static const void *at_const(const lgv_scheduler_config *cfg, const field *f)
{
    return (const char *)cfg + f->at;
}

/* 0 when the class is not one of ours. */
static unsigned class_bit(const char *name)
{
    for (size_t i = 0; i < sizeof classes / sizeof classes[0]; i++)
        if (!strcmp(name, classes[i].name)) return classes[i].bit;
    return 0;
}

static lgv_status need_class(const char *name, unsigned *bit, lgv_error *err)
{
    *bit = class_bit(name);
    if (*bit) return LGV_OK;
    return lgv_fail(
        err, LGV_ERR_UNSUPPORTED,
        "scheduler class '%s' is not one of this build's (DDPMScheduler, DDIMScheduler, "
        "DDIMInverseScheduler); name a sampler such as 'ddim' instead",
        name);
}

lgv_status lgv_scheduler_config_init(lgv_scheduler_config *cfg, const char *class_name,
                                     lgv_error *err)
{
    unsigned bit;
    if (!class_name) class_name = classes[0].name;
    LGV_TRY(need_class(class_name, &bit, err));
    *cfg = defaults;
    memcpy(cfg->class_name, class_name, strlen(class_name) + 1);
    for (int i = 0; i < FIELDS; i++)
        if (fields[i].classes & bit) cfg->given |= 1u << i;
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

static lgv_status read_field(const lgv_json *j, const field *f, lgv_scheduler_config *cfg,
                             lgv_error *err)
{
    void *p = at(cfg, f);
    switch (f->type) {
    case FIELD_COUNT: return lgv_json_int(j, f->key, 1, MAX_T, *(int64_t *)p, p, err);
    case FIELD_OFFSET: return lgv_json_int(j, f->key, 0, MAX_T, *(int64_t *)p, p, err);
    case FIELD_DOUBLE: return lgv_json_double(j, f->key, *(double *)p, p, err);
    case FIELD_BOOL: {
        bool value;
        LGV_TRY(lgv_json_bool(j, f->key, *(int *)p != 0, &value, err));
        *(int *)p = value;
        return LGV_OK;
    }
    case FIELD_ENUM: return read_enum(j, f, p, err);
    case FIELD_BETAS: return read_betas(j, f, cfg, err);
    }
    return LGV_OK;
}

static lgv_status read_all(const lgv_json *j, lgv_scheduler_config *cfg, lgv_error *err)
{
    const char *name;
    LGV_TRY(lgv_json_string(j, "_class_name", classes[0].name, &name, err));
    if (strlen(name) >= sizeof cfg->class_name)
        return lgv_json_wrong(j, "_class_name", "a class name of at most 63 bytes", err);
    memcpy(cfg->class_name, name, strlen(name) + 1);
    for (int i = 0; i < FIELDS; i++) {
        if (!lgv_json_has(j, fields[i].key)) continue;
        LGV_TRY(read_field(j, &fields[i], cfg, err));
        cfg->given |= 1u << i;
    }
    return LGV_OK;
}

static lgv_status from_json(const lgv_json *j, lgv_scheduler_config *out, lgv_error *err)
{
    lgv_scheduler_config cfg = defaults;
    lgv_status status = read_all(j, &cfg, err);
    if (status)
        lgv_free(cfg.trained_betas);
    else
        *out = cfg;
    return status;
}

lgv_status lgv_scheduler_config_load(const char *path, lgv_scheduler_config *out, lgv_error *err)
{
    lgv_json j;
    LGV_TRY(lgv_json_load(path, &j, err));
    lgv_status status = from_json(&j, out, err);
    lgv_json_free(&j);
    return status;
}

lgv_status lgv_scheduler_config_parse(const char *text, size_t size, const char *where,
                                      lgv_scheduler_config *out, lgv_error *err)
{
    lgv_json j;
    LGV_TRY(lgv_json_parse(text, size, where, &j, err));
    lgv_status status = from_json(&j, out, err);
    lgv_json_free(&j);
    return status;
}

static json_t *betas_value(const lgv_scheduler_config *cfg)
{
    if (!cfg->trained_betas) return json_null();
    json_t *list = json_array();
    for (int64_t i = 0; list && i < cfg->trained_beta_count; i++) {
        if (json_array_append_new(list, json_real(cfg->trained_betas[i]))) {
            json_decref(list);
            return NULL;
        }
    }
    return list;
}

static json_t *field_value(const lgv_scheduler_config *cfg, const field *f)
{
    const void *p = at_const(cfg, f);
    switch (f->type) {
    case FIELD_COUNT:
    case FIELD_OFFSET: return json_integer(*(const int64_t *)p);
    case FIELD_DOUBLE: return json_real(*(const double *)p);
    case FIELD_BOOL: return json_boolean(*(const int *)p);
    case FIELD_ENUM: return json_string(f->names[*(const int *)p]);
    case FIELD_BETAS: return betas_value(cfg);
    }
    return NULL;
}

lgv_status lgv_scheduler_config_save(const lgv_scheduler_config *cfg, const char *path,
                                     lgv_error *err)
{
    unsigned bit;
    LGV_TRY(need_class(cfg->class_name, &bit, err));
    json_t *root = json_object();
    int bad = !root || json_object_set_new(root, "_class_name", json_string(cfg->class_name)) ||
              json_object_set_new(root, "_diffusers_version", json_string(LGV_DIFFUSERS_VERSION));
    for (int i = 0; !bad && i < FIELDS; i++)
        if (fields[i].classes & bit)
            bad = json_object_set_new(root, fields[i].key, field_value(cfg, &fields[i]));
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
    lgv_scheduler_config to = defaults;
    LGV_TRY(need_class(class_name, &bit, err));
    memcpy(to.class_name, class_name, strlen(class_name) + 1);
    to.given = cfg->given;
    for (int i = 0; i < FIELDS; i++) {
        const field *f = &fields[i];
        if (!(f->classes & bit) || !(cfg->given >> i & 1)) continue;
        if (f->type == FIELD_BETAS) continue;
        size_t size = f->type == FIELD_BOOL || f->type == FIELD_ENUM ? sizeof(int) : 8;
        memcpy(at(&to, f), at_const(cfg, f), size);
    }
    LGV_TRY(copy_betas(cfg, &to, err));
    *out = to;
    return LGV_OK;
}

/* The text of one value as JSON: names are quoted, the rest is JSON already. */
static json_t *text_value(const field *f, const char *value)
{
    if (f->type == FIELD_ENUM) return json_string(value);
    return json_loads(value, JSON_DECODE_ANY, NULL);
}

lgv_status lgv_scheduler_config_set(lgv_scheduler_config *cfg, const char *key, const char *value,
                                    lgv_error *err)
{
    for (int i = 0; i < FIELDS; i++) {
        const field *f = &fields[i];
        if (strcmp(key, f->key) || f->type == FIELD_BETAS) continue;
        json_t *v = text_value(f, value);
        if (!v || json_is_null(v)) {
            json_decref(v);
            return lgv_fail(err, LGV_ERR_ARGUMENT, "scheduler field '%s' cannot be '%s'", key,
                            value);
        }
        lgv_json j = {json_object(), NULL};
        j.name = lgv_strdup("the scheduler's options");
        lgv_status status = LGV_ERR_MEMORY;
        if (j.root && j.name && !json_object_set_new(j.root, key, v))
            status = read_field(&j, f, cfg, err);
        else
            lgv_fail(err, status, "out of memory for scheduler field '%s'", key);
        lgv_json_free(&j);
        if (status == LGV_OK) cfg->given |= 1u << i;
        return status;
    }
    return lgv_fail(err, LGV_ERR_ARGUMENT, "there is no scheduler field '%s'", key);
}

const char *lgv_prediction_name(lgv_prediction prediction)
{
    return (unsigned)prediction < 3 ? prediction_names[prediction] : "unknown";
}

const char *lgv_beta_schedule_name(lgv_beta_schedule beta_schedule)
{
    return (unsigned)beta_schedule < 5 ? beta_names[beta_schedule] : "unknown";
}
