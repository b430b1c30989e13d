/* presets.c - networks that have a name: what `langevin train` takes when nothing is said.
   Attention stands where the picture is 16 or 8 pixels wide: above, it costs more than it brings.
 */
#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "parts.h"

typedef struct unet_preset {
    const char *name, *summary;
    int resolution, levels, attention; /* the level with attention blocks */
    int channels[LGV_UNET2D_LEVELS];
} unet_preset;

static const unet_preset presets[] = {
    {"unet-32",
     "U-Net for 32x32 pictures: channels 64, 128, 128, attention at 16x16",
     32,
     3,
     1,
     {64, 128, 128}},
    {"unet-64",
     "U-Net for 64x64 pictures: channels 64, 64, 128, 256, attention at 8x8",
     64,
     4,
     3,
     {64, 64, 128, 256}},
    {"unet-128",
     "U-Net for 128x128 pictures: channels 64, 64, 128, 128, 256, attention at 8x8",
     128,
     5,
     4,
     {64, 64, 128, 128, 256}},
};
enum { PRESETS = sizeof presets / sizeof presets[0] };

const char *lgv_unet2d_preset(int i, const char **summary)
{
    if (i < 0 || i >= PRESETS) return NULL;
    if (summary) *summary = presets[i].summary;
    return presets[i].name;
}

/* --- Those of all kinds --- */
/* Preset i of all: its kind and its number there; the name, NULL beyond the last. */
static const char *preset_at(int i, const lgv_model_kind **kind, int *own, const char **summary)
{
    for (int k = 0; (*kind = lgv_model_kind_at(k)) != NULL; k++) {
        const char *name;
        for (*own = 0; (*kind)->preset && (name = (*kind)->preset(*own, summary)); ++*own)
            if (i-- == 0) return name;
    }
    return NULL;
}

const char *lgv_model_presets(int i, const char **summary)
{
    const lgv_model_kind *kind;
    int own;
    return i < 0 ? NULL : preset_at(i, &kind, &own, summary);
}

/* Equal but for case and '_' or '/' against '-'. */
static bool same_name(const char *a, const char *b)
{
    for (; *a && *b; a++, b++) {
        int x = *a == '_' || *a == '/' ? '-' : tolower((unsigned char)*a),
            y = *b == '_' || *b == '/' ? '-' : tolower((unsigned char)*b);
        if (x != y) return false;
    }
    return *a == *b;
}

static lgv_status unknown(const char *name, lgv_error *err)
{
    char list[512];
    const char *preset;
    size_t used = 0;
    for (int i = 0; (preset = lgv_model_presets(i, NULL)) != NULL && used < sizeof list; i++)
        used +=
            (size_t)snprintf(list + used, sizeof list - used, "%s%s", i ? ", " : "", preset);
    return lgv_fail(err, LGV_ERR_ARGUMENT,
                    "'%s' is neither a file or folder nor a preset; the presets are %s", name,
                    list);
}

lgv_status lgv_preset_find(const char *name, const lgv_model_kind **kind, int *i, lgv_error *err)
{
    const char *preset;
    for (int k = 0; (preset = preset_at(k, kind, i, NULL)) != NULL; k++)
        if (same_name(name, preset)) return LGV_OK;
    return unknown(name, err);
}

/* --- U-Nets --- */
void lgv_unet2d_preset_options(const lgv_model_options *o, int resolution, lgv_unet2d_config *c)
{
    static const lgv_model_options none = {0};
    if (!o) o = &none;
    c->sample_height = c->sample_width = o->resolution ? o->resolution : resolution;
    c->in_channels = c->out_channels = o->channels ? o->channels : 3;
    c->condition = o->condition;
    if (o->condition_scale) c->condition_scale = o->condition_scale;
    c->in_channels += lgv_condition_channels(c->condition, c->in_channels);
    if (o->learned_variance) c->out_channels *= 2;
    if (o->classes <= 0) return;
    c->class_embedding = LGV_CLASS_TABLE;
    c->num_class_embeds = o->classes;
}

lgv_status lgv_unet2d_from_preset(int i, const lgv_model_options *options, lgv_model *m,
                                  lgv_error *err)
{
    const unet_preset *p = &presets[i];
    lgv_unet2d_config c;
    lgv_unet2d_config_default(&c);
    lgv_unet2d_preset_options(options, p->resolution, &c);
    c.levels = p->levels;
    c.layers_per_block = 1;
    c.attention_head_dim = 32;
    for (int k = 0; k < p->levels; k++) {
        c.block_out_channels[k] = p->channels[k];
        c.down_block_types[k] = k == p->attention ? LGV_BLOCK_ATTN : LGV_BLOCK_PLAIN;
        c.up_block_types[p->levels - 1 - k] = c.down_block_types[k];
    }
    LGV_TRY(lgv_unet2d_config_check(&c, err));
    *(lgv_unet2d_config *)m->config = c;
    return LGV_OK;
}

/* Levenshtein's distance, capped by the length of what is compared. */
static int distance(const char *a, const char *b)
{
    enum { LONGEST = 63 };
    int row[LONGEST + 1], n = (int)strlen(b);
    if (n > LONGEST || strlen(a) > LONGEST) return LONGEST;
    for (int j = 0; j <= n; j++) row[j] = j;
    for (int i = 1; a[i - 1]; i++) {
        int diagonal = row[0];
        row[0] = i;
        for (int j = 1; j <= n; j++) {
            int best =
                diagonal + (tolower((unsigned char)a[i - 1]) != tolower((unsigned char)b[j - 1]));
            if (row[j] + 1 < best) best = row[j] + 1;
            if (row[j - 1] + 1 < best) best = row[j - 1] + 1;
            diagonal = row[j];
            row[j] = best;
        }
    }
    return row[n];
}

const char *lgv_nearest(const char *word, const char *const *candidates, int count)
{
    const char *near = NULL;
    int best = (int)strlen(word) / 2 + 1;
    for (int i = 0; i < count; i++) {
        int d = distance(word, candidates[i]);
        if (d >= best) continue;
        best = d;
        near = candidates[i];
    }
    return near;
}
