#include "CMemory.h"

// Defines __GLIBC__ with glibc.
#include <stdlib.h>

#ifdef __GLIBC__
#include <malloc.h>
#endif

void kl_keep_freed_memory(size_t bytes)
{
#ifdef __GLIBC__
    (void)mallopt(M_TRIM_THRESHOLD, (int)bytes);
    // Setting either threshold stops glibc from adjusting both, so buffers of 256 KiB would each be mapped and unmapped.
    (void)mallopt(M_MMAP_THRESHOLD, 1024 * 1024);
#else
    (void)bytes;
#endif
}

void kl_return_freed_memory(void)
{
#ifdef __GLIBC__
    (void)malloc_trim(0);
#endif
}
