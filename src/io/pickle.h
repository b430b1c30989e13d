/* pickle.h - Python pickles read as data. A pickle is a program for a small stack machine; this is the part of that
   machine that makes values. Classes and functions are only names: "calling" one (REDUCE, NEWOBJ, BUILD) makes an
   object that remembers the name and the arguments. Nothing is looked up, imported or executed, so there is nothing a
   pickle could do but be wrong.
   Read are the opcodes of protocols 2 to 5 (https://docs.python.org/3/library/pickletools.html) without the text forms
   of protocol 0, extension codes and out-of-band buffers.
   Limits: LGV_PICKLE_BYTES of pickle, LGV_PICKLE_VALUES values, as many on the stack. */
#ifndef LGV_PICKLE_H
#define LGV_PICKLE_H

#include "core/core.h"

enum { LGV_PICKLE_BYTES = 64 << 20, LGV_PICKLE_VALUES = 1 << 22 };

typedef enum lgv_pickle_kind {
    LGV_PICKLE_NONE,
    LGV_PICKLE_BOOL,   /* integer */
    LGV_PICKLE_INT,    /* integer */
    LGV_PICKLE_LONG,   /* text: an integer of more than 8 bytes, little-endian */
    LGV_PICKLE_FLOAT,  /* number */
    LGV_PICKLE_TEXT,   /* text */
    LGV_PICKLE_BINARY, /* text: Python's bytes */
    LGV_PICKLE_TUPLE,
    LGV_PICKLE_LIST,
    LGV_PICKLE_SET,
    LGV_PICKLE_DICT,       /* items: key, value, key, value ... */
    LGV_PICKLE_GLOBAL,     /* items: module, name */
    LGV_PICKLE_PERSISTENT, /* items: what stands for something outside of the pickle */
    LGV_PICKLE_OBJECT      /* items: callable, arguments, state (NONE: not set), key, value ... */
} lgv_pickle_kind;

enum { LGV_PICKLE_CALLABLE, LGV_PICKLE_ARGUMENTS, LGV_PICKLE_STATE, LGV_PICKLE_PAIRS };

/* Values may be shared and contain themselves: bound depth and visits when walking. */
typedef struct lgv_pickle_value {
    lgv_pickle_kind kind;
    union {
        int64_t integer;
        double number;
        const char *text; /* into the pickle; size bytes, no NUL after them */
    };
    size_t size;
    struct lgv_pickle_value **item;
    size_t count, capacity;
} lgv_pickle_value;

typedef struct lgv_pickle lgv_pickle;

/* Reads one pickle from the front of data, which must outlive it; *end (may be NULL): where it ends. */
lgv_status lgv_pickle_read(const uint8_t *data, size_t size, const char *path, lgv_pickle **out,
                           size_t *end, lgv_error *err);
void lgv_pickle_free(lgv_pickle *p); /* NULL is legal */
const lgv_pickle_value *lgv_pickle_root(const lgv_pickle *p);
/* Every value made, in order, whether reachable from the root or not. */
size_t lgv_pickle_count(const lgv_pickle *p);
const lgv_pickle_value *lgv_pickle_at(const lgv_pickle *p, size_t i);

bool lgv_pickle_is_text(const lgv_pickle_value *v, const char *text);
bool lgv_pickle_is_global(const lgv_pickle_value *v, const char *module, const char *name);
/* The value on one line, roughly as Python writes it, cut to fit size >= 32 bytes (pickle_text.c). Control characters
   become '?'. */
void lgv_pickle_show(const lgv_pickle_value *v, char *out, size_t size);

#endif
