/* test_dataset.c - data sets: listing, decisions, decoding rules, order, the loader's threads. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "core/file.h"
#include "langevin/image.h"
#include "ok.h"
#include "scratch.h"
#include "train/dataset.h"
#include "train/loader.h"

/* Picture k: every pixel of channel c is k + 10 c, with a gradient to the right so that crops
 * differ. */
static void put_png(const char *name, int width, int height, int channels, int k)
{
    lgv_error err;
    lgv_image image;
    uint8_t *data;
    size_t size;
    OK(lgv_image_new(width, height, channels, 8, &image, &err));
    for (int i = 0; i < width * height * channels; i++)
        ((uint8_t *)image.pixels)[i] = (uint8_t)(k + 10 * (i % channels) + i / channels % width);
    OK(lgv_image_encode_png(&image, NULL, 0, &data, &size, &err));
    scratch_put(name, data, size);
    lgv_image_free_data(data);
    lgv_image_free(&image);
}

static void put_idx(const char *name, int n, int height, int width)
{
    size_t size = 16 + (size_t)(n * height * width);
    uint8_t *p = calloc(size, 1);
    const int extent[3] = {n, height, width};
    p[2] = 8;
    p[3] = 3;
    for (int k = 0; k < 3; k++)
        for (int b = 0; b < 4; b++) p[4 + 4 * k + b] = (uint8_t)(extent[k] >> (24 - 8 * b));
    for (size_t i = 16; i < size; i++) p[i] = (uint8_t)(1 + (i - 16) / (size_t)(height * width));
    scratch_put(name, p, size);
    free(p);
}

static void put_labels(const char *name, int n, int classes)
{
    uint8_t p[64] = {0, 0, 8, 1, 0, 0, 0, (uint8_t)n};
    for (int i = 0; i < n; i++) p[8 + i] = (uint8_t)(i % classes);
    scratch_put(name, p, 8 + (size_t)n);
}

static lgv_dataset *open_data(const char *name, const lgv_dataset_options *options)
{
    lgv_error err;
    lgv_dataset *d = NULL;
    OK(lgv_dataset_open(scratch_path(name), options, &d, &err));
    return d;
}

static void expect_error(const char *name, const lgv_dataset_options *options, const char *part)
{
    lgv_error err;
    lgv_dataset *d = NULL;
    assert_int_not_equal(lgv_dataset_open(scratch_path(name), options, &d, &err), LGV_OK);
    assert_null(d);
    if (!strstr(err.text, part)) fail_msg("'%s' does not say '%s'", err.text, part);
}

static void sorted_by_path_bytes(void **state)
{
    put_png("order/b/1.png", 40, 40, 1, 4);
    put_png("order/a.png", 40, 40, 1, 2);
    put_png("order/a/2.dat", 40, 40, 1, 3); /* by content, not by name; '.' sorts before '/' */
    put_png("order/a-1.png", 40, 40, 1, 1); /* '-' sorts before '.' */
    scratch_put("order/notes.png", "no picture", 10);
    put_png("order/.hidden/9.png", 40, 40, 1, 9);
    put_png("order/model/samples/000100.png", 40, 40, 1, 9); /* what a run drew */
    scratch_put("order/model/langevin.json", "{}", 2);
    char *loop = strdup(scratch_path("order/b/loop"));
    assert_int_equal(symlink("..", loop), 0);
    free(loop);
    lgv_dataset *d = open_data("order", &(lgv_dataset_options){.center_crop = 1});
    assert_int_equal(lgv_dataset_count(d), 4);
    assert_int_equal(lgv_dataset_resolution(d), 32);
    assert_int_equal(lgv_dataset_channels(d), 1);
    assert_int_equal(lgv_dataset_classes(d), 0); /* not every picture lies in a folder */
    for (int64_t i = 0; i < 4; i++) {
        lgv_error err;
        uint8_t pixels[32 * 32];
        OK(lgv_dataset_read(d, 0, i, 0, 0, pixels, NULL, &err));
        assert_int_equal(pixels[0], 1 + i);
    }
    lgv_dataset_free(d);
}

static void classes_are_folders(void **state)
{
    put_png("classes/dog/1.png", 60, 70, 3, 0);
    put_png("classes/cat/1.png", 60, 70, 3, 0);
    put_png("classes/cat/deep/2.png", 60, 70, 3, 0);
    lgv_dataset *d = open_data("classes", NULL);
    assert_int_equal(lgv_dataset_classes(d), 2);
    for (int i = 0; i < 3; i++) assert_int_equal(lgv_dataset_label(d, 0, i), i == 2);
    assert_int_equal(lgv_dataset_label(d, 0, 3), -1);
    assert_string_equal(lgv_dataset_class_name(d, 0), "cat");
    assert_string_equal(lgv_dataset_class_name(d, 1), "dog");
    assert_null(lgv_dataset_class_name(d, 2));
    assert_int_equal(lgv_dataset_resolution(d), 64);
    assert_int_equal(lgv_dataset_channels(d), 3);
    char before[65];
    snprintf(before, sizeof before, "%s", lgv_dataset_fingerprint(d));
    lgv_dataset_free(d);
    put_png("classes/cat/deep/2.png", 60, 70, 3, 1); /* other content, same names */
    d = open_data("classes", NULL);
    assert_string_not_equal(lgv_dataset_fingerprint(d), before);
    lgv_dataset_free(d);
}

static void clear_errors(void **state)
{
    scratch_put("empty/keep", "", 0);
    unlink(scratch_path("empty/keep"));
    scratch_put("text/readme.txt", "hello", 5);
    expect_error("missing", NULL, "there is no data folder");
    expect_error("empty", NULL, "it is empty");
    expect_error("text", NULL, "readme.txt");
    expect_error("text/readme.txt", NULL, "neither a folder");
    put_png("one/1.png", 8, 8, 1, 0);
    expect_error("one", &(lgv_dataset_options){.channels = 2}, "1 or 3 channels");
    expect_error("one", &(lgv_dataset_options){.validation = 1}, "leave none");
    scratch_put("broken/1.png", "\x89PNG\r\n\x1a\n rubbish", 16);
    expect_error("broken", NULL, "can be read");
}

static void idx_padding_and_pairs(void **state)
{
    put_idx("idx/train-images-idx3-ubyte", 10, 28, 28);
    put_labels("idx/train-labels-idx1-ubyte", 10, 3);
    put_idx("idx/t10k-images-idx3-ubyte", 4, 28, 28);
    lgv_dataset *d = open_data("idx", NULL);
    assert_int_equal(lgv_dataset_count(d), 10);
    assert_int_equal(lgv_dataset_validation_count(d), 4);
    assert_int_equal(lgv_dataset_resolution(d), 32);
    assert_int_equal(lgv_dataset_channels(d), 1);
    assert_int_equal(lgv_dataset_classes(d), 3);
    for (int i = 0; i < 10; i++) assert_int_equal(lgv_dataset_label(d, 0, i), i % 3);
    lgv_error err;
    uint8_t pixels[32 * 32];
    OK(lgv_dataset_read(d, 0, 6, 0, 0, pixels, NULL, &err));
    for (int y = 0; y < 32; y++)
        for (int x = 0; x < 32; x++)
            assert_int_equal(pixels[y * 32 + x], x >= 2 && x < 30 && y >= 2 && y < 30 ? 7 : 0);
    OK(lgv_dataset_read(d, 1, 3, 0, 0, pixels, NULL, &err));
    assert_int_equal(pixels[16 * 32 + 16], 4);
    assert_int_equal(lgv_dataset_read(d, 1, 4, 0, 0, pixels, NULL, &err), LGV_ERR_ARGUMENT);
    lgv_dataset_free(d);
    d = open_data("idx/train-images-idx3-ubyte",
                  &(lgv_dataset_options){.resolution = 14, .channels = 3});
    uint8_t small[14 * 14 * 3];
    OK(lgv_dataset_read(d, 0, 0, 0, 0, small, NULL, &err));
    for (size_t i = 0; i < sizeof small; i++) assert_int_equal(small[i], 1);
    lgv_dataset_free(d);
}

/* The pictures held back, by number; count of them in *n. */
static uint8_t *held_back(const char *name, const lgv_dataset_options *o, int total, int64_t *n)
{
    lgv_dataset *d = open_data(name, o);
    uint8_t *held = calloc((size_t)total, 1), *seen = calloc((size_t)total, 1);
    *n = lgv_dataset_validation_count(d);
    for (int64_t i = 0; i < *n; i++) held[d->validation[i]] = 1;
    for (int64_t i = 0; i < *n; i++) seen[d->validation[i]]++;
    for (int64_t i = 0; i < lgv_dataset_count(d); i++) seen[d->train[i]]++;
    for (int i = 0; i < total; i++) assert_int_equal(seen[i], 1);
    free(seen);
    lgv_dataset_free(d);
    return held;
}

static void the_split_is_stable(void **state)
{
    int64_t n, more;
    put_idx("large/train-images-idx3-ubyte", 2000, 4, 4);
    uint8_t *before = held_back("large", NULL, 2000, &n);
    assert_in_range(n, 70, 130); /* about 5 % */
    put_idx("large/train-images-idx3-ubyte", 9000, 4, 4);
    uint8_t *after = held_back("large", NULL, 9000, &more);
    assert_in_range(more, 350, 500);
    assert_memory_equal(before, after, 2000); /* below the limit nothing changes sides */
    free(before);
    free(after);
    put_idx("large/train-images-idx3-ubyte", 900, 4, 4);
    free(held_back("large", NULL, 900, &n));
    assert_int_equal(n, 0); /* few pictures: none */
    before = held_back("large", &(lgv_dataset_options){.validation = 50}, 900, &n);
    assert_int_equal(n, 50);
    put_idx("large/train-images-idx3-ubyte", 2000, 4, 4);
    after = held_back("large", &(lgv_dataset_options){.validation = 50}, 2000, &n);
    for (int i = 0; i < 900; i++) /* none moves from training to validation */
        if (after[i]) assert_true(before[i]);
    free(before);
    free(after);
    free(held_back("large", &(lgv_dataset_options){.validation = LGV_OFF}, 2000, &n));
    assert_int_equal(n, 0);
}

/* Every kind of PNG and JPEG that the reader knows: 1 to 16 bits, palettes, alpha, CMYK, EXIF. */
static void every_kind_of_file(void **state)
{
    lgv_dataset *d = NULL;
    lgv_error err;
    uint8_t pixels[64 * 64 * 3];
    OK(lgv_dataset_open(LGV_SOURCE_DIR "/tests/golden/images",
                        &(lgv_dataset_options){.resolution = 64}, &d, &err));
    assert_int_equal(lgv_dataset_channels(d), 3);
    assert_true(lgv_dataset_count(d) >= 50);
    for (int64_t i = 0; i < lgv_dataset_count(d); i++)
        OK(lgv_dataset_read(d, 0, i, 1, 2, pixels, NULL, &err));
    assert_int_equal(lgv_dataset_skipped(d), 0);
    lgv_dataset_free(d);
}

static void make_mixed(void)
{
    put_png("mixed/00.png", 50, 33, 1, 10);
    put_png("mixed/01.png", 36, 36, 3, 20);
    scratch_put("mixed/02.png", "\x89PNG\r\n\x1a\n cut short", 18);
    put_png("mixed/03.png", 33, 64, 4, 40);
    put_png("mixed/04.png", 20, 20, 2, 60);
}

static void broken_pictures_are_replaced(void **state)
{
    make_mixed();
    lgv_dataset *d = open_data("mixed", NULL);
    lgv_error err;
    int64_t used;
    uint8_t a[32 * 32 * 3], b[32 * 32 * 3];
    assert_int_equal(lgv_dataset_channels(d), 3);
    OK(lgv_dataset_read(d, 0, 2, 5, 9, a, &used, &err));
    assert_int_equal(used, 3);
    OK(lgv_dataset_read(d, 0, 3, 5, 9, b, &used, &err));
    assert_memory_equal(a, b, sizeof a);
    OK(lgv_dataset_read(d, 0, 2, 5, 9, a, &used, &err));
    assert_int_equal(lgv_dataset_skipped(d), 1); /* counted once */
    assert_non_null(strstr(lgv_dataset_skipped_at(d, 0), "02.png"));
    lgv_dataset_free(d);
    d = open_data("mixed", &(lgv_dataset_options){.strict = 1});
    assert_int_not_equal(lgv_dataset_read(d, 0, 2, 0, 0, a, NULL, &err), LGV_OK);
    assert_non_null(strstr(err.text, "02.png"));
    lgv_dataset_free(d);
}

/* All samples of three epochs through the loader. */
static uint8_t *load(int threads, int64_t first, int64_t n, size_t memory, size_t *size)
{
    lgv_dataset *d =
        open_data("mixed", &(lgv_dataset_options){.random_flip = 1, .memory_limit = memory});
    lgv_loader_options o = {.seed = 7, .first = first, .ahead = 6, .threads = threads};
    lgv_loader *l;
    lgv_error err;
    OK(lgv_loader_new(d, &o, &l, &err));
    *size = (size_t)n * 32 * 32 * 3;
    uint8_t *out = malloc(*size);
    double waited = 0;
    for (int64_t i = 0; i < n; i += 4)
        OK(lgv_loader_next(l, 4, out + i * 32 * 32 * 3, NULL, &waited, &err));
    lgv_loader_free(l);
    lgv_dataset_free(d);
    return out;
}

static void loader_bits_do_not_depend_on_threads(void **state)
{
    make_mixed();
    size_t n, m;
    uint8_t *one = load(1, 0, 40, 0, &n);
    uint8_t *seven = load(7, 0, 40, 0, &m);
    assert_memory_equal(one, seven, n);
    free(seven);
    seven = load(3, 0, 40, 1, &m); /* nothing fits in memory: temporary file */
    assert_memory_equal(one, seven, n);
    free(seven);
    seven = load(2, 12, 28, 0, &m); /* from the middle of an epoch */
    assert_memory_equal(one + 12 * 32 * 32 * 3, seven, m);
    free(seven);
    free(one);
}

static void given_orders(void **state)
{
    put_idx("given/train-images-idx3-ubyte", 6, 4, 4);
    lgv_dataset *d = open_data("given", &(lgv_dataset_options){.resolution = 4});
    lgv_loader_options o = {
        .first = 2, .per_epoch = 4, .ahead = 8, .threads = 2, .given_orders = 1};
    lgv_loader *l;
    lgv_error err;
    uint8_t pixels[4 * 16];
    OK(lgv_loader_new(d, &o, &l, &err));
    lgv_loader_epoch(l, 0, (const int64_t[]){5, 4, 3, 2, 1, 0});
    OK(lgv_loader_next(l, 2, pixels, NULL, NULL, &err));
    assert_int_equal(pixels[0], 4);
    assert_int_equal(pixels[16], 3);
    lgv_loader_epoch(l, 1, (const int64_t[]){0, 1, 2, 3, 4, 5});
    OK(lgv_loader_next(l, 4, pixels, NULL, NULL, &err));
    assert_int_equal(pixels[0], 1);
    assert_int_equal(pixels[48], 4);
    lgv_loader_free(l);
    lgv_dataset_free(d);
}

static void all_broken_is_an_error(void **state)
{
    for (int k = 0; k < 3; k++) {
        char name[32];
        snprintf(name, sizeof name, "dead/%d.png", k);
        put_png(name, 40, 40, 3, k);
        lgv_map map;
        lgv_error err;
        OK(lgv_map_open(scratch_path(name), &map, &err));
        uint8_t head[48]; /* the header says 40x40, the rest is gone */
        memcpy(head, map.data, sizeof head);
        lgv_map_close(&map);
        scratch_put(name, head, sizeof head);
    }
    lgv_dataset *d = open_data("dead", NULL);
    lgv_loader_options o = {.ahead = 4, .threads = 2};
    lgv_loader *l;
    lgv_error err;
    uint8_t pixels[32 * 32 * 3];
    OK(lgv_loader_new(d, &o, &l, &err));
    assert_int_equal(lgv_loader_next(l, 1, pixels, NULL, NULL, &err), LGV_ERR_FORMAT);
    assert_non_null(strstr(err.text, "none of the 3 pictures"));
    lgv_loader_free(l);
    lgv_dataset_free(d);
}

static void epochs_are_permutations(void **state)
{
    int64_t a[50], b[50], seen[50] = {0};
    lgv_epoch_order(3, 0, 50, a);
    lgv_epoch_order(3, 1, 50, b);
    assert_memory_not_equal(a, b, sizeof a);
    for (int i = 0; i < 50; i++) seen[b[i]]++;
    for (int i = 0; i < 50; i++) assert_int_equal(seen[i], 1);
    lgv_epoch_order(3, 0, 50, b);
    assert_memory_equal(a, b, sizeof a);
    lgv_epoch_order(4, 0, 50, b);
    assert_memory_not_equal(a, b, sizeof a);
}

static void crops_and_flips(void **state)
{
    put_png("wide/1.png", 64, 32, 1, 0); /* columns 0 .. 63 */
    lgv_dataset *d = open_data("wide", &(lgv_dataset_options){.random_flip = 1, .channels = 1});
    lgv_error err;
    uint8_t pixels[32 * 32];
    int offsets[33] = {0}, kinds = 0, flips = 0;
    for (uint64_t s = 0; s < 400; s++) {
        OK(lgv_dataset_read(d, 0, 0, 1, s, pixels, NULL, &err));
        int flip = pixels[0] > pixels[31], first = flip ? pixels[31] : pixels[0];
        assert_int_equal(abs(pixels[31] - pixels[0]), 31);
        assert_in_range(first, 0, 32);
        offsets[first]++;
        flips += flip;
    }
    for (int i = 0; i < 33; i++) kinds += offsets[i] > 0;
    assert_int_equal(kinds, 33);
    assert_in_range(flips, 150, 250);
    lgv_dataset_free(d);
    d = open_data("wide", &(lgv_dataset_options){.center_crop = 1, .channels = 1});
    OK(lgv_dataset_read(d, 0, 0, 1, 5, pixels, NULL, &err));
    assert_int_equal(pixels[0], 16);
    lgv_dataset_free(d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sorted_by_path_bytes),
        cmocka_unit_test(classes_are_folders),
        cmocka_unit_test(clear_errors),
        cmocka_unit_test(idx_padding_and_pairs),
        cmocka_unit_test(the_split_is_stable),
        cmocka_unit_test(every_kind_of_file),
        cmocka_unit_test(broken_pictures_are_replaced),
        cmocka_unit_test(loader_bits_do_not_depend_on_threads),
        cmocka_unit_test(given_orders),
        cmocka_unit_test(all_broken_is_an_error),
        cmocka_unit_test(epochs_are_permutations),
        cmocka_unit_test(crops_and_flips),
    };
    return cmocka_run_group_tests(tests, NULL, scratch_remove);
}
