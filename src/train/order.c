/* order.c - which picture comes when. An epoch is a function of (seed, epoch) only, so nothing of it needs
   to be stored in a checkpoint.
   A source of n pictures and weight w gives round(n w) draws an epoch: every picture floor(w) times, and the
   rest by the next pictures of a shuffled list that runs on from epoch to epoch, so that none is left out for
   long. Without weights an epoch is a plain permutation. */
#include <math.h>
#include <string.h>

#include "dataset.h"
#include "langevin/rng.h"

static void shuffle(lgv_rng_key key, int64_t n, int64_t *order)
{
    for (int64_t i = 0; i < n - 1; i++) {
        int64_t k = i + (int64_t)lgv_rng_below(&key, (uint64_t)i, (uint64_t)(n - i));
        int64_t held = order[i];
        order[i] = order[k];
        order[k] = held;
    }
}

/* Fisher-Yates with a Philox number per place. */
void lgv_epoch_order(uint64_t seed, int64_t epoch, int64_t n, int64_t *order)
{
    lgv_rng_key key = {
        .seed = seed, .stream = lgv_rng_stream("data.order"), .step = (uint64_t)epoch};
    for (int64_t i = 0; i < n; i++) order[i] = i;
    shuffle(key, n, order);
}

static int64_t draws_of(const lgv_source *s)
{
    if (!s->train_n) return 0;
    return lgv_max_i64(1, llround((double)s->train_n * s->weight));
}

static bool weighted(const lgv_dataset *d)
{
    for (int i = 0; i < d->sources; i++)
        if (draws_of(&d->source[i]) != d->source[i].train_n) return true;
    return false;
}

int64_t lgv_dataset_epoch(const lgv_dataset *d)
{
    int64_t n = 0;
    for (int i = 0; i < d->sources; i++) n += draws_of(&d->source[i]);
    return n;
}

size_t lgv_dataset_order_scratch(const lgv_dataset *d)
{
    if (!weighted(d)) return 0;
    return (size_t)(lgv_dataset_epoch(d) + d->train_count);
}

/* The `rest` draws that a source has beyond its whole repetitions: places epoch * rest and on of its shuffled
   lists laid end to end. list: room for the source's pictures. */
static void draw_rest(const lgv_source *s, uint64_t seed, int source, int64_t epoch, int64_t rest,
                      int64_t *list, int64_t *out)
{
    lgv_rng_key key = {
        .seed = seed, .stream = lgv_rng_stream("data.weights"), .sample = (uint64_t)source};
    int64_t round = -1;
    for (int64_t k = 0; k < rest; k++) {
        int64_t place = epoch * rest + k;
        if (place / s->train_n != round) {
            round = place / s->train_n;
            key.step = (uint64_t)round;
            for (int64_t i = 0; i < s->train_n; i++) list[i] = s->train_first + i;
            shuffle(key, s->train_n, list);
        }
        out[k] = list[place % s->train_n];
    }
}

void lgv_dataset_order(const lgv_dataset *d, uint64_t seed, int64_t epoch, int64_t *order,
                       int64_t *scratch)
{
    int64_t total = lgv_dataset_epoch(d), n = 0;
    lgv_epoch_order(seed, epoch, total, order);
    if (!weighted(d)) return;
    int64_t *drawn = scratch, *list = scratch + total;
    for (int i = 0; i < d->sources; i++) {
        const lgv_source *s = &d->source[i];
        int64_t draws = draws_of(s), whole = s->train_n ? draws / s->train_n : 0;
        for (int64_t r = 0; r < whole; r++)
            for (int64_t k = 0; k < s->train_n; k++) drawn[n++] = s->train_first + k;
        int64_t rest = draws - whole * s->train_n;
        draw_rest(s, seed, i, epoch, rest, list, drawn + n);
        n += rest;
    }
    for (int64_t i = 0; i < total; i++) order[i] = drawn[order[i]];
}
