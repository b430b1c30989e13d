/* sampler_edm.c - sampling networks with EDM's preconditioning (arXiv 2206.00364, table 1). */
#include "diffusion/sampler_edm.h"

#include <math.h>

#include "core/core.h"
#include "core/elementary.h"

lgv_status lgv_edm_check(lgv_scheduler_config *cfg, const lgv_sampler_options *options,
                         lgv_error *err)
{
    if (cfg->prediction_type != LGV_PREDICT_EPSILON && cfg->prediction_type != LGV_PREDICT_V)
        return lgv_fail(err, LGV_ERR_ARGUMENT,
                        "%s has prediction_type epsilon and v_prediction, not %s", cfg->class_name,
                        lgv_prediction_name(cfg->prediction_type));
    if (!(cfg->sigma_min > 0) || !(cfg->sigma_max > 0) || !(cfg->sigma_data > 0) || !(cfg->rho > 0))
        return lgv_fail(err, LGV_ERR_ARGUMENT,
                        "sigma_min, sigma_max, sigma_data and rho of %s must be positive",
                        cfg->class_name);
    if (options->timestep_count)
        return lgv_fail(
            err, LGV_ERR_ARGUMENT,
            "a network of EDM knows noise levels, not timesteps; give a number of steps");
    return LGV_OK;
}

double lgv_edm_input(const lgv_scheduler_config *cfg, double sigma)
{
    return 1 / sqrt(sigma * sigma + cfg->sigma_data * cfg->sigma_data);
}

lgv_status lgv_edm_grid(lgv_sampler_task *task, lgv_error *err)
{
    const lgv_scheduler_config *cfg = task->cfg;
    const int64_t n = lgv_grid_steps(task);
    LGV_TRY(lgv_check_steps(n, cfg->num_train_timesteps, err));
    LGV_TRY(lgv_grid_room(task, n, err));
    task->scale = LGV_SCALE_EDM;
    const double low = lgv_pow(cfg->sigma_min, 1 / cfg->rho),
                 high = lgv_pow(cfg->sigma_max, 1 / cfg->rho);
    const double log_low = lgv_log(cfg->sigma_min), log_high = lgv_log(cfg->sigma_max);
    for (int64_t i = 0; i < n; i++) {
        const double ramp = n > 1 ? (double)i / (double)(n - 1) : 0;
        double sigma = lgv_pow(high + ramp * (low - high), cfg->rho);
        if (cfg->sigma_schedule ==
            LGV_EDM_EXPONENTIAL) /* torch.linspace(ln low, ln high), flipped */
            sigma = lgv_exp(lgv_linspace_f32((float)log_low, (float)log_high, n, n - 1 - i));
        task->sigma[i] = (float)sigma;
        task->time[i] = 0.25 * lgv_log(task->sigma[i]);
    }
    if (cfg->final_sigmas_type == LGV_FINAL_SIGMA_MIN) task->sigma[n] = task->sigma[n - 1];
    task->init_sigma = sqrt(cfg->sigma_max * cfg->sigma_max + 1);
    return LGV_OK;
}

const lgv_sampler_record lgv_sampler_edm_euler = {
    {"edm_euler", "EDMEulerScheduler", "Euler's method for networks with EDM's preconditioning", 20,
     0, NULL},
    lgv_edm_check,
    lgv_edm_grid,
    lgv_euler_step};
