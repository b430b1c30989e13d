/* classes.c - classes on the command line: from words to labels, and pictures in groups with their names. */
#include "classes.h"

#include <cairo.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "chart.h"

/* ---- names ---- */

int cli_class_count(const lgv_model *model)
{
    const lgv_model_info *m = lgv_model_describe(model);
    if (m->labels) return m->labels;
    if (m->class_names) return m->class_names;
    return m->class_count - (m->null_label >= 0);
}

const char *cli_class_name(const lgv_model *model, int label, char text[32])
{
    const lgv_model_info *m = lgv_model_describe(model);
    if (m->labels && label >= 0 && label < m->labels) return m->label[label];
    if (label >= 0 && label < m->class_names) return m->class_name_of[label];
    if (label < 0 || label == m->null_label)
        snprintf(text, 32, "none");
    else
        snprintf(text, 32, "%d", label);
    return text;
}

static bool same(const char *a, size_t n, const char *b, size_t m, bool exact)
{
    return n == m && !(exact ? memcmp(a, b, n) : strncasecmp(a, b, n));
}

/* A whole name, or one of the synonyms in it ("tench, Tinca tinca"). */
static bool is_name(const char *name, const char *word, size_t n, bool exact)
{
    if (same(name, strlen(name), word, n, exact)) return true;
    for (const char *at = name; strchr(name, ',');) {
        size_t length = strcspn(at, ",");
        const char *from = at;
        while (length && *from == ' ') from++, length--;
        if (same(from, length, word, n, exact)) return true;
        at += strcspn(at, ",");
        if (!*at++) return false;
    }
    return false;
}

static int find_name(const lgv_model *model, const char *word, size_t n)
{
    const lgv_model_info *m = lgv_model_describe(model);
    int count = m->labels ? m->labels : m->class_names;
    const char *const *name = m->labels ? m->label : m->class_name_of;
    for (int exact = 1; exact >= 0; exact--)
        for (int i = 0; i < count; i++)
            if (is_name(name[i], word, n, exact)) return i;
    return -1;
}

static bool number(const char *word, size_t n, int *out)
{
    int v = 0;
    for (size_t i = 0; i < n; i++) {
        if (word[i] < '0' || word[i] > '9' || v > 1000000) return false;
        v = 10 * v + word[i] - '0';
    }
    *out = v;
    return n > 0;
}

static lgv_status unknown(const lgv_model *model, const char *word, size_t n, lgv_error *err)
{
    const lgv_model_info *m = lgv_model_describe(model);
    char list[256], text[32];
    int count = cli_class_count(model);
    size_t used = 0;
    list[0] = 0;
    if (!m->labels && !m->class_names)
        return cli_status(err, LGV_ERR_ARGUMENT,
                          "--class: the model's classes have no names, only the numbers 0 to %d; "
                          "'%.*s' is none of them",
                          m->class_count - 1, (int)n, word);
    for (int i = 0; i < count && i < 10 && used < sizeof list; i++)
        used += (size_t)snprintf(list + used, sizeof list - used, "%s%s", i ? ", " : "",
                                 cli_class_name(model, i, text));
    return cli_status(err, LGV_ERR_ARGUMENT,
                      "--class: the model has no class '%.*s'; it knows %s%s, and the numbers 0 to "
                      "%d",
                      (int)n, word, list, count > 10 ? " ..." : "", count - 1);
}

/* One word: a name, else a number; "#3" is the number 3 whatever the names are. */
static lgv_status one(const lgv_model *model, const char *word, size_t n, int32_t *label,
                      lgv_error *err)
{
    const lgv_model_info *m = lgv_model_describe(model);
    int limit = m->labels                             ? m->labels
                : m->class_kind == LGV_CLASS_TIMESTEP ? 1000001
                                                      : m->class_count;
    bool forced = n > 1 && *word == '#';
    int i = forced ? -1 : find_name(model, word, n);
    if (i < 0 && !forced && n == 4 && !strncasecmp(word, "none", 4)) {
        *label = -1;
        return LGV_OK;
    }
    if (i < 0 && (!number(word + forced, n - forced, &i) || i >= limit))
        return unknown(model, word, n, err);
    *label = i;
    return LGV_OK;
}

static bool is_all(const char *text)
{
    return !strcasecmp(text, "all");
}

lgv_status cli_classes_read(const lgv_model *model, const char *text, int32_t **labels, int64_t *n,
                            lgv_error *err)
{
    int count = cli_class_count(model);
    bool all = is_all(text) && find_name(model, text, strlen(text)) < 0;
    size_t most = all ? (size_t)count : strlen(text) / 2 + 1;
    int32_t *list = malloc((most + 1) * sizeof *list);
    lgv_status status = list ? LGV_OK : cli_status(err, LGV_ERR_MEMORY, "out of memory");
    *n = 0;
    if (!status && all) {
        for (int i = 0; i < count; i++) list[(*n)++] = i;
    } else if (!status && find_name(model, text, strlen(text)) >= 0) {
        list[(*n)++] = find_name(model, text, strlen(text)); /* with its commas */
    } else {
        for (const char *at = text; !status; at++) {
            size_t length = strcspn(at, ",");
            const char *end = at + length;
            while (at < end && *at == ' ') at++;
            while (end > at && end[-1] == ' ') end--;
            if (at == end)
                status = cli_status(err, LGV_ERR_ARGUMENT,
                                    "--class: a name is missing in '%s'; give names or numbers "
                                    "with commas between",
                                    text);
            else
                status = one(model, at, (size_t)(end - at), &list[*n], err);
            if (!status) (*n)++;
            at = end + strcspn(end, ",");
            if (!*at) break;
        }
    }
    if (status)
        free(list);
    else
        *labels = list;
    return status;
}

/* ---- pictures with names ---- */

enum { GAP = 2, FONT = 11, LINE = 15, WIDEST = 130 };

typedef struct sheet {
    const lgv_image *images;
    const int32_t *label;
    int64_t n;
    int side_w, side_h, text_w, cell_w, cell_h;
    int64_t groups, longest; /* classes; most pictures of one */
    int across, down;        /* cells */
    int32_t *group;          /* [n] of each picture; groups are numbered as they come */
    int64_t *first;          /* [n] picture of each group */
    cairo_surface_t *surface;
} sheet;

static bool is_utf8(const char *text)
{
    json_t *made = json_string(text); /* which takes nothing else */
    json_decref(made);
    return made != NULL;
}

/* cairo takes UTF-8 only, and the end of a long name says least. */
static void shorten(cairo_t *c, const char *name, char *text, size_t size)
{
    cairo_text_extents_t e;
    size_t n = strlen(name);
    if (n >= size) n = size - 1;
    for (bool cut = false;; cut = true) {
        snprintf(text, size, "%.*s%s", (int)n, name, cut ? ".." : "");
        for (char *p = text; *p && !is_utf8(text); p++)
            if (*p & 0x80) *p = '?';
        cairo_text_extents(c, text, &e);
        if (e.x_advance <= WIDEST || n < 2) return;
        n--;
        while (n > 1 && (name[n] & 0xc0) == 0x80) n--; /* not in the middle of a character */
    }
}

static void measure_groups(sheet *s)
{
    int64_t *count = s->first + s->n;
    for (int64_t i = 0; i < s->n; i++) {
        int64_t k = 0;
        while (k < s->groups && s->label[s->first[k]] != s->label[i]) k++;
        if (k == s->groups) s->first[s->groups++] = i;
        s->group[i] = (int32_t)k;
        if (++count[k] > s->longest) s->longest = count[k];
    }
}

/* As nearly square as may be. */
static void lay_out(sheet *s)
{
    double best = 0;
    s->cell_w = s->text_w + (int)s->longest * (s->side_w + GAP) + GAP;
    s->cell_h = (s->side_h > LINE ? s->side_h : LINE) + GAP;
    for (int across = 1; across <= s->groups; across++) {
        int down = (int)((s->groups + across - 1) / across);
        double w = (double)across * s->cell_w, h = (double)down * s->cell_h, longer = w > h ? w : h;
        if (s->across && longer >= best) continue;
        best = longer;
        s->across = across;
        s->down = down;
    }
}

static void put(const sheet *s, const lgv_image *image, int x, int y)
{
    unsigned char *data = cairo_image_surface_get_data(s->surface);
    int stride = cairo_image_surface_get_stride(s->surface);
    for (int r = 0; r < image->height; r++) {
        for (int c = 0; c < image->width; c++) {
            const uint8_t *p =
                (const uint8_t *)image->pixels +
                ((size_t)r * (size_t)image->width + (size_t)c) * (size_t)image->channels;
            uint32_t rgb = image->channels == 1 ? (uint32_t)p[0] * 0x10101u
                                                : (uint32_t)p[0] << 16 | (uint32_t)p[1] << 8 | p[2];
            memcpy(data + (size_t)(y + r) * (size_t)stride + 4 * (size_t)(x + c), &rgb, 4);
        }
    }
}

static void draw(sheet *s, const lgv_model *model, cairo_t *c)
{
    int64_t *placed = s->first + s->n; /* counts of pictures, anew */
    memset(placed, 0, (size_t)s->n * sizeof *placed);
    for (int64_t k = 0; k < s->groups; k++) {
        char number_text[32], text[256];
        int x = (int)(k / s->down) * s->cell_w, y = (int)(k % s->down) * s->cell_h + GAP;
        shorten(c, cli_class_name(model, s->label[s->first[k]], number_text), text, sizeof text);
        chart_text(c, x + s->text_w - 5, y + (s->cell_h - GAP) / 2.0 + FONT / 3.0, FONT, false,
                   (chart_colour){1, 1, 1}, 1, text);
    }
    cairo_surface_flush(s->surface);
    for (int64_t i = 0; i < s->n; i++) {
        int64_t k = s->group[i];
        int x = (int)(k / s->down) * s->cell_w + s->text_w,
            y = (int)(k % s->down) * s->cell_h + GAP;
        put(s, &s->images[i], x + (int)placed[k]++ * (s->side_w + GAP), y);
    }
    cairo_surface_mark_dirty(s->surface);
}

static lgv_status read_back(const sheet *s, int channels, lgv_image *out, lgv_error *err)
{
    int w = cairo_image_surface_get_width(s->surface),
        h = cairo_image_surface_get_height(s->surface);
    const unsigned char *data = cairo_image_surface_get_data(s->surface);
    int stride = cairo_image_surface_get_stride(s->surface);
    lgv_status status = lgv_image_new(w, h, channels, 8, out, err);
    uint8_t *to = status ? NULL : out->pixels;
    for (int y = 0; y < h && to; y++)
        for (int x = 0; x < w; x++) {
            uint32_t rgb;
            memcpy(&rgb, data + (size_t)y * (size_t)stride + 4 * (size_t)x, 4);
            for (int c = 0; c < channels; c++)
                *to++ = (uint8_t)(rgb >> (channels == 1 ? 0 : 16 - 8 * c));
        }
    return status;
}

static int text_width(const sheet *s, const lgv_model *model, cairo_t *c)
{
    double widest = 0;
    for (int64_t k = 0; k < s->groups; k++) {
        char number_text[32], text[256];
        cairo_text_extents_t e;
        shorten(c, cli_class_name(model, s->label[s->first[k]], number_text), text, sizeof text);
        cairo_text_extents(c, text, &e);
        if (e.x_advance > widest) widest = e.x_advance;
    }
    return (int)widest + 10;
}

/* A context for measuring has the font of chart_text. */
static void set_font(cairo_t *c)
{
    cairo_select_font_face(c, "sans-serif", CAIRO_FONT_SLANT_NORMAL, CAIRO_FONT_WEIGHT_NORMAL);
    cairo_set_font_size(c, FONT);
}

static lgv_status make(sheet *s, const lgv_model *model, lgv_image *out, lgv_error *err)
{
    cairo_surface_t *probe = cairo_image_surface_create(CAIRO_FORMAT_RGB24, 1, 1);
    cairo_t *c = cairo_create(probe);
    set_font(c);
    s->text_w = text_width(s, model, c);
    cairo_destroy(c);
    cairo_surface_destroy(probe);
    lay_out(s);
    int64_t w = (int64_t)s->across * s->cell_w + GAP, h = (int64_t)s->down * s->cell_h + GAP;
    if (w > LGV_IMAGE_SIDE || h > LGV_IMAGE_SIDE || w > 32767 || h > 32767)
        return cli_status(err, LGV_ERR_ARGUMENT,
                          "%lld pictures of %lld classes are too many for one PNG; give a folder",
                          (long long)s->n, (long long)s->groups);
    s->surface = cairo_image_surface_create(CAIRO_FORMAT_RGB24, (int)w, (int)h);
    if (cairo_surface_status(s->surface))
        return cli_status(err, LGV_ERR_MEMORY, "out of memory for a grid with names");
    c = cairo_create(s->surface);
    set_font(c);
    draw(s, model, c);
    cairo_destroy(c);
    return read_back(s, s->images->channels, out, err);
}

lgv_status cli_class_sheet(const lgv_image *images, const int32_t *label, int64_t n,
                           const lgv_model *model, lgv_image *out, lgv_error *err)
{
    sheet s = {.images = images,
               .label = label,
               .n = n,
               .side_w = images->width,
               .side_h = images->height};
    s.group = calloc((size_t)n, sizeof *s.group);
    s.first = calloc((size_t)n, 2 * sizeof *s.first);
    lgv_status status =
        s.group && s.first ? LGV_OK
                           : cli_status(err, LGV_ERR_MEMORY, "out of memory for a grid with names");
    if (!status) {
        measure_groups(&s);
        status = make(&s, model, out, err);
    }
    if (s.surface) cairo_surface_destroy(s.surface);
    free(s.group);
    free(s.first);
    return status;
}
