/* dump.c - a graph as text for people, and as Graphviz. */
#include <stdio.h>
#include <string.h>

#include "node.h"

typedef struct text {
    char *data;
    size_t size, capacity;
    bool failed;
} text;

static void put(text *t, const char *fmt, ...) LGV_PRINTF(2, 3);
static void put(text *t, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    char line[1024];
    int n = vsnprintf(line, sizeof line, fmt, args);
    va_end(args);
    size_t len = n < 0 ? 0 : (size_t)n < sizeof line ? (size_t)n : sizeof line - 1;
    if (t->failed || lgv_grow(&t->data, &t->capacity, t->size + len + 1, 1, NULL)) {
        t->failed = true;
        return;
    }
    memcpy(t->data + t->size, line, len);
    t->size += len;
    t->data[t->size] = 0;
}

static char *finish(text *t)
{
    if (!t->failed) return t->data ? t->data : lgv_strdup("");
    lgv_free(t->data);
    return NULL;
}

char *lgv_graph_text(const lgv_graph *g)
{
    text t = {0};
    for (size_t i = 0; i < g->n_nodes; i++) {
        const lgv_node *n = &g->node[i];
        char shape[96];
        if (n->dead) continue;
        for (int k = 0; k < n->n_out; k++) put(&t, k ? ", %%%d" : "%%%d", n->out[k]);
        put(&t, "%s%s(", n->n_out ? " = " : "", lgv_op_name(n->op, n->attr));
        for (int k = 0; k < n->n_in; k++) {
            if (n->in[k] >= 0)
                put(&t, k ? ", %%%d" : "%%%d", n->in[k]);
            else
                put(&t, k ? ", -" : "-");
        }
        put(&t, ")");
        if (n->n_out && n->out[0] >= 0) put(&t, " %s", lgv_shape_text(&g->value[n->out[0]], shape));
        put(&t, "  # %s%s\n", n->name, n->clone ? " (again)" : n->backward ? " (backward)" : "");
    }
    return finish(&t);
}

char *lgv_graph_dot(const lgv_graph *g)
{
    text t = {0};
    put(&t, "digraph langevin {\n  node [shape=box, fontname=\"sans-serif\", fontsize=10];\n");
    for (size_t i = 0; i < g->n_nodes; i++) {
        const lgv_node *n = &g->node[i];
        char shape[96] = "";
        if (n->dead) continue;
        if (n->n_out && n->out[0] >= 0) lgv_shape_text(&g->value[n->out[0]], shape);
        put(&t, "  n%zu [label=\"%s\\n%s %s\"];\n", i, n->name, lgv_op_name(n->op, n->attr), shape);
        for (int k = 0; k < n->n_in; k++)
            if (n->in[k] >= 0) put(&t, "  n%d -> n%zu;\n", g->value[n->in[k]].node, i);
    }
    put(&t, "}\n");
    return finish(&t);
}

void lgv_string_free(char *s)
{
    lgv_free(s);
}
