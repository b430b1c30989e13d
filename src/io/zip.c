/* zip.c - reading a zip archive's central directory. The sizes that count are the directory's: local headers may leave
   them to a data descriptor. */
#include "zip.h"

#include <stdlib.h>
#include <string.h>
#include <zlib.h>

enum {
    END_SIZE = 22,
    END64_SIZE = 56,
    LOCATOR_SIZE = 20,
    CENTRAL_SIZE = 46,
    LOCAL_SIZE = 30,
    COMMENT = 0xffff
};
enum { END_SIGNATURE = 0x06054b50, END64_SIGNATURE = 0x06064b50, LOCATOR_SIGNATURE = 0x07064b50 };
enum { CENTRAL_SIGNATURE = 0x02014b50, LOCAL_SIGNATURE = 0x04034b50, ZIP64_FIELD = 1 };

typedef struct archive {
    const char *path;
    const uint8_t *data;
    size_t size;
    uint64_t entries, directory, directory_size; /* of the end record */
} archive;

static uint32_t u16(const uint8_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8;
}

static uint32_t u32(const uint8_t *p)
{
    return u16(p) | u16(p + 2) << 16;
}

static uint64_t u64(const uint8_t *p)
{
    return u32(p) | (uint64_t)u32(p + 4) << 32;
}

static lgv_status damaged(const archive *a, const char *what, lgv_error *err)
{
    return lgv_fail(err, LGV_ERR_FORMAT,
                    "%s: not a whole zip archive: %s; it is truncated or damaged", a->path, what);
}

/* The end record is the last thing in the file, but for a comment whose length it tells. */
static const uint8_t *find_end(const archive *a)
{
    if (a->size < END_SIZE) return NULL;
    const uint8_t *last = a->data + a->size - END_SIZE;
    for (size_t back = 0; back <= COMMENT && back <= a->size - END_SIZE; back++)
        if (u32(last - back) == END_SIGNATURE && u16(last - back + 20) == back) return last - back;
    return NULL;
}

/* Fields that are all ones stand in a record of their own. */
static lgv_status read_end64(archive *a, const uint8_t *end, lgv_error *err)
{
    size_t at = (size_t)(end - a->data);
    if (at < LOCATOR_SIZE || u32(end - LOCATOR_SIZE) != LOCATOR_SIGNATURE)
        return damaged(a, "the zip64 locator is missing", err);
    uint64_t place = u64(end - LOCATOR_SIZE + 8);
    if (place > at || at - place < END64_SIZE || u32(a->data + place) != END64_SIGNATURE)
        return damaged(a, "the zip64 end record is missing", err);
    const uint8_t *r = a->data + place;
    if (u32(r + 16) || u32(r + 20)) return damaged(a, "it is a part of several", err);
    a->entries = u64(r + 32);
    a->directory_size = u64(r + 40);
    a->directory = u64(r + 48);
    return LGV_OK;
}

static lgv_status read_end(archive *a, lgv_error *err)
{
    const uint8_t *end = find_end(a);
    if (!end) return damaged(a, "it has no end record", err);
    a->entries = u16(end + 10);
    a->directory_size = u32(end + 12);
    a->directory = u32(end + 16);
    if (a->entries == 0xffff || a->directory_size == UINT32_MAX || a->directory == UINT32_MAX)
        LGV_TRY(read_end64(a, end, err));
    else if (u16(end + 4) || u16(end + 6))
        return damaged(a, "it is a part of several", err);
    uint64_t room = (uint64_t)(end - a->data);
    if (a->directory > room || a->directory_size > room - a->directory ||
        a->entries > a->directory_size / CENTRAL_SIZE)
        return damaged(a, "its directory lies outside of the file", err);
    if (a->entries > LGV_ZIP_ENTRIES)
        return lgv_fail(err, LGV_ERR_UNSUPPORTED, "%s: %llu members, at most %d are read", a->path,
                        (unsigned long long)a->entries, LGV_ZIP_ENTRIES);
    return LGV_OK;
}

/* Replaces, in this order, those of uncompressed size, compressed size and offset that are all ones. */
static bool widen(const uint8_t *extra, size_t left, uint64_t value[3])
{
    while (left >= 4) {
        size_t id = u16(extra), n = u16(extra + 2), used = 4;
        if (n > left - 4) return false;
        for (int i = 0; id == ZIP64_FIELD && i < 3; i++) {
            if (value[i] != UINT32_MAX) continue;
            if (used + 8 > 4 + n) return false;
            value[i] = u64(extra + used);
            used += 8;
        }
        extra += 4 + n;
        left -= 4 + n;
    }
    return true;
}

/* The local header must be that of the same member; the data follows it and ends before the directory. */
static lgv_status place_data(const archive *a, uint64_t offset, size_t name, lgv_zip_entry *e,
                             lgv_error *err)
{
    uint64_t room = a->directory;
    if (offset > room || room - offset < LOCAL_SIZE)
        return damaged(a, "a member begins outside of the file", err);
    const uint8_t *h = a->data + offset;
    size_t head = LOCAL_SIZE + (size_t)u16(h + 26) + u16(h + 28);
    if (u32(h) != LOCAL_SIGNATURE || u16(h + 26) != name || room - offset < head ||
        memcmp(h + LOCAL_SIZE, e->name, name))
        return damaged(a, "a member is not where the directory says", err);
    if (e->size > room - offset - head)
        return lgv_fail(
            err, LGV_ERR_FORMAT,
            "%s: '%.200s' claims %zu bytes, more than there are; the file is truncated or damaged",
            a->path, e->name, e->size);
    e->begin = h;
    e->data = h + head;
    return LGV_OK;
}

static lgv_status read_entry(const archive *a, const uint8_t *c, size_t left, lgv_zip_entry *e,
                             size_t *length, lgv_error *err)
{
    if (left < CENTRAL_SIZE || u32(c) != CENTRAL_SIGNATURE)
        return damaged(a, "its directory has holes", err);
    size_t name = u16(c + 28), extra = u16(c + 30);
    *length = CENTRAL_SIZE + name + extra + u16(c + 32);
    if (*length > left) return damaged(a, "its directory is cut off", err);
    if (name > LGV_ZIP_NAME)
        return lgv_fail(err, LGV_ERR_UNSUPPORTED, "%s: a name has %zu bytes, at most %d are read",
                        a->path, name, LGV_ZIP_NAME);
    if (memchr(c + CENTRAL_SIZE, 0, name)) return damaged(a, "a name holds a zero byte", err);
    e->name = lgv_format("%.*s", (int)name, (const char *)c + CENTRAL_SIZE);
    if (!e->name) return lgv_fail(err, LGV_ERR_MEMORY, "%s: out of memory", a->path);
    if (u16(c + 8) & 1 || u16(c + 10))
        return lgv_fail(
            err, LGV_ERR_UNSUPPORTED,
            "%s: '%.200s' is compressed or encrypted, which torch.save never does; unpack "
            "the archive and save it again with torch",
            a->path, e->name);
    uint64_t value[3] = {u32(c + 24), u32(c + 20), u32(c + 42)};
    if (!widen(c + CENTRAL_SIZE + name, extra, value) || value[0] != value[1] || value[0] > a->size)
        return damaged(a, "a member's size makes no sense", err);
    e->crc = u32(c + 16);
    e->size = (size_t)value[0];
    return place_data(a, value[2], name, e, err);
}

static int by_place(const void *a, const void *b)
{
    const lgv_zip_entry *s = a, *t = b;
    return s->begin < t->begin ? -1 : s->begin > t->begin;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const lgv_zip_entry *)a)->name, ((const lgv_zip_entry *)b)->name);
}

static lgv_status check_overlap(const archive *a, lgv_zip *zip, lgv_error *err)
{
    lgv_zip_entry *e = zip->entry;
    if (!zip->count) return LGV_OK;
    qsort(e, zip->count, sizeof *e, by_place);
    for (size_t i = 1; i < zip->count; i++)
        if (e[i].begin < e[i - 1].data + e[i - 1].size)
            return lgv_fail(err, LGV_ERR_FORMAT, "%s: the members '%.100s' and '%.100s' overlap",
                            a->path, e[i - 1].name, e[i].name);
    qsort(e, zip->count, sizeof *e, by_name);
    for (size_t i = 1; i < zip->count; i++)
        if (!strcmp(e[i].name, e[i - 1].name))
            return lgv_fail(err, LGV_ERR_FORMAT, "%s: there are two members '%.200s'", a->path,
                            e[i].name);
    return LGV_OK;
}

static lgv_status read_directory(const archive *a, lgv_zip *zip, lgv_error *err)
{
    const uint8_t *c = a->data + a->directory;
    size_t left = (size_t)a->directory_size, length = 0;
    for (uint64_t i = 0; i < a->entries; i++, c += length, left -= length) {
        LGV_TRY(lgv_grow(&zip->entry, &zip->capacity, zip->count + 1, sizeof *zip->entry, err));
        zip->entry[zip->count] = (lgv_zip_entry){0};
        LGV_TRY(read_entry(a, c, left, &zip->entry[zip->count++], &length, err));
    }
    return check_overlap(a, zip, err);
}

lgv_status lgv_zip_read(const uint8_t *data, size_t size, const char *path, lgv_zip *out,
                        lgv_error *err)
{
    archive a = {.path = path, .data = data, .size = size};
    lgv_zip zip = {0};
    LGV_TRY(read_end(&a, err));
    lgv_status status = read_directory(&a, &zip, err);
    if (status)
        lgv_zip_free(&zip);
    else
        *out = zip;
    return status;
}

void lgv_zip_free(lgv_zip *zip)
{
    for (size_t i = 0; i < zip->count; i++) lgv_free(zip->entry[i].name);
    lgv_free(zip->entry);
    *zip = (lgv_zip){0};
}

const lgv_zip_entry *lgv_zip_find(const lgv_zip *zip, const char *name)
{
    lgv_zip_entry key = {.name = (char *)name};
    return zip->count ? bsearch(&key, zip->entry, zip->count, sizeof key, by_name) : NULL;
}

lgv_status lgv_zip_check(const lgv_zip_entry *e, const char *path, lgv_error *err)
{
    /* torch.serialization.set_crc32_options(False) leaves zeros. */
    if (!e->crc || crc32_z(0, e->data, e->size) == e->crc) return LGV_OK;
    return lgv_fail(err, LGV_ERR_FORMAT,
                    "%s: the checksum of '%.200s' is wrong; the file is damaged, fetch it again",
                    path, e->name);
}
