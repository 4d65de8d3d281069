"""UDP services and their clients: in this network, or in another machine's."""

import socket
import subprocess
import sys
import threading

from .docker_project import PROGRAMS
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


def free_datagram_port(host="127.0.0.1"):
    """A UDP port that nobody has."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind((host, 0))
        return probe.getsockname()[1]


def start_server(processes, name, port, host="127.0.0.1", prefix=()):
    command = [*prefix, sys.executable, "-B", PROGRAMS / "udp_server.py", "--name", name, "--host", host]
    server = processes.start(name, [*command, "--port", str(port)])
    server.first_line(30)
    return server


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
