/* sampler.c - the table of samplers, making one, and the parts all of them share. */
#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/core.h"
#include "diffusion/scheduler.h"
#include "diffusion/scheduler_fields.h"

static const lgv_sampler_record *const records[] = {
#define LGV_SAMPLER(name) &lgv_sampler_##name,
#include "diffusion/samplers.def"
#undef LGV_SAMPLER
};
enum { RECORDS = sizeof records / sizeof records[0] };

struct lgv_sampler {
    const lgv_sampler_record *record;
    int64_t n;
    lgv_step_coef *coef; /* [n] */
    double init_sigma;
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
        if (same_name(name, records[i]->info.name)) return records[i];
    for (int i = 0; i < RECORDS; i++)
        if (same_name(name, records[i]->info.class_name)) return records[i];
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

void lgv_sampler_limits(const lgv_scheduler_config *cfg, lgv_step_coef *out)
{
    const int thresholds = lgv_scheduler_has(cfg->class_name, "thresholding") && cfg->thresholding;
    const int clips = lgv_scheduler_has(cfg->class_name, "clip_sample") && cfg->clip_sample;
    out->threshold = thresholds;
    out->threshold_ratio = (float)cfg->dynamic_thresholding_ratio;
    out->threshold_max = (float)cfg->sample_max_value;
    out->clip = clips && !thresholds ? (float)cfg->clip_sample_range : INFINITY;
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
    case LGV_PREDICT_FLOW: out->a = out->b = NAN; break; /* refused before */
    }
    lgv_sampler_limits(cfg, out);
    out->image = (float)signal;
    out->noise = (float)noise;
}

static int is_finite(const lgv_step_coef *k)
{
    const float all[] = {k->t,  k->in, k->a,     k->b,     k->c,       k->d,      k->e,       k->s,
                         k->v0, k->v1, k->image, k->noise, k->keep_x0, k->keep_x, k->keep_out};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (!isfinite(all[i])) return 0;
    for (int i = 0; i < LGV_HISTORY; i++)
        if (!isfinite(k->h[i])) return 0;
    return !isnan(k->clip);
}

static lgv_status not_finite(const lgv_sampler_task *task, int64_t i, lgv_error *err)
{
    if (!task->t)
        return lgv_fail(
            err, LGV_ERR_NUMERIC,
            "sampler '%s' has no finite coefficients at step %lld of %lld (prediction type "
            "%s); take fewer steps, final_sigmas_type sigma_min, or lower_order_final",
            task->info->name, (long long)i + 1, (long long)task->n,
            lgv_prediction_name(task->cfg->prediction_type));
    return lgv_fail(
        err, LGV_ERR_NUMERIC,
        "sampler '%s' has no finite coefficients at timestep %lld (alpha_bar %g, prediction "
        "type %s, eta %g); "
        "with zero terminal SNR use v_prediction or clip_sample, and eta between 0 and 1",
        task->info->name, (long long)task->t[i], (double)lgv_sampler_abar(task, task->t[i]),
        lgv_prediction_name(task->cfg->prediction_type), task->options->eta);
}

static lgv_status fill(const lgv_sampler_record *record, const lgv_sampler_task *task,
                       lgv_step_coef *coef, lgv_error *err)
{
    for (int64_t i = task->begin; i < task->n; i++, coef++) {
        coef->t = task->t ? (float)task->t[i] : 0;
        coef->in = 1;
        record->coef(task, i, coef);
        if (!is_finite(coef) && !task->options->compat_diffusers) return not_finite(task, i, err);
        coef->after_image = 1;
        if (i == task->begin) continue;
        coef[-1].after_image = coef->image;
        coef[-1].after_noise = coef->noise;
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
    if (cfg->use_karras_sigmas + cfg->use_exponential_sigmas + cfg->use_beta_sigmas +
            cfg->use_lu_lambdas >
        1)
        return lgv_fail(
            err, LGV_ERR_ARGUMENT,
            "at most one of use_karras_sigmas, use_exponential_sigmas, use_beta_sigmas and "
            "use_lu_lambdas can be true");
    if (!(cfg->sigma_min >= 0) || !(cfg->sigma_max >= 0) ||
        (cfg->sigma_max > 0 && cfg->sigma_min > cfg->sigma_max))
        return lgv_fail(err, LGV_ERR_ARGUMENT,
                        "sigma_min %g and sigma_max %g must be positive and in this order",
                        cfg->sigma_min, cfg->sigma_max);
    if (!(o->eta >= 0) || !isfinite(o->eta))
        return lgv_fail(err, LGV_ERR_ARGUMENT, "eta must be a number from 0 up, is %g", o->eta);
    if (!(o->s_churn >= 0) || !(o->s_noise >= 0) || !isfinite(o->s_churn + o->s_noise))
        return lgv_fail(err, LGV_ERR_ARGUMENT,
                        "s_churn and s_noise must be numbers from 0 up, are %g and %g", o->s_churn,
                        o->s_noise);
    return LGV_OK;
}

static lgv_status refuse(const lgv_scheduler_config *cfg, lgv_prediction prediction, lgv_error *err)
{
    if (cfg->prediction_type != prediction) return LGV_OK;
    return lgv_fail(err, LGV_ERR_UNSUPPORTED,
                    "%s does not know prediction_type '%s'; choose another sampler, such as %s",
                    cfg->class_name, lgv_prediction_name(prediction),
                    prediction == LGV_PREDICT_FLOW ? "flow_euler or uni_pc" : "dpmpp_2m");
}

lgv_status lgv_refuse_flow(lgv_scheduler_config *cfg, const lgv_sampler_options *options,
                           lgv_error *err)
{
    return refuse(cfg, LGV_PREDICT_FLOW, err);
}

lgv_status lgv_refuse_sample(lgv_scheduler_config *cfg, const lgv_sampler_options *options,
                             lgv_error *err)
{
    LGV_TRY(refuse(cfg, LGV_PREDICT_FLOW, err));
    return refuse(cfg, LGV_PREDICT_SAMPLE, err);
}

/* ---- the configuration of the sampler's class ---- */

/* Applies "field=value field=value". */
static lgv_status imply(lgv_scheduler_config *cfg, const char *fields, lgv_error *err)
{
    char field[64], value[64];
    int used = 0;
    for (; fields && sscanf(fields, " %63[^=]=%63s%n", field, value, &used) == 2; fields += used)
        LGV_TRY(lgv_scheduler_config_set(cfg, field, value, err));
    return LGV_OK;
}

static lgv_status set_sigmas(lgv_scheduler_config *cfg, const lgv_sampler_info *info,
                             lgv_sigma_schedule which, lgv_error *err)
{
    static const struct {
        lgv_sigma_schedule which;
        const char *name, *field;
    } all[] = {{LGV_SIGMAS_KARRAS, "karras", "use_karras_sigmas"},
               {LGV_SIGMAS_EXPONENTIAL, "exponential", "use_exponential_sigmas"},
               {LGV_SIGMAS_BETA, "beta", "use_beta_sigmas"},
               {LGV_SIGMAS_LU, "lu", "use_lu_lambdas"}};
    if (which == LGV_SIGMAS_CONFIGURED) return LGV_OK;
    if ((unsigned)which > LGV_SIGMAS_LU)
        return lgv_fail(err, LGV_ERR_ARGUMENT, "unknown sigma schedule %d", (int)which);
    const char *name = all[which - 1].name, *field = all[which - 1].field;
    if (lgv_scheduler_has(cfg->class_name, "sigma_schedule") && which <= LGV_SIGMAS_EXPONENTIAL)
        return lgv_scheduler_config_set(cfg, "sigma_schedule", name, err);
    if (!lgv_scheduler_has(cfg->class_name, field))
        return lgv_fail(err, LGV_ERR_ARGUMENT,
                        "sampler '%s' has no sigma schedule '%s'; with it go %s", info->name, name,
                        which == LGV_SIGMAS_LU ? "dpmpp_2m, dpmpp_3m and their sde forms"
                                               : "euler, heun, lms, dpmpp_2m, uni_pc and others");
    cfg->use_karras_sigmas = cfg->use_exponential_sigmas = cfg->use_beta_sigmas =
        cfg->use_lu_lambdas = 0;
    return lgv_scheduler_config_set(cfg, field, "true", err);
}

static lgv_status check_family(const lgv_scheduler_config *cfg, const lgv_scheduler_config *own,
                               const lgv_sampler_info *info, lgv_error *err)
{
    static const char *const network[] = {"noise schedules with betas", "EDM", "flow matching"};
    const lgv_noise_family have = lgv_scheduler_family(cfg), want = lgv_scheduler_family(own);
    if (have == want) return LGV_OK;
    return lgv_fail(
        err, LGV_ERR_ARGUMENT,
        "sampler '%s' is for networks trained for %s; this one's scheduler is %s: choose "
        "'%s'",
        info->name, network[want], cfg->class_name, lgv_sampler_default(cfg, NULL));
}

/* As diffusers' from_config, then what the name implies, then the options. A solver takes over a network of
   flow matching with that network's noise levels. */
static lgv_status own_config(const lgv_scheduler_config *cfg, const lgv_sampler_record *record,
                             const char *name, const lgv_sampler_options *o,
                             lgv_scheduler_config *own, lgv_error *err)
{
    const lgv_sampler_info *info = &record->info;
    if (lgv_scheduler_family(cfg) == LGV_FAMILY_FLOW && strcmp(cfg->class_name, own->class_name) &&
        lgv_scheduler_has(own->class_name, "use_flow_sigmas") &&
        lgv_scheduler_has(cfg->class_name, "shift")) {
        own->prediction_type = LGV_PREDICT_FLOW;
        own->use_flow_sigmas = 1;
        own->flow_shift = cfg->shift;
    }
    LGV_TRY(check_family(cfg, own, info, err));
    if (same_name(name, info->name)) LGV_TRY(imply(own, info->implies, err));
    LGV_TRY(set_sigmas(own, info, o->sigma_schedule, err));
    if (o->solver_order && !lgv_scheduler_has(own->class_name, "solver_order"))
        return lgv_fail(err, LGV_ERR_ARGUMENT, "sampler '%s' has no solver order", info->name);
    if (o->solver_order) own->solver_order = o->solver_order;
    LGV_TRY(check_config(own, o, err));
    return record->check ? record->check(own, o, err) : LGV_OK;
}

/* ---- making ---- */

static lgv_status skip(lgv_sampler_task *task, lgv_error *err)
{
    const int64_t skipped = task->options->skip_steps, steps = task->t ? task->n : task->levels;
    if (skipped < 0 || skipped >= steps)
        return lgv_fail(err, LGV_ERR_ARGUMENT, "%lld of %lld steps cannot be skipped",
                        (long long)skipped, (long long)steps);
    task->begin = skipped * (task->n > steps ? 2 : 1);
    if (skipped) task->init_sigma = 1;
    return LGV_OK;
}

static lgv_status make(const lgv_sampler_record *record, lgv_sampler_task *task,
                       lgv_schedule **schedule, lgv_sampler *sampler, lgv_error *err)
{
    if (lgv_scheduler_has(task->cfg->class_name, "beta_start"))
        LGV_TRY(lgv_schedule_new(task->cfg, schedule, err));
    task->schedule = *schedule;
    LGV_TRY(record->grid ? record->grid(task, err) : lgv_timesteps_grid(task, err));
    LGV_TRY(skip(task, err));
    sampler->record = record;
    sampler->n = task->n - task->begin;
    sampler->init_sigma = task->init_sigma;
    sampler->coef = lgv_zalloc((size_t)sampler->n, sizeof *sampler->coef);
    if (!sampler->coef)
        return lgv_fail(err, LGV_ERR_MEMORY, "out of memory for %lld sampler steps",
                        (long long)sampler->n);
    LGV_TRY(fill(record, task, sampler->coef, err));
    if ((task->options->jump_length || task->options->jump_n_sample) &&
        lgv_sampler_history(sampler))
        return lgv_fail(err, LGV_ERR_ARGUMENT,
                        "sampler '%s' goes by its earlier steps, which resampling repeats; take ddim, "
                        "ddpm or euler_ancestral",
                        task->info->name);
    return lgv_resample_steps(task->options, &sampler->coef, &sampler->n, err);
}

static void free_task(lgv_sampler_task *task)
{
    lgv_free(task->t);
    lgv_free(task->sigma);
    lgv_free(task->time);
    lgv_free(task->middle);
    lgv_free(task->table);
    lgv_free(task->log_table);
}

const char *lgv_sampler_default(const lgv_scheduler_config *cfg, const lgv_sampler_options *o)
{
    switch (lgv_scheduler_family(cfg)) {
    case LGV_FAMILY_EDM: return "edm_euler";
    case LGV_FAMILY_FLOW: return "flow_euler";
    case LGV_FAMILY_BETAS: break;
    }
    return o && (o->eta > 0 || o->use_clipped_model_output) ? "ddim" : "dpmpp_2m";
}

static lgv_status unknown(const char *name, lgv_error *err)
{
    char list[512] = "";
    for (int i = 0; i < RECORDS; i++) {
        size_t used = strlen(list);
        snprintf(list + used, sizeof list - used, "%s%s", i ? ", " : "", records[i]->info.name);
    }
    return lgv_fail(err, LGV_ERR_ARGUMENT, "there is no sampler '%s'; known are %s", name, list);
}

lgv_status lgv_sampler_new(const lgv_scheduler_config *cfg, const lgv_sampler_options *options,
                           lgv_sampler **out, lgv_error *err)
{
    static const lgv_sampler_options none = {0};
    const lgv_sampler_options *o = options ? options : &none;
    const char *name = o->sampler ? o->sampler : lgv_sampler_default(cfg, o);
    const lgv_sampler_record *record = find(name);
    if (!record) return unknown(name, err);

    lgv_scheduler_config own;
    lgv_schedule *schedule = NULL;
    LGV_TRY(lgv_scheduler_config_switch(cfg, record->info.class_name, &own, err));
    lgv_sampler_task task = {.cfg = &own, .info = &record->info, .options = o, .init_sigma = 1};
    lgv_sampler *sampler = lgv_zalloc(1, sizeof *sampler);
    lgv_status status =
        sampler ? LGV_OK : lgv_fail(err, LGV_ERR_MEMORY, "out of memory for a sampler");
    if (!status) status = own_config(cfg, record, name, o, &own, err);
    if (!status) status = make(record, &task, &schedule, sampler, err);
    free_task(&task);
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
    return sampler->init_sigma;
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
