/// Many datagrams in one system call, each with its own destination, source address and segment size: what neither the
/// Swift module of the C library nor SwiftNIO gives on the sending side.
#ifndef KL_CDATAGRAMS_H
#define KL_CDATAGRAMS_H

#ifdef __linux__
#include <netinet/in.h>
#include <stdint.h>

#define KL_DATAGRAMS_AT_ONCE 64

/// One datagram, or several of `segment` bytes to one destination (the last may be shorter).
struct kl_datagram {
    const void *bytes;
    uint32_t length;
    /// 0: one datagram.
    uint16_t segment;
    /// 0: the system chooses; AF_INET or AF_INET6: the datagram leaves from `source`.
    uint16_t source_family;
    uint8_t source[16];
    uint32_t source_interface;
    /// `sockaddr_in` or `sockaddr_in6`, by its family.
    struct sockaddr_in6 destination;
};

/// Sends them in order, at most KL_DATAGRAMS_AT_ONCE. Returns how many went out, at least one; -1 and errno of the first.
int kl_send_datagrams(int descriptor, const struct kl_datagram *datagrams, unsigned count);
/// A bound socket for datagrams, non-blocking, with don't-fragment set and large buffers; -1 and errno.
/// `address` is a `sockaddr_in` or `sockaddr_in6`; an IPv6 wildcard takes IPv4 too.
int kl_open_datagrams(const struct sockaddr_in6 *address);
/// The same settings on a socket that someone else has bound.
int kl_prepare_datagrams(int descriptor);
/// A netlink socket that is told of changed links and addresses; non-blocking; -1 and errno.
int kl_watch_addresses(void);
#endif

#endif
