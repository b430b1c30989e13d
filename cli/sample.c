/* sample.c - langevin sample: from a model folder and a seed to pictures. */
#include <stdlib.h>
#include <string.h>

#include "classes.h"
#include "progress.h"
#include "sample.h"

typedef struct job {
    const cli_command *self;
    int argc;
    const char **argv;
    sample_args args;
    lgv_device *device;
    lgv_pipeline *pipeline;
    sample_input input;
    sample_output output;
    sample_animation animation;
    uint8_t *shown; /* pixels of the preview */
    bool inverse;
    int64_t calls; /* per picture */
    cli_progress progress;
    double start, first_call; /* monotonic seconds */
    lgv_error failure;        /* of writing a picture: the library only hears "stop" */
} job;

/* ---- preparing ---- */

/* The timesteps of --timestep-respacing, which the job's arguments own as those of --timesteps. */
static lgv_status make_chain(job *j, lgv_error *err)
{
    int64_t T = lgv_pipeline_scheduler(j->pipeline)->num_train_timesteps, n = 0, *t;
    if (!j->args.respacing) return LGV_OK;
    if (!(j->args.sampler.timesteps = t = malloc((size_t)T * sizeof *t)))
        return cli_status(err, LGV_ERR_MEMORY, "out of memory for timesteps");
    lgv_status status = lgv_timesteps_respace(T, j->args.respacing, t, &n, err);
    for (int64_t i = 0; i < n / 2; i++) { /* samplers go down */
        int64_t low = t[i];
        t[i] = t[n - 1 - i];
        t[n - 1 - i] = low;
    }
    j->args.sampler.timestep_count = n;
    return status;
}

/* What is painted and what is kept grow together only when steps are repeated. */
static void choose_inpainting(job *j)
{
    lgv_sampler_options *o = &j->args.sampler;
    const lgv_model_info *m = lgv_model_describe(lgv_pipeline_model(j->pipeline));
    if (!j->args.mask || m->condition || o->sampler) return;
    o->sampler = "ddpm";
    if (!o->num_inference_steps && !o->timestep_count) o->num_inference_steps = 50;
    if (!o->jump_length) o->jump_length = 10;
    if (!o->jump_n_sample) o->jump_n_sample = 5;
}

static void name_sampler(job *j)
{
    const char *name = j->args.sampler.sampler;
    if (!name) name = lgv_pipeline_default_sampler(j->pipeline, &j->args.sampler);
    if (!strcmp(name, "model")) name = lgv_pipeline_scheduler(j->pipeline)->class_name;
    const lgv_sampler_info *info = lgv_sampler_find(name);
    j->inverse = info && info->inverse;
    /* where several samplers have one class, its name says which fields count: the folder's */
    j->output.sampler =
        info && !(info->implies && !strcmp(name, info->class_name)) ? info->name : name;
}

static lgv_sample_options sample_options(job *j);

static lgv_status prepare(job *j, lgv_error *err)
{
    lgv_status status = cli_open_device(&j->args.device, &j->device, err);
    if (!status)
        status = cli_open_guided(j->device, j->args.model, j->args.weights, &j->args.guide,
                                 &j->pipeline, err);
    if (!status) status = make_chain(j, err);
    if (status) return status;
    choose_inpainting(j);
    name_sampler(j);
    status = sample_input_make(&j->args, j->pipeline, j->inverse, &j->input, err);
    const lgv_sample_options o = sample_options(j);
    if (!status) status = lgv_pipeline_check(j->pipeline, &o, err);
    if (!status) status = lgv_pipeline_calls(j->pipeline, &o, &j->calls, err);
    if (status) return status;
    lgv_sample_options asked = {.guidance_scale = j->args.guidance_scale};
    j->output.model = cli_class_model(j->pipeline);
    if (lgv_model_describe(lgv_pipeline_model(j->pipeline))->class_kind != LGV_CLASS_NONE)
        j->output.guidance = lgv_pipeline_guidance(j->pipeline, &asked);
    j->output.args = &j->args;
    j->output.input = &j->input;
    j->output.steps = j->calls;
    j->output.weights = lgv_pipeline_weights(j->pipeline);
    status = sample_animation_open(&j->animation, &j->args, &j->input, j->calls, err);
    return status ? status : sample_output_open(&j->output, err);
}

static void print_interval(const sample_args *a)
{
    if (a->guidance_stop > 0)
        printf(", from %g to %g of the steps", a->guidance_start, a->guidance_stop);
}

static void print_guidance(const job *j)
{
    const sample_args *a = &j->args;
    const sample_input *in = &j->input;
    char text[32];
    if (!in->label) return;
    printf("\n  class         ");
    for (int64_t i = 0; i < in->n && i < 10 && (!i || in->label[i] != in->label[0]); i++)
        printf("%s%s", i ? ", " : "", cli_class_name(j->output.model, in->label[i], text));
    if (in->n > 10 && in->label[10] != in->label[0]) printf(" ...");
    if (j->output.guidance == 1) {
        printf("\n  guidance      off");
    } else if (j->output.guidance > 0) {
        printf("\n  guidance      %g", j->output.guidance);
        if (a->guidance_rescale > 0) printf(", rescale %g", a->guidance_rescale);
        print_interval(a);
    }
    if (!a->guide.path) return;
    printf("\n  classifier    %s, scale %g", a->guide.path, a->guide.scale);
    print_interval(a);
}

static void print_chosen(const job *j)
{
    const sample_args *a = &j->args;
    const sample_input *in = &j->input;
    char count[32], device[64];
    const char *weights = j->output.weights;
    printf("sampling %lld picture%s of %lldx%lld from %s", (long long)in->n, in->n == 1 ? "" : "s",
           (long long)in->width, (long long)in->height, a->model);
    printf(
        " (%s parameters%s%s)\n",
        cli_count((double)lgv_model_describe(lgv_pipeline_model(j->pipeline))->parameters, count),
        *weights ? ", weights " : "", weights);
    printf("  sampler       %s, %lld steps", j->output.sampler, (long long)j->calls);
    if (a->sampler.eta > 0) printf(", eta %g", a->sampler.eta);
    printf("\n  seed          %llu", (unsigned long long)a->seed);
    if (a->interpolate)
        printf(" to %llu", (unsigned long long)a->seed_b);
    else if (in->n > 1)
        printf(" to %llu", (unsigned long long)(a->seed + (uint64_t)in->n - 1));
    print_guidance(j);
    if (a->preview && !cli_terminal()) printf("\n  preview       none: this is no terminal");
    printf("\n  device        %s, %s\n", cli_device_text(j->device, device),
           cli_precision(a->precision));
    fflush(stdout);
}

/* ---- running ---- */

enum { SHOWN = 8 }; /* pictures of a batch that a terminal has room for at most */

static void preview(job *j, const lgv_sample_progress *p)
{
    const sample_input *in = &j->input;
    lgv_image images[SHOWN];
    int64_t n = p->images < SHOWN ? p->images : SHOWN,
            bytes = in->channels * in->height * in->width;
    if (!j->args.preview || !j->progress.terminal) return;
    if (!j->shown && !(j->shown = malloc((size_t)(SHOWN * bytes)))) return;
    lgv_images_u8(n, in->channels, in->height, in->width, p->x0, j->shown);
    for (int64_t i = 0; i < n; i++)
        images[i] = (lgv_image){.width = (int)in->width,
                                .height = (int)in->height,
                                .channels = (int)in->channels,
                                .bits = 8,
                                .pixels = j->shown + i * bytes};
    cli_progress_preview(&j->progress, images, (size_t)n);
}

static int on_progress(void *user, const lgv_sample_progress *p)
{
    job *j = user;
    char extra[64];
    j->first_call = p->began;
    /* Not before it is wanted: hashing the weights takes longer than everything before the first step. */
    if (p->sample && j->args.metadata && !j->output.hash[0] &&
        lgv_pipeline_hash(j->pipeline, j->output.hash, &j->failure))
        return 1;
    if (p->sample &&
        sample_output_add(&j->output, p->first_image, p->images, p->sample, &j->failure))
        return 1;
    sample_animation_add(&j->animation, p);
    preview(j, p);
    snprintf(extra, sizeof extra, "picture %lld/%lld", (long long)(p->first_image + p->images),
             (long long)j->input.n);
    cli_progress_show(&j->progress, p->done, extra);
    return cli_signal() && p->done < p->total; /* the last step is simply finished */
}

static lgv_sample_options sample_options(job *j)
{
    const sample_args *a = &j->args;
    return (lgv_sample_options){.num_images = j->input.n,
                                .batch_size = a->batch_size,
                                .height = j->input.height,
                                .width = j->input.width,
                                .sampler = a->sampler,
                                .seed = a->seed,
                                .rng = a->rng,
                                .mixed_precision = a->precision,
                                .labels = j->input.label,
                                .guidance_scale = a->guidance_scale,
                                .guidance_rescale = a->guidance_rescale,
                                .guidance_start = a->guidance_start,
                                .guidance_stop = a->guidance_stop,
                                .guidance_channels = a->guidance_channels,
                                .classifier_scale = a->guide.path ? a->guide.scale : 0,
                                .init_image = j->input.image,
                                .strength = j->input.image ? a->strength : 0,
                                .mask = j->input.mask,
                                .condition = j->input.condition,
                                .init_noise = j->input.noise,
                                .step_noise = j->input.step_noise,
                                .keep_trajectory = a->save_tensors != NULL,
                                .discard = !a->save_tensors,
                                .callback = on_progress,
                                .user = j};
}

static lgv_status sample(job *j, lgv_error *err)
{
    const sample_args *a = &j->args;
    lgv_samples *samples = NULL;
    const lgv_sample_options o = sample_options(j);
    int64_t batch = a->batch_size ? a->batch_size : 8;
    int64_t total = (j->input.n + batch - 1) / batch * j->calls;
    j->start = cli_now();
    cli_progress_begin(&j->progress, "sampling", "pictures/s", (double)j->input.n / (double)total,
                       0, total);
    lgv_status status = lgv_pipeline_sample(j->pipeline, &o, &samples, err);
    if (status == LGV_ERR_CANCELLED && j->failure.status) {
        *err = j->failure;
        status = err->status;
    }
    if (!status)
        cli_progress_end(&j->progress, NULL);
    else
        cli_progress_clear(&j->progress);
    if (!status) status = sample_output_close(&j->output, err);
    if (!status) status = sample_animation_close(&j->animation, err);
    if (!status && samples) status = sample_save_tensors(a->save_tensors, samples, j->inverse, err);
    lgv_samples_free(samples);
    return status;
}

/* ---- the end ---- */

static void print_done(const job *j)
{
    char time_text[32], size[32];
    double seconds = cli_now() - j->start;
    printf("%lld picture%s in %s (%.3g pictures/s)\n", (long long)j->output.written,
           j->output.written == 1 ? "" : "s", cli_duration(seconds, time_text),
           (double)j->output.written / seconds);
    if (!j->args.file && j->output.written > 1)
        printf("  pictures      %s (the last is %s)\n", j->args.output, j->output.last);
    else
        printf("  picture       %s\n", j->output.last);
    if (j->args.animation)
        printf("  animation     %s (%lld frames of %lld picture%s, %s)\n", j->args.animation,
               (long long)j->animation.frames, (long long)j->animation.pictures,
               j->animation.pictures == 1 ? "" : "s", cli_bytes((double)j->animation.bytes, size));
    if (j->args.timings)
        printf("  first step    began at %.6f s of the monotonic clock\n", j->first_call);
    if (j->args.save_tensors) printf("  tensors       %s\n", j->args.save_tensors);
}

/* The rest of the pictures: the same words, then what differs, for the last of two equal options
 * counts. */
static int stopped(const job *j)
{
    const sample_args *a = &j->args;
    bool seeds_only =
        !a->init_noise && !a->init_image && !a->interpolate && a->rng != LGV_SAMPLE_TORCH_BATCH;
    printf("stopped; %lld of %lld pictures are written\n", (long long)j->output.written,
           (long long)j->input.n);
    printf("go on with: langevin");
    for (int i = 0; i < j->argc; i++) {
        putchar(' ');
        cli_print_word(j->argv[i]);
    }
    if (!a->file && seeds_only && !a->save_tensors)
        printf(" --num-images %lld --seed %llu", (long long)(j->input.n - j->output.written),
               (unsigned long long)(a->seed + (uint64_t)j->output.written));
    else if (!a->interpolate)
        printf(" --seed %llu", (unsigned long long)a->seed);
    printf("\n");
    return 128 + cli_signal();
}

static int run(const cli_command *self, int argc, const char **argv)
{
    job j = {.self = self, .argc = argc, .argv = argv, .output.table = -1};
    lgv_error err = {0};
    int code = sample_args_read(self, argc, argv, &j.args);
    if (code >= 0) return code;
    cli_catch_signals();
    lgv_status status = prepare(&j, &err);
    if (!status) {
        print_chosen(&j);
        status = sample(&j, &err);
    }
    if (!status) print_done(&j);
    fflush(stdout);
    code = !status                                       ? CLI_OK
           : status == LGV_ERR_CANCELLED && cli_signal() ? stopped(&j)
                                                         : cli_fail(self, &err);
    sample_animation_free(&j.animation);
    sample_output_free(&j.output);
    cli_progress_free(&j.progress);
    free(j.shown);
    sample_input_free(&j.input);
    lgv_pipeline_free(j.pipeline);
    lgv_device_free(j.device);
    free((void *)(uintptr_t)j.args.sampler.timesteps);
    return code;
}

const cli_command cli_sample = {
    .name = "sample",
    .summary = "draw pictures from a model",
    .usage = "sample [MODEL] --output FILE.png|DIR",
    .examples =
        "  langevin sample --output out.png\n"
        "  langevin sample model --output samples.png --num-images 16\n"
        "  langevin sample model --output pictures --num-images 1000 --seed 100 "
        "--num-inference-steps 20\n"
        "  langevin sample model --output cats.png --class cat --num-images 16 --guidance-scale 2\n"
        "  langevin sample model --output classes.png --class all --num-images 100\n"
        "  langevin sample model --output cats.png --classifier noisy-classifier --classifier-scale 2 "
        "--class cat\n"
        "  langevin sample model --output grid.png --num-images 16 --animation grid.gif --preview\n"
        "  langevin sample model --output ancestral.png --sampler ddpm --seed -1\n"
        "  langevin sample model --output smooth.png --sampler dpmpp_2m --sigma-schedule karras\n"
        "  langevin sample --sampler help\n"
        "  langevin sample model --output between.png --interpolate 1,2 --num-images 9\n"
        "  langevin sample model --output variations --init-image cat.png --strength 0.6 --num-images 4\n"
        "  langevin sample model --output repaired.png --init-image cat.png --mask mask.png\n"
        "  langevin sample model --output latent.png --sampler ddim_inverse --init-image cat.png "
        "--save-tensors latent.safetensors\n",
    .run = run,
};
