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

#include "dataset.h"
#include "io/shard.h"

enum { DEPTH = 64 }; /* folders inside folders; deeper is refused */

typedef struct folder_id {
    dev_t dev;
    ino_t ino;
} folder_id;

typedef struct walk {
    const char *root;
    int source;
    lgv_picture_list *list;
    lgv_listing *out;
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

uint64_t lgv_bytes_digest(const uint8_t *data, size_t size)
{
    size_t ends = size < 64 ? size : 64;
    return fnv(fnv(UINT64_C(0xcbf29ce484222325), data, ends), data + (size - ends), ends);
}

lgv_status lgv_file_digest(const char *path, int64_t *size, uint64_t *digest, uint8_t head[64],
                           size_t *head_bytes, lgv_error *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    int saved = errno;
    if (fd < 0) {
        lgv_fail(err, LGV_ERR_IO, "cannot open '%s': %s", path, strerror(saved));
        errno = saved;
        return LGV_ERR_IO;
    }
    struct stat st;
    uint8_t tail[64];
    ssize_t first = -1, last = -1;
    if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode)) {
        first = read_at(fd, head, 64, 0);
        last = read_at(fd, tail, 64, st.st_size > 64 ? st.st_size - 64 : 0);
    }
    saved = errno;
    close(fd);
    if (first < 0 || last < 0) {
        lgv_fail(err, LGV_ERR_IO, "cannot read '%s': %s", path, strerror(saved));
        errno = saved;
        return LGV_ERR_IO;
    }
    *size = st.st_size;
    *head_bytes = (size_t)first;
    *digest = fnv(fnv(UINT64_C(0xcbf29ce484222325), head, (size_t)first), tail, (size_t)last);
    return LGV_OK;
}

static char *join(const char *a, const char *b)
{
    return a[0] ? lgv_format("%s/%s", a, b) : lgv_strdup(b);
}

lgv_status lgv_pictures_add(lgv_picture_list *list, lgv_picture p, lgv_error *err)
{
    lgv_status s = lgv_grow(&list->item, &list->capacity, list->count + 1, sizeof *list->item, err);
    if (s)
        lgv_free(p.path);
    else
        list->item[list->count++] = p;
    return s;
}

void lgv_pictures_other(lgv_picture_list *list, char *path)
{
    list->others++;
    if (list->other)
        lgv_free(path);
    else
        list->other = path;
}

static lgv_status add_name(lgv_names *names, size_t *capacity, char *name, lgv_error *err)
{
    lgv_status s = lgv_grow(&names->name, capacity, names->count + 1, sizeof *names->name, err);
    if (s)
        lgv_free(name);
    else
        names->name[names->count++] = name;
    return s;
}

/* Whether a file that cannot be opened is just not for us: a broken link, or not ours to read. */
static bool not_ours(int code)
{
    return code == ENOENT || code == EACCES || code == EPERM || code == ELOOP || code == ENXIO;
}

/* Adds the file, whose relative path it takes over. One that is not for us counts as "other"; a disk or a server
   that fails does not quietly make the data set smaller. */
static lgv_status add_file(walk *w, const char *name, char *relative, const char *full,
                           lgv_error *err)
{
    lgv_listing *l = w->out;
    if (!strcmp(name, "metadata.csv") || !strcmp(name, "metadata.jsonl"))
        return add_name(&l->metadata, &l->metadata_capacity, relative, err);
    if (lgv_shard_named(name)) return add_name(&l->archives, &l->archives_capacity, relative, err);
    lgv_picture picture = {.path = relative, .source = w->source, .part = -1, .label = -1};
    uint8_t head[64];
    size_t head_bytes = 0;
    lgv_status s = lgv_file_digest(full, &picture.size, &picture.digest, head, &head_bytes, err);
    if (s && !not_ours(errno)) {
        lgv_free(relative);
        return s;
    }
    if (!s) picture.type = (uint8_t)lgv_image_type_of(head, head_bytes);
    if (picture.type == LGV_IMAGE_UNKNOWN) {
        lgv_pictures_other(w->list, relative);
        return LGV_OK;
    }
    return lgv_pictures_add(w->list, picture, err);
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
        s = add_file(w, name, relative, full, err);
        relative = NULL; /* now the list's */
    }
done:
    lgv_free(relative);
    lgv_free(full);
    return s;
}

/* A run's folder inside the data: its sample grids and curves are no pictures to train on. */
static bool is_run(const lgv_names *names)
{
    for (size_t i = 0; i < names->count; i++)
        if (!strcmp(names->name[i], "langevin.json")) return true;
    return false;
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
    bool skip = depth && is_run(&names);
    for (size_t i = 0; i < names.count && !s && !skip; i++)
        if (names.name[i][0] != '.') s = walk_entry(w, relative, names.name[i], depth, err);
    lgv_names_free(&names);
    return s;
}

static int by_path(const void *a, const void *b)
{
    return strcmp(((const lgv_picture *)a)->path, ((const lgv_picture *)b)->path);
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static void sort_names(lgv_names *names)
{
    if (names->count) qsort(names->name, names->count, sizeof *names->name, by_name);
}

lgv_status lgv_listing_read(const char *folder, int source, lgv_picture_list *list,
                            lgv_listing *out, lgv_error *err)
{
    walk w = {.root = folder, .source = source, .list = list, .out = out};
    struct stat st;
    bool fresh;
    size_t first = list->count;
    lgv_status s = LGV_OK;
    if (stat(folder, &st))
        s = lgv_fail(err, LGV_ERR_IO, "cannot open the data folder '%s': %s", folder,
                     strerror(errno));
    if (!s) s = visit(&w, &st, &fresh, err);
    if (!s) s = walk_folder(&w, "", folder, 0, err);
    lgv_free(w.seen);
    if (s) return s;
    if (list->count > first)
        qsort(list->item + first, list->count - first, sizeof *list->item, by_path);
    sort_names(&out->archives);
    sort_names(&out->metadata);
    return LGV_OK;
}

void lgv_listing_free(lgv_listing *l)
{
    lgv_names_free(&l->archives);
    lgv_names_free(&l->metadata);
    *l = (lgv_listing){0};
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
