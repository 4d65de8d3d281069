"""gRPC's health check over HTTP/2, as the kubelet asks it. `original.py` answers it.

Nothing is imported but what every Python has, and only whole frames are understood, without padding or priority.
"""

import socket
import struct

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, SETTINGS, GOAWAY = 0, 1, 4, 7
ACK, END_STREAM, END_HEADERS = 1, 1, 4
SERVING = b"\0\0\0\0\2\x08\x01"


def frame(kind, flags=0, stream=0, data=b""):
    return struct.pack(">I", len(data))[1:] + struct.pack(">BBI", kind, flags, stream) + data


def _read(connection, size):
    data = b""
    while len(data) < size:
        part = connection.recv(size - len(data))
        if not part:
            raise ConnectionError("the connection has ended")
        data += part
    return data


def next_frame(connection):
    """(kind, flags, stream, data)."""
    head = _read(connection, 9)
    size = int.from_bytes(head[:3], "big")
    kind, flags, stream = struct.unpack(">BBI", head[3:])
    return kind, flags, stream, _read(connection, size)


def _literal(name, value):
    """A header that no table has (RFC 7541, section 6.2.2); a number is a name of the static table."""
    if isinstance(name, int):
        start = bytes([name]) if name < 15 else bytes([15, name - 15])
    else:
        start = b"\0" + bytes([len(name)]) + name.encode()
    return start + bytes([len(value)]) + value.encode()


def check(connection, host):
    """What a kubelet does with a new connection: whether the other side says that it serves.

    The preface and an empty SETTINGS come first, and then nothing until the other side's SETTINGS are there.
    """
    connection.sendall(PREFACE + frame(SETTINGS))
    while True:
        kind, flags, _, _ = next_frame(connection)
        if kind == SETTINGS and not flags & ACK:
            break
    # :method POST, :scheme http
    block = b"\x83\x86" + _literal(4, "/grpc.health.v1.Health/Check") + _literal(1, host)
    block += _literal(31, "application/grpc") + _literal(58, "kube-probe/1.36 grpc-go/1.72.2") + _literal("te", "trailers")
    request = frame(HEADERS, END_HEADERS, 1, block) + frame(DATA, END_STREAM, 1, b"\0\0\0\0\0")
    connection.sendall(frame(SETTINGS, ACK) + request)
    answer = b""
    while True:
        kind, flags, stream, data = next_frame(connection)
        if kind == GOAWAY:
            return False
        if stream == 1:
            answer += data if kind == DATA else b""
            if flags & END_STREAM:
                return answer == SERVING


def serve(connection):
    """Answers every call with SERVING; the connection's first bytes have been looked at, but not read."""
    _read(connection, len(PREFACE))
    connection.sendall(frame(SETTINGS))
    while True:
        kind, flags, stream, _ = next_frame(connection)
        if kind == SETTINGS and not flags & ACK:
            connection.sendall(frame(SETTINGS, ACK))
        elif kind in (DATA, HEADERS) and flags & END_STREAM:
            # :status 200
            head = frame(HEADERS, END_HEADERS, stream, b"\x88" + _literal(31, "application/grpc"))
            trailers = frame(HEADERS, END_HEADERS | END_STREAM, stream, _literal("grpc-status", "0"))
            connection.sendall(head + frame(DATA, 0, stream, SERVING) + trailers)


def is_grpc(connection):
    """Whether it begins as HTTP/2 does; waits for that many bytes, or for others."""
    while True:
        start = connection.recv(len(PREFACE), socket.MSG_PEEK)
        if not start or not PREFACE.startswith(start):
            return False
        if start == PREFACE:
            return True
