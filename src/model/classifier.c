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

lgv_status lgv_class_names_new(int count, const char *const *names, lgv_class_names *out,
                               lgv_error *err)
{
    lgv_class_names l = {.name = lgv_zalloc((size_t)count, sizeof *l.name), .count = count};
    bool ok = l.name != NULL;
    for (int i = 0; ok && i < count; i++) {
        l.name[i] = names ? lgv_strdup(names[i]) : lgv_format("%d", i);
        ok = l.name[i] != NULL;
    }
    if (ok) {
        *out = l;
        return LGV_OK;
    }
    lgv_class_names_free(&l);
    return lgv_fail(err, LGV_ERR_MEMORY, "out of memory for %d class names", count);
}

void lgv_class_names_free(lgv_class_names *labels)
{
    for (int i = 0; labels->name && i < labels->count; i++) lgv_free(labels->name[i]);
    lgv_free(labels->name);
    *labels = (lgv_class_names){0};
}

static lgv_status read_labels(const lgv_json *j, lgv_class_names *out, lgv_error *err)
{
    enum { MOST = 65536 };
    const json_t *map = json_object_get(j->root, "id2label");
    size_t n = json_object_size(map);
    if (!json_is_object(map) || n < 2 || n > MOST)
        return lgv_json_wrong(j, "id2label", "an object with 2 to 65536 class names", err);
    const char **names = lgv_zalloc(n, sizeof *names);
    if (!names) return lgv_fail(err, LGV_ERR_MEMORY, "out of memory for class names");
    lgv_status status = LGV_OK;
    for (size_t i = 0; i < n && !status; i++) {
        char key[24];
        snprintf(key, sizeof key, "%zu", i);
        names[i] = json_string_value(json_object_get(map, key));
        if (!names[i])
            status =
                lgv_fail(err, LGV_ERR_FORMAT,
                         "%s: id2label has %zu entries, but no name under \"%s\"", j->name, n, key);
    }
    if (!status) status = lgv_class_names_new((int)n, names, out, err);
    lgv_free(names);
    return status;
}

/* --- The kind of network --- */
static lgv_status parse(const lgv_json *j, lgv_model *m, lgv_error *err)
{
    LGV_TRY(lgv_unet2d_config_read(j, m->config, err));
    return read_labels(j, &m->labels, err);
}

static json_t *to_json(const lgv_model *m)
{
    json_t *root = lgv_unet2d_config_json(m->config), *map = json_object();
    bool ok =
        root && map && !json_object_set_new(root, "_class_name", json_string("UNet2DClassifier"));
    for (int i = 0; ok && i < m->labels.count; i++) {
        char key[16], number[32];
        snprintf(key, sizeof key, "%d", i);
        snprintf(number, sizeof number, "class %d", i);
        ok = !json_object_set_new(map, key, lgv_json_text_or(m->labels.name[i], number));
    }
    ok = ok && !json_object_set(root, "id2label", map);
    json_decref(map);
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
