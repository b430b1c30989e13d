/* info.c - langevin info: what a model folder, a preset, a file of tensors or a folder of pictures is. */
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli.h"
#include "data_info.h"
#include "network.h"
#include "tensors_info.h"

static struct {
    cli_device_options dev;
    char *precision;
    int trace, plan, batch, resolution, channels, json, headers_only;
    char *contact_sheet;
} opt;

static struct poptOption table[] = {
    {"trace", 0, POPT_ARG_NONE, &opt.trace, 0, "print the shape of every stage of the network",
     NULL},
    {"plan", 0, POPT_ARG_NONE, &opt.plan, 0,
     "print the kernel chosen for every node of a sampling step", NULL},
    {"batch-size", 0, POPT_ARG_INT, &opt.batch, 0,
     "rows of the batch that shapes, FLOPs and memory are for (default: 1)", "N"},
    {"resolution", 0, POPT_ARG_INT, &opt.resolution, 0, "height and width (default: the network's)",
     "N"},
    {"channels", 0, POPT_ARG_INT, &opt.channels, 0, "channels of a preset's pictures (default: 3)",
     "N"},
    {"headers-only", 0, POPT_ARG_NONE, &opt.headers_only, 0,
     "of pictures read the headers only: faster, but damage behind them stays unseen", NULL},
    {"contact-sheet", 0, POPT_ARG_STRING, &opt.contact_sheet, 0,
     "also draw some of the pictures, a row per class, into this PNG", "FILE"},
    {"json", 0, POPT_ARG_NONE, &opt.json, 0, "print JSON", NULL},
    CLI_PRECISION_OPTION(opt.precision),
    CLI_DEVICE_OPTIONS(opt.dev),
    POPT_TABLEEND,
};

/* --- A network ---------------------------------------------------------------------------------------- */
typedef struct report {
    lgv_mixed_precision precision;
    const lgv_model_info *info;
    int64_t batch, h, w;
    lgv_model_stage *stages;
    int n_stages;
    lgv_plan_info sample, train;
    cli_network net; /* the sampling plan, with --plan */
} report;

static lgv_status collect(const lgv_model *model, lgv_device *device, report *r, lgv_error *err)
{
    const lgv_plan_options options = {.mixed_precision = r->precision};
    cli_network n = {0};
    lgv_status status = lgv_model_check_size(model, r->h, r->w, err);
    if (!status && opt.trace)
        status = lgv_model_trace(model, r->batch, r->h, r->w, &r->stages, &r->n_stages, err);
    if (!status)
        status = cli_network_new(model, device, 1, 1, r->batch, r->h, r->w, &options, &n, err);
    if (status) return status;
    lgv_plan_describe(n.plan, &r->train);
    cli_network_free(&n);
    status = cli_network_new(model, device, 0, 1, r->batch, r->h, r->w, &options, &r->net, err);
    if (!status) lgv_plan_describe(r->net.plan, &r->sample);
    return status;
}

static void shape_text(const lgv_model_stage *s, char text[96])
{
    int used = snprintf(text, 96, "(");
    for (int i = 0; i < s->rank; i++)
        used +=
            snprintf(text + used, 96 - (size_t)used, i ? ", %lld" : "%lld", (long long)s->dim[i]);
    snprintf(text + used, 96 - (size_t)used, ")");
}

static void print_plan(const cli_network *n)
{
    printf("\n%-52s %-22s %-16s %-18s %10s\n", "node", "operator", "kernel", "shape", "MFLOP");
    for (int i = 0; i < lgv_plan_nodes(n->plan); i++) {
        lgv_node_info node;
        char shape[96] = "";
        int used = 0;
        lgv_plan_node_at(n->plan, i, &node);
        if (!node.kernel[0]) continue;
        for (int k = 0; k < node.rank; k++)
            used += snprintf(shape + used, sizeof shape - (size_t)used, k ? "x%lld" : "%lld",
                             (long long)node.dim[k]);
        printf("%-52s %-22s %-16s %-18s %10.2f\n", node.name, node.op, node.kernel, shape,
               node.flops / 1e6);
    }
}

enum { SHOWN = 20 }; /* names of classes */

static void print_names(const char *what, const char *const *name, int n)
{
    for (int k = 0; k < n && k < SHOWN; k++)
        printf(k ? "%s%s" : "  %-18s%s", k ? ", " : what, name[k]);
    if (n > SHOWN) printf(", ... (%d)", n);
}

static void print_classes(const lgv_model_info *i)
{
    if (i->class_names)
        print_names("classes", i->class_name_of, i->class_names);
    else if (i->class_kind == LGV_CLASS_TABLE)
        printf("  classes           %d labels without names", i->class_count);
    else
        printf("  classes           %s",
               i->class_kind == LGV_CLASS_TIMESTEP ? "by a number" : "by a vector");
    if (i->null_label >= 0) printf("; label %d is none of them", i->null_label);
    printf("\n");
}

static void print_text(const report *r, const lgv_device *device)
{
    const lgv_model_info *i = r->info;
    char a[32], b[32], text[64];
    printf("%s: %s, %d to %d channels, ", i->source, i->class_name, i->in_channels,
           i->out_channels);
    if (i->height)
        printf("%dx%d\n", i->width, i->height);
    else
        printf("any size (shown: %lldx%lld)\n", (long long)r->w, (long long)r->h);
    printf("  parameters        %lld (%s) in %d tensors\n", (long long)i->parameters,
           cli_count((double)i->parameters, a), i->tensors);
    printf("  %-18s%s FLOP at batch %lld, %s weights + %s activations\n",
           i->labels ? "one pass" : "sampling step", cli_count(r->sample.flops, a),
           (long long)r->batch,
           cli_bytes((double)(r->sample.weight_bytes + r->sample.packed_bytes), b),
           cli_bytes((double)r->sample.arena_bytes, (char[32]){0}));
    printf("  training step     %s FLOP at batch %lld, %s weights and optimizer + %s activations\n",
           cli_count(r->train.flops, a), (long long)r->batch,
           cli_bytes((double)(r->train.weight_bytes + r->train.packed_bytes), b),
           cli_bytes((double)r->train.arena_bytes, (char[32]){0}));
    if (i->class_kind != LGV_CLASS_NONE) print_classes(i);
    if (i->labels) print_names("tells apart", i->label, i->labels);
    if (i->labels) printf(i->noisy ? "; in pictures with noise\n" : "\n");
    if (i->weights_raw || i->weights_ema)
        printf("  weights           %s%s%s\n", i->weights_ema ? i->weights_ema : "",
               i->weights_ema && i->weights_raw ? ", " : "", i->weights_raw ? i->weights_raw : "");
    else
        printf("  weights           none: a configuration only\n");
    if (i->scheduler) printf("  scheduler         %s\n", i->scheduler);
    printf("  device            %s, %s\n", cli_device_text(device, text),
           cli_precision(r->precision));
    if (r->n_stages) printf("\n");
    for (int k = 0; k < r->n_stages; k++) {
        char shape[96];
        shape_text(&r->stages[k], shape);
        printf("  %-48s %s\n", r->stages[k].title, shape);
    }
    if (opt.plan) print_plan(&r->net);
}

static json_t *plan_json(const lgv_plan_info *p)
{
    return json_pack("{s:f, s:I, s:I, s:I}", "flops", p->flops, "activation_bytes",
                     (json_int_t)p->arena_bytes, "weight_bytes", (json_int_t)p->weight_bytes,
                     "packed_bytes", (json_int_t)p->packed_bytes);
}

static void print_json(const report *r, const lgv_device *device)
{
    const lgv_model_info *i = r->info;
    json_t *o = json_pack("{s:o, s:s, s:i, s:i, s:[i,i], s:I, s:i, s:I, s:s, s:s, s:o, s:o}",
                          "source", cli_json_text(i->source), "class", i->class_name, "in_channels",
                          i->in_channels, "out_channels", i->out_channels, "size", (int)r->h,
                          (int)r->w, "parameters", (json_int_t)i->parameters, "tensors", i->tensors,
                          "batch_size", (json_int_t)r->batch, "device", lgv_device_name(device),
                          "mixed_precision", lgv_mixed_precision_name(r->precision), "sample",
                          plan_json(&r->sample), "train", plan_json(&r->train));
    json_object_set_new(o, "threads", json_integer(lgv_device_threads(device)));
    json_object_set_new(o, "divisor", json_integer(i->divisor));
    json_object_set_new(o, "weights",
                        cli_json_text(i->weights_ema ? i->weights_ema : i->weights_raw));
    json_object_set_new(o, "scheduler", cli_json_text(i->scheduler));
    json_object_set_new(o, "classes", json_integer(i->class_count));
    json_t *labels = json_array();
    for (int k = 0; k < i->labels; k++) json_array_append_new(labels, cli_json_text(i->label[k]));
    json_object_set_new(o, "labels", labels);
    json_t *names = json_array();
    for (int k = 0; k < i->class_names; k++)
        json_array_append_new(names, cli_json_text(i->class_name_of[k]));
    json_object_set_new(o, "class_names", names);
    json_object_set_new(o, "null_label",
                        i->null_label >= 0 ? json_integer(i->null_label) : json_null());
    json_t *stages = json_array();
    for (int k = 0; k < r->n_stages; k++) {
        json_t *shape = json_array();
        for (int d = 0; d < r->stages[k].rank; d++)
            json_array_append_new(shape, json_integer(r->stages[k].dim[d]));
        json_array_append_new(stages, json_pack("{s:s, s:s, s:o}", "name", r->stages[k].name,
                                                "title", r->stages[k].title, "shape", shape));
    }
    if (r->n_stages)
        json_object_set_new(o, "stages", stages);
    else
        json_decref(stages);
    json_t *nodes = json_array();
    for (int k = 0; opt.plan && k < lgv_plan_nodes(r->net.plan); k++) {
        lgv_node_info node;
        lgv_plan_node_at(r->net.plan, k, &node);
        if (node.kernel[0])
            json_array_append_new(nodes,
                                  json_pack("{s:s, s:s, s:s, s:f}", "name", node.name, "operator",
                                            node.op, "kernel", node.kernel, "flops", node.flops));
    }
    if (opt.plan)
        json_object_set_new(o, "plan", nodes);
    else
        json_decref(nodes);
    cli_print_json(o);
}

static lgv_status show_model(const lgv_model *model, lgv_mixed_precision precision, lgv_error *err)
{
    report r = {.info = lgv_model_describe(model), .batch = opt.batch, .precision = precision};
    int size = opt.resolution ? opt.resolution : 0;
    r.h = size ? size : r.info->height ? r.info->height : 32;
    r.w = size ? size : r.info->width ? r.info->width : 32;
    lgv_device *device = NULL;
    lgv_status status = cli_open_device(&opt.dev, &device, err);
    if (!status) status = collect(model, device, &r, err);
    if (!status && opt.json)
        print_json(&r, device);
    else if (!status)
        print_text(&r, device);
    lgv_model_stages_free(r.stages);
    cli_network_free(&r.net);
    lgv_device_free(device);
    return status;
}

static int run(const cli_command *self, int argc, const char **argv)
{
    const char *what = NULL;
    int n, code = cli_parse(self, table, argc, argv, 1, &what, &n, NULL, NULL);
    if (code >= 0) return code;
    if (!what)
        return cli_error(self, CLI_USAGE,
                         "about what? give a model folder, a config.json, a preset, a file of "
                         "tensors or a folder of pictures");
    if (!opt.batch) opt.batch = 1;
    if (opt.batch < 1 || opt.resolution < 0 || opt.channels < 0)
        return cli_error(self, CLI_USAGE, "sizes must be at least 1");
    lgv_mixed_precision precision = LGV_MIXED_NO;
    if ((code = cli_read_precision(self, opt.precision, &precision)) >= 0) return code;
    lgv_error err = {0};
    lgv_status status;
    bool range = strchr(what, '{') && strstr(what, ".."); /* {000..012} */
    if (tensors_is(what)) {
        status = tensors_info(what, opt.json, &err);
    } else if (range || (!access(what, R_OK) && !cli_is_model(what))) {
        status = data_info(what,
                           &(data_info_options){.resolution = opt.resolution,
                                                .channels = opt.channels,
                                                .headers_only = opt.headers_only,
                                                .json = opt.json,
                                                .threads = opt.dev.threads,
                                                .contact_sheet = opt.contact_sheet},
                           &err);
    } else {
        lgv_model *model = NULL;
        status = lgv_model_open(what, &(lgv_model_options){.channels = opt.channels}, &model, &err);
        if (!status) status = show_model(model, precision, &err);
        lgv_model_free(model);
    }
    return status ? cli_fail(self, &err) : CLI_OK;
}

const cli_command cli_info = {
    .name = "info",
    .summary = "describe a network or a file of tensors, or look at every picture of a data set",
    .usage = "info MODEL|FILE|DATA",
    .examples = "  langevin info unet-64 --batch-size 16\n"
                "  langevin info model --trace\n"
                "  langevin info config.json --plan --device cpu:avx2\n"
                "  langevin info model.pt\n"
                "  langevin info pictures --contact-sheet sheet.png\n"
                "  langevin info 'shards/{000..012}.tar' --headers-only --json\n",
    .run = run,
};
