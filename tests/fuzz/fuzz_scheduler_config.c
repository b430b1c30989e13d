/* fuzz_scheduler_config.c - scheduler_config.json, and what follows from one: another class, the
   tables of the schedule. */
#include "core/core.h"
#include "fuzz.h"
#include "langevin/sampler.h"

enum { MOST_STEPS = 200 };

static void use(const lgv_scheduler_config *cfg)
{
    lgv_scheduler_config other = {0};
    lgv_schedule *schedule = NULL;
    lgv_error err = {0};
    MUST(!lgv_scheduler_config_switch(cfg, "DDIMScheduler", &other, &err));
    if (other.num_train_timesteps <= MOST_STEPS) {
        lgv_status status = lgv_schedule_new(&other, &schedule, &err);
        MUST_SAY(status, err);
        if (!status) {
            MUST(schedule->T >= 1);
            (void)lgv_schedule_loss_weight(schedule, schedule->T - 1, 5);
            lgv_schedule_free(schedule);
        }
    }
    lgv_scheduler_config_clear(&other);
}

/* Whatever the file says, a sampler is made of it or a sentence says why not. */
static void sample(const lgv_scheduler_config *cfg)
{
    if (cfg->num_train_timesteps > MOST_STEPS) return;
    for (int i = 0; i < lgv_sampler_count(); i++) {
        const lgv_sampler_info *info = lgv_sampler_at(i);
        const lgv_sampler_options o = {.sampler = i % 2 ? info->name : info->class_name,
                                       .num_inference_steps = 1 + i % 7};
        lgv_sampler *s = NULL;
        lgv_error err = {0};
        lgv_status status = lgv_sampler_new(cfg, &o, &s, &err);
        MUST_SAY(status, err);
        if (!status) MUST(lgv_sampler_steps(s) >= 1 && lgv_sampler_history(s) <= LGV_HISTORY);
        lgv_sampler_free(s);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    lgv_scheduler_config cfg = {0};
    lgv_error err = {0};
    lgv_status status = lgv_scheduler_config_parse((const char *)data, size, "input", &cfg, &err);
    MUST_SAY(status, err);
    if (status) return 0;
    use(&cfg);
    sample(&cfg);
    lgv_scheduler_config_clear(&cfg);
    return 0;
}
