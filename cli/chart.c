/* chart.c - drawing charts with cairo: axes with ticks where people expect them, curves of more points
   than pixels, and files. PNG goes through the library's writer, SVG through a draft beside
   the file; both replace it at once. */
#include "chart.h"

#include <cairo-svg.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli.h"
#include "langevin/image.h"

enum { TICKS = 64 };

const chart_colour chart_ink = {0.15, 0.17, 0.2}, chart_faint = {0.45, 0.48, 0.52};
static const chart_colour grid = {0.88, 0.89, 0.91};

/* ---- axes ---- */

/* To tenths: finer is not seen, and the digits would make the SVG large. */
static double tenth(double v)
{
    return floor(10 * v + 0.5) / 10;
}

static double px(const chart_panel *a, double x)
{
    return tenth(a->x + a->w * (x - a->x0) / (a->x1 - a->x0));
}

static double py(const chart_panel *a, double y)
{
    double f = a->log ? log((y > a->y0 / 10 ? y : a->y0 / 10) / a->y0) / log(a->y1 / a->y0)
                      : (y - a->y0) / (a->y1 - a->y0);
    return tenth(a->y + a->h * (1 - f));
}

/* Multiples of 1, 2 or 5 times a power of ten, about `about` of them. */
static int even_ticks(double low, double high, int about, double tick[TICKS])
{
    double raw = (high - low) / about, power = pow(10, floor(log10(raw))), step = power;
    if (raw > 5 * power)
        step = 10 * power;
    else if (raw > 2 * power)
        step = 5 * power;
    else if (raw > power)
        step = 2 * power;
    int n = 0;
    for (double i = ceil(low / step - 1e-9) + 0.0; i * step <= high * (1 + 1e-12) && n < TICKS; i++)
        tick[n++] = i * step + 0.0; /* no "-0" */
    return n;
}

/* Decades, finer where the range is short. */
static int log_ticks(double low, double high, double tick[TICKS])
{
    static const double sets[3][9] = {{1}, {1, 2, 5}, {1, 1.5, 2, 3, 4, 5, 6, 8}};
    for (int s = 0; s < 3; s++) {
        int n = 0;
        for (int e = (int)floor(log10(low)); e <= (int)ceil(log10(high)); e++)
            for (int i = 0; i < 9 && sets[s][i] > 0 && n < TICKS; i++) {
                double v = sets[s][i] * pow(10, e);
                if (v >= low && v <= high) tick[n++] = v;
            }
        if (n >= 4) return n;
    }
    return even_ticks(low, high, 6, tick);
}

/* ---- drawing ---- */

void chart_use(cairo_t *c, chart_colour k)
{
    cairo_set_source_rgb(c, k.r, k.g, k.b);
}

double chart_text(cairo_t *c, double x, double y, double size, bool bold, chart_colour k,
                  double align, const char *s)
{
    cairo_text_extents_t e;
    cairo_select_font_face(c, "sans-serif", CAIRO_FONT_SLANT_NORMAL,
                           bold ? CAIRO_FONT_WEIGHT_BOLD : CAIRO_FONT_WEIGHT_NORMAL);
    cairo_set_font_size(c, size);
    cairo_text_extents(c, s, &e);
    chart_use(c, k);
    cairo_move_to(c, x - align * e.x_advance, y);
    cairo_show_text(c, s);
    return e.x_advance;
}

void chart_line(cairo_t *c, double x0, double y0, double x1, double y1)
{
    cairo_move_to(c, x0, y0);
    cairo_line_to(c, x1, y1);
    cairo_stroke(c);
}

static void step_label(double v, char s[32])
{
    if (v >= 1e6)
        snprintf(s, 32, "%g M", v / 1e6);
    else if (v >= 1e4)
        snprintf(s, 32, "%gk", v / 1e3);
    else
        snprintf(s, 32, "%g", v);
}

/* 0.0002 as "2e-4", 0.25 as it is. */
static void value_label(double v, char s[32])
{
    snprintf(s, 32, v > 0 && v < 1e-3 ? "%.3e" : "%.4g", v);
    char *e = strchr(s, 'e');
    if (!e) return;
    char *digits = e;
    while (digits > s && digits[-1] == '0') digits--;
    if (digits > s && digits[-1] == '.') digits--;
    int power = (int)strtol(e + 1, NULL, 10);
    snprintf(digits, 32 - (size_t)(digits - s), "e%d", power);
}

void chart_axes(cairo_t *c, const chart_panel *a, bool steps)
{
    double tick[TICKS];
    char s[32];
    cairo_set_line_width(c, 1);
    int n = a->log ? log_ticks(a->y0, a->y1, tick) : even_ticks(a->y0, a->y1, 3, tick);
    for (int i = 0; i < n; i++) {
        double y = floor(py(a, tick[i])) + 0.5;
        chart_use(c, grid);
        chart_line(c, a->x, y, a->x + a->w, y);
        value_label(tick[i], s);
        chart_text(c, a->x - 10, y + 5, 15, false, chart_faint, 1, s);
    }
    n = even_ticks(a->x0, a->x1, 8, tick);
    for (int i = 0; i < n; i++) {
        double x = floor(px(a, tick[i])) + 0.5;
        chart_use(c, grid);
        chart_line(c, x, a->y, x, a->y + a->h);
        step_label(tick[i], s);
        if (steps) chart_text(c, x, a->y + a->h + 22, 15, false, chart_faint, 0.5, s);
    }
    chart_use(c, chart_faint);
    chart_line(c, a->x, a->y + a->h + 0.5, a->x + a->w, a->y + a->h + 0.5);
}

static void inside(cairo_t *c, const chart_panel *a)
{
    cairo_save(c);
    cairo_rectangle(c, a->x - 1, a->y - 1, a->w + 7, a->h + 2);
    cairo_clip(c);
}

void chart_curve(cairo_t *c, const chart_panel *a, const double *x, const double *y, size_t n,
                 double width, chart_colour k)
{
    inside(c, a);
    chart_use(c, k);
    cairo_set_line_width(c, width);
    cairo_set_line_join(c, CAIRO_LINE_JOIN_ROUND);
    for (size_t i = 0; i < n;) {
        double column = floor(px(a, x[i])), low = y[i], high = y[i], first = y[i], last = y[i];
        size_t from = i;
        for (; i < n && floor(px(a, x[i])) <= column; i++) {
            low = fmin(low, y[i]);
            high = fmax(high, y[i]);
            last = y[i];
        }
        double at = i - from > 1 ? column + 0.5 : px(a, x[from]);
        cairo_line_to(c, at, py(a, first));
        if (i - from > 1) {
            cairo_line_to(c, at, py(a, low));
            cairo_line_to(c, at, py(a, high));
            cairo_line_to(c, at, py(a, last));
        }
    }
    cairo_stroke(c);
    cairo_restore(c);
}

void chart_dots(cairo_t *c, const chart_panel *a, const double *x, const double *y, size_t n,
                chart_colour k)
{
    chart_curve(c, a, x, y, n, 1.5, k);
    inside(c, a);
    chart_use(c, k);
    for (size_t i = 0; i < n; i++) {
        cairo_arc(c, px(a, x[i]), py(a, y[i]), n > 100 ? 2.5 : 4, 0, 6.2832);
        cairo_fill(c);
    }
    cairo_restore(c);
}

/* ---- files ---- */

static void paint(cairo_surface_t *surface, chart_draw draw, void *user)
{
    cairo_t *c = cairo_create(surface);
    cairo_set_source_rgb(c, 1, 1, 1);
    cairo_paint(c);
    draw(c, user);
    cairo_destroy(c);
}

lgv_status chart_save_surface(cairo_surface_t *surface, const char *path, lgv_error *err)
{
    lgv_image image = {0};
    int width = cairo_image_surface_get_width(surface),
        height = cairo_image_surface_get_height(surface);
    cairo_surface_flush(surface);
    const unsigned char *data = cairo_image_surface_get_data(surface);
    int stride = cairo_image_surface_get_stride(surface);
    lgv_status status = data && !cairo_surface_status(surface)
                            ? lgv_image_new(width, height, 3, 8, &image, err)
                            : cli_status(err, LGV_ERR_MEMORY, "out of memory to draw %s", path);
    unsigned char *to = image.pixels;
    for (int y = 0; y < height && !status; y++)
        for (int x = 0; x < width; x++, to += 3) {
            unsigned rgb;
            memcpy(&rgb, data + (size_t)y * (size_t)stride + 4 * (size_t)x, 4);
            to[0] = (unsigned char)(rgb >> 16);
            to[1] = (unsigned char)(rgb >> 8);
            to[2] = (unsigned char)rgb;
        }
    if (!status) status = lgv_image_save_png(path, &image, NULL, 0, err);
    lgv_image_free(&image);
    return status;
}

static lgv_status save_png(const char *path, int width, int height, chart_draw draw, void *user,
                           lgv_error *err)
{
    cairo_surface_t *surface = cairo_image_surface_create(CAIRO_FORMAT_RGB24, width, height);
    paint(surface, draw, user);
    lgv_status status = chart_save_surface(surface, path, err);
    cairo_surface_destroy(surface);
    return status;
}

static cairo_status_t collect(void *user, const unsigned char *data, unsigned n)
{
    return fwrite(data, 1, n, user) == n ? CAIRO_STATUS_SUCCESS : CAIRO_STATUS_WRITE_ERROR;
}

/* Written beside it under another name first, so that a viewer never sees half of it. */
static lgv_status save_svg(const char *path, int width, int height, chart_draw draw, void *user,
                           lgv_error *err)
{
    size_t n = strlen(path) + sizeof ".draft";
    char *draft = malloc(n);
    if (!draft) return cli_status(err, LGV_ERR_MEMORY, "out of memory to draw %s", path);
    snprintf(draft, n, "%s.draft", path);
    FILE *f = fopen(draft, "wb");
    bool ok = f;
    if (f) {
        cairo_surface_t *surface = cairo_svg_surface_create_for_stream(collect, f, width, height);
        paint(surface, draw, user);
        cairo_surface_finish(surface);
        ok = !cairo_surface_status(surface);
        cairo_surface_destroy(surface);
        ok = !fclose(f) && ok;
        ok = ok && !rename(draft, path);
        if (!ok) unlink(draft);
    }
    free(draft);
    return ok ? LGV_OK : cli_status(err, LGV_ERR_IO, "cannot write %s", path);
}

lgv_status chart_save(const char *path, int width, int height, chart_draw draw, void *user,
                      lgv_error *err)
{
    size_t n = strlen(path) + sizeof ".png";
    char *name = malloc(n);
    if (!name) return cli_status(err, LGV_ERR_MEMORY, "out of memory to draw %s", path);
    snprintf(name, n, "%s.png", path);
    lgv_status status = save_png(name, width, height, draw, user, err);
    snprintf(name, n, "%s.svg", path);
    if (!status) status = save_svg(name, width, height, draw, user, err);
    free(name);
    return status;
}
