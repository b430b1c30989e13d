/* scenes.h - what the library does, as scenes that can be played with the nth allocation or file call failing.
   A scene makes and frees everything it needs. */
#ifndef LGV_TEST_SCENES_H
#define LGV_TEST_SCENES_H

#include <stdint.h>

typedef struct scale {
    const char *config; /* of the network; NULL: that of training.h */
    int side;           /* of its pictures */
    uint64_t most;      /* failures tried per scene and kind, spread over all calls; 0: every one */
    const char *only;   /* scenes whose name contains this; NULL: all */
    uint64_t part, parts; /* every parts-th failure, from part on; 0: by `most` */
} scale;

/* Plays every scene with each of its allocations, then each of its file calls failing: once, and from then on.
   Each time either the scene's result is what it always is, or an error is returned whose sentence says
   something; no block of memory and no file handle is left, and no half-written file; and what was good before
   still is. Prints a line per scene. */
void scenes_memory(const scale *size);
void scenes_files(const scale *size);
/* Pictures, data set and trained run that the scenes work on, in the scratch folder. */
void scenes_prepare(const scale *size);
void scenes_end(void);

#endif
