/* resample.c - resampling for inpainting (RePaint, arXiv 2201.09865, sec. 4.2): every so many steps the picture is noised again and
   the steps are taken once more, so that what is painted and what is kept grow together. The list of steps
   grows by the repeated ones; each of them is what it was. */
#include <math.h>

#include "core/core.h"
#include "diffusion/scheduler.h"

enum { MOST_CALLS = 10000000 };

/* Step t of n counted from the end, n-1 first, is visited again `again` times where t is a multiple of length and there
   are length steps above it. */
typedef struct walk {
    int64_t n, length, again;
    int64_t *left; /* [n] */
} walk;

static int64_t jumps_at(const walk *w, int64_t t)
{
    return t % w->length == 0 && t < w->n - w->length ? w->again : 0;
}

/* After this step back to the noise before that one. */
static void jump(const lgv_step_coef *to, lgv_step_coef *out)
{
    const double ratio = (double)to->image / (double)out->after_image,
                 kept = ratio * (double)out->after_noise,
                 rest = (double)to->noise * (double)to->noise - kept * kept;
    out->jump_x = (float)ratio;
    out->jump_z = (float)sqrt(rest > 0 ? rest : 0);
}

static void fill(walk *w, const lgv_step_coef *list, lgv_step_coef *out)
{
    for (int64_t t = w->n - 1; t >= 0; t--, out++) {
        *out = list[w->n - 1 - t];
        if (!w->left[t]) continue;
        w->left[t]--;
        t += w->length;
        jump(&list[w->n - t], out);
    }
}

lgv_status lgv_resample_steps(const lgv_sampler_options *o, lgv_step_coef **coef, int64_t *n,
                              lgv_error *err)
{
    walk w = {.n = *n, .length = o->jump_length, .again = o->jump_n_sample - 1};
    if (!o->jump_length && !o->jump_n_sample) return LGV_OK;
    if (w.length < 1 || w.again < 0 || w.again > MOST_CALLS)
        return lgv_fail(err, LGV_ERR_ARGUMENT,
                        "jumps of %lld steps, %lld times, cannot be made: both must be at least 1",
                        (long long)o->jump_length, (long long)o->jump_n_sample);
    int64_t calls = w.n;
    for (int64_t t = 0; t < w.n && calls <= MOST_CALLS; t++) calls += jumps_at(&w, t) * w.length;
    if (calls > MOST_CALLS)
        return lgv_fail(err, LGV_ERR_ARGUMENT,
                        "jumps of %lld steps, %lld times, take too many network calls",
                        (long long)o->jump_length, (long long)o->jump_n_sample);
    lgv_step_coef *all = lgv_alloc((size_t)calls, sizeof *all);
    w.left = lgv_alloc((size_t)w.n, sizeof *w.left);
    if (all && w.left) {
        for (int64_t t = 0; t < w.n; t++) w.left[t] = jumps_at(&w, t);
        fill(&w, *coef, all);
        lgv_free(*coef);
        *coef = all;
        *n = calls;
    }
    lgv_free(w.left);
    if (*coef == all) return LGV_OK;
    lgv_free(all);
    return lgv_fail(err, LGV_ERR_MEMORY, "out of memory for %lld sampler steps", (long long)calls);
}
