"""The kill matrix: whatever is killed or stops, the original answers, the list tells the truth, one stop cleans all."""

import os
import random
import signal
import time

import pytest

from harness.docker_project import now
from harness.waiting import NotSeen, eventually

KILLED = 20


@pytest.fixture
def intercepted(shop, ada, serve, closing):
    """nginx, intercepted by ada, under load from another container."""
    server = serve()
    before = shop.rulesets()
    ada.ok("intercept", "start", "web", "-p", f"80:{server.port}", "--drain", "1s")
    shop.comes_to("web", "ada", 1)
    load = closing(shop.client("web", "network")).under_way()
    return server, before, load


def sidecar_process(engine):
    """The sidecar's own process, as this machine numbers it."""
    return engine.pids("kl-shop-web-1")[0]


def truth(shop, ada):
    """What the list says, if that stays so while somebody asks who answers: then both must agree."""

    def agree():
        first = ada.phase("web")
        who = shop.who("web")
        if ada.phase("web") != first:
            return False
        expected = "ada" if first == "Active" else "web-1"
        return who == expected and (first or "none")

    return eventually("the list tells the truth", agree, 3, pause=0.1)


def one_stop_cleans(shop, ada, before):
    ran = ada.run("intercept", "stop", "web")
    assert ran.code in (0, 4), ran
    assert ada.phase("web") is None
    shop.comes_to("web", "web-1", 1)
    shop.is_clean(before)


def original_answered(load, since, aim, what):
    """Waits until a question that was asked after `since` is answered by the original."""

    def check():
        return any(answer["start"] > since and (answer["who"] or "").startswith("web-1") for answer in load.answers[-2000:])

    eventually(f"the original answers: {what}", check, aim, pause=0.05)


@pytest.mark.parametrize("how", ["kill -9", "docker kill"])
def test_the_sidecar_is_killed(engine, shop, ada, intercepted, how):
    _, before, load = intercepted
    since = now()
    if how == "kill -9":
        os.kill(sidecar_process(engine), signal.SIGKILL)
    else:
        engine.docker("kill", "kl-shop-web-1")
    # The kernel takes the rules with the process. Another sidecar may be there soon, and then has rules of its own.
    original_answered(load, since, 1, "the sidecar is killed")
    truth(shop, ada)
    one_stop_cleans(shop, ada, before)
    broken = [answer for answer in load.stop() if answer["error"] and answer["start"] > since + 0.5]
    assert not broken, "only what was in the tunnel at that moment may break"


def test_the_sidecar_is_stopped(engine, shop, ada, intercepted):
    _, before, load = intercepted
    process, since = sidecar_process(engine), now()
    os.kill(process, signal.SIGSTOP)
    try:
        # Its rules are renewed by the loop that stands still, and expire.
        original_answered(load, since, 10, "the sidecar is stopped")
        truth(shop, ada)
    finally:
        os.kill(process, signal.SIGCONT)
    one_stop_cleans(shop, ada, before)


def test_the_workspaces_server_is_killed(shop, ada, intercepted, serve):
    server, before, load = intercepted
    since = now()
    server.kill()
    original_answered(load, since, 1, "the workspace's server is killed")
    assert not [answer for answer in load.answers if answer["error"] and answer["start"] > since + 0.5]
    serve(port=server.port)
    shop.comes_to("web", "ada", 2)
    truth(shop, ada)
    one_stop_cleans(shop, ada, before)


def test_the_workspaces_server_is_stopped(shop, ada, intercepted):
    """It accepts and says nothing: whoever asks waits, since a debugger must be able to stop it."""
    server, before, _ = intercepted
    server.freeze()
    assert shop.who("web", timeout=1) is None
    assert ada.phase("web") == "Active"
    server.thaw()
    shop.comes_to("web", "ada", 1)
    one_stop_cleans(shop, ada, before)


def test_the_daemon_is_killed(shop, ada, intercepted):
    _, before, load = intercepted
    since = now()
    os.kill(ada.daemon(), signal.SIGKILL)
    original_answered(load, since, 2, "the daemon is killed")
    truth(shop, ada)
    one_stop_cleans(shop, ada, before)


def test_the_daemon_is_stopped(shop, ada, intercepted):
    _, before, load = intercepted
    daemon, since = ada.daemon(), now()
    os.kill(daemon, signal.SIGSTOP)
    try:
        original_answered(load, since, 10, "the daemon is stopped")
    finally:
        os.kill(daemon, signal.SIGCONT)
    # It resumes by itself.
    shop.comes_to("web", "ada", 5)
    truth(shop, ada)
    one_stop_cleans(shop, ada, before)


@pytest.mark.deadline(300)
@pytest.mark.parametrize("verb", ["start", "stop"])
def test_kl_is_killed_at_any_moment(shop, ada, serve, verb):
    """At twenty moments, drawn from all through the command's life."""
    before = shop.rulesets()
    start = ["intercept", "start", "web", "-p", f"80:{serve().port}", "--drain", "1s"]
    stop = ["intercept", "stop", "web"]
    command = start if verb == "start" else stop
    took = []
    for ready in ([], start) if verb == "stop" else ([],):
        if ready:
            ada.ok(*ready)
    begin = time.monotonic()
    ada.ok(*command)
    took.append(time.monotonic() - begin)
    if verb == "start":
        ada.ok(*stop)
    seed = int(os.environ.get("KL_SEED", random.randrange(1 << 30)))
    print(f"KL_SEED={seed}; {verb} takes {took[0]:.2f} s")
    drawn = random.Random(seed)
    for number in range(KILLED):
        if verb == "stop":
            ada.ok(*start)
        child = ada.begin(*command)
        # One from each twentieth of the time that it takes.
        time.sleep(took[0] * 1.1 * (number + drawn.random()) / KILLED)
        child.kill()
        child.communicate()
        try:
            truth(shop, ada)
            one_stop_cleans(shop, ada, before)
        except (NotSeen, AssertionError) as error:
            raise NotSeen(f"killed in moment {number} of {KILLED}: {error}") from None


def test_the_service_is_restarted(engine, shop, ada, intercepted):
    _, before, load = intercepted
    engine.docker("restart", "--time", "1", "shop-web-1")
    shop.answers(shop.services["web"])
    since = now()

    def answered():
        return any(answer["start"] > since and not answer["error"] for answer in load.answers[-500:])

    eventually("somebody answers after a restart of the service", answered, 3, pause=0.05)
    # The new network gets a sidecar too.
    eventually("it is intercepted again after a restart of the service", lambda: ada.phase("web") == "Active", 5, pause=0.2)
    truth(shop, ada)
    one_stop_cleans(shop, ada, before)


def test_the_service_exits(engine, shop, ada, intercepted):
    _, before, _ = intercepted
    engine.docker("stop", "--time", "1", "shop-web-1")
    try:
        eventually("the sidecar of a network that is gone ends", lambda: not shop.sidecars(), 5, pause=0.2)
        assert ada.phase("web") != "Active"
        assert ada.run("intercept", "stop", "web").code in (0, 4)
    finally:
        engine.docker("start", "shop-web-1")
    shop.answers(shop.services["web"])
    shop.is_clean(before)


@pytest.mark.parametrize("how", ["stop", "crash"])
def test_the_engine_is_restarted(engine, shop, ada, intercepted, how):
    _, before, _ = intercepted
    getattr(engine, how)()
    # The list can't know, and says so; it doesn't hang.
    assert ada.run("intercept", "list").code in (0, 1)
    engine.start()
    eventually("the services run again", lambda: len(engine.containers("name=^shop-", "status=running")) >= 5, 10, pause=0.2)
    shop.ready()
    eventually("the list answers after a restart of the engine", lambda: ada.run("intercept", "list").code == 0, 3)
    truth(shop, ada)
    one_stop_cleans(shop, ada, before)
