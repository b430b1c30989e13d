/* pickle_text.c - values of a pickle for people to read. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "pickle.h"

/* A line that is being written; what does not fit is left out. */
typedef struct line {
    char *out;
    size_t size, used;
} line;

static void put(line *l, const char *text, size_t n)
{
    for (size_t i = 0; i < n && l->used + 1 < l->size; i++) {
        unsigned char c = (unsigned char)text[i];
        l->out[l->used++] = c < 32 || c == 127 ? '?' : (char)c;
    }
    l->out[l->used] = 0;
}

static void put_format(line *l, const char *fmt, ...) LGV_PRINTF(2, 3);
static void put_format(line *l, const char *fmt, ...)
{
    char text[48];
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    put(l, text, n < 0 ? 0 : n < (int)sizeof text ? (size_t)n : sizeof text - 1);
}

/* The shortest of the usual precisions that gives the number back. */
static void put_float(line *l, double number)
{
    char text[32];
    for (int digits = 15; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, number);
        if (strtod(text, NULL) == number) break;
    }
    put_format(l, "%s", text);
}

static void put_value(line *l, const lgv_pickle_value *v, int deep);

static void put_list(line *l, const lgv_pickle_value *v, const char *brackets, int deep)
{
    put(l, brackets, 1);
    for (size_t i = 0; i < v->count; i++) {
        bool full = !deep || l->used + 24 > l->size;
        put_format(l, "%s%s", i ? ", " : "", full ? "..." : "");
        if (full) break;
        put_value(l, v->item[i], deep - 1);
    }
    put(l, brackets + 1, 1);
}

static void put_value(line *l, const lgv_pickle_value *v, int deep)
{
    switch (v->kind) {
    case LGV_PICKLE_NONE: put_format(l, "None"); break;
    case LGV_PICKLE_BOOL: put_format(l, v->integer ? "True" : "False"); break;
    case LGV_PICKLE_INT: put_format(l, "%" PRId64, v->integer); break;
    case LGV_PICKLE_LONG: put_format(l, "(a large number)"); break;
    case LGV_PICKLE_FLOAT: put_float(l, v->number); break;
    case LGV_PICKLE_TEXT:
        put(l, "'", 1);
        put(l, v->text, v->size);
        put(l, "'", 1);
        break;
    case LGV_PICKLE_BINARY: put_format(l, "(%zu bytes)", v->size); break;
    case LGV_PICKLE_TUPLE: put_list(l, v, "()", deep); break;
    case LGV_PICKLE_LIST: put_list(l, v, "[]", deep); break;
    case LGV_PICKLE_SET: put_list(l, v, "{}", deep); break;
    case LGV_PICKLE_DICT: put_format(l, v->count ? "{...}" : "{}"); break;
    case LGV_PICKLE_PERSISTENT: put_format(l, "(a storage)"); break;
    case LGV_PICKLE_GLOBAL:
        put(l, v->item[0]->text, v->item[0]->size);
        put(l, ".", 1);
        put(l, v->item[1]->text, v->item[1]->size);
        break;
    case LGV_PICKLE_OBJECT:
        if (deep) put_value(l, v->item[LGV_PICKLE_CALLABLE], 0);
        if (deep) put_value(l, v->item[LGV_PICKLE_ARGUMENTS], deep - 1);
        if (!deep) put_format(l, "(an object)");
        break;
    }
}

void lgv_pickle_show(const lgv_pickle_value *v, char *out, size_t size)
{
    line l = {out, size, 0};
    put_value(&l, v, 2);
}
