/* bpd.c - the variational bound of pictures, term by term. A row of the batch is one picture at one
   timestep, and rows are independent, so any batch size gives the same bits. */
#include <math.h>
#include <string.h>

#include "core/core.h"
#include "diffusion/pipeline_internal.h"
#include "langevin/bpd.h"
#include "langevin/ops.h"
#include "langevin/rng.h"

typedef struct job {
    lgv_pipeline *p;
    const lgv_bpd_options *o;
    const uint8_t *pixels;
    int64_t n, steps, batch, C, H, W, each; /* each: C*H*W */
    lgv_variance variance;
    lgv_schedule *schedule;
    lgv_plan *plan;
    float *x0, *noise;        /* [batch][each]; noise only when it is given */
    float *bits, *mse;        /* [batch] */
    lgv_bpd *out;
} job;

/* ---- the plan ---- */

static lgv_id coef(lgv_graph *g, int64_t rows, int k)
{
    return lgv_step_row(g, rows, LGV_FIELD_COEF + k);
}

static lgv_status build(const job *j, lgv_graph *g, lgv_error *err)
{
    const int64_t N = j->batch, dim[4] = {N, j->H, j->W, j->C};
    lgv_id x0 = lgv_input(g, "x0", LGV_F32, 4, dim), answer;
    lgv_id noise = j->o->noise ? lgv_input(g, "noise", LGV_F32, 4, dim)
                               : lgv_random_normal(g, 4, dim, lgv_rng_stream("bpd.noise"));
    lgv_model_inputs in;
    lgv_model_inputs_none(&in);
    lgv_model_inputs_from_step(j->p->model, g, N, &in);
    in.sample = lgv_row_axpby(g, x0, noise, coef(g, N, LGV_TRAIN_X0), coef(g, N, LGV_TRAIN_NOISE));
    LGV_TRY(lgv_model_build(j->p->model, g, &in, &answer, err));
    lgv_id target = lgv_row_axpby(g, x0, noise, coef(g, N, LGV_TRAIN_TARGET_X0),
                                  coef(g, N, LGV_TRAIN_TARGET_NOISE));
    bool variance = lgv_model_describe(j->p->model)->learned_variance;
    lgv_id mean = variance ? lgv_slice(g, answer, 0, j->C) : answer;
    lgv_graph_output(g, lgv_vb_rows(g, answer, in.sample, x0, 0), "bits");
    lgv_graph_output(g, lgv_mse_rows(g, mean, target), "mse");
    return lgv_graph_status(g, err);
}

static lgv_status make_plan(job *j, lgv_error *err)
{
    lgv_graph *g = lgv_graph_new();
    if (!g) return lgv_fail(err, LGV_ERR_MEMORY, "out of memory for the graph of a bound");
    lgv_program program = {"bpd", g};
    lgv_plan_options options = {.weights = j->p->set, .mixed_precision = j->o->mixed_precision};
    lgv_status status = build(j, g, err);
    if (!status) status = lgv_plan_new(j->p->store, 1, &program, &options, &j->plan, err);
    lgv_graph_free(g);
    return status;
}

/* ---- rows ---- */

/* Row r of all: step r / n of the chain, picture r % n. */
static void fill_row(const job *j, int64_t r, lgv_row *row)
{
    const int64_t *chain = j->out->t, i = r / j->n, k = r % j->n, t = chain[i];
    *row = (lgv_row){.seed = j->o->seed,
                     .sample = (uint64_t)k,
                     .step = (uint64_t)t,
                     .t = (float)t,
                     .index = (int32_t)t,
                     .label = j->o->labels ? j->o->labels[k] : 0,
                     .partner = -1};
    lgv_schedule_noise_coef(j->schedule, t, &row->coef[LGV_TRAIN_X0], &row->coef[LGV_TRAIN_NOISE]);
    lgv_schedule_target_coef(j->schedule, t, &row->coef[LGV_TRAIN_TARGET_X0],
                             &row->coef[LGV_TRAIN_TARGET_NOISE]);
    lgv_schedule_bound_coef(j->schedule, t, i ? chain[i - 1] : -1,
                            chain[lgv_min_i64(i + 1, j->steps - 1)], j->variance,
                            j->o->unclipped ? INFINITY : 1, row);
}

/* Rows beyond count do the first row's work and are thrown away. */
static lgv_status run_rows(job *j, int64_t first, int64_t count, lgv_error *err)
{
    lgv_step *step = lgv_plan_step(j->plan);
    for (int64_t b = 0; b < j->batch; b++) {
        int64_t r = first + (b < count ? b : 0);
        fill_row(j, r, &step->row[b]);
        lgv_pixels_to_f32(j->each, j->pixels + r % j->n * j->each, j->x0 + b * j->each);
        if (j->o->noise)
            memcpy(j->noise + b * j->each, j->o->noise + r * j->each,
                   (size_t)j->each * sizeof(float));
    }
    LGV_TRY(lgv_plan_write(j->plan, "x0", j->x0, j->batch * j->each, err));
    if (j->o->noise)
        LGV_TRY(lgv_plan_write_nchw(j->plan, "noise", j->noise, j->batch * j->each, err));
    LGV_TRY(lgv_plan_run(j->plan, NULL, err));
    LGV_TRY(lgv_plan_read(j->plan, "bits", j->bits, j->batch, err));
    LGV_TRY(lgv_plan_read(j->plan, "mse", j->mse, j->batch, err));
    for (int64_t b = 0; b < count; b++) {
        int64_t i = (first + b) / j->n;
        j->out->term[i] += (double)j->bits[b] / (double)j->n;
        j->out->mse[i] += (double)j->mse[b] / (double)j->n;
        j->out->picture[(first + b) % j->n] += (double)j->bits[b];
    }
    return LGV_OK;
}

static lgv_status run_all(job *j, lgv_error *err)
{
    const int64_t total = j->n * j->steps;
    for (int64_t first = 0; first < total; first += j->batch) {
        int64_t count = lgv_min_i64(j->batch, total - first);
        LGV_TRY(run_rows(j, first, count, err));
        if (j->o->callback && j->o->callback(j->o->user, first + count, total))
            return lgv_fail(err, LGV_ERR_CANCELLED,
                            "the bound was stopped after %lld of %lld rows",
                            (long long)(first + count), (long long)total);
    }
    return LGV_OK;
}

static void add_prior(job *j)
{
    lgv_bpd *b = j->out;
    for (int64_t k = 0; k < j->n; k++) {
        lgv_pixels_to_f32(j->each, j->pixels + k * j->each, j->x0);
        double bits = lgv_schedule_prior_bits(j->schedule, j->each, j->x0);
        b->picture[k] += bits;
        b->prior += bits / (double)j->n;
    }
    b->total = b->prior;
    for (int64_t i = 0; i < j->steps; i++) b->total += b->term[i];
}

/* ---- checks ---- */

static lgv_status check_labels(const job *j, lgv_error *err)
{
    const lgv_model_info *info = lgv_model_describe(j->p->model);
    const int32_t *label = j->o->labels;
    if ((info->class_kind != LGV_CLASS_NONE) != (label != NULL))
        return lgv_fail(err, LGV_ERR_ARGUMENT,
                        label ? "the model is unconditional and takes no class labels"
                              : "the model is class-conditional: the bound needs the class of each "
                                "picture (folders of classes, or labels beside the pictures)");
    for (int64_t k = 0; label && k < j->n; k++) {
        if (label[k] < 0)
            return lgv_fail(err, LGV_ERR_ARGUMENT,
                            "picture %lld has no class, and the model is class-conditional",
                            (long long)k);
        if (info->class_kind == LGV_CLASS_TABLE && label[k] >= info->class_count)
            return lgv_fail(err, LGV_ERR_ARGUMENT,
                            "class label %d of picture %lld lies outside 0 .. %d", (int)label[k],
                            (long long)k, info->class_count - 1);
    }
    return LGV_OK;
}

static lgv_status check(job *j, lgv_error *err)
{
    const lgv_model_info *info = lgv_model_describe(j->p->model);
    const int64_t T = j->schedule->T;
    j->C = info->picture_channels;
    j->variance = j->p->cfg.variance_type;
    bool learned = info->learned_variance;
    if (learned) j->variance = LGV_VARIANCE_LEARNED_RANGE;
    if (!learned && j->variance >= LGV_VARIANCE_LEARNED) j->variance = LGV_VARIANCE_FIXED_SMALL;
    if (info->condition)
        return lgv_fail(err, LGV_ERR_UNSUPPORTED,
                        "the bound of networks with an image condition (%s) is not offered",
                        lgv_condition_name(info->condition));
    if (!(j->schedule->abar[T - 1] > 0))
        return lgv_fail(err, LGV_ERR_ARGUMENT,
                        "the schedule ends without any signal (rescale_betas_zero_snr): such a "
                        "model has no finite bound");
    LGV_TRY(lgv_model_check_size(j->p->model, j->H, j->W, err));
    LGV_TRY(check_labels(j, err));
    j->steps = j->o->timesteps ? j->o->timestep_count : T;
    for (int64_t i = 0; j->o->timesteps && i < j->steps; i++) {
        int64_t t = j->o->timesteps[i];
        if (t < 0 || t >= T || (i && t <= j->o->timesteps[i - 1]))
            return lgv_fail(err, LGV_ERR_ARGUMENT,
                            "the bound's timesteps must ascend within 0 .. %lld", (long long)T - 1);
    }
    int64_t all;
    if (j->n < 1 || j->steps < 1 || j->batch < 1 || j->batch > 65536 ||
        !lgv_mul_i64(j->H, j->W, &j->each) || !lgv_mul_i64(j->each, j->C, &j->each) ||
        !lgv_mul_i64(j->each, j->n, &all) || !lgv_mul_i64(all, j->steps, &all))
        return lgv_fail(err, LGV_ERR_SHAPE, "%lld pictures of %lldx%lld at %lld timesteps have no bound",
                        (long long)j->n, (long long)j->W, (long long)j->H, (long long)j->steps);
    return LGV_OK;
}

static lgv_status allocate(job *j, lgv_error *err)
{
    size_t rows = (size_t)j->batch, each = (size_t)j->each, steps = (size_t)j->steps;
    lgv_bpd *b = j->out = lgv_zalloc(1, sizeof *b);
    j->x0 = lgv_alloc(rows * each, sizeof(float));
    j->noise = lgv_alloc(j->o->noise ? rows * each : 1, sizeof(float));
    j->bits = lgv_alloc(rows, sizeof(float));
    j->mse = lgv_alloc(rows, sizeof(float));
    bool ok = b && j->x0 && j->noise && j->bits && j->mse &&
              (b->t = lgv_alloc(steps, sizeof *b->t)) &&
              (b->term = lgv_zalloc(steps, sizeof *b->term)) &&
              (b->mse = lgv_zalloc(steps, sizeof *b->mse)) &&
              (b->picture = lgv_zalloc((size_t)j->n, sizeof *b->picture));
    if (!ok)
        return lgv_fail(err, LGV_ERR_MEMORY, "out of memory for the bound of %lld pictures",
                        (long long)j->n);
    b->n = j->n;
    b->steps = j->steps;
    for (int64_t i = 0; i < j->steps; i++) b->t[i] = j->o->timesteps ? j->o->timesteps[i] : i;
    return LGV_OK;
}

static lgv_status run_job(job *j, lgv_error *err)
{
    LGV_TRY(lgv_schedule_new(&j->p->cfg, &j->schedule, err));
    if (j->schedule->family != LGV_FAMILY_BETAS)
        return lgv_fail(err, LGV_ERR_UNSUPPORTED,
                        "the variational bound is of networks trained with betas; this one's "
                        "scheduler is %s",
                        j->p->cfg.class_name);
    LGV_TRY(check(j, err));
    LGV_TRY(make_plan(j, err));
    LGV_TRY(allocate(j, err));
    LGV_TRY(run_all(j, err));
    add_prior(j);
    return LGV_OK;
}

lgv_status lgv_pipeline_bpd(lgv_pipeline *pipeline, int64_t n, int64_t H, int64_t W,
                            const uint8_t *pixels, const lgv_bpd_options *options, lgv_bpd **out,
                            lgv_error *err)
{
    static const lgv_bpd_options none = {0};
    job j = {.p = pipeline, .o = options ? options : &none, .pixels = pixels, .n = n, .H = H, .W = W};
    j.batch = j.o->batch_size ? j.o->batch_size : 16;
    lgv_status status = run_job(&j, err);
    lgv_schedule_free(j.schedule);
    lgv_plan_free(j.plan);
    lgv_free(j.x0);
    lgv_free(j.noise);
    lgv_free(j.bits);
    lgv_free(j.mse);
    if (status)
        lgv_bpd_free(j.out);
    else
        *out = j.out;
    return status;
}

void lgv_bpd_free(lgv_bpd *b)
{
    if (!b) return;
    lgv_free(b->t);
    lgv_free(b->term);
    lgv_free(b->mse);
    lgv_free(b->picture);
    lgv_free(b);
}
