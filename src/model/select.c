/* select.c - finding a network's tensors in a file. Nothing is guessed from how programs name their dictionaries: the
   network's first parameter is looked for at the end of every name, and what stands before it is a candidate when
   all other parameters are there, too. */
#include "select.h"

#include <stdio.h>
#include <string.h>

#include "layout.h"

enum { CANDIDATES = 64 };

typedef struct candidates {
    lgv_selection s[CANDIDATES];
    int count;
} candidates;

/* --- Names --- */
static void remove_dots(char *text)
{
    char *to = text;
    for (const char *from = text; *from; from++)
        if (*from != '.') *to++ = *from;
    *to = 0;
}

static const lgv_tensor_info *find_exactly(const lgv_selection *s, const char *name)
{
    char full[2 * LGV_TENSOR_NAME + 2];
    size_t n = strlen(s->prefix);
    if (strlen(name) > LGV_TENSOR_NAME) return NULL;
    snprintf(full, sizeof full, "%s%s", s->prefix, name);
    if (s->dotless) remove_dots(full + n);
    return lgv_weights_find(s->w, full);
}

const lgv_tensor_info *lgv_selected(const lgv_selection *s, size_t i)
{
    char text[512];
    const char *name = s->layout.tensor[i].name;
    const lgv_tensor_info *t = find_exactly(s, name);
    if (t || !s->model->kind->old_name) return t;
    name = s->model->kind->old_name(name, text, sizeof text);
    return name ? find_exactly(s, name) : NULL;
}

/* --- Candidates --- */
static size_t found(const lgv_selection *s)
{
    size_t n = 0;
    for (size_t i = 0; i < s->layout.count; i++)
        n += lgv_selected(s, i) != NULL || s->layout.tensor[i].optional;
    return n;
}

static void add_candidate(candidates *c, const lgv_selection *base, const char *name,
                          size_t length, bool dotless)
{
    if (c->count == CANDIDATES || length > LGV_TENSOR_NAME) return;
    lgv_selection *s = &c->s[c->count];
    *s = *base;
    s->dotless = dotless;
    memcpy(s->prefix, name, length);
    s->prefix[length] = 0;
    c->count++;
}

static bool ends_in(const char *name, const char *end, size_t *before)
{
    size_t n = strlen(name), k = strlen(end);
    *before = n - k;
    return n >= k && !strcmp(name + n - k, end);
}

/* Places of one name: alone, after a dot, or, in the averages of CompVis (LitEma), without dots behind "model_ema.". */
static void look_for(candidates *c, const lgv_selection *base, const char *wanted)
{
    const lgv_weights *w = base->w;
    char dotless[512];
    size_t before;
    snprintf(dotless, sizeof dotless, "%s", wanted);
    remove_dots(dotless);
    for (size_t i = 0; i < lgv_weights_count(w); i++) {
        const char *name = lgv_weights_at(w, i)->name;
        if (ends_in(name, wanted, &before) && (!before || name[before - 1] == '.'))
            add_candidate(c, base, name, before, false);
        else if (ends_in(name, dotless, &before) && strstr(name, "model_ema."))
            add_candidate(c, base, name, before, true);
    }
}

/* Keeps those where nothing is missing. False: there are none, and c->s[0] is where the most was found. */
static bool keep_whole(candidates *c)
{
    size_t most = 0;
    int kept = 0, best = 0;
    for (int i = 0; i < c->count; i++) {
        size_t n = found(&c->s[i]);
        if (n > most) {
            most = n;
            best = i;
        }
        if (n == c->s[i].layout.count) c->s[kept++] = c->s[i];
    }
    if (!kept && c->count) c->s[0] = c->s[best];
    c->count = kept;
    return kept > 0;
}

/* "ema." or "model_ema." in the prefix: a word between dots and underscores. */
static bool says_ema(const char *prefix)
{
    for (const char *at = prefix; (at = strstr(at, "ema")) != NULL; at += 3) {
        bool begins = at == prefix || at[-1] == '.' || at[-1] == '_';
        if (begins && (at[3] == '.' || at[3] == '_' || !at[3])) return true;
    }
    return false;
}

/* ermongroup/ddim saves a list: weights, optimizer, epoch, step, averages. */
static bool is_average(const candidates *c, int i)
{
    const char *prefix = c->s[i].prefix;
    if (says_ema(prefix)) return true;
    if (prefix[0] < '1' || prefix[0] > '9') return false;
    for (int k = 0; k < c->count; k++)
        if (!strncmp(c->s[k].prefix, "0.", 2)) return true;
    return false;
}

/* The shortest prefix among the averages, or among the others. -1: there is none. */
static int shortest(const candidates *c, bool average)
{
    int best = -1;
    for (int i = 0; i < c->count; i++) {
        if (is_average(c, i) != average) continue;
        if (best < 0 || strlen(c->s[i].prefix) < strlen(c->s[best].prefix)) best = i;
    }
    return best;
}

static lgv_status choose(const candidates *c, lgv_model_weights which, const char *source,
                         lgv_selection *out, lgv_error *err)
{
    int ema = shortest(c, true), raw = shortest(c, false);
    int best = which == LGV_WEIGHTS_RAW && raw >= 0   ? raw
               : which == LGV_WEIGHTS_BEST && ema < 0 ? raw
                                                      : ema;
    if (which == LGV_WEIGHTS_RAW && raw < 0)
        return lgv_fail(err, LGV_ERR_ARGUMENT,
                        "'%s' holds only averaged (EMA) weights; ask for those", source);
    if (which == LGV_WEIGHTS_EMA && ema < 0)
        return lgv_fail(err, LGV_ERR_ARGUMENT,
                        "'%s' holds no averaged (EMA) weights; ask for the raw ones", source);
    *out = c->s[best];
    return LGV_OK;
}

/* --- Complaints: the first few names and how many there are --- */
typedef struct complaint {
    char text[400];
    size_t used;
    int count;
} complaint;

static void complain(complaint *c, const char *name)
{
    enum { NAMED = 3 };
    if (c->count++ >= NAMED) return;
    int n = snprintf(c->text + c->used, sizeof c->text - c->used, "%s'%.100s'", c->used ? ", " : "",
                     name);
    if (n > 0) c->used += (size_t)n;
}

static lgv_status missing(const lgv_selection *s, const char *source, lgv_error *err)
{
    complaint c = {.count = 0};
    for (size_t i = 0; i < s->layout.count; i++)
        if (!lgv_selected(s, i) && !s->layout.tensor[i].optional)
            complain(&c, s->layout.tensor[i].name);
    return lgv_fail(
        err, LGV_ERR_FORMAT,
        "the weights in '%s' do not fit its configuration: %d of %zu tensors are missing "
        "(%s%s)",
        source, c.count, s->layout.count, c.text, c.count > 3 ? ", ..." : "");
}

static bool expected(const lgv_selection *s, const lgv_tensor_info *t)
{
    for (size_t i = 0; i < s->layout.count; i++)
        if (lgv_selected(s, i) == t) return true;
    return false;
}

/* Whether tensor i stands in the same dictionary under the same prefix. */
static bool beside(const lgv_selection *s, size_t i)
{
    size_t n = strlen(s->prefix);
    return lgv_weights_stem(s->w, i) <= n && !strncmp(lgv_weights_at(s->w, i)->name, s->prefix, n);
}

static lgv_status check_extra(const lgv_selection *s, const char *source, lgv_error *err)
{
    complaint c = {.count = 0};
    if (s->dotless) return LGV_OK; /* one dictionary for all networks */
    for (size_t i = 0; i < lgv_weights_count(s->w); i++)
        if (beside(s, i) && !expected(s, lgv_weights_at(s->w, i)))
            complain(&c, lgv_weights_at(s->w, i)->name);
    if (!c.count) return LGV_OK;
    return lgv_fail(err, LGV_ERR_FORMAT,
                    "the weights in '%s' do not fit its configuration: %d tensors are not part of "
                    "the network (%s%s)",
                    source, c.count, c.text, c.count > 3 ? ", ..." : "");
}

/* Very old attention blocks were 1x1 convolutions: [out,in,1,1] is then [out,in]. */
static bool fits(const lgv_file_tensor *p, const lgv_tensor_info *t)
{
    if (t->rank != p->rank && !(p->rank == 2 && t->rank == 4)) return false;
    for (int i = 0; i < t->rank; i++)
        if (t->dim[i] != (i < p->rank ? p->dim[i] : 1)) return false;
    return true;
}

static void dims_text(int rank, const int64_t *dim, char text[96])
{
    size_t used = (size_t)snprintf(text, 96, "[");
    for (int i = 0; i < rank && used < 90; i++)
        used += (size_t)snprintf(text + used, 96 - used, i ? ",%lld" : "%lld", (long long)dim[i]);
    if (used < 95) snprintf(text + used, 96 - used, "]");
}

static lgv_status check_shapes(const lgv_selection *s, const char *source, lgv_error *err)
{
    for (size_t i = 0; i < s->layout.count; i++) {
        const lgv_file_tensor *p = &s->layout.tensor[i];
        const lgv_tensor_info *t = lgv_selected(s, i);
        if (!t || fits(p, t)) continue;
        char have[96], want[96];
        dims_text(t->rank, t->dim, have);
        dims_text(p->rank, p->dim, want);
        return lgv_fail(
            err, LGV_ERR_FORMAT,
            "the weights in '%s' do not fit its configuration: '%s' is %s, the network wants %s",
            source, t->name, have, want);
    }
    return LGV_OK;
}

/* --- The selection --- */
static void find_candidates(candidates *c, const lgv_selection *base)
{
    char text[512];
    const char *name = base->layout.tensor[0].name;
    c->count = 0;
    look_for(c, base, name);
    if (!c->count && base->model->kind->old_name &&
        (name = base->model->kind->old_name(name, text, sizeof text)) != NULL)
        look_for(c, base, name);
    if (!c->count) add_candidate(c, base, "", 0, false);
}

/* The first format of which some place has everything; base->layout is then its. When there is none, that of diffusers. */
static lgv_status find_format(candidates *c, lgv_selection *base, bool *whole, lgv_error *err)
{
    const int formats = lgv_layout_formats(base->model);
    for (int i = 0; i <= formats; i++) {
        base->format = i < formats ? i : 0;
        LGV_TRY(lgv_layout_make(base->model, base->format, &base->layout, err));
        find_candidates(c, base);
        *whole = keep_whole(c);
        if (*whole || i == formats || formats == 1) break;
        lgv_layout_free(&base->layout);
    }
    return LGV_OK;
}

static lgv_status select_from(candidates *c, lgv_model_weights which, const char *source,
                              lgv_selection *out, lgv_error *err)
{
    bool whole;
    LGV_TRY(find_format(c, out, &whole, err));
    if (!whole) return missing(&c->s[0], source, err);
    LGV_TRY(choose(c, which, source, out, err));
    LGV_TRY(check_extra(out, source, err));
    return check_shapes(out, source, err);
}

lgv_status lgv_select(const lgv_model *m, const lgv_weights *w, lgv_model_weights which,
                      const char *source, lgv_selection *out, lgv_error *err)
{
    *out = (lgv_selection){.model = m, .w = w};
    candidates *c = lgv_zalloc(1, sizeof *c);
    if (!c) return lgv_fail(err, LGV_ERR_MEMORY, "out of memory while reading '%s'", source);
    lgv_status status = select_from(c, which, source, out, err);
    lgv_free(c);
    return status;
}

void lgv_selection_free(lgv_selection *s)
{
    lgv_layout_free(&s->layout);
}
