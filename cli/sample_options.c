/* sample_options.c - the options of `langevin sample`. */
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "langevin/animation.h"
#include "sample.h"

static struct {
    char *output, *sampler, *seed, *rng, *weights, *init_noise, *init_image, *mask,
        *save_tensors;
    char *timesteps, *respacing, *compat, *interpolate, *precision;
    long long num_images, batch_size, steps, resolution;
    double strength;
    long long jump_length, jump_n_sample;
    double eta, s_churn, s_tmin, s_tmax, s_noise;
    char *sigma_schedule;
    long long solver_order;
    char *classes, *guidance_interval;
    double guidance_scale, guidance_rescale;
    cli_guide guide;
    long long null_class;
    long long guidance_channels;
    char *animation, *animation_of;
    long long animation_frames;
    int no_metadata, clipped, timings, preview;
    cli_device_options dev;
} opt;

enum {
    NUM_IMAGES = 1,
    BATCH_SIZE,
    STEPS,
    RESOLUTION,
    FRAMES,
    ETA,
    ORDER,
    STRENGTH,
    LENGTH,
    AGAIN,
    SCALE,
    RESCALE,
    CLASSIFIER_SCALE,
    NULL_CLASS,
    GUIDED,
    STATED
};
static bool stated[STATED];

#define TEXT  POPT_ARG_STRING
#define COUNT POPT_ARG_LONGLONG
static struct poptOption table[] = {
    {"output", 'o', TEXT, &opt.output, 0,
     "one PNG (several pictures become a grid), or a folder that gets 000000.png ...",
     "FILE.png|DIR"},
    {"output-dir", 0, TEXT | POPT_ARGFLAG_DOC_HIDDEN, &opt.output, 0, NULL, NULL},
    {"num-images", 0, COUNT, &opt.num_images, NUM_IMAGES,
     "pictures (default: 1, or one of each class asked for; frames of --interpolate: 8)", "N"},
    {"batch-size", 0, COUNT, &opt.batch_size, BATCH_SIZE,
     "pictures at once; changes no picture (default: 8)", "N"},
    {"class", 0, TEXT, &opt.classes, 0,
     "what to draw: a class by name or number (#3: the number, whatever the names are), several with "
     "commas between, all, or none (default: all in turn, without --num-images one of each of the "
     "first 16)",
     "NAME|INDEX|#INDEX|all"},
    {"guidance-scale", 0, POPT_ARG_DOUBLE, &opt.guidance_scale, SCALE,
     "how strongly pictures are drawn towards their class; 1: off (default: 3)", "F"},
    {"guidance-rescale", 0, POPT_ARG_DOUBLE, &opt.guidance_rescale, RESCALE,
     "0 to 1: takes back the contrast that guidance adds (default: 0)", "F"},
    {"guidance-interval", 0, TEXT, &opt.guidance_interval, 0,
     "guide only between two shares of the steps, such as 0.2,0.8; the others take half the time "
     "(default: 0,1)",
     "START,STOP"},
    {"guidance-channels", 0, COUNT, &opt.guidance_channels, GUIDED,
     "guide only the first so many channels, such as 3 of 4 as the original DiT does (default: all)", "N"},
    CLI_GUIDE_OPTIONS(opt.guide, CLASSIFIER_SCALE),
    {"null-class", 0, COUNT, &opt.null_class, NULL_CLASS,
     "the label that stands for no class, where the model's folder does not say", "N"},
    {"sampler", 0, TEXT, &opt.sampler, 0,
     "dpmpp_2m (default), ddim, euler, uni_pc ... (help lists them), model: the folder's own",
     "NAME"},
    {"num-inference-steps", 0, COUNT, &opt.steps, STEPS,
     "steps (default: the sampler's, which the list has)", "N"},
    {"sigma-schedule", 0, TEXT, &opt.sigma_schedule, 0, "spacing of the noise levels",
     "karras|exponential|beta|lu"},
    {"solver-order", 0, COUNT, &opt.solver_order, ORDER,
     "of DPM-Solver, UniPC and DEIS (default: 2)", "N"},
    {"timesteps", 0, TEXT, &opt.timesteps, 0, "the timesteps themselves, such as 999,749,499,249",
     "LIST"},
    {"timestep-respacing", 0, TEXT, &opt.respacing, 0,
     "or a chain of fewer timesteps: 250, or 10,15,20 for three sections, or ddim50", "SPEC"},
    {"eta", 0, POPT_ARG_DOUBLE, &opt.eta, ETA,
     "noise of ddim: 0 none (default), 1 as much as ddpm; of tcd (default: 0.3)", "F"},
    {"s-churn", 0, POPT_ARG_DOUBLE, &opt.s_churn, 0,
     "noise added on the way by euler and edm_euler", "F"},
    {"s-tmin", 0, POPT_ARG_DOUBLE, &opt.s_tmin, 0, "lowest noise level with churn (default: any)",
     "F"},
    {"s-tmax", 0, POPT_ARG_DOUBLE, &opt.s_tmax, 0, "highest noise level with churn (default: any)",
     "F"},
    {"s-noise", 0, POPT_ARG_DOUBLE, &opt.s_noise, 0, "factor of that noise (default: 1)", "F"},
    {"use-clipped-model-output", 0, POPT_ARG_NONE, &opt.clipped, 0,
     "ddim: derive the noise again from the clipped picture", NULL},
    {"compat", 0, TEXT, &opt.compat, 0, "diffusers: keep four defects of its schedulers",
     "diffusers"},
    {"seed", 0, TEXT, &opt.seed, 0, "picture i uses seed + i; -1 draws one (default: 0)", "N"},
    {"rng", 0, TEXT, &opt.rng, 0,
     "philox (default), torch: a PyTorch generator per picture, torch-batch: one for all",
     "philox|torch|torch-batch"},
    {"weights", 0, TEXT, &opt.weights, 0, "default: ema where there is a choice", "ema|raw"},
    {"resolution", 0, COUNT, &opt.resolution, RESOLUTION,
     "side of the pictures (default: the model's)", "N"},
    {"init-noise", 0, TEXT, &opt.init_noise, 0,
     "standard normal 'noise' (N,C,H,W) for the first x, and 'step_noise' where there is one",
     "FILE.safetensors"},
    {"init-image", 0, TEXT, &opt.init_image, 0,
     "picture to change (--strength), to paint in (--mask), to enlarge (a super-resolution model), or to "
     "invert (--sampler ddim_inverse)",
     "FILE"},
    {"strength", 0, POPT_ARG_DOUBLE, &opt.strength, STRENGTH,
     "how far --init-image is noised, up to 1 (default: 0.8; with --mask 1)", "F"},
    {"mask", 0, TEXT, &opt.mask, 0,
     "what of --init-image is painted anew: white is, black stays as it is", "FILE"},
    {"jump-length", 0, COUNT, &opt.jump_length, LENGTH,
     "RePaint: steps that are taken again each time (default with --mask: 10)", "N"},
    {"jump-n-sample", 0, COUNT, &opt.jump_n_sample, AGAIN,
     "RePaint: how often these steps are taken (default with --mask: 5); 1: once", "N"},
    {"interpolate", 0, TEXT, &opt.interpolate, 0, "frames between the pictures of two seeds",
     "SEED_A,SEED_B"},
    {"save-tensors", 0, TEXT, &opt.save_tensors, 0, "write 'sample' and 'trajectory' as floats",
     "FILE.safetensors"},
    {"animation", 0, TEXT, &opt.animation, 0,
     "the denoising as FILE.gif or FILE.webp, or as FILE.png: a row for each picture", "FILE"},
    {"animation-of", 0, TEXT, &opt.animation_of, 0,
     "x_0, the picture predicted at each step (default), or x_t, the noisy one", "x_0|x_t"},
    {"animation-frames", 0, COUNT, &opt.animation_frames, FRAMES,
     "steps shown, evenly chosen (default: 24, in a PNG 10)", "N"},
    {"preview", 0, POPT_ARG_NONE, &opt.preview, 0, "show the pictures in the terminal as they form",
     NULL},
    {"timings", 0, POPT_ARG_NONE, &opt.timings, 0, "print when the first step began", NULL},
    {"no-metadata", 0, POPT_ARG_NONE, &opt.no_metadata, 0,
     "no text about seed, sampler and model in the PNG", NULL},
    CLI_PRECISION_OPTION(opt.precision),
    CLI_DEVICE_OPTIONS(opt.dev),
    POPT_TABLEEND,
};

static void note_stated(void *user, int val)
{
    (void)user;
    if (val > 0 && val < STATED) stated[val] = true;
}

/* ---- output ---- */

static int read_output(const cli_command *self, sample_args *a)
{
    static const char *const others[] = {".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff"};
    struct stat st;
    bool folder = opt.output && !stat(opt.output, &st) && S_ISDIR(st.st_mode);
    if (!opt.output || !*opt.output)
        return cli_error(self, CLI_USAGE,
                         "where to? give --output FILE.png, or a folder for single pictures");
    for (size_t i = 0; i < sizeof others / sizeof *others && !folder; i++)
        if (cli_ends_in(opt.output, others[i]))
            return cli_error(self, CLI_USAGE, "'%s': pictures are written as PNG; name it .png",
                             opt.output);
    a->output = opt.output;
    a->file = !folder && cli_ends_in(opt.output, ".png");
    return -1;
}

/* ---- numbers and names ---- */

static int read_counts(const cli_command *self, sample_args *a)
{
    const struct {
        int id;
        const char *name;
        long long value, most;
    } row[] = {
        {NUM_IMAGES, "num-images", opt.num_images, 100000000},
        {BATCH_SIZE, "batch-size", opt.batch_size, 65536},
        {STEPS, "num-inference-steps", opt.steps, 1000000},
        {RESOLUTION, "resolution", opt.resolution, 16384},
        {ORDER, "solver-order", opt.solver_order, 8},
        {FRAMES, "animation-frames", opt.animation_frames, 1000},
    };
    for (size_t i = 0; i < sizeof row / sizeof *row; i++)
        if (stated[row[i].id] && (row[i].value < 1 || row[i].value > row[i].most))
            return cli_error(self, CLI_USAGE, "--%s must be 1 to %lld, not %lld", row[i].name,
                             row[i].most, row[i].value);
    a->num_images = opt.num_images;
    a->batch_size = opt.batch_size;
    a->resolution = opt.resolution;
    a->sampler.num_inference_steps = opt.steps;
    return -1;
}

/* "999,749,499" into an array that lives as long as the process. */
static int read_timesteps(const cli_command *self, sample_args *a)
{
    if ((opt.timesteps != NULL) + (opt.respacing != NULL) + stated[STEPS] > 1)
        return cli_error(self, CLI_USAGE,
                         "--timesteps, --timestep-respacing and --num-inference-steps exclude each "
                         "other");
    a->respacing = opt.respacing;
    if (!opt.timesteps) return -1;
    int64_t *list = malloc((strlen(opt.timesteps) / 2 + 1) * sizeof *list), n = 0;
    if (!list) return cli_error(self, CLI_FAILED, "out of memory");
    for (char *s = opt.timesteps, *end = s; *end; s = end + 1) {
        long long t = strtoll(s, &end, 10);
        if (end == s || (*end && *end != ',') || (*end && !end[1])) {
            free(list);
            return cli_error(self, CLI_USAGE,
                             "--timesteps is a list such as 999,749,499,249, not '%s'",
                             opt.timesteps);
        }
        list[n++] = t;
    }
    if (!n) {
        free(list);
        return cli_error(self, CLI_USAGE, "--timesteps is empty");
    }
    a->sampler.timesteps = list;
    a->sampler.timestep_count = n;
    return -1;
}

/* The list for --sampler help. */
static int list_samplers(void)
{
    printf("samplers (a class of diffusers is a name too; model: the one of the model's folder)\n");
    for (int i = 0; i < lgv_sampler_count(); i++) {
        const lgv_sampler_info *s = lgv_sampler_at(i);
        char steps[32] = "all";
        if (s->default_steps) snprintf(steps, sizeof steps, "%lld", (long long)s->default_steps);
        printf("  %-16s %3s steps  %s\n  %-28s%s%s%s\n", s->name, steps, s->summary, "",
               s->class_name, s->implies ? ", " : "", s->implies ? s->implies : "");
    }
    return CLI_OK;
}

static int read_sigmas(const cli_command *self, sample_args *a)
{
    static const char *const names[] = {"", "karras", "exponential", "beta", "lu"};
    const struct {
        const char *name;
        double value;
    } positive[] = {{"s-churn", opt.s_churn},
                    {"s-tmin", opt.s_tmin},
                    {"s-tmax", opt.s_tmax},
                    {"s-noise", opt.s_noise}};
    for (size_t i = 0; i < sizeof positive / sizeof *positive; i++)
        if (!(positive[i].value >= 0))
            return cli_error(self, CLI_USAGE, "--%s must be at least 0, not %g", positive[i].name,
                             positive[i].value);
    for (int i = 1; i <= LGV_SIGMAS_LU && opt.sigma_schedule; i++)
        if (!strcmp(opt.sigma_schedule, names[i])) a->sampler.sigma_schedule = i;
    if (opt.sigma_schedule && !a->sampler.sigma_schedule)
        return cli_error(self, CLI_USAGE,
                         "--sigma-schedule is karras, exponential, beta or lu, not '%s'",
                         opt.sigma_schedule);
    a->sampler.solver_order = opt.solver_order;
    a->sampler.s_churn = opt.s_churn;
    a->sampler.s_tmin = opt.s_tmin;
    a->sampler.s_tmax = opt.s_tmax;
    a->sampler.s_noise = opt.s_noise;
    return -1;
}

static int read_sampler(const cli_command *self, sample_args *a)
{
    int code = read_sigmas(self, a);
    if (code >= 0) return code;
    a->sampler.sampler = opt.sampler;
    a->sampler.eta = opt.eta;
    a->sampler.eta_stated = stated[ETA];
    a->sampler.use_clipped_model_output = opt.clipped;
    a->sampler.compat_diffusers = opt.compat != NULL;
    if (opt.compat && strcmp(opt.compat, "diffusers"))
        return cli_error(self, CLI_USAGE, "--compat knows diffusers only, not '%s'", opt.compat);
    if (!(opt.eta >= 0))
        return cli_error(self, CLI_USAGE, "--eta must be at least 0, not %g", opt.eta);
    if (!opt.sampler || !strcmp(opt.sampler, "model") || lgv_sampler_find(opt.sampler))
        return read_timesteps(self, a);
    return cli_error(self, CLI_USAGE,
                     "there is no sampler '%s'; 'langevin sample --sampler help' "
                     "lists them",
                     opt.sampler);
}

static int read_guidance(const cli_command *self, sample_args *a)
{
    char *end = opt.guidance_interval;
    if (opt.classes && !*opt.classes)
        return cli_error(self, CLI_USAGE, "--class is empty; give a name, a number, or all");
    if (stated[SCALE] && !(opt.guidance_scale > 0 && opt.guidance_scale <= 1000))
        return cli_error(self, CLI_USAGE,
                         "--guidance-scale must be more than 0 and at most 1000, not %g; pictures "
                         "of no class are drawn with --class none",
                         opt.guidance_scale);
    if (stated[RESCALE] && !(opt.guidance_rescale >= 0 && opt.guidance_rescale <= 1))
        return cli_error(self, CLI_USAGE, "--guidance-rescale must be 0 to 1, not %g",
                         opt.guidance_rescale);
    if (stated[GUIDED] && (opt.guidance_channels < 1 || opt.guidance_channels > 65536))
        return cli_error(self, CLI_USAGE, "--guidance-channels must be 1 to 65536, not %lld",
                         opt.guidance_channels);
    if (stated[NULL_CLASS] && (opt.null_class < 0 || opt.null_class > 1000000))
        return cli_error(self, CLI_USAGE, "--null-class is a label from 0 on, not %lld",
                         opt.null_class);
    if (end) {
        a->guidance_start = strtod(end, &end);
        bool comma = *end == ',' && end > opt.guidance_interval;
        a->guidance_stop = comma ? strtod(end + 1, &end) : 0;
        if (!comma || *end || !(a->guidance_start >= 0 && a->guidance_stop <= 1) ||
            !(a->guidance_start < a->guidance_stop))
            return cli_error(self, CLI_USAGE,
                             "--guidance-interval is two shares of the steps such as 0.2,0.8, "
                             "not '%s'",
                             opt.guidance_interval);
    }
    a->classes = opt.classes;
    a->guidance_scale = opt.guidance_scale;
    a->guidance_rescale = opt.guidance_rescale;
    a->guidance_channels = (int)opt.guidance_channels;
    a->null_class = stated[NULL_CLASS] ? opt.null_class : -1;
    return cli_read_guide(self, &opt.guide, stated[CLASSIFIER_SCALE], &a->guide);
}

static int read_seeds(const cli_command *self, sample_args *a)
{
    int code = cli_read_seed(self, opt.seed, &a->seed);
    if (code >= 0) return code;
    if (!opt.rng || !strcmp(opt.rng, "philox"))
        a->rng = LGV_SAMPLE_PHILOX;
    else if (!strcmp(opt.rng, "torch"))
        a->rng = LGV_SAMPLE_TORCH;
    else if (!strcmp(opt.rng, "torch-batch") || !strcmp(opt.rng, "torch_batch"))
        a->rng = LGV_SAMPLE_TORCH_BATCH;
    else
        return cli_error(self, CLI_USAGE, "--rng is philox, torch or torch-batch, not '%s'",
                         opt.rng);
    if (!opt.interpolate) return -1;
    if (opt.seed)
        return cli_error(self, CLI_USAGE, "--interpolate names its seeds itself; leave --seed out");
    char *comma = strchr(opt.interpolate, ',');
    if (comma) *comma = 0;
    bool good =
        comma && cli_parse_seed(opt.interpolate, &a->seed) && cli_parse_seed(comma + 1, &a->seed_b);
    if (comma) *comma = ',';
    if (!good)
        return cli_error(self, CLI_USAGE, "--interpolate wants two seeds such as 1,2, not '%s'",
                         opt.interpolate);
    a->interpolate = true;
    return -1;
}

static int read_sources(const cli_command *self, sample_args *a)
{
    const lgv_sampler_info *info = opt.sampler ? lgv_sampler_find(opt.sampler) : NULL;
    bool inverse = info && info->inverse;
    int code = cli_read_weights(self, opt.weights, &a->weights);
    if (code >= 0) return code;
    if ((opt.init_noise != NULL) + (opt.init_image != NULL) + a->interpolate > 1)
        return cli_error(self, CLI_USAGE,
                         "--init-noise, --init-image and --interpolate exclude each other");
    if (opt.mask && !opt.init_image)
        return cli_error(self, CLI_USAGE,
                         "a mask of which picture? give it with --init-image FILE");
    if ((stated[STRENGTH] && !opt.init_image) || (inverse && (stated[STRENGTH] || opt.mask)))
        return cli_error(self, CLI_USAGE,
                         "--strength and --mask belong to a picture that is changed: --init-image, "
                         "and not --sampler ddim_inverse");
    if (stated[STRENGTH] && !(opt.strength > 0 && opt.strength <= 1))
        return cli_error(self, CLI_USAGE, "--strength must be above 0 and at most 1, not %g",
                         opt.strength);
    if ((stated[LENGTH] && opt.jump_length < 1) || (stated[AGAIN] && opt.jump_n_sample < 1))
        return cli_error(self, CLI_USAGE,
                         "--jump-length and --jump-n-sample must be at least 1");
    if ((stated[LENGTH] || stated[AGAIN]) && !opt.mask)
        return cli_error(self, CLI_USAGE, "--jump-length and --jump-n-sample belong to --mask");
    if (inverse && !opt.init_image && !opt.init_noise)
        return cli_error(self, CLI_USAGE,
                         "which picture is to be inverted? give it with --init-image FILE");
    if (opt.init_image && inverse && opt.num_images > 1)
        return cli_error(self, CLI_USAGE,
                         "one picture is inverted; --num-images %lld cannot be",
                         opt.num_images);
    a->init_noise = opt.init_noise;
    a->init_image = opt.init_image;
    a->mask = opt.mask;
    a->strength = opt.strength;
    a->sampler.jump_length = opt.jump_length;
    a->sampler.jump_n_sample = opt.jump_n_sample;
    if (stated[LENGTH] && !stated[AGAIN]) a->sampler.jump_n_sample = 5;
    if (stated[AGAIN] && !stated[LENGTH]) a->sampler.jump_length = 10;
    a->save_tensors = opt.save_tensors;
    a->metadata = !opt.no_metadata;
    a->timings = opt.timings;
    return -1;
}

/* ---- what is shown ---- */

static int read_animation(const cli_command *self, sample_args *a)
{
    const char *of = opt.animation_of;
    a->preview = opt.preview;
    a->animation = opt.animation;
    a->animation_frames = opt.animation_frames;
    a->animation_noisy = of && (!strcmp(of, "x_t") || !strcmp(of, "xt"));
    if (!opt.animation && (of || opt.animation_frames))
        return cli_error(self, CLI_USAGE, "which animation? give --animation FILE.gif too");
    if (opt.animation && !cli_ends_in(opt.animation, ".png") &&
        lgv_animation_format_of(opt.animation) == LGV_ANIMATION_NONE)
        return cli_error(self, CLI_USAGE, "--animation '%s': the name ends in .gif, .webp or .png",
                         opt.animation);
    if (of && !a->animation_noisy && strcmp(of, "x_0") && strcmp(of, "x0"))
        return cli_error(self, CLI_USAGE,
                         "--animation-of is x_0 (the picture predicted at each step) or x_t (the "
                         "noisy one), not '%s'",
                         of);
    return -1;
}

int sample_args_read(const cli_command *self, int argc, const char **argv, sample_args *out)
{
    sample_args a = {0};
    int n, code = cli_parse(self, table, argc, argv, 1, &a.model, &n, note_stated, NULL);
    if (code >= 0) return code;
    if (opt.sampler && !strcmp(opt.sampler, "help")) return list_samplers();
    if (!n && !access("model_index.json", R_OK)) a.model = "."; /* inside a model folder */
    if (!a.model) a.model = cli_demo_model();
    if (!a.model)
        return cli_error(self, CLI_USAGE,
                         "which model? give a folder that 'langevin train' or diffusers wrote; the "
                         "demo model is missing: neither $LANGEVIN_DATA nor the folders of the "
                         "program and its installation hold a folder demo-model");
    a.device = opt.dev;
    a.precision = LGV_MIXED_NO;
    if ((code = cli_read_precision(self, opt.precision, &a.precision)) >= 0) return code;
    if ((code = read_output(self, &a)) >= 0) return code;
    if ((code = read_counts(self, &a)) >= 0) return code;
    if ((code = read_sampler(self, &a)) >= 0) return code;
    if ((code = read_guidance(self, &a)) >= 0) return code;
    if ((code = read_seeds(self, &a)) >= 0) return code;
    if ((code = read_sources(self, &a)) >= 0) return code;
    if ((code = read_animation(self, &a)) >= 0) return code;
    *out = a;
    return -1;
}
