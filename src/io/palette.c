/* palette.c - at most 256 colours for a picture, and the picture in them.
   A frame that has no more colours than that keeps every pixel. For others: boxes of the colour cube
   are split at the mean of their widest axis, the box with the largest squared error first (Wan,
   Wong and Prusinkiewicz 1988), the means move to the centres of what lies nearest to them (Lloyd
   1982), and what a pixel misses goes to its neighbours (Floyd and Steinberg 1976). */
#include <string.h>

#include "animation_internal.h"

enum { BINS = 32 * 32 * 32, COLOURS = 256, HASH = 1024, LLOYD = 2, CACHE = 64 * 64 * 64 };
/* How much an eye sees of an error in red, green and blue. */
static const float weight[3] = {3, 6, 1};

static void pixel_of(const lgv_image *m, size_t i, uint8_t rgb[3])
{
    const uint8_t *p = (const uint8_t *)m->pixels + i * (size_t)m->channels;
    for (int c = 0; c < 3; c++) rgb[c] = p[m->channels == 3 ? c : 0];
}

static size_t pixels_of(const lgv_image *m)
{
    return (size_t)m->width * (size_t)m->height;
}

/* ---- few colours ---- */

/* False when there are more than 256. */
static bool exact(const lgv_image *m, lgv_palette *p, uint8_t *index)
{
    uint32_t key[HASH] = {0}; /* colour + 1; 0: free */
    uint8_t value[HASH], rgb[3];
    p->count = 0;
    for (size_t i = 0, n = pixels_of(m); i < n; i++) {
        pixel_of(m, i, rgb);
        uint32_t colour = (uint32_t)(rgb[0] << 16 | rgb[1] << 8 | rgb[2]) + 1;
        uint32_t at = (colour * 2654435761u) >> 22;
        while (key[at] && key[at] != colour) at = (at + 1) % HASH;
        if (!key[at]) {
            if (p->count == COLOURS) return false;
            key[at] = colour;
            value[at] = (uint8_t)p->count;
            memcpy(p->rgb[p->count++], rgb, 3);
        }
        index[i] = value[at];
    }
    return true;
}

/* ---- many: the histogram ---- */

typedef struct bin {
    float n, mean[3];
} bin;

/* The used bins of 8x8x8 colours; *count of them. NULL: no memory. */
static bin *histogram(const lgv_image *m, int *count)
{
    bin *list = lgv_zalloc(BINS, sizeof *list);
    uint64_t(*sum)[4] = lgv_zalloc(BINS, sizeof *sum);
    uint8_t rgb[3];
    *count = 0;
    for (size_t i = 0, n = pixels_of(m); list && sum && i < n; i++) {
        pixel_of(m, i, rgb);
        uint64_t *s = sum[rgb[0] >> 3 << 10 | rgb[1] >> 3 << 5 | rgb[2] >> 3];
        for (int c = 0; c < 3; c++) s[c] += rgb[c];
        s[3]++;
    }
    for (int i = 0; list && sum && i < BINS; i++) {
        if (!sum[i][3]) continue;
        bin *b = &list[(*count)++];
        b->n = (float)sum[i][3];
        for (int c = 0; c < 3; c++) b->mean[c] = (float)sum[i][c] / b->n;
    }
    if (!sum) {
        lgv_free(list);
        list = NULL;
    }
    lgv_free(sum);
    return list;
}

/* ---- boxes ---- */

typedef struct box {
    int first, count;
    float mean[3], error[3]; /* weighted sums of squared distances from the mean */
} box;

static void measure(const bin *list, box *b)
{
    double n = 0, sum[3] = {0}, square[3] = {0};
    for (int i = b->first; i < b->first + b->count; i++) {
        n += list[i].n;
        for (int c = 0; c < 3; c++) {
            sum[c] += (double)list[i].n * list[i].mean[c];
            square[c] += (double)list[i].n * list[i].mean[c] * list[i].mean[c];
        }
    }
    for (int c = 0; c < 3; c++) {
        b->mean[c] = (float)(sum[c] / n);
        b->error[c] = b->count > 1 ? weight[c] * (float)(square[c] - sum[c] * sum[c] / n) : 0;
    }
}

/* Bins below the mean of the axis go left. */
static void split(bin *list, box *low, box *high)
{
    int axis = 0, left = low->first, right = low->first + low->count;
    for (int c = 1; c < 3; c++)
        if (low->error[c] > low->error[axis]) axis = c;
    while (left < right) {
        if (list[left].mean[axis] < low->mean[axis]) {
            left++;
        } else {
            bin other = list[--right];
            list[right] = list[left];
            list[left] = other;
        }
    }
    *high = (box){.first = left, .count = low->first + low->count - left};
    low->count = left - low->first;
    measure(list, low);
    measure(list, high);
}

static float error_of(const box *b)
{
    return b->error[0] + b->error[1] + b->error[2];
}

static int make_boxes(bin *list, int bins, box *b)
{
    int n = 1;
    b[0] = (box){.first = 0, .count = bins};
    measure(list, &b[0]);
    while (n < COLOURS) {
        int worst = 0;
        for (int i = 1; i < n; i++)
            if (error_of(&b[i]) > error_of(&b[worst])) worst = i;
        if (!(error_of(&b[worst]) > 0)) break;
        split(list, &b[worst], &b[n]);
        /* Rounding can leave one side empty: then this box is as small as it gets. */
        if (!b[worst].count || !b[n].count) {
            if (!b[worst].count) b[worst] = b[n];
            memset(b[worst].error, 0, sizeof b[worst].error);
            continue;
        }
        n++;
    }
    return n;
}

/* ---- the nearest colour ---- */

typedef struct colours {
    int count;
    float c[COLOURS][3]; /* ascending green */
    int from[256];       /* first colour whose green is at least this */
} colours;

static void by_green(colours *p)
{
    for (int i = 1; i < p->count; i++) {
        float key[3];
        int at = i;
        memcpy(key, p->c[i], sizeof key);
        for (; at > 0 && p->c[at - 1][1] > key[1]; at--) memcpy(p->c[at], p->c[at - 1], sizeof key);
        memcpy(p->c[at], key, sizeof key);
    }
    for (int g = 0, i = 0; g < 256; g++) {
        while (i < p->count && p->c[i][1] < (float)g) i++;
        p->from[g] = i;
    }
}

static float distance(const float a[3], const float b[3])
{
    float sum = 0;
    for (int c = 0; c < 3; c++) sum += weight[c] * (a[c] - b[c]) * (a[c] - b[c]);
    return sum;
}

/* Walks away from the colour's green to both sides until green alone is too far. */
static int nearest(const colours *p, const float c[3])
{
    int best = 0, up = p->from[(int)c[1]], down = up - 1;
    float least = 1e30f;
    while (up < p->count || down >= 0) {
        if (up < p->count) {
            float g = p->c[up][1] - c[1], d = distance(p->c[up], c);
            if (d < least) least = d, best = up;
            up = weight[1] * g * g > least && g > 0 ? p->count : up + 1;
        }
        if (down >= 0) {
            float g = c[1] - p->c[down][1], d = distance(p->c[down], c);
            if (d < least) least = d, best = down;
            down = weight[1] * g * g > least && g > 0 ? -1 : down - 1;
        }
    }
    return best;
}

static void move_to_centres(colours *p, const bin *list, int bins)
{
    double sum[COLOURS][4] = {{0}};
    for (int i = 0; i < bins; i++) {
        double *s = sum[nearest(p, list[i].mean)];
        for (int c = 0; c < 3; c++) s[c] += (double)list[i].n * list[i].mean[c];
        s[3] += list[i].n;
    }
    for (int i = 0; i < p->count; i++)
        for (int c = 0; c < 3 && sum[i][3] > 0; c++) p->c[i][c] = (float)(sum[i][c] / sum[i][3]);
    by_green(p);
}

static lgv_status choose(const lgv_image *m, colours *p, lgv_error *err)
{
    int bins;
    bin *list = histogram(m, &bins);
    if (!list) return lgv_fail(err, LGV_ERR_MEMORY, "out of memory for the colours of a frame");
    box b[COLOURS];
    p->count = make_boxes(list, bins, b);
    for (int i = 0; i < p->count; i++) memcpy(p->c[i], b[i].mean, sizeof b[i].mean);
    by_green(p);
    for (int i = 0; i < LLOYD; i++) move_to_centres(p, list, bins);
    lgv_free(list);
    for (int i = 0; i < p->count; i++) /* as they will stand in the file */
        for (int c = 0; c < 3; c++) p->c[i][c] = (float)(int)(p->c[i][c] + 0.5f);
    by_green(p);
    return LGV_OK;
}

/* ---- the picture in these colours ---- */

typedef struct dither {
    const colours *p;
    uint16_t *cache; /* [64][64][64] nearest colour, CACHE_EMPTY: not asked for yet */
    int *now, *next; /* [width+2][3] sixteenths that pixels of this row and the next get */
} dither;
enum { CACHE_EMPTY = 0xffff };

static int clamp_byte(int v)
{
    return v < 0 ? 0 : v > 255 ? 255 : v;
}

static int find(const dither *d, const int c[3])
{
    uint16_t *known = &d->cache[c[0] >> 2 << 12 | c[1] >> 2 << 6 | c[2] >> 2];
    if (*known == CACHE_EMPTY) {
        const float middle[3] = {(float)(c[0] & ~3) + 1.5f, (float)(c[1] & ~3) + 1.5f,
                                 (float)(c[2] & ~3) + 1.5f};
        *known = (uint16_t)nearest(d->p, middle);
    }
    return *known;
}

/* Every other row runs backwards, so that no pattern leans. */
static void dither_row(dither *d, const lgv_image *m, int y, uint8_t *index)
{
    int step = y % 2 ? -1 : 1;
    memset(d->next, 0, ((size_t)m->width + 2) * 3 * sizeof *d->next);
    for (int i = 0, x = y % 2 ? m->width - 1 : 0; i < m->width; i++, x += step) {
        uint8_t rgb[3];
        int want[3];
        pixel_of(m, (size_t)y * (size_t)m->width + (size_t)x, rgb);
        int *now = d->now + 3 * (x + 1), *next = d->next + 3 * (x + 1);
        for (int c = 0; c < 3; c++) want[c] = clamp_byte(rgb[c] + (now[c] + 8) / 16);
        int k = find(d, want);
        index[(size_t)y * (size_t)m->width + (size_t)x] = (uint8_t)k;
        for (int c = 0; c < 3; c++) {
            int miss = want[c] - (int)d->p->c[k][c];
            now[3 * step + c] += 7 * miss;
            next[-3 * step + c] += 3 * miss;
            next[c] += 5 * miss;
            next[3 * step + c] += miss;
        }
    }
    int *row = d->now;
    d->now = d->next;
    d->next = row;
}

static lgv_status draw(const lgv_image *m, const colours *p, uint8_t *index, lgv_error *err)
{
    size_t row = ((size_t)m->width + 2) * 3;
    dither d = {.p = p, .cache = lgv_alloc(CACHE, sizeof *d.cache)};
    int *rows = lgv_zalloc(2 * row, sizeof *rows);
    lgv_status s = LGV_OK;
    if (d.cache && rows) {
        memset(d.cache, 0xff, CACHE * sizeof *d.cache);
        d.now = rows;
        d.next = rows + row;
        for (int y = 0; y < m->height; y++) dither_row(&d, m, y, index);
    } else {
        s = lgv_fail(err, LGV_ERR_MEMORY, "out of memory for the colours of a frame");
    }
    lgv_free(d.cache);
    lgv_free(rows);
    return s;
}

lgv_status lgv_palette_make(const lgv_image *frame, lgv_palette *out, uint8_t *index,
                            lgv_error *err)
{
    colours p;
    if (exact(frame, out, index)) return LGV_OK;
    LGV_TRY(choose(frame, &p, err));
    out->count = p.count;
    for (int i = 0; i < p.count; i++)
        for (int c = 0; c < 3; c++) out->rgb[i][c] = (uint8_t)p.c[i][c];
    return draw(frame, &p, index, err);
}
