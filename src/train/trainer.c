/* trainer.c - a trainer: making it, and the optimizer step.
   All that is random in a step is a function of (seed, step, place in the effective batch), or
   comes from PyTorch's generator drawn for the whole effective batch at once: splitting the batch
   into micro-batches changes no draw. */
#include "trainer.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "core/elementary.h"
#include "core/file.h"
#include "dataset.h"

/* ---- making ---- */

lgv_status lgv_trainer_note(lgv_trainer *t, lgv_error *err, const char *fmt, ...)
{
    char text[LGV_ERROR_TEXT];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    LGV_TRY(lgv_grow(&t->note, &t->note_capacity, t->notes + 1, sizeof *t->note, err));
    if (!(t->note[t->notes] = lgv_strdup(text)))
        return lgv_fail(err, LGV_ERR_MEMORY, "out of memory for a note");
    t->notes++;
    return LGV_OK;
}

static lgv_status make_buffers(lgv_trainer *t, lgv_error *err)
{
    bool torch = t->options.rng == LGV_RNG_TORCH;
    size_t rows = (size_t)t->effective, pixels = (size_t)t->pixels, total;
    if (!lgv_mul_size(rows, pixels, &total))
        return lgv_fail(err, LGV_ERR_MEMORY, "a batch of %lld pictures is too large",
                        (long long)t->effective);
    t->bytes = lgv_alloc(total, 1);
    t->x0 = lgv_alloc((size_t)t->batch * pixels, sizeof(float));
    t->t = lgv_alloc(rows, sizeof *t->t);
    t->t_weight = lgv_alloc(rows, sizeof *t->t_weight);
    t->label = lgv_alloc(rows, sizeof *t->label);
    if (torch) {
        t->noise = lgv_alloc(total, sizeof(float));
        t->offset = lgv_alloc(rows * (size_t)t->channels, sizeof(float));
        t->order = lgv_alloc((size_t)lgv_dataset_count(t->data), sizeof *t->order);
    }
    if (!t->bytes || !t->x0 || !t->t || !t->t_weight || !t->label ||
        (torch && (!t->noise || !t->offset || !t->order)))
        return lgv_fail(err, LGV_ERR_MEMORY, "out of memory for batches of %lld pictures",
                        (long long)t->effective);
    LGV_TRY(lgv_conditions_new(t, err));
    if (t->options.schedule_sampler == LGV_TIMESTEPS_UNIFORM) return LGV_OK;
    return lgv_importance_new(t->schedule->T, &t->importance, err);
}

static lgv_status make_weights(lgv_trainer *t, lgv_error *err)
{
    const lgv_model_info *m = lgv_model_describe(t->model);
    bool torch = t->options.rng == LGV_RNG_TORCH;
    if (torch) lgv_torch_seed(&t->state.torch, t->options.seed);
    if (m->weights_raw || m->weights_ema) {
        LGV_TRY(lgv_model_load_weights(t->model, t->store, "weight", LGV_WEIGHTS_BEST, err));
    } else {
        LGV_TRY(lgv_model_init(t->model, t->store, "weight", torch ? &t->state.torch : NULL,
                               t->options.seed, err));
    }
    t->state.torch_epoch = t->state.torch;
    return t->ema ? lgv_store_copy(t->store, "weight", "ema", err) : LGV_OK;
}

static lgv_status make_loader(lgv_trainer *t, lgv_error *err)
{
    int64_t fits = (INT64_C(64) << 20) / t->pixels, ahead = 2 * t->effective;
    if (ahead > fits) ahead = fits;
    lgv_loader_options o = {.seed = t->options.seed,
                            .first = t->state.position,
                            .per_epoch = t->per_epoch,
                            .ahead = ahead < 8 ? 8 : ahead,
                            .threads = t->options.loader_threads,
                            .given_orders = t->options.rng == LGV_RNG_TORCH};
    t->loaded_epoch = -1;
    return lgv_loader_new(t->data, &o, &t->loader, err);
}

static lgv_status starting_notes(lgv_trainer *t, lgv_error *err)
{
    int64_t n = lgv_dataset_count(t->data);
    if (n < 1000)
        LGV_TRY(lgv_trainer_note(t, err,
                                 t->task->pipeline ? "%lld pictures: expect near copies"
                                                   : "%lld pictures: expect a poor classifier",
                                 (long long)n));
    for (int i = 0; i < lgv_dataset_notes(t->data); i++)
        LGV_TRY(lgv_trainer_note(t, err, "%s", lgv_dataset_note_at(t->data, i)));
    if (t->task->pipeline && lgv_dataset_classes(t->data) > 1 && !lgv_classes_used(t))
        LGV_TRY(lgv_trainer_note(t, err,
                                 "%d classes found; the model does not use them (a new run with "
                                 "--class-conditional does)",
                                 lgv_dataset_classes(t->data)));
    return LGV_OK;
}

static lgv_status choose_task(lgv_trainer *t, lgv_error *err)
{
    bool labels = lgv_model_describe(t->model)->labels > 0;
    if (!t->options.task) t->options.task = labels ? LGV_TASK_CLASSIFIER : LGV_TASK_DIFFUSION;
    t->task = t->options.task == LGV_TASK_CLASSIFIER ? &lgv_task_classifier : &lgv_task_diffusion;
    if (labels == (t->options.task == LGV_TASK_CLASSIFIER)) return LGV_OK;
    return lgv_fail(err, LGV_ERR_ARGUMENT,
                    labels ? "'%s' is a classifier: it can only be trained as one (task classifier)"
                           : "'%s' is no classifier: the task classifier trains a UNet2DClassifier",
                    lgv_model_describe(t->model)->source);
}

/* A denoiser with twice the channels gives a variance; its schedule and its loss must know. */
static void choose_variance(lgv_trainer *t)
{
    const lgv_model_info *m = lgv_model_describe(t->model);
    if (!t->task->pipeline || !m->learned_variance) return;
    if (t->cfg.variance_type != LGV_VARIANCE_LEARNED)
        t->cfg.variance_type = LGV_VARIANCE_LEARNED_RANGE;
    if (!t->options.loss) t->options.loss = LGV_LOSS_HYBRID;
}

static lgv_status make_shapes(lgv_trainer *t, lgv_error *err)
{
    LGV_TRY(choose_task(t, err));
    choose_variance(t);
    LGV_TRY(lgv_train_options_resolve(&t->options, t->data, err));
    t->ema = t->options.ema_decay != LGV_OFF;
    t->batch = t->options.train_batch_size;
    t->effective = t->batch * t->options.gradient_accumulation_steps;
    t->side = lgv_dataset_resolution(t->data);
    t->channels = lgv_dataset_channels(t->data);
    t->pixels = t->side * t->side * t->channels;
    t->per_epoch = lgv_dataset_epoch_length(t->data);
    if (t->options.rng != LGV_RNG_TORCH) return LGV_OK;
    if (t->per_epoch != lgv_dataset_count(t->data))
        return lgv_fail(err, LGV_ERR_ARGUMENT,
                        "--rng torch knows no weights of data folders; leave them out or use "
                        "--rng philox");
    /* PyTorch's usual script drops the incomplete batch at the end of an epoch. */
    if (t->per_epoch < t->effective)
        return lgv_fail(err, LGV_ERR_ARGUMENT,
                        "--rng torch drops incomplete batches, and a batch of %lld is more than "
                        "the %lld pictures; use a "
                        "smaller batch or --rng philox",
                        (long long)t->effective, (long long)t->per_epoch);
    t->per_epoch -= t->per_epoch % t->effective;
    return LGV_OK;
}

/* The class of diffusers that a folder of ours names. */
static const char *saved_class(const lgv_scheduler_config *cfg)
{
    switch (lgv_scheduler_family(cfg)) {
    case LGV_FAMILY_EDM: return "EDMEulerScheduler";
    case LGV_FAMILY_FLOW: return "FlowMatchEulerDiscreteScheduler";
    case LGV_FAMILY_BETAS: break;
    }
    return "DDPMScheduler";
}

/* Grids and figures are drawn with ddim, or the sampler that fits the network. */
const char *lgv_trainer_sampler(const lgv_trainer *t)
{
    return t->schedule->family == LGV_FAMILY_BETAS ? "ddim" : lgv_sampler_default(&t->cfg, NULL);
}

static lgv_status make(lgv_trainer *t, const lgv_scheduler_config *cfg,
                       const lgv_checkpoint *resume, lgv_error *err)
{
    if (t->output && lgv_is_dir(t->output)) LGV_TRY(lgv_output_lock(t, err));
    LGV_TRY(lgv_scheduler_config_switch(cfg, saved_class(cfg), &t->cfg, err));
    LGV_TRY(lgv_schedule_new(&t->cfg, &t->schedule, err));
    LGV_TRY(make_shapes(t, err));
    LGV_TRY(lgv_classes_prepare(t, err));
    LGV_TRY(t->task->check(t, err));
    LGV_TRY(lgv_trainer_plan(t, err));
    LGV_TRY(make_buffers(t, err));
    if (resume)
        LGV_TRY(lgv_checkpoint_restore(resume, t, err));
    else
        LGV_TRY(make_weights(t, err));
    LGV_TRY(make_loader(t, err));
    LGV_TRY(lgv_evaluation_open(t, err));
    LGV_TRY(starting_notes(t, err));
    return t->output ? lgv_output_open(t, resume, err) : LGV_OK;
}

lgv_status lgv_trainer_new(lgv_model *model, lgv_dataset *data, const lgv_scheduler_config *cfg,
                           lgv_device *device, const lgv_train_options *options,
                           lgv_checkpoint *resume, lgv_trainer **out, lgv_error *err)
{
    if (!model || !data || !cfg || !device || !out)
        return lgv_fail(err, LGV_ERR_ARGUMENT,
                        "lgv_trainer_new needs a model, a data set, a schedule and a device");
    lgv_trainer *t = lgv_zalloc(1, sizeof *t);
    if (!t) return lgv_fail(err, LGV_ERR_MEMORY, "out of memory for a trainer");
    t->model = model;
    t->data = data;
    t->device = device;
    t->lock = t->log = -1;
    t->saved = t->refreshed = -1;
    if (options) t->options = *options;
    lgv_status s = LGV_OK;
    if (t->options.output_dir && !(t->output = lgv_strdup(t->options.output_dir)))
        s = lgv_fail(err, LGV_ERR_MEMORY, "out of memory for a trainer");
    t->options.output_dir = t->output;
    if (!s) s = make(t, cfg, resume, err);
    if (s) {
        lgv_trainer_free(t);
        return s;
    }
    *out = t;
    return LGV_OK;
}

void lgv_trainer_free(lgv_trainer *t)
{
    if (!t) return;
    lgv_output_close(t);
    lgv_loader_free(t->loader);
    lgv_pipeline_free(t->pipeline);
    lgv_evaluation_free(t->evaluation);
    lgv_plan_free(t->train);
    lgv_plan_free(t->validate);
    lgv_store_free(t->store);
    lgv_schedule_free(t->schedule);
    lgv_scheduler_config_clear(&t->cfg);
    for (size_t i = 0; i < t->notes; i++) lgv_free(t->note[i]);
    lgv_free(t->note);
    lgv_free(t->bytes);
    lgv_free(t->x0);
    lgv_free(t->noise);
    lgv_free(t->offset);
    lgv_free(t->t);
    lgv_free(t->t_weight);
    lgv_free(t->condition);
    lgv_free(t->mask);
    lgv_importance_free(t->importance);
    lgv_free(t->label);
    lgv_free(t->logits);
    lgv_free(t->order);
    lgv_free(t->last_saved);
    lgv_free(t->last_checkpoint);
    lgv_free(t->output);
    lgv_free(t);
}

/* ---- the draws of a step ---- */

/* Gives the loader the order of the epoch that the next sample belongs to. In the middle of an
   epoch (after a resume) the draws are repeated from the state kept at its start. */
static void give_order(lgv_trainer *t)
{
    lgv_train_state *s = &t->state;
    int64_t epoch = s->position / t->per_epoch;
    if (epoch == t->loaded_epoch || t->source_count) return;
    int64_t n = lgv_dataset_count(t->data);
    if (s->position % t->per_epoch) {
        lgv_torch_rng again = s->torch_epoch;
        lgv_torch_loader_order(&again, n, t->order);
    } else {
        s->torch_epoch = s->torch;
        lgv_torch_loader_order(&s->torch, n, t->order);
    }
    lgv_loader_epoch(t->loader, epoch, t->order);
    t->loaded_epoch = epoch;
}

/* ---- pictures ---- */

/* Which picture row i of the effective batch is, when they come from t->source. */
static int64_t source_index(const lgv_trainer *t, int64_t i)
{
    int64_t sample = t->state.position + i;
    if (t->source_count) return sample % t->source_count;
    return t->order ? t->order[sample % t->per_epoch] : sample;
}

static lgv_status fetch(lgv_trainer *t, double *waited, lgv_error *err)
{
    for (int64_t i = 0; i < t->effective && t->source; i++)
        t->label[i] = lgv_dataset_label(t->data, 0, source_index(t, i));
    if (t->source) return LGV_OK;
    return lgv_loader_next(t->loader, t->effective, t->bytes, t->label, waited, err);
}

/* Rows first .. first+batch-1 of the effective batch as floats. */
static lgv_status fill_x0(lgv_trainer *t, int64_t first, lgv_error *err)
{
    for (int64_t i = 0; i < t->batch && t->source; i++) {
        float *to = t->x0 + i * t->pixels;
        LGV_TRY(t->source(t->source_arg, source_index(t, first + i), to, err));
    }
    if (!t->source)
        lgv_pixels_to_f32(t->batch * t->pixels, t->bytes + first * t->pixels, t->x0);
    return lgv_plan_write(t->train, "x0", t->x0, t->batch * t->pixels, err);
}

/* ---- the step ---- */

static double or_zero(double v)
{
    return v == LGV_OFF ? 0 : v;
}

static lgv_status accumulate(lgv_trainer *t, lgv_train_report *r, lgv_error *err)
{
    int64_t hits = 0;
    r->loss = 0;
    for (int64_t first = 0; first < t->effective; first += t->batch) {
        float part;
        LGV_TRY(fill_x0(t, first, err));
        LGV_TRY(t->task->fill(t, first, err));
        LGV_TRY(lgv_conditions_fill(t, t->train, err));
        LGV_TRY(lgv_plan_run(t->train, "forward_backward", err));
        LGV_TRY(lgv_plan_read(t->train, "loss", &part, 1, err));
        r->loss += part;
        if (t->task->observe) LGV_TRY(t->task->observe(t, first, err));
        if (t->task->hits) LGV_TRY(t->task->hits(t, t->train, t->batch, &hits, err));
    }
    r->accuracy = (double)hits / (double)t->effective;
    return LGV_OK;
}

static lgv_status update(lgv_trainer *t, lgv_train_report *r, lgv_error *err)
{
    const lgv_train_options *o = &t->options;
    double *scalar = lgv_plan_step(t->train)->scalar;
    int64_t warmup = o->lr_warmup_steps == LGV_OFF ? 0 : o->lr_warmup_steps;
    double beta1 = or_zero(o->adam_beta1), beta2 = or_zero(o->adam_beta2),
           n = (double)(t->state.updates + 1);
    r->lr = o->learning_rate * lgv_lr_factor(o->lr_scheduler, t->state.step, warmup,
                                             o->lr_schedule_steps, o->lr_num_cycles, o->lr_power,
                                             o->learning_rate);
    r->ema_decay = t->ema ? lgv_ema_decay(t->state.updates, o->ema_decay) : 0;
    scalar[LGV_SCALAR_LR] = r->lr;
    scalar[LGV_SCALAR_BETA1] = beta1;
    scalar[LGV_SCALAR_BETA2] = beta2;
    scalar[LGV_SCALAR_EPS] = or_zero(o->adam_epsilon);
    scalar[LGV_SCALAR_WEIGHT_DECAY] = or_zero(o->adam_weight_decay);
    scalar[LGV_SCALAR_BIAS1] = 1 - (beta1 > 0 ? lgv_pow(beta1, n) : 0);
    scalar[LGV_SCALAR_BIAS2] = 1 - (beta2 > 0 ? lgv_pow(beta2, n) : 0);
    scalar[LGV_SCALAR_MAX_NORM] = or_zero(o->max_grad_norm);
    scalar[LGV_SCALAR_EMA_DECAY] = r->ema_decay;
    float out[2];
    LGV_TRY(lgv_plan_run(t->train, "update", err));
    LGV_TRY(lgv_plan_read(t->train, "update", out, 2, err));
    r->grad_norm = out[0];
    r->skipped = out[1] != 0;
    return LGV_OK;
}

static void measure(lgv_trainer *t, double begin, lgv_train_report *r)
{
    r->seconds = lgv_now() - begin;
    t->state.seconds += r->seconds;
    double rate = r->seconds > 0 ? (double)t->effective / r->seconds : 0;
    t->rate = t->rate > 0 ? 0.9 * t->rate + 0.1 * rate : rate;
    r->samples_per_second = t->rate;
    r->step = t->state.step;
    r->skipped_updates = t->state.skipped;
    r->broken_pictures = lgv_dataset_skipped(t->data);
    r->epoch = (double)t->state.position / (double)t->per_epoch;
}

/* The step without its counters. */
static lgv_status compute(lgv_trainer *t, lgv_train_report *r, lgv_error *err)
{
    if (t->options.rng == LGV_RNG_TORCH) give_order(t);
    LGV_TRY(fetch(t, &r->loader_wait, err));
    if (t->task->draw) t->task->draw(t);
    LGV_TRY(accumulate(t, r, err));
    return update(t, r, err);
}

lgv_status lgv_trainer_step(lgv_trainer *t, lgv_train_report *report, lgv_error *err)
{
    lgv_train_report r = {0};
    double begin = lgv_now();
    LGV_TRY(lgv_watch_check(t, err));
    lgv_train_state before = t->state;
    int64_t order = t->loaded_epoch;
    lgv_status s = compute(t, &r, err);
    if (s) { /* as if it had not begun: it may be tried again, and what is saved now is step's */
        t->state = before;
        t->loaded_epoch = order;
        return s;
    }
    t->state.step++;
    t->state.position += t->effective;
    t->state.updates += !r.skipped;
    t->state.skipped += r.skipped;
    t->state.bad = r.skipped || !isfinite(r.loss) ? t->state.bad + 1 : 0;
    lgv_watch_loss(t, r.loss);
    measure(t, begin, &r);
    if (report) *report = r;
    return lgv_watch_check(t, err);
}

/* ---- validation ---- */

const uint64_t lgv_validation_seed = UINT64_C(0x76616c6964617465);

static lgv_status validation_batch(lgv_trainer *t, int64_t first, int64_t count, double sum[4],
                                   int64_t *hits, lgv_error *err)
{
    lgv_step *step = lgv_plan_step(t->validate);
    for (int64_t i = 0; i < t->batch; i++) {
        int64_t picture =
            i < count ? first + i : first; /* rows beyond the end repeat one and are not counted */
        int64_t used;
        LGV_TRY(lgv_dataset_read(t->data, 1, picture, 0, 0, t->bytes, &used, err));
        lgv_pixels_to_f32(t->pixels, t->bytes, t->x0 + i * t->pixels);
        step->row[i] =
            (lgv_row){.seed = lgv_validation_seed, .sample = (uint64_t)picture, .weight = 1};
        step->row[i].label = lgv_dataset_label(t->data, 1, used);
        t->task->validation_row(t, picture, &step->row[i]);
    }
    LGV_TRY(lgv_plan_write(t->validate, "x0", t->x0, t->batch * t->pixels, err));
    LGV_TRY(lgv_conditions_fill(t, t->validate, err));
    LGV_TRY(lgv_plan_run(t->validate, NULL, err));
    float *rows = t->x0; /* at least one float a row */
    LGV_TRY(lgv_plan_read(t->validate, "rows", rows, t->batch, err));
    for (int64_t i = 0; i < count; i++) sum[(first + i) % 4] += rows[i];
    return t->task->hits ? t->task->hits(t, t->validate, count, hits, err) : LGV_OK;
}

lgv_status lgv_trainer_validate(lgv_trainer *t, lgv_validation *out, lgv_error *err)
{
    bool all = t->task->hits && t->state.step >= t->options.max_train_steps; /* the final figure */
    int64_t count = lgv_dataset_validation_count(t->data), hits = 0;
    lgv_validation v = {.pictures = all ? count : lgv_min_i64(count, LGV_VALIDATION_MOST)};
    double sum[4] = {0};
    for (int64_t first = 0; first < v.pictures; first += t->batch)
        LGV_TRY(
            validation_batch(t, first, lgv_min_i64(t->batch, v.pictures - first), sum, &hits, err));
    v.accuracy = v.pictures ? (double)hits / (double)v.pictures : 0;
    for (int q = 0; q < 4; q++) {
        int64_t n = (v.pictures + 3 - q) / 4;
        v.quartile[q] = n ? sum[q] / (double)n : 0;
        v.loss += v.pictures ? sum[q] / (double)v.pictures : 0;
    }
    *out = v;
    return LGV_OK;
}

/* ---- asking ---- */

void lgv_trainer_set_source(lgv_trainer *t, lgv_train_source read, void *arg, int64_t count)
{
    t->source = read;
    t->source_arg = arg;
    t->source_count = count;
}

lgv_store *lgv_trainer_store(lgv_trainer *t)
{
    return t->store;
}
int lgv_trainer_notes(const lgv_trainer *t)
{
    return (int)t->notes;
}
const char *lgv_trainer_note_at(const lgv_trainer *t, int i)
{
    return i >= 0 && (size_t)i < t->notes ? t->note[i] : NULL;
}

void lgv_trainer_describe(const lgv_trainer *t, lgv_trainer_info *out)
{
    lgv_plan_info train, validate = {0};
    lgv_plan_describe(t->train, &train);
    if (t->validate) lgv_plan_describe(t->validate, &validate);
    int64_t every = t->options.checkpointing_steps;
    if (!every) every = 500;
    int64_t next =
        every == LGV_OFF ? t->options.max_train_steps : (t->state.step / every + 1) * every;
    *out = (lgv_trainer_info){
        .options = t->options,
        .step = t->state.step,
        .position = t->state.position,
        .pictures = lgv_dataset_count(t->data),
        .validation_pictures = lgv_dataset_validation_count(t->data),
        .effective_batch = t->effective,
        .parameters = lgv_store_parameters(t->store),
        .epochs = (double)t->options.max_train_steps * (double)t->effective / (double)t->per_epoch,
        .arena_bytes =
            train.arena_bytes > validate.arena_bytes ? train.arena_bytes : validate.arena_bytes,
        .data_bytes = lgv_dataset_memory(t->data),
        .flops_per_step = train.flops * (double)t->options.gradient_accumulation_steps,
        .skipped_updates = t->state.skipped,
        .lr_horizon = t->options.lr_schedule_steps,
        .next_checkpoint = lgv_min_i64(next, t->options.max_train_steps),
        .last_checkpoint = t->last_checkpoint};
    size_t all = lgv_store_bytes(t->store); /* the arena is part of it */
    out->store_bytes = all > out->arena_bytes ? all - out->arena_bytes : all;
}
