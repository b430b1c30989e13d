/* scratch.h - a temporary folder for one test program, and a hash to compare bytes with golden
   files. */
#ifndef LGV_TEST_SCRATCH_H
#define LGV_TEST_SCRATCH_H

#include <stddef.h>
#include <stdint.h>

/* "<folder>/name"; the folder is made at the first call. The text lives until the fourth later
   call. */
const char *scratch_path(const char *name);
/* The same; this text lives until the 64th later call. */
const char *scratch_keep(const char *name);
void scratch_write(const char *path, const void *data, size_t size);
/* The file `name` in the folder; folders on the way are made. */
void scratch_put(const char *name, const void *data, size_t size);
/* Removes the folder; for the program's end (cmocka group teardown: returns 0). */
int scratch_remove(void **state);

uint64_t test_fnv1a(const void *data, size_t size);
/* The same as 16 hexadecimal digits; the text lives until the next call. */
const char *test_fnv1a_hex(const void *data, size_t size);

#endif
