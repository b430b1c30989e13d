/* model_config.c - reading, checking, writing and reading again the configuration of any kind of network. */
#include "model_config.h"

#include <string.h>

static lgv_status parse(const char *text, size_t size, const lgv_model_kind *kind, lgv_model *m,
                        lgv_error *err)
{
    lgv_json j = {0};
    *m = (lgv_model){.kind = kind, .null_label = -1};
    lgv_status status = lgv_json_parse(text, size, "input", &j, err);
    if (status) return status;
    if (!kind) status = lgv_model_kind_of(&j, &m->kind, err);
    if (!status) {
        m->config = lgv_zalloc(1, m->kind->config_size);
        MUST(m->config);
        status = m->kind->parse(&j, m, err);
    }
    lgv_json_free(&j);
    return status;
}

static char *written(const lgv_model *m)
{
    json_t *root = m->kind->json(m);
    MUST(root);
    char *text = json_dumps(root, JSON_SORT_KEYS);
    MUST(text);
    json_decref(root);
    return text;
}

/* A Model may be written as the UNet2DModel that it is. */
static void check_written(const lgv_model *m)
{
    lgv_model again;
    char *first = written(m);
    MUST(!parse(first, strlen(first), NULL, &again, NULL));
    char *second = written(&again);
    MUST(!strcmp(first, second));
    free(first);
    free(second);
    fuzz_model_free(&again);
}

bool fuzz_model_config(const lgv_model_kind *kind, const uint8_t *data, size_t size, lgv_model *m)
{
    lgv_error err = {0};
    lgv_status status = parse((const char *)data, size, kind, m, &err);
    MUST_SAY(status, err);
    if (status) {
        fuzz_model_free(m);
        return false;
    }
    MUST(!m->kind->check(m, NULL));
    m->kind->describe(m);
    MUST(m->info.in_channels >= 1 && m->info.out_channels >= 1 && m->info.divisor >= 1);
    check_written(m);
    return true;
}

void fuzz_model_free(lgv_model *m)
{
    lgv_class_names_free(&m->labels);
    lgv_class_names_free(&m->classes);
    lgv_free(m->config);
}
