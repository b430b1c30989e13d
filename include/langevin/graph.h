/* graph.h - a computation described once: typed nodes with shapes, and gradients as more nodes.
   A graph is built with the functions of ops.h, planned for a device (plan.h) and run many times.
   Building never fails half-way: the first mistake makes the graph's error "sticky", later calls
   return LGV_NONE, and lgv_graph_status tells what happened. A graph is used by one thread at a time.

   Shapes. Activations are [N,H,W,C] (N rows of the batch, C fastest), per-row vectors [N,C], per-row
   scalars [N]. Weights have PyTorch's layout: convolution [out,in,kh,kw], linear [out,in]. */
#ifndef LANGEVIN_GRAPH_H
#define LANGEVIN_GRAPH_H

#include <stdint.h>

#include "dtype.h"
#include "status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct lgv_graph lgv_graph;
typedef int32_t lgv_id; /* a value of one graph: one output of one node */
enum { LGV_NONE = -1, LGV_MAX_RANK = 4 };

/* NULL when out of memory. */
LGV_API lgv_graph *lgv_graph_new(void);
LGV_API void lgv_graph_free(lgv_graph *g);
/* The sticky error of building, LGV_OK when there is none. */
LGV_API lgv_status lgv_graph_status(const lgv_graph *g, lgv_error *err);

/* Names of nodes are made from the scopes open when they are built: "down_blocks.0.resnets.1.conv1".
   push takes a printf format. Parameters are named by scope + own name. */
LGV_API void lgv_graph_push(lgv_graph *g, const char *fmt, ...) LGV_PRINTF(2, 3);
LGV_API void lgv_graph_pop(lgv_graph *g);
/* The open scope path joined with name ("" for none); valid until the next call on g. */
LGV_API const char *lgv_graph_path(lgv_graph *g, const char *name);

/* Nodes built between begin and end form one block that recomputation may treat as a unit. */
LGV_API void lgv_graph_block_begin(lgv_graph *g);
LGV_API void lgv_graph_block_end(lgv_graph *g);

/* Leaves. An input is written by the host before each run; name is unique within the graph. */
LGV_API lgv_id lgv_input(lgv_graph *g, const char *name, lgv_dtype dtype, int rank,
                         const int64_t *dim);
/* A buffer of the store, `name` joined to the open scope. Asking twice for one name gives one value. */
LGV_API lgv_id lgv_param(lgv_graph *g, const char *name, int rank, const int64_t *dim);
/* The same, but never trained (it lies behind the trained ones in every set). */
LGV_API lgv_id lgv_param_frozen(lgv_graph *g, const char *name, int rank, const int64_t *dim);

/* Keeps a value readable by the host after a run, under a unique name. */
LGV_API void lgv_graph_output(lgv_graph *g, lgv_id value, const char *name);
/* Notes that `value` is what module `path` returns; an instrumented plan makes all of these outputs. */
LGV_API void lgv_graph_module(lgv_graph *g, lgv_id value, const char *path);
LGV_API int lgv_graph_modules(const lgv_graph *g);
LGV_API lgv_id lgv_graph_module_at(const lgv_graph *g, int i, const char **path);

/* Writes value to buffer `name` of set `set` of the store, in program order. With the plan option
   accumulate_grads, assignments to the set "grad" add to what is there. */
LGV_API void lgv_assign(lgv_graph *g, const char *set, const char *name, lgv_id value);

/* Emits the backward pass: grads[i] becomes the gradient with respect to wrt[i] of
   sum_k <seed_k, seed_grad_k>; seed_grads NULL means ones (for one-element seeds). A value nothing
   depends on gets LGV_NONE. May be called several times, for any values. */
LGV_API lgv_status lgv_graph_grad(lgv_graph *g, int n_seeds, const lgv_id *seeds,
                                  const lgv_id *seed_grads, int n_wrt, const lgv_id *wrt,
                                  lgv_id *grads, lgv_error *err);

/* The gradient of the one-element value loss for every parameter that is trained, assigned to set `set` under the
   parameter's name. Parameters the loss does not depend on are left out. */
LGV_API lgv_status lgv_graph_grad_params(lgv_graph *g, lgv_id loss, const char *set,
                                         lgv_error *err);

/* Every parameter of the graph, in the order of first use. */
LGV_API int lgv_graph_params(const lgv_graph *g);
LGV_API lgv_id lgv_graph_param_at(const lgv_graph *g, int i, const char **name, int *frozen);

/* Shape of a value: returns its rank and fills dim (LGV_MAX_RANK entries, 1 beyond the rank). */
LGV_API int lgv_shape(const lgv_graph *g, lgv_id value, int64_t *dim);
LGV_API int64_t lgv_elements(const lgv_graph *g, lgv_id value);

/* Floating-point operations of one run (2 per multiply-add). */
LGV_API double lgv_graph_flops(const lgv_graph *g);
/* The graph as text (one line a node) or as Graphviz. Free with lgv_string_free; NULL when out of memory. */
LGV_API char *lgv_graph_text(const lgv_graph *g);
LGV_API char *lgv_graph_dot(const lgv_graph *g);
LGV_API void lgv_string_free(char *s);

#ifdef __cplusplus
}
#endif
#endif
