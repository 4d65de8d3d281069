"""The sidecar's image: what is in it, how large it is, and that it runs with what it was given and nothing else."""

import gzip
import io
import json
import os
import re
import shlex
import subprocess
import tarfile

import pytest

from harness.docker_fixtures import ROOT
from harness.keys import KeyPair
from harness.waiting import eventually

# What the engine itself puts into every container.
ENGINES_OWN = re.compile(r"\.dockerenv|(dev|proc|sys)(/.*)?|etc(/(hosts|hostname|resolv\.conf|mtab))?")
GRANTED = (
    "--read-only --cap-drop ALL --cap-add NET_ADMIN --security-opt no-new-privileges --memory 256m --log-driver json-file"
).split()


def test_it_is_small(engine, sidecar_image):
    saved = subprocess.run(
        [engine.client, "save", sidecar_image], env=engine.environment, capture_output=True, check=True
    ).stdout
    size = len(gzip.compress(saved, 6))
    print(f"{size / 2**20:.1f} MiB compressed, {len(saved) / 2**20:.1f} MiB as it is")
    assert size < 25 * 2**20


def test_it_holds_the_program_and_its_libraries_alone(engine, sidecar_image):
    container = engine.docker("create", sidecar_image)
    try:
        exported = subprocess.run(
            [engine.client, "export", container], env=engine.environment, capture_output=True, check=True
        ).stdout
    finally:
        engine.docker("rm", container)
    with tarfile.open(fileobj=io.BytesIO(exported)) as tar:
        members = [member for member in tar if not ENGINES_OWN.fullmatch(member.name)]
    found = {f"/{member.name}" for member in members if not member.isdir()}
    program = ROOT / ".build-image/release/kl-sidecar"
    named = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    libraries = set(re.findall(r"(/\S+) \(0x", named))
    assert found == {"/kl-sidecar", *libraries}
    assert not [name for name in libraries if "swift" in name], "the standard library is to be in the program"
    assert all(member.mode & 0o022 == 0 and not member.mode & 0o6000 for member in members)


def test_it_says_what_it_is(engine, sidecar_image):
    config = engine.inspect(sidecar_image, "image")["Config"]
    assert config["Entrypoint"] == ["/kl-sidecar"] and not config["Cmd"]
    labels = config["Labels"]
    assert labels["org.opencontainers.image.title"] == "kl-sidecar"
    assert f"kl-sidecar:{labels['org.opencontainers.image.version']}" == sidecar_image
    said = engine.docker("run", "--rm", *GRANTED, sidecar_image, "--version")
    assert said.startswith(f"kl {labels['org.opencontainers.image.version']},")


def test_it_runs_as_designed(engine, shop, sidecar_image):
    web = shop.services["web"]
    before = shop.rulesets()
    flags = ["--detach", "--name", "kl-shop-alone", "--network", f"container:{web.container}", *GRANTED]
    command = ["run", "--listen-tcp", "0.0.0.0:0", "--service-port", web.port, "--divert", "redirect"]
    command += ["--peer", KeyPair().public]
    engine.docker("run", *flags, sidecar_image, *command)
    ready = json.loads(
        eventually("a sidecar in a container is ready", lambda: first_line(engine, "kl-shop-alone"), 1, pause=0.1)
    )
    assert ready["ready"] and ready["tcp"]
    assert shop.who("web") == "web-1"
    # The first process of a container gets no signal that it doesn't handle.
    engine.docker("stop", "--time", 60, "kl-shop-alone")
    assert engine.inspect("kl-shop-alone")["State"]["ExitCode"] == 0
    engine.docker("rm", "kl-shop-alone")
    shop.is_clean(before)


def test_without_net_admin_it_says_what_lacks(engine, shop, sidecar_image):
    web = shop.services["web"]
    flags = ["--rm", "--network", f"container:{web.container}", "--cap-drop", "ALL", "--read-only"]
    command = ["run", "--listen-tcp", "0.0.0.0:0", "--service-port", web.port, "--divert", "redirect"]
    ran = engine.run("run", *flags, sidecar_image, *command, "--peer", KeyPair().public, check=False)
    assert ran.code == 1
    assert "NET_ADMIN" in ran.error and ran.error.count("\n") <= 2, ran


@pytest.mark.parametrize("buildkit", ["0", "1"])
def test_its_swift_stage_acts_where_it_is_asked_for(engine, buildkit, folder):
    """A Swift image of our own, whose compiler is a script: the real one is too large for a test."""
    swift = folder / "swift"
    swift.mkdir()
    (swift / "swift").write_text("#!/bin/sh\nmkdir -p .build/release && cp /bin/true .build/release/kl-sidecar\n")
    (swift / "apt-get").write_text("#!/bin/sh\n")
    (swift / "strip").write_text('#!/bin/sh\ncp "$3" "$2"\n')
    for name in ("swift", "apt-get", "strip"):
        (swift / name).chmod(0o755)
    (swift / "Dockerfile").write_text(f"FROM {engine.base_image()}\nCOPY swift apt-get strip /usr/local/bin/\n")
    engine.docker("build", "--quiet", "--tag", "kl-e2e-swift", swift)
    command = [ROOT / "agent/image", "--build-arg", "SWIFT=kl-e2e-swift", "--tag", "kl-e2e-true"]
    environment = {**engine.environment, "DOCKER_BUILDKIT": buildkit}
    subprocess.run(command, env=environment, check=True, capture_output=True)
    engine.docker("run", "--rm", "kl-e2e-true")
    engine.docker("image", "rm", "kl-e2e-true", "kl-e2e-swift")


REGISTRY = "127.0.0.1:5000"


@pytest.fixture
def registry(engine, folder):
    """Debian's docker-registry, on the engine's own loopback."""
    config = folder / "registry.json"
    storage = {"filesystem": {"rootdirectory": str(folder / "registry")}}
    config.write_text(json.dumps({"version": 0.1, "storage": storage, "http": {"addr": REGISTRY}}))
    command = [*engine.machine.inside, "docker-registry", "serve", config]
    with open(folder / "registry.log", "wb") as log:
        process = subprocess.Popen([*map(str, command)], stdout=log, stderr=log, start_new_session=True)
    try:
        ask = [*engine.machine.inside, "curl", "--silent", "--fail", f"http://{REGISTRY}/v2/"]
        eventually("a registry answers", lambda: not subprocess.run(ask, capture_output=True).returncode, 1, pause=0.1)
        yield REGISTRY
    finally:
        engine.machine.run("pkill", "--full", str(config), check=False)
        process.kill()
        process.wait()


@pytest.fixture
def made(engine, sidecar_image):
    """Runs agent/image without a build: it takes the program from an image that holds it."""
    program = ROOT / ".build-image/image"
    tar = subprocess.run(["tar", "-C", program, "-c", "rootfs"], capture_output=True, check=True).stdout
    importing = [engine.client, "import", "-", "kl-e2e-program"]
    subprocess.run(importing, input=tar, env=engine.environment, capture_output=True, check=True)

    def run(*arguments, path=None):
        environment = {**os.environ, **engine.environment}
        if path:
            environment["PATH"] = f"{path}:{environment['PATH']}"
        command = [ROOT / "agent/image", "--build-arg", "BINARY=kl-e2e-program", "--tag", "kl-e2e-taken:1", *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True)

    yield run
    engine.run("image", "rm", "--force", "kl-e2e-program", "kl-e2e-taken:1", check=False)


def test_it_goes_to_a_registry(engine, registry, made, sidecar_image):
    version = sidecar_image.partition(":")[2]
    names = {
        f"{registry}/team/kl-sidecar": f"{registry}/team/kl-sidecar:{version}",
        f"{registry}/other:new": f"{registry}/other:new",
    }
    for asked, name in names.items():
        done = made("--push", asked)
        assert done.returncode == 0 and done.stdout.split() == [name], done
        assert f"--sidecar-image {name}" in done.stderr, done
        engine.docker("image", "rm", name)
        engine.docker("pull", "--quiet", name)
        assert engine.docker("run", "--rm", *GRANTED, name, "--version").startswith(f"kl {version},")
        engine.docker("image", "rm", name)


def test_a_registry_that_is_away_is_told(engine, made):
    done = made("--push", "127.0.0.1:5001/kl-sidecar")
    assert done.returncode != 0 and "127.0.0.1:5001" in done.stderr and not done.stdout, done


def test_it_goes_to_a_nodes_containerd(engine, made, folder):
    """The engine's own containerd, which keeps a cluster's images in a namespace of their own."""
    programs = folder / "programs"
    programs.mkdir()
    program = ["/usr/bin/ctr", "--address", "/run/docker/containerd/containerd.sock"]
    words = [*engine.machine.inside, *program]
    (programs / "ctr").write_text(f'#!/bin/sh\nexec {shlex.join(map(str, words))} "$@"\n')
    (programs / "ctr").chmod(0o755)
    done = made("--load", "containerd", path=programs)
    assert done.returncode == 0 and done.stdout.split() == ["kl-e2e-taken:1"], done
    asking = [*program, "--namespace", "k8s.io", "images", "list", "--quiet"]
    listed = engine.machine.run(*asking, prefix=engine.machine.inside)
    assert "docker.io/library/kl-e2e-taken:1" in listed.split(), listed


@pytest.mark.parametrize("tool", ["kind", "k3d", "minikube"])
def test_it_goes_to_the_nodes_of_a_tools_cluster(engine, made, folder, tool):
    """The tools themselves can't be had here: a script in their place writes down what it is told."""
    programs = folder / "programs"
    programs.mkdir()
    said = folder / "said"
    (programs / tool).write_text(f'#!/bin/sh\necho "$@" > {said}\n')
    (programs / tool).chmod(0o755)
    expected = {
        "kind": "load docker-image kl-e2e-taken:1 --name dev",
        "k3d": "image import kl-e2e-taken:1 --cluster dev",
        "minikube": "--profile dev image load kl-e2e-taken:1",
    }
    done = made("--load", tool, "--cluster", "dev", path=programs)
    assert done.returncode == 0, done
    assert said.read_text().strip() == expected[tool]


@pytest.mark.parametrize(
    ("arguments", "saying"),
    [
        (("--load", "kind"), "no program 'kind' in PATH"),
        (("--load", "docker"), "--load wants kind, k3d, minikube or containerd"),
        (("--push", "kl-sidecar"), "--push wants REGISTRY/NAME"),
        (("--push", "registry.test/kl@sha256:00"), "--push wants a name or a tag"),
        (("--cluster", "dev"), "--cluster goes with --load"),
    ],
)
def test_wrong_ways_are_told_before_anything_is_built(arguments, saying):
    done = subprocess.run([ROOT / "agent/image", *arguments], capture_output=True, text=True)
    assert done.returncode == 1 and saying in done.stderr and done.stderr.count("\n") == 1, done


def first_line(engine, container):
    return engine.docker("logs", container).partition("\n")[0]
