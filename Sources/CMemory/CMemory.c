#include "CMemory.h"

// It says which C library this is.
#include <stdlib.h>

#ifdef __GLIBC__
#include <malloc.h>
#endif

void kl_keep_freed_memory(size_t bytes)
{
#ifdef __GLIBC__
    (void)mallopt(M_TRIM_THRESHOLD, (int)bytes);
    // Either setting ends its growing by itself, and buffers of 256 KiB would be mapped and unmapped one by one.
    (void)mallopt(M_MMAP_THRESHOLD, 1024 * 1024);
#else
    (void)bytes;
#endif
}
