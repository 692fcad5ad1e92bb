/* SPDX-License-Identifier: GPL-2.0-or-later
 * The host's shared memory: one mapping made before any fork, power-of-two classes, counters per kind. */
#include "host.h"

#include <sched.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define REGION ((size_t)1 << 30)

struct shared *S;

/* Stands before libc's own, also for the module: the wall clock may be stepped by a scenario, the monotonic may not. */
int clock_gettime(clockid_t id, struct timespec *t)
{
	int rc = (int)syscall(SYS_clock_gettime, id, t);
	if (rc == 0 && id == CLOCK_REALTIME && S)
		t->tv_sec += S->clock_step;
	return rc;
}

struct block {
	size_t cls, size;
};

void shm_map(void)
{
	S = mmap(NULL, REGION, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (S == MAP_FAILED) {
		perror("mmap");
		exit(2);
	}
}

void shm_reset(void)
{
	S->lock = 0;
	S->status = ST_STARTING;
	S->used = 0;
	memset(S->free_list, 0, sizeof S->free_list);
	memset(S->live, 0, sizeof S->live);
	S->live_bytes = 0;
	S->clock_step = 0;
	S->trans = NULL;
	S->dialogs = NULL;
}

static void lock(void)
{
	while (__sync_lock_test_and_set(&S->lock, 1))
		sched_yield();
}

static void unlock(void)
{
	__sync_lock_release(&S->lock);
}

void *shm_new(enum kind kind, size_t size)
{
	size_t cls = 5;
	struct block *b;

	while (((size_t)1 << cls) < size + sizeof *b)
		cls++;
	lock();
	b = S->free_list[cls];
	if (b) {
		S->free_list[cls] = *(void **)(b + 1);
	} else {
		b = (struct block *)(S->heap + S->used);
		S->used += (size_t)1 << cls;
		if (offsetof(struct shared, heap) + S->used > REGION) {
			fprintf(stderr, "host: out of shared memory\n");
			abort();
		}
	}
	S->live[kind]++;
	S->live_bytes += (long)size;
	unlock();
	b->cls = cls;
	b->size = size;
	memset(b + 1, 0, size);
	return b + 1;
}

void shm_drop(enum kind kind, void *p)
{
	struct block *b = (struct block *)p - 1;

	if (!p)
		return;
	memset(p, 0xdb, b->size);
	lock();
	S->live[kind]--;
	S->live_bytes -= (long)b->size;
	*(void **)p = S->free_list[b->cls];
	S->free_list[b->cls] = b;
	unlock();
}
