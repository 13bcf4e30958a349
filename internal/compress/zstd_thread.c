//go:build cgo && linux

#define _GNU_SOURCE
#include "zstd_thread.h"

#include <errno.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

// The part of zstd.h 1.5.7 that is used. The library is a Go module whose
// headers no other module can include. Its symbols are weak here, since cgo
// links each package by itself once, before it is linked with the library.
#define WEAK __attribute__((weak))

typedef struct { void *dst; size_t size, pos; } ZSTD_outBuffer;
typedef struct { const void *src; size_t size, pos; } ZSTD_inBuffer;
typedef struct {
	unsigned windowLog, chainLog, hashLog, searchLog, minMatch, targetLength;
	int strategy;
} ZSTD_compressionParameters;

enum { ZSTD_e_continue = 0, ZSTD_e_end = 2 };
enum { ZSTD_btopt = 7, ZSTD_btultra2 = 9 };
enum {
	ZSTD_c_compressionLevel = 100, ZSTD_c_nbWorkers = 400, ZSTD_c_jobSize = 401, ZSTD_c_overlapLog = 402,
};

WEAK void *ZSTD_createCCtx(void);
WEAK size_t ZSTD_freeCCtx(void *ctx);
WEAK size_t ZSTD_CCtx_setParameter(void *ctx, int param, int value);
WEAK size_t ZSTD_CCtx_setCParams(void *ctx, ZSTD_compressionParameters p);
WEAK ZSTD_compressionParameters ZSTD_getCParams(int level, unsigned long long size, size_t dict_size);
WEAK size_t ZSTD_compressStream2(void *ctx, ZSTD_outBuffer *out, ZSTD_inBuffer *in, int op);
WEAK unsigned ZSTD_isError(size_t code);
WEAK const char *ZSTD_getErrorName(size_t code);

// signal_fd adds one to an eventfd. await_fd waits until there is something,
// and takes it.
static void signal_fd(int fd)
{
	uint64_t one = 1;
	while (write(fd, &one, sizeof one) < 0 && errno == EINTR)
		;
}

static uint64_t await_fd(int fd)
{
	uint64_t n;
	while (read(fd, &n, sizeof n) != sizeof n) // a signal; nothing else keeps it from that
		;
	return n;
}

// check keeps the first fault.
static int check(ersatz_zstd *z, size_t code)
{
	if (ZSTD_isError(code) && z->fault == NULL)
		z->fault = ZSTD_getErrorName(code);
	return z->fault == NULL;
}

// job returns how much a worker compresses at once: four windows, as libzstd
// has it by itself, or two where it is fast, which takes half of the memory and
// makes a frame that is 0.1 % larger.
static size_t job(ZSTD_compressionParameters p)
{
	size_t n = (size_t)1 << (p.windowLog + (p.strategy >= ZSTD_btopt ? 2 : 1));

	return n < 1 << 20 ? 1 << 20 : n;
}

size_t ersatz_zstd_job(int level, unsigned long long size)
{
	return job(ZSTD_getCParams(level, size, 0));
}

// begin makes the context. Between jobs of the highest levels, half a window is
// read twice, not a whole one: a frame is 0.03 % larger, and takes less time.
static void begin(ersatz_zstd *z)
{
	z->ctx = ZSTD_createCCtx();
	if (z->ctx == NULL) {
		z->fault = "no memory";
		return;
	}
	check(z, ZSTD_CCtx_setParameter(z->ctx, ZSTD_c_compressionLevel, z->level));
	if (z->size > 0) {
		ZSTD_compressionParameters p = ZSTD_getCParams(z->level, z->size, 0);
		check(z, ZSTD_CCtx_setCParams(z->ctx, p));
		if (z->workers > 0) {
			check(z, ZSTD_CCtx_setParameter(z->ctx, ZSTD_c_nbWorkers, z->workers));
			check(z, ZSTD_CCtx_setParameter(z->ctx, ZSTD_c_jobSize, (int)job(p)));
			if (p.strategy == ZSTD_btultra2)
				check(z, ZSTD_CCtx_setParameter(z->ctx, ZSTD_c_overlapLog, 8));
		}
	}
}

// turn compresses until in is used up or out is full.
static void turn(ersatz_zstd *z)
{
	ZSTD_inBuffer in = { z->in, z->in_size, z->in_pos };
	ZSTD_outBuffer out = { z->out[z->which], z->out_cap, 0 };
	size_t left = 0;

	if (z->ctx == NULL)
		begin(z);
	while (z->fault == NULL) {
		left = ZSTD_compressStream2(z->ctx, &out, &in, z->end ? ZSTD_e_end : ZSTD_e_continue);
		if (!check(z, left) || out.pos == out.size || (z->end ? left == 0 : in.pos == in.size))
			break;
	}
	z->in_pos = in.pos;
	z->out_size = out.pos;
	z->left = left;
}

// MAPPED is from how many bytes on what is allocated is given back to the system
// when it is freed. glibc raises its own limit to 32 MiB, and then keeps what the
// threads of large items have had, some hundred MiB, for as long as it runs. What
// small items take is not worth mapping for each.
#define MAPPED (2 << 20)

static void destroy(ersatz_zstd *z)
{
	if (z->ctx != NULL)
		ZSTD_freeCCtx(z->ctx); // waits for libzstd's threads
	close(z->todo);
	close(z->done);
	free(z->in);
	free(z->out[0]);
	free(z->out[1]);
	free(z);
}

static void *run(void *arg)
{
	ersatz_zstd *z = arg;

	if (z->background) { // libzstd's threads inherit it; a refusal costs nothing but time
		struct sched_param p = { 0 };
		setpriority(PRIO_PROCESS, 0, 19); // of the thread, on Linux
		pthread_setschedparam(pthread_self(), SCHED_BATCH, &p);
	}
	while (await_fd(z->todo) < ERSATZ_ZSTD_QUIT) {
		turn(z);
		signal_fd(z->done);
	}
	destroy(z);
	return NULL;
}

ersatz_zstd *ersatz_zstd_new(int todo, int done, int level, unsigned long long size, int workers, int background,
	size_t in_cap, size_t out_cap)
{
	ersatz_zstd *z = calloc(1, sizeof *z);
	pthread_t thread;
	pthread_attr_t attr;
	sigset_t all, old;
	int err;

	if (z == NULL)
		return NULL;
#ifdef M_MMAP_THRESHOLD
	mallopt(M_MMAP_THRESHOLD, MAPPED);
	mallopt(M_TRIM_THRESHOLD, 4 * MAPPED);
#endif
	z->todo = todo;
	z->done = done;
	z->level = level;
	z->size = size;
	z->workers = workers;
	z->background = background;
	z->in_cap = in_cap;
	z->out_cap = out_cap;
	z->in = malloc(in_cap);
	z->out[0] = malloc(out_cap);
	z->out[1] = malloc(out_cap);
	err = z->in == NULL || z->out[0] == NULL || z->out[1] == NULL || pthread_attr_init(&attr) != 0;
	if (!err) {
		pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
		sigfillset(&all); // they are for Go's threads
		pthread_sigmask(SIG_SETMASK, &all, &old);
		err = pthread_create(&thread, &attr, run, z);
		pthread_sigmask(SIG_SETMASK, &old, NULL);
		pthread_attr_destroy(&attr);
	}
	if (err) {
		free(z->in);
		free(z->out[0]);
		free(z->out[1]);
		free(z);
		return NULL;
	}
	return z;
}
