/* plot.c - the figures of a run: loss, gradient norm and learning rate over steps; loss over
   timesteps.
   Loss axes are logarithmic: the first hundred steps fall by a factor of ten or more, and what
   matters afterwards are percents. */
#include "cli.h"
#include "plot.h"

#include <jansson.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "chart.h"

enum { WIDTH = 1200, HEIGHT = 1040, LEFT = 90, STAGES = 5, BINS_MOST = 64 };

/* ---- the log ---- */

typedef struct series {
    double *x, *y;
    size_t n, capacity;
} series;

/* One line about the loss by timestep. */
typedef struct timesteps {
    double step, sum[BINS_MOST], rows[BINS_MOST];
} timesteps;

struct cli_plot {
    char *folder, *log;
    long offset; /* bytes read */
    series loss, norm, lr, validation;
    timesteps *by_t;
    size_t n_by_t, capacity_by_t;
    size_t bins;
    double T;
    double quartile[4]; /* of the last validation; quartile[0] 0: none */
};

static char *join(const char *folder, const char *name)
{
    size_t n = strlen(folder) + strlen(name) + 2;
    char *path = malloc(n);
    if (path) snprintf(path, n, "%s/%s", folder, name);
    return path;
}

cli_plot *cli_plot_new(const char *folder)
{
    cli_plot *p = calloc(1, sizeof *p);
    if (!p) return NULL;
    p->folder = strdup(folder);
    p->log = join(folder, "log.jsonl");
    if (p->folder && p->log) return p;
    cli_plot_free(p);
    return NULL;
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
    series_free(&p->norm);
    series_free(&p->lr);
    series_free(&p->validation);
    free(p->by_t);
    free(p->folder);
    free(p->log);
    free(p);
}

/* Points without a number (a loss that was not finite) leave a gap of one step: nothing is added. */
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

static bool add_timesteps(cli_plot *p, double step, const json_t *line)
{
    const json_t *loss = json_object_get(line, "loss_by_timestep");
    const json_t *rows = json_object_get(line, "rows_by_timestep");
    size_t bins = json_array_size(loss);
    if (!bins || bins > BINS_MOST || json_array_size(rows) != bins || (p->bins && bins != p->bins))
        return true;
    if (p->n_by_t == p->capacity_by_t) {
        size_t capacity = p->capacity_by_t ? 2 * p->capacity_by_t : 64;
        timesteps *list = realloc(p->by_t, capacity * sizeof *list);
        if (!list) return false;
        p->by_t = list;
        p->capacity_by_t = capacity;
    }
    timesteps *t = &p->by_t[p->n_by_t++];
    *t = (timesteps){.step = step};
    p->bins = bins;
    p->T = json_number_value(json_object_get(line, "num_train_timesteps"));
    for (size_t i = 0; i < bins; i++) {
        if (!json_is_number(json_array_get(loss, i))) continue;
        t->rows[i] = json_number_value(json_array_get(rows, i));
        t->sum[i] = t->rows[i] * json_number_value(json_array_get(loss, i));
    }
    return true;
}

static bool read_line(cli_plot *p, const char *text)
{
    json_t *line = json_loads(text, 0, NULL);
    const json_t *step = json_object_get(line, "step");
    const json_t *quartiles = json_object_get(line, "validation_quartiles");
    bool ok = true;
    if (json_is_integer(step)) {
        double x = (double)json_integer_value(step);
        ok = add(&p->loss, x, json_object_get(line, "loss")) &&
             add(&p->norm, x, json_object_get(line, "grad_norm")) &&
             add(&p->lr, x, json_object_get(line, "lr")) &&
             add(&p->validation, x, json_object_get(line, "validation_loss")) &&
             add_timesteps(p, x, line);
    }
    for (size_t q = 0; q < 4 && json_array_size(quartiles) == 4; q++)
        p->quartile[q] = json_number_value(json_array_get(quartiles, q));
    json_decref(line);
    return ok;
}

static lgv_status read_log(cli_plot *p, lgv_error *err)
{
    FILE *f = fopen(p->log, "r");
    if (!f) return cli_status(err, LGV_ERR_IO, "cannot read %s", p->log);
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
    return ok ? LGV_OK
              : cli_status(err, LGV_ERR_MEMORY, "out of memory for the curve of %s", p->log);
}

/* ---- ranges ---- */

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static void include(chart_panel *a, double y)
{
    if (y > 0 && y < a->y0) a->y0 = y;
    if (y > a->y1) a->y1 = y;
}

static void give_room(chart_panel *a)
{
    if (!(a->y1 > 0)) a->y0 = a->y1 = 1;
    if (a->y1 / a->y0 > 1e8) a->y0 = a->y1 / 1e8;
    double room = pow(a->y1 / a->y0, 0.06) * 1.02;
    a->y0 /= room;
    a->y1 *= room;
}

/* From the lowest to the highest value worth seeing: a single outlier does not set the scale. */
static void range(chart_panel *a, const series *s, const double *smooth, const series *also,
                  double *scratch)
{
    a->y0 = INFINITY;
    a->y1 = 0;
    memcpy(scratch, s->y, s->n * sizeof *scratch);
    qsort(scratch, s->n, sizeof *scratch, by_value);
    if (s->n) {
        include(a, scratch[s->n / 100]);
        include(a, scratch[s->n - 1 - s->n / 200]);
    }
    for (size_t i = 0; i < s->n; i++) include(a, smooth[i]);
    for (size_t i = 0; also && i < also->n; i++) include(a, also->y[i]);
    give_room(a);
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

/* ---- over steps ---- */

static const chart_colour pale_blue = {0.68, 0.79, 0.93}, blue = {0.10, 0.35, 0.72};
static const chart_colour pale_violet = {0.84, 0.78, 0.92}, violet = {0.45, 0.25, 0.66};
static const chart_colour orange = {0.87, 0.42, 0.05}, green = {0.13, 0.52, 0.33};

typedef struct entry {
    const char *name;
    chart_colour colour;
    bool dot;
} entry;

/* In the top right corner, or where a curve falls from left to right, the bottom left one. */
static void legend(cairo_t *c, const chart_panel *a, const entry *e, int rows, double w, bool below)
{
    double x = below ? a->x + 12 : a->x + a->w - w - 12;
    double y = below ? a->y + a->h - 26 - 24 * rows : a->y + 12;
    cairo_set_source_rgba(c, 1, 1, 1, 0.85);
    cairo_rectangle(c, x, y, w, 14 + 24 * rows);
    cairo_fill(c);
    for (int i = 0; i < rows; i++) {
        double at = y + 19 + 24 * i;
        chart_use(c, e[i].colour);
        cairo_set_line_width(c, e[i].dot ? 2 : 3);
        chart_line(c, x + 8, at, x + 36, at);
        if (e[i].dot) {
            cairo_arc(c, x + 22, at, 4, 0, 6.2832);
            cairo_fill(c);
        }
        chart_text(c, x + 46, at + 5, 15, false, chart_ink, 0, e[i].name);
    }
}

static void heading(cairo_t *c, const char *what, const char *title, const char *right)
{
    double width = chart_text(c, LEFT, 40, 22, true, chart_ink, 0, what);
    chart_text(c, LEFT + width + 24, 40, 16, false, chart_faint, 0, title);
    chart_text(c, WIDTH - 30, 40, 16, false, chart_ink, 1, right);
}

/* A series and its mean, with the range of values that a panel shows of it. */
typedef struct steps_curve {
    const series *s;
    double *smooth; /* [s->n] */
    double low, high;
} steps_curve;

typedef struct steps_figure {
    const cli_plot *p;
    steps_curve loss, norm;
} steps_figure;

static void steps_curve_make(steps_curve *k, const series *also, double *scratch)
{
    chart_panel a = {0};
    smoothen(k->s, k->smooth);
    range(&a, k->s, k->smooth, also, scratch);
    k->low = a.y0;
    k->high = a.y1;
}

static void steps_curve_draw(cairo_t *c, const steps_curve *k, chart_panel *a, chart_colour each,
                             chart_colour mean)
{
    a->y0 = k->low;
    a->y1 = k->high;
    chart_axes(c, a, false);
    chart_curve(c, a, k->s->x, k->s->y, k->s->n, 1, each);
    chart_curve(c, a, k->s->x, k->smooth, k->s->n, 2.5, mean);
}

static void draw_loss(cairo_t *c, const steps_figure *f, chart_panel *a)
{
    const cli_plot *p = f->p;
    const entry entries[] = {{"each step", pale_blue, false},
                             {"smoothed", blue, false},
                             {"validation (averaged weights)", orange, true}};
    size_t v = p->validation.n;
    char s[256];
    double last = f->loss.smooth[p->loss.n - 1];
    if (v)
        snprintf(s, sizeof s, "step %.0f   loss %.4g   validation %.4g", p->loss.x[p->loss.n - 1],
                 last, p->validation.y[v - 1]);
    else
        snprintf(s, sizeof s, "step %.0f   loss %.4g", p->loss.x[p->loss.n - 1], last);
    heading(c, "Training loss", p->folder, s);
    steps_curve_draw(c, &f->loss, a, pale_blue, blue);
    chart_dots(c, a, p->validation.x, p->validation.y, v, orange);
    legend(c, a, entries, v ? 3 : 2, v ? 270 : 130, false);
}

static void draw_norm(cairo_t *c, const steps_figure *f, chart_panel *a)
{
    chart_text(c, LEFT, a->y - 14, 17, true, chart_ink, 0, "Gradient norm, before clipping");
    steps_curve_draw(c, &f->norm, a, pale_violet, violet);
}

static void draw_steps(cairo_t *c, void *user)
{
    const steps_figure *f = user;
    const cli_plot *p = f->p;
    double last = p->loss.x[p->loss.n - 1], first = p->loss.x[0], top = 0;
    chart_panel a = {.x = LEFT, .y = 62, .w = WIDTH - 120, .h = 460, .log = true};
    a.x0 = first < last / 4 ? 0 : first;
    a.x1 = last > a.x0 ? last : a.x0 + 1;
    chart_panel b = a, d = a;
    draw_loss(c, f, &a);
    b.y = 588;
    b.h = 180;
    draw_norm(c, f, &b);
    for (size_t i = 0; i < p->lr.n; i++) top = fmax(top, p->lr.y[i]);
    d.y = 834;
    d.h = 130;
    d.log = false;
    d.y1 = top > 0 ? 1.12 * top : 1;
    chart_text(c, LEFT, d.y - 14, 17, true, chart_ink, 0, "Learning rate");
    chart_axes(c, &d, true);
    chart_curve(c, &d, p->lr.x, p->lr.y, p->lr.n, 2, green);
    chart_text(c, d.x + d.w / 2, HEIGHT - 18, 15, false, chart_faint, 0.5, "optimizer steps");
}

/* ---- over timesteps ---- */

/* The run in stages that grow, as the loss falls ever more slowly; the last one is what counts. */
static const double stage_end[STAGES] = {0.02, 0.08, 0.25, 0.6, 1};
static const chart_colour stage_colour[STAGES] = {{0.80, 0.87, 0.95},
                                                  {0.60, 0.74, 0.90},
                                                  {0.38, 0.58, 0.83},
                                                  {0.20, 0.43, 0.76},
                                                  {0.05, 0.22, 0.52}};

typedef struct stage {
    double first, last; /* steps; last 0: no line fell into it */
    size_t n;           /* points */
    double t[BINS_MOST], loss[BINS_MOST];
} stage;

static void make_stages(const cli_plot *p, stage out[STAGES])
{
    double end = p->by_t[p->n_by_t - 1].step, before = 0;
    size_t i = 0;
    for (int k = 0; k < STAGES; k++) {
        double sum[BINS_MOST] = {0}, rows[BINS_MOST] = {0};
        out[k] = (stage){.first = before + 1};
        for (; i < p->n_by_t && p->by_t[i].step <= stage_end[k] * end; i++) {
            for (size_t b = 0; b < p->bins; b++) {
                sum[b] += p->by_t[i].sum[b];
                rows[b] += p->by_t[i].rows[b];
            }
            out[k].last = before = p->by_t[i].step;
        }
        for (size_t b = 0; b < p->bins; b++) {
            if (!(rows[b] > 0)) continue;
            out[k].t[out[k].n] = ((double)b + 0.5) * p->T / (double)p->bins;
            out[k].loss[out[k].n++] = sum[b] / rows[b];
        }
    }
}

static void draw_quartiles(cairo_t *c, const chart_panel *a, const cli_plot *p)
{
    for (int q = 0; q < 4 && p->quartile[0] > 0; q++) {
        double t[2] = {p->T * q / 4, p->T * (q + 1) / 4}, y[2] = {p->quartile[q], p->quartile[q]};
        chart_curve(c, a, t, y, 2, 2.5, orange);
    }
}

static void draw_timesteps(cairo_t *c, void *user)
{
    const cli_plot *p = user;
    stage stages[STAGES];
    entry entries[STAGES + 1];
    char name[STAGES][64], right[64];
    int rows = 0;
    make_stages(p, stages);
    chart_panel a = {.x = LEFT,
                     .y = 62,
                     .w = WIDTH - 120,
                     .h = 500,
                     .x1 = p->T > 0 ? p->T : 1,
                     .y0 = INFINITY,
                     .log = true};
    for (int k = 0; k < STAGES; k++)
        for (size_t i = 0; i < stages[k].n; i++) include(&a, stages[k].loss[i]);
    for (int q = 0; q < 4; q++) include(&a, p->quartile[q]);
    give_room(&a);
    snprintf(right, sizeof right, "step %.0f", p->by_t[p->n_by_t - 1].step);
    heading(c, "Loss by timestep", p->folder, right);
    chart_axes(c, &a, true);
    draw_quartiles(c, &a, p);
    for (int k = 0; k < STAGES; k++) {
        if (!stages[k].n) continue;
        chart_dots(c, &a, stages[k].t, stages[k].loss, stages[k].n, stage_colour[k]);
        snprintf(name[k], sizeof name[k], "steps %.0f to %.0f", stages[k].first, stages[k].last);
        entries[rows++] = (entry){name[k], stage_colour[k], true};
    }
    if (p->quartile[0] > 0) entries[rows++] = (entry){"validation, quarters of t", orange, false};
    legend(c, &a, entries, rows, 250, true);
    chart_text(c, a.x + a.w / 2, a.y + a.h + 52, 15, false, chart_faint, 0.5,
               "timestep t: 0 is the picture, the right end is noise");
}

/* ---- both ---- */

static lgv_status write_figure(const cli_plot *p, const char *name, int height, chart_draw draw,
                               void *user, lgv_error *err)
{
    char *path = join(p->folder, name);
    lgv_status status = path ? chart_save(path, WIDTH, height, draw, user, err)
                             : cli_status(err, LGV_ERR_MEMORY, "out of memory to draw %s", name);
    free(path);
    return status;
}

lgv_status cli_plot_write(cli_plot *p, lgv_error *err)
{
    lgv_status status = read_log(p, err);
    if (status || !p->loss.n) return status;
    size_t most = p->loss.n > p->norm.n ? p->loss.n : p->norm.n;
    double *room = malloc((p->loss.n + p->norm.n + most) * sizeof *room);
    if (!room) return cli_status(err, LGV_ERR_MEMORY, "out of memory to draw %s", p->log);
    double *scratch = room + p->loss.n + p->norm.n;
    steps_figure f = {.p = p,
                      .loss = {.s = &p->loss, .smooth = room},
                      .norm = {.s = &p->norm, .smooth = room + p->loss.n}};
    steps_curve_make(&f.loss, &p->validation, scratch);
    steps_curve_make(&f.norm, NULL, scratch);
    status = write_figure(p, "loss", HEIGHT, draw_steps, &f, err);
    if (!status && p->n_by_t) status = write_figure(p, "timesteps", 640, draw_timesteps, p, err);
    free(room);
    return status;
}
