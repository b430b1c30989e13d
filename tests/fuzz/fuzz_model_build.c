/* fuzz_model_build.c - whatever passes the check of a configuration, of any kind of network but UNet2DModel (fuzz_unet_build.c),
   can be built: the graph of a small one is made, and the tensors of its files are listed. */
#include "model/layout.h"
#include "model_config.h"

enum { MOST_LAYERS = 3, MOST_CHANNELS = 4096 };

/* Blocks are what takes time; sizes that overflow no product can be any. */
static bool small(const uint8_t *data, size_t size)
{
    static const char *const fields[] = {"num_layers", "num_res_blocks", "layers_per_block"};
    lgv_json j = {0};
    bool ok = !lgv_json_parse((const char *)data, size, "input", &j, NULL);
    for (int i = 0; i < 3 && ok; i++)
        ok = json_integer_value(json_object_get(j.root, fields[i])) <= MOST_LAYERS;
    lgv_json_free(&j);
    return ok;
}

static void build(lgv_model *m)
{
    const int64_t d = 2 * (int64_t)m->info.divisor;
    lgv_error err = {0};
    lgv_model_inputs in;
    lgv_id out = LGV_NONE;
    lgv_graph *g = lgv_graph_new();
    MUST(g);
    lgv_model_inputs_none(&in);
    in.sample = lgv_input(g, "sample", LGV_F32, 4, (int64_t[]){2, d, 2 * d, m->info.in_channels});
    lgv_model_inputs_from_step(m, g, 2, &in);
    MUST(!m->kind->build(m, g, &in, NULL, NULL, &out, &err));
    MUST(!lgv_graph_status(g, NULL));
    lgv_graph_free(g);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    lgv_model m;
    if (!small(data, size) || !fuzz_model_config(NULL, data, size, &m)) return 0;
    if (m.kind != &lgv_kind_unet2d && m.kind != &lgv_kind_classifier &&
        m.info.divisor <= MOST_CHANNELS && m.info.in_channels <= MOST_CHANNELS)
        build(&m);
    fuzz_model_free(&m);
    return 0;
}
