/* sigmas.c - the noise levels that a sampler visits and the timesteps that belong to them. The arithmetic is
   numpy's in double; tables and results are rounded to float32 where diffusers' arrays are. */
#include <math.h>

#include "core/core.h"
#include "core/elementary.h"
#include "diffusion/scheduler.h"

static lgv_status no_memory(int64_t count, lgv_error *err)
{
    return lgv_fail(err, LGV_ERR_MEMORY, "out of memory for %lld noise levels", (long long)count);
}

lgv_status lgv_grid_room(lgv_sampler_task *task, int64_t levels, lgv_error *err)
{
    size_t n = (size_t)levels;
    task->levels = task->n = levels;
    task->sigma = lgv_zalloc(n + 1, sizeof *task->sigma);
    task->time = lgv_zalloc(n, sizeof *task->time);
    task->middle = lgv_zalloc(n, sizeof *task->middle);
    return task->sigma && task->time && task->middle ? LGV_OK : no_memory(levels, err);
}

int64_t lgv_grid_steps(const lgv_sampler_task *task)
{
    const lgv_sampler_options *o = task->options;
    int64_t T = task->cfg->num_train_timesteps, n = task->info->default_steps;
    if (o->timestep_count) return o->timestep_count;
    if (o->num_inference_steps == LGV_STEPS_ALL) return T;
    if (o->num_inference_steps) return o->num_inference_steps;
    return n && n < T ? n : T;
}

/* --- The schedule's own levels --------------------------------------------------------------------- */
/* sigma and ln sigma of every timestep, as float32. */
static lgv_status fill_tables(lgv_sampler_task *task, int style, lgv_error *err)
{
    const int64_t T = task->schedule->T;
    task->table = lgv_alloc((size_t)T, sizeof(float));
    task->log_table = lgv_alloc((size_t)T, sizeof(float));
    if (!task->table || !task->log_table) return no_memory(T, err);
    for (int64_t t = 0; t < T; t++) {
        float abar = task->schedule->alphas_cumprod[t];
        if (style & LGV_GRID_TINY && task->cfg->rescale_betas_zero_snr && t == T - 1)
            abar = 0x1p-24f;
        task->table[t] = sqrtf((1.0f - abar) / abar);
        task->log_table[t] = (float)lgv_log(task->table[t]);
    }
    return LGV_OK;
}

double lgv_time_of_sigma(const lgv_sampler_task *task, double sigma)
{
    const float *table = task->log_table;
    const int64_t T = task->schedule->T;
    const double want = lgv_log(sigma > 1e-10 ? sigma : 1e-10);
    int64_t low = 0, high = T - 1;
    if (T == 1) return 0;
    while (low < high) { /* the last that is not above */
        const int64_t middle = (low + high + 1) / 2;
        if (want - (double)table[middle] >= 0)
            low = middle;
        else
            high = middle - 1;
    }
    if (low > T - 2) low = T - 2;
    double w = ((double)table[low] - want) / (double)(table[low] - table[low + 1]);
    w = w > 0 ? w < 1 ? w : 1 : 0;
    return (1 - w) * (double)low + w * (double)(low + 1);
}

/* sigma at a timestep between two. */
static double sigma_of_time(const lgv_sampler_task *task, double t)
{
    const int64_t T = task->schedule->T, low = (int64_t)floor(t);
    if (t <= 0) return task->table[0];
    if (low >= T - 1) return task->table[T - 1];
    const double a = task->table[low], b = task->table[low + 1];
    return (b - a) * (t - (double)low) + a;
}

/* Timesteps below the noise level whose lambda = ln(alpha/sigma) the configuration cuts off. */
static int64_t last_time(const lgv_sampler_task *task)
{
    const int64_t T = task->schedule->T;
    int64_t cut = 0;
    if (isinf(task->cfg->lambda_min_clipped)) return T;
    while (cut < T) {
        const float abar = task->schedule->alphas_cumprod[T - 1 - cut];
        const float lambda = (float)lgv_log(sqrtf(abar)) - (float)lgv_log(sqrtf(1.0f - abar));
        if (!((double)lambda < task->cfg->lambda_min_clipped)) break;
        cut++;
    }
    return T - cut;
}

/* --- Spacing in time -------------------------------------------------------------------------------- */
static double spaced_time(const lgv_sampler_task *task, int style, int64_t last, int64_t n,
                          int64_t i)
{
    const lgv_scheduler_config *cfg = task->cfg;
    const int64_t T = cfg->num_train_timesteps, points = style & LGV_GRID_SOLVER ? n + 1 : n;
    const double even = lgv_linspace_at(last, points, i);
    int64_t step = last / points, offset = cfg->steps_offset;
    switch (cfg->timestep_spacing) {
    case LGV_SPACING_LINSPACE: return style & LGV_GRID_SOLVER ? rint(even) : (double)(float)even;
    case LGV_SPACING_TRAILING: return (double)lgv_trailing_at(last, T, n, i);
    case LGV_SPACING_LEADING: break;
    }
    if (!task->options->compat_diffusers && offset > T - 1 - (points - 1) * step)
        offset = T - 1 - (points - 1) * step;
    return (double)((points - 1 - i) * step + offset);
}

static lgv_status check_own(const lgv_sampler_task *task, int64_t T, lgv_error *err)
{
    if (lgv_other_sigmas(task->cfg) || task->cfg->use_flow_sigmas)
        return lgv_fail(err, LGV_ERR_ARGUMENT,
                        "own timesteps and a sigma schedule exclude each other");
    return lgv_check_list(task->options, 0, T, err);
}

/* time[] and, by interpolation, sigma[] of the n steps; returns fewer where timesteps are cut off. */
static lgv_status spread(lgv_sampler_task *task, int style, int64_t *n, double *sigma,
                         lgv_error *err)
{
    const int64_t T = task->schedule->T;
    const int64_t last = style & LGV_GRID_SOLVER ? last_time(task) : T;
    if (task->options->timestep_count) {
        LGV_TRY(check_own(task, T, err));
    } else if (last < 2) {
        return lgv_fail(err, LGV_ERR_ARGUMENT,
                        "lambda_min_clipped %g leaves no timesteps of the schedule",
                        task->cfg->lambda_min_clipped);
    } else if (last < T && task->cfg->timestep_spacing == LGV_SPACING_TRAILING &&
               !lgv_other_sigmas(task->cfg) && !task->cfg->use_flow_sigmas) {
        *n = lgv_min_i64(*n, (int64_t)ceil((double)last / ((double)T / (double)*n)));
    }
    for (int64_t i = 0; i < *n; i++) {
        task->time[i] = task->options->timestep_count ? (double)task->options->timesteps[i]
                                                      : spaced_time(task, style, last, *n, i);
        sigma[i] = sigma_of_time(task, task->time[i]);
    }
    return LGV_OK;
}

/* --- Other spacings ---------------------------------------------------------------------------------- */
/* The x below which a part p of the beta distribution with both parameters 0.6 lies. By its symmetry p <= 1/2; there
   the incomplete beta function is x^a (1-x)^a/a F(2a, 1; a+1; x) (DLMF 8.17.8), a series with ratio below 1/2. */
static double beta_part(double x, double a, double whole)
{
    double term = 1, sum = 1;
    for (int n = 0; n < 200 && term > 1e-17 * sum; n++) {
        term *= (2 * a + n) / (a + 1 + n) * x;
        sum += term;
    }
    return lgv_pow(x * (1 - x), a) / (a * whole) * sum;
}

static double beta_quantile(double p)
{
    const double a = 0.6, whole = 2.4153442080024714; /* gamma(0.6)^2/gamma(1.2) */
    if (p > 0.5) return 1 - beta_quantile(1 - p);
    if (!(p > 0)) return 0;
    double low = 0, high = 0.5, x = lgv_pow(p * a * whole, 1 / a);
    for (int i = 0; i < 100; i++) {
        if (!(x > low && x < high)) x = (low + high) / 2;
        const double over = beta_part(x, a, whole) - p;
        *(over > 0 ? &high : &low) = x;
        const double step = over * whole * lgv_pow(x * (1 - x), 1 - a);
        if (fabs(step) <= 1e-15 * x) break;
        x -= step;
    }
    return x;
}

int lgv_other_sigmas(const lgv_scheduler_config *cfg)
{
    return cfg->use_karras_sigmas || cfg->use_exponential_sigmas || cfg->use_beta_sigmas ||
           cfg->use_lu_lambdas;
}

static double ramp_at(int64_t n, int64_t i)
{
    return n > 1 && i == n - 1 ? 1 : n > 1 ? (double)i * (1.0 / (double)(n - 1)) : 0;
}

void lgv_space_sigmas(const lgv_scheduler_config *cfg, double low, double high, int64_t n,
                      double *sigma)
{
    const double rho = 7, log_low = lgv_log(low), log_high = lgv_log(high);
    const double root_low = lgv_pow(low, 1 / rho), root_high = lgv_pow(high, 1 / rho);
    for (int64_t i = 0; i < n; i++) {
        const double ramp = ramp_at(n, i);
        if (cfg->use_karras_sigmas)
            sigma[i] = lgv_pow(root_high + ramp * (root_low - root_high), rho);
        else if (cfg->use_beta_sigmas)
            sigma[i] = low + beta_quantile(1 - ramp) * (high - low);
        else
            sigma[i] =
                lgv_exp(i == n - 1 && n > 1 ? log_low : log_high + ramp * (log_low - log_high));
    }
}

/* Euler's log_linear: n+1 levels evenly in ln sigma over the whole schedule. */
static void log_linear(const lgv_sampler_task *task, int64_t n, double *sigma)
{
    const int64_t T = task->schedule->T;
    for (int64_t i = 0; i <= n; i++)
        sigma[i] =
            (float)lgv_exp(lgv_linspace_f32(task->log_table[T - 1], task->log_table[0], n + 1, i));
}

static void replace(lgv_sampler_task *task, int style, int64_t n, double *sigma)
{
    const lgv_scheduler_config *cfg = task->cfg;
    const int whole = style & LGV_GRID_SOLVER, log_levels = cfg->interpolation_type;
    double low = whole ? (double)task->table[0] : sigma[log_levels ? n : n - 1];
    double high = whole ? (double)task->table[task->schedule->T - 1] : sigma[0];
    if (cfg->sigma_min > 0) low = cfg->sigma_min;
    if (cfg->sigma_max > 0) high = cfg->sigma_max;
    if (cfg->use_lu_lambdas) {
        low = lgv_exp(task->log_table[0]);
        high = lgv_exp(task->log_table[task->schedule->T - 1]);
    }
    lgv_space_sigmas(cfg, low, high, n, sigma);
    const int rounded = (cfg->use_lu_lambdas || cfg->use_karras_sigmas) && style & LGV_GRID_ROUND;
    for (int64_t i = 0; i < n; i++) {
        double t = lgv_time_of_sigma(task, sigma[i]);
        task->time[i] = rounded ? rint(t) : t;
    }
}

double lgv_shift_sigma(double shift, double sigma)
{
    return shift * sigma / (1 + (shift - 1) * sigma);
}

/* Those of flow matching for the solvers. */
static void flow_levels(lgv_sampler_task *task, int64_t n, double *sigma)
{
    const lgv_scheduler_config *cfg = task->cfg;
    const double T = (double)cfg->num_train_timesteps;
    const double shift = task->options->mu != 0 ? lgv_exp(task->options->mu) : cfg->flow_shift;
    for (int64_t i = 0; i < n; i++) {
        const double alpha = i ? (double)(n - i) * ((1 / T - 1) / (double)n) + 1 : 1 / T;
        sigma[i] = lgv_shift_sigma(shift, 1 - alpha);
        task->time[i] = sigma[i] * T;
    }
}

/* --- The whole ------------------------------------------------------------------------------------------ */
static double last_level(const lgv_sampler_task *task, int style, int64_t n, const double *sigma)
{
    const lgv_scheduler_config *cfg = task->cfg;
    const int other = lgv_other_sigmas(cfg) || cfg->use_flow_sigmas;
    const int nonzero = style & LGV_GRID_NONZERO ||
                        (style & LGV_GRID_FINAL && cfg->final_sigmas_type == LGV_FINAL_SIGMA_MIN);
    if (!nonzero) return 0;
    return other && style & LGV_GRID_REPEAT ? sigma[n - 1] : (double)task->table[0];
}

static void finish(lgv_sampler_task *task, int style, int64_t n, const double *sigma)
{
    float largest = 0;
    for (int64_t i = 0; i <= n; i++) {
        task->sigma[i] = (float)sigma[i];
        if (task->sigma[i] > largest) largest = task->sigma[i];
    }
    for (int64_t i = 0; i < n && style & LGV_GRID_SOLVER; i++) task->time[i] = trunc(task->time[i]);
    task->levels = task->n = n;
    if (task->scale == LGV_SCALE_K)
        task->init_sigma = task->cfg->timestep_spacing == LGV_SPACING_LEADING
                               ? sqrt((double)largest * largest + 1)
                               : (double)largest;
}

lgv_status lgv_sigma_grid(lgv_sampler_task *task, int style, lgv_error *err)
{
    const lgv_scheduler_config *cfg = task->cfg;
    int64_t n = lgv_grid_steps(task);
    LGV_TRY(lgv_check_steps(n, task->schedule->T, err));
    task->scale = !(style & LGV_GRID_SOLVER) ? LGV_SCALE_K
                  : cfg->use_flow_sigmas     ? LGV_SCALE_FLOW
                                             : LGV_SCALE_BETAS;
    LGV_TRY(fill_tables(task, style, err));
    LGV_TRY(lgv_grid_room(task, n, err));
    double *sigma = lgv_zalloc((size_t)n + 2, sizeof *sigma);
    if (!sigma) return no_memory(n, err);
    lgv_status status = spread(task, style, &n, sigma, err);
    if (!status) {
        sigma[n] = last_level(task, style, n, sigma);
        if (cfg->interpolation_type == LGV_INTERPOLATE_LOG) log_linear(task, n, sigma);
        if (lgv_other_sigmas(cfg))
            replace(task, style, n, sigma);
        else if (cfg->use_flow_sigmas)
            flow_levels(task, n, sigma);
        if (lgv_other_sigmas(cfg) || cfg->use_flow_sigmas)
            sigma[n] = last_level(task, style, n, sigma);
        finish(task, style, n, sigma);
    }
    lgv_free(sigma);
    return status;
}
