/* Preloaded before the C library: counts the changes of files in one folder, in a process and its children, and kills
   at the n-th. The state is a file that all of them map; an armed process names it and the folder in its environment. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static struct { long count, limit; } *state; /* limit < 0: kill the process that makes the change, else its group */
static char folder[PATH_MAX];

void arm(const char *file, const char *in) {
    int fd = open(file, O_RDWR);
    strncpy(folder, in, sizeof folder - 1);
    state = mmap(NULL, sizeof *state, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (state == MAP_FAILED) abort();
    close(fd);
}

__attribute__((constructor)) static void begin(void) {
    if (getenv("KILL_AT_STATE")) arm(getenv("KILL_AT_STATE"), getenv("KILL_AT_FOLDER"));
}

static void change(void) {
    long now = __sync_add_and_fetch(&state->count, 1);
    if (now == state->limit) kill(0, SIGKILL);
    if (now == -state->limit) kill(getpid(), SIGKILL);
}

static void change_of(int directory, const char *path) {
    char where[PATH_MAX] = "", link[64];
    if (!state) return;
    if (path[0] != '/') {
        snprintf(link, sizeof link, directory == AT_FDCWD ? "/proc/self/cwd" : "/proc/self/fd/%d", directory);
        if (readlink(link, where, sizeof where - 1) < 0) return;
        path = where;
    }
    if (!strncmp(path, folder, strlen(folder))) change();
}

#define NEXT(name) ((typeof(&name))dlsym(RTLD_NEXT, #name))
#define OF_FILE(type, name, args, fd, ...) \
    type name args { if (fd > 2) change_of(fd, ""); return NEXT(name)(__VA_ARGS__); }
#define OF_PATH(name, args, directory, path, ...) \
    int name args { change_of(directory, path); return NEXT(name)(__VA_ARGS__); }
#define OPENING(name, args, directory, ...) \
    int name args { \
        va_list rest; va_start(rest, flags); int mode = flags & O_CREAT ? va_arg(rest, int) : 0; va_end(rest); \
        if (flags & O_TRUNC || (flags & O_CREAT && faccessat(directory, path, F_OK, 0))) change_of(directory, path); \
        return NEXT(name)(__VA_ARGS__, flags, mode); }

OF_FILE(ssize_t, write, (int fd, const void *from, size_t size), fd, fd, from, size)
OF_FILE(ssize_t, pwrite, (int fd, const void *from, size_t size, off_t at), fd, fd, from, size, at)
OF_FILE(ssize_t, pwrite64, (int fd, const void *from, size_t size, off64_t at), fd, fd, from, size, at)
OF_FILE(ssize_t, sendfile, (int to, int fd, off_t *at, size_t size), to, to, fd, at, size)
OF_FILE(ssize_t, sendfile64, (int to, int fd, off64_t *at, size_t size), to, to, fd, at, size)
OF_FILE(int, ftruncate, (int fd, off_t size), fd, fd, size)
OF_FILE(int, ftruncate64, (int fd, off64_t size), fd, fd, size)
OF_PATH(rename, (const char *path, const char *to), AT_FDCWD, path, path, to)
OF_PATH(renameat, (int from, const char *path, int in, const char *to), from, path, from, path, in, to)
OF_PATH(unlink, (const char *path), AT_FDCWD, path, path)
OF_PATH(unlinkat, (int in, const char *path, int flags), in, path, in, path, flags)
OF_PATH(rmdir, (const char *path), AT_FDCWD, path, path)
OF_PATH(mkdir, (const char *path, mode_t mode), AT_FDCWD, path, path, mode)
OF_PATH(mkdirat, (int in, const char *path, mode_t mode), in, path, in, path, mode)
OPENING(open, (const char *path, int flags, ...), AT_FDCWD, path)
OPENING(open64, (const char *path, int flags, ...), AT_FDCWD, path)
OPENING(openat, (int directory, const char *path, int flags, ...), directory, directory, path)
OPENING(openat64, (int directory, const char *path, int flags, ...), directory, directory, path)
