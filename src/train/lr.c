/* lr.c - learning-rate schedules and the decay of the moving average, as formulas of the step. */
#include <string.h>

#include "core/core.h"
#include "core/elementary.h"
#include "langevin/train.h"

#define PI 3.14159265358979323846

static const char *const names[] = {
    [LGV_LR_DEFAULT] = "constant_with_warmup",
    [LGV_LR_CONSTANT] = "constant",
    [LGV_LR_CONSTANT_WITH_WARMUP] = "constant_with_warmup",
    [LGV_LR_LINEAR] = "linear",
    [LGV_LR_COSINE] = "cosine",
    [LGV_LR_COSINE_WITH_RESTARTS] = "cosine_with_restarts",
    [LGV_LR_POLYNOMIAL] = "polynomial",
};

const char *lgv_lr_scheduler_name(lgv_lr_scheduler s)
{
    return (unsigned)s < sizeof names / sizeof *names ? names[s] : "unknown";
}

static bool same_name(const char *a, const char *b)
{
    for (; *a && *b; a++, b++)
        if (*a != *b && !((*a == '-' || *a == '_') && (*b == '-' || *b == '_'))) return false;
    return *a == *b;
}

lgv_status lgv_lr_scheduler_parse(const char *name, lgv_lr_scheduler *out, lgv_error *err)
{
    for (int i = LGV_LR_CONSTANT; i <= LGV_LR_POLYNOMIAL; i++) {
        if (!same_name(name, names[i])) continue;
        *out = (lgv_lr_scheduler)i;
        return LGV_OK;
    }
    return lgv_fail(err, LGV_ERR_ARGUMENT,
                    "there is no learning-rate schedule '%s': choose constant, "
                    "constant_with_warmup, linear, cosine, "
                    "cosine_with_restarts or polynomial",
                    name);
}

double lgv_lr_factor(lgv_lr_scheduler s, int64_t n, int64_t warmup, int64_t horizon, double cycles,
                     double power, double learning_rate)
{
    if (s == LGV_LR_CONSTANT) return 1;
    if (n < warmup) return (double)n / (double)warmup;
    int64_t length = horizon > warmup ? horizon - warmup : 1;
    double progress = (double)(n - warmup) / (double)length;
    double wave;
    switch (s) {
    case LGV_LR_LINEAR: return progress < 1 ? (double)(horizon - n) / (double)length : 0;
    case LGV_LR_COSINE:
        wave = lgv_cos(PI * (cycles ? cycles : 0.5) * 2 * progress);
        return 0.5 * (1 + wave) > 0 ? 0.5 * (1 + wave) : 0;
    case LGV_LR_COSINE_WITH_RESTARTS:
        if (progress >= 1) return 0;
        progress *= cycles ? cycles : 1;
        wave = lgv_cos(PI * (progress - (double)(int64_t)progress));
        return 0.5 * (1 + wave) > 0 ? 0.5 * (1 + wave) : 0;
    case LGV_LR_POLYNOMIAL: {
        double end = 1e-7;
        if (n > horizon || learning_rate <= end) return learning_rate > 0 ? end / learning_rate : 0;
        return ((learning_rate - end) * lgv_pow(1 - progress, power ? power : 1) + end) /
               learning_rate;
    }
    default: return 1;
    }
}

double lgv_ema_decay(int64_t n, double max_decay)
{
    if (n <= 0) return 0;
    double decay = 1 - lgv_pow((double)(n + 1), -0.75);
    return decay < max_decay ? decay : max_decay;
}
