/* sampler_pndm.c - PNDM (arXiv 2202.09778): noise extrapolated by Adams-Bashforth (PLMS), moved with eq. 9. The
   first steps are Runge-Kutta with four calls each, or, with skip_prk_steps, of lower order: the second step is taken
   twice. */
#include <math.h>

#include "core/core.h"
#include "diffusion/combo.h"

enum {
    RK_CALLS = 12,
    BASE = 5
}; /* slots 0-2: answers of earlier steps; 3, 4: of this Runge-Kutta step; 5: its x */

static double abar_of(const lgv_sampler_task *task, int64_t t)
{
    const lgv_schedule *s = task->schedule;
    if (t < 0) return task->cfg->set_alpha_to_one ? 1 : s->alphas_cumprod[0];
    return s->alphas_cumprod[lgv_min_i64(t, s->T - 1)];
}

/* x of timestep t with this answer, moved to timestep prev (eq. 9). */
static void move(const lgv_sampler_task *task, const lgv_combo *x, const lgv_combo *answer,
                 int64_t t, int64_t prev, lgv_step_coef *out)
{
    const double a = abar_of(task, t), to = abar_of(task, prev);
    const double factor = -(to - a) / (a * sqrt(1 - to) + sqrt(a * (1 - a) * to));
    lgv_combo next = {0};
    lgv_combo_add(&next, sqrt(to / a), x);
    if (task->cfg->prediction_type == LGV_PREDICT_V) {
        lgv_combo_add(&next, factor * sqrt(a), answer);
        lgv_combo_add(&next, factor * sqrt(1 - a), x);
    } else {
        lgv_combo_add(&next, factor, answer);
    }
    lgv_combo_next(&next, out);
}

static lgv_combo slot(int64_t i)
{
    lgv_combo term = {0};
    term.h[i] = 1;
    return term;
}

/* Runge-Kutta call i of 12. */
static void runge_kutta(const lgv_sampler_task *task, int64_t i, lgv_step_coef *out)
{
    const int64_t stage = i % 4, half = task->stride / 2;
    const int64_t prev = task->t[i] - (i % 2 ? 0 : half);
    const lgv_combo now = {.out = 1}, x = stage ? slot(BASE) : (lgv_combo){.x = 1};
    lgv_combo answer = now;
    if (stage == 3) {
        answer = (lgv_combo){.out = 1.0 / 6};
        answer.h[i / 4 % 3] = 1.0 / 6;
        answer.h[3] = answer.h[4] = 1.0 / 3;
    }
    move(task, &x, &answer, task->t[i - stage], prev, out);
    if (stage < 3) lgv_combo_keep(&now, stage ? (int)stage + 2 : (int)(i / 4 % 3), out);
    if (!stage) out->keep_sample = BASE + 1;
}

/* Adams-Bashforth with `past` earlier answers, the latest of which is number `last`. */
static lgv_combo extrapolate(int64_t past, int64_t last)
{
    static const double weight[4][4] = {{1},
                                        {3 / 2.0, -1 / 2.0},
                                        {23 / 12.0, -16 / 12.0, 5 / 12.0},
                                        {55 / 24.0, -59 / 24.0, 37 / 24.0, -9 / 24.0}};
    lgv_combo answer = {.out = weight[past][0]};
    for (int64_t k = 1; k <= past; k++) answer.h[(last + 1 - k) % 3] = weight[past][k];
    return answer;
}

static void adams(const lgv_sampler_task *task, int64_t i, lgv_step_coef *out)
{
    const int64_t t = task->t[i], call = i - task->begin; /* as if the list began here */
    const lgv_combo now = {.out = 1}, x = {.x = 1};
    if (task->cfg->skip_prk_steps && call == 1) { /* the first step again, with the mean answer */
        lgv_combo answer = {.out = 0.5}, base = slot(BASE);
        answer.h[0] = 0.5;
        move(task, &base, &answer, t + task->stride, t, out);
        return;
    }
    /* answers kept so far: 3 of Runge-Kutta, or one less than calls, as the second was not kept */
    const int64_t kept = task->cfg->skip_prk_steps ? (call ? call - 1 : 0) : 3 + i - RK_CALLS;
    const lgv_combo answer = extrapolate(lgv_min_i64(kept, 3), kept - 1);
    move(task, &x, &answer, t, t - task->stride, out);
    lgv_combo_keep(&now, (int)(kept % 3), out);
    if (!call && task->cfg->skip_prk_steps) out->keep_sample = BASE + 1;
}

static void coef(const lgv_sampler_task *task, int64_t i, lgv_step_coef *out)
{
    lgv_sampler_predict(task, (float)abar_of(task, task->t[i]), out);
    if (!task->cfg->skip_prk_steps && i < RK_CALLS)
        runge_kutta(task, i, out);
    else
        adams(task, i, out);
}

/* Each of the first four timesteps and the points half a step after the last three, asked in Runge-Kutta's order. */
static void runge_kutta_times(const int64_t *t, int64_t half, int64_t *out)
{
    for (int64_t step = 0; step < 3; step++, out += 4) {
        out[0] = t[step];
        out[1] = out[2] = t[step + 1] + half;
        out[3] = t[step + 1];
    }
}

static lgv_status check(lgv_scheduler_config *cfg, const lgv_sampler_options *o, lgv_error *err)
{
    LGV_TRY(lgv_refuse_sample(cfg, o, err));
    if (o->timestep_count)
        return lgv_fail(err, LGV_ERR_ARGUMENT,
                        "pndm needs evenly spaced timesteps; give a number of steps");
    if (!cfg->skip_prk_steps && o->skip_steps)
        return lgv_fail(
            err, LGV_ERR_ARGUMENT,
            "pndm cannot begin in the middle; take plms, which has no Runge-Kutta steps");
    return LGV_OK;
}

static lgv_status grid(lgv_sampler_task *task, lgv_error *err)
{
    LGV_TRY(lgv_timesteps_grid(task, err));
    const int64_t n = task->n, skip = task->cfg->skip_prk_steps;
    if (!task->stride) task->stride = 1;
    if (!skip && n < 4)
        return lgv_fail(err, LGV_ERR_ARGUMENT,
                        "pndm takes at least 4 steps, not %lld; take plms, or skip_prk_steps",
                        (long long)n);
    const int64_t calls = !skip ? n + 9 : n > 1 ? n + 1 : n;
    int64_t *t = lgv_alloc((size_t)calls, sizeof *t);
    if (!t)
        return lgv_fail(err, LGV_ERR_MEMORY, "out of memory for %lld timesteps", (long long)calls);
    if (skip) {
        for (int64_t i = 0; i < calls; i++) t[i] = task->t[i > 1 ? i - 1 : i];
    } else {
        runge_kutta_times(task->t, task->stride / 2, t);
        for (int64_t i = RK_CALLS; i < calls; i++) t[i] = task->t[i - RK_CALLS + 3];
    }
    lgv_free(task->t);
    task->t = t;
    task->n = calls;
    return LGV_OK;
}

const lgv_sampler_record lgv_sampler_pndm = {
    {"pndm", "PNDMScheduler",
     "noise extrapolated, after Runge-Kutta steps (Liu et al. 2022), 50 steps", 50, 0, NULL},
    check,
    grid,
    coef};
const lgv_sampler_record lgv_sampler_plms = {{"plms", "PNDMScheduler",
                                              "the same without the Runge-Kutta steps", 50, 0,
                                              "skip_prk_steps=true"},
                                             check,
                                             grid,
                                             coef};
