/* eval_nearest.c - is a sample new? Each beside the nearest of all training pictures, by the distance of
   their pixels (eval.h says what counts as a copy); the most copy-like come first on the sheet. */
#include <stdlib.h>
#include <string.h>

#include "eval.h"
#include "progress.h"

enum { CHUNK = 256, PAIRS = 32, PAIRS_A_ROW = 4 };

static lgv_status no_memory(lgv_error *err)
{
    snprintf(err->text, sizeof err->text, "out of memory while looking for copies");
    return err->status = LGV_ERR_MEMORY;
}

static lgv_status search(eval_job *j, lgv_copy_search *s, uint8_t *chunk, lgv_error *err)
{
    cli_progress bar = {0}; /* --json: it never begins */
    int side = j->generated.side;
    int64_t all = lgv_dataset_count(j->data);
    size_t each = (size_t)side * (size_t)side * (size_t)j->generated.channels;
    lgv_status status = LGV_OK;
    if (!j->args->json) cli_progress_begin(&bar, "comparing", "pictures/s", 1, 0, all);
    for (int64_t first = 0; first < all && !status; first += CHUNK) {
        int64_t count = all - first < CHUNK ? all - first : CHUNK;
        for (int64_t i = 0; i < count && !status; i++)
            status = lgv_dataset_read(j->data, 0, first + i, 0, (uint64_t)(first + i),
                                      chunk + (size_t)i * each, NULL, err);
        if (!status) lgv_copy_search_add(s, first, count, chunk);
        cli_progress_show(&bar, first + count, NULL);
        if (!status && cli_signal()) status = err->status = LGV_ERR_CANCELLED;
    }
    cli_progress_clear(&bar);
    return status;
}

/* ---- the sheet ---- */

typedef struct pair {
    int64_t sample;
    double ratio;
} pair;

static int by_ratio(const void *a, const void *b)
{
    const pair *x = a, *y = b;
    if (x->ratio != y->ratio) return x->ratio < y->ratio ? -1 : 1;
    return (x->sample > y->sample) - (x->sample < y->sample);
}

static lgv_status write_sheet(const eval_job *j, const lgv_image *images, size_t n, lgv_error *err)
{
    char text[256];
    lgv_image grid = {0};
    snprintf(
        text, sizeof text,
        "each sample, right of it the nearest training picture (pixels); the most alike first; "
        "%.4g %% of %lld samples are copies",
        100 * j->copies.value, (long long)j->generated.n);
    const lgv_png_text line = {"parameters", text};
    lgv_status status = lgv_image_grid(images, n, 2 * PAIRS_A_ROW, &grid, err);
    if (!status) status = lgv_image_save_png(j->args->nearest, &grid, &line, 1, err);
    lgv_image_free(&grid);
    return status;
}

static lgv_status make_sheet(const eval_job *j, const pair *order, lgv_error *err)
{
    const eval_set *g = &j->generated;
    size_t each = (size_t)g->side * (size_t)g->side * (size_t)g->channels;
    int64_t pairs = g->n < PAIRS ? g->n : PAIRS;
    uint8_t *nearest = malloc((size_t)pairs * each);
    lgv_image images[2 * PAIRS];
    lgv_status status = nearest ? LGV_OK : no_memory(err);
    for (int64_t k = 0; k < pairs && !status; k++) {
        int64_t i = order[k].sample, index = j->copy[i].index;
        lgv_image one = {.width = g->side, .height = g->side, .channels = g->channels, .bits = 8};
        images[2 * k] = images[2 * k + 1] = one;
        images[2 * k].pixels = g->pixels + (size_t)i * each;
        images[2 * k + 1].pixels = nearest + (size_t)k * each;
        status = lgv_dataset_read(j->data, 0, index, 0, (uint64_t)index, images[2 * k + 1].pixels,
                                  NULL, err);
    }
    if (!status) status = write_sheet(j, images, (size_t)(2 * pairs), err);
    free(nearest);
    return status;
}

static lgv_status judge(eval_job *j, const lgv_copy_search *s, pair *order, uint8_t *hit,
                        lgv_error *err)
{
    const lgv_eval_options o = {.seed = j->args->seed};
    for (int64_t i = 0; i < j->generated.n; i++) {
        lgv_copy *c = &j->copy[i];
        lgv_copy_search_result(s, i, c);
        hit[i] = (uint8_t)c->copy;
        order[i] = (pair){i, c->distance > 0 ? c->distance / c->second : 0};
    }
    qsort(order, (size_t)j->generated.n, sizeof *order, by_ratio);
    lgv_status status = lgv_share(j->generated.n, hit, &o, &j->copies, err);
    return status ? status : make_sheet(j, order, err);
}

lgv_status eval_nearest(eval_job *j, lgv_error *err)
{
    const eval_set *g = &j->generated;
    size_t each = (size_t)g->side * (size_t)g->side * (size_t)g->channels;
    pair *order = malloc((size_t)g->n * sizeof *order);
    uint8_t *hit = malloc((size_t)g->n), *chunk = malloc(CHUNK * each);
    lgv_copy_search *s = NULL;
    j->copy = malloc((size_t)g->n * sizeof *j->copy);
    lgv_status status = order && hit && chunk && j->copy ? LGV_OK : no_memory(err);
    if (!status) status = lgv_copy_search_new(g->n, (int64_t)each, g->pixels, &s, err);
    if (!status) status = search(j, s, chunk, err);
    if (!status) status = judge(j, s, order, hit, err);
    lgv_copy_search_free(s);
    free(order);
    free(hit);
    free(chunk);
    return status;
}
