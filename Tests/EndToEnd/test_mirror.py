"""Mirrors: a workspace gets a copy of what clients send, another side answers, and nobody else notices."""

import contextlib
import json
import os
import re
import select
import socket
import subprocess
import threading
import time

import pytest

from harness.agents import Sidecar, Workspace, endpoint, split_address
from harness.cable import Cable
from harness.keys import KeyPair
from harness.line import Line
from harness.load import ask
from harness.machine import needs_root
from harness.networks import network_of
from harness.ports import address, free_port
from harness.programs import nginx, postgres, redis, run
from harness.servers import Server, echo, read_all, reset
from harness.udp import free_datagram_port
from harness.waiting import eventually
from harness.web import WebServer
from peer.programs import folder as peer_programs
from peer.programs import get
from test_peer_sidecar import PORT, Setup
from test_udp import dns_server

SERVICE = 8080
MUCH = 4 << 20


class Recorder(Server):
    """Notes what is said on each connection and how it ends, in `said`, and passes it on to `target`, whose answers go back.
    Without a target it says nothing."""

    def __init__(self, target=None, **options):
        self.target, self.said = target, []
        super().__init__(self._record, **options)

    def _record(self, near):
        far = socket.create_connection(self.target) if self.target else None
        if far:
            threading.Thread(target=self._answer, args=(far, near), daemon=True).start()
        heard, end = bytearray(), "end"
        try:
            while data := near.recv(1 << 16):
                heard += data
                if far:
                    with contextlib.suppress(OSError):
                        far.sendall(data)
        except ConnectionResetError:
            end = "reset"
        if far:
            with contextlib.suppress(OSError):
                far.shutdown(socket.SHUT_WR)
        self.said.append((bytes(heard), end))

    @staticmethod
    def _answer(far, near):
        with far, contextlib.suppress(OSError):
            while data := far.recv(1 << 16):
                # The server isn't disturbed once its client has gone.
                with contextlib.suppress(OSError):
                    near.sendall(data)
            near.shutdown(socket.SHUT_WR)

    @property
    def texts(self):
        return sorted(text for text, _ in self.said)


class DatagramRecorder:
    """The same for datagrams: one socket towards the target for each client."""

    def __init__(self, target=None):
        self.target, self.said = target, []
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self.address = self._socket.getsockname()
        self._must_end = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self):
        clients, sockets = {}, {}
        while not self._must_end:
            for ready in select.select([self._socket, *sockets], [], [], 0.05)[0]:
                if ready is not self._socket:
                    self._socket.sendto(ready.recv(1 << 16), sockets[ready])
                    continue
                payload, client = self._socket.recvfrom(1 << 16)
                self.said.append(payload)
                if self.target:
                    if client not in clients:
                        clients[client] = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                        clients[client].connect(self.target)
                        sockets[clients[client]] = client
                    clients[client].send(payload)
        for far in [*sockets, self._socket]:
            far.close()

    @property
    def texts(self):
        return sorted(self.said)

    def close(self):
        self._must_end = True
        self._thread.join(5)


class Mirrored:
    """A service behind a sidecar, and workspaces by name."""

    def __init__(self, processes, binaries, folder, original, transport="", names=("ada", "bo"), flags=()):
        self.processes, self.binaries, self.transport = processes, binaries, transport
        self.keys = {name: KeyPair() for name in ("sidecar", *names)}
        self.files = {name: key.write(folder / f"{name}.key") for name, key in self.keys.items()}
        self.public = ("127.0.0.1", free_datagram_port() if transport else free_port())
        arguments = ["--private-key-file", self.files["sidecar"], "--listen-tcp", "127.0.0.1:0"]
        arguments += ["--listen-udp", "127.0.0.1:0", "--announce-intercepts"]
        arguments += [word for name in names for word in ("--peer", self.keys[name].public)]
        arguments += ["--service-port", f"{SERVICE}:{address(*original)}{transport}", "--divert", f"listen={address(*self.public)}"]
        self.sidecar = Sidecar(processes, binaries, [*arguments, *flags])

    def start(self, name, local, *flags, line=None, carrier="tcp"):
        there = line.listen_address if line else split_address(self.sidecar.ready[carrier])
        arguments = ["--private-key-file", self.files[name], "--map", f"{SERVICE}:{address(*local)}{self.transport}"]
        arguments += ["--sidecar", endpoint(self.keys["sidecar"].public, *there, carrier=carrier), *flags]
        return Workspace(self.processes, self.binaries, arguments)

    def mirror(self, name, local, *flags, **options):
        return self.start(name, local, "--mirror", *flags, **options)

    def holder(self, name):
        """What the sidecar last told of it; None: it holds nothing."""
        holders = json.loads(self.sidecar.process.lines[-1]).get("holders") or []
        return next((holder for holder in holders if holder["key"] == self.keys[name].public), None)

    def is_behind(self, name):
        eventually("a copy that fell behind is counted", lambda: (self.holder(name) or {}).get("behind", 0) > 0, 5)


@pytest.fixture
def mirrored(processes, binaries, folder):
    return lambda original, **options: Mirrored(processes, binaries, folder, original, **options)


@pytest.fixture
def recorder(closing):
    return lambda *arguments, **options: closing(Recorder(*arguments, **options))


def are_equal(copies, sent, count=None):
    if count:
        eventually("all clients have ended", lambda: len(sent.said) >= count, 5)
    eventually("the copies are what was sent", lambda: copies.texts == sent.texts, 5)
    assert not isinstance(copies, Recorder) or sorted(copies.said) == sorted(sent.said)


# What clients of real services send


def test_redis(processes, folder, mirrored, recorder):
    sent = recorder(redis(processes, folder / "redis"))
    second = redis(processes, folder / "second")
    copies = recorder(second)
    service = mirrored(sent.address)
    service.mirror("ada", copies.address)
    at = ["-h", service.public[0], "-p", service.public[1]]
    output = run("redis-benchmark", *at, "-n", 5_000, "-c", 20, "-P", 4, "-t", "set,incr,lpush", "--csv")
    assert len(re.findall(r'^"(?:SET|INCR|LPUSH)"', output, re.MULTILINE)) == 3, output
    assert run("redis-cli", *at, "get", "counter:__rand_int__").strip() == "5000"
    are_equal(copies, sent, 61)
    # They were run there, too.
    assert run("redis-cli", "-p", second[1], "get", "counter:__rand_int__").strip() == "5000"


def test_postgres(processes, folder, mirrored, recorder, monkeypatch):
    servers = [postgres(processes, folder / name) for name in ("postgres", "second")]
    for host, port in servers:
        run("pgbench", "-h", host, "-p", port, "-U", "tester", "-q", "-i", "-s", "1", "postgres")
    sent, copies = (recorder(server) for server in servers)
    service = mirrored(sent.address)
    service.mirror("ada", copies.address)
    # A server that is asked for TLS refuses a client that goes on before its answer, which the mirror's may be late with.
    monkeypatch.setenv("PGSSLMODE", "disable")
    monkeypatch.setenv("PGGSSENCMODE", "disable")
    at = ["-h", service.public[0], "-p", service.public[1], "-U", "tester"]
    output = run("pgbench", *at, "-n", "-c", 4, "-j", 2, "-t", 50, "postgres")
    assert "number of transactions actually processed: 200/200" in output, output
    assert "number of failed transactions: 0 (0.000%)" in output, output
    sums = "select count(*), sum(delta) = (select sum(abalance) from pgbench_accounts) from pgbench_history"
    ask_sums = ["-U", "tester", "-X", "-A", "-t", "-c", sums, "postgres"]
    assert run("psql", *at[:4], *ask_sums).strip() == "200|t"
    are_equal(copies, sent, 6)
    # They were run there, too.
    host, port = servers[1]
    eventually("it is done there, too", lambda: run("psql", "-h", host, "-p", port, *ask_sums).strip() == "200|t", 5)


def test_http2(processes, folder, mirrored, recorder):
    sent = recorder(nginx(processes, folder / "nginx", http2=True))
    copies = recorder()
    service = mirrored(sent.address)
    service.mirror("ada", copies.address)
    url = f"http://{service.public[0]}:{service.public[1]}/large"
    output = run("h2load", "-n", 2_000, "-c", 10, "-m", 10, url)
    assert "2000 succeeded, 0 failed, 0 errored, 0 timeout" in output and "protocol: h2c" in output, output
    are_equal(copies, sent, 10)


def test_dns(processes, folder, mirrored, closing):
    port = free_datagram_port()
    given = dns_server(processes, "original", port)
    sent, copies = closing(DatagramRecorder(("127.0.0.1", port))), closing(DatagramRecorder())
    service = mirrored(sent.address, transport="/udp")
    service.mirror("ada", copies.address)
    askers = []
    for client in range(10):
        names = folder / f"names-{client}"
        names.write_text("".join(f"c{client}-q{number}.test A\n" for number in range(20)))
        command = ["dig", "+noall", "+answer", "+tries=1", "+timeout=10", f"@{service.public[0]}"]
        command += ["-p", str(service.public[1]), "-f", str(names)]
        askers.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
    for asker in askers:
        lines = [line.split() for line in asker.communicate(timeout=120)[0].splitlines() if line.strip()]
        assert [line[-1] for line in lines] == [given] * 20
    assert len(sent.said) == 200
    are_equal(copies, sent)


@pytest.mark.parametrize("carrier", ["tcp", "udp"])
def test_datagrams_of_all_sizes(mirrored, closing, carrier):
    sent, copies = closing(DatagramRecorder()), closing(DatagramRecorder())
    service = mirrored(sent.address, transport="/udp")
    service.mirror("ada", copies.address, carrier=carrier)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.connect(service.public)
        for number, size in enumerate([0, 1, 1_000, 1_400, 9_000, 30_000, 10]):
            client.send(bytes([number]) * size)
            eventually("a payload is copied", lambda count=number + 1: len(copies.said) == count, 3)
    are_equal(copies, sent)


# Ends


@pytest.mark.parametrize("how", ["end", "reset"])
def test_a_copy_ends_as_its_client_does(mirrored, recorder, how):
    sent, copies = recorder(), recorder()
    service = mirrored(sent.address)
    service.mirror("ada", copies.address)
    with socket.create_connection(service.public) as client:
        client.sendall(b"half of")
        eventually("the bytes are there", lambda: copies.accepted == 1 and sent.accepted == 1, 3)
        (reset if how == "reset" else socket.socket.close)(client)
    eventually("both have ended", lambda: (sent.said, copies.said) == ([(b"half of", how)],) * 2, 5)


def test_a_client_that_its_server_ends_first(mirrored, recorder, closing):
    """Then the client's end is the last of that connection."""

    def greet(connection):
        connection.sendall(b"bye")
        connection.shutdown(socket.SHUT_WR)
        connection.recv(100)
        connection.recv(100)

    copies = recorder()
    service = mirrored(closing(Server(greet)).address)
    service.mirror("ada", copies.address)
    with socket.create_connection(service.public) as client:
        client.sendall(b"hello")
        assert read_all(client) == b"bye"
        client.shutdown(socket.SHUT_WR)
        eventually("the copy has ended", lambda: copies.said == [(b"hello", "end")], 5)


def test_a_mirrors_stop_ends_nobodys_connection(mirrored, recorder, closing):
    copies = recorder()
    service = mirrored(closing(Server(echo)).address)
    with socket.create_connection(service.public) as before:
        # Its beginning ends none, either, and copies none that was open.
        ada = service.mirror("ada", copies.address)
        before.sendall(b"old")
        assert before.recv(100) == b"old"
        with socket.create_connection(service.public) as client:
            client.sendall(b"new")
            assert client.recv(100) == b"new"
            eventually("it is copied", lambda: copies.accepted == 1, 3)
            assert ada.stop() == 0
            for connection in (before, client):
                connection.sendall(b"on")
                assert connection.recv(100) == b"on"
    eventually("the copy is reset", lambda: copies.said == [(b"new", "reset")], 5)
    assert service.holder("ada") is None


# Workspaces that can't follow


def upload(public, size=MUCH):
    """Sends so much, and hears how much has come."""
    with socket.create_connection(public, 60) as client:
        client.sendall(bytes(size))
        client.shutdown(socket.SHUT_WR)
        return int(read_all(client))


def count_all(connection):
    connection.sendall(str(len(read_all(connection))).encode())


def test_a_stopped_workspace(mirrored, recorder, closing):
    copies = recorder()
    service = mirrored(closing(Server(count_all)).address)
    ada = service.mirror("ada", copies.address)
    ada.freeze()
    for _ in range(5):
        assert upload(service.public) == MUCH
        assert upload(service.public, 10) == 10
    service.is_behind("ada")
    ada.thaw()

    def is_copied():
        assert upload(service.public, 1_000) == 1_000
        return (bytes(1_000), "end") in copies.said

    eventually("new clients are copied again", is_copied, 10, pause=0.1)
    # None looks complete that isn't.
    assert all(how == "reset" for text, how in copies.said if len(text) not in (10, 1_000))


def test_a_slow_way_to_the_workspace(mirrored, recorder, closing):
    copies = recorder()
    service = mirrored(closing(Server(count_all)).address)
    line = closing(Line(split_address(service.sidecar.ready["tcp"]), rate=10_000))
    service.mirror("ada", copies.address, line=line)
    began = time.monotonic()
    assert upload(service.public) == MUCH
    for _ in range(20):
        assert upload(service.public, 1_000) == 1_000
    # At 10 kB/s it would take minutes.
    assert time.monotonic() - began < 30
    service.is_behind("ada")


def test_local_servers_that_close_at_once(mirrored, closing):
    service = mirrored(closing(Server(count_all)).address)
    service.mirror("ada", closing(Server(lambda connection: None)).address)
    service.mirror("bo", closing(Server(reset)).address)
    for _ in range(10):
        assert upload(service.public, 1 << 20) == 1 << 20
    eventually("no copy is left", lambda: [service.holder(name)["open"] for name in ("ada", "bo")] == [0, 0], 10)


def test_without_a_local_server_nothing_is_asked_for(mirrored, recorder, closing):
    service = mirrored(closing(Server(count_all)).address)
    port = free_port()
    service.mirror("ada", ("127.0.0.1", port))
    for _ in range(20):
        assert upload(service.public, 1_000) == 1_000
    copies = recorder(port=port)

    def is_copied():
        assert upload(service.public, 999) == 999
        return (bytes(999), "end") in copies.said

    eventually("it is copied once a server is there", is_copied, 10)
    assert service.holder("ada")["behind"] == 0


@pytest.mark.skipif(not peer_programs(), reason="no programs: KL_BIN is unset and nothing was built")
@pytest.mark.parametrize("answer", [b"", b"\0", b"\4", b"\xff"], ids=["none", "connected", "other", "invalid"])
def test_a_workspace_that_says_garbage(tmp_path, answer):
    setup = Setup(tmp_path)
    with setup.stack:
        workspace = setup.workspace()
        workspace.wait_connected()
        ports = [{"service": PORT, "transport": "tcp"}]
        workspace.send_control({"type": "mirror", "generation": 1, "workspace": "peer", "ports": ports})
        assert workspace.wait_message("started", "failed") == {"type": "started", "generation": 1}
        for _ in range(10):
            assert get(setup.front) == "original"
            stream, header = workspace.next_stream()
            assert header.service_port == PORT
            with contextlib.suppress(Exception):
                stream.write(answer + os.urandom(100_000 if answer == b"\0" else 100))
        assert get(setup.front) == "original"
        workspace.send_control({"type": "stop"})
        assert workspace.wait_message("stopped")["total"] == 11


# Beside an intercept


def test_beside_an_intercept_and_while_its_holder_is_gone(mirrored, recorder, closing):
    original, local = closing(WebServer("original")), closing(WebServer("bo"))
    copies = recorder()
    service = mirrored(original.address)
    service.mirror("ada", copies.address)

    def is_asked(name, count):
        assert ask(service.public) == name
        eventually("the request is copied", lambda: len(copies.said) == count, 5)
        assert copies.said[-1][0].startswith(b"GET / HTTP/1.1\r\n") and copies.said[-1][0].endswith(b"\r\n\r\n")

    is_asked("original", 1)
    bo = service.start("bo", local.address)
    is_asked("bo", 2)
    bo.kill()
    eventually("the original answers: the holder is gone", lambda: not service.holder("bo")["isServed"], 5)
    is_asked("original", 3)


def test_a_client_that_the_holder_refuses_is_copied_once(mirrored, recorder, closing):
    original, copies = recorder(), recorder()
    service = mirrored(original.address)
    service.mirror("ada", copies.address)
    service.start("bo", ("127.0.0.1", free_port()))
    with socket.create_connection(service.public) as client:
        client.sendall(b"to the workspace, ")
        eventually("the original gets it", lambda: original.accepted == 1, 5)
        client.sendall(b"and to the original")
    are_equal(copies, original, 1)
    assert copies.texts == [b"to the workspace, and to the original"]


def test_the_proxy_header_precedes_the_bytes(mirrored, recorder, closing):
    copies = recorder()
    service = mirrored(closing(Server(count_all)).address)
    service.mirror("ada", copies.address, "--proxy-protocol", "v1")
    with socket.create_connection(service.public) as client:
        port = client.getsockname()[1]
        client.sendall(b"hello")
    header = f"PROXY TCP4 127.0.0.1 127.0.0.1 {port} {service.public[1]}\r\n".encode()
    eventually("the copy has ended", lambda: copies.said == [(header + b"hello", "end")], 5)


def test_probes_are_copied_where_they_are_wanted(mirrored, recorder, closing):
    probe = b"GET /healthz HTTP/1.1\r\nHost: a\r\nUser-Agent: kube-probe/1.29\r\nConnection: close\r\n\r\n"
    sent, without, every = recorder(closing(WebServer("original")).address), recorder(), recorder()
    service = mirrored(sent.address, flags=("--node-address", "127.0.0.1"))
    service.mirror("ada", without.address)
    service.mirror("bo", every.address, "--probes", "workspace")
    for request in (probe, probe.replace(b"kube-probe", b"curl")):
        with socket.create_connection(service.public) as client:
            client.sendall(request)
            assert read_all(client).endswith(b"original")
    are_equal(every, sent, 2)
    eventually("what is no probe is copied", lambda: without.texts == [probe.replace(b"kube-probe", b"curl")], 5)


def test_nobody_waits_because_of_a_mirror_for_whom_probes_matter(mirrored, recorder, closing):
    """A client that waits for its server's greeting would wait longest."""

    def greet(connection):
        connection.sendall(b"hello")
        count_all(connection)

    copies = recorder()
    service = mirrored(closing(Server(greet)).address, flags=("--node-address", "127.0.0.1"))
    service.mirror("ada", copies.address)
    times = []
    for _ in range(10):
        start = time.monotonic()
        with socket.create_connection(service.public) as client:
            assert client.recv(5) == b"hello"
            times.append(time.monotonic() - start)
            client.sendall(b"thanks")
    # One would be enough, but for a busy machine.
    assert min(times) < 0.15, times
    eventually("what is no probe is copied", lambda: copies.texts == [b"thanks"] * 10, 5)


# Behind a redirect


def test_with_a_redirect(processes, binaries, folder, closing, recorder):
    needs_root()
    cable = closing(Cable(112))
    with network_of(cable.service):
        sent = recorder(host="10.112.0.2", port=SERVICE)
    before, copies = cable.rules(), recorder()
    keys = {name: KeyPair() for name in ("sidecar", "ada")}
    files = {name: key.write(folder / f"{name}.key") for name, key in keys.items()}
    arguments = ["--private-key-file", files["sidecar"], "--peer", keys["ada"].public, "--listen-tcp", "127.0.0.1:0"]
    arguments += ["--netns", f"pid:{cable.service.pid}", "--divert", "redirect", "--service-port", str(SERVICE)]
    sidecar = Sidecar(processes, binaries, arguments)
    there = endpoint(keys["sidecar"].public, *sidecar.tunnel)
    arguments = ["--private-key-file", files["ada"], "--sidecar", there, "--map", f"{SERVICE}:{address(*copies.address)}"]
    ada = Workspace(processes, binaries, [*arguments, "--mirror"])

    def is_diverted():
        return re.search(rf"set live \{{[^{{}}]*\{{ {SERVICE}\b", cable.rules()) is not None

    assert is_diverted()
    for number in range(20):
        with network_of(cable.client):
            client = socket.create_connection(("10.112.0.2", SERVICE), 10)
        with client:
            client.sendall(os.urandom(1_000 * number + 1))
    are_equal(copies, sent, 20)
    assert ada.stop() == 0
    assert not is_diverted()
    sidecar.stop()
    eventually("the rules are as before", lambda: cable.rules() == before, 2)
