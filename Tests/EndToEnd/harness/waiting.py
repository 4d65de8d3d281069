"""Waiting for states. A time never decides a test: the deadline is ten times the aim, and what it took is told."""

import time

# (what, aim in seconds, seconds it took), in the order of happening; conftest.py prints them at the end.
measured = []


class NotSeen(AssertionError):
    """A state that should have come did not."""


def eventually(what, check, aim, pause=0.01):
    """Calls check until it returns something true, and returns that."""
    start = time.monotonic()
    while True:
        seen = check()
        took = time.monotonic() - start
        if seen:
            note(what, aim, took)
            return seen
        if took > 10 * aim:
            raise NotSeen(f"{what}: not within {10 * aim:g} s (aim: {aim:g} s)")
        time.sleep(pause)


def note(what, aim, took):
    measured.append((what, aim, took))
