/* eval_bpd.c - langevin eval --bpd: the variational bound of a model on pictures, in bits per dimension. */
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "eval.h"
#include "langevin/bpd.h"
#include "progress.h"

enum { DEFAULT_PICTURES = 100, BANDS = 10 };

typedef struct bpd_job {
    const eval_args *args;
    lgv_device *device;
    lgv_pipeline *pipeline;
    lgv_dataset *data;
    eval_set set;
    int64_t *chain; /* timesteps; NULL: all */
    int64_t steps;
    lgv_bpd *bound;
    double seconds;
} bpd_job;

static int on_row(void *user, int64_t done, int64_t total)
{
    (void)total;
    cli_progress_show(user, done, NULL);
    return cli_signal() != 0;
}

static lgv_status make_chain(bpd_job *j, lgv_error *err)
{
    int64_t T = lgv_pipeline_scheduler(j->pipeline)->num_train_timesteps;
    if (!j->args->respacing) return LGV_OK;
    j->chain = malloc((size_t)T * sizeof *j->chain);
    if (!j->chain) return cli_status(err, LGV_ERR_MEMORY, "out of memory for timesteps");
    return lgv_timesteps_respace(T, j->args->respacing, j->chain, &j->steps, err);
}

static lgv_status open_all(bpd_job *j, lgv_error *err)
{
    const eval_args *a = j->args;
    lgv_status status = cli_open_device(&a->device, &j->device, err);
    if (!status) status = lgv_pipeline_open(j->device, a->what, a->weights, &j->pipeline, err);
    if (!status) status = make_chain(j, err);
    if (status) return status;
    const lgv_model_info *m = lgv_model_describe(lgv_pipeline_model(j->pipeline));
    lgv_dataset_options o = {
        .resolution = m->height, .channels = m->picture_channels, .center_crop = 1};
    j->set.path = a->data;
    status = lgv_dataset_open(a->data, &o, &j->data, err);
    if (status) return status;
    return eval_read_pictures(j->data, a->validation,
                              a->num_images ? a->num_images : DEFAULT_PICTURES, &j->set, err);
}

static lgv_status measure(bpd_job *j, lgv_error *err)
{
    const eval_args *a = j->args;
    const lgv_model_info *m = lgv_model_describe(lgv_pipeline_model(j->pipeline));
    int64_t steps = j->chain ? j->steps
                             : lgv_pipeline_scheduler(j->pipeline)->num_train_timesteps;
    cli_progress bar = {0}; /* --json: it never begins */
    lgv_bpd_options o = {.batch_size = a->batch_size,
                         .timesteps = j->chain,
                         .timestep_count = j->steps,
                         .seed = a->seed,
                         .labels = m->class_kind == LGV_CLASS_NONE ? NULL : j->set.label,
                         .mixed_precision = a->precision,
                         .callback = on_row,
                         .user = &bar};
    if (!a->json)
        cli_progress_begin(&bar, "bound", "pictures/s", 1.0 / (double)steps, 0, j->set.n * steps);
    lgv_status status = lgv_pipeline_bpd(j->pipeline, j->set.n, j->set.side, j->set.side,
                                         j->set.pixels, &o, &j->bound, err);
    cli_progress_clear(&bar);
    return status;
}

/* ---- report ---- */

/* Half the width of the 95 % interval of the mean over pictures. */
static double spread(const lgv_bpd *b)
{
    double sum = 0;
    for (int64_t i = 0; i < b->n; i++)
        sum += (b->picture[i] - b->total) * (b->picture[i] - b->total);
    return b->n > 1 ? 1.96 * sqrt(sum / (double)(b->n - 1) / (double)b->n) : NAN;
}

static void print_text(const bpd_job *j)
{
    const lgv_bpd *b = j->bound;
    char text[32];
    double half = spread(b);
    printf("%lld pictures of %s under %s\n", (long long)b->n, j->set.path, j->args->what);
    printf("  bound              %.4f bits/dim", b->total);
    if (isfinite(half)) printf("   95 %%: %.4f to %.4f", b->total - half, b->total + half);
    printf("\n  prior              %.3g\n  first step         %.4g (the pictures' 256 levels)\n",
           b->prior, b->term[0]);
    for (int64_t k = 0, from = 1; k < BANDS && from < b->steps; k++) {
        int64_t to = 1 + (b->steps - 1) * (k + 1) / BANDS;
        double bits = 0, mse = 0;
        if (to <= from) continue;
        for (int64_t i = from; i < to; i++) {
            bits += b->term[i];
            mse += b->mse[i] / (double)(to - from);
        }
        printf("  t %4lld to %-4lld     %.4g, squared error %.4g\n", (long long)b->t[from],
               (long long)b->t[to - 1], bits, mse);
        from = to;
    }
    printf("  network calls      %lld timesteps of each picture\n  time               %s\n",
           (long long)b->steps, cli_duration(j->seconds, text));
}

static json_t *numbers(const double *v, int64_t n)
{
    json_t *list = json_array();
    for (int64_t i = 0; i < n; i++)
        json_array_append_new(list, isfinite(v[i]) ? json_real(v[i]) : json_null());
    return list;
}

static void print_json(const bpd_job *j)
{
    const lgv_bpd *b = j->bound;
    double half = spread(b);
    json_t *t = json_array();
    for (int64_t i = 0; i < b->steps; i++)
        json_array_append_new(t, json_integer((json_int_t)b->t[i]));
    json_t *o = json_pack("{s:o, s:o, s:I, s:f, s:f, s:o, s:o, s:o, s:s, s:f}", "source",
                          cli_json_text(j->args->what), "data", cli_json_text(j->set.path),
                          "pictures", (json_int_t)b->n, "bits_per_dim", b->total, "prior", b->prior,
                          "timesteps", t, "terms", numbers(b->term, b->steps), "mse",
                          numbers(b->mse, b->steps), "device", lgv_device_name(j->device),
                          "seconds", j->seconds);
    json_object_set_new(o, "half_interval", isfinite(half) ? json_real(half) : json_null());
    cli_print_json(o);
}

int eval_bpd(const cli_command *self, const eval_args *args)
{
    lgv_error err = {0};
    bpd_job j = {.args = args};
    double begin = cli_now();
    cli_catch_signals();
    lgv_status status = open_all(&j, &err);
    if (!status) status = measure(&j, &err);
    j.seconds = cli_now() - begin;
    if (!status && args->json)
        print_json(&j);
    else if (!status)
        print_text(&j);
    lgv_bpd_free(j.bound);
    eval_set_free(&j.set);
    free(j.chain);
    lgv_dataset_free(j.data);
    lgv_pipeline_free(j.pipeline);
    lgv_device_free(j.device);
    if (status == LGV_ERR_CANCELLED && cli_signal()) return 128 + cli_signal();
    return status ? cli_fail(self, &err) : CLI_OK;
}
