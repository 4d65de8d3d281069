"""What systemd has for services: sockets that are handed over, and datagrams that say how it goes."""

import json
import os
import signal
import socket

import pytest
from harness.agents import Sidecar
from harness.keys import KeyPair
from harness.load import Load, ask, summary
from harness.pair import SERVICE
from harness.ports import address
from harness.servers import Server, say
from harness.sockets import connect, ending, receive
from harness.waiting import eventually
from harness.web import WebServer

# Moves the descriptors to 3 and 4, and names the process that they are for, as a service manager would.
ACTIVATE = 'exec 3<&"$1" 4<&"$2"; shift 2; LISTEN_PID=$$; export LISTEN_PID; exec "$@"'


class Notifications:
    """An abstract socket that receives them, each as a dictionary."""

    def __init__(self):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind("")  # the kernel finds an abstract name
        self.socket.settimeout(10)
        self.name = "@" + self.socket.getsockname()[1:].decode()

    def next(self):
        return dict(line.split("=", 1) for line in self.socket.recv(4096).decode().split("\n"))

    def until(self, name, value):
        while (message := self.next()).get(name) != value:
            pass
        return message

    def close(self):
        self.socket.close()


@pytest.fixture
def notifications(closing):
    return closing(Notifications())


@pytest.fixture
def pair(make_pair, closing):
    webs = closing(WebServer("environment")), closing(WebServer("workspace"))
    return make_pair(original=webs[0].address, local=webs[1].address)


def start_activated(pair, listeners, environment):
    """Starts the pair's sidecar with the tunnel's and the service's listener."""
    numbers = [str(listener.fileno()) for listener in listeners]
    command = ["/bin/bash", "-c", ACTIVATE, "bash", *numbers, pair.binaries / "kl-sidecar", "run", *pair.sidecar_flags()]
    environment = {"LISTEN_FDS": "2", "LISTEN_FDNAMES": "tunnel:8080", **environment}
    options = {"environment": environment, "pass_descriptors": [listener.fileno() for listener in listeners]}
    pair.sidecar = Sidecar.started_by(pair.processes, command, **options)


def test_sockets_outlive_the_sidecar(pair, closing):
    """Clients that come while there is no sidecar wait in the socket, and the next one takes them."""
    listeners = [closing(socket.create_server(where, backlog=1024)) for where in (pair.tunnel, pair.public)]
    start_activated(pair, listeners, {})
    assert pair.sidecar.ready["tcp"] == address(*pair.tunnel)
    assert pair.sidecar.ready["listen"] == {"8080": address(*pair.public)}
    pair.start_workspace()
    assert ask(pair.public) == "workspace"
    pair.workspace.stop()
    load = Load(pair.public, per_second=200)
    eventually("the load is under way", lambda: len(load.outcomes) > 100, 2)
    pair.sidecar.kill()
    start_activated(pair, listeners, {})
    eventually("the load goes on", lambda: len(load.outcomes) > 400, 5)
    outcomes = load.stop()
    # What was open when it was killed is reset; nobody is refused.
    assert not [outcome for outcome in outcomes if "refused" in (outcome.failure or "")], summary(outcomes)
    assert sum(outcome.failure is not None for outcome in outcomes) <= 20, summary(outcomes)
    assert pair.sidecar.stop() == 0


def test_whoever_waited_in_the_socket_hears_of_a_killed_sidecar(make_pair, closing):
    """A connection that came before the sidecar has inherited none of what the sidecar wants of its sockets."""
    original = closing(Server(say(b"hello")))
    pair = make_pair(original=original.address, local=original.address)
    listeners = [closing(socket.create_server(where, backlog=8)) for where in (pair.tunnel, pair.public)]
    with connect(pair.public) as client:
        start_activated(pair, listeners, {})
        assert receive(client, 5) == b"hello"
        pair.sidecar.kill()
        assert ending(client, 60) == (b"", "reset")


def test_sockets_for_another_process_are_ignored(pair, closing):
    """LISTEN_PID names the shell that started us, say: the descriptors are not ours to touch."""
    listener = closing(socket.create_server(("127.0.0.1", 0)))
    environment = {"LISTEN_FDS": "1", "LISTEN_PID": str(os.getpid()), "LISTEN_FDNAMES": "tunnel"}
    pair.start_sidecar(environment=environment)
    assert pair.sidecar.ready["tcp"] == address(*pair.tunnel)
    assert ask(pair.public) == "environment"
    del listener


def test_notifications(pair, notifications):
    """Ready, who intercepts and how many connections that were, the keys read again, and the end."""
    pair.start_sidecar(environment={"NOTIFY_SOCKET": notifications.name})
    assert notifications.next() == {"READY": "1"}
    idle = {"X_KL_DIVERTING": "", "X_KL_OPEN": "0", "X_KL_TOTAL": "0", "X_KL_PASSED": "0"}
    idle["X_KL_ORIGINAL_SEES"] = "sidecar"
    assert notifications.next() == idle | {"X_KL_HOLDERS": "[]"}
    pair.start_workspace()
    told = notifications.next()
    (holder,) = json.loads(told.pop("X_KL_HOLDERS"))
    assert told == idle | {"X_KL_DIVERTING": pair.workspace_key.public}
    told = {name: holder[name] for name in ("key", "kind", "ports", "isServed", "total")}
    ports = [str(SERVICE)]
    assert told == {"key": pair.workspace_key.public, "kind": "intercept", "ports": ports, "isServed": True, "total": 0}
    for _ in range(3):
        assert ask(pair.public) == "workspace"
    assert notifications.until("X_KL_TOTAL", "3")["X_KL_PASSED"] == "0"
    assert pair.workspace.stop() == 0
    assert notifications.until("X_KL_DIVERTING", "")
    pair.sidecar.process.signal(signal.SIGTERM)
    assert notifications.until("STOPPING", "1")
    assert pair.sidecar.process.wait(30) == 0


def test_keys_are_read_again_at_once(pair, notifications, folder):
    """After SIGHUP, and before the answer to it, a new key is known."""
    peers = folder / "peers"
    peers.write_text(KeyPair().public + "\n")
    flags = pair.sidecar_flags()
    at = flags.index("--peer")
    flags[at : at + 2] = ["--peers-file", peers]
    pair.sidecar_flags = lambda: flags
    pair.start_sidecar(environment={"NOTIFY_SOCKET": notifications.name})
    notifications.until("READY", "1")
    peers.write_text(pair.workspace_key.public + "\n")
    pair.sidecar.process.signal(signal.SIGHUP)
    assert int(notifications.until("RELOADING", "1")["MONOTONIC_USEC"]) > 0
    assert notifications.next() == {"READY": "1"}
    pair.start_workspace()
    assert ask(pair.public) == "workspace"
