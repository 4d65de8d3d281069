"""nginx under load: 20,000 requests, and not one may fail."""

import json
import pathlib
import re

import pytest
from harness.programs import nginx, run
from harness.servers import Server
from harness.waiting import note

SCRIPT = pathlib.Path(__file__).with_name("wrk.lua")
REQUESTS = 20_000


@pytest.fixture
def silent_original(closing):
    """An original service that nobody should reach."""
    return closing(Server(lambda connection: None))


@pytest.fixture
def intercepted(processes, folder, make_pair, silent_original):
    """The public address of a service that nginx answers for, from the workspace."""

    def start(**options):
        local = nginx(processes, folder / "nginx", **options)
        return make_pair(original=silent_original.address, local=local).start().public

    return start


def wrk(public, *arguments, path="/"):
    """Runs wrk, which knows only time and no number, until it has made the requests; none of them may fail."""
    url = f"http://{public[0]}:{public[1]}{path}"
    made, seconds = 0, 0.0
    while made < REQUESTS:
        output = run("wrk", "-t1", "-d2s", "--timeout", "30s", "-s", SCRIPT, *arguments, url)
        seen = json.loads(output.splitlines()[-1])
        assert seen["requests"] > 0, output
        assert [seen[kind] for kind in ("connect", "read", "write", "status", "timeout")] == [0] * 5, seen
        made += seen["requests"]
        seconds += seen["seconds"]
    note(f"wrk {' '.join(arguments)} {path}: time for 20,000 requests", 5, seconds * REQUESTS / made)


def h2load(public, requests, *arguments, path="/"):
    url = f"http://{public[0]}:{public[1]}{path}"
    output = run("h2load", "-n", requests, *arguments, url, deadline=110)
    counts = re.search(r"requests: (\d+) total.* (\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout", output)
    assert counts, output
    return tuple(map(int, counts.groups())), output


@pytest.mark.parametrize("path", ["/", "/large"])
def test_wrk_on_kept_connections(intercepted, silent_original, path):
    wrk(intercepted(), "-c50", path=path)
    assert silent_original.accepted == 0


def test_wrk_with_a_connection_for_each_request(intercepted, silent_original):
    wrk(intercepted(), "-c16", "-H", "Connection: close")
    assert silent_original.accepted == 0


def test_http1_requests_are_counted_exactly(intercepted, silent_original):
    """wrk ends by time; h2load sends exactly so many requests, and sees each of them answered."""
    counts, output = h2load(intercepted(), REQUESTS, "-c", 50, "--h1")
    assert counts == (REQUESTS, REQUESTS, 0, 0, 0), output
    assert silent_original.accepted == 0


def test_http2_with_many_requests_at_once(intercepted, silent_original):
    counts, output = h2load(intercepted(http2=True), REQUESTS, "-c", 20, "-m", 10, path="/large")
    assert counts == (REQUESTS, REQUESTS, 0, 0, 0), output
    assert "Application protocol: h2c" in output
    assert silent_original.accepted == 0
