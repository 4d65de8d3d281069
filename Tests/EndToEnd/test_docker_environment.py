"""Docker environments as a developer sees them: found, connected to, shown; and an engine that isn't as it should be."""

import os
import signal

import pytest

from harness.docker_project import MOUNT, QUICK, WHO_SERVER
from harness.keys import KeyPair
from harness.waiting import eventually


@pytest.fixture
def somebody(shop, engine, make_developer):
    """A developer that isn't connected to anything."""
    developer = make_developer("somebody", prefix=engine.machine.prefix, **engine.environment)
    yield developer
    developer.end()


def test_projects_are_found_and_connected_to_by_name(shop, somebody):
    listed = somebody.ok("env", "list", "-o", "json").json["environments"]
    found = next(one for one in listed if one["name"] == shop.name)
    assert found["kind"] == "docker" and found["state"] == "up" and not found["isConnected"]
    status = somebody.ok("env", "connect", shop.name, "-o", "json").json
    assert status["kind"] == "docker" and status["isConnected"]
    services = {service["name"]: service for service in status["services"]}
    assert set(services) == {"web", "cache", "db", "api"}
    assert [port["port"] for port in services["web"]["ports"]] == [80]
    assert services["api"]["replicas"] == 2 and services["api"]["state"] == "running"
    somebody.ok("env", "disconnect")
    assert somebody.run("intercept", "list").code == 3


def test_a_project_is_meant_in_its_own_folder(shop, somebody, folder):
    project = folder / shop.name
    project.mkdir()
    (project / "compose.yaml").write_text("services:\n  web:\n    image: nginx\n")
    listed = somebody.ok("env", "list", "-o", "json", directory=project).json["environments"]
    states = {one["kind"]: one["state"] for one in listed if one["name"] == shop.name}
    assert states == {"local": "broken", "docker": "up"}
    status = somebody.ok("env", "connect", shop.name, "-o", "json", directory=project).json
    assert status["kind"] == "docker" and status["isConnected"]


def test_the_engine_is_remembered(shop, somebody):
    somebody.ok("env", "connect", "--docker", shop.name)
    elsewhere = somebody.ok("env", "status", DOCKER_HOST="unix:///nowhere/docker.sock")
    assert "web" in elsewhere.out
    # Another engine that isn't there: found is what is known.
    assert shop.name in somebody.ok("env", "list", DOCKER_HOST="unix:///nowhere/docker.sock").out
    without = somebody.ok("env", "list", DOCKER_HOST="unix:///nowhere/docker.sock", KL_HOME=str(somebody.home) + "2")
    assert shop.name not in without.out and not without.error


def test_what_isn_t_there_is_said(shop, somebody):
    ran = somebody.run("env", "connect", "--docker", "shpo")
    assert ran.code == 1 and "Did you mean 'shop'?" in ran.error, ran
    ran = somebody.run("env", "connect", "--docker", "x\x1b[31m;y")
    assert ran.code == 1 and "\x1b" not in ran.error, ran
    ran = somebody.run("env", "connect", "--docker-network", "nowhere")
    assert ran.code == 1 and "no network 'nowhere'" in ran.error, ran
    ran = somebody.run("env", "connect", "--docker", shop.name, DOCKER_HOST="unix:///nowhere/docker.sock")
    assert ran.code == 1 and "/nowhere/docker.sock can't be reached" in ran.error, ran
    ran = somebody.run("env", "connect", "--docker", shop.name, "--file", "compose.yaml")
    assert ran.code == 2, ran
    somebody.ok("env", "connect", "--docker", shop.name)
    for verb in ("up", "down"):
        ran = somebody.run("env", verb)
        assert ran.code == 1 and f"docker compose --project-name shop {verb}" in ran.error, ran
    ran = somebody.run("intercept", "start", "wbe", "-p", "80:3000")
    assert ran.code == 4 and "Did you mean 'web'?" in ran.error, ran
    ran = somebody.run("intercept", "start", "api", "--all-ports")
    assert ran.code == 2 and "declares no ports" in ran.error, ran


def test_a_network_is_an_environment_too(engine, shop, somebody, serve):
    flags = ["--name", "plain", "--network", shop.network, *MOUNT, *QUICK]
    server = [*WHO_SERVER, "--name", "plain-1", "--port", "9999"]
    engine.docker("run", "--detach", *flags, engine.base_image(), *server)
    try:
        somebody.ok("env", "connect", "--docker-network", shop.network)
        names = [service["name"] for service in somebody.ok("env", "status", "-o", "json").json["services"]]
        assert "plain" in names and "web" in names
        for service, port in (("plain", 9999), ("web", 80)):
            somebody.ok("intercept", "start", service, "-p", f"{port}:{serve('somebody').port}")
        assert shop.who("web") == "somebody"
        # One record for a container, however it was found.
        assert set(engine.containers("name=^kl-")) == {"kl-shop-web-1", f"kl-{shop.network}-plain-1"}
        for service in ("plain", "web"):
            somebody.ok("intercept", "stop", service)
    finally:
        somebody.run("intercept", "stop", "--all")
        engine.docker("rm", "--force", "plain")
    assert not engine.containers("name=^kl-")


def test_after_a_killed_daemon_it_is_started_again(engine, shop, ada, serve):
    mine = serve().port
    ada.ok("intercept", "start", "api", "-p", f"8080:{mine}")
    made = {name: engine.inspect(name)["Id"] for name in shop.sidecars()}
    os.kill(ada.daemon(), signal.SIGKILL)
    ada.ok("intercept", "start", "api", "-p", f"8080:{mine}")
    for container in shop.services["api"].containers:
        shop.comes_to("api", "ada", 1, container)
    # What is there and useful is used again.
    assert {name: engine.inspect(name)["Id"] for name in shop.sidecars()} == made
    ada.ok("intercept", "stop", "api")


def test_a_lost_follower_comes_back(engine, shop, ada, serve):
    ada.ok("intercept", "start", "api", "-p", f"8080:{serve().port}")

    def followers():
        said = engine.machine.run("pgrep", "-P", str(ada.daemon()), "-f", "events --format", check=False)
        return [int(line) for line in said.split()]

    eventually("the daemon follows the engine's events", followers, 2, pause=0.1)
    for pid in followers():
        os.kill(pid, signal.SIGKILL)
    eventually("the daemon follows again", followers, 3, pause=0.1)
    shop.run_api(3)
    late = shop.services["api"].containers[-1]
    try:
        shop.answers(shop.services["api"], late)
        shop.comes_to("api", "ada", 3, late)
    finally:
        shop.services["api"].containers.remove(late)
        engine.docker("rm", "--force", late)
    eventually("the sidecar of a removed container is gone", lambda: "kl-shop-api-3" not in shop.sidecars(), 3, pause=0.1)
    ada.ok("intercept", "stop", "api")
    assert not followers()


def test_an_engine_that_hangs_is_said_in_a_sentence(engine, shop, somebody):
    somebody.ok("env", "connect", "--docker", shop.name)
    engine.freeze()
    try:
        ran = somebody.run("env", "status", timeout=15)
        assert ran.code == 1 and "doesn't answer within 5 s" in ran.error, ran
        # A list of what there is waits for nobody for long.
        assert somebody.ok("env", "list", timeout=10)
        ran = somebody.run("doctor")
        assert "✗ docker" in ran.out and ran.code == 1, ran
    finally:
        engine.thaw()
    eventually("the engine answers again", lambda: somebody.run("env", "status").code == 0, 5)


def test_labels_of_others_are_shown_without_their_escapes(engine, shop, somebody):
    labels = ["com.docker.compose.project=shop", "com.docker.compose.service=evil\x1b[31m --privileged"]
    labels += ["io.kl.project=shop", "io.kl.service=web", "io.kl.holder=\x1b[31mroot\nx", "io.kl.key=short"]
    flags = [part for label in labels for part in ("--label", label)]
    engine.docker("run", "--detach", "--name", "evil", *flags, engine.base_image(), "sleep", "1000")
    try:
        somebody.ok("env", "connect", "--docker", shop.name)
        for command in (("env", "status"), ("intercept", "list"), ("env", "list")):
            ran = somebody.ok(*command)
            assert "\x1b" not in ran.out + ran.error and "evil" not in ran.out, ran
        assert not somebody.intercepts()
    finally:
        engine.docker("rm", "--force", "evil")


def test_a_container_that_only_has_a_sidecars_labels_is_left_alone(engine, shop, ada, serve):
    """As an image may bring them: also under a sidecar's own name."""
    labels = {"project": "shop", "service": "web", "replica": 1, "target": engine.inspect("shop-web-1")["Id"]}
    labels["key"] = KeyPair().public
    flags = [part for name, value in labels.items() for part in ("--label", f"io.kl.{name}={value}")]
    for name in ("precious", "kl-shop-web-1"):
        engine.docker("run", "--detach", "--name", name, *flags, engine.base_image(), "sleep", "1000")
    try:
        assert not ada.intercepts()
        ran = ada.run("intercept", "start", "web", "-p", f"80:{serve().port}", "--force")
        assert ran.code == 1 and "stays taken" in ran.error, ran
        engine.docker("rm", "--force", "kl-shop-web-1")
        ada.ok("intercept", "start", "web", "-p", f"80:{serve().port}")
        ada.ok("intercept", "stop", "web")
        assert engine.inspect("precious")["State"]["Running"]
    finally:
        engine.docker("rm", "--force", "precious", "kl-shop-web-1", check=False)


def test_the_doctor_asks_the_connected_engine(shop, somebody):
    somebody.ok("env", "connect", "--docker", shop.name)
    ran = somebody.run("doctor", DOCKER_HOST="unix:///nowhere/docker.sock")
    assert "✓ docker" in ran.out and "✓ sidecar image" in ran.out, ran
    ran = somebody.run("doctor", KL_SIDECAR_IMAGE="kl-e2e-nothing:1")
    assert ran.code == 1 and "✗ sidecar image" in ran.out and "agent/image" in ran.out, ran
