/* source.c - one --data path: which kind of data set lies there, and its pictures.
   A folder may hold pictures, tar shards, metadata.csv or metadata.jsonl, or the files of MNIST and CIFAR; a
   file may be a shard, an IDX file or one of CIFAR; "shards/{000..012}.tar" means thirteen shards. */
#include <stdlib.h>
#include <string.h>

#include "dataset.h"
#include "io/idx.h"
#include "io/metadata.h"
#include "io/shard.h"

enum { BRACE_FILES = 100000 };

/* ---- metadata files ---- */

typedef struct naming {
    lgv_dataset *d;
    const lgv_source *s;
    const char *folder; /* of the metadata file, with a slash, relative to the source */
    int64_t rows, missing;
    char first[256]; /* the first missing name */
} naming;

static lgv_picture *find_picture(const naming *n, const char *path)
{
    int64_t low = n->s->first, high = low + n->s->n;
    while (low < high) {
        int64_t mid = low + (high - low) / 2;
        lgv_picture *p = &n->d->list.item[mid];
        int order = strcmp(p->path, path);
        if (!order) return p;
        if (order < 0)
            low = mid + 1;
        else
            high = mid;
    }
    return NULL;
}

static lgv_status name_picture(void *user, const char *file_name, const char *label, lgv_error *err)
{
    naming *n = user;
    while (file_name[0] == '.' && file_name[1] == '/') file_name += 2;
    char *path = lgv_format("%s%s", n->folder, file_name);
    if (!path) return lgv_fail(err, LGV_ERR_MEMORY, "out of memory while reading labels");
    lgv_picture *p = find_picture(n, path);
    lgv_free(path);
    n->rows++;
    if (!p && !n->missing++) {
        size_t length = strlen(file_name), room = sizeof n->first - 1;
        memcpy(n->first, file_name, length < room ? length : room);
    }
    return p && label ? lgv_labels_id(&n->d->labels, label, strlen(label), &p->label, err) : LGV_OK;
}

static lgv_status read_metadata(lgv_dataset *d, lgv_source *s, const char *file, lgv_error *err)
{
    const char *slash = strrchr(file, '/');
    char *path = lgv_path_join(s->path, file), *text = NULL;
    char *folder = lgv_format("%.*s", slash ? (int)(slash - file) + 1 : 0, file);
    size_t size = 0, length = strlen(file);
    naming n = {.d = d, .s = s, .folder = folder};
    lgv_status status = path && folder
                            ? lgv_file_read(path, LGV_METADATA_BYTES, &text, &size, err)
                            : lgv_fail(err, LGV_ERR_MEMORY, "out of memory for '%s'", s->path);
    if (!status)
        status = (strcmp(file + length - 4, ".csv") ? lgv_metadata_jsonl : lgv_metadata_csv)(
            text, size, path, name_picture, &n, err);
    if (!status && n.rows && n.missing == n.rows)
        status = lgv_fail(err, LGV_ERR_FORMAT,
                          "'%s' names no picture that is there; its first file_name is '%s', which "
                          "should be relative to the file's folder",
                          path, n.first);
    if (!status && n.missing)
        status =
            lgv_dataset_add_note(d, err, "'%s': %lld of %lld pictures are not there, such as '%s'",
                                 path, (long long)n.missing, (long long)n.rows, n.first);
    lgv_free(text);
    lgv_free(path);
    lgv_free(folder);
    return status;
}

/* ---- a folder ---- */

static lgv_status add_archives(lgv_dataset *d, int source, const lgv_names *archives,
                               lgv_error *err)
{
    lgv_status s = LGV_OK;
    for (size_t i = 0; i < archives->count && !s; i++) {
        const char *name = archives->name[i], *slash = strrchr(name, '/');
        char *path = lgv_path_join(d->source[source].path, name);
        char *inside = lgv_format("%.*s", slash ? (int)(slash - name) + 1 : 0, name);
        s = path && inside ? lgv_archive_add(d, source, path, inside, err)
                           : lgv_fail(err, LGV_ERR_MEMORY, "out of memory for '%s'", name);
        lgv_free(path);
        lgv_free(inside);
    }
    return s;
}

static lgv_status open_folder(lgv_dataset *d, int i, lgv_error *err)
{
    lgv_source *s = &d->source[i];
    lgv_listing found = {0};
    lgv_status status = lgv_listing_read(s->path, i, &d->list, &found, err);
    for (size_t k = (size_t)s->first; k < d->list.count && !status; k++)
        lgv_dataset_hash(d, d->list.item[k].path, d->list.item[k].size, d->list.item[k].digest);
    s->n = (int64_t)d->list.count - s->first;
    for (size_t k = 0; k < found.metadata.count && !status; k++)
        status = read_metadata(d, s, found.metadata.name[k], err);
    for (int64_t k = s->first; k < s->first + s->n && !s->labelled; k++)
        s->labelled = d->list.item[k].label >= 0;
    if (!status) status = add_archives(d, i, &found.archives, err);
    lgv_listing_free(&found);
    return status;
}

/* ---- "{000..012}" ---- */

/* The parts of "a{000..012}b"; false when the path has no such braces. */
static bool find_braces(const char *path, size_t *before, int64_t *low, int64_t *high, int *width,
                        const char **after)
{
    const char *open = strchr(path, '{'), *dots = open ? strstr(open, "..") : NULL,
               *close = dots ? strchr(dots, '}') : NULL;
    if (!close || dots - open < 2 || dots - open > 10 || close - dots < 3 || close - dots > 11)
        return false;
    char *end;
    *low = strtoll(open + 1, &end, 10);
    if (end != dots || open[1] < '0' || open[1] > '9') return false;
    *high = strtoll(dots + 2, &end, 10);
    if (end != close || dots[2] < '0' || dots[2] > '9') return false;
    *before = (size_t)(open - path);
    *width = (int)(dots - open) - 1;
    *after = close + 1;
    return true;
}

static lgv_status open_braces(lgv_dataset *d, int i, bool *found, lgv_error *err)
{
    const char *path = d->source[i].path, *after;
    size_t before;
    int64_t low, high;
    int width;
    *found = find_braces(path, &before, &low, &high, &width, &after);
    if (!*found) return LGV_OK;
    if (high < low || high - low >= BRACE_FILES)
        return lgv_fail(err, LGV_ERR_ARGUMENT, "'%s' names no file, or more than %d", path,
                        BRACE_FILES);
    for (int64_t k = low; k <= high; k++) {
        char *file = lgv_format("%.*s%0*lld%s", (int)before, path, width, (long long)k, after);
        if (!file) return lgv_fail(err, LGV_ERR_MEMORY, "out of memory for '%s'", path);
        lgv_status s = lgv_archive_add(d, i, file, "", err);
        lgv_free(file);
        if (s) return s;
    }
    return LGV_OK;
}

/* ---- the whole ---- */

static lgv_status open_idx(lgv_dataset *d, int i, bool *found, lgv_error *err)
{
    const char *path = d->source[i].path;
    char *images = NULL, *validation = NULL;
    bool is = false;
    lgv_status s = LGV_OK;
    if (lgv_is_dir(path)) {
        s = lgv_find_idx(path, "train-images", &images, err);
        if (!s && images) s = lgv_find_idx(path, "t10k-images", &validation, err);
    } else {
        s = lgv_idx_is(path, &is, err);
        if (is && !(images = lgv_strdup(path)))
            s = lgv_fail(err, LGV_ERR_MEMORY, "out of memory for '%s'", path);
    }
    *found = images != NULL;
    if (!s && images) s = lgv_idx_source(d, i, images, validation, err);
    lgv_free(images);
    lgv_free(validation);
    return s;
}

static lgv_status open_contents(lgv_dataset *d, int i, lgv_error *err)
{
    const char *path = d->source[i].path;
    bool found = false;
    if (!lgv_exists(path)) {
        LGV_TRY(open_braces(d, i, &found, err));
        return found ? LGV_OK
                     : lgv_fail(err, LGV_ERR_IO, "there is no data folder or file '%s'", path);
    }
    LGV_TRY(open_idx(d, i, &found, err));
    if (!found) LGV_TRY(lgv_cifar_source(d, i, path, &found, err));
    if (found) return LGV_OK;
    if (lgv_is_dir(path)) return open_folder(d, i, err);
    if (lgv_shard_named(path)) return lgv_archive_add(d, i, path, "", err);
    return lgv_fail(err, LGV_ERR_FORMAT,
                    "'%s' is neither a folder of pictures nor a tar, IDX or CIFAR file", path);
}

static lgv_status nothing(const lgv_dataset *d, const lgv_source *s, size_t others, lgv_error *err)
{
    if (!others && lgv_is_dir(s->path))
        return lgv_fail(err, LGV_ERR_FORMAT, "'%s' holds no pictures: it is empty", s->path);
    if (!others) return lgv_fail(err, LGV_ERR_FORMAT, "'%s' holds no pictures", s->path);
    bool bin = strstr(d->list.other, ".bin") != NULL;
    return lgv_fail(err, LGV_ERR_FORMAT,
                    "'%s' holds no pictures, only %zu other files such as '%s'%s", s->path, others,
                    d->list.other, bin ? " (an archive of CIFAR must be unpacked first)" : "");
}

lgv_status lgv_source_open(lgv_dataset *d, int i, lgv_error *err)
{
    lgv_source *s = &d->source[i];
    size_t others = d->list.others;
    s->first = (int64_t)d->list.count;
    LGV_TRY(open_contents(d, i, err));
    s->n = (int64_t)d->list.count - s->first;
    if (!s->n) return nothing(d, s, d->list.others - others, err);
    bool raw = d->list.item[s->first].kind == LGV_PICTURE_RAW;
    return raw || s->labelled ? LGV_OK : lgv_labels_from_folders(d, s, err);
}
