/* classifier.c - what makes a UNet2DModel's encoder a classifier on disk: its labels, and the
   configuration a new one gets. The configuration is that of a UNet2DModel, so that one reader, one
   check and one set of blocks serve both; id2label is what transformers calls the names. */
#include <math.h>
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
/* unet first: what reads the configuration of a UNet2DModel reads it here, too. */
typedef struct classifier_config {
    lgv_unet2d_config unet;
    int attention_pool, noisy;
} classifier_config;

void lgv_noisy_classifier_config_default(int resolution, int channels, lgv_unet2d_config *out)
{
    lgv_classifier_config_default(resolution, channels, out);
    out->down_block_types[out->levels - 1] = out->up_block_types[0] = LGV_BLOCK_ATTN;
    out->add_attention = 1;
    out->attention_head_dim = 64;
}

static lgv_status parse(const lgv_json *j, lgv_model *m, lgv_error *err)
{
    classifier_config *c = m->config;
    const char *pool;
    bool noisy;
    LGV_TRY(lgv_unet2d_config_read(j, &c->unet, err));
    LGV_TRY(lgv_json_string(j, "pool", "mean", &pool, err));
    LGV_TRY(lgv_json_bool(j, "noisy", false, &noisy, err));
    c->attention_pool = !strcmp(pool, "attention");
    c->noisy = noisy;
    if (!c->attention_pool && strcmp(pool, "mean"))
        return lgv_json_wrong(j, "pool", "\"mean\" or \"attention\"", err);
    return lgv_class_names_read(j, &m->labels, err);
}

static json_t *to_json(const lgv_model *m)
{
    const classifier_config *c = m->config;
    json_t *root = lgv_unet2d_config_json(&c->unet);
    bool ok = root && !json_object_set_new(root, "_class_name", json_string("UNet2DClassifier")) &&
              !json_object_set_new(
                  root, "id2label",
                  lgv_class_names_json((const char *const *)m->labels.name, m->labels.count));
    if (ok && c->attention_pool) ok = !json_object_set_new(root, "pool", json_string("attention"));
    if (ok && c->noisy) ok = !json_object_set_new(root, "noisy", json_true());
    if (ok) return root;
    json_decref(root);
    return NULL;
}

/* It is not told the class that it is to tell. The positions of attention pooling are parameters: one size of picture. */
static lgv_status check(const lgv_model *m, lgv_error *err)
{
    const classifier_config *c = m->config;
    LGV_TRY(lgv_unet2d_config_check(&c->unet, err));
    if (c->unet.class_embedding != LGV_CLASS_NONE)
        return lgv_fail(err, LGV_ERR_ARGUMENT,
                        "a classifier takes no class labels; leave num_class_embeds and "
                        "class_embed_type out");
    if (!c->attention_pool || (c->unet.sample_height > 0 && c->unet.sample_width > 0))
        return LGV_OK;
    return lgv_fail(err, LGV_ERR_ARGUMENT, "attention pooling needs a sample_size");
}

static void describe(lgv_model *m)
{
    const classifier_config *c = m->config;
    lgv_unet2d_describe(m);
    m->info.noisy = c->noisy;
    m->info.fixed_size = c->attention_pool;
}

static lgv_init_rule init(const lgv_model *m, const lgv_model_param *p, int64_t *fan_in)
{
    if (strcmp(p->name, "pool.positional_embedding")) return lgv_unet2d_init(m, p, fan_in);
    return (lgv_init_rule){LGV_INIT_NORMAL, 1 / sqrt((double)p->dim[2])};
}

static lgv_status build(const lgv_model *m, lgv_graph *g, const lgv_model_inputs *in,
                        lgv_model_stage *stages, int *n_stages, lgv_id *out, lgv_error *err)
{
    const classifier_config *c = m->config;
    lgv_id features;
    return lgv_unet2d_encode(&c->unet, (lgv_unet2d_variant){0}, m->labels.count, c->attention_pool,
                             g, in, stages, n_stages, &features, out, err);
}

static lgv_status features(const lgv_model *m, lgv_graph *g, const lgv_model_inputs *in,
                           lgv_id *out, lgv_id *logits, lgv_error *err)
{
    const classifier_config *c = m->config;
    return lgv_unet2d_encode(&c->unet, (lgv_unet2d_variant){0}, m->labels.count, c->attention_pool,
                             g, in, NULL, NULL, out, logits, err);
}

const lgv_model_kind lgv_kind_classifier = {
    .class_name = "UNet2DClassifier",
    .component = "unet",
    .config_size = sizeof(classifier_config),
    .parse = parse,
    .resize = lgv_unet2d_resize,
    .check = check,
    .describe = describe,
    .divisor_reason = lgv_unet2d_divisor_reason,
    .json = to_json,
    .build = build,
    .features = features,
    .init = init,
    .old_name = lgv_unet2d_old_name,
};

lgv_status lgv_classifier_set(lgv_model *m, const lgv_unet2d_config *config, bool noisy,
                              lgv_error *err)
{
    classifier_config *c = m->config;
    *c = (classifier_config){.unet = *config, .attention_pool = noisy, .noisy = noisy};
    return check(m, err);
}
