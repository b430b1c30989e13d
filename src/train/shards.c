/* shards.c - archives as part of a data set.
   A plain tar is listed by one pass over its headers and then read picture by picture, each by one pread at
   its place. A compressed one is a stream: one pass lists it, and when its first picture is wanted one more
   pass decodes and resizes all of them into the cache. Neither is ever unpacked, nor wholly in memory. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "dataset.h"
#include "io/metadata.h"
#include "io/shard.h"

enum { LABEL_MEMBER_BYTES = 1 << 20 };

typedef struct listing {
    lgv_dataset *d;
    int source, part, fd; /* fd: the file itself, for a plain tar */
    const char *path, *inside;
    int64_t number; /* of the member in the stream */
    /* The sample the stream is in: neighbours with one key. */
    char key[LGV_SHARD_PATH];
    size_t first; /* its pictures in the list */
    bool told;    /* it has a label or a text: one sample, one picture */
    char label[LGV_LABEL_BYTES];
} listing;

/* "jpg" of "a/b.jpg", "seg.png" of "a/b.seg.png". */
static const char *extension(const char *path)
{
    const char *rest = path + lgv_shard_key(path);
    return *rest ? rest + 1 : rest;
}

/* Ends a sample: a webdataset sample is one picture (one with a plain extension is preferred to
   "seg.png"), in other archives each file stands for itself. */
static lgv_status end_sample(listing *l, lgv_error *err)
{
    lgv_picture_list *list = &l->d->list;
    size_t n = list->count - l->first, keep = 0;
    if (l->told && n > 1) {
        while (keep < n && strchr(extension(list->item[l->first + keep].path), '.')) keep++;
        lgv_picture kept = list->item[l->first + keep % n];
        for (size_t i = 0; i < n; i++)
            if (i != keep % n) lgv_pictures_other(list, list->item[l->first + i].path);
        list->item[l->first] = kept;
        list->count = l->first + 1;
    }
    if (l->label[0] && list->count > l->first) {
        l->d->source[l->source].labelled = true;
        LGV_TRY(lgv_labels_id(&l->d->labels, l->label, strlen(l->label),
                              &list->item[l->first].label, err));
    }
    l->first = list->count;
    l->told = false;
    l->label[0] = 0;
    return LGV_OK;
}

static lgv_status read_label(listing *l, lgv_shard *s, const lgv_shard_member *m, bool json,
                             lgv_error *err)
{
    const uint8_t *data;
    bool found = true;
    char label[LGV_LABEL_BYTES];
    if (m->size > LABEL_MEMBER_BYTES)
        return lgv_fail(err, LGV_ERR_UNSUPPORTED, "'%s': '%s' is larger than 1 MiB", l->path,
                        m->path);
    char *name = lgv_format("'%s': %s", l->path, m->path);
    if (!name) return lgv_fail(err, LGV_ERR_MEMORY, "out of memory while reading '%s'", l->path);
    lgv_status status = lgv_shard_read(s, &data, err);
    if (!status && json)
        status = lgv_metadata_json((const char *)data, (size_t)m->size, name, label, &found, err);
    else if (!status)
        status = lgv_metadata_cls((const char *)data, (size_t)m->size, name, label, err);
    if (!status && found && (!json || !l->label[0])) memcpy(l->label, label, sizeof label);
    lgv_free(name);
    return status;
}

/* Head, digest and place of a picture's bytes in a plain tar. */
static lgv_status look_at_place(listing *l, lgv_shard *s, lgv_picture *p, uint8_t head[64],
                                size_t *head_bytes, lgv_error *err)
{
    uint8_t both[128];
    LGV_TRY(lgv_shard_place(s, &p->at, err));
    size_t ends = p->size < 64 ? (size_t)p->size : 64;
    if (!lgv_read_at(l->fd, both, ends, p->at) ||
        !lgv_read_at(l->fd, both + ends, ends, p->at + p->size - (int64_t)ends))
        return lgv_fail(err, LGV_ERR_FORMAT, "'%s' is truncated in '%s'; fetch it again", l->path,
                        p->path);
    memcpy(head, both, ends);
    *head_bytes = ends;
    p->digest = lgv_bytes_digest(both, 2 * ends);
    return LGV_OK;
}

/* The same in a stream, where the picture's header is read too: later it is gone. */
static lgv_status look_at_stream(listing *l, lgv_shard *s, lgv_picture *p, uint8_t head[64],
                                 size_t *head_bytes, lgv_error *err)
{
    const uint8_t *data;
    lgv_image_info info;
    LGV_TRY(lgv_shard_read(s, &data, err));
    *head_bytes = p->size < 64 ? (size_t)p->size : 64;
    memcpy(head, data, *head_bytes);
    p->at = l->number;
    p->digest = lgv_bytes_digest(data, (size_t)p->size);
    if (!lgv_image_probe_memory(data, (size_t)p->size, p->path, &info, NULL)) {
        p->full_width = info.width;
        p->full_height = info.height;
        p->channels = (uint8_t)info.channels;
        p->bits = (uint8_t)info.bits;
    }
    return LGV_OK;
}

static lgv_status add_member(listing *l, lgv_shard *s, const lgv_shard_member *m, lgv_error *err)
{
    uint8_t head[64] = {0};
    size_t head_bytes = 0;
    lgv_picture p = {.path = lgv_format("%s%s", l->inside, m->path),
                     .size = m->size,
                     .source = l->source,
                     .part = l->part,
                     .label = -1,
                     .kind = LGV_PICTURE_MEMBER};
    if (!p.path) return lgv_fail(err, LGV_ERR_MEMORY, "out of memory while reading '%s'", l->path);
    lgv_status status = lgv_shard_is_plain(s) ? look_at_place(l, s, &p, head, &head_bytes, err)
                                              : look_at_stream(l, s, &p, head, &head_bytes, err);
    if (status) {
        lgv_free(p.path);
        return status;
    }
    p.type = (uint8_t)lgv_image_type_of(head, head_bytes);
    if (p.type != LGV_IMAGE_UNKNOWN) {
        lgv_dataset_hash(l->d, p.path, p.size, p.digest);
        return lgv_pictures_add(&l->d->list, p, err);
    }
    lgv_pictures_other(&l->d->list, p.path);
    return LGV_OK;
}

static bool hidden(const char *path)
{
    return path[0] == '.' || strstr(path, "/.");
}

static lgv_status visit(listing *l, lgv_shard *s, const lgv_shard_member *m, lgv_error *err)
{
    size_t key = lgv_shard_key(m->path);
    if (strlen(l->key) != key || memcmp(l->key, m->path, key)) {
        LGV_TRY(end_sample(l, err));
        memcpy(l->key, m->path, key);
        l->key[key] = 0;
    }
    const char *ext = extension(m->path);
    bool json = !strcmp(ext, "json"), cls = !strcmp(ext, "cls");
    l->told = l->told || json || cls || !strcmp(ext, "txt");
    if (json || cls) return read_label(l, s, m, json, err);
    return m->size && !hidden(m->path) && strcmp(ext, "txt") ? add_member(l, s, m, err) : LGV_OK;
}

static lgv_status list_members(listing *l, lgv_shard *s, lgv_error *err)
{
    lgv_shard_member m;
    bool more;
    for (;; l->number++) {
        LGV_TRY(lgv_shard_next(s, &m, &more, err));
        if (!more) return end_sample(l, err);
        LGV_TRY(visit(l, s, &m, err));
    }
}

static lgv_status add_archive_part(lgv_dataset *d, const char *path, lgv_error *err)
{
    lgv_part part = {.path = lgv_strdup(path), .first = (int64_t)d->list.count};
    if (!part.path) return lgv_fail(err, LGV_ERR_MEMORY, "out of memory for '%s'", path);
    return lgv_dataset_add_part(d, part, err);
}

lgv_status lgv_archive_add(lgv_dataset *d, int source, const char *path, const char *inside,
                           lgv_error *err)
{
    lgv_shard *s = NULL;
    listing *l = lgv_zalloc(1, sizeof *l);
    if (!l) return lgv_fail(err, LGV_ERR_MEMORY, "out of memory for '%s'", path);
    *l = (listing){.d = d,
                   .source = source,
                   .part = (int)d->parts,
                   .path = path,
                   .inside = inside,
                   .first = d->list.count};
    l->fd = open(path, O_RDONLY | O_CLOEXEC);
    lgv_status status = LGV_OK;
    if (l->fd < 0)
        status = lgv_fail(err, LGV_ERR_IO, "cannot open '%s': %s", path, strerror(errno));
    if (!status) status = add_archive_part(d, path, err);
    if (!status) status = lgv_shard_open(path, &s, err);
    if (!status) status = list_members(l, s, err);
    if (!status) {
        lgv_part *part = &d->part[l->part];
        part->plain = lgv_shard_is_plain(s);
        part->n = (int64_t)d->list.count - part->first;
    }
    lgv_shard_close(s);
    if (l->fd >= 0) close(l->fd);
    lgv_free(l);
    return status;
}

lgv_status lgv_archive_stream(lgv_dataset *d, const lgv_part *part, lgv_archive_each each,
                              void *user, lgv_error *err)
{
    lgv_shard *s = NULL;
    lgv_shard_member m;
    LGV_TRY(lgv_shard_open(part->path, &s, err));
    lgv_status status = LGV_OK;
    int64_t number = 0, next = part->first, end = part->first + part->n;
    for (bool more = true; !status && more && next < end; number++) {
        const uint8_t *data;
        status = lgv_shard_next(s, &m, &more, err);
        if (status || !more || number != d->list.item[next].at) continue;
        lgv_picture *p = &d->list.item[next++];
        if (m.size != p->size)
            status =
                lgv_fail(err, LGV_ERR_FORMAT, "'%s' has changed since it was opened", part->path);
        if (!status) status = lgv_shard_read(s, &data, err);
        if (!status) status = each(d, user, p, data, err);
    }
    lgv_shard_close(s);
    if (!status && next < end)
        status = lgv_fail(err, LGV_ERR_FORMAT, "'%s' has changed since it was opened", part->path);
    return status;
}
