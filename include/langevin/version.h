/* version.h - which Langevin this is: what a program was compiled against, and what it runs with.
   Versions follow semver.org; what that means for binaries stands in docs/embedding.md. */
#ifndef LANGEVIN_VERSION_H
#define LANGEVIN_VERSION_H

#include "status.h"

#ifdef __cplusplus
extern "C" {
#endif

#define LGV_VERSION       "0.1.0" /* the build takes the version of everything from here */
#define LGV_VERSION_MAJOR 0
#define LGV_VERSION_MINOR 1
#define LGV_VERSION_PATCH 0

/* LGV_VERSION of the library that is linked. Never NULL, never freed. */
LGV_API const char *lgv_version(void);

#ifdef __cplusplus
}
#endif
#endif
