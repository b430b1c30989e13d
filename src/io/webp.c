/* webp.c - WebP, lossy and lossless, through libwebp's animation decoder.
   That decoder is what PIL uses, for still pictures too: of an animation it gives the first frame on its
   canvas. The demuxer checks the container before anything is decoded.
   Neither says why it failed: both are asked again, and then for memory, before a file is called damaged. */
#include <string.h>
#include <webp/demux.h>

#include "image_internal.h"

static lgv_status open_container(const uint8_t *data, size_t size, const char *name,
                                 WebPDemuxer **out, lgv_error *err)
{
    WebPData bytes = {data, size};
    WebPDemuxer *demux = WebPDemux(&bytes); /* NULL for a file that is not whole */
    if (!demux) demux = WebPDemux(&bytes);
    if (!demux && lgv_out_of_memory(4096))
        return lgv_fail(err, LGV_ERR_MEMORY, "%s: out of memory", name);
    if (!demux)
        return lgv_fail(err, LGV_ERR_FORMAT, "%s: the WebP picture is damaged or truncated", name);
    int64_t width = WebPDemuxGetI(demux, WEBP_FF_CANVAS_WIDTH),
            height = WebPDemuxGetI(demux, WEBP_FF_CANVAS_HEIGHT);
    lgv_status s = lgv_image_check_size(name, width, height, err);
    if (!s) s = lgv_image_check_claim(name, width, height, size, err);
    if (s)
        WebPDemuxDelete(demux);
    else
        *out = demux;
    return s;
}

static int find_orientation(const WebPDemuxer *demux)
{
    WebPChunkIterator chunk;
    int orientation = 1;
    if (WebPDemuxGetChunk(demux, "EXIF", 1, &chunk))
        orientation = lgv_exif_orientation(chunk.chunk.bytes, chunk.chunk.size);
    WebPDemuxReleaseChunkIterator(&chunk);
    return orientation;
}

/* The container's header says whether there is transparency, as PIL asks it. */
static void describe(const WebPDemuxer *demux, lgv_image_info *info)
{
    bool alpha = WebPDemuxGetI(demux, WEBP_FF_FORMAT_FLAGS) & ALPHA_FLAG;
    *info = (lgv_image_info){LGV_IMAGE_WEBP, (int)WebPDemuxGetI(demux, WEBP_FF_CANVAS_WIDTH),
                             (int)WebPDemuxGetI(demux, WEBP_FF_CANVAS_HEIGHT), alpha ? 4 : 3, 8};
}

lgv_status lgv_webp_probe(const uint8_t *data, size_t size, const char *name, lgv_image_info *out,
                          int *orientation, lgv_error *err)
{
    WebPDemuxer *demux = NULL;
    LGV_TRY(open_container(data, size, name, &demux, err));
    *orientation = find_orientation(demux);
    describe(demux, out);
    WebPDemuxDelete(demux);
    return LGV_OK;
}

/* RGBA of the canvas -> image, which keeps alpha only when it has four channels. */
static void copy_pixels(const uint8_t *rgba, lgv_image *image)
{
    size_t n = (size_t)image->width * (size_t)image->height, c = (size_t)image->channels;
    uint8_t *to = image->pixels;
    for (size_t i = 0; i < n; i++) memcpy(to + c * i, rgba + 4 * i, c);
}

static lgv_status next_frame(WebPAnimDecoder *decoder, const lgv_image *image, const char *name,
                             uint8_t **rgba, lgv_error *err)
{
    int time;
    for (int i = 0; i < 2; i++)
        if (WebPAnimDecoderGetNext(decoder, rgba, &time)) return LGV_OK;
    if (lgv_out_of_memory(4 * (size_t)image->width * (size_t)image->height + (1 << 16)))
        return lgv_fail(err, LGV_ERR_MEMORY, "%s: out of memory", name);
    return lgv_fail(err, LGV_ERR_FORMAT, "%s: the WebP picture is damaged", name);
}

lgv_status lgv_webp_decode(const uint8_t *data, size_t size, const char *name, lgv_image *out,
                           int *orientation, lgv_error *err)
{
    lgv_image_info info;
    lgv_image image = {0};
    LGV_TRY(lgv_webp_probe(data, size, name, &info, orientation, err));
    LGV_TRY(lgv_image_new(info.width, info.height, info.channels, 8, &image, err));
    WebPAnimDecoderOptions options;
    WebPData bytes = {data, size};
    WebPAnimDecoder *decoder = NULL;
    uint8_t *rgba = NULL;
    if (WebPAnimDecoderOptionsInit(&options)) {
        options.color_mode = MODE_RGBA;
        decoder = WebPAnimDecoderNew(&bytes, &options);
    }
    lgv_status s = decoder ? next_frame(decoder, &image, name, &rgba, err)
                           : lgv_fail(err, LGV_ERR_MEMORY, "%s: out of memory", name);
    if (!s) copy_pixels(rgba, &image);
    WebPAnimDecoderDelete(decoder);
    if (s)
        lgv_image_free(&image);
    else
        *out = image;
    return s;
}
