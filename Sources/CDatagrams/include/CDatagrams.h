/// Sends many datagrams in one system call, each with its own destination, source address and segment size, which neither
/// the C library's Swift module nor SwiftNIO offers.
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
    /// 0: a single datagram.
    uint16_t segment;
    /// 0: the system chooses the source; AF_INET or AF_INET6: the datagram leaves from `source`.
    uint16_t source_family;
    uint8_t source[16];
    uint32_t source_interface;
    /// A `sockaddr_in` or `sockaddr_in6`, according to its family.
    struct sockaddr_in6 destination;
};

/// Sends the datagrams in order, at most KL_DATAGRAMS_AT_ONCE. Returns the number sent, at least one; or -1 and errno if
/// the first fails.
int kl_send_datagrams(int descriptor, const struct kl_datagram *datagrams, unsigned count);
/// Opens a bound, non-blocking UDP socket with don't-fragment set and large buffers; -1 and errno. `address` is a
/// `sockaddr_in` or `sockaddr_in6`; an IPv6 wildcard takes IPv4, too.
int kl_open_datagrams(const struct sockaddr_in6 *address);
/// Applies the same settings to a socket that is bound already.
int kl_prepare_datagrams(int descriptor);
/// Opens a non-blocking netlink socket that is notified of changed links, addresses and routes; -1 and errno.
int kl_watch_addresses(void);
#endif

#endif
