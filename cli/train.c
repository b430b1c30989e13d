/* train.c - langevin train: from a folder of pictures to a model folder.
   The command decides nothing the library does not: it finds the checkpoint, opens pictures and
   network, says what was chosen, and shows what happens. */
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "langevin/model.h"
#include "classes.h"
#include "grids.h"
#include "plot.h"
#include "progress.h"
#include "train.h"

typedef struct job {
    const cli_command *self;
    train_args args;
    char *parent; /* output folder when only a checkpoint was named */
    const char *output;
    lgv_checkpoint *resume;
    lgv_scheduler_config cfg;
    char *noise; /* folder of the scheduler that a noisy classifier takes over; NULL: none */
    lgv_dataset *data;
    lgv_model *model;
    lgv_model_options options; /* of a preset */
    lgv_device *device;
    lgv_trainer *trainer;
    cli_plot *plot;
    /* while running */
    cli_progress progress;
    int64_t first;      /* step at the start */
    double warm;        /* clock after the first step, 0 before */
    int64_t warm_steps; /* steps since */
    double timed;       /* seconds per step, 0 before it is known */
    double start, loss,
        accuracy; /* clock; smoothed loss and accuracy, weighted sums over `weight` */
    double weight;
    char sampled[512]; /* the newest grid */
} job;

/* ---- preparing ---- */

/* "out" of "out/checkpoint-500/". */
static char *parent_of(const char *path)
{
    char *copy = strdup(path);
    size_t n = copy ? strlen(copy) : 0;
    while (n > 1 && copy[n - 1] == '/') n--;
    while (n > 0 && copy[n - 1] != '/') n--;
    while (n > 1 && copy[n - 1] == '/') n--;
    if (!copy) return NULL;
    if (n) {
        copy[n] = 0;
        return copy;
    }
    free(copy);
    return strdup(".");
}

static lgv_status find_run(job *j, lgv_error *err)
{
    train_args *a = &j->args;
    j->output = a->output;
    if (!j->output && !(j->output = j->parent = parent_of(a->resume)))
        return cli_status(err, LGV_ERR_MEMORY, "out of memory");
    a->train.output_dir = j->output;
    lgv_status status =
        lgv_checkpoint_find(j->output, a->resume, a->train.overwrite, &j->resume, err);
    if (status) return status;
    if (a->resume && !j->resume)
        printf("no checkpoint in '%s' yet: starting from the beginning\n", j->output);
    if (!j->resume)
        return a->n_data ? LGV_OK
                         : cli_status(err, LGV_ERR_ARGUMENT,
                                      "which pictures? give a folder with --data PATH");
    printf("going on from %s (step %lld)\n", lgv_checkpoint_path(j->resume),
           (long long)lgv_checkpoint_step(j->resume));
    if ((status = lgv_checkpoint_merge(j->resume, &a->train, &a->pictures, err))) return status;
    for (int i = 0; i < lgv_checkpoint_changes(j->resume); i++)
        printf("note: %s\n", lgv_checkpoint_change_at(j->resume, i));
    train_args_zeros(&a->train);
    if (!a->n_data) a->n_data = lgv_checkpoint_sources(j->resume, &a->data);
    return LGV_OK;
}

/* The same parameters: a resumed command line may still name the model it began with. */
static bool same_network(const lgv_model *a, const lgv_model *b)
{
    const lgv_model_info *p = lgv_model_describe(a), *q = lgv_model_describe(b);
    if (p->tensors != q->tensors) return false;
    for (int i = 0; i < p->tensors; i++) {
        int rank_a, rank_b, frozen;
        int64_t dim_a[LGV_MAX_RANK], dim_b[LGV_MAX_RANK];
        const char *name_a = lgv_model_parameter(a, i, &rank_a, dim_a, &frozen);
        const char *name_b = lgv_model_parameter(b, i, &rank_b, dim_b, &frozen);
        if (rank_a != rank_b || strcmp(name_a, name_b)) return false;
        for (int k = 0; k < rank_a; k++)
            if (dim_a[k] != dim_b[k]) return false;
    }
    return true;
}

/* A network with weights has classes or has none; a new one gets o->classes. */
static lgv_status open_with_classes(const char *what, const lgv_model_options *o, lgv_model **out,
                                    lgv_error *err)
{
    lgv_model_options plain = *o;
    plain.classes = -1;
    lgv_status status = lgv_model_open(what, &plain, out, err);
    if (status || o->classes < 1) return status;
    const lgv_model_info *m = lgv_model_describe(*out);
    if (m->class_kind != LGV_CLASS_NONE || m->weights_raw || m->weights_ema) return LGV_OK;
    lgv_model_free(*out);
    *out = NULL;
    return lgv_model_open(what, o, out, err);
}

static lgv_status check_same(const job *j, lgv_error *err)
{
    lgv_model *named = NULL;
    if (!j->resume || !j->args.model) return LGV_OK;
    lgv_status status = open_with_classes(j->args.model, &j->options, &named, err);
    if (!status && !same_network(named, j->model)) {
        status = cli_status(
            err, LGV_ERR_ARGUMENT,
            "--model is another network than that of the checkpoint; leave it out, or start a new "
            "run");
    }
    lgv_model_free(named);
    return status;
}

/* What the network fixes about the pictures: its size and its channels. */
static lgv_status size_from_model(const char *what, lgv_dataset_options *o, lgv_error *err)
{
    lgv_model *model = NULL;
    lgv_status status = lgv_model_open(what, NULL, &model, err);
    if (status) return status;
    const lgv_model_info *info = lgv_model_describe(model);
    if (!o->resolution && info->height != info->width)
        status = cli_status(err, LGV_ERR_UNSUPPORTED,
                            "the model's pictures are not square; state a --resolution");
    else if (!o->resolution)
        o->resolution = info->height;
    if (!status && !info->from_preset && info->picture_channels != 1 &&
        info->picture_channels != 3) {
        status = cli_status(err, LGV_ERR_UNSUPPORTED,
                            "model '%s' takes %d channels; pictures have 1 or 3", what,
                            info->picture_channels);
    }
    if (!status && !info->from_preset && !o->channels) o->channels = info->picture_channels;
    lgv_model_free(model);
    return status;
}

static const char *preset_for(int resolution)
{
    return resolution <= 32    ? "unet-32"
           : resolution <= 64  ? "unet-64"
           : resolution <= 128 ? "unet-128"
                               : NULL;
}

/* A new classifier: with the default encoder, or with that of the network named (and its noise, which the classifier is to
   guide); or a classifier to go on with. */
static lgv_status make_classifier(job *j, lgv_error *err)
{
    lgv_unet2d_config config;
    lgv_model *named = NULL;
    const char *what = j->args.model;
    int classes = lgv_dataset_classes(j->data);
    bool noisy = j->args.noisy;
    (noisy ? lgv_noisy_classifier_config_default : lgv_classifier_config_default)(
        lgv_dataset_resolution(j->data), lgv_dataset_channels(j->data), &config);
    if (what) {
        lgv_model_options o = {.channels = lgv_dataset_channels(j->data),
                               .resolution = lgv_dataset_resolution(j->data)};
        lgv_status status = lgv_model_open(what, &o, &named, err);
        if (status) return status;
        const lgv_unet2d_config *encoder = lgv_model_unet2d(named);
        if (!encoder) {
            lgv_model_free(named);
            return cli_status(err, LGV_ERR_UNSUPPORTED,
                              "'%s' is no U-Net, whose encoder a classifier could take", what);
        }
        config = *encoder;
        config.class_embedding = LGV_CLASS_NONE;
        config.num_class_embeds = 0;
        if (lgv_model_describe(named)->labels) {
            j->model = named;
            return LGV_OK;
        }
        const char *folder = lgv_model_describe(named)->scheduler;
        if (noisy && folder && !(j->noise = strdup(folder))) {
            lgv_model_free(named);
            return cli_status(err, LGV_ERR_MEMORY, "out of memory");
        }
    }
    lgv_model_free(named);
    if (classes < 2)
        return cli_status(
            err, LGV_ERR_ARGUMENT,
            "there are no classes to learn: put the pictures of each class into a folder of "
            "its own");
    const char **names = malloc((size_t)classes * sizeof *names);
    if (!names) return cli_status(err, LGV_ERR_MEMORY, "out of memory");
    for (int i = 0; i < classes; i++) names[i] = lgv_dataset_class_name(j->data, i);
    if (noisy) config.sample_height = config.sample_width = lgv_dataset_resolution(j->data);
    lgv_status status = (noisy ? lgv_model_new_noisy_classifier : lgv_model_new_classifier)(
        &config, classes, names, &j->model, err);
    free(names);
    return status;
}

static lgv_status open_network(job *j, const char *what, lgv_model_options *o, lgv_error *err)
{
    int classes = lgv_dataset_classes(j->data);
    bool wanted = j->args.class_conditional;
    if (!what) what = preset_for(o->resolution);
    if (wanted && classes < 2)
        return cli_status(
            err, LGV_ERR_ARGUMENT,
            "there are no classes to learn in '%s': put the pictures of each class into a folder "
            "of its own, or labels beside the pictures",
            lgv_dataset_path(j->data));
    j->options = *o;
    if (wanted) j->options.classes = classes + 1; /* and the label for none */
    lgv_status status = open_with_classes(what, &j->options, &j->model, err);
    if (status || !wanted) return status;
    const lgv_model_info *m = lgv_model_describe(j->model);
    if (m->class_kind != LGV_CLASS_NONE) return LGV_OK;
    return cli_status(err, LGV_ERR_ARGUMENT,
                      "the model '%s' was trained without classes; --class-conditional needs one "
                      "trained with them, or a new one",
                      m->source);
}

static lgv_status open_data_and_model(job *j, lgv_error *err)
{
    train_args *a = &j->args;
    const char *what = j->resume ? lgv_checkpoint_network(j->resume) : a->model;
    lgv_status status = LGV_OK;
    if (what) status = size_from_model(what, &a->pictures, err);
    if (!status && !what && a->train.task != LGV_TASK_CLASSIFIER && a->pictures.resolution &&
        !preset_for(a->pictures.resolution))
        status = cli_status(err, LGV_ERR_ARGUMENT,
                            "there is no default model above 128x128; give one with --model");
    if (!status) status = lgv_dataset_open_sources(a->data, a->n_data, &a->pictures, &j->data, err);
    if (status) return status;
    if (a->train.task == LGV_TASK_CLASSIFIER && !j->resume) return make_classifier(j, err);
    lgv_model_options o = {.channels = lgv_dataset_channels(j->data),
                           .resolution = lgv_dataset_resolution(j->data),
                           .condition = a->condition,
                           .condition_scale = a->condition_scale,
                           .learned_variance = a->learned_variance};
    status = open_network(j, what, &o, err);
    return status ? status : check_same(j, err);
}

static lgv_status choose_schedule(job *j, lgv_error *err)
{
    const char *folder = j->noise ? j->noise : lgv_model_describe(j->model)->scheduler;
    lgv_status status;
    if (j->resume) {
        status = lgv_checkpoint_scheduler(j->resume, &j->cfg, err);
    } else if (folder) {
        size_t n = strlen(folder) + sizeof "/scheduler_config.json";
        char *path = malloc(n);
        if (!path) return cli_status(err, LGV_ERR_MEMORY, "out of memory");
        snprintf(path, n, "%s/scheduler_config.json", folder);
        status = lgv_scheduler_config_load(path, &j->cfg, err);
        free(path);
    } else {
        status = lgv_scheduler_config_init(&j->cfg, NULL, err);
        /* Guidance leaves the range of pictures on the way; DDIM that clips then loses the class (docs/conditional.md). */
        if (!status && j->args.class_conditional)
            status = lgv_scheduler_config_set(&j->cfg, "clip_sample", "false", err);
    }
    return status ? status : train_args_schedule(&j->cfg, err);
}

static lgv_status prepare(job *j, lgv_error *err)
{
    lgv_status status = find_run(j, err);
    if (!status) status = open_data_and_model(j, err);
    if (!status) status = choose_schedule(j, err);
    if (!status) status = cli_open_device(&j->args.device, &j->device, err);
    if (!status)
        status = lgv_trainer_new(j->model, j->data, &j->cfg, j->device, &j->args.train, j->resume,
                                 &j->trainer, err);
    if (status) return status;
    j->plot = cli_plot_new(j->output);
    return j->plot ? LGV_OK : cli_status(err, LGV_ERR_MEMORY, "out of memory");
}

/* ---- what was chosen ---- */

static void row(const char *name)
{
    printf("  %-14s", name);
}

static void print_data(const job *j, const lgv_trainer_info *t)
{
    lgv_dataset_probe probe;
    lgv_dataset_probed(j->data, &probe);
    row("pictures");
    printf("%s: %lld", lgv_dataset_path(j->data), (long long)t->pictures);
    if (t->validation_pictures)
        printf(", and %lld for validation", (long long)t->validation_pictures);
    if (probe.sampled && probe.smallest_side == probe.largest_side)
        printf(" (%dx%d)", probe.largest_side, probe.largest_side);
    else if (probe.sampled)
        printf(" (sides of %d to %d pixels)", probe.smallest_side, probe.largest_side);
    if (lgv_dataset_cached(j->data))
        printf(", %lld of them decoded before", (long long)lgv_dataset_cached(j->data));
    printf("\n");
}

static void print_model(const job *j)
{
    const lgv_model_info *m = lgv_model_describe(j->model);
    char count[32];
    int side = lgv_dataset_resolution(j->data), channels = lgv_dataset_channels(j->data);
    row("model");
    printf("%s, %s parameters, %s\n", m->source, cli_count((double)m->parameters, count),
           j->resume                          ? "from the checkpoint"
           : m->weights_raw || m->weights_ema ? "fine-tuned from its weights"
                                              : "from scratch");
    row("resolution");
    printf("%dx%d, %d channel%s (%s)\n", side, side, channels, channels == 1 ? "" : "s",
           channels == 1 ? "grey" : "colour");
}

static void print_steps(const lgv_trainer_info *t)
{
    const lgv_train_options *o = &t->options;
    row("batch");
    printf("%lld", (long long)o->train_batch_size);
    if (o->gradient_accumulation_steps > 1)
        printf(" x %lld accumulated = %lld", (long long)o->gradient_accumulation_steps,
               (long long)t->effective_batch);
    printf("\n");
    row("steps");
    printf("%lld (%.3g epochs)", (long long)o->max_train_steps, t->epochs);
    if (t->step) printf(", %lld done", (long long)t->step);
    printf("\n");
    row("learning rate");
    printf("%g, %s", o->learning_rate, lgv_lr_scheduler_name(o->lr_scheduler));
    if (o->lr_warmup_steps > 0 && o->lr_scheduler != LGV_LR_CONSTANT)
        printf(", %lld warm-up steps", (long long)o->lr_warmup_steps);
    if (o->lr_scheduler > LGV_LR_CONSTANT_WITH_WARMUP)
        printf(", laid out for %lld steps", (long long)t->lr_horizon);
    printf("\n");
}

static void print_schedule(const job *j, const lgv_train_options *o)
{
    switch (lgv_scheduler_family(&j->cfg)) {
    case LGV_FAMILY_EDM:
        printf("EDM's preconditioning, sigma log-normal, sigma_data %g", j->cfg.sigma_data);
        break;
    case LGV_FAMILY_FLOW:
        printf("flow matching, shift %g, T %lld", j->cfg.shift,
               (long long)j->cfg.num_train_timesteps);
        break;
    case LGV_FAMILY_BETAS:
        printf("%s prediction, %s schedule, T %lld", lgv_prediction_name(j->cfg.prediction_type),
               lgv_beta_schedule_name(j->cfg.beta_schedule), (long long)j->cfg.num_train_timesteps);
    }
    if (o->snr_gamma > 0) printf(", min-SNR gamma %g", o->snr_gamma);
    if (o->noise_offset > 0) printf(", noise offset %g", o->noise_offset);
    printf("\n");
}

static void print_classes(const job *j, const lgv_train_options *o)
{
    const lgv_model_info *m = lgv_model_describe(j->model);
    if (m->class_kind == LGV_CLASS_NONE) return;
    row("classes");
    for (int i = 0; i < m->class_names && i < 10; i++)
        printf("%s%s", i ? ", " : "", m->class_name_of[i]);
    if (m->class_names > 10) printf(" ... (%d)", m->class_names);
    if (o->class_dropout_prob > 0)
        printf("; %g %% of the labels dropped\n", 100 * o->class_dropout_prob);
    else
        printf("; no labels dropped, so no guidance\n");
}

static void print_objective(const job *j, const lgv_train_options *o)
{
    row("objective");
    if (o->task == LGV_TASK_CLASSIFIER)
        printf("cross-entropy over %d classes%s\n", lgv_model_describe(j->model)->labels,
               lgv_model_describe(j->model)->noisy ? " of pictures with noise" : "");
    else
        print_schedule(j, o);
    print_classes(j, o);
    row("averaging");
    if (o->ema_decay > 0)
        printf("on, decay up to %g\n", o->ema_decay);
    else
        printf("off\n");
    row("seed");
    printf("%llu (%s)\n", (unsigned long long)o->seed,
           o->rng == LGV_RNG_TORCH ? "torch" : "philox");
}

static void print_machine(const job *j, const lgv_trainer_info *t)
{
    char all[32], a[32], b[32], c[32], device[64];
    const lgv_train_options *o = &t->options;
    row("device");
    printf("%s, %s\n", cli_device_text(j->device, device), cli_precision(o->mixed_precision));
    row("memory");
    printf("%s (%s activations, %s weights and optimizer, %s pictures)\n",
           cli_bytes((double)t->arena_bytes + (double)t->store_bytes + (double)t->data_bytes, all),
           cli_bytes((double)t->arena_bytes, a), cli_bytes((double)t->store_bytes, b),
           cli_bytes((double)t->data_bytes, c));
    row("output");
    printf("%s, a checkpoint ", j->output);
    if (o->checkpointing_steps == LGV_OFF)
        printf("at the end");
    else if (o->checkpointing_steps)
        printf("every %lld steps", (long long)o->checkpointing_steps);
    else
        printf("every 500 steps or 10 minutes");
    if (o->checkpoints_total_limit > 0)
        printf(", %lld kept", (long long)o->checkpoints_total_limit);
    printf("\n");
}

static void print_chosen(const job *j)
{
    lgv_trainer_info t;
    lgv_trainer_describe(j->trainer, &t);
    printf("training\n");
    print_data(j, &t);
    print_model(j);
    print_steps(&t);
    print_objective(j, &t.options);
    print_machine(j, &t);
    bool amx = strstr(lgv_device_name(j->device), "amx"),
         bf16 = t.options.mixed_precision == LGV_MIXED_BF16;
    if (amx && !bf16)
        printf("note: this processor has AMX, which float32 cannot use: --mixed-precision bf16 is "
               "faster\n");
    if (!amx && bf16)
        printf("note: without AMX bf16 saves memory, not time: the arithmetic is float32\n");
    fflush(stdout);
}

static void print_speed(double seconds, int64_t left)
{
    char each[32], all[32], at[32] = "";
    time_t end = time(NULL) + (time_t)(seconds * (double)left);
    struct tm tm;
    if (localtime_r(&end, &tm)) strftime(at, sizeof at, "%a %d %b %H:%M", &tm);
    row("speed");
    printf("%s per step, %s to go, ends about %s\n", cli_duration(seconds, each),
           cli_duration(seconds * (double)left, all), at);
    fflush(stdout);
}

/* ---- while it runs ---- */

static void extra_text(const job *j, const lgv_train_report *r, char text[128])
{
    size_t n = 0;
    text[0] = 0;
    if (j->weight > 0) n = (size_t)snprintf(text, 128, "loss %.4g  ", j->loss / j->weight);
    if (j->weight > 0 && lgv_model_describe(j->model)->labels)
        n += (size_t)snprintf(text + n, 128 - n, "accuracy %.1f %%  ",
                              100 * j->accuracy / j->weight);
    n += (size_t)snprintf(text + n, 128 - n, "lr %.3g", r->lr);
    if (r->skipped_updates)
        snprintf(text + n, 128 - n, "  %lld skipped", (long long)r->skipped_updates);
}

/* The first step warms caches up; the next ones, for two seconds, are timed. */
static void measure_speed(job *j, const lgv_train_report *r, int64_t left)
{
    double now = cli_now();
    if (!j->warm) {
        j->warm = now;
        j->start = now - r->seconds;
        if (!left) j->timed = r->seconds;
    } else {
        j->warm_steps++;
        if (now - j->warm > 2 || j->warm_steps >= 20 || !left)
            j->timed = (now - j->warm) / (double)j->warm_steps;
    }
}

static void stepped(job *j, const lgv_train_report *r)
{
    char extra[128];
    lgv_trainer_info t;
    lgv_trainer_describe(j->trainer, &t);
    if (isfinite(r->loss)) {
        double keep = j->weight < 20 ? 0.95 : 0.99; /* follows the fall at first, then settles */
        j->loss = keep * j->loss + r->loss;
        j->accuracy = keep * j->accuracy + r->accuracy;
        j->weight = keep * j->weight + 1;
    }
    int64_t left = t.options.max_train_steps - r->step;
    if (!j->progress.label) measure_speed(j, r, left);
    if (!j->progress.label && j->timed > 0) {
        print_speed(j->timed, left);
        cli_progress_begin(&j->progress, "training", "it/s", 1, r->step, t.options.max_train_steps);
    }
    extra_text(j, r, extra);
    cli_progress_show(&j->progress, r->step, extra);
}

static void say(job *j, const char *what, const char *text)
{
    cli_progress_clear(&j->progress);
    printf("%s%s\n", what, text);
    fflush(stdout);
}

/* The curve is a view of the log: failing to draw it stops nothing. */
static void draw(job *j)
{
    lgv_error err = {0};
    if (cli_plot_write(j->plot, &err)) say(j, "note: no curves: ", err.text);
}

/* The pictures of a new grid; free *pixels with free(). NULL: no memory. */
static lgv_image *pictures_of(const lgv_samples *s, uint8_t **pixels)
{
    size_t n = (size_t)s->n, each = (size_t)(s->channels * s->height * s->width);
    lgv_image *images = calloc(n, sizeof *images);
    *pixels = malloc(n * each);
    if (!images || !*pixels) {
        free(images);
        free(*pixels);
        return NULL;
    }
    lgv_images_u8(s->n, s->channels, s->height, s->width, s->sample, *pixels);
    for (size_t i = 0; i < n; i++)
        images[i] = (lgv_image){.width = (int)s->width,
                                .height = (int)s->height,
                                .channels = (int)s->channels,
                                .bits = 8,
                                .pixels = *pixels + i * each};
    return images;
}

/* A grid of classes is made again with their names. */
static lgv_status name_grid(const job *j, const lgv_samples *s, const lgv_image *images,
                            const char *png, lgv_error *err)
{
    lgv_image sheet = {0};
    char text[160];
    const lgv_png_text line = {"parameters", text};
    if (!s->labels) return LGV_OK;
    snprintf(text, sizeof text, "samples of each class, seeds 0 to %lld, Langevin " LGV_VERSION,
             (long long)s->n - 1);
    lgv_status status = cli_class_sheet(images, s->labels, s->n, j->model, &sheet, err);
    if (!status) status = lgv_image_save_png(png, &sheet, &line, 1, err);
    lgv_image_free(&sheet);
    return status;
}

static void sampled(job *j, const char *png, const lgv_samples *s)
{
    enum { SHOWN = 8 };
    lgv_error err = {0};
    uint8_t *pixels = NULL;
    lgv_image *images = pictures_of(s, &pixels);
    say(j, "drew ", png);
    snprintf(j->sampled, sizeof j->sampled, "%s", png);
    if (images && name_grid(j, s, images, png, &err))
        say(j, "note: the grid has no names: ", err.text);
    if (cli_grids_animate(j->output, &err)) say(j, "note: no animation of samples: ", err.text);
    if (images && j->args.preview && j->progress.terminal) /* the first ones, above the bar */
        cli_progress_preview(&j->progress, images, s->n < SHOWN ? (size_t)s->n : SHOWN);
    free(images);
    free(pixels);
}

static void validated(job *j, const lgv_validation *v)
{
    char text[160];
    bool classifier = lgv_model_describe(j->model)->labels > 0;
    if (classifier)
        snprintf(text, sizeof text, "%.2f %% of %lld pictures (loss %.4g)", 100 * v->accuracy,
                 (long long)v->pictures, v->loss);
    else
        snprintf(text, sizeof text, "%.4g (by quarter of t: %.3g %.3g %.3g %.3g)", v->loss,
                 v->quartile[0], v->quartile[1], v->quartile[2], v->quartile[3]);
    say(j, classifier ? "validation accuracy " : "validation loss ", text);
    draw(j);
}

static int on_event(void *user, const lgv_train_event *event)
{
    job *j = user;
    char text[160];
    switch (event->kind) {
    case LGV_TRAIN_STEPPED: stepped(j, event->report); break;
    case LGV_TRAIN_NOTE: say(j, "note: ", event->text); break;
    case LGV_TRAIN_SAVED:
        say(j, "saved ", event->text);
        if (!lgv_dataset_validation_count(j->data)) draw(j); /* else after the validation, next */
        break;
    case LGV_TRAIN_SAMPLED: sampled(j, event->text, event->samples); break;
    case LGV_TRAIN_VALIDATED: validated(j, event->validation); break;
    case LGV_TRAIN_EVALUATED:
        snprintf(text, sizeof text,
                 "Frechet distance %.4g (%.4g to %.4g), precision %.3f, recall %.3f, %lld samples",
                 event->figures->frechet.value, event->figures->frechet.low,
                 event->figures->frechet.high, event->figures->precision.value,
                 event->figures->recall.value, (long long)event->figures->generated);
        say(j, "", text);
        break;
    case LGV_TRAIN_SAMPLING:
        cli_progress_show(&j->progress, j->progress.done, "drawing samples");
        break;
    }
    return cli_signal() != 0;
}

/* ---- the end ---- */

static void print_resume(const job *j)
{
    printf("go on with: langevin train --output ");
    cli_print_word(j->output);
    printf(" --resume-from-checkpoint latest");
    if (j->args.device.device) {
        printf(" --device ");
        cli_print_word(j->args.device.device);
    }
    if (j->args.device.threads) printf(" --threads %d", j->args.device.threads);
    printf("\n");
}

static void print_done(const job *j)
{
    lgv_trainer_info t;
    char time_text[32];
    lgv_trainer_describe(j->trainer, &t);
    bool classifier = lgv_model_describe(j->model)->labels > 0,
         noisy = lgv_model_describe(j->model)->noisy;
    double weight = j->weight > 0 ? j->weight : NAN;
    if (j->warm) {
        printf("done: %lld step%s in %s, loss %.4g", (long long)(t.step - j->first),
               t.step - j->first == 1 ? "" : "s", cli_duration(cli_now() - j->start, time_text),
               j->loss / weight);
        if (classifier) printf(", training accuracy %.2f %%", 100 * j->accuracy / weight);
        printf("\n");
    } else {
        printf("nothing to do: the run has its %lld steps; more with --max-train-steps\n",
               (long long)t.step);
    }
    row("model");
    printf("%s\n", j->output);
    if (*j->sampled) {
        row("samples");
        printf("%s\n", j->sampled);
    }
    row("curves");
    printf("%s/loss.png%s\n", j->output, classifier ? "" : ", timesteps.png, samples.gif");
    row("TensorBoard");
    printf("tensorboard --logdir ");
    cli_print_word(j->output);
    printf("\n");
    row("log");
    printf("%s/log.jsonl\n", j->output);
    row(classifier && !noisy ? "figures" : "pictures");
    printf(noisy        ? "langevin sample MODEL --output samples.png --classifier "
           : classifier ? "langevin eval MODEL --data DATA --features "
                        : "langevin sample ");
    cli_print_word(j->output);
    printf(classifier ? "\n" : " --output samples.png --num-images 16\n");
}

static int finish(job *j, lgv_status status, const lgv_error *err)
{
    int caught = cli_signal();
    cli_progress_clear(&j->progress);
    if (status && status != LGV_ERR_CANCELLED) {
        draw(j);
        fflush(stdout);
        return cli_fail(j->self, err);
    }
    draw(j);
    if (!status) {
        print_done(j);
        return CLI_OK;
    }
    printf("%s\n", err->text);
    print_resume(j);
    return 128 + caught;
}

static int run(const cli_command *self, int argc, const char **argv)
{
    job j = {.self = self};
    lgv_error err = {0};
    lgv_trainer_info t;
    int code = train_args_read(self, argc, argv, &j.args);
    if (code >= 0) return code;
    cli_catch_signals();
    lgv_status status = prepare(&j, &err);
    if (status) {
        code = cli_fail(self, &err);
    } else {
        lgv_trainer_describe(j.trainer, &t);
        j.first = t.step;
        print_chosen(&j);
        status = lgv_trainer_run(j.trainer, on_event, &j, &err);
        code = finish(&j, status, &err);
    }
    cli_progress_free(&j.progress);
    cli_plot_free(j.plot);
    lgv_trainer_free(j.trainer);
    lgv_device_free(j.device);
    lgv_model_free(j.model);
    lgv_dataset_free(j.data);
    lgv_checkpoint_free(j.resume);
    lgv_scheduler_config_clear(&j.cfg);
    free(j.parent);
    free(j.noise);
    return code;
}

const cli_command cli_train = {
    .name = "train",
    .summary = "train a model on a folder of pictures",
    .usage = "train --data PATH --output DIR",
    .examples = "  langevin train --data pictures --output model\n"
                "  langevin train --data photos --output model --resolution 64 --random-flip "
                "--max-train-steps 50000\n"
                "  langevin train --output model --resume-from-checkpoint latest\n"
                "  langevin train --data pictures --output classes --class-conditional\n"
                "  langevin train --data pictures --output transformer --model dit-s-4 --resolution 32\n"
                "  langevin train --task classifier --noisy --data pictures --output noisy-classifier "
                "--model model\n"
                "  langevin train --data pictures --output enlarger --condition super-resolution\n"
                "  langevin train --data mine --output tuned --model model --learning-rate 2e-5\n",
    .run = run,
};
