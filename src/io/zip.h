/* zip.h - the directory of a zip archive whose members are stored, not compressed: what torch.save writes (APPNOTE.TXT
   6.3.9, sections 4.3 to 4.5, zip64 included). Members are used where they lie, so the archive is mapped and never
   unpacked; libarchive, which reads a stream, offers no such view.
   Everything handed out lies inside the archive, and no two members share a byte.
   Limits: LGV_ZIP_ENTRIES members, names of LGV_ZIP_NAME bytes. */
#ifndef LGV_ZIP_H
#define LGV_ZIP_H

#include "core/core.h"

enum { LGV_ZIP_ENTRIES = 1 << 18, LGV_ZIP_NAME = 1024 };

typedef struct lgv_zip_entry {
    char *name;
    const uint8_t *data; /* size bytes */
    size_t size;
    uint32_t crc;         /* 0: the writer computed none */
    const uint8_t *begin; /* of its local header */
} lgv_zip_entry;

typedef struct lgv_zip {
    lgv_zip_entry *entry; /* sorted by name */
    size_t count, capacity;
} lgv_zip;

/* data must outlive the directory. path is what messages call the archive. */
lgv_status lgv_zip_read(const uint8_t *data, size_t size, const char *path, lgv_zip *out,
                        lgv_error *err);
void lgv_zip_free(lgv_zip *zip);                                         /* clears *zip */
const lgv_zip_entry *lgv_zip_find(const lgv_zip *zip, const char *name); /* NULL: none */
/* Whether the bytes have their checksum. */
lgv_status lgv_zip_check(const lgv_zip_entry *entry, const char *path, lgv_error *err);

#endif
