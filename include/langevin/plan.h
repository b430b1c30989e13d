/* plan.h - devices, the store, and plans: where a graph gets its kernels and every byte its place.
   After planning nothing is allocated and addresses are fixed. */
#ifndef LANGEVIN_PLAN_H
#define LANGEVIN_PLAN_H

#include <stddef.h>
#include <stdint.h>

#include "graph.h"
#include "step.h"

#ifdef __cplusplus
extern "C" {
#endif

/* --- Devices ---------------------------------------------------------------------------------- */
typedef struct lgv_device lgv_device;

/* spec: "cpu" (the best level here), "cpu:scalar", "cpu:avx2", "cpu:avx512", "cpu:amx" (avx512, and
   bf16 on AMX tiles), "cpu:f64" (double, for gradient checks); NULL is "cpu". The environment variable LANGEVIN_CPU=LEVEL lowers the level of
   "cpu". threads 0: min(physical cores, affinity, cgroup quota). */
LGV_API lgv_status lgv_device_new(const char *spec, int threads, lgv_device **out, lgv_error *err);
LGV_API void lgv_device_free(lgv_device *device);              /* after its stores and plans */
LGV_API const char *lgv_device_name(const lgv_device *device); /* "cpu:avx2" */
LGV_API int lgv_device_threads(const lgv_device *device);
/* What the machine does at best with the device's level and threads, measured in a fraction of a second. */
typedef struct lgv_peaks {
    double flops;        /* multiply-adds on registers, operations a second */
    double matrix_flops; /* the same of bf16 on matrix units; 0: none */
    double bytes;        /* a long stream read and written, bytes of both a second */
} lgv_peaks;
LGV_API lgv_status lgv_device_peaks(lgv_device *device, lgv_peaks *out, lgv_error *err);
/* Whether level "scalar", "avx2", "avx512" or "amx" can be used: this machine's processor has it, this build too. */
LGV_API int lgv_cpu_has(const char *level);

/* --- Store ------------------------------------------------------------------------------------- */
/* Named buffers in sets ("weight", "grad", "exp_avg", "exp_avg_sq", "ema"): each set is one contiguous
   allocation with the same order, offsets and zero padding. Hosts see PyTorch's layouts, f32. */
typedef struct lgv_store lgv_store;

LGV_API lgv_status lgv_store_new(lgv_device *device, lgv_store **out, lgv_error *err);
/* A store without memory: plans over it are made as over any other and tell what they would take
   (lgv_plan_describe, lgv_plan_node_at), but neither they nor the store hold numbers. Running,
   writing and reading are LGV_ERR_ARGUMENT. */
LGV_API lgv_status lgv_store_new_dry(lgv_device *device, lgv_store **out, lgv_error *err);
LGV_API void lgv_store_free(lgv_store *store); /* after its plans */
/* Declares every parameter of the graph not yet known (an equal name must have an equal shape).
   Only before the first set exists. */
LGV_API lgv_status lgv_store_declare(lgv_store *store, const lgv_graph *g, lgv_error *err);
/* Makes a set (zeros) unless it exists. */
LGV_API lgv_status lgv_store_add_set(lgv_store *store, const char *set, lgv_error *err);
/* Makes a set that lies in the caller's memory and is only read: data[i] holds buffer i, dense f32 at any multiple of
   4 bytes, and stays there until the store calls release(owner). Nothing is copied, so a mapped file costs what is
   read of it. Writing to the set, by the host or by a program, is LGV_ERR_ARGUMENT, and so is a set that exists. On a
   device that keeps f32 values otherwise (cpu:f64) LGV_ERR_UNSUPPORTED. After an error owner is still the caller's. */
LGV_API lgv_status lgv_store_map_set(lgv_store *store, const char *set, const float *const *data,
                                     void *owner, void (*release)(void *owner), lgv_error *err);
LGV_API int lgv_store_has_set(const lgv_store *store, const char *set);
LGV_API int lgv_store_count(const lgv_store *store);
/* Name, shape (LGV_MAX_RANK entries), rank and whether frozen of buffer i. */
LGV_API const char *lgv_store_at(const lgv_store *store, int i, int *rank, int64_t *dim,
                                 int *frozen);
LGV_API int lgv_store_find(const lgv_store *store, const char *name); /* -1 when unknown */
/* count is the number of elements, checked. Writing makes packed copies of the set stale. */
LGV_API lgv_status lgv_store_write(lgv_store *store, const char *set, int i, const float *data,
                                   int64_t count, lgv_error *err);
LGV_API lgv_status lgv_store_read(const lgv_store *store, const char *set, int i, float *data,
                                  int64_t count, lgv_error *err);
LGV_API lgv_status lgv_store_zero(lgv_store *store, const char *set, lgv_error *err);
LGV_API lgv_status lgv_store_copy(lgv_store *store, const char *from, const char *to,
                                  lgv_error *err);
LGV_API size_t lgv_store_bytes(const lgv_store *store); /* sets, packed copies and the arena */
/* Updates that lgv_adamw skipped because the gradient norm was not finite. */
LGV_API int64_t lgv_store_skipped(const lgv_store *store);
LGV_API int64_t
lgv_store_parameters(const lgv_store *store); /* elements of one set, frozen included */

/* --- Plans ------------------------------------------------------------------------------------- */
typedef struct lgv_plan lgv_plan;

typedef struct lgv_program {
    const char *name;       /* "forward_backward", "update" */
    const lgv_graph *graph; /* not needed after planning */
} lgv_program;

typedef struct lgv_plan_options {
    const char *weights;                 /* the set parameters are read from; NULL: "weight" */
    int accumulate_grads;                /* assignments to "grad" add to what is there */
    lgv_mixed_precision mixed_precision; /* of activations and their gradients */
    int no_fusion;                       /* fusion off */
    /* 0: as memory_budget demands; without a budget, for plans whose activations take more than 2 GiB, all cheap ops
       (normalisation, activation, dropout, ...) and the blocks that free most memory for their arithmetic, up to 3 % of
       all. 1: all cheap ops; 2: whole blocks too. */
    int recompute;
    /* Bytes that the arena and the packed weights this plan adds should stay below; 0: none. First packed copies
       that only save time are left out, then the others are made anew for each node instead of kept, then as
       little as possible is recomputed. */
    size_t memory_budget;
    int check; /* no reuse of memory, poisoned buffers; a run reports the first node that made a NaN or infinity */
    int instrument; /* every module's value becomes an output named by its path (lgv_graph_module) */
    const char *kernel; /* forces kernels of this name where they accept (tests) */
} lgv_plan_options;

LGV_API lgv_status lgv_plan_new(lgv_store *store, int n_programs, const lgv_program *programs,
                                const lgv_plan_options *options, lgv_plan **out, lgv_error *err);
LGV_API void lgv_plan_free(lgv_plan *plan);

/* The step block; fill it before a run. */
LGV_API lgv_step *lgv_plan_step(lgv_plan *plan);

/* Host access to inputs and outputs by name, dense, in the graph's own layout (activations NHWC). Inputs and
   outputs have memory of their own: they keep their values over runs of this and other plans (everything
   else shares the store's arena with the other plans). The _nchw forms transpose [N,H,W,C] values, and give
   [N,L,C] values as they are. An input of two programs is written in both. */
LGV_API lgv_status lgv_plan_write(lgv_plan *plan, const char *input, const float *data,
                                  int64_t count, lgv_error *err);
LGV_API lgv_status lgv_plan_write_i32(lgv_plan *plan, const char *input, const int32_t *data,
                                      int64_t count, lgv_error *err);
LGV_API lgv_status lgv_plan_write_nchw(lgv_plan *plan, const char *input, const float *data,
                                       int64_t count, lgv_error *err);
LGV_API lgv_status lgv_plan_read(lgv_plan *plan, const char *output, float *data, int64_t count,
                                 lgv_error *err);
LGV_API lgv_status lgv_plan_read_nchw(lgv_plan *plan, const char *output, float *data,
                                      int64_t count, lgv_error *err);

/* Runs a program (NULL: the only one). */
LGV_API lgv_status lgv_plan_run(lgv_plan *plan, const char *program, lgv_error *err);

LGV_API int lgv_plan_outputs(const lgv_plan *plan);
/* Name, rank and shape of output i over all programs. */
LGV_API const char *lgv_plan_output_at(const lgv_plan *plan, int i, int *rank, int64_t *dim);

typedef struct lgv_plan_info {
    size_t arena_bytes;     /* activations and workspaces (shared by the store's plans) */
    size_t io_bytes;        /* inputs and outputs */
    size_t weight_bytes;    /* all sets of the store */
    size_t packed_bytes;    /* packed copies of weights that the store's plans keep */
    size_t workspace_bytes; /* the largest workspace of a node, part of arena_bytes */
    double flops;           /* of one run of every program */
    int nodes, recomputed;
} lgv_plan_info;
LGV_API void lgv_plan_describe(const lgv_plan *plan, lgv_plan_info *info);

/* Per node: the kernel chosen and, after lgv_plan_profile(plan, 1) and a run, its time. */
typedef struct lgv_node_info {
    const char *program, *name, *op, *kernel; /* borrowed from the plan */
    int rank;
    int64_t dim[LGV_MAX_RANK]; /* of the first output */
    lgv_dtype dtype;           /* of the first input (of the output without inputs) */
    double flops, bytes;       /* bytes read and written at least once */
    double seconds;            /* total over profiled runs */
    int64_t runs;
} lgv_node_info;
LGV_API int lgv_plan_nodes(const lgv_plan *plan);
LGV_API void lgv_plan_node_at(const lgv_plan *plan, int i, lgv_node_info *info);
LGV_API void lgv_plan_profile(lgv_plan *plan, int on); /* on resets the times */

/* A digest of every kernel choice and shape: equal digests, level and micro-batch mean equal bits. Hex, 16 digits. */
LGV_API void lgv_plan_digest(const lgv_plan *plan, char digest[17]);

#ifdef __cplusplus
}
#endif
#endif
