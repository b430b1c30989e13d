/* guide.c - a classifier that guides a model: its options, and what it means for the classes. */
#include "guide.h"

int cli_read_guide(const cli_command *self, const cli_guide *given, bool scale_stated,
                   cli_guide *out)
{
    *out = *given;
    if (!scale_stated) out->scale = 1;
    if (scale_stated && !given->path)
        return cli_error(self, CLI_USAGE,
                         "--classifier-scale belongs to --classifier DIR; classifier-free guidance "
                         "is --guidance-scale");
    if (out->scale > 0 && out->scale <= 10000) return -1;
    return cli_error(self, CLI_USAGE,
                     "--classifier-scale must be more than 0 and at most 10000, not %g; leave "
                     "--classifier out to draw without",
                     out->scale);
}

lgv_status cli_open_guided(lgv_device *device, const char *model, lgv_model_weights weights,
                           const cli_guide *guide, lgv_pipeline **out, lgv_error *err)
{
    lgv_status status = lgv_pipeline_open(device, model, weights, out, err);
    if (status || !guide->path) return status;
    return lgv_pipeline_set_classifier(*out, guide->path, err);
}

const lgv_model *cli_class_model(const lgv_pipeline *p)
{
    const lgv_model *classifier = lgv_pipeline_classifier(p);
    return classifier ? classifier : lgv_pipeline_model(p);
}
