/* shard.h - tar files of pictures, plain or compressed (gzip, bzip2, xz, zstd), read front to back through
   libarchive. Nothing is unpacked: names in an archive never become names on disk.
   In a plain tar a member's bytes have a place in the file, so a picture can be read again by one pread; in a
   compressed one they exist only while the stream passes by.
   Limits: LGV_SHARD_MEMBERS members, paths of LGV_SHARD_PATH - 1 bytes, members of LGV_SHARD_BYTES (larger
   ones are passed over in a plain tar and refused in a compressed one). */
#ifndef LGV_SHARD_H
#define LGV_SHARD_H

#include "core/core.h"

enum { LGV_SHARD_MEMBERS = 1 << 26, LGV_SHARD_PATH = 4096, LGV_SHARD_BYTES = 1 << 30 };

typedef struct lgv_shard lgv_shard;

typedef struct lgv_shard_member {
    const char *path; /* without "./" in front; valid until the next member */
    int64_t size;
} lgv_shard_member;

lgv_status lgv_shard_open(const char *path, lgv_shard **out, lgv_error *err);
/* data must outlive the shard; for tests and fuzzers, which read it with next and read. */
lgv_status lgv_shard_open_memory(const void *data, size_t size, const char *name, lgv_shard **out,
                                 lgv_error *err);
void lgv_shard_close(lgv_shard *s); /* NULL is legal */
/* The next ordinary file; *more is false at the end. Links, folders and sparse files are passed over. */
lgv_status lgv_shard_next(lgv_shard *s, lgv_shard_member *out, bool *more, lgv_error *err);
/* The content of the member just returned, whole; the shard's own, valid until the next read. */
lgv_status lgv_shard_read(lgv_shard *s, const uint8_t **data, lgv_error *err);
/* Plain tar: place of the member's first byte in the file; -1 when it is compressed. Only instead of
   lgv_shard_read. */
lgv_status lgv_shard_place(lgv_shard *s, int64_t *at, lgv_error *err);
bool lgv_shard_is_plain(const lgv_shard *s); /* after the first member */
/* Whether the name ends like an archive's (.tar, .tar.gz, .tgz, .tar.bz2, .tar.xz, .tar.zst). */
bool lgv_shard_named(const char *name);
/* The length of KEY in webdataset's naming: up to the first dot of the last part of the path. */
size_t lgv_shard_key(const char *path);

#endif
