/* pickle.c - the stack machine of pickles, as far as it makes values.
   An opcode makes at most one value, and values and items are counted, so memory follows the pickle's length and
   never a length that it claims. */
#include "pickle.h"

#include <string.h>

/* Values allocated together; protocol; items of all collections together, which copies could multiply. */
enum { CHUNK = 512, HIGHEST = 5, MOST_ITEMS = 4 * LGV_PICKLE_VALUES };

typedef lgv_pickle_value value;

struct lgv_pickle {
    value **chunk;
    size_t chunks, chunk_capacity, count;
    value *root;
};

typedef struct machine {
    lgv_pickle *p;
    const char *path;
    const uint8_t *data;
    size_t size, at;
    value **stack;
    size_t depth, stack_capacity;
    size_t *mark; /* stack depths */
    size_t marks, mark_capacity;
    value **memo; /* NULL: nothing there */
    size_t memos, memo_capacity, items;
    value *none, *yes, *no;
    lgv_error *err;
} machine;

/* The constant tells the compiler that this never succeeds. */
static lgv_status wrong(const machine *m, const char *what)
{
    lgv_fail(m->err, LGV_ERR_FORMAT, "%s: the pickle is damaged at byte %zu: %s", m->path, m->at,
             what);
    return LGV_ERR_FORMAT;
}

/* --- Values and stack --- */
static lgv_status make(machine *m, lgv_pickle_kind kind, value **out)
{
    lgv_pickle *p = m->p;
    if (p->count == LGV_PICKLE_VALUES)
        return lgv_fail(m->err, LGV_ERR_UNSUPPORTED, "%s: the pickle has more than %d values",
                        m->path, LGV_PICKLE_VALUES);
    if (p->count == p->chunks * CHUNK) {
        LGV_TRY(lgv_grow(&p->chunk, &p->chunk_capacity, p->chunks + 1, sizeof *p->chunk, m->err));
        p->chunk[p->chunks] = lgv_zalloc(CHUNK, sizeof(value));
        if (!p->chunk[p->chunks])
            return lgv_fail(m->err, LGV_ERR_MEMORY, "%s: out of memory for a pickle", m->path);
        p->chunks++;
    }
    *out = &p->chunk[p->count / CHUNK][p->count % CHUNK];
    (*out)->kind = kind;
    p->count++;
    return LGV_OK;
}

static lgv_status push(machine *m, value *v)
{
    if (m->depth == LGV_PICKLE_VALUES)
        return lgv_fail(m->err, LGV_ERR_UNSUPPORTED,
                        "%s: the pickle's stack has more than %d values", m->path,
                        LGV_PICKLE_VALUES);
    LGV_TRY(lgv_grow(&m->stack, &m->stack_capacity, m->depth + 1, sizeof *m->stack, m->err));
    m->stack[m->depth++] = v;
    return LGV_OK;
}

static lgv_status push_new(machine *m, lgv_pickle_kind kind, value **out)
{
    LGV_TRY(make(m, kind, out));
    return push(m, *out);
}

/* What may be popped: nothing below the last mark. */
static size_t above_mark(const machine *m)
{
    return m->depth - (m->marks ? m->mark[m->marks - 1] : 0);
}

static lgv_status pop(machine *m, value **out)
{
    if (!above_mark(m)) return wrong(m, "an operation finds too few values");
    *out = m->stack[--m->depth];
    return LGV_OK;
}

/* The values above the last mark, which is taken off; they stay valid until the next push. */
static lgv_status pop_mark(machine *m, value ***items, size_t *n)
{
    if (!m->marks) return wrong(m, "a mark is missing");
    size_t base = m->mark[--m->marks];
    *items = m->depth ? m->stack + base : NULL;
    *n = m->depth - base;
    m->depth = base;
    return LGV_OK;
}

static lgv_status add_items(machine *m, value *v, value *const *items, size_t n)
{
    if (n > MOST_ITEMS - m->items)
        return lgv_fail(m->err, LGV_ERR_UNSUPPORTED,
                        "%s: the pickle's lists have more than %d items", m->path, MOST_ITEMS);
    m->items += n;
    if (!v->capacity && n) { /* most collections never grow */
        v->item = lgv_alloc(n, sizeof *v->item);
        if (!v->item)
            return lgv_fail(m->err, LGV_ERR_MEMORY, "%s: out of memory for a pickle", m->path);
        v->capacity = n;
    }
    LGV_TRY(lgv_grow(&v->item, &v->capacity, v->count + n, sizeof *v->item, m->err));
    for (size_t i = 0; i < n; i++) v->item[v->count++] = items[i];
    return LGV_OK;
}

/* --- Bytes --- */
static lgv_status take(machine *m, size_t n, const uint8_t **out)
{
    if (n > m->size - m->at) return wrong(m, "it ends in the middle of a value");
    *out = m->data + m->at;
    m->at += n;
    return LGV_OK;
}

/* An unsigned little-endian number of n <= 8 bytes. */
static lgv_status take_number(machine *m, size_t n, uint64_t *out)
{
    const uint8_t *p;
    LGV_TRY(take(m, n, &p));
    *out = 0;
    for (size_t i = 0; i < n; i++) *out |= (uint64_t)p[i] << 8 * i;
    return LGV_OK;
}

/* kind with `width` bytes of length before it. */
static lgv_status push_text(machine *m, lgv_pickle_kind kind, size_t width)
{
    uint64_t n;
    const uint8_t *p;
    value *v;
    LGV_TRY(take_number(m, width, &n));
    if (n > m->size - m->at) return wrong(m, "a text is longer than the file");
    LGV_TRY(take(m, (size_t)n, &p));
    LGV_TRY(push_new(m, kind, &v));
    v->text = (const char *)p;
    v->size = (size_t)n;
    return LGV_OK;
}

static lgv_status push_integer(machine *m, lgv_pickle_kind kind, int64_t integer)
{
    value *v;
    LGV_TRY(push_new(m, kind, &v));
    v->integer = integer;
    return LGV_OK;
}

static lgv_status push_float(machine *m)
{
    const uint8_t *p;
    value *v;
    uint64_t bits = 0;
    LGV_TRY(take(m, 8, &p));
    for (int i = 0; i < 8; i++) bits = bits << 8 | p[i];
    LGV_TRY(push_new(m, LGV_PICKLE_FLOAT, &v));
    memcpy(&v->number, &bits, 8);
    return LGV_OK;
}

/* Two's complement of any length. */
static lgv_status push_long(machine *m, size_t width)
{
    LGV_TRY(push_text(m, LGV_PICKLE_LONG, width));
    value *v = m->stack[m->depth - 1];
    if (v->size > 8) return LGV_OK;
    uint64_t bits = 0;
    const uint8_t *p = (const uint8_t *)v->text;
    for (size_t i = 0; i < 8; i++) {
        uint64_t byte = i < v->size ? p[i] : v->size && p[v->size - 1] & 0x80 ? 0xff : 0;
        bits |= byte << 8 * i;
    }
    v->kind = LGV_PICKLE_INT;
    v->size = 0;
    memcpy(&v->integer, &bits, 8);
    return LGV_OK;
}

static lgv_status take_line(machine *m, value **out)
{
    const uint8_t *p = m->data + m->at, *end = memchr(p, '\n', m->size - m->at);
    if (!end) return wrong(m, "a name does not end");
    LGV_TRY(make(m, LGV_PICKLE_TEXT, out));
    (*out)->text = (const char *)p;
    (*out)->size = (size_t)(end - p);
    m->at += (*out)->size + 1;
    return LGV_OK;
}

/* --- Collections --- */
static lgv_status push_collection(machine *m, lgv_pickle_kind kind, value *const *items, size_t n)
{
    value *v;
    LGV_TRY(make(m, kind, &v));
    LGV_TRY(add_items(m, v, items, n)); /* before the push: items may lie in the stack above */
    return push(m, v);
}

static lgv_status marked_collection(machine *m, lgv_pickle_kind kind)
{
    value **items;
    size_t n;
    LGV_TRY(pop_mark(m, &items, &n));
    if (kind == LGV_PICKLE_DICT && n % 2) return wrong(m, "a key has no value");
    return push_collection(m, kind, items, n);
}

static lgv_status small_tuple(machine *m, size_t n)
{
    if (above_mark(m) < n) return wrong(m, "an operation finds too few values");
    m->depth -= n;
    return push_collection(m, LGV_PICKLE_TUPLE, m->stack + m->depth, n);
}

/* What is added to an object's list half is not kept; its dict half is, behind the state. */
static lgv_status add_to_top(machine *m, value *const *items, size_t n, bool pairs)
{
    if (!above_mark(m)) return wrong(m, "an operation finds too few values");
    value *v = m->stack[m->depth - 1];
    if (pairs && n % 2) return wrong(m, "a key has no value");
    if (v->kind == LGV_PICKLE_OBJECT) return pairs ? add_items(m, v, items, n) : LGV_OK;
    bool fits = pairs ? v->kind == LGV_PICKLE_DICT
                      : v->kind == LGV_PICKLE_LIST || v->kind == LGV_PICKLE_SET;
    return fits ? add_items(m, v, items, n)
                : wrong(m, "something that is no collection is added to");
}

static lgv_status add_marked(machine *m, bool pairs)
{
    value **items;
    size_t n;
    LGV_TRY(pop_mark(m, &items, &n));
    return add_to_top(m, items, n, pairs);
}

static lgv_status add_few(machine *m, size_t n, bool pairs)
{
    if (above_mark(m) < n) return wrong(m, "an operation finds too few values");
    m->depth -= n;
    return add_to_top(m, m->stack + m->depth, n, pairs);
}

/* --- Names, and what would be calls --- */
static lgv_status push_global(machine *m, value *module, value *name)
{
    if (module->kind != LGV_PICKLE_TEXT || name->kind != LGV_PICKLE_TEXT)
        return wrong(m, "a class is named by something that is no text");
    return push_collection(m, LGV_PICKLE_GLOBAL, (value *[]){module, name}, 2);
}

static bool is_dict_class(const value *v)
{
    return lgv_pickle_is_global(v, "collections", "OrderedDict") ||
           lgv_pickle_is_global(v, "collections", "defaultdict") ||
           lgv_pickle_is_global(v, "__builtin__", "dict") ||
           lgv_pickle_is_global(v, "builtins", "dict");
}

static bool is_set_class(const value *v)
{
    return lgv_pickle_is_global(v, "__builtin__", "set") ||
           lgv_pickle_is_global(v, "builtins", "set") ||
           lgv_pickle_is_global(v, "__builtin__", "frozenset") ||
           lgv_pickle_is_global(v, "builtins", "frozenset");
}

/* The few classes that are collections become what they are; all else stays a name with arguments. */
static lgv_status push_object(machine *m, value *callable, value *arguments)
{
    if (arguments->kind != LGV_PICKLE_TUPLE) return wrong(m, "arguments are no tuple");
    const value *first = arguments->count ? arguments->item[0] : NULL;
    if (is_set_class(callable) && first && first->kind == LGV_PICKLE_LIST)
        return push_collection(m, LGV_PICKLE_SET, first->item, first->count);
    if (is_dict_class(callable)) {
        if (!first || first->kind != LGV_PICKLE_DICT)
            return push_collection(m, LGV_PICKLE_DICT, NULL, 0);
        return push_collection(m, LGV_PICKLE_DICT, first->item, first->count);
    }
    return push_collection(m, LGV_PICKLE_OBJECT, (value *[]){callable, arguments, m->none}, 3);
}

static lgv_status call(machine *m)
{
    value *arguments, *callable;
    LGV_TRY(pop(m, &arguments));
    LGV_TRY(pop(m, &callable));
    return push_object(m, callable, arguments);
}

static lgv_status build(machine *m)
{
    value *state;
    LGV_TRY(pop(m, &state));
    if (!above_mark(m)) return wrong(m, "an operation finds too few values");
    value *v = m->stack[m->depth - 1];
    if (v->kind == LGV_PICKLE_OBJECT) v->item[LGV_PICKLE_STATE] = state;
    return LGV_OK; /* attributes of dictionaries (_metadata) mean nothing here */
}

/* --- Memo --- */
/* Picklers number memos in order, so an index beyond the values made is no pickler's. */
static lgv_status remember(machine *m, uint64_t index)
{
    if (!above_mark(m)) return wrong(m, "an operation finds too few values");
    if (index > m->p->count) return wrong(m, "a memo's number makes no sense");
    size_t need = (size_t)index + 1;
    LGV_TRY(lgv_grow(&m->memo, &m->memo_capacity, need, sizeof *m->memo, m->err));
    while (m->memos < need) m->memo[m->memos++] = NULL;
    m->memo[index] = m->stack[m->depth - 1];
    return LGV_OK;
}

static lgv_status recall(machine *m, uint64_t index)
{
    if (index >= m->memos || !m->memo[index]) return wrong(m, "a memo is used before it is there");
    return push(m, m->memo[index]);
}

static lgv_status put(machine *m, size_t width)
{
    uint64_t index;
    LGV_TRY(take_number(m, width, &index));
    return remember(m, index);
}

static lgv_status get(machine *m, size_t width)
{
    uint64_t index;
    LGV_TRY(take_number(m, width, &index));
    return recall(m, index);
}

/* --- The opcodes --- */
static lgv_status small_int(machine *m, size_t width)
{
    uint64_t n;
    LGV_TRY(take_number(m, width, &n));
    return push_integer(m, LGV_PICKLE_INT, width == 4 ? (int64_t)(int32_t)(uint32_t)n : (int64_t)n);
}

static lgv_status protocol(machine *m)
{
    uint64_t n;
    LGV_TRY(take_number(m, 1, &n));
    if (n <= HIGHEST) return LGV_OK;
    return lgv_fail(m->err, LGV_ERR_UNSUPPORTED, "%s: pickle protocol %d, up to %d is read",
                    m->path, (int)n, HIGHEST);
}

static lgv_status global(machine *m)
{
    value *module, *name;
    LGV_TRY(take_line(m, &module));
    LGV_TRY(take_line(m, &name));
    return push_global(m, module, name);
}

static lgv_status stack_global(machine *m)
{
    value *module, *name;
    LGV_TRY(pop(m, &name));
    LGV_TRY(pop(m, &module));
    return push_global(m, module, name);
}

static lgv_status persistent(machine *m)
{
    value *id;
    LGV_TRY(pop(m, &id));
    return push_collection(m, LGV_PICKLE_PERSISTENT, &id, 1);
}

static lgv_status new_with_keywords(machine *m)
{
    value *keywords;
    LGV_TRY(pop(m, &keywords));
    return call(m);
}

static lgv_status drop(machine *m)
{
    value *v;
    if (above_mark(m) || !m->marks) return pop(m, &v);
    m->marks--;
    return LGV_OK;
}

static lgv_status drop_marked(machine *m)
{
    value **items;
    size_t n;
    return pop_mark(m, &items, &n);
}

static lgv_status duplicate(machine *m)
{
    if (!above_mark(m)) return wrong(m, "an operation finds too few values");
    return push(m, m->stack[m->depth - 1]);
}

static lgv_status set_mark(machine *m)
{
    LGV_TRY(lgv_grow(&m->mark, &m->mark_capacity, m->marks + 1, sizeof *m->mark, m->err));
    m->mark[m->marks++] = m->depth;
    return LGV_OK;
}

static lgv_status frame(machine *m)
{
    uint64_t length;
    return take_number(m, 8, &length); /* only for buffering */
}

static lgv_status unknown(machine *m, uint8_t opcode)
{
    return lgv_fail(
        m->err, LGV_ERR_UNSUPPORTED,
        "%s: the pickle has the opcode 0x%02x at byte %zu, which torch.save does not write",
        m->path, opcode, m->at - 1);
}

static lgv_status step(machine *m, uint8_t opcode)
{
    switch (opcode) {
    case 0x80: return protocol(m);
    case 0x95: return frame(m);
    case '(': return set_mark(m);
    case '0': return drop(m);
    case '1': return drop_marked(m);
    case '2': return duplicate(m);
    case 'N': return push(m, m->none);
    case 0x88: return push(m, m->yes);
    case 0x89: return push(m, m->no);
    case 'J': return small_int(m, 4);
    case 'K': return small_int(m, 1);
    case 'M': return small_int(m, 2);
    case 0x8a: return push_long(m, 1);
    case 0x8b: return push_long(m, 4);
    case 'G': return push_float(m);
    case 'X': return push_text(m, LGV_PICKLE_TEXT, 4);
    case 0x8c: return push_text(m, LGV_PICKLE_TEXT, 1);
    case 0x8d: return push_text(m, LGV_PICKLE_TEXT, 8);
    case 'T': return push_text(m, LGV_PICKLE_TEXT, 4); /* Python 2's str */
    case 'U': return push_text(m, LGV_PICKLE_TEXT, 1);
    case 'B': return push_text(m, LGV_PICKLE_BINARY, 4);
    case 'C': return push_text(m, LGV_PICKLE_BINARY, 1);
    case 0x8e: return push_text(m, LGV_PICKLE_BINARY, 8);
    case 0x96: return push_text(m, LGV_PICKLE_BINARY, 8);
    case ')': return push_collection(m, LGV_PICKLE_TUPLE, NULL, 0);
    case ']': return push_collection(m, LGV_PICKLE_LIST, NULL, 0);
    case '}': return push_collection(m, LGV_PICKLE_DICT, NULL, 0);
    case 0x8f: return push_collection(m, LGV_PICKLE_SET, NULL, 0);
    case 't': return marked_collection(m, LGV_PICKLE_TUPLE);
    case 'l': return marked_collection(m, LGV_PICKLE_LIST);
    case 'd': return marked_collection(m, LGV_PICKLE_DICT);
    case 0x91: return marked_collection(m, LGV_PICKLE_SET);
    case 0x85: return small_tuple(m, 1);
    case 0x86: return small_tuple(m, 2);
    case 0x87: return small_tuple(m, 3);
    case 'a': return add_few(m, 1, false);
    case 's': return add_few(m, 2, true);
    case 'e': return add_marked(m, false);
    case 0x90: return add_marked(m, false);
    case 'u': return add_marked(m, true);
    case 'c': return global(m);
    case 0x93: return stack_global(m);
    case 'Q': return persistent(m);
    case 'R': return call(m);
    case 0x81: return call(m);
    case 0x92: return new_with_keywords(m);
    case 'b': return build(m);
    case 'q': return put(m, 1);
    case 'r': return put(m, 4);
    case 0x94: return remember(m, m->memos);
    case 'h': return get(m, 1);
    case 'j': return get(m, 4);
    default: return unknown(m, opcode);
    }
}

static lgv_status run(machine *m)
{
    LGV_TRY(make(m, LGV_PICKLE_NONE, &m->none));
    LGV_TRY(make(m, LGV_PICKLE_BOOL, &m->yes));
    LGV_TRY(make(m, LGV_PICKLE_BOOL, &m->no));
    m->yes->integer = 1;
    for (;;) {
        const uint8_t *opcode;
        LGV_TRY(take(m, 1, &opcode));
        if (*opcode == '.') return pop(m, &m->p->root);
        LGV_TRY(step(m, *opcode));
    }
}

lgv_status lgv_pickle_read(const uint8_t *data, size_t size, const char *path, lgv_pickle **out,
                           size_t *end, lgv_error *err)
{
    machine m = {.path = path, .data = data, .size = size, .err = err};
    bool cut = size > LGV_PICKLE_BYTES;
    if (cut) m.size = LGV_PICKLE_BYTES;
    m.p = lgv_zalloc(1, sizeof *m.p);
    if (!m.p) return lgv_fail(err, LGV_ERR_MEMORY, "%s: out of memory for a pickle", path);
    lgv_status status = run(&m);
    if (status == LGV_ERR_FORMAT && cut && m.at + 16 > m.size)
        status = lgv_fail(err, LGV_ERR_UNSUPPORTED, "%s: the pickle is longer than %d MiB", path,
                          LGV_PICKLE_BYTES >> 20);
    lgv_free(m.stack);
    lgv_free(m.mark);
    lgv_free(m.memo);
    if (status) {
        lgv_pickle_free(m.p);
        return status;
    }
    if (end) *end = m.at;
    *out = m.p;
    return LGV_OK;
}

void lgv_pickle_free(lgv_pickle *p)
{
    if (!p) return;
    for (size_t i = 0; i < p->count; i++) lgv_free(p->chunk[i / CHUNK][i % CHUNK].item);
    for (size_t i = 0; i < p->chunks; i++) lgv_free(p->chunk[i]);
    lgv_free(p->chunk);
    lgv_free(p);
}

const value *lgv_pickle_root(const lgv_pickle *p)
{
    return p->root;
}

size_t lgv_pickle_count(const lgv_pickle *p)
{
    return p->count;
}

const value *lgv_pickle_at(const lgv_pickle *p, size_t i)
{
    return &p->chunk[i / CHUNK][i % CHUNK];
}

bool lgv_pickle_is_text(const value *v, const char *text)
{
    return v->kind == LGV_PICKLE_TEXT && v->size == strlen(text) && !memcmp(v->text, text, v->size);
}

bool lgv_pickle_is_global(const value *v, const char *module, const char *name)
{
    return v->kind == LGV_PICKLE_GLOBAL && lgv_pickle_is_text(v->item[0], module) &&
           lgv_pickle_is_text(v->item[1], name);
}
