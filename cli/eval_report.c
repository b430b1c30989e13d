/* eval_report.c - what eval found, for people and as JSON (docs/json.md). */
#include <jansson.h>
#include <math.h>

#include "eval.h"

static const char *given(const eval_job *j)
{
    return j->pipeline ? "samples" : "pictures";
}

/* ---- text ---- */

static void print_interval(const char *name, const lgv_interval *v, double scale, const char *unit)
{
    printf("  %-18s %.4g%s   95 %%: %.4g to %.4g\n", name, scale * v->value, unit, scale * v->low,
           scale * v->high);
}

static const char *feature_source(const eval_job *j)
{
    return j->args->features ? j->args->features : j->args->what;
}

static void print_figures(const eval_job *j)
{
    const lgv_figures *f = &j->figures;
    print_interval("Frechet distance", &f->frechet, 1, "");
    print_interval("precision", &f->precision, 1, "");
    print_interval("recall", &f->recall, 1, "");
    if (j->has_agreement) print_interval("class agreement", &j->agreement, 100, " %");
    if (f->generated < 1000)
        printf("  note               %lld %s are few: the distance of 1,000 or more is lower and "
               "comparable\n",
               (long long)f->generated, given(j));
}

static int64_t predicted_as(const eval_set *s, int class)
{
    int64_t sum = 0;
    for (int64_t i = 0; i < s->n; i++) sum += s->predicted[i] == class;
    return sum;
}

static void print_classes(const eval_job *j)
{
    const eval_set *s = &j->generated;
    if (!s->predicted) return;
    const lgv_model_info *m = lgv_model_describe(lgv_extractor_model(j->extractor));
    printf("  taken for         ");
    for (int k = 0; k < m->labels && k < 20; k++)
        printf("%s %s %.3g %%", k ? "," : "", m->label[k],
               100 * (double)predicted_as(s, k) / (double)s->n);
    printf(m->labels > 20 ? " ...\n" : "\n");
}

void eval_print_text(const eval_job *j)
{
    const eval_set *g = &j->generated, *r = &j->reference;
    char time_text[32];
    printf("%lld %s of %s", (long long)g->n, given(j), g->path);
    if (j->has_figures)
        printf(" against %lld of %s\n  features           %lld numbers of %s\n", (long long)r->n,
               r->path, (long long)g->width, feature_source(j));
    else
        printf("\n");
    if (j->args->guide.path)
        printf("  guided by          %s, scale %g\n", j->args->guide.path, j->args->guide.scale);
    if (j->has_figures) print_figures(j);
    print_classes(j);
    if (j->copy) {
        print_interval("copies", &j->copies, 100, " %");
        printf("  nearest            %s: each beside its nearest of %lld training pictures, by "
               "pixels\n",
               j->args->nearest, (long long)lgv_dataset_count(j->data));
    }
    if (j->args->save) printf("  saved              %s\n", j->args->save);
    printf("  time               %s\n", cli_duration(j->seconds, time_text));
}

/* ---- JSON ---- */

static json_t *number(double v)
{
    return isfinite(v) ? json_real(v) : json_null();
}

static json_t *interval_json(const lgv_interval *v)
{
    return json_pack("{s:o, s:o, s:o}", "value", number(v->value), "low", number(v->low), "high",
                     number(v->high));
}

static void add_figures(json_t *o, const eval_job *j)
{
    const lgv_figures *f = &j->figures;
    json_object_set_new(o, "frechet_distance", interval_json(&f->frechet));
    json_object_set_new(o, "precision", interval_json(&f->precision));
    json_object_set_new(o, "recall", interval_json(&f->recall));
    if (!j->has_agreement) return;
    json_t *agreement = interval_json(&j->agreement);
    json_object_set_new(agreement, "pictures", json_integer((json_int_t)j->known));
    json_object_set_new(o, "class_agreement", agreement);
}

static void add_classes(json_t *o, const eval_job *j)
{
    const eval_set *s = &j->generated;
    if (!s->predicted) return;
    const lgv_model_info *m = lgv_model_describe(lgv_extractor_model(j->extractor));
    json_t *list = json_array();
    for (int k = 0; k < m->labels; k++)
        json_array_append_new(list, json_pack("{s:o, s:f}", "class", cli_json_text(m->label[k]),
                                              "share", (double)predicted_as(s, k) / (double)s->n));
    json_object_set_new(o, "classes", list);
}

static void add_copies(json_t *o, const eval_job *j)
{
    if (!j->copy) return;
    json_t *list = json_array();
    for (int64_t i = 0; i < j->generated.n; i++) {
        const lgv_copy *c = &j->copy[i];
        json_array_append_new(list, json_pack("{s:I, s:o, s:o, s:b}", "index", (json_int_t)c->index,
                                              "distance", number(c->distance), "second",
                                              number(c->second), "copy", c->copy));
    }
    json_object_set_new(o, "copies", interval_json(&j->copies));
    json_object_set_new(o, "nearest", list);
}

void eval_print_json(const eval_job *j)
{
    const eval_set *g = &j->generated, *r = &j->reference;
    json_t *o =
        json_pack("{s:o, s:s, s:o, s:I, s:I, s:s, s:f}", "source", cli_json_text(g->path), "kind",
                  j->pipeline ? "model"
                  : g->pixels ? "pictures"
                              : "features",
                  "data", cli_json_text(r->path), "generated", (json_int_t)g->n, "reference",
                  (json_int_t)r->n, "device", lgv_device_name(j->device), "seconds", j->seconds);
    if (j->args->features) json_object_set_new(o, "features", cli_json_text(j->args->features));
    if (j->args->guide.path)
        json_object_set_new(o, "classifier",
                            json_pack("{s:o, s:f}", "path", cli_json_text(j->args->guide.path),
                                      "scale", j->args->guide.scale));
    if (j->has_figures) json_object_set_new(o, "feature_width", json_integer((json_int_t)g->width));
    if (j->has_figures) add_figures(o, j);
    add_classes(o, j);
    add_copies(o, j);
    cli_print_json(o);
}
