/* plot.c - loss.png: loss over learning rate, from log.jsonl.
   The loss axis is logarithmic: the first hundred steps fall by a factor of ten or more, and what
   matters afterwards are percents. */
#include "plot.h"

#include <cairo.h>
#include <jansson.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "langevin/image.h"

enum { WIDTH = 1200, HEIGHT = 860, TICKS = 64 };

/* ---- the log ---- */

typedef struct series {
    double *x, *y;
    size_t n, capacity;
} series;

struct cli_plot {
    char *log;
    long offset; /* bytes read */
    series loss, lr, validation;
};

cli_plot *cli_plot_new(const char *log)
{
    cli_plot *p = calloc(1, sizeof *p);
    if (p && !(p->log = strdup(log))) {
        free(p);
        return NULL;
    }
    return p;
}

static void series_free(series *s)
{
    free(s->x);
    free(s->y);
}

void cli_plot_free(cli_plot *p)
{
    if (!p) return;
    series_free(&p->loss);
    series_free(&p->lr);
    series_free(&p->validation);
    free(p->log);
    free(p);
}

/* Points without a number (a loss that was not finite) leave a gap of one step: nothing is added.
 */
static bool add(series *s, double x, const json_t *y)
{
    if (!json_is_number(y)) return true;
    if (s->n == s->capacity) {
        size_t capacity = s->capacity ? 2 * s->capacity : 1024;
        double *xs = realloc(s->x, capacity * sizeof *xs);
        if (xs) s->x = xs;
        double *ys = realloc(s->y, capacity * sizeof *ys);
        if (ys) s->y = ys;
        if (!xs || !ys) return false;
        s->capacity = capacity;
    }
    s->x[s->n] = x;
    s->y[s->n++] = json_number_value(y);
    return true;
}

static bool read_line(cli_plot *p, const char *text)
{
    json_t *line = json_loads(text, 0, NULL);
    const json_t *step = json_object_get(line, "step");
    bool ok = true;
    if (json_is_integer(step)) {
        double x = (double)json_integer_value(step);
        ok = add(&p->loss, x, json_object_get(line, "loss")) &&
             add(&p->lr, x, json_object_get(line, "lr")) &&
             add(&p->validation, x, json_object_get(line, "validation_loss"));
    }
    json_decref(line);
    return ok;
}

static lgv_status fail(lgv_error *err, lgv_status status, const char *text, const char *what)
{
    if (err) {
        err->status = status;
        snprintf(err->text, sizeof err->text, "%s%s", text, what);
    }
    return status;
}

static lgv_status read_log(cli_plot *p, lgv_error *err)
{
    FILE *f = fopen(p->log, "r");
    if (!f) return fail(err, LGV_ERR_IO, "cannot read ", p->log);
    char *line = NULL;
    size_t capacity = 0;
    ssize_t n;
    bool ok = !fseek(f, p->offset, SEEK_SET);
    while (ok && (n = getline(&line, &capacity, f)) > 0 && line[n - 1] == '\n') {
        ok = read_line(p, line);
        p->offset += (long)n;
    }
    free(line);
    fclose(f);
    return ok ? LGV_OK : fail(err, LGV_ERR_MEMORY, "out of memory for the curve of ", p->log);
}

/* ---- axes ---- */

typedef struct panel {
    double x, y, w, h; /* pixels */
    double x0, x1;     /* steps */
    double y0, y1;     /* values */
    bool log;
} panel;

static double px(const panel *a, double x)
{
    return a->x + a->w * (x - a->x0) / (a->x1 - a->x0);
}

static double py(const panel *a, double y)
{
    double f = a->log ? log((y > a->y0 / 10 ? y : a->y0 / 10) / a->y0) / log(a->y1 / a->y0)
                      : (y - a->y0) / (a->y1 - a->y0);
    return a->y + a->h * (1 - f);
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

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static void include(panel *a, double y)
{
    if (y > 0 && y < a->y0) a->y0 = y;
    if (y > a->y1) a->y1 = y;
}

/* From the lowest to the highest value worth seeing: a single outlier does not set the scale. */
static void loss_range(panel *a, const series *loss, const double *smooth, const series *validation,
                       double *scratch)
{
    memcpy(scratch, loss->y, loss->n * sizeof *scratch);
    qsort(scratch, loss->n, sizeof *scratch, by_value);
    a->y0 = INFINITY;
    a->y1 = 0;
    include(a, scratch[loss->n / 100]);
    include(a, scratch[loss->n - 1 - loss->n / 200]);
    for (size_t i = 0; i < loss->n; i++) include(a, smooth[i]);
    for (size_t i = 0; i < validation->n; i++) include(a, validation->y[i]);
    if (!(a->y1 > 0)) a->y0 = a->y1 = 1;
    if (a->y1 / a->y0 > 1e8) a->y0 = a->y1 / 1e8;
    double room = pow(a->y1 / a->y0, 0.06) * 1.02;
    a->y0 /= room;
    a->y1 *= room;
}

/* ---- drawing ---- */

typedef struct colour {
    double r, g, b;
} colour;
static const colour ink = {0.15, 0.17, 0.2}, faint = {0.45, 0.48, 0.52}, grid = {0.88, 0.89, 0.91};
static const colour raw_blue = {0.68, 0.79, 0.93}, blue = {0.10, 0.35, 0.72};
static const colour orange = {0.87, 0.42, 0.05}, green = {0.13, 0.52, 0.33};

static void use(cairo_t *c, colour k)
{
    cairo_set_source_rgb(c, k.r, k.g, k.b);
}

/* align 0: from x on, 0.5: centred, 1: ends at x. */
static void text(cairo_t *c, double x, double y, double size, bool bold, colour k, double align,
                 const char *s)
{
    cairo_text_extents_t e;
    cairo_select_font_face(c, "sans-serif", CAIRO_FONT_SLANT_NORMAL,
                           bold ? CAIRO_FONT_WEIGHT_BOLD : CAIRO_FONT_WEIGHT_NORMAL);
    cairo_set_font_size(c, size);
    cairo_text_extents(c, s, &e);
    use(c, k);
    cairo_move_to(c, x - align * e.x_advance, y);
    cairo_show_text(c, s);
}

static void line(cairo_t *c, double x0, double y0, double x1, double y1)
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

static void axes(cairo_t *c, const panel *a, bool steps)
{
    double tick[TICKS];
    char s[32];
    cairo_set_line_width(c, 1);
    int n = a->log ? log_ticks(a->y0, a->y1, tick) : even_ticks(a->y0, a->y1, 3, tick);
    for (int i = 0; i < n; i++) {
        double y = floor(py(a, tick[i])) + 0.5;
        use(c, grid);
        line(c, a->x, y, a->x + a->w, y);
        value_label(tick[i], s);
        text(c, a->x - 10, y + 5, 15, false, faint, 1, s);
    }
    n = even_ticks(a->x0, a->x1, 8, tick);
    for (int i = 0; i < n; i++) {
        double x = floor(px(a, tick[i])) + 0.5;
        use(c, grid);
        line(c, x, a->y, x, a->y + a->h);
        step_label(tick[i], s);
        if (steps) text(c, x, a->y + a->h + 22, 15, false, faint, 0.5, s);
    }
    use(c, faint);
    line(c, a->x, a->y + a->h + 0.5, a->x + a->w, a->y + a->h + 0.5);
}

static void inside(cairo_t *c, const panel *a)
{
    cairo_save(c);
    cairo_rectangle(c, a->x - 1, a->y - 1, a->w + 7, a->h + 2);
    cairo_clip(c);
}

/* A curve of more points than pixels is drawn as its lowest and highest value in each column. */
static void curve(cairo_t *c, const panel *a, const double *x, const double *y, size_t n,
                  double width, colour k)
{
    inside(c, a);
    use(c, k);
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

static void dots(cairo_t *c, const panel *a, const series *s, colour k)
{
    curve(c, a, s->x, s->y, s->n, 1.5, k);
    inside(c, a);
    use(c, k);
    for (size_t i = 0; i < s->n; i++) {
        cairo_arc(c, px(a, s->x[i]), py(a, s->y[i]), s->n > 100 ? 2.5 : 4, 0, 6.2832);
        cairo_fill(c);
    }
    cairo_restore(c);
}

static void legend(cairo_t *c, const panel *a, bool validation)
{
    const char *name[] = {"each step", "smoothed", "validation (averaged weights)"};
    const colour k[] = {raw_blue, blue, orange};
    const double width[] = {3, 3, 2};
    int rows = validation ? 3 : 2;
    double w = validation ? 270 : 130, x = a->x + a->w - w - 12, y = a->y + 12;
    cairo_set_source_rgba(c, 1, 1, 1, 0.85);
    cairo_rectangle(c, x, y, w, 14 + 24 * rows);
    cairo_fill(c);
    for (int i = 0; i < rows; i++) {
        double at = y + 19 + 24 * i;
        use(c, k[i]);
        cairo_set_line_width(c, width[i]);
        line(c, x + 8, at, x + 36, at);
        if (i == 2) {
            cairo_arc(c, x + 22, at, 4, 0, 6.2832);
            cairo_fill(c);
        }
        text(c, x + 46, at + 5, 15, false, ink, 0, name[i]);
    }
}

/* An exponential mean without the pull of its start, over about a fiftieth of the run, less at the
   beginning, where the loss falls so fast that a long mean would lag. */
static void smoothen(const series *s, double *out)
{
    double most = (double)s->n / 50, sum = 0, weight = 0;
    for (size_t i = 0; i < s->n; i++) {
        double keep = exp(-1 / fmax(4, fmin(most, (double)i / 8)));
        sum = keep * sum + s->y[i];
        weight = keep * weight + 1;
        out[i] = sum / weight;
    }
}

static void heading(cairo_t *c, const cli_plot *p, const char *title, double smooth)
{
    char s[256];
    size_t v = p->validation.n;
    text(c, 90, 40, 22, true, ink, 0, "Training loss");
    text(c, 270, 40, 16, false, faint, 0, title);
    if (v)
        snprintf(s, sizeof s, "step %.0f   loss %.4g   validation %.4g", p->loss.x[p->loss.n - 1],
                 smooth, p->validation.y[v - 1]);
    else
        snprintf(s, sizeof s, "step %.0f   loss %.4g", p->loss.x[p->loss.n - 1], smooth);
    text(c, WIDTH - 30, 40, 16, false, ink, 1, s);
}

static void draw(cairo_t *c, const cli_plot *p, const char *title, double *smooth, double *scratch)
{
    double last = p->loss.x[p->loss.n - 1], first = p->loss.x[0], top = 0;
    panel a = {.x = 90, .y = 62, .w = WIDTH - 120, .h = 500, .log = true};
    a.x0 = first < last / 4 ? 0 : first;
    a.x1 = last > a.x0 ? last : a.x0 + 1;
    panel b = {.x = a.x, .y = 628, .w = a.w, .h = 150, .x0 = a.x0, .x1 = a.x1};
    smoothen(&p->loss, smooth);
    loss_range(&a, &p->loss, smooth, &p->validation, scratch);
    cairo_set_source_rgb(c, 1, 1, 1);
    cairo_paint(c);
    heading(c, p, title, smooth[p->loss.n - 1]);
    axes(c, &a, false);
    curve(c, &a, p->loss.x, p->loss.y, p->loss.n, 1, raw_blue);
    curve(c, &a, p->loss.x, smooth, p->loss.n, 2.5, blue);
    dots(c, &a, &p->validation, orange);
    legend(c, &a, p->validation.n > 0);
    for (size_t i = 0; i < p->lr.n; i++) top = fmax(top, p->lr.y[i]);
    b.y1 = top > 0 ? 1.12 * top : 1;
    text(c, 90, 614, 17, true, ink, 0, "Learning rate");
    axes(c, &b, true);
    curve(c, &b, p->lr.x, p->lr.y, p->lr.n, 2, green);
    text(c, b.x + b.w / 2, HEIGHT - 18, 15, false, faint, 0.5, "optimizer steps");
}

static lgv_status save(cairo_surface_t *surface, const char *png, lgv_error *err)
{
    lgv_image image = {0};
    cairo_surface_flush(surface);
    const unsigned char *data = cairo_image_surface_get_data(surface);
    int stride = cairo_image_surface_get_stride(surface);
    if (!data || cairo_surface_status(surface))
        return fail(err, LGV_ERR_MEMORY, "out of memory to draw ", png);
    lgv_status status = lgv_image_new(WIDTH, HEIGHT, 3, 8, &image, err);
    if (status) return status;
    unsigned char *to = image.pixels;
    for (int y = 0; y < HEIGHT; y++)
        for (int x = 0; x < WIDTH; x++, to += 3) {
            unsigned rgb;
            memcpy(&rgb, data + (size_t)y * (size_t)stride + 4 * (size_t)x, 4);
            to[0] = (unsigned char)(rgb >> 16);
            to[1] = (unsigned char)(rgb >> 8);
            to[2] = (unsigned char)rgb;
        }
    status = lgv_image_save_png(png, &image, NULL, 0, err);
    lgv_image_free(&image);
    return status;
}

lgv_status cli_plot_write(cli_plot *p, const char *title, const char *png, lgv_error *err)
{
    lgv_status status = read_log(p, err);
    if (status || !p->loss.n) return status;
    double *smooth = malloc(2 * p->loss.n * sizeof *smooth);
    if (!smooth) return fail(err, LGV_ERR_MEMORY, "out of memory to draw ", png);
    cairo_surface_t *surface = cairo_image_surface_create(CAIRO_FORMAT_RGB24, WIDTH, HEIGHT);
    cairo_t *c = cairo_create(surface);
    draw(c, p, title, smooth, smooth + p->loss.n);
    status = save(surface, png, err);
    cairo_destroy(c);
    cairo_surface_destroy(surface);
    free(smooth);
    return status;
}
