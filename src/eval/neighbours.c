/* neighbours.c - distances of many vectors to many: k-th neighbours, manifolds, copies.
   64 vectors at a time are turned so that the inner loop runs over them: no reduction, hence plain C that
   the compiler makes vectors of, and differences are taken before they are squared, so that equal pictures
   are at distance 0. */
#include <math.h>
#include <string.h>

#include "eval.h"

enum { BLOCK = 64 };

static void block_distances(int64_t d, const float *x, const float *block, float out[BLOCK])
{
    float sum[BLOCK] = {0};
    for (int64_t k = 0; k < d; k++)
        for (int j = 0; j < BLOCK; j++) {
            float gap = x[k] - block[k * BLOCK + j];
            sum[j] += gap * gap;
        }
    memcpy(out, sum, sizeof sum);
}

/* Rows first .. of x[n][d] as columns; those beyond the end repeat the last. */
static int turn(int64_t n, int64_t d, const float *x, int64_t first, float *block)
{
    int count = (int)lgv_min_i64(BLOCK, n - first);
    for (int j = 0; j < BLOCK; j++) {
        const float *row = x + (first + (j < count ? j : count - 1)) * d;
        for (int64_t k = 0; k < d; k++) block[k * BLOCK + j] = row[k];
    }
    return count;
}

static float *block_new(int64_t d, lgv_error *err)
{
    float *block = lgv_alloc((size_t)d, BLOCK * sizeof *block);
    if (!block)
        lgv_fail(err, LGV_ERR_MEMORY, "out of memory for vectors of %lld numbers", (long long)d);
    return block;
}

/* Keeps the k smallest, ascending. */
static void keep(float *list, int k, float v)
{
    if (!(v < list[k - 1])) return;
    int i = k - 1;
    for (; i > 0 && list[i - 1] > v; i--) list[i] = list[i - 1];
    list[i] = v;
}

lgv_status lgv_kth_neighbours(int64_t n, int64_t d, const float *x, int k, float *radius,
                              lgv_error *err)
{
    float *block = block_new(d, err), *list = lgv_alloc((size_t)n, (size_t)k * sizeof *list);
    lgv_status status = LGV_OK;
    if (!block || !list)
        status = lgv_fail(err, LGV_ERR_MEMORY, "out of memory for the neighbours of %lld pictures",
                          (long long)n);
    for (int64_t i = 0; i < n * k && !status; i++) list[i] = INFINITY;
    for (int64_t first = 0; first < n && !status; first += BLOCK) {
        float near[BLOCK];
        int count = turn(n, d, x, first, block);
        for (int64_t i = 0; i < n; i++) {
            block_distances(d, x + i * d, block, near);
            for (int j = 0; j < count; j++)
                if (first + j != i) keep(list + i * k, k, near[j]);
        }
    }
    for (int64_t i = 0; i < n && !status; i++) radius[i] = list[i * k + k - 1];
    lgv_free(block);
    lgv_free(list);
    return status;
}

lgv_status lgv_inside(int64_t n, const float *a, const float *radius_a, int64_t m, const float *b,
                      const float *radius_b, int64_t d, uint8_t *inside_a, uint8_t *inside_b,
                      lgv_error *err)
{
    float *block = block_new(d, err);
    if (!block) return LGV_ERR_MEMORY;
    memset(inside_a, 0, (size_t)n);
    memset(inside_b, 0, (size_t)m);
    for (int64_t first = 0; first < m; first += BLOCK) {
        float near[BLOCK];
        int count = turn(m, d, b, first, block);
        for (int64_t i = 0; i < n; i++) {
            block_distances(d, a + i * d, block, near);
            for (int j = 0; j < count; j++) {
                inside_a[i] |= near[j] <= radius_b[first + j];
                inside_b[first + j] |= near[j] <= radius_a[i];
            }
        }
    }
    lgv_free(block);
    return LGV_OK;
}

/* ---- copies ---- */

static const double copy_ratio = 1.0 / 3, copy_distance = 3;

typedef struct candidate {
    int64_t index;
    float near, second;
} candidate;

struct lgv_copy_search {
    int64_t n, count;
    float *pixels; /* [n][count] */
    float *block;  /* [count][64] */
    candidate *found;
};

lgv_status lgv_copy_search_new(int64_t n, int64_t count, const uint8_t *pixels,
                               lgv_copy_search **out, lgv_error *err)
{
    lgv_copy_search *s = lgv_zalloc(1, sizeof *s);
    int64_t all;
    if (s && lgv_mul_i64(n, count, &all)) {
        *s = (lgv_copy_search){.n = n, .count = count};
        s->pixels = lgv_alloc((size_t)all, sizeof *s->pixels);
        s->block = lgv_zalloc((size_t)count, BLOCK * sizeof *s->block);
        s->found = lgv_alloc((size_t)n, sizeof *s->found);
    }
    if (!s || !s->pixels || !s->block || !s->found) {
        lgv_copy_search_free(s);
        return lgv_fail(err, LGV_ERR_MEMORY, "out of memory to look for copies of %lld pictures",
                        (long long)n);
    }
    for (int64_t i = 0; i < all; i++) s->pixels[i] = pixels[i];
    for (int64_t i = 0; i < n; i++) s->found[i] = (candidate){-1, INFINITY, INFINITY};
    *out = s;
    return LGV_OK;
}

void lgv_copy_search_free(lgv_copy_search *s)
{
    if (!s) return;
    lgv_free(s->pixels);
    lgv_free(s->block);
    lgv_free(s->found);
    lgv_free(s);
}

static void meet(candidate *c, int64_t index, float near)
{
    if (near < c->near) {
        c->second = c->near;
        c->near = near;
        c->index = index;
    } else if (near < c->second) {
        c->second = near;
    }
}

void lgv_copy_search_add(lgv_copy_search *s, int64_t first, int64_t pictures, const uint8_t *pixels)
{
    for (int64_t at = 0; at < pictures; at += BLOCK) {
        float near[BLOCK];
        int count = (int)lgv_min_i64(BLOCK, pictures - at);
        for (int j = 0; j < count; j++)
            for (int64_t k = 0; k < s->count; k++)
                s->block[k * BLOCK + j] = pixels[(at + j) * s->count + k];
        for (int64_t i = 0; i < s->n; i++) {
            block_distances(s->count, s->pixels + i * s->count, s->block, near);
            for (int j = 0; j < count; j++) meet(&s->found[i], first + at + j, near[j]);
        }
    }
}

void lgv_copy_search_result(const lgv_copy_search *s, int64_t i, lgv_copy *out)
{
    const candidate *c = &s->found[i];
    lgv_copy r = {.index = c->index,
                  .distance = sqrt((double)c->near / (double)s->count),
                  .second = sqrt((double)c->second / (double)s->count)};
    r.copy = c->index >= 0 && (r.distance < copy_distance || r.distance < copy_ratio * r.second);
    *out = r;
}
