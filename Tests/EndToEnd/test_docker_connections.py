"""Connections that are open when an intercept starts or stops, both families of addresses, and who the client is."""

import os
import re
import signal

import pytest

from harness.docker_project import nginx_command, now
from harness.ports import free_port
from harness.waiting import eventually

DRAIN = 3


def established(engine, container, port):
    """The other ends of connections to a port that are established in a container's network."""
    lines = engine.run_in(container, "ss", "-Htn", "state", "established", f"sport = :{port}").splitlines()
    return {line.split()[3].replace("[::ffff:", "[") for line in lines}


def sides(answers):
    return {answer["who"].split()[0] for answer in answers if answer["who"]}


def test_open_before_the_start_lives_on_and_is_ended_at_both_ends(engine, shop, ada, serve, closing):
    web = shop.services["web"]
    held = closing(shop.client("web", "network", hold=True, pause=0.05)).under_way()
    at_server = established(engine, web.container, 80)
    assert at_server
    typed = now()
    ada.ok("intercept", "start", "web", "-p", f"80:{serve().port}", "--drain", f"{DRAIN}s")
    assert shop.who("web") == "ada"
    last = held.ended(DRAIN + 2)
    # Whole until the drain time was over, and then ended, not left hanging: the client sees a reset.
    assert sides(held.answers) == {"web-1"}
    assert last["end"] - typed >= DRAIN
    assert "reset" in last["error"].lower() or "broken pipe" in last["error"].lower(), last
    assert not at_server & established(engine, web.container, 80), "the server's end is still open"
    print(f"ended {last['end'] - typed:.1f} s after start was typed; drain {DRAIN} s")
    ada.ok("intercept", "stop", "web")


def test_open_at_the_stop_finishes_within_the_drain_time(engine, shop, ada, serve, closing):
    ada.ok("intercept", "start", "web", "-p", f"80:{serve().port}", "--drain", f"{DRAIN}s")
    finishing, staying = (closing(shop.client("web", "network", hold=True, pause=0.05)).under_way() for _ in range(2))
    typed = now()
    stopping = ada.begin("intercept", "stop", "web")
    shop.comes_to("web", "web-1", 1)
    # New ones reach the original, these two still the workspace. One finishes by itself.
    finishing.under_way(3)
    answers = finishing.stop()
    assert sides(answers) == {"ada"} and not [answer for answer in answers if answer["error"]]
    last = staying.ended(DRAIN + 2)
    assert sides(staying.answers) == {"ada"}
    assert last["end"] - typed >= DRAIN - 0.5 and last["error"]
    out, error = stopping.communicate(timeout=60)
    assert stopping.returncode == 0, out + error


def test_what_was_passed_on_finishes_too(shop, ada, closing):
    """Nothing listens in the workspace, so the sidecar carries its clients to the original; it ends after them."""
    ada.ok("intercept", "start", "web", "-p", f"80:{free_port()}")
    held = closing(shop.client("web", "network", hold=True, pause=0.05)).under_way()
    stopping = ada.begin("intercept", "stop", "web")
    held.under_way(30)
    answers = held.stop()
    assert sides(answers) == {"web-1"} and not [answer for answer in answers if answer["error"]]
    out, error = stopping.communicate(timeout=60)
    assert stopping.returncode == 0, out + error


def test_what_opens_and_closes_meanwhile_is_on_the_right_side(shop, ada, serve, closing):
    """Connections of four clients that are kept for long, over two starts and stops: nobody is answered by both in turn."""
    mine = serve().port
    clients = [closing(shop.client("web", "network", keep=True, pause=0.02)).under_way() for _ in range(4)]
    for _ in range(2):
        ada.ok("intercept", "start", "web", "-p", f"80:{mine}", "--drain", "1s")
        for client in clients:
            eventually("kept connections moved", lambda: client.last()["who"].startswith("ada"), 4, pause=0.1)
        ada.ok("intercept", "stop", "web")
        for client in clients:
            eventually("kept connections moved", lambda: client.last()["who"].startswith("web-1"), 4, pause=0.1)
    for client in clients:
        answers = client.stop()
        assert not [answer for answer in answers if answer["error"]]
        whos = [answer["who"].split()[0] for answer in answers]
        turns = sum(1 for a, b in zip(whos, whos[1:]) if a != b)
        assert turns == 4, f"the side changed {turns} times"


@pytest.mark.parametrize("family", [4, 6])
def test_both_families(engine, shop, ada, serve, family):
    ada.ok("intercept", "start", "web", "-p", f"80:{serve().port}")
    assert shop.who("web", family=family) == "ada"
    beside = shop.beside("shop-web-1")
    own = engine.address("shop-web-1", family)
    assert shop.ask("web", beside, own).startswith("ada")
    localhost = "127.0.0.1" if family == 4 else "::1"
    assert shop.ask("web", beside, localhost).startswith("web-1")
    ada.ok("intercept", "stop", "web")
    assert shop.who("web", family=family) == "web-1"


def test_the_clients_address_reaches_the_original_while_the_tunnel_is_down(engine, shop, ada, serve):
    ada.ok("intercept", "start", "web", "-p", f"80:{serve().port}")
    daemon = ada.daemon()
    os.kill(daemon, signal.SIGSTOP)
    try:
        shop.comes_to("web", "web-1", 10)
        for family in (4, 6):
            mine = engine.address("shop-prober", family)
            assert shop.who("web", family=family, whole=True) == f"web-1 {mine}"
    finally:
        os.kill(daemon, signal.SIGCONT)
    shop.comes_to("web", "ada", 5)
    ada.ok("intercept", "stop", "web")


def test_nginx_in_the_workspace_is_told_the_clients_address(engine, shop, ada):
    port = free_port()
    listen = [f"127.0.0.1:{port} proxy_protocol"]
    command = nginx_command("ada", listen, "$proxy_protocol_addr:$proxy_protocol_port")
    engine.docker("run", "--detach", "--network", "host", "--name", "kl-e2e-nginx", engine.base_image(), *command)
    try:
        ada.ok("intercept", "start", "web", "-p", f"80:{port}", "--proxy-protocol", "v2")
        shop.comes_to("web", "ada", 2)
        for family in (4, 6):
            mine = engine.address("shop-prober", family)
            said = shop.who("web", family=family, whole=True)
            assert re.fullmatch(rf"ada {re.escape(mine)}:\d+", said), said
        ada.ok("intercept", "stop", "web")
    finally:
        engine.docker("rm", "--force", "kl-e2e-nginx")


PROBE = "User-Agent: kube-probe/1.30"


def test_probes_reach_the_original_and_nothing_else_from_there(engine, shop, ada, serve):
    before = shop.from_node("web", engine.address("shop-web-1"))
    assert before.startswith("web-1")
    ada.ok("intercept", "start", "web", "-p", f"80:{serve().port}")
    # The node's own address is the bridge's; a client of the machine itself has it.
    at = engine.address("shop-web-1")
    # It is the sidecar that passes them on, and the node's address that the original sees.
    assert shop.from_node("web", at, headers=[PROBE]).split()[:2] == before.split()[:2]
    assert shop.from_node("web", at).startswith("ada")
    assert shop.from_node("web", at, headers=["User-Agent: curl/8.0"]).startswith("ada")
    # Another container that calls itself a probe is none.
    assert shop.who("web", headers=[PROBE]) == "ada"
    ada.ok("intercept", "stop", "web")


def test_probes_reach_the_workspace_when_it_wants_them(engine, shop, ada, serve):
    ada.ok("intercept", "start", "web", "-p", f"80:{serve().port}", "--probes", "workspace")
    assert shop.from_node("web", engine.address("shop-web-1"), headers=[PROBE]).startswith("ada")
    ada.ok("intercept", "stop", "web")
