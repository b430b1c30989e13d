/* condition.c - the image condition of each row of a batch, made from the row's own picture: what a network for
   super-resolution or inpainting sees beside the noise. Masks are a function of the row's seed, sample and step. */
#include "trainer.h"

#include "dataset.h"
#include "langevin/condition.h"

lgv_status lgv_conditions_new(lgv_trainer *t, lgv_error *err)
{
    const lgv_model_info *m = lgv_model_describe(t->model);
    size_t area = (size_t)(t->side * t->side);
    if (!t->task->pipeline || !m->condition) return LGV_OK;
    if (m->condition == LGV_CONDITION_SUPER_RESOLUTION && t->side % m->condition_scale)
        return lgv_fail(err, LGV_ERR_ARGUMENT,
                        "pictures of %lldx%lld cannot be made %d times smaller (condition_scale)",
                        (long long)t->side, (long long)t->side, m->condition_scale);
    if (m->condition == LGV_CONDITION_INPAINTING && t->options.rng == LGV_RNG_TORCH)
        return lgv_fail(err, LGV_ERR_UNSUPPORTED,
                        "--rng torch repeats a script that draws no masks; inpainting is trained "
                        "with philox");
    t->condition_channels = lgv_condition_channels(m->condition, (int)t->channels);
    t->condition = lgv_alloc((size_t)t->batch * area, (size_t)t->condition_channels * sizeof(float));
    t->mask = lgv_alloc(area, 1);
    if (t->condition && t->mask) return LGV_OK;
    return lgv_fail(err, LGV_ERR_MEMORY, "out of memory for the conditions of a batch");
}

/* Of one picture x0 [side][side][channels], into out [side][side][condition_channels]. */
static lgv_status make(lgv_trainer *t, const lgv_row *row, const float *x0, float *out,
                       lgv_error *err)
{
    const lgv_model_info *m = lgv_model_describe(t->model);
    if (m->condition == LGV_CONDITION_SUPER_RESOLUTION)
        return lgv_condition_degrade(t->side, t->side, t->channels, x0, m->condition_scale, out,
                                     err);
    lgv_condition_random_mask(row->seed, row->sample, row->step, t->side, t->side, t->mask);
    lgv_condition_mask(t->side, t->side, t->channels, x0, t->mask, out);
    return LGV_OK;
}

lgv_status lgv_conditions_fill(lgv_trainer *t, lgv_plan *plan, lgv_error *err)
{
    const int64_t each = t->side * t->side * t->condition_channels;
    if (!t->condition) return LGV_OK;
    for (int64_t i = 0; i < t->batch; i++)
        LGV_TRY(make(t, &lgv_plan_step(plan)->row[i], t->x0 + i * t->pixels,
                     t->condition + i * each, err));
    return lgv_plan_write(plan, "condition", t->condition, t->batch * each, err);
}

lgv_status lgv_conditions_example(lgv_trainer *t, int64_t n, float *out, lgv_error *err)
{
    const int validation = lgv_dataset_validation_count(t->data) > 0;
    const int64_t area = t->side * t->side, C = t->condition_channels,
                  count = validation ? lgv_dataset_validation_count(t->data)
                                     : lgv_dataset_count(t->data);
    float *x0 = lgv_alloc((size_t)t->pixels, sizeof *x0),
          *condition = lgv_alloc((size_t)(area * C), sizeof *condition);
    uint8_t *pixels = lgv_alloc((size_t)t->pixels, 1);
    lgv_status s = x0 && condition && pixels
                       ? LGV_OK
                       : lgv_fail(err, LGV_ERR_MEMORY, "out of memory for conditions");
    for (int64_t i = 0; i < n && !s; i++, out += area * C) {
        const lgv_row row = {.seed = lgv_validation_seed, .sample = (uint64_t)i};
        s = lgv_dataset_read(t->data, validation, i % count, lgv_validation_seed, (uint64_t)i,
                             pixels, NULL, err);
        if (!s) lgv_pixels_to_f32(t->pixels, pixels, x0);
        if (!s) s = make(t, &row, x0, condition, err);
        if (!s) lgv_to_planes(C, area, condition, out);
    }
    lgv_free(x0);
    lgv_free(condition);
    lgv_free(pixels);
    return s;
}
