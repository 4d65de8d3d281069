"""`kl doctor`: one line for each thing that is needed, with how to fix it; nothing is changed, and nothing hangs."""

import os
import signal
import time

import pytest
from harness.cli import Developer
from harness.web import WebServer

NAMES = {"kernel", "nf_tables", "sock_diag", "diversion", "sidecar", "docker", "home", "key", "socket", "daemon"}
NAMES |= {"descriptors", "clock"}


@pytest.fixture
def tools(folder):
    """A PATH with what the test puts into it, and nothing else of docker's."""
    path = folder / "tools"
    path.mkdir()

    def put(script):
        (path / "docker").write_text("#!/bin/sh\n" + script)
        (path / "docker").chmod(0o755)

    put.path = str(path)
    return put


@pytest.fixture
def nobody(binaries, folder, tools):
    developer = Developer(binaries, folder / "home", folder, PATH=tools.path)
    developer.home.rmdir()
    return developer


def checks(developer, code=0):
    ran = developer.run("doctor", "-o", "json")
    assert ran.code == code, ran
    assert ran.json["isUsable"] == (code == 0)
    return {check["name"]: check for check in ran.json["checks"]}


def test_on_a_fresh_machine(nobody):
    found = checks(nobody)
    assert set(found) == NAMES
    assert found["docker"]["state"] == "warning" and found["docker"]["text"] == "no docker client is in PATH"
    assert found["key"]["text"] == "none yet: made when first needed"
    assert not nobody.home.exists()
    ran = nobody.run("doctor")
    assert ran.code == 0 and ran.error == ""
    lines = ran.out.splitlines()
    assert {line.split()[1] for line in lines} == NAMES and {line[0] for line in lines} <= {"✓", "!"}


def test_while_it_is_used(demo, closing):
    project, ada = demo
    mine = closing(WebServer("workspace"))
    ada.ok("intercept", "start", "api-server", "--port", f"{project.port()}:{mine.address[1]}")
    found = checks(ada)
    assert found["daemon"]["text"] == "answers, of this version"
    assert found["key"]["text"].startswith(str(ada.home / "private.key"))
    (ada.home / "private.key").chmod(0o644)
    assert checks(ada, code=1)["key"]["state"] == "failed"
    (ada.home / "private.key").chmod(0o600)
    daemon = ada.daemon()
    os.kill(daemon, signal.SIGSTOP)
    try:
        found = checks(ada, code=1)["daemon"]
        assert found["text"] == f"the workspace daemon (pid {daemon}) doesn't answer"
        assert found["mend"] == f"End it with 'kill -9 {daemon}'."
    finally:
        os.kill(daemon, signal.SIGCONT)


def test_what_has_to_be_mended(nobody):
    nobody.home.mkdir()
    nobody.home.chmod(0o755)
    ran = nobody.run("doctor")
    assert ran.code == 1
    assert f"✗ home          '{nobody.home}' is open to other users (mode 0755). Close it with 'chmod 700'." in ran.out
    assert ran.error == "kl: home: this has to be mended first.\n"


ANSWERS = """echo '{"Client":{"Version":"1"},"Server":{"Version":"27.1"}}'"""


def test_what_docker_says(nobody, tools):
    tools(f"[ $1 = version ] && {{ {ANSWERS}; exit 0; }}; exit 1")
    found = checks(nobody)
    assert found["docker"]["text"].endswith("/tools/docker, engine 27.1")
    assert found["sidecar image"]["mend"] == "Make it: agent/image"
    tools(ANSWERS)
    assert checks(nobody)["sidecar image"]["state"] == "ok"
    tools("echo permission denied while trying to connect to the Docker daemon socket >&2; exit 1")
    assert "usermod -aG docker" in checks(nobody)["docker"]["mend"]
    tools("echo Cannot connect to the Docker daemon at unix:///x. Is it running? >&2; exit 1")
    assert checks(nobody)["docker"]["text"] == "the engine can't be reached: Cannot connect to the Docker daemon at unix:///x"


@pytest.mark.parametrize("script", ["exec /bin/sleep 60", "/bin/sleep 60", "/bin/sleep 60 & exec /bin/sleep 61"])
def test_an_engine_that_hangs(nobody, tools, script):
    tools(script)
    began = time.monotonic()
    assert checks(nobody)["docker"]["text"] == "the engine doesn't answer within 2 s"
    assert time.monotonic() - began < 4
