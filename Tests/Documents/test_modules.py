"""The README's map of modules, Package.swift and the imports in Sources say the same; and the four rules of
CONTRIBUTING.md hold, as far as imports and names can show."""

import re

import pytest
from documents import ROOT
from modules import SOURCES, UNDECLARED, in_sources, reachable, targets

README = ROOT / "README.md"


def imported(name):
    """The project's own modules that a target imports."""
    target = targets()[name]
    return {other.name for other in targets().values() if other.module in target.imports} - {name}


def graph():
    return {name: imported(name) for name in in_sources()}


# MARK: Package.swift


@pytest.mark.parametrize("name", targets())
def test_what_is_imported_is_declared(name):
    target = targets()[name]
    declared = {dependency.replace("-", "_") for dependency in target.dependencies}
    lacking = {
        f"{module} ({path.relative_to(ROOT)})"
        for module, path in target.imports.items()
        if module not in declared | UNDECLARED
    }
    assert not lacking, f"{name} imports what Package.swift doesn't give it: {sorted(lacking)}"


@pytest.mark.parametrize("name", targets())
def test_what_is_declared_is_imported(name):
    target = targets()[name]
    idle = {d for d in target.dependencies if d.replace("-", "_") not in target.imports}
    assert not idle, f"Package.swift gives {name} what it never imports: {sorted(idle)}"


def test_every_folder_of_sources_is_a_target():
    assert {path.name for path in SOURCES.iterdir() if path.is_dir()} == set(in_sources())


# MARK: The README's map


def section(heading):
    return re.search(rf"^## {heading}\n(.*?)(?=^## )", README.read_text(), re.MULTILINE | re.DOTALL).group(1)


def blocks():
    """Where things are, and which way imports go."""
    map, arrows = re.findall(r"^```\n(.*?)^```", section("Where things are"), re.MULTILINE | re.DOTALL)
    return map, arrows


def test_the_map_names_the_targets():
    sources = re.search(r"^Sources/\n((?:  .*\n)+)", blocks()[0], re.MULTILINE).group(1)
    named = []
    for line in sources.splitlines():
        named += re.match(r"((?:\s+[\w-]+/)+)\s", line).group(1).replace("/", "").split()
    assert sorted(named) == sorted(in_sources())


def test_the_map_names_the_documents():
    line = re.search(r"^docs/\s+(.*)$", blocks()[0], re.MULTILINE).group(1)
    assert sorted(line.split(", ")) == sorted(path.name for path in (ROOT / "docs").iterdir())


def drawn():
    """The lines of arrows, in their order."""
    lines = []
    for line in blocks()[1].splitlines():
        match = re.fullmatch(r"([\w-]+) +─▶ ([\w, -]+)", line)
        assert match, f"this line of arrows can't be read: {line}"
        lines.append((match.group(1), match.group(2).split(", ")))
    return lines


def test_the_arrows_are_the_imports():
    """An arrow for each import, but for those that follow from other arrows."""
    imports = graph()
    wanted = {}
    for name, below in imports.items():
        direct = {one for one in below if not any(one in reachable(imports, other) for other in below - {one})}
        if direct:
            wanted[name] = direct
    assert {name: set(below) for name, below in drawn()} == wanted


def test_each_line_of_arrows_leads_downwards():
    above = set()
    for name, below in drawn():
        above.add(name)
        assert above.isdisjoint(below), f"{name} has an arrow upwards: {sorted(above & set(below))}"


# MARK: CONTRIBUTING.md's rules

# Of NIO, of the standard library and of the system: what does I/O, waits, or asks for the time or for chance.
IO = set(
    """
    AsyncStream Channel ChannelHandlerContext Clock ContinuousClock Date EventLoop EventLoopFuture EventLoopGroup
    EventLoopPromise FileDescriptor FileHandle FileManager NIOAny NIODeadline NIOLoopBound Scheduled SocketAddress
    SuspendingClock SystemRandomNumberGenerator Task Thread actor async await clock_gettime fopen getrandom print
    readLine
    """.split()
)


@pytest.mark.parametrize("name, allowed", [("Noise", {"CSodium"}), ("Tunnel", {"Noise", "NIOCore"})])
def test_the_channel_does_no_io(name, allowed):
    target = targets()[name]
    assert set(target.imports) <= allowed
    for path, text in target.files.items():
        found = IO & set(re.findall(r"\w+", text))
        assert not found, f"{path.relative_to(ROOT)} names {sorted(found)}"


def test_only_noise_calls_libsodium():
    assert [name for name in targets() if "CSodium" in imported(name)] == ["Noise"]


def test_the_agents_share_no_more_than_they_should():
    imports = graph()
    sidecar, workspace = reachable(imports, "SidecarAgent"), reachable(imports, "WorkspaceAgent")
    assert "WorkspaceAgent" not in sidecar
    assert "SidecarAgent" not in workspace
    assert sidecar & workspace == {"InterceptProtocol", "Carriers"}.union(*(reachable(imports, one) for one in ("InterceptProtocol", "Carriers")))


def test_kl_holds_no_tunnel():
    assert imported("kl").isdisjoint({"Carriers", "Diversion", "SidecarAgent", "Tunnel", "WorkspaceAgent"})


def test_only_the_daemons_command_has_the_daemon():
    """Everything else in kl speaks to it, as any other program does."""
    found = [path.name for path, text in targets()["kl"].files.items() if re.search(r"import WorkspaceDaemon\b", text)]
    assert found == ["DaemonCommand.swift"]


@pytest.mark.parametrize("name", ("EnvironmentCatalog", "WorkspaceAPI"))
def test_environments_and_the_api_know_no_tunnel(name):
    below = reachable(graph(), name)
    assert below.isdisjoint({"Carriers", "Diversion", "SidecarAgent", "Tunnel", "WorkspaceAgent", "WorkspaceDaemon"})


KINDS = {"LocalEnvironment", "DockerEnvironment", "KubernetesEnvironment"}


def test_the_daemon_knows_no_kind_of_environment():
    assert imported("WorkspaceDaemon").isdisjoint(KINDS | {"ComposeFiles", "EnvironmentCatalog"})


def test_each_kind_of_environment_stands_alone():
    imports = graph()
    for name in KINDS:
        assert reachable(imports, name).isdisjoint(KINDS - {name})


def test_only_kl_and_the_catalogue_know_a_kind_of_environment():
    for name in in_sources():
        knows = imported(name) & (KINDS | {"EnvironmentCatalog"})
        assert not knows or name in ("kl", "EnvironmentCatalog"), f"{name} imports {sorted(knows)}"


@pytest.mark.parametrize("name", in_sources())
def test_what_only_linux_has_is_in_two_modules(name):
    """No other module calls C code made for Linux."""
    if name not in ("Carriers", "Diversion"):
        assert imported(name).isdisjoint({"CDatagrams", "CNetlink"})


def test_the_c_library_is_imported_in_one_place():
    """Which one it is differs from system to system."""
    for name, target in targets().items():
        for path, text in target.files.items():
            found = re.search(r"^\s*(?:\S+ )?import (?:Glibc|Musl|Darwin)$", text, re.MULTILINE)
            assert not found or name == "Libc", path.relative_to(ROOT)
