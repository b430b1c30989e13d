/* chart.h - charts drawn with cairo and saved as PNG and SVG. */
#ifndef LANGEVIN_CLI_CHART_H
#define LANGEVIN_CLI_CHART_H

#include <cairo.h>
#include <stdbool.h>
#include <stddef.h>

#include "langevin/status.h"

typedef struct chart_colour {
    double r, g, b;
} chart_colour;
extern const chart_colour chart_ink, chart_faint;

typedef struct chart_panel {
    double x, y, w, h; /* pixels */
    double x0, x1;     /* what stands at its left and right */
    double y0, y1;     /* below and above */
    bool log;          /* y is */
} chart_panel;

void chart_use(cairo_t *c, chart_colour k);
/* align 0: from x on, 0.5: centred, 1: ends at x. Returns its width. */
double chart_text(cairo_t *c, double x, double y, double size, bool bold, chart_colour k,
                  double align, const char *s);
void chart_line(cairo_t *c, double x0, double y0, double x1, double y1);
/* Grid, labels of y, and of x where it is the lowest of its column of panels. */
void chart_axes(cairo_t *c, const chart_panel *a, bool labels);
/* A curve of more points than pixels is drawn as its lowest and highest value in each column. */
void chart_curve(cairo_t *c, const chart_panel *a, const double *x, const double *y, size_t n,
                 double width, chart_colour k);
/* A thin curve with a dot at each point. */
void chart_dots(cairo_t *c, const chart_panel *a, const double *x, const double *y, size_t n,
                chart_colour k);

/* Writes a surface of CAIRO_FORMAT_RGB24 as PNG. */
lgv_status chart_save_surface(cairo_surface_t *surface, const char *path, lgv_error *err);
/* Draws on white and replaces PATH.png and PATH.svg. */
typedef void (*chart_draw)(cairo_t *c, void *user);
lgv_status chart_save(const char *path, int width, int height, chart_draw draw, void *user,
                      lgv_error *err);

#endif
