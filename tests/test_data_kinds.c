/* test_data_kinds.c - data as people have it: labels in metadata files, CIFAR, tar shards, several weighted
   sources; and the parsers behind them on broken and hostile input. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <archive.h>
#include <archive_entry.h>
#include <cmocka.h>

#include "core/file.h"
#include "io/cifar.h"
#include "io/metadata.h"
#include "io/shard.h"
#include "langevin/image.h"
#include "ok.h"
#include "scratch.h"
#include "train/dataset.h"

/* A PNG of 40 x 40 pixels of one grey. */
static void make_png(int grey, uint8_t **data, size_t *size)
{
    lgv_image image;
    lgv_error err;
    OK(lgv_image_new(40, 40, 1, 8, &image, &err));
    memset(image.pixels, grey, 1600);
    OK(lgv_image_encode_png(&image, NULL, 0, data, size, &err));
    lgv_image_free(&image);
}

static void put_png(const char *name, int grey)
{
    uint8_t *data;
    size_t size;
    make_png(grey, &data, &size);
    scratch_put(name, data, size);
    lgv_image_free_data(data);
}

static lgv_dataset *open_many(const lgv_data_source *sources, int n)
{
    lgv_error err;
    lgv_dataset *d = NULL;
    OK(lgv_dataset_open_sources(sources, n, NULL, &d, &err));
    return d;
}

static lgv_dataset *open_data(const char *name)
{
    return open_many(&(lgv_data_source){.path = scratch_path(name)}, 1);
}

static void expect_error(const char *name, const char *part)
{
    lgv_error err;
    lgv_dataset *d = NULL;
    assert_int_not_equal(lgv_dataset_open(scratch_path(name), NULL, &d, &err), LGV_OK);
    if (!strstr(err.text, part)) fail_msg("'%s' does not say '%s'", err.text, part);
}

/* The grey of training picture i, and its class. */
static void expect_picture(lgv_dataset *d, int64_t i, int grey, const char *class)
{
    lgv_error err;
    uint8_t pixels[32 * 32];
    OK(lgv_dataset_read(d, 0, i, 0, 0, pixels, NULL, &err));
    assert_int_equal(pixels[0], grey);
    int label = lgv_dataset_label(d, 0, i);
    if (class)
        assert_string_equal(lgv_dataset_class_name(d, label), class);
    else
        assert_int_equal(label, -1);
}

/* ---- metadata files ---- */

static void labels_from_csv(void **state)
{
    put_png("csv/a.png", 1);
    put_png("csv/sub/b.png", 2);
    put_png("csv/sub/c.png", 3);
    put_png("csv/unnamed.png", 4);
    const char text[] = "\xef\xbb\xbf"
                        "text,label,file_name\r\n"
                        "\"a \"\"dark\"\" one, or\ntwo\",zebra,a.png\r\n"
                        ",\"apple\",./sub/b.png\r\n"
                        "\r\n"
                        "gone,zebra,none.png\r\n"
                        "x,,sub/c.png";
    scratch_put("csv/metadata.csv", text, sizeof text - 1);
    lgv_dataset *d = open_data("csv");
    assert_int_equal(lgv_dataset_classes(d), 2);
    expect_picture(d, 0, 1, "zebra");
    expect_picture(d, 1, 2, "apple");
    expect_picture(d, 2, 3, NULL);
    expect_picture(d, 3, 4, NULL);
    assert_int_equal(lgv_dataset_label(d, 0, 1), 0); /* byte order */
    assert_int_equal(lgv_dataset_notes(d), 1);
    assert_non_null(strstr(lgv_dataset_note_at(d, 0), "none.png"));
    char before[65];
    memcpy(before, lgv_dataset_fingerprint(d), 65);
    lgv_dataset_free(d);
    scratch_put("csv/metadata.csv", "file_name,label\na.png,other\n", 28);
    d = open_data("csv");
    assert_string_not_equal(before, lgv_dataset_fingerprint(d)); /* labels count */
    lgv_dataset_free(d);
}

static void labels_from_jsonl(void **state)
{
    put_png("jsonl/x/1.png", 10);
    put_png("jsonl/x/2.png", 20);
    put_png("jsonl/y/3.png", 30);
    const char x[] = "{\"file_name\": \"1.png\", \"label\": 7}\n\n"
                     "{\"file_name\": \"2.png\", \"class\": 10, \"text\": \"t\"}\n";
    scratch_put("jsonl/x/metadata.jsonl", x, sizeof x - 1);
    lgv_dataset *d = open_data("jsonl");
    assert_int_equal(lgv_dataset_classes(d), 11); /* numbers are classes */
    expect_picture(d, 0, 10, "7");
    expect_picture(d, 1, 20, "10");
    expect_picture(d, 2, 30, NULL);
    assert_int_equal(lgv_dataset_label(d, 0, 1), 10);
    lgv_dataset_free(d);
}

static void metadata_mistakes(void **state)
{
    put_png("bad/1.png", 1);
    scratch_put("bad/metadata.csv", "name,label\n1.png,a\n", 19);
    expect_error("bad", "no column file_name");
    scratch_put("bad/metadata.csv", "file_name,label\n\"1.png,a\n", 25);
    expect_error("bad", "never closed");
    scratch_put("bad/metadata.csv", "file_name,label\n2.png,a\n", 24);
    expect_error("bad", "names no picture that is there");
    scratch_put("bad/metadata.csv", "file_name\n", 10);
    scratch_put("bad/metadata.jsonl", "{\"file_name\": \"1.png\"}\n{\"file\": 1}\n", 35);
    expect_error("bad", "line 2: there is no file_name");
    scratch_put("bad/metadata.jsonl", "{\"file_name\": \"1.png\", \"label\": 1.5}\n", 37);
    expect_error("bad", "'label' must be");
    scratch_put("bad/metadata.jsonl", "{\"file_name\"", 12);
    expect_error("bad", "metadata.jsonl, line 1");
    char deep[140];
    memset(deep, '[', sizeof deep);
    memcpy(deep, "{\"a\":", 5);
    scratch_put("bad/metadata.jsonl", deep, sizeof deep);
    expect_error("bad", "metadata.jsonl, line 1: nested deeper than 64 levels");
}

static void folders_in_common_are_no_classes(void **state)
{
    put_png("common/data/all/cat/1.png", 1);
    put_png("common/data/all/dog/1.png", 2);
    lgv_dataset *d = open_data("common");
    assert_int_equal(lgv_dataset_classes(d), 2);
    expect_picture(d, 0, 1, "cat");
    lgv_dataset_free(d);
}

/* ---- CIFAR ---- */

/* n records whose label is i % 3 and whose red is i, green 2 i, blue 3 i. */
static void put_cifar(const char *name, int n, int label_bytes)
{
    size_t record = 3072 + (size_t)label_bytes;
    uint8_t *p = calloc((size_t)n, record);
    for (int i = 0; i < n; i++) {
        uint8_t *r = p + (size_t)i * record;
        r[0] = 9;
        r[label_bytes - 1] = (uint8_t)(i % 3);
        for (int c = 0; c < 3; c++) memset(r + label_bytes + 1024 * c, i * (c + 1), 1024);
    }
    scratch_put(name, p, (size_t)n * record);
    free(p);
}

static void cifar_10_and_100(void **state)
{
    put_cifar("c10/data_batch_1.bin", 4, 1);
    put_cifar("c10/data_batch_2.bin", 3, 1);
    put_cifar("c10/test_batch.bin", 2, 1);
    scratch_put("c10/batches.meta.txt", "ant\nbee\nfox\n\n", 13);
    lgv_dataset *d = open_data("c10");
    assert_int_equal(lgv_dataset_count(d), 7);
    assert_int_equal(lgv_dataset_validation_count(d), 2);
    assert_int_equal(lgv_dataset_resolution(d), 32);
    assert_int_equal(lgv_dataset_channels(d), 3);
    assert_int_equal(lgv_dataset_classes(d), 3);
    assert_string_equal(lgv_dataset_class_name(d, lgv_dataset_label(d, 0, 2)), "fox");
    assert_int_equal(lgv_dataset_label(d, 1, 1), 1);
    lgv_error err;
    uint8_t pixels[64 * 64 * 3];
    OK(lgv_dataset_read(d, 0, 6, 0, 0, pixels, NULL, &err)); /* the third of batch 2 */
    assert_memory_equal(pixels + 3 * 500, ((uint8_t[]){2, 4, 6}), 3);
    lgv_dataset_free(d);
    put_cifar("c100/train.bin", 5, 2);
    scratch_put("c100/fine_label_names.txt", "a\r\nb\r\nc\r\n", 9);
    OK(lgv_dataset_open(scratch_path("c100"),
                        &(lgv_dataset_options){.resolution = 64, .channels = 1}, &d, &err));
    OK(lgv_dataset_read(d, 0, 4, 0, 0, pixels, NULL, &err)); /* enlarged and grey */
    assert_int_equal(pixels[64 * 64 - 1], (4 * 19595 + 8 * 38470 + 12 * 7471 + 32768) >> 16);
    assert_string_equal(lgv_dataset_class_name(d, lgv_dataset_label(d, 0, 4)), "b");
    lgv_dataset_free(d);
    d = open_data("c100/train.bin");
    assert_int_equal(lgv_dataset_count(d), 5);
    assert_int_equal(lgv_dataset_classes(d), 3);
    lgv_dataset_free(d);
    scratch_put("c10/data_batch_2.bin", "short", 5);
    expect_error("c10", "whole number of CIFAR records");
    scratch_put("c100/fine_label_names.txt", "a\n", 2);
    expect_error("c100", "label 1 of 1");
}

/* ---- tar shards ---- */

typedef struct member {
    const char *path;
    int grey; /* a PNG of it, when text is NULL */
    const char *text;
} member;

static void put_tar(const char *name, const member *m, size_t n, bool gzip)
{
    struct archive *a = archive_write_new();
    archive_write_set_format_pax(a);
    if (gzip) archive_write_add_filter_gzip(a);
    scratch_put(name, "", 0);
    assert_int_equal(archive_write_open_filename(a, scratch_path(name)), ARCHIVE_OK);
    for (size_t i = 0; i < n; i++) {
        uint8_t *png = NULL;
        size_t size = m[i].text ? strlen(m[i].text) : 0;
        if (!m[i].text) make_png(m[i].grey, &png, &size);
        struct archive_entry *e = archive_entry_new();
        archive_entry_set_pathname(e, m[i].path);
        archive_entry_set_filetype(e, AE_IFREG);
        archive_entry_set_perm(e, 0644);
        archive_entry_set_size(e, (la_int64_t)size);
        assert_true(archive_write_header(a, e) >= ARCHIVE_WARN);
        archive_write_data(a, m[i].text ? (const void *)m[i].text : png, size);
        archive_entry_free(e);
        lgv_image_free_data(png);
    }
    archive_write_close(a);
    archive_write_free(a);
}

static const member sample_tar[] = {
    {"./000.png", 5, NULL},      {"./000.cls", 0, "2\n"},  {"./001.cls", 0, "0"},
    {"./001.seg.png", 99, NULL}, {"./001.png", 6, NULL},   {"./002.txt", 0, "a caption"},
    {"./002.png", 7, NULL},      {"./._003.png", 8, NULL}, {"./note.md", 0, "no picture"}};
enum { SAMPLES = sizeof sample_tar / sizeof *sample_tar };

static void expect_samples(lgv_dataset *d)
{
    assert_int_equal(lgv_dataset_count(d), 3);
    assert_int_equal(lgv_dataset_classes(d), 3);
    expect_picture(d, 0, 5, "2");
    expect_picture(d, 1, 6, "0"); /* one picture a sample, not its mask */
    expect_picture(d, 2, 7, NULL);
    assert_int_equal(lgv_dataset_skipped(d), 0);
}

static void shards_plain_and_compressed(void **state)
{
    put_tar("one.tar", sample_tar, SAMPLES, false);
    put_tar("one.tar.gz", sample_tar, SAMPLES, true);
    lgv_dataset *plain = open_data("one.tar"), *packed = open_data("one.tar.gz");
    assert_true(plain->part[0].plain);
    assert_false(packed->part[0].plain);
    expect_samples(plain);
    expect_samples(packed);
    assert_string_equal(lgv_dataset_fingerprint(plain), lgv_dataset_fingerprint(packed));
    lgv_dataset_free(plain);
    lgv_dataset_free(packed);
}

static void classes_in_a_tar_of_folders(void **state)
{
    const member m[] = {{"set/dog/a.1.png", 1, NULL},
                        {"set/dog/a.2.png", 2, NULL}, /* one key, but no webdataset: two pictures */
                        {"set/caf\xc3\xa9/x.png", 3, NULL},
                        {"set/\xe6\x97\xa5/x.png", 4, NULL}};
    put_tar("folders.tar", m, 4, false);
    lgv_dataset *d = open_data("folders.tar");
    assert_int_equal(lgv_dataset_count(d), 4);
    assert_int_equal(lgv_dataset_classes(d), 3);
    expect_picture(d, 1, 2, "dog");
    expect_picture(d, 2, 3, "caf\xc3\xa9");
    expect_picture(d, 3, 4, "\xe6\x97\xa5");
    lgv_dataset_free(d);
}

static void folders_and_ranges_of_shards(void **state)
{
    const member a[] = {{"a.png", 1, NULL}, {"a.json", 0, "{\"label\": \"cat\"}"}},
                 b[] = {{"b.png", 2, NULL}, {"b.json", 0, "{\"caption\": \"no label\"}"}},
                 c[] = {{"c.png", 3, NULL}, {"c.json", 0, "{\"cls\": \"ant\"}"}};
    put_tar("shards/009.tar", a, 2, false);
    put_tar("shards/010.tar", b, 2, true); /* named plainly, yet compressed: content decides */
    put_tar("shards/011.tar", c, 2, false);
    lgv_dataset *d = open_data("shards");
    assert_int_equal(lgv_dataset_count(d), 3);
    expect_picture(d, 0, 1, "cat");
    expect_picture(d, 1, 2, NULL);
    expect_picture(d, 2, 3, "ant");
    lgv_dataset_free(d);
    d = open_data("shards/{010..011}.tar");
    assert_int_equal(lgv_dataset_count(d), 2);
    expect_picture(d, 1, 3, "ant");
    lgv_dataset_free(d);
    expect_error("shards/{010..012}.tar", "012.tar");
    expect_error("shards/{12..10}.tar", "names no file");
}

/* A compressed archive is decoded in one pass, also when nothing fits in memory. */
static void a_stream_goes_through_the_cache(void **state)
{
    lgv_error err;
    lgv_dataset *d;
    uint8_t pixels[32 * 32];
    member m[12];
    char path[12][16];
    for (int i = 0; i < 12; i++) {
        snprintf(path[i], sizeof path[i], "%d.png", i);
        m[i] = (member){path[i], 10 * i + 1, NULL};
    }
    m[3].text = "\x89PNG\r\n\x1a\n broken";
    put_tar("stream.tgz", m, 12, true);
    OK(lgv_dataset_open(scratch_path("stream.tgz"), &(lgv_dataset_options){.memory_limit = 1}, &d,
                        &err));
    assert_int_equal(lgv_dataset_count(d), 12);
    for (int64_t i = 11; i >= 0; i--) {
        OK(lgv_dataset_read(d, 0, i, 0, 0, pixels, NULL, &err));
        assert_int_equal(pixels[0], i == 3 ? 41 : 10 * i + 1);
    }
    assert_int_equal(lgv_dataset_skipped(d), 1);
    assert_non_null(strstr(lgv_dataset_skipped_at(d, 0), "stream.tgz: 3.png"));
    lgv_dataset_free(d);
}

static void damaged_archives(void **state)
{
    put_tar("whole.tar", sample_tar, SAMPLES, false);
    char *data;
    size_t size;
    lgv_error err;
    OK(lgv_file_read(scratch_path("whole.tar"), 1 << 20, &data, &size, &err));
    scratch_put("cut.tar", data, 700);
    lgv_free(data);
    expect_error("cut.tar", "fetch it again");
    scratch_put("text.tar", "this is no archive at all, only a text", 38);
    expect_error("text.tar", "text.tar");
    const member m[] = {{"batch/data_batch_1.bin", 0, "cifar"}};
    put_tar("cifar.tar.gz", m, 1, true);
    expect_error("cifar.tar.gz", "must be unpacked");
}

/* The golden shard was written by webdataset's own writer (tools/golden/webdataset_shard.py). */
static void webdataset_wrote_this(void **state)
{
    lgv_error err;
    lgv_dataset *d;
    uint8_t pixels[32 * 32 * 3];
    OK(lgv_dataset_open(LGV_SOURCE_DIR "/tests/golden/webdataset/{000000..000001}.tar", NULL, &d,
                        &err));
    assert_int_equal(lgv_dataset_count(d), 12);
    assert_int_equal(lgv_dataset_classes(d), 3);
    for (int64_t i = 0; i < 12; i++) {
        OK(lgv_dataset_read(d, 0, i, 0, 0, pixels, NULL, &err));
        assert_int_equal(lgv_dataset_label(d, 0, i), i % 3);
    }
    assert_int_equal(lgv_dataset_skipped(d), 0);
    lgv_dataset_free(d);
}

/* ---- several sources ---- */

static void sources_join_their_classes(void **state)
{
    put_png("left/cat/1.png", 1);
    put_png("left/dog/1.png", 2);
    put_png("right/ant/1.png", 3);
    put_png("right/dog/1.png", 4);
    char *left = strdup(scratch_path("left")), *right = strdup(scratch_path("right"));
    lgv_dataset *d = open_many((lgv_data_source[]){{left, 0}, {right, 1}}, 2);
    assert_int_equal(lgv_dataset_count(d), 4);
    assert_int_equal(lgv_dataset_epoch_length(d), 4);
    assert_int_equal(lgv_dataset_classes(d), 3);
    expect_picture(d, 1, 2, "dog");
    expect_picture(d, 2, 3, "ant");
    expect_picture(d, 3, 4, "dog");
    const lgv_data_source *s;
    assert_int_equal(lgv_dataset_sources(d, &s), 2);
    assert_string_equal(s[1].path, right);
    lgv_dataset_free(d);
    lgv_error err;
    assert_int_equal(lgv_dataset_open_sources(&(lgv_data_source){left, -1}, 1, NULL, &d, &err),
                     LGV_ERR_ARGUMENT);
    free(left);
    free(right);
}

static void weights_are_exact(void **state)
{
    char name[32];
    for (int i = 0; i < 4; i++) {
        snprintf(name, sizeof name, "heavy/%d.png", i);
        put_png(name, i);
    }
    for (int i = 0; i < 6; i++) {
        snprintf(name, sizeof name, "light/%d.png", i);
        put_png(name, 100 + i);
    }
    char *heavy = strdup(scratch_path("heavy")), *light = strdup(scratch_path("light"));
    lgv_dataset *d = open_many((lgv_data_source[]){{heavy, 2.5}, {light, 0.5}}, 2);
    assert_int_equal(lgv_dataset_epoch_length(d), 13);
    int64_t order[13], again[13], *scratch = calloc(lgv_dataset_order_scratch(d), sizeof *scratch);
    int seen[10] = {0};
    for (int64_t epoch = 0; epoch < 4; epoch++) {
        int once[10] = {0};
        lgv_dataset_order(d, 3, epoch, order, scratch);
        for (int i = 0; i < 13; i++) once[order[i]]++;
        for (int i = 0; i < 4; i++) assert_in_range(once[i], 2, 3);
        for (int i = 4; i < 10; i++) assert_in_range(once[i], 0, 1);
        for (int i = 0; i < 10; i++) seen[i] += once[i];
    }
    for (int i = 0; i < 10; i++) assert_int_equal(seen[i], i < 4 ? 10 : 2);
    lgv_dataset_order(d, 3, 3, again, scratch);
    assert_memory_equal(order, again, sizeof order);
    lgv_dataset_order(d, 4, 3, again, scratch);
    assert_memory_not_equal(order, again, sizeof order);
    free(scratch);
    lgv_dataset_free(d);
    free(heavy);
    free(light);
}

/* ---- the cache between runs ---- */

/* Reads all nine pictures of "kept" with that cache folder; how many were there before. */
static int64_t run_with_cache(const char *folder, const lgv_dataset_options *more, uint8_t *pixels)
{
    lgv_error err;
    lgv_dataset *d;
    lgv_dataset_options o = *more;
    o.cache_dir = folder;
    OK(lgv_dataset_open(scratch_path("kept"), &o, &d, &err));
    assert_int_equal(lgv_dataset_count(d), 9);
    for (int64_t i = 0; i < 9; i++)
        OK(lgv_dataset_read(d, 0, i, 0, 0, pixels + 1024 * i, NULL, &err));
    int64_t cached = lgv_dataset_cached(d);
    OK(lgv_dataset_save_cache(d, &err));
    lgv_dataset_free(d);
    return cached;
}

static void decoded_pictures_are_kept(void **state)
{
    member m[4];
    char path[4][8], name[32];
    uint8_t first[9 * 1024], again[9 * 1024];
    for (int i = 0; i < 4; i++) {
        snprintf(path[i], sizeof path[i], "%d.png", i);
        m[i] = (member){path[i], 20 * i, NULL};
        snprintf(name, sizeof name, "kept/%d.png", i);
        put_png(name, 100 + i);
    }
    scratch_put("kept/9.png", "\x89PNG\r\n\x1a\n broken", 16);
    put_tar("kept/x.tar.gz", m, 4, true);
    char *folder = strdup(scratch_path("cache/of/pictures"));
    lgv_dataset_options plain = {.resolution = 32},
                        small = {.resolution = 32, .memory_limit = 1500},
                        black = {.resolution = 32, .background_set = 1};
    assert_int_equal(run_with_cache(folder, &small, first), 0);
    assert_int_equal(run_with_cache(folder, &plain, again), 8); /* all but the broken one */
    assert_memory_equal(first, again, sizeof first);
    assert_int_equal(run_with_cache(folder, &black, again), 0); /* other settings, another file */

    lgv_names files = {0};
    lgv_error err;
    char *data;
    size_t size;
    OK(lgv_list_dir(folder, &files, &err));
    assert_int_equal(files.count, 2);
    for (int part = 0; part < 2; part++) { /* damage in a picture, then in the table */
        for (size_t i = 0; i < 2; i++) {
            char *file = lgv_path_join(folder, files.name[i]);
            OK(lgv_file_read(file, 1 << 20, &data, &size, &err));
            data[part ? size - 200 : 100] ^= 1;
            scratch_write(file, data, size);
            lgv_free(data);
            lgv_free(file);
        }
        assert_int_equal(run_with_cache(folder, &plain, again), part ? 0 : 8);
        assert_memory_equal(first, again, sizeof first);
        assert_int_equal(run_with_cache(folder, &plain, again), 8);
    }
    lgv_names_free(&files);
    free(folder);
}

/* ---- the survey ---- */

static int count_calls(void *user, int64_t done, int64_t total)
{
    ++*(int *)user;
    return done == total ? 0 : 7;
}

static void a_survey_sees_everything(void **state)
{
    const member m[] = {{"a.png", 1, NULL},
                        {"b.png", 2, NULL},
                        {"c.png", 1, NULL},
                        {"d.png", 0, "\x89PNG\r\n\x1a\n broken"}};
    put_tar("seen/x.tar", m, 4, false);
    put_tar("seen/y.tar.gz", m, 4, true);
    put_png("seen/0.png", 2);
    for (int headers_only = 0; headers_only < 2; headers_only++) {
        lgv_dataset *d = open_data("seen");
        lgv_survey *s;
        lgv_error err;
        int calls = 0, broken = 0, copies = 0;
        lgv_survey_options o = {
            .headers_only = headers_only, .threads = 2, .progress = count_calls, .user = &calls};
        OK(lgv_dataset_survey(d, &o, &s, &err));
        assert_int_equal(lgv_survey_count(s), 9);
        assert_int_equal(calls, 1);
        for (int64_t i = 0; i < 9; i++) {
            lgv_survey_picture p;
            lgv_survey_at(s, i, &p);
            broken += p.broken != NULL;
            copies += p.copy_of >= 0;
            assert_int_equal(p.info.type, LGV_IMAGE_PNG);
            if (p.broken)
                assert_non_null(strstr(p.name, "d.png"));
            else
                assert_int_equal(p.info.width, 40);
        }
        assert_int_equal(broken, 2);
        assert_int_equal(copies,
                         headers_only ? 0 : 6); /* 1 thrice more, 2 twice more, broken once */
        lgv_survey_free(s);
        lgv_dataset_free(d);
    }
}

/* ---- hostile bytes, and no memory ---- */

static lgv_status ignore_row(void *user, const char *file_name, const char *label, lgv_error *err)
{
    *(size_t *)user += strlen(file_name) + (label ? strlen(label) : 0);
    return LGV_OK;
}

static void walk_shard(const void *data, size_t size)
{
    lgv_shard *s;
    lgv_shard_member m;
    const uint8_t *content;
    bool more = true;
    if (lgv_shard_open_memory(data, size, "x", &s, NULL)) return;
    while (more && !lgv_shard_next(s, &m, &more, NULL))
        if (more && lgv_shard_read(s, &content, NULL)) break;
    lgv_shard_close(s);
}

static void flipped_bytes(void **state)
{
    char csv[] = "file_name,label\n\"a\"\"b.png\",x\nc.png,\"y,z\"\n";
    char json[] =
        "{\"file_name\": \"a.png\", \"label\": \"x\"}\n{\"file_name\": \"b\", \"label\": 3}\n";
    char *tar;
    size_t size, sum = 0;
    lgv_error err;
    put_tar("flip.tar", sample_tar, SAMPLES, false);
    OK(lgv_file_read(scratch_path("flip.tar"), 1 << 20, &tar, &size, &err));
    srand(3);
    for (int i = 0; i < 3000; i++) {
        size_t a = (size_t)rand() % (sizeof csv - 1), b = (size_t)rand() % (sizeof json - 1),
               t = (size_t)rand() % size;
        char was_a = csv[a], was_b = json[b], was_t = tar[t];
        csv[a] = (char)rand();
        json[b] = (char)rand();
        tar[t] = (char)rand();
        lgv_metadata_csv(csv, sizeof csv - 1, "x", ignore_row, &sum, NULL);
        lgv_metadata_jsonl(json, sizeof json - 1, "x", ignore_row, &sum, NULL);
        if (i % 10 == 0) walk_shard(tar, size);
        csv[a] = was_a;
        json[b] = was_b;
        tar[t] = was_t;
    }
    lgv_free(tar);
    lgv_cifar c = {0};
    assert_int_equal(lgv_cifar_append((const uint8_t *)csv, 0, 1, "x", &c, NULL), LGV_ERR_FORMAT);
}

static void allocation_failures(void **state)
{
    put_tar("mem/a.tar", sample_tar, SAMPLES, false);
    put_tar("mem/b.tar.gz", sample_tar, SAMPLES, true);
    put_png("mem/1.png", 1);
    scratch_put("mem/metadata.csv", "file_name,label\n1.png,2\n", 24);
    char *path = strdup(scratch_path("mem"));
    for (uint64_t n = 1;; n++) {
        lgv_dataset *d = NULL;
        uint8_t pixels[32 * 32];
        lgv_error err = {0};
        lgv_alloc_fail_after(n);
        lgv_status s = lgv_dataset_open(path, NULL, &d, &err);
        for (int64_t i = 0; i < 7 && !s; i++)
            s = lgv_dataset_read(d, 0, i, 0, 0, pixels, NULL, &err);
        bool left = lgv_alloc_fail_after(0) < n;
        lgv_dataset_free(d);
        if (left) {
            if (s) fail_msg("%s", err.text);
            break;
        }
    }
    free(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(labels_from_csv),
        cmocka_unit_test(labels_from_jsonl),
        cmocka_unit_test(metadata_mistakes),
        cmocka_unit_test(folders_in_common_are_no_classes),
        cmocka_unit_test(cifar_10_and_100),
        cmocka_unit_test(shards_plain_and_compressed),
        cmocka_unit_test(classes_in_a_tar_of_folders),
        cmocka_unit_test(folders_and_ranges_of_shards),
        cmocka_unit_test(a_stream_goes_through_the_cache),
        cmocka_unit_test(damaged_archives),
        cmocka_unit_test(webdataset_wrote_this),
        cmocka_unit_test(sources_join_their_classes),
        cmocka_unit_test(weights_are_exact),
        cmocka_unit_test(decoded_pictures_are_kept),
        cmocka_unit_test(a_survey_sees_everything),
        cmocka_unit_test(flipped_bytes),
        cmocka_unit_test(allocation_failures),
    };
    return cmocka_run_group_tests(tests, NULL, scratch_remove);
}
