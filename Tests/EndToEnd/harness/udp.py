"""UDP services and their clients: in this network, or in another machine's."""

import collections
import contextlib
import select
import socket
import subprocess
import sys
import threading
import time

from .docker_project import PROGRAMS
from .ports import free_port
from .waiting import eventually


def ask(place, text=b"hello", *, source=None, timeout=2):
    """Who answers, and what; None where nobody does. The answer has to come from where it was asked."""
    family = socket.AF_INET6 if ":" in place[0] else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        if source:
            client.bind(source)
        client.connect(place)
        client.settimeout(timeout)
        try:
            client.send(text)
            name, _, rest = client.recv(65_536).partition(b" ")
        except (TimeoutError, ConnectionRefusedError):
            return None
        return name.decode(), rest


def who(place, **options):
    said = ask(place, **options)
    return said and said[0]


def who_each(place, count, timeout=2):
    """Who answers each of so many clients that ask at once, each from a port of its own; None where nobody does, also the
    second time."""
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(count)]
        names = dict.fromkeys(clients)
        for client in clients:
            client.connect(place)
        for _ in range(2):
            silent = {client for client in clients if not names[client]}
            for client in silent:
                client.send(b"hello")
            until = time.monotonic() + timeout
            while silent and (ready := select.select(silent, [], [], max(0, until - time.monotonic()))[0]):
                for client in ready:
                    names[client] = client.recv(65_536).partition(b" ")[0].decode()
                silent.difference_update(ready)
    return list(names.values())


def free_datagram_port():
    """A UDP port that nobody has."""
    return free_port(socket.SOCK_DGRAM)


def start_server(processes, name, port, host="127.0.0.1", prefix=()):
    command = [*prefix, sys.executable, "-B", PROGRAMS / "udp_server.py", "--name", name, "--host", host]
    server = processes.start(name, [*command, "--port", str(port)])
    server.first_line(30)
    return server


class LateServer:
    """Answers each payload with its name in front, some seconds after it came."""

    def __init__(self, name, port, late, host="127.0.0.1"):
        self.name, self.late = name, late
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self._socket.bind((host, port))
        self._must_end = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self):
        waiting = collections.deque()
        while not self._must_end:
            self._socket.settimeout(max(0.001, waiting[0][0] - time.monotonic()) if waiting else 0.05)
            with contextlib.suppress(TimeoutError):
                question = self._socket.recvfrom(65_536)
                waiting.append((time.monotonic() + self.late, *question))
            while waiting and waiting[0][0] <= time.monotonic():
                _, payload, client = waiting.popleft()
                self._socket.sendto(self.name.encode() + b" " + payload, client)
        self._socket.close()

    def close(self):
        self._must_end = True
        self._thread.join(5)


class FixedClient:
    """Asks from one port for as long as it lives; `answers` has who answered, in order."""

    def __init__(self, host, port, from_port, prefix=(sys.executable, "-B", "-u"), program=PROGRAMS / "udp_client.py"):
        command = [*map(str, prefix), str(program), "--host", host, "--port", str(port), "--from-port", str(from_port)]
        self.answers = []
        self._child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        for line in self._child.stdout:
            self.answers.append(line.strip())

    def comes_to(self, name, aim=3):
        """Waits until this side answers each of some questions in a row."""
        start = len(self.answers)
        eventually(
            f"a client with one port is answered by {name}",
            lambda: self.answers[start:][-3:] == [name] * 3,
            aim,
            pause=0.05,
        )

    def close(self):
        self._child.kill()
        self._child.wait(30)
        self._reader.join(30)
        self._child.stdout.close()
