/* shard.c - tar members one after another, through libarchive.
   libarchive turns names into the locale's characters; a locale of its own (UTF-8, whatever the process has)
   keeps their bytes. */
#define _GNU_SOURCE /* newlocale */
#include "shard.h"

#include <archive.h>
#include <archive_entry.h>
#include <locale.h>
#include <string.h>
#include <strings.h>

struct lgv_shard {
    struct archive *a;
    char *name;
    locale_t utf8; /* 0: the system has none */
    int64_t members;
    char path[LGV_SHARD_PATH];
    int64_t size;
    uint8_t *data;
    size_t capacity;
};

static lgv_status wrong(const lgv_shard *s, lgv_error *err)
{
    const char *why = archive_error_string(s->a);
    return lgv_fail(err, LGV_ERR_FORMAT,
                    "'%s' is no whole tar archive: after %lld members: %s; fetch it again", s->name,
                    (long long)s->members, why ? why : "damaged");
}

static lgv_status start(const char *name, lgv_shard **out, lgv_error *err)
{
    lgv_shard *s = lgv_zalloc(1, sizeof *s);
    if (s) {
        s->name = lgv_strdup(name);
        s->a = archive_read_new();
        s->utf8 = newlocale(LC_CTYPE_MASK, "C.UTF-8", 0);
    }
    if (!s || !s->name || !s->a) {
        lgv_shard_close(s);
        return lgv_fail(err, LGV_ERR_MEMORY, "out of memory while opening '%s'", name);
    }
    archive_read_support_format_tar(s->a);
    archive_read_support_filter_gzip(s->a);
    archive_read_support_filter_bzip2(s->a);
    archive_read_support_filter_xz(s->a);
    archive_read_support_filter_zstd(s->a);
    *out = s;
    return LGV_OK;
}

static lgv_status opened(lgv_shard *s, int code, lgv_shard **out, lgv_error *err)
{
    if (code == ARCHIVE_OK) {
        *out = s;
        return LGV_OK;
    }
    const char *why = archive_error_string(s->a);
    lgv_status status = lgv_fail(err, LGV_ERR_FORMAT, "'%s' cannot be read as a tar archive: %s",
                                 s->name, why ? why : "unknown format");
    lgv_shard_close(s);
    return status;
}

lgv_status lgv_shard_open(const char *path, lgv_shard **out, lgv_error *err)
{
    enum { BLOCK = 1 << 16 };
    lgv_shard *s;
    LGV_TRY(start(path, &s, err));
    return opened(s, archive_read_open_filename(s->a, path, BLOCK), out, err);
}

lgv_status lgv_shard_open_memory(const void *data, size_t size, const char *name, lgv_shard **out,
                                 lgv_error *err)
{
    lgv_shard *s;
    LGV_TRY(start(name, &s, err));
    return opened(s, archive_read_open_memory(s->a, data, size), out, err);
}

void lgv_shard_close(lgv_shard *s)
{
    if (!s) return;
    if (s->a) archive_read_free(s->a);
    if (s->utf8) freelocale(s->utf8);
    lgv_free(s->data);
    lgv_free(s->name);
    lgv_free(s);
}

bool lgv_shard_is_plain(const lgv_shard *s)
{
    return archive_filter_code(s->a, 0) == ARCHIVE_FILTER_NONE;
}

static bool ordinary(struct archive_entry *e)
{
    return archive_entry_filetype(e) == AE_IFREG && !archive_entry_hardlink(e) &&
           !archive_entry_sparse_count(e) && archive_entry_size_is_set(e);
}

static const char *entry_path(struct archive_entry *e)
{
    const char *path = archive_entry_pathname(e);
    if (!path) path = archive_entry_pathname_utf8(e);
    while (path && path[0] == '.' && path[1] == '/') path += 2;
    return path;
}

static lgv_status next(lgv_shard *s, lgv_shard_member *out, bool *more, lgv_error *err)
{
    struct archive_entry *e;
    *more = false;
    for (;;) {
        int code = archive_read_next_header(s->a, &e);
        if (code == ARCHIVE_EOF) return LGV_OK;
        if (code < ARCHIVE_WARN) return wrong(s, err);
        if (++s->members > LGV_SHARD_MEMBERS)
            return lgv_fail(err, LGV_ERR_UNSUPPORTED, "'%s' has more than %d members", s->name,
                            LGV_SHARD_MEMBERS);
        if (!ordinary(e)) continue;
        const char *path = entry_path(e);
        s->size = archive_entry_size(e);
        if (!path || !path[0]) continue;
        if (strlen(path) >= sizeof s->path)
            return lgv_fail(err, LGV_ERR_UNSUPPORTED, "'%s': a path is longer than %d bytes",
                            s->name, LGV_SHARD_PATH - 1);
        bool large = s->size > LGV_SHARD_BYTES;
        if (large && !lgv_shard_is_plain(s))
            return lgv_fail(err, LGV_ERR_UNSUPPORTED, "'%s': '%s' is larger than 1 GiB", s->name,
                            path);
        if (large || s->size < 0) continue;
        memcpy(s->path, path, strlen(path) + 1);
        *out = (lgv_shard_member){s->path, s->size};
        *more = true;
        return LGV_OK;
    }
}

lgv_status lgv_shard_next(lgv_shard *s, lgv_shard_member *out, bool *more, lgv_error *err)
{
    locale_t was = s->utf8 ? uselocale(s->utf8) : (locale_t)0;
    lgv_status status = next(s, out, more, err);
    if (s->utf8) uselocale(was);
    return status;
}

lgv_status lgv_shard_read(lgv_shard *s, const uint8_t **data, lgv_error *err)
{
    /* Grown as the bytes arrive: the size in a header is only a claim. */
    size_t got = 0, size = (size_t)s->size;
    while (got < size) {
        enum { STEP = 1 << 20 };
        size_t want = size - got < STEP ? size - got : STEP;
        LGV_TRY(lgv_grow(&s->data, &s->capacity, got + want, 1, err));
        la_ssize_t n = archive_read_data(s->a, s->data + got, want);
        if (n <= 0) return wrong(s, err);
        got += (size_t)n;
    }
    if (!s->data) LGV_TRY(lgv_grow(&s->data, &s->capacity, 1, 1, err));
    *data = s->data;
    return LGV_OK;
}

lgv_status lgv_shard_place(lgv_shard *s, int64_t *at, lgv_error *err)
{
    const void *block;
    size_t size;
    la_int64_t offset;
    *at = -1;
    if (!lgv_shard_is_plain(s)) return LGV_OK;
    /* The first block is handed out before it counts as read: the position is then that of the data. */
    if (s->size && archive_read_data_block(s->a, &block, &size, &offset) != ARCHIVE_OK)
        return wrong(s, err);
    *at = archive_filter_bytes(s->a, 0);
    return LGV_OK;
}

bool lgv_shard_named(const char *name)
{
    static const char *const ends[] = {".tar",  ".tar.gz", ".tgz", ".tar.bz2",
                                       ".tbz2", ".tar.xz", ".txz", ".tar.zst"};
    size_t n = strlen(name);
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
        size_t k = strlen(ends[i]);
        if (n > k && !strcasecmp(name + n - k, ends[i])) return true;
    }
    return false;
}

size_t lgv_shard_key(const char *path)
{
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    return (size_t)(name - path) + strcspn(name, ".");
}
