/* bench.c - langevin bench: seconds per training or sampling step of a network with random weights, and where
   they go. With --interactive a parent process decides when a round runs, so that two programs can be timed
   side by side (bench/compare_torch.py). */
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cli.h"
#include "langevin/ops.h"
#include "network.h"

static struct {
    cli_device_options dev;
    char *mode, *precision;
    int batch, resolution, rounds, json, interactive, profile;
} opt;

static struct poptOption table[] = {
    {"mode", 0, POPT_ARG_STRING, &opt.mode, 0, "train or sample (default: train)", "MODE"},
    {"batch-size", 0, POPT_ARG_INT, &opt.batch, 0, "rows of a batch (default: 4)", "N"},
    {"resolution", 0, POPT_ARG_INT, &opt.resolution, 0, "height and width (default: the network's)",
     "N"},
    {"rounds", 0, POPT_ARG_INT, &opt.rounds, 0, "steps to time (default: 5)", "N"},
    {"profile", 0, POPT_ARG_NONE, &opt.profile, 0, "show where the time goes, operator by operator",
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

/* --- The peaks shares refer to, measured on the spot --------------------------------------------------- */
typedef struct peaks {
    double flops, bytes; /* per second */
} peaks;

/* Best of a few runs of a graph with inputs a and b. */
static double time_graph(lgv_device *d, lgv_graph *g, lgv_error *err)
{
    lgv_store *store = NULL;
    lgv_plan *plan = NULL;
    lgv_program program = {"peak", g};
    double best = 1e30;
    if (!lgv_store_new(d, &store, err) && !lgv_plan_new(store, 1, &program, NULL, &plan, err))
        for (int i = 0; i < 6; i++) {
            double start = now();
            if (lgv_plan_run(plan, NULL, err)) break;
            double t = now() - start;
            if (i && t < best) best = t;
        }
    lgv_plan_free(plan);
    lgv_store_free(store);
    lgv_graph_free(g);
    return best;
}

/* A large matrix product and a large sum: what this library reaches at its best. */
static peaks measure_peaks(lgv_device *d)
{
    enum { M = 1536, K = 1024, BIG = 16 << 20 };
    lgv_error err;
    peaks p;
    lgv_graph *g = lgv_graph_new();
    lgv_id x = lgv_input(g, "a", LGV_F32, 2, (int64_t[]){M, K}),
           w = lgv_input(g, "b", LGV_F32, 2, (int64_t[]){K, K});
    lgv_graph_output(g, lgv_linear(g, x, w, LGV_NONE), "y");
    p.flops = 2.0 * M * K * K / time_graph(d, g, &err);
    g = lgv_graph_new();
    int64_t n = BIG;
    lgv_graph_output(
        g, lgv_add(g, lgv_input(g, "a", LGV_F32, 1, &n), lgv_input(g, "b", LGV_F32, 1, &n)), "y");
    p.bytes = 12.0 * BIG / time_graph(d, g, &err);
    return p;
}

/* --- Where the time goes ----------------------------------------------------------------------------- */
typedef struct line {
    const char *op, *kernel;
    double seconds, flops, bytes;
    int nodes;
} line;

static int by_seconds(const void *a, const void *b)
{
    double x = ((const line *)a)->seconds, y = ((const line *)b)->seconds;
    return x > y ? -1 : x < y;
}

static void show_profile(const cli_network *n, lgv_device *device)
{
    line lines[128];
    int count = 0;
    double total = 0;
    for (int i = 0; i < lgv_plan_nodes(n->plan); i++) {
        lgv_node_info info;
        lgv_plan_node_at(n->plan, i, &info);
        if (!info.runs) continue;
        int k = 0;
        while (k < count && (strcmp(lines[k].op, info.op) || strcmp(lines[k].kernel, info.kernel)))
            k++;
        if (k == 128) continue;
        if (k == count) lines[count++] = (line){.op = info.op, .kernel = info.kernel};
        lines[k].seconds += info.seconds / (double)info.runs;
        lines[k].flops += info.flops;
        lines[k].bytes += info.bytes;
        lines[k].nodes++;
        total += info.seconds / (double)info.runs;
    }
    peaks p = measure_peaks(device);
    qsort(lines, (size_t)count, sizeof *lines, by_seconds);
    printf("\nPeaks measured on the spot (a matrix product, a sum): %.0f GFLOP/s, %.1f GB/s\n\n",
           p.flops / 1e9, p.bytes / 1e9);
    printf("%-24s %-16s %6s %10s %7s %10s %8s %8s\n", "operator", "kernel", "nodes", "ms", "share",
           "GFLOP/s", "of peak", "of GB/s");
    for (int i = 0; i < count; i++)
        printf("%-24s %-16s %6d %10.3f %6.1f%% %10.1f %7.0f%% %7.0f%%\n", lines[i].op,
               lines[i].kernel, lines[i].nodes, 1e3 * lines[i].seconds,
               100 * lines[i].seconds / total, lines[i].flops / lines[i].seconds / 1e9,
               100 * lines[i].flops / lines[i].seconds / p.flops,
               100 * lines[i].bytes / lines[i].seconds / p.bytes);
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

static void print_json(const double *seconds, int rounds)
{
    json_t *list = json_array(), *line_json = json_object();
    for (int i = 0; i < rounds; i++) json_array_append_new(list, json_real(seconds[i]));
    json_object_set_new(line_json, "seconds_per_step", list);
    json_dumpf(line_json, stdout, JSON_COMPACT);
    printf("\n");
    fflush(stdout);
    json_decref(line_json);
}

static lgv_status interact(cli_network *n, double *seconds, lgv_error *err)
{
    char text[64];
    printf("ready\n");
    fflush(stdout);
    while (fgets(text, sizeof text, stdin)) {
        lgv_status status = time_steps(n, opt.rounds, seconds, err);
        if (status) return status;
        print_json(seconds, opt.rounds);
    }
    return LGV_OK;
}

static lgv_status bench(const lgv_model *model, lgv_device *device, int training,
                        lgv_mixed_precision precision, double *seconds, lgv_error *err)
{
    const lgv_model_info *info = lgv_model_describe(model);
    int64_t h = opt.resolution ? opt.resolution : info->height ? info->height : 32;
    int64_t w = opt.resolution ? opt.resolution : info->width ? info->width : 32;
    cli_network n = {0};
    const lgv_plan_options options = {.mixed_precision = precision};
    lgv_status status =
        cli_network_new(model, device, training, 0, opt.batch, h, w, &options, &n, err);
    if (status) return status;
    status = time_steps(&n, 1, seconds, err); /* warm-up */
    if (status) goto done;
    if (opt.interactive) {
        status = interact(&n, seconds, err);
        goto done;
    }
    if (opt.profile) lgv_plan_profile(n.plan, 1);
    if ((status = time_steps(&n, opt.rounds, seconds, err))) goto done;
    if (opt.json) {
        print_json(seconds, opt.rounds);
    } else {
        lgv_plan_info plan;
        char a[32], b[32];
        lgv_plan_describe(n.plan, &plan);
        qsort(seconds, (size_t)opt.rounds, sizeof *seconds, by_value);
        double median = seconds[opt.rounds / 2];
        printf("%s, %s, %lldx%lld, batch %d, %s, %s, %d threads\n", info->source,
               training ? "training step" : "sampling step", (long long)w, (long long)h, opt.batch,
               lgv_device_name(device), cli_precision(precision), lgv_device_threads(device));
        printf("  median of %d   %.4f s (%.4f to %.4f), %.2f pictures/s, %.1f GFLOP/s\n",
               opt.rounds, median, seconds[0], seconds[opt.rounds - 1], opt.batch / median,
               plan.flops / median / 1e9);
        printf("  memory         %s activations, %s weights and optimizer, %s packed weights\n",
               cli_bytes((double)plan.arena_bytes, a), cli_bytes((double)plan.weight_bytes, b),
               cli_bytes((double)plan.packed_bytes, (char[32]){0}));
        if (opt.profile) show_profile(&n, device);
    }
done:
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
    lgv_mixed_precision precision = LGV_MIXED_NO;
    if ((code = cli_read_precision(self, opt.precision, &precision)) >= 0) return code;
    lgv_error err = {0};
    lgv_model *model = NULL;
    lgv_device *device = NULL;
    double *seconds = malloc((size_t)opt.rounds * sizeof *seconds);
    lgv_status status = seconds ? lgv_model_open(what, NULL, &model, &err) : LGV_ERR_MEMORY;
    if (!status) status = cli_open_device(&opt.dev, &device, &err);
    if (!status) status = bench(model, device, training, precision, seconds, &err);
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
