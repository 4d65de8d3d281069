"""The peer that was written from docs/PROTOCOL.md: against the document's vectors, and against itself.

    pip install noiseprotocol==0.3.1 pytest
    pytest Tests/EndToEnd/test_peer.py
"""

import contextlib
import os
import pathlib
import re
import socket
import struct
import time

import pytest
from peer import control, handshake, wire
from peer.agent import in_background
from peer.handshake import Initiation, Opened, generate_key, public_key
from peer.initiator import Workspace
from peer.responder import Sidecar
from peer.stream import StreamReset

# The library warns of ephemeral keys that are given to it. The vectors need that.
pytestmark = pytest.mark.filterwarnings("ignore:One of ephemeral keypairs")

PROTOCOL = pathlib.Path(__file__).parents[2] / "docs" / "PROTOCOL.md"


# ---- The document's vectors ----


def vectors(*sections):
    """The values of these sections of the document, by name. Of a name that comes twice the first counts."""
    text, values = PROTOCOL.read_text(encoding="utf-8"), {}
    for number in sections:
        part = re.search(rf"^### {re.escape(number)} .*?(?=^### |\Z)", text, re.M | re.S).group()
        for block in re.findall(r"```text\n(.*?)```", part, re.S):
            for name, digits in re.findall(r"^(\w.*?) =\n((?:  [0-9a-f]+\n)+)", block, re.M):
                values.setdefault(name, bytes.fromhex(digits))
            for name, index in re.findall(r"^(\w.*?) = 0x(\w+)$", block, re.M):
                values.setdefault(name, int(index, 16))
    return values


@pytest.mark.parametrize("section", ["20.2", "20.5", "20.6", "20.7"])
def test_handshake_is_that_of_the_vectors(section):
    values = vectors("20.1", section)
    stamp, payload = values["timestamp"], values["payload 1"]
    asked = wire.Parameters.decode(payload[12:])
    assert asked.connection_id == values["connection id named"]
    initiation = Initiation(
        values["initiator static private"],
        values["responder static public"],
        values["psk"],
        values["initiator index"],
        stamp,
        asked,
        values["initiator ephemeral private"],
    )
    assert initiation.payload == payload
    assert initiation.message == values["initiation"]

    opened = Opened(values["responder static private"], initiation.message, values["responder ephemeral private"])
    assert (opened.key, opened.timestamp, opened.remote) == (values["initiator static public"], stamp, asked)
    answer = wire.Parameters.decode(values["payload 2"])
    response, responder = opened.answer(values["psk"], values["responder index"], answer)
    assert response == values["response"]
    initiator = initiation.finish(response)
    assert initiator.remote.connection_id == values["connection id answered"]

    if section == "20.2":
        values |= vectors("20.3")
    for name in [name for name in values if re.fullmatch(r"\w+ \d+ message", name)]:
        who, number = name.split()[:2]
        sender, receiver = (initiator, responder) if who == "initiator" else (responder, initiator)
        frames = values[f"{who} {number} frames"]
        assert sender.seal(int(number), frames) == values[name]
        assert receiver.open(values[name]) == (int(number), frames)
        with pytest.raises(handshake.Dropped):
            receiver.open(values[name])
        again = b"".join(frame.encode() for frame in wire.read_frames(frames))
        assert again == frames.rstrip(b"\0") or again.ljust(len(frames), b"\0") == frames


def test_a_response_without_the_psk_leaves_the_handshake_waiting():
    values = vectors("20.1", "20.2")
    unset = PROTOCOL.read_text(encoding="utf-8").split("The same without a PSK")[1]
    other = bytes.fromhex("".join(re.search(r"response =\n((?:  \w+\n)+)", unset).group(1).split()))
    parameters = wire.Parameters.decode(values["payload 1"][12:])
    keys = (values["initiator static private"], values["responder static public"], values["psk"])
    initiation = Initiation(
        *keys, values["initiator index"], values["timestamp"], parameters, values["initiator ephemeral private"]
    )
    with pytest.raises(handshake.Dropped):
        initiation.finish(other)
    assert initiation.finish(values["response"])


def test_padding_fills_exactly():
    parameters = wire.Parameters(bytes(8), max_stream_data=4_096)
    for size in range(len(parameters.encode()) + 2, 300):
        padded = wire.pad_parameters(parameters.encode(), size)
        assert len(padded) == size and wire.Parameters.decode(padded) == parameters


# ---- Both peers ----

DATA = os.urandom(12_000_000)


@contextlib.contextmanager
def pair(psk=None, linger=600, **limits):
    private, own = generate_key(), generate_key()
    with contextlib.ExitStack() as stack:
        sidecar = Sidecar(own, {public_key(private): psk}, linger=linger, **limits)
        stack.callback(sidecar.shut)
        workspace = Workspace(private, sidecar.public, sidecar.address, psk or handshake.NO_PSK, **limits)
        stack.callback(workspace.shut)
        workspace.wait_connected()
        yield workspace, sidecar
        for agent in (workspace, sidecar):
            assert not [drop for drop in agent.drops if "open" in drop], agent.drops


def started(workspace, *ports):
    workspace.start(1, *ports)
    assert workspace.wait_message("started", "failed") == {"type": "started", "generation": 1}


@pytest.mark.parametrize("psk", [None, bytes(range(32))], ids=["no psk", "psk"])
def test_an_intercepted_request(psk):
    with pair(psk) as (workspace, sidecar):
        started(workspace, 8080)
        client = sidecar.intercept(8080)
        client.write(b"GET / HTTP/1.0\r\n\r\n")
        service, header = workspace.next_stream()
        assert header == control.Header(8080, "192.0.2.7", 40_000)
        assert service.read_exactly(18).startswith(b"GET /")
        service.write(bytes([control.CONNECTED]) + b"HTTP/1.0 204 No Content\r\n\r\n")
        service.end()
        assert client.read_to_end() == b"\0HTTP/1.0 204 No Content\r\n\r\n"
        client.end()
        assert service.read_to_end() == b""
        workspace.send_control({"type": "stop"})
        assert workspace.wait_message("withdrawn")
        assert workspace.wait_message("stopped")["total"] == 1
        held = sidecar.connection
        workspace.done()
        sidecar.wait(lambda: held.closed)
        assert held.closed.code == wire.DONE


def test_a_psk_that_differs_gives_no_connection():
    private, own = generate_key(), generate_key()
    sidecar = Sidecar(own, {public_key(private): bytes([1]) * 32})
    workspace = Workspace(private, sidecar.public, sidecar.address, bytes([2]) * 32)
    with pytest.raises(TimeoutError):
        workspace.wait_connected(1.5)
    assert any("PSK" in reason for reason in workspace.drops)
    workspace.shut()
    sidecar.shut()


@pytest.mark.parametrize("disturb", ["nothing", "rekey", "cut"])
def test_no_byte_is_lost(disturb):
    with pair() as (workspace, sidecar):
        started(workspace, 8080)
        client = sidecar.intercept(8080)
        service, _ = workspace.next_stream()
        first = workspace.connection.id
        got = {}

        def transfer(name, out, back):
            def write():
                for at in range(0, len(DATA), 50_000):
                    out.write(DATA[at : at + 50_000])
                out.end()

            def read():
                got[name] = back.read_to_end()

            return write, read

        join = in_background(*transfer("up", client, service), *transfer("down", service, client))
        for _ in range(5):
            time.sleep(0.03)
            if disturb != "nothing":
                getattr(workspace, disturb)()
        join()
        assert got["up"] == DATA and got["down"] == DATA
        assert workspace.connection.id == first and not workspace.resets
        assert all(len(w.connection.streams) >= 1 for w in (workspace, sidecar))
        expected = 1 if disturb == "nothing" else 6
        assert workspace.handshakes >= expected and len(sidecar.answered) >= expected
        # Both ends of the stream are done with, and its credit is back.
        for agent in (workspace, sidecar):
            agent.wait(lambda a=agent: list(a.connection.streams) == [0], what="streams to finish")


def test_start_is_sent_again_after_a_cut():
    with pair() as (workspace, _):
        started(workspace, 8080)
        workspace.cut()
        assert workspace.wait_message("started") == {"type": "started", "generation": 1}


def test_a_refused_resumption_resets_the_streams():
    with pair() as (workspace, sidecar):
        started(workspace, 8080)
        client = sidecar.intercept(8080)
        service, _ = workspace.next_stream()
        first = workspace.connection.id
        with sidecar.changed:
            held = sidecar.connection
            sidecar.forget(held)  # as a new start of the program would
        workspace.wait(lambda: workspace.resets == [first], what="the refusal")
        for end in (service, client):
            with pytest.raises(StreamReset):
                end.read()
        workspace.wait_connected()
        assert workspace.connection.id != first
        assert workspace.wait_message("started")["generation"] == 1
        client = sidecar.intercept(8080)
        service, header = workspace.next_stream()
        assert client.id == 1 and header.service_port == 8080


def test_a_second_program_with_the_key_replaces_the_first():
    with pair() as (workspace, sidecar):
        first = workspace.connection
        second = Workspace(workspace.private, sidecar.public, sidecar.address)
        second.wait_connected()
        workspace.wait(lambda: first.closed)
        assert first.closed.code == wire.REPLACED and not workspace.dialling
        assert sidecar.connection.id == second.connection.id != first.id
        second.shut()


def test_streams_are_reset_and_stopped():
    with pair() as (workspace, sidecar):
        started(workspace, 8080)
        client = sidecar.intercept(8080)
        service, _ = workspace.next_stream()
        service.reset(wire.TCP_RESET)
        service.stop(wire.TCP_RESET)
        with pytest.raises(StreamReset) as reset:
            client.read()
        assert reset.value.code == wire.TCP_RESET
        for agent in (workspace, sidecar):
            agent.wait(lambda a=agent: list(a.connection.streams) == [0], what="streams to finish")


def test_silence_keeps_a_connection_and_a_dead_peer_is_noticed():
    with pair(dead_after=1_000) as (workspace, sidecar):
        carrier = workspace.connection.carrier
        time.sleep(1.5)
        assert workspace.connection.carrier is carrier and not carrier.closed
        with sidecar.changed:  # stands still
            time.sleep(2)
            workspace.wait(lambda: carrier.closed, what="the sidecar to be held gone")
        workspace.wait(lambda: workspace.connection.carrier, what="a resumption")
        assert not workspace.resets


def test_a_responder_is_silent():
    with pair() as (workspace, sidecar):
        with socket.create_connection(sidecar.address) as sock:
            sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
            sock.settimeout(1)
            with pytest.raises(TimeoutError):
                sock.recv(1)
        stranger = Initiation(
            generate_key(),
            sidecar.public,
            handshake.NO_PSK,
            1,
            handshake.timestamp(),
            workspace.parameters(bytes(8)),
        )
        with socket.create_connection(sidecar.address) as sock:
            sock.sendall(struct.pack(">I", len(stranger.message)) + stranger.message)
            sock.settimeout(7)
            began = time.monotonic()
            assert sock.recv(1) == b""
            assert 4.5 < time.monotonic() - began < 6.5


def test_what_breaks_the_protocol_closes_the_connection():
    with pair() as (workspace, sidecar):
        first = workspace.connection
        with workspace.changed:
            first.numbered = numbered_with(first, wire.StreamData(4, 0, b"x").encode())
            first.ping()
        workspace.wake()
        workspace.wait(lambda: workspace.closed_with is not None)
        assert workspace.closed_with == wire.STREAM_LIMIT_ERROR
        workspace.wait(lambda: workspace.connection, 5, "a new connection after a second")
        assert workspace.connection.id != first.id


def numbered_with(connection, extra):
    """The connection's next message gets these bytes in front."""
    usual = connection.numbered

    def numbered(plaintext, room, sent):
        connection.numbered = usual
        return usual(extra + plaintext, room, sent)

    return numbered
