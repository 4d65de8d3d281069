"""Fixtures of the end-to-end tests: the agents, a folder, and the certainty that nothing is left behind."""

import json
import os
import pathlib
import resource
import shutil
import signal
import sys
import tempfile

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))

from harness import waiting  # noqa: E402
from harness.cli import ComposeProject, Developer  # noqa: E402
from harness.pair import Pair  # noqa: E402
from harness.processes import Processes  # noqa: E402

pytest_plugins = ["harness.docker_fixtures", "kubernetes.fixtures"]

ROOT = pathlib.Path(__file__).resolve().parents[2]
LONG = os.environ.get("KL_LONG") == "1"
DEADLINE = 240


def pytest_configure(config):
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    # Who is told to end cleans up, as after Ctrl-C, which a shell's background job would not hear.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.default_int_handler)
    # A shell that started this in the background has it ignored, and so would every program here.
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)


# What each file took by the last run that wrote this: the longest ones begin first.
TIMES = pathlib.Path(__file__).with_name("times.json")
# Their tests share one engine, and so one worker.
WITH_ENGINE = "test_docker_"


def group(item):
    """The tests that one worker runs, one after the other."""
    name = item.path.stem
    if name.startswith(WITH_ENGINE):
        return "docker"
    return f"{name} in a long home" if "long home" in item.name else name


# Before xdist reads the groups.
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    times = json.loads(TIMES.read_text())
    for item in items:
        item.add_marker(pytest.mark.xdist_group(group(item)))
        if not LONG and item.get_closest_marker("long"):
            item.add_marker(pytest.mark.skip(reason="only with agent/test --long"))
    # A new group comes first: it may take long.
    items.sort(key=lambda item: -times.get(group(item), 1e9))


def pytest_generate_tests(metafunc):
    """What has a home is tested again in one with blanks and a long path; of the intercepts one test is enough."""
    name = metafunc.module.__name__
    has_homes = name == "test_daemon" or name.startswith("test_cli")
    if "homes" not in metafunc.fixturenames or not has_homes:
        return
    one = {"test_cli_intercept": "test_the_whole_day", "test_cli_holders": "test_what_a_mirror_says"}
    if metafunc.function.__name__ != one.get(name, metafunc.function.__name__):
        return
    metafunc.parametrize("homes", ["plain home", "long home"], indirect=True)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    """A test that hangs fails by itself, with its logs."""
    marker = item.get_closest_marker("deadline")
    seconds = marker.args[0] if marker else DEADLINE

    def expire(*_):
        raise waiting.NotSeen(f"the test was not done in {seconds} s")

    before = signal.signal(signal.SIGALRM, expire)
    signal.alarm(seconds)
    first = len(waiting.measured)
    try:
        return (yield)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
        item.user_properties += [("took", entry) for entry in waiting.measured[first:]]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.failed and (started := item.funcargs.get("processes")):
        report.sections.append(("what the programs said", started.logs()))
    if report.failed and (given := item.funcargs.get("demo")):
        project, ada = given
        report.sections.append(("what the environment said", project.logs() + ada.logs()))
    if report.failed and (shop := item.funcargs.get("shop")):
        said = [developer.logs() for developer in item.funcargs.get("join_shop", [])]
        report.sections.append(("what the project said", "\n".join([shop.logs(), *said])))
    if report.failed and (cluster := item.funcargs.get("cluster") or item.funcargs.get("small_cluster")):
        team = item.funcargs.get("team")
        report.sections.append(("what the cluster said", cluster.logs() + (team.logs() if team else "")))
    return report


def pytest_terminal_summary(terminalreporter, config):
    """What was waited for and what it took, the slowest of each kind: the times are told, not judged."""
    if path := config.getoption("--write-times"):
        write_times(terminalreporter, pathlib.Path(path))
    worst = {}
    for outcome in ("passed", "failed"):
        for report in terminalreporter.getreports(outcome):
            for name, (what, aim, took) in getattr(report, "user_properties", []):
                if name == "took":
                    count, slowest = worst.get((what, aim), (0, 0))
                    worst[what, aim] = (count + 1, max(slowest, took))
    if worst:
        terminalreporter.section("what it took")
        for (what, aim), (count, slowest) in worst.items():
            times = f", the slowest of {count}" if count > 1 else ""
            late = "  (past the aim)" if slowest > aim else ""
            terminalreporter.line(f"{slowest:8.2f} s  (aim {aim:g} s{times})  {what}{late}")


def pytest_addoption(parser):
    parser.addoption("--write-times", metavar="FILE", help="write what each group of tests took: times.json beside conftest.py")


def write_times(terminalreporter, path):
    times = {}
    for reports in terminalreporter.stats.values():
        for report in reports:
            if hasattr(report, "duration") and "@" in report.nodeid:
                name = report.nodeid.rsplit("@", 1)[1]
                times[name] = times.get(name, 0) + report.duration
    rows = [f"  {json.dumps(name)}: {round(took)}" for name, took in sorted(times.items(), key=lambda row: -row[1])]
    path.write_text("{\n" + ",\n".join(rows) + "\n}\n")


@pytest.fixture(scope="session")
def binaries():
    folder = pathlib.Path(os.environ.get("KL_BIN", ROOT / ".build/release")).resolve()
    for name in ("kl", "kl-sidecar", "kl-workspace"):
        if not (folder / name).exists():
            pytest.exit(f"{folder / name} doesn't exist. Build first: agent/build", returncode=3)
    return folder


@pytest.fixture(scope="session")
def scratch():
    """A folder for everything that the tests write. Outside a home that another user may not enter, for PostgreSQL."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="kl-e2e-"))
    folder.chmod(0o711)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def folder(scratch, request):
    """A folder of this test alone."""
    path = pathlib.Path(tempfile.mkdtemp(prefix="test-", dir=scratch))
    path.chmod(0o711)
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def processes(folder):
    started = Processes(folder / "logs")
    yield started
    started.end_all()


@pytest.fixture
def make_pair(processes, binaries, folder):
    """Makes the two agents of a service; they are started by the test."""
    made = []

    def make(**options):
        pair = Pair(processes, binaries, folder / f"pair-{len(made)}", **options)
        made.append(pair)
        return pair

    return make


@pytest.fixture
def homes(folder, request):
    """The folder of all homes."""
    if getattr(request, "param", None) == "long home":
        return folder / "homes with blanks" / ("long" * 40)
    return folder


@pytest.fixture
def make_developer(binaries, folder, homes):
    """Makes developers, each with a home of their own."""
    made = []

    def make(name="ada", directory=None, **environment):
        home = homes / f"home-{name}"
        developer = Developer(binaries, home, directory or folder, **environment)
        made.append(developer)
        return developer

    yield make
    for developer in made:
        developer.end()
        shutil.rmtree(developer.home, ignore_errors=True)


@pytest.fixture
def make_project(binaries, folder, make_developer):
    """Makes compose projects. What runs of them is ended, and must have been known to `kl env down`."""
    made = []

    def make(services=("api-server",), name="demo", folder_name=None, **options):
        project = ComposeProject(binaries, folder / (folder_name or name), services, name, **options)
        made.append(project)
        return project

    yield make
    janitor = make_developer("janitor")
    left = [pid for project in made for pid in project.down(janitor)]
    assert not left, f"left running after kl env down: {left}"


@pytest.fixture
def demo(make_project, make_developer):
    """A project that is up, and a developer who is connected to it."""
    project = make_project()
    ada = make_developer("ada", project.folder)
    ada.ok("env", "connect", "demo")
    project.answers("api-server", aim=2)
    return project, ada


@pytest.fixture
def closing():
    """Takes what has a close(), and closes it at the test's end."""
    things = []

    def add(thing):
        things.append(thing)
        return thing

    yield add
    for thing in reversed(things):
        thing.close()
