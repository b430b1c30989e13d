/* inject.h - failures on order, for everything in the process: the library and what it calls (jansson, libpng,
   libjpeg, libwebp, giflib, zlib). The program defines malloc and the file calls itself, so no library needs a
   hook; inject.c belongs into programs that want that, and into no other. */
#ifndef LGV_TEST_INJECT_H
#define LGV_TEST_INJECT_H

#include <stdbool.h>
#include <stdint.h>

typedef enum inject_kind {
    INJECT_MEMORY, /* malloc, calloc, realloc, posix_memalign, aligned_alloc, anonymous mmap */
    INJECT_FILES, /* open, read, write, fsync, rename, mkdir, ftruncate, opendir, mmap of a file ... */
    INJECT_WRITES /* of these, those that change something on the disk */
} inject_kind;

/* From now on the nth (1-based) call of that kind fails, with `onwards` every one after it too; files with this
   errno. nth 0: nothing fails, calls are counted. All threads count together. */
void inject_begin(inject_kind kind, uint64_t nth, bool onwards, int code);
/* Failures are over; how many calls there were. */
uint64_t inject_end(void);
/* The clock on the wall jumps by hours, forwards and backwards, with every look at it. */
void inject_wild_clock(bool on);
/* Blocks of memory that are taken and not yet freed. */
int64_t inject_live(void);

#endif
