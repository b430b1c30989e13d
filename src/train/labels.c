/* labels.c - classes: from folders, or from labels that files bring.
   Classes that are words stand in the byte order of their names, so that the same folder gives the same
   classes everywhere. When all labels are whole numbers, class i is the number i. */
#include <stdlib.h>
#include <string.h>

#include "dataset.h"

enum { MOST = 65536 }; /* classes */

/* "0", "17": no sign, no leading zero, below MOST. -1 when it is another text. */
static int number_of(const char *text, size_t n)
{
    int value = 0;
    if (n < 1 || n > 5 || (n > 1 && text[0] == '0')) return -1;
    for (size_t i = 0; i < n; i++) {
        if (text[i] < '0' || text[i] > '9') return -1;
        value = value * 10 + text[i] - '0';
    }
    return value < MOST ? value : -1;
}

static int compare(const char *name, const char *text, size_t n)
{
    int order = strncmp(name, text, n);
    return order ? order : name[n] != 0;
}

lgv_status lgv_labels_id(lgv_labels *t, const char *text, size_t n, int32_t *id, lgv_error *err)
{
    int low = 0, high = t->count;
    while (low < high) {
        int mid = low + (high - low) / 2, order = compare(t->name[t->sorted[mid]], text, n);
        if (!order) {
            *id = t->sorted[mid];
            return LGV_OK;
        }
        if (order < 0)
            low = mid + 1;
        else
            high = mid;
    }
    if (t->count == MOST)
        return lgv_fail(err, LGV_ERR_UNSUPPORTED,
                        "more than %d classes; are the labels really classes?", MOST);
    size_t need = (size_t)t->count + 1;
    LGV_TRY(lgv_grow(&t->name, &t->capacity, need, sizeof *t->name, err));
    LGV_TRY(lgv_grow(&t->sorted, &t->sorted_capacity, need, sizeof *t->sorted, err));
    char *name = lgv_format("%.*s", (int)n, text);
    if (!name) return lgv_fail(err, LGV_ERR_MEMORY, "out of memory for class names");
    memmove(t->sorted + low + 1, t->sorted + low, (size_t)(t->count - low) * sizeof *t->sorted);
    t->sorted[low] = t->count;
    t->name[t->count] = name;
    if (number_of(text, n) < 0) t->words = true;
    *id = t->count++;
    return LGV_OK;
}

void lgv_labels_free(lgv_labels *t)
{
    for (int i = 0; i < t->count; i++) lgv_free(t->name[i]);
    lgv_free(t->name);
    lgv_free(t->sorted);
    *t = (lgv_labels){0};
}

/* ---- folders ---- */

/* Length of the folders that all pictures of the source have in common, with the final slash. */
static size_t common_folders(const lgv_dataset *d, const lgv_source *s)
{
    const char *first = d->list.item[s->first].path;
    const char *slash = first ? strrchr(first, '/') : NULL;
    size_t n = slash ? (size_t)(slash - first) + 1 : 0;
    for (int64_t i = s->first; i < s->first + s->n && n; i++) {
        const char *path = d->list.item[i].path;
        size_t same = 0;
        while (same < n && path[same] == first[same]) same++;
        while (same && first[same - 1] != '/') same--;
        n = same;
    }
    return n;
}

lgv_status lgv_labels_from_folders(lgv_dataset *d, const lgv_source *s, lgv_error *err)
{
    if (!s->n) return LGV_OK;
    size_t skip = common_folders(d, s);
    for (int64_t i = s->first; i < s->first + s->n; i++)
        if (!strchr(d->list.item[i].path + skip, '/')) return LGV_OK;
    for (int64_t i = s->first; i < s->first + s->n; i++) {
        const char *path = d->list.item[i].path + skip;
        LGV_TRY(lgv_labels_id(&d->labels, path, strcspn(path, "/"), &d->list.item[i].label, err));
    }
    d->labels.words = true; /* folders are names, also when they look like numbers */
    return LGV_OK;
}

/* ---- the whole ---- */

static lgv_status make_names(lgv_dataset *d, int classes, lgv_error *err)
{
    d->class_name = lgv_zalloc((size_t)classes, sizeof *d->class_name);
    if (!d->class_name)
        return lgv_fail(err, LGV_ERR_MEMORY, "out of memory for %d class names", classes);
    d->classes = classes;
    for (int i = 0; i < classes; i++) {
        d->class_name[i] =
            d->labels.words ? lgv_strdup(d->labels.name[d->labels.sorted[i]]) : lgv_format("%d", i);
        if (!d->class_name[i])
            return lgv_fail(err, LGV_ERR_MEMORY, "out of memory for %d class names", classes);
    }
    return LGV_OK;
}

lgv_status lgv_labels_finish(lgv_dataset *d, lgv_error *err)
{
    const lgv_labels *t = &d->labels;
    if (!t->count) return LGV_OK;
    int32_t *class = lgv_alloc((size_t)t->count, sizeof *class);
    if (!class) return lgv_fail(err, LGV_ERR_MEMORY, "out of memory for %d classes", t->count);
    int classes = t->count;
    for (int i = 0; i < t->count; i++) {
        if (t->words) {
            class[t->sorted[i]] = i;
        } else {
            class[i] = number_of(t->name[i], strlen(t->name[i]));
            if (class[i] >= classes) classes = class[i] + 1;
        }
    }
    for (size_t i = 0; i < d->list.count; i++) {
        int32_t *label = &d->list.item[i].label;
        if (*label >= 0) *label = class[*label];
    }
    lgv_free(class);
    return make_names(d, classes, err);
}
