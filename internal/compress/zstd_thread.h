//go:build cgo && linux

// A thread that compresses one stream by libzstd. Only zstd_cgo.go uses it.

#ifndef ERSATZ_ZSTD_THREAD_H
#define ERSATZ_ZSTD_THREAD_H

#include <stddef.h>

// What the owner adds to `todo`: a turn begins; free everything, and end. The
// latter may come during a turn, and the thread may close `todo` at once: it is
// a number there, not a flag here, since the thread could see a flag before the
// owner has written to `todo`, which would be another file's by then.
#define ERSATZ_ZSTD_TURN 1ULL
#define ERSATZ_ZSTD_QUIT (1ULL << 32)

// What the thread and its owner share. A turn belongs to the thread from when
// the owner has written to `todo` until the owner can read from `done`;
// otherwise the owner may touch all of it.
typedef struct ersatz_zstd {
	int todo, done; // eventfd(2)s

	int end;          // nothing comes after in: end the frame
	size_t in_size;   // bytes in in
	size_t in_pos;    // bytes of them that are compressed
	size_t out_size;  // bytes in out, of this turn
	size_t left;      // of an ended frame: 0 if out has the last of it
	const char *fault; // what went wrong, or NULL; constant

	char *in;      // in_cap bytes
	char *out[2];  // out_cap bytes each; a turn fills out[which]
	int which;
	size_t in_cap, out_cap;

	void *ctx; // ZSTD_CCtx
	int level;
	int workers;    // of libzstd, with a size; 0: it compresses in this thread
	int background; // run when nothing else wants the processor
	unsigned long long size; // what will come, in bytes; 0: unknown
} ersatz_zstd;

// ersatz_zstd_new makes a thread, which waits for turns. Told to quit, it closes
// the descriptors and frees z, after libzstd's workers have ended what they are
// at. NULL, and the descriptors are still the caller's: no memory or no thread.
ersatz_zstd *ersatz_zstd_new(int todo, int done, int level, unsigned long long size, int workers, int background,
	size_t in_cap, size_t out_cap);

// ersatz_zstd_job returns how many bytes of a stream one of libzstd's workers
// gets, by the level and the size of the stream.
size_t ersatz_zstd_job(int level, unsigned long long size);

#endif
