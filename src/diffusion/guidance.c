/* guidance.c - which class each picture of a job is to show, and how strongly: classifier-free guidance
   (arXiv 2207.12598) within an interval of the steps (arXiv 2404.07724). */
#include <math.h>

#include "core/core.h"
#include "diffusion/pipeline_internal.h"

static const double default_scale = 3;

static lgv_status check_labels(const lgv_guidance *g, const lgv_model_info *info, int64_t n,
                               lgv_error *err)
{
    if (info->class_kind == LGV_CLASS_NONE && g->labels && !g->classes)
        return lgv_fail(err, LGV_ERR_ARGUMENT,
                        "the model is unconditional and takes no class labels");
    for (int64_t i = 0; info->class_kind == LGV_CLASS_NONE && g->labels && i < n; i++)
        if (g->labels[i] < -1)
            return lgv_fail(err, LGV_ERR_ARGUMENT,
                            "class label %d of picture %lld is none; -1 stands for no class",
                            g->labels[i], (long long)i);
    if (info->class_kind == LGV_CLASS_TIMESTEP && !g->labels)
        return lgv_fail(err, LGV_ERR_ARGUMENT,
                        "the model is class-conditional: give a class label for each picture");
    if (info->class_kind == LGV_CLASS_TIMESTEP && info->num_train_timesteps)
        for (int64_t i = 0; i < n; i++)
            if (g->labels[i] < 0 || g->labels[i] >= info->num_train_timesteps)
                return lgv_fail(err, LGV_ERR_ARGUMENT,
                                "class label %d of picture %lld lies outside the model's table of "
                                "timesteps, 0 .. %d",
                                g->labels[i], (long long)i, info->num_train_timesteps - 1);
    for (int64_t i = 0; info->class_kind == LGV_CLASS_TABLE && g->labels && i < n; i++) {
        int label = g->labels[i];
        if (label == -1 && g->null_label < 0)
            return lgv_fail(err, LGV_ERR_ARGUMENT,
                            "picture %lld is to show no class, but nothing says which label of the "
                            "model stands for none; name it (null class)",
                            (long long)i);
        if (label < -1 || label >= info->class_count)
            return lgv_fail(err, LGV_ERR_ARGUMENT,
                            "class label %d of picture %lld lies outside 0 .. %d", label,
                            (long long)i, info->class_count - 1);
    }
    return LGV_OK;
}

static lgv_status check_numbers(const lgv_sample_options *o, lgv_error *err)
{
    double stop = o->guidance_stop == 0 ? 1 : o->guidance_stop;
    if (!(o->guidance_scale >= 0 && o->guidance_scale <= 1000))
        return lgv_fail(err, LGV_ERR_ARGUMENT,
                        "the guidance scale must be a number above 0, at most 1000, is %g",
                        o->guidance_scale);
    if (!(o->guidance_rescale >= 0 && o->guidance_rescale <= 1))
        return lgv_fail(err, LGV_ERR_ARGUMENT, "guidance_rescale must be 0 to 1, is %g",
                        o->guidance_rescale);
    if (!(o->guidance_start >= 0 && o->guidance_start < stop && stop <= 1))
        return lgv_fail(err, LGV_ERR_ARGUMENT,
                        "the guidance interval goes from a share of the steps to a larger one, "
                        "between 0 and 1; it is %g to %g",
                        o->guidance_start, stop);
    return LGV_OK;
}

static lgv_status check_scale(const lgv_guidance *g, const lgv_model_info *info, lgv_error *err)
{
    if (g->scale == 1) return LGV_OK;
    if (info->class_kind == LGV_CLASS_NONE)
        return lgv_fail(err, LGV_ERR_ARGUMENT,
                        "the model is unconditional: without classes there is nothing to guide");
    if (g->null_label < 0)
        return lgv_fail(err, LGV_ERR_ARGUMENT,
                        "guidance compares with the answer for no class, and nothing says which of "
                        "the model's %d labels stands for none; name it (null class), or leave "
                        "the guidance at 1",
                        info->class_count);
    return LGV_OK;
}

double lgv_pipeline_guidance(const lgv_pipeline *p, const lgv_sample_options *o)
{
    if (o->guidance_scale != 0) return o->guidance_scale;
    return p->null_label >= 0 ? default_scale : 1;
}

lgv_status lgv_guidance_make(const lgv_pipeline *p, const lgv_sample_options *o, int64_t n,
                             int64_t steps, lgv_guidance *out, lgv_error *err)
{
    const lgv_model_info *info = lgv_model_describe(p->model);
    bool table = info->class_kind == LGV_CLASS_TABLE;
    double stop = o->guidance_stop == 0 ? 1 : o->guidance_stop;
    lgv_guidance g = {.labels = o->labels,
                      .null_label = table ? p->null_label : -1,
                      .rescale = o->guidance_rescale,
                      .channels = o->guidance_channels ? o->guidance_channels : info->picture_channels};
    LGV_TRY(check_numbers(o, err));
    if (table)
        g.classes = info->class_names ? info->class_names : info->class_count - (g.null_label >= 0);
    if (p->classifier) g.classes = lgv_model_describe(lgv_pipeline_classifier(p))->labels;
    g.scale = lgv_pipeline_guidance(p, o);
    /* Truncated as diffusers' guiders do, so that the same numbers mean the same steps. */
    g.first = (int64_t)(o->guidance_start * (double)steps);
    g.end = (int64_t)(stop * (double)steps);
    LGV_TRY(check_labels(&g, info, n, err));
    LGV_TRY(check_scale(&g, info, err));
    if (g.channels < 1 || g.channels > info->picture_channels)
        return lgv_fail(err, LGV_ERR_ARGUMENT, "%d channels cannot be guided, the model has %d",
                        g.channels, info->picture_channels);
    *out = g;
    return LGV_OK;
}

int32_t lgv_guidance_label(const lgv_guidance *g, int64_t image)
{
    if (!g->labels) return g->classes ? (int32_t)(image % g->classes) : 0;
    return g->labels[image] == -1 && g->null_label >= 0 ? g->null_label : g->labels[image];
}

int32_t lgv_guidance_class(const lgv_guidance *g, int64_t image)
{
    int32_t label = lgv_guidance_label(g, image);
    return label == g->null_label ? -1 : label;
}

bool lgv_guidance_within(const lgv_guidance *g, int64_t step, int64_t first, int64_t count)
{
    if (step < g->first || step >= g->end) return false;
    for (int64_t i = first; i < first + count; i++)
        if (lgv_guidance_class(g, i) >= 0) return true;
    return false;
}

int lgv_guidance_at(const lgv_guidance *g, int64_t step, int64_t first, int64_t count)
{
    bool off = g->scale == 1 || g->null_label < 0;
    return !off && lgv_guidance_within(g, step, first, count) ? g->channels : 0;
}

void lgv_guidance_row(const lgv_guidance *g, int64_t image, int32_t partner, lgv_row *row)
{
    row->label = lgv_guidance_label(g, image);
    row->partner = row->label == g->null_label ? -1 : partner;
    row->guidance = (float)g->scale;
    row->guidance_rescale = (float)g->rescale;
}
