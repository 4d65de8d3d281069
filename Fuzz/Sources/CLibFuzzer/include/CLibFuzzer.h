#ifndef KL_LIBFUZZER_H
#define KL_LIBFUZZER_H

#include <stddef.h>
#include <stdint.h>

/// libFuzzer's `main`, for a program that has its own. It returns when all runs that were asked for are done.
int LLVMFuzzerRunDriver(int *argc, char ***argv, int (*callback)(const uint8_t *data, size_t size));

#endif
