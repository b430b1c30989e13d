/* status.h - how every call of Langevin reports success and failure.
   A fallible call returns an lgv_status and, when the caller passes one, fills an lgv_error with a
   sentence that names the things involved. Nothing in the library prints or exits. */
#ifndef LANGEVIN_STATUS_H
#define LANGEVIN_STATUS_H

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define LGV_API               __attribute__((visibility("default")))
#define LGV_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))
#else
#define LGV_API
#define LGV_PRINTF(fmt, args)
#endif

typedef enum lgv_status {
    LGV_OK = 0,
    LGV_ERR_ARGUMENT,    /* a value the caller passed makes no sense */
    LGV_ERR_SHAPE,       /* shapes that do not fit each other */
    LGV_ERR_MEMORY,      /* an allocation failed */
    LGV_ERR_IO,          /* the operating system refused a file operation */
    LGV_ERR_FORMAT,      /* a file does not hold what its format demands */
    LGV_ERR_UNSUPPORTED, /* valid, but not something this build or device does */
    LGV_ERR_NUMERIC,     /* NaN or infinity where a number is needed */
    LGV_ERR_EXISTS,      /* something is in the way and may not be overwritten */
    LGV_ERR_CANCELLED    /* the caller asked to stop */
} lgv_status;

enum { LGV_ERROR_TEXT = 1024 };

/* Owned by the caller, zero-initialised or reused; text is a sentence without a final newline. */
typedef struct lgv_error {
    lgv_status status;
    char text[LGV_ERROR_TEXT];
} lgv_error;

/* A short fixed name of a status, such as "wrong shape". Never NULL. */
LGV_API const char *lgv_status_name(lgv_status status);

#ifdef __cplusplus
}
#endif
#endif
