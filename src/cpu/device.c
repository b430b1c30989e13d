/* device.c - the CPU device: memory, threads, and the kernel tables of its level.
   An operator's list is the own level's kernels, then those of the scalar level, so that a family may
   leave out at a level what it cannot do better there. f64 has a list of its own (its elements are
   doubles). amx has kernels for bf16 alone, in front of all that avx512 has. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cpu.h"
#include "isa.h"

#define LGV_DECLARE(family, level) extern const lgv_kernel_list lgv_kernels_##family##_##level;
#define LGV_FAMILY(name)           LGV_DECLARE(name, scalar) LGV_DECLARE(name, f64)
#include "families.def"
#undef LGV_FAMILY
static const lgv_kernel_list *const scalar_lists[] = {
#define LGV_FAMILY(name) &lgv_kernels_##name##_scalar,
#include "families.def"
#undef LGV_FAMILY
    NULL};
static const lgv_kernel_list *const f64_lists[] = {
#define LGV_FAMILY(name) &lgv_kernels_##name##_f64,
#include "families.def"
#undef LGV_FAMILY
    NULL};
#ifdef LGV_HAVE_AVX2
#define LGV_FAMILY(name) LGV_DECLARE(name, avx2)
#include "families.def"
#undef LGV_FAMILY
static const lgv_kernel_list *const avx2_lists[] = {
#define LGV_FAMILY(name) &lgv_kernels_##name##_avx2,
#include "families.def"
#undef LGV_FAMILY
    NULL};
#endif
#ifdef LGV_HAVE_AVX512
#define LGV_FAMILY(name) LGV_DECLARE(name, avx512)
#include "families.def"
#undef LGV_FAMILY
static const lgv_kernel_list *const avx512_lists[] = {
#define LGV_FAMILY(name) &lgv_kernels_##name##_avx512,
#include "families.def"
#undef LGV_FAMILY
    NULL};
#endif

#ifdef LGV_HAVE_AMX
#define LGV_FAMILY(name) LGV_DECLARE(name, amx) LGV_DECLARE(name, amx_emulated)
#include "amx/families.def"
#undef LGV_FAMILY
static const lgv_kernel_list *const amx_lists[] = {
#define LGV_FAMILY(name) &lgv_kernels_##name##_amx,
#include "amx/families.def"
#undef LGV_FAMILY
    NULL};
static const lgv_kernel_list *const amx_emulated_lists[] = {
#define LGV_FAMILY(name) &lgv_kernels_##name##_amx_emulated,
#include "amx/families.def"
#undef LGV_FAMILY
    NULL};
#endif

enum { MAX_TIERS = 3 };

typedef struct cpu_device {
    lgv_device base; /* first */
    lgv_level level;
    const lgv_kernel_list *const
        *tier[MAX_TIERS]; /* each NULL-terminated, tried in order; NULL: none */
} cpu_device;

extern const lgv_peak_loops lgv_kernels_peak_scalar, lgv_kernels_peak_f64;
#ifdef LGV_HAVE_AVX2
extern const lgv_peak_loops lgv_kernels_peak_avx2;
#endif
#ifdef LGV_HAVE_AVX512
extern const lgv_peak_loops lgv_kernels_peak_avx512;
#endif
#ifdef LGV_HAVE_AMX
extern const lgv_peak_loops lgv_kernels_amx_peak_amx;
#endif

static lgv_status cpu_peaks(lgv_device *d, lgv_peaks *out, lgv_error *err)
{
    const lgv_level level = ((const cpu_device *)d)->level;
    lgv_peak_loops loops = level == LGV_F64_LEVEL ? lgv_kernels_peak_f64 : lgv_kernels_peak_scalar;
#ifdef LGV_HAVE_AVX2
    if (level == LGV_AVX2 || level == LGV_AMX_EMULATED) loops = lgv_kernels_peak_avx2;
#endif
#ifdef LGV_HAVE_AVX512
    if (level == LGV_AVX512 || level == LGV_AMX) loops = lgv_kernels_peak_avx512;
#endif
#ifdef LGV_HAVE_AMX
    if (level == LGV_AMX) {
        loops.matrix = lgv_kernels_amx_peak_amx.matrix;
        loops.matrix_flops = lgv_kernels_amx_peak_amx.matrix_flops;
    }
#endif
    return lgv_cpu_peaks(d, &loops, out, err);
}

static void choose_lists(cpu_device *cpu)
{
    const lgv_kernel_list *const **tier = cpu->tier;
    switch (cpu->level) {
    case LGV_F64_LEVEL: *tier = f64_lists; return;
#ifdef LGV_HAVE_AVX2
    case LGV_AVX2: *tier++ = avx2_lists; break;
#endif
#ifdef LGV_HAVE_AVX512
    case LGV_AVX512: *tier++ = avx512_lists; break;
#endif
#ifdef LGV_HAVE_AMX
    case LGV_AMX:
        *tier++ = amx_lists;
        *tier++ = avx512_lists;
        break;
    case LGV_AMX_EMULATED:
        *tier++ = amx_emulated_lists;
        *tier++ = avx2_lists;
        break;
#endif
    default: break;
    }
    *tier = scalar_lists;
}

/* The i-th kernel for op in lists; *seen counts those passed over. */
static const lgv_kernel *kernel_in(const lgv_kernel_list *const *lists, lgv_opcode op, int i,
                                   int *seen)
{
    for (; lists && *lists; lists++)
        for (int k = 0; k < (*lists)->count; k++)
            if ((*lists)->kernel[k].op == op && (*seen)++ == i) return &(*lists)->kernel[k];
    return NULL;
}

static const lgv_kernel *cpu_kernel(const lgv_device *d, lgv_opcode op, int i)
{
    const cpu_device *cpu = (const cpu_device *)d;
    const lgv_kernel *k = NULL;
    for (int t = 0, seen = 0; t < MAX_TIERS && !k; t++) k = kernel_in(cpu->tier[t], op, i, &seen);
    return k;
}

static size_t cpu_element_size(const lgv_device *d, lgv_dtype dtype)
{
    if (dtype == LGV_F32 && ((const cpu_device *)d)->level == LGV_F64_LEVEL) return sizeof(double);
    return lgv_dtype_size(dtype);
}

static void *cpu_alloc(lgv_device *d, size_t bytes)
{
    (void)d;
    return lgv_block_alloc(bytes);
}

static void cpu_free(lgv_device *d, void *p)
{
    (void)d;
    lgv_block_free(p);
}

static uint16_t to_bf16(float f) /* nearest even; NaN stays NaN */
{
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    if ((u & 0x7fffffff) > 0x7f800000) return (uint16_t)((u >> 16) | 0x40);
    return (uint16_t)((u + 0x7fff + ((u >> 16) & 1)) >> 16);
}

static float from_bf16(uint16_t b)
{
    uint32_t u = (uint32_t)b << 16;
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

static void cpu_write(lgv_device *d, lgv_dtype dtype, void *to, const void *from, int64_t n)
{
    const float *f = from;
    if (dtype == LGV_BF16) {
        for (int64_t i = 0; i < n; i++) ((uint16_t *)to)[i] = to_bf16(f[i]);
    } else if (dtype == LGV_F32 && cpu_element_size(d, dtype) == sizeof(double)) {
        for (int64_t i = 0; i < n; i++) ((double *)to)[i] = (double)f[i];
    } else {
        memcpy(to, from, (size_t)n * lgv_dtype_size(dtype));
    }
}

static void cpu_read(lgv_device *d, lgv_dtype dtype, void *to, const void *from, int64_t n)
{
    float *f = to;
    if (dtype == LGV_BF16) {
        for (int64_t i = 0; i < n; i++) f[i] = from_bf16(((const uint16_t *)from)[i]);
    } else if (dtype == LGV_F32 && cpu_element_size(d, dtype) == sizeof(double)) {
        for (int64_t i = 0; i < n; i++) f[i] = (float)((const double *)from)[i];
    } else {
        memcpy(to, from, (size_t)n * lgv_dtype_size(dtype));
    }
}

static void cpu_destroy(lgv_device *d)
{
    lgv_pool_free(d->pool);
    lgv_free(d);
}

/* The level of "cpu": the best that is built and runs here, lowered by LANGEVIN_CPU. */
static lgv_status best_level(lgv_level *out, lgv_error *err)
{
    const char *cap_name = getenv("LANGEVIN_CPU");
    int cap = LGV_AMX;
    if (cap_name && *cap_name) {
        cap = lgv_level_find(cap_name);
        if (cap < 0 || cap > LGV_AMX)
            return lgv_fail(err, LGV_ERR_ARGUMENT,
                            "environment variable LANGEVIN_CPU is '%.32s'; use scalar, avx2, "
                            "avx512 or amx, or unset it",
                            cap_name);
    }
    int level = cap;
    while (level > LGV_SCALAR &&
           !(lgv_level_built((lgv_level)level) && lgv_level_runs((lgv_level)level)))
        level--;
    *out = (lgv_level)level;
    return LGV_OK;
}

static lgv_status parse_spec(const char *spec, lgv_level *out, lgv_error *err)
{
    if (!spec || !strcmp(spec, "cpu")) return best_level(out, err);
    int level = !strncmp(spec, "cpu:", 4) ? lgv_level_find(spec + 4) : -1;
    if (level < 0)
        return lgv_fail(err, LGV_ERR_ARGUMENT,
                        "device '%.64s' is unknown; use cpu, cpu:scalar, cpu:avx2, cpu:avx512, "
                        "cpu:amx or cpu:f64",
                        spec);
    if (!lgv_level_built((lgv_level)level))
        return lgv_fail(
            err, LGV_ERR_UNSUPPORTED,
            "device '%s': this build has no kernels of that level yet; use cpu for the best it has",
            spec);
    if (!lgv_level_runs((lgv_level)level))
        return lgv_fail(
            err, LGV_ERR_UNSUPPORTED,
            "device '%s': this machine's processor lacks %s; use cpu for the best it has", spec,
            spec + 4);
    *out = (lgv_level)level;
    return LGV_OK;
}

lgv_status lgv_device_new(const char *spec, int threads, lgv_device **out, lgv_error *err)
{
    lgv_level level = LGV_SCALAR;
    LGV_TRY(parse_spec(spec, &level, err));
    if (threads < 0)
        return lgv_fail(err, LGV_ERR_ARGUMENT,
                        "device: %d threads asked for; use 0 for all cores, or at least 1",
                        threads);
    cpu_device *cpu = lgv_zalloc(1, sizeof *cpu);
    if (!cpu)
        return lgv_fail(err, LGV_ERR_MEMORY, "device '%s': out of memory", spec ? spec : "cpu");
    cpu->level = level;
    choose_lists(cpu);
    lgv_device *d = &cpu->base;
    snprintf(d->name, sizeof d->name, "cpu:%s", lgv_level_name(level));
    d->threads = threads ? threads : lgv_default_threads();
    d->element_size = cpu_element_size;
    d->alloc = cpu_alloc;
    d->free = cpu_free;
    d->write = cpu_write;
    d->read = cpu_read;
    d->kernel = cpu_kernel;
    d->peaks = cpu_peaks;
    d->destroy = cpu_destroy;
    lgv_status status = lgv_pool_new(d->threads, &d->pool, err);
    if (status) {
        lgv_free(cpu);
        return status;
    }
    *out = d;
    return LGV_OK;
}

void lgv_device_free(lgv_device *device)
{
    if (device) device->destroy(device);
}

lgv_status lgv_device_peaks(lgv_device *device, lgv_peaks *out, lgv_error *err)
{
    return device->peaks(device, out, err);
}

const char *lgv_device_name(const lgv_device *device)
{
    return device->name;
}
int lgv_device_threads(const lgv_device *device)
{
    return device->threads;
}
