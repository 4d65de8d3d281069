"""Compose files as `kl` runs them: what lies beside them, their names, and what is said of a mistake."""

import pytest

from harness.waiting import eventually

# What the service is given, for the test to read.
SEEN = "[sh, -c, 'env > seen.part && mv seen.part seen; exec sleep 1000']"


@pytest.fixture
def ada(make_developer, folder):
    """A developer in a folder of their own, without a compose file."""
    project = folder / "shop"
    project.mkdir()
    developer = make_developer("ada", directory=project)
    yield developer
    developer.run("env", "down")
    developer.end()


def seen(ada):
    path = ada.directory / "seen"
    eventually("the service runs", path.exists, 5)
    return dict(line.split("=", 1) for line in path.read_text().splitlines() if "=" in line)


def test_what_lies_beside_the_file(ada):
    write = {
        "compose.yaml": f"name: demo\nservices:\n  a:\n    command: {SEEN}\n    env_file: a.env\n"
        '    environment: {URL: "${URL}", COLOUR: "${COLOUR}", RE: "${RE}", BASE: base, OWN: base}\n',
        "compose.override.yaml": "services:\n  a:\n    environment: {OWN: override}\n",
        ".env": "\ufeffHOST=db\nURL=pg://${HOST}:5432\nCOLOUR=#ff8800\nRE=\"^\\d+\"\n",
        "a.env": "H=db\nFURL=pg://${H}:5432\n",
    }
    for name, text in write.items():
        (ada.directory / name).write_text(text)
    up = ada.ok("env", "up")
    assert f"from {ada.directory / 'compose.yaml'} and compose.override.yaml\n" in up.out and not up.error, up
    found = seen(ada)
    wanted = {"URL": "pg://db:5432", "COLOUR": "#ff8800", "RE": "^\\d+", "BASE": "base", "OWN": "override"}
    assert {name: found[name] for name in wanted} == wanted
    assert found["FURL"] == "pg://db:5432"


def test_a_mistake_is_told_by_the_name(ada):
    text = 'name: demo\nservices:\n  web:\n    command: ./server\n    ports: ["80:80"]\n'
    (ada.directory / "compose.yaml").write_text(text)
    ran = ada.run("env", "connect", "demo")
    assert ran.code == 1 and "compose.yaml:5:13: port 80 is the published one" in ran.error, ran
    found = ada.ok("env", "list", "-o", "json").json["environments"]
    assert [(one["name"], one["state"]) for one in found if one["kind"] == "local"] == [("demo", "broken")]
    # Of a file that isn't even YAML, too.
    (ada.directory / "compose.yaml").write_text("name: demo\nservices: [\n")
    ran = ada.run("env", "connect", "demo")
    assert ran.code == 1 and "compose.yaml:3:1: this isn't YAML" in ran.error, ran


def test_a_file_of_images_tells_of_docker(ada):
    (ada.directory / "compose.yaml").write_text('services:\n  web:\n    image: nginx\n    ports: ["8080:80"]\n')
    for command in (["up"], ["connect", "shop"]):
        ran = ada.run("env", *command)
        assert ran.code == 1 and "connect to what Docker runs: kl env connect --docker shop" in ran.error, ran
