/* preview.h - pictures in a terminal: half blocks, two pixels a character. */
#ifndef LANGEVIN_CLI_PREVIEW_H
#define LANGEVIN_CLI_PREVIEW_H

#include <stddef.h>

#include "langevin/image.h"

/* How a terminal can show a picture. */
typedef enum cli_depth {
    CLI_DEPTH_ASCII = 0, /* characters of more or less ink */
    CLI_DEPTH_GREY,      /* the four shades of Unicode's block elements */
    CLI_DEPTH_256,
    CLI_DEPTH_24BIT
} cli_depth;

/* By COLORTERM, TERM, NO_COLOR and the locale. */
cli_depth cli_preview_depth(void);

/* As many of n pictures (one size, 8 bits, 1 or 3 channels) as fit side by side into columns x lines
   characters; a single smaller one when not even the first does. Each line ends in a newline; *lines
   says how many. NULL when there is no memory; free with free(). */
char *cli_preview_text(const lgv_image *images, size_t n, int columns, int lines, cli_depth depth,
                       int *made);

#endif
