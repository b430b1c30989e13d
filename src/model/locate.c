/* locate.c - where in a folder the network, its weights and its scheduler lie.
   Four layouts are known: a diffusers pipeline (model_index.json, unet/, scheduler/), everything in
   one folder (the google/ddpm repositories, or a network alone), the output of `langevin train` (a
   pipeline whose unet/ holds the averaged weights, with checkpoint-N beside it), and one
   checkpoint-N. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/file.h"
#include "langevin/torch_file.h"
#include "select.h"

static bool has_file(const char *folder, const char *name, lgv_status *status)
{
    char *path = lgv_path_join(folder, name);
    bool found = path && lgv_is_file(path);
    if (!path) *status = LGV_ERR_MEMORY;
    lgv_free(path);
    return found;
}

/* folder/name when that has weights, else NULL. */
static char *weights_in(const char *folder, const char *name, lgv_status *status)
{
    char *path = name ? lgv_path_join(folder, name) : lgv_strdup(folder);
    if (!path) *status = LGV_ERR_MEMORY;
    if (path && lgv_model_has_weights(path, status)) return path;
    lgv_free(path);
    return NULL;
}

char *lgv_folder_parent(const char *folder)
{
    size_t n = strlen(folder);
    while (n > 1 && folder[n - 1] == '/') n--;
    while (n > 0 && folder[n - 1] != '/') n--;
    if (n == 0) return lgv_strdup(".");
    return lgv_format("%.*s", n > 1 ? (int)n - 1 : 1, folder);
}

static char *scheduler_in(const char *folder, lgv_status *status)
{
    char *sub = lgv_path_join(folder, "scheduler");
    if (!sub) *status = LGV_ERR_MEMORY;
    if (sub && has_file(sub, "scheduler_config.json", status)) return sub;
    lgv_free(sub);
    return has_file(folder, "scheduler_config.json", status) ? lgv_strdup(folder) : NULL;
}

/* N of the newest checkpoint-N in folder, -1 without any. */
static lgv_status newest_checkpoint(const char *folder, int64_t *newest, lgv_error *err)
{
    lgv_names names = {0};
    *newest = -1;
    LGV_TRY(lgv_list_dir(folder, &names, err));
    for (size_t i = 0; i < names.count; i++) {
        char *end;
        if (strncmp(names.name[i], "checkpoint-", 11) || names.name[i][11] < '0' ||
            names.name[i][11] > '9')
            continue;
        long long n = strtoll(names.name[i] + 11, &end, 10);
        if (!*end && n > *newest) *newest = n;
    }
    lgv_names_free(&names);
    return LGV_OK;
}

/* The same of averaged weights: folder/unet_ema. */
static char *averages_in(const char *folder, const char *component, lgv_status *status)
{
    char name[32];
    snprintf(name, sizeof name, "%s_ema", component);
    return weights_in(folder, name, status);
}

/* In the output of a training run unet/ holds averages when its checkpoints have them; the raw
   weights are those of the newest checkpoint. */
static lgv_status training_weights(lgv_model *m, const char *folder, const char *component,
                                   lgv_error *err)
{
    int64_t n;
    lgv_status status = LGV_OK;
    LGV_TRY(newest_checkpoint(folder, &n, err));
    if (n < 0) return LGV_OK;
    char *checkpoint = lgv_format("%s/checkpoint-%lld", folder, (long long)n);
    if (!checkpoint)
        return lgv_fail(err, LGV_ERR_MEMORY, "out of memory while looking into '%s'", folder);
    char *raw = weights_in(checkpoint, component, &status),
         *ema = averages_in(checkpoint, component, &status);
    if (raw && ema) {
        m->ema = m->raw;
        m->raw = raw;
        raw = NULL;
    }
    lgv_free(raw);
    lgv_free(ema);
    lgv_free(checkpoint);
    return status ? lgv_fail(err, status, "out of memory while looking into '%s'", folder) : LGV_OK;
}

static lgv_status read_pipeline_class(lgv_model *m, lgv_error *err)
{
    char *path = lgv_path_join(m->pipeline, "model_index.json");
    if (!path)
        return lgv_fail(err, LGV_ERR_MEMORY, "out of memory while looking into '%s'", m->pipeline);
    lgv_json j = {0};
    const char *name = NULL;
    lgv_status status = lgv_json_load(path, &j, err);
    lgv_free(path);
    if (status) return status;
    status = lgv_json_string(&j, "_class_name", NULL, &name, err);
    if (!status && name && !(m->pipeline_class = lgv_strdup(name)))
        status =
            lgv_fail(err, LGV_ERR_MEMORY, "out of memory while looking into '%s'", m->pipeline);
    lgv_json_free(&j);
    return status;
}

bool lgv_folder_inside(const char *folder, lgv_status *status)
{
    const char *component;
    size_t n = strlen(folder), at;
    while (n > 1 && folder[n - 1] == '/') n--;
    for (at = n; at > 0 && folder[at - 1] != '/';) at--;
    bool inside = has_file(folder, "trainer.json", status);
    for (int i = 0; !inside && (component = lgv_model_components(i)) != NULL; i++)
        inside = !strncmp(folder + at, component, strlen(component));
    return inside;
}

static char *scheduler_of(const char *folder, lgv_status *status)
{
    char *found = scheduler_in(folder, status);
    if (found || *status || !lgv_folder_inside(folder, status)) return found;
    char *parent = lgv_folder_parent(folder);
    if (parent)
        found = scheduler_in(parent, status);
    else
        *status = LGV_ERR_MEMORY;
    lgv_free(parent);
    return found;
}

/* The component whose folder stands in this one ("unet"), NULL: none. */
static const char *component_in(const char *folder, lgv_status *status)
{
    const char *component;
    for (int i = 0; (component = lgv_model_components(i)) != NULL; i++) {
        char name[48];
        snprintf(name, sizeof name, "%s/config.json", component);
        if (has_file(folder, name, status) || *status) break;
    }
    return component;
}

static lgv_status locate_folder(lgv_model *m, const char *folder, char **config_path,
                                lgv_error *err)
{
    lgv_status status = LGV_OK;
    const char *nested = component_in(folder, &status);
    if (!status && !nested && !has_file(folder, "config.json", &status) && !status)
        return lgv_fail(err, LGV_ERR_ARGUMENT,
                        "'%s' holds no network: neither unet/config.json nor config.json is there",
                        folder);
    m->raw = weights_in(folder, nested, &status);
    m->ema = nested ? averages_in(folder, nested, &status) : NULL;
    m->scheduler = scheduler_of(folder, &status);
    if (has_file(folder, "model_index.json", &status) && !(m->pipeline = lgv_strdup(folder)))
        status = LGV_ERR_MEMORY;
    char *config =
        lgv_format("%s/%s%sconfig.json", folder, nested ? nested : "", nested ? "/" : "");
    if (!config || status) {
        lgv_free(config);
        return lgv_fail(err, LGV_ERR_MEMORY, "out of memory while looking into '%s'", folder);
    }
    if (nested && !m->ema && m->raw) status = training_weights(m, folder, nested, err);
    if (!status && m->pipeline) status = read_pipeline_class(m, err);
    if (status)
        lgv_free(config);
    else
        *config_path = config;
    return status;
}

lgv_status lgv_model_locate(lgv_model *m, const char *path, char **config_path, lgv_error *err)
{
    if (lgv_is_dir(path)) return locate_folder(m, path, config_path, err);
    size_t n = strlen(path);
    if ((n > 12 && !strcmp(path + n - 12, ".safetensors")) || lgv_torch_file_is(path))
        return lgv_fail(err, LGV_ERR_ARGUMENT,
                        "'%s' is a weights file without a configuration; give the folder that "
                        "holds it and config.json, or make one with langevin convert",
                        path);
    *config_path = lgv_strdup(path);
    return *config_path ? LGV_OK
                        : lgv_fail(err, LGV_ERR_MEMORY, "out of memory while opening '%s'", path);
}
