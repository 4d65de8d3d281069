"""Faults that a test orders: of single answers, and of watches and exec streams that are open."""

import threading


class Fault:
    """What happens to requests that match; `times` of them, or all while it is there (None)."""

    def __init__(self, failure=None, *, delay=0, cut=False, times=None, **match):
        self.failure, self.delay, self.cut, self.times, self.match = failure, delay, cut, times, match
        self.hits = 0

    def matches(self, about):
        return all(about.get(key) == value for key, value in self.match.items())


class Faults:
    def __init__(self):
        self.lock = threading.Lock()
        self.ordered = []

    def add(self, failure=None, **options):
        """An answer's failure, from `failures`; or `delay` in seconds, or `cut`. For requests with this verb, resource,
        subresource, namespace, name or user; a watch's verb is `watch`, exec's subresource `exec`."""
        fault = Fault(failure, **options)
        with self.lock:
            self.ordered.append(fault)
        return fault

    def remove(self, fault):
        with self.lock:
            if fault in self.ordered:
                self.ordered.remove(fault)

    def clear(self):
        with self.lock:
            self.ordered.clear()

    def take(self, about):
        """The first one that this request meets."""
        with self.lock:
            for fault in self.ordered:
                if fault.matches(about) and (fault.times is None or fault.hits < fault.times):
                    fault.hits += 1
                    return fault
        return None


class Open:
    """A stream that is open: a watch, a log that is followed, or an exec."""

    def __init__(self, loop, exchange, about):
        self.exchange, self.about = exchange, about
        self._loop = loop
        # Asked by the one who serves it: to end as if its time were over.
        self.is_ending = False
        self.failure = None
        self.on_change = lambda: None

    def _do(self, what):
        self._loop.call_soon_threadsafe(what)

    def cut(self):
        """The connection breaks."""
        self._do(self.exchange.cut)

    def silence(self):
        """It stays open, and nothing comes any more."""
        self._do(lambda: setattr(self.exchange, "is_silent", True))

    def end(self, failure=None):
        """It ends cleanly; a watch with this failure as its last line."""

        def order():
            self.failure, self.is_ending = failure, True
            self.on_change()

        self._do(order)


class OpenStreams:
    def __init__(self):
        self.lock = threading.Lock()
        self._all = []

    def add(self, stream):
        with self.lock:
            self._all.append(stream)
        return stream

    def remove(self, stream):
        with self.lock:
            self._all.remove(stream)

    def find(self, **match):
        with self.lock:
            return [s for s in self._all if all(s.about.get(key) == value for key, value in match.items())]
