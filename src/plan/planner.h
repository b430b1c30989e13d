/* planner.h - the inside of a plan: programs as straight lists of calls, and where every value lies.
   Internal to src/plan. */
#ifndef LGV_PLANNER_H
#define LGV_PLANNER_H

#include "store.h"

typedef enum lgv_root_kind {
    LGV_ROOT_ARENA, /* reused memory, lives from its first writer to its last reader */
    LGV_ROOT_IO,    /* inputs and outputs: the plan's own memory */
    LGV_ROOT_STORE, /* a buffer of a set */
    LGV_ROOT_NONE   /* nothing to hold */
} lgv_root_kind;

/* A piece of memory that one or several values lie in. */
typedef struct lgv_root {
    lgv_root_kind kind;
    size_t bytes, offset; /* offset in the arena or the IO block */
    int32_t first, last;  /* nodes between which it is alive */
    int set, buffer;      /* LGV_ROOT_STORE */
    int halo;             /* to be zeroed by node `first` before it writes */
    lgv_id owner;         /* the value whose shape the root has */
    int32_t members;      /* values that lie in it */
} lgv_root;

/* Where a value lies. */
typedef struct lgv_place {
    int32_t root;
    int64_t offset; /* elements from the root's start */
    int64_t stride[LGV_MAX_RANK];
    int halo;
    bool view; /* part of another value's memory */
} lgv_place;

/* A call whose bf16 operands are float copies in the scratch memory (widen.c). */
typedef struct lgv_widened {
    lgv_call call;
    size_t bytes;    /* of the copies */
    char kernel[40]; /* "gemm (via f32)" */
} lgv_widened;

/* One node of a program at run time. */
typedef struct lgv_action {
    lgv_call call;
    const lgv_kernel *kernel; /* NULL: nothing runs (a view) */
    lgv_widened *wide;        /* what the kernel runs on instead of `call`; NULL: `call` itself */
    int32_t node;
    int32_t
        scratch; /* root of workspace, per-run packing and float copies (in this order), -1 none */
    size_t workspace_bytes;
    lgv_store_pack *pack; /* shared packed weights */
    size_t pack_bytes;    /* > 0: packed into the scratch before each run */
    bool zero_halo[LGV_MAX_OUTPUTS];
    int bumps_set; /* set written by assign, -1 none */
    double flops, bytes, seconds;
    int64_t runs;
} lgv_action;

typedef struct lgv_prog {
    char *name;
    lgv_graph *g;     /* after the passes; owned */
    lgv_place *place; /* per value */
    lgv_root *root;
    size_t n_roots, cap_roots;
    lgv_action *action; /* per node */
    size_t arena_bytes;
} lgv_prog;

/* Which packed weights are kept: all, those that their kernels need, none. Needed ones that are not kept lie in the
   arena and are made before each use. */
typedef enum lgv_kept { LGV_KEPT_ALL, LGV_KEPT_NEEDED, LGV_KEPT_NONE } lgv_kept;

struct lgv_plan {
    lgv_store *store;
    lgv_device *device;
    const lgv_kernel *cast; /* between bf16 and float */
    lgv_plan_options options;
    char weights[32];
    char kernel[32];
    int weights_set;
    lgv_prog *prog;
    int n_progs, recomputed;
    lgv_kept kept; /* of packed weights */
    void *io;      /* inputs and outputs */
    size_t io_bytes, arena_bytes;
    uint64_t arena_generation;
    lgv_step step;
    bool profile;
    float *check; /* check mode: room for one value */
};

/* run.c, for tests: where the input or output called name lies. */
lgv_status lgv_plan_tensor(const lgv_plan *plan, const char *name, lgv_tensor *out, lgv_error *err);
/* Of a plan with output "y0" and input "seed": how far output `grad` is from central differences of <y0, seed> in
   `input`, |a-n| / max(1, max|n|) over up to 60 elements (gradient_check.c). */
lgv_status lgv_plan_gradient_error(lgv_plan *plan, const char *input, const char *grad,
                                   double *error, lgv_error *err);

/* plan.c: fills the calls of a program from the places (after the arena or the IO block moved). */
void lgv_plan_bind(lgv_plan *plan);

/* plan.c: the call that the action's kernel runs on; the name it is shown by. */
static inline lgv_call *lgv_action_call(lgv_action *a)
{
    return a->wide ? &a->wide->call : &a->call;
}
static inline const char *lgv_action_kernel(const lgv_action *a)
{
    return a->wide ? a->wide->kernel : a->kernel->name;
}

/* widen.c: calls on float copies of bf16 operands, for kernels that take none. */
bool lgv_has_bf16(const lgv_call *c);
void lgv_widen(const lgv_call *c, lgv_call *wide); /* dense f32 where c has bf16 */
size_t lgv_widened_bytes(const lgv_device *d, const lgv_call *c);
/* wide becomes the widened form of c again, its copies at `copies` (after memory moved). */
void lgv_widened_bind(const lgv_device *d, const lgv_call *c, lgv_widened *wide, void *copies);
void lgv_widened_run(const lgv_kernel *cast, const lgv_call *c, lgv_widened *wide, bool back);

/* place.c: decides views, in-place results, lifetimes and offsets of one program. Kernels must have been chosen
   (action[].kernel, workspace_bytes, pack_bytes). */
lgv_status lgv_place_values(lgv_plan *plan, lgv_prog *p,
                            lgv_error *err); /* roots and strides, before kernels are final */
lgv_status lgv_place_memory(lgv_plan *plan, lgv_prog *p, size_t *io_bytes,
                            lgv_error *err); /* lifetimes, offsets */
/* The tensor of a value as placed; data is set when the plan has memory. */
lgv_tensor lgv_place_tensor(const lgv_plan *plan, const lgv_prog *p, lgv_id v);

#endif
