/* demo_model.c - the model that `langevin sample` takes when none is named. It lies in a folder
   "demo-model": in $LANGEVIN_DATA, beside the program (a build folder has a link there to models/demo of
   the source), in ../share/langevin of the program's folder, or in the data folder of the installation.
   The second last makes a moved installation work, and one under DESTDIR. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli.h"

#ifndef LGV_DATADIR
#define LGV_DATADIR "/usr/share/langevin"
#endif

enum { PATH_BYTES = 4096 };

static bool is_model(const char *format, const char *folder, char path[PATH_BYTES])
{
    int n = snprintf(path, PATH_BYTES, format, folder);
    return n > 0 && n < PATH_BYTES && cli_is_model(path);
}

/* The folder of the running program; false when the system does not tell. */
static bool program_folder(char folder[PATH_BYTES])
{
    ssize_t n = readlink("/proc/self/exe", folder, PATH_BYTES - 1);
    if (n <= 0) return false;
    folder[n] = 0;
    char *slash = strrchr(folder, '/');
    if (!slash) return false;
    *slash = 0;
    return true;
}

const char *cli_demo_model(void)
{
    static char path[PATH_BYTES]; /* the program's own; commands run once */
    char folder[PATH_BYTES];
    const char *data = getenv("LANGEVIN_DATA");
    if (data && *data && is_model("%s/demo-model", data, path)) return path;
    bool known = program_folder(folder);
    if (known && is_model("%s/demo-model", folder, path)) return path;
    if (known && is_model("%s/../share/langevin/demo-model", folder, path)) return path;
    return is_model("%s/demo-model", LGV_DATADIR, path) ? path : NULL;
}
