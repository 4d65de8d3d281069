"""podman in the engine's place, by Docker's client: it has other words for the same things."""

import os
import pathlib
import subprocess
import sys
import time

import pytest

from harness import podman as podmans
from harness.docker_project import MOUNT, PROGRAMS, QUICK, WHO_SERVER, Client, Server
from harness.waiting import NotSeen, eventually

ROOT = pathlib.Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.long, pytest.mark.deadline(300)]


@pytest.fixture(scope="module")
def podman(scratch):
    if why := podmans.missing():
        if os.environ.get("KL_REQUIRE_ENGINE") == "1":
            pytest.fail(why + ". (KL_REQUIRE_ENGINE=1)", pytrace=False)
        pytest.skip(why)
    started = podmans.Podman(scratch / "podman")
    try:
        environment = {**os.environ, **started.environment}
        done = subprocess.run([ROOT / "agent/image", "--here"], env=environment, capture_output=True, text=True)
        if done.returncode:
            raise NotSeen(f"agent/image --here ended with {done.returncode}:\n{done.stdout}{done.stderr}")
        started.base_image()
        yield started
    finally:
        started.close()


@pytest.fixture
def web(podman):
    """A container of a compose project, as compose would leave it."""
    labels = {"project": "shop", "service": "web", "container-number": 1}
    flags = [part for key, value in labels.items() for part in ("--label", f"com.docker.compose.{key}={value}")]
    flags += ["--name", "shop-web-1", "--expose", "8080", *MOUNT, *QUICK]
    podman.docker("run", "--detach", *flags, podman.base_image(), *WHO_SERVER, "--name", "web-1", "--port", "8080")
    try:
        eventually("the service answers", lambda: who(podman) == "web-1", 6, pause=0.1)
        yield "shop-web-1"
    finally:
        podman.run("rm", "--force", "shop-web-1", check=False)


@pytest.fixture
def ada(podman, web, make_developer):
    yield from connected(podman, make_developer, podman.machine.prefix)


@pytest.fixture
def seer(podman, web, make_developer):
    """One who sees the processes of podman's machine."""
    yield from connected(podman, make_developer, podman.machine.seeing)


def connected(podman, make_developer, prefix):
    developer = make_developer("ada", prefix=prefix, **podman.environment)
    developer.ok("env", "connect", "--docker", "shop")
    yield developer
    developer.end()
    assert not podman.containers("label=io.kl.key")


@pytest.fixture
def mine(podman, folder):
    server = Server(podman, "ada", folder)
    yield server.port
    server.kill()


def who(podman):
    """Who answers the machine itself at the container's address."""
    address = podman.address("shop-web-1")
    said = podman.machine.run("curl", "-s", "--max-time", "3", f"http://{address}:8080/", check=False).split()
    return said[0] if said else None


def test_a_killed_sidecar_comes_back(podman, ada, mine):
    ada.ok("intercept", "start", "web", "-p", f"8080:{mine}")
    first = podman.inspect("kl-shop-web-1")["Id"]
    # A daemon that has just begun to follow the engine looks by itself for two seconds.
    time.sleep(3)
    podman.docker("kill", "kl-shop-web-1")

    def another():
        found = podman.run("container", "inspect", "--format", "{{.Id}}", "kl-shop-web-1", check=False)
        return found.code == 0 and found.out.strip() != first

    eventually("another sidecar is there", another, 5, pause=0.1)
    eventually("it is intercepted again", lambda: ada.phase("web") == "Active" and who(podman) == "ada", 5, pause=0.1)
    ada.ok("intercept", "stop", "web")
    assert who(podman) == "web-1"


def test_the_service_is_removed_and_made_anew(podman, ada, mine):
    """Compose removes a container without asking who depends on it."""
    ada.ok("intercept", "start", "web", "-p", f"8080:{mine}")
    assert podman.inspect("kl-shop-web-1")["HostConfig"]["NetworkMode"].startswith("ns:/")
    podman.docker("stop", "shop-web-1")
    podman.docker("rm", "shop-web-1")
    eventually("its sidecar is gone", lambda: not podman.containers("label=io.kl.key"), 5, pause=0.1)
    ada.run("intercept", "stop", "web")


def hold(podman):
    """A connection that stays open, from the machine itself."""
    command = [*podman.machine.prefix, sys.executable, "-B", "-S", str(PROGRAMS / "load.py"), "--kind", "http"]
    command += ["--host", podman.address("shop-web-1"), "--port", "8080"]
    return Client("a held connection", command, podman.environment, hold=True, pause=0.02).under_way()


def end_service(podman, how):
    if how == "crash":
        process = podman.inspect("shop-web-1")["State"]["Pid"]
        podman.machine.run("sh", "-c", f"kill -KILL {process}", prefix=podman.machine.inside)
    else:
        podman.docker(*how.split(), "shop-web-1")


def connections_end(podman, developer, port, how):
    developer.ok("intercept", "start", "web", "-p", f"8080:{port}")
    # A daemon that has just begun to follow the engine looks by itself for two seconds.
    time.sleep(3)
    held = [hold(podman) for _ in range(5)]
    try:
        end_service(podman, how)
        ends = [client.ended(3) for client in held]
        assert all("reset" in end["error"].lower() or "broken pipe" in end["error"].lower() for end in ends), ends
        assert {answer["who"].split()[0] for client in held for answer in client.answers if answer["who"]} == {"ada"}
    finally:
        for client in held:
            client.close()
    if not how.startswith("restart"):
        podman.docker("start", "shop-web-1")
    eventually("it is intercepted again", lambda: who(podman) == "ada" and developer.phase("web") == "Active", 5, pause=0.1)
    developer.ok("intercept", "stop", "web")


@pytest.mark.parametrize("how", ["kill", "crash"])
def test_open_connections_end_with_the_containers_process(podman, seer, mine, how):
    """podman tells of the end when the network is gone, and of no signal which one it is.

    Not `stop`, where it takes the network away within 20 ms of the process's end: on a busy machine that may be too soon.
    """
    connections_end(podman, seer, mine, how)


def test_open_connections_end_when_a_restart_begins(podman, ada, mine):
    connections_end(podman, ada, mine, "restart --time 3")


def test_an_image_by_its_name(podman, ada, mine):
    """podman tells `localhost/kl-sidecar` of what was asked for as `kl-sidecar`."""
    image = podman.docker("image", "ls", "--format", "{{.Repository}}:{{.Tag}}", "kl-sidecar").split("/")[-1]
    ada.ok("intercept", "start", "web", "-p", f"8080:{mine}", "--sidecar-image", image)
    first = podman.inspect("kl-shop-web-1")["Id"]
    for _ in range(3):
        # Each change of a container lets the daemon look.
        podman.docker("rename", "shop-web-1", "shop-web-x")
        podman.docker("rename", "shop-web-x", "shop-web-1")
        ada.ok("intercept", "start", "web", "-p", f"8080:{mine}", "--sidecar-image", image)
        assert podman.inspect("kl-shop-web-1")["Id"] == first
    ada.ok("intercept", "stop", "web")
