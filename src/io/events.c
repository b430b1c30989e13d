/* events.c - an event file: its name, the clock, and when bytes reach it. */
#include "langevin/events.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "core/file.h"
#include "event_bytes.h"
#include "langevin/image.h"

struct lgv_events {
    int file;
    char *path;
    lgv_bytes bytes;
};

static double wall_clock(void)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* A name that is free; readers take the files of a folder in the order of their names. */
static lgv_status create(lgv_events *e, const char *folder, lgv_error *err)
{
    char host[256] = "";
    if (gethostname(host, sizeof host - 1)) host[0] = 0;
    for (int n = 0;; n++) {
        lgv_free(e->path);
        e->path = lgv_format("%s/events.out.tfevents.%010lld.%s.%ld.%d", folder,
                             (long long)wall_clock(), *host ? host : "unnamed", (long)getpid(), n);
        if (!e->path) return lgv_fail(err, LGV_ERR_MEMORY, "out of memory for a path");
        e->file = open(e->path, O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC, 0666);
        if (e->file >= 0) return LGV_OK;
        if (errno != EEXIST)
            return lgv_fail(err, LGV_ERR_IO, "cannot make '%s': %s", e->path, strerror(errno));
    }
}

lgv_status lgv_events_open(const char *folder, int64_t first_step, lgv_events **out, lgv_error *err)
{
    lgv_events *e = lgv_zalloc(1, sizeof *e);
    if (!e) return lgv_fail(err, LGV_ERR_MEMORY, "out of memory for event files");
    e->file = -1;
    lgv_status s = lgv_make_dir(folder, err);
    if (!s) s = create(e, folder, err);
    if (!s) {
        lgv_event_version(&e->bytes, wall_clock());
        lgv_event_start(&e->bytes, wall_clock(), first_step);
        s = lgv_events_flush(e, err);
    }
    if (s)
        lgv_events_close(e);
    else
        *out = e;
    return s;
}

void lgv_events_close(lgv_events *e)
{
    if (!e) return;
    if (e->file >= 0) close(e->file);
    lgv_free(e->bytes.data);
    lgv_free(e->path);
    lgv_free(e);
}

static lgv_status collected(lgv_events *e, lgv_error *err)
{
    if (!e->bytes.failed) return LGV_OK;
    return lgv_fail(err, LGV_ERR_MEMORY, "out of memory for '%s'", e->path);
}

lgv_status lgv_events_scalar(lgv_events *e, int64_t step, const char *tag, double value,
                             lgv_error *err)
{
    lgv_event_scalar(&e->bytes, wall_clock(), step, tag, value);
    return collected(e, err);
}

lgv_status lgv_events_image(lgv_events *e, int64_t step, const char *tag, const void *data,
                            size_t size, lgv_error *err)
{
    lgv_image_info info;
    LGV_TRY(lgv_image_probe_memory(data, size, tag, &info, err));
    lgv_event_image(&e->bytes, wall_clock(), step, tag, info.width, info.height, info.channels,
                    data, size);
    return collected(e, err);
}

lgv_status lgv_events_text(lgv_events *e, int64_t step, const char *tag, const char *text,
                           lgv_error *err)
{
    lgv_event_text(&e->bytes, wall_clock(), step, tag, text);
    return collected(e, err);
}

lgv_status lgv_events_flush(lgv_events *e, lgv_error *err)
{
    LGV_TRY(collected(e, err));
    if (!lgv_write_all(e->file, e->bytes.data, e->bytes.size))
        return lgv_fail(err, LGV_ERR_IO, "cannot write '%s': %s", e->path, strerror(errno));
    e->bytes.size = 0;
    return LGV_OK;
}
