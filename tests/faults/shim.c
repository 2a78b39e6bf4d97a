/* Preloaded into a process under test: its reads of experts misbehave as the variable FAULT says, "KIND" or "KIND@N" for
   the Nth read alone: eio, short, stall (a second). nodirect makes open refuse O_DIRECT. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static atomic_long reads;

static int fault(const char* kind) {
    const char* wanted = getenv("FAULT");
    return wanted != NULL && strncmp(wanted, kind, strlen(kind)) == 0;
}

/* Whether this read of an expert is one that shall fail. */
static int struck(int fd) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    const ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    if (strstr(path, "/experts/layer-") == NULL) return 0;
    const char* which = strchr(getenv("FAULT"), '@');
    const long number = atomic_fetch_add(&reads, 1) + 1;
    return which == NULL || atol(which + 1) == number;
}

ssize_t pread(int fd, void* to, size_t bytes, off_t offset) {
    static ssize_t (*real)(int, void*, size_t, off_t);
    if (real == NULL) real = (ssize_t(*)(int, void*, size_t, off_t))dlsym(RTLD_NEXT, "pread");
    if (getenv("FAULT") == NULL || !struck(fd)) return real(fd, to, bytes, offset);
    if (fault("eio")) {
        errno = EIO;
        return -1;
    }
    if (fault("short") && bytes > 1000) bytes = 1000;
    if (fault("stall")) sleep(1);
    return real(fd, to, bytes, offset);
}

ssize_t pread64(int fd, void* to, size_t bytes, off_t offset) { return pread(fd, to, bytes, offset); }

static int opened(const char* name, const char* path, int flags, int mode) {
    int (*real)(const char*, int, ...) = (int (*)(const char*, int, ...))dlsym(RTLD_NEXT, name);
    if ((flags & O_DIRECT) != 0 && fault("nodirect")) {
        errno = EINVAL;
        return -1;
    }
    return real(path, flags, mode);
}

#define OPEN(name)                              \
    int name(const char* path, int flags, ...) { \
        va_list more;                           \
        va_start(more, flags);                  \
        const int mode = va_arg(more, int);     \
        va_end(more);                           \
        return opened(#name, path, flags, mode); \
    }
OPEN(open)
OPEN(open64)
