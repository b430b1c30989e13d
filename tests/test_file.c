/* test_file.c - mapping, atomic replacement, folders, SHA-256; also when allocations or the disk
 * fail. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <signal.h>
#include <unistd.h>

#include "core/file.h"

static char root[] = "/tmp/langevin_test_file_XXXXXX";

static char *in(const char *name)
{
    return lgv_path_join(root, name);
}

static int make_root(void **state)
{
    return mkdtemp(root) ? 0 : -1;
}
static int remove_root(void **state)
{
    return lgv_remove_tree(root, NULL);
}

static size_t entries(const char *path)
{
    lgv_names names;
    assert_int_equal(lgv_list_dir(path, &names, NULL), LGV_OK);
    size_t count = names.count;
    lgv_names_free(&names);
    return count;
}

static void test_read_write(void **state)
{
    char *path = in("a.bin"), *data = NULL;
    size_t size = 0;
    lgv_map map;
    lgv_error err = {0};
    assert_int_equal(lgv_file_write(path, "first", 5, &err), LGV_OK);
    assert_int_equal(lgv_file_write(path, "second\0x", 8, &err), LGV_OK);
    assert_int_equal(lgv_file_read(path, 8, &data, &size, &err), LGV_OK);
    assert_int_equal(size, 8);
    assert_memory_equal(data, "second\0x", 9);
    lgv_free(data);
    data = NULL;
    assert_int_equal(lgv_file_read(path, 7, &data, &size, &err), LGV_ERR_FORMAT);
    assert_null(data);
    assert_int_equal(lgv_map_open(path, &map, &err), LGV_OK);
    assert_int_equal(map.size, 8);
    assert_memory_equal(map.data, "second\0x", 8);
    lgv_map_close(&map);
    lgv_map_close(&map);
    lgv_map_close(NULL);
    assert_int_equal(lgv_file_write(path, NULL, 0, &err), LGV_OK);
    assert_int_equal(lgv_map_open(path, &map, &err), LGV_OK);
    assert_true(map.data && map.size == 0);
    lgv_map_close(&map);
    struct stat st;
    mode_t mask = umask(022);
    assert_int_equal(lgv_file_write(path, "x", 1, &err), LGV_OK);
    umask(mask);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0644);
    assert_int_equal(entries(root), 1);
    unlink(path);
    lgv_free(path);
}

static void test_refused(void **state)
{
    lgv_map map;
    lgv_error err = {0};
    char *data = NULL, *pipe_path = in("pipe"), *missing = in("missing"),
         *deep = in("no/such/file"), hex[65];
    size_t size;
    assert_int_equal(lgv_map_open(missing, &map, &err), LGV_ERR_IO);
    assert_non_null(strstr(err.text, "missing"));
    assert_int_equal(lgv_map_open(root, &map, &err), LGV_ERR_IO);
    assert_int_equal(lgv_file_read(root, 100, &data, &size, &err), LGV_ERR_IO);
    assert_int_equal(lgv_sha256_file(root, hex, NULL), LGV_ERR_IO);
    assert_int_equal(mkfifo(pipe_path, 0600), 0);
    assert_int_equal(lgv_map_open(pipe_path, &map, &err), LGV_ERR_IO); /* and does not wait */
    assert_int_equal(lgv_file_write(deep, "x", 1, &err), LGV_ERR_IO);
    assert_int_equal(lgv_file_write(root, "x", 1, &err), LGV_ERR_IO); /* a folder is in the way */
    unlink(pipe_path);
    assert_int_equal(entries(root), 0);
    lgv_free(pipe_path);
    lgv_free(missing);
    lgv_free(deep);
}

static void test_atomic(void **state)
{
    char *path = in("a"), *data = NULL;
    size_t size;
    lgv_atomic *f = NULL, *g = NULL;
    assert_int_equal(lgv_file_write(path, "old", 3, NULL), LGV_OK);
    assert_int_equal(lgv_atomic_open(path, &f, NULL), LGV_OK);
    assert_int_equal(lgv_atomic_open(path, &g, NULL), LGV_OK);
    assert_int_equal(lgv_atomic_write(f, "new", 3, NULL), LGV_OK);
    assert_int_equal(lgv_atomic_write(g, "aborted", 7, NULL), LGV_OK);
    assert_int_equal(lgv_file_read(path, 10, &data, &size, NULL), LGV_OK);
    assert_string_equal(data, "old");
    lgv_free(data);
    lgv_atomic_abort(g);
    lgv_atomic_abort(NULL);
    assert_int_equal(lgv_atomic_commit(f, NULL), LGV_OK);
    assert_int_equal(lgv_file_read(path, 10, &data, &size, NULL), LGV_OK);
    assert_string_equal(data, "new");
    lgv_free(data);
    assert_int_equal(entries(root), 1);
    unlink(path);
    lgv_free(path);
}

/* A disk that takes 1000 bytes, by the file size limit of the process. */
static void test_full_disk(void **state)
{
    char *path = in("a"), *data = NULL, big[5000] = {0};
    size_t size;
    lgv_error err = {0};
    assert_int_equal(lgv_file_write(path, "old", 3, NULL), LGV_OK);
    struct rlimit before, limit;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    limit = before;
    limit.rlim_cur = 1000;
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
    lgv_status one = lgv_file_write(path, big, sizeof big, &err);
    lgv_atomic *f = NULL;
    assert_int_equal(lgv_atomic_open(path, &f, NULL), LGV_OK);
    lgv_status two = lgv_atomic_write(f, big, sizeof big, NULL);
    lgv_status three = lgv_atomic_commit(f, NULL); /* after a failed write: must refuse */
    setrlimit(RLIMIT_FSIZE, &before);
    assert_int_equal(one, LGV_ERR_IO);
    assert_true(strlen(err.text) > 10);
    assert_int_equal(two, LGV_ERR_IO);
    assert_int_equal(three, LGV_ERR_IO);
    assert_int_equal(lgv_file_read(path, 10, &data, &size, NULL), LGV_OK);
    assert_string_equal(data, "old");
    lgv_free(data);
    assert_int_equal(entries(root), 1);
    unlink(path);
    lgv_free(path);
}

static void test_folders(void **state)
{
    char *deep = in("x//y/z/"), *file = in("x/file"), *below = in("x/file/q"), *moved = in("w"),
         *x = in("x");
    lgv_error err = {0};
    assert_int_equal(lgv_make_dir(deep, &err), LGV_OK);
    assert_int_equal(lgv_make_dir(deep, &err), LGV_OK);
    assert_int_equal(lgv_make_dir("", &err), LGV_ERR_ARGUMENT);
    assert_int_equal(lgv_make_dir("/", &err), LGV_OK);
    assert_true(lgv_is_dir(deep) && lgv_exists(deep) && !lgv_is_file(deep));
    assert_int_equal(lgv_file_write(file, "1", 1, NULL), LGV_OK);
    assert_true(lgv_is_file(file) && !lgv_is_dir(file) && !lgv_exists(below));
    assert_int_equal(lgv_make_dir(below, &err), LGV_ERR_IO);
    assert_int_equal(lgv_make_dir(file, &err), LGV_ERR_IO);
    char *byte = in("x/\xff"), *upper = in("x/B");
    assert_int_equal(lgv_file_write(byte, "", 0, NULL), LGV_OK);
    assert_int_equal(lgv_file_write(upper, "", 0, NULL), LGV_OK);
    lgv_names names;
    assert_int_equal(lgv_list_dir(x, &names, NULL), LGV_OK);
    assert_int_equal(names.count, 4);
    static const char *const sorted[] = {"B", "file", "y", "\xff"};
    for (int i = 0; i < 4; i++) assert_string_equal(names.name[i], sorted[i]);
    lgv_names_free(&names);
    assert_int_equal(lgv_list_dir(file, &names, &err), LGV_ERR_IO);
    assert_int_equal(lgv_rename(x, moved, &err), LGV_OK);
    assert_int_equal(lgv_rename(x, moved, &err), LGV_ERR_IO);
    assert_false(lgv_exists(x));
    uint64_t space = 0;
    assert_int_equal(lgv_free_space(root, &space, &err), LGV_OK);
    assert_true(space > 0);
    assert_int_equal(lgv_remove_tree(moved, &err), LGV_OK);
    assert_int_equal(entries(root), 0);
    char *joined = lgv_path_join("a/", "b"), *empty = lgv_path_join("", "b");
    assert_string_equal(joined, "a/b");
    assert_string_equal(empty, "b");
    void *all[] = {deep, file, below, moved, x, byte, upper, joined, empty};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) lgv_free(all[i]);
}

/* Removal takes links, not what they point to. */
static void test_remove_links(void **state)
{
    char *keep = in("keep"), *inside = in("keep/precious"), *tree = in("tree"),
         *link = in("tree/link"), *top = in("top"), *top_slash = in("top/"), *dots = in("keep/..");
    assert_int_equal(lgv_make_dir(keep, NULL), LGV_OK);
    assert_int_equal(lgv_make_dir(tree, NULL), LGV_OK);
    assert_int_equal(lgv_file_write(inside, "1", 1, NULL), LGV_OK);
    assert_int_equal(symlink(keep, link), 0);
    assert_int_equal(symlink(keep, top), 0);
    assert_int_equal(lgv_remove_tree(tree, NULL), LGV_OK);
    assert_int_equal(lgv_remove_tree(tree, NULL), LGV_OK);
    assert_int_equal(lgv_remove_tree(top_slash, NULL), LGV_OK);
    assert_false(lgv_exists(tree) || lgv_exists(top));
    assert_true(lgv_is_file(inside));
    static const char *const refused[] = {"", "/", "//", ".", "..", "./"};
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++)
        assert_int_equal(lgv_remove_tree(refused[i], NULL), LGV_ERR_ARGUMENT);
    assert_int_equal(lgv_remove_tree(dots, NULL), LGV_ERR_ARGUMENT);
    assert_int_equal(lgv_remove_tree(keep, NULL), LGV_OK);
    void *all[] = {keep, inside, tree, link, top, top_slash, dots};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) lgv_free(all[i]);
}

static void hash_of(const void *data, size_t size, size_t chunk, bool plain, char hex[65])
{
    lgv_sha256 s;
    lgv_sha256_init(&s);
    if (plain) s.accelerated = false;
    for (size_t at = 0; at < size; at += chunk)
        lgv_sha256_update(&s, (const char *)data + at, size - at < chunk ? size - at : chunk);
    lgv_sha256_hex(&s, hex);
}

/* FIPS 180-4 examples (NIST "SHA-256 Test Data"), and all padding lengths by two implementations.
 */
static void test_sha256(void **state)
{
    static const char *const known[][2] = {
        {"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
        {"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
        {"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
         "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"},
        {"abcdefghbcdefghicdefghijdefghijkefghijklfghijklmghijklmnhijklmnoijklmnopjklmnopqklmnopqrl"
         "mnopqrs"
         "mnopqrstnopqrstu",
         "cf5b16a778af8380036ce59e7b0492370b249b11e8f07a51afac45037afee9d1"},
    };
    char hex[65], other[65];
    for (int plain = 0; plain < 2; plain++)
        for (size_t i = 0; i < 4; i++) {
            hash_of(known[i][0], strlen(known[i][0]), 7, plain, hex);
            assert_string_equal(hex, known[i][1]);
        }
    char *million = lgv_alloc(1000000, 1);
    memset(million, 'a', 1000000);
    for (int plain = 0; plain < 2; plain++) {
        hash_of(million, 1000000, 999, plain, hex);
        assert_string_equal(hex,
                            "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
    }
    for (size_t size = 0; size < 300; size++) {
        million[size] = (char)(size * 31);
        hash_of(million, size, 1000, false, hex);
        hash_of(million, size, 13, true, other);
        assert_string_equal(hex, other);
    }
    memset(million, 'a', 1000000);
    char *path = in("million");
    assert_int_equal(lgv_file_write(path, million, 1000000, NULL), LGV_OK);
    assert_int_equal(lgv_sha256_file(path, hex, NULL), LGV_OK);
    assert_string_equal(hex, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
    unlink(path);
    lgv_free(path);
    lgv_free(million);
}

/* Every single allocation fails once: the failure is reported and nothing stays behind. */
static void test_faults(void **state)
{
    char *path = in("a"), *tree = in("d/e"), *top = in("d"), hex[65], *data = NULL;
    size_t size;
    lgv_names names;
    assert_int_equal(lgv_make_dir(tree, NULL), LGV_OK);
    assert_int_equal(lgv_file_write(path, "x", 1, NULL), LGV_OK);
    for (int what = 0; what < 6; what++) {
        for (uint64_t nth = 1;; nth++) {
            lgv_status status = LGV_OK;
            lgv_alloc_fail_after(nth);
            switch (what) {
            case 0: status = lgv_file_write(path, "y", 1, NULL); break;
            case 1: status = lgv_make_dir(tree, NULL); break;
            case 2: status = lgv_list_dir(root, &names, NULL); break;
            case 3: status = lgv_sha256_file(path, hex, NULL); break;
            case 4: status = lgv_file_read(path, 10, &data, &size, NULL); break;
            case 5: status = lgv_remove_tree(top, NULL); break;
            }
            uint64_t made = lgv_alloc_fail_after(0);
            if (what == 2 && !status) lgv_names_free(&names);
            if (what == 4 && !status) lgv_free(data);
            if (made < nth) {
                assert_int_equal(status, LGV_OK);
                break;
            }
            assert_int_equal(status, LGV_ERR_MEMORY);
            if (what < 5) assert_int_equal(entries(root), 2);
            if (what == 0) { /* the old contents are untouched */
                assert_int_equal(lgv_file_read(path, 10, &data, &size, NULL), LGV_OK);
                assert_string_equal(data, "x");
                lgv_free(data);
            }
        }
    }
    unlink(path);
    lgv_free(path);
    lgv_free(tree);
    lgv_free(top);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_read_write), cmocka_unit_test(test_refused),
        cmocka_unit_test(test_atomic),     cmocka_unit_test(test_full_disk),
        cmocka_unit_test(test_folders),    cmocka_unit_test(test_remove_links),
        cmocka_unit_test(test_sha256),     cmocka_unit_test(test_faults),
    };
    return cmocka_run_group_tests(tests, make_root, remove_root);
}
