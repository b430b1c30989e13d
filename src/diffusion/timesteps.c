/* timesteps.c - which timesteps a sampler visits. The arithmetic is numpy's (double, rounding
   half to even), since one timestep off by one is another picture. */
#include <math.h>

#include "core/core.h"
#include "diffusion/scheduler.h"

lgv_status lgv_check_steps(int64_t n, int64_t T, lgv_error *err)
{
    if (n < 1)
        return lgv_fail(err, LGV_ERR_ARGUMENT, "num_inference_steps must be at least 1, is %lld",
                        (long long)n);
    if (n > T)
        return lgv_fail(
            err, LGV_ERR_ARGUMENT,
            "%lld inference steps are more than the %lld timesteps the model was trained with; "
            "ask for at most %lld",
            (long long)n, (long long)T, (long long)T);
    return LGV_OK;
}

/* i-th of the own list in descending order. */
static int64_t listed(const lgv_sampler_options *o, int inverse, int64_t i)
{
    return o->timesteps[inverse ? o->timestep_count - 1 - i : i];
}

lgv_status lgv_check_list(const lgv_sampler_options *o, int inverse, int64_t T, lgv_error *err)
{
    if (o->num_inference_steps)
        return lgv_fail(err, LGV_ERR_ARGUMENT,
                        "give a number of steps or a list of timesteps, not both");
    if (!o->timesteps || o->timestep_count < 0)
        return lgv_fail(err, LGV_ERR_ARGUMENT, "the list of timesteps is missing");
    for (int64_t i = 0; i < o->timestep_count; i++) {
        int64_t t = listed(o, inverse, i);
        if (t < 0 || t >= T)
            return lgv_fail(err, LGV_ERR_ARGUMENT,
                            "timestep %lld of the list lies outside 0 .. %lld", (long long)t,
                            (long long)(T - 1));
        if (i && t >= listed(o, inverse, i - 1))
            return lgv_fail(err, LGV_ERR_ARGUMENT,
                            "the timesteps must be strictly %s, but %lld stands beside %lld",
                            inverse ? "ascending" : "descending", (long long)t,
                            (long long)listed(o, inverse, i - 1));
    }
    return LGV_OK;
}

/* numpy.arange(T, 0, -T/n) has this many elements: n, or n+1 where the quotient rounds up. */
static int64_t trailing_count(int64_t T, int64_t n)
{
    return (int64_t)ceil((double)T / ((double)T / (double)n));
}

/* numpy.arange repeats the difference of its first two elements. */
int64_t lgv_trailing_at(int64_t from, int64_t T, int64_t n, int64_t i)
{
    double delta = ((double)from - (double)T / (double)n) - (double)from;
    return (int64_t)rint((double)from + (double)i * delta) - 1;
}

double lgv_linspace_at(int64_t T, int64_t n, int64_t i)
{
    if (n == 1) return 0;
    if (i == 0) return (double)(T - 1);
    double step = (double)(T - 1) / (double)(n - 1);
    return (double)(n - 1 - i) * step;
}

/* i-th of n timesteps, descending. */
static int64_t spaced(const lgv_scheduler_config *cfg, int64_t n, int64_t offset, int64_t i)
{
    int64_t T = cfg->num_train_timesteps;
    switch (cfg->timestep_spacing) {
    case LGV_SPACING_LINSPACE: return (int64_t)rint(lgv_linspace_at(T, n, i));
    case LGV_SPACING_TRAILING: return lgv_trailing_at(T, T, n, i);
    case LGV_SPACING_LEADING: break;
    }
    return (n - 1 - i) * (T / n) + offset;
}

/* How the list is made; count may exceed n by trailing's extra step. */
typedef struct layout {
    int64_t n, count, offset;
    int own, all;
} layout;

static lgv_status choose(const lgv_scheduler_config *cfg, const lgv_sampler_options *o,
                         const lgv_sampler_info *info, layout *l, lgv_error *err)
{
    int64_t T = cfg->num_train_timesteps;
    l->own = o->timestep_count != 0;
    l->all = o->num_inference_steps == LGV_STEPS_ALL && !l->own;
    l->offset = cfg->steps_offset;
    if (l->own) {
        l->n = l->count = o->timestep_count;
        return lgv_check_list(o, info->inverse, T, err);
    }
    l->n = o->num_inference_steps;
    if (l->n == 0) l->n = info->default_steps && info->default_steps < T ? info->default_steps : T;
    if (l->all) l->n = T;
    LGV_TRY(lgv_check_steps(l->n, T, err));
    l->count = l->n;
    if (cfg->timestep_spacing == LGV_SPACING_TRAILING && o->compat_diffusers && !l->all)
        l->count = trailing_count(T, l->n);
    if (cfg->timestep_spacing != LGV_SPACING_LEADING || l->all) return LGV_OK;
    int64_t room = T - 1 - (l->n - 1) * (T / l->n);
    if (l->offset <= room) return LGV_OK;
    if (o->compat_diffusers)
        return lgv_fail(err, LGV_ERR_ARGUMENT,
                        "steps_offset %lld takes the first of %lld timesteps to %lld, outside 0 .. "
                        "%lld; take fewer steps "
                        "or leave diffusers' compatibility mode",
                        (long long)l->offset, (long long)l->n,
                        (long long)(T - 1 - room + l->offset), (long long)(T - 1));
    l->offset = room;
    return LGV_OK;
}

lgv_status lgv_timesteps_grid(lgv_sampler_task *task, lgv_error *err)
{
    const lgv_scheduler_config *cfg = task->cfg;
    const lgv_sampler_options *o = task->options;
    const int inverse = task->info->inverse;
    layout l;
    LGV_TRY(choose(cfg, o, task->info, &l, err));
    task->t = lgv_alloc((size_t)l.count, sizeof *task->t);
    if (!task->t)
        return lgv_fail(err, LGV_ERR_MEMORY, "out of memory for %lld timesteps",
                        (long long)l.count);
    for (int64_t i = 0; i < l.count; i++) {
        int64_t down = l.own   ? listed(o, inverse, i)
                       : l.all ? l.n - 1 - i
                               : spaced(cfg, l.n, l.offset, i);
        task->t[inverse ? l.count - 1 - i : i] = down;
    }
    task->n = l.count;
    task->stride = l.own || l.all ? 0 : cfg->num_train_timesteps / l.n;
    return LGV_OK;
}
