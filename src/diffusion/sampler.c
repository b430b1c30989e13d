/* sampler.c - the table of samplers, making one, and the parts all of them share. */
#include <ctype.h>
#include <math.h>

#include "core/core.h"
#include "diffusion/scheduler.h"

/* A new sampler is a record in a file of its own and a line here. */
static const lgv_sampler_record *const records[] = {&lgv_sampler_ddpm, &lgv_sampler_ddim,
                                                    &lgv_sampler_ddim_inverse};
enum { RECORDS = sizeof records / sizeof records[0] };

struct lgv_sampler {
    const lgv_sampler_record *record;
    int64_t n;
    lgv_step_coef *coef; /* [n] */
};

int lgv_sampler_count(void)
{
    return RECORDS;
}

const lgv_sampler_info *lgv_sampler_at(int i)
{
    return i >= 0 && i < RECORDS ? &records[i]->info : NULL;
}

static int same_name(const char *a, const char *b)
{
    for (; *a && *b; a++, b++) {
        int x = *a == '-' ? '_' : tolower((unsigned char)*a);
        int y = *b == '-' ? '_' : tolower((unsigned char)*b);
        if (x != y) return 0;
    }
    return *a == *b;
}

static const lgv_sampler_record *find(const char *name)
{
    for (int i = 0; i < RECORDS; i++)
        if (same_name(name, records[i]->info.name) || same_name(name, records[i]->info.class_name))
            return records[i];
    return NULL;
}

const lgv_sampler_info *lgv_sampler_find(const char *name)
{
    const lgv_sampler_record *record = name ? find(name) : NULL;
    return record ? &record->info : NULL;
}

float lgv_sampler_abar(const lgv_sampler_task *task, int64_t t)
{
    return task->schedule->alphas_cumprod[t < 0 ? task->schedule->T - 1 : t];
}

/* At abar 0 the noise prediction says nothing about x0: diffusers divides by zero and the clip
   makes +-1 of the infinity. A huge finite factor does the same without a NaN from infinity -
   infinity. */
static const double zero_snr_gain = 1e30;

void lgv_sampler_predict(const lgv_sampler_task *task, float abar, lgv_step_coef *out)
{
    const lgv_scheduler_config *cfg = task->cfg;
    double signal = sqrtf(abar), noise = sqrtf(1.0f - abar), gain = 1 / signal;
    int clips = cfg->clip_sample && !cfg->thresholding;
    switch (cfg->prediction_type) {
    case LGV_PREDICT_EPSILON:
        if (signal == 0 && clips) gain = zero_snr_gain;
        out->a = (float)gain;
        out->b = (float)(-noise * gain);
        break;
    case LGV_PREDICT_SAMPLE:
        out->a = 0;
        out->b = 1;
        break;
    case LGV_PREDICT_V:
        out->a = (float)signal;
        out->b = (float)-noise;
        break;
    }
    out->threshold = cfg->thresholding != 0;
    out->threshold_ratio = (float)cfg->dynamic_thresholding_ratio;
    out->threshold_max = (float)cfg->sample_max_value;
    out->clip = clips ? (float)cfg->clip_sample_range : INFINITY;
}

static int is_finite(const lgv_step_coef *k)
{
    const float all[] = {k->t, k->in, k->a, k->b, k->c, k->d, k->e, k->s, k->v0, k->v1, k->keep_x0,
                         k->keep_x, k->keep_out};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (!isfinite(all[i])) return 0;
    for (int i = 0; i < LGV_HISTORY; i++)
        if (!isfinite(k->h[i])) return 0;
    return !isnan(k->clip);
}

static lgv_status fill(const lgv_sampler_record *record, const lgv_sampler_task *task,
                       lgv_step_coef *coef, lgv_error *err)
{
    for (int64_t i = 0; i < task->n; i++) {
        coef[i].t = (float)task->t[i];
        coef[i].in = 1;
        record->coef(task, i, &coef[i]);
        if (is_finite(&coef[i]) || task->options->compat_diffusers) continue;
        return lgv_fail(
            err, LGV_ERR_NUMERIC,
            "sampler '%s' has no finite coefficients at timestep %lld (alpha_bar %g, prediction "
            "type %s, eta %g); "
            "with zero terminal SNR use v_prediction or clip_sample, and eta between 0 and 1",
            record->info.name, (long long)task->t[i], (double)lgv_sampler_abar(task, task->t[i]),
            lgv_prediction_name(task->cfg->prediction_type), task->options->eta);
    }
    return LGV_OK;
}

static lgv_status check_config(const lgv_scheduler_config *cfg, const lgv_sampler_options *o,
                               lgv_error *err)
{
    if ((unsigned)cfg->timestep_spacing > LGV_SPACING_TRAILING ||
        (unsigned)cfg->variance_type > LGV_VARIANCE_LEARNED_RANGE)
        return lgv_fail(err, LGV_ERR_ARGUMENT, "unknown timestep_spacing %d or variance_type %d",
                        (int)cfg->timestep_spacing, (int)cfg->variance_type);
    if (cfg->steps_offset < 0 || cfg->steps_offset > 1000000)
        return lgv_fail(err, LGV_ERR_ARGUMENT, "steps_offset must be 0 to 1000000, is %lld",
                        (long long)cfg->steps_offset);
    if (cfg->thresholding &&
        !(cfg->dynamic_thresholding_ratio >= 0 && cfg->dynamic_thresholding_ratio <= 1))
        return lgv_fail(err, LGV_ERR_ARGUMENT,
                        "dynamic_thresholding_ratio must lie between 0 and 1, is %g",
                        cfg->dynamic_thresholding_ratio);
    if (!(o->eta >= 0) || !isfinite(o->eta))
        return lgv_fail(err, LGV_ERR_ARGUMENT, "eta must be a number from 0 up, is %g", o->eta);
    return LGV_OK;
}

static lgv_status make(const lgv_sampler_record *record, const lgv_scheduler_config *cfg,
                       const lgv_sampler_options *o, lgv_schedule **schedule, int64_t **t,
                       lgv_sampler *sampler, lgv_error *err)
{
    lgv_sampler_task task = {.cfg = cfg, .options = o};
    LGV_TRY(check_config(cfg, o, err));
    if (record->check) LGV_TRY(record->check(cfg, o, err));
    LGV_TRY(lgv_schedule_new(cfg, schedule, err));
    LGV_TRY(lgv_timesteps(cfg, o, &record->info, t, &task.n, &task.stride, err));
    task.schedule = *schedule;
    task.t = *t;
    sampler->record = record;
    sampler->n = task.n;
    sampler->coef = lgv_zalloc((size_t)task.n, sizeof *sampler->coef);
    if (!sampler->coef)
        return lgv_fail(err, LGV_ERR_MEMORY, "out of memory for %lld sampler steps",
                        (long long)task.n);
    return fill(record, &task, sampler->coef, err);
}

lgv_status lgv_sampler_new(const lgv_scheduler_config *cfg, const lgv_sampler_options *options,
                           lgv_sampler **out, lgv_error *err)
{
    static const lgv_sampler_options none = {0};
    const lgv_sampler_options *o = options ? options : &none;
    const char *name = o->sampler ? o->sampler : lgv_sampler_ddim.info.name;
    const lgv_sampler_record *record = find(name);
    if (!record)
        return lgv_fail(err, LGV_ERR_ARGUMENT,
                        "there is no sampler '%s'; known are ddpm, ddim and ddim_inverse", name);

    lgv_scheduler_config own;
    lgv_schedule *schedule = NULL;
    int64_t *t = NULL;
    LGV_TRY(lgv_scheduler_config_switch(cfg, record->info.class_name, &own, err));
    lgv_sampler *sampler = lgv_zalloc(1, sizeof *sampler);
    lgv_status status = sampler ? make(record, &own, o, &schedule, &t, sampler, err)
                                : lgv_fail(err, LGV_ERR_MEMORY, "out of memory for a sampler");
    lgv_free(t);
    lgv_schedule_free(schedule);
    lgv_scheduler_config_clear(&own);
    if (status)
        lgv_sampler_free(sampler);
    else
        *out = sampler;
    return status;
}

void lgv_sampler_free(lgv_sampler *sampler)
{
    if (!sampler) return;
    lgv_free(sampler->coef);
    lgv_free(sampler);
}

const lgv_sampler_info *lgv_sampler_kind(const lgv_sampler *sampler)
{
    return &sampler->record->info;
}

int64_t lgv_sampler_steps(const lgv_sampler *sampler)
{
    return sampler->n;
}

const lgv_step_coef *lgv_sampler_coef(const lgv_sampler *sampler, int64_t i)
{
    return i >= 0 && i < sampler->n ? &sampler->coef[i] : NULL;
}

int lgv_sampler_stochastic(const lgv_sampler *sampler)
{
    for (int64_t i = 0; i < sampler->n; i++)
        if (sampler->coef[i].wants_noise) return 1;
    return 0;
}

int lgv_sampler_history(const lgv_sampler *sampler)
{
    int slots = 0;
    for (int64_t i = 0; i < sampler->n; i++) {
        const lgv_step_coef *k = &sampler->coef[i];
        if (k->keep > slots) slots = k->keep;
        if (k->keep_sample > slots) slots = k->keep_sample;
    }
    return slots;
}

int lgv_sampler_predicts_variance(const lgv_sampler *sampler)
{
    for (int64_t i = 0; i < sampler->n; i++)
        if (sampler->coef[i].variance) return 1;
    return 0;
}

double lgv_sampler_init_sigma(const lgv_sampler *sampler)
{
    (void)sampler;
    return 1;
}

void lgv_step_coef_row(const lgv_step_coef *k, lgv_row *row)
{
    row->t = k->t;
    row->coef[LGV_SAMPLE_A] = k->a;
    row->coef[LGV_SAMPLE_B] = k->b;
    row->coef[LGV_SAMPLE_CLIP] = k->clip;
    row->coef[LGV_SAMPLE_C] = k->c;
    row->coef[LGV_SAMPLE_D] = k->d;
    row->coef[LGV_SAMPLE_E] = k->e;
    row->coef[LGV_SAMPLE_S] = k->s;
    row->coef[LGV_SAMPLE_THRESHOLD] = (float)k->threshold;
    row->coef[LGV_SAMPLE_THRESHOLD_RATIO] = k->threshold_ratio;
    row->coef[LGV_SAMPLE_THRESHOLD_MAX] = k->threshold_max;
    for (int i = 0; i < LGV_HISTORY; i++) row->coef[LGV_SAMPLE_H + i] = k->h[i];
    row->coef[LGV_SAMPLE_IN] = k->in;
    row->coef[LGV_SAMPLE_KEEP_X0] = k->keep_x0;
    row->coef[LGV_SAMPLE_KEEP_X] = k->keep_x;
    row->coef[LGV_SAMPLE_KEEP_OUT] = k->keep_out;
    row->coef[LGV_SAMPLE_VARIANCE] = (float)k->variance;
    row->coef[LGV_SAMPLE_V0] = k->v0;
    row->coef[LGV_SAMPLE_V1] = k->v1;
    for (int i = LGV_SAMPLE_V1 + 1; i < LGV_COEFS; i++) row->coef[i] = 0;
}
