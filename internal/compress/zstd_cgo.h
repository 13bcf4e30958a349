#include <stdbool.h>
#include <stddef.h>

// ersatz_zstd_job returns how many bytes a worker compresses at once.
size_t ersatz_zstd_job(int level, unsigned long long size);

// ersatz_zstd_new returns a context, or NULL.
void *ersatz_zstd_new(void);

// ersatz_zstd_begin readies a context, which may have been used, for a stream of
// about size bytes, 0 if that is not known. workers is 0, or how many threads work
// on jobs. It returns false if there is no memory.
bool ersatz_zstd_begin(void *ctx, int level, unsigned long long size, int workers);

// ersatz_zstd_turn compresses n bytes at in until they are used up, or all is
// written if it is the end, or out is full. It adds to in_pos and out_pos, and
// returns how much is left to be written, or a fault.
size_t ersatz_zstd_turn(void *ctx, void *out, size_t cap, size_t *out_pos, const void *in, size_t n, size_t *in_pos, bool end);

// ersatz_zstd_fault returns the name of a fault, or NULL if it is none.
const char *ersatz_zstd_fault(size_t code);

void ersatz_zstd_free(void *ctx);
