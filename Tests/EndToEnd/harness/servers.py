"""Small TCP servers for one question each; a connection is a function's argument, in a thread of its own."""

import contextlib
import socket
import struct
import threading


class Server:
    """Accepts on a port of this host, and runs handle(connection) for each connection."""

    def __init__(self, handle, host="127.0.0.1", port=0, backlog=1024):
        self.handle = handle
        self.accepted = 0
        self.errors = []
        self._open = set()
        self._lock = threading.Lock()
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, port), family=family, backlog=backlog)
        self.address = self._listener.getsockname()[:2]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self.accepted += 1
                self._open.add(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection):
        try:
            self.handle(connection)
        except OSError as error:
            self.errors.append(error)
        finally:
            with self._lock:
                self._open.discard(connection)
            connection.close()

    def close(self):
        """Stops listening, and ends what is open."""
        close_listener(self._listener)
        with self._lock:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def close_listener(listener):
    """Closes a listening socket that a thread may wait in: without the shutdown, the kernel would go on listening."""
    with contextlib.suppress(OSError):
        listener.shutdown(socket.SHUT_RDWR)
    listener.close()


def read_all(connection):
    """Everything up to the other side's FIN."""
    parts = []
    while data := connection.recv(1 << 16):
        parts.append(data)
    return b"".join(parts)


def echo(connection):
    buffer = bytearray(1 << 16)
    view = memoryview(buffer)
    while count := connection.recv_into(buffer):
        connection.sendall(view[:count])


def say(word):
    """A handler that says a word first and then echoes, as servers do that greet."""

    def handle(connection):
        connection.sendall(word)
        echo(connection)

    return handle


def reset(connection):
    """Closes by RST."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
