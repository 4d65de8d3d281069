"""As much HTTP/2 as a gRPC health check needs, in plain frames: a server that minds the rules, and a client that waits."""

import struct

from .servers import Server
from .sockets import receive

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 4, 6, 7, 8
ACK, END_STREAM, END_HEADERS = 1, 1, 4


class ProtocolError(Exception):
    pass


def frame(kind, flags=0, stream=0, payload=b""):
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def read_frame(connection):
    """Kind, flags, stream and payload; None at the end."""
    header = receive(connection, 9)
    if len(header) < 9:
        return None
    length = int.from_bytes(header[:3], "big")
    kind, flags, stream = struct.unpack(">BBI", header[3:])
    return kind, flags, stream, bytes(receive(connection, length))


def literal(name, value):
    """A header field without an index or Huffman's code."""
    return b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value


class HealthServer(Server):
    """Answers each request with its own name, after settings that a client has to keep. Like Go's and Node's servers it ends the
    connection when settings are acknowledged that it hasn't sent: `errors` has a ProtocolError then."""

    def __init__(self, name, **options):
        self.name = name
        super().__init__(self._talk, **options)

    def _talk(self, connection):
        if receive(connection, len(PREFACE)) != PREFACE:
            self.errors.append(ProtocolError("no preface"))
            return
        connection.sendall(frame(SETTINGS, payload=struct.pack(">HI", 3, 100)))
        unacknowledged = 1
        while received := read_frame(connection):
            kind, flags, stream, _ = received
            if kind == SETTINGS and flags & ACK:
                unacknowledged -= 1
                if unacknowledged < 0:
                    self.errors.append(ProtocolError("an acknowledgement of settings that weren't sent"))
                    connection.sendall(frame(GOAWAY, payload=struct.pack(">II", 0, 1)))
                    return
            elif kind == SETTINGS:
                connection.sendall(frame(SETTINGS, ACK))
            elif kind == PING and not flags & ACK:
                connection.sendall(frame(PING, ACK, payload=received[3]))
            elif kind == HEADERS:
                connection.sendall(frame(HEADERS, END_HEADERS, stream, b"\x88"))
                connection.sendall(frame(DATA, END_STREAM, stream, self.name.encode()))


class Client:
    """Sends preface and settings. Unless told otherwise it then waits for the server's settings, as grpc-go does."""

    def __init__(self, connection):
        self.connection, self.streams = connection, 0
        connection.sendall(PREFACE + frame(SETTINGS))
        self.settings = 0

    def wait_for_settings(self):
        while not self.settings:
            self._take()

    def ask(self, path, agent):
        """Who answers."""
        stream = 1 + 2 * self.streams
        self.streams += 1
        block = b"\x83\x86" + literal(b":path", path) + literal(b"user-agent", agent)
        self.connection.sendall(frame(HEADERS, END_HEADERS | END_STREAM, stream, block))
        answer = b""
        while True:
            kind, flags, its, payload = self._take()
            if its == stream and kind == DATA:
                answer += payload
                if flags & END_STREAM:
                    return answer.decode()

    def ping(self):
        self.connection.sendall(frame(PING, payload=b"12345678"))
        while self._take()[0] != PING:
            pass

    def _take(self):
        received = read_frame(self.connection)
        if received is None:
            raise ConnectionResetError("the server has ended the connection")
        kind, flags, _, _ = received
        if kind == GOAWAY:
            raise ProtocolError("the server gives up")
        if kind == SETTINGS and not flags & ACK:
            self.settings += 1
            self.connection.sendall(frame(SETTINGS, ACK))
        return received
