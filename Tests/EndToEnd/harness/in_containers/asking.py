"""Asks a service who it is, in the words of its protocol. Runs in containers: nothing but Python."""

import socket
import struct


class Broken(OSError):
    """The connection ended before the answer was whole."""


class Asker:
    """One connection to a service. `ask` says who answered."""

    def __init__(self, kind, host, port, timeout=10, headers=()):
        self.kind, self.headers = kind, headers
        self.socket = socket.create_connection((host, port), timeout=timeout)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.stream = self.socket.makefile("rb")
        if kind == "postgres":
            self._greet()

    def ask(self):
        return getattr(self, f"_ask_{self.kind}")()

    def close(self):
        self.stream.close()
        self.socket.close()

    def _line(self):
        line = self.stream.readline()
        if not line.endswith(b"\n"):
            raise Broken("the connection ended")
        return line.strip().decode()

    def _read(self, count):
        data = self.stream.read(count)
        if len(data) < count:
            raise Broken("the connection ended")
        return data

    def _ask_http(self):
        request = ["GET /who HTTP/1.1", "Host: service", *self.headers]
        self.socket.sendall("\r\n".join([*request, "", ""]).encode())
        status = self._line()
        if " 200 " not in status:
            raise Broken(f"answered {status}")
        length = 0
        while line := self._line():
            name, _, value = line.partition(":")
            if name.lower() == "content-length":
                length = int(value)
        return self._read(length).decode().strip()

    def _ask_redis(self):
        self.socket.sendall(b"*2\r\n$3\r\nGET\r\n$3\r\nwho\r\n")
        length = self._line()
        if not length.startswith("$") or length == "$-1":
            raise Broken(f"answered {length}")
        return self._read(int(length[1:]) + 2).decode().strip()

    def _greet(self):
        parameters = b"user\0postgres\0database\0postgres\0\0"
        self.socket.sendall(struct.pack("!ii", 8 + len(parameters), 196_608) + parameters)
        self._postgres_until_ready()

    def _ask_postgres(self):
        query = b"SHOW cluster_name\0"
        self.socket.sendall(b"Q" + struct.pack("!i", 4 + len(query)) + query)
        return self._postgres_until_ready()

    def _postgres_until_ready(self):
        row = None
        while True:
            kind, length = struct.unpack("!ci", self._read(5))
            body = self._read(length - 4)
            if kind == b"D":
                row = body[6:].decode()
            elif kind == b"E":
                raise Broken(body.replace(b"\0", b" ").decode())
            elif kind == b"Z":
                return row


def ask(kind, host, port, timeout=10, headers=()):
    """Who answers on a connection of its own."""
    asker = Asker(kind, host, port, timeout, headers)
    try:
        return asker.ask()
    finally:
        asker.close()
