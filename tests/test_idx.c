/* test_idx.c - IDX plain and gzip, hostile headers, truncation, and Fashion-MNIST where it is
   installed. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "core/core.h"
#include "core/file.h"
#include "io/idx.h"
#include "scratch.h"

static uint8_t plain[16 + 24] = {0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4};

static size_t gzip_bytes(const uint8_t *in, size_t size, uint8_t *out, size_t room)
{
    z_stream z = {0};
    assert_int_equal(deflateInit2(&z, 9, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY), Z_OK);
    z.next_in = (Bytef *)(uintptr_t)in;
    z.avail_in = (uInt)size;
    z.next_out = out;
    z.avail_out = (uInt)room;
    assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
    deflateEnd(&z);
    return room - z.avail_out;
}

static lgv_status read_images(const void *data, size_t size, lgv_idx *out)
{
    const char *path = scratch_path("images");
    lgv_error err = {0};
    scratch_write(path, data, size);
    lgv_status status = lgv_idx_images(path, out, &err);
    if (status) {
        assert_null(out->data);
        assert_non_null(strstr(err.text, "images"));
    }
    return status;
}

static void reads(void **state)
{
    uint8_t packed[256];
    for (int i = 0; i < 24; i++) plain[16 + i] = (uint8_t)(i * 9);
    size_t size = gzip_bytes(plain, sizeof plain, packed, sizeof packed);
    for (int gz = 0; gz < 2; gz++) {
        lgv_idx idx = {0};
        assert_int_equal(read_images(gz ? packed : plain, gz ? size : sizeof plain, &idx), LGV_OK);
        assert_true(idx.n == 2 && idx.height == 3 && idx.width == 4);
        assert_memory_equal(idx.data, plain + 16, 24);
        lgv_idx_free(&idx);
        bool is = false;
        assert_int_equal(lgv_idx_is(scratch_path("images"), &is, NULL), LGV_OK);
        assert_true(is);
        assert_int_equal(lgv_idx_probe(scratch_path("images"), 3, &idx, NULL), LGV_OK);
        assert_true(idx.n == 2 && !idx.data);
        assert_int_equal(lgv_idx_labels(scratch_path("images"), &idx, NULL), LGV_ERR_FORMAT);
    }
    static const uint8_t labels[] = {0, 0, 8, 1, 0, 0, 0, 3, 5, 6, 7};
    lgv_idx idx = {0};
    scratch_write(scratch_path("labels"), labels, sizeof labels);
    assert_int_equal(lgv_idx_labels(scratch_path("labels"), &idx, NULL), LGV_OK);
    assert_true(idx.n == 3 && idx.height == 1 && idx.width == 1 && idx.data[2] == 7);
    lgv_idx_free(&idx);
    lgv_idx_free(NULL);
    bool is;
    assert_int_equal(lgv_idx_is(scratch_path("absent"), &is, NULL), LGV_ERR_IO);
    assert_int_equal(lgv_idx_probe(scratch_path("labels"), 2, &idx, NULL), LGV_ERR_ARGUMENT);
}

static void hostile(void **state)
{
    uint8_t packed[256], more[sizeof plain + 1] = {0};
    size_t size = gzip_bytes(plain, sizeof plain, packed, sizeof packed);
    lgv_idx idx = {0};
    for (size_t n = 0; n < sizeof plain; n++)
        assert_int_equal(read_images(plain, n, &idx), LGV_ERR_FORMAT);
    for (size_t n = 0; n < size; n++)
        assert_int_equal(read_images(packed, n, &idx), LGV_ERR_FORMAT);
    memcpy(more, plain, sizeof plain);
    assert_int_equal(read_images(more, sizeof more, &idx), LGV_ERR_FORMAT); /* a byte too many */
    packed[size] = 0;
    assert_int_equal(read_images(packed, size + 1, &idx), LGV_ERR_FORMAT);
    size_t longer = gzip_bytes(more, sizeof more, packed, sizeof packed);
    assert_int_equal(read_images(packed, longer, &idx), LGV_ERR_FORMAT);

    memcpy(more, plain, sizeof plain);
    memset(more + 4, 0x7f, 4); /* 2^31 images */
    assert_int_equal(read_images(more, sizeof plain, &idx), LGV_ERR_FORMAT);
    longer = gzip_bytes(more, sizeof plain, packed, sizeof packed);
    assert_int_equal(read_images(packed, longer, &idx), LGV_ERR_FORMAT);
    memset(more + 4, 0xff, 12);
    assert_int_equal(read_images(more, sizeof plain, &idx), LGV_ERR_FORMAT);
    memcpy(more, plain, sizeof plain);
    memset(more + 8, 0, 4); /* no rows */
    assert_int_equal(read_images(more, sizeof plain, &idx), LGV_ERR_FORMAT);

    size = gzip_bytes(plain, sizeof plain, packed, sizeof packed);
    srand(3);
    for (int i = 0; i < 2000; i++) {
        size_t at = (size_t)rand() % size;
        uint8_t was = packed[at];
        packed[at] ^= (uint8_t)(1 << rand() % 8);
        read_images(packed, size, &idx);
        lgv_idx_free(&idx);
        packed[at] = was;
    }
}

static void allocation_failures(void **state)
{
    const char *path = scratch_path("plain");
    scratch_write(path, plain, sizeof plain);
    for (uint64_t n = 1;; n++) {
        lgv_idx idx = {0};
        lgv_alloc_fail_after(n);
        lgv_status status = lgv_idx_images(path, &idx, NULL);
        lgv_alloc_fail_after(0);
        lgv_idx_free(&idx);
        if (!status) break;
        assert_int_equal(status, LGV_ERR_MEMORY);
    }
}

static void fashion_mnist(void **state)
{
    static const char *const folder = "/usr/share/datasets/fashion-mnist/";
    if (!lgv_is_dir(folder)) skip();
    lgv_idx images = {0}, labels = {0};
    assert_int_equal(lgv_idx_images("/usr/share/datasets/fashion-mnist/t10k-images-idx3-ubyte.gz",
                                    &images, NULL),
                     LGV_OK);
    assert_int_equal(lgv_idx_labels("/usr/share/datasets/fashion-mnist/t10k-labels-idx1-ubyte.gz",
                                    &labels, NULL),
                     LGV_OK);
    assert_true(images.n == 10000 && images.height == 28 && images.width == 28 &&
                labels.n == 10000);
    int count[10] = {0};
    for (int64_t i = 0; i < labels.n; i++) {
        assert_true(labels.data[i] < 10);
        count[labels.data[i]]++;
    }
    for (int i = 0; i < 10; i++) assert_int_equal(count[i], 1000);
    lgv_idx_free(&images);
    lgv_idx_free(&labels);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads),
        cmocka_unit_test(hostile),
        cmocka_unit_test(allocation_failures),
        cmocka_unit_test(fashion_mnist),
    };
    return cmocka_run_group_tests_name("idx", tests, NULL, scratch_remove);
}
