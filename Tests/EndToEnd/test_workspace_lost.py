"""The workspace is killed, frozen or replaced under load: what its clients see, and that nothing runs twice."""

import random
import socket
import time

import pytest
from harness.agents import Workspace
from harness.keys import KeyPair
from harness.load import Load, summary, who
from harness.pair import SERVICE
from harness.ports import address
from harness.servers import Server, echo
from harness.sockets import connect, ending, exchange, is_quiet
from harness.waiting import eventually, note
from harness.web import WebServer

DEAD_AFTER = 6


@pytest.fixture
def webs(closing):
    return closing(WebServer("environment")), closing(WebServer("workspace"))


@pytest.fixture
def echoes(closing):
    return closing(Server(echo)), closing(Server(echo))


def answers_after(load, name, moment):
    """A check for `eventually`: a request that began after the moment was answered by that server."""
    return lambda: any(o.answer == name and o.began > moment for o in list(load.outcomes))


@pytest.mark.parametrize("body", [b"", b"order" * 4000], ids=["GET", "POST"])
def test_killed_under_load_and_started_again(make_pair, webs, body):
    original, local = webs
    pair = make_pair(original=original.address, local=local.address).start()
    load = Load(pair.public, per_second=100, body=body)
    gaps = []  # from each kill's begin to its end: what was under way then may be lost
    for _ in range(2):
        eventually("the workspace answers under load", answers_after(load, "workspace", time.monotonic()), 1)
        time.sleep(random.uniform(0.2, 0.4))
        began = time.monotonic()
        pair.workspace.kill()
        killed = time.monotonic()
        gaps.append((began, killed))
        eventually(
            "after kill -9 of the workspace the original answers",
            answers_after(load, "environment", killed),
            DEAD_AFTER,
        )
        time.sleep(1)
        pair.start_workspace()
        eventually(
            "after the return of a killed workspace it answers", answers_after(load, "workspace", time.monotonic()), 1
        )
    time.sleep(0.3)
    outcomes = load.stop()

    def was_under_way(outcome):
        return any(outcome.began <= killed and outcome.began + outcome.took >= began for began, killed in gaps)

    lost = [outcome for outcome in outcomes if outcome.failure]
    print(summary(outcomes))
    assert all(was_under_way(outcome) for outcome in lost), summary([o for o in lost if not was_under_way(o)])
    note("the longest request over two kills", DEAD_AFTER, max(outcome.took for outcome in outcomes))
    if body:
        assert_ran_once(outcomes, original, local)


def assert_ran_once(outcomes, original, local):
    """Each POST was run by one server at most, and exactly once where its client has an answer."""
    runs = original.posted + local.posted
    assert len(runs) == len(set(runs)), "a POST was run twice"
    by_name = {"environment": set(original.posted), "workspace": set(local.posted)}
    for outcome in outcomes:
        if outcome.answer:
            assert str(outcome.number) in by_name[outcome.answer]


def test_answered_connections_are_reset_when_a_new_process_comes(make_pair, echoes):
    original, local = echoes
    pair = make_pair(original=original.address, local=local.address).start()
    held = [connect(pair.public) for _ in range(20)]
    for connection in held:
        exchange(connection, b"answered")
    pair.workspace.kill()
    with connect(pair.public) as connection:
        exchange(connection, b"the original is here")
    assert all(map(is_quiet, held)), "an answered connection did not wait for its workspace"
    pair.start_workspace()
    started = time.monotonic()
    for connection in held:
        assert ending(connection, 60) == (b"", "reset")
    note("answered connections are reset after the new process is ready", 1, time.monotonic() - started)
    assert (original.accepted, local.accepted) == (1, 20)


def test_answered_connections_are_reset_when_linger_ends(make_pair, echoes):
    original, local = echoes
    pair = make_pair(original=original.address, local=local.address, sidecar=["--linger", "8s"]).start()
    held = [connect(pair.public) for _ in range(20)]
    for connection in held:
        exchange(connection, b"answered")
    pair.workspace.kill()
    killed = time.monotonic()
    while time.monotonic() - killed < 7.5:
        assert all(map(is_quiet, held)), "an answered connection ended before linger did"
        time.sleep(0.1)
    for connection in held:
        assert ending(connection, 80) == (b"", "reset")
    note("answered connections are reset after kill -9 (--linger 8s)", 9, time.monotonic() - killed)
    # The sidecar is well.
    pair.start_workspace()
    with connect(pair.public) as connection:
        exchange(connection, b"again")
    assert local.accepted == 21


def test_connection_that_waits_for_its_answer_is_handed_over(make_pair, closing):
    """The workspace's server takes no connection: a client that has sent nothing yet loses nothing by a kill."""
    original = closing(Server(echo))
    full = closing(_FullBacklog())
    pair = make_pair(original=original.address, local=full.address).start()
    with connect(pair.public) as waiting:
        time.sleep(0.5)
        assert original.accepted == 0
        pair.workspace.kill()
        eventually(
            "an unanswered connection reaches the original after kill -9", lambda: original.accepted == 1, DEAD_AFTER
        )
        exchange(waiting, b"who is there?")


class _FullBacklog:
    """Listens, but whoever connects waits: the kernel's queue for it is full."""

    def __init__(self):
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=0)
        self.address = self._listener.getsockname()
        self._fillers = []
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(self.address)
            self._fillers.append(filler)
        time.sleep(0.1)

    def close(self):
        for end in (self._listener, *self._fillers):
            end.close()


def test_server_that_takes_no_connection_is_given_up(make_pair, closing):
    """The workspace waits 5 s for its server; then the original gets the connection with all that the client sent."""
    original = closing(Server(echo))
    full = closing(_FullBacklog())
    pair = make_pair(original=original.address, local=full.address).start()
    start = time.monotonic()
    with connect(pair.public, timeout=60) as client:
        exchange(client, b"sent before anyone answered")
    note("a server that takes no connection is given up", 5.5, time.monotonic() - start)
    assert original.accepted == 1


@pytest.mark.deadline(240)
def test_frozen_for_twenty_seconds_and_thawed(make_pair, echoes):
    """SIGSTOP: like a laptop's sleep. The connections that were answered go on afterwards."""
    original, local = echoes
    pair = make_pair(original=original.address, local=local.address).start()
    held = [connect(pair.public, timeout=60) for _ in range(20)]
    for number, connection in enumerate(held):
        exchange(connection, b"before %d" % number)
    pair.workspace.freeze()
    frozen = time.monotonic()
    for number, connection in enumerate(held):
        connection.sendall(b"during %d" % number)

    def original_answers():
        # Sends nothing until it is answered by someone, so that it can be handed over.
        before = original.accepted
        with connect(pair.public) as connection:
            try:
                eventually("the original is asked", lambda: original.accepted > before, 2)
                exchange(connection, b"hello")
                return True
            except (OSError, AssertionError):
                return False

    eventually("the original answers after SIGSTOP of the workspace", original_answers, DEAD_AFTER)
    time.sleep(max(0, frozen + 20 - time.monotonic()))
    assert all(map(is_quiet, held)), "an answered connection ended during the freeze"
    pair.workspace.thaw()
    thawed = time.monotonic()
    for number, connection in enumerate(held):
        message = b"during %d" % number
        assert connection.recv(len(message), socket.MSG_WAITALL) == message
        exchange(connection, b"after %d" % number)
    note("answered connections go on after SIGCONT", 1, time.monotonic() - thawed)
    before = local.accepted

    def workspace_answers():
        with connect(pair.public) as connection:
            exchange(connection, b"hello")
        return local.accepted > before

    eventually("new connections reach the workspace after SIGCONT", workspace_answers, 1)
    for connection in held:
        connection.close()


def test_second_process_with_the_same_key_replaces_the_first(make_pair, webs):
    pair = make_pair(original=webs[0].address, local=webs[1].address).start()
    first = pair.workspace
    pair.start_workspace()
    code = first.process.wait(30)
    assert code not in (0, -6, -11) and first.process.log().strip(), "the first process has to say why it stops"
    said = first.process.log().lower()
    assert "replaced" in said or "another" in said, said
    assert who(pair.public) == "workspace"


def test_workspace_with_another_key_waits_its_turn(make_pair, webs, processes, binaries):
    """One intercept a service: the second developer is told by whom, and the first keeps theirs."""
    other = KeyPair()
    pair = make_pair(original=webs[0].address, local=webs[1].address, sidecar=["--peer", other.public]).start()
    flags = pair.workspace_flags()
    flags[flags.index("--private-key-file") + 1] = other.write(pair.folder / "other.key")
    second = processes.start("kl-workspace", [binaries / "kl-workspace", "run", *flags])
    assert second.wait(60) in (1, 5)
    assert "intercepted" in second.log().lower()
    assert second.lines == []
    assert who(pair.public) == "workspace"
    assert pair.workspace.stop() == 0
    Workspace(processes, binaries, flags)
    assert who(pair.public) == "workspace"


def test_takeover_moves_new_connections_and_keeps_open_ones(make_pair, closing, processes, binaries):
    original, first, second = closing(Server(echo)), closing(Server(echo)), closing(Server(echo))
    other = KeyPair()
    sidecar = ["--peer", other.public, "--allow-takeover"]
    pair = make_pair(original=original.address, local=first.address, sidecar=sidecar).start()
    with connect(pair.public) as held:
        exchange(held, b"before")
        flags = pair.workspace_flags()
        flags[flags.index("--private-key-file") + 1] = other.write(pair.folder / "other.key")
        flags[flags.index("--map") + 1] = f"{SERVICE}:{address(*second.address)}"
        Workspace(processes, binaries, [*flags, "--takeover"])
        with connect(pair.public) as connection:
            exchange(connection, b"to the second")
        assert (original.accepted, first.accepted, second.accepted) == (0, 1, 1)
        eventually("who held the service is told", lambda: "taken over" in pair.workspace.process.log(), 1)
        exchange(held, b"after")
    assert pair.workspace.process.wait(30) == 5
