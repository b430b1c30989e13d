/* survey.c - looking at every picture of a data set: sizes, formats, what is broken, what is there twice.
   Unlike training, which meets broken pictures as it goes, this reads all of them now. */
#include <stdlib.h>
#include <string.h>

#include "core/pool.h"
#include "dataset.h"

typedef struct item {
    char *name, *broken; /* owned */
    lgv_image_info info;
    char sha[65];
    int64_t copy_of;
    lgv_status status;
} item;

struct lgv_survey {
    const lgv_dataset *data;
    int headers_only;
    item *item;
    int64_t count;
    int64_t next; /* while working: the first picture of the present chunk */
};

/* What is wrong with a picture stays with it; only lack of memory ends the survey. */
static void note(item *it, lgv_status s, const lgv_error *why)
{
    it->status = s == LGV_ERR_MEMORY ? s : LGV_OK;
    if (!s || s == LGV_ERR_MEMORY) return;
    size_t n = it->name ? strlen(it->name) : 0;
    const char *text = why->text;
    if (n && !strncmp(text, it->name, n) && !strncmp(text + n, ": ", 2)) text += n + 2;
    if (!(it->broken = lgv_strdup(text))) it->status = LGV_ERR_MEMORY;
}

static void hash(item *it, const void *data, size_t size)
{
    lgv_sha256 sha;
    lgv_sha256_init(&sha);
    lgv_sha256_update(&sha, data, size);
    lgv_sha256_hex(&sha, it->sha);
}

/* Header, then the pixels, which are thrown away. */
static lgv_status try_decode(item *it, const void *data, size_t size, lgv_error *err)
{
    lgv_image image = {0};
    hash(it, data, size);
    LGV_TRY(lgv_image_probe_memory(data, size, it->name, &it->info, err));
    LGV_TRY(lgv_image_decode(data, size, it->name, &image, err));
    lgv_image_free(&image);
    return LGV_OK;
}

static void look(lgv_survey *s, const lgv_picture *p, item *it)
{
    lgv_error why = {0};
    char *data = NULL;
    size_t size = 0;
    lgv_status status = LGV_OK;
    if (!(it->name = lgv_picture_name(s->data, p))) {
        it->status = LGV_ERR_MEMORY;
    } else if (p->kind == LGV_PICTURE_RAW || s->headers_only) {
        status = lgv_picture_probe(s->data, p, &it->info, &why);
        const lgv_part *part = p->kind == LGV_PICTURE_RAW ? &s->data->part[p->part] : NULL;
        if (part && !s->headers_only) hash(it, part->pixels + p->size * p->at, (size_t)p->size);
        note(it, status, &why);
    } else if (p->kind == LGV_PICTURE_FILE || s->data->part[p->part].plain) {
        status = lgv_picture_bytes(s->data, p, it->name, &data, &size, &why);
        if (!status) status = try_decode(it, data, size, &why);
        lgv_free(data);
        note(it, status, &why);
    } /* compressed: its name now, the rest when the stream passes by */
}

static void look_block(void *arg, int64_t block, int thread)
{
    lgv_survey *s = arg;
    int64_t i = s->next + block;
    look(s, &s->data->list.item[i], &s->item[i]);
}

static lgv_status look_streamed(lgv_dataset *d, void *user, lgv_picture *p, const uint8_t *data,
                                lgv_error *err)
{
    lgv_survey *s = user;
    lgv_error why = {0};
    item *it = &s->item[p - d->list.item];
    note(it, try_decode(it, data, (size_t)p->size, &why), &why);
    return it->status ? lgv_fail(err, it->status, "%s", why.text) : LGV_OK;
}

static lgv_status look_at_archives(lgv_survey *s, lgv_dataset *d, lgv_error *err)
{
    for (size_t k = 0; k < d->parts && !s->headers_only; k++)
        if (!d->part[k].pixels && !d->part[k].plain)
            LGV_TRY(lgv_archive_stream(d, &d->part[k], look_streamed, s, err));
    return LGV_OK;
}

/* ---- copies ---- */

static int by_content(const void *a, const void *b)
{
    const item *x = *(item *const *)a, *y = *(item *const *)b;
    int order = strcmp(x->sha, y->sha);
    return order ? order : (x > y) - (x < y);
}

static lgv_status find_copies(lgv_survey *s, lgv_error *err)
{
    item **list = lgv_alloc((size_t)s->count, sizeof(item *));
    int64_t n = 0;
    if (!list) return lgv_fail(err, LGV_ERR_MEMORY, "out of memory for a survey");
    for (int64_t i = 0; i < s->count; i++)
        if (s->item[i].sha[0]) list[n++] = &s->item[i];
    if (n) qsort(list, (size_t)n, sizeof *list, by_content);
    for (int64_t i = 1, first = 0; i < n; i++) {
        if (strcmp(list[i]->sha, list[first]->sha))
            first = i;
        else
            list[i]->copy_of = list[first] - s->item;
    }
    lgv_free(list);
    return LGV_OK;
}

/* ---- the whole ---- */

static lgv_status look_at_all(lgv_survey *s, const lgv_survey_options *o, lgv_error *err)
{
    enum { CHUNK = 64 };
    lgv_pool *pool = NULL;
    LGV_TRY(lgv_pool_new(o->threads > 0 ? o->threads : lgv_default_threads(), &pool, err));
    lgv_status status = LGV_OK;
    for (; s->next < s->count && !status; s->next += CHUNK) {
        int64_t n = lgv_min_i64(CHUNK, s->count - s->next);
        lgv_pool_run(pool, n, look_block, s);
        for (int64_t i = 0; i < n && !status; i++)
            if ((status = s->item[s->next + i].status))
                lgv_fail(err, status, "out of memory for a survey");
        if (!status && o->progress && o->progress(o->user, s->next + n, s->count))
            status = lgv_fail(err, LGV_ERR_CANCELLED, "stopped before all pictures were seen");
    }
    lgv_pool_free(pool);
    return status;
}

lgv_status lgv_dataset_survey(lgv_dataset *data, const lgv_survey_options *options,
                              lgv_survey **out, lgv_error *err)
{
    const lgv_survey_options none = {0}, *o = options ? options : &none;
    lgv_survey *s = lgv_zalloc(1, sizeof *s);
    if (s) s->item = lgv_zalloc(data->list.count, sizeof *s->item);
    if (!s || !s->item) {
        lgv_free(s);
        return lgv_fail(err, LGV_ERR_MEMORY, "out of memory for a survey");
    }
    s->data = data;
    s->headers_only = o->headers_only;
    s->count = (int64_t)data->list.count;
    for (int64_t i = 0; i < s->count; i++) s->item[i].copy_of = -1;
    lgv_status status = look_at_all(s, o, err);
    if (!status) status = look_at_archives(s, data, err);
    if (!status) status = find_copies(s, err);
    if (status) {
        lgv_survey_free(s);
        return status;
    }
    *out = s;
    return LGV_OK;
}

void lgv_survey_free(lgv_survey *s)
{
    if (!s) return;
    for (int64_t i = 0; i < s->count; i++) {
        lgv_free(s->item[i].name);
        lgv_free(s->item[i].broken);
    }
    lgv_free(s->item);
    lgv_free(s);
}

int64_t lgv_survey_count(const lgv_survey *s)
{
    return s->count;
}

void lgv_survey_at(const lgv_survey *s, int64_t i, lgv_survey_picture *out)
{
    const lgv_picture *p = &s->data->list.item[i];
    const item *it = &s->item[i];
    *out = (lgv_survey_picture){.name = it->name,
                                .broken = it->broken,
                                .info = it->info,
                                .bytes = p->size,
                                .label = p->label,
                                .validation = p->held,
                                .copy_of = it->copy_of};
    if (p->kind != LGV_PICTURE_RAW) out->info.type = (lgv_image_type)p->type;
}
