/* folder.c - folders: making, listing, removing, and questions about paths.
   Removal works through folder handles, never through path strings, so that a link put in its way
   cannot lead it out of the tree. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "file.h"

/* Each level of a tree being removed holds a file handle. */
enum { max_depth = 200 };

bool lgv_is_file(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISREG(st.st_mode);
}

bool lgv_is_dir(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

bool lgv_exists(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0;
}

lgv_status lgv_make_dir(const char *path, lgv_error *err)
{
    char *part = lgv_strdup(path);
    if (!part) return lgv_fail(err, LGV_ERR_MEMORY, "out of memory: making the folder '%s'", path);
    lgv_status status = LGV_OK;
    for (size_t i = 1; !status && part[0]; i++) {
        if (part[i] && part[i] != '/') continue;
        char end = part[i];
        part[i] = 0;
        /* mkdir on an existing folder may also say EROFS or EACCES, hence the question after. */
        if (mkdir(part, 0777)) {
            int code = errno;
            if (!lgv_is_dir(part))
                status =
                    lgv_fail(err, LGV_ERR_IO, "cannot make the folder '%s': %s", part,
                             code == EEXIST ? "a file of that name is in the way" : strerror(code));
        }
        part[i] = end;
        if (!end) break;
    }
    if (!path[0]) status = lgv_fail(err, LGV_ERR_ARGUMENT, "cannot make a folder without a name");
    lgv_free(part);
    return status;
}

static bool is_dot(const char *name)
{
    return !strcmp(name, ".") || !strcmp(name, "..");
}

static bool remove_at(int folder, const char *name, int depth);

/* Removes what the open folder holds. Without opendir, which takes memory: this must also work, and clear
   up, when there is none. */
static bool empty_folder(int fd, int depth)
{
    _Alignas(struct dirent64) char buffer[2048];
    for (;;) {
        ssize_t size = getdents64(fd, buffer, sizeof buffer);
        if (size <= 0) return size == 0;
        bool removed = false;
        for (ssize_t i = 0; i < size;) {
            const struct dirent64 *entry = (const struct dirent64 *)(const void *)(buffer + i);
            i += entry->d_reclen;
            if (is_dot(entry->d_name)) continue;
            if (!remove_at(fd, entry->d_name, depth + 1)) return false;
            removed = true;
        }
        /* Where entries move when others go, reading on could skip some. */
        if (removed && lseek(fd, 0, SEEK_SET) < 0) return false;
    }
}

/* Removes `name` in the open folder; false with errno when something is left. */
static bool remove_at(int folder, const char *name, int depth)
{
    if (unlinkat(folder, name, 0) == 0 || errno == ENOENT) return true;
    if (errno != EISDIR && errno != EPERM) return false;
    if (depth >= max_depth) {
        errno = ELOOP;
        return false;
    }
    int fd = openat(folder, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0) return false;
    bool ok = empty_folder(fd, depth);
    int code = errno;
    close(fd);
    errno = code;
    return ok && (unlinkat(folder, name, AT_REMOVEDIR) == 0 || errno == ENOENT);
}

lgv_status lgv_remove_tree(const char *path, lgv_error *err)
{
    char name[PATH_MAX];
    size_t length = strlen(path);
    if (length >= sizeof name)
        return lgv_fail(err, LGV_ERR_IO, "cannot remove '%.200s...': %s", path,
                        strerror(ENAMETOOLONG));
    memcpy(name, path, length + 1);
    while (length && name[length - 1] == '/')
        name[--length] = 0; /* "link/" would follow the link */
    const char *last = strrchr(name, '/');
    last = last ? last + 1 : name;
    lgv_status status = LGV_OK;
    if (!length || is_dot(last))
        status = lgv_fail(err, LGV_ERR_ARGUMENT, "refusing to remove '%s'; name the folder itself",
                          path);
    else if (!remove_at(AT_FDCWD, name, 0))
        status = lgv_fail(err, LGV_ERR_IO, "cannot remove '%s': %s", path, strerror(errno));
    return status;
}

/* "name.tmp-PID-N" (create_temporary in file.c). */
static bool is_draft(const char *name)
{
    const char *end = NULL;
    for (const char *s = name; (s = strstr(s, ".tmp-")); s++) end = s;
    if (!end || end == name) return false;
    end += 5;
    size_t pid = strspn(end, "0123456789");
    if (!pid || end[pid] != '-') return false;
    end += pid + 1;
    size_t n = strspn(end, "0123456789");
    return n && !end[n];
}

lgv_status lgv_remove_drafts(const char *folder, lgv_error *err)
{
    lgv_names names = {0};
    LGV_TRY(lgv_list_dir(folder, &names, err));
    lgv_status status = LGV_OK;
    for (size_t i = 0; i < names.count && !status; i++) {
        if (!is_draft(names.name[i])) continue;
        char *path = lgv_path_join(folder, names.name[i]);
        if (!path)
            status = lgv_fail(err, LGV_ERR_MEMORY, "out of memory: clearing '%s'", folder);
        else if (unlink(path) && errno != ENOENT)
            status = lgv_fail(err, LGV_ERR_IO, "cannot remove '%s': %s", path, strerror(errno));
        lgv_free(path);
    }
    lgv_names_free(&names);
    return status;
}

char *lgv_path_join(const char *a, const char *b)
{
    size_t length = strlen(a);
    return lgv_format("%s%s%s", a, length && a[length - 1] != '/' ? "/" : "", b);
}

lgv_status lgv_free_space(const char *path, uint64_t *bytes, lgv_error *err)
{
    struct statvfs fs;
    if (statvfs(path, &fs))
        return lgv_fail(err, LGV_ERR_IO, "cannot ask for the free space at '%s': %s", path,
                        strerror(errno));
    if (__builtin_mul_overflow((uint64_t)fs.f_bavail, (uint64_t)fs.f_frsize, bytes))
        *bytes = UINT64_MAX;
    return LGV_OK;
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b); /* strcmp compares unsigned bytes */
}

lgv_status lgv_list_dir(const char *path, lgv_names *out, lgv_error *err)
{
    DIR *dir = opendir(path);
    if (!dir)
        return lgv_fail(err, errno == ENOMEM ? LGV_ERR_MEMORY : LGV_ERR_IO,
                        "cannot open the folder '%s': %s", path, strerror(errno));
    lgv_names names = {0};
    size_t capacity = 0;
    lgv_status status = LGV_OK;
    struct dirent *entry;
    for (;;) {
        errno = 0;
        if (!(entry = readdir(dir))) break;
        if (is_dot(entry->d_name)) continue;
        status = lgv_grow(&names.name, &capacity, names.count + 1, sizeof *names.name, err);
        if (status) break;
        char *name = lgv_strdup(entry->d_name);
        if (!name) {
            status = lgv_fail(err, LGV_ERR_MEMORY, "out of memory: the names in '%s'", path);
            break;
        }
        names.name[names.count++] = name;
    }
    if (!status && errno)
        status =
            lgv_fail(err, LGV_ERR_IO, "cannot read the folder '%s': %s", path, strerror(errno));
    closedir(dir);
    if (status) {
        lgv_names_free(&names);
        return status;
    }
    if (names.count) qsort(names.name, names.count, sizeof *names.name, compare_names);
    *out = names;
    return LGV_OK;
}

void lgv_names_free(lgv_names *names)
{
    if (!names) return;
    for (size_t i = 0; i < names->count; i++) lgv_free(names->name[i]);
    lgv_free(names->name);
    *names = (lgv_names){0};
}
