"""The line between workspace and sidecar, as a relay that can be slow, go silent, or break at any moment."""

import contextlib
import socket
import struct
import threading
import time

from .servers import close_listener

# What the line holds on its own between its two sockets, each way; without a bound it would be megabytes.
BUFFER = 256 << 10
PIECE = 64 << 10


class Line:
    """Relays TCP connections to `target`. `rate` is in bytes a second, each way."""

    def __init__(self, target, rate=None, host="127.0.0.1"):
        self.target, self.rate = target, rate
        self.is_down = False  # a new connection is closed at once
        self.connections = []
        self._flowing = threading.Event()
        self._flowing.set()
        self._lock = threading.Lock()
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, 0), family=family, backlog=128)
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
        self.listen_address = self._listener.getsockname()[:2]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            if self.is_down:
                near.close()
                continue
            try:
                far = _dial(self.target)
            except OSError:
                near.close()
                continue
            with self._lock:
                self.connections.append(_Relayed(near, far, self.rate, self._flowing))

    @property
    def live(self):
        with self._lock:
            return [connection for connection in self.connections if connection.is_alive]

    def cut(self, by_reset=True):
        """Ends every connection at once: what is under way is lost (RST), or ends early (FIN). How many there were."""
        live = self.live
        for connection in live:
            connection.cut(by_reset)
        return len(live)

    def stall(self):
        """From now on not one byte moves, and nothing says so."""
        self._flowing.clear()

    def resume(self):
        self._flowing.set()

    def close(self):
        self.is_down = True
        close_listener(self._listener)
        self.resume()
        self.cut()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class _Relayed:
    """One connection through the line. `first_bytes` is the begin of what the dialling side sent."""

    def __init__(self, near, far, rate, flowing):
        self.near, self.far, self.rate, self.flowing = near, far, rate, flowing
        self.first_bytes = bytearray()
        self.is_cut = False
        self.by_reset = False
        self._pumping = 2
        self._lock = threading.Lock()
        for end in (near, far):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            end.settimeout(0.05)  # how late a thread sees that the line was cut
        threading.Thread(target=self._pump, args=(near, far, self.first_bytes), daemon=True).start()
        threading.Thread(target=self._pump, args=(far, near, None), daemon=True).start()

    @property
    def is_alive(self):
        return self._pumping == 2 and not self.is_cut

    def cut(self, by_reset):
        self.by_reset = by_reset
        self.is_cut = True
        for end in (self.near, self.far):
            # Wakes the reading thread and sends nothing.
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RD)

    def _pump(self, source, sink, record):
        buffer = memoryview(bytearray(PIECE))
        due = time.monotonic()
        try:
            while not self.is_cut:
                self.flowing.wait()
                try:
                    count = source.recv_into(buffer)
                except TimeoutError:
                    continue
                if self.is_cut or count == 0:
                    break
                if record is not None and len(record) < 4096:
                    record += buffer[:count]
                self.flowing.wait()
                self._forward(sink, buffer[:count])
                if self.rate:
                    # At most 20 ms of unused time are made up for.
                    due = max(due, time.monotonic() - 0.02) + count / self.rate
                    time.sleep(max(0, due - time.monotonic()))
        except OSError:
            pass
        self._end(sink)

    def _forward(self, sink, data):
        while data and not self.is_cut:
            try:
                data = data[sink.send(data) :]
            except TimeoutError:
                continue

    def _end(self, sink):
        with self._lock:
            self._pumping -= 1
            last = self._pumping == 0
        if not last and not self.is_cut:
            # A FIN on one side: pass it on, the other direction goes on.
            with contextlib.suppress(OSError):
                sink.shutdown(socket.SHUT_WR)
        if last:
            for end in (self.near, self.far):
                if self.is_cut and self.by_reset:
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                end.close()


def _dial(target):
    family = socket.AF_INET6 if ":" in target[0] else socket.AF_INET
    far = socket.socket(family)
    try:
        far.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
        far.settimeout(5)
        far.connect(target)
    except OSError:
        far.close()
        raise
    return far
