/* data_info.c - langevin info DATA. Every picture is looked at: numbers that come from a sample would hide
   the few that spoil a training run. */
#include "data_info.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "progress.h"

enum { SHOWN = 10, TYPES = 6 }; /* broken pictures and copies in the text; JSON has all */

typedef struct range {
    double *value;
    double least, middle, most;
} range;

typedef struct summary {
    lgv_dataset *data;
    lgv_survey *survey;
    int64_t total, readable, bytes, broken, copies, unlabelled;
    int64_t type[TYPES], grey, alpha, deep;
    int64_t *in_class;
    range width, height, aspect;
} summary;

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void finish_range(range *r, int64_t n)
{
    if (!n) return;
    qsort(r->value, (size_t)n, sizeof *r->value, by_value);
    r->least = r->value[0];
    r->middle = r->value[n / 2];
    r->most = r->value[n - 1];
}

static void count_picture(summary *s, const lgv_survey_picture *p)
{
    s->bytes += p->bytes;
    s->copies += p->copy_of >= 0;
    if (p->label >= 0)
        s->in_class[p->label]++;
    else
        s->unlabelled++;
    if ((int)p->info.type < TYPES) s->type[p->info.type]++;
    if (p->broken) {
        s->broken++;
        return;
    }
    s->width.value[s->readable] = p->info.width;
    s->height.value[s->readable] = p->info.height;
    s->aspect.value[s->readable++] = (double)p->info.width / p->info.height;
    s->grey += p->info.channels <= 2;
    s->alpha += p->info.channels % 2 == 0;
    s->deep += p->info.bits == 16;
}

static void summary_clear(summary *s)
{
    free(s->in_class);
    free(s->width.value);
    free(s->height.value);
    free(s->aspect.value);
    lgv_survey_free(s->survey);
}

static bool summarise(summary *s)
{
    size_t n = (size_t)(s->total = lgv_survey_count(s->survey));
    s->in_class = calloc((size_t)lgv_dataset_classes(s->data) + 1, sizeof *s->in_class);
    s->width.value = calloc(n, sizeof(double));
    s->height.value = calloc(n, sizeof(double));
    s->aspect.value = calloc(n, sizeof(double));
    if (!s->in_class || !s->width.value || !s->height.value || !s->aspect.value) return false;
    for (int64_t i = 0; i < s->total; i++) {
        lgv_survey_picture p;
        lgv_survey_at(s->survey, i, &p);
        count_picture(s, &p);
    }
    finish_range(&s->width, s->readable);
    finish_range(&s->height, s->readable);
    finish_range(&s->aspect, s->readable);
    return true;
}

/* ---- text ---- */

static void row(const char *name)
{
    printf("  %-18s ", name);
}

static const char *type_name(int type)
{
    return type ? lgv_image_type_name((lgv_image_type)type) : "IDX or CIFAR";
}

static void print_formats(const summary *s)
{
    const char *between = "";
    row("formats");
    for (int i = 0; i < TYPES; i++) {
        int type = (i + 1) % TYPES; /* what has no format of its own comes last */
        if (!s->type[type]) continue;
        printf("%s%s %lld", between, type_name(type), (long long)s->type[type]);
        between = ", ";
    }
    printf("\n");
}

static void print_sizes(const summary *s)
{
    if (!s->readable) return;
    row("width");
    printf("%.0f to %.0f, median %.0f\n", s->width.least, s->width.most, s->width.middle);
    row("height");
    printf("%.0f to %.0f, median %.0f\n", s->height.least, s->height.most, s->height.middle);
    row("width / height");
    printf("%.3g to %.3g, median %.3g\n", s->aspect.least, s->aspect.most, s->aspect.middle);
    row("channels");
    printf("%lld colour, %lld grey", (long long)(s->readable - s->grey), (long long)s->grey);
    if (s->alpha) printf(", %lld with transparency", (long long)s->alpha);
    if (s->deep) printf(", %lld of 16 bits", (long long)s->deep);
    printf("\n");
}

static void print_classes(const summary *s)
{
    int n = lgv_dataset_classes(s->data);
    if (!n) return;
    row("classes");
    printf("%d:", n);
    for (int i = 0; i < n; i++)
        printf("%s %s %lld", i ? "," : "", lgv_dataset_class_name(s->data, i),
               (long long)s->in_class[i]);
    if (s->unlabelled) printf("; %lld without a label", (long long)s->unlabelled);
    printf("\n");
}

/* Broken pictures, or copies. */
static void print_list(const summary *s, bool broken)
{
    int64_t n = broken ? s->broken : s->copies, shown = 0;
    row(broken ? "broken" : "copies");
    printf("%lld\n", (long long)n);
    for (int64_t i = 0; i < s->total && shown < SHOWN; i++) {
        lgv_survey_picture p, first;
        lgv_survey_at(s->survey, i, &p);
        if (broken ? !p.broken : p.copy_of < 0) continue;
        shown++;
        if (!broken) lgv_survey_at(s->survey, p.copy_of, &first);
        printf("    %s%s%s\n", p.name, broken ? ": " : " is ", broken ? p.broken : first.name);
    }
    if (n > shown) printf("    and %lld more (--json lists all)\n", (long long)(n - shown));
}

static void print_text(const summary *s, const data_info_options *o)
{
    char size[32];
    int side = lgv_dataset_resolution(s->data), channels = lgv_dataset_channels(s->data);
    printf("%s: %lld pictures to train on, %lld for validation, %s\n", lgv_dataset_path(s->data),
           (long long)lgv_dataset_count(s->data), (long long)lgv_dataset_validation_count(s->data),
           cli_bytes((double)s->bytes, size));
    print_formats(s);
    print_sizes(s);
    print_classes(s);
    print_list(s, true);
    if (!o->headers_only) print_list(s, false);
    row("would train at");
    printf("%dx%d, %d channel%s\n", side, side, channels, channels == 1 ? "" : "s");
    for (int i = 0; i < lgv_dataset_notes(s->data); i++)
        printf("note: %s\n", lgv_dataset_note_at(s->data, i));
    if (o->headers_only)
        printf("note: only headers were read; damage behind them and copies stay unseen\n");
    if (o->contact_sheet) printf("contact sheet: %s\n", o->contact_sheet);
}

/* ---- JSON ---- */

static json_t *range_json(const range *r)
{
    return json_pack("{s:f, s:f, s:f}", "min", r->least, "median", r->middle, "max", r->most);
}

/* Names, or how many pictures each has. */
static json_t *classes_json(const summary *s, bool names)
{
    json_t *list = json_array();
    for (int i = 0; i < lgv_dataset_classes(s->data); i++)
        json_array_append_new(list, names ? cli_json_text(lgv_dataset_class_name(s->data, i))
                                          : json_integer(s->in_class[i]));
    return list;
}

static json_t *formats_json(const summary *s)
{
    json_t *o = json_object();
    for (int i = 0; i < TYPES; i++)
        if (s->type[i]) json_object_set_new(o, type_name(i), json_integer(s->type[i]));
    return o;
}

static json_t *list_json(const summary *s, bool broken)
{
    json_t *list = json_array();
    for (int64_t i = 0; i < s->total; i++) {
        lgv_survey_picture p, first;
        lgv_survey_at(s->survey, i, &p);
        if (broken ? !p.broken : p.copy_of < 0) continue;
        if (!broken) lgv_survey_at(s->survey, p.copy_of, &first);
        json_array_append_new(list, json_pack("{s:o, s:o}", "picture", cli_json_text(p.name),
                                              broken ? "reason" : "copy_of",
                                              cli_json_text(broken ? p.broken : first.name)));
    }
    return list;
}

static void print_json(const summary *s, const data_info_options *o)
{
    lgv_dataset_probe probe;
    lgv_dataset_probed(s->data, &probe);
    json_t *root = json_pack(
        "{s:o, s:I, s:I, s:I, s:o, s:I, s:I, s:I, s:I, s:o, s:I, s:i, s:i, s:i, s:s, s:o}",
        "source", cli_json_text(lgv_dataset_path(s->data)), "pictures",
        (json_int_t)lgv_dataset_count(s->data), "validation",
        (json_int_t)lgv_dataset_validation_count(s->data), "bytes", (json_int_t)s->bytes, "formats",
        formats_json(s), "colour", (json_int_t)(s->readable - s->grey), "grey", (json_int_t)s->grey,
        "transparent", (json_int_t)s->alpha, "bits_16", (json_int_t)s->deep, "classes",
        classes_json(s, true), "unlabelled", (json_int_t)s->unlabelled, "median_short_side",
        probe.median_short_side, "resolution", lgv_dataset_resolution(s->data), "channels",
        lgv_dataset_channels(s->data), "fingerprint", lgv_dataset_fingerprint(s->data), "broken",
        list_json(s, true));
    json_object_set_new(root, "width", range_json(&s->width));
    json_object_set_new(root, "height", range_json(&s->height));
    json_object_set_new(root, "aspect", range_json(&s->aspect));
    json_object_set_new(root, "class_pictures", classes_json(s, false));
    if (!o->headers_only) json_object_set_new(root, "copies", list_json(s, false));
    cli_print_json(root);
}

/* ---- the whole ---- */

static int on_progress(void *user, int64_t done, int64_t total)
{
    cli_progress *p = user;
    if (p && !p->total) cli_progress_begin(p, "looking", "pictures/s", 1, 0, total);
    if (p) cli_progress_show(p, done, "");
    return cli_signal();
}

static lgv_status look(summary *s, const data_info_options *o, lgv_error *err)
{
    cli_progress bar = {0};
    lgv_survey_options options = {.headers_only = o->headers_only,
                                  .threads = o->threads,
                                  .progress = on_progress,
                                  .user = o->json ? NULL : &bar};
    lgv_status status = lgv_dataset_survey(s->data, &options, &s->survey, err);
    if (bar.total) cli_progress_clear(&bar);
    if (!status && !summarise(s)) {
        snprintf(err->text, sizeof err->text, "out of memory");
        status = LGV_ERR_MEMORY;
    }
    return status;
}

lgv_status data_info(const char *path, const data_info_options *o, lgv_error *err)
{
    summary s = {0};
    lgv_dataset_options d = {.resolution = o->resolution, .channels = o->channels};
    cli_catch_signals();
    lgv_status status = lgv_dataset_open(path, &d, &s.data, err);
    if (!status) status = look(&s, o, err);
    if (!status && o->contact_sheet) status = data_contact_sheet(s.data, o->contact_sheet, err);
    if (!status && o->json)
        print_json(&s, o);
    else if (!status)
        print_text(&s, o);
    summary_clear(&s);
    lgv_dataset_free(s.data);
    return status;
}
