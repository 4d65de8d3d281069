"""Who answers: the original service, the workspace, and the original again, whatever is missing on the way."""

import time

import pytest
from harness import sockets
from harness.line import Line
from harness.load import Load, ask, summary, who
from harness.pair import SERVICE
from harness.ports import address, free_port
from harness.servers import Server, echo, read_all
from harness.waiting import eventually
from harness.web import WebServer


@pytest.fixture
def webs(closing):
    return closing(WebServer("environment")), closing(WebServer("workspace"))


@pytest.fixture
def pair(make_pair, webs):
    original, local = webs
    return make_pair(original=original.address, local=local.address)


def answered_by(pair, name, aim=1):
    eventually(f"{name} answers", lambda: who(pair.public) == name, aim)


def test_original_answers_until_a_workspace_comes_and_after_it_has_gone(pair):
    pair.start_sidecar()
    assert ask(pair.public) == "environment"
    pair.start_workspace()
    # No waiting: ready means that the sidecar diverts.
    assert ask(pair.public) == "workspace"
    assert pair.workspace.stop() == 0
    assert ask(pair.public) == "environment"
    assert pair.sidecar.stop() == 0


def test_nothing_fails_while_an_intercept_comes_and_goes(pair):
    pair.start_sidecar()
    load = Load(pair.public, per_second=100)
    for _ in range(3):
        pair.start_workspace()
        answered_by(pair, "workspace")
        time.sleep(0.2)
        assert pair.workspace.stop() == 0
        answered_by(pair, "environment")
        time.sleep(0.2)
    outcomes = load.stop()
    assert not [outcome for outcome in outcomes if outcome.failure], summary(outcomes)
    assert {outcome.answer for outcome in outcomes} == {"environment", "workspace"}


def test_original_answers_while_nothing_listens_in_the_workspace(make_pair, webs, closing):
    local = ("127.0.0.1", free_port())
    pair = make_pair(original=webs[0].address, local=local).start()
    assert ask(pair.public) == "environment"
    closing(WebServer("workspace", *local))
    # Each connection asks anew.
    assert ask(pair.public) == "workspace"


def test_unavailable_workspace_can_be_a_refusal(make_pair, webs):
    local = ("127.0.0.1", free_port())
    refuse = {"sidecar": ["--allow-refuse"], "workspace": ["--on-unavailable", "refuse"]}
    pair = make_pair(original=webs[0].address, local=local, **refuse).start()
    assert sockets.attempt(pair.public, b"GET / HTTP/1.1\r\n\r\n") == (b"", "reset")
    assert webs[0].requests == 0


def test_request_that_is_handed_over_is_handed_over_whole(make_pair, closing):
    """What the client has sent while the workspace was asked reaches the original from its first byte on."""
    original = closing(Server(lambda connection: connection.sendall(read_all(connection))))
    pair = make_pair(original=original.address, local=("127.0.0.1", free_port())).start()
    sent = bytes(range(256)) * 4096  # 1 MiB, more than may wait for an answer
    with sockets.connect(pair.public) as connection:
        sockets.send_in_background(connection, sent)
        assert sockets.ending(connection, 30) == (sent, "fin")


def test_several_service_ports_go_where_they_are_mapped(processes, make_pair, closing):
    first, second = free_port(), free_port()
    webs = [closing(WebServer(name)) for name in ("first original", "second original", "first", "second")]
    pair = make_pair(original=webs[0].address, local=webs[2].address)

    def sidecar_flags(keep=pair.sidecar_flags):
        flags = keep()
        flags[flags.index("--divert") + 1] = "listen=127.0.0.1"
        flags[flags.index("--service-port") + 1] = f"{first}:{address(*webs[0].address)}"
        return [*flags, "--service-port", f"{second}:{address(*webs[1].address)}"]

    def workspace_flags(keep=pair.workspace_flags):
        flags = keep()
        flags[flags.index("--map") + 1] = f"{first}:{address(*webs[2].address)}"
        return [*flags, "--map", f"{second}:{webs[3].address[1]}"]

    pair.sidecar_flags, pair.workspace_flags = sidecar_flags, workspace_flags
    pair.start_sidecar()
    assert [ask(("127.0.0.1", port)) for port in (first, second)] == ["first original", "second original"]
    pair.start_workspace()
    assert [ask(("127.0.0.1", port)) for port in (first, second)] == ["first", "second"]


def test_port_zero_is_told_in_the_ready_line(make_pair, webs):
    pair = make_pair(original=webs[0].address, local=webs[1].address)
    pair.public = pair.tunnel = ("127.0.0.1", 0)
    sidecar = pair.start_sidecar()
    pair.public = ("127.0.0.1", int(sidecar.ready["listen"][str(SERVICE)].rpartition(":")[2]))
    pair.dialled = sidecar.tunnel
    assert ask(pair.public) == "environment"
    pair.start_workspace()
    assert ask(pair.public) == "workspace"


def test_workspace_comes_back_to_a_sidecar_that_was_restarted(pair):
    pair.start()
    assert ask(pair.public) == "workspace"
    pair.sidecar.kill()
    pair.start_sidecar()
    # The workspace dials again after 1, 2, 4, 5 s at most.
    answered_by(pair, "workspace", aim=5)


def test_connection_outlives_a_carrier(make_pair, closing):
    original, local = closing(Server(echo)), closing(Server(echo))
    pair = make_pair(original=original.address, local=local.address)
    pair.start_sidecar()
    line = closing(Line(pair.tunnel))
    pair.dialled = line.listen_address
    pair.start_workspace()
    with sockets.connect(pair.public) as connection:
        for number in range(5):
            sockets.exchange(connection, b"before and after cut %d" % number)
            assert line.cut(by_reset=number % 2 == 0) == 1
    assert (original.accepted, local.accepted) == (0, 1)
