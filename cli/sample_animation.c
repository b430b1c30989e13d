/* sample_animation.c - the denoising of a batch to look at: GIF, WebP, or one PNG with a row for each
   picture. Only the steps that are shown are kept, as bytes; a 50-step run of 64 pictures is a few
   megabytes in memory. */
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "langevin/animation.h"
#include "langevin/image.h"
#include "sample.h"

enum {
    FRAMES = 24,
    COLUMNS = 10,
    ROWS = 16,         /* of a filmstrip, at most */
    PICTURES = 64,     /* of an animation, at most */
    SIDE = 640,        /* pixels that an animation may be wide before it shows fewer pictures */
    RUNNING_MS = 3000, /* from noise to picture */
    LEAST_MS = 40,
    MOST_MS = 250,
    HELD_MS = 2000 /* the finished pictures, before it begins again */
};

static bool is_strip(const sample_animation *a)
{
    return lgv_animation_format_of(a->args->animation) == LGV_ANIMATION_NONE;
}

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* How many pictures, so that the file stays small and fits a page. */
static int64_t shown(const sample_animation *a, int64_t n)
{
    if (is_strip(a)) return least(n, ROWS);
    int64_t side = (a->width > a->height ? a->width : a->height) + 2, across = SIDE / side;
    if (across < 1) across = 1;
    return least(n, least(PICTURES, across * across));
}

lgv_status sample_animation_open(sample_animation *a, const sample_args *args,
                                 const sample_input *in, int64_t steps, lgv_error *err)
{
    *a = (sample_animation){.args = args,
                            .steps = steps,
                            .channels = in->channels,
                            .height = in->height,
                            .width = in->width};
    if (!args->animation) return LGV_OK;
    lgv_status status = sample_check_parent(args->animation, err);
    if (status) return status;
    int64_t frames = args->animation_frames;
    if (!frames) frames = is_strip(a) ? COLUMNS : FRAMES;
    a->frames = least(frames, steps);
    a->pictures = shown(a, in->n);
    a->pixels = malloc((size_t)(a->frames * a->pictures * in->channels * in->height * in->width));
    return a->pixels
               ? LGV_OK
               : cli_status(err, LGV_ERR_MEMORY, "out of memory for an animation of %lld frames",
                            (long long)a->frames);
}

void sample_animation_free(sample_animation *a)
{
    free(a->pixels);
    a->pixels = NULL;
}

static int64_t pixels(const sample_animation *a)
{
    return a->channels * a->height * a->width;
}

static uint8_t *picture(const sample_animation *a, int64_t frame, int64_t i)
{
    return a->pixels + (frame * a->pictures + i) * pixels(a);
}

/* NULL: no memory; then x is shown as it is. */
static float *divided(const float *x, int64_t n, double by)
{
    float *out = malloc((size_t)n * sizeof *out);
    for (int64_t i = 0; out && i < n; i++) out[i] = (float)(x[i] / by);
    return out;
}

/* Frame k shows call (k+1)*steps/frames, so the last frame is the last call. */
void sample_animation_add(sample_animation *a, const lgv_sample_progress *p)
{
    if (!a->pixels || p->first_image >= a->pictures) return;
    int64_t k = (p->step * a->frames + a->steps - 1) / a->steps - 1;
    if ((k + 1) * a->steps / a->frames != p->step) return;
    int64_t n = least(p->images, a->pictures - p->first_image);
    const float *shown = a->args->animation_noisy ? p->x : p->x0;
    float *scaled = NULL;
    if (a->args->animation_noisy && p->spread > 1) scaled = divided(p->x, n * pixels(a), p->spread);
    lgv_images_u8(n, a->channels, a->height, a->width, scaled ? scaled : shown,
                  picture(a, k, p->first_image));
    free(scaled);
}

/* ---- writing ---- */

static lgv_image view(const sample_animation *a, int64_t frame, int64_t i)
{
    return (lgv_image){.width = (int)a->width,
                       .height = (int)a->height,
                       .channels = (int)a->channels,
                       .bits = 8,
                       .pixels = picture(a, frame, i)};
}

static lgv_status write_strip(const sample_animation *a, lgv_image *images, lgv_error *err)
{
    lgv_image grid = {0};
    for (int64_t i = 0; i < a->pictures; i++)
        for (int64_t k = 0; k < a->frames; k++) images[i * a->frames + k] = view(a, k, i);
    lgv_status status =
        lgv_image_grid(images, (size_t)(a->pictures * a->frames), (int)a->frames, &grid, err);
    if (!status) status = lgv_image_save_png(a->args->animation, &grid, NULL, 0, err);
    lgv_image_free(&grid);
    return status;
}

static int milliseconds(const sample_animation *a, int64_t k)
{
    int64_t each = RUNNING_MS / a->frames;
    if (k == a->frames - 1) return HELD_MS;
    return (int)(each < LEAST_MS ? LEAST_MS : each > MOST_MS ? MOST_MS : each);
}

static lgv_status write_frames(const sample_animation *a, lgv_image *images, lgv_error *err)
{
    lgv_animation *file = NULL;
    lgv_status status = LGV_OK;
    for (int64_t k = 0; k < a->frames && !status; k++) {
        lgv_image grid = {0};
        for (int64_t i = 0; i < a->pictures; i++) images[i] = view(a, k, i);
        if (a->pictures > 1) status = lgv_image_grid(images, (size_t)a->pictures, 0, &grid, err);
        const lgv_image *frame = a->pictures > 1 ? &grid : images;
        if (!status && !file)
            status = lgv_animation_new(lgv_animation_format_of(a->args->animation), frame->width,
                                       frame->height, NULL, &file, err);
        if (!status) status = lgv_animation_add(file, frame, milliseconds(a, k), err);
        lgv_image_free(&grid);
    }
    if (!status) status = lgv_animation_save(file, a->args->animation, err);
    lgv_animation_free(file);
    return status;
}

lgv_status sample_animation_close(sample_animation *a, lgv_error *err)
{
    struct stat st;
    if (!a->pixels) return LGV_OK;
    lgv_image *images = calloc((size_t)(a->pictures * a->frames), sizeof *images);
    if (!images) return cli_status(err, LGV_ERR_MEMORY, "out of memory for an animation");
    lgv_status status = is_strip(a) ? write_strip(a, images, err) : write_frames(a, images, err);
    if (!status && !stat(a->args->animation, &st)) a->bytes = st.st_size;
    free(images);
    return status;
}
