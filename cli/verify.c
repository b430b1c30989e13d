/* verify.c - langevin verify: does this program compute what the reference file says, on this machine?
   Two plans: the network as it is shipped (output, gradients), and one in which every module's value is kept. */
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"
#include "langevin/model.h"
#include "langevin/ops.h"
#include "langevin/safetensors.h"

static struct {
    cli_device_options dev;
    char *reference, *weights, *precision;
    double tolerance;
    int json;
} opt;

static struct poptOption table[] = {
    {"reference", 0, POPT_ARG_STRING, &opt.reference, 0,
     "what tools/golden/dump_reference.py wrote", "F.safetensors"},
    {"tolerance", 0, POPT_ARG_DOUBLE, &opt.tolerance, 0,
     "largest error relative to the largest value (default: 1e-4; bf16: 0.1)", "F"},
    {"weights", 0, POPT_ARG_STRING, &opt.weights, 0, "where the model has both (default: ema)",
     "ema|raw"},
    {"json", 0, POPT_ARG_NONE, &opt.json, 0, "print JSON", NULL},
    CLI_PRECISION_OPTION(opt.precision),
    CLI_DEVICE_OPTIONS(opt.dev),
    POPT_TABLEEND,
};

typedef struct session {
    const lgv_model *model;
    lgv_safetensors *ref;
    lgv_device *device;
    lgv_model_weights weights;
    lgv_mixed_precision precision;
    lgv_store *store;
    int64_t n, c, h, w;
    json_t *report; /* with --json */
    int checked, failed;
} session;

/* --- Comparing ---------------------------------------------------------------------------------------- */
static void shape_text(const lgv_tensor_info *t, char text[128])
{
    int used = snprintf(text, 128, "(");
    for (int i = 0; i < t->rank; i++)
        used +=
            snprintf(text + used, 128 - (size_t)used, i ? ", %lld" : "%lld", (long long)t->dim[i]);
    snprintf(text + used, 128 - (size_t)used, ")");
}

static void record(session *s, const lgv_tensor_info *t, const char *plan, double error,
                   double ratio, const char *problem)
{
    bool passed = !problem && ratio <= opt.tolerance;
    char shape[128];
    shape_text(t, shape);
    s->checked++;
    s->failed += !passed;
    if (s->report) {
        json_t *o = json_pack("{s:s, s:s, s:s, s:b}", "name", t->name, "shape", shape, "plan", plan,
                              "passed", passed);
        /* JSON knows no NaN. */
        if (isfinite(error)) json_object_set_new(o, "max_error", json_real(error));
        if (isfinite(ratio)) json_object_set_new(o, "ratio", json_real(ratio));
        if (problem) json_object_set_new(o, "problem", json_string(problem));
        json_array_append_new(s->report, o);
    } else if (problem) {
        printf("FAIL  %-52s %-20s %s\n", t->name, shape, problem);
    } else {
        printf("%s  %-52s %-20s %.2e  %.2e\n", passed ? "ok  " : "FAIL", t->name, shape, error,
               ratio);
    }
}

/* Passes when max|a-b| <= tolerance * max(max|b|, floor). got has the reference's layout and t->count elements. */
static lgv_status compare(session *s, const lgv_tensor_info *t, const float *got,
                          double floor_value, const char *plan, lgv_error *err)
{
    float *want = malloc((size_t)t->count * sizeof *want + 1);
    if (!want) return LGV_ERR_MEMORY;
    lgv_status status = lgv_tensor_to_f32(t, want, err);
    double worst = 0, largest = floor_value;
    for (int64_t i = 0; i < t->count && !status; i++) {
        double d = fabs((double)got[i] - want[i]);
        if (!(d <= worst)) worst = isnan(d) ? INFINITY : d;
        if (fabs((double)want[i]) > largest) largest = fabs((double)want[i]);
    }
    free(want);
    if (!status) record(s, t, plan, worst, worst == 0 ? 0 : worst / largest, NULL);
    return status;
}

/* --- The reference's inputs ---------------------------------------------------------------------------- */
static lgv_status load(const lgv_tensor_info *t, float **out, lgv_error *err)
{
    float *data = malloc((size_t)t->count * sizeof *data + 1);
    if (!data) return LGV_ERR_MEMORY;
    lgv_status status = LGV_OK;
    if (t->dtype == LGV_I64 || t->dtype == LGV_I32) {
        for (int64_t i = 0; i < t->count; i++) {
            int64_t wide = 0;
            int32_t narrow = 0;
            if (t->dtype == LGV_I64)
                memcpy(&wide, (const char *)t->data + 8 * i, 8);
            else
                memcpy(&narrow, (const char *)t->data + 4 * i, 4);
            data[i] = (float)(t->dtype == LGV_I64 ? wide : narrow);
        }
    } else {
        status = lgv_tensor_to_f32(t, data, err);
    }
    if (status)
        free(data);
    else
        *out = data;
    return status;
}

static lgv_status complain(lgv_error *err, lgv_status status, const char *text)
{
    snprintf(err->text, sizeof err->text, "%s: %s", opt.reference, text);
    return err->status = status;
}

static lgv_status read_shapes(session *s, lgv_error *err)
{
    const lgv_tensor_info *x = lgv_safetensors_find(s->ref, "input.sample");
    const lgv_tensor_info *t = lgv_safetensors_find(s->ref, "input.timestep");
    const lgv_model_info *info = lgv_model_describe(s->model);
    if (!x || !t || !lgv_safetensors_find(s->ref, "output"))
        return complain(err, LGV_ERR_FORMAT,
                        "a reference needs input.sample, input.timestep and output");
    if (x->rank != 4 || x->count < 1)
        return complain(err, LGV_ERR_SHAPE, "input.sample must be (N,C,H,W)");
    s->n = x->dim[0];
    s->c = x->dim[1];
    s->h = x->dim[2];
    s->w = x->dim[3];
    if (s->c != info->in_channels)
        return complain(err, LGV_ERR_SHAPE,
                        "input.sample has another number of channels than the network");
    if (t->count != s->n && t->count != 1)
        return complain(err, LGV_ERR_SHAPE,
                        "input.timestep must have one value per row of the batch");
    return lgv_model_check_size(s->model, s->h, s->w, err);
}

static lgv_status write_inputs(session *s, lgv_plan *plan, lgv_error *err)
{
    float *x = NULL, *t = NULL, *labels = NULL, *target = NULL;
    const lgv_tensor_info *info = lgv_safetensors_find(s->ref, "input.timestep");
    const lgv_tensor_info *classes = lgv_safetensors_find(s->ref, "input.class_labels");
    const lgv_tensor_info *goal = lgv_safetensors_find(s->ref, "input.target");
    bool vectors = lgv_model_describe(s->model)->class_kind == LGV_CLASS_IDENTITY;
    lgv_status status = load(lgv_safetensors_find(s->ref, "input.sample"), &x, err);
    if (!status) status = lgv_plan_write_nchw(plan, "sample", x, s->n * s->c * s->h * s->w, err);
    if (!status) status = load(info, &t, err);
    if (!status && classes) status = load(classes, &labels, err);
    if (!status && classes && !vectors && classes->count != s->n)
        status = complain(err, LGV_ERR_SHAPE,
                          "input.class_labels must have one label per row of the batch");
    if (!status && vectors && classes)
        status = lgv_plan_write(plan, "class_vector", labels, classes->count, err);
    if (!status && goal) {
        status = load(goal, &target, err);
        lgv_error missing;
        if (!status &&
            lgv_plan_write_nchw(plan, "target", target, goal->count, &missing) == LGV_ERR_SHAPE)
            *err = missing, status = missing.status;
    }
    lgv_step *step = lgv_plan_step(plan);
    for (int32_t i = 0; i < step->rows && i < s->n && !status; i++) {
        lgv_row *r = &step->row[i];
        r->t = t[info->count == 1 ? 0 : i];
        r->index = (int32_t)r->t;
        r->label = labels && !vectors ? (int32_t)labels[i] : 0;
        r->weight = 1.0f / (float)s->n;
    }
    free(x);
    free(t);
    free(labels);
    free(target);
    return status;
}

/* --- The two plans -------------------------------------------------------------------------------------- */
static lgv_status network(session *s, lgv_graph *g, lgv_id *out, lgv_error *err)
{
    lgv_model_inputs in;
    lgv_model_inputs_none(&in);
    lgv_model_inputs_from_step(s->model, g, s->n, &in);
    in.sample = lgv_input(g, "sample", LGV_F32, 4, (int64_t[]){s->n, s->h, s->w, s->c});
    return lgv_model_build(s->model, g, &in, out, err);
}

static lgv_status add_gradients(session *s, lgv_graph *g, lgv_id out, lgv_error *err)
{
    int64_t dim[4];
    int rank = lgv_shape(g, out, dim);
    lgv_id target = lgv_input(g, "target", LGV_F32, rank, dim);
    lgv_id loss =
        lgv_weighted_sum(g, lgv_mse_rows(g, out, target), lgv_step_row(g, s->n, LGV_FIELD_WEIGHT));
    lgv_status status = lgv_store_add_set(s->store, "grad", err);
    return status ? status : lgv_graph_grad_params(g, loss, "grad", err);
}

static lgv_status plan_network(session *s, bool instrument, bool gradients, lgv_plan **out,
                               lgv_error *err)
{
    lgv_graph *g = lgv_graph_new();
    lgv_id y = LGV_NONE;
    if (!g) return LGV_ERR_MEMORY;
    lgv_status status = network(s, g, &y, err);
    if (!status && !s->store) {
        status = lgv_store_new(s->device, &s->store, err);
        if (!status) status = lgv_store_declare(s->store, g, err);
        if (!status) status = lgv_store_add_set(s->store, "weight", err);
        if (!status) status = lgv_model_load_weights(s->model, s->store, "weight", s->weights, err);
    }
    if (!status) lgv_graph_output(g, y, "output");
    if (!status && gradients) status = add_gradients(s, g, y, err);
    if (!status) status = lgv_graph_status(g, err);
    lgv_program program = {"network", g};
    if (!status)
        status = lgv_plan_new(
            s->store, 1, &program,
            &(lgv_plan_options){.instrument = instrument, .mixed_precision = s->precision}, out,
            err);
    lgv_graph_free(g);
    return status;
}

/* The plan's value `name` in the layout of the reference t. */
static lgv_status compare_output(session *s, lgv_plan *plan, const lgv_tensor_info *t,
                                 const char *name, const char *which, lgv_error *err)
{
    int rank = 0;
    int64_t dim[LGV_MAX_RANK] = {0};
    const char *found = NULL;
    for (int i = 0; i < lgv_plan_outputs(plan); i++) {
        const char *candidate = lgv_plan_output_at(plan, i, &rank, dim);
        if (!strcmp(candidate, name) && (found = candidate)) break;
    }
    if (!found) {
        record(s, t, which, NAN, NAN, "the network has no such module");
        return LGV_OK;
    }
    int64_t count = 1;
    for (int i = 0; i < rank; i++) count *= dim[i];
    if (count != t->count) {
        record(s, t, which, NAN, NAN, "the value here has another size");
        return LGV_OK;
    }
    float *got = malloc((size_t)count * sizeof *got + 1);
    if (!got) return LGV_ERR_MEMORY;
    /* Pictures are (N,C,H,W); tokens (N,L,C), which is our own order; but the norm of an attention sees (N,C,L). */
    size_t n = strlen(name);
    bool channels_first =
        t->rank == 4 || (t->rank == 3 && n >= 10 && !strcmp(name + n - 10, "group_norm"));
    lgv_status status = channels_first ? lgv_plan_read_nchw(plan, name, got, count, err)
                                       : lgv_plan_read(plan, name, got, count, err);
    if (!status) status = compare(s, t, got, 0, which, err);
    free(got);
    return status;
}

/* A parameter of the reference: a whole one here, or rows of one. */
typedef struct part {
    int buffer; /* in the store, -1: there is none */
    int64_t first, count, total;
    int copies; /* tensors of a file that this one stands for */
} part;

static part find_part(const session *s, const lgv_tensor_info *t)
{
    const char *name = t->name + 5;
    part p = {lgv_store_find(s->store, name), 0, t->count, t->count, 1};
    int param, rank;
    int64_t row, rows, dim[LGV_MAX_RANK];
    if (!lgv_model_file_tensor(s->model, name, &param, &row, &rows, &p.copies)) return p;
    p.buffer = lgv_store_find(s->store, lgv_model_parameter(s->model, param, &rank, dim, NULL));
    p.total = dim[0] * dim[1] * dim[2] * dim[3];
    p.first = row * (p.total / dim[0]);
    p.count = rows * (p.total / dim[0]);
    return p;
}

static lgv_status compare_gradient(session *s, const lgv_tensor_info *t, double largest,
                                   lgv_error *err)
{
    const part p = find_part(s, t);
    if (p.buffer < 0) {
        record(s, t, "as shipped", NAN, NAN, "the network has no such parameter");
        return LGV_OK;
    }
    if (p.copies > 1) {
        record(s, t, "as shipped", NAN, NAN,
               "the blocks share it here; compare without shared_embedding in config.json");
        return LGV_OK;
    }
    if (p.count != t->count) {
        record(s, t, "as shipped", NAN, NAN, "the parameter here has another size");
        return LGV_OK;
    }
    float *data = malloc((size_t)p.total * sizeof *data + 1);
    if (!data) return LGV_ERR_MEMORY;
    lgv_status status = lgv_store_read(s->store, "grad", p.buffer, data, p.total, err);
    if (!status) status = compare(s, t, data + p.first, 0.01 * largest, "as shipped", err);
    free(data);
    return status;
}

static lgv_status compare_gradients(session *s, lgv_error *err)
{
    double largest = 0;
    for (int pass = 0; pass < 2; pass++)
        for (size_t i = 0; i < lgv_safetensors_count(s->ref); i++) {
            const lgv_tensor_info *t = lgv_safetensors_at(s->ref, i);
            if (strncmp(t->name, "grad.", 5)) continue;
            float *data = NULL;
            lgv_status status = LGV_OK;
            if (pass == 0) {
                if ((status = load(t, &data, err))) return status;
                for (int64_t k = 0; k < t->count; k++)
                    largest = fmax(largest, fabs((double)data[k]));
            } else {
                status = compare_gradient(s, t, largest, err);
            }
            free(data);
            if (status) return status;
        }
    return LGV_OK;
}

static lgv_status verify_shipped(session *s, lgv_error *err)
{
    lgv_plan *plan = NULL;
    bool gradients = lgv_safetensors_find(s->ref, "input.target") != NULL;
    lgv_status status = plan_network(s, false, gradients, &plan, err);
    if (!status) status = write_inputs(s, plan, err);
    if (!status) status = lgv_plan_run(plan, NULL, err);
    if (!status && !opt.json) printf("As shipped (fused, memory shared):\n");
    if (!status)
        status = compare_output(s, plan, lgv_safetensors_find(s->ref, "output"), "output",
                                "as shipped", err);
    if (!status && gradients) status = compare_gradients(s, err);
    lgv_plan_free(plan);
    return status;
}

static lgv_status verify_modules(session *s, lgv_error *err)
{
    lgv_plan *plan = NULL;
    bool any = false;
    lgv_status status = LGV_OK;
    for (size_t i = 0; i < lgv_safetensors_count(s->ref) && !status; i++) {
        const lgv_tensor_info *t = lgv_safetensors_at(s->ref, i);
        if (strncmp(t->name, "module.", 7)) continue;
        if (!any) {
            any = true;
            status = plan_network(s, true, false, &plan, err);
            if (!status) status = write_inputs(s, plan, err);
            if (!status) status = lgv_plan_run(plan, NULL, err);
            if (!status && !opt.json) printf("\nInstrumented (every module's value kept):\n");
        }
        if (!status) status = compare_output(s, plan, t, t->name + 7, "instrumented", err);
    }
    lgv_plan_free(plan);
    return status;
}

static lgv_status verify(session *s, lgv_error *err)
{
    lgv_status status = lgv_safetensors_open(opt.reference, &s->ref, err);
    if (!status) status = read_shapes(s, err);
    if (!status) status = cli_open_device(&opt.dev, &s->device, err);
    if (!status && !opt.json)
        printf("%s against %s, %s, %s, tolerance %.1e\n%-4s  %-52s %-20s %-8s  %s\n\n",
               lgv_model_describe(s->model)->source, opt.reference, lgv_device_name(s->device),
               cli_precision(s->precision), opt.tolerance, "", "tensor", "shape", "max|a-b|",
               "ratio");
    if (!status) status = verify_shipped(s, err);
    if (!status) status = verify_modules(s, err);
    return status;
}

static int run(const cli_command *self, int argc, const char **argv)
{
    const char *what = NULL;
    int n, code = cli_parse(self, table, argc, argv, 1, &what, &n, NULL, NULL);
    if (code >= 0) return code;
    if (!what || !opt.reference)
        return cli_error(self, CLI_USAGE,
                         "needs a model and --reference FILE; see 'langevin verify --help'");
    lgv_mixed_precision precision = LGV_MIXED_NO;
    if ((code = cli_read_precision(self, opt.precision, &precision)) >= 0) return code;
    if (opt.tolerance == 0) opt.tolerance = precision == LGV_MIXED_BF16 ? 0.1 : 1e-4;
    if (!(opt.tolerance > 0)) return cli_error(self, CLI_USAGE, "--tolerance must be positive");
    lgv_model_weights weights;
    if ((code = cli_read_weights(self, opt.weights, &weights)) >= 0) return code;
    lgv_error err = {.text = "out of memory"};
    session s = {
        .report = opt.json ? json_array() : NULL, .weights = weights, .precision = precision};
    lgv_model *model = NULL;
    lgv_status status = lgv_model_open(what, NULL, &model, &err);
    s.model = model;
    if (!status) status = verify(&s, &err);
    if (!status && opt.json) {
        json_t *o = json_pack(
            "{s:o, s:o, s:s, s:s, s:f, s:b, s:i, s:i, s:O}", "model", cli_json_text(what),
            "reference", cli_json_text(opt.reference), "device", lgv_device_name(s.device),
            "mixed_precision", lgv_mixed_precision_name(s.precision), "tolerance", opt.tolerance,
            "passed", s.failed == 0, "checked", s.checked, "failed", s.failed, "tensors", s.report);
        cli_print_json(o);
    } else if (!status) {
        printf("\n%d tensors, %d failed\n", s.checked, s.failed);
    }
    json_decref(s.report);
    lgv_store_free(s.store);
    lgv_device_free(s.device);
    lgv_safetensors_close(s.ref);
    lgv_model_free(model);
    if (status) return cli_fail(self, &err);
    return s.failed ? CLI_FAILED : CLI_OK;
}

const cli_command cli_verify = {
    .name = "verify",
    .summary = "compare outputs, modules and gradients with a reference file",
    .usage = "verify MODEL --reference F.safetensors",
    .examples =
        "  python tools/golden/dump_reference.py model ref.safetensors --modules --gradients\n"
        "  langevin verify model --reference ref.safetensors\n"
        "  langevin verify model --reference ref.safetensors --tolerance 1e-5 --json\n",
    .run = run,
};
