"""Free ports, from below the range that outgoing connections take theirs from: one found free stays free under load."""

import itertools
import pathlib
import random
import socket

_lowest_outgoing = int(pathlib.Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
# Each process begins elsewhere, so that two at once don't meet, and hands no port out twice.
_numbers = itertools.count(random.randrange(1 << 30))


def free_port(kind=socket.SOCK_STREAM):
    """A TCP port that nothing listens on, on any address of this machine; or a UDP port, SOCK_DGRAM, that nobody has."""
    highest = min(_lowest_outgoing, 32_768)
    span = highest - 20_000 if highest > 22_000 else highest - 2_000
    for number in itertools.islice(_numbers, span):
        port = highest - span + number % span
        if _is_free(socket.AF_INET, kind, "127.0.0.1", port) and _is_free(socket.AF_INET6, kind, "::1", port):
            return port
    raise OSError("no free port")


def _is_free(family, kind, host, port):
    try:
        with socket.socket(family, kind) as probe:
            probe.bind((host, port))
            return True
    except OSError:
        return False


def address(host, port):
    """HOST:PORT as the agents take it."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
