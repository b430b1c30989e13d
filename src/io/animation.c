/* animation.c - moving pictures: checks, and the way to GIF or WebP. */
#include <string.h>
#include <strings.h>

#include "animation_internal.h"
#include "core/file.h"

struct lgv_animation {
    int width, height;
    int64_t frames;
    bool ended;
    lgv_bytes bytes;
    lgv_gif *gif;
    lgv_webp_animation *webp;
};

lgv_animation_format lgv_animation_format_of(const char *path)
{
    const char *dot = path ? strrchr(path, '.') : NULL;
    if (!dot || dot == path || dot[-1] == '/') return LGV_ANIMATION_NONE;
    return !strcasecmp(dot, ".gif")    ? LGV_ANIMATION_GIF
           : !strcasecmp(dot, ".webp") ? LGV_ANIMATION_WEBP
                                       : LGV_ANIMATION_NONE;
}

static lgv_status check(lgv_animation_format format, int width, int height,
                        const lgv_animation_options *o, lgv_error *err)
{
    int most = format == LGV_ANIMATION_GIF ? 65535 : 16383;
    if (format != LGV_ANIMATION_GIF && format != LGV_ANIMATION_WEBP)
        return lgv_fail(err, LGV_ERR_ARGUMENT, "an animation is a GIF or a WebP");
    if (width < 1 || height < 1 || width > most || height > most)
        return lgv_fail(err, LGV_ERR_ARGUMENT,
                        "an animation of %d x %d pixels cannot be: 1 to %d a side", width, height,
                        most);
    if (o->plays < 0 || o->plays > 65535 || o->quality < 0 || o->quality > 100)
        return lgv_fail(err, LGV_ERR_ARGUMENT,
                        "an animation plays 0 to 65535 times at a quality of 1 to 100, not %d and "
                        "%d",
                        o->plays, o->quality);
    return LGV_OK;
}

lgv_status lgv_animation_new(lgv_animation_format format, int width, int height,
                             const lgv_animation_options *options, lgv_animation **out,
                             lgv_error *err)
{
    static const lgv_animation_options none = {0};
    const lgv_animation_options *o = options ? options : &none;
    LGV_TRY(check(format, width, height, o, err));
    lgv_animation *a = lgv_zalloc(1, sizeof *a);
    if (!a) return lgv_fail(err, LGV_ERR_MEMORY, "out of memory for an animation");
    a->width = width;
    a->height = height;
    lgv_status s = format == LGV_ANIMATION_GIF
                       ? lgv_gif_open(width, height, o, &a->bytes, &a->gif, err)
                       : lgv_webp_open(width, height, o, &a->webp, err);
    if (s)
        lgv_animation_free(a);
    else
        *out = a;
    return s;
}

void lgv_animation_free(lgv_animation *a)
{
    if (!a) return;
    lgv_gif_free(a->gif);
    lgv_webp_free(a->webp);
    lgv_free(a->bytes.data);
    lgv_free(a);
}

lgv_status lgv_animation_add(lgv_animation *a, const lgv_image *frame, int milliseconds,
                             lgv_error *err)
{
    if (a->ended || milliseconds < 1 || milliseconds > 600000)
        return lgv_fail(err, LGV_ERR_ARGUMENT,
                        a->ended ? "the animation is finished; no frame can follow"
                                 : "a frame is shown for 1 to 600000 milliseconds");
    if (frame->width != a->width || frame->height != a->height || frame->bits != 8 ||
        (frame->channels != 1 && frame->channels != 3))
        return lgv_fail(err, LGV_ERR_ARGUMENT,
                        "frame %lld is %d x %d x %d of %d bits; the animation has %d x %d pixels "
                        "of 1 or 3 channels and 8 bits",
                        (long long)a->frames, frame->width, frame->height, frame->channels,
                        frame->bits, a->width, a->height);
    LGV_TRY(a->gif ? lgv_gif_add(a->gif, frame, milliseconds, err)
                   : lgv_webp_add(a->webp, frame, milliseconds, err));
    a->frames++;
    return LGV_OK;
}

static lgv_status end(lgv_animation *a, lgv_error *err)
{
    if (a->ended || !a->frames)
        return lgv_fail(err, LGV_ERR_ARGUMENT, "an animation needs a frame, and ends once");
    a->ended = true;
    return a->gif ? lgv_gif_close(a->gif, err) : lgv_webp_close(a->webp, &a->bytes, err);
}

lgv_status lgv_animation_save(lgv_animation *a, const char *path, lgv_error *err)
{
    lgv_status s = end(a, err);
    if (s) return lgv_fail_prefix(err, s, "%s", path);
    return lgv_file_write(path, a->bytes.data, a->bytes.size, err);
}

lgv_status lgv_animation_finish(lgv_animation *a, uint8_t **data, size_t *size, lgv_error *err)
{
    LGV_TRY(end(a, err));
    *data = a->bytes.data;
    *size = a->bytes.size;
    a->bytes = (lgv_bytes){0};
    return LGV_OK;
}
