/* log.c - what a run tells as it goes: lines of log.jsonl, and the same as events for TensorBoard.
   A full disk ends the events, not the run: what was written up to there can be read. */
#include "trainer.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/file.h"
#include "options.h"

static json_t *number(double v)
{
    return isfinite(v) ? json_real(v) : json_null();
}

/* ---- TensorBoard ---- */

/* Ends the events after a failure. */
static lgv_status told(lgv_trainer *t, lgv_status s, lgv_error *err)
{
    if (!s) s = lgv_events_flush(t->events, err);
    if (s) {
        lgv_events_close(t->events);
        t->events = NULL;
    }
    return s;
}

typedef struct curve {
    const char *tag;
    double value;
} curve;

static lgv_status tell_curves(lgv_trainer *t, const curve *c, size_t n, lgv_error *err)
{
    lgv_status s = LGV_OK;
    if (!t->events) return LGV_OK;
    for (size_t i = 0; i < n && !s; i++)
        s = lgv_events_scalar(t->events, t->state.step, c[i].tag, c[i].value, err);
    return told(t, s, err);
}

/* The options as a table of Markdown. */
lgv_status lgv_log_options(lgv_trainer *t, lgv_error *err)
{
    json_t *options = lgv_train_options_json(&t->options), *value;
    const char *key;
    char *text = options ? lgv_strdup("| option | value |\n|---|---|\n") : NULL;
    json_object_foreach(options, key, value)
    {
        char *plain = json_dumps(value, JSON_ENCODE_ANY);
        char *longer = text && plain ? lgv_format("%s| %s | %s |\n", text, key, plain) : NULL;
        free(plain);
        lgv_free(text);
        text = longer;
    }
    lgv_status s = text ? lgv_events_text(t->events, t->state.step, "options", text, err)
                        : lgv_fail(err, LGV_ERR_MEMORY, "out of memory for the options as text");
    json_decref(options);
    lgv_free(text);
    return told(t, s, err);
}

lgv_status lgv_log_grid(lgv_trainer *t, const char *png, lgv_error *err)
{
    char *data = NULL;
    size_t size = 0;
    if (!t->events) return LGV_OK;
    lgv_status s = lgv_file_read(png, SIZE_MAX / 2, &data, &size, err);
    if (!s) s = lgv_events_image(t->events, t->state.step, "samples", data, size, err);
    lgv_free(data);
    return told(t, s, err);
}

/* ---- both ---- */

lgv_status lgv_log_step(lgv_trainer *t, const lgv_train_report *p, lgv_error *err)
{
    const curve curves[] = {{"loss", p->loss},
                            {"lr", p->lr},
                            {"grad_norm", p->grad_norm},
                            {"samples_per_second", p->samples_per_second},
                            {"accuracy", p->accuracy}}; /* the last: of classifiers only */
    if (t->log < 0) return LGV_OK;
    json_t *line = json_pack(
        "{s:I, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:I, s:I}", "step", (json_int_t)p->step, "loss",
        number(p->loss), "lr", number(p->lr), "grad_norm", number(p->grad_norm), "ema_decay",
        number(p->ema_decay), "epoch", number(p->epoch), "seconds", number(p->seconds),
        "loader_wait", number(p->loader_wait), "skipped_updates", (json_int_t)p->skipped_updates,
        "broken_pictures", (json_int_t)p->broken_pictures);
    if (line && t->task->hits) json_object_set_new(line, "accuracy", number(p->accuracy));
    LGV_TRY(lgv_output_log(t, line, err));
    return tell_curves(t, curves, sizeof curves / sizeof *curves - !t->task->hits, err);
}

lgv_status lgv_log_validation(lgv_trainer *t, const lgv_validation *v, lgv_error *err)
{
    const curve curves[] = {{"validation_loss", v->loss}, {"validation_accuracy", v->accuracy}};
    if (t->log < 0) return LGV_OK;
    json_t *line =
        json_pack("{s:I, s:o, s:I}", "step", (json_int_t)t->state.step, "validation_loss",
                  number(v->loss), "validation_pictures", (json_int_t)v->pictures);
    if (line && t->task->hits)
        json_object_set_new(line, "validation_accuracy", number(v->accuracy));
    else if (line)
        json_object_set_new(line, "validation_quartiles",
                            json_pack("[o,o,o,o]", number(v->quartile[0]), number(v->quartile[1]),
                                      number(v->quartile[2]), number(v->quartile[3])));
    LGV_TRY(lgv_output_log(t, line, err));
    return tell_curves(t, curves, t->task->hits ? 2 : 1, err);
}

static json_t *interval(const lgv_interval *v)
{
    return json_pack("[o,o,o]", number(v->value), number(v->low), number(v->high));
}

lgv_status lgv_log_figures(lgv_trainer *t, const lgv_figures *f, double seconds, lgv_error *err)
{
    const curve curves[] = {{"frechet_distance", f->frechet.value},
                            {"precision", f->precision.value},
                            {"recall", f->recall.value}};
    if (t->log < 0) return LGV_OK;
    json_t *line =
        json_pack("{s:I, s:o, s:o, s:o, s:I, s:I, s:o}", "step", (json_int_t)t->state.step,
                  "frechet_distance", interval(&f->frechet), "precision", interval(&f->precision),
                  "recall", interval(&f->recall), "eval_samples", (json_int_t)f->generated,
                  "eval_reference", (json_int_t)f->reference, "eval_seconds", number(seconds));
    LGV_TRY(lgv_output_log(t, line, err));
    return tell_curves(t, curves, 3, err);
}

/* Mean and count of each bin; a bin that no row fell into has no mean. */
static json_t *timesteps_line(const lgv_trainer *t, int64_t *rows)
{
    json_t *loss = json_array(), *count = json_array();
    *rows = 0;
    for (int i = 0; i < LGV_LOSS_BINS; i++) {
        int64_t n = t->bin_rows[i];
        *rows += n;
        json_array_append_new(loss, n ? json_real(t->bin_loss[i] / (double)n) : json_null());
        json_array_append_new(count, json_integer(n));
    }
    return json_pack("{s:I, s:o, s:o, s:I}", "step", (json_int_t)t->state.step, "loss_by_timestep",
                     loss, "rows_by_timestep", count, "num_train_timesteps",
                     (json_int_t)t->schedule->T);
}

lgv_status lgv_log_timesteps(lgv_trainer *t, lgv_error *err)
{
    static const char *const tag[4] = {
        "loss_by_timestep/1st_quarter", "loss_by_timestep/2nd_quarter",
        "loss_by_timestep/3rd_quarter", "loss_by_timestep/4th_quarter"};
    curve curves[4];
    size_t n = 0;
    int64_t rows;
    if (t->log < 0) return LGV_OK;
    json_t *line = timesteps_line(t, &rows);
    for (int q = 0; q < 4; q++) {
        double sum = 0;
        int64_t count = 0;
        for (int i = q * LGV_LOSS_BINS / 4; i < (q + 1) * LGV_LOSS_BINS / 4; i++) {
            sum += t->bin_loss[i];
            count += t->bin_rows[i];
        }
        if (count) curves[n++] = (curve){tag[q], sum / (double)count};
    }
    memset(t->bin_loss, 0, sizeof t->bin_loss);
    memset(t->bin_rows, 0, sizeof t->bin_rows);
    if (!rows) {
        json_decref(line);
        return LGV_OK;
    }
    LGV_TRY(lgv_output_log(t, line, err));
    return tell_curves(t, curves, n, err);
}
