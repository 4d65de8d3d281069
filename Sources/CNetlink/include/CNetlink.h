/// What the Swift module of the C library doesn't show of Linux: netlink's structures, its socket addresses, and setns(2).
#ifndef KL_CNETLINK_H
#define KL_CNETLINK_H

#ifdef __linux__
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <sys/types.h>

/// A netlink socket of this protocol, connected to the kernel; -1 and errno.
int kl_netlink_open(int protocol);
/// Moves this thread to the network namespace behind the descriptor; -1 and errno.
int kl_enter_network_namespace(int descriptor);
/// Whether the descriptor is a network namespace's.
int kl_is_network_namespace(int descriptor);
#endif

#endif
