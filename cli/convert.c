/* convert.c - langevin convert: weights from one format into another. */
#include <jansson.h>
#include <unistd.h>

#include "cli.h"
#include "langevin/convert.h"

static struct {
    char *model, *weights, *dtype;
    int json;
} opt;

static struct poptOption table[] = {
    {"model", 0, POPT_ARG_STRING, &opt.model, 0,
     "the network that IN's weights are of: a preset, a config.json or a model folder", "MODEL"},
    {"weights", 0, POPT_ARG_STRING, &opt.weights, 0,
     "averaged or trained weights (default: averaged when there are any)", "ema|raw"},
    {"dtype", 0, POPT_ARG_STRING, &opt.dtype, 0,
     "element type of what is written (default: as it is)", "f32|f16|bf16"},
    {"json", 0, POPT_ARG_NONE, &opt.json, 0, "print JSON", NULL},
    POPT_TABLEEND,
};

static void print_report(const char *output, const lgv_convert_report *r)
{
    char elements[32], bytes[32];
    if (opt.json) {
        cli_print_json(json_pack("{s:o, s:i, s:I, s:I, s:o}", "output", cli_json_text(output),
                                 "tensors", r->tensors, "elements", (json_int_t)r->elements,
                                 "bytes", (json_int_t)r->bytes, "from", cli_json_text(r->from)));
        return;
    }
    printf("%s: %d tensors, %s numbers, %s", output, r->tensors,
           cli_count((double)r->elements, elements), cli_bytes((double)r->bytes, bytes));
    printf(r->from[0] ? ", from '%s'\n" : "\n", r->from);
}

static int run(const cli_command *self, int argc, const char **argv)
{
    const char *path[2] = {NULL, NULL};
    int n, code = cli_parse(self, table, argc, argv, 2, path, &n, NULL, NULL);
    if (code >= 0) return code;
    if (n < 2)
        return cli_error(self, CLI_USAGE,
                         "what into what? give an input and an output, such as "
                         "model.pt model.safetensors");
    lgv_convert_options o = {.model = opt.model, .dtype = opt.dtype};
    if ((code = cli_read_weights(self, opt.weights, &o.weights)) >= 0) return code;
    if (access(path[0], R_OK))
        return cli_error(self, CLI_FAILED, "'%s' is not there or cannot be read", path[0]);
    lgv_convert_report report;
    lgv_error err = {0};
    if (lgv_convert(path[0], path[1], &o, &report, &err)) return cli_fail(self, &err);
    print_report(path[1], &report);
    return CLI_OK;
}

const cli_command cli_convert = {
    .name = "convert",
    .summary = "weights from one format into another",
    .usage = "convert IN OUT",
    .examples = "  langevin convert model.ckpt model.safetensors\n"
                "  langevin convert unet model.pt --dtype f16\n"
                "  langevin convert model.pt folder --model config.json --weights raw\n"
                "  langevin convert DiT-XL-2-256x256.pt folder --model dit-xl-2\n",
    .run = run,
};
