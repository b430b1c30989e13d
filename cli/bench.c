/* bench.c - langevin bench: seconds per training or sampling step of a network with random weights, and where
   they go. With --interactive a parent process decides when a round runs, so that two programs can be timed
   side by side (bench/compare_torch.py). */
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cli.h"
#include "network.h"
#include "roofline.h"

static struct {
    cli_device_options dev;
    char *mode, *budget, *precision;
    int batch, resolution, rounds, json, interactive, profile;
} opt;

static struct poptOption table[] = {
    {"mode", 0, POPT_ARG_STRING, &opt.mode, 0, "train or sample (default: train)", "train|sample"},
    {"batch-size", 0, POPT_ARG_INT, &opt.batch, 0, "rows of a batch (default: 4)", "N"},
    {"resolution", 0, POPT_ARG_INT, &opt.resolution, 0, "height and width (default: the network's)",
     "N"},
    {"rounds", 0, POPT_ARG_INT, &opt.rounds, 0, "steps to time (default: 5)", "N"},
    {"memory-budget", 0, POPT_ARG_STRING, &opt.budget, 0,
     "memory to stay below by computing things twice, such as 2G", "SIZE"},
    {"profile", 0, POPT_ARG_NONE, &opt.profile, 0,
     "show where the time goes, operator by operator, and how far that is from what the machine "
     "can do",
     NULL},
    {"json", 0, POPT_ARG_NONE, &opt.json, 0, "print one line of JSON", NULL},
    {"interactive", 0, POPT_ARG_NONE, &opt.interactive, 0,
     "run a round for each line on standard input", NULL},
    CLI_PRECISION_OPTION(opt.precision),
    CLI_DEVICE_OPTIONS(opt.dev),
    POPT_TABLEEND,
};

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

/* --- Where the time goes ----------------------------------------------------------------------------- */
typedef struct line {
    const char *op, *kernel;
    double seconds, flops, bytes, floor,
        by_flops; /* by_flops: the part of floor that arithmetic sets */
    int nodes;
} line;

enum { LINES = 128 };

typedef struct profile {
    lgv_peaks peaks;
    line line[LINES], total;
    int lines;
} profile;

static int by_seconds(const void *a, const void *b)
{
    double x = ((const line *)a)->seconds, y = ((const line *)b)->seconds;
    return x > y ? -1 : x < y;
}

static void add_node(line *l, const lgv_node_info *info, double floor, bool by_flops)
{
    l->seconds += info->seconds / (double)info->runs;
    l->flops += info->flops;
    l->bytes += info->bytes;
    l->floor += floor;
    if (by_flops) l->by_flops += floor;
    l->nodes++;
}

static void collect(const lgv_plan *plan, profile *p)
{
    for (int i = 0; i < lgv_plan_nodes(plan); i++) {
        lgv_node_info info;
        bool by_flops;
        lgv_plan_node_at(plan, i, &info);
        if (!info.runs) continue;
        double floor = cli_floor(&p->peaks, &info, &by_flops);
        add_node(&p->total, &info, floor, by_flops);
        int k = 0;
        while (k < p->lines &&
               (strcmp(p->line[k].op, info.op) || strcmp(p->line[k].kernel, info.kernel)))
            k++;
        if (k == LINES) continue;
        if (k == p->lines) p->line[p->lines++] = (line){.op = info.op, .kernel = info.kernel};
        add_node(&p->line[k], &info, floor, by_flops);
    }
    qsort(p->line, (size_t)p->lines, sizeof *p->line, by_seconds);
}

static const char *bound(const line *l)
{
    return l->by_flops > 0.9 * l->floor ? "flops" : l->by_flops < 0.1 * l->floor ? "bytes" : "both";
}

static void print_line(const profile *p, const line *l)
{
    printf("%-24s %-16s %6d %10.3f %6.1f%% %10.1f %7.0f%% %8.0f%% %10.3f %6.2f  %s\n", l->op,
           l->kernel, l->nodes, 1e3 * l->seconds, 100 * l->seconds / p->total.seconds,
           l->flops / l->seconds / 1e9, 100 * l->flops / l->seconds / p->peaks.flops,
           100 * l->bytes / l->seconds / p->peaks.bytes, 1e3 * l->floor, l->seconds / l->floor,
           bound(l));
}

static void print_profile(const profile *p)
{
    line total = p->total;
    total.op = "all";
    total.kernel = "";
    printf("\nPeaks measured on the spot: %.0f GFLOP/s (multiply-adds on registers), %.1f GB/s (a "
           "long stream, read and written)",
           p->peaks.flops / 1e9, p->peaks.bytes / 1e9);
    if (p->peaks.matrix_flops > 0)
        printf(", %.0f GFLOP/s in bf16 on matrix units", p->peaks.matrix_flops / 1e9);
    printf("\nFloor: arithmetic at its peak or bytes at theirs, whichever is longer; below 1 is "
           "possible for Winograd, which does less\narithmetic than is counted, and for what stays "
           "in a cache.\n\n");
    printf("%-24s %-16s %6s %10s %7s %10s %8s %9s %10s %6s  %s\n", "operator", "kernel", "nodes",
           "ms", "share", "GFLOP/s", "of peak", "of stream", "floor ms", "times", "bound");
    for (int i = 0; i < p->lines; i++) print_line(p, &p->line[i]);
    print_line(p, &total);
}

static json_t *line_json(const profile *p, const line *l)
{
    return json_pack("{s:i, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:s}", "nodes", l->nodes, "seconds",
                     l->seconds, "flops", l->flops, "bytes", l->bytes, "share_of_flops",
                     l->flops / l->seconds / p->peaks.flops, "share_of_stream",
                     l->bytes / l->seconds / p->peaks.bytes, "floor_seconds", l->floor,
                     "times_floor", l->seconds / l->floor, "bound", bound(l));
}

static json_t *profile_json(const profile *p)
{
    json_t *list = json_array();
    for (int i = 0; i < p->lines; i++) {
        json_t *o = line_json(p, &p->line[i]);
        json_object_set_new(o, "operator", json_string(p->line[i].op));
        json_object_set_new(o, "kernel", json_string(p->line[i].kernel));
        json_array_append_new(list, o);
    }
    return json_pack("{s:{s:f, s:f, s:f}, s:o, s:o}", "peaks", "flops", p->peaks.flops,
                     "matrix_flops", p->peaks.matrix_flops, "bytes", p->peaks.bytes, "all",
                     line_json(p, &p->total), "operators", list);
}

/* --- Rounds -------------------------------------------------------------------------------------------- */
static lgv_status time_steps(cli_network *n, int rounds, double *seconds, lgv_error *err)
{
    for (int i = 0; i < rounds; i++) {
        double start = now();
        lgv_status status = cli_network_step(n, err);
        if (status) return status;
        seconds[i] = now() - start;
    }
    return LGV_OK;
}

/* Bytes of this process in memory now. */
static double resident(void)
{
    long pages = 0, in_memory = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    if (f && fscanf(f, "%ld %ld", &pages, &in_memory) != 2) in_memory = 0;
    if (f) fclose(f);
    return (double)in_memory * (double)sysconf(_SC_PAGESIZE);
}

static json_t *seconds_json(const double *seconds, int rounds)
{
    json_t *list = json_array();
    for (int i = 0; i < rounds; i++) json_array_append_new(list, json_real(seconds[i]));
    return json_pack("{s:o}", "seconds_per_step", list);
}

/* One line, for who reads line by line. */
static void print_json(json_t *o)
{
    json_dumpf(o, stdout, JSON_COMPACT);
    printf("\n");
    fflush(stdout);
    json_decref(o);
}

static lgv_status interact(cli_network *n, double *seconds, lgv_error *err)
{
    char text[64];
    printf("ready\n");
    fflush(stdout);
    while (fgets(text, sizeof text, stdin)) {
        lgv_status status = time_steps(n, opt.rounds, seconds, err);
        if (status) return status;
        print_json(seconds_json(seconds, opt.rounds));
    }
    return LGV_OK;
}

typedef struct result {
    const lgv_model_info *model;
    const lgv_device *device;
    int training;
    lgv_mixed_precision precision;
    int64_t h, w;
    double *seconds, grown; /* grown: resident bytes since before planning */
    lgv_plan_info plan;
    profile profile;
} result;

static double planned(const lgv_plan_info *p)
{
    return (double)(p->weight_bytes + p->packed_bytes + p->arena_bytes + p->io_bytes);
}

static void show_json(const result *r)
{
    json_t *o = seconds_json(r->seconds, opt.rounds);
    json_object_set_new(o, "source", cli_json_text(r->model->source));
    json_object_set_new(o, "mode", json_string(r->training ? "train" : "sample"));
    json_object_set_new(o, "batch_size", json_integer(opt.batch));
    json_object_set_new(o, "size", json_pack("[i,i]", (int)r->h, (int)r->w));
    json_object_set_new(o, "parameters", json_integer((json_int_t)r->model->parameters));
    json_object_set_new(o, "flops", json_real(r->plan.flops));
    json_object_set_new(o, "planned_bytes", json_integer((json_int_t)planned(&r->plan)));
    json_object_set_new(o, "resident_bytes", json_integer((json_int_t)r->grown));
    json_object_set_new(o, "device", json_string(lgv_device_name(r->device)));
    json_object_set_new(o, "mixed_precision", json_string(lgv_mixed_precision_name(r->precision)));
    json_object_set_new(o, "threads", json_integer(lgv_device_threads(r->device)));
    if (opt.profile) json_object_set_new(o, "profile", profile_json(&r->profile));
    print_json(o);
}

static void show_text(const result *r)
{
    char a[32], b[32], c[32], device[64];
    const lgv_plan_info *p = &r->plan;
    qsort(r->seconds, (size_t)opt.rounds, sizeof *r->seconds, by_value);
    double median = r->seconds[opt.rounds / 2];
    printf("%s, %s, %lldx%lld, batch %d, %s, %s\n", r->model->source,
           r->training ? "training step" : "sampling step", (long long)r->w, (long long)r->h,
           opt.batch, cli_device_text(r->device, device), cli_precision(r->precision));
    printf("  median of %d   %.4f s (%.4f to %.4f), %.2f pictures/s, %.1f GFLOP/s\n", opt.rounds,
           median, r->seconds[0], r->seconds[opt.rounds - 1], opt.batch / median,
           p->flops / median / 1e9);
    printf("  memory         %s activations, %s weights%s, %s packed weights\n",
           cli_bytes((double)p->arena_bytes, a), cli_bytes((double)p->weight_bytes, b),
           r->training ? " and optimizer" : "", cli_bytes((double)p->packed_bytes, c));
    printf("                 %s in all, the process grew by %s\n", cli_bytes(planned(p), a),
           cli_bytes(r->grown, b));
    if (opt.profile) print_profile(&r->profile);
}

static lgv_status measure(cli_network *n, result *r, lgv_error *err)
{
    lgv_status status = time_steps(n, 1, r->seconds, err); /* warm-up */
    if (status) return status;
    if (opt.interactive) return interact(n, r->seconds, err);
    if (opt.profile) lgv_plan_profile(n->plan, 1);
    status = time_steps(n, opt.rounds, r->seconds, err);
    r->grown = resident() - r->grown;
    lgv_plan_describe(n->plan, &r->plan);
    if (!status && opt.profile) status = lgv_device_peaks(n->device, &r->profile.peaks, err);
    if (status) return status;
    if (opt.profile) collect(n->plan, &r->profile);
    if (opt.json)
        show_json(r);
    else
        show_text(r);
    return LGV_OK;
}

static lgv_status bench(const lgv_model *model, lgv_device *device, int training,
                        const lgv_plan_options *options, double *seconds, lgv_error *err)
{
    const lgv_model_info *info = lgv_model_describe(model);
    int side = opt.resolution;
    result r = {.model = info,
                .device = device,
                .training = training,
                .precision = options->mixed_precision,
                .seconds = seconds};
    r.h = side ? side : info->height ? info->height : 32;
    r.w = side ? side : info->width ? info->width : 32;
    cli_network n = {0};
    r.grown = resident();
    lgv_status status =
        cli_network_new(model, device, training, 0, opt.batch, r.h, r.w, options, &n, err);
    if (!status) status = measure(&n, &r, err);
    cli_network_free(&n);
    return status;
}

static int run(const cli_command *self, int argc, const char **argv)
{
    const char *what = NULL;
    int n, code = cli_parse(self, table, argc, argv, 1, &what, &n, NULL, NULL);
    if (code >= 0) return code;
    if (!what)
        return cli_error(
            self, CLI_USAGE,
            "which network? give a model folder, a config.json or a preset such as unet-32");
    if (!opt.batch) opt.batch = 4;
    if (!opt.rounds) opt.rounds = 5;
    if (opt.batch < 1 || opt.rounds < 1)
        return cli_error(self, CLI_USAGE, "--batch-size and --rounds must be at least 1");
    int training = !opt.mode || !strcmp(opt.mode, "train");
    if (!training && strcmp(opt.mode, "sample"))
        return cli_error(self, CLI_USAGE, "--mode is train or sample, not '%s'", opt.mode);
    lgv_plan_options options = {.weights = NULL};
    if ((code = cli_read_precision(self, opt.precision, &options.mixed_precision)) >= 0)
        return code;
    if ((code = cli_read_budget(self, opt.budget, &options.memory_budget)) >= 0) return code;
    lgv_error err = {0};
    lgv_model *model = NULL;
    lgv_device *device = NULL;
    double *seconds = malloc((size_t)opt.rounds * sizeof *seconds);
    lgv_status status = seconds ? lgv_model_open(what, NULL, &model, &err) : LGV_ERR_MEMORY;
    if (!status) status = cli_open_device(&opt.dev, &device, &err);
    if (!status) status = bench(model, device, training, &options, seconds, &err);
    lgv_model_free(model);
    lgv_device_free(device);
    free(seconds);
    return status ? cli_fail(self, &err) : CLI_OK;
}

const cli_command cli_bench = {
    .name = "bench",
    .summary = "time a network's training or sampling step",
    .usage = "bench MODEL [--mode train|sample]",
    .examples = "  langevin bench unet-32\n"
                "  langevin bench model --mode sample --batch-size 16\n"
                "  langevin bench unet-64 --batch-size 8 --profile --device cpu:avx2\n",
    .run = run,
};
