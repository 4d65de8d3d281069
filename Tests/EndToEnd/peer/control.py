"""Control messages (§16) and the header of an intercepted connection (§17.1)."""

import ipaddress
import json
import struct
from dataclasses import dataclass

from . import wire
from .stream import ProtocolError

LARGEST = 65_536
TCP = 6
CONNECTED, REFUSED, NOT_MAPPED, CONNECT_TIMED_OUT, OTHER = range(5)


def encode(message):
    text = json.dumps(message, ensure_ascii=False).encode()
    return len(text).to_bytes(4, "big") + text


class Parser:
    def __init__(self):
        self.buffer = b""

    def feed(self, data):
        self.buffer += data
        while len(self.buffer) >= 4:
            (length,) = struct.unpack_from(">I", self.buffer)
            if length > LARGEST:
                raise ProtocolError(wire.CONTROL_ERROR, "a control message is too long")
            if len(self.buffer) < 4 + length:
                return
            text, self.buffer = self.buffer[4 : 4 + length], self.buffer[4 + length :]
            yield self.parse(text)

    @staticmethod
    def parse(text):
        try:
            message = json.loads(text)
        except ValueError:
            raise ProtocolError(wire.CONTROL_ERROR, "not JSON") from None
        if not isinstance(message, dict) or not isinstance(message.get("type"), str):
            raise ProtocolError(wire.CONTROL_ERROR, "no object with a type")
        return message


@dataclass
class Header:
    service_port: int
    client: str
    client_port: int
    transport: int = TCP

    def encode(self):
        address = ipaddress.ip_address(self.client)
        head = struct.pack(">BBHB", 1, self.transport, self.service_port, address.version)
        return head + address.packed + struct.pack(">H", self.client_port)

    @classmethod
    def read(cls, read_exactly):
        """`read_exactly(n)` gives n bytes. ValueError means that the answer is OTHER."""
        version, transport, port, family = struct.unpack(">BBHB", read_exactly(5))
        if version != 1 or transport not in (6, 17) or family not in (4, 6):
            raise ValueError("an unknown version, transport or family")
        address = ipaddress.ip_address(read_exactly(4 if family == 4 else 16))
        (client_port,) = struct.unpack(">H", read_exactly(2))
        return cls(port, str(address), client_port, transport)
