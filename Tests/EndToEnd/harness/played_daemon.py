"""A workspace daemon that only plays: it answers each request with the lines that a test gives it."""

import contextlib
import fcntl
import json
import socket
import threading

from .cli import in_folder

# A process number that no process has.
NOBODY = 1 << 30


class PlayedDaemon(threading.Thread):
    """As another program sees a daemon: its lock, its socket, its hello. `lines` has the replies by the request's name; None
    in place of a reply closes the connection."""

    def __init__(self, home, version):
        super().__init__(daemon=True)
        self.home, self.version = home, version
        self.lines, self.heard = {}, []
        self.lock = open(home / "daemon.lock", "w")
        fcntl.flock(self.lock, fcntl.LOCK_EX)
        (home / "daemon.sock").unlink(missing_ok=True)
        self.listener = socket.socket(socket.AF_UNIX)
        with in_folder(home) as name:
            self.listener.bind(f"{name}/daemon.sock")
        self.listener.listen()
        self.start()

    def run(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.talk, args=(connection,), daemon=True).start()

    def talk(self, connection):
        def say(message):
            connection.sendall(json.dumps(message).encode() + b"\n")

        with contextlib.suppress(OSError), connection, connection.makefile("r") as lines:
            say({"hello": {"version": self.version, "pid": NOBODY}})
            for line in lines:
                request = json.loads(line)
                self.heard.append(request)
                (name,) = request
                for reply in self.lines.get(name, [{"intercepts": {"_0": []}}]):
                    if reply is None:
                        return
                    say(reply)

    def close(self):
        (self.home / "daemon.sock").unlink(missing_ok=True)
        # A thread that waits in accept() isn't woken by close() alone.
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.lock.close()
