//go:build cgo && linux

#define _GNU_SOURCE
#include "zstd_cgo.h"

#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>

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
enum { ZSTD_reset_session_and_parameters = 3 };
enum { ZSTD_btopt = 7, ZSTD_btultra2 = 9 };
enum {
	ZSTD_c_compressionLevel = 100, ZSTD_c_nbWorkers = 400, ZSTD_c_jobSize = 401, ZSTD_c_overlapLog = 402,
};

typedef struct {
	void *(*alloc)(void *opaque, size_t size);
	void (*free)(void *opaque, void *p);
	void *opaque;
} ZSTD_customMem;

WEAK void *ZSTD_createCCtx_advanced(ZSTD_customMem mem);
WEAK size_t ZSTD_freeCCtx(void *ctx);
WEAK size_t ZSTD_CCtx_reset(void *ctx, int what);
WEAK size_t ZSTD_CCtx_setParameter(void *ctx, int param, int value);
WEAK size_t ZSTD_CCtx_setCParams(void *ctx, ZSTD_compressionParameters p);
WEAK ZSTD_compressionParameters ZSTD_getCParams(int level, unsigned long long size, size_t dict_size);
WEAK size_t ZSTD_compressStream2(void *ctx, ZSTD_outBuffer *out, ZSTD_inBuffer *in, int op);
WEAK unsigned ZSTD_isError(size_t code);
WEAK const char *ZSTD_getErrorName(size_t code);

// MAPPED is from how many bytes on what is allocated is mapped by itself, so that the
// system has it back when it is freed: malloc keeps what large streams have had. What
// small items take is not worth mapping for each.
#define MAPPED (2 << 20)

// HUGE is from how many bytes on it is mapped by large pages where there are some. A
// highest level looks for matches all over its tables, some 80 MiB: it takes a tenth
// less time if the processor knows their pages. What is smaller fits as it is.
#define HUGE (8 << 20)

// HEAD is what stands before an allocation: its size, HEAD included, if it is mapped,
// or 0. It is a line of the cache, so that libzstd's own parts begin with one.
#define HEAD 64

static void *allocate(void *opaque, size_t size)
{
	char *p;

	(void)opaque;
	if (size > SIZE_MAX - HEAD)
		return NULL;
	size += HEAD;
	if (size < MAPPED) {
		p = malloc(size);
		if (p == NULL)
			return NULL;
		size = 0;
	} else {
		p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (p == MAP_FAILED)
			return NULL;
#ifdef MADV_HUGEPAGE
		if (size >= HUGE)
			madvise(p, size, MADV_HUGEPAGE); // if it cannot be, it goes on without
#endif
	}
	*(size_t *)p = size;
	return p + HEAD;
}

static void release(void *opaque, void *allocated)
{
	char *p = allocated;

	(void)opaque;
	if (p == NULL)
		return;
	p -= HEAD;
	if (*(size_t *)p == 0)
		free(p);
	else
		munmap(p, *(size_t *)p);
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

void *ersatz_zstd_new(void)
{
	ZSTD_customMem mem = { allocate, release, NULL };

	return ZSTD_createCCtx_advanced(mem);
}

// Between jobs of the highest levels, half a window is read twice, not a whole
// one: a frame is 0.03 % larger, and takes less time.
bool ersatz_zstd_begin(void *ctx, int level, unsigned long long size, int workers)
{
	int bad = ZSTD_isError(ZSTD_CCtx_reset(ctx, ZSTD_reset_session_and_parameters));

	bad |= ZSTD_isError(ZSTD_CCtx_setParameter(ctx, ZSTD_c_compressionLevel, level));
	if (size > 0) {
		ZSTD_compressionParameters p = ZSTD_getCParams(level, size, 0);
		bad |= ZSTD_isError(ZSTD_CCtx_setCParams(ctx, p));
		if (workers > 0) {
			bad |= ZSTD_isError(ZSTD_CCtx_setParameter(ctx, ZSTD_c_nbWorkers, workers));
			bad |= ZSTD_isError(ZSTD_CCtx_setParameter(ctx, ZSTD_c_jobSize, (int)job(p)));
			if (p.strategy == ZSTD_btultra2)
				bad |= ZSTD_isError(ZSTD_CCtx_setParameter(ctx, ZSTD_c_overlapLog, 8));
		}
	}
	return !bad;
}

size_t ersatz_zstd_turn(void *ctx, void *out, size_t cap, size_t *out_pos, const void *in, size_t n, size_t *in_pos, bool end)
{
	ZSTD_inBuffer i = { in, n, *in_pos };
	ZSTD_outBuffer o = { out, cap, *out_pos };
	size_t left;

	do
		left = ZSTD_compressStream2(ctx, &o, &i, end ? ZSTD_e_end : ZSTD_e_continue);
	while (!ZSTD_isError(left) && o.pos < o.size && (end ? left > 0 : i.pos < i.size));
	*in_pos = i.pos;
	*out_pos = o.pos;
	return left;
}

const char *ersatz_zstd_fault(size_t code)
{
	return ZSTD_isError(code) ? ZSTD_getErrorName(code) : NULL;
}

void ersatz_zstd_free(void *ctx)
{
	ZSTD_freeCCtx(ctx); // waits for libzstd's threads
}
