"""How long it takes until new connections reach the other side, from typing the command. Told, not judged."""

import statistics
import time

import pytest

TIMES = 50


@pytest.mark.long
@pytest.mark.deadline(1200)
def test_from_typing_to_the_first_answer(engine, shop, ada, serve, capsys):
    """Fifty starts and stops with a running daemon and the image there; asked every 5 ms at the container's address."""
    mine = serve().port
    start = ["intercept", "start", "web", "-p", f"80:{mine}", "--drain", "1s"]
    ada.ok(*start)
    ada.ok("intercept", "stop", "web")
    load = shop.client("web", "network", engine.address("shop-web-1"), pause=0.005).under_way()
    starts, stops = [], []
    for _ in range(TIMES):
        for command, who, times in ((start, "ada", starts), (["intercept", "stop", "web"], "web-1", stops)):
            since = time.monotonic()
            ada.ok(*command)
            answer = None
            while answer is None:
                answers = [a for a in load.answers[-3000:] if a["start"] > since and (a["who"] or "").startswith(who)]
                answer = answers[0] if answers else time.sleep(0.01)
            # When the first connection was opened that this side answered.
            times.append(answer["start"] - since)
    failed = [answer for answer in load.stop() if answer["error"]]
    with capsys.disabled():
        for name, times in (("start → workspace", starts), ("stop → original", stops)):
            ordered = sorted(times)
            print(
                f"\n{name}: median {statistics.median(times):.3f} s, 90 % {ordered[int(0.9 * len(ordered))]:.3f} s, "
                f"longest {ordered[-1]:.3f} s"
            )
    assert not failed
