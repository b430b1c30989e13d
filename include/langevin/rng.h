/* rng.h - the two random generators of Langevin.
   Philox 4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011) is a pure
   function of a key and a counter: any number can be had without drawing those before it, so threads,
   micro-batches and recomputation cannot change a result.
   lgv_torch_rng is PyTorch's CPU generator (MT19937), draw for draw. */
#ifndef LANGEVIN_RNG_H
#define LANGEVIN_RNG_H

#include <stdint.h>

#include "status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What names a random number, besides its element index. */
typedef struct lgv_rng_key {
    uint64_t seed;
    uint32_t stream; /* which random thing: a hash of module path and use */
    uint64_t sample; /* global sample index in the effective batch (< 2^40) */
    uint64_t
        step; /* optimizer or sampler step (< 2^24 in the packed counter; higher bits are hashed into the key) */
} lgv_rng_key;

/* The stream id of a name such as "down_blocks.0.resnets.1.dropout". */
LGV_API uint32_t lgv_rng_stream(const char *name);

/* Elements first .. first+n-1 of the key's sequence. Uniform in [0,1) with 24 bits; normal by
   Box-Muller from 24-bit uniforms with the library's own log and sincos, bit-identical on every machine. */
LGV_API void lgv_rng_uniform(const lgv_rng_key *key, uint64_t first, int64_t n, float *out);
LGV_API void lgv_rng_normal(const lgv_rng_key *key, uint64_t first, int64_t n, float *out);
LGV_API uint32_t lgv_rng_u32(const lgv_rng_key *key, uint64_t index);
/* Uniform integer in [0, bound), bound >= 1, without bias beyond 2^-64 (64-bit multiply-shift). */
LGV_API uint64_t lgv_rng_below(const lgv_rng_key *key, uint64_t index, uint64_t bound);

/* PyTorch's CPU generator. Value type: copy it to save its state. */
typedef struct lgv_torch_rng {
    uint32_t mt[624];
    int32_t left; /* draws left before the next regeneration, as PyTorch counts them */
    int32_t next; /* index of the next word */
    uint64_t seed;
    int32_t has_cached; /* a second double normal waits; used by normal draws of fewer than 16 */
    double cached;
} lgv_torch_rng;

LGV_API void lgv_torch_seed(lgv_torch_rng *rng, uint64_t seed); /* torch.manual_seed */
LGV_API uint32_t lgv_torch_u32(lgv_torch_rng *rng);
LGV_API uint64_t lgv_torch_u64(lgv_torch_rng *rng); /* (first u32) << 32 | second */
LGV_API void lgv_torch_rand(lgv_torch_rng *rng, int64_t n,
                            float *out); /* torch.rand(n), bit for bit */
LGV_API void lgv_torch_uniform(lgv_torch_rng *rng, int64_t n, float low, float high,
                               float *out); /* Tensor.uniform_ */
LGV_API void lgv_torch_randn(lgv_torch_rng *rng, int64_t n,
                             float *out); /* torch.randn(n), to 2 ulp */
LGV_API void lgv_torch_normal(lgv_torch_rng *rng, int64_t n, float mean, float std,
                              float *out); /* Tensor.normal_ */
LGV_API void lgv_torch_randint(lgv_torch_rng *rng, uint64_t bound, int64_t n,
                               int64_t *out); /* torch.randint(0, bound, (n,)) */
LGV_API void lgv_torch_randperm(lgv_torch_rng *rng, int64_t n,
                                int64_t *out); /* torch.randperm(n) */
/* One epoch of DataLoader(shuffle=True, num_workers=0) over n items: draws the base seed and the sampler's
   seed (64 bits each) from the default generator rng; order[n] is a randperm seeded with the latter. */
LGV_API void lgv_torch_loader_order(lgv_torch_rng *rng, int64_t n, int64_t *order);

#ifdef __cplusplus
}
#endif
#endif
