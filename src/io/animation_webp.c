/* animation_webp.c - animated WebP through libwebp's own encoder of animations, which stores only
   what changes from frame to frame and chooses the smaller of its two ways for each. */
#include <limits.h>
#include <string.h>
#include <webp/encode.h>
#include <webp/mux.h>

#include "animation_internal.h"

struct lgv_webp_animation {
    WebPAnimEncoder *encoder;
    WebPConfig config;
    uint8_t *rgb; /* a grey frame in colour */
    size_t pixels;
    int time; /* milliseconds so far */
};

static lgv_status failed(const lgv_webp_animation *w, const WebPPicture *picture, lgv_error *err)
{
    if (picture && (picture->error_code == VP8_ENC_ERROR_OUT_OF_MEMORY ||
                    picture->error_code == VP8_ENC_ERROR_BITSTREAM_OUT_OF_MEMORY))
        return lgv_fail(err, LGV_ERR_MEMORY, "out of memory for a frame of a WebP animation");
    return lgv_fail(err, LGV_ERR_IO, "the WebP animation cannot be written: %s",
                    WebPAnimEncoderGetError(w->encoder));
}

lgv_status lgv_webp_open(int width, int height, const lgv_animation_options *o,
                         lgv_webp_animation **out, lgv_error *err)
{
    WebPAnimEncoderOptions options;
    lgv_webp_animation *w = lgv_zalloc(1, sizeof *w);
    if (!w || !WebPAnimEncoderOptionsInit(&options) || !WebPConfigInit(&w->config)) {
        lgv_free(w);
        return lgv_fail(err, LGV_ERR_MEMORY, "out of memory for a WebP animation");
    }
    options.anim_params.loop_count = o->plays;
    options.allow_mixed = !o->lossless;
    w->pixels = (size_t)width * (size_t)height;
    w->config.quality = o->lossless ? 75 : (float)(o->quality ? o->quality : 90);
    w->config.lossless = o->lossless;
    w->config.method = 4;
    w->config.use_sharp_yuv = 1; /* edges of small pictures keep their colour */
    w->encoder = WebPAnimEncoderNew(width, height, &options);
    if (!w->encoder) {
        lgv_webp_free(w);
        return lgv_fail(err, LGV_ERR_MEMORY, "out of memory for a WebP animation of %d x %d", width,
                        height);
    }
    *out = w;
    return LGV_OK;
}

static lgv_status in_colour(lgv_webp_animation *w, const lgv_image *frame, const uint8_t **rgb,
                            lgv_error *err)
{
    const uint8_t *from = frame->pixels;
    *rgb = from;
    if (frame->channels == 3) return LGV_OK;
    if (!w->rgb && !(w->rgb = lgv_alloc(w->pixels, 3)))
        return lgv_fail(err, LGV_ERR_MEMORY, "out of memory for a frame of a WebP animation");
    for (size_t i = 0; i < w->pixels; i++) memset(w->rgb + 3 * i, from[i], 3);
    *rgb = w->rgb;
    return LGV_OK;
}

lgv_status lgv_webp_add(lgv_webp_animation *w, const lgv_image *frame, int milliseconds,
                        lgv_error *err)
{
    const uint8_t *rgb;
    WebPPicture picture;
    if (milliseconds > INT_MAX - w->time)
        return lgv_fail(err, LGV_ERR_ARGUMENT, "the WebP animation is longer than 24 days");
    LGV_TRY(in_colour(w, frame, &rgb, err));
    if (!WebPPictureInit(&picture))
        return lgv_fail(err, LGV_ERR_UNSUPPORTED, "libwebp is of another version than its headers");
    picture.use_argb = 1;
    picture.width = frame->width;
    picture.height = frame->height;
    lgv_status s = LGV_OK;
    if (!WebPPictureImportRGB(&picture, rgb, 3 * frame->width) ||
        !WebPAnimEncoderAdd(w->encoder, &picture, w->time, &w->config))
        s = failed(w, &picture, err);
    WebPPictureFree(&picture);
    if (!s) w->time += milliseconds;
    return s;
}

lgv_status lgv_webp_close(lgv_webp_animation *w, lgv_bytes *to, lgv_error *err)
{
    WebPData data;
    WebPDataInit(&data);
    if (!WebPAnimEncoderAdd(w->encoder, NULL, w->time, NULL) ||
        !WebPAnimEncoderAssemble(w->encoder, &data))
        return failed(w, NULL, err);
    bool kept = lgv_bytes_put(to, data.bytes, data.size);
    WebPDataClear(&data);
    return kept ? LGV_OK : lgv_fail(err, LGV_ERR_MEMORY, "out of memory for an animation");
}

void lgv_webp_free(lgv_webp_animation *w)
{
    if (!w) return;
    WebPAnimEncoderDelete(w->encoder);
    lgv_free(w->rgb);
    lgv_free(w);
}
