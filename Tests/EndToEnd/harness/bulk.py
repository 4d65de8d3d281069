"""Long transfers in which not one byte may differ."""

import dataclasses
import hashlib
import itertools
import os
import queue
import socket
import threading
import time

from .servers import Server

CHUNK = 1 << 20
GIB = 1 << 30


class Sender(threading.Thread):
    """Sends so many bytes, then FIN. The bytes repeat nowhere, so that none can be lost, doubled or moved unseen.

    With `enough`, an event, it goes on until that is set: `size` is the least then, and at the end what it was.
    """

    def __init__(self, connection, size, enough=None):
        super().__init__(daemon=True)
        self.connection, self.size, self.enough = connection, size, enough
        self.sent = 0
        self.digest = hashlib.sha256()
        self.error = None
        self.start()

    def run(self):
        # Each chunk is another window of the same random bytes, with its number in front.
        source = memoryview(os.urandom(2 * CHUNK))
        chunk = bytearray(CHUNK)
        try:
            for number in itertools.count():
                if self.sent >= self.size:
                    if not self.enough or self.enough.is_set():
                        break
                    self.size += CHUNK
                shift = number * 7919 % CHUNK
                chunk[:] = source[shift : shift + CHUNK]
                chunk[:8] = number.to_bytes(8, "big")
                part = memoryview(chunk)[: self.size - self.sent]
                self.digest.update(part)
                self._send(part)
            self.connection.shutdown(socket.SHUT_WR)
        except OSError as error:
            self.error = error

    def _send(self, part):
        # Not sendall: `sent` shall be right also in the middle of a chunk.
        while part:
            count = self.connection.send(part)
            self.sent += count
            part = part[count:]


class Receiver(threading.Thread):
    """Reads up to FIN."""

    def __init__(self, connection):
        super().__init__(daemon=True)
        self.connection = connection
        self.received = 0
        self.digest = hashlib.sha256()
        self.error = None
        self.start()

    def run(self):
        buffer = bytearray(256 << 10)
        view = memoryview(buffer)
        try:
            while count := self.connection.recv_into(buffer):
                self.digest.update(view[:count])
                self.received += count
        except OSError as error:
            self.error = error


def finish(sender, receiver, deadline):
    """Waits for a transfer, and checks it; the seconds that it still took."""
    start = time.monotonic()
    for thread in (sender, receiver):
        thread.join(max(0, start + deadline - time.monotonic()))
    state = f"{sender.sent} of {sender.size} bytes sent, {receiver.received} received"
    assert not sender.error, f"the sender failed: {sender.error!r}; {state}"
    assert not receiver.error, f"the receiver failed: {receiver.error!r}; {state}"
    assert not sender.is_alive() and not receiver.is_alive(), f"not done in {deadline:g} s: {state}"
    assert receiver.received == sender.size, state
    assert receiver.digest.digest() == sender.digest.digest(), f"the bytes differ: {state}"
    return time.monotonic() - start


class BulkServer(Server):
    """Sends so many bytes on each connection, and reads what the client sends."""

    def __init__(self, size, host="127.0.0.1", enough=None):
        self.size, self.enough = size, enough
        self._transfers = queue.Queue()
        super().__init__(self.transfer, host)

    def transfer(self, connection):
        transfer = Transfer(Sender(connection, self.size, self.enough), Receiver(connection))
        self._transfers.put(transfer)
        transfer.sender.join()
        transfer.receiver.join()

    def next_transfer(self):
        """The transfer of the connection accepted next."""
        return self._transfers.get(timeout=30)


@dataclasses.dataclass
class Transfer:
    sender: Sender
    receiver: Receiver
