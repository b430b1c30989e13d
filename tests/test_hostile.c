/* test_hostile.c - the limits that docs/security.md states: what lies at one is read, what lies beyond is
   refused with a sentence, before memory is taken for it. The fuzz targets look for everything else. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/core.h"
#include "io/json.h"
#include "langevin/image.h"
#include "langevin/safetensors.h"
#include "scratch.h"

static void says(lgv_status got, lgv_status want, const lgv_error *err, const char *words)
{
    if (got != want || !strstr(err->text, words))
        fail_msg("status %d, wanted %d; '%s' lacks '%s'", got, want, err->text, words);
}

/* A file of that length that takes no room on the disk. */
static const char *sparse_file(const char *name, off_t length)
{
    const char *path = scratch_path(name);
    scratch_write(path, "x", 1);
    assert_int_equal(truncate(path, length), 0);
    return path;
}

static void json_limits(void **state)
{
    char text[400];
    lgv_error err = {0};
    lgv_json j = {0};
    for (int depth = LGV_JSON_DEPTH; depth <= LGV_JSON_DEPTH + 1; depth++) {
        char *p = text + sprintf(text, "{\"[[[\\\"\":");
        for (int i = 1; i < depth; i++) *p++ = '[';
        for (int i = 1; i < depth; i++) *p++ = ']';
        *p++ = '}';
        lgv_status s = lgv_json_parse(text, (size_t)(p - text), "c.json", &j, &err);
        if (depth == LGV_JSON_DEPTH) {
            assert_int_equal(s, LGV_OK);
            lgv_json_free(&j);
        } else {
            says(s, LGV_ERR_FORMAT, &err, "deeper than 64");
        }
    }
    says(lgv_json_load(sparse_file("big.json", LGV_JSON_BYTES + 1), &j, &err), LGV_ERR_FORMAT, &err,
         "at most 67108864");
}

static lgv_status open_header(const char *header, size_t data, lgv_error *err)
{
    uint64_t length = strlen(header);
    size_t size = 8 + (size_t)length + data;
    uint8_t *file = calloc(size, 1);
    lgv_safetensors *f = NULL;
    assert_non_null(file);
    memcpy(file, &length, 8);
    memcpy(file + 8, header, (size_t)length);
    lgv_status s = lgv_safetensors_open_memory(file, size, "m", &f, err);
    lgv_safetensors_close(f);
    free(file);
    return s;
}

static void tensor_limits(void **state)
{
    static const char entry[] = "\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}";
    enum { ROOM = 80 };
    char *header = malloc((LGV_TENSORS + 1) * (size_t)ROOM), *p = header;
    lgv_error err = {0};
    assert_non_null(header);
    for (int extra = 0; extra < 2; extra++) {
        sprintf(header, "{\"%0*d%s}", LGV_TENSOR_NAME + extra, 0, entry);
        lgv_status s = open_header(header, 0, &err);
        if (extra) says(s, LGV_ERR_UNSUPPORTED, &err, "name has 1025 bytes");
        if (!extra) assert_int_equal(s, LGV_OK);
    }
    for (int i = 0; i <= LGV_TENSORS; i++) p += sprintf(p, "%c\"%d%s", i ? ',' : '{', i, entry);
    strcpy(p, "}");
    says(open_header(header, 0, &err), LGV_ERR_UNSUPPORTED, &err, "131073 tensors");
    free(header);
    memset(&err, 0, sizeof err);
    says(open_header(
             "{\"x\":{\"dtype\":\"U8\",\"shape\":[1,1,1,1,1,1,1,1,1],\"data_offsets\":[0,1]}}", 1,
             &err),
         LGV_ERR_UNSUPPORTED, &err, "9 dimensions");
}

static lgv_status decode(const void *data, size_t size, lgv_error *err)
{
    lgv_image image = {0};
    lgv_status s = lgv_image_decode(data, size, "p", &image, err);
    lgv_image_free(&image);
    return s;
}

/* Small files whose headers claim 16,384 x 16,384 pixels. */
static void picture_claims(void **state)
{
    lgv_error err = {0};
    static const uint8_t gif[] = {'G', 'I', 'F', '8', '9', 'a', 0, 0x40, 0, 0x40, 0x80, 0,
                                  0,   0,   0,   0,   9,   9,   9, ',',  0, 0,    0,    0,
                                  1,   0,   1,   0,   0,   2,   2, 0x44, 1, 0,    ';'};
    says(decode(gif, sizeof gif, &err), LGV_ERR_FORMAT, &err, "claim to hold 16384 x 16384");
    uint8_t bmp[14 + 40 + 1024 + 2] = {'B', 'M'};
    bmp[10] = (14 + 40 + 1024) & 255, bmp[11] = (14 + 40 + 1024) >> 8;
    bmp[14] = 40, bmp[19] = 0x40, bmp[23] = 0x40, bmp[26] = 1, bmp[28] = 8, bmp[30] = 1;
    bmp[sizeof bmp - 1] = 1; /* end of the picture */
    says(decode(bmp, sizeof bmp, &err), LGV_ERR_FORMAT, &err, "claim to hold 16384 x 16384");
    bmp[19] = bmp[23] = 1; /* 256 x 256: pixels that no run covers are fine */
    assert_int_equal(decode(bmp, sizeof bmp, &err), LGV_OK);
    bmp[20] = 1; /* 65,792 wide */
    says(decode(bmp, sizeof bmp, &err), LGV_ERR_UNSUPPORTED, &err, "too large");
    static const uint8_t
        webp[] = {'R',  'I',  'F',  'F',  92,   0, 0, 0, 'W', 'E', 'B',  'P',  'V',  'P',
                  '8',  'X',  10,   0,    0,    0, 2, 0, 0,   0,   0xff, 0x3f, 0,    0xff,
                  0x3f, 0, /* an animation on a canvas of 16,384 */
                  'A',  'N',  'I',  'M',  6,    0, 0, 0, 0,   0,   0,    0,    0,    0,
                  'A',  'N',  'M',  'F',  48,   0, 0, 0, 0,   0,   0,    0,    0,    0,
                  0,    0,    0,    0,    0,    0, 1, 0, 0,   0,   'V',  'P',  '8',  'L',
                  24,   0,    0,    0,    0x2f, 0, 0, 0, 0,   7,   16,   0xfd, 0x8f, 0xfe,
                  7,    0x22, 0xa2, 0xff, 1,    0, 0, 0, 0,   0,   0,    0,    0,    0};
    says(decode(webp, sizeof webp, &err), LGV_ERR_FORMAT, &err, "claim to hold 16384 x 16384");
}

static void picture_files(void **state)
{
    lgv_error err = {0};
    lgv_image image = {0};
    says(lgv_image_load(sparse_file("big.png", ((off_t)1 << 30) + 1), &image, &err), LGV_ERR_FORMAT,
         &err, "at most 1073741824");
    assert_null(image.pixels);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(json_limits),
        cmocka_unit_test(tensor_limits),
        cmocka_unit_test(picture_claims),
        cmocka_unit_test(picture_files),
    };
    return cmocka_run_group_tests(tests, NULL, scratch_remove);
}
