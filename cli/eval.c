/* eval.c - langevin eval: figures of a model's samples, or of pictures, against training pictures. */
#include <stdlib.h>
#include <string.h>

#include "eval.h"
#include "progress.h"

static struct {
    char *data, *features, *save, *nearest, *split, *sampler, *seed, *weights, *precision,
        *respacing;
    double guidance;
    cli_guide guide;
    long long num_images, num_reference, batch_size, steps;
    int json, bpd;
    cli_device_options dev;
} opt;

enum { NUM_IMAGES = 1, NUM_REFERENCE, BATCH_SIZE, STEPS, GUIDANCE, CLASSIFIER_SCALE, STATED };
static bool stated[STATED];

#define TEXT  POPT_ARG_STRING
#define COUNT POPT_ARG_LONGLONG
static struct poptOption table[] = {
    {"data", 0, TEXT, &opt.data, 0,
     "pictures to compare with (as train --data), or a .safetensors file with 'features'", "PATH"},
    {"features", 0, TEXT, &opt.features, 0,
     "network that makes the features: a classifier (train --task classifier) or any model",
     "MODEL"},
    {"bpd", 0, POPT_ARG_NONE, &opt.bpd, 0,
     "the variational bound on the likelihood of the pictures in bits per dimension instead "
     "(default: of 100 pictures)",
     NULL},
    {"timestep-respacing", 0, TEXT, &opt.respacing, 0,
     "of --bpd: fewer timesteps, such as 100, or 10,15,20 for three sections (default: all)",
     "SPEC"},
    {"num-images", 0, COUNT, &opt.num_images, NUM_IMAGES,
     "samples to draw (default: 1000), or pictures to take (default: all, at most 10000)", "N"},
    {"num-reference", 0, COUNT, &opt.num_reference, NUM_REFERENCE,
     "pictures of --data to compare with (default: all, at most 10000)", "N"},
    {"split", 0, TEXT, &opt.split, 0, "train (default) or validation: which pictures of --data",
     "NAME"},
    {"nearest", 0, TEXT, &opt.nearest, 0,
     "look for copies: a sheet of each sample beside its nearest training picture", "FILE.png"},
    {"save-features", 0, TEXT, &opt.save, 0, "write both sets of features", "FILE.safetensors"},
    {"batch-size", 0, COUNT, &opt.batch_size, BATCH_SIZE,
     "samples drawn at once; changes none (default: 16)", "N"},
    {"sampler", 0, TEXT, &opt.sampler, 0, "as in langevin sample", "NAME"},
    {"num-inference-steps", 0, COUNT, &opt.steps, STEPS, "steps (default: the sampler's)", "N"},
    {"guidance-scale", 0, POPT_ARG_DOUBLE, &opt.guidance, GUIDANCE,
     "of a class-conditional model, as in langevin sample; 1: off (default: 3)", "F"},
    CLI_GUIDE_OPTIONS(opt.guide, CLASSIFIER_SCALE),
    {"seed", 0, TEXT, &opt.seed, 0,
     "sample i uses seed + i; also of the bootstrap; -1 draws one (default: 0)", "N"},
    {"weights", 0, TEXT, &opt.weights, 0, "ema or raw (default: ema where there is a choice)",
     "NAME"},
    {"json", 0, POPT_ARG_NONE, &opt.json, 0, "print JSON", NULL},
    CLI_PRECISION_OPTION(opt.precision),
    CLI_DEVICE_OPTIONS(opt.dev),
    POPT_TABLEEND,
};

static void note_stated(void *user, int val)
{
    (void)user;
    if (val > 0 && val < STATED) stated[val] = true;
}

static int read_counts(const cli_command *self, eval_args *a)
{
    const struct {
        int id;
        const char *name;
        long long value, most;
        int64_t *to, otherwise;
    } row[] = {
        {NUM_IMAGES, "num-images", opt.num_images, 10000000, &a->num_images, 0},
        {NUM_REFERENCE, "num-reference", opt.num_reference, 10000000, &a->num_reference, 10000},
        {BATCH_SIZE, "batch-size", opt.batch_size, 65536, &a->batch_size, 16},
        {STEPS, "num-inference-steps", opt.steps, 1000000, &a->steps, 0},
    };
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        if (stated[row[i].id] && (row[i].value < 1 || row[i].value > row[i].most))
            return cli_error(self, CLI_USAGE, "--%s must be 1 to %lld, not %lld", row[i].name,
                             row[i].most, row[i].value);
        *row[i].to = stated[row[i].id] ? row[i].value : row[i].otherwise;
    }
    return -1;
}

static int read_names(const cli_command *self, eval_args *a)
{
    if (opt.split && strcmp(opt.split, "train") && strcmp(opt.split, "validation"))
        return cli_error(self, CLI_USAGE, "--split is train or validation, not '%s'", opt.split);
    int code;
    if ((code = cli_read_weights(self, opt.weights, &a->weights)) >= 0) return code;
    if ((code = cli_read_seed(self, opt.seed, &a->seed)) >= 0) return code;
    const char *dot = opt.nearest ? strrchr(opt.nearest, '.') : NULL;
    if (opt.nearest && (!dot || strcmp(dot, ".png")))
        return cli_error(self, CLI_USAGE, "'%s': the sheet is written as PNG; name it .png",
                         opt.nearest);
    if (stated[GUIDANCE] && !(opt.guidance > 0 && opt.guidance <= 1000))
        return cli_error(self, CLI_USAGE,
                         "--guidance-scale must be more than 0 and at most 1000, not %g",
                         opt.guidance);
    a->guidance = opt.guidance;
    a->validation = opt.split && !strcmp(opt.split, "validation");
    a->precision = LGV_MIXED_NO;
    return cli_read_precision(self, opt.precision, &a->precision);
}

int eval_args_read(const cli_command *self, int argc, const char **argv, eval_args *out)
{
    eval_args a = {0};
    int n, code = cli_parse(self, table, argc, argv, 1, &a.what, &n, note_stated, NULL);
    if (code >= 0) return code;
    if (!a.what)
        return cli_error(self, CLI_USAGE,
                         "what is to be judged? give a model folder, a folder of pictures, or a "
                         "file of features");
    if (!opt.data)
        return cli_error(self, CLI_USAGE, "compared with what? give pictures with --data PATH");
    bool files = cli_ends_in(a.what, ".safetensors") && cli_ends_in(opt.data, ".safetensors");
    if (opt.bpd && (opt.features || opt.nearest || opt.save))
        return cli_error(self, CLI_USAGE,
                         "--bpd is a figure of its own: leave out --features, --nearest and "
                         "--save-features");
    if (opt.bpd && opt.guide.path)
        return cli_error(self, CLI_USAGE, "--bpd judges the model alone: leave out --classifier");
    if (opt.guide.path && !cli_is_model(a.what))
        return cli_error(self, CLI_USAGE,
                         "--classifier guides a model while it draws, and '%s' holds none", a.what);
    if (opt.respacing && !opt.bpd)
        return cli_error(self, CLI_USAGE, "--timestep-respacing belongs to --bpd");
    if (!opt.bpd && !opt.features && !opt.nearest && !files)
        return cli_error(self, CLI_USAGE,
                         "in which feature space? give a classifier with --features MODEL (made by "
                         "langevin train --task classifier), or look for copies with --nearest");
    a.data = opt.data;
    a.features = opt.features;
    a.save = opt.save;
    a.nearest = opt.nearest;
    a.sampler = opt.sampler;
    a.json = opt.json != 0;
    a.bpd = opt.bpd != 0;
    a.respacing = opt.respacing;
    a.device = opt.dev;
    if ((code = read_counts(self, &a)) >= 0) return code;
    if ((code = read_names(self, &a)) >= 0) return code;
    if ((code = cli_read_guide(self, &opt.guide, stated[CLASSIFIER_SCALE], &a.guide)) >= 0)
        return code;
    *out = a;
    return -1;
}

/* The share of pictures of known class that the classifier takes for that class. */
static lgv_status measure_agreement(eval_job *j, const lgv_eval_options *o, lgv_error *err)
{
    const eval_set *s = &j->generated;
    if (!s->label || !s->predicted) return LGV_OK;
    uint8_t *hit = malloc((size_t)s->n + 1);
    if (!hit) return LGV_ERR_MEMORY;
    for (int64_t i = 0; i < s->n; i++)
        if (s->label[i] >= 0) hit[j->known++] = s->label[i] == s->predicted[i];
    lgv_status status = j->known ? lgv_share(j->known, hit, o, &j->agreement, err) : LGV_OK;
    j->has_agreement = j->known > 0;
    free(hit);
    return status;
}

static lgv_status measure(eval_job *j, lgv_error *err)
{
    const lgv_eval_options o = {.seed = j->args->seed};
    lgv_reference *reference = NULL;
    if (!j->generated.features) return LGV_OK;
    lgv_status status = lgv_reference_new(j->reference.n, j->reference.width, j->reference.features,
                                          &o, &reference, err);
    if (!status)
        status = lgv_reference_compare(reference, j->generated.n, j->generated.features,
                                       &j->figures, err);
    lgv_reference_free(reference);
    j->has_figures = !status;
    return status ? status : measure_agreement(j, &o, err);
}

static int run(const cli_command *self, int argc, const char **argv)
{
    eval_args args;
    int code = eval_args_read(self, argc, argv, &args);
    if (code >= 0) return code;
    if (args.bpd) return eval_bpd(self, &args);
    lgv_error err = {0};
    eval_job j = {.args = &args};
    double begin = cli_now();
    cli_catch_signals();
    lgv_status status = cli_open_device(&args.device, &j.device, &err);
    if (!status) status = eval_sets_make(&j, &err);
    if (!status) status = measure(&j, &err);
    if (!status && args.nearest) status = eval_nearest(&j, &err);
    if (!status && args.save) status = eval_save_features(&j, &err);
    j.seconds = cli_now() - begin;
    if (!status && args.json)
        eval_print_json(&j);
    else if (!status)
        eval_print_text(&j);
    eval_set_free(&j.generated);
    eval_set_free(&j.reference);
    free(j.copy);
    lgv_pipeline_free(j.pipeline);
    lgv_extractor_free(j.extractor);
    lgv_dataset_free(j.data);
    lgv_device_free(j.device);
    if (status == LGV_ERR_CANCELLED && cli_signal()) return 128 + cli_signal();
    return status ? cli_fail(self, &err) : CLI_OK;
}

const cli_command cli_eval = {
    .name = "eval",
    .summary = "judge samples: Frechet distance, precision and recall, copies",
    .usage = "eval MODEL|PICTURES --data DATA --features CLASSIFIER",
    .examples = "  langevin train --task classifier --data pictures --output classifier\n"
                "  langevin eval model --data pictures --features classifier\n"
                "  langevin eval model --data pictures --features classifier --classifier "
                "noisy-classifier --classifier-scale 3\n"
                "  langevin eval samples --data pictures --features classifier --json\n"
                "  langevin eval model --data pictures --nearest nearest.png --num-images 64\n"
                "  langevin eval model --data pictures --bpd --split validation\n"
                "  langevin eval a.safetensors --data b.safetensors\n",
    .run = run,
};
