"""The line between workspace and sidecar for datagrams: one that loses, delays, goes silent, or changes its NAT's port."""

import heapq
import random
import selectors
import socket
import threading
import time

DATAGRAM = 65_536
BUFFER = 8 << 20


class DatagramLine:
    """Relays datagrams to `target`. `loss` is a share, each way; `delay` in seconds; as a NAT it has one client at a time."""

    def __init__(self, target, loss=0.0, delay=0.0, jitter=0.0, seed=1, host="127.0.0.1"):
        self.target, self.loss, self.delay, self.jitter = target, loss, delay, jitter
        self.is_blocked = False
        self.carried = self.lost = self.rebinds = 0
        self._chance = random.Random(seed)
        self._inner = self._socket(host)
        self.listen_address = self._inner.getsockname()[:2]
        self._outer = self._socket(host)
        self._host = host
        self._client = None
        self._late = []
        self._number = 0
        self._must_rebind = self._must_end = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @staticmethod
    def _socket(host):
        one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
        one.setblocking(False)
        one.bind((host, 0))
        return one

    def rebind(self):
        """The NAT forgets its mapping: what comes next leaves from another port, and answers to the old one are lost."""
        before = self.rebinds
        self._must_rebind = True
        end = time.monotonic() + 10
        while self.rebinds == before:
            assert time.monotonic() < end, "the relay stands still"
            time.sleep(0.001)

    def _run(self):
        while not self._must_end:
            if self._must_rebind:
                self._must_rebind = False
                self._outer.close()
                self._outer = self._socket(self._host)
                self.rebinds += 1
            with selectors.DefaultSelector() as selector:
                selector.register(self._inner, selectors.EVENT_READ)
                selector.register(self._outer, selectors.EVENT_READ)
                ready = selector.select(self._patience())
            for key, _ in ready:
                self._read(key.fileobj)
            self._send_late()
        self._inner.close()
        self._outer.close()

    def _patience(self):
        return min(0.02, max(0.0, self._late[0][0] - time.monotonic())) if self._late else 0.02

    def _read(self, source):
        for _ in range(64):
            try:
                datagram, sender = source.recvfrom(DATAGRAM)
            except (BlockingIOError, ConnectionRefusedError):
                return
            if source is self._inner:
                self._client = sender
            if self.is_blocked or self._chance.random() < self.loss:
                self.lost += 1
                continue
            self.carried += 1
            wait = self.delay + self._chance.random() * self.jitter
            if wait > 0:
                self._number += 1
                heapq.heappush(self._late, (time.monotonic() + wait, self._number, source is self._inner, datagram))
            else:
                self._send(source is self._inner, datagram)

    def _send_late(self):
        now = time.monotonic()
        while self._late and self._late[0][0] <= now:
            _, _, is_up, datagram = heapq.heappop(self._late)
            self._send(is_up, datagram)

    def _send(self, is_up, datagram):
        try:
            if is_up:
                self._outer.sendto(datagram, self.target)
            elif self._client:
                self._inner.sendto(datagram, self._client)
        except OSError:
            # As a line does with what it has no room for.
            self.lost += 1

    def close(self):
        self._must_end = True
        self._thread.join(5)
