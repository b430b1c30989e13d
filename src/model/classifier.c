/* classifier.c - what makes a UNet2DModel's encoder a classifier on disk: its labels, and the
   configuration a new one gets. The configuration is that of a UNet2DModel, so that one reader, one
   check and one set of blocks serve both; id2label is what transformers calls the names. */
#include <stdio.h>
#include <string.h>

#include "io/json.h"
#include "parts.h"

void lgv_classifier_config_default(int resolution, int channels, lgv_unet2d_config *out)
{
    lgv_unet2d_config c;
    lgv_unet2d_config_default(&c);
    c.sample_height = c.sample_width = resolution;
    c.in_channels = c.out_channels = channels;
    c.levels = 3;
    for (int side = 32; side < resolution && c.levels < 8; side *= 2) c.levels++;
    c.layers_per_block = 1;
    c.norm_num_groups = 8;
    c.add_attention = 0;
    for (int i = 0; i < c.levels; i++) {
        c.block_out_channels[i] = i == 0 ? 32 : i == 1 ? 64 : 128;
        c.down_block_types[i] = c.up_block_types[i] = LGV_BLOCK_PLAIN;
    }
    *out = c;
}

/* --- The kind of network --- */
static lgv_status parse(const lgv_json *j, lgv_model *m, lgv_error *err)
{
    LGV_TRY(lgv_unet2d_config_read(j, m->config, err));
    return lgv_class_names_read(j, &m->labels, err);
}

static json_t *to_json(const lgv_model *m)
{
    json_t *root = lgv_unet2d_config_json(m->config);
    bool ok =
        root && !json_object_set_new(root, "_class_name", json_string("UNet2DClassifier")) &&
        !json_object_set_new(root, "id2label",
                             lgv_class_names_json((const char *const *)m->labels.name,
                                                  m->labels.count));
    if (ok) return root;
    json_decref(root);
    return NULL;
}

static lgv_status build(const lgv_model *m, lgv_graph *g, const lgv_model_inputs *in,
                        lgv_model_stage *stages, int *n_stages, lgv_id *out, lgv_error *err)
{
    lgv_id features;
    return lgv_unet2d_encode(m->config, m->labels.count, g, in, stages, n_stages, &features, out,
                             err);
}

static lgv_status features(const lgv_model *m, lgv_graph *g, const lgv_model_inputs *in,
                           lgv_id *out, lgv_id *logits, lgv_error *err)
{
    return lgv_unet2d_encode(m->config, m->labels.count, g, in, NULL, NULL, out, logits, err);
}

const lgv_model_kind lgv_kind_classifier = {
    .class_name = "UNet2DClassifier",
    .component = "unet",
    .config_size = sizeof(lgv_unet2d_config),
    .parse = parse,
    .resize = lgv_unet2d_resize,
    .check = lgv_unet2d_check,
    .describe = lgv_unet2d_describe,
    .divisor_reason = lgv_unet2d_divisor_reason,
    .json = to_json,
    .build = build,
    .features = features,
    .init = lgv_unet2d_init,
    .old_name = lgv_unet2d_old_name,
};
