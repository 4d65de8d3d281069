/// Settings of the C library's allocator, which its Swift module lacks.
#ifndef KL_CMEMORY_H
#define KL_CMEMORY_H

#include <stddef.h>

/// Keeps up to this many freed bytes at the end of a heap instead of returning them to the system. Does nothing if the C
/// library has no such setting. Call it before there are threads.
void kl_keep_freed_memory(size_t bytes);

/// Returns freed memory to the system, wherever it lies. Takes about 0.1 ms for each MiB.
void kl_return_freed_memory(void);

#endif
