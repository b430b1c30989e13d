/* contact_sheet.c - a picture of a data set: as the network will see it, resized and cropped in the middle. */
#include <cairo.h>
#include <stdlib.h>
#include <string.h>

#include "chart.h"
#include "data_info.h"
#include "langevin/image.h"

enum { PER_CLASS = 10, CLASSES = 40, PLAIN = 100, GAP = 2, TITLE = 16 };

typedef struct sheet {
    lgv_dataset *data;
    int side, channels, columns, rows, title; /* title: height of a row's heading */
    int64_t *picture;                         /* [rows][columns], -1 none */
    cairo_surface_t *surface;
    uint8_t *pixels;
} sheet;

/* Which pictures: spread evenly over the data set, or over each class. */
static bool choose(sheet *s)
{
    int64_t n = lgv_dataset_count(s->data);
    int classes = lgv_dataset_classes(s->data);
    bool by_class = classes > 1 && classes <= CLASSES;
    s->columns = PER_CLASS;
    s->rows = by_class ? classes : (int)((n < PLAIN ? n : PLAIN) + PER_CLASS - 1) / PER_CLASS;
    s->title = by_class ? TITLE : 0;
    size_t places = (size_t)s->rows * (size_t)s->columns;
    s->picture = malloc(places * sizeof *s->picture);
    if (!s->picture) return false;
    memset(s->picture, 255, places * sizeof *s->picture);
    if (!by_class) {
        int64_t shown = n < PLAIN ? n : PLAIN;
        for (int64_t i = 0; i < shown; i++) s->picture[i] = i * n / shown;
        return true;
    }
    int64_t *count = calloc((size_t)classes * 2, sizeof *count), *seen = count + classes;
    if (!count) return false;
    for (int64_t i = 0; i < n; i++) {
        int label = lgv_dataset_label(s->data, 0, i);
        if (label >= 0) count[label]++;
    }
    for (int64_t i = 0; i < n; i++) {
        int label = lgv_dataset_label(s->data, 0, i);
        if (label < 0) continue;
        int64_t shown = count[label] < PER_CLASS ? count[label] : PER_CLASS,
                place = seen[label]++ * shown / count[label];
        int64_t *at = &s->picture[(int64_t)label * PER_CLASS + place];
        if (*at < 0) *at = i;
    }
    free(count);
    return true;
}

static void put_picture(const sheet *s, int row, int column)
{
    unsigned char *to = cairo_image_surface_get_data(s->surface);
    int stride = cairo_image_surface_get_stride(s->surface);
    int x = GAP + column * (s->side + GAP), y = GAP + s->title + row * (s->side + GAP + s->title);
    for (int r = 0; r < s->side; r++) {
        for (int c = 0; c < s->side; c++) {
            const uint8_t *p =
                s->pixels + ((size_t)r * (size_t)s->side + (size_t)c) * (size_t)s->channels;
            uint32_t grey = p[0], rgb = s->channels == 1
                                            ? grey << 16 | grey << 8 | grey
                                            : (uint32_t)p[0] << 16 | (uint32_t)p[1] << 8 | p[2];
            memcpy(to + (size_t)(y + r) * (size_t)stride + 4 * (size_t)(x + c), &rgb, 4);
        }
    }
}

static void put_title(const sheet *s, cairo_t *cr, int row)
{
    cairo_set_source_rgb(cr, 0, 0, 0);
    cairo_set_font_size(cr, 11);
    cairo_move_to(cr, GAP + 2, row * (s->side + GAP + s->title) + GAP + TITLE - 4);
    cairo_show_text(cr, lgv_dataset_class_name(s->data, row));
}

static lgv_status draw(sheet *s, lgv_error *err)
{
    cairo_t *cr = cairo_create(s->surface);
    cairo_set_source_rgb(cr, 1, 1, 1);
    cairo_paint(cr);
    for (int row = 0; row < s->rows && s->title; row++) put_title(s, cr, row);
    cairo_destroy(cr);
    cairo_surface_flush(s->surface);
    for (int64_t i = 0; i < (int64_t)s->rows * s->columns; i++) {
        if (s->picture[i] < 0) continue;
        lgv_status status = lgv_dataset_read(s->data, 0, s->picture[i], 0, 0, s->pixels, NULL, err);
        if (status) return status;
        put_picture(s, (int)(i / s->columns), (int)(i % s->columns));
    }
    cairo_surface_mark_dirty(s->surface);
    return LGV_OK;
}

lgv_status data_contact_sheet(lgv_dataset *data, const char *path, lgv_error *err)
{
    sheet s = {
        .data = data, .side = lgv_dataset_resolution(data), .channels = lgv_dataset_channels(data)};
    lgv_status status = LGV_ERR_MEMORY;
    snprintf(err->text, sizeof err->text, "out of memory for the contact sheet");
    s.pixels = malloc((size_t)s.side * (size_t)s.side * (size_t)s.channels);
    if (s.pixels && choose(&s)) {
        int width = GAP + s.columns * (s.side + GAP),
            height = GAP + s.rows * (s.side + GAP + s.title);
        s.surface = cairo_image_surface_create(CAIRO_FORMAT_RGB24, width, height);
        if (cairo_surface_status(s.surface) == CAIRO_STATUS_SUCCESS) status = draw(&s, err);
    }
    if (!status) status = chart_save_surface(s.surface, path, err);
    cairo_surface_destroy(s.surface);
    free(s.picture);
    free(s.pixels);
    return status;
}
