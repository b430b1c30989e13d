/* cache.c - decoded pictures kept from run to run, one file per (data, resolution, channels, background).
   The file holds the resized pixels, then a table {place, width, height, check sum} for each picture, then a
   footer with its key and the SHA-256 of table and footer. It is written whole and put in place atomically;
   the table is checked when the file is opened, the pixels when they are read: what does not agree is decoded
   again. So a damaged or foreign file costs time and nothing else. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "dataset.h"

/* Raise the number when decoding or resizing gives other pixels. */
static const char magic[8] = "LGVPIX1";

typedef struct footer {
    char magic[8];
    char key[64]; /* hex */
    uint64_t count;
    char sha[64]; /* of the table and of this up to here, hex */
} footer;

static void make_key(const lgv_dataset *d, char key[65])
{
    const lgv_dataset_options *o = &d->options;
    char text[160];
    lgv_sha256 sha;
    int n = snprintf(text, sizeof text, "%s %d %d %02x%02x%02x", d->fingerprint, o->resolution,
                     o->channels, o->background[0], o->background[1], o->background[2]);
    lgv_sha256_init(&sha);
    lgv_sha256_update(&sha, text, (size_t)n);
    lgv_sha256_hex(&sha, key);
}

static char *cache_path(const lgv_dataset *d)
{
    char key[65];
    make_key(d, key);
    return lgv_format("%s/langevin-%.32s.pictures", d->options.cache_dir, key);
}

static void seal(const lgv_stored *table, footer *f)
{
    char hex[65];
    lgv_sha256 sha;
    lgv_sha256_init(&sha);
    lgv_sha256_update(&sha, table, f->count * sizeof *table);
    lgv_sha256_update(&sha, f, offsetof(footer, sha));
    lgv_sha256_hex(&sha, hex);
    memcpy(f->sha, hex, sizeof f->sha);
}

static uint64_t stored_check(const uint8_t *pixels, size_t n)
{
    uint64_t h = UINT64_C(0x9e3779b97f4a7c15) ^ n, word;
    for (; n >= 8; n -= 8, pixels += 8) {
        memcpy(&word, pixels, 8);
        h = (h ^ word) * UINT64_C(0xff51afd7ed558ccd);
        h ^= h >> 32;
    }
    for (; n; n--, pixels++) h = (h ^ *pixels) * UINT64_C(0x100000001b3);
    return h ^ h >> 29;
}

/* ---- reading ---- */

static bool table_is_sound(const lgv_dataset *d, const lgv_stored *table, uint64_t data_bytes)
{
    for (size_t i = 0; i < d->list.count; i++) {
        uint64_t bytes = (uint64_t)table[i].width * table[i].height * (uint64_t)d->options.channels;
        if (!table[i].width) continue;
        if (table[i].width > LGV_IMAGE_SIDE || table[i].height > LGV_IMAGE_SIDE || !bytes ||
            table[i].at > data_bytes || bytes > data_bytes - table[i].at)
            return false;
    }
    return true;
}

/* The table of the open file; false when it is not one of this data set. */
static bool read_table(const lgv_dataset *d, int fd, lgv_stored *table)
{
    struct stat st;
    footer f, want = {.count = d->list.count};
    char key[65];
    uint64_t rows = d->list.count * sizeof *table;
    if (fstat(fd, &st) || !S_ISREG(st.st_mode) || (uint64_t)st.st_size < rows + sizeof f)
        return false;
    uint64_t data_bytes = (uint64_t)st.st_size - rows - sizeof f;
    if (!lgv_read_at(fd, &f, sizeof f, st.st_size - (int64_t)sizeof f) ||
        !lgv_read_at(fd, table, rows, (int64_t)data_bytes))
        return false;
    make_key(d, key);
    memcpy(want.magic, magic, sizeof magic);
    memcpy(want.key, key, sizeof want.key);
    seal(table, &want);
    return !memcmp(&f, &want, sizeof f) && table_is_sound(d, table, data_bytes);
}

lgv_status lgv_cache_open(lgv_dataset *d, lgv_error *err)
{
    if (!d->options.cache_dir) return LGV_OK;
    LGV_TRY(lgv_make_dir(d->options.cache_dir, err));
    char *path = cache_path(d);
    d->stored = lgv_zalloc(d->list.count, sizeof *d->stored);
    if (!path || !d->stored) {
        lgv_free(path);
        return lgv_fail(err, LGV_ERR_MEMORY, "out of memory for the cache of pictures");
    }
    d->store = open(path, O_RDONLY | O_CLOEXEC);
    if (d->store >= 0 && !read_table(d, d->store, d->stored)) {
        lgv_status s = lgv_dataset_add_note(
            d, err, "'%s' is damaged or of another version; it will be made anew", path);
        memset(d->stored, 0, d->list.count * sizeof *d->stored);
        close(d->store);
        d->store = -1;
        if (s) {
            lgv_free(path);
            return s;
        }
    }
    lgv_free(path);
    for (size_t i = 0; i < d->list.count; i++) {
        lgv_picture *p = &d->list.item[i];
        if (!d->stored[i].width || p->kind == LGV_PICTURE_RAW) continue;
        p->state = LGV_PICTURE_STORED;
        p->width = (int)d->stored[i].width;
        p->height = (int)d->stored[i].height;
        p->offset = (int64_t)d->stored[i].at;
        d->stored_count++;
    }
    return LGV_OK;
}

bool lgv_cache_read(const lgv_dataset *d, const lgv_picture *p, uint8_t *pixels, size_t bytes)
{
    return lgv_read_at(d->store, pixels, bytes, p->offset) &&
           stored_check(pixels, bytes) == d->stored[p - d->list.item].check;
}

int64_t lgv_dataset_cached(const lgv_dataset *d)
{
    return d->stored_count;
}

/* ---- writing ---- */

typedef struct writer {
    lgv_dataset *d;
    lgv_atomic *file;
    lgv_stored *table;
    uint8_t *buffer;
    size_t capacity;
    uint64_t at;
} writer;

static size_t bytes_of(const lgv_dataset *d, const lgv_picture *p)
{
    return (size_t)p->width * (size_t)p->height * (size_t)d->options.channels;
}

/* Appends one picture, wherever its pixels are now; one that is nowhere is left out. */
static lgv_status write_picture(writer *w, size_t i, lgv_error *err)
{
    lgv_dataset *d = w->d;
    pthread_mutex_lock(&d->lock);
    lgv_picture p = d->list.item[i];
    pthread_mutex_unlock(&d->lock);
    if (p.kind == LGV_PICTURE_RAW || p.state == LGV_PICTURE_UNSEEN || p.state == LGV_PICTURE_BROKEN)
        return LGV_OK;
    size_t n = bytes_of(d, &p);
    const uint8_t *pixels = p.pixels;
    if (p.state != LGV_PICTURE_RAM) {
        LGV_TRY(lgv_grow(&w->buffer, &w->capacity, n, 1, err));
        int fd = p.state == LGV_PICTURE_STORED ? d->store : d->spill;
        if (!lgv_read_at(fd, w->buffer, n, p.offset)) return LGV_OK;
        pixels = w->buffer;
    }
    uint64_t check = stored_check(pixels, n);
    if (p.state == LGV_PICTURE_STORED && check != d->stored[i].check) return LGV_OK;
    LGV_TRY(lgv_atomic_write(w->file, pixels, n, err));
    w->table[i] = (lgv_stored){w->at, (uint32_t)p.width, (uint32_t)p.height, check};
    w->at += n;
    return LGV_OK;
}

static lgv_status write_all(writer *w, lgv_error *err)
{
    char key[65];
    footer f = {.count = w->d->list.count};
    for (size_t i = 0; i < w->d->list.count; i++) LGV_TRY(write_picture(w, i, err));
    make_key(w->d, key);
    memcpy(f.magic, magic, sizeof magic);
    memcpy(f.key, key, sizeof f.key);
    seal(w->table, &f);
    LGV_TRY(lgv_atomic_write(w->file, w->table, f.count * sizeof *w->table, err));
    return lgv_atomic_write(w->file, &f, sizeof f, err);
}

/* How many bytes it would take, and whether that is more than the file has already. */
static bool anything_new(lgv_dataset *d, uint64_t *bytes)
{
    bool fresh = false;
    *bytes = 0;
    pthread_mutex_lock(&d->lock);
    for (size_t i = 0; i < d->list.count; i++) {
        const lgv_picture *p = &d->list.item[i];
        if (p->kind == LGV_PICTURE_RAW) continue;
        bool decoded = p->state == LGV_PICTURE_RAM || p->state == LGV_PICTURE_SPILLED;
        if (decoded || p->state == LGV_PICTURE_STORED) *bytes += bytes_of(d, p);
        fresh = fresh || (decoded && !p->written);
    }
    pthread_mutex_unlock(&d->lock);
    return fresh;
}

static void mark_written(lgv_dataset *d, const lgv_stored *table)
{
    pthread_mutex_lock(&d->lock);
    for (size_t i = 0; i < d->list.count; i++)
        if (table[i].width) d->list.item[i].written = 1;
    pthread_mutex_unlock(&d->lock);
}

lgv_status lgv_dataset_save_cache(lgv_dataset *d, lgv_error *err)
{
    uint64_t bytes, room;
    if (!d->options.cache_dir || !anything_new(d, &bytes)) return LGV_OK;
    if (!lgv_free_space(d->options.cache_dir, &room, NULL) && room >> 1 < bytes)
        return lgv_fail(
            err, LGV_ERR_IO,
            "'%s' has too little room for the decoded pictures: %llu MiB are wanted, and "
            "as much is left free",
            d->options.cache_dir, (unsigned long long)(bytes >> 20));
    writer w = {.d = d, .table = lgv_zalloc(d->list.count, sizeof *w.table)};
    char *path = cache_path(d);
    lgv_status s = path && w.table
                       ? lgv_atomic_open(path, &w.file, err)
                       : lgv_fail(err, LGV_ERR_MEMORY, "out of memory for the cache of pictures");
    if (!s && (s = write_all(&w, err)))
        lgv_atomic_abort(w.file);
    else if (!s)
        s = lgv_atomic_commit(w.file, err);
    if (!s) mark_written(d, w.table);
    lgv_free(path);
    lgv_free(w.buffer);
    lgv_free(w.table);
    return s;
}
