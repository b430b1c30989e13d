/* golden_pipeline.c - pipelines of golden files. */
#include <string.h>

#include "golden_pipeline.h"
#include "ok.h"

/* Weights are declared by any graph of the network. */
static void fill_store(golden_pipeline *b, const lgv_unet2d_config *c)
{
    lgv_model_inputs in;
    lgv_id out;
    lgv_graph *g = lgv_graph_new();
    lgv_model_inputs_none(&in);
    in.sample = lgv_input(
        g, "x", LGV_F32, 4,
        (const int64_t[]){1, c->sample_height, c->sample_width, c->in_channels});
    lgv_model_inputs_from_step(b->model, g, 1, &in);
    MUST(lgv_model_build(b->model, g, &in, &out, err));
    MUST(lgv_store_new(b->device, &b->store, err));
    MUST(lgv_store_declare(b->store, g, err));
    MUST(lgv_store_add_set(b->store, "weight", err));
    MUST(golden_fill(b->store, "weight", err));
    lgv_graph_free(g);
}

void golden_pipeline_open(golden_pipeline *b, const char *file)
{
    lgv_unet2d_config c;
    lgv_scheduler_config cfg;
    b->file = golden_open(file);
    const char *config = golden_metadata(b->file, "config"),
               *scheduler = golden_metadata(b->file, "scheduler");
    MUST(lgv_unet2d_config_parse(config, strlen(config), file, &c, err));
    MUST(lgv_model_new_unet2d(&c, &b->model, err));
    MUST(lgv_device_new("cpu", 2, &b->device, err));
    fill_store(b, &c);
    MUST(lgv_scheduler_config_parse(scheduler, strlen(scheduler), file, &cfg, err));
    MUST(lgv_pipeline_new(b->model, b->store, "weight", &cfg, &b->pipeline, err));
    lgv_scheduler_config_clear(&cfg);
}

void golden_pipeline_close(golden_pipeline *b)
{
    lgv_pipeline_free(b->pipeline);
    lgv_store_free(b->store);
    lgv_model_free(b->model);
    lgv_device_free(b->device);
    lgv_safetensors_close(b->file);
}
