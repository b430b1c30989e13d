/* scenes.c - see scenes.h. */
#include "ok.h"
#include "scenes.h"

#include <dirent.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/file.h"
#include "inject.h"
#include "langevin/dataset.h"
#include "langevin/image.h"
#include "langevin/ops.h"
#include "langevin/pipeline.h"
#include "langevin/safetensors.h"
#include "model_folder.h"
#include "scratch.h"
#include "train/trainer.h"
#include "training.h"

/* What every scene may use; nothing of it changes while scenes are played. */
static struct {
    const char *config;
    int side;
    char pictures[600], mixed[600], idx[600], run[600], fresh[600], drawn[600], classifier[600];
    training *trained; /* step 2, saved as checkpoint-2 of `run` */
} stage;

static uint64_t mix(uint64_t h, const void *data, size_t size)
{
    return (h ^ test_fnv1a(data, size)) * 0x100000001b3u;
}

/* ---- scenes: a result of 64 bits, or an error ---- */

typedef lgv_status (*scene)(uint64_t *result, lgv_error *err);

static lgv_status parse_config(uint64_t *result, lgv_error *err)
{
    lgv_unet2d_config c;
    memset(&c, 0, sizeof c);
    LGV_TRY(lgv_unet2d_config_parse(stage.config, strlen(stage.config), "test", &c, err));
    *result = test_fnv1a(&c, sizeof c);
    return LGV_OK;
}

static lgv_status make_graph(lgv_graph *g, const lgv_model *m, uint64_t *result, lgv_error *err)
{
    lgv_model_inputs in;
    lgv_id y;
    const lgv_model_info *info = lgv_model_describe(m);
    lgv_model_inputs_none(&in);
    in.sample = lgv_input(g, "sample", LGV_F32, 4,
                          (int64_t[]){2, stage.side, stage.side, info->in_channels});
    lgv_model_inputs_from_step(m, g, 2, &in);
    LGV_TRY(lgv_model_build(m, g, &in, &y, err));
    lgv_id loss =
        lgv_weighted_sum(g, lgv_mse_rows(g, y, in.sample), lgv_step_row(g, 2, LGV_FIELD_WEIGHT));
    lgv_graph_output(g, loss, "loss");
    LGV_TRY(lgv_graph_grad_params(g, loss, "grad", err));
    *result = (uint64_t)lgv_graph_params(g);
    return lgv_graph_status(g, err);
}

static lgv_status build_graph(uint64_t *result, lgv_error *err)
{
    lgv_unet2d_config c;
    lgv_model *m = NULL;
    LGV_TRY(lgv_unet2d_config_parse(stage.config, strlen(stage.config), "test", &c, err));
    LGV_TRY(lgv_model_new_unet2d(&c, &m, err));
    lgv_graph *g = lgv_graph_new();
    lgv_status s = g ? make_graph(g, m, result, err)
                     : lgv_fail(err, LGV_ERR_MEMORY, "out of memory for a graph");
    lgv_graph_free(g);
    lgv_model_free(m);
    return s;
}

/* A small graph from nothing to numbers: device with two threads, store, plan, run. */
static lgv_status plan_and_run(lgv_graph *g, lgv_device *d, lgv_store **store, lgv_plan **plan,
                               uint64_t *result, lgv_error *err)
{
    float x[2 * 8 * 8 * 8], w[8 * 8 * 9], loss;
    lgv_id in = lgv_input(g, "x", LGV_F32, 4, (int64_t[]){2, 8, 8, 8});
    lgv_id weight = lgv_param(g, "w", 4, (int64_t[]){8, 8, 3, 3});
    lgv_id gamma = lgv_param(g, "gamma", 1, (int64_t[]){8});
    lgv_id beta = lgv_param(g, "beta", 1, (int64_t[]){8});
    lgv_id y = lgv_conv2d(g, in, weight, LGV_NONE, (lgv_conv_attr){1, {1, 1, 1, 1}});
    y = lgv_act(g, lgv_group_norm(g, y, gamma, beta, 4, 1e-5), LGV_ACT_SILU);
    lgv_id sum = lgv_weighted_sum(g, lgv_mse_rows(g, y, in), lgv_step_row(g, 2, LGV_FIELD_WEIGHT));
    lgv_graph_output(g, sum, "loss");
    LGV_TRY(lgv_graph_grad_params(g, sum, "grad", err));
    LGV_TRY(lgv_store_new(d, store, err));
    LGV_TRY(lgv_store_declare(*store, g, err));
    LGV_TRY(lgv_store_add_set(*store, "weight", err));
    LGV_TRY(lgv_store_add_set(*store, "grad", err));
    const lgv_program program = {"all", g};
    LGV_TRY(lgv_plan_new(*store, 1, &program, NULL, plan, err));
    for (int i = 0; i < 1024; i++) x[i] = (float)(i % 17) / 8 - 1;
    for (int i = 0; i < 576; i++) w[i] = (float)(i % 13) / 40 - 0.1f;
    LGV_TRY(lgv_store_write(*store, "weight", 0, w, 576, err));
    LGV_TRY(lgv_store_write(*store, "weight", 1, x, 8, err));
    for (int i = 0; i < 2; i++) lgv_plan_step(*plan)->row[i].weight = 0.5f;
    LGV_TRY(lgv_plan_write(*plan, "x", x, 1024, err));
    LGV_TRY(lgv_plan_run(*plan, NULL, err));
    LGV_TRY(lgv_plan_read(*plan, "loss", &loss, 1, err));
    LGV_TRY(lgv_store_read(*store, "grad", 0, w, 576, err));
    *result = mix(test_fnv1a(&loss, sizeof loss), w, sizeof w);
    return LGV_OK;
}

static lgv_status small_plan(uint64_t *result, lgv_error *err)
{
    lgv_device *d = NULL;
    lgv_store *store = NULL;
    lgv_plan *plan = NULL;
    LGV_TRY(lgv_device_new(NULL, 2, &d, err));
    lgv_graph *g = lgv_graph_new();
    lgv_status s = g ? plan_and_run(g, d, &store, &plan, result, err)
                     : lgv_fail(err, LGV_ERR_MEMORY, "out of memory for a graph");
    lgv_plan_free(plan);
    lgv_store_free(store);
    lgv_graph_free(g);
    lgv_device_free(d);
    return s;
}

static lgv_status read_data(const char *path, uint64_t *result, lgv_error *err)
{
    lgv_dataset *d = NULL;
    lgv_dataset_options o = {.resolution = 16, .channels = 3, .random_flip = 1, .strict = 1};
    uint8_t pixels[16 * 16 * 3];
    LGV_TRY(lgv_dataset_open(path, &o, &d, err));
    lgv_status s = LGV_OK;
    *result = (uint64_t)lgv_dataset_classes(d);
    for (int64_t i = 0; i < lgv_dataset_count(d) && !s; i++) {
        s = lgv_dataset_read(d, 0, i, 1, (uint64_t)i, pixels, NULL, err);
        *result = mix(*result, pixels, sizeof pixels);
    }
    lgv_dataset_free(d);
    return s;
}

static lgv_status picture_folder(uint64_t *result, lgv_error *err)
{
    return read_data(stage.mixed, result, err);
}

static lgv_status idx_folder(uint64_t *result, lgv_error *err)
{
    return read_data(stage.idx, result, err);
}

static lgv_status write_picture(uint64_t *result, lgv_error *err)
{
    lgv_image one[4] = {{0}}, grid = {0};
    uint8_t pixels[16 * 12 * 3];
    for (size_t i = 0; i < sizeof pixels; i++) pixels[i] = (uint8_t)(i * 37 >> 3);
    for (int i = 0; i < 4; i++)
        one[i] = (lgv_image){.width = 16, .height = 12, .channels = 3, .bits = 8, .pixels = pixels};
    const lgv_png_text text[] = {{"parameters", "Steps: 4"}, {"title", "\xc3\xa4"}};
    LGV_TRY(lgv_image_grid(one, 4, 0, &grid, err));
    lgv_status s = lgv_image_save_png(stage.drawn, &grid, text, 2, err);
    lgv_image_free(&grid);
    *result = 1;
    return s;
}

static training_setup new_run(void)
{
    return (training_setup){.data = stage.pictures,
                            .config = stage.config,
                            .data_options = {.resolution = stage.side},
                            .options = {.output_dir = stage.fresh,
                                        .max_train_steps = 8,
                                        .train_batch_size = 2,
                                        .lr_warmup_steps = LGV_OFF,
                                        .rng = LGV_RNG_TORCH,
                                        .loader_threads = 1,
                                        .sample_count = 1,
                                        .sample_steps = 1,
                                        .overwrite = 1}};
}

/* A trainer from nothing: data set, plan, weights, the folder, one step, a checkpoint. */
static lgv_status train_and_save(uint64_t *result, lgv_error *err)
{
    training_setup s = new_run();
    training *t = NULL;
    LGV_TRY(training_try(&s, &t, err));
    lgv_status status = lgv_trainer_step(t->trainer, NULL, err);
    if (!status) status = lgv_trainer_save(t->trainer, err);
    inject_end(); /* what follows is the test's own */
    if (!status) *result = training_hash(t);
    training_free(t);
    return status;
}

/* Checkpoint found, checked and loaded, one step. */
static lgv_status resume(uint64_t *result, lgv_error *err)
{
    training_setup s = {.data = stage.pictures,
                        .config = stage.config,
                        .resume = "latest",
                        .options = {.output_dir = stage.run, .loader_threads = 1}};
    training *t = NULL;
    LGV_TRY(training_try(&s, &t, err));
    lgv_status status = lgv_trainer_step(t->trainer, NULL, err);
    inject_end(); /* what follows is the test's own */
    if (!status) *result = training_hash(t);
    training_free(t);
    return status;
}

static lgv_status sample_with(const char *classifier, uint64_t *result, lgv_error *err)
{
    lgv_device *d = NULL;
    lgv_pipeline *p = NULL;
    lgv_samples *x = NULL;
    lgv_sample_options o = {.num_images = 2, .sampler = {.num_inference_steps = 2}};
    LGV_TRY(lgv_device_new(NULL, 1, &d, err));
    lgv_status s = lgv_pipeline_open(d, stage.run, LGV_WEIGHTS_BEST, &p, err);
    if (!s && classifier) s = lgv_pipeline_set_classifier(p, classifier, err);
    if (!s) s = lgv_pipeline_sample(p, &o, &x, err);
    if (!s)
        *result = test_fnv1a(x->sample,
                             (size_t)(2 * x->channels * x->height * x->width) * sizeof *x->sample);
    lgv_samples_free(x);
    lgv_pipeline_free(p);
    lgv_device_free(d);
    return s;
}

static lgv_status sample(uint64_t *result, lgv_error *err)
{
    return sample_with(NULL, result, err);
}

static lgv_status sample_guided(uint64_t *result, lgv_error *err)
{
    return sample_with(stage.classifier, result, err);
}

/* ---- scenes with the trainer that lives: it must stay usable ---- */

static lgv_status step_again(uint64_t *result, lgv_error *err)
{
    lgv_train_report r;
    lgv_trainer *t = stage.trained->trainer;
    int64_t before = t->state.step;
    lgv_status s = lgv_trainer_step(t, &r, err);
    *result = (uint64_t)(t->state.step - before);
    return s;
}

static lgv_status save_again(uint64_t *result, lgv_error *err)
{
    lgv_trainer *t = stage.trained->trainer;
    t->saved = t->refreshed = -1;
    *result = 1;
    return lgv_trainer_save(t, err);
}

static lgv_status draw_grid(uint64_t *result, lgv_error *err)
{
    *result = 1;
    return lgv_trainer_sample(stage.trained->trainer, stage.drawn, err);
}

static lgv_status validate(uint64_t *result, lgv_error *err)
{
    lgv_validation v;
    LGV_TRY(lgv_trainer_validate(stage.trained->trainer, &v, err));
    *result = test_fnv1a(&v, sizeof v);
    return LGV_OK;
}

static const struct {
    const char *name;
    scene play;
} scenes[] = {
    {"a configuration is parsed", parse_config},
    {"a network's graph with gradients is built", build_graph},
    {"a small graph is planned and run", small_plan},
    {"a folder of pictures is opened and read", picture_folder},
    {"an IDX file with labels is opened and read", idx_folder},
    {"a picture is written", write_picture},
    {"a trainer is made, steps and saves", train_and_save},
    {"a checkpoint is loaded and steps", resume},
    {"a model is loaded and sampled", sample},
    {"a model is sampled, guided by a classifier", sample_guided},
    {"a training step", step_again},
    {"a checkpoint is saved", save_again},
    {"a sample grid is drawn", draw_grid},
    {"a validation", validate},
};
enum { SCENES = sizeof scenes / sizeof *scenes };

/* ---- playing ---- */

static int handles(void)
{
    DIR *dir = opendir("/proc/self/fd");
    int n = 0;
    while (dir && readdir(dir)) n++;
    if (dir) closedir(dir);
    return n;
}

typedef struct trial {
    const char *name;
    scene play;
    inject_kind kind;
    uint64_t want; /* the result when nothing fails */
    int64_t live;
    int open;
    uint64_t failed, harmless;
    int complaints;
} trial;

/* The first few of a scene are told; any fails the test. */
static void complain(trial *t, const char *how, const char *fmt, ...) LGV_PRINTF(3, 4);
static void complain(trial *t, const char *how, const char *fmt, ...)
{
    char text[1500];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    if (t->complaints++ < 6) print_error("%s, %s: %s\n", t->name, how, text);
}

/* Half-written files, and checkpoints that are none. */
static void check_folder(trial *t, const char *folder, const char *how)
{
    lgv_names names;
    if (!lgv_is_dir(folder)) return;
    MUST(lgv_list_dir(folder, &names, err));
    for (size_t i = 0; i < names.count; i++) {
        char path[800];
        snprintf(path, sizeof path, "%s/%s", folder, names.name[i]);
        /* Where no file call works any more nothing can be cleared, and what is half removed stays under the name it
           got for that; the next start clears both. */
        bool hindered = t->kind == INJECT_FILES && strstr(how, "all after");
        hindered |= t->kind != INJECT_MEMORY && !strncmp(names.name[i], ".tmp-old-", 9);
        if (strstr(names.name[i], ".tmp-") && !hindered) complain(t, how, "%s is left", path);
        if (!strncmp(names.name[i], "checkpoint-", 11)) {
            lgv_checkpoint *c = NULL;
            lgv_error err = {0};
            if (lgv_checkpoint_find(folder, path, 0, &c, &err)) complain(t, how, "%s", err.text);
            lgv_checkpoint_free(c);
        } else if (lgv_is_dir(path) && strcmp(names.name[i], "samples")) {
            check_folder(t, path, how);
        }
    }
    lgv_names_free(&names);
}

static void try_one(trial *t, uint64_t nth, bool onwards, int code)
{
    char how[80];
    snprintf(how, sizeof how, "call %llu %s(%s)", (unsigned long long)nth,
             onwards ? "and all after it " : "", strerror(code));
    lgv_error err = {0};
    uint64_t result = 0;
    inject_begin(t->kind, nth, onwards, code);
    lgv_status s = t->play(&result, &err);
    inject_end();
    t->failed += s != LGV_OK;
    t->harmless += s == LGV_OK;
    if (!s && result != t->want) complain(t, how, "succeeds with another result");
    if (s && !err.text[0]) complain(t, how, "an error without a sentence");
    if (s && t->kind == INJECT_MEMORY && s != LGV_ERR_MEMORY)
        complain(t, how, "%s: %s", lgv_status_name(s), err.text);
    if (inject_live() != t->live)
        complain(t, how, "%lld blocks are lost (%s)", (long long)(inject_live() - t->live),
                 err.text);
    if (handles() != t->open) complain(t, how, "a file is left open (%s)", err.text);
    if (t->kind != INJECT_MEMORY || nth % 8 == 0) {
        check_folder(t, stage.fresh, how);
        check_folder(t, stage.run, how);
    }
    uint64_t again = 0;
    if (s && nth % 16 == 0 && t->play(&again, &err))
        complain(t, how, "does not work afterwards: %s", err.text);
    if (s && nth % 16 == 0 && again != t->want) complain(t, how, "another result afterwards");
}

static int complaints; /* of all scenes */

static uint64_t play(int i, inject_kind kind, const scale *size, const int *codes, int n_codes)
{
    if (size->only && !strstr(scenes[i].name, size->only)) return 0;
    trial t = {.name = scenes[i].name, .play = scenes[i].play, .kind = kind};
    lgv_error e = {0};
    uint64_t calls = 0;
    for (int k = 0; k < 3; k++) { /* the first plays fill caches: plans, libc's */
        inject_begin(kind, 0, false, 0);
        lgv_status s = t.play(&t.want, &e);
        calls = inject_end();
        if (s) fail_msg("%s: %s", t.name, e.text);
    }
    t.live = inject_live();
    t.open = handles();
    double begin = lgv_now();
    uint64_t most = size->most, step = most && calls > most ? calls / most : 1;
    if (size->parts) step = size->parts;
    for (uint64_t nth = 1 + size->part; nth <= calls; nth += step) {
        int code = codes[nth / step % (uint64_t)n_codes];
        try_one(&t, nth, false, code);
        try_one(&t, nth, true, code);
    }
    print_message("%-44s %6llu calls, %6llu failures reported, %llu harmless, %.1f s\n", t.name,
                  (unsigned long long)calls, (unsigned long long)t.failed,
                  (unsigned long long)t.harmless, lgv_now() - begin);
    complaints += t.complaints;
    return t.failed + t.harmless;
}

void scenes_memory(const scale *size)
{
    complaints = 0;
    static const int code[] = {ENOMEM};
    uint64_t all = 0;
    for (int i = 0; i < SCENES; i++) all += play(i, INJECT_MEMORY, size, code, 1);
    print_message("%llu failing allocations\n", (unsigned long long)all);
    assert_int_equal(complaints, 0);
}

void scenes_files(const scale *size)
{
    complaints = 0;
    static const int any[] = {EIO, ENFILE, ETIMEDOUT, EROFS, EMFILE, ESTALE};
    static const int writing[] = {ENOSPC, EDQUOT, EROFS, EIO};
    uint64_t all = 0;
    for (int i = 0; i < SCENES; i++) all += play(i, INJECT_FILES, size, any, 6);
    for (int i = 0; i < SCENES; i++) all += play(i, INJECT_WRITES, size, writing, 4);
    print_message("%llu failing file calls\n", (unsigned long long)all);
    assert_int_equal(complaints, 0);
}

/* ---- preparing ---- */

static void path_in_scratch(char *out, const char *name)
{
    snprintf(out, 600, "%s", scratch_path(name));
}

static void copy(const char *from, const char *to)
{
    char *data = NULL, path[700];
    size_t size;
    snprintf(path, sizeof path, LGV_SOURCE_DIR "/tests/golden/images/%s", from);
    MUST(lgv_file_read(path, 1 << 20, &data, &size, err));
    scratch_write(scratch_path(to), data, size);
    lgv_free(data);
}

static void make_pictures(void)
{
    static const char *const file[][2] = {
        {"rgb8.png", "mixed/a/1"}, {"palette8t.png", "mixed/a/2"}, {"rgb420.jpg", "mixed/b/3"},
        {"cmyk.jpg", "mixed/b/4"}, {"lossy.webp", "mixed/b/5"},    {"transparent.gif", "mixed/c/6"},
        {"rgb24.bmp", "mixed/c/7"}};
    training_pictures("pictures", 10, 20, 3);
    for (int i = 0; i < 3; i++)
        MUST(lgv_make_dir(scratch_path((const char *[]){"mixed/a", "mixed/b", "mixed/c"}[i]), err));
    for (size_t i = 0; i < sizeof file / sizeof *file; i++) copy(file[i][0], file[i][1]);
    static const char rows[] = "{\"file_name\": \"1\", \"label\": \"cat\"}\n"
                               "{\"file_name\": \"2\", \"label\": 3}\n";
    scratch_write(scratch_path("mixed/a/metadata.jsonl"), rows, sizeof rows - 1);
    uint8_t images[16 + 4 * 64] = {0, 0, 8, 3, 0, 0, 0, 4, 0, 0, 0, 8, 0, 0, 0, 8},
                            labels[12] = {0, 0, 8, 1, 0, 0, 0, 4, 0, 1, 2, 1};
    MUST(lgv_make_dir(scratch_path("idx"), err));
    scratch_write(scratch_path("idx/train-images-idx3-ubyte"), images, sizeof images);
    scratch_write(scratch_path("idx/train-labels-idx1-ubyte"), labels, sizeof labels);
}

static void make_classifier(void)
{
    lgv_unet2d_config config;
    lgv_device *device;
    MUST(lgv_unet2d_config_parse(stage.config, strlen(stage.config), "config", &config, err));
    MUST(lgv_device_new(NULL, 1, &device, err));
    snprintf(stage.classifier, sizeof stage.classifier, "%s",
             golden_classifier_folder(device, "classifier", &config, 3, NULL, 1,
                                      "{\"_class_name\": \"DDPMScheduler\"}"));
    lgv_device_free(device);
}

void scenes_prepare(const scale *size)
{
    stage.config = size->config ? size->config : training_config;
    stage.side = size->side;
    make_pictures();
    path_in_scratch(stage.pictures, "pictures");
    path_in_scratch(stage.mixed, "mixed");
    path_in_scratch(stage.idx, "idx");
    path_in_scratch(stage.run, "run");
    path_in_scratch(stage.fresh, "fresh");
    path_in_scratch(stage.drawn, "drawn.png");
    make_classifier();
    training_setup s = new_run();
    s.options.output_dir = stage.run;
    training *t = training_new(&s);
    training_steps(t, 2, NULL);
    MUST(lgv_trainer_save(t->trainer, err));
    training_free(t);
    path_in_scratch(stage.fresh, "living");
    s = new_run();
    s.data_options.validation = 2;
    stage.trained = training_new(&s);
    training_steps(stage.trained, 2, NULL);
    path_in_scratch(stage.fresh, "fresh");
}

void scenes_end(void)
{
    training_free(stage.trained);
    stage.trained = NULL;
}
