/* dataset.c - opening a data set, and what is decided from what lies there: resolution, channels, the
   pictures held back, the fingerprint. dataset.h says where the rest is. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "dataset.h"

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

lgv_status lgv_dataset_add_note(lgv_dataset *d, lgv_error *err, const char *fmt, ...)
{
    char text[LGV_ERROR_TEXT];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    LGV_TRY(lgv_grow(&d->note, &d->note_capacity, d->notes + 1, sizeof *d->note, err));
    if (!(d->note[d->notes] = lgv_strdup(text)))
        return lgv_fail(err, LGV_ERR_MEMORY, "out of memory for a note");
    d->notes++;
    return LGV_OK;
}

void lgv_dataset_hash(lgv_dataset *d, const char *name, int64_t size, uint64_t digest)
{
    char line[64];
    snprintf(line, sizeof line, "%lld %016llx ", (long long)size, (unsigned long long)digest);
    lgv_sha256_update(&d->sha, line, strlen(line));
    lgv_sha256_update(&d->sha, name, strlen(name) + 1);
}

static void part_free(lgv_part *part)
{
    lgv_free(part->path);
    lgv_free(part->pixels);
}

lgv_status lgv_dataset_add_part(lgv_dataset *d, lgv_part part, lgv_error *err)
{
    lgv_status s = lgv_grow(&d->part, &d->part_capacity, d->parts + 1, sizeof *d->part, err);
    if (s)
        part_free(&part);
    else
        d->part[d->parts++] = part;
    return s;
}

/* ---- what the headers say ---- */

static int by_value(const void *a, const void *b)
{
    return *(const int *)a - *(const int *)b;
}

/* Looks at the headers of up to 256 pictures, spread over the list. */
static lgv_status probe(lgv_dataset *d, lgv_error *err)
{
    int side[PROBES], n = 0, grey = 0;
    int64_t count = (int64_t)d->list.count, probes = count < PROBES ? count : PROBES;
    lgv_error first = {0};
    for (int64_t k = 0; k < probes; k++) {
        lgv_image_info info;
        lgv_error e;
        lgv_status s = lgv_picture_probe(d, &d->list.item[k * count / probes], &info, &e);
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

/* ---- the pictures held back ---- */

/* A picture's place in the choice is a hash of its name, so adding pictures never moves one from training to
   validation. */
typedef struct candidate {
    uint64_t hash;
    int64_t number;
} candidate;

static uint64_t name_hash(const lgv_picture *p)
{
    char number[24];
    const char *name = p->path;
    if (!name) {
        snprintf(number, sizeof number, "%lld", (long long)p->at);
        name = number;
    }
    uint64_t h = UINT64_C(0xcbf29ce484222325);
    for (; *name; name++) h = (h ^ (uint8_t)*name) * UINT64_C(0x100000001b3);
    h = (h ^ h >> 33) * UINT64_C(0xff51afd7ed558ccd); /* MurmurHash3's last mixing step */
    h = (h ^ h >> 33) * UINT64_C(0xc4ceb9fe1a85ec53);
    return h ^ h >> 33;
}

static int by_hash(const void *a, const void *b)
{
    const candidate *x = a, *y = b;
    if (x->hash != y->hash) return x->hash < y->hash ? -1 : 1;
    return (x->number > y->number) - (x->number < y->number);
}

/* How many of the n sorted candidates are held back. By default those whose hash lies in the lowest twentieth,
   but at most 500. */
static int64_t how_many(int64_t asked, const candidate *c, int64_t n)
{
    if (asked == LGV_OFF || (asked == 0 && n < FEW)) return 0;
    if (asked) return asked;
    int64_t held = 0;
    while (held < n && held < DEFAULT_VALIDATION && c[held].hash < UINT64_MAX / 20) held++;
    return held;
}

/* Marks the pictures held back by hash. */
static lgv_status choose(lgv_dataset *d, lgv_error *err)
{
    int64_t n = (int64_t)d->list.count;
    candidate *c = lgv_alloc((size_t)n, sizeof *c);
    if (!c) return lgv_fail(err, LGV_ERR_MEMORY, "out of memory for %lld pictures", (long long)n);
    for (int64_t i = 0; i < n; i++) c[i] = (candidate){name_hash(&d->list.item[i]), i};
    qsort(c, (size_t)n, sizeof *c, by_hash);
    int64_t held = how_many(d->options.validation, c, n);
    lgv_status s = LGV_OK;
    if (held >= n)
        s = lgv_fail(err, LGV_ERR_ARGUMENT,
                     "%lld validation pictures leave none of %lld to train on", (long long)held,
                     (long long)n);
    for (int64_t i = 0; !s && i < held; i++) d->list.item[c[i].number].held = 1;
    lgv_free(c);
    return s;
}

static lgv_status split(lgv_dataset *d, lgv_error *err)
{
    int64_t n = (int64_t)d->list.count, held = 0, most = d->options.validation;
    for (int64_t i = 0; i < n; i++) held += d->list.item[i].held;
    if (!held) {
        LGV_TRY(choose(d, err));
        most = 0;
    }
    d->train = lgv_alloc((size_t)n, sizeof *d->train);
    d->validation = lgv_alloc((size_t)n, sizeof *d->validation);
    if (!d->train || !d->validation)
        return lgv_fail(err, LGV_ERR_MEMORY, "out of memory for %lld pictures", (long long)n);
    for (int k = 0; k < d->sources; k++) {
        lgv_source *s = &d->source[k];
        s->train_first = d->train_count;
        for (int64_t i = s->first; i < s->first + s->n; i++) {
            if (!d->list.item[i].held)
                d->train[d->train_count++] = i;
            else if (most <= 0 || d->validation_count < most)
                d->validation[d->validation_count++] = i;
        }
        s->train_n = d->train_count - s->train_first;
    }
    if (!d->train_count)
        return lgv_fail(err, LGV_ERR_FORMAT, "'%s' holds only validation pictures", d->path);
    return LGV_OK;
}

/* ---- opening ---- */

static void decide(lgv_dataset *d)
{
    lgv_dataset_options *o = &d->options;
    if (!o->resolution) o->resolution = d->probe.median_short_side <= SMALL_SIDE ? 32 : 64;
    if (!o->channels) o->channels = d->probe.grey == d->probe.sampled ? 1 : 3;
    if (!o->background_set) memset(o->background, 255, 3);
    o->background_set = 1;
    if (!o->memory_limit) o->memory_limit = (size_t)1 << 30;
}

/* "a, b" for messages. */
static lgv_status name_all(lgv_dataset *d, lgv_error *err)
{
    for (int i = 0; i < d->sources; i++) {
        char *longer =
            i ? lgv_format("%s, %s", d->path, d->source[i].path) : lgv_strdup(d->source[i].path);
        lgv_free(d->path);
        if (!(d->path = longer))
            return lgv_fail(err, LGV_ERR_MEMORY, "out of memory for a data set");
    }
    return LGV_OK;
}

static lgv_status copy_sources(lgv_dataset *d, const lgv_data_source *sources, int n,
                               lgv_error *err)
{
    d->source = lgv_zalloc((size_t)n, sizeof *d->source);
    d->public_source = lgv_zalloc((size_t)n, sizeof *d->public_source);
    if (!d->source || !d->public_source)
        return lgv_fail(err, LGV_ERR_MEMORY, "out of memory for a data set");
    for (int i = 0; i < n; i++) {
        lgv_source *s = &d->source[d->sources++];
        s->weight = sources[i].weight == 0 ? 1 : sources[i].weight;
        if (!(s->weight >= 0.001 && s->weight <= 1000))
            return lgv_fail(err, LGV_ERR_ARGUMENT,
                            "the weight of '%s' must be between 0.001 and 1000, is %g",
                            sources[i].path, sources[i].weight);
        if (!(s->path = lgv_strdup(sources[i].path)))
            return lgv_fail(err, LGV_ERR_MEMORY, "out of memory for a data set");
        for (size_t k = strlen(s->path); k > 1 && s->path[k - 1] == '/'; k--) s->path[k - 1] = 0;
        d->public_source[i] = (lgv_data_source){s->path, s->weight};
    }
    if (d->options.cache_dir) {
        d->options.cache_dir = d->cache_dir = lgv_strdup(d->options.cache_dir);
        if (!d->cache_dir) return lgv_fail(err, LGV_ERR_MEMORY, "out of memory for a data set");
    }
    return name_all(d, err);
}

/* What else decides which number means which picture and which class. */
static void hash_labels(lgv_dataset *d)
{
    char line[64];
    for (int k = 0; k < d->sources; k++) {
        const lgv_source *s = &d->source[k];
        if (d->sources > 1 || s->weight != 1) {
            snprintf(line, sizeof line, "source %lld %.17g", (long long)s->n, s->weight);
            lgv_sha256_update(&d->sha, line, strlen(line));
        }
        for (int64_t i = s->first; s->labelled && i < s->first + s->n; i++) {
            int32_t label = d->list.item[i].label;
            const char *name = label < 0 ? "" : d->class_name[label];
            lgv_sha256_update(&d->sha, name, strlen(name) + 1);
        }
    }
}

static lgv_status open_all(lgv_dataset *d, lgv_error *err)
{
    lgv_sha256_init(&d->sha);
    for (int i = 0; i < d->sources; i++) LGV_TRY(lgv_source_open(d, i, err));
    LGV_TRY(lgv_labels_finish(d, err));
    hash_labels(d);
    lgv_sha256_hex(&d->sha, d->fingerprint);
    LGV_TRY(probe(d, err));
    decide(d);
    LGV_TRY(split(d, err));
    d->epoch_count = lgv_dataset_epoch(d);
    for (size_t i = 0; i < d->list.count; i++) {
        bool raw = d->list.item[i].kind == LGV_PICTURE_RAW;
        d->raw_bytes += raw ? (size_t)d->list.item[i].size : 0;
        d->to_decode += !raw;
    }
    LGV_TRY(lgv_cache_open(d, err));
    d->options.validation = d->validation_count ? d->validation_count : LGV_OFF;
    return LGV_OK;
}

lgv_status lgv_dataset_open_sources(const lgv_data_source *sources, int n,
                                    const lgv_dataset_options *options, lgv_dataset **out,
                                    lgv_error *err)
{
    enum { SOURCES = 1000 };
    if (!sources || !out || n < 1 || n > SOURCES)
        return lgv_fail(err, LGV_ERR_ARGUMENT, "a data set has 1 to %d sources, not %d", SOURCES,
                        n);
    for (int i = 0; i < n; i++)
        if (!sources[i].path)
            return lgv_fail(err, LGV_ERR_ARGUMENT, "data source %d has no path", i);
    if (options) LGV_TRY(check_options(options, err));
    lgv_dataset *d = lgv_zalloc(1, sizeof *d);
    if (!d) return lgv_fail(err, LGV_ERR_MEMORY, "out of memory for a data set");
    d->spill = d->store = -1;
    if (options) d->options = *options;
    if (!pthread_mutex_init(&d->lock, NULL)) d->lock_ready = 1;
    if (d->lock_ready && !pthread_cond_init(&d->filled, NULL)) d->lock_ready = 2;
    lgv_status s = d->lock_ready == 2
                       ? copy_sources(d, sources, n, err)
                       : lgv_fail(err, LGV_ERR_MEMORY, "out of memory for a data set");
    if (!s) s = open_all(d, err);
    if (s) {
        lgv_dataset_free(d);
        return s;
    }
    lgv_labels_free(&d->labels);
    *out = d;
    return LGV_OK;
}

lgv_status lgv_dataset_open(const char *path, const lgv_dataset_options *options, lgv_dataset **out,
                            lgv_error *err)
{
    if (!path || !out)
        return lgv_fail(err, LGV_ERR_ARGUMENT,
                        "lgv_dataset_open needs a path and a place for the result");
    return lgv_dataset_open_sources(&(lgv_data_source){.path = path}, 1, options, out, err);
}

static void free_texts(char **text, size_t n)
{
    for (size_t i = 0; i < n; i++) lgv_free(text[i]);
    lgv_free(text);
}

void lgv_dataset_free(lgv_dataset *d)
{
    if (!d) return;
    if (d->spill >= 0) close(d->spill);
    if (d->store >= 0) close(d->store);
    lgv_free(d->stored);
    lgv_free(d->cache_dir);
    free_texts(d->skipped, d->skipped_count);
    free_texts(d->note, d->notes);
    free_texts(d->class_name, (size_t)d->classes);
    lgv_labels_free(&d->labels);
    lgv_pictures_free(&d->list);
    for (size_t i = 0; i < d->parts; i++) part_free(&d->part[i]);
    lgv_free(d->part);
    for (int i = 0; i < d->sources; i++) lgv_free(d->source[i].path);
    lgv_free(d->source);
    lgv_free(d->public_source);
    lgv_free(d->train);
    lgv_free(d->validation);
    if (d->lock_ready >= 2) pthread_cond_destroy(&d->filled);
    if (d->lock_ready >= 1) pthread_mutex_destroy(&d->lock);
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
int lgv_dataset_sources(const lgv_dataset *d, const lgv_data_source **out)
{
    *out = d->public_source;
    return d->sources;
}
int64_t lgv_dataset_epoch_length(const lgv_dataset *d)
{
    return d->epoch_count;
}
int lgv_dataset_notes(const lgv_dataset *d)
{
    return (int)d->notes;
}
const char *lgv_dataset_note_at(const lgv_dataset *d, int i)
{
    return i >= 0 && (size_t)i < d->notes ? d->note[i] : NULL;
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

int lgv_dataset_label(const lgv_dataset *d, int validation, int64_t i)
{
    int64_t count = validation ? d->validation_count : d->train_count;
    if (i < 0 || i >= count) return -1;
    return d->list.item[(validation ? d->validation : d->train)[i]].label;
}
