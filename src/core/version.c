/* version.c - the version as the library itself tells it: a program may run with another than it was
   compiled against. */
#include "langevin/version.h"

const char *lgv_version(void)
{
    return LGV_VERSION;
}
