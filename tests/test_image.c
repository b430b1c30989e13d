/* test_image.c - pictures against PIL: decoding, conversion, resizing bit for bit; hostile files.
   Expected values: tests/golden/images/images.json, made by tools/golden/resize.py. */
#define _GNU_SOURCE /* memmem */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/core.h"
#include "core/file.h"
#include "io/json.h"
#include "langevin/image.h"
#include "scratch.h"

static lgv_json golden;

static const char *picture_path(const char *name)
{
    static char path[512];
    snprintf(path, sizeof path, "%s/tests/golden/images/%s", LGV_SOURCE_DIR, name);
    return path;
}

static int load_golden(void **state)
{
    lgv_error err = {0};
    if (lgv_json_load(picture_path("images.json"), &golden, &err)) {
        print_error("%s\n", err.text);
        return -1;
    }
    return 0;
}

static int free_all(void **state)
{
    lgv_json_free(&golden);
    return scratch_remove(state);
}

static int field(const json_t *o, const char *key)
{
    return (int)json_integer_value(json_object_get(o, key));
}

static int item(const json_t *list, size_t i)
{
    return (int)json_integer_value(json_array_get(list, i));
}

static size_t image_bytes(const lgv_image *m)
{
    return (size_t)m->width * (size_t)m->height * (size_t)m->channels * (size_t)m->bits / 8;
}

static lgv_image load(const char *name)
{
    lgv_image image = {0};
    lgv_error err = {0};
    if (lgv_image_load(picture_path(name), &image, &err)) fail_msg("%s", err.text);
    return image;
}

static void decodes_as_pil(void **state)
{
    const char *name;
    json_t *want;
    json_object_foreach(json_object_get(golden.root, "pictures"), name, want)
    {
        lgv_image image = load(name);
        lgv_image_info info = {0};
        if (image.width != field(want, "width") || image.height != field(want, "height") ||
            image.channels != field(want, "channels") || image.bits != field(want, "bits"))
            fail_msg("%s: decoded as %d x %d x %d of %d bits", name, image.width, image.height,
                     image.channels, image.bits);
        const char *fnv = test_fnv1a_hex(image.pixels, image_bytes(&image));
        if (strcmp(fnv, json_string_value(json_object_get(want, "fnv"))) != 0)
            fail_msg("%s: other pixels", name);
        assert_int_equal(lgv_image_probe(picture_path(name), &info, NULL), LGV_OK);
        assert_int_equal(info.width, image.width);
        assert_int_equal(info.height, image.height);
        assert_int_equal(info.channels, image.channels);
        assert_int_equal(info.bits, image.bits);
        lgv_image_free(&image);
    }
}

static void converts(void **state)
{
    lgv_image rgb = load("rgb8.png"), rgba = load("rgba8.png"), out = {0};
    assert_int_equal(lgv_image_convert(&rgb, 1, NULL, &out, NULL), LGV_OK);
    assert_string_equal(test_fnv1a_hex(out.pixels, image_bytes(&out)),
                        json_string_value(json_object_get(golden.root, "rgb8_to_grey")));
    lgv_image_free(&out);
    assert_int_equal(lgv_image_convert(&rgba, 3, NULL, &out, NULL), LGV_OK);
    assert_string_equal(test_fnv1a_hex(out.pixels, image_bytes(&out)),
                        json_string_value(json_object_get(golden.root, "rgba8_over_white")));
    lgv_image_free(&out);
    assert_int_equal(lgv_image_convert(&rgb, 2, NULL, &out, NULL), LGV_ERR_ARGUMENT);
    lgv_image_free(&rgb);
    lgv_image_free(&rgba);

    uint16_t deep[4] = {0, 128, 129, 65535}; /* 128*255/65535 = 0.498, 129*255/65535 = 0.502 */
    lgv_image grey16 = {2, 1, 2, 16, deep};
    assert_int_equal(lgv_image_convert(&grey16, 3, (uint8_t[]){10, 20, 30}, &out, NULL), LGV_OK);
    assert_memory_equal(out.pixels, ((uint8_t[]){10, 20, 30, 1, 1, 1}), 6);
    lgv_image_free(&out);
    uint8_t all[256];
    for (int i = 0; i < 256; i++) all[i] = (uint8_t)i;
    lgv_image ramp = {256, 1, 1, 8, all}, colour = {0}; /* grey -> RGB -> grey gives itself */
    assert_int_equal(lgv_image_convert(&ramp, 3, NULL, &colour, NULL), LGV_OK);
    assert_int_equal(lgv_image_convert(&colour, 1, NULL, &out, NULL), LGV_OK);
    assert_memory_equal(out.pixels, all, 256);
    lgv_image_free(&out);
    lgv_image_free(&colour);
}

static void resizes_as_pil(void **state)
{
    size_t i;
    json_t *c;
    json_array_foreach(json_object_get(golden.root, "resize"), i, c)
    {
        lgv_image in = {0}, out = {0};
        lgv_error err = {0};
        uint64_t x = (uint64_t)field(c, "seed");
        assert_int_equal(lgv_image_new(field(c, "width"), field(c, "height"), field(c, "channels"),
                                       8, &in, NULL),
                         LGV_OK);
        for (size_t k = 0; k < image_bytes(&in); k++) {
            x = x * 6364136223846793005u + 1442695040888963407u;
            ((uint8_t *)in.pixels)[k] = (uint8_t)(x >> 56);
        }
        if (lgv_image_resize(&in, field(c, "out_width"), field(c, "out_height"), &out, &err))
            fail_msg("%s", err.text);
        if (strcmp(test_fnv1a_hex(out.pixels, image_bytes(&out)),
                   json_string_value(json_object_get(c, "fnv"))) != 0)
            fail_msg("case %zu: %d x %d x %d to %d x %d differs from PIL", i, in.width, in.height,
                     in.channels, out.width, out.height);
        lgv_image_free(&in);
        lgv_image_free(&out);
    }
    lgv_image two = {1, 1, 2, 8, (uint8_t[2]){0}}, out = {0};
    assert_int_equal(lgv_image_resize(&two, 2, 2, &out, NULL), LGV_ERR_ARGUMENT);
    two.channels = 1;
    assert_int_equal(lgv_image_resize(&two, 0, 2, &out, NULL), LGV_ERR_FORMAT);
    assert_int_equal(lgv_image_resize(&two, 20000, 2, &out, NULL), LGV_ERR_UNSUPPORTED);
}

static void torchvision_sizes(void **state)
{
    size_t i;
    json_t *c;
    json_array_foreach(json_object_get(golden.root, "short_side"), i, c)
    {
        int w = 0, h = 0;
        lgv_image_short_side(item(c, 0), item(c, 1), item(c, 2), &w, &h);
        assert_int_equal(w, item(c, 3));
        assert_int_equal(h, item(c, 4));
    }
    json_array_foreach(json_object_get(golden.root, "center_crop"), i, c)
    {
        lgv_image in = {0}, out = {0};
        assert_int_equal(lgv_image_new(item(c, 0), 1, 1, 8, &in, NULL), LGV_OK);
        for (int k = 0; k < in.width; k++) ((uint8_t *)in.pixels)[k] = (uint8_t)k;
        assert_int_equal(lgv_image_center_crop(&in, item(c, 1), 1, &out, NULL), LGV_OK);
        assert_int_equal(((uint8_t *)out.pixels)[0], item(c, 2));
        lgv_image_free(&out);
        /* the same along the height */
        in.height = in.width;
        in.width = 1;
        assert_int_equal(lgv_image_center_crop(&in, 1, item(c, 1), &out, NULL), LGV_OK);
        assert_int_equal(((uint8_t *)out.pixels)[0], item(c, 2));
        lgv_image_free(&out);
        lgv_image_free(&in);
    }
}

static void crops_and_flips(void **state)
{
    uint8_t six[6] = {1, 2, 3, 4, 5, 6};
    lgv_image in = {3, 2, 1, 8, six}, out = {0};
    /* padding: 3 -> 6 puts 1 column left and 2 right; 2 -> 3 puts no row above and 1 below */
    assert_int_equal(lgv_image_center_crop(&in, 6, 3, &out, NULL), LGV_OK);
    assert_memory_equal(out.pixels,
                        ((uint8_t[]){0, 1, 2, 3, 0, 0, 0, 4, 5, 6, 0, 0, 0, 0, 0, 0, 0, 0}), 18);
    lgv_image_free(&out);
    assert_int_equal(lgv_image_crop(&in, 1, 0, 2, 2, &out, NULL), LGV_OK);
    assert_memory_equal(out.pixels, ((uint8_t[]){2, 3, 5, 6}), 4);
    lgv_image_free(&out);
    assert_int_equal(lgv_image_crop(&in, 2, 0, 2, 2, &out, NULL), LGV_ERR_ARGUMENT);
    assert_int_equal(lgv_image_crop(&in, -1, 0, 2, 2, &out, NULL), LGV_ERR_ARGUMENT);
    lgv_image_flip(&in);
    assert_memory_equal(six, ((uint8_t[]){3, 2, 1, 6, 5, 4}), 6);
    in = (lgv_image){2, 1, 3, 8, six};
    lgv_image_flip(&in);
    assert_memory_equal(six, ((uint8_t[]){6, 5, 4, 3, 2, 1}), 6);
}

static void grids(void **state)
{
    uint8_t a[2] = {1, 2}, b[2] = {3, 4}, c[2] = {5, 6};
    lgv_image tiles[3] = {{2, 1, 1, 8, a}, {2, 1, 1, 8, b}, {2, 1, 1, 8, c}}, out = {0};
    assert_int_equal(lgv_image_grid(tiles, 3, 0, &out, NULL), LGV_OK);
    assert_int_equal(out.width, 10);
    assert_int_equal(out.height, 8);
    const uint8_t *p = out.pixels;
    assert_true(p[2 * 10 + 2] == 1 && p[2 * 10 + 3] == 2 && p[2 * 10 + 6] == 3 &&
                p[5 * 10 + 2] == 5);
    int sum = 0;
    for (int i = 0; i < 80; i++) sum += p[i];
    assert_int_equal(sum, 21);
    lgv_image_free(&out);
    assert_int_equal(lgv_image_grid(tiles, 3, 8, &out, NULL), LGV_OK);
    assert_int_equal(out.width, 14);
    lgv_image_free(&out);
    tiles[1].width = 1;
    assert_int_equal(lgv_image_grid(tiles, 3, 0, &out, NULL), LGV_ERR_ARGUMENT);
    assert_int_equal(lgv_image_grid(tiles, 0, 0, &out, NULL), LGV_ERR_ARGUMENT);
}

static void png_round_trip(void **state)
{
    for (int channels = 1; channels <= 4; channels++) {
        lgv_image in = {0}, out = {0};
        assert_int_equal(lgv_image_new(13, 7, channels, 8, &in, NULL), LGV_OK);
        for (size_t i = 0; i < image_bytes(&in); i++) ((uint8_t *)in.pixels)[i] = (uint8_t)(i * 37);
        const lgv_png_text text[] = {{"parameters", "seed 7, steps 50"}, {"note", "caf\xc3\xa9"}};
        const char *path = scratch_path("out.png");
        assert_int_equal(lgv_image_save_png(path, &in, text, 2, NULL), LGV_OK);
        assert_int_equal(lgv_image_load(path, &out, NULL), LGV_OK);
        assert_int_equal(out.channels, channels);
        assert_memory_equal(out.pixels, in.pixels, image_bytes(&in));
        char *data = NULL;
        size_t size = 0;
        assert_int_equal(lgv_file_read(path, 1 << 20, &data, &size, NULL), LGV_OK);
        assert_non_null(memmem(data, size, "tEXtparameters\0seed 7, steps 50", 31));
        assert_non_null(memmem(data, size, "iTXtnote\0", 9));
        lgv_free(data);
        lgv_image_free(&in);
        lgv_image_free(&out);
    }
    lgv_image deep = {1, 1, 1, 16, (uint16_t[1]){0}};
    lgv_error err = {0};
    assert_int_equal(lgv_image_save_png(scratch_path("deep.png"), &deep, NULL, 0, &err),
                     LGV_ERR_ARGUMENT);
    deep.bits = 8;
    assert_int_equal(
        lgv_image_save_png(scratch_path("key.png"), &deep, &(lgv_png_text){"", "v"}, 1, &err),
        LGV_ERR_ARGUMENT);
    assert_int_not_equal(
        lgv_image_save_png(scratch_path("no/such/folder.png"), &deep, NULL, 0, &err), LGV_OK);
    assert_non_null(strstr(err.text, "no/such"));
}

/* ---- hostile data ---- */

static lgv_status try_decode(const void *data, size_t size)
{
    lgv_image image = {0};
    lgv_image_info info = {0};
    lgv_error err = {0};
    lgv_image_probe_memory(data, size, "x", &info, NULL);
    lgv_status status = lgv_image_decode(data, size, "x", &image, &err);
    if (status) {
        assert_null(image.pixels);
        assert_true(strncmp(err.text, "x: ", 3) == 0 || status == LGV_ERR_MEMORY);
    } else {
        assert_int_equal(info.width, image.width);
        assert_int_equal(info.height, image.height);
        assert_int_equal(info.channels, image.channels);
    }
    lgv_image_free(&image);
    return status;
}

static void truncated(void **state)
{
    /* slack: bytes at the end that the pixels do not need (a trailer) */
    static const struct {
        const char *name;
        size_t slack;
    } files[] = {{"grey1.png", 0},      {"palette4.png", 0},  {"rgb8i.png", 0},
                 {"exif6.png", 0},      {"grey.jpg", 0},      {"progressive.jpg", 0},
                 {"cmyk.jpg", 0},       {"exif6.jpg", 0},     {"lossy.webp", 0},
                 {"alpha.webp", 0},     {"animated.webp", 0}, {"plain.gif", 1},
                 {"interlaced.gif", 1}, {"rgb24.bmp", 0},     {"rgb565.bmp", 0},
                 {"palette4.bmp", 0},   {"rle8.bmp", 2},      {"rle4.bmp", 2}};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        char *data = NULL;
        size_t size = 0;
        assert_int_equal(lgv_file_read(picture_path(files[i].name), 1 << 20, &data, &size, NULL),
                         LGV_OK);
        for (size_t n = 0; n < size - files[i].slack; n++) {
            uint8_t *exact =
                malloc(n ? n : 1); /* so that the sanitizer sees a read beyond the end */
            memcpy(exact, data, n);
            if (!try_decode(exact, n))
                fail_msg("%s cut to %zu of %zu bytes was accepted", files[i].name, n, size);
            free(exact);
        }
        assert_int_equal(try_decode(data, size), LGV_OK);
        lgv_free(data);
    }
}

static void flipped(void **state)
{
    const char *name;
    json_t *unused;
    srand(2);
    json_object_foreach(json_object_get(golden.root, "pictures"), name, unused)
    {
        char *data = NULL;
        size_t size = 0;
        assert_int_equal(lgv_file_read(picture_path(name), 1 << 20, &data, &size, NULL), LGV_OK);
        for (int i = 0; i < 300; i++) {
            size_t at[3];
            char was[3];
            for (int k = 0; k < 3; k++) {
                at[k] = (size_t)rand() % size;
                was[k] = data[at[k]];
                data[at[k]] = (char)(was[k] ^ 1 << rand() % 8);
            }
            try_decode(data, size);
            for (int k = 3; k-- > 0;) data[at[k]] = was[k];
        }
        lgv_free(data);
    }
}

static void refuses(void **state)
{
    static const uint8_t text[] = "hello, this is no picture";
    assert_int_equal(try_decode(text, sizeof text), LGV_ERR_FORMAT);
    assert_int_equal(try_decode(text, 0), LGV_ERR_FORMAT);
    char *data = NULL;
    size_t size = 0;
    assert_int_equal(lgv_file_read(picture_path("rgb8.png"), 1 << 20, &data, &size, NULL), LGV_OK);
    memcpy(data + 16, "\0\0\x40\1\0\0\0\1", 8); /* 16385 x 1 */
    assert_int_equal(try_decode(data, size), LGV_ERR_UNSUPPORTED);
    memcpy(data + 16, "\0\0\x40\0\0\0\x40\0",
           8); /* 16384 x 16384: allowed, but these bytes cannot hold it */
    assert_int_equal(try_decode(data, size), LGV_ERR_FORMAT);
    memcpy(data + 16, "\0\0\0\0\0\0\0\1", 8);
    assert_int_equal(try_decode(data, size), LGV_ERR_FORMAT);
    lgv_free(data);
    lgv_image image = {0};
    lgv_error err = {0};
    assert_int_equal(lgv_image_load(scratch_path("absent.png"), &image, &err), LGV_ERR_IO);
    assert_non_null(strstr(err.text, "absent.png"));
}

static void allocation_failures(void **state)
{
    static const char *const names[] = {"palette8t.png", "cmyk.jpg",       "exif6.jpg",
                                        "exif6.webp",    "interlaced.gif", "rle8.bmp"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        for (uint64_t n = 1;; n++) {
            lgv_image image = {0};
            lgv_alloc_fail_after(n);
            lgv_status status = lgv_image_load(picture_path(names[i]), &image, NULL);
            lgv_alloc_fail_after(0);
            if (!status) {
                lgv_image_free(&image);
                break;
            }
            assert_null(image.pixels);
        }
    }
    lgv_image in = load("rgb8.png");
    for (uint64_t n = 1;; n++) {
        uint8_t *data = NULL;
        size_t size = 0;
        lgv_image small = {0};
        lgv_alloc_fail_after(n);
        lgv_status status = lgv_image_resize(&in, 5, 5, &small, NULL);
        if (!status)
            status = lgv_image_encode_png(&small, &(lgv_png_text){"k", "v"}, 1, &data, &size, NULL);
        lgv_alloc_fail_after(0);
        lgv_image_free(&small);
        lgv_image_free_data(data);
        if (!status) break;
        assert_int_equal(status, LGV_ERR_MEMORY);
    }
    lgv_image_free(&in);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(decodes_as_pil),
        cmocka_unit_test(converts),
        cmocka_unit_test(resizes_as_pil),
        cmocka_unit_test(torchvision_sizes),
        cmocka_unit_test(crops_and_flips),
        cmocka_unit_test(grids),
        cmocka_unit_test(png_round_trip),
        cmocka_unit_test(truncated),
        cmocka_unit_test(flipped),
        cmocka_unit_test(refuses),
        cmocka_unit_test(allocation_failures),
    };
    return cmocka_run_group_tests_name("image", tests, load_golden, free_all);
}
