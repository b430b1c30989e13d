/* watch.c - is the run still learning? Tells a loss that has left its course from an unlucky batch.
   The loss of one batch spreads over a decade, since it depends on the timesteps drawn, so what is
   compared is the geometric mean of the last 2000 samples or so with the best such mean: one wild batch
   cannot move it far, whatever its size. */
#include "trainer.h"

#include <math.h>

#include "core/elementary.h"

enum { WINDOW_SAMPLES = 2000, WINDOW_LEAST = 50, WINDOW_MOST = 2000 };

/* Steps that the mean reaches back, and that it must stay above the bound. */
static int64_t window(const lgv_trainer *t)
{
    int64_t n = WINDOW_SAMPLES / t->effective;
    return n < WINDOW_LEAST ? WINDOW_LEAST : lgv_min_i64(n, WINDOW_MOST);
}

static bool watching(const lgv_trainer *t)
{
    return t->options.max_loss_growth != LGV_OFF;
}

static double mean(const lgv_loss_watch *w)
{
    return w->weight > 0 ? w->sum / w->weight : 0;
}

void lgv_watch_loss(lgv_trainer *t, double loss)
{
    lgv_loss_watch *w = &t->state.watch;
    if (!isfinite(loss) || loss <= 0) return; /* counted elsewhere; a loss of 0 has no logarithm */
    int64_t n = window(t);
    double keep = 1 - 1 / (double)n;
    w->sum = keep * w->sum + (1 - keep) * lgv_log(loss);
    w->weight = keep * w->weight + (1 - keep);
    w->seen++;
    if (w->seen < n / 5) return;
    double now = mean(w);
    if (w->seen == n / 5 || now < w->best) {
        w->best = now;
        w->best_step = t->state.step;
    }
    double bound = watching(t) ? lgv_log(t->options.max_loss_growth) : INFINITY;
    w->high = now - w->best > bound ? w->high + 1 : 0;
}

bool lgv_watch_healthy(const lgv_train_state *s)
{
    return !s->bad && !s->watch.high;
}

/* "; the last good checkpoint is ..." The newest one in the run's folder that is whole and was saved in good health. */
static lgv_status stop(lgv_trainer *t, const char *what, lgv_error *err)
{
    char *found = t->output ? lgv_checkpoint_last_good(t->output) : NULL;
    const char *good = found ? found : t->last_checkpoint;
    lgv_status s =
        good ? lgv_fail(err, LGV_ERR_NUMERIC,
                        "%s; the last good checkpoint is '%s': go on from it with a lower "
                        "--learning-rate than %g (or look at the pictures; --max-loss-growth 0 "
                        "never stops)",
                        what, good, t->options.learning_rate)
             : lgv_fail(err, LGV_ERR_NUMERIC,
                        "%s; there is no checkpoint yet: start again with a lower --learning-rate "
                        "than %g (--max-loss-growth 0 never stops)",
                        what, t->options.learning_rate);
    lgv_free(found);
    return s;
}

lgv_status lgv_watch_check(lgv_trainer *t, lgv_error *err)
{
    const lgv_loss_watch *w = &t->state.watch;
    char what[256];
    if (!watching(t)) return LGV_OK;
    if (t->state.bad >= LGV_BAD_STEPS) {
        snprintf(what, sizeof what,
                 "loss or gradient was not finite in %d steps in a row (up to step %lld)",
                 LGV_BAD_STEPS, (long long)t->state.step);
        return stop(t, what, err);
    }
    if (w->high < window(t)) return LGV_OK;
    snprintf(what, sizeof what,
             "the loss has exploded: %.3g on average at step %lld, after %.3g at step %lld",
             exp(mean(w)), (long long)t->state.step, exp(w->best), (long long)w->best_step);
    return stop(t, what, err);
}

enum { RISES_TOLD = 5 };

char *lgv_watch_validation(lgv_train_state *s, double loss)
{
    bool rose = s->validation_loss > 0 && loss > s->validation_loss;
    s->validation_rises = rose ? s->validation_rises + 1 : 0;
    if (!(s->validation_best > 0) || loss < s->validation_best) s->validation_best = loss;
    s->validation_loss = loss;
    if (!rose || s->validation_rises % RISES_TOLD) return NULL;
    return lgv_format(
        "the validation loss has risen %lld times in a row, to %.4g from %.4g at its "
        "best: the network is learning its pictures by heart; more pictures, "
        "--random-flip, dropout or fewer steps help, and an earlier checkpoint may be "
        "the better model",
        (long long)s->validation_rises, loss, s->validation_best);
}
