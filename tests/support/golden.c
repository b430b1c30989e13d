/* golden.c - hash values, golden files and error measures. A faulty golden file ends the test. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "golden.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint64_t fnv1a64(const char *text)
{
    uint64_t h = 0xCBF29CE484222325u;
    for (; *text; text++) h = (h ^ (uint8_t)*text) * 0x100000001B3u;
    return h;
}

static uint64_t bits_of(uint64_t h, int64_t i)
{
    uint64_t z = h + ((uint64_t)i + 1) * 0x9E3779B97F4A7C15u;
    z ^= z >> 30;
    z *= 0xBF58476D1CE4E5B9u;
    z ^= z >> 27;
    z *= 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

static float unit_of(uint64_t h, int64_t i)
{
    return (float)(bits_of(h, i) >> 40) * 0x1p-23f - 1.0f;
}

uint64_t golden_bits(const char *name, int64_t i)
{
    return bits_of(fnv1a64(name), i);
}

void golden_unit(const char *name, int64_t count, float *x)
{
    uint64_t h = fnv1a64(name);
    for (int64_t i = 0; i < count; i++) x[i] = unit_of(h, i);
}

static int ends_with(const char *text, const char *end)
{
    size_t n = strlen(text), m = strlen(end);
    return n >= m && !strcmp(text + n - m, end);
}

void golden_parameter(const char *name, int rank, const int64_t *dim, float *x)
{
    int64_t count = 1;
    for (int i = 0; i < rank; i++) count *= dim[i];
    float scale = 0.2f, offset = 0; /* biases */
    if (!strcmp(name, "time_proj.weight"))
        scale = rank == 1 ? 16.0f : 1.0f;
    else if (!strcmp(name, "class_embedding.weight"))
        scale = 1.0f;
    else if (rank >= 2)
        scale = (float)(1 / sqrt((double)(count / dim[0])));
    else if (ends_with(name, ".weight"))
        offset = 1.0f;
    golden_unit(name, count, x);
    for (int64_t i = 0; i < count; i++) {
        float scaled = scale * x[i]; /* two roundings, never a fused one: -ffp-contract=off */
        x[i] = offset + scaled;
    }
}

lgv_status golden_fill(lgv_store *store, const char *set, lgv_error *err)
{
    for (int i = 0; i < lgv_store_count(store); i++) {
        int rank = 0, frozen = 0;
        int64_t dim[LGV_MAX_RANK], count = 1;
        const char *name = lgv_store_at(store, i, &rank, dim, &frozen);
        for (int k = 0; k < rank; k++) count *= dim[k];
        float *x = malloc((size_t)count * sizeof *x + 1);
        if (!x) fail_msg("no memory for parameter '%s'", name);
        golden_parameter(name, rank, dim, x);
        lgv_status status = lgv_store_write(store, set, i, x, count, err);
        free(x);
        if (status) return status;
    }
    return LGV_OK;
}

lgv_safetensors *golden_open(const char *name)
{
    char path[512];
    lgv_safetensors *f = NULL;
    lgv_error err = {0};
    snprintf(path, sizeof path, "tests/golden/%s.safetensors", name);
    FILE *there = fopen(path, "rb");
    if (!there) {
        print_message("skipped: '%s' is missing; make it with tools/golden\n", path);
        skip();
    }
    fclose(there);
    if (lgv_safetensors_open(path, &f, &err)) fail_msg("'%s': %s", path, err.text);
    return f;
}

float *golden_floats(const lgv_safetensors *f, const char *name, int64_t *count)
{
    const lgv_tensor_info *t = lgv_safetensors_find(f, name);
    lgv_error err = {0};
    if (!t) fail_msg("the golden file has no tensor '%s'", name);
    float *x = malloc((size_t)t->count * sizeof *x + 1);
    if (!x) fail_msg("no memory for tensor '%s'", name);
    if (t->dtype == LGV_I64) {
        for (int64_t i = 0; i < t->count; i++) {
            int64_t v;
            memcpy(&v, (const char *)t->data + (size_t)i * sizeof v, sizeof v);
            x[i] = (float)v;
        }
    } else if (lgv_tensor_to_f32(t, x, &err)) {
        fail_msg("tensor '%s': %s", name, err.text);
    }
    if (count) *count = t->count;
    return x;
}

const char *golden_metadata(const lgv_safetensors *f, const char *key)
{
    const char *text = lgv_safetensors_metadata(f, key);
    if (!text) fail_msg("the golden file has no metadata '%s'", key);
    return text;
}

/* difference / size, where equal values are no error whatever the size. */
static double ratio(double difference, double size)
{
    if (isnan(difference)) return INFINITY;
    if (difference == 0) return 0;
    return size > 0 ? difference / size : INFINITY;
}

double golden_error(const float *a, const float *b, int64_t n, double floor)
{
    double worst = 0, size = floor;
    for (int64_t i = 0; i < n; i++) {
        double difference = fabs((double)a[i] - b[i]);
        if (!(difference <= worst)) worst = difference; /* a NaN gets in, */
        if (isnan(worst)) return INFINITY;              /* and out */
        if (fabs((double)b[i]) > size) size = fabs((double)b[i]);
    }
    return ratio(worst, size);
}

double golden_gradient_error(const char *name, const float *g, int64_t n, const float *summary,
                             double largest)
{
    double seen[GOLDEN_SUMMARY] = {0}, error = 0;
    char label[300];
    for (int i = 0; i < 8 && i < n; i++) seen[i] = g[i];
    snprintf(label, sizeof label, "%s.pos", name);
    for (int i = 0; i < 8; i++) seen[8 + i] = g[golden_bits(label, i) % (uint64_t)n];
    for (int k = 0; k < 2; k++) {
        snprintf(label, sizeof label, "%s.proj%d", name, k);
        uint64_t h = fnv1a64(label);
        for (int64_t i = 0; i < n; i++) seen[16 + k] += (double)g[i] * unit_of(h, i);
    }
    for (int64_t i = 0; i < n; i++) {
        if (isnan(g[i])) return INFINITY;
        if (fabs((double)g[i]) > seen[18]) seen[18] = fabs((double)g[i]);
        seen[19] += (double)g[i] * g[i];
    }
    seen[19] = sqrt(seen[19] / (double)n);
    double size = fmax(summary[18], 0.01 * largest);
    for (int i = 0; i < GOLDEN_SUMMARY; i++) {
        double spread = i == 16 || i == 17 ? sqrt((double)n) : 1;
        error = fmax(error, ratio(fabs(seen[i] - summary[i]), size * spread));
    }
    return error;
}

double golden_rms_error(const float *a, const float *b, int64_t n)
{
    double difference = 0, size = 0;
    for (int64_t i = 0; i < n; i++) {
        difference += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
        size += (double)b[i] * b[i];
    }
    if (isnan(difference)) return INFINITY;
    return sqrt(size > 0 ? difference / size : difference / (double)(n > 0 ? n : 1));
}
