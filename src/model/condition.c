/* condition.c - image conditions: from a picture to the channels that a network sees beside the noise. */
#include "langevin/condition.h"

#include <string.h>

#include "core/core.h"
#include "langevin/rng.h"

static const char *const names[] = {"none", "super-resolution", "inpainting"};
enum { NAMES = sizeof names / sizeof names[0] };

const char *lgv_condition_name(lgv_condition c)
{
    return names[(unsigned)c < NAMES ? c : LGV_CONDITION_NONE];
}

lgv_status lgv_condition_parse(const char *name, lgv_condition *out, lgv_error *err)
{
    for (int k = 0; k < NAMES; k++) {
        if (strcmp(name, names[k])) continue;
        *out = (lgv_condition)k;
        return LGV_OK;
    }
    return lgv_fail(err, LGV_ERR_ARGUMENT,
                    "'%s' is no image condition; there are super-resolution and inpainting", name);
}

int lgv_condition_channels(lgv_condition c, int picture)
{
    return c == LGV_CONDITION_SUPER_RESOLUTION ? picture
           : c == LGV_CONDITION_INPAINTING     ? picture + 1
                                               : 0;
}

/* ---- super-resolution ---- */

/* Row or column i of n as a mean of two of the m small ones: a + weight (b - a). */
static float between(int64_t i, int64_t n, int64_t m, int64_t *a, int64_t *b)
{
    float at = ((float)i + 0.5f) * ((float)m / (float)n) - 0.5f;
    if (at < 0) at = 0;
    *a = lgv_min_i64((int64_t)at, m - 1);
    *b = lgv_min_i64(*a + 1, m - 1);
    return at - (float)*a;
}

void lgv_condition_enlarge(int64_t h, int64_t w, int64_t c, const float *small, int64_t H,
                           int64_t W, float *out)
{
    for (int64_t y = 0; y < H; y++) {
        int64_t top, bottom, left, right;
        float down = between(y, H, h, &top, &bottom);
        for (int64_t x = 0; x < W; x++) {
            float across = between(x, W, w, &left, &right);
            const float *a = small + (top * w + left) * c, *b = small + (top * w + right) * c;
            const float *d = small + (bottom * w + left) * c, *e = small + (bottom * w + right) * c;
            for (int64_t k = 0; k < c; k++) {
                float upper = a[k] + across * (b[k] - a[k]), lower = d[k] + across * (e[k] - d[k]);
                *out++ = upper + down * (lower - upper);
            }
        }
    }
}

static float mean_of(int64_t W, int64_t c, const float *x, int scale)
{
    double sum = 0;
    for (int64_t y = 0; y < scale; y++)
        for (int64_t i = 0; i < scale; i++) sum += (double)x[(y * W + i) * c];
    return (float)(sum / scale / scale);
}

lgv_status lgv_condition_degrade(int64_t H, int64_t W, int64_t c, const float *x0, int scale,
                                 float *out, lgv_error *err)
{
    const int64_t h = H / scale, w = W / scale;
    float *small = lgv_alloc((size_t)(h * w * c), sizeof *small), *to = small;
    if (!small) return lgv_fail(err, LGV_ERR_MEMORY, "out of memory for a smaller picture");
    for (int64_t y = 0; y < h; y++)
        for (int64_t x = 0; x < w; x++)
            for (int64_t k = 0; k < c; k++)
                *to++ = mean_of(W, c, x0 + (y * scale * W + x * scale) * c + k, scale);
    lgv_condition_enlarge(h, w, c, small, H, W, out);
    lgv_free(small);
    return LGV_OK;
}

/* ---- inpainting ---- */

void lgv_condition_mask(int64_t H, int64_t W, int64_t c, const float *x0, const uint8_t *mask,
                        float *out)
{
    for (int64_t i = 0; i < H * W; i++) {
        *out++ = mask[i] ? 1 : 0;
        for (int64_t k = 0; k < c; k++) *out++ = mask[i] ? 0 : x0[i * c + k];
    }
}

typedef struct draws {
    lgv_rng_key key;
    uint64_t next;
} draws;

/* low .. high. */
static int64_t draw(draws *d, int64_t low, int64_t high)
{
    if (high <= low) return low;
    return low + (int64_t)lgv_rng_below(&d->key, d->next++, (uint64_t)(high - low + 1));
}

static void fill(int64_t W, int64_t top, int64_t left, int64_t bottom, int64_t right, uint8_t *mask)
{
    for (int64_t y = top; y < bottom; y++) memset(mask + y * W + left, 1, (size_t)(right - left));
}

static void rectangle(draws *d, int64_t H, int64_t W, uint8_t *mask)
{
    const int64_t h = draw(d, lgv_max_i64(1, H / 4), lgv_max_i64(1, 3 * H / 4)),
                  w = draw(d, lgv_max_i64(1, W / 4), lgv_max_i64(1, 3 * W / 4));
    const int64_t top = draw(d, 0, H - h), left = draw(d, 0, W - w);
    fill(W, top, left, top + h, left + w, mask);
}

/* A thick line from one point to another, as squares along it. */
static void stroke(draws *d, int64_t H, int64_t W, uint8_t *mask)
{
    const int64_t side = lgv_min_i64(H, W), half = draw(d, lgv_max_i64(1, side / 16), lgv_max_i64(1, side / 6));
    const int64_t y0 = draw(d, 0, H - 1), x0 = draw(d, 0, W - 1), y1 = draw(d, 0, H - 1),
                  x1 = draw(d, 0, W - 1), steps = H + W;
    for (int64_t i = 0; i <= steps; i++) {
        const int64_t y = y0 + (y1 - y0) * i / steps, x = x0 + (x1 - x0) * i / steps;
        fill(W, lgv_max_i64(0, y - half), lgv_max_i64(0, x - half), lgv_min_i64(H, y + half),
             lgv_min_i64(W, x + half), mask);
    }
}

void lgv_condition_random_mask(uint64_t seed, uint64_t sample, uint64_t step, int64_t H, int64_t W,
                               uint8_t *mask)
{
    draws d = {.key = {.seed = seed,
                       .stream = lgv_rng_stream("train.mask"),
                       .sample = sample,
                       .step = step}};
    const int64_t kind = draw(&d, 0, 19);
    memset(mask, kind == 0, (size_t)(H * W));
    if (kind == 0) return;
    if (kind <= 10) {
        rectangle(&d, H, W, mask);
        return;
    }
    for (int64_t n = draw(&d, 1, 4); n > 0; n--) stroke(&d, H, W, mask);
}
