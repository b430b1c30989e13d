/* sample_output.c - where sampled pictures go.
   A folder is never overwritten: each picture is written under a name of its own and then linked to
   its number, which fails when somebody else has taken the number meanwhile. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "classes.h"
#include "langevin/image.h"
#include "langevin/safetensors.h"
#include "sample.h"

static int64_t picture_bytes(const sample_output *o)
{
    return o->input->channels * o->input->height * o->input->width;
}

/* ---- opening ---- */

/* One more than the highest NNNNNN.png of the folder. */
static lgv_status next_number(const char *folder, int64_t *next, lgv_error *err)
{
    DIR *d = opendir(folder);
    if (!d)
        return cli_status(err, LGV_ERR_IO, "cannot read the folder '%s': %s", folder,
                          strerror(errno));
    *next = 0;
    for (struct dirent *e; (e = readdir(d));) {
        long long number;
        if (cli_numbered_png(e->d_name, &number) && number >= *next) *next = number + 1;
    }
    closedir(d);
    return LGV_OK;
}

/* ---- metadata.csv: which class each picture of the folder shows ---- */

static const char header[] = "file_name,label\n";

/* A folder of pictures with classes is a data set: `langevin eval` and `train` read the table. */
static lgv_status open_table(sample_output *o, lgv_error *err)
{
    char path[4352], first[sizeof header] = "";
    snprintf(path, sizeof path, "%s/metadata.csv", o->args->output);
    o->table = open(path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (o->table < 0)
        return cli_status(err, LGV_ERR_IO, "cannot write '%s': %s", path, strerror(errno));
    ssize_t n = pread(o->table, first, sizeof header - 1, 0);
    if (n == 0 && write(o->table, header, sizeof header - 1) == sizeof header - 1) return LGV_OK;
    if (n > 0 && !strcmp(first, header)) return LGV_OK;
    return cli_status(err, n <= 0 ? LGV_ERR_IO : LGV_ERR_EXISTS,
                      "'%s' has other columns than file_name,label; choose another folder", path);
}

/* A row of its own for each picture, so that an interrupted run leaves a true table. */
static lgv_status add_to_table(const sample_output *o, int32_t label, lgv_error *err)
{
    char row[1024], text[32];
    const char *name = strrchr(o->last, '/') + 1, *class = "";
    if (o->table < 0) return LGV_OK;
    if (label >= 0 && label != lgv_model_describe(o->model)->null_label)
        class = cli_class_name(o->model, label, text);
    bool quoted = strpbrk(class, ",\"\r\n") != NULL;
    size_t n = (size_t)snprintf(row, sizeof row, "%s,%s", name, quoted ? "\"" : "");
    for (; *class && n + 4 < sizeof row; class ++) {
        if (*class == '"') row[n++] = '"';
        row[n++] = *class;
    }
    if (quoted) row[n++] = '"';
    row[n++] = '\n';
    if (write(o->table, row, n) == (ssize_t)n) return LGV_OK;
    return cli_status(err, LGV_ERR_IO, "cannot write '%s/metadata.csv': %s", o->args->output,
                      strerror(errno));
}

static lgv_status open_folder(sample_output *o, lgv_error *err)
{
    const char *folder = o->args->output;
    if (mkdir(folder, 0777) && errno != EEXIST)
        return cli_status(err, LGV_ERR_IO, "cannot make the folder '%s': %s", folder,
                          strerror(errno));
    struct stat st;
    if (stat(folder, &st) || !S_ISDIR(st.st_mode))
        return cli_status(err, LGV_ERR_EXISTS,
                          "'%s' is a file; give a folder, or a name that ends in .png", folder);
    if (access(folder, W_OK))
        return cli_status(err, LGV_ERR_IO, "cannot write into '%s': %s", folder, strerror(errno));
    lgv_status status = o->input->label ? open_table(o, err) : LGV_OK;
    return status ? status : next_number(folder, &o->number, err);
}

lgv_status sample_check_parent(const char *path, lgv_error *err)
{
    char parent[4096] = ".";
    const char *slash = strrchr(path, '/');
    if (strlen(path) >= sizeof parent)
        return cli_status(err, LGV_ERR_ARGUMENT, "the path '%.60s...' is too long", path);
    if (slash)
        snprintf(parent, sizeof parent, "%.*s", slash == path ? 1 : (int)(slash - path), path);
    if (!access(parent, W_OK | X_OK)) return LGV_OK;
    return cli_status(err, LGV_ERR_IO, "cannot write '%s': %s", path, strerror(errno));
}

/* Whether the grid will be a possible picture, in the layout of lgv_image_grid. */
static lgv_status check_grid(const sample_input *in, lgv_error *err)
{
    int64_t across = 1, side = in->width > in->height ? in->width : in->height;
    while (across * across < in->n) across++;
    if (across * (side + 2) + 2 <= LGV_IMAGE_SIDE) return LGV_OK;
    return cli_status(err, LGV_ERR_ARGUMENT,
                      "%lld pictures of %lldx%lld are too many for one PNG; give a folder",
                      (long long)in->n, (long long)in->width, (long long)in->height);
}

lgv_status sample_output_open(sample_output *o, lgv_error *err)
{
    lgv_status status = LGV_OK;
    if (o->input->channels != 1 && o->input->channels != 3)
        return cli_status(err, LGV_ERR_UNSUPPORTED,
                          "the model gives %lld channels; a picture has 1 or 3",
                          (long long)o->input->channels);
    if (o->args->save_tensors) status = sample_check_parent(o->args->save_tensors, err);
    if (status) return status;
    if (!o->args->file) return open_folder(o, err);
    if ((status = sample_check_parent(o->args->output, err))) return status;
    if (o->input->n > 1 && (status = check_grid(o->input, err))) return status;
    o->pixels = malloc((size_t)(o->input->n * picture_bytes(o)));
    return o->pixels ? LGV_OK
                     : cli_status(err, LGV_ERR_MEMORY, "out of memory for a grid of %lld pictures",
                                  (long long)o->input->n);
}

void sample_output_free(sample_output *o)
{
    free(o->pixels);
    o->pixels = NULL;
    if (o->table >= 0) close(o->table);
    o->table = -1;
}

/* ---- the text in a picture ---- */

static void seed_text(const sample_output *o, int64_t first, int64_t count, char text[96])
{
    const sample_args *a = o->args;
    unsigned long long seed = a->seed + (uint64_t)first, last = seed + (uint64_t)(count - 1);
    if (a->interpolate && count == 1)
        snprintf(text, 96, "Seeds: %llu to %llu at %.4g", (unsigned long long)a->seed,
                 (unsigned long long)a->seed_b, o->input->weight[first]);
    else if (a->interpolate)
        snprintf(text, 96, "Seeds: %llu to %llu in %lld", (unsigned long long)a->seed,
                 (unsigned long long)a->seed_b, (long long)count);
    else if (count == 1)
        snprintf(text, 96, "Seed: %llu", seed);
    else
        snprintf(text, 96, "Seeds: %llu to %llu", seed, last);
}

enum { CLASS_TEXT = 1300 }; /* a name, and what is said of guidance, at most */

/* ", Class: cat, Guidance: 3, Classifier: DIR, Classifier scale: 1", as the pictures of a grid have it. */
static void class_text(const sample_output *o, int64_t first, int64_t count, char *text,
                       size_t size)
{
    const sample_args *a = o->args;
    const int32_t *label = o->input->label;
    char number[32];
    size_t n = 0;
    text[0] = 0;
    if (!label) return;
    for (int64_t i = first; i < first + count && n + CLASS_TEXT < size; i++) {
        if (i > first && label[i] == label[first]) break; /* they come in turn */
        n += (size_t)snprintf(text + n, size - n, "%s%.100s", i > first ? "; " : ", Class: ",
                              cli_class_name(o->model, label[i], number));
    }
    if (o->guidance > 0)
        n += (size_t)snprintf(text + n, size - n, ", Guidance: %g", o->guidance);
    if (a->guide.path)
        n += (size_t)snprintf(text + n, size - n, ", Classifier: %.1000s, Classifier scale: %g",
                              a->guide.path, a->guide.scale);
    if (a->guidance_rescale > 0)
        n += (size_t)snprintf(text + n, size - n, ", Guidance rescale: %g", a->guidance_rescale);
    if (a->guidance_stop > 0)
        snprintf(text + n, size - n, ", Guidance interval: %g to %g", a->guidance_start,
                 a->guidance_stop);
}

static void parameters_text(const sample_output *o, int64_t first, int64_t count, char *text,
                            size_t size)
{
    static const char *const rng[] = {"philox", "torch", "torch-batch"};
    const sample_args *a = o->args;
    char seed[96], class[2048 + CLASS_TEXT];
    seed_text(o, first, count, seed);
    class_text(o, first, count, class, sizeof class);
    snprintf(text, size,
             "Steps: %lld, Sampler: %s, %s%s, Size: %lldx%lld, Model: %s, Model hash: %.16s%s%s, "
             "Eta: %g, "
             "RNG: %s%s%s%s, Version: Langevin " LGV_VERSION,
             (long long)o->steps, o->sampler, seed, class, (long long)o->input->width,
             (long long)o->input->height, a->model, o->hash, *o->weights ? ", Weights: " : "",
             o->weights, a->sampler.eta, rng[a->rng],
             a->init_noise   ? ", Noise: "
             : a->init_image ? ", Picture: "
                             : "",
             a->init_noise   ? a->init_noise
             : a->init_image ? a->init_image
                             : "",
             a->precision == LGV_MIXED_BF16 ? ", Mixed precision: bf16" : "");
}

static lgv_status save(const sample_output *o, const char *path, const lgv_image *image,
                       int64_t first, int64_t count, lgv_error *err)
{
    char value[8192];
    lgv_png_text text = {"parameters", value};
    parameters_text(o, first, count, value, sizeof value);
    return lgv_image_save_png(path, image, &text, o->args->metadata ? 1 : 0, err);
}

/* ---- a folder ---- */

/* Gives the finished draft the next free number. */
static lgv_status publish(sample_output *o, const char *draft, lgv_error *err)
{
    for (;;) {
        snprintf(o->last, sizeof o->last, "%s/%06lld.png", o->args->output, (long long)o->number++);
        if (!link(draft, o->last)) break;
        if (errno == EEXIST) continue;
        /* A file system without hard links: look, then rename. */
        if (!access(o->last, F_OK)) continue;
        if (!rename(draft, o->last)) return LGV_OK;
        return cli_status(err, LGV_ERR_IO, "cannot write '%s': %s", o->last, strerror(errno));
    }
    unlink(draft);
    return LGV_OK;
}

static lgv_status save_numbered(sample_output *o, const lgv_image *image, int64_t i, lgv_error *err)
{
    char draft[4352];
    snprintf(draft, sizeof draft, "%s/.draft-%ld.png", o->args->output, (long)getpid());
    lgv_status status = save(o, draft, image, i, 1, err);
    if (!status) status = publish(o, draft, err);
    if (status) unlink(draft);
    if (!status && o->input->label) status = add_to_table(o, o->input->label[i], err);
    return status;
}

lgv_status sample_output_add(sample_output *o, int64_t first, int64_t count, const float *x,
                             lgv_error *err)
{
    const sample_input *in = o->input;
    int64_t bytes = picture_bytes(o);
    lgv_status status = LGV_OK;
    uint8_t *to = o->pixels ? o->pixels + first * bytes : malloc((size_t)(count * bytes));
    if (!to)
        return cli_status(err, LGV_ERR_MEMORY, "out of memory for %lld pictures", (long long)count);
    lgv_images_u8(count, in->channels, in->height, in->width, x, to);
    for (int64_t i = 0; i < count && !o->pixels && !status; i++) {
        lgv_image image = {.width = (int)in->width,
                           .height = (int)in->height,
                           .channels = (int)in->channels,
                           .bits = 8,
                           .pixels = to + i * bytes};
        status = save_numbered(o, &image, first + i, err);
        if (!status) o->written++;
    }
    if (!o->pixels) free(to);
    return status;
}

/* ---- one file ---- */

lgv_status sample_output_close(sample_output *o, lgv_error *err)
{
    const sample_input *in = o->input;
    if (!o->pixels) return LGV_OK;
    lgv_image *images = calloc((size_t)in->n, sizeof *images), grid = {0};
    if (!images)
        return cli_status(err, LGV_ERR_MEMORY, "out of memory for a grid of %lld pictures",
                          (long long)in->n);
    for (int64_t i = 0; i < in->n; i++)
        images[i] = (lgv_image){.width = (int)in->width,
                                .height = (int)in->height,
                                .channels = (int)in->channels,
                                .bits = 8,
                                .pixels = o->pixels + i * picture_bytes(o)};
    bool named = false; /* of one class all: the text in the file is enough */
    for (int64_t i = 1; i < in->n && in->label; i++) named |= in->label[i] != in->label[0];
    lgv_status status = named ? cli_class_sheet(images, in->label, in->n, o->model, &grid, err)
                        : in->n > 1 ? lgv_image_grid(images, (size_t)in->n, 0, &grid, err)
                                    : LGV_OK;
    if (!status) status = save(o, o->args->output, in->n > 1 ? &grid : images, 0, in->n, err);
    if (!status) {
        o->written = in->n;
        snprintf(o->last, sizeof o->last, "%s", o->args->output);
    }
    lgv_image_free(&grid);
    free(images);
    return status;
}

/* ---- tensors ---- */

lgv_status sample_save_tensors(const char *path, const lgv_samples *s, bool inverse, lgv_error *err)
{
    const int64_t dim[5] = {s->calls, s->n, s->channels, s->height, s->width};
    lgv_safetensors_writer *w = NULL;
    lgv_status status = lgv_safetensors_writer_new(&w, err);
    if (!status) status = lgv_safetensors_add(w, "sample", LGV_F32, 4, dim + 1, s->sample, err);
    if (!status && s->trajectory)
        status = lgv_safetensors_add(w, "trajectory", LGV_F32, 5, dim, s->trajectory, err);
    if (!status && inverse)
        status = lgv_safetensors_add(w, "noise", LGV_F32, 4, dim + 1, s->sample, err);
    if (!status) status = lgv_safetensors_write(w, path, err);
    lgv_safetensors_writer_free(w);
    return status;
}
