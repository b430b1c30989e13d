/* scratch.c - temporary files of a test. Failures here abort the program: nothing can be tested
   then. */
#include "scratch.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/file.h"

static char folder[64];

const char *scratch_path(const char *name)
{
    static char paths[4][512];
    static int next;
    if (!folder[0]) {
        snprintf(folder, sizeof folder, "/tmp/langevin-test-XXXXXX");
        if (!mkdtemp(folder)) abort();
    }
    char *path = paths[next++ % 4];
    snprintf(path, sizeof paths[0], "%s/%s", folder, name);
    return path;
}

const char *scratch_keep(const char *name)
{
    static char paths[64][512];
    static int next;
    char *path = paths[next++ % 64];
    snprintf(path, sizeof paths[0], "%s", scratch_path(name));
    return path;
}

void scratch_write(const char *path, const void *data, size_t size)
{
    FILE *f = fopen(path, "wb");
    if (!f || (size && fwrite(data, 1, size, f) != size) || fclose(f)) abort();
}

void scratch_put(const char *name, const void *data, size_t size)
{
    char path[512];
    snprintf(path, sizeof path, "%s", scratch_path(name));
    char *slash = strrchr(path, '/');
    *slash = 0;
    if (lgv_make_dir(path, NULL)) abort();
    *slash = '/';
    scratch_write(path, data, size);
}

int scratch_remove(void **state)
{
    (void)state;
    if (folder[0]) lgv_remove_tree(folder, NULL);
    folder[0] = '\0';
    return 0;
}

uint64_t test_fnv1a(const void *data, size_t size)
{
    const uint8_t *p = data;
    uint64_t h = 0xcbf29ce484222325u;
    for (size_t i = 0; i < size; i++) h = (h ^ p[i]) * 0x100000001b3u;
    return h;
}

const char *test_fnv1a_hex(const void *data, size_t size)
{
    static char text[17];
    snprintf(text, sizeof text, "%016" PRIx64, test_fnv1a(data, size));
    return text;
}
