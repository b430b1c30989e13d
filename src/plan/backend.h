/* backend.h - the interface between plans and devices.
   A device gives memory and, per operator, an ordered list of kernels: the first that accepts a node wins
   at plan time, the last is the plain one. A kernel's run neither allocates nor waits for the host. */
#ifndef LGV_BACKEND_H
#define LGV_BACKEND_H

#include "core/pool.h"
#include "graph/node.h"
#include "langevin/plan.h"

/* Memory is placed and measured in lines of so many bytes. */
enum { LGV_ALIGN = 64 };
static inline size_t lgv_round_up(size_t bytes)
{
    return (bytes + LGV_ALIGN - 1) / LGV_ALIGN * LGV_ALIGN;
}

/* What a kernel sees of a value. Strides are in elements; the last dimension's is 1 (store buffers and values of
   rank 1 are dense). A channel slice of a wider buffer, or the inside of a haloed one, has larger strides. */
typedef struct lgv_tensor {
    void *data; /* NULL: absent */
    lgv_dtype dtype;
    int rank;
    int64_t dim[LGV_MAX_RANK], stride[LGV_MAX_RANK]; /* dim 1, stride 0 beyond the rank */
    int halo; /* rows and columns of zeros around H and W that may be read (rank 4 only) */
} lgv_tensor;

/* A packed copy of input LGV_IN_W that a kernel wants: made once per version of the weights when W is a
   parameter, before each run of the node otherwise. kind names the layout; copies are shared by kind and geometry. */
typedef struct lgv_pack {
    const char *kind;
    size_t bytes;
} lgv_pack;

/* The trained ranges that adamw works on. */
typedef struct lgv_range {
    void *weight, *grad, *exp_avg, *exp_avg_sq, *ema; /* ema NULL without */
    int64_t count;
    bool clears;      /* gradients become zeros, since the next ones are added to them */
    int64_t *skipped; /* counter in the store */
} lgv_range;

struct lgv_kernel;

/* One node of a program, with everything resolved. */
typedef struct lgv_call {
    lgv_opcode op;
    const char *name; /* of the node */
    const void *attr;
    int n_in, n_out;
    lgv_tensor in[LGV_MAX_INPUTS];
    lgv_tensor out[LGV_MAX_OUTPUTS];
    bool accumulate; /* add to output 0 (weight gradients into the store) */
    int threads;
    void *workspace;    /* what workspace() asked for, 64-byte aligned */
    const void *packed; /* what pack() described; workspace() may ask whether there will be one */
    void *state;        /* what prepare() made */
    const lgv_step *step;
    lgv_pool *pool;
    lgv_range range; /* adamw only */
} lgv_call;

typedef struct lgv_kernel {
    lgv_opcode op;
    const char *name; /* "gemm", "direct", "plain" */
    bool (*accepts)(
        const lgv_call
            *c);       /* NULL: always. Data pointers are not set yet (non-NULL where present) */
    unsigned epilogue; /* LGV_EPI_* it can do (conv2d, linear) */
    int (*halo)(const lgv_call *c, int input); /* halo it would like around an input; NULL: 0 */
    bool accumulates;                          /* honours call.accumulate */
    /* Takes bf16 operands (those that accepts says). Others are asked only about calls without any: where no
       kernel takes a call's bf16 operands, the plan runs one on float copies. */
    bool bf16;
    lgv_pack (*pack)(const lgv_call *c);               /* NULL: none */
    void (*run_pack)(const lgv_call *c, void *packed); /* in[LGV_IN_W] holds the weights */
    bool pack_optional; /* run() does without (call.packed NULL): the copy is kept or not made */
    size_t (*workspace)(const lgv_call *c); /* NULL: 0. May use c->threads */
    lgv_status (*prepare)(const lgv_call *c, void **state, lgv_error *err);
    void (*run)(const lgv_call *c);
    void (*destroy)(void *state);
} lgv_kernel;

typedef struct lgv_kernel_list {
    const lgv_kernel *kernel;
    int count;
} lgv_kernel_list;

/* A device. Memory is zeroed and 64-byte aligned (huge pages where large). */
struct lgv_device {
    char name[32];
    int threads;
    lgv_pool *pool;
    size_t (*element_size)(const lgv_device *d, lgv_dtype dtype);
    void *(*alloc)(lgv_device *d, size_t bytes);
    void (*free)(lgv_device *d, void *p);
    /* n elements between host f32 (i32) and device memory. */
    void (*write)(lgv_device *d, lgv_dtype dtype, void *to, const void *from, int64_t n);
    void (*read)(lgv_device *d, lgv_dtype dtype, void *to, const void *from, int64_t n);
    /* The i-th kernel that this device would try for op, NULL after the last. */
    const lgv_kernel *(*kernel)(const lgv_device *d, lgv_opcode op, int i);
    lgv_status (*peaks)(lgv_device *d, lgv_peaks *out, lgv_error *err);
    void (*destroy)(lgv_device *d);
};

/* --- For kernels ----------------------------------------------------------------------------------- */
static inline void lgv_parallel(const lgv_call *c, int64_t blocks,
                                void (*fn)(void *arg, int64_t block, int thread), void *arg)
{
    lgv_pool_run(c->pool, blocks, fn, arg);
}

static inline int64_t lgv_tensor_elements(const lgv_tensor *t)
{
    return t->dim[0] * t->dim[1] * t->dim[2] * t->dim[3];
}
static inline bool lgv_tensor_dense(const lgv_tensor *t)
{
    int64_t n = 1;
    for (int i = t->rank - 1; i >= 0; i--) {
        if (t->dim[i] != 1 && t->stride[i] != n) return false;
        n *= t->dim[i];
    }
    return true;
}
/* Normal form of an activation: n, h, w, c with strides (element units), for rank 1 ([N]: c = 1), 2, 3 and 4. */
typedef struct lgv_nhwc {
    int64_t n, h, w, c, sn, sh, sw;
} lgv_nhwc;
static inline lgv_nhwc lgv_as_nhwc(const lgv_tensor *t)
{
    lgv_nhwc a = {t->dim[0], 1, 1, 1, t->stride[0], 0, 0};
    if (t->rank == 2) {
        a.c = t->dim[1];
    }
    if (t->rank == 3) {
        a.w = t->dim[1];
        a.sw = t->stride[1];
        a.c = t->dim[2];
    }
    if (t->rank == 4) {
        a.h = t->dim[1];
        a.sh = t->stride[1];
        a.w = t->dim[2];
        a.sw = t->stride[2];
        a.c = t->dim[3];
    }
    return a;
}
/* True when all pixels of t (its n*h*w of them) are a fixed distance *ld apart, so that t is a matrix [n*h*w, c]. */
static inline bool lgv_as_matrix(const lgv_tensor *t, int64_t *rows, int64_t *ld)
{
    lgv_nhwc a = lgv_as_nhwc(t);
    int64_t step = a.w > 1 ? a.sw : a.h > 1 ? a.sh : a.n > 1 ? a.sn : a.c;
    if (a.h > 1 && a.w > 1 && a.sh != a.w * step) return false;
    if (a.n > 1 && a.sn != a.w * a.h * step) return false;
    *rows = a.n * a.h * a.w;
    *ld = step;
    return true;
}

#endif
