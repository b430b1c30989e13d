/* progress.h - what a person sees of long work: a live bar on a terminal, a plain line every few
   seconds everywhere else. Written to stdout; stderr is left to errors. */
#ifndef LANGEVIN_CLI_PROGRESS_H
#define LANGEVIN_CLI_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

#include "langevin/image.h"

typedef struct cli_progress {
    const char *label; /* "training"; borrowed */
    const char *unit;  /* "it/s", "pictures/s"; borrowed */
    double scale;      /* units per step */
    int64_t total;     /* steps in all */
    bool terminal, colour, utf8;
    bool visible;        /* a bar stands on the current line */
    char *preview;       /* text above the bar; NULL: none */
    int lines;           /* of the preview */
    int above;           /* lines of a preview that stand above the bar now */
    bool fresh;          /* the preview is newer than what stands there */
    double start, shown; /* seconds */
    int64_t done;        /* at the last update */
    double updated;      /* when that was */
    double recent,
        overall; /* seconds per step over the last seconds, the last minutes; 0: unknown */
} cli_progress;

double cli_now(void); /* monotonic seconds */

void cli_progress_begin(cli_progress *p, const char *label, const char *unit, double scale,
                        int64_t first, int64_t total);
/* Nothing of what follows is shown of a zeroed cli_progress, before it has begun. */
/* `extra`: what else to show ("loss 0.0432  lr 1e-4"), most important first, parted by two spaces.
   Draws at most ten times a second. */
void cli_progress_show(cli_progress *p, int64_t done, const char *extra);
/* What stands above the bar from now on, on a terminal: pictures of one size (preview.h). */
void cli_progress_preview(cli_progress *p, const lgv_image *images, size_t n);
/* Takes the bar off the line, so that other lines can be printed. The next show brings it back. */
void cli_progress_clear(cli_progress *p);
/* A last look at the final state, then the line is left. */
void cli_progress_end(cli_progress *p, const char *extra);
void cli_progress_free(cli_progress *p); /* its memory; prints nothing */

/* Whether stdout shows colours: a terminal, and NO_COLOR is not set. */
bool cli_colour(void);
bool cli_terminal(void); /* stdout is one, and it can move its cursor */
bool cli_utf8(void);     /* by the locale's variables */

#endif
