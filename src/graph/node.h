/* node.h - the inside of a graph: values, nodes, and the record that describes an operator.
   Internal; used by src/graph, src/op, src/plan and, read-only, by devices. */
#ifndef LGV_NODE_H
#define LGV_NODE_H

#include "core/core.h"
#include "langevin/ops.h"

typedef enum lgv_opcode {
#define LGV_OP(name, family) LGV_OP_##name,
#include "ops.def"
#undef LGV_OP
    LGV_OPS
} lgv_opcode;

/* --- Attributes, one struct per operator that has any (copied into the node) -------------------- */
typedef struct {
    const char *name; /* owned by the graph */
    lgv_dtype dtype;
    int rank;
    int64_t dim[4];
} lgv_attr_input;
typedef struct {
    int32_t param;
} lgv_attr_param; /* index into graph->param */
typedef struct {
    int field;
    int64_t rows;
} lgv_attr_step_row;
typedef struct {
    const char *set, *name;
} lgv_attr_assign; /* strings owned by the graph */
typedef struct {
    double scale, shift;
} lgv_attr_affine;
typedef struct {
    int kind;
} lgv_attr_act; /* lgv_act_kind */
typedef struct {
    lgv_dtype dtype;
} lgv_attr_cast;
typedef struct {
    int64_t dim[4];
    int rank;
} lgv_attr_shape; /* spread_rows, spread_hw: the shape to make */
typedef struct {
    int stride, pad[4]; /* top, left, bottom, right */
    int64_t dim[4];     /* grad_x: shape of x; grad_w: shape of w */
    int act;            /* epilogue: activation after bias and row; lgv_act_kind */
} lgv_attr_conv;
typedef struct {
    int act;
} lgv_attr_linear;
typedef struct {
    int groups;
    double eps;
    int act; /* norm_modulate_act: lgv_act_kind */
} lgv_attr_norm;
typedef struct {
    int detach_mean; /* no gradient flows to the mean channels of out */
} lgv_attr_vb;
typedef struct {
    double eps;
} lgv_attr_layer_norm;
typedef struct {
    int patch;
} lgv_attr_patch;
typedef struct {
    int base_h, base_w;
} lgv_attr_positions;
typedef struct {
    int heads;
    double scale;
} lgv_attr_attention;
typedef struct {
    int kind;
    int64_t h, w;
} lgv_attr_resample; /* lgv_resample_kind; resample_grad: of the forward, whose input is h x w */
typedef struct {
    int64_t start, count, channels;
} lgv_attr_slice; /* slice_grad: channels of the whole */
typedef struct {
    int dim, flip;
    double shift;
} lgv_attr_time;
typedef struct {
    int64_t rows;
} lgv_attr_embedding; /* embedding_grad: rows of the table */
typedef struct {
    double p;
    uint32_t stream;
    int rank;
    int64_t dim[4];
} lgv_attr_random;
typedef struct {
    int64_t times;
} lgv_attr_repeat;
typedef struct {
    int64_t rows, channels;
} lgv_attr_guide; /* channels 0: all are guided */
typedef struct {
    int with_ema;
} lgv_attr_adamw;
typedef struct {
    const struct lgv_custom_op *op;
    void *attr; /* op's attr_size bytes, owned by the graph */
} lgv_attr_custom;

/* Inputs of conv2d, linear after fusion: the shared epilogue record
   y = act(x*w + bias[K] + row[N,K]) * gate[N,K] + residual[y's shape]; absent ones are LGV_NONE.
   Builders make X, W, BIAS; the epilogue pass fills the rest when the device's kernel lists them. */
enum {
    LGV_IN_X = 0,
    LGV_IN_W,
    LGV_IN_BIAS,
    LGV_IN_ROW,
    LGV_IN_RESIDUAL,
    LGV_IN_GATE,
    LGV_EPILOGUE_INPUTS
};
/* What a kernel supports, as a mask. STATISTICS: per sample, block and channel (mean, M2) of the output. */
enum {
    LGV_EPI_BIAS = 1,
    LGV_EPI_ROW = 2,
    LGV_EPI_RESIDUAL = 4,
    LGV_EPI_GATE = 8,
    LGV_EPI_ACT = 16,
    LGV_EPI_STATISTICS = 32
};

typedef struct lgv_value {
    int32_t node, out; /* which output of which node */
    lgv_dtype dtype;
    int rank;
    int64_t dim[LGV_MAX_RANK]; /* 1 beyond the rank */
    lgv_id gradient_of;        /* a value that this is (part of) the gradient of, LGV_NONE */
    bool needed;               /* scratch of lgv_graph_compact */
} lgv_value;

enum { LGV_MAX_INPUTS = 8, LGV_MAX_OUTPUTS = 6 };

typedef struct lgv_node {
    lgv_opcode op;
    const char *name; /* owned by the graph */
    int n_in, n_out;
    lgv_id in[LGV_MAX_INPUTS];
    lgv_id out[LGV_MAX_OUTPUTS]; /* LGV_NONE: an output nobody asked the kernel for */
    void *attr;                  /* op's attr_size bytes, owned by the graph; NULL when that is 0 */
    int32_t block;               /* recompute block of the builder, 0 none */
    bool backward;               /* emitted by lgv_graph_grad */
    bool clone;                  /* made by recomputation */
    bool dead;                   /* removed by a pass */
} lgv_node;

typedef struct lgv_param_info {
    const char *name;
    int rank;
    int64_t dim[LGV_MAX_RANK];
    bool frozen;
    lgv_id value;
} lgv_param_info;

typedef struct lgv_named {
    const char *name;
    lgv_id value;
} lgv_named;

struct lgv_graph {
    lgv_node *node;
    size_t n_nodes, cap_nodes; /* in execution order */
    lgv_value *value;
    size_t n_values, cap_values;
    lgv_param_info *param;
    size_t n_params, cap_params;
    lgv_named *output;
    size_t n_outputs, cap_outputs;
    lgv_named *module;
    size_t n_modules, cap_modules;
    void **owned;
    size_t n_owned, cap_owned; /* strings and attributes */
    char scope[512];
    int32_t block, n_blocks;
    bool widen;               /* tests: inputs not called w... are channel slices of wider ones */
    const char *inherit_name; /* during grad: the node whose gradient is being emitted */
    lgv_error error;          /* sticky */
};

/* --- Operator records ---------------------------------------------------------------------------- */
/* Fills what the operator decides about its outputs. in[] are the input values (dtype, dim), NULL for
   absent ones; sets out[k].{dtype,rank,dim} for k < *n_out (*n_out comes in as the record's n_out). Errors are
   sentences without the node's name (the caller puts it in front). */
typedef struct lgv_infer {
    const lgv_value *in[LGV_MAX_INPUTS];
    int n_in;
    const void *attr;
    lgv_value out[LGV_MAX_OUTPUTS];
    int n_out;
} lgv_infer;

/* A small instance for the generated tests: builds inputs with lgv_input and one node of the operator, and
   returns its first output. Inputs are filled from their names: "p_..." uniform in [0.5,1.5), i32 inputs
   integers in [0,3), others normal. Examples stay off kinks and include odd sizes. */
typedef struct lgv_example {
    const char *name;
    lgv_id (*build)(lgv_graph *g);
} lgv_example;

enum {
    LGV_OP_INPLACE0 =
        1, /* output 0 may take the memory of input 0 (same shape and dtype, elementwise) */
    LGV_OP_INPLACE1 = 2, /* or of input 1 */
    LGV_OP_CHEAP = 4,    /* worth recomputing instead of keeping */
    LGV_OP_EFFECT = 8,   /* writes the store: never moved, cloned or removed */
    LGV_OP_LEAF = 16,    /* no kernel runs: input, param */
    LGV_OP_MIXED = 32,   /* bf16_in and bf16_out: each of them may be either type */
    LGV_OP_STEP = 64     /* reads the step block: row n of it for row n of output 0 */
};

typedef struct lgv_op {
    const char *name;
    const char *doc; /* one line: what it computes, with shapes */
    size_t attr_size;
    int min_in, max_in, n_out;
    unsigned flags;
    /* Masks of the inputs and outputs that may be bf16; the others are float32 whatever happens. Unless the
       operator is LGV_OP_MIXED those present are of one type: output 0's, when that may be bf16. */
    unsigned bf16_in, bf16_out;
    lgv_status (*infer)(lgv_infer *c, lgv_error *err);
    /* Emits nodes with builders. dout[k] is the gradient of output k (LGV_NONE: zero); sets din[i] (comes in
       LGV_NONE) to the gradient of input i. need[i] tells which are wanted. */
    void (*grad)(lgv_graph *g, lgv_id node_out0, const lgv_id *dout, const bool *need, lgv_id *din);
    const char *no_grad;   /* why there is no gradient (then grad is NULL) */
    unsigned const_inputs; /* mask of inputs no gradient flows to, by definition of the operator */
    double (*flops)(const lgv_graph *g, const lgv_node *n); /* NULL: one per output element */
    const lgv_example *examples;
    int n_examples;
    double tolerance; /* of a level against the scalar reference, relative to max|y|; 0: 1e-5 */
} lgv_op;

#define LGV_OP(name, family) extern const lgv_op lgv_op_##name;
#include "ops.def"
#undef LGV_OP
const lgv_op *lgv_op_record(lgv_opcode op);
/* The record's name, or that of the user's operator. */
const char *lgv_op_name(lgv_opcode op, const void *attr);

/* --- Building ------------------------------------------------------------------------------------- */
/* Adds a node: checks arity, runs infer, makes the output values. attr is copied. Returns output 0. */
lgv_id lgv_node_new(lgv_graph *g, lgv_opcode op, const char *name, int n_in, const lgv_id *in,
                    const void *attr);
/* Fails the graph with a sentence (the first one sticks); returns LGV_NONE. */
lgv_id lgv_graph_fail(lgv_graph *g, lgv_status status, const char *fmt, ...) LGV_PRINTF(3, 4);
const char *lgv_graph_strdup(lgv_graph *g,
                             const char *s);         /* owned by the graph; NULL fails the graph */
void *lgv_graph_new_attr(lgv_graph *g, size_t size); /* zeroed, likewise */
static inline const lgv_value *lgv_val(const lgv_graph *g, lgv_id v)
{
    return v < 0 ? NULL : &g->value[v];
}
static inline lgv_node *lgv_node_of(const lgv_graph *g, lgv_id v)
{
    return &g->node[g->value[v].node];
}
static inline int64_t lgv_value_elements(const lgv_value *v)
{
    return v->dim[0] * v->dim[1] * v->dim[2] * v->dim[3];
}
/* "[4,32,32,64]" into text. */
const char *lgv_shape_text(const lgv_value *v, char text[96]);

/* Positions between the batch and the channels: H*W for [N,H,W,C], L for [N,L,C], 1 for [N,C]. */
static inline int64_t lgv_positions(const lgv_value *v)
{
    return v->rank < 3 ? 1 : v->rank == 3 ? v->dim[1] : v->dim[1] * v->dim[2];
}
static inline int64_t lgv_channels(const lgv_value *v)
{
    return v->dim[v->rank - 1];
}

/* Floating-point operations of one node. */
double lgv_node_flops(const lgv_graph *g, const lgv_node *n);

/* Helpers for infer. */
bool lgv_same_shape(const lgv_value *a, const lgv_value *b);
void lgv_like(lgv_value *out, const lgv_value *a); /* dtype and shape of a */
void lgv_set_shape(lgv_value *out, lgv_dtype dtype, int rank, int64_t d0, int64_t d1, int64_t d2,
                   int64_t d3);

/* --- Whole-graph operations (src/graph) ------------------------------------------------------------ */
lgv_status lgv_graph_clone(const lgv_graph *g, lgv_graph **out, lgv_error *err);
/* Number of live readers of each value; requested outputs count as one. count: n_values entries. */
void lgv_graph_readers(const lgv_graph *g, int32_t *count);
/* Whether a node strictly between these two may write weights: reads of parameters must not move over it. */
bool lgv_graph_writes_between(const lgv_graph *g, int32_t from, int32_t to);
void lgv_graph_compact(lgv_graph *g); /* drops nodes marked dead or that nothing needs */
/* Passes (passes.c). They change a clone made by the plan. epilogue(op) tells what the device's kernels
   support for this node as a mask of LGV_EPI_*. */
lgv_status lgv_pass_fuse_norm(lgv_graph *g, lgv_error *err);
/* Gradients of slices that together make a whole become one concat, whose inputs need no copies. */
lgv_status lgv_pass_join_slices(lgv_graph *g, lgv_error *err);
lgv_status lgv_pass_fuse_epilogue(lgv_graph *g, unsigned (*epilogue)(void *arg, const lgv_node *n),
                                  void *arg, lgv_error *err);
lgv_status lgv_pass_casts(lgv_graph *g, lgv_error *err);
/* precision.c: activations and their gradients become bf16 where the operators' records allow it. */
lgv_status lgv_pass_mixed_precision(lgv_graph *g, lgv_error *err);
/* Forward nodes that are repeated before their first backward reader instead of keeping their values: cheap ones
   (LGV_OP_CHEAP), then, from level 2 on, whole blocks of the builder, those first that save most bytes per FLOP. */
typedef struct lgv_recompute {
    int level;          /* 0: nothing, 1: cheap nodes, 2: blocks as well */
    double block_share; /* of the graph's arithmetic, that blocks may make up; 1: any */
    int max_units;      /* nodes and blocks at most, < 0: all */
} lgv_recompute;
/* *n_units becomes how many units there are. */
lgv_status lgv_pass_recompute(lgv_graph *g, const lgv_recompute *what, int *n_units, lgv_error *err);

#endif
