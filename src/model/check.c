/* check.c - whether a UNet2DModel configuration makes a network that can be built and run.
   The check follows a sample through the plan of every block, with its channels and halvings, so
   that what diffusers only finds out while running is said here, and by the name of the field. */
#include <math.h>
#include <stdio.h>

#include "parts.h"

/* What flows through the network: channels, and how often it was halved. */
typedef struct flow {
    int channels, level;
} flow;

typedef struct walk {
    const lgv_unet2d_config *c;
    lgv_unet2d_variant variant;
    lgv_error *err;
    flow x, picture; /* picture.channels 0: none */
    flow *skip;
    int skips;
} walk;

static const char *list_name(const lgv_stage_plan *s)
{
    return s->up ? "up_block_types" : "down_block_types";
}

static lgv_status check_norm(lgv_error *err, const char *where, int channels, int groups)
{
    if (groups >= 1 && channels % groups == 0) return LGV_OK;
    return lgv_fail(err, LGV_ERR_ARGUMENT,
                    "a norm of %s has %d channels, which cannot be split into %d groups; change "
                    "block_out_channels or norm_num_groups",
                    where, channels, groups);
}

static lgv_status check_resnet(walk *w, const lgv_stage_plan *s, int level,
                               const lgv_resnet_plan *r)
{
    char where[64];
    snprintf(where, sizeof where, "%s[%d] (%s)", list_name(s), level,
             lgv_block_name(s->kind, s->up));
    LGV_TRY(check_norm(w->err, where, r->in, r->groups));
    return check_norm(w->err, where, r->out, r->groups_out);
}

static lgv_status check_attention(lgv_error *err, const char *where, const lgv_attention_plan *a)
{
    if (a->heads < 1)
        return lgv_fail(err, LGV_ERR_ARGUMENT,
                        "attention_head_dim is %d, more than the %d channels of %s", a->head_dim,
                        a->channels, where);
    return a->groups ? check_norm(err, where, a->channels, a->groups) : LGV_OK;
}

static lgv_status check_stage(walk *w, const lgv_stage_plan *s, int level)
{
    lgv_resnet_plan r;
    lgv_attention_plan a;
    if (!w->c->norm_num_groups && !lgv_block_has_skip(s->kind) && s->kind != LGV_BLOCK_K)
        return lgv_fail(
            w->err, LGV_ERR_ARGUMENT,
            "norm_num_groups is null, but %s[%d] (%s) needs it; only Skip and K blocks do not",
            list_name(s), level, lgv_block_name(s->kind, s->up));
    for (int i = 0; i < s->layers; i++) {
        lgv_plan_resnet(w->c, s, i, &r);
        LGV_TRY(check_resnet(w, s, level, &r));
    }
    if (s->resample && (s->resnet_sampler || lgv_block_has_skip(s->kind))) {
        lgv_plan_sampler(w->c, s, &r);
        LGV_TRY(check_resnet(w, s, level, &r));
    }
    if (!lgv_plan_attention(w->c, s, &a)) return LGV_OK;
    char where[64];
    snprintf(where, sizeof where, "%s[%d] (%s)", list_name(s), level,
             lgv_block_name(s->kind, s->up));
    return check_attention(w->err, where, &a);
}

/* A Skip block that resamples adds the picture to (or collects it from) its own resolution, as RGB.
 */
static lgv_status check_picture(walk *w, const lgv_stage_plan *s, int level)
{
    const char *which = s->up ? "out_channels" : "in_channels";
    int channels = s->up ? w->c->out_channels : w->c->in_channels;
    if (channels != 3)
        return lgv_fail(w->err, LGV_ERR_ARGUMENT,
                        "%s[%d] (%s) works on RGB pictures: %s is %d and must be 3", list_name(s),
                        level, lgv_block_name(s->kind, s->up), which, channels);
    if (w->picture.channels && w->picture.level != w->x.level)
        return lgv_fail(w->err, LGV_ERR_ARGUMENT,
                        "%s[%d] (%s) comes after a block that changes the resolution without "
                        "the picture; use Skip blocks at all earlier levels",
                        list_name(s), level, lgv_block_name(s->kind, s->up));
    return LGV_OK;
}

static lgv_status check_down(walk *w, int level)
{
    lgv_stage_plan s;
    lgv_plan_down(w->c, w->variant, level, &s);
    LGV_TRY(check_stage(w, &s, level));
    w->x.channels = s.out;
    for (int i = 0; i < s.layers; i++) w->skip[w->skips++] = w->x;
    if (!s.resample) return LGV_OK;
    if (lgv_block_has_skip(s.kind)) {
        LGV_TRY(check_picture(w, &s, level));
        w->picture.level++;
    }
    w->x.level++;
    if (s.kind != LGV_BLOCK_K) w->skip[w->skips++] = w->x;
    return LGV_OK;
}

static lgv_status take_skip(walk *w, const lgv_stage_plan *s, int level, int channels)
{
    flow skip = w->skips > 0 ? w->skip[--w->skips] : (flow){0, 0};
    if (skip.channels == channels && skip.level == w->x.level) return LGV_OK;
    return lgv_fail(
        w->err, LGV_ERR_ARGUMENT,
        "up_block_types[%d] (%s) does not fit the skip connections that the down blocks "
        "make; use K blocks at all levels, or at none but the lowest of down_block_types",
        level, lgv_block_name(s->kind, true));
}

static lgv_status check_skips(walk *w, const lgv_stage_plan *s, int level)
{
    int arriving = s->kind == LGV_BLOCK_K ? s->out : s->previous;
    if (w->x.channels != arriving)
        return lgv_fail(
            w->err, LGV_ERR_ARGUMENT,
            "up_block_types[%d] (%s) expects %d channels and gets %d; use K blocks at all "
            "levels or at none",
            level, lgv_block_name(s->kind, true), arriving, w->x.channels);
    for (int i = 0; i < s->layers; i++) {
        if (s->kind == LGV_BLOCK_K &&
            i > 0) { /* popped with the others of its level, and not used */
            if (w->skips > 0) w->skips--;
            continue;
        }
        LGV_TRY(
            take_skip(w, s, level, i == s->layers - 1 && s->kind != LGV_BLOCK_K ? s->in : s->out));
    }
    return LGV_OK;
}

static lgv_status check_up(walk *w, int level)
{
    lgv_stage_plan s;
    lgv_plan_up(w->c, w->variant, level, &s);
    LGV_TRY(check_stage(w, &s, level));
    LGV_TRY(check_skips(w, &s, level));
    w->x.channels = s.kind == LGV_BLOCK_K ? s.in : s.out;
    if (lgv_block_has_skip(s.kind)) {
        if (w->picture.channels) w->picture.level--;
        if (s.resample || w->picture.channels) LGV_TRY(check_picture(w, &s, level));
        if (s.resample) w->picture = w->x;
    }
    if (s.resample) w->x.level--;
    return LGV_OK;
}

static lgv_status check_mid(walk *w)
{
    lgv_resnet_plan r;
    lgv_attention_plan a;
    if (!w->c->mid_block) return LGV_OK;
    lgv_plan_mid_resnet(w->c, &r);
    lgv_plan_mid_attention(w->c, &a);
    LGV_TRY(check_norm(w->err, "the mid block", r.in, r.groups));
    return w->c->add_attention ? check_attention(w->err, "the mid block's attention", &a) : LGV_OK;
}

static lgv_status check_blocks(walk *w)
{
    const lgv_unet2d_config *c = w->c;
    w->x = (flow){lgv_unet2d_first(c, w->variant), 0};
    w->picture = (flow){c->in_channels, 0};
    w->skip[w->skips++] = w->x;
    for (int i = 0; i < c->levels; i++) LGV_TRY(check_down(w, i));
    LGV_TRY(check_mid(w));
    w->picture = (flow){0, 0};
    for (int i = 0; i < c->levels; i++) LGV_TRY(check_up(w, i));
    if (w->picture.channels && w->picture.level != 0)
        return lgv_fail(
            w->err, LGV_ERR_ARGUMENT,
            "the last of up_block_types must be a Skip block too, when an earlier one is: the "
            "picture would stay small");
    return check_norm(w->err, "the output (conv_norm_out)", c->block_out_channels[0],
                      lgv_plan_out_groups(c));
}

/* --- Single fields --- */
enum { MAX_CHANNELS = 1 << 16, MAX_LAYERS = 64, MAX_ROWS = 1 << 24 };

lgv_status lgv_check_range(lgv_error *err, const char *field, int64_t value, int64_t low,
                           int64_t high)
{
    if (value >= low && value <= high) return LGV_OK;
    return lgv_fail(err, LGV_ERR_ARGUMENT, "%s is %lld, it must be %lld to %lld", field,
                    (long long)value, (long long)low, (long long)high);
}

static lgv_status check_numbers(const lgv_unet2d_config *c, lgv_error *err)
{
    LGV_TRY(lgv_check_range(err, "sample_size", c->sample_height, 0, MAX_CHANNELS));
    LGV_TRY(lgv_check_range(err, "sample_size", c->sample_width, 0, MAX_CHANNELS));
    LGV_TRY(lgv_check_range(err, "in_channels", c->in_channels, 1, MAX_CHANNELS));
    LGV_TRY(lgv_check_range(err, "out_channels", c->out_channels, 1, MAX_CHANNELS));
    LGV_TRY(lgv_check_range(err, "the number of blocks (down_block_types)", c->levels, 1,
                            LGV_UNET2D_LEVELS));
    LGV_TRY(lgv_check_range(err, "layers_per_block", c->layers_per_block, 1, MAX_LAYERS));
    LGV_TRY(lgv_check_range(err, "time_embedding_dim", c->time_embedding_dim, 0, MAX_CHANNELS));
    LGV_TRY(lgv_check_range(err, "downsample_padding", c->downsample_padding, 0, 1));
    LGV_TRY(lgv_check_range(err, "attention_head_dim", c->attention_head_dim, 0, MAX_CHANNELS));
    LGV_TRY(lgv_check_range(err, "norm_num_groups", c->norm_num_groups, 0, MAX_CHANNELS));
    LGV_TRY(lgv_check_range(err, "attn_norm_num_groups", c->attn_norm_num_groups, 0, MAX_CHANNELS));
    for (int i = 0; i < c->levels; i++) {
        char field[32];
        snprintf(field, sizeof field, "block_out_channels[%d]", i);
        LGV_TRY(lgv_check_range(err, field, c->block_out_channels[i], 1, MAX_CHANNELS));
        LGV_TRY(lgv_check_range(err, "a down block type", (int64_t)c->down_block_types[i], 0,
                                LGV_BLOCK_K));
        LGV_TRY(lgv_check_range(err, "an up block type", (int64_t)c->up_block_types[i], 0,
                                LGV_BLOCK_K));
    }
    if (!(c->dropout >= 0 && c->dropout < 1))
        return lgv_fail(err, LGV_ERR_ARGUMENT, "dropout is %g, it must be at least 0 and below 1",
                        c->dropout);
    if (!(c->norm_eps >= 0 && c->norm_eps <= 1))
        return lgv_fail(err, LGV_ERR_ARGUMENT, "norm_eps is %g, it must be between 0 and 1",
                        c->norm_eps);
    if (!(c->mid_block_scale_factor > 0) || c->mid_block_scale_factor > 1e6)
        return lgv_fail(err, LGV_ERR_ARGUMENT, "mid_block_scale_factor is %g, it must be above 0",
                        c->mid_block_scale_factor);
    return lgv_check_range(err, "act_fn", c->act_fn, LGV_ACT_SILU, LGV_ACT_RELU);
}

/* The picture's channels of all that come in; 0: no number fits. */
int lgv_unet2d_picture(const lgv_unet2d_config *c)
{
    const int in = c->in_channels;
    switch (c->condition) {
    case LGV_CONDITION_NONE: break;
    case LGV_CONDITION_SUPER_RESOLUTION: return in % 2 ? 0 : in / 2;
    case LGV_CONDITION_INPAINTING: return in % 2 ? in / 2 : 0;
    }
    return in;
}

static lgv_status check_condition(const lgv_unet2d_config *c, lgv_error *err)
{
    if (!c->condition) return LGV_OK;
    LGV_TRY(lgv_check_range(err, "_condition", c->condition, 0, LGV_CONDITION_INPAINTING));
    LGV_TRY(lgv_check_range(err, "_condition_scale", c->condition_scale, 1, 64));
    const int picture = lgv_unet2d_picture(c);
    if (picture && (c->out_channels == picture || c->out_channels == 2 * picture)) return LGV_OK;
    return lgv_fail(err, LGV_ERR_ARGUMENT,
                    "in_channels is %d and out_channels %d; with the condition %s a network takes "
                    "the picture's channels and %s",
                    c->in_channels, c->out_channels, lgv_condition_name(c->condition),
                    c->condition == LGV_CONDITION_INPAINTING
                        ? "as many and one more, and gives the picture's"
                        : "as many again, and gives the picture's");
}

static lgv_status check_embeddings(const lgv_unet2d_config *c, lgv_error *err)
{
    int half = c->block_out_channels[0] / 2;
    /* The frequencies are 10000^(-i / (half - freq_shift)). */
    if (!isfinite(c->freq_shift) ||
        (c->time_embedding_type == LGV_TIME_POSITIONAL && half > 0 && c->freq_shift == half))
        return lgv_fail(
            err, LGV_ERR_ARGUMENT,
            "freq_shift is %g, it must be a number other than half of block_out_channels[0], %d",
            c->freq_shift, half);
    if (c->time_embedding_type == LGV_TIME_LEARNED)
        LGV_TRY(lgv_check_range(err, "num_train_timesteps (the rows of the learned time embedding)",
                                c->num_train_timesteps, 1, MAX_ROWS));
    if (c->class_embedding == LGV_CLASS_TABLE)
        LGV_TRY(lgv_check_range(err, "num_class_embeds", c->num_class_embeds, 1, MAX_ROWS));
    return LGV_OK;
}

static lgv_status check_sample_size(const lgv_unet2d_config *c, lgv_error *err)
{
    int d = lgv_unet2d_divisor(c), h = c->sample_height, w = c->sample_width;
    if (h % d == 0 && w % d == 0 && (h == 0) == (w == 0)) return LGV_OK;
    return lgv_fail(err, LGV_ERR_ARGUMENT,
                    "sample_size is %dx%d; with %d levels height and width must be multiples of %d",
                    h, w, c->levels, d);
}

lgv_status lgv_unet2d_variant_check(const lgv_unet2d_config *c, lgv_unet2d_variant v,
                                    lgv_error *err)
{
    LGV_TRY(check_numbers(c, err));
    LGV_TRY(check_condition(c, err));
    LGV_TRY(check_embeddings(c, err));
    LGV_TRY(check_sample_size(c, err));
    walk w = {.c = c, .variant = v, .err = err};
    w.skip = lgv_alloc((size_t)(1 + c->levels * (c->layers_per_block + 1)), sizeof *w.skip);
    if (!w.skip)
        return lgv_fail(err, LGV_ERR_MEMORY,
                        "out of memory while checking a UNet2DModel configuration");
    lgv_status status = check_blocks(&w);
    lgv_free(w.skip);
    return status;
}

lgv_status lgv_unet2d_config_check(const lgv_unet2d_config *c, lgv_error *err)
{
    return lgv_unet2d_variant_check(c, (lgv_unet2d_variant){0}, err);
}
