/* train_and_sample.c - trains a small network on a folder of pictures and draws a grid of new ones.
       train_and_sample PICTURES OUTPUT [STEPS [MODEL]]
   OUTPUT becomes a diffusers pipeline with checkpoints; OUTPUT/new.png is the grid. */
#include <langevin/langevin.h>
#include <stdio.h>
#include <stdlib.h>

static int report(void *user, const lgv_train_event *event)
{
    (void)user;
    if (event->kind == LGV_TRAIN_STEPPED && event->report->step % 10 == 0)
        printf("step %lld: loss %.4f\n", (long long)event->report->step, event->report->loss);
    if (event->kind == LGV_TRAIN_SAVED) printf("saved %s\n", event->text);
    return 0; /* anything else stops: the step is finished and saved */
}

static lgv_status train(lgv_device *device, const char *pictures, const char *output, int steps,
                        const char *network, lgv_error *err)
{
    lgv_dataset *data = NULL;
    lgv_model *model = NULL;
    lgv_trainer *trainer = NULL;
    lgv_scheduler_config schedule = {.num_train_timesteps = 0};
    /* Zero is the default, everywhere; NULL options are all defaults. */
    lgv_train_options options = {.output_dir = output, .max_train_steps = steps, .overwrite = 1};
    lgv_status status = lgv_dataset_open(pictures, NULL, &data, err);
    lgv_model_options shape = {.channels = data ? lgv_dataset_channels(data) : 0,
                               .resolution = data ? lgv_dataset_resolution(data) : 0};
    if (!status) status = lgv_model_open(network, &shape, &model, err);
    if (!status) status = lgv_scheduler_config_init(&schedule, "DDPMScheduler", err);
    if (!status)
        status = lgv_trainer_new(model, data, &schedule, device, &options, NULL, &trainer, err);
    if (!status) status = lgv_trainer_run(trainer, report, NULL, err);
    lgv_trainer_free(trainer);
    lgv_scheduler_config_clear(&schedule);
    lgv_model_free(model);
    lgv_dataset_free(data);
    return status;
}

static lgv_status sample(lgv_device *device, const char *folder, const char *file, lgv_error *err)
{
    lgv_pipeline *pipeline = NULL;
    lgv_samples *samples = NULL;
    lgv_image picture[4] = {{0, 0, 0, 0, NULL}}, grid = {0, 0, 0, 0, NULL};
    lgv_sample_options options = {
        .num_images = 4, .seed = 1, .sampler = {.num_inference_steps = 10}};
    lgv_status status = lgv_pipeline_open(device, folder, LGV_WEIGHTS_BEST, &pipeline, err);
    if (!status) status = lgv_pipeline_sample(pipeline, &options, &samples, err);
    for (int i = 0; i < 4 && !status; i++) {
        int64_t C = samples->channels, H = samples->height, W = samples->width;
        status = lgv_image_new((int)W, (int)H, (int)C, 8, &picture[i], err);
        if (!status) lgv_images_u8(1, C, H, W, samples->sample + i * C * H * W, picture[i].pixels);
    }
    if (!status) status = lgv_image_grid(picture, 4, 2, &grid, err);
    if (!status) status = lgv_image_save_png(file, &grid, NULL, 0, err);
    for (int i = 0; i < 4; i++) lgv_image_free(&picture[i]);
    lgv_image_free(&grid);
    lgv_samples_free(samples);
    lgv_pipeline_free(pipeline);
    return status;
}

int main(int argc, char **argv)
{
    lgv_device *device = NULL;
    lgv_error err = {0};
    char file[4096];
    if (argc < 3) return fprintf(stderr, "usage: %s PICTURES OUTPUT [STEPS [MODEL]]\n", argv[0]), 2;
    snprintf(file, sizeof file, "%s/new.png", argv[2]);
    lgv_status status = lgv_device_new("cpu", 0, &device, &err);
    if (!status)
        status = train(device, argv[1], argv[2], argc > 3 ? atoi(argv[3]) : 2000,
                       argc > 4 ? argv[4] : "unet-32", &err);
    if (!status) status = sample(device, argv[2], file, &err);
    lgv_device_free(device);
    if (status) fprintf(stderr, "%s: %s\n", argv[0], err.text);
    return status ? 1 : 0;
}
