/* plan.c - langevin plan: what training or sampling a network takes, told without taking it. */
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"
#include "network.h"
#include "roofline.h"

static struct {
    cli_device_options dev;
    char *mode, *budget, *precision, *classifier;
    double guidance;
    int batch, resolution, channels, json;
} opt;

enum { GUIDANCE = 1 };
static bool guidance_stated;

static struct poptOption table[] = {
    {"mode", 0, POPT_ARG_STRING, &opt.mode, 0, "what to plan", "train|sample"},
    {"batch-size", 0, POPT_ARG_INT, &opt.batch, 0, "pictures of a batch (default: 1)", "N"},
    {"resolution", 0, POPT_ARG_INT, &opt.resolution, 0, "height and width (default: the network's)",
     "N"},
    {"channels", 0, POPT_ARG_INT, &opt.channels, 0, "channels of a preset's pictures (default: 3)",
     "N"},
    {"guidance-scale", 0, POPT_ARG_DOUBLE, &opt.guidance, GUIDANCE,
     "of --mode sample, as there: a guided picture takes two rows of the network; 1: off (default: on "
     "where the network was trained for it)",
     "F"},
    {"classifier", 0, POPT_ARG_STRING, &opt.classifier, 0,
     "of --mode sample, as there: the classifier that guides, forward and backward, is counted too",
     "DIR"},
    {"memory-budget", 0, POPT_ARG_STRING, &opt.budget, 0,
     "memory to stay below, all included, by computing things twice, such as 2G", "SIZE"},
    {"json", 0, POPT_ARG_NONE, &opt.json, 0, "print JSON", NULL},
    CLI_PRECISION_OPTION(opt.precision),
    CLI_DEVICE_OPTIONS(opt.dev),
    POPT_TABLEEND,
};

typedef struct report {
    const lgv_model_info *model;
    int training, guided, sets;
    lgv_mixed_precision precision;
    int64_t h, w;
    lgv_plan_info plan; /* of network and classifier together */
    cli_rates rates;
    double floor, expected; /* seconds */
} report;

static double total_bytes(const lgv_plan_info *p)
{
    return (double)(p->weight_bytes + p->packed_bytes + p->arena_bytes + p->io_bytes);
}

/* Adds what a network takes. */
static lgv_status add(const lgv_model *model, lgv_device *device, cli_network_kind kind,
                      const cli_rates *rates, const lgv_plan_options *options, report *r,
                      lgv_error *err)
{
    cli_network n = {0};
    lgv_status status =
        cli_network_new(model, device, kind, 1, opt.batch, r->h, r->w, options, &n, err);
    if (!status) {
        lgv_plan_info p, *sum = &r->plan;
        double floor;
        lgv_plan_describe(n.plan, &p);
        r->expected += cli_expected(rates, n.plan, &floor);
        r->floor += floor;
        sum->weight_bytes += p.weight_bytes;
        sum->packed_bytes += p.packed_bytes;
        sum->arena_bytes += p.arena_bytes;
        sum->io_bytes += p.io_bytes;
        if (p.workspace_bytes > sum->workspace_bytes) sum->workspace_bytes = p.workspace_bytes;
        sum->nodes += p.nodes;
        sum->recomputed += p.recomputed;
        sum->flops += p.flops;
    }
    cli_network_free(&n);
    return status;
}

static lgv_status add_classifier(lgv_device *device, const lgv_plan_options *options, report *r,
                                 lgv_error *err)
{
    lgv_model *model = NULL;
    cli_rates *rates = malloc(sizeof *rates);
    lgv_status status =
        rates ? LGV_OK : cli_status(err, LGV_ERR_MEMORY, "out of memory for a calibration");
    if (!status) status = lgv_model_open(opt.classifier, NULL, &model, err);
    const lgv_model_info *info = status ? NULL : lgv_model_describe(model);
    if (info && !info->noisy)
        status = cli_status(err, LGV_ERR_ARGUMENT,
                            "'%s' is no classifier of noisy pictures, which alone can guide; train "
                            "one with --task classifier --noisy",
                            opt.classifier);
    else if (info && info->in_channels != r->model->picture_channels)
        status = cli_status(err, LGV_ERR_SHAPE,
                            "the classifier '%s' takes pictures of %d channels, '%s' draws them "
                            "with %d",
                            opt.classifier, info->in_channels, r->model->source,
                            r->model->picture_channels);
    if (!status) status = cli_calibrate(device, 1, r->precision, rates, err);
    if (!status) status = add(model, device, CLI_GRADIENT, rates, options, r, err);
    r->sets++;
    lgv_model_free(model);
    free(rates);
    return status;
}

static lgv_status collect(const lgv_model *model, lgv_device *device,
                          const lgv_plan_options *options, report *r, lgv_error *err)
{
    cli_network_kind kind = r->training ? CLI_TRAINING : r->guided ? CLI_GUIDED : CLI_SAMPLING;
    lgv_status status = cli_calibrate(device, r->training, r->precision, &r->rates, err);
    if (!status) status = add(model, device, kind, &r->rates, options, r, err);
    if (!status && opt.classifier) status = add_classifier(device, options, r, err);
    return status;
}

static void print_text(const report *r, const lgv_device *device)
{
    const lgv_plan_info *p = &r->plan;
    const lgv_peaks *peaks = &r->rates.peaks;
    char a[32], b[32], text[64];
    printf("%s, %s step, %lldx%lld, batch %d, %s, %s\n", r->model->source,
           r->training ? "training" : "sampling", (long long)r->w, (long long)r->h, opt.batch,
           cli_device_text(device, text), cli_precision(r->precision));
    printf("  store             %s", cli_bytes((double)p->weight_bytes, a));
    if (opt.classifier)
        printf(" (weights of the network and of the classifier)\n");
    else
        printf(" in %d set%s of %s%s\n", r->sets, r->sets == 1 ? "" : "s",
               cli_bytes((double)p->weight_bytes / r->sets, b),
               r->training ? " (weights, gradients, two moments, average)" : " (weights)");
    printf("  packed weights    %s\n", cli_bytes((double)p->packed_bytes, a));
    printf("  arena             %s of activations, the largest workspace %s of it\n",
           cli_bytes((double)p->arena_bytes, a), cli_bytes((double)p->workspace_bytes, b));
    printf("  inputs, outputs   %s\n", cli_bytes((double)p->io_bytes, a));
    printf("  total             %s\n", cli_bytes(total_bytes(p), a));
    if (r->guided)
        printf("  guidance          two rows of the network for each picture, %d in all; one without "
               "(--guidance-scale 1)\n",
               2 * opt.batch);
    if (opt.classifier)
        printf("  classifier        %s, forward and backward, is part of all figures\n",
               opt.classifier);
    if (p->recomputed)
        printf("  recomputed        %d of %d nodes\n", p->recomputed, p->nodes);
    else
        printf("  recomputed        nothing\n");
    printf("  arithmetic        %s FLOP\n", cli_count(p->flops, a));
    printf("  expected          %.3g s a step: each operator as far from its floor as in a small "
           "network timed just now\n",
           r->expected);
    printf("  floor             %.3g s at the peaks measured just now, %.0f GFLOP/s and %.1f GB/s",
           r->floor, peaks->flops / 1e9, peaks->bytes / 1e9);
    if (peaks->matrix_flops > 0) printf(", %.0f GFLOP/s in bf16", peaks->matrix_flops / 1e9);
    printf("\n");
}

static void print_json(const report *r, const lgv_device *device)
{
    const lgv_plan_info *p = &r->plan;
    const lgv_peaks *peaks = &r->rates.peaks;
    json_t *o = json_pack(
        "{s:o, s:s, s:s, s:i, s:i, s:[i,i], s:s, s:i, s:I, s:I, s:i, s:I, s:I, s:I, s:I, s:I, s:i, s:i, "
        "s:f, "
        "s:f, s:f, s:{s:f, s:f, s:f}}",
        "source", cli_json_text(r->model->source), "mode", r->training ? "train" : "sample",
        "mixed_precision", lgv_mixed_precision_name(r->precision), "batch_size", opt.batch, "rows",
        r->guided ? 2 * opt.batch : opt.batch, "size",
        (int)r->h, (int)r->w, "device", lgv_device_name(device), "threads",
        lgv_device_threads(device), "parameters", (json_int_t)r->model->parameters, "store_bytes",
        (json_int_t)p->weight_bytes, "sets", r->sets, "packed_bytes", (json_int_t)p->packed_bytes,
        "arena_bytes", (json_int_t)p->arena_bytes, "workspace_bytes",
        (json_int_t)p->workspace_bytes, "io_bytes", (json_int_t)p->io_bytes, "total_bytes",
        (json_int_t)total_bytes(p), "nodes", p->nodes, "recomputed", p->recomputed, "flops",
        p->flops, "expected_seconds", r->expected, "floor_seconds", r->floor, "peaks", "flops",
        peaks->flops, "matrix_flops", peaks->matrix_flops, "bytes", peaks->bytes);
    if (opt.classifier) json_object_set_new(o, "classifier", cli_json_text(opt.classifier));
    cli_print_json(o);
}

static lgv_status show(const lgv_model *model, lgv_device *device, int training,
                       const lgv_plan_options *options, lgv_error *err)
{
    const lgv_model_info *info = lgv_model_describe(model);
    int size = opt.resolution;
    report r = {.model = info,
                .training = training,
                .guided = !training && (guidance_stated ? opt.guidance != 1 : info->null_label >= 0),
                .sets = training ? 5 : 1,
                .precision = options->mixed_precision};
    r.h = size ? size : info->height ? info->height : 32;
    r.w = size ? size : info->width ? info->width : 32;
    if (r.guided && info->class_kind == LGV_CLASS_NONE)
        return cli_status(err, LGV_ERR_ARGUMENT,
                          "'%s' is unconditional: without classes there is nothing to guide; leave "
                          "--guidance-scale out",
                          info->source);
    lgv_status status = collect(model, device, options, &r, err);
    if (!status && opt.json)
        print_json(&r, device);
    else if (!status)
        print_text(&r, device);
    return status;
}

static void note_stated(void *user, int val)
{
    (void)user;
    if (val == GUIDANCE) guidance_stated = true;
}

static int check_guidance(const cli_command *self, int training)
{
    if (training && (guidance_stated || opt.classifier))
        return cli_error(self, CLI_USAGE, "%s belongs to --mode sample",
                         opt.classifier ? "--classifier" : "--guidance-scale");
    if (guidance_stated && !(opt.guidance > 0 && opt.guidance <= 1000))
        return cli_error(self, CLI_USAGE,
                         "--guidance-scale must be more than 0 and at most 1000, not %g",
                         opt.guidance);
    if (opt.classifier && opt.budget)
        return cli_error(self, CLI_USAGE,
                         "--memory-budget plans the network alone; leave out --classifier");
    return -1;
}

static int run(const cli_command *self, int argc, const char **argv)
{
    const char *what = NULL;
    lgv_plan_options options = {.weights = NULL};
    int n, code = cli_parse(self, table, argc, argv, 1, &what, &n, note_stated, NULL);
    if (code >= 0) return code;
    if (!what)
        return cli_error(self, CLI_USAGE,
                         "which network? give a model folder, a config.json or a "
                         "preset such as unet-32");
    if (!opt.mode)
        return cli_error(self, CLI_USAGE,
                         "--mode train or --mode sample? they take very different "
                         "amounts of memory");
    int training = !strcmp(opt.mode, "train");
    if (!training && strcmp(opt.mode, "sample"))
        return cli_error(self, CLI_USAGE, "--mode is train or sample, not '%s'", opt.mode);
    if ((code = check_guidance(self, training)) >= 0) return code;
    if (!opt.batch) opt.batch = 1;
    if (opt.batch < 1 || opt.resolution < 0 || opt.channels < 0)
        return cli_error(self, CLI_USAGE, "sizes must be at least 1");
    if ((code = cli_read_precision(self, opt.precision, &options.mixed_precision)) >= 0)
        return code;
    if ((code = cli_read_budget(self, opt.budget, &options.memory_budget)) >= 0) return code;
    lgv_error err = {0};
    lgv_model *model = NULL;
    lgv_device *device = NULL;
    lgv_status status =
        lgv_model_open(what, &(lgv_model_options){.channels = opt.channels}, &model, &err);
    if (!status) status = cli_open_device(&opt.dev, &device, &err);
    if (!status) status = show(model, device, training, &options, &err);
    lgv_model_free(model);
    lgv_device_free(device);
    return status ? cli_fail(self, &err) : CLI_OK;
}

const cli_command cli_plan = {
    .name = "plan",
    .summary = "tell what a step takes in memory and time, without taking it",
    .usage = "plan MODEL --mode train|sample",
    .examples = "  langevin plan unet-64 --mode train --batch-size 16\n"
                "  langevin plan model --mode sample --batch-size 64\n"
                "  langevin plan model --mode sample --batch-size 16 --classifier noisy-classifier\n"
                "  langevin plan config.json --mode train --batch-size 128 --memory-budget 3G\n",
    .run = run,
};
