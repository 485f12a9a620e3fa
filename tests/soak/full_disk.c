/* Fail the n-th change below a folder, and all later ones, as a full or a read-only disk does.

   Preloaded into the process that runs a command, and armed by it. Counted are opening for writing, the first write to
   each descriptor after that, making folders, links and nodes, renaming, and flushing to the disk. Removing always
   works, as it does on a full disk. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static char root[PATH_MAX];
static long nth, count;
static int failure;
static unsigned char written[65536];

void soak_arm(const char *folder, long number, int error) {
  strncpy(root, folder, sizeof root - 1);
  nth = number, failure = error, count = 0;
  memset(written, 0, sizeof written);
}

long soak_count(void) { return count; }

static int fails(void) {
  long now = __sync_add_and_fetch(&count, 1);
  if (!nth || now < nth) return 0;
  errno = failure;
  return 1;
}

static int below(int folder, const char *path) {
  char whole[2 * PATH_MAX], link[64];
  if (!root[0] || !path) return 0;
  if (path[0] == '/') return !strncmp(path, root, strlen(root));
  if (folder == AT_FDCWD) strcpy(link, "/proc/self/cwd");
  else snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
  ssize_t size = readlink(link, whole, PATH_MAX - 1);
  if (size < 0) return 0;
  whole[size] = 0;
  return !strncmp(whole, root, strlen(root));
}

static int is_below(int descriptor) {
  char link[64], path[PATH_MAX];
  if (!root[0]) return 0;
  snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
  ssize_t size = readlink(link, path, sizeof path - 1);
  if (size < 0) return 0;
  path[size] = 0;
  return !strncmp(path, root, strlen(root));
}

static int write_fails(int descriptor) {
  if (!root[0] || descriptor < 0 || descriptor >= (int)sizeof written || !is_below(descriptor)) return 0;
  if (written[descriptor] && !(nth && count >= nth)) return 0;
  written[descriptor] = 1;
  return fails();
}

static int changes(int flags) { return flags & (O_WRONLY | O_RDWR | O_CREAT | O_TRUNC); }

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

#define OPEN(name)                                                             \
  int name(const char *path, int flags, ...) {                                 \
    va_list rest;                                                              \
    va_start(rest, flags);                                                     \
    mode_t mode = va_arg(rest, mode_t);                                        \
    va_end(rest);                                                              \
    if (changes(flags) && below(AT_FDCWD, path) && fails()) return -1;         \
    int opened = NEXT(name)(path, flags, mode);                                \
    if (opened >= 0 && opened < (int)sizeof written) written[opened] = 0;      \
    return opened;                                                             \
  }
OPEN(open)
OPEN(open64)

#define OPENAT(name)                                                           \
  int name(int folder, const char *path, int flags, ...) {                     \
    va_list rest;                                                              \
    va_start(rest, flags);                                                     \
    mode_t mode = va_arg(rest, mode_t);                                        \
    va_end(rest);                                                              \
    if (changes(flags) && below(folder, path) && fails()) return -1;           \
    int opened = NEXT(name)(folder, path, flags, mode);                        \
    if (opened >= 0 && opened < (int)sizeof written) written[opened] = 0;      \
    return opened;                                                             \
  }
OPENAT(openat)
OPENAT(openat64)

#define FOPEN(name)                                                            \
  FILE *name(const char *path, const char *mode) {                             \
    if (strpbrk(mode, "wa+") && below(AT_FDCWD, path) && fails()) return NULL; \
    return NEXT(name)(path, mode);                                             \
  }
FOPEN(fopen)
FOPEN(fopen64)

#define WRITES(result, name, parameters, ...)                                  \
  result name parameters { return write_fails(descriptor) ? -1 : NEXT(name)(__VA_ARGS__); }
WRITES(ssize_t, write, (int descriptor, const void *from, size_t size), descriptor, from, size)
WRITES(ssize_t, pwrite, (int descriptor, const void *from, size_t size, off_t at), descriptor, from, size, at)
WRITES(ssize_t, pwrite64, (int descriptor, const void *from, size_t size, off64_t at), descriptor, from, size, at)
WRITES(ssize_t, writev, (int descriptor, const struct iovec *from, int size), descriptor, from, size)
WRITES(ssize_t, sendfile, (int descriptor, int from, off_t *at, size_t size), descriptor, from, at, size)
WRITES(ssize_t, sendfile64, (int descriptor, int from, off64_t *at, size_t size), descriptor, from, at, size)
WRITES(int, ftruncate, (int descriptor, off_t size), descriptor, size)
WRITES(int, ftruncate64, (int descriptor, off64_t size), descriptor, size)
int fsync(int descriptor) { return is_below(descriptor) && fails() ? -1 : NEXT(fsync)(descriptor); }
ssize_t copy_file_range(int from, off64_t *start, int descriptor, off64_t *at, size_t size, unsigned flags) {
  return write_fails(descriptor) ? -1 : NEXT(copy_file_range)(from, start, descriptor, at, size, flags);
}

int mkdir(const char *path, mode_t mode) { return below(AT_FDCWD, path) && fails() ? -1 : NEXT(mkdir)(path, mode); }
int mkdirat(int folder, const char *path, mode_t mode) {
  return below(folder, path) && fails() ? -1 : NEXT(mkdirat)(folder, path, mode);
}
int symlink(const char *to, const char *path) { return below(AT_FDCWD, path) && fails() ? -1 : NEXT(symlink)(to, path); }
int link(const char *to, const char *path) { return below(AT_FDCWD, path) && fails() ? -1 : NEXT(link)(to, path); }
int rename(const char *from, const char *to) { return below(AT_FDCWD, to) && fails() ? -1 : NEXT(rename)(from, to); }
int renameat(int one, const char *from, int other, const char *to) {
  return below(other, to) && fails() ? -1 : NEXT(renameat)(one, from, other, to);
}
int renameat2(int one, const char *from, int other, const char *to, unsigned flags) {
  return below(other, to) && fails() ? -1 : NEXT(renameat2)(one, from, other, to, flags);
}
