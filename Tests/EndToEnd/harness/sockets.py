"""Plain client sockets, and how a connection stands."""

import contextlib
import fcntl
import select
import socket
import struct
import termios
import threading
import time

from .waiting import NotSeen

SIOCATMARK = 0x8905  # asm-generic/sockios.h


def connect(address, timeout=30):
    connection = socket.create_connection(address, timeout=timeout)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def attempt(address, data, deadline=60):
    """Connects, sends bytes and reads to the end, which may come at any moment: what came, and FIN or reset."""
    try:
        with connect(address) as connection:
            connection.sendall(data)
            return ending(connection, deadline)
    except (ConnectionResetError, BrokenPipeError):
        return b"", "reset"


def exchange(connection, data):
    """Sends bytes to an echoing server, and checks that the same come back."""
    connection.sendall(data)
    back = receive(connection, len(data))
    assert back == data, f"sent {data[:40]!r}, {back[:40]!r} came back"


def receive(connection, count):
    """Exactly so many bytes, or what came before the end."""
    parts = bytearray()
    while len(parts) < count:
        part = connection.recv(count - len(parts))
        if not part:
            break
        parts += part
    return bytes(parts)


def pieces(connection, count=1 << 30):
    """What comes until the end, or until so many bytes have, and where the urgent ones are."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
    data, urgent = bytearray(), set()
    while len(data) < count:
        select.select([connection], [], [], 30)
        # A read stops before the urgent byte, so it is always the first of one.
        is_urgent = struct.unpack("i", fcntl.ioctl(connection, SIOCATMARK, bytes(4)))[0]
        if not (part := connection.recv(1 << 16)):
            break
        if is_urgent:
            urgent.add(len(data))
        data += part
    return bytes(data), urgent


def send_in_background(connection, data):
    """Sends bytes and a FIN, while the caller reads."""

    def run():
        with contextlib.suppress(OSError):
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)

    threading.Thread(target=run, daemon=True).start()


def unsent(connection):
    """How many bytes its kernel keeps that the other side's hasn't acknowledged."""
    return struct.unpack("i", fcntl.ioctl(connection, termios.TIOCOUTQ, bytes(4)))[0]


def close_unread(connection):
    """Closes while something of the other side's waits unread: the kernel ends the connection by a reset behind what was sent."""
    select.select([connection], [], [], 30)
    connection.close()


def is_quiet(connection):
    """Whether a connection is open and nothing waits to be read."""
    poll = select.poll()
    poll.register(connection, select.POLLIN | select.POLLRDHUP)
    return not poll.poll(0)


def ending(connection, deadline):
    """Reads a connection to its end: the bytes that came, and whether the end was a FIN or a reset."""
    until = time.monotonic() + deadline
    data = bytearray()
    while True:
        left = until - time.monotonic()
        if left <= 0:
            raise NotSeen(f"the connection is still open after {deadline:g} s, {len(data)} bytes came")
        connection.settimeout(left)
        try:
            part = connection.recv(1 << 16)
        except TimeoutError:
            continue
        except ConnectionResetError:
            return bytes(data), "reset"
        if not part:
            return bytes(data), "fin"
        data += part
