/* bench_data.c - how fast a data set is opened, decoded and resized: bench_data DATA [RESOLUTION [THREADS]].
   Every training picture once through the loader's threads, nothing cached before; compare_data.py sets it
   beside PIL and torchvision. Prints seconds to open, seconds to the first batch of 32, pictures a second. */
#include <stdio.h>
#include <stdlib.h>

#include "core/file.h"
#include "train/dataset.h"
#include "train/loader.h"

static int fail(const lgv_error *err)
{
    fprintf(stderr, "bench_data: %s\n", err->text);
    return 1;
}

int main(int argc, char **argv)
{
    enum { BATCH = 32 };
    if (argc < 2) return fprintf(stderr, "bench_data DATA [RESOLUTION [THREADS]]\n"), 2;
    lgv_dataset_options o = {.resolution = argc > 2 ? atoi(argv[2]) : 0, .validation = LGV_OFF};
    lgv_loader_options lo = {.ahead = 4 * BATCH, .threads = argc > 3 ? atoi(argv[3]) : 2};
    lgv_dataset *d = NULL;
    lgv_loader *l = NULL;
    lgv_error err = {0};
    double start = lgv_now();
    if (lgv_dataset_open(argv[1], &o, &d, &err)) return fail(&err);
    double opened = lgv_now(), first = 0;
    size_t side = (size_t)lgv_dataset_resolution(d),
           row = side * side * (size_t)lgv_dataset_channels(d);
    uint8_t *pixels = malloc(BATCH * row);
    if (!pixels || lgv_loader_new(d, &lo, &l, &err)) return fail(&err);
    int64_t n = lgv_dataset_count(d);
    for (int64_t i = 0; i < n; i += BATCH) {
        if (lgv_loader_next(l, n - i < BATCH ? n - i : BATCH, pixels, NULL, NULL, &err))
            return fail(&err);
        if (!i) first = lgv_now();
    }
    double end = lgv_now();
    printf("open %.3f first %.3f pictures %lld rate %.1f\n", opened - start, first - start,
           (long long)n, (double)n / (end - opened));
    lgv_loader_free(l);
    lgv_dataset_free(d);
    free(pixels);
    return 0;
}
