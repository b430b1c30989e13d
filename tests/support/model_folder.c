/* model_folder.c - see model_folder.h. */
#include "model_folder.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "golden.h"
#include "langevin/model.h"
#include "ok.h"
#include "scratch.h"

static lgv_error err;

lgv_device *golden_device(void)
{
    static lgv_device *d;
    if (!d) OK(lgv_device_new("cpu", 2, &d, &err));
    return d;
}

int golden_device_free(void **state)
{
    lgv_device_free(golden_device());
    return scratch_remove(state);
}

static void save(lgv_device *device, lgv_model *model, const char *folder)
{
    lgv_store *store;
    lgv_graph *g = lgv_graph_new();
    lgv_model_inputs inputs;
    lgv_id out;
    lgv_model_inputs_none(&inputs);
    const lgv_model_info *info = lgv_model_describe(model);
    inputs.sample = lgv_input(
        g, "x", LGV_F32, 4,
        (const int64_t[]){1, info->height, info->width, info->in_channels});
    lgv_model_inputs_from_step(model, g, 1, &inputs);
    OK(lgv_model_build(model, g, &inputs, &out, &err));
    OK(lgv_store_new(device, &store, &err));
    OK(lgv_store_declare(store, g, &err));
    OK(lgv_store_add_set(store, "weight", &err));
    OK(golden_fill(store, "weight", &err));
    OK(lgv_model_save(model, store, "weight", folder, &err));
    lgv_store_free(store);
    lgv_graph_free(g);
}

const char *golden_classifier_folder(lgv_device *device, const char *name,
                                     const lgv_unet2d_config *config, int classes,
                                     const char *const *names, int noisy, const char *scheduler)
{
    const char *folder = scratch_keep(name);
    lgv_model *model;
    char path[4096];
    OK((noisy ? lgv_model_new_noisy_classifier : lgv_model_new_classifier)(config, classes, names,
                                                                           &model, &err));
    save(device, model, folder);
    snprintf(path, sizeof path, "%s/scheduler_config.json", folder);
    if (scheduler) scratch_write(path, scheduler, strlen(scheduler));
    lgv_model_free(model);
    return folder;
}

const char *golden_model_folder(lgv_device *device, const char *name, const char *config_key)
{
    lgv_safetensors *f = golden_open("pipeline");
    const char *folder = scratch_path(name), *config = golden_metadata(f, config_key);
    const char *scheduler = golden_metadata(
        f, strcmp(config_key, "config_learned") ? "scheduler" : "scheduler_learned");
    lgv_unet2d_config unet;
    lgv_model *model;
    char path[4096];
    OK(lgv_unet2d_config_parse(config, strlen(config), "config", &unet, &err));
    OK(lgv_model_new_unet2d(&unet, &model, &err));
    save(device, model, folder);
    snprintf(path, sizeof path, "%s/scheduler_config.json", folder);
    scratch_write(path, scheduler, strlen(scheduler));
    lgv_model_free(model);
    lgv_safetensors_close(f);
    return folder;
}
