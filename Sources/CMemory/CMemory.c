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
#else
    (void)bytes;
#endif
}
