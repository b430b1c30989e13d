/* sample_input.c - the first x of sampling: a file's noise, a picture (sample_picture.c), or mixtures of two
   seeds' noise. */
#include <stdlib.h>
#include <string.h>

#include "classes.h"
#include "langevin/safetensors.h"
#include "sample.h"

float *sample_floats(int64_t count, lgv_error *err)
{
    float *p = count > 0 && count < INT64_MAX / 8 ? malloc((size_t)count * sizeof *p) : NULL;
    if (!p) cli_status(err, LGV_ERR_MEMORY, "out of memory for %lld numbers", (long long)count);
    return p;
}

static int64_t pixels(const sample_input *in)
{
    return in->channels * in->height * in->width;
}

/* ---- noise from a file ---- */

static lgv_status read_tensor(const lgv_tensor_info *t, float **out, lgv_error *err)
{
    float *p = sample_floats(t->count, err);
    if (!p) return err->status;
    lgv_status status = lgv_tensor_to_f32(t, p, err);
    if (status)
        free(p);
    else
        *out = p;
    return status;
}

static lgv_status check_noise(const sample_args *a, const lgv_tensor_info *t,
                              const sample_input *in, lgv_error *err)
{
    if (!t) return cli_status(err, LGV_ERR_FORMAT, "'%s' has no tensor 'noise'", a->init_noise);
    if (t->rank != 4 || t->dim[1] != in->channels || !t->count)
        return cli_status(err, LGV_ERR_SHAPE,
                          "'%s': tensor 'noise' must have shape (N, %lld, H, W) for this model",
                          a->init_noise, (long long)in->channels);
    if (a->num_images && a->num_images != t->dim[0])
        return cli_status(err, LGV_ERR_SHAPE,
                          "'%s' holds noise for %lld pictures, --num-images says %lld",
                          a->init_noise, (long long)t->dim[0], (long long)a->num_images);
    if (a->resolution && (a->resolution != t->dim[2] || a->resolution != t->dim[3]))
        return cli_status(err, LGV_ERR_SHAPE,
                          "'%s' holds noise of %lldx%lld, --resolution says %lld", a->init_noise,
                          (long long)t->dim[2], (long long)t->dim[3], (long long)a->resolution);
    return LGV_OK;
}

static lgv_status check_step_noise(const sample_args *a, const lgv_pipeline *p,
                                   const lgv_tensor_info *t, const sample_input *in, lgv_error *err)
{
    int64_t calls;
    lgv_status status = lgv_pipeline_calls(p, &(lgv_sample_options){.sampler = a->sampler}, &calls, err);
    if (status) return status;
    const int64_t want[5] = {calls, in->n, in->channels, in->height, in->width};
    if (t->rank == 5 && !memcmp(t->dim, want, sizeof want)) return LGV_OK;
    return cli_status(err, LGV_ERR_SHAPE,
                      "'%s': tensor 'step_noise' must have shape (%lld, %lld, %lld, %lld, %lld)",
                      a->init_noise, (long long)want[0], (long long)want[1], (long long)want[2],
                      (long long)want[3], (long long)want[4]);
}

static lgv_status from_file(const sample_args *a, const lgv_pipeline *p, sample_input *in,
                            lgv_error *err)
{
    lgv_safetensors *f = NULL;
    lgv_status status = lgv_safetensors_open(a->init_noise, &f, err);
    if (status) return status;
    const lgv_tensor_info *noise = lgv_safetensors_find(f, "noise"),
                          *steps = lgv_safetensors_find(f, "step_noise");
    status = check_noise(a, noise, in, err);
    if (!status) {
        in->n = noise->dim[0];
        in->height = noise->dim[2];
        in->width = noise->dim[3];
        status = read_tensor(noise, &in->noise, err);
    }
    if (!status && steps) status = check_step_noise(a, p, steps, in, err);
    if (!status && steps) status = read_tensor(steps, &in->step_noise, err);
    lgv_safetensors_close(f);
    return status;
}

/* ---- between two seeds ---- */

static lgv_status check_deterministic(const sample_args *a, const lgv_pipeline *p, lgv_error *err)
{
    lgv_sampler_options o = a->sampler;
    lgv_sampler *sampler = NULL;
    const lgv_scheduler_config *cfg = lgv_pipeline_scheduler(p);
    if (o.sampler && !strcmp(o.sampler, "model")) o.sampler = cfg->class_name;
    lgv_status status = lgv_sampler_new(cfg, &o, &sampler, err);
    if (!status && lgv_sampler_stochastic(sampler))
        status =
            cli_status(err, LGV_ERR_ARGUMENT,
                       "--interpolate needs a sampler without noise of its own, such as dpmpp_2m, or ddim with eta 0");
    lgv_sampler_free(sampler);
    return status;
}

static lgv_status between_seeds(const sample_args *a, const lgv_pipeline *p, sample_input *in,
                                lgv_error *err)
{
    lgv_status status = check_deterministic(a, p, err);
    if (status) return status;
    int64_t n = pixels(in);
    in->n = a->num_images ? a->num_images : 8;
    float *ends = sample_floats(2 * n, err);
    in->noise = ends ? sample_floats(in->n * n, err) : NULL;
    in->weight = malloc((size_t)in->n * sizeof *in->weight);
    if (!ends || !in->noise || !in->weight)
        status = cli_status(err, LGV_ERR_MEMORY, "out of memory for %lld frames", (long long)in->n);
    if (!status)
        status = lgv_noise_init(a->rng, a->seed, in->channels, in->height, in->width, ends, err);
    if (!status)
        status =
            lgv_noise_init(a->rng, a->seed_b, in->channels, in->height, in->width, ends + n, err);
    for (int64_t i = 0; i < in->n && !status; i++) {
        in->weight[i] = in->n > 1 ? (double)i / (double)(in->n - 1) : 0.5;
        lgv_slerp(n, ends, ends + n, in->weight[i], in->noise + i * n);
    }
    free(ends);
    return status;
}

/* ---- classes ---- */

enum { SHOWN = 16 }; /* classes drawn when neither they nor a number of pictures was stated */

/* The classes asked for, in turn: list[*n]; NULL where there are none. */
static lgv_status read_classes(const sample_args *a, lgv_pipeline *p, int32_t **list, int64_t *n,
                               lgv_error *err)
{
    const lgv_model *model = cli_class_model(p);
    const lgv_model_info *m = lgv_model_describe(model);
    const bool none = !m->labels && m->class_kind == LGV_CLASS_NONE;
    lgv_status status = LGV_OK;
    *list = NULL;
    *n = 1;
    if (a->null_class >= 0) status = lgv_pipeline_set_null_label(p, (int)a->null_class, err);
    if (status) return status;
    if (none && a->classes)
        return cli_status(err, LGV_ERR_ARGUMENT,
                          "--class: the model '%s' was trained without classes; a classifier can "
                          "guide it (--classifier)",
                          a->model);
    if (m->class_kind == LGV_CLASS_TIMESTEP && !a->classes)
        return cli_status(err, LGV_ERR_ARGUMENT,
                          "the model takes its class as a number; give it with --class");
    if (none) return LGV_OK;
    status = cli_classes_read(model,
                              a->classes       ? a->classes
                              : a->interpolate ? "#0"
                                               : "all",
                              list, n, err);
    if (!status && !a->classes && !a->num_images && *n > SHOWN) *n = SHOWN;
    return status;
}

static lgv_status give_labels(sample_input *in, const int32_t *list, int64_t n, lgv_error *err)
{
    if (!list) return LGV_OK;
    in->label = malloc((size_t)in->n * sizeof *in->label);
    if (!in->label) return cli_status(err, LGV_ERR_MEMORY, "out of memory for classes");
    for (int64_t i = 0; i < in->n; i++) in->label[i] = list[i % n];
    return LGV_OK;
}

lgv_status sample_input_make(const sample_args *a, lgv_pipeline *pipeline, bool inverse,
                             sample_input *out, lgv_error *err)
{
    const lgv_model_info *m = lgv_model_describe(lgv_pipeline_model(pipeline));
    int32_t *list;
    int64_t classes;
    lgv_status status = read_classes(a, pipeline, &list, &classes, err);
    if (status) return status;
    sample_input in = {.n = a->num_images ? a->num_images : classes,
                       .channels = m->picture_channels};
    in.height = a->resolution ? a->resolution : m->height;
    in.width = a->resolution ? a->resolution : m->width;
    if (!a->init_noise && (!in.height || !in.width))
        status = cli_status(err, LGV_ERR_ARGUMENT,
                            "the model's configuration gives no picture size; state --resolution");
    if (!status && !a->init_noise)
        status = lgv_model_check_size(lgv_pipeline_model(pipeline), in.height, in.width, err);
    if (!status && a->init_noise) status = from_file(a, pipeline, &in, err);
    if (!status && a->init_image)
        status = sample_picture_make(a, lgv_pipeline_model(pipeline), inverse, &in, err);
    if (!status && !a->init_image && m->condition)
        status = cli_status(err, LGV_ERR_ARGUMENT,
                            "the model is one for %s: give the picture with --init-image FILE%s",
                            lgv_condition_name(m->condition),
                            m->condition == LGV_CONDITION_INPAINTING ? " --mask FILE" : "");
    if (!status && a->interpolate) status = between_seeds(a, pipeline, &in, err);
    if (!status) status = give_labels(&in, list, classes, err);
    free(list);
    if (status)
        sample_input_free(&in);
    else
        *out = in;
    return status;
}

void sample_input_free(sample_input *in)
{
    free(in->noise);
    free(in->step_noise);
    free(in->weight);
    free(in->image);
    free(in->condition);
    free(in->mask);
    free(in->label);
    memset(in, 0, sizeof *in);
}
