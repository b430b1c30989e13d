/* custom.h - operators of one's own: a record with shapes, gradient, cost and CPU kernel, handed to a graph like any
   other node. It is planned, placed, differentiated, profiled and checked as the operators of ops.h are; only
   fusion, recomputation and in-place results pass it by, and under mixed precision it stays float32.
   examples/custom_op.c shows one. */
#ifndef LANGEVIN_CUSTOM_H
#define LANGEVIN_CUSTOM_H

#include <stddef.h>

#include "graph.h"
#include "plan.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { LGV_CUSTOM_INPUTS = 8, LGV_CUSTOM_OUTPUTS = 6 }; /* most of each */

/* Element type and shape of a value: LGV_F32 or LGV_I32; dim is 1 beyond the rank. */
typedef struct lgv_type {
    lgv_dtype dtype;
    int rank;
    int64_t dim[LGV_MAX_RANK];
} lgv_type;

/* What a gradient is made from. Values are of graph g; arrays are valid during the call. */
typedef struct lgv_custom_node {
    const void *attr;
    int n_in, n_out;
    const lgv_id *in, *out;
} lgv_custom_node;

/* What a kernel gets. Every operand is dense, the last dimension fastest, and does not overlap another. */
typedef struct lgv_custom_call {
    const void *attr;
    int n_in, n_out;
    const lgv_type *in_type, *out_type; /* [n_in], [n_out] */
    const void *const *in;              /* float (double in run_f64), or int32_t for LGV_I32 */
    void *const *out;                   /* the same */
    void *internal;                     /* for lgv_custom_parallel */
} lgv_custom_call;

typedef struct lgv_custom_op {
    const char *name; /* "swish_gate": in node names, errors, `lgv_graph_text`, profiles */
    int n_in, n_out;  /* 0 .. LGV_CUSTOM_INPUTS, 1 .. LGV_CUSTOM_OUTPUTS; all inputs are given */
    size_t
        attr_size; /* bytes of attributes, copied into the graph by lgv_custom; no pointers that die before it */
    /* Checks in[n_in] and fills out[n_out] (comes in as zeros). On a mistake writes a sentence to err->text
       (never NULL here; the graph puts name and node in front) and returns a status other than LGV_OK. */
    lgv_status (*infer)(const lgv_type *in, const void *attr, lgv_type *out, lgv_error *err);
    /* Emits nodes into g, with the builders of ops.h or lgv_custom: din[i] (comes in as LGV_NONE, which is zero)
       becomes the gradient of input i, of its shape. dout[k] is that of output k, LGV_NONE for zero; at least one
       is there. What nobody needs is dropped afterwards. NULL: no_grad says why there is no gradient. */
    void (*grad)(lgv_graph *g, const lgv_custom_node *node, const lgv_id *dout, lgv_id *din);
    const char *no_grad;
    /* Floating-point operations of one run; NULL: one per element of the outputs. */
    double (*flops)(const lgv_type *in, const lgv_type *out, const void *attr);
    /* Writes every element of every output. May not allocate, fail or wait; whatever it writes may depend on its
       operands and attributes only (not on the number of threads), or results are no longer reproducible. Memory
       to work in: make it one more output. */
    void (*run)(const lgv_custom_call *c);
    /* The same in double for device "cpu:f64", on which gradients are checked to 1e-6; NULL: the operator cannot run
       there. */
    void (*run_f64)(const lgv_custom_call *c);
} lgv_custom_op;

/* Adds a node and returns its first output (lgv_output_of gives the others); LGV_NONE after an error, which sticks to
   the graph. op is borrowed until the last graph and plan with such a node is freed: make it static const. attr
   points to op->attr_size bytes, NULL when that is 0. */
LGV_API lgv_id lgv_custom(lgv_graph *g, const lgv_custom_op *op, const lgv_id *in,
                          const void *attr);

/* For kernels: calls fn(arg, block) for block 0 .. blocks-1 on the device's threads, in any order, and returns when
   all are done. */
LGV_API void lgv_custom_parallel(const lgv_custom_call *c, int64_t blocks,
                                 void (*fn)(void *arg, int64_t block), void *arg);

/* Builds a part of a graph: makes its inputs with lgv_input and returns the value to differentiate. */
typedef lgv_id (*lgv_build)(lgv_graph *g, void *user);

/* Compares the gradients that lgv_graph_grad emits with central differences, for every float input that a
   gradient reaches (of a large one, about 60 elements). Works with any operators. *error becomes the largest
   |emitted - measured| / max(1, max |measured|): below 1e-6 on device "cpu:f64"; on the float32 devices
   differences themselves are good to about 1e-3.
   Inputs are filled from their names: "p_..." uniform in [0.5,1.5), integers 0, 1 or 2, others normal. LGV_ERR_ARGUMENT
   when no gradient reaches any input, or when the graph has parameters (make them inputs). */
LGV_API lgv_status lgv_gradient_check(lgv_device *device, lgv_build build, void *user,
                                      double *error, lgv_error *err);

#ifdef __cplusplus
}
#endif
#endif
