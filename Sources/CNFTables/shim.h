#ifndef C_NFTABLES_SHIM_H
#define C_NFTABLES_SHIM_H
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <nftables/libnftables.h>
#endif
