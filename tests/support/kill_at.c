/* Preloaded before the C library: counts the changes of files in one folder, in a process and its children, and kills
   at the n-th, or lets some fail from then on. The state is a file that all of them map; an armed process names it and
   the folder in its environment. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static struct {
    long count, limit; /* limit < 0: kill the process that makes the change, else its group */
    long failing, error; /* how many changes fail in place of a kill, and with which error */
} *state;
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

static int change(void) {
    long now = __sync_add_and_fetch(&state->count, 1);
    if (state->failing) {
        errno = state->error;
        return now >= state->limit && now - state->limit < state->failing;
    }
    if (now == state->limit) kill(0, SIGKILL);
    if (now == -state->limit) kill(getpid(), SIGKILL);
    return 0;
}

/* Whether the change of this file, relative to a directory, is to fail. */
static int change_of(int directory, const char *path) {
    char where[PATH_MAX] = "", link[64];
    if (!state) return 0;
    if (path[0] != '/') {
        snprintf(link, sizeof link, directory == AT_FDCWD ? "/proc/self/cwd" : "/proc/self/fd/%d", directory);
        if (readlink(link, where, sizeof where - 1) < 0) return 0;
        path = where;
    }
    return !strncmp(path, folder, strlen(folder)) && change();
}

#define NEXT(name) ((typeof(&name))dlsym(RTLD_NEXT, #name))
#define OF_FILE(type, name, args, fd, ...) \
    type name args { return fd > 2 && change_of(fd, "") ? -1 : NEXT(name)(__VA_ARGS__); }
#define OF_PATH(name, args, directory, path, ...) \
    int name args { return change_of(directory, path) ? -1 : NEXT(name)(__VA_ARGS__); }
#define REMOVAL(name, args, directory, path, ...) \
    int name args { return change_of(directory, path) && errno != ENOSPC ? -1 : NEXT(name)(__VA_ARGS__); }
#define OPENING(name, args, directory, ...) \
    int name args { \
        va_list rest; va_start(rest, flags); int mode = flags & O_CREAT ? va_arg(rest, int) : 0; va_end(rest); \
        int write = flags & (O_WRONLY | O_RDWR) && state && state->error == EROFS; \
        int makes = flags & O_TRUNC || (flags & O_CREAT && faccessat(directory, path, F_OK, 0)); \
        if ((write || makes) && change_of(directory, path)) return -1; \
        return NEXT(name)(__VA_ARGS__, flags, mode); }

OF_FILE(ssize_t, write, (int fd, const void *from, size_t size), fd, fd, from, size)
OF_FILE(ssize_t, pwrite, (int fd, const void *from, size_t size, off_t at), fd, fd, from, size, at)
OF_FILE(ssize_t, pwrite64, (int fd, const void *from, size_t size, off64_t at), fd, fd, from, size, at)
OF_FILE(ssize_t, sendfile, (int to, int fd, off_t *at, size_t size), to, to, fd, at, size)
OF_FILE(ssize_t, sendfile64, (int to, int fd, off64_t *at, size_t size), to, to, fd, at, size)
OF_FILE(int, ftruncate, (int fd, off_t size), fd, fd, size)
OF_FILE(int, ftruncate64, (int fd, off64_t size), fd, fd, size)
REMOVAL(rename, (const char *path, const char *to), AT_FDCWD, path, path, to)
REMOVAL(renameat, (int from, const char *path, int in, const char *to), from, path, from, path, in, to)
REMOVAL(unlink, (const char *path), AT_FDCWD, path, path)
REMOVAL(unlinkat, (int in, const char *path, int flags), in, path, in, path, flags)
REMOVAL(rmdir, (const char *path), AT_FDCWD, path, path)
OF_PATH(mkdir, (const char *path, mode_t mode), AT_FDCWD, path, path, mode)
OF_PATH(mkdirat, (int in, const char *path, mode_t mode), in, path, in, path, mode)
OPENING(open, (const char *path, int flags, ...), AT_FDCWD, path)
OPENING(open64, (const char *path, int flags, ...), AT_FDCWD, path)
OPENING(openat, (int directory, const char *path, int flags, ...), directory, directory, path)
OPENING(openat64, (int directory, const char *path, int flags, ...), directory, directory, path)
