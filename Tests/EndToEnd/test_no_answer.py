"""A workspace that can't get through: it says after 10 s what it can be, and the reasons that it can tell apart."""

import os
import socket
import threading

import pytest
from harness.agents import endpoint
from harness.keys import KeyPair, new_psk, write_secret
from harness.load import ask
from harness.ports import address, free_port
from harness.servers import Server, read_all
from harness.web import WebServer

EVERYTHING = ("key", "clock", "version")


@pytest.fixture
def attempt(processes, binaries):
    """Starts a workspace that can't succeed; call it with several at once, since each takes 10 s."""

    def start(sidecar, *arguments):
        flags = ["run", "--sidecar", sidecar, "--map", "8080:3000", *arguments]
        return processes.start("kl-workspace", [binaries / "kl-workspace", *flags])

    return start


def must_fail(process, *words):
    code = process.wait(100)
    said = process.log()
    assert code == 1, f"ended with {code}:\n{said}"
    assert process.lines == []
    for word in words:
        assert word.lower() in said.lower(), f"{word} isn't in:\n{said}"


def test_reasons_that_silence_can_have(attempt, make_pair, closing, folder):
    """All at once: nothing listens; something silent, talking nonsense or forging listens; the keys are wrong."""
    silent = closing(Server(read_all))
    babbling = closing(Server(babble))
    forging = closing(Server(forge_response))
    pair = make_pair(original=("127.0.0.1", 9), local=("127.0.0.1", 9))
    pair.start_sidecar()
    nobody = ("127.0.0.1", free_port())
    known = ("--private-key-file", pair.workspace_key_file)
    key = pair.sidecar_key.public
    attempts = [
        (attempt(endpoint(key, *nobody)), ("refused", address(*nobody))),
        (attempt(endpoint(key, *silent.address)), (address(*silent.address), *EVERYTHING)),
        (attempt(endpoint(key, *babbling.address)), (address(*babbling.address),)),
        (attempt(endpoint(key, *forging.address)), (address(*forging.address),)),
        (attempt(endpoint(KeyPair().public, *pair.tunnel), *known), (address(*pair.tunnel), *EVERYTHING)),
        (attempt(endpoint(key, *pair.tunnel)), (address(*pair.tunnel), *EVERYTHING)),
    ]
    for process, words in attempts:
        must_fail(process, *words)
    # One line for each of them at most, and the sidecar runs.
    assert pair.sidecar.process.is_running
    assert len(pair.sidecar.process.log().splitlines()) < 20


def babble(connection):
    """Talks, and is not from here."""
    for _ in range(200):
        connection.sendall(os.urandom(1000))


def forge_response(connection):
    """Answers each initiation by something of the right form: type 2, the right index, the rest random."""
    while head := connection.recv(4, socket.MSG_WAITALL):
        initiation = connection.recv(int.from_bytes(head, "big"), socket.MSG_WAITALL)
        forged = b"\x02\0\0\0" + os.urandom(4) + initiation[4:8] + os.urandom(200)
        connection.sendall(len(forged).to_bytes(4, "big") + forged)


def test_preshared_keys_that_differ(attempt, make_pair, folder):
    """On both sides and different, and on one side only: the workspace knows this reason from the others."""
    one, other = (write_secret(folder / f"psk{number}", new_psk()) for number in range(2))
    attempts = []
    for sidecar, workspace in ((one, other), (one, None), (None, other)):
        flags = ["--preshared-key-file", sidecar] if sidecar else []
        pair = make_pair(original=("127.0.0.1", 9), local=("127.0.0.1", 9), sidecar=flags)
        pair.start_sidecar()
        arguments = ["--private-key-file", pair.workspace_key_file]
        if workspace:
            arguments += ["--preshared-key-file", workspace]
        attempts.append(attempt(endpoint(pair.sidecar_key.public, *pair.tunnel), *arguments))
    for process in attempts:
        must_fail(process, "preshared")


def test_preshared_key_on_both_sides(make_pair, closing, folder):
    secret = write_secret(folder / "psk", new_psk())
    original, local = closing(WebServer("environment")), closing(WebServer("workspace"))
    both = ["--preshared-key-file", secret]
    pair = make_pair(original=original.address, local=local.address, sidecar=both, workspace=both).start()
    assert ask(pair.public) == "workspace"


def test_port_that_the_sidecar_was_not_started_for(attempt, make_pair):
    pair = make_pair(original=("127.0.0.1", 9), local=("127.0.0.1", 9))
    pair.start_sidecar()
    arguments = ["--private-key-file", pair.workspace_key_file, "--map", "9999:3000"]
    must_fail(attempt(endpoint(pair.sidecar_key.public, *pair.tunnel), *arguments), "9999")


def test_sidecar_that_starts_a_little_later_is_no_error(make_pair, closing):
    """A refused connection at the start is tried again: two programs started at once find each other."""
    local = closing(WebServer("workspace"))
    pair = make_pair(original=("127.0.0.1", 9), local=local.address)
    later = threading.Timer(1.5, pair.start_sidecar)
    later.start()
    pair.start_workspace()
    later.join()
    assert ask(pair.public) == "workspace"
