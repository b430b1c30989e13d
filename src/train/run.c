/* run.c - the loop around the steps: log, checkpoints, sample grids, validation.
   Nothing here changes what a step computes: grids and validation draw from streams of their own.
 */
#include "trainer.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/file.h"
#include "langevin/image.h"

enum { DEFAULT_CHECKPOINT_STEPS = 500, CHECKPOINT_SECONDS = 600 };
enum { TIMESTEP_STEPS = 100 }; /* the log tells the loss by timestep */
/* A checkpoint that could not be saved is tried again after so long, for so long: time to make room. */
enum { RETRY_SECONDS = 60, GIVE_UP_SECONDS = 3600 };
static const double sample_share = 0.05; /* of the run's time, for grids */

typedef struct run {
    lgv_trainer *t;
    lgv_train_callback callback;
    void *user;
    int stop;
    int64_t broken;      /* broken pictures already told */
    bool due;            /* a checkpoint is */
    bool log_failed;     /* told once */
    int64_t unsaved;     /* step whose checkpoint failed last, -1 none */
    double last_save;    /* clock */
    double last_try;     /* to save, clock; 0: the last one succeeded */
    double failing;      /* clock of the first of the failures since; 0 none */
    int64_t began;       /* position in the order at the start */
    bool pictures_kept;  /* all that one epoch decodes */
    double grid_seconds; /* the last grid took so long, 0 none yet */
} run;

static void tell(run *r, lgv_train_event event)
{
    if (r->callback && r->callback(r->user, &event)) r->stop = 1;
}

static void note(run *r, const char *what, const char *why, const char *then)
{
    char text[LGV_ERROR_TEXT + 256];
    snprintf(text, sizeof text, "%s%s%s", what, why, then);
    tell(r, (lgv_train_event){.kind = LGV_TRAIN_NOTE, .text = text});
}

/* A log that cannot be written (a full disk) is told once and stops nothing: the weights are what
   matters. */
static lgv_status logged(run *r, lgv_status s, lgv_error *err)
{
    if (s != LGV_ERR_IO && s != LGV_ERR_MEMORY) return s;
    if (!r->log_failed) note(r, "", err ? err->text : "the log", "; lines of it are lost");
    r->log_failed = true;
    return LGV_OK;
}

/* ---- sample grids ---- */

static lgv_status write_grid(const lgv_trainer *t, const lgv_samples *s, const char *path,
                             lgv_error *err)
{
    size_t n = (size_t)s->n, bytes = (size_t)t->pixels;
    uint8_t *u8 = lgv_alloc(n, bytes);
    lgv_image *images = lgv_zalloc(n, sizeof *images), grid = {0};
    lgv_status status = LGV_OK;
    if (!u8 || !images) status = lgv_fail(err, LGV_ERR_MEMORY, "out of memory for a sample grid");
    if (!status) {
        lgv_images_u8(s->n, s->channels, s->height, s->width, s->sample, u8);
        for (size_t i = 0; i < n; i++)
            images[i] = (lgv_image){.width = (int)s->width,
                                    .height = (int)s->height,
                                    .channels = (int)s->channels,
                                    .bits = 8,
                                    .pixels = u8 + i * bytes};
        status = lgv_image_grid(images, n, 0, &grid, err);
    }
    char *text = status ? NULL
                        : lgv_format("step %lld, DDIM %lld steps, seeds 0 to %lld, Langevin %s",
                                     (long long)t->state.step, (long long)t->options.sample_steps,
                                     (long long)(s->n - 1), LGV_VERSION);
    const lgv_png_text line = {"parameters", text};
    if (!status) status = lgv_image_save_png(path, &grid, &line, text ? 1 : 0, err);
    lgv_free(text);
    lgv_image_free(&grid);
    lgv_free(images);
    lgv_free(u8);
    return status;
}

static int sampling(void *user, const lgv_sample_progress *progress)
{
    run *r = user;
    if (progress->sample) return 0;
    tell(r, (lgv_train_event){.kind = LGV_TRAIN_SAMPLING});
    return r->stop;
}

lgv_status lgv_trainer_pipeline(lgv_trainer *t, lgv_error *err)
{
    const char *set = t->ema ? "ema" : "weight";
    if (t->pipeline) return LGV_OK;
    if (!t->task->pipeline)
        return lgv_fail(err, LGV_ERR_ARGUMENT, "a classifier draws no pictures");
    return lgv_pipeline_new(t->model, t->store, set, &t->cfg, &t->pipeline, err);
}

enum { GRID = 16 };

/* Pictures of fixed seeds; of a class-conditional network some of each class, guided as `langevin sample` does. */
static lgv_status draw_grid(lgv_trainer *t, run *r, const char *path, lgv_samples **out,
                            lgv_error *err)
{
    LGV_TRY(lgv_trainer_pipeline(t, err));
    int64_t steps = lgv_min_i64(t->options.sample_steps, t->schedule->T),
            count = t->options.sample_count > 0 ? t->options.sample_count : GRID;
    int32_t *label = lgv_zalloc((size_t)count, sizeof *label);
    if (!label) return lgv_fail(err, LGV_ERR_MEMORY, "out of memory for a sample grid");
    lgv_sample_options o = {.num_images = lgv_classes_of_grid(t, count, label),
                            .labels = lgv_classes_used(t) ? label : NULL,
                            .height = t->side,
                            .width = t->side,
                            .sampler = {.sampler = lgv_trainer_sampler(t), .num_inference_steps = steps},
                            .mixed_precision = t->options.mixed_precision,
                            .callback = r ? sampling : NULL,
                            .user = r};
    lgv_samples *samples = NULL;
    float *condition = NULL;
    lgv_status s = LGV_OK;
    if (t->condition) {
        size_t all = (size_t)(o.num_images * t->side * t->side * t->condition_channels);
        o.condition = condition = lgv_alloc(all, sizeof *condition);
        s = condition ? lgv_conditions_example(t, o.num_images, condition, err)
                      : lgv_fail(err, LGV_ERR_MEMORY, "out of memory for conditions");
    }
    if (!s) s = lgv_pipeline_sample(t->pipeline, &o, &samples, err);
    lgv_free(condition);
    lgv_free(label);
    if (!s) s = write_grid(t, samples, path, err);
    if (s)
        lgv_samples_free(samples);
    else
        *out = samples;
    return s;
}

/* *made (may be NULL) is the file; free with lgv_free. */
static lgv_status sample(lgv_trainer *t, run *r, const char *path, char **made, lgv_samples **out,
                         lgv_error *err)
{
    char *own = NULL;
    if (!path) {
        if (!t->output)
            return lgv_fail(err, LGV_ERR_ARGUMENT,
                            "the trainer has no output folder for a sample grid");
        char *folder = lgv_path_join(t->output, "samples");
        own = folder ? lgv_format("%s/%06lld.png", folder, (long long)t->state.step) : NULL;
        lgv_status s = own ? lgv_make_dir(folder, err)
                           : lgv_fail(err, LGV_ERR_MEMORY, "out of memory for a path");
        lgv_free(folder);
        if (s) {
            lgv_free(own);
            return s;
        }
    }
    double begin = lgv_now();
    lgv_status s = draw_grid(t, r, path ? path : own, out, err);
    t->state.sample_seconds += lgv_now() - begin;
    if (made && !s)
        *made = own;
    else
        lgv_free(own);
    return s;
}

lgv_status lgv_trainer_sample(lgv_trainer *t, const char *path, lgv_error *err)
{
    lgv_samples *samples;
    LGV_TRY(sample(t, NULL, path, NULL, &samples, err));
    lgv_samples_free(samples);
    return LGV_OK;
}

/* Whether a grid now leaves enough of the share for the one at the end. */
static bool affordable(const run *r)
{
    const lgv_trainer *t = r->t;
    double per_step = t->state.step ? t->state.seconds / (double)t->state.step : 0;
    double whole = per_step * (double)t->options.max_train_steps;
    double cost = r->grid_seconds;
    if (cost ==
        0) /* unknown: forward passes (two where they are guided) against steps of about three */
        cost = per_step * (double)(t->options.sample_count * t->options.sample_steps) *
               (lgv_classes_used(t) ? 2 : 1) / (3 * (double)t->effective);
    return t->state.sample_seconds + 2 * cost <= sample_share * whole;
}

static lgv_status grid(run *r, bool last, lgv_error *err)
{
    lgv_trainer *t = r->t;
    if (t->options.sample_count == LGV_OFF || (!last && !affordable(r))) return LGV_OK;
    double before = t->state.sample_seconds;
    char *path = NULL;
    lgv_samples *samples;
    lgv_status s = sample(t, r, NULL, &path, &samples, err);
    if (s == LGV_ERR_CANCELLED && r->stop) return LGV_OK;
    if (s == LGV_ERR_IO || s == LGV_ERR_MEMORY) { /* a picture is not worth the run */
        note(r, "no sample grid: ", err ? err->text : lgv_status_name(s), "");
        return LGV_OK;
    }
    if (s) return s;
    r->grid_seconds = t->state.sample_seconds - before;
    /* Told first: whoever listens may put a picture with names of classes in its place. */
    tell(r, (lgv_train_event){.kind = LGV_TRAIN_SAMPLED, .text = path, .samples = samples});
    s = logged(r, lgv_log_grid(t, path, err), err);
    lgv_samples_free(samples);
    lgv_free(path);
    return s;
}

/* ---- log, notes ---- */

static lgv_status log_step(run *r, const lgv_train_report *p, lgv_error *err)
{
    const lgv_train_options *o = &r->t->options;
    if (p->step % o->log_steps && p->step != o->max_train_steps && !p->skipped) return LGV_OK;
    return logged(r, lgv_log_step(r->t, p, err), err);
}

static void tell_broken(run *r)
{
    lgv_dataset *data = r->t->data;
    for (int64_t n = lgv_dataset_skipped(data); r->broken < n; r->broken++) {
        char *text = lgv_format("picture skipped: %s", lgv_dataset_skipped_at(data, r->broken));
        if (text) tell(r, (lgv_train_event){.kind = LGV_TRAIN_NOTE, .text = text});
        lgv_free(text);
    }
}

static void tell_skipped(run *r, const lgv_train_report *p)
{
    char *text =
        lgv_format("step %lld: the gradient was not finite, nothing was changed (%lld so far)",
                   (long long)p->step, (long long)p->skipped_updates);
    if (text) tell(r, (lgv_train_event){.kind = LGV_TRAIN_NOTE, .text = text, .report = p});
    lgv_free(text);
}

/* ---- checkpoints ---- */

static lgv_status save(run *r, lgv_error *err)
{
    lgv_trainer *t = r->t;
    if (!t->output) return LGV_OK;
    int64_t before = t->saved;
    LGV_TRY(logged(r, lgv_log_timesteps(t, err), err)); /* what the checkpoint does not keep */
    lgv_status s = lgv_trainer_save(t, err);
    if (t->saved != before)
        tell(r, (lgv_train_event){.kind = LGV_TRAIN_SAVED, .text = t->last_saved});
    if (s) r->unsaved = t->state.step;
    if (s) return s;
    r->due = false;
    r->last_save = lgv_now();
    r->last_try = r->failing = 0;
    return LGV_OK;
}

/* A checkpoint between the first and the last step. Nothing is lost while the process lives, so a failure (a full
   disk, a file server that is away) is told and tried again, until that has gone on for too long. */
static lgv_status save_between(run *r, lgv_error *err)
{
    lgv_error why = {0};
    r->last_try = lgv_now();
    lgv_status s = save(r, &why);
    if (!s) return LGV_OK;
    if (!r->failing) r->failing = r->last_try;
    if ((s != LGV_ERR_IO && s != LGV_ERR_MEMORY) || lgv_now() - r->failing > GIVE_UP_SECONDS)
        return lgv_fail(err, s, "%s", why.text);
    note(r, "", why.text, "; training goes on and tries again every minute, for an hour");
    return LGV_OK;
}

static lgv_status validate(run *r, lgv_error *err)
{
    lgv_validation v;
    if (!lgv_dataset_validation_count(r->t->data)) return LGV_OK;
    LGV_TRY(lgv_trainer_validate(r->t, &v, err));
    LGV_TRY(logged(r, lgv_log_validation(r->t, &v, err), err));
    tell(r, (lgv_train_event){.kind = LGV_TRAIN_VALIDATED, .validation = &v});
    char *text = lgv_watch_validation(&r->t->state, v.loss);
    if (text) tell(r, (lgv_train_event){.kind = LGV_TRAIN_NOTE, .text = text});
    lgv_free(text);
    return LGV_OK;
}

static lgv_status evaluate(run *r, lgv_error *err)
{
    lgv_figures f;
    double begin = lgv_now();
    lgv_status s = lgv_evaluate(r->t, sampling, r, &f, err);
    if (s == LGV_ERR_CANCELLED && r->stop) return LGV_OK;
    if (s) return s;
    LGV_TRY(logged(r, lgv_log_figures(r->t, &f, lgv_now() - begin, err), err));
    tell(r, (lgv_train_event){.kind = LGV_TRAIN_EVALUATED, .figures = &f});
    return LGV_OK;
}

static bool save_due(const run *r)
{
    const lgv_trainer *t = r->t;
    int64_t every = t->options.checkpointing_steps;
    if (every == LGV_OFF) return false;
    if (every) return t->state.step % every == 0;
    return t->state.step % DEFAULT_CHECKPOINT_STEPS == 0 ||
           lgv_now() - r->last_save >= CHECKPOINT_SECONDS;
}

/* While the loss is not what it should be, checkpoints wait. */
static bool save_now(run *r)
{
    r->due = r->due || save_due(r);
    return r->due && lgv_watch_healthy(&r->t->state) &&
           (!r->last_try || lgv_now() - r->last_try >= RETRY_SECONDS);
}

static lgv_status after_step(run *r, lgv_error *err)
{
    int64_t step = r->t->state.step;
    bool last = step >= r->t->options.max_train_steps, due = last || save_now(r);
    if (step % TIMESTEP_STEPS == 0) LGV_TRY(logged(r, lgv_log_timesteps(r->t, err), err));
    if (due) LGV_TRY(last ? save(r, err) : save_between(r, err));
    if (due && !r->stop) LGV_TRY(validate(r, err));
    bool shown = step == 100 || step == 300 || step == 1000 || step == 3000 || (due && step > 3000);
    if ((shown || last) && !r->stop && r->t->output) LGV_TRY(grid(r, last, err));
    int64_t every = r->t->options.eval_steps;
    if (every > 0 && (step % every == 0 || last) && !r->stop) LGV_TRY(evaluate(r, err));
    return LGV_OK;
}

/* With a cache folder: what was decoded is written there when all pictures were seen, and at the end. */
static void keep_pictures(run *r, bool end)
{
    lgv_error why = {0};
    bool seen = r->t->state.position - r->began >= r->t->per_epoch;
    if (!end && (!seen || r->pictures_kept)) return;
    r->pictures_kept = seen;
    if (lgv_dataset_save_cache(r->t->data, &why))
        note(r, "decoded pictures are not kept: ", why.text, "");
}

/* A step that could not be done (pictures have vanished): what was done before is kept. */
static lgv_status save_and_fail(run *r, lgv_status status, lgv_error *err)
{
    lgv_trainer *t = r->t;
    lgv_error why = {0};
    if (!t->output || status == LGV_ERR_NUMERIC || !t->state.step || t->saved == t->state.step ||
        r->unsaved == t->state.step)
        return status;
    lgv_error first = err ? *err : why;
    if (save(r, &why)) return lgv_fail(err, status, "%s; %s", first.text, why.text);
    return lgv_fail(err, status, "%s; the run up to step %lld is saved as '%s'", first.text,
                    (long long)t->state.step, t->last_saved);
}

lgv_status lgv_trainer_run(lgv_trainer *t, lgv_train_callback callback, void *user, lgv_error *err)
{
    run r = {.t = t,
             .callback = callback,
             .user = user,
             .unsaved = -1,
             .last_save = lgv_now(),
             .began = t->state.position};
    for (size_t i = 0; i < t->notes; i++)
        tell(&r, (lgv_train_event){.kind = LGV_TRAIN_NOTE, .text = t->note[i]});
    while (t->state.step < t->options.max_train_steps && !r.stop) {
        lgv_train_report p = {0};
        lgv_status s = lgv_trainer_step(t, &p, err);
        if (s && p.step == 0) return save_and_fail(&r, s, err);
        LGV_TRY(log_step(&r, &p, s ? NULL : err));
        tell(&r, (lgv_train_event){.kind = LGV_TRAIN_STEPPED, .report = &p});
        if (p.skipped) tell_skipped(&r, &p);
        tell_broken(&r);
        if (s) return s;
        if ((s = after_step(&r, err))) return save_and_fail(&r, s, err);
        keep_pictures(&r, r.stop || t->state.step >= t->options.max_train_steps);
    }
    if (!r.stop) return LGV_OK;
    LGV_TRY(save(&r, err));
    return lgv_fail(err, LGV_ERR_CANCELLED, "stopped after step %lld%s%s", (long long)t->state.step,
                    t->saved == t->state.step && t->last_saved ? "; saved as " : "",
                    t->saved == t->state.step && t->last_saved ? t->last_saved : "");
}
