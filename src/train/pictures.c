/* pictures.c - from a file to the uint8 square the network is fed with.
   A picture is decoded and resized once. The result is kept in memory up to a limit, then in a
   temporary file; what fits nowhere is decoded again. None of this can change a pixel. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "dataset.h"
#include "langevin/rng.h"

enum {
    SPILL_FREE_MB = 1024, /* of disk space the temporary file leaves free */
    FILE_BYTES = 1 << 30  /* a larger picture file is refused */
};

/* A resized picture; pixels is borrowed (cache) or owned (scratch). */
typedef struct view {
    const uint8_t *pixels;
    int width, height, channels;
    uint8_t *scratch; /* owned, may be NULL */
    lgv_image image;  /* owned, may be empty */
} view;

static void view_free(view *v)
{
    lgv_free(v->scratch);
    lgv_image_free(&v->image);
}

/* torchvision's rounding of half a margin: to even. */
static int half_even(int margin)
{
    int half = margin / 2;
    return margin % 2 && half % 2 ? half + 1 : half;
}

/* ---- the cache ---- */

static size_t picture_bytes(const lgv_dataset *d, int width, int height)
{
    return (size_t)width * (size_t)height * (size_t)d->options.channels;
}

static bool spill_ready(lgv_dataset *d)
{
    if (d->spill_off) return false;
    const char *folder = getenv("TMPDIR");
    if (!folder || !folder[0]) folder = "/var/tmp";
    uint64_t room = 0;
    if (lgv_free_space(folder, &room, NULL) || room >> 20 < SPILL_FREE_MB) {
        d->spill_off = 1;
        return false;
    }
    if (d->spill < 0) {
        char *name = lgv_format("%s/langevin-XXXXXX", folder);
        d->spill = name ? mkstemp(name) : -1;
        if (d->spill >= 0) unlink(name); /* the space returns when we end, however we end */
        lgv_free(name);
    }
    if (d->spill < 0) d->spill_off = 1;
    return d->spill >= 0;
}

static bool write_all(int fd, const uint8_t *p, size_t n, int64_t at)
{
    while (n) {
        ssize_t k = pwrite(fd, p, n, at);
        if (k < 0 && errno == EINTR) continue;
        if (k <= 0) return false;
        p += k;
        n -= (size_t)k;
        at += k;
    }
    return true;
}

/* Keeps the picture just decoded, when there is room. May take v->image over. */
static void keep(lgv_dataset *d, lgv_picture *p, view *v)
{
    size_t bytes = picture_bytes(d, v->width, v->height);
    pthread_mutex_lock(&d->lock);
    if (p->state == LGV_PICTURE_UNSEEN) {
        p->width = v->width;
        p->height = v->height;
        if (bytes <= d->options.memory_limit - d->kept) {
            uint8_t *copy = lgv_alloc(bytes, 1);
            if (copy) {
                memcpy(copy, v->pixels, bytes);
                p->pixels = copy;
                d->kept += bytes;
                p->state = LGV_PICTURE_RAM;
            }
        } else if (spill_ready(d)) {
            if (write_all(d->spill, v->pixels, bytes, d->spill_end)) {
                p->offset = d->spill_end;
                d->spill_end += (int64_t)bytes;
                p->state = LGV_PICTURE_SPILLED;
            } else {
                d->spill_off = 1;
            }
        }
    }
    pthread_mutex_unlock(&d->lock);
}

/* ---- the bytes of a picture ---- */

char *lgv_picture_name(const lgv_dataset *d, const lgv_picture *p)
{
    if (p->kind == LGV_PICTURE_FILE) return lgv_path_join(d->source[p->source].path, p->path);
    if (p->kind == LGV_PICTURE_MEMBER) return lgv_format("%s: %s", d->part[p->part].path, p->path);
    return lgv_format("%s, picture %lld", d->part[p->part].path, (long long)p->at);
}

static lgv_status read_member(const lgv_dataset *d, const lgv_picture *p, char **data,
                              lgv_error *err)
{
    const char *path = d->part[p->part].path;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return lgv_fail(err, LGV_ERR_IO, "cannot open '%s': %s", path, strerror(errno));
    char *bytes = lgv_alloc((size_t)p->size, 1);
    lgv_status s = LGV_OK;
    if (!bytes)
        s = lgv_fail(err, LGV_ERR_MEMORY, "out of memory while reading '%s'", path);
    else if (!lgv_read_at(fd, (uint8_t *)bytes, (size_t)p->size, p->at))
        s = lgv_fail(err, LGV_ERR_IO, "cannot read '%s' in '%s'; was the archive shortened?",
                     p->path, path);
    close(fd);
    if (s)
        lgv_free(bytes);
    else
        *data = bytes;
    return s;
}

lgv_status lgv_picture_bytes(const lgv_dataset *d, const lgv_picture *p, const char *name,
                             char **data, size_t *size, lgv_error *err)
{
    *size = (size_t)p->size;
    return p->kind == LGV_PICTURE_MEMBER ? read_member(d, p, data, err)
                                         : lgv_file_read(name, FILE_BYTES, data, size, err);
}

lgv_status lgv_picture_probe(const lgv_dataset *d, const lgv_picture *p, lgv_image_info *out,
                             lgv_error *err)
{
    if (p->full_width) {
        *out = (lgv_image_info){(lgv_image_type)p->type, p->full_width, p->full_height, p->channels,
                                p->bits};
        return LGV_OK;
    }
    char *name = lgv_picture_name(d, p), *data = NULL;
    if (!name) return lgv_fail(err, LGV_ERR_MEMORY, "out of memory while reading '%s'", d->path);
    lgv_status s;
    if (p->kind == LGV_PICTURE_FILE)
        s = lgv_image_probe(name, out, err);
    else if (!d->part[p->part].plain)
        s = lgv_fail(err, LGV_ERR_FORMAT, "%s: its header is damaged", name);
    else if (!(s = read_member(d, p, &data, err)))
        s = lgv_image_probe_memory(data, (size_t)p->size, name, out, err);
    lgv_free(data);
    lgv_free(name);
    return s;
}

/* ---- decoding ---- */

static lgv_status decode_bytes(lgv_dataset *d, const void *data, size_t size, const char *name,
                               view *v, lgv_error *err)
{
    lgv_image raw = {0}, flat = {0};
    int width, height;
    LGV_TRY(lgv_image_decode(data, size, name, &raw, err));
    lgv_status s = lgv_image_convert(&raw, d->options.channels, d->options.background, &flat, err);
    lgv_image_free(&raw);
    if (!s) {
        lgv_image_short_side(flat.width, flat.height, d->options.resolution, &width, &height);
        s = lgv_image_resize(&flat, width, height, &v->image, err);
    }
    lgv_image_free(&flat);
    if (s) return s;
    v->pixels = v->image.pixels;
    v->width = v->image.width;
    v->height = v->image.height;
    return LGV_OK;
}

static lgv_status decode(lgv_dataset *d, const lgv_picture *p, view *v, lgv_error *err)
{
    char *name = lgv_picture_name(d, p), *data = NULL;
    size_t size = 0;
    if (!name) return lgv_fail(err, LGV_ERR_MEMORY, "out of memory while reading '%s'", p->path);
    lgv_status s = lgv_picture_bytes(d, p, name, &data, &size, err);
    if (!s) s = decode_bytes(d, data, size, name, v, err);
    lgv_free(data);
    lgv_free(name);
    return s;
}

/* Names a picture as broken, once. */
static void mark_broken(lgv_dataset *d, lgv_picture *p, const lgv_error *why)
{
    char *text = lgv_strdup(why->text);
    pthread_mutex_lock(&d->lock);
    if (p->state != LGV_PICTURE_BROKEN) {
        p->state = LGV_PICTURE_BROKEN;
        if (text && !lgv_grow(&d->skipped, &d->skipped_capacity, d->skipped_count + 1,
                              sizeof *d->skipped, NULL)) {
            d->skipped[d->skipped_count++] = text;
            text = NULL;
        }
    }
    pthread_mutex_unlock(&d->lock);
    lgv_free(text);
}

/* ---- compressed archives ---- */

static lgv_status keep_streamed(lgv_dataset *d, void *user, lgv_picture *p, const uint8_t *data,
                                lgv_error *err)
{
    view v = {.channels = d->options.channels};
    lgv_error why;
    char *name = lgv_picture_name(d, p);
    if (!name) return lgv_fail(err, LGV_ERR_MEMORY, "out of memory while reading '%s'", p->path);
    lgv_status s = decode_bytes(d, data, (size_t)p->size, name, &v, &why);
    lgv_free(name);
    if (!s) keep(d, p, &v);
    view_free(&v);
    if (s == LGV_ERR_MEMORY || (s && d->options.strict)) return lgv_fail(err, s, "%s", why.text);
    if (s) mark_broken(d, p, &why);
    if (s || p->state != LGV_PICTURE_UNSEEN) return LGV_OK;
    return lgv_fail(err, LGV_ERR_IO,
                    "no room for the pictures of '%s' once they are decoded: neither in the memory "
                    "set aside nor in TMPDIR; free some, or use a tar that is not compressed",
                    d->part[p->part].path);
}

/* The first thread that wants a picture of a compressed archive decodes them all; others wait. */
static lgv_status fill(lgv_dataset *d, lgv_part *part, lgv_error *err)
{
    pthread_mutex_lock(&d->lock);
    while (part->filled == 1) pthread_cond_wait(&d->filled, &d->lock);
    bool ours = part->filled == 0;
    if (ours) part->filled = 1;
    pthread_mutex_unlock(&d->lock);
    if (!ours) return LGV_OK;
    lgv_status s = lgv_archive_stream(d, part, keep_streamed, NULL, err);
    pthread_mutex_lock(&d->lock);
    part->filled = s ? 0 : 2;
    pthread_cond_broadcast(&d->filled);
    pthread_mutex_unlock(&d->lock);
    return s;
}

/* ---- the cache ---- */

/* What is known of the picture without decoding it: true when pixels or the lack of them are. */
static bool cached(lgv_dataset *d, lgv_picture *p, view *v, int *state)
{
    pthread_mutex_lock(&d->lock);
    *state = p->state;
    v->width = p->width;
    v->height = p->height;
    v->pixels = p->pixels;
    int64_t offset = p->offset;
    pthread_mutex_unlock(&d->lock);
    if (*state == LGV_PICTURE_RAM || *state == LGV_PICTURE_BROKEN) return true;
    if (*state == LGV_PICTURE_UNSEEN) return false;
    size_t bytes = picture_bytes(d, v->width, v->height);
    v->scratch = lgv_alloc(bytes, 1);
    v->pixels = v->scratch;
    if (!v->scratch) return false;
    if (*state == LGV_PICTURE_SPILLED) return lgv_read_at(d->spill, v->scratch, bytes, offset);
    if (lgv_cache_read(d, p, v->scratch, bytes)) return true;
    pthread_mutex_lock(&d->lock);
    if (p->state == LGV_PICTURE_STORED) p->state = LGV_PICTURE_UNSEEN; /* damaged: decoded again */
    pthread_mutex_unlock(&d->lock);
    return false;
}

/* The resized picture of a file. *broken is set when the file is at fault, not the machine. */
static lgv_status file_view(lgv_dataset *d, lgv_picture *p, view *v, bool *broken, lgv_error *err)
{
    int state;
    v->channels = d->options.channels;
    bool known = cached(d, p, v, &state),
         stream = p->kind == LGV_PICTURE_MEMBER && !d->part[p->part].plain;
    if (!known && stream) {
        view_free(v);
        *v = (view){.channels = d->options.channels};
        LGV_TRY(fill(d, &d->part[p->part], err));
        known = cached(d, p, v, &state);
    }
    *broken = state == LGV_PICTURE_BROKEN;
    if (*broken) return lgv_fail(err, LGV_ERR_FORMAT, "'%s' cannot be decoded", p->path);
    if (known) return LGV_OK;
    if (stream)
        return lgv_fail(err, LGV_ERR_IO, "cannot read the temporary file with the pictures of '%s'",
                        d->part[p->part].path);
    lgv_error why;
    lgv_status s = decode(d, p, v, &why);
    if (!s) {
        keep(d, p, v);
        return LGV_OK;
    }
    /* What could be opened at the start and cannot now has gone: training without it would be another run. */
    *broken = s != LGV_ERR_MEMORY && s != LGV_ERR_IO && !d->options.strict;
    if (*broken) mark_broken(d, p, &why);
    return lgv_fail(err, s, "%s", why.text);
}

/* A picture of an array: as it is when it fits or is to be framed, else resized as a file would be. */
static lgv_status raw_view(const lgv_dataset *d, const lgv_picture *p, view *v, lgv_error *err)
{
    const lgv_part *part = &d->part[p->part];
    int side = d->options.resolution, channels = d->options.channels, width, height;
    size_t bytes = (size_t)part->width * (size_t)part->height * (size_t)part->channels;
    lgv_image in = {.width = part->width,
                    .height = part->height,
                    .channels = part->channels,
                    .bits = 8,
                    .pixels = part->pixels + bytes * (size_t)p->at},
              flat = {0};
    v->pixels = in.pixels;
    v->width = part->width;
    v->height = part->height;
    v->channels = part->channels;
    bool fits = part->pad ? in.width <= side && in.height <= side
                          : (in.width < in.height ? in.width : in.height) == side;
    if (fits && channels >= part->channels) return LGV_OK;
    if (channels < part->channels) LGV_TRY(lgv_image_convert(&in, channels, NULL, &flat, err));
    const lgv_image *from = flat.pixels ? &flat : &in;
    lgv_image_short_side(in.width, in.height, side, &width, &height);
    lgv_status s =
        lgv_image_resize(from, fits ? in.width : width, fits ? in.height : height, &v->image, err);
    lgv_image_free(&flat);
    v->pixels = v->image.pixels;
    v->width = v->image.width;
    v->height = v->image.height;
    v->channels = v->image.channels;
    return s;
}

/* ---- crop and flip ---- */

/* Copies the square whose corner is (x, y) in the picture; outside it is 0. */
static void cut(const view *v, int x, int y, int side, int channels, int flip, uint8_t *out)
{
    for (int r = 0; r < side; r++) {
        for (int c = 0; c < side; c++) {
            int sx = x + (flip ? side - 1 - c : c), sy = y + r;
            uint8_t *to = out + ((size_t)r * (size_t)side + (size_t)c) * (size_t)channels;
            bool inside = sx >= 0 && sx < v->width && sy >= 0 && sy < v->height;
            const uint8_t *from = v->pixels;
            if (inside) from += ((size_t)sy * (size_t)v->width + (size_t)sx) * (size_t)v->channels;
            for (int k = 0; k < channels; k++) to[k] = inside ? from[v->channels == 1 ? 0 : k] : 0;
        }
    }
}

static void place(const lgv_dataset *d, const view *v, int validation, uint64_t seed,
                  uint64_t sample, uint8_t *out)
{
    int side = d->options.resolution, mx = v->width - side, my = v->height - side;
    lgv_rng_key key = {.seed = seed,
                       .stream = lgv_rng_stream("data.augment"),
                       .sample = sample & ((UINT64_C(1) << 40) - 1),
                       .step = sample >> 40};
    /* C's division rounds towards zero: of an odd padding the smaller part stands before the
     * picture. */
    int x = mx < 0 ? mx / 2 : half_even(mx), y = my < 0 ? my / 2 : half_even(my), flip = 0;
    if (!validation && !d->options.center_crop) {
        if (mx > 0) x = (int)lgv_rng_below(&key, 0, (uint64_t)mx + 1);
        if (my > 0) y = (int)lgv_rng_below(&key, 1, (uint64_t)my + 1);
    }
    if (!validation && d->options.random_flip) flip = (int)lgv_rng_below(&key, 2, 2);
    cut(v, x, y, side, d->options.channels, flip, out);
}

static lgv_status all_broken(lgv_dataset *d, int64_t count, lgv_error *err)
{
    pthread_mutex_lock(&d->lock);
    lgv_status s = lgv_fail(
        err, LGV_ERR_FORMAT, "none of the %lld pictures in '%s' can be decoded; the first: %s",
        (long long)count, d->path, d->skipped_count ? d->skipped[0] : "unknown");
    pthread_mutex_unlock(&d->lock);
    return s;
}

lgv_status lgv_dataset_read(lgv_dataset *d, int validation, int64_t i, uint64_t seed,
                            uint64_t sample, uint8_t *pixels, int64_t *used, lgv_error *err)
{
    int64_t count = validation ? d->validation_count : d->train_count;
    if (i < 0 || i >= count)
        return lgv_fail(err, LGV_ERR_ARGUMENT, "picture %lld is outside the data set's %lld",
                        (long long)i, (long long)count);
    const int64_t *map = validation ? d->validation : d->train;
    for (int64_t tries = 0; tries < count; tries++, i = (i + 1) % count) {
        lgv_picture *p = &d->list.item[map[i]];
        view v = {0};
        bool broken = false;
        lgv_status s = p->kind == LGV_PICTURE_RAW ? raw_view(d, p, &v, err)
                                                  : file_view(d, p, &v, &broken, err);
        if (!s) place(d, &v, validation, seed, sample, pixels);
        view_free(&v);
        if (!s && used) *used = i;
        if (!broken) return s;
    }
    return all_broken(d, count, err);
}

int64_t lgv_dataset_skipped(lgv_dataset *d)
{
    pthread_mutex_lock(&d->lock);
    int64_t n = (int64_t)d->skipped_count;
    pthread_mutex_unlock(&d->lock);
    return n;
}

const char *lgv_dataset_skipped_at(lgv_dataset *d, int64_t i)
{
    pthread_mutex_lock(&d->lock);
    const char *text = i >= 0 && (size_t)i < d->skipped_count ? d->skipped[i] : NULL;
    pthread_mutex_unlock(&d->lock);
    return text;
}

size_t lgv_dataset_memory(lgv_dataset *d)
{
    size_t side = (size_t)d->options.resolution, limit = d->options.memory_limit;
    pthread_mutex_lock(&d->lock);
    size_t bytes = d->kept, square = d->to_decode * side * side * (size_t)d->options.channels;
    pthread_mutex_unlock(&d->lock);
    if (bytes < square) bytes = square;
    return d->raw_bytes + (bytes < limit ? bytes : limit);
}
