/* sample_steps.c - looks over the sampler's shoulder: after every step the picture that the network expects to end up
   with is written as step-00.png, step-01.png ...; Ctrl-C stops between two steps.
       sample_steps MODEL FOLDER [STEPS] */
#include <langevin/langevin.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

static volatile sig_atomic_t stopped;

static void stop(int signal)
{
    (void)signal;
    stopped = 1;
}

typedef struct watcher {
    const char *folder;
    const lgv_pipeline *pipeline;
    int64_t height, width;
    lgv_status status; /* of what the callback does */
    lgv_error err;
} watcher;

/* One picture x[C,H,W], as the sampler has it, to a file. */
static lgv_status save(watcher *w, const float *x, const char *path)
{
    const int channels = lgv_model_describe(lgv_pipeline_model(w->pipeline))->out_channels;
    lgv_image image = {0, 0, 0, 0, NULL};
    lgv_status status = lgv_image_new((int)w->width, (int)w->height, channels, 8, &image, &w->err);
    if (status) return status;
    lgv_images_u8(1, channels, w->height, w->width, x, image.pixels);
    status = lgv_image_save_png(path, &image, NULL, 0, &w->err);
    lgv_image_free(&image);
    return status;
}

static int after_step(void *user, const lgv_sample_progress *p)
{
    watcher *w = user;
    char path[4096];
    snprintf(path, sizeof path, "%s/step-%02lld.png", w->folder, (long long)p->step - 1);
    w->status = save(w, p->x0, path);
    printf("%lld of %lld\n", (long long)p->done, (long long)p->total);
    return w->status || stopped;
}

int main(int argc, char **argv)
{
    lgv_device *device = NULL;
    lgv_pipeline *pipeline = NULL;
    lgv_error err = {LGV_OK, ""};
    if (argc < 3) return fprintf(stderr, "usage: %s MODEL FOLDER [STEPS]\n", argv[0]), 2;
    signal(SIGINT, stop);
    mkdir(argv[2], 0777); /* one that is there already will do */
    lgv_status status = lgv_device_new(NULL, 0, &device, &err);
    if (!status) status = lgv_pipeline_open(device, argv[1], LGV_WEIGHTS_BEST, &pipeline, &err);
    if (!status) {
        const lgv_model_info *info = lgv_model_describe(lgv_pipeline_model(pipeline));
        watcher w = {argv[2], pipeline, info->height, info->width, LGV_OK, {LGV_OK, ""}};
        lgv_sample_options options = {.seed = 7,
                                      .discard = 1, /* the callback sees everything */
                                      .callback = after_step,
                                      .user = &w};
        options.sampler.sampler = "ddim";
        options.sampler.num_inference_steps = argc > 3 ? atoi(argv[3]) : 20;
        status = lgv_pipeline_sample(pipeline, &options, NULL, &err);
        if (w.status) err = w.err; /* why the callback stopped it */
    }
    lgv_pipeline_free(pipeline);
    lgv_device_free(device);
    if (status) fprintf(stderr, "%s: %s\n", argv[0], err.text);
    return status ? 1 : 0;
}
