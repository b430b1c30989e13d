/* schedule.c - the tables of the noise schedule and the coefficients training takes from them.
   The steps are rounded to float32 exactly where diffusers' tensors are, because 1-abar cancels:
   a table that is better by half an ulp would sample other pictures from the same checkpoint. */
#include <math.h>

#include "core/core.h"
#include "core/elementary.h"
#include "diffusion/scheduler.h"

/* torch.linspace in float32: from each end to the middle, one fused multiply-add per element. */
float lgv_linspace_f32(float first, float last, int64_t n, int64_t i)
{
    if (n == 1) return first;
    float step = (last - first) / (float)(n - 1);
    return i < n / 2 ? fmaf(step, (float)i, first) : fmaf(-step, (float)(n - 1 - i), last);
}

static double cosine_abar(double t)
{
    double c = lgv_cos((t + 0.008) / 1.008 * 3.14159265358979323846 / 2);
    return c * c;
}

static double exp_abar(double t)
{
    return lgv_exp(-12 * t);
}

static double laplace_abar(double t)
{
    double log_snr = -0.5 * (t > 0.5 ? -1 : 1) * lgv_log(1 - 2 * fabs(0.5 - t) + 1e-6);
    double snr = lgv_exp(log_snr);
    return sqrt(snr / (1 + snr));
}

/* beta_i that takes abar(i/T) to abar((i+1)/T), at most 0.999. */
static float beta_of_abar(double (*abar)(double), int64_t i, int64_t T)
{
    double beta = 1 - abar((double)(i + 1) / (double)T) / abar((double)i / (double)T);
    return (float)(beta < 0.999 ? beta : 0.999);
}

static float beta_at(const lgv_scheduler_config *cfg, int64_t i)
{
    int64_t T = cfg->num_train_timesteps;
    float root, low = (float)cfg->beta_start;
    if (cfg->trained_betas) return (float)cfg->trained_betas[i];
    switch (cfg->beta_schedule) {
    case LGV_BETA_LINEAR: return lgv_linspace_f32(low, (float)cfg->beta_end, T, i);
    case LGV_BETA_SCALED_LINEAR:
        root = lgv_linspace_f32((float)sqrt(cfg->beta_start), (float)sqrt(cfg->beta_end), T, i);
        return root * root;
    case LGV_BETA_COSINE: return beta_of_abar(cosine_abar, i, T);
    case LGV_BETA_SIGMOID:
        root = (float)(1 / (1 + lgv_exp(-(double)lgv_linspace_f32(-6, 6, T, i))));
        return root * (float)(cfg->beta_end - cfg->beta_start) + low;
    case LGV_BETA_LAPLACE: return beta_of_abar(laplace_abar, i, T);
    case LGV_BETA_EXP: return beta_of_abar(exp_abar, i, T);
    }
    return NAN;
}

/* Products in double of float32 factors, stored as float32. */
static void cumulate(const float *betas, int64_t T, float *abar)
{
    double product = 1;
    for (int64_t i = 0; i < T; i++) {
        product *= 1.0f - betas[i];
        abar[i] = (float)product;
    }
}

/* arXiv 2305.08891, algorithm 1: sqrt(abar) shifted so that the last is 0, scaled so that the
   first stays. */
static void rescale_zero_snr(float *betas, float *abar, int64_t T)
{
    cumulate(betas, T, abar);
    float first = sqrtf(abar[0]), last = sqrtf(abar[T - 1]), scale = first / (first - last);
    for (int64_t i = 0; i < T; i++) {
        float root = (sqrtf(abar[i]) - last) * scale;
        abar[i] = root * root;
    }
    betas[0] = 1.0f - abar[0];
    for (int64_t i = 1; i < T; i++) betas[i] = 1.0f - abar[i] / abar[i - 1];
}

static lgv_status check_config(const lgv_scheduler_config *cfg, lgv_error *err)
{
    int64_t T = cfg->num_train_timesteps;
    if (T < 1 || T > 1000000)
        return lgv_fail(err, LGV_ERR_ARGUMENT, "num_train_timesteps must be 1 to 1000000, is %lld",
                        (long long)T);
    if (cfg->trained_betas && cfg->trained_beta_count != T)
        return lgv_fail(err, LGV_ERR_ARGUMENT,
                        "trained_betas has %lld entries, num_train_timesteps wants %lld",
                        (long long)cfg->trained_beta_count, (long long)T);
    if ((unsigned)cfg->beta_schedule > LGV_BETA_EXP ||
        (unsigned)cfg->prediction_type > LGV_PREDICT_FLOW)
        return lgv_fail(err, LGV_ERR_ARGUMENT, "unknown beta_schedule %d or prediction_type %d",
                        (int)cfg->beta_schedule, (int)cfg->prediction_type);
    return LGV_OK;
}

static lgv_status fill(const lgv_scheduler_config *cfg, lgv_schedule *s, lgv_error *err)
{
    for (int64_t i = 0; i < s->T; i++) s->betas[i] = beta_at(cfg, i);
    if (cfg->rescale_betas_zero_snr) rescale_zero_snr(s->betas, s->alphas_cumprod, s->T);
    for (int64_t i = 0; i < s->T; i++) {
        if (!(s->betas[i] >= 0 && s->betas[i] <= 1))
            return lgv_fail(err, LGV_ERR_ARGUMENT,
                            "the noise schedule's beta[%lld] is %g, it must lie between 0 and 1; "
                            "change beta_start, "
                            "beta_end or trained_betas",
                            (long long)i, (double)s->betas[i]);
    }
    cumulate(s->betas, s->T, s->alphas_cumprod);
    double product = 1;
    for (int64_t i = 0; i < s->T; i++) s->abar[i] = product *= 1 - (double)s->betas[i];
    return LGV_OK;
}

lgv_status lgv_schedule_new(const lgv_scheduler_config *cfg, lgv_schedule **out, lgv_error *err)
{
    LGV_TRY(check_config(cfg, err));
    size_t T = (size_t)cfg->num_train_timesteps;
    lgv_schedule *s = lgv_zalloc(1, sizeof *s);
    if (s) {
        s->T = cfg->num_train_timesteps;
        s->prediction = cfg->prediction_type;
        s->family = lgv_scheduler_family(cfg);
        s->sigma_data = cfg->sigma_data;
        s->shift = cfg->shift;
        s->betas = lgv_alloc(T, sizeof(float));
        s->alphas_cumprod = lgv_alloc(T, sizeof(float));
        s->abar = lgv_alloc(T, sizeof(double));
    }
    lgv_status status = LGV_OK;
    if (!s || !s->betas || !s->alphas_cumprod || !s->abar)
        status =
            lgv_fail(err, LGV_ERR_MEMORY, "out of memory for a noise schedule of %zu steps", T);
    else
        status = fill(cfg, s, err);
    if (status)
        lgv_schedule_free(s);
    else
        *out = s;
    return status;
}

void lgv_schedule_free(lgv_schedule *s)
{
    if (!s) return;
    lgv_free(s->betas);
    lgv_free(s->alphas_cumprod);
    lgv_free(s->abar);
    lgv_free(s);
}

void lgv_schedule_noise_coef(const lgv_schedule *s, int64_t t, float *x0, float *noise)
{
    *x0 = sqrtf(s->alphas_cumprod[t]);
    *noise = sqrtf(1.0f - s->alphas_cumprod[t]);
}

static void velocity_coef(const lgv_schedule *s, int64_t t, float *x0, float *noise)
{
    lgv_schedule_noise_coef(s, t, noise, x0);
    *x0 = -*x0;
}

void lgv_schedule_target_coef(const lgv_schedule *s, int64_t t, float *x0, float *noise)
{
    *x0 = s->prediction == LGV_PREDICT_SAMPLE;
    *noise = s->prediction == LGV_PREDICT_EPSILON;
    if (s->prediction == LGV_PREDICT_V) velocity_coef(s, t, x0, noise);
}

double lgv_schedule_snr(const lgv_schedule *s, int64_t t)
{
    double abar = s->alphas_cumprod[t];
    return abar / (1 - abar);
}

double lgv_schedule_loss_weight(const lgv_schedule *s, int64_t t, double snr_gamma)
{
    if (s->family != LGV_FAMILY_BETAS) return 1;
    double snr = lgv_schedule_snr(s, t);
    double kept = snr_gamma > 0 && snr > snr_gamma ? snr_gamma : snr;
    if (s->prediction == LGV_PREDICT_SAMPLE) return kept;
    if (!(snr_gamma > 0)) return 1;
    if (s->prediction == LGV_PREDICT_V) return kept / (snr + 1);
    return snr > snr_gamma ? snr_gamma / snr : 1; /* also at SNR 0 */
}

static void combine(int64_t n, float a, const float *x, float b, const float *y, float *out)
{
    for (int64_t i = 0; i < n; i++) out[i] = a * x[i] + b * y[i];
}

void lgv_schedule_add_noise(const lgv_schedule *s, int64_t t, int64_t n, const float *x0,
                            const float *noise, float *out)
{
    float a, b;
    lgv_schedule_noise_coef(s, t, &a, &b);
    combine(n, a, x0, b, noise, out);
}

void lgv_schedule_velocity(const lgv_schedule *s, int64_t t, int64_t n, const float *x0,
                           const float *noise, float *out)
{
    float a, b;
    velocity_coef(s, t, &a, &b);
    combine(n, a, x0, b, noise, out);
}
