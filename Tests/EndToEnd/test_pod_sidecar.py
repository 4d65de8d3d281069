"""What a sidecar in a pod needs: it stays a while without a use, goes on while the original does, and knows its gateways."""

import json
import signal
import subprocess
import time

import pytest
from harness.agents import Sidecar, Workspace, endpoint, split_address
from harness.cable import Cable, RedirectingAgents
from harness.keys import KeyPair
from harness.load import who
from harness.machine import needs_root
from harness.networks import network_of
from harness.ports import address, free_port
from harness.servers import Server, echo
from harness.sockets import connect, exchange
from harness.waiting import eventually
from harness.web import WebServer

PORT, NUMBER = 8080, 141
POD = (f"10.{NUMBER}.0.2", PORT)
PROBE = b"GET / HTTP/1.1\r\nHost: pod\r\nUser-Agent: kube-probe/1.36\r\nConnection: close\r\n\r\n"


class Pod(RedirectingAgents):
    """A sidecar that redirects in a network whose default gateway is the client's machine."""

    def __init__(self, processes, binaries, folder, cable):
        super().__init__(processes, binaries, folder, cable.service)
        self.cable, self.folder = cable, folder

    def begin(self, *flags):
        return self.start_sidecar(PORT, flags=flags)

    def run(self, *words):
        """A command of kl-sidecar's beside the sidecar: its exit code, and what it printed."""
        done = subprocess.run([self.binaries / "kl-sidecar", *words, "--to", address(*self.sidecar.tunnel)], capture_output=True, text=True, timeout=60)
        return done.returncode, json.loads(done.stdout)

    def ask(self):
        with network_of(self.cable.client):
            return who(POD)

    def open(self):
        with network_of(self.cable.client):
            return connect(POD, 60)

    def words(self, key, local):
        there = endpoint(self.keys["sidecar"].public, *self.sidecar.tunnel)
        name = key.write(self.folder / f"{key.public[:4].replace('/', '_')}.key")
        return ["--private-key-file", name, "--sidecar", there, "--map", f"{PORT}:{local.address[1]}"]


@pytest.fixture
def cable(closing):
    needs_root()
    cable = closing(Cable(NUMBER))
    cable.service.run("ip", "route", "add", "default", "via", f"10.{NUMBER}.0.1")
    cable.service.run("ip", "route", "add", "default", "via", f"fd6b:6c00:{NUMBER}::1")
    return cable


@pytest.fixture
def original(cable, closing):
    with network_of(cable.service):
        return closing(WebServer("environment", host="0.0.0.0", port=PORT))


@pytest.fixture
def local(closing):
    return closing(WebServer("workspace"))


@pytest.fixture
def pod(processes, binaries, folder, cable, original):
    return Pod(processes, binaries, folder, cable)


@pytest.mark.parametrize("carrier", ["tcp", "udp"])
def test_all_addresses_of_both_families(pod, binaries, processes, folder, local, carrier):
    """As in a pod with IPv6: one listener for both."""
    key, public = KeyPair(), ("127.0.0.1", free_port())
    words = ["--private-key-file", pod.files["sidecar"], "--peer", key.public, "--service-port", "8080:127.0.0.1:9"]
    words += ["--listen-tcp", "[::]:0", "--listen-udp", "[::]:0", "--divert", f"listen={address(*public)}"]
    sidecar = Sidecar(processes, binaries, words)
    port = split_address(sidecar.ready[carrier])[1]
    file = key.write(folder / "both.key")
    for host in ("127.0.0.1", "::1"):
        there = endpoint(sidecar.public_key, host, port, carrier)
        words = ["--private-key-file", file, "--sidecar", there, "--map", f"{PORT}:{local.address[1]}"]
        workspace = Workspace(processes, binaries, words)
        assert who(public) == "workspace"
        assert workspace.stop() == 0


# Without a use


def test_it_stays_for_the_idle_time_and_can_be_used_again(pod, cable, local):
    rules = cable.rules()
    sidecar = pod.begin("--ephemeral", "--idle", "2s", "--linger", "1s")
    workspace = pod.start_workspace(f"{PORT}:{local.address[1]}")
    # A holder counts for as long as it holds.
    for _ in range(3):
        time.sleep(1)
        assert pod.ask() == "workspace"
    assert workspace.stop() == 0
    eventually("the first key is forgotten", lambda: "forgetting it" in sidecar.process.log(), 2)
    bob = KeyPair()
    assert pod.run("admit", bob.public, "--claim", f"intercept:{PORT}")[0] == 0
    other = Workspace(pod.processes, pod.binaries, pod.words(bob, local))
    assert pod.ask() == "workspace"
    assert other.stop() == 0
    # The last one to leave doesn't end it at once.
    assert pod.run("leave", bob.public)[1]["isLast"] is True
    assert pod.run("holders")[0] == 0
    assert sidecar.process.wait(60) == 0
    assert "unused for the idle time" in sidecar.process.log()
    assert cable.rules() == rules


@pytest.mark.parametrize("admits", [False, True])
def test_it_ends_if_nobody_comes(pod, admits):
    """Also if a key was admitted whose workspace never came."""
    sidecar = pod.begin("--ephemeral", "--idle", "1s")
    if admits:
        pod.run("admit", KeyPair().public)
    assert sidecar.process.wait(60) == 0
    assert ("unused for the idle time" if admits else "no workspace has come") in sidecar.process.log()


# Told to end


def test_it_goes_on_while_the_original_listens(pod, cable, original, local):
    rules = cable.rules()
    sidecar = pod.begin("--grace", "600s")
    workspace = pod.start_workspace(f"{PORT}:{local.address[1]}")
    sidecar.process.signal(signal.SIGTERM)
    eventually("it has heard", lambda: "told to end" in sidecar.process.log(), 1)
    for _ in range(5):
        time.sleep(0.3)
        assert pod.ask() == "workspace"
    # Nobody else gets a port now.
    bob = KeyPair()
    code, answer = pod.run("admit", bob.public)
    assert code == 1 and answer["code"] == "ending", answer
    # The holder may come back.
    workspace.kill()
    pod.start_workspace(f"{PORT}:{local.address[1]}")
    assert pod.ask() == "workspace"
    original.close()
    assert sidecar.process.wait(60) == 0
    assert cable.rules() == rules
    assert pod.ask() is None


def test_who_held_nothing_before_gets_nothing(pod, binaries, local):
    sidecar = pod.begin("--grace", "600s")
    pod.start_workspace(f"{PORT}:{local.address[1]}")
    bob = KeyPair()
    assert pod.run("admit", bob.public)[0] == 0
    sidecar.process.signal(signal.SIGTERM)
    eventually("it has heard", lambda: "told to end" in sidecar.process.log(), 1)
    words = pod.words(bob, local)
    refused = pod.processes.start("kl-workspace", [binaries / "kl-workspace", "run", "--mirror", *words])
    assert refused.wait(60) != 0
    assert "this sidecar is ending" in refused.log()
    assert pod.ask() == "workspace"


def test_it_ends_before_it_would_be_killed(pod, cable, original, closing):
    """The original never stops listening. What is open is reset, and the workspace is told, before the grace period is over."""
    sidecar = pod.begin("--grace", "4s")
    echoing = closing(Server(echo))
    workspace = pod.start_workspace(f"{PORT}:{echoing.address[1]}")
    with pod.open() as connection:
        exchange(connection, b"hello")
        sidecar.process.signal(signal.SIGTERM)
        started = time.monotonic()
        exchange(connection, b"still here")
        assert sidecar.process.wait(60) == 0
        took = time.monotonic() - started
        with pytest.raises(ConnectionResetError):
            connection.recv(100)
    # Told what time it has, it doesn't take more; but this machine may be slow.
    assert 2.5 < took < 30, took
    assert pod.ask() == "environment"
    log = workspace.process.log
    eventually("the workspace knows", lambda: "lost" in log() or "closed" in log() or "ended" in log(), 2)


@pytest.mark.parametrize("flags", [[], ["--grace", "600s"]])
def test_without_a_holder_it_ends_at_once(pod, flags):
    sidecar = pod.begin(*flags)
    assert pod.ask() == "environment"
    assert sidecar.stop(60) == 0


def test_the_second_signal_ends_it_at_once(pod, cable, local):
    rules = cable.rules()
    sidecar = pod.begin("--grace", "600s")
    pod.start_workspace(f"{PORT}:{local.address[1]}")
    sidecar.process.signal(signal.SIGTERM)
    eventually("it has heard", lambda: "told to end" in sidecar.process.log(), 1)
    assert pod.ask() == "workspace"
    sidecar.process.signal(signal.SIGTERM)
    assert sidecar.process.wait(30) == 130
    eventually("its rules are gone", lambda: cable.rules() == rules, 1)
    assert pod.ask() == "environment"


def test_a_command_ends_it_without_grace(pod, local):
    sidecar = pod.begin("--grace", "600s")
    pod.start_workspace(f"{PORT}:{local.address[1]}")
    assert pod.run("end") == (0, {"ending": True})
    assert sidecar.process.wait(60) == 0


# Probes


@pytest.mark.parametrize("host", [POD[0], f"fd6b:6c00:{NUMBER}::2"])
def test_probes_from_the_gateway_reach_the_original(processes, binaries, folder, cable, closing, local, host):
    with network_of(cable.service):
        closing(WebServer("environment", host="::" if ":" in host else "0.0.0.0", port=PORT))
    pod = Pod(processes, binaries, folder, cable)
    pod.begin("--node-address", "gateway")
    pod.start_workspace(f"{PORT}:{local.address[1]}")
    for words, name in ((PROBE, b"environment"), (PROBE.replace(b"kube-probe/", b"curl/"), b"workspace")):
        with network_of(cable.client), connect((host, PORT), 60) as connection:
            connection.sendall(words)
            answer = b""
            while part := connection.recv(4096):
                answer += part
        assert answer.endswith(name), answer


def test_a_network_without_a_gateway(processes, binaries, folder, closing):
    needs_root()
    pod = Pod(processes, binaries, folder, closing(Cable(NUMBER)))
    sidecar = pod.begin("--node-address", "gateway", "--node-address", "10.0.0.1")
    eventually("it is said", lambda: "no default gateway" in sidecar.process.log(), 1)
