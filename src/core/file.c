/* file.c - reading whole files, and writing them so that they appear complete or not at all.
   A crash at any moment leaves either the old file or the new one under the name: the bytes go to a
   temporary file in the same folder, which is fsynced before and whose folder is fsynced after the
   rename. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "file.h"

static lgv_status fail_path(lgv_error *err, const char *what, const char *path)
{
    int code = errno;
    return lgv_fail(err, code == ENOMEM ? LGV_ERR_MEMORY : LGV_ERR_IO, "cannot %s '%s': %s", what,
                    path, strerror(code));
}

/* Opens a regular file for reading; O_NONBLOCK, because opening a pipe would otherwise wait. */
static lgv_status open_regular(const char *path, int *fd_out, uint64_t *size, lgv_error *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) return fail_path(err, "open", path);
    struct stat st;
    lgv_status status = LGV_OK;
    if (fstat(fd, &st))
        status = fail_path(err, "examine", path);
    else if (!S_ISREG(st.st_mode))
        status = lgv_fail(err, LGV_ERR_IO, "'%s' is not a regular file; give a file", path);
    else if (st.st_size < 0 || (uint64_t)st.st_size > SIZE_MAX - 1)
        status = lgv_fail(err, LGV_ERR_IO, "'%s' is too large for this machine's addresses", path);
    if (status) {
        close(fd);
        return status;
    }
    *fd_out = fd;
    *size = (uint64_t)st.st_size;
    return LGV_OK;
}

lgv_status lgv_map_open(const char *path, lgv_map *out, lgv_error *err)
{
    static const uint8_t nothing[1];
    int fd;
    uint64_t size;
    LGV_TRY(open_regular(path, &fd, &size, err));
    lgv_map map = {.data = nothing};
    if (size) {
        map.base = mmap(NULL, (size_t)size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (map.base == MAP_FAILED) {
            lgv_status status = fail_path(err, "map", path);
            close(fd);
            return status;
        }
        map.data = map.base;
        map.size = (size_t)size;
    }
    close(fd);
    *out = map;
    return LGV_OK;
}

void lgv_map_close(lgv_map *map)
{
    if (!map) return;
    if (map->base) munmap(map->base, map->size);
    *map = (lgv_map){0};
}

/* Reads until size bytes or the end of the file. */
static bool read_full(int fd, void *data, size_t size, size_t *got)
{
    for (*got = 0; *got < size;) {
        ssize_t n = read(fd, (char *)data + *got, size - *got);
        if (n == 0) return true;
        if (n > 0)
            *got += (size_t)n;
        else if (errno != EINTR)
            return false;
    }
    return true;
}

lgv_status lgv_file_read(const char *path, size_t max_bytes, char **data, size_t *size,
                         lgv_error *err)
{
    int fd;
    uint64_t bytes;
    LGV_TRY(open_regular(path, &fd, &bytes, err));
    char *buffer = NULL;
    size_t got = 0;
    lgv_status status = LGV_OK;
    if (bytes > max_bytes) {
        status = lgv_fail(err, LGV_ERR_FORMAT, "'%s' has %llu bytes; at most %zu are expected here",
                          path, (unsigned long long)bytes, max_bytes);
        goto done;
    }
    buffer = lgv_alloc((size_t)bytes + 1, 1);
    if (!buffer) {
        status = lgv_fail(err, LGV_ERR_MEMORY, "out of memory: reading '%s' (%llu bytes)", path,
                          (unsigned long long)bytes);
        goto done;
    }
    if (!read_full(fd, buffer, (size_t)bytes, &got)) {
        status = fail_path(err, "read", path);
        goto done;
    }
    buffer[got] = 0;
    *data = buffer;
    *size = got;
    buffer = NULL;
done:
    close(fd);
    lgv_free(buffer);
    return status;
}

/* Opens the folder that holds path, so that after a rename nothing is left to fail but its fsync.
 */
static lgv_status open_parent(const char *path, int *fd, lgv_error *err)
{
    char *folder = lgv_strdup(path);
    if (!folder) return lgv_fail(err, LGV_ERR_MEMORY, "out of memory: the folder of '%s'", path);
    size_t length = strlen(folder);
    while (length > 1 && folder[length - 1] == '/') length--;
    while (length > 0 && folder[length - 1] != '/') length--;
    folder[length] = 0;
    const char *name = length ? folder : ".";
    lgv_status status = LGV_OK;
    *fd = open(name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (*fd < 0) status = fail_path(err, "open the folder", name);
    lgv_free(folder);
    return status;
}

/* Some file systems have nothing to sync for a folder and say EINVAL. */
static bool sync_folder(int fd)
{
    return fsync(fd) == 0 || errno == EINVAL;
}

struct lgv_atomic {
    char *path, *temporary;
    int fd, folder;
    bool failed; /* a write failed: commit must not put a hole under the name */
};

/* Creates the temporary file. Names left by killed processes are in the way at most: O_EXCL finds a
   free one. */
static lgv_status create_temporary(lgv_atomic *f, lgv_error *err)
{
    for (int attempt = 0; attempt < 1000; attempt++) {
        char *name = lgv_format("%s.tmp-%ld-%d", f->path, (long)getpid(), attempt);
        if (!name) return lgv_fail(err, LGV_ERR_MEMORY, "out of memory: writing '%s'", f->path);
        f->fd = open(name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (f->fd >= 0) {
            f->temporary = name;
            return LGV_OK;
        }
        int code = errno;
        lgv_free(name);
        errno = code;
        if (code != EEXIST) break;
    }
    return fail_path(err, "create", f->path);
}

lgv_status lgv_atomic_open(const char *path, lgv_atomic **out, lgv_error *err)
{
    lgv_atomic *f = lgv_zalloc(1, sizeof *f);
    if (!f) return lgv_fail(err, LGV_ERR_MEMORY, "out of memory: writing '%s'", path);
    f->fd = f->folder = -1;
    f->path = lgv_strdup(path);
    lgv_status status = f->path
                            ? open_parent(path, &f->folder, err)
                            : lgv_fail(err, LGV_ERR_MEMORY, "out of memory: writing '%s'", path);
    if (!status) status = create_temporary(f, err);
    if (status) {
        lgv_atomic_abort(f);
        return status;
    }
    *out = f;
    return LGV_OK;
}

bool lgv_write_all(int fd, const void *data, size_t size)
{
    for (size_t done = 0; done < size;) {
        size_t part = size - done < (size_t)1 << 30 ? size - done : (size_t)1 << 30;
        ssize_t n = write(fd, (const char *)data + done, part);
        if (n > 0) {
            done += (size_t)n;
        } else if (n == 0 || errno != EINTR) {
            if (n == 0) errno = ENOSPC;
            return false;
        }
    }
    return true;
}

bool lgv_read_at(int fd, void *data, size_t size, int64_t at)
{
    for (size_t done = 0; done < size;) {
        ssize_t n = pread(fd, (char *)data + done, size - done, at + (int64_t)done);
        if (n > 0) {
            done += (size_t)n;
        } else if (n == 0 || errno != EINTR) {
            if (n == 0) errno = 0;
            return false;
        }
    }
    return true;
}

lgv_status lgv_atomic_write(lgv_atomic *f, const void *data, size_t size, lgv_error *err)
{
    if (lgv_write_all(f->fd, data, size)) return LGV_OK;
    f->failed = true;
    return fail_path(err, "write", f->temporary);
}

void lgv_atomic_abort(lgv_atomic *f)
{
    if (!f) return;
    if (f->fd >= 0) close(f->fd);
    if (f->folder >= 0) close(f->folder);
    if (f->temporary) unlink(f->temporary);
    lgv_free(f->temporary);
    lgv_free(f->path);
    lgv_free(f);
}

lgv_status lgv_atomic_commit(lgv_atomic *f, lgv_error *err)
{
    lgv_status status = LGV_OK;
    if (f->failed)
        status =
            lgv_fail(err, LGV_ERR_IO, "'%s' was not written: an earlier write failed", f->path);
    else if (fsync(f->fd))
        status = fail_path(err, "write to disk", f->temporary);
    if (!status) {
        int code = close(f->fd);
        f->fd = -1;
        if (code) status = fail_path(err, "close", f->temporary);
    }
    if (!status && rename(f->temporary, f->path)) status = fail_path(err, "replace", f->path);
    if (!status) {
        lgv_free(f->temporary);
        f->temporary = NULL;
        if (!sync_folder(f->folder))
            status = fail_path(err, "write to disk the folder of", f->path);
    }
    lgv_atomic_abort(f);
    return status;
}

lgv_status lgv_file_write(const char *path, const void *data, size_t size, lgv_error *err)
{
    lgv_atomic *f;
    LGV_TRY(lgv_atomic_open(path, &f, err));
    lgv_status status = lgv_atomic_write(f, data, size, err);
    if (status) {
        lgv_atomic_abort(f);
        return status;
    }
    return lgv_atomic_commit(f, err);
}

lgv_status lgv_rename(const char *from, const char *to, lgv_error *err)
{
    int folder;
    LGV_TRY(open_parent(to, &folder, err));
    lgv_status status = LGV_OK;
    if (rename(from, to))
        status =
            lgv_fail(err, LGV_ERR_IO, "cannot rename '%s' to '%s': %s", from, to, strerror(errno));
    else if (!sync_folder(folder))
        status = fail_path(err, "write to disk the folder of", to);
    close(folder);
    return status;
}

lgv_status lgv_sync_dir(const char *path, lgv_error *err)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return fail_path(err, "open the folder", path);
    lgv_status status = LGV_OK;
    if (!sync_folder(fd)) status = fail_path(err, "write to disk the folder", path);
    close(fd);
    return status;
}

lgv_status lgv_sha256_file(const char *path, char hex[65], lgv_error *err)
{
    enum { chunk = 1 << 18 };
    int fd;
    uint64_t size;
    LGV_TRY(open_regular(path, &fd, &size, err));
    char *buffer = lgv_alloc(chunk, 1);
    lgv_status status = LGV_OK;
    if (!buffer)
        status = lgv_fail(err, LGV_ERR_MEMORY, "out of memory: the checksum of '%s'", path);
    lgv_sha256 sha;
    lgv_sha256_init(&sha);
    for (size_t got = chunk; !status && got == chunk;) {
        if (read_full(fd, buffer, chunk, &got))
            lgv_sha256_update(&sha, buffer, got);
        else
            status = fail_path(err, "read", path);
    }
    if (!status) lgv_sha256_hex(&sha, hex);
    lgv_free(buffer);
    close(fd);
    return status;
}
