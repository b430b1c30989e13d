/* fuzz_unet_build.c - whatever passes the check of a network's configuration can be built: the graph of
   a small one is made. */
#include "core/core.h"
#include "fuzz.h"
#include "langevin/model.h"

enum { MOST_STAGES = 12, MOST_CHANNELS = 512 };

static int small(const lgv_unet2d_config *c)
{
    for (int i = 0; i < c->levels; i++)
        if (c->block_out_channels[i] > MOST_CHANNELS) return 0;
    return c->levels * (c->layers_per_block + 1) <= MOST_STAGES;
}

static void build(const lgv_model *model, const lgv_unet2d_config *config)
{
    int d = 2 * lgv_unet2d_divisor(config);
    lgv_error err = {0};
    lgv_status status = lgv_model_check_size(model, d, 2 * d, &err);
    MUST_SAY(status, err);
    if (status) return;
    lgv_graph *g = lgv_graph_new();
    MUST(g);
    lgv_model_inputs in;
    lgv_model_inputs_none(&in);
    in.sample = lgv_input(g, "sample", LGV_F32, 4, (int64_t[]){2, d, 2 * d, config->in_channels});
    lgv_model_inputs_from_step(model, g, 2, &in);
    lgv_id out = LGV_NONE;
    MUST(!lgv_model_build(model, g, &in, &out, &err));
    MUST(!lgv_graph_status(g, NULL));
    lgv_graph_free(g);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    lgv_unet2d_config config;
    lgv_model *model = NULL;
    if (lgv_unet2d_config_parse((const char *)data, size, "input", &config, NULL)) return 0;
    if (!small(&config)) return 0;
    MUST(!lgv_model_new_unet2d(&config, &model, NULL));
    build(model, &config);
    lgv_model_free(model);
    return 0;
}
