/* known.c - pictures that sampling begins with: image-to-image, which goes from a noised picture (SDEdit, arXiv 2108.01073),
   and inpainting, which keeps what a mask leaves out (RePaint, arXiv 2201.09865, algorithm 1). */
#include "core/core.h"
#include "diffusion/pipeline_internal.h"

static lgv_status check(const lgv_sample_options *o, lgv_error *err)
{
    if (o->mask && !o->init_image)
        return lgv_fail(err, LGV_ERR_ARGUMENT, "a mask needs the picture it belongs to");
    if (o->strength != 0 && !o->init_image)
        return lgv_fail(err, LGV_ERR_ARGUMENT, "strength says how far a picture is noised; there is none");
    if (!(o->strength >= 0 && o->strength <= 1))
        return lgv_fail(err, LGV_ERR_ARGUMENT, "strength must be above 0 and at most 1, is %g",
                        o->strength);
    return LGV_OK;
}

/* Steps between noise levels: calls of the network, or half of them where a step asks twice. */
static lgv_status count_steps(const lgv_pipeline *p, const lgv_sampler_options *options, int64_t *n,
                              lgv_error *err)
{
    lgv_sampler_options o = *options;
    lgv_sampler *sampler;
    o.jump_length = o.jump_n_sample = 0;
    LGV_TRY(lgv_pipeline_sampler(p, &o, &sampler, err));
    const lgv_sampler_info *info = lgv_sampler_kind(sampler);
    int64_t calls = lgv_sampler_steps(sampler);
    bool inverse = info->inverse;
    *n = o.timestep_count           ? o.timestep_count
         : o.num_inference_steps > 0 ? lgv_min_i64(o.num_inference_steps, calls)
         : info->default_steps       ? lgv_min_i64(info->default_steps, calls)
                                     : calls;
    lgv_sampler_free(sampler);
    return inverse ? lgv_fail(err, LGV_ERR_ARGUMENT, "an inversion takes its picture as init_noise")
                   : LGV_OK;
}

lgv_status lgv_known_skip(const lgv_pipeline *p, const lgv_sample_options *o,
                          lgv_sampler_options *sampler, bool *from_noise, lgv_error *err)
{
    const double strength = o->strength > 0 ? o->strength : o->mask ? 1 : 0.8;
    int64_t n;
    LGV_TRY(check(o, err));
    *from_noise = o->mask && strength == 1;
    if (!o->init_image || strength == 1) return LGV_OK;
    LGV_TRY(count_steps(p, sampler, &n, err));
    const int64_t done = lgv_max_i64(1, (int64_t)((double)n * strength)); /* as diffusers, but never none */
    sampler->skip_steps = n - done;
    return LGV_OK;
}

void lgv_known_begin(const lgv_step_coef *k, int64_t n, const float *image, float *x)
{
    for (int64_t i = 0; i < n; i++) x[i] = k->image * image[i] + k->noise * x[i];
}

void lgv_known_keep(const lgv_step_coef *k, int64_t planes, int64_t HW, const uint8_t *mask,
                    const float *image, const float *noise, float *x)
{
    const float a = k->after_image, b = k->after_noise;
    for (int64_t c = 0; c < planes; c++, image += HW, noise += HW, x += HW)
        for (int64_t p = 0; p < HW; p++)
            if (!mask[p]) x[p] = a * image[p] + b * noise[p];
}
