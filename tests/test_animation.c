/* test_animation.c - GIF and WebP animations, read back with the libraries' own decoders: few colours
   are exact, many are close on average, times and repetition are in the file. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <gif_lib.h>
#include <webp/demux.h>

#include "core/core.h"
#include "core/file.h"
#include "langevin/animation.h"
#include "scratch.h"

enum { W = 40, H = 24, FRAMES = 3 };

typedef struct decoded {
    int frames, width, height, plays; /* plays -1: not stated */
    int milliseconds[FRAMES];
    uint8_t rgb[FRAMES][W * H * 3];
} decoded;

/* ---- decoders ---- */

typedef struct reader {
    const uint8_t *data;
    size_t size, at;
} reader;

static int on_read(GifFileType *file, GifByteType *to, int count)
{
    reader *r = file->UserData;
    size_t n = r->size - r->at < (size_t)count ? r->size - r->at : (size_t)count;
    memcpy(to, r->data + r->at, n);
    r->at += n;
    return (int)n;
}

static void decode_gif(const uint8_t *data, size_t size, decoded *out)
{
    int code = 0;
    reader r = {data, size, 0};
    memset(out, 0, sizeof *out);
    out->plays = -1;
    GifFileType *f = DGifOpen(&r, on_read, &code);
    assert_non_null(f);
    assert_int_equal(DGifSlurp(f), GIF_OK);
    assert_int_equal(r.at, size);
    out->width = f->SWidth;
    out->height = f->SHeight;
    out->frames = f->ImageCount;
    assert_true(f->ImageCount <= FRAMES && f->SWidth == W && f->SHeight == H);
    for (int i = 0; i < f->ImageCount; i++) {
        const SavedImage *s = &f->SavedImages[i];
        GraphicsControlBlock control;
        assert_int_equal(DGifSavedExtensionToGCB(f, i, &control), GIF_OK);
        out->milliseconds[i] = 10 * control.DelayTime;
        const ExtensionBlock *e = s->ExtensionBlocks;
        if (i == 0 && s->ExtensionBlockCount > 1 && e[0].ByteCount == 11 &&
            !memcmp(e[0].Bytes, "NETSCAPE2.0", 11))
            out->plays = e[1].Bytes[1] | e[1].Bytes[2] << 8;
        for (int k = 0; k < W * H; k++) {
            assert_true(s->RasterBits[k] < s->ImageDesc.ColorMap->ColorCount);
            GifColorType c = s->ImageDesc.ColorMap->Colors[s->RasterBits[k]];
            memcpy(out->rgb[i] + 3 * k, (uint8_t[]){c.Red, c.Green, c.Blue}, 3);
        }
    }
    DGifCloseFile(f, &code);
}

static void decode_webp(const uint8_t *data, size_t size, decoded *out)
{
    WebPData d = {data, size};
    WebPAnimInfo info;
    uint8_t *rgba;
    int time, before = 0;
    memset(out, 0, sizeof *out);
    WebPAnimDecoder *decoder = WebPAnimDecoderNew(&d, NULL);
    assert_non_null(decoder);
    assert_true(WebPAnimDecoderGetInfo(decoder, &info));
    out->width = (int)info.canvas_width;
    out->height = (int)info.canvas_height;
    out->plays = (int)info.loop_count;
    while (WebPAnimDecoderGetNext(decoder, &rgba, &time)) {
        assert_true(out->frames < FRAMES);
        out->milliseconds[out->frames] = time - before;
        before = time;
        for (int k = 0; k < W * H; k++) memcpy(out->rgb[out->frames] + 3 * k, rgba + 4 * k, 3);
        out->frames++;
    }
    WebPAnimDecoderDelete(decoder);
}

/* ---- frames ---- */

static uint8_t frame_rgb[FRAMES][W * H * 3], frame_grey[FRAMES][W * H];

static int make_frames(void **state)
{
    (void)state;
    uint32_t seed = 1;
    for (int i = 0; i < FRAMES; i++)
        for (int y = 0; y < H; y++)
            for (int x = 0; x < W; x++) {
                uint8_t *p = frame_rgb[i] + 3 * (y * W + x);
                seed = seed * 1664525u + 1013904223u;
                p[0] = (uint8_t)(255 * x / (W - 1));
                p[1] = (uint8_t)(255 * y / (H - 1));
                p[2] = (uint8_t)(i == 1 ? seed >> 24 : (unsigned)(40 * i + 2 * x));
                frame_grey[i][y * W + x] = (uint8_t)(y * W + x + 31 * i);
            }
    return 0;
}

static lgv_image frame(int i, int channels)
{
    return (lgv_image){W, H, channels, 8, channels == 1 ? frame_grey[i] : frame_rgb[i]};
}

static void encode(lgv_animation_format format, const lgv_animation_options *o, int channels,
                   uint8_t **data, size_t *size)
{
    lgv_animation *a = NULL;
    lgv_error err = {0};
    if (lgv_animation_new(format, W, H, o, &a, &err)) fail_msg("%s", err.text);
    for (int i = 0; i < FRAMES; i++) {
        lgv_image m = frame(i, channels);
        if (lgv_animation_add(a, &m, i < 2 ? 80 : 2000, &err)) fail_msg("%s", err.text);
    }
    if (lgv_animation_finish(a, data, size, &err)) fail_msg("%s", err.text);
    lgv_animation_free(a);
}

static void shown_as_told(const decoded *d, int plays)
{
    assert_int_equal(d->frames, FRAMES);
    assert_int_equal(d->width, W);
    assert_int_equal(d->height, H);
    assert_int_equal(d->plays, plays);
    assert_int_equal(d->milliseconds[0], 80);
    assert_int_equal(d->milliseconds[1], 80);
    assert_int_equal(d->milliseconds[2], 2000);
}

static decoded got;

static void grey_is_exact(void **state)
{
    (void)state;
    for (int format = LGV_ANIMATION_GIF; format <= LGV_ANIMATION_WEBP; format++) {
        uint8_t *data = NULL;
        size_t size = 0;
        encode(format, &(lgv_animation_options){.lossless = 1}, 1, &data, &size);
        if (format == LGV_ANIMATION_GIF)
            decode_gif(data, size, &got);
        else
            decode_webp(data, size, &got);
        shown_as_told(&got, 0);
        for (int i = 0; i < FRAMES; i++)
            for (int k = 0; k < 3 * W * H; k++)
                assert_int_equal(got.rgb[i][k], frame_grey[i][k / 3]);
        lgv_image_free_data(data);
    }
}

static void lossless_colours(void **state)
{
    (void)state;
    uint8_t *data = NULL;
    size_t size = 0;
    encode(LGV_ANIMATION_WEBP, &(lgv_animation_options){.lossless = 1, .plays = 7}, 3, &data,
           &size);
    decode_webp(data, size, &got);
    shown_as_told(&got, 7);
    assert_memory_equal(got.rgb, frame_rgb, sizeof frame_rgb);
    lgv_image_free_data(data);
}

/* Means of |difference| of pixels, and of blocks of 4x4, where dithering must not show. */
static void distance(const uint8_t *a, const uint8_t *b, double *pixel, double *block)
{
    long sum = 0, blocks = 0;
    for (int i = 0; i < 3 * W * H; i++) sum += abs(a[i] - b[i]);
    for (int y = 0; y < H; y += 4)
        for (int x = 0; x < W; x += 4)
            for (int c = 0; c < 3; c++) {
                int d = 0;
                for (int k = 0; k < 16; k++) {
                    int at = 3 * ((y + k / 4) * W + x + k % 4) + c;
                    d += a[at] - b[at];
                }
                blocks += abs(d);
            }
    *pixel = (double)sum / (3 * W * H);
    *block = (double)blocks / (3 * W * H);
}

static void many_colours_are_close(void **state)
{
    (void)state;
    for (int format = LGV_ANIMATION_GIF; format <= LGV_ANIMATION_WEBP; format++) {
        uint8_t *data = NULL;
        size_t size = 0;
        encode(format, NULL, 3, &data, &size);
        if (format == LGV_ANIMATION_GIF)
            decode_gif(data, size, &got);
        else
            decode_webp(data, size, &got);
        shown_as_told(&got, 0);
        for (int i = 0; i < FRAMES; i++) {
            double pixel, block;
            distance(got.rgb[i], frame_rgb[i], &pixel, &block);
            print_message("%s, frame %d: %.2f a pixel, %.2f a block of 16\n",
                          format == LGV_ANIMATION_GIF ? "GIF" : "WebP", i, pixel, block);
            if (format == LGV_ANIMATION_GIF) assert_true(pixel < 12 && block < 2);
            if (format == LGV_ANIMATION_WEBP && i != 1) assert_true(pixel < 4 && block < 2);
        }
        lgv_image_free_data(data);
    }
}

static void once_and_single_colour(void **state)
{
    (void)state;
    lgv_animation *a = NULL;
    uint8_t *data = NULL, pixels[W * H] = {0};
    size_t size = 0;
    lgv_image m = {W, H, 1, 8, pixels};
    assert_int_equal(
        lgv_animation_new(LGV_ANIMATION_GIF, W, H, &(lgv_animation_options){.plays = 1}, &a, NULL),
        LGV_OK);
    assert_int_equal(lgv_animation_add(a, &m, 1, NULL), LGV_OK);
    assert_int_equal(lgv_animation_finish(a, &data, &size, NULL), LGV_OK);
    decode_gif(data, size, &got);
    assert_int_equal(got.plays, -1);
    assert_int_equal(got.milliseconds[0], 20);
    assert_memory_equal(got.rgb[0], ((uint8_t[3]){0}), 3);
    lgv_image_free_data(data);
    lgv_animation_free(a);
}

static void refusals(void **state)
{
    (void)state;
    lgv_animation *a = NULL;
    lgv_error err = {0};
    lgv_image m = frame(0, 3), wrong = {W, H - 1, 3, 8, frame_rgb};
    assert_int_equal(lgv_animation_format_of("a/b.GIF"), LGV_ANIMATION_GIF);
    assert_int_equal(lgv_animation_format_of("x.webp"), LGV_ANIMATION_WEBP);
    assert_int_equal(lgv_animation_format_of("x.png"), LGV_ANIMATION_NONE);
    assert_int_equal(lgv_animation_format_of("a/.gif"), LGV_ANIMATION_NONE);
    assert_int_equal(lgv_animation_new(LGV_ANIMATION_WEBP, 16384, 4, NULL, &a, &err),
                     LGV_ERR_ARGUMENT);
    assert_int_equal(lgv_animation_new(LGV_ANIMATION_NONE, 4, 4, NULL, &a, &err), LGV_ERR_ARGUMENT);
    assert_null(a);
    assert_int_equal(lgv_animation_new(LGV_ANIMATION_GIF, W, H, NULL, &a, &err), LGV_OK);
    assert_int_equal(lgv_animation_add(a, &wrong, 80, &err), LGV_ERR_ARGUMENT);
    assert_non_null(strstr(err.text, "frame 0 is 40 x 23 x 3"));
    assert_int_equal(lgv_animation_save(a, scratch_path("none.gif"), &err), LGV_ERR_ARGUMENT);
    assert_int_equal(lgv_animation_add(a, &m, 80, &err), LGV_OK);
    assert_int_equal(lgv_animation_save(a, scratch_path("no/such.gif"), &err), LGV_ERR_IO);
    assert_int_equal(lgv_animation_add(a, &m, 80, &err), LGV_ERR_ARGUMENT);
    lgv_animation_free(a);
    lgv_animation_free(NULL);
}

static void allocation_failures(void **state)
{
    (void)state;
    for (int format = LGV_ANIMATION_GIF; format <= LGV_ANIMATION_WEBP; format++)
        for (uint64_t n = 1;; n++) {
            lgv_animation *a = NULL;
            lgv_image m = frame(1, format == LGV_ANIMATION_GIF ? 3 : 1);
            lgv_alloc_fail_after(n);
            lgv_status s = lgv_animation_new(format, W, H, NULL, &a, NULL);
            if (!s) s = lgv_animation_add(a, &m, 80, NULL);
            if (!s) s = lgv_animation_save(a, scratch_path("failing"), NULL);
            lgv_alloc_fail_after(0);
            lgv_animation_free(a);
            if (!s) break;
            assert_int_equal(s, LGV_ERR_MEMORY);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(grey_is_exact),
        cmocka_unit_test(lossless_colours),
        cmocka_unit_test(many_colours_are_close),
        cmocka_unit_test(once_and_single_colour),
        cmocka_unit_test(refusals),
        cmocka_unit_test(allocation_failures),
    };
    make_frames(NULL);
    return cmocka_run_group_tests_name("animation", tests, NULL, scratch_remove);
}
