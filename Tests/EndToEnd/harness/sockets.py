"""Plain client sockets, and how a connection stands."""

import contextlib
import select
import socket
import threading
import time

from .waiting import NotSeen


def connect(address, timeout=30):
    connection = socket.create_connection(address, timeout=timeout)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


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


def send_in_background(connection, data):
    """Sends bytes and a FIN, while the caller reads."""

    def run():
        with contextlib.suppress(OSError):
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)

    threading.Thread(target=run, daemon=True).start()


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
