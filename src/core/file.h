/* file.h - read-only file mapping, atomic replacement, folders, SHA-256. Paths are bytes. */
#ifndef LGV_FILE_H
#define LGV_FILE_H

#include "core.h"

/* A whole file mapped read-only (an empty file gives data != NULL, size 0). Whoever shortens the file
   meanwhile kills the process (SIGBUS); atomic replacement does not. */
typedef struct lgv_map {
    const uint8_t *data;
    size_t size;
    void *base; /* internal */
} lgv_map;
lgv_status lgv_map_open(const char *path, lgv_map *out, lgv_error *err);
void lgv_map_close(lgv_map *map);

/* Reads a whole regular file of at most max_bytes into memory, NUL-terminated; free with lgv_free. */
lgv_status lgv_file_read(const char *path, size_t max_bytes, char **data, size_t *size,
                         lgv_error *err);

/* An output file that appears under its name only when complete: written beside it under a temporary
   name, fsynced, renamed, parent folder fsynced by commit; discarded by abort. */
typedef struct lgv_atomic lgv_atomic;
lgv_status lgv_atomic_open(const char *path, lgv_atomic **out, lgv_error *err);
lgv_status lgv_atomic_write(lgv_atomic *f, const void *data, size_t size, lgv_error *err);
lgv_status lgv_atomic_commit(lgv_atomic *f, lgv_error *err); /* frees f, also on failure */
void lgv_atomic_abort(lgv_atomic *f); /* removes the temporary file, frees f; NULL is legal */
lgv_status lgv_file_write(const char *path, const void *data, size_t size,
                          lgv_error *err); /* all of the above */

bool lgv_is_file(const char *path);
bool lgv_is_dir(const char *path);
bool lgv_exists(const char *path);
lgv_status lgv_make_dir(const char *path, lgv_error *err); /* and its parents; existing is fine */
lgv_status lgv_remove_tree(const char *path,
                           lgv_error *err); /* never follows links; missing is fine */
/* Removes what killed processes left half-written in a folder: the temporary files of lgv_atomic. Only where
   nobody else is writing. */
lgv_status lgv_remove_drafts(const char *folder, lgv_error *err);
lgv_status lgv_rename(const char *from, const char *to,
                      lgv_error *err); /* then fsyncs the parent of `to` */
lgv_status lgv_sync_dir(const char *path, lgv_error *err);
/* All of it, whatever write and pread do at once; false with errno otherwise (ENOSPC when nothing goes in any more, 0 at
   the end of the file). */
bool lgv_write_all(int fd, const void *data, size_t size);
bool lgv_read_at(int fd, void *data, size_t size, int64_t at);
char *lgv_path_join(const char *a, const char *b); /* "a/b"; NULL when out of memory */
lgv_status lgv_free_space(const char *path, uint64_t *bytes, lgv_error *err);

/* Names in a folder without "." and "..", sorted by bytes. Free with lgv_names_free. */
typedef struct lgv_names {
    char **name;
    size_t count;
} lgv_names;
lgv_status lgv_list_dir(const char *path, lgv_names *out, lgv_error *err);
void lgv_names_free(lgv_names *names);

/* SHA-256 (FIPS 180-4). */
typedef struct lgv_sha256 {
    uint32_t state[8];
    uint64_t bytes;
    uint8_t block[64];
    bool accelerated; /* the processor's SHA instructions are used; tests switch it off */
} lgv_sha256;
void lgv_sha256_init(lgv_sha256 *s);
void lgv_sha256_update(lgv_sha256 *s, const void *data, size_t size);
void lgv_sha256_hex(lgv_sha256 *s, char hex[65]); /* finishes */
lgv_status lgv_sha256_file(const char *path, char hex[65], lgv_error *err);

double lgv_now(void); /* monotonic seconds */

#endif
