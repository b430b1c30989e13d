/* isa.c - instruction sets by cpuid and xgetbv.
   A level counts only when the operating system saves its registers too: cpuid alone says what the chip
   could do. */
#include <stdint.h>
#include <string.h>

#include "isa.h"
#include "langevin/plan.h"

static const char *const level_names[LGV_LEVELS] = {"scalar", "avx2", "avx512",
                                                    "amx",    "f64",  "amx-emulated"};

int lgv_level_find(const char *name)
{
    for (int i = 0; name && i < LGV_LEVELS; i++)
        if (!strcmp(name, level_names[i])) return i;
    return -1;
}

const char *lgv_level_name(lgv_level level)
{
    return level_names[level];
}

#if defined(__x86_64__)
#include <cpuid.h>
#ifdef __linux__
#include <sys/syscall.h>
#include <unistd.h>
#endif

static uint64_t saved_state(void)
{
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t)high << 32 | low;
}

static bool all(uint32_t bits, uint32_t wanted)
{
    return (bits & wanted) == wanted;
}

/* Linux saves the tile registers only for processes that asked (arch_prctl(2)); asking again is harmless. */
static bool tiles_permitted(void)
{
#ifdef __linux__
    enum { REQ_XCOMP_PERM = 0x1023, XTILEDATA = 18 };
    return syscall(SYS_arch_prctl, REQ_XCOMP_PERM, XTILEDATA) == 0;
#else
    return false;
#endif
}

bool lgv_level_runs(lgv_level level)
{
    if (level == LGV_SCALAR || level == LGV_F64_LEVEL) return true;
    uint32_t a, b, c, d, a7, b7, c7, d7;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !__get_cpuid_count(7, 0, &a7, &b7, &c7, &d7))
        return false;
    const uint32_t fma = 1u << 12, osxsave = 1u << 27, avx = 1u << 28,
                   f16c = 1u << 29; /* leaf 1, ecx */
    if (!all(c, fma | osxsave | avx | f16c)) return false;
    uint64_t state = saved_state();
    bool avx2 = all(b7, 1u << 5) && (state & 0x6) == 0x6;
    if (level == LGV_AVX2 || level == LGV_AMX_EMULATED || !avx2) return avx2;
    const uint32_t f = 1u << 16, dq = 1u << 17, bw = 1u << 30, vl = 1u << 31; /* leaf 7, ebx */
    bool avx512 = all(b7, f | dq | bw | vl) && (state & 0xe6) == 0xe6;
    if (level == LGV_AVX512 || !avx512) return avx512;
    const uint32_t amx_bf16 = 1u << 22, amx_tile = 1u << 24; /* leaf 7, edx */
    const uint32_t avx512_bf16 = 1u << 5;                    /* leaf 7.1, eax */
    if (!__get_cpuid_count(7, 1, &a, &b, &c, &d) || !all(a, avx512_bf16)) return false;
    return all(d7, amx_bf16 | amx_tile) && (state & 0x60000) == 0x60000 && tiles_permitted();
}
#else
bool lgv_level_runs(lgv_level level)
{
    return level == LGV_SCALAR || level == LGV_F64_LEVEL;
}
#endif

bool lgv_level_built(lgv_level level)
{
    switch (level) {
    case LGV_SCALAR:
    case LGV_F64_LEVEL: return true;
#ifdef LGV_HAVE_AVX2
    case LGV_AVX2: return true;
#endif
#ifdef LGV_HAVE_AVX512
    case LGV_AVX512: return true;
#endif
#ifdef LGV_HAVE_AMX
    case LGV_AMX: return true;
#endif
#ifdef LGV_HAVE_AMX_EMULATED
    case LGV_AMX_EMULATED: return true;
#endif
    default: return false;
    }
}

int lgv_cpu_has(const char *level)
{
    int found = lgv_level_find(level);
    return found >= 0 && lgv_level_built((lgv_level)found) && lgv_level_runs((lgv_level)found);
}
