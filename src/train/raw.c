/* raw.c - data sets that are one array of pixels: IDX (MNIST family) and CIFAR's binary files.
   They are small enough to be held in memory as they are. Their test files are the validation pictures. */
#include <stdio.h>
#include <string.h>

#include "dataset.h"
#include "io/cifar.h"
#include "io/idx.h"

static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

static lgv_status hash_path(lgv_dataset *d, const char *path, lgv_error *err)
{
    int64_t size;
    uint64_t digest;
    uint8_t head[64];
    size_t head_bytes;
    LGV_TRY(lgv_file_digest(path, &size, &digest, head, &head_bytes, err));
    lgv_dataset_hash(d, base_name(path), size, digest);
    return LGV_OK;
}

/* The array's pictures into the list; label[n] may be NULL, names NULL: the numbers are the classes. */
static lgv_status add_pictures(lgv_dataset *d, int source, lgv_part part, int64_t n, bool held,
                               const uint8_t *label, char **names, int name_count, lgv_error *err)
{
    int32_t id[256];
    size_t bytes = (size_t)part.width * (size_t)part.height * (size_t)part.channels;
    memset(id, 255, sizeof id);
    LGV_TRY(lgv_dataset_add_part(d, part, err));
    for (int i = 0; names && i < name_count; i++)
        LGV_TRY(lgv_labels_id(&d->labels, names[i], strlen(names[i]), &id[i], err));
    for (int64_t i = 0; i < n; i++) {
        char text[8];
        if (label && id[label[i]] < 0) {
            if (names)
                return lgv_fail(err, LGV_ERR_FORMAT, "'%s': picture %lld has the label %d of %d",
                                part.path, (long long)i, label[i], name_count);
            snprintf(text, sizeof text, "%d", label[i]);
            LGV_TRY(lgv_labels_id(&d->labels, text, strlen(text), &id[label[i]], err));
        }
        lgv_picture p = {.at = i,
                         .size = (int64_t)bytes,
                         .source = source,
                         .part = (int32_t)d->parts - 1,
                         .label = label ? id[label[i]] : -1,
                         .kind = LGV_PICTURE_RAW,
                         .held = held,
                         .channels = (uint8_t)part.channels,
                         .bits = 8,
                         .full_width = part.width,
                         .full_height = part.height};
        LGV_TRY(lgv_pictures_add(&d->list, p, err));
    }
    return LGV_OK;
}

/* ---- IDX ---- */

lgv_status lgv_find_idx(const char *folder, const char *prefix, char **out, lgv_error *err)
{
    lgv_names names = {0};
    LGV_TRY(lgv_list_dir(folder, &names, err));
    char *found = NULL;
    lgv_status s = LGV_OK;
    for (size_t i = 0; i < names.count && !found && !s; i++) {
        if (strncmp(names.name[i], prefix, strlen(prefix))) continue;
        bool is = false;
        found = lgv_path_join(folder, names.name[i]);
        if (!found)
            s = lgv_fail(err, LGV_ERR_MEMORY, "out of memory for '%s'", folder);
        else if (lgv_is_file(found))
            s = lgv_idx_is(found, &is, err);
        if (is) continue;
        lgv_free(found);
        found = NULL;
    }
    lgv_names_free(&names);
    *out = found;
    return s;
}

/* The labels that belong to an images file: "train-images-idx3-ubyte" -> "train-labels-idx1-ubyte"; NULL when
   there are none. */
static lgv_status labels_beside(const char *images, char **out, lgv_error *err)
{
    char *path = lgv_strdup(images);
    if (!path) return lgv_fail(err, LGV_ERR_MEMORY, "out of memory for '%s'", images);
    const char *slash = strrchr(path, '/');
    char *word = strstr(slash ? slash : path, "images");
    if (word) {
        memcpy(word, "labels", 6);
        char *three = strstr(word, "idx3");
        if (three) three[3] = '1';
    }
    if (!word || !lgv_is_file(path)) {
        lgv_free(path);
        path = NULL;
    }
    *out = path;
    return LGV_OK;
}

static lgv_status read_labels(const char *images, int64_t n, lgv_idx *out, lgv_error *err)
{
    char *path = NULL;
    LGV_TRY(labels_beside(images, &path, err));
    if (!path) return LGV_OK;
    lgv_status s = lgv_idx_labels(path, out, err);
    if (!s && out->n != n) {
        s = lgv_fail(err, LGV_ERR_FORMAT, "'%s' has %lld labels for %lld pictures", path,
                     (long long)out->n, (long long)n);
        lgv_idx_free(out);
    }
    lgv_free(path);
    return s;
}

static lgv_status add_idx(lgv_dataset *d, int source, const char *path, bool held, lgv_error *err)
{
    lgv_idx images = {0}, labels = {0};
    LGV_TRY(lgv_idx_images(path, &images, err));
    lgv_part part = {.path = lgv_strdup(path),
                     .pixels = images.data,
                     .width = images.width,
                     .height = images.height,
                     .channels = 1,
                     .pad = true};
    lgv_status s = LGV_OK;
    if (!part.path) s = lgv_fail(err, LGV_ERR_MEMORY, "out of memory for '%s'", path);
    if (!s && images.n < 1) s = lgv_fail(err, LGV_ERR_FORMAT, "'%s' holds no pictures", path);
    if (!s) s = hash_path(d, path, err);
    if (!s) s = read_labels(path, images.n, &labels, err);
    if (s) {
        lgv_free(part.path);
        lgv_free(part.pixels);
    } else {
        s = add_pictures(d, source, part, images.n, held, labels.data, NULL, 0, err);
    }
    lgv_idx_free(&labels);
    return s;
}

lgv_status lgv_idx_source(lgv_dataset *d, int source, const char *images, const char *validation,
                          lgv_error *err)
{
    LGV_TRY(add_idx(d, source, images, false, err));
    if (!validation || d->options.validation == LGV_OFF) return LGV_OK;
    return add_idx(d, source, validation, true, err);
}

/* ---- CIFAR ---- */

enum { NAMES = 256, NAMES_BYTES = 1 << 16 };

static void free_names(char **names, int n)
{
    for (int i = 0; i < n; i++) lgv_free(names[i]);
}

/* The lines of batches.meta.txt or fine_label_names.txt -> names, *n of them (0: there is no such file). */
static lgv_status read_names(const char *folder, const char *file, char *names[NAMES], int *n,
                             lgv_error *err)
{
    char *path = lgv_path_join(folder, file), *text = NULL;
    size_t size = 0;
    *n = 0;
    if (!path) return lgv_fail(err, LGV_ERR_MEMORY, "out of memory for '%s'", folder);
    lgv_status s = lgv_is_file(path) ? lgv_file_read(path, NAMES_BYTES, &text, &size, err) : LGV_OK;
    lgv_free(path);
    for (char *line = text, *end; !s && line && *line && *n < NAMES; line = end) {
        size_t length = strcspn(line, "\r\n");
        end = line + length + strspn(line + length, "\r\n");
        if (length && !(names[(*n)++] = lgv_format("%.*s", (int)length, line)))
            s = lgv_fail(err, LGV_ERR_MEMORY, "out of memory for class names");
    }
    lgv_free(text);
    if (s) {
        free_names(names, *n);
        *n = 0;
    }
    return s;
}

/* The files of one half, put one behind another. */
static lgv_status add_cifar(lgv_dataset *d, int source, const char *folder, const lgv_names *files,
                            const char *prefix, bool held, char **names, int name_count,
                            lgv_error *err)
{
    lgv_cifar all = {0};
    lgv_status s = LGV_OK;
    for (size_t i = 0; i < files->count && !s; i++) {
        if (strncmp(files->name[i], prefix, strlen(prefix)) ||
            !lgv_cifar_label_bytes(files->name[i]))
            continue;
        char *path = lgv_path_join(folder, files->name[i]);
        s = path ? lgv_cifar_append_file(path, &all, err)
                 : lgv_fail(err, LGV_ERR_MEMORY, "out of memory for '%s'", folder);
        if (!s) s = hash_path(d, path, err);
        lgv_free(path);
    }
    if (!s && all.n) {
        lgv_part part = {.path = lgv_path_join(folder, prefix),
                         .pixels = all.pixels,
                         .width = LGV_CIFAR_SIDE,
                         .height = LGV_CIFAR_SIDE,
                         .channels = 3};
        all.pixels = NULL;
        s = part.path ? add_pictures(d, source, part, all.n, held, all.labels,
                                     name_count ? names : NULL, name_count, err)
                      : lgv_fail(err, LGV_ERR_MEMORY, "out of memory for '%s'", folder);
        if (!part.path) lgv_free(part.pixels);
    }
    lgv_cifar_free(&all);
    return s;
}

/* One .bin file by itself. */
static lgv_status add_cifar_file(lgv_dataset *d, int source, const char *path, lgv_error *err)
{
    const char *name = base_name(path);
    char *folder = lgv_format("%.*s.", (int)(name - path), path), *names[NAMES];
    int n = 0;
    if (!folder) return lgv_fail(err, LGV_ERR_MEMORY, "out of memory for '%s'", path);
    bool ten = lgv_cifar_label_bytes(path) == 1;
    lgv_status s =
        read_names(folder, ten ? "batches.meta.txt" : "fine_label_names.txt", names, &n, err);
    char *copy = lgv_strdup(name);
    lgv_names one = {&copy, 1};
    if (!s) s = add_cifar(d, source, folder, &one, "", false, names, n, err);
    lgv_free(copy);
    free_names(names, n);
    lgv_free(folder);
    return s;
}

lgv_status lgv_cifar_source(lgv_dataset *d, int source, const char *path, bool *found,
                            lgv_error *err)
{
    lgv_names files = {0};
    char *names[NAMES];
    int n = 0;
    *found = !lgv_is_dir(path) && lgv_cifar_label_bytes(path);
    if (*found) return add_cifar_file(d, source, path, err);
    if (!lgv_is_dir(path)) return LGV_OK;
    LGV_TRY(lgv_list_dir(path, &files, err));
    bool ten = false, hundred = false;
    for (size_t i = 0; i < files.count; i++) {
        ten = ten || !strcmp(files.name[i], "data_batch_1.bin");
        hundred = hundred || !strcmp(files.name[i], "train.bin");
    }
    *found = ten || hundred;
    lgv_status s = LGV_OK;
    if (*found)
        s = read_names(path, ten ? "batches.meta.txt" : "fine_label_names.txt", names, &n, err);
    if (*found && !s)
        s = add_cifar(d, source, path, &files, ten ? "data_batch" : "train.bin", false, names, n,
                      err);
    if (*found && !s && d->options.validation != LGV_OFF)
        s = add_cifar(d, source, path, &files, ten ? "test_batch" : "test.bin", true, names, n,
                      err);
    free_names(names, n);
    lgv_names_free(&files);
    return s;
}
