"""Services that know nothing of us, intercepted and released under load; nothing is restarted, no request fails."""

import pytest

from harness.docker_project import check_sides, nginx_command, now, postgres_command, redis_command
from harness.ports import free_port
from harness.waiting import eventually

PROJECT = ("web", "cache", "db", "api")


@pytest.fixture
def workspace(engine, serve, shop):
    """Starts the developer's own server for a service, of the same kind, on the localhost of the engine's machine."""
    started = []

    def start(service, name="ada"):
        kind = shop.services[service].kind
        if kind == "http":
            return serve(name).port
        port = free_port()
        command = redis_command(name, port, "127.0.0.1") if kind == "redis" else postgres_command(name, port)
        container = f"kl-e2e-{name}-{kind}"
        engine.docker("run", "--detach", "--network", "host", "--name", container, engine.base_image(), *command)
        started.append(container)
        probe = ["redis-cli", "-p", port, "get", "who"] if kind == "redis" else ["pg_isready", "-h", "127.0.0.1", "-p", port]
        wanted = name if kind == "redis" else "accepting"
        eventually(
            "the developer's server listens",
            lambda: wanted in engine.run("exec", container, *probe, check=False).out,
            3,
            pause=0.1,
        )
        return port

    yield start
    for container in started:
        engine.docker("rm", "--force", container)


@pytest.mark.parametrize("name", PROJECT)
def test_started_and_stopped_under_load(engine, shop, ada, workspace, closing, name):
    service = shop.services[name]
    originals = {container.removeprefix(f"{shop.name}-") for container in service.containers}
    mine = workspace(name)
    before, started_at = shop.rulesets(), shop.started_at()
    beside = shop.beside(service.container)
    own = engine.address(service.container)

    def load(place, host=None, **options):
        return closing(shop.client(name, place, host, **options)).under_way()

    fresh = [load("network"), load(beside, own)]
    kept = [load("network", keep=True)]
    if service.published:
        fresh.append(load("host"))
        kept.append(load("host", keep=True))
    inside = load(beside, "127.0.0.1")
    switches = []

    def switch(side, *command):
        typed = now()
        ada.ok(*command)
        switches.append((typed, now(), side))
        for client in fresh:
            client.under_way(20)
        for client in kept:
            eventually(
                "a kept connection is on the right side", lambda: client.last()["who"].split()[0] in _set(side), 12, pause=0.1
            )
        inside.under_way(20)

    switch("ada", "intercept", "start", name, "-p", f"{service.port}:{mine}", "--drain", "1s")
    assert ada.phase(name) == "Active"
    _sidecars_are_as_designed(engine, shop, service)
    switch(originals, "intercept", "stop", name)
    shop.is_clean(before)

    for client in fresh:
        counts = check_sides(client.stop(), switches, originals)
        assert counts["ada"] >= 20, (client.name, counts)
    for client in kept:
        answers = client.stop()
        assert not [answer for answer in answers if answer["error"]], client.name
        assert sum(answer["again"] for answer in answers) <= 2, "it was reset more often than at start and at stop"
        assert len(_runs(answers, originals)) == 3, (client.name, _runs(answers, originals))
    assert set(check_sides(inside.stop(), [], originals)) <= originals, "localhost stays with the original"
    assert shop.started_at() == started_at


def test_both_replicas_are_intercepted_and_one_that_comes_later(engine, shop, ada, serve):
    ada.ok("intercept", "start", "api", "-p", f"8080:{serve().port}")
    for container in shop.services["api"].containers:
        assert shop.who("api", container) == "ada"
    shop.run_api(3)
    late = shop.services["api"].containers[-1]
    try:
        shop.answers(shop.services["api"], late)
        shop.comes_to("api", "ada", 3, late)
        ada.ok("intercept", "stop", "api")
        shop.comes_to("api", "api-3", 1, late)
        assert "table inet kl_" not in engine.ruleset(late)
    finally:
        shop.services["api"].containers.remove(late)
        engine.docker("rm", "--force", late)


def test_a_health_check_stays_green_while_the_workspaces_server_is_in_a_debugger(engine, shop, ada, serve, closing):
    container = shop.services["api"].container
    server = serve()
    ada.ok("intercept", "start", "api", "-p", f"8080:{server.port}")
    server.freeze()
    # The one who asks at the container's address waits, as the debugger wants it.
    waiting = closing(shop.client("api", "network", engine.address(container), once=True))
    checks = engine.inspect(container)["State"]["Health"]["Log"]
    since = checks[-1]["Start"] if checks else ""

    def checked():
        log = engine.inspect(container)["State"]["Health"]["Log"]
        return [check for check in log if check["Start"] > since]

    eventually("three health checks while the server stands still", lambda: len(checked()) >= 3, 5, pause=0.2)
    assert [check["ExitCode"] for check in checked()] == [0] * len(checked())
    assert shop.health(container) == "healthy"
    assert not waiting.lines
    server.thaw()
    assert waiting.only_answer().startswith("ada")
    ada.ok("intercept", "stop", "api")


def test_nothing_listens_in_the_workspace(shop, ada, serve):
    port = free_port()
    ada.ok("intercept", "start", "web", "-p", f"80:{port}")
    assert shop.who("web") == "web-1"
    serve(port=port)
    shop.comes_to("web", "ada", 2)
    ada.ok("intercept", "stop", "web")
    assert shop.who("web") == "web-1"


def test_services_that_listen_on_one_address_only(engine, shop, ada, serve):
    """On ::1 alone, and on the container's address alone. The first can't be reached from outside but when intercepted."""
    cases = {"narrow": "[::1]:80", "own": "@:80"}
    mine = serve().port
    for name, listen in cases.items():
        script = nginx_command(f"{name}-1", [listen])
        # The container's address is known once it runs.
        script[2] = 'printf %s "$1" | sed "s/@/$(hostname -i | tr " " "\\n" | grep -v : | head -n 1)/" > /tmp/nginx.conf && exec nginx -c /tmp/nginx.conf'
        container = shop.run(name, 1, script)
        shop.services[name].port = 80
        try:
            wanted = None if name == "narrow" else "own-1"
            eventually("nginx listens", lambda: engine.run_in(container, "ss", "-Hltn", "sport = :80"), 3, pause=0.1)
            assert shop.who(name) == wanted
            ada.ok("intercept", "start", name, "-p", f"80:{mine}")
            assert shop.who(name) == "ada"
            ada.ok("intercept", "stop", name)
            assert shop.who(name) == wanted
        finally:
            del shop.services[name]
            engine.docker("rm", "--force", container)


def test_tables_of_others_are_no_reason_to_refuse(engine, shop, ada, serve):
    web = shop.services["web"]

    def nft(text):
        engine.run_in(web.container, "nft", text)

    # What an agent that knew no owner left, in the way of everything; and one that is somebody else's.
    nft("table inet kl_left { chain c { type filter hook prerouting priority 0; }; }")
    nft("table inet mesh { chain c { type nat hook prerouting priority dstnat; }; }")
    try:
        ada.ok("intercept", "start", "web", "-p", f"80:{serve().port}")
        assert shop.who("web") == "ada"
        assert "table inet mesh" in engine.ruleset(web.container)
        assert "kl_left" not in engine.ruleset(web.container)
        ada.ok("intercept", "stop", "web")
        assert shop.who("web") == "web-1"
        assert "table inet mesh" in engine.ruleset(web.container)
    finally:
        nft("delete table inet mesh")


@pytest.mark.parametrize("flags", [[], ["--carrier", "exec"]])
def test_where_only_the_engine_can_be_reached(shop, join_shop, serve, closing, flags):
    """The tunnel goes through `docker exec`: the developer's machine knows no way to a container's address."""
    far = join_shop("far", here=True)
    far.ok("intercept", "start", "web", "-p", f"80:{serve('far', here=True).port}", *flags)
    assert shop.who("web") == "far"
    assert "exec" in far.ok("intercept", "list").out
    load = closing(shop.client("web", "network")).under_way(100)
    assert {answer["who"].split()[0] for answer in load.stop()} == {"far"}
    far.ok("intercept", "stop", "web")
    assert shop.who("web") == "web-1"


def test_without_the_image_it_says_how_to_build_it(shop, ada, serve):
    ran = ada.run("intercept", "start", "web", "-p", f"80:{serve().port}", "--sidecar-image", "kl-e2e-nothing:1")
    assert ran.code == 1 and "agent/image" in ran.error and "kl-e2e-nothing:1" in ran.error, ran
    assert ada.phase("web") is None and shop.who("web") == "web-1"


def _sidecars_are_as_designed(engine, shop, service):
    """Granted what the design says, and nothing else."""
    sidecars = [name for name in shop.sidecars() if name.startswith(f"kl-{shop.name}-{service.name}-")]
    assert len(sidecars) == len(service.containers)
    for sidecar in sidecars:
        found = engine.inspect(sidecar)
        host = found["HostConfig"]
        assert host["CapDrop"] in (["ALL"], ["all"])
        assert [name.removeprefix("CAP_") for name in host["CapAdd"]] == ["NET_ADMIN"]
        assert host["ReadonlyRootfs"] and not host["Privileged"] and not host["Binds"]
        assert any(option.startswith("no-new-privileges") for option in host["SecurityOpt"])
        assert 0 < host["Memory"] <= 1 << 30
        assert host["LogConfig"]["Type"] == "json-file"
        assert host["RestartPolicy"]["Name"] in ("", "no") and host["AutoRemove"]
        target = found["Config"]["Labels"]["io.kl.target"]
        assert host["NetworkMode"] == f"container:{target}"
        assert target in [engine.inspect(container)["Id"] for container in service.containers]


def _set(side):
    return {side} if isinstance(side, str) else set(side)


def _runs(answers, originals):
    """Who answered one after the other, without repetitions; the originals are one."""
    runs = []
    for answer in answers:
        who = "the original" if answer["who"].split()[0] in originals else answer["who"].split()[0]
        if not runs or runs[-1] != who:
            runs.append(who)
    return runs


def test_says_which_address_the_original_sees(engine, shop, ada, join_shop, serve):
    """Its clients' own; in a network with a rule that is in the way, the container's. And who looks hears of it, too."""
    web = shop.services["web"]
    eve = join_shop("eve")
    mine = serve("ada").port
    began = ada.ok("intercept", "start", "web", "-p", f"{web.port}:{mine}")
    assert "the original sees" not in began.error
    assert [holder["originalSees"] for holder in eve.holders()] == [{"whose": "client"}]
    ada.ok("intercept", "stop", "web")
    eventually("no sidecar is left", lambda: not shop.sidecars(), 30, pause=0.1)
    rule = ["pref", "20000", "fwmark", "0x2068", "lookup", "99"]
    engine.run_in(web.container, "ip", "rule", "add", *rule)
    try:
        began = ada.ok("intercept", "start", "web", "-p", f"{web.port}:{mine}")
        address = engine.address(web.container)
        words = f"sees {address}, the sidecar's address, in place of clients' addresses: another program's rule"
        assert f"! the original {words}" in began.error
        for developer in (ada, eve):
            for command in ("intercept list", "intercept status", "env status"):
                assert words in developer.ok(*command.split()).out
            (holder,) = developer.holders()
            assert (holder["originalSees"]["whose"], holder["originalSees"]["address"]) == ("sidecar", address)
        ada.ok("intercept", "stop", "web")
    finally:
        engine.run_in(web.container, "ip", "rule", "del", *rule)
