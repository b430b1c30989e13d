/* preview.c - pictures as text. A character cell is about twice as high as wide, so its upper and
   its lower half are one square pixel each: the foreground of U+2580 and the background. */
#include "preview.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "progress.h"

enum { GAP = 1 };

cli_depth cli_preview_depth(void)
{
    const char *colour = getenv("COLORTERM"), *term = getenv("TERM");
    if (!cli_utf8()) return CLI_DEPTH_ASCII;
    if (!cli_colour()) return CLI_DEPTH_GREY;
    if (colour && (strstr(colour, "truecolor") || strstr(colour, "24bit"))) return CLI_DEPTH_24BIT;
    if (term && strstr(term, "direct")) return CLI_DEPTH_24BIT;
    return term && strstr(term, "256color") ? CLI_DEPTH_256 : CLI_DEPTH_GREY;
}

/* ---- one colour ---- */

typedef struct rgb {
    int r, g, b; /* r -1: nothing there */
} rgb;
static const rgb nothing = {-1, 0, 0};

static bool equal(rgb a, rgb b)
{
    return a.r == b.r && (a.r < 0 || (a.g == b.g && a.b == b.b));
}

static int brightness(rgb c)
{
    return c.r < 0 ? 0 : (19595 * c.r + 38470 * c.g + 7471 * c.b + 32768) >> 16;
}

/* The six levels of xterm's colour cube are 0, 95, 135, 175, 215, 255. */
static int cube_step(int v)
{
    return v < 48 ? 0 : v < 115 ? 1 : (v - 35) / 40;
}

static int square(int v)
{
    return v * v;
}

/* The nearer of the cube's colour and the ramp's grey (8, 18 .. 238). */
static int xterm_colour(rgb c)
{
    static const int level[6] = {0, 95, 135, 175, 215, 255};
    int r = cube_step(c.r), g = cube_step(c.g), b = cube_step(c.b);
    int grey = (c.r + c.g + c.b) / 3, k = grey > 238 ? 23 : grey < 3 ? 0 : (grey - 3) / 10;
    int cube = square(level[r] - c.r) + square(level[g] - c.g) + square(level[b] - c.b);
    int ramp = square(8 + 10 * k - c.r) + square(8 + 10 * k - c.g) + square(8 + 10 * k - c.b);
    return ramp < cube ? 232 + k : 16 + 36 * r + 6 * g + b;
}

static void put_colour(FILE *to, rgb c, bool background, cli_depth depth)
{
    int base = background ? 48 : 38;
    if (c.r < 0)
        fprintf(to, "\033[%dm", base + 1);
    else if (depth == CLI_DEPTH_24BIT)
        fprintf(to, "\033[%d;2;%d;%d;%dm", base, c.r, c.g, c.b);
    else
        fprintf(to, "\033[%d;5;%dm", base, xterm_colour(c));
}

/* ---- pictures side by side ---- */

typedef struct row {
    const lgv_image *images;
    int n, width, height; /* pixels, of all together */
} row;

static rgb pixel(const row *r, int x, int y)
{
    int w = r->images->width, k = x / (w + GAP), channels = r->images->channels;
    if (y >= r->height || x % (w + GAP) >= w) return nothing;
    const unsigned char *p = (const unsigned char *)r->images[k].pixels +
                             ((size_t)y * (size_t)w + (size_t)(x % (w + GAP))) * (size_t)channels;
    return channels == 3 ? (rgb){p[0], p[1], p[2]} : (rgb){p[0], p[0], p[0]};
}

static void coloured_line(FILE *to, const row *r, int y, cli_depth depth)
{
    rgb over = nothing, under = nothing; /* as the terminal has them */
    for (int x = 0; x < r->width; x++) {
        rgb top = pixel(r, x, y), low = pixel(r, x, y + 1);
        if (top.r >= 0 && !equal(top, over)) put_colour(to, over = top, false, depth);
        if (!equal(low, under)) put_colour(to, under = low, true, depth);
        fputs(top.r < 0 ? " " : "\u2580", to);
    }
    fputs("\033[0m", to);
}

/* Ink is light: terminals are dark more often than not. */
static void shaded_line(FILE *to, const row *r, int y, cli_depth depth)
{
    static const char *const block[] = {" ", "\u2591", "\u2592", "\u2593", "\u2588"};
    static const char ascii[] = " .:-=+*#%@";
    for (int x = 0; x < r->width; x++) {
        rgb top = pixel(r, x, y), low = pixel(r, x, y + 1);
        int v = low.r < 0 ? brightness(top) : (brightness(top) + brightness(low)) / 2;
        if (depth == CLI_DEPTH_GREY)
            fputs(block[v * 5 / 256], to);
        else
            fputc(ascii[v * 10 / 256], to);
    }
}

static char *draw(const row *r, cli_depth depth, int *made)
{
    char *text = NULL;
    size_t size = 0;
    FILE *to = open_memstream(&text, &size);
    if (!to) return NULL;
    *made = (r->height + 1) / 2;
    for (int y = 0; y < r->height; y += 2) {
        if (depth >= CLI_DEPTH_256)
            coloured_line(to, r, y, depth);
        else
            shaded_line(to, r, y, depth);
        fputs("\033[K\n", to);
    }
    if (!fclose(to)) return text;
    free(text);
    return NULL;
}

char *cli_preview_text(const lgv_image *images, size_t n, int columns, int lines, cli_depth depth,
                       int *made)
{
    int w = images->width, h = images->height;
    if (columns < 2 || lines < 1) return NULL;
    if (w <= columns && h <= 2 * lines) {
        int fit = (columns + GAP) / (w + GAP), k = n < (size_t)fit ? (int)n : fit;
        return draw(&(row){images, k, k * (w + GAP) - GAP, h}, depth, made);
    }
    lgv_image small = {0};
    double scale = (double)columns / w < 2.0 * lines / h ? (double)columns / w : 2.0 * lines / h;
    int to_w = (int)(w * scale), to_h = (int)(h * scale);
    if (lgv_image_resize(images, to_w < 1 ? 1 : to_w, to_h < 1 ? 1 : to_h, &small, NULL))
        return NULL;
    char *text = draw(&(row){&small, 1, small.width, small.height}, depth, made);
    lgv_image_free(&small);
    return text;
}
