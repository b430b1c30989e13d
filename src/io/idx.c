/* idx.c - reading IDX files, plain and gzip.
   The size a file declares is compared with what it can hold before memory is taken (deflate
   shrinks at most 1032-fold), and with what it does hold afterwards. */
#include "idx.h"

#include <string.h>
#include <zlib.h>

#include "core/file.h"

enum { MAX_SIDE = 16384, HEADER_BYTES = 16, DEFLATE_RATIO = 1032 };

/* The bytes of the file in order, decompressed when it is gzip. */
typedef struct source {
    const char *path;
    const uint8_t *data;
    size_t size;
    bool gzip, zlib_live, ended;
    z_stream z;
    size_t at; /* plain: position */
    lgv_error *err;
} source;

static void source_close(source *s)
{
    if (s->zlib_live) inflateEnd(&s->z);
}

static lgv_status source_open(const uint8_t *data, size_t size, const char *path, source *s,
                              lgv_error *err)
{
    *s = (source){.path = path, .data = data, .size = size, .err = err};
    s->gzip = size >= 2 && data[0] == 0x1f && data[1] == 0x8b;
    if (!s->gzip) return LGV_OK;
    if (inflateInit2(&s->z, 15 + 16) != Z_OK) /* 16: gzip wrapper, whose checksum zlib verifies */
        return lgv_fail(err, LGV_ERR_MEMORY, "%s: out of memory for decompression", path);
    s->zlib_live = true;
    return LGV_OK;
}

static lgv_status too_short(const source *s)
{
    return lgv_fail(s->err, LGV_ERR_FORMAT,
                    "%s: the file is truncated: it holds less than its header declares", s->path);
}

/* One call of inflate as far as `size` bytes go; *got bytes arrive. */
static lgv_status inflate_some(source *s, uint8_t *dst, size_t size, size_t *got)
{
    enum { STEP = 1 << 30 }; /* zlib counts in unsigned int */
    size_t room = size < STEP ? size : STEP, left = s->size - s->at,
           feed = left < STEP ? left : STEP;
    s->z.next_in = (Bytef *)(uintptr_t)(s->data + s->at); /* zlib only reads it */
    s->z.avail_in = (uInt)feed;
    s->z.next_out = dst;
    s->z.avail_out = (uInt)room;
    int code = inflate(&s->z, Z_NO_FLUSH);
    s->at += feed - s->z.avail_in;
    *got = room - s->z.avail_out;
    if (code == Z_STREAM_END) {
        s->ended = true;
        return LGV_OK;
    }
    if (code == Z_MEM_ERROR) return lgv_fail(s->err, LGV_ERR_MEMORY, "%s: out of memory", s->path);
    if (code == Z_BUF_ERROR || (code == Z_OK && !*got && s->at == s->size)) return too_short(s);
    if (code != Z_OK)
        return lgv_fail(s->err, LGV_ERR_FORMAT, "%s: the gzip data is damaged: %s", s->path,
                        s->z.msg ? s->z.msg : "not deflate");
    return LGV_OK;
}

static lgv_status source_read(source *s, uint8_t *dst, size_t size)
{
    if (!s->gzip) {
        if (size > s->size - s->at) return too_short(s);
        if (size) memcpy(dst, s->data + s->at, size);
        s->at += size;
        return LGV_OK;
    }
    while (size) {
        size_t got = 0;
        if (s->ended) return too_short(s);
        LGV_TRY(inflate_some(s, dst, size, &got));
        dst += got;
        size -= got;
    }
    return LGV_OK;
}

/* Nothing may follow the declared data. For gzip this also makes zlib check length and checksum. */
static lgv_status source_finish(source *s)
{
    uint8_t extra;
    size_t got = 0;
    while (s->gzip && !s->ended && !got) LGV_TRY(inflate_some(s, &extra, 1, &got));
    if (got || s->at != s->size)
        return lgv_fail(s->err, LGV_ERR_FORMAT, "%s: the file holds more than its header declares",
                        s->path);
    return LGV_OK;
}

static int64_t be32(const uint8_t *p)
{
    return (int64_t)p[0] << 24 | (int64_t)p[1] << 16 | (int64_t)p[2] << 8 | p[3];
}

/* Header -> out (without data) and *bytes of data to follow. */
static lgv_status read_header(source *s, int dims, lgv_idx *out, size_t *bytes)
{
    uint8_t h[HEADER_BYTES];
    LGV_TRY(source_read(s, h, 4));
    if (h[0] || h[1] || h[2] != 8 || h[3] != dims)
        return lgv_fail(s->err, LGV_ERR_FORMAT,
                        "%s: begins with %02x %02x %02x %02x; IDX %s begin with 00 00 08 %02x",
                        s->path, h[0], h[1], h[2], h[3], dims == 1 ? "labels" : "images", dims);
    LGV_TRY(source_read(s, h + 4, dims == 3 ? 12 : 4));
    int64_t n = be32(h + 4), height = dims == 3 ? be32(h + 8) : 1,
            width = dims == 3 ? be32(h + 12) : 1;
    if (n > INT32_MAX || height < 1 || width < 1 || height > MAX_SIDE || width > MAX_SIDE)
        return lgv_fail(s->err, LGV_ERR_FORMAT,
                        "%s: declares %lld images of %lld x %lld; at most %d a side are read",
                        s->path, (long long)n, (long long)width, (long long)height, MAX_SIDE);
    int64_t total = n * height * width; /* < 2^31 * 2^28 */
    if (total > (int64_t)s->size * (s->gzip ? DEFLATE_RATIO : 1)) return too_short(s);
    *out = (lgv_idx){n, (int)height, (int)width, NULL};
    *bytes = (size_t)total;
    return LGV_OK;
}

static lgv_status read_all(source *s, int dims, bool data, lgv_idx *out)
{
    lgv_idx idx = {0};
    size_t bytes = 0;
    LGV_TRY(read_header(s, dims, &idx, &bytes));
    if (data) {
        idx.data = lgv_alloc(bytes, 1);
        if (!idx.data)
            return lgv_fail(s->err, LGV_ERR_MEMORY, "%s: out of memory for %zu bytes", s->path,
                            bytes);
        lgv_status status = source_read(s, idx.data, bytes);
        if (!status) status = source_finish(s);
        if (status) {
            lgv_free(idx.data);
            return status;
        }
    }
    *out = idx;
    return LGV_OK;
}

static lgv_status parse(const void *bytes, size_t size, const char *path, int dims, bool data,
                        lgv_idx *out, lgv_error *err)
{
    source s;
    LGV_TRY(source_open(bytes, size, path, &s, err));
    lgv_status status = read_all(&s, dims, data, out);
    source_close(&s);
    return status;
}

lgv_status lgv_idx_parse(const void *bytes, size_t size, const char *name, int dims, lgv_idx *out,
                         lgv_error *err)
{
    return parse(bytes, size, name, dims, true, out, err);
}

static lgv_status open_and_read(const char *path, int dims, bool data, lgv_idx *out, lgv_error *err)
{
    lgv_map map;
    LGV_TRY(lgv_map_open(path, &map, err));
    lgv_status status = parse(map.data, map.size, path, dims, data, out, err);
    lgv_map_close(&map);
    return status;
}

lgv_status lgv_idx_probe(const char *path, int dims, lgv_idx *out, lgv_error *err)
{
    if (dims != 1 && dims != 3)
        return lgv_fail(err, LGV_ERR_ARGUMENT,
                        "%s: IDX files of 1 and 3 dimensions are read, not of %d", path, dims);
    return open_and_read(path, dims, false, out, err);
}

lgv_status lgv_idx_images(const char *path, lgv_idx *out, lgv_error *err)
{
    return open_and_read(path, 3, true, out, err);
}

lgv_status lgv_idx_labels(const char *path, lgv_idx *out, lgv_error *err)
{
    return open_and_read(path, 1, true, out, err);
}

lgv_status lgv_idx_is(const char *path, bool *is, lgv_error *err)
{
    lgv_map map;
    source s;
    uint8_t magic[4] = {0};
    LGV_TRY(lgv_map_open(path, &map, err));
    lgv_status status = source_open(map.data, map.size, path, &s, err);
    if (!status) status = source_read(&s, magic, 4);
    source_close(&s);
    lgv_map_close(&map);
    if (status == LGV_ERR_MEMORY) return status;
    *is = !status && !magic[0] && !magic[1] && magic[2] == 8 && (magic[3] == 1 || magic[3] == 3);
    return LGV_OK;
}

void lgv_idx_free(lgv_idx *idx)
{
    if (!idx) return;
    lgv_free(idx->data);
    *idx = (lgv_idx){0};
}
