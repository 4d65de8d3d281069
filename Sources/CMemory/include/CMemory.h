/// What a program asks of the C library's allocator, which the Swift module of the C library doesn't have.
#ifndef KL_CMEMORY_H
#define KL_CMEMORY_H

#include <stddef.h>

/// Up to so many bytes that were freed at the end of a heap stay there, instead of going back to the system; nothing where
/// the C library has no such setting. Call it before there are threads.
void kl_keep_freed_memory(size_t bytes);

#endif
