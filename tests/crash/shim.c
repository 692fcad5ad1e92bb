/* SPDX-License-Identifier: GPL-2.0-or-later
 * Preloaded into the process under test: what changes files below CRASH_DIR is counted, and at number CRASH_AT goes wrong.
 *
 * CRASH_MODE: eio   the call fails with EIO and does nothing
 *             full  ENOSPC; a write first takes half of its bytes, and the rest fails
 *             gone  this and every later call fails with EIO
 *             stuck as full, and every later call fails with EIO
 *             die   the process is killed before the call
 *             cut   the process is killed behind it; of a write half the bytes are written
 *             power the same, and of every file made below CRASH_LOSE what was not synced is lost: the bytes behind its last
 *                   fsync, or the file when its directory was not synced. Removed and renamed names stay so.
 * CRASH_HIT:  a file that gets the name of the call that went wrong; it is not made when there were fewer calls.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum mode { NONE, EIO_ONCE, FULL, GONE, STUCK, DIE, CUT, POWER };
static enum mode mode;
static long at;
static const char *below, *lose;
static atomic_long calls;
static atomic_int full_fd = -1; /* the rest of a write that was cut short */

#define REAL(name) \
	static __typeof__(&name) real; \
	if (!real) \
	real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

__attribute__((constructor)) static void begin(void)
{
	static const char *const names[] = {"", "eio", "full", "gone", "stuck", "die", "cut", "power"};
	const char *m = getenv("CRASH_MODE");

	at = getenv("CRASH_AT") ? atol(getenv("CRASH_AT")) : 0;
	below = getenv("CRASH_DIR");
	lose = getenv("CRASH_LOSE");
	for (int i = 1; below && m && i < (int)(sizeof names / sizeof names[0]); i++)
		if (!strcmp(m, names[i]))
			mode = (enum mode)i;
}

static int starts_with(const char *path, const char *dir)
{
	size_t n = strlen(dir);

	return !strncmp(path, dir, n) && (path[n] == '/' || !path[n]);
}

static int is_below(const char *path)
{
	return starts_with(path, below);
}

static int path_of(int fd, char path[static PATH_MAX])
{
	char link[64];
	ssize_t n;

	snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
	n = readlink(link, path, PATH_MAX - 1);
	if (n < 0)
		return 0;
	path[n] = 0;
	return 1;
}

static int fd_is_below(int fd)
{
	char path[PATH_MAX];

	return path_of(fd, path) && is_below(path);
}

static int at_is_below(int dir, const char *path)
{
	return *path == '/' ? is_below(path) : dir != AT_FDCWD && fd_is_below(dir);
}

/* Files that a loss of power would touch. One thread at a time writes below CRASH_LOSE. */
static struct file {
	ino_t inode;
	off_t synced;
	int named; /* its directory was synced since */
} file[512];
static int files;

static struct file *known(ino_t inode)
{
	for (int i = 0; i < files; i++)
		if (file[i].inode == inode)
			return &file[i];
	return NULL;
}

static void made(int fd, int flags)
{
	char path[PATH_MAX];
	struct stat st;

	if (mode != POWER || fd < 0 || !path_of(fd, path) || !starts_with(path, lose) || fstat(fd, &st) || known(st.st_ino))
		return;
	if (files == (int)(sizeof file / sizeof file[0]))
		abort();
	/* one that was there before lasts as it is */
	file[files++] = flags & O_CREAT ? (struct file){.inode = st.st_ino} : (struct file){.inode = st.st_ino, .synced = st.st_size, .named = 1};
}

static int synced(int fd, int result)
{
	char path[PATH_MAX];
	struct stat st;
	struct file *f;

	if (mode != POWER || result || !path_of(fd, path) || !starts_with(path, lose) || fstat(fd, &st))
		return result;
	if (S_ISDIR(st.st_mode)) {
		for (int i = 0; i < files; i++)
			file[i].named = 1;
	} else if ((f = known(st.st_ino))) {
		f->synced = st.st_size;
	}
	return result;
}

static void lose_power(void)
{
	DIR *d = opendir(lose);
	struct dirent *e;
	struct file *f;

	while (d && (e = readdir(d))) {
		char path[PATH_MAX];

		if (!(f = known(e->d_ino)))
			continue;
		snprintf(path, sizeof path, "%s/%s", lose, e->d_name);
		/* system calls, so that they are not counted */
		if (f->named)
			syscall(SYS_truncate, path, f->synced);
		else
			syscall(SYS_unlink, path);
	}
}

static _Noreturn void die(void)
{
	if (mode == POWER)
		lose_power();
	kill(getpid(), SIGKILL);
	for (;;)
		pause();
}

static void tell(const char *name)
{
	int fd = open(getenv("CRASH_HIT"), O_WRONLY | O_CREAT | O_TRUNC, 0600);

	if (fd >= 0) {
		dprintf(fd, "%s", name);
		close(fd);
	}
}

/* What happens to this call: NONE it is made; EIO_ONCE, FULL it fails; CUT the process dies behind it. */
static enum mode turn(int counts, const char *name)
{
	long n;

	if (mode == NONE || !counts)
		return NONE;
	n = atomic_fetch_add(&calls, 1) + 1;
	if (n < at || (n > at && mode != GONE && mode != STUCK))
		return NONE;
	if (n == at)
		tell(name);
	if (mode == DIE || mode == POWER)
		die();
	if (mode == STUCK)
		return n == at ? FULL : EIO_ONCE;
	return mode == GONE ? EIO_ONCE : mode;
}

#define SIMPLE(counts, name, call) \
	do { \
		enum mode t = turn(counts, name); \
		if (t == EIO_ONCE || t == FULL) { \
			errno = t == FULL ? ENOSPC : EIO; \
			return -1; \
		} \
		int result = call; \
		if (t == CUT) \
			die(); \
		return result; \
	} while (0)

/* a write of `n` bytes that writes as many as it is told */
#define WRITE(fd, n, name, call) \
	do { \
		int expected = fd; \
		if (atomic_compare_exchange_strong(&full_fd, &expected, -1)) { \
			errno = ENOSPC; \
			return -1; \
		} \
		enum mode t = turn(mode && fd_is_below(fd), name); \
		if (t == EIO_ONCE || (t == FULL && (n) < 2)) { \
			errno = t == FULL ? ENOSPC : EIO; \
			return -1; \
		} \
		if (t != NONE) \
			(n) /= 2; \
		ssize_t result = call; \
		if (t == CUT) \
			die(); \
		if (t == FULL) \
			atomic_store(&full_fd, fd); \
		return result; \
	} while (0)

ssize_t write(int fd, const void *bytes, size_t n)
{
	REAL(write);
	WRITE(fd, n, "write", real(fd, bytes, n));
}

ssize_t pwrite(int fd, const void *bytes, size_t n, off_t offset)
{
	REAL(pwrite);
	WRITE(fd, n, "pwrite", real(fd, bytes, n, offset));
}

ssize_t pwrite64(int fd, const void *bytes, size_t n, off64_t offset)
{
	REAL(pwrite64);
	WRITE(fd, n, "pwrite", real(fd, bytes, n, offset));
}

int fsync(int fd)
{
	REAL(fsync);
	SIMPLE(mode && fd_is_below(fd), "fsync", synced(fd, real(fd)));
}

int fdatasync(int fd)
{
	REAL(fdatasync);
	SIMPLE(mode && fd_is_below(fd), "fdatasync", synced(fd, real(fd)));
}

int ftruncate(int fd, off_t length)
{
	REAL(ftruncate);
	SIMPLE(mode && fd_is_below(fd), "ftruncate", real(fd, length));
}

int ftruncate64(int fd, off64_t length)
{
	REAL(ftruncate64);
	SIMPLE(mode && fd_is_below(fd), "ftruncate", real(fd, length));
}

int rename(const char *from, const char *to)
{
	REAL(rename);
	SIMPLE(mode && is_below(from), "rename", real(from, to));
}

int renameat(int from_dir, const char *from, int to_dir, const char *to)
{
	REAL(renameat);
	SIMPLE(mode && at_is_below(from_dir, from), "rename", real(from_dir, from, to_dir, to));
}

int unlink(const char *path)
{
	REAL(unlink);
	SIMPLE(mode && is_below(path), "unlink", real(path));
}

int unlinkat(int dir, const char *path, int flags)
{
	REAL(unlinkat);
	SIMPLE(mode && at_is_below(dir, path), "unlink", real(dir, path, flags));
}

static int opened(int fd, int flags)
{
	made(fd, flags);
	return fd;
}

/* only those that may make a file */
#define OPEN(last, counts, call) \
	do { \
		mode_t rights = 0; \
		if (flags & O_CREAT) { \
			va_list more; \
			va_start(more, last); \
			rights = va_arg(more, mode_t); \
			va_end(more); \
		} \
		SIMPLE(flags & O_CREAT && (counts), "create", opened(call, flags)); \
	} while (0)

int open(const char *path, int flags, ...)
{
	REAL(open);
	OPEN(flags, mode && is_below(path), real(path, flags, rights));
}

int open64(const char *path, int flags, ...)
{
	REAL(open64);
	OPEN(flags, mode && is_below(path), real(path, flags, rights));
}

int openat(int dir, const char *path, int flags, ...)
{
	REAL(openat);
	OPEN(flags, mode && at_is_below(dir, path), real(dir, path, flags, rights));
}

int openat64(int dir, const char *path, int flags, ...)
{
	REAL(openat64);
	OPEN(flags, mode && at_is_below(dir, path), real(dir, path, flags, rights));
}
