/* listing.c - finding the pictures of a folder.
   The list must be the same on every machine: sorted by path bytes, taken by content, and every
   folder visited once, whatever links there are. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/file.h"
#include "dataset.h"
#include "langevin/image.h"

enum { DEPTH = 64 }; /* folders inside folders; deeper is refused */

typedef struct folder_id {
    dev_t dev;
    ino_t ino;
} folder_id;

typedef struct walk {
    const char *root;
    lgv_picture_list *list;
    folder_id *seen; /* folders visited: a link back to one ends there */
    size_t seen_count, seen_capacity;
} walk;

static uint64_t fnv(uint64_t h, const uint8_t *p, size_t n)
{
    for (size_t i = 0; i < n; i++) h = (h ^ p[i]) * UINT64_C(0x100000001b3);
    return h;
}

static ssize_t read_at(int fd, void *p, size_t n, off_t at)
{
    ssize_t got;
    do got = pread(fd, p, n, at);
    while (got < 0 && errno == EINTR);
    return got;
}

lgv_status lgv_file_digest(const char *path, int64_t *size, uint64_t *digest, uint8_t head[64],
                           size_t *head_bytes, lgv_error *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) return lgv_fail(err, LGV_ERR_IO, "cannot open '%s': %s", path, strerror(errno));
    struct stat st;
    uint8_t tail[64];
    ssize_t first = -1, last = -1;
    if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode)) {
        first = read_at(fd, head, 64, 0);
        last = read_at(fd, tail, 64, st.st_size > 64 ? st.st_size - 64 : 0);
    }
    int saved = errno;
    close(fd);
    if (first < 0 || last < 0)
        return lgv_fail(err, LGV_ERR_IO, "cannot read '%s': %s", path, strerror(saved));
    *size = st.st_size;
    *head_bytes = (size_t)first;
    *digest = fnv(fnv(UINT64_C(0xcbf29ce484222325), head, (size_t)first), tail, (size_t)last);
    return LGV_OK;
}

static char *join(const char *a, const char *b)
{
    return a[0] ? lgv_format("%s/%s", a, b) : lgv_strdup(b);
}

/* Adds the file when it is a picture. One that cannot be opened counts as "other": it may be a
   broken link or not ours to read, which must not end a long run. */
static lgv_status add_file(walk *w, char *relative, const char *full, lgv_error *err)
{
    lgv_picture_list *list = w->list;
    lgv_picture picture = {.path = relative, .label = -1};
    uint8_t head[64];
    size_t head_bytes = 0;
    if (lgv_file_digest(full, &picture.size, &picture.digest, head, &head_bytes, NULL) ||
        lgv_image_type_of(head, head_bytes) == LGV_IMAGE_UNKNOWN) {
        list->others++;
        if (list->other)
            lgv_free(relative);
        else
            list->other = relative;
        return LGV_OK;
    }
    lgv_status s = lgv_grow(&list->item, &list->capacity, list->count + 1, sizeof *list->item, err);
    if (s) {
        lgv_free(relative);
        return s;
    }
    list->item[list->count++] = picture;
    return LGV_OK;
}

/* Whether the folder was not visited before; notes it. */
static lgv_status visit(walk *w, const struct stat *st, bool *fresh, lgv_error *err)
{
    *fresh = false;
    for (size_t i = 0; i < w->seen_count; i++)
        if (w->seen[i].dev == st->st_dev && w->seen[i].ino == st->st_ino) return LGV_OK;
    LGV_TRY(lgv_grow(&w->seen, &w->seen_capacity, w->seen_count + 1, sizeof *w->seen, err));
    w->seen[w->seen_count++] = (folder_id){st->st_dev, st->st_ino};
    *fresh = true;
    return LGV_OK;
}

static lgv_status walk_folder(walk *w, const char *relative, const char *full, int depth,
                              lgv_error *err);

static lgv_status walk_entry(walk *w, const char *folder, const char *name, int depth,
                             lgv_error *err)
{
    char *relative = join(folder, name), *full = NULL;
    lgv_status s = LGV_OK;
    struct stat st;
    if (!relative || !(full = join(w->root, relative))) {
        s = lgv_fail(err, LGV_ERR_MEMORY, "out of memory while listing '%s'", w->root);
        goto done;
    }
    if (stat(full, &st)) goto done; /* a link to nowhere, or gone meanwhile */
    if (S_ISDIR(st.st_mode)) {
        bool fresh = false;
        s = visit(w, &st, &fresh, err);
        if (!s && fresh) s = walk_folder(w, relative, full, depth + 1, err);
    } else if (S_ISREG(st.st_mode)) {
        s = add_file(w, relative, full, err);
        relative = NULL; /* now the list's */
    }
done:
    lgv_free(relative);
    lgv_free(full);
    return s;
}

static lgv_status walk_folder(walk *w, const char *relative, const char *full, int depth,
                              lgv_error *err)
{
    if (depth > DEPTH)
        return lgv_fail(err, LGV_ERR_UNSUPPORTED, "folders are nested deeper than %d at '%s'",
                        DEPTH, full);
    lgv_names names = {0};
    LGV_TRY(lgv_list_dir(full, &names, err));
    lgv_status s = LGV_OK;
    for (size_t i = 0; i < names.count && !s; i++)
        if (names.name[i][0] != '.') s = walk_entry(w, relative, names.name[i], depth, err);
    lgv_names_free(&names);
    return s;
}

static int by_path(const void *a, const void *b)
{
    return strcmp(((const lgv_picture *)a)->path, ((const lgv_picture *)b)->path);
}

lgv_status lgv_pictures_list(const char *folder, lgv_picture_list *out, lgv_error *err)
{
    lgv_picture_list list = {0};
    walk w = {.root = folder, .list = &list};
    struct stat st;
    bool fresh;
    lgv_status s = LGV_OK;
    if (stat(folder, &st))
        s = lgv_fail(err, LGV_ERR_IO, "cannot open the data folder '%s': %s", folder,
                     strerror(errno));
    if (!s) s = visit(&w, &st, &fresh, err);
    if (!s) s = walk_folder(&w, "", folder, 0, err);
    lgv_free(w.seen);
    if (s) {
        lgv_pictures_free(&list);
        return s;
    }
    if (list.count) qsort(list.item, list.count, sizeof *list.item, by_path);
    *out = list;
    return LGV_OK;
}

void lgv_pictures_free(lgv_picture_list *list)
{
    for (size_t i = 0; i < list->count; i++) {
        lgv_free(list->item[i].path);
        lgv_free(list->item[i].pixels);
    }
    lgv_free(list->item);
    lgv_free(list->other);
    *list = (lgv_picture_list){0};
}
