/* metadata.h - which label belongs to which picture, as people write it down: metadata.csv and
   metadata.jsonl (the Hugging Face "imagefolder" convention), and the .json and .cls members of webdataset
   shards.
   All parsers take (bytes, length) and trust nothing in them. Limits: a file of LGV_METADATA_BYTES, a row of
   LGV_METADATA_ROW bytes, LGV_METADATA_COLUMNS columns, a label of LGV_LABEL_BYTES - 1 bytes. */
#ifndef LGV_METADATA_H
#define LGV_METADATA_H

#include "core/core.h"

enum {
    LGV_METADATA_BYTES = 1 << 30,
    LGV_METADATA_ROW = 1 << 20,
    LGV_METADATA_COLUMNS = 1024,
    LGV_LABEL_BYTES = 256
};

/* Called for every row; the strings live until it returns. label NULL: the row has none. */
typedef lgv_status (*lgv_metadata_row)(void *user, const char *file_name, const char *label,
                                       lgv_error *err);

/* RFC 4180 with a header row. Columns: file_name, and one of label, class, class_name, cls. */
lgv_status lgv_metadata_csv(const char *data, size_t size, const char *name, lgv_metadata_row row,
                            void *user, lgv_error *err);
/* A JSON object a line with the same keys; a label is a text or a whole number. */
lgv_status lgv_metadata_jsonl(const char *data, size_t size, const char *name, lgv_metadata_row row,
                              void *user, lgv_error *err);
/* The label in a webdataset sample's KEY.json; *found is false when it has none. */
lgv_status lgv_metadata_json(const char *data, size_t size, const char *name,
                             char label[LGV_LABEL_BYTES], bool *found, lgv_error *err);
/* The label in KEY.cls: its text without the blanks around it. */
lgv_status lgv_metadata_cls(const char *data, size_t size, const char *name,
                            char label[LGV_LABEL_BYTES], lgv_error *err);

#endif
