/* training.c - see training.h. */
#include "training.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/file.h"
#include "langevin/image.h"
#include "scratch.h"

const char *const training_config =
    "{\"_class_name\": \"UNet2DModel\", \"sample_size\": 16, \"in_channels\": 3, \"out_channels\": "
    "3,"
    " \"block_out_channels\": [16, 16], \"down_block_types\": [\"DownBlock2D\", "
    "\"AttnDownBlock2D\"],"
    " \"up_block_types\": [\"AttnUpBlock2D\", \"UpBlock2D\"], \"layers_per_block\": 1,"
    " \"norm_num_groups\": 4, \"attention_head_dim\": 8, \"dropout\": 0.1}";

static void picture(int k, int side, int channels, lgv_image *image)
{
    uint32_t h = (uint32_t)k * 2654435761u + 12345u;
    uint8_t *p = image->pixels;
    int x0 = (int)(h >> 8) % (side / 2), y0 = (int)(h >> 16) % (side / 2),
        s = side / 4 + (int)(h >> 24) % (side / 4);
    for (int y = 0; y < side; y++)
        for (int x = 0; x < side; x++)
            for (int c = 0; c < channels; c++) {
                int inside = x >= x0 && x < x0 + s && y >= y0 && y < y0 + s;
                p[(y * side + x) * channels + c] =
                    inside ? (uint8_t)(h >> (3 * c)) : (uint8_t)(4 * x + y);
            }
}

void training_pictures(const char *name, int n, int side, int channels)
{
    lgv_error err;
    char file[64];
    if (lgv_make_dir(scratch_path(name), &err)) fail_msg("%s", err.text);
    for (int k = 0; k < n; k++) {
        lgv_image image;
        snprintf(file, sizeof file, "%s/%04d.png", name, k);
        if (lgv_image_new(side, side, channels, 8, &image, &err)) fail_msg("%s", err.text);
        picture(k, side, channels, &image);
        if (lgv_image_save_png(scratch_path(file), &image, NULL, 0, &err)) fail_msg("%s", err.text);
        lgv_image_free(&image);
    }
}

static lgv_status make(const training_setup *s, training *t, lgv_error *err)
{
    lgv_train_options options = s->options;
    lgv_dataset_options data_options = s->data_options;
    lgv_unet2d_config config;
    const char *text = s->config ? s->config : training_config;
    LGV_TRY(lgv_device_new(s->device, s->threads ? s->threads : 1, &t->device, err));
    if (options.output_dir)
        LGV_TRY(
            lgv_checkpoint_find(options.output_dir, s->resume, options.overwrite, &t->resume, err));
    if (t->resume) LGV_TRY(lgv_checkpoint_merge(t->resume, &options, &data_options, err));
    if (!data_options.resolution) data_options.resolution = TRAINING_SIDE;
    LGV_TRY(lgv_dataset_open(s->data, &data_options, &t->data, err));
    LGV_TRY(lgv_unet2d_config_parse(text, strlen(text), "test", &config, err));
    LGV_TRY(lgv_model_new_unet2d(&config, &t->model, err));
    LGV_TRY(lgv_scheduler_config_init(&t->cfg, NULL, err));
    if (s->prediction)
        LGV_TRY(lgv_scheduler_config_set(&t->cfg, "prediction_type", s->prediction, err));
    return lgv_trainer_new(t->model, t->data, &t->cfg, t->device, &options, t->resume, &t->trainer,
                           err);
}

lgv_status training_try(const training_setup *setup, training **out, lgv_error *err)
{
    training *t = calloc(1, sizeof *t);
    if (!t) {
        *err = (lgv_error){LGV_ERR_MEMORY, "out of memory in the test"};
        return LGV_ERR_MEMORY;
    }
    lgv_status s = make(setup, t, err);
    if (s)
        training_free(t);
    else
        *out = t;
    return s;
}

training *training_new(const training_setup *setup)
{
    training *t = NULL;
    lgv_error err = {0};
    lgv_status s = training_try(setup, &t, &err);
    if (s) fail_msg("%s: %s", lgv_status_name(s), err.text);
    return t;
}

void training_free(training *t)
{
    if (!t) return;
    lgv_trainer_free(t->trainer);
    lgv_checkpoint_free(t->resume);
    lgv_model_free(t->model);
    lgv_scheduler_config_clear(&t->cfg);
    lgv_dataset_free(t->data);
    lgv_device_free(t->device);
    free(t);
}

static uint64_t hash_set(lgv_store *store, const char *set, uint64_t h)
{
    float *x = malloc((size_t)lgv_store_parameters(store) * sizeof *x);
    for (int i = 0; i < lgv_store_count(store); i++) {
        int rank, frozen;
        int64_t dim[LGV_MAX_RANK], n = 1;
        lgv_error err;
        lgv_store_at(store, i, &rank, dim, &frozen);
        for (int k = 0; k < rank; k++) n *= dim[k];
        if (lgv_store_read(store, set, i, x, n, &err)) fail_msg("%s", err.text);
        h = (h ^ test_fnv1a(x, (size_t)n * sizeof *x)) * 0x100000001b3u;
    }
    free(x);
    return h;
}

uint64_t training_hash(const training *t)
{
    static const char *const sets[] = {"weight", "exp_avg", "exp_avg_sq", "ema"};
    lgv_store *store = lgv_trainer_store(t->trainer);
    uint64_t h = 0xcbf29ce484222325u;
    for (int i = 0; i < 4; i++)
        if (lgv_store_has_set(store, sets[i])) h = hash_set(store, sets[i], h);
    return h;
}

void training_steps(training *t, int n, double *loss)
{
    for (int i = 0; i < n; i++) {
        lgv_train_report r;
        lgv_error err;
        lgv_status s = lgv_trainer_step(t->trainer, &r, &err);
        if (s) fail_msg("%s: %s", lgv_status_name(s), err.text);
        if (loss) loss[i] = r.loss;
    }
}
