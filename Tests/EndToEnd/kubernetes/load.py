"""Clients of a Service, each request on a new connection to one of the pods that are ready then, as kube-proxy would choose."""

import random
import threading
import time

from harness.load import Load
from harness.waiting import eventually


class ServiceLoad(Load):
    """At a steady rate from the start on. `outcomes` grow as answers come."""

    def __init__(self, cluster, service, per_second=50, timeout=20):
        self._cluster, self._service = cluster, service
        self._endpoints = cluster.endpoints(service)
        assert self._endpoints, f"no pod of {service} is ready"
        self._following = threading.Event()
        self._follower = threading.Thread(target=self._follow, daemon=True)
        self._follower.start()
        super().__init__(None, per_second, timeout=timeout)

    @property
    def address(self):
        return random.choice(self._endpoints)

    @address.setter
    def address(self, _):
        """It is another one each time."""

    def _follow(self):
        while not self._following.wait(0.02):
            # While the server is away, kube-proxy keeps what it knew.
            try:
                self._endpoints = self._cluster.endpoints(self._service) or self._endpoints
            except (OSError, AssertionError):
                continue

    def under_way(self, count=20):
        """Waits for so many more answers."""
        first = len(self.outcomes)
        eventually(f"{count} requests", lambda: len(self.outcomes) >= first + count, 1)
        return self

    def close(self):
        self._following.set()
        if not self._stopping.is_set():
            self.stop()

    def finish(self):
        """All outcomes; none has failed."""
        outcomes = self.stop()
        self._following.set()
        failed = [f"{o.began:.3f} {o.failure}" for o in outcomes if o.failure]
        assert not failed, f"{len(failed)} of {len(outcomes)} failed: {failed[:5]}"
        return outcomes


def between(outcomes, start, end=None):
    """Who answered requests that began after the one time and were answered before the other, with how often."""
    counts = {}
    for outcome in outcomes:
        if outcome.began >= start and (end is None or outcome.began + outcome.took <= end):
            name = (outcome.answer or "failed").strip()
            counts[name] = counts.get(name, 0) + 1
    return counts


def now():
    return time.monotonic()
