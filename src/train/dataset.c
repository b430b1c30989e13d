/* dataset.c - opening a data set: what lies there, and what is decided from it (resolution,
   channels, classes, the pictures held back). Decoding is in pictures.c, the order and the threads
   in loader.c. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/file.h"
#include "dataset.h"
#include "langevin/image.h"
#include "langevin/rng.h"

enum { PROBES = 256, DEFAULT_VALIDATION = 500, FEW = 1000, SMALL_SIDE = 48 };

static lgv_status check_options(const lgv_dataset_options *o, lgv_error *err)
{
    if (o->resolution < 0 || o->resolution > 4096)
        return lgv_fail(err, LGV_ERR_ARGUMENT, "the resolution must be 1 to 4096, is %d",
                        o->resolution);
    if (o->channels != 0 && o->channels != 1 && o->channels != 3)
        return lgv_fail(err, LGV_ERR_ARGUMENT, "pictures have 1 or 3 channels, asked for %d",
                        o->channels);
    if (o->validation < LGV_OFF)
        return lgv_fail(err, LGV_ERR_ARGUMENT, "the number of validation pictures cannot be %lld",
                        (long long)o->validation);
    return LGV_OK;
}

/* ---- IDX ---- */

/* The file of folder whose name begins with prefix and that is IDX; NULL when there is none. */
static char *find_idx(const char *folder, const char *prefix)
{
    lgv_names names = {0};
    if (lgv_list_dir(folder, &names, NULL)) return NULL;
    char *found = NULL;
    for (size_t i = 0; i < names.count && !found; i++) {
        if (strncmp(names.name[i], prefix, strlen(prefix))) continue;
        found = lgv_path_join(folder, names.name[i]);
        if (found && !lgv_idx_is(found)) {
            lgv_free(found);
            found = NULL;
        }
    }
    lgv_names_free(&names);
    return found;
}

/* The labels that belong to an images file: "train-images-idx3-ubyte" -> "train-labels-idx1-ubyte".
 */
static char *labels_beside(const char *images)
{
    char *path = lgv_strdup(images);
    const char *slash = path ? strrchr(path, '/') : NULL;
    char *word = path ? strstr(slash ? slash : path, "images") : NULL;
    if (word) {
        memcpy(word, "labels", 6);
        char *three = strstr(word, "idx3");
        if (three) three[3] = '1';
    }
    if (path && (!word || !lgv_is_file(path))) {
        lgv_free(path);
        path = NULL;
    }
    return path;
}

static lgv_status number_classes(lgv_dataset *d, int classes, lgv_error *err)
{
    d->class_name = lgv_zalloc((size_t)classes, sizeof *d->class_name);
    if (!d->class_name)
        return lgv_fail(err, LGV_ERR_MEMORY, "out of memory for %d class names", classes);
    d->classes = classes;
    for (int i = 0; i < classes; i++)
        if (!(d->class_name[i] = lgv_format("%d", i)))
            return lgv_fail(err, LGV_ERR_MEMORY, "out of memory for %d class names", classes);
    return LGV_OK;
}

static lgv_status idx_classes(lgv_dataset *d, const char *images, lgv_error *err)
{
    char *path = labels_beside(images);
    if (!path) return LGV_OK;
    lgv_idx labels = {0};
    lgv_status s = lgv_idx_labels(path, &labels, err);
    if (!s && labels.n != d->idx.n)
        s = lgv_fail(err, LGV_ERR_FORMAT, "'%s' has %lld labels for %lld pictures", path,
                     (long long)labels.n, (long long)d->idx.n);
    int most = -1;
    for (int64_t i = 0; !s && i < labels.n; i++)
        if (labels.data[i] > most) most = labels.data[i];
    if (!s && most >= 0) s = number_classes(d, most + 1, err);
    lgv_idx_free(&labels);
    lgv_free(path);
    return s;
}

static void hash_file(lgv_sha256 *sha, const char *name, int64_t size, uint64_t digest)
{
    char line[64];
    snprintf(line, sizeof line, "%lld %016llx ", (long long)size, (unsigned long long)digest);
    lgv_sha256_update(sha, line, strlen(line));
    lgv_sha256_update(sha, name, strlen(name) + 1);
}

static lgv_status hash_idx(lgv_sha256 *sha, const char *path, lgv_error *err)
{
    int64_t size;
    uint64_t digest;
    uint8_t head[64];
    size_t head_bytes;
    LGV_TRY(lgv_file_digest(path, &size, &digest, head, &head_bytes, err));
    const char *slash = strrchr(path, '/');
    hash_file(sha, slash ? slash + 1 : path, size, digest);
    return LGV_OK;
}

static lgv_status open_idx(lgv_dataset *d, const char *images, const char *validation,
                           lgv_error *err)
{
    lgv_sha256 sha;
    lgv_sha256_init(&sha);
    d->is_idx = 1;
    LGV_TRY(lgv_idx_images(images, &d->idx, err));
    LGV_TRY(hash_idx(&sha, images, err));
    if (d->idx.n < 1) return lgv_fail(err, LGV_ERR_FORMAT, "'%s' holds no pictures", images);
    LGV_TRY(idx_classes(d, images, err));
    if (validation && d->options.validation != LGV_OFF) {
        LGV_TRY(lgv_idx_images(validation, &d->idx_validation, err));
        LGV_TRY(hash_idx(&sha, validation, err));
    }
    lgv_sha256_hex(&sha, d->fingerprint);
    int side = d->idx.width < d->idx.height ? d->idx.width : d->idx.height;
    int sampled = d->idx.n < PROBES ? (int)d->idx.n : PROBES;
    d->probe = (lgv_dataset_probe){sampled, sampled, side, side, side};
    return LGV_OK;
}

/* ---- a folder ---- */

/* Classes are the first folders of the paths, when every picture lies in one. The list is sorted by
   path bytes, so equal folders stand together. */
static lgv_status folder_classes(lgv_dataset *d, lgv_error *err)
{
    lgv_picture_list *list = &d->list;
    size_t capacity = 0;
    for (size_t i = 0; i < list->count; i++)
        if (!strchr(list->item[i].path, '/')) return LGV_OK;
    for (size_t i = 0; i < list->count; i++) {
        const char *path = list->item[i].path;
        size_t n = (size_t)(strchr(path, '/') - path);
        const char *last = d->classes ? d->class_name[d->classes - 1] : NULL;
        if (!last || strlen(last) != n || memcmp(last, path, n)) {
            LGV_TRY(lgv_grow(&d->class_name, &capacity, (size_t)d->classes + 1,
                             sizeof *d->class_name, err));
            char *name = lgv_format("%.*s", (int)n, path);
            if (!name) return lgv_fail(err, LGV_ERR_MEMORY, "out of memory for class names");
            d->class_name[d->classes++] = name;
        }
        list->item[i].label = d->classes - 1;
    }
    return LGV_OK;
}

static int by_value(const void *a, const void *b)
{
    return *(const int *)a - *(const int *)b;
}

/* Looks at the headers of up to 256 pictures, spread over the list. */
static lgv_status probe_folder(lgv_dataset *d, lgv_error *err)
{
    int side[PROBES], n = 0, grey = 0;
    int64_t count = (int64_t)d->list.count, probes = count < PROBES ? count : PROBES;
    lgv_error first = {0};
    for (int64_t k = 0; k < probes; k++) {
        char *path = lgv_path_join(d->path, d->list.item[k * count / probes].path);
        if (!path)
            return lgv_fail(err, LGV_ERR_MEMORY, "out of memory while reading '%s'", d->path);
        lgv_image_info info;
        lgv_error e;
        lgv_status s = lgv_image_probe(path, &info, &e);
        lgv_free(path);
        if (s == LGV_ERR_MEMORY) return lgv_fail(err, s, "%s", e.text);
        if (s && !first.status) first = e;
        if (s) continue;
        side[n++] = info.width < info.height ? info.width : info.height;
        grey += info.channels <= 2;
    }
    if (!n)
        return lgv_fail(err, LGV_ERR_FORMAT, "no picture in '%s' can be read; the first: %s",
                        d->path, first.text);
    qsort(side, (size_t)n, sizeof *side, by_value);
    d->probe = (lgv_dataset_probe){n, grey, side[n / 2], side[0], side[n - 1]};
    return LGV_OK;
}

static lgv_status open_folder(lgv_dataset *d, lgv_error *err)
{
    LGV_TRY(lgv_pictures_list(d->path, &d->list, err));
    if (!d->list.count && d->list.others)
        return lgv_fail(
            err, LGV_ERR_FORMAT,
            "'%s' holds no pictures, only %zu other files such as '%s'", d->path,
            d->list.others, d->list.other);
    if (!d->list.count)
        return lgv_fail(err, LGV_ERR_FORMAT, "'%s' holds no pictures: it is empty", d->path);
    lgv_sha256 sha;
    lgv_sha256_init(&sha);
    for (size_t i = 0; i < d->list.count; i++)
        hash_file(&sha, d->list.item[i].path, d->list.item[i].size, d->list.item[i].digest);
    lgv_sha256_hex(&sha, d->fingerprint);
    LGV_TRY(folder_classes(d, err));
    return probe_folder(d, err);
}

/* ---- the pictures held back ---- */

static int64_t default_validation(int64_t n)
{
    if (n < FEW) return 0;
    return n / 20 < DEFAULT_VALIDATION ? n / 20 : DEFAULT_VALIDATION;
}

static int by_number(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

/* The choice is a function of the number of pictures only, so every run holds back the same ones.
 */
static lgv_status split(lgv_dataset *d, lgv_error *err)
{
    int64_t n = d->is_idx ? d->idx.n : (int64_t)d->list.count;
    int64_t held = d->options.validation;
    if (d->idx_validation.n) {
        d->train_count = n;
        d->validation_count = held > 0 && held < d->idx_validation.n ? held : d->idx_validation.n;
        return LGV_OK;
    }
    if (held == 0) held = default_validation(n);
    if (held == LGV_OFF) held = 0;
    if (held >= n)
        return lgv_fail(err, LGV_ERR_ARGUMENT,
                        "%lld validation pictures leave none of %lld to train on", (long long)held,
                        (long long)n);
    d->train_count = n - held;
    d->validation_count = held;
    if (!held) return LGV_OK;
    d->validation = lgv_alloc((size_t)n, sizeof(int64_t));
    d->train = lgv_alloc((size_t)(n - held), sizeof(int64_t));
    if (!d->train || !d->validation)
        return lgv_fail(err, LGV_ERR_MEMORY, "out of memory for %lld pictures", (long long)n);
    lgv_epoch_order(UINT64_C(0x76616c6964617465), 0, n, d->validation);
    qsort(d->validation, (size_t)held, sizeof(int64_t), by_number);
    for (int64_t i = 0, v = 0, k = 0; i < n; i++) {
        if (v < held && d->validation[v] == i)
            v++;
        else
            d->train[k++] = i;
    }
    return LGV_OK;
}

/* ---- opening ---- */

static lgv_status open_contents(lgv_dataset *d, lgv_error *err)
{
    if (!lgv_exists(d->path))
        return lgv_fail(err, LGV_ERR_IO, "there is no data folder or file '%s'", d->path);
    char *images = NULL, *validation = NULL;
    if (lgv_is_dir(d->path)) {
        images = find_idx(d->path, "train-images");
        validation = images ? find_idx(d->path, "t10k-images") : NULL;
    } else if (lgv_idx_is(d->path)) {
        images = lgv_strdup(d->path);
    } else {
        return lgv_fail(err, LGV_ERR_FORMAT, "'%s' is neither a folder of pictures nor an IDX file",
                        d->path);
    }
    lgv_status s = images ? open_idx(d, images, validation, err) : open_folder(d, err);
    lgv_free(images);
    lgv_free(validation);
    return s;
}

static void decide(lgv_dataset *d)
{
    lgv_dataset_options *o = &d->options;
    if (!o->resolution) o->resolution = d->probe.median_short_side <= SMALL_SIDE ? 32 : 64;
    if (!o->channels) o->channels = d->probe.grey == d->probe.sampled ? 1 : 3;
    if (!o->background_set) memset(o->background, 255, 3);
    o->background_set = 1;
    if (!o->memory_limit) o->memory_limit = (size_t)1 << 30;
}

lgv_status lgv_dataset_open(const char *path, const lgv_dataset_options *options, lgv_dataset **out,
                            lgv_error *err)
{
    if (!path || !out)
        return lgv_fail(err, LGV_ERR_ARGUMENT,
                        "lgv_dataset_open needs a path and a place for the result");
    if (options) LGV_TRY(check_options(options, err));
    lgv_dataset *d = lgv_zalloc(1, sizeof *d);
    if (!d) return lgv_fail(err, LGV_ERR_MEMORY, "out of memory for a data set");
    d->spill = -1;
    if (options) d->options = *options;
    lgv_status s = LGV_OK;
    d->lock_ready = !pthread_mutex_init(&d->lock, NULL);
    d->path = lgv_strdup(path);
    if (!d->path || !d->lock_ready)
        s = lgv_fail(err, LGV_ERR_MEMORY, "out of memory for a data set");
    for (size_t n = s ? 0 : strlen(d->path); n > 1 && d->path[n - 1] == '/'; n--)
        d->path[n - 1] = 0;
    if (!s) s = open_contents(d, err);
    if (!s) {
        decide(d);
        s = split(d, err);
    }
    if (s) {
        lgv_dataset_free(d);
        return s;
    }
    d->options.validation = d->validation_count ? d->validation_count : LGV_OFF;
    *out = d;
    return LGV_OK;
}

void lgv_dataset_free(lgv_dataset *d)
{
    if (!d) return;
    if (d->spill >= 0) close(d->spill);
    for (size_t i = 0; i < d->skipped_count; i++) lgv_free(d->skipped[i]);
    lgv_free(d->skipped);
    for (int i = 0; i < d->classes; i++) lgv_free(d->class_name[i]);
    lgv_free(d->class_name);
    lgv_pictures_free(&d->list);
    lgv_idx_free(&d->idx);
    lgv_idx_free(&d->idx_validation);
    lgv_free(d->train);
    lgv_free(d->validation);
    if (d->lock_ready) pthread_mutex_destroy(&d->lock);
    lgv_free(d->path);
    lgv_free(d);
}

const char *lgv_dataset_path(const lgv_dataset *d)
{
    return d->path;
}
int lgv_dataset_resolution(const lgv_dataset *d)
{
    return d->options.resolution;
}
int lgv_dataset_channels(const lgv_dataset *d)
{
    return d->options.channels;
}
void lgv_dataset_settings(const lgv_dataset *d, lgv_dataset_options *out)
{
    *out = d->options;
}
int64_t lgv_dataset_count(const lgv_dataset *d)
{
    return d->train_count;
}
int64_t lgv_dataset_validation_count(const lgv_dataset *d)
{
    return d->validation_count;
}
int lgv_dataset_is_idx(const lgv_dataset *d)
{
    return d->is_idx;
}
int lgv_dataset_classes(const lgv_dataset *d)
{
    return d->classes;
}
const char *lgv_dataset_class_name(const lgv_dataset *d, int i)
{
    return i >= 0 && i < d->classes ? d->class_name[i] : NULL;
}
void lgv_dataset_probed(const lgv_dataset *d, lgv_dataset_probe *out)
{
    *out = d->probe;
}
const char *lgv_dataset_fingerprint(const lgv_dataset *d)
{
    return d->fingerprint;
}

/* Fisher-Yates with a Philox number per place: a function of (seed, epoch). */
void lgv_epoch_order(uint64_t seed, int64_t epoch, int64_t n, int64_t *order)
{
    lgv_rng_key key = {
        .seed = seed, .stream = lgv_rng_stream("data.order"), .step = (uint64_t)epoch};
    for (int64_t i = 0; i < n; i++) order[i] = i;
    for (int64_t i = 0; i < n - 1; i++) {
        int64_t k = i + (int64_t)lgv_rng_below(&key, (uint64_t)i, (uint64_t)(n - i));
        int64_t held = order[i];
        order[i] = order[k];
        order[k] = held;
    }
}
