/* torch_write.c - writing what torch.load reads: a zip archive of stored members (archive/data.pkl, archive/byteorder,
   archive/data/N, archive/version) as PyTorchStreamWriter makes it. The pickle, of protocol 2, is one OrderedDict whose
   values are calls of _rebuild_tensor_v2; it uses only what torch.load(weights_only=True) allows. */
#include <stdio.h>
#include <string.h>
#include <zlib.h>

#include "core/file.h"
#include "langevin/torch_file.h"
#include "tensor_writer.h"

enum {
    ALIGNMENT = 64, /* of every member's bytes, as torch wants it for mapping */
    LOCAL_SIZE = 30,
    EXTRA_HEAD = 4,
    STORED_VERSION = 45 /* zip64 may occur */
};

typedef struct archive {
    lgv_atomic *file;
    uint64_t at; /* bytes written */
    lgv_bytes directory;
    uint64_t entries;
    const char *path;
    lgv_error *err;
} archive;

static lgv_status out_of_memory(const archive *a)
{
    return lgv_fail(a->err, LGV_ERR_MEMORY, "%s: out of memory", a->path);
}

static lgv_status write_bytes(archive *a, const void *data, size_t size)
{
    a->at += size;
    return size ? lgv_atomic_write(a->file, data, size, a->err) : LGV_OK;
}

static void put_number(lgv_bytes *b, uint64_t number, size_t width)
{
    uint8_t byte[8];
    for (size_t i = 0; i < width; i++) byte[i] = (uint8_t)(number >> 8 * i);
    lgv_bytes_put(b, byte, width);
}

/* --- Zip (APPNOTE.TXT 4.3.7, 4.3.12, 4.3.14 to 4.3.16) --- */
static void put_common(lgv_bytes *b, uint32_t crc, uint32_t size, size_t name)
{
    put_number(b, STORED_VERSION, 2);
    put_number(b, 0x0800, 2); /* names are UTF-8 */
    put_number(b, 0, 2);      /* stored */
    put_number(b, 0, 4);      /* no time: the same input gives the same bytes */
    put_number(b, crc, 4);
    put_number(b, size, 4);
    put_number(b, size, 4);
    put_number(b, name, 2);
}

/* Sizes and place of 4 GiB and more go to the zip64 field; it always stands here, so there is one way only. */
static void put_directory(archive *a, const char *name, uint32_t crc, uint64_t size, uint64_t place)
{
    lgv_bytes *d = &a->directory;
    put_number(d, 0x02014b50, 4);
    put_number(d, STORED_VERSION, 2);
    put_common(d, crc, UINT32_MAX, strlen(name));
    put_number(d, EXTRA_HEAD + 24, 2);
    put_number(d, 0, 2); /* comment */
    put_number(d, 0, 2); /* disk */
    put_number(d, 0, 2);
    put_number(d, 0, 4);
    put_number(d, UINT32_MAX, 4);
    lgv_bytes_put(d, name, strlen(name));
    put_number(d, 1, 2);
    put_number(d, 24, 2);
    put_number(d, size, 8);
    put_number(d, size, 8);
    put_number(d, place, 8);
    a->entries++;
}

static lgv_status write_member(archive *a, const char *name, const void *data, size_t size)
{
    lgv_bytes head = {0};
    static const uint8_t filler[ALIGNMENT];
    uint32_t crc = (uint32_t)crc32_z(0, data, size);
    uint64_t place = a->at;
    bool large = size >= UINT32_MAX;
    size_t sizes = large ? EXTRA_HEAD + 16 : 0;
    size_t body = (size_t)(a->at + LOCAL_SIZE + strlen(name) + sizes + EXTRA_HEAD) % ALIGNMENT;
    size_t pad = (ALIGNMENT - body) % ALIGNMENT;
    put_number(&head, 0x04034b50, 4);
    put_common(&head, crc, large ? UINT32_MAX : (uint32_t)size, strlen(name));
    put_number(&head, sizes + EXTRA_HEAD + pad, 2);
    lgv_bytes_put(&head, name, strlen(name));
    if (large) {
        put_number(&head, 1, 2);
        put_number(&head, 16, 2);
        put_number(&head, size, 8);
        put_number(&head, size, 8);
    }
    lgv_bytes_put(&head, "FB", 2); /* the field torch pads with */
    put_number(&head, pad, 2);
    lgv_bytes_put(&head, filler, pad);
    put_directory(a, name, crc, size, place);
    lgv_status status = head.failed ? out_of_memory(a) : write_bytes(a, head.data, head.size);
    lgv_free(head.data);
    return status ? status : write_bytes(a, data, size);
}

static lgv_status write_end(archive *a)
{
    lgv_bytes *d = &a->directory;
    uint64_t place = a->at, size = d->size, end = place + size;
    put_number(d, 0x06064b50, 4);
    put_number(d, 44, 8); /* of what follows */
    put_number(d, STORED_VERSION, 2);
    put_number(d, STORED_VERSION, 2);
    put_number(d, 0, 8); /* disks */
    put_number(d, a->entries, 8);
    put_number(d, a->entries, 8);
    put_number(d, size, 8);
    put_number(d, place, 8);
    put_number(d, 0x07064b50, 4);
    put_number(d, 0, 4);
    put_number(d, end, 8);
    put_number(d, 1, 4);
    put_number(d, 0x06054b50, 4);
    put_number(d, 0, 4);
    put_number(d, 0xffff, 2);
    put_number(d, 0xffff, 2);
    put_number(d, UINT32_MAX, 4);
    put_number(d, UINT32_MAX, 4);
    put_number(d, 0, 2);
    return d->failed ? out_of_memory(a) : write_bytes(a, d->data, d->size);
}

/* --- Pickle --- */
static void put_op(lgv_bytes *b, const char *ops)
{
    lgv_bytes_put(b, ops, strlen(ops));
}

static void put_text(lgv_bytes *b, const char *text)
{
    put_op(b, "X");
    put_number(b, strlen(text), 4);
    put_op(b, text);
}

static void put_int(lgv_bytes *b, int64_t n)
{
    if (n >= 0 && n < 256) {
        put_op(b, "K");
        put_number(b, (uint64_t)n, 1);
    } else if (n >= 0 && n < 1 << 30) {
        put_op(b, "J");
        put_number(b, (uint64_t)n, 4);
    } else {
        put_op(b, "\x8a\x08");
        put_number(b, (uint64_t)n, 8);
    }
}

static lgv_status put_tensor(lgv_bytes *b, const lgv_writer_entry *e, size_t index, lgv_error *err)
{
    const char *storage = lgv_torch_storage(e->dtype);
    if (!storage)
        return lgv_fail(err, LGV_ERR_UNSUPPORTED,
                        "tensor '%.200s' has type %s, which torch has not", e->name,
                        lgv_dtype_name(e->dtype));
    char key[24];
    snprintf(key, sizeof key, "%zu", index);
    int64_t stride[LGV_TENSOR_RANK], count = 1;
    for (int i = e->rank - 1; i >= 0; i--) {
        stride[i] = count;
        count *= e->dim[i] ? e->dim[i] : 1;
    }
    put_text(b, e->name);
    put_op(b, "ctorch._utils\n_rebuild_tensor_v2\n((");
    put_text(b, "storage");
    put_op(b, "ctorch\n");
    put_op(b, storage);
    put_op(b, "\n");
    put_text(b, key);
    put_text(b, "cpu");
    put_int(b, (int64_t)(e->bytes / lgv_dtype_size(e->dtype)));
    put_op(b, "tQ");
    put_int(b, 0);
    put_op(b, "(");
    for (int i = 0; i < e->rank; i++) put_int(b, e->dim[i]);
    put_op(b, "t(");
    for (int i = 0; i < e->rank; i++) put_int(b, stride[i]);
    put_op(b, "t\x89"
              "ccollections\nOrderedDict\n)RtR"); /* requires_grad, hooks */
    return LGV_OK;
}

static lgv_status write_pickle(archive *a, const lgv_safetensors_writer *w)
{
    lgv_bytes b = {0};
    lgv_status status = LGV_OK;
    put_op(&b, "\x80\x02"
               "ccollections\nOrderedDict\n)R(");
    for (size_t i = 0; i < w->count && !status; i++)
        status = put_tensor(&b, &w->entry[i], i, a->err);
    put_op(&b, "u.");
    if (!status)
        status = b.failed ? out_of_memory(a) : write_member(a, "archive/data.pkl", b.data, b.size);
    lgv_free(b.data);
    return status;
}

/* --- The file --- */
static lgv_status write_data(archive *a, const lgv_safetensors_writer *w, void *buffer)
{
    for (size_t i = 0; i < w->count; i++) {
        char name[48];
        const void *bytes;
        LGV_TRY(lgv_writer_bytes(&w->entry[i], buffer, &bytes, a->err));
        snprintf(name, sizeof name, "archive/data/%zu", i);
        LGV_TRY(write_member(a, name, bytes, w->entry[i].bytes));
    }
    return LGV_OK;
}

static lgv_status write_all(archive *a, const lgv_safetensors_writer *w, void *buffer)
{
    LGV_TRY(write_pickle(a, w));
    LGV_TRY(write_member(a, "archive/byteorder", "little", 6));
    LGV_TRY(write_data(a, w, buffer));
    LGV_TRY(write_member(a, "archive/version", "3\n", 2));
    return write_end(a);
}

lgv_status lgv_torch_file_write(lgv_safetensors_writer *w, const char *path, lgv_error *err)
{
    archive a = {.path = path, .err = err};
    void *buffer;
    LGV_TRY(lgv_writer_buffer(w, path, &buffer, err));
    lgv_status status = lgv_atomic_open(path, &a.file, err);
    if (!status) status = write_all(&a, w, buffer);
    lgv_free(a.directory.data);
    lgv_free(buffer);
    if (status) {
        lgv_atomic_abort(a.file);
        return status;
    }
    return lgv_atomic_commit(a.file, err);
}
