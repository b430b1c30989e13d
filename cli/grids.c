/* grids.c - samples.gif: how the pictures of a run became what they are.
   Made anew from the files each time: what a run leaves behind is the truth, also after a resume. */
#include "chart.h"
#include "cli.h"
#include "grids.h"

#include <cairo.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "langevin/animation.h"
#include "langevin/image.h"

enum { FRAMES = 32, SIDE = 512, CAPTION = 24, RUNNING_MS = 6000, MOST_MS = 600, HELD_MS = 2500 };

/* ---- which ---- */

static int ascending(const void *a, const void *b)
{
    long long x = *(const long long *)a, y = *(const long long *)b;
    return x < y ? -1 : x > y;
}

/* The steps of the grids in a folder, in order; free with free(). */
static lgv_status find(const char *folder, long long **steps, size_t *count, lgv_error *err)
{
    size_t capacity = 0;
    DIR *d = opendir(folder);
    if (!d) return cli_status(err, LGV_ERR_IO, "cannot read the folder %s", folder);
    for (struct dirent *e; (e = readdir(d));) {
        long long step;
        if (!cli_numbered_png(e->d_name, &step)) continue;
        if (*count == capacity) {
            long long *longer = realloc(*steps, (capacity = 2 * capacity + 64) * sizeof *longer);
            if (!longer) {
                closedir(d);
                return cli_status(err, LGV_ERR_MEMORY, "out of memory for the grids of %s", folder);
            }
            *steps = longer;
        }
        (*steps)[(*count)++] = step;
    }
    closedir(d);
    if (*count) qsort(*steps, *count, sizeof **steps, ascending);
    return LGV_OK;
}

/* ---- one frame ---- */

static lgv_status load(const char *folder, long long step, lgv_image *out, lgv_error *err)
{
    char path[4352];
    lgv_image whole = {0};
    snprintf(path, sizeof path, "%s/%06lld.png", folder, step);
    lgv_status status = lgv_image_load(path, &whole, err);
    if (!status && (whole.channels % 2 == 0 || whole.bits != 8))
        status = cli_status(err, LGV_ERR_FORMAT, "no sample grid: %s", path);
    int side = whole.width > whole.height ? whole.width : whole.height;
    if (status || side <= SIDE) {
        *out = whole;
        if (status) lgv_image_free(out);
        return status;
    }
    int width = whole.width * SIDE / side, height = whole.height * SIDE / side;
    status = lgv_image_resize(&whole, width < 1 ? 1 : width, height < 1 ? 1 : height, out, err);
    lgv_image_free(&whole);
    return status;
}

/* White on black into the last CAPTION rows. */
static lgv_status caption(lgv_image *frame, long long step, lgv_error *err)
{
    char text[32];
    snprintf(text, sizeof text, "step %lld", step);
    cairo_surface_t *surface =
        cairo_image_surface_create(CAIRO_FORMAT_RGB24, frame->width, CAPTION);
    cairo_t *c = cairo_create(surface);
    chart_text(c, frame->width / 2.0, 17, 14, false, (chart_colour){1, 1, 1}, 0.5, text);
    cairo_surface_flush(surface);
    const unsigned char *data = cairo_image_surface_get_data(surface);
    size_t stride = (size_t)cairo_image_surface_get_stride(surface);
    size_t width = (size_t)frame->width, channels = (size_t)frame->channels;
    unsigned char *to =
        (unsigned char *)frame->pixels + (size_t)(frame->height - CAPTION) * width * channels;
    lgv_status status = data && !cairo_surface_status(surface)
                            ? LGV_OK
                            : cli_status(err, LGV_ERR_MEMORY, "out of memory to write %s", text);
    for (size_t y = 0; y < CAPTION && !status; y++)
        for (size_t x = 0; x < width; x++, to += channels) /* the text is grey: any channel */
            memset(to, data[y * stride + 4 * x], channels);
    cairo_destroy(c);
    cairo_surface_destroy(surface);
    return status;
}

static lgv_status make_frame(const char *folder, long long step, lgv_image *out, lgv_error *err)
{
    lgv_image grid = {0};
    lgv_status status = load(folder, step, &grid, err);
    if (!status)
        status = lgv_image_new(grid.width, grid.height + CAPTION, grid.channels, 8, out, err);
    if (!status) {
        memcpy(out->pixels, grid.pixels,
               (size_t)grid.width * (size_t)grid.height * (size_t)grid.channels);
        status = caption(out, step, err);
    }
    if (status) lgv_image_free(out);
    lgv_image_free(&grid);
    return status;
}

/* ---- all ---- */

static lgv_status add_frames(lgv_animation **a, const char *folder, const long long *steps,
                             size_t count, lgv_error *err)
{
    size_t frames = count < FRAMES ? count : FRAMES;
    int each = RUNNING_MS / (int)frames;
    lgv_status status = LGV_OK;
    for (size_t k = 0; k < frames && !status; k++) {
        lgv_image frame = {0};
        size_t i = k * (count - 1) / (frames - 1); /* the first and the last, evenly between */
        status = make_frame(folder, steps[i], &frame, err);
        if (!status && !*a)
            status = lgv_animation_new(LGV_ANIMATION_GIF, frame.width, frame.height, NULL, a, err);
        if (!status)
            status = lgv_animation_add(*a, &frame,
                                       k + 1 == frames  ? HELD_MS
                                       : each < MOST_MS ? each
                                                        : MOST_MS,
                                       err);
        lgv_image_free(&frame);
    }
    return status;
}

lgv_status cli_grids_animate(const char *folder, lgv_error *err)
{
    char samples[4096], path[4096];
    long long *steps = NULL;
    size_t count = 0;
    lgv_animation *a = NULL;
    snprintf(samples, sizeof samples, "%s/samples", folder);
    snprintf(path, sizeof path, "%s/samples.gif", folder);
    lgv_status status = find(samples, &steps, &count, err);
    if (!status && count > 1) status = add_frames(&a, samples, steps, count, err);
    if (!status && a) status = lgv_animation_save(a, path, err);
    lgv_animation_free(a);
    free(steps);
    return status;
}
