"""HTTP requests, one by one or at a steady rate, each with an exact account of how it ended."""

import asyncio
import dataclasses
import socket
import threading
import time


@dataclasses.dataclass
class Outcome:
    """One request: who answered it, or why nobody did."""

    number: int
    began: float
    took: float = 0.0
    answer: str | None = None
    failure: str | None = None


def ask(address, timeout=30, path="/"):
    """One GET on a new connection; the body of the answer."""
    with socket.create_connection(address, timeout=timeout) as connection:
        connection.sendall(_request("GET", path, b""))
        data = bytearray()
        while part := connection.recv(1 << 16):
            data += part
    return _body(bytes(data))


def who(address, timeout=30):
    """Who answers, or None while nobody does."""
    try:
        return ask(address, timeout)
    except (OSError, ValueError):
        return None


class Load:
    """Requests at a steady rate, each on a connection of its own, whether or not the earlier ones were answered.

    With `body`, they are POSTs whose path is the request's number.
    """

    def __init__(self, address, per_second, body=b"", timeout=60):
        self.address, self.per_second, self.body, self.timeout = address, per_second, body, timeout
        self.outcomes = []
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)
        self._thread.start()

    def stop(self):
        """Ends the load, waits for the requests under way, and returns all outcomes in the order of their begin."""
        self._stopping.set()
        self._thread.join(self.timeout + 10)
        assert not self._thread.is_alive(), "requests neither ended nor timed out"
        return sorted(self.outcomes, key=lambda outcome: outcome.began)

    async def _run(self):
        start, tasks = time.monotonic(), set()
        number = 0
        while not self._stopping.is_set():
            task = asyncio.create_task(self._one(number))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            number += 1
            await asyncio.sleep(max(0, start + number / self.per_second - time.monotonic()))
        if tasks:
            await asyncio.wait(tasks)

    async def _one(self, number):
        outcome = Outcome(number, time.monotonic())
        try:
            async with asyncio.timeout(self.timeout):
                outcome.answer = await self._exchange(number)
        except TimeoutError:
            outcome.failure = "no answer"
        except (OSError, ValueError) as error:
            outcome.failure = f"{type(error).__name__}: {error}"
        outcome.took = time.monotonic() - outcome.began
        self.outcomes.append(outcome)

    async def _exchange(self, number):
        reader, writer = await asyncio.open_connection(*self.address)
        try:
            writer.write(_request("POST" if self.body else "GET", f"/{number}", self.body))
            return _body(await reader.read(-1))
        finally:
            writer.close()


def _request(method, path, body):
    head = f"{method} {path} HTTP/1.1\r\nHost: service\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def _body(data):
    """The body of a whole answer; anything less is an error."""
    head, found, body = data.partition(b"\r\n\r\n")
    if not found or not head.startswith(b"HTTP/1.1 200 "):
        raise ValueError(f"no answer but {data[:60]!r}")
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length" and int(value) != len(body):
            raise ValueError(f"{len(body)} bytes of {int(value)}")
    return body.decode()


def summary(outcomes):
    """Counts for a message: how many each server answered, how many failed and how."""
    counts = {}
    for outcome in outcomes:
        key = outcome.answer or f"failed ({outcome.failure})"
        counts[key] = counts.get(key, 0) + 1
    return ", ".join(f"{key}: {count}" for key, count in sorted(counts.items()))
