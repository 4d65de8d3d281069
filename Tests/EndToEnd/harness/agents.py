"""The two agents as a script uses them: flags in, one JSON line out."""

import json
import signal
import time

from .ports import address
from .processes import freeze_whole
from .waiting import note

# A start is expected to take a fraction of a second; an agent itself gives up after 10 s.
READY_DEADLINE = 30


class Agent:
    """A running agent that has said that it is ready."""

    def __init__(self, processes, name, arguments, **options):
        start = time.monotonic()
        self.process = processes.start(name, arguments, **options)
        self.ready = json.loads(self.process.first_line(READY_DEADLINE))
        note(f"{name}: from its start to its ready line", 1, time.monotonic() - start)

    @property
    def public_key(self):
        return self.ready["publicKey"]

    def kill(self):
        self.process.kill()

    def stop(self, deadline=30):
        return self.process.stop(deadline)

    def freeze(self):
        freeze_whole(self.process.pid)

    def thaw(self):
        self.process.signal(signal.SIGCONT)


class Sidecar(Agent):
    def __init__(self, processes, binaries, arguments, **options):
        super().__init__(processes, "kl-sidecar", [binaries / "kl-sidecar", "run", *arguments], **options)

    @classmethod
    def started_by(cls, processes, command, **options):
        """One that another program starts."""
        sidecar = cls.__new__(cls)
        Agent.__init__(sidecar, processes, "kl-sidecar", command, **options)
        return sidecar

    @property
    def tunnel(self):
        """Host and port of its TCP carrier."""
        return split_address(self.ready["tcp"])


class Workspace(Agent):
    def __init__(self, processes, binaries, arguments, prefix=(), **options):
        super().__init__(processes, "kl-workspace", [*prefix, binaries / "kl-workspace", "run", *arguments], **options)


def split_address(text):
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)


def endpoint(public_key, host, port, carrier="tcp"):
    """A sidecar as kl-workspace is told it."""
    return f"{public_key}@{carrier}:{address(host, port)}"
