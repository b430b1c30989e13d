/* inject.c - see inject.h. What is defined here stands before libc's functions of the same name for the program
   and for all shared libraries it loads. */
#define _GNU_SOURCE
#include "inject.h"

#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define PUBLIC __attribute__((visibility("default")))

static atomic_bool armed, then;
static atomic_int what, with;
static atomic_uint_fast64_t calls, at;
static atomic_int_fast64_t live;

void inject_begin(inject_kind kind, uint64_t nth, bool onwards, int code)
{
    atomic_store(&what, (int)kind);
    atomic_store(&with, code);
    atomic_store(&calls, 0);
    atomic_store(&at, nth);
    atomic_store(&then, onwards);
    atomic_store(&armed, true);
}

uint64_t inject_end(void)
{
    atomic_store(&armed, false);
    return atomic_load(&calls);
}

int64_t inject_live(void)
{
    return atomic_load(&live);
}

/* Counts a call; true when it must fail. */
static bool fails(void)
{
    uint_fast64_t n = atomic_fetch_add(&calls, 1) + 1, nth = atomic_load(&at);
    return nth && (n == nth || (n > nth && atomic_load(&then)));
}

/* ---- memory ---- */

void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *p, size_t size);
void *__libc_memalign(size_t align, size_t size);
void __libc_free(void *p);
#define real_malloc  __libc_malloc
#define real_calloc  __libc_calloc
#define real_realloc __libc_realloc
#define real_free    __libc_free
static int real_posix_memalign(void **out, size_t align, size_t size)
{
    void *p = __libc_memalign(align, size);
    if (!p) return ENOMEM;
    *out = p;
    return 0;
}

static bool memory_fails(void)
{
    if (!atomic_load(&armed) || atomic_load(&what) != INJECT_MEMORY || !fails()) return false;
    errno = ENOMEM;
    return true;
}

/* jansson 2.14 goes on when the buffer of the text it reads, 16 bytes that double, cannot grow: characters are lost, and
   what they closed is then looked for beyond the end. Nobody outside can see that, so these allocations do not fail. */
static bool is_text_of_jansson(size_t size, const void *caller)
{
    Dl_info in;
    return size >= 32 && !(size & (size - 1)) && dladdr(caller, &in) && in.dli_fname &&
           strstr(in.dli_fname, "libjansson");
}

static void *counted(void *p)
{
    if (p) atomic_fetch_add(&live, 1);
    return p;
}

PUBLIC void *malloc(size_t size)
{
    bool exempt = atomic_load(&armed) && is_text_of_jansson(size, __builtin_return_address(0));
    return !exempt && memory_fails() ? NULL : counted(real_malloc(size));
}

PUBLIC void *calloc(size_t count, size_t size)
{
    return memory_fails() ? NULL : counted(real_calloc(count, size));
}

PUBLIC void *realloc(void *p, size_t size)
{
    if (memory_fails()) return NULL;
    void *q = real_realloc(p, size);
    return p ? q : counted(q);
}

PUBLIC int posix_memalign(void **out, size_t align, size_t size)
{
    if (memory_fails()) return ENOMEM;
    int code = real_posix_memalign(out, align, size);
    if (!code) counted(*out);
    return code;
}

PUBLIC void *aligned_alloc(size_t align, size_t size)
{
    void *p = NULL;
    return posix_memalign(&p, align, size) ? NULL : p;
}

PUBLIC void free(void *p)
{
    if (p) atomic_fetch_sub(&live, 1);
    real_free(p);
}

/* ---- files ---- */

static bool file_fails(bool changes)
{
    if (!atomic_load(&armed)) return false;
    int kind = atomic_load(&what);
    if (kind == INJECT_MEMORY || (kind == INJECT_WRITES && !changes) || !fails()) return false;
    errno = atomic_load(&with);
    return true;
}

PUBLIC void *mmap(void *where, size_t size, int protection, int flags, int fd, off_t offset)
{
    if (flags & MAP_ANONYMOUS ? memory_fails() : file_fails(false)) return MAP_FAILED;
    return (void *)syscall(SYS_mmap, where, size, protection, flags, fd, offset);
}

static int open_at(int folder, const char *path, int flags, mode_t mode)
{
    if (file_fails(flags & (O_WRONLY | O_RDWR | O_CREAT))) return -1;
    return (int)syscall(SYS_openat, folder, path, flags, mode);
}

#define MODE(flags, mode)                                                                          \
    mode_t mode = 0;                                                                               \
    if (flags & O_CREAT) {                                                                         \
        va_list args;                                                                              \
        va_start(args, flags);                                                                     \
        mode = va_arg(args, mode_t);                                                               \
        va_end(args);                                                                              \
    }

PUBLIC int open(const char *path, int flags, ...)
{
    MODE(flags, mode)
    return open_at(AT_FDCWD, path, flags, mode);
}

PUBLIC int openat(int folder, const char *path, int flags, ...)
{
    MODE(flags, mode)
    return open_at(folder, path, flags, mode);
}

PUBLIC DIR *opendir(const char *path)
{
    int fd = open_at(AT_FDCWD, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
    if (fd < 0) return NULL;
    DIR *dir = fdopendir(fd);
    if (!dir) close(fd);
    return dir;
}

PUBLIC ssize_t read(int fd, void *data, size_t size)
{
    return file_fails(false) ? -1 : syscall(SYS_read, fd, data, size);
}
PUBLIC ssize_t write(int fd, const void *data, size_t size)
{
    return file_fails(true) ? -1 : syscall(SYS_write, fd, data, size);
}
PUBLIC ssize_t pread(int fd, void *data, size_t size, off_t offset)
{
    return file_fails(false) ? -1 : syscall(SYS_pread64, fd, data, size, offset);
}
PUBLIC ssize_t pwrite(int fd, const void *data, size_t size, off_t offset)
{
    return file_fails(true) ? -1 : syscall(SYS_pwrite64, fd, data, size, offset);
}
PUBLIC int fsync(int fd)
{
    return file_fails(true)
               ? -1
               : 0; /* only a power cut would tell the difference, and disks are slow */
}
PUBLIC int ftruncate(int fd, off_t size)
{
    return file_fails(true) ? -1 : (int)syscall(SYS_ftruncate, fd, size);
}
PUBLIC int mkdir(const char *path, mode_t mode)
{
    return file_fails(true) ? -1 : (int)syscall(SYS_mkdirat, AT_FDCWD, path, mode);
}
int rename(const char *from, const char *to);
int renameat2(int a, const char *from, int b, const char *to, unsigned flags);

PUBLIC int rename(const char *from, const char *to)
{
    return file_fails(true) ? -1 : (int)syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
}
PUBLIC int renameat2(int a, const char *from, int b, const char *to, unsigned flags)
{
    return file_fails(true) ? -1 : (int)syscall(SYS_renameat2, a, from, b, to, flags);
}

/* ---- clocks ---- */

static atomic_bool wild;

void inject_wild_clock(bool on)
{
    atomic_store(&wild, on);
}

PUBLIC int clock_gettime(clockid_t clock, struct timespec *out)
{
    static atomic_uint looks;
    int code = (int)syscall(SYS_clock_gettime, clock, out);
    if (!code && clock == CLOCK_REALTIME && atomic_load(&wild))
        out->tv_sec += (long)(atomic_fetch_add(&looks, 1) * 7919u % 48) * 3600L - 24 * 3600L;
    return code;
}

PUBLIC time_t time(time_t *out)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (out) *out = now.tv_sec;
    return now.tv_sec;
}
