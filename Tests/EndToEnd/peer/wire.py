"""Bytes: varints, transport parameters, frames, and the outer messages' headers (§1, §3, §6, §10)."""

import struct
from dataclasses import dataclass, fields

INITIATION, RESPONSE, COOKIE_REPLY, DATA = 1, 2, 3, 4

# What an outer message adds to its plaintext: header and tag (§3).
DATA_OVERHEAD = 32
LARGEST_NUMBER = 2**62 - 1
LARGEST_COUNT = 2**60
LARGEST_MESSAGE = 65_552

# Errors of a connection (§14).
NO_ERROR, INTERNAL_ERROR = 0x00, 0x01
FLOW_CONTROL_ERROR, STREAM_LIMIT_ERROR, STREAM_STATE_ERROR, FINAL_SIZE_ERROR = 0x03, 0x04, 0x05, 0x06
FRAME_ENCODING_ERROR, PROTOCOL_VIOLATION = 0x07, 0x0A
DONE, REPLACED, REVOKED, CONTROL_ERROR = 0x100, 0x101, 0x102, 0x103

# Errors of a stream (§14).
TCP_RESET, TO_THE_ORIGINAL, TIMED_OUT, SHUTTING_DOWN = 0, 1, 2, 3


class Malformed(Exception):
    """Bytes that are not what they should be."""


def varint(value):
    """The shortest form. The two top bits of the first byte are the logarithm of the length."""
    for logarithm in range(4):
        bits = (8 << logarithm) - 2
        if value >> bits == 0:
            return (logarithm << bits | value).to_bytes(1 << logarithm, "big")
    raise ValueError(f"{value} is too large for a varint")


class Reader:
    def __init__(self, data):
        self.data, self.at = bytes(data), 0

    def __bool__(self):
        return self.at < len(self.data)

    def take(self, count):
        if count > len(self.data) - self.at:
            raise Malformed("ends too soon")
        self.at += count
        return self.data[self.at - count : self.at]

    def varint(self):
        first = self.take(1)[0]
        rest = self.take((1 << (first >> 6)) - 1)
        return int.from_bytes(bytes([first & 0x3F]) + rest, "big")

    def rest(self):
        return self.take(len(self.data) - self.at)


# ---- Outer messages (§3) ----


def message_type(message):
    """The type byte, or nothing if the three reserved bytes are not zero."""
    return message[0] if len(message) >= 4 and message[1:4] == bytes(3) else None


def data_header(receiver, counter):
    return struct.pack("<IIQ", DATA, receiver, counter)


def read_data_header(message):
    return struct.unpack_from("<4xIQ", message)


# ---- Transport parameters (§6) ----


@dataclass(frozen=True)
class Parameters:
    connection_id: bytes
    max_data: int = 0
    max_stream_data: int = 0
    max_streams: int = 0
    max_datagram_frame_size: int = 0
    max_message_size: int = 16_416
    dead_after: int = 6_000
    urgent: int = 0

    IDS = {
        0x04: "max_data",
        0x05: "max_stream_data",
        0x08: "max_streams",
        0x20: "max_datagram_frame_size",
        0x6B01: "connection_id",
        0x6B02: "max_message_size",
        0x6B03: "dead_after",
        0x6B04: "urgent",
    }

    def encode(self):
        out = b""
        for identifier, name in self.IDS.items():
            value = getattr(self, name)
            if name in ("max_datagram_frame_size", "urgent") and not value:
                continue  # absent means the same
            encoded = value if name == "connection_id" else varint(value)
            out += varint(identifier) + varint(len(encoded)) + encoded
        return out

    @classmethod
    def decode(cls, data):
        reader, found = Reader(data), {}
        while reader:
            name = cls.IDS.get(reader.varint())
            value = reader.take(reader.varint())
            if name is None:
                continue  # padding, or unknown
            if name in found:
                raise Malformed(f"{name} twice")
            if name != "connection_id":
                inner = Reader(value)
                value = inner.varint()
                if inner:
                    raise Malformed(f"{name} has a wrong length")
            found[name] = value
        if len(found.get("connection_id", b"")) != 8:
            raise Malformed("no connection id")
        result = cls(**found)
        if result.max_stream_data < 4_096 or result.max_streams > LARGEST_COUNT:
            raise Malformed("out of limits")
        if result.max_message_size < 1_280 or result.dead_after < 1_000:
            raise Malformed("out of limits")
        if result.max_message_size > LARGEST_MESSAGE:
            result = cls(**(found | {"max_message_size": LARGEST_MESSAGE}))
        return result


def pad_parameters(payload, size):
    """Fills up to `size` with a padding parameter, which has two bytes at least."""
    room = size - len(payload)
    if room <= 0:
        return payload
    if room == 1:
        raise ValueError("a padding parameter takes two bytes")
    value = room - 2
    length = varint(value)
    if len(length) > 1:
        value -= len(length) - 1
        length = (value | 0x4000).to_bytes(2, "big")  # perhaps one byte longer than it has to be
    return payload + varint(0) + length + bytes(value)


# ---- Frames (§10) ----


@dataclass
class Frame:
    """One whose fields are all varints, in order. The others write and read themselves."""

    eliciting = True

    def encode(self):
        return varint(self.TYPE) + b"".join(varint(getattr(self, field.name)) for field in fields(self))

    @classmethod
    def read(cls, reader, kind):
        return cls(*(reader.varint() for _ in fields(cls)))


@dataclass
class Ping(Frame):
    TYPE = 0x01


@dataclass
class Ack(Frame):
    ranges: list  # of (smallest, largest), the greatest first
    delay: int = 0
    TYPE = 0x02
    eliciting = False

    def encode(self):
        smallest, largest = self.ranges[0]
        out = [largest, self.delay, len(self.ranges) - 1, largest - smallest]
        for low, high in self.ranges[1:]:
            out += [smallest - high - 2, high - low]
            smallest = low
        return varint(self.TYPE) + b"".join(map(varint, out))

    @classmethod
    def read(cls, reader, kind):
        largest, delay, count, first = (reader.varint() for _ in range(4))
        ranges = [(largest - first, largest)]
        for _ in range(count):
            largest = ranges[-1][0] - reader.varint() - 2
            ranges.append((largest - reader.varint(), largest))
        if ranges[-1][0] < 0:
            raise Malformed("ACK of a number below 0")
        return cls(ranges, delay)


@dataclass
class ResetStream(Frame):
    stream: int
    code: int
    final_size: int
    TYPE = 0x04


@dataclass
class StopSending(Frame):
    stream: int
    code: int
    TYPE = 0x05


@dataclass
class StreamData(Frame):
    stream: int
    offset: int
    data: bytes
    fin: bool = False
    urgent: bool = False  # the last byte

    def encode(self):
        kind, where = 0x6B0A if self.urgent else 0x0A, b""  # always with a length, so that more can follow
        if self.offset:
            kind, where = kind | 0x04, varint(self.offset)
        if self.fin:
            kind |= 0x01
        return varint(kind) + varint(self.stream) + where + varint(len(self.data)) + self.data

    @classmethod
    def read(cls, reader, kind):
        stream = reader.varint()
        offset = reader.varint() if kind & 0x04 else 0
        data = reader.take(reader.varint()) if kind & 0x02 else reader.rest()
        if offset + len(data) > LARGEST_NUMBER:
            raise Malformed("stream offset too large")
        urgent = kind >= 0x6B08
        if urgent and not data:
            raise Malformed("no urgent byte")
        return cls(stream, offset, data, bool(kind & 0x01), urgent)


@dataclass
class MaxData(Frame):
    limit: int
    TYPE = 0x10


@dataclass
class MaxStreamData(Frame):
    stream: int
    limit: int
    TYPE = 0x11


@dataclass
class MaxStreams(Frame):
    limit: int
    TYPE = 0x12

    @classmethod
    def read(cls, reader, kind):
        frame = super().read(reader, kind)
        if frame.limit > LARGEST_COUNT:
            raise Malformed("too many streams")
        return frame


@dataclass
class DataBlocked(Frame):
    limit: int
    TYPE = 0x14


@dataclass
class StreamDataBlocked(Frame):
    stream: int
    limit: int
    TYPE = 0x15


@dataclass
class StreamsBlocked(MaxStreams):
    TYPE = 0x16


@dataclass
class Path(Frame):
    """PATH_CHALLENGE and PATH_RESPONSE, ignored on byte streams."""

    data: bytes

    @classmethod
    def read(cls, reader, kind):
        return cls(reader.take(8))


@dataclass
class Close(Frame):
    code: int
    reason: str = ""
    TYPE = 0x1D
    eliciting = False

    def encode(self):
        reason = self.reason.encode()[:256]
        return varint(self.TYPE) + varint(self.code) + varint(len(reason)) + reason

    @classmethod
    def read(cls, reader, kind):
        code = reader.varint()
        return cls(code, reader.take(reader.varint())[:256].decode(errors="replace"))


@dataclass
class Datagram(Frame):
    data: bytes

    def encode(self):
        return b"\x31" + varint(len(self.data)) + self.data

    @classmethod
    def read(cls, reader, kind):
        return cls(reader.take(reader.varint()) if kind & 1 else reader.rest())


FRAMES = {
    kind.TYPE: kind
    for kind in (Ping, Ack, ResetStream, StopSending, MaxData, MaxStreamData, MaxStreams)
    + (DataBlocked, StreamDataBlocked, StreamsBlocked, Close)
}
FRAMES |= {kind: StreamData for kind in (*range(0x08, 0x10), *range(0x6B08, 0x6B10))}
FRAMES |= {0x1A: Path, 0x1B: Path, 0x30: Datagram, 0x31: Datagram}


def read_frames(plaintext):
    reader, frames = Reader(plaintext), []
    while reader:
        kind = reader.varint()
        if kind == 0:
            continue  # PADDING
        if kind not in FRAMES:
            raise Malformed(f"frame type {kind:#x}")
        frames.append(FRAMES[kind].read(reader, kind))
    return frames
