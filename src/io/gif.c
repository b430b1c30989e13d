/* gif.c - the first frame of a GIF, through giflib.
   The frame is read row by row instead of with DGifSlurp, which would decode all frames of an animation.
   As in PIL, the picture has the size of the logical screen (grown where the frame reaches beyond it), and
   what the frame does not cover is transparent when the frame has a transparent colour, else colour 0. */
#include <gif_lib.h>
#include <string.h>

#include "image_internal.h"

typedef struct source {
    const uint8_t *data;
    size_t size, at;
} source;

static int on_read(GifFileType *gif, GifByteType *dst, int n)
{
    source *s = gif->UserData;
    size_t left = s->size - s->at, take = n < 0 ? 0 : (size_t)n < left ? (size_t)n : left;
    if (take) memcpy(dst, s->data + s->at, take);
    s->at += take;
    return (int)take;
}

static lgv_status damaged(const GifFileType *gif, const char *name, lgv_error *err)
{
    const char *why = GifErrorString(gif->Error);
    if (gif->Error == D_GIF_ERR_NOT_ENOUGH_MEM)
        return lgv_fail(err, LGV_ERR_MEMORY, "%s: out of memory", name);
    return lgv_fail(err, LGV_ERR_FORMAT, "%s: the GIF picture is damaged or truncated: %s", name,
                    why ? why : "it ends too early");
}

/* The header of the first frame, and the transparent colour announced before it, -1 none. */
static lgv_status find_frame(GifFileType *gif, const char *name, int *transparent, lgv_error *err)
{
    *transparent = NO_TRANSPARENT_COLOR;
    for (;;) {
        GifRecordType type;
        if (DGifGetRecordType(gif, &type) == GIF_ERROR) return damaged(gif, name, err);
        if (type == IMAGE_DESC_RECORD_TYPE) {
            if (DGifGetImageHeader(gif) == GIF_ERROR) return damaged(gif, name, err);
            return LGV_OK;
        }
        if (type == TERMINATE_RECORD_TYPE)
            return lgv_fail(err, LGV_ERR_FORMAT, "%s: the GIF holds no picture", name);
        if (type != EXTENSION_RECORD_TYPE) continue;
        int code;
        GifByteType *block;
        if (DGifGetExtension(gif, &code, &block) == GIF_ERROR) return damaged(gif, name, err);
        GraphicsControlBlock gcb;
        if (block && code == GRAPHICS_EXT_FUNC_CODE &&
            DGifExtensionToGCB(block[0], block + 1, &gcb) == GIF_OK)
            *transparent = gcb.TransparentColor;
        while (block)
            if (DGifGetExtensionNext(gif, &block) == GIF_ERROR) return damaged(gif, name, err);
    }
}

static const ColorMapObject *colours(const GifFileType *gif)
{
    return gif->Image.ColorMap ? gif->Image.ColorMap : gif->SColorMap;
}

/* One code of at most 12 bits stands for at most 4,096 pixels: more cannot be in the file. */
static lgv_status check_frame(const GifFileType *gif, size_t size, const char *name, int *width,
                              int *height, lgv_error *err)
{
    const GifImageDesc *f = &gif->Image;
    int64_t right = (int64_t)f->Left + f->Width, bottom = (int64_t)f->Top + f->Height;
    int64_t w = lgv_max_i64(gif->SWidth, right), h = lgv_max_i64(gif->SHeight, bottom);
    LGV_TRY(lgv_image_check_size(name, w, h, err));
    LGV_TRY(lgv_image_check_claim(name, w, h, size, err));
    if (f->Left < 0 || f->Top < 0 || f->Width < 1 || f->Height < 1)
        return lgv_fail(err, LGV_ERR_FORMAT, "%s: the GIF's first frame is empty", name);
    if ((int64_t)f->Width * f->Height / 4096 > (int64_t)size)
        return lgv_fail(err, LGV_ERR_FORMAT,
                        "%s: %zu bytes cannot hold %d x %d pixels; the file is truncated", name,
                        size, f->Width, f->Height);
    *width = (int)w;
    *height = (int)h;
    return LGV_OK;
}

/* Indices -> colours. dst[width][channels]; alpha is 0 for the transparent colour. */
static void paint(const ColorMapObject *map, const uint8_t *index, int width, int channels,
                  int transparent, uint8_t *dst)
{
    for (int x = 0; x < width; x++, dst += channels) {
        int i = index[x];
        GifColorType c = {0, 0, 0};
        if (i < map->ColorCount) c = map->Colors[i];
        dst[0] = c.Red;
        dst[1] = c.Green;
        dst[2] = c.Blue;
        if (channels == 4) dst[3] = i == transparent ? 0 : 255;
    }
}

static lgv_status read_rows(GifFileType *gif, const char *name, int transparent, uint8_t *line,
                            lgv_image *image, lgv_error *err)
{
    static const int first[4] = {0, 4, 2, 1}, step[4] = {8, 8, 4, 2};
    const GifImageDesc *f = &gif->Image;
    const ColorMapObject *map = colours(gif);
    size_t pixel = (size_t)image->channels, row = (size_t)image->width * pixel;
    memset(line, transparent >= 0 ? transparent : 0, (size_t)image->width);
    for (int y = 0; y < image->height; y++)
        paint(map, line, image->width, image->channels, transparent,
              (uint8_t *)image->pixels + (size_t)y * row);
    for (int pass = 0; pass < (f->Interlace ? 4 : 1); pass++) {
        for (int y = f->Interlace ? first[pass] : 0; y < f->Height;
             y += f->Interlace ? step[pass] : 1) {
            if (DGifGetLine(gif, line, f->Width) == GIF_ERROR) return damaged(gif, name, err);
            paint(map, line, f->Width, image->channels, transparent,
                  (uint8_t *)image->pixels + (size_t)(f->Top + y) * row + (size_t)f->Left * pixel);
        }
    }
    return LGV_OK;
}

/* Info, and the pixels when image is not NULL. */
static lgv_status read_open(GifFileType *gif, size_t size, const char *name, lgv_image_info *info,
                            lgv_image *image, lgv_error *err)
{
    int transparent, width = 0, height = 0;
    LGV_TRY(find_frame(gif, name, &transparent, err));
    LGV_TRY(check_frame(gif, size, name, &width, &height, err));
    if (!colours(gif))
        return lgv_fail(err, LGV_ERR_FORMAT, "%s: the GIF picture has no colours", name);
    *info = (lgv_image_info){LGV_IMAGE_GIF, width, height, transparent >= 0 ? 4 : 3, 8};
    if (!image) return LGV_OK;
    lgv_image out = {0};
    LGV_TRY(lgv_image_new(width, height, info->channels, 8, &out, err));
    uint8_t *line = lgv_alloc((size_t)width, 1);
    lgv_status s = line ? read_rows(gif, name, transparent, line, &out, err)
                        : lgv_fail(err, LGV_ERR_MEMORY, "%s: out of memory", name);
    lgv_free(line);
    if (s)
        lgv_image_free(&out);
    else
        *image = out;
    return s;
}

/* giflib drops the reason when the palette finds no memory and says that the header is wrong: ask again before
   blaming the file. */
static GifFileType *open_gif(source *s, int *code)
{
    GifFileType *gif = DGifOpen(s, on_read, code);
    if (gif || *code != D_GIF_ERR_NO_SCRN_DSCR) return gif;
    s->at = 0;
    gif = DGifOpen(s, on_read, code);
    if (!gif && lgv_out_of_memory(4096)) *code = D_GIF_ERR_NOT_ENOUGH_MEM;
    return gif;
}

static lgv_status read_gif(const uint8_t *data, size_t size, const char *name, lgv_image_info *info,
                           lgv_image *image, lgv_error *err)
{
    source s = {data, size, 0};
    int code = 0;
    GifFileType *gif = open_gif(&s, &code);
    if (!gif) {
        const char *why = GifErrorString(code);
        return code == D_GIF_ERR_NOT_ENOUGH_MEM
                   ? lgv_fail(err, LGV_ERR_MEMORY, "%s: out of memory", name)
                   : lgv_fail(err, LGV_ERR_FORMAT, "%s: the GIF picture is damaged: %s", name,
                              why ? why : "no header");
    }
    lgv_status status = read_open(gif, size, name, info, image, err);
    DGifCloseFile(gif, &code);
    return status;
}

lgv_status lgv_gif_probe(const uint8_t *data, size_t size, const char *name, lgv_image_info *out,
                         int *orientation, lgv_error *err)
{
    *orientation = 1;
    return read_gif(data, size, name, out, NULL, err);
}

lgv_status lgv_gif_decode(const uint8_t *data, size_t size, const char *name, lgv_image *out,
                          int *orientation, lgv_error *err)
{
    lgv_image_info info;
    *orientation = 1;
    return read_gif(data, size, name, &info, out, err);
}
