/* ops.c - prints docs/ops.md: every operator, from its record and the kernel tables of the CPU.
   The tables are read as they were linked, not asked of a device, so that the page does not depend on
   the machine that prints it. */
#include <stdio.h>
#include <string.h>

#include "cpu/isa.h"
#include "plan/backend.h"

#define LGV_DECLARE(family, level) extern const lgv_kernel_list lgv_kernels_##family##_##level;

#define LGV_FAMILY(name) LGV_DECLARE(name, scalar) LGV_DECLARE(name, f64)
#include "cpu/families.def"
#undef LGV_FAMILY
#define LGV_FAMILY(name) &lgv_kernels_##name##_scalar,
static const lgv_kernel_list *const scalar_lists[] = {
#include "cpu/families.def"
    NULL};
#undef LGV_FAMILY
#define LGV_FAMILY(name) &lgv_kernels_##name##_f64,
static const lgv_kernel_list *const f64_lists[] = {
#include "cpu/families.def"
    NULL};
#undef LGV_FAMILY

#if defined(LGV_HAVE_AVX2) && defined(LGV_HAVE_AVX512) && defined(LGV_HAVE_AMX)
#define LGV_FAMILY(name) LGV_DECLARE(name, avx2) LGV_DECLARE(name, avx512)
#include "cpu/families.def"
#undef LGV_FAMILY
#define LGV_FAMILY(name) &lgv_kernels_##name##_avx2,
static const lgv_kernel_list *const avx2_lists[] = {
#include "cpu/families.def"
    NULL};
#undef LGV_FAMILY
#define LGV_FAMILY(name) &lgv_kernels_##name##_avx512,
static const lgv_kernel_list *const avx512_lists[] = {
#include "cpu/families.def"
    NULL};
#undef LGV_FAMILY
#define LGV_FAMILY(name) LGV_DECLARE(name, amx)
#include "cpu/amx/families.def"
#undef LGV_FAMILY
static const lgv_kernel_list *const amx_lists[] = {
#define LGV_FAMILY(name) &lgv_kernels_##name##_amx,
#include "cpu/amx/families.def"
#undef LGV_FAMILY
#define LGV_FAMILY(name) &lgv_kernels_##name##_avx512,
#include "cpu/families.def"
#undef LGV_FAMILY
    NULL};
#endif

static const struct {
    const char *name;
    const lgv_kernel_list *const *lists;
} levels[] = {
    {"scalar", scalar_lists}, {"f64", f64_lists},
#if defined(LGV_HAVE_AVX2) && defined(LGV_HAVE_AVX512) && defined(LGV_HAVE_AMX)
    {"avx2", avx2_lists},     {"avx512", avx512_lists}, {"amx", amx_lists},
#endif
};
enum { LEVELS = sizeof levels / sizeof *levels, MAX_KERNELS = 16 };

static const struct {
    const char *name, *family;
} ops[] = {
#define LGV_OP(name, family) {#name, #family},
#include "graph/ops.def"
#undef LGV_OP
};

/* Text of a table cell: a bar would end the cell, two stars would make the text between them slanted. */
static void print_text(const char *s)
{
    for (; *s; s++) {
        if (*s == '|' || *s == '*') putchar('\\');
        putchar(*s);
    }
}

static void print_shape(const lgv_value *v)
{
    char text[96];
    printf("%s", lgv_shape_text(v, text));
}

/* The first example as "x[2,3,5], s[2] -> [2,3,5]". */
static void print_example(const lgv_op *r)
{
    lgv_graph *g = r->n_examples ? lgv_graph_new() : NULL;
    lgv_id y = g ? r->examples[0].build(g) : LGV_NONE;
    if (y == LGV_NONE) {
        putchar('-');
        lgv_graph_free(g);
        return;
    }
    const lgv_node *n = lgv_node_of(g, y);
    int first = 1;
    for (int k = 0; k < n->n_in; k++) {
        if (n->in[k] < 0) continue;
        const lgv_node *from = lgv_node_of(g, n->in[k]);
        const char *name = from->op == LGV_OP_input ? ((const lgv_attr_input *)from->attr)->name
                                                    : lgv_op_record(from->op)->name;
        printf("%s%s", first ? "" : ", ", strncmp(name, "p_", 2) ? name : name + 2);
        print_shape(lgv_val(g, n->in[k]));
        first = 0;
    }
    printf(first ? "→ " : " → ");
    for (int k = 0; k < n->n_out; k++) {
        if (n->out[k] < 0) continue;
        printf("%s", k ? ", " : "");
        print_shape(lgv_val(g, n->out[k]));
    }
    lgv_graph_free(g);
}

static void print_inputs(const lgv_op *r)
{
    printf(r->min_in == r->max_in ? "%d" : "%d to %d", r->min_in, r->max_in);
}

static void print_gradient(const lgv_op *r)
{
    if (!r->grad) {
        printf("no: ");
        print_text(r->no_grad ? r->no_grad : "no reason given");
        return;
    }
    printf("yes");
    if (!r->const_inputs) return;
    printf(", not to input");
    for (int k = 0, first = 1; k < LGV_MAX_INPUTS; k++) {
        if (!(r->const_inputs >> k & 1)) continue;
        printf("%s %d", first ? "" : " and", k);
        first = 0;
    }
}

/* The kernels of one level, in the order in which a plan tries them. */
static int level_kernels(lgv_opcode op, int level, const char *name[MAX_KERNELS])
{
    int n = 0;
    for (const lgv_kernel_list *const *l = levels[level].lists; *l; l++)
        for (int k = 0; k < (*l)->count && n < MAX_KERNELS; k++)
            if ((*l)->kernel[k].op == op) name[n++] = (*l)->kernel[k].name;
    return n;
}

static int same_names(const char *const *a, int n, const char *const *b, int m)
{
    if (n != m) return 0;
    for (int i = 0; i < n; i++)
        if (strcmp(a[i], b[i])) return 0;
    return 1;
}

static void print_kernels(lgv_opcode op)
{
    const char *name[LEVELS][MAX_KERNELS];
    int count[LEVELS], equal = 1;
    for (int l = 0; l < LEVELS; l++) {
        count[l] = level_kernels(op, l, name[l]);
        equal &= same_names(name[l], count[l], name[0], count[0]);
    }
    for (int l = 0; l < (equal ? 1 : LEVELS); l++) {
        if (!equal) printf("%s%s:", l ? "; " : "", levels[l].name);
        for (int k = 0; k < count[l]; k++) printf("%s%s", k ? ", " : equal ? "" : " ", name[l][k]);
        if (!count[l]) printf("%s", equal ? "-" : " none");
    }
}

int main(void)
{
    printf("# Operators\n\n"
           "Generated by `tools/docs/ops.c` from the records in `src/op` and the kernel tables in\n"
           "`src/cpu/kernels`. Do not edit; after a change run\n\n"
           "    make && build/docs_ops > docs/ops.md\n\n"
           "Inputs: how many a node has; absent ones in between are allowed. Example: the first of "
           "the\n"
           "record's examples, from which the tests of `tests/test_ops.c` are made. Kernels: in "
           "the order\n"
           "in which a plan tries them, the first that accepts a node wins; the same at every "
           "level (scalar,\n"
           "f64, AVX2, AVX-512) unless levels are named. An operator without kernels is a leaf.\n");
    const char *family = "";
    for (int op = 0; op < LGV_OPS; op++) {
        const lgv_op *r = lgv_op_record((lgv_opcode)op);
        if (strcmp(family, ops[op].family)) {
            family = ops[op].family;
            printf("\n## %s\n\n| operator | computes | inputs | example | gradient | kernels |\n"
                   "|---|---|---|---|---|---|\n",
                   family);
        }
        printf("| `%s` | ", r->name);
        print_text(r->doc);
        printf(" | ");
        print_inputs(r);
        printf(" | ");
        print_example(r);
        printf(" | ");
        print_gradient(r);
        printf(" | ");
        print_kernels((lgv_opcode)op);
        printf(" |\n");
    }
    return 0;
}
