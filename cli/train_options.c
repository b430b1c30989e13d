/* train_options.c - the options of `langevin train`.
   The library's options are structs whose zero means "the default"; on the command line a 0 often
   means "off". The tables below say which is which. */
#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "train.h"

static struct {
    char **data, *output, *model, *resume;
    char *cache_dir, *task, *eval_features, *lr_scheduler, *prediction_type, *beta_schedule,
        *variance_type, *condition, *loss, *schedule_sampler, *seed, *rng, *precision, *budget,
        *background;
    long long resolution, channels, scale, timesteps, eval_steps, eval_samples,
        eval_inference_steps;
    long long steps, epochs, batch, accumulation, warmup, schedule_steps, checkpointing, keep;
    double lr, cycles, power, grad_norm, loss_growth, ema, snr_gamma, noise_offset, class_dropout;
    double beta1, beta2, weight_decay, epsilon;
    int center_crop, random_flip, strict, class_conditional, noisy, allow_data_change, overwrite, preview;
    cli_device_options dev;
} opt;

/* Which options were stated. */
enum {
    RESOLUTION = 1,
    CHANNELS,
    SCALE,
    TIMESTEPS,
    STEPS,
    EPOCHS,
    BATCH,
    ACCUMULATION,
    WARMUP,
    SCHEDULE_STEPS,
    CHECKPOINTING,
    KEEP,
    LR,
    CYCLES,
    POWER,
    GRAD_NORM,
    LOSS_GROWTH,
    EMA,
    SNR_GAMMA,
    NOISE_OFFSET,
    CLASS_DROPOUT,
    BETA1,
    BETA2,
    WEIGHT_DECAY,
    EPSILON,
    EVAL_STEPS,
    EVAL_SAMPLES,
    EVAL_INFERENCE_STEPS,
    STATED
};
static bool stated[STATED];

#define TEXT   POPT_ARG_STRING
#define COUNT  POPT_ARG_LONGLONG
#define NUMBER POPT_ARG_DOUBLE
#define SWITCH POPT_ARG_NONE
#define HIDDEN POPT_ARGFLAG_DOC_HIDDEN
static struct poptOption table[] = {
    {"data", 0, POPT_ARG_ARGV, &opt.data, 0,
     "folder of pictures or of tar shards, a tar, IDX or CIFAR files; may be given several times, "
     "=WEIGHT shows its pictures that often",
     "PATH[=WEIGHT]"},
    {"train-data-dir", 0, POPT_ARG_ARGV | HIDDEN, &opt.data, 0, NULL, NULL},
    {"output", 'o', TEXT, &opt.output, 0, "folder for the model, checkpoints, samples and log",
     "DIR"},
    {"output-dir", 0, TEXT | HIDDEN, &opt.output, 0, NULL, NULL},
    {"task", 0, TEXT, &opt.task, 0,
     "diffusion (default), or classifier: learn the pictures' classes, for eval --features",
     "NAME"},
    {"model", 0, TEXT, &opt.model, 0,
     "unet-32, unet-64, unet-128, a transformer (dit-s-2, -4, -8 to dit-xl-8), compvis-128, a config.json, "
     "or a model folder to fine-tune (default: a U-Net by resolution)",
     "MODEL"},
    {"class-conditional", 0, SWITCH, &opt.class_conditional, 0,
     "learn the pictures' classes too, to draw pictures of a class: folders or labels (docs/data.md)",
     NULL},
    {"noisy", 0, SWITCH, &opt.noisy, 0,
     "of --task classifier: learn pictures with noise at every timestep, by attention pooling, to guide a "
     "model; where --model names that, its encoder and noise schedule are taken",
     NULL},
    {"class-dropout-prob", 0, NUMBER, &opt.class_dropout, CLASS_DROPOUT,
     "share of the pictures shown without their class, which guidance needs; 0: none (default: 0.1)",
     "F"},
    {"resolution", 0, COUNT, &opt.resolution, RESOLUTION,
     "side of the pictures in pixels (default: the model's; else 32 or 64 by the pictures)", "N"},
    {"channels", 0, COUNT, &opt.channels, CHANNELS, "1 grey, 3 colour (default: by the pictures)",
     "N"},
    {"condition", 0, TEXT, &opt.condition, 0,
     "a new network that sees another picture, too: super-resolution enlarges small ones, "
     "inpainting "
     "fills what a mask leaves out",
     "NAME"},
    {"condition-scale", 0, COUNT, &opt.scale, SCALE,
     "how many times super-resolution enlarges (default: 4)", "N"},
    {"cache-dir", 0, TEXT, &opt.cache_dir, 0,
     "folder that keeps decoded pictures from run to run (default: each run decodes them)", "DIR"},
    {"center-crop", 0, SWITCH, &opt.center_crop, 0,
     "cut the middle square out of each picture (default: a random square)", NULL},
    {"random-flip", 0, SWITCH, &opt.random_flip, 0, "mirror half of the pictures", NULL},
    {"background", 0, TEXT, &opt.background, 0,
     "colour under transparent pixels: white, black or RRGGBB (default: white)", "COLOUR"},
    {"strict", 0, SWITCH, &opt.strict, 0,
     "stop at a picture that cannot be decoded (default: name and skip it)", NULL},
    {"max-train-steps", 0, COUNT, &opt.steps, STEPS, "optimizer steps (default: 20000)", "N"},
    {"num-train-epochs", 0, COUNT, &opt.epochs, EPOCHS,
     "passes over the pictures, instead of steps", "N"},
    {"train-batch-size", 0, COUNT, &opt.batch, BATCH,
     "pictures at once (default: 32, 16 or 8 by resolution)", "N"},
    {"gradient-accumulation-steps", 0, COUNT, &opt.accumulation, ACCUMULATION,
     "batches per optimizer step (default: 1)", "N"},
    {"learning-rate", 0, NUMBER, &opt.lr, LR, "default: 1e-4", "F"},
    {"lr-scheduler", 0, TEXT, &opt.lr_scheduler, 0,
     "constant, constant_with_warmup (default), linear, cosine, cosine_with_restarts, polynomial",
     "NAME"},
    {"lr-warmup-steps", 0, COUNT, &opt.warmup, WARMUP,
     "steps of rising learning rate; 0: none (default: 500)", "N"},
    {"lr-schedule-steps", 0, COUNT, &opt.schedule_steps, SCHEDULE_STEPS,
     "length the schedule is laid out for (default: the run's when it started)", "N"},
    {"lr-num-cycles", 0, NUMBER, &opt.cycles, CYCLES,
     "of the cosine schedules (default: 0.5; restarts: 1)", "F"},
    {"lr-power", 0, NUMBER, &opt.power, POWER, "of the polynomial schedule (default: 1)", "F"},
    {"adam-beta1", 0, NUMBER, &opt.beta1, BETA1, "default: 0.95", "F"},
    {"adam-beta2", 0, NUMBER, &opt.beta2, BETA2, "default: 0.999", "F"},
    {"adam-weight-decay", 0, NUMBER, &opt.weight_decay, WEIGHT_DECAY, "default: 1e-6", "F"},
    {"adam-epsilon", 0, NUMBER, &opt.epsilon, EPSILON, "default: 1e-8", "F"},
    {"max-grad-norm", 0, NUMBER, &opt.grad_norm, GRAD_NORM,
     "clip the gradient's norm; 0: off (default: 1)", "F"},
    {"max-loss-growth", 0, NUMBER, &opt.loss_growth, LOSS_GROWTH,
     "stop when the loss stays above its best by this factor or is not finite; 0: never (default: "
     "5)",
     "F"},
    {"ema-decay", 0, NUMBER, &opt.ema, EMA,
     "largest decay of the averaged weights; 0: off (default: 0.9999)", "F"},
    {"prediction-type", 0, TEXT, &opt.prediction_type, 0,
     "epsilon (default), sample, v_prediction, flow (matching), edm", "TYPE"},
    {"beta-schedule", 0, TEXT, &opt.beta_schedule, 0,
     "linear (default), scaled_linear, squaredcos_cap_v2, sigmoid, laplace", "NAME"},
    {"variance-type", 0, TEXT, &opt.variance_type, 0,
     "fixed_small (default), fixed_large, or learned_range: the network gives its variance, too",
     "TYPE"},
    {"loss", 0, TEXT, &opt.loss, 0,
     "mse (default), hybrid (default with learned_range: mse and the variational bound), vlb: the "
     "bound alone",
     "NAME"},
    {"schedule-sampler", 0, TEXT, &opt.schedule_sampler, 0,
     "how timesteps are drawn: uniform (default), or loss-second-moment: more often where the loss "
     "is large",
     "NAME"},
    {"num-train-timesteps", 0, COUNT, &opt.timesteps, TIMESTEPS, "noise levels T (default: 1000)",
     "N"},
    {"snr-gamma", 0, NUMBER, &opt.snr_gamma, SNR_GAMMA,
     "min-SNR weighting of the loss, 5 is usual; 0: off (default)", "F"},
    {"noise-offset", 0, NUMBER, &opt.noise_offset, NOISE_OFFSET,
     "noise shared by all pixels of a channel; 0: off (default)", "F"},
    {"seed", 0, TEXT, &opt.seed, 0, "default: 0; -1 draws one", "N"},
    {"rng", 0, TEXT, &opt.rng, 0,
     "philox (default), or torch: draw for draw what a PyTorch script draws", "philox|torch"},
    {"memory-budget", 0, TEXT, &opt.budget, 0,
     "memory to stay below by computing things twice, such as 2G (default: no limit, but more than "
     "2 GiB of activations are thinned out that way)",
     "SIZE"},
    {"eval-steps", 0, COUNT, &opt.eval_steps, EVAL_STEPS,
     "steps between figures of samples of the averaged weights (Frechet distance, precision, "
     "recall); needs --eval-features; 0: none (default)",
     "N"},
    {"eval-features", 0, TEXT, &opt.eval_features, 0,
     "classifier (train --task classifier) whose feature space the figures are taken in", "DIR"},
    {"eval-samples", 0, COUNT, &opt.eval_samples, EVAL_SAMPLES,
     "pictures drawn for each evaluation (default: 500)", "N"},
    {"eval-inference-steps", 0, COUNT, &opt.eval_inference_steps, EVAL_INFERENCE_STEPS,
     "DDIM steps of these (default: 20)", "N"},
    {"checkpointing-steps", 0, COUNT, &opt.checkpointing, CHECKPOINTING,
     "steps between checkpoints; 0: only at the end (default: 500 steps or 10 minutes)", "N"},
    {"checkpoints-total-limit", 0, COUNT, &opt.keep, KEEP,
     "checkpoints to keep; 0: all (default: 3)", "N"},
    {"resume-from-checkpoint", 0, TEXT, &opt.resume, 0,
     "go on from 'latest', a checkpoint folder, or one named as in the output folder",
     "DIR|latest"},
    {"allow-data-change", 0, SWITCH, &opt.allow_data_change, 0,
     "go on although the pictures are others", NULL},
    {"overwrite", 0, SWITCH, &opt.overwrite, 0, "replace the run in the output folder", NULL},
    {"preview", 0, SWITCH, &opt.preview, 0, "show each new sample grid in the terminal", NULL},
    CLI_PRECISION_OPTION(opt.precision),
    CLI_DEVICE_OPTIONS(opt.dev),
    POPT_TABLEEND,
};

static void note_stated(void *user, int val)
{
    (void)user;
    if (val > 0 && val < STATED) stated[val] = true;
}

/* ---- counts and numbers ---- */

/* What a stated 0 means. */
typedef enum zero { ZERO_REFUSED, ZERO_OFF, ZERO_VALUE } zero;

typedef struct count_row {
    int id;
    const char *name;
    const long long *from;
    size_t to; /* an int64_t of lgv_train_options */
    zero zero;
} count_row;

#define ROW(id, name, from, field, zero)                                                           \
    {                                                                                              \
        id, name, &opt.from, offsetof(lgv_train_options, field), zero                              \
    }
static const count_row counts[] = {
    ROW(STEPS, "max-train-steps", steps, max_train_steps, ZERO_REFUSED),
    ROW(EPOCHS, "num-train-epochs", epochs, num_train_epochs, ZERO_REFUSED),
    ROW(BATCH, "train-batch-size", batch, train_batch_size, ZERO_REFUSED),
    ROW(ACCUMULATION, "gradient-accumulation-steps", accumulation, gradient_accumulation_steps,
        ZERO_REFUSED),
    ROW(WARMUP, "lr-warmup-steps", warmup, lr_warmup_steps, ZERO_OFF),
    ROW(SCHEDULE_STEPS, "lr-schedule-steps", schedule_steps, lr_schedule_steps, ZERO_REFUSED),
    ROW(EVAL_STEPS, "eval-steps", eval_steps, eval_steps, ZERO_OFF),
    ROW(EVAL_SAMPLES, "eval-samples", eval_samples, eval_samples, ZERO_REFUSED),
    ROW(EVAL_INFERENCE_STEPS, "eval-inference-steps", eval_inference_steps, eval_inference_steps,
        ZERO_REFUSED),
    ROW(CHECKPOINTING, "checkpointing-steps", checkpointing, checkpointing_steps, ZERO_OFF),
    ROW(KEEP, "checkpoints-total-limit", keep, checkpoints_total_limit, ZERO_OFF),
};

typedef struct number_row {
    int id;
    const char *name;
    const double *from;
    size_t to; /* a double of lgv_train_options */
    zero zero;
} number_row;

static const number_row numbers[] = {
    ROW(LR, "learning-rate", lr, learning_rate, ZERO_REFUSED),
    ROW(CYCLES, "lr-num-cycles", cycles, lr_num_cycles, ZERO_REFUSED),
    ROW(POWER, "lr-power", power, lr_power, ZERO_REFUSED),
    ROW(BETA1, "adam-beta1", beta1, adam_beta1, ZERO_OFF),
    ROW(BETA2, "adam-beta2", beta2, adam_beta2, ZERO_OFF),
    ROW(WEIGHT_DECAY, "adam-weight-decay", weight_decay, adam_weight_decay, ZERO_OFF),
    ROW(EPSILON, "adam-epsilon", epsilon, adam_epsilon, ZERO_OFF),
    ROW(GRAD_NORM, "max-grad-norm", grad_norm, max_grad_norm, ZERO_OFF),
    ROW(LOSS_GROWTH, "max-loss-growth", loss_growth, max_loss_growth, ZERO_OFF),
    ROW(EMA, "ema-decay", ema, ema_decay, ZERO_OFF),
    ROW(SNR_GAMMA, "snr-gamma", snr_gamma, snr_gamma, ZERO_VALUE),
    ROW(NOISE_OFFSET, "noise-offset", noise_offset, noise_offset, ZERO_VALUE),
    ROW(CLASS_DROPOUT, "class-dropout-prob", class_dropout, class_dropout_prob, ZERO_OFF),
};
#undef ROW

static int read_counts(const cli_command *self, lgv_train_options *o)
{
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        const count_row *r = &counts[i];
        if (!stated[r->id]) continue;
        long long v = *r->from;
        if (v < 0 || (!v && r->zero == ZERO_REFUSED))
            return cli_error(self, CLI_USAGE, "--%s must be at least %d, not %lld", r->name,
                             r->zero == ZERO_REFUSED, v);
        *(int64_t *)(void *)((char *)o + r->to) = !v && r->zero == ZERO_OFF ? LGV_OFF : v;
    }
    return -1;
}

static int read_numbers(const cli_command *self, lgv_train_options *o)
{
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        const number_row *r = &numbers[i];
        if (!stated[r->id]) continue;
        double v = *r->from;
        if (!(v >= 0) || !isfinite(v) || (v == 0 && r->zero == ZERO_REFUSED))
            return cli_error(self, CLI_USAGE, "--%s must be %s 0, not %g", r->name,
                             r->zero == ZERO_REFUSED ? "more than" : "at least", v);
        *(double *)(void *)((char *)o + r->to) = v == 0 && r->zero == ZERO_OFF ? LGV_OFF : v;
    }
    return -1;
}

/* ---- names, pictures ---- */

static int read_names(const cli_command *self, lgv_train_options *o)
{
    lgv_error err;
    int code = cli_read_precision(self, opt.precision, &o->mixed_precision);
    if (code >= 0) return code;
    if (opt.lr_scheduler && lgv_lr_scheduler_parse(opt.lr_scheduler, &o->lr_scheduler, &err))
        return cli_error(self, CLI_USAGE, "--lr-scheduler: %s", err.text);
    if (opt.loss && lgv_loss_parse(opt.loss, &o->loss, &err))
        return cli_error(self, CLI_USAGE, "--loss: %s", err.text);
    if (opt.schedule_sampler &&
        lgv_schedule_sampler_parse(opt.schedule_sampler, &o->schedule_sampler, &err))
        return cli_error(self, CLI_USAGE, "--schedule-sampler: %s", err.text);
    if ((code = cli_read_seed(self, opt.seed, &o->seed)) >= 0) return code;
    if (opt.task && !strcmp(opt.task, "classifier"))
        o->task = LGV_TASK_CLASSIFIER;
    else if (opt.task && !strcmp(opt.task, "diffusion"))
        o->task = LGV_TASK_DIFFUSION;
    else if (opt.task)
        return cli_error(self, CLI_USAGE, "--task is diffusion or classifier, not '%s'", opt.task);
    if (opt.noisy && o->task != LGV_TASK_CLASSIFIER)
        return cli_error(self, CLI_USAGE, "--noisy is for --task classifier");
    if (opt.class_conditional && o->task == LGV_TASK_CLASSIFIER)
        return cli_error(self, CLI_USAGE,
                         "--class-conditional trains a network that draws; a classifier learns the "
                         "classes anyway");
    if (stated[CLASS_DROPOUT] && !(opt.class_dropout >= 0 && opt.class_dropout < 1))
        return cli_error(self, CLI_USAGE,
                         "--class-dropout-prob must be at least 0 and less than 1, not %g",
                         opt.class_dropout);
    if (opt.rng && !strcmp(opt.rng, "torch"))
        o->rng = LGV_RNG_TORCH;
    else if (opt.rng && strcmp(opt.rng, "philox"))
        return cli_error(self, CLI_USAGE, "--rng is philox or torch, not '%s'", opt.rng);
    code = cli_read_budget(self, opt.budget, &o->memory_budget);
    if (code >= 0) return code;
    lgv_scheduler_config cfg;
    lgv_status status = lgv_scheduler_config_init(&cfg, NULL, &err);
    if (status) return cli_fail(self, &err);
    status = train_args_schedule(&cfg, &err);
    lgv_scheduler_config_clear(&cfg);
    return status ? cli_error(self, CLI_USAGE, "%s", err.text) : -1;
}

static bool parse_colour(const char *text, uint8_t rgb[3])
{
    char *end;
    if (!strcmp(text, "white")) text = "ffffff";
    if (!strcmp(text, "black")) text = "000000";
    if (*text == '#') text++;
    if (strlen(text) != 6 || text[strspn(text, "0123456789abcdefABCDEF")]) return false;
    unsigned long v = strtoul(text, &end, 16);
    for (int i = 0; i < 3; i++) rgb[i] = (uint8_t)(v >> (16 - 8 * i));
    return true;
}

static int read_condition(const cli_command *self, train_args *a)
{
    lgv_error err;
    if (opt.condition && lgv_condition_parse(opt.condition, &a->condition, &err))
        return cli_error(self, CLI_USAGE, "--condition: %s", err.text);
    if (stated[SCALE] && a->condition != LGV_CONDITION_SUPER_RESOLUTION)
        return cli_error(self, CLI_USAGE,
                         "--condition-scale belongs to --condition super-resolution");
    if (stated[SCALE] && (opt.scale < 2 || opt.scale > 64))
        return cli_error(self, CLI_USAGE, "--condition-scale must be 2 to 64, not %lld", opt.scale);
    a->condition_scale = (int)opt.scale;
    return -1;
}

static int read_pictures(const cli_command *self, lgv_dataset_options *o)
{
    if (stated[RESOLUTION] && (opt.resolution < 1 || opt.resolution > 4096))
        return cli_error(self, CLI_USAGE, "--resolution must be 1 to 4096, not %lld",
                         opt.resolution);
    if (stated[CHANNELS] && opt.channels != 1 && opt.channels != 3)
        return cli_error(self, CLI_USAGE, "--channels is 1 (grey) or 3 (colour), not %lld",
                         opt.channels);
    if (opt.background && !parse_colour(opt.background, o->background))
        return cli_error(self, CLI_USAGE,
                         "--background is white, black or six hex digits RRGGBB, not '%s'",
                         opt.background);
    o->background_set = opt.background != NULL;
    o->cache_dir = opt.cache_dir;
    o->resolution = (int)opt.resolution;
    o->channels = (int)opt.channels;
    o->center_crop = opt.center_crop;
    o->random_flip = opt.random_flip;
    o->strict = opt.strict;
    return -1;
}

/* ---- the whole ---- */

static int check_paths(const cli_command *self, train_args *a)
{
    bool folder = a->resume && strcmp(a->resume, "latest");
    if (a->resume && opt.overwrite)
        return cli_error(self, CLI_USAGE,
                         "--resume-from-checkpoint and --overwrite exclude each other");
    if (!a->output && !folder)
        return cli_error(self, CLI_USAGE, "where to? give an output folder with --output DIR");
    if (!a->n_data && !a->resume)
        return cli_error(self, CLI_USAGE, "which pictures? give a folder with --data PATH");
    if (opt.eval_steps > 0 && !opt.eval_features && !a->resume)
        return cli_error(self, CLI_USAGE,
                         "--eval-steps needs the feature space: --eval-features CLASSIFIER");
    if (stated[STEPS] && stated[EPOCHS])
        return cli_error(self, CLI_USAGE,
                         "--max-train-steps and --num-train-epochs exclude each other");
    return -1;
}

int train_args_read(const cli_command *self, int argc, const char **argv, train_args *out)
{
    train_args a = {0};
    const char *extra;
    int n, code = cli_parse(self, table, argc, argv, 1, &extra, &n, note_stated, NULL);
    if (code >= 0) return code;
    if (n)
        return cli_error(self, CLI_USAGE,
                         "'%s' is one argument too many; pictures are given as --data %s", extra,
                         extra);
    a.output = opt.output;
    a.model = opt.model;
    a.resume = opt.resume;
    a.device = opt.dev;
    a.train.allow_data_change = opt.allow_data_change;
    a.train.overwrite = opt.overwrite;
    a.preview = opt.preview;
    a.learned_variance = opt.variance_type && !strcmp(opt.variance_type, "learned_range");
    a.class_conditional = opt.class_conditional;
    a.noisy = opt.noisy;
    static lgv_data_source *sources; /* lives as long as the program */
    if ((code = cli_read_sources(self, opt.data, &sources, &a.n_data)) >= 0) return code;
    a.data = sources;
    a.train.eval_features = opt.eval_features;
    if ((code = check_paths(self, &a)) >= 0) return code;
    if ((code = read_counts(self, &a.train)) >= 0) return code;
    if ((code = read_numbers(self, &a.train)) >= 0) return code;
    if ((code = read_names(self, &a.train)) >= 0) return code;
    if ((code = read_condition(self, &a)) >= 0) return code;
    if ((code = read_pictures(self, &a.pictures)) >= 0) return code;
    /* A script that is followed draw for draw holds no pictures back. */
    if (a.train.rng == LGV_RNG_TORCH) a.pictures.validation = LGV_OFF;
    *out = a;
    return -1;
}

/* flow and edm are kinds of training of their own, with a class of diffusers each. */
static lgv_status set_prediction(lgv_scheduler_config *cfg, const char *name, lgv_error *err)
{
    const char *class_name = "DDPMScheduler";
    lgv_scheduler_config other;
    bool flow = !strcmp(name, "flow") || !strcmp(name, "flow_prediction");
    if (flow) class_name = "FlowMatchEulerDiscreteScheduler";
    if (!strcmp(name, "edm")) class_name = "EDMEulerScheduler";
    lgv_status status = LGV_OK;
    if (lgv_scheduler_family(cfg) != LGV_FAMILY_BETAS || flow || !strcmp(name, "edm")) {
        status = lgv_scheduler_config_switch(cfg, class_name, &other, err);
        if (status) return status;
        lgv_scheduler_config_clear(cfg);
        *cfg = other;
    }
    if (flow) return LGV_OK;
    return lgv_scheduler_config_set(cfg, "prediction_type", strcmp(name, "edm") ? name : "epsilon",
                                    err);
}

lgv_status train_args_schedule(lgv_scheduler_config *cfg, lgv_error *err)
{
    lgv_status status = LGV_OK;
    if (opt.prediction_type) status = set_prediction(cfg, opt.prediction_type, err);
    if (!status && lgv_scheduler_family(cfg) != LGV_FAMILY_BETAS &&
        (opt.beta_schedule || opt.variance_type))
        return cli_status(err, LGV_ERR_ARGUMENT,
                          "%s has no betas: leave --beta-schedule and "
                          "--variance-type out",
                          cfg->class_name);
    if (!status && opt.beta_schedule)
        status = lgv_scheduler_config_set(cfg, "beta_schedule", opt.beta_schedule, err);
    if (!status && opt.variance_type)
        status = lgv_scheduler_config_set(cfg, "variance_type", opt.variance_type, err);
    if (!status && stated[TIMESTEPS]) {
        char text[32];
        snprintf(text, sizeof text, "%lld", opt.timesteps);
        status = lgv_scheduler_config_set(cfg, "num_train_timesteps", text, err);
    }
    return status;
}

void train_args_zeros(lgv_train_options *o)
{
    if (stated[SNR_GAMMA] && !opt.snr_gamma && o->snr_gamma != 0) {
        printf("note: snr_gamma: 0, was %g\n", o->snr_gamma);
        o->snr_gamma = 0;
    }
    if (stated[NOISE_OFFSET] && !opt.noise_offset && o->noise_offset != 0) {
        printf("note: noise_offset: 0, was %g\n", o->noise_offset);
        o->noise_offset = 0;
    }
    if (opt.seed && !strcmp(opt.seed, "0") && o->seed) {
        printf("note: not bit-exact: seed: 0, was %llu\n", (unsigned long long)o->seed);
        o->seed = 0;
    }
}
