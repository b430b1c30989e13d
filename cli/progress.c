/* progress.c - the live bar and its plain sibling.
   The width is asked for at every drawing: terminals change size, and a bar that wraps leaves
   rubbish behind. What does not fit is left out from the right. A preview stands above the bar and is
   drawn over in place; clearing takes both away, so that lines printed meanwhile scroll past. */
#include "progress.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "cli.h"
#include "preview.h"

enum { LINE = 256, BAR_LEAST = 8, BAR_MOST = 40, PREVIEW_MOST = 32 };
static const double bar_seconds = 0.1, line_seconds = 5;

double cli_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

bool cli_terminal(void)
{
    const char *term = getenv("TERM");
    return isatty(STDOUT_FILENO) && !(term && !strcmp(term, "dumb"));
}

bool cli_colour(void)
{
    const char *no = getenv("NO_COLOR");
    return cli_terminal() && !(no && *no);
}

bool cli_utf8(void)
{
    static const char *const names[] = {"LC_ALL", "LC_CTYPE", "LANG"};
    for (int i = 0; i < 3; i++) {
        const char *v = getenv(names[i]);
        if (v && *v) return strstr(v, "UTF-8") || strstr(v, "utf8") || strstr(v, "utf-8");
    }
    return false;
}

static void terminal_size(int *columns, int *rows)
{
    struct winsize size = {0};
    bool known = !ioctl(STDOUT_FILENO, TIOCGWINSZ, &size);
    *columns = known && size.ws_col ? size.ws_col : 80;
    *rows = known && size.ws_row ? size.ws_row : 24;
}

/* ---- rates ---- */

/* Moves a mean over the last `span` seconds on by dt seconds of `each` seconds per step. */
static double blend(double mean, double each, double dt, double span)
{
    if (!mean) return each;
    return mean + (each - mean) * (1 - exp(-dt / span));
}

static void measure(cli_progress *p, int64_t done)
{
    double t = cli_now(), dt = t - p->updated;
    if (done <= p->done || dt <= 0) return;
    double each = dt / (double)(done - p->done), age = t - p->start;
    p->recent = blend(p->recent, each, dt, age < 5 ? age : 5);
    /* Of a young run all, then the last minutes: checkpoints and grids count in the time left. */
    p->overall = blend(p->overall, each, dt, age < 300 ? age : 300);
    p->done = done;
    p->updated = t;
}

/* ---- text ---- */

static void rate_text(const cli_progress *p, char text[32])
{
    double rate = p->recent > 0 ? p->scale / p->recent : 0;
    text[0] = 0;
    if (rate <= 0) return;
    if (rate < 1 && !strcmp(p->unit, "it/s"))
        snprintf(text, 32, "%.3g s/it", 1 / rate);
    else
        snprintf(text, 32, rate < 100 ? "%.3g %s" : "%.0f %s", rate, p->unit);
}

static void add(char line[LINE], const char *part)
{
    size_t used = strlen(line);
    if (*part) snprintf(line + used, LINE - used, "%s%s", used ? "  " : "", part);
}

static void right_text(const cli_progress *p, const char *extra, char line[LINE])
{
    char text[64], number[32];
    struct rusage usage;
    line[0] = 0;
    rate_text(p, text);
    add(line, text);
    if (p->overall > 0 && p->done < p->total) {
        cli_duration(p->overall * (double)(p->total - p->done), number);
        snprintf(text, sizeof text, "%s left", number);
        add(line, text);
    }
    add(line, extra ? extra : "");
    if (!getrusage(RUSAGE_SELF, &usage))
        add(line, cli_bytes((double)usage.ru_maxrss * 1024, number));
}

static void left_text(const cli_progress *p, char line[LINE])
{
    double share = p->total > 0 ? (double)p->done / (double)p->total : 1;
    int digits = snprintf(NULL, 0, "%lld", (long long)p->total);
    snprintf(line, LINE, "%s %*lld/%lld %3.0f%%", p->label, digits, (long long)p->done,
             (long long)p->total, floor(100 * share));
}

/* Takes the last part off ("a  b  c" becomes "a  b"). */
static void shorten(char *line)
{
    char *last = NULL;
    for (char *s = line; (s = strstr(s, "  ")); s += 2) last = s;
    if (last)
        *last = 0;
    else
        *line = 0;
}

static void put_bar(const cli_progress *p, int width)
{
    double share = p->total > 0 ? (double)p->done / (double)p->total : 1;
    int halves = (int)(share * 2 * width), full = halves / 2;
    const char *mark = p->utf8 ? "\u2501" : "#", *half = p->utf8 ? "\u2578" : "#";
    const char *rest = p->utf8 ? (p->colour ? "\u2501" : "\u2500") : "-";
    if (p->colour) fputs("\033[32m", stdout);
    for (int i = 0; i < full; i++) fputs(mark, stdout);
    if (full < width && halves % 2) {
        fputs(half, stdout);
        full++;
    }
    if (p->colour) fputs("\033[90m", stdout);
    for (int i = full; i < width; i++) fputs(rest, stdout);
    if (p->colour) fputs("\033[0m", stdout);
}

/* The cursor goes to the first column of the line where the preview begins, or the bar. */
static void go_up(cli_progress *p)
{
    if (p->above) printf("\033[%dA", p->above);
    fputs("\r", stdout);
}

static void draw_preview(cli_progress *p)
{
    if (!p->preview || (!p->fresh && p->above)) return;
    go_up(p);
    if (p->above != p->lines) fputs("\033[J", stdout);
    fputs(p->preview, stdout);
    p->above = p->lines;
    p->fresh = false;
}

static void draw(cli_progress *p, const char *extra)
{
    char left[LINE], right[LINE];
    int room, rows;
    terminal_size(&room, &rows);
    room--; /* a full line would wrap */
    draw_preview(p);
    left_text(p, left);
    right_text(p, extra, right);
    int width = room / 4 < BAR_LEAST ? BAR_LEAST : room / 4 > BAR_MOST ? BAR_MOST : room / 4;
    while (*right && (int)(strlen(left) + strlen(right)) + 4 + width > room) shorten(right);
    if ((int)(strlen(left) + strlen(right)) + 4 + width > room) width = 0;
    fputs("\r\033[K", stdout);
    if (width < 1) {
        printf("%.*s", room > 0 ? room : 0, left);
    } else {
        printf("%s  ", left);
        put_bar(p, width);
        printf("  %s", right);
    }
    fflush(stdout);
    p->visible = true;
}

static void print_line(const cli_progress *p, const char *extra)
{
    char left[LINE], right[LINE];
    left_text(p, left);
    right_text(p, extra, right);
    printf("%s  %s\n", left, right);
    fflush(stdout);
}

/* ---- life ---- */

void cli_progress_begin(cli_progress *p, const char *label, const char *unit, double scale,
                        int64_t first, int64_t total)
{
    double t = cli_now();
    *p = (cli_progress){.label = label,
                        .unit = unit,
                        .scale = scale,
                        .total = total,
                        .terminal = cli_terminal(),
                        .colour = cli_colour(),
                        .utf8 = cli_utf8(),
                        .start = t,
                        .shown = t,
                        .done = first,
                        .updated = t};
}

void cli_progress_show(cli_progress *p, int64_t done, const char *extra)
{
    if (!p->label) return;
    measure(p, done);
    double t = cli_now();
    if (t - p->shown < (p->terminal ? bar_seconds : line_seconds)) return;
    p->shown = t;
    if (p->terminal)
        draw(p, extra);
    else
        print_line(p, extra);
}

void cli_progress_preview(cli_progress *p, const lgv_image *images, size_t n)
{
    int columns, rows, lines;
    if (!p->terminal || !n) return;
    terminal_size(&columns, &rows);
    char *text =
        cli_preview_text(images, n, columns - 1, rows - 2 < PREVIEW_MOST ? rows - 2 : PREVIEW_MOST,
                         cli_preview_depth(), &lines);
    if (!text) return;
    free(p->preview);
    p->preview = text;
    p->lines = lines;
    p->fresh = true;
}

void cli_progress_clear(cli_progress *p)
{
    if (!p->visible) return;
    go_up(p);
    fputs("\033[J", stdout);
    fflush(stdout);
    p->above = 0;
    p->visible = false;
    p->shown = 0; /* back at once */
}

void cli_progress_end(cli_progress *p, const char *extra)
{
    if (!p->label) return;
    if (p->terminal) {
        draw(p, extra);
        fputs("\n", stdout);
        fflush(stdout);
    } else {
        print_line(p, extra);
    }
    p->visible = false;
    p->above = 0;
    cli_progress_free(p);
}

void cli_progress_free(cli_progress *p)
{
    free(p->preview);
    p->preview = NULL;
}
