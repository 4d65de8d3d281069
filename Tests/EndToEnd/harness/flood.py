"""A flood, as a program: datagrams from files, sent as fast as a core gives, and an account of what came back.

Each file holds messages of one size, and is sent from a socket of its own, in turn with the others. With `--network`
they leave from its addresses, all of which must lead here. With `--forge HOST:PORT` they claim to be from there, and
the answers go there. It ends after `--seconds`, or by SIGTERM.
"""

import argparse
import collections
import contextlib
import ctypes
import ipaddress
import itertools
import json
import os
import pathlib
import signal
import socket
import threading
import time

SO_RCVBUFFORCE, IP_PKTINFO, IP_TRANSPARENT = 33, 8, 19
ANYWHERE = ("0.0.0.0", 0)
# sendmmsg takes no more at once.
AT_ONCE = 1_024
BATCHES = 16
# For one answer.
ROOM = 2_048


class Vector(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]


class Message(ctypes.Structure):
    """struct mmsghdr"""

    _fields_ = [
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint32),
        ("vectors", ctypes.c_void_p),
        ("vector_count", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_size_t),
        ("length", ctypes.c_size_t),
    ]


class Control(ctypes.Structure):
    """struct cmsghdr with a struct in_pktinfo: the address that a message leaves from."""

    _fields_ = [
        ("size", ctypes.c_size_t),
        ("level", ctypes.c_int),
        ("kind", ctypes.c_int),
        ("interface", ctypes.c_int),
        ("source", ctypes.c_ubyte * 4),
        ("destination", ctypes.c_ubyte * 4),
    ]


class Target(ctypes.Structure):
    """struct sockaddr_in"""

    _fields_ = [
        ("family", ctypes.c_uint16),
        ("port", ctypes.c_ubyte * 2),
        ("address", ctypes.c_ubyte * 4),
        ("rest", ctypes.c_ubyte * 8),
    ]


libc = ctypes.CDLL(None, use_errno=True)


class Flood:
    def __init__(self, path, size, target, sources, place):
        data = pathlib.Path(path).read_bytes()
        self.kept = [ctypes.create_string_buffer(data, len(data)), target]
        base = ctypes.addressof(self.kept[0])
        places = [base + at for at in range(0, len(data), size)]
        self.batches = [self.batch(number, places, size, target, sources) for number in range(BATCHES)]
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 64 << 20)
        if place != ANYWHERE:
            self.socket.setsockopt(socket.SOL_IP, IP_TRANSPARENT, 1)
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(place)
        self.sent, self.answers = 0, collections.Counter()
        room = ctypes.create_string_buffer(AT_ONCE * ROOM)
        self.bytes = memoryview(room).cast("B")
        self.incoming = self.messages([ctypes.addressof(room) + at * ROOM for at in range(AT_ONCE)], ROOM)

    def messages(self, places, size):
        vectors = (Vector * AT_ONCE)()
        messages = (Message * AT_ONCE)()
        for vector, message, place in zip(vectors, messages, places):
            vector.base, vector.length = place, size
            message.vectors, message.vector_count = ctypes.addressof(vector), 1
        self.kept.append(vectors)
        return messages

    def batch(self, number, places, size, target, sources):
        first = number * AT_ONCE
        messages = self.messages([places[(first + at) % len(places)] for at in range(AT_ONCE)], size)
        controls = (Control * AT_ONCE)()
        self.kept.append(controls)
        for at, (message, control) in enumerate(zip(messages, controls)):
            message.name, message.name_length = ctypes.addressof(target), ctypes.sizeof(target)
            if sources:
                source = sources[(first + at) % len(sources)]
                control.size, control.level, control.kind = Control.destination.offset + 4, socket.SOL_IP, IP_PKTINFO
                control.source[:] = source
                message.control, message.control_length = ctypes.addressof(control), ctypes.sizeof(control)
        return messages

    def send(self, turn):
        sent = libc.sendmmsg(self.socket.fileno(), self.batches[turn % BATCHES], AT_ONCE, 0)
        if sent < 0:
            raise OSError(ctypes.get_errno(), "sendmmsg")
        self.sent += sent

    def receive(self):
        """Counts what is there: by the type, and how long it is."""
        came = libc.recvmmsg(self.socket.fileno(), self.incoming, AT_ONCE, socket.MSG_DONTWAIT, None)
        for at in range(max(came, 0)):
            self.answers[self.bytes[at * ROOM], self.incoming[at].length] += 1
        return came > 0


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--size", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--network")
    parser.add_argument("--forge", default="%s:%d" % ANYWHERE)
    parser.add_argument("files", nargs="+")
    flags = parser.parse_args()
    target = Target(socket.AF_INET)
    target.port[:] = flags.port.to_bytes(2, "big")
    target.address[:] = socket.inet_aton(flags.host)
    hosts = ipaddress.ip_network(flags.network).hosts() if flags.network else []
    sources = [one.packed for one in itertools.islice(hosts, BATCHES * AT_ONCE)]
    host, _, port = flags.forge.rpartition(":")
    floods = [Flood(path, flags.size, target, sources, (host, int(port))) for path in flags.files]
    # Who floods doesn't take its victim's processor: it has what others leave, also where each session has a weight.
    os.nice(5)
    with contextlib.suppress(OSError):
        pathlib.Path("/proc/self/autogroup").write_text("5")
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    print("begins", flush=True)
    turn, end = 0, time.monotonic() + flags.seconds
    while not ended.is_set() and time.monotonic() < end:
        for flood in floods:
            flood.send(turn)
            flood.receive()
        turn += 1
    # What is still on its way.
    quiet = time.monotonic() + 0.5
    while time.monotonic() < quiet:
        if any([flood.receive() for flood in floods]):
            quiet = time.monotonic() + 0.5
        time.sleep(0.01)
    for path, flood in zip(flags.files, floods):
        answers = [[kind, length, count] for (kind, length), count in sorted(flood.answers.items())]
        print(json.dumps({"file": path, "sent": flood.sent, "answers": answers}), flush=True)


if __name__ == "__main__":
    main()
