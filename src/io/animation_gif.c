/* animation_gif.c - GIF89a through giflib: loop, delays, a palette for each frame.
   giflib owns nothing of ours but the place its bytes go to, so a failure half-way loses nothing. */
#include <gif_lib.h>
#include <string.h>

#include "animation_internal.h"

struct lgv_gif {
    GifFileType *file;
    lgv_bytes *to;
    uint8_t *index;
};

static int on_write(GifFileType *file, const GifByteType *data, int count)
{
    lgv_gif *g = file->UserData;
    return lgv_bytes_put(g->to, data, (size_t)count) ? count : 0;
}

static lgv_status failed(const lgv_gif *g, lgv_error *err)
{
    const char *why = GifErrorString(g->file->Error);
    bool memory = g->to->failed || g->file->Error == E_GIF_ERR_NOT_ENOUGH_MEM;
    return lgv_fail(err, memory ? LGV_ERR_MEMORY : LGV_ERR_IO, "the GIF cannot be written: %s",
                    memory ? "out of memory"
                    : why  ? why
                           : "giflib says no more");
}

/* The application extension that browsers read: how often the animation plays, 0 for ever. */
static int put_loop(GifFileType *file, int plays)
{
    const GifByteType count[3] = {1, (GifByteType)(plays & 255), (GifByteType)(plays >> 8)};
    return EGifPutExtensionLeader(file, APPLICATION_EXT_FUNC_CODE) != GIF_ERROR &&
           EGifPutExtensionBlock(file, 11, "NETSCAPE2.0") != GIF_ERROR &&
           EGifPutExtensionBlock(file, 3, count) != GIF_ERROR &&
           EGifPutExtensionTrailer(file) != GIF_ERROR;
}

lgv_status lgv_gif_open(int width, int height, const lgv_animation_options *o, lgv_bytes *to,
                        lgv_gif **out, lgv_error *err)
{
    int code = 0;
    lgv_gif *g = lgv_zalloc(1, sizeof *g);
    if (g) g->index = lgv_alloc((size_t)width * (size_t)height, 1);
    if (g && g->index) g->file = EGifOpen(g, on_write, &code);
    if (!g || !g->file) {
        lgv_gif_free(g);
        return lgv_fail(err, LGV_ERR_MEMORY, "out of memory for a GIF of %d x %d", width, height);
    }
    g->to = to;
    EGifSetGifVersion(g->file, true);
    lgv_status s = LGV_OK;
    if (EGifPutScreenDesc(g->file, width, height, 8, 0, NULL) == GIF_ERROR ||
        (o->plays != 1 && !put_loop(g->file, o->plays)))
        s = failed(g, err);
    if (s)
        lgv_gif_free(g);
    else
        *out = g;
    return s;
}

static int put_frame(GifFileType *file, const lgv_image *frame, const ColorMapObject *map,
                     uint8_t *index, int milliseconds)
{
    GifByteType block[4];
    int hundredths = (milliseconds + 5) / 10;
    const GraphicsControlBlock control = {.DisposalMode = DISPOSE_DO_NOT,
                                          .DelayTime = hundredths < 2 ? 2 : hundredths,
                                          .TransparentColor = NO_TRANSPARENT_COLOR};
    EGifGCBToExtension(&control, block);
    if (EGifPutExtension(file, GRAPHICS_EXT_FUNC_CODE, sizeof block, block) == GIF_ERROR ||
        EGifPutImageDesc(file, 0, 0, frame->width, frame->height, false, map) == GIF_ERROR)
        return 0;
    for (int y = 0; y < frame->height; y++, index += frame->width)
        if (EGifPutLine(file, index, frame->width) == GIF_ERROR) return 0;
    return 1;
}

lgv_status lgv_gif_add(lgv_gif *g, const lgv_image *frame, int milliseconds, lgv_error *err)
{
    lgv_palette p;
    GifColorType colour[256] = {{0}};
    int size = 2; /* a colour table has a power of two */
    LGV_TRY(lgv_palette_make(frame, &p, g->index, err));
    while (size < p.count) size *= 2;
    for (int i = 0; i < p.count; i++)
        colour[i] = (GifColorType){p.rgb[i][0], p.rgb[i][1], p.rgb[i][2]};
    ColorMapObject *map = GifMakeMapObject(size, colour);
    if (!map) return lgv_fail(err, LGV_ERR_MEMORY, "out of memory for the palette of a GIF");
    lgv_status s = put_frame(g->file, frame, map, g->index, milliseconds) ? LGV_OK : failed(g, err);
    GifFreeMapObject(map);
    return s;
}

lgv_status lgv_gif_close(lgv_gif *g, lgv_error *err)
{
    int code = 0;
    int ok = EGifCloseFile(g->file, &code); /* frees the file in any case */
    g->file = NULL;
    if (ok != GIF_ERROR && !g->to->failed) return LGV_OK;
    return lgv_fail(err, LGV_ERR_MEMORY, "out of memory for the end of a GIF");
}

void lgv_gif_free(lgv_gif *g)
{
    int code;
    if (!g) return;
    if (g->file) EGifCloseFile(g->file, &code);
    lgv_free(g->index);
    lgv_free(g);
}
