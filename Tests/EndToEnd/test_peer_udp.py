"""UDP services against a peer that is written from the protocol alone: what it says, and what it should never say."""

import contextlib
import io
import socket
import threading

import pytest
from harness.ports import free_port
from harness.udp import free_datagram_port
from harness.waiting import eventually
from peer import control, wire
from peer.handshake import NO_PSK, as_text, generate_key, public_key
from peer.initiator import Workspace
from peer.programs import Program, folder, key_file
from peer.responder import Sidecar

pytestmark = [
    pytest.mark.skipif(not folder(), reason="no programs: KL_BIN is unset and nothing was built"),
    pytest.mark.filterwarnings("ignore:One of ephemeral keypairs"),
]

PORT, NOBODY, UNMAPPED = 53, 54, 55
UDP = 17
FRAME = 65_535
# In KiB: what a program may grow by, and what a flow's socket is read into.
GROWTH, READING = 64 * 1_024, 64
FLOWS = 1_024


class Server:
    """A local UDP server: answers each payload with its name in front, from a thread."""

    def __init__(self, name):
        self.name = name
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        self.socket.bind(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.clients = set()
        threading.Thread(target=self.run, daemon=True).start()

    def run(self):
        with contextlib.suppress(OSError):
            while True:
                payload, client = self.socket.recvfrom(65_536)
                if payload == b"end":
                    return
                self.clients.add(client)
                self.socket.sendto(self.name + b" " + payload, client)

    def close(self):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
            last.sendto(b"end", ("127.0.0.1", self.port))
        self.socket.close()


def memory(program):
    """KiB that are resident."""
    with open(f"/proc/{program.process.pid}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))


def header(port=PORT, client="192.0.2.9", client_port=4_000):
    return control.Header(port, client, client_port, UDP).encode()


class Speaker:
    """Datagrams of one end of the peer's connection."""

    def __init__(self, agent):
        self.agent, self.connection = agent, agent.connection

    def say(self, *datagrams):
        with self.agent.changed:
            self.connection.outgoing_datagrams.extend(datagrams)
        self.agent.wake()

    def hear(self):
        """The next one: number, kind, body."""
        self.agent.wait(lambda: self.connection.datagrams, 10, "a datagram")
        with self.agent.changed:
            reader = wire.Reader(self.connection.datagrams.popleft())
        return reader.varint(), reader.take(1)[0], reader.rest()

    def opening(self, flow, payload, **more):
        self.say(wire.varint(flow) + b"\1" + header(**more) + payload)

    def payload(self, flow, payload):
        self.say(wire.varint(flow) + b"\0" + payload)

    def notice(self, flow, code):
        self.say(wire.varint(flow) + bytes([2, code]))


@pytest.fixture
def sidecar(tmp_path):
    """The peer as sidecar, and a real workspace."""
    private = generate_key()
    with contextlib.ExitStack() as stack:
        server = Server(b"ada")
        stack.callback(server.close)
        peer = Sidecar(generate_key(), {public_key(private): None}, max_datagram_frame_size=FRAME)
        stack.callback(peer.shut)
        where = "%s@tcp:%s:%d" % (as_text(peer.public), *peer.address)
        arguments = ["--private-key-file", key_file(tmp_path / "workspace.key", private), "--sidecar", where]
        arguments += ["--map", f"{PORT}:{server.port}/udp", "--map", f"{NOBODY}:{free_datagram_port()}/udp"]
        program = Program(tmp_path / "workspace.log", "kl-workspace", "run", *arguments)
        stack.callback(program.close)
        start = peer.wait_message("start")
        assert [port["transport"] for port in start["ports"]] == ["udp", "udp"]
        peer.speaker, peer.program, peer.server = Speaker(peer), program, server
        yield peer


def test_a_workspaces_answers(sidecar):
    speaker = sidecar.speaker
    speaker.payload(7, b"who?")
    assert speaker.hear() == (7, 2, b"\0")
    speaker.opening(7, b"one")
    assert speaker.hear() == (7, 0, b"ada one")
    speaker.payload(7, b"two")
    assert speaker.hear() == (7, 0, b"ada two")
    # The same client under another number keeps its socket, and the number before is nobody's.
    speaker.opening(8, b"three")
    assert speaker.hear() == (8, 0, b"ada three")
    assert len(sidecar.server.clients) == 1
    speaker.payload(7, b"four")
    assert speaker.hear() == (7, 2, b"\0")
    speaker.opening(9, b"", port=UNMAPPED)
    assert speaker.hear() == (9, 2, b"\2")
    speaker.opening(10, b"x", port=NOBODY)
    assert speaker.hear() == (10, 2, b"\1")
    speaker.opening(11, b"six", client="2001:db8::9")
    assert speaker.hear() == (11, 0, b"ada six")
    assert len(sidecar.server.clients) == 2


def test_what_no_sidecar_says_does_nothing_to_a_workspace(sidecar):
    speaker = sidecar.speaker
    speaker.opening(0, b"before")
    assert speaker.hear() == (0, 0, b"ada before")
    whole = wire.varint(1) + b"\1" + header()
    # Too short, another kind, a workspace's own.
    odd = [whole[:count] for count in range(len(whole))]
    odd += [b"\1" + bytes([kind]) + b"x" for kind in range(2, 256)] + [b"\1\2" + bytes([code]) for code in range(256)]
    speaker.say(*odd)
    # A version, a transport and a family that aren't known.
    for place, value in ((0, 2), (1, 6), (1, 0), (4, 9), (4, 0)):
        changed = bytearray(header())
        changed[place] = value
        speaker.say(wire.varint(2) + b"\1" + bytes(changed) + b"x")
        assert speaker.hear() == (2, 2, b"\4")
    speaker.payload(0, b"after")
    assert speaker.hear() == (0, 0, b"ada after")


def test_floods_of_flows_grow_nothing_at_a_workspace(sidecar):
    speaker = sidecar.speaker
    speaker.opening(0, b"before")
    assert speaker.hear() == (0, 0, b"ada before")
    before = memory(sidecar.program)
    # Numbers that nobody knows; one client under ever new numbers; ever new clients.
    for base in range(0, 100_000, 5_000):
        speaker.say(*(wire.varint(1_000_000 + base + number) + b"\0x" for number in range(5_000)))
    for number in range(5_000):
        speaker.opening(2_000_000 + number, b"", client_port=5_000)
    for number in range(5_000):
        speaker.opening(3_000_000 + number, b"", client="198.51.100.1", client_port=10_000 + number)

    def is_answered():
        # Who comes amid a flood may have to ask again.
        speaker.opening(4_000_000, b"after", client_port=4_001)
        return any(b"ada after" in one for one in list(sidecar.connection.datagrams))

    eventually("a client is answered after a flood", is_answered, 6, pause=0.5)
    assert memory(sidecar.program) - before < GROWTH + FLOWS * READING
    with open(f"/proc/{sidecar.program.process.pid}/net/udp") as sockets:
        theirs = sum(1 for line in sockets if line.split()[2].endswith(f":{sidecar.server.port:04X}"))
    assert theirs <= FLOWS


@pytest.fixture
def workspace(tmp_path):
    """The peer as workspace, and a real sidecar in front of an original."""
    private, own = generate_key(), generate_key()
    tcp, front = ("127.0.0.1", free_port()), ("127.0.0.1", free_datagram_port())
    with contextlib.ExitStack() as stack:
        original = Server(b"original")
        stack.callback(original.close)
        program = Program(
            tmp_path / "sidecar.log",
            *("kl-sidecar", "run", "--peer", as_text(public_key(private)), "--listen-tcp", "%s:%d" % tcp),
            *("--private-key-file", key_file(tmp_path / "sidecar.key", own)),
            *("--service-port", f"{PORT}:127.0.0.1:{original.port}/udp", "--divert", "listen=%s:%d" % front),
        )
        stack.callback(program.close)

        def join(**limits):
            peer = Workspace(private, public_key(own), tcp, NO_PSK, **limits)
            stack.callback(peer.shut)
            peer.wait_connected()
            peer.start(1, PORT, transport="udp")
            return peer

        client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        stack.callback(client.close)
        client.connect(front)
        client.settimeout(10)
        yield join, client, program


def test_a_sidecars_flow(workspace):
    join, client, _ = workspace
    peer = join(max_datagram_frame_size=FRAME)
    assert peer.wait_message("started", "failed") == {"type": "started", "generation": 1}
    speaker = Speaker(peer)
    client.send(b"one")
    flow, kind, body = speaker.hear()
    assert (flow, kind) == (0, 1)
    stream = io.BytesIO(body)
    assert control.Header.read(stream.read) == control.Header(PORT, *client.getsockname(), UDP)
    assert stream.read() == b"one"
    speaker.payload(0, b"answer")
    assert client.recv(100) == b"answer"
    # Once the frame is known to have come, payloads alone.
    peer.wait(lambda: _next_kind(client, speaker) == 0, 10, "a payload without a header")
    speaker.notice(0, 0)
    peer.wait(lambda: _next_kind(client, speaker) == 1, 10, "the header again")
    # What nobody should say: for flows that aren't there, of other kinds, its own kind.
    speaker.payload(99, b"from nowhere")
    speaker.say(b"", b"\0", b"\0\3x", b"\0\1" + header() + b"x", b"\0\2", b"\0\2\6", b"\0\2\1\1")
    speaker.payload(0, b"still here")
    assert client.recv(100) == b"still here"


def _next_kind(client, speaker):
    client.send(b"more")
    return speaker.hear()[1]


def test_what_a_workspace_refuses_is_the_originals(workspace):
    join, client, _ = workspace
    peer = join(max_datagram_frame_size=FRAME)
    peer.wait_message("started")
    speaker = Speaker(peer)
    client.send(b"one")
    assert speaker.hear()[:2] == (0, 1)
    client.send(b"two")
    speaker.hear()
    speaker.notice(0, 1)
    assert {client.recv(100), client.recv(100)} == {b"original one", b"original two"}
    client.send(b"three")
    assert client.recv(100) == b"original three"
    # Its number is not used again, and what comes for it is nobody's.
    speaker.payload(0, b"too late")
    other = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    other.connect(client.getpeername())
    other.send(b"another")
    assert speaker.hear()[:2] == (1, 1)
    other.close()
    client.send(b"four")
    assert client.recv(100) == b"original four"


def test_a_workspace_without_datagrams_is_told_so(workspace):
    join, client, _ = workspace
    failed = join().wait_message("started", "failed")
    assert (failed["type"], failed["code"]) == ("failed", "unsupported")
    client.send(b"one")
    assert client.recv(100) == b"original one"


def test_floods_of_a_workspace_grow_nothing_at_a_sidecar(workspace):
    join, client, program = workspace
    peer = join(max_datagram_frame_size=FRAME)
    peer.wait_message("started")
    speaker = Speaker(peer)
    client.send(b"one")
    speaker.hear()
    before = memory(program)
    for base in range(0, 100_000, 5_000):
        speaker.say(*(wire.varint(1 + base + number) + b"\0" + bytes(100) for number in range(5_000)))
    # Each asks for a stream, which there is once.
    speaker.say(*([wire.varint(0) + b"\2\5"] * 5_000))
    peer.wait(lambda: not peer.connection.outgoing_datagrams, 60, "all is sent")
    speaker.payload(0, b"after")
    assert client.recv(100) == b"after"
    assert memory(program) - before < GROWTH
    assert len(peer.connection.streams) <= 2
