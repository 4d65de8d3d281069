"""Stands in the place of kl-sidecar: for one of the services it is a sidecar that floods its workspace, for the others the real one.

A folder with a copy of `kl` and this as `kl-sidecar` makes an environment in which one sidecar is hostile.
"""

import json
import os
import pathlib
import shutil
import stat
import sys

TEXT = """#!{python} -B
import sys
sys.path.insert(0, {here!r})
from harness.loud_sidecar import main
main({real!r}, {port!r}, {said!r}, {report!r})
"""
AT_ONCE = 1 << 18


def make_folder(folder, binaries, port, said, report):
    """Programs of which a sidecar in front of `port` says `said` again and again, and writes down what it hears."""
    folder.mkdir()
    for name in ("kl", "kl-workspace"):
        shutil.copy2(binaries / name, folder / name)
    script = folder / "kl-sidecar"
    here = str(pathlib.Path(__file__).parents[1])
    words = {"python": sys.executable, "here": here, "real": str(binaries / "kl-sidecar")}
    script.write_text(TEXT.format(**words, port=port, said=said, report=str(report)))
    script.chmod(script.stat().st_mode | stat.S_IXUSR | stat.S_IRUSR)
    return folder


def main(real, port, said, report):
    ports = [word.split(":")[0] for before, word in zip(sys.argv, sys.argv[1:]) if before == "--service-port"]
    if str(port) not in ports:
        os.execv(real, [real, *sys.argv[1:]])
    flood(said, pathlib.Path(report))


def flood(said, report):
    import signal
    import socket
    import struct
    import threading
    import time

    from peer.handshake import NO_PSK, as_text, generate_key
    from peer.responder import Accepted, Sidecar

    ended, notified = threading.Event(), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    name = os.environ["NOTIFY_SOCKET"]

    def tell(text):
        notified.sendto(text.encode(), "\0" + name[1:] if name.startswith("@") else name)

    def reload(*_):
        tell(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1_000}")
        tell("READY=1")

    class Everybody(dict):
        def get(self, key):
            return self.setdefault(key, Accepted(NO_PSK))

    class Loud(Sidecar):
        starts = 0

        def take_start(self, connection, message):
            self.starts += 1
            super().take_start(connection, message)
            (key,) = self.peers
            tell(f"X_KL_DIVERTING={as_text(key)}")
            self.flooded = connection

        flooded = None

    signal.signal(signal.SIGHUP, reload)
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    # The environment has opened it, and keeps it.
    socket.create_server = lambda *_: socket.socket(fileno=3)
    # More than it could say in a while.
    sidecar = Loud(generate_key(), {}, max_data=1 << 30, max_stream_data=1 << 30)
    sidecar.peers = Everybody()
    tell("READY=1")
    ready = {"ready": True, "publicKey": as_text(sidecar.public), "tcp": "%s:%d" % sidecar.address}
    print(json.dumps(ready), flush=True)
    texts = [text.encode() for text in said]
    block = b"".join(struct.pack(">I", len(text)) + text for text in texts) * 200
    written, began = 0, None
    while not ended.wait(0.001):
        with sidecar.changed:
            connection = sidecar.flooded
            if connection and not connection.closed and not connection.closing:
                began = began or time.monotonic()
                sending = connection.streams[0].sending
                if len(sending.kept) < AT_ONCE:
                    sending.write(block)
                    written += len(block)
            sidecar.messages.clear()
        sidecar.wake()
        if began:
            took = time.monotonic() - began
            report.with_suffix(".new").write_text(
                json.dumps({"starts": sidecar.starts, "bytes": written, "took": took})
            )
            os.replace(report.with_suffix(".new"), report)
    sidecar.shut()
