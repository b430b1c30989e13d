/* noising.c - how a training row is noised and what its network is to answer: networks over betas, of EDM (arXiv
   2206.00364, sec. 5) and of flow matching (arXiv 2210.02747). Everything is two factors each of image and noise,
   the network's scaling of its input included, so one graph trains all three. */
#include <math.h>

#include "core/core.h"
#include "core/elementary.h"
#include "diffusion/scheduler.h"

/* z with a part u of the normal distribution below it, 0 < u < 1: Newton's steps on the distribution, from the value of
   its logistic neighbour. */
static double normal_quantile(double u)
{
    const double root_half = 0.70710678118654752440, root_2pi = 2.50662827463100050242;
    double z = lgv_log(u / (1 - u)) / 1.702;
    for (int i = 0; i < 60; i++) {
        const double over = 0.5 * (1 + lgv_erf(z * root_half)) - u;
        double step = over * root_2pi * lgv_exp(0.5 * z * z);
        step = step > 0.5 ? 0.5 : step < -0.5 ? -0.5 : step;
        z -= step;
        if (fabs(step) < 1e-12) break;
    }
    return z;
}

/* The network F in x0 = c_skip x + c_out F(c_in x), x = x0 + sigma eps. The error of x0 weighed with 1/c_out^2 is that
   of F, so F has a target of its own and weight 1. */
static void edm(const lgv_schedule *s, double sigma, lgv_noising *out)
{
    const double data = s->sigma_data, total = sigma * sigma + data * data;
    const double c_in = 1 / sqrt(total), c_skip = data * data / total;
    const double c_out = (s->prediction == LGV_PREDICT_V ? -1 : 1) * sigma * data * c_in;
    out->t = (float)(0.25 * lgv_log(sigma));
    out->x0 = (float)c_in;
    out->noise = (float)(c_in * sigma);
    out->target_x0 = (float)((1 - c_skip) / c_out);
    out->target_noise = (float)(-c_skip * sigma / c_out);
}

static void flow(const lgv_schedule *s, int64_t t, lgv_noising *out)
{
    const double sigma = lgv_shift_sigma(s->shift, (double)(t + 1) / (double)s->T);
    out->t = (float)sigma * (float)s->T;
    out->x0 = (float)(1 - sigma);
    out->noise = (float)sigma;
    out->target_x0 = -1;
    out->target_noise = 1;
}

void lgv_schedule_noising(const lgv_schedule *s, int64_t t, double within, lgv_noising *out)
{
    const double log_mean = -1.2, log_deviation = 1.2; /* table 1: P_mean, P_std */
    switch (s->family) {
    case LGV_FAMILY_EDM:
        edm(s,
            lgv_exp(log_mean +
                    log_deviation * normal_quantile(((double)t + within) / (double)s->T)),
            out);
        return;
    case LGV_FAMILY_FLOW: flow(s, t, out); return;
    case LGV_FAMILY_BETAS: break;
    }
    out->t = (float)t;
    lgv_schedule_noise_coef(s, t, &out->x0, &out->noise);
    lgv_schedule_target_coef(s, t, &out->target_x0, &out->target_noise);
}
