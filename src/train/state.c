/* state.c - the state of a run as JSON: counters, and PyTorch's generator where it is used. */
#include "trainer.h"

#include <stdio.h>
#include <string.h>

enum { WORDS = 624 };

static json_t *torch_json(const lgv_torch_rng *rng)
{
    char *hex = lgv_alloc(WORDS * 8 + 1, 1);
    if (!hex) return NULL;
    static const char digits[] = "0123456789abcdef";
    for (int i = 0; i < WORDS; i++)
        for (int k = 0; k < 8; k++) hex[i * 8 + k] = digits[rng->mt[i] >> (28 - 4 * k) & 15];
    hex[WORDS * 8] = 0;
    char seed[24];
    snprintf(seed, sizeof seed, "%016llx", (unsigned long long)rng->seed);
    json_t *root =
        json_pack("{s:s, s:i, s:i, s:s, s:i, s:f}", "mt19937", hex, "left", rng->left, "next",
                  rng->next, "seed", seed, "has_cached", rng->has_cached, "cached", rng->cached);
    lgv_free(hex);
    return root;
}

static bool parse_hex(const char *s, int digits, uint64_t *out)
{
    uint64_t v = 0;
    for (int i = 0; i < digits; i++) {
        char c = s[i];
        int d = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
        if (d < 0) return false;
        v = v << 4 | (uint64_t)d;
    }
    *out = v;
    return true;
}

static bool torch_parse(const json_t *root, lgv_torch_rng *rng)
{
    const char *hex = json_string_value(json_object_get(root, "mt19937"));
    const char *seed = json_string_value(json_object_get(root, "seed"));
    if (!hex || strlen(hex) != WORDS * 8 || !seed || strlen(seed) != 16) return false;
    uint64_t v;
    for (int i = 0; i < WORDS; i++) {
        if (!parse_hex(hex + i * 8, 8, &v)) return false;
        rng->mt[i] = (uint32_t)v;
    }
    json_int_t left = json_integer_value(json_object_get(root, "left"));
    json_int_t next = json_integer_value(json_object_get(root, "next"));
    if (left < 0 || left > WORDS || next < 0 || next > WORDS || !parse_hex(seed, 16, &rng->seed))
        return false;
    rng->left = (int32_t)left;
    rng->next = (int32_t)next;
    rng->has_cached = json_integer_value(json_object_get(root, "has_cached")) != 0;
    rng->cached = json_number_value(json_object_get(root, "cached"));
    return true;
}

json_t *lgv_train_state_json(const lgv_trainer *t)
{
    const lgv_train_state *s = &t->state;
    const lgv_loss_watch *w = &s->watch;
    json_t *watch = json_pack("{s:f, s:f, s:f, s:I, s:I, s:I}", "sum", w->sum, "weight", w->weight,
                              "best", w->best, "best_step", (json_int_t)w->best_step, "seen",
                              (json_int_t)w->seen, "high", (json_int_t)w->high);
    json_t *root =
        json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:f, s:f, s:o}", "step", (json_int_t)s->step,
                  "updates", (json_int_t)s->updates, "position", (json_int_t)s->position, "epoch",
                  (json_int_t)(s->position / t->per_epoch), "skipped_updates",
                  (json_int_t)s->skipped, "skipped_in_a_row", (json_int_t)s->bad, "seconds",
                  s->seconds, "sample_seconds", s->sample_seconds, "loss_watch", watch);
    json_t *validation =
        json_pack("{s:f, s:f, s:I}", "loss", s->validation_loss, "best", s->validation_best,
                  "rises_in_a_row", (json_int_t)s->validation_rises);
    if (json_object_set_new(root, "validation", validation)) { /* also when there is no root */
        json_decref(root);
        return NULL;
    }
    if (t->options.rng != LGV_RNG_TORCH) return root;
    if (json_object_set_new(root, "generator", torch_json(&s->torch)) ||
        json_object_set_new(root, "generator_at_epoch", torch_json(&s->torch_epoch))) {
        json_decref(root);
        return NULL;
    }
    return root;
}

static bool count(const json_t *root, const char *key, int64_t *out)
{
    const json_t *v = json_object_get(root, key);
    *out = json_integer_value(v);
    return json_is_integer(v) && *out >= 0 && *out < INT64_C(1) << 56;
}

static bool watch_parse(const json_t *root, lgv_loss_watch *w)
{
    w->sum = json_number_value(json_object_get(root, "sum"));
    w->weight = json_number_value(json_object_get(root, "weight"));
    w->best = json_number_value(json_object_get(root, "best"));
    return count(root, "best_step", &w->best_step) && count(root, "seen", &w->seen) &&
           count(root, "high", &w->high) && w->weight >= 0;
}

lgv_status lgv_train_state_parse(const json_t *root, bool torch, lgv_train_state *out,
                                 lgv_error *err)
{
    lgv_train_state s = {0};
    if (!count(root, "step", &s.step) || !count(root, "updates", &s.updates) ||
        !count(root, "position", &s.position) || !count(root, "skipped_updates", &s.skipped) ||
        !count(root, "skipped_in_a_row", &s.bad) || s.updates > s.step)
        return lgv_fail(err, LGV_ERR_FORMAT,
                        "trainer.json: the counters of 'state' are missing or make no sense");
    const json_t *watch = json_object_get(root, "loss_watch"); /* not in older checkpoints */
    if (watch && !watch_parse(watch, &s.watch))
        return lgv_fail(err, LGV_ERR_FORMAT, "trainer.json: 'loss_watch' makes no sense");
    const json_t *validation = json_object_get(root, "validation"); /* likewise */
    s.validation_loss = json_number_value(json_object_get(validation, "loss"));
    s.validation_best = json_number_value(json_object_get(validation, "best"));
    if (validation && !count(validation, "rises_in_a_row", &s.validation_rises))
        return lgv_fail(err, LGV_ERR_FORMAT, "trainer.json: 'validation' makes no sense");
    s.seconds = json_number_value(json_object_get(root, "seconds"));
    s.sample_seconds = json_number_value(json_object_get(root, "sample_seconds"));
    if (torch && (!torch_parse(json_object_get(root, "generator"), &s.torch) ||
                  !torch_parse(json_object_get(root, "generator_at_epoch"), &s.torch_epoch)))
        return lgv_fail(err, LGV_ERR_FORMAT,
                        "trainer.json: the state of PyTorch's generator is missing or damaged");
    *out = s;
    return LGV_OK;
}
