/* ok.h - calls that must succeed; the test fails with the call and its sentence otherwise. */
#ifndef LGV_TEST_OK_H
#define LGV_TEST_OK_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "langevin/status.h"

/* OK(f(x, &err)): err is a lgv_error of the caller. */
#define OK(call)                                                                                   \
    do {                                                                                           \
        err.text[0] = 0;                                                                           \
        if (call) fail_msg("%s: %s", #call, err.text);                                             \
    } while (0)

/* MUST(f(x, err)): err is made for this call. */
#define MUST(call)                                                                                 \
    do {                                                                                           \
        lgv_error error_ = {0};                                                                    \
        lgv_error *err = &error_;                                                                  \
        if ((call) != LGV_OK) fail_msg("%s: %s", #call, error_.text);                              \
    } while (0)

/* The call fails with the status, and its sentence holds every given part. */
#define FAILS(wanted, part, call)                                                                  \
    do {                                                                                           \
        lgv_error error_ = {0};                                                                    \
        lgv_error *err = &error_;                                                                  \
        lgv_status status_ = (call);                                                               \
        if (status_ != (wanted))                                                                   \
            fail_msg("%s: status %s (%s)", #call, lgv_status_name(status_), error_.text);          \
        if (!strstr(error_.text, part)) fail_msg("'%s' does not say '%s'", error_.text, part);     \
    } while (0)

#endif
