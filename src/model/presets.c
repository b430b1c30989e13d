/* presets.c - networks that have a name: what `langevin train` takes when nothing is said.
   Attention stands where the picture is 16 or 8 pixels wide: above, it costs more than it brings.
 */
#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "parts.h"

typedef struct preset {
    const char *name, *summary;
    int resolution, levels, attention; /* the level with attention blocks */
    int channels[LGV_UNET2D_LEVELS];
} preset;

static const preset presets[] = {
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

const char *lgv_model_presets(int i, const char **summary)
{
    if (i < 0 || i >= PRESETS) return NULL;
    if (summary) *summary = presets[i].summary;
    return presets[i].name;
}

/* Equal but for case and '_' against '-'. */
static bool same_name(const char *a, const char *b)
{
    for (; *a && *b; a++, b++) {
        int x = *a == '_' ? '-' : tolower((unsigned char)*a),
            y = *b == '_' ? '-' : tolower((unsigned char)*b);
        if (x != y) return false;
    }
    return *a == *b;
}

static const preset *find(const char *name)
{
    for (int i = 0; i < PRESETS; i++)
        if (same_name(name, presets[i].name)) return &presets[i];
    return NULL;
}

static lgv_status unknown(const char *name, lgv_error *err)
{
    char list[128];
    size_t used = 0;
    for (int i = 0; i < PRESETS && used < sizeof list; i++)
        used += (size_t)snprintf(list + used, sizeof list - used, "%s%s", i ? ", " : "",
                                 presets[i].name);
    return lgv_fail(err, LGV_ERR_ARGUMENT,
                    "'%s' is neither a file or folder nor a preset; the presets are %s", name,
                    list);
}

lgv_status lgv_preset_config(const char *name, const lgv_model_options *options,
                             lgv_unet2d_config *out, lgv_error *err)
{
    const preset *p = find(name);
    if (!p) return unknown(name, err);
    lgv_unet2d_config c;
    lgv_unet2d_config_default(&c);
    int size = options && options->resolution ? options->resolution : p->resolution;
    c.sample_height = c.sample_width = size;
    c.in_channels = c.out_channels = options && options->channels ? options->channels : 3;
    c.levels = p->levels;
    c.layers_per_block = 1;
    c.attention_head_dim = 32;
    for (int i = 0; i < p->levels; i++) {
        c.block_out_channels[i] = p->channels[i];
        c.down_block_types[i] = i == p->attention ? LGV_BLOCK_ATTN : LGV_BLOCK_PLAIN;
        c.up_block_types[p->levels - 1 - i] = c.down_block_types[i];
    }
    if (options && options->classes) {
        c.class_embedding = LGV_CLASS_TABLE;
        c.num_class_embeds = options->classes;
    }
    lgv_status status = lgv_unet2d_config_check(&c, err);
    if (status) return lgv_fail_prefix(err, status, "preset '%s'", p->name);
    *out = c;
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
