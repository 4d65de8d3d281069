/// What the C library's Swift module lacks on Linux: netlink's structures, its socket addresses, and setns(2).
#ifndef KL_CNETLINK_H
#define KL_CNETLINK_H

#ifdef __linux__
#include <linux/inet_diag.h>
#include <linux/netfilter/nf_conntrack_common.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_conntrack.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <sys/socket.h>
#include <sys/types.h>

/// Opens a netlink socket of this protocol, connected to the kernel; -1 and errno.
int kl_netlink_open(int protocol);
/// Duplicates the descriptor to the number `second`, replacing what is open there; closed on exec; -1 and errno.
int kl_take_descriptor(int descriptor, int second);
/// Moves this thread to the network namespace behind the descriptor; -1 and errno.
int kl_enter_network_namespace(int descriptor);
/// Whether the descriptor is of a network namespace.
int kl_is_network_namespace(int descriptor);
/// Sends a datagram from one of this machine's addresses: IPv4 or IPv6, including the IPv4-mapped form, with its interface
/// if it has one; its port is ignored. -1 and errno. Never blocks.
ssize_t kl_send_from(int descriptor, const void *bytes, size_t count, const struct sockaddr *to, unsigned int to_size,
                     const struct sockaddr *from);
/// Sets the receive buffer, beyond the system's limit if the process may.
void kl_enlarge_receive_buffer(int descriptor, int bytes);
#endif

#endif
