/* sample.c - the sampling loop over batches and steps.
   The picture's state stays on the host between steps, in PyTorch's NCHW: it is small beside one
   network call, and every generator, file and callback wants that order. */
#include <math.h>
#include <string.h>

#include "core/core.h"
#include "core/file.h"
#include "diffusion/brownian.h"
#include "diffusion/pipeline_internal.h"
#include "langevin/rng.h"

typedef struct job {
    lgv_pipeline *p;
    const lgv_sample_options *o;
    lgv_sampler *sampler;
    int64_t n, batch, C, H, W;
    int64_t pixels; /* C*H*W */
    int64_t beside; /* numbers of the image condition of a picture; 0: the network sees none */
    int64_t steps, calls_done, calls_total;
    lgv_step_kind kind;
    lgv_guidance guidance;
    lgv_gradient gradient;
    float *x, *z;         /* [rows,C,H,W] of the batch; z only for LGV_NOISE_INPUT */
    float *history;       /* [rows,slots,C,H,W], what the sampler's earlier calls kept */
    float *kept;          /* [rows,C,H,W], for the history; NULL: there is none */
    float *x0;            /* [rows,C,H,W], the prediction of the step; NULL: nobody is told */
    float *condition;     /* [rows,K,H,W] of the batch */
    float *extra;         /* [rows,C,H,W], noise for what is known and for jumps; NULL: neither is */
    bool from_noise;      /* the first x is noise, also with an init_image */
    float *scratch;       /* [H,W,C] */
    double *path;         /* [4,H,W,C] of lgv_brownian_step; NULL: no step takes one */
    lgv_torch_rng *torch; /* [batch] generators, or one for the whole job */
    lgv_samples *out;     /* NULL: discarded */
    double began;         /* when the first network call began; 0: not yet */
} job;

static int64_t at_least(int64_t given, int64_t otherwise)
{
    return given ? given : otherwise;
}

static uint64_t seed_of(const lgv_sample_options *o, int64_t image)
{
    return o->seeds ? o->seeds[image] : o->seed + (uint64_t)image;
}

/* ---- noise ---- */

/* The first x of one picture from our own stream, counted in the [H,W,C] order of lgv_random_normal. scratch: C*HW. */
static void philox_init(uint64_t seed, int64_t C, int64_t HW, float *scratch, float *x)
{
    lgv_rng_key key = {.seed = seed, .stream = lgv_rng_stream("sample.init")};
    lgv_rng_normal(&key, 0, C * HW, scratch);
    lgv_to_planes(C, HW, scratch, x);
}

/* z of a step that walks along each picture's own Brownian path, whatever the generator. */
static void draw_path(const job *j, const lgv_step_coef *k, int64_t first, int64_t count)
{
    for (int64_t i = 0; i < count; i++) {
        lgv_brownian_step(seed_of(j->o, first + i), k->path_from, k->path_to, j->pixels, j->scratch,
                          j->path, j->scratch);
        lgv_to_planes(j->C, j->H * j->W, j->scratch, j->z + i * j->pixels);
    }
}

/* count pictures from PyTorch's generators: one each, or one for all. */
static void torch_draw(const job *j, int64_t count, float *x)
{
    if (j->o->rng == LGV_SAMPLE_TORCH_BATCH) {
        lgv_torch_randn(j->torch, count * j->pixels, x);
        return;
    }
    for (int64_t i = 0; i < count; i++) lgv_torch_randn(&j->torch[i], j->pixels, x + i * j->pixels);
}

static void draw_init(const job *j, int64_t first, int64_t count)
{
    const lgv_sample_options *o = j->o;
    if (o->rng == LGV_SAMPLE_TORCH)
        for (int64_t i = 0; i < count; i++) lgv_torch_seed(&j->torch[i], seed_of(o, first + i));
    if (o->init_noise)
        memcpy(j->x, o->init_noise + first * j->pixels,
               (size_t)(count * j->pixels) * sizeof(float));
    else if (o->rng == LGV_SAMPLE_PHILOX)
        for (int64_t i = 0; i < count; i++)
            philox_init(seed_of(o, first + i), j->C, j->H * j->W, j->scratch, j->x + i * j->pixels);
    else
        torch_draw(j, count, j->x);
    if (o->init_image && !j->from_noise) {
        lgv_known_begin(lgv_sampler_coef(j->sampler, 0), count * j->pixels,
                        o->init_image + first * j->pixels, j->x);
        return;
    }
    float sigma = (float)lgv_sampler_init_sigma(j->sampler);
    for (int64_t i = 0; sigma != 1 && i < count * j->pixels; i++) j->x[i] *= sigma;
}

lgv_status lgv_noise_init(lgv_sample_rng rng, uint64_t seed, int64_t C, int64_t H, int64_t W,
                          float *out, lgv_error *err)
{
    int64_t n;
    if (C < 1 || H < 1 || W < 1 || !lgv_mul_i64(C, H, &n) || !lgv_mul_i64(n, W, &n))
        return lgv_fail(err, LGV_ERR_SHAPE, "noise of %lldx%lldx%lld cannot be drawn", (long long)C,
                        (long long)H, (long long)W);
    float *scratch = lgv_alloc((size_t)n, sizeof *scratch);
    lgv_torch_rng *torch = lgv_zalloc(1, sizeof *torch);
    lgv_status status = LGV_OK;
    if (!scratch || !torch)
        status = lgv_fail(err, LGV_ERR_MEMORY, "out of memory for %lld numbers", (long long)n);
    if (!status && rng == LGV_SAMPLE_PHILOX) {
        philox_init(seed, C, H * W, scratch, out);
    } else if (!status) {
        lgv_torch_seed(torch, seed);
        lgv_torch_randn(torch, n, out);
    }
    lgv_free(scratch);
    lgv_free(torch);
    return status;
}

static bool has_path(const lgv_step_coef *k)
{
    return k->path_from != k->path_to;
}

static bool any_path(const job *j)
{
    for (int64_t i = 0; i < j->steps; i++)
        if (has_path(lgv_sampler_coef(j->sampler, i))) return true;
    return false;
}

/* z of step i, for a plan that takes it as an input. */
static void draw_step(const job *j, int64_t i, int64_t first, int64_t count)
{
    if (j->o->step_noise)
        memcpy(j->z, j->o->step_noise + (i * j->n + first) * j->pixels,
               (size_t)(count * j->pixels) * sizeof(float));
    else if (has_path(lgv_sampler_coef(j->sampler, i)))
        draw_path(j, lgv_sampler_coef(j->sampler, i), first, count);
    else if (lgv_sampler_coef(j->sampler, i)->wants_noise)
        torch_draw(j, count, j->z);
}

/* Noise beside that of the sampler. */
static void draw_extra(const job *j, const char *stream, int64_t i, int64_t first, int64_t count)
{
    if (j->o->rng != LGV_SAMPLE_PHILOX) {
        torch_draw(j, count, j->extra);
        return;
    }
    for (int64_t r = 0; r < count; r++) {
        const lgv_rng_key key = {.seed = seed_of(j->o, first + r),
                                 .stream = lgv_rng_stream(stream),
                                 .step = (uint64_t)i};
        lgv_rng_normal(&key, 0, j->pixels, j->extra + r * j->pixels);
    }
}

/* What the mask leaves out becomes the picture's, and a jump goes back to more noise. */
static void after_step(const job *j, int64_t i, int64_t first, int64_t count)
{
    const lgv_step_coef *k = lgv_sampler_coef(j->sampler, i);
    if (j->o->mask) {
        draw_extra(j, "sample.known", i, first, count);
        lgv_known_keep(k, count * j->C, j->H * j->W, j->o->mask,
                       j->o->init_image + first * j->pixels, j->extra, j->x);
    }
    if (k->jump_x == 0) return;
    draw_extra(j, "sample.jump", i, first, count);
    for (int64_t p = 0; p < count * j->pixels; p++)
        j->x[p] = k->jump_x * j->x[p] + k->jump_z * j->extra[p];
}

/* ---- the loop ---- */

/* Rows beyond count do the first row's work and are thrown away. Rows beyond `rows` are the unconditional halves. */
static void fill_rows(const job *j, lgv_step *step, int64_t rows, int64_t i, int64_t first,
                      int64_t count, bool gradient)
{
    const lgv_step_coef *k = lgv_sampler_coef(j->sampler, i);
    for (int32_t r = 0; r < step->rows; r++) {
        int64_t image = first + (r % rows < count ? r % rows : 0);
        lgv_row *row = &step->row[r];
        memset(row, 0, sizeof *row);
        row->seed = seed_of(j->o, image);
        row->step = (uint64_t)i;
        lgv_guidance_row(&j->guidance, image, step->rows > rows ? (int32_t)(rows + r) : -1, row);
        if (r >= rows) row->label = j->guidance.null_label;
        row->weight = 1;
        lgv_step_coef_row(k, row);
        row->index = (int32_t)k->t;
        if (gradient && r < rows)
            lgv_gradient_row(&j->gradient, k, lgv_guidance_class(&j->guidance, image), row);
    }
}

/* The classifier's gradient for x, which the plan takes as an input. */
static lgv_status write_gradient(const job *j, lgv_plan *plan, int64_t rows, int64_t i,
                                 int64_t first, int64_t count, lgv_error *err)
{
    for (int64_t r = 0; r < rows; r++)
        j->gradient.label[r] =
            lgv_guidance_class(&j->guidance, first + (r < count ? r : 0));
    LGV_TRY(lgv_gradient_at(&j->gradient, lgv_sampler_coef(j->sampler, i)->t, rows, j->x, err));
    return lgv_plan_write_nchw(plan, "gradient", j->gradient.values, rows * j->pixels, err);
}

/* Into a slot of every row's history (1 counts as the first). */
static void remember(job *j, int slot, const float *from)
{
    if (!slot) return;
    for (int64_t r = 0; r < j->batch; r++)
        memcpy(j->history + (r * j->kind.history + slot - 1) * j->pixels, from + r * j->pixels,
               (size_t)j->pixels * sizeof(float));
}

static lgv_status keep(job *j, const lgv_step_coef *k, lgv_plan *plan, int64_t elements,
                       lgv_error *err)
{
    if (k->keep) LGV_TRY(lgv_plan_read_nchw(plan, "kept", j->kept, elements, err));
    remember(j, k->keep, j->kept);
    remember(j, k->keep_sample, j->x);
    return LGV_OK;
}

/* A short last batch runs at the next power of two, so that few shapes are planned. */
static int64_t rows_for(const job *j, int64_t count)
{
    int64_t rows = 1;
    if (count == j->batch) return count;
    while (rows < count) rows *= 2;
    return lgv_min_i64(rows, j->batch);
}

static lgv_status run_step(job *j, int64_t i, int64_t first, int64_t count, lgv_error *err)
{
    lgv_plan *plan;
    lgv_step_kind kind = j->kind;
    int64_t rows = rows_for(j, count), elements = rows * j->pixels;
    kind.guided = lgv_guidance_at(&j->guidance, i, first, count);
    kind.gradient =
        j->gradient.classifier && lgv_guidance_within(&j->guidance, i, first, count);
    LGV_TRY(lgv_pipeline_plan(j->p, rows, j->H, j->W, kind, j->o->mixed_precision, &plan, err));
    fill_rows(j, lgv_plan_step(plan), rows, i, first, count, kind.gradient);
    LGV_TRY(lgv_plan_write_nchw(plan, "x", j->x, elements, err));
    if (j->beside)
        LGV_TRY(lgv_plan_write_nchw(plan, "condition", j->condition,
                                    elements / j->pixels * j->beside, err));
    if (j->kind.history)
        LGV_TRY(lgv_plan_write_nchw(plan, "history", j->history, elements * j->kind.history, err));
    if (j->kind.noise == LGV_NOISE_INPUT) {
        draw_step(j, i, first, count);
        LGV_TRY(lgv_plan_write_nchw(plan, "z", j->z, elements, err));
    }
    if (!j->began) j->began = lgv_now();
    if (kind.gradient) LGV_TRY(write_gradient(j, plan, rows, i, first, count, err));
    LGV_TRY(lgv_plan_run(plan, NULL, err));
    if (j->x0) LGV_TRY(lgv_plan_read_nchw(plan, "x0", j->x0, elements, err));
    LGV_TRY(keep(j, lgv_sampler_coef(j->sampler, i), plan, elements, err));
    return lgv_plan_read_nchw(plan, "x_next", j->x, elements, err);
}

/* Samplers after k-diffusion have an x of image + sigma noise: too wide for the eye. */
static double spread_after(const job *j, int64_t i)
{
    const lgv_step_coef *k = lgv_sampler_coef(j->sampler, i + 1);
    return k ? sqrt((double)k->image * k->image + (double)k->noise * k->noise) : 1;
}

static lgv_status report(job *j, int64_t i, int64_t first, int64_t count, lgv_error *err)
{
    j->calls_done++;
    if (!j->o->callback) return LGV_OK;
    lgv_sample_progress progress = {.done = j->calls_done,
                                    .total = j->calls_total,
                                    .step = i + 1,
                                    .steps = j->steps,
                                    .first_image = first,
                                    .images = count,
                                    .x = j->x,
                                    .x0 = j->x0,
                                    .spread = spread_after(j, i),
                                    .sample = i + 1 == j->steps ? j->x : NULL,
                                    .began = j->began};
    if (!j->o->callback(j->o->user, &progress)) return LGV_OK;
    return lgv_fail(err, LGV_ERR_CANCELLED, "sampling was stopped after %lld of %lld network calls",
                    (long long)j->calls_done, (long long)j->calls_total);
}

static lgv_status run_batch(job *j, int64_t first, int64_t count, lgv_error *err)
{
    size_t bytes = (size_t)(count * j->pixels) * sizeof(float);
    draw_init(j, first, count);
    if (j->beside)
        memcpy(j->condition, j->o->condition + first * j->beside,
               (size_t)(count * j->beside) * sizeof(float));
    for (int64_t i = 0; i < j->steps; i++) {
        LGV_TRY(run_step(j, i, first, count, err));
        after_step(j, i, first, count);
        if (j->out && j->out->trajectory)
            memcpy(j->out->trajectory + (i * j->n + first) * j->pixels, j->x, bytes);
        if (j->out && i + 1 == j->steps) memcpy(j->out->sample + first * j->pixels, j->x, bytes);
        LGV_TRY(report(j, i, first, count, err));
    }
    return LGV_OK;
}

/* ---- checks ---- */

static lgv_status check_condition(job *j, lgv_error *err)
{
    const lgv_model_info *info = lgv_model_describe(j->p->model);
    j->beside = (info->in_channels - info->picture_channels) * j->H * j->W;
    if ((j->beside != 0) == (j->o->condition != NULL)) return LGV_OK;
    return lgv_fail(err, LGV_ERR_ARGUMENT,
                    j->beside ? "the model is one for %s: it needs a picture to begin with"
                              : "the model takes no image condition (%s)",
                    lgv_condition_name(info->condition));
}

static lgv_status check_timesteps(const job *j, lgv_error *err)
{
    const lgv_model_info *info = lgv_model_describe(j->p->model);
    if (info->time_embedding != LGV_TIME_LEARNED) return LGV_OK;
    for (int64_t i = 0; i < j->steps; i++) {
        float t = lgv_sampler_coef(j->sampler, i)->t;
        if (t < 0 || t >= (float)info->num_train_timesteps)
            return lgv_fail(err, LGV_ERR_ARGUMENT,
                            "the sampler asks for timestep %g, the model's table has rows 0 .. %d",
                            (double)t, info->num_train_timesteps - 1);
    }
    return LGV_OK;
}

static lgv_status prepare_size(job *j, lgv_error *err)
{
    const lgv_model_info *info = lgv_model_describe(j->p->model);
    j->n = at_least(j->o->num_images, 1);
    j->batch = lgv_min_i64(at_least(j->o->batch_size, 8), j->n);
    j->C = info->picture_channels;
    j->H = at_least(j->o->height, info->height);
    j->W = at_least(j->o->width, info->width);
    if (j->n < 1 || j->batch < 1 || j->batch > 65536)
        return lgv_fail(err, LGV_ERR_ARGUMENT, "%lld pictures in batches of %lld cannot be sampled",
                        (long long)j->n, (long long)j->o->batch_size);
    if (!j->H || !j->W)
        return lgv_fail(err, LGV_ERR_ARGUMENT,
                        "the model's configuration gives no sample size; state height and width");
    LGV_TRY(lgv_model_check_size(j->p->model, j->H, j->W, err));
    int64_t all = 0;
    if (!lgv_mul_i64(j->C, j->H, &j->pixels) || !lgv_mul_i64(j->pixels, j->W, &j->pixels) ||
        !lgv_mul_i64(j->pixels, j->n, &all) ||
        !lgv_mul_i64(all, 4 * (j->steps + LGV_HISTORY), &all))
        return lgv_fail(err, LGV_ERR_SHAPE, "%lld pictures of %lldx%lldx%lld are too many",
                        (long long)j->n, (long long)j->C, (long long)j->H, (long long)j->W);
    return LGV_OK;
}

static lgv_status allocate(job *j, lgv_error *err)
{
    const lgv_sample_options *o = j->o;
    bool classes = lgv_model_describe(j->p->model)->class_kind != LGV_CLASS_NONE ||
                   j->gradient.classifier;
    size_t image = (size_t)j->pixels, all = (size_t)j->n * image;
    size_t generators = o->rng == LGV_SAMPLE_PHILOX  ? 0
                        : o->rng == LGV_SAMPLE_TORCH ? (size_t)j->batch
                                                     : 1;
    int bad = !(j->x = lgv_zalloc((size_t)j->batch * image, sizeof(float))) ||
              (o->callback && !(j->x0 = lgv_alloc((size_t)j->batch * image, sizeof(float)))) ||
              !(j->z = lgv_zalloc(j->kind.noise == LGV_NOISE_INPUT ? (size_t)j->batch * image : 1,
                                  sizeof(float))) ||
              !(j->history =
                    lgv_zalloc((size_t)(j->batch * j->kind.history) * image + 1, sizeof(float))) ||
              (j->kind.history &&
               !(j->kept = lgv_alloc((size_t)j->batch * image, sizeof(float)))) ||
              !(j->condition =
                    lgv_zalloc((size_t)(j->batch * j->beside) + 1, sizeof(float))) ||
              ((o->mask || o->sampler.jump_length) &&
               !(j->extra = lgv_alloc((size_t)j->batch * image, sizeof(float)))) ||
              (any_path(j) && !(j->path = lgv_alloc(4 * image, sizeof(double)))) ||
              !(j->scratch = lgv_alloc(image, sizeof(float))) ||
              !(j->torch = lgv_zalloc(generators, sizeof *j->torch));
    if (!bad && !o->discard) {
        bad = !(j->out = lgv_zalloc(1, sizeof *j->out)) ||
              !(j->out->sample = lgv_alloc(all, sizeof(float))) ||
              !(j->out->seeds = lgv_alloc((size_t)j->n, sizeof(uint64_t))) ||
              (classes && !(j->out->labels = lgv_alloc((size_t)j->n, sizeof(int32_t))));
        if (!bad && o->keep_trajectory)
            bad = !(j->out->trajectory = lgv_alloc((size_t)j->steps * all, sizeof(float)));
    }
    if (bad)
        return lgv_fail(err, LGV_ERR_MEMORY, "out of memory for %lld pictures", (long long)j->n);
    return LGV_OK;
}

static lgv_status check_variance(const job *j, lgv_error *err)
{
    const lgv_model_info *info = lgv_model_describe(j->p->model);
    if (!lgv_sampler_predicts_variance(j->sampler) || info->learned_variance)
        return LGV_OK;
    return lgv_fail(err, LGV_ERR_UNSUPPORTED,
                    "the scheduler's variance is learned, but the network gives %d channels for %d "
                    "and predicts none; choose another sampler, such as ddim",
                    info->out_channels, info->in_channels);
}

static lgv_step_kind step_kind(const job *j)
{
    lgv_step_kind kind = {.history = lgv_sampler_history(j->sampler)};
    bool drawn = j->o->rng == LGV_SAMPLE_PHILOX && !j->o->step_noise && !any_path(j);
    for (int64_t i = 0; i < j->steps; i++)
        kind.scaled |= lgv_sampler_coef(j->sampler, i)->in != 1;
    if (lgv_sampler_stochastic(j->sampler)) kind.noise = drawn ? LGV_NOISE_NODE : LGV_NOISE_INPUT;
    return kind;
}

/* Sampler, sizes and guidance, and whether all that fits the model. */
static lgv_status prepare(job *j, lgv_error *err)
{
    lgv_sampler_options o = j->o->sampler;
    if (j->o->height > 0 && j->o->width > 0 && !o.image_seq_len)
        o.image_seq_len = j->o->height / 2 * (j->o->width / 2);
    LGV_TRY(lgv_known_skip(j->p, j->o, &o, &j->from_noise, err));
    LGV_TRY(lgv_pipeline_sampler(j->p, &o, &j->sampler, err));
    j->steps = lgv_sampler_steps(j->sampler);
    LGV_TRY(prepare_size(j, err));
    LGV_TRY(lgv_guidance_make(j->p, j->o, j->n, j->steps, &j->guidance, err));
    LGV_TRY(lgv_gradient_make(j->p, j->o, j->sampler, &j->guidance, j->n, j->batch, j->H, j->W,
                              &j->gradient, err));
    LGV_TRY(check_condition(j, err));
    LGV_TRY(check_timesteps(j, err));
    return check_variance(j, err);
}

static lgv_status run_job(job *j, lgv_error *err)
{
    LGV_TRY(prepare(j, err));
    j->kind = step_kind(j);
    LGV_TRY(allocate(j, err));
    if (j->o->rng == LGV_SAMPLE_TORCH_BATCH) lgv_torch_seed(j->torch, seed_of(j->o, 0));
    j->calls_total = (j->n + j->batch - 1) / j->batch * j->steps;
    for (int64_t first = 0; first < j->n; first += j->batch)
        LGV_TRY(run_batch(j, first, lgv_min_i64(j->batch, j->n - first), err));
    if (!j->out) return LGV_OK;
    j->out->n = j->n;
    j->out->channels = j->C;
    j->out->height = j->H;
    j->out->width = j->W;
    j->out->calls = j->steps;
    for (int64_t i = 0; i < j->n; i++) j->out->seeds[i] = seed_of(j->o, i);
    for (int64_t i = 0; i < j->n && j->out->labels; i++)
        j->out->labels[i] = lgv_guidance_label(&j->guidance, i);
    return LGV_OK;
}

static const lgv_sample_options no_options;

lgv_status lgv_pipeline_check(lgv_pipeline *pipeline, const lgv_sample_options *options,
                              lgv_error *err)
{
    job j = {.p = pipeline, .o = options ? options : &no_options};
    lgv_status status = prepare(&j, err);
    lgv_sampler_free(j.sampler);
    lgv_gradient_free(&j.gradient);
    return status;
}

lgv_status lgv_pipeline_sample(lgv_pipeline *pipeline, const lgv_sample_options *options,
                               lgv_samples **out, lgv_error *err)
{
    job j = {.p = pipeline, .o = options ? options : &no_options};
    lgv_status status = run_job(&j, err);
    lgv_sampler_free(j.sampler);
    lgv_gradient_free(&j.gradient);
    lgv_free(j.x);
    lgv_free(j.x0);
    lgv_free(j.z);
    lgv_free(j.history);
    lgv_free(j.kept);
    lgv_free(j.condition);
    lgv_free(j.extra);
    lgv_free(j.scratch);
    lgv_free(j.path);
    lgv_free(j.torch);
    if (status)
        lgv_samples_free(j.out);
    else if (j.out)
        *out = j.out;
    return status;
}

void lgv_samples_free(lgv_samples *samples)
{
    if (!samples) return;
    lgv_free(samples->sample);
    lgv_free(samples->trajectory);
    lgv_free(samples->seeds);
    lgv_free(samples->labels);
    lgv_free(samples);
}

void lgv_images_u8(int64_t n, int64_t channels, int64_t height, int64_t width, const float *x,
                   uint8_t *out)
{
    int64_t HW = height * width;
    for (int64_t i = 0; i < n; i++) {
        for (int64_t c = 0; c < channels; c++, x += HW) {
            for (int64_t p = 0; p < HW; p++) {
                float v = x[p] / 2 + 0.5f;
                v = v > 0 ? v < 1 ? v : 1 : 0; /* NaN gives 0 */
                out[(i * HW + p) * channels + c] = (uint8_t)rintf(v * 255);
            }
        }
    }
}
