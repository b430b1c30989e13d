/* sampler_dpm.c - DPM-Solver (arXiv 2206.00927) and DPM-Solver++ (arXiv 2211.01095), deterministic and as an
   SDE, in their multistep and singlestep forms; the multistep one also for EDM's networks.
   A step takes x from noise level s to t. It solves the linear part of the equation exactly and replaces the
   rest, the predicted image (++) or noise as a function of lambda = ln(alpha/sigma), by its Taylor series with
   derivatives D1, D2 from differences of predictions. With h = lambda_t - lambda_s:
       x_t = wx x_s + w0 D0 + w1 D1 + w2 D2 + z s */
#include <math.h>

#include "core/core.h"
#include "core/elementary.h"
#include "diffusion/combo.h"
#include "diffusion/sampler_edm.h"

typedef struct weights {
    double x, d0, d1, d2, z;
    double d1_heun; /* w1 of solver_type heun and of the third order */
} weights;

static int predicts_image(lgv_algorithm a)
{
    return a == LGV_ALGORITHM_DPMPP || a == LGV_ALGORITHM_SDE_DPMPP;
}

static int is_sde(lgv_algorithm a)
{
    return a == LGV_ALGORITHM_SDE_DPMPP || a == LGV_ALGORITHM_SDE_DPM;
}

/* e^y - 1 - y and its like lose all digits at small y; the series does not. phi2(y) = (e^y-1-y)/y^2. */
static double phi1(double y)
{
    return y == 0 ? 1 : lgv_expm1(y) / y;
}

static double phi2(double y)
{
    if (fabs(y) > 0.5) return (lgv_expm1(y) - y) / (y * y);
    double term = 0.5, sum = 0.5;
    for (int n = 3; n < 24; n++) sum += term *= y / n;
    return sum;
}

/* To noise 0, h is infinite and only the first order is asked for. */
static weights weights_of(lgv_algorithm algorithm, lgv_level s, lgv_level t, double h)
{
    weights w = {0};
    const double fall = lgv_exp(-h), rise = lgv_expm1(h);
    switch (algorithm) {
    case LGV_ALGORITHM_DPMPP:
    default:
        w.x = t.sigma / s.sigma;
        w.d0 = -t.alpha * lgv_expm1(-h);
        w.d1_heun = t.alpha * (1 - phi1(-h));
        w.d2 = t.alpha * (0.5 - phi2(-h));
        break;
    case LGV_ALGORITHM_DPM:
        w.x = t.alpha / s.alpha;
        w.d0 = -t.sigma * rise;
        w.d1_heun = -t.sigma * (phi1(h) - 1);
        w.d2 = -t.sigma * (phi2(h) - 0.5);
        break;
    case LGV_ALGORITHM_SDE_DPMPP:
        w.x = t.sigma / s.sigma * fall;
        w.d0 = -t.alpha * lgv_expm1(-2 * h);
        w.d1_heun = t.alpha * (1 - phi1(-2 * h));
        w.d2 = t.alpha * ((-lgv_expm1(-2 * h) - 2 * h) / (4 * h * h) - 0.5);
        w.z = t.sigma * sqrt(-lgv_expm1(-2 * h));
        break;
    case LGV_ALGORITHM_SDE_DPM:
        w.x = t.alpha / s.alpha;
        w.d0 = -2 * t.sigma * rise;
        w.d1_heun = -2 * t.sigma * (phi1(h) - 1);
        w.z = t.sigma * sqrt(lgv_expm1(2 * h));
        break;
    }
    w.d1 = 0.5 * w.d0;
    return w;
}

/* a += w (b - c)/r */
static void add_difference(lgv_combo *sum, double w, const lgv_combo *b, const lgv_combo *c)
{
    lgv_combo_add(sum, w, b);
    lgv_combo_add(sum, -w, c);
}

/* What call i predicts: the image, or the noise. */
static lgv_combo prediction(const lgv_sampler_task *task, lgv_level level, const lgv_step_coef *out)
{
    if (predicts_image(task->cfg->algorithm_type)) return (lgv_combo){.x0 = 1};
    return lgv_noise_at(task, level, out);
}

static lgv_combo slot(int64_t i)
{
    lgv_combo term = {0};
    term.h[i] = 1;
    return term;
}

static void prepare(const lgv_sampler_task *task, int64_t i, lgv_step_coef *out)
{
    const lgv_level s = lgv_level_of(task, i);
    lgv_predict_at(task, s, out);
    out->t = (float)task->time[i];
    if (task->scale == LGV_SCALE_EDM) out->in = (float)lgv_edm_input(task->cfg, s.sigma);
    out->wants_noise = is_sde(task->cfg->algorithm_type);
}

/* --- Multistep --------------------------------------------------------------------------------------- */
static int64_t order_at(const lgv_sampler_task *task, int64_t i)
{
    const lgv_scheduler_config *cfg = task->cfg;
    const int64_t left = task->levels - i, past = i - task->begin;
    const int few = cfg->lower_order_final && task->levels < 15;
    if (left == 1 && (cfg->euler_at_final || few || cfg->final_sigmas_type == LGV_FINAL_ZERO))
        return 1;
    int64_t order = lgv_min_i64(cfg->solver_order, past + 1);
    if (task->sigma[i] == task->sigma[i + 1]) return 1; /* a level that repeats: nothing moves */
    return left == 2 && few ? lgv_min_i64(order, 2) : order;
}

static void multistep(const lgv_sampler_task *task, int64_t i, lgv_step_coef *out)
{
    const lgv_scheduler_config *cfg = task->cfg;
    const int64_t order = order_at(task, i), slots = cfg->solver_order - 1;
    prepare(task, i, out);
    const lgv_level s = lgv_level_of(task, i), t = lgv_level_of(task, i + 1);
    const lgv_combo m0 = prediction(task, s, out);
    const double h = (float)(t.lambda - s.lambda);
    const weights w = weights_of(cfg->algorithm_type, s, t, h);
    lgv_combo next = {.x = w.x, .z = w.z};
    lgv_combo_add(&next, w.d0, &m0);
    if (order > 1) {
        const lgv_combo m1 = slot((i - 1) % slots);
        const double r0 = (s.lambda - lgv_level_of(task, i - 1).lambda) / h;
        double d1 = order == 2 && cfg->solver_type == LGV_SOLVER_MIDPOINT ? w.d1 : w.d1_heun;
        if (order > 2) { /* D1 = D10 + r0/(r0+r1) (D10-D11), D2 = (D10-D11)/(r0+r1) */
            const lgv_combo m2 = slot((i - 2) % slots);
            const double r1 =
                (lgv_level_of(task, i - 1).lambda - lgv_level_of(task, i - 2).lambda) / h;
            const double bent = (d1 * r0 + w.d2) / (r0 + r1);
            add_difference(&next, -bent / r1, &m1, &m2);
            d1 += bent;
        }
        add_difference(&next, d1 / r0, &m0, &m1);
    }
    lgv_combo_next(&next, out);
    if (slots) lgv_combo_keep(&m0, (int)(i % slots), out);
}

/* --- Singlestep: groups of 1, 2, ... order calls; the later ones begin anew at the group's first x. ---------- */
static int64_t group_order(const lgv_sampler_task *task, int64_t i)
{
    const lgv_scheduler_config *cfg = task->cfg;
    const int64_t n = task->levels, p = cfg->solver_order, whole = n / p * p, rest = n % p;
    const int zero = cfg->final_sigmas_type == LGV_FINAL_ZERO;
    int64_t order = i % p + 1;
    if (zero && i == n - 1) return 1;
    if (!cfg->lower_order_final && !rest && !zero) return order;
    /* the last group is shortened; a rest of one or two calls is one of its own */
    if (!rest && i >= whole - p) order = p == 3 && i == n - 2 ? 2 : 1;
    return order;
}

static void singlestep(const lgv_sampler_task *task, int64_t i, lgv_step_coef *out)
{
    enum { BASE = 2 };
    const lgv_scheduler_config *cfg = task->cfg;
    const int64_t order = lgv_min_i64(group_order(task, i), i - task->begin + 1);
    prepare(task, i, out);
    const lgv_level here = lgv_level_of(task, i), t = lgv_level_of(task, i + 1);
    const lgv_level s = lgv_level_of(task, i - order + 1);
    const lgv_combo m0 = prediction(task, here, out);
    const double h = (float)(t.lambda - s.lambda);
    const weights w = weights_of(cfg->algorithm_type, s, t, h);
    lgv_combo base = order == 1 ? (lgv_combo){.x = 1} : slot(BASE), next = {.z = w.z};
    lgv_combo_add(&next, w.x, &base);
    const lgv_combo m1 = slot((i + 1) % 2), m2 = slot(i % 2); /* of calls i-1 and i-2 */
    const double r0 = (here.lambda - s.lambda) / h;
    const int midpoint = cfg->solver_type == LGV_SOLVER_MIDPOINT;
    if (order == 1) {
        lgv_combo_add(&next, w.d0, &m0);
    } else if (order == 2) {
        lgv_combo_add(&next, w.d0, &m1);
        add_difference(&next, (midpoint ? w.d1 : w.d1_heun) / r0, &m0, &m1);
    } else {
        /* D10 = (m1-m2)/r1, D11 = (m0-m2)/r0, D1 = (r0 D10 - r1 D11)/(r0-r1), D2 = 2 (D11-D10)/(r0-r1) */
        const double r1 = (lgv_level_of(task, i - 1).lambda - s.lambda) / h;
        double d10 = 0, d11 = w.d1_heun;
        if (!midpoint) {
            d10 = (w.d1_heun * r0 - 2 * w.d2) / (r0 - r1);
            d11 = (2 * w.d2 - w.d1_heun * r1) / (r0 - r1);
        }
        lgv_combo_add(&next, w.d0, &m2);
        add_difference(&next, d10 / r1, &m1, &m2);
        add_difference(&next, d11 / r0, &m0, &m2);
    }
    lgv_combo_next(&next, out);
    if (cfg->solver_order > 1) lgv_combo_keep(&m0, (int)(i % 2), out);
    if (cfg->solver_order > 1 && order == 1) out->keep_sample = BASE + 1;
}

/* --- Configuration ------------------------------------------------------------------------------------- */
/* Names of other classes' variants stand for this one's default, as in diffusers. */
static lgv_status check_solver(lgv_scheduler_config *cfg, const lgv_sampler_options *options,
                               lgv_error *err)
{
    if (cfg->solver_type > LGV_SOLVER_HEUN) cfg->solver_type = LGV_SOLVER_MIDPOINT;
    if (cfg->algorithm_type == LGV_ALGORITHM_DEIS) cfg->algorithm_type = LGV_ALGORITHM_DPMPP;
    if (cfg->solver_order < 1 || cfg->solver_order > 3)
        return lgv_fail(err, LGV_ERR_ARGUMENT, "solver_order of %s is 1, 2 or 3, not %lld",
                        cfg->class_name, (long long)cfg->solver_order);
    if (!predicts_image(cfg->algorithm_type) && cfg->final_sigmas_type == LGV_FINAL_ZERO)
        return lgv_fail(err, LGV_ERR_ARGUMENT,
                        "algorithm_type dpmsolver predicts noise and cannot end without any: set "
                        "final_sigmas_type to sigma_min, or take dpmsolver++");
    if (!predicts_image(cfg->algorithm_type) && cfg->prediction_type == LGV_PREDICT_FLOW)
        return lgv_fail(err, LGV_ERR_ARGUMENT,
                        "algorithm_type dpmsolver does not know flow_prediction; take dpmsolver++");
    return LGV_OK;
}

static lgv_status check_multistep(lgv_scheduler_config *cfg, const lgv_sampler_options *options,
                                  lgv_error *err)
{
    LGV_TRY(check_solver(cfg, options, err));
    if (cfg->algorithm_type == LGV_ALGORITHM_SDE_DPM && cfg->solver_order > 2)
        return lgv_fail(
            err, LGV_ERR_ARGUMENT,
            "algorithm_type sde-dpmsolver has orders 1 and 2, not 3; take sde-dpmsolver++");
    return LGV_OK;
}

static lgv_status check_singlestep(lgv_scheduler_config *cfg, const lgv_sampler_options *options,
                                   lgv_error *err)
{
    LGV_TRY(check_solver(cfg, options, err));
    if (cfg->algorithm_type == LGV_ALGORITHM_SDE_DPM)
        return lgv_fail(err, LGV_ERR_ARGUMENT,
                        "singlestep solvers have no sde-dpmsolver; take sde-dpmsolver++");
    return LGV_OK;
}

static lgv_status check_edm(lgv_scheduler_config *cfg, const lgv_sampler_options *options,
                            lgv_error *err)
{
    LGV_TRY(lgv_edm_check(cfg, options, err));
    LGV_TRY(check_solver(cfg, options, err));
    if (!predicts_image(cfg->algorithm_type) ||
        (is_sde(cfg->algorithm_type) && cfg->solver_order > 2))
        return lgv_fail(err, LGV_ERR_ARGUMENT,
                        "%s has dpmsolver++ and, of orders 1 and 2, sde-dpmsolver++",
                        cfg->class_name);
    return LGV_OK;
}

static lgv_status grid(lgv_sampler_task *task, lgv_error *err)
{
    return lgv_sigma_grid(task,
                          LGV_GRID_SOLVER | LGV_GRID_FINAL | LGV_GRID_TINY |
                              (task->cfg->beta_schedule != LGV_BETA_COSINE ? LGV_GRID_ROUND : 0),
                          err);
}

static lgv_status grid_singlestep(lgv_sampler_task *task, lgv_error *err)
{
    return lgv_sigma_grid(task, LGV_GRID_SOLVER | LGV_GRID_FINAL | LGV_GRID_ROUND, err);
}

static lgv_status grid_edm(lgv_sampler_task *task, lgv_error *err)
{
    LGV_TRY(lgv_edm_grid(task, err));
    if (task->cfg->final_sigmas_type == LGV_FINAL_SIGMA_MIN)
        task->sigma[task->levels] = (float)task->cfg->sigma_min;
    return LGV_OK;
}

#define MULTISTEP "DPMSolverMultistepScheduler"
const lgv_sampler_record
    lgv_sampler_dpmpp_2m = {{"dpmpp_2m", MULTISTEP,
                             "DPM-Solver++ of second order (Lu et al. 2022), 15 to 25 steps", 20, 0,
                             "algorithm_type=dpmsolver++ solver_order=2"},
                            check_multistep,
                            grid,
                            multistep},
    lgv_sampler_dpmpp_2m_sde = {{"dpmpp_2m_sde", MULTISTEP, "the same with noise in every step", 20,
                                 0, "algorithm_type=sde-dpmsolver++ solver_order=2"},
                                check_multistep,
                                grid,
                                multistep},
    lgv_sampler_dpmpp_3m = {{"dpmpp_3m", MULTISTEP, "DPM-Solver++ of third order", 20, 0,
                             "algorithm_type=dpmsolver++ solver_order=3"},
                            check_multistep,
                            grid,
                            multistep},
    lgv_sampler_dpmpp_3m_sde = {{"dpmpp_3m_sde", MULTISTEP, "the same with noise in every step", 20,
                                 0, "algorithm_type=sde-dpmsolver++ solver_order=3"},
                                check_multistep,
                                grid,
                                multistep},
    lgv_sampler_dpm_solver = {{"dpm_solver", MULTISTEP,
                               "DPM-Solver, which extrapolates the noise (Lu et al. 2022)", 20, 0,
                               "algorithm_type=dpmsolver final_sigmas_type=sigma_min"},
                              check_multistep,
                              grid,
                              multistep},
    lgv_sampler_dpmpp_2s = {{"dpmpp_2s", "DPMSolverSinglestepScheduler",
                             "DPM-Solver++ of second order in single steps", 20, 0,
                             "algorithm_type=dpmsolver++ solver_order=2"},
                            check_singlestep,
                            grid_singlestep,
                            singlestep},
    lgv_sampler_edm_dpmpp_2m = {{"edm_dpmpp_2m", "EDMDPMSolverMultistepScheduler",
                                 "DPM-Solver++ for networks with EDM's preconditioning", 20, 0,
                                 NULL},
                                check_edm,
                                grid_edm,
                                multistep};
