"""The byte-stream carrier: messages, each after its length (§8.1)."""

import socket
import struct

from .handshake import LARGEST_HANDSHAKE, SMALLEST_INITIATION
from .wire import DATA_OVERHEAD


class Carrier:
    def __init__(self, sock, now, silent=False):
        self.socket = sock
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.opened = now
        self.silent = silent  # a responder's, until a valid initiation has come
        self.discarding = self.closed = False
        self.incoming, self.outgoing = bytearray(), bytearray()
        self.largest = LARGEST_HANDSHAKE  # raised to max_message_size with the handshake
        self.key = self.connection = None  # whose it is, once that is known
        self.deadline = None  # at a responder: closed then, unless a session is confirmed
        self.initiations, self.first_sent, self.next_initiation = 0, None, None  # at an initiator

    def receive(self):
        """Reads what has come. False when the stream has ended."""
        for _ in range(16):
            try:
                data = self.socket.recv(256 * 1024)
            except BlockingIOError:
                return True
            except OSError:
                return False
            if not data:
                return False
            if not self.discarding:
                self.incoming += data
        return True

    def next_message(self):
        """The next whole message, or nothing. ValueError for a length that closes the stream."""
        if self.discarding or len(self.incoming) < 4:
            return None
        (length,) = struct.unpack_from(">I", self.incoming)
        if self.silent and not SMALLEST_INITIATION <= length <= LARGEST_HANDSHAKE:
            self.discarding, self.incoming = True, bytearray()
            return None
        if not DATA_OVERHEAD <= length <= self.largest:
            raise ValueError("a length out of bounds")
        if len(self.incoming) < 4 + length:
            return None
        message = bytes(self.incoming[4 : 4 + length])
        del self.incoming[: 4 + length]
        return message

    def queue(self, message):
        self.outgoing += struct.pack(">I", len(message)) + message

    def send(self):
        """Writes what it takes. False when the stream has ended."""
        while self.outgoing:
            try:
                count = self.socket.send(self.outgoing[: 256 * 1024])
            except BlockingIOError:
                return True
            except OSError:
                return False
            del self.outgoing[:count]
        return True

    def close(self, abort=False):
        self.closed = True
        if abort:  # a reset instead of a FIN: what lies in the buffers is gone
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()
