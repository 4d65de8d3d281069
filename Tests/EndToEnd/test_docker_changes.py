"""What is done to a container while it is intercepted, and names and numbers that mean something else than was typed."""

import contextlib
import os
import signal

import pytest

from harness.docker_project import MOUNT, QUICK, WHO_SERVER
from harness.waiting import NotSeen, eventually

PROBE = "User-Agent: kube-probe/1.30"


# MARK: Names and numbers


def test_a_published_port_is_refused_and_the_containers_own_is_named(shop, ada, serve):
    mine, published = serve().port, shop.services["web"].published
    ran = ada.run("intercept", "start", "web", "-p", f"{published}:{mine}")
    assert ran.code == 2 and ran.error.rstrip().endswith(f"--port 80:{mine}"), ran
    assert not ada.intercepts() and shop.who("web") == "web-1"
    # Nothing is published under this one, and nothing tells that nobody listens there.
    ran = ada.ok("intercept", "start", "web", "-p", f"80:{mine}", "-p", f"9999:{mine}")
    assert "! 'web' declares 80, not 9999: " in ran.error, ran
    assert shop.who("web") == "ada"
    ada.ok("intercept", "stop", "web")


def test_a_container_in_place_of_its_service(engine, shop, ada):
    for name in ("shop-web-1", engine.inspect("shop-web-1")["Id"][:12]):
        for verb in (("start", name, "-p", "80:3000"), ("stop", name), ("status", name)):
            ran = ada.run("intercept", *verb)
            assert ran.code == 4 and f"'{name}' is a container of service 'web'" in ran.error, ran


def test_two_projects_whose_names_join_to_one(engine, shop, ada, make_developer, serve):
    """Service `front-api` of `shop`, and service `api` of `shop-front`: intercepted at once, each by its own."""
    owners = {"shop": "front-api", "shop-front": "api"}
    for project, service in owners.items():
        labels = {"project": project, "service": service, "container-number": 1}
        flags = [part for key, value in labels.items() for part in ("--label", f"com.docker.compose.{key}={value}")]
        flags += ["--name", f"joined-{project}", "--network", shop.network, *MOUNT, *QUICK]
        engine.docker("run", "--detach", *flags, engine.base_image(), *WHO_SERVER, "--name", project, "--port", "8080")
    try:
        bob = make_developer("bob", prefix=engine.machine.prefix, **engine.environment)
        bob.ok("env", "connect", "--docker", "shop-front")
        ada.ok("intercept", "start", "front-api", "-p", f"8080:{serve('ada').port}")
        bob.ok("intercept", "start", "api", "-p", f"8080:{serve('bob').port}")
        assert ada.phase("front-api") == bob.phase("api") == "Active"
        assert len(engine.containers("label=io.kl.key")) == 2
        ada.ok("intercept", "stop", "front-api")
        bob.ok("intercept", "stop", "api")
    finally:
        engine.docker("rm", "--force", *(f"joined-{project}" for project in owners))


def test_a_network_of_a_container_that_is_gone(engine, shop, ada):
    """As one that shared it is left when the other is made anew."""
    engine.docker("run", "--detach", "--name", "owner", *QUICK, "--network", shop.network, engine.base_image(), "sleep", "1000")
    shop.run("orphan", 1, ["sleep", "1000"], "--network=container:owner", restart="no")
    try:
        ran = ada.run("intercept", "start", "orphan", "-p", "80:3000")
        assert ran.code == 1 and "container 'owner' (network_mode), which is of no project" in ran.error, ran
        engine.docker("rm", "--force", "owner")
        ran = ada.run("intercept", "start", "orphan", "-p", "80:3000")
        assert ran.code == 1 and "--force-recreate orphan" in ran.error, ran
    finally:
        del shop.services["orphan"]
        engine.docker("rm", "--force", "shop-orphan-1", "owner", check=False)


# MARK: A container that ends


@pytest.mark.parametrize("how", [["stop", "--time", "5"], ["kill"], ["restart", "--time", "5"]], ids=lambda how: how[0])
def test_open_connections_end_with_the_container(engine, shop, ada, serve, closing, how):
    """The engine takes the network away: what isn't ended before waits for an answer that can't come."""
    ada.ok("intercept", "start", "web", "-p", f"80:{serve().port}")
    held = [closing(shop.client("web", "network", hold=True, pause=0.02)).under_way() for _ in range(5)]
    engine.docker(*how, "shop-web-1")
    try:
        ends = [client.ended(3) for client in held]
        assert all("reset" in end["error"].lower() or "broken pipe" in end["error"].lower() for end in ends), ends
        assert {answer["who"].split()[0] for client in held for answer in client.answers if answer["who"]} == {"ada"}
    finally:
        if how[0] != "restart":
            engine.docker("start", "shop-web-1")
    shop.answers(shop.services["web"])
    eventually("it is intercepted again", lambda: ada.phase("web") == "Active", 5, pause=0.2)
    ada.ok("intercept", "stop", "web")


def test_open_connections_end_with_a_crash(engine, shop, join_shop, serve, closing):
    """Of a crash the engine tells while it takes the network away: who can see the process hears of it before."""
    ada = join_shop(sees_processes=True)
    ada.ok("intercept", "start", "web", "-p", f"80:{serve().port}")
    held = [closing(shop.client("web", "network", hold=True, pause=0.02)).under_way() for _ in range(5)]
    os.kill(engine.pids("shop-web-1")[0], signal.SIGKILL)
    ends = [client.ended(3) for client in held]
    assert all("reset" in end["error"].lower() or "broken pipe" in end["error"].lower() for end in ends), ends
    # Docker starts it again by its policy.
    shop.answers(shop.services["web"])
    eventually("it is intercepted again", lambda: ada.phase("web") == "Active", 5, pause=0.2)
    ada.ok("intercept", "stop", "web")


def test_another_signal_ends_nothing(engine, shop, ada, serve, closing):
    ada.ok("intercept", "start", "api", "-p", f"8080:{serve().port}")
    held = closing(shop.client("api", "network", engine.address("shop-api-1"), hold=True, pause=0.02)).under_way()
    # As a server is told to read its configuration again.
    engine.docker("kill", "--signal", "WINCH", "shop-api-1")
    held.under_way(50)
    assert not [answer for answer in held.stop() if answer["error"]]
    ada.ok("intercept", "stop", "api")
    # The engine takes any `docker kill` for a stop: it wouldn't start this container with itself (20.10.24).
    engine.docker("restart", "--time", "1", "shop-api-1")
    shop.ready()


# MARK: Networks


def test_a_container_changes_its_networks(engine, shop, ada, serve):
    """The tunnel follows to the new address, and health probes are told from there too."""
    web, mine = shop.services["web"], serve().port
    ada.ok("intercept", "start", "web", "-p", f"80:{mine}")
    engine.docker("network", "create", "other")
    try:
        engine.docker("network", "connect", "other", web.container)
        there = engine.address(web.container, network="other")

        def probed():
            # While its sidecar is made anew a connection may be reset.
            with contextlib.suppress(NotSeen):
                return shop.from_node("web", there, headers=[PROBE]).startswith("web-1")
            return False

        eventually("probes from the second network's gateway reach the original", probed, 5, pause=0.2)
        eventually("it is intercepted there", lambda: shop.from_node("web", there).startswith("ada"), 3, pause=0.2)
        engine.docker("network", "disconnect", "other", web.container)
        engine.docker("network", "disconnect", shop.network, web.container)
        aliases = ["--alias", "web", "--alias", web.container]
        # Another address than it had: that one has been taken meanwhile.
        squatter = ["--name", "squatter", *QUICK, "--network", shop.network]
        engine.docker("run", "--detach", *squatter, engine.base_image(), "sleep", "1000")
        engine.docker("network", "connect", *aliases, shop.network, web.container)
        now = engine.address(web.container)

        def place():
            status = ada.ok("intercept", "status", "web", "-o", "json").json
            return [sidecar["address"] for sidecar in status["intercepts"][0]["sidecars"]]

        eventually("the tunnel goes to the new address", lambda: place()[0].startswith(f"{now}:"), 5, pause=0.2)
        shop.comes_to("web", "ada", 3)
        assert shop.from_node("web", now, headers=[PROBE]).startswith("web-1")
        ada.ok("intercept", "stop", "web")
    finally:
        engine.docker("rm", "--force", "squatter", check=False)
        engine.docker("network", "disconnect", "other", web.container, check=False)
        engine.docker("network", "rm", "other", check=False)
        shop.answers(web)
