/* sampler_unipc.c - UniPC (arXiv 2302.04867): a predictor like DPM-Solver's of any order, and a corrector that
   repairs the x of the step before once the network has answered about it; both in one call.
   Predictor and corrector of a step start from the same x and differ only in how they weigh differences of
   predictions, so the corrected x is the given x plus a combination of predictions. */
#include <math.h>

#include "core/core.h"
#include "core/elementary.h"
#include "diffusion/combo.h"

enum { MOST = LGV_HISTORY };

/* rho of R rho = b, R[i][k] = r[k]^i (arXiv 2302.04867, eq. 11): n equations, by elimination with pivots. */
static void solve(const double *r, const double *b, int n, double *rho)
{
    double m[MOST][MOST + 1];
    for (int i = 0; i < n; i++) {
        for (int k = 0; k < n; k++) m[i][k] = i ? m[i - 1][k] * r[k] : 1;
        m[i][n] = b[i];
    }
    for (int k = 0; k < n; k++) {
        int best = k;
        for (int i = k + 1; i < n; i++)
            if (fabs(m[i][k]) > fabs(m[best][k])) best = i;
        for (int j = k; j <= n; j++) {
            const double swap = m[k][j];
            m[k][j] = m[best][j];
            m[best][j] = swap;
        }
        for (int i = 0; i < n; i++) {
            if (i == k) continue;
            const double f = m[i][k] / m[k][k];
            for (int j = k; j <= n; j++) m[i][j] -= f * m[k][j];
        }
    }
    for (int k = 0; k < n; k++) rho[k] = m[k][n] / m[k][k];
}

/* The step from level s to s + 1 with the given order. */
typedef struct bh_step {
    int order;
    double factor;  /* of the sums below: -alpha_t B(h) or -sigma_t B(h) */
    double r[MOST]; /* r[k] of the prediction k + 1 steps before; r[order-1] = 1 */
    double predict[MOST], correct[MOST];
    double x, m; /* x_t begins as x*x_s + m*m0 */
} bh_step;

static bh_step step_of(const lgv_sampler_task *task, int64_t s, int order)
{
    const lgv_scheduler_config *cfg = task->cfg;
    const lgv_level from = lgv_level_of(task, s), to = lgv_level_of(task, s + 1);
    const double h = (float)(to.lambda - from.lambda), hh = cfg->predict_x0 ? -h : h;
    const double e = lgv_expm1(hh), B = cfg->solver_type == LGV_SOLVER_BH1 ? hh : e;
    const double scale = cfg->predict_x0 ? to.alpha : to.sigma;
    bh_step f = {.order = order, .factor = -scale * B, .m = -scale * e};
    f.x = cfg->predict_x0 ? to.sigma / from.sigma : to.alpha / from.alpha;
    if (isinf(h) || h == 0)
        return f; /* to noise 0: the first order, without a corrector after it */
    double b[MOST], phi = e / hh - 1, factorial = 1;
    for (int k = 0; k < order; k++) {
        f.r[k] = k == order - 1 ? 1 : (lgv_level_of(task, s - 1 - k).lambda - from.lambda) / h;
        b[k] = phi * factorial / B;
        factorial *= k + 2;
        phi = phi / hh - 1 / factorial;
    }
    if (order == 2)
        f.predict[0] = 0.5;
    else if (order > 2)
        solve(f.r, b, order - 1, f.predict);
    if (order == 1)
        f.correct[0] = 0.5;
    else
        solve(f.r, b, order, f.correct);
    return f;
}

static int order_at(const lgv_sampler_task *task, int64_t i)
{
    int64_t order = lgv_min_i64(task->cfg->solver_order, i - task->begin + 1);
    if (task->sigma[i] == task->sigma[i + 1]) return 1; /* a level that repeats: nothing moves */
    if (task->cfg->lower_order_final) order = lgv_min_i64(order, task->levels - i);
    return (int)order;
}

/* sum += weight*(prediction of call i - prediction of call j); now: of call `at`, the newest. */
typedef struct predictions {
    int64_t at, slots;
    lgv_combo now;
} predictions;

static void add_prediction(lgv_combo *sum, double weight, const predictions *p, int64_t i)
{
    if (i == p->at)
        lgv_combo_add(sum, weight, &p->now);
    else
        sum->h[i % p->slots] += weight;
}

static void add_difference(lgv_combo *sum, double weight, const predictions *p, int64_t i,
                           int64_t j)
{
    add_prediction(sum, weight, p, i);
    add_prediction(sum, -weight, p, j);
}

/* The x that call i got, repaired with what the network says about it. */
static lgv_combo corrected(const lgv_sampler_task *task, int64_t i, const predictions *p)
{
    lgv_combo x = {.x = 1};
    if (i == task->begin || (i <= 64 && task->cfg->disable_corrector >> (i - 1) & 1)) return x;
    const bh_step f = step_of(task, i - 1, order_at(task, i - 1));
    for (int k = 0; k + 1 < f.order; k++)
        add_difference(&x, f.factor * (f.correct[k] - f.predict[k]) / f.r[k], p, i - 2 - k, i - 1);
    add_difference(&x, f.factor * f.correct[f.order - 1], p, i, i - 1);
    return x;
}

static void coef(const lgv_sampler_task *task, int64_t i, lgv_step_coef *out)
{
    const lgv_level s = lgv_level_of(task, i);
    lgv_predict_at(task, s, out);
    out->t = (float)task->time[i];
    if (!task->cfg->predict_x0) out->threshold = 0;
    const predictions p = {i, task->cfg->solver_order,
                           task->cfg->predict_x0 ? (lgv_combo){.x0 = 1}
                                                 : lgv_noise_at(task, s, out)};
    const lgv_combo x = corrected(task, i, &p);
    const bh_step f = step_of(task, i, order_at(task, i));
    lgv_combo next = {0};
    lgv_combo_add(&next, f.x, &x);
    add_prediction(&next, f.m, &p, i);
    for (int k = 0; k + 1 < f.order; k++)
        add_difference(&next, f.factor * f.predict[k] / f.r[k], &p, i - 1 - k, i);
    lgv_combo_next(&next, out);
    lgv_combo_keep(&p.now, (int)(i % p.slots), out);
}

static lgv_status check(lgv_scheduler_config *cfg, const lgv_sampler_options *options,
                        lgv_error *err)
{
    if (cfg->solver_type != LGV_SOLVER_BH1) cfg->solver_type = LGV_SOLVER_BH2;
    if (cfg->solver_order < 1 || cfg->solver_order > MOST)
        return lgv_fail(err, LGV_ERR_ARGUMENT, "solver_order of %s is 1 to %d, not %lld",
                        cfg->class_name, MOST, (long long)cfg->solver_order);
    if (!cfg->predict_x0 && cfg->prediction_type == LGV_PREDICT_FLOW)
        return lgv_fail(err, LGV_ERR_ARGUMENT,
                        "uni_pc does not know flow_prediction without predict_x0");
    if (cfg->shift_terminal != 0 && !cfg->use_flow_sigmas)
        return lgv_fail(err, LGV_ERR_ARGUMENT, "shift_terminal is for use_flow_sigmas only");
    if (cfg->use_flow_sigmas) return lgv_check_shift(cfg, options, err);
    return LGV_OK;
}

/* Flow matching's levels as this class has them; they end at the last one, not at abar_0's. */
static void flow_levels(lgv_sampler_task *task)
{
    const lgv_scheduler_config *cfg = task->cfg;
    const int64_t n = task->levels;
    const double T = (double)cfg->num_train_timesteps;
    double last = 0;
    for (int64_t i = n - 1; i >= 0; i--) {
        double sigma = (double)i * ((1 / T - 1) / (double)n) + 1;
        sigma = lgv_shift_sigma(lgv_flow_shift(cfg, task->options, cfg->flow_shift), sigma);
        if (i == n - 1) last = sigma;
        if (cfg->shift_terminal != 0)
            sigma = 1 - (1 - sigma) / ((1 - last) / (1 - cfg->shift_terminal));
        if (i == 0 && fabs(sigma - 1) < 1e-6) sigma -= 1e-6;
        task->time[i] = trunc(sigma * T);
        task->sigma[i] = (float)sigma;
    }
    if (cfg->final_sigmas_type == LGV_FINAL_SIGMA_MIN) task->sigma[n] = task->sigma[n - 1];
}

static lgv_status grid(lgv_sampler_task *task, lgv_error *err)
{
    LGV_TRY(lgv_sigma_grid(
        task, LGV_GRID_SOLVER | LGV_GRID_FINAL | LGV_GRID_ROUND | LGV_GRID_REPEAT | LGV_GRID_TINY,
        err));
    if (!task->cfg->use_flow_sigmas) return LGV_OK;
    if (!lgv_other_sigmas(task->cfg)) {
        flow_levels(task);
        return LGV_OK;
    }
    for (int64_t i = 0; i <= task->levels && task->cfg->use_karras_sigmas; i++) {
        const double sigma = task->sigma[i] / (task->sigma[i] + 1.0);
        task->sigma[i] = (float)sigma;
        if (i < task->levels) task->time[i] = trunc(sigma * (double)task->cfg->num_train_timesteps);
    }
    return LGV_OK;
}

const lgv_sampler_record lgv_sampler_uni_pc = {
    {"uni_pc", "UniPCMultistepScheduler",
     "predictor and corrector (Zhao et al. 2023), 10 to 20 steps", 20, 0, NULL},
    check,
    grid,
    coef};
