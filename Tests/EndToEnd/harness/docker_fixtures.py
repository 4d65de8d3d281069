"""Fixtures of the Docker tests: the engine, the image and the project for all of them, developers for each."""

import os
import pathlib
import subprocess
import time

import pytest

from . import engine as engines
from . import waiting
from .docker_project import DockerProject, Server

ROOT = pathlib.Path(__file__).resolve().parents[3]


@pytest.fixture(scope="session")
def engine(scratch):
    """A Docker engine of the tests' own. Where none can be started the test is skipped; in CI that is a failure."""
    if why := engines.missing():
        if os.environ.get("KL_REQUIRE_ENGINE") == "1":
            pytest.fail(why + ". (KL_REQUIRE_ENGINE=1)", pytrace=False)
        pytest.skip(why)
    started = engines.Engine(scratch / "engine")
    try:
        yield started
    finally:
        started.close()


@pytest.fixture(scope="session")
def sidecar_image(engine):
    """The sidecar's image as agent/image makes it of the program that this machine's Swift builds."""
    start = time.monotonic()
    command = [ROOT / "agent/image", "--here"]
    done = subprocess.run(command, env={**os.environ, **engine.environment}, capture_output=True, text=True)
    if done.returncode:
        raise waiting.NotSeen(f"agent/image --here ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    waiting.note("the sidecar's image is built", 15, time.monotonic() - start)
    return done.stdout.split()[-1]


@pytest.fixture(scope="session")
def shop_for_all(engine):
    return DockerProject(engine, "shop")


@pytest.fixture
def shop(shop_for_all, sidecar_image):
    """The project, whole. A test has to leave it so: no sidecar, and the rules in each network what they were."""
    project = shop_for_all
    project.ready()
    before = project.rulesets()
    yield project
    project.remove_others()
    try:
        project.is_clean(before)
    finally:
        project.remove_sidecars()


@pytest.fixture
def join_shop(shop, engine, make_developer, folder):
    """Makes developers that are connected to the project: on the engine's machine, with or without a view of its processes,
    or on this one, from where only the engine's socket can be reached and no container."""

    class Joined(list):
        def __call__(self, name="ada", here=False, sees_processes=False):
            prefix = engine.machine.seeing if sees_processes else [] if here else engine.machine.prefix
            developer = make_developer(name, prefix=prefix, **engine.environment)
            self.append(developer)
            developer.ok("env", "connect", "--docker", shop.name)
            return developer

    joined = Joined()
    yield joined
    # Before the project is looked at.
    for developer in joined:
        developer.end()


@pytest.fixture
def ada(join_shop):
    return join_shop("ada")


@pytest.fixture
def serve(engine, folder):
    """Starts a developer's own web servers, on the localhost of the engine's machine."""
    started = []

    def start(name="ada", **options):
        started.append(Server(engine, name, folder, **options))
        return started[-1]

    yield start
    for server in started:
        server.thaw()
        server.kill()
